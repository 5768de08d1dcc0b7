//! The bytes of a commit group's header pages.
//!
//! A commit group is: one or more header pages (a fixed header, then the records, small bodies among them), then the padded
//! pages of each large body in the order of the records. All integers are little-endian. The header checksum covers every
//! byte of the header pages after itself; bodies are covered by the checksums in their records, their padding by nothing.
//!
//! ```text
//!  0 checksum u64   8 magic u32       12 version u16   14 zero u16
//! 16 header pages u32                 20 pages in all u32
//! 24 identity u64  32 segment u64     40 offset u64    48 lsn u64
//! 56 previous lsn u64   64 chain u64  72 durable lsn u64   80 oldest segment u64
//! 88 record count u32   92 bytes of records u32        96 records
//!
//! record: group u16, kind u8, flags u8, length u16, zero u16; [body: pages u32, length u32, checksum u64;] bytes; to 8;
//!         [a body of no pages: its bytes; to 8]
//! ```
//! Version 1 has pages for every body. A log may hold commit groups of both versions.
//!
//! Everything before offset 56, and what the checksum covers, stays the same in every version: a header of any version can
//! be recognised as stale, foreign or unsupported.

use panch_wire::checksum::checksum;
use panch_wire::frame::{FRAME_SIZE_MAX, Frame, HEADER_SIZE as FRAME_HEADER_SIZE, PAGE_SIZE, pages_for};
use panch_wire::ids::GroupId;
use panch_wire::record::FIXED_SIZE_MAX;

use crate::segment::SegmentSequence;
use crate::{Lsn, RecordKind};

/// What nodes tell each other as the version of their logs, and refuse each other over. Nothing that they tell each other has changed
/// with the format so far.
pub const TOLD_VERSION: u16 = 1;
/// Version of the log format.
pub(crate) const FORMAT_VERSION: u16 = 2;
/// The oldest version that is read.
pub(crate) const FORMAT_VERSION_MIN: u16 = 1;
/// Bytes before the records.
pub(crate) const HEADER_SIZE: usize = 96;
const MAGIC: u32 = u32::from_le_bytes(*b"PWAL");
const RECORD_SIZE: usize = 8;
const BODY_SIZE: usize = 16;
const HAS_BODY: u8 = 1;
const RESTATED: u8 = 2;
/// Larger numbers are never written, so that the sum of a found number and a step cannot overflow.
const LSN_MAX: u64 = 1 << 62;
/// The most bytes of a body that is packed between the records.
pub(crate) const PACKED_SIZE_MAX: usize = 4 * PAGE_SIZE;

/// What a commit group is chained to: the number and header checksum of the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Link {
    pub(crate) lsn: Lsn,
    pub(crate) checksum: u64,
}

/// The fixed part of the first header page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) version: u16,
    pub(crate) header_pages: u32,
    /// Pages of the whole commit group.
    pub(crate) page_count: u32,
    pub(crate) identity: u64,
    pub(crate) segment: SegmentSequence,
    /// Byte offset in the segment, so that a copy of a header elsewhere is not taken for one.
    pub(crate) offset: u64,
    pub(crate) lsn: Lsn,
    pub(crate) previous: Link,
    /// Everything up to here was known to be on stable storage when this was sealed.
    pub(crate) durable: Lsn,
    /// Older segments were no longer part of the log when this was sealed.
    pub(crate) oldest: SegmentSequence,
    pub(crate) record_count: u32,
    pub(crate) records_length: u32,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Whether `page` says it is the first page of a commit group.
pub(crate) fn has_magic(page: &[u8]) -> bool {
    u32_at(page, 8) == MAGIC
}

/// The checksum stored in the header pages `bytes`.
pub(crate) fn stored_checksum(bytes: &[u8]) -> u64 {
    u64_at(bytes, 0)
}

/// The checksum that the header pages `bytes` should have.
pub(crate) fn header_checksum(bytes: &[u8]) -> u64 {
    checksum(&bytes[8..])
}

impl Header {
    /// Writes the header into the front of its header pages, whose records are complete. Returns the checksum.
    pub(crate) fn write(&self, bytes: &mut [u8]) -> u64 {
        assert_eq!(bytes.len(), self.header_pages as usize * PAGE_SIZE);
        bytes[8..HEADER_SIZE].fill(0);
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(8, &MAGIC.to_le_bytes());
        put(12, &self.version.to_le_bytes());
        put(16, &self.header_pages.to_le_bytes());
        put(20, &self.page_count.to_le_bytes());
        put(24, &self.identity.to_le_bytes());
        put(32, &self.segment.0.to_le_bytes());
        put(40, &self.offset.to_le_bytes());
        put(48, &self.lsn.0.to_le_bytes());
        put(56, &self.previous.lsn.0.to_le_bytes());
        put(64, &self.previous.checksum.to_le_bytes());
        put(72, &self.durable.0.to_le_bytes());
        put(80, &self.oldest.0.to_le_bytes());
        put(88, &self.record_count.to_le_bytes());
        put(92, &self.records_length.to_le_bytes());
        let sum = header_checksum(bytes);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        sum
    }

    /// Reads the fields from the first header page; any bytes give some header.
    pub(crate) fn parse(page: &[u8]) -> Self {
        Self {
            version: u16_at(page, 12),
            header_pages: u32_at(page, 16),
            page_count: u32_at(page, 20),
            identity: u64_at(page, 24),
            segment: SegmentSequence(u64_at(page, 32)),
            offset: u64_at(page, 40),
            lsn: Lsn(u64_at(page, 48)),
            previous: Link { lsn: Lsn(u64_at(page, 56)), checksum: u64_at(page, 64) },
            durable: Lsn(u64_at(page, 72)),
            oldest: SegmentSequence(u64_at(page, 80)),
            record_count: u32_at(page, 88),
            records_length: u32_at(page, 92),
        }
    }

    /// Whether the header pages can lie within `pages` pages.
    pub(crate) fn fits(&self, pages: u64) -> bool {
        self.header_pages >= 1 && self.header_pages <= self.page_count && u64::from(self.page_count) <= pages
    }

    /// Whether the fields that only this version has agree with each other.
    pub(crate) fn is_consistent(&self) -> bool {
        self.lsn > self.previous.lsn
            && self.lsn > self.durable
            && self.lsn.0 < LSN_MAX
            && self.oldest.0 >= 1
            && self.oldest <= self.segment
            && HEADER_SIZE as u64 + u64::from(self.records_length)
                <= u64::from(self.header_pages) * PAGE_SIZE as u64
    }
}

/// What a record says about its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Body {
    /// Pages behind the header pages; 0 if the body is packed behind its record.
    pub(crate) page_count: u32,
    pub(crate) length: u32,
    pub(crate) checksum: u64,
}

/// One record as it lies in the header pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) group: GroupId,
    pub(crate) kind: RecordKind,
    pub(crate) restated: bool,
    pub(crate) bytes: &'a [u8],
    pub(crate) body: Option<Body>,
    /// The bytes of a packed body; empty otherwise.
    pub(crate) packed: &'a [u8],
}

impl Body {
    /// `frame` as a body that is packed if it has at most `packed_size_max` bytes.
    pub(crate) fn of(frame: &Frame, packed_size_max: usize) -> Self {
        let length = frame.bytes().len();
        Self {
            page_count: if length <= packed_size_max { 0 } else { frame.page_count() as u32 },
            length: length as u32,
            checksum: frame.checksum(),
        }
    }

    /// Whether the body lies behind its record.
    pub(crate) fn is_packed(&self) -> bool {
        self.page_count == 0
    }

    /// Whether a frame of that length may lie there.
    fn is_consistent(&self) -> bool {
        let length = self.length as usize;
        let size_max = if self.is_packed() { PACKED_SIZE_MAX } else { FRAME_SIZE_MAX };
        (FRAME_HEADER_SIZE..=size_max).contains(&length)
            && (self.is_packed() || pages_for(length) == self.page_count as usize)
    }
}

/// Bytes of a record before its packed body.
fn record_head_size(length: usize, has_body: bool) -> usize {
    let body = if has_body { BODY_SIZE } else { 0 };
    (RECORD_SIZE + body + length).next_multiple_of(8)
}

/// Bytes that a record with `length` bytes takes in the header pages.
pub(crate) fn record_size(length: usize, body: Option<Body>) -> usize {
    let packed = body.filter(Body::is_packed).map_or(0, |body| body.length as usize);
    record_head_size(length, body.is_some()) + packed.next_multiple_of(8)
}

impl<'a> Record<'a> {
    /// Writes the record to the front of `out`, which is zero.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let mut flags = if self.restated { RESTATED } else { 0 };
        out[..2].copy_from_slice(&self.group.0.to_le_bytes());
        out[2] = self.kind.0;
        out[4..6].copy_from_slice(&(self.bytes.len() as u16).to_le_bytes());
        let mut at = RECORD_SIZE;
        if let Some(body) = self.body {
            flags |= HAS_BODY;
            out[at..at + 4].copy_from_slice(&body.page_count.to_le_bytes());
            out[at + 4..at + 8].copy_from_slice(&body.length.to_le_bytes());
            out[at + 8..at + 16].copy_from_slice(&body.checksum.to_le_bytes());
            at += BODY_SIZE;
        }
        out[3] = flags;
        out[at..at + self.bytes.len()].copy_from_slice(self.bytes);
        let at = self.packed_at();
        out[at..at + self.packed.len()].copy_from_slice(self.packed);
    }

    /// Where the packed body begins, counted from the record.
    pub(crate) fn packed_at(&self) -> usize {
        record_head_size(self.bytes.len(), self.body.is_some())
    }

    /// Takes the record at the front of `rest`; `None` if the bytes are not a record.
    pub(crate) fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let (fixed, mut tail) = rest.split_at_checked(RECORD_SIZE)?;
        let flags = fixed[3];
        let length = usize::from(u16_at(fixed, 4));
        if length > FIXED_SIZE_MAX || flags & !(HAS_BODY | RESTATED) != 0 {
            return None;
        }
        let mut body = None;
        if flags & HAS_BODY != 0 {
            let (named, after) = tail.split_at_checked(BODY_SIZE)?;
            let found =
                Body { page_count: u32_at(named, 0), length: u32_at(named, 4), checksum: u64_at(named, 8) };
            if !found.is_consistent() {
                return None;
            }
            body = Some(found);
            tail = after;
        }
        let bytes = tail.get(..length)?;
        let packed_length = body.filter(Body::is_packed).map_or(0, |body| body.length as usize);
        let packed = rest.get(record_head_size(length, body.is_some())..)?.get(..packed_length)?;
        *rest = rest.get(record_size(length, body)..)?;
        Some(Self {
            group: GroupId(u16_at(fixed, 0)),
            kind: RecordKind(fixed[2]),
            restated: flags & RESTATED != 0,
            bytes,
            body,
            packed,
        })
    }
}

/// The records of a commit group, of which `bytes` are the header pages.
///
/// Returns `None` unless exactly the announced records fill exactly the announced bytes and their bodies exactly the pages
/// after the header.
pub(crate) fn records<'a>(header: &Header, bytes: &'a [u8]) -> Option<impl Iterator<Item = Record<'a>>> {
    let area = bytes.get(HEADER_SIZE..HEADER_SIZE + header.records_length as usize)?;
    let mut rest = area;
    let mut body_pages = 0u64;
    for _ in 0..header.record_count {
        body_pages += Record::take(&mut rest)?.body.map_or(0, |body| u64::from(body.page_count));
    }
    if !rest.is_empty() || body_pages != u64::from(header.page_count - header.header_pages) {
        return None;
    }
    let mut rest = area;
    Some((0..header.record_count).map(move |_| Record::take(&mut rest).expect("the records were just read")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(
            group: u16, kind: u8, restated: bool, bytes in prop::collection::vec(any::<u8>(), 0..=FIXED_SIZE_MAX),
            body in prop::option::of((FRAME_HEADER_SIZE as u32..1 << 20, any::<u64>(), any::<bool>()))
        ) {
            let mut frame = Vec::new();
            let body = body.map(|(length, checksum, is_packed)| {
                let is_packed = is_packed && length as usize <= PACKED_SIZE_MAX;
                if is_packed {
                    frame = vec![kind; length as usize];
                }
                Body { page_count: if is_packed { 0 } else { pages_for(length as usize) as u32 }, length, checksum }
            });
            let (group, kind) = (GroupId(group), RecordKind(kind));
            let record = Record { group, kind, restated, bytes: &bytes, body, packed: &frame };
            let mut out = vec![0; record_size(bytes.len(), body)];
            record.write(&mut out);
            let mut rest = &out[..];
            prop_assert_eq!(Record::take(&mut rest), Some(record));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_bytes_panic_the_decoder(
            page in prop::collection::vec(any::<u8>(), PAGE_SIZE), count in 0u32..40, length in 0u32..5000, pages in 1u32..3
        ) {
            let header = Header {
                header_pages: 1, page_count: pages, record_count: count, records_length: length, ..Header::parse(&page)
            };
            if let Some(records) = records(&header, &page) {
                prop_assert_eq!(records.count(), count as usize);
            }
        }
    }

    #[test]
    fn a_header_comes_back_as_it_was_and_every_flip_is_seen() {
        let header = Header {
            version: FORMAT_VERSION,
            header_pages: 1,
            page_count: 3,
            identity: 0x0102_0304_0506_0708,
            segment: SegmentSequence(9),
            offset: 8192,
            lsn: Lsn(77),
            previous: Link { lsn: Lsn(76), checksum: 5 },
            durable: Lsn(75),
            oldest: SegmentSequence(4),
            record_count: 0,
            records_length: 0,
        };
        let mut page = vec![0; PAGE_SIZE];
        let sum = header.write(&mut page);
        assert_eq!(Header::parse(&page), header);
        assert!(has_magic(&page) && header.is_consistent() && sum == stored_checksum(&page));
        for at in 0..PAGE_SIZE {
            page[at] ^= 0x10;
            assert_ne!(header_checksum(&page), stored_checksum(&page), "flip at {at}");
            page[at] ^= 0x10;
        }
    }
}
