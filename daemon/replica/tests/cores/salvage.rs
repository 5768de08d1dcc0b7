//! A new cluster that begins with what one node of another has executed.

use panch_consensus::epaxos::Dependencies;
use panch_consensus::frontier::Frontier;
use panch_consensus::protocol::{ProtocolKind, Value, random};
use panch_consensus::remnant::{Remnant, Standing};
use panch_replica::batcher::BatchLimits;
use panch_replica::core::Core;
use panch_replica::machine::StateMachine;
use panch_replica::salvage::{Salvaged, merge};
use panch_replica::snapshot::{Restored, SnapshotReader};
use panch_replica::transfer::SnapshotFile;
use panch_wire::batch::BatchWriter;
use panch_wire::command::{Command, CommandKind, Reply};
use panch_wire::frame::FramePool;
use panch_wire::ids::{BatchId, GroupId, Incarnation, Position, ReplicaId, Slot};
use panch_wire::time::Duration;

use crate::world::{NODE_COUNT, World, config};

const GROUP: GroupId = GroupId(0);
const HOUR: Duration = Duration::from_secs(3600);

/// What a file has of a group: its state, the bytes of that, and what is beside it.
type File = (Salvaged, Vec<u8>, Vec<(Remnant, Value)>);

fn salvage(core: &mut Core) -> File {
    let (it, remnants) = core.salvage().remove(0);
    (it, chunks(core), remnants)
}

fn chunks(core: &mut Core) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !core.salvage_chunk(GROUP, &mut bytes, 4096) {}
    bytes
}

/// The state that a cluster begins with, given these files.
fn together(kind: ProtocolKind, files: &[&File]) -> (Salvaged, Vec<u8>) {
    let (it, bytes, _) = files.iter().max_by_key(|(it, ..)| it.executed).expect("a file");
    let (file, restored) = restore(it, bytes);
    let remnants: Vec<Vec<Remnant>> =
        files.iter().map(|(_, _, remnants)| remnants.iter().map(|(it, _)| *it).collect()).collect();
    let by_node: Vec<(ReplicaId, &[Remnant])> =
        (0..).map(ReplicaId).zip(remnants.iter().map(Vec::as_slice)).collect();
    let picks = merge(GROUP, kind.order(), &by_node, |at| restored.covered.contains(at)).unwrap();
    let values = picks.iter().map(|it| (it.remnant, files[it.file].2[it.index].1.clone())).collect();
    let mut past = Some((file, restored));
    let config = config(ReplicaId(0), kind, HOUR, BatchLimits::default());
    let mut core =
        Core::open(&config, Incarnation(9), FramePool::new(1 << 24), |_| random(1), |_| past.take());
    let it = core.take_over(GROUP, values).unwrap();
    let bytes = chunks(&mut core);
    (it, bytes)
}

fn restore(it: &Salvaged, bytes: &[u8]) -> (SnapshotFile, Restored) {
    let mut reader = SnapshotReader::new(0);
    reader.feed(bytes).unwrap();
    let restored = reader.finish().unwrap();
    assert_eq!((restored.covered.count(), restored.machine.digest()), (it.executed, it.digest));
    (SnapshotFile { slot: it.executed, size: bytes.len() as u64 }, restored)
}

fn write(world: &mut World, count: u64) {
    let before = world.replies;
    for _ in 0..count {
        for node in 0..usize::from(NODE_COUNT) {
            world.submit(node);
        }
        world.run_for(Duration::from_millis(20));
    }
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.replies - before, count * u64::from(NODE_COUNT));
}

/// A world that begins with the state, in such a life of its nodes.
fn begin(kind: ProtocolKind, incarnation: Incarnation, it: &Salvaged, bytes: &[u8]) -> World {
    World::begin(|me| {
        let config = config(me, kind, HOUR, BatchLimits::default());
        let pool = FramePool::new(1 << 24);
        Core::open(&config, incarnation, pool, |_| random(me.0.into()), |_| Some(restore(it, bytes)))
    })
}

/// What was executed is there, its positions are not used again, and what is decided from then on takes effect everywhere.
fn goes_on(kind: ProtocolKind) {
    let mut world = World::new(kind, HOUR);
    world.run_for(Duration::from_secs(2));
    write(&mut world, 20);
    let statuses: Vec<_> = world.cores.iter().map(|core| core.status().next().unwrap()).collect();
    for (index, status) in statuses.iter().enumerate() {
        let file = salvage(&mut world.cores[index]);
        assert_eq!(file.0.executed, status.executed, "{kind:?}");
        let (it, bytes) = together(kind, &[&file]);
        assert!(it.executed >= status.executed, "{kind:?}: {it:?}");
        // In a graph no batch is decided twice, and the state remembers none.
        let known = Incarnation(u32::from(kind != ProtocolKind::Epaxos));
        assert_eq!((it.keys, it.incarnation), (1, known), "{kind:?}");
        let mut next = begin(kind, Incarnation(2), &it, &bytes);
        next.run_for(Duration::from_secs(2));
        write(&mut next, 20);
        let states: Vec<_> = next.cores.iter().map(|core| core.status().next().unwrap()).collect();
        for state in &states {
            assert!(state.executed > it.executed, "{kind:?}: {state:?}");
            assert_eq!((state.executed, state.digest), (states[0].executed, states[0].digest), "{kind:?}");
        }
    }
}

#[test]
fn every_protocol_goes_on_from_a_salvaged_state() {
    ProtocolKind::ALL.iter().for_each(|kind| goes_on(*kind));
}

/// Why a node's first life in the new cluster is above all that the state knows.
#[test]
fn a_life_that_the_state_knows_would_have_its_batches_taken_for_earlier_ones() {
    let kind = ProtocolKind::Multi;
    let mut world = World::new(kind, HOUR);
    world.run_for(Duration::from_secs(2));
    write(&mut world, 5);
    let (it, bytes, _) = salvage(&mut world.cores[0]);
    let mut next = begin(kind, it.incarnation, &it, &bytes);
    next.run_for(Duration::from_secs(2));
    let before = next.replies;
    next.submit(0);
    next.run_for(Duration::from_secs(2));
    assert_eq!(next.replies, before, "the batch counts as applied, and nobody is answered");
}

/// How often a counter counts in a state.
fn count(it: &Salvaged, bytes: &[u8]) -> i64 {
    let (_, restored) = restore(it, bytes);
    let command = Command { kind: CommandKind::Get, flags: 0, session: None, key: b"count", value: b"" };
    match restored.machine.read(&command, &mut Vec::new()) {
        Reply::Bytes(value) => String::from_utf8(value.to_vec()).unwrap().parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn count_up(world: &mut World, node: usize) {
    let (kind, value) = (CommandKind::IncrBy, &1i64.to_le_bytes()[..]);
    let command = Command { kind, flags: 0, session: None, key: b"count", value };
    world.submit_command(node, &command);
}

/// A world whose counter counts to three everywhere.
fn counted(kind: ProtocolKind) -> World {
    let mut world = World::new(kind, HOUR);
    world.run_for(Duration::from_secs(2));
    for node in 0..3 {
        count_up(&mut world, node);
        world.run_for(Duration::from_millis(50));
    }
    assert_eq!(world.replies, 3);
    world
}

/// Until one more write is answered.
fn run_until_answered(world: &mut World) {
    let before = world.replies;
    while world.replies == before {
        world.run_for(Duration::from_micros(100));
    }
}

/// Any two files of three, a majority, have every acknowledged write: the outcome has it, and none twice. How much more there is of that than in the
/// state in which most is decided.
fn any_two_keep_it(kind: ProtocolKind, world: &mut World) -> i64 {
    let acknowledged = world.replies as i64;
    let files: Vec<File> = world.cores.iter_mut().map(salvage).collect();
    let counted = |files: &[&File]| {
        let (it, bytes) = together(kind, files);
        count(&it, &bytes)
    };
    let mut kept = 0;
    for [left, right] in [[&files[0], &files[1]], [&files[0], &files[2]], [&files[1], &files[2]]] {
        let both = counted(&[left, right]);
        assert_eq!(both, counted(&[right, left]), "{kind:?}");
        assert!((acknowledged..=6).contains(&both), "{kind:?}: {both} of {acknowledged}");
        let furthest = if left.0.executed >= right.0.executed { left } else { right };
        kept += both - counted(&[furthest]);
    }
    kept
}

#[test]
fn what_was_acknowledged_last_is_kept_if_one_file_has_it() {
    for kind in ProtocolKind::ALL.iter().copied() {
        let mut kept = 0;
        for step in (0..40).step_by(2) {
            // At some moment of three writes.
            let mut world = counted(kind);
            for node in 0..3 {
                count_up(&mut world, node);
                world.run_for(Duration::from_micros(300));
            }
            world.run_for(Duration::from_micros(100 * step));
            kept += any_two_keep_it(kind, &mut world);
        }
        // Whoever knows a decision is cut off, and the others go on.
        for node in [1, 2] {
            let mut world = counted(kind);
            count_up(&mut world, 0);
            run_until_answered(&mut world);
            world.cut(Some(0));
            count_up(&mut world, node);
            run_until_answered(&mut world);
            kept += any_two_keep_it(kind, &mut world);
        }
        assert!(kept > 0, "{kind:?}: one file always had all");
    }
}

/// A batch that counts up, the `counter`th of a node's third life.
fn counting(pool: &FramePool, node: u8, counter: u64) -> Value {
    let mut writer = BatchWriter::new(pool.take(4096).unwrap(), Vec::new());
    let value = 1i64.to_le_bytes();
    let command =
        Command { kind: CommandKind::IncrBy, flags: 0, session: None, key: b"count", value: &value };
    assert!(writer.push(&command));
    let id = BatchId { proposer: ReplicaId(node), incarnation: Incarnation(3), counter };
    Value::Batch(writer.seal(id).0)
}

/// What only those had that are lost is not waited for: neither a slot or an instance, nor an earlier batch of the same node.
#[test]
fn nothing_that_is_left_waits_for_what_is_lost() {
    for kind in ProtocolKind::ALL.iter().copied() {
        let pool = FramePool::new(1 << 24);
        let config = config(ReplicaId(0), kind, HOUR, BatchLimits::default());
        let mut core = Core::open(&config, Incarnation(4), pool.clone(), |_| random(1), |_| None);
        let is_graph = kind == ProtocolKind::Epaxos;
        let mut deps = Dependencies::default();
        if is_graph {
            deps.raise(1, 5);
            deps.raise(0, 6);
        }
        let remnant = |number, value: Value| {
            let position = Position { row: 0, number };
            let (standing, checksum) = (Standing::Known, value.checksum());
            (Remnant { position, standing, stamp: number, deps, checksum }, value)
        };
        let left = vec![
            remnant(3, counting(&pool, 0, 2)),
            remnant(4, counting(&pool, 1, 1)),
            remnant(7, counting(&pool, 0, 4)),
        ];
        let it = core.take_over(GROUP, left).unwrap();
        let bytes = chunks(&mut core);
        assert_eq!(it.executed, Slot(if is_graph { 12 } else { 7 }), "{kind:?}");
        assert_eq!(count(&it, &bytes), 3, "{kind:?}");
    }
}

#[test]
fn no_bytes_of_another_state_are_taken_for_it() {
    let mut world = World::new(ProtocolKind::Epaxos, HOUR);
    world.run_for(Duration::from_secs(1));
    write(&mut world, 3);
    let (it, mut bytes, _) = salvage(&mut world.cores[ReplicaId(0).index()]);
    restore(&it, &bytes);
    for at in 0..bytes.len() {
        bytes[at] ^= 1;
        let mut reader = SnapshotReader::new(0);
        let fed = reader.feed(&bytes);
        assert!(fed.is_err() || reader.finish().is_err(), "flip at {at}");
        bytes[at] ^= 1;
    }
}

/// Of two rows more is executed than what has no gap below it: nobody in the new cluster knows what was in the gaps.
#[test]
fn gaps_in_the_rows_of_a_state_hold_nobody_up() {
    let kind = ProtocolKind::Epaxos;
    let mut covered = Frontier::default();
    covered.extend_to(0, 6);
    covered.extend_to(2, 3);
    for (row, number) in [(0, 9), (0, 12), (2, 5)] {
        assert!(covered.insert(Position { row, number }));
    }
    let mut machine = StateMachine::new(0);
    machine.begin_snapshot(GROUP, &covered, 40);
    let mut bytes = Vec::new();
    while !machine.snapshot_chunk(&mut bytes, 4096) {}
    let mut next = World::begin(|me| {
        let config = config(me, kind, HOUR, BatchLimits::default());
        let mut reader = SnapshotReader::new(0);
        reader.feed(&bytes).unwrap();
        let file = SnapshotFile { slot: covered.count(), size: bytes.len() as u64 };
        let mut past = Some((file, reader.finish().unwrap()));
        Core::open(&config, Incarnation(2), FramePool::new(1 << 24), |_| random(me.0.into()), |_| past.take())
    });
    next.run_for(Duration::from_secs(5));
    write(&mut next, 20);
    next.run_for(Duration::from_secs(5));
    let states: Vec<_> = next.cores.iter().map(|core| core.status().next().unwrap()).collect();
    for state in &states {
        assert_eq!((state.executed, state.digest), (states[0].executed, states[0].digest));
        assert_eq!(state.keys, 1);
    }
}
