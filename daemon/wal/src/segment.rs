//! Segments: the files of a log, numbered from 1 without gaps in the order in which they are filled.
//!
//! ```text
//!  wanted --segment_ready--> ready --current has no room--> current --the next is current--> retained
//!    ^                                                                                          |
//!    |        a newer segment that begins with a restatement is durable, and all floors passed  v
//!    +--- released <---- a commit group that names a later oldest segment is durable ------ not needed
//!         (renamed; the surplus is deleted)
//! ```
//! * Release is in order of the sequence, so the log is always one run of consecutive segments.
//! * A file that is renamed keeps its old bytes: they name the old sequence and so are never taken for new ones.

use std::fmt;

/// Number of a segment within its log, from 1. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct SegmentSequence(pub u64);

const EXTENSION: &str = ".wal";

impl SegmentSequence {
    /// The number after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Name of the segment's file within the log's directory. Names sort like numbers.
    pub fn file_name(self) -> String {
        self.to_string()
    }

    /// The segment whose file is called `name`; `None` if it is not a segment's name.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(EXTENSION)?;
        let sequence = Self(u64::from_str_radix(digits, 16).ok()?);
        (sequence.0 > 0 && sequence.file_name() == name).then_some(sequence)
    }
}

impl fmt::Display for SegmentSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{EXTENSION}", self.0)
    }
}

/// A segment that the driver shall prepare. It answers with `segment_ready` or `segment_failed`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Preparation {
    /// The segment to be.
    pub sequence: SegmentSequence,
    /// The segment whose file shall be renamed; its bytes stay as they are. `None`: create a file of
    /// [`crate::Config::segment_size`] bytes and write zeros to all of it, so that later writes change no metadata. In
    /// both cases the directory is synced before the answer, and then the segment is noted in the
    /// [`crate::Inventory`].
    pub recycle: Option<SegmentSequence>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_segments_are_read_as_names() {
        let sequence = SegmentSequence(0xab);
        assert_eq!(sequence.file_name(), "00000000000000ab.wal");
        assert_eq!(SegmentSequence::from_file_name("00000000000000ab.wal"), Some(sequence));
        for name in
            ["ab.wal", "00000000000000AB.wal", "00000000000000ab", "0000000000000000.wal", "é.wal", ""]
        {
            assert_eq!(SegmentSequence::from_file_name(name), None, "{name}");
        }
    }
}
