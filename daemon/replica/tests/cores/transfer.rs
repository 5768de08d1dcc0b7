//! What a replica makes of a peer's snapshot, chunk by chunk.

use panch_consensus::ballot::Ballot;
use panch_consensus::frontier::Frontier;
use panch_consensus::multi::message::{Accept, Message};
use panch_consensus::protocol::{ProtocolKind, random};
use panch_replica::core::{Core, Misbehaviour};
use panch_replica::machine::StateMachine;
use panch_replica::outbox::{MessageKind, Outbox, ReplyTo};
use panch_replica::transfer::{Ack, CHUNK_SIZE, Chunk, Reason, Refuse, SnapshotFile, TransferMessage};
use panch_wal::{Config, Durability, Location, Lsn, Wal};
use panch_wire::batch::BatchWriter;
use panch_wire::client::Commit;
use panch_wire::command::{Command, CommandKind, Reply};
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, GroupId, Incarnation, Position, ReplicaId, Slot};
use panch_wire::record::Fixed;
use panch_wire::time::{Duration, Instant};

use super::rogue::{body, config};

const GROUP: GroupId = GroupId(0);
const SIZE_MAX: u64 = 1 << 20;
const FIRST: ReplicaId = ReplicaId(1);
const SECOND: ReplicaId = ReplicaId(2);

/// What the core said of snapshots, and what it wants written.
#[derive(Default)]
struct Heard {
    said: Vec<(ReplicaId, TransferMessage)>,
    writes: Vec<(Slot, bool)>,
    removed: Vec<Slot>,
    abandoned: Vec<Slot>,
}

impl Outbox for Heard {
    fn send(&mut self, to: ReplicaId, _: GroupId, kind: MessageKind, message: &[u8], _: Option<&Frame>) {
        if kind == MessageKind::Transfer {
            self.said.push((to, TransferMessage::decode_fixed(message).unwrap()));
        }
    }
    fn reply(&mut self, _: ReplyTo, _: Reply<'_>, _: Option<&Commit>) {}
    fn load(&mut self, _: GroupId, _: Position, _: Location) {}
    fn snapshot_write(&mut self, _: GroupId, slot: Slot, _: u64, _: &[u8], last: bool) {
        self.writes.push((slot, last));
    }
    fn snapshot_read(&mut self, _: GroupId, _: ReplicaId, _: SnapshotFile, _: u64, _: usize) {}
    fn snapshot_remove(&mut self, _: GroupId, slot: Slot) {
        self.removed.push(slot);
    }
    fn snapshot_abandon(&mut self, _: GroupId, slot: Slot) {
        self.abandoned.push(slot);
    }
}

struct Receiver {
    core: Core,
    pool: FramePool,
    now: Instant,
    heard: Heard,
}

impl Receiver {
    fn new() -> Self {
        let pool = FramePool::new(8 << 20);
        let mut config = config(ProtocolKind::Multi, 3, false);
        config.snapshot_size_max = SIZE_MAX;
        let mut core = Core::open(&config, Incarnation(2), pool.clone(), |_| random(1), |_| None);
        let mut heard = Heard::default();
        let log = Config { durability: Durability::Memory, ..Config::default() };
        core.start(Instant(1), Wal::create(log, 1), Lsn(0), &mut heard);
        Self { core, pool, now: Instant(1_000_000_000), heard }
    }

    fn chunk(&mut self, from: ReplicaId, chunk: Chunk, bytes: &[u8]) -> Result<(), Misbehaviour> {
        let command = Command { kind: CommandKind::Set, flags: 0, session: None, key: b"", value: bytes };
        let mut writer = BatchWriter::new(self.pool.take(bytes.len() + 4096).unwrap(), Vec::new());
        assert!(writer.push(&command));
        let id = BatchId { proposer: from, incarnation: Incarnation(0), counter: chunk.offset };
        let body = writer.seal(id).0;
        let mut message = Vec::new();
        TransferMessage::Chunk(chunk).encode_fixed(&mut message);
        let kind = MessageKind::Transfer as u8;
        let result = self.core.deliver(self.now, from, GROUP, kind, &message, Some(body), &mut self.heard);
        self.core.end_turn(self.now, &mut self.heard);
        result
    }

    /// Nothing arrives for so long.
    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.core.end_turn(self.now, &mut self.heard);
    }

    /// The first peer leads, and has these slots decided in one turn: enough to make a snapshot.
    fn decide(&mut self, slots: std::ops::RangeInclusive<u64>) {
        let ballot = Ballot { round: 1, owner: FIRST.0 };
        for slot in slots {
            let batch = BatchId { proposer: FIRST, incarnation: Incarnation(1), counter: slot };
            let accept = Accept { ballot, slot: Slot(slot), commit: Slot(slot) };
            let (mut message, kind) = (Vec::new(), MessageKind::Protocol as u8);
            Message::from(accept).encode_fixed(&mut message);
            let batch = Some(body(&self.pool, batch, 40_000));
            self.core.deliver(self.now, FIRST, GROUP, kind, &message, batch, &mut self.heard).unwrap();
        }
        self.pass(Duration::ZERO);
        while self.core.next_write(self.now, &mut self.heard).is_some() {}
        self.heard.said.clear();
    }

    /// The driver has written a chunk.
    fn written(&mut self, slot: Slot, last: bool) {
        self.core.snapshot_written(self.now, GROUP, slot, Ok(last), &mut self.heard);
        self.core.end_turn(self.now, &mut self.heard);
        while self.core.next_write(self.now, &mut self.heard).is_some() {}
    }

    /// The driver writes everything that it holds; how many snapshots were made by then.
    fn write_all(&mut self) -> u64 {
        while !self.heard.writes.is_empty() {
            let (slot, last) = self.heard.writes.remove(0);
            self.written(slot, last);
        }
        self.core.status().next().unwrap().probe.snapshots
    }

    /// So many small chunks, one after the other; how many were taken in.
    fn trickle(&mut self, from: ReplicaId, slot: u64, snapshot: &[u8], first: usize, count: usize) -> usize {
        let before = self.heard.writes.len();
        for offset in (first..first + count).map(|index| index * 1000) {
            let chunk = Chunk { slot, offset: offset as u64, size: snapshot.len() as u64 };
            self.chunk(from, chunk, &snapshot[offset..offset + 1000]).unwrap();
        }
        self.heard.writes.len() - before
    }

    /// Chunks of a transfer for so many seconds, so many a second, all of which are taken in and written.
    fn flow(&mut self, from: ReplicaId, slot: u64, snapshot: &[u8], per_second: usize, seconds: usize) {
        for second in 0..seconds {
            assert_eq!(self.trickle(from, slot, snapshot, second * per_second, per_second), per_second);
            self.write_all();
            self.pass(Duration::from_secs(1));
        }
        self.heard.said.clear();
    }

    /// The chunk of a snapshot at `offset`, and what the core says to it.
    fn part(&mut self, from: ReplicaId, slot: u64, snapshot: &[u8], offset: usize) -> Vec<TransferMessage> {
        let end = snapshot.len().min(offset + CHUNK_SIZE);
        let chunk = Chunk { slot, offset: offset as u64, size: snapshot.len() as u64 };
        self.chunk(from, chunk, &snapshot[offset..end]).unwrap();
        std::mem::take(&mut self.heard.said)
            .into_iter()
            .map(|(to, said)| {
                assert_eq!(to, from);
                said
            })
            .collect()
    }
}

/// A snapshot of some chunks that covers so many slots.
fn snapshot(slot: u64) -> Vec<u8> {
    let mut machine = StateMachine::new(0);
    for number in 0..40u32 {
        let key = number.to_le_bytes();
        let value = [7; 8000];
        let command = Command { kind: CommandKind::Set, flags: 0, session: None, key: &key, value: &value };
        machine.apply(slot, &command, &mut Vec::new());
    }
    let mut covered = Frontier::default();
    covered.extend_to(0, slot);
    machine.begin_snapshot(GROUP, &covered, slot);
    let mut bytes = Vec::new();
    while !machine.snapshot_chunk(&mut bytes, CHUNK_SIZE) {}
    bytes
}

fn ack(slot: u64, offset: usize) -> Vec<TransferMessage> {
    vec![TransferMessage::Ack(Ack { slot, offset: offset as u64 })]
}

fn refuse(slot: u64, reason: Reason) -> TransferMessage {
    TransferMessage::Refuse(Refuse { slot, reason })
}

#[test]
fn a_snapshot_that_this_node_cannot_hold_is_refused_at_once() {
    let mut receiver = Receiver::new();
    for size in [SIZE_MAX + 1, 1 << 40, u64::MAX] {
        let result = receiver.chunk(FIRST, Chunk { slot: 9, offset: 0, size }, &[1; 100]);
        let fault = Misbehaviour::SnapshotTooLarge { size, size_max: SIZE_MAX };
        assert!(!fault.ends_stream(), "votes come on the same stream");
        assert_eq!(result, Err(fault));
        let said = std::mem::take(&mut receiver.heard.said);
        assert_eq!(said, [(FIRST, refuse(9, Reason::NoRoom))]);
    }
    assert_eq!(receiver.heard.writes, []);
}

#[test]
fn chunks_stay_within_the_size_that_was_announced() {
    let mut receiver = Receiver::new();
    let wrong = [
        (Chunk { slot: 9, offset: 0, size: 99 }, 100),
        (Chunk { slot: 9, offset: SIZE_MAX, size: SIZE_MAX }, 1),
        (Chunk { slot: 9, offset: u64::MAX, size: SIZE_MAX }, 1),
        (Chunk { slot: 9, offset: 0, size: SIZE_MAX }, CHUNK_SIZE + 1),
        (Chunk { slot: 9, offset: 0, size: SIZE_MAX }, 0),
    ];
    for (chunk, length) in wrong {
        let result = receiver.chunk(FIRST, chunk, &vec![0; length]);
        assert_eq!(result, Err(Misbehaviour::Undecodable), "{chunk:?} {length}");
    }
    // Another size in the middle.
    let snapshot = snapshot(9);
    assert_eq!(receiver.part(FIRST, 9, &snapshot, 0), ack(9, CHUNK_SIZE));
    let chunk = Chunk { slot: 9, offset: CHUNK_SIZE as u64, size: SIZE_MAX };
    receiver.chunk(FIRST, chunk, &snapshot[CHUNK_SIZE..2 * CHUNK_SIZE]).unwrap();
    assert_eq!(receiver.heard.said, [(FIRST, refuse(9, Reason::Unknown))]);
    assert_eq!(receiver.heard.removed, [Slot(9)]);
}

/// What is executed here already needs no room, whatever the size.
#[test]
fn a_snapshot_that_has_nothing_new_is_acknowledged_however_large_it_is() {
    let mut receiver = Receiver::new();
    let chunk = Chunk { slot: 0, offset: 0, size: SIZE_MAX + 1 };
    assert_eq!(receiver.chunk(FIRST, chunk, &[1; 100]), Ok(()));
    let offset = SIZE_MAX + 1;
    assert_eq!(receiver.heard.said, [(FIRST, TransferMessage::Ack(Ack { slot: 0, offset }))]);
}

/// Neither says anything about the sender's file.
#[test]
fn what_cannot_be_written_and_what_has_no_beginning_is_refused_as_that() {
    let mut receiver = Receiver::new();
    let snapshot = snapshot(9);
    assert_eq!(receiver.part(FIRST, 9, &snapshot, 0), ack(9, CHUNK_SIZE), "before it is written");
    receiver.core.snapshot_written(receiver.now, GROUP, Slot(9), Err(()), &mut receiver.heard);
    assert_eq!(std::mem::take(&mut receiver.heard.said), [(FIRST, refuse(9, Reason::NoRoom))]);
    assert_eq!(receiver.part(FIRST, 9, &snapshot, CHUNK_SIZE), [refuse(9, Reason::Unknown)]);
    // All of it has come when it turns out.
    for offset in (0..snapshot.len()).step_by(CHUNK_SIZE) {
        let _ = receiver.part(FIRST, 9, &snapshot, offset);
    }
    assert_eq!(receiver.heard.writes.last(), Some(&(Slot(9), true)));
    receiver.core.snapshot_written(receiver.now, GROUP, Slot(9), Err(()), &mut receiver.heard);
    assert_eq!(receiver.heard.said, [(FIRST, refuse(9, Reason::NoRoom))]);
}

/// A sender that has started again may have another snapshot of the same slot: held against the one before, it would be told for ever to
/// go on behind its end.
#[test]
fn another_snapshot_of_the_same_slot_begins_anew() {
    let long = snapshot(9);
    let mut machine = StateMachine::new(0);
    machine.begin_snapshot(GROUP, &Frontier::from(Slot(9)), 9);
    let mut short = Vec::new();
    while !machine.snapshot_chunk(&mut short, CHUNK_SIZE) {}
    let mut receiver = Receiver::new();
    assert_eq!(receiver.part(FIRST, 9, &long, 0), ack(9, CHUNK_SIZE));
    assert!(short.len() < CHUNK_SIZE);
    assert_eq!(receiver.part(FIRST, 9, &short, 0), []);
    assert_eq!(receiver.heard.removed, [Slot(9)]);
    assert_eq!(receiver.heard.writes.last(), Some(&(Slot(9), true)), "complete");
    // And the other way around.
    let mut receiver = Receiver::new();
    let begun = Chunk { slot: 9, offset: 0, size: short.len() as u64 };
    receiver.chunk(FIRST, begun, &short[..50]).unwrap();
    receiver.heard.said.clear();
    assert_eq!(receiver.part(FIRST, 9, &long, 0), ack(9, CHUNK_SIZE));
    assert_eq!(receiver.part(FIRST, 9, &long, CHUNK_SIZE), ack(9, 2 * CHUNK_SIZE));
}

/// Zeros behind the end would fill the disk, up to the size that was announced.
#[test]
fn nothing_follows_the_end_of_a_snapshot() {
    let mut receiver = Receiver::new();
    let mut snapshot = snapshot(9);
    snapshot.resize(SIZE_MAX as usize, 0);
    let mut offset = 0;
    loop {
        let said = receiver.part(FIRST, 9, &snapshot, offset);
        offset += CHUNK_SIZE;
        if said != ack(9, offset) {
            assert_eq!(said, [refuse(9, Reason::Damaged)]);
            break;
        }
    }
    assert!(offset < snapshot.len() / 2, "{offset}");
    assert_eq!(receiver.heard.removed, [Slot(9)]);
}

#[test]
fn a_snapshot_that_grows_is_not_given_up_for_another_peers() {
    let mut receiver = Receiver::new();
    let (first, second) = (snapshot(9), snapshot(12));
    assert_eq!(receiver.part(FIRST, 9, &first, 0), ack(9, CHUNK_SIZE));
    assert_eq!(receiver.part(SECOND, 12, &second, 0), [refuse(12, Reason::Busy)]);
    receiver.now = receiver.now + Duration::from_millis(1900);
    assert_eq!(receiver.part(FIRST, 9, &first, CHUNK_SIZE), ack(9, 2 * CHUNK_SIZE));
    receiver.now = receiver.now + Duration::from_millis(1900);
    assert_eq!(receiver.part(SECOND, 12, &second, 0), [refuse(12, Reason::Busy)]);
    // Its sender may be gone.
    receiver.now = receiver.now + Duration::from_millis(200);
    assert_eq!(receiver.part(SECOND, 12, &second, 0), ack(12, CHUNK_SIZE));
    assert_eq!(receiver.heard.removed, [Slot(9)]);
}

#[test]
fn a_receiver_whose_disk_takes_its_time_says_that_it_lives() {
    let mut receiver = Receiver::new();
    let snapshot = snapshot(9);
    let last = (snapshot.len() - 1) / CHUNK_SIZE * CHUNK_SIZE;
    for offset in (0..last).step_by(CHUNK_SIZE) {
        assert_eq!(receiver.part(FIRST, 9, &snapshot, offset), ack(9, offset + CHUNK_SIZE));
    }
    assert_eq!(receiver.part(FIRST, 9, &snapshot, last), []);
    assert_eq!(receiver.heard.writes.last(), Some(&(Slot(9), true)));
    assert_eq!(receiver.part(FIRST, 9, &snapshot, last), ack(9, last), "not durable yet");
}

/// No more than so many chunks wait for a disk that stands still.
#[test]
fn a_disk_that_stands_still_slows_the_transfer_down() {
    let mut receiver = Receiver::new();
    let snapshot = snapshot(9);
    let mut acked = 0;
    for offset in (0..snapshot.len() - 2000).step_by(1000) {
        let chunk = Chunk { slot: 9, offset: offset as u64, size: snapshot.len() as u64 };
        receiver.chunk(FIRST, chunk, &snapshot[offset..offset + 1000]).unwrap();
        for (_, said) in receiver.heard.said.drain(..) {
            if let TransferMessage::Ack(ack) = said {
                acked = ack.offset;
            }
        }
    }
    assert_eq!((acked, receiver.heard.writes.len()), (64_000, 128));
    for _ in 0..64 {
        receiver.core.snapshot_written(receiver.now, GROUP, Slot(9), Ok(false), &mut receiver.heard);
    }
    assert_eq!(receiver.heard.said, [(FIRST, ack(9, 128_000)[0])]);
}

/// They would be taken for those of the new file, of which too much would be written at once, and which would seem durable too early.
#[test]
fn no_snapshot_is_made_while_chunks_of_another_one_of_its_name_are_written() {
    let mut receiver = Receiver::new();
    let (first, second) = (snapshot(9), snapshot(12));
    for offset in [0, CHUNK_SIZE] {
        assert_eq!(receiver.part(FIRST, 9, &first, offset), ack(9, offset + CHUNK_SIZE));
    }
    receiver.pass(Duration::from_millis(2100));
    assert_eq!(receiver.part(SECOND, 12, &second, 0), ack(12, CHUNK_SIZE));
    assert_eq!(receiver.heard.removed, [Slot(9)]);
    receiver.decide(1..=9);
    let of_nine =
        |receiver: &Receiver| receiver.heard.writes.iter().filter(|(slot, _)| *slot == Slot(9)).count();
    assert_eq!(of_nine(&receiver), 2, "those of the dropped one");
    receiver.written(Slot(9), false);
    receiver.pass(Duration::from_secs(1));
    assert_eq!(of_nine(&receiver), 2);
    receiver.written(Slot(9), false);
    receiver.heard.writes.clear();
    receiver.pass(Duration::from_secs(1));
    assert!(of_nine(&receiver) > 0);
    assert_eq!(receiver.write_all(), 1);
}

#[test]
fn what_the_log_has_brought_is_dropped_and_a_snapshot_made_though_nothing_is_written() {
    let mut receiver = Receiver::new();
    assert_eq!(receiver.part(FIRST, 9, &snapshot(9), 0), ack(9, CHUNK_SIZE));
    receiver.write_all();
    receiver.decide(1..=9);
    assert_eq!(receiver.heard.removed, [Slot(9)]);
    receiver.pass(Duration::from_secs(1));
    assert_eq!(receiver.write_all(), 1);
}

#[test]
fn what_a_lost_sender_has_begun_leaves_memory() {
    let mut receiver = Receiver::new();
    assert_eq!(receiver.part(FIRST, 9, &snapshot(9), 0), ack(9, CHUNK_SIZE));
    receiver.pass(Duration::from_secs(59));
    assert_eq!(receiver.heard.removed, []);
    receiver.pass(Duration::from_secs(1));
    assert_eq!(receiver.heard.removed, [Slot(9)]);
}

/// Two senders in turn do not pile up chunks for it.
#[test]
fn a_disk_that_stands_still_holds_so_much_of_all_transfers_together() {
    let mut receiver = Receiver::new();
    let (first, second) = (snapshot(9), snapshot(12));
    assert_eq!(receiver.trickle(FIRST, 9, &first, 0, 40), 40);
    receiver.pass(Duration::from_millis(2100));
    assert_eq!(receiver.trickle(SECOND, 12, &second, 0, 120), 88);
    receiver.heard.said.clear();
    receiver.pass(Duration::from_millis(2100));
    let third = snapshot(15);
    assert_eq!(receiver.part(FIRST, 15, &third, 0), [refuse(15, Reason::Busy)]);
    for _ in 0..80 {
        receiver.written(Slot(12), false);
    }
    receiver.heard.said.clear();
    assert_eq!(receiver.part(FIRST, 15, &third, 0), ack(15, CHUNK_SIZE));
}

#[test]
fn a_snapshot_that_grows_too_slowly_is_given_up_for_another_peers() {
    let mut receiver = Receiver::new();
    let (slow, fast) = (snapshot(9), snapshot(12));
    receiver.flow(FIRST, 9, &slow, 1, 9);
    assert_eq!(receiver.part(SECOND, 12, &fast, 0), [refuse(12, Reason::Busy)], "it may become faster");
    assert_eq!(receiver.trickle(FIRST, 9, &slow, 9, 1), 1);
    receiver.write_all();
    receiver.heard.said.clear();
    receiver.pass(Duration::from_secs(1));
    assert_eq!(receiver.part(SECOND, 12, &fast, 0), ack(12, CHUNK_SIZE));
    assert_eq!(receiver.heard.removed, [Slot(9)]);
    receiver.heard.said.clear();
    receiver
        .chunk(FIRST, Chunk { slot: 9, offset: 10_000, size: slow.len() as u64 }, &slow[10_000..11_000])
        .unwrap();
    assert_eq!(receiver.heard.said, []);
}

#[test]
fn two_slow_peers_do_not_take_turns_for_ever() {
    let mut receiver = Receiver::new();
    let snapshots = [(FIRST, 9, snapshot(9)), (SECOND, 12, snapshot(12))];
    let mut takeovers = 0;
    loop {
        let (from, slot, bytes) = &snapshots[takeovers % 2];
        receiver.flow(*from, *slot, bytes, 4, 11);
        let (from, slot, bytes) = &snapshots[(takeovers + 1) % 2];
        let chunk = Chunk { slot: *slot, offset: 0, size: bytes.len() as u64 };
        receiver.chunk(*from, chunk, &bytes[..1]).unwrap();
        if receiver.heard.said.pop() == Some((*from, refuse(*slot, Reason::Busy))) {
            break;
        }
        // A transfer of that peer begins, and ends at once.
        receiver.write_all();
        let wrong = Chunk { slot: *slot, offset: 1, size: SIZE_MAX };
        receiver.chunk(*from, wrong, &bytes[1..2]).unwrap();
        receiver.heard.said.clear();
        takeovers += 1;
        assert!(takeovers < 10);
    }
    assert_eq!(takeovers, 2);
}

#[test]
fn a_snapshot_that_ends_soon_is_not_given_up() {
    let mut receiver = Receiver::new();
    let (first, second) = (snapshot(9), snapshot(12));
    receiver.flow(FIRST, 9, &first, 15, 12);
    assert_eq!(receiver.part(SECOND, 12, &second, 0), [refuse(12, Reason::Busy)]);
}
