//! Operations on sockets: accept, connect, receive, send.
//!
//! Sends of one socket are serialised, since the kernel may reorder several in flight; what gathers in the meantime, or
//! within one turn, leaves with one system call.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use io_uring::opcode;
use io_uring::types::{CancelBuilder, Fd};
use socket2::{SockAddr, SockRef};

use super::descriptor::{Queued, SocketId};
use super::{Multishot, Ring};
use crate::buffers::GROUP;
use crate::event::{Event, Token};
use crate::op::{Gather, Op};
use crate::parts::{SendList, SendPart};
use crate::slab::Key;

/// A send to a peer that is gone is an error, not a signal, and is complete unless something is wrong.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

impl Ring {
    /// Accepts connections from now on: one [`Event::Accepted`] each, until [`Event::AcceptFailed`] or the close.
    pub fn accept(&mut self, listener: SocketId, token: Token) {
        let Some(descriptor) = self.descriptors.get_mut(listener.0) else { return };
        if descriptor.closing.is_none() && descriptor.accept.replace(token).is_none() {
            self.start_accept(listener.0);
        }
    }

    pub(super) fn start_accept(&mut self, socket: Key) {
        let (fd, multishot) = (self.fd(socket), self.multishot_accept != Multishot::Refused);
        let entry = if multishot {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
        } else {
            let nowhere = std::ptr::null_mut();
            opcode::Accept::new(fd, nowhere, std::ptr::null_mut()).flags(libc::SOCK_CLOEXEC).build()
        };
        self.start(Op::Accept { socket, multishot }, entry);
    }

    /// Connects; [`Event::Connected`] tells how it ended. To give up earlier, close the socket.
    pub fn connect(&mut self, socket: SocketId, address: SocketAddr, token: Token) {
        let Some(descriptor) = self.descriptors.get(socket.0) else { return };
        if descriptor.closing.is_some() {
            return;
        }
        let fd = Fd(descriptor.fd.as_raw_fd());
        let address = Box::new(SockAddr::from(address));
        let entry = opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
        self.start(Op::Connect { socket: socket.0, token, address }, entry);
    }

    /// Receives from now on: [`Event::Received`] each time bytes come, until [`Event::ReceiveEnded`], a
    /// [`Ring::pause_receive`] or the close.
    pub fn receive(&mut self, socket: SocketId, token: Token) {
        let Some(descriptor) = self.descriptors.get_mut(socket.0) else { return };
        descriptor.receive.token = token;
        descriptor.receive.wanted = true;
        self.start_receive(socket.0);
    }

    /// Stops receiving, so that the peer is slowed down. Bytes that the kernel has already put into a buffer are still
    /// reported. [`Ring::receive`] goes on.
    pub fn pause_receive(&mut self, socket: SocketId) {
        let Some(descriptor) = self.descriptors.get_mut(socket.0) else { return };
        if std::mem::take(&mut descriptor.receive.wanted)
            && let Some(op) = descriptor.receive.op
        {
            self.cancel(CancelBuilder::user_data(op.0));
        }
    }

    pub(super) fn start_receive(&mut self, socket: Key) {
        let descriptor = self.descriptors.get(socket).expect("receives start on open sockets");
        let receive = &descriptor.receive;
        if descriptor.closing.is_some() || !receive.wanted || receive.op.is_some() || receive.starved {
            return;
        }
        let fd = self.fd(socket);
        let op = if self.multishot_receive == Multishot::Refused {
            self.start(Op::Readable { socket }, opcode::PollAdd::new(fd, libc::POLLIN as u32).build())
        } else {
            self.start(Op::Receive { socket }, opcode::RecvMulti::new(fd, GROUP).build())
        };
        self.descriptors.get_mut(socket).expect("it was just there").receive.op = Some(op);
    }

    /// Puts a socket on the list of those that wait for a receive buffer.
    pub(super) fn starve(&mut self, socket: Key) {
        self.counters.buffer_shortages += 1;
        let descriptor = self.descriptors.get_mut(socket).expect("only open sockets starve");
        descriptor.receive.starved = true;
        self.starved.push_back(socket);
    }

    /// Starts receives that waited for a buffer, no more than there are buffers.
    pub(super) fn start_receives(&mut self) {
        for _ in 0..self.receive_buffers.available().min(self.starved.len()) {
            let socket = self.starved.pop_front().expect("counted");
            if let Some(descriptor) = self.descriptors.get_mut(socket) {
                descriptor.receive.starved = false;
                self.counters.rearms += 1;
                self.start_receive(socket);
            }
        }
    }

    /// Sends the list, after what was given before; it is empty afterwards. [`Event::Sent`] follows once the kernel has
    /// all of it. Nothing moves before the next submit. On a socket that is closed or being closed, nothing is sent and no
    /// event follows.
    pub fn send(&mut self, socket: SocketId, list: &mut SendList, token: Token) {
        let size = list.size();
        let descriptor = self.descriptors.get_mut(socket.0).filter(|descriptor| descriptor.closing.is_none());
        let Some(descriptor) = descriptor else {
            list.drain().for_each(|part| recycle(&self.send_buffers, part));
            return;
        };
        let sends = &mut descriptor.sends;
        if let Some(code) = sends.broken {
            list.drain().for_each(|part| recycle(&self.send_buffers, part));
            let result = Err(std::io::Error::from_raw_os_error(code));
            self.ready.push_back((Some(socket.0), Event::Sent { token, result }));
            return;
        }
        for part in list.drain() {
            if part.bytes().is_empty() {
                recycle(&self.send_buffers, part);
            } else {
                sends.parts.push_back(Queued::Part(part));
            }
        }
        sends.parts.push_back(Queued::End(token));
        sends.size += size;
        if !std::mem::replace(&mut sends.busy, true) {
            self.unsent.push(socket.0);
        }
    }

    /// Tells the peer that nothing follows, once everything queued so far is sent. Receiving goes on.
    pub fn finish_sending(&mut self, socket: SocketId) {
        let Some(descriptor) = self.descriptors.get_mut(socket.0) else { return };
        descriptor.sends.finish = true;
        if !std::mem::replace(&mut descriptor.sends.busy, true) {
            self.unsent.push(socket.0);
        }
    }

    /// Bytes given to [`Ring::send`] that the kernel has not taken yet. Zero for a closed socket.
    pub fn unsent_size(&self, socket: SocketId) -> usize {
        self.descriptors.get(socket.0).map_or(0, |descriptor| descriptor.sends.size)
    }

    /// The number that the system knows a socket by, and its own address; `None` once it is closed.
    pub fn identity(&self, socket: SocketId) -> Option<(i32, Option<SocketAddr>)> {
        let descriptor = self.descriptors.get(socket.0)?;
        let address = SockRef::from(&descriptor.fd).local_addr().ok().and_then(|address| address.as_socket());
        Some((descriptor.fd.as_raw_fd(), address))
    }

    /// Bytes that the peer of a TCP connection has acknowledged, and those that have come from it; `None` if the kernel does not tell.
    pub fn progress(&self, socket: SocketId) -> Option<(u64, u64)> {
        /// Where `tcp_info` of linux/tcp.h has them, since Linux 4.1.
        const ACKED: usize = 120;
        const RECEIVED: usize = 128;
        let descriptor = self.descriptors.get(socket.0)?;
        let mut info = [0_u8; RECEIVED + 8];
        let mut length = info.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `info`, which has as many, and says how many.
        let result = unsafe {
            libc::getsockopt(
                descriptor.fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let word = |at: usize| u64::from_ne_bytes(info[at..at + 8].try_into().expect("eight bytes"));
        (result == 0 && length as usize == info.len()).then(|| (word(ACKED), word(RECEIVED)))
    }

    pub(super) fn start_sends(&mut self) {
        while let Some(socket) = self.unsent.pop() {
            if self.descriptors.get(socket).is_some_and(|descriptor| descriptor.closing.is_none()) {
                self.start_send(socket);
            }
        }
    }

    fn start_send(&mut self, socket: Key) {
        // Lists without a byte end at once.
        self.advance(socket, 0);
        let descriptor = self.descriptors.get_mut(socket).expect("sends start on open sockets");
        let sends = &mut descriptor.sends;
        if sends.parts.is_empty() {
            sends.busy = false;
            if sends.finish {
                // Fails only if there is no connection any more, and then the peer knows.
                let _ = SockRef::from(&descriptor.fd).shutdown(std::net::Shutdown::Write);
            }
            return;
        }
        let fd = Fd(descriptor.fd.as_raw_fd());
        let mut parts = sends.parts.iter().filter_map(|queued| match queued {
            Queued::Part(part) => Some(part.bytes()),
            Queued::End(_) => None,
        });
        let alone = parts.clone().nth(1).is_none();
        let (entry, gather) = if alone {
            let rest = &parts.next().expect("an end follows a part")[sends.sent..];
            let length = u32::try_from(rest.len()).unwrap_or(1 << 30);
            (opcode::Send::new(fd, rest.as_ptr(), length).flags(SEND_FLAGS).build(), None)
        } else {
            let mut gather = self.gathers.pop().unwrap_or_else(Gather::new);
            gather.point_to(parts, sends.sent);
            let header: *const libc::msghdr = &raw const gather.header;
            (opcode::SendMsg::new(fd, header).flags(SEND_FLAGS as u32).build(), Some(gather))
        };
        self.start(Op::Send { socket, gather }, entry);
    }

    /// Accounts for `count` bytes that the kernel has taken: parts go, and lists that are complete are reported.
    pub(super) fn advance(&mut self, socket: Key, mut count: usize) {
        let descriptor = self.descriptors.get_mut(socket).expect("sends end on open sockets");
        let sends = &mut descriptor.sends;
        sends.size -= count;
        loop {
            match sends.parts.front() {
                Some(Queued::End(token)) => {
                    self.ready.push_back((Some(socket), Event::Sent { token: *token, result: Ok(()) }));
                    sends.parts.pop_front();
                }
                Some(Queued::Part(part)) => {
                    let rest = part.bytes().len() - sends.sent;
                    if count < rest {
                        sends.sent += count;
                        return;
                    }
                    count -= rest;
                    sends.sent = 0;
                    if let Some(Queued::Part(part)) = sends.parts.pop_front() {
                        recycle(&self.send_buffers, part);
                    }
                }
                None => break,
            }
        }
        assert_eq!(count, 0, "the kernel sends no more than it was given");
    }

    /// Nothing can be sent any more: every list in the queue fails.
    pub(super) fn fail_sends(&mut self, socket: Key, code: i32) {
        let descriptor = self.descriptors.get_mut(socket).expect("sends end on open sockets");
        let sends = &mut descriptor.sends;
        sends.broken = Some(code);
        sends.busy = false;
        sends.size = 0;
        sends.sent = 0;
        for queued in sends.parts.drain(..) {
            match queued {
                Queued::Part(part) => recycle(&self.send_buffers, part),
                Queued::End(token) => {
                    let result = Err(std::io::Error::from_raw_os_error(code));
                    self.ready.push_back((Some(socket), Event::Sent { token, result }));
                }
            }
        }
    }
}

fn recycle(buffers: &crate::buffers::SendBuffers, part: SendPart) {
    if let SendPart::Bytes(bytes) = part {
        buffers.give(bytes);
    }
}
