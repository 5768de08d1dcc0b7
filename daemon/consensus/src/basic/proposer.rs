//! Proposing in one slot: both phases, and what happens when another proposer is faster.
//!
//! Invariants:
//! * Each attempt has a ballot of its own, above every ballot seen in the slot, that no other incarnation can have.
//! * Phase 2 proposes the reported value of the highest ballot if any promise of the quorum reported one.
//! * Answers count only for the run's own ballot, once per member, this replica's own only once durable.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use super::message::{Accept, Accepted, Prepare, Promise, PromiseValue, Refused, SlotSet};
use super::slots::{Phase, Run, Votes};
use super::{Basic, mark};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Value};

/// A pause is at most this many times as long as a phase takes.
const PAUSE_MAX: u32 = 50;
/// A phase counts as no shorter than this, so that a pause is never nothing.
const PACE_MIN: Duration = Duration::from_micros(50);
/// Where the incarnation lies in a round.
const ATTEMPT_SHIFT: u32 = 32;

impl Basic {
    /// A ballot of this replica above `seen`, different from all it used in other lives.
    fn ballot_above(&self, seen: Ballot) -> Ballot {
        let attempt = (seen.round >> ATTEMPT_SHIFT) + 1;
        // Two lives of a replica may propose different values: their ballots must differ. [Basic Paxos, T-B5]
        let life = if holds(Rule::BasicBallotNeverReused) { u64::from(self.incarnation.0) } else { 0 };
        Ballot { round: attempt << ATTEMPT_SHIFT | life, owner: self.me().0 }
    }

    /// This replica begins to propose in `slot`; nothing to propose fills a hole.
    pub(super) fn start_run(&mut self, slot: Slot, batch: Option<Frame>) {
        let for_batch = batch.is_some();
        let now = self.now;
        let Some(open) = self.open.reach(slot) else { return };
        assert!(open.run.is_none() && !open.chosen, "one run per open slot: {slot:?}");
        open.run = Some(Run {
            ballot: Ballot::default(),
            phase: Phase::Prepare,
            batch,
            reported: None,
            value: None,
            votes: Votes::default(),
            lost_count: 0,
            resend_count: 0,
            since: now,
            deadline: now,
        });
        if for_batch {
            self.placed_count += 1;
            self.proposing[self.me().index()] = Some(now);
        }
        self.note_used(slot);
        self.start_round(slot);
    }

    /// Phase 1 in a new ballot; the request leaves at the end of the turn with those of other slots.
    fn start_round(&mut self, slot: Slot) {
        let accepted = self.window.get(slot).map_or(Ballot::default(), |entry| entry.ballot);
        let Some(open) = self.open.get(slot) else { return };
        let Some(run) = &open.run else { return };
        let ballot = self.ballot_above(open.promised.max(open.seen).max(run.ballot).max(accepted));
        let (now, deadline) = (self.now, self.now + self.resend_wait(0));
        let Some(run) = self.open.get_mut(slot).and_then(|open| open.run.as_mut()) else { return };
        run.ballot = ballot;
        run.phase = Phase::Prepare;
        run.reported = None;
        run.value = None;
        run.votes = Votes::default();
        run.resend_count = 0;
        run.since = now;
        run.deadline = deadline;
        mark(&mut self.due.prepares, run.batch.is_some(), ballot, slot);
        self.counters.prepares += 1;
        self.wake(deadline);
    }

    /// A phase that takes longer than this is late.
    pub(super) fn slow(&self) -> Duration {
        self.tuning.slow_after.max(4 * self.pace)
    }

    /// How long to wait for answers before asking again.
    fn resend_wait(&self, resend_count: u32) -> Duration {
        self.slow() * (1 << resend_count.min(4))
    }

    /// Full jitter: proposers that met once rarely meet again.
    fn pause(&mut self, lost_count: u32) -> Duration {
        let base = self.pace.max(PACE_MIN);
        self.random_wait(base.saturating_mul(1 << lost_count.min(16)).min(base * PAUSE_MAX))
    }

    pub(super) fn on_promise(&mut self, from: ReplicaId, message: Promise, effects: &mut Effects<Self>) {
        for slot in message.slots.iter() {
            self.count_promise(from, message.ballot, slot, None, effects);
        }
    }

    pub(super) fn on_promise_value(
        &mut self,
        from: ReplicaId,
        message: PromiseValue,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let PromiseValue { ballot, slot, accepted } = message;
        if body.as_ref().is_some_and(|frame| !self.has_room_to_adopt(slot, frame)) {
            // As if it were lost: asked for again.
            return;
        }
        self.count_promise(from, ballot, slot, Some((accepted, Value::from(body))), effects);
    }

    fn count_promise(
        &mut self,
        from: ReplicaId,
        ballot: Ballot,
        slot: Slot,
        accepted: Option<(Ballot, Value)>,
        effects: &mut Effects<Self>,
    ) {
        let quorum = self.quorum();
        let Some(run) = self.open.get_mut(slot).and_then(|open| open.run.as_mut()) else { return };
        if run.ballot != ballot || run.phase != Phase::Prepare {
            return;
        }
        if let Some((accepted, value)) = accepted {
            let highest = run.reported.as_ref().is_none_or(|(reported, _)| accepted > *reported);
            // Only the value of the highest ballot can have been chosen. [Basic Paxos, T-B1]
            if highest || !holds(Rule::BasicAdoptHighest) {
                run.reported = Some((accepted, value));
            }
        }
        if run.votes.add(from) >= quorum {
            self.start_accept(slot, effects);
        }
    }

    /// The promises are in.
    fn start_accept(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        let (now, deadline) = (self.now, self.now + self.resend_wait(0));
        let Some(run) = self.open.get_mut(slot).and_then(|open| open.run.as_mut()) else { return };
        let own = Value::from(run.batch.clone());
        let free = run.reported.is_none() || run.batch.is_none() && !holds(Rule::BasicNoopOnlyIfFree);
        let value = match run.reported.take() {
            Some((_, reported)) if !free => reported,
            _ => own.clone(),
        };
        self.counters.adopted += u64::from(value != own);
        self.counters.noops += u64::from(free && value == Value::Noop);
        let measured = now.since(run.since);
        self.pace = ((7 * self.pace + measured) / 8).min(self.tuning.heartbeat_interval);
        run.phase = Phase::Accept;
        run.votes = Votes::default();
        run.resend_count = 0;
        run.since = now;
        run.deadline = deadline;
        match &value {
            Value::Noop => mark(&mut self.due.noops, (), run.ballot, slot),
            Value::Batch(frame) => {
                let message = Accept { ballot: run.ballot, slots: SlotSet::one(slot) };
                effects.send(Dest::All, message, Some(frame));
            }
        }
        run.value = Some(value);
        self.wake(deadline);
    }

    pub(super) fn on_accepted(&mut self, from: ReplicaId, message: Accepted, effects: &mut Effects<Self>) {
        let Accepted { ballot, slots } = message;
        for slot in slots.iter() {
            let quorum = self.quorum();
            let Some(run) = self.open.get_mut(slot).and_then(|open| open.run.as_mut()) else { continue };
            if run.ballot != ballot {
                continue;
            }
            // While it pauses, the votes of the last ballot still count.
            let Some(value) = run.value.clone() else { continue };
            if run.votes.add(from) >= quorum {
                mark(&mut self.due.chosen, (), ballot, slot);
                self.learn(slot, Some(ballot), Some(value), effects);
            }
        }
    }

    pub(super) fn on_refused(&mut self, message: Refused) {
        let Refused { ballot, slot, promised } = message;
        let Some(open) = self.open.get_mut(slot) else { return };
        let Some(run) = open.run.as_mut() else { return };
        if run.ballot != ballot || promised <= ballot {
            return;
        }
        open.seen = open.seen.max(promised);
        if run.phase == Phase::Pause {
            return;
        }
        if run.batch.is_none() && run.phase == Phase::Prepare {
            // Somebody is at work there: this replica need not be, unless it stays open.
            open.run = None;
            self.counters.duels += 1;
            self.touch(slot);
            return;
        }
        run.phase = Phase::Pause;
        run.lost_count += 1;
        let lost_count = run.lost_count;
        self.counters.duels += 1;
        let deadline = self.now + self.pause(lost_count);
        if let Some(run) = self.open.get_mut(slot).and_then(|open| open.run.as_mut()) {
            run.deadline = deadline;
            if !holds(Rule::BasicOneSlotAtATime)
                && let Some(batch) = run.batch.take()
            {
                self.placed_count -= 1;
                self.queue.push_front(batch);
            }
        }
        self.wake(deadline);
    }

    /// The run's time has come: the pause is over, or answers are missing.
    pub(super) fn on_run_time(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        let now = self.now;
        let others_know = slot <= self.known_to_others();
        let Some(run) = self.open.get_mut(slot).and_then(|open| open.run.as_mut()) else { return };
        if others_know {
            // Chosen: to be learned, not to be fought for.
            let wait = self.tuning.slow_after;
            run.deadline = now + wait;
            return;
        }
        if run.phase == Phase::Pause {
            self.start_round(slot);
            return;
        }
        run.resend_count += 1;
        // Logs or links are slower than thought: the more reason not to start over too soon.
        self.pace = self.pace.max(now.since(run.since)).min(self.tuning.heartbeat_interval);
        let (resend_count, ballot, members) = (run.resend_count, run.ballot, run.votes.members);
        let for_batches = run.batch.is_some();
        let value = run.value.clone();
        // This replica too: it may have had no room for the value.
        let missing = |id: &ReplicaId| !members.contains(*id);
        for id in (0..self.group.replica_count as u8).map(ReplicaId).filter(missing) {
            let slots = SlotSet::one(slot);
            match &value {
                None => effects.send(Dest::One(id), Prepare { ballot, slots, for_batches }, None),
                Some(value) => effects.send(Dest::One(id), Accept { ballot, slots }, value.body()),
            }
        }
        let deadline: Instant = now + self.resend_wait(resend_count);
        if let Some(run) = self.open.get_mut(slot).and_then(|open| open.run.as_mut()) {
            run.deadline = deadline;
        }
    }
}
