//! One key with its value: a cache line, with short pairs inside it and longer ones in one heap allocation.
//!
//! Invariants: key and value lie side by side, key first; a pair of at most [`INLINE_SIZE`] bytes is always inline.

use super::digest;

/// Bytes of key and value that need no allocation.
pub(super) const INLINE_SIZE: usize = 61;

const SEED: u64 = 1;

/// A place of the slab. Aligned so that reading a short pair touches one cache line.
#[repr(align(64))]
pub(super) enum Entry {
    /// Unused; the next unused place, see [`super::slab::Slab`].
    Free {
        next: u32,
    },
    Inline {
        key_len: u8,
        value_len: u8,
        bytes: [u8; INLINE_SIZE],
    },
    /// `bytes` may be longer than the pair: the rest is room for growth. `digest` is that of the pair.
    Heap {
        key_len: u16,
        value_len: u32,
        digest: u64,
        bytes: Box<[u8]>,
    },
}

const _: () = assert!(size_of::<Entry>() == 64);

fn digest_of(key_len: usize, pair: &[u8]) -> u64 {
    digest::of_bytes(SEED ^ ((key_len as u64) << 8), pair)
}

impl Entry {
    /// An entry for `key` and the value that `head` and `tail` make together, with `slack` more bytes of room if it
    /// is on the heap.
    fn with_slack(key: &[u8], head: &[u8], tail: &[u8], slack: usize) -> Self {
        let value_len = head.len() + tail.len();
        let size = key.len() + value_len;
        if size <= INLINE_SIZE {
            let mut bytes = [0; INLINE_SIZE];
            bytes[..key.len()].copy_from_slice(key);
            bytes[key.len()..size - tail.len()].copy_from_slice(head);
            bytes[size - tail.len()..size].copy_from_slice(tail);
            return Self::Inline { key_len: key.len() as u8, value_len: value_len as u8, bytes };
        }
        let mut bytes = Vec::with_capacity(size + slack);
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(tail);
        let digest = digest_of(key.len(), &bytes);
        bytes.resize(size + slack, 0);
        Self::Heap {
            key_len: u16::try_from(key.len()).expect("the key's size was checked"),
            value_len: u32::try_from(value_len).expect("the value's size was checked"),
            digest,
            bytes: bytes.into_boxed_slice(),
        }
    }

    /// An entry for `key` and `value`.
    pub(super) fn new(key: &[u8], value: &[u8]) -> Self {
        Self::with_slack(key, value, &[], 0)
    }

    /// Whether no key is here.
    #[inline]
    pub(super) fn is_free(&self) -> bool {
        matches!(self, Self::Free { .. })
    }

    /// Length of the key, and the key and value side by side.
    #[inline]
    fn pair(&self) -> (usize, &[u8]) {
        match self {
            Self::Free { .. } => (0, &[]),
            Self::Inline { key_len, value_len, bytes } => {
                let key_len = usize::from(*key_len);
                (key_len, &bytes[..key_len + usize::from(*value_len)])
            }
            Self::Heap { key_len, value_len, bytes, .. } => {
                let key_len = usize::from(*key_len);
                (key_len, &bytes[..key_len + *value_len as usize])
            }
        }
    }

    /// The key and the value; `None` if free.
    pub(super) fn key_value(&self) -> Option<(&[u8], &[u8])> {
        if self.is_free() {
            return None;
        }
        let (key_len, pair) = self.pair();
        Some(pair.split_at(key_len))
    }

    /// The key.
    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        let (key_len, pair) = self.pair();
        &pair[..key_len]
    }

    /// The value.
    #[inline]
    pub(super) fn value(&self) -> &[u8] {
        let (key_len, pair) = self.pair();
        &pair[key_len..]
    }

    /// What the pair adds to the table's digest; nothing if free.
    #[inline]
    pub(super) fn digest(&self) -> u64 {
        match self {
            Self::Free { .. } => 0,
            Self::Inline { .. } => {
                let (key_len, pair) = self.pair();
                digest_of(key_len, pair)
            }
            Self::Heap { digest, .. } => *digest,
        }
    }

    /// Bytes allocated outside the slab.
    #[inline]
    pub(super) fn heap_size(&self) -> usize {
        match self {
            Self::Heap { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    /// Replaces the value: in place if it fits without wasting more than half of the room.
    pub(super) fn set_value(&mut self, value: &[u8]) {
        match self {
            Self::Inline { key_len, value_len, bytes } => {
                let start = usize::from(*key_len);
                if let Some(room) = bytes.get_mut(start..start + value.len()) {
                    room.copy_from_slice(value);
                    *value_len = value.len() as u8;
                    return;
                }
            }
            Self::Heap { key_len, value_len, digest, bytes } => {
                let start = usize::from(*key_len);
                let size = start + value.len();
                if size > INLINE_SIZE && size <= bytes.len() && bytes.len() - size <= size {
                    bytes[start..size].copy_from_slice(value);
                    *value_len = value.len() as u32;
                    *digest = digest_of(start, &bytes[..size]);
                    return;
                }
            }
            Self::Free { .. } => unreachable!("the index names no free entry"),
        }
        *self = Self::new(self.key(), value);
    }

    /// Appends `tail` to the value. A heap pair grows by half its size, so that many appends copy little.
    pub(super) fn append(&mut self, tail: &[u8]) {
        let (key_length, pair) = self.pair();
        let (used, size) = (pair.len(), pair.len() + tail.len());
        match self {
            Self::Inline { value_len, bytes, .. } if size <= INLINE_SIZE => {
                bytes[used..size].copy_from_slice(tail);
                *value_len += tail.len() as u8;
            }
            Self::Heap { value_len, digest, bytes, .. } if size <= bytes.len() => {
                bytes[used..size].copy_from_slice(tail);
                *value_len += tail.len() as u32;
                *digest = digest_of(key_length, &bytes[..size]);
            }
            Self::Free { .. } => unreachable!("the index names no free entry"),
            _ => *self = Self::with_slack(self.key(), self.value(), tail, size / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_reached_by_any_path_equals_a_fresh_one(
            key in prop::collection::vec(any::<u8>(), 0..80),
            steps in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..150)), 1..12),
        ) {
            let mut entry = Entry::new(&key, b"");
            let mut model = Vec::new();
            for (append, bytes) in steps {
                if append {
                    entry.append(&bytes);
                    model.extend_from_slice(&bytes);
                } else {
                    entry.set_value(&bytes);
                    model.clone_from(&bytes);
                }
                prop_assert_eq!(entry.key_value(), Some((&key[..], &model[..])));
                prop_assert_eq!(entry.digest(), Entry::new(&key, &model).digest());
                prop_assert_eq!(entry.heap_size() == 0, key.len() + model.len() <= INLINE_SIZE);
            }
        }
    }

    #[test]
    fn the_border_between_key_and_value_counts_in_the_digest() {
        assert_ne!(Entry::new(b"ab", b"c").digest(), Entry::new(b"a", b"bc").digest());
    }
}
