//! The end of a core. In order: what clients ask from now on is refused, they get the replies they are owed, the log is written, and then everything
//! closes. After [`STOP_PATIENCE`] whoever still waits is told what is known, and nothing more is waited for. Then, however it ended, it hears
//! out its disk: what becomes of its last writes and syncs is told once, and to nobody else.

use std::sync::atomic::Ordering;

use panch_ring::clock;
use panch_ring::event::{Event, Token};
use panch_wal::{Wal, WriteFailed};
use panch_wire::time::{Duration, Instant};

use super::CoreLoop;
use crate::clients::connection::Connection;
use crate::complaints::{Level, tell};
use crate::remote::Parcel;
use crate::token::{self, Subject};

/// An orderly stop takes at most this long to do what was asked of the node and to write what is pending.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// And so much longer to tell clients that nothing came of it.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A disk that has not answered for so long is waited for no longer.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// A stop under way.
pub(super) struct Stopping {
    since: Instant,
    /// Who still waited was told what is known.
    has_given_up: bool,
    /// No client of this core is owed a reply, and the other cores know.
    drained: bool,
}

impl Stopping {
    /// When patience ends.
    pub(super) fn deadline(&self) -> Instant {
        let last_words = if self.has_given_up { LAST_WORDS } else { Duration::ZERO };
        self.since + STOP_PATIENCE + last_words
    }

    /// Whether nothing more comes of what was asked of the node.
    pub(super) fn has_given_up(&self) -> bool {
        self.has_given_up
    }
}

impl CoreLoop {
    pub(super) fn begin_stop(&mut self, now: Instant) {
        if self.stopping.is_some() {
            return;
        }
        if self.view.core == 0 {
            let node = u64::from(self.view.node().0) + 1;
            tell(Level::Info, format_args!("node {node} is asked to stop, and takes nothing in any more"));
        }
        self.stopping = Some(Stopping { since: now, has_given_up: false, drained: false });
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
            self.stopped |= failed;
            return;
        };
        let late = now >= stopping.since + STOP_PATIENCE;
        if late && !std::mem::replace(&mut stopping.has_given_up, true) {
            self.core.give_up(&mut self.out);
            self.drain_backlog(now);
            self.out.clients.flush(now, &mut self.ring);
        }
        let Some(stopping) = &mut self.stopping else { unreachable!("as above") };
        if !stopping.drained && !self.out.clients.iter().any(Connection::is_owed) {
            stopping.drained = true;
            // They may still be waiting for replies of this core's groups, so each goes on until all are ready.
            let others = (0..self.view.cores()).filter(|core| *core != self.view.core);
            self.unsent.extend(others.map(|core| (core, Parcel::Drained)));
        }
        let drained = stopping.drained && self.cores_drained + 1 >= self.view.cores();
        let is_over = late && now >= stopping.deadline();
        self.send_parcels();
        let is_heard = drained && !self.has_unsent_parcels();
        let is_pending = |wal: &mut Wal| wal.outstanding() > 0 || wal.has_pending() || !wal.is_settled();
        let pending = self.core.wal().is_some_and(is_pending);
        self.stopped |= is_heard && (!pending || late) || is_over || failed;
    }

    /// The core turns no more; `in_order` if it was asked to stop. Waits for the disk if votes that counted before they were synced could be
    /// lost, and syncs them. If they may be, the data directory is told.
    ///
    /// # Errors
    /// The first write or sync that failed meanwhile.
    pub(crate) fn hear_out(&mut self, in_order: bool) -> Result<(), WriteFailed> {
        self.out.clients.close_all(&mut self.ring);
        // Other nodes are not to wait for one that says nothing.
        for place in 0..self.inbound.len() {
            self.close_inbound(place);
        }
        self.ring.set_deadline(None);
        let until = clock::now() + DISK_PATIENCE;
        let (mut heard, mut is_last) = (Ok(()), false);
        loop {
            while let Some(event) = self.ring.next_event() {
                heard = heard.and(self.hear(event));
            }
            // Beside another core that failed nothing more is synced: the kernel may have told that one what it would have to tell this one.
            if in_order && heard.is_ok() && !is_last && !self.failed.load(Ordering::Relaxed) {
                self.sync_rest();
            }
            // Not what the log counts as outstanding: one that has failed counts that for ever.
            if self.log.in_flight() == 0 || is_last || !self.data.may_be_doubted() {
                break;
            }
            let rest = until.since(clock::now());
            // With no time left it looks once more: this thread may not have run for longer than the disk took.
            is_last = self.ring.wait(Some(rest)).is_err() || rest.is_zero();
        }
        let is_silent = self.log.in_flight() > 0;
        if let Some(wal) = self.core.wal() {
            if !wal.is_stable() {
                self.data.leave_open();
            }
            if is_silent && wal.counts_unsynced() {
                self.data.mistrust();
            }
        }
        heard
    }

    fn sync_rest(&mut self) {
        if let Some(wal) = self.core.wal() {
            wal.request_sync();
        }
        self.start_syncs(clock::now());
    }

    /// What the disk says to a core that has ended: nothing is released by it.
    fn hear(&mut self, event: Event) -> Result<(), WriteFailed> {
        let Some(wal) = self.core.wal() else { return Ok(()) };
        let result = match event {
            Event::Written { token, result, parts } => match token::subject(token) {
                Subject::LogWrite(place) => wal.on_written(self.log.written(place, parts), result),
                _ => Ok(()),
            },
            Event::Synced { token, result } => match token::subject(token) {
                Subject::LogSync(place) => wal.on_synced(self.log.synced(place), result),
                _ => Ok(()),
            },
            _ => Ok(()),
        };
        result.inspect_err(|failed| self.data.note_failure(failed))
    }
}
