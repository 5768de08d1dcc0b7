//! A node's disk: files of pages, a directory, and what a crash leaves of both.
//!
//! Invariants:
//! * A page that was written and not yet made stable keeps its last stable version. A power failure keeps, loses, tears or
//!   garbles each such page on its own; a killed process leaves its writes visible, but no more stable than they were.
//! * Changes of names become stable in the order in which they were made, at the latest with a sync of the directory.
//! * Nothing completes by itself: a [`Job`] is a row of steps, each with a latency; the world calls [`Disk::advance`].

mod content;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use panch_wire::frame::PAGE_SIZE;
use panch_wire::ids::{GroupId, Slot};

use crate::queue::{MICROSECOND, MILLISECOND, Time};
use crate::random::Stream;
pub use content::PageData;
use content::{Content, Written};

/// What a file is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Name {
    /// The node's incarnation, and whether it is on its way back.
    Identity,
    /// Which segments the log was ever given.
    Inventory,
    /// A log segment, by its sequence.
    Segment(u64),
    /// A complete snapshot.
    Snapshot(GroupId, Slot),
    /// A file that is being made, by a number of the driver's.
    Temporary(u64),
}

/// A file, whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FileId(u64);

/// One thing to be done on the disk.
#[derive(Debug)]
pub enum Step {
    /// Bytes were written with [`Disk::write`]; they are on stable storage when the step ends.
    WriteStable(Written),
    /// Bytes were written; the step ends when they are in the cache.
    Write(Written),
    /// Whatever was written to the file before the step begins is stable when it ends.
    Sync(FileId),
    /// Gives a file a name, in place of the file that has it.
    Link(FileId, Name),
    /// Renames.
    Rename(Name, Name),
    /// Removes a name.
    Unlink(Name),
    /// Changes of names made before the step begins are stable when it ends.
    SyncDirectory,
    /// Takes as long as a read does.
    Read,
}

/// A row of steps, done one after the other.
#[derive(Debug)]
pub struct Job<T> {
    steps: VecDeque<Step>,
    fails: bool,
    /// Given back when the last step has ended or one has failed.
    pub tag: T,
}

impl<T> Job<T> {
    /// A job of these steps.
    pub fn new(tag: T, steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), fails: false, tag }
    }

    /// A job that fails.
    pub fn failing(tag: T) -> Self {
        Self { steps: VecDeque::new(), fails: true, tag }
    }
}

/// Names a job on its disk; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct JobId(u64);

/// What became of a step.
#[derive(Debug)]
pub enum Progress<T> {
    /// The next one ends at this time.
    Until(Time),
    /// The job has ended; false if a step failed.
    Ended(T, bool),
    /// There is no such job: a crash took it.
    Gone,
}

/// How fast a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    /// The least time of a step.
    pub low: Time,
    /// The longest ordinary time of a step that makes something stable.
    pub high: Time,
    /// Added to the time of a sync: it may have much to write.
    pub sync: Time,
    /// The most that is added to the time of a read.
    pub read: Time,
}

impl Default for Latency {
    fn default() -> Self {
        Self { low: 20 * MICROSECOND, high: 400 * MICROSECOND, sync: 0, read: 0 }
    }
}

/// How a node ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashKind {
    /// The process was killed; the machine stays up.
    Kill,
    /// The machine lost its power.
    Power,
    /// A write or sync failed, and the process ends for that. The machine stays up, but keeps nothing that was not stable.
    Failure,
}

/// What the disk has been through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskCounters {
    /// Bytes written.
    pub written: u64,
    /// Pages that a crash threw back to their stable version.
    pub lost_pages: u64,
    /// Pages that a crash left as a mixture or as garbage.
    pub torn_pages: u64,
    /// Steps that failed.
    pub failures: u64,
    /// Pages of the log damaged.
    pub rotten: u64,
    /// Files removed while the node was down.
    pub lost_files: u64,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Link(FileId, Name),
    Rename(Name, Name),
    Unlink(Name),
}

fn apply(names: &mut BTreeMap<Name, FileId>, change: Change) {
    match change {
        Change::Link(file, name) => {
            names.insert(name, file);
        }
        Change::Rename(from, to) => {
            if let Some(file) = names.remove(&from) {
                names.insert(to, file);
            }
        }
        Change::Unlink(name) => {
            names.remove(&name);
        }
    }
}

/// What the step that is under way will make stable.
#[derive(Debug)]
enum Promised {
    Nothing,
    Pages(Written),
    Names(usize),
}

#[derive(Debug)]
struct Running<T> {
    job: Job<T>,
    promised: Promised,
}

/// What a disk showed at one moment.
#[derive(Clone)]
pub struct Copy {
    files: BTreeMap<FileId, Content>,
    names: BTreeMap<Name, FileId>,
}

/// How soon what waits for a disk that hangs notices that it works again.
const LOOKS_EVERY: Time = 20 * MILLISECOND;

/// A disk. `T` is what the driver hangs on its jobs.
pub struct Disk<T> {
    random: Stream,
    /// How fast it is now.
    pub latency: Latency,
    stalled_until: Time,
    fail_next: bool,
    /// It completes nothing until it is healed.
    pub hung: bool,
    /// It has no room for anything new.
    pub full: bool,
    /// Nothing can be read from it.
    pub unreadable: bool,
    files: BTreeMap<FileId, Content>,
    names: BTreeMap<Name, FileId>,
    stable_names: BTreeMap<Name, FileId>,
    /// Changes of names that are not stable, oldest first, numbered from `changes_from`.
    changes: VecDeque<Change>,
    changes_from: usize,
    jobs: BTreeMap<JobId, Running<T>>,
    next_file: u64,
    next_job: u64,
    next_version: u64,
    /// What it has been through.
    pub counters: DiskCounters,
}

impl<T> fmt::Debug for Disk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("names", &self.names).field("jobs", &self.jobs.len()).finish()
    }
}

impl<T> Disk<T> {
    /// An empty disk.
    pub fn new(random: Stream, latency: Latency) -> Self {
        Self {
            random,
            latency,
            stalled_until: 0,
            fail_next: false,
            hung: false,
            full: false,
            unreadable: false,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            stable_names: BTreeMap::new(),
            changes: VecDeque::new(),
            changes_from: 0,
            jobs: BTreeMap::new(),
            next_file: 0,
            next_job: 0,
            next_version: 0,
            counters: DiskCounters::default(),
        }
    }

    // Faults.

    /// Nothing ends before `until`.
    pub fn stall(&mut self, until: Time) {
        self.stalled_until = self.stalled_until.max(until);
    }

    /// The next step that writes or syncs fails, and what it wrote may or may not reach the disk.
    pub fn fail_next(&mut self) {
        self.fail_next = true;
    }

    /// Ends every stall and fault that has not happened yet.
    pub fn heal(&mut self, latency: Latency) {
        self.stalled_until = 0;
        self.fail_next = false;
        self.hung = false;
        self.full = false;
        self.unreadable = false;
        self.latency = latency;
    }

    /// The node ends. Jobs under way are forgotten; what they wrote is decided here.
    pub fn crash(&mut self, kind: CrashKind) {
        if kind == CrashKind::Power {
            let kept = self.random.below(self.changes.len() as u64 + 1) as usize;
            self.changes_from += self.changes.len();
            for change in self.changes.drain(..).take(kept) {
                apply(&mut self.stable_names, change);
            }
            self.names = self.stable_names.clone();
        }
        let named: Vec<FileId> = self.names.values().chain(self.stable_names.values()).copied().collect();
        self.files.retain(|id, _| named.contains(id));
        let in_flight = self.jobs.values().filter_map(|running| match running.job.steps.front() {
            Some(Step::WriteStable(written) | Step::Write(written)) => Some(written.clone()),
            _ => None,
        });
        let in_flight: Vec<Written> = in_flight.collect();
        for file in self.files.values_mut() {
            match kind {
                CrashKind::Power | CrashKind::Failure => {
                    file.lose_power(&mut self.random, &mut self.counters);
                }
                CrashKind::Kill => file.lose_process(&mut self.random, &in_flight),
            }
        }
        self.jobs.clear();
        self.stalled_until = 0;
        self.fail_next = false;
    }

    /// Everything is lost.
    pub fn wipe(&mut self) {
        self.files.clear();
        self.names.clear();
        self.stable_names.clear();
        self.changes_from += self.changes.len();
        self.changes.clear();
        self.jobs.clear();
        self.stalled_until = 0;
        self.fail_next = false;
        self.hung = false;
        self.full = false;
        self.unreadable = false;
    }

    /// A file has other bytes, on stable storage.
    pub fn replace(&mut self, name: Name, bytes: &[u8]) {
        let file = self.create(0);
        let written = self.write(file, 0, std::iter::once(bytes));
        self.files.get_mut(&file).expect("it was just made").stabilise(&written);
        self.names.insert(name, file);
        self.stable_names.insert(name, file);
    }

    /// Removes a name for good, as a process does that starts.
    pub fn discard(&mut self, name: Name) {
        self.names.remove(&name);
        self.stable_names.remove(&name);
    }

    /// Removes a name for good, as an operator does while the node is down.
    pub fn lose(&mut self, name: Name) {
        self.discard(name);
        self.counters.lost_files += 1;
    }

    /// Everything as the running process sees it.
    pub fn copy(&self) -> Copy {
        let named: Vec<FileId> = self.names.values().copied().collect();
        let files = self.files.iter().filter(|(id, _)| named.contains(id));
        Copy { files: files.map(|(id, file)| (*id, file.clone())).collect(), names: self.names.clone() }
    }

    /// Everything is as in a copy, and stable.
    pub fn restore(&mut self, copy: &Copy) {
        self.wipe();
        self.files.clone_from(&copy.files);
        self.files.values_mut().for_each(Content::settle);
        self.next_file = self.next_file.max(copy.files.keys().last().map_or(0, |id| id.0 + 1));
        self.names.clone_from(&copy.names);
        self.stable_names.clone_from(&copy.names);
    }

    /// Flips bits of a page of `name`, on stable storage.
    pub fn rot(&mut self, name: Name, page: usize) {
        if let Some(file) = self.names.get(&name).and_then(|id| self.files.get_mut(id))
            && file.rot(page, &mut self.random)
        {
            self.counters.rotten += 1;
        }
    }

    // Files as the running process sees them.

    /// A new file without a name.
    pub fn create(&mut self, size: u64) -> FileId {
        let id = FileId(self.next_file);
        self.next_file += 1;
        self.files.insert(id, Content::new(id, size));
        id
    }

    /// The file called `name`.
    pub fn open(&self, name: Name) -> Option<FileId> {
        self.names.get(&name).copied()
    }

    /// Every name.
    pub fn names(&self) -> impl Iterator<Item = Name> {
        self.names.keys().copied()
    }

    /// Bytes of a file.
    pub fn size(&self, file: FileId) -> u64 {
        self.files.get(&file).map_or(0, Content::size)
    }

    /// Writes at `offset`; visible to reads at once, stable later.
    pub fn write<'a>(&mut self, file: FileId, offset: u64, parts: impl Iterator<Item = &'a [u8]>) -> Written {
        self.next_version += 1;
        let content = self.files.get_mut(&file).expect("a file is written while it exists");
        let written = content.write(offset, parts, self.next_version);
        self.counters.written += (written.page_count() * PAGE_SIZE) as u64;
        written
    }

    /// Reads; bytes behind the end are zero.
    pub fn read(&self, file: FileId, offset: u64, into: &mut [u8]) {
        into.fill(0);
        if let Some(content) = self.files.get(&file) {
            content.read(offset, into);
        }
    }

    // Jobs.

    /// Starts a job; the time at which to call [`Disk::advance`].
    pub fn submit(&mut self, now: Time, job: Job<T>) -> (JobId, Time) {
        let id = JobId(self.next_job);
        self.next_job += 1;
        let promised = self.begin(&job);
        let ends = self.ends_at(now, &job);
        self.jobs.insert(id, Running { job, promised });
        (id, ends)
    }

    /// The step under way ends.
    pub fn advance(&mut self, now: Time, id: JobId) -> Progress<T> {
        if self.hung && self.jobs.contains_key(&id) {
            return Progress::Until(now + LOOKS_EVERY);
        }
        if now < self.stalled_until && self.jobs.contains_key(&id) {
            // The stall began after the end was foreseen.
            return Progress::Until(self.stalled_until + self.random.below(self.latency.high + 1));
        }
        let Some(Running { mut job, promised }) = self.jobs.remove(&id) else { return Progress::Gone };
        let step = job.steps.pop_front();
        if job.fails || self.unreadable && matches!(step, Some(Step::Read)) {
            self.counters.failures += 1;
            return Progress::Ended(job.tag, false);
        }
        let fallible =
            matches!(step, Some(Step::WriteStable(_) | Step::Write(_) | Step::Sync(_) | Step::SyncDirectory));
        if fallible && self.fail_next {
            self.fail_next = false;
            self.counters.failures += 1;
            return Progress::Ended(job.tag, false);
        }
        self.keep(promised);
        match step {
            Some(Step::Link(file, name)) => self.change(Change::Link(file, name)),
            Some(Step::Rename(from, to)) => self.change(Change::Rename(from, to)),
            Some(Step::Unlink(name)) => self.change(Change::Unlink(name)),
            _ => {}
        }
        if job.steps.is_empty() {
            return Progress::Ended(job.tag, true);
        }
        let promised = self.begin(&job);
        let ends = self.ends_at(now, &job);
        self.jobs.insert(id, Running { job, promised });
        Progress::Until(ends)
    }

    fn begin(&self, job: &Job<T>) -> Promised {
        match job.steps.front() {
            Some(Step::WriteStable(written)) => Promised::Pages(written.clone()),
            Some(Step::Sync(file)) => {
                self.files.get(file).map_or(Promised::Nothing, |content| Promised::Pages(content.unstable()))
            }
            Some(Step::SyncDirectory) => Promised::Names(self.changes_from + self.changes.len()),
            _ => Promised::Nothing,
        }
    }

    fn keep(&mut self, promised: Promised) {
        match promised {
            Promised::Nothing => {}
            Promised::Pages(written) => {
                if let Some(content) = self.files.get_mut(&written.file) {
                    content.stabilise(&written);
                }
            }
            Promised::Names(end) => {
                while self.changes_from < end {
                    let Some(change) = self.changes.pop_front() else { break };
                    self.changes_from += 1;
                    apply(&mut self.stable_names, change);
                }
            }
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, change);
        self.changes.push_back(change);
    }

    fn ends_at(&mut self, now: Time, job: &Job<T>) -> Time {
        let latency = match job.steps.front() {
            Some(Step::WriteStable(_) | Step::SyncDirectory) => {
                self.random.skewed(self.latency.low, self.latency.high)
            }
            Some(Step::Sync(_)) => {
                self.latency.sync + self.random.skewed(self.latency.low, self.latency.high)
            }
            Some(Step::Read) => {
                self.latency.low + self.random.below(self.latency.low * 3 + self.latency.read)
            }
            _ => self.latency.low / 4,
        };
        now.max(self.stalled_until) + latency
    }
}
