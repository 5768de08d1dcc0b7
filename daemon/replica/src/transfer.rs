//! Snapshots on their way: made from the running state machine, sent to a peer, received from one.
//!
//! Invariants:
//! * The log below a snapshot is given up only once the snapshot's file is durable (protocols D9).
//! * A received snapshot replaces the state machine only when it is complete, verified and durable.
//! * One snapshot is made, and one received, at a time; a snapshot that a peer is reading is not removed.
//! * None is made while the driver holds a chunk of one from a peer that had the same file ([`Writes`]): its completion would be taken for
//!   one of the new.
//! * Everything moves in chunks of at most [`CHUNK_SIZE`]. What may be on its way to a peer follows what its link carries in a
//!   round trip (`window`), and is a share of the frame memory at most.
//! * A receiver acknowledges no more than its disk keeps up with, so a slow disk or peer slows the transfer and nothing else.
//! * While a snapshot is on its way, and for a while after, its sender keeps the log above it (`sending`): that is what the peer
//!   needs next.
//! * A peer that makes no progress, or says nothing, is given up after a while, and one that receives from another peer that
//!   does make progress says so. Progress that would take long for what is left counts as none, the longer the more often
//!   another peer was preferred: so two slow peers do not take turns.
//! * A peer's numbers are checked before anything follows from them: a snapshot that this node cannot hold, or that is longer
//!   than announced, is refused.
//! * A peer that refuses has no effect on the transfers to others, and none on what the log keeps for them ([`Reason`]). It is left alone for
//!   a while, the longer the more often it has refused, and then gets what is the newest by then.

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
/// How fast a snapshot grows is judged after this long.
const JUDGED_AFTER: Duration = Duration::from_secs(10);
/// So much time may what is left of a snapshot take that grows, before another peer's is taken in its place; twice as much after each time.
pub(crate) const LEFT_MAX: Duration = Duration::from_secs(30);
/// What has arrived of a snapshot that has not grown for this long is dropped: its sender is gone.
const DROPPED_AFTER: Duration = Duration::from_secs(60);

/// What replicas say to each other about snapshots. Chunks carry their bytes as a frame with one command, so that
/// every body on the wire has one format, one checksum and one validator.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferMessage {
    /// See [`Chunk`].
    Chunk(Chunk),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Refuse`].
    Refuse(Refuse),
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

/// A snapshot that is not taken, or not now.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refuse {
    /// The last slot that the snapshot covers.
    pub slot: u64,
    /// Why.
    pub reason: Reason,
}

/// Why a snapshot is not taken. Only the first says anything about its file.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Reason {
    /// What has arrived is not what was announced.
    Damaged = 0,
    /// It lacks what the receiver has executed and could not execute again.
    Behind = 1,
    /// The receiver cannot write it down, or not hold it.
    NoRoom = 2,
    /// Something else goes first.
    Busy = 3,
    /// The receiver has not got what comes before, because it was restarted or has dropped it.
    Unknown = 4,
}

impl Reason {
    /// How long a peer that says so again and again is left alone, at most; `None`: as long as at first each time, because it waits for
    /// nothing but another transfer or the beginning of one. One that is behind executes for a few seconds at most before it rests: what it
    /// is sent must be newer than that.
    pub(crate) fn quiet_max(self) -> Option<Duration> {
        match self {
            Self::Damaged | Self::NoRoom => Some(Duration::from_secs(60)),
            Self::Behind => Some(Duration::from_secs(4)),
            Self::Busy | Self::Unknown => None,
        }
    }
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
    /// All chunks were handed over.
    pub(crate) complete: bool,
    /// Given up; it ends once nothing of it is being written.
    pub(crate) failed: bool,
}

impl Making {
    /// Whether another chunk may be handed to the driver.
    pub(crate) fn has_room(&self, writes: &Writes) -> bool {
        !self.complete && !self.failed && writes.of(self.slot) < MAKING_MAX
    }
}

/// A snapshot on its way from a peer.
pub(crate) struct Receiving {
    pub(crate) from: ReplicaId,
    pub(crate) slot: Slot,
    pub(crate) size: u64,
    pub(crate) offset: u64,
    pub(crate) reader: crate::snapshot::SnapshotReader,
    /// What has arrived is not acknowledged, because the disk does not keep up.
    pub(crate) owes_ack: bool,
    pub(crate) began: Instant,
    /// When it last grew.
    pub(crate) grown: Instant,
}

impl Receiving {
    /// Whether another peer's snapshot is welcome instead: this one does not grow, or not fast enough to end within `left_max`.
    pub(crate) fn yields(&self, now: Instant, left_max: Duration) -> bool {
        let took = now.since(self.began);
        let left = took.as_nanos() * u128::from(self.size - self.offset) / u128::from(self.offset.max(1));
        now.since(self.grown) >= YIELDS_AFTER || took >= JUDGED_AFTER && left > left_max.as_nanos()
    }

    /// Whether its sender is gone.
    pub(crate) fn is_abandoned(&self, now: Instant) -> bool {
        now.since(self.grown) >= DROPPED_AFTER
    }
}

/// Chunks that the driver holds, by the slot that names their file: of snapshots that are made or received, and of those that were given
/// up meanwhile.
#[derive(Default, Debug)]
pub(crate) struct Writes(Vec<(Slot, u64)>);

impl Writes {
    /// A chunk is handed over.
    pub(crate) fn begin(&mut self, slot: Slot) {
        match self.0.iter_mut().find(|(of, _)| *of == slot) {
            Some((_, count)) => *count += 1,
            None => self.0.push((slot, 1)),
        }
    }

    /// A chunk was written, or could not be.
    pub(crate) fn end(&mut self, slot: Slot) {
        if let Some(index) = self.0.iter().position(|(of, _)| *of == slot) {
            self.0[index].1 -= 1;
            if self.0[index].1 == 0 {
                self.0.swap_remove(index);
            }
        }
    }

    /// How many of that file.
    pub(crate) fn of(&self, slot: Slot) -> u64 {
        self.0.iter().find(|(of, _)| *of == slot).map_or(0, |(_, count)| *count)
    }

    fn all(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// Whether no more chunks are taken in.
    pub(crate) fn is_full(&self) -> bool {
        self.all() >= 2 * BACKLOG_MAX
    }

    /// Whether the disk keeps up with what arrives.
    pub(crate) fn keeps_up(&self) -> bool {
        self.all() <= BACKLOG_MAX
    }
}
