//! From arguments to what is asked: data commands for a group, or something that the node answers itself.

use super::parser::{Arguments, parse_integer};
use super::query::{CommandQuery, keys_of, list_filter};
use super::refusal::{KEY_TOO_LONG, Refusal};
use super::table::{CommandName, Subcommand};
use crate::command::{Command, CommandKind, KEY_SIZE_MAX, flags, list};
use crate::slots::key_slot;

const SYNTAX: &str = "ERR syntax error";
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const NOT_A_SMALL_INTEGER: &str = "ERR value is out of range, value must between -2147483648 and 2147483647";
/// As Redis Cluster says it.
const OTHER_DATABASE: &str = "ERR SELECT is not allowed in cluster mode";
const NO_EXPIRY: &str = "ERR expiry is not supported (EX, PX, EXAT and PXAT)";
/// The only user there is. It has no password: any will do, as with Redis.
const DEFAULT_USER: &[u8] = b"default";
const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";
const BAD_LIBRARY_NAME: &str = "ERR lib-name cannot contain spaces, newlines or special characters.";
const BAD_LIBRARY_VERSION: &str = "ERR lib-ver cannot contain spaces, newlines or special characters.";

/// What a client asks, borrowed from the receive buffer and the scratch of [`translate`].
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// For the group that owns the key: see [`Routing`](crate::routing::Routing).
    Data(Command<'a>),
    /// How long a key will be there: the reply to the command, `Int` 1 or 0, becomes -1 (for ever) or -2 (there is no such key).
    TimeToLive(Command<'a>),
    /// Keys never expire, so that there is nothing to take from this one; answer 0.
    Persist,
    /// `PONG`, or the message.
    Ping(Option<&'a [u8]>),
    /// The message.
    Echo(&'a [u8]),
    /// Switch the protocol version, describe the node.
    Hello(HelloRequest<'a>),
    /// OK if [`is_user`], else [`WRONG_PASSWORD`](super::WRONG_PASSWORD); without a user
    /// [`NO_PASSWORD_SET`](super::NO_PASSWORD_SET).
    Authenticate(Option<&'a [u8]>),
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
    /// Count for INFO from here on; answer OK.
    ResetStatistics,
    /// How many keys, once what the connection asked for before is done.
    DbSize,
    /// How many other nodes have what the connection wrote before, for certain.
    Wait,
    /// The time of day.
    Time,
    /// What the node is to the cluster.
    Role,
    /// The subcommands of this one: [`write_help`](super::write_help) answers.
    Help(CommandName),
    /// About the cluster.
    Cluster(ClusterRequest),
    /// Reads of this connection may be stale from now on; answer OK.
    ReadOnly,
    /// They may not, again; answer OK.
    ReadWrite,
    /// Queue what follows; answer OK.
    Multi,
    /// Execute what is queued.
    Exec,
    /// Forget what is queued and what is watched; answer OK.
    Discard,
    /// Watch the keys that this command reads; answer OK.
    Watch(Command<'a>),
    /// Forget what is watched; answer OK.
    Unwatch,
}

/// The arguments of HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HelloRequest<'a> {
    /// 2 or 3; `None` to keep the version.
    pub version: Option<u8>,
    /// Who says so, with any password.
    pub user: Option<&'a [u8]>,
    /// The connection's new name.
    pub name: Option<&'a [u8]>,
}

impl HelloRequest<'_> {
    /// Whether it is granted. If not the answer is [`WRONG_PASSWORD`](super::WRONG_PASSWORD), and nothing else changes.
    pub fn is_granted(&self) -> bool {
        self.user.is_none_or(is_user)
    }
}

/// Whether there is a user of this name. None has a password.
pub fn is_user(name: &[u8]) -> bool {
    name == DEFAULT_USER
}

/// Whether a connection wants to hear replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Replies {
    /// It does.
    #[default]
    On,
    /// None at all.
    Off,
    /// None to its next command.
    Skip,
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
    /// Which replies it wants from here on; answer OK to [`Replies::On`] and nothing to the others.
    Replies(Replies),
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

/// Understands one command. `scratch` is reused storage for parts that are not in the receive buffer as they are needed;
/// its content is replaced.
///
/// # Errors
/// Answer with [`Refusal::write`].
///
/// # Panics
/// If there are no arguments: the parser never returns such a command.
pub fn translate<'a>(arguments: Arguments<'a>, scratch: &'a mut Vec<u8>) -> Result<Request<'a>, Refusal<'a>> {
    match CommandName::find(arguments.get(0)) {
        Some(name) => translate_named(name, arguments, scratch),
        None => Err(Refusal::UnknownCommand(arguments)),
    }
}

/// The same for a command whose name was found already.
///
/// # Errors
/// As [`translate`].
pub fn translate_named<'a>(
    name: CommandName,
    arguments: Arguments<'a>,
    scratch: &'a mut Vec<u8>,
) -> Result<Request<'a>, Refusal<'a>> {
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
            2 => Ok(Request::Authenticate(None)),
            3 => Ok(Request::Authenticate(Some(arguments.get(1)))),
            _ => Err(Refusal::Text(SYNTAX)),
        },
        Select => match parse_integer(arguments.get(1)) {
            Some(0) => Ok(Request::Accepted),
            Some(number) if i32::try_from(number).is_ok() => Err(Refusal::Text(OTHER_DATABASE)),
            Some(_) => Err(Refusal::Text(NOT_A_SMALL_INTEGER)),
            None => Err(Refusal::Text(NOT_AN_INTEGER)),
        },
        Quit => Ok(Request::Quit),
        Reset => Ok(Request::Reset),
        Info => Ok(Request::Info(arguments.skip(1))),
        DbSize => Ok(Request::DbSize),
        Time => Ok(Request::Time),
        Role => Ok(Request::Role),
        Wait => {
            parse_integer(arguments.get(1)).ok_or(Refusal::Text(NOT_AN_INTEGER))?;
            match parse_integer(arguments.get(2)) {
                Some(0..) => Ok(Request::Wait),
                Some(_) => Err(Refusal::Text("ERR timeout is negative")),
                None => Err(Refusal::Text("ERR timeout is not an integer or out of range")),
            }
        }
        Persist => Ok(Request::Persist),
        ReadOnly => Ok(Request::ReadOnly),
        ReadWrite => Ok(Request::ReadWrite),
        Multi => Ok(Request::Multi),
        Exec => Ok(Request::Exec),
        Discard => Ok(Request::Discard),
        Watch => Ok(Request::Watch(data(name, arguments, scratch)?)),
        Unwatch => Ok(Request::Unwatch),
        Command if arguments.len() == 1 => Ok(Request::Command(CommandQuery::All)),
        Client | Command | Config | Cluster => {
            let given = arguments.get(1);
            let (subcommand, info) =
                Subcommand::find(name, given).ok_or(Refusal::UnknownSubcommand(name.info(), given))?;
            if !info.takes(arguments.len()) {
                return Err(Refusal::Arity(info));
            }
            translate_subcommand(name, subcommand, arguments)
        }
        _ => {
            let command = data(name, arguments, scratch)?;
            debug_assert!(command.is_valid());
            let about_time = matches!(name, Ttl | PTtl | ExpireTime | PExpireTime);
            Ok(if about_time { Request::TimeToLive(command) } else { Request::Data(command) })
        }
    }
}

fn translate_subcommand<'a>(
    container: CommandName,
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
                name_or(value, BAD_LIBRARY_NAME)?;
                client(ClientRequest::SetLibraryName(value))
            } else if option.eq_ignore_ascii_case(b"lib-ver") {
                name_or(value, BAD_LIBRARY_VERSION)?;
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
        ClientReply => {
            let replies = match arguments.get(2).to_ascii_lowercase().as_slice() {
                b"on" => Replies::On,
                b"off" => Replies::Off,
                b"skip" => Replies::Skip,
                _ => return Err(Refusal::Text(SYNTAX)),
            };
            client(ClientRequest::Replies(replies))
        }
        ClientHelp | CommandHelp | ConfigHelp | ClusterHelp => Ok(Request::Help(container)),
        CommandCount => Ok(Request::Command(CommandQuery::Count)),
        CommandDocs => Ok(Request::Command(CommandQuery::Docs)),
        CommandList => {
            let filter = list_filter(arguments.skip(2)).ok_or(Refusal::Text(SYNTAX))?;
            Ok(Request::Command(CommandQuery::List(filter)))
        }
        CommandGetKeys => Ok(Request::Command(CommandQuery::Keys(keys_of(arguments.skip(2))?))),
        CommandInfos if arguments.len() == 2 => Ok(Request::Command(CommandQuery::All)),
        CommandInfos => Ok(Request::Command(CommandQuery::Info(arguments.skip(2)))),
        ConfigGet => Ok(Request::ConfigGet(arguments.skip(2))),
        ConfigResetStat => Ok(Request::ResetStatistics),
        ClusterSlots => cluster(ClusterRequest::Slots),
        ClusterShards => cluster(ClusterRequest::Shards),
        ClusterNodes => cluster(ClusterRequest::Nodes),
        ClusterInfo => cluster(ClusterRequest::Info),
        ClusterKeySlot => cluster(ClusterRequest::KeySlot(key_slot(arguments.get(2)))),
        ClusterMyId => cluster(ClusterRequest::MyId),
    }
}

/// The longest name of a client, its library or that one's version: a node keeps them for as long as the connection lasts.
const NAME_SIZE_MAX: usize = 1024;
const LONG_NAME: &str =
    "ERR Client names, and those of libraries and their versions, have at most 1024 bytes here";

/// A name, or else the refusal with that text.
fn name_or<'a>(name: &'a [u8], bad: &'static str) -> Result<&'a [u8], Refusal<'a>> {
    match name {
        name if name.len() > NAME_SIZE_MAX => Err(Refusal::Text(LONG_NAME)),
        name if name.iter().all(|byte| matches!(byte, b'!'..=b'~')) => Ok(name),
        _ => Err(Refusal::Text(bad)),
    }
}

fn client_name(name: &[u8]) -> Result<&[u8], Refusal<'_>> {
    name_or(name, BAD_NAME)
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
            request.user = Some(arguments.get(at + 1));
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
        CommandName::MGet
        | CommandName::Watch
        | CommandName::Exists
        | CommandName::Touch
        | CommandName::Ttl
        | CommandName::PTtl
        | CommandName::ExpireTime
        | CommandName::PExpireTime
        | CommandName::Del
        | CommandName::Unlink => {
            for argument in arguments.skip(1).iter() {
                list::push(scratch, key(argument)?);
            }
            let kind = match name {
                CommandName::MGet | CommandName::Watch => CommandKind::MGet,
                CommandName::Del | CommandName::Unlink => CommandKind::Del,
                _ => CommandKind::Exists,
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
        } else if is(b"keepttl") {
            // Nothing to keep: keys never expire.
        } else {
            let takes_time = is(b"ex") || is(b"px") || is(b"exat") || is(b"pxat");
            let expiry = takes_time && at + 1 < options.len();
            return Err(Refusal::Text(if expiry { NO_EXPIRY } else { SYNTAX }));
        }
        at += 1;
    }
    Ok(bits)
}
