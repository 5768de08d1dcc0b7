//! What a ring reports: one [`Event`] per thing that happened, tagged with the caller's [`Token`].

use std::io;
use std::os::fd::OwnedFd;

use crate::buffers::ReceivedBytes;
use crate::parts::{LogPart, ReadBuffer};

/// The caller's tag on an operation; the ring only carries it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Token(pub u64);

/// Something that happened on a ring.
///
/// After a socket's close was asked for, the only event that still comes for it is [`Event::Closed`].
#[derive(Debug)]
pub enum Event {
    /// A listener has a new connection. Nobody owns it but this event: dropping it closes the connection.
    Accepted {
        /// As given to `accept`.
        token: Token,
        /// The connection, close-on-exec, with the listener's TCP_NODELAY.
        stream: OwnedFd,
    },
    /// A listener has stopped accepting, because of the process's limits (EMFILE, ENFILE, ENOMEM) or for good.
    /// The ring does not try again by itself; call `accept` again later.
    AcceptFailed {
        /// As given to `accept`.
        token: Token,
        /// Why.
        error: io::Error,
    },
    /// Bytes from the peer, at least one. Holding them keeps a receive buffer from being used.
    Received {
        /// As given to `receive`.
        token: Token,
        /// The bytes, in the ring's own buffer.
        bytes: ReceivedBytes,
    },
    /// No more bytes will come: the peer has finished (`None`) or the connection is broken. The socket is still open.
    ReceiveEnded {
        /// As given to `receive`.
        token: Token,
        /// Why, if it was not an orderly end.
        error: Option<io::Error>,
    },
    /// A list given to `send` is wholly in the kernel, or never will be.
    Sent {
        /// As given to `send`.
        token: Token,
        /// After an error every later `send` on this socket fails too.
        result: io::Result<()>,
    },
    /// A `connect` has ended.
    Connected {
        /// As given to `connect`.
        token: Token,
        /// Whether there is a connection now.
        result: io::Result<()>,
    },
    /// A descriptor is closed: its number may be reused from now on, and no operation refers to it.
    Closed {
        /// As given to `close`.
        token: Token,
    },
    /// A `write_log` has ended. After an error, what is on disk in that range is unknown.
    Written {
        /// As given to `write_log`.
        token: Token,
        /// Success means every byte, and on disk if the write was durable.
        result: io::Result<()>,
        /// The parts, for reuse.
        parts: Vec<LogPart>,
    },
    /// A `read_log` has ended.
    Read {
        /// As given to `read_log`.
        token: Token,
        /// Bytes read; fewer than asked only at the end of the file.
        result: io::Result<usize>,
        /// The buffer, filled from its start.
        buffer: ReadBuffer,
    },
    /// A `sync` has ended.
    Synced {
        /// As given to `sync`.
        token: Token,
        /// Success means that the file's data are on disk.
        result: io::Result<()>,
    },
    /// The deadline set last has passed.
    Deadline,
}
