//! Recovering single slots: collisions, lost messages, holes.
//!
//! Invariants:
//! * A slot of the fast mode goes to the classic round only on the strength of a quorum of answers for that slot: votes of
//!   the term's fast round, which promise as much, or [`SlotPromise`]s. The value is what rule O4 picks from them (PF5, PF7).
//! * One value per slot is proposed in the classic round of a term, and none beside what is known to be chosen.

use panch_wire::frame::Frame;
use panch_wire::ids::{REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use super::message::{Accept, Mode, SlotPrepare, SlotPromise};
use super::picking::{Pick, pick};
use super::round::{Round, ValueName, Vote};
use super::slots::Open;
use super::{Fast, Role, Timer};
use crate::protocol::{Dest, Effects, Value};

impl Fast {
    /// While slots are open, they are looked at every now and then.
    pub(super) fn arm_repair(&mut self) {
        if self.role == Role::Coordinator && !self.timers.is_armed(Timer::Repair) {
            self.timers.arm(Timer::Repair, self.now + self.tuning.slow_after / 2);
        }
    }

    /// Proposes `value` in the classic round of the term, for good; not if something else is known to be chosen.
    pub(super) fn send_accept(&mut self, slot: Slot, value: Value, effects: &mut Effects<Self>) {
        let term = self.promised;
        let Some(open) = self.slots.open(slot) else { return };
        if open.rules_out(ValueName::of_value(&value)) {
            // Those that answered have forgotten it. Who does not know it yet is told when it is committed here.
            return;
        }
        assert!(open.recovery.proposed.is_none(), "one value per slot and classic round");
        open.recovery.proposed = Some(value.clone());
        open.recovery.since = Some(self.now);
        self.slots.keep_voted(slot, value.body());
        effects.send(Dest::All, Accept { term, slot }, value.body());
        self.arm_repair();
    }

    /// Gives up the fast round of `slot` as soon as no value can reach a fast quorum there with the votes of those that are relied on.
    pub(super) fn look_for_collision(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        if !self.is_fast_here(slot) {
            return;
        }
        let round = Round::fast(self.promised);
        let quorum = self.fast_quorum();
        let Some(open) = self.slots.get(slot) else { return };
        if open.recovery.begun || open.chosen.is_some() {
            return;
        }
        let votes = || open.tally.iter().flatten().filter(|vote| vote.round == round);
        let most = votes()
            .map(|vote| votes().filter(|other| other.name == vote.name).count())
            .max()
            .unwrap_or_default();
        // Who is not relied on may never vote: a slot that only its vote could decide would wait for a timer, and so would every
        // command that collides. Should the vote come after all, rule O4 has allowed for it.
        let has_voted = |id: &ReplicaId| open.tally[id.index()].is_some_and(|vote| vote.round == round);
        let yet_to_vote = self.term.fit.iter().filter(|id| !has_voted(id)).count();
        if most + yet_to_vote < quorum {
            self.counters.collisions += 1;
            self.recover(slot, effects);
        }
    }

    /// Whether this replica coordinates and `slot` belongs to the fast rounds of its term.
    fn is_fast_here(&self, slot: Slot) -> bool {
        self.role == Role::Coordinator
            && self.plan.is_some_and(|plan| plan.mode.is_fast() && slot >= plan.from_slot)
    }

    /// Whether the fast round of `slot` is still on.
    pub(super) fn may_give_up(&self, slot: Slot) -> bool {
        let is_open = |open: &Open| !open.recovery.begun && open.chosen.is_none();
        self.is_fast_here(slot) && self.slots.get(slot).is_some_and(is_open)
    }

    /// Moves `slot` to the classic round.
    pub(super) fn recover(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        let now = self.now;
        let Some(open) = self.slots.open(slot) else { return };
        open.recovery.begun = true;
        open.recovery.since = Some(now);
        self.counters.recoveries += 1;
        self.term.slot_count += 1;
        if !holds(Rule::FastNoopAfterPromises) && !open.is_voted() {
            self.send_accept(slot, Value::Noop, effects);
            return;
        }
        self.pick_value(slot, effects);
        self.ask_for_promises(slot, effects);
    }

    /// Something was learned about `slot` that its recovery may have waited for: a vote, a promise, the bytes of a batch.
    pub(super) fn continue_recovery(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        if self.is_fast_here(slot) {
            self.pick_value(slot, effects);
        }
    }

    fn ask_for_promises(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        let term = self.promised;
        if self.slots.get(slot).is_some_and(|open| open.recovery.proposed.is_none()) {
            for id in self.all().iter() {
                if self.answer(slot, id).is_none() {
                    effects.send(Dest::One(id), SlotPrepare { term, slot }, None);
                }
            }
        }
    }

    /// The latest vote of `id` below the classic round of this term, if it is certain that it casts no other below it, and
    /// the value of the vote is here.
    fn answer(&self, slot: Slot, id: ReplicaId) -> Option<Option<Vote>> {
        let open = self.slots.get(slot)?;
        let vote = open.tally[id.index()];
        // A vote of the fast round is the last one below the classic round: it promises as much. [Fast Paxos §3.2]
        let voted = vote.is_some_and(|vote| vote.round == Round::fast(self.promised));
        let promised = open.recovery.promises.contains(id);
        let here = vote.is_none_or(|vote| self.slots.value(slot, vote.name).is_some());
        ((voted || promised) && here).then_some(vote)
    }

    /// Proposes what rule O4 picks, once a quorum has answered.
    fn pick_value(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        let Some(open) = self.slots.get(slot) else { return };
        if !open.recovery.begun || open.recovery.proposed.is_some() {
            return;
        }
        let mut answers = [None; REPLICAS_MAX];
        let mut count = 0;
        for id in self.all().iter() {
            if let Some(vote) = self.answer(slot, id) {
                answers[count] = vote;
                count += 1;
            }
        }
        let needed = if holds(Rule::FastRecoveryQuorum) { self.quorum() } else { 1 };
        if count < needed || answers.iter().flatten().any(|vote| vote.round > Round::fast(self.promised)) {
            return;
        }
        let Some(value) = self.picked(slot, &answers[..count]) else { return };
        self.send_accept(slot, value, effects);
    }

    /// The value that the answers demand or allow; `None` while its bytes are elsewhere.
    pub(super) fn picked(&mut self, slot: Slot, answers: &[Option<Vote>]) -> Option<Value> {
        let pick = pick(self.group.replica_count, answers);
        if !holds(Rule::FastNeverOwnValue) {
            return Some(self.proposer.oldest().map_or(Value::Noop, Value::Batch));
        }
        let value = match pick {
            Pick::Forced(name) | Pick::Free(name) => self.slots.value(slot, name)?,
            Pick::Empty => Value::Noop,
        };
        match pick {
            Pick::Forced(_) => self.counters.picks_forced += 1,
            Pick::Free(_) => self.counters.picks_free += 1,
            Pick::Empty => self.counters.noops += 1,
        }
        Some(value)
    }

    pub(super) fn on_slot_promise(
        &mut self,
        from: ReplicaId,
        message: SlotPromise,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let SlotPromise { term, slot, voted } = message;
        if !self.is_coordinator_of(term) {
            return;
        }
        self.note_contact(from);
        self.note_claim(from);
        if !self.slots.admits(slot) {
            return;
        }
        self.keep(slot, body.as_ref());
        if let Some(round) = voted {
            // A durable vote like any other: it may be the one that was missing.
            self.count_vote(from, slot, Vote { round, name: ValueName::of(body.as_ref()) }, effects);
        }
        if let Some(open) = self.slots.open(slot) {
            open.recovery.promises.insert(from);
            self.continue_recovery(slot, effects);
        }
    }

    /// Looks for slots that make no progress: lost messages, replicas that do not vote, proposers that do not propose.
    pub(super) fn repair_slots(&mut self, effects: &mut Effects<Self>) {
        if self.role != Role::Coordinator {
            return;
        }
        let patience = self.tuning.slow_after;
        self.fill_classic(effects);
        let end = self.horizon.max(self.term.next.prev());
        self.note_late_voters(end);
        for slot in (self.commit().0 + 1..=end.0).map(Slot) {
            let now = self.now;
            let Some(open) = self.slots.open(slot) else { break };
            if open.chosen.is_some() {
                continue;
            }
            let since = *open.recovery.since.get_or_insert(now);
            if now.since(since) < patience {
                continue;
            }
            if open.recovery.proposed.is_some() {
                self.repeat_accept(slot, effects);
            } else if open.recovery.begun {
                open.recovery.since = Some(now);
                self.continue_recovery(slot, effects);
                self.ask_for_promises(slot, effects);
            } else if self.is_fast_here(slot) {
                self.note_misses(slot);
                self.recover(slot, effects);
            }
        }
        if self.commit() < end {
            self.arm_repair();
        }
        if self.is_stuck_below_term() {
            self.renew_term(effects);
        } else {
            self.drop_silent_voters(effects);
        }
    }

    /// The next slot belongs to nobody in this term, because a promise called it chosen, and nobody is left who can say what
    /// was chosen there: another first phase finds out.
    fn is_stuck_below_term(&mut self) -> bool {
        let slot = self.commit().next();
        let open = self.slots.get(slot);
        let owned = open.is_some_and(|open| open.chosen.is_some() || open.recovery.proposed.is_some());
        self.waited_for_commit() >= self.tuning.election_timeout
            && self.is_below_plan(slot)
            && !owned
            && !self.is_informed()
    }

    /// Classic mode: a vote of an older term above the slots in use must not keep readers waiting.
    fn fill_classic(&mut self, effects: &mut Effects<Self>) {
        let classic = self.plan.is_some_and(|plan| plan.mode == Mode::Classic);
        while classic && self.term.next <= self.horizon && self.slots.admits(self.term.next) {
            let slot = self.term.next;
            self.term.next = slot.next();
            self.counters.noops += 1;
            self.send_accept(slot, Value::Noop, effects);
        }
        self.term.next = self.term.next.max(self.commit().next());
    }

    fn repeat_accept(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        let (term, now, all) = (self.promised, self.now, self.all());
        let Some(open) = self.slots.get_mut(slot) else { return };
        open.recovery.since = Some(now);
        let Some(value) = &open.recovery.proposed else { return };
        let round = Round::classic(term);
        for id in all.iter() {
            if open.tally[id.index()].is_none_or(|vote| vote.round < round) {
                effects.send(Dest::One(id), Accept { term, slot }, value.body());
            }
        }
    }
}
