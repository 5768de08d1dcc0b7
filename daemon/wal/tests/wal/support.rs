//! A disk in memory, and a node that drives a log on it.

use std::collections::BTreeMap;
use std::io;

use panch_wal::{
    Appended, BodyRef, Config, Durability, Entry, Inventory, Location, Lsn, RecordKind, RecoverError,
    Recovered, SegmentFile, SegmentReader, SegmentSequence, Wal, Write, recover,
};
use panch_wire::batch::BatchWriter;
use panch_wire::command::{Command, CommandKind};
use panch_wire::frame::{Frame, FramePool, PAGE_SIZE};
use panch_wire::ids::{BatchId, GroupId, Incarnation, ReplicaId};
use panch_wire::time::{Duration, Instant};

pub(crate) const IDENTITY: u64 = 0x5eed_5eed_0bad_cafe;
pub(crate) const STATE: RecordKind = RecordKind(200);
pub(crate) const GROUP_COUNT: u16 = 3;

/// Segments of 16 pages, commit groups of 4, no body packed.
pub(crate) fn config() -> Config {
    Config {
        segment_size: 16 * PAGE_SIZE as u64,
        group_size_max: 4 * PAGE_SIZE,
        packed_size_max: 0,
        writes_in_flight_max: 4,
        spares: 1,
        reuse_max: 1,
        attest_after: Duration::from_millis(50),
        retry_after: Duration::from_secs(1),
        durability: Durability::Sync,
    }
}

/// The same with small bodies packed.
pub(crate) fn packed() -> Config {
    Config { packed_size_max: Config::default().packed_size_max, ..config() }
}

pub(crate) fn frame(pool: &FramePool, counter: u64, size: usize) -> Frame {
    let mut writer = BatchWriter::new(pool.take(size + 512).unwrap(), Vec::new());
    let value = vec![counter as u8 | 1; size];
    let command = Command { kind: CommandKind::Set, flags: 0, session: None, key: b"key", value: &value };
    assert!(writer.push(&command));
    writer.seal(BatchId { proposer: ReplicaId(1), incarnation: Incarnation(1), counter }).0
}

/// Bytes that are stable, and pages that a power failure may take back.
#[derive(Clone, Default)]
pub(crate) struct MemoryDisk {
    pub(crate) files: BTreeMap<u64, Vec<u8>>,
    unstable: BTreeMap<(u64, u64), Vec<u8>>,
    pub(crate) inventory: Inventory,
}

impl MemoryDisk {
    pub(crate) fn write_page(&mut self, segment: SegmentSequence, offset: u64, page: &[u8], stable: bool) {
        let at = (segment.0, offset / PAGE_SIZE as u64);
        let file = self.files.get_mut(&segment.0).expect("a write goes to a prepared segment");
        assert!(offset as usize + PAGE_SIZE <= file.len(), "a write stays within its segment");
        if stable {
            self.unstable.remove(&at);
            file[offset as usize..][..PAGE_SIZE].copy_from_slice(page);
        } else {
            self.unstable.insert(at, page.to_vec());
        }
    }

    pub(crate) fn sync(&mut self, segment: SegmentSequence) {
        self.lose_power(&mut |at| at.0 == segment.0 || at.0 == u64::MAX, false);
    }

    /// Each page that is not stable becomes so if `keep` says it, and is lost otherwise (if `lose`).
    pub(crate) fn lose_power(&mut self, keep: &mut dyn FnMut((u64, u64)) -> bool, lose: bool) {
        for (at, page) in std::mem::take(&mut self.unstable) {
            if keep(at) {
                self.files.get_mut(&at.0).unwrap()[at.1 as usize * PAGE_SIZE..][..PAGE_SIZE]
                    .copy_from_slice(&page);
            } else if !lose {
                self.unstable.insert(at, page);
            }
        }
    }

    /// Renames `old` to `new`, bytes and all.
    pub(crate) fn rename(&mut self, old: SegmentSequence, new: SegmentSequence) {
        self.sync(old);
        let file = self.files.remove(&old.0).expect("a released segment is there");
        assert!(self.files.insert(new.0, file).is_none());
    }

    pub(crate) fn flip(&mut self, segment: u64, at: usize, mask: u8) {
        self.files.get_mut(&segment).unwrap()[at] ^= mask;
    }
}

impl SegmentReader for MemoryDisk {
    fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
        let file = |(sequence, bytes): (&u64, &Vec<u8>)| SegmentFile {
            sequence: SegmentSequence(*sequence),
            size: bytes.len() as u64,
        };
        Ok(self.files.iter().rev().map(file).collect())
    }

    fn read(&mut self, sequence: SegmentSequence, offset: u64, into: &mut [u8]) -> io::Result<()> {
        assert!(into.len().is_multiple_of(PAGE_SIZE) && offset.is_multiple_of(PAGE_SIZE as u64));
        assert!((into.as_ptr() as usize).is_multiple_of(PAGE_SIZE), "direct reads need aligned memory");
        let file = self.files.get(&sequence.0).ok_or(io::ErrorKind::NotFound)?;
        let end = offset as usize + into.len();
        into.copy_from_slice(file.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        for (page, chunk) in into.chunks_mut(PAGE_SIZE).enumerate() {
            let at = (sequence.0, offset / PAGE_SIZE as u64 + page as u64);
            if let Some(unstable) = self.unstable.get(&at) {
                chunk.copy_from_slice(unstable);
            }
        }
        Ok(())
    }
}

/// A record as the test remembers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Remembered {
    pub(crate) lsn: Lsn,
    pub(crate) group: GroupId,
    pub(crate) kind: RecordKind,
    pub(crate) bytes: Vec<u8>,
    pub(crate) body: Option<u64>,
}

impl Remembered {
    fn of(entry: &Entry<'_>) -> Self {
        Self {
            lsn: entry.lsn,
            group: entry.group,
            kind: entry.kind,
            bytes: entry.bytes.to_vec(),
            body: entry.body.as_ref().map(|frame| frame.id().counter),
        }
    }
}

/// What one recovery told.
#[derive(Default, Debug)]
pub(crate) struct Past {
    pub(crate) appended: Vec<Remembered>,
    pub(crate) restated: Vec<Remembered>,
    /// The largest state of each group, from its own records and from restatements.
    pub(crate) states: BTreeMap<GroupId, u64>,
    pub(crate) bodies: Vec<(BodyRef, Location, Frame)>,
}

pub(crate) fn read_back(disk: &mut MemoryDisk, identity: u64) -> Result<(Recovered, Past), RecoverError> {
    let mut past = Past::default();
    let pool = FramePool::new(16 << 20);
    let inventory = disk.inventory.clone();
    let recovered = recover(disk, identity, Some(&inventory), &pool, |entry| {
        let remembered = Remembered::of(&entry);
        if entry.kind == STATE {
            let state = u64::from_le_bytes(entry.bytes.try_into().unwrap());
            let known = past.states.entry(entry.group).or_default();
            *known = state.max(*known);
        }
        if let (Some(frame), Some((named, location))) = (&entry.body, entry.body_at) {
            past.bodies.push((named, location, frame.clone()));
        }
        if entry.restated { &mut past.restated } else { &mut past.appended }.push(remembered);
    })?;
    Ok((recovered, past))
}

/// A log with its driver.
pub(crate) struct Node {
    pub(crate) wal: Wal,
    pub(crate) disk: MemoryDisk,
    pub(crate) pool: FramePool,
    pub(crate) now: Instant,
    pub(crate) in_flight: Vec<Write>,
    /// The state of each group, restated in every segment.
    pub(crate) states: BTreeMap<GroupId, u64>,
    pub(crate) counter: u64,
    /// Preparing fails while this is set.
    pub(crate) disk_full: bool,
    pub(crate) durability: Durability,
}

impl Node {
    pub(crate) fn create(config: Config) -> Self {
        let durability = config.durability;
        let mut node = Self {
            wal: Wal::create(config, IDENTITY),
            disk: MemoryDisk::default(),
            pool: FramePool::new(16 << 20),
            now: Instant(1_000_000_000),
            in_flight: Vec::new(),
            states: BTreeMap::new(),
            counter: 0,
            disk_full: false,
            durability,
        };
        node.prepare();
        node
    }

    /// Starts again on what the disk holds.
    pub(crate) fn restart(&mut self, config: Config) -> Result<(Recovered, Past), RecoverError> {
        self.in_flight.clear();
        let (recovered, past) = read_back(&mut self.disk, IDENTITY)?;
        let (mut again, _) = read_back(&mut self.disk, IDENTITY)?;
        for misfit in again.take_misfits(config.segment_size) {
            self.disk.inventory.remove_from(misfit);
            self.disk.files.remove(&misfit.0).unwrap();
        }
        self.durability = config.durability;
        self.wal = Wal::resume(config, again);
        self.states = past.states.clone();
        Ok((recovered, past))
    }

    pub(crate) fn prepare(&mut self) {
        while let Some(sequence) = self.wal.take_surplus() {
            self.disk.sync(sequence);
            self.disk.files.remove(&sequence.0).unwrap();
        }
        while let Some(preparation) = self.wal.wants_segment(self.now) {
            let size = 16 * PAGE_SIZE;
            match preparation.recycle {
                _ if self.disk_full => {
                    self.wal.segment_failed(preparation.sequence);
                    continue;
                }
                Some(old) => self.disk.rename(old, preparation.sequence),
                None => assert!(self.disk.files.insert(preparation.sequence.0, vec![0; size]).is_none()),
            }
            self.disk.inventory.add(preparation.sequence, size as u64);
            self.wal.segment_ready(preparation.sequence);
        }
    }

    pub(crate) fn append(&mut self, group: u16, bytes: &[u8]) -> Appended {
        self.wal.append(GroupId(group), RecordKind(1), bytes, None)
    }

    pub(crate) fn append_body(&mut self, group: u16, bytes: &[u8], size: usize) -> (Appended, Frame) {
        self.counter += 1;
        let frame = frame(&self.pool, self.counter, size);
        (self.wal.append(GroupId(group), RecordKind(2), bytes, Some(&frame)), frame)
    }

    /// Raises the small state of `group`, as a promise would.
    pub(crate) fn promise(&mut self, group: u16, state: u64) -> Appended {
        self.states.insert(GroupId(group), state);
        self.wal.append(GroupId(group), STATE, &state.to_le_bytes(), None)
    }

    /// Takes every write there is. Returns how many.
    pub(crate) fn submit(&mut self) -> usize {
        let mut count = 0;
        while let Some(write) = self.wal.next_write(self.now, |restatement| {
            for (group, state) in &self.states {
                restatement.record(*group, STATE, &state.to_le_bytes());
            }
        }) {
            assert_eq!(write.dsync(), self.durability == Durability::Sync);
            assert_eq!(write.parts().map(<[u8]>::len).sum::<usize>(), write.size());
            assert_eq!(write.parts().count(), write.part_count());
            assert!(write.parts().all(|part| (part.as_ptr() as usize).is_multiple_of(PAGE_SIZE)));
            self.in_flight.push(write);
            count += 1;
        }
        count
    }

    /// Puts the pages that `keep` chooses on disk, stable or not.
    pub(crate) fn store(disk: &mut MemoryDisk, write: &Write, stable: bool, keep: &mut dyn FnMut() -> bool) {
        let mut offset = write.offset();
        for page in write.parts().flat_map(|part| part.chunks(PAGE_SIZE)) {
            if keep() {
                disk.write_page(write.segment(), offset, page, stable);
            }
            offset += PAGE_SIZE as u64;
        }
    }

    /// Completes the write at `index` of those in flight.
    pub(crate) fn complete(&mut self, index: usize) {
        let write = self.in_flight.remove(index);
        Self::store(&mut self.disk, &write, write.dsync(), &mut || true);
        self.wal.on_written(write, Ok(())).unwrap();
        self.prepare();
    }

    pub(crate) fn sync(&mut self) {
        while let Some(sync) = self.wal.next_sync(self.now) {
            self.disk.sync(sync.segment());
            self.wal.on_synced(sync, Ok(())).unwrap();
        }
        self.prepare();
    }

    /// Writes everything there is.
    pub(crate) fn settle(&mut self) {
        self.sync();
        while self.submit() > 0 {
            while !self.in_flight.is_empty() {
                self.complete(0);
            }
        }
    }

    /// Lets the log go quiet, until it has nothing more to attest.
    pub(crate) fn rest(&mut self) {
        self.settle();
        // One attests the records, one a restatement if that opened a segment, one a release.
        for _ in 0..4 {
            self.now = self.now + Duration::from_millis(60);
            self.settle();
        }
        assert!(self.wal.is_stalled() || self.wal.deadline().is_none(), "the log comes to rest");
    }
}
