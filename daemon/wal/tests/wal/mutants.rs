//! Each guarded rule is needed: without it, what its test expects no longer holds.

use std::io;

use panch_wire::frame::PAGE_SIZE;
use panch_wire::rule::{Rule, remove};

use crate::recovery::is_loss_of_a_segment_noticed_that_was_made_by_a_life_before;
use crate::small_file::live_through_everything;
use crate::support::{IDENTITY, Node, config, read_back};

#[test]
fn without_torn_tail_cut_a_torn_group_is_taken_for_whole() {
    let mut node = Node::create(config());
    node.append(0, b"whole");
    node.settle();
    node.append_body(0, b"torn", 6000);
    node.submit();
    let write = node.in_flight.pop().unwrap();
    let mut pages = [true, true, false].into_iter();
    Node::store(&mut node.disk, &write, true, &mut || pages.next().unwrap());
    assert_eq!(read_back(&mut node.disk, IDENTITY).unwrap().1.appended.len(), 1);
    remove(Some(Rule::TornTailCut));
    let (_, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    remove(None);
    assert_eq!(past.appended.len(), 2);
}

#[test]
fn without_refuse_damaged_log_acknowledged_records_vanish() {
    let mut node = Node::create(config());
    for _ in 0..4 {
        node.append(0, b"acknowledged");
        node.settle();
    }
    node.disk.flip(1, 2 * PAGE_SIZE + 100, 1);
    assert!(read_back(&mut node.disk, IDENTITY).is_err());
    remove(Some(Rule::RefuseDamagedLog));
    let (_, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    remove(None);
    assert_eq!(past.appended.len(), 2);
}

#[test]
fn without_refuse_lost_segments_acknowledged_records_vanish() {
    let mut node = Node::create(config());
    for _ in 0..19 {
        node.append(0, b"acknowledged");
        node.settle();
    }
    node.disk.files.remove(&2);
    assert!(read_back(&mut node.disk, IDENTITY).is_err());
    remove(Some(Rule::RefuseLostSegments));
    let (_, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    remove(None);
    assert_eq!(past.appended.len(), 16);
}

#[test]
fn without_only_noted_segments_used_acknowledged_records_vanish() {
    remove(Some(Rule::OnlyNotedSegmentsUsed));
    let is_noticed = is_loss_of_a_segment_noticed_that_was_made_by_a_life_before();
    remove(None);
    assert!(!is_noticed);
}

#[test]
fn without_failed_write_stops_a_lost_write_counts_as_durable() {
    let mut node = Node::create(config());
    let lost = node.append(0, b"lost");
    node.submit();
    let write = node.in_flight.pop().unwrap();
    remove(Some(Rule::FailedWriteStops));
    let result = node.wal.on_written(write, Err(io::Error::from_raw_os_error(5)));
    remove(None);
    assert!(result.is_ok() && node.wal.durable() == lost.lsn && !node.wal.has_failed());
}

fn small_files_need(rule: Rule) {
    remove(Some(rule));
    let result = live_through_everything();
    remove(None);
    assert!(result.is_err(), "no crash notices that {} is gone", rule.name());
}

#[test]
fn without_small_file_copies_in_turn_both_are_torn_at_once() {
    small_files_need(Rule::SmallFileCopiesInTurn);
}

#[test]
fn without_small_file_whole_copy_stays_two_crashes_in_a_row_leave_none() {
    small_files_need(Rule::SmallFileWholeCopyStays);
}

#[test]
fn without_small_file_synced_when_read_a_text_that_was_read_is_lost() {
    small_files_need(Rule::SmallFileSyncedWhenRead);
}

#[test]
fn without_small_file_synced_before_renamed_a_new_file_is_empty() {
    small_files_need(Rule::SmallFileSyncedBeforeRenamed);
}

#[test]
fn without_small_file_name_synced_the_file_before_comes_back() {
    small_files_need(Rule::SmallFileNameSynced);
}
