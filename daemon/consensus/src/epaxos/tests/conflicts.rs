//! What a batch depends on.

use panch_wire::ids::Position;
use proptest::prelude::*;

use super::super::message::STAMP_END;
use super::super::{Conflicts, Dependencies, Footprint};
use super::{at, deps, touching};

/// T-E9.
#[test]
pub(super) fn dependencies_are_the_highest_over_all_keys() {
    let mut conflicts = Conflicts::new(3);
    // The numbers are crossed so that no order of looking at the keys gets by with the first.
    for (key, numbers) in [("x", [3, 8]), ("y", [7, 2])] {
        conflicts.insert(at(1, numbers[0]), 1, &touching(&[], &[key]));
        conflicts.insert(at(2, numbers[1]), 1, &touching(&[], &[key]));
    }
    assert_eq!(conflicts.dependencies(&touching(&[], &["x", "y"])), deps([0, 7, 8]));
}

#[test]
fn a_read_depends_on_writes_and_a_write_on_both() {
    let mut conflicts = Conflicts::new(3);
    conflicts.insert(at(0, 4), 1, &touching(&[], &["x"]));
    conflicts.insert(at(0, 6), 1, &touching(&["x"], &[]));
    assert_eq!(conflicts.dependencies(&touching(&["x"], &[])), deps([4]));
    assert_eq!(conflicts.dependencies(&touching(&[], &["x"])), deps([6]));
    assert_eq!(conflicts.dependencies(&touching(&[], &["y"])), deps([0]));
}

#[test]
fn an_older_instance_that_arrives_later_lowers_nothing() {
    let mut conflicts = Conflicts::new(3);
    conflicts.insert(at(0, 9), 5, &touching(&[], &["x"]));
    conflicts.insert(at(0, 4), 2, &touching(&[], &["x"]));
    assert_eq!(conflicts.dependencies(&touching(&["x"], &[])), deps([9]));
    assert_eq!(conflicts.next_stamp(), 6);
}

#[test]
fn a_barrier_depends_on_everything_and_everything_on_it() {
    let mut conflicts = Conflicts::new(3);
    conflicts.insert(at(0, 4), 1, &touching(&[], &["x"]));
    conflicts.insert(at(2, 6), 1, &touching(&["y"], &[]));
    assert_eq!(conflicts.dependencies(&Footprint::barrier()), deps([4, 0, 6]));
    conflicts.insert(at(1, 2), 9, &Footprint::barrier());
    assert_eq!(conflicts.dependencies(&touching(&["z"], &[])), deps([0, 2, 0]));
    assert_eq!(conflicts.dependencies(&touching(&[], &["x"])), deps([4, 2, 0]));
}

/// While a replica is away, nothing is forgotten.
#[test]
fn an_index_with_too_many_keys_is_emptied_and_everything_depends_on_what_was_in_it() {
    let mut conflicts = Conflicts::new(3);
    for number in 1..=100 {
        conflicts.insert(at(number as u8 % 2, number), 1, &touching(&[], &[&format!("k{number}")]));
    }
    conflicts.limit(100);
    assert_eq!((conflicts.key_count(), conflicts.dependencies(&touching(&[], &["x"]))), (100, deps([0; 3])));
    conflicts.limit(99);
    assert_eq!(conflicts.key_count(), 0);
    assert_eq!(conflicts.dependencies(&touching(&["x"], &[])), deps([100, 99, 0]));
    conflicts.insert(at(2, 5), 1, &touching(&[], &["y"]));
    assert_eq!(conflicts.dependencies(&touching(&[], &["y"])), deps([100, 99, 5]));
    for _ in 0..3 {
        conflicts.forget(&deps([100, 99, 5]));
    }
    assert_eq!((conflicts.key_count(), conflicts.dependencies(&touching(&[], &["y"]))), (0, deps([0; 3])));
}

/// Sessions expire by stamps: one that was used just now must not look old because its keys are cold. [protocols 7.2]
#[test]
fn a_stamp_is_above_every_stamp_seen_whatever_was_touched_and_forgotten() {
    let mut conflicts = Conflicts::new(3);
    conflicts.insert(at(0, 4), 9, &touching(&[], &["x"]));
    conflicts.insert(at(1, 3), 2, &touching(&[], &["y"]));
    assert_eq!(conflicts.next_stamp(), 10);
    conflicts.forget(&deps([4, 3, 0]));
    conflicts.forget(&deps([4, 3, 0]));
    assert_eq!((conflicts.key_count(), conflicts.next_stamp()), (0, 10));
    conflicts.raise_stamp(30);
    conflicts.raise_stamp(20);
    assert_eq!(conflicts.next_stamp(), 31);
}

#[test]
fn everything_depends_on_an_unknown_batch_until_it_is_known() {
    let mut conflicts = Conflicts::new(3);
    conflicts.insert_unknown(at(1, 3));
    conflicts.insert_unknown(at(1, 5));
    assert_eq!(conflicts.dependencies(&touching(&["x"], &[])), deps([0, 5]));
    conflicts.insert(at(1, 5), 1, &touching(&[], &["y"]));
    assert_eq!(conflicts.dependencies(&touching(&["x"], &[])), deps([0, 3]));
    assert_eq!(conflicts.dependencies(&touching(&["y"], &[])), deps([0, 5]));
    conflicts.dismiss(at(1, 3));
    assert_eq!(conflicts.dependencies(&touching(&["x"], &[])), deps([0]));
}

#[test]
fn a_floor_is_in_every_answer() {
    let mut conflicts = Conflicts::new(3);
    conflicts.set_floor(0, 64);
    conflicts.insert(at(0, 65), 1, &touching(&[], &["x"]));
    assert_eq!(conflicts.dependencies(&touching(&["y"], &[])), deps([64]));
    assert_eq!(conflicts.dependencies(&touching(&["x"], &[])), deps([65]));
}

#[test]
fn rows_that_do_not_exist_and_huge_stamps_do_no_harm() {
    let mut conflicts = Conflicts::new(3);
    for row in [3, 8, 200] {
        conflicts.insert(at(row, u64::MAX), u64::MAX, &touching(&[], &["x"]));
        conflicts.insert_unknown(at(row, 1));
    }
    assert_eq!(conflicts.dependencies(&touching(&[], &["x"])), deps([0]));
    conflicts.insert(at(0, u64::MAX), u64::MAX, &touching(&[], &["x"]));
    conflicts.insert(at(1, 1), conflicts.next_stamp(), &touching(&[], &["x"]));
    conflicts.set_floor(255, 3);
    assert_eq!(conflicts.next_stamp(), STAMP_END - 1, "the highest that others take");
}

#[test]
fn what_all_have_executed_is_forgotten_bit_by_bit() {
    let mut conflicts = Conflicts::new(3);
    let key = |number: u64| Footprint::of_keys(&[(&number.to_le_bytes()[..], true)]);
    for number in 1..=5000 {
        conflicts.insert(at((number % 3) as u8, number), number, &key(number));
    }
    conflicts.insert_unknown(at(0, 7));
    let executed = deps([3000, 3000, 3000]);
    conflicts.forget(&executed);
    assert_eq!(conflicts.dependencies(&key(2999)), deps([0]));
    for _ in 0..200 {
        conflicts.forget(&executed);
    }
    assert_eq!(conflicts.key_count(), 2000);
    for number in 3001..=5000 {
        assert_eq!(conflicts.dependencies(&key(number)).row((number % 3) as u8), number);
    }
}

#[test]
fn the_index_stays_as_small_as_what_was_touched_lately() {
    let mut conflicts = Conflicts::new(3);
    let key = |number: u64| Footprint::of_keys(&[(&number.to_le_bytes()[..], true)]);
    let mut most = 0;
    for number in 1..=50_000_u64 {
        conflicts.insert(at(0, number), number, &key(number));
        if number % 100 == 0 {
            conflicts.forget(&deps([number.saturating_sub(500)]));
        }
        most = most.max(conflicts.key_count());
    }
    assert!((500..2000).contains(&most), "{most} keys");
    // Somebody was away: nothing could be forgotten for a while, then everything.
    for number in 50_001..=100_000 {
        conflicts.insert(at(0, number), number, &key(number));
    }
    let large = conflicts.place_count();
    for number in 100_001..=130_000_u64 {
        conflicts.forget(&deps([number.saturating_sub(500)]));
        conflicts.insert(at(0, number), number, &key(number));
    }
    assert!(conflicts.place_count() * 8 < large, "{} of {large} places left", conflicts.place_count());
}

proptest! {
    #[test]
    fn answers_equal_those_of_a_search_through_all_instances(
        steps in prop::collection::vec(
            (0u8..3, 1u64..40, prop::collection::vec((0u8..60, any::<bool>()), 0..6), 0u8..20, 0u64..30), 1..150),
    ) {
        let mut conflicts = Conflicts::new(3);
        let mut all: Vec<(Position, Footprint)> = Vec::new();
        let mut executed = Dependencies::default();
        for (row, number, keys, luck, upto) in steps {
            let bytes: Vec<_> = keys.iter().map(|(key, is_written)| ([*key], *is_written)).collect();
            let keys: Vec<_> = bytes.iter().map(|(key, is_written)| (&key[..], *is_written)).collect();
            let footprint = if luck == 0 { Footprint::barrier() } else { Footprint::of_keys(&keys) };
            let mut expected = Dependencies::default();
            for (position, other) in &all {
                if other.interferes(&footprint) && !executed.contains(*position) {
                    expected.raise(position.row, position.number);
                }
            }
            prop_assert_eq!(conflicts.dependencies(&footprint), expected);
            conflicts.insert(at(row, number), number, &footprint);
            all.push((at(row, number), footprint));
            if luck == 1 {
                executed.raise(row, upto);
                conflicts.forget(&executed);
            }
        }
    }
}
