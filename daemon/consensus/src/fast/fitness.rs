//! Whom a coordinator relies on: see [`crate::fitness`].
//!
//! A replica is dropped when its connection is lost, when it does not answer heartbeats, or when slots wait for its vote and
//! it is silent. One whose votes are late now and then stays: its slots are recovered one by one. But one whose disk is much slower
//! than those of a majority is dropped as soon as waiting for it costs more than the additional way of a classic round, and so is one
//! that many slots wait for while others have long voted, because its process or a link of it is slow.
//!
//! Invariants:
//! * This replica always counts as fit to itself.
//! * Nobody is dropped for want of votes in the turn in which that is noticed.

use panch_wire::ids::{BatchId, REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Duration;

use super::message::TakeOver;
use super::round::Round;
use super::{Fast, Role};
use crate::protocol::{Dest, Effects};
use crate::quorum::reached_by_quorum;

impl Fast {
    pub(super) fn count_as_unfit(&mut self, id: ReplicaId) {
        self.term.peers[id.index()].fail(self.now);
        if id != self.me() {
            self.term.fit.remove(id);
        }
    }

    /// The replica answered in the coordinator's own term.
    pub(super) fn note_contact(&mut self, from: ReplicaId) {
        if self.role == Role::Coordinator {
            self.term.peers[from.index()].on_contact(self.now, self.tuning.election_timeout);
        }
    }

    /// The replica says something that it has written down: its disk works.
    pub(super) fn note_claim(&mut self, from: ReplicaId) {
        self.term.peers[from.index()].on_claim(self.now);
    }

    /// Votes of the replica arrived, late or not, in whatever slots. Those in classic rounds say nothing of whether proposals
    /// of others reach it.
    pub(super) fn note_votes(&mut self, from: ReplicaId, round: Round) {
        self.note_claim(from);
        if self.role == Role::Coordinator && round == Round::fast(self.promised) {
            self.term.peers[from.index()].on_vote(self.now);
        }
    }

    /// The replica answered the last heartbeat.
    pub(super) fn note_round_trip(&mut self, from: ReplicaId) {
        let time = self.now.since(self.term.heartbeat_sent);
        // An answer to an earlier one would seem faster than it was: rarely, and then the next one does not.
        self.term.peers[from.index()].on_round_trip(time);
        self.fitness.on_answer(from, 0, self.now);
    }

    /// Whether waiting for the disk of a replica costs more than going on in classic rounds would.
    fn is_slow(&self, id: ReplicaId) -> bool {
        let trips = self.peers().map(|peer| self.term.peers[peer.index()].round_trip());
        let trip = trips.max().unwrap_or_default();
        holds(Rule::FastFittestCoordinates) && self.fitness.is_slow(id, trip, self.now, &self.tuning)
    }

    /// A term begins without those whose disks are slow already.
    pub(super) fn drop_slow_voters(&mut self) {
        for id in self.peers() {
            if self.is_slow(id) {
                self.count_as_unfit(id);
            }
        }
    }

    pub(super) fn watch_links(&mut self) {
        let settling = self.settling_time();
        self.fitness.watch_links(settling, self.now, &self.tuning);
    }

    /// Asks a replica that reaches more others, or has a much better disk, to coordinate instead.
    pub(super) fn hand_over(&mut self, effects: &mut Effects<Self>) {
        if !holds(Rule::FastFittestCoordinates) {
            return;
        }
        let fresh = 2 * self.tuning.heartbeat_interval;
        let peers = &self.term.peers;
        let now = self.now;
        let is_here = |id: ReplicaId| peers[id.index()].contact_age(now) <= fresh;
        if let Some(to) = self.fitness.successor(now, &self.tuning, is_here) {
            self.counters.transfers += 1;
            effects.send(Dest::One(to), TakeOver { term: self.promised }, None);
        }
    }

    fn contact_age(&self, id: ReplicaId) -> Duration {
        if id == self.me() {
            return Duration::ZERO;
        }
        self.term.peers[id.index()].contact_age(self.now)
    }

    pub(super) fn has_quorum_contact(&self) -> bool {
        let ages: [_; REPLICAS_MAX] =
            std::array::from_fn(|index| std::cmp::Reverse(self.contact_age(ReplicaId(index as u8))));
        reached_by_quorum(&ages[..self.group.replica_count]).0 < self.tuning.election_timeout
    }

    /// Slots are looked at: whom do fast rounds wait for that others have long voted in? If nobody has voted, they may wait for their owner.
    /// All links may be long: late is only who is later than a quorum.
    pub(super) fn note_late_voters(&mut self, end: Slot) {
        let Some(plan) = self.plan.filter(|plan| plan.mode.is_fast()) else { return };
        let (round, quorum, all, me) = (Round::fast(self.promised), self.quorum(), self.all(), self.me());
        let first = self.commit().next().max(plan.from_slot);
        let mut has_later = false;
        for slot in (first.0..=end.0).rev().map(Slot) {
            let Some(open) = self.slots.open(slot) else { continue };
            let votes = || open.tally.iter().flatten().filter(|vote| vote.round == round);
            let count = votes().count();
            let is_behind = count == 0 && has_later;
            has_later |= count >= quorum;
            // A client may never have sent its batch to those that did not vote.
            let of_clients =
                count > 0 && votes().all(|vote| vote.name.batch().is_some_and(BatchId::is_of_client));
            if open.chosen.is_some() || open.recovery.begun || of_clients {
                continue;
            }
            for id in all.iter().filter(|id| *id != me) {
                let has_voted = open.tally[id.index()].is_some_and(|vote| vote.round == round);
                let owes_vote = count >= quorum && !has_voted;
                let owes_slot = is_behind && plan.mode.owner(slot) == Some(id);
                if !(owes_vote || owes_slot) || !open.recovery.late.insert(id) {
                    continue;
                }
                let peer = &mut self.term.peers[id.index()];
                if owes_vote { peer.owes_vote() } else { peer.owes_slot() }
            }
        }
    }

    /// Takes in those that have been back for a while, and drops those that do not answer.
    pub(super) fn judge_peers(&mut self) {
        let slot_count = std::mem::take(&mut self.term.slot_count);
        let replica_count = self.group.replica_count;
        for id in self.peers() {
            let age = self.contact_age(id);
            if age >= self.tuning.election_timeout {
                self.count_as_unfit(id);
                continue;
            }
            let (is_slow, wait) = (self.is_slow(id), self.tuning.election_timeout / 2);
            if self.term.peers[id.index()].on_disk(is_slow, wait, self.now) {
                self.count_as_unfit(id);
                continue;
            }
            let peer = &mut self.term.peers[id.index()];
            let is_late = peer.judge_late(slot_count, replica_count, self.now, &self.tuning);
            if is_late && holds(Rule::FastFittestCoordinates) {
                peer.pass_over(self.now, &self.tuning);
                self.count_as_unfit(id);
                continue;
            }
            let steady = self.term.peers[id.index()].steady_time(self.now);
            let is_passed_over = self.term.peers[id.index()].is_passed_over(self.now);
            let is_back = !is_slow
                && !is_passed_over
                && steady >= self.settling_time()
                && age <= 2 * self.tuning.heartbeat_interval;
            if is_back && self.term.fit.insert(id) {
                self.term.peers[id.index()].forgive();
            }
            self.term.peers[id.index()].fade();
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
            if to_blame {
                peer.miss(now, since, of_clients);
            }
        }
    }

    /// Goes on without those that slots wait for and that have long been silent.
    pub(super) fn drop_silent_voters(&mut self, effects: &mut Effects<Self>) {
        let mut dropped = false;
        for id in self.peers() {
            let is_silent = self.term.peers[id.index()].is_silent(self.now, &self.tuning);
            if self.term.fit.contains(id) && is_silent {
                self.term.peers[id.index()].pass_over(self.now, &self.tuning);
                self.count_as_unfit(id);
                dropped = true;
            }
        }
        if dropped {
            self.reconsider_plan(effects);
        }
    }
}
