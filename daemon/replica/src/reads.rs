//! Reads that do not go through the log: they wait for a position from the protocol, then for execution to reach it.
//!
//! All reads of one turn form one round. Their keys are copied into the round's buffer; rounds are reused.

use std::collections::VecDeque;

use panch_consensus::protocol::ReadContext;
use panch_wire::command::{Command, CommandKind};
use panch_wire::ids::Slot;
use panch_wire::time::{Duration, Instant};

use crate::batcher::Refusal;
use crate::core::ReplyTo;

/// Bytes of keys that may wait in all rounds together.
const SIZE_MAX: usize = 4 << 20;
/// How long a read that could not be confirmed waits before it asks again.
const RETRY_AFTER: Duration = Duration::from_millis(20);

struct Read {
    kind: CommandKind,
    key_end: usize,
    value_end: usize,
    token: ReplyTo,
}

/// Reads that share one confirmation.
pub(crate) struct Round {
    context: ReadContext,
    state: State,
    since: Instant,
    bytes: Vec<u8>,
    reads: Vec<Read>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Asked,
    RetryAt(Instant),
    ServeAt(Slot),
}

impl Round {
    /// The reads of the round with whom to answer.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (Command<'_>, ReplyTo)> {
        let mut start = 0;
        self.reads.iter().map(move |read| {
            let key = &self.bytes[start..read.key_end];
            let value = &self.bytes[read.key_end..read.value_end];
            start = read.value_end;
            (Command { kind: read.kind, flags: 0, session: None, key, value }, read.token)
        })
    }
}

/// The waiting reads of one replica.
pub(crate) struct Reads {
    open: Option<Round>,
    waiting: VecDeque<Round>,
    spare: Vec<Round>,
    next_context: u64,
    size: usize,
}

impl Reads {
    pub(crate) fn new() -> Self {
        Self { open: None, waiting: VecDeque::new(), spare: Vec::new(), next_context: 0, size: 0 }
    }

    /// Takes a read into this turn's round.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        command: &Command<'_>,
        token: ReplyTo,
    ) -> Result<(), Refusal> {
        let size = command.key.len() + command.value.len() + size_of::<Read>();
        if self.size + size > SIZE_MAX {
            return Err(if size > SIZE_MAX { Refusal::TooLarge } else { Refusal::Busy });
        }
        self.size += size;
        let round = self.open.get_or_insert_with(|| {
            self.next_context += 1;
            let mut round = self.spare.pop().unwrap_or_else(|| Round {
                context: ReadContext(0),
                state: State::Asked,
                since: now,
                bytes: Vec::new(),
                reads: Vec::new(),
            });
            (round.context, round.state, round.since) = (ReadContext(self.next_context), State::Asked, now);
            round
        });
        round.bytes.extend_from_slice(command.key);
        let key_end = round.bytes.len();
        round.bytes.extend_from_slice(command.value);
        round.reads.push(Read { kind: command.kind, key_end, value_end: round.bytes.len(), token });
        Ok(())
    }

    /// Ends this turn's round; the context to ask the protocol about.
    pub(crate) fn close_round(&mut self) -> Option<ReadContext> {
        let round = self.open.take()?;
        let context = round.context;
        self.waiting.push_back(round);
        Some(context)
    }

    /// The next round that is due to ask again.
    pub(crate) fn next_retry(&mut self, now: Instant) -> Option<ReadContext> {
        let due = |state| matches!(state, State::RetryAt(at) if at <= now);
        let round = self.waiting.iter_mut().find(|round| due(round.state))?;
        round.state = State::Asked;
        // An answer to the earlier question must not serve this one.
        self.next_context += 1;
        round.context = ReadContext(self.next_context);
        Some(round.context)
    }

    /// The protocol's answer.
    pub(crate) fn confirmed(&mut self, now: Instant, context: ReadContext, at: Option<Slot>) {
        if let Some(round) = self.waiting.iter_mut().find(|round| round.context == context) {
            round.state = at.map_or(State::RetryAt(now + RETRY_AFTER), State::ServeAt);
        }
    }

    /// Takes the next round that may be served after `executed`. Rounds are served in order, since a client's later read
    /// must not see an older state than its earlier one.
    pub(crate) fn next_servable(&mut self, executed: Slot) -> Option<Round> {
        self.waiting.pop_front_if(|round| matches!(round.state, State::ServeAt(at) if at <= executed))
    }

    /// Takes the next round that has waited since before `limit`.
    pub(crate) fn next_overdue(&mut self, limit: Instant) -> Option<Round> {
        if self.waiting.front()?.since >= limit {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Gives a round's storage back.
    pub(crate) fn recycle(&mut self, mut round: Round) {
        self.size -= round.bytes.len() + round.reads.len() * size_of::<Read>();
        round.bytes.clear();
        round.reads.clear();
        if self.spare.len() < 16 {
            self.spare.push(round);
        }
    }

    /// Since when the oldest read waits.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|round| round.since)
    }

    /// When [`Reads::next_retry`] will have something.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting
            .iter()
            .filter_map(|round| match round.state {
                State::RetryAt(at) => Some(at),
                _ => None,
            })
            .min()
    }
}
