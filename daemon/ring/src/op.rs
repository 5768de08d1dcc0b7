//! Operations in flight: what each owns until its last completion.

use std::mem;

use socket2::SockAddr;

use crate::event::Token;
use crate::parts::{LogPart, ReadBuffer};
use crate::slab::Key;

/// The `user_data` of submissions whose completion means nothing (cancellations, timer updates). No slab key has it.
pub(crate) const UNTRACKED: u64 = u64::MAX;

/// The most pieces one system call takes; the rest goes with the next.
pub(crate) const GATHER_MAX: usize = 128;

/// An operation that the kernel may still act on.
pub(crate) enum Op {
    Accept {
        socket: Key,
        multishot: bool,
    },
    /// A multishot receive into buffers that the kernel picks.
    Receive {
        socket: Key,
    },
    /// Where there is no multishot receive: waits until the socket can be read.
    Readable {
        socket: Key,
    },
    /// The parts stay in the socket's queue; `gather` points to them unless there is only one.
    Send {
        socket: Key,
        gather: Option<Box<Gather>>,
    },
    Connect {
        socket: Key,
        token: Token,
        #[expect(dead_code, reason = "only the kernel reads it")]
        address: Box<SockAddr>,
    },
    Write(Box<LogWrite>),
    Read(Box<LogRead>),
    Sync {
        file: Key,
        token: Token,
    },
    Timer,
    /// A read of the doorbell, for a thread that sleeps in the ring itself.
    Bell {
        count: Box<[u8; 8]>,
    },
}

impl Op {
    /// The descriptor that must stay open for this operation.
    pub(crate) fn descriptor(&self) -> Option<Key> {
        match self {
            Self::Accept { socket, .. }
            | Self::Receive { socket }
            | Self::Readable { socket }
            | Self::Send { socket, .. }
            | Self::Connect { socket, .. } => Some(*socket),
            Self::Write(write) => Some(write.file),
            Self::Read(read) => Some(read.file),
            Self::Sync { file, .. } => Some(*file),
            Self::Timer | Self::Bell { .. } => None,
        }
    }
}

/// A log write, possibly in several steps.
pub(crate) struct LogWrite {
    pub(crate) file: Key,
    pub(crate) token: Token,
    pub(crate) parts: Vec<LogPart>,
    pub(crate) gather: Box<Gather>,
    /// Where the first byte goes.
    pub(crate) offset: u64,
    pub(crate) size: usize,
    /// Bytes that earlier steps have written.
    pub(crate) done: usize,
    pub(crate) durable: bool,
}

/// A log read, possibly in several steps.
pub(crate) struct LogRead {
    pub(crate) file: Key,
    pub(crate) token: Token,
    pub(crate) buffer: ReadBuffer,
    pub(crate) offset: u64,
    pub(crate) size: usize,
    /// Bytes that earlier steps have read.
    pub(crate) done: usize,
}

/// An array of pointers for one vectored operation. It does not own what it points to: the operation does.
pub(crate) struct Gather {
    pub(crate) header: libc::msghdr,
    pub(crate) pieces: Vec<libc::iovec>,
}

impl Gather {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            // SAFETY: msghdr is a C struct of integers and pointers, for which zero is "nothing".
            header: unsafe { mem::zeroed() },
            pieces: Vec::with_capacity(GATHER_MAX),
        })
    }

    /// Points to `slices` from byte `skip` on, as far as there is room. Returns the number of bytes pointed to.
    pub(crate) fn point_to<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>, mut skip: usize) -> usize {
        self.pieces.clear();
        let mut size = 0;
        for slice in slices {
            if self.pieces.len() == GATHER_MAX {
                break;
            }
            if skip >= slice.len() {
                skip -= slice.len();
                continue;
            }
            let rest = &slice[skip..];
            skip = 0;
            self.pieces.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
            size += rest.len();
        }
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = self.pieces.len();
        size
    }
}
