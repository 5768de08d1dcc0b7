//! What a replica keeps of a slot it does not know to be executed: as acceptor, as learner, and as proposer.
//!
//! Invariants:
//! * Slots up to the commit position have no entry here; an entry beyond it exists only within a bounded span.
//! * `promised` never falls, and is not below the ballot of what was accepted in the slot.
//! * A slot that is `chosen` has its value in the window, written down, and no run.

use std::collections::VecDeque;

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, ReplicaSet, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use crate::ballot::Ballot;
use crate::protocol::Value;
use crate::window::SPAN_MAX;

/// How far a proposer is with a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Phase 1: asking for promises.
    Prepare,
    /// Phase 2: asking for votes.
    Accept,
    /// Refused: waiting before the next ballot. Votes for the last one still count.
    Pause,
}

/// Who has answered in one phase of one ballot.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Votes {
    pub(super) members: ReplicaSet,
    answer_count: usize,
}

impl Votes {
    /// Counts an answer; returns how many members have answered.
    pub(super) fn add(&mut self, from: ReplicaId) -> usize {
        self.members.insert(from);
        self.answer_count += 1;
        if holds(Rule::BasicVotePerMember) { self.members.count() } else { self.answer_count }
    }
}

/// What a proposer does in one slot.
#[derive(Debug)]
pub(super) struct Run {
    /// The ballot in use; of the last attempt while it pauses.
    pub(super) ballot: Ballot,
    pub(super) phase: Phase,
    /// The own batch that looks for a slot; `None`: a hole is filled.
    pub(super) batch: Option<Frame>,
    /// The accepted value of the highest ballot that any promise reported, and that ballot.
    pub(super) reported: Option<(Ballot, Value)>,
    /// What phase 2 proposes in `ballot`.
    pub(super) value: Option<Value>,
    pub(super) votes: Votes,
    /// Ballots lost in a row.
    pub(super) lost_count: u32,
    /// How often this phase's request was repeated.
    pub(super) resend_count: u32,
    /// When this phase began.
    pub(super) since: Instant,
    /// When to ask again, or when the pause is over.
    pub(super) deadline: Instant,
}

/// One slot beyond the commit position.
#[derive(Default, Debug)]
pub(super) struct OpenSlot {
    /// Acceptor: the highest ballot promised.
    pub(super) promised: Ballot,
    /// Learner: the value in the window is chosen.
    pub(super) chosen: bool,
    /// Learner: the lowest ballot known to be chosen, while the value is not known.
    pub(super) told: Option<Ballot>,
    /// Proposer: the highest ballot that refused one of this replica's.
    pub(super) seen: Ballot,
    /// When this replica fills the slot if nobody else does; `None` while nothing beyond it is in use.
    pub(super) fill_at: Option<Instant>,
    /// Proposer.
    pub(super) run: Option<Run>,
}

/// The slots beyond the commit position, without gaps.
#[derive(Debug)]
pub(super) struct OpenSlots {
    /// Everything up to here is known to be chosen.
    commit: Slot,
    slots: VecDeque<OpenSlot>,
    /// How many slots beyond `commit` are looked at.
    span: u64,
}

impl OpenSlots {
    pub(super) fn new(commit: Slot, span: u64) -> Self {
        assert!(span < SPAN_MAX / 2, "the window spans what is open and the tail");
        Self { commit, slots: VecDeque::new(), span }
    }

    pub(super) fn commit(&self) -> Slot {
        self.commit
    }

    pub(super) fn span(&self) -> u64 {
        self.span
    }

    fn index(&self, slot: Slot) -> Option<usize> {
        slot.0.checked_sub(self.commit.0 + 1).map(|index| index as usize)
    }

    /// The last slot with an entry, or the commit position.
    pub(super) fn last(&self) -> Slot {
        Slot(self.commit.0 + self.slots.len() as u64)
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&OpenSlot> {
        self.slots.get(self.index(slot)?)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut OpenSlot> {
        let index = self.index(slot)?;
        self.slots.get_mut(index)
    }

    /// The slot, made if need be; `None` if it is not open or too far ahead.
    pub(super) fn reach(&mut self, slot: Slot) -> Option<&mut OpenSlot> {
        let index = self.index(slot)?;
        if index >= self.slots.len() {
            if index as u64 >= self.span {
                return None;
            }
            self.slots.resize_with(index + 1, OpenSlot::default);
        }
        self.slots.get_mut(index)
    }

    /// As [`OpenSlots::reach`], for records of the own log: nothing in them may be forgotten, whatever the settings are now.
    pub(super) fn reach_recorded(&mut self, slot: Slot) -> Option<&mut OpenSlot> {
        let span = std::mem::replace(&mut self.span, SPAN_MAX / 2);
        let reached = self.reach(slot).is_some();
        self.span = span;
        if reached { self.get_mut(slot) } else { None }
    }

    /// Memory of the batches that runs have taken over from others, in bytes. Looks at every open slot.
    pub(super) fn adopted_size(&self) -> usize {
        let adopted = |run: &Run| {
            let value = run.value.as_ref().or(run.reported.as_ref().map(|(_, value)| value));
            let body = value.and_then(Value::body).filter(|body| run.batch.as_ref() != Some(body));
            body.map_or(0, Frame::footprint)
        };
        self.slots.iter().filter_map(|open| open.run.as_ref()).map(adopted).sum()
    }

    /// Whether the slot is known to be chosen.
    pub(super) fn is_chosen(&self, slot: Slot) -> bool {
        slot <= self.commit || self.get(slot).is_some_and(|open| open.chosen)
    }

    /// The next slot in order leaves if it is chosen.
    pub(super) fn pop_chosen(&mut self) -> Option<Slot> {
        self.slots.pop_front_if(|open| open.chosen)?;
        self.commit = self.commit.next();
        Some(self.commit)
    }

    /// Everything up to `slot` is chosen; gives back the next of the slots that leave.
    pub(super) fn pop_through(&mut self, slot: Slot) -> Option<OpenSlot> {
        if self.commit >= slot {
            return None;
        }
        match self.slots.pop_front() {
            Some(open) => {
                self.commit = self.commit.next();
                Some(open)
            }
            None => {
                self.commit = slot;
                None
            }
        }
    }
}
