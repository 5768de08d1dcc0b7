//! Commands for groups of another core, and their replies: collected during a turn, one parcel per core and turn.
//!
//! The bytes are those of the native client protocol behind a small prefix: one format, one validator.
//!
//! What a core has been given and has not taken in is bounded by a credit ([`OUTSTANDING_SIZE_MAX`]): the giver counts, the
//! taker says how much has left its [`Backlog`], and clients whose commands find no credit wait.

use std::os::fd::OwnedFd;

use panch_replica::batcher::Refusal;
use panch_replica::outbox::ReplyTo;
use panch_replica::replica::Level;
use panch_wire::client::{self, Answer, Commit, Operation, ReadLevel, ReplyView, RequestView, Terms};
use panch_wire::command::{Command, Reply};
use panch_wire::ids::{GroupId, Incarnation, ReplicaId};
use panch_wire::peer::Hello;

use crate::clients::submitted_level;

/// Bytes of commands given to one other core and not yet taken in by it, at which no more are given.
const OUTSTANDING_SIZE_MAX: usize = 4 << 20;

/// What one core hands to another.
pub(crate) enum Parcel {
    /// Commands of this core's clients for the other's groups: see [`push_request`].
    Requests(Vec<u8>),
    /// Replies to the other's requests: see [`push_reply`].
    Replies(Vec<u8>),
    /// So many bytes of the other's requests have been taken in.
    Taken(usize),
    /// A peer's stream whose sender speaks for the other's groups; its hello was accepted and not yet answered, which `answer` does.
    PeerStream { stream: OwnedFd, hello: Hello, answer: Vec<u8> },
    /// A message for a group of the other core, which arrived at this core.
    PeerMessage(Box<PeerMessage>),
    /// The node stops.
    Stop,
    /// The node stops, and no client of this core is owed a reply any more.
    Drained,
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

/// Commands for one other core: those that gather for the next parcel, and how much is on its way.
#[derive(Default)]
pub(crate) struct Forwarding {
    pub(crate) parcel: Vec<u8>,
    /// Bytes not yet reported as taken, those in `parcel` included.
    outstanding: usize,
}

impl Forwarding {
    /// Adds a command.
    pub(crate) fn push(
        &mut self,
        group: GroupId,
        command: &Command<'_>,
        level: Level,
        token: ReplyTo,
    ) -> Result<(), Refusal> {
        if self.outstanding > OUTSTANDING_SIZE_MAX {
            return Err(Refusal::Busy);
        }
        let before = self.parcel.len();
        push_request(&mut self.parcel, group, command, level, token);
        self.outstanding += self.parcel.len() - before;
        Ok(())
    }

    /// Adds a client's batch, which was found sound.
    pub(crate) fn push_batch(
        &mut self,
        group: GroupId,
        frame: &[u8],
        session: u64,
        connection: u64,
    ) -> Result<(), Refusal> {
        if self.outstanding > OUTSTANDING_SIZE_MAX {
            return Err(Refusal::Busy);
        }
        let before = self.parcel.len();
        push_prefix(&mut self.parcel, connection, session, group);
        let operation = Operation::Propose { group, frame };
        client::write_request(&request_of(0, 0, ReadLevel::Log, operation), &mut self.parcel);
        self.outstanding += self.parcel.len() - before;
        Ok(())
    }

    /// The other core has taken in so many bytes.
    pub(crate) fn taken(&mut self, size: usize) {
        self.outstanding -= size;
    }
}

/// Commands of other cores that found no room yet in this core's groups.
#[derive(Default)]
pub(crate) struct Backlog {
    parcels: Vec<Waiting>,
    /// By core: bytes taken in and not yet reported to it.
    taken: Vec<usize>,
}

struct Waiting {
    from: usize,
    bytes: Vec<u8>,
    /// Where to go on.
    at: usize,
}

impl Backlog {
    /// A backlog of the commands of `cores` cores.
    pub(crate) fn new(cores: usize) -> Self {
        Self { parcels: Vec::new(), taken: vec![0; cores] }
    }

    pub(crate) fn push(&mut self, from: usize, bytes: Vec<u8>) {
        self.parcels.push(Waiting { from, bytes, at: 0 });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    /// Hands commands to `submit` in their order until it is busy; true if any was taken in.
    pub(crate) fn drain(&mut self, mut submit: impl FnMut(RemoteRequest<'_>) -> Result<(), Refusal>) -> bool {
        let (mut progressed, mut busy) = (false, false);
        let taken = &mut self.taken;
        self.parcels.retain_mut(|Waiting { from, bytes, at }| {
            while !busy && let Some((request, next)) = request_at(bytes, *at) {
                busy = submit(request) == Err(Refusal::Busy);
                if !busy {
                    progressed = true;
                    *at = next;
                }
            }
            let done = !busy;
            if done {
                taken[*from] += bytes.len();
            }
            !done
        });
        progressed
    }

    /// Bytes taken in from `core` that it does not know of.
    pub(crate) fn taken_of(&mut self, core: usize) -> &mut usize {
        &mut self.taken[core]
    }

    /// Whether there is something to report to any core.
    pub(crate) fn has_taken(&self) -> bool {
        self.taken.iter().any(|size| *size > 0)
    }
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
    push_prefix(out, token.connection, session.map_or(0, |header| header.session), group);
    let level = match level {
        Level::Log => ReadLevel::Log,
        Level::Quorum => ReadLevel::Quorum,
        Level::Lease => ReadLevel::Lease,
    };
    // With a session the request's number is the command's number: the native protocol has one for both.
    let acked_below = session.map_or(0, |header| header.acked_below);
    client::write_request(&request_of(token.request, acked_below, level, Operation::Command(*command)), out);
}

fn push_prefix(out: &mut Vec<u8>, connection: u64, session: u64, group: GroupId) {
    out.extend_from_slice(&connection.to_le_bytes());
    out.extend_from_slice(&session.to_le_bytes());
    out.extend_from_slice(&group.0.to_le_bytes());
}

fn request_of(number: u64, acked_below: u64, level: ReadLevel, operation: Operation<'_>) -> RequestView<'_> {
    // Whether the client asks for its commit, the address of the reply says.
    RequestView { number, acked_below, level, ask_stages: false, ask_commit: false, operation }
}

/// A request from another core.
pub(crate) struct RemoteRequest<'a> {
    pub(crate) group: GroupId,
    pub(crate) token: ReplyTo,
    pub(crate) work: RemoteWork<'a>,
}

/// What it asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RemoteWork<'a> {
    Command(Command<'a>, Level),
    /// A client's own batch and its session.
    Batch(&'a [u8], u64),
}

/// The request at `at`, and where the next one starts.
pub(crate) fn request_at(bytes: &[u8], at: usize) -> Option<(RemoteRequest<'_>, usize)> {
    let prefix = bytes.get(at..at + REQUEST_PREFIX)?;
    let word = |at: usize| u64::from_le_bytes(prefix[at..at + 8].try_into().expect("eight bytes"));
    let session = word(8);
    let terms = Terms { session, request_size_max: u32::MAX };
    let (request, size) = client::parse_request(&bytes[at + REQUEST_PREFIX..], &terms).ok()??;
    let work = match request.operation {
        Operation::Command(command) => RemoteWork::Command(command, submitted_level(request.level)),
        Operation::Propose { frame, .. } => RemoteWork::Batch(frame, session),
        Operation::Ping | Operation::Invalid(_) => return None,
    };
    let token = ReplyTo { connection: word(0), request: request.number };
    let group = GroupId(u16::from_le_bytes([prefix[16], prefix[17]]));
    Some((RemoteRequest { group, token, work }, at + REQUEST_PREFIX + size))
}

/// Appends a reply.
pub(crate) fn push_reply(out: &mut Vec<u8>, to: ReplyTo, reply: Reply<'_>, commit: Option<&Commit>) {
    out.extend_from_slice(&to.connection.to_le_bytes());
    let commit = commit.copied();
    client::write_reply(&ReplyView { number: to.request, stages: None, commit, answer: reply.into() }, out);
}

/// A reply from another core.
pub(crate) struct RemoteReply<'a> {
    pub(crate) to: ReplyTo,
    pub(crate) reply: Reply<'a>,
    pub(crate) commit: Option<Commit>,
}

/// The reply at `at`, and where the next one starts.
pub(crate) fn reply_at(bytes: &[u8], at: usize) -> Option<(RemoteReply<'_>, usize)> {
    let prefix = bytes.get(at..at + REPLY_PREFIX)?;
    let connection = u64::from_le_bytes(prefix.try_into().expect("eight bytes"));
    let (view, size) = client::parse_reply(&bytes[at + REPLY_PREFIX..], u32::MAX).ok()??;
    let to = ReplyTo { connection, request: view.number };
    let reply = match view.answer {
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
    Some((RemoteReply { to, reply, commit: view.commit }, at + REPLY_PREFIX + size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use panch_wire::command::{CommandKind, SessionHeader};
    use panch_wire::ids::Position;

    fn get(value: &[u8]) -> Command<'_> {
        Command { kind: CommandKind::Set, flags: 0, session: None, key: b"k", value }
    }

    #[test]
    fn a_core_that_takes_nothing_is_given_no_more_than_its_credit() {
        let mut forwarding = Forwarding::default();
        let value = vec![0; 1 << 20];
        let push = |forwarding: &mut Forwarding| {
            forwarding.push(GroupId(1), &get(&value), Level::Log, ReplyTo { connection: 1, request: 1 })
        };
        let accepted = (0..10).take_while(|_| push(&mut forwarding).is_ok()).count();
        assert_eq!(accepted, 4);
        // That the parcel has left changes nothing; that it was taken in does.
        let parcel = std::mem::take(&mut forwarding.parcel);
        assert_eq!(push(&mut forwarding), Err(Refusal::Busy));
        forwarding.taken(parcel.len());
        assert_eq!(push(&mut forwarding), Ok(()));
    }

    #[test]
    fn a_backlog_keeps_order_and_reports_each_parcel_once_it_is_used_up() {
        let parcel = |numbers: &[u64]| {
            let mut bytes = Vec::new();
            for number in numbers {
                let token = ReplyTo { connection: 1, request: *number };
                push_request(&mut bytes, GroupId(0), &get(b"v"), Level::Log, token);
            }
            bytes
        };
        let (first, second) = (parcel(&[1, 2, 3]), parcel(&[4]));
        let mut backlog = Backlog::new(3);
        backlog.push(1, first.clone());
        backlog.push(2, second.clone());
        let (mut seen, mut room) = (Vec::new(), 2);
        let mut drain = |backlog: &mut Backlog, more: usize| {
            room = more;
            backlog.drain(|request| {
                if room == 0 {
                    return Err(Refusal::Busy);
                }
                room -= 1;
                seen.push(request.token.request);
                Ok(())
            })
        };
        assert!(drain(&mut backlog, 2));
        assert!(!backlog.has_taken(), "a parcel in use is not taken");
        assert!(!drain(&mut backlog, 0));
        assert!(drain(&mut backlog, 1));
        assert_eq!((*backlog.taken_of(1), *backlog.taken_of(2)), (first.len(), 0));
        assert!(drain(&mut backlog, 5));
        assert_eq!((*backlog.taken_of(1), *backlog.taken_of(2)), (first.len(), second.len()));
        assert!(backlog.is_empty());
        assert_eq!(seen, [1, 2, 3, 4]);
    }

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
        for ((command, token), level) in commands.iter().zip(tokens).zip([Level::Lease, Level::Log]) {
            push_request(&mut bytes, GroupId(5), command, level, token);
        }
        let mut forwarding = Forwarding { parcel: bytes, outstanding: 0 };
        forwarding.push_batch(GroupId(6), b"a frame", 9, 1 << 61).unwrap();
        let bytes = forwarding.parcel;
        let (first, at) = request_at(&bytes, 0).unwrap();
        assert_eq!((first.work, first.token), (RemoteWork::Command(commands[0], Level::Lease), tokens[0]));
        let (second, at) = request_at(&bytes, at).unwrap();
        assert_eq!((second.work, second.token), (RemoteWork::Command(commands[1], Level::Log), tokens[1]));
        let (third, at) = request_at(&bytes, at).unwrap();
        assert_eq!((third.work, third.token.connection), (RemoteWork::Batch(b"a frame", 9), 1 << 61));
        assert_eq!((second.group, third.group, at), (GroupId(5), GroupId(6), bytes.len()));

        let mut bytes = Vec::new();
        let commit = Commit { position: Position { row: 2, number: 5 }, stamp: 8 };
        push_reply(&mut bytes, tokens[0], Reply::Bytes(b"value"), None);
        push_reply(&mut bytes, tokens[1], Reply::Status("string"), Some(&commit));
        let (first, at) = reply_at(&bytes, 0).unwrap();
        assert_eq!((first.to, first.reply, first.commit), (tokens[0], Reply::Bytes(b"value"), None));
        let (second, at) = reply_at(&bytes, at).unwrap();
        assert_eq!((second.to, second.reply), (tokens[1], Reply::Status("string")));
        assert_eq!((second.commit, at), (Some(commit), bytes.len()));
    }
}
