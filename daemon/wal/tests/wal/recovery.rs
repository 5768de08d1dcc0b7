//! Where recovery ends, what it cuts and what it refuses.

use panch_wal::{Appended, End, Inventory, Lsn, RecoverError, SegmentSequence};
use panch_wire::frame::{FramePool, PAGE_SIZE};
use panch_wire::ids::GroupId;

use crate::support::{IDENTITY, MemoryDisk, Node, config, packed, read_back};

/// Commit groups of one page each, all durable.
fn log_of(count: usize) -> Node {
    let mut node = Node::create(config());
    for step in 0..count {
        node.append(0, &[step as u8]);
        node.settle();
    }
    node
}

fn refuse(node: &mut Node) -> RecoverError {
    read_back(&mut node.disk, IDENTITY).expect_err("the log is refused")
}

#[test]
fn an_empty_directory_is_an_empty_log() {
    let (recovered, past) = read_back(&mut MemoryDisk::default(), IDENTITY).unwrap();
    assert_eq!((recovered.last, recovered.end, past.appended.len()), (Lsn(0), End::Blank, 0));
    // Prepared segments do not make a log. The last may not be in the inventory yet.
    let mut node = Node::create(config());
    node.disk.inventory = Inventory::default();
    let (recovered, _) = node.restart(config()).unwrap();
    assert_eq!(recovered.last, Lsn(0));
    node.prepare();
    node.append(0, b"one");
    node.settle();
    assert_eq!(read_back(&mut node.disk, IDENTITY).unwrap().1.appended.len(), 1);
}

#[test]
fn the_log_ends_at_zeros_stale_bytes_or_the_end_of_its_segment() {
    let mut node = log_of(3);
    assert_eq!(read_back(&mut node.disk, IDENTITY).unwrap().0.end, End::Blank);
    for _ in 3..16 {
        node.append(0, b"more");
        node.settle();
    }
    assert_eq!(read_back(&mut node.disk, IDENTITY).unwrap().0.end, End::SegmentEnd);
    while node.disk.files.contains_key(&1) {
        let appended = node.append(0, b"more");
        node.settle();
        node.wal.set_floor(GroupId(0), appended.lsn);
    }
    for _ in 0..17 {
        node.append(0, b"more");
        node.settle();
    }
    assert_eq!(read_back(&mut node.disk, IDENTITY).unwrap().0.end, End::Stale);
}

#[test]
fn torn_tail_is_cut_and_overwritten() {
    let mut node = log_of(3);
    let (torn, _) = node.append_body(0, b"torn", 6000);
    node.submit();
    // The header and the first page of the body are written, the second is not.
    let write = node.in_flight.pop().unwrap();
    let mut pages = [true, true, false].into_iter();
    Node::store(&mut node.disk, &write, true, &mut || pages.next().unwrap());
    let (recovered, past) = node.restart(config()).unwrap();
    assert_eq!((recovered.end, past.appended.len()), (End::Torn, 3));
    node.sync();
    let next = node.append(0, b"next");
    assert!(next.lsn > torn.lsn);
    node.settle();
    let (recovered, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    assert_eq!((recovered.last, past.appended.len()), (next.lsn, 4));
    assert_eq!(past.appended[3].bytes, b"next");
}

#[test]
fn writes_behind_a_hole_were_never_acknowledged_and_stay_cut() {
    let mut node = log_of(2);
    for step in 0..3 {
        node.append(0, &[100 + step]);
        node.submit();
    }
    // The first is lost, the two others arrive, even complete.
    let lost = node.in_flight.remove(0);
    node.complete(1);
    node.complete(0);
    drop(lost);
    let (recovered, past) = node.restart(config()).unwrap();
    assert_eq!((recovered.end, past.appended.len()), (End::Torn, 2));
    node.sync();
    // One page closes the hole; what stands behind it does not continue it.
    let next = node.append(0, b"next");
    node.settle();
    let (recovered, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    assert_eq!((recovered.last, past.appended.len()), (next.lsn, 3));
    assert!(past.appended.iter().all(|record| record.bytes[0] < 100 || record.bytes == b"next"));
}

#[test]
fn a_write_in_the_next_segment_is_cut_with_the_hole_before_it() {
    let mut node = log_of(15);
    node.promise(1, 9);
    node.submit();
    node.append(0, b"in the next segment");
    node.submit();
    assert_eq!(node.in_flight[1].segment(), SegmentSequence(2));
    node.complete(1);
    let (recovered, past) = node.restart(config()).unwrap();
    assert_eq!((recovered.end, past.appended.len(), past.restated.len()), (End::Torn, 15, 0));
    node.sync();
    for step in 0..3 {
        node.append(0, &[50 + step]);
        node.settle();
    }
    let (_, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    let tail: Vec<_> = past.appended[15..].iter().map(|record| record.bytes[0]).collect();
    assert_eq!(tail, [50, 51, 52]);
}

#[test]
fn damage_below_what_was_acknowledged_is_refused() {
    let mut node = log_of(5);
    node.disk.flip(1, 2 * PAGE_SIZE + 200, 1);
    let error = refuse(&mut node);
    let RecoverError::Damaged { segment, offset, lsn, attested_by } = &error else { panic!("{error}") };
    assert_eq!((*segment, *offset, *lsn), (SegmentSequence(1), 2 * PAGE_SIZE as u64, Lsn(3)));
    assert_eq!(attested_by.unwrap().2, Lsn(4));
    let text = error.to_string();
    assert!(text.contains("0000000000000001.wal is damaged at or behind offset 8192 (lsn 3"), "{text}");
    assert!(text.contains("--rejoin"), "{text}");
}

#[test]
fn zeros_where_an_acknowledged_group_should_be_are_damage() {
    let mut node = log_of(5);
    node.disk.files.get_mut(&1).unwrap()[PAGE_SIZE..2 * PAGE_SIZE].fill(0);
    assert!(matches!(refuse(&mut node), RecoverError::Damaged { lsn: Lsn(2), .. }));
}

#[test]
fn damage_is_noticed_from_a_later_segment() {
    let mut node = log_of(17);
    assert!(node.disk.files[&2].iter().any(|byte| *byte != 0));
    node.disk.flip(1, 15 * PAGE_SIZE + 9, 1);
    let error = refuse(&mut node);
    assert!(matches!(error, RecoverError::Damaged { segment: SegmentSequence(1), .. }), "{error}");
}

#[test]
fn a_damaged_start_of_the_newest_segment_is_noticed() {
    let mut node = log_of(19);
    node.disk.flip(2, 50, 1);
    let error = refuse(&mut node);
    assert!(matches!(error, RecoverError::Damaged { segment: SegmentSequence(2), offset: 0, .. }), "{error}");
}

#[test]
fn the_last_group_is_protected_once_attested() {
    let mut node = log_of(3);
    let mut unattested = node.disk.clone();
    unattested.flip(1, 2 * PAGE_SIZE + 100, 1);
    let (recovered, past) = read_back(&mut unattested, IDENTITY).unwrap();
    assert_eq!((recovered.end, past.appended.len()), (End::Torn, 2));
    node.rest();
    node.disk.flip(1, 2 * PAGE_SIZE + 100, 1);
    assert!(matches!(refuse(&mut node), RecoverError::Damaged { lsn: Lsn(3), .. }));
}

/// A log of several segments whose first ones were released.
fn recycled() -> Node {
    let mut node = log_of(0);
    while node.wal.retained_size() < 3 * 16 * PAGE_SIZE as u64 || node.disk.files.contains_key(&2) {
        let appended = node.append(0, b"record");
        node.settle();
        node.wal.set_floor(GroupId(0), Lsn(appended.lsn.0.saturating_sub(34)));
    }
    node.rest();
    node
}

#[test]
fn a_missing_segment_is_refused_wherever_it_was() {
    let node = recycled();
    let sequences: Vec<_> = node.disk.files.keys().copied().collect();
    let used = &sequences[..3];
    for missing in used {
        let mut disk = node.disk.clone();
        disk.files.remove(missing);
        let error = read_back(&mut disk, IDENTITY).err().unwrap();
        assert!(
            matches!(error, RecoverError::MissingSegment { missing: named } if named.0 == *missing),
            "{missing} of {sequences:?}: {error}"
        );
        assert!(error.to_string().contains("--rejoin"));
    }
}

#[test]
fn damage_to_the_oldest_segments_first_group_is_refused() {
    let mut node = recycled();
    let oldest = *node.disk.files.keys().next().unwrap();
    node.disk.flip(oldest, 60, 4);
    let error = refuse(&mut node);
    assert!(matches!(error, RecoverError::Damaged { attested_by: None, offset: 0, .. }), "{error}");
}

#[test]
fn a_log_that_lost_all_but_traces_is_refused() {
    let mut node = recycled();
    let sequences: Vec<_> = node.disk.files.keys().copied().collect();
    for sequence in &sequences[..3] {
        node.disk.flip(*sequence, 60, 4);
    }
    let error = refuse(&mut node);
    assert!(matches!(error, RecoverError::Damaged { attested_by: None, .. }), "{error}");
}

#[test]
fn another_logs_segment_is_refused() {
    let mut node = log_of(3);
    let error = read_back(&mut node.disk, 1).err().unwrap();
    assert!(matches!(error, RecoverError::Identity { expected: 1, found: IDENTITY, .. }));
    assert!(error.to_string().contains("belongs to another log"));
}

#[test]
fn an_unknown_format_version_is_refused_with_clear_text() {
    let mut node = log_of(1);
    let page = &mut node.disk.files.get_mut(&1).unwrap()[..PAGE_SIZE];
    page[12] = 9;
    seal_again(page);
    let text = refuse(&mut node).to_string();
    assert!(text.contains("has format version 9; this program reads versions 1 to 2"), "{text}");
}

#[test]
fn an_intact_body_of_an_unknown_version_is_refused_and_not_cut() {
    let mut node = Node::create(config());
    let (_, frame) = node.append_body(0, b"batch", 100);
    node.settle();
    let segment = node.disk.files.get_mut(&1).unwrap();
    // The frame's version, its checksum, the copy in the record, and the header's checksum.
    let body = &mut segment[PAGE_SIZE..][..frame.bytes().len()];
    body[12] = 9;
    let sum = panch_wire::checksum::checksum(&body[8..]).to_le_bytes();
    body[..8].copy_from_slice(&sum);
    segment[96 + 16..96 + 24].copy_from_slice(&sum);
    seal_again(&mut segment[..PAGE_SIZE]);
    let error = refuse(&mut node);
    assert!(matches!(error, RecoverError::Body { offset: 4096, lsn: Lsn(1), .. }), "{error}");
}

#[test]
fn a_packed_body_of_an_unknown_version_is_refused_and_not_cut() {
    let mut node = Node::create(packed());
    let (appended, frame) = node.append_body(0, b"batch", 100);
    node.settle();
    let at = node.wal.locate(appended.body.unwrap()).unwrap().offset as usize;
    let segment = node.disk.files.get_mut(&1).unwrap();
    let body = &mut segment[at..][..frame.bytes().len()];
    body[12] = 9;
    let sum = panch_wire::checksum::checksum(&body[8..]).to_le_bytes();
    body[..8].copy_from_slice(&sum);
    segment[96 + 16..96 + 24].copy_from_slice(&sum);
    seal_again(&mut segment[..PAGE_SIZE]);
    let error = refuse(&mut node);
    assert!(
        matches!(error, RecoverError::Body { lsn: Lsn(1), offset, .. } if offset == at as u64),
        "{error}"
    );
}

/// Makes the checksum of a header page right again.
fn seal_again(page: &mut [u8]) {
    let sum = panch_wire::checksum::checksum(&page[8..]);
    page[..8].copy_from_slice(&sum.to_le_bytes());
}

/// What version 1 wrote is what this one writes without packing.
#[test]
fn a_log_of_version_1_is_read_and_continued() {
    let mut node = Node::create(config());
    node.append_body(0, b"first", 100);
    let (before, frame) = node.append_body(1, b"second", 100);
    node.submit();
    assert_eq!(node.in_flight[0].size(), 3 * PAGE_SIZE);
    node.complete(0);
    let page = &mut node.disk.files.get_mut(&1).unwrap()[..PAGE_SIZE];
    assert_eq!(page[12], 2);
    page[12] = 1;
    seal_again(page);
    let (_, past) = node.restart(packed()).unwrap();
    assert_eq!(past.appended.len(), 2);
    node.sync();
    let (after, _) = node.append_body(0, b"third", 100);
    node.settle();
    let place = |appended: Appended| node.wal.locate(appended.body.unwrap()).unwrap().offset;
    assert_eq!(place(before), 2 * PAGE_SIZE as u64);
    assert!((3 * PAGE_SIZE as u64..4 * PAGE_SIZE as u64).contains(&place(after)));
    let (recovered, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    assert_eq!((recovered.end, past.appended.len()), (End::Blank, 3));
    assert_eq!((&past.bodies[1].2, past.bodies[1].0), (&frame, before.body.unwrap()));
}

#[test]
fn a_group_of_another_history_does_not_continue_the_chain() {
    let (mut node, mut other) = (log_of(1), Node::create(config()));
    for _ in 0..17 {
        other.append(0, b"other");
        other.settle();
    }
    // Intact, in its place, and with the next number; but behind another first group.
    let foreign = other.disk.files[&1][PAGE_SIZE..2 * PAGE_SIZE].to_vec();
    node.disk.write_page(SegmentSequence(1), PAGE_SIZE as u64, &foreign, true);
    let (recovered, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    assert_eq!((recovered.last, recovered.end, past.appended.len()), (Lsn(1), End::Torn, 1));
    // The same at the start of the next segment, where it even attests what is not there.
    let mut node = log_of(15);
    let foreign = other.disk.files[&2][..PAGE_SIZE].to_vec();
    node.disk.write_page(SegmentSequence(2), 0, &foreign, true);
    let error = refuse(&mut node);
    assert!(matches!(error, RecoverError::Damaged { lsn: Lsn(16), .. }), "{error}");
}

#[test]
fn a_header_inside_a_body_is_not_taken_for_one() {
    let mut node = log_of(4);
    // The torn body holds a page of this very log, which would attest the torn group if it stood in its own place.
    let attesting = log_of(7).disk.files[&1][6 * PAGE_SIZE..7 * PAGE_SIZE].to_vec();
    node.append_body(0, b"torn", 9000);
    node.submit();
    let write = node.in_flight.pop().unwrap();
    assert_eq!(write.offset(), 4 * PAGE_SIZE as u64);
    let mut in_place = node.disk.clone();
    node.disk.write_page(write.segment(), 5 * PAGE_SIZE as u64, &attesting, true);
    let (recovered, _) = read_back(&mut node.disk, IDENTITY).unwrap();
    assert_eq!(recovered.last, Lsn(4));
    in_place.write_page(write.segment(), 6 * PAGE_SIZE as u64, &attesting, true);
    assert!(read_back(&mut in_place, IDENTITY).is_err());
}

#[test]
fn numbers_of_cut_writes_are_not_used_again() {
    let mut node = log_of(2);
    node.restart(config()).unwrap();
    node.sync();
    node.append(0, b"lost");
    node.submit();
    let cut = node.append(0, b"cut with the hole before it");
    node.submit();
    node.complete(1);
    let (recovered, _) = node.restart(config()).unwrap();
    assert_eq!((recovered.last, recovered.end), (Lsn(2), End::Torn));
    assert!(node.append(0, b"next").lsn > cut.lsn);
}

#[test]
fn a_recovered_tail_counts_as_durable_only_after_a_sync() {
    let mut node = log_of(2);
    node.append(0, b"in the disk's cache");
    node.submit();
    let write = node.in_flight.pop().unwrap();
    Node::store(&mut node.disk, &write, false, &mut || true);
    let (recovered, past) = node.restart(config()).unwrap();
    assert_eq!(past.appended.len(), 3);
    assert!(node.wal.durable() < recovered.last);
    // A write behind it does not make it durable either.
    node.append(0, b"next");
    node.submit();
    node.complete(0);
    assert!(node.wal.durable() < recovered.last);
    let mut lost = node.disk.clone();
    lost.lose_power(&mut |_| false, true);
    assert_eq!(read_back(&mut lost, IDENTITY).unwrap().1.appended.len(), 2);
    node.sync();
    assert!(node.wal.durable() > recovered.last);
}

#[test]
fn bodies_that_do_not_fit_the_pool_are_an_error() {
    let mut node = Node::create(config());
    node.append_body(0, b"batch", 9000);
    node.settle();
    let pool = FramePool::new(PAGE_SIZE);
    let error = panch_wal::recover(&mut node.disk, IDENTITY, None, &pool, |_| ()).err().unwrap();
    assert!(matches!(error, RecoverError::Memory { .. }));
}

#[test]
fn a_truncated_segment_is_refused() {
    let mut node = log_of(19);
    node.disk.files.get_mut(&1).unwrap().truncate(9 * PAGE_SIZE + 77);
    let error = refuse(&mut node);
    assert!(matches!(error, RecoverError::ShortSegment { segment: SegmentSequence(1), .. }), "{error}");
    // Of a directory of an earlier version what lies behind tells.
    node.disk.inventory = Inventory::default();
    let error = refuse(&mut node);
    assert!(matches!(error, RecoverError::Damaged { lsn: Lsn(10), .. }), "{error}");
}

/// Every file that a log has, removed alone and with all behind it, or cut off.
#[test]
fn no_segment_of_the_log_or_prepared_for_it_can_go_unnoticed() {
    let node = recycled();
    let sequences: Vec<u64> = node.disk.files.keys().copied().collect();
    assert!(sequences.len() >= 4, "three in use and a spare: {sequences:?}");
    for first in &sequences {
        for tail in [false, true] {
            let mut disk = node.disk.clone();
            disk.files.retain(|sequence, _| sequence < first || sequence > first && !tail);
            let error = read_back(&mut disk, IDENTITY).err().unwrap();
            let RecoverError::MissingSegment { missing } = error else { panic!("{first} {tail}: {error}") };
            assert!(missing.0 == *first || missing.0 < *first && tail, "{missing} instead of {first}");
        }
        let mut disk = node.disk.clone();
        disk.files.get_mut(first).unwrap().truncate(PAGE_SIZE);
        let error = read_back(&mut disk, IDENTITY).err().unwrap();
        assert!(matches!(error, RecoverError::ShortSegment { .. } | RecoverError::Damaged { .. }), "{error}");
    }
}

/// The node ended after a segment was made and before that was noted; then it writes on, and loses the segment that it writes to.
/// Whether that is noticed.
pub(crate) fn is_loss_of_a_segment_noticed_that_was_made_by_a_life_before() -> bool {
    let mut node = log_of(10);
    assert_eq!(node.disk.files.keys().copied().collect::<Vec<_>>(), [1, 2], "one in use and a spare");
    node.disk.inventory.remove_from(SegmentSequence(2));
    node.restart(config()).unwrap();
    node.prepare();
    node.disk_full = true;
    for _ in 0..8 {
        node.append(0, b"acknowledged");
        node.settle();
    }
    assert_eq!(read_back(&mut node.disk, IDENTITY).unwrap().1.appended.len(), 18);
    node.disk.files.remove(&2);
    read_back(&mut node.disk, IDENTITY).is_err()
}

/// The same of the first segment: the inventory names none yet.
#[test]
fn a_first_segment_that_was_not_noted_is_made_again() {
    let mut node = log_of(0);
    node.prepare();
    assert!(!node.disk.files.is_empty());
    node.disk.inventory.remove_from(SegmentSequence(1));
    node.restart(config()).unwrap();
    node.prepare();
    for _ in 0..3 {
        node.append(0, b"acknowledged");
        node.settle();
    }
    assert_eq!(read_back(&mut node.disk, IDENTITY).unwrap().1.appended.len(), 3);
    node.disk.files.clear();
    assert!(read_back(&mut node.disk, IDENTITY).is_err(), "nobody misses the log");
}

#[test]
fn the_log_uses_no_segment_that_could_be_lost_unnoticed() {
    assert!(is_loss_of_a_segment_noticed_that_was_made_by_a_life_before());
}

/// A directory of an earlier version has no inventory: a gap is noticed all the same, whatever lies behind it.
#[test]
fn a_gap_before_a_blank_segment_is_refused_without_an_inventory() {
    let mut node = log_of(19);
    node.disk.inventory = Inventory::default();
    assert_eq!(node.disk.files.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    node.disk.files.remove(&2);
    let error = refuse(&mut node);
    assert!(matches!(error, RecoverError::MissingSegment { missing: SegmentSequence(2) }), "{error}");
}
