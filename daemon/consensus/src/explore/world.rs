//! One state of a small group, and what can happen next.
//!
//! What a replica says to itself arrives at once, as soon as it is durable. Loads are answered at once, snapshots never
//! succeed. Each replica has a clock of its own, which moves only when its deadline fires. A message is lost by never
//! arriving; two equal messages on their way are one.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use panch_wire::frame::Frame;
use panch_wire::ids::ReplicaId;
use panch_wire::rule;
use panch_wire::time::Instant;

use super::fingerprint::Fingerprint;
use super::history::{Batches, History};
use super::replica::Replica;
use super::{Action, Bounds, Setup};
use crate::protocol::{Dest, Effects, Event, Outgoing, Protocol};

/// Events that may follow from one, at most: more are taken for a loop.
const FOLLOWING_MAX: usize = 200;

/// A message on its way.
pub struct Packet<P: Protocol> {
    /// The sender.
    pub from: ReplicaId,
    /// The receiver.
    pub to: ReplicaId,
    /// What.
    pub message: P::Message,
    /// The batch beside it.
    pub body: Option<Frame>,
    fingerprint: u128,
}

impl<P: Protocol> fmt::Debug for Packet<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} -> {:?} {:?}", self.from, self.to, self.message)?;
        self.body.iter().try_for_each(|body| write!(f, " {body:?}"))
    }
}

/// What is left of the bounds.
#[derive(Clone, Copy, Debug)]
struct Budget {
    deadlines: u8,
    crashes: u8,
    duplicates: u8,
    suspicions: u8,
}

impl Budget {
    fn of(setup: &Setup) -> Self {
        let Bounds { deadlines, crashes, duplicates, suspicions, .. } = setup.bounds;
        Self { deadlines, crashes, duplicates, suspicions }
    }
}

/// One state. Cheap to clone: what did not change is shared.
pub struct World<P: Protocol> {
    replicas: Vec<Rc<Replica<P>>>,
    /// Ascending by fingerprint.
    packets: Vec<Rc<Packet<P>>>,
    /// Bit set of proposals that were made.
    proposed: u32,
    history: Rc<History>,
    batches: Rc<Batches>,
    budget: Budget,
    /// What never arrives.
    ignored: fn(&Packet<P>) -> bool,
}

impl<P: Protocol> Clone for World<P> {
    fn clone(&self) -> Self {
        Self {
            replicas: self.replicas.clone(),
            packets: self.packets.clone(),
            history: Rc::clone(&self.history),
            batches: Rc::clone(&self.batches),
            ..*self
        }
    }
}

impl<P: Protocol + Clone + fmt::Debug> World<P> {
    /// All replicas have started for the first time.
    ///
    /// # Errors
    /// What a check found.
    pub fn new(setup: &Setup) -> Result<Self, String> {
        assert!(setup.proposals.len() <= 16, "a search is about a few batches");
        let mut world = Self {
            replicas: Vec::new(),
            packets: Vec::new(),
            proposed: 0,
            history: Rc::new(History::new(setup.proposals.len())),
            batches: Rc::new(Batches::new(setup.proposals.iter().map(|(_, frame)| frame))),
            budget: Budget::of(setup),
            ignored: |_| false,
        };
        let mut started = Vec::new();
        for id in (0..setup.replica_count as u8).map(ReplicaId) {
            let (replica, effects) = Replica::open(setup, id, 1, Instant(1), Vec::new());
            world.replicas.push(Rc::new(replica));
            started.push((id, effects));
        }
        for (id, effects) in started {
            world.carry_out(setup, id, effects, VecDeque::new())?;
        }
        Ok(world)
    }

    /// A replica's protocol.
    pub fn protocol(&self, id: ReplicaId) -> &P {
        &self.replicas[id.index()].protocol
    }

    /// The messages on their way, in an order that depends on nothing but them.
    pub fn packets(&self) -> impl ExactSizeIterator<Item = &Packet<P>> {
        self.packets.iter().map(|packet| &**packet)
    }

    /// The durable part of a replica's log.
    pub fn log(&self, id: ReplicaId) -> &[(P::Record, Option<Frame>)] {
        let replica = &self.replicas[id.index()];
        &replica.log[..replica.durable]
    }

    /// From now on messages between replicas for which `ignored` holds are lost, those on their way included.
    pub fn ignore(&mut self, ignored: fn(&Packet<P>) -> bool) {
        self.ignored = ignored;
        self.packets.retain(|packet| !ignored(packet));
    }

    /// Everything on its way is lost.
    pub fn lose_packets(&mut self) {
        self.packets.clear();
    }

    /// Delivers what is on its way and for which `wanted` holds, until nothing is.
    ///
    /// # Errors
    /// What a check found.
    pub fn deliver_all(
        &mut self,
        setup: &Setup,
        mut wanted: impl FnMut(&Packet<P>) -> bool,
    ) -> Result<(), String> {
        while let Some(index) = self.packets.iter().position(|packet| wanted(packet)) {
            self.perform(setup, Action::Deliver { index, again: false })?;
        }
        Ok(())
    }

    pub(super) fn fingerprint(&self) -> u128 {
        let mut fingerprint = Fingerprint::default();
        self.replicas.iter().for_each(|replica| fingerprint.add_wide(replica.fingerprint));
        fingerprint.add(self.packets.len() as u64);
        self.packets.iter().for_each(|packet| fingerprint.add_wide(packet.fingerprint));
        fingerprint.add(u64::from(self.proposed));
        let Budget { deadlines, crashes, duplicates, suspicions } = self.budget;
        fingerprint.add(u64::from(u32::from_le_bytes([deadlines, crashes, duplicates, suspicions])));
        self.history.add_to(&mut fingerprint);
        fingerprint.finish()
    }

    /// Appends everything that can happen next.
    pub(super) fn actions(&self, setup: &Setup, out: &mut Vec<Action>) {
        let left = self.budget;
        for index in 0..setup.proposals.len() {
            // Proposals of one replica are made in order.
            let from = setup.proposals[index].0;
            let is_next = (0..index)
                .all(|earlier| setup.proposals[earlier].0 != from || self.proposed & 1 << earlier != 0);
            if self.proposed & 1 << index == 0 && is_next {
                out.push(Action::Propose(index));
            }
        }
        for (index, packet) in self.packets.iter().enumerate() {
            // What was on its way before the script cut the link stays there.
            if setup.cut.contains(&(packet.from, packet.to)) {
                continue;
            }
            out.push(Action::Deliver { index, again: false });
            if left.duplicates > 0 {
                out.push(Action::Deliver { index, again: true });
            }
        }
        for replica in &self.replicas {
            let id = replica.id;
            if left.deadlines > 0 && setup.timing_out.contains(id) && replica.protocol.deadline().is_some() {
                out.push(Action::Deadline(id));
            }
            if replica.durable < replica.log.len() {
                out.push(Action::Sync(id));
            }
            if left.crashes > 0 && setup.crashing.contains(id) {
                let unsure = replica.log.len() - replica.durable;
                out.extend((0..=unsure).map(|kept| Action::Crash { replica: id, kept }));
            }
            if left.suspicions > 0 {
                let others = self.replicas.iter().map(|other| other.id).filter(|other| *other != id);
                out.extend(others.map(|other| Action::Suspect(id, other)));
            }
        }
    }

    /// What an action is, in words, before it is performed.
    pub(super) fn describe(&self, action: Action) -> String {
        match action {
            Action::Deliver { index, again } => {
                format!("deliver{} {:?}", if again { " and keep" } else { "" }, self.packets[index])
            }
            other => format!("{other:?}"),
        }
    }

    /// Lets `action` happen.
    ///
    /// # Errors
    /// What a check found.
    pub fn perform(&mut self, setup: &Setup, action: Action) -> Result<(), String> {
        match action {
            Action::Propose(index) => {
                let (id, frame) = &setup.proposals[index];
                self.proposed |= 1 << index;
                Rc::make_mut(&mut self.history).on_propose(&self.batches, P::ORDER, index);
                self.step(setup, *id, Event::Propose(frame.clone()))
            }
            Action::Deliver { index, again } => {
                let packet = if again {
                    self.budget.duplicates -= 1;
                    Rc::clone(&self.packets[index])
                } else {
                    self.packets.remove(index)
                };
                let Packet { from, to, message, ref body, .. } = *packet;
                self.step(setup, to, Event::Deliver { from, message, body: body.clone() })
            }
            Action::Deadline(id) => {
                self.budget.deadlines = self.budget.deadlines.saturating_sub(1);
                let replica = Rc::make_mut(&mut self.replicas[id.index()]);
                replica.now = replica.protocol.deadline().map_or(replica.now, |at| at.max(replica.now));
                self.step(setup, id, Event::Deadline)
            }
            Action::Suspect(id, other) => {
                self.budget.suspicions = self.budget.suspicions.saturating_sub(1);
                self.step(setup, id, Event::Suspect(other))
            }
            Action::Sync(id) => {
                let replica = Rc::make_mut(&mut self.replicas[id.index()]);
                replica.durable = replica.log.len();
                let effects = replica.effects();
                self.carry_out(setup, id, effects, VecDeque::new())
            }
            Action::Crash { replica: id, kept } => {
                self.budget.crashes = self.budget.crashes.saturating_sub(1);
                let old = &self.replicas[id.index()];
                let log = old.log[..old.durable + kept].to_vec();
                let (replica, effects) = Replica::open(setup, id, old.incarnation + 1, old.now, log);
                self.replicas[id.index()] = Rc::new(replica);
                self.carry_out(setup, id, effects, VecDeque::new())
            }
        }
    }

    /// The bounds start anew, as after a script.
    pub fn refill(&mut self, setup: &Setup) {
        self.budget = Budget::of(setup);
    }

    fn step(&mut self, setup: &Setup, id: ReplicaId, event: Event<P>) -> Result<(), String> {
        let effects = self.replicas[id.index()].effects();
        self.carry_out(setup, id, effects, VecDeque::from([event]))
    }

    /// Does what a replica wants done, lets the events happen, and whatever follows from them at once.
    fn carry_out(
        &mut self,
        setup: &Setup,
        id: ReplicaId,
        mut effects: Effects<P>,
        mut events: VecDeque<Event<P>>,
    ) -> Result<(), String> {
        let Self { replicas, packets, history, batches, ignored, .. } = self;
        let replica = Rc::make_mut(&mut replicas[id.index()]);
        for _ in 0..FOLLOWING_MAX {
            replica.log.append(&mut effects.records);
            if !setup.syncs {
                replica.durable = replica.log.len();
            }
            for chosen in effects.chosen.drain(..) {
                let history = Rc::make_mut(history);
                history.on_chosen(batches, P::ORDER, &chosen, &mut replica.executed)?;
            }
            for message in effects.outgoing.drain(..) {
                let needed = message.after.filter(|(_, rule)| rule::holds(*rule));
                let needed = needed.map_or(0, |(after, _)| replica.base + after.0 as usize);
                replica.held.push((needed, message));
            }
            for (_, message) in replica.held.extract_if(.., |(needed, _)| *needed <= replica.durable) {
                let Outgoing { dest, message, body, .. } = message;
                for to in (0..setup.replica_count as u8).map(ReplicaId) {
                    let is_meant = match dest {
                        Dest::One(one) => one == to,
                        Dest::Others => to != id,
                        Dest::All => true,
                    };
                    if !is_meant || setup.cut.contains(&(id, to)) {
                        continue;
                    }
                    if to == id {
                        events.push_back(Event::Deliver { from: id, message, body: body.clone() });
                    } else {
                        let packet = Packet { from: id, to, message, body: body.clone(), fingerprint: 0 };
                        if !ignored(&packet) {
                            send(packets, packet);
                        }
                    }
                }
            }
            let positions = effects.loads.drain(..);
            events.extend(positions.map(|position| Event::Loaded(position, replica.loaded(position))));
            let peers = effects.snapshots.drain(..);
            events.extend(peers.map(|(peer, _)| Event::SnapshotSent(peer, None)));
            effects.reads.clear();
            if std::mem::take(&mut effects.repropose) {
                for (index, (from, frame)) in setup.proposals.iter().enumerate() {
                    let is_open = self.proposed & 1 << index != 0 && !replica.executed.contains(index);
                    if *from == id && is_open {
                        events.push_back(Event::Propose(frame.clone()));
                    }
                }
            }
            let is_turn_over = replica.protocol.deadline().is_some_and(|at| at <= replica.now);
            if let Some(event) = events.pop_front() {
                replica.protocol.step(replica.now, event, &mut effects);
            } else if is_turn_over {
                replica.protocol.step(replica.now, Event::Deadline, &mut effects);
            } else {
                replica.set_fingerprint(setup.bounds.crashes > 0);
                return Ok(());
            }
        }
        Err(format!("replica {id} never comes to rest"))
    }
}

fn send<P: Protocol>(packets: &mut Vec<Rc<Packet<P>>>, mut packet: Packet<P>) {
    let mut fingerprint = Fingerprint::default();
    fingerprint.add_text(&packet);
    packet.fingerprint = fingerprint.finish();
    let place = packets.binary_search_by_key(&packet.fingerprint, |other: &Rc<Packet<P>>| other.fingerprint);
    if let Err(place) = place {
        packets.insert(place, Rc::new(packet));
    }
}
