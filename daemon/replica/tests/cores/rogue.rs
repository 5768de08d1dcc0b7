//! A peer that says anything: no bytes make a core panic, abort or take memory without bound.

use std::collections::VecDeque;

use panch_consensus::protocol::{ProtocolKind, Tuning, random};
use panch_replica::batcher::BatchLimits;
use panch_replica::core::{Core, CoreConfig, Misbehaviour};
use panch_replica::outbox::{MessageKind, Outbox, ReplyTo};
use panch_replica::replica::ReplicaConfig;
use panch_replica::transfer::SnapshotFile;
use panch_wal::{Config, Durability, Location, Lsn, Wal};
use panch_wire::batch::BatchWriter;
use panch_wire::client::Commit;
use panch_wire::command::{Command, CommandKind, Reply};
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, GroupId, Incarnation, Position, ReplicaId, Slot};
use panch_wire::time::{Duration, Instant};

pub(crate) const GROUP: GroupId = GroupId(0);
/// Bytes of a log segment; a body may have half of that.
const SEGMENT_SIZE: u64 = 128 << 10;

/// Random numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31) % end
    }
}

/// What the core asked its driver for.
#[derive(Default)]
pub(crate) struct Asked {
    loads: VecDeque<(Position, Location)>,
    reads: VecDeque<(ReplicaId, SnapshotFile, u64, usize)>,
    writes: VecDeque<(Slot, bool)>,
}

impl Outbox for Asked {
    fn send(&mut self, _: ReplicaId, _: GroupId, _: MessageKind, _: &[u8], _: Option<&Frame>) {}
    fn reply(&mut self, _: ReplyTo, _: Reply<'_>, _: Option<&Commit>) {}
    fn load(&mut self, _: GroupId, position: Position, location: Location) {
        self.loads.push_back((position, location));
    }
    fn snapshot_write(&mut self, _: GroupId, slot: Slot, _: u64, _: &[u8], last: bool) {
        self.writes.push_back((slot, last));
    }
    fn snapshot_read(&mut self, _: GroupId, peer: ReplicaId, file: SnapshotFile, offset: u64, length: usize) {
        assert!(length <= 1 << 20, "a peer's number sizes a read of {length} bytes");
        self.reads.push_back((peer, file, offset, length));
    }
    fn snapshot_remove(&mut self, _: GroupId, _: Slot) {}
    fn snapshot_abandon(&mut self, _: GroupId, _: Slot) {}
}

pub(crate) fn config(kind: ProtocolKind, replica_count: usize, rejoining: bool) -> CoreConfig {
    CoreConfig {
        rejoining,
        me: ReplicaId(0),
        replica_count,
        groups: vec![(GROUP, kind)],
        replica: ReplicaConfig {
            batch: BatchLimits::default(),
            hash_seed: 0,
            request_timeout: Duration::from_secs(10),
            snapshot_log_size: 256 << 10,
            session_idle_max: Duration::from_secs(3600),
            checkpoint_every: 512,
        },
        tuning: Tuning::default(),
        log_size_max: 1 << 20,
        snapshot_size_max: u64::MAX,
    }
}

pub(crate) fn core(
    kind: ProtocolKind,
    replica_count: usize,
    rejoining: bool,
    pool: &FramePool,
) -> (Core, Asked) {
    let config = config(kind, replica_count, rejoining);
    let mut core = Core::open(&config, Incarnation(2), pool.clone(), |_| random(1), |_| None);
    let mut asked = Asked::default();
    let log = Config {
        durability: Durability::Memory,
        segment_size: SEGMENT_SIZE,
        group_size_max: 32 << 10,
        ..Config::default()
    };
    core.start(Instant(1), Wal::create(log, 1), Lsn(0), &mut asked);
    (core, asked)
}

pub(crate) fn body(pool: &FramePool, id: BatchId, size: usize) -> Frame {
    let value = vec![7; size];
    let mut writer = BatchWriter::new(pool.take(size + 4096).expect("memory"), Vec::new());
    assert!(writer.push(&Command {
        kind: CommandKind::Set,
        flags: 0,
        session: None,
        key: b"k",
        value: &value
    }));
    writer.seal(id).0
}

/// A number that a sender may put anywhere: the ones around which bounds lie more often than others.
fn number(random: &mut Dice) -> u64 {
    let near = [0, 1, 2, 3, 64, 1 << 16, 1 << 32, 1 << 40, 1 << 47, 1 << 48, 1 << 62, 1 << 63, u64::MAX];
    match random.below(4) {
        0 | 1 => random.below(5),
        2 => near[random.below(near.len() as u64) as usize].wrapping_sub(random.below(2)),
        _ => random.below(u64::MAX),
    }
}

/// Bytes that often are a message: fields of the widths that archives have, the first byte a variant.
fn message(random: &mut Dice, variants: u64) -> Vec<u8> {
    let mut bytes = vec![0; 248];
    let mut at = 0;
    while at < bytes.len() {
        let width = 8.min(bytes.len() - at);
        let word = number(random);
        bytes[at..at + width].copy_from_slice(&word.to_le_bytes()[..width]);
        at += width;
    }
    bytes[0] = random.below(variants) as u8;
    bytes[1..8].fill(0);
    bytes
}

fn torment(kind: ProtocolKind, replica_count: usize, seed: u64, taken: &mut [u64; 64]) {
    let pool = FramePool::new(8 << 20);
    let random = &mut Dice(seed);
    let (mut core, mut asked) = core(kind, replica_count, seed.is_multiple_of(8), &pool);
    let mut now = Instant(1_000_000_000);
    for round in 0..400 {
        now = now + Duration::from_micros(random.below(30_000));
        let from = ReplicaId(random.below(replica_count as u64 + 1) as u8);
        let kind = [MessageKind::Protocol, MessageKind::Protocol, MessageKind::Transfer, MessageKind::Rejoin]
            [random.below(4) as usize] as u8;
        let bytes = message(random, 32);
        let size = [0, 100, 20_000, 80_000][random.below(4) as usize];
        let id = BatchId {
            proposer: ReplicaId(random.below(9) as u8),
            incarnation: Incarnation(number(random) as u32),
            counter: number(random),
        };
        let body = (size > 0 && pool.used() < 4 << 20).then(|| body(&pool, id, size));
        let is_large = body.is_some() && size == 80_000;
        let outcome = core.deliver(now, from, GROUP, kind, &bytes, body, &mut asked);
        if is_large && kind == MessageKind::Protocol as u8 {
            assert!(matches!(outcome, Err(Misbehaviour::BodyTooLarge { .. })), "{outcome:?}");
        }
        if outcome.is_ok() && kind == MessageKind::Protocol as u8 {
            taken[usize::from(bytes[0])] += 1;
        }
        while let Some((position, location)) = asked.loads.pop_front() {
            core.loaded(now, GROUP, position, location, None, &mut asked);
        }
        while let Some((peer, file, offset, length)) = asked.reads.pop_front() {
            core.snapshot_read(now, GROUP, peer, file, offset, Some(&vec![1; length]), &mut asked);
        }
        while let Some((slot, last)) = asked.writes.pop_front() {
            core.snapshot_written(now, GROUP, slot, Ok(last), &mut asked);
        }
        core.end_turn(now, &mut asked);
        while core.next_write(now, &mut asked).is_some() {}
        assert!(pool.used() <= pool.size_max(), "round {round}");
    }
}

fn torment_all(kind: ProtocolKind, variants: usize) {
    let mut taken = [0; 64];
    for seed in 0..20 {
        for replica_count in [3, 5] {
            torment(kind, replica_count, seed, &mut taken);
        }
    }
    let missing: Vec<usize> = (0..variants).filter(|variant| taken[*variant] == 0).collect();
    assert!(missing.is_empty(), "never decoded: {missing:?} of {taken:?}");
}

#[test]
fn no_bytes_of_a_peer_panic_with_basic_paxos() {
    torment_all(ProtocolKind::Basic, 12);
}

#[test]
fn no_bytes_of_a_peer_panic_with_multi_paxos() {
    torment_all(ProtocolKind::Multi, 17);
}

#[test]
fn no_bytes_of_a_peer_panic_with_fast_paxos() {
    torment_all(ProtocolKind::Fast, 22);
}

#[test]
fn no_bytes_of_a_peer_panic_with_epaxos() {
    torment_all(ProtocolKind::Epaxos, 10);
}
