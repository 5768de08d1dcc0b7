//! The slots in memory: the open ones with all that is known of them, and a tail of chosen values for peers that lag.
//!
//! Invariants:
//! * `commit` only rises; everything up to it is chosen and was handed on in order.
//! * The open slots are `commit+1..=last`, at most [`SPAN_MAX`]; all of them stay until they are chosen: phase 1 must be
//!   able to report them.
//! * The tail ends at `commit` and takes at most the given number of bytes.
//! * The batches of open slots take little more than the given number of bytes, so that memory remains to receive what the
//!   first open slot lacks: only that slot always has room.
//! * Storage is reused, so a warm replica allocates nothing for a slot.

use std::collections::VecDeque;

use panch_wire::frame::Frame;
use panch_wire::ids::{REPLICAS_MAX, ReplicaId, ReplicaSet, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use super::round::{Round, ValueName, Vote};
use crate::protocol::Value;

/// The most slots that may be open: a bound against nonsense from outside, far above what proposers leave open.
pub(super) const SPAN_MAX: u64 = 1 << 13;

/// The most batches that are kept for one slot without a vote for them in sight.
const PAYLOADS_MAX: usize = REPLICAS_MAX;

/// What a value without a frame counts for, in bytes.
const NOOP_FOOTPRINT: usize = 64;

/// What is known of a slot that is not executed yet.
#[derive(Clone, Default, Debug)]
pub(super) struct Open {
    /// As acceptor: no vote in a round below this one.
    pub(super) promised: Round,
    /// As acceptor: the latest vote.
    pub(super) vote: Option<Vote>,
    /// As learner: the latest vote known of each replica, this one's once it is durable.
    pub(super) tally: [Option<Vote>; REPLICAS_MAX],
    /// As learner: what replicas voted for whose latest vote is for something else.
    pub(super) voted_before: Vec<ValueName>,
    /// As learner: what is chosen.
    pub(super) chosen: Option<ValueName>,
    /// As learner: a round whose votes chose it; `None` if others said so.
    pub(super) chosen_in: Option<Round>,
    /// The batches of the own vote and of others' that came by.
    pub(super) payloads: Vec<Frame>,
    /// As coordinator: how the classic round of this term stands.
    pub(super) recovery: Recovery,
}

/// A coordinator's work on one slot.
#[derive(Clone, Default, Debug)]
pub(super) struct Recovery {
    /// Since when the slot makes no progress.
    pub(super) since: Option<Instant>,
    /// Who was blamed for holding up the fast round.
    pub(super) late: ReplicaSet,
    /// Whether the fast round was given up.
    pub(super) begun: bool,
    /// Who promised the classic round in so many words; its latest vote is in the tally.
    pub(super) promises: ReplicaSet,
    /// What was proposed in the classic round; never changed within a term.
    pub(super) proposed: Option<Value>,
}

impl Open {
    /// The batch of that name, if it came by.
    pub(super) fn payload(&self, name: ValueName) -> Option<&Frame> {
        self.payloads.iter().find(|frame| ValueName::of(Some(frame)) == name)
    }

    /// Keeps a batch while the slot is open; returns the memory it takes, in bytes.
    fn keep(&mut self, body: Option<&Frame>) -> usize {
        let Some(frame) = body.filter(|_| self.payload(ValueName::of(body)).is_none()) else { return 0 };
        self.payloads.push(frame.clone());
        frame.footprint()
    }

    /// Whether another value than that one is known to be chosen.
    pub(super) fn rules_out(&self, name: ValueName) -> bool {
        self.chosen.is_some_and(|chosen| chosen != name) && holds(Rule::FastChosenIsFinal)
    }

    /// Whether any vote is known.
    pub(super) fn is_voted(&self) -> bool {
        self.vote.is_some() || self.tally.iter().any(Option::is_some)
    }

    /// Whether a vote for that value is known, the own one also while it is not durable.
    pub(super) fn has_vote_for(&self, name: ValueName) -> bool {
        self.vote.iter().chain(self.tally.iter().flatten()).any(|vote| vote.name == name)
    }

    /// Whether the batch is voted for, proposed or chosen here.
    fn is_wanted(&self, body: Option<&Frame>) -> bool {
        let name = ValueName::of(body);
        let proposed = self.recovery.proposed.as_ref().map(ValueName::of_value);
        self.has_vote_for(name) || self.chosen == Some(name) || proposed == Some(name)
    }

    /// Lets go of the batches that are not wanted; returns how much memory they took, in bytes.
    fn drop_losers(&mut self) -> usize {
        let mut payloads = std::mem::take(&mut self.payloads);
        let before: usize = payloads.iter().map(Frame::footprint).sum();
        payloads.retain(|frame| self.is_wanted(Some(frame)));
        self.payloads = payloads;
        before - self.payloads.iter().map(Frame::footprint).sum::<usize>()
    }

    fn clear(&mut self) {
        let mut payloads = std::mem::take(&mut self.payloads);
        payloads.clear();
        let mut voted_before = std::mem::take(&mut self.voted_before);
        voted_before.clear();
        *self = Self { payloads, voted_before, ..Self::default() };
    }
}

fn footprint(value: &Value) -> usize {
    value.body().map_or(NOOP_FOOTPRINT, |frame| frame.footprint())
}

/// The slots in memory.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    commit: Slot,
    open: VecDeque<Open>,
    /// Storage of slots that were open.
    spare: Vec<Open>,
    tail: VecDeque<Value>,
    tail_size: usize,
    tail_size_max: usize,
    /// Memory of the batches in open slots, in bytes.
    held_size: usize,
}

/// How many cleared slots are kept for reuse.
const SPARE_MAX: usize = 256;

impl Slots {
    pub(super) fn new(commit: Slot, tail_size_max: usize) -> Self {
        Self {
            commit,
            open: VecDeque::new(),
            spare: Vec::new(),
            tail: VecDeque::new(),
            tail_size: 0,
            tail_size_max,
            held_size: 0,
        }
    }

    /// From now on chosen values may take this many bytes.
    pub(super) fn keep_tail(&mut self, tail_size_max: usize) {
        self.tail_size_max = tail_size_max;
    }

    /// Everything up to here is chosen and handed on.
    pub(super) fn commit(&self) -> Slot {
        self.commit
    }

    /// The last open slot, or `commit`.
    pub(super) fn last(&self) -> Slot {
        Slot(self.commit.0 + self.open.len() as u64)
    }

    /// Whether `slot` is open or may be opened.
    pub(super) fn admits(&self, slot: Slot) -> bool {
        slot > self.commit && slot.0 - self.commit.0 <= SPAN_MAX
    }

    /// An open slot.
    pub(super) fn get(&self, slot: Slot) -> Option<&Open> {
        self.open.get(slot.0.checked_sub(self.commit.0 + 1)? as usize)
    }

    /// An open slot, to be changed.
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Open> {
        self.open.get_mut(slot.0.checked_sub(self.commit.0 + 1)? as usize)
    }

    /// The value of that name, if it is here: as a batch of `slot` or, when proposers do not choose the slots themselves, of any
    /// other slot that this acceptor had room for it in.
    pub(super) fn value(&self, slot: Slot, name: ValueName) -> Option<Value> {
        if name == ValueName::NOOP {
            return Some(Value::Noop);
        }
        let own = self.get(slot).and_then(|open| open.payload(name));
        let frame = own.or_else(|| self.open.iter().find_map(|open| open.payload(name)))?;
        Some(Value::Batch(frame.clone()))
    }

    /// The slot, opened if it was not; `None` if it is chosen or too far ahead.
    pub(super) fn open(&mut self, slot: Slot) -> Option<&mut Open> {
        if !self.admits(slot) {
            return None;
        }
        while self.last() < slot {
            self.open.push_back(self.spare.pop().unwrap_or_default());
        }
        self.get_mut(slot)
    }

    /// Whether a batch may be kept in `slot` without holding more than `size_max` bytes for open slots. The first open slot
    /// always has room: it is the one that gives memory back.
    pub(super) fn has_room(&self, slot: Slot, body: Option<&Frame>, size_max: usize) -> bool {
        let Some(frame) = body else { return true };
        let known = |open: &Open| open.payload(ValueName::of(body)).is_some();
        slot == self.commit.next()
            || self.held_size + frame.footprint() <= size_max
            || self.get(slot).is_some_and(known)
    }

    /// Keeps a batch that came by, if there is room for it.
    pub(super) fn keep(&mut self, slot: Slot, body: Option<&Frame>, size_max: usize) {
        self.drop_losers(slot);
        let is_wanted = |open: &Open| holds(Rule::FastPayloadsLeave) && open.is_wanted(body);
        let few = self.get(slot).is_none_or(|open| open.payloads.len() < PAYLOADS_MAX || is_wanted(open));
        if few && self.has_room(slot, body, size_max) {
            self.keep_voted(slot, body);
        }
    }

    /// Lets go of batches that came by in earlier terms, if there are many: what no vote is known for any more is neither chosen
    /// nor picked, or comes again with the vote.
    fn drop_losers(&mut self, slot: Slot) {
        let Some(open) = self.get_mut(slot).filter(|open| open.payloads.len() >= PAYLOADS_MAX) else {
            return;
        };
        if holds(Rule::FastPayloadsLeave) {
            let freed = open.drop_losers();
            self.held_size -= freed;
        }
    }

    /// Keeps a batch while the slot is open.
    pub(super) fn keep_voted(&mut self, slot: Slot, body: Option<&Frame>) {
        let size = self.open(slot).map_or(0, |open| open.keep(body));
        self.held_size += size;
    }

    /// The open slots from `slot` on.
    pub(super) fn from(&self, slot: Slot) -> impl Iterator<Item = (Slot, &Open)> {
        let first = slot.max(self.commit.next());
        let skip = (first.0 - self.commit.0 - 1) as usize;
        self.open
            .iter()
            .enumerate()
            .skip(skip)
            .map(|(index, open)| (Slot(self.commit.0 + 1 + index as u64), open))
    }

    /// A coordinator of a new term begins with nothing.
    pub(super) fn forget_recoveries(&mut self) {
        for open in &mut self.open {
            open.recovery = Recovery::default();
        }
    }

    /// Footprint of the tail in bytes, and how many values are in it.
    pub(super) fn tail_extent(&self) -> (usize, usize) {
        (self.tail_size, self.tail.len())
    }

    /// A chosen value, if it is still in memory.
    pub(super) fn tail(&self, slot: Slot) -> Option<&Value> {
        let first = self.commit.0 + 1 - self.tail.len() as u64;
        self.tail.get(slot.0.checked_sub(first)? as usize)
    }

    /// Chosen values in memory, latest first.
    pub(super) fn tail_backwards(&self) -> impl Iterator<Item = (Slot, &Value)> {
        self.tail.iter().rev().enumerate().map(|(back, value)| (Slot(self.commit.0 - back as u64), value))
    }

    /// The next slot is chosen and handed on.
    pub(super) fn advance(&mut self, value: Value) {
        self.close_first();
        self.commit = self.commit.next();
        self.tail_size += footprint(&value);
        self.tail.push_back(value);
        while self.tail_size > self.tail_size_max
            && let Some(value) = self.tail.pop_front()
        {
            self.tail_size -= footprint(&value);
        }
    }

    fn close_first(&mut self) {
        let Some(mut open) = self.open.pop_front() else { return };
        self.held_size -= open.payloads.iter().map(Frame::footprint).sum::<usize>();
        if self.spare.len() < SPARE_MAX {
            open.clear();
            self.spare.push(open);
        }
    }

    /// Everything up to `slot` is covered by a snapshot; what lies beyond stays.
    pub(super) fn install(&mut self, slot: Slot) {
        self.tail.clear();
        self.tail_size = 0;
        while self.commit < slot && !self.open.is_empty() {
            self.close_first();
            self.commit = self.commit.next();
        }
        self.commit = self.commit.max(slot);
    }

    /// The latest known votes of `replica` are counted no more than once; false if nothing new.
    pub(super) fn count(&mut self, replica: ReplicaId, slot: Slot, vote: Vote) -> bool {
        let Some(open) = self.open(slot) else { return false };
        let place = &mut open.tally[replica.index()];
        if place.is_some_and(|old| old.round >= vote.round) {
            return false;
        }
        let before = place.replace(vote).map(|old| old.name).filter(|name| *name != vote.name);
        open.voted_before.extend(before);
        true
    }
}
