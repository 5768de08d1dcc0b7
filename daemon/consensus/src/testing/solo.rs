//! One replica under a magnifying glass: events in, exact effects out.

use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{GroupId, Incarnation, Position, ReplicaId, Slot};
use panch_wire::time::{Duration, Instant};
use rand_xoshiro::rand_core::SeedableRng;

use crate::frontier::Frontier;
use crate::protocol::{
    Dest, Effects, Event, Group, Outgoing, Past, Persist, Protocol, Random, Status, Tuning, Value,
};

pub(crate) const ME: ReplicaId = ReplicaId(0);
pub(crate) const R1: ReplicaId = ReplicaId(1);
pub(crate) const R2: ReplicaId = ReplicaId(2);

/// One replica, number 0, and everything it asks for.
pub(crate) struct Solo<P: Protocol> {
    pub(crate) protocol: P,
    pub(crate) effects: Effects<P>,
    pub(crate) now: Instant,
    pub(crate) pool: FramePool,
    pub(crate) replica_count: usize,
}

/// A message as it was sent: what must be durable first, to whom, what.
pub(crate) type Sent<M> = (Option<u64>, Dest, M);

pub(crate) fn hint<M>(to: ReplicaId, message: impl Into<M>) -> Sent<M> {
    (None, Dest::One(to), message.into())
}

pub(crate) fn claim<M>(after: u64, to: ReplicaId, message: impl Into<M>) -> Sent<M> {
    (Some(after), Dest::One(to), message.into())
}

/// Whether a message is about how fit replicas are: sent now and then beside what a test is about.
pub(crate) fn is_about_fitness(message: &impl std::fmt::Debug) -> bool {
    let text = format!("{message:?}");
    text.starts_with("Condition(") || text.starts_with("Logged(")
}

fn without_body<M>(out: Outgoing<M>) -> Sent<M> {
    (out.after.map(|(Persist(point), _)| point), out.dest, out.message)
}

impl<P: Protocol> Solo<P> {
    /// A replica of a group of that size, without a past.
    pub(crate) fn new(replica_count: usize) -> Self {
        Self::restarted(replica_count, Slot(0), &[])
    }

    /// The same in its second life, with what it holds and has written down: a log.
    pub(crate) fn restarted(
        replica_count: usize,
        executed: Slot,
        records: &[(P::Record, Option<Frame>)],
    ) -> Self {
        Self::open(replica_count, super::tuning(), &executed.into(), records)
    }

    /// A replica of a group of that size that holds `executed` (with as many stamps) and these records, in its second life unless
    /// it has no past.
    pub(crate) fn open(
        replica_count: usize,
        tuning: Tuning,
        executed: &Frontier,
        records: &[(P::Record, Option<Frame>)],
    ) -> Self {
        let group = Group { id: GroupId(0), me: ME, replica_count, home: ME };
        let incarnation = Incarnation(if records.is_empty() { 1 } else { 2 });
        let past = Past { executed, stamp: executed.count().0, incarnation };
        let mut protocol = P::open(group, tuning, past, Random::seed_from_u64(1));
        let mut effects = Effects::default();
        for (record, body) in records {
            protocol.replay(*record, body.clone(), &mut effects);
        }
        let now = Instant(1);
        protocol.start(now, &mut effects);
        Self { protocol, effects, now, pool: FramePool::new(1 << 24), replica_count }
    }

    pub(crate) fn frame(&self, counter: u64) -> Frame {
        super::batch(&self.pool, 1, 1, counter)
    }

    pub(crate) fn step(&mut self, event: Event<P>) {
        self.protocol.step(self.now, event, &mut self.effects);
    }

    pub(crate) fn deliver(&mut self, from: ReplicaId, message: impl Into<P::Message>, body: Option<&Frame>) {
        self.step(Event::Deliver { from, message: message.into(), body: body.cloned() });
    }

    pub(crate) fn end_turn(&mut self) {
        while self.protocol.deadline().is_some_and(|at| at <= self.now) {
            self.step(Event::Deadline);
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.end_turn();
    }

    pub(crate) fn sent(&mut self) -> Vec<Sent<P::Message>> {
        let outgoing = self.effects.outgoing.drain(..).filter(|out| !is_about_fitness(&out.message));
        outgoing.map(without_body).collect()
    }

    pub(crate) fn records(&mut self) -> Vec<P::Record> {
        self.effects.records.drain(..).map(|(record, _)| record).collect()
    }

    pub(crate) fn executed(&mut self) -> Vec<(Position, Value)> {
        self.effects.chosen.drain(..).map(|chosen| (chosen.position, chosen.value)).collect()
    }

    /// What was executed of a log: slots and values.
    pub(crate) fn chosen(&mut self) -> Vec<(u64, Value)> {
        self.executed().into_iter().map(|(position, value)| (position.number, value)).collect()
    }

    /// Everything is durable: what this replica told itself arrives. Returns what it told others.
    pub(crate) fn settle(&mut self) -> Vec<Sent<P::Message>> {
        self.settle_with_bodies().into_iter().map(without_body).collect()
    }

    /// The same, with the batches that travel beside.
    pub(crate) fn told(&mut self) -> Vec<(Dest, P::Message, Option<Frame>)> {
        self.settle_with_bodies().into_iter().map(|out| (out.dest, out.message, out.body)).collect()
    }

    fn settle_with_bodies(&mut self) -> Vec<Outgoing<P::Message>> {
        let mut to_others = Vec::new();
        loop {
            self.end_turn();
            let outgoing: Vec<_> = self.effects.outgoing.drain(..).collect();
            if outgoing.is_empty() {
                self.effects.records.clear();
                return to_others;
            }
            for out in outgoing {
                if matches!(out.dest, Dest::All | Dest::One(ME)) {
                    let body = out.body.clone();
                    self.step(Event::Deliver { from: ME, message: out.message, body });
                }
                if out.dest != Dest::One(ME) && !is_about_fitness(&out.message) {
                    to_others.push(out);
                }
            }
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.protocol.status()
    }
}
