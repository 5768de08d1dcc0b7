//! Becoming coordinator: pre-vote, then phase 1 of a term over all open slots.
//!
//! Invariants:
//! * A pre-vote changes nothing durable and never deposes anybody: a replica that cannot win does not disturb (T-M12).
//! * A promise counts once all the votes it reports have arrived, and per replica (PM4).
//! * For every slot that a promise reports, rule O4 says what is proposed in the term's classic round; the answers it is
//!   given are exactly those of the replicas whose promises are complete.
//! * Slots that a promise calls chosen are never proposed again: they are caught up with (PM5).

use std::collections::BTreeMap;

use panch_wire::frame::Frame;
use panch_wire::ids::{REPLICAS_MAX, ReplicaId, ReplicaSet, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use super::message::{
    Any, Mode, Plan, PreVote, PreVoteReply, Prepare, Promise, PromiseRecord, PromiseVote, Record, Refused,
    TakeOver,
};
use super::round::{ValueName, Vote};
use super::slots::SPAN_MAX;
use super::{Fast, Role, Timer};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Value};

/// What promises say about one slot.
#[derive(Clone, Default, Debug)]
struct Report {
    votes: [Option<Vote>; REPLICAS_MAX],
    payloads: Vec<Frame>,
}

/// What an attempt to become coordinator has gathered.
#[derive(Clone, Default, Debug)]
pub(super) struct Candidacy {
    term: Ballot,
    from_slot: Slot,
    /// How the term before was used, if this replica gives it up for a better plan.
    renewed: Option<Mode>,
    /// Pre-votes.
    grants: ReplicaSet,
    /// Whether the own promise of `term` is durable.
    durable: bool,
    promises: [Option<Promise>; REPLICAS_MAX],
    /// How many votes above the commit index of its promise have arrived from each replica.
    received: [u64; REPLICAS_MAX],
    /// Whose promises are complete.
    complete: ReplicaSet,
    reports: BTreeMap<Slot, Report>,
}

impl Candidacy {
    /// The mode of this replica's term that is being replaced by a new one of its own.
    pub(super) fn renewed(&self) -> Option<Mode> {
        self.renewed
    }

    /// The last slot that any promise reported a vote in.
    pub(super) fn reported(&self) -> Slot {
        self.reports.keys().next_back().copied().unwrap_or_default()
    }

    /// What `replica` promised counts no more, complete or not.
    pub(super) fn forget(&mut self, replica: ReplicaId) {
        self.promises[replica.index()] = None;
        self.received[replica.index()] = 0;
        self.complete.remove(replica);
        self.reports.values_mut().for_each(|report| report.votes[replica.index()] = None);
    }

    /// The candidacy is for a better plan than one in `mode`.
    pub(super) fn renew(&mut self, mode: Mode) {
        self.renewed = Some(mode);
    }
}

impl Fast {
    pub(super) fn on_election_timeout(&mut self, effects: &mut Effects<Self>) {
        if self.role == Role::Candidate && !self.candidacy.durable {
            self.stalled = true;
        }
        self.become_follower(effects);
        if !self.stalled && !self.fitness.log.is_hung(self.now, &self.tuning) {
            self.start_pre_vote(effects);
        }
    }

    fn start_pre_vote(&mut self, effects: &mut Effects<Self>) {
        if self.group.replica_count == 1 {
            self.stand(effects);
            return;
        }
        let (term, me) = (self.next_term(), self.me());
        self.role = Role::PreCandidate;
        self.candidacy = Candidacy { term, ..Candidacy::default() };
        self.candidacy.grants.insert(me);
        effects.send(Dest::Others, PreVote { term, commit: self.commit() }, None);
    }

    pub(super) fn on_pre_vote(&mut self, from: ReplicaId, message: PreVote, effects: &mut Effects<Self>) {
        if from == self.me() {
            return;
        }
        let led = match self.role {
            Role::Coordinator => self.has_quorum_contact(),
            // A coordinator that asks for votes has lost its office, most likely in a restart.
            _ if self.leader == Some(from) => false,
            _ => self.heard.is_some_and(|heard| self.now.since(heard) < self.tuning.election_timeout),
        };
        // A coordinator must have room for every slot that is open anywhere.
        let reaches = message.commit >= self.commit() || message.commit.0 + SPAN_MAX / 4 >= self.horizon.0;
        let reply = PreVoteReply { term: message.term, seen: self.seen, granted: !led && reaches };
        effects.send(Dest::One(from), reply, None);
        if !reaches {
            self.tell_decided(from, message.commit.next(), effects);
        }
    }

    pub(super) fn on_pre_vote_reply(
        &mut self,
        from: ReplicaId,
        message: PreVoteReply,
        effects: &mut Effects<Self>,
    ) {
        self.seen = self.seen.max(message.seen);
        if self.role != Role::PreCandidate || message.term != self.candidacy.term || !message.granted {
            return;
        }
        self.candidacy.grants.insert(from);
        if self.candidacy.grants.count() >= self.quorum() {
            self.stand(effects);
        }
    }

    /// The coordinator asks this replica to take its place.
    pub(super) fn on_take_over(&mut self, from: ReplicaId, message: TakeOver, effects: &mut Effects<Self>) {
        let following = self.role == Role::Follower && self.leader == Some(from) && from != self.me();
        let is_fit = !self.stalled && !self.mute && !self.fitness.log.is_hung(self.now, &self.tuning);
        if following && message.term == self.promised && is_fit {
            self.fitness.on_asked(self.now, &self.tuning);
            self.stand(effects);
        }
    }

    fn next_term(&self) -> Ballot {
        // Without the rule the term is whatever this replica's own log says, durable or not.
        let known =
            if holds(Rule::FastTermNeverReused) { self.promised.max(self.seen) } else { self.promised };
        Ballot::above(known, self.me())
    }

    /// Opens a term of one's own above everything heard of, and asks for promises.
    pub(super) fn stand(&mut self, effects: &mut Effects<Self>) {
        self.become_follower(effects);
        let term = self.next_term();
        let from_slot = self.commit().next();
        self.counters.elections += 1;
        self.promise(term);
        self.role = Role::Candidate;
        self.candidacy = Candidacy { term, from_slot, ..Candidacy::default() };
        self.recorded = term;
        // No term is used before it is written down: an unrecorded one would be used again after a restart. [D4, PF4]
        let record = Record::Promise(PromiseRecord { term, commit: self.commit() });
        let recorded = effects.persist(record, None);
        effects.send_after(recorded, Dest::All, Prepare { term, from_slot }, None);
        if !holds(Rule::FastAnyAfterPhaseOne) {
            let members = self.all().iter().fold(0, |members, id| members | 1 << id.0);
            let plan = Plan { term, from_slot, mode: Mode::Stripes(members) };
            effects.send(Dest::Others, Any { plan }, None);
        }
    }

    fn is_candidate_of(&self, term: Ballot) -> bool {
        self.role == Role::Candidate && term == self.candidacy.term
    }

    pub(super) fn own_promise_is_durable(&mut self, term: Ballot) {
        self.stalled = false;
        if self.is_candidate_of(term) {
            self.candidacy.durable = true;
        }
    }

    pub(super) fn on_refused(&mut self, message: Refused, effects: &mut Effects<Self>) {
        self.seen = self.seen.max(message.promised);
        let mine = message.term == self.promised && message.promised > message.term;
        if mine && matches!(self.role, Role::Candidate | Role::Coordinator) {
            self.become_follower(effects);
        }
    }

    pub(super) fn on_promise(&mut self, from: ReplicaId, message: Promise, effects: &mut Effects<Self>) {
        if self.role == Role::Coordinator && message.term == self.promised {
            self.late_promise(from, effects);
        }
        if !self.is_candidate_of(message.term)
            || message.from_slot != self.candidacy.from_slot
            || message.vote_count > SPAN_MAX
        {
            return;
        }
        // A Prepare that arrives twice is answered twice, each time with the votes above the commit index of that moment. The
        // later answer, whose commit index is higher, says what to expect; votes below it do not make up for others. [PM4]
        let candidacy = &mut self.candidacy;
        if candidacy.promises[from.index()].is_some_and(|known| known.commit > message.commit) {
            return;
        }
        let reports = candidacy.reports.range(message.commit.next()..);
        candidacy.received[from.index()] =
            reports.filter(|(_, report)| report.votes[from.index()].is_some()).count() as u64;
        candidacy.promises[from.index()] = Some(message);
        self.count_promise(from, effects);
    }

    pub(super) fn on_promise_vote(
        &mut self,
        from: ReplicaId,
        message: PromiseVote,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let PromiseVote { term, slot, round } = message;
        let first = self.candidacy.from_slot;
        if !self.is_candidate_of(term) || slot < first || slot.0 - first.0 > 2 * SPAN_MAX {
            return;
        }
        let vote = Vote { round, name: ValueName::of(body.as_ref()) };
        let report = self.candidacy.reports.entry(slot).or_default();
        let place = &mut report.votes[from.index()];
        if place.is_some() {
            return;
        }
        *place = Some(vote);
        if !report.payloads.iter().any(|frame| ValueName::of(Some(frame)) == vote.name) {
            report.payloads.extend(body);
        }
        if self.candidacy.promises[from.index()].is_some_and(|promise| slot > promise.commit) {
            self.candidacy.received[from.index()] += 1;
            self.count_promise(from, effects);
        }
    }

    fn count_promise(&mut self, from: ReplicaId, effects: &mut Effects<Self>) {
        let candidacy = &mut self.candidacy;
        let Some(promise) = &candidacy.promises[from.index()] else { return };
        let all_arrived = candidacy.received[from.index()] >= promise.vote_count;
        if all_arrived || !holds(Rule::FastPromiseComplete) {
            candidacy.complete.insert(from);
        } else {
            candidacy.complete.remove(from);
        }
        if candidacy.complete.count() >= self.quorum() {
            self.win(effects);
        }
    }

    /// A quorum promised: the values that may be chosen are known, and go first.
    fn win(&mut self, effects: &mut Effects<Self>) {
        let complete = self.candidacy.complete;
        let promise_of =
            |id: ReplicaId| self.candidacy.promises[id.index()].map(|promise| (promise.commit, id));
        let (known, informant) = complete.iter().filter_map(promise_of).max().unwrap_or_default();
        let counts = |report: &Report| complete.iter().any(|id| report.votes[id.index()].is_some());
        let reports = &self.candidacy.reports;
        let last = reports.iter().rev().find(|(_, report)| counts(report)).map_or(Slot(0), |(slot, _)| *slot);
        if known.0 > self.commit().0 + SPAN_MAX / 2 || last.0 > self.commit().0 + SPAN_MAX {
            // There is no room here for every slot that is open: somebody more advanced should coordinate.
            self.become_follower(effects);
            self.hear_commit(informant, known);
            return;
        }
        let reports = std::mem::take(&mut self.candidacy.reports);
        self.begin_term(complete);
        self.hear_commit(informant, known);
        // What a promise calls chosen is caught up with, whatever the votes say. [PM5]
        let first = known.max(self.commit()).next();
        for (slot, report) in reports.range(first..=last.max(first)) {
            // The bytes first: a quorum found among the votes needs them at once.
            report.payloads.iter().for_each(|frame| self.slots.keep_voted(*slot, Some(frame)));
            for (index, vote) in report.votes.iter().enumerate() {
                if let Some(vote) = vote {
                    self.count_vote(ReplicaId(index as u8), *slot, *vote, effects);
                }
            }
        }
        for slot in (first.0..=last.0).map(Slot) {
            let mut answers = [None; REPLICAS_MAX];
            for (place, id) in answers.iter_mut().zip(complete.iter()) {
                *place = reports.get(&slot).and_then(|report| report.votes[id.index()]);
            }
            if slot <= self.commit() {
                continue;
            }
            let answers = &answers[..complete.count()];
            let value = self.picked(slot, answers).expect("votes are reported with their values");
            self.counters.adopted += u64::from(value != Value::Noop);
            self.send_accept(slot, value, effects);
        }
        self.open_term(last.max(first.prev()).next(), effects);
        self.candidacy = Candidacy::default();
    }

    /// Gives up every role and whatever it has gathered; nobody is followed yet.
    pub(super) fn become_follower(&mut self, _effects: &mut Effects<Self>) {
        if self.role == Role::Coordinator {
            self.end_term();
            self.heard = None;
        }
        self.role = Role::Follower;
        self.leader = None;
        self.candidacy = Candidacy::default();
        self.arm_election();
    }

    pub(super) fn on_suspect(&mut self, peer: ReplicaId, effects: &mut Effects<Self>) {
        if peer == self.me() || peer.index() >= self.group.replica_count {
            return;
        }
        if self.role == Role::Coordinator {
            self.suspect_as_coordinator(peer, effects);
        } else if self.leader == Some(peer) {
            // A lost connection is most often a dead coordinator: ask the others soon whether they hear it.
            self.become_follower(effects);
            self.heard = None;
            let timeout = self.tuning.election_timeout;
            let wait = self.random_wait(timeout / 8, timeout / 2);
            let at: Instant = self.now + wait;
            self.timers.arm(Timer::Election, at);
        }
    }
}
