//! Whom a coordinator relies on.
//!
//! A replica is missed when its connection is lost, when it does not answer heartbeats, or when a slot waits for its vote and
//! it has voted nowhere for much longer than its votes take at their slowest. One whose votes are merely late, because its
//! disk stalls now and then, stays: its slots are recovered one by one.
//!
//! Invariants:
//! * This replica always counts as fit to itself.
//! * Nobody is dropped for want of votes in the turn in which that is noticed.

use panch_wire::ids::{BatchId, REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::time::{Duration, Instant};

use super::round::Round;
use super::{Fast, Role};
use crate::protocol::Effects;
use crate::quorum::reached_by_quorum;

/// A replica may be silent for so many times as long as it was lately.
const STALLS_MAX: u32 = 3;

/// What a coordinator knows of one replica.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Peer {
    /// When it last answered in the coordinator's term.
    pub(super) contact: Option<Instant>,
    /// Since when it does what is expected of it.
    pub(super) steady_since: Instant,
    /// When any vote of it in the fast round of the term last arrived.
    pub(super) voted: Instant,
    /// When anything last arrived that it had written down before: a vote in any round, or the promise of a slot.
    claimed: Instant,
    /// Set while a slot had to be recovered for want of its vote or proposal and nothing came from it since.
    pub(super) missed: Option<Miss>,
    /// How long slots lately waited at most for a vote of it that came after all; fades.
    stall: Duration,
}

/// Silence of a replica that is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Miss {
    /// Since when.
    since: Instant,
    /// When it was noticed.
    noticed: Instant,
    /// All that it missed was sent by clients, perhaps not to it: anything that it writes down shows that it is fit.
    of_clients: bool,
}

impl Fast {
    pub(super) fn count_as_unfit(&mut self, id: ReplicaId) {
        self.term.peers[id.index()].steady_since = self.now;
        if id != self.me() {
            self.term.fit.remove(id);
        }
    }

    /// The replica answered in the coordinator's own term.
    pub(super) fn note_contact(&mut self, from: ReplicaId) {
        if self.role == Role::Coordinator {
            let now = self.now;
            let timeout = self.tuning.election_timeout;
            let peer = &mut self.term.peers[from.index()];
            if peer.contact.is_none_or(|contact| now.since(contact) >= timeout) {
                peer.steady_since = now;
            }
            peer.contact = Some(now);
        }
    }

    /// The replica says something that it has written down: its disk works.
    pub(super) fn note_claim(&mut self, from: ReplicaId) {
        let peer = &mut self.term.peers[from.index()];
        peer.claimed = self.now;
        peer.missed.take_if(|missed| missed.of_clients);
    }

    /// Votes of the replica arrived, late or not, in whatever slots. Those in classic rounds say nothing of whether proposals
    /// of others reach it.
    pub(super) fn note_votes(&mut self, from: ReplicaId, round: Round) {
        self.note_claim(from);
        if self.role == Role::Coordinator && round == Round::fast(self.promised) {
            let now = self.now;
            let peer = &mut self.term.peers[from.index()];
            peer.voted = now;
            if let Some(missed) = peer.missed.take() {
                peer.stall = peer.stall.max(now.since(missed.since));
            }
        }
    }

    fn contact_age(&self, id: ReplicaId) -> Duration {
        if id == self.me() {
            return Duration::ZERO;
        }
        self.term.peers[id.index()].contact.map_or(Duration::MAX, |contact| self.now.since(contact))
    }

    pub(super) fn has_quorum_contact(&self) -> bool {
        let ages: [_; REPLICAS_MAX] =
            std::array::from_fn(|index| std::cmp::Reverse(self.contact_age(ReplicaId(index as u8))));
        reached_by_quorum(&ages[..self.group.replica_count]).0 < self.tuning.election_timeout
    }

    /// Takes in those that have been back for a while, and drops those that do not answer.
    pub(super) fn judge_peers(&mut self) {
        for id in self.peers() {
            let age = self.contact_age(id);
            let steady = self.now.since(self.term.peers[id.index()].steady_since);
            if age >= self.tuning.election_timeout {
                self.count_as_unfit(id);
                continue;
            }
            let is_back = steady >= self.settling_time() && age <= 2 * self.tuning.heartbeat_interval;
            if is_back && self.term.fit.insert(id) {
                self.term.peers[id.index()].missed = None;
            }
            let stall = &mut self.term.peers[id.index()].stall;
            *stall = *stall * 15 / 16;
        }
    }

    /// The fast round of `slot` took too long: whose fault is it?
    pub(super) fn note_misses(&mut self, slot: Slot) {
        let round = Round::fast(self.promised);
        let Some(open) = self.slots.get(slot) else { return };
        let replicas = self.all();
        let (now, since) = (self.now, open.recovery.since.unwrap_or(self.now));
        let has_voted = |id: &ReplicaId| open.tally[id.index()].is_some_and(|vote| vote.round == round);
        let owner = self.plan.and_then(|plan| plan.mode.owner(slot));
        let any_voted = replicas.iter().any(|id| has_voted(&id));
        // A client may never have sent its batch to those that did not vote. They are asked to promise the slot, and blamed only if they
        // do not do that either.
        let mut votes = open.tally.iter().flatten().filter(|vote| vote.round == round);
        let of_clients = any_voted && votes.all(|vote| vote.name.batch().is_some_and(BatchId::is_of_client));
        for (peer, id) in self.term.peers.iter_mut().zip(replicas.iter()) {
            let to_blame = if any_voted { !has_voted(&id) } else { owner == Some(id) };
            if to_blame && peer.missed.is_none() {
                let since = since.max(if of_clients { peer.claimed } else { peer.voted });
                peer.missed = Some(Miss { since, noticed: now, of_clients });
            }
        }
    }

    /// How long slots may wait for a replica while it votes nowhere else.
    fn silence_max(&self, id: ReplicaId) -> Duration {
        let stalls = STALLS_MAX * self.term.peers[id.index()].stall;
        stalls.min(self.tuning.election_timeout).max(2 * self.tuning.slow_after)
    }

    /// Goes on without those that slots wait for and that have long been silent.
    pub(super) fn drop_silent_voters(&mut self, effects: &mut Effects<Self>) {
        let mut dropped = false;
        for id in self.peers() {
            // Not in the turn in which it is noticed: if this replica itself was held up, votes wait to be read.
            let is_silent = |missed: Miss| {
                missed.noticed < self.now && self.now.since(missed.since) >= self.silence_max(id)
            };
            if self.term.fit.contains(id) && self.term.peers[id.index()].missed.is_some_and(is_silent) {
                self.count_as_unfit(id);
                dropped = true;
            }
        }
        if dropped {
            self.reconsider_plan(effects);
        }
    }
}
