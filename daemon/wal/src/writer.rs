//! The writer: gathers records into commit groups, places these in segments and tells how far the log is durable.
//!
//! ```text
//! append -> open -> sealed, in flight -> written -> synced        durable = synced  (Sync)
//!             |  (next_write)    (on_written)  (DSYNC, or on_synced)      = written (Periodic)
//!             +- a full one waits behind                                  = appended (Memory)
//! ```
//! Invariants:
//! * `synced <= written < lsn of every write in flight`, and each is a contiguous prefix of the log.
//! * A commit group states `synced` as of its sealing. So if one states a number, everything up to it was on stable
//!   storage, and recovery may refuse a log in which it is not. With Periodic that is less than what counts as durable:
//!   a power failure then shortens the log, it does not spoil it.
//! * What recovery read may have been in a volatile disk cache only. Until the recovered tail is synced again it does
//!   not count as stable, whatever is written after it.
//! * The first commit group of a segment holds a restatement: a segment cannot be entered without one.

use std::collections::VecDeque;
use std::io;

use panch_wire::frame::{Frame, PAGE_SIZE, Page};
use panch_wire::ids::GroupId;
use panch_wire::record::FIXED_SIZE_MAX;
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use crate::config::{Config, Durability};
use crate::error::WriteFailed;
use crate::format::{Body, FORMAT_VERSION, Header, Link, Record};
use crate::group::CommitGroup;
use crate::ledger::{Ledger, Placed};
use crate::recover::Recovered;
use crate::segment::{Preparation, SegmentSequence};
use crate::{BodyRef, Location, Lsn, RecordKind};

/// What [`Wal::append`] answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The record is durable once [`Wal::durable`] has reached this.
    pub lsn: Lsn,
    /// Names the body, if the record has one and the log is on disk.
    pub body: Option<BodyRef>,
}

/// A vectored write for the driver, which keeps it until the write completes and then gives it back.
///
/// The memory of its parts is page-aligned and stays where it is when the value moves.
#[must_use]
pub struct Write {
    commit: CommitGroup,
    segment: SegmentSequence,
    offset: u64,
    /// Also while the header pages are lent.
    size: usize,
    dsync: bool,
}

impl Write {
    /// The segment to write to.
    pub fn segment(&self) -> SegmentSequence {
        self.segment
    }

    /// Byte offset in the segment; a multiple of the page size.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the write must be on stable storage before it completes (`RWF_DSYNC`).
    pub fn dsync(&self) -> bool {
        self.dsync
    }

    /// The commit group's number, which names the write.
    pub fn lsn(&self) -> Lsn {
        self.commit.lsn
    }

    /// The bytes to write one after the other, each a whole number of pages.
    ///
    /// # Panics
    /// While the header pages are lent ([`Write::take_header`]).
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.commit.parts()
    }

    /// The header pages, which come before the bodies, to be lent to whoever writes them; [`Write::return_header`] follows
    /// before the write is given back. For a driver that must own what the kernel reads.
    ///
    /// # Panics
    /// If they are lent already.
    pub fn take_header(&mut self) -> Vec<Page> {
        self.commit.take_pages()
    }

    /// Gives the header pages back.
    ///
    /// # Panics
    /// If they were not lent.
    pub fn return_header(&mut self, pages: Vec<Page>) {
        self.commit.return_pages(pages);
    }

    /// The frames that follow the header pages, each padded to whole pages. Small ones are part of the header pages.
    pub fn bodies(&self) -> &[Frame] {
        self.commit.bodies()
    }

    /// How many parts there are; at most 1024.
    pub fn part_count(&self) -> usize {
        self.commit.part_count()
    }

    /// Bytes in all.
    pub fn size(&self) -> usize {
        self.size
    }
}

/// An fdatasync for the driver: it covers every write to the segment that completed before it is issued.
#[derive(PartialEq, Eq, Debug)]
#[must_use]
pub struct Sync {
    segment: SegmentSequence,
}

impl Sync {
    /// The segment to sync.
    pub fn segment(&self) -> SegmentSequence {
        self.segment
    }
}

/// Collects the small durable state of every group when a new segment is entered.
pub struct Restatement<'a> {
    commit: &'a mut CommitGroup,
}

impl Restatement<'_> {
    /// Repeats a record of `group`. Older segments may be released once this one is durable, so whatever a group must
    /// remember beyond its floor has to be repeated: promises, reservations, the reference to its snapshot.
    ///
    /// # Panics
    /// If `bytes` are longer than [`FIXED_SIZE_MAX`].
    pub fn record(&mut self, group: GroupId, kind: RecordKind, bytes: &[u8]) {
        assert!(bytes.len() <= FIXED_SIZE_MAX, "group {}: record of {} bytes", group.0, bytes.len());
        self.commit.push(Record { group, kind, restated: true, bytes, body: None, packed: &[] }, None);
    }
}

struct InFlight {
    lsn: Lsn,
    done: bool,
}

/// The place of the next commit group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    pub(crate) segment: SegmentSequence,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

impl Cursor {
    fn has_room(&self, pages: usize) -> bool {
        self.size - self.offset >= (pages * PAGE_SIZE) as u64
    }
}

/// Syncs that together make everything up to `covers` stable.
struct Round {
    covers: Lsn,
    outstanding: Vec<SegmentSequence>,
}

/// The log of one core; see the module.
pub struct Wal {
    config: Config,
    identity: u64,
    ledger: Ledger,
    cursor: Option<Cursor>,
    /// The commit group sealed last.
    link: Link,
    /// The number of the next commit group to be opened.
    next: Lsn,
    /// Not sealed yet, oldest first. Only the last one still grows.
    pending: VecDeque<CommitGroup>,
    in_flight: VecDeque<InFlight>,
    /// Memory for commit groups.
    idle: Vec<CommitGroup>,
    written: Lsn,
    synced: Lsn,
    /// What the last sealed commit group stated to be on stable storage.
    stated: Lsn,
    /// The last sealed commit group that has records.
    last_record: Lsn,
    /// Sealed commit groups that named a new oldest segment and are not yet stable.
    statements: VecDeque<(Lsn, SegmentSequence)>,
    stated_oldest: SegmentSequence,
    sealed_at: Instant,
    attest_requested: bool,
    /// Nothing that is written waits for the interval any more: an orderly stop.
    sync_requested: bool,
    /// What recovery read is not yet known to be on stable storage.
    resync: bool,
    /// Segments of the round still to be issued.
    to_sync: Vec<SegmentSequence>,
    round: Option<Round>,
    synced_at: Instant,
    failed: bool,
}

impl Wal {
    /// The log of an empty directory. `identity` tells it from every other log.
    ///
    /// # Panics
    /// If `config` does not hold its bounds ([`Config::check`]).
    pub fn create(config: Config, identity: u64) -> Self {
        config.check().expect("the configuration was checked");
        Self {
            ledger: Ledger::new(&config),
            config,
            identity,
            cursor: None,
            link: Link::default(),
            next: Lsn(1),
            pending: VecDeque::new(),
            in_flight: VecDeque::new(),
            idle: Vec::new(),
            written: Lsn(0),
            synced: Lsn(0),
            stated: Lsn(0),
            last_record: Lsn(0),
            statements: VecDeque::new(),
            stated_oldest: SegmentSequence(0),
            sealed_at: Instant(0),
            attest_requested: false,
            sync_requested: false,
            resync: false,
            to_sync: Vec::new(),
            round: None,
            synced_at: Instant(0),
            failed: false,
        }
    }

    /// Continues the log that [`crate::recover()`] read. Its tail counts as durable only after the first syncs: before
    /// acting on it, wait until [`Wal::durable`] has reached [`Recovered::last`].
    ///
    /// # Panics
    /// If `config` does not hold its bounds or keeps nothing on disk, or if a prepared segment has another size
    /// ([`Recovered::take_misfits`]).
    pub fn resume(config: Config, recovered: Recovered) -> Self {
        assert!(config.durability != Durability::Memory, "a log in memory has no past");
        let mut wal = Self::create(config, recovered.tail.identity);
        let last = recovered.last;
        let tail = recovered.tail;
        wal.cursor = tail.cursor;
        wal.link = tail.link;
        wal.next = tail.next;
        wal.written = last;
        wal.synced = tail.stated;
        wal.stated = tail.stated;
        wal.last_record = tail.last_record;
        wal.resync = last > tail.stated;
        let prepared = tail.prepared.iter().map(|file| (file.sequence, file.size));
        wal.ledger.resume(tail.current, tail.retained, tail.placed, prepared);
        wal.ledger.update_needed(wal.synced);
        wal
    }

    /// Adds a record to the open commit group; no I/O. With `body`, the frame is written behind it.
    ///
    /// # Panics
    /// If `bytes` are longer than [`FIXED_SIZE_MAX`] or the frame is larger than [`Config::body_size_max`].
    pub fn append(
        &mut self,
        group: GroupId,
        kind: RecordKind,
        bytes: &[u8],
        body: Option<&Frame>,
    ) -> Appended {
        assert!(bytes.len() <= FIXED_SIZE_MAX, "group {}: record of {} bytes", group.0, bytes.len());
        assert!(
            body.is_none_or(|frame| self.takes_body(frame)),
            "group {}: body of {:?} pages does not fit a segment",
            group.0,
            body.map(Frame::page_count)
        );
        let named = body.map(|frame| Body::of(frame, self.config.packed_size_max));
        if self.config.durability == Durability::Memory {
            let lsn = self.next;
            self.next = lsn.next();
            return Appended { lsn, body: None };
        }
        let pages_max = self.config.group_size_max / PAGE_SIZE;
        if !self.pending.back().is_some_and(|open| open.has_room(bytes.len(), named, pages_max)) {
            self.open();
        }
        let open = self.pending.back_mut().expect("a commit group is open");
        let packed =
            body.filter(|_| named.is_some_and(|named| named.is_packed())).map_or(&[][..], Frame::bytes);
        let record = Record { group, kind, restated: false, bytes, body: named, packed };
        let place = open.push(record, body);
        let lsn = open.lsn;
        let body = named.map(|named| BodyRef { lsn, place, length: named.length });
        Appended { lsn, body }
    }

    /// Whether [`Wal::append`] takes a body of this size. What comes from others must be asked about first.
    pub fn takes_body(&self, body: &Frame) -> bool {
        body.page_count() * PAGE_SIZE <= self.config.body_size_max()
    }

    fn open(&mut self) {
        let mut commit = self.idle.pop().unwrap_or_default();
        commit.open(self.next);
        self.next = self.next.next();
        self.pending.push_back(commit);
    }

    /// The next write, sealing the oldest open commit group; called until `None` at the end of a turn. `None` while there
    /// is nothing to write, while enough writes are in flight (records then gather), while no segment is ready, and after
    /// a failure.
    ///
    /// `restate` is called when the write is the first of a segment. It must restate the state of every group as it is
    /// now. The restatement lies behind the records of this write, but in front of records that did not fit into it: a
    /// reader applies restated records like any others, and must not let an older record undo a newer one.
    ///
    /// # Panics
    /// If the restatement does not fit a segment besides one commit group.
    pub fn next_write<F>(&mut self, now: Instant, restate: F) -> Option<Write>
    where
        F: FnOnce(&mut Restatement<'_>),
    {
        if self.failed || self.in_flight.len() >= self.config.writes_in_flight_max {
            return None;
        }
        if self.pending.is_empty() {
            if !self.attest_due(now) {
                return None;
            }
            self.open();
        }
        let commit = self.pending.front_mut().expect("a commit group is pending");
        let cursor = match self.cursor {
            Some(cursor) if cursor.has_room(commit.page_count()) => cursor,
            _ => {
                let (segment, size) = self.ledger.advance()?;
                restate(&mut Restatement { commit });
                let cursor = Cursor { segment, offset: 0, size };
                assert!(cursor.has_room(commit.page_count()), "the restatement does not fit {segment}");
                cursor
            }
        };
        let commit = self.pending.pop_front().expect("a commit group is pending");
        Some(self.seal(now, cursor, commit))
    }

    fn seal(&mut self, now: Instant, cursor: Cursor, mut commit: CommitGroup) -> Write {
        assert!(self.link.lsn < commit.lsn && self.synced < commit.lsn);
        let lsn = commit.lsn;
        let oldest = self.ledger.needed();
        if oldest > self.stated_oldest {
            self.statements.push_back((lsn, oldest));
            self.stated_oldest = oldest;
        }
        let checksum = commit.seal(Header {
            version: FORMAT_VERSION,
            header_pages: 0,
            page_count: 0,
            identity: self.identity,
            segment: cursor.segment,
            offset: cursor.offset,
            lsn,
            previous: self.link,
            durable: self.synced,
            oldest,
            record_count: 0,
            records_length: 0,
        });
        let placed = Placed {
            lsn,
            segment: cursor.segment,
            offset: cursor.offset,
            header_pages: commit.header_pages() as u32,
        };
        self.ledger.place(placed, commit.members(), commit.has_bodies());
        self.link = Link { lsn, checksum };
        self.stated = self.synced;
        self.attest_requested = false;
        self.sealed_at = now;
        if !commit.is_empty() {
            self.last_record = lsn;
        }
        let end = cursor.offset + (commit.page_count() * PAGE_SIZE) as u64;
        self.cursor = Some(Cursor { offset: end, ..cursor });
        self.in_flight.push_back(InFlight { lsn, done: false });
        let dsync = self.config.durability == Durability::Sync;
        let size = commit.page_count() * PAGE_SIZE;
        Write { commit, segment: cursor.segment, offset: cursor.offset, size, dsync }
    }

    /// Takes a completed write back, in any order. `result` is `Ok` only if every byte was written.
    ///
    /// # Errors
    /// If the write failed: the node must stop. Nothing becomes durable after that.
    ///
    /// # Panics
    /// If the write is not one of this log's.
    pub fn on_written(&mut self, write: Write, result: io::Result<()>) -> Result<(), WriteFailed> {
        let Write { mut commit, segment, offset, .. } = write;
        let lsn = commit.lsn;
        commit.release_bodies();
        // After a jam there would be many, each with the most memory that it ever had.
        if self.idle.len() <= self.config.writes_in_flight_max {
            self.idle.push(commit);
        }
        if let Err(source) = result
            && holds(Rule::FailedWriteStops)
        {
            // A retry could succeed without the lost data: the kernel may have dropped the dirty pages [protocols D2].
            self.failed = true;
            let mut failed = WriteFailed { segment, offset, lsn, loses_more: false, source };
            failed.loses_more = failed.is_of_disk() && self.counts_unsynced();
            return Err(failed);
        }
        let at = self.in_flight.binary_search_by_key(&lsn, |write| write.lsn);
        self.in_flight[at.expect("a completed write was in flight")].done = true;
        if self.failed {
            return Ok(());
        }
        while let Some(write) = self.in_flight.pop_front_if(|write| write.done) {
            self.written = write.lsn;
        }
        if self.config.durability == Durability::Sync && !self.resync {
            self.on_stable(self.written);
        }
        Ok(())
    }

    /// The next segment to sync: after a restart, and with [`Durability::Periodic`] at the interval. Called until `None`.
    pub fn next_sync(&mut self, now: Instant) -> Option<Sync> {
        if self.failed {
            return None;
        }
        if self.round.is_none() && self.sync_at().is_some_and(|at| at <= now) {
            self.to_sync.extend(self.ledger.segments_above(self.synced));
            self.round = Some(Round { covers: self.written, outstanding: self.to_sync.clone() });
            self.synced_at = now;
        }
        self.to_sync.pop().map(|segment| Sync { segment })
    }

    /// When the next round of syncs is due, if anything needs one.
    fn sync_at(&self) -> Option<Instant> {
        match self.config.durability {
            _ if self.round.is_some() => None,
            _ if self.resync => Some(Instant(0)),
            Durability::Periodic { .. } if self.written > self.synced && self.sync_requested => {
                Some(Instant(0))
            }
            Durability::Periodic { interval } if self.written > self.synced => {
                Some(self.synced_at + interval)
            }
            _ => None,
        }
    }

    /// Takes the result of a sync.
    ///
    /// # Errors
    /// If it failed: the node must stop, and must not sync again.
    ///
    /// # Panics
    /// If the sync is not one of this log's.
    pub fn on_synced(&mut self, sync: Sync, result: io::Result<()>) -> Result<(), WriteFailed> {
        let round = self.round.as_mut().expect("a sync belongs to a round");
        if let Err(source) = result
            && holds(Rule::FailedWriteStops)
        {
            self.failed = true;
            let (segment, lsn) = (sync.segment, round.covers);
            return Err(WriteFailed { segment, offset: 0, lsn, loses_more: self.counts_unsynced(), source });
        }
        let at = round.outstanding.iter().position(|segment| *segment == sync.segment);
        round.outstanding.swap_remove(at.expect("a sync belongs to its round"));
        if !round.outstanding.is_empty() || self.failed {
            return Ok(());
        }
        let covers = round.covers;
        self.round = None;
        self.resync = false;
        // Writes since the round began brought their own DSYNC, or wait for the next round.
        let stable = if self.config.durability == Durability::Sync { self.written } else { covers };
        self.on_stable(stable);
        Ok(())
    }

    fn on_stable(&mut self, synced: Lsn) {
        if synced == self.synced {
            return;
        }
        assert!(self.synced < synced && synced <= self.written);
        self.synced = synced;
        self.ledger.update_needed(synced);
        while let Some((_, oldest)) = self.statements.pop_front_if(|statement| statement.0 <= synced) {
            self.ledger.release(oldest);
        }
    }

    /// Everything up to here counts as durable under the configured [`Durability`].
    pub fn durable(&self) -> Lsn {
        match self.config.durability {
            Durability::Sync => self.synced,
            Durability::Periodic { .. } => self.written,
            Durability::Memory => Lsn(self.next.0 - 1),
        }
    }

    /// Whether something has counted, in this life or the one before, that is not on stable storage.
    pub fn counts_unsynced(&self) -> bool {
        let is_periodic = matches!(self.config.durability, Durability::Periodic { .. });
        self.resync || is_periodic && self.written > self.synced
    }

    /// Everything up to here is on stable storage.
    pub fn synced(&self) -> Lsn {
        self.synced
    }

    /// Whether a write failed. The node must stop.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Writes and syncs that the driver holds or still has to take.
    pub fn outstanding(&self) -> usize {
        self.in_flight.len() + self.round.as_ref().map_or(0, |round| round.outstanding.len())
    }

    /// Whether appended records wait to be written.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Syncs what is written without waiting for the interval; for an orderly stop.
    pub fn request_sync(&mut self) {
        self.sync_requested = true;
    }

    /// Whether everything that was appended is on stable storage, as far as the [`Durability`] aims at that.
    pub fn is_settled(&self) -> bool {
        let is_written = self.pending.is_empty() && self.in_flight.is_empty() && !self.failed;
        match self.config.durability {
            Durability::Sync => is_written && !self.resync,
            Durability::Periodic { .. } => is_written && !self.resync && self.synced >= self.written,
            Durability::Memory => true,
        }
    }

    /// As [`Wal::is_settled`], but what was never written does not matter: it has not counted.
    pub fn is_stable(&self) -> bool {
        let is_synced =
            self.in_flight.is_empty() && !self.failed && !self.resync && self.synced >= self.written;
        self.config.durability == Durability::Memory || is_synced
    }

    // Attesting.

    /// Whether the log went quiet with its last records unattested: nothing on disk yet tells that they were durable, so
    /// damage to them would look like a torn write. [`Wal::next_write`] then writes an empty commit group that does.
    pub fn attest_due(&self, now: Instant) -> bool {
        self.attest_at().is_some_and(|at| at <= now)
    }

    /// Attests as soon as nothing is in flight, without the quiet time; for an orderly stop.
    pub fn request_attest(&mut self) {
        self.attest_requested = true;
    }

    fn attest_at(&self) -> Option<Instant> {
        let quiet = self.pending.is_empty() && self.in_flight.is_empty() && !self.failed;
        let news = self.stated < self.synced.min(self.last_record)
            || (self.ledger.has_unneeded() && self.ledger.needed() > self.stated_oldest);
        if !quiet || !news || !self.has_room(1) {
            return None;
        }
        let quiet_time = if self.attest_requested { Default::default() } else { self.config.attest_after };
        Some(self.sealed_at + quiet_time)
    }

    /// When to call again if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        if self.failed {
            return None;
        }
        [self.attest_at(), self.sync_at(), self.ledger.retry_at()].into_iter().flatten().min()
    }

    // Segments.

    fn has_room(&self, pages: usize) -> bool {
        self.cursor.is_some_and(|cursor| cursor.has_room(pages)) || self.ledger.has_next()
    }

    /// Whether writing waits for a segment. Records still gather, but the replicas should refuse proposals.
    pub fn is_stalled(&self) -> bool {
        let pages = self.pending.front().map_or(1, CommitGroup::page_count);
        self.config.durability != Durability::Memory && !self.has_room(pages)
    }

    /// How much of the current segment is used, in thousandths: at 1000, or without one, or if what waits does not fit, the next is wanted now.
    pub fn used_permille(&self) -> u64 {
        let current = self.cursor.filter(|_| !self.is_stalled());
        current.map_or(1000, |cursor| 1000 * cursor.offset / cursor.size)
    }

    /// Whether the log cannot grow: preparing a segment failed, because the disk is full or for another reason, and the spare is in
    /// use. What is left of that is for votes on commands under way and for snapshots, so the replicas should refuse proposals.
    pub fn is_full(&self) -> bool {
        self.config.durability != Durability::Memory && self.ledger.is_full()
    }

    /// The next segment to prepare; called until `None`. There is one at a time.
    pub fn wants_segment(&mut self, now: Instant) -> Option<Preparation> {
        if self.config.durability == Durability::Memory { None } else { self.ledger.wants(now) }
    }

    /// The segment is prepared, and that is durable.
    ///
    /// # Panics
    /// If it was not asked for.
    pub fn segment_ready(&mut self, sequence: SegmentSequence) {
        self.ledger.on_ready(sequence);
    }

    /// The segment could not be prepared, because the disk is full ([`is_out_of_room`](crate::is_out_of_room)) or for another reason. It
    /// is asked for again later.
    ///
    /// # Panics
    /// If it was not asked for.
    pub fn segment_failed(&mut self, sequence: SegmentSequence) {
        self.ledger.on_failed(sequence);
    }

    /// The disk has no room for something else: files of segments that are kept to be used again ([`Config::reuse_max`]) become surplus,
    /// but for [`Config::spares`].
    pub fn give_back(&mut self) {
        self.ledger.give_back();
    }

    /// The next segment whose file shall be deleted; called until `None`.
    pub fn take_surplus(&mut self) -> Option<SegmentSequence> {
        self.ledger.take_surplus()
    }

    /// No record appended from now on has a smaller number.
    pub fn next_record(&self) -> Lsn {
        self.pending.back().map_or(self.next, |open| open.lsn)
    }

    /// Records of `group` below `floor` are no longer needed, apart from those that [`Restatement`] repeats. What replaces
    /// them (a snapshot) must already be durable. A group that needs none of its records sets `floor` above the last.
    pub fn set_floor(&mut self, group: GroupId, floor: Lsn) {
        self.ledger.set_floor(group, floor);
        self.ledger.update_needed(self.synced);
    }

    /// The group that keeps the oldest segment alive, so that a snapshot of it frees most. `None` if only the current
    /// segment is retained, or nothing but the next commit group is missing for the release.
    pub fn oldest_blocking_group(&self) -> Option<GroupId> {
        self.ledger.oldest_blocking_group()
    }

    /// Bytes of the segments that are part of the log, without spares.
    pub fn retained_size(&self) -> u64 {
        self.ledger.retained_size()
    }

    /// Where `body` lies on disk; `None` until it is written and after its segment was released. The segment may be reused
    /// while a read is under way: after it, the body must still lie there.
    pub fn locate(&self, body: BodyRef) -> Option<Location> {
        if body.lsn > self.written { None } else { self.ledger.locate(body) }
    }
}
