//! How recovery reads: a directory of segments, as a driver shows it.

use std::io;

use crate::segment::SegmentSequence;

/// A segment file as found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentFile {
    /// From the file's name; see [`SegmentSequence::file_name`].
    pub sequence: SegmentSequence,
    /// Bytes of the file.
    pub size: u64,
}

/// Read access to the segments of one log.
pub trait SegmentReader {
    /// Every segment, in any order. Files that are still being created are not among them: a driver creates under another
    /// name, syncs, renames and syncs the directory.
    ///
    /// # Errors
    /// If the directory cannot be read.
    fn segments(&mut self) -> io::Result<Vec<SegmentFile>>;

    /// Fills `into` from `offset` of segment `sequence`. Offset, length and memory are page-aligned, and the range lies
    /// within the size that [`SegmentReader::segments`] told.
    ///
    /// # Errors
    /// If not all bytes could be read.
    fn read(&mut self, sequence: SegmentSequence, offset: u64, into: &mut [u8]) -> io::Result<()>;
}
