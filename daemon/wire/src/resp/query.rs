//! What `COMMAND` says about commands. The answers are always the same, so they are written here.

use super::encode;
use super::glob::matches_glob;
use super::parser::Arguments;
use super::refusal::Refusal;
use super::table::{CommandInfo, CommandName, NAMES, SUBCOMMANDS, TABLE, flag};

/// What `COMMAND` asks.
#[derive(Clone, Copy, Debug)]
pub enum CommandQuery<'a> {
    /// Everything about every command.
    All,
    /// Everything about these.
    Info(Arguments<'a>),
    /// How many commands.
    Count,
    /// The documentation of commands: there is none, and every client accepts that.
    Docs,
    /// The names of commands, those of subcommands too.
    List(ListFilter<'a>),
    /// Which arguments of a command are its keys.
    Keys(KeysOf<'a>),
}

/// Whose names `COMMAND LIST` is asked for.
#[derive(Clone, Copy, Debug)]
pub enum ListFilter<'a> {
    /// Of all.
    All,
    /// Of those of a module: there is none.
    Module,
    /// Of those in this category of access control.
    Category(&'a [u8]),
    /// Of those whose name matches.
    Pattern(&'a [u8]),
}

/// A command with its arguments, their number right.
#[derive(Clone, Copy, Debug)]
pub struct KeysOf<'a> {
    info: &'static CommandInfo,
    arguments: Arguments<'a>,
}

/// The filter in what follows `COMMAND LIST`; `None` if it is none.
pub(super) fn list_filter(options: Arguments<'_>) -> Option<ListFilter<'_>> {
    if options.is_empty() {
        return Some(ListFilter::All);
    }
    if options.len() != 3 || !options.get(0).eq_ignore_ascii_case(b"filterby") {
        return None;
    }
    let (kind, of) = (options.get(1), options.get(2));
    match kind.to_ascii_lowercase().as_slice() {
        b"module" => Some(ListFilter::Module),
        b"aclcat" => Some(ListFilter::Category(of)),
        b"pattern" => Some(ListFilter::Pattern(of)),
        _ => None,
    }
}

/// The command in what follows `COMMAND GETKEYS`.
pub(super) fn keys_of(arguments: Arguments<'_>) -> Result<KeysOf<'_>, Refusal<'_>> {
    let name = CommandName::find(arguments.get(0)).ok_or(Refusal::Text("ERR Invalid command specified"))?;
    let info = name.info();
    if !info.has_keys() {
        return Err(Refusal::Text("ERR The command has no key arguments"));
    }
    if !info.takes(arguments.len()) {
        return Err(Refusal::Text("ERR Invalid number of arguments specified for command"));
    }
    Ok(KeysOf { info, arguments })
}

impl CommandQuery<'_> {
    /// Appends the answer.
    pub fn write(&self, resp3: bool, out: &mut Vec<u8>) {
        match self {
            Self::All => {
                encode::array(TABLE.len(), out);
                for name in NAMES {
                    write_info(*name, resp3, out);
                }
            }
            Self::Info(names) => {
                encode::array(names.len(), out);
                for name in names.iter() {
                    match CommandName::find(name) {
                        Some(name) => write_info(name, resp3, out),
                        None => encode::nil(resp3, out),
                    }
                }
            }
            Self::Count => encode::integer(TABLE.len() as i64, out),
            Self::Docs => encode::map(0, resp3, out),
            Self::List(filter) => {
                let listed = || everything().filter(|(top, info)| filter.admits(*top, info));
                encode::array(listed().count(), out);
                for (_, info) in listed() {
                    encode::bulk(info.name.as_bytes(), out);
                }
            }
            Self::Keys(KeysOf { info, arguments }) => {
                let keys = || arguments.iter().enumerate().filter(|(at, _)| info.has_key_at(*at));
                encode::array(keys().count(), out);
                for (_, key) in keys() {
                    encode::bulk(key, out);
                }
            }
        }
    }
}

/// Every command and subcommand, with the command that it is or is part of.
fn everything() -> impl Iterator<Item = (CommandName, &'static CommandInfo)> {
    let commands = NAMES.iter().map(|name| (*name, name.info()));
    commands.chain(SUBCOMMANDS.iter().map(|(_, container, info)| (*container, info)))
}

impl ListFilter<'_> {
    fn admits(&self, top: CommandName, info: &CommandInfo) -> bool {
        match self {
            Self::All => true,
            Self::Module => false,
            Self::Pattern(pattern) => matches_glob(pattern, info.name.as_bytes()),
            Self::Category(category) => is_in(top, info, category),
        }
    }
}

/// Whether a command, which is `top` or a subcommand of it, is in a category of access control. Redis' own assignment.
fn is_in(top: CommandName, info: &CommandInfo, category: &[u8]) -> bool {
    use CommandName::*;
    let has = |bits: u16| info.flags & bits != 0;
    let is_subcommand = info.name != top.info().name;
    match category.to_ascii_lowercase().as_slice() {
        b"write" => has(flag::WRITE),
        b"read" => has(flag::READONLY),
        b"fast" => has(flag::FAST),
        b"slow" => !has(flag::FAST),
        b"keyspace" => {
            let about_time = matches!(top, Ttl | PTtl | ExpireTime | PExpireTime | Persist);
            about_time || matches!(top, Del | Unlink | Exists | Touch | Type | DbSize)
        }
        b"string" => info.has_keys() && !is_in(top, info, b"keyspace") && !is_in(top, info, b"transaction"),
        b"transaction" => matches!(top, Multi | Exec | Discard | Watch | Unwatch),
        b"connection" => {
            let own = matches!(top, Ping | Echo | Hello | Auth | Select | Quit | Reset | Command | Wait);
            own || matches!(top, ReadOnly | ReadWrite) || (top == Client && is_subcommand)
        }
        b"dangerous" => top == Info || is_in(top, info, b"admin"),
        b"admin" => {
            let of_connections = ["client|list", "client|no-evict"].contains(&info.name);
            top == Role || of_connections || ["config|get", "config|resetstat"].contains(&info.name)
        }
        _ => false,
    }
}

fn write_info(name: CommandName, resp3: bool, out: &mut Vec<u8>) {
    write_fields(name.info(), resp3, out);
    let subcommands = || SUBCOMMANDS.iter().filter(|(_, container, _)| *container == name);
    encode::array(subcommands().count(), out);
    for (_, _, info) in subcommands() {
        write_fields(info, resp3, out);
        encode::array(0, out);
    }
}

/// All of the ten fields but the last, the subcommands.
fn write_fields(info: &CommandInfo, resp3: bool, out: &mut Vec<u8>) {
    encode::array(10, out);
    encode::bulk(info.name.as_bytes(), out);
    encode::integer(i64::from(info.arity), out);
    encode::set(info.flags.count_ones() as usize, resp3, out);
    for (bit, name) in flag::NAMES.iter().enumerate() {
        if info.flags & (1 << bit) != 0 {
            encode::simple(name, out);
        }
    }
    for position in [info.first_key, info.last_key, info.key_step] {
        encode::integer(i64::from(position), out);
    }
    // Access control categories, tips and key specifications: the positions above say all there is.
    encode::set(0, resp3, out);
    encode::array(0, out);
    encode::array(0, out);
}
