//! Patience and its end: what has not been decided for long is proposed again, and who has waited too long is answered.

use panch_consensus::protocol::{Event, Protocol};
use panch_wire::command::{CommandError, Reply};
use panch_wire::frame::Frame;
use panch_wire::ids::ReplicaId;
use panch_wire::time::{Duration, Instant};

use super::{Replica, Surroundings};
use crate::outbox::{Outbox, ReplyTo};
use crate::reads::Round;

/// Doubtful proposals are repeated at most this often.
const REPROPOSE_EVERY: Duration = Duration::from_millis(5);
/// A proposal that has not been executed for this long is doubtful.
const DOUBT_AFTER: Duration = Duration::from_millis(1000);

impl<P: Protocol> Replica<P> {
    /// Since when the oldest batch in flight is.
    fn oldest_proposal(&self) -> Option<Instant> {
        let own = self.batcher.outstanding().next().map(|batch| batch.since);
        [own, self.flights.oldest()].into_iter().flatten().min()
    }

    /// When the oldest batch in flight becomes doubtful.
    pub(super) fn doubtful_at(&self) -> Option<Instant> {
        self.oldest_proposal().map(|since| self.reproposed.max(since) + DOUBT_AFTER)
    }

    /// What is in flight is proposed again, soon.
    pub(super) fn doubt(&mut self, now: Instant) {
        let at = now.max(self.reproposed + REPROPOSE_EVERY);
        self.repropose_at = Some(self.repropose_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Proposes again what is in flight with a counter below `counter`.
    pub(super) fn repropose_below<O: Outbox>(&mut self, counter: u64, around: &mut Surroundings<'_, O>) {
        let frames = self.batcher.outstanding().map(|batch| &batch.frame);
        let mut frames: Vec<Frame> = frames.filter(|frame| frame.id().counter < counter).cloned().collect();
        self.probe.reproposed += frames.len() as u64;
        for frame in frames.drain(..) {
            self.step(Event::Propose(frame), around);
        }
    }

    /// Whether a batch that is proposed now could be decided, as far as is known here. If not it stays in the batcher: what has not
    /// been proposed when its time is over is given up for good, and its clients are told that it was not applied.
    pub(super) fn may_decide(&self, out: &impl Outbox) -> bool {
        let count = self.group.replica_count;
        let is_reached = |id: &ReplicaId| *id == self.group.me || out.reaches(*id);
        2 * (0..count as u8).map(ReplicaId).filter(is_reached).count() > count && self.protocol.may_decide()
    }

    fn cause_of_delay(&self) -> CommandError {
        if self.may_propose { CommandError::Overdue } else { CommandError::Unavailable }
    }

    /// What waits to be proposed and has no time left is given up.
    pub(super) fn answer_overdue_waiting<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        let limit = around.now - self.config.request_timeout;
        while let Some(tokens) = self.batcher.overdue_waiting(limit) {
            self.answer(tokens, self.cause_of_delay(), around.out);
        }
    }

    pub(super) fn answer_overdue<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        let now = around.now;
        if self.doubtful_at().is_some_and(|at| at <= now) {
            self.doubt(now);
        }
        if now.0 < self.config.request_timeout.as_nanos() as u64 {
            return;
        }
        self.answer_overdue_waiting(around);
        let limit = now - self.config.request_timeout;
        let cause = self.cause_of_delay();
        while let Some(tokens) = self.batcher.overdue_outstanding(limit) {
            self.answer(tokens, CommandError::Unknown, around.out);
        }
        self.answer_overdue_flights(limit, around.out);
        for level in 0..self.reads.len() {
            while let Some(round) = self.reads[level].next_overdue(limit) {
                self.fail_round(level, round, cause, around.out);
            }
        }
    }

    /// The node stops: whoever waits for something hears what is known of it.
    pub(crate) fn give_up(&mut self, out: &mut impl Outbox) {
        self.refuse_commands(CommandError::Stopping, out);
        while let Some(tokens) = self.batcher.overdue_outstanding(Instant(u64::MAX)) {
            self.answer(tokens, CommandError::Unknown, out);
        }
    }

    pub(crate) fn fail_round(
        &mut self,
        level: usize,
        round: Round,
        error: CommandError,
        out: &mut impl Outbox,
    ) {
        for (_, token) in round.commands() {
            out.reply(token, Reply::Error(error), None);
        }
        self.probe.timeouts += 1;
        self.reads[level].recycle(round);
    }

    pub(crate) fn answer(&mut self, tokens: Vec<ReplyTo>, error: CommandError, out: &mut impl Outbox) {
        self.probe.timeouts += tokens.len() as u64;
        for token in &tokens {
            out.reply(*token, Reply::Error(error), None);
        }
        self.batcher.recycle(tokens);
    }
}
