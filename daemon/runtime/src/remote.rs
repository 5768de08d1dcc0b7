//! Commands for groups of another core, and their replies: collected during a turn, one parcel per core and turn.
//!
//! The bytes are those of the native client protocol behind a small prefix: one format, one validator.
//!
//! What a core has been given and has not taken in is bounded by a credit ([`OUTSTANDING_SIZE_MAX`]): the giver counts, the
//! taker says how much has left its [`Backlog`], and clients whose commands find no credit wait.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use panch_replica::batcher::Refusal;
use panch_replica::outbox::ReplyTo;
use panch_replica::replica::Level;
use panch_wire::client::{self, Answer, Commit, Operation, ReadLevel, ReplyView, RequestView, Terms};
use panch_wire::command::{Command, Reply};
use panch_wire::ids::{GroupId, Incarnation, ReplicaId};
use panch_wire::peer::Hello;
use panch_wire::reply;
use panch_wire::time::Instant;

use crate::clients::submitted_level;

/// Bytes of commands given to one other core and not yet taken in by it, at which no more are given.
const OUTSTANDING_SIZE_MAX: usize = 4 << 20;

/// What one core hands to another.
pub(crate) enum Parcel {
    /// Commands of this core's clients for the other's groups.
    Requests(Requests),
    /// Replies to the other's requests, see [`Replies`].
    Replies(Vec<u8>),
    /// So many bytes of the other's requests have been taken in.
    Taken(usize),
    /// A peer's stream whose sender speaks for the other's groups; its hello was accepted and not yet answered, which `answer` does.
    PeerStream { stream: OwnedFd, hello: Hello, answer: Vec<u8> },
    /// A message for a group of the other core, which arrived at this core.
    PeerMessage(Box<PeerMessage>),
    /// A client of the sender wants to know who is connected to this core.
    ListClients(ReplyTo),
    /// The lines of the sender's clients for that.
    Clients(ReplyTo, String),
    /// The node stops.
    Stop,
    /// The node stops, and no client of this core is owed a reply any more.
    Drained,
}

/// An answer to a client that every core has a part in.
pub(crate) struct Gathering {
    pub(crate) to: ReplyTo,
    /// What is there of it.
    pub(crate) text: String,
    /// So many cores have not said theirs.
    pub(crate) missing: usize,
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

/// Commands on their way between cores.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Requests {
    /// See [`push_request`].
    bytes: Vec<u8>,
    /// When the one that has the least time left arrived at the node.
    first_arrived: Option<Instant>,
}

impl Requests {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn note_arrival(&mut self, arrived: Instant) {
        self.first_arrived = Some(self.first_arrived.map_or(arrived, |first| first.min(arrived)));
    }
}

/// Commands for one other core: those that gather for the next parcel, and how much is on its way.
#[derive(Default)]
pub(crate) struct Forwarding {
    pub(crate) requests: Requests,
    /// Bytes not yet reported as taken, those in `requests` included.
    outstanding: usize,
}

impl Forwarding {
    /// Adds a command that arrived then.
    pub(crate) fn push(
        &mut self,
        arrived: Instant,
        group: GroupId,
        command: &Command<'_>,
        level: Level,
        token: ReplyTo,
    ) -> Result<(), Refusal> {
        if self.outstanding > OUTSTANDING_SIZE_MAX {
            return Err(Refusal::Busy);
        }
        let before = self.requests.bytes.len();
        push_request(&mut self.requests.bytes, arrived, group, command, level, token);
        self.requests.note_arrival(arrived);
        self.outstanding += self.requests.bytes.len() - before;
        Ok(())
    }

    /// Adds a client's batch that arrived then and was found sound.
    pub(crate) fn push_batch(
        &mut self,
        arrived: Instant,
        group: GroupId,
        frame: &[u8],
        session: u64,
        connection: u64,
    ) -> Result<(), Refusal> {
        if self.outstanding > OUTSTANDING_SIZE_MAX {
            return Err(Refusal::Busy);
        }
        let bytes = &mut self.requests.bytes;
        let before = bytes.len();
        push_prefix(bytes, arrived, connection, session, group);
        let operation = Operation::Propose { group, frame };
        client::write_request(&request_of(0, 0, ReadLevel::Log, operation), bytes);
        self.outstanding += bytes.len() - before;
        self.requests.note_arrival(arrived);
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
    requests: Requests,
    /// Where to go on.
    at: usize,
}

impl Backlog {
    /// A backlog of the commands of `cores` cores.
    pub(crate) fn new(cores: usize) -> Self {
        Self { parcels: Vec::new(), taken: vec![0; cores] }
    }

    pub(crate) fn push(&mut self, from: usize, requests: Requests) {
        self.parcels.push(Waiting { from, requests, at: 0 });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    /// Hands commands to `work` in their order until it is busy; true if it is done with any. It is told of those that arrived before `limit`
    /// that they are late and to be refused. Behind a busy one nothing is submitted, but what is late is refused there too, with whatever
    /// stands before it in the same parcel: a parcel is of one turn.
    pub(crate) fn drain(
        &mut self,
        limit: Instant,
        mut work: impl FnMut(RemoteRequest<'_>, bool) -> Result<(), Refusal>,
    ) -> bool {
        let (mut progressed, mut busy) = (false, false);
        let taken = &mut self.taken;
        self.parcels.retain_mut(|Waiting { from, requests, at }| {
            let holds_late = requests.first_arrived.is_some_and(|arrived| arrived <= limit);
            while let Some((request, next)) = request_at(&requests.bytes, *at) {
                let is_late = request.arrived <= limit || (busy && holds_late);
                if busy && !is_late {
                    return true;
                }
                if work(request, is_late).is_err() {
                    assert!(!busy, "what is late is refused whatever the room");
                    busy = true;
                } else {
                    progressed = true;
                    *at = next;
                }
            }
            taken[*from] += requests.bytes.len();
            false
        });
        progressed
    }

    /// When the one that has the least time left arrived.
    pub(crate) fn first_arrived(&self) -> Option<Instant> {
        self.parcels.iter().filter_map(|waiting| waiting.requests.first_arrived).min()
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

/// Bytes of replies in one parcel, so that none has to grow by much; one reply may be longer.
const REPLIES_SIZE_MAX: usize = 256 << 10;

/// Replies for the clients of another core, in the parcels in which they will leave.
#[derive(Default)]
pub(crate) struct Replies(VecDeque<Vec<u8>>);

impl Replies {
    /// Adds one.
    pub(crate) fn push(&mut self, to: ReplyTo, reply: Reply<'_>, commit: Option<&Commit>) {
        let size = reply::size(&reply) + REPLY_SIZE;
        if self.0.back().is_none_or(|parcel| parcel.len() + size > REPLIES_SIZE_MAX) {
            // A long one has a parcel of its size.
            let capacity = if size > REPLIES_SIZE_MAX { size } else { 0 };
            self.0.push_back(Vec::with_capacity(capacity));
        }
        push_reply(self.0.back_mut().expect("there is one"), to, reply, commit);
    }

    /// Hands the parcels to `send` in their order until it gives one back.
    pub(crate) fn send(&mut self, mut send: impl FnMut(Vec<u8>) -> Result<(), Vec<u8>>) {
        while let Some(parcel) = self.0.pop_front() {
            if let Err(unsent) = send(parcel) {
                return self.0.push_front(unsent);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a reply takes in a parcel beside what it says.
const REPLY_SIZE: usize = 128;
const REQUEST_PREFIX: usize = 26;
const REPLY_PREFIX: usize = 8;

/// Appends a command that arrived then.
pub(crate) fn push_request(
    out: &mut Vec<u8>,
    arrived: Instant,
    group: GroupId,
    command: &Command<'_>,
    level: Level,
    token: ReplyTo,
) {
    let session = command.session;
    push_prefix(out, arrived, token.connection, session.map_or(0, |header| header.session), group);
    let level = match level {
        Level::Log => ReadLevel::Log,
        Level::Quorum => ReadLevel::Quorum,
        Level::Lease => ReadLevel::Lease,
    };
    // With a session the request's number is the command's number: the native protocol has one for both.
    let acked_below = session.map_or(0, |header| header.acked_below);
    client::write_request(&request_of(token.request, acked_below, level, Operation::Command(*command)), out);
}

fn push_prefix(out: &mut Vec<u8>, arrived: Instant, connection: u64, session: u64, group: GroupId) {
    out.extend_from_slice(&connection.to_le_bytes());
    out.extend_from_slice(&session.to_le_bytes());
    out.extend_from_slice(&arrived.0.to_le_bytes());
    out.extend_from_slice(&group.0.to_le_bytes());
}

fn request_of(number: u64, acked_below: u64, level: ReadLevel, operation: Operation<'_>) -> RequestView<'_> {
    // Whether the client asks for its commit, the address of the reply says.
    RequestView { number, acked_below, level, ask_stages: false, ask_commit: false, operation }
}

/// A request from another core.
pub(crate) struct RemoteRequest<'a> {
    pub(crate) arrived: Instant,
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
    let group = GroupId(u16::from_le_bytes([prefix[24], prefix[25]]));
    let arrived = Instant(word(16));
    Some((RemoteRequest { arrived, group, token, work }, at + REQUEST_PREFIX + size))
}

/// Appends a reply.
fn push_reply(out: &mut Vec<u8>, to: ReplyTo, reply: Reply<'_>, commit: Option<&Commit>) {
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
        Answer::Replies(items) => Reply::Replies(items),
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
            let token = ReplyTo { connection: 1, request: 1 };
            forwarding.push(Instant(1), GroupId(1), &get(&value), Level::Log, token)
        };
        let accepted = (0..10).take_while(|_| push(&mut forwarding).is_ok()).count();
        assert_eq!(accepted, 4);
        // That the parcel has left changes nothing; that it was taken in does.
        let parcel = std::mem::take(&mut forwarding.requests);
        assert_eq!(push(&mut forwarding), Err(Refusal::Busy));
        forwarding.taken(parcel.bytes.len());
        assert_eq!(push(&mut forwarding), Ok(()));
    }

    #[test]
    fn a_backlog_keeps_order_and_reports_each_parcel_once_it_is_used_up() {
        let (first, second) = (parcel(&[(1, 9), (2, 9), (3, 9)]), parcel(&[(4, 9)]));
        let sizes = (first.bytes.len(), second.bytes.len());
        let mut backlog = Backlog::new(3);
        backlog.push(1, first);
        backlog.push(2, second);
        let (mut seen, mut room) = (Vec::new(), 2);
        let mut drain = |backlog: &mut Backlog, more: usize| {
            room = more;
            backlog.drain(Instant(0), |request, is_late| {
                assert!(!is_late);
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
        assert_eq!((*backlog.taken_of(1), *backlog.taken_of(2)), (sizes.0, 0));
        assert!(drain(&mut backlog, 5));
        assert_eq!((*backlog.taken_of(1), *backlog.taken_of(2)), sizes);
        assert!(backlog.is_empty());
        assert_eq!(seen, [1, 2, 3, 4]);
    }

    /// A parcel of requests, each with its number and when it arrived.
    fn parcel(requests: &[(u64, u64)]) -> Requests {
        let mut forwarding = Forwarding::default();
        for (request, arrived) in requests {
            let token = ReplyTo { connection: 1, request: *request };
            forwarding.push(Instant(*arrived), GroupId(0), &get(b"v"), Level::Log, token).unwrap();
        }
        forwarding.requests
    }

    #[test]
    fn what_is_late_is_refused_wherever_it_stands_and_nothing_overtakes_a_busy_one() {
        let mut backlog = Backlog::new(2);
        for requests in [&[(1, 50), (2, 50)][..], &[(3, 50), (4, 10), (5, 50)], &[(6, 50)]] {
            backlog.push(1, parcel(requests));
        }
        assert_eq!(backlog.first_arrived(), Some(Instant(10)));
        let mut drain = |limit, room: usize| {
            let (mut submitted, mut refused, mut left) = (Vec::new(), Vec::new(), room);
            backlog.drain(Instant(limit), |request, is_late| {
                let number = request.token.request;
                if is_late {
                    refused.push(number);
                } else if left == 0 {
                    return Err(Refusal::Busy);
                } else {
                    left -= 1;
                    submitted.push(number);
                }
                Ok(())
            });
            (submitted, refused, backlog.first_arrived())
        };
        assert_eq!(drain(9, 1), (vec![1], vec![], Some(Instant(10))));
        assert_eq!(drain(10, 0), (vec![], vec![3, 4, 5], Some(Instant(50))));
        assert_eq!(drain(49, 9), (vec![2, 6], vec![], None));
        backlog.push(1, parcel(&[(7, 60), (8, 50)]));
        let mut seen = Vec::new();
        backlog.drain(Instant(50), |request, is_late| {
            seen.push((request.token.request, is_late));
            Ok(())
        });
        assert_eq!(seen, [(7, false), (8, true)], "with room only what is late itself is refused");
    }

    #[test]
    fn requests_and_replies_cross_as_they_were() {
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
        let mut forwarding = Forwarding::default();
        for ((command, token), level) in commands.iter().zip(tokens).zip([Level::Lease, Level::Log]) {
            forwarding.push(Instant(7 << 40), GroupId(5), command, level, token).unwrap();
        }
        forwarding.push_batch(Instant(8), GroupId(6), b"a frame", 9, 1 << 61).unwrap();
        let bytes = forwarding.requests.bytes;
        let (first, at) = request_at(&bytes, 0).unwrap();
        assert_eq!((first.work, first.token), (RemoteWork::Command(commands[0], Level::Lease), tokens[0]));
        let (second, at) = request_at(&bytes, at).unwrap();
        assert_eq!((second.work, second.token), (RemoteWork::Command(commands[1], Level::Log), tokens[1]));
        let (third, at) = request_at(&bytes, at).unwrap();
        assert_eq!((third.work, third.token.connection), (RemoteWork::Batch(b"a frame", 9), 1 << 61));
        assert_eq!((second.group, third.group, at), (GroupId(5), GroupId(6), bytes.len()));
        assert_eq!((second.arrived, third.arrived), (Instant(7 << 40), Instant(8)));

        let mut bytes = Vec::new();
        let commit = Commit { position: Position { row: 2, number: 5 }, stamp: 8 };
        push_reply(&mut bytes, tokens[0], Reply::Bytes(b"value"), None);
        push_reply(&mut bytes, tokens[1], Reply::Status("string"), Some(&commit));
        push_reply(&mut bytes, tokens[0], Reply::Replies(b"items"), None);
        let (first, at) = reply_at(&bytes, 0).unwrap();
        assert_eq!((first.to, first.reply, first.commit), (tokens[0], Reply::Bytes(b"value"), None));
        let (second, at) = reply_at(&bytes, at).unwrap();
        assert_eq!((second.to, second.reply), (tokens[1], Reply::Status("string")));
        assert_eq!(second.commit, Some(commit));
        let (third, at) = reply_at(&bytes, at).unwrap();
        assert_eq!((third.reply, at), (Reply::Replies(b"items"), bytes.len()));
    }
}
