//! A deterministic cluster in one thread: virtual time, a network that delays, loses and duplicates, and per replica a
//! log whose tail is lost in a crash.
//!
//! It checks all the time what the replicas must agree on (see [`super::agreement`]), that no read misses what any
//! replica knew to be decided when the read arrived, and that a replica hears of the commit of each own batch that it
//! executes, and of no other.

mod clock;
mod network;
mod run;

use std::collections::BTreeMap;

use panch_wire::command::Command;
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, GroupId, Incarnation, Position, ReplicaId, Slot};
use panch_wire::time::{Duration, Instant};
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use self::clock::Clock;
use self::network::Packet;
use super::agreement::{Agreement, State, unite, without_last};
use crate::frontier::Frontier;
use crate::protocol::{Effects, Event, Group, Order, Outgoing, Past, Protocol, Random, ReadContext, Tuning};

/// What a filter does with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Pass,
    Drop,
    /// Kept until [`Cluster::release_held`].
    Hold,
}

type Filter<P> = Box<dyn FnMut(u8, u8, &<P as Protocol>::Message) -> Verdict>;

/// The log of a replica: records with their values.
type Log<P> = Vec<(<P as Protocol>::Record, Option<Frame>)>;

enum Happening<P: Protocol> {
    Arrive(Packet<P>),
    Durable { node: u8, incarnation: u32, length: usize },
    Loaded { node: u8, incarnation: u32, position: Position },
    Snapshot { from: u8, to: u8, incarnation: u32, at_least: Slot },
}

/// One run of a replica between a start and a crash.
struct Life<P: Protocol> {
    protocol: P,
    effects: Effects<P>,
    /// Length of the log when it started: point `p` of this life is durable when `base + p` records are.
    base: usize,
    held: Vec<(usize, Outgoing<P::Message>)>,
    /// The state machine.
    state: State,
    counter: u64,
    outstanding: BTreeMap<u64, Frame>,
    /// Own batches in the order in which the protocol told that they are committed.
    committed: Vec<BatchId>,
    /// Reads that wait until so many positions are executed.
    reads: Vec<(ReadContext, Slot)>,
}

pub(crate) struct Node<P: Protocol> {
    life: Option<Life<P>>,
    incarnation: u32,
    log: Log<P>,
    /// Records before this one were recycled.
    log_start: usize,
    /// How many records are durable.
    durable: usize,
    /// The restated record that must be durable before the log of what a snapshot covers is recycled.
    recycling: Option<(usize, Frontier)>,
    /// What the log cannot give any more.
    gone: Frontier,
    /// The durable snapshot.
    snapshot: State,
    disk_free_at: Instant,
    disk_stalled: bool,
    /// Writes take so many times as long as the weather says.
    disk_factor: u32,
    clock: Clock,
    /// Does nothing till it goes on.
    paused: bool,
    /// Since when it runs only for the second of these times out of each first.
    stutters: Option<(Instant, Duration, Duration)>,
}

impl<P: Protocol> Node<P> {
    /// When it next does anything, at `now` or later.
    fn runs_at(&self, now: Instant) -> Instant {
        let Some((since, period, runs)) = self.stutters else { return now };
        let into = now.since(since).as_nanos() as u64 % period.as_nanos() as u64;
        if into < runs.as_nanos() as u64 { now } else { now + (period - Duration::from_nanos(into)) }
    }
}

/// Chances in percent and times of the random network and disk.
#[derive(Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) drop: u64,
    pub(crate) duplicate: u64,
    pub(crate) delay: Duration,
    pub(crate) slow: u64,
    pub(crate) slow_delay: Duration,
    /// Messages of a link stay in order.
    pub(crate) fifo: bool,
    pub(crate) disk: Duration,
}

pub(crate) const CALM: Weather = Weather {
    drop: 0,
    duplicate: 0,
    delay: Duration::from_micros(500),
    slow: 0,
    slow_delay: Duration::ZERO,
    fifo: true,
    disk: Duration::from_micros(300),
};

pub(crate) struct Cluster<P: Protocol> {
    pub(crate) now: Instant,
    pub(crate) random: Random,
    pub(crate) nodes: Vec<Node<P>>,
    pub(crate) weather: Weather,
    pub(crate) filter: Option<Filter<P>>,
    pool: FramePool,
    pub(crate) tuning: Tuning,
    home: u8,
    happenings: BTreeMap<(Instant, u64), Happening<P>>,
    sequence: u64,
    held: Vec<Packet<P>>,
    blocked: Vec<(u8, u8)>,
    /// Messages from the first to the second take so much longer.
    late: Vec<(u8, u8, Duration)>,
    /// Links from the first to the second that carry so many bytes per millisecond.
    narrow: Vec<(u8, u8, u64)>,
    /// Messages from one replica to another so far.
    pub(crate) message_count: u64,
    /// When the last message of a link arrives.
    links: Vec<Vec<Instant>>,
    /// When the next message may enter a narrow link.
    free_at: Vec<Vec<Instant>>,
    pub(crate) agreement: Agreement,
    /// Outstanding reads, and what each must see: everything decided when it arrived.
    reads: BTreeMap<u64, Frontier>,
    /// Everything decided so far.
    known: Frontier,
    read_count: u64,
    pub(crate) reads_served: u64,
}

impl<P: Protocol> Cluster<P> {
    /// All replicas are started; replica `home` has the shortest first timeout.
    pub(crate) fn new(replica_count: u8, home: u8, seed: u64, tuning: Tuning) -> Self {
        let node = || Node {
            life: None,
            incarnation: 0,
            log: Vec::new(),
            log_start: 0,
            durable: 0,
            recycling: None,
            gone: Frontier::default(),
            snapshot: State::default(),
            disk_free_at: Instant(0),
            disk_stalled: false,
            disk_factor: 1,
            clock: Clock::default(),
            paused: false,
            stutters: None,
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
            late: Vec::new(),
            narrow: Vec::new(),
            message_count: 0,
            links: vec![vec![Instant(0); replica_count.into()]; replica_count.into()],
            free_at: vec![vec![Instant(0); replica_count.into()]; replica_count.into()],
            agreement: Agreement::default(),
            reads: BTreeMap::new(),
            known: Frontier::default(),
            read_count: 0,
            reads_served: 0,
        };
        for id in 0..replica_count {
            cluster.restart(id);
        }
        cluster
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound.max(1)
    }

    fn random_time(&mut self, max: Duration) -> Duration {
        Duration::from_nanos(self.below(max.as_nanos() as u64) + 1000)
    }

    fn schedule(&mut self, at: Instant, happening: Happening<P>) {
        self.sequence += 1;
        self.happenings.insert((at, self.sequence), happening);
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u8> + use<P> {
        0..self.nodes.len() as u8
    }

    pub(crate) fn is_up(&self, id: u8) -> bool {
        self.nodes[usize::from(id)].life.is_some()
    }

    pub(crate) fn protocol(&self, id: u8) -> &P {
        &self.life(id).protocol
    }

    fn life(&self, id: u8) -> &Life<P> {
        self.nodes[usize::from(id)].life.as_ref().expect("the replica is up")
    }

    // Faults.

    pub(crate) fn crash(&mut self, id: u8) {
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
    pub(crate) fn crash_hard(&mut self, id: u8) {
        let node = &mut self.nodes[usize::from(id)];
        node.log.truncate(node.durable);
        self.crash(id);
    }

    pub(crate) fn restart(&mut self, id: u8) {
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
        node.paused = false;
        if P::ORDER == Order::Log {
            unite(&mut node.gone, &node.snapshot.executed);
        }
        let past = Past {
            executed: &node.snapshot.executed,
            stamp: node.snapshot.stamp,
            incarnation: Incarnation(node.incarnation),
        };
        let mut protocol = P::open(group, self.tuning, past, random);
        let mut effects = Effects::default();
        for (record, body) in &node.log[node.log_start..] {
            protocol.replay(*record, body.clone(), &mut effects);
        }
        assert!(effects.records.is_empty() && effects.outgoing.is_empty(), "replay only chooses");
        protocol.start(node.clock.at(self.now), &mut effects);
        node.life = Some(Life {
            protocol,
            effects,
            base: node.log.len(),
            held: Vec::new(),
            state: node.snapshot.clone(),
            counter: 0,
            outstanding: BTreeMap::new(),
            committed: Vec::new(),
            reads: Vec::new(),
        });
        self.carry_out(id);
    }

    pub(crate) fn block(&mut self, from: u8, to: u8) {
        self.blocked.push((from, to));
    }

    /// From now on messages between the two take so much longer, both ways.
    pub(crate) fn delay_link(&mut self, one: u8, other: u8, by: Duration) {
        self.late.extend([(one, other, by), (other, one, by)]);
    }

    /// From now on so many bytes per millisecond get through between the two, each way.
    pub(crate) fn narrow_link(&mut self, one: u8, other: u8, rate: u64) {
        self.narrow.extend([(one, other, rate), (other, one, rate)]);
    }

    /// Cuts `id` off from everybody else.
    pub(crate) fn isolate(&mut self, id: u8) {
        for other in self.ids().filter(|other| *other != id) {
            self.block(id, other);
            self.block(other, id);
        }
    }

    /// All links work again; filters and bad weather are gone.
    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
        self.late.clear();
        self.narrow.clear();
        self.nodes.iter_mut().for_each(|node| node.stutters = None);
        self.filter = None;
        self.weather = CALM;
    }

    pub(crate) fn stall_disk(&mut self, id: u8, stalled: bool) {
        self.nodes[usize::from(id)].disk_stalled = stalled;
        if !stalled && self.is_up(id) {
            self.schedule_durable(id);
        }
    }

    /// The disk of `id` takes `factor` times as long from now on.
    pub(crate) fn slow_disk(&mut self, id: u8, factor: u32) {
        self.nodes[usize::from(id)].disk_factor = factor;
    }

    /// The replica's clock runs at `rate` millionths of true time from now on.
    pub(crate) fn set_clock_rate(&mut self, id: u8, rate: u64) {
        self.nodes[usize::from(id)].clock.set_rate(self.now, rate);
    }

    /// The replica's clock jumps ahead.
    pub(crate) fn jump_clock(&mut self, id: u8, by: Duration) {
        self.nodes[usize::from(id)].clock.jump(by.as_nanos() as u64);
    }

    /// The replica does nothing, as a process that is stopped, till it goes on; its clock does.
    pub(crate) fn pause(&mut self, id: u8, paused: bool) {
        self.nodes[usize::from(id)].paused = paused;
    }

    /// The replica's process runs only so long out of every `period` from now on.
    pub(crate) fn stutter(&mut self, id: u8, period: Duration, runs: Duration) {
        self.nodes[usize::from(id)].stutters = Some((self.now, period, runs));
    }

    /// The replica's process runs all the time again.
    pub(crate) fn run_steadily(&mut self, id: u8) {
        self.nodes[usize::from(id)].stutters = None;
    }

    /// A message arrives now, past everything that keeps messages back.
    pub(crate) fn inject(&mut self, from: u8, to: u8, message: impl Into<P::Message>) {
        self.step(to, Event::Deliver { from: ReplicaId(from), message: message.into(), body: None });
    }

    pub(crate) fn held_count(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn release_held(&mut self) {
        for packet in std::mem::take(&mut self.held) {
            self.schedule(self.now, Happening::Arrive(packet));
        }
    }

    /// The connection of `id` to `peer` is lost.
    pub(crate) fn suspect(&mut self, id: u8, peer: u8) {
        self.step(id, Event::Suspect(ReplicaId(peer)));
    }

    /// The state machine's snapshot becomes durable; the log of what it covers, but for the last `keep` positions of each
    /// row, is recycled.
    pub(crate) fn snapshot(&mut self, id: u8, keep: u64) {
        let node = &mut self.nodes[usize::from(id)];
        let Some(life) = &mut node.life else { return };
        node.snapshot = life.state.clone();
        let covered = without_last(&life.state.executed, keep);
        if !node.gone.covers(&covered) {
            life.protocol.truncated(&covered);
            let covered = life.protocol.forgettable(&covered);
            unite(&mut node.gone, &covered);
            let restated = life.protocol.restate();
            // The restated record opens a new segment and goes the way of all records.
            let _ = life.effects.persist(restated, None);
            node.recycling = Some((node.log.len() + 1, covered));
            self.carry_out(id);
        }
    }

    // Work.

    /// Proposes a batch that interferes with all others proposed so; `None` if the replica is down or the pipeline full.
    pub(crate) fn propose(&mut self, id: u8) -> Option<BatchId> {
        self.propose_commands(id, &[super::set(b"key")])
    }

    /// Proposes a batch that writes these keys.
    pub(crate) fn propose_keys(&mut self, id: u8, keys: &[&[u8]]) -> Option<BatchId> {
        let commands: Vec<_> = keys.iter().map(|key| super::set(key)).collect();
        self.propose_commands(id, &commands)
    }

    /// Proposes a batch of these commands.
    pub(crate) fn propose_commands(&mut self, id: u8, commands: &[Command<'_>]) -> Option<BatchId> {
        let node = &mut self.nodes[usize::from(id)];
        let life = node.life.as_mut()?;
        if life.outstanding.len() >= self.tuning.pipeline_depth {
            return None;
        }
        life.counter += 1;
        let frame = super::batch_of(&self.pool, id, node.incarnation, life.counter, commands);
        let batch = frame.id();
        life.outstanding.insert(life.counter, frame.clone());
        self.step(id, Event::Propose(frame));
        Some(batch)
    }

    /// Proposes everything again that is not chosen, as a proposer does after a while.
    pub(crate) fn repropose(&mut self, id: u8) {
        let Some(life) = &self.nodes[usize::from(id)].life else { return };
        let frames: Vec<_> = life.outstanding.values().cloned().collect();
        for frame in frames {
            self.step(id, Event::Propose(frame));
        }
    }

    pub(crate) fn read(&mut self, id: u8) {
        self.read_at(id, false);
    }

    /// A read that a lease is good enough for.
    pub(crate) fn lease_read(&mut self, id: u8) {
        self.read_at(id, true);
    }

    fn read_at(&mut self, id: u8, lease: bool) {
        if self.is_up(id) {
            self.read_count += 1;
            self.reads.insert(self.read_count, self.known.clone());
            self.step(id, Event::Read { context: ReadContext(self.read_count), lease });
        }
    }

    /// What `id` has executed; nothing while it is down.
    pub(crate) fn executed(&self, id: u8) -> Frontier {
        let life = self.nodes[usize::from(id)].life.as_ref();
        life.map_or(Frontier::default(), |life| life.state.executed.clone())
    }

    /// In a log: the last slot that `id` has executed.
    pub(crate) fn chosen_upto(&self, id: u8) -> Slot {
        self.nodes[usize::from(id)].life.as_ref().map_or(Slot(0), |life| life.state.executed.slot())
    }

    /// Whether any read waits for its answer.
    pub(crate) fn reads_wait(&self) -> bool {
        !self.reads.is_empty()
    }

    /// In a log: the last slot that anybody has executed.
    pub(crate) fn last_decided(&self) -> Slot {
        self.known.slot()
    }

    /// Whether everybody is up and has executed everything that anybody has.
    pub(crate) fn is_level(&self) -> bool {
        let level = |node: &Node<P>| node.life.as_ref().is_some_and(|life| life.state.executed == self.known);
        self.nodes.iter().all(level)
    }

    /// The value of a position as decided: `None` while it is not, `Some(None)` for a no-op.
    pub(crate) fn decided(&self, position: impl Into<Position>) -> Option<Option<BatchId>> {
        self.agreement.decided.get(&position.into()).copied()
    }

    /// How many positions are decided.
    pub(crate) fn decided_count(&self) -> usize {
        self.agreement.decided.len()
    }

    /// Whether everything proposed there is known there to be chosen.
    pub(crate) fn is_idle(&self, id: u8) -> bool {
        self.nodes[usize::from(id)].life.as_ref().is_none_or(|life| life.outstanding.is_empty())
    }

    /// The batches of `id` that it was told are committed, in that order.
    pub(crate) fn committed(&self, id: u8) -> &[BatchId] {
        &self.life(id).committed
    }

    pub(crate) fn is_decided(&self, batch: BatchId) -> bool {
        self.agreement.decided.values().any(|value| *value == Some(batch))
    }

    pub(crate) fn leader(&self) -> Option<u8> {
        let leading = |id: &u8| self.is_up(*id) && self.protocol(*id).status().leading;
        self.ids().filter(leading).max_by_key(|id| self.protocol(*id).status().ballot)
    }
}
