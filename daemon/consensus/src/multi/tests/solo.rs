//! What Multi-Paxos adds to one replica under a magnifying glass.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};

use super::super::Multi;
use super::super::message::*;
use crate::ballot::Ballot;
use crate::protocol::{Tuning, Value};
pub(super) use crate::testing::solo::{ME, R1, R2, claim, hint};
use crate::testing::{TIMEOUT, solo, tuning};

pub(super) type Solo = solo::Solo<Multi>;

pub(super) fn ballot(round: u64, owner: u8) -> Ballot {
    Ballot { round, owner }
}

impl Solo {
    /// The election timer fires and pre-votes are granted; returns the ballot it stands with.
    pub(super) fn candidate(&mut self) -> Ballot {
        self.pass(3 * TIMEOUT);
        let pre_vote = self.sent().into_iter().find_map(|(_, _, message)| match message {
            Message::PreVote(pre_vote) => Some(pre_vote.ballot),
            _ => None,
        });
        let ballot = pre_vote.expect("a replica that hears nothing asks for pre-votes");
        for peer in (1..=self.replica_count as u8 / 2).map(ReplicaId) {
            self.deliver(
                peer,
                PreVoteReply { ballot, seen: Ballot::default(), granted: true, wait: 0 },
                None,
            );
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

    /// Leads with nothing adopted; slot 1 is the term start, chosen.
    pub(super) fn leader(replica_count: usize) -> (Self, Ballot) {
        Self::leader_with(replica_count, tuning())
    }

    /// The same with that tuning.
    pub(super) fn leader_with(replica_count: usize, tuning: Tuning) -> (Self, Ballot) {
        let (mut solo, ballot) = Self::new_leader_with(replica_count, tuning);
        for peer in (1..=replica_count as u8 / 2).map(ReplicaId) {
            solo.deliver(peer, Accepted { ballot, upto: Slot(1) }, None);
        }
        solo.settle();
        assert_eq!(solo.chosen(), [(1, Value::Noop)]);
        assert!(solo.status().leading);
        solo.effects.repropose = false;
        (solo, ballot)
    }

    /// Leads, but its term-start entry is not chosen yet.
    pub(super) fn new_leader_with(replica_count: usize, tuning: Tuning) -> (Self, Ballot) {
        let mut solo = Self::open(replica_count, tuning, &Slot(0).into(), &[]);
        solo.settle();
        let ballot = solo.candidate();
        for peer in (1..=replica_count as u8 / 2).map(ReplicaId) {
            solo.promise(peer, ballot, 1, 0, 0);
        }
        solo.settle();
        (solo, ballot)
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
