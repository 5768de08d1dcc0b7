//! The second phase, of a command leader in ballot 0 or of a recovery: a value is accepted by a classic quorum, and everybody is told.
//!
//! Invariants:
//! * The own acceptance is written down before it is sent to anybody, and counts once it is durable.
//! * A commit made of acceptances waits for nothing: they make it recoverable.

use panch_wire::ids::{Position, ReplicaId, ReplicaSet};
use panch_wire::rule::{Rule, holds};

use super::coordination::Stage;
use super::message::{Accept, AcceptOk, Commit, Phase};
use super::record::{AcceptRecord, Record};
use super::{Dependencies, Epaxos};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Persist};

impl Epaxos {
    /// Begins the second phase in the ballot of this replica's coordination with its own acceptance.
    pub(super) fn start_accept(
        &mut self,
        position: Position,
        stamp: u64,
        deps: Dependencies,
        noop: bool,
        effects: &mut Effects<Self>,
    ) {
        let Some(own) = self.coordinations.get_mut(&position) else { return };
        own.stage = Stage::Accept;
        own.replies = ReplicaSet::default();
        own.attempts = 0;
        let ballot = own.ballot;
        self.arm_retry(position);
        let point = self.accept(position, ballot, stamp, deps, noop, effects);
        effects.send_after(point, Dest::One(self.group.me), AcceptOk { position, ballot }, None);
        self.send_accept(position, point, ballot != Ballot::default(), effects);
    }

    /// Accepts a value here and writes it down.
    pub(super) fn accept(
        &mut self,
        position: Position,
        ballot: Ballot,
        stamp: u64,
        deps: Dependencies,
        noop: bool,
        effects: &mut Effects<Self>,
    ) -> Persist {
        self.join(position, ballot);
        self.note_vote(position);
        self.note_decided(position);
        self.announce_deps(&deps);
        let instance = self.instance(position);
        instance.accepted = ballot;
        instance.phase = Phase::Accepted;
        instance.noop = noop;
        instance.deps = deps;
        let unknown = instance.frame.is_none();
        let body = instance.frame.clone().filter(|_| !noop && !instance.logged);
        instance.logged |= body.is_some();
        if noop && unknown && holds(Rule::EpaxosAcceptedNoopConflicts) {
            // A higher ballot may still bring the batch back: until then it must not be missing among anybody's dependencies. [T-E8]
            self.conflicts.insert_unknown(position);
        }
        let record = AcceptRecord { position, ballot, stamp, deps, noop, body: body.is_some() };
        effects.persist(Record::Accept(record), body.as_ref())
    }

    /// Sends the own acceptance to those that have not answered.
    pub(super) fn send_accept(
        &mut self,
        position: Position,
        point: Persist,
        with_body: bool,
        effects: &mut Effects<Self>,
    ) {
        let Some(instance) = self.instances.get(&position) else { return };
        let Some(own) = self.coordinations.get(&position) else { return };
        let stamp = if instance.noop { 0 } else { instance.stamp };
        let message =
            Accept { position, ballot: own.ballot, stamp, deps: instance.deps, noop: instance.noop };
        for peer in self.peers().filter(|peer| !own.replies.contains(*peer)) {
            let body = instance.body().filter(|_| with_body || !own.told.contains(peer));
            effects.send_after(point, Dest::One(peer), message, body);
        }
    }

    pub(super) fn on_accept_ok(&mut self, from: ReplicaId, message: AcceptOk, effects: &mut Effects<Self>) {
        let AcceptOk { position, ballot } = message;
        let quorum = self.quorum();
        let Some(own) = self.coordinations.get_mut(&position) else { return };
        if own.ballot != ballot || !own.is_accepting() {
            return;
        }
        own.replies.insert(from);
        own.told.insert(from);
        if own.replies.count() < quorum {
            return;
        }
        let told =
            if ballot == Ballot::default() { own.told } else { ReplicaSet::first(self.group.replica_count) };
        let instance = self.instances.get(&position).expect("it was accepted here");
        let (stamp, deps, noop) = (instance.stamp, instance.deps, instance.noop);
        // The votes make it recoverable: nothing to wait for. [protocols D8]
        let _ = self.record_commit(position, stamp, deps, noop, effects);
        self.settle(position, stamp, deps, noop);
        self.release(position, effects);
        match (ballot == Ballot::default(), noop) {
            (true, _) => self.counters.slow_commits += 1,
            (false, true) => self.counters.recovered_noop += 1,
            (false, false) => {}
        }
        self.send_commit(position, Persist::default(), told, effects);
    }

    /// Tells everybody, this replica included; those that were not sent the batch are sent it now.
    pub(super) fn send_commit(
        &mut self,
        position: Position,
        point: Persist,
        told: ReplicaSet,
        effects: &mut Effects<Self>,
    ) {
        let Some(instance) = self.instances.get(&position) else { return };
        let stamp = if instance.noop { 0 } else { instance.stamp };
        let message = Commit { position, stamp, deps: instance.deps, noop: instance.noop };
        if instance.noop || told.count() == self.group.replica_count {
            effects.send_after(point, Dest::All, message, None);
            return;
        }
        let body = instance.body();
        for id in (0..self.group.replica_count as u8).map(ReplicaId) {
            effects.send_after(point, Dest::One(id), message, body.filter(|_| !told.contains(id)));
        }
    }
}
