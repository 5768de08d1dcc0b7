//! Recovery: reads the log back, finds where it ends, and tells a torn tail from damage.
//!
//! The log is the chain of commit groups from the oldest segment on: each names the number and header checksum of the one
//! before it, and follows it directly or at the start of the next segment. The chain ends at the first place where no
//! intact commit group continues it. What lies behind is one of these:
//! * Zeros, or what a recycled segment held before: the log was not written further.
//! * A torn commit group, and possibly intact later ones, since several writes may be in flight. None of them was durable:
//!   all later ones state a `durable_lsn` below the torn one. They are cut off, and the log continues in their place.
//! * Damage: some later commit group of this log, anywhere behind, states that the one which should be here was durable. So
//!   it may have been acknowledged. Such a log is refused [protocols D3].
//!
//! What is cut off never comes back: new commit groups get numbers above any that are on disk, and chain to each other; an
//! old one would have to name the number of a new one as its predecessor. A page of a body that looks like a header does
//! not confuse the search either: a header names its own segment and offset.
//!
//! The oldest segment that is part of the log is stated by the commit groups, so a file missing at the front is noticed,
//! and files that were released and are kept to be renamed are not read: the newest statement counts, wherever in the newest
//! segment it stands. From there on every file must be there, up to the last in
//! the [`Inventory`]: segments are prepared one after the other, so a crash leaves no gap.

use std::collections::VecDeque;

use panch_wire::batch::BatchView;
use panch_wire::checksum::checksum;
use panch_wire::frame::{Frame, FrameFault, FramePool, PAGE_SIZE, pages_for};
use panch_wire::ids::GroupId;
use panch_wire::rule::{Rule, holds};

use crate::disk::{SegmentFile, SegmentReader};
use crate::error::RecoverError;
use crate::format::{self, Body, Header, Link};
use crate::inventory::Inventory;
use crate::ledger::{Placed, Segment};
use crate::scan::{Found, Look, Scanner};
use crate::segment::SegmentSequence;
use crate::writer::Cursor;
use crate::{BodyPlace, BodyRef, Location, Lsn, RecordKind};

const PAGE: u64 = PAGE_SIZE as u64;
/// A start begins a new range of numbers: more than a page that cannot be read could hide.
const LSN_RANGE_BITS: u32 = 32;

/// A record read back.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The consensus group.
    pub group: GroupId,
    /// As appended.
    pub kind: RecordKind,
    /// As appended.
    pub bytes: &'a [u8],
    /// The body, validated with [`BatchView::validate`]. Dropped unless the receiver keeps it.
    pub body: Option<Frame>,
    /// Names the body, with where it lies now.
    pub body_at: Option<(BodyRef, Location)>,
    /// The commit group.
    pub lsn: Lsn,
    /// Whether the record was repeated at the start of a segment rather than appended.
    pub restated: bool,
}

/// How a log ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// At zeros that were never written.
    Blank,
    /// At what a recycled segment held before.
    Stale,
    /// At the end of the newest segment.
    SegmentEnd,
    /// At a commit group that was not completely written and never durable; it was cut off with all that follow it.
    Torn,
}

/// What [`recover`] found. [`crate::Wal::resume`] continues from here.
#[derive(Debug)]
pub struct Recovered {
    /// How the log ended.
    pub end: End,
    /// The last commit group, 0 if there is none.
    pub last: Lsn,
    /// Commit groups read.
    pub commit_group_count: u64,
    /// Records read.
    pub record_count: u64,
    pub(crate) tail: Tail,
}

impl Recovered {
    /// Takes out the prepared segments that have another size than `segment_size`, or are not in the inventory because the node ended
    /// before that was written, with all after them. They hold nothing, and the log uses none that could be lost unnoticed.
    /// The caller strikes the last of these, which is the lowest, from the inventory, and then removes the files in the
    /// order given, from the highest down: so a crash leaves no gap.
    pub fn take_misfits(&mut self, segment_size: u64) -> Vec<SegmentSequence> {
        let prepared = &mut self.tail.prepared;
        let noted = self.tail.noted.filter(|_| holds(Rule::OnlyNotedSegmentsUsed));
        let is_noted = |file: &SegmentFile| noted.is_none_or(|last| file.sequence <= last);
        let is_fitting = |file: &&SegmentFile| file.size == segment_size && is_noted(file);
        let fitting = prepared.iter().take_while(is_fitting).count();
        prepared.drain(fitting..).rev().map(|file| file.sequence).collect()
    }
}

/// What the writer continues from.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) identity: u64,
    pub(crate) link: Link,
    pub(crate) next: Lsn,
    /// Everything up to here is stated to be on stable storage.
    pub(crate) stated: Lsn,
    pub(crate) last_record: Lsn,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) current: SegmentSequence,
    pub(crate) retained: VecDeque<Segment>,
    pub(crate) placed: VecDeque<Placed>,
    /// Segments after the current one.
    pub(crate) prepared: Vec<SegmentFile>,
    /// The last segment in the inventory, if there is one.
    pub(crate) noted: Option<SegmentSequence>,
}

/// Reads a log from oldest to newest and hands every record to `receive`.
///
/// Records below their group's floor may or may not be among them, as long as their segment was not reused: even ones that
/// an earlier recovery left out. A receiver skips what its snapshot covers.
///
/// `inventory` is `None` if nothing is known of the segments: a directory of an earlier version.
///
/// Memory: one commit group at a time, its bodies in frames of `pool`.
///
/// # Errors
/// If the log cannot be trusted or read; see [`RecoverError`]. What `receive` was told must then be dropped.
pub fn recover<D, F>(
    disk: &mut D,
    identity: u64,
    inventory: Option<&Inventory>,
    pool: &FramePool,
    receive: F,
) -> Result<Recovered, RecoverError>
where
    D: SegmentReader,
    F: FnMut(Entry<'_>),
{
    let mut scanner = Scanner::new(disk, identity);
    let files = scanner.segments()?;
    let extent = find_extent(&mut scanner, &files)?;
    let walk = Walk {
        scanner,
        pool,
        receive,
        start: extent.start,
        link: (extent.start.0 == 1).then(Link::default),
        highest: Lsn(0),
        stated: Lsn(0),
        oldest: extent.oldest,
        last_record: Lsn(0),
        retained: VecDeque::new(),
        placed: VecDeque::new(),
        cursor: None,
        bodies: Vec::new(),
        commit_group_count: 0,
        record_count: 0,
    };
    walk.run(&files, inventory)
}

/// Which segments are the log.
struct Extent {
    /// The segment to begin with.
    start: SegmentSequence,
    /// The oldest segment that is needed, as the last commit group of the newest segment states it.
    oldest: SegmentSequence,
}

fn find_extent<D: SegmentReader>(
    scanner: &mut Scanner<'_, D>,
    files: &[SegmentFile],
) -> Result<Extent, RecoverError> {
    for (newest, file) in files.iter().enumerate().rev() {
        let Some(oldest) = last_statement(scanner, *file)? else { continue };
        let mut start = newest;
        while start > 0
            && files[start].sequence > oldest
            && files[start - 1].sequence.next() == files[start].sequence
        {
            start -= 1;
        }
        return Ok(Extent { start: files[start].sequence, oldest });
    }
    // No segment is in use. That is a log that was created a moment ago, unless an older one left traces.
    let first = SegmentSequence(1);
    let Some(lowest) = files.first().filter(|file| file.sequence > first) else {
        return Ok(Extent { start: first, oldest: first });
    };
    let mut has_trace = false;
    for file in files {
        for page in 0..file.size / PAGE {
            has_trace |= scanner.is_trace(*file, page * PAGE)?;
        }
    }
    if has_trace && holds(Rule::RefuseDamagedLog) {
        return Err(RecoverError::Damaged {
            segment: lowest.sequence,
            offset: 0,
            lsn: Lsn(1),
            attested_by: None,
        });
    }
    let start = if has_trace { lowest.sequence } else { first };
    Ok(Extent { start, oldest: start })
}

/// The oldest segment of the log according to the last commit group in `file`; `None` if that holds none.
///
/// A commit group names what was the oldest when it was sealed, by what was durable then. That holds whether the group itself became
/// durable or is cut off: whatever lies before that segment is needed no more.
fn last_statement<D: SegmentReader>(
    scanner: &mut Scanner<'_, D>,
    file: SegmentFile,
) -> Result<Option<SegmentSequence>, RecoverError> {
    let (mut oldest, mut link, mut offset) = (None, None, 0);
    while let Found::Header(header) = scanner.probe(file, offset, Look::Expect)? {
        if link.is_some_and(|link| link != header.previous) {
            break;
        }
        oldest = oldest.max(Some(header.oldest));
        link = Some(Link { lsn: header.lsn, checksum: format::stored_checksum(scanner.header_bytes()) });
        offset += u64::from(header.page_count) * PAGE;
    }
    Ok(oldest)
}

fn expect() -> Look {
    if holds(Rule::TornTailCut) { Look::Expect } else { Look::Unverified }
}

/// What stands where the chain could continue.
enum Step {
    /// A whole commit group that continues the chain.
    Next(Header),
    /// Nothing of the kind.
    End(End),
}

struct Walk<'a, D, F> {
    scanner: Scanner<'a, D>,
    pool: &'a FramePool,
    receive: F,
    start: SegmentSequence,
    /// The end of the chain; `None` before the first commit group if older ones were released.
    link: Option<Link>,
    highest: Lsn,
    stated: Lsn,
    oldest: SegmentSequence,
    last_record: Lsn,
    retained: VecDeque<Segment>,
    placed: VecDeque<Placed>,
    cursor: Option<Cursor>,
    bodies: Vec<Option<Frame>>,
    commit_group_count: u64,
    record_count: u64,
}

impl<D: SegmentReader, F: FnMut(Entry<'_>)> Walk<'_, D, F> {
    fn run(
        mut self,
        files: &[SegmentFile],
        inventory: Option<&Inventory>,
    ) -> Result<Recovered, RecoverError> {
        let first = files.partition_point(|file| file.sequence < self.start);
        // Released earlier and not yet renamed. They go the usual way once the log says so again.
        self.retained.extend(files[..first].iter().map(|file| Segment::new(file.sequence, file.size)));
        let mut index = first;
        let mut offset = 0;
        let mut end = End::Blank;
        while let Some(file) = files.get(index) {
            match self.step(*file, offset)? {
                Step::Next(header) => {
                    offset += u64::from(header.page_count) * PAGE;
                    self.cursor = Some(Cursor { segment: file.sequence, offset, size: file.size });
                }
                Step::End(why) => {
                    end = if offset >= file.size { End::SegmentEnd } else { why };
                    let next = files.get(index + 1).filter(|next| next.sequence == file.sequence.next());
                    let continues = match next {
                        Some(next) if offset > 0 => self.continues(*next)?,
                        _ => false,
                    };
                    if !continues {
                        break;
                    }
                    (index, offset) = (index + 1, 0);
                }
            }
        }
        if holds(Rule::RefuseLostSegments) {
            self.check_complete(files, inventory)?;
        }
        if let Some(torn) = self.check_rest(files)? {
            end = torn;
        }
        self.check_front()?;
        let mut recovered = self.finish(files, end);
        recovered.tail.noted = inventory.map(Inventory::last);
        Ok(recovered)
    }

    /// Reads what stands at `offset` of `file`, and delivers it if it continues the chain.
    fn step(&mut self, file: SegmentFile, offset: u64) -> Result<Step, RecoverError> {
        let header = match self.scanner.probe(file, offset, expect())? {
            Found::Header(header) => header,
            Found::Blank => return Ok(Step::End(End::Blank)),
            Found::Broken => return Ok(Step::End(End::Torn)),
            Found::Stale => return Ok(Step::End(End::Stale)),
        };
        self.highest = self.highest.max(header.lsn);
        if self.link.is_some_and(|link| link != header.previous) {
            return Ok(Step::End(End::Stale));
        }
        if !self.read_bodies(file, &header)? && holds(Rule::TornTailCut) {
            return Ok(Step::End(End::Torn));
        }
        self.deliver(file, &header);
        Ok(Step::Next(header))
    }

    /// Whether the first commit group of `file` continues the chain.
    fn continues(&mut self, file: SegmentFile) -> Result<bool, RecoverError> {
        let found = self.scanner.probe(file, 0, expect())?;
        Ok(matches!(found, Found::Header(header) if Some(header.previous) == self.link))
    }

    /// Reads the bodies of the commit group whose header was just probed. False if it is not whole.
    fn read_bodies(&mut self, file: SegmentFile, header: &Header) -> Result<bool, RecoverError> {
        self.bodies.clear();
        let pages = std::mem::take(&mut self.scanner.pages);
        let mut offset = header.offset + u64::from(header.header_pages) * PAGE;
        let records = format::records(header, bytemuck::cast_slice(&pages));
        let mut whole = records.is_some();
        let mut record_at = header.offset + format::HEADER_SIZE as u64;
        for record in records.into_iter().flatten() {
            let mut frame = None;
            if let Some(body) = record.body {
                let at = if body.is_packed() { record_at + record.packed_at() as u64 } else { offset };
                frame = self.read_body(file, at, header.lsn, body, record.packed)?;
                whole &= frame.is_some();
                offset += u64::from(body.page_count) * PAGE;
            }
            record_at += format::record_size(record.bytes.len(), record.body) as u64;
            self.bodies.push(frame);
        }
        self.scanner.pages = pages;
        Ok(whole)
    }

    /// Reads one body, unless it is `packed`; `None` if it is not the one that the record names.
    fn read_body(
        &mut self,
        file: SegmentFile,
        offset: u64,
        lsn: Lsn,
        body: Body,
        packed: &[u8],
    ) -> Result<Option<Frame>, RecoverError> {
        let segment = file.sequence;
        let length = body.length as usize;
        let size = pages_for(length) * PAGE_SIZE;
        let Some(mut memory) = self.pool.take(length) else {
            return Err(RecoverError::Memory { segment, offset, size });
        };
        if body.is_packed() {
            memory[..length].copy_from_slice(packed);
        } else {
            self.scanner.read(file, offset, &mut memory[..size])?;
        }
        // Compared before the frame is looked at: torn bytes are no reason to call the frame unreadable.
        if memory[..8] != body.checksum.to_le_bytes() || checksum(&memory[8..length]) != body.checksum {
            return Ok(None);
        }
        let unreadable = |fault: FrameFault| RecoverError::Body { segment, offset, lsn, fault };
        let frame = memory.receive(length).map_err(unreadable)?;
        BatchView::validate(&frame).map_err(unreadable)?;
        Ok(Some(frame))
    }

    /// Hands the records of a commit group over and adds it to the chain.
    fn deliver(&mut self, file: SegmentFile, header: &Header) {
        let lsn = header.lsn;
        if self.retained.back().is_none_or(|segment| segment.sequence != file.sequence) {
            self.retained.push_back(Segment::new(file.sequence, file.size));
        }
        let segment = self.retained.back_mut().expect("the segment is retained");
        segment.note(lsn);
        let placed =
            Placed { lsn, segment: file.sequence, offset: header.offset, header_pages: header.header_pages };
        if self.bodies.iter().any(Option::is_some) {
            self.placed.push_back(placed);
        }
        let (mut byte, mut page) = (format::HEADER_SIZE, 0);
        let bytes = self.scanner.header_bytes();
        for (record, frame) in format::records(header, bytes).into_iter().flatten().zip(self.bodies.drain(..))
        {
            let body_at = record.body.map(|body| {
                let place = if body.is_packed() {
                    BodyPlace::Packed { byte: (byte + record.packed_at()) as u32 }
                } else {
                    BodyPlace::Behind { page }
                };
                page += body.page_count;
                let named = BodyRef { lsn, place, length: body.length };
                (named, placed.locate(named))
            });
            byte += format::record_size(record.bytes.len(), record.body);
            if !record.restated {
                segment.note_member(record.group, lsn);
            }
            self.record_count += 1;
            (self.receive)(Entry {
                group: record.group,
                kind: record.kind,
                bytes: record.bytes,
                body: frame,
                body_at,
                lsn,
                restated: record.restated,
            });
        }
        self.link = Some(Link { lsn, checksum: format::stored_checksum(bytes) });
        self.stated = self.stated.max(header.durable);
        self.oldest = self.oldest.max(header.oldest);
        if header.record_count > 0 {
            self.last_record = lsn;
        }
        self.commit_group_count += 1;
    }

    /// Checks that no file is missing from the oldest segment on.
    fn check_complete(
        &self,
        files: &[SegmentFile],
        inventory: Option<&Inventory>,
    ) -> Result<(), RecoverError> {
        let oldest = self.oldest.max(SegmentSequence(1));
        let mut expected = oldest;
        for file in files.iter().filter(|file| file.sequence >= oldest) {
            if file.sequence > expected {
                return Err(RecoverError::MissingSegment { missing: expected });
            }
            expected = file.sequence.next();
        }
        inventory.map_or(Ok(()), |inventory| inventory.check(files, oldest))
    }

    /// Searches everything behind the chain. `Some` if commit groups were cut off.
    fn check_rest(&mut self, files: &[SegmentFile]) -> Result<Option<End>, RecoverError> {
        let Some(link) = self.link else {
            // Older segments were released, so this one's first commit group was durable, or they would still be there.
            if holds(Rule::RefuseDamagedLog) {
                return Err(self.damaged(files, Lsn(1), None));
            }
            return Ok(Some(End::Torn));
        };
        let least = link.lsn.next();
        let (current, end) = self.cursor.map_or_else(Default::default, |end| (end.segment, end.offset));
        let mut torn = None;
        for file in files.iter().filter(|file| file.sequence >= current) {
            let from = if file.sequence == current { end } else { 0 };
            for page in from / PAGE..file.size / PAGE {
                let found = self.scanner.probe(*file, page * PAGE, Look::Search)?;
                let Found::Header(header) = found else { continue };
                self.highest = self.highest.max(header.lsn);
                // What an earlier recovery cut off may lie here too; only newer commit groups say anything new.
                if header.lsn >= least {
                    torn = Some(End::Torn);
                }
                if header.durable >= least && holds(Rule::RefuseDamagedLog) {
                    let attested_by = Some((file.sequence, page * PAGE, header.lsn));
                    return Err(self.damaged(files, least, attested_by));
                }
            }
        }
        Ok(torn)
    }

    fn damaged(
        &self,
        files: &[SegmentFile],
        lsn: Lsn,
        attested_by: Option<(SegmentSequence, u64, Lsn)>,
    ) -> RecoverError {
        let (mut segment, mut offset) = match self.cursor {
            Some(cursor) => (cursor.segment, cursor.offset),
            None => (self.start, 0),
        };
        if files.iter().any(|file| file.sequence == segment && offset >= file.size) {
            (segment, offset) = (segment.next(), 0);
        }
        RecoverError::Damaged { segment, offset, lsn, attested_by }
    }

    /// Checks that the log begins where it says.
    fn check_front(&self) -> Result<(), RecoverError> {
        if self.start > self.oldest {
            return Err(RecoverError::MissingSegment { missing: SegmentSequence(self.start.0 - 1) });
        }
        Ok(())
    }

    fn finish(mut self, files: &[SegmentFile], end: End) -> Recovered {
        let link = self.link.unwrap_or_default();
        let highest = self.highest.max(link.lsn);
        let next = match highest {
            Lsn(0) => Lsn(1),
            Lsn(highest) => Lsn(((highest >> LSN_RANGE_BITS) + 1) << LSN_RANGE_BITS),
        };
        let current = match self.cursor {
            Some(cursor) => cursor.segment,
            None => {
                self.retained.clear();
                SegmentSequence(self.start.0 - 1)
            }
        };
        Recovered {
            end,
            last: link.lsn,
            commit_group_count: self.commit_group_count,
            record_count: self.record_count,
            tail: Tail {
                identity: self.scanner.identity,
                link,
                next,
                stated: self.stated,
                last_record: self.last_record,
                cursor: self.cursor,
                current,
                retained: self.retained,
                placed: self.placed,
                prepared: files.iter().copied().filter(|file| file.sequence > current).collect(),
                noted: None,
            },
        }
    }
}
