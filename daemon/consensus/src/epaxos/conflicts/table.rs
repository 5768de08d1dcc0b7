//! One part of the table of keys: records of one size in open addressing, without gaps where a key was pushed aside.

const PART_CAPACITY_MIN: usize = 16;

/// Records side by side: the key's hash (0: free), per row the last instance that wrote the key, per row the last one that
/// touched it. With three replicas a record is smaller than a cache line.
#[derive(Clone, Default)]
pub(super) struct Part {
    pub(super) words: Vec<u64>,
    /// Places for records; a power of two, or 0.
    pub(super) capacity: usize,
    /// Keys.
    pub(super) count: usize,
}

/// Where the numbers begin: behind the hash.
pub(super) const NUMBERS: usize = 1;

impl Part {
    /// Where the key lies, or the free place where it would.
    #[inline]
    fn find(&self, key: u64, width: usize) -> Option<usize> {
        let mut place = key as usize >> 1 & (self.capacity.checked_sub(1)?);
        loop {
            let found = self.words[place * width];
            if found == key || found == 0 {
                return Some(place);
            }
            place = (place + 1) & (self.capacity - 1);
        }
    }

    /// The key's record.
    #[inline]
    pub(super) fn get(&self, key: u64, width: usize) -> Option<&[u64]> {
        let at = self.find(key, width)? * width;
        (self.words[at] == key).then(|| &self.words[at..at + width])
    }

    /// The key's record, which is new if there was none.
    #[inline]
    pub(super) fn get_or_insert(&mut self, key: u64, width: usize) -> &mut [u64] {
        let place = match self.find(key, width) {
            Some(place) if self.words[place * width] == key => place,
            found => {
                let place = match found {
                    Some(place) if self.count * 4 < self.capacity * 3 => place,
                    _ => {
                        self.grow(width);
                        self.find(key, width).expect("a resized table has room")
                    }
                };
                self.words[place * width] = key;
                self.count += 1;
                place
            }
        };
        &mut self.words[place * width..][..width]
    }

    fn grow(&mut self, width: usize) {
        self.resize((self.capacity * 2).max(PART_CAPACITY_MIN), width);
    }

    /// Gives up half of the places if hardly any are taken.
    pub(super) fn shrink(&mut self, width: usize) {
        if self.capacity > PART_CAPACITY_MIN && self.count * 8 < self.capacity {
            self.resize(self.capacity / 2, width);
        }
    }

    fn resize(&mut self, capacity: usize, width: usize) {
        let words = std::mem::replace(&mut self.words, vec![0; capacity * width]);
        self.capacity = capacity;
        for record in words.chunks_exact(width).filter(|record| record[0] != 0) {
            let place = self.find(record[0], width).expect("a resized table has room");
            self.words[place * width..][..width].copy_from_slice(record);
        }
    }

    /// Frees the place; records behind it that were pushed aside move up.
    pub(super) fn remove(&mut self, place: usize, width: usize) {
        let mask = self.capacity - 1;
        let (mut free, mut next) = (place, (place + 1) & mask);
        while self.words[next * width] != 0 {
            let wanted = self.words[next * width] as usize >> 1 & mask;
            if next.wrapping_sub(wanted) & mask >= next.wrapping_sub(free) & mask {
                self.words.copy_within(next * width..(next + 1) * width, free * width);
                free = next;
            }
            next = (next + 1) & mask;
        }
        self.words[free * width..][..width].fill(0);
        self.count -= 1;
    }
}
