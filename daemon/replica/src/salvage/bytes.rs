//! Remnants as bytes in a file of salvaged state: a header of numbers, little-endian, and behind it the batch.

use panch_consensus::ballot::Ballot;
use panch_consensus::epaxos::Dependencies;
use panch_consensus::remnant::{Remnant, Standing};
use panch_wire::frame::Frame;
use panch_wire::ids::{Position, REPLICAS_MAX};

/// Numbers in a header.
const WORD_COUNT: usize = 8 + REPLICAS_MAX;
/// Bytes of a header.
pub const HEADER_SIZE: usize = 8 * WORD_COUNT;

const KNOWN: u64 = 0;
const ACCEPTED: u64 = 1;
const ACCEPTED_CLASSIC: u64 = 2;
const CHOSEN: u64 = 3;

/// Appends a remnant with its batch; none: a no-op.
pub fn push(into: &mut Vec<u8>, remnant: &Remnant, body: Option<&Frame>) {
    let Remnant { position, standing, stamp, deps, checksum } = remnant;
    let (standing, ballot) = match standing {
        Standing::Known => (KNOWN, Ballot::default()),
        Standing::Accepted { ballot, is_classic: false } => (ACCEPTED, *ballot),
        Standing::Accepted { ballot, is_classic: true } => (ACCEPTED_CLASSIC, *ballot),
        Standing::Chosen => (CHOSEN, Ballot::default()),
    };
    let body = body.map_or(&[][..], Frame::bytes);
    let words = [
        u64::from(position.row),
        position.number,
        standing,
        ballot.round,
        u64::from(ballot.owner),
        *stamp,
        *checksum,
        body.len() as u64,
    ];
    for word in words.iter().chain(&deps.0) {
        into.extend_from_slice(&word.to_le_bytes());
    }
    into.extend_from_slice(body);
}

/// What a header says, and how many bytes of a batch follow it; `None` if it is damaged.
pub fn parse(header: &[u8; HEADER_SIZE]) -> Option<(Remnant, u64)> {
    let mut words = [0; WORD_COUNT];
    for (word, bytes) in words.iter_mut().zip(header.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    let [row, number, standing, round, owner, stamp, checksum, size, deps @ ..] = words;
    let ballot = Ballot { round, owner: u8::try_from(owner).ok()? };
    let standing = match standing {
        KNOWN => Standing::Known,
        ACCEPTED => Standing::Accepted { ballot, is_classic: false },
        ACCEPTED_CLASSIC => Standing::Accepted { ballot, is_classic: true },
        CHOSEN => Standing::Chosen,
        _ => return None,
    };
    let row = u8::try_from(row).ok().filter(|row| usize::from(*row) < REPLICAS_MAX)?;
    let position = Position { row, number };
    Some((Remnant { position, standing, stamp, deps: Dependencies(deps), checksum }, size))
}
