//! What is chosen, and catching up.
//!
//! A replica learns from the votes of its own runs, from [`Chosen`] if it accepted in that ballot, and else asks peers,
//! one after the other, for the values it misses. They give them from memory, from their log, or as a snapshot.
//!
//! Invariants:
//! * What counts as chosen is in the window and in the log: accepted in the chosen ballot or above it, or written down
//!   when it was learned. Only then does the commit position pass it.
//! * A value is read back from the log only up to the commit position and above the last snapshot.
//! * One request is answered at a time by each peer's snapshot; loads are bounded.

use panch_wire::frame::Frame;
use panch_wire::ids::{REPLICAS_MAX, ReplicaId, ReplicaSet, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use super::message::{Chosen, ChosenRecord, LearnRequest, Learned, Progress, Record, SlotSet};
use super::{Basic, Timer};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Value};
use crate::window::Entry;

/// The most values being read back from the log at once.
const LOAD_COUNT_MAX: usize = 128;

/// What a replica does to keep up, and helps others with.
#[derive(Default, Debug)]
pub(super) struct Learning {
    /// By replica: up to where it said to know everything.
    progress: [Slot; REPLICAS_MAX],
    /// By replica: when it said so last.
    heard: [Instant; REPLICAS_MAX],
    /// Where the commit position was when the timer was armed.
    commit_then: Slot,
    /// Whether the timer is armed.
    armed: bool,
    /// The replica asked last.
    asked: ReplicaId,
    /// The last slot asked for.
    asked_upto: Slot,
    /// Values being read back, and for whom.
    loading: Vec<(Slot, ReplicaSet)>,
    /// Peers that are sent a snapshot.
    pub(super) snapshotting: ReplicaSet,
}

impl Learning {
    /// What `peer` knew it has forgotten.
    pub(super) fn forget(&mut self, peer: ReplicaId) {
        if let Some(progress) = self.progress.get_mut(peer.index()) {
            *progress = Slot(0);
        }
    }

    /// The connection was lost: nothing can be learned there for now.
    pub(super) fn on_suspect(&mut self, peer: ReplicaId) {
        if let Some(heard) = self.heard.get_mut(peer.index()) {
            *heard = Instant::default();
        }
    }
}

impl Basic {
    /// Somebody who was heard lately knows everything up to here to be chosen. What only the dead know must be decided
    /// once more.
    pub(super) fn known_to_others(&self) -> Slot {
        let lately = 4 * self.tuning.heartbeat_interval;
        let heard = self.learning.progress.iter().zip(&self.learning.heard);
        let fresh = heard.filter(|(_, heard)| self.now.since(**heard) < lately);
        fresh.map(|(slot, _)| *slot).max().unwrap_or_default()
    }

    /// `slot` is chosen: in `ballot`, if that is known, with `value`, if that is known.
    pub(super) fn learn(
        &mut self,
        slot: Slot,
        ballot: Option<Ballot>,
        value: Option<Value>,
        effects: &mut Effects<Self>,
    ) {
        let commit = self.commit();
        let Some(open) = self.open.reach(slot) else { return };
        if open.chosen {
            return;
        }
        let entry = self.window.get(slot);
        // What is accepted above a ballot that was chosen is the chosen value; what is accepted below may have lost.
        // [Basic Paxos, PM3]
        let accepted = entry.is_some_and(|entry| {
            ballot.is_some_and(|ballot| entry.ballot >= ballot) || !holds(Rule::BasicChosenBallot)
        });
        let is_held = accepted || entry.is_some_and(|entry| value.as_ref() == Some(&entry.value));
        if !is_held {
            let Some(value) = value else {
                open.told = open.told.into_iter().chain(ballot).min();
                self.note_used(slot);
                self.arm_learning();
                return;
            };
            if !self.window.admits(slot) {
                return;
            }
            if holds(Rule::BasicLearnedRecorded) {
                let _ = effects.persist(Record::Chosen(ChosenRecord { slot, commit }), value.body());
            }
            self.window.set(slot, Entry { ballot: ballot.unwrap_or_default(), value });
        }
        open.chosen = true;
        open.told = None;
        let batch = self.window.get(slot).and_then(|entry| entry.value.body()).map(Frame::id);
        if let Some(own) = batch.filter(|id| id.is_of(self.group.me, self.incarnation)) {
            effects.commit(own);
        }
        self.end_run(slot);
        self.note_used(slot);
        self.advance(effects);
    }

    /// The slot of a run is chosen: its batch is, or goes on.
    fn end_run(&mut self, slot: Slot) {
        let run = self.open.get_mut(slot).and_then(|open| open.run.take());
        let Some(batch) = run.and_then(|run| run.batch) else { return };
        self.placed_count -= 1;
        let chosen = self.window.get(slot).and_then(|entry| entry.value.body());
        if chosen.is_some_and(|chosen| chosen.id() == batch.id()) {
            self.decided.push((slot, batch.id()));
        } else {
            // Now its fate in this slot is known.
            self.counters.moved += 1;
            self.queue.push_front(batch);
        }
    }

    /// Hands out what is chosen next.
    pub(super) fn advance(&mut self, effects: &mut Effects<Self>) {
        let before = self.commit();
        while let Some(slot) = self.open.pop_chosen() {
            let entry = self.window.get(slot).expect("a chosen slot has its value in the window");
            effects.choose(slot, entry.value.clone());
        }
        let commit = self.commit();
        if commit > before {
            self.window.advance_chosen(commit);
            self.decided.retain(|(slot, _)| *slot > commit);
            self.used = self.used.max(commit);
        }
    }

    pub(super) fn on_chosen(&mut self, from: ReplicaId, message: Chosen, effects: &mut Effects<Self>) {
        self.note_progress(from, message.commit);
        for slot in message.slots.iter() {
            self.learn(slot, Some(message.ballot), None, effects);
        }
    }

    pub(super) fn on_progress(&mut self, from: ReplicaId, message: Progress) {
        self.note_progress(from, message.commit);
        self.note_used(message.last);
    }

    fn note_progress(&mut self, from: ReplicaId, commit: Slot) {
        let progress = &mut self.learning.progress[from.index()];
        *progress = commit.max(*progress);
        self.learning.heard[from.index()] = self.now;
        if commit > self.commit() && from != self.me() {
            self.arm_learning();
        }
    }

    // Asking.

    fn arm_learning(&mut self) {
        if !self.learning.armed {
            self.learning.armed = true;
            self.learning.commit_then = self.commit();
            self.timers.arm(Timer::Learn, self.now + self.learn_wait());
        }
    }

    /// What was sent a moment ago gets the time to arrive.
    fn learn_wait(&self) -> Duration {
        (self.tuning.slow_after / 4).max(2 * self.pace)
    }

    pub(super) fn on_learn_time(&mut self, effects: &mut Effects<Self>) {
        self.learning.armed = false;
        let next = self.open.get(self.commit().next());
        if self.known_to_others() <= self.commit() && next.is_none_or(|open| open.told.is_none()) {
            return;
        }
        if self.commit() == self.learning.commit_then {
            self.send_learn_request(effects);
        }
        self.arm_learning();
    }

    /// How many values are asked for at once: one request names so many slots at most.
    fn learn_count(&self) -> u64 {
        self.tuning.catchup_window.clamp(1, u64::BITS as usize) as u64
    }

    /// Asks the next peer that may know for the first values that are missing.
    fn send_learn_request(&mut self, effects: &mut Effects<Self>) {
        let first = self.commit().next();
        let told = self.open.get(first).and_then(|open| open.told);
        let count = self.group.replica_count as u8;
        let may_know = |id: &ReplicaId| {
            let knows = self.learning.progress[id.index()] >= first;
            *id != self.me() && (knows || told.is_some())
        };
        let mut next_ids = (1..=count).map(|step| ReplicaId((self.learning.asked.0 + step) % count));
        let Some(to) = next_ids.find(may_know) else { return };
        let last = self.learning.progress[to.index()].0.clamp(first.0, self.commit().0 + self.learn_count());
        let mut slots = SlotSet { first, mask: 0 };
        let missing = |slot: &Slot| !self.open.is_chosen(*slot);
        for slot in (first.0..=last).map(Slot).filter(missing) {
            slots.insert(slot);
        }
        self.learning.asked = to;
        self.learning.asked_upto = Slot(last);
        effects.send(Dest::One(to), LearnRequest { slots }, None);
    }

    pub(super) fn on_learned(
        &mut self,
        from: ReplicaId,
        message: Learned,
        value: Value,
        effects: &mut Effects<Self>,
    ) {
        if let Some(known) = self.window.get(message.slot).filter(|_| self.open.is_chosen(message.slot)) {
            effects.contradict(message.slot, &known.value, value.body(), from);
        }
        if self.has_room(message.slot, &value) {
            self.learn(message.slot, None, Some(value), effects);
        }
        // Far behind: the next values are asked for as soon as these are here.
        let far = Slot(self.commit().0 + self.learn_count() / 2);
        if self.learning.asked_upto == self.commit() && self.known_to_others() > far {
            // The same peer again: it answers.
            let count = self.group.replica_count as u8;
            self.learning.asked = ReplicaId((self.learning.asked.0 + count - 1) % count);
            self.send_learn_request(effects);
        }
    }

    // Answering.

    pub(super) fn on_learn_request(
        &mut self,
        from: ReplicaId,
        message: LearnRequest,
        effects: &mut Effects<Self>,
    ) {
        for slot in message.slots.iter().filter(|slot| slot.0 > 0) {
            if self.open.is_chosen(slot) {
                self.answer_chosen(from, slot, effects);
            }
            if self.learning.snapshotting.contains(from) {
                return;
            }
        }
    }

    /// Gives `to` the value chosen in `slot`, now or when it is read back, or a snapshot that covers it.
    pub(super) fn answer_chosen(&mut self, to: ReplicaId, slot: Slot, effects: &mut Effects<Self>) {
        if to == self.me() || slot.0 == 0 {
            return;
        }
        if let Some(entry) = self.window.get(slot) {
            effects.send(Dest::One(to), Learned { slot }, entry.value.body());
        } else if slot < self.loadable_from {
            effects.send(Dest::One(to), self.progress(), None);
            self.send_snapshot(to, slot, effects);
        } else if let Some((_, waiting)) = self.learning.loading.iter_mut().find(|(it, _)| *it == slot) {
            waiting.insert(to);
        } else if self.learning.loading.len() < LOAD_COUNT_MAX {
            let mut waiting = ReplicaSet::default();
            waiting.insert(to);
            self.learning.loading.push((slot, waiting));
            effects.load(slot);
        }
    }

    fn send_snapshot(&mut self, to: ReplicaId, slot: Slot, effects: &mut Effects<Self>) {
        if self.learning.snapshotting.insert(to) {
            effects.send_snapshot(to, slot);
        }
    }

    /// A value came back from the log: for everybody who waits for it.
    pub(super) fn on_loaded(&mut self, slot: Slot, value: Option<Value>, effects: &mut Effects<Self>) {
        let Some(place) = self.learning.loading.iter().position(|(it, _)| *it == slot) else { return };
        let (_, waiting) = self.learning.loading.swap_remove(place);
        for to in waiting.iter() {
            match &value {
                Some(value) => effects.send(Dest::One(to), Learned { slot }, value.body()),
                None => self.send_snapshot(to, slot, effects),
            }
        }
    }

    /// A snapshot from a peer covers everything up to `slot`.
    pub(super) fn on_installed(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        // Values the log holds below a snapshot from elsewhere may have lost.
        self.loadable_from = self.loadable_from.max(slot.next());
        if slot <= self.commit() {
            return;
        }
        while self.commit() < slot {
            // The fate of a batch whose slot is covered shows in the state: the replica proposes what is not applied again.
            let open = self.open.pop_through(slot);
            self.placed_count -= usize::from(open.and_then(|open| open.run?.batch).is_some());
        }
        self.window.drop_through(slot);
        self.used = self.used.max(slot);
        self.decided.retain(|(decided, _)| *decided > slot);
        self.advance(effects);
    }
}
