//! Log files.

use panch_wire::frame::PAGE_SIZE;

use super::*;
use crate::file::{LogFile, Pace};
use crate::parts::{LogPart, ReadBuffer, zeroed_pages};

const PAGE: u64 = PAGE_SIZE as u64;

fn pages(count: usize, fill: u8) -> LogPart {
    let mut pages = zeroed_pages(count);
    pages.iter_mut().for_each(|page| page.0.fill(fill));
    LogPart::Pages { pages: pages.into_vec(), count }
}

/// Nobody rests while a segment is made.
fn never(_: u64) -> Pace {
    Pace::Hurry
}

fn written(ring: &mut Ring) -> (Token, io::Result<()>, Vec<LogPart>) {
    match next(ring) {
        Event::Written { token, result, parts } => (token, result, parts),
        other => panic!("unexpected {other:?}"),
    }
}

fn read(ring: &mut Ring, file: FileId, offset: u64, size: usize, buffer: ReadBuffer) -> (usize, ReadBuffer) {
    ring.read_log(file, offset, size, buffer, Token(4));
    match next(ring) {
        Event::Read { token: Token(4), result, buffer } => (result.unwrap(), buffer),
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn a_durable_write_of_pages_and_frames_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let log = LogFile::create(&directory.path().join("log"), 64 * PAGE, never).unwrap();
    let mut ring = ring(&small());
    let file = ring.add_file(log);
    let pool = FramePool::new(1 << 20);
    let frame = frame(&pool, 10_000, 3);
    let mut expected = vec![8; PAGE_SIZE];
    expected.extend_from_slice(frame.padded());
    let head = LogPart::Pages { pages: zeroed_pages(4).into_vec(), count: 1 };
    let LogPart::Pages { mut pages, count } = head else { unreachable!() };
    pages[0].0.fill(8);
    ring.write_log(
        file,
        5 * PAGE,
        vec![LogPart::Pages { pages, count }, LogPart::Frame(frame.clone())],
        true,
        Token(1),
    );
    let (token, result, parts) = written(&mut ring);
    assert_eq!(token, Token(1));
    result.unwrap();
    assert!(
        matches!(&parts[..], [LogPart::Pages { pages, count: 1 }, LogPart::Frame(back)] if pages.len() == 4 && *back == frame)
    );
    ring.sync(file, Token(2));
    assert!(matches!(next(&mut ring), Event::Synced { token: Token(2), result: Ok(()) }));

    let (size, buffer) = read(&mut ring, file, 5 * PAGE, expected.len(), ReadBuffer::Pages(zeroed_pages(10)));
    assert_eq!(size, expected.len());
    assert!(buffer.bytes()[..size] == expected);

    let memory = pool.take(frame.bytes().len()).unwrap();
    let (_, buffer) = read(&mut ring, file, 6 * PAGE, frame.padded().len(), ReadBuffer::Frame(memory));
    let ReadBuffer::Frame(memory) = buffer else { panic!("the buffer comes back") };
    assert_eq!(memory.receive(frame.bytes().len()).unwrap(), frame);
    assert_eq!(ring.counters().written_bytes, expected.len() as u64);
}

#[test]
fn a_write_of_more_parts_than_one_call_takes_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut ring = ring(&small());
    let file = ring.add_file(LogFile::create(&path, 400 * PAGE, never).unwrap());
    let parts = (0..300).map(|number| pages(1, number as u8)).collect();
    ring.write_log(file, 50 * PAGE, parts, true, Token(1));
    let (_, result, parts) = written(&mut ring);
    result.unwrap();
    assert_eq!(parts.len(), 300);
    assert_eq!(ring.counters().short_writes, 2);
    let mut back = zeroed_pages(400);
    LogFile::open(&path).unwrap().read_pages(0, &mut back).unwrap();
    for (number, page) in back.iter().enumerate() {
        let expected = if (50..350).contains(&number) { (number - 50) as u8 } else { 0 };
        assert_eq!(page.0, [expected; PAGE_SIZE], "page {number}");
    }
}

#[test]
fn a_read_stops_at_the_end_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut ring = ring(&small());
    let file = ring.add_file(LogFile::create(&directory.path().join("log"), 3 * PAGE, never).unwrap());
    let (size, buffer) = read(&mut ring, file, PAGE, 10 * PAGE_SIZE, ReadBuffer::Pages(zeroed_pages(10)));
    assert_eq!(size, 2 * PAGE_SIZE);
    let (size, _) = read(&mut ring, file, 3 * PAGE, 10 * PAGE_SIZE, buffer);
    assert_eq!(size, 0);
}

#[test]
fn a_failed_write_is_reported_once_and_returns_its_parts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    drop(LogFile::create(&path, 4 * PAGE, never).unwrap());
    let mut ring = ring(&small());
    let file = ring.add_file(std::fs::File::open(&path).unwrap());
    ring.write_log(file, 0, vec![pages(2, 1)], true, Token(1));
    let (_, result, parts) = written(&mut ring);
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert_eq!(parts.len(), 1);
    assert_eq!(ring.operation_count(), 1);
}

#[test]
fn a_closed_file_reports_its_writes_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut ring = ring(&small());
    let file = ring.add_file(LogFile::create(&path, 64 * PAGE, never).unwrap());
    for number in 0..8 {
        ring.write_log(file, number * PAGE, vec![pages(1, 1 + number as u8)], true, Token(number));
    }
    ring.close_file(file, Token(99));
    let mut seen = Vec::new();
    run(&mut ring, |_, event| {
        match event {
            Some(Event::Written { token, result, .. }) => {
                result.unwrap();
                seen.push(token.0);
            }
            Some(Event::Closed { token }) => seen.push(token.0),
            Some(other) => panic!("unexpected {other:?}"),
            None => {}
        }
        seen.last() == Some(&99)
    });
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7, 99]);
    assert_eq!(ring.descriptor_count(), 0);
    let mut back = zeroed_pages(8);
    LogFile::open(&path).unwrap().read_pages(0, &mut back).unwrap();
    assert!(back.iter().enumerate().all(|(number, page)| page.0 == [1 + number as u8; PAGE_SIZE]));
}

#[test]
fn a_dropped_ring_waits_for_its_writes() {
    const COUNT: u64 = 8;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut ring = ring(&small());
    let pool = FramePool::new(8 << 20);
    let frame = frame(&pool, 2 << 20, 5);
    let (size, count) = (frame.padded().len() as u64, frame.page_count());
    let file = ring.add_file(LogFile::create(&path, COUNT * size, never).unwrap());
    for number in 0..COUNT {
        ring.write_log(file, number * size, vec![LogPart::Frame(frame.clone())], true, Token(number));
    }
    ring.submit().unwrap();
    drop(ring);
    let log = LogFile::open(&path).unwrap();
    let mut back = zeroed_pages(count);
    for number in (0..COUNT).rev() {
        log.read_pages(number * size, &mut back).unwrap();
        assert!(bytemuck::cast_slice::<_, u8>(&back) == frame.padded(), "write {number}");
    }
    drop(frame);
    assert_eq!(pool.used(), 0);
}

#[test]
fn memory_of_a_dropped_ring_is_not_written_to_any_more() {
    const COUNT: usize = 8;
    const SIZE: usize = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let log = LogFile::create(&directory.path().join("log"), (COUNT * SIZE) as u64, never).unwrap();
    let mut ring = ring(&small());
    let file = ring.add_file(log);
    let pool = FramePool::new(COUNT * SIZE);
    for number in 0..COUNT {
        let memory = ReadBuffer::Frame(pool.take(SIZE).unwrap());
        ring.read_log(file, (number * SIZE) as u64, SIZE, memory, Token(0));
    }
    ring.submit().unwrap();
    drop(ring);
    // The same memory: the pool has no other.
    let mut memory: Vec<_> = (0..COUNT).map(|_| pool.take(SIZE).unwrap()).collect();
    memory.iter_mut().for_each(|memory| memory.fill(0xaa));
    std::thread::sleep(Duration::from_millis(50));
    assert!(memory.iter().all(|memory| memory.iter().all(|byte| *byte == 0xaa)));
}

#[test]
fn operations_reuse_their_slots_and_never_meet_a_stranger() {
    let directory = tempfile::tempdir().unwrap();
    let mut ring = ring(&small());
    let file = ring.add_file(LogFile::create(&directory.path().join("log"), 16 * PAGE, never).unwrap());
    const COUNT: u64 = 10_000;
    const DEPTH: u64 = 32;
    let (mut started, mut ended) = (0, 0);
    run(&mut ring, |ring, event| {
        match event {
            Some(Event::Read { token, result, buffer }) => {
                assert_eq!(result.unwrap(), PAGE_SIZE);
                assert!(token.0 < started);
                ended += 1;
                if started < COUNT {
                    ring.read_log(file, started % 16 * PAGE, PAGE_SIZE, buffer, Token(started));
                    started += 1;
                }
            }
            Some(other) => panic!("unexpected {other:?}"),
            None => {
                while started < DEPTH {
                    let buffer = ReadBuffer::Pages(zeroed_pages(1));
                    ring.read_log(file, started % 16 * PAGE, PAGE_SIZE, buffer, Token(started));
                    started += 1;
                }
            }
        }
        ended == COUNT
    });
    assert!(ring.ops.slot_count() <= DEPTH as usize + 1);
    assert_eq!(ring.counters().stale_completions, 0);
    // A completion of the past is recognised, whatever its slot holds now.
    ring.complete(0, 0, 0);
    assert_eq!(ring.counters().stale_completions, 1);
    assert_eq!(ring.operation_count(), 1);
}

/// It is made in small pieces while there is time, in large ones when somebody waits, and not to the end when nobody wants it.
#[test]
fn a_segment_is_made_at_the_pace_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let size = 4 << 20;
    let make = |pace: &dyn Fn(u64) -> Pace| {
        let asked = std::cell::RefCell::new(Vec::new());
        let made = LogFile::create(&path, size, |prepared| {
            asked.borrow_mut().push(prepared);
            pace(prepared)
        });
        let mut asked = asked.into_inner();
        asked.dedup();
        (made, asked)
    };
    let (made, asked) = make(&|prepared| if prepared < 500 { Pace::Rest } else { Pace::Hurry });
    assert_eq!(made.unwrap().size().unwrap(), size);
    let expected: Vec<u64> = (1..=16).map(|piece| 1000 * piece / 32).chain([750, 1000]).collect();
    assert_eq!(asked, expected);
    std::fs::remove_file(&path).unwrap();
    let (made, asked) = make(&|prepared| if prepared < 500 { Pace::Hurry } else { Pace::Stop });
    assert_eq!(made.unwrap_err().kind(), io::ErrorKind::Interrupted);
    // The first piece is written before anybody is asked.
    assert_eq!(asked, [31, 281, 531]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no leftover");
}
