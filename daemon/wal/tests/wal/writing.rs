//! Gathering, completing, modes and limits of the writer.

use std::io;

use panch_wal::{Config, ConfigFault, Durability, Lsn, RecordKind, Wal};
use panch_wire::frame::PAGE_SIZE;
use panch_wire::ids::GroupId;
use panch_wire::time::{Duration, Instant};

use crate::support::{IDENTITY, Node, config, packed, read_back};

#[test]
fn records_of_a_turn_share_one_write() {
    let mut node = Node::create(config());
    let first = node.append(0, b"one");
    let second = node.append(1, b"two");
    assert_eq!(first.lsn, second.lsn);
    assert_eq!(node.submit(), 1);
    assert_eq!(node.in_flight[0].size(), PAGE_SIZE);
    assert!(node.wal.durable() < first.lsn);
    node.complete(0);
    assert_eq!(node.wal.durable(), first.lsn);
    assert_eq!(node.submit(), 0);
}

#[test]
fn records_gather_while_enough_writes_are_in_flight() {
    let mut node = Node::create(Config { writes_in_flight_max: 1, ..config() });
    let first = node.append(0, b"one");
    assert_eq!(node.submit(), 1);
    let second = node.append(0, b"two");
    assert_eq!(node.submit(), 0);
    let third = node.append(0, b"three");
    assert!(first.lsn < second.lsn && second.lsn == third.lsn);
    node.complete(0);
    assert_eq!(node.submit(), 1);
}

#[test]
fn a_commit_group_is_bounded() {
    let mut node = Node::create(config());
    let numbers: Vec<_> = (0..5).map(|_| node.append_body(0, b"batch", 3000).0.lsn).collect();
    assert_eq!(numbers, [Lsn(1), Lsn(1), Lsn(1), Lsn(2), Lsn(2)]);
    assert_eq!(node.submit(), 2);
    assert!(node.in_flight.iter().all(|write| write.size() <= config().group_size_max));
    // A single body above the bound goes alone.
    let (large, _) = node.append_body(0, b"large", 7 * PAGE_SIZE);
    let after = node.append(0, b"after");
    assert!(large.lsn < after.lsn);
    node.settle();
    let (_, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    assert_eq!(past.appended.len(), 7);
}

#[test]
fn many_records_take_more_header_pages() {
    let mut node = Node::create(config());
    let bytes = [7; 128];
    for _ in 0..80 {
        node.append(0, &bytes);
    }
    assert_eq!(node.submit(), 1);
    assert_eq!(node.in_flight[0].size(), 3 * PAGE_SIZE);
    node.complete(0);
    let (_, past) = read_back(&mut node.disk, IDENTITY).unwrap();
    assert_eq!(past.appended.len(), 80);
    assert!(past.appended.iter().all(|record| record.bytes == bytes));
}

#[test]
fn durable_is_the_contiguous_prefix() {
    let mut node = Node::create(config());
    let numbers: Vec<_> = (0..3)
        .map(|_| {
            let appended = node.append(0, b"record");
            node.submit();
            appended.lsn
        })
        .collect();
    node.complete(2);
    node.complete(1);
    assert_eq!(node.wal.durable(), Lsn(0));
    node.complete(0);
    assert_eq!(node.wal.durable(), numbers[2]);
}

#[test]
fn a_failed_write_stops_the_log() {
    let mut node = Node::create(config());
    node.append(0, b"one");
    node.submit();
    node.append(0, b"two");
    node.submit();
    let second = node.in_flight.pop().unwrap();
    let failed = node.wal.on_written(second, Err(io::Error::from_raw_os_error(5)));
    assert!(failed.unwrap_err().to_string().starts_with("log write failed: segment 0000000000000001.wal"));
    assert!(node.wal.has_failed());
    // Not even an earlier write that succeeds makes anything durable now.
    node.complete(0);
    assert_eq!(node.wal.durable(), Lsn(0));
    node.append(0, b"three");
    assert_eq!(node.submit(), 0);
}

#[test]
fn a_failed_sync_stops_the_log() {
    let periodic = Durability::Periodic { interval: Duration::from_millis(10) };
    let mut node = Node::create(Config { durability: periodic, ..config() });
    node.append(0, b"one");
    node.submit();
    node.complete(0);
    let sync = node.wal.next_sync(node.now).unwrap();
    assert!(node.wal.on_synced(sync, Err(io::Error::from_raw_os_error(5))).is_err());
    assert!(node.wal.has_failed() && node.wal.next_sync(node.now).is_none());
    node.append(0, b"two");
    assert_eq!(node.submit(), 0);
}

/// What a failed write or sync takes along: what had counted and was not synced; nothing if the disk had no room.
#[test]
fn a_failed_write_loses_what_counted_and_was_not_synced() {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    let periodic = Durability::Periodic { interval: Duration::from_millis(10) };
    for (durability, is_first, code, expected) in [
        (periodic, false, EIO, true),
        (periodic, true, EIO, false),
        (periodic, false, ENOSPC, false),
        (Durability::Sync, false, EIO, false),
    ] {
        let mut node = Node::create(Config { durability, ..config() });
        if !is_first {
            node.append(0, b"counted");
            node.submit();
            node.complete(0);
        }
        node.append(0, b"failed");
        node.submit();
        let write = node.in_flight.pop().unwrap();
        let failed = node.wal.on_written(write, Err(io::Error::from_raw_os_error(code))).unwrap_err();
        assert_eq!(failed.loses_more, expected, "{durability:?} {is_first} {code}");
    }
    // The life before may have written with another durability: until its log is synced, a sync that fails loses that.
    let mut node = Node::create(config());
    node.append(0, b"one");
    node.settle();
    node.restart(config()).unwrap();
    let sync = node.wal.next_sync(node.now).unwrap();
    assert!(node.wal.on_synced(sync, Err(io::Error::from_raw_os_error(EIO))).unwrap_err().loses_more);
}

/// A node that ends hears what becomes of everything that it has on its way, though its log has failed.
#[test]
fn what_ends_after_a_failure_changes_nothing_but_may_say_that_more_is_lost() {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    let error = |code| Err(io::Error::from_raw_os_error(code));
    let periodic = Durability::Periodic { interval: Duration::from_millis(10) };
    for (written, synced) in [(Some(ENOSPC), Some(EIO)), (Some(ENOSPC), None), (None, Some(EIO))] {
        let mut node = Node::create(Config { durability: periodic, ..config() });
        node.append(0, b"counted");
        node.submit();
        node.complete(0);
        assert!(!node.wal.is_stable() && node.wal.counts_unsynced());
        let sync = node.wal.next_sync(node.now).unwrap();
        node.append(0, b"on its way");
        node.submit();
        let write = node.in_flight.pop().unwrap();
        let before = node.wal.durable();
        let result = |code: Option<i32>| code.map_or(Ok(()), error);
        let loses_more = if written.is_some() {
            assert!(!node.wal.on_written(write, result(written)).unwrap_err().loses_more);
            node.wal.on_synced(sync, result(synced)).is_err_and(|failed| failed.loses_more)
        } else {
            let failed = node.wal.on_synced(sync, result(synced)).unwrap_err();
            assert!(node.wal.on_written(write, Ok(())).is_ok());
            failed.loses_more
        };
        assert_eq!(loses_more, synced.is_some(), "{written:?} {synced:?}");
        assert_eq!(node.wal.durable(), before);
        assert!(node.wal.has_failed() && !node.wal.is_stable());
    }
    // What waits to be written has not counted.
    let mut node = Node::create(Config { durability: periodic, ..config() });
    node.append(0, b"counted");
    node.submit();
    node.complete(0);
    let sync = node.wal.next_sync(node.now).unwrap();
    node.wal.on_synced(sync, Ok(())).unwrap();
    node.append(0, b"waits");
    assert!(node.wal.is_stable() && !node.wal.is_settled() && !node.wal.counts_unsynced());
}

#[test]
fn memory_mode_writes_nothing_and_is_durable_at_once() {
    let mut wal = Wal::create(Config { durability: Durability::Memory, ..config() }, IDENTITY);
    let appended = wal.append(GroupId(0), RecordKind(1), b"record", None);
    assert_eq!(wal.durable(), appended.lsn);
    assert!(wal.next_write(Instant(0), |_| panic!("nothing to restate")).is_none());
    assert!(wal.wants_segment(Instant(0)).is_none());
    assert!(!wal.is_stalled() && !wal.is_full() && wal.deadline().is_none());
}

#[test]
fn periodic_mode_counts_written_as_durable_and_asks_for_syncs_at_the_interval() {
    let interval = Duration::from_millis(10);
    let mut node = Node::create(Config { durability: Durability::Periodic { interval }, ..config() });
    let one = node.append(0, b"one");
    node.submit();
    node.complete(0);
    assert_eq!((node.wal.durable(), node.wal.synced()), (one.lsn, Lsn(0)));
    let sync = node.wal.next_sync(node.now).unwrap();
    assert!(node.wal.next_sync(node.now).is_none());
    // A write that completes while the sync is under way is not covered by it.
    let two = node.append(0, b"two");
    node.submit();
    node.complete(0);
    node.wal.on_synced(sync, Ok(())).unwrap();
    assert_eq!((node.wal.durable(), node.wal.synced()), (two.lsn, one.lsn));
    assert!(node.wal.next_sync(node.now).is_none());
    assert_eq!(node.wal.deadline(), Some(node.now + interval));
    node.now = node.now + interval;
    node.sync();
    assert_eq!(node.wal.synced(), two.lsn);
}

#[test]
fn periodic_mode_shortens_the_log_on_power_failure_and_never_spoils_it() {
    let periodic = Durability::Periodic { interval: Duration::from_secs(1) };
    let mut node = Node::create(Config { durability: periodic, ..config() });
    let start = node.wal.next_sync(node.now);
    assert!(start.is_none());
    for _ in 0..3 {
        node.append(0, b"record");
        node.submit();
        node.complete(0);
    }
    // The last page survives, the two before it do not.
    node.disk.lose_power(&mut |at| at.1 == 2, true);
    let (recovered, past) = node.restart(config()).unwrap();
    assert_eq!((recovered.last, past.appended.len()), (Lsn(0), 0));
}

#[test]
fn a_quiet_log_is_attested_once() {
    let mut node = Node::create(config());
    let one = node.append(0, b"one");
    node.settle();
    assert!(!node.wal.attest_due(node.now));
    assert_eq!(node.wal.deadline(), Some(node.now + Duration::from_millis(50)));
    node.now = node.now + Duration::from_millis(50);
    assert!(node.wal.attest_due(node.now));
    assert_eq!(node.submit(), 1);
    assert!(node.in_flight[0].lsn() > one.lsn);
    node.complete(0);
    assert_eq!(node.wal.deadline(), None);
    node.now = node.now + Duration::from_secs(5);
    assert_eq!(node.submit(), 0);
}

#[test]
fn an_attest_that_opens_a_segment_is_attested_too() {
    let mut node = Node::create(config());
    node.promise(1, 5);
    node.settle();
    for _ in 0..15 {
        node.append(0, b"record");
        node.settle();
    }
    // The segment is full, so the attest goes to the next one, with a restatement that nothing attests yet.
    for _ in 0..2 {
        node.now = node.now + Duration::from_millis(50);
        assert_eq!(node.submit(), 1);
        assert_eq!(node.in_flight[0].segment().0, 2);
        node.complete(0);
    }
    assert_eq!(node.wal.deadline(), None);
    node.disk.flip(2, 100, 1);
    assert!(read_back(&mut node.disk, IDENTITY).is_err());
}

#[test]
fn an_orderly_stop_attests_without_waiting() {
    let mut node = Node::create(config());
    node.append(0, b"one");
    node.settle();
    node.wal.request_attest();
    assert_eq!(node.submit(), 1);
    node.complete(0);
    node.wal.request_attest();
    assert_eq!(node.submit(), 0);
}

/// What the log writes for so many bodies of so many bytes, each in a write of its own or all in one, and the bytes of their frames.
fn written(config: Config, count: usize, size: usize, is_alone: bool) -> (usize, usize) {
    let mut node = Node::create(Config { segment_size: 64 << 20, group_size_max: 1 << 20, ..config });
    node.disk.files.values_mut().for_each(|file| file.resize(64 << 20, 0));
    let (mut wrote, mut bytes) = (0, 0);
    for step in 1..=count {
        bytes += node.append_body(0, &[7; 100], size).1.bytes().len();
        if is_alone || step == count {
            node.submit();
            while !node.in_flight.is_empty() {
                wrote += node.in_flight[0].size();
                node.complete(0);
            }
        }
    }
    (wrote, bytes)
}

#[test]
fn what_is_written_is_little_more_than_the_bodies() {
    for size in [16, 300, 3000, 12_000, 16_000, 17_000, 40_000] {
        for (count, writes, is_alone) in [(1, 1, true), (20, 20, true), (20, 1, false)] {
            let (wrote, bytes) = written(Config::default(), count, size, is_alone);
            let most = bytes + bytes / 4 + (40 + 100) * count + writes * PAGE_SIZE;
            assert!(wrote <= most, "{count} of {size}: {wrote} for {bytes}");
        }
    }
    // A single small command takes one page, not two.
    assert_eq!(written(Config::default(), 1, 16, true).0, PAGE_SIZE);
    assert_eq!(written(config(), 1, 16, true).0, 2 * PAGE_SIZE);
}

/// Otherwise nothing would bound what waits for a disk that takes nothing.
#[test]
fn a_small_body_keeps_its_frame_until_it_is_written() {
    let mut node = Node::create(packed());
    let (_, frame) = node.append_body(0, b"batch", 3000);
    drop(frame);
    assert!(node.pool.used() > 0);
    node.submit();
    assert!(node.pool.used() > 0);
    node.complete(0);
    assert_eq!(node.pool.used(), 0);
    assert_eq!(read_back(&mut node.disk, IDENTITY).unwrap().1.bodies.len(), 1);
}

/// Recovery takes all frames of a commit group at once.
#[test]
fn small_bodies_of_a_commit_group_are_bounded_by_their_frames() {
    let mut node = Node::create(packed());
    let pages = config().group_size_max / PAGE_SIZE;
    let numbers: Vec<_> = (0..=pages).map(|_| node.append_body(0, b"batch", 16).0.lsn.0).collect();
    assert_eq!(numbers, [vec![1; pages], vec![2]].concat());
}

#[test]
fn a_body_is_found_where_it_was_written() {
    for config in [config(), packed()] {
        is_found_where_it_was_written(&config);
    }
}

fn is_found_where_it_was_written(config: &Config) {
    let mut node = Node::create(config.clone());
    let mut expected = Vec::new();
    for size in [100, 5000, 9000, 100, 3000, 12_000, 40, 20_000] {
        node.append(0, &[1; 120]);
        let (appended, frame) = node.append_body(1, b"batch", size);
        let named = appended.body.unwrap();
        assert_eq!(node.wal.locate(named), None);
        node.settle();
        expected.push((named, frame));
    }
    for (named, frame) in &expected {
        let at = node.wal.locate(*named).unwrap();
        let file = &node.disk.files[&at.segment.0];
        assert_eq!(&file[at.offset as usize..][..at.length as usize], frame.bytes());
        let read = &file[at.read_offset() as usize..][..at.read_size()];
        let mut memory = node.pool.take(read.len()).unwrap();
        memory[..read.len()].copy_from_slice(read);
        let mut short = node.pool.take(read.len()).unwrap();
        short[..read.len()].copy_from_slice(read);
        assert!(
            at.unpack(short, (at.offset - at.read_offset()) as usize + frame.bytes().len() - 1).is_none()
        );
        assert_eq!(at.unpack(memory, read.len()).as_ref(), Some(frame));
    }
    let located: Vec<_> = expected.iter().map(|(named, _)| node.wal.locate(*named)).collect();
    let (_, past) = node.restart(config.clone()).unwrap();
    for ((named, location, frame), (expected, at)) in past.bodies.iter().zip(expected.iter().zip(located)) {
        assert_eq!((*named, Some(*location), frame), (expected.0, at, &expected.1));
        assert_eq!(node.wal.locate(*named), at);
    }
    assert_eq!(past.bodies.len(), expected.len());
}

#[test]
fn a_driver_may_borrow_the_header_pages() {
    let mut node = Node::create(config());
    let (appended, frame) = node.append_body(0, b"batch", 3000);
    node.submit();
    let write = &mut node.in_flight[0];
    let size = write.size();
    let header = write.take_header();
    assert_eq!((header.len(), write.bodies(), write.size()), (1, &[frame][..], size));
    write.return_header(header);
    node.complete(0);
    assert_eq!(node.wal.durable(), appended.lsn);
    assert_eq!(read_back(&mut node.disk, IDENTITY).unwrap().1.appended.len(), 1);
}

#[test]
fn configurations_out_of_bounds_are_named() {
    let page = PAGE_SIZE as u64;
    assert_eq!(Config::default().check(), Ok(()));
    assert_eq!(Config { segment_size: 100 * page + 1, ..config() }.check(), Err(ConfigFault::SegmentSize));
    assert_eq!(Config { group_size_max: 9 * PAGE_SIZE, ..config() }.check(), Err(ConfigFault::GroupSize));
    assert_eq!(Config { group_size_max: 4 << 20, ..Config::default() }.check(), Err(ConfigFault::GroupSize));
    assert_eq!(Config { packed_size_max: 16385, ..config() }.check(), Err(ConfigFault::PackedSize));
    assert_eq!(Config { writes_in_flight_max: 0, ..config() }.check(), Err(ConfigFault::WritesInFlight));
    assert_eq!(Config { spares: 0, ..config() }.check(), Err(ConfigFault::Spares));
}

#[test]
fn frames_go_back_to_the_pool_when_their_write_completes() {
    let mut node = Node::create(config());
    let (_, frame) = node.append_body(0, b"batch", 3000);
    drop(frame);
    node.submit();
    assert!(node.pool.used() > 0);
    node.complete(0);
    assert_eq!(node.pool.used(), 0);
}
