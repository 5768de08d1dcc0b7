//! The exact effects of single events: the two phases, back-off, slots, holes.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::time::Duration;

use super::super::Basic;
use super::super::message::*;
use super::{ballot, one, promised, restarted, solo};
use crate::ballot::Ballot;
use crate::protocol::{Counters, Dest, Event, Protocol, Value};
use crate::testing::HEARTBEAT;
use crate::testing::solo::{R1, R2, Sent, Solo};

const R3: ReplicaId = ReplicaId(3);

fn prepared(sent: &[Sent<Message>]) -> Vec<(Ballot, Vec<u64>)> {
    let prepares = sent.iter().filter_map(|(_, _, message)| match message {
        Message::Prepare(m) => Some((m.ballot, m.slots.iter().map(|slot| slot.0).collect())),
        _ => None,
    });
    prepares.collect()
}

/// Own batches 1 and so on are proposed; returns where.
fn propose(solo: &mut Solo<Basic>, count: u64) -> (Vec<Frame>, Vec<(Ballot, Vec<u64>)>) {
    let frames: Vec<_> = (1..=count).map(|counter| solo.frame(counter)).collect();
    for frame in &frames {
        solo.step(Event::Propose(frame.clone()));
    }
    (frames, prepared(&solo.settle()))
}

fn promise(solo: &mut Solo<Basic>, from: ReplicaId, ballot: Ballot, slot: u64) {
    solo.deliver(from, Promise { ballot, slots: one(slot) }, None);
}

/// What phase 2 proposes.
fn proposed(solo: &mut Solo<Basic>) -> Vec<(u64, Option<Frame>)> {
    solo.end_turn();
    let accepts = solo.effects.outgoing.iter().filter_map(|out| match out.message {
        Message::Accept(m) => Some((m.slots.first.0, out.body.clone())),
        _ => None,
    });
    accepts.collect()
}

#[test]
fn both_phases_decide_and_the_news_go_to_the_others() {
    let mut solo = solo(3);
    let (frames, prepares) = propose(&mut solo, 1);
    let mine = ballot(1, 0);
    assert_eq!(prepares, [(mine, vec![1])]);
    promise(&mut solo, R1, mine, 1);
    assert_eq!(proposed(&mut solo), [(1, Some(frames[0].clone()))]);
    solo.settle();
    assert_eq!(solo.executed(), []);
    solo.deliver(R2, Accepted { ballot: mine, slots: one(1) }, None);
    assert_eq!(solo.executed(), [(Slot(1).into(), Value::Batch(frames[0].clone()))]);
    let chosen = Chosen { ballot: mine, slots: one(1), commit: Slot(1) };
    assert_eq!(solo.settle(), [(None, Dest::Others, chosen.into())]);
}

#[test]
fn a_pipeline_shares_its_prepares_and_never_exceeds_its_depth() {
    let mut solo = solo(3);
    let (frames, prepares) = propose(&mut solo, 6);
    assert_eq!(prepares, [(ballot(1, 0), vec![1, 2, 3, 4])]);
    // In flight or waiting: proposing it again changes nothing.
    for frame in &frames {
        solo.step(Event::Propose(frame.clone()));
    }
    assert_eq!(solo.protocol.queue.len(), 2);
    assert_eq!(prepared(&solo.settle()), []);
}

pub(super) fn highest_reported_ballot_wins() {
    let mut solo = solo(5);
    propose(&mut solo, 1);
    let (newer, older) = (solo.frame(8), solo.frame(9));
    let mine = ballot(1, 0);
    let report = |accepted| PromiseValue { ballot: mine, slot: Slot(1), accepted };
    solo.deliver(R1, report(Ballot { round: 9, owner: 1 }), Some(&newer));
    solo.deliver(R2, report(Ballot { round: 8, owner: 2 }), Some(&older));
    assert_eq!(proposed(&mut solo), [(1, Some(newer))]);
    assert_eq!(solo.protocol.counters().adopted, 1);
}

/// T-B1.
#[test]
fn the_value_of_the_highest_ballot_is_adopted() {
    highest_reported_ballot_wins();
}

pub(super) fn members_are_counted() {
    let mut solo = solo(5);
    propose(&mut solo, 1);
    let mine = ballot(1, 0);
    for _ in 0..3 {
        promise(&mut solo, R1, mine, 1);
    }
    assert_eq!(proposed(&mut solo), []);
    promise(&mut solo, R2, mine, 1);
    assert_eq!(proposed(&mut solo).len(), 1);
    solo.effects.outgoing.clear();
    for _ in 0..4 {
        solo.deliver(R1, Accepted { ballot: mine, slots: one(1) }, None);
    }
    assert_eq!(solo.executed(), []);
    solo.deliver(R2, Accepted { ballot: mine, slots: one(1) }, None);
    solo.deliver(R3, Accepted { ballot: mine, slots: one(1) }, None);
    assert_eq!(solo.executed().len(), 1);
}

/// T-C2.
#[test]
fn duplicated_answers_do_not_add_up() {
    members_are_counted();
}

#[test]
fn answers_to_other_ballots_do_not_count() {
    let mut solo = solo(3);
    propose(&mut solo, 1);
    promise(&mut solo, R1, Ballot { round: 5, owner: 0 }, 1);
    assert_eq!(proposed(&mut solo), []);
}

fn refused(slot: u64) -> Refused {
    Refused { ballot: ballot(1, 0), slot: Slot(slot), promised: ballot(4, 1) }
}

pub(super) fn a_batch_stays_with_its_slot() {
    let mut solo = solo(3);
    let (frames, _) = propose(&mut solo, 1);
    solo.deliver(R1, refused(1), None);
    solo.end_turn();
    assert_eq!(prepared(&solo.settle()), [], "it pauses, and its fate in slot 1 is unknown");
    solo.pass(50 * HEARTBEAT / 8);
    assert_eq!(prepared(&solo.settle()), [(ballot(5, 0), vec![1])]);
    // Another value is chosen: now the batch goes on.
    let other = solo.frame(9);
    solo.deliver(R1, Learned { slot: Slot(1) }, Some(&other));
    assert_eq!(solo.executed(), [(Slot(1).into(), Value::Batch(other))]);
    assert_eq!(prepared(&solo.settle()), [(ballot(1, 0), vec![2])]);
    promise(&mut solo, R1, ballot(1, 0), 2);
    assert_eq!(proposed(&mut solo), [(2, Some(frames[0].clone()))]);
    let counters = solo.protocol.counters();
    let expected = Counters { prepares: 3, duels: 1, moved: 1, ..Counters::default() };
    assert_eq!(counters, expected);
}

#[test]
fn a_batch_goes_on_only_once_its_slot_is_known_to_hold_another_value() {
    a_batch_stays_with_its_slot();
}

#[test]
fn votes_for_a_ballot_still_count_while_it_pauses() {
    let mut solo = solo(3);
    propose(&mut solo, 1);
    promise(&mut solo, R1, ballot(1, 0), 1);
    solo.settle();
    solo.deliver(R1, refused(1), None);
    solo.deliver(R2, Accepted { ballot: ballot(1, 0), slots: one(1) }, None);
    assert_eq!(solo.executed().len(), 1);
}

pub(super) fn lives_have_different_ballots() {
    let first = propose(&mut solo(3), 1).1;
    let mut second = restarted(3, 0, &[(promised(ballot(1, 1), 9, 0), None)]);
    assert_ne!(propose(&mut second, 1).1[0], first[0], "the first life's promise was lost in the crash");
}

#[test]
fn a_ballot_is_never_used_by_two_lives() {
    lives_have_different_ballots();
}

#[test]
fn requests_are_repeated_to_who_did_not_answer() {
    let mut solo = solo(5);
    propose(&mut solo, 1);
    promise(&mut solo, R1, ballot(1, 0), 1);
    solo.pass(HEARTBEAT - Duration::from_millis(1));
    let asked: Vec<_> =
        solo.sent().into_iter().filter(|sent| matches!(sent.2, Message::Prepare(_))).collect();
    let to = |id| (None, Dest::One(ReplicaId(id)));
    assert_eq!(asked.iter().map(|sent| (sent.0, sent.1)).collect::<Vec<_>>(), [to(2), to(3), to(4)]);
}

#[test]
fn concurrent_proposers_prefer_different_slots() {
    let mut solo = solo(3);
    for (peer, slot) in [(R1, 1), (R2, 2)] {
        let slots = one(slot);
        solo.deliver(peer, Prepare { ballot: ballot(1, peer.0), slots, for_batches: true }, None);
    }
    solo.settle();
    assert_eq!(propose(&mut solo, 3).1, [(ballot(1, 0), vec![3, 6, 9])]);
    // One of them is gone: its slots are shared out among the others.
    solo.step(Event::Suspect(R2));
    let frame = solo.frame(4);
    solo.step(Event::Propose(frame));
    assert_eq!(prepared(&solo.settle()), [(ballot(1, 0), vec![8])]);
}

#[test]
fn a_proposer_that_is_alone_takes_every_slot() {
    assert_eq!(propose(&mut solo(3), 4).1, [(ballot(1, 0), vec![1, 2, 3, 4])]);
}

#[test]
fn who_has_nothing_to_propose_skips_its_own_slots_when_they_are_overtaken() {
    let mut solo = solo(3);
    let prepare = |slot| Prepare { ballot: ballot(1, 1), slots: one(slot), for_batches: true };
    solo.deliver(R1, prepare(1), None);
    assert_eq!(propose(&mut solo, 1).1, [(ballot(1, 0), vec![2])]);
    promise(&mut solo, R1, ballot(1, 0), 2);
    solo.settle();
    solo.deliver(R1, Accepted { ballot: ballot(1, 0), slots: one(2) }, None);
    solo.settle();
    solo.deliver(R1, prepare(13), None);
    let skipped = prepared(&solo.settle());
    assert_eq!(
        skipped,
        [(ballot(1, 0), vec![3, 6, 8, 9, 12])],
        "its own, and its share of those of replica 2"
    );
}

/// A hole at slot 1 below an acceptance at slot 3, which nobody fills.
fn hole(solo: &mut Solo<Basic>) -> Ballot {
    let frame = solo.frame(9);
    solo.deliver(R1, Accept { ballot: ballot(1, 1), slots: one(3) }, Some(&frame));
    solo.settle();
    solo.pass(10 * HEARTBEAT);
    let prepares = prepared(&solo.settle());
    let at = |slot| prepares.iter().find(|(_, slots)| slots.contains(&slot)).expect("every open slot").0;
    assert_eq!(at(3), ballot(2, 0), "slots that were begun are finished too");
    at(1)
}

#[test]
fn a_hole_that_stays_open_gets_a_noop() {
    let mut solo = solo(3);
    let mine = hole(&mut solo);
    promise(&mut solo, R1, mine, 1);
    assert_eq!(proposed(&mut solo), [(1, None)]);
    assert_eq!(solo.protocol.counters().noops, 1);
}

pub(super) fn a_reported_value_fills_the_hole() {
    let mut solo = solo(3);
    let mine = hole(&mut solo);
    let frame = solo.frame(5);
    let report = PromiseValue { ballot: mine, slot: Slot(1), accepted: Ballot { round: 1, owner: 1 } };
    solo.deliver(R1, report, Some(&frame));
    assert_eq!(proposed(&mut solo), [(1, Some(frame))]);
    assert_eq!(solo.protocol.counters().adopted, 1);
}

#[test]
fn a_hole_gets_a_noop_only_if_nobody_reports_a_value() {
    a_reported_value_fills_the_hole();
}
