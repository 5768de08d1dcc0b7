//! Storage of entries: chunks of fixed size, so that growing copies nothing and entries keep their place.
//!
//! Invariants: places below `used` are either occupied or on the free list; places from `used` on were never given out.

use super::entry::Entry;

const CHUNK_BITS: u32 = 10;
const CHUNK_COUNT: usize = 1 << CHUNK_BITS;
const NONE: u32 = u32::MAX;

/// Entries by number.
pub(super) struct Slab {
    chunks: Vec<Box<[Entry; CHUNK_COUNT]>>,
    used: u32,
    free: u32,
}

impl Slab {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), used: 0, free: NONE }
    }

    /// Places ever given out: all entries have smaller numbers.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// Bytes of all chunks.
    pub(super) fn size_bytes(&self) -> usize {
        self.chunks.len() * size_of::<[Entry; CHUNK_COUNT]>() + self.chunks.capacity() * size_of::<usize>()
    }

    #[inline]
    pub(super) fn entry(&self, index: u32) -> &Entry {
        &self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK_COUNT]
    }

    #[inline]
    pub(super) fn entry_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK_COUNT]
    }

    /// A free place, to be filled by the caller at once.
    pub(super) fn allocate(&mut self) -> u32 {
        let index = self.free;
        if index != NONE {
            let Entry::Free { next } = *self.entry(index) else {
                unreachable!("the free list names free places")
            };
            self.free = next;
            return index;
        }
        let index = self.used;
        assert!(index != NONE, "more than 2^32 entries");
        if index as usize == self.chunks.len() * CHUNK_COUNT {
            let chunk: Vec<Entry> = (0..CHUNK_COUNT).map(|_| Entry::Free { next: NONE }).collect();
            self.chunks.push(chunk.try_into().ok().expect("the vector has the length of a chunk"));
        }
        self.used += 1;
        index
    }

    /// Empties the place `index`.
    pub(super) fn release(&mut self, index: u32) {
        *self.entry_mut(index) = Entry::Free { next: self.free };
        self.free = index;
    }
}
