//! What can go wrong with a log, in words for the operator.

use std::io;

use panch_wire::frame::FrameFault;

use crate::Lsn;
use crate::segment::SegmentSequence;

/// A write or sync of the log failed. Nothing after it can be trusted to reach the disk: the node must stop, and must not
/// try the write again.
#[derive(Debug, thiserror::Error)]
#[error("log write failed: segment {segment}, offset {offset}, lsn {}: {source}", lsn.0)]
pub struct WriteFailed {
    /// The segment written or synced.
    pub segment: SegmentSequence,
    /// Byte offset of the write; 0 for a sync.
    pub offset: u64,
    /// The commit group, or the last one that the sync would have covered.
    pub lsn: Lsn,
    /// What counted before, and was not on stable storage yet, may be gone as well: the kernel may drop what it could not write, and says
    /// so once (protocols D2). A disk without room takes nothing back.
    pub loses_more: bool,
    /// What the operating system said.
    pub source: io::Error,
}

impl WriteFailed {
    /// Whether the disk failed, rather than that it had no room.
    pub fn is_of_disk(&self) -> bool {
        !is_out_of_room(&self.source)
    }
}

/// Whether something could not be written because the disk is full, or what the user may have of it.
pub fn is_out_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why a log was refused. Whatever recovery reported before the error must be dropped.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A body is intact but this program cannot read it.
    #[error("log segment {segment}, offset {offset}, lsn {}: {fault}; start the version that wrote it", lsn.0)]
    Body {
        /// The segment.
        segment: SegmentSequence,
        /// Byte offset of the body.
        offset: u64,
        /// The commit group.
        lsn: Lsn,
        /// What is wrong with the frame.
        fault: FrameFault,
    },
    /// The log is damaged below what was acknowledged.
    #[error(
        "log segment {segment} is damaged at or behind offset {offset} (lsn {} or later){}: this replica may have voted there and can \
         no longer know how. Restore the data directory from an exact copy of its last state, or empty it whole and start the \
         node with --rejoin; do not delete single segments",
        lsn.0, attested(*attested_by)
    )]
    Damaged {
        /// The segment.
        segment: SegmentSequence,
        /// Byte offset where a commit group should be.
        offset: u64,
        /// The least number the missing commit group can have.
        lsn: Lsn,
        /// A later commit group that knew the missing one to be durable, with its segment and offset. `None` if the place
        /// itself tells: the first commit group of a log's oldest segment is always durable.
        attested_by: Option<(SegmentSequence, u64, Lsn)>,
    },
    /// A segment belongs to another log.
    #[error(
        "log segment {segment}, offset {offset} belongs to another log (identity {found:#018x}, expected {expected:#018x}): \
         check that the data directory is this node's"
    )]
    Identity {
        /// The segment.
        segment: SegmentSequence,
        /// Byte offset of the commit group.
        offset: u64,
        /// The identity asked for.
        expected: u64,
        /// The identity found.
        found: u64,
    },
    /// The inventory is damaged.
    #[error(
        "the inventory of the log's segments (the file with the core's name and `.begun`) is damaged: whether segments are \
         missing cannot be told. Restore the data directory from an exact copy of its last state, or empty it whole and \
         start the node with --rejoin"
    )]
    Inventory,
    /// The directory cannot be listed.
    #[error("the log's segments cannot be listed: {0}")]
    List(#[source] io::Error),
    /// The frame pool is too small, or the receiver kept too many bodies.
    #[error(
        "no memory for a body of {size} bytes at log segment {segment}, offset {offset}: raise the frame memory limit"
    )]
    Memory {
        /// The segment.
        segment: SegmentSequence,
        /// Byte offset of the body.
        offset: u64,
        /// Bytes of the body.
        size: usize,
    },
    /// A segment that is part of the log is not there.
    #[error(
        "log segment {missing} is missing: this replica may have voted there and can no longer know how. Restore the data \
         directory from an exact copy of its last state, or empty it whole and start the node with --rejoin"
    )]
    MissingSegment {
        /// A segment that is missing.
        missing: SegmentSequence,
    },
    /// The disk failed.
    #[error("log segment {segment} cannot be read at offset {offset}: {source}")]
    Read {
        /// The segment.
        segment: SegmentSequence,
        /// Byte offset of the read.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// A segment's file was cut off.
    #[error(
        "log segment {segment} has {size} of {expected} bytes: this replica may have voted in what is cut off and can no \
         longer know how. Restore the data directory from an exact copy of its last state, or empty it whole and start the \
         node with --rejoin"
    )]
    ShortSegment {
        /// The segment.
        segment: SegmentSequence,
        /// Bytes of the file.
        size: u64,
        /// Bytes that it was given.
        expected: u64,
    },
    /// Written by a version of the format that this program does not know.
    #[error(
        "log segment {segment}, offset {offset} has format version {found}; this program reads versions {oldest} to {newest}: start \
         the version that wrote it"
    )]
    Version {
        /// The segment.
        segment: SegmentSequence,
        /// Byte offset of the commit group.
        offset: u64,
        /// The version found.
        found: u16,
        /// The oldest version that can be read.
        oldest: u16,
        /// The newest.
        newest: u16,
    },
}

fn attested(by: Option<(SegmentSequence, u64, Lsn)>) -> String {
    match by {
        Some((segment, offset, lsn)) => {
            format!(", but lsn {} at segment {segment}, offset {offset} says it was durable", lsn.0)
        }
        None => String::new(),
    }
}
