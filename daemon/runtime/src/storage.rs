//! Files: the directory of one core, read at start, and the helper thread that does what would block a turn.
//!
//! ```text
//! DATA_DIR/core-N/log/0000000000000001.wal      segments of the core's log
//! DATA_DIR/core-N/snapshot/G-SLOT.snapshot      the state of group G up to and including SLOT
//! DATA_DIR/core-N/snapshot/G-SLOT.partial       one that is being written; removed at start
//! ```
//! A snapshot file is complete when it has its final name: it is synced before it is renamed, and the directory after.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, unbounded};
use panch_replica::machine::{MachineLimits, StateMachine};
use panch_replica::snapshot::SnapshotReader;
use panch_replica::transfer::SnapshotFile;
use panch_ring::doorbell::Doorbell;
use panch_ring::file::{self, LogFile};
use panch_wal::{Preparation, SegmentFile, SegmentReader, SegmentSequence};
use panch_wire::frame::{PAGE_SIZE, Page};
use panch_wire::ids::{GroupId, ReplicaId, Slot};

/// Something for the helper thread.
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
        result: io::Result<bool>,
    },
    SnapshotRead {
        group: GroupId,
        peer: ReplicaId,
        file: SnapshotFile,
        offset: u64,
        bytes: io::Result<Vec<u8>>,
    },
}

/// The core's end of its helper thread, which ends when this is dropped.
pub(crate) struct Storage {
    jobs: Sender<Job>,
    done: Receiver<Done>,
}

impl Storage {
    /// Starts the helper thread of a core; it rings `doorbell` for each thing done.
    pub(crate) fn start(directory: CoreDirectory, segment_size: u64, doorbell: Doorbell) -> io::Result<Self> {
        let (jobs, inbox) = unbounded();
        let (outbox, done) = unbounded();
        let worker = Worker { directory, segment_size, partial: HashMap::new(), outbox, doorbell };
        std::thread::Builder::new().name("panch-storage".into()).spawn(move || worker.run(&inbox))?;
        Ok(Self { jobs, done })
    }

    /// Hands a job over. The queue is bounded by what the log and the snapshots have in flight.
    pub(crate) fn submit(&self, job: Job) {
        // The helper ends only after this sender is dropped.
        let _ = self.jobs.send(job);
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

struct Worker {
    directory: CoreDirectory,
    segment_size: u64,
    partial: HashMap<(GroupId, Slot), File>,
    outbox: Sender<Done>,
    doorbell: Doorbell,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
            if let Some(done) = self.perform(job) {
                let _ = self.outbox.send(done);
                self.doorbell.ring();
            }
        }
    }

    fn perform(&mut self, job: Job) -> Option<Done> {
        match job {
            Job::Prepare(preparation) => {
                let sequence = preparation.sequence;
                let result = self.prepare(preparation);
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
                    self.snapshot_remove(group, slot);
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
                self.snapshot_remove(group, slot);
                None
            }
        }
    }

    fn prepare(&self, preparation: Preparation) -> io::Result<OwnedFd> {
        let path = self.directory.segment(preparation.sequence);
        let log = match preparation.recycle {
            Some(old) => {
                file::rename(&self.directory.segment(old), &path)?;
                LogFile::open(&path)?
            }
            None => LogFile::create(&path, self.segment_size)?,
        };
        Ok(log.into())
    }

    fn snapshot_write(
        &mut self,
        group: GroupId,
        slot: Slot,
        offset: u64,
        bytes: &[u8],
        last: bool,
    ) -> io::Result<bool> {
        let partial = self.directory.partial(group, slot);
        if offset == 0 {
            self.partial.insert((group, slot), File::create(&partial)?);
        }
        let Some(file) = self.partial.get(&(group, slot)) else {
            return Err(io::Error::other("the snapshot was given up"));
        };
        file.write_all_at(bytes, offset)?;
        if last {
            file.sync_all()?;
            file::rename(&partial, &self.directory.snapshot(group, slot))?;
            self.partial.remove(&(group, slot));
        }
        Ok(last)
    }

    fn snapshot_remove(&mut self, group: GroupId, slot: Slot) {
        self.partial.remove(&(group, slot));
        // Either may not exist; one that stays is superseded and removed at the next start.
        let _ = fs::remove_file(self.directory.partial(group, slot));
        let _ = fs::remove_file(self.directory.snapshot(group, slot));
    }
}

/// The files of one core.
#[derive(Clone)]
pub(crate) struct CoreDirectory {
    log: Arc<Path>,
    snapshots: Arc<Path>,
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
        Ok(Self { log: log.into(), snapshots: snapshots.into() })
    }

    pub(crate) fn segment(&self, sequence: SegmentSequence) -> PathBuf {
        self.log.join(sequence.file_name())
    }

    fn snapshot(&self, group: GroupId, slot: Slot) -> PathBuf {
        self.snapshots.join(format!("{}-{}.{COMPLETE}", group.0, slot.0))
    }

    fn partial(&self, group: GroupId, slot: Slot) -> PathBuf {
        self.snapshots.join(format!("{}-{}.{PARTIAL}", group.0, slot.0))
    }

    /// Loads the newest snapshot of each group, and removes what is superseded or incomplete.
    ///
    /// A damaged newest snapshot falls back to an older one if there is any; the log then decides whether it reaches back
    /// far enough.
    pub(crate) fn load_snapshots(
        &self,
        limits: MachineLimits,
    ) -> io::Result<Vec<(GroupId, SnapshotFile, StateMachine)>> {
        let mut found: Vec<(GroupId, Slot)> = Vec::new();
        for entry in fs::read_dir(&self.snapshots)? {
            let path = entry?.path();
            match parse_name(&path) {
                Some((group, slot, true)) => found.push((group, slot)),
                Some((_, _, false)) => fs::remove_file(&path)?,
                None => {}
            }
        }
        found.sort_unstable_by(|left, right| right.cmp(left));
        let mut loaded: Vec<(GroupId, SnapshotFile, StateMachine)> = Vec::new();
        for (group, slot) in found {
            let path = self.snapshot(group, slot);
            if loaded.iter().any(|(other, _, _)| *other == group) {
                fs::remove_file(&path)?;
                continue;
            }
            match load(&path, group, slot, limits) {
                Ok((file, machine)) => loaded.push((group, file, machine)),
                Err(reason) => {
                    eprintln!("panchd: snapshot {} is not usable: {reason}", path.display());
                    // Kept for inspection, out of the way.
                    fs::rename(&path, path.with_extension("damaged"))?;
                }
            }
        }
        Ok(loaded)
    }

    /// The log's segments, for recovery.
    pub(crate) fn segments(&self) -> DirectoryReader<'_> {
        DirectoryReader { directory: self, open: HashMap::new() }
    }
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

fn load(
    path: &Path,
    group: GroupId,
    slot: Slot,
    limits: MachineLimits,
) -> Result<(SnapshotFile, StateMachine), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut reader = SnapshotReader::new(limits);
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = file.read_at(&mut buffer, size).map_err(|error| error.to_string())?;
        if count == 0 {
            break;
        }
        reader.feed(&buffer[..count]).map_err(|error| error.to_string())?;
        size += count as u64;
    }
    let (header, machine) = reader.finish().map_err(|error| error.to_string())?;
    if (header.group, header.slot) != (group, slot) {
        return Err("it is another group's or slot's under a wrong name".into());
    }
    Ok((SnapshotFile { slot, size }, machine))
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
