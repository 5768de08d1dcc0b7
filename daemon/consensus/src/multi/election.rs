//! Becoming leader: pre-vote, then phase 1 over all open slots (Multi-Paxos: leader change).
//!
//! Invariants:
//! * A pre-vote changes nothing durable and never deposes anybody: a replica that cannot win does not disturb (T-M12).
//! * A promise counts once all its entries have arrived, and per replica (PM4).
//! * Every slot that may hold a chosen value is proposed again with the value of the highest ballot reported for it
//!   [Paxos Made Simple §2.2, P2c]; only a slot that no promise reports anything for gets a no-op (PM5).

use panch_wire::frame::Frame;
use panch_wire::ids::{REPLICAS_MAX, ReplicaId, ReplicaSet, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use super::message::{
    PreVote, PreVoteReply, Prepare, Promise, PromiseEntry, PromiseRecord, Record, Refused, Release,
    TransferLeader,
};
use super::{Multi, Role, Timer};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Value};

/// The most entries that a promise may report; a candidate further behind must not lead.
pub(super) const REPORT_COUNT_MAX: u64 = 1 << 16;

/// What promises say about one slot.
#[derive(Clone, Default, Debug)]
struct Report {
    /// Who reported an entry.
    from: ReplicaSet,
    /// The entry of the highest ballot.
    best: Option<(Ballot, Value)>,
}

/// What an attempt to become leader has gathered.
#[derive(Clone, Default, Debug)]
pub(super) struct Candidacy {
    ballot: Ballot,
    from_slot: Slot,
    /// Pre-votes.
    grants: ReplicaSet,
    /// Whether the own promise of `ballot` is durable.
    durable: bool,
    /// What the leader that asked this replica to take over has given up.
    released: Release,
    /// Whether the attempt was given more time because a lease had to end first.
    prolonged: bool,
    /// Who refused because they no longer have what this replica lacks.
    behind: ReplicaSet,
    promises: [Option<Promise>; REPLICAS_MAX],
    received: [u64; REPLICAS_MAX],
    /// Whose promises are complete.
    complete: ReplicaSet,
    /// By slot, from `from_slot` on.
    reports: Vec<Report>,
}

impl Candidacy {
    fn open(&mut self, ballot: Ballot, from_slot: Slot) {
        self.clear();
        self.ballot = ballot;
        self.from_slot = from_slot;
    }

    /// Lets go of the values.
    pub(super) fn clear(&mut self) {
        self.grants = ReplicaSet::default();
        self.durable = false;
        self.released = Release::default();
        self.prolonged = false;
        self.behind = ReplicaSet::default();
        self.promises = Default::default();
        self.received = Default::default();
        self.complete = ReplicaSet::default();
        self.reports.clear();
    }

    /// The last slot that any promise reported.
    pub(super) fn reported(&self) -> Slot {
        Slot((self.from_slot.0 + self.reports.len() as u64).saturating_sub(1))
    }

    /// What `replica` promised counts no more, complete or not.
    pub(super) fn forget(&mut self, replica: ReplicaId) {
        self.promises[replica.index()] = None;
        self.received[replica.index()] = 0;
        self.complete.remove(replica);
        self.reports.iter_mut().for_each(|report| report.from.remove(replica));
    }

    /// What `replica` knew to be chosen when it promised.
    pub(super) fn commit_of(&self, replica: ReplicaId) -> Option<Slot> {
        self.promises[replica.index()].map(|promise| promise.commit)
    }
}

impl Multi {
    pub(super) fn on_election_timeout(&mut self, effects: &mut Effects<Self>) {
        let wait = self.own_lease_wait();
        if self.role == Role::Follower && !wait.is_zero() {
            // Nobody can win now, this replica's own promise included.
            self.arm_election_after(wait);
            return;
        }
        if self.role == Role::Candidate && !self.candidacy.durable {
            self.stalled = true;
        }
        self.become_follower(effects);
        if self.is_fit() {
            self.start_pre_vote(effects);
        }
    }

    /// Whether this replica may come to lead.
    fn is_fit(&self) -> bool {
        !self.stalled && !self.disqualified && !self.fitness.log.is_hung(self.now, &self.tuning)
    }

    fn start_pre_vote(&mut self, effects: &mut Effects<Self>) {
        if self.group.replica_count == 1 {
            self.stand(Release::default(), effects);
            return;
        }
        let ballot = self.next_ballot();
        self.role = Role::PreCandidate;
        self.candidacy.open(ballot, self.commit.next());
        self.candidacy.grants.insert(self.me());
        let pre_vote = PreVote { ballot, commit: self.commit };
        effects.send(Dest::Others, pre_vote, None);
    }

    pub(super) fn on_pre_vote(&mut self, from: ReplicaId, message: PreVote, effects: &mut Effects<Self>) {
        if from == self.me() {
            return;
        }
        let led = match self.role {
            Role::Leader => self.has_quorum_contact(),
            // A leader that asks for votes has lost its office, most likely in a restart.
            _ if self.leader == Some(from) => false,
            _ => self.heard.is_some_and(|heard| self.now.since(heard) < self.tuning.election_timeout),
        };
        let reaches = message.commit.next() >= self.window.first();
        let seen = self.promised.max(self.seen);
        let lease_wait = self.lease_wait(from, Release::default());
        let granted = !led && reaches && lease_wait.is_zero();
        self.counters.lease_refusals += u64::from(!led && reaches && !granted);
        let wait = if led || !reaches { 0 } else { lease_wait.as_nanos() as u64 };
        let reply = PreVoteReply { ballot: message.ballot, seen, granted, wait };
        effects.send(Dest::One(from), reply, None);
        if !led && !reaches {
            // It may be the only one that reaches a quorum, and then nobody else can lead before it has what it lacks.
            effects.send_snapshot(from, message.commit.next());
        }
    }

    pub(super) fn on_pre_vote_reply(
        &mut self,
        from: ReplicaId,
        message: PreVoteReply,
        effects: &mut Effects<Self>,
    ) {
        self.seen = self.seen.max(message.seen);
        if self.role != Role::PreCandidate || message.ballot != self.candidacy.ballot {
            return;
        }
        if !message.granted {
            if message.wait > 0 {
                self.arm_election_after(Duration::from_nanos(message.wait));
            }
            return;
        }
        self.candidacy.grants.insert(from);
        if self.candidacy.grants.count() >= self.quorum() {
            self.stand(Release::default(), effects);
        }
    }

    pub(super) fn on_transfer_leader(
        &mut self,
        from: ReplicaId,
        message: TransferLeader,
        effects: &mut Effects<Self>,
    ) {
        let released = message.released;
        let following = self.role == Role::Follower && self.leader == Some(from);
        let free = self.lease_wait(self.me(), released).is_zero();
        if following && released.ballot == self.promised && free && self.is_fit() {
            self.fitness.on_asked(self.now, &self.tuning);
            self.stand(released, effects);
        }
    }

    /// The next attempt comes a little after `wait`, which a lease has left, instead of a whole timeout later.
    fn arm_election_after(&mut self, wait: Duration) {
        let timeout = self.tuning.election_timeout;
        let wait = self.random_wait(wait.min(timeout), timeout / 8);
        self.timers.arm(Timer::Election, self.now + wait);
    }

    fn next_ballot(&self) -> Ballot {
        // Without the rule the round is whatever this replica's own log says, durable or not.
        let known = if holds(Rule::BallotNeverReused) { self.promised.max(self.seen) } else { self.promised };
        Ballot::above(known, self.me())
    }

    /// Opens a ballot of one's own above everything heard of, and asks for promises.
    pub(super) fn stand(&mut self, released: Release, effects: &mut Effects<Self>) {
        self.become_follower(effects);
        let ballot = self.next_ballot();
        self.counters.elections += 1;
        self.promise(ballot);
        self.role = Role::Candidate;
        self.candidacy.open(ballot, self.commit.next());
        self.candidacy.released = released;
        self.recorded = ballot;
        // No ballot is used before it is written down: an unrecorded one would be used again after a restart. [D4]
        let recorded = effects.persist(Record::Promise(PromiseRecord { ballot, commit: self.commit }), None);
        effects.send_after(recorded, Dest::All, self.prepare(), None);
    }

    fn prepare(&self) -> Prepare {
        let Candidacy { ballot, from_slot, released, .. } = self.candidacy;
        Prepare { ballot, from_slot, released }
    }

    /// An acceptor asked this candidate to wait for the end of a lease. The attempt goes on, a little longer if need be.
    fn wait_for_lease(&mut self, wait: Duration) {
        let timeout = self.tuning.election_timeout;
        if !self.candidacy.prolonged {
            self.candidacy.prolonged = true;
            self.arm_election();
        }
        let wait = self.random_wait(wait.min(timeout), timeout / 16);
        self.timers.arm(Timer::LeaseEnd, self.now + wait);
    }

    /// The leases that kept acceptors from promising should be over: they are asked again.
    pub(super) fn on_lease_end(&mut self, effects: &mut Effects<Self>) {
        if self.role != Role::Candidate || !self.candidacy.durable {
            return;
        }
        let missing = self.peers().filter(|peer| !self.candidacy.complete.contains(*peer));
        for peer in missing.collect::<Vec<_>>() {
            // The promise was recorded before the first Prepare.
            effects.send_after(effects.last_persist(), Dest::One(peer), self.prepare(), None);
        }
    }

    fn is_candidate_in(&self, ballot: Ballot) -> bool {
        self.role == Role::Candidate && ballot == self.candidacy.ballot
    }

    pub(super) fn own_promise_is_durable(&mut self, ballot: Ballot) {
        if self.is_candidate_in(ballot) {
            self.candidacy.durable = true;
        }
    }

    pub(super) fn on_refused(&mut self, from: ReplicaId, message: Refused, effects: &mut Effects<Self>) {
        self.seen = self.seen.max(message.promised);
        if message.ballot != self.promised {
            return;
        }
        match self.role {
            Role::Candidate if message.promised > message.ballot => self.become_follower(effects),
            Role::Candidate if message.wait > 0 => self.wait_for_lease(Duration::from_nanos(message.wait)),
            Role::Candidate if message.behind => {
                self.candidacy.behind.insert(from);
                if self.group.replica_count - self.candidacy.behind.count() < self.quorum() {
                    self.become_follower(effects);
                }
            }
            Role::Leader if message.promised > message.ballot => self.become_follower(effects),
            _ => {}
        }
    }

    pub(super) fn on_promise(&mut self, from: ReplicaId, message: Promise, effects: &mut Effects<Self>) {
        if !self.is_candidate_in(message.ballot)
            || message.from_slot != self.candidacy.from_slot
            || message.entry_count > REPORT_COUNT_MAX
        {
            return;
        }
        self.candidacy.promises[from.index()] = Some(message);
        self.count_promise(from, effects);
    }

    pub(super) fn on_promise_entry(
        &mut self,
        from: ReplicaId,
        message: PromiseEntry,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let from_slot = self.candidacy.from_slot;
        if !self.is_candidate_in(message.ballot)
            || message.slot < from_slot
            || message.slot.0 - from_slot.0 >= REPORT_COUNT_MAX
        {
            return;
        }
        let index = (message.slot.0 - from_slot.0) as usize;
        let reports = &mut self.candidacy.reports;
        if reports.len() <= index {
            reports.resize_with(index + 1, Report::default);
        }
        let report = &mut reports[index];
        if !report.from.insert(from) {
            return;
        }
        let higher = report.best.as_ref().is_none_or(|(ballot, _)| message.accepted > *ballot);
        if higher || !holds(Rule::AdoptHighestBallot) {
            report.best = Some((message.accepted, Value::from(body)));
        }
        self.candidacy.received[from.index()] += 1;
        self.count_promise(from, effects);
    }

    fn count_promise(&mut self, from: ReplicaId, effects: &mut Effects<Self>) {
        let candidacy = &mut self.candidacy;
        let Some(promise) = &candidacy.promises[from.index()] else { return };
        let all_arrived = candidacy.received[from.index()] >= promise.entry_count;
        if all_arrived || !holds(Rule::PromiseComplete) {
            candidacy.complete.insert(from);
        }
        if candidacy.complete.count() >= self.quorum() {
            self.win(effects);
        }
    }

    /// A quorum promised: the values that may be chosen are known, and go first.
    fn win(&mut self, effects: &mut Effects<Self>) {
        let candidacy = &self.candidacy;
        let promises = candidacy.complete.iter().filter_map(|replica| candidacy.commit_of(replica));
        let known = promises.max().unwrap_or_default();
        let reports = &candidacy.reports;
        let quorum = self.quorum();
        let is_free = |report: &Report| {
            report.best.is_none() || !holds(Rule::NoopOnlyIfFree) && report.from.count() < quorum
        };
        // What a promise calls chosen it also reports, so an honest quorum leaves no chosen slot open. [PM5]
        let known_count = (known.0 + 1).saturating_sub(candidacy.from_slot.0) as usize;
        let covered =
            reports.len() >= known_count && reports[..known_count].iter().all(|report| report.best.is_some());
        if !covered && holds(Rule::PromiseComplete) {
            self.become_follower(effects);
            return;
        }
        self.begin_term();
        let mut reports = std::mem::take(&mut self.candidacy.reports);
        // What only unfinished promises report beyond that is not chosen: a quorum has nothing there.
        let complete = self.candidacy.complete;
        let counts = |report: &Report| report.from.iter().any(|replica| complete.contains(replica));
        reports.truncate(reports.iter().rposition(counts).map_or(0, |last| last + 1));
        let from_slot = self.candidacy.from_slot;
        for (index, report) in reports.iter_mut().enumerate() {
            let slot = Slot(from_slot.0 + index as u64);
            let value = if is_free(report) { None } else { report.best.take() };
            match &value {
                Some(_) => self.counters.adopted += 1,
                None => self.counters.noops += 1,
            }
            self.append(slot, value.map_or(Value::Noop, |(_, value)| value), effects);
        }
        reports.clear();
        self.candidacy.reports = reports;
        self.open_term(effects);
        self.candidacy.clear();
    }

    /// Gives up every role and whatever it has gathered; nobody is followed yet.
    pub(super) fn become_follower(&mut self, effects: &mut Effects<Self>) {
        if self.role == Role::Leader {
            self.timers.disarm(Timer::Heartbeat);
            self.heard = None;
            self.drop_own_grant();
        }
        self.timers.disarm(Timer::LeaseEnd);
        self.fail_reads(effects);
        self.role = Role::Follower;
        self.leader = None;
        self.due = Default::default();
        self.candidacy.clear();
        self.arm_election();
    }

    pub(super) fn on_suspect(&mut self, peer: ReplicaId, effects: &mut Effects<Self>) {
        if self.role == Role::Leader {
            self.term.peers[peer.index()].paused = true;
        } else if self.leader == Some(peer) && peer != self.me() {
            // A lost connection is most often a dead leader: ask the others soon whether they hear it.
            self.become_follower(effects);
            self.heard = None;
            let timeout = self.tuning.election_timeout;
            let wait = self.random_wait(timeout / 8, timeout / 2);
            let at: Instant = self.now + wait;
            self.timers.arm(Timer::Election, at);
        }
    }
}
