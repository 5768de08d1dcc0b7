//! Learning what was missed: chosen values from a peer's memory or log, or a snapshot, and the bytes of chosen names.
//!
//! A replica that hears of a higher commit index than its own, and makes no progress by itself, asks for what it lacks, some
//! slots at a time.
//!
//! Invariants:
//! * Only chosen values are sent as decided, so they may be learned without counting votes.
//! * What was not voted for here is written down as learned before it is called chosen.
//! * Requests for loads are bounded; a peer that asks too much is answered in part and asks again.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, ReplicaSet, Slot};
use panch_wire::time::Instant;

use super::message::{CatchupRequest, Decided, PayloadReply, PayloadRequest};
use super::round::ValueName;
use super::{Fast, Timer};
use crate::protocol::{Dest, Effects, Value};

/// The most slots that are read back from the log at once.
const LOAD_COUNT_MAX: usize = 512;

/// What is asked of others, and what others asked.
#[derive(Clone, Default, Debug)]
pub(super) struct Catchup {
    /// The highest commit index heard of.
    known: Slot,
    /// The last who said so; after a silence anybody who knows more than this replica.
    informant: ReplicaId,
    /// When somebody who can help was last heard.
    informed: Instant,
    /// What the last request asked for ends here.
    asked_to: Slot,
    /// Counts requests for batches: each goes to another replica.
    attempt: usize,
    /// Chosen values being read back, and for whom.
    loading: Vec<(Slot, ReplicaSet)>,
    /// Peers that a snapshot is on its way to.
    snapshotting: ReplicaSet,
}

impl Catchup {
    /// `replica` does not know any more what it said to know.
    pub(super) fn forget(&mut self, replica: ReplicaId) {
        if self.informant == replica {
            (self.known, self.informed, self.asked_to) = (Slot(0), Instant::default(), Slot(0));
        }
    }
}

impl Fast {
    /// `from` knows everything up to `commit` to be chosen.
    pub(super) fn hear_commit(&mut self, from: ReplicaId, commit: Slot) {
        if from == self.me() || commit <= self.commit() {
            return;
        }
        // Whoever knew most may be dead: then those who still speak help as far as they can.
        if commit >= self.catchup.known || !self.is_informed() {
            self.catchup.known = self.catchup.known.max(commit);
            self.catchup.informant = from;
            self.catchup.informed = self.now;
        }
        let behind = self.catchup.known.0 - self.commit().0;
        if behind > self.in_flight_max() && self.commit() >= self.catchup.asked_to {
            self.due.catchup = true;
        } else {
            // A little behind: the votes are on their way, most likely.
            self.arm_catchup();
        }
    }

    /// Whether somebody who knows more than this replica spoke lately.
    pub(super) fn is_informed(&self) -> bool {
        self.now.since(self.catchup.informed) < self.tuning.election_timeout
    }

    fn arm_catchup(&mut self) {
        if !self.timers.is_armed(Timer::Catchup) {
            self.timers.arm(Timer::Catchup, self.now + self.tuning.slow_after);
        }
    }

    /// Asks for the bytes that hold up execution, and for what is chosen and unknown here.
    pub(super) fn ask_for_missing(&mut self, effects: &mut Effects<Self>) {
        let next = self.commit().next();
        let name = self.slots.get(next).and_then(|open| open.chosen);
        if let Some(name) = name {
            self.request_payload(next, name, effects);
            self.timers.arm(Timer::Catchup, self.now + self.tuning.slow_after);
            return;
        }
        if self.catchup.known <= self.commit() {
            self.timers.disarm(Timer::Catchup);
            return;
        }
        self.timers.arm(Timer::Catchup, self.now + self.tuning.slow_after);
        let (size, count) = self.slots.tail_extent();
        let to_slot = Slot(self.commit().0 + self.tuning.catchup_count(size, count));
        self.catchup.asked_to = to_slot;
        let informant = self.catchup.informant;
        self.send_other(informant, CatchupRequest { from_slot: next, to_slot }, None, effects);
    }

    /// Asks those that voted for `name`, one after the other.
    fn request_payload(&mut self, slot: Slot, name: ValueName, effects: &mut Effects<Self>) {
        let Some(open) = self.slots.get(slot) else { return };
        let voted = |id: &ReplicaId| open.tally[id.index()].is_some_and(|vote| vote.name == name);
        let mut voters = self.peers().filter(voted).collect::<Vec<_>>();
        if voters.is_empty() {
            voters.extend(self.peers());
        }
        let Some(voter) = voters.get(self.catchup.attempt % voters.len().max(1)).copied() else { return };
        self.catchup.attempt = self.catchup.attempt.wrapping_add(1);
        self.send_other(voter, PayloadRequest { slot, name }, None, effects);
    }

    pub(super) fn on_payload_request(
        &mut self,
        from: ReplicaId,
        message: PayloadRequest,
        effects: &mut Effects<Self>,
    ) {
        let PayloadRequest { slot, name } = message;
        if slot <= self.commit() {
            self.tell_decided(from, slot, effects);
        } else if let Some(frame) = self.slots.get(slot).and_then(|open| open.payload(name)) {
            self.send_other(from, PayloadReply { slot }, Some(frame), effects);
        }
    }

    pub(super) fn on_payload_reply(
        &mut self,
        message: PayloadReply,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let name = ValueName::of(body.as_ref());
        if self.slots.get(message.slot).is_some_and(|open| open.chosen == Some(name)) {
            self.keep(message.slot, body.as_ref());
            self.advance_commit(effects);
        }
    }

    pub(super) fn on_catchup_request(
        &mut self,
        from: ReplicaId,
        message: CatchupRequest,
        effects: &mut Effects<Self>,
    ) {
        let first = message.from_slot.max(Slot(1));
        let window_end = Slot(first.0 + self.tuning.catchup_window.max(1) as u64);
        let end = message.to_slot.next().min(window_end).min(self.commit().next());
        for slot in (first.0..end.0).map(Slot) {
            if !self.tell_decided(from, slot, effects) {
                break;
            }
        }
    }

    /// Sends what was chosen in `slot`; false if that has to be read back first, or cannot be.
    pub(super) fn tell_decided(&mut self, to: ReplicaId, slot: Slot, effects: &mut Effects<Self>) -> bool {
        if slot > self.commit() || to == self.me() {
            return false;
        }
        if let Some(value) = self.slots.tail(slot) {
            let decided = Decided { slot, commit: self.commit() };
            effects.send(Dest::One(to), decided, value.body());
            return true;
        }
        if slot < self.loadable_from {
            if self.catchup.snapshotting.insert(to) {
                effects.send_snapshot(to, slot);
            }
            return false;
        }
        let loading = &mut self.catchup.loading;
        if let Some((_, waiting)) = loading.iter_mut().find(|(loading, _)| *loading == slot) {
            waiting.insert(to);
            return true;
        }
        if loading.len() >= LOAD_COUNT_MAX {
            return false;
        }
        let mut waiting = ReplicaSet::default();
        waiting.insert(to);
        loading.push((slot, waiting));
        effects.load(slot);
        true
    }

    /// A value came back from the log: for every peer that waits for it.
    pub(super) fn on_loaded(&mut self, slot: Slot, value: Option<Value>, effects: &mut Effects<Self>) {
        let Some(index) = self.catchup.loading.iter().position(|(loading, _)| *loading == slot) else {
            return;
        };
        let (_, waiting) = self.catchup.loading.swap_remove(index);
        for peer in waiting.iter() {
            match &value {
                Some(value) => {
                    let decided = Decided { slot, commit: self.commit() };
                    effects.send(Dest::One(peer), decided, value.body());
                }
                None if self.catchup.snapshotting.insert(peer) => effects.send_snapshot(peer, slot),
                None => {}
            }
        }
    }

    pub(super) fn on_snapshot_sent(&mut self, peer: ReplicaId) {
        self.catchup.snapshotting.remove(peer);
    }

    pub(super) fn on_decided(
        &mut self,
        from: ReplicaId,
        message: Decided,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let Decided { slot, commit } = message;
        let name = ValueName::of(body.as_ref());
        // Whose bytes are not here yet is compared when they come from somebody who knows the slot to be decided, too.
        let chosen = self.slots.get(slot).and_then(|open| open.chosen);
        let known = chosen.and_then(|chosen| self.slots.value(slot, chosen));
        if let Some(known) = known.or_else(|| self.slots.tail(slot).cloned())
            && ValueName::of_value(&known) != name
        {
            effects.contradict(slot, &known, body.as_ref(), from);
        }
        if self.slots.admits(slot) && self.has_room(slot, body.as_ref()) {
            self.slots.keep_voted(slot, body.as_ref());
            self.learn(slot, name, None, effects);
            // Chosen before, but its bytes were missing.
            self.advance_commit(effects);
        }
        self.hear_commit(from, commit);
        if self.commit() >= self.catchup.asked_to && self.catchup.known > self.commit() {
            self.due.catchup = true;
        }
    }
}
