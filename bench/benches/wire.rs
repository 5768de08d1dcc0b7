//! What the bytes cost: requests of Redis clients, batches, checksums, packets between nodes.

use divan::{Bencher, black_box};
use panch_wire::batch::{BatchView, BatchWriter, Entry};
use panch_wire::checksum::checksum;
use panch_wire::command::{Command, CommandKind};
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, GroupId, Incarnation, ReplicaId};
use panch_wire::peer::{Incarnations, Next, PacketReader, PacketWriter};
use panch_wire::resp::{Limits, Parsed, Parser, Request, translate};

fn main() {
    divan::main();
}

const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000042\r\n$16\r\n0123456789abcdef\r\n";
const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000042\r\n";
/// Commands in a batch, as configured by default.
const BATCH: usize = 100;
const BATCH_SIZE_MAX: usize = 64 << 10;

#[divan::bench(args = ["SET", "GET"], counters = [divan::counter::ItemsCount::new(1u8)])]
fn resp_parse_and_translate(bencher: Bencher, name: &str) {
    let request = if name == "SET" { SET } else { GET };
    let mut parser = Parser::new(Limits::default());
    let mut scratch = Vec::new();
    bencher.bench_local(|| {
        let parsed = parser.parse(black_box(request)).expect("a request");
        assert!(matches!(parsed, Parsed::Command { consumed } if consumed == request.len()));
        let Ok(Request::Data(command)) = translate(parser.arguments(request), &mut scratch) else {
            panic!("a data command")
        };
        black_box(command.key.len())
    });
}

fn fill_batch(pool: &FramePool, entries: Vec<Entry>) -> (Frame, Vec<Entry>) {
    let mut writer = BatchWriter::new(pool.take(BATCH_SIZE_MAX).expect("a free frame"), entries);
    for number in 0..BATCH as u64 {
        let mut key = *b"key:000000000000";
        key[8..].copy_from_slice(&number.to_be_bytes());
        let command = Command {
            kind: CommandKind::Set,
            flags: 0,
            session: None,
            key: &key,
            value: b"0123456789abcdef",
        };
        assert!(writer.push(black_box(&command)));
    }
    writer.seal(BatchId { proposer: ReplicaId(0), incarnation: Incarnation(1), counter: 1 })
}

#[divan::bench(counters = [divan::counter::ItemsCount::new(BATCH)])]
fn batch_write_and_seal(bencher: Bencher) {
    let pool = FramePool::new(1 << 20);
    let mut entries = Vec::new();
    bencher.bench_local(|| {
        let (frame, storage) = fill_batch(&pool, std::mem::take(&mut entries));
        entries = storage;
        frame.checksum()
    });
}

#[divan::bench(counters = [divan::counter::ItemsCount::new(BATCH)])]
fn batch_validate(bencher: Bencher) {
    let (frame, _) = fill_batch(&FramePool::new(1 << 20), Vec::new());
    bencher.bench_local(|| BatchView::validate(black_box(&frame)).expect("a batch").command_count());
}

#[divan::bench(args = [4 << 10, 64 << 10])]
fn crc64(bencher: Bencher, size: usize) {
    let bytes = vec![0x5a; size];
    bencher.counter(divan::counter::BytesCount::new(size)).bench_local(|| checksum(black_box(&bytes)));
}

/// A packet as a leader sends it: one proposal with its batch, one small message.
fn fill_packet(packet: &mut PacketWriter, frame: &Frame) {
    let life = Incarnation(1);
    packet.start(Incarnations { sender: life, receiver: life });
    assert!(packet.push_bytes(GroupId(0), 0, black_box(&[7; 48]), Some(frame)));
    assert!(packet.push_bytes(GroupId(1), 0, black_box(&[7; 24]), None));
    packet.finish(0);
}

#[divan::bench]
fn packet_write(bencher: Bencher) {
    let (frame, _) = fill_batch(&FramePool::new(1 << 20), Vec::new());
    let mut packet = PacketWriter::new();
    bencher.bench_local(|| {
        fill_packet(&mut packet, &frame);
        packet.size()
    });
}

#[divan::bench]
fn packet_read(bencher: Bencher) {
    let pool = FramePool::new(1 << 20);
    let (frame, _) = fill_batch(&pool, Vec::new());
    let mut packet = PacketWriter::new();
    fill_packet(&mut packet, &frame);
    let bytes: Vec<u8> = packet.parts().flatten().copied().collect();
    let mut reader = PacketReader::new();
    bencher.counter(divan::counter::BytesCount::new(bytes.len())).bench_local(|| {
        let mut input = black_box(bytes.as_slice());
        let mut count = 0;
        while let Next::Message(message) = reader.next(&mut input, &pool).expect("a whole packet") {
            count += message.message.len();
        }
        count
    });
}
