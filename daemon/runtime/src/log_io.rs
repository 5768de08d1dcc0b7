//! The core's log on the ring: which segment is which file, and what is in flight.

use panch_ring::parts::LogPart;
use panch_ring::ring::{FileId, Ring};
use panch_wal::{Location, SegmentSequence, Sync, Write};
use panch_wire::ids::{GroupId, Position};

use crate::token;

/// Values in numbered places, so that a completion finds its operation.
pub(crate) struct Places<T>(Vec<Option<T>>);

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Places<T> {
    pub(crate) fn add(&mut self, value: T) -> usize {
        let free = self.0.iter().position(Option::is_none).unwrap_or_else(|| {
            self.0.push(None);
            self.0.len() - 1
        });
        self.0[free] = Some(value);
        free
    }

    pub(crate) fn take(&mut self, place: usize) -> Option<T> {
        self.0.get_mut(place)?.take()
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.0.get_mut(place)?.as_mut()
    }

    /// The values, with their places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0.iter().enumerate().filter_map(|(place, value)| Some((place, value.as_ref()?)))
    }

    /// Places, in use or not.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The log's files and operations in flight.
#[derive(Default)]
pub(crate) struct LogIo {
    files: Vec<(SegmentSequence, FileId)>,
    writes: Places<Write>,
    syncs: Places<Sync>,
    loads: Places<(GroupId, Position, Location)>,
    spare_parts: Vec<Vec<LogPart>>,
    pub(crate) write_count: u64,
    pub(crate) write_bytes: u64,
}

impl LogIo {
    /// Segment `sequence` is this file.
    pub(crate) fn open(&mut self, sequence: SegmentSequence, file: FileId) {
        self.files.push((sequence, file));
    }

    /// Segment `sequence` is no longer part of the log.
    pub(crate) fn close(&mut self, sequence: SegmentSequence, ring: &mut Ring) {
        if let Some(at) = self.files.iter().position(|(other, _)| *other == sequence) {
            let (_, file) = self.files.swap_remove(at);
            ring.close_file(file, panch_ring::event::Token(token::IGNORED));
        }
    }

    pub(crate) fn file(&self, sequence: SegmentSequence) -> Option<FileId> {
        self.files.iter().find(|(other, _)| *other == sequence).map(|(_, file)| *file)
    }

    pub(crate) fn write(&mut self, ring: &mut Ring, mut write: Write) {
        let file = self.file(write.segment()).expect("the log writes to segments that were made ready");
        let mut parts = self.spare_parts.pop().unwrap_or_default();
        let header = write.take_header();
        parts.push(LogPart::Pages { count: header.len(), pages: header });
        parts.extend(write.bodies().iter().cloned().map(LogPart::Frame));
        self.write_count += 1;
        self.write_bytes += write.size() as u64;
        let (offset, dsync) = (write.offset(), write.dsync());
        let place = self.writes.add(write);
        ring.write_log(file, offset, parts, dsync, token::log_write(place));
    }

    /// The write at `place` has ended; its memory is given back to it.
    pub(crate) fn written(&mut self, place: usize, mut parts: Vec<LogPart>) -> Write {
        let mut write = self.writes.take(place).expect("a completed write was in flight");
        if let Some(LogPart::Pages { pages, .. }) = parts.drain(..).next() {
            write.return_header(pages);
        }
        parts.clear();
        self.spare_parts.push(parts);
        write
    }

    pub(crate) fn sync(&mut self, ring: &mut Ring, sync: Sync) {
        let file = self.file(sync.segment()).expect("the log syncs segments that it wrote to");
        let place = self.syncs.add(sync);
        ring.sync(file, token::log_sync(place));
    }

    pub(crate) fn synced(&mut self, place: usize) -> Sync {
        self.syncs.take(place).expect("a completed sync was in flight")
    }

    /// Writes and syncs whose end nobody has heard yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.writes.iter().count() + self.syncs.iter().count()
    }

    /// Notes a read; the token to start it with.
    pub(crate) fn begin_load(
        &mut self,
        group: GroupId,
        position: Position,
        location: Location,
    ) -> panch_ring::event::Token {
        token::load(self.loads.add((group, position, location)))
    }

    pub(crate) fn loaded(&mut self, place: usize) -> (GroupId, Position, Location) {
        self.loads.take(place).expect("a completed read was in flight")
    }
}
