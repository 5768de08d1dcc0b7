//! From the hash of a key to the place of its entry.
//!
//! 64 parts that grow one by one, so that no single insert moves more than a 64th of the index; and every slot keeps its
//! hash, so that growing reads no entry and a probe reads an entry only if 32 bits agree.

use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};

const PART_BITS: u32 = 6;
const PART_COUNT: usize = 1 << PART_BITS;

#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    entry: u32,
}

/// The hash index. Its layout depends on the seed; nothing that the state machine answers does.
pub(super) struct Index {
    parts: Box<[HashTable<Slot>; PART_COUNT]>,
    hasher: foldhash::fast::FixedState,
}

/// hashbrown takes the position from the low bits and the tag from the top seven; the part took our top six.
#[inline]
fn spread(hash: u32) -> u64 {
    let hash = u64::from(hash);
    hash | hash << 38
}

impl Index {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            parts: Box::new(std::array::from_fn(|_| HashTable::new())),
            hasher: foldhash::fast::FixedState::with_seed(seed),
        }
    }

    /// Hash of `key` for the other methods.
    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        (hasher.finish() >> 32) as u32
    }

    #[inline]
    fn part(&self, hash: u32) -> &HashTable<Slot> {
        &self.parts[(hash >> (32 - PART_BITS)) as usize]
    }

    #[inline]
    fn part_mut(&mut self, hash: u32) -> &mut HashTable<Slot> {
        &mut self.parts[(hash >> (32 - PART_BITS)) as usize]
    }

    /// The entry with this hash for which `is_wanted` holds.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let found = self.part(hash).find(spread(hash), |slot| slot.hash == hash && is_wanted(slot.entry));
        found.map(|slot| slot.entry)
    }

    /// The entry that a lookup of this hash looks at first. Looks at no entry itself, and is often right.
    #[inline]
    pub(super) fn candidate(&self, hash: u32) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// Adds an entry that is not there yet.
    #[inline]
    pub(super) fn insert(&mut self, hash: u32, entry: u32) {
        self.part_mut(hash).insert_unique(spread(hash), Slot { hash, entry }, |slot| spread(slot.hash));
    }

    /// Removes the entry with this hash for which `is_wanted` holds.
    #[inline]
    pub(super) fn remove(&mut self, hash: u32, mut is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let wanted = |slot: &Slot| slot.hash == hash && is_wanted(slot.entry);
        let found = self.part_mut(hash).find_entry(spread(hash), wanted).ok()?;
        Some(found.remove().0.entry)
    }

    /// Bytes allocated.
    pub(super) fn size_bytes(&self) -> usize {
        size_of_val(&*self.parts) + self.parts.iter().map(HashTable::allocation_size).sum::<usize>()
    }
}
