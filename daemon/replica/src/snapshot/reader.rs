//! Builds a state machine from the bytes of a snapshot, however they are split.
//!
//! Holds at most one chunk and one record besides the state it builds. No bytes make it panic.

use panch_consensus::frontier::Frontier;
use panch_wire::checksum::checksum;
use panch_wire::ids::{GroupId, Slot};

use super::record::{self, BODY_SIZE_MAX, PREFIX_SIZE, Record, Totals};
use super::{CHECKSUM_SIZE, CHUNK_HEADER_SIZE, HEADER_SIZE, MAGIC, PAYLOAD_SIZE_MAX, VERSION};
use crate::machine::StateMachine;

/// Why bytes are not a usable snapshot. `at` is the offset of the header or chunk in question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The first bytes are not those of a snapshot.
    #[error("not a snapshot")]
    NotASnapshot,
    /// Written in a format that this version does not know.
    #[error("snapshot of unknown version {0}")]
    Version(u16),
    /// Bytes have changed.
    #[error("snapshot is damaged at byte {at}: checksum does not match")]
    Checksum {
        /// Offset of the chunk.
        at: u64,
    },
    /// A chunk is longer than any.
    #[error("snapshot is damaged at byte {at}: impossible length")]
    Length {
        /// Offset of the chunk.
        at: u64,
    },
    /// A chunk is not the one that should follow.
    #[error("snapshot is damaged at byte {at}: chunk out of order")]
    Order {
        /// Offset of the chunk.
        at: u64,
    },
    /// A record means nothing, or contradicts an earlier one.
    #[error("snapshot is damaged at byte {at}: malformed record")]
    Record {
        /// Offset of the chunk with the record's end.
        at: u64,
    },
    /// The bytes end too early.
    #[error("snapshot ends early, at byte {at}")]
    Truncated {
        /// How many bytes there are.
        at: u64,
    },
    /// There are bytes behind the end.
    #[error("snapshot goes on behind its end at byte {at}")]
    Trailing {
        /// Offset of the end.
        at: u64,
    },
    /// Every piece is sound but the whole is not the state that was written.
    #[error("snapshot is not the state it claims to be")]
    Totals,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Header,
    ChunkHeader,
    Chunk { size: usize },
    Complete,
    Failed(SnapshotError),
}

/// What the first bytes say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotHeader {
    /// The group whose state it is.
    pub group: GroupId,
    /// How many positions were executed; in a log the last slot.
    pub slot: Slot,
}

/// A state that was read from a snapshot.
pub struct Restored {
    /// The group whose state it is.
    pub group: GroupId,
    /// What was executed.
    pub covered: Frontier,
    /// The highest stamp executed.
    pub stamp: u64,
    /// The state.
    pub machine: StateMachine,
}

/// A snapshot being read.
pub struct SnapshotReader {
    state: StateMachine,
    stage: Stage,
    /// Offset of the first byte of `pending`.
    at: u64,
    /// The header or chunk that is arriving.
    pending: Vec<u8>,
    /// Checked payload that does not make a whole record yet.
    records: Vec<u8>,
    header: Option<SnapshotHeader>,
    chunk_count: u32,
    covered: Option<(Frontier, u64)>,
}

impl SnapshotReader {
    /// Expects a snapshot, to become a state with this seed. Takes every state that execution can come to, whatever this node's
    /// configuration admits now.
    pub fn new(hash_seed: u64) -> Self {
        Self {
            state: StateMachine::new(hash_seed),
            stage: Stage::Header,
            at: 0,
            pending: Vec::new(),
            records: Vec::new(),
            header: None,
            chunk_count: 0,
            covered: None,
        }
    }

    /// What the snapshot is of, once its header has arrived.
    pub fn header(&self) -> Option<SnapshotHeader> {
        self.header
    }

    /// How many bytes were fed.
    pub fn size(&self) -> u64 {
        self.at + self.pending.len() as u64
    }

    /// Whether the end has arrived and everything fits.
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// Takes the next bytes, split anywhere.
    ///
    /// # Errors
    /// The first fault; once there was one, every further call gives it again.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        while !bytes.is_empty() {
            let wanted = match self.stage {
                Stage::Header => HEADER_SIZE,
                Stage::ChunkHeader => CHUNK_HEADER_SIZE,
                Stage::Chunk { size } => CHUNK_HEADER_SIZE + size,
                Stage::Complete if bytes.iter().all(|byte| *byte == 0) => return Ok(()),
                Stage::Complete => return self.fail(SnapshotError::Trailing { at: self.at }),
                Stage::Failed(error) => return Err(error),
            };
            let (now, later) = bytes.split_at(bytes.len().min(wanted - self.pending.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
            if self.pending.len() == wanted {
                match self.advance() {
                    Ok(stage) => self.stage = stage,
                    Err(error) => return self.fail(error),
                }
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: SnapshotError) -> Result<(), SnapshotError> {
        self.stage = Stage::Failed(error);
        Err(error)
    }

    /// What the snapshot is of, and the state.
    ///
    /// # Errors
    /// If not all has arrived, or what has arrived is not sound.
    pub fn finish(self) -> Result<Restored, SnapshotError> {
        let size = self.size();
        match (self.stage, self.header, self.covered) {
            (Stage::Complete, Some(header), Some((covered, stamp))) => {
                Ok(Restored { group: header.group, covered, stamp, machine: self.state })
            }
            (Stage::Complete, ..) => Err(SnapshotError::Totals),
            (Stage::Failed(error), ..) => Err(error),
            _ => Err(SnapshotError::Truncated { at: size }),
        }
    }

    /// Handles what is complete in `pending`; what is expected after it.
    fn advance(&mut self) -> Result<Stage, SnapshotError> {
        match self.stage {
            Stage::Header => {
                self.take_header()?;
                self.consume();
                Ok(Stage::ChunkHeader)
            }
            Stage::ChunkHeader => {
                let size = u32::from_le_bytes(array(&self.pending, CHECKSUM_SIZE)) as usize;
                if size == 0 || size > PAYLOAD_SIZE_MAX {
                    return Err(SnapshotError::Length { at: self.at });
                }
                Ok(Stage::Chunk { size })
            }
            _ => {
                self.take_chunk()?;
                let complete = self.take_records()?;
                self.consume();
                Ok(if complete { Stage::Complete } else { Stage::ChunkHeader })
            }
        }
    }

    fn consume(&mut self) {
        self.at += self.pending.len() as u64;
        self.pending.clear();
    }

    fn take_header(&mut self) -> Result<(), SnapshotError> {
        let header = &self.pending;
        if header[..8] != MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        if checksum(&header[..24]) != u64::from_le_bytes(array(header, 24)) {
            return Err(SnapshotError::Checksum { at: self.at });
        }
        let version = u16::from_le_bytes(array(header, 8));
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        self.header = Some(SnapshotHeader {
            group: GroupId(u16::from_le_bytes(array(header, 10))),
            slot: Slot(u64::from_le_bytes(array(header, 16))),
        });
        Ok(())
    }

    fn take_chunk(&mut self) -> Result<(), SnapshotError> {
        let chunk = &self.pending;
        let at = self.at;
        if checksum(&chunk[CHECKSUM_SIZE..]) != u64::from_le_bytes(array(chunk, 0)) {
            return Err(SnapshotError::Checksum { at });
        }
        let number = u32::from_le_bytes(array(chunk, 12));
        let slot = Slot(u64::from_le_bytes(array(chunk, 16)));
        if number != self.chunk_count.wrapping_add(1) || Some(slot) != self.header.map(|header| header.slot) {
            return Err(SnapshotError::Order { at });
        }
        self.chunk_count = number;
        self.records.extend_from_slice(&chunk[CHUNK_HEADER_SIZE..]);
        Ok(())
    }

    /// Applies the whole records in `records`; whether the last one was among them.
    fn take_records(&mut self) -> Result<bool, SnapshotError> {
        let fault = SnapshotError::Record { at: self.at };
        let mut taken = 0;
        let mut complete = false;
        while let Some((tag, length)) = record::prefix(&self.records[taken..]) {
            if complete || length > BODY_SIZE_MAX {
                return Err(fault);
            }
            let start = taken + PREFIX_SIZE;
            let Some(body) = self.records.get(start..start + length) else { break };
            taken = start + length;
            let state = &mut self.state;
            let fits = match record::decode(tag, body).ok_or(fault)? {
                Record::Entry { key, value } => state.kv.restore(key, value),
                Record::Session(session) => state.sessions.restore(session),
                Record::Reply { session, number, reply } => {
                    state.sessions.restore_reply(session, number, reply)
                }
                Record::Proposer(id, progress) => state.proposers.restore(id, progress),
                Record::Covered { covered, stamp } => {
                    let fits = self.covered.is_none()
                        && self.header.is_some_and(|header| header.slot == covered.count());
                    self.covered = Some((covered, stamp));
                    fits
                }
                Record::Held(batch) => state.held.insert(batch),
                Record::Generation(generation) => state.sessions.restore_generation(generation),
                Record::End(totals) => {
                    let found = Totals {
                        entry_count: state.kv.len() as u64,
                        session_count: state.sessions.known_count() as u64,
                        digest: state.digest(),
                    };
                    if found != totals {
                        return Err(SnapshotError::Totals);
                    }
                    complete = true;
                    true
                }
            };
            if !fits {
                return Err(fault);
            }
        }
        if complete && taken != self.records.len() {
            return Err(fault);
        }
        self.records.drain(..taken);
        Ok(complete)
    }
}

/// `N` bytes of `bytes` from `at`, which are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the caller has checked the length")
}
