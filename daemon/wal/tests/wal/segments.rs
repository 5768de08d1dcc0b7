//! Preparing, entering, restating, releasing and recycling segments.

use panch_wal::{Config, Lsn, SegmentSequence};
use panch_wire::frame::PAGE_SIZE;
use panch_wire::ids::GroupId;
use panch_wire::time::Duration;

use crate::support::{IDENTITY, Node, config, read_back};

/// Writes one commit group of four pages.
fn fill(node: &mut Node, group: u16) -> Lsn {
    let (appended, _) = node.append_body(group, b"batch", 3 * PAGE_SIZE - 600);
    node.settle();
    appended.lsn
}

fn sequences(node: &Node) -> Vec<u64> {
    node.disk.files.keys().copied().collect()
}

#[test]
fn a_spare_is_prepared_ahead_and_the_next_segment_starts_with_a_restatement() {
    let mut node = Node::create(config());
    assert_eq!(sequences(&node), [1, 2]);
    node.promise(7, 3);
    node.settle();
    for _ in 0..3 {
        fill(&mut node, 0);
    }
    assert_eq!(sequences(&node), [1, 2]);
    fill(&mut node, 0);
    assert_eq!(sequences(&node), [1, 2, 3]);
    assert_eq!(node.wal.retained_size(), 2 * 16 * PAGE_SIZE as u64);
    let (_, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    let restated: Vec<_> = past.restated.iter().map(|record| (record.group, record.lsn)).collect();
    assert_eq!(restated, [(GroupId(7), Lsn(1)), (GroupId(7), Lsn(5))]);
}

#[test]
fn a_segment_is_released_only_when_restated_unneeded_and_stated_so() {
    let mut node = Node::create(config());
    node.promise(7, 3);
    let mut last = Lsn(0);
    for _ in 0..4 {
        last = fill(&mut node, 0);
    }
    assert_eq!(sequences(&node), [1, 2]);
    // The next one enters segment 2 with the restatement; its write is under way.
    node.append_body(0, b"batch", 3 * PAGE_SIZE - 600);
    node.submit();
    node.wal.set_floor(GroupId(0), last.next());
    node.prepare();
    assert_eq!(node.wal.oldest_blocking_group(), Some(GroupId(7)));
    node.wal.set_floor(GroupId(7), last);
    assert_eq!(node.wal.oldest_blocking_group(), None);
    node.now = node.now + Duration::from_secs(1);
    assert!(!node.wal.attest_due(node.now));
    node.complete(0);
    // The restatement is durable, but nothing on disk says yet that segment 1 is not part of the log.
    assert_eq!(sequences(&node), [1, 2, 3]);
    assert_eq!(node.wal.retained_size(), 2 * 16 * PAGE_SIZE as u64);
    assert!(node.wal.attest_due(node.now));
    node.submit();
    assert_eq!(node.wal.retained_size(), 2 * 16 * PAGE_SIZE as u64);
    node.complete(0);
    assert_eq!(node.wal.retained_size(), 16 * PAGE_SIZE as u64);
    let (_, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    assert_eq!(past.states[&GroupId(7)], 3);
}

#[test]
fn a_restatement_in_flight_makes_no_older_segment_unneeded() {
    let mut node = Node::create(Config { spares: 2, ..config() });
    node.promise(7, 3);
    let large = 7 * PAGE_SIZE;
    let (first, _) = node.append_body(0, b"batch", large);
    node.settle();
    // One commit group per segment; both are under way, and the second one names the oldest segment.
    node.append_body(0, b"batch", large);
    node.submit();
    node.wal.set_floor(GroupId(0), first.lsn.next());
    node.wal.set_floor(GroupId(7), first.lsn.next());
    node.append_body(0, b"batch", large);
    node.submit();
    assert_eq!(node.in_flight[1].segment(), SegmentSequence(3));
    node.complete(1);
    let (recovered, past) = node.restart(config()).unwrap();
    assert_eq!((recovered.last, past.states[&GroupId(7)]), (first.lsn, 3));
}

#[test]
fn a_released_segment_is_renamed_and_its_records_never_come_back() {
    let mut node = Node::create(config());
    for step in 0..40 {
        node.promise(2, step);
        let last = fill(&mut node, 0);
        node.wal.set_floor(GroupId(0), last);
        node.wal.set_floor(GroupId(2), last);
        assert!(node.disk.files.len() <= 4, "the log stays small: {:?}", sequences(&node));
        let (_, past) = read_back(&mut node.disk, IDENTITY).unwrap();
        let numbers: Vec<_> = past.appended.iter().map(|record| record.lsn).collect();
        assert!(numbers.is_sorted() && numbers.last() == Some(&last));
        assert_eq!(past.states[&GroupId(2)], step);
    }
    assert!(*node.disk.files.keys().next().unwrap() > 5);
}

/// A snapshot frees several at once: as many as are wanted are kept, also over a restart, and no other file is made until they are used up.
#[test]
fn what_is_freed_is_used_again() {
    let kept = || Config { reuse_max: 3, ..config() };
    let mut node = Node::create(kept());
    let mut last = Lsn(0);
    while sequences(&node).len() < 8 {
        last = fill(&mut node, 0);
    }
    node.wal.set_floor(GroupId(0), last);
    // The next segment says that the first ones are not needed.
    let fill_segment = |node: &mut Node| {
        let newest = sequences(node).pop();
        while sequences(node).pop() == newest {
            fill(node, 0);
        }
        node.settle();
        sequences(node)
    };
    let after = fill_segment(&mut node);
    assert_eq!(after[..2], [2, 3], "three are kept, of which the oldest was used just now");
    assert!(after[2] > 5, "{after:?}");
    node.restart(kept()).unwrap();
    let count = after.len();
    for _ in 0..2 {
        assert_eq!(fill_segment(&mut node).len(), count);
    }
    let used_up = fill_segment(&mut node);
    assert!(used_up[0] > 3 && used_up.len() > count, "{used_up:?}");
}

/// A log that keeps as many files as that, none of which is part of it.
fn with_kept_files() -> (Node, Vec<u64>) {
    let kept = Config { reuse_max: 5, ..config() };
    let mut node = Node::create(kept);
    let mut last = Lsn(0);
    while sequences(&node).len() < 7 {
        last = fill(&mut node, 0);
    }
    // All is said of the last segment while it is the current one, and nothing is renamed before the next.
    node.append(0, b"first of the segment");
    node.settle();
    node.wal.set_floor(GroupId(0), last.next().next());
    node.rest();
    let current = sequences(&node)[5];
    (node, (1..current).collect())
}

#[test]
fn files_that_are_kept_are_not_read() {
    let (mut node, kept) = with_kept_files();
    let (recovered, _) = read_back(&mut node.disk, IDENTITY).unwrap();
    for sequence in kept {
        node.disk.flip(sequence, 100, 1);
    }
    let (again, _) = read_back(&mut node.disk, IDENTITY).unwrap();
    assert_eq!((again.last, again.record_count), (recovered.last, recovered.record_count));
    assert!(recovered.commit_group_count < 16, "{}", recovered.commit_group_count);
}

#[test]
fn files_that_are_kept_are_given_back_when_there_is_no_room_for_something_else() {
    let (mut node, kept) = with_kept_files();
    node.wal.give_back();
    node.prepare();
    let left = sequences(&node);
    assert_eq!(kept.iter().filter(|sequence| left.contains(sequence)).count(), 1, "{left:?}");
    // Nothing else has changed.
    node.restart(config()).unwrap();
    node.sync();
    node.append(0, b"next");
    node.settle();
    node.wal.give_back();
    assert!(node.wal.take_surplus().is_none());
}

#[test]
fn the_group_with_the_lowest_floor_blocks_the_oldest_segment() {
    let mut node = Node::create(config());
    for group in [0, 1, 2, 0, 0, 0] {
        fill(&mut node, group);
    }
    node.wal.set_floor(GroupId(0), Lsn(2));
    assert_eq!(node.wal.oldest_blocking_group(), Some(GroupId(1)));
    node.wal.set_floor(GroupId(1), Lsn(3));
    assert_eq!(node.wal.oldest_blocking_group(), Some(GroupId(2)));
    node.wal.set_floor(GroupId(2), Lsn(4));
    assert_eq!(node.wal.oldest_blocking_group(), Some(GroupId(0)));
    // A floor never goes back.
    node.wal.set_floor(GroupId(2), Lsn(1));
    node.wal.set_floor(GroupId(0), Lsn(5));
    assert_eq!(node.wal.oldest_blocking_group(), None);
}

#[test]
fn a_full_disk_is_reported_before_the_spare_is_used_up_and_tried_again_later() {
    let mut node = Node::create(config());
    node.disk_full = true;
    for _ in 0..4 {
        fill(&mut node, 0);
    }
    assert!(!node.wal.is_full() && !node.wal.is_stalled());
    for _ in 0..3 {
        fill(&mut node, 0);
        assert!(node.wal.is_full() && !node.wal.is_stalled());
    }
    // The spare is used up: records gather, nothing is lost.
    fill(&mut node, 0);
    let waiting = fill(&mut node, 0);
    assert!(node.wal.is_stalled() && node.wal.durable() < waiting);
    node.disk_full = false;
    node.prepare();
    assert!(node.wal.is_stalled(), "not tried again at once");
    assert_eq!(node.wal.deadline(), Some(node.now + Duration::from_secs(1)));
    node.now = node.now + Duration::from_secs(1);
    node.prepare();
    node.settle();
    assert!(!node.wal.is_full() && node.wal.durable() == waiting);
}

#[test]
fn spares_found_at_the_start_are_used_and_those_of_another_size_replaced() {
    let mut node = Node::create(Config { spares: 2, ..config() });
    fill(&mut node, 0);
    assert_eq!(sequences(&node), [1, 2, 3]);
    node.disk.files.insert(3, vec![0; 20 * PAGE_SIZE]);
    node.restart(config()).unwrap();
    assert_eq!(sequences(&node), [1, 2]);
    node.prepare();
    for _ in 0..8 {
        fill(&mut node, 0);
    }
    let (_, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    assert_eq!(past.appended.len(), 9);
}

#[test]
fn files_left_over_from_an_interrupted_release_go_away() {
    let mut node = Node::create(config());
    let mut before = None;
    for _ in 0..12 {
        let last = fill(&mut node, 0);
        if sequences(&node).contains(&1) {
            before = Some(node.disk.files[&1].clone());
        }
        node.wal.set_floor(GroupId(0), last);
    }
    assert!(!sequences(&node).contains(&1));
    node.disk.files.insert(1, before.unwrap());
    let (_, past) = node.restart(config()).unwrap();
    assert!(past.appended.iter().all(|record| record.lsn > Lsn(4)));
    node.prepare();
    node.rest();
    assert!(!sequences(&node).contains(&1));
}
