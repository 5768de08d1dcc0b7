//! Scatter lists: what one send or one log write is made of, without copying it together.

use std::fmt;
use std::ops::Range;

use panch_wire::frame::{Frame, FrameMut, Page};

/// A piece of a send.
#[derive(Debug)]
pub(crate) enum SendPart {
    /// Goes back to the ring's pool afterwards.
    Bytes(Vec<u8>),
    /// A range of the frame's bytes, shared, not copied.
    Frame(Frame, Range<usize>),
}

impl SendPart {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Frame(frame, range) => &frame.bytes()[range.clone()],
        }
    }
}

/// Bytes to send as one unit: buffers and frames in order. A `send` empties it, so one list serves for ever.
#[derive(Default, Debug)]
pub struct SendList {
    pub(crate) parts: Vec<SendPart>,
    size: usize,
}

impl SendList {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a buffer, preferably from the ring's `send_buffers`, where it goes when it is sent.
    pub fn push_bytes(&mut self, bytes: Vec<u8>) {
        self.size += bytes.len();
        self.parts.push(SendPart::Bytes(bytes));
    }

    /// Appends a whole frame without its padding.
    pub fn push_frame(&mut self, frame: Frame) {
        let range = 0..frame.bytes().len();
        self.push_frame_range(frame, range);
    }

    /// Appends a part of a frame; `range` lies within [`Frame::bytes`].
    pub fn push_frame_range(&mut self, frame: Frame, range: Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= frame.bytes().len(),
            "the range lies within the frame"
        );
        self.size += range.len();
        self.parts.push(SendPart::Frame(frame, range));
    }

    /// Bytes in the list.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = SendPart> {
        self.size = 0;
        self.parts.drain(..)
    }
}

/// A piece of a log write: page-aligned memory of whole pages, as O_DIRECT needs it.
pub enum LogPart {
    /// A frame with its padding.
    Frame(Frame),
    /// The first `count` pages of a buffer.
    Pages {
        /// The buffer; given back when the write has ended.
        pages: Vec<Page>,
        /// Pages to write from its start.
        count: usize,
    },
}

impl LogPart {
    /// The bytes that are written.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => frame.padded(),
            Self::Pages { pages, count } => bytemuck::cast_slice(&pages[..*count]),
        }
    }
}

impl fmt::Debug for LogPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(frame) => frame.fmt(f),
            Self::Pages { count, .. } => write!(f, "Pages({count})"),
        }
    }
}

/// Memory that a log read fills.
pub enum ReadBuffer {
    /// Memory of a frame pool.
    Frame(FrameMut),
    /// Own pages.
    Pages(Box<[Page]>),
}

impl ReadBuffer {
    /// The memory, whole.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => frame,
            Self::Pages(pages) => bytemuck::cast_slice(pages),
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Frame(frame) => frame,
            Self::Pages(pages) => bytemuck::cast_slice_mut(pages),
        }
    }
}

impl fmt::Debug for ReadBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadBuffer({} bytes)", self.bytes().len())
    }
}

/// `count` zeroed pages.
pub fn zeroed_pages(count: usize) -> Box<[Page]> {
    bytemuck::allocation::zeroed_slice_box(count)
}
