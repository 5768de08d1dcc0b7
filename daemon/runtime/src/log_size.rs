//! How large the log of a core may become: what the core itself keeps to, and what there has to be room and descriptors for.
//!
//! The snapshot of a group is due after so many bytes of its log. A core's log is larger, because its groups share segments, and larger
//! again while it is kept for a node that catches up. Then it may have as many more bytes as the largest snapshot of a group has: how many
//! that is depends on the data, so nothing here counts them, and who names one of these sizes says that they come on top.

use panch_replica::sending::LOG_KEPT_FACTOR;

/// The log of a core may have this many times the bytes that make a snapshot due, and a segment.
const SIZE_FACTOR: u64 = 2;
/// Segments of a core beside those of its log: a spare, one that is being prepared, and those that are begun and released while the log is
/// cut.
const SEGMENTS_BESIDE: u64 = 4;

/// How large the log of one core may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSize {
    /// Bytes of log after which a group takes a snapshot.
    pub snapshot_log_size: u64,
    /// Bytes of a segment.
    pub segment_size: u64,
}

impl LogSize {
    /// With more bytes than this, the group that holds the oldest segment is made to take a snapshot.
    pub fn usual_max(self) -> u64 {
        self.snapshot_log_size.saturating_mul(SIZE_FACTOR).saturating_add(self.segment_size)
    }

    /// With more bytes than this, and those of a snapshot, nothing of it is kept any longer for nodes that catch up.
    pub fn kept_max(self) -> u64 {
        self.usual_max().saturating_mul(LOG_KEPT_FACTOR)
    }

    /// Segments that there may be, each of them an open file.
    pub fn segments_max(self) -> u64 {
        self.kept_max().div_ceil(self.segment_size) + SEGMENTS_BESIDE
    }

    /// Bytes that all of these take on the disk.
    pub fn disk_max(self) -> u64 {
        self.segments_max().saturating_mul(self.segment_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_room_for_a_node_that_catches_up() {
        let size = LogSize { snapshot_log_size: 256, segment_size: 64 };
        assert_eq!((size.usual_max(), size.kept_max()), (2 * 256 + 64, 4 * 256 + 2 * 64));
        assert_eq!((size.segments_max(), size.disk_max()), (4 * 4 + 2 + 4, 22 * 64));
        let uneven = LogSize { snapshot_log_size: 65, segment_size: 64 };
        assert_eq!(uneven.segments_max(), 5 + 2 + 4);
        let huge = LogSize { snapshot_log_size: u64::MAX, segment_size: 64 };
        assert_eq!((huge.kept_max(), huge.disk_max()), (u64::MAX, u64::MAX));
    }
}
