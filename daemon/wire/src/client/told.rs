//! What a reply can tell besides its answer, to a client that asks for it.

use crate::fields::{u32_at, u64_at};
use crate::ids::Position;

pub(super) const STAGES_SIZE: usize = 24;
pub(super) const COMMIT_SIZE: usize = 24;

/// Where the time of one command went on the node that answered it, in microseconds, each capped at `u32::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stages {
    /// From the arrival of its last byte until a batch took it.
    pub queue_us: u32,
    /// In the batch until it was sealed.
    pub batch_wait_us: u32,
    /// Until the batch was durable on this node.
    pub log_write_us: u32,
    /// Until a quorum had accepted it, beyond the own log write.
    pub replicate_us: u32,
    /// Until everything ordered before it was executed.
    pub dependency_wait_us: u32,
    /// Executing it.
    pub apply_us: u32,
}

impl Stages {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for stage in [
            self.queue_us,
            self.batch_wait_us,
            self.log_write_us,
            self.replicate_us,
            self.dependency_wait_us,
            self.apply_us,
        ] {
            out.extend_from_slice(&stage.to_le_bytes());
        }
    }

    pub(super) fn read(bytes: &[u8; STAGES_SIZE]) -> Self {
        Self {
            queue_us: u32_at(bytes, 0),
            batch_wait_us: u32_at(bytes, 4),
            log_write_us: u32_at(bytes, 8),
            replicate_us: u32_at(bytes, 12),
            dependency_wait_us: u32_at(bytes, 16),
            apply_us: u32_at(bytes, 20),
        }
    }
}

/// Which point of its group's history an answer belongs to. The same on every replica, and kept over restarts.
///
/// * For a command that was decided: where its batch took effect. Commands of one batch share it. A write that a session
///   repeats is told where the repetition was decided, though the first copy took effect.
/// * For a read that was not decided: the last thing that the answer can show. Only where the group has one log: in a
///   graph no single position says what a read has seen, and nothing is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Commit {
    /// In a log the slot, in row 0; in EPaxos the instance. Number 0: nothing was decided yet.
    pub position: Position,
    /// The commit timestamp: a logical time, never a clock's. In a log it grows with every slot. In EPaxos it is the stamp
    /// that the command leader gave, above all that it knew of the same keys; what was decided concurrently may be executed
    /// against the order of the stamps.
    pub stamp: u64,
}

impl Commit {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.position.row, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.position.number.to_le_bytes());
        out.extend_from_slice(&self.stamp.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8; COMMIT_SIZE]) -> Self {
        Self { position: Position { row: bytes[0], number: u64_at(bytes, 8) }, stamp: u64_at(bytes, 16) }
    }
}
