//! A start whose log continues a snapshot that is not there.

use panch_consensus::ballot::Ballot;
use panch_consensus::frontier::Frontier;
use panch_consensus::multi::message::{AcceptRecord, Record};
use panch_consensus::protocol::{ProtocolKind, random};
use panch_replica::core::{Core, PastFault};
use panch_replica::machine::StateMachine;
use panch_replica::replica::PROTOCOL_RECORD;
use panch_replica::snapshot::{Restored, SNAPSHOT_RECORD, SnapshotName, SnapshotReader};
use panch_replica::transfer::{CHUNK_SIZE, SnapshotFile};
use panch_wal::{Entry, Lsn, RecordKind};
use panch_wire::command::{Command, CommandKind};
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, GroupId, Incarnation, ReplicaId, Slot};
use panch_wire::record::Fixed;

use crate::rogue::{Asked, body, config};

const GROUP: GroupId = GroupId(0);

fn replay(core: &mut Core, lsn: u64, kind: RecordKind, record: &impl Fixed, body: Option<Frame>) {
    let mut bytes = Vec::new();
    record.encode_fixed(&mut bytes);
    let entry =
        Entry { group: GROUP, kind, bytes: &bytes, body, body_at: None, lsn: Lsn(lsn), restated: false };
    core.replay(entry, &mut Asked::default()).unwrap();
}

/// So many chosen slots.
fn covering(count: u64) -> Frontier {
    let mut covered = Frontier::default();
    (1..=count).for_each(|slot| assert!(covered.insert(Slot(slot).into())));
    covered
}

/// The log of a follower: slots 1 and 2 are chosen; 3 and 4 were accepted from a leader that could not get them chosen; a later one decided
/// something else there, which came as a snapshot of slot 4; 5 was accepted after it. No slot is missing in the log, and what it holds in
/// 3 and 4 has lost.
fn past(is_named: bool) -> Result<(), PastFault> {
    past_with(is_named.then_some(1000), None)
}

/// The same, with what the log says of the size of the snapshot, and with a file.
fn past_with(named: Option<u64>, mut found: Option<(SnapshotFile, Restored)>) -> Result<(), PastFault> {
    let pool = FramePool::new(1 << 20);
    let config = config(ProtocolKind::Multi, 3, false);
    let mut core = Core::open(&config, Incarnation(2), pool.clone(), |_| random(1), |_| found.take());
    let (old, new) = (Ballot { round: 1, owner: 1 }, Ballot { round: 2, owner: 2 });
    let accept = |core: &mut Core, ballot: Ballot, slot: u64, commit: u64| {
        let record = Record::Accept(AcceptRecord { ballot, slot: Slot(slot), commit: Slot(commit) });
        let id = BatchId { proposer: ReplicaId(ballot.owner), incarnation: Incarnation(1), counter: slot };
        replay(core, slot, PROTOCOL_RECORD, &record, Some(body(&pool, id, 10)));
    };
    (1..=4).for_each(|slot| accept(&mut core, old, slot, (slot - 1).min(2)));
    if let Some(size) = named {
        let name = SnapshotName::of(SnapshotFile { slot: Slot(4), size }, &covering(4));
        replay(&mut core, 4, SNAPSHOT_RECORD, &name, None);
    }
    accept(&mut core, new, 5, 4);
    core.check_past()
}

#[test]
fn a_start_without_the_snapshot_that_the_log_names_is_refused() {
    // The log alone looks whole.
    assert_eq!(past(false), Ok(()));
    let fault = past(true).unwrap_err();
    assert!(matches!(fault, PastFault::Snapshot { found: None, .. }), "{fault}");
    let text = fault.to_string();
    assert!(text.contains("slot 4 of group 0") && text.contains("--rejoin"), "{text}");
}

fn snapshot_of(machine: &mut StateMachine, covered: u64) -> Vec<u8> {
    machine.begin_snapshot(GROUP, &covering(covered), covered);
    let mut bytes = Vec::new();
    while !machine.snapshot_chunk(&mut bytes, CHUNK_SIZE) {}
    bytes
}

fn restored(bytes: &[u8]) -> Restored {
    let mut reader = SnapshotReader::new(0);
    reader.feed(bytes).unwrap();
    reader.finish().unwrap()
}

/// Many keys were deleted since the process began: where they were, a chunk has little in it. Made again after a restart, the same
/// snapshot has fewer chunks. Its name may have become durable and the one in the log not, and later segments repeat either.
#[test]
fn a_snapshot_that_was_made_again_may_have_another_size_than_the_log_says() {
    let mut machine = StateMachine::new(0);
    for number in 0..40_000u32 {
        let key = number.to_le_bytes();
        let set = Command { kind: CommandKind::Set, flags: 0, session: None, key: &key, value: &[7; 30] };
        machine.apply(1, &set, &mut Vec::new());
        if number % 2 == 0 {
            let delete =
                Command { kind: CommandKind::GetDel, flags: 0, session: None, key: &key, value: b"" };
            machine.apply(1, &delete, &mut Vec::new());
        }
    }
    for number in (0..40_000u32).filter(|number| number % 100 != 1) {
        let key = number.to_le_bytes();
        let delete = Command { kind: CommandKind::GetDel, flags: 0, session: None, key: &key, value: b"" };
        machine.apply(1, &delete, &mut Vec::new());
    }
    let first = snapshot_of(&mut machine, 4);
    let second = snapshot_of(&mut restored(&first).machine, 4);
    assert_ne!(first.len(), second.len());
    for (named, file) in [(&first, &second), (&second, &first), (&first, &first)] {
        let found = restored(file);
        assert_eq!(found.machine.digest(), machine.digest());
        let size = file.len() as u64;
        let found = Some((SnapshotFile { slot: Slot(4), size }, found));
        assert_eq!(past_with(Some(named.len() as u64), found), Ok(()));
    }
}

/// A file shows by itself that nothing of it is missing.
#[test]
fn two_snapshots_of_one_slot_do_not_make_one() {
    let state = |value: &[u8]| {
        let mut machine = StateMachine::new(0);
        for number in 0..100u32 {
            let key = number.to_le_bytes();
            let set = Command { kind: CommandKind::Set, flags: 0, session: None, key: &key, value };
            machine.apply(1, &set, &mut Vec::new());
        }
        snapshot_of(&mut machine, 4)
    };
    let (one, other) = (state(&[7; 8000]), state(&[8; 8000]));
    assert_eq!(one.len(), other.len());
    let read = |bytes: &[u8]| {
        let mut reader = SnapshotReader::new(0);
        reader.feed(bytes).and_then(|()| reader.finish().map(drop))
    };
    assert_eq!(read(&one), Ok(()));
    let mut at = panch_replica::snapshot::HEADER_SIZE;
    while at < one.len() {
        let mixed = [&one[..at], &other[at..]].concat();
        assert!(at == panch_replica::snapshot::HEADER_SIZE || read(&mixed).is_err(), "from {at}");
        assert!(read(&one[..at]).is_err(), "up to {at}");
        let length = u32::from_le_bytes(one[at + 8..at + 12].try_into().unwrap()) as usize;
        at += 24 + length;
    }
}
