//! The command leader: proposes its replica's batches in its own row, in ballot 0.
//!
//! With three replicas and less, one vote besides its own commits: that of the buddy it has named, and no other. With four and more, a fast quorum
//! of votes that add no dependencies does. Otherwise the union of a classic quorum's dependencies goes through a second phase.
//!
//! Invariants:
//! * A number is used once, and only when a reservation that covers it is durable.
//! * A batch is in the queue, or in one instance that is not committed, or finished.
//! * An instance that has left the first phase is never committed in it. [T-E6]

use panch_wire::frame::Frame;
use panch_wire::ids::{Position, ReplicaId, ReplicaSet};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use super::coordination::{Coordination, Stage};
use super::message::{Phase, PreAccept, PreAcceptOk, Reserved, Seen};
use super::record::{PreAcceptRecord, Record, ReserveRecord};
use super::{Dependencies, Epaxos};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Tuning};

/// Of so many instances, one is with another buddy, or another thrifty quorum.
const SAMPLE_EVERY: u64 = 64;
/// Numbers reserved at once.
const RESERVE_COUNT: u64 = 64;

/// How many instances may be in flight or wait for execution before new batches are held back.
pub(super) fn window(replica_count: usize, tuning: &Tuning) -> usize {
    4 * tuning.pipeline_depth.max(1) * replica_count
}

/// The most instances in a strongly connected component. Before anyone executes a component, all its members are unexecuted at their own command
/// leaders, and none of these has more than its window open. [protocols 5.8, T-E15]
pub fn component_bound(replica_count: usize, tuning: &Tuning) -> usize {
    replica_count * (window(replica_count, tuning) + 1)
}

impl Epaxos {
    pub(super) fn on_propose(&mut self, frame: Frame) {
        let counter = frame.id().counter;
        let finished = self.finished.contains(Position { row: 0, number: counter });
        if finished || self.batches.contains(&counter) {
            // Another instance for it would apply it twice: the state machine does not look.
            return;
        }
        self.batches.insert(counter);
        self.queue.push_back(frame);
    }

    /// Whether so much waits for execution that new instances would only make it worse.
    fn is_held_back(&self) -> bool {
        if self.is_log_stalled() {
            return true;
        }
        if self.in_flight.len() + self.graph.waiting_count() >= window(self.group.replica_count, &self.tuning)
        {
            return true;
        }
        let oldest =
            Position { row: self.group.me.0, number: self.graph.executed().upto(self.group.me.0) + 1 };
        let waits = |number: u64| number < self.next && number > self.own_floor;
        self.instances.get(&oldest).is_some_and(|instance| {
            waits(oldest.number) && self.now.since(instance.since) >= self.tuning.recover_always_after
        })
    }

    /// Proposes what waits and may go.
    pub(super) fn pump(&mut self, effects: &mut Effects<Self>) {
        while !self.queue.is_empty() {
            if self.is_held_back() {
                if !std::mem::replace(&mut self.holding, true) {
                    self.counters.held_back += 1;
                }
                return;
            }
            self.holding = false;
            // Somebody may have asked about a number before it was used: it is left to the recovery.
            let is_used = |number: u64| {
                let position = Position { row: self.group.me.0, number };
                self.committed.contains(position) || self.instances.contains_key(&position)
            };
            self.next = (self.next..).find(|number| !is_used(*number)).expect("some number is unused");
            // A number whose reservation is lost in a crash would be used a second time. [T-E13]
            if self.next > self.reserved_durable && holds(Rule::EpaxosNumberNeverReused) {
                return;
            }
            let Some(frame) = self.queue.pop_front() else { return };
            self.propose(frame, effects);
        }
    }

    /// Reserves more numbers when few are left.
    pub(super) fn reserve(&mut self, effects: &mut Effects<Self>) {
        if self.next + RESERVE_COUNT / 2 > self.reserved {
            self.reserved = self.next + RESERVE_COUNT - 1;
            let point = effects.persist(self.restate_record(), None);
            effects.send_after(point, Dest::One(self.group.me), Reserved { upto: self.reserved }, None);
        }
    }

    pub(super) fn restate_record(&self) -> Record {
        Record::Reserve(ReserveRecord { upto: self.reserved, covered: self.covered.count() })
    }

    pub(super) fn on_reserved(&mut self, message: Reserved) {
        self.reserved_durable = self.reserved_durable.max(message.upto);
    }

    /// Lower for peers that are more likely to answer soon.
    fn fast_rank(&self, peer: ReplicaId) -> (bool, bool, bool) {
        let is_avoided = self.members[peer.index()].standing.is_avoided(self.now);
        (self.is_suspected(peer), is_avoided, self.is_behind(peer))
    }

    /// Whether the peer's vote is not to be waited for.
    fn is_unfit(&self, peer: ReplicaId) -> bool {
        let (is_suspected, is_avoided, _) = self.fast_rank(peer);
        is_suspected || is_avoided
    }

    /// Who is counted on beside `helpers`: somebody that answers, and the next one before others, so that what different leaders ask for spreads.
    /// Now and then it is another that is as likely to answer, to know how long that takes.
    fn next_helper(&self, helpers: ReplicaSet) -> Option<ReplicaId> {
        let count = self.group.replica_count;
        let is_sample = self.next.is_multiple_of(SAMPLE_EVERY);
        let distance = |peer: &ReplicaId| (peer.index() + count - self.group.me.index()) % count;
        let turn = |peer: &ReplicaId| if is_sample { count - distance(peer) } else { distance(peer) };
        let others = self.peers().filter(|peer| !helpers.contains(*peer));
        others.min_by_key(|peer| (self.fast_rank(*peer), turn(peer)))
    }

    /// Whether only some are asked at first: how soon these answer is how long a command takes.
    fn is_selective(&self) -> bool {
        self.has_fixed_pair() || self.tuning.thrifty
    }

    /// Whose answers are counted on: of a fixed pair the other half, of a thrifty quorum all others.
    fn helper_count(&self) -> usize {
        if self.tuning.thrifty && !self.has_fixed_pair() { self.fast_quorum - 1 } else { 1 }
    }

    /// A peer's vote for an own instance arrived, first asked for at `since`. Where not all are asked, one that is much slower than another is
    /// not for a while.
    fn judge_answer(&mut self, from: ReplicaId, since: Instant) {
        let took = self.now.since(since);
        if from == self.group.me || took >= self.tuning.slow_after {
            return;
        }
        let now = self.now;
        self.members[from.index()].standing.on_answer(now, took);
        if !self.is_selective() {
            return;
        }
        let (standing, least) = (self.members[from.index()].standing, self.tuning.slow_after / 50);
        let others = self.peers().filter(|peer| *peer != from && !self.is_suspected(*peer));
        let latencies = others.filter_map(|peer| self.members[peer.index()].standing.latency());
        // As many as are asked have to answer: it is too slow if so many are much quicker that they could be asked without it.
        if latencies.filter(|other| standing.is_slower(*other, least)).count() >= self.helper_count() {
            self.members[from.index()].standing.fail(now, self.tuning.recover_always_after);
        }
    }

    /// Whether the own log has been silent for long although it owes a vote: what is proposed now would only be in others' way.
    fn is_log_stalled(&self) -> bool {
        self.log_owes.is_some_and(|(since, _)| self.now.since(since) >= 2 * self.tuning.slow_after)
    }

    fn propose(&mut self, frame: Frame, effects: &mut Effects<Self>) {
        let position = Position { row: self.group.me.0, number: self.next };
        self.next += 1;
        self.reserve(effects);
        self.fill_footprint(&frame);
        let (deps, stamp) = (self.own_dependencies(), self.conflicts.next_stamp());
        self.learn(position, stamp, &frame);
        self.note_vote(position);
        self.in_flight.insert(position.number, frame.id().counter);
        let is_small = self.has_fixed_pair();
        let mut helpers = ReplicaSet::default();
        let buddy = self.next_helper(helpers).unwrap_or(self.group.me);
        for _ in 0..self.helper_count() {
            let Some(helper) = self.next_helper(helpers) else { break };
            helpers.insert(helper);
        }
        for helper in helpers.iter() {
            self.members[helper.index()].standing.ask(self.now, 2 * self.tuning.slow_after);
        }
        let record = PreAcceptRecord { position, stamp, deps, initial_deps: deps, buddy: buddy.0 };
        let instance = self.instance(position);
        assert!(
            instance.ballot == Ballot::default() && instance.phase == Phase::Seen,
            "a number is used once"
        );
        instance.phase = Phase::PreAccepted;
        instance.deps = deps;
        instance.initial_deps = deps;
        instance.proposal_known = true;
        instance.buddy = buddy.0;
        instance.logged = true;
        let point = effects.persist(Record::PreAccept(record), Some(&frame));
        let message = PreAccept { position, stamp, deps, buddy: buddy.0 };
        let mut told = ReplicaSet::default();
        told.insert(self.group.me);
        if is_small {
            for peer in self.peers() {
                if peer == buddy || !holds(Rule::EpaxosFixedPair) {
                    effects.send(Dest::One(peer), message, Some(&frame));
                    told.insert(peer);
                } else if !self.tuning.thrifty {
                    effects.send(Dest::One(peer), Seen { position, stamp, buddy: buddy.0 }, Some(&frame));
                    told.insert(peer);
                }
            }
        } else if self.tuning.thrifty {
            for peer in helpers.iter() {
                effects.send(Dest::One(peer), message, Some(&frame));
                told.insert(peer);
            }
        } else {
            effects.send(Dest::Others, message, Some(&frame));
            told = ReplicaSet::first(self.group.replica_count);
        }
        let since = self.log_owes.map_or(self.now, |(since, _)| since);
        self.log_owes = Some((since, position.number));
        // The own vote takes the same way as everybody's. [D10]
        effects.send_after(point, Dest::One(self.group.me), PreAcceptOk { position, deps }, None);
        let stage =
            Stage::PreAccept { union: deps, equal: ReplicaSet::default(), buddy_deps: None, slow: false };
        self.coordinate(position, Coordination { told, ..Coordination::new(Ballot::default(), stage) });
    }

    pub(super) fn on_pre_accept_ok(
        &mut self,
        from: ReplicaId,
        message: PreAcceptOk,
        effects: &mut Effects<Self>,
    ) {
        let position = message.position;
        let (me, is_small) = (self.group.me, self.has_fixed_pair());
        if from == me {
            // The log is as far as this: what it owes beyond, it owes from now on.
            let is_owed = |(_, last): &(Instant, u64)| position.number < *last;
            self.log_owes = self.log_owes.filter(is_owed).map(|(_, last)| (self.now, last));
        }
        let Some(instance) = self.instances.get(&position) else { return };
        let since = instance.since;
        if self.coordinations.get(&position).is_some_and(|own| own.ballot == Ballot::default()) {
            self.judge_answer(from, since);
        }
        let Some(instance) = self.instances.get(&position) else { return };
        let Some(own) = self.coordinations.get_mut(&position) else { return };
        // A second value could be committed if the first phase went on once the second has begun. [EPaxos-3 5.5, T-E6]
        if own.is_accepting() && holds(Rule::EpaxosNoFastCommitAfterSlow) {
            return;
        }
        let (initial, buddy) = (instance.initial_deps, ReplicaId(instance.buddy));
        if own.ballot != Ballot::default() || instance.ballot != Ballot::default() || instance.is_committed()
        {
            return;
        }
        let Stage::PreAccept { union, equal, buddy_deps, slow } = &mut own.stage else {
            // Reached without its rule only.
            if is_small && from == buddy && own.ballot == Ballot::default() {
                self.commit_fast(position, message.deps, effects);
            }
            return;
        };
        if from != me && !own.replies.contains(from) {
            // An acceptor may name what it has forgotten because everybody has executed it.
            let executed = self.graph.executed();
            let rows = 0..self.group.replica_count as u8;
            let is_conflict = |row| message.deps.row(row) > initial.row(row).max(executed.upto(row));
            self.counters.conflicts += u64::from(rows.into_iter().any(is_conflict));
        }
        own.replies.insert(from);
        union.merge(&message.deps);
        if message.deps == initial {
            equal.insert(from);
        }
        if is_small {
            // Only the buddy's dependencies can be found again by a recovery: it cannot tell which of two votes a commit was made of.
            // [protocols 5.5, T-E3]
            if from == buddy || (from != me && !holds(Rule::EpaxosFixedPair)) {
                *buddy_deps = Some(message.deps);
            }
            let durable = own.replies.contains(me);
            let third = own.replies.iter().any(|id| id != me && id != buddy);
            if let Some(deps) = buddy_deps
                .filter(|_| durable)
                .or((durable && self.group.replica_count == 1).then_some(initial))
            {
                self.commit_fast(position, deps, effects);
            } else if durable && *slow && third {
                let deps = *union;
                self.accept_slowly(position, deps, effects);
            }
            return;
        }
        self.consider_quorum(position, false, effects);
    }

    /// Four replicas and more: commits, goes on to the second phase, or waits. [EPaxos* 5.6]
    pub(super) fn consider_quorum(&mut self, position: Position, expired: bool, effects: &mut Effects<Self>) {
        let Some(initial) = self.instances.get(&position).map(|instance| instance.initial_deps) else {
            return;
        };
        let Some(own) = self.coordinations.get(&position) else { return };
        let Stage::PreAccept { union, equal, .. } = own.stage else { return };
        let enough = if holds(Rule::EpaxosFastQuorumSize) { self.fast_quorum } else { self.quorum() };
        // Thrift asks no more than a fast quorum until that is too slow.
        let is_awaited = |peer: &ReplicaId| !own.replies.contains(*peer) && !self.is_unfit(*peer);
        let missing = own.told.iter().filter(is_awaited).count();
        if own.replies.contains(self.group.me) && equal.count() >= enough {
            self.commit_fast(position, initial, effects);
        } else if own.replies.count() >= self.quorum() && (expired || equal.count() + missing < enough) {
            self.accept_slowly(position, union, effects);
        }
    }

    /// The votes suffice: the commit is written down, and nobody hears of it before that is durable, this replica's own execution included.
    /// [protocols 5.7, P-E1, T-E2]
    fn commit_fast(&mut self, position: Position, deps: Dependencies, effects: &mut Effects<Self>) {
        let Some(own) = self.coordinations.remove(&position) else { return };
        let instance = self.instance(position);
        let stamp = instance.stamp;
        instance.unannounced = true;
        let point = self.record_commit(position, stamp, deps, false, effects);
        self.settle(position, stamp, deps, false);
        self.counters.fast_commits += 1;
        self.send_commit(position, point, own.told, effects);
    }

    fn accept_slowly(&mut self, position: Position, deps: Dependencies, effects: &mut Effects<Self>) {
        let stamp = self.instance(position).stamp;
        self.start_accept(position, stamp, deps, false, effects);
    }

    /// An instance of the own row is decided: its batch is finished, or needs another instance.
    pub(super) fn finish_own(&mut self, position: Position, noop: bool) {
        if !self.is_mine(position) {
            return;
        }
        let Some(frame) = self.instances.get(&position).and_then(|instance| instance.frame.clone()) else {
            return;
        };
        let id = frame.id();
        if id.incarnation != self.incarnation || !self.batches.contains(&id.counter) {
            return;
        }
        self.in_flight.remove(&position.number);
        if noop {
            self.counters.resubmitted += 1;
            self.queue.push_back(frame);
        } else {
            self.batches.remove(&id.counter);
            self.finished.insert(Position { row: 0, number: id.counter });
        }
    }

    /// The fast path took too long. Three replicas: the third is asked for its vote too.
    pub(super) fn on_pre_accept_timeout(&mut self, position: Position, effects: &mut Effects<Self>) {
        self.note_silent(position);
        if !self.has_fixed_pair() {
            self.consider_quorum(position, true, effects);
        }
        let Some(instance) = self.instances.get(&position) else { return };
        let Some(own) = self.coordinations.get_mut(&position) else { return };
        let Stage::PreAccept { slow, .. } = &mut own.stage else { return };
        *slow = true;
        let message =
            PreAccept { position, stamp: instance.stamp, deps: instance.initial_deps, buddy: instance.buddy };
        let replies = own.replies;
        let frame = instance.frame.clone();
        own.told = ReplicaSet::first(self.group.replica_count);
        for peer in self.peers().filter(|peer| !replies.contains(*peer)) {
            effects.send(Dest::One(peer), message, frame.as_ref());
        }
    }

    /// The next batches do not count on those that were asked about this one and have not answered.
    fn note_silent(&mut self, position: Position) {
        let (Some(instance), Some(own)) = (self.instances.get(&position), self.coordinations.get(&position))
        else {
            return;
        };
        let (since, told, replies) = (instance.since, own.told, own.replies);
        let buddy = self.has_fixed_pair().then_some(ReplicaId(instance.buddy));
        let is_awaited = |peer: &ReplicaId| {
            told.contains(*peer) && !replies.contains(*peer) && buddy.is_none_or(|buddy| buddy == *peer)
        };
        let (now, least) = (self.now, self.tuning.recover_always_after);
        for peer in self.peers().filter(is_awaited) {
            let standing = &mut self.members[peer.index()].standing;
            if since >= standing.failed_at() {
                standing.fail(now, least);
            }
        }
    }

    /// How long a silent fast quorum is waited for.
    pub(super) fn retry_after(&self, attempts: u32) -> Duration {
        self.tuning.slow_after * (1 << attempts.min(4))
    }
}
