//! Promises, acceptances, and what a follower may commit.
//!
//! Invariants:
//! * A ballot below the promise is refused before anything else is looked at.
//! * A promise reports every entry from the requested slot on, or is not given.
//! * An acknowledgement is cumulative and never jumps over a gap (PM10).
//! * A follower commits only what it accepted in the ballot that announced the commit index (PM3).

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use super::election::REPORT_COUNT_MAX;
use super::message::{
    Accept, Commit, Gap, Heartbeat, HeartbeatReply, Prepare, Promise, PromiseEntry, PromiseRecord, Record,
    Refused,
};
use super::trust::Trust;
use super::{Multi, Role};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Value};
use crate::window::Entry;

impl Multi {
    /// From now on `ballot` is obeyed and no lower one. Claims about it need a record of it first.
    pub(super) fn promise(&mut self, ballot: Ballot) {
        assert!(ballot >= self.promised || !holds(Rule::RefuseLowerBallot), "a promise never falls");
        self.promised = ballot;
        self.seen = self.seen.max(ballot);
        // A leader knows what it proposes itself.
        let chosen = if ballot.owner() == self.me() { Slot(0) } else { self.commit };
        self.trust = Trust::in_new_ballot(chosen);
        self.accepted_upto = self.commit;
        self.advance_accepted();
    }

    /// Everything up to here is acknowledged in the promised ballot.
    pub(super) fn acknowledged(&self) -> Slot {
        if self.trust.is_told() { self.accepted_upto } else { self.accepted_upto.min(self.trust.told) }
    }

    pub(super) fn on_prepare(&mut self, from: ReplicaId, message: Prepare, effects: &mut Effects<Self>) {
        let ballot = message.ballot;
        if ballot.owner() != from {
            return;
        }
        if from == self.me() {
            self.own_promise_is_durable(ballot);
        }
        let lower = ballot < self.promised && holds(Rule::RefuseLowerBallot);
        let entry_count = self.window.entries_from(message.from_slot).count() as u64;
        // An incomplete report could hide a chosen value.
        let behind = message.from_slot < self.window.first() || entry_count > REPORT_COUNT_MAX;
        if lower || behind {
            self.counters.refused += u64::from(lower);
            effects.send(Dest::One(from), Refused { ballot, promised: self.promised, behind, wait: 0 }, None);
            return;
        }
        if ballot > self.promised {
            // Whoever may still read under a lease needs that nobody can lead beside it. [Multi-Paxos, leases]
            let wait = self.lease_wait(from, message.released).as_nanos() as u64;
            if wait > 0 {
                self.counters.lease_refusals += 1;
                effects.send(
                    Dest::One(from),
                    Refused { ballot, promised: self.promised, behind, wait },
                    None,
                );
                return;
            }
        }
        if ballot != self.promised {
            self.become_follower(effects);
            self.promise(ballot);
            // The candidate gets the time to show itself that a leader would have.
            self.heard = Some(self.now);
        }
        if self.recorded != ballot {
            self.recorded = ballot;
            let _ = effects.persist(Record::Promise(PromiseRecord { ballot, commit: self.commit }), None);
        }
        // The last point covers the promise and every acceptance that is reported. [D1]
        let after = effects.last_persist();
        let Prepare { ballot, from_slot, .. } = message;
        let promise = Promise { ballot, from_slot, commit: self.commit, entry_count };
        effects.send_after(after, Dest::One(from), promise, None);
        for (slot, entry) in self.window.entries_from(from_slot) {
            let report = PromiseEntry { ballot, slot, accepted: entry.ballot };
            effects.send_after(after, Dest::One(from), report, entry.value.body());
        }
    }

    /// Follows the leader of `ballot`, who says that everything up to `commit` is chosen; false if that ballot is not to be obeyed.
    pub(super) fn obey(
        &mut self,
        from: ReplicaId,
        ballot: Ballot,
        commit: Slot,
        effects: &mut Effects<Self>,
    ) -> bool {
        if ballot.owner() != from || from == self.me() {
            return false;
        }
        if ballot < self.promised && holds(Rule::RefuseLowerBallot) {
            self.counters.refused += 1;
            return false;
        }
        if ballot == self.promised && self.trust.is_broken(commit) {
            return false;
        }
        if ballot != self.promised {
            self.become_follower(effects);
            self.promise(ballot);
        } else if self.role != Role::Follower {
            self.become_follower(effects);
        }
        self.trust.follow(commit);
        self.heard = Some(self.now);
        self.arm_election();
        if self.leader != Some(from) {
            self.leader = Some(from);
            effects.repropose();
        }
        true
    }

    pub(super) fn on_accept(
        &mut self,
        from: ReplicaId,
        message: Accept,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let Accept { ballot, slot, commit } = message;
        if !self.obey(from, ballot, commit, effects) {
            if ballot < self.promised {
                effects.send(
                    Dest::One(from),
                    Refused { ballot, promised: self.promised, behind: false, wait: 0 },
                    None,
                );
            }
            return;
        }
        let expected = self.accepted_upto.next();
        let present = self.window.get(slot).is_some_and(|entry| entry.ballot == ballot);
        if slot <= self.commit {
            if !self.compare(from, message, body.as_ref(), effects) {
                return;
            }
            self.due.ack = true;
        } else if slot < expected && present {
            self.trust.hear(slot);
            self.due.ack = true;
        } else if slot > expected && holds(Rule::AckContiguous) {
            self.counters.gaps += 1;
            effects.send(Dest::One(from), Gap { ballot, expected }, None);
        } else if self.window.admits(slot) {
            self.trust.hear(slot);
            self.accept(slot, Value::from(body), effects);
            self.accepted_upto = self.accepted_upto.max(slot);
            self.advance_accepted();
        }
        self.follow_commit(commit, effects);
    }

    pub(super) fn on_commit(&mut self, from: ReplicaId, message: Commit, effects: &mut Effects<Self>) {
        if self.obey(from, message.ballot, message.commit, effects) {
            self.follow_commit(message.commit, effects);
        }
    }

    pub(super) fn on_heartbeat(&mut self, from: ReplicaId, message: Heartbeat, effects: &mut Effects<Self>) {
        let obeyed = self.obey(from, message.ballot, message.commit, effects);
        let mut granted = false;
        if obeyed {
            granted = self.grant_lease(message.round, message.lease, effects);
            self.follow_commit(message.commit, effects);
            self.note_commit(effects);
            // An acknowledgement may have been lost.
            self.due.ack |= message.acked < self.acknowledged();
            self.ask_to_fill(effects);
            self.help_leader(from, effects);
            self.fitness.tell_condition(self.now, &self.tuning, effects);
        }
        if obeyed || message.ballot < self.promised {
            // No vote: who has got everything that was sent may say that it knows of more.
            let has_all = self.trust.told >= message.sent;
            let received = self.acknowledged().max(self.trust.received().min(self.accepted_upto));
            let reply = HeartbeatReply {
                ballot: self.promised,
                round: message.round,
                sent: message.sent,
                received: if has_all { self.accepted_upto } else { received },
                granted,
            };
            effects.send(Dest::One(from), reply, None);
        }
    }

    /// The leader of the promised ballot knows everything up to `commit` to be chosen.
    fn follow_commit(&mut self, commit: Slot, effects: &mut Effects<Self>) {
        if commit <= self.commit {
            return;
        }
        let mut upto = commit.min(self.accepted_upto);
        if upto < commit && self.window.get(upto.next()).is_some() {
            // That entry is of an older ballot: its value may be one that lost. [Multi-Paxos, PM3]
            self.counters.commit_held += 1;
        }
        if !holds(Rule::FollowerCommitBallot) {
            upto = self.commit;
            while upto < commit && self.window.get(upto.next()).is_some() {
                upto = upto.next();
            }
        }
        self.commit_to(upto, effects);
    }

    pub(super) fn on_installed(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        // Values the log holds below a snapshot from elsewhere may have lost.
        self.loadable_from = self.loadable_from.max(slot.next());
        if slot <= self.commit {
            return;
        }
        if self.role != Role::Follower {
            self.become_follower(effects);
        }
        if !holds(Rule::SnapshotKeepsSuffix) {
            self.window.drop_above(slot);
            self.accepted_upto = slot;
        }
        self.window.drop_through(slot);
        self.commit = slot;
        self.commit_since = self.now;
        self.trust.need(slot);
        self.accepted_upto = self.accepted_upto.max(slot);
        self.advance_accepted();
        self.due.ack = true;
    }

    /// Takes in one record of the own log.
    pub(super) fn on_record(&mut self, record: Record, body: Option<Frame>, effects: &mut Effects<Self>) {
        if !record.is_plausible() {
            return;
        }
        let (ballot, commit) = (record.ballot(), record.commit());
        let rises = ballot > self.promised;
        self.promised = self.promised.max(ballot);
        self.recorded = self.promised;
        self.seen = self.promised;
        if let Record::Lease(record) = record {
            self.lease.replay(record);
        }
        // What the record calls chosen was accepted before it was written, with the values that are here by now.
        while self.commit < commit && self.window.get(self.commit.next()).is_some() {
            let next = self.commit.next();
            self.commit_to(next, effects);
        }
        self.commit_noted = self.commit_noted.max(commit.min(self.commit));
        if rises {
            self.trust.replay_ballot(self.commit);
        }
        if let Some(slot) = record.slot()
            && self.window.admits(slot)
        {
            self.window.set(slot, Entry { ballot, value: Value::from(body) });
        }
    }
}
