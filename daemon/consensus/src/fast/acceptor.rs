//! Promises and votes.
//!
//! Invariants:
//! * A term below the promise is refused before anything else is looked at.
//! * A slot may be promised to the classic round of a term by itself; it gets no fast vote in that term afterwards (T-F11).
//! * One vote per slot and round: asked again, the acceptor repeats the vote it gave (PF1).
//! * Where something else is known to be chosen there is no vote, whoever asks and in whatever round. A later round that does not
//!   propose what an earlier one chose has come about by somebody who forgot a vote: one that is right would complete its quorum for
//!   what it knows to be wrong.
//! * A slot in which a forgotten life may have voted gets neither a vote nor a promise, ever.
//! * A fast vote needs the plan of the promised term, and lies at or above the plan's first slot.
//! * The votes of a turn leave together, after the last of their records.
//! * A vote is withheld while there is no memory for its batch; the first open slot always gets its vote.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use super::message::{
    Accept, Decided, Mode, Plan, Prepare, Promise, PromiseRecord, PromiseVote, Propose, Record, Refused,
    Skip, SlotPrepare, SlotPromise, SlotRecord, VOTES_MAX, VotedSlots, Votes,
};
use super::round::{Round, ValueName, Vote};
use super::{Fast, Role};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Hint, Value};

impl Fast {
    /// From now on `term` is obeyed and no lower one. Claims about it need a record of it first.
    pub(super) fn promise(&mut self, term: Ballot) {
        assert!(term >= self.promised || !holds(Rule::FastRefuseOldTerm), "a promise never falls");
        self.promised = term;
        self.seen = self.seen.max(term);
        self.plan = None;
        self.next_free = Slot(0);
    }

    fn refuse(&mut self, from: ReplicaId, term: Ballot, effects: &mut Effects<Self>) {
        self.counters.refused += 1;
        effects.send(Dest::One(from), Refused { term, promised: self.promised }, None);
    }

    pub(super) fn on_prepare(&mut self, from: ReplicaId, message: Prepare, effects: &mut Effects<Self>) {
        let Prepare { term, from_slot } = message;
        if term.owner() != from {
            return;
        }
        if from == self.me() {
            self.own_promise_is_durable(term);
        }
        if term < self.promised && holds(Rule::FastRefuseOldTerm) {
            self.refuse(from, term, effects);
            return;
        }
        if term != self.promised {
            self.become_follower(effects);
            self.promise(term);
            // The candidate gets the time to show itself that a coordinator would have.
            self.heard = Some(self.now);
        }
        if self.recorded != term {
            self.recorded = term;
            let _ = effects.persist(Record::Promise(PromiseRecord { term, commit: self.commit() }), None);
        }
        // The last point covers the promise and every vote that is reported. [D1]
        let after = effects.last_persist();
        let votes =
            || self.slots.from(from_slot).filter_map(|(slot, open)| open.vote.map(|vote| (slot, open, vote)));
        let vote_count = votes().count() as u64;
        let promise = Promise { term, from_slot, commit: self.commit(), vote_count };
        effects.send_after(after, Dest::One(from), promise, None);
        for (slot, open, vote) in votes() {
            let report = PromiseVote { term, slot, round: vote.round };
            effects.send_after(after, Dest::One(from), report, open.payload(vote.name));
        }
    }

    /// Whether a message of `term` from `from` is to be followed; a lower term is refused, a higher one promised.
    pub(super) fn admit_term(&mut self, from: ReplicaId, term: Ballot, effects: &mut Effects<Self>) -> bool {
        if term < self.promised && holds(Rule::FastRefuseOldTerm) {
            self.refuse(from, term, effects);
            return false;
        }
        if term != self.promised {
            if term.owner() == self.me() {
                // A term of this replica that its log does not know: nothing of it is to be believed.
                return false;
            }
            self.become_follower(effects);
            self.promise(term);
        }
        true
    }

    /// Follows the coordinator of `term`; false if that term is not to be obeyed.
    pub(super) fn obey(&mut self, from: ReplicaId, term: Ballot, effects: &mut Effects<Self>) -> bool {
        if term.owner() != from {
            return false;
        }
        if from == self.me() {
            return self.role == Role::Coordinator && term == self.promised;
        }
        if !self.admit_term(from, term, effects) {
            return false;
        }
        if self.role != Role::Follower {
            self.become_follower(effects);
        }
        self.heard = Some(self.now);
        self.arm_election();
        self.leader = Some(from);
        true
    }

    /// Learns the plan of the promised term; a plan never changes within a term.
    pub(super) fn adopt_plan(&mut self, plan: Plan, effects: &mut Effects<Self>) {
        if self.plan.is_none() {
            self.plan = Some(plan);
            self.leader = Some(plan.term.owner());
            self.next_free = plan.from_slot;
            self.follow_plan(effects);
        }
    }

    pub(super) fn on_any(&mut self, from: ReplicaId, plan: Plan, effects: &mut Effects<Self>) {
        if self.obey(from, plan.term, effects) {
            self.adopt_plan(plan, effects);
        }
    }

    /// A proposer says under which plan it proposes: a relayed Any.
    fn accept_plan(&mut self, from: ReplicaId, plan: Plan, effects: &mut Effects<Self>) -> bool {
        if !plan.mode.is_fast() || !self.admit_term(from, plan.term, effects) {
            return false;
        }
        self.adopt_plan(plan, effects);
        self.plan == Some(plan)
    }

    pub(super) fn on_propose(
        &mut self,
        from: ReplicaId,
        message: Propose,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let Some(frame) = body else { return };
        if !self.accept_plan(from, message.plan, effects) {
            return;
        }
        if let Some(slot) = message.slot {
            self.vote_fast(from, slot, Some(&frame), effects);
            return;
        }
        let name = ValueName::of(Some(&frame));
        let is_it = |(slot, value): (Slot, &Value)| (ValueName::of_value(value) == name).then_some(slot);
        // The home of a client's batch may propose it again because it was executed there before it knew whom to answer.
        let is_retry = message.attempt > 1 && !frame.id().is_of_client();
        let done = is_retry.then(|| self.slots.tail_backwards().find_map(is_it)).flatten();
        if let Some(slot) = done {
            self.tell_decided(from, slot, effects);
            return;
        }
        self.vote_in_free_slot(message.plan, &frame, effects);
    }

    /// Votes for a batch whose slot its proposer leaves to the acceptors.
    pub(super) fn vote_in_free_slot(&mut self, plan: Plan, frame: &Frame, effects: &mut Effects<Self>) {
        let name = ValueName::of(Some(frame));
        // Its earlier slot may still be its own: asked again, the acceptor repeats its vote. [T-F6]
        let placed = self.slots.from(self.commit()).find_map(|(slot, open)| {
            let voted = open.vote.is_some_and(|vote| vote.name == name && vote.round.term == self.promised);
            (voted && open.chosen.is_none_or(|chosen| chosen == name)).then_some(slot)
        });
        let slot = match placed.filter(|_| holds(Rule::FastSecondSlotAfterLoss)) {
            Some(slot) => Some(slot),
            None => self.free_slot(plan, frame),
        };
        if let Some(slot) = slot {
            // An open slot: there is no decision that anybody would have to be told.
            self.vote_fast(self.me(), slot, Some(frame), effects);
        }
    }

    /// The most bytes of batches that open slots hold, the first one aside.
    fn held_size_max(&self) -> usize {
        2 * self.tuning.unchosen_size_max
    }

    /// Whether there is memory to vote for a batch in `slot`.
    pub(super) fn has_room(&self, slot: Slot, body: Option<&Frame>) -> bool {
        self.slots.has_room(slot, body, self.held_size_max())
    }

    /// Keeps a batch that came by, if there is memory for it.
    pub(super) fn keep(&mut self, slot: Slot, body: Option<&Frame>) {
        let size_max = self.held_size_max();
        self.slots.keep(slot, body, size_max);
    }

    /// The first slot where this acceptor may vote for `frame` in the fast round, if there is memory for that.
    fn free_slot(&mut self, plan: Plan, frame: &Frame) -> Option<Slot> {
        let step = plan.mode.step();
        let remainder = match plan.mode {
            Mode::Stripes(_) => plan.mode.stripe(frame.id().proposer)?,
            _ => 0,
        };
        let fast = Round::fast(plan.term);
        let mut slot = plan.from_slot.max(self.commit().next());
        if plan.mode == Mode::FreeForAll {
            slot = slot.max(self.next_free);
        }
        slot = first_in_stripe(slot.max(self.floor.next()), step, remainder);
        while let Some(open) = self.slots.get(slot)
            && (open.chosen.is_some()
                || open.promised > fast
                || open.vote.is_some_and(|vote| vote.round >= fast))
        {
            slot = Slot(slot.0 + step);
        }
        if !self.has_room(slot, Some(frame)) {
            return None;
        }
        if plan.mode == Mode::FreeForAll && self.slots.admits(slot) {
            self.next_free = slot.next();
        }
        Some(slot)
    }

    pub(super) fn on_skip(&mut self, from: ReplicaId, message: Skip, effects: &mut Effects<Self>) {
        if !self.accept_plan(from, message.plan, effects) {
            return;
        }
        for index in 0..message.count {
            let slot = Slot(message.first.0 + index * message.plan.mode.step());
            if slot > self.commit() && !self.vote_fast(from, slot, None, effects) {
                break;
            }
        }
    }

    /// Votes in the fast round of the promised term, or repeats the vote. False if the slot is out of reach.
    fn vote_fast(
        &mut self,
        from: ReplicaId,
        slot: Slot,
        body: Option<&Frame>,
        effects: &mut Effects<Self>,
    ) -> bool {
        if slot <= self.commit() {
            self.tell_decided(from, slot, effects);
            return true;
        }
        let round = Round::fast(self.promised);
        let covered = self.plan.is_some_and(|plan| plan.mode.is_fast() && slot >= plan.from_slot);
        if !covered || !self.slots.admits(slot) {
            return false;
        }
        if self.knows_better(from, slot, round, body, effects) {
            return true;
        }
        // Also if the vote goes elsewhere: it may turn out to be chosen here.
        self.keep(slot, body);
        self.continue_recovery(slot, effects);
        if self.is_below_floor(slot) {
            return true;
        }
        let has_room = self.has_room(slot, body);
        let Some(open) = self.slots.open(slot) else { return false };
        // The coordinator counts on no further fast votes here. [T-F11]
        let is_blocked = open.promised > round && holds(Rule::FastSlotPromiseBlocks);
        // A second vote in the round could complete a second quorum. [PF1]
        let voted = open.vote.filter(|vote| vote.round >= round && holds(Rule::FastVoteOnce));
        if let Some(vote) = voted {
            if vote.round.term == self.promised {
                self.ballot_box.push((slot, vote));
            }
        } else if has_room && !is_blocked {
            self.vote(slot, round, body, effects);
        }
        true
    }

    /// Whether something else is known to be chosen in an open slot where `from` wants a vote in `round`; it is told what, if that is here.
    /// A round above the one that chose it has one value there and it is this one, or, if it is a fast round, lies elsewhere.
    fn knows_better(
        &mut self,
        from: ReplicaId,
        slot: Slot,
        round: Round,
        body: Option<&Frame>,
        effects: &mut Effects<Self>,
    ) -> bool {
        let Some(open) = self.slots.get(slot).filter(|open| open.rules_out(ValueName::of(body))) else {
            return false;
        };
        let known = open.chosen.and_then(|chosen| self.slots.value(slot, chosen));
        let is_above = open.chosen_in.is_some_and(|of| of < round || of == round && round.classic);
        let Some(known) = known else { return true };
        let coordinator = round.term.owner();
        if is_above && coordinator != self.me() {
            effects.contradict(slot, &known, body, coordinator);
        }
        self.send_other(from, Decided { slot, commit: self.commit() }, known.body(), effects);
        true
    }

    pub(super) fn on_slot_prepare(
        &mut self,
        from: ReplicaId,
        message: SlotPrepare,
        effects: &mut Effects<Self>,
    ) {
        let SlotPrepare { term, slot } = message;
        if !self.obey(from, term, effects) {
            return;
        }
        if slot <= self.commit() {
            self.tell_decided(from, slot, effects);
            return;
        }
        if self.is_below_floor(slot) {
            return;
        }
        let round = Round::classic(term);
        let commit = self.commit();
        let Some(open) = self.slots.open(slot) else { return };
        if open.promised < round {
            open.promised = round;
            self.recorded = term;
            let _ = effects.persist(Record::SlotPromise(SlotRecord { round, slot, commit }), None);
        }
        let vote = open.vote;
        let body = vote.and_then(|vote| open.payload(vote.name));
        let promise = SlotPromise { term, slot, voted: vote.map(|vote| vote.round) };
        effects.send_after(effects.last_persist(), Dest::One(from), promise, body);
    }

    pub(super) fn on_accept(
        &mut self,
        from: ReplicaId,
        message: Accept,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let Accept { term, slot } = message;
        if !self.obey(from, term, effects) {
            return;
        }
        if slot <= self.commit() {
            self.tell_decided(from, slot, effects);
            return;
        }
        let round = Round::classic(term);
        if self.knows_better(from, slot, round, body.as_ref(), effects) {
            return;
        }
        if self.is_below_floor(slot) {
            self.keep(slot, body.as_ref());
            return;
        }
        let has_room = self.has_room(slot, body.as_ref());
        let Some(open) = self.slots.open(slot) else { return };
        match open.vote {
            Some(vote) if vote.round >= round => self.ballot_box.push((slot, vote)),
            _ if has_room => self.vote(slot, round, body.as_ref(), effects),
            _ => {}
        }
    }

    /// Votes, writes it down, and says so at the end of the turn.
    fn vote(&mut self, slot: Slot, round: Round, body: Option<&Frame>, effects: &mut Effects<Self>) {
        let vote = Vote { round, name: ValueName::of(body) };
        let commit = self.commit();
        let Some(open) = self.slots.open(slot) else { return };
        if open.vote.is_some_and(|old| old.name != vote.name) {
            self.counters.overwritten += 1;
        }
        open.promised = open.promised.max(round);
        open.vote = Some(vote);
        self.slots.keep_voted(slot, body);
        self.recorded = round.term;
        // The message names the last point of the turn, which is not before this one. [D1, D10]
        let _ = effects.persist(Record::Vote(SlotRecord { round, slot, commit }), body);
        self.voted = self.voted.max(slot);
        self.raise_horizon(slot);
        self.ballot_box.push((slot, vote));
    }

    /// Tells every replica, this one included, the votes of the turn.
    pub(super) fn send_votes(&mut self, effects: &mut Effects<Self>) {
        if self.ballot_box.is_empty() {
            return;
        }
        let step = self.plan.map_or(1, |plan| plan.mode.step());
        let after = effects.last_persist();
        let mut message: Option<Votes> = None;
        let mut ballot_box = std::mem::take(&mut self.ballot_box);
        ballot_box.sort_unstable_by_key(|(slot, vote)| (vote.round, vote.name, *slot));
        ballot_box.dedup();
        for (slot, vote) in ballot_box.drain(..) {
            if let Some(votes) = message.as_mut().filter(|votes| votes.round == vote.round)
                && append_vote(votes, slot, vote.name)
            {
                continue;
            }
            if let Some(votes) = message.take() {
                effects.send_after(after, Dest::All, votes, None);
            }
            let entries = [VotedSlots::default(); VOTES_MAX];
            let mut votes = Votes { round: vote.round, step: step as u8, count: 0, entries };
            append_vote(&mut votes, slot, vote.name);
            message = Some(votes);
        }
        if let Some(votes) = message {
            effects.send_after(after, Dest::All, votes, None);
        }
        self.ballot_box = ballot_box;
    }

    /// Sends `message` to `to` unless that is this replica.
    pub(super) fn send_other<M: Hint<Self>>(
        &self,
        to: ReplicaId,
        message: M,
        body: Option<&Frame>,
        effects: &mut Effects<Self>,
    ) {
        if to != self.me() {
            effects.send(Dest::One(to), message, body);
        }
    }
}

/// The first slot from `slot` on that leaves `remainder` when divided by `step`.
pub(super) fn first_in_stripe(slot: Slot, step: u64, remainder: u64) -> Slot {
    Slot(slot.0 + (step + remainder - slot.0 % step) % step)
}

/// Adds a vote to a message; false if it does not fit.
fn append_vote(votes: &mut Votes, slot: Slot, name: ValueName) -> bool {
    let used = usize::from(votes.count);
    if let Some(last) = votes.entries[..used].last_mut()
        && last.name == name
        && last.first.0 + u64::from(last.count) * u64::from(votes.step) == slot.0
    {
        last.count += 1;
        return true;
    }
    let Some(place) = votes.entries.get_mut(used) else { return false };
    *place = VotedSlots { first: slot, name, count: 1 };
    votes.count += 1;
    true
}
