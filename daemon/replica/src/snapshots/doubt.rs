//! Snapshot files that may be damaged, and those that cannot be written.
//!
//! A file in doubt stays until another one has its name: it may be good, and what it covers may lie nowhere else.

use panch_consensus::protocol::{Event, Protocol};
use panch_wire::ids::Slot;
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use super::{RETRY_AFTER, Snapshots};
use crate::outbox::Outbox;
use crate::replica::{Replica, Surroundings};
use crate::transfer::{Making, Reason};

/// After this time the word of a peer counts again in any case.
const TRUSTED_FOR: Duration = Duration::from_secs(600);

impl Snapshots {
    /// A peer says that what it got of the file of `slot` is not what was announced: its bytes may not be those that were written. If it is
    /// the latest, another one is to take its place, also if nothing was executed since, and whoever is not being sent this one gets that.
    /// The peer may be wrong, and be so again: its word counts once in as much log as a snapshot is made with in any case, or in
    /// [`TRUSTED_FOR`], since the log of a group that nobody writes to does not grow.
    pub(super) fn doubt_on_word(&mut self, now: Instant, slot: Slot) {
        let is_trusted = self.trusted_for > 0 && now < self.trusted_until;
        if self.latest.is_some_and(|file| file.slot == slot) && !is_trusted {
            self.trusted_for = self.log_size_max;
            self.trusted_until = now + TRUSTED_FOR;
            self.doubts_latest = true;
            self.wanted = true;
        }
    }

    /// The file of `slot` cannot be read. If it is the latest, another one is to take its place, also if nothing was executed since, and
    /// nobody gets this one before that was tried.
    pub(super) fn doubt(&mut self, slot: Slot) {
        if self.latest.is_some_and(|file| file.slot == slot) {
            self.doubts_latest = true;
            self.wanted = true;
            self.stop_sending(slot);
        }
    }

    /// Ends the transfers of the file of `slot`; the protocol hears of it.
    pub(super) fn stop_sending(&mut self, slot: Slot) {
        for peer in self.sending.stop_file(slot).iter() {
            self.refused.insert(peer);
        }
    }

    /// Whether a complete file of `slot` is the latest, is named in the log or about to be, or is read for a peer.
    fn depends_on(&self, slot: Slot) -> bool {
        self.latest.is_some_and(|file| file.slot == slot)
            || self.naming.iter().any(|naming| naming.file.slot == slot)
            || self.superseded.contains(&slot)
    }
}

impl<P: Protocol> Replica<P> {
    /// The driver could not write a snapshot: it is tried again later.
    pub(crate) fn snapshot_failed<O: Outbox>(&mut self, slot: Slot, around: &mut Surroundings<'_, O>) {
        self.snapshots.writes.end(slot);
        if self.snapshots.making.is_some_and(|making| making.slot == slot) {
            self.abandon_making();
            self.end_failed_making(around);
            return;
        }
        if self.snapshots.receiving.as_ref().is_some_and(|it| it.slot == slot) {
            self.refuse(Reason::NoRoom, around.out);
        } else if let Some((from, ..)) = self.snapshots.received.take_if(|(_, file, _)| file.slot == slot) {
            // It may be complete: an older failure ended it, or it has its name and that is not durable.
            self.discard(slot, around.out);
            self.protocol.abandon_install();
            self.send_refuse(from, slot, Reason::NoRoom, around.out);
        }
    }

    /// The snapshot being made is no longer wanted or cannot be written. It is forgotten once the driver holds no chunk of
    /// it, so that a late completion is never taken for one of the next.
    pub(super) fn abandon_making(&mut self) {
        if let Some(making) = &mut self.snapshots.making
            && !std::mem::replace(&mut making.failed, true)
        {
            self.machine.abort_snapshot();
        }
    }

    /// Ends what [`Replica::abandon_making`] has given up, if nothing of it is being written any more. A doubt about the latest file stays.
    pub(super) fn end_failed_making<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        let writes = &self.snapshots.writes;
        let ended = |making: &Making| making.failed && writes.of(making.slot) == 0;
        let Some(making) = self.snapshots.making.filter(ended) else { return };
        self.snapshots.making = None;
        self.discard(making.slot, around.out);
        self.snapshots.retry_at = around.now + RETRY_AFTER;
        self.snapshots.wanted = true;
        // A file in doubt may be good after all, and its receiver checks it.
        let doubtful = self.snapshots.latest.filter(|_| self.snapshots.doubts_latest);
        for (peer, slot) in std::mem::take(&mut self.snapshots.waiting) {
            match doubtful.filter(|file| file.slot >= slot) {
                Some(file) => self.snapshots.sending.start(around.now, peer, file),
                None => self.step(Event::SnapshotSent(peer, None), around),
            }
        }
    }

    /// What was written of the file of `slot` is of no use. A complete file of that name goes only if nothing depends on it: one that is to be
    /// replaced by what could not be written may be the only copy of what the log has given up.
    pub(super) fn discard(&self, slot: Slot, out: &mut impl Outbox) {
        let group = self.group.id;
        if self.snapshots.depends_on(slot) && holds(Rule::FailedSnapshotKeepsFormer) {
            out.snapshot_abandon(group, slot);
        } else {
            out.snapshot_remove(group, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use panch_consensus::frontier::Frontier;
    use panch_wire::ids::ReplicaId;

    use super::*;
    use crate::transfer::{SnapshotFile, TransferLimits};

    const PEER: ReplicaId = ReplicaId(1);

    #[test]
    fn a_file_that_cannot_be_read_is_replaced_and_sent_to_nobody() {
        let limits = TransferLimits { window_max: 1 << 20, size_max: 1 << 30 };
        let mut snapshots = Snapshots::new(1 << 20, limits);
        let file = SnapshotFile { slot: Slot(9), size: 100 };
        snapshots.found(file, &Frontier::default());
        snapshots.want(Instant(1), PEER, Slot(1));
        assert!(snapshots.sending.is_sending(PEER, file.slot) && !snapshots.is_due());
        snapshots.doubt(Slot(8));
        assert!(!snapshots.doubts_latest, "another file");
        snapshots.doubt(file.slot);
        assert!(snapshots.doubts_latest && snapshots.is_due());
        assert!(std::mem::take(&mut snapshots.refused).contains(PEER), "its transfer ended");
        snapshots.want(Instant(2), PEER, Slot(1));
        assert!(!snapshots.sending.is_sending(PEER, file.slot) && snapshots.waiting == [(PEER, Slot(1))]);
    }

    /// Else one whose memory is bad would have snapshots made without end.
    #[test]
    fn a_file_that_a_peer_says_is_damaged_is_replaced_once_in_so_much_log() {
        let limits = TransferLimits { window_max: 1 << 20, size_max: 1 << 30 };
        let mut snapshots = Snapshots::new(1 << 20, limits);
        snapshots.found(SnapshotFile { slot: Slot(9), size: 100 }, &Frontier::default());
        snapshots.want(Instant(1), PEER, Slot(1));
        snapshots.doubt_on_word(Instant(2), Slot(8));
        assert!(!snapshots.doubts_latest, "another file");
        snapshots.doubt_on_word(Instant(2), Slot(9));
        assert!(snapshots.doubts_latest && snapshots.is_due());
        assert!(snapshots.sending.is_sending(PEER, Slot(9)), "whoever gets it will see");
        for slot in 10..20 {
            // The next one, with a name of its own.
            snapshots.latest = Some(SnapshotFile { slot: Slot(slot), size: 100 });
            (snapshots.doubts_latest, snapshots.wanted) = (false, false);
            snapshots.log_grew(100_000);
            snapshots.doubt_on_word(Instant(2), Slot(slot));
            assert!(!snapshots.doubts_latest && !snapshots.wanted);
        }
        snapshots.log_grew(100_000);
        snapshots.doubt_on_word(Instant(2), Slot(19));
        assert!(std::mem::take(&mut snapshots.doubts_latest));
        // Nobody writes any more.
        for (now, is_heard) in [(Instant(2), false), (Instant(2) + TRUSTED_FOR, true)] {
            snapshots.doubt_on_word(now, Slot(19));
            assert_eq!(snapshots.doubts_latest, is_heard);
        }
    }

    /// It gets what is the newest when it is asked again, and nothing is kept or made for it before.
    #[test]
    fn who_refuses_is_helped_later() {
        let limits = TransferLimits { window_max: 1 << 20, size_max: 1 << 30 };
        let mut snapshots = Snapshots::new(1 << 20, limits);
        snapshots.found(SnapshotFile { slot: Slot(9), size: 100 }, &Frontier::default());
        snapshots.sending.refused(Instant(1), PEER, Reason::NoRoom);
        let until = snapshots.sending.quiet_until(Instant(1), PEER).unwrap();
        for slot in [Slot(12), Slot(5)] {
            snapshots.want(Instant(1), PEER, slot);
            assert!(!snapshots.sending.keep_log() && !snapshots.is_due() && snapshots.waiting.is_empty());
            assert_eq!(snapshots.deadline(), Some(until));
        }
        snapshots.end_quiet(Instant(2));
        assert!(!snapshots.is_due());
        snapshots.found(SnapshotFile { slot: Slot(20), size: 100 }, &Frontier::default());
        snapshots.end_quiet(until);
        assert!(snapshots.sending.is_sending(PEER, Slot(20)));
        snapshots.sending.refused(until, PEER, Reason::NoRoom);
        snapshots.want(until, PEER, Slot(25));
        snapshots.on_new_life(PEER);
        snapshots.end_quiet(until);
        assert!(snapshots.is_due() && snapshots.waiting == [(PEER, Slot(25))]);
    }
}
