//! Time, and what the effects of a step ask for.

use std::collections::BTreeSet;

use panch_wire::frame::Frame;
use panch_wire::ids::{BatchId, Incarnation, ReplicaId, Slot};
use panch_wire::time::{Duration, Instant};

use super::network::Packet;
use super::{Cluster, Happening, Life, State, unite};
use crate::frontier::Frontier;
use crate::protocol::{Chosen, Event, Order, Protocol, ReadContext, Value};

impl<P: Protocol> Cluster<P> {
    /// When the replica wants to be woken, in true time.
    fn deadline(&self, id: u8) -> Option<Instant> {
        let node = &self.nodes[usize::from(id)];
        let life = node.life.as_ref().filter(|_| !node.paused)?;
        let at = life.protocol.deadline().map(|at| node.clock.when(at))?;
        Some(node.runs_at(at.max(self.now)))
    }

    fn next_time(&self) -> Option<Instant> {
        let timer = |id| self.deadline(id);
        let timers = self.ids().filter_map(timer).min();
        let happening = self.happenings.keys().next().map(|(at, _)| *at);
        timers.into_iter().chain(happening).min()
    }

    pub(crate) fn run_until(&mut self, end: Instant) {
        while let Some(at) = self.next_time().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let due = self.happenings.keys().next().copied().filter(|(at, _)| *at <= self.now);
            if let Some(happening) = due.and_then(|key| self.happenings.remove(&key)) {
                self.happen(happening);
                continue;
            }
            for id in self.ids() {
                if self.deadline(id).is_some_and(|at| at <= self.now) {
                    self.step(id, Event::Deadline);
                }
            }
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn run_for(&mut self, milliseconds: u64) {
        self.run_for_duration(Duration::from_millis(milliseconds));
    }

    pub(crate) fn run_for_duration(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Runs until `done`; panics if that takes longer than the given time.
    pub(crate) fn run_till(&mut self, what: &str, milliseconds: u64, done: impl Fn(&Self) -> bool) {
        for _ in 0..milliseconds {
            if done(self) {
                return;
            }
            self.run_for(1);
        }
        panic!("progress: {what} took too long");
    }

    fn happen(&mut self, happening: Happening<P>) {
        let at = match &happening {
            Happening::Arrive(packet) => Some(packet.to),
            Happening::Durable { node, .. } => Some(*node),
            _ => None,
        };
        if at.is_some_and(|id| self.nodes[usize::from(id)].paused) {
            self.schedule(self.now + Duration::from_millis(1), happening);
            return;
        }
        let runs_at = at.map_or(self.now, |id| self.nodes[usize::from(id)].runs_at(self.now));
        if runs_at > self.now {
            self.schedule(runs_at, happening);
            return;
        }
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
            Happening::Loaded { node: id, incarnation, position } => {
                let node = &self.nodes[usize::from(id)];
                if node.incarnation == incarnation && node.life.is_some() {
                    let has_value = |entry: &&(P::Record, Option<Frame>)| {
                        let place = P::record_place(&entry.0);
                        place.is_some_and(|place| place.position == position && place.has_value)
                    };
                    let found = node.log[node.log_start..].iter().rev().find(has_value);
                    let value = found
                        .filter(|_| !node.gone.contains(position))
                        .map(|(_, body)| Value::from(body.clone()));
                    self.step(id, Event::Loaded(position, value));
                }
            }
            Happening::Snapshot { from, to, incarnation, at_least } => {
                self.transfer_snapshot(from, to, incarnation, at_least);
            }
        }
    }

    fn transfer_snapshot(&mut self, from: u8, to: u8, incarnation: u32, at_least: Slot) {
        let node = &self.nodes[usize::from(from)];
        if node.incarnation != incarnation || node.life.is_none() {
            return;
        }
        let state = self.life(from).state.clone();
        let count = state.executed.count();
        let reachable = self.is_up(to) && !self.blocked.contains(&(from, to));
        let mut accepted = false;
        if reachable && count >= at_least {
            let life = self.nodes[usize::from(to)].life.as_mut().expect("it is up");
            let known = life.state.executed.covers(&state.executed);
            accepted = known || life.protocol.prepare_install(&state.executed);
            if accepted && !known {
                self.install(to, state);
            }
        }
        let acknowledged = accepted && !self.blocked.contains(&(to, from));
        self.step(from, Event::SnapshotSent(ReplicaId(to), acknowledged.then_some(count)));
    }

    /// The state of another replica takes the place of the own one, and is durable.
    fn install(&mut self, id: u8, state: State) {
        let (covered, stamp) = (state.executed.clone(), state.stamp);
        let applied: BTreeSet<_> = self.agreement.batches(&state).collect();
        let node = &mut self.nodes[usize::from(id)];
        if P::ORDER == Order::Log {
            unite(&mut node.gone, &covered);
        }
        node.snapshot = state.clone();
        let life = node.life.as_mut().expect("the caller looked");
        life.outstanding.retain(|_, frame| !applied.contains(&frame.id()));
        life.state = state;
        self.step(id, Event::Installed { covered, stamp });
    }

    pub(super) fn step(&mut self, id: u8, event: Event<P>) {
        let node = &mut self.nodes[usize::from(id)];
        let now = node.clock.at(self.now);
        let Some(life) = &mut node.life else { return };
        life.protocol.step(now, event, &mut life.effects);
        let mut turns = 0;
        while life.protocol.deadline().is_some_and(|at| at <= now) {
            life.protocol.step(now, Event::Deadline, &mut life.effects);
            turns += 1;
            assert!(turns < 10, "the end of a turn never ends");
        }
        self.carry_out(id);
    }

    /// Does what the effects of `id` ask for.
    pub(super) fn carry_out(&mut self, id: u8) {
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
        for batch in life.effects.committed.drain(..) {
            assert!(batch.is_of(ReplicaId(id), Incarnation(incarnation)), "{batch:?} is not a batch of {id}");
            let again = life.committed.contains(&batch);
            assert!(!again || P::ORDER == Order::Log, "{batch:?} is decided at one position only");
            life.committed.push(batch);
        }
        if wrote {
            self.schedule_durable(id);
        }
        for chosen in chosen {
            self.execute(id, &chosen);
        }
        for (context, at) in reads {
            assert!(self.reads.contains_key(&context.0), "a read is answered once");
            match at {
                Some(at) => self.life_mut(id).reads.push((context, at)),
                None => drop(self.reads.remove(&context.0)),
            }
        }
        self.serve_reads(id);
        for message in outgoing {
            self.admit(id, message);
        }
        for position in loads {
            let at = self.now + self.random_time(Duration::from_millis(2));
            self.schedule(at, Happening::Loaded { node: id, incarnation, position });
        }
        for (peer, at_least) in snapshots {
            let at = self.now + self.random_time(Duration::from_millis(20));
            self.schedule(at, Happening::Snapshot { from: id, to: peer.0, incarnation, at_least });
        }
        if repropose {
            self.repropose(id);
        }
    }

    fn life_mut(&mut self, id: u8) -> &mut Life<P> {
        self.nodes[usize::from(id)].life.as_mut().expect("the replica is up")
    }

    fn execute(&mut self, id: u8, chosen: &Chosen) {
        let node = &mut self.nodes[usize::from(id)];
        let life = node.life.as_mut().expect("only a live replica executes");
        self.agreement.execute(id, P::ORDER, &mut life.state, chosen);
        self.known.insert(chosen.position);
        let mine = |batch: &BatchId| batch.is_of(ReplicaId(id), Incarnation(node.incarnation));
        if let Some(batch) = chosen.value.body().map(Frame::id).filter(mine) {
            assert!(
                life.committed.contains(&batch),
                "{batch:?} is executed and was not told to be committed"
            );
            life.outstanding.remove(&batch.counter);
        }
    }

    /// Serves what need not wait any more. A log says by the slot alone what a read will see.
    fn serve_reads(&mut self, id: u8) {
        let life = self.life_mut(id);
        let count = life.state.executed.count();
        let executed = life.state.executed.clone();
        let ready = |read: &mut (ReadContext, Slot)| P::ORDER == Order::Log || read.1 <= count;
        let ready: Vec<_> = life.reads.extract_if(.., ready).collect();
        for (context, at) in ready {
            let known = self.reads.remove(&context.0).expect("a read is answered once");
            let seen = if P::ORDER == Order::Log { Frontier::from(at) } else { executed.clone() };
            assert!(seen.covers(&known), "linearizability: a read at {seen:?} missed {known:?}");
            self.reads_served += 1;
        }
    }

    pub(super) fn schedule_durable(&mut self, id: u8) {
        let time = self.random_time(self.weather.disk);
        let node = &mut self.nodes[usize::from(id)];
        let at = self.now.max(node.disk_free_at) + time * node.disk_factor;
        node.disk_free_at = at;
        let happening =
            Happening::Durable { node: id, incarnation: node.incarnation, length: node.log.len() };
        self.schedule(at, happening);
    }

    fn recycle(&mut self, id: u8) {
        let node = &mut self.nodes[usize::from(id)];
        let Some((restated, covered)) = node.recycling.take_if(|(restated, _)| *restated <= node.durable)
        else {
            return;
        };
        let needed = |entry: &(P::Record, Option<Frame>)| {
            P::record_place(&entry.0).is_some_and(|place| !covered.contains(place.position))
        };
        let first = node.log[node.log_start..restated - 1].iter().position(needed);
        node.log_start = first.map_or(restated - 1, |first| node.log_start + first);
    }
}
