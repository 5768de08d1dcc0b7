//! The ledger of segments: which are part of the log, prepared, to be reused or to be deleted, and who needs the oldest.

use std::collections::VecDeque;

use panch_wire::frame::PAGE_SIZE;
use panch_wire::ids::GroupId;
use panch_wire::time::{Duration, Instant};

use crate::config::Config;
use crate::segment::{Preparation, SegmentSequence};
use crate::{BodyPlace, BodyRef, Location, Lsn};

/// A segment that holds commit groups.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) sequence: SegmentSequence,
    /// Bytes of the file.
    pub(crate) size: u64,
    /// First and last commit group, 0 if there is none.
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    /// The last commit group that holds a record of the consensus group, sorted by consensus group. Restatements are not
    /// counted: a newer segment repeats them.
    pub(crate) members: Vec<(GroupId, Lsn)>,
}

impl Segment {
    pub(crate) fn new(sequence: SegmentSequence, size: u64) -> Self {
        Self { sequence, size, first: Lsn(0), last: Lsn(0), members: Vec::new() }
    }

    /// Notes that commit group `lsn` was placed here.
    pub(crate) fn note(&mut self, lsn: Lsn) {
        if self.first == Lsn(0) {
            self.first = lsn;
        }
        self.last = lsn;
    }

    /// Notes that commit group `lsn` holds a record of `group`.
    pub(crate) fn note_member(&mut self, group: GroupId, lsn: Lsn) {
        match self.members.binary_search_by_key(&group, |member| member.0) {
            Ok(at) => self.members[at].1 = lsn,
            Err(at) => self.members.insert(at, (group, lsn)),
        }
    }
}

/// Where a commit group lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) lsn: Lsn,
    pub(crate) segment: SegmentSequence,
    /// Bytes from the segment's start.
    pub(crate) offset: u64,
    /// Pages before those of the first body that has pages of its own.
    pub(crate) header_pages: u32,
}

impl Placed {
    /// Where one of its bodies lies.
    pub(crate) fn locate(&self, body: BodyRef) -> Location {
        let within = match body.place {
            BodyPlace::Packed { byte } => u64::from(byte),
            BodyPlace::Behind { page } => u64::from(self.header_pages + page) * PAGE_SIZE as u64,
        };
        Location { segment: self.segment, offset: self.offset + within, length: body.length }
    }
}

/// See the module.
pub(crate) struct Ledger {
    segment_size: u64,
    spares: usize,
    reuse_max: usize,
    retry_after: Duration,
    /// Oldest first; the last is the current one.
    retained: VecDeque<Segment>,
    /// The newest segment in use; the sequence before the first one if none is.
    current: SegmentSequence,
    /// Prepared, ascending.
    ready: Vec<SegmentSequence>,
    requested: Option<Preparation>,
    /// Files to rename, oldest first. Whether gaps are between them does not matter: they are no part of the log.
    released: VecDeque<SegmentSequence>,
    /// Files to delete.
    surplus: VecDeque<SegmentSequence>,
    /// Sorted by consensus group.
    floors: Vec<(GroupId, Lsn)>,
    /// Every retained commit group with bodies, oldest first.
    placed: VecDeque<Placed>,
    /// The oldest segment that is still needed, as far as durable facts tell.
    needed: SegmentSequence,
    failed: bool,
    retry_at: Option<Instant>,
}

impl Ledger {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            segment_size: config.segment_size,
            spares: config.spares,
            reuse_max: config.reuse_max.max(config.spares),
            retry_after: config.retry_after,
            retained: VecDeque::new(),
            current: SegmentSequence(0),
            ready: Vec::new(),
            requested: None,
            released: VecDeque::new(),
            surplus: VecDeque::new(),
            floors: Vec::new(),
            placed: VecDeque::new(),
            needed: SegmentSequence(0),
            failed: false,
            retry_at: None,
        }
    }

    /// Takes over what recovery found.
    pub(crate) fn resume(
        &mut self,
        current: SegmentSequence,
        retained: VecDeque<Segment>,
        placed: VecDeque<Placed>,
        prepared: impl Iterator<Item = (SegmentSequence, u64)>,
    ) {
        self.current = current;
        self.retained = retained;
        self.placed = placed;
        for (sequence, size) in prepared {
            assert_eq!(size, self.segment_size, "{sequence} does not fit");
            self.ready.push(sequence);
        }
    }

    // Preparing.

    /// The next segment to prepare, if one is wanted. One after the other, so that a crash leaves no gap between them.
    pub(crate) fn wants(&mut self, now: Instant) -> Option<Preparation> {
        let sequence = self.wanted()?;
        if self.failed && self.released.is_empty() {
            let at = *self.retry_at.get_or_insert(now + self.retry_after);
            if now < at {
                return None;
            }
        }
        self.retry_at = None;
        let preparation = Preparation { sequence, recycle: self.released.pop_front() };
        self.requested = Some(preparation);
        self.requested
    }

    fn wanted(&self) -> Option<SegmentSequence> {
        // The first segment of all is wanted besides its spares.
        let count = self.spares as u64 + u64::from(self.retained.is_empty());
        let mut wanted = (1..=count).map(|step| SegmentSequence(self.current.0 + step));
        wanted.find(|sequence| !self.ready.contains(sequence)).filter(|_| self.requested.is_none())
    }

    /// When to ask again after a failure.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    pub(crate) fn on_ready(&mut self, sequence: SegmentSequence) {
        let _ = self.take_request(sequence);
        let at = self.ready.partition_point(|other| *other < sequence);
        self.ready.insert(at, sequence);
        self.failed = false;
        self.retry_at = None;
    }

    pub(crate) fn on_failed(&mut self, sequence: SegmentSequence) {
        let request = self.take_request(sequence);
        // A file that cannot be renamed is not tried again: it would fail again at once.
        self.surplus.extend(request.recycle);
        self.failed = true;
        self.retry_at = None;
    }

    fn take_request(&mut self, sequence: SegmentSequence) -> Preparation {
        let request = self.requested.take().filter(|request| request.sequence == sequence);
        request.expect("only a segment that was asked for is reported")
    }

    /// Whether the last preparation failed, for whatever reason, and no spare is left.
    pub(crate) fn is_full(&self) -> bool {
        self.failed && !self.has_next()
    }

    /// Whether the segment after the current one is prepared.
    pub(crate) fn has_next(&self) -> bool {
        self.ready.first() == Some(&self.current.next())
    }

    /// Makes the next segment current. Returns its sequence and size.
    pub(crate) fn advance(&mut self) -> Option<(SegmentSequence, u64)> {
        if !self.has_next() {
            return None;
        }
        self.current = self.ready.remove(0);
        if self.retained.is_empty() {
            self.needed = self.current;
        }
        self.retained.push_back(Segment::new(self.current, self.segment_size));
        Some((self.current, self.segment_size))
    }

    // Filling.

    /// Notes that a commit group was placed in the current segment.
    pub(crate) fn place(&mut self, placed: Placed, members: &[GroupId], has_bodies: bool) {
        let segment = self.retained.back_mut().expect("a commit group is placed in the current segment");
        segment.note(placed.lsn);
        for group in members {
            segment.note_member(*group, placed.lsn);
        }
        if has_bodies {
            self.placed.push_back(placed);
        }
    }

    /// Where a body lies; `None` if its segment was released or its commit group not placed yet.
    pub(crate) fn locate(&self, body: BodyRef) -> Option<Location> {
        let at = self.placed.binary_search_by_key(&body.lsn, |placed| placed.lsn).ok()?;
        Some(self.placed[at].locate(body))
    }

    /// The retained segments with commit groups above `lsn`.
    pub(crate) fn segments_above(&self, lsn: Lsn) -> impl Iterator<Item = SegmentSequence> {
        self.retained.iter().filter(move |segment| segment.last > lsn).map(|segment| segment.sequence)
    }

    // Releasing.

    fn floor(&self, group: GroupId) -> Lsn {
        match self.floors.binary_search_by_key(&group, |floor| floor.0) {
            Ok(at) => self.floors[at].1,
            Err(_) => Lsn(0),
        }
    }

    /// Raises the floor of `group`.
    pub(crate) fn set_floor(&mut self, group: GroupId, floor: Lsn) {
        match self.floors.binary_search_by_key(&group, |floor| floor.0) {
            Ok(at) => self.floors[at].1 = self.floors[at].1.max(floor),
            Err(at) => self.floors.insert(at, (group, floor)),
        }
    }

    /// Finds the oldest segment still needed, given that everything up to `synced` is on stable storage.
    pub(crate) fn update_needed(&mut self, synced: Lsn) {
        // The first commit group of a segment restates the small state, so older segments are not needed for that.
        let restated = self
            .retained
            .iter()
            .rev()
            .find(|segment| segment.first != Lsn(0) && segment.first <= synced)
            .map_or(SegmentSequence(0), |segment| segment.sequence);
        let needed = self.retained.iter().find(|segment| {
            segment.sequence >= restated
                || segment.members.iter().any(|(group, last)| *last >= self.floor(*group))
        });
        if let Some(segment) = needed {
            self.needed = self.needed.max(segment.sequence);
        }
    }

    /// The oldest segment still needed.
    pub(crate) fn needed(&self) -> SegmentSequence {
        self.needed
    }

    /// Whether a segment waits for its release to be stated.
    pub(crate) fn has_unneeded(&self) -> bool {
        self.retained.front().is_some_and(|segment| segment.sequence < self.needed)
    }

    /// Releases the segments before `oldest`, which is durably stated to be the log's oldest.
    pub(crate) fn release(&mut self, oldest: SegmentSequence) {
        while let Some(segment) = self.retained.pop_front_if(|segment| segment.sequence < oldest) {
            if segment.size == self.segment_size && self.released.len() < self.reuse_max {
                self.released.push_back(segment.sequence);
            } else {
                self.surplus.push_back(segment.sequence);
            }
        }
        while self.placed.pop_front_if(|placed| placed.segment < oldest).is_some() {}
    }

    /// Gives back the files that are kept for later, beyond those wanted soon.
    pub(crate) fn give_back(&mut self) {
        let kept = self.released.len().min(self.spares);
        self.surplus.extend(self.released.drain(kept..));
    }

    /// The next file to delete.
    pub(crate) fn take_surplus(&mut self) -> Option<SegmentSequence> {
        self.surplus.pop_front()
    }

    /// The consensus group that keeps the oldest segment: of those with needed records in it, the one with the lowest floor.
    pub(crate) fn oldest_blocking_group(&self) -> Option<GroupId> {
        let oldest = self.retained.front().filter(|segment| segment.sequence < self.current)?;
        let blocking = oldest.members.iter().filter(|(group, last)| *last >= self.floor(*group));
        blocking.map(|(group, _)| *group).min_by_key(|group| self.floor(*group))
    }

    /// Bytes of the segments that are part of the log.
    pub(crate) fn retained_size(&self) -> u64 {
        self.retained.iter().map(|segment| segment.size).sum()
    }
}
