//! What an operator may choose about the log, and the bounds between the choices.

use panch_wire::frame::PAGE_SIZE;
use panch_wire::time::Duration;

use crate::format::PACKED_SIZE_MAX;

/// The most buffers one vectored write may have (Linux `IOV_MAX`).
const PARTS_MAX: usize = 1024;

/// When appended records count as durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// Once they are on stable storage.
    #[default]
    Sync,
    /// Once they are written; stable storage follows at most `interval` plus one fdatasync later. A power failure loses
    /// what was acknowledged since.
    Periodic {
        /// Time between two fdatasyncs.
        interval: Duration,
    },
    /// At once; nothing is written. A restarted node has forgotten its votes.
    Memory,
}

/// Sizes, limits and times of one log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Bytes of a segment file; a multiple of the page size.
    pub segment_size: u64,
    /// Bytes of pages in one commit group, above which records go to the next one; a multiple of the page size. Only a
    /// single larger body or a restatement exceeds it.
    pub group_size_max: usize,
    /// Bodies up to this many bytes are packed between the records: padded to pages of its own, a small one would take many times
    /// its bytes. Larger ones are not copied; with the default, the padding of such a one is less than a fourth of its bytes. At
    /// most the default.
    pub packed_size_max: usize,
    /// Writes that may be in flight at once; at least 1. More shorten the wait under load, fewer gather more per write.
    pub writes_in_flight_max: usize,
    /// Segments kept prepared beyond the current one; at least 1.
    pub spares: usize,
    /// Segments that are not part of the log any more and are kept to be used again, so that none has to be made: a snapshot frees
    /// several at once. At least [`Config::spares`] are; the others are given back when the disk has no room
    /// ([`Wal::give_back`](crate::Wal::give_back)).
    pub reuse_max: usize,
    /// Quiet time after which the last commit groups are attested by an empty one.
    pub attest_after: Duration,
    /// Time between attempts to prepare a segment after a failure.
    pub retry_after: Duration,
    /// When records count as durable.
    pub durability: Durability,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_size: 64 << 20,
            group_size_max: 1 << 20,
            packed_size_max: PACKED_SIZE_MAX,
            writes_in_flight_max: 1,
            spares: 1,
            reuse_max: 1,
            attest_after: Duration::from_millis(50),
            retry_after: Duration::from_secs(1),
            durability: Durability::Sync,
        }
    }
}

impl Config {
    /// The largest frame, in padded bytes, that [`crate::Wal::append`] takes. The rest of a segment is for its headers and
    /// for the restatement that opens the segment.
    pub fn body_size_max(&self) -> usize {
        (self.segment_size / 2) as usize / PAGE_SIZE * PAGE_SIZE
    }

    /// Checks the bounds between the fields.
    ///
    /// # Errors
    /// The first bound that does not hold.
    pub fn check(&self) -> Result<(), ConfigFault> {
        let page = PAGE_SIZE as u64;
        if !self.segment_size.is_multiple_of(page) || self.segment_size < 8 * page {
            return Err(ConfigFault::SegmentSize);
        }
        if !self.group_size_max.is_multiple_of(PAGE_SIZE)
            || self.group_size_max < 2 * PAGE_SIZE
            || self.group_size_max as u64 > self.segment_size / 2
            || self.group_size_max / PAGE_SIZE >= PARTS_MAX
        {
            return Err(ConfigFault::GroupSize);
        }
        if self.packed_size_max > PACKED_SIZE_MAX {
            return Err(ConfigFault::PackedSize);
        }
        if self.writes_in_flight_max == 0 {
            return Err(ConfigFault::WritesInFlight);
        }
        if self.spares == 0 {
            return Err(ConfigFault::Spares);
        }
        Ok(())
    }
}

/// Why a [`Config`] cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigFault {
    /// See [`Config::group_size_max`].
    #[error(
        "the commit group size must be a multiple of 4 KiB, from 8 KiB to half a segment, and below 4 MiB"
    )]
    GroupSize,
    /// See [`Config::packed_size_max`].
    #[error("batches of more than 16 KiB cannot be packed")]
    PackedSize,
    /// See [`Config::segment_size`].
    #[error("the segment size must be a multiple of 4 KiB and at least 32 KiB")]
    SegmentSize,
    /// See [`Config::spares`].
    #[error("at least one segment must be kept prepared")]
    Spares,
    /// See [`Config::writes_in_flight_max`].
    #[error("at least one log write must be allowed in flight")]
    WritesInFlight,
}
