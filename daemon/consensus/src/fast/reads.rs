//! Linearizable reads without a log entry: quorum reads.
//!
//! Whatever was chosen before the read has a vote at one replica at least of every classic quorum. So the highest slot that
//! a classic quorum voted in bounds it from above, and a state with all of that executed may be read. No leader is needed.
//!
//! Invariants:
//! * A read is confirmed only by a request that was sent after it arrived; all that wait when a request leaves share it.
//! * Answers count per replica; the own answer is the own highest vote when the request left.
//! * The numbers of requests are not used again after a restart.
//! * The lists are bounded; what does not fit is asked to retry.

use panch_wire::ids::{Incarnation, ReplicaId, ReplicaSet, Slot};
use panch_wire::rule::{Rule, holds};

use super::message::{ReadReply, ReadRequest};
use super::{Fast, Timer};
use crate::protocol::{Dest, Effects, ReadContext};

/// The most reads in either list.
const READ_COUNT_MAX: usize = 1024;

/// Reads on their way to a position.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    /// For the next request.
    queued: Vec<ReadContext>,
    /// Asked for by request `number`.
    asked: Vec<ReadContext>,
    number: u64,
    answered: ReplicaSet,
    /// The highest slot of the answers so far.
    last: Slot,
}

impl Reads {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            queued: Vec::new(),
            asked: Vec::new(),
            // A reply to a request from before a restart must not be taken for a fresh one. [D6]
            number: u64::from(incarnation.0) << 32,
            answered: ReplicaSet::default(),
            last: Slot(0),
        }
    }
}

impl Fast {
    /// No vote of this replica lies above.
    fn highest_vote(&self) -> Slot {
        self.voted.max(self.commit())
    }

    pub(super) fn on_read(&mut self, context: ReadContext, effects: &mut Effects<Self>) {
        if self.reads.queued.len() >= READ_COUNT_MAX {
            effects.retry_read(context);
            return;
        }
        self.reads.queued.push(context);
        self.due.read = self.reads.asked.is_empty();
    }

    pub(super) fn send_read_request(&mut self, effects: &mut Effects<Self>) {
        if self.reads.queued.is_empty() || !self.reads.asked.is_empty() {
            return;
        }
        std::mem::swap(&mut self.reads.queued, &mut self.reads.asked);
        self.reads.number += 1;
        self.reads.answered = ReplicaSet::default();
        self.reads.last = Slot(0);
        effects.send(Dest::Others, ReadRequest { number: self.reads.number }, None);
        self.timers.arm(Timer::Read, self.now + self.tuning.election_timeout);
        self.count_answer(self.me(), self.highest_vote(), effects);
    }

    pub(super) fn on_read_request(
        &mut self,
        from: ReplicaId,
        message: ReadRequest,
        effects: &mut Effects<Self>,
    ) {
        let reply = ReadReply { number: message.number, last: self.highest_vote() };
        self.send_other(from, reply, None, effects);
    }

    pub(super) fn on_read_reply(&mut self, from: ReplicaId, message: ReadReply, effects: &mut Effects<Self>) {
        if message.number == self.reads.number && !self.reads.asked.is_empty() {
            self.count_answer(from, message.last, effects);
        }
    }

    fn count_answer(&mut self, from: ReplicaId, last: Slot, effects: &mut Effects<Self>) {
        self.reads.answered.insert(from);
        self.reads.last = self.reads.last.max(last);
        let needed = if holds(Rule::FastReadQuorum) { self.quorum() } else { 1 };
        if self.reads.answered.count() < needed {
            return;
        }
        let last = self.reads.last;
        if self.slots.admits(last) {
            // That vote may be lost, if it was not durable yet: known to be waited for, the slot is decided all the same.
            self.raise_horizon(last);
        }
        for context in self.reads.asked.drain(..) {
            effects.serve_read(context, last);
        }
        self.timers.disarm(Timer::Read);
        self.due.read = !self.reads.queued.is_empty();
    }

    /// No quorum answers: the reads are given back.
    pub(super) fn give_back_reads(&mut self, effects: &mut Effects<Self>) {
        for context in self.reads.asked.drain(..).chain(self.reads.queued.drain(..)) {
            effects.retry_read(context);
        }
        self.timers.disarm(Timer::Read);
    }
}
