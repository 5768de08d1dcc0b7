//! Snapshots on their way: made from the running state machine, sent to a peer, received from one.
//!
//! Invariants:
//! * The log below a snapshot is given up only once the snapshot's file is durable (protocols D9).
//! * A received snapshot replaces the state machine only when it is complete, verified and durable.
//! * One snapshot is made, and one received, at a time; a snapshot that a peer is reading is not removed.
//! * Everything moves in chunks of at most [`CHUNK_SIZE`]. What may be on its way to a peer follows what its link carries in a
//!   round trip (`window`), and is a share of the frame memory at most.
//! * A receiver acknowledges no more than its disk keeps up with, so a slow disk or peer slows the transfer and nothing else.
//! * While a snapshot is on its way, and for a while after, its sender keeps the log above it (`sending`): that is what the peer
//!   needs next.
//! * A peer that makes no progress, or says nothing, is given up after a while, and one that receives from another peer that
//!   does make progress says so.
//! * A peer's numbers are checked before anything follows from them: a snapshot that this node cannot hold, or that is longer
//!   than announced, is refused.

use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::time::{Duration, Instant};
use rkyv::{Archive, Deserialize, Serialize};

/// Bytes of one chunk at most.
pub const CHUNK_SIZE: usize = 64 << 10;
/// Chunks of a snapshot that is being made that the driver has not written.
const MAKING_MAX: u64 = 4;
/// Chunks that a receiver has not written when it stops to acknowledge; at twice as many it takes in no more.
const BACKLOG_MAX: u64 = 64;
/// Another peer's snapshot is taken in the place of one that has not grown for this long.
const YIELDS_AFTER: Duration = Duration::from_secs(2);

/// What replicas say to each other about snapshots. Chunks carry their bytes as a frame with one command, so that
/// every body on the wire has one format, one checksum and one validator.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferMessage {
    /// See [`Chunk`].
    Chunk(Chunk),
    /// See [`Ack`].
    Ack(Ack),
    /// The snapshot up to this slot is not wanted or not usable: start again or give up.
    Refuse(u64),
}

/// Bytes of a snapshot.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// The last slot that the snapshot covers.
    pub slot: u64,
    /// Position of the chunk.
    pub offset: u64,
    /// Length of the whole snapshot.
    pub size: u64,
}

/// How much of a snapshot has arrived.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// The last slot that the snapshot covers.
    pub slot: u64,
    /// Everything below has arrived; the whole size says that it is installed.
    pub offset: u64,
}

/// A snapshot whose file is complete and durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotFile {
    /// The last slot that it covers.
    pub slot: Slot,
    /// Its length in bytes.
    pub size: u64,
}

/// Bounds of the transfers of one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TransferLimits {
    /// Bytes on their way to all peers together, at most.
    pub(crate) window_max: u64,
    /// Bytes of the largest snapshot that is taken from a peer.
    pub(crate) size_max: u64,
}

/// The snapshot that is being made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making {
    pub(crate) slot: Slot,
    pub(crate) offset: u64,
    /// Chunks handed to the driver and not yet written.
    pub(crate) writing: u64,
    /// All chunks were handed over.
    pub(crate) complete: bool,
    /// Given up; it ends once nothing of it is being written.
    pub(crate) failed: bool,
}

impl Making {
    /// Whether another chunk may be handed to the driver.
    pub(crate) fn has_room(&self) -> bool {
        !self.complete && !self.failed && self.writing < MAKING_MAX
    }
}

/// A snapshot on its way from a peer.
pub(crate) struct Receiving {
    pub(crate) from: ReplicaId,
    pub(crate) slot: Slot,
    pub(crate) size: u64,
    pub(crate) offset: u64,
    pub(crate) reader: crate::snapshot::SnapshotReader,
    /// Chunks handed to the driver and not yet written.
    pub(crate) writing: u64,
    /// What has arrived is not acknowledged, because the disk does not keep up.
    pub(crate) owes_ack: bool,
    /// When it last grew.
    pub(crate) grown: Instant,
}

impl Receiving {
    /// Whether no more chunks are taken in.
    pub(crate) fn is_full(&self) -> bool {
        self.writing >= 2 * BACKLOG_MAX
    }

    /// Whether the disk keeps up with what arrives.
    pub(crate) fn keeps_up(&self) -> bool {
        self.writing <= BACKLOG_MAX
    }

    /// Whether another peer's snapshot is welcome instead.
    pub(crate) fn yields(&self, now: Instant) -> bool {
        now.since(self.grown) >= YIELDS_AFTER
    }
}
