//! What a command costs on one core: execution on the table, and the whole turn around it.

use divan::{Bencher, black_box};
use panch_bench::loopback::Loopback;
use panch_replica::batcher::BatchLimits;
use panch_replica::machine::StateMachine;
use panch_replica::replica::Level;
use panch_wire::command::{Command, CommandKind, Reply};

fn main() {
    divan::main();
}

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn command<'a>(kind: CommandKind, key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command { kind, flags: 0, session: None, key, value }
}

/// Commands per measured call: more than fit the nearest caches of a large table.
const COMMANDS: usize = 1000;
/// Of these, so many are known together.
const WINDOW: usize = 20;

fn apply(bencher: Bencher, kind: CommandKind, value: &[u8], key_count: u64, foresee: usize) {
    let mut machine = StateMachine::new(0);
    let mut scratch = Vec::new();
    for number in 0..key_count {
        machine.apply(1, &command(CommandKind::Set, &key(number), &[b'v'; 16]), &mut scratch);
    }
    let mut next = 0u64;
    bencher.counter(divan::counter::ItemsCount::new(COMMANDS)).bench_local(|| {
        for _ in 0..COMMANDS / WINDOW {
            let keys: [_; WINDOW] = std::array::from_fn(|_| {
                // Steps of a large odd number visit the keys in an order that no cache foresees.
                next = next.wrapping_add(0x9e37_79b9_7f4a_7c15);
                key(next % key_count)
            });
            machine.kv().foresee(keys[..foresee].iter().map(|key| command(kind, key, value)));
            for key in &keys {
                let reply = machine.apply(2, black_box(&command(kind, key, value)), &mut scratch);
                assert!(!matches!(reply, Reply::Error(_) | Reply::Nil));
            }
        }
    });
}

const KEY_COUNTS: [u64; 4] = [1, 1000, 1_000_000, 10_000_000];

#[divan::bench(args = KEY_COUNTS)]
fn apply_set(bencher: Bencher, key_count: u64) {
    apply(bencher, CommandKind::Set, &[b'w'; 16], key_count, 0);
}

#[divan::bench(args = KEY_COUNTS)]
fn apply_set_foreseen(bencher: Bencher, key_count: u64) {
    apply(bencher, CommandKind::Set, &[b'w'; 16], key_count, WINDOW);
}

#[divan::bench(args = KEY_COUNTS)]
fn apply_get(bencher: Bencher, key_count: u64) {
    apply(bencher, CommandKind::Get, &[], key_count, 0);
}

/// Commands of one batch of the default size.
const BATCH: usize = 100;

/// From the commands of a full batch to their replies: batching, the protocol, the log's commit group, execution. With
/// three replicas, what all three do, packets included.
#[divan::bench(args = [1, 3], counters = [divan::counter::ItemsCount::new(BATCH)])]
fn batch_of_100_through_replicas(bencher: Bencher, replica_count: usize) {
    let mut cluster = Loopback::new(replica_count, BatchLimits::default());
    let mut number = 0;
    bencher.bench_local(|| {
        for _ in 0..BATCH {
            number = (number + 1) % 1000;
            let (key, value) = (key(number), [b'w'; 16]);
            let command = command(CommandKind::Set, &key, &value);
            cluster.submit(0, &command, Level::Log).expect("the pipeline is empty");
        }
        let (before, _) = cluster.replies();
        while cluster.replies().0 < before + BATCH as u64 {
            cluster.turn();
        }
    });
}
