//! Memory that must not run out: what lies behind the first open slot leaves room for what that slot lacks.

use panch_wire::frame::Frame;
use panch_wire::ids::Slot;

use super::super::message::*;
use super::{ballot, one};
use crate::basic::Basic;
use crate::frontier::Frontier;
use crate::protocol::{Event, Tuning};
use crate::testing::solo::{R1, R2, Solo};
use crate::testing::tuning;

/// Open slots may hold two batches here, and the first one its own.
fn narrow() -> Solo<Basic> {
    let size = super::solo(3).frame(1).footprint();
    Solo::open(3, Tuning { unchosen_size_max: size, ..tuning() }, &Frontier::default(), &[])
}

fn frames(solo: &Solo<Basic>, slots: std::ops::RangeInclusive<u64>) -> Vec<(u64, Frame)> {
    slots.map(|slot| (slot, solo.frame(slot))).collect()
}

/// The slots whose value was written down.
fn written(solo: &mut Solo<Basic>) -> Vec<u64> {
    let records = solo.records();
    records.iter().filter(|record| record.has_value()).filter_map(Record::slot).map(|slot| slot.0).collect()
}

#[test]
fn later_slots_do_not_take_the_memory_that_the_next_one_needs() {
    let mut solo = narrow();
    for (slot, frame) in frames(&solo, 2..=5) {
        solo.deliver(R1, Accept { ballot: ballot(1, 1), slots: one(slot) }, Some(&frame));
    }
    assert_eq!(written(&mut solo), [2, 3]);
    let told = Chosen { ballot: ballot(1, 1), slots: one(4), commit: Slot(0) };
    solo.deliver(R1, told, None);
    for (slot, frame) in frames(&solo, 4..=5) {
        solo.deliver(R1, Learned { slot: Slot(slot) }, Some(&frame));
        solo.deliver(R1, Accept { ballot: ballot(2, 1), slots: one(slot) }, Some(&frame));
    }
    assert_eq!(written(&mut solo), [0; 0]);
    for (slot, frame) in frames(&solo, 1..=3) {
        solo.deliver(R1, Learned { slot: Slot(slot) }, Some(&frame));
    }
    assert_eq!(solo.protocol.commit(), Slot(3));
    let _ = written(&mut solo);
    for (slot, frame) in frames(&solo, 4..=5) {
        solo.deliver(R1, Learned { slot: Slot(slot) }, Some(&frame));
    }
    assert_eq!(written(&mut solo), [4, 5], "what is chosen gives its memory back");
}

#[test]
fn holes_do_not_take_over_more_batches_than_there_is_room_for() {
    let mut solo = narrow();
    // Eight slots are in use elsewhere and stay open: they are filled from here.
    let slots = SlotSet { first: Slot(1), mask: 0xff };
    solo.deliver(R1, Prepare { ballot: ballot(1, 1), slots, for_batches: true }, None);
    solo.settle();
    let mut asked = Vec::new();
    for _ in 0..50 {
        solo.pass(tuning().slow_after);
        let runs =
            (1..=8).filter_map(|slot| Some((slot, solo.protocol.open.get(Slot(slot))?.run.as_ref()?.ballot)));
        asked = runs.collect();
        if asked.len() == 8 {
            break;
        }
    }
    assert_eq!(asked.len(), 8);
    // Another replica has accepted a batch in each.
    for (slot, own) in asked.into_iter().rev() {
        let frame = solo.frame(slot);
        let report = PromiseValue { ballot: own, slot: Slot(slot), accepted: ballot(1, 1) };
        solo.deliver(R2, report, Some(&frame));
    }
    let adopted = (1..=8).filter(|slot| {
        let run = solo.protocol.open.get(Slot(*slot)).and_then(|open| open.run.as_ref());
        run.is_some_and(|run| run.reported.is_some() || run.value.is_some())
    });
    assert_eq!(adopted.collect::<Vec<_>>(), [1, 7, 8]);
    solo.step(Event::Deadline);
}
