//! Coming back without a disk.
//!
//! Why it is safe, given (H1) to (H3) of [`crate::rejoin`]. Terms: as ballots in Multi-Paxos: a promise of the earlier life counted only
//! together with that of another member, which is durable there, so that the horizon's term, promised here durably before
//! anything is claimed, is not below it. Slots beyond the horizon: a vote of the earlier life there, fast or classic, or a promise of the
//! slot to a classic round, has reached nobody, and what was chosen or promised by a quorum with it has other members that
//! know the slot. So one vote per slot and round is kept as far as anybody can tell, in the term of the horizon too.
//! Slots at or below the horizon: no vote and no promise of a slot is given there, ever: the learners that count
//! votes in memory and the coordinator that rests on a vote as on a promise have the only one there will be. The slots are decided
//! by the others: rule O4 takes a silent acceptor for one that may have voted for anything. A promise of a term reports
//! no votes at or below the horizon, but leaves only when all of that is executed here, and says so with its commit index. After a
//! restart, too: the log has a record of its own of each value down there, and all of them are chosen again before anything is said.
//!
//! Answers to reads name the horizon at least. So does the answer to a heartbeat, and the coordinator repairs the slots up
//! to it, which also hears there that it cannot count on votes. While mute the replica does not stand for election.

use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use super::message::{PromiseRecord, Record};
use super::{Fast, Role};
use crate::protocol::Effects;
use crate::rejoin::Horizon;

impl Fast {
    /// The highest that is known of anything here.
    pub(super) fn own_horizon(&self) -> Horizon {
        let proposed = if self.role == Role::Coordinator { self.term.next.prev() } else { Slot(0) };
        let known = self.horizon.max(self.voted).max(self.slots.last());
        let slot = known.max(proposed).max(self.candidacy.reported());
        Horizon::of_log(self.promised.max(self.seen), slot)
    }

    /// What `peer` said to be chosen it cannot tell any more, and what it promised it will not complete.
    pub(super) fn forget_peer(&mut self, peer: ReplicaId) {
        if peer.index() < self.group.replica_count {
            self.candidacy.forget(peer);
            self.catchup.forget(peer);
        }
    }

    pub(super) fn rejoin_at(&mut self, horizon: &Horizon, effects: &mut Effects<Self>) {
        self.floor = horizon.slot();
        self.voted = self.voted.max(self.floor);
        self.horizon = self.horizon.max(self.floor);
        (self.stalled, self.mute) = (true, true);
        if holds(Rule::RejoinKeepsBallot) && horizon.ballot > self.promised {
            self.promise(horizon.ballot);
        }
        self.recorded = self.promised;
        let record = PromiseRecord { term: self.promised, commit: self.commit() };
        let _ = effects.persist(Record::Promise(record), None);
    }

    /// Claims leave from now on: this replica is as fit to coordinate as any.
    pub(super) fn speak(&mut self) {
        (self.stalled, self.mute) = (false, false);
        self.fitness.log.forget_question();
    }

    /// Whether an earlier life of this replica may have voted in the slot, or promised it.
    pub(super) fn is_below_floor(&self, slot: Slot) -> bool {
        slot <= self.floor
    }
}
