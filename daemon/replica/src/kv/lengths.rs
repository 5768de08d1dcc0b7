//! How long the values of a table are, by powers of two: what an answer may take is foreseen with it.

/// Counts of values by the number of bits of their length.
#[derive(Clone, Debug, Default)]
pub(super) struct Lengths {
    counts: [u32; Self::CLASSES],
    /// Of the classes that are not empty.
    present: u64,
}

impl Lengths {
    /// Of lengths below 2^31: values are shorter.
    const CLASSES: usize = 32;

    fn class(length: usize) -> usize {
        (usize::BITS - length.leading_zeros()) as usize
    }

    /// A value of that length is there.
    #[inline]
    pub(super) fn add(&mut self, length: usize) {
        let class = Self::class(length);
        self.counts[class] += 1;
        self.present |= 1 << class;
    }

    /// One is gone.
    #[inline]
    pub(super) fn remove(&mut self, length: usize) {
        let class = Self::class(length);
        assert!(self.counts[class] > 0, "only what was added is removed");
        self.counts[class] -= 1;
        if self.counts[class] == 0 {
            self.present &= !(1 << class);
        }
    }

    /// One has another length now.
    #[inline]
    pub(super) fn replace(&mut self, before: usize, after: usize) {
        if Self::class(before) != Self::class(after) {
            self.remove(before);
            self.add(after);
        }
    }

    /// No value is longer: at most twice the length of the longest.
    #[inline]
    pub(super) fn bound(&self) -> usize {
        (1 << self.present.checked_ilog2().unwrap_or(0)) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_follows_the_longest_value_up_and_down() {
        let mut lengths = Lengths::default();
        let mut there: Vec<usize> = Vec::new();
        for length in [0, 5, 1, 1 << 20, 4096, 4095, (1 << 31) - 1] {
            lengths.add(length);
            there.push(length);
            let longest = there.iter().copied().max().unwrap();
            assert!((longest..=2 * longest).contains(&lengths.bound()), "{longest}: {}", lengths.bound());
        }
        lengths.replace(5, 7);
        lengths.replace(7, 5);
        lengths.replace(1 << 20, 3);
        lengths.replace(3, 1 << 20);
        while let Some(length) = there.pop() {
            lengths.remove(length);
            let longest = there.iter().copied().max().unwrap_or(0);
            assert!((longest..=2 * longest).contains(&lengths.bound()), "{longest}: {}", lengths.bound());
        }
    }
}
