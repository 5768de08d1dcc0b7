//! What replicas of a Basic Paxos group say to each other, and what they write down.
//!
//! Everything is decided slot by slot. What is the same for several slots in one turn (a Prepare, an empty promise, a
//! vote, the news that they are chosen) shares a message with a [`SlotSet`]: at most 64 neighbouring slots. Values
//! travel beside a message about one slot; without a body the value is a no-op.

use panch_wire::ids::Slot;
use rkyv::{Archive, Deserialize, Serialize};

use super::Basic;
use crate::ballot::Ballot;
use crate::messages::{is_plausible_ballot, is_plausible_slot, messages};

/// Some of 64 neighbouring slots; never empty where it was made here.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotSet {
    /// The first that may be a member.
    pub first: Slot,
    /// Bit `i`: whether `first + i` is a member.
    pub mask: u64,
}

impl SlotSet {
    /// The set of one slot.
    pub fn one(slot: Slot) -> Self {
        Self { first: slot, mask: 1 }
    }

    /// Adds a slot; false if it is too far from the others.
    pub fn insert(&mut self, slot: Slot) -> bool {
        if slot < self.first {
            let shift = self.first.0 - slot.0;
            if shift > u64::from(self.mask.leading_zeros()) || shift >= 64 {
                return false;
            }
            self.mask <<= shift;
            self.first = slot;
        }
        let place = slot.0 - self.first.0;
        if place >= 64 {
            return false;
        }
        self.mask |= 1 << place;
        true
    }

    /// How many members.
    pub fn count(self) -> u32 {
        self.mask.count_ones()
    }

    /// The members, ascending.
    pub fn iter(self) -> impl Iterator<Item = Slot> {
        (0..64).filter(move |place| self.mask >> place & 1 == 1).map(move |place| Slot(self.first.0 + place))
    }
}

/// Phase 1a for each of the slots.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepare {
    /// The proposer's ballot.
    pub ballot: Ballot,
    /// Where.
    pub slots: SlotSet,
    /// The proposer has batches for them; otherwise it fills holes. Only says who is at work.
    pub for_batches: bool,
}

/// Phase 1b for each of the slots: promised, and nothing was accepted there.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// The ballot promised.
    pub ballot: Ballot,
    /// Where.
    pub slots: SlotSet,
}

/// Phase 1b for a slot in which a value was accepted; it travels beside.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PromiseValue {
    /// The ballot promised.
    pub ballot: Ballot,
    /// Where.
    pub slot: Slot,
    /// The ballot the value was accepted in.
    pub accepted: Ballot,
}

/// A Prepare or an Accept was refused.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The ballot refused.
    pub ballot: Ballot,
    /// Where.
    pub slot: Slot,
    /// What the acceptor has promised there.
    pub promised: Ballot,
}

/// Phase 2a: one slot with the batch that travels beside, or no-ops for all of the slots.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accept {
    /// The proposer's ballot.
    pub ballot: Ballot,
    /// Where.
    pub slots: SlotSet,
}

/// Phase 2b for each of the slots.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// The ballot accepted in.
    pub ballot: Ballot,
    /// Where.
    pub slots: SlotSet,
}

/// What was proposed in this ballot is chosen in each of the slots. Who accepted it there knows the value.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// The ballot that a classic quorum accepted in.
    pub ballot: Ballot,
    /// Where.
    pub slots: SlotSet,
    /// Everything up to here is known to the sender to be chosen.
    pub commit: Slot,
}

/// The value beside is chosen in this slot.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Learned {
    /// Where.
    pub slot: Slot,
}

/// Asks for the values chosen in these slots, as far as the receiver knows them.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct LearnRequest {
    /// Where.
    pub slots: SlotSet,
}

/// How far the sender is; said from time to time, and to who asks about a slot that is covered by a snapshot.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Everything up to here is known to be chosen.
    pub commit: Slot,
    /// The highest slot in which something was accepted or learned.
    pub last: Slot,
}

/// Asks for the highest slot accepted, for a quorum read.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRequest {
    /// Names the round; never reused by a replica, over restarts included.
    pub number: u64,
}

/// Answers [`ReadRequest`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadReply {
    /// Repeats the request.
    pub number: u64,
    /// The highest slot in which the sender accepted something or knows something to be chosen.
    pub last: Slot,
}

// Never reorder: the position is the wire format.
messages! { Basic:
    Prepare: Hint,
    Promise: Claim(BasicPromiseDurable),
    PromiseValue: Claim(BasicPromiseDurable),
    Refused: Hint,
    Accept: Hint,
    Accepted: Claim(BasicVoteDurable),
    Chosen: Hint,
    Learned: Hint,
    LearnRequest: Hint,
    Progress: Hint,
    ReadRequest: Hint,
    ReadReply: Hint,
}

impl Message {
    /// Whether the numbers are in a range that cannot overflow anything here.
    pub(super) fn is_plausible(&self) -> bool {
        let none = Ballot::default();
        let (ballots, slots) = match *self {
            Message::Prepare(m) => ([m.ballot, none], [m.slots.first, Slot(0)]),
            Message::Promise(m) => ([m.ballot, none], [m.slots.first, Slot(0)]),
            Message::PromiseValue(m) => ([m.ballot, m.accepted], [m.slot, Slot(0)]),
            Message::Refused(m) => ([m.ballot, m.promised], [m.slot, Slot(0)]),
            Message::Accept(m) => ([m.ballot, none], [m.slots.first, Slot(0)]),
            Message::Accepted(m) => ([m.ballot, none], [m.slots.first, Slot(0)]),
            Message::Chosen(m) => ([m.ballot, none], [m.slots.first, m.commit]),
            Message::Learned(m) => ([none; 2], [m.slot, Slot(0)]),
            Message::LearnRequest(m) => ([none; 2], [m.slots.first, Slot(0)]),
            Message::Progress(m) => ([none; 2], [m.commit, m.last]),
            Message::ReadReply(m) => ([none; 2], [m.last, Slot(0)]),
            Message::ReadRequest(_) => return true,
        };
        ballots.into_iter().all(is_plausible_ballot) && slots.into_iter().all(is_plausible_slot)
    }
}

/// A promise for one slot, written down: no ballot below this one is obeyed there.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PromiseRecord {
    /// The ballot promised.
    pub ballot: Ballot,
    /// Where.
    pub slot: Slot,
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

/// A chosen value that was learned from others, written down with it, or a no-op if there is none. Final.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChosenRecord {
    /// Where.
    pub slot: Slot,
    /// What was known to be chosen.
    pub commit: Slot,
}

/// What a durable snapshot covers, said again at the start of a log segment. Promises need no repetition: the records
/// of every slot above the snapshot stay in the log.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoveredRecord {
    /// Chosen and in a durable snapshot.
    pub commit: Slot,
}

/// What a replica writes down. Every record repeats what was then known to be chosen, so that a restart need not learn
/// it again. Never reorder: the position is the disk format.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    /// See [`PromiseRecord`].
    Promise(PromiseRecord),
    /// See [`AcceptRecord`].
    Accept(AcceptRecord),
    /// See [`ChosenRecord`].
    Chosen(ChosenRecord),
    /// See [`CoveredRecord`].
    Covered(CoveredRecord),
}

impl Record {
    /// What was known to be chosen.
    pub fn commit(&self) -> Slot {
        match self {
            Record::Promise(record) => record.commit,
            Record::Accept(record) => record.commit,
            Record::Chosen(record) => record.commit,
            Record::Covered(record) => record.commit,
        }
    }

    /// The slot it is about.
    pub fn slot(&self) -> Option<Slot> {
        match self {
            Record::Promise(record) => Some(record.slot),
            Record::Accept(record) => Some(record.slot),
            Record::Chosen(record) => Some(record.slot),
            Record::Covered(_) => None,
        }
    }

    /// Whether a value lies beside it.
    pub fn has_value(&self) -> bool {
        matches!(self, Record::Accept(_) | Record::Chosen(_))
    }

    /// The ballot promised by it for its slot.
    pub fn ballot(&self) -> Ballot {
        match self {
            Record::Promise(record) => record.ballot,
            Record::Accept(record) => record.ballot,
            Record::Chosen(_) | Record::Covered(_) => Ballot::default(),
        }
    }

    pub(super) fn is_plausible(&self) -> bool {
        is_plausible_ballot(self.ballot()) && is_plausible_slot(self.slot().unwrap_or(self.commit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_set_takes_neighbours_on_both_sides_up_to_sixty_four() {
        let mut set = SlotSet::one(Slot(100));
        assert!(set.insert(Slot(98)) && set.insert(Slot(161)) && set.insert(Slot(98)));
        assert!(!set.insert(Slot(162)) && !set.insert(Slot(97)) && !set.insert(Slot(1)));
        assert_eq!(set.iter().collect::<Vec<_>>(), [Slot(98), Slot(100), Slot(161)]);
        assert_eq!(set.count(), 3);
    }
}
