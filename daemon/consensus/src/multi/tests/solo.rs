//! One replica under a magnifying glass: events in, exact effects out.

use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{GroupId, Incarnation, ReplicaId, Slot};
use panch_wire::time::{Duration, Instant};
use rand_xoshiro::rand_core::SeedableRng;

use super::super::Multi;
use super::super::message::*;
use super::{TIMEOUT, tuning};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Event, Group, Persist, Protocol, Random, Status, Value};

pub(super) const ME: ReplicaId = ReplicaId(0);
pub(super) const R1: ReplicaId = ReplicaId(1);
pub(super) const R2: ReplicaId = ReplicaId(2);

pub(super) fn ballot(round: u64, owner: u8) -> Ballot {
    Ballot { round, owner }
}

/// One replica, number 0, and everything it asks for.
pub(super) struct Solo {
    pub(super) multi: Multi,
    pub(super) effects: Effects<Multi>,
    pub(super) now: Instant,
    pub(super) pool: FramePool,
    pub(super) replica_count: usize,
}

/// A message as it was sent: what must be durable first, to whom, what.
pub(super) type Sent = (Option<u64>, Dest, Message);

pub(super) fn hint(to: ReplicaId, message: impl Into<Message>) -> Sent {
    (None, Dest::One(to), message.into())
}

pub(super) fn claim(after: u64, to: ReplicaId, message: impl Into<Message>) -> Sent {
    (Some(after), Dest::One(to), message.into())
}

impl Solo {
    pub(super) fn new(replica_count: usize) -> Self {
        Self::restarted(replica_count, Slot(0), &[])
    }

    pub(super) fn restarted(
        replica_count: usize,
        executed: Slot,
        records: &[(Record, Option<Frame>)],
    ) -> Self {
        let group = Group { id: GroupId(0), me: ME, replica_count, home: ME };
        let mut multi = Multi::open(group, tuning(), executed, Incarnation(1), Random::seed_from_u64(1));
        let mut effects = Effects::default();
        for (record, body) in records {
            multi.replay(*record, body.clone(), &mut effects);
        }
        let now = Instant(1);
        multi.start(now, &mut effects);
        Self { multi, effects, now, pool: FramePool::new(1 << 24), replica_count }
    }

    pub(super) fn frame(&self, counter: u64) -> Frame {
        super::batch(&self.pool, 1, 1, counter)
    }

    pub(super) fn step(&mut self, event: Event<Multi>) {
        self.multi.step(self.now, event, &mut self.effects);
    }

    pub(super) fn deliver(&mut self, from: ReplicaId, message: impl Into<Message>, body: Option<&Frame>) {
        self.step(Event::Deliver { from, message: message.into(), body: body.cloned() });
    }

    pub(super) fn end_turn(&mut self) {
        while self.multi.deadline().is_some_and(|at| at <= self.now) {
            self.step(Event::Deadline);
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.end_turn();
    }

    pub(super) fn sent(&mut self) -> Vec<Sent> {
        let outgoing = self.effects.outgoing.drain(..);
        outgoing.map(|out| (out.after.map(|(Persist(point), _)| point), out.dest, out.message)).collect()
    }

    pub(super) fn records(&mut self) -> Vec<Record> {
        self.effects.records.drain(..).map(|(record, _)| record).collect()
    }

    pub(super) fn chosen(&mut self) -> Vec<(u64, Value)> {
        self.effects.chosen.drain(..).map(|(slot, value)| (slot.0, value)).collect()
    }

    /// Everything is durable: what this replica told itself arrives. Returns what it told others.
    pub(super) fn settle(&mut self) -> Vec<Sent> {
        let mut to_others = Vec::new();
        loop {
            self.end_turn();
            let outgoing: Vec<_> = self.effects.outgoing.drain(..).collect();
            if outgoing.is_empty() {
                self.effects.records.clear();
                return to_others;
            }
            for out in outgoing {
                let after = out.after.map(|(Persist(point), _)| point);
                if matches!(out.dest, Dest::All | Dest::One(ME)) {
                    self.step(Event::Deliver { from: ME, message: out.message, body: out.body });
                }
                if out.dest != Dest::One(ME) {
                    to_others.push((after, out.dest, out.message));
                }
            }
        }
    }

    /// The election timer fires and pre-votes are granted; returns the ballot it stands with.
    pub(super) fn candidate(&mut self) -> Ballot {
        self.pass(3 * TIMEOUT);
        let pre_vote = self.sent().into_iter().find_map(|(_, _, message)| match message {
            Message::PreVote(pre_vote) => Some(pre_vote.ballot),
            _ => None,
        });
        let ballot = pre_vote.expect("a replica that hears nothing asks for pre-votes");
        for peer in (1..=self.replica_count as u8 / 2).map(ReplicaId) {
            self.deliver(peer, PreVoteReply { ballot, seen: Ballot::default(), granted: true }, None);
        }
        self.settle();
        assert_eq!(self.status().ballot.owner(), ME);
        self.status().ballot
    }

    pub(super) fn promise(
        &mut self,
        from: ReplicaId,
        ballot: Ballot,
        from_slot: u64,
        commit: u64,
        count: u64,
    ) {
        let promise =
            Promise { ballot, from_slot: Slot(from_slot), commit: Slot(commit), entry_count: count };
        self.deliver(from, promise, None);
    }

    pub(super) fn report(
        &mut self,
        from: ReplicaId,
        ballot: Ballot,
        slot: u64,
        accepted: Ballot,
        frame: &Frame,
    ) {
        self.deliver(from, PromiseEntry { ballot, slot: Slot(slot), accepted }, Some(frame));
    }

    /// Leads with nothing adopted; slot 1 is the term start, chosen if `chosen`.
    pub(super) fn leader(replica_count: usize) -> (Self, Ballot) {
        let mut solo = Self::new(replica_count);
        let ballot = solo.candidate();
        for peer in (1..=replica_count as u8 / 2).map(ReplicaId) {
            solo.promise(peer, ballot, 1, 0, 0);
        }
        solo.settle();
        for peer in (1..=replica_count as u8 / 2).map(ReplicaId) {
            solo.deliver(peer, Accepted { ballot, upto: Slot(1) }, None);
        }
        solo.settle();
        assert_eq!(solo.chosen(), [(1, Value::Noop)]);
        assert!(solo.status().leading);
        solo.effects.repropose = false;
        (solo, ballot)
    }

    pub(super) fn status(&self) -> Status {
        self.multi.status()
    }

    pub(super) fn accept(&mut self, from: ReplicaId, ballot: Ballot, slot: u64, commit: u64, frame: &Frame) {
        self.deliver(from, Accept { ballot, slot: Slot(slot), commit: Slot(commit) }, Some(frame));
    }
}

pub(super) fn promised(ballot: Ballot, commit: u64) -> Record {
    Record::Promise(PromiseRecord { ballot, commit: Slot(commit) })
}

pub(super) fn accepted(ballot: Ballot, slot: u64, commit: u64) -> Record {
    Record::Accept(AcceptRecord { ballot, slot: Slot(slot), commit: Slot(commit) })
}
