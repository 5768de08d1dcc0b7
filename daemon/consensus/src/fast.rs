//! Fast Paxos as a log of many slots: proposers go straight to the acceptors, a coordinator repairs what collides.
//!
//! Reading guide: [`round`] (rounds, names of values), [`picking`] (rule O4, pure), [`message`] (what is said and written
//! down), `slots` (what is known of each open slot), `acceptor` (promises and votes), `learner` (counting, committing),
//! `proposer` (stripes, skips, retries), `direct` (batches that clients propose themselves), `coordinator` (plans, fall-back to classic rounds and return), `fitness` (whom it relies on),
//! `recovery` (single slots), `election` (pre-vote, phase 1 of a term), `catchup` (lagging replicas, missing batches), `reads` (quorum
//! reads), `rejoin` (coming back without a disk).
//!
//! ```text
//!              election timer          quorum of pre-votes           quorum of promises
//!   Follower ----------------> PreCandidate ------------> Candidate ------------------> Coordinator
//!      ^  ^                      |    ^                    |    ^                         |   |
//!      |  '- coordinator heard --'    '---- timer ---------'    '-- other plan: new term -'   |
//!      '------- higher term, no contact with a quorum ----------------------------------------'
//!
//!   one slot in a term:   Any covers it?  yes: fast round -- fast quorum ---------------------> chosen
//!                               |                 '-- collision, or too slow: promises for the
//!                               |                     classic round of a quorum, pick (O4) --.
//!                               no: pick (O4) from the promises of the term -----------------'-> Accept -- quorum -> chosen
//! ```
//!
//! Every change of who may propose (fast to classic rounds and back, other stripes) is a new term: no slot ever has two
//! meanings in one round.
//!
//! Invariants:
//! * `promised` never falls. No claim about it leaves before a record of it is durable (`recorded`).
//! * One vote per slot and round, for ever: votes and the promises of single slots are in the log.
//! * In its term a coordinator uses each slot either by the plan (fast mode: all acceptors may vote there in the fast
//!   round) or itself proposes in the classic round, resting on promises of a classic quorum for that round.
//! * A slot up to the commit index never changes; it was handed to [`Effects::choose`] once, in order, or lies in a
//!   snapshot.

use panch_wire::frame::Frame;
use panch_wire::ids::{Incarnation, ReplicaId, ReplicaSet, Slot};
use panch_wire::time::{Duration, Instant};
use rand_xoshiro::rand_core::Rng;

use crate::ballot::Ballot;
use crate::fitness::Fitness;
use crate::frontier::Frontier;
use crate::protocol::{
    Counters, Effects, Event, Group, Past, Persist, Place, Protocol, ProtocolKind, Random, Status, Tuning,
    Value,
};
use crate::quorum::{classic_quorum, fast_quorum};
use crate::rejoin::Horizon;
use crate::remnant::{Remnant, Standing};
use crate::timers::{TimerKind, Timers};

mod acceptor;
mod catchup;
mod coordinator;
mod direct;
mod election;
mod fitness;
mod learner;
pub mod message;
pub mod picking;
mod proposer;
mod reads;
mod recovery;
mod rejoin;
pub mod round;
mod slots;
#[cfg(test)]
mod tests;

use catchup::Catchup;
use coordinator::Term;
use election::Candidacy;
use message::{Logged, Message, Plan, PromiseRecord, Record};
use proposer::Proposer;
use reads::Reads;
use slots::Slots;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Follower,
    PreCandidate,
    Candidate,
    Coordinator,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    /// Nothing was heard from a coordinator, or an attempt to become one took too long.
    Election,
    /// The coordinator's next heartbeat and its look at who is fit.
    Heartbeat,
    /// The coordinator settles its plan with those who answered so far.
    Settle,
    /// The coordinator looks for slots that make no progress.
    Repair,
    /// The proposer looks for batches that make no progress.
    Propose,
    /// Something chosen is still missing here.
    Catchup,
    /// Reads were not answered.
    Read,
}

impl TimerKind for Timer {
    fn index(self) -> usize {
        self as usize
    }
}

/// What is left to be done at the end of this turn, once for the whole turn.
#[derive(Clone, Copy, Default, Debug)]
struct Due {
    /// Look for batches without a place, and for own slots to skip.
    place: bool,
    /// Ask acceptors where the reads that wait must wait for.
    read: bool,
    /// Ask for what is missing.
    catchup: bool,
}

/// One replica of a Fast Paxos group.
#[derive(Clone, Debug)]
pub struct Fast {
    group: Group,
    tuning: Tuning,
    random: Random,
    incarnation: Incarnation,
    now: Instant,
    role: Role,
    /// The highest term promised.
    promised: Ballot,
    /// The highest term in any record of this replica's log.
    recorded: Ballot,
    /// The highest term heard of.
    seen: Ballot,
    /// The coordinator of term `promised`, once it has shown itself.
    leader: Option<ReplicaId>,
    /// When a coordinator, or a candidate with a promise of ours, was last heard.
    heard: Option<Instant>,
    /// The own log did not become durable in time: not fit to coordinate until it does.
    stalled: bool,
    /// On its way back from the loss of its disk: no vote leaves.
    mute: bool,
    /// How proposing works in the promised term, once known. Volatile: without it there are no fast votes.
    plan: Option<Plan>,
    slots: Slots,
    /// The highest slot this replica voted in.
    voted: Slot,
    /// The highest slot that any replica is known to have voted in.
    horizon: Slot,
    /// An earlier life that is forgotten may have voted up to here.
    floor: Slot,
    /// Free for all: no vote of the promised term lies at or above it.
    next_free: Slot,
    /// Votes that leave at the end of the turn.
    ballot_box: Vec<(Slot, round::Vote)>,
    /// Chosen values below this cannot be read back from the own log.
    loadable_from: Slot,
    timers: Timers<Timer, 7>,
    due: Due,
    candidacy: Candidacy,
    term: Term,
    proposer: Proposer,
    catchup: Catchup,
    reads: Reads,
    fitness: Fitness,
    counters: Counters,
}

impl Fast {
    fn me(&self) -> ReplicaId {
        self.group.me
    }

    fn quorum(&self) -> usize {
        classic_quorum(self.group.replica_count)
    }

    fn fast_quorum(&self) -> usize {
        fast_quorum(self.group.replica_count)
    }

    fn all(&self) -> ReplicaSet {
        ReplicaSet::first(self.group.replica_count)
    }

    fn peers(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let me = self.group.me;
        self.all().iter().filter(move |peer| *peer != me)
    }

    fn commit(&self) -> Slot {
        self.slots.commit()
    }

    /// A random time in `from..from + spread`.
    fn random_wait(&mut self, from: Duration, spread: Duration) -> Duration {
        from + Duration::from_nanos(self.random.next_u64() % (spread.as_nanos() as u64).max(1))
    }

    /// The election timer starts over with a new random time.
    fn arm_election(&mut self) {
        let timeout = self.tuning.election_timeout;
        let wait = self.random_wait(timeout, timeout);
        self.timers.arm(Timer::Election, self.now + wait);
    }

    fn is_due(&self) -> bool {
        self.due.place || self.due.read || self.due.catchup || !self.ballot_box.is_empty()
    }

    /// Does at the end of the turn what was left for it.
    fn end_turn(&mut self, effects: &mut Effects<Self>) {
        if std::mem::take(&mut self.due.place) {
            self.place_proposals(effects);
        }
        self.send_votes(effects);
        if std::mem::take(&mut self.due.read) {
            self.send_read_request(effects);
        }
        if std::mem::take(&mut self.due.catchup) {
            self.ask_for_missing(effects);
        }
        self.fitness.ask_own_log(self.now, &self.tuning, effects);
    }

    fn on_logged(&mut self, from: ReplicaId, message: Logged) {
        if from == self.me() {
            self.stalled = false;
            self.fitness.log.on_durable(Persist(message.point), self.now);
        }
    }

    fn on_deadline(&mut self, effects: &mut Effects<Self>) {
        if self.timers.fires(Timer::Election, self.now) {
            self.on_election_timeout(effects);
        }
        if self.timers.fires(Timer::Heartbeat, self.now) {
            self.on_heartbeat_time(effects);
        }
        if self.timers.fires(Timer::Settle, self.now) {
            self.settle_plan(effects);
        }
        if self.timers.fires(Timer::Repair, self.now) {
            self.repair_slots(effects);
        }
        if self.timers.fires(Timer::Propose, self.now) {
            self.retry_proposals(effects);
        }
        if self.timers.fires(Timer::Catchup, self.now) {
            self.due.catchup = true;
        }
        if self.timers.fires(Timer::Read, self.now) {
            self.give_back_reads(effects);
        }
        self.end_turn(effects);
    }

    fn on_message(
        &mut self,
        from: ReplicaId,
        message: Message,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        if from.index() >= self.group.replica_count || !message.is_plausible() {
            return;
        }
        self.fitness.hear(from, self.now);
        match message {
            Message::PreVote(message) => self.on_pre_vote(from, message, effects),
            Message::PreVoteReply(message) => self.on_pre_vote_reply(from, message, effects),
            Message::Prepare(message) => self.on_prepare(from, message, effects),
            Message::Promise(message) => self.on_promise(from, message, effects),
            Message::PromiseVote(message) => self.on_promise_vote(from, message, body, effects),
            Message::Refused(message) => self.on_refused(message, effects),
            Message::Any(message) => self.on_any(from, message.plan, effects),
            Message::Heartbeat(message) => self.on_heartbeat(from, message, effects),
            Message::HeartbeatReply(message) => self.on_heartbeat_reply(from, message, effects),
            Message::Propose(message) => self.on_propose(from, message, body, effects),
            Message::Skip(message) => self.on_skip(from, message, effects),
            Message::Votes(message) => self.on_votes(from, &message, effects),
            Message::SlotPrepare(message) => self.on_slot_prepare(from, message, effects),
            Message::SlotPromise(message) => self.on_slot_promise(from, message, body, effects),
            Message::Accept(message) => self.on_accept(from, message, body, effects),
            Message::Forward(_) => self.on_forward(body, effects),
            Message::PayloadRequest(message) => self.on_payload_request(from, message, effects),
            Message::PayloadReply(message) => self.on_payload_reply(message, body, effects),
            Message::CatchupRequest(message) => self.on_catchup_request(from, message, effects),
            Message::Decided(message) => self.on_decided(from, message, body, effects),
            Message::ReadRequest(message) => self.on_read_request(from, message, effects),
            Message::ReadReply(message) => self.on_read_reply(from, message, effects),
            Message::Condition(condition) => {
                self.fitness.on_condition(from, condition, self.now);
                // Who hears no coordinator has no other occasion.
                self.fitness.tell_condition(self.now, &self.tuning, effects);
            }
            Message::Logged(message) => self.on_logged(from, message),
            Message::TakeOver(message) => self.on_take_over(from, message, effects),
        }
    }
}

impl Protocol for Fast {
    const KIND: ProtocolKind = ProtocolKind::Fast;
    const ACCEPTS_IN_ORDER: bool = false;
    type Message = Message;
    type Record = Record;

    fn open(group: Group, tuning: Tuning, past: Past<'_>, random: Random) -> Self {
        let executed = past.executed.slot();
        assert!(group.me.index() < group.replica_count && group.home.index() < group.replica_count);
        Self {
            group,
            tuning,
            random,
            incarnation: past.incarnation,
            now: Instant::default(),
            role: Role::Follower,
            promised: Ballot::default(),
            recorded: Ballot::default(),
            seen: Ballot::default(),
            leader: None,
            heard: None,
            stalled: false,
            mute: false,
            plan: None,
            // No tail while the log is replayed: what is chosen is executed and leaves memory.
            slots: Slots::new(executed, 0),
            voted: executed,
            horizon: executed,
            floor: Slot(0),
            next_free: Slot(0),
            ballot_box: Vec::new(),
            // Below the snapshot the log may hold values that lost: the snapshot may have come from a peer.
            loadable_from: executed.next(),
            timers: Timers::default(),
            due: Due::default(),
            candidacy: Candidacy::default(),
            term: Term::default(),
            proposer: Proposer::default(),
            catchup: Catchup::default(),
            reads: Reads::new(past.incarnation),
            fitness: Fitness::new(group.me, group.replica_count),
            counters: Counters::default(),
        }
    }

    fn replay(&mut self, record: Record, body: Option<Frame>, effects: &mut Effects<Self>) {
        self.on_record(record, body, effects);
    }

    fn horizon(&self) -> Horizon {
        self.own_horizon()
    }

    fn forget(&mut self, peer: ReplicaId) {
        self.forget_peer(peer);
    }

    fn rejoin(&mut self, horizon: &Horizon, effects: &mut Effects<Self>) {
        self.rejoin_at(horizon, effects);
    }

    fn rejoined(&mut self, _: &mut Effects<Self>) {
        self.speak();
    }

    fn start(&mut self, now: Instant, effects: &mut Effects<Self>) {
        self.now = now;
        self.fitness.start(now);
        self.slots.keep_tail(self.tuning.tail_size_max);
        self.count_own_votes();
        // What the log calls chosen may rest on a vote that a lost disk has taken along: no promise may leave it out.
        self.advance_commit(effects);
        if self.group.replica_count == 1 {
            self.stand(effects);
            return;
        }
        // The home replica comes first when all start together, so that the coordinators of different groups spread.
        let timeout = self.tuning.election_timeout;
        let wait = if self.group.home == self.me() {
            self.random_wait(timeout / 2, timeout / 2)
        } else {
            self.random_wait(timeout + timeout / 2, timeout)
        };
        self.timers.arm(Timer::Election, now + wait);
    }

    fn step(&mut self, now: Instant, event: Event<Self>, effects: &mut Effects<Self>) {
        self.now = now;
        match event {
            Event::Propose(frame) => self.on_own_batch(frame),
            Event::ClientBatch(frame) => self.on_client_batch(frame, effects),
            Event::Deliver { from, message, body } => self.on_message(from, message, body, effects),
            Event::Read { context, .. } => self.on_read(context, effects),
            Event::Loaded(position, value) => self.on_loaded(position.slot(), value, effects),
            Event::Installed { covered, .. } => self.on_installed(covered.slot(), effects),
            Event::SnapshotSent(peer, _) => self.on_snapshot_sent(peer),
            Event::Deadline => self.on_deadline(effects),
            Event::Suspect(peer) => self.on_suspect(peer, effects),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.is_due() { Some(Instant(0)) } else { self.timers.next() }
    }

    fn record_place(record: &Record) -> Option<Place> {
        record.slot().map(|slot| Place { position: slot.into(), has_value: record.has_value() })
    }

    fn record_committed(record: &Record) -> Slot {
        record.commit()
    }

    fn restate(&self) -> Record {
        // Only what a durable snapshot covers is stated to be chosen: values below the commit index may still wait to be
        // written behind this record.
        Record::Promise(PromiseRecord { term: self.promised, commit: self.loadable_from.prev() })
    }

    fn truncated(&mut self, covered: &Frontier) {
        self.loadable_from = self.loadable_from.max(covered.slot().next());
    }

    fn may_decide(&self) -> bool {
        self.leader.is_some()
    }

    fn remnants(&self) -> Vec<(Remnant, Value)> {
        let remnant = |slot| {
            let open = self.slots.get(slot)?;
            let vote = open.vote.map(|vote| {
                let round::Round { term: ballot, classic: is_classic } = vote.round;
                (Standing::Accepted { ballot, is_classic }, vote.name)
            });
            let (standing, name) = open.chosen.map(|name| (Standing::Chosen, name)).or(vote)?;
            let value = self.slots.value(slot, name)?;
            Some((Remnant::at(slot, standing, &value), value))
        };
        (self.commit().0 + 1..=self.slots.last().0).map(Slot).filter_map(remnant).collect()
    }

    fn status(&self) -> Status {
        Status {
            leader: self.leader,
            leading: self.role == Role::Coordinator
                && self.plan.is_some_and(|plan| plan.from_slot <= self.commit().next()),
            ballot: self.promised,
            committed: self.commit(),
            last: self.voted,
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
