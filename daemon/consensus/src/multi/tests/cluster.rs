//! A deterministic cluster in one thread: virtual time, a network that delays, loses and duplicates, and per replica a
//! log whose tail is lost in a crash.
//!
//! It checks all the time: one value per slot at all replicas for ever, values chosen in slot order, no read below
//! what any replica knew to be chosen when the read arrived.

use std::collections::BTreeMap;

use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, GroupId, Incarnation, ReplicaId, Slot};
use panch_wire::record::Fixed;
use panch_wire::rule;
use panch_wire::time::{Duration, Instant};
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::super::Multi;
use super::super::message::{Message, Record};
use crate::protocol::{Dest, Effects, Event, Group, Outgoing, Protocol, Random, ReadContext, Tuning, Value};

/// What a filter does with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Pass,
    Drop,
    /// Kept until [`Cluster::release_held`].
    Hold,
}

type Filter = Box<dyn FnMut(u8, u8, &Message) -> Verdict>;

struct Packet {
    from: u8,
    to: u8,
    message: Message,
    body: Option<Frame>,
}

enum Happening {
    Arrive(Packet),
    Durable { node: u8, incarnation: u32, length: usize },
    Loaded { node: u8, incarnation: u32, slot: Slot },
    Snapshot { from: u8, to: u8, incarnation: u32 },
}

/// One run of a replica between a start and a crash.
struct Life {
    multi: Multi,
    effects: Effects<Multi>,
    /// Length of the log when it started: point `p` of this life is durable when `base + p` records are.
    base: usize,
    held: Vec<(usize, Outgoing<Message>)>,
    /// The last slot handed to the state machine.
    chosen: Slot,
    counter: u64,
    outstanding: BTreeMap<u64, Frame>,
}

pub(super) struct Node {
    life: Option<Life>,
    incarnation: u32,
    log: Vec<(Record, Option<Frame>)>,
    /// Records before this one were recycled.
    log_start: usize,
    /// How many records are durable.
    durable: usize,
    /// The restated record that must be durable before the log below the slot is recycled.
    recycling: Option<(usize, Slot)>,
    /// The log cannot be read below this.
    loadable_from: Slot,
    /// The durable snapshot.
    executed: Slot,
    disk_free_at: Instant,
    disk_stalled: bool,
}

/// Chances in percent and times of the random network and disk.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub(super) drop: u64,
    pub(super) duplicate: u64,
    pub(super) delay: Duration,
    pub(super) slow: u64,
    pub(super) slow_delay: Duration,
    /// Messages of a link stay in order.
    pub(super) fifo: bool,
    pub(super) disk: Duration,
}

pub(super) const CALM: Weather = Weather {
    drop: 0,
    duplicate: 0,
    delay: Duration::from_micros(500),
    slow: 0,
    slow_delay: Duration::ZERO,
    fifo: true,
    disk: Duration::from_micros(300),
};

pub(super) struct Cluster {
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) nodes: Vec<Node>,
    pub(super) weather: Weather,
    pub(super) filter: Option<Filter>,
    pool: FramePool,
    tuning: Tuning,
    home: u8,
    happenings: BTreeMap<(Instant, u64), Happening>,
    sequence: u64,
    held: Vec<Packet>,
    blocked: Vec<(u8, u8)>,
    /// When the last message of a link arrives.
    links: [[Instant; 5]; 5],
    /// What each slot was decided to hold; `None`: a no-op.
    pub(super) decided: BTreeMap<Slot, Option<BatchId>>,
    /// Outstanding reads: who asked, and what every read from then on must see.
    reads: BTreeMap<u64, Slot>,
    read_count: u64,
    pub(super) reads_served: u64,
}

impl Cluster {
    /// All replicas are started; replica `home` has the shortest first timeout.
    pub(super) fn new(replica_count: u8, home: u8, seed: u64, tuning: Tuning) -> Self {
        let node = || Node {
            life: None,
            incarnation: 0,
            log: Vec::new(),
            log_start: 0,
            durable: 0,
            recycling: None,
            loadable_from: Slot(1),
            executed: Slot(0),
            disk_free_at: Instant(0),
            disk_stalled: false,
        };
        let mut cluster = Self {
            now: Instant(1),
            random: Random::seed_from_u64(seed),
            nodes: (0..replica_count).map(|_| node()).collect(),
            weather: CALM,
            filter: None,
            pool: FramePool::new(1 << 30),
            tuning,
            home,
            happenings: BTreeMap::new(),
            sequence: 0,
            held: Vec::new(),
            blocked: Vec::new(),
            links: [[Instant(0); 5]; 5],
            decided: BTreeMap::new(),
            reads: BTreeMap::new(),
            read_count: 0,
            reads_served: 0,
        };
        for id in 0..replica_count {
            cluster.restart(id);
        }
        cluster
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound.max(1)
    }

    fn random_time(&mut self, max: Duration) -> Duration {
        Duration::from_nanos(self.below(max.as_nanos() as u64) + 1000)
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.sequence += 1;
        self.happenings.insert((at, self.sequence), happening);
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.nodes.len() as u8
    }

    pub(super) fn is_up(&self, id: u8) -> bool {
        self.nodes[usize::from(id)].life.is_some()
    }

    pub(super) fn multi(&self, id: u8) -> &Multi {
        &self.nodes[usize::from(id)].life.as_ref().expect("the replica is up").multi
    }

    // Faults.

    pub(super) fn crash(&mut self, id: u8) {
        let keep = self.below(4);
        let node = &mut self.nodes[usize::from(id)];
        if node.life.take().is_some() {
            // Any part of what was not acknowledged may have reached the disk.
            let unsure = (node.log.len() - node.durable) as u64;
            let survived = node.durable + (unsure * keep / 4) as usize;
            node.log.truncate(survived);
            node.durable = survived;
            node.recycling = None;
        }
    }

    /// A crash that keeps nothing of what was not acknowledged as durable.
    pub(super) fn crash_hard(&mut self, id: u8) {
        let node = &mut self.nodes[usize::from(id)];
        node.log.truncate(node.durable);
        self.crash(id);
    }

    pub(super) fn restart(&mut self, id: u8) {
        if self.is_up(id) {
            return;
        }
        let random = Random::seed_from_u64(self.random.next_u64());
        let replica_count = self.nodes.len();
        let group = Group { id: GroupId(1), me: ReplicaId(id), replica_count, home: ReplicaId(self.home) };
        let node = &mut self.nodes[usize::from(id)];
        node.incarnation += 1;
        node.disk_free_at = self.now;
        node.disk_stalled = false;
        node.loadable_from = node.loadable_from.max(node.executed.next());
        let mut multi = Multi::open(group, self.tuning, node.executed, Incarnation(node.incarnation), random);
        let mut effects = Effects::default();
        for (record, body) in &node.log[node.log_start..] {
            multi.replay(*record, body.clone(), &mut effects);
        }
        assert!(effects.records.is_empty() && effects.outgoing.is_empty(), "replay only chooses");
        multi.start(self.now, &mut effects);
        node.life = Some(Life {
            multi,
            effects,
            base: node.log.len(),
            held: Vec::new(),
            chosen: node.executed,
            counter: 0,
            outstanding: BTreeMap::new(),
        });
        self.carry_out(id);
    }

    pub(super) fn block(&mut self, from: u8, to: u8) {
        self.blocked.push((from, to));
    }

    /// Cuts `id` off from everybody else.
    pub(super) fn isolate(&mut self, id: u8) {
        for other in self.ids().filter(|other| *other != id) {
            self.block(id, other);
            self.block(other, id);
        }
    }

    /// All links work again; filters and bad weather are gone.
    pub(super) fn heal(&mut self) {
        self.blocked.clear();
        self.filter = None;
        self.weather = CALM;
    }

    pub(super) fn stall_disk(&mut self, id: u8, stalled: bool) {
        self.nodes[usize::from(id)].disk_stalled = stalled;
        if !stalled && self.is_up(id) {
            self.schedule_durable(id);
        }
    }

    /// A message arrives now, past everything that keeps messages back.
    pub(super) fn inject(&mut self, from: u8, to: u8, message: impl Into<Message>) {
        self.step(to, Event::Deliver { from: ReplicaId(from), message: message.into(), body: None });
    }

    pub(super) fn held_count(&self) -> usize {
        self.held.len()
    }

    pub(super) fn release_held(&mut self) {
        for packet in std::mem::take(&mut self.held) {
            self.schedule(self.now, Happening::Arrive(packet));
        }
    }

    /// The state machine's snapshot becomes durable; the log below it, but for a few slots, is recycled.
    pub(super) fn snapshot(&mut self, id: u8, keep: u64) {
        let node = &mut self.nodes[usize::from(id)];
        let Some(life) = &mut node.life else { return };
        node.executed = life.chosen;
        let below = Slot((life.chosen.0 + 1).saturating_sub(keep));
        if below > node.loadable_from {
            node.loadable_from = below;
            life.multi.truncated(below);
            let restated = life.multi.restate();
            // The restated record opens a new segment and goes the way of all records.
            let _ = life.effects.persist(restated, None);
            node.recycling = Some((node.log.len() + 1, below));
            self.carry_out(id);
        }
    }

    // Work.

    pub(super) fn propose(&mut self, id: u8) -> Option<BatchId> {
        let node = &mut self.nodes[usize::from(id)];
        let life = node.life.as_mut()?;
        if life.outstanding.len() >= self.tuning.pipeline_depth {
            return None;
        }
        life.counter += 1;
        let frame = super::batch(&self.pool, id, node.incarnation, life.counter);
        let batch = frame.id();
        life.outstanding.insert(life.counter, frame.clone());
        self.step(id, Event::Propose(frame));
        Some(batch)
    }

    /// Proposes everything again that is not chosen, as a proposer does after a while.
    pub(super) fn repropose(&mut self, id: u8) {
        let Some(life) = &self.nodes[usize::from(id)].life else { return };
        let frames: Vec<_> = life.outstanding.values().cloned().collect();
        for frame in frames {
            self.step(id, Event::Propose(frame));
        }
    }

    pub(super) fn read(&mut self, id: u8) {
        if self.is_up(id) {
            self.read_count += 1;
            let known = self.decided.keys().next_back().copied().unwrap_or_default();
            self.reads.insert(self.read_count, known);
            self.step(id, Event::Read(ReadContext(self.read_count)));
        }
    }

    pub(super) fn chosen_upto(&self, id: u8) -> Slot {
        self.nodes[usize::from(id)].life.as_ref().map_or(Slot(0), |life| life.chosen)
    }

    /// Whether everything proposed there is known there to be chosen.
    pub(super) fn is_idle(&self, id: u8) -> bool {
        self.nodes[usize::from(id)].life.as_ref().is_none_or(|life| life.outstanding.is_empty())
    }

    pub(super) fn is_decided(&self, batch: BatchId) -> bool {
        self.decided.values().any(|value| *value == Some(batch))
    }

    pub(super) fn leader(&self) -> Option<u8> {
        let leading = |id: &u8| self.is_up(*id) && self.multi(*id).status().leading;
        self.ids().filter(leading).max_by_key(|id| self.multi(*id).status().ballot)
    }

    // Time.

    fn next_time(&self) -> Option<Instant> {
        let timers = self.nodes.iter().flatten_lives().filter_map(|life| life.multi.deadline()).min();
        let happening = self.happenings.keys().next().map(|(at, _)| *at);
        timers.into_iter().chain(happening).min()
    }

    pub(super) fn run_until(&mut self, end: Instant) {
        while let Some(at) = self.next_time().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let due = self.happenings.keys().next().copied().filter(|(at, _)| *at <= self.now);
            if let Some(happening) = due.and_then(|key| self.happenings.remove(&key)) {
                self.happen(happening);
                continue;
            }
            for id in self.ids() {
                if self.is_up(id) && self.multi(id).deadline().is_some_and(|at| at <= self.now) {
                    self.step(id, Event::Deadline);
                }
            }
        }
        self.now = self.now.max(end);
    }

    pub(super) fn run_for(&mut self, milliseconds: u64) {
        self.run_until(self.now + Duration::from_millis(milliseconds));
    }

    /// Runs until `done`; panics if that takes longer than the given time.
    pub(super) fn run_till(&mut self, what: &str, milliseconds: u64, done: impl Fn(&Self) -> bool) {
        for _ in 0..milliseconds {
            if done(self) {
                return;
            }
            self.run_for(1);
        }
        panic!("progress: {what} took too long");
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive(Packet { from, to, message, body }) => {
                if self.is_up(to) {
                    self.step(to, Event::Deliver { from: ReplicaId(from), message, body });
                }
            }
            Happening::Durable { node: id, incarnation, length } => {
                let node = &mut self.nodes[usize::from(id)];
                if node.incarnation == incarnation && node.life.is_some() && !node.disk_stalled {
                    node.durable = node.durable.max(length);
                    self.recycle(id);
                    self.release(id);
                }
            }
            Happening::Loaded { node: id, incarnation, slot } => {
                let node = &self.nodes[usize::from(id)];
                if node.incarnation == incarnation && node.life.is_some() {
                    let of_slot = |entry: &&(Record, Option<Frame>)| entry.0.slot() == Some(slot);
                    let found = node.log[node.log_start..].iter().rev().find(of_slot);
                    let value = found
                        .filter(|_| slot >= node.loadable_from)
                        .map(|(_, body)| Value::from(body.clone()));
                    self.step(id, Event::Loaded(slot, value));
                }
            }
            Happening::Snapshot { from, to, incarnation } => self.transfer_snapshot(from, to, incarnation),
        }
    }

    fn transfer_snapshot(&mut self, from: u8, to: u8, incarnation: u32) {
        let node = &self.nodes[usize::from(from)];
        if node.incarnation != incarnation || node.life.is_none() {
            return;
        }
        let slot = self.chosen_upto(from);
        let reachable = self.is_up(to) && !self.blocked.contains(&(from, to));
        if reachable && self.chosen_upto(to) < slot {
            let node = &mut self.nodes[usize::from(to)];
            node.executed = slot;
            node.loadable_from = slot.next();
            node.life.as_mut().expect("checked above").chosen = slot;
            self.step(to, Event::Installed(slot));
        }
        let acknowledged = reachable && !self.blocked.contains(&(to, from));
        self.step(from, Event::SnapshotSent(ReplicaId(to), acknowledged.then_some(slot)));
    }

    fn step(&mut self, id: u8, event: Event<Multi>) {
        let now = self.now;
        let Some(life) = &mut self.nodes[usize::from(id)].life else { return };
        life.multi.step(now, event, &mut life.effects);
        let mut turns = 0;
        while life.multi.deadline().is_some_and(|at| at <= now) {
            life.multi.step(now, Event::Deadline, &mut life.effects);
            turns += 1;
            assert!(turns < 10, "the end of a turn never ends");
        }
        self.carry_out(id);
    }

    /// Does what the effects of `id` ask for.
    fn carry_out(&mut self, id: u8) {
        let node = &mut self.nodes[usize::from(id)];
        let Some(life) = &mut node.life else { return };
        let wrote = !life.effects.records.is_empty();
        node.log.append(&mut life.effects.records);
        let outgoing = std::mem::take(&mut life.effects.outgoing);
        let chosen = std::mem::take(&mut life.effects.chosen);
        let reads = std::mem::take(&mut life.effects.reads);
        let loads = std::mem::take(&mut life.effects.loads);
        let snapshots = std::mem::take(&mut life.effects.snapshots);
        let repropose = std::mem::take(&mut life.effects.repropose);
        let incarnation = node.incarnation;
        if wrote {
            self.schedule_durable(id);
        }
        for (slot, value) in chosen {
            self.on_chosen(id, slot, &value);
        }
        for (context, at) in reads {
            let known = self.reads.remove(&context.0).expect("a read is answered once");
            if let Some(at) = at {
                assert!(at >= known, "linearizability: a read at {at:?} missed {known:?}");
                self.reads_served += 1;
            }
        }
        for message in outgoing {
            self.admit(id, message);
        }
        for slot in loads {
            let at = self.now + self.random_time(Duration::from_millis(2));
            self.schedule(at, Happening::Loaded { node: id, incarnation, slot });
        }
        for peer in snapshots {
            let at = self.now + self.random_time(Duration::from_millis(20));
            self.schedule(at, Happening::Snapshot { from: id, to: peer.0.0, incarnation });
        }
        if repropose {
            self.repropose(id);
        }
    }

    fn on_chosen(&mut self, id: u8, slot: Slot, value: &Value) {
        let batch = value.body().map(Frame::id);
        let life = self.nodes[usize::from(id)].life.as_mut().expect("only a live replica chooses");
        assert_eq!(slot, life.chosen.next(), "values are chosen in slot order");
        life.chosen = slot;
        if let Some(batch) = batch.filter(|batch| batch.proposer == ReplicaId(id)) {
            life.outstanding.remove(&batch.counter);
        }
        let decided = *self.decided.entry(slot).or_insert(batch);
        assert_eq!(batch, decided, "agreement: replica {id} disagrees about {slot:?}");
    }

    fn schedule_durable(&mut self, id: u8) {
        let time = self.random_time(self.weather.disk);
        let node = &mut self.nodes[usize::from(id)];
        let at = self.now.max(node.disk_free_at) + time;
        node.disk_free_at = at;
        let happening =
            Happening::Durable { node: id, incarnation: node.incarnation, length: node.log.len() };
        self.schedule(at, happening);
    }

    fn recycle(&mut self, id: u8) {
        let node = &mut self.nodes[usize::from(id)];
        if let Some((restated, below)) = node.recycling.filter(|(restated, _)| *restated <= node.durable) {
            let needed = |entry: &(Record, Option<Frame>)| entry.0.slot().is_some_and(|slot| slot >= below);
            let first = node.log[node.log_start..restated - 1].iter().position(needed);
            node.log_start = first.map_or(restated - 1, |first| node.log_start + first);
            node.recycling = None;
        }
    }

    /// The gate: claims wait until what they claim is durable.
    fn admit(&mut self, id: u8, message: Outgoing<Message>) {
        let node = &mut self.nodes[usize::from(id)];
        let life = node.life.as_mut().expect("only a live replica sends");
        if let Some((after, rule)) = message.after {
            let needed = life.base + after.0 as usize;
            if needed > node.durable && rule::holds(rule) {
                life.held.push((needed, message));
                return;
            }
        }
        self.send(id, message);
    }

    fn release(&mut self, id: u8) {
        let node = &mut self.nodes[usize::from(id)];
        let Some(life) = &mut node.life else { return };
        let ready: Vec<_> = life.held.extract_if(.., |(needed, _)| *needed <= node.durable).collect();
        for (_, message) in ready {
            self.send(id, message);
        }
    }

    fn send(&mut self, from: u8, outgoing: Outgoing<Message>) {
        let Outgoing { dest, message, body, .. } = outgoing;
        for to in self.ids() {
            let meant = match dest {
                Dest::One(one) => one.0 == to,
                Dest::Others => to != from,
                Dest::All => true,
            };
            if meant {
                self.send_one(Packet { from, to, message, body: body.clone() });
            }
        }
    }

    fn send_one(&mut self, packet: Packet) {
        let Packet { from, to, message, .. } = packet;
        if from == to {
            self.schedule(self.now, Happening::Arrive(packet));
            return;
        }
        let mut bytes = Vec::new();
        message.encode_fixed(&mut bytes);
        assert_eq!(Message::decode_fixed(&bytes), Some(message));
        if self.blocked.contains(&(from, to)) || self.below(100) < self.weather.drop {
            return;
        }
        match self.filter.as_mut().map_or(Verdict::Pass, |filter| filter(from, to, &message)) {
            Verdict::Pass => {}
            Verdict::Drop => return,
            Verdict::Hold => {
                self.held.push(packet);
                return;
            }
        }
        let copies = if self.below(100) < self.weather.duplicate { 2 } else { 1 };
        for _ in 0..copies {
            let slow = self.below(100) < self.weather.slow;
            let time = if slow { self.weather.slow_delay } else { self.weather.delay };
            let mut at = self.now + self.random_time(time);
            if self.weather.fifo {
                let link = &mut self.links[usize::from(from)][usize::from(to)];
                *link = at.max(*link);
                at = *link;
            }
            let copy = Packet { from, to, message, body: packet.body.clone() };
            self.schedule(at, Happening::Arrive(copy));
        }
    }
}

trait Lives<'a> {
    fn flatten_lives(self) -> impl Iterator<Item = &'a Life>;
}

impl<'a, I: Iterator<Item = &'a Node>> Lives<'a> for I {
    fn flatten_lives(self) -> impl Iterator<Item = &'a Life> {
        self.filter_map(|node| node.life.as_ref())
    }
}
