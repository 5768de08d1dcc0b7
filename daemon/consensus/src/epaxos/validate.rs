//! Four replicas and more: whether votes that agree with a dead command leader may have made a fast commit.
//!
//! If an instance that interferes is committed, and neither depends on the other, there was none: a fast quorum and the quorum of the other meet. If
//! such an instance is not committed, it has to be decided first; two recoveries that wait for each other tell each other how many votes they
//! have, and at most one of them can have been committed fast. [EPaxos* 5.6: Validate, Waiting]
//!
//! Invariants:
//! * What is accepted in the end is the batch with the dependencies that the agreeing votes reported, whatever is known here [T-E20], and with all
//!   that somebody of the quorum had executed without it.
//! * Whatever interferes and may be committed is known to somebody of the quorum: its quorum and this one meet. There it is executed, and everything
//!   before it in its row is, or it is in memory at least as what it touches, whatever snapshots came in between.
//!
//! What was executed need not be remembered therefore, by anybody. Of the instance `a` that is recovered with dependencies `D`, let `E` be what a
//! replica of the quorum has executed of all rows without a gap. It has not decided `a`. If `a` is not committed yet, `D` and `E` together are as
//! good as `D` alone: of what interferes, they name more. If `a` was committed fast with `D`, nothing in `E` that is not in `D` interferes with
//! it: such an instance would depend on `a`, and would not be executed where `a` is not decided. So both values order `a` alike at every replica,
//! and two replicas may hold `a` with dependencies that differ in what does not interfere.

use panch_wire::frame::Frame;
use panch_wire::ids::{Position, REPLICAS_MAX, ReplicaId, ReplicaSet};
use panch_wire::rule::{Rule, holds};

use super::coordination::{Coordination, Recovery, Stage};
use super::message::{
    CONFLICT_COUNT_MAX, Conflict, Numbers, Phase, RecoverOk, Validate, ValidateOk, Waiting,
};
use super::record::{Record, ValidateRecord};
use super::{Dependencies, Epaxos, Footprint, fast_failures};
use crate::protocol::{Dest, Effects};

/// What became of the instances that a recovery waits for.
enum Outcome {
    /// One of them rules the fast commit out.
    RuledOut,
    /// None of them does.
    Possible,
    /// One is not decided.
    Open,
    /// One is decided, but how is not known here any more.
    Forgotten,
}

impl Epaxos {
    /// Nothing was accepted by a classic quorum of four replicas or more.
    pub(super) fn decide_by_votes(
        &mut self,
        position: Position,
        mut recovery: Recovery,
        effects: &mut Effects<Self>,
    ) {
        if recovery.quorum.contains(ReplicaId(position.row)) {
            // It has committed nothing, and has given up ballot 0.
            self.accept_noop(position, effects);
            return;
        }
        for (from, report) in &recovery.reports {
            if report.phase == Phase::PreAccepted && report.deps == report.initial_deps {
                recovery.agreeing.insert(*from);
                recovery.stamp = report.stamp;
                recovery.deps = report.deps;
            }
        }
        let needed = recovery.quorum.count() - fast_failures(self.group.replica_count);
        if recovery.agreeing.count() < needed.max(1) {
            self.accept_noop(position, effects);
            return;
        }
        if !holds(Rule::EpaxosValidate) {
            let (stamp, deps) = (recovery.stamp, recovery.deps);
            self.start_accept(position, stamp, deps, false, effects);
            return;
        }
        self.counters.validates += 1;
        let Some(own) = self.coordinations.get_mut(&position) else { return };
        own.replies = ReplicaSet::default();
        own.attempts = 0;
        own.stage = Stage::Validate(Box::new(recovery));
        self.arm_retry(position);
        self.send_validate(position, ReplicaSet::default(), effects);
    }

    /// Asks the recovery quorum, but for those that have answered.
    pub(super) fn send_validate(
        &mut self,
        position: Position,
        answered: ReplicaSet,
        effects: &mut Effects<Self>,
    ) {
        let Some(frame) = self.instances.get(&position).and_then(|instance| instance.frame.clone()) else {
            return;
        };
        let Some(own) = self.coordinations.get(&position) else { return };
        let Stage::Validate(recovery) = &own.stage else { return };
        let message = Validate { position, ballot: own.ballot, stamp: recovery.stamp, deps: recovery.deps };
        let missing: Vec<_> = recovery.quorum.iter().filter(|id| !answered.contains(*id)).collect();
        for id in missing {
            if id == self.group.me {
                self.on_validate(id, message, Some(frame.clone()), effects);
            } else {
                effects.send(Dest::One(id), message, Some(&frame));
            }
        }
    }

    pub(super) fn on_validate(
        &mut self,
        from: ReplicaId,
        message: Validate,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let Validate { position, ballot, stamp, deps } = message;
        if self.answer_committed(from, position, effects) || self.is_below_floor(position) {
            return;
        }
        let joined = self.instance(position).ballot;
        if ballot != joined {
            if ballot < joined {
                self.refuse(from, position, joined, effects);
            }
            return;
        }
        let Some(frame) = self.instance(position).frame.clone().or(body) else { return };
        self.learn(position, stamp, &frame);
        self.announce_deps(&deps);
        let instance = self.instance(position);
        instance.initial_deps = deps;
        instance.proposal_known = true;
        let body = Some(&frame).filter(|_| !std::mem::replace(&mut instance.logged, true));
        let record = ValidateRecord { position, ballot, stamp, initial_deps: deps, body: body.is_some() };
        let point = effects.persist(Record::Validate(record), body);
        self.fill_footprint(&frame);
        let answer = self.find_conflicts(position, ballot, &deps);
        effects.send_after(point, Dest::One(from), answer, None);
    }

    /// Instances that interfere with the footprint filled in last, outside of `deps`, that do not depend on `position` either.
    fn find_conflicts(
        &self,
        position: Position,
        ballot: crate::ballot::Ballot,
        deps: &Dependencies,
    ) -> ValidateOk {
        let mut answer = ValidateOk {
            position,
            ballot,
            conflict_count: 0,
            more: false,
            conflicts: [Conflict::default(); CONFLICT_COUNT_MAX],
            executed: Numbers::default(),
        };
        let mut footprint = Footprint::default();
        for row in 0..self.group.replica_count as u8 {
            let executed = self.graph.executed().upto(row);
            answer.executed[usize::from(row)] = executed;
            let settled = deps.row(row).max(executed);
            let range = Position { row, number: settled + 1 }..=Position { row, number: u64::MAX };
            for (other, instance) in self.instances.range(range).filter(|(other, _)| **other != position) {
                let committed = instance.is_committed();
                let (known, theirs) = match committed {
                    true => (!instance.noop, &instance.deps),
                    // A snapshot brought it. If it is no no-op and interferes, it does not depend on this one, which would be decided then.
                    false if instance.executed => (true, &Dependencies([0; REPLICAS_MAX])),
                    false => (instance.proposal_known, &instance.initial_deps),
                };
                if !known || theirs.contains(position) {
                    continue;
                }
                let interferes = match (&instance.frame, &instance.touched) {
                    (Some(frame), _) => {
                        footprint.fill(frame);
                        footprint.interferes(&self.footprint)
                    }
                    (None, Some(touched)) => touched.interferes(&self.footprint),
                    (None, None) => false,
                };
                if interferes {
                    answer.push(Conflict::new(*other, committed));
                }
            }
        }
        answer
    }

    pub(super) fn on_validate_ok(
        &mut self,
        from: ReplicaId,
        message: ValidateOk,
        effects: &mut Effects<Self>,
    ) {
        let position = message.position;
        let replica_count = self.group.replica_count;
        let Some(own) = self.coordinations.get_mut(&position).filter(|own| own.ballot == message.ballot)
        else {
            return;
        };
        let Stage::Validate(recovery) = &mut own.stage else { return };
        if !recovery.quorum.contains(from) || !own.replies.insert(from) {
            return;
        }
        let count = usize::from(message.conflict_count).min(CONFLICT_COUNT_MAX);
        recovery.conflicts.extend_from_slice(&message.conflicts[..count]);
        recovery.more |= message.more;
        if holds(Rule::EpaxosValidateExecuted) {
            recovery.executed.merge(&Dependencies(message.executed));
        }
        let is_ruled_out = recovery.conflicts.iter().any(|conflict| conflict.is_committed());
        if own.replies.count() < recovery.quorum.count() && !is_ruled_out {
            return;
        }
        // What somebody has executed comes before this one, whether it rules the fast commit out or not.
        let executed = recovery.executed;
        recovery
            .conflicts
            .retain(|conflict| conflict.is_committed() || !executed.contains(conflict.position()));
        let is_lost = |conflict: &Conflict| !recovery.quorum.contains(ReplicaId(conflict.position().row));
        let is_least = recovery.agreeing.count() == recovery.quorum.count() - fast_failures(replica_count);
        let is_ruled_out = is_ruled_out || (is_least && recovery.conflicts.iter().any(is_lost));
        if recovery.conflicts.is_empty() {
            self.accept_validated(position, effects);
        } else if is_ruled_out {
            self.counters.validates_rejected += 1;
            self.accept_noop(position, effects);
        } else {
            self.start_waiting(position, effects);
        }
    }

    /// The fast commit remains possible: its value is accepted.
    fn accept_validated(&mut self, position: Position, effects: &mut Effects<Self>) {
        let Some(own) = self.coordinations.get(&position) else { return };
        let (Stage::Validate(recovery) | Stage::Waiting(recovery)) = &own.stage else { return };
        let (stamp, mut deps) = (recovery.stamp, recovery.deps);
        // The command leader knew its own row.
        let own_row = deps.row(position.row);
        deps.merge(&recovery.executed);
        deps.0[usize::from(position.row)] = own_row;
        let local = self.instances.get(&position).map_or(deps, |instance| instance.deps);
        // What this replica voted for may be something else. [T-E20]
        let deps = if holds(Rule::EpaxosWaitingUsesReportedDeps) { deps } else { local };
        self.counters.recovered_preaccepted += 1;
        self.start_accept(position, stamp, deps, false, effects);
    }

    fn start_waiting(&mut self, position: Position, effects: &mut Effects<Self>) {
        let Some(own) = self.coordinations.get_mut(&position) else { return };
        let Stage::Validate(recovery) = &mut own.stage else { return };
        let recovery = std::mem::take(recovery);
        for conflict in &recovery.conflicts {
            let at = conflict.position();
            let known = &mut self.announced[usize::from(at.row)];
            *known = at.number.max(*known);
        }
        let agreeing = recovery.agreeing.count() as u8;
        own.stage = Stage::Waiting(recovery);
        own.attempts = 0;
        self.counters.waits += 1;
        self.arm_retry(position);
        self.send_waiting(position, effects);
        // Another recovery of this replica may wait for this one.
        self.note_agreeing(position, agreeing);
    }

    fn note_agreeing(&mut self, position: Position, agreeing: u8) {
        let instance = self.instance(position);
        instance.agreeing_elsewhere = instance.agreeing_elsewhere.max(agreeing);
        self.check_waiting = true;
    }

    fn send_waiting(&self, position: Position, effects: &mut Effects<Self>) {
        if let Some(Coordination { stage: Stage::Waiting(recovery), .. }) = self.coordinations.get(&position)
        {
            let agreeing = recovery.agreeing.count() as u8;
            effects.send(Dest::Others, Waiting { position, agreeing }, None);
        }
    }

    /// Still waiting: others may not have heard of it.
    pub(super) fn retry_waiting(&mut self, position: Position, effects: &mut Effects<Self>) {
        self.send_waiting(position, effects);
        self.check_waiting = true;
    }

    pub(super) fn on_waiting(&mut self, message: Waiting) {
        let Waiting { position, agreeing } = message;
        self.announce(position);
        if self.committed.contains(position) {
            return;
        }
        self.note_agreeing(position, agreeing);
        // Somebody is at work.
        let now = self.now;
        self.instance(position).since = now;
    }

    /// Something was decided: recoveries that wait may go on.
    pub(super) fn check_waits(&mut self, effects: &mut Effects<Self>) {
        while std::mem::take(&mut self.check_waiting) {
            let waits = |own: &Coordination| matches!(own.stage, Stage::Waiting(_));
            let waiting: Vec<_> = self
                .coordinations
                .iter()
                .filter(|(_, own)| waits(own))
                .map(|(position, _)| *position)
                .collect();
            for position in waiting {
                self.check_waiting_of(position, effects);
            }
        }
    }

    fn check_waiting_of(&mut self, position: Position, effects: &mut Effects<Self>) {
        let Some(own) = self.coordinations.get(&position) else { return };
        let Stage::Waiting(recovery) = &own.stage else { return };
        let count = self.group.replica_count;
        // As many votes as that there mean that this one was not committed fast: the two quorums would have met. [EPaxos* 5.6 (c)]
        let too_many = self.quorum() - fast_failures(count);
        let is_beaten = recovery.conflicts.iter().any(|conflict| {
            let other = self.instances.get(&conflict.position());
            other.is_some_and(|other| usize::from(other.agreeing_elsewhere) > too_many)
        });
        let outcomes = recovery.conflicts.iter().map(|conflict| self.outcome(conflict.position(), position));
        let (mut open, mut forgotten, mut ruled_out) = (false, false, is_beaten);
        for outcome in outcomes {
            match outcome {
                Outcome::RuledOut => ruled_out = true,
                Outcome::Open => open = true,
                Outcome::Forgotten => forgotten = true,
                Outcome::Possible => {}
            }
        }
        if ruled_out {
            self.counters.waits_noop += 1;
            self.accept_noop(position, effects);
        } else if forgotten {
            // Another quorum may know, once its turn comes.
            self.coordinations.remove(&position);
            let now = self.now;
            self.instance(position).since = now;
        } else if !open && recovery.more {
            // Another round of questions will say.
            self.coordinations.remove(&position);
            self.start_recover(position, effects);
        } else if !open {
            self.counters.waits_accepted += 1;
            self.accept_validated(position, effects);
        }
    }

    fn outcome(&self, other: Position, position: Position) -> Outcome {
        if !self.committed.contains(other) {
            return Outcome::Open;
        }
        match self.instances.get(&other).filter(|instance| instance.is_committed()) {
            None => Outcome::Forgotten,
            Some(instance) if instance.noop || instance.deps.contains(position) => Outcome::Possible,
            Some(_) => Outcome::RuledOut,
        }
    }

    /// An answer from outside of the recovery quorum that came late.
    pub(super) fn on_late_report(&mut self, from: ReplicaId, report: RecoverOk, effects: &mut Effects<Self>) {
        let position = report.position;
        if report.phase == Phase::Accepted {
            self.counters.recovered_accepted += 1;
            self.start_accept(position, report.stamp, report.deps, report.noop, effects);
        } else if from == ReplicaId(position.row) {
            self.counters.waits_noop += 1;
            self.accept_noop(position, effects);
        }
    }
}
