//! A start whose log continues a snapshot that is not there.

use panch_consensus::ballot::Ballot;
use panch_consensus::frontier::Frontier;
use panch_consensus::multi::message::{AcceptRecord, Record};
use panch_consensus::protocol::{ProtocolKind, random};
use panch_replica::core::{Core, PastFault};
use panch_replica::replica::PROTOCOL_RECORD;
use panch_replica::snapshot::{SNAPSHOT_RECORD, SnapshotName};
use panch_replica::transfer::SnapshotFile;
use panch_wal::{Entry, Lsn, RecordKind};
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

/// The log of a follower: slots 1 and 2 are chosen; 3 and 4 were accepted from a leader that could not get them chosen; a later one decided
/// something else there, which came as a snapshot of slot 4; 5 was accepted after it. No slot is missing in the log, and what it holds in
/// 3 and 4 has lost.
fn past(is_named: bool) -> Result<(), PastFault> {
    let pool = FramePool::new(1 << 20);
    let config = config(ProtocolKind::Multi, 3, false);
    let mut core = Core::open(&config, Incarnation(2), pool.clone(), |_| random(1), |_| None);
    let (old, new) = (Ballot { round: 1, owner: 1 }, Ballot { round: 2, owner: 2 });
    let accept = |core: &mut Core, ballot: Ballot, slot: u64, commit: u64| {
        let record = Record::Accept(AcceptRecord { ballot, slot: Slot(slot), commit: Slot(commit) });
        let id = BatchId { proposer: ReplicaId(ballot.owner), incarnation: Incarnation(1), counter: slot };
        replay(core, slot, PROTOCOL_RECORD, &record, Some(body(&pool, id, 10)));
    };
    (1..=4).for_each(|slot| accept(&mut core, old, slot, (slot - 1).min(2)));
    if is_named {
        let mut covered = Frontier::default();
        (1..=4).for_each(|slot| assert!(covered.insert(Slot(slot).into())));
        let name = SnapshotName::of(SnapshotFile { slot: Slot(4), size: 1000 }, &covered);
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
