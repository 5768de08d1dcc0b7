//! What Fast Paxos adds to one replica under a magnifying glass.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::rule;

use super::super::Fast;
use super::super::message::*;
use super::super::round::{Round, ValueName};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Event, Persist, Protocol, ReadContext, Tuning, Value};
use crate::testing::TIMEOUT;
use crate::testing::solo::{self, Sent};
pub(super) use crate::testing::solo::{ME, R1, R2, hint};

pub(super) const R3: ReplicaId = ReplicaId(3);

pub(super) fn term(round: u64, owner: u8) -> Ballot {
    Ballot { round, owner }
}

/// All replicas propose in stripes from slot 1 on.
pub(super) fn stripes(term: Ballot, replica_count: usize) -> Plan {
    Plan { term, from_slot: Slot(1), mode: Mode::Stripes((1 << replica_count) - 1) }
}

pub(super) fn free_for_all(term: Ballot) -> Plan {
    Plan { term, from_slot: Slot(1), mode: Mode::FreeForAll }
}

pub(super) type Solo = solo::Solo<Fast>;

/// A message that waits until that point is durable; at once if its rule is removed.
pub(super) fn claim(after: u64, dest: Dest, message: impl Into<Message>) -> Sent<Message> {
    (Some(after), dest, message.into())
}

/// A vote for one value in one slot.
pub(super) fn votes(round: Round, slot: u64, body: Option<&Frame>) -> Votes {
    let mut entries = [VotedSlots::default(); VOTES_MAX];
    entries[0] = VotedSlots { first: Slot(slot), name: ValueName::of(body), count: 1 };
    Votes { round, step: 1, count: 1, entries }
}

pub(super) fn vote_record(round: Round, slot: u64, commit: u64) -> Record {
    Record::Vote(SlotRecord { round, slot: Slot(slot), commit: Slot(commit) })
}

pub(super) fn promise_record(term: Ballot, commit: u64) -> Record {
    Record::Promise(PromiseRecord { term, commit: Slot(commit) })
}

impl Solo {
    pub(super) fn with(
        replica_count: usize,
        executed: Slot,
        records: &[(Record, Option<Frame>)],
        tuning: Tuning,
    ) -> Self {
        Self::open(replica_count, tuning, &executed.into(), records)
    }

    /// A message arrives in a turn of its own.
    pub(super) fn hear(&mut self, from: ReplicaId, message: impl Into<Message>, body: Option<&Frame>) {
        self.deliver(from, message, body);
        self.end_turn();
    }

    pub(super) fn propose(&mut self, from: ReplicaId, plan: Plan, slot: u64, frame: &Frame) {
        let slot = (slot > 0).then_some(Slot(slot));
        self.hear(from, Propose { plan, slot, attempt: 1 }, Some(frame));
    }

    pub(super) fn read(&mut self, number: u64) {
        self.step(Event::Read { context: ReadContext(number), lease: false });
        self.end_turn();
    }

    /// What was sent; a message whose rule is removed leaves at once.
    pub(super) fn released(&mut self) -> Vec<Sent<Message>> {
        let outgoing = self.effects.outgoing.drain(..).filter(|out| !solo::is_about_fitness(&out.message));
        let after = |after: Option<(Persist, rule::Rule)>| after.filter(|(_, rule)| rule::holds(*rule));
        outgoing.map(|out| (after(out.after).map(|(point, _)| point.0), out.dest, out.message)).collect()
    }

    /// The election timer fires and pre-votes are granted; returns the term it stands with.
    pub(super) fn candidate(&mut self) -> Ballot {
        self.pass(3 * TIMEOUT);
        let pre_vote = self.sent().into_iter().find_map(|(_, _, message)| match message {
            Message::PreVote(pre_vote) => Some(pre_vote.term),
            _ => None,
        });
        let term = pre_vote.expect("a replica that hears nothing asks for pre-votes");
        for peer in (1..=self.replica_count as u8 / 2).map(ReplicaId) {
            self.hear(peer, PreVoteReply { term, seen: Ballot::default(), granted: true }, None);
        }
        assert_eq!(self.protocol.status().ballot.owner(), ME);
        self.protocol.status().ballot
    }

    pub(super) fn promise(&mut self, from: ReplicaId, term: Ballot, from_slot: u64, vote_count: u64) {
        let promise = Promise { term, from_slot: Slot(from_slot), commit: Slot(0), vote_count };
        self.hear(from, promise, None);
    }

    pub(super) fn report(&mut self, from: ReplicaId, term: Ballot, slot: u64, round: Round, frame: &Frame) {
        self.hear(from, PromiseVote { term, slot: Slot(slot), round }, Some(frame));
    }

    /// Coordinates, with everybody in the plan from slot 1 on.
    pub(super) fn coordinator(replica_count: usize, tuning: Tuning) -> (Self, Plan) {
        let mut solo = Self::with(replica_count, Slot(0), &[], tuning);
        let term = solo.candidate();
        solo.settle();
        for peer in (1..replica_count as u8).map(ReplicaId) {
            solo.promise(peer, term, 1, 0);
        }
        let told = solo.told();
        let plan = told.iter().find_map(|(_, message, _)| match message {
            Message::Any(any) => Some(any.plan),
            _ => None,
        });
        (solo, plan.expect("everybody promised: the plan is settled"))
    }

    /// What is proposed in the classic round of `slot`.
    pub(super) fn accepts(&mut self, slot: u64) -> Vec<Value> {
        let told = self.told();
        let is_accept = |message: &Message| matches!(message, Message::Accept(m) if m.slot == Slot(slot));
        told.into_iter().filter(|(_, m, _)| is_accept(m)).map(|(_, _, body)| Value::from(body)).collect()
    }
}
