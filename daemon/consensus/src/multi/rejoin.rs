//! Coming back without a disk.
//!
//! Why it is safe, given (H1) to (H3) of [`crate::rejoin`]. Ballots: a promise of the earlier life counted for somebody only in a
//! quorum, with the promise of another member in the same ballot, which is durable there: no such ballot is above the
//! horizon's, and that one is promised here, durably, before anything is claimed. The same for ballots of its own that the earlier
//! life led in; one that nobody has heard of may be used again, since nobody holds a promise of it. Slots: a vote is given
//! in the promised ballot only, so votes at or below the horizon obey every promise of the earlier life, too. What would be wrong
//! is a *report*: a promise that does not name the forgotten votes. Those that count are at or below the horizon (H3), and
//! a promise leaves only when all slots up to there are executed here, so that it names what was chosen in them, or is
//! refused because the candidate lacks what has left memory here. Votes beyond the horizon are as if they had never been (H2).
//!
//! Leases: a grant of the earlier life may still run. The delay after a restart covers it: the grant was given before the
//! disk was lost. Grants may be given while mute: they promise to do nothing. Heartbeats are answered in the promised
//! ballot, so a read index is confirmed only by a leader whose ballot is not below any that the earlier life promised.
//!
//! While mute the replica does not stand for election: its ballot would only depose a leader that works. A slot at or
//! below the horizon may lie beyond what the leader has proposed (a vote in an old ballot that was never chosen), and
//! then nothing would ever be decided there: the replica asks the leader to fill it.

use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use super::message::{FillRequest, PromiseRecord, Record};
use super::{Multi, Role};
use crate::protocol::{Dest, Effects, Value};
use crate::rejoin::Horizon;

impl Multi {
    /// The highest that is known of anything here.
    pub(super) fn own_horizon(&self) -> Horizon {
        let proposed = if self.role == Role::Leader { self.term.last } else { Slot(0) };
        let slot = self.window.last().max(self.accepted_upto).max(proposed).max(self.candidacy.reported());
        Horizon::of_log(self.promised.max(self.seen), slot)
    }

    /// Nothing that `peer` acknowledged is there any more, and what it promised it will not complete.
    pub(super) fn forget_peer(&mut self, peer: ReplicaId) {
        if peer.index() < self.group.replica_count {
            self.term.forget(peer);
            self.candidacy.forget(peer);
        }
    }

    pub(super) fn rejoin_at(&mut self, horizon: &Horizon, effects: &mut Effects<Self>) {
        self.floor = horizon.slot();
        // Its grants may outlive its disk.
        self.restarted = true;
        self.stalled = true;
        if holds(Rule::RejoinKeepsBallot) && horizon.ballot > self.promised {
            self.promise(horizon.ballot);
        }
        self.recorded = self.promised;
        let record = PromiseRecord { ballot: self.promised, commit: self.commit };
        let _ = effects.persist(Record::Promise(record), None);
    }

    /// Claims leave from now on: this replica is as fit to lead as any.
    pub(super) fn speak(&mut self) {
        self.floor = Slot(0);
        self.stalled = false;
        self.lease.on_log_progress();
        self.fitness.log.forget_question();
        self.due.ack = self.leader.is_some();
    }

    /// The leader lives: somebody must decide what this replica waits for.
    pub(super) fn ask_to_fill(&mut self, effects: &mut Effects<Self>) {
        // What was accepted in an earlier ballot only may never be decided.
        if self.floor > self.accepted_upto
            && let Some(leader) = self.leader
        {
            effects.send(Dest::One(leader), FillRequest { ballot: self.promised, upto: self.floor }, None);
        }
    }

    pub(super) fn on_fill_request(&mut self, message: FillRequest, effects: &mut Effects<Self>) {
        if self.role != Role::Leader || message.ballot != self.promised || self.is_transferring() {
            return;
        }
        while self.term.last < message.upto && self.term.last.0 - self.commit.0 < self.unchosen_max() {
            self.counters.noops += 1;
            self.append(self.term.last.next(), Value::Noop, effects);
        }
        for peer in self.peers() {
            self.pump(peer, effects);
        }
    }
}
