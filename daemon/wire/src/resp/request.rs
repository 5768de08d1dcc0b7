//! From arguments to what is asked: data commands for a group, or something that the node answers itself.

use super::encode;
use super::parser::{Arguments, parse_integer};
use super::table::{CommandInfo, CommandName, CommandQuery, NAME_SIZE_MAX, Subcommand};
use crate::command::{Command, CommandKind, KEY_SIZE_MAX, flags, list};
use crate::slots::key_slot;

/// Answer to AUTH on a node without passwords.
pub const NO_PASSWORD_SET: &str = "ERR AUTH <password> called without any password configured for the default user. \
     Are you sure your configuration is correct?";
/// Answer to AUTH, or HELLO with AUTH, with the wrong password.
pub const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

const SYNTAX: &str = "ERR syntax error";
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const NO_EXPIRY: &str = "ERR expiry is not supported (EX, PX, EXAT, PXAT and KEEPTTL)";
const KEY_TOO_LONG: &str = "ERR key is longer than 65535 bytes";
const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";
const BAD_LIBRARY_NAME: &str = "ERR lib-name cannot contain spaces, newlines or special characters.";
const BAD_LIBRARY_VERSION: &str = "ERR lib-ver cannot contain spaces, newlines or special characters.";

/// What a client asks, borrowed from the receive buffer and the scratch of [`translate`].
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// For the group that owns the key: see [`Routing`](crate::routing::Routing).
    Data(Command<'a>),
    /// `PONG`, or the message.
    Ping(Option<&'a [u8]>),
    /// The message.
    Echo(&'a [u8]),
    /// Switch the protocol version, describe the node.
    Hello(HelloRequest<'a>),
    /// See [`NO_PASSWORD_SET`] and [`WRONG_PASSWORD`].
    Authenticate {
        /// `None` for the default user.
        user: Option<&'a [u8]>,
        /// In clear.
        password: &'a [u8],
    },
    /// Harmless, and nothing to do: answer OK.
    Accepted,
    /// Answer OK, then close.
    Quit,
    /// Back to the state of a new connection; answer `+RESET`.
    Reset,
    /// About the connection.
    Client(ClientRequest<'a>),
    /// About commands: [`CommandQuery::write`] answers.
    Command(CommandQuery<'a>),
    /// About the node: the sections asked for, all if none.
    Info(Arguments<'a>),
    /// Settings whose name matches one of these patterns: see [`super::matches_glob`].
    ConfigGet(Arguments<'a>),
    /// How many keys.
    DbSize,
    /// About the cluster.
    Cluster(ClusterRequest),
    /// Reads of this connection may be stale from now on; answer OK.
    ReadOnly,
    /// They may not, again; answer OK.
    ReadWrite,
}

/// The arguments of HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HelloRequest<'a> {
    /// 2 or 3; `None` to keep the version.
    pub version: Option<u8>,
    /// User and password.
    pub credentials: Option<(&'a [u8], &'a [u8])>,
    /// The connection's new name.
    pub name: Option<&'a [u8]>,
}

/// CLIENT and its subcommands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientRequest<'a> {
    /// The connection's new name, empty for none; answer OK.
    SetName(&'a [u8]),
    /// The name, nil if there is none.
    Name,
    /// The client library's name; answer OK.
    SetLibraryName(&'a [u8]),
    /// The client library's version; answer OK.
    SetLibraryVersion(&'a [u8]),
    /// The connection's number.
    Id,
    /// One line about every connection.
    List,
    /// One line about this connection.
    Info,
}

/// CLUSTER and its subcommands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterRequest {
    /// Ranges of slots and their nodes.
    Slots,
    /// The same by node, as maps.
    Shards,
    /// The same as text.
    Nodes,
    /// The state of the cluster as text.
    Info,
    /// Answer this slot.
    KeySlot(u16),
    /// This node's name.
    MyId,
}

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
const QUOTED_SIZE_MAX: usize = 128;

/// What an error text repeats of `bytes`; Redis prints them as a C string.
fn quoted(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end.min(QUOTED_SIZE_MAX)]
}

/// Understands one command. `scratch` is reused storage for parts that are not in the receive buffer as they are needed;
/// its content is replaced.
///
/// # Errors
/// Answer with [`Refusal::write`].
///
/// # Panics
/// If there are no arguments: the parser never returns such a command.
pub fn translate<'a>(arguments: Arguments<'a>, scratch: &'a mut Vec<u8>) -> Result<Request<'a>, Refusal<'a>> {
    let Some(name) = CommandName::find(arguments.get(0)) else {
        return Err(Refusal::UnknownCommand(arguments));
    };
    if !name.info().takes(arguments.len()) {
        return Err(Refusal::Arity(name.info()));
    }
    use CommandName::*;
    match name {
        Ping => match arguments.len() {
            1 => Ok(Request::Ping(None)),
            2 => Ok(Request::Ping(Some(arguments.get(1)))),
            _ => Err(Refusal::Arity(name.info())),
        },
        Echo => Ok(Request::Echo(arguments.get(1))),
        Hello => hello(arguments),
        Auth => match arguments.len() {
            2 => Ok(Request::Authenticate { user: None, password: arguments.get(1) }),
            3 => Ok(Request::Authenticate { user: Some(arguments.get(1)), password: arguments.get(2) }),
            _ => Err(Refusal::Text(SYNTAX)),
        },
        Select => match parse_integer(arguments.get(1)) {
            Some(0) => Ok(Request::Accepted),
            Some(number) if i32::try_from(number).is_ok() => {
                Err(Refusal::Text("ERR DB index is out of range"))
            }
            _ => Err(Refusal::Text(NOT_AN_INTEGER)),
        },
        Quit => Ok(Request::Quit),
        Reset => Ok(Request::Reset),
        Info => Ok(Request::Info(arguments.skip(1))),
        DbSize => Ok(Request::DbSize),
        ReadOnly => Ok(Request::ReadOnly),
        ReadWrite => Ok(Request::ReadWrite),
        Command if arguments.len() == 1 => Ok(Request::Command(CommandQuery::All)),
        Client | Command | Config | Cluster => {
            let given = arguments.get(1);
            let (subcommand, info) =
                Subcommand::find(name, given).ok_or(Refusal::UnknownSubcommand(name.info(), given))?;
            if !info.takes(arguments.len()) {
                return Err(Refusal::Arity(info));
            }
            translate_subcommand(subcommand, arguments)
        }
        _ => {
            let command = data(name, arguments, scratch)?;
            debug_assert!(command.is_valid());
            Ok(Request::Data(command))
        }
    }
}

fn translate_subcommand<'a>(
    subcommand: Subcommand,
    arguments: Arguments<'a>,
) -> Result<Request<'a>, Refusal<'a>> {
    use Subcommand::*;
    let client = |request| Ok(Request::Client(request));
    let cluster = |request| Ok(Request::Cluster(request));
    match subcommand {
        ClientSetName => client(ClientRequest::SetName(client_name(arguments.get(2))?)),
        ClientGetName => client(ClientRequest::Name),
        ClientSetInfo => {
            let (option, value) = (arguments.get(2), arguments.get(3));
            if option.eq_ignore_ascii_case(b"lib-name") {
                is_name(value).then_some(()).ok_or(Refusal::Text(BAD_LIBRARY_NAME))?;
                client(ClientRequest::SetLibraryName(value))
            } else if option.eq_ignore_ascii_case(b"lib-ver") {
                is_name(value).then_some(()).ok_or(Refusal::Text(BAD_LIBRARY_VERSION))?;
                client(ClientRequest::SetLibraryVersion(value))
            } else {
                Err(Refusal::Option("ERR Unrecognized option '", option, "'"))
            }
        }
        ClientId => client(ClientRequest::Id),
        ClientInfo => client(ClientRequest::Info),
        ClientList => match arguments.len() {
            2 => client(ClientRequest::List),
            4 if arguments.get(2).eq_ignore_ascii_case(b"type") => {
                if arguments.get(3).eq_ignore_ascii_case(b"normal") {
                    client(ClientRequest::List)
                } else {
                    Err(Refusal::Option("ERR Unknown client type '", arguments.get(3), "'"))
                }
            }
            _ => Err(Refusal::Text(SYNTAX)),
        },
        ClientNoEvict | ClientNoTouch => {
            let switch = arguments.get(2);
            let known = switch.eq_ignore_ascii_case(b"on") || switch.eq_ignore_ascii_case(b"off");
            if known { Ok(Request::Accepted) } else { Err(Refusal::Text(SYNTAX)) }
        }
        CommandCount => Ok(Request::Command(CommandQuery::Count)),
        CommandDocs => Ok(Request::Command(CommandQuery::Docs)),
        CommandList => Ok(Request::Command(CommandQuery::List)),
        CommandInfos if arguments.len() == 2 => Ok(Request::Command(CommandQuery::All)),
        CommandInfos => Ok(Request::Command(CommandQuery::Info(arguments.skip(2)))),
        ConfigGet => Ok(Request::ConfigGet(arguments.skip(2))),
        ClusterSlots => cluster(ClusterRequest::Slots),
        ClusterShards => cluster(ClusterRequest::Shards),
        ClusterNodes => cluster(ClusterRequest::Nodes),
        ClusterInfo => cluster(ClusterRequest::Info),
        ClusterKeySlot => cluster(ClusterRequest::KeySlot(key_slot(arguments.get(2)))),
        ClusterMyId => cluster(ClusterRequest::MyId),
    }
}

fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| matches!(byte, b'!'..=b'~'))
}

fn client_name(name: &[u8]) -> Result<&[u8], Refusal<'_>> {
    if is_name(name) { Ok(name) } else { Err(Refusal::Text(BAD_NAME)) }
}

fn hello(arguments: Arguments<'_>) -> Result<Request<'_>, Refusal<'_>> {
    let mut request = HelloRequest::default();
    if arguments.len() > 1 {
        request.version = match parse_integer(arguments.get(1)) {
            Some(2) => Some(2),
            Some(3) => Some(3),
            Some(_) => return Err(Refusal::Text("NOPROTO unsupported protocol version")),
            None => return Err(Refusal::Text("ERR Protocol version is not an integer or out of range")),
        };
    }
    let mut at = 2;
    while at < arguments.len() {
        let option = arguments.get(at);
        if option.eq_ignore_ascii_case(b"auth") && at + 2 < arguments.len() {
            request.credentials = Some((arguments.get(at + 1), arguments.get(at + 2)));
            at += 3;
        } else if option.eq_ignore_ascii_case(b"setname") && at + 1 < arguments.len() {
            request.name = Some(client_name(arguments.get(at + 1))?);
            at += 2;
        } else {
            return Err(Refusal::Option("ERR Syntax error in HELLO option '", option, "'"));
        }
    }
    Ok(Request::Hello(request))
}

fn key(bytes: &[u8]) -> Result<&[u8], Refusal<'_>> {
    if bytes.len() <= KEY_SIZE_MAX { Ok(bytes) } else { Err(Refusal::Text(KEY_TOO_LONG)) }
}

/// A command on data: its arity is right.
fn data<'a>(
    name: CommandName,
    arguments: Arguments<'a>,
    scratch: &'a mut Vec<u8>,
) -> Result<Command<'a>, Refusal<'a>> {
    let first = key(arguments.get(1))?;
    let command = |kind, value| Command { kind, flags: 0, session: None, key: first, value };
    scratch.clear();
    let increment = match name {
        CommandName::Get => return Ok(command(CommandKind::Get, &[])),
        CommandName::GetDel => return Ok(command(CommandKind::GetDel, &[])),
        CommandName::StrLen => return Ok(command(CommandKind::StrLen, &[])),
        CommandName::Type => return Ok(command(CommandKind::Type, &[])),
        CommandName::SetNx => return Ok(command(CommandKind::SetNx, arguments.get(2))),
        CommandName::GetSet => return Ok(command(CommandKind::GetSet, arguments.get(2))),
        CommandName::Append => return Ok(command(CommandKind::Append, arguments.get(2))),
        CommandName::Set => {
            let flags = set_flags(arguments.skip(3))?;
            return Ok(Command { flags, ..command(CommandKind::Set, arguments.get(2)) });
        }
        CommandName::MGet | CommandName::Exists | CommandName::Del | CommandName::Unlink => {
            for argument in arguments.skip(1).iter() {
                list::push(scratch, key(argument)?);
            }
            let kind = match name {
                CommandName::MGet => CommandKind::MGet,
                CommandName::Exists => CommandKind::Exists,
                _ => CommandKind::Del,
            };
            return Ok(command(kind, scratch));
        }
        CommandName::MSet | CommandName::MSetNx => {
            if arguments.len().is_multiple_of(2) {
                return Err(Refusal::Arity(name.info()));
            }
            for (index, argument) in arguments.skip(1).iter().enumerate() {
                list::push(scratch, if index % 2 == 0 { key(argument)? } else { argument });
            }
            let flags = if name == CommandName::MSetNx { flags::IF_ABSENT } else { 0 };
            return Ok(Command { flags, ..command(CommandKind::MSet, scratch) });
        }
        CommandName::Incr => 1,
        CommandName::Decr => -1,
        CommandName::IncrBy => parse_integer(arguments.get(2)).ok_or(Refusal::Text(NOT_AN_INTEGER))?,
        CommandName::DecrBy => parse_integer(arguments.get(2))
            .ok_or(Refusal::Text(NOT_AN_INTEGER))?
            .checked_neg()
            .ok_or(Refusal::Text("ERR decrement would overflow"))?,
        _ => unreachable!("translate handles the other commands"),
    };
    scratch.extend_from_slice(&increment.to_le_bytes());
    Ok(command(CommandKind::IncrBy, scratch))
}

/// What follows key and value of SET.
fn set_flags(options: Arguments<'_>) -> Result<u8, Refusal<'_>> {
    let mut bits = 0;
    let mut at = 0;
    while at < options.len() {
        let option = options.get(at);
        let is = |text: &[u8]| option.eq_ignore_ascii_case(text);
        if is(b"nx") && bits & flags::IF_PRESENT == 0 {
            bits |= flags::IF_ABSENT;
        } else if is(b"xx") && bits & flags::IF_ABSENT == 0 {
            bits |= flags::IF_PRESENT;
        } else if is(b"get") {
            bits |= flags::RETURN_OLD;
        } else {
            let takes_time = is(b"ex") || is(b"px") || is(b"exat") || is(b"pxat");
            let expiry = is(b"keepttl") || (takes_time && at + 1 < options.len());
            return Err(Refusal::Text(if expiry { NO_EXPIRY } else { SYNTAX }));
        }
        at += 1;
    }
    Ok(bits)
}
