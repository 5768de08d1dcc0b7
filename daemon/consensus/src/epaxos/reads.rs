//! Linearizable reads without an instance: the quorum read.
//!
//! A classic quorum is asked for the highest number it has voted for in each row. Whatever was answered to a client before is executed at its
//! command leader, so it is committed, so a classic quorum has voted for it, and the two quorums meet. When everything up to the highest of these
//! numbers is executed here, the read sees it. The keys of the reads are not known here: a read waits for batches that it has nothing to do
//! with, too.
//!
//! This is right for a read of one key, also beside commands that touch several. Let `e(w)` be the first moment at which anybody executes the write
//! `w`. It rises along every edge between writes: two that interfere are executed in one order everywhere, and one that is asked for after another
//! was answered is executed after it. A read that begins after `w` was answered, or after another read has shown `w`, sees `w`. So for writes
//! `v` that a read shows and `w` that it misses, `e(w)` is later than `e` of all that was answered or shown before the read began; and both write its
//! key, so `v` comes before `w` there. Hence no cycle leads through reads of one key: writes and reads have one order that all clients agree with.
//!
//! It is wrong for a read of several keys: a `v` of one key that it shows and a `w` of another that it misses have no order of execution, and `w`
//! may have been answered before `v` was asked for. Such a read goes through the log ([`crate::protocol::Order::needs_log`]), where it interferes
//! with the writes of all of its keys, and with no reads.
//!
//! Invariants:
//! * A read is answered by a round that started after it arrived; all that wait when a round starts share it, and there is one at a time.
//! * Rounds that have their numbers wait for execution one behind the other. All lists are bounded.

use panch_wire::ids::{Incarnation, ReplicaId, ReplicaSet, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use super::Epaxos;
use super::message::{Numbers, ReadReply, ReadRequest};
use crate::protocol::{Dest, Effects, ReadContext};

/// The most reads that may wait.
const READ_COUNT_MAX: usize = 4096;

/// Reads on their way to a moment.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    /// For the next round.
    queued: Vec<ReadContext>,
    /// In the round under way.
    asked: Vec<ReadContext>,
    number: u64,
    replies: ReplicaSet,
    /// The highest numbers that the round has found.
    target: Numbers,
    /// Reads that wait until everything up to the numbers is executed.
    waiting: Vec<(ReadContext, Numbers)>,
    /// How many positions were executed when `waiting` was last looked through; `None`: it has grown since.
    looked_at: Option<Slot>,
    /// When the request is sent again.
    pub(super) retry_at: Option<Instant>,
}

impl Reads {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            queued: Vec::new(),
            asked: Vec::new(),
            // A reply to a request from before a restart must not be taken for a fresh one. [D6]
            number: u64::from(incarnation.0) << 32,
            replies: ReplicaSet::default(),
            target: Numbers::default(),
            waiting: Vec::new(),
            looked_at: None,
            retry_at: None,
        }
    }

    fn count(&self) -> usize {
        self.queued.len() + self.asked.len() + self.waiting.len()
    }
}

impl Epaxos {
    pub(super) fn on_read(&mut self, context: ReadContext, effects: &mut Effects<Self>) {
        if self.reads.count() >= READ_COUNT_MAX {
            effects.retry_read(context);
            return;
        }
        self.reads.queued.push(context);
        // Reads of the same turn share a round: it starts at the end of the turn.
    }

    /// Whether a round should start at the end of the turn.
    pub(super) fn wants_read_round(&self) -> bool {
        self.reads.asked.is_empty() && !self.reads.queued.is_empty()
    }

    pub(super) fn start_read_round(&mut self, effects: &mut Effects<Self>) {
        if !self.wants_read_round() {
            return;
        }
        std::mem::swap(&mut self.reads.queued, &mut self.reads.asked);
        self.reads.number += 1;
        self.reads.replies = ReplicaSet::default();
        self.reads.target = Numbers::default();
        self.send_read_request(effects);
        self.on_own_numbers(effects);
    }

    fn send_read_request(&mut self, effects: &mut Effects<Self>) {
        let request = ReadRequest { number: self.reads.number };
        for peer in self.peers().filter(|peer| !self.reads.replies.contains(*peer)) {
            effects.send(Dest::One(peer), request, None);
        }
        self.reads.retry_at = Some(self.now + self.tuning.slow_after * 2);
    }

    pub(super) fn on_read_retry(&mut self, effects: &mut Effects<Self>) {
        self.reads.retry_at = None;
        if !self.reads.asked.is_empty() {
            self.send_read_request(effects);
        }
    }

    pub(super) fn on_read_request(
        &mut self,
        from: ReplicaId,
        message: ReadRequest,
        effects: &mut Effects<Self>,
    ) {
        effects.send(Dest::One(from), ReadReply { number: message.number, known: self.voted }, None);
    }

    /// What this replica knows itself asserts nothing to anybody, so it need not wait.
    fn on_own_numbers(&mut self, effects: &mut Effects<Self>) {
        let reply = ReadReply { number: self.reads.number, known: self.voted };
        self.on_read_reply(self.group.me, reply, effects);
    }

    pub(super) fn on_read_reply(&mut self, from: ReplicaId, message: ReadReply, effects: &mut Effects<Self>) {
        if message.number != self.reads.number || self.reads.asked.is_empty() {
            return;
        }
        self.reads.replies.insert(from);
        for row in 0..self.group.replica_count {
            self.reads.target[row] = self.reads.target[row].max(message.known[row]);
            self.announced[row] = self.announced[row].max(message.known[row]);
        }
        let needed = if holds(Rule::EpaxosReadQuorum) { self.quorum() } else { 1 };
        if self.reads.replies.count() < needed {
            return;
        }
        let target = self.reads.target;
        self.reads.retry_at = None;
        self.reads.looked_at = None;
        for context in self.reads.asked.drain(..) {
            self.reads.waiting.push((context, target));
        }
        self.serve_reads(effects);
    }

    /// Serves the reads that have waited long enough.
    pub(super) fn serve_reads(&mut self, effects: &mut Effects<Self>) {
        if self.is_paused() {
            return;
        }
        let executed = self.graph.executed();
        let count = executed.count();
        if self.reads.looked_at.replace(count) == Some(count) {
            return;
        }
        self.reads.waiting.retain(|(context, target)| {
            let done = (0..self.group.replica_count).all(|row| executed.upto(row as u8) >= target[row]);
            if done {
                effects.serve_read(*context, count);
            }
            !done
        });
    }
}
