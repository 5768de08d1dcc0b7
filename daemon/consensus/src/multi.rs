//! Multi-Paxos: one promised ballot for all slots, a leader that skips phase 1 while nobody challenges it.
//!
//! Reading guide: [`message`] (what is said and written down), `election` (pre-vote, phase 1), `leader` (phase 2,
//! commit, stepping down, transfer), `acceptor` (promises, acceptances, what a follower may commit), `trust`
//! (what is chosen is compared with what the leader proposes), `catchup` (what
//! each peer is sent next), `reads` (read index), `lease` (reads that the leader answers alone), `rejoin` (coming
//! back without a disk).
//!
//! ```text
//!              election timer          quorum of pre-votes           quorum of promises
//!   Follower ----------------> PreCandidate ------------> Candidate ------------------> Leader
//!      ^  ^                      |    ^                    |    |                         |
//!      |  '--- leader heard -----'    '---- timer ---------'    |                         |
//!      '------- higher ballot, too far behind ------------------'                         |
//!      '------- higher ballot, no contact with a quorum, own log stalled -----------------'
//! ```
//! The home replica, asked by the leader to take over, goes from Follower to Candidate directly.
//!
//! Invariants:
//! * `promised` never falls. No claim about it leaves before a record of it is durable (`recorded`).
//! * `commit <= accepted_upto`: every slot up to `accepted_upto` is known to be chosen or accepted in `promised`.
//! * A slot up to `commit` never changes; it was handed to [`Effects::choose`] once, in order, or lies in a snapshot.
//! * Role Leader or Candidate: `promised` is this replica's own ballot.
//! * The leader's entries up to `term.last` are in its ballot or chosen, without gaps.

use panch_wire::frame::Frame;
use panch_wire::ids::{Incarnation, ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};
use rand_xoshiro::rand_core::Rng;

use crate::ballot::Ballot;
use crate::fitness::Fitness;
use crate::frontier::Frontier;
use crate::protocol::{
    Counters, Dest, Effects, Event, Group, Past, Persist, Place, Protocol, ProtocolKind, Random, Status,
    Tuning, Value,
};
use crate::quorum::classic_quorum;
use crate::rejoin::Horizon;
use crate::remnant::{Remnant, Standing};
use crate::timers::{TimerKind, Timers};
use crate::window::{Entry, Window};

mod acceptor;
mod catchup;
mod election;
mod leader;
mod lease;
pub mod message;
mod reads;
mod rejoin;
#[cfg(test)]
mod tests;
mod trust;

use election::Candidacy;
use leader::Term;
use lease::Lease;
use message::{AcceptRecord, Accepted, Logged, Message, PromiseRecord, Record, Release};
use reads::Reads;
use trust::Trust;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    /// Nothing was heard from a leader, or an attempt to become one took too long.
    Election,
    /// The leader's next heartbeat and its check of contact, own log and transfer.
    Heartbeat,
    /// A read index request was not answered.
    ReadIndex,
    /// The leases that acceptors told a candidate of are over.
    LeaseEnd,
}

impl TimerKind for Timer {
    fn index(self) -> usize {
        self as usize
    }
}

/// What is left to be said at the end of this turn, so that one message says it for the whole turn.
#[derive(Clone, Copy, Default, Debug)]
struct Due {
    /// Acknowledge `accepted_upto` to the leader.
    ack: bool,
    /// Tell followers what is chosen, unless an Accept did.
    commit: bool,
    /// Start a heartbeat round for the reads that wait.
    round: bool,
    /// Ask the leader for a read index.
    read_index: bool,
}

impl Due {
    fn any(self) -> bool {
        self.ack || self.commit || self.round || self.read_index
    }
}

/// One replica of a Multi-Paxos group.
#[derive(Clone, Debug)]
pub struct Multi {
    group: Group,
    tuning: Tuning,
    random: Random,
    incarnation: Incarnation,
    now: Instant,
    role: Role,
    /// The highest ballot promised.
    promised: Ballot,
    /// The highest ballot in any record of this replica's log.
    recorded: Ballot,
    /// The highest ballot heard of.
    seen: Ballot,
    /// The leader in ballot `promised`, once it has shown itself.
    leader: Option<ReplicaId>,
    /// When a leader, or a candidate with a promise of ours, was last heard.
    heard: Option<Instant>,
    /// What the leader in that ballot has said of what was chosen before.
    trust: Trust,
    /// The own log did not become durable in time: not fit to lead until it does.
    stalled: bool,
    /// The own state is wrong: never fit to lead.
    disqualified: bool,
    window: Window,
    /// Everything up to here is known to be chosen.
    commit: Slot,
    /// Since when it is no more.
    commit_since: Instant,
    /// The own log says so of everything up to here.
    commit_noted: Slot,
    /// Everything up to here is known to be chosen, or accepted in `promised`.
    accepted_upto: Slot,
    /// Chosen values below this cannot be read back from the own log.
    loadable_from: Slot,
    /// Loads that were asked for and not answered yet.
    loading: Vec<Slot>,
    timers: Timers<Timer, 4>,
    due: Due,
    candidacy: Candidacy,
    term: Term,
    reads: Reads,
    lease: Lease,
    fitness: Fitness,
    /// While mute: what must be executed first.
    floor: Slot,
    /// Whether an earlier life may have granted a lease.
    restarted: bool,
    counters: Counters,
}

impl Multi {
    fn me(&self) -> ReplicaId {
        self.group.me
    }

    fn quorum(&self) -> usize {
        classic_quorum(self.group.replica_count)
    }

    fn peers(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let me = self.group.me;
        (0..self.group.replica_count as u8).map(ReplicaId).filter(move |peer| *peer != me)
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

    /// Everything up to `slot` is chosen. Every slot on the way is in the window with its chosen value.
    fn commit_to(&mut self, slot: Slot, effects: &mut Effects<Self>) {
        while self.commit < slot {
            let next = self.commit.next();
            let Some(entry) = self.window.get(next) else {
                assert!(!holds(Rule::AckContiguous), "a slot is committed only while its value is in memory");
                break;
            };
            let batch = entry.value.body().map(Frame::id);
            if let Some(own) = batch.filter(|id| id.is_of(self.group.me, self.incarnation)) {
                effects.commit(own);
            }
            effects.choose(next, entry.value.clone());
            self.commit = next;
            self.commit_since = self.now;
        }
        self.window.advance_chosen(self.commit);
        self.accepted_upto = self.accepted_upto.max(self.commit);
        self.advance_accepted();
    }

    /// Extends `accepted_upto` over entries that were accepted in the promised ballot.
    fn advance_accepted(&mut self) {
        while self.window.get(self.accepted_upto.next()).is_some_and(|entry| entry.ballot == self.promised) {
            self.accepted_upto = self.accepted_upto.next();
        }
    }

    /// Accepts `value` in the promised ballot and writes it down; the acknowledgement follows at the end of the turn.
    fn accept(&mut self, slot: Slot, value: Value, effects: &mut Effects<Self>) {
        let ballot = self.promised;
        let record = Record::Accept(AcceptRecord { ballot, slot, commit: self.commit });
        // The acknowledgement names the last point of the turn, which is not before this one.
        let _ = effects.persist(record, value.body());
        self.recorded = ballot;
        if self.window.get(slot).is_some_and(|old| old.ballot != ballot && old.value != value) {
            self.counters.overwritten += 1;
        }
        self.window.set(slot, Entry { ballot, value });
        self.due.ack = true;
    }

    /// Writes down what is chosen when nothing more comes: the next acceptance would have said it. Who is restarted then still knows what
    /// was decided, even if those that decided it with him have forgotten. Heartbeats for reads come between writes, too: only a commit
    /// index that has stood for a while is worth a write, which the next acceptance may have to wait for. Entries of older ballots beyond
    /// what is accepted may stay for as long as nobody writes.
    fn note_commit(&mut self, effects: &mut Effects<Self>) {
        let is_at_rest = self.accepted_upto == self.commit
            && self.now.since(self.commit_since) >= self.tuning.heartbeat_interval / 2;
        if is_at_rest && self.commit > self.commit_noted && holds(Rule::CommitNoted) {
            self.commit_noted = self.commit;
            self.recorded = self.promised;
            let record = PromiseRecord { ballot: self.promised, commit: self.commit };
            let _ = effects.persist(Record::Promise(record), None);
        }
    }

    /// Says at the end of the turn what was left for it.
    fn end_turn(&mut self, effects: &mut Effects<Self>) {
        if std::mem::take(&mut self.due.ack)
            && let Some(leader) = self.leader
        {
            // The acknowledgement covers every acceptance so far, so it waits for the last of them. [D1, D10]
            let accepted = Accepted { ballot: self.promised, upto: self.acknowledged() };
            effects.send_after(effects.last_persist(), Dest::One(leader), accepted, None);
        }
        if std::mem::take(&mut self.due.round) && self.role == Role::Leader {
            self.send_heartbeats(effects);
        }
        if std::mem::take(&mut self.due.commit) && self.role == Role::Leader {
            self.send_commits(effects);
        }
        if std::mem::take(&mut self.due.read_index) {
            self.send_read_index_request(effects);
        }
        self.fitness.ask_own_log(self.now, &self.tuning, effects);
    }

    fn on_logged(&mut self, from: ReplicaId, message: Logged) {
        if from == self.me() {
            self.fitness.log.on_durable(Persist(message.point), self.now);
            self.lease.on_durable(Persist(message.point));
        }
    }

    fn on_deadline(&mut self, effects: &mut Effects<Self>) {
        if self.timers.fires(Timer::Election, self.now) {
            self.on_election_timeout(effects);
        }
        if self.timers.fires(Timer::Heartbeat, self.now) {
            self.on_heartbeat_time(effects);
        }
        if self.timers.fires(Timer::ReadIndex, self.now) {
            self.retry_own_reads(effects);
        }
        if self.timers.fires(Timer::LeaseEnd, self.now) {
            self.on_lease_end(effects);
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
        if from == self.me() {
            // Only claims come back to their sender, and only once durable.
            self.stalled = false;
            self.lease.on_log_progress();
        }
        self.fitness.hear(from, self.now);
        match message {
            Message::PreVote(message) => self.on_pre_vote(from, message, effects),
            Message::PreVoteReply(message) => self.on_pre_vote_reply(from, message, effects),
            Message::Prepare(message) => self.on_prepare(from, message, effects),
            Message::Promise(message) => self.on_promise(from, message, effects),
            Message::PromiseEntry(message) => self.on_promise_entry(from, message, body, effects),
            Message::Refused(message) => self.on_refused(from, message, effects),
            Message::Accept(message) => self.on_accept(from, message, body, effects),
            Message::Accepted(message) => self.on_accepted(from, message, effects),
            Message::Gap(message) => self.on_gap(from, message, effects),
            Message::Commit(message) => self.on_commit(from, message, effects),
            Message::Heartbeat(message) => self.on_heartbeat(from, message, effects),
            Message::HeartbeatReply(message) => self.on_heartbeat_reply(from, message, effects),
            Message::ReadIndexRequest(message) => self.on_read_index_request(from, message, effects),
            Message::ReadIndexReply(message) => self.on_read_index_reply(message, effects),
            Message::Forward(_) => self.on_forward(body, effects),
            Message::TransferLeader(message) => self.on_transfer_leader(from, message, effects),
            Message::FillRequest(message) => self.on_fill_request(message, effects),
            Message::Condition(condition) => {
                self.fitness.on_condition(from, condition, self.now);
                // Who hears no leader has no other occasion.
                self.fitness.tell_condition(self.now, &self.tuning, effects);
            }
            Message::Logged(message) => self.on_logged(from, message),
            Message::Proposed(message) => self.on_proposed(from, message, effects),
        }
    }
}

impl Protocol for Multi {
    const KIND: ProtocolKind = ProtocolKind::Multi;
    const ACCEPTS_IN_ORDER: bool = true;
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
            trust: Trust::default(),
            stalled: false,
            disqualified: false,
            // No tail while the log is replayed: what is chosen is executed and leaves memory.
            window: Window::new(executed, 0),
            commit: executed,
            commit_since: Instant::default(),
            commit_noted: executed,
            accepted_upto: executed,
            // Below the snapshot the log may hold values that lost: the snapshot may have come from a peer.
            loadable_from: executed.next(),
            loading: Vec::new(),
            timers: Timers::default(),
            due: Due::default(),
            candidacy: Candidacy::default(),
            term: Term::default(),
            reads: Reads::new(past.incarnation),
            lease: Lease::new(),
            fitness: Fitness::new(group.me, group.replica_count),
            floor: Slot(0),
            restarted: past.incarnation.0 > 1,
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
        // While records were replayed the promise rose over what had been accepted below it.
        self.trust = self.trust.restarted(self.commit);
        self.accepted_upto = self.commit;
        self.advance_accepted();
        self.window.keep_tail(self.tuning.tail_size_max);
        if self.group.replica_count == 1 {
            self.stand(Release::default(), effects);
            return;
        }
        self.lease.start(&self.tuning, self.restarted, now);
        self.name_lease(effects);
        // The home replica comes first when all start together, so that the leaders of different groups spread.
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
            Event::Propose(frame) => self.on_propose(frame, effects),
            // Clients propose to acceptors in Fast Paxos only: refused before it gets here.
            Event::ClientBatch(_) => {}
            Event::Deliver { from, message, body } => self.on_message(from, message, body, effects),
            Event::Read { context, lease } => self.on_read(context, lease, effects),
            Event::Loaded(position, value) => self.on_loaded(position.slot(), value, effects),
            Event::Installed { covered, .. } => self.on_installed(covered.slot(), effects),
            Event::SnapshotSent(peer, upto) => self.on_snapshot_sent(peer, upto, effects),
            Event::Deadline => self.on_deadline(effects),
            Event::Suspect(peer) => self.on_suspect(peer, effects),
        }
        assert!(
            self.commit <= self.accepted_upto,
            "group {:?}: acknowledged less than committed",
            self.group.id
        );
    }

    fn deadline(&self) -> Option<Instant> {
        if self.due.any() { Some(Instant(0)) } else { self.timers.next() }
    }

    fn record_place(record: &Record) -> Option<Place> {
        record.slot().map(|slot| Place { position: slot.into(), has_value: true })
    }

    fn record_committed(record: &Record) -> Slot {
        record.commit()
    }

    fn restate(&self) -> Record {
        // Only what a durable snapshot covers is stated to be chosen: acceptances below the commit index may still wait to
        // be written behind this record, and a crash between the two would leave a losing value in their place.
        let (ballot, commit) = (self.promised, self.loadable_from.prev());
        self.lease.restated(ballot, commit).unwrap_or(Record::Promise(PromiseRecord { ballot, commit }))
    }

    fn truncated(&mut self, covered: &Frontier) {
        self.loadable_from = self.loadable_from.max(covered.slot().next());
    }

    fn may_decide(&self) -> bool {
        self.leader.is_some()
    }

    fn remnants(&self) -> Vec<(Remnant, Value)> {
        let remnant = |(slot, entry): (Slot, &Entry)| {
            let standing = Standing::Accepted { ballot: entry.ballot, is_classic: true };
            (Remnant::at(slot, standing, &entry.value), entry.value.clone())
        };
        self.window.entries_from(self.commit.next()).map(remnant).collect()
    }

    fn disqualify(&mut self, effects: &mut Effects<Self>) {
        self.disqualified = true;
        self.fitness.disqualify();
        if self.role != Role::Follower && self.group.replica_count > 1 {
            self.counters.step_downs += u64::from(self.role == Role::Leader);
            self.become_follower(effects);
        }
    }

    fn status(&self) -> Status {
        Status {
            leader: self.leader,
            leading: self.role == Role::Leader && self.term.start <= self.commit,
            ballot: self.promised,
            committed: self.commit,
            last: self.window.last(),
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
