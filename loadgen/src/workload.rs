//! What is asked: the mix of commands, their keys and values.
//!
//! Counters (INCR) and plain values (SET, GET) live under different keys, so that one mix can hold both.

use std::fmt;
use std::str::FromStr;

use panch_wire::client::ReadLevel;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::keys::{KeyChooser, KeyDistribution, KeyText, key_size_min};

/// A kind of command that the generator sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OperationKind {
    /// Reads a value.
    Get,
    /// Writes a value.
    Set,
    /// Adds one to a counter.
    Incr,
}

impl OperationKind {
    /// Whether the state stays as it was.
    pub fn is_read(self) -> bool {
        self == Self::Get
    }

    /// The first byte of the keys of this kind.
    pub fn key_prefix(self) -> u8 {
        match self {
            Self::Get | Self::Set => b'k',
            Self::Incr => b'c',
        }
    }
}

/// Parts of each kind: `set=50,get=50`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mix {
    /// Parts of GET.
    pub get: u32,
    /// Parts of SET.
    pub set: u32,
    /// Parts of INCR.
    pub incr: u32,
}

impl Mix {
    /// Only SET.
    pub const WRITES: Mix = Mix { get: 0, set: 100, incr: 0 };

    /// All parts; never zero for a mix that was parsed.
    pub fn total(&self) -> u32 {
        self.get + self.set + self.incr
    }

    /// Whether some commands read.
    pub fn reads(&self) -> bool {
        self.get > 0
    }

    /// Whether some commands write.
    pub fn writes(&self) -> bool {
        self.set > 0 || self.incr > 0
    }

    fn pick(&self, draw: u32) -> OperationKind {
        if draw < self.set {
            OperationKind::Set
        } else if draw < self.set + self.get {
            OperationKind::Get
        } else {
            OperationKind::Incr
        }
    }
}

impl FromStr for Mix {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Mix { get: 0, set: 0, incr: 0 };
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let weight: u32 =
                weight.trim().parse().ok().filter(|weight| *weight <= 1_000_000).ok_or_else(|| {
                    format!("`{weight}` is not a number of parts, for example set=50,get=50")
                })?;
            match name.trim() {
                "get" => mix.get += weight,
                "set" => mix.set += weight,
                "incr" => mix.incr += weight,
                other => {
                    return Err(format!("`{other}` is not a command here; choose from get, set and incr"));
                }
            }
        }
        if mix.total() == 0 { Err("the mix is empty".to_owned()) } else { Ok(mix) }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("set", self.set), ("get", self.get), ("incr", self.incr)];
        let mut separator = "";
        for (name, weight) in parts.into_iter().filter(|(_, weight)| *weight > 0) {
            write!(f, "{separator}{name}={weight}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// What a run asks, apart from when.
#[derive(Clone, PartialEq, Debug)]
pub struct Workload {
    /// Which commands.
    pub mix: Mix,
    /// Which keys.
    pub keys: KeyDistribution,
    /// How many keys of each kind.
    pub key_count: u64,
    /// Bytes of a key.
    pub key_size: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// How fresh reads must be (native protocol).
    pub read_level: ReadLevel,
    /// From which everything random is drawn.
    pub seed: u64,
}

/// The largest value that the generator makes.
pub const VALUE_SIZE_MAX: usize = 16 << 20;

impl Workload {
    /// Whether the parts fit each other.
    ///
    /// # Errors
    /// The text says what to change.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=1 << 32).contains(&self.key_count) {
            return Err("the number of keys is from 1 to 4294967296".to_owned());
        }
        let needed = key_size_min(self.key_count);
        if !(needed..=panch_wire::command::KEY_SIZE_MAX).contains(&self.key_size) {
            return Err(format!("{} keys need a key size from {needed} to 65535 bytes", self.key_count));
        }
        if self.value_size > VALUE_SIZE_MAX {
            return Err("a value has at most 16 MiB".to_owned());
        }
        Ok(())
    }
}

/// One command to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// What to do.
    pub kind: OperationKind,
    /// With which key.
    pub key: u64,
    /// Names the write, if it is one and values are tagged: unique in the run, never 0.
    pub write: u64,
}

/// The commands of one thread, in order.
pub struct Generator {
    mix: Mix,
    keys: KeyChooser,
    text: KeyText,
    value: ValueText,
    /// The next write's name; the thread is in the upper 16 bits.
    next_write: u64,
}

impl Generator {
    /// The commands of thread `thread` of `threads`. `run` names the run in tagged values.
    pub fn new(workload: &Workload, run: u64, thread: usize, threads: usize) -> Self {
        let seed = workload.seed.wrapping_add((thread as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self {
            mix: workload.mix,
            keys: KeyChooser::new(workload.keys, workload.key_count, seed, thread, threads),
            text: KeyText::new(workload.key_size),
            value: ValueText::new(workload.value_size, run, seed),
            next_write: ((thread as u64) << 48) + 1,
        }
    }

    /// The next command.
    pub fn draw(&mut self) -> Operation {
        let total = self.mix.total();
        // A pure mix, the usual one, needs no draw.
        let kind = if self.mix.set == total {
            OperationKind::Set
        } else if self.mix.get == total {
            OperationKind::Get
        } else {
            let draw = self.keys.below(total);
            self.mix.pick(draw)
        };
        let mut write = 0;
        if kind == OperationKind::Set {
            write = self.next_write;
            self.next_write += 1;
        }
        Operation { kind, key: self.keys.draw(), write }
    }

    /// The bytes of a command's key and value. The value is empty unless the command is a SET.
    pub fn bytes(&mut self, operation: &Operation) -> (&[u8], &[u8]) {
        let key = self.text.spell(operation.kind.key_prefix(), operation.key);
        let value = match operation.kind {
            OperationKind::Set => self.value.tagged(operation.write),
            _ => &[],
        };
        (key, value)
    }
}

/// Bytes of a tag: the run's name and the write's.
pub const TAG_SIZE: usize = 16;

/// Values: random bytes, made once, that start with a tag if there is room for it.
struct ValueText {
    text: Vec<u8>,
    run: u64,
}

impl ValueText {
    fn new(size: usize, run: u64, seed: u64) -> Self {
        let mut text = vec![0; size];
        Xoshiro256PlusPlus::seed_from_u64(!seed).fill_bytes(&mut text);
        Self { text, run }
    }

    fn tagged(&mut self, write: u64) -> &[u8] {
        if let Some(tag) = self.text.first_chunk_mut::<TAG_SIZE>() {
            tag[..8].copy_from_slice(&self.run.to_le_bytes());
            tag[8..].copy_from_slice(&write.to_le_bytes());
        }
        &self.text
    }
}

/// The write that a value of this run came from; `None` for a value of anybody else.
pub fn write_of(value: &[u8], run: u64) -> Option<u64> {
    let tag = value.first_chunk::<TAG_SIZE>()?;
    let (left, right) = tag.split_at(8);
    let number = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("half of a tag"));
    (number(left) == run).then(|| number(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(mix: &str) -> Workload {
        Workload {
            mix: mix.parse().unwrap(),
            keys: KeyDistribution::Uniform,
            key_count: 1000,
            key_size: 16,
            value_size: 20,
            read_level: ReadLevel::Quorum,
            seed: 3,
        }
    }

    #[test]
    fn mixes_print_as_they_are_read() {
        for text in ["set=100", "set=50,get=50", "get=1,incr=2"] {
            assert_eq!(text.parse::<Mix>().unwrap().to_string(), text);
        }
        assert_eq!("get".parse(), Ok(Mix { get: 1, set: 0, incr: 0 }));
        for (text, reads, writes) in [("get", true, false), ("incr", false, true), ("set,get", true, true)] {
            let mix: Mix = text.parse().unwrap();
            assert_eq!((mix.reads(), mix.writes()), (reads, writes), "{text}");
        }
        for text in ["", "set=0", "del=1", "set=x", "set=-1"] {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_mix_is_kept() {
        let mut generator = Generator::new(&workload("set=20,get=70,incr=10"), 1, 0, 1);
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            counts[generator.draw().kind as usize] += 1;
        }
        let [get, set, incr] = counts;
        assert!((6500..7500).contains(&get) && (1700..2300).contains(&set) && (800..1200).contains(&incr));
    }

    #[test]
    fn every_write_has_its_own_tag_and_only_its_run_reads_it() {
        let mut writes = std::collections::BTreeSet::new();
        for thread in 0..2 {
            let mut generator = Generator::new(&workload("set"), 77, thread, 2);
            for _ in 0..100 {
                let operation = generator.draw();
                let (key, value) = generator.bytes(&operation);
                assert_eq!((key.len(), value.len()), (16, 20));
                assert_eq!(write_of(value, 77), Some(operation.write));
                assert_eq!(write_of(value, 78), None);
                assert!(writes.insert(operation.write));
            }
        }
        assert_eq!(write_of(b"short", 77), None);
    }

    #[test]
    fn counters_and_values_have_different_keys() {
        let mut generator = Generator::new(&workload("set"), 1, 0, 1);
        let mut key = |kind| generator.bytes(&Operation { kind, key: 5, write: 1 }).0.to_vec();
        assert_eq!(key(OperationKind::Get), key(OperationKind::Set));
        assert_ne!(key(OperationKind::Incr), key(OperationKind::Set));
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        assert!(workload("set").validate().is_ok());
        assert!(Workload { key_count: 0, ..workload("set") }.validate().is_err());
        let text = Workload { key_size: 3, ..workload("set") }.validate().unwrap_err();
        assert!(text.contains("from 4"), "{text}");
        assert!(Workload { value_size: VALUE_SIZE_MAX + 1, ..workload("set") }.validate().is_err());
    }
}
