//! Linearizable reads without an instance: the quorum read.
//!
//! A classic quorum is asked for the highest number it has voted for in each row. Whatever was answered to a client before is executed at its
//! command leader, so it is committed, so a classic quorum has voted for it, and the two quorums meet. When everything up to the highest of these
//! numbers is executed here, the read sees it.
//!
//! What was only voted for may be long in coming, if the disk of its command leader hangs. But the command leader knows: a fast commit is its own,
//! and nobody, it included, makes use of one that it does not yet tell of. Any other commit was accepted by a classic quorum. So once the command
//! leader of a row has answered too, early or late, only what somebody has accepted or knows to be committed there must be waited for.
//!
//! The keys of the reads are not known here: a read waits for batches that it has nothing to do
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

/// What a round has found.
#[derive(Clone, Copy, Default, Debug)]
struct Target {
    /// The number of the round.
    round: u64,
    /// Who answered.
    replies: ReplicaSet,
    /// The highest numbers that anybody has voted for.
    voted: Numbers,
    /// The highest numbers that anybody has accepted or knows to be committed.
    decided: Numbers,
}

impl Target {
    fn take_in(&mut self, from: ReplicaId, message: &ReadReply) {
        self.replies.insert(from);
        for (own, number) in self.voted.iter_mut().zip(&message.known) {
            *own = (*own).max(*number);
        }
        for (own, number) in self.decided.iter_mut().zip(&message.decided) {
            *own = (*own).max(*number);
        }
    }

    /// The number of the row up to which everything must be executed.
    fn number(&self, row: usize) -> u64 {
        let is_named = self.replies.contains(ReplicaId(row as u8)) || !holds(Rule::EpaxosReadVoted);
        if is_named { self.decided[row] } else { self.voted[row].max(self.decided[row]) }
    }
}

/// Reads on their way to a moment.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    /// For the next round.
    queued: Vec<ReadContext>,
    /// In the round under way.
    asked: Vec<ReadContext>,
    number: u64,
    /// What the round has found.
    target: Target,
    /// Reads that wait until everything that they must see is executed.
    waiting: Vec<(ReadContext, Target)>,
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
            target: Target::default(),
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
        self.reads.target = Target { round: self.reads.number, ..Target::default() };
        self.send_read_request(effects);
        self.on_own_numbers(effects);
    }

    fn send_read_request(&mut self, effects: &mut Effects<Self>) {
        let request = ReadRequest { number: self.reads.number };
        for peer in self.peers().filter(|peer| !self.reads.target.replies.contains(*peer)) {
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
        let reply = ReadReply { number: message.number, known: self.voted, decided: self.decided };
        effects.send(Dest::One(from), reply, None);
    }

    /// What this replica knows itself asserts nothing to anybody, so it need not wait.
    fn on_own_numbers(&mut self, effects: &mut Effects<Self>) {
        let reply = ReadReply { number: self.reads.number, known: self.voted, decided: self.decided };
        self.on_read_reply(self.group.me, reply, effects);
    }

    pub(super) fn on_read_reply(&mut self, from: ReplicaId, message: ReadReply, effects: &mut Effects<Self>) {
        for row in 0..self.group.replica_count {
            self.announced[row] = self.announced[row].max(message.known[row]);
        }
        if message.number != self.reads.number || self.reads.asked.is_empty() {
            self.on_late_numbers(from, &message, effects);
            return;
        }
        self.reads.target.take_in(from, &message);
        let needed = if holds(Rule::EpaxosReadQuorum) { self.quorum() } else { 1 };
        if self.reads.target.replies.count() < needed {
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

    /// An answer to a round that had a quorum without it: it may say that less must be waited for.
    fn on_late_numbers(&mut self, from: ReplicaId, message: &ReadReply, effects: &mut Effects<Self>) {
        let row = from.index();
        let mut is_late = false;
        for (_, target) in self.reads.waiting.iter_mut().filter(|(_, target)| target.round == message.number)
        {
            target.replies.insert(from);
            target.decided[row] = target.decided[row].max(message.decided[row]);
            is_late = true;
        }
        if is_late {
            self.reads.looked_at = None;
            self.serve_reads(effects);
        }
    }

    /// The numbers up to which the read that has waited longest needs everything to be executed.
    pub(super) fn read_target(&self) -> Option<Numbers> {
        let (_, target) = self.reads.waiting.first()?;
        Some(std::array::from_fn(|row| target.number(row)))
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
            let done =
                (0..self.group.replica_count).all(|row| executed.upto(row as u8) >= target.number(row));
            if done {
                effects.serve_read(*context, count);
            }
            !done
        });
    }
}
