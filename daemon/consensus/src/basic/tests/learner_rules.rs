//! The exact effects of single events: what is chosen, catching up, reads.

use panch_wire::ids::Slot;

use super::super::Basic;
use super::super::message::*;
use super::{ballot, learned, one, restarted, solo};
use crate::protocol::{Event, Protocol, ReadContext, Value};
use crate::testing::solo::{R1, R2, Solo, hint};
use crate::testing::{HEARTBEAT, batch};

fn chosen(attempt: u64, owner: u8, slot: u64) -> Chosen {
    Chosen { ballot: ballot(attempt, owner), slots: one(slot), commit: Slot(0) }
}

fn accept(solo: &mut Solo<Basic>, attempt: u64, owner: u8, slot: u64, counter: u64) -> Value {
    let frame = solo.frame(counter);
    let from = ballot(attempt, owner).owner();
    solo.deliver(from, Accept { ballot: ballot(attempt, owner), slots: one(slot) }, Some(&frame));
    Value::Batch(frame)
}

#[test]
fn who_accepted_in_the_chosen_ballot_or_above_learns_without_the_value() {
    let mut solo = solo(3);
    let first = accept(&mut solo, 1, 1, 1, 1);
    let second = accept(&mut solo, 3, 2, 2, 2);
    solo.deliver(R1, chosen(1, 1, 1), None);
    solo.deliver(R1, chosen(2, 1, 2), None);
    assert_eq!(solo.executed(), [(Slot(1).into(), first), (Slot(2).into(), second)]);
    assert_eq!(solo.records().len(), 2, "nothing but the acceptances is written");
}

pub(super) fn older_acceptances_are_not_taken_for_chosen() {
    let mut solo = solo(3);
    accept(&mut solo, 1, 1, 1, 1);
    solo.deliver(R2, chosen(2, 2, 1), None);
    assert_eq!(solo.executed(), []);
    solo.settle();
    solo.pass(HEARTBEAT - HEARTBEAT / 8);
    assert!(solo.sent().contains(&hint(R1, LearnRequest { slots: one(1) })));
    let other = solo.frame(2);
    solo.deliver(R1, Learned { slot: Slot(1) }, Some(&other));
    assert_eq!(solo.executed(), [(Slot(1).into(), Value::Batch(other))]);
}

#[test]
fn an_own_batch_is_committed_before_the_slots_below_are() {
    let mut solo = solo(3);
    let (own, earlier) = (batch(&solo.pool, 0, 1, 1), batch(&solo.pool, 0, 0, 1));
    solo.deliver(R1, Learned { slot: Slot(3) }, Some(&earlier));
    assert_eq!(solo.effects.committed, [], "of an earlier life");
    solo.deliver(R1, Learned { slot: Slot(2) }, Some(&own));
    assert_eq!((&solo.effects.committed[..], solo.effects.chosen.len()), (&[own.id()][..], 0));
    let other = solo.frame(1);
    solo.deliver(R1, Learned { slot: Slot(1) }, Some(&other));
    assert_eq!((solo.effects.committed.len(), solo.executed().len()), (1, 3));
}

#[test]
fn a_value_accepted_below_the_chosen_ballot_may_have_lost() {
    older_acceptances_are_not_taken_for_chosen();
}

#[test]
fn an_accept_that_comes_after_the_news_brings_the_value() {
    let mut solo = solo(3);
    solo.deliver(R1, chosen(1, 1, 1), None);
    let value = accept(&mut solo, 1, 1, 1, 1);
    assert_eq!(solo.executed(), [(Slot(1).into(), value)]);
    assert_eq!(solo.records(), [learned(1, 0)]);
}

pub(super) fn learned_values_survive_a_restart() {
    let mut solo = solo(3);
    let mut log = Vec::new();
    for slot in 1..=3 {
        let frame = solo.frame(slot);
        solo.deliver(R1, Learned { slot: Slot(slot) }, Some(&frame));
    }
    assert_eq!(solo.status().committed, Slot(3));
    accept(&mut solo, 1, 1, 4, 4);
    log.append(&mut solo.effects.records);
    let stated = log.iter().map(|(record, _)| Basic::record_committed(record)).max();
    assert_eq!(stated, Some(Slot(3)));
    let again = restarted(3, 0, &log);
    assert!(stated <= Some(again.status().committed), "a record promises what the log does not hold");
}

#[test]
fn what_is_learned_is_written_down() {
    learned_values_survive_a_restart();
}

#[test]
fn peers_that_lag_are_helped_from_memory_then_from_the_log_then_by_a_snapshot() {
    let mut solo = solo(3);
    for slot in 1..=20 {
        let frame = solo.frame(slot);
        solo.deliver(R1, Learned { slot: Slot(slot) }, Some(&frame));
    }
    solo.settle();
    let slots = SlotSet { first: Slot(19), mask: 0b111 };
    solo.deliver(R2, LearnRequest { slots }, None);
    assert_eq!(solo.sent(), [19, 20].map(|slot| hint(R2, Learned { slot: Slot(slot) })));
    solo.deliver(R2, LearnRequest { slots: one(2) }, None);
    solo.deliver(R1, LearnRequest { slots: one(2) }, None);
    assert_eq!(std::mem::take(&mut solo.effects.loads), [Slot(2).into()], "read back once for both");
    solo.step(Event::Loaded(Slot(2).into(), Some(Value::Noop)));
    assert_eq!(solo.sent(), [R1, R2].map(|to| hint(to, Learned { slot: Slot(2) })));
    solo.protocol.truncated(&Slot(10).into());
    for _ in 0..2 {
        solo.deliver(R2, LearnRequest { slots: one(2) }, None);
    }
    assert_eq!(std::mem::take(&mut solo.effects.snapshots), [(R2, Slot(2))], "one at a time");
    solo.step(Event::SnapshotSent(R2, None));
    solo.deliver(R2, LearnRequest { slots: one(2) }, None);
    assert_eq!(solo.effects.snapshots, [(R2, Slot(2))]);
}

/// T-M15.
#[test]
fn a_snapshot_keeps_what_lies_beyond_and_ends_runs_below() {
    let mut solo = solo(3);
    let mine = solo.frame(7);
    solo.step(Event::Propose(mine.clone()));
    solo.settle();
    let value = accept(&mut solo, 1, 1, 4, 1);
    solo.settle();
    solo.step(Event::Installed { covered: Slot(3).into(), stamp: 3 });
    assert_eq!(solo.status().committed, Slot(3));
    solo.deliver(R1, chosen(1, 1, 4), None);
    assert_eq!(solo.executed(), [(Slot(4).into(), value)]);
    assert_eq!(solo.protocol.placed_count, 0);
    solo.step(Event::Propose(mine));
    assert_eq!(solo.protocol.placed_count, 1, "its fate shows in the state: it may be proposed again");
}

// Reads.

fn read(solo: &mut Solo<Basic>, context: u64) {
    solo.step(Event::Read { context: ReadContext(context), lease: false });
    solo.end_turn();
}

fn reply(number: u64, last: u64) -> ReadReply {
    ReadReply { number: 1 << 32 | number, last: Slot(last) }
}

pub(super) fn reads_need_a_quorum() {
    let mut solo = solo(5);
    read(&mut solo, 1);
    assert_eq!(solo.effects.reads, []);
    solo.deliver(R1, reply(1, 7), None);
    solo.deliver(R1, reply(1, 7), None);
    assert_eq!(solo.effects.reads, []);
    solo.deliver(R2, reply(1, 3), None);
    assert_eq!(solo.effects.reads, [(ReadContext(1), Some(Slot(7)))]);
}

#[test]
fn a_read_waits_for_the_highest_slot_of_a_quorum() {
    reads_need_a_quorum();
}

pub(super) fn answers_to_older_requests_do_not_count() {
    let mut solo = solo(3);
    read(&mut solo, 1);
    read(&mut solo, 2);
    solo.deliver(R1, reply(1, 3), None);
    assert_eq!(solo.effects.reads, [(ReadContext(1), Some(Slot(3)))], "the second arrived after the request");
    solo.end_turn();
    // The other's answer to the first request comes late.
    solo.deliver(R2, reply(1, 3), None);
    assert_eq!(solo.effects.reads.len(), 1);
    solo.deliver(R2, reply(2, 5), None);
    assert_eq!(solo.effects.reads[1], (ReadContext(2), Some(Slot(5))));
}

#[test]
fn a_read_is_confirmed_by_a_request_that_left_after_it_arrived() {
    answers_to_older_requests_do_not_count();
}

#[test]
fn what_is_accepted_counts_for_reads_before_it_is_durable() {
    let mut solo = solo(3);
    accept(&mut solo, 1, 1, 4, 1);
    solo.sent();
    solo.deliver(R1, ReadRequest { number: 5 }, None);
    assert_eq!(solo.sent(), [hint(R1, ReadReply { number: 5, last: Slot(4) })]);
}

#[test]
fn a_peer_that_learned_something_else_is_contradicted() {
    let mut solo = solo(3);
    let (known, other) = (solo.frame(1), solo.frame(2));
    for slot in [1, 3] {
        solo.deliver(R1, Learned { slot: Slot(slot) }, Some(&known));
        solo.deliver(R2, Learned { slot: Slot(slot) }, Some(&known));
        assert_eq!(solo.effects.contradiction, None);
        solo.deliver(R2, Learned { slot: Slot(slot) }, Some(&other));
        let found = solo.effects.contradiction.take().expect("two values are chosen");
        assert_eq!((found.position, found.from), (Slot(slot).into(), R2));
    }
}
