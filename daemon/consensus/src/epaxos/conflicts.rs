//! What a batch depends on: per key and row the last instance that touched it and the last that wrote it.
//!
//! Invariants:
//! * An answer covers every instance inserted before that interferes, up to what all replicas have executed: it is the
//!   highest number per row over all keys of the batch.
//! * Numbers only rise. An instance that turns out to be a no-op stays: more dependencies than needed are harmless.
//! * Batches and barriers meet in the record `everything`: each batch counts as its reader, each barrier as its writer.
//! * The stamp is a Lamport clock: above every stamp seen, whatever its batch touched, and not lost by a restart. Sessions expire by it.
//! * The number of keys has a bound, see [`Conflicts::limit`].
//! * A key that only such instances touched leaves the index soon: for each key that enters, several places are looked at. So
//!   the index stays as small as the number of keys touched lately, and close to the processor.
//! * After warm-up nothing is allocated while the number of keys in use stays the same.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use panch_wire::ids::{Position, REPLICAS_MAX};
use panch_wire::rule::{Rule, holds};
use rkyv::{Archive, Deserialize, Serialize};

use super::footprint::Footprint;
use super::message::STAMP_END;
use table::{NUMBERS, Part};

/// Per row a number: everything up to it that interferes. The rows beyond the group's stay 0.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Dependencies(pub [u64; REPLICAS_MAX]);

impl Dependencies {
    /// The number of a row; 0 for rows that do not exist.
    pub fn row(&self, row: u8) -> u64 {
        self.0.get(usize::from(row)).copied().unwrap_or(0)
    }

    /// Whether the position lies within, whatever it touches.
    pub fn contains(&self, position: Position) -> bool {
        position.number <= self.row(position.row)
    }

    /// Raises the number of a row; rows that do not exist are ignored.
    pub fn raise(&mut self, row: u8, number: u64) {
        if let Some(own) = self.0.get_mut(usize::from(row)) {
            *own = number.max(*own);
        }
    }

    /// The union: the higher number of each row.
    pub fn merge(&mut self, other: &Dependencies) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own = (*own).max(*other);
        }
    }
}

/// Parts of the table: each grows alone, so that no single insert moves more than a 64th of it.
const PART_BITS: u32 = 6;
const PART_COUNT: usize = 1 << PART_BITS;
/// Places looked at in one call of [`Conflicts::forget`].
const SWEEP_COUNT: usize = 512;
/// Places looked at for each key that enters: enough that what can go has gone before the table must grow.
const SWEEP_PER_KEY: usize = 3;

/// The index of conflicts of one replica.
#[derive(Clone)]
pub struct Conflicts {
    row_count: usize,
    parts: Vec<Part>,
    /// The highest stamp seen.
    stamp: u64,
    /// The record that every batch reads and every barrier writes.
    everything: Vec<u64>,
    /// Instances whose batch is not known.
    unknown: BTreeSet<Position>,
    floor: Dependencies,
    /// Executed by all replicas: no dependency is needed up to here.
    forgotten: Dependencies,
    sweep_part: usize,
    sweep_place: usize,
    /// Places to be looked at until all were since `forgotten` last rose.
    sweep_left: usize,
}

/// Says the same of two indexes that give the same answers, however they came about.
impl fmt::Debug for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.parts.iter().flat_map(|part| part.words.chunks_exact(self.width()));
        let keys: BTreeMap<_, _> =
            records.filter(|record| record[0] != 0).map(|record| (record[0], &record[1..])).collect();
        f.debug_struct("Conflicts")
            .field("keys", &keys)
            .field("stamp", &self.stamp)
            .field("everything", &self.everything)
            .field("unknown", &self.unknown)
            .field("floor", &self.floor)
            .field("forgotten", &self.forgotten)
            .finish()
    }
}

impl Conflicts {
    /// An empty index for a group of so many replicas.
    pub fn new(replica_count: usize) -> Self {
        assert!(replica_count <= REPLICAS_MAX);
        let mut parts = Vec::new();
        parts.resize_with(PART_COUNT, Part::default);
        Self {
            row_count: replica_count,
            parts,
            stamp: 0,
            everything: vec![0; NUMBERS + 2 * replica_count],
            unknown: BTreeSet::new(),
            floor: Dependencies::default(),
            forgotten: Dependencies::default(),
            sweep_part: 0,
            sweep_place: 0,
            sweep_left: 0,
        }
    }

    fn width(&self) -> usize {
        self.everything.len()
    }

    /// Keys in the index.
    pub fn key_count(&self) -> usize {
        self.parts.iter().map(|part| part.count).sum()
    }

    /// Places for keys.
    pub(super) fn place_count(&self) -> usize {
        self.parts.iter().map(|part| part.capacity).sum()
    }

    #[inline]
    fn part(key: u64) -> usize {
        (key >> (u64::BITS - PART_BITS)) as usize
    }

    /// Raises `dependencies` to what `record` says; true if any number rose. A write conflicts with whatever touched the
    /// key, a read with what wrote it.
    #[inline]
    fn raise(dependencies: &mut [u64], record: &[u64], is_written: bool) -> bool {
        let row_count = dependencies.len();
        let (written, touched) = record[NUMBERS..].split_at(row_count);
        let mut rose = false;
        for (own, number) in dependencies.iter_mut().zip(if is_written { touched } else { written }) {
            rose |= number > own;
            *own = (*own).max(*number);
        }
        rose
    }

    /// What a batch with this footprint depends on, given what was inserted so far.
    pub fn dependencies(&self, footprint: &Footprint) -> Dependencies {
        let (width, row_count) = (self.width(), self.row_count);
        let mut dependencies = self.floor;
        let rows = &mut dependencies.0[..row_count];
        Self::raise(rows, &self.everything, footprint.is_barrier());
        for (key, is_written) in footprint.touched() {
            let Some(record) = self.parts[Self::part(key)].get(key, width) else { continue };
            let rose = Self::raise(rows, record, is_written);
            // A later key may have a higher number in a row that this one raised. [T-E9]
            if rose && !holds(Rule::EpaxosAllKeys) {
                break;
            }
        }
        if !self.unknown.is_empty() {
            self.raise_unknown(&mut dependencies);
        }
        for (own, forgotten) in dependencies.0.iter_mut().zip(&self.forgotten.0) {
            if *own <= *forgotten {
                *own = 0;
            }
        }
        dependencies
    }

    /// The stamp of the next batch proposed here: it tells what came later from what is long past on every key, so it does not
    /// depend on what the batch touches.
    pub fn next_stamp(&self) -> u64 {
        self.stamp + 1
    }

    /// A stamp was seen. A hostile one must leave room for the next.
    pub fn raise_stamp(&mut self, stamp: u64) {
        self.stamp = stamp.min(STAMP_END - 2).max(self.stamp);
    }

    /// Nobody knows what these touch.
    #[cold]
    fn raise_unknown(&self, dependencies: &mut Dependencies) {
        for row in 0..self.row_count as u8 {
            let last = Position { row, number: u64::MAX };
            if let Some(unknown) =
                self.unknown.range(..=last).next_back().filter(|unknown| unknown.row == row)
            {
                dependencies.raise(row, unknown.number);
            }
        }
    }

    /// The instance's batch has this footprint and stamp. May be told again.
    pub fn insert(&mut self, position: Position, stamp: u64, footprint: &Footprint) {
        let (row, row_count, width) = (usize::from(position.row), self.row_count, self.width());
        if row >= row_count {
            return;
        }
        self.unknown.remove(&position);
        self.raise_stamp(stamp);
        let note = |record: &mut [u64], is_written: bool| {
            let (written, touched) = record[NUMBERS..].split_at_mut(row_count);
            touched[row] = position.number.max(touched[row]);
            if is_written {
                written[row] = position.number.max(written[row]);
            }
        };
        note(&mut self.everything, footprint.is_barrier());
        let mut entered = 0;
        for (key, is_written) in footprint.touched() {
            let part = &mut self.parts[Self::part(key)];
            let count = part.count;
            note(part.get_or_insert(key, width), is_written);
            entered += part.count - count;
        }
        self.sweep(entered * SWEEP_PER_KEY);
    }

    /// The instance exists but its batch is not known: everything depends on it until [`Conflicts::insert`] or
    /// [`Conflicts::dismiss`].
    pub fn insert_unknown(&mut self, position: Position) {
        if usize::from(position.row) < self.row_count {
            self.unknown.insert(position);
        }
    }

    /// The instance is a no-op: nothing needs to depend on it any more only because its batch is unknown.
    pub fn dismiss(&mut self, position: Position) {
        self.unknown.remove(&position);
    }

    /// Every later answer has at least `number` in the row.
    pub fn set_floor(&mut self, row: u8, number: u64) {
        self.floor.raise(row, number);
    }

    /// While a replica is away nothing can be forgotten. With more than `key_count_max` keys, the index is emptied: from then on everything depends on
    /// all that was in it. More dependencies than needed are harmless.
    pub fn limit(&mut self, key_count_max: usize) {
        if self.key_count() <= key_count_max {
            return;
        }
        // Every batch counts as a reader of everything.
        let touched = &self.everything[NUMBERS + self.row_count..];
        for (row, number) in (0..).zip(touched) {
            self.floor.raise(row, *number);
        }
        self.parts.fill_with(Part::default);
        (self.sweep_part, self.sweep_place, self.sweep_left) = (0, 0, 0);
    }

    /// Every replica has executed everything up to these numbers: no answer needs them any more. Looks at a bounded
    /// number of keys and drops those that only such instances touched; call it again and again.
    pub fn forget(&mut self, executed_by_all: &Dependencies) {
        let before = self.forgotten;
        self.forgotten.merge(executed_by_all);
        let forgotten = self.forgotten;
        if forgotten != before {
            self.unknown.retain(|unknown| !forgotten.contains(*unknown));
            self.sweep_left = self.place_count();
        }
        self.sweep(SWEEP_COUNT);
    }

    /// Looks at so many places, and drops the keys there that only forgotten instances touched.
    fn sweep(&mut self, place_count: usize) {
        let (width, row_count, forgotten) = (self.width(), self.row_count, self.forgotten);
        for _ in 0..place_count {
            if self.sweep_left == 0 {
                return;
            }
            while self.sweep_place >= self.parts[self.sweep_part].capacity {
                self.parts[self.sweep_part].shrink(width);
                self.sweep_part = (self.sweep_part + 1) % PART_COUNT;
                self.sweep_place = 0;
            }
            let part = &mut self.parts[self.sweep_part];
            let record = &part.words[self.sweep_place * width..][..width];
            // What touched the key last is never older than what wrote it last.
            let mut touched = record[NUMBERS + row_count..].iter().zip(&forgotten.0);
            if record[0] != 0 && touched.all(|(number, forgotten)| number <= forgotten) {
                part.remove(self.sweep_place, width);
            } else {
                self.sweep_place += 1;
                self.sweep_left -= 1;
            }
        }
    }
}
