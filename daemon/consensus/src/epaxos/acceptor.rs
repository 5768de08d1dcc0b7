//! The acceptor: votes in ballot 0, accepts, and takes in what is committed.
//!
//! Invariants:
//! * No vote leaves before the record behind it is durable; every vote and its batch are written down in one record.
//! * An instance about which a forgotten life may have said something gets no word but its commit.
//! * A ballot below the one joined is refused, and a committed instance never changes.
//! * A commit whose batch is missing is not taken in; the batch is asked for.

use panch_wire::frame::Frame;
use panch_wire::ids::{Position, ReplicaId};
use panch_wire::rule::{Rule, holds};

use super::Epaxos;
use super::message::{Accept, AcceptOk, Commit, Fetch, Nack, Phase, PreAccept, PreAcceptOk, Seen};
use super::record::{PreAcceptRecord, Record};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Persist, Value};

impl Epaxos {
    /// Answers a message about an instance that is decided here; false if it is not.
    pub(super) fn answer_committed(
        &mut self,
        to: ReplicaId,
        position: Position,
        effects: &mut Effects<Self>,
    ) -> bool {
        if self.has_left_memory(position) {
            self.send_covered(to, position, effects);
            return true;
        }
        if self.load_for(to, position, effects) {
            return true;
        }
        let Some((message, body, unannounced)) = self.commit_message(position) else { return false };
        if !holds(Rule::EpaxosCommitIsFinal) {
            return false;
        }
        if to != self.group.me
            && let super::message::Message::Commit(commit) = message
        {
            let after = if unannounced { effects.last_persist() } else { Persist::default() };
            effects.send_after(after, Dest::One(to), commit, body.as_ref());
        }
        true
    }

    pub(super) fn refuse(
        &mut self,
        to: ReplicaId,
        position: Position,
        ballot: Ballot,
        effects: &mut Effects<Self>,
    ) {
        self.counters.refused += 1;
        effects.send(Dest::One(to), Nack { position, ballot }, None);
    }

    pub(super) fn on_seen(&mut self, message: Seen, body: Option<Frame>) {
        let Some(frame) = body else { return };
        if self.has_left_memory(message.position) {
            return;
        }
        self.learn(message.position, message.stamp, &frame);
        let instance = self.instance(message.position);
        if instance.phase == Phase::Seen {
            instance.buddy = message.buddy;
        }
    }

    pub(super) fn on_pre_accept(
        &mut self,
        from: ReplicaId,
        message: PreAccept,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let PreAccept { position, stamp, deps: initial_deps, buddy } = message;
        if ReplicaId(position.row) != from || self.answer_committed(from, position, effects) {
            return;
        }
        if self.is_below_floor(position) {
            self.learn_below_floor(position, stamp, body.as_ref());
            return;
        }
        let instance = self.instance(position);
        let (ballot, phase) = (instance.ballot, instance.phase);
        if ballot > Ballot::default() && holds(Rule::EpaxosRefuseLowerBallot) {
            self.refuse(from, position, ballot, effects);
            return;
        }
        if phase == Phase::PreAccepted && instance.initial_deps == initial_deps {
            let deps = instance.deps;
            effects.send_after(effects.last_persist(), Dest::One(from), PreAcceptOk { position, deps }, None);
            return;
        }
        let Some(frame) = instance.frame.clone().or(body) else { return };
        if phase > Phase::Seen && holds(Rule::EpaxosCommitIsFinal) {
            return;
        }
        self.fill_footprint(&frame);
        let deps = self.add_dependencies(position, &initial_deps);
        self.learn(position, stamp, &frame);
        self.note_vote(position);
        self.announce_deps(&deps);
        let instance = self.instance(position);
        instance.phase = Phase::PreAccepted;
        instance.deps = deps;
        instance.initial_deps = initial_deps;
        instance.proposal_known = true;
        instance.buddy = buddy;
        let body = Some(&frame).filter(|_| !std::mem::replace(&mut instance.logged, true));
        let record = PreAcceptRecord { position, stamp, deps, initial_deps, buddy };
        let point = effects.persist(Record::PreAccept(record), body);
        effects.send_after(point, Dest::One(from), PreAcceptOk { position, deps }, None);
    }

    pub(super) fn on_accept(
        &mut self,
        from: ReplicaId,
        message: Accept,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let Accept { position, ballot, stamp, deps, noop } = message;
        let is_owners = ballot > Ballot::default() || ReplicaId(position.row) == from;
        if !is_owners || self.answer_committed(from, position, effects) {
            return;
        }
        if self.is_below_floor(position) {
            self.learn_below_floor(position, stamp, body.as_ref().filter(|_| !noop));
            return;
        }
        let joined = self.instance(position).ballot;
        if ballot < joined && holds(Rule::EpaxosRefuseLowerBallot) {
            self.refuse(from, position, joined, effects);
            return;
        }
        let instance = self.instance(position);
        if instance.phase == Phase::Accepted && instance.accepted == ballot && joined == ballot {
            // Sent again: a ballot has one value per instance.
            effects.send_after(effects.last_persist(), Dest::One(from), AcceptOk { position, ballot }, None);
            return;
        }
        if !noop {
            match body {
                Some(frame) => self.learn(position, stamp, &frame),
                // The batch is still on its way, or was lost: the sender repeats itself with it.
                None if self.instance(position).frame.is_none() => return,
                None => {}
            }
        }
        let point = self.accept(position, ballot, stamp, deps, noop, effects);
        effects.send_after(point, Dest::One(from), AcceptOk { position, ballot }, None);
    }

    pub(super) fn on_commit(
        &mut self,
        from: ReplicaId,
        message: Commit,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let Commit { position, stamp, deps, noop } = message;
        self.announce(position);
        if self.committed.contains(position) {
            self.compare(from, message, body.as_ref(), effects);
            // A duplicate, or this replica's own fast commit, which is durable now.
            if self.instances.get(&position).is_some_and(|instance| instance.unannounced) {
                self.release(position, effects);
            }
            self.resolve_doubt(position, noop, effects);
            self.continue_fetch(position.row, effects);
            return;
        }
        if from == self.group.me {
            return;
        }
        self.note_teller(from, position);
        if !noop {
            match body {
                Some(frame) => self.learn(position, stamp, &frame),
                None if self.instance(position).frame.is_none() => {
                    let Position { row, number } = position;
                    self.note_asked(from, row, number);
                    let fetch = Fetch { row, from: number, upto: number, memory_only: false };
                    effects.send(Dest::One(from), fetch, None);
                    return;
                }
                None => {}
            }
        }
        if self.coordinations.get(&position).is_some_and(|own| own.ballot.round > 0) {
            self.counters.recovered_committed += 1;
        }
        // So that a restart does not need anybody's help; nothing waits for it.
        let _ = self.record_commit(position, stamp, deps, noop, effects);
        self.settle(position, stamp, deps, noop);
        self.release(position, effects);
        self.continue_fetch(position.row, effects);
    }

    /// Compares what is said to be committed with what is committed here. What a snapshot covers was not committed here: it may have
    /// been accepted as something that lost. Dependencies are not compared: honest replicas may differ in those that do not interfere.
    fn compare(&self, from: ReplicaId, said: Commit, body: Option<&Frame>, effects: &mut Effects<Self>) {
        let Some(known) = self.instances.get(&said.position).filter(|it| it.is_committed()) else { return };
        // A commit may come without its batch, and a batch that is executed may have left memory.
        if (known.noop || known.frame.is_some()) && (said.noop || body.is_some()) {
            let value = Value::from(known.body().cloned());
            effects.contradict(said.position, &value, body.filter(|_| !said.noop), from);
        }
    }
}
