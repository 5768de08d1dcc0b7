//! The deadline: at most one timeout in the kernel, touched only when the deadline gets earlier.

use std::mem;

use io_uring::opcode;
use io_uring::types::{TimeoutFlags, Timespec};
use panch_wire::time::Instant;

use super::Ring;
use crate::event::Event;
use crate::op::{Op, UNTRACKED};
use crate::slab::Key;

/// A time of [`crate::clock`].
const FLAGS: TimeoutFlags = TimeoutFlags::ABS.union(TimeoutFlags::BOOTTIME);

/// The core's deadline and the timeout that stands for it.
#[derive(Default)]
pub(super) struct Timer {
    wanted: Option<Instant>,
    /// The timeout in flight and when it ends; never later than `wanted` after a submit.
    armed: Option<(Key, Instant)>,
    /// What the kernel reads when it takes the submission. Several updates in one submission all read the last value,
    /// which is the earliest.
    time: Box<Timespec>,
}

impl Timer {
    /// Wants nothing any more, so that an ending timeout is not started again.
    pub(super) fn forget(&mut self) {
        self.wanted = None;
    }

    /// Gives up the memory that a submission may still read.
    pub(super) fn leak(&mut self) {
        mem::forget(mem::take(&mut self.time));
    }
}

impl Ring {
    /// Reports [`Event::Deadline`] once `deadline`, on the clock of [`crate::clock::now`], has passed; replaces the deadline
    /// before. Costs nothing until the next submit, and no system call of its own. A deadline that has passed or was
    /// replaced can still be reported once if that happens at the same moment.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.timer.wanted = deadline;
    }

    pub(super) fn start_timer(&mut self) {
        let Some(wanted) = self.timer.wanted else { return };
        match self.timer.armed {
            // It ends in time; if too early, it is started again then.
            Some((_, at)) if at <= wanted => {}
            Some((key, _)) => {
                *self.timer.time = timespec(wanted);
                let time: *const Timespec = &raw const *self.timer.time;
                // If the timeout ends before this is taken, the update finds nothing, and its end is reported as usual.
                // The clock stays that of the timeout; to name it again is refused.
                let update = opcode::TimeoutUpdate::new(key.0, time).flags(TimeoutFlags::ABS);
                self.push(update.build().user_data(UNTRACKED));
                self.timer.armed = Some((key, wanted));
            }
            None => {
                *self.timer.time = timespec(wanted);
                let time: *const Timespec = &raw const *self.timer.time;
                let key = self.start(Op::Timer, opcode::Timeout::new(time).flags(FLAGS).build());
                self.timer.armed = Some((key, wanted));
            }
        }
    }

    /// The timeout has ended. One that was replaced by a later deadline is started again by the next submit.
    pub(super) fn on_timer(&mut self) {
        let Some((_, at)) = self.timer.armed.take() else { return };
        if self.timer.wanted.is_some_and(|wanted| wanted <= at) {
            self.timer.wanted = None;
            self.ready.push_back((None, Event::Deadline));
        }
    }
}

fn timespec(time: Instant) -> Timespec {
    Timespec::new().sec(time.0 / 1_000_000_000).nsec((time.0 % 1_000_000_000) as u32)
}
