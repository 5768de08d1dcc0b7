//! What a batch touches: the keys it reads and writes, and the sessions it changes.
//!
//! Invariants:
//! * Every replica makes the same footprint of the same batch: keys are hashed with a fixed function of their bytes. Two
//!   keys with the same hash count as one, on all replicas alike.
//! * `touched` is sorted by hash, each hash once; a hash that is written and read counts as written.
//! * What cannot be understood touches everything.
//! * Refilled storage is reused: after warm-up a footprint allocates nothing.

use panch_wire::batch::BatchView;
use panch_wire::command::{Command, CommandKind};
use panch_wire::frame::Frame;
use panch_wire::rule::{Rule, holds};

const KEY: u64 = 0x9e37_79b9_7f4a_7c15;
const SESSION: u64 = 0xa076_1d64_78bd_642f;
const SESSION_TABLE: u64 = 0xe703_7ed1_a0b4_28db;
const MIX: u64 = 0x8ebc_6af0_9c88_c6e3;

/// In the lowest bit of a touched hash: it is written.
const WRITTEN: u64 = 1;

/// Both halves of the 128-bit product, xored.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("the caller has eight bytes"))
}

/// Hash of `bytes`; `domain` separates keys from sessions. Must be the same on every machine and in every version.
#[inline]
fn hash(domain: u64, bytes: &[u8]) -> u64 {
    let mut state = fold(domain ^ MIX, bytes.len() as u64 ^ KEY);
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        state = fold(word(block) ^ state, word(&block[8..]) ^ SESSION);
    }
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    state = fold(word(&last) ^ state, word(&last[8..]) ^ SESSION);
    fold(state ^ SESSION_TABLE, MIX)
}

/// What a batch touches; two batches whose footprints interfere are executed in the same order everywhere.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Footprint {
    /// Hashes in their upper 63 bits, in the lowest whether written.
    touched: Vec<u64>,
    /// One bit for each touched hash: footprints without a common bit share nothing.
    signature: u64,
    barrier: bool,
}

impl Footprint {
    /// Touches everything.
    pub fn barrier() -> Self {
        Self { touched: Vec::new(), signature: 0, barrier: true }
    }

    /// Touches these keys; true: it writes the key.
    pub fn of_keys(keys: &[(&[u8], bool)]) -> Self {
        let mut footprint = Self::default();
        for (key, is_written) in keys {
            footprint.touch(hash(KEY, key), *is_written);
        }
        footprint.finish();
        footprint
    }

    /// What the batch in `frame` touches.
    pub fn of(frame: &Frame) -> Self {
        let mut footprint = Self::default();
        footprint.fill(frame);
        footprint
    }

    /// Becomes the footprint of the batch in `frame`, reusing the storage.
    pub fn fill(&mut self, frame: &Frame) {
        self.touched.clear();
        self.barrier = false;
        match BatchView::access(frame) {
            Ok(batch) => batch.commands().for_each(|command| self.add(&command)),
            Err(_) => self.barrier = true,
        }
        self.finish();
    }

    /// Whether it touches everything.
    pub fn is_barrier(&self) -> bool {
        self.barrier
    }

    /// Whether batches with these footprints must be executed in the same order on all replicas: they share a key or a
    /// session that at least one of them writes, or one of them touches everything.
    pub fn interferes(&self, other: &Footprint) -> bool {
        if self.barrier || other.barrier {
            return true;
        }
        if self.signature & other.signature == 0 {
            return false;
        }
        let (mut mine, mut theirs) = (self.touched.iter().peekable(), other.touched.iter().peekable());
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            if **a | WRITTEN == **b | WRITTEN {
                if (**a | **b) & WRITTEN != 0 {
                    return true;
                }
                mine.next();
                theirs.next();
            } else if a < b {
                mine.next();
            } else {
                theirs.next();
            }
        }
        false
    }

    /// The touched hashes, never 0, and whether each is written. A barrier lists none.
    pub(crate) fn touched(&self) -> impl ExactSizeIterator<Item = (u64, bool)> {
        self.touched.iter().map(|hash| (hash | WRITTEN, hash & WRITTEN != 0))
    }

    fn touch(&mut self, hash: u64, is_written: bool) {
        self.touched.push(hash & !WRITTEN | u64::from(is_written));
    }

    fn add(&mut self, command: &Command<'_>) {
        let is_write = !command.kind.is_read();
        match command.kind {
            // The number of open sessions decides whether another may be opened.
            CommandKind::OpenSession | CommandKind::CloseSession => {
                self.touch(hash(SESSION_TABLE, &[]), true);
            }
            CommandKind::ExpireSessions => self.barrier = true,
            _ => command.keys().for_each(|(key, is_written)| self.touch(hash(KEY, key), is_written)),
        }
        // Writes of one session are executed in the same order everywhere, whatever keys they touch: what is remembered
        // and what is dropped as acknowledged depends on it. [protocols 7.3, T-E18]
        if let Some(header) = command.session
            && is_write
            && holds(Rule::EpaxosSessionIsAKey)
        {
            self.touch(hash(SESSION, &header.session.to_le_bytes()), true);
        }
    }

    fn finish(&mut self) {
        if self.barrier {
            self.touched.clear();
        }
        self.touched.sort_unstable();
        // Of equal hashes the written one comes last: it must not be lost.
        self.touched.dedup_by(|next, kept| {
            let is_same = *next | WRITTEN == *kept | WRITTEN;
            *kept |= *next & u64::from(is_same);
            is_same
        });
        self.signature = self.touched.iter().fold(0, |bits, hash| bits | 1 << (hash >> 58));
    }
}
