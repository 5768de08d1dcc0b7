//! Reads that do not go through the log: they wait for a position from the protocol, then for execution to reach it.
//!
//! All reads of one turn and level form one round. Their keys are copied into the round's buffer; rounds are reused.

use std::collections::VecDeque;

use panch_consensus::protocol::ReadContext;
use panch_wire::command::{Command, CommandKind};
use panch_wire::ids::Slot;
use panch_wire::time::{Duration, Instant};

use crate::batcher::Refusal;
use crate::outbox::ReplyTo;

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
    /// When the first of its reads to arrive at the node arrived.
    arrived: Instant,
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

/// The waiting reads of one replica, of one level.
pub(crate) struct Reads {
    open: Option<Round>,
    waiting: VecDeque<Round>,
    spare: Vec<Round>,
    last_context: u64,
    size: usize,
}

impl Reads {
    /// None yet. Those of a level have odd contexts, those of the other even ones.
    pub(crate) fn new(odd: bool) -> Self {
        let last_context = u64::from(odd);
        Self { open: None, waiting: VecDeque::new(), spare: Vec::new(), last_context, size: 0 }
    }

    /// Which of the two a context is of: 1 if it is odd.
    pub(crate) fn place(context: ReadContext) -> usize {
        (context.0 % 2) as usize
    }

    /// Takes a read into this turn's round. It `arrived` at the node now or earlier.
    pub(crate) fn push(
        &mut self,
        arrived: Instant,
        command: &Command<'_>,
        token: ReplyTo,
    ) -> Result<(), Refusal> {
        let size = command.key.len() + command.value.len() + size_of::<Read>();
        if self.size + size > SIZE_MAX {
            return Err(if size > SIZE_MAX { Refusal::TooLarge } else { Refusal::Busy });
        }
        self.size += size;
        let round = self.open.get_or_insert_with(|| {
            self.last_context += 2;
            let mut round = self.spare.pop().unwrap_or_else(|| Round {
                context: ReadContext(0),
                state: State::Asked,
                arrived,
                bytes: Vec::new(),
                reads: Vec::new(),
            });
            (round.context, round.state) = (ReadContext(self.last_context), State::Asked);
            round.arrived = arrived;
            round
        });
        round.arrived = round.arrived.min(arrived);
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
        self.last_context += 2;
        round.context = ReadContext(self.last_context);
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

    /// Takes the next round with reads that arrived before `limit`.
    pub(crate) fn next_overdue(&mut self, limit: Instant) -> Option<Round> {
        let index = self.waiting.iter().position(|round| round.arrived < limit)?;
        self.waiting.remove(index)
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

    /// When the oldest read that waits arrived.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.waiting.iter().map(|round| round.arrived).min()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn get(key: &[u8]) -> Command<'_> {
        Command { kind: CommandKind::Get, flags: 0, session: None, key, value: b"" }
    }

    #[test]
    fn contexts_say_which_level_they_are_of() {
        let token = ReplyTo { connection: 1, request: 1 };
        let mut levels = [Reads::new(false), Reads::new(true)];
        let mut seen = Vec::new();
        for turn in 0..5 {
            for (place, reads) in levels.iter_mut().enumerate() {
                reads.push(Instant(turn), &get(b"a"), token).unwrap();
                let context = reads.close_round().unwrap();
                reads.confirmed(Instant(turn), context, None);
                let again = reads.next_retry(Instant(turn) + RETRY_AFTER).unwrap();
                for context in [context, again] {
                    assert_eq!(Reads::place(context), place);
                    assert!(!seen.contains(&context));
                    seen.push(context);
                }
            }
        }
    }

    #[test]
    fn an_answer_to_an_earlier_question_serves_nothing() {
        let token = ReplyTo { connection: 1, request: 1 };
        let mut reads = Reads::new(true);
        reads.push(Instant(1), &get(b"a"), token).unwrap();
        let first = reads.close_round().unwrap();
        reads.confirmed(Instant(1), first, None);
        let second = reads.next_retry(Instant(1) + RETRY_AFTER).unwrap();
        reads.confirmed(Instant(1), first, Some(Slot(0)));
        assert!(reads.next_servable(Slot(9)).is_none());
        reads.confirmed(Instant(1), second, Some(Slot(9)));
        assert!(reads.next_servable(Slot(8)).is_none());
        let round = reads.next_servable(Slot(9)).unwrap();
        assert_eq!(round.commands().map(|(command, _)| command).collect::<Vec<_>>(), [get(b"a")]);
    }
}
