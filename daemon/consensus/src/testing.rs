//! What the tests of all protocols share: one replica under a magnifying glass ([`solo`]), a deterministic cluster
//! ([`cluster`]) with what its replicas must agree on ([`agreement`]), faults at random ([`random`]), faults that last ([`gray`]), and the proof that
//! tests notice when a safety rule is removed ([`mutants`]).
#![allow(dead_code, reason = "each protocol's tests use their part")]

pub(crate) mod agreement;
pub(crate) mod cluster;
pub(crate) mod commits;
pub(crate) mod gray;
#[cfg(feature = "mutants")]
pub(crate) mod mutants;
pub(crate) mod random;
pub(crate) mod solo;

use panch_wire::batch::BatchWriter;
use panch_wire::command::{Command, CommandKind};
use panch_wire::frame::{Frame, FramePool, PAGE_SIZE};
use panch_wire::ids::{BatchId, Incarnation, ReplicaId};
use panch_wire::time::Duration;

use crate::protocol::Tuning;

pub(crate) const HEARTBEAT: Duration = Duration::from_millis(20);
pub(crate) const TIMEOUT: Duration = Duration::from_millis(100);

/// Small enough that the tail leaves memory, windows fill and pipelines stall.
pub(crate) fn tuning() -> Tuning {
    Tuning {
        heartbeat_interval: HEARTBEAT,
        election_timeout: TIMEOUT,
        pipeline_depth: 4,
        tail_size_max: 8 * PAGE_SIZE,
        unchosen_size_max: 1 << 20,
        catchup_window: 6,
        slow_after: Duration::from_millis(10),
        recover_after: Duration::from_millis(60),
        recover_always_after: Duration::from_millis(200),
        ..Tuning::default()
    }
}

/// A command that writes `key`.
pub(crate) fn set(key: &[u8]) -> Command<'_> {
    Command { kind: CommandKind::Set, flags: 0, session: None, key, value: b"value" }
}

/// A command that reads `key`.
pub(crate) fn get(key: &[u8]) -> Command<'_> {
    Command { kind: CommandKind::Get, flags: 0, session: None, key, value: b"" }
}

/// A batch of these commands.
pub(crate) fn batch_of(
    pool: &FramePool,
    proposer: u8,
    incarnation: u32,
    counter: u64,
    commands: &[Command<'_>],
) -> Frame {
    let id = BatchId { proposer: ReplicaId(proposer), incarnation: Incarnation(incarnation), counter };
    let mut writer = BatchWriter::new(pool.take(PAGE_SIZE).unwrap(), Vec::new());
    for command in commands {
        assert!(writer.push(command), "the commands of a test fit one page");
    }
    if id.is_of_client() { writer.seal_for_client(id.proposer, counter).0 } else { writer.seal(id).0 }
}

/// A batch of one command that writes the key that all such batches write.
pub(crate) fn batch(pool: &FramePool, proposer: u8, incarnation: u32, counter: u64) -> Frame {
    batch_of(pool, proposer, incarnation, counter, &[set(b"key")])
}
