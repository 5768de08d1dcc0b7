//! Snapshots on their way: made from the running state machine, sent to a peer, received from one.
//!
//! Invariants:
//! * The log below a snapshot is given up only once the snapshot's file is durable (protocols D9).
//! * A received snapshot replaces the state machine only when it is complete, verified and durable.
//! * One snapshot is made, and one received, at a time; a snapshot that a peer is reading is not removed.
//! * Everything moves in chunks of [`CHUNK_SIZE`] with at most [`WINDOW`] unacknowledged, so a slow disk or peer slows
//!   the transfer and nothing else.

use panch_wire::ids::{REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::time::{Duration, Instant};
use rkyv::{Archive, Deserialize, Serialize};

/// Bytes of one chunk.
pub const CHUNK_SIZE: usize = 64 << 10;
/// Chunks in flight.
const WINDOW: u64 = 4;
/// Lost chunks are sent again at most this often.
const REWIND_EVERY: Duration = Duration::from_millis(200);
/// A peer that acknowledges nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

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
        !self.complete && !self.failed && self.writing < WINDOW
    }
}

/// A snapshot on its way to a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    pub(crate) file: SnapshotFile,
    pub(crate) requested: u64,
    pub(crate) acked: u64,
    heard: Instant,
    rewound: Instant,
}

impl Sending {
    /// When chunks that are on their way count as lost.
    fn resends_at(&self) -> Option<Instant> {
        (self.requested > self.acked).then(|| self.heard.max(self.rewound) + REWIND_EVERY)
    }
}

/// All snapshots on their way to peers.
#[derive(Debug, Default)]
pub(crate) struct Sendings([Option<Sending>; REPLICAS_MAX]);

impl Sendings {
    /// Starts to send `file` to `peer`, unless it is already on its way.
    pub(crate) fn start(&mut self, now: Instant, peer: ReplicaId, file: SnapshotFile) {
        self.0[peer.index()].get_or_insert(Sending {
            file,
            requested: 0,
            acked: 0,
            heard: now,
            rewound: now,
        });
    }

    /// What was asked for and brought no word from the peer for a while goes out again, from the last place acknowledged.
    pub(crate) fn resend_lost(&mut self, now: Instant) {
        for sending in self.0.iter_mut().flatten() {
            if sending.resends_at().is_some_and(|at| at <= now) {
                sending.rewound = now;
                sending.requested = sending.acked;
            }
        }
    }

    /// The next chunk to read from the file: peer, file, offset, length.
    pub(crate) fn next_chunk(&mut self) -> Option<(ReplicaId, SnapshotFile, u64, usize)> {
        for (index, sending) in self.0.iter_mut().enumerate() {
            let Some(sending) = sending else { continue };
            let window_end = sending.acked + WINDOW * CHUNK_SIZE as u64;
            if sending.requested < sending.file.size.min(window_end) {
                let offset = sending.requested;
                let length = (sending.file.size - offset).min(CHUNK_SIZE as u64);
                sending.requested += length;
                return Some((ReplicaId(index as u8), sending.file, offset, length as usize));
            }
        }
        None
    }

    /// The peer has everything below `offset`; true when that is the whole snapshot.
    pub(crate) fn acked(&mut self, now: Instant, peer: ReplicaId, slot: Slot, offset: u64) -> bool {
        let Some(sending) = &mut self.0[peer.index()] else { return false };
        if sending.file.slot != slot || offset > sending.file.size {
            return false;
        }
        if offset <= sending.acked {
            // It repeats an older place: what followed was lost. Once per loss, since every later chunk repeats it too.
            if now.since(sending.rewound) >= REWIND_EVERY {
                sending.rewound = now;
                sending.requested = sending.acked;
            }
        } else {
            sending.acked = offset;
            sending.requested = sending.requested.max(offset);
        }
        sending.heard = now;
        let done = offset == sending.file.size;
        if done {
            self.0[peer.index()] = None;
        }
        done
    }

    /// Whether this snapshot is on its way to `peer`.
    pub(crate) fn is_sending(&self, peer: ReplicaId, slot: Slot) -> bool {
        self.0[peer.index()].is_some_and(|sending| sending.file.slot == slot)
    }

    /// Forgets the transfer to `peer`; true if there was one.
    pub(crate) fn stop(&mut self, peer: ReplicaId) -> bool {
        self.0[peer.index()].take().is_some()
    }

    /// A peer that has not acknowledged for too long; its transfer is forgotten.
    pub(crate) fn next_overdue(&mut self, now: Instant) -> Option<ReplicaId> {
        let late = |sending: &Option<Sending>| sending.is_some_and(|it| now.since(it.heard) > PATIENCE);
        let index = self.0.iter().position(late)?;
        self.0[index] = None;
        Some(ReplicaId(index as u8))
    }

    /// Whether any peer still reads the file of `slot`.
    pub(crate) fn uses(&self, slot: Slot) -> bool {
        self.0.iter().flatten().any(|sending| sending.file.slot == slot)
    }

    /// When [`Sendings::resend_lost`] or [`Sendings::next_overdue`] may have something.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let overdue = |sending: &Sending| sending.heard + PATIENCE + Duration::from_millis(1);
        let next = |sending: &Sending| sending.resends_at().into_iter().chain([overdue(sending)]).min();
        self.0.iter().flatten().filter_map(next).min()
    }
}

/// A snapshot on its way from a peer.
pub(crate) struct Receiving {
    pub(crate) from: ReplicaId,
    pub(crate) slot: Slot,
    pub(crate) size: u64,
    pub(crate) offset: u64,
    pub(crate) reader: crate::snapshot::SnapshotReader,
}
