//! The write-ahead log of one core, without I/O of its own.
//!
//! The log tells a driver what to write and is told what was written; recovery reads through [`disk::SegmentReader`].
//! The daemon's io_uring driver and the simulator drive the same code.
//!
//! A driver does, once per turn:
//! ```text
//! wal.append(..)                         while the replicas take their turn
//! while let Some(write) = wal.next_write(now, restate)     write it, keep it until it completes
//! while let Some(sync) = wal.next_sync(now)                fdatasync that segment
//! while let Some(preparation) = wal.wants_segment(now)     rename, or create and zero; note it in the inventory; then
//!                                        `segment_ready`
//! while let Some(sequence) = wal.take_surplus()            delete that file
//! wal.give_back()                        if the disk has no room for something else
//! wal.on_written(write, result)?         for each completion; an error stops the node
//! wal.durable()                          releases the claims up to it
//! wal.deadline()                         is when to come back if nothing else happens
//! ```
//!
//! What holds, and where it is argued:
//! * Nothing counts as durable before everything older is durable ([`writer`]).
//! * A log sequence number is never used twice, not even by writes that a crash cut off ([`mod@recover`]).
//! * Recovery returns everything that was reported durable and nothing that was not appended, or refuses ([`mod@recover`]).
//! * What is written is less than the bytes of the bodies and a fourth of them, 40 bytes for each record and what it says,
//!   and a page for each write ([`Config::packed_size_max`]).
//! * A segment is released only after the newer segment that restates the small state, and a commit group that says the
//!   old one is no longer part of the log, are both on stable storage ([`segment`]).
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

pub mod config;
pub mod disk;
pub mod error;
mod format;
mod group;
pub mod inventory;
mod ledger;
pub mod recover;
mod scan;
pub mod segment;
pub mod small_file;
pub mod writer;

pub use config::{Config, ConfigFault, Durability};
pub use disk::{SegmentFile, SegmentReader};
pub use error::{RecoverError, WriteFailed, is_out_of_room};
pub use format::TOLD_VERSION;
pub use inventory::{INVENTORY_SIZE, Inventory};
pub use recover::{End, Entry, Recovered, recover};
pub use segment::{Preparation, SegmentSequence};
pub use small_file::{SmallDisk, SmallFile, SmallFileFault};
pub use writer::{Appended, Restatement, Sync, Wal, Write};

use panch_wire::batch::BatchView;
use panch_wire::frame::{Frame, FrameMut, PAGE_SIZE, pages_for};

/// Number of a commit group: grows by one per commit group and jumps at each start. 0 means "before everything".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The number after this one.
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

/// What a record means. The log stores it and does not look at it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct RecordKind(pub u8);

/// Where a body lies within its commit group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BodyPlace {
    /// Between the records.
    Packed {
        /// Bytes from the start of the commit group.
        byte: u32,
    },
    /// In pages of its own behind the records.
    Behind {
        /// Pages from the commit group's first such page.
        page: u32,
    },
}

/// Names the body of a record for as long as the log retains it; [`Wal::locate`] turns it into a place on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BodyRef {
    /// The commit group.
    pub lsn: Lsn,
    /// Where in it.
    pub place: BodyPlace,
    /// Bytes of the frame.
    pub length: u32,
}

/// Where the bytes of a frame lie.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Location {
    /// The segment.
    pub segment: SegmentSequence,
    /// Bytes from the segment's start.
    pub offset: u64,
    /// Bytes of the frame.
    pub length: u32,
}

impl Location {
    /// Bytes between the page in which the frame begins and the frame.
    fn lead(&self) -> usize {
        (self.offset % PAGE_SIZE as u64) as usize
    }

    /// Where a read of whole pages that holds the frame begins, in bytes from the segment's start.
    pub fn read_offset(&self) -> u64 {
        self.offset - self.lead() as u64
    }

    /// Bytes of that read.
    pub fn read_size(&self) -> usize {
        pages_for(self.lead() + self.length as usize) * PAGE_SIZE
    }

    /// Turns `memory`, which begins with the first `count` bytes of that read, into the frame. `None` if the read was too short,
    /// or if what lies there is no batch.
    pub fn unpack(&self, mut memory: FrameMut, count: usize) -> Option<Frame> {
        let (lead, length) = (self.lead(), self.length as usize);
        if count < lead + length {
            return None;
        }
        memory.copy_within(lead..lead + length, 0);
        let frame = memory.receive(length).ok()?;
        BatchView::validate(&frame).ok()?;
        Some(frame)
    }
}
