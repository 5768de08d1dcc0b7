//! From commands to batches.
//!
//! Commands are written straight into the frame they will be decided in. Batching is natural: with an idle pipeline a
//! batch leaves at the end of the turn, however small; behind a full pipeline the next batch goes on filling beyond its
//! usual number of commands, up to its bytes, so that load makes batches larger instead of longer queues of small ones. A
//! partial batch waits for at most the configured linger, and only while others are in flight.
//!
//! A command has a certain time from its arrival at the node. One that had to wait before it came here has less left than one that
//! just arrived, and does not share a batch with it, since a batch is given up as a whole.
//!
//! Invariants:
//! * At most `pipeline_depth` sealed batches are outstanding.
//! * A batch gets its [`BatchId`] when it is proposed for the first time, so a batch that is given up while it waits
//!   leaves no gap in the counters.
//! * Everything is bounded: waiting batches by `queue_max`, memory by the pool. When there is no room the command is
//!   refused to the caller, which stops reading from the client.

use std::collections::VecDeque;

use panch_wire::batch::{BatchWriter, Entry, OVERHEAD, size_of_command};
use panch_wire::command::{Command, KEY_SIZE_MAX};
use panch_wire::frame::{FRAME_SIZE_MAX, Frame, FramePool};
use panch_wire::ids::{BatchId, Incarnation, ReplicaId};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use crate::outbox::ReplyTo;

/// Bounds of a batcher.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Commands in a batch at which it is complete while the pipeline has room for it.
    pub commands_max: usize,
    /// Bytes of a batch at which it is complete; a larger single command gets a batch of its own.
    pub size_max: usize,
    /// The largest command, in bytes. Every node of the cluster must be able to take it: its log and its frame memory.
    pub command_size_max: usize,
    /// The longest value that a command may write, in bytes. At most [`ceilings::VALUE_SIZE_MAX`](crate::ceilings::VALUE_SIZE_MAX).
    pub value_size_max: usize,
    /// Batches in flight.
    pub pipeline_depth: usize,
    /// The longest that a partial batch waits while other batches are in flight.
    pub linger: Duration,
    /// Complete batches that wait for the pipeline before commands are refused.
    pub queue_max: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            commands_max: 100,
            size_max: 64 << 10,
            command_size_max: 1 << 20,
            // With the longest key it fits into such a command.
            value_size_max: (1 << 20) - KEY_SIZE_MAX - 1 - 4096,
            pipeline_depth: 10,
            linger: Duration::ZERO,
            queue_max: 64,
        }
    }
}

impl BatchLimits {
    /// What of a command is too large to be proposed. Judged where a client's bytes come in, and nowhere later: what was
    /// proposed is executed by the same rules on every node, whatever their limits.
    pub fn excess(&self, command: &Command<'_>) -> Option<Excess> {
        // No value of a list is longer than the list.
        if command.value.len() > self.value_size_max && command.longest_value() > self.value_size_max {
            Some(Excess::Value)
        } else {
            (size_of_command(command) > self.command_size_max).then_some(Excess::Total)
        }
    }

    /// Whether a command is small enough to be proposed.
    pub(crate) fn admits(&self, command: &Command<'_>) -> bool {
        self.excess(command).is_none()
    }
}

/// What of a command exceeds the [`BatchLimits`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excess {
    /// A value that it brings along: see [`BatchLimits::value_size_max`].
    Value,
    /// All of it together: see [`BatchLimits::command_size_max`].
    Total,
}

/// Why a command was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No room now: try again when a batch has completed.
    Busy,
    /// It can never fit.
    TooLarge,
}

struct Filling {
    writer: BatchWriter,
    tokens: Vec<ReplyTo>,
    /// When its first command came here.
    since: Instant,
    /// When that command arrived at the node.
    arrived: Instant,
}

/// A batch in flight.
pub(crate) struct Outstanding {
    pub(crate) frame: Frame,
    /// Whom to answer, one per command; empty once the clients were told that the outcome is unknown.
    pub(crate) tokens: Vec<ReplyTo>,
    /// When it was sealed.
    pub(crate) since: Instant,
    /// When its first command arrived at the node.
    arrived: Instant,
    /// It is known to be chosen.
    committed: bool,
}

/// The batches of one replica that are not executed yet.
pub(crate) struct Batcher {
    limits: BatchLimits,
    /// How far apart the commands of one batch may have arrived.
    spread_max: Duration,
    me: ReplicaId,
    incarnation: Incarnation,
    counter: u64,
    open: Option<Filling>,
    queue: VecDeque<Filling>,
    outstanding: VecDeque<Outstanding>,
    /// Size of the batch sealed last, in bytes.
    likely_size: usize,
    spare_entries: Vec<Vec<Entry>>,
    spare_tokens: Vec<Vec<ReplyTo>>,
}

impl Batcher {
    pub(crate) fn new(
        limits: BatchLimits,
        spread_max: Duration,
        me: ReplicaId,
        incarnation: Incarnation,
    ) -> Self {
        Self {
            limits,
            spread_max,
            me,
            incarnation,
            counter: 0,
            open: None,
            queue: VecDeque::new(),
            outstanding: VecDeque::new(),
            likely_size: 0,
            spare_entries: Vec::new(),
            spare_tokens: Vec::new(),
        }
    }

    /// Takes a command into the batch that is being filled. It `arrived` at the node now or earlier.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        arrived: Instant,
        pool: &FramePool,
        command: &Command<'_>,
        token: ReplyTo,
    ) -> Result<(), Refusal> {
        let size = OVERHEAD + size_of_command(command);
        if size > FRAME_SIZE_MAX || !self.limits.admits(command) {
            return Err(Refusal::TooLarge);
        }
        if self.push_open(arrived, pool, command, token) {
            return Ok(());
        }
        if self.queue.len() >= self.limits.queue_max {
            return Err(Refusal::Busy);
        }
        // The last quarter is for what peers send: their messages are what frees the rest.
        if pool.used() > pool.size_max() / 4 * 3 {
            return Err(Refusal::Busy);
        }
        let memory = pool.take(size.max(self.likely_size)).ok_or(Refusal::Busy)?;
        self.queue.extend(self.open.take());
        let mut writer = BatchWriter::new(memory, self.spare_entries.pop().unwrap_or_default());
        let fits = writer.push(command);
        assert!(fits, "the frame was taken large enough for this command");
        let mut tokens = self.spare_tokens.pop().unwrap_or_default();
        tokens.push(token);
        let filling = Filling { writer, tokens, since: now, arrived };
        if self.limits.commands_max <= 1 {
            self.queue.push_back(filling);
        } else {
            self.open = Some(filling);
        }
        Ok(())
    }

    /// Adds to the open batch, which grows up to its bound; false if there is none, or it is complete without the command.
    fn push_open(
        &mut self,
        arrived: Instant,
        pool: &FramePool,
        command: &Command<'_>,
        token: ReplyTo,
    ) -> bool {
        let Some(open) = &mut self.open else { return false };
        let spread = arrived.since(open.arrived).max(open.arrived.since(arrived));
        if spread > self.spread_max {
            return false;
        }
        if !open.writer.push(command) {
            let needed = open.writer.size() + size_of_command(command);
            let capacity = needed.max(2 * open.writer.capacity()).min(self.limits.size_max);
            if needed > capacity || capacity <= open.writer.capacity() {
                return false;
            }
            let Some(memory) = pool.take(capacity) else { return false };
            open.writer.move_to(memory);
            if !open.writer.push(command) {
                return false;
            }
        }
        open.tokens.push(token);
        open.arrived = open.arrived.min(arrived);
        let room = self.outstanding.len() + self.queue.len() < self.limits.pipeline_depth;
        if open.writer.command_count() >= self.limits.commands_max && room {
            self.queue.extend(self.open.take());
        }
        true
    }

    /// Seals the next batch that may leave now.
    pub(crate) fn seal_next(&mut self, now: Instant) -> Option<&Frame> {
        if self.outstanding.len() >= self.limits.pipeline_depth {
            return None;
        }
        let filling = match self.queue.pop_front() {
            Some(filling) => filling,
            None => {
                let open = self.open.as_ref()?;
                let waited = now.since(open.since) >= self.limits.linger;
                // It may have become complete while the pipeline was full.
                let complete = open.writer.command_count() >= self.limits.commands_max;
                if !self.outstanding.is_empty() && !waited && !complete {
                    return None;
                }
                self.open.take()?
            }
        };
        self.counter += 1;
        let id = BatchId { proposer: self.me, incarnation: self.incarnation, counter: self.counter };
        let (frame, entries) = filling.writer.seal(id);
        // Batches resemble each other: the next one starts in memory of this size, and recent batches kept for peers take
        // no more than they need.
        self.likely_size = frame.bytes().len().min(self.limits.size_max);
        self.spare_entries.push(entries);
        self.outstanding.push_back(Outstanding {
            frame,
            tokens: filling.tokens,
            since: now,
            arrived: filling.arrived,
            committed: false,
        });
        self.outstanding.back().map(|batch| &batch.frame)
    }

    /// When [`Batcher::seal_next`] may have something that it has not now.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.outstanding.len() >= self.limits.pipeline_depth {
            return None;
        }
        self.open.as_ref().map(|open| open.since + self.limits.linger)
    }

    /// Batches in flight, oldest first.
    pub(crate) fn outstanding(&self) -> impl ExactSizeIterator<Item = &Outstanding> {
        self.outstanding.iter()
    }

    /// The batch in flight that is `id` is known to be chosen: since when it was sealed, and how many commands it has;
    /// `None` if that was known, or it is not in flight any more.
    pub(crate) fn commit(&mut self, id: BatchId) -> Option<(Instant, u32)> {
        let batch = self.outstanding.iter_mut().find(|batch| batch.frame.id() == id && !batch.committed)?;
        batch.committed = true;
        Some((batch.since, batch.frame.command_count()))
    }

    /// Ends the batch in flight that is `id`: the oldest, or any if the protocol does not order all batches.
    pub(crate) fn finish(&mut self, id: BatchId) -> Option<Outstanding> {
        let index = self.outstanding.iter().position(|batch| batch.frame.id() == id)?;
        self.outstanding.remove(index)
    }

    /// Ends the oldest batch in flight if its counter is below `next`: it was executed elsewhere, in a snapshot.
    pub(crate) fn finish_below(&mut self, next: u64) -> Option<Outstanding> {
        if self.outstanding.front()?.frame.id().counter >= next {
            return None;
        }
        self.outstanding.pop_front()
    }

    /// Gives storage back for reuse.
    pub(crate) fn recycle(&mut self, mut tokens: Vec<ReplyTo>) {
        tokens.clear();
        if self.spare_tokens.len() < self.limits.queue_max {
            self.spare_tokens.push(tokens);
        }
    }

    /// The next batch in flight whose commands arrived before `limit` and whose clients still wait: they are taken out, the batch stays.
    pub(crate) fn overdue_outstanding(&mut self, limit: Instant) -> Option<Vec<ReplyTo>> {
        let is_overdue = |batch: &&mut Outstanding| batch.arrived < limit && !batch.tokens.is_empty();
        self.outstanding.iter_mut().find(is_overdue).map(|batch| std::mem::take(&mut batch.tokens))
    }

    /// Gives up the next batch that waits to be proposed and whose commands arrived before `limit`: it never was proposed and never will
    /// be, so its commands are known not to be applied.
    pub(crate) fn overdue_waiting(&mut self, limit: Instant) -> Option<Vec<ReplyTo>> {
        if self.open.as_ref().is_some_and(|open| open.arrived < limit) {
            self.queue.extend(self.open.take());
        }
        let is_overdue = |filling: &Filling| filling.arrived < limit && !filling.tokens.is_empty();
        let index = self.queue.iter().position(is_overdue)?;
        if !holds(Rule::RefusedIsDropped) {
            return self.queue.get_mut(index).map(|refused| std::mem::take(&mut refused.tokens));
        }
        self.queue.remove(index).map(|filling| filling.tokens)
    }

    /// When the oldest command that waits arrived.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let flying = self.outstanding.iter().filter(|batch| !batch.tokens.is_empty());
        let waiting = self.queue.iter().chain(&self.open).filter(|filling| !filling.tokens.is_empty());
        flying.map(|batch| batch.arrived).chain(waiting.map(|filling| filling.arrived)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use panch_wire::command::CommandKind;

    const NOW: Instant = Instant(1_000_000_000);
    const SPREAD_MAX: Duration = Duration::from_millis(20);

    fn batcher(linger: Duration) -> (Batcher, FramePool) {
        let limits = BatchLimits { commands_max: 3, pipeline_depth: 2, linger, ..BatchLimits::default() };
        (Batcher::new(limits, SPREAD_MAX, ReplicaId(0), Incarnation(1)), FramePool::new(1 << 20))
    }

    fn push(batcher: &mut Batcher, pool: &FramePool, count: usize) {
        let command =
            Command { kind: CommandKind::Set, flags: 0, session: None, key: b"key", value: b"value" };
        for _ in 0..count {
            batcher.push(NOW, NOW, pool, &command, ReplyTo::NOBODY).unwrap();
        }
    }

    #[test]
    fn what_is_too_long_is_refused_where_it_comes_in() {
        use panch_wire::command::list;
        let limits = BatchLimits { value_size_max: 4, command_size_max: 200, ..BatchLimits::default() };
        let mut batcher = Batcher::new(limits, SPREAD_MAX, ReplicaId(0), Incarnation(1));
        let pool = FramePool::new(1 << 20);
        let mut pairs = Vec::new();
        [b"a long key".as_slice(), b"four", b"k", b"too long"]
            .iter()
            .for_each(|item| list::push(&mut pairs, item));
        let first_pair = pairs.len() - 4 - 1 - 4 - 8;
        use CommandKind::{Append, MSet, Set};
        for (kind, value, expected) in [
            (Set, b"four".as_slice(), Ok(())),
            (Set, b"five!", Err(Refusal::TooLarge)),
            (Append, b"five!", Err(Refusal::TooLarge)),
            (MSet, &pairs[..first_pair], Ok(())),
            (MSet, &pairs, Err(Refusal::TooLarge)),
            (MSet, &[0; 300], Err(Refusal::TooLarge)),
        ] {
            let command = Command { kind, flags: 0, session: None, key: b"key", value };
            let pushed = batcher.push(NOW, NOW, &pool, &command, ReplyTo::NOBODY);
            assert_eq!(pushed, expected, "{kind:?} {value:?}");
        }
    }

    /// Commands of every batch that leaves at `now`.
    fn sealed(batcher: &mut Batcher, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| batcher.seal_next(now).map(Frame::command_count)).collect()
    }

    fn finish_oldest(batcher: &mut Batcher) {
        let id = batcher.outstanding().next().unwrap().frame.id();
        assert!(batcher.finish(id).is_some());
    }

    #[test]
    fn an_idle_pipeline_never_waits() {
        let (mut batcher, pool) = batcher(Duration::from_secs(1));
        push(&mut batcher, &pool, 1);
        assert_eq!(sealed(&mut batcher, NOW), [1]);
    }

    #[test]
    fn a_partial_batch_behind_others_waits_for_the_linger_and_no_longer() {
        let linger = Duration::from_millis(1);
        let (mut batcher, pool) = batcher(linger);
        push(&mut batcher, &pool, 3);
        assert_eq!(sealed(&mut batcher, NOW), [3]);
        push(&mut batcher, &pool, 1);
        assert!(sealed(&mut batcher, NOW).is_empty());
        assert_eq!(batcher.deadline(), Some(NOW + linger));
        assert_eq!(sealed(&mut batcher, NOW + linger), [1]);
    }

    #[test]
    fn behind_a_full_pipeline_a_batch_goes_on_filling_and_leaves_with_the_first_room() {
        let (mut batcher, pool) = batcher(Duration::from_secs(1));
        push(&mut batcher, &pool, 6);
        assert_eq!(sealed(&mut batcher, NOW), [3, 3]);
        push(&mut batcher, &pool, 10);
        assert!(sealed(&mut batcher, NOW).is_empty());
        finish_oldest(&mut batcher);
        assert_eq!(sealed(&mut batcher, NOW), [10]);
    }

    #[test]
    fn the_commit_of_a_batch_in_flight_counts_once() {
        let (mut batcher, pool) = batcher(Duration::ZERO);
        push(&mut batcher, &pool, 3);
        let id = batcher.seal_next(NOW).unwrap().id();
        assert_eq!(batcher.commit(BatchId { counter: 2, ..id }), None);
        assert_eq!(batcher.commit(id), Some((NOW, 3)));
        assert_eq!(batcher.commit(id), None);
        finish_oldest(&mut batcher);
        assert_eq!(batcher.commit(id), None);
    }

    #[test]
    fn a_batch_that_was_given_up_while_it_waited_leaves_no_gap_in_the_counters() {
        let (mut batcher, pool) = batcher(Duration::ZERO);
        push(&mut batcher, &pool, 6);
        assert_eq!(sealed(&mut batcher, NOW), [3, 3]);
        push(&mut batcher, &pool, 2);
        assert_eq!(batcher.overdue_waiting(NOW + Duration::from_secs(1)).unwrap().len(), 2);
        finish_oldest(&mut batcher);
        push(&mut batcher, &pool, 1);
        assert_eq!(batcher.seal_next(NOW).unwrap().id().counter, 3);
    }

    #[test]
    fn each_command_has_its_time_from_its_arrival_whatever_came_before_it() {
        let (mut batcher, pool) = batcher(Duration::ZERO);
        let ago = |spreads| NOW - SPREAD_MAX * spreads;
        let push = |batcher: &mut Batcher, arrived, request| {
            let command = Command { kind: CommandKind::Set, flags: 0, session: None, key: b"k", value: b"v" };
            batcher.push(NOW, arrived, &pool, &command, ReplyTo { connection: 1, request }).unwrap();
        };
        // In flight: what came late is overdue first.
        push(&mut batcher, NOW, 1);
        assert_eq!(sealed(&mut batcher, NOW), [1]);
        push(&mut batcher, ago(6), 2);
        assert_eq!(sealed(&mut batcher, NOW), [1]);
        // Waiting: what has less time left does not take others with it, what has about as much goes with it.
        push(&mut batcher, NOW, 3);
        push(&mut batcher, ago(8), 4);
        push(&mut batcher, ago(7), 5);
        push(&mut batcher, NOW, 6);
        assert_eq!(batcher.oldest(), Some(ago(8)));
        let requests = |tokens: Option<Vec<ReplyTo>>| -> Vec<u64> {
            tokens.into_iter().flatten().map(|token| token.request).collect()
        };
        let limit = ago(4);
        assert_eq!(requests(batcher.overdue_waiting(limit)), [4, 5]);
        assert_eq!(requests(batcher.overdue_waiting(limit)), [0; 0]);
        assert_eq!(requests(batcher.overdue_outstanding(limit)), [2]);
        assert_eq!(requests(batcher.overdue_outstanding(limit)), [0; 0]);
        assert_eq!(batcher.oldest(), Some(NOW));
        finish_oldest(&mut batcher);
        finish_oldest(&mut batcher);
        assert_eq!(sealed(&mut batcher, NOW), [1, 1], "3, then 6");
        assert_eq!(requests(batcher.overdue_outstanding(NOW + SPREAD_MAX)), [3]);
        assert_eq!(requests(batcher.overdue_outstanding(NOW + SPREAD_MAX)), [6]);
    }
}
