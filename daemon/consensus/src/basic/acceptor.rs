//! Promises and acceptances, slot by slot.
//!
//! Invariants:
//! * What is known to be chosen, or was truncated, is said to be so; it is never answered as free, whatever the ballot.
//! * A ballot below the slot's promise is refused. Accepting in a ballot promises it.
//! * A slot in which a forgotten life may have promised or accepted gets neither, ever.
//! * Each promise and acceptance is a record of its own, and every answer waits for the last record before it.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use super::message::{Accept, AcceptRecord, Prepare, PromiseRecord, PromiseValue, Record, Refused};
use super::{Basic, mark};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Value};
use crate::window::Entry;

impl Basic {
    pub(super) fn on_prepare(&mut self, from: ReplicaId, message: Prepare, effects: &mut Effects<Self>) {
        let Prepare { ballot, slots, for_batches } = message;
        if ballot.owner() != from {
            return;
        }
        if for_batches {
            self.proposing[from.index()] = Some(self.now);
        }
        for slot in slots.iter() {
            self.prepare(from, ballot, slot, effects);
        }
    }

    fn prepare(&mut self, from: ReplicaId, ballot: Ballot, slot: Slot, effects: &mut Effects<Self>) {
        if self.open.is_chosen(slot) {
            if holds(Rule::BasicChosenIsFinal) {
                self.answer_chosen(from, slot, effects);
            } else {
                mark(&mut self.due.promises, from, ballot, slot);
            }
            return;
        }
        self.note_used(slot);
        if self.is_below_floor(slot) {
            return;
        }
        let commit = self.commit();
        let Some(open) = self.open.reach(slot) else { return };
        let promised = open.promised;
        if ballot < promised && holds(Rule::BasicRefuseLower) {
            self.refuse(from, ballot, slot, promised, effects);
            return;
        }
        if ballot != promised {
            open.promised = ballot;
            self.highest = self.highest.max(ballot);
            // The answer names the last point of the turn, which is not before this one.
            let _ = effects.persist(Record::Promise(PromiseRecord { ballot, slot, commit }), None);
        }
        self.touch(slot);
        match self.window.get(slot) {
            // The last point covers the promise and the acceptance that is reported. [D1]
            Some(entry) => effects.send_after(
                effects.last_persist(),
                Dest::One(from),
                PromiseValue { ballot, slot, accepted: entry.ballot },
                entry.value.body(),
            ),
            None => mark(&mut self.due.promises, from, ballot, slot),
        }
    }

    fn refuse(
        &mut self,
        to: ReplicaId,
        ballot: Ballot,
        slot: Slot,
        promised: Ballot,
        effects: &mut Effects<Self>,
    ) {
        self.counters.refused += 1;
        effects.send(Dest::One(to), Refused { ballot, slot, promised }, None);
    }

    pub(super) fn on_accept(
        &mut self,
        from: ReplicaId,
        message: Accept,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let Accept { ballot, slots } = message;
        if ballot.owner() != from || body.is_some() && slots.count() != 1 {
            return;
        }
        let value = Value::from(body);
        for slot in slots.iter() {
            self.accept(from, ballot, slot, &value, effects);
        }
    }

    fn accept(
        &mut self,
        from: ReplicaId,
        ballot: Ballot,
        slot: Slot,
        value: &Value,
        effects: &mut Effects<Self>,
    ) {
        if self.open.is_chosen(slot) {
            self.answer_chosen(from, slot, effects);
            return;
        }
        self.note_used(slot);
        let commit = self.commit();
        let Some(open) = self.open.reach(slot) else { return };
        let (told, promised) = (open.told, open.promised);
        if !self.has_room(slot, value) {
            // Asked for once more, or learned, when what lies before it is done.
            return;
        }
        if told.is_some_and(|chosen| ballot >= chosen) {
            // Whatever is proposed in or above the ballot that was chosen is the chosen value.
            self.learn(slot, Some(ballot), Some(value.clone()), effects);
            return;
        }
        if self.is_below_floor(slot) {
            return;
        }
        if ballot < promised && holds(Rule::BasicRefuseLower) {
            self.refuse(from, ballot, slot, promised, effects);
            return;
        }
        if holds(Rule::BasicAcceptPromises)
            && let Some(open) = self.open.get_mut(slot)
        {
            // A lower ballot must not be obeyed after this, whether this one was prepared here or not. [Basic Paxos, T-B2]
            open.promised = ballot;
            self.highest = self.highest.max(ballot);
        }
        self.touch(slot);
        let old = self.window.get(slot);
        if old.is_none_or(|old| old.ballot != ballot) {
            if !self.window.admits(slot) {
                return;
            }
            self.counters.overwritten += u64::from(old.is_some_and(|old| old.value != *value));
            let _ = effects.persist(Record::Accept(AcceptRecord { ballot, slot, commit }), value.body());
            self.window.set(slot, Entry { ballot, value: value.clone() });
        }
        mark(&mut self.due.votes, from, ballot, slot);
    }

    /// Takes in one record of the own log.
    pub(super) fn on_record(&mut self, record: Record, body: Option<Frame>, effects: &mut Effects<Self>) {
        if !record.is_plausible() {
            return;
        }
        // What the record calls chosen was written before it, with the values that are here by now.
        while self.commit() < record.commit() && self.window.get(self.commit().next()).is_some() {
            if let Some(open) = self.open.reach(self.commit().next()) {
                open.chosen = true;
            }
            self.advance(effects);
        }
        let Some(slot) = record.slot() else { return };
        let ballot = record.ballot();
        let Some(open) = self.open.reach_recorded(slot) else { return };
        open.promised = open.promised.max(ballot);
        self.highest = self.highest.max(ballot);
        let is_open = !open.chosen && self.window.admits(slot);
        if record.has_value() && is_open {
            open.chosen = matches!(record, Record::Chosen(_));
            self.window.set(slot, Entry { ballot, value: Value::from(body) });
            self.advance(effects);
        }
    }
}
