//! Why commands are refused, in Redis' own words wherever it has some.

use super::encode;
use super::parser::{Arguments, NAME_KEPT_MAX, Oversize};
use super::table::{CommandInfo, CommandName, NAME_SIZE_MAX};

/// Answer to AUTH on a node without passwords.
pub const NO_PASSWORD_SET: &str = "ERR AUTH <password> called without any password configured for the default user. \
     Are you sure your configuration is correct?";
/// Answer to AUTH, or HELLO with AUTH, with the wrong password.
pub const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

pub(super) const KEY_TOO_LONG: &str = "ERR key is longer than 65535 bytes: the command was not executed";

/// Why a command is refused. The connection goes on.
#[derive(Clone, Copy, Debug)]
pub enum Refusal<'a> {
    /// For a reason that needs no more words.
    Text(&'static str),
    /// There is no command of this name.
    UnknownCommand(Arguments<'a>),
    /// The container has no subcommand of this name.
    UnknownSubcommand(&'static CommandInfo, &'a [u8]),
    /// Too many or too few arguments.
    Arity(&'static CommandInfo),
    /// An option that does not exist: the text before it, the option, the text behind.
    Option(&'static str, &'a [u8], &'static str),
    /// A value is longer than so many bytes.
    ValueSize(usize),
    /// All of the command is larger than so many bytes.
    CommandSize(usize),
    /// It has more arguments than that.
    ArgumentCount(usize),
}

/// How large commands may be on this node, for texts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// The longest value, in bytes: `value_size_max`.
    pub value_max: usize,
    /// The largest command with its keys and values, in bytes.
    pub command_max: usize,
    /// The most arguments.
    pub argument_count_max: usize,
}

impl<'a> Refusal<'a> {
    /// Of a command that the parser dropped because of its size: `what` was too large, `name` is what is left of it.
    pub fn of_oversize(what: Oversize, name: Arguments<'a>, sizes: &Sizes) -> Self {
        let command = (!name.is_empty()).then(|| CommandName::find(name.get(0)));
        match (command, what) {
            (Some(None), _) => Self::UnknownCommand(name),
            (Some(Some(command)), Oversize::Argument(at)) if command.info().has_key_at(at as usize) => {
                Self::Text(KEY_TOO_LONG)
            }
            (_, Oversize::Argument(_)) => Self::ValueSize(sizes.value_max),
            (_, Oversize::Total) => Self::CommandSize(sizes.command_max),
            (_, Oversize::Count) => Self::ArgumentCount(sizes.argument_count_max),
        }
    }
}

impl Refusal<'_> {
    /// Appends the error reply, word for word as Redis has it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut line = |parts: &[&[u8]]| {
            out.push(b'-');
            for part in parts {
                encode::push_line(part, out);
            }
            out.extend_from_slice(b"\r\n");
        };
        match self {
            Self::Text(text) => line(&[text.as_bytes()]),
            Self::ValueSize(max) => line(&[
                b"ERR a value may have at most ",
                max.to_string().as_bytes(),
                b" bytes (value_size_max): the command was not executed",
            ]),
            Self::CommandSize(max) => line(&[
                b"ERR the command is too large in total: all its keys and values may have at most ",
                max.to_string().as_bytes(),
                b" bytes together (value_size_max, and room for a key); it was not executed",
            ]),
            Self::ArgumentCount(max) => line(&[
                b"ERR the command has too many arguments: at most ",
                max.to_string().as_bytes(),
                b"; it was not executed",
            ]),
            Self::Arity(info) => {
                line(&[b"ERR wrong number of arguments for '", info.name.as_bytes(), b"' command"]);
            }
            Self::Option(before, option, behind) => {
                line(&[before.as_bytes(), quoted(option), behind.as_bytes()]);
            }
            Self::UnknownSubcommand(container, name) => {
                let mut upper = [0; NAME_SIZE_MAX];
                let upper = &mut upper[..container.name.len()];
                upper.copy_from_slice(container.name.as_bytes());
                upper.make_ascii_uppercase();
                line(&[b"ERR unknown subcommand '", quoted(name), b"'. Try ", upper, b" HELP."]);
            }
            Self::UnknownCommand(arguments) => {
                out.extend_from_slice(b"-ERR unknown command '");
                encode::push_line(quoted(arguments.get(0)), out);
                out.extend_from_slice(b"', with args beginning with: ");
                let start = out.len();
                for argument in arguments.skip(1).iter() {
                    let used = out.len() - start;
                    if used >= QUOTED_SIZE_MAX {
                        break;
                    }
                    out.push(b'\'');
                    let shown = quoted(argument);
                    encode::push_line(&shown[..shown.len().min(QUOTED_SIZE_MAX - used)], out);
                    out.extend_from_slice(b"' ");
                }
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

/// How much of a client's own bytes an error text repeats.
const QUOTED_SIZE_MAX: usize = NAME_KEPT_MAX;

/// What an error text repeats of `bytes`; Redis prints them as a C string.
fn quoted(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end.min(QUOTED_SIZE_MAX)]
}
