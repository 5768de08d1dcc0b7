//! What one replica holds of an instance, and the steps that every change of it takes.
//!
//! Invariants:
//! * `accepted <= ballot`, and both only rise.
//! * An instance has one batch at most, ever: that of the owner's only proposal. Its value is that batch or a no-op.
//! * Every batch that becomes known is in the index of conflicts and in the graph before anything else is done with it.
//! * `deps` are what was last voted for; `initial_deps` are what the command leader had proposed.

use panch_wire::frame::Frame;
use panch_wire::ids::{Position, ReplicaId, ReplicaSet};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use super::footprint::Footprint;
use super::leader::window;
use super::message::{Message, Phase};
use super::record::{CommitRecord, Record};
use super::{Dependencies, Epaxos};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Persist, Value};

/// Batches that are known and not executed may take so many times what a proposer may have undecided: those that are far ahead of what is
/// committed here, and those that are not.
const FAR_SHARE: usize = 1;
const HELD_SHARE: usize = 2;
/// Memory that an executed instance takes besides its frame, in bytes.
const INSTANCE_SIZE: usize = 512;

/// One instance.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    /// The highest ballot joined.
    pub(super) ballot: Ballot,
    /// The ballot of the last acceptance. A variable of its own: a promise does not change what was accepted. [Sutra 2020, T-E1]
    pub(super) accepted: Ballot,
    /// The highest ballot heard of in a refusal.
    pub(super) refused: Ballot,
    pub(super) phase: Phase,
    /// What is accepted or committed is a no-op.
    pub(super) noop: bool,
    pub(super) frame: Option<Frame>,
    /// What the batch touches, once it has left memory; kept while validations may need it, see [`Epaxos::is_beyond`].
    pub(super) touched: Option<Box<Footprint>>,
    pub(super) stamp: u64,
    pub(super) deps: Dependencies,
    pub(super) initial_deps: Dependencies,
    /// The other half of the fast pair.
    pub(super) buddy: u8,
    /// `initial_deps` are what the command leader had proposed, not just nothing.
    pub(super) proposal_known: bool,
    /// How many agreeing votes another replica waits with to recover it.
    pub(super) agreeing_elsewhere: u8,
    /// The own log has the batch.
    pub(super) logged: bool,
    /// The own fast commit is written, but nobody may know of it yet.
    pub(super) unannounced: bool,
    pub(super) executed: bool,
    /// Who asked for the commit before there was one.
    pub(super) wanted: ReplicaSet,
    /// Since when it could have made progress and did not.
    pub(super) since: Instant,
}

impl Instance {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            ballot: Ballot::default(),
            accepted: Ballot::default(),
            refused: Ballot::default(),
            phase: Phase::Unknown,
            noop: false,
            frame: None,
            touched: None,
            stamp: 0,
            deps: Dependencies::default(),
            initial_deps: Dependencies::default(),
            buddy: 0,
            proposal_known: false,
            agreeing_elsewhere: 0,
            logged: false,
            unannounced: false,
            executed: false,
            wanted: ReplicaSet::default(),
            since: now,
        }
    }

    pub(super) fn is_committed(&self) -> bool {
        self.phase == Phase::Committed
    }

    /// What it counts for in the tail. A no-op stays until all have executed it: its owner may need to hear of it, to propose the batch again.
    pub(super) fn size(&self) -> usize {
        self.body().map_or(0, |frame| INSTANCE_SIZE + frame.footprint())
    }

    /// The batch, unless the value is a no-op.
    pub(super) fn body(&self) -> Option<&Frame> {
        self.frame.as_ref().filter(|_| !self.noop)
    }
}

impl Epaxos {
    /// The instance; it exists from now on.
    pub(super) fn instance(&mut self, position: Position) -> &mut Instance {
        let now = self.now;
        self.instances.entry(position).or_insert_with(|| Instance::new(now))
    }

    /// Whether the instance is executed here and its value is not known any more: nobody is told that it is unknown.
    pub(super) fn has_left_memory(&self, position: Position) -> bool {
        self.graph.executed().contains(position)
            && !self.instances.get(&position).is_some_and(Instance::is_committed)
    }

    /// Somebody knows of the instance.
    pub(super) fn announce(&mut self, position: Position) {
        let known = &mut self.announced[usize::from(position.row)];
        *known = position.number.max(*known);
    }

    /// Somebody knows of everything in `deps`.
    pub(super) fn announce_deps(&mut self, deps: &Dependencies) {
        for (known, number) in self.announced.iter_mut().zip(&deps.0).take(self.group.replica_count) {
            *known = (*known).max(*number);
        }
    }

    /// The instance is voted for, accepted or committed here.
    pub(super) fn note_vote(&mut self, position: Position) {
        self.announce(position);
        let voted = &mut self.voted[usize::from(position.row)];
        *voted = position.number.max(*voted);
    }

    /// Whether there is memory for a batch that another replica sent. Batches that are executed soon always find some: what is known
    /// too early must not take what is needed to execute it. A replica that lags else fills up with what it cannot use yet, and
    /// has no memory for what it lacks.
    pub(super) fn has_room(&self, position: Position, body: Option<&Frame>) -> bool {
        let size = self.held_size + body.map_or(0, Frame::footprint);
        let window = self.tuning.catchup_window as u64;
        let is_near = position.number <= self.committed.upto(position.row) + window;
        let share = if is_near { HELD_SHARE } else { FAR_SHARE };
        size <= share * self.tuning.unchosen_size_max
            || position.number <= self.soon(position.row)
            || self.instances.get(&position).is_some_and(|instance| instance.frame.is_some())
    }

    /// How many batches that a peer is asked for find room, if those of other rows are asked for, too.
    pub(super) fn fetch_room(&self) -> u64 {
        let size = (self.tail_size / self.tail.len().max(1)).max(INSTANCE_SIZE);
        let room = (HELD_SHARE * self.tuning.unchosen_size_max).saturating_sub(self.held_size);
        (room / size / self.group.replica_count) as u64
    }

    /// Numbers of the row up to here are executed soon: a command leader has no more open behind the first that is not executed. Or the
    /// first of some row waits for them: executed in the meantime, a row may have run on beyond one that stayed open.
    pub(super) fn soon(&self, row: u8) -> u64 {
        let open_max = window(self.group.replica_count, &self.tuning) as u64 + 1;
        let executed = self.graph.executed();
        let first = |row| Position { row, number: executed.upto(row) + 1 };
        let rows = 0..self.group.replica_count as u8;
        let wanted = rows.filter_map(|other| self.graph.unknown_for(first(other))).filter(|it| it.row == row);
        wanted.map(|it| it.number).fold(executed.upto(row) + open_max, u64::max)
    }

    /// What is executed changed otherwise than one by one.
    pub(super) fn measure_held(&mut self) {
        let held = self.instances.values().filter(|instance| !instance.executed);
        self.held_size = held.filter_map(|instance| instance.frame.as_ref()).map(Frame::footprint).sum();
    }

    /// The instance is accepted, or committed for all to know.
    pub(super) fn note_decided(&mut self, position: Position) {
        let decided = &mut self.decided[usize::from(position.row)];
        *decided = position.number.max(*decided);
    }

    /// The batch of an instance becomes known.
    pub(super) fn learn(&mut self, position: Position, stamp: u64, frame: &Frame) {
        self.announce(position);
        let instance = self.instance(position);
        // What is executed needs its batch no more: it may have left memory.
        if instance.frame.is_some() || instance.executed {
            return;
        }
        instance.frame = Some(frame.clone());
        instance.stamp = stamp;
        self.held_size += frame.footprint();
        let instance = self.instance(position);
        instance.phase = instance.phase.max(Phase::Seen);
        self.fill_footprint(frame);
        self.index(position, stamp);
        self.graph.on_known(position, &self.footprint);
    }

    /// The footprint to look at is that of this batch. It is made once while one batch is looked at again and again.
    pub(super) fn fill_footprint(&mut self, frame: &Frame) {
        let name = (frame.id(), frame.checksum());
        if self.footprint_of.replace(name) != Some(name) {
            self.footprint.fill(frame);
        }
    }

    /// Puts the batch whose footprint was filled in last into the index of conflicts. Quorums meet in this index, so it holds every batch
    /// this replica knows, after a restart too. [protocols 5.2, T-E16]
    fn index(&mut self, position: Position, stamp: u64) {
        if !self.replaying || holds(Rule::EpaxosIndexRebuilt) {
            self.conflicts.insert(position, stamp, &self.footprint);
        }
    }

    /// What a batch of this command leader depends on: everything in the index that interferes with the footprint filled in last. With
    /// four replicas and more, everything executed here too: acceptors then never know of more only because they have forgotten which
    /// of it interferes, and a validation finds nothing missing that everybody has executed. With three there is no need, and a
    /// replica that lags need not know all of that before it may execute the batch.
    pub(super) fn own_dependencies(&self) -> Dependencies {
        let mut deps = self.conflicts.dependencies(&self.footprint);
        deps.merge(&self.collected);
        if !self.has_fixed_pair() {
            for row in 0..self.group.replica_count as u8 {
                deps.raise(row, self.graph.executed().upto(row));
            }
        }
        deps
    }

    /// What an acceptor adds to the dependencies of the command leader, which alone knows its own row.
    pub(super) fn add_dependencies(&self, position: Position, initial: &Dependencies) -> Dependencies {
        let mut deps = self.conflicts.dependencies(&self.footprint);
        deps.merge(&self.collected);
        deps.merge(initial);
        deps.0[usize::from(position.row)] = initial.row(position.row);
        deps
    }

    /// This replica joins a ballot of the instance: it gives up what it does there in a lower one.
    pub(super) fn join(&mut self, position: Position, ballot: Ballot) {
        let instance = self.instance(position);
        assert!(instance.ballot <= ballot || !holds(Rule::EpaxosRefuseLowerBallot));
        instance.ballot = ballot;
        if self.coordinations.get(&position).is_some_and(|own| own.ballot < ballot) {
            self.coordinations.remove(&position);
        }
    }

    /// The value of the instance is chosen: it is written down with what the log lacks. The batch is known if it is not a no-op.
    pub(super) fn record_commit(
        &mut self,
        position: Position,
        stamp: u64,
        deps: Dependencies,
        noop: bool,
        effects: &mut Effects<Self>,
    ) -> crate::protocol::Persist {
        let instance = self.instance(position);
        let body = instance.frame.clone().filter(|_| !noop && !instance.logged);
        instance.logged |= body.is_some();
        let record = CommitRecord { position, stamp, deps, noop, body: body.is_some() };
        effects.persist(Record::Commit(record), body.as_ref())
    }

    /// The instance takes its chosen value.
    pub(super) fn settle(&mut self, position: Position, stamp: u64, deps: Dependencies, noop: bool) {
        self.note_vote(position);
        self.announce_deps(&deps);
        let instance = self.instance(position);
        assert!(noop || instance.frame.is_some(), "an instance is committed only with its batch");
        instance.phase = Phase::Committed;
        instance.noop = noop;
        instance.deps = deps;
        if !noop {
            instance.stamp = stamp;
        }
        self.committed.insert(position);
        self.coordinations.remove(&position);
        self.check_waiting |= !self.has_fixed_pair();
        self.finish_own(position, noop);
    }

    /// The chosen value may be executed.
    pub(super) fn release(&mut self, position: Position, effects: &mut Effects<Self>) {
        self.note_decided(position);
        let instance = self.instances.get_mut(&position).expect("it was just settled");
        instance.unannounced = false;
        let wanted = std::mem::take(&mut instance.wanted);
        let batch = instance.body().map(Frame::id);
        if let Some(own) = batch.filter(|id| id.is_of(self.group.me, self.incarnation)) {
            effects.commit(own);
        }
        if instance.noop {
            self.conflicts.dismiss(position);
            self.graph.on_committed_noop(position);
        } else {
            let (stamp, deps) = (instance.stamp, instance.deps);
            // The graph has known the footprint since the batch became known.
            self.graph.on_committed(position, stamp, &deps, &self.footprint);
        }
        if let Some((Message::Commit(commit), body, _)) = self.commit_message(position) {
            for to in wanted.iter() {
                effects.send_after(Persist::default(), Dest::One(to), commit, body.as_ref());
            }
        }
    }

    /// The graph says that it is the instance's turn.
    pub(super) fn execute(&mut self, position: Position, effects: &mut Effects<Self>) {
        let instance = self.instances.get_mut(&position).expect("the graph holds only what is in memory");
        instance.executed = true;
        self.held_size -= instance.frame.as_ref().map_or(0, Frame::footprint);
        let value = Value::from(instance.body().cloned());
        let stamp = if instance.noop { 0 } else { instance.stamp };
        self.tail.push_back(position);
        self.tail_size += instance.size();
        effects.execute(position, stamp, value);
    }

    /// The commit of an instance in memory, for a peer.
    pub(super) fn commit_message(&self, position: Position) -> Option<(Message, Option<Frame>, bool)> {
        let instance = self.instances.get(&position).filter(|instance| instance.is_committed())?;
        let commit = super::message::Commit {
            position,
            stamp: if instance.noop { 0 } else { instance.stamp },
            deps: instance.deps,
            noop: instance.noop,
        };
        Some((commit.into(), instance.body().cloned(), instance.unannounced))
    }

    pub(super) fn is_mine(&self, position: Position) -> bool {
        ReplicaId(position.row) == self.group.me
    }
}
