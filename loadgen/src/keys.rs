//! Which key a command touches, and how a key is spelled.
//!
//! Invariants:
//! * The same seed draws the same keys on every machine.
//! * Scrambling is a permutation: it moves the popular keys apart without merging any two.

use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::fmt;
use std::str::FromStr;

/// How often each key is used.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum KeyDistribution {
    /// Each as often as any other.
    #[default]
    Uniform,
    /// The n-th most popular key is used in proportion to `1 / n^theta`; which keys are popular is scrambled.
    Zipf {
        /// The exponent; 0.99 is customary (YCSB).
        theta: f64,
    },
    /// One after the other, from the first again after the last.
    Sequential,
    /// Some commands share the first key; the others use the rest, each as often as any other.
    Hot {
        /// The commands on the one key, of a hundred.
        percent: f64,
    },
}

impl FromStr for KeyDistribution {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        match (name, argument) {
            ("uniform", None) => Ok(Self::Uniform),
            ("sequential", None) => Ok(Self::Sequential),
            ("zipf", None) => Ok(Self::Zipf { theta: 0.99 }),
            ("zipf", Some(theta)) => match theta.parse::<f64>() {
                Ok(theta) if (0.0..=10.0).contains(&theta) => Ok(Self::Zipf { theta }),
                _ => Err(format!("`{theta}` is not an exponent from 0 to 10, for example zipf:0.99")),
            },
            ("hot", Some(percent)) => match percent.parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Hot { percent }),
                _ => Err(format!("`{percent}` is not a percentage from 0 to 100, for example hot:2")),
            },
            _ => Err("choose uniform, zipf, zipf:THETA, sequential or hot:PERCENT".to_owned()),
        }
    }
}

impl fmt::Display for KeyDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf { theta } => write!(f, "zipf:{theta}"),
            Self::Sequential => f.write_str("sequential"),
            Self::Hot { percent } => write!(f, "hot:{percent}"),
        }
    }
}

/// How many different draws decide whether a command is on the hot key: all of 32 bits.
const HOT_SCALE: f64 = (1u64 << 32) as f64;

/// Draws keys, as numbers below the key count.
pub struct KeyChooser {
    count: u64,
    random: Xoshiro256PlusPlus,
    choice: Choice,
}

enum Choice {
    Uniform,
    Sequential {
        next: u64,
    },
    Zipf(Zipf<f64>),
    /// The first key if a draw of 32 bits is below this.
    Hot {
        below: u64,
    },
}

impl KeyChooser {
    /// A chooser among `count` keys. `part` of `parts` says where a sequential chooser starts, so that threads do not follow
    /// each other.
    ///
    /// # Panics
    /// If there is no key, or more than 2^32.
    pub fn new(distribution: KeyDistribution, count: u64, seed: u64, part: usize, parts: usize) -> Self {
        assert!((1..=1 << 32).contains(&count) && part < parts);
        let random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let choice = match distribution {
            KeyDistribution::Uniform => Choice::Uniform,
            KeyDistribution::Sequential => Choice::Sequential { next: first_of_part(count, part, parts) },
            KeyDistribution::Hot { percent } => {
                Choice::Hot { below: (percent / 100.0 * HOT_SCALE).round() as u64 }
            }
            KeyDistribution::Zipf { theta } => {
                let zipf = Zipf::new(count as f64, theta);
                Choice::Zipf(zipf.expect("the exponent and the count are in range"))
            }
        };
        Self { count, random, choice }
    }

    /// The next key.
    pub fn draw(&mut self) -> u64 {
        match &mut self.choice {
            Choice::Uniform => self.random.random_range(0..self.count),
            Choice::Sequential { next } => {
                let key = *next;
                *next = if key + 1 == self.count { 0 } else { key + 1 };
                key
            }
            Choice::Zipf(zipf) => {
                let rank = (zipf.sample(&mut self.random) as u64).clamp(1, self.count) - 1;
                scramble(rank, self.count)
            }
            Choice::Hot { below } => {
                let is_hot = u64::from(self.random.random::<u32>()) < *below;
                if is_hot || self.count == 1 { 0 } else { self.random.random_range(1..self.count) }
            }
        }
    }

    /// A number below `bound`, for choices beside keys.
    pub fn below(&mut self, bound: u32) -> u32 {
        self.random.random_range(0..bound)
    }
}

/// Where a part of `count` keys begins, if the first parts have one more than the others.
fn first_of_part(count: u64, part: usize, parts: usize) -> u64 {
    let (part, parts) = (part as u64, parts as u64);
    count / parts * part + part.min(count % parts)
}

/// A fixed permutation of the numbers below `count`.
pub fn scramble(rank: u64, count: u64) -> u64 {
    assert!(rank < count);
    let bits = u64::BITS - (count - 1).leading_zeros();
    if bits < 2 {
        return rank;
    }
    let mask = u64::MAX >> (u64::BITS - bits);
    let mut value = rank;
    loop {
        // Each step is invertible within `bits` bits. Leaving the range walks on along the cycle, which returns to it.
        value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
        value ^= value >> (bits / 2).max(1);
        value = value.wrapping_mul(0xd6e8_feb8_6659_fd93) & mask;
        value ^= value >> (bits / 2).max(1);
        if value < count {
            return value;
        }
    }
}

/// The shortest key that can tell `count` keys apart.
pub fn key_size_min(count: u64) -> usize {
    1 + count.saturating_sub(1).max(1).ilog10() as usize + 1
}

/// Spells keys: a letter for what the key is used for, then the number in decimal, filled with zeros.
pub struct KeyText {
    text: Vec<u8>,
}

impl KeyText {
    /// Keys of `size` bytes, at least [`key_size_min`].
    pub fn new(size: usize) -> Self {
        assert!(size >= 2);
        Self { text: vec![b'0'; size] }
    }

    /// The key `number` of the kind `prefix`.
    pub fn spell(&mut self, prefix: u8, mut number: u64) -> &[u8] {
        let (first, digits) = self.text.split_first_mut().expect("a key has two bytes or more");
        *first = prefix;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        assert_eq!(number, 0, "the key size was checked against the key count");
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(distribution: KeyDistribution, count: u64, draws: usize) -> Vec<usize> {
        let mut chooser = KeyChooser::new(distribution, count, 42, 0, 1);
        let mut seen = vec![0; count as usize];
        for _ in 0..draws {
            seen[chooser.draw() as usize] += 1;
        }
        seen
    }

    #[test]
    fn uniform_uses_every_key_about_as_often() {
        let seen = histogram(KeyDistribution::Uniform, 100, 100_000);
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }

    #[test]
    fn zipf_follows_its_exponent_and_popular_keys_are_apart() {
        let seen = histogram(KeyDistribution::Zipf { theta: 1.0 }, 1000, 1 << 18);
        let first = seen[scramble(0, 1000) as usize] as f64;
        for rank in [2u64, 4, 10] {
            let ratio = first / seen[scramble(rank - 1, 1000) as usize] as f64;
            assert!((ratio / rank as f64 - 1.0).abs() < 0.1, "rank {rank}: {ratio}");
        }
        let neighbours =
            (0..20).filter(|rank| scramble(*rank, 1000).abs_diff(scramble(rank + 1, 1000)) == 1).count();
        assert!(neighbours < 3);
    }

    /// Of 10 million keys by the customary exponent, in 3 million draws: theory is the sum over the ranks, as in the test below.
    #[test]
    fn zipf_has_the_head_and_the_tail_of_theory() {
        const DIFFERENT: f64 = 839_918.0;
        let (count, draws) = (10_000_000u64, 3_000_000u32);
        let KeyDistribution::Zipf { theta } = "zipf".parse().unwrap() else { panic!("another distribution") };
        let weight = |rank: u64| (rank as f64).powf(-theta);
        let total: f64 = (1..=count).map(weight).sum();
        let mut chooser = KeyChooser::new(KeyDistribution::Zipf { theta }, count, 42, 0, 1);
        let mut seen = vec![0u32; count as usize];
        for _ in 0..draws {
            seen[chooser.draw() as usize] += 1;
        }
        let head = |ranks: u64| -> (f64, f64) {
            let found: u32 = (0..ranks).map(|rank| seen[scramble(rank, count) as usize]).sum();
            let expected: f64 = (1..=ranks).map(weight).sum();
            (f64::from(found) / f64::from(draws), expected / total)
        };
        let different = seen.iter().filter(|times| **times > 0).count() as f64;
        for (what, (found, expected)) in
            [("the first", head(1)), ("the first 10", head(10)), ("different keys", (different, DIFFERENT))]
        {
            assert!((found / expected - 1.0).abs() < 0.02, "{what}: {found} instead of {expected}");
        }
    }

    /// As many different keys as theory says: each of `n` draws misses the key of rank `r` with the probability 1 - 1/(r^theta H).
    #[test]
    fn many_draws_of_zipf_find_as_many_keys_as_they_should() {
        let (count, draws, theta) = (1_000_000u64, 600_000, 0.99);
        let weight = |rank: u64| (rank as f64).powf(-theta);
        let total: f64 = (1..=count).map(weight).sum();
        let expected: f64 =
            (1..=count).map(|rank| 1.0 - (1.0 - weight(rank) / total).powi(draws as i32)).sum();
        let seen = histogram(KeyDistribution::Zipf { theta }, count, draws);
        let found = seen.iter().filter(|count| **count > 0).count() as f64;
        assert!((found / expected - 1.0).abs() < 0.01, "{found} instead of {expected}");
    }

    #[test]
    fn a_hot_key_gets_its_share_and_the_others_the_rest_evenly() {
        for (percent, expected) in [(0.0, 0), (2.0, 2_000), (25.0, 25_000), (100.0, 100_000)] {
            let seen = histogram(KeyDistribution::Hot { percent }, 11, 100_000);
            assert!(seen[0].abs_diff(expected) <= expected / 10, "{percent}: {seen:?}");
            let other = (100_000 - expected) / 10;
            assert!(seen[1..].iter().all(|count| count.abs_diff(other) <= other / 8), "{percent}: {seen:?}");
        }
        assert_eq!(histogram(KeyDistribution::Hot { percent: 0.0 }, 1, 10), [10]);
    }

    #[test]
    fn scrambling_is_a_permutation() {
        for count in [1, 2, 3, 5, 64, 100, 1000, 4097] {
            let mut seen = vec![false; count as usize];
            for rank in 0..count {
                assert!(
                    !std::mem::replace(&mut seen[scramble(rank, count) as usize], true),
                    "{rank} of {count}"
                );
            }
        }
    }

    #[test]
    fn sequential_threads_start_apart_and_wrap_around() {
        let mut second = KeyChooser::new(KeyDistribution::Sequential, 10, 0, 1, 2);
        let keys: Vec<u64> = (0..7).map(|_| second.draw()).collect();
        assert_eq!(keys, [5, 6, 7, 8, 9, 0, 1]);
        let firsts: Vec<u64> = (0..3).map(|part| first_of_part(8, part, 3)).collect();
        assert_eq!(firsts, [0, 3, 6], "parts of 3, 3 and 2 keys");
    }

    #[test]
    fn the_same_seed_draws_the_same_keys() {
        for distribution in [KeyDistribution::Uniform, KeyDistribution::Zipf { theta: 0.99 }] {
            let draw = |seed| {
                let mut chooser = KeyChooser::new(distribution, 1 << 20, seed, 0, 1);
                (0..100).map(|_| chooser.draw()).collect::<Vec<_>>()
            };
            assert_eq!(draw(1), draw(1));
            assert_ne!(draw(1), draw(2));
        }
    }

    #[test]
    fn keys_are_spelled_in_full_and_the_shortest_size_tells_all_apart() {
        let mut text = KeyText::new(8);
        assert_eq!(text.spell(b'k', 42), b"k0000042");
        assert_eq!(text.spell(b'c', 7), b"c0000007");
        for (count, size) in [(1, 2), (10, 2), (11, 3), (1000, 4), (1001, 5)] {
            assert_eq!(key_size_min(count), size);
            KeyText::new(size).spell(b'k', count - 1);
        }
    }

    #[test]
    fn distributions_print_as_they_are_read() {
        for text in ["uniform", "zipf:0.5", "sequential", "hot:2.5"] {
            assert_eq!(text.parse::<KeyDistribution>().unwrap().to_string(), text);
        }
        for text in ["zipf:-1", "zipf:x", "hot", "hot:101", "hot:x", "uniform:1"] {
            assert!(text.parse::<KeyDistribution>().is_err());
        }
    }
}
