//! Linearizable reads without a log entry: quorum reads.
//!
//! The reader asks a classic quorum, itself included, for the highest slot accepted, and waits until everything up to
//! the maximum is executed. A write that was answered before was chosen, so a classic quorum had accepted it; one of
//! those is among the replicas asked, and no replica forgets an acceptance it was counted for. Whether what is counted
//! here is durable yet does not matter: an acceptance that is lost again can only have made the read wait for a slot
//! that then gets something else, or a no-op.
//!
//! Invariants:
//! * A request leaves after every read it serves arrived; there is one at a time, and only answers to it count.
//! * The lists are bounded; what does not fit is asked to retry.

use panch_wire::ids::{Incarnation, ReplicaId, ReplicaSet, Slot};
use panch_wire::rule::{Rule, holds};

use super::message::{ReadReply, ReadRequest};
use super::{Basic, Timer};
use crate::protocol::{Dest, Effects, ReadContext};

/// The most reads in each list.
const READ_COUNT_MAX: usize = 1024;

/// Reads on their way to a position.
#[derive(Debug)]
pub(super) struct Reads {
    /// For the next request.
    waiting: Vec<ReadContext>,
    /// Asked for by request `number`.
    asked: Vec<ReadContext>,
    number: u64,
    replies: ReplicaSet,
    /// The highest slot in a reply.
    highest: Slot,
}

impl Reads {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            waiting: Vec::new(),
            asked: Vec::new(),
            // A reply to a request from before a restart must not be taken for a fresh one. [D6]
            number: u64::from(incarnation.0) << 32,
            replies: ReplicaSet::default(),
            highest: Slot(0),
        }
    }
}

impl Basic {
    pub(super) fn on_read(&mut self, context: ReadContext, effects: &mut Effects<Self>) {
        if self.reads.waiting.len() >= READ_COUNT_MAX {
            effects.retry_read(context);
            return;
        }
        self.reads.waiting.push(context);
        self.due.read = self.reads.asked.is_empty();
    }

    /// A round starts: it serves all reads that wait now.
    pub(super) fn send_read_request(&mut self, effects: &mut Effects<Self>) {
        if self.reads.waiting.is_empty() || !self.reads.asked.is_empty() {
            return;
        }
        std::mem::swap(&mut self.reads.waiting, &mut self.reads.asked);
        self.reads.number += 1;
        self.reads.highest = self.last();
        self.reads.replies = ReplicaSet::default();
        self.reads.replies.insert(self.me());
        if self.group.replica_count > 1 {
            effects.send(Dest::Others, ReadRequest { number: self.reads.number }, None);
            self.arm_read();
        }
        self.consider_reads(effects);
    }

    fn arm_read(&mut self) {
        self.timers.arm(Timer::Read, self.now + self.slow());
    }

    /// Answers are missing: those who did not answer are asked again, which is the same round.
    pub(super) fn resend_read_request(&mut self, effects: &mut Effects<Self>) {
        if self.reads.asked.is_empty() {
            return;
        }
        let replies = self.reads.replies;
        for id in (0..self.group.replica_count as u8).map(ReplicaId).filter(|id| !replies.contains(*id)) {
            effects.send(Dest::One(id), ReadRequest { number: self.reads.number }, None);
        }
        self.arm_read();
    }

    pub(super) fn on_read_request(
        &mut self,
        from: ReplicaId,
        message: ReadRequest,
        effects: &mut Effects<Self>,
    ) {
        effects.send(Dest::One(from), ReadReply { number: message.number, last: self.last() }, None);
    }

    pub(super) fn on_read_reply(&mut self, from: ReplicaId, message: ReadReply, effects: &mut Effects<Self>) {
        if self.reads.asked.is_empty() {
            return;
        }
        // An answer to an earlier request may be older than the reads of this one.
        if message.number != self.reads.number && holds(Rule::BasicReadFreshRound) {
            return;
        }
        self.reads.replies.insert(from);
        self.reads.highest = self.reads.highest.max(message.last);
        self.consider_reads(effects);
    }

    /// Serves the reads of the round if a quorum has answered.
    fn consider_reads(&mut self, effects: &mut Effects<Self>) {
        let needed = if holds(Rule::BasicReadQuorum) { self.quorum() } else { 1 };
        if self.reads.replies.count() < needed {
            return;
        }
        let highest = self.reads.highest;
        for context in self.reads.asked.drain(..) {
            effects.serve_read(context, highest);
        }
        // If its proposer is gone somebody must finish the slot, or the reads never end.
        self.note_used(highest);
        self.timers.disarm(Timer::Read);
        self.due.read = !self.reads.waiting.is_empty();
    }
}
