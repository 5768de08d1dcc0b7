//! What replicas of a Fast Paxos group say to each other, and what they write down.
//!
//! Each message is a small struct of its own, a hint or a claim; the batch travels beside it. Where a value is meant and
//! no batch is there, it is the no-op.

use panch_wire::ids::{REPLICAS_MAX, ReplicaId, Slot};
use rkyv::{Archive, Deserialize, Serialize};

use super::Fast;
use super::round::{Round, ValueName, Vote};
use super::slots::SPAN_MAX;
use crate::ballot::Ballot;
pub use crate::fitness::condition::{Condition, Logged};
use crate::messages::{is_plausible_ballot, is_plausible_slot, messages};

/// The most entries of one [`Votes`].
pub const VOTES_MAX: usize = 4;

/// Who may propose in a term, and where.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Each member of this set (bit `i`: replica `i`) in its own stripe of slots: those whose number, divided by the size
    /// of the set, leaves the member's place in the set.
    Stripes(u16),
    /// Everybody, in the next slot that is free at each acceptor.
    FreeForAll,
    /// The coordinator alone, in the classic round; the others forward to it.
    Classic,
}

impl Mode {
    /// How many slots lie between two of one proposer.
    pub fn step(self) -> u64 {
        match self {
            Mode::Stripes(members) => u64::from(members.count_ones()).max(1),
            Mode::FreeForAll | Mode::Classic => 1,
        }
    }

    /// Whether fast votes are allowed.
    pub fn is_fast(self) -> bool {
        self != Mode::Classic
    }

    /// The remainder that the slots of `replica` leave when divided by [`Mode::step`]; `None` if it has no stripe.
    pub fn stripe(self, replica: ReplicaId) -> Option<u64> {
        let Mode::Stripes(members) = self else { return None };
        let bit = 1u16.checked_shl(u32::from(replica.0))?;
        (members & bit != 0).then(|| u64::from((members & (bit - 1)).count_ones()))
    }

    /// Whether acceptors may choose the slot of a batch of `proposer`: any that is free, or one of its stripe.
    pub fn is_placed_by_acceptors(self, proposer: ReplicaId) -> bool {
        self == Mode::FreeForAll || self.stripe(proposer).is_some()
    }

    /// Whose stripe `slot` belongs to.
    pub fn owner(self, slot: Slot) -> Option<ReplicaId> {
        let Mode::Stripes(members) = self else { return None };
        let place = slot.0 % self.step();
        (0..REPLICAS_MAX as u8).map(ReplicaId).filter(|id| members & (1 << id.0) != 0).nth(place as usize)
    }
}

/// How the slots from some slot on are used in a term. In a fast mode it permits every acceptor to vote in the fast round
/// of any of those slots: the Any message of the paper. Settled once per term.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The term.
    pub term: Ballot,
    /// Below it the coordinator itself proposed, whatever the mode.
    pub from_slot: Slot,
    /// Who proposes.
    pub mode: Mode,
}

/// "Would you promise me this term?" Changes nothing durable.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreVote {
    /// The term that would be used.
    pub term: Ballot,
    /// What the sender knows to be chosen.
    pub commit: Slot,
}

/// Answers [`PreVote`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreVoteReply {
    /// The term asked about.
    pub term: Ballot,
    /// The highest term the voter knows of.
    pub seen: Ballot,
    /// Whether the voter sees no reason against it.
    pub granted: bool,
}

/// Phase 1a of a term, for all slots from `from_slot` on.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepare {
    /// The candidate's term, promised durably by itself.
    pub term: Ballot,
    /// The first slot that the candidate does not know to be chosen.
    pub from_slot: Slot,
}

/// Phase 1b of a term: counts once its votes have arrived, which are sent as [`PromiseVote`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// The term promised.
    pub term: Ballot,
    /// Repeats the request.
    pub from_slot: Slot,
    /// What the acceptor knows to be chosen. It reports votes above that only.
    pub commit: Slot,
    /// How many votes it reports.
    pub vote_count: u64,
}

/// The latest vote in one slot, for a promise; its value travels beside it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PromiseVote {
    /// The term promised.
    pub term: Ballot,
    /// Where.
    pub slot: Slot,
    /// The round of the vote.
    pub round: Round,
}

/// A message of an older term was refused.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The term refused.
    pub term: Ballot,
    /// What the acceptor has promised.
    pub promised: Ballot,
}

/// The plan of a new term.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Any {
    /// See [`Plan`].
    pub plan: Plan,
}

/// The coordinator lives.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// The coordinator's term.
    pub term: Ballot,
    /// What the coordinator knows to be chosen.
    pub commit: Slot,
    /// The plan, once settled: an [`Any`] may have been lost, or forgotten in a crash.
    pub plan: Option<Plan>,
}

/// Answers [`Heartbeat`]. In the coordinator's own term it is contact; in a higher one it deposes the coordinator.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeartbeatReply {
    /// What the follower has promised.
    pub term: Ballot,
    /// What the follower knows to be chosen.
    pub commit: Slot,
    /// The highest slot it knows a vote in.
    pub last: Slot,
    /// Whether its votes leave: not while it is on its way back from the loss of its disk.
    pub votes: bool,
}

/// The coordinator asks a replica that should coordinate instead to open a term at once.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakeOver {
    /// The coordinator's term.
    pub term: Ballot,
}

/// A batch for the fast round, to all acceptors; it travels beside.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Propose {
    /// What permits it: an acceptor that has not heard of the plan yet learns it here.
    pub plan: Plan,
    /// Where; `None`: in the next slot that is free at the acceptor, in stripes in one of the batch's proposer.
    pub slot: Option<Slot>,
    /// From 1; higher if the sender doubts that an earlier attempt arrived or won.
    pub attempt: u32,
}

/// No-ops for slots of the sender's stripe, `count` from `first` on at the distance of the plan's stripes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skip {
    /// What permits it.
    pub plan: Plan,
    /// The first of the slots.
    pub first: Slot,
    /// How many.
    pub count: u64,
}

/// Votes for one value in slots at equal distances; in more than one slot only for the no-op.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VotedSlots {
    /// The first of the slots.
    pub first: Slot,
    /// The value.
    pub name: ValueName,
    /// How many slots.
    pub count: u32,
}

/// Phase 2b, to every replica: each learns for itself.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Votes {
    /// The round of all these votes.
    pub round: Round,
    /// The distance between the slots of one entry.
    pub step: u8,
    /// How many entries are meant.
    pub count: u8,
    /// The votes.
    pub entries: [VotedSlots; VOTES_MAX],
}

/// Phase 1a of the classic round of one slot, because its fast round failed.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotPrepare {
    /// The coordinator's term.
    pub term: Ballot,
    /// Where.
    pub slot: Slot,
}

/// Phase 1b of the classic round of one slot; the value of the vote travels beside it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotPromise {
    /// The coordinator's term.
    pub term: Ballot,
    /// Where.
    pub slot: Slot,
    /// The round of the acceptor's latest vote there, if it voted.
    pub voted: Option<Round>,
}

/// Phase 2a of the classic round of one slot; its value travels beside it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accept {
    /// The coordinator's term.
    pub term: Ballot,
    /// Where.
    pub slot: Slot,
}

/// A batch for the coordinator to propose; it travels beside.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward;

/// The sender knows what is chosen in a slot by name only: "send me the bytes".
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PayloadRequest {
    /// Where.
    pub slot: Slot,
    /// What.
    pub name: ValueName,
}

/// Answers [`PayloadRequest`]; the batch travels beside.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PayloadReply {
    /// Where.
    pub slot: Slot,
}

/// The sender lags: "send me what is chosen from here on".
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatchupRequest {
    /// The first slot it lacks.
    pub from_slot: Slot,
    /// The last slot to be sent now.
    pub to_slot: Slot,
}

/// What a slot was decided to hold travels beside.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decided {
    /// Where.
    pub slot: Slot,
    /// What the sender knows to be chosen.
    pub commit: Slot,
}

/// "What is the highest slot you voted in?"
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRequest {
    /// Names the request; never reused by a replica, over restarts included.
    pub number: u64,
}

/// Answers [`ReadRequest`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadReply {
    /// Repeats the request.
    pub number: u64,
    /// The highest slot the acceptor voted in or knows to be chosen.
    pub last: Slot,
}

// Never reorder: the position is the wire format.
messages! { Fast:
    PreVote: Hint,
    PreVoteReply: Hint,
    // A term whose promise is lost in a crash would be used a second time.
    Prepare: Claim(FastTermNeverReused),
    Promise: Claim(FastPromiseAfterDurable),
    PromiseVote: Claim(FastPromiseAfterDurable),
    Refused: Hint,
    Any: Hint,
    Heartbeat: Hint,
    HeartbeatReply: Hint,
    Propose: Hint,
    Skip: Hint,
    Votes: Claim(FastVoteAfterDurable),
    SlotPrepare: Hint,
    SlotPromise: Claim(FastPromiseAfterDurable),
    Accept: Hint,
    Forward: Hint,
    PayloadRequest: Hint,
    PayloadReply: Hint,
    CatchupRequest: Hint,
    Decided: Hint,
    ReadRequest: Hint,
    ReadReply: Hint,
    Condition: Hint,
    Logged: Claim(FastVoteAfterDurable),
    TakeOver: Hint,
}

impl Votes {
    /// Every vote by itself.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, Vote)> + use<> {
        let Votes { round, step, count, entries } = *self;
        entries.into_iter().take(usize::from(count)).flat_map(move |entry| {
            let slots =
                (0..u64::from(entry.count)).map(move |index| Slot(entry.first.0 + index * u64::from(step)));
            slots.map(move |slot| (slot, Vote { round, name: entry.name }))
        })
    }
}

fn is_plausible_plan(plan: Plan) -> bool {
    let members = if let Mode::Stripes(members) = plan.mode { members } else { 1 };
    is_plausible_ballot(plan.term)
        && is_plausible_slot(plan.from_slot)
        && members != 0
        && members < 1 << REPLICAS_MAX
}

impl Message {
    /// Whether the numbers are in a range that cannot overflow anything here.
    pub(super) fn is_plausible(&self) -> bool {
        let none = Ballot::default();
        let (terms, slots) = match *self {
            Message::PreVote(m) => ([m.term, none], [m.commit, m.commit]),
            Message::PreVoteReply(m) => ([m.term, m.seen], [Slot(0); 2]),
            Message::Prepare(m) => ([m.term, none], [m.from_slot, m.from_slot]),
            Message::Promise(m) => ([m.term, none], [m.from_slot, m.commit]),
            Message::PromiseVote(m) => ([m.term, m.round.term], [m.slot, m.slot]),
            Message::Refused(m) => ([m.term, m.promised], [Slot(0); 2]),
            Message::Any(m) => return is_plausible_plan(m.plan),
            Message::Heartbeat(m) => {
                if !m.plan.is_none_or(|plan| is_plausible_plan(plan) && plan.term == m.term) {
                    return false;
                }
                ([m.term, none], [m.commit, m.commit])
            }
            Message::HeartbeatReply(m) => ([m.term, none], [m.commit, m.last]),
            Message::Propose(m) => {
                return is_plausible_plan(m.plan) && m.slot.is_none_or(is_plausible_slot);
            }
            Message::Skip(m) => {
                return is_plausible_plan(m.plan) && is_plausible_slot(m.first) && m.count <= SPAN_MAX;
            }
            Message::Votes(m) => {
                let counts = usize::from(m.count) <= VOTES_MAX && usize::from(m.step) <= REPLICAS_MAX;
                let spans = m
                    .entries
                    .iter()
                    .all(|entry| is_plausible_slot(entry.first) && u64::from(entry.count) <= SPAN_MAX);
                return counts && m.step > 0 && spans && is_plausible_ballot(m.round.term);
            }
            Message::SlotPrepare(m) => ([m.term, none], [m.slot, m.slot]),
            Message::SlotPromise(m) => ([m.term, m.voted.map_or(none, |round| round.term)], [m.slot, m.slot]),
            Message::Accept(m) => ([m.term, none], [m.slot, m.slot]),
            Message::PayloadRequest(m) => ([none; 2], [m.slot, m.slot]),
            Message::PayloadReply(m) => ([none; 2], [m.slot, m.slot]),
            Message::CatchupRequest(m) => ([none; 2], [m.from_slot, m.to_slot]),
            Message::Decided(m) => ([none; 2], [m.slot, m.commit]),
            Message::ReadReply(m) => ([none; 2], [m.last, m.last]),
            Message::TakeOver(m) => ([m.term, none], [Slot(0); 2]),
            Message::ReadRequest(_) | Message::Forward(_) | Message::Condition(_) | Message::Logged(_) => {
                return true;
            }
        };
        terms.into_iter().all(is_plausible_ballot) && slots.into_iter().all(is_plausible_slot)
    }
}

/// A term promised: no lower one is obeyed.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PromiseRecord {
    /// The term.
    pub term: Ballot,
    /// What was known to be chosen.
    pub commit: Slot,
}

/// A round of one slot promised, or voted in: then the value lies beside it, or it is the no-op.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotRecord {
    /// The round.
    pub round: Round,
    /// Where.
    pub slot: Slot,
    /// What was known to be chosen.
    pub commit: Slot,
}

/// A value chosen without this replica's vote; it lies beside.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct LearnedRecord {
    /// Where.
    pub slot: Slot,
    /// What was known to be chosen before.
    pub commit: Slot,
}

/// What a replica writes down. Every record repeats what was then known to be chosen; the values of all that lie in the
/// log before it. Never reorder: the position is the disk format.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    /// See [`PromiseRecord`].
    Promise(PromiseRecord),
    /// See [`SlotRecord`].
    SlotPromise(SlotRecord),
    /// See [`SlotRecord`].
    Vote(SlotRecord),
    /// See [`LearnedRecord`].
    Learned(LearnedRecord),
}

impl Record {
    /// What was known to be chosen.
    pub fn commit(&self) -> Slot {
        match self {
            Record::Promise(record) => record.commit,
            Record::SlotPromise(record) | Record::Vote(record) => record.commit,
            Record::Learned(record) => record.commit,
        }
    }

    /// The slot it is about.
    pub fn slot(&self) -> Option<Slot> {
        match self {
            Record::Promise(_) => None,
            Record::SlotPromise(record) | Record::Vote(record) => Some(record.slot),
            Record::Learned(record) => Some(record.slot),
        }
    }

    /// Whether a value lies beside it.
    pub fn has_value(&self) -> bool {
        matches!(self, Record::Vote(_) | Record::Learned(_))
    }

    /// The term that it promises.
    pub fn term(&self) -> Option<Ballot> {
        match self {
            Record::Promise(record) => Some(record.term),
            Record::SlotPromise(record) | Record::Vote(record) => Some(record.round.term),
            Record::Learned(_) => None,
        }
    }

    pub(super) fn is_plausible(&self) -> bool {
        self.term().is_none_or(is_plausible_ballot)
            && is_plausible_slot(self.commit())
            && self.slot().is_none_or(is_plausible_slot)
    }
}
