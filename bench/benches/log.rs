//! What the log costs without the disk: a commit group with one batch, from the record to the finished write.

use divan::{Bencher, black_box};
use panch_wal::{Config, RecordKind, Wal};
use panch_wire::batch::BatchWriter;
use panch_wire::command::{Command, CommandKind};
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, GroupId, Incarnation, ReplicaId};
use panch_wire::time::Instant;

fn main() {
    divan::main();
}

fn batch() -> Frame {
    let memory = FramePool::new(1 << 20).take(64 << 10).expect("a free frame");
    let mut writer = BatchWriter::new(memory, Vec::new());
    for _ in 0..100 {
        let (key, value) = (b"key:000000000042", b"0123456789abcdef");
        assert!(writer.push(&Command { kind: CommandKind::Set, flags: 0, session: None, key, value }));
    }
    writer.seal(BatchId { proposer: ReplicaId(0), incarnation: Incarnation(1), counter: 1 }).0
}

fn prepare_segments(wal: &mut Wal, now: Instant) {
    while let Some(preparation) = wal.wants_segment(now) {
        wal.segment_ready(preparation.sequence);
    }
    while wal.take_surplus().is_some() {}
}

#[divan::bench(args = [1, 10])]
fn append_and_write(bencher: Bencher, records: usize) {
    let frame = batch();
    let now = Instant(1);
    let mut wal = Wal::create(Config::default(), 1);
    prepare_segments(&mut wal, now);
    bencher.counter(divan::counter::ItemsCount::new(records)).bench_local(|| {
        for _ in 0..records {
            let _ = wal.append(GroupId(0), RecordKind(1), black_box(&[7; 40]), Some(&frame));
        }
        while let Some(write) = wal.next_write(now, |_| ()) {
            black_box(write.size());
            wal.on_written(write, Ok(())).expect("the write succeeded");
        }
        // Everything older is replaced by a snapshot, as it were: the log recycles two or three segments.
        wal.set_floor(GroupId(0), wal.next_record());
        prepare_segments(&mut wal, now);
    });
}
