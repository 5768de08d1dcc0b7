//! Tests of Multi-Paxos: exact effects of single events (`acceptor_rules`, `leader_rules`), named schedules (`scenarios`), random schedules
//! (`random`), and that the two latter notice when a safety rule is removed (`mutants`).

mod acceptor_rules;
mod cluster;
mod leader_rules;
#[cfg(feature = "mutants")]
mod mutants;
mod random;
mod scenarios;
mod solo;

use panch_wire::batch::BatchWriter;
use panch_wire::command::{Command, CommandKind};
use panch_wire::frame::{Frame, FramePool, PAGE_SIZE};
use panch_wire::ids::{BatchId, Incarnation, ReplicaId};
use panch_wire::record::Fixed;
use panch_wire::time::Duration;

use super::message::{Message, Record};
use crate::protocol::Tuning;

const HEARTBEAT: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_millis(100);

/// Small enough that the tail leaves memory, windows fill and pipelines stall.
fn tuning() -> Tuning {
    Tuning {
        heartbeat_interval: HEARTBEAT,
        election_timeout: TIMEOUT,
        pipeline_depth: 4,
        tail_size_max: 8 * PAGE_SIZE,
        unchosen_size_max: 1 << 20,
        catchup_window: 6,
    }
}

fn batch(pool: &FramePool, proposer: u8, incarnation: u32, counter: u64) -> Frame {
    let id = BatchId { proposer: ReplicaId(proposer), incarnation: Incarnation(incarnation), counter };
    let mut writer = BatchWriter::new(pool.take(PAGE_SIZE).unwrap(), Vec::new());
    writer.push(&Command { kind: CommandKind::Set, flags: 0, session: None, key: b"key", value: b"value" });
    writer.seal(id).0
}

// Small enough to travel and be written by the hundred.
const _: () = assert!(Message::SIZE <= 64 && Record::SIZE <= 64);
