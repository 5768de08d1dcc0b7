//! Memory of the state machine, counted at the allocator: nothing per command in steady state, little per key.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use panch_replica::machine::StateMachine;
use panch_wire::command::{Command, CommandKind, Reply, SessionHeader};

thread_local! {
    static ALLOCATION_COUNT: Cell<usize> = const { Cell::new(0) };
    static LIVE_SIZE: Cell<isize> = const { Cell::new(0) };
    static PEAK_SIZE: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, with counts per thread.
struct Counting;

fn count(allocations: usize, size: isize) {
    ALLOCATION_COUNT.set(ALLOCATION_COUNT.get() + allocations);
    LIVE_SIZE.set(LIVE_SIZE.get() + size);
    PEAK_SIZE.set(PEAK_SIZE.get().max(LIVE_SIZE.get()));
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are plain cells without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn command<'a>(kind: CommandKind, key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command { kind, flags: 0, session: None, key, value }
}

fn key(number: u32) -> [u8; 16] {
    let mut key = [b'k'; 16];
    key[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_le_bytes());
    key
}

/// Runs `round` once to warm up, then again: how often the second run allocated.
fn allocations_of_second(mut round: impl FnMut()) -> usize {
    round();
    let before = ALLOCATION_COUNT.get();
    round();
    ALLOCATION_COUNT.get() - before
}

#[test]
fn a_million_small_keys_fit_well_below_110_mib() {
    let before = LIVE_SIZE.get();
    PEAK_SIZE.set(before);
    let mut machine = StateMachine::new(0);
    let mut scratch = Vec::new();
    for number in 0..1_000_000 {
        machine.apply(1, &command(CommandKind::Set, &key(number), &[b'v'; 16]), &mut scratch);
    }
    assert_eq!(machine.key_count(), 1_000_000);
    let (live, peak) = (LIVE_SIZE.get() - before, PEAK_SIZE.get() - before);
    assert!(peak < 90 << 20, "peak {} MiB", peak >> 20);
    let estimate = machine.size_bytes() as isize;
    assert!((live - estimate).abs() < live / 50, "estimated {estimate}, counted {live}");
}

#[test]
fn small_values_are_set_read_and_counted_without_allocating() {
    let mut machine = StateMachine::new(0);
    let mut scratch = Vec::new();
    let allocations = allocations_of_second(|| {
        for number in 0..2000u32 {
            let key = key(number);
            let value = [7; 40];
            let mut apply = |kind, value: &[u8]| {
                assert!(!matches!(
                    machine.apply(1, &command(kind, &key, value), &mut scratch),
                    Reply::Error(_)
                ));
            };
            apply(CommandKind::Set, &value[..number as usize % 40]);
            apply(CommandKind::Get, b"");
            apply(CommandKind::GetSet, b"10");
            apply(CommandKind::IncrBy, &5i64.to_le_bytes());
            apply(CommandKind::Append, b"0");
            apply(CommandKind::GetDel, b"");
            apply(CommandKind::Set, b"there again");
        }
    });
    assert_eq!(allocations, 0);
}

#[test]
fn long_values_are_overwritten_in_place() {
    let mut machine = StateMachine::new(0);
    let mut scratch = Vec::new();
    let value = [7; 1000];
    let allocations = allocations_of_second(|| {
        for number in 0..200u32 {
            let length = 1000 - number as usize % 300;
            machine.apply(1, &command(CommandKind::Set, &key(number), &value[..length]), &mut scratch);
        }
    });
    assert_eq!(allocations, 0);
}

#[test]
fn a_running_session_does_not_allocate() {
    let mut machine = StateMachine::new(0);
    let mut scratch = Vec::new();
    let open = SessionHeader { session: 9, number: 1, acked_below: 1 };
    let command_open = Command { session: Some(open), ..command(CommandKind::OpenSession, b"", b"") };
    machine.apply(1, &command_open, &mut scratch);
    let mut next = 1u64;
    let allocations = allocations_of_second(|| {
        for _ in 0..1000 {
            let header = SessionHeader { session: 9, number: next, acked_below: next.saturating_sub(50) };
            let command =
                Command { session: Some(header), ..command(CommandKind::GetSet, b"key", b"short value") };
            assert!(!matches!(machine.apply(next, &command, &mut scratch), Reply::Error(_)));
            next += 1;
        }
    });
    assert_eq!(allocations, 0);
}
