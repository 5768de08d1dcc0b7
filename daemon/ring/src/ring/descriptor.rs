//! Descriptors that a ring owns, and closing them when nothing refers to them any more.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use io_uring::types::{CancelBuilder, Fd};
use socket2::SockRef;

use super::Ring;
use crate::event::{Event, Token};
use crate::parts::SendPart;
use crate::slab::Key;

/// Names a socket of one ring. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketId(pub(super) Key);

/// Names a log file of one ring. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub(super) Key);

/// An open descriptor. It is closed when `closing` is set and `in_flight` is zero.
pub(super) struct Descriptor {
    pub(super) fd: OwnedFd,
    /// Operations in the slab that refer to it.
    pub(super) in_flight: usize,
    pub(super) closing: Option<Token>,
    /// Set while connections are wanted.
    pub(super) accept: Option<Token>,
    pub(super) receive: Receive,
    pub(super) sends: SendQueue,
}

/// The receiving side of a socket.
#[derive(Default)]
pub(super) struct Receive {
    pub(super) token: Token,
    /// Whether bytes are wanted; a receive that ends is started again.
    pub(super) wanted: bool,
    /// The receive in flight.
    pub(super) op: Option<Key>,
    /// Whether the socket is in the ring's list of those that wait for a buffer.
    pub(super) starved: bool,
}

/// What is to be sent, in order.
#[derive(Default)]
pub(super) struct SendQueue {
    pub(super) parts: VecDeque<Queued>,
    /// Bytes of the first part that have been sent.
    pub(super) sent: usize,
    /// Bytes queued and not yet sent.
    pub(super) size: usize,
    /// Whether a send is in flight, or the socket is in the ring's list of those with something to send.
    pub(super) busy: bool,
    /// Whether the peer is told that nothing follows once the queue is empty.
    pub(super) finish: bool,
    /// The error that ended sending for good.
    pub(super) broken: Option<i32>,
}

pub(super) enum Queued {
    Part(SendPart),
    /// The parts before this, back to the previous end, were one list.
    End(Token),
}

impl Ring {
    /// Takes over a socket: a listener, a connection, or one to be connected.
    pub fn add_socket(&mut self, fd: impl Into<OwnedFd>) -> SocketId {
        SocketId(self.add(fd.into()))
    }

    /// Takes over a log file.
    pub fn add_file(&mut self, fd: impl Into<OwnedFd>) -> FileId {
        FileId(self.add(fd.into()))
    }

    fn add(&mut self, fd: OwnedFd) -> Key {
        self.descriptors.insert(Descriptor {
            fd,
            in_flight: 0,
            closing: None,
            accept: None,
            receive: Receive::default(),
            sends: SendQueue::default(),
        })
    }

    /// The socket itself, for its addresses and options. `None` once it is closed.
    pub fn socket_fd(&self, socket: SocketId) -> Option<BorrowedFd<'_>> {
        Some(self.descriptors.get(socket.0)?.fd.as_fd())
    }

    /// Closes a socket at once: what is queued for it is dropped, what is in flight is cancelled. [`Event::Closed`] follows,
    /// and no other event of this socket. To let the peer have what is queued, wait for its [`Event::Sent`] first.
    /// Does nothing if it is being closed already.
    pub fn close_socket(&mut self, socket: SocketId, token: Token) {
        self.close(socket.0, token, true);
    }

    /// Gives a socket up without ending the connection, for a duplicate of its descriptor to go on with. What is received
    /// meanwhile is lost: the peer must be waiting for an answer. [`Event::Closed`] is the last event.
    pub fn release_socket(&mut self, socket: SocketId, token: Token) {
        self.pause_receive(socket);
        self.close(socket.0, token, false);
    }

    /// Closes a file once the operations in flight have ended, and reported so. [`Event::Closed`] is the last event.
    pub fn close_file(&mut self, file: FileId, token: Token) {
        self.close(file.0, token, false);
    }

    pub(super) fn close(&mut self, key: Key, token: Token, cancel: bool) {
        let Some(descriptor) = self.descriptors.get_mut(key) else { return };
        if descriptor.closing.is_some() {
            return;
        }
        descriptor.closing = Some(token);
        if cancel && descriptor.in_flight > 0 {
            // Cancelling finds what waits; what runs at this moment ends because nothing can be sent or received any more.
            // Fails for what is not connected, where there is nothing to end.
            let _ = SockRef::from(&descriptor.fd).shutdown(std::net::Shutdown::Both);
            let fd = Fd(descriptor.fd.as_raw_fd());
            self.cancel(CancelBuilder::fd(fd).all());
        }
        self.settle(key);
    }

    /// Whether nothing is to be reported for this descriptor any more.
    pub(super) fn is_closing(&self, key: Key) -> bool {
        self.descriptors.get(key).is_none_or(|descriptor| descriptor.closing.is_some())
    }

    /// Closes the descriptor if that was asked for and nothing refers to it any more.
    pub(super) fn settle(&mut self, key: Key) {
        let Some(descriptor) = self.descriptors.get(key) else { return };
        let (Some(token), 0) = (descriptor.closing, descriptor.in_flight) else { return };
        let descriptor = self.descriptors.remove(key).expect("it was just there");
        for queued in descriptor.sends.parts {
            if let Queued::Part(SendPart::Bytes(bytes)) = queued {
                self.send_buffers.give(bytes);
            }
        }
        self.ready.push_back((None, Event::Closed { token }));
    }
}
