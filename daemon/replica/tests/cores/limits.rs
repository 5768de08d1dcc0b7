//! What was decided is executed alike, whatever limits nodes have, then or later.

use panch_consensus::ballot::Ballot;
use panch_consensus::multi::message::{AcceptRecord, Record};
use panch_consensus::protocol::{ProtocolKind, Value, random};
use panch_replica::batcher::{BatchLimits, Refusal};
use panch_replica::core::Core;
use panch_replica::outbox::{MessageKind, Outbox, ReplyTo};
use panch_replica::replica::Level;
use panch_replica::transfer::SnapshotFile;
use panch_wal::{Entry, Location, Lsn, RecordKind};
use panch_wire::batch::BatchWriter;
use panch_wire::client::Commit;
use panch_wire::command::{Command, CommandKind, Reply};
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, GroupId, Incarnation, Position, ReplicaId, Slot};
use panch_wire::record::Fixed;
use panch_wire::time::Duration;

use crate::world::{World, config};

fn limits(value_size_max: usize) -> BatchLimits {
    BatchLimits { value_size_max, ..BatchLimits::default() }
}

fn command(kind: CommandKind, value: &[u8]) -> Command<'_> {
    Command { kind, flags: 0, session: None, key: b"key", value }
}

struct Nothing;

impl Outbox for Nothing {
    fn send(&mut self, _: ReplicaId, _: GroupId, _: MessageKind, _: &[u8], _: Option<&Frame>) {}
    fn reply(&mut self, _: ReplyTo, _: Reply<'_>, _: Option<&Commit>) {}
    fn load(&mut self, _: GroupId, _: Position, _: Location) {}
    fn snapshot_write(&mut self, _: GroupId, _: Slot, _: u64, _: &[u8], _: bool) {}
    fn snapshot_read(&mut self, _: GroupId, _: ReplicaId, _: SnapshotFile, _: u64, _: usize) {}
    fn snapshot_remove(&mut self, _: GroupId, _: Slot) {}
    fn snapshot_abandon(&mut self, _: GroupId, _: Slot) {}
    fn executed(&mut self, _: GroupId, _: Position, _: &Value) {}
}

/// A node with these limits that has replayed a log in which a long value is set and one grows.
fn replayed(limits: BatchLimits) -> Core {
    let pool = FramePool::new(1 << 24);
    let config = config(ReplicaId(0), ProtocolKind::Multi, Duration::from_secs(60), limits);
    let mut core = Core::open(&config, Incarnation(2), pool.clone(), |_| random(1), |_| None);
    let long = vec![1; 5000];
    let steps = [CommandKind::Set, CommandKind::Append, CommandKind::Append, CommandKind::Set];
    for (slot, kind) in (1..).zip(steps) {
        let mut writer = BatchWriter::new(pool.take(1 << 14).unwrap(), Vec::new());
        assert!(writer.push(&command(kind, &long)));
        let id = BatchId { proposer: ReplicaId(1), incarnation: Incarnation(1), counter: slot };
        let ballot = Ballot { round: 1, owner: 1 };
        let mut bytes = Vec::new();
        let record = AcceptRecord { ballot, slot: Slot(slot), commit: Slot(slot - 1) };
        Record::Accept(record).encode_fixed(&mut bytes);
        let (group, kind, body) = (GroupId(0), RecordKind(1), Some(writer.seal(id).0));
        let entry =
            Entry { group, kind, bytes: &bytes, body, body_at: None, lsn: Lsn(slot), restated: false };
        core.replay(entry, &mut Nothing).unwrap();
    }
    core
}

fn digest_after_replay(limits: BatchLimits) -> (Slot, u64) {
    let core = replayed(limits);
    let status = core.status().next().unwrap();
    (status.executed, status.digest)
}

/// What a power failure may still take back nobody is told.
#[test]
fn what_was_read_of_the_log_is_not_told_before_it_is_durable() {
    let mut core = replayed(limits(1 << 20));
    assert!(core.status().next().unwrap().executed > Slot(0) && !core.is_live());
    let told = core.read_stale(GroupId(0), &command(CommandKind::Get, b""), |reply, _| reply != Reply::Nil);
    assert_eq!(told, None);
}

#[test]
fn replay_does_not_depend_on_the_configuration() {
    let generous = digest_after_replay(limits(1 << 20));
    assert_eq!(generous.0, Slot(3), "what is known to be chosen is executed");
    assert_eq!(digest_after_replay(limits(100)), generous, "the same log, two states");
}

#[test]
fn nodes_with_different_limits_stay_equal() {
    for kind in ProtocolKind::ALL {
        let of_node = |me: ReplicaId| limits(if me == ReplicaId(1) { 1000 } else { 10 });
        let mut world = World::with_limits(*kind, Duration::from_secs(60), of_node);
        world.run_for(Duration::from_secs(2));
        for (kind, value) in [(CommandKind::Set, &[7; 900][..]), (CommandKind::Append, &[8; 900])] {
            world.submit_command(1, &command(kind, value));
            world.run_for(Duration::from_millis(200));
        }
        // A narrower node takes in what is short; what comes of it there is longer than it would take in.
        world.submit_command(0, &command(CommandKind::Append, b"short"));
        world.run_for(Duration::from_secs(1));
        let (now, token) = (world.now(), ReplyTo { connection: 0, request: 0 });
        let long = command(CommandKind::Set, &[7; 900]);
        let refused = world.cores[0].submit(now, now, GroupId(0), &long, Level::Log, token);
        assert_eq!(refused, Err(Refusal::TooLarge), "{kind:?}");
        assert_eq!(world.replies, 3, "{kind:?}");
        let states = world.cores.iter().map(|core| core.status().next().unwrap());
        let states: Vec<_> = states.map(|status| (status.frontier, status.digest)).collect();
        assert!(states.iter().all(|state| *state == states[0]), "{kind:?}: {states:?}");
    }
}
