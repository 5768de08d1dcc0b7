//! What a follower makes of its leader: what it knows to be chosen is compared with what that one proposes there.
//!
//! Invariants:
//! * What was known to be chosen before the leader's ballot is acknowledged in it only once the leader has said that it proposes the
//!   same there, or that the slot is chosen. A leader that proposes something else has come to lead by somebody who forgot a vote.
//!   It is not followed: one that is right would complete its quorum for what it knows to be wrong. If a majority goes on without this
//!   replica, the leader says that the slot is chosen, and is followed again: the digests of states will tell who is right.
//! * What has left memory, in a restart or because it is old, is read back from the own log for that, in bounded numbers: what comes
//!   beyond is dropped, and a heartbeat shows that it is missing.
//! * What the own log does not reach back to is acknowledged to nobody who does not call it chosen. A leader that does not get further
//!   is sent a snapshot, and leads no more when it has installed it: this replica may be the only one that knows.

use std::collections::VecDeque;

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use super::Multi;
use super::message::{Accept, Proposed};
use crate::protocol::{Effects, Value};

/// The most slots that wait to be compared, and the most loads in flight with which another is asked for.
const COMPARING_MAX: usize = 128;

/// What this replica makes of the leader of its promised ballot.
#[derive(Clone, Default, Debug)]
pub(super) struct Trust {
    /// The leader has said of everything up to here what it proposes there, or that it is chosen.
    pub(super) told: Slot,
    /// Everything up to here was known to be chosen otherwise than from this leader.
    needed: Slot,
    /// Of that, what was chosen up to here and is in the own log was chosen below the leader's ballot.
    older: Slot,
    /// The leader contradicts what is known to be chosen in this slot.
    broken: Option<Slot>,
    /// What the leader proposes behind `told`, slot by slot: its checksum until it is compared.
    comparing: VecDeque<Option<u64>>,
    /// What is chosen in this slot, where the leader has never proposed anything, is being read back.
    unproposed: Option<Slot>,
    /// What the leader had told at its last heartbeat.
    told_before: Option<Slot>,
}

impl Trust {
    /// In a leader that has said nothing, of a replica that knows everything up to `chosen` to be chosen.
    fn new(chosen: Slot) -> Self {
        Self { needed: chosen, ..Self::default() }
    }

    /// In the leader of a ballot that is obeyed from now on.
    pub(super) fn in_new_ballot(chosen: Slot) -> Self {
        Self { older: chosen, ..Self::new(chosen) }
    }

    /// In the same leader after a restart: nothing is left of what it told.
    pub(super) fn restarted(&self, chosen: Slot) -> Self {
        Self { older: self.older, ..Self::new(chosen) }
    }

    /// While the own log is replayed: a ballot begins where everything up to `chosen` was known to be chosen.
    pub(super) fn replay_ballot(&mut self, chosen: Slot) {
        self.older = chosen;
    }

    /// A snapshot from elsewhere has brought what is chosen up to `slot`: it may come from somebody who knows more than the leader.
    pub(super) fn need(&mut self, slot: Slot) {
        self.needed = self.needed.max(slot);
    }

    /// Whether a leader that calls everything up to `commit` chosen contradicts what is known to be.
    pub(super) fn is_broken(&self, commit: Slot) -> bool {
        self.broken.is_some_and(|slot| commit < slot)
    }

    /// The leader calls everything up to `commit` chosen.
    pub(super) fn follow(&mut self, commit: Slot) {
        self.broken = None;
        if commit > self.told {
            if !self.comparing.is_empty() {
                let count = (commit.0 - self.told.0).min(self.comparing.len() as u64);
                self.comparing.drain(..count as usize);
            }
            self.told = commit;
            self.advance();
        }
    }

    pub(super) fn is_told(&self) -> bool {
        self.told >= self.needed || !holds(Rule::AckCompared)
    }

    /// The last slot of what has arrived in order, compared or not.
    pub(super) fn received(&self) -> Slot {
        Slot(self.told.0 + self.comparing.len() as u64)
    }

    /// What the leader proposes in `slot` is what is known to be chosen there, if anything is.
    pub(super) fn hear(&mut self, slot: Slot) {
        if slot == self.told.next() && self.comparing.is_empty() {
            self.told = slot;
        } else {
            let _ = self.take(slot, None);
            self.advance();
        }
    }

    /// Takes in what the leader proposes in `slot`; false if it comes out of order, again, or is too much.
    fn take(&mut self, slot: Slot, proposed: Option<u64>) -> bool {
        let fits = slot == self.received().next() && self.comparing.len() < COMPARING_MAX;
        if fits {
            self.comparing.push_back(proposed);
        }
        fits
    }

    /// The place of `slot` among those that wait.
    fn place(&self, slot: Slot) -> Option<usize> {
        let place = slot.0.checked_sub(self.told.0 + 1)? as usize;
        (place < self.comparing.len()).then_some(place)
    }

    fn advance(&mut self) {
        while self.comparing.pop_front_if(|proposed| proposed.is_none()).is_some() {
            self.told = self.told.next();
        }
    }
}

impl Multi {
    /// The leader proposes something in a slot where this replica knows what is chosen. It proposes what was chosen in its ballot or
    /// below, or its first phase has missed it: then an acceptor has forgotten a vote. False if it is deserted for that.
    pub(super) fn compare(
        &mut self,
        from: ReplicaId,
        message: Accept,
        proposed: Option<&Frame>,
        effects: &mut Effects<Self>,
    ) -> bool {
        let Accept { ballot, slot, commit } = message;
        let Some(known) = self.window.get(slot) else {
            self.compare_with_log(slot, proposed.map_or(0, Frame::checksum), effects);
            return true;
        };
        // What is accepted here above its ballot may have been chosen there.
        let differs = known.ballot <= ballot && effects.contradict(slot, &known.value, proposed, from);
        if differs && commit < slot {
            self.desert(slot, effects);
            return false;
        }
        self.trust.hear(slot);
        true
    }

    /// The same, where what is chosen has left memory: it counts as told once it was read back and is the same.
    fn compare_with_log(&mut self, slot: Slot, proposed: u64, effects: &mut Effects<Self>) {
        if !holds(Rule::AckComparedWithLog) {
            self.trust.hear(slot);
        } else if slot > self.trust.told && self.may_load(slot) && self.trust.take(slot, Some(proposed)) {
            self.load_to_compare(slot, effects);
        }
    }

    /// Whether the own log can be asked for what is chosen in `slot` now.
    fn may_load(&self, slot: Slot) -> bool {
        slot >= self.loadable_from && self.loading.len() < COMPARING_MAX
    }

    fn load_to_compare(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        if !self.loading.contains(&slot) {
            self.loading.push(slot);
            effects.load(slot);
        }
    }

    /// What is chosen in `slot` came back from the log, or cannot be read any more.
    pub(super) fn compare_loaded(&mut self, slot: Slot, value: Option<&Value>, effects: &mut Effects<Self>) {
        let leader = self.promised.owner();
        if self.trust.unproposed == Some(slot) {
            self.trust.unproposed = None;
            if let Some(value) = value
                && slot > self.trust.told
            {
                if effects.contradict(slot, value, None, leader) {
                    self.desert(slot, effects);
                    return;
                }
                self.load_unproposed(slot.next(), effects);
            }
        }
        let Some(place) = self.trust.place(slot) else { return };
        let Some(proposed) = self.trust.comparing[place] else { return };
        match value {
            Some(known) if effects.contradict_checksum(slot, known.checksum(), proposed, leader) => {
                self.desert(slot, effects);
            }
            Some(_) => {
                self.trust.comparing[place] = None;
                self.trust.advance();
                self.due.ack = true;
            }
            None => {
                self.trust.comparing.truncate(place);
                effects.send_snapshot(leader, slot);
            }
        }
    }

    /// The leader contradicts what is known to be chosen in `slot`.
    fn desert(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        if holds(Rule::ContradictionDeserts) {
            self.become_follower(effects);
            self.heard = None;
            self.trust.broken = Some(slot);
            self.trust.comparing.clear();
        }
    }

    /// The leader has never proposed what is chosen here. What was chosen in its own ballot does not count: it may have been proposed
    /// since the message left.
    pub(super) fn on_proposed(&mut self, from: ReplicaId, message: Proposed, effects: &mut Effects<Self>) {
        let Proposed { ballot, last } = message;
        if !self.obey(from, ballot, Slot(0), effects) {
            return;
        }
        let chosen = self.window.entries_from(last.next()).take_while(|(slot, _)| *slot <= self.commit);
        let lost = chosen
            .filter(|(_, known)| known.ballot < ballot)
            .find(|(slot, known)| effects.contradict(*slot, &known.value, None, from))
            .map(|(slot, _)| slot);
        match lost {
            Some(slot) => self.desert(slot, effects),
            None if self.trust.unproposed.is_none() => self.load_unproposed(last.next(), effects),
            None => {}
        }
    }

    /// Reads back what is chosen in `slot`, where the leader has never proposed anything, if that has left memory. A no-op contradicts
    /// nothing: then comes the next slot.
    fn load_unproposed(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        let is_away = slot < self.window.first() && slot <= self.trust.older;
        if is_away && self.may_load(slot) && holds(Rule::AckComparedWithLog) {
            self.trust.unproposed = Some(slot);
            self.load_to_compare(slot, effects);
        }
    }

    /// The leader has told nothing since its last heartbeat, and the own log does not reach back to what it has to tell next. Mostly it
    /// learns from others that this is chosen; it does not now.
    pub(super) fn help_leader(&mut self, leader: ReplicaId, effects: &mut Effects<Self>) {
        let told = self.trust.told;
        let stands = self.trust.told_before.replace(told) == Some(told);
        let is_away = told.next() < self.loadable_from && holds(Rule::AckComparedWithLog);
        if stands && is_away && !self.trust.is_told() {
            effects.send_snapshot(leader, told.next());
        }
    }
}
