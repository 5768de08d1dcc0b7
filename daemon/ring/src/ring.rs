//! One core's ring: set-up, submission, completion, parking.
//!
//! Invariants:
//! * An operation owns its memory and keeps its descriptor open until its last completion. A descriptor's number is
//!   never reused while an operation refers to it, and identifiers of the past name nothing.
//! * An operation is never lost: what does not fit into the submission queue waits in a backlog.
//! * A ring is used by the thread that made it, and by no other.
//! * Dropping a ring cancels its operations and waits for them; memory that the kernel might still write to is leaked
//!   rather than freed.

mod complete;
mod descriptor;
mod log;
mod setup;
mod stream;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod timer;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};

use crate::buffers::{ReceiveBuffers, SendBuffers};
use crate::doorbell::Doorbell;
use crate::event::Event;
use crate::op::{Gather, Op, UNTRACKED};
use crate::slab::{Key, Slab};
use descriptor::Descriptor;
pub use descriptor::{FileId, SocketId};
pub use setup::{RingConfig, RingError, TaskWork};
use timer::Timer;

/// How long a dropped ring waits for its operations before it leaks their memory.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a ring has done since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RingCounters {
    /// System calls that entered the ring.
    pub enters: u64,
    /// Operations handed to the kernel.
    pub submissions: u64,
    /// Completions taken from the kernel.
    pub completions: u64,
    /// Completions for operations that no longer existed; always zero unless there is a bug.
    pub stale_completions: u64,
    /// Bytes received from sockets.
    pub received_bytes: u64,
    /// Bytes sent to sockets.
    pub sent_bytes: u64,
    /// Bytes written to log files.
    pub written_bytes: u64,
    /// Bytes read from log files.
    pub read_bytes: u64,
    /// Sends that the kernel took only in part.
    pub short_sends: u64,
    /// Log writes that the kernel took only in part.
    pub short_writes: u64,
    /// Accepts and receives started again because a multishot had ended.
    pub rearms: u64,
    /// Receives that found no free buffer.
    pub buffer_shortages: u64,
    /// Operations that had to wait because the submission queue was full.
    pub backlogged: u64,
}

/// One io_uring with its buffers, sockets, files and timer. See the module's invariants.
pub struct Ring {
    uring: IoUring,
    task_work: TaskWork,
    doorbell: Doorbell,
    ops: Slab<Op>,
    descriptors: Slab<Descriptor>,
    receive_buffers: ReceiveBuffers,
    send_buffers: SendBuffers,
    #[expect(clippy::vec_box, reason = "the kernel keeps the address of the header inside")]
    gathers: Vec<Box<Gather>>,
    /// Submissions that found the queue full, in order.
    backlog: VecDeque<squeue::Entry>,
    /// Events that a completion caused, not yet taken, with the socket whose close makes them void.
    ready: VecDeque<(Option<Key>, Event)>,
    /// Sockets with something to send and no send in flight.
    unsent: Vec<Key>,
    /// Sockets whose receive found no buffer, longest first.
    starved: VecDeque<Key>,
    timer: Timer,
    /// Memory for the read of the doorbell while none is in flight.
    bell_count: Option<Box<[u8; 8]>>,
    multishot_accept: Multishot,
    multishot_receive: Multishot,
    counters: RingCounters,
}

/// What is known about the multishot form of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Multishot {
    /// Not seen to work yet.
    Untried,
    Works,
    Refused,
}

impl Ring {
    /// Makes a ring for the calling thread. `doorbell` is the one that wakes this core.
    ///
    /// # Errors
    /// If the kernel has no io_uring, or does not allow it; the message says what to change.
    pub fn new(config: &RingConfig, doorbell: Doorbell) -> Result<Self, RingError> {
        let (uring, task_work) = setup::build(config)?;
        let receive_buffers = ReceiveBuffers::new(config.receive_buffer_count, config.receive_buffer_size)?;
        let multishot_receive = if config.plain {
            Multishot::Refused
        } else {
            match receive_buffers.register(&uring) {
                Ok(()) => Multishot::Untried,
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Multishot::Refused,
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Self {
            uring,
            task_work,
            doorbell,
            ops: Slab::default(),
            descriptors: Slab::default(),
            receive_buffers,
            send_buffers: SendBuffers::new(config.send_buffers_idle_max, config.send_buffer_capacity_max),
            gathers: Vec::new(),
            backlog: VecDeque::new(),
            ready: VecDeque::new(),
            unsent: Vec::new(),
            starved: VecDeque::new(),
            timer: Timer::default(),
            bell_count: Some(Box::default()),
            multishot_accept: if config.plain { Multishot::Refused } else { Multishot::Untried },
            multishot_receive,
            counters: RingCounters::default(),
        })
    }

    /// What the ring has done so far.
    pub fn counters(&self) -> RingCounters {
        self.counters
    }

    /// How completions reach this ring, which depends on the kernel.
    pub fn task_work(&self) -> TaskWork {
        self.task_work
    }

    /// The pool that sent buffers return to. Take buffers for `send` from here.
    pub fn send_buffers(&self) -> &SendBuffers {
        &self.send_buffers
    }

    /// Receive buffers that are free at this moment.
    pub fn receive_buffers_available(&self) -> usize {
        self.receive_buffers.available()
    }

    /// Operations in flight.
    pub fn operation_count(&self) -> usize {
        self.ops.len()
    }

    /// Descriptors that the ring owns, those that are being closed included.
    pub fn descriptor_count(&self) -> usize {
        self.descriptors.len()
    }

    /// The next thing that happened, until there is nothing more to report without entering the kernel.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            while let Some((socket, event)) = self.ready.pop_front() {
                if !socket.is_some_and(|socket| self.is_closing(socket)) {
                    return Some(event);
                }
            }
            let completion = self.uring.completion().next()?;
            self.counters.completions += 1;
            self.complete(completion.user_data(), completion.result(), completion.flags());
        }
    }

    /// Hands to the kernel what was asked for since the last call, and lets it finish what it has deferred. One system
    /// call, or none if there is nothing to do.
    ///
    /// # Errors
    /// Only if the ring is unusable; a condition that passes (EINTR, EAGAIN, EBUSY) is not an error.
    pub fn submit(&mut self) -> io::Result<()> {
        self.prepare_submissions();
        self.flush()
    }

    /// Whether [`Ring::next_event`] may have something to report, or would after [`Ring::submit`].
    pub fn has_completions(&mut self) -> bool {
        if !self.ready.is_empty() || !self.uring.completion().is_empty() {
            return true;
        }
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// The doorbell given to [`Ring::new`].
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// Submits, and blocks in the ring until something happened, the doorbell rang or `timeout` is over. For threads that
    /// have nothing else to sleep on.
    ///
    /// # Errors
    /// As [`Ring::submit`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait_while(timeout, || true)
    }

    /// As [`Ring::wait`], but does not block unless `idle` holds after the sleep is announced: it looks at what the ring does not know, the
    /// mesh and other queues whose senders ring the doorbell.
    ///
    /// # Errors
    /// As [`Ring::submit`].
    pub fn wait_while(&mut self, timeout: Option<Duration>, idle: impl FnOnce() -> bool) -> io::Result<()> {
        self.listen_to_doorbell();
        self.doorbell.announce_park();
        self.prepare_submissions();
        let result =
            if !self.has_completions() && idle() { self.enter_and_wait(timeout) } else { self.flush() };
        self.doorbell.withdraw_park();
        result
    }

    fn listen_to_doorbell(&mut self) {
        if let Some(mut count) = self.bell_count.take() {
            let entry = opcode::Read::new(Fd(self.doorbell.as_raw_fd()), count.as_mut_ptr(), 8).build();
            self.start(Op::Bell { count }, entry);
        }
    }

    /// Submits and waits for one completion, in one call if nothing is in the backlog.
    fn enter_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.backlog.is_empty() {
            return self.flush();
        }
        let time = timeout.map(Timespec::from);
        let arguments = SubmitArgs::new();
        let arguments = match &time {
            Some(time) => arguments.timespec(time),
            None => arguments,
        };
        self.counters.enters += 1;
        match self.uring.submitter().submit_with_args(1, &arguments) {
            Ok(taken) => {
                self.counters.submissions += taken as u64;
                Ok(())
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Turns what sockets and the timer want into submissions.
    fn prepare_submissions(&mut self) {
        self.start_receives();
        self.start_sends();
        self.start_timer();
    }

    /// Submits everything queued.
    fn flush(&mut self) -> io::Result<()> {
        let mut enter = false;
        loop {
            let (count, pending) = {
                let mut queue = self.uring.submission();
                while let Some(entry) = self.backlog.front() {
                    // SAFETY: the entry belongs to an operation in the slab, which owns all it points to.
                    if unsafe { queue.push(entry) }.is_err() {
                        break;
                    }
                    self.backlog.pop_front();
                }
                queue.sync();
                (queue.len(), queue.taskrun() || queue.cq_overflow())
            };
            if count == 0 && !pending && !enter {
                return Ok(());
            }
            enter = false;
            self.counters.enters += 1;
            // SAFETY: `count` entries are queued; there is no extra argument. GETEVENTS runs deferred task work and moves
            // overflown completions into the queue.
            let entered = unsafe {
                self.uring.submitter().enter::<libc::sigset_t>(
                    count as u32,
                    0,
                    EnterFlags::GETEVENTS.bits(),
                    None,
                )
            };
            match entered {
                Ok(taken) => {
                    self.counters.submissions += taken as u64;
                    // What is left after a call that took nothing waits for completions to be reaped.
                    if taken == 0 || (taken == count && self.backlog.is_empty()) {
                        return Ok(());
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => enter = true,
                    Some(libc::EAGAIN | libc::EBUSY) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Registers an operation and queues its submission.
    fn start(&mut self, op: Op, entry: squeue::Entry) -> Key {
        if let Some(key) = op.descriptor() {
            let descriptor = self.descriptors.get_mut(key).expect("operations start on open descriptors");
            descriptor.in_flight += 1;
        }
        let key = self.ops.insert(op);
        self.push(entry.user_data(key.0));
        key
    }

    /// Takes out an operation whose last completion has come.
    fn finish(&mut self, key: Key) -> Option<Op> {
        let op = self.ops.remove(key)?;
        if let Some(key) = op.descriptor() {
            let descriptor = self.descriptors.get_mut(key).expect("an operation keeps its descriptor");
            descriptor.in_flight -= 1;
        }
        Some(op)
    }

    /// Queues a submission; if the queue is full and cannot be emptied now, it waits in the backlog.
    fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() {
            for attempt in 0..2 {
                // SAFETY: whatever the entry points to is owned by an operation in the slab, or read at submission from a
                // field of this ring, and stays in place until the last completion.
                if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                    return;
                }
                if attempt == 0 {
                    // If the ring is unusable, the next `submit` says so; the entry is kept until then.
                    let _ = self.flush();
                }
            }
        }
        self.counters.backlogged += 1;
        self.backlog.push_back(entry);
    }

    /// Asks the kernel to stop whatever matches.
    fn cancel(&mut self, target: CancelBuilder) {
        self.push(opcode::AsyncCancel2::new(target).build().user_data(UNTRACKED));
    }

    /// Cancels everything and waits until nothing is in flight. False if something would not end.
    fn drain(&mut self) -> bool {
        let deadline = std::time::Instant::now() + DRAIN_TIMEOUT;
        self.cancel(CancelBuilder::any());
        let keys: Vec<Key> = self.descriptors.keys().collect();
        for key in keys {
            self.close(key, crate::event::Token::default(), true);
        }
        loop {
            while self.next_event().is_some() {}
            if self.ops.len() == 0 {
                return true;
            }
            let rest = deadline.saturating_duration_since(std::time::Instant::now());
            if rest.is_zero() || self.enter_and_wait(Some(rest.min(Duration::from_millis(50)))).is_err() {
                return false;
            }
            self.cancel(CancelBuilder::any());
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.timer.forget();
        if !self.drain() {
            mem::forget(mem::take(&mut self.ops));
            mem::forget(mem::take(&mut self.descriptors));
            mem::forget(self.receive_buffers.clone());
            self.timer.leak();
        }
    }
}
