//! Counting votes, committing in order, and what the log says after a restart.
//!
//! Invariants:
//! * Votes count per member and only with votes of the same round; a fast round needs a fast quorum.
//! * A slot is executed only with the bytes whose name was chosen (PF6).
//! * Before a record calls a slot chosen, the log holds the chosen value: as the own latest vote, or written down here.
//! * A replica's own vote is counted like anybody's: when it comes back durable.

use panch_wire::frame::Frame;
use panch_wire::ids::{BatchId, Incarnation, ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use super::Fast;
use super::message::{LearnedRecord, Record, Votes};
use super::round::{Round, ValueName, Vote};
use super::slots::Open;
use crate::protocol::{Effects, Value};

impl Fast {
    /// A vote is known in `slot`.
    pub(super) fn raise_horizon(&mut self, slot: Slot) {
        if slot > self.horizon {
            self.horizon = slot;
            self.due.place = true;
            self.arm_repair();
        }
    }

    pub(super) fn on_votes(&mut self, from: ReplicaId, message: &Votes, effects: &mut Effects<Self>) {
        if from == self.me() {
            // Claims come back to their sender only once durable.
            self.stalled = false;
        }
        self.seen = self.seen.max(message.round.term);
        if message.round.term == self.promised {
            self.note_contact(from);
            self.note_votes(from, message.round);
        }
        for (slot, vote) in message.iter() {
            self.count_vote(from, slot, vote, effects);
        }
    }

    /// Counts a vote that is durable at `from`.
    pub(super) fn count_vote(
        &mut self,
        from: ReplicaId,
        slot: Slot,
        vote: Vote,
        effects: &mut Effects<Self>,
    ) {
        if !self.slots.admits(slot) {
            return;
        }
        self.raise_horizon(slot);
        let mut voter = from;
        if !holds(Rule::FastVotePerMember) {
            // As a counter would: every arrival is one more vote.
            let taken = |id: &ReplicaId| {
                let vote_of = self.slots.get(slot).and_then(|open| open.tally[id.index()]);
                vote_of.is_some_and(|old| old.round >= vote.round)
            };
            voter = self.all().iter().find(|id| !taken(id)).unwrap_or(from);
        }
        if !self.slots.count(voter, slot, vote) {
            return;
        }
        self.look_for_quorum(slot, vote, effects);
        self.look_for_collision(slot, effects);
        self.look_for_stray(slot, vote, effects);
        self.continue_recovery(slot, effects);
    }

    fn look_for_quorum(&mut self, slot: Slot, vote: Vote, effects: &mut Effects<Self>) {
        let Some(open) = self.slots.get(slot) else { return };
        if open.chosen.is_some() {
            return;
        }
        let same = |other: &&Vote| {
            other.name == vote.name && (other.round == vote.round || !holds(Rule::FastVotesOfOneRound))
        };
        let votes = open.tally.iter().flatten().filter(same).count();
        let needed = if vote.round.classic || !holds(Rule::FastQuorumSize) {
            self.quorum()
        } else {
            self.fast_quorum()
        };
        if votes >= needed {
            if vote.round.classic {
                self.counters.classic_chosen += 1;
            } else {
                self.counters.fast_chosen += 1;
                self.term.slot_count += 1;
            }
            self.learn(slot, vote.name, Some(vote.round), effects);
        }
    }

    /// `name` is chosen in `slot`, in `round` if that is known.
    pub(super) fn learn(
        &mut self,
        slot: Slot,
        name: ValueName,
        round: Option<Round>,
        effects: &mut Effects<Self>,
    ) {
        let Some(open) = self.slots.open(slot).filter(|open| open.chosen.is_none()) else { return };
        (open.chosen, open.chosen_in) = (Some(name), round);
        let (me, incarnation) = (self.group.me, self.incarnation);
        let is_own = |id: &BatchId| id.is_of(me, incarnation) || id.is_of(me, Incarnation::CLIENT);
        if let Some(own) = name.batch().filter(is_own) {
            effects.commit(own);
        }
        self.raise_horizon(slot);
        self.settle_proposals(slot, name);
        self.recover_strays(slot, name, effects);
        self.advance_commit(effects);
    }

    /// Hands on what is chosen and here, in slot order.
    pub(super) fn advance_commit(&mut self, effects: &mut Effects<Self>) {
        let before = self.commit();
        loop {
            let slot = self.commit().next();
            let Some(open) = self.slots.get(slot) else { break };
            let Some(name) = open.chosen else { break };
            let own = self.proposer.batch(name);
            let value = match self.slots.value(slot, name).or_else(|| own.map(Value::Batch)) {
                Some(value) => value,
                None if !holds(Rule::FastExecuteWithPayload) => Value::Noop,
                None => {
                    self.due.catchup = true;
                    break;
                }
            };
            // A vote of a life that was mute says nothing of what an earlier one may have decided with others.
            let is_voted = open.vote.is_some_and(|vote| vote.name == name) && !self.is_below_floor(slot);
            if !is_voted && holds(Rule::FastLearnedWrittenDown) {
                // Records that follow say that this slot is chosen: the value must lie before them.
                let record = LearnedRecord { slot, commit: self.commit() };
                let _ = effects.persist(Record::Learned(record), value.body());
            }
            effects.choose(slot, value.clone());
            self.slots.advance(value);
        }
        if self.commit() > before {
            self.voted = self.voted.max(self.commit());
            self.horizon = self.horizon.max(self.commit());
            self.after_commit();
        }
    }

    pub(super) fn on_installed(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        // Values the log holds below a snapshot from elsewhere may have lost.
        self.loadable_from = self.loadable_from.max(slot.next());
        if slot <= self.commit() {
            return;
        }
        self.slots.install(slot);
        self.voted = self.voted.max(slot);
        self.horizon = self.horizon.max(slot);
        self.after_commit();
        self.advance_commit(effects);
        self.due.catchup = true;
    }

    /// Takes in one record of the own log.
    pub(super) fn on_record(&mut self, record: Record, body: Option<Frame>, effects: &mut Effects<Self>) {
        if !record.is_plausible() {
            return;
        }
        // What the record calls chosen was written before it, with the values that are here by now.
        while self.commit() < record.commit() {
            let slot = self.commit().next();
            let Some(name) = self.slots.get(slot).and_then(written_name) else { break };
            let Some(value) = self.slots.value(slot, name) else { break };
            effects.choose(slot, value.clone());
            self.slots.advance(value);
        }
        if let Some(term) = record.term() {
            self.promised = self.promised.max(term);
            self.recorded = self.promised;
            self.seen = self.promised;
        }
        let Some(slot) = record.slot() else { return };
        if record.has_value() {
            self.slots.keep_voted(slot, body.as_ref());
        }
        let Some(open) = self.slots.open(slot) else { return };
        let name = ValueName::of(body.as_ref());
        match record {
            Record::Promise(_) => {}
            Record::SlotPromise(record) => open.promised = open.promised.max(record.round),
            Record::Vote(record) => {
                open.promised = open.promised.max(record.round);
                open.vote = Some(Vote { round: record.round, name });
                self.voted = self.voted.max(record.slot);
            }
            Record::Learned(_) => {
                open.chosen = Some(name);
            }
        }
    }

    /// The log is replayed: the own votes in it are durable and count.
    pub(super) fn count_own_votes(&mut self) {
        let me = self.me();
        let last = self.slots.last();
        for slot in (self.commit().0 + 1..=last.0).map(Slot) {
            if let Some(vote) = self.slots.get(slot).and_then(|open| open.vote) {
                self.slots.count(me, slot, vote);
            }
        }
        self.voted = self.voted.max(self.commit());
        self.horizon = self.voted.max(last);
    }
}

/// What the log says of a slot that it calls chosen.
fn written_name(open: &Open) -> Option<ValueName> {
    open.chosen.or(open.vote.map(|vote| vote.name))
}
