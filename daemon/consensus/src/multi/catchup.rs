//! What each peer is sent next: the tail of the log, what it missed, or a snapshot.
//!
//! Every peer has one send position. New slots go out at once to a peer that is up to date; a peer that lags is sent
//! more as it acknowledges: from memory, then from the own log, and if that no longer reaches back, a snapshot. What
//! was lost on the way shows in a [`Gap`] or in the reply to a heartbeat, and moves the position back.
//!
//! Invariants:
//! * `acked < next`: what is in flight to a peer is `acked+1..next`, and bounded.
//! * Only chosen values are read back from the log, so sending them in the current ballot is safe.

use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use super::message::{Accept, Gap, HeartbeatReply, Proposed};
use super::{Multi, Role};
use crate::protocol::{Dest, Effects, Value};

/// The most loads asked for at once for one peer.
const LOAD_COUNT_MAX: u64 = 512;

/// What a leader knows of one peer.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Peer {
    /// Arrived in order, as far as the flow to the peer is concerned: no vote, and it falls back after a loss.
    pub(super) acked: Slot,
    /// The next slot to send.
    pub(super) next: Slot,
    /// The commit index it was last told.
    pub(super) commit_sent: Slot,
    /// The last heartbeat round it answered.
    pub(super) round: u64,
    /// When it last answered in the leader's ballot.
    pub(super) contact: Instant,
    /// Since when it has done so without a break.
    pub(super) contact_since: Instant,
    /// The position a gap moved `next` back to; repeated gaps of one loss are not answered again.
    gap: Option<Slot>,
    /// Replies to heartbeats up to this round tell nothing new about what was lost.
    rewind_round: u64,
    /// The connection was lost: only heartbeats are sent until it answers.
    pub(super) paused: bool,
    /// A snapshot is on its way.
    pub(super) snapshotting: bool,
}

impl Peer {
    pub(super) fn new(acked: Slot, now: Instant) -> Self {
        Self { acked, next: acked.next(), contact: now, contact_since: now, ..Self::default() }
    }

    pub(super) fn on_ack(&mut self, upto: Slot) {
        self.acked = self.acked.max(upto);
        self.next = self.next.max(self.acked.next());
        if self.gap.is_some_and(|gap| upto >= gap) {
            self.gap = None;
        }
    }

    fn rewind(&mut self, next: Slot, round: u64) {
        self.next = next;
        self.acked = next.prev();
        self.rewind_round = round;
    }
}

impl Multi {
    /// The peer answered in the leader's own ballot.
    pub(super) fn on_contact(&mut self, from: ReplicaId, effects: &mut Effects<Self>) {
        let peer = &mut self.term.peers[from.index()];
        if self.now.since(peer.contact) >= self.tuning.election_timeout {
            peer.contact_since = self.now;
        }
        peer.contact = self.now;
        if peer.paused {
            peer.paused = false;
            peer.rewind(peer.acked.next(), self.term.round);
            self.pump(from, effects);
        }
    }

    /// Sends `to` what it is ready for.
    pub(super) fn pump(&mut self, to: ReplicaId, effects: &mut Effects<Self>) {
        loop {
            let room = self.room(to);
            let peer = &mut self.term.peers[to.index()];
            if peer.paused || peer.snapshotting || peer.next > self.term.last || room == 0 {
                return;
            }
            let slot = peer.next;
            if let Some(entry) = self.window.get(slot) {
                let message = Accept { ballot: self.promised, slot, commit: self.commit };
                peer.next = slot.next();
                peer.commit_sent = self.commit;
                effects.send(Dest::One(to), message, entry.value.body());
            } else if slot < self.loadable_from {
                peer.snapshotting = true;
                effects.send_snapshot(to, slot);
            } else {
                self.load_from(slot, room, effects);
                return;
            }
        }
    }

    /// How many more slots may be in flight to `to`.
    fn room(&self, to: ReplicaId) -> u64 {
        let peer = &self.term.peers[to.index()];
        let catching_up = peer.next <= self.commit;
        let limit = if catching_up {
            let (size, count) = self.window.extent();
            self.tuning.catchup_count(size, count)
        } else {
            self.unchosen_max()
        };
        limit.max(1).saturating_sub(peer.next.0 - peer.acked.0 - 1)
    }

    fn load_from(&mut self, slot: Slot, room: u64, effects: &mut Effects<Self>) {
        let end = self.window.first().0.min(slot.0 + room.min(LOAD_COUNT_MAX));
        for slot in (slot.0..end).map(Slot) {
            if !self.loading.contains(&slot) {
                self.loading.push(slot);
                effects.load(slot);
            }
        }
    }

    /// A value came back from the log: to be compared, or for every peer that waits for it.
    pub(super) fn on_loaded(&mut self, slot: Slot, value: Option<Value>, effects: &mut Effects<Self>) {
        self.loading.retain(|loading| *loading != slot);
        self.compare_loaded(slot, value.as_ref(), effects);
        if self.role != Role::Leader || slot > self.commit {
            return;
        }
        for id in self.peers() {
            let room = self.room(id);
            let peer = &mut self.term.peers[id.index()];
            if peer.next != slot || peer.paused || peer.snapshotting || room == 0 {
                continue;
            }
            match &value {
                Some(value) => {
                    let message = Accept { ballot: self.promised, slot, commit: self.commit };
                    peer.next = slot.next();
                    peer.commit_sent = self.commit;
                    effects.send(Dest::One(id), message, value.body());
                    self.pump(id, effects);
                }
                None => {
                    peer.snapshotting = true;
                    effects.send_snapshot(id, slot);
                }
            }
        }
    }

    pub(super) fn on_snapshot_sent(
        &mut self,
        id: ReplicaId,
        upto: Option<Slot>,
        effects: &mut Effects<Self>,
    ) {
        if self.role != Role::Leader || id == self.me() || id.index() >= self.group.replica_count {
            return;
        }
        let peer = &mut self.term.peers[id.index()];
        peer.snapshotting = false;
        if let Some(upto) = upto {
            peer.on_ack(upto.min(self.term.last));
            peer.rewind_round = self.term.round;
            self.pump(id, effects);
        }
    }

    pub(super) fn on_gap(&mut self, from: ReplicaId, message: Gap, effects: &mut Effects<Self>) {
        if self.role != Role::Leader || message.ballot != self.promised || from == self.me() {
            return;
        }
        self.on_contact(from, effects);
        let round = self.term.round;
        let peer = &mut self.term.peers[from.index()];
        if message.expected < peer.next && message.expected.0 > 0 && peer.gap != Some(message.expected) {
            peer.gap = Some(message.expected);
            peer.rewind(message.expected, round);
            self.counters.rewinds += 1;
            self.pump(from, effects);
        }
    }

    pub(super) fn on_heartbeat_reply(
        &mut self,
        from: ReplicaId,
        message: HeartbeatReply,
        effects: &mut Effects<Self>,
    ) {
        if self.role != Role::Leader || from == self.me() || message.round > self.term.round {
            return;
        }
        if message.ballot != self.promised && holds(Rule::ContactOwnBallot) {
            self.seen = self.seen.max(message.ballot);
            if message.ballot > self.promised {
                self.become_follower(effects);
            }
            return;
        }
        self.on_contact(from, effects);
        self.fitness.on_answer(from, message.round, self.now);
        if message.granted {
            self.on_lease_granted(from, message.round);
        }
        let (round, last) = (self.term.round, self.term.last);
        if message.received > last {
            // What it knows to be chosen may come from a snapshot, and from a leader above this one; it can tell.
            effects.send(Dest::One(from), Proposed { ballot: self.promised, last }, None);
        }
        let peer = &mut self.term.peers[from.index()];
        peer.round = peer.round.max(message.round);
        if message.round > peer.rewind_round {
            let lost = message.received < message.sent && message.received.next() < peer.next;
            if lost && !peer.snapshotting {
                peer.gap = None;
                peer.rewind(message.received.next(), round);
                self.counters.rewinds += 1;
            }
            // For the flow only: an acknowledgement may have been lost, or be waiting for the peer's log. What it has from elsewhere it
            // compares with what is proposed.
            peer.on_ack(message.received.min(message.sent).min(last));
        }
        self.pump(from, effects);
        self.confirm_reads(effects);
    }
}
