//! Bytes to bytes: index, entries, digest, and the hook that lets a snapshot see the past.
//!
//! Invariants: `digest` is the wrapping sum of the digests of all entries, `lengths` counts the values of all; every change of
//! an entry first offers its old content to the running scan.

use super::entry::Entry;
use super::index::Index;
use super::lengths::Lengths;
use super::slab::Slab;
use crate::snapshot::record;
use crate::snapshot::scan::Scan;

/// The most keys that [`Table::foresee`] looks at: what fits the nearest caches until it is used.
pub(super) const FORESEEN_MAX: usize = 32;

/// Bytes of a pair's place and its index entry.
const PAIR_SIZE: usize = size_of::<Entry>() + 12;

/// The key-value table.
pub(super) struct Table {
    index: Index,
    slab: Slab,
    count: usize,
    digest: u64,
    heap_size: usize,
    lengths: Lengths,
    scan: Option<Scan>,
}

/// A key with its hash: hashed once, used for every access of one command.
#[derive(Clone, Copy)]
pub(super) struct Hashed<'a> {
    key: &'a [u8],
    hash: u32,
}

fn save(scan: &mut Option<Scan>, index: u32, entry: &Entry) {
    if let Some(scan) = scan
        && let Some(out) = scan.on_change(index)
        && let Some((key, value)) = entry.key_value()
    {
        record::push_entry(out, key, value);
    }
}

impl Table {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            index: Index::new(seed),
            slab: Slab::new(),
            count: 0,
            digest: 0,
            heap_size: 0,
            lengths: Lengths::default(),
            scan: None,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// No value is longer: at most twice the length of the longest.
    #[inline]
    pub(super) fn value_size_bound(&self) -> usize {
        self.lengths.bound()
    }

    /// Bytes that the pairs take, without memory that is kept for others to come.
    pub(super) fn data_size(&self) -> usize {
        self.count * PAIR_SIZE + self.heap_size
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.slab.size_bytes() + self.index.size_bytes() + self.heap_size
    }

    #[inline]
    pub(super) fn hashed<'a>(&self, key: &'a [u8]) -> Hashed<'a> {
        Hashed { key, hash: self.index.hash(key) }
    }

    /// Place of the entry of this key.
    #[inline]
    pub(super) fn find(&self, key: Hashed<'_>) -> Option<u32> {
        self.index.find(key.hash, |index| self.slab.entry(index).key() == key.key)
    }

    /// Brings what lookups of these keys will read into the processor's caches.
    ///
    /// In a large table each lookup waits for memory twice, at the index and at the entry, and applying a command needs the
    /// first before it can ask for the second. Here no lookup waits for another: the processor fetches for many at once.
    pub(super) fn foresee<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let mut candidates = [0; FORESEEN_MAX];
        let mut count = 0;
        for key in keys.take(FORESEEN_MAX) {
            if let Some(entry) = self.index.candidate(self.index.hash(key)) {
                candidates[count] = entry;
                count += 1;
            }
        }
        for entry in &candidates[..count] {
            std::hint::black_box(self.slab.entry(*entry).is_free());
        }
    }

    /// The value at a place that [`find`](Self::find) gave.
    #[inline]
    pub(super) fn value(&self, index: u32) -> &[u8] {
        self.slab.entry(index).value()
    }

    /// Adds a key that [`find`](Self::find) did not find.
    pub(super) fn insert(&mut self, key: Hashed<'_>, value: &[u8]) {
        let index = self.slab.allocate();
        let place = self.slab.entry_mut(index);
        save(&mut self.scan, index, place);
        *place = Entry::new(key.key, value);
        self.digest = self.digest.wrapping_add(place.digest());
        self.heap_size += place.heap_size();
        self.lengths.add(value.len());
        self.count += 1;
        self.index.insert(key.hash, index);
    }

    fn change(&mut self, index: u32, change: impl FnOnce(&mut Entry)) {
        let entry = self.slab.entry_mut(index);
        save(&mut self.scan, index, entry);
        self.digest = self.digest.wrapping_sub(entry.digest());
        self.heap_size -= entry.heap_size();
        let before = entry.value().len();
        change(entry);
        self.lengths.replace(before, entry.value().len());
        self.digest = self.digest.wrapping_add(entry.digest());
        self.heap_size += entry.heap_size();
    }

    /// Sets the value at a place that [`find`](Self::find) gave.
    #[inline]
    pub(super) fn replace(&mut self, index: u32, value: &[u8]) {
        self.change(index, |entry| entry.set_value(value));
    }

    /// Appends to the value at a place that [`find`](Self::find) gave.
    pub(super) fn append(&mut self, index: u32, tail: &[u8]) {
        self.change(index, |entry| entry.append(tail));
    }

    /// Sets key to value, present or not.
    pub(super) fn set(&mut self, key: Hashed<'_>, value: &[u8]) {
        match self.find(key) {
            Some(index) => self.replace(index, value),
            None => self.insert(key, value),
        }
    }

    /// Removes the key; its value goes to `old` first, if given. False if it was not there.
    pub(super) fn remove(&mut self, key: Hashed<'_>, old: Option<&mut Vec<u8>>) -> bool {
        let slab = &self.slab;
        let Some(index) = self.index.remove(key.hash, |index| slab.entry(index).key() == key.key) else {
            return false;
        };
        let entry = slab.entry(index);
        if let Some(old) = old {
            old.extend_from_slice(entry.value());
        }
        save(&mut self.scan, index, entry);
        self.digest = self.digest.wrapping_sub(entry.digest());
        self.heap_size -= entry.heap_size();
        self.lengths.remove(entry.value().len());
        self.count -= 1;
        self.slab.release(index);
        true
    }

    /// From now on [`scan`](Self::scan) gives the entries that exist at this moment.
    pub(super) fn begin_scan(&mut self) {
        self.scan = Some(Scan::new(self.slab.used()));
    }

    /// Appends records to `out` until it is `size` long or `visit_count` places were looked at. True when all is out.
    pub(super) fn scan(&mut self, out: &mut Vec<u8>, size: usize, visit_count: &mut usize) -> bool {
        let Some(scan) = &mut self.scan else { return true };
        scan.drain_saved(out);
        while out.len() < size && *visit_count > 0 && !scan.is_done() {
            *visit_count -= 1;
            if let Some(index) = scan.advance()
                && let Some((key, value)) = self.slab.entry(index).key_value()
            {
                record::push_entry(out, key, value);
            }
        }
        let done = scan.is_done();
        if done {
            self.scan = None;
        }
        done
    }

    /// Forgets the scan.
    pub(super) fn abort_scan(&mut self) {
        self.scan = None;
    }
}
