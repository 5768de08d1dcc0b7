//! Turns the stream of records into the bytes of a snapshot, a chunk at a time.

use panch_wire::checksum::checksum;
use panch_wire::ids::{GroupId, Slot};

use super::record::{self, Totals};
use super::{CHECKSUM_SIZE, CHUNK_HEADER_SIZE, HEADER_SIZE, MAGIC, PAYLOAD_SIZE_MAX, VERSION};

/// The smallest payload worth a chunk header and a visit.
const PAYLOAD_SIZE_MIN: usize = 4 << 10;
/// Payload bytes that are worth one look at a place that turns out empty.
const BYTES_PER_VISIT: usize = 16;

/// A snapshot being written.
pub(crate) struct SnapshotWriter {
    group: GroupId,
    slot: Slot,
    totals: Totals,
    /// Records not yet emitted start at `emitted`.
    stream: Vec<u8>,
    emitted: usize,
    ended: bool,
    chunk_count: u32,
}

impl SnapshotWriter {
    pub(crate) fn new(group: GroupId, slot: Slot, totals: Totals) -> Self {
        Self { group, slot, totals, stream: Vec::new(), emitted: 0, ended: false, chunk_count: 0 }
    }

    /// Where records are appended.
    pub(crate) fn stream(&mut self) -> &mut Vec<u8> {
        &mut self.stream
    }

    /// How long the stream should become for a chunk of `size_hint`, and how many places may be looked at for it.
    pub(crate) fn wanted(&self, size_hint: usize) -> (usize, usize) {
        let size = payload_size(size_hint);
        (self.emitted + size, size / BYTES_PER_VISIT)
    }

    /// All records are in the stream: appends the last one.
    pub(crate) fn end(&mut self) {
        if !self.ended {
            record::push_end(&mut self.stream, &self.totals);
            self.ended = true;
        }
    }

    /// Appends at most one chunk, and before the first the header. True when that was the last.
    pub(crate) fn emit(&mut self, out: &mut Vec<u8>, size_hint: usize) -> bool {
        if self.chunk_count == 0 {
            self.emit_header(out);
        }
        let waiting = self.stream.len() - self.emitted;
        let size = waiting.min(payload_size(size_hint));
        if size > 0 {
            self.chunk_count += 1;
            let start = out.len();
            out.extend_from_slice(&[0; CHECKSUM_SIZE]);
            out.extend_from_slice(&(size as u32).to_le_bytes());
            out.extend_from_slice(&self.chunk_count.to_le_bytes());
            out.extend_from_slice(&self.slot.0.to_le_bytes());
            debug_assert_eq!(out.len() - start, CHUNK_HEADER_SIZE);
            out.extend_from_slice(&self.stream[self.emitted..self.emitted + size]);
            let sum = checksum(&out[start + CHECKSUM_SIZE..]);
            out[start..start + CHECKSUM_SIZE].copy_from_slice(&sum.to_le_bytes());
            self.emitted += size;
        }
        let left = waiting - size;
        // Moving the rest to the front pays only when it is short against what it frees.
        if left <= self.emitted {
            self.stream.drain(..self.emitted);
            self.emitted = 0;
        }
        self.ended && left == 0
    }

    fn emit_header(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.group.0.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.slot.0.to_le_bytes());
        let sum = checksum(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
        debug_assert_eq!(out.len() - start, HEADER_SIZE);
    }
}

fn payload_size(size_hint: usize) -> usize {
    size_hint.saturating_sub(HEADER_SIZE + CHUNK_HEADER_SIZE).clamp(PAYLOAD_SIZE_MIN, PAYLOAD_SIZE_MAX)
}
