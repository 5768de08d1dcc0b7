//! A commit group while it is filled and written: the unit that is durable as a whole or not at all.

use panch_wire::frame::{Frame, PAGE_SIZE, Page, pages_for};
use panch_wire::ids::GroupId;

use crate::format::{Body, HEADER_SIZE, Header, Record, record_size};
use crate::{BodyPlace, Lsn};

/// Records in final form behind room for the header, small bodies among them, and the large ones that follow the header pages.
///
/// `pages` has exactly the pages that `length` bytes need, and is zero from `length` on.
#[derive(Default)]
pub(crate) struct CommitGroup {
    pub(crate) lsn: Lsn,
    pages: Vec<Page>,
    length: usize,
    record_count: u32,
    bodies: Vec<Frame>,
    body_pages: usize,
    /// The frames whose bytes lie between the records. They stay taken from their pool until those are written, so that its bound is one
    /// for what waits here, too.
    packed: Vec<Frame>,
    packed_pages: usize,
    /// Consensus groups with records that are not restatements.
    members: Vec<GroupId>,
}

impl CommitGroup {
    /// Empties the commit group and gives it a number; memory is kept.
    pub(crate) fn open(&mut self, lsn: Lsn) {
        self.lsn = lsn;
        self.pages.clear();
        self.pages.push(Page([0; PAGE_SIZE]));
        self.length = HEADER_SIZE;
        self.record_count = 0;
        self.release_bodies();
        self.members.clear();
    }

    /// Gives the frames back.
    pub(crate) fn release_bodies(&mut self) {
        self.bodies.clear();
        self.body_pages = 0;
        self.packed.clear();
        self.packed_pages = 0;
    }

    /// Whether a record with `length` bytes and `body` may be added without exceeding `pages_max`, on disk and in frames: recovery takes as
    /// many frames at once.
    pub(crate) fn has_room(&self, length: usize, body: Option<Body>, pages_max: usize) -> bool {
        let header = pages_for(self.length + record_size(length, body));
        let body_pages = body.map_or(0, |body| body.page_count as usize);
        let frame_pages = body.map_or(0, |body| pages_for(body.length as usize));
        self.is_empty()
            || header + self.body_pages + body_pages <= pages_max
                && self.packed_pages + self.body_pages + frame_pages <= pages_max
    }

    /// Adds a record whose body, if it has one, is `frame`. Returns the place of its body.
    pub(crate) fn push(&mut self, record: Record<'_>, frame: Option<&Frame>) -> BodyPlace {
        debug_assert_eq!(record.body.is_some(), frame.is_some());
        let end = self.length + record_size(record.bytes.len(), record.body);
        while self.pages.len() * PAGE_SIZE < end {
            self.pages.push(Page([0; PAGE_SIZE]));
        }
        record.write(&mut bytemuck::cast_slice_mut(&mut self.pages)[self.length..end]);
        let packed_at = self.length + record.packed_at();
        self.length = end;
        self.record_count += 1;
        if !record.restated && !self.members.contains(&record.group) {
            self.members.push(record.group);
        }
        let page = self.body_pages as u32;
        let Some(frame) = frame else { return BodyPlace::Behind { page } };
        if record.body.is_some_and(|body| body.is_packed()) {
            self.packed_pages += frame.page_count();
            self.packed.push(frame.clone());
            return BodyPlace::Packed { byte: packed_at as u32 };
        }
        self.body_pages += frame.page_count();
        self.bodies.push(frame.clone());
        BodyPlace::Behind { page }
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Pages on disk.
    pub(crate) fn page_count(&self) -> usize {
        self.pages.len() + self.body_pages
    }

    /// Pages before the first body.
    pub(crate) fn header_pages(&self) -> usize {
        self.pages.len()
    }

    /// Consensus groups with records here, other than restatements.
    pub(crate) fn members(&self) -> &[GroupId] {
        &self.members
    }

    /// Whether a record has a body.
    pub(crate) fn has_bodies(&self) -> bool {
        !self.packed.is_empty() || !self.bodies.is_empty()
    }

    /// Completes `header` with the sizes and writes it. Returns the header checksum.
    pub(crate) fn seal(&mut self, header: Header) -> u64 {
        let header = Header {
            header_pages: self.pages.len() as u32,
            page_count: self.page_count() as u32,
            record_count: self.record_count,
            records_length: (self.length - HEADER_SIZE) as u32,
            ..header
        };
        header.write(bytemuck::cast_slice_mut(&mut self.pages))
    }

    /// The bytes in the order in which they lie on disk.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        assert!(!self.pages.is_empty(), "commit group {}: the header pages are lent", self.lsn.0);
        std::iter::once(bytemuck::cast_slice(&self.pages)).chain(self.bodies.iter().map(Frame::padded))
    }

    /// Lends the header pages out.
    pub(crate) fn take_pages(&mut self) -> Vec<Page> {
        assert!(!self.pages.is_empty(), "commit group {}: the header pages are lent already", self.lsn.0);
        std::mem::take(&mut self.pages)
    }

    /// Takes the header pages back.
    pub(crate) fn return_pages(&mut self, pages: Vec<Page>) {
        assert!(self.pages.is_empty(), "commit group {}: the header pages were not lent", self.lsn.0);
        self.pages = pages;
    }

    /// The large bodies, which lie behind the header pages.
    pub(crate) fn bodies(&self) -> &[Frame] {
        &self.bodies
    }

    /// How many parts [`CommitGroup::parts`] gives.
    pub(crate) fn part_count(&self) -> usize {
        1 + self.bodies.len()
    }
}
