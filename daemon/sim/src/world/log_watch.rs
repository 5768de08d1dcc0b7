//! Reads the records out of a log write, so that the invariants can judge by what is on the disk.
//!
//! This knows the layout of a commit group's header pages (see the `format` module of `panch-wal`) on purpose a second
//! time: what the code under test says about its own log is no evidence.

use panch_consensus::protocol::ProtocolKind;
use panch_replica::replica::PROTOCOL_RECORD;
use panch_wire::ids::GroupId;

use crate::inspect::{self, Commitment, Content, Fact};
use crate::invariant::Held;
use crate::invariant::ledger::{Entry, Vote};

const RECORDS_AT: usize = 96;
const RECORD_COUNT_AT: usize = 88;
const HAS_BODY: u8 = 1;
const RESTATED: u8 = 2;

/// One record with what lies beside it.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) group: GroupId,
    pub(crate) fact: Fact,
    pub(crate) entry: Entry,
    /// What the record says to be decided: worth something once it is durable.
    pub(crate) commitment: Option<Box<Commitment>>,
    /// Repeated at the start of a segment.
    pub(crate) restated: bool,
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What a record adds to the ledger, with the value beside it.
pub(crate) fn entry(fact: Fact, beside: Held) -> Entry {
    let votes = fact.votes.map(|voting| {
        let held = match voting.content {
            Content::Beside => beside,
            Content::Named(held) => held,
        };
        (voting.position, Vote { round: voting.round, held, attributes: voting.attributes })
    });
    Entry { promised: fact.promised, joined: fact.joined, votes }
}

/// The records in the header pages of a commit group.
pub(crate) fn records(header: &[u8], kind: impl Fn(GroupId) -> Option<ProtocolKind>) -> Vec<Watched> {
    let mut watched = Vec::new();
    let mut at = RECORDS_AT;
    for _ in 0..u32_at(header, RECORD_COUNT_AT) {
        let group = GroupId(u16::from_le_bytes([header[at], header[at + 1]]));
        let (flags, length) =
            (header[at + 3], usize::from(header[at + 4]) | usize::from(header[at + 5]) << 8);
        let mut bytes_at = at + 8;
        let mut held = Held::Noop;
        let mut packed = 0;
        if flags & HAS_BODY != 0 {
            held = Held::Batch(u64_at(header, bytes_at + 8));
            if u32_at(header, bytes_at) == 0 {
                packed = u32_at(header, bytes_at + 4);
            }
            bytes_at += 16;
        }
        let kind_of_record = header[at + 2];
        let body_at = (bytes_at + length).next_multiple_of(8);
        if packed > 0 {
            assert_eq!(Held::Batch(u64_at(header, body_at)), held, "the body lies behind its record");
        }
        at = body_at + packed.next_multiple_of(8);
        if kind_of_record != PROTOCOL_RECORD.0 {
            continue;
        }
        let kind = kind(group).expect("the log holds records of this node's groups");
        let record = &header[bytes_at..bytes_at + length];
        let fact = inspect::fact(kind, record).expect("the log holds records of the group's protocol");
        watched.push(Watched {
            group,
            fact,
            entry: entry(fact, held),
            commitment: inspect::recorded_commitment(kind, record).map(Box::new),
            restated: flags & RESTATED != 0,
        });
    }
    watched
}
