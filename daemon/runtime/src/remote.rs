//! Commands for groups of another core, and their replies: collected during a turn, one parcel per core and turn.
//!
//! The bytes are those of the native client protocol behind a small prefix: one format, one validator.

use std::os::fd::OwnedFd;

use panch_replica::core::ReplyTo;
use panch_replica::replica::Level;
use panch_wire::client::{self, Answer, Operation, ReadLevel, ReplyView, RequestView, Terms};
use panch_wire::command::{Command, Reply};
use panch_wire::ids::{GroupId, Incarnation, ReplicaId};
use panch_wire::peer::Hello;

/// What one core hands to another.
pub(crate) enum Parcel {
    /// Commands of this core's clients for the other's groups: see [`push_request`].
    Requests(Vec<u8>),
    /// Replies to the other's requests: see [`push_reply`].
    Replies(Vec<u8>),
    /// A peer's stream whose sender speaks for the other's groups; its hello was accepted and not yet answered.
    PeerStream { stream: OwnedFd, hello: Hello },
    /// A message for a group of the other core, which arrived at this core.
    PeerMessage(Box<PeerMessage>),
    /// The node stops.
    Stop,
}

/// A message on its way between cores; its body is copied, frames belong to one core.
pub(crate) struct PeerMessage {
    pub(crate) from: ReplicaId,
    pub(crate) sender: Incarnation,
    pub(crate) receiver: Incarnation,
    pub(crate) group: GroupId,
    pub(crate) kind: u8,
    pub(crate) message: Vec<u8>,
    pub(crate) body: Option<Vec<u8>>,
}

const REQUEST_PREFIX: usize = 18;
const REPLY_PREFIX: usize = 8;

/// Appends a command.
pub(crate) fn push_request(
    out: &mut Vec<u8>,
    group: GroupId,
    command: &Command<'_>,
    level: Level,
    token: ReplyTo,
) {
    let session = command.session;
    out.extend_from_slice(&token.connection.to_le_bytes());
    out.extend_from_slice(&session.map_or(0, |header| header.session).to_le_bytes());
    out.extend_from_slice(&group.0.to_le_bytes());
    let request = RequestView {
        // With a session the request's number is the command's number: the native protocol has one for both.
        number: token.request,
        acked_below: session.map_or(0, |header| header.acked_below),
        level: match level {
            Level::Log => ReadLevel::Log,
            Level::Quorum => ReadLevel::Quorum,
        },
        ask_stages: false,
        operation: Operation::Command(*command),
    };
    client::write_request(&request, out);
}

/// A command from another core.
pub(crate) struct RemoteRequest<'a> {
    pub(crate) group: GroupId,
    pub(crate) command: Command<'a>,
    pub(crate) level: Level,
    pub(crate) token: ReplyTo,
}

/// The command at `at`, and where the next one starts.
pub(crate) fn request_at(bytes: &[u8], at: usize) -> Option<(RemoteRequest<'_>, usize)> {
    let prefix = bytes.get(at..at + REQUEST_PREFIX)?;
    let word = |at: usize| u64::from_le_bytes(prefix[at..at + 8].try_into().expect("eight bytes"));
    let terms = Terms { session: word(8), request_size_max: u32::MAX };
    let (request, size) = client::parse_request(&bytes[at + REQUEST_PREFIX..], &terms).ok()??;
    let Operation::Command(command) = request.operation else { return None };
    let level = if request.level == ReadLevel::Log { Level::Log } else { Level::Quorum };
    let token = ReplyTo { connection: word(0), request: request.number };
    let group = GroupId(u16::from_le_bytes([prefix[16], prefix[17]]));
    Some((RemoteRequest { group, command, level, token }, at + REQUEST_PREFIX + size))
}

/// Appends a reply.
pub(crate) fn push_reply(out: &mut Vec<u8>, to: ReplyTo, reply: Reply<'_>) {
    out.extend_from_slice(&to.connection.to_le_bytes());
    client::write_reply(&ReplyView { number: to.request, stages: None, answer: reply.into() }, out);
}

/// The reply at `at`, and where the next one starts.
pub(crate) fn reply_at(bytes: &[u8], at: usize) -> Option<(ReplyTo, Reply<'_>, usize)> {
    let prefix = bytes.get(at..at + REPLY_PREFIX)?;
    let connection = u64::from_le_bytes(prefix.try_into().expect("eight bytes"));
    let (reply, size) = client::parse_reply(&bytes[at + REPLY_PREFIX..], u32::MAX).ok()??;
    let to = ReplyTo { connection, request: reply.number };
    let reply = match reply.answer {
        Answer::Ok | Answer::Pong => Reply::Ok,
        Answer::Nil => Reply::Nil,
        Answer::Int(value) => Reply::Int(value),
        Answer::Bytes(bytes) => Reply::Bytes(bytes),
        Answer::Array(items) => Reply::Array(items),
        Answer::Error(error) => Reply::Error(error),
        // Constant texts that the state machine answers with.
        Answer::Status("string") => Reply::Status("string"),
        Answer::Status(_) => Reply::Status("none"),
    };
    Some((to, reply, at + REPLY_PREFIX + size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use panch_wire::command::{CommandKind, SessionHeader};

    #[test]
    fn requests_and_replies_cross_as_they_were() {
        let mut bytes = Vec::new();
        let session = SessionHeader { session: 9, number: 4, acked_below: 2 };
        let tokens = [ReplyTo { connection: 77, request: 3 }, ReplyTo { connection: 1 << 60, request: 4 }];
        let commands = [
            Command { kind: CommandKind::Get, flags: 0, session: None, key: b"k", value: b"" },
            Command {
                kind: CommandKind::Set,
                flags: 1,
                session: Some(session),
                key: b"key",
                value: b"value",
            },
        ];
        for ((command, token), level) in commands.iter().zip(tokens).zip([Level::Quorum, Level::Log]) {
            push_request(&mut bytes, GroupId(5), command, level, token);
        }
        let (first, at) = request_at(&bytes, 0).unwrap();
        assert_eq!((first.command, first.token, first.level), (commands[0], tokens[0], Level::Quorum));
        let (second, at) = request_at(&bytes, at).unwrap();
        assert_eq!((second.command, second.token, second.level), (commands[1], tokens[1], Level::Log));
        assert_eq!((second.group, at), (GroupId(5), bytes.len()));

        let mut bytes = Vec::new();
        push_reply(&mut bytes, tokens[0], Reply::Bytes(b"value"));
        push_reply(&mut bytes, tokens[1], Reply::Status("string"));
        let (to, reply, at) = reply_at(&bytes, 0).unwrap();
        assert_eq!((to, reply), (tokens[0], Reply::Bytes(b"value")));
        let (to, reply, at) = reply_at(&bytes, at).unwrap();
        assert_eq!((to, reply, at), (tokens[1], Reply::Status("string"), bytes.len()));
    }
}
