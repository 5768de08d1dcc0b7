//! Linearizable reads without a log entry: the read index.
//!
//! The leader notes its commit index, starts a heartbeat round, and once a quorum has answered it in the leader's own
//! ballot, no later leader can have decided anything before the round began. A follower asks the leader. A read that
//! a lease is good enough for needs no round while the leader holds one; a follower's costs it the way to the leader.
//!
//! Invariants:
//! * A read is confirmed only by a round that started after it arrived; all that wait when a round starts share it.
//! * No round serves reads before the leader's term-start entry is chosen (PM6): until then its commit index may be
//!   behind what an earlier leader decided.
//! * A follower's request is sent after every read it serves arrived; there is one at a time.
//! * The lists are bounded; what does not fit is asked to retry.

use panch_wire::ids::{Incarnation, REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use super::message::{ReadIndexReply, ReadIndexRequest};
use super::{Multi, Role, Timer};
use crate::protocol::{Dest, Effects, ReadContext};
use crate::quorum::reached_by_quorum;

/// The most reads or requests in any list.
const READ_COUNT_MAX: usize = 1024;

/// Who wants to read.
#[derive(Clone, Copy, Debug)]
enum Reader {
    Own(ReadContext),
    Peer(ReplicaId, u64),
}

/// Reads on their way to a position.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    /// Leader: for the next round.
    waiting: Vec<Reader>,
    /// Leader: confirmed by `round`.
    confirming: Vec<Reader>,
    /// Leader: the round that confirms.
    round: u64,
    /// Leader: the commit index when the round started.
    index: Slot,
    /// Follower: for the next request.
    queued: Vec<ReadContext>,
    /// Follower: one of them needs more than a lease.
    queued_quorum: bool,
    /// Follower: asked for by request `number`.
    asked: Vec<ReadContext>,
    number: u64,
}

impl Reads {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            waiting: Vec::new(),
            confirming: Vec::new(),
            round: 0,
            index: Slot(0),
            queued: Vec::new(),
            queued_quorum: false,
            asked: Vec::new(),
            // A reply to a request from before a restart must not be taken for a fresh one. [D6]
            number: u64::from(incarnation.0) << 32,
        }
    }
}

fn serve(reader: Reader, slot: Option<Slot>, effects: &mut Effects<Multi>) {
    match (reader, slot) {
        (Reader::Own(context), Some(slot)) => effects.serve_read(context, slot),
        (Reader::Own(context), None) => effects.retry_read(context),
        (Reader::Peer(peer, number), slot) => {
            effects.send(Dest::One(peer), ReadIndexReply { number, slot }, None);
        }
    }
}

impl Multi {
    pub(super) fn on_read(&mut self, context: ReadContext, lease: bool, effects: &mut Effects<Self>) {
        if self.role == Role::Leader {
            self.read_as_leader(Reader::Own(context), lease, effects);
        } else if self.leader.is_some() && self.reads.queued.len() < READ_COUNT_MAX {
            self.reads.queued.push(context);
            self.reads.queued_quorum |= !lease;
            self.due.read_index = self.reads.asked.is_empty();
        } else {
            effects.retry_read(context);
        }
    }

    pub(super) fn on_read_index_request(
        &mut self,
        from: ReplicaId,
        message: ReadIndexRequest,
        effects: &mut Effects<Self>,
    ) {
        let reader = Reader::Peer(from, message.number);
        if self.role == Role::Leader {
            self.read_as_leader(reader, message.lease, effects);
        } else {
            serve(reader, None, effects);
        }
    }

    fn read_as_leader(&mut self, reader: Reader, lease: bool, effects: &mut Effects<Self>) {
        if lease && self.holds_lease() {
            self.counters.lease_reads += 1;
            serve(reader, Some(self.commit), effects);
            return;
        }
        if self.reads.waiting.len() >= READ_COUNT_MAX {
            serve(reader, None, effects);
            return;
        }
        if !holds(Rule::ReadFreshRound) && self.term.round > 0 {
            self.reads.confirming.push(reader);
            self.reads.round = self.term.round;
            self.reads.index = self.commit;
            self.confirm_reads(effects);
            return;
        }
        self.reads.waiting.push(reader);
        self.consider_read_round(effects);
    }

    fn may_serve_reads(&self) -> bool {
        self.term.start <= self.commit || !holds(Rule::ReadAfterTermStart)
    }

    /// A round starts at the end of the turn if reads wait for one and none is on its way.
    pub(super) fn consider_read_round(&mut self, effects: &mut Effects<Self>) {
        if self.reads.waiting.is_empty() || !self.reads.confirming.is_empty() || !self.may_serve_reads() {
            return;
        }
        if self.group.replica_count == 1 {
            self.attach_reads(effects);
        } else {
            self.due.round = true;
        }
    }

    /// A round starts now.
    pub(super) fn attach_reads(&mut self, effects: &mut Effects<Self>) {
        if self.reads.waiting.is_empty() || !self.reads.confirming.is_empty() || !self.may_serve_reads() {
            return;
        }
        std::mem::swap(&mut self.reads.waiting, &mut self.reads.confirming);
        self.reads.round = self.term.round;
        self.reads.index = self.commit;
        self.confirm_reads(effects);
    }

    /// Serves the reads whose round a quorum has answered, this replica included.
    pub(super) fn confirm_reads(&mut self, effects: &mut Effects<Self>) {
        if self.reads.confirming.is_empty() {
            return;
        }
        let mut rounds = [self.term.round; REPLICAS_MAX];
        for peer in self.peers() {
            rounds[peer.index()] = self.term.peers[peer.index()].round;
        }
        if reached_by_quorum(&rounds[..self.group.replica_count]) < self.reads.round {
            return;
        }
        let index = self.reads.index;
        for reader in self.reads.confirming.drain(..) {
            serve(reader, Some(index), effects);
        }
        self.consider_read_round(effects);
    }

    pub(super) fn send_read_index_request(&mut self, effects: &mut Effects<Self>) {
        let Some(leader) = self.leader else { return };
        if self.reads.queued.is_empty() || !self.reads.asked.is_empty() {
            return;
        }
        std::mem::swap(&mut self.reads.queued, &mut self.reads.asked);
        self.reads.number += 1;
        let lease = !std::mem::take(&mut self.reads.queued_quorum);
        effects.send(Dest::One(leader), ReadIndexRequest { number: self.reads.number, lease }, None);
        self.timers.arm(Timer::ReadIndex, self.now + self.tuning.election_timeout);
    }

    pub(super) fn on_read_index_reply(&mut self, message: ReadIndexReply, effects: &mut Effects<Self>) {
        if message.number != self.reads.number {
            return;
        }
        for context in self.reads.asked.drain(..) {
            serve(Reader::Own(context), message.slot, effects);
        }
        self.timers.disarm(Timer::ReadIndex);
        self.due.read_index = !self.reads.queued.is_empty();
    }

    /// The reads asked of a leader are given back.
    pub(super) fn retry_own_reads(&mut self, effects: &mut Effects<Self>) {
        for context in self.reads.asked.drain(..).chain(self.reads.queued.drain(..)) {
            effects.retry_read(context);
        }
        self.reads.queued_quorum = false;
        self.timers.disarm(Timer::ReadIndex);
    }

    /// The role or the leader changes: no read that waits can be confirmed any more.
    pub(super) fn fail_reads(&mut self, effects: &mut Effects<Self>) {
        for reader in self.reads.confirming.drain(..).chain(self.reads.waiting.drain(..)) {
            serve(reader, None, effects);
        }
        self.retry_own_reads(effects);
    }
}
