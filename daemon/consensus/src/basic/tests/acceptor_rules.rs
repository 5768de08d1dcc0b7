//! The exact effects of single events: promises, acceptances, restart.

use panch_wire::ids::{ReplicaId, Slot};

use super::super::message::*;
use super::{accepted, ballot, learned, one, promised, restarted, solo};
use crate::protocol::{Dest, Protocol, Value};
use crate::testing::solo::{R1, R2, claim, hint};

fn prepare(attempt: u64, owner: u8, slot: u64) -> Prepare {
    Prepare { ballot: ballot(attempt, owner), slots: one(slot), for_batches: true }
}

fn accept(attempt: u64, owner: u8, slot: u64) -> Accept {
    Accept { ballot: ballot(attempt, owner), slots: one(slot) }
}

#[test]
fn promises_after_writing_it_down_and_reports_what_it_accepted() {
    let mut solo = solo(3);
    let frame = solo.frame(1);
    solo.deliver(R1, accept(1, 1, 2), Some(&frame));
    solo.settle();
    let slots = SlotSet { first: Slot(1), mask: 0b111 };
    let new = Prepare { ballot: ballot(1, 2), slots, for_batches: true };
    for records in [vec![1, 2, 3], vec![]] {
        solo.deliver(R2, new, None);
        let records: Vec<_> = records.into_iter().map(|slot| promised(ballot(1, 2), slot, 0)).collect();
        assert_eq!(solo.records(), records, "written once");
        solo.end_turn();
        let report = PromiseValue { ballot: ballot(1, 2), slot: Slot(2), accepted: ballot(1, 1) };
        let free = SlotSet { first: Slot(1), mask: 0b101 };
        assert_eq!(solo.effects.outgoing[0].body.as_ref(), Some(&frame));
        // One message for the free slots; both wait for the last record. The report may leave with the record before.
        let sent = solo.sent();
        let after = if records.is_empty() { 4 } else { 3 };
        assert_eq!(sent[0], claim(after, R2, report));
        assert_eq!(sent[1], claim(4, R2, Promise { ballot: ballot(1, 2), slots: free }));
    }
}

pub(super) fn lower_ballots_are_refused_slot_by_slot() {
    let mut solo = solo(3);
    let frame = solo.frame(1);
    solo.deliver(R2, prepare(2, 2, 1), None);
    solo.settle();
    solo.deliver(R1, prepare(2, 1, 1), None);
    solo.deliver(R1, accept(2, 1, 1), Some(&frame));
    let refused = Refused { ballot: ballot(2, 1), slot: Slot(1), promised: ballot(2, 2) };
    assert_eq!(solo.sent(), [hint(R1, refused), hint(R1, refused)]);
    assert_eq!(solo.records(), []);
    // A promise is for its slot only.
    solo.deliver(R1, prepare(2, 1, 2), None);
    assert_eq!(solo.records(), [promised(ballot(2, 1), 2, 0)]);
}

#[test]
fn refuses_lower_ballots() {
    lower_ballots_are_refused_slot_by_slot();
}

pub(super) fn accepting_promises_too() {
    let mut solo = solo(3);
    let frame = solo.frame(1);
    solo.deliver(R2, accept(2, 2, 1), Some(&frame));
    assert_eq!(solo.settle(), [claim(1, R2, Accepted { ballot: ballot(2, 2), slots: one(1) })]);
    solo.deliver(R1, prepare(1, 1, 1), None);
    let refused = Refused { ballot: ballot(1, 1), slot: Slot(1), promised: ballot(2, 2) };
    assert_eq!(solo.settle(), [hint(R1, refused)]);
}

/// T-B2.
#[test]
fn an_acceptance_without_a_promise_refuses_lower_ballots_afterwards() {
    accepting_promises_too();
}

#[test]
fn a_ballot_is_owned_by_who_uses_it() {
    let mut solo = solo(3);
    let frame = solo.frame(1);
    solo.deliver(R1, prepare(1, 2, 1), None);
    solo.deliver(R1, accept(1, 2, 1), Some(&frame));
    assert!(solo.records().is_empty() && solo.settle().is_empty());
}

#[test]
fn nonsense_from_peers_changes_nothing() {
    let mut solo = solo(3);
    let frame = solo.frame(1);
    let far = SlotSet { first: Slot(1 << 40), mask: u64::MAX };
    solo.deliver(R1, Prepare { ballot: ballot(1, 1), slots: far, for_batches: true }, None);
    solo.deliver(R1, Accept { ballot: ballot(1, 1), slots: far }, None);
    solo.deliver(
        R1,
        Accept { ballot: ballot(1, 1), slots: SlotSet { first: Slot(1), mask: 3 } },
        Some(&frame),
    );
    solo.deliver(R1, Prepare { ballot: ballot(1, 1), slots: one(0), for_batches: true }, None);
    solo.deliver(R1, prepare(1 << 31, 1, 1), None);
    solo.deliver(ReplicaId(7), prepare(1, 7, 1), None);
    solo.deliver(R1, Accepted { ballot: ballot(1, 0), slots: far }, None);
    solo.deliver(R1, LearnRequest { slots: far }, None);
    solo.deliver(R1, Learned { slot: Slot(1 << 40) }, Some(&frame));
    assert!(solo.records().is_empty());
    assert_eq!((solo.status().committed, solo.status().last), (Slot(0), Slot(0)));
}

#[test]
fn an_acceptance_is_written_once_and_acknowledged_each_time() {
    let mut solo = solo(3);
    let frame = solo.frame(1);
    for records in [vec![accepted(ballot(1, 1), 1, 0)], vec![]] {
        solo.deliver(R1, accept(1, 1, 1), Some(&frame));
        assert_eq!(solo.records(), records);
        solo.end_turn();
        assert_eq!(solo.sent(), [claim(1, R1, Accepted { ballot: ballot(1, 1), slots: one(1) })]);
    }
}

pub(super) fn truncated_slots_are_chosen() {
    let frame = solo(3).frame(1);
    let mut solo = restarted(3, 4, &[(learned(5, 4), Some(frame.clone()))]);
    assert_eq!(solo.executed(), [(Slot(5).into(), Value::Batch(frame.clone()))]);
    solo.deliver(R2, prepare(9, 2, 3), None);
    assert_eq!(solo.settle(), [hint(R2, Progress { commit: Slot(5), last: Slot(5) })]);
    assert_eq!(solo.effects.snapshots, [(R2, Slot(3))]);
    // Chosen and still in the log: read back.
    solo.deliver(R2, accept(9, 2, 5), None);
    assert_eq!(solo.effects.loads, [Slot(5).into()]);
    assert!(solo.settle().is_empty(), "no vote against a chosen value");
}

/// T-M16 for one slot at a time.
#[test]
fn a_slot_that_is_gone_is_never_answered_as_free() {
    truncated_slots_are_chosen();
}

#[test]
fn replay_restores_promises_acceptances_and_what_was_chosen() {
    let pool = solo(3);
    let frames: Vec<_> = (1..=4).map(|counter| pool.frame(counter)).collect();
    let records = [
        (accepted(ballot(1, 1), 1, 0), Some(frames[0].clone())),
        (accepted(ballot(1, 1), 2, 0), Some(frames[1].clone())),
        (learned(1, 0), Some(frames[2].clone())),
        (accepted(ballot(2, 2), 2, 1), Some(frames[3].clone())),
        (promised(ballot(7, 2), 3, 2), None),
    ];
    let mut solo = restarted(3, 0, &records);
    let executed = [(1, &frames[2]), (2, &frames[3])];
    assert_eq!(
        solo.executed(),
        executed.map(|(slot, frame)| (Slot(slot).into(), Value::Batch(frame.clone())))
    );
    solo.deliver(R1, prepare(6, 1, 3), None);
    let refused = Refused { ballot: ballot(6, 1), slot: Slot(3), promised: ballot(7, 2) };
    assert_eq!(solo.sent(), [hint(R1, refused)]);
    // Only the snapshot is stated at the start of a segment: values may not be written yet.
    assert_eq!(solo.protocol.restate(), Record::Covered(CoveredRecord { commit: Slot(0) }));
    assert!(solo.sent().iter().all(|(_, dest, _)| *dest != Dest::All));
}

#[test]
fn no_promise_is_forgotten_when_the_settings_shrink_over_a_restart() {
    let mut solo = restarted(3, 0, &[(promised(ballot(7, 2), 4000, 0), None)]);
    solo.deliver(R1, prepare(6, 1, 4000), None);
    let refused = Refused { ballot: ballot(6, 1), slot: Slot(4000), promised: ballot(7, 2) };
    assert_eq!(solo.sent(), [hint(R1, refused)]);
}
