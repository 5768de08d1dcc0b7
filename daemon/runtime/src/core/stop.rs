//! The orderly end of a core: nothing new is begun, clients get the replies they are owed, the log is written, and then
//! everything closes. None of it is waited for longer than [`STOP_PATIENCE`].

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

/// A stop under way.
pub(super) struct Stopping {
    since: Instant,
    /// No client of this core is owed a reply, and the other cores know.
    drained: bool,
}

impl Stopping {
    /// When patience ends.
    pub(super) fn deadline(&self) -> Instant {
        self.since + STOP_PATIENCE
    }
}

impl CoreLoop {
    pub(super) fn begin_stop(&mut self, now: Instant) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(Stopping { since: now, drained: false });
        for listener in self.listeners.drain(..) {
            self.ring.close_socket(listener, Token(token::IGNORED));
        }
        self.listen_again.clear();
        if let Some(wal) = self.core.wal() {
            wal.request_attest();
            wal.request_sync();
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
        let late = now >= stopping.deadline();
        self.send_parcels();
        let is_pending = |wal: &mut Wal| wal.outstanding() > 0 || wal.has_pending() || !wal.is_settled();
        let pending = self.core.wal().is_some_and(is_pending);
        if (drained && !pending && !self.has_unsent_parcels()) || late || failed {
            self.out.clients.close_all(&mut self.ring);
            self.end(late);
        }
    }

    /// The core turns no more. What it has not synced is with the kernel; unless the disk has kept a write or a sync for so long that it is
    /// `late`, since nobody is left to hear that this failed.
    fn end(&mut self, late: bool) {
        self.stopped = true;
        if !self.core.wal().is_some_and(|wal| wal.is_settled()) {
            self.data.leave_open();
            if late && self.core.wal().is_some_and(|wal| wal.outstanding() > 0) {
                self.data.mistrust();
            }
        }
    }
}
