use panch_wire::batch::BatchWriter;
use panch_wire::checksum::checksum;
use panch_wire::command::{Command, CommandKind, SessionHeader, list};
use panch_wire::exec;
use panch_wire::frame::FramePool;
use panch_wire::ids::{BatchId, GroupId, Incarnation, ReplicaId, Slot};
use proptest::prelude::*;

use super::{CHUNK_HEADER_SIZE, HEADER_SIZE, Restored, SnapshotError, SnapshotHeader, SnapshotReader};
use crate::machine::StateMachine;

const HEADER: SnapshotHeader = SnapshotHeader { group: GroupId(5), slot: Slot(77) };
/// The first number of a session after one expiry.
const FIRST: u64 = 1 << 40 | 1;
/// The smallest chunks that the writer makes.
const SMALL: usize = 1;

fn run(
    machine: &mut StateMachine,
    slot: u64,
    kind: CommandKind,
    session: Option<(u64, u64)>,
    key: u32,
    value: &[u8],
) {
    let session = session.map(|(session, number)| SessionHeader {
        session,
        number,
        acked_below: number.saturating_sub(9),
    });
    let key = format!("key {key}");
    let command = Command { kind, flags: 0, session, key: key.as_bytes(), value };
    machine.apply(slot, &command, &mut Vec::new());
}

fn admit(machine: &mut StateMachine, proposer: u8, counter: u64) {
    let id = BatchId { proposer: ReplicaId(proposer), incarnation: Incarnation(8), counter };
    let mut writer = BatchWriter::new(FramePool::new(1 << 16).take(4096).unwrap(), Vec::new());
    writer.push(&Command { kind: CommandKind::Set, flags: 0, session: None, key: b"k", value: b"v" });
    machine.admit(&writer.seal(id).0);
    while machine.next_held(ReplicaId(proposer)).is_some() {}
}

/// A state with every kind of content.
fn machine(key_count: u32) -> StateMachine {
    let mut machine = StateMachine::new(3);
    for key in 0..key_count {
        run(&mut machine, 1, CommandKind::Set, None, key, &vec![key as u8; key as usize * 7 % 150]);
    }
    let mut several = Vec::new();
    for kind in [CommandKind::Get, CommandKind::Append] {
        let command = Command { kind, flags: 0, session: None, key: b"key 1", value: b"one of several" };
        exec::push_command(&command, &mut several);
    }
    // A session that expired: the others begin with the numbers of the next generation.
    run(&mut machine, 1, CommandKind::OpenSession, Some((5, 1)), 0, b"");
    run(&mut machine, 1, CommandKind::ExpireSessions, None, 0, &2u64.to_le_bytes());
    for session in 1..=4 {
        run(&mut machine, session, CommandKind::OpenSession, Some((session, 1)), 0, b"");
        for number in 1..20 {
            let (kind, value) = match number {
                15 => (CommandKind::Exec, several.as_slice()),
                _ if number % 2 == 0 => (CommandKind::GetSet, b"from a session".as_slice()),
                _ => (CommandKind::Append, b"from a session".as_slice()),
            };
            let number_in_session = FIRST - 1 + number;
            run(&mut machine, session, kind, Some((session, number_in_session)), number as u32, value);
        }
    }
    run(&mut machine, 9, CommandKind::CloseSession, Some((4, FIRST)), 0, b"");
    for counter in 1..4 {
        admit(&mut machine, 2, counter);
    }
    admit(&mut machine, 2, 6);
    machine
}

fn bytes_of(machine: &mut StateMachine, size_hint: usize) -> Vec<u8> {
    machine.begin_snapshot(HEADER.group, &HEADER.slot.into(), 9);
    let mut bytes = Vec::new();
    while !machine.snapshot_chunk(&mut bytes, size_hint) {}
    assert!(!machine.is_snapshot_active());
    bytes
}

fn read(bytes: &[u8]) -> Result<(SnapshotHeader, StateMachine), SnapshotError> {
    let mut reader = SnapshotReader::new(1234);
    reader.feed(bytes)?;
    let Restored { group, covered, machine, .. } = reader.finish()?;
    Ok((SnapshotHeader { group, slot: covered.slot() }, machine))
}

#[test]
fn what_is_read_is_what_was_written() {
    let mut machine = machine(500);
    let bytes = bytes_of(&mut machine, SMALL);
    let (header, restored) = read(&bytes).unwrap();
    assert_eq!(header, HEADER);
    assert_eq!(restored.digest(), machine.digest());
    assert_eq!(restored.key_count(), machine.key_count());
    assert_eq!(restored.proposers(), machine.proposers());
    assert_eq!(restored.sessions().open_count(), 3);
    assert_eq!(restored.kv().value(b"key 499"), machine.kv().value(b"key 499"));
}

#[test]
fn an_empty_state_has_a_snapshot_too() {
    let mut machine = StateMachine::new(3);
    let bytes = bytes_of(&mut machine, SMALL);
    assert_eq!(read(&bytes).unwrap().1.digest(), machine.digest());
}

#[test]
fn a_restored_session_still_answers_old_numbers() {
    let mut machine = machine(10);
    let (_, mut restored) = read(&bytes_of(&mut machine, SMALL)).unwrap();
    let ask = |machine: &mut StateMachine, number| {
        let session = Some(SessionHeader { session: 2, number: FIRST - 1 + number, acked_below: 1 });
        let command = Command { kind: CommandKind::GetSet, flags: 0, session, key: b"key 0", value: b"new" };
        format!("{:?}", machine.apply(100, &command, &mut Vec::new()))
    };
    for number in 1..40 {
        assert_eq!(ask(&mut restored, number), ask(&mut machine, number));
    }
    assert_eq!(restored.digest(), machine.digest());
}

#[test]
fn chunks_keep_to_the_size_that_was_asked_for() {
    let mut machine = machine(3000);
    run(&mut machine, 1, CommandKind::Set, None, 0, &[1; 4096]);
    machine.begin_snapshot(HEADER.group, &HEADER.slot.into(), 9);
    let (mut chunk, mut done) = (Vec::new(), false);
    while !done {
        chunk.clear();
        done = machine.snapshot_chunk(&mut chunk, 10_000);
        assert!(chunk.len() <= 10_000);
    }
}

#[test]
fn a_snapshot_can_be_given_up_and_begun_again() {
    let mut machine = machine(3000);
    machine.begin_snapshot(HEADER.group, &HEADER.slot.into(), 9);
    assert!(!machine.snapshot_chunk(&mut Vec::new(), SMALL));
    machine.abort_snapshot();
    assert!(!machine.is_snapshot_active());
    run(&mut machine, 2, CommandKind::Set, None, 1, b"later");
    let bytes = bytes_of(&mut machine, SMALL);
    assert_eq!(read(&bytes).unwrap().1.digest(), machine.digest());
}

#[test]
fn any_changed_bit_is_noticed() {
    let mut machine = machine(60);
    let bytes = bytes_of(&mut machine, SMALL);
    assert!(bytes.len() > HEADER_SIZE + 4096 + 2 * CHUNK_HEADER_SIZE, "more than one chunk");
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(read(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn any_early_end_is_noticed_at_its_place() {
    let mut machine = machine(60);
    let bytes = bytes_of(&mut machine, SMALL);
    for length in 0..bytes.len() {
        assert_eq!(read(&bytes[..length]).err(), Some(SnapshotError::Truncated { at: length as u64 }));
    }
}

#[test]
fn damage_is_placed_at_its_chunk() {
    let mut machine = machine(60);
    let mut bytes = bytes_of(&mut machine, SMALL);
    let second = HEADER_SIZE + CHUNK_HEADER_SIZE + 4096;
    bytes[second + 100] ^= 1;
    assert_eq!(read(&bytes).err(), Some(SnapshotError::Checksum { at: second as u64 }));
}

#[test]
fn only_zeros_may_follow() {
    let mut machine = machine(60);
    let mut bytes = bytes_of(&mut machine, SMALL);
    let end = bytes.len() as u64;
    bytes.extend_from_slice(&[0; 100]);
    assert!(read(&bytes).is_ok());
    bytes.push(1);
    assert_eq!(read(&bytes).err(), Some(SnapshotError::Trailing { at: end }));
}

#[test]
fn chunks_of_two_snapshots_do_not_mix() {
    let mut machine = machine(60);
    let bytes = bytes_of(&mut machine, SMALL);
    machine.begin_snapshot(HEADER.group, &Slot(78).into(), 9);
    let mut other = Vec::new();
    while !machine.snapshot_chunk(&mut other, SMALL) {}
    let second = HEADER_SIZE + CHUNK_HEADER_SIZE + 4096;
    let mixed = [&bytes[..second], &other[second..]].concat();
    assert_eq!(read(&mixed).err(), Some(SnapshotError::Order { at: second as u64 }));
    let skipped = [&bytes[..HEADER_SIZE], &bytes[second..]].concat();
    assert_eq!(read(&skipped).err(), Some(SnapshotError::Order { at: HEADER_SIZE as u64 }));
}

#[test]
fn another_version_is_told_apart_from_damage() {
    let mut bytes = bytes_of(&mut machine(1), SMALL);
    bytes[8] = 9;
    let sum = checksum(&bytes[..24]);
    bytes[24..32].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(read(&bytes).err(), Some(SnapshotError::Version(9)));
    assert_eq!(read(&[b'x'; 64]).err(), Some(SnapshotError::NotASnapshot));
}

#[test]
fn an_error_stays() {
    let mut reader = SnapshotReader::new(3);
    assert_eq!(reader.feed(&[b'x'; 64]), Err(SnapshotError::NotASnapshot));
    assert_eq!(reader.feed(b"more"), Err(SnapshotError::NotASnapshot));
    assert!(reader.finish().is_err());
}

/// A snapshot with sound checksums around any records.
fn forged(records: &[u8]) -> Vec<u8> {
    let mut bytes = bytes_of(&mut StateMachine::new(3), SMALL);
    bytes.truncate(HEADER_SIZE);
    for (number, payload) in (1u32..).zip(records.chunks(1000)) {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&HEADER.slot.0.to_le_bytes());
        bytes.extend_from_slice(payload);
        let sum = checksum(&bytes[start + 8..]);
        bytes[start..start + 8].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

/// The records of a snapshot.
fn records_of(machine: &mut StateMachine) -> Vec<u8> {
    let bytes = bytes_of(machine, 1 << 20);
    bytes[HEADER_SIZE + CHUNK_HEADER_SIZE..].to_vec()
}

#[test]
fn a_missing_or_repeated_record_is_noticed() {
    let records = records_of(&mut machine(30));
    assert!(read(&forged(&records)).is_ok());
    assert!(read(&forged(&[&records[..], b"x"].concat())).is_err(), "nothing follows the last record");
    let mut at = 0;
    while let Some((_, length)) = super::record::prefix(&records[at..]) {
        let end = at + 5 + length;
        let missing = [&records[..at], &records[end..]].concat();
        assert!(read(&forged(&missing)).is_err(), "without the record at {at}");
        let repeated = [&records[..end], &records[at..]].concat();
        assert!(read(&forged(&repeated)).is_err(), "with the record at {at} twice");
        at = end;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write { kind: CommandKind, key: u32, size: usize },
    Session { kind: CommandKind, session: u64, number: u64 },
    Batch(u64),
    Chunk(usize),
}

fn step() -> impl Strategy<Value = Step> {
    use CommandKind::*;
    prop_oneof![
        30 => (prop::sample::select(vec![Set, Append, GetDel, GetSet, Del]), 0u32..400, 0usize..200)
            .prop_map(|(kind, key, size)| Step::Write { kind, key, size }),
        10 => (prop::sample::select(vec![OpenSession, CloseSession, Append, Append, GetSet, ExpireSessions]), 1u64..9, 1u64..30)
            .prop_map(|(kind, session, number)| Step::Session { kind, session, number }),
        1 => (1u64..8).prop_map(Step::Batch),
        6 => (0usize..6000).prop_map(Step::Chunk),
    ]
}

fn take(machine: &mut StateMachine, slot: u64, step: &Step) {
    match *step {
        Step::Write { kind, key, size } => {
            let mut value = vec![slot as u8; size];
            if kind == CommandKind::Del {
                value.clear();
                for offset in 0..size as u32 {
                    list::push(&mut value, format!("key {}", (key + offset) % 400).as_bytes());
                }
            }
            run(machine, slot, kind, None, key, &value);
        }
        Step::Session { kind, session, number } => {
            let before = slot.saturating_sub(40).to_le_bytes();
            run(machine, slot, kind, Some((session, number)), number as u32, &before);
        }
        Step::Batch(counter) => {
            admit(machine, 0, counter);
        }
        Step::Chunk(_) => {}
    }
}

proptest! {
    #[test]
    fn a_snapshot_is_the_state_at_its_beginning(
        before in prop::collection::vec(step(), 0..150),
        during in prop::collection::vec(step(), 0..300),
        split in 1usize..3000,
    ) {
        let mut subject = machine(200);
        let mut slot = 10;
        for step in &before {
            slot += 1;
            take(&mut subject, slot, step);
        }
        let (digest, key_count) = (subject.digest(), subject.key_count());
        subject.begin_snapshot(HEADER.group, &HEADER.slot.into(), 9);
        let (mut bytes, mut done) = (Vec::new(), false);
        for step in &during {
            slot += 1;
            take(&mut subject, slot, step);
            if let Step::Chunk(size) = step && !done {
                done = subject.snapshot_chunk(&mut bytes, *size);
            }
        }
        while !done {
            done = subject.snapshot_chunk(&mut bytes, SMALL);
        }
        let mut reader = SnapshotReader::new(3);
        for part in bytes.chunks(split) {
            prop_assert!(!reader.is_complete());
            prop_assert_eq!(reader.feed(part), Ok(()));
        }
        prop_assert!(reader.is_complete());
        prop_assert_eq!(reader.size(), bytes.len() as u64);
        let restored = reader.finish().unwrap().machine;
        prop_assert_eq!((restored.digest(), restored.key_count()), (digest, key_count));
        // The machine has not suffered: it equals one that took the same steps without a snapshot.
        let mut other = machine(200);
        for (slot, step) in (11..).zip(before.iter().chain(&during)) {
            take(&mut other, slot, step);
        }
        prop_assert_eq!(other.digest(), subject.digest());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(garbage in prop::collection::vec(any::<u8>(), 0..300), split in 1usize..50) {
        let mut reader = SnapshotReader::new(3);
        for part in garbage.chunks(split) {
            let _ = reader.feed(part);
        }
        prop_assert!(reader.finish().is_err());
    }

    #[test]
    fn no_records_make_the_reader_panic(
        changes in prop::collection::vec((0usize..4000, any::<u8>()), 0..6),
        garbage in prop::collection::vec(any::<u8>(), 0..60),
        garbage_at in 0usize..4000,
    ) {
        let mut records = records_of(&mut machine(20));
        for (at, byte) in changes {
            let at = at % records.len();
            records[at] = byte;
        }
        let at = garbage_at % records.len();
        records.splice(at..at, garbage);
        let _ = read(&forged(&records));
    }
}
