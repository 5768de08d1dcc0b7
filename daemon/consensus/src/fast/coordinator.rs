//! Coordinating: the plan of a term, slots whose fast round failed, and when fast rounds are not worth it.
//!
//! A fast round needs `ceil(3n/4)` votes, with three replicas all of them. A coordinator that misses a replica opens a new
//! term without it: in stripes of those that are fit, or, if they are no fast quorum, in classic rounds, where it proposes
//! alone and pipelined as in Multi-Paxos. Once the replica has been back for a while, another new term takes it in. Classic
//! rounds, too, if some replicas do not reach each other: votes for what one of them proposes would always be missing. Who
//! reaches more replicas than the coordinator, or has a much better disk, is asked to coordinate instead.
//!
//! Invariants:
//! * A plan is settled once per term, after a quorum has promised the term, and starts above every slot that a promise
//!   reported (T-F9). Below it, and everywhere in classic mode, the coordinator proposes in the classic round on the strength
//!   of the term's promises.

use panch_wire::frame::Frame;
use panch_wire::ids::{REPLICAS_MAX, ReplicaId, ReplicaSet, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use super::message::{Any, Heartbeat, HeartbeatReply, Mode, Plan};
use super::round::ValueName;
use super::{Fast, Role, Timer};
use crate::ballot::Ballot;
use crate::fitness::Voter;
use crate::protocol::{Dest, Effects, Value};

/// The time a replica must be back before it counts as fit doubles with every fall-back that follows a return closely, at
/// most so often.
const DOUBLINGS_MAX: u32 = 4;

/// What a coordinator keeps; most of it survives into its own next term.
#[derive(Clone, Default, Debug)]
pub(super) struct Term {
    pub(super) peers: [Voter; REPLICAS_MAX],
    /// Who votes and proposes in time, as far as is known; this replica always.
    pub(super) fit: ReplicaSet,
    /// Everything below is proposed by the coordinator; the plan starts there.
    from_slot: Slot,
    /// Classic mode: the next slot to propose in.
    pub(super) next: Slot,
    /// How the term before was used, if it was this replica's too.
    mode_before: Option<Mode>,
    /// When fast rounds were last returned to.
    returned: Option<Instant>,
    doublings: u32,
    /// When the last heartbeat left.
    pub(super) heartbeat_sent: Instant,
    /// When the next one is to leave.
    heartbeat_due: Instant,
    /// Slots whose fast round ended, one way or the other, since the last heartbeat.
    pub(super) slot_count: u32,
    /// The highest commit index that was seen when slots were looked at, and when it was first seen.
    progress: (Slot, Instant),
}

impl Fast {
    pub(super) fn is_coordinator_of(&self, term: Ballot) -> bool {
        self.role == Role::Coordinator && term == self.promised
    }

    /// A quorum promised. What they reported is being proposed; everything from `from_slot` on is free.
    pub(super) fn begin_term(&mut self, answered: ReplicaSet) {
        self.role = Role::Coordinator;
        self.leader = Some(self.me());
        self.counters.terms += 1;
        self.slots.forget_recoveries();
        let renewed = self.candidacy.renewed();
        if renewed.is_none() {
            let now = self.now;
            self.term = Term { fit: answered, ..Term::default() };
            self.fitness.begin_term();
            for (peer, id) in self.term.peers.iter_mut().zip((0..).map(ReplicaId)) {
                *peer = Voter::new(now, answered.contains(id).then_some(now));
            }
        }
        let now = self.now;
        for peer in &mut self.term.peers {
            peer.owes_nothing(now);
        }
        self.term.progress = (self.commit(), now);
        self.term.mode_before = renewed;
        self.drop_slow_voters();
        let me = self.me();
        self.term.fit.insert(me);
    }

    /// Slots below are taken care of; now who proposes from there on. A coordinator that just won the term waits a moment for
    /// promises that are still on their way.
    pub(super) fn open_term(&mut self, from_slot: Slot, effects: &mut Effects<Self>) {
        self.term.from_slot = from_slot;
        self.term.next = from_slot;
        self.timers.disarm(Timer::Election);
        self.arm_repair();
        if self.term.mode_before.is_some() || self.term.fit == self.all() {
            self.settle_plan(effects);
        } else {
            self.timers.arm(Timer::Settle, self.now + self.tuning.slow_after);
        }
        self.send_heartbeats(effects);
    }

    /// One more replica promised the term after it was won.
    pub(super) fn late_promise(&mut self, from: ReplicaId, effects: &mut Effects<Self>) {
        self.note_contact(from);
        if self.plan.is_none() && self.term.mode_before.is_none() {
            self.term.fit.insert(from);
            if self.term.fit == self.all() {
                self.settle_plan(effects);
            }
        }
    }

    /// How proposing should work with the replicas that are fit.
    fn wished_mode(&self) -> Mode {
        let is_meshed = self.fitness.is_meshed() || !holds(Rule::FastFittestCoordinates);
        if self.term.fit.count() < self.fast_quorum() || !is_meshed {
            Mode::Classic
        } else if self.tuning.free_for_all {
            Mode::FreeForAll
        } else {
            Mode::Stripes(self.term.fit.iter().fold(0, |members, id| members | 1 << id.0))
        }
    }

    pub(super) fn settle_plan(&mut self, effects: &mut Effects<Self>) {
        if self.role != Role::Coordinator || self.plan.is_some() {
            return;
        }
        self.timers.disarm(Timer::Settle);
        let mode = self.wished_mode();
        match self.term.mode_before {
            Some(before) if before.is_fast() && !mode.is_fast() => self.note_fallback(),
            None if !mode.is_fast() => self.note_fallback(),
            Some(before) if !before.is_fast() && mode.is_fast() => {
                self.counters.returns += 1;
                self.term.returned = Some(self.now);
            }
            _ => {}
        }
        let plan = Plan { term: self.promised, from_slot: self.term.from_slot, mode };
        effects.send(Dest::Others, Any { plan }, None);
        self.adopt_plan(plan, effects);
    }

    fn note_fallback(&mut self) {
        self.counters.fallbacks += 1;
        let soon = 8 * self.settling_time();
        let again = self.term.returned.is_some_and(|returned| self.now.since(returned) < soon);
        self.term.doublings = if again { (self.term.doublings + 1).min(DOUBLINGS_MAX) } else { 0 };
    }

    /// How long a replica must be back before it is relied on.
    pub(super) fn settling_time(&self) -> Duration {
        2 * self.tuning.election_timeout * (1 << self.term.doublings)
    }

    /// Opens a new term if the replicas that are fit ask for another way of proposing.
    pub(super) fn reconsider_plan(&mut self, effects: &mut Effects<Self>) {
        let Some(plan) = self.plan else { return };
        if self.role == Role::Coordinator && self.wished_mode() != plan.mode {
            self.renew_term(effects);
        }
    }

    /// Goes on in another term of its own.
    pub(super) fn renew_term(&mut self, effects: &mut Effects<Self>) {
        let mode = self.plan.map(|plan| plan.mode);
        self.stand(effects);
        if let Some(mode) = mode {
            self.candidacy.renew(mode);
        }
    }

    /// How long the commit index has not moved, as far as slots were looked at.
    pub(super) fn waited_for_commit(&mut self) -> Duration {
        let commit = self.commit();
        if commit > self.term.progress.0 {
            self.term.progress = (commit, self.now);
        }
        self.now.since(self.term.progress.1)
    }

    /// Whether `slot` is not one of those that the plan gives to proposers.
    pub(super) fn is_below_plan(&self, slot: Slot) -> bool {
        slot < self.term.from_slot
    }

    // Heartbeats.

    fn send_heartbeats(&mut self, effects: &mut Effects<Self>) {
        let message = Heartbeat { term: self.promised, commit: self.commit(), plan: self.plan };
        effects.send(Dest::Others, message, None);
        self.term.heartbeat_sent = self.now;
        for peer in self.peers() {
            self.fitness.ask(peer, 0, self.now);
        }
        self.term.heartbeat_due = self.now + self.tuning.heartbeat_interval;
        self.timers.arm(Timer::Heartbeat, self.term.heartbeat_due);
    }

    pub(super) fn on_heartbeat_time(&mut self, effects: &mut Effects<Self>) {
        if self.role != Role::Coordinator {
            return;
        }
        self.fitness.on_turn(self.term.heartbeat_due, self.now);
        if !self.has_quorum_contact() {
            self.counters.step_downs += 1;
            self.become_follower(effects);
            return;
        }
        self.send_heartbeats(effects);
        self.fitness.tell_condition(self.now, &self.tuning, effects);
        self.watch_links();
        self.hand_over(effects);
        if self.fitness.log.is_dead(self.now, &self.tuning) {
            // Nobody took over who was asked.
            self.counters.step_downs += 1;
            self.stalled = true;
            self.become_follower(effects);
            return;
        }
        self.judge_peers();
        self.reconsider_plan(effects);
    }

    pub(super) fn on_heartbeat(&mut self, from: ReplicaId, message: Heartbeat, effects: &mut Effects<Self>) {
        if !self.obey(from, message.term, effects) {
            return;
        }
        if let Some(plan) = message.plan {
            self.adopt_plan(plan, effects);
        }
        self.hear_commit(from, message.commit);
        self.watch_links();
        self.fitness.tell_condition(self.now, &self.tuning, effects);
        let reply = HeartbeatReply {
            term: self.promised,
            commit: self.commit(),
            last: self.horizon,
            votes: !self.mute,
        };
        effects.send(Dest::One(from), reply, None);
    }

    pub(super) fn on_heartbeat_reply(
        &mut self,
        from: ReplicaId,
        message: HeartbeatReply,
        effects: &mut Effects<Self>,
    ) {
        self.seen = self.seen.max(message.term);
        if self.role != Role::Coordinator {
            return;
        }
        if message.term != self.promised {
            if message.term > self.promised {
                self.become_follower(effects);
            }
            return;
        }
        if message.votes {
            self.note_contact(from);
            self.note_round_trip(from);
        }
        self.hear_commit(from, message.commit);
        if self.slots.admits(message.last) {
            self.raise_horizon(message.last);
        }
    }

    /// The connection to a peer was lost.
    pub(super) fn suspect_as_coordinator(&mut self, peer: ReplicaId, effects: &mut Effects<Self>) {
        self.count_as_unfit(peer);
        self.reconsider_plan(effects);
    }

    // Classic rounds.

    /// Classic mode: proposes a batch in the next slot. `None` beyond the bound; its proposer proposes it again.
    pub(super) fn propose_classic(&mut self, frame: Frame, effects: &mut Effects<Self>) -> Option<Slot> {
        let name = ValueName::of(Some(&frame));
        let is_it = |value: &Value| ValueName::of_value(value) == name;
        let known = self.slots.from(self.commit()).find_map(|(slot, open)| {
            (open.recovery.proposed.as_ref().is_some_and(is_it) || open.chosen == Some(name)).then_some(slot)
        });
        if known.is_some() {
            return known;
        }
        let open_count = self.term.next.0.saturating_sub(self.commit().0 + 1);
        if self.role != Role::Coordinator || open_count >= self.in_flight_max() {
            return None;
        }
        let mut slot = self.term.next.max(self.commit().next());
        while self.slots.get(slot).is_some_and(|open| open.rules_out(name)) {
            slot = slot.next();
        }
        if !self.has_room(slot, Some(&frame)) {
            return None;
        }
        self.term.next = slot.next();
        self.send_accept(slot, Value::Batch(frame), effects);
        Some(slot)
    }

    /// No longer coordinator: nothing of the term is remembered.
    pub(super) fn end_term(&mut self) {
        for timer in [Timer::Heartbeat, Timer::Repair, Timer::Settle] {
            self.timers.disarm(timer);
        }
        let me = self.me();
        self.proposer.keep_own(me);
    }
}
