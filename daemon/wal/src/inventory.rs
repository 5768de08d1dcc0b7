//! The inventory of a log: which segments it was ever given, kept in a file apart from them.
//!
//! A log ends where its chain ends, so of files that are gone at its end nothing in the others tells. The inventory does:
//! it is written when a segment's file is there for good and before the log is told, so every segment that may hold a
//! commit group is in it. A crash in between leaves a file beyond the inventory, which is harmless.
//!
//! The file holds two copies, one page each, written by turns: a torn write leaves the other, and no write needs more room
//! on a full disk. An empty file is the mark of an earlier version, which kept no inventory.
//! ```text
//! copy: checksum u64 | magic u64 | serial u64 | highest segment u64 | run count u64 | runs: first segment u64, size u64
//! ```

use panch_wire::checksum::checksum;
use panch_wire::frame::{PAGE_SIZE, Page};

use crate::disk::SegmentFile;
use crate::error::RecoverError;
use crate::segment::SegmentSequence;

/// Bytes of the file: two copies.
pub const INVENTORY_SIZE: usize = 2 * PAGE_SIZE;
const MAGIC: u64 = u64::from_le_bytes(*b"PINVENT1");
const HEADER_SIZE: usize = 40;
const RUN_SIZE: usize = 16;
/// Changes of the segment size that are remembered; of older segments the size is then not checked.
const RUNS_MAX: usize = 64;

/// Segments in a row whose files have one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    first: SegmentSequence,
    size: u64,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Inventory {
    serial: u64,
    highest: SegmentSequence,
    /// Ascending; the last goes up to `highest`.
    runs: Vec<Run>,
}

impl Inventory {
    /// Reads the file. `None` if it is empty: nothing is known of the segments.
    ///
    /// # Errors
    /// [`RecoverError::Inventory`] if neither copy is intact.
    pub fn read(file: &[u8]) -> Result<Option<Self>, RecoverError> {
        if file.is_empty() {
            return Ok(None);
        }
        let newest = file.chunks(PAGE_SIZE).filter_map(Self::decode).max_by_key(|copy| copy.serial);
        newest.map(Some).ok_or(RecoverError::Inventory)
    }

    fn decode(copy: &[u8]) -> Option<Self> {
        if copy.len() != PAGE_SIZE {
            return None;
        }
        let word = |at: usize| u64::from_le_bytes(copy[at..at + 8].try_into().expect("eight bytes"));
        let count = word(32) as usize;
        if word(0) != checksum(&copy[8..]) || word(8) != MAGIC || count > RUNS_MAX {
            return None;
        }
        let run = |number: usize| {
            let at = HEADER_SIZE + number * RUN_SIZE;
            Run { first: SegmentSequence(word(at)), size: word(at + 8) }
        };
        Some(Self {
            serial: word(16),
            highest: SegmentSequence(word(24)),
            runs: (0..count).map(run).collect(),
        })
    }

    /// The copy to write next, and where in the file. It counts once it is on stable storage.
    pub fn encode(&mut self) -> (u64, Page) {
        self.serial += 1;
        let mut page = Page([0; PAGE_SIZE]);
        let mut put = |at: usize, word: u64| page.0[at..at + 8].copy_from_slice(&word.to_le_bytes());
        put(8, MAGIC);
        put(16, self.serial);
        put(24, self.highest.0);
        put(32, self.runs.len() as u64);
        for (number, run) in self.runs.iter().enumerate() {
            put(HEADER_SIZE + number * RUN_SIZE, run.first.0);
            put(HEADER_SIZE + number * RUN_SIZE + 8, run.size);
        }
        let sum = checksum(&page.0[8..]);
        page.0[..8].copy_from_slice(&sum.to_le_bytes());
        (self.serial % 2 * PAGE_SIZE as u64, page)
    }

    /// The file of `sequence` is there for good, with `size` bytes. Segments come in ascending order; one that is known
    /// already changes nothing.
    pub fn add(&mut self, sequence: SegmentSequence, size: u64) {
        if sequence <= self.highest {
            return;
        }
        self.highest = sequence;
        if self.runs.last().is_none_or(|run| run.size != size) {
            self.runs.push(Run { first: sequence, size });
        }
        if self.runs.len() > RUNS_MAX {
            self.runs.remove(0);
        }
    }

    /// The last segment that is there.
    pub(crate) fn last(&self) -> SegmentSequence {
        self.highest
    }

    /// The segments from `sequence` on are about to be removed: the log never used them.
    pub fn remove_from(&mut self, sequence: SegmentSequence) {
        self.highest = self.highest.min(SegmentSequence(sequence.0.saturating_sub(1)));
        self.runs.retain(|run| run.first <= self.highest);
    }

    /// Checks that every segment from `oldest` on is there in full. `files` are in ascending order.
    pub(crate) fn check(&self, files: &[SegmentFile], oldest: SegmentSequence) -> Result<(), RecoverError> {
        let Some(known) = self.runs.first() else { return Ok(()) };
        let mut sequence = oldest.max(known.first);
        while sequence <= self.highest {
            let Ok(at) = files.binary_search_by_key(&sequence, |file| file.sequence) else {
                return Err(RecoverError::MissingSegment { missing: sequence });
            };
            let run = self.runs.iter().rev().find(|run| run.first <= sequence);
            let (size, expected) = (files[at].size, run.map_or(0, |run| run.size));
            if size < expected {
                return Err(RecoverError::ShortSegment { segment: sequence, size, expected });
            }
            sequence = sequence.next();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(of: &[(u64, u64)]) -> Vec<SegmentFile> {
        of.iter()
            .map(|(sequence, size)| SegmentFile { sequence: SegmentSequence(*sequence), size: *size })
            .collect()
    }

    fn inventory(of: &[(u64, u64)]) -> Inventory {
        let mut inventory = Inventory::default();
        of.iter().for_each(|(sequence, size)| inventory.add(SegmentSequence(*sequence), *size));
        inventory
    }

    #[test]
    fn the_newer_intact_copy_counts() {
        let mut inventory = inventory(&[(1, 10), (2, 10)]);
        let mut file = vec![0; INVENTORY_SIZE];
        let mut write = |inventory: &mut Inventory| {
            let (offset, page) = inventory.encode();
            file[offset as usize..][..PAGE_SIZE].copy_from_slice(&page.0);
            file.clone()
        };
        assert_eq!(Inventory::read(&write(&mut inventory)).unwrap(), Some(inventory.clone()));
        let older = inventory.clone();
        inventory.add(SegmentSequence(3), 20);
        let file = write(&mut inventory);
        assert_eq!(Inventory::read(&file).unwrap(), Some(inventory));
        for page in 0..2 {
            let mut torn = file.clone();
            torn[page * PAGE_SIZE + 2000] ^= 1;
            let left = Inventory::read(&torn).unwrap().unwrap();
            assert_eq!(left == older, page == 0, "serial 2 lies in the first copy");
        }
        let both: Vec<u8> = file.iter().map(|byte| byte ^ 1).collect();
        assert!(matches!(Inventory::read(&both), Err(RecoverError::Inventory)));
        assert!(matches!(Inventory::read(&file[..100]), Err(RecoverError::Inventory)));
        assert_eq!(Inventory::read(&[]).unwrap(), None);
    }

    #[test]
    fn every_segment_from_the_oldest_on_must_be_there_in_full() {
        let inventory = inventory(&[(1, 10), (2, 10), (3, 20), (4, 20)]);
        let check = |of: &[(u64, u64)], oldest| inventory.check(&files(of), SegmentSequence(oldest));
        check(&[(1, 10), (2, 10), (3, 20), (4, 20), (5, 20)], 1).unwrap();
        check(&[(3, 20), (4, 20)], 3).unwrap();
        let missing = check(&[(2, 10), (3, 20)], 2).unwrap_err();
        assert!(matches!(missing, RecoverError::MissingSegment { missing: SegmentSequence(4) }), "{missing}");
        let short = check(&[(3, 20), (4, 10)], 3).unwrap_err();
        assert!(matches!(short, RecoverError::ShortSegment { size: 10, expected: 20, .. }), "{short}");
    }

    #[test]
    fn what_the_log_never_used_can_be_removed() {
        let mut inventory = inventory(&[(1, 10), (2, 10), (3, 10)]);
        inventory.remove_from(SegmentSequence(2));
        inventory.check(&files(&[(1, 10)]), SegmentSequence(1)).unwrap();
        inventory.add(SegmentSequence(2), 30);
        assert!(inventory.check(&files(&[(1, 10), (2, 10)]), SegmentSequence(1)).is_err());
    }

    #[test]
    fn sizes_are_remembered_for_the_latest_changes() {
        let changes: Vec<(u64, u64)> = (1..200).map(|number| (number, number)).collect();
        let inventory = inventory(&changes);
        inventory.check(&files(&changes), SegmentSequence(1)).unwrap();
        assert_eq!(inventory.runs.len(), RUNS_MAX);
        assert!(inventory.check(&files(&changes[..198]), SegmentSequence(1)).is_err());
    }
}
