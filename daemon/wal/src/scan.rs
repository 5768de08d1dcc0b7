//! Reading pages and recognising commit groups in them.

use panch_wire::frame::{PAGE_SIZE, Page};

use crate::disk::{SegmentFile, SegmentReader};
use crate::error::RecoverError;
use crate::format::{self, FORMAT_VERSION, FORMAT_VERSION_MIN, Header};
use crate::segment::SegmentSequence;

const PAGE: u64 = PAGE_SIZE as u64;
/// Pages read ahead.
const WINDOW_PAGES: usize = 256;

/// Sequential reads of a segment, one window at a time.
struct Window {
    pages: Vec<Page>,
    segment: SegmentSequence,
    start: u64,
    length: usize,
}

impl Window {
    /// Fills `into` from `offset` of `file`; both are whole pages and within the file.
    fn read<D: SegmentReader>(
        &mut self,
        disk: &mut D,
        file: SegmentFile,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), RecoverError> {
        let segment = file.sequence;
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            if segment != self.segment || at < self.start || at >= self.start + self.length as u64 {
                let length = (WINDOW_PAGES * PAGE_SIZE).min((file.size - at) as usize);
                self.pages.resize(WINDOW_PAGES, Page([0; PAGE_SIZE]));
                self.length = 0;
                let memory: &mut [u8] = bytemuck::cast_slice_mut(&mut self.pages);
                disk.read(segment, at, &mut memory[..length]).map_err(|source| RecoverError::Read {
                    segment,
                    offset: at,
                    source,
                })?;
                (self.segment, self.start, self.length) = (segment, at, length);
            }
            let from = (at - self.start) as usize;
            let count = (self.length - from).min(into.len() - done);
            let memory: &[u8] = bytemuck::cast_slice(&self.pages);
            into[done..done + count].copy_from_slice(&memory[from..from + count]);
            done += count;
        }
        Ok(())
    }
}

/// What lies at a place where a commit group could start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// An intact header of this log, written for this place.
    Header(Header),
    /// Zeros.
    Blank,
    /// What says it is a header for this place, but is damaged.
    Broken,
    /// A header written for another place, or bytes that are no header.
    Stale,
}

/// How to look at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    /// A commit group is expected here; a header of another log or version is an error.
    Expect,
    /// As `Expect`, for a build that does not check checksums.
    Unverified,
    /// Any bytes may be here. Only a header that names this log is read whole, so that the content of bodies cannot make
    /// the search slow.
    Search,
}

/// Reads the segments of one log and recognises its commit groups.
pub(crate) struct Scanner<'a, D> {
    disk: &'a mut D,
    pub(crate) identity: u64,
    window: Window,
    /// The header pages looked at last.
    pub(crate) pages: Vec<Page>,
}

impl<'a, D: SegmentReader> Scanner<'a, D> {
    pub(crate) fn new(disk: &'a mut D, identity: u64) -> Self {
        let window = Window { pages: Vec::new(), segment: SegmentSequence(0), start: 0, length: 0 };
        Self { disk, identity, window, pages: Vec::new() }
    }

    /// The segments in ascending order, their sizes cut to whole pages.
    pub(crate) fn segments(&mut self) -> Result<Vec<SegmentFile>, RecoverError> {
        let mut files = self.disk.segments().map_err(RecoverError::List)?;
        for file in &mut files {
            file.size -= file.size % PAGE;
        }
        files.sort_by_key(|file| file.sequence);
        files.dedup_by_key(|file| file.sequence);
        Ok(files)
    }

    /// See [`Window::read`].
    pub(crate) fn read(
        &mut self,
        file: SegmentFile,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), RecoverError> {
        self.window.read(self.disk, file, offset, into)
    }

    /// The header pages that [`Scanner::probe`] found.
    pub(crate) fn header_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.pages)
    }

    /// Looks at the page at `offset` of `file`.
    pub(crate) fn probe(
        &mut self,
        file: SegmentFile,
        offset: u64,
        look: Look,
    ) -> Result<Found, RecoverError> {
        if !self.read_first(file, offset)? {
            let blank = file.size < offset + PAGE || self.pages[0].0.iter().all(|byte| *byte == 0);
            return Ok(if blank { Found::Blank } else { Found::Stale });
        }
        let header = Header::parse(&self.pages[0].0);
        if header.segment != file.sequence || header.offset != offset {
            return Ok(Found::Stale);
        }
        if look == Look::Search && header.identity != self.identity {
            return Ok(Found::Stale);
        }
        if !header.fits((file.size - offset) / PAGE) {
            return Ok(Found::Broken);
        }
        let intact = self.read_header(file, offset, &header)?;
        if !intact && look != Look::Unverified {
            return Ok(Found::Broken);
        }
        let segment = file.sequence;
        if header.identity != self.identity {
            let expected = self.identity;
            return Err(RecoverError::Identity { segment, offset, expected, found: header.identity });
        }
        if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&header.version) {
            let (oldest, newest) = (FORMAT_VERSION_MIN, FORMAT_VERSION);
            return Err(RecoverError::Version { segment, offset, found: header.version, oldest, newest });
        }
        Ok(if header.is_consistent() { Found::Header(header) } else { Found::Broken })
    }

    /// Whether an intact header of this log lies at `offset` of `file`, written for whatever place.
    pub(crate) fn is_trace(&mut self, file: SegmentFile, offset: u64) -> Result<bool, RecoverError> {
        if !self.read_first(file, offset)? {
            return Ok(false);
        }
        let header = Header::parse(&self.pages[0].0);
        Ok(header.identity == self.identity
            && header.fits((file.size - offset) / PAGE)
            && self.read_header(file, offset, &header)?)
    }

    /// Reads one page; whether it says it is the first page of a commit group.
    fn read_first(&mut self, file: SegmentFile, offset: u64) -> Result<bool, RecoverError> {
        self.pages.resize(1, Page([0; PAGE_SIZE]));
        if file.size < offset + PAGE {
            return Ok(false);
        }
        self.window.read(self.disk, file, offset, bytemuck::cast_slice_mut(&mut self.pages))?;
        Ok(format::has_magic(&self.pages[0].0))
    }

    /// Reads all header pages; whether their checksum is right.
    fn read_header(&mut self, file: SegmentFile, offset: u64, header: &Header) -> Result<bool, RecoverError> {
        self.pages.resize(header.header_pages as usize, Page([0; PAGE_SIZE]));
        self.window.read(self.disk, file, offset, bytemuck::cast_slice_mut(&mut self.pages))?;
        let bytes = self.header_bytes();
        Ok(format::header_checksum(bytes) == format::stored_checksum(bytes))
    }
}
