//! Files: the directory of one core, read at start, and the helper threads that do what would block a turn.
//!
//! ```text
//! DATA_DIR/core-N.begun                         the inventory of the core's log: which segments it was ever given
//! DATA_DIR/core-N.unbegun                       the core has the state that the cluster begins with, and has had no log
//! DATA_DIR/core-N/log/0000000000000001.wal      segments of the core's log
//! DATA_DIR/core-N/snapshot/G-SLOT.snapshot      the state of group G up to and including SLOT
//! DATA_DIR/core-N/snapshot/G-SLOT.partial       one that is being written; removed at start
//! ```
//! The inventory is there once the core has had a log: without one it may not start again. It does not lie in the core's own
//! directory, because that may be what gets lost. A snapshot file is complete when it has its final name: it is synced before it is renamed, and the directory after.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use panch_replica::snapshot::{self, Restored, SnapshotFault, SnapshotFiles};
use panch_replica::transfer::SnapshotFile;
use panch_ring::doorbell::Doorbell;
use panch_ring::file::{self, LogFile, Pace};
use panch_wal::{
    INVENTORY_SIZE, Inventory, Preparation, RecoverError, SegmentFile, SegmentReader, SegmentSequence,
};
use panch_wire::frame::{PAGE_SIZE, Page};
use panch_wire::ids::{GroupId, ReplicaId, Slot};

/// Something for a helper thread.
pub(crate) enum Job {
    /// Create or rename a segment.
    Prepare(Preparation),
    /// Delete a segment that is no longer part of the log.
    Delete(SegmentSequence),
    /// Write a chunk of a snapshot; `last` completes it.
    SnapshotWrite { group: GroupId, slot: Slot, offset: u64, bytes: Vec<u8>, last: bool },
    /// Read a chunk of a snapshot for a peer.
    SnapshotRead { group: GroupId, peer: ReplicaId, file: SnapshotFile, offset: u64, length: usize },
    /// Remove a snapshot.
    SnapshotRemove { group: GroupId, slot: Slot },
    /// Remove what is not complete of a snapshot.
    SnapshotAbandon { group: GroupId, slot: Slot },
}

/// What became of a job.
pub(crate) enum Done {
    Prepared {
        sequence: SegmentSequence,
        result: io::Result<OwnedFd>,
    },
    SnapshotWritten {
        group: GroupId,
        slot: Slot,
        result: Result<bool, SnapshotUnwritten>,
    },
    SnapshotRead {
        group: GroupId,
        peer: ReplicaId,
        file: SnapshotFile,
        offset: u64,
        bytes: io::Result<Vec<u8>>,
    },
}

/// Why a piece of a snapshot was not written.
#[derive(Debug)]
pub(crate) enum SnapshotUnwritten {
    /// The disk did not take it.
    Disk(io::Error),
    /// It did not take a piece before, and the snapshot was given up.
    GivenUp,
}

impl From<io::Error> for SnapshotUnwritten {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// The core's end of its helper threads, which end when this is dropped.
///
/// There are two, so that the log never waits for a snapshot: one that needs its next segment stops taking writes.
pub(crate) struct Storage {
    log: Option<Sender<Job>>,
    snapshots: Option<Sender<Job>>,
    done: Receiver<Done>,
    /// Set when nothing that still waits is wanted any more.
    ending: Arc<AtomicBool>,
    /// See [`Storage::note_use`].
    used: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Storage {
    /// Starts the helper threads of a core; they ring `doorbell` for each thing done.
    pub(crate) fn start(directory: CoreDirectory, segment_size: u64, doorbell: Doorbell) -> io::Result<Self> {
        let (outbox, done) = unbounded();
        let (log, log_jobs) = unbounded();
        let (snapshots, snapshot_jobs) = unbounded();
        let ending = Arc::new(AtomicBool::new(false));
        let used = Arc::new(AtomicU64::new(1000));
        let mut storage = Self {
            log: Some(log),
            snapshots: Some(snapshots),
            done,
            ending: Arc::clone(&ending),
            used: Arc::clone(&used),
            threads: Vec::new(),
        };
        for (name, inbox) in [("panch-log", log_jobs), ("panch-snapshot", snapshot_jobs)] {
            let worker = Worker {
                directory: directory.clone(),
                segment_size,
                partial: HashMap::new(),
                outbox: outbox.clone(),
                doorbell: doorbell.clone(),
                ending: Arc::clone(&ending),
                used: Arc::clone(&used),
            };
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || worker.run(&inbox))?;
            storage.threads.push(thread);
        }
        Ok(storage)
    }

    /// Hands a job over. The queues are bounded by what the log and the snapshots have in flight.
    pub(crate) fn submit(&self, job: Job) {
        let jobs = match job {
            Job::Prepare(_) | Job::Delete(_) => &self.log,
            Job::SnapshotWrite { .. }
            | Job::SnapshotRead { .. }
            | Job::SnapshotRemove { .. }
            | Job::SnapshotAbandon { .. } => &self.snapshots,
        };
        if let Some(jobs) = jobs {
            // A helper ends only after its sender is dropped.
            let _ = jobs.send(job);
        }
    }

    /// So many thousandths of the current segment are used: the next one is prepared no faster than it is needed.
    pub(crate) fn note_use(&self, permille: u64) {
        self.used.store(permille, Ordering::Relaxed);
    }

    /// The next thing done.
    pub(crate) fn next_done(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// Whether nothing done waits to be taken.
    pub(crate) fn is_quiet(&self) -> bool {
        self.done.is_empty()
    }
}

impl Drop for Storage {
    /// Waits for what is being done: the lock on the data directory may be released next, and then the files are
    /// another process's.
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        (self.log, self.snapshots) = (None, None);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Bytes of a snapshot between two syncs while it is written, so that the last one is short.
const SYNC_EVERY: usize = 8 << 20;

/// A snapshot that is being written.
struct Partial {
    file: File,
    unsynced: usize,
}

struct Worker {
    directory: CoreDirectory,
    segment_size: u64,
    partial: HashMap<(GroupId, Slot), Partial>,
    outbox: Sender<Done>,
    doorbell: Doorbell,
    ending: Arc<AtomicBool>,
    used: Arc<AtomicU64>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
            if self.ending.load(Ordering::Relaxed) {
                return;
            }
            if let Some(done) = self.perform(job, inbox) {
                let _ = self.outbox.send(done);
                self.doorbell.ring();
            }
        }
    }

    /// Does a job; `inbox` are those that wait for it.
    fn perform(&mut self, job: Job, inbox: &Receiver<Job>) -> Option<Done> {
        match job {
            Job::Prepare(preparation) => {
                let sequence = preparation.sequence;
                let result = self.prepare(preparation, |prepared| self.pace(prepared, inbox.is_empty()));
                Some(Done::Prepared { sequence, result })
            }
            Job::Delete(sequence) => {
                // A file that stays is ignored by recovery and costs only space.
                let _ = file::remove(&self.directory.segment(sequence));
                None
            }
            Job::SnapshotWrite { group, slot, offset, bytes, last } => {
                let result = self.snapshot_write(group, slot, offset, &bytes, last);
                if result.is_err() {
                    self.snapshot_abandon(group, slot);
                }
                Some(Done::SnapshotWritten { group, slot, result })
            }
            Job::SnapshotRead { group, peer, file, offset, length } => {
                let mut bytes = vec![0; length];
                let read = File::open(self.directory.snapshot(group, file.slot))
                    .and_then(|file| file.read_exact_at(&mut bytes, offset));
                Some(Done::SnapshotRead { group, peer, file, offset, bytes: read.map(|()| bytes) })
            }
            Job::SnapshotRemove { group, slot } => {
                self.snapshot_abandon(group, slot);
                // It may not exist; one that stays is superseded and removed at the next start.
                let _ = fs::remove_file(self.directory.snapshot(group, slot));
                None
            }
            Job::SnapshotAbandon { group, slot } => {
                self.snapshot_abandon(group, slot);
                None
            }
        }
    }

    /// There is time if the next segment, of which so many thousandths are there, is half as much again ahead of what is used of the
    /// current one, and if nothing else, like a file to be deleted for its room, waits behind it.
    fn pace(&self, prepared: u64, is_last: bool) -> Pace {
        let used = self.used.load(Ordering::Relaxed);
        match prepared > used + used / 2 && is_last {
            _ if self.ending.load(Ordering::Relaxed) => Pace::Stop,
            true => Pace::Rest,
            false => Pace::Hurry,
        }
    }

    fn prepare(&self, preparation: Preparation, pace: impl Fn(u64) -> Pace) -> io::Result<OwnedFd> {
        let path = self.directory.segment(preparation.sequence);
        // Left by an earlier try that failed late, when its name was there already.
        let left = fs::metadata(&path).is_ok_and(|file| file.len() == self.segment_size);
        let log = match preparation.recycle {
            Some(old) => {
                let old = self.directory.segment(old);
                let log = file::rename(&old, &path).and_then(|()| LogFile::open(&path));
                if log.is_err() && !old.exists() {
                    // The segment failed under its new name: under the old one it will be deleted.
                    let _ = file::rename(&path, &old);
                }
                log?
            }
            None if left => {
                let log = LogFile::open(&path)?;
                file::sync_directory(&self.directory.log)?;
                log
            }
            None => LogFile::create(&path, self.segment_size, pace)?,
        };
        // The file is there for good, and the log is not told yet: nothing in it may be forgotten from now on.
        self.directory.note(|inventory| inventory.add(preparation.sequence, self.segment_size))?;
        Ok(log.into())
    }

    fn snapshot_write(
        &mut self,
        group: GroupId,
        slot: Slot,
        offset: u64,
        bytes: &[u8],
        last: bool,
    ) -> Result<bool, SnapshotUnwritten> {
        let path = self.directory.partial(group, slot);
        if offset == 0 {
            self.partial.insert((group, slot), Partial { file: File::create(&path)?, unsynced: 0 });
        }
        let Some(partial) = self.partial.get_mut(&(group, slot)) else {
            return Err(SnapshotUnwritten::GivenUp);
        };
        partial.file.write_all_at(bytes, offset)?;
        partial.unsynced += bytes.len();
        if last {
            partial.file.sync_all()?;
            file::rename(&path, &self.directory.snapshot(group, slot))?;
            self.partial.remove(&(group, slot));
        } else if partial.unsynced >= SYNC_EVERY {
            partial.unsynced = 0;
            partial.file.sync_data()?;
        }
        Ok(last)
    }

    /// What is left of a file that is not complete goes. A complete one of that name, which it was to replace, may be all that there is of
    /// what it covers.
    fn snapshot_abandon(&mut self, group: GroupId, slot: Slot) {
        self.partial.remove(&(group, slot));
        // It may not exist; one that stays is removed at the next start.
        let _ = fs::remove_file(self.directory.partial(group, slot));
    }
}

/// The files of one core.
#[derive(Clone)]
pub(crate) struct CoreDirectory {
    log: Arc<Path>,
    snapshots: Arc<Path>,
    begun: Arc<Path>,
    unbegun: Arc<Path>,
}

const COMPLETE: &str = "snapshot";
const PARTIAL: &str = "partial";

impl CoreDirectory {
    /// The directory of `core` below the node's, made if it is not there.
    pub(crate) fn open(data_dir: &Path, core: usize) -> io::Result<Self> {
        let base = data_dir.join(format!("core-{core}"));
        let (log, snapshots) = (base.join("log"), base.join("snapshot"));
        fs::create_dir_all(&log)?;
        fs::create_dir_all(&snapshots)?;
        for directory in [data_dir, &base, &snapshots] {
            file::sync_directory(directory)?;
        }
        let begun = data_dir.join(format!("core-{core}.begun"));
        Ok(Self {
            log: log.into(),
            snapshots: snapshots.into(),
            begun: begun.into(),
            unbegun: unbegun(data_dir, core).into(),
        })
    }

    /// Whether a log of the core is on the disk. Makes nothing.
    pub(crate) fn holds_log(data_dir: &Path, core: usize) -> io::Result<bool> {
        match fs::read_dir(data_dir.join(format!("core-{core}/log"))) {
            Ok(mut entries) => Ok(entries.next().is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the core may have voted: it has had a log.
    pub(crate) fn has_begun(&self) -> io::Result<bool> {
        self.begun.try_exists()
    }

    /// The core is given a state to begin with, and has no log: for good once this returns.
    pub(crate) fn await_log(&self) -> io::Result<()> {
        File::create(&self.unbegun)?.sync_all()?;
        self.unbegun.parent().map_or(Ok(()), file::sync_directory)
    }

    /// Whether the state that the core has been given is all that it ever had.
    pub(crate) fn awaits_log(&self) -> io::Result<bool> {
        self.unbegun.try_exists()
    }

    /// The same of a core in a data directory. Makes nothing.
    pub(crate) fn is_unbegun(data_dir: &Path, core: usize) -> io::Result<bool> {
        unbegun(data_dir, core).try_exists()
    }

    /// The inventory of the core's log; `None` if there is none, or only the mark of an earlier version.
    pub(crate) fn inventory(&self) -> io::Result<Result<Option<Inventory>, RecoverError>> {
        match fs::read(&self.begun) {
            Ok(bytes) => Ok(Inventory::read(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
            Err(error) => Err(error),
        }
    }

    /// Changes the inventory, for good once this returns. The core may vote from then on.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Inventory)) -> io::Result<()> {
        let known = self.inventory()?.map_err(io::Error::other)?;
        let is_new = known.is_none();
        let mut inventory = known.unwrap_or_default();
        change(&mut inventory);
        let (offset, page) = inventory.encode();
        if is_new {
            let temporary = self.begun.with_extension("begun.new");
            let file = File::create(&temporary)?;
            file.write_all_at(&[0; INVENTORY_SIZE], 0)?;
            file.write_all_at(&page.0, offset)?;
            file.sync_all()?;
            file::rename(&temporary, &self.begun)?;
        } else {
            // In place: on a full disk, too, a segment can be taken over.
            let file = File::options().write(true).open(&self.begun)?;
            // What was read may be of a process that was killed before it was durable; the other copy may be all there is.
            file.sync_data()?;
            file.write_all_at(&page.0, offset)?;
            file.sync_data()?;
        }
        // From now on a directory without a log has lost it.
        if self.awaits_log()? { file::remove(&self.unbegun) } else { Ok(()) }
    }

    /// Strikes prepared segments from the inventory and removes them, from the highest down.
    pub(crate) fn discard(&self, segments: &[SegmentSequence]) -> io::Result<()> {
        let Some(lowest) = segments.last() else { return Ok(()) };
        self.note(|inventory| inventory.remove_from(*lowest))?;
        segments.iter().try_for_each(|segment| file::remove(&self.segment(*segment)))
    }

    pub(crate) fn segment(&self, sequence: SegmentSequence) -> PathBuf {
        self.log.join(sequence.file_name())
    }

    pub(crate) fn snapshot(&self, group: GroupId, slot: Slot) -> PathBuf {
        self.snapshots.join(format!("{}-{}.{COMPLETE}", group.0, slot.0))
    }

    fn partial(&self, group: GroupId, slot: Slot) -> PathBuf {
        self.snapshots.join(format!("{}-{}.{PARTIAL}", group.0, slot.0))
    }

    /// The complete snapshot files: those that count at this start, and the others. Removes incomplete ones.
    pub(crate) fn snapshot_files(&self) -> io::Result<SnapshotFiles> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.snapshots)? {
            let path = entry?.path();
            match parse_name(&path) {
                Some((group, slot, true)) => found.push((group, slot)),
                Some((_, _, false)) => fs::remove_file(&path)?,
                None => {}
            }
        }
        Ok(found.into())
    }

    /// Loads a snapshot.
    pub(crate) fn load_snapshot(
        &self,
        group: GroupId,
        slot: Slot,
        hash_seed: u64,
    ) -> Result<(SnapshotFile, Restored), SnapshotFault> {
        let file = File::open(self.snapshot(group, slot))?;
        snapshot::file::load(group, slot, hash_seed, |offset, into| file.read_at(into, offset))
    }

    /// A new snapshot file, to be filled and then given to [`CoreDirectory::end_snapshot`].
    pub(crate) fn begin_snapshot(&self, group: GroupId, slot: Slot) -> io::Result<File> {
        File::create(self.partial(group, slot))
    }

    /// The snapshot is complete: it survives a crash once this returns.
    pub(crate) fn end_snapshot(&self, file: File, group: GroupId, slot: Slot) -> io::Result<()> {
        file.sync_all()?;
        file::rename(&self.partial(group, slot), &self.snapshot(group, slot))
    }

    /// Removes snapshots that others supersede.
    pub(crate) fn remove_snapshots(&self, files: &[(GroupId, Slot)]) -> io::Result<()> {
        files.iter().try_for_each(|(group, slot)| fs::remove_file(self.snapshot(*group, *slot)))
    }

    /// The log's segments, for recovery.
    pub(crate) fn segments(&self) -> DirectoryReader<'_> {
        DirectoryReader { directory: self, open: HashMap::new() }
    }
}

fn unbegun(data_dir: &Path, core: usize) -> PathBuf {
    data_dir.join(format!("core-{core}.unbegun"))
}

fn parse_name(path: &Path) -> Option<(GroupId, Slot, bool)> {
    let complete = match path.extension()?.to_str()? {
        COMPLETE => true,
        PARTIAL => false,
        _ => return None,
    };
    let (group, slot) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((GroupId(group.parse().ok()?), Slot(slot.parse().ok()?), complete))
}

/// Reads segments with blocking calls, at start.
pub(crate) struct DirectoryReader<'a> {
    directory: &'a CoreDirectory,
    open: HashMap<SegmentSequence, LogFile>,
}

impl DirectoryReader<'_> {
    fn file(&mut self, sequence: SegmentSequence) -> io::Result<&LogFile> {
        use std::collections::hash_map::Entry;
        match self.open.entry(sequence) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(LogFile::open(&self.directory.segment(sequence))?)),
        }
    }
}

impl SegmentReader for DirectoryReader<'_> {
    fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.directory.log)? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(sequence) = name.to_str().and_then(SegmentSequence::from_file_name) {
                segments.push(SegmentFile { sequence, size: entry.metadata()?.len() });
            }
        }
        Ok(segments)
    }

    fn read(&mut self, sequence: SegmentSequence, offset: u64, into: &mut [u8]) -> io::Result<()> {
        // Recovery reads whole pages into page-aligned memory, as O_DIRECT needs.
        let pages: &mut [Page] = bytemuck::cast_slice_mut(into);
        let count = self.file(sequence)?.read_pages(offset, pages)?;
        if count == pages.len() * PAGE_SIZE { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_SIZE: u64 = 1 << 16;
    const GROUP: GroupId = GroupId(3);

    fn storage(path: &Path) -> (CoreDirectory, Storage) {
        let directory = CoreDirectory::open(path, 0).unwrap();
        let storage = Storage::start(directory.clone(), SEGMENT_SIZE, Doorbell::new().unwrap()).unwrap();
        (directory, storage)
    }

    fn wait(storage: &Storage) -> Done {
        storage.done.recv_timeout(std::time::Duration::from_secs(20)).expect("something is done")
    }

    fn prepare(storage: &Storage, sequence: u64, recycle: Option<u64>) -> io::Result<OwnedFd> {
        let preparation =
            Preparation { sequence: SegmentSequence(sequence), recycle: recycle.map(SegmentSequence) };
        storage.submit(Job::Prepare(preparation));
        let Done::Prepared { sequence: prepared, result } = wait(storage) else { panic!("a segment") };
        assert_eq!(prepared, SegmentSequence(sequence));
        result
    }

    #[test]
    fn a_core_has_begun_once_it_has_a_segment() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, storage) = storage(dir.path());
        assert!(!directory.has_begun().unwrap());
        prepare(&storage, 1, None).unwrap();
        assert!(directory.has_begun().unwrap());
        fs::remove_dir_all(dir.path().join("core-0")).unwrap();
        assert!(CoreDirectory::open(dir.path(), 0).unwrap().has_begun().unwrap());
    }

    #[test]
    fn a_core_that_waits_for_its_log_does_so_until_it_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, storage) = storage(dir.path());
        directory.await_log().unwrap();
        assert!(directory.awaits_log().unwrap() && CoreDirectory::is_unbegun(dir.path(), 0).unwrap());
        prepare(&storage, 1, None).unwrap();
        assert!(directory.has_begun().unwrap() && !directory.awaits_log().unwrap());
        // A crash has left it.
        directory.await_log().unwrap();
        prepare(&storage, 2, None).unwrap();
        assert!(!directory.awaits_log().unwrap());
    }

    #[test]
    fn every_segment_is_in_the_inventory_before_the_log_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, storage) = storage(dir.path());
        // The mark of an earlier version: nothing is known, and the segment that is there is not added by itself.
        fs::write(&directory.begun, b"").unwrap();
        assert!(directory.inventory().unwrap().unwrap().is_none());
        let mut expected = Inventory::default();
        for (sequence, recycle) in [(1, None), (2, None), (3, Some(1))] {
            prepare(&storage, sequence, recycle).unwrap();
            expected.add(SegmentSequence(sequence), SEGMENT_SIZE);
            let _ = expected.encode();
            assert_eq!(directory.inventory().unwrap().unwrap(), Some(expected.clone()));
        }
        assert_eq!(fs::metadata(&directory.begun).unwrap().len(), INVENTORY_SIZE as u64);
        directory.discard(&[SegmentSequence(3), SegmentSequence(2)]).unwrap();
        expected.remove_from(SegmentSequence(2));
        let _ = expected.encode();
        assert_eq!(directory.inventory().unwrap().unwrap(), Some(expected));
        assert_eq!(fs::read_dir(&directory.log).unwrap().count(), 0);
    }

    #[test]
    fn a_segment_that_cannot_be_noted_is_not_given_to_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, storage) = storage(dir.path());
        // A directory cannot be written to.
        fs::create_dir(&directory.begun).unwrap();
        assert!(prepare(&storage, 1, None).is_err());
        fs::remove_dir(&directory.begun).unwrap();
        prepare(&storage, 1, None).unwrap();
    }

    #[test]
    fn a_segment_that_is_there_already_is_taken_if_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, storage) = storage(dir.path());
        drop(LogFile::create(&directory.segment(SegmentSequence(1)), SEGMENT_SIZE, |_| Pace::Hurry).unwrap());
        prepare(&storage, 1, None).unwrap();
        fs::write(directory.segment(SegmentSequence(2)), b"short").unwrap();
        assert_eq!(prepare(&storage, 2, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_recycled_segment_that_cannot_be_opened_gets_its_name_back() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, storage) = storage(dir.path());
        let [old, new] = [1, 2].map(|sequence| directory.segment(SegmentSequence(sequence)));
        // A directory can be renamed, but not opened for writing.
        fs::create_dir(&old).unwrap();
        assert!(prepare(&storage, 2, Some(1)).is_err());
        assert!(old.exists() && !new.exists());
        fs::remove_dir(&old).unwrap();
        prepare(&storage, 1, None).unwrap();
        prepare(&storage, 2, Some(1)).unwrap();
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn a_snapshot_has_its_name_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, storage) = storage(dir.path());
        let chunk = vec![7; 3 << 20];
        for index in 0..4 {
            let (offset, last) = (index * chunk.len() as u64, index == 3);
            assert!(!directory.snapshot(GROUP, Slot(9)).exists());
            let bytes = chunk.clone();
            storage.submit(Job::SnapshotWrite { group: GROUP, slot: Slot(9), offset, bytes, last });
            let Done::SnapshotWritten { result, .. } = wait(&storage) else { panic!("a chunk") };
            assert_eq!(result.unwrap(), last);
        }
        let size = fs::metadata(directory.snapshot(GROUP, Slot(9))).unwrap().len();
        assert_eq!(size, 4 * chunk.len() as u64);
        assert!(!directory.partial(GROUP, Slot(9)).exists());
    }

    /// A snapshot of the same slot is there and is to be replaced, because it may be damaged: it may be good, and is all that there is.
    #[test]
    fn a_snapshot_that_cannot_be_written_leaves_the_one_that_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, storage) = storage(dir.path());
        let (slot, group) = (Slot(9), GROUP);
        let complete = directory.snapshot(group, slot);
        let partial = directory.partial(group, slot);
        let write = |offset, last| {
            storage.submit(Job::SnapshotWrite { group, slot, offset, bytes: b"another".to_vec(), last });
            let Done::SnapshotWritten { result, .. } = wait(&storage) else { panic!("a chunk") };
            result
        };
        let stays = || assert_eq!(fs::read(&complete).unwrap(), b"the former");
        fs::write(&complete, b"the former").unwrap();
        // It cannot be created, as with no room and no descriptors; what follows of it has nowhere to go.
        fs::create_dir(&partial).unwrap();
        assert!(matches!(write(0, false), Err(SnapshotUnwritten::Disk(_))));
        stays();
        fs::remove_dir(&partial).unwrap();
        assert!(matches!(write(7, true), Err(SnapshotUnwritten::GivenUp)));
        stays();
        // It is given up in the middle.
        assert!(!write(0, false).unwrap());
        storage.submit(Job::SnapshotAbandon { group, slot });
        assert!(write(7, true).is_err());
        stays();
        assert!(!partial.exists());
        // It cannot get its name.
        assert!(!write(0, false).unwrap());
        fs::remove_file(&partial).unwrap();
        assert!(write(7, true).is_err());
        stays();
        assert!(write(0, true).unwrap());
        assert_eq!(fs::read(&complete).unwrap(), b"another");
        storage.submit(Job::SnapshotRemove { group, slot });
        assert!(write(7, false).is_err());
        assert!(!complete.exists());
    }

    /// Whatever the reason, a start leaves the file as it is, and takes no older one for it.
    #[test]
    fn a_snapshot_that_cannot_be_loaded_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, _storage) = storage(dir.path());
        let newest = directory.snapshot(GROUP, Slot(9));
        fs::write(directory.snapshot(GROUP, Slot(4)), b"older").unwrap();
        fs::write(directory.partial(GROUP, Slot(10)), b"incomplete").unwrap();
        std::os::unix::fs::symlink("nowhere", &newest).unwrap();
        let load = || directory.load_snapshot(GROUP, Slot(9), 1).err().unwrap();
        assert!(matches!(load(), SnapshotFault::Read(_)), "a dangling link");
        fs::remove_file(&newest).unwrap();
        fs::write(&newest, vec![1; 100]).unwrap();
        assert!(matches!(load(), SnapshotFault::Damaged(_)));
        let SnapshotFiles { newest: counts, superseded } = directory.snapshot_files().unwrap();
        assert_eq!((counts, superseded), (vec![(GROUP, Slot(9))], vec![(GROUP, Slot(4))]));
        assert!(newest.exists() && !directory.partial(GROUP, Slot(10)).exists());
    }

    #[test]
    fn nothing_is_written_after_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, storage) = storage(dir.path());
        for sequence in 1..50 {
            let preparation = Preparation { sequence: SegmentSequence(sequence), recycle: None };
            storage.submit(Job::Prepare(preparation));
        }
        drop(storage);
        let count = || fs::read_dir(&directory.log).unwrap().count();
        let before = count();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(count(), before);
    }
}
