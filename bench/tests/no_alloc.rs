//! Commands cost no heap allocation in steady state: counted at the allocator over whole turns of three nodes, from the
//! client's command to the replies, with packets, log writes and execution.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;

use panch_bench::loopback::Loopback;
use panch_replica::batcher::BatchLimits;
use panch_replica::replica::Level;
use panch_wire::command::{Command, CommandKind};

/// Where the first so many allocations came from is printed.
const SHOWN_MAX: usize = 12;

thread_local! {
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
    static ALLOCATION_COUNT: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting on demand. Reallocation counts: it goes through `alloc`.
struct Counting;

fn count(layout: Layout) {
    if !IS_COUNTING.replace(false) {
        return;
    }
    ALLOCATION_COUNT.set(ALLOCATION_COUNT.get() + 1);
    if ALLOCATION_COUNT.get() <= SHOWN_MAX {
        // Takes memory itself, which is not counted now.
        eprintln!("allocation of {} bytes:\n{}", layout.size(), Backtrace::force_capture());
    }
    IS_COUNTING.set(true);
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are plain cells without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocated.
fn allocations_of(work: impl FnOnce()) -> usize {
    ALLOCATION_COUNT.set(0);
    IS_COUNTING.set(true);
    work();
    IS_COUNTING.set(false);
    ALLOCATION_COUNT.get()
}

/// Commands per turn and node.
const BURST: usize = 100;
/// Different keys of each kind.
const KEY_COUNT: u64 = 1000;

/// A load that mixes writes, counters, and reads of both levels.
struct Mixed {
    next: u64,
    key: [u8; 16],
    value: [u8; 16],
}

impl Mixed {
    fn new() -> Self {
        Self { next: 0, key: *b"key:000000000000", value: *b"0123456789abcdef" }
    }

    fn command(&mut self) -> (Command<'_>, Level) {
        let number = self.next;
        self.next += 1;
        self.key[8..].copy_from_slice(&(number % KEY_COUNT).to_be_bytes());
        let command = |kind, key, value| Command { kind, flags: 0, session: None, key, value };
        self.key[0] = b'k';
        match number % 5 {
            0 | 1 => (command(CommandKind::Set, &self.key, &self.value), Level::Log),
            2 => (command(CommandKind::Get, &self.key, &[]), Level::Quorum),
            3 => (command(CommandKind::Get, &self.key, &[]), Level::Log),
            _ => {
                self.key[0] = b'c';
                (command(CommandKind::IncrBy, &self.key, &[1, 0, 0, 0, 0, 0, 0, 0]), Level::Log)
            }
        }
    }
}

/// Gives `turns` bursts to each of the `nodes`, and lets the cluster answer all.
fn run(cluster: &mut Loopback, load: &mut Mixed, nodes: usize, turns: usize) {
    let (before, _) = cluster.replies();
    let mut submitted = 0;
    for _ in 0..turns {
        for node in 0..nodes {
            for _ in 0..BURST {
                let (command, level) = load.command();
                cluster.submit(node, &command, level).expect("the load fits the pipeline");
                submitted += 1;
            }
        }
        // A write through a follower takes: to the leader, to the followers, back, and the news that it is chosen.
        for _ in 0..6 {
            cluster.turn();
        }
    }
    for _ in 0..20 {
        cluster.turn();
    }
    let (replies, errors) = cluster.replies();
    assert_eq!((replies - before, errors), (submitted, 0));
}

/// The warm-up is long enough that the tables that follow the length of the log do not have to double afterwards.
fn allocations_in_steady_state(nodes: usize, warm_up: usize, measured: usize) -> usize {
    let mut cluster = Loopback::new(3, BatchLimits::default());
    let mut load = Mixed::new();
    run(&mut cluster, &mut load, nodes, warm_up);
    allocations_of(|| run(&mut cluster, &mut load, nodes, measured))
}

#[test]
fn commands_through_the_leader_do_not_allocate() {
    assert_eq!(allocations_in_steady_state(1, 600, 200), 0);
}

#[test]
fn commands_through_every_node_do_not_allocate() {
    assert_eq!(allocations_in_steady_state(3, 400, 70), 0);
}
