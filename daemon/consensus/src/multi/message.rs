//! What replicas of a Multi-Paxos group say to each other, and what they write down.
//!
//! Each message is a small struct of its own, a hint or a claim; the batch travels beside it. An acceptance without a
//! body is of a no-op.

use panch_wire::ids::Slot;
use rkyv::{Archive, Deserialize, Serialize};

use super::Multi;
use crate::ballot::Ballot;
pub use crate::fitness::condition::{Condition, Logged};
use crate::messages::{is_plausible_ballot, is_plausible_slot, messages};

/// "Would you promise me this ballot?" Changes nothing durable.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreVote {
    /// The ballot that would be used.
    pub ballot: Ballot,
    /// What the sender knows to be chosen: phase 1 would start behind it.
    pub commit: Slot,
}

/// Answers [`PreVote`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreVoteReply {
    /// The ballot asked about.
    pub ballot: Ballot,
    /// The highest ballot the voter knows of: the next attempt should be above it.
    pub seen: Ballot,
    /// Whether the voter sees no reason against it.
    pub granted: bool,
    /// Refused only because of a lease granted to another: nanoseconds till that is over.
    pub wait: u64,
}

/// The rounds of a term for which its leader has given up its lease: a Prepare that names them need not wait for the grants
/// of those rounds.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Release {
    /// The leader's ballot; the least one releases nothing.
    pub ballot: Ballot,
    /// The last round given up.
    pub round: u64,
}

/// Phase 1a, for all slots from `from_slot` on.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepare {
    /// The candidate's ballot, promised durably by itself.
    pub ballot: Ballot,
    /// The first slot that the candidate does not know to be chosen.
    pub from_slot: Slot,
    /// What the leader that asked the candidate to take over has given up.
    pub released: Release,
}

/// Phase 1b: counts once its entries have arrived, which are sent as [`PromiseEntry`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// The ballot promised.
    pub ballot: Ballot,
    /// Repeats the request.
    pub from_slot: Slot,
    /// What the acceptor knows to be chosen.
    pub commit: Slot,
    /// How many entries it has from `from_slot` on.
    pub entry_count: u64,
}

/// One accepted entry of a promise; its value travels beside it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PromiseEntry {
    /// The ballot promised.
    pub ballot: Ballot,
    /// Where.
    pub slot: Slot,
    /// The ballot the entry was accepted in.
    pub accepted: Ballot,
}

/// A Prepare or an Accept was refused.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The ballot refused.
    pub ballot: Ballot,
    /// What the acceptor has promised.
    pub promised: Ballot,
    /// The candidate lacks entries that the acceptor no longer has in memory: somebody more advanced should lead.
    pub behind: bool,
    /// Refused only because of a lease granted to another: nanoseconds till that is over.
    pub wait: u64,
}

/// Phase 2a for one slot; its value travels beside it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accept {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// Where.
    pub slot: Slot,
    /// What the leader knows to be chosen.
    pub commit: Slot,
}

/// Phase 2b, cumulative: everything up to `upto` is accepted in `ballot` or known to be chosen.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// Inclusive.
    pub upto: Slot,
}

/// An Accept came out of order.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// The slot the follower waits for.
    pub expected: Slot,
}

/// Everything up to `commit` is chosen; sent when no Accept carries the news.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// Inclusive.
    pub commit: Slot,
}

/// The leader lives. Each round also confirms the reads that were waiting when it started.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// Counts heartbeats of this ballot.
    pub round: u64,
    /// What the leader knows to be chosen.
    pub commit: Slot,
    /// The last slot sent to the receiver before this heartbeat.
    pub sent: Slot,
    /// The last slot the receiver acknowledged, as far as the leader knows.
    pub acked: Slot,
    /// For how many nanoseconds from the receipt on the leader asks to be left in office; 0: it does not ask.
    pub lease: u64,
}

/// Answers [`Heartbeat`]. In the leader's own ballot it is contact; in a higher one it deposes the leader.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeartbeatReply {
    /// What the follower has promised.
    pub ballot: Ballot,
    /// Repeats the heartbeat.
    pub round: u64,
    /// Repeats the heartbeat.
    pub sent: Slot,
    /// The last slot received in order; not necessarily durable.
    pub received: Slot,
    /// The follower promises nobody else a ballot for as long as the heartbeat asked.
    pub granted: bool,
}

/// A follower asks for a position after which a read is linearizable.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadIndexRequest {
    /// Names the request; never reused by a replica, over restarts included.
    pub number: u64,
    /// The leader's lease is good enough.
    pub lease: bool,
}

/// Answers [`ReadIndexRequest`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadIndexReply {
    /// Repeats the request.
    pub number: u64,
    /// The position; `None`: not confirmed, ask again.
    pub slot: Option<Slot>,
}

/// A batch for the leader to propose; it travels beside.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward;

/// The leader asks a replica that should lead instead to stand for election at once.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransferLeader {
    /// The leader's ballot, and up to which round it has given up its lease.
    pub released: Release,
}

/// A replica that has lost its disk waits for everything up to a slot to be decided: the leader proposes no-ops up to there.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct FillRequest {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// Inclusive.
    pub upto: Slot,
}

/// The leader answers an acknowledgement of slots that it has never proposed.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proposed {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// The last slot proposed in it: everything that was chosen in lower ones is up to there.
    pub last: Slot,
}

// Never reorder: the position is the wire format.
messages! { Multi:
    PreVote: Hint,
    PreVoteReply: Hint,
    // A ballot whose promise is lost in a crash would be used a second time.
    Prepare: Claim(BallotNeverReused),
    Promise: Claim(PromiseAfterDurable),
    PromiseEntry: Claim(PromiseAfterDurable),
    Refused: Hint,
    Accept: Hint,
    Accepted: Claim(ClaimAfterDurable),
    Gap: Hint,
    Commit: Hint,
    Heartbeat: Hint,
    HeartbeatReply: Hint,
    ReadIndexRequest: Hint,
    ReadIndexReply: Hint,
    Forward: Hint,
    TransferLeader: Hint,
    FillRequest: Hint,
    Condition: Hint,
    Logged: Claim(ClaimAfterDurable),
    Proposed: Hint,
}

impl Message {
    /// Whether the numbers are in a range that cannot overflow anything here.
    pub(super) fn is_plausible(&self) -> bool {
        let (ballots, slots) = match *self {
            Message::PreVote(m) => ([m.ballot, m.ballot], [m.commit, m.commit]),
            Message::PreVoteReply(m) => ([m.ballot, m.seen], [Slot(0); 2]),
            Message::Prepare(m) => ([m.ballot, m.released.ballot], [m.from_slot, m.from_slot]),
            Message::Promise(m) => ([m.ballot, m.ballot], [m.from_slot, m.commit]),
            Message::PromiseEntry(m) => ([m.ballot, m.accepted], [m.slot, m.slot]),
            Message::Refused(m) => ([m.ballot, m.promised], [Slot(0); 2]),
            Message::Accept(m) => ([m.ballot, m.ballot], [m.slot, m.commit]),
            Message::Accepted(m) => ([m.ballot, m.ballot], [m.upto, m.upto]),
            Message::Gap(m) => ([m.ballot, m.ballot], [m.expected, m.expected]),
            Message::Commit(m) => ([m.ballot, m.ballot], [m.commit, m.commit]),
            Message::Heartbeat(m) => ([m.ballot, m.ballot], [m.commit, m.sent.max(m.acked)]),
            Message::HeartbeatReply(m) => ([m.ballot, m.ballot], [m.sent, m.received]),
            Message::ReadIndexReply(m) => ([Ballot::default(); 2], [m.slot.unwrap_or_default(); 2]),
            Message::TransferLeader(m) => ([m.released.ballot; 2], [Slot(0); 2]),
            Message::FillRequest(m) => ([m.ballot; 2], [m.upto; 2]),
            Message::Proposed(m) => ([m.ballot; 2], [m.last; 2]),
            Message::ReadIndexRequest(_)
            | Message::Forward(_)
            | Message::Condition(_)
            | Message::Logged(_) => {
                return true;
            }
        };
        ballots.into_iter().all(is_plausible_ballot) && slots.into_iter().all(is_plausible_slot)
    }
}

/// A promise, written down: no ballot below this one is obeyed. It is repeated to say what is chosen by now.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PromiseRecord {
    /// The ballot promised.
    pub ballot: Ballot,
    /// What was known to be chosen.
    pub commit: Slot,
}

/// An acceptance, written down with its value, or of a no-op if there is none. It promises the ballot too.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcceptRecord {
    /// The ballot accepted in.
    pub ballot: Ballot,
    /// Where.
    pub slot: Slot,
    /// What was known to be chosen.
    pub commit: Slot,
}

/// The longest lease that this replica grants from here on, written down before it grants one of that length. It promises the
/// ballot too.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseRecord {
    /// The ballot promised.
    pub ballot: Ballot,
    /// What was known to be chosen.
    pub commit: Slot,
    /// In nanoseconds.
    pub longest: u64,
}

/// What a replica writes down. Every record repeats what was then known to be chosen, so that a restart need not learn
/// it again. Never reorder: the position is the disk format.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    /// See [`PromiseRecord`].
    Promise(PromiseRecord),
    /// See [`AcceptRecord`].
    Accept(AcceptRecord),
    /// See [`LeaseRecord`].
    Lease(LeaseRecord),
}

impl Record {
    /// The ballot that the record promises.
    pub fn ballot(&self) -> Ballot {
        match self {
            Record::Promise(record) => record.ballot,
            Record::Accept(record) => record.ballot,
            Record::Lease(record) => record.ballot,
        }
    }

    /// What was known to be chosen.
    pub fn commit(&self) -> Slot {
        match self {
            Record::Promise(record) => record.commit,
            Record::Accept(record) => record.commit,
            Record::Lease(record) => record.commit,
        }
    }

    /// Where a value is accepted.
    pub fn slot(&self) -> Option<Slot> {
        match self {
            Record::Promise(_) | Record::Lease(_) => None,
            Record::Accept(record) => Some(record.slot),
        }
    }

    pub(super) fn is_plausible(&self) -> bool {
        is_plausible_ballot(self.ballot()) && is_plausible_slot(self.slot().unwrap_or(self.commit()))
    }
}
