//! The replicated state of one group: the key-value table, the client sessions, and how far each proposer's batches got.
//!
//! Two replicas that have applied the same log are in the same state and have the same [`StateMachine::digest`].
//! Nothing here knows which protocol decided the log, nor any configured limit: see [`ceilings`](crate::ceilings).
//!
//! A protocol in which several replicas propose may decide a proposer's batches out of order. Its clients count on their
//! order, so a batch that comes too early is held until those before it are applied: see `held`. Batches that clients sealed
//! themselves have no part in that: each is applied when it is decided, and their sessions see to the rest.

use std::cmp::Ordering;

use panch_consensus::frontier::Frontier;
use panch_wire::command::{Command, CommandError, CommandKind, Reply};
use panch_wire::frame::Frame;
use panch_wire::ids::{BatchId, GroupId, Incarnation, REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use crate::ceilings::HELD_MAX;
use crate::kv::{Kv, digest};
use crate::sessions::{SessionAdmission, Sessions};
use crate::snapshot::record::{self, Totals};
use crate::snapshot::writer::SnapshotWriter;
use held::Held;

mod held;

const DIGEST_PROPOSER: u64 = 4;
const DIGEST_STATE: u64 = 5;

/// How far the batches of one proposer were applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The proposer's highest incarnation seen.
    pub incarnation: Incarnation,
    /// The counter of the batch of that incarnation that is to be applied next.
    pub next: u64,
}

/// Of a proposer nothing was applied yet.
const UNSEEN: Progress = Progress { incarnation: Incarnation(0), next: 1 };

/// What to do with a decided batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Apply its commands.
    Apply,
    /// It was applied before, or its incarnation is over: skip it.
    Duplicate,
    /// A batch before it is missing: it is kept, and applied as soon as that one is decided.
    Hold,
    /// Too many batches before it are missing: skip it. Its proposer proposes them again.
    Gap,
}

/// Progress of every proposer of the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposers([Progress; REPLICAS_MAX]);

impl Default for Proposers {
    fn default() -> Self {
        Self([UNSEEN; REPLICAS_MAX])
    }
}

impl Proposers {
    /// Decides about the batch `id` and notes that it is applied if the answer is to apply it.
    ///
    /// The answer depends only on the batches before it in the log. A proposer's batches are applied in the order of
    /// their counters without a gap, each once.
    pub fn admit(&mut self, id: BatchId) -> Admission {
        let Some(progress) = self.0.get_mut(id.proposer.index()) else { return Admission::Gap };
        if id.incarnation > progress.incarnation {
            *progress = Progress { incarnation: id.incarnation, next: 1 };
        }
        let admission = if id.incarnation < progress.incarnation || id.counter < progress.next {
            Admission::Duplicate
        } else if id.counter >= progress.next + HELD_MAX {
            Admission::Gap
        } else if id.counter > progress.next {
            Admission::Hold
        } else {
            Admission::Apply
        };
        match admission {
            Admission::Apply => progress.next += 1,
            _ if !holds(Rule::BatchInOrder) => return Admission::Apply,
            _ => {}
        }
        admission
    }

    /// How far the batches of `id` were applied.
    pub fn progress(&self, id: ReplicaId) -> Progress {
        self.0[id.index()]
    }

    fn iter(&self) -> impl Iterator<Item = (ReplicaId, Progress)> {
        self.0.iter().enumerate().map(|(index, progress)| (ReplicaId(index as u8), *progress))
    }

    fn digest(&self) -> u64 {
        self.iter().fold(0u64, |sum, (id, progress)| {
            let words = [u64::from(id.0), u64::from(progress.incarnation.0), progress.next];
            sum.wrapping_add(digest::of_words(DIGEST_PROPOSER, words))
        })
    }

    /// Sets the progress of a proposer from a snapshot; false if it cannot be one.
    pub(crate) fn restore(&mut self, id: ReplicaId, progress: Progress) -> bool {
        let Some(place) = self.0.get_mut(id.index()) else { return false };
        let fits = *place == UNSEEN && progress != UNSEEN && progress.next != 0;
        *place = progress;
        fits
    }
}

/// The whole state of a group.
pub struct StateMachine {
    pub(crate) kv: Kv,
    pub(crate) sessions: Sessions,
    pub(crate) proposers: Proposers,
    pub(crate) held: Held,
    snapshot: Option<SnapshotWriter>,
    hash_seed: u64,
}

const MALFORMED: Reply<'static> = Reply::Error(CommandError::Malformed);

impl StateMachine {
    /// The state before the first command. `hash_seed` decides where things lie in the hash tables, not what they are: it need
    /// not be the same on every replica.
    pub fn new(hash_seed: u64) -> Self {
        Self {
            kv: Kv::new(hash_seed),
            sessions: Sessions::new(hash_seed),
            proposers: Proposers::default(),
            held: Held::default(),
            snapshot: None,
            hash_seed,
        }
    }

    /// The seed it was made with.
    pub fn hash_seed(&self) -> u64 {
        self.hash_seed
    }

    /// How many keys.
    pub fn key_count(&self) -> usize {
        self.kv.len()
    }

    /// The table.
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The progress of the proposers.
    pub fn proposers(&self) -> &Proposers {
        &self.proposers
    }

    /// Decides about a decided batch, see [`Proposers::admit`], and keeps it if it must wait for others. To be asked once
    /// per batch, in log order, followed by [`StateMachine::next_held`] until that has nothing.
    pub fn admit(&mut self, batch: &Frame) -> Admission {
        let id = batch.id();
        debug_assert!(!id.is_of_client(), "a client's batches have no order");
        let before = self.proposers.0.get(id.proposer.index()).map(|progress| progress.incarnation);
        let admission = self.proposers.admit(id);
        if before.is_some_and(|before| before < id.incarnation) {
            self.held.clear(id.proposer);
        }
        if admission == Admission::Hold && !self.held.insert(batch.clone()) {
            return Admission::Duplicate;
        }
        admission
    }

    /// The next batch of `proposer` that waited and is to be applied now.
    pub fn next_held(&mut self, proposer: ReplicaId) -> Option<Frame> {
        let progress = self.proposers.0.get_mut(proposer.index())?;
        let batch = self.held.take(proposer, progress.next)?;
        progress.next += 1;
        Some(batch)
    }

    /// The first batch that waits for others of its proposer, to be applied now: those never come.
    pub(crate) fn release_held(&mut self) -> Option<Frame> {
        let BatchId { proposer, counter, .. } = self.held.iter().next()?.id();
        self.proposers.0.get_mut(proposer.index())?.next = counter + 1;
        self.held.take(proposer, counter)
    }

    /// The counter of the next batch of `id` in `incarnation` that would be applied: all below are settled.
    pub fn next_counter(&self, id: ReplicaId, incarnation: Incarnation) -> u64 {
        let progress = self.proposers.progress(id);
        match incarnation.cmp(&progress.incarnation) {
            Ordering::Less => u64::MAX,
            Ordering::Equal => progress.next,
            Ordering::Greater => 1,
        }
    }

    /// Applies a command that was decided with this stamp. `scratch` is memory for answers that are put together, or are no
    /// longer in the table.
    ///
    /// A command with a session header takes effect at most once; one that only reads is executed each time, because
    /// it has no effect. `stamp` must be the same on every replica: it becomes part of the state of the session.
    pub fn apply<'a>(&'a mut self, stamp: u64, command: &Command<'_>, scratch: &'a mut Vec<u8>) -> Reply<'a> {
        use CommandKind::{CloseSession, ExpireSessions, OpenSession};
        let slot = Slot(stamp);
        match (command.kind, command.session) {
            (OpenSession, Some(header)) => match self.sessions.open(slot, header.session) {
                Ok(first) => Reply::Int(first as i64),
                Err(error) => Reply::Error(error),
            },
            (CloseSession, Some(header)) => {
                self.sessions.close(slot, header.session, header.number);
                Reply::Ok
            }
            (OpenSession | CloseSession, None) => MALFORMED,
            (ExpireSessions, _) => match command.value.try_into() {
                Ok(bytes) => Reply::Int(self.sessions.expire(Slot(u64::from_le_bytes(bytes))) as i64),
                Err(_) => MALFORMED,
            },
            (kind, Some(header)) if !kind.is_read() => match self.sessions.admit(slot, header) {
                SessionAdmission::Execute(place) => {
                    let reply = self.kv.apply(command, scratch);
                    self.sessions.remember(place, header.number, reply);
                    reply
                }
                SessionAdmission::Executed(place) => self.sessions.remembered(place, header.number),
                SessionAdmission::Refuse(error) => Reply::Error(error),
            },
            _ => self.kv.apply(command, scratch),
        }
    }

    /// Serves a command that only reads, from the state as it is. Answers `Malformed` to any other.
    pub fn read<'a>(&'a self, command: &Command<'_>, scratch: &'a mut Vec<u8>) -> Reply<'a> {
        self.kv.read(command, scratch)
    }

    /// Digest of the whole state. Costs the same whatever the size of the state.
    pub fn digest(&self) -> u64 {
        self.digest_with(self.sessions.digest())
    }

    /// Digest of the table and the sessions: a sum over what is in them, so that what a batch changes in it depends on nothing that the
    /// batch does not touch.
    #[inline]
    pub(crate) fn contents_digest(&self) -> u64 {
        self.kv.digest().wrapping_add(self.sessions.digest())
    }

    fn digest_with(&self, sessions: u64) -> u64 {
        digest::of_words(
            DIGEST_STATE,
            [self.kv.digest(), sessions, self.proposers.digest().wrapping_add(self.held.digest())],
        )
    }

    /// Bytes of memory that the state has allocated, in about.
    pub fn size_bytes(&self) -> usize {
        self.kv.size_bytes() + self.sessions.size_bytes()
    }

    /// Begins a snapshot of the state as it is now, with exactly `covered` applied. Commands may be applied while
    /// it is taken piece by piece with [`snapshot_chunk`](Self::snapshot_chunk); the snapshot does not see them.
    ///
    /// # Panics
    /// If one is being taken already, see [`is_snapshot_active`](Self::is_snapshot_active).
    pub fn begin_snapshot(&mut self, group: GroupId, covered: &Frontier, stamp: u64) {
        let slot = covered.count();
        assert!(self.snapshot.is_none(), "one snapshot at a time: group {group:?} slot {slot:?}");
        let with_sessions = holds(Rule::SessionsInSnapshot);
        let totals = Totals {
            entry_count: self.kv.len() as u64,
            session_count: if with_sessions { self.sessions.known_count() as u64 } else { 0 },
            digest: self.digest_with(if with_sessions { self.sessions.digest() } else { 0 }),
        };
        let mut writer = SnapshotWriter::new(group, slot, totals);
        for (id, progress) in self.proposers.iter().filter(|(_, progress)| *progress != UNSEEN) {
            record::push_proposer(writer.stream(), id, progress);
        }
        record::push_covered(writer.stream(), covered, stamp);
        for batch in self.held.iter() {
            record::push_held(writer.stream(), batch);
        }
        if with_sessions {
            if self.sessions.generation() != 0 {
                record::push_generation(writer.stream(), self.sessions.generation());
            }
            self.sessions.begin_scan();
        }
        self.kv.begin_scan();
        self.snapshot = Some(writer);
    }

    /// The highest incarnation of any proposer that the state knows.
    pub fn incarnation_max(&self) -> Incarnation {
        let all = self.proposers.iter().map(|(_, progress)| progress.incarnation);
        all.max().unwrap_or_default()
    }

    /// Whether a snapshot is being taken.
    pub fn is_snapshot_active(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Appends the next piece of the snapshot to `out`, at most `size_hint` bytes (but at least 8 KiB may come), none
    /// where many deleted keys leave nothing to write. True when that was the last. The work is bounded by `size_hint`:
    /// call it once per turn.
    ///
    /// # Panics
    /// If no snapshot is being taken.
    pub fn snapshot_chunk(&mut self, out: &mut Vec<u8>, size_hint: usize) -> bool {
        let writer = self.snapshot.as_mut().expect("begin_snapshot comes first");
        let (size, mut visit_count) = writer.wanted(size_hint);
        let sessions_done = self.sessions.scan(writer.stream(), size, &mut visit_count);
        let kv_done = self.kv.scan(writer.stream(), size, &mut visit_count);
        if sessions_done && kv_done {
            writer.end();
        }
        let done = writer.emit(out, size_hint);
        if done {
            self.snapshot = None;
        }
        done
    }

    /// Stops taking a snapshot; what was taken so far is of no use.
    pub fn abort_snapshot(&mut self) {
        self.snapshot = None;
        self.sessions.abort_scan();
        self.kv.abort_scan();
    }
}

#[cfg(test)]
mod tests;
