//! Basic Paxos as a log: every slot is decided by itself, in two full phases, by whoever proposes in it. No leader.
//!
//! Reading guide: [`message`] (what is said and written down), `slots` (what is kept per slot), `acceptor` (promises,
//! acceptances), `proposer` (both phases, back-off), `placement` (which slot a batch goes to, which holes are filled),
//! `learner` (what is chosen, catching up), `reads` (quorum reads).
//!
//! A proposer's run in one slot:
//! ```text
//!              batch placed,            quorum of promises:               quorum of votes
//!              hole to fill             own value or an adopted one
//!   (no run) ----------------> Prepare ----------------------> Accept ------------------> chosen
//!                                ^  |                            |                          ^
//!                        pause   |  | refused                    | refused                  |
//!                         over   |  v                            v                          |
//!                                '-------------- Pause <---------'                          |
//!                                                  '--------- somebody else finished -------'
//! ```
//! When the slot is chosen with another value, the batch of the run goes on to a later slot.
//!
//! # Why the preference for slots is no hidden leader
//! Concurrent proposers that all take the lowest free slot would fight for each one. So a proposer prefers the slots
//! whose number is its own modulo the number of replicas, and those of replicas that were not seen proposing lately.
//! That is a guess about where nobody else will be, made by each replica for itself from what it happened to hear; no
//! acceptor looks at it. Every slot still takes both phases, with promises for this slot only, asked for when there is
//! a batch (or a hole) for it and not before; no ballot is reserved and no replica's consent or survival is needed: any
//! replica may prepare any slot at any time, and does when a slot stays open. A wrong guess costs a duel and a pause.
//!
//! # Ballots
//! A round is an attempt in the high 32 bits and the incarnation of its owner in the low 32. The incarnation is durable
//! before anything is sent and attempts rise within one, so no ballot is used twice, and nothing need be written before
//! a Prepare: the own promise is one vote like any other. An attempt above every one seen gives a ballot above them.
//!
//! Invariants:
//! * No Promise or Accepted leaves before the record behind it is durable, the replica's own to itself included.
//! * A slot up to the commit position never changes; it was handed to [`Effects::choose`] once, in order, or lies in a
//!   snapshot. Its latest value in the log is the chosen one.
//! * A record says `commit` only if the values up to there lie before it in the log or in a durable snapshot.
//! * A batch is in at most one run; it leaves the run only when its slot is known to be chosen.

use std::collections::VecDeque;

use panch_wire::frame::Frame;
use panch_wire::ids::{BatchId, Incarnation, REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::time::{Duration, Instant};
use rand_xoshiro::rand_core::Rng;

use crate::ballot::Ballot;
use crate::frontier::Frontier;
use crate::protocol::{
    Counters, Dest, Effects, Event, Group, Past, Place, Protocol, ProtocolKind, Random, Status, Tuning, Value,
};
use crate::quorum::classic_quorum;
use crate::rejoin::Horizon;
use crate::remnant::{Remnant, Standing};
use crate::timers::{TimerKind, Timers};
use crate::window::{Entry, Window};

mod acceptor;
mod learner;
pub mod message;
mod placement;
mod proposer;
mod reads;
mod rejoin;
mod slots;
#[cfg(test)]
mod tests;

use learner::Learning;
use message::{
    Accept, Accepted, Chosen, CoveredRecord, Message, Prepare, Progress, Promise, Record, SlotSet,
};
use reads::Reads;
use slots::OpenSlots;

/// How many slots are open at least; more with larger groups and deeper pipelines.
const SPAN_MIN: u64 = 128;
/// And at most, whatever the settings.
const SPAN_MAX: u64 = 1 << 16;

#[derive(Clone, Copy, Debug)]
enum Timer {
    /// A run or a hole wants something, at the earliest.
    Slots,
    /// Chosen values are missing here.
    Learn,
    /// Time to say how far this replica is.
    Progress,
    /// A read round was not answered.
    Read,
}

impl TimerKind for Timer {
    fn index(self) -> usize {
        self as usize
    }
}

/// Slots to be named together in one message.
#[derive(Clone, Copy, Debug)]
struct Mark<Key> {
    key: Key,
    ballot: Ballot,
    slots: SlotSet,
}

/// Notes a slot for the message with this key and ballot.
fn mark<Key: PartialEq>(marks: &mut Vec<Mark<Key>>, key: Key, ballot: Ballot, slot: Slot) {
    let fits = |mark: &mut Mark<Key>| mark.key == key && mark.ballot == ballot && mark.slots.insert(slot);
    if !marks.iter_mut().any(fits) {
        marks.push(Mark { key, ballot, slots: SlotSet::one(slot) });
    }
}

/// What is left to be said at the end of this turn, so that one message says it for many slots.
#[derive(Default, Debug)]
struct Due {
    /// Prepare; the key says whether for batches.
    prepares: Vec<Mark<bool>>,
    /// Accept no-ops.
    noops: Vec<Mark<()>>,
    /// Promises without a value, to whom.
    promises: Vec<Mark<ReplicaId>>,
    /// Votes, to whom.
    votes: Vec<Mark<ReplicaId>>,
    /// Slots that this replica found to be chosen.
    chosen: Vec<Mark<()>>,
    /// Start a read round.
    read: bool,
}

impl Due {
    fn any(&self) -> bool {
        let Self { prepares, noops, promises, votes, chosen, read } = self;
        *read
            || !(prepares.is_empty()
                && noops.is_empty()
                && promises.is_empty()
                && votes.is_empty()
                && chosen.is_empty())
    }
}

/// One replica of a Basic Paxos group.
#[derive(Debug)]
pub struct Basic {
    group: Group,
    tuning: Tuning,
    random: Random,
    incarnation: Incarnation,
    now: Instant,
    /// What was accepted or learned, by slot.
    window: Window,
    /// What else is known of the slots beyond the commit position.
    open: OpenSlots,
    /// The highest slot that anybody is known to have used: everything up to here will be needed.
    used: Slot,
    /// An earlier life that is forgotten may have voted up to here.
    floor: Slot,
    /// Chosen values below this cannot be read back from the own log.
    loadable_from: Slot,
    /// Batches that have no slot yet, in the order in which they were proposed.
    queue: VecDeque<Frame>,
    /// Batches in runs.
    placed_count: usize,
    /// Own batches that are chosen beyond the commit position.
    decided: Vec<(Slot, BatchId)>,
    /// By replica: when it was last seen to propose a batch, this one included.
    proposing: [Option<Instant>; REPLICAS_MAX],
    /// One phase takes about this long, log write included: measured.
    pace: Duration,
    timers: Timers<Timer, 4>,
    /// What [`Timer::Slots`] is armed for.
    slots_at: Option<Instant>,
    due: Due,
    learning: Learning,
    reads: Reads,
    /// The highest ballot promised in any slot; for operators.
    highest: Ballot,
    counters: Counters,
}

impl Basic {
    fn me(&self) -> ReplicaId {
        self.group.me
    }

    fn quorum(&self) -> usize {
        classic_quorum(self.group.replica_count)
    }

    fn commit(&self) -> Slot {
        self.open.commit()
    }

    /// The highest slot in which something is accepted here, known to be chosen, or may have been accepted and forgotten.
    fn last(&self) -> Slot {
        self.window.last().max(self.commit()).max(self.floor)
    }

    /// A random time below `spread`.
    fn random_wait(&mut self, spread: Duration) -> Duration {
        Duration::from_nanos(self.random.next_u64() % (spread.as_nanos() as u64).max(1))
    }

    /// The slots are looked at again at `at` at the latest.
    fn wake(&mut self, at: Instant) {
        // Fires once too often rather than too late.
        if self.slots_at.is_none_or(|armed| at < armed) {
            self.slots_at = Some(at);
            self.timers.arm(Timer::Slots, at);
        }
    }

    /// Says at the end of the turn what was left for it.
    fn end_turn(&mut self, effects: &mut Effects<Self>) {
        for Mark { key, ballot, slots } in self.due.prepares.drain(..) {
            effects.send(Dest::All, Prepare { ballot, slots, for_batches: key }, None);
        }
        for Mark { ballot, slots, .. } in self.due.noops.drain(..) {
            effects.send(Dest::All, Accept { ballot, slots }, None);
        }
        // The last point covers the records behind all of them. [D1, D10]
        let after = effects.last_persist();
        for Mark { key, ballot, slots } in self.due.promises.drain(..) {
            effects.send_after(after, Dest::One(key), Promise { ballot, slots }, None);
        }
        for Mark { key, ballot, slots } in self.due.votes.drain(..) {
            effects.send_after(after, Dest::One(key), Accepted { ballot, slots }, None);
        }
        let commit = self.open.commit();
        for Mark { ballot, slots, .. } in self.due.chosen.drain(..) {
            effects.send(Dest::Others, Chosen { ballot, slots, commit }, None);
        }
        if std::mem::take(&mut self.due.read) {
            self.send_read_request(effects);
        }
    }

    fn on_deadline(&mut self, effects: &mut Effects<Self>) {
        if self.timers.fires(Timer::Slots, self.now) {
            self.slots_at = None;
            self.on_slots_time(effects);
        }
        if self.timers.fires(Timer::Learn, self.now) {
            self.on_learn_time(effects);
        }
        if self.timers.fires(Timer::Progress, self.now) {
            effects.send(Dest::Others, self.progress(), None);
            self.arm_progress();
        }
        if self.timers.fires(Timer::Read, self.now) {
            self.resend_read_request(effects);
        }
        self.end_turn(effects);
    }

    fn progress(&self) -> Progress {
        Progress { commit: self.commit(), last: self.last() }
    }

    fn arm_progress(&mut self) {
        self.timers.arm(Timer::Progress, self.now + self.tuning.heartbeat_interval);
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
        match message {
            Message::Prepare(message) => self.on_prepare(from, message, effects),
            Message::Promise(message) => self.on_promise(from, message, effects),
            Message::PromiseValue(message) => self.on_promise_value(from, message, body, effects),
            Message::Refused(message) => self.on_refused(message),
            Message::Accept(message) => self.on_accept(from, message, body, effects),
            Message::Accepted(message) => self.on_accepted(from, message, effects),
            Message::Chosen(message) => self.on_chosen(from, message, effects),
            Message::Learned(message) => self.on_learned(from, message, body.into(), effects),
            Message::LearnRequest(message) => self.on_learn_request(from, message, effects),
            Message::Progress(message) => self.on_progress(from, message),
            Message::ReadRequest(message) => self.on_read_request(from, message, effects),
            Message::ReadReply(message) => self.on_read_reply(from, message, effects),
        }
    }
}

impl Protocol for Basic {
    const KIND: ProtocolKind = ProtocolKind::Basic;
    const ACCEPTS_IN_ORDER: bool = false;
    type Message = Message;
    type Record = Record;

    fn open(group: Group, tuning: Tuning, past: Past<'_>, mut random: Random) -> Self {
        assert!(group.me.index() < group.replica_count && group.replica_count <= REPLICAS_MAX);
        let executed = past.executed.slot();
        let span = (8 * group.replica_count * tuning.pipeline_depth) as u64;
        // Replicas with the same seed must not pause alike. [T-B3]
        for _ in 0..group.me.0 {
            random.next_u64();
        }
        Self {
            group,
            tuning,
            random,
            incarnation: past.incarnation,
            now: Instant::default(),
            // No tail while the log is replayed: what is chosen is executed and leaves memory.
            window: Window::new(executed, 0),
            open: OpenSlots::new(executed, span.clamp(SPAN_MIN, SPAN_MAX)),
            used: executed,
            floor: Slot(0),
            // Below the snapshot the log may hold values that lost: the snapshot may have come from a peer.
            loadable_from: executed.next(),
            queue: VecDeque::new(),
            placed_count: 0,
            decided: Vec::new(),
            proposing: [None; REPLICAS_MAX],
            pace: tuning.heartbeat_interval / 8,
            timers: Timers::default(),
            slots_at: None,
            due: Due::default(),
            learning: Learning::default(),
            reads: Reads::new(past.incarnation),
            highest: Ballot::default(),
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

    fn rejoin(&mut self, horizon: &Horizon, _: &mut Effects<Self>) {
        self.rejoin_at(horizon);
    }

    fn rejoined(&mut self, _: &mut Effects<Self>) {}

    fn start(&mut self, now: Instant, _: &mut Effects<Self>) {
        self.now = now;
        self.window.keep_tail(self.tuning.tail_size_max);
        // What was left open is finished like any hole.
        let last = self.open.last();
        self.note_used(last.max(self.floor));
        for slot in (self.commit().0 + 1..=last.0).map(Slot) {
            self.touch(slot);
        }
        self.arm_progress();
    }

    fn step(&mut self, now: Instant, event: Event<Self>, effects: &mut Effects<Self>) {
        self.now = now;
        match event {
            Event::Propose(frame) => self.on_propose(frame),
            // Clients propose to acceptors in Fast Paxos only: refused before it gets here.
            Event::ClientBatch(_) => {}
            Event::Deliver { from, message, body } => self.on_message(from, message, body, effects),
            Event::Read { context, .. } => self.on_read(context, effects),
            Event::Loaded(position, value) => self.on_loaded(position.slot(), value, effects),
            Event::Installed { covered, .. } => self.on_installed(covered.slot(), effects),
            Event::SnapshotSent(peer, _) => self.learning.snapshotting.remove(peer),
            Event::Deadline => self.on_deadline(effects),
            Event::Suspect(peer) => self.on_suspect(peer),
        }
        self.place_batches();
    }

    fn deadline(&self) -> Option<Instant> {
        if self.due.any() { Some(Instant(0)) } else { self.timers.next() }
    }

    fn record_place(record: &Record) -> Option<Place> {
        record.slot().map(|slot| Place { position: slot.into(), has_value: record.has_value() })
    }

    fn record_committed(record: &Record) -> Slot {
        record.commit()
    }

    fn restate(&self) -> Record {
        // Only what a durable snapshot covers is stated to be chosen: values below the commit position may still wait to be
        // written behind this record.
        Record::Covered(CoveredRecord { commit: self.loadable_from.prev() })
    }

    fn truncated(&mut self, covered: &Frontier) {
        self.loadable_from = self.loadable_from.max(covered.slot().next());
    }

    fn remnants(&self) -> Vec<(Remnant, Value)> {
        let standing = |slot, ballot| match self.open.is_chosen(slot) {
            true => Standing::Chosen,
            false => Standing::Accepted { ballot, is_classic: true },
        };
        let entries = self.window.entries_from(self.commit().next());
        let remnant = |(slot, entry): (Slot, &Entry)| {
            (Remnant::at(slot, standing(slot, entry.ballot), &entry.value), entry.value.clone())
        };
        entries.map(remnant).collect()
    }

    fn status(&self) -> Status {
        Status {
            leader: None,
            leading: true,
            ballot: self.highest,
            committed: self.commit(),
            last: self.last(),
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
