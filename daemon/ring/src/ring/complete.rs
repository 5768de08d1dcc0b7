//! Completions: what each means for its operation, and which event it becomes.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;
use socket2::SockRef;

use super::{Multishot, Ring};
use crate::buffers::ReceivedBytes;
use crate::event::{Event, Token};
use crate::op::{Op, UNTRACKED};
use crate::slab::Key;

impl Ring {
    pub(super) fn complete(&mut self, user_data: u64, result: i32, flags: u32) {
        if user_data == UNTRACKED {
            return;
        }
        let key = Key(user_data);
        // Wrapped first, so that the buffer returns whatever happens next.
        let bytes = cqueue::buffer_select(flags)
            .map(|id| self.receive_buffers.filled(id, u32::try_from(result).unwrap_or(0)));
        if cqueue::more(flags) {
            match self.ops.get(key) {
                Some(&Op::Accept { socket, .. }) => self.on_accept(socket, result, true),
                Some(&Op::Receive { socket }) => self.on_receive(socket, result, bytes, true),
                _ => self.counters.stale_completions += 1,
            }
            return;
        }
        let Some(op) = self.finish(key) else {
            self.counters.stale_completions += 1;
            return;
        };
        match op {
            Op::Accept { socket, multishot } => self.on_accept_end(socket, result, multishot),
            Op::Receive { socket } => self.on_receive_end(socket, result, bytes),
            Op::Readable { socket } => self.on_readable(socket, result),
            Op::Send { socket, gather } => {
                self.gathers.extend(gather);
                self.on_sent(socket, result);
            }
            Op::Connect { socket, token, address: _ } => self.on_connected(socket, token, result),
            Op::Write(write) => self.on_written(write, result),
            Op::Read(read) => self.on_read(read, result),
            Op::Sync { file, token } => {
                let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
                self.ready.push_back((None, Event::Synced { token, result }));
                self.settle(file);
            }
            Op::Timer => self.on_timer(),
            Op::Bell { count } => self.bell_count = Some(count),
        }
    }

    /// A connection, or a code that means there is none; the accept goes on if `more`.
    fn on_accept(&mut self, socket: Key, result: i32, more: bool) {
        if result < 0 {
            return;
        }
        if more {
            self.multishot_accept = Multishot::Works;
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
        let stream = unsafe { OwnedFd::from_raw_fd(result) };
        let descriptor = self.descriptors.get(socket).expect("an accept keeps its listener");
        if descriptor.closing.is_none()
            && let Some(token) = descriptor.accept
        {
            self.ready.push_back((Some(socket), Event::Accepted { token, stream }));
        }
    }

    fn on_accept_end(&mut self, socket: Key, result: i32, multishot: bool) {
        self.on_accept(socket, result, false);
        if self.is_closing(socket) {
            return self.settle(socket);
        }
        let again = match -result {
            libc::EINVAL if multishot && self.multishot_accept != Multishot::Works => {
                self.multishot_accept = Multishot::Refused;
                true
            }
            // The connection is gone, not the listener (accept(2), "Error handling").
            libc::ECONNABORTED
            | libc::EINTR
            | libc::EAGAIN
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::EHOSTDOWN => true,
            libc::ENONET | libc::EHOSTUNREACH | libc::EOPNOTSUPP | libc::ENETUNREACH | libc::EPERM => true,
            code => code <= 0,
        };
        if again {
            self.counters.rearms += u64::from(multishot);
            return self.start_accept(socket);
        }
        let descriptor = self.descriptors.get_mut(socket).expect("an accept keeps its listener");
        if let Some(token) = descriptor.accept.take() {
            let error = io::Error::from_raw_os_error(-result);
            self.ready.push_back((Some(socket), Event::AcceptFailed { token, error }));
        }
    }

    /// Bytes of a multishot receive, which goes on if `more`.
    fn on_receive(&mut self, socket: Key, result: i32, bytes: Option<ReceivedBytes>, more: bool) {
        if more {
            self.multishot_receive = Multishot::Works;
        }
        if result > 0
            && let Some(bytes) = bytes
        {
            self.deliver(socket, bytes);
        }
    }

    fn deliver(&mut self, socket: Key, bytes: ReceivedBytes) {
        self.counters.received_bytes += bytes.len() as u64;
        let descriptor = self.descriptors.get(socket).expect("a receive keeps its socket");
        if descriptor.closing.is_none() {
            self.ready.push_back((Some(socket), Event::Received { token: descriptor.receive.token, bytes }));
        }
    }

    fn on_receive_end(&mut self, socket: Key, result: i32, bytes: Option<ReceivedBytes>) {
        self.on_receive(socket, result, bytes, false);
        self.descriptors.get_mut(socket).expect("a receive keeps its socket").receive.op = None;
        if self.is_closing(socket) {
            return self.settle(socket);
        }
        match -result {
            0 => self.end_receive(socket, None),
            libc::ENOBUFS => self.starve(socket),
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => self.start_receive(socket),
            libc::EINVAL if self.multishot_receive == Multishot::Untried => {
                self.refuse_multishot_receive();
                self.start_receive(socket);
            }
            // Its sibling has just found that out.
            libc::EINVAL if self.multishot_receive == Multishot::Refused => self.start_receive(socket),
            code if code > 0 => self.end_receive(socket, Some(code)),
            _ => {
                self.counters.rearms += 1;
                self.start_receive(socket);
            }
        }
    }

    fn refuse_multishot_receive(&mut self) {
        self.multishot_receive = Multishot::Refused;
        if self.receive_buffers.registered() {
            self.receive_buffers
                .unregister(&self.uring)
                .expect("what could be registered can be unregistered");
        }
    }

    fn end_receive(&mut self, socket: Key, code: Option<i32>) {
        let receive = &mut self.descriptors.get_mut(socket).expect("a receive keeps its socket").receive;
        if std::mem::take(&mut receive.wanted) {
            let event =
                Event::ReceiveEnded { token: receive.token, error: code.map(io::Error::from_raw_os_error) };
            self.ready.push_back((Some(socket), event));
        }
    }

    /// Where there is no multishot receive: the socket can be read, or is broken, or the wait was cancelled.
    fn on_readable(&mut self, socket: Key, result: i32) {
        let descriptor = self.descriptors.get_mut(socket).expect("a receive keeps its socket");
        descriptor.receive.op = None;
        if descriptor.closing.is_some() {
            return self.settle(socket);
        }
        if result < 0 || !descriptor.receive.wanted {
            return self.start_receive(socket);
        }
        let peer = SockRef::from(&descriptor.fd);
        let filled = self
            .receive_buffers
            .fill(|memory: &mut [MaybeUninit<u8>]| peer.recv_with_flags(memory, libc::MSG_DONTWAIT));
        match filled {
            None => self.starve(socket),
            Some(Ok(bytes)) if bytes.is_empty() => self.end_receive(socket, None),
            Some(Ok(bytes)) => {
                self.deliver(socket, bytes);
                self.start_receive(socket);
            }
            Some(Err(error)) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) | None => self.start_receive(socket),
                code => self.end_receive(socket, code),
            },
        }
    }

    fn on_sent(&mut self, socket: Key, result: i32) {
        if self.is_closing(socket) {
            return self.settle(socket);
        }
        match -result {
            libc::EINTR | libc::EAGAIN => self.unsent.push(socket),
            // Nothing of a non-empty list was taken: there is nobody to take it.
            0 => self.fail_sends(socket, libc::EPIPE),
            code if code > 0 => self.fail_sends(socket, code),
            _ => {
                self.counters.sent_bytes += result as u64;
                self.advance(socket, result as usize);
                self.counters.short_sends += u64::from(self.partly_sent(socket));
                // Also when nothing is left: that is where the end of the stream is passed on.
                self.unsent.push(socket);
            }
        }
    }

    fn partly_sent(&self, socket: Key) -> bool {
        self.descriptors.get(socket).is_some_and(|descriptor| descriptor.sends.sent > 0)
    }

    fn on_connected(&mut self, socket: Key, token: Token, result: i32) {
        if self.is_closing(socket) {
            return self.settle(socket);
        }
        let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
        self.ready.push_back((Some(socket), Event::Connected { token, result }));
    }
}
