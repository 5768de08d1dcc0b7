//! Snapshots on their way to peers, and for whom the log is kept.
//!
//! The log above a snapshot is kept while it is on its way and while its peer catches up: a newer snapshot does not make it
//! worthless. What is kept has a bound, see [`LOG_KEPT_FACTOR`]. When that is reached, the log is cut at the newest snapshot; what
//! is on its way goes on all the same, so that the peer gets as far as that, and then needs the newest. So every transfer
//! ends, and none is begun again for ever.
//!
//! What can be caught up with: a snapshot of S bytes over a link that carries B bytes per second, with W bytes per second of
//! new log, needs W S / B bytes of kept log at its end and W S / (B - W) until the peer has caught up. That is at most S if W is at
//! most half of B, and S is within the bound.

use panch_wire::ids::{REPLICAS_MAX, ReplicaId, ReplicaSet, Slot};
use panch_wire::time::{Duration, Instant};

use crate::transfer::{CHUNK_SIZE, LEFT_MAX, Reason, SnapshotFile};
use crate::window::{SIZE_MIN, Window};

/// The log of a core may have this many times [`log_size_max`](crate::core::CoreConfig::log_size_max) bytes, and as many more as
/// the latest snapshot of the group in question has, while some of it is kept for peers.
pub const LOG_KEPT_FACTOR: u64 = 2;
/// A peer that acknowledges nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// So is one that acknowledges nothing new for this long: its disk has to take in the whole snapshot in the end.
const PROGRESS_WITHIN: Duration = Duration::from_secs(60);
/// A peer that refused a snapshot is sent none for this long, because whatever was in the way may be so still; for twice as long each time, up to
/// [`Reason::quiet_max`].
const QUIET_MIN: Duration = Duration::from_secs(1);
/// What a peer refused so long ago, after it was left alone, says nothing any more: it may have caught up without this replica since.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
/// The log above a snapshot that has arrived is kept for twice the time of its transfer, and at least for this long.
const CATCH_UP_MIN: Duration = Duration::from_secs(5);

/// A snapshot on its way to a peer.
#[derive(Clone, Copy, Debug)]
struct Sending {
    file: SnapshotFile,
    /// What lies below was sent, or is being read from the file.
    requested: u64,
    /// The chunk that is being read: one at a time, because a receiver takes them in order only.
    reading: Option<u64>,
    /// What is being read is not to be sent.
    is_void: bool,
    /// The most that was ever requested: what lies below may arrive twice.
    highest: u64,
    acked: u64,
    window: Window,
    /// The log above it is kept.
    keeps_log: bool,
    began: Instant,
    heard: Instant,
    progressed: Instant,
    rewound: Instant,
}

impl Sending {
    /// When chunks that are on their way count as lost.
    fn resends_at(&self) -> Option<Instant> {
        (self.requested > self.acked).then(|| self.heard.max(self.rewound) + self.window.lost_after())
    }

    fn rewind(&mut self, now: Instant) {
        self.rewound = now;
        self.requested = self.acked;
        self.is_void = self.reading.is_some();
        self.window.lost();
    }

    /// When the peer is given up.
    fn overdue_at(&self) -> Instant {
        (self.heard + PATIENCE).min(self.progressed + PROGRESS_WITHIN) + Duration::from_millis(1)
    }
}

/// A peer that refused snapshots.
#[derive(Clone, Copy, Debug, Default)]
struct Quiet {
    /// It is sent none before this.
    until: Instant,
    /// How long it was left alone last.
    length: Duration,
    /// No newer snapshot is made for it before this: it takes another peer's, or its disk does not keep up.
    busy_until: Instant,
    /// How long that was the last time, since it took a chunk.
    busy: Duration,
}

impl Quiet {
    /// After a refusal. One that is over soon does not shorten the wait after the next that lasts: two senders meet each other's attempts
    /// at a full disk now and then.
    fn extend(&mut self, now: Instant, reason: Reason) {
        if now.since(self.until) >= FORGIVEN_AFTER {
            *self = Self::default();
        }
        if let Some(max) = reason.quiet_max() {
            self.length = (2 * self.length).max(QUIET_MIN).min(max);
        }
        if reason == Reason::Busy {
            self.busy = (2 * self.busy).max(QUIET_MIN).min(LEFT_MAX);
            self.busy_until = now + self.busy;
        } else {
            self.end_busy();
        }
        self.until = now + reason.quiet_max().map_or(QUIET_MIN, |_| self.length);
    }

    fn end_busy(&mut self) {
        (self.busy, self.busy_until) = (Duration::ZERO, Instant(0));
    }
}

/// Snapshots on their way to peers, of one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendingStatus {
    /// How many there are.
    pub count: u64,
    /// Bytes on their way, not acknowledged.
    pub in_flight: u64,
    /// Bytes that may be on their way to all of them, as far as their links are known.
    pub window: u64,
    /// The bound of that, in bytes.
    pub window_max: u64,
}

/// All snapshots on their way to peers.
#[derive(Debug)]
pub(crate) struct Sendings {
    /// The bytes on their way to all peers together, at most.
    size_max: u64,
    sendings: [Option<Sending>; REPLICAS_MAX],
    quiet: [Quiet; REPLICAS_MAX],
    /// Until when the log above the snapshot is kept that a peer has got.
    catching_up: [Option<Instant>; REPLICAS_MAX],
}

impl Sendings {
    /// At most `size_max` bytes are on their way to all peers together.
    pub(crate) fn new(size_max: u64) -> Self {
        Self {
            size_max,
            sendings: Default::default(),
            quiet: Default::default(),
            catching_up: Default::default(),
        }
    }

    /// Starts to send `file` to `peer`, unless one is already on its way.
    pub(crate) fn start(&mut self, now: Instant, peer: ReplicaId, file: SnapshotFile) {
        self.sendings[peer.index()].get_or_insert(Sending {
            file,
            requested: 0,
            reading: None,
            is_void: false,
            highest: 0,
            acked: 0,
            window: Window::new(now),
            keeps_log: true,
            began: now,
            heard: now,
            progressed: now,
            rewound: now,
        });
    }

    /// What was asked for and brought no word from the peer for a while goes out again, from the last place acknowledged.
    pub(crate) fn resend_lost(&mut self, now: Instant) {
        for sending in self.sendings.iter_mut().flatten() {
            if sending.resends_at().is_some_and(|at| at <= now) {
                sending.rewind(now);
            }
        }
    }

    /// The next chunk to read from the file: peer, file, offset, length.
    pub(crate) fn next_chunk(&mut self, now: Instant) -> Option<(ReplicaId, SnapshotFile, u64, usize)> {
        let share = self.size_max / self.sendings.iter().flatten().count().max(1) as u64;
        for (index, sending) in self.sendings.iter_mut().enumerate() {
            let Some(sending) = sending.as_mut().filter(|it| it.reading.is_none()) else {
                continue;
            };
            sending.window.limit(share);
            let size = sending.window.size();
            let offset = sending.requested;
            // Two at least, so that one is under way while the other is acknowledged.
            let length = (sending.file.size - offset).min((size / 2).clamp(SIZE_MIN, CHUNK_SIZE as u64));
            if length == 0 {
                continue;
            }
            if offset + length > sending.acked + size {
                continue;
            }
            sending.reading = Some(offset);
            sending.requested += length;
            if offset >= sending.highest {
                sending.window.sent(now, sending.requested);
            }
            sending.highest = sending.highest.max(sending.requested);
            return Some((ReplicaId(index as u8), sending.file, offset, length as usize));
        }
        None
    }

    /// The chunk at `offset` was read; whether it is to be sent.
    pub(crate) fn read(&mut self, peer: ReplicaId, slot: Slot, offset: u64) -> bool {
        let sending = self.sendings[peer.index()].as_mut();
        let Some(sending) = sending.filter(|it| it.file.slot == slot && it.reading == Some(offset)) else {
            return false;
        };
        sending.reading = None;
        !std::mem::take(&mut sending.is_void)
    }

    /// There is no memory for a chunk now: it is read again later.
    pub(crate) fn no_memory(&mut self, peer: ReplicaId) {
        if let Some(sending) = &mut self.sendings[peer.index()] {
            sending.window.lost();
        }
    }

    /// The peer has everything below `offset`; true when that is the whole snapshot.
    pub(crate) fn acked(&mut self, now: Instant, peer: ReplicaId, slot: Slot, offset: u64) -> bool {
        let place = &mut self.sendings[peer.index()];
        let Some(sending) = place else { return false };
        if sending.file.slot != slot || offset > sending.file.size {
            return false;
        }
        sending.heard = now;
        if offset > sending.acked {
            sending.acked = offset;
            self.quiet[peer.index()].end_busy();
            sending.requested = sending.requested.max(offset);
            sending.progressed = now;
            sending.window.acked(now, offset, sending.highest);
        } else if now.since(sending.rewound) >= sending.window.lost_after() {
            // It repeats an older place: what followed was lost. Once per loss, since every later chunk repeats it too.
            sending.rewind(now);
        }
        let done = offset == sending.file.size;
        if done {
            self.quiet[peer.index()] = Quiet::default();
            let catch_up = (now.since(sending.began) * 2).max(CATCH_UP_MIN);
            self.catching_up[peer.index()] = sending.keeps_log.then_some(now + catch_up);
            *place = None;
        }
        done
    }

    /// Whether this snapshot is on its way to `peer`.
    pub(crate) fn is_sending(&self, peer: ReplicaId, slot: Slot) -> bool {
        self.sendings[peer.index()].is_some_and(|sending| sending.file.slot == slot)
    }

    /// Forgets the transfer to `peer`.
    pub(crate) fn stop(&mut self, peer: ReplicaId) {
        self.sendings[peer.index()] = None;
    }

    /// Forgets the transfers of the file of `slot`; to whom.
    pub(crate) fn stop_file(&mut self, slot: Slot) -> ReplicaSet {
        let mut peers = ReplicaSet::default();
        for (peer, sending) in (0..).map(ReplicaId).zip(&mut self.sendings) {
            if sending.take_if(|it| it.file.slot == slot).is_some() {
                peers.insert(peer);
            }
        }
        peers
    }

    /// The peer takes no snapshot now: its transfer ends.
    pub(crate) fn refused(&mut self, now: Instant, peer: ReplicaId, reason: Reason) {
        self.stop(peer);
        self.quiet[peer.index()].extend(now, reason);
    }

    /// The file could not be read: the transfer to the peer ends. That says nothing about the peer.
    pub(crate) fn failed(&mut self, now: Instant, peer: ReplicaId) {
        self.stop(peer);
        let quiet = &mut self.quiet[peer.index()];
        quiet.until = quiet.until.max(now + QUIET_MIN);
    }

    /// Until when the peer is to be sent none, if it is not yet time.
    pub(crate) fn quiet_until(&self, now: Instant, peer: ReplicaId) -> Option<Instant> {
        Some(self.quiet[peer.index()].until).filter(|until| now < *until)
    }

    /// Whether the peer takes another's snapshot, so that none is to be made for it alone. It is then left alone for a while: about as long
    /// as it has been busy, and no longer than a transfer may take that does not yield to another.
    pub(crate) fn leave_busy(&mut self, now: Instant, peer: ReplicaId) -> bool {
        let quiet = &mut self.quiet[peer.index()];
        let is_busy = now < quiet.busy_until;
        if is_busy {
            quiet.until = quiet.busy_until.min(now + QUIET_MIN);
        }
        is_busy
    }

    /// The peer begins another life: what it refused in the one before it may take in this.
    pub(crate) fn on_new_life(&mut self, peer: ReplicaId) {
        self.quiet[peer.index()] = Quiet::default();
    }

    /// Forgets all transfers.
    pub(crate) fn stop_all(&mut self) {
        *self = Self::new(self.size_max);
    }

    /// A peer that has not acknowledged anything, or nothing new, for too long; its transfer is forgotten.
    pub(crate) fn next_overdue(&mut self, now: Instant) -> Option<ReplicaId> {
        let late = |sending: &Option<Sending>| sending.is_some_and(|it| it.overdue_at() <= now);
        let index = self.sendings.iter().position(late)?;
        self.sendings[index] = None;
        Some(ReplicaId(index as u8))
    }

    /// Whether the log above an older snapshot is kept for somebody.
    pub(crate) fn keep_log(&self) -> bool {
        self.sendings.iter().flatten().any(|sending| sending.keeps_log)
            || self.catching_up.iter().any(Option::is_some)
    }

    /// From now on the log is kept only above `latest`. Returns a peer, one per call, that needed more: it gets an older snapshot,
    /// or got one and catches up.
    pub(crate) fn give_up_log(&mut self, latest: Slot) -> Option<ReplicaId> {
        let catches_up = self.catching_up.iter_mut().position(|until| until.take().is_some());
        if let Some(index) = catches_up {
            return Some(ReplicaId(index as u8));
        }
        let mut sendings = (0..).map(ReplicaId).zip(self.sendings.iter_mut());
        sendings.find_map(|(peer, sending)| {
            let sending = sending.as_mut().filter(|it| it.keeps_log && it.file.slot != latest)?;
            sending.keeps_log = false;
            Some(peer)
        })
    }

    /// Whether any peer still reads the file of `slot`.
    pub(crate) fn uses(&self, slot: Slot) -> bool {
        self.sendings.iter().flatten().any(|sending| sending.file.slot == slot)
    }

    /// When a transfer begins or may have something to do, or the log need not be kept any more.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let next = |sending: &Sending| {
            let begins = (sending.highest == 0).then_some(sending.began);
            [begins, sending.resends_at(), Some(sending.overdue_at())].into_iter().flatten().min()
        };
        let kept_until = self.catching_up.iter().flatten().copied();
        self.sendings.iter().flatten().filter_map(next).chain(kept_until).min()
    }

    /// Forgets those for whom the log was kept until now.
    pub(crate) fn end_catch_up(&mut self, now: Instant) {
        for until in &mut self.catching_up {
            until.take_if(|until| *until <= now);
        }
    }

    /// For operators.
    pub(crate) fn status(&self) -> SendingStatus {
        let mut status =
            SendingStatus { window_max: self.size_max.max(SIZE_MIN), ..SendingStatus::default() };
        for sending in self.sendings.iter().flatten() {
            status.count += 1;
            status.in_flight += sending.requested - sending.acked;
            status.window += sending.window.size();
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: ReplicaId = ReplicaId(1);
    const OTHER: ReplicaId = ReplicaId(2);
    const FILE: SnapshotFile = SnapshotFile { slot: Slot(9), size: 1 << 20 };
    const BEGIN: Instant = Instant(1_000_000_000);

    fn sendings() -> Sendings {
        let mut sendings = Sendings::new(16 << 20);
        sendings.start(BEGIN, PEER, FILE);
        sendings
    }

    /// Sends what may be sent; the end of the last chunk.
    fn send(sendings: &mut Sendings, now: Instant) -> Option<u64> {
        let mut last = None;
        while let Some((peer, file, offset, length)) = sendings.next_chunk(now) {
            assert!(sendings.read(peer, file.slot, offset));
            last = Some(offset + length as u64);
        }
        last
    }

    #[test]
    fn chunks_are_read_one_after_the_other() {
        let mut sendings = sendings();
        let (_, _, offset, length) = sendings.next_chunk(BEGIN).unwrap();
        assert_eq!((offset, length as u64), (0, SIZE_MIN));
        assert_eq!(sendings.next_chunk(BEGIN), None);
        assert!(!sendings.read(PEER, FILE.slot, 1) && !sendings.read(PEER, Slot(8), 0));
        // What counts as lost meanwhile is read again, and sent once.
        let later = sendings.deadline().unwrap();
        sendings.resend_lost(later);
        assert!(!sendings.read(PEER, FILE.slot, 0));
        assert_eq!(sendings.next_chunk(later).unwrap().2, 0);
        assert!(sendings.read(PEER, FILE.slot, 0));
    }

    #[test]
    fn what_is_lost_is_sent_again_and_shrinks_the_window() {
        let mut sendings = sendings();
        let mut now = BEGIN;
        for _ in 0..4 {
            let end = send(&mut sendings, now).unwrap();
            now = now + Duration::from_millis(50);
            assert!(!sendings.acked(now, PEER, FILE.slot, end));
        }
        let before = sendings.status();
        assert!(before.window > 4 * SIZE_MIN && before.window <= before.window_max);
        let acked = sendings.sendings[1].unwrap().acked;
        let _ = send(&mut sendings, now);
        now = sendings.deadline().unwrap();
        sendings.resend_lost(now);
        assert_eq!(sendings.next_chunk(now).unwrap().2, acked);
        assert_eq!(sendings.status().window, before.window / 2);
    }

    #[test]
    fn all_transfers_together_stay_within_the_bound() {
        let mut sendings = Sendings::new(4 * SIZE_MIN);
        for peer in [PEER, OTHER] {
            sendings.start(BEGIN, peer, FILE);
        }
        let mut now = BEGIN;
        for _ in 0..6 {
            let _ = send(&mut sendings, now);
            now = now + Duration::from_millis(1);
            for peer in [PEER, OTHER] {
                let end = sendings.sendings[peer.index()].unwrap().requested;
                assert!(!sendings.acked(now, peer, FILE.slot, end));
            }
        }
        let _ = send(&mut sendings, now);
        let status = sendings.status();
        assert_eq!((status.count, status.in_flight, status.window), (2, 4 * SIZE_MIN, 4 * SIZE_MIN));
    }

    #[test]
    fn the_log_is_kept_until_the_peer_had_time_to_catch_up() {
        let mut sendings = sendings();
        assert!(sendings.keep_log());
        let later = BEGIN + Duration::from_secs(4);
        assert!(sendings.acked(later, PEER, FILE.slot, FILE.size));
        let until = later + Duration::from_secs(8);
        assert_eq!(sendings.deadline(), Some(until));
        sendings.end_catch_up(until - Duration::from_millis(1));
        assert!(sendings.keep_log());
        sendings.end_catch_up(until);
        assert!(!sendings.keep_log() && sendings.deadline().is_none());
    }

    #[test]
    fn a_peer_that_is_silent_or_stuck_keeps_the_log_for_a_while_only() {
        let mut silent = sendings();
        assert_eq!(silent.next_overdue(BEGIN + PATIENCE), None);
        assert_eq!(silent.next_overdue(BEGIN + PATIENCE + Duration::from_millis(1)), Some(PEER));
        assert!(!silent.keep_log());
        let mut stuck = sendings();
        let mut now = BEGIN;
        while now < BEGIN + PROGRESS_WITHIN {
            assert!(stuck.next_overdue(now).is_none() && stuck.keep_log());
            let _ = send(&mut stuck, now);
            now = now + Duration::from_secs(1);
            assert!(!stuck.acked(now, PEER, FILE.slot, 0));
        }
        assert_eq!(stuck.next_overdue(now + Duration::from_millis(1)), Some(PEER));
        assert!(!stuck.keep_log());
    }

    #[test]
    fn without_room_the_log_is_cut_and_the_transfer_goes_on() {
        let mut sendings = sendings();
        sendings.start(BEGIN, OTHER, SnapshotFile { slot: Slot(20), size: 1 << 20 });
        assert_eq!(sendings.give_up_log(Slot(20)), Some(PEER));
        assert_eq!(sendings.give_up_log(Slot(20)), None);
        assert!(sendings.is_sending(PEER, FILE.slot) && sendings.keep_log(), "the other one gets the newest");
        assert!(sendings.acked(BEGIN, PEER, FILE.slot, FILE.size));
        sendings.stop(OTHER);
        assert!(!sendings.keep_log(), "what follows the older one is gone");
        sendings.start(BEGIN, PEER, FILE);
        assert!(sendings.acked(BEGIN, PEER, FILE.slot, FILE.size) && sendings.keep_log());
        assert_eq!((sendings.give_up_log(FILE.slot), sendings.keep_log()), (Some(PEER), false));
    }

    #[test]
    fn a_peer_that_refuses_is_left_alone_longer_each_time_until_it_takes_one_or_lives_anew() {
        let mut sendings = sendings();
        let mut now = BEGIN;
        let mut refuse_after = |wait, sendings: &mut Sendings, reason| {
            now = now + wait;
            sendings.start(now, PEER, FILE);
            sendings.refused(now, PEER, reason);
            assert!(!sendings.is_sending(PEER, FILE.slot));
            let until = sendings.quiet_until(now, PEER).unwrap();
            let before = until.since(now);
            now = until;
            assert_eq!(sendings.quiet_until(now, PEER), None);
            before.as_secs()
        };
        let mut refuse = |sendings: &mut Sendings, reason| refuse_after(Duration::ZERO, sendings, reason);
        let waits: Vec<_> = (0..8).map(|_| refuse(&mut sendings, Reason::NoRoom)).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(
            refuse(&mut sendings, Reason::Busy),
            1,
            "somebody else's transfer ends sooner than a disk grows"
        );
        assert_eq!(refuse(&mut sendings, Reason::NoRoom), 60, "which has not grown for that");
        sendings.start(BEGIN, PEER, FILE);
        assert!(sendings.acked(BEGIN, PEER, FILE.slot, FILE.size));
        assert_eq!(refuse(&mut sendings, Reason::Damaged), 1, "it took one");
        let waits: Vec<_> = (0..4).map(|_| refuse(&mut sendings, Reason::Behind)).collect();
        assert_eq!(waits, [2, 4, 4, 4]);
        sendings.on_new_life(PEER);
        assert_eq!(refuse(&mut sendings, Reason::Unknown), 1, "another life");
        assert_eq!(refuse(&mut sendings, Reason::NoRoom), 1);
        assert_eq!(refuse_after(FORGIVEN_AFTER, &mut sendings, Reason::NoRoom), 1, "long ago");
        assert_eq!(sendings.quiet_until(BEGIN, OTHER), None);
        sendings.failed(BEGIN, OTHER);
        assert_eq!(sendings.quiet_until(BEGIN, OTHER), Some(BEGIN + QUIET_MIN));
    }

    /// What there is is offered every second, but a newer one is made ever more rarely.
    #[test]
    fn nothing_newer_is_made_for_a_peer_that_is_busy() {
        let mut sendings = sendings();
        let mut now = BEGIN;
        assert!(!sendings.leave_busy(now, PEER));
        let mut waits = Vec::new();
        for _ in 0..7 {
            sendings.start(now, PEER, FILE);
            sendings.refused(now, PEER, Reason::Busy);
            let from = now;
            while let Some(until) = sendings.quiet_until(now, PEER) {
                assert_eq!(until, now + QUIET_MIN);
                now = until;
                let _ = sendings.leave_busy(now, PEER);
            }
            waits.push(now.since(from).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        sendings.start(now, PEER, FILE);
        assert!(!sendings.acked(now, PEER, FILE.slot, 1));
        sendings.refused(now, PEER, Reason::Busy);
        assert!(sendings.leave_busy(now, PEER) && !sendings.leave_busy(now + QUIET_MIN, PEER), "it was not");
        for end in [true, false] {
            for _ in 0..5 {
                sendings.start(now, PEER, FILE);
                sendings.refused(now, PEER, Reason::Busy);
            }
            assert!(sendings.leave_busy(now + 10 * QUIET_MIN, PEER));
            sendings.start(now, PEER, FILE);
            if end {
                sendings.refused(now, PEER, Reason::Behind);
            } else {
                assert!(!sendings.acked(now, PEER, FILE.slot, 1));
            }
            assert!(!sendings.leave_busy(now, PEER), "it has taken something");
            sendings.stop(PEER);
        }
    }

    #[test]
    fn a_file_that_is_no_good_goes_to_nobody() {
        let mut sendings = sendings();
        sendings.start(BEGIN, OTHER, SnapshotFile { slot: Slot(20), size: 1 << 20 });
        let peers: Vec<_> = sendings.stop_file(FILE.slot).iter().collect();
        assert_eq!((peers, sendings.status().count), (vec![PEER], 1));
    }
}
