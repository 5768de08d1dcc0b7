//! Randomness of a run: one independent stream per concern, all from one seed, integers only.
//!
//! A stream per concern keeps runs comparable: a client that draws one number more does not change what the network does.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// What a stream is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Concern {
    /// The settings of the run.
    Plan,
    /// When which fault strikes.
    Faults,
    /// Delays and losses of packets.
    Network,
    /// What a client does; one stream per client.
    Client(usize),
    /// Latencies of a node's disk, and what a crash leaves on it.
    Disk(usize),
    /// When a node takes its turns.
    Turns(usize),
    /// What the protocols draw from.
    Protocol(usize),
    /// Which protocols, and the settings that only some of them have.
    Knobs,
    /// Whether nodes lose their disks.
    Wipes,
    /// Whether older copies of disks are restored.
    Copies,
    /// Which nodes stay away at the end.
    Absence,
    /// Limits that nodes do not agree on, and how soon sessions expire.
    Limits,
    /// Operations on several keys, and stale reads.
    Families,
    /// How much links carry.
    Bandwidth,
    /// Which weakness lasts, and whom it concerns.
    Lasting,
    /// Disks without room, reads that fail, and long absences.
    Room,
    /// What nodes are tuned to on their own.
    Tuning,
}

/// One stream.
#[derive(Clone, Debug)]
pub struct Stream(Xoshiro256PlusPlus);

impl Stream {
    /// The stream for `concern` of the run with this seed.
    pub fn new(seed: u64, concern: Concern) -> Self {
        let tag = match concern {
            Concern::Plan => 1,
            Concern::Faults => 2,
            Concern::Network => 3,
            Concern::Knobs => 4,
            Concern::Wipes => 5,
            Concern::Absence => 6,
            Concern::Limits => 7,
            Concern::Families => 8,
            Concern::Copies => 9,
            Concern::Bandwidth => 10,
            Concern::Lasting => 11,
            Concern::Room => 12,
            Concern::Tuning => 13,
            Concern::Client(index) => 0x100 + index as u64,
            Concern::Disk(index) => 0x200 + index as u64,
            Concern::Turns(index) => 0x300 + index as u64,
            Concern::Protocol(index) => 0x400 + index as u64,
        };
        // seed_from_u64 scrambles: neighbouring inputs give unrelated streams.
        Self(Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ tag))
    }

    /// Any number.
    pub fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`, 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of the multiplication is below 2^-32 for every bound used here.
        ((u128::from(self.word()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    ///
    /// # Panics
    /// If `low > high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range");
        low + self.below(high - low + 1)
    }

    /// True with a probability of `parts` in a million.
    pub fn chance(&mut self, parts: u64) -> bool {
        self.below(1_000_000) < parts
    }

    /// An index of `choices`.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// A number with a long tail: mostly near `low`, now and then near `high`.
    pub fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let first = self.below(high - low + 1);
        let second = self.below(first + 1);
        low + self.below(second + 1)
    }

    /// A generator for a protocol.
    pub fn fork(&mut self) -> Xoshiro256PlusPlus {
        Xoshiro256PlusPlus::seed_from_u64(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, concern| {
            let mut stream = Stream::new(seed, concern);
            (stream.word(), stream.word())
        };
        assert_eq!(draw(7, Concern::Client(1)), draw(7, Concern::Client(1)));
        assert_ne!(draw(7, Concern::Client(1)), draw(7, Concern::Client(2)));
        assert_ne!(draw(7, Concern::Network), draw(8, Concern::Network));
    }

    #[test]
    fn numbers_stay_in_their_bounds() {
        let mut stream = Stream::new(1, Concern::Plan);
        for _ in 0..1000 {
            assert!(stream.below(3) < 3);
            assert!((5..=9).contains(&stream.range(5, 9)));
            assert!((5..=9).contains(&stream.skewed(5, 9)));
        }
        assert_eq!(stream.below(0), 0);
        assert!(!stream.chance(0));
        assert!(stream.chance(1_000_000));
    }
}
