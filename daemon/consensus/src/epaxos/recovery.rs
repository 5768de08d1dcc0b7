//! Recovery: finds out what may have been committed in an instance whose command leader does not finish it, and finishes it.
//!
//! Every replica looks through what it has heard of and does not know to be committed, in the order of numbers. What a peer may have committed
//! is asked for first. An instance that makes no progress is recovered once its command leader is suspected; after a longer time whoever is. The
//! replicas take turns, so that they do not outbid each other.
//!
//! Invariants:
//! * A ballot above 0 is joined durably by its owner before anybody hears of it, and never used again.
//! * The decision is made once per ballot, from one answer of each replica of a classic quorum, this replica included.

use panch_wire::frame::Frame;
use panch_wire::ids::{Position, ReplicaId, ReplicaSet};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use super::coordination::{Coordination, Recovery, Stage};
use super::message::{Nack, Phase, Recover, RecoverOk};
use super::record::{PromiseRecord, Record};
use super::{Dependencies, Epaxos};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects};

/// How far beyond the first unsettled number of a row is looked.
const SCAN_COUNT: u64 = 256;
/// The most recoveries under way at once.
const RECOVERY_COUNT_MAX: usize = 64;
/// Each failed ballot adds to the patience of the next, up to so many.
const ROUNDS_COUNTED: u64 = 6;
/// Attempts to reach the same quorum before another ballot tries another one.
const ATTEMPTS_MAX: u32 = 6;

/// How what is fetched of a row gets on.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct FetchWait {
    /// Everything up to here was committed, and so many of what is fetched were not, when that was last looked at.
    settled: u64,
    missing: u64,
    /// When something of it was last seen to have come, or it was asked for.
    since: Instant,
    /// How long it may stand still before it is asked for again.
    patience: Duration,
}

impl FetchWait {
    /// What was asked for was answered, but not with a commit.
    pub(super) fn on_answer(&mut self) {
        self.patience = Duration::ZERO;
    }
}

impl Epaxos {
    /// Whether what is missing of a row from `from` on is to be asked for: it is not yet, or nothing has come of it for a while. What is on its
    /// way over a narrow link must not be asked for again and again, or nothing else gets through.
    fn is_fetch_due(&mut self, row: u8, from: u64, missing: u64) -> bool {
        let slowest = self.peers().filter_map(|peer| self.members[peer.index()].standing.latency()).max();
        let least = 2 * self.tuning.heartbeat_interval.max(slowest.unwrap_or_default());
        let most = 2 * least;
        let settled = self.committed.upto(row);
        let is_fetched = self.fetching[usize::from(row)].is_some_and(|upto| upto >= from);
        let wait = &mut self.fetch_waits[usize::from(row)];
        let has_come = settled > wait.settled || missing < wait.missing;
        (wait.settled, wait.missing) = (settled, missing);
        let is_due = if !is_fetched || !holds(Rule::EpaxosFetchOnce) {
            wait.patience = least;
            true
        } else if has_come {
            wait.patience = least;
            wait.since = self.now;
            false
        } else if self.now.since(wait.since) >= wait.patience {
            wait.patience = (2 * wait.patience).clamp(least, most);
            true
        } else {
            false
        };
        if is_due {
            wait.since = self.now;
        }
        is_due
    }

    /// Looks for instances that make no progress.
    pub(super) fn scan(&mut self, effects: &mut Effects<Self>) {
        for row in 0..self.group.replica_count as u8 {
            let settled = self.committed.upto(row);
            let end = self.announced[usize::from(row)].min(settled + SCAN_COUNT);
            let fetched = self.fetching[usize::from(row)].unwrap_or(0);
            let mut missing: Option<(u64, u64)> = None;
            let mut missing_count = 0;
            for number in settled + 1..=end {
                let position = Position { row, number };
                if self.committed.contains(position) {
                    continue;
                }
                missing_count += u64::from(number <= fetched);
                let since = self.instance(position).since;
                if self.now.since(since) >= self.tuning.heartbeat_interval * 2 {
                    missing = Some((missing.map_or(number, |(from, _)| from), number));
                }
                if self.mute
                    || self.coordinations.contains_key(&position)
                    || !self.is_overdue(position, since)
                {
                    continue;
                }
                let is_old = self.is_mine(position) && number <= self.own_floor;
                if is_old && !holds(Rule::EpaxosOwnerNeverResumes) {
                    self.lead_again(position, effects);
                } else {
                    self.start_recover(position, effects);
                }
            }
            if let Some((from, upto)) = missing
                && self.is_fetch_due(row, from, missing_count)
            {
                self.fetch(row, from, upto, effects);
            }
        }
    }

    fn is_overdue(&self, position: Position, since: Instant) -> bool {
        let is_refused = self.instances.get(&position).is_some_and(|it| it.refused > Ballot::default());
        if self.is_mine(position) && position.number <= self.own_floor && !is_refused {
            // From before the restart: nobody else will finish it, and ballot 0 is not resumed. [D6]
            return true;
        }
        let owner = ReplicaId(position.row);
        let count = self.group.replica_count;
        let instance = self.instances.get(&position);
        let round = instance.map_or(0, |instance| instance.ballot.max(instance.refused).round);
        // Whoever has failed is the last the next time, and everybody gets more time: a recovery may be slow.
        let rank = (self.group.me.index() + count - owner.index() + (round % count as u64) as usize) % count;
        let stagger = self.tuning.recover_after / 2 * (rank as u32 + round.min(ROUNDS_COUNTED) as u32);
        let waited = self.now.since(since);
        let limit = if self.is_mine(position) || self.is_suspected(owner) {
            self.tuning.recover_after
        } else {
            self.tuning.recover_always_after
        };
        waited >= limit + stagger
    }

    /// Begins the first phase over, in ballot 0.
    fn lead_again(&mut self, position: Position, effects: &mut Effects<Self>) {
        let union = self.instance(position).initial_deps;
        let mut replies = ReplicaSet::default();
        replies.insert(self.group.me);
        let stage = Stage::PreAccept { union, equal: replies, buddy_deps: None, slow: false };
        self.coordinate(position, Coordination { replies, ..Coordination::new(Ballot::default(), stage) });
        self.on_pre_accept_timeout(position, effects);
    }

    /// Asks everybody about an instance, in a ballot of its own.
    pub(super) fn start_recover(&mut self, position: Position, effects: &mut Effects<Self>) {
        let under_way =
            self.coordinations.values().filter(|own| own.ballot.round > 0 && !own.is_waiting()).count();
        if self.committed.contains(position) || under_way >= RECOVERY_COUNT_MAX {
            return;
        }
        self.announce(position);
        let me = self.group.me;
        let instance = self.instance(position);
        let ballot = Ballot::above(instance.ballot.max(instance.refused), me);
        self.counters.recovery_starts += 1;
        self.join(position, ballot);
        let point = effects.persist(Record::Promise(PromiseRecord { position, ballot }), None);
        effects.send_after(point, Dest::All, Recover { position, ballot }, None);
        self.coordinate(position, Coordination::new(ballot, Stage::Recover(Box::default())));
    }

    pub(super) fn on_recover(&mut self, from: ReplicaId, message: Recover, effects: &mut Effects<Self>) {
        let Recover { position, ballot } = message;
        self.announce(position);
        if self.answer_committed(from, position, effects) {
            return;
        }
        if self.is_below_floor(position) {
            return;
        }
        let joined = self.instance(position).ballot;
        if ballot < joined && holds(Rule::EpaxosRefuseLowerBallot) {
            self.refuse(from, position, joined, effects);
            return;
        }
        let point = if ballot > joined {
            self.join(position, ballot);
            // Somebody is at work: this replica takes its turn after that.
            let now = self.now;
            self.instance(position).since = now;
            effects.persist(Record::Promise(PromiseRecord { position, ballot }), None)
        } else {
            effects.last_persist()
        };
        let instance = self.instance(position);
        // The ballot of the last acceptance, whatever was promised since. [Sutra 2020, T-E1]
        let accepted = if holds(Rule::EpaxosTwoBallots) { instance.accepted } else { joined };
        let report = RecoverOk {
            position,
            ballot,
            accepted,
            phase: instance.phase,
            noop: instance.noop,
            buddy: instance.buddy,
            stamp: instance.stamp,
            deps: instance.deps,
            initial_deps: instance.initial_deps,
        };
        let body = instance.frame.clone();
        effects.send_after(point, Dest::One(from), report, body.as_ref());
    }

    pub(super) fn on_nack(&mut self, message: Nack) {
        let Nack { position, ballot } = message;
        if self.committed.contains(position) {
            return;
        }
        let now = self.now;
        let instance = self.instance(position);
        instance.refused = instance.refused.max(ballot);
        if self.coordinations.get(&position).is_some_and(|own| own.ballot < ballot) {
            self.coordinations.remove(&position);
            // Somebody else is at work: its turn lasts as long as that of a command leader.
            self.instance(position).since = now;
        }
    }

    pub(super) fn on_recover_ok(
        &mut self,
        from: ReplicaId,
        message: RecoverOk,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let position = message.position;
        if self.committed.contains(position) {
            return;
        }
        let needs_batch = message.phase >= Phase::PreAccepted && !message.noop;
        if let Some(frame) = &body {
            self.learn(position, message.stamp, frame);
        } else if needs_batch && self.instance(position).frame.is_none() {
            return;
        }
        self.announce_deps(&message.deps);
        let (quorum, me) = (self.quorum(), self.group.me);
        let Some(own) = self.coordinations.get_mut(&position).filter(|own| own.ballot == message.ballot)
        else {
            return;
        };
        // In a later stage the set holds other answers: a promise is no acceptance.
        match &mut own.stage {
            Stage::Recover(recovery) => {
                if own.replies.insert(from) {
                    recovery.reports.push((from, message));
                }
                if own.replies.count() >= quorum && own.replies.contains(me) {
                    self.decide(position, effects);
                }
            }
            Stage::Waiting(recovery) if !recovery.quorum.contains(from) => {
                self.on_late_report(from, message, effects);
            }
            _ => {}
        }
    }

    /// A classic quorum has promised: what can have been committed in a lower ballot?
    fn decide(&mut self, position: Position, effects: &mut Effects<Self>) {
        let Some(own) = self.coordinations.get_mut(&position) else { return };
        let replies = own.replies;
        let Stage::Recover(recovery) = &mut own.stage else { return };
        let mut recovery = std::mem::take(&mut **recovery);
        recovery.quorum = replies;
        let accepted =
            recovery.reports.iter().map(|(_, report)| report).filter(|r| r.phase == Phase::Accepted);
        let highest = if holds(Rule::EpaxosRecoverHighestAccepted) {
            accepted.max_by_key(|report| report.accepted)
        } else {
            accepted.min_by_key(|report| report.accepted)
        };
        if let Some(report) = highest.copied() {
            self.counters.recovered_accepted += 1;
            self.start_accept(position, report.stamp, report.deps, report.noop, effects);
        } else if self.has_fixed_pair() {
            self.decide_by_pair(position, &recovery, effects);
        } else {
            self.decide_by_votes(position, recovery, effects);
        }
    }

    /// Three replicas and less. A fast commit is made of the buddy's vote and the command leader's commit record. If the buddy answers, its vote is
    /// what was committed, if anything; without one there was and will be no fast commit. If the buddy does not answer, the command leader does, has
    /// committed nothing, and has given up ballot 0. [protocols 5.5]
    fn decide_by_pair(&mut self, position: Position, recovery: &Recovery, effects: &mut Effects<Self>) {
        let is_buddys = |(from, report): &&(ReplicaId, RecoverOk)| {
            report.phase == Phase::PreAccepted && ReplicaId(report.buddy) == *from
        };
        let vote =
            recovery.reports.iter().find(is_buddys).filter(|_| holds(Rule::EpaxosRecoverPreacceptedBuddy));
        match vote {
            Some((_, report)) => {
                self.counters.recovered_preaccepted += 1;
                self.start_accept(position, report.stamp, report.deps, false, effects);
            }
            None => self.accept_noop(position, effects),
        }
    }

    /// Nothing else can have been committed.
    pub(super) fn accept_noop(&mut self, position: Position, effects: &mut Effects<Self>) {
        self.start_accept(position, 0, Dependencies::default(), true, effects);
    }

    /// Sends again what was not answered, and gives up what took too long.
    pub(super) fn on_retry_time(&mut self, effects: &mut Effects<Self>) {
        self.retry_at = None;
        let due = |own: &Coordination| own.retry_at <= self.now;
        let mut positions = std::mem::take(&mut self.due);
        positions
            .extend(self.coordinations.iter().filter(|(_, own)| due(own)).map(|(position, _)| *position));
        for position in positions.drain(..) {
            self.retry(position, effects);
            self.arm_retry(position);
        }
        self.due = positions;
        let next = self.coordinations.values().map(|own| own.retry_at).min();
        self.retry_at = next;
    }

    fn retry(&mut self, position: Position, effects: &mut Effects<Self>) {
        let Some(own) = self.coordinations.get_mut(&position) else { return };
        own.attempts += 1;
        let (ballot, replies, attempts) = (own.ballot, own.replies, own.attempts);
        match &own.stage {
            Stage::PreAccept { .. } => self.on_pre_accept_timeout(position, effects),
            Stage::Accept => self.send_accept(position, effects.last_persist(), true, effects),
            Stage::Recover(_) => {
                let missing = |id: &ReplicaId| !replies.contains(*id);
                for id in (0..self.group.replica_count as u8).map(ReplicaId).filter(missing) {
                    effects.send_after(
                        effects.last_persist(),
                        Dest::One(id),
                        Recover { position, ballot },
                        None,
                    );
                }
            }
            // What is waited for may wait, too.
            Stage::Validate(_) | Stage::Waiting(_) if attempts > ATTEMPTS_MAX => {
                self.coordinations.remove(&position);
                self.start_recover(position, effects);
            }
            Stage::Validate(_) => self.send_validate(position, replies, effects),
            Stage::Waiting(_) => self.retry_waiting(position, effects),
        }
    }
}
