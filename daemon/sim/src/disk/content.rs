//! The pages of one file, and which of them would survive a power failure.

use std::collections::BTreeMap;
use std::rc::Rc;

use panch_wire::frame::PAGE_SIZE;

use super::{DiskCounters, FileId};
use crate::random::Stream;

/// One page.
pub type PageData = [u8; PAGE_SIZE];

const SECTOR_SIZE: usize = 512;

/// Pages written together, with the version that was written.
#[derive(Clone, Debug)]
pub struct Written {
    pub(super) file: FileId,
    pages: Vec<(usize, u64)>,
}

impl Written {
    /// How many pages.
    pub fn page_count(&self) -> usize {
        self.pages.len()
    }
}

#[derive(Clone)]
struct Unstable {
    /// What was written last.
    version: u64,
    /// What a power failure may throw the page back to.
    stable: Option<Rc<PageData>>,
}

#[derive(Clone)]
pub(super) struct Content {
    id: FileId,
    /// `None` is a page of zeros.
    pages: Vec<Option<Rc<PageData>>>,
    size: u64,
    unstable: BTreeMap<usize, Unstable>,
}

impl Content {
    pub(super) fn new(id: FileId, size: u64) -> Self {
        let count = (size as usize).div_ceil(PAGE_SIZE);
        Self { id, pages: vec![None; count], size, unstable: BTreeMap::new() }
    }

    /// Everything that was written is stable.
    pub(super) fn settle(&mut self) {
        self.unstable.clear();
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn write<'a>(
        &mut self,
        offset: u64,
        parts: impl Iterator<Item = &'a [u8]>,
        version: u64,
    ) -> Written {
        let mut written = Written { file: self.id, pages: Vec::new() };
        let mut at = offset as usize;
        for mut bytes in parts {
            while !bytes.is_empty() {
                let (page, from) = (at / PAGE_SIZE, at % PAGE_SIZE);
                let (now, rest) = bytes.split_at(bytes.len().min(PAGE_SIZE - from));
                let mut data = Rc::new([0; PAGE_SIZE]);
                let fresh = Rc::get_mut(&mut data).expect("the page is new");
                if now.len() < PAGE_SIZE
                    && let Some(Some(old)) = self.pages.get(page)
                {
                    *fresh = **old;
                }
                fresh[from..from + now.len()].copy_from_slice(now);
                self.put(page, data, version);
                if written.pages.last() != Some(&(page, version)) {
                    written.pages.push((page, version));
                }
                at += now.len();
                bytes = rest;
            }
        }
        self.size = self.size.max(at as u64);
        written
    }

    fn put(&mut self, page: usize, data: Rc<PageData>, version: u64) {
        if page >= self.pages.len() {
            self.pages.resize(page + 1, None);
        }
        let before = self.pages[page].replace(data);
        self.unstable.entry(page).or_insert(Unstable { version, stable: before }).version = version;
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) {
        let mut at = offset as usize;
        let mut filled = 0;
        while filled < into.len() {
            let Some(page) = self.pages.get(at / PAGE_SIZE) else { return };
            let from = at % PAGE_SIZE;
            let count = (PAGE_SIZE - from).min(into.len() - filled);
            if let Some(data) = page {
                into[filled..filled + count].copy_from_slice(&data[from..from + count]);
            }
            filled += count;
            at += count;
        }
    }

    /// Everything that is not stable now.
    pub(super) fn unstable(&self) -> Written {
        let pages = self.unstable.iter().map(|(page, unstable)| (*page, unstable.version)).collect();
        Written { file: self.id, pages }
    }

    pub(super) fn stabilise(&mut self, written: &Written) {
        for (page, version) in &written.pages {
            if self.unstable.get(page).is_some_and(|unstable| unstable.version == *version) {
                self.unstable.remove(page);
            }
        }
    }

    /// Each page that is not stable is kept, lost, torn or garbled.
    pub(super) fn lose_power(&mut self, random: &mut Stream, counters: &mut DiskCounters) {
        for (page, Unstable { stable, .. }) in std::mem::take(&mut self.unstable) {
            let old = stable.as_deref().copied().unwrap_or([0; PAGE_SIZE]);
            match random.below(8) {
                0..=3 => {
                    self.pages[page] = stable;
                    counters.lost_pages += 1;
                }
                4 | 5 => {}
                6 => {
                    // Some sectors are new, some old.
                    let mut mixed = self.pages[page].as_deref().copied().unwrap_or([0; PAGE_SIZE]);
                    for sector in (0..PAGE_SIZE).step_by(SECTOR_SIZE) {
                        if random.chance(500_000) {
                            mixed[sector..sector + SECTOR_SIZE]
                                .copy_from_slice(&old[sector..sector + SECTOR_SIZE]);
                        }
                    }
                    self.pages[page] = Some(Rc::new(mixed));
                    counters.torn_pages += 1;
                }
                _ => {
                    let mut garbage = old;
                    for word in garbage.chunks_exact_mut(8) {
                        word.copy_from_slice(&random.word().to_le_bytes());
                    }
                    self.pages[page] = Some(Rc::new(garbage));
                    counters.torn_pages += 1;
                }
            }
        }
    }

    /// Pages of writes under way are there or not; nothing becomes stable or is lost besides.
    pub(super) fn lose_process(&mut self, random: &mut Stream, in_flight: &[Written]) {
        for written in in_flight.iter().filter(|written| written.file == self.id) {
            for (page, version) in &written.pages {
                if random.chance(500_000)
                    && let Some(unstable) = self.unstable.get(page)
                    && unstable.version == *version
                {
                    self.pages[*page] = unstable.stable.clone();
                    self.unstable.remove(page);
                }
            }
        }
    }

    pub(super) fn rot(&mut self, page: usize, random: &mut Stream) -> bool {
        let Some(Some(data)) = self.pages.get_mut(page) else { return false };
        let mut copy = **data;
        for _ in 0..random.range(1, 4) {
            copy[random.below(PAGE_SIZE as u64) as usize] ^= 1 << random.below(8);
        }
        *data = Rc::new(copy);
        true
    }
}
