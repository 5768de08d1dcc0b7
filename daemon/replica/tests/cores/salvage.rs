//! A new cluster that begins with what one node of another has executed.

use panch_consensus::frontier::Frontier;
use panch_consensus::protocol::{ProtocolKind, random};
use panch_replica::batcher::BatchLimits;
use panch_replica::core::Core;
use panch_replica::machine::StateMachine;
use panch_replica::salvage::Salvaged;
use panch_replica::snapshot::{Restored, SnapshotReader};
use panch_replica::transfer::SnapshotFile;
use panch_wire::frame::FramePool;
use panch_wire::ids::{GroupId, Incarnation, Position, ReplicaId};
use panch_wire::time::Duration;

use crate::world::{NODE_COUNT, World, config};

const GROUP: GroupId = GroupId(0);
const HOUR: Duration = Duration::from_secs(3600);

/// The state of a group with its bytes.
fn salvage(core: &mut Core) -> (Salvaged, Vec<u8>) {
    let mut found = core.salvage();
    let mut bytes = Vec::new();
    while !core.salvage_chunk(GROUP, &mut bytes, 4096) {}
    (found.remove(0), bytes)
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
        let (it, bytes) = salvage(&mut world.cores[index]);
        assert!(it.executed >= status.executed && it.decided == status.executed, "{kind:?}: {it:?}");
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
    let (it, bytes) = salvage(&mut world.cores[0]);
    let mut next = begin(kind, it.incarnation, &it, &bytes);
    next.run_for(Duration::from_secs(2));
    let before = next.replies;
    next.submit(0);
    next.run_for(Duration::from_secs(2));
    assert_eq!(next.replies, before, "the batch counts as applied, and nobody is answered");
}

/// Accepted by a majority, and not known to be decided by a node that hears no more.
#[test]
fn what_was_accepted_last_is_kept() {
    for kind in [ProtocolKind::Basic, ProtocolKind::Multi, ProtocolKind::Fast] {
        let mut world = World::new(kind, HOUR);
        world.run_for(Duration::from_secs(2));
        write(&mut world, 3);
        let before = world.replies;
        world.submit(0);
        let mut kept = 0;
        if kind == ProtocolKind::Fast {
            // Everybody hears of a decision at the same time: after the votes, and before they arrive.
            world.run_for(Duration::from_micros(1500));
        }
        while world.replies == before && kind != ProtocolKind::Fast {
            world.run_for(Duration::from_micros(100));
        }
        for core in &mut world.cores {
            let decided = core.status().next().unwrap().executed;
            let (it, _) = salvage(core);
            assert_eq!(it.decided, decided);
            kept += u64::from(it.executed > it.decided);
        }
        assert!(kept > 0, "{kind:?}: everybody knew");
    }
}

#[test]
fn no_bytes_of_another_state_are_taken_for_it() {
    let mut world = World::new(ProtocolKind::Epaxos, HOUR);
    world.run_for(Duration::from_secs(1));
    write(&mut world, 3);
    let (it, mut bytes) = salvage(&mut world.cores[ReplicaId(0).index()]);
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
