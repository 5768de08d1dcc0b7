//! The orderly end of a core: nothing new is begun, clients get the replies they are owed, the log is written, and then
//! everything closes. None of it is waited for longer than [`STOP_PATIENCE`], but for a disk that has stopped to answer: nobody else is left to
//! hear what became of its last writes.

use std::sync::atomic::Ordering;

use panch_ring::event::Token;
use panch_wal::Wal;
use panch_wire::time::{Duration, Instant};

use super::CoreLoop;
use crate::clients::connection::Connection;
use crate::remote::Parcel;
use crate::token;

/// An orderly stop takes at most this long to reply and to write what is pending.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// A disk that owes an answer and has given none for so long is waited for.
const DISK_SLOW_AFTER: Duration = Duration::from_millis(500);
/// For so long, since its last answer.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// A stop under way.
pub(super) struct Stopping {
    since: Instant,
    /// When the disk last answered a write or a sync of the log; the begin of the stop if it has not since.
    disk_answered: Instant,
    /// Nothing else is waited for.
    waits_for_disk: bool,
    /// No client of this core is owed a reply, and the other cores know.
    drained: bool,
}

impl Stopping {
    /// When patience ends.
    pub(super) fn deadline(&self) -> Instant {
        if self.waits_for_disk { self.disk_answered + DISK_PATIENCE } else { self.since + STOP_PATIENCE }
    }
}

impl CoreLoop {
    pub(super) fn begin_stop(&mut self, now: Instant) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping =
            Some(Stopping { since: now, disk_answered: now, waits_for_disk: false, drained: false });
        for listener in self.listeners.drain(..) {
            self.ring.close_socket(listener, Token(token::IGNORED));
        }
        self.listen_again.clear();
        if let Some(wal) = self.core.wal() {
            wal.request_attest();
            wal.request_sync();
        }
    }

    /// A write or a sync of the log has ended.
    pub(super) fn note_disk_answer(&mut self, now: Instant) {
        if let Some(stopping) = &mut self.stopping {
            stopping.disk_answered = now;
        }
    }

    /// Ends the core once nothing is owed and nothing is pending, or patience is over, or another core failed.
    pub(super) fn stop_if_done(&mut self, now: Instant) {
        let failed = self.failed.load(Ordering::Relaxed);
        let Some(stopping) = &mut self.stopping else {
            if failed {
                self.end(false);
            }
            return;
        };
        if !stopping.drained && !self.out.clients.iter().any(Connection::is_owed) {
            stopping.drained = true;
            // They may still be waiting for replies of this core's groups, so each goes on until all are ready.
            let others = (0..self.view.cores()).filter(|core| *core != self.view.core);
            self.unsent.extend(others.map(|core| (core, Parcel::Drained)));
        }
        let drained = stopping.drained && self.cores_drained + 1 >= self.view.cores();
        let owes = self.core.wal().is_some_and(|wal| wal.outstanding() > 0);
        let silent = now.since(stopping.disk_answered);
        // A busy disk always owes something: only one that gives no answer is waited for.
        let is_hung = owes && silent >= DISK_PATIENCE;
        let late = now >= stopping.since + STOP_PATIENCE;
        stopping.waits_for_disk = late && owes && silent >= DISK_SLOW_AFTER && !is_hung;
        let is_over = late && !stopping.waits_for_disk;
        self.send_parcels();
        let is_pending = |wal: &mut Wal| wal.outstanding() > 0 || wal.has_pending() || !wal.is_settled();
        let pending = self.core.wal().is_some_and(is_pending);
        if (drained && !pending && !self.has_unsent_parcels()) || is_over || failed {
            self.out.clients.close_all(&mut self.ring);
            self.end(is_over && is_hung);
        }
    }

    /// The core turns no more. What it has not synced is with the kernel; unless the disk `is_hung`, since nobody is left to hear that a write or
    /// a sync failed.
    fn end(&mut self, is_hung: bool) {
        self.stopped = true;
        if !self.core.wal().is_some_and(|wal| wal.is_settled()) {
            self.data.leave_open();
            if is_hung {
                self.data.mistrust();
            }
        }
    }
}
