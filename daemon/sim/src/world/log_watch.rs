//! Reads the records out of a log write, so that the invariants can judge by what is on the disk.
//!
//! This knows the layout of a commit group's header pages (see the `format` module of `panch-wal`) on purpose a second
//! time: what the code under test says about its own log is no evidence.

use panch_wire::ids::GroupId;
use panch_wire::record::Fixed;

use crate::inspect::{Fact, Inspect};
use crate::invariant::Held;

const RECORDS_AT: usize = 96;
const RECORD_COUNT_AT: usize = 88;
const HAS_BODY: u8 = 1;
const RESTATED: u8 = 2;

/// One record with what lies beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched {
    pub(crate) group: GroupId,
    pub(crate) fact: Fact,
    pub(crate) held: Held,
    /// Repeated at the start of a segment.
    pub(crate) restated: bool,
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

/// The records in the header pages of a commit group.
pub(crate) fn records<P: Inspect>(header: &[u8]) -> Vec<Watched> {
    let mut watched = Vec::new();
    let mut at = RECORDS_AT;
    for _ in 0..u32_at(header, RECORD_COUNT_AT) {
        let group = GroupId(u16::from_le_bytes([header[at], header[at + 1]]));
        let (flags, length) =
            (header[at + 3], usize::from(header[at + 4]) | usize::from(header[at + 5]) << 8);
        let mut bytes_at = at + 8;
        let mut held = Held::Noop;
        if flags & HAS_BODY != 0 {
            let sum = header[bytes_at + 8..bytes_at + 16].try_into().expect("eight bytes");
            held = Held::Batch(u64::from_le_bytes(sum));
            bytes_at += 16;
        }
        let record = P::Record::decode_fixed(&header[bytes_at..bytes_at + length]);
        let record = record.expect("the log holds records of this protocol");
        watched.push(Watched { group, fact: P::fact(&record), held, restated: flags & RESTATED != 0 });
        at = (bytes_at + length).next_multiple_of(8);
    }
    watched
}
