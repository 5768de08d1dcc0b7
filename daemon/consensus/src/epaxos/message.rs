//! What replicas of an EPaxos group say to each other.
//!
//! Each message is a small struct of its own, marked [`Hint`] or [`Claim`]; the batch travels beside it. Every message about an instance
//! names its position; one without a ballot is of ballot 0, which only the owner of the row uses.

use panch_wire::ids::{Position, REPLICAS_MAX};
use panch_wire::rule::Rule;
use rkyv::{Archive, Deserialize, Serialize};

pub use super::record::Record;
use super::{Dependencies, Epaxos};
use crate::ballot::Ballot;
use crate::protocol::{Claim, Hint};

/// Rounds and numbers from outside are below this, so that counting on from them never overflows.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// Numbers of instances are below this: a [`Conflict`] packs one with its row.
pub(super) const INSTANCE_NUMBER_END: u64 = 1 << 55;

/// Stamps are below this: each is one above that of another instance, so they do not outrun the numbers, and a snapshot can hold them.
pub(super) const STAMP_END: u64 = INSTANCE_NUMBER_END;

/// One number per row: in dependencies, "every instance of the row up to this number that interferes".
pub type Numbers = [u64; REPLICAS_MAX];

/// The most conflicting instances one [`ValidateOk`] names.
pub const CONFLICT_COUNT_MAX: usize = 10;

/// How far an instance has come at one replica. A later phase is never left for an earlier one, except that a higher ballot may accept again.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Phase {
    /// Heard of at most.
    #[default]
    Unknown,
    /// The batch is known; nothing is voted for.
    Seen,
    /// Voted for in ballot 0, with dependencies of its own.
    PreAccepted,
    /// Accepted in some ballot.
    Accepted,
    /// Known to be chosen.
    Committed,
}

/// "Vote for this batch of mine, adding the dependencies you know of." Ballot 0.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreAccept {
    /// The instance.
    pub position: Position,
    /// The command leader's stamp, part of the value.
    pub stamp: u64,
    /// The dependencies the command leader knows of.
    pub deps: Dependencies,
    /// Three replicas and less: the other half of the fast pair.
    pub buddy: u8,
}

/// "This batch is on its way": to the replica outside of the fast pair.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The instance.
    pub position: Position,
    /// The command leader's stamp.
    pub stamp: u64,
    /// The other half of the fast pair.
    pub buddy: u8,
}

/// Answers [`PreAccept`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreAcceptOk {
    /// The instance.
    pub position: Position,
    /// What was voted for.
    pub deps: Dependencies,
}

/// Phase 2a; the batch travels beside it, unless the receiver was sent it before.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accept {
    /// The instance.
    pub position: Position,
    /// The sender's ballot.
    pub ballot: Ballot,
    /// The command leader's stamp; 0 of a no-op.
    pub stamp: u64,
    /// The dependencies.
    pub deps: Dependencies,
    /// The value is a no-op.
    pub noop: bool,
}

/// Phase 2b.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcceptOk {
    /// The instance.
    pub position: Position,
    /// The ballot accepted in.
    pub ballot: Ballot,
}

/// This value is chosen; the batch travels beside it, unless the receiver was sent it before.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// The instance.
    pub position: Position,
    /// The command leader's stamp; 0 of a no-op.
    pub stamp: u64,
    /// The dependencies.
    pub deps: Dependencies,
    /// The value is a no-op.
    pub noop: bool,
}

/// "Promise me this ballot and tell me what you know": begins a recovery.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recover {
    /// The instance.
    pub position: Position,
    /// The sender's ballot, promised durably by itself.
    pub ballot: Ballot,
}

/// Answers [`Recover`]; the batch travels beside it if it is known.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoverOk {
    /// The instance.
    pub position: Position,
    /// The ballot promised.
    pub ballot: Ballot,
    /// The ballot of the last acceptance.
    pub accepted: Ballot,
    /// How far the instance has come.
    pub phase: Phase,
    /// What is accepted is a no-op.
    pub noop: bool,
    /// The other half of the fast pair, as far as the batch is known.
    pub buddy: u8,
    /// The command leader's stamp; 0 if the batch is not known.
    pub stamp: u64,
    /// What is voted for or accepted.
    pub deps: Dependencies,
    /// What the command leader had proposed.
    pub initial_deps: Dependencies,
}

/// Four replicas and more: "do you know of an instance that rules out the fast commit of this one?"
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validate {
    /// The instance.
    pub position: Position,
    /// The sender's ballot.
    pub ballot: Ballot,
    /// The command leader's stamp.
    pub stamp: u64,
    /// The command leader's dependencies.
    pub deps: Dependencies,
}

/// An instance that interferes with one that is validated, and neither depends on the other.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Conflict {
    /// Its number, with the row in the top byte and, below it, one bit that says whether it is committed.
    code: u64,
}

impl Conflict {
    /// Packs an instance and whether it is committed.
    pub fn new(position: Position, committed: bool) -> Self {
        let number = position.number & (INSTANCE_NUMBER_END - 1);
        Self { code: u64::from(position.row) << 56 | u64::from(committed) << 55 | number }
    }

    /// The instance.
    pub fn position(self) -> Position {
        Position { row: (self.code >> 56) as u8, number: self.code & (INSTANCE_NUMBER_END - 1) }
    }

    /// Whether it is committed where it was found.
    pub fn is_committed(self) -> bool {
        self.code >> 55 & 1 == 1
    }
}

/// Answers [`Validate`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValidateOk {
    /// The instance.
    pub position: Position,
    /// The ballot.
    pub ballot: Ballot,
    /// How many of `conflicts` count.
    pub conflict_count: u8,
    /// There are more conflicting instances than fit: ask again when these are settled.
    pub more: bool,
    /// Instances that may rule out the fast commit.
    pub conflicts: [Conflict; CONFLICT_COUNT_MAX],
    /// Per row, everything up to here is executed there, without the instance: whatever of it interferes comes before it.
    pub executed: Numbers,
}

impl ValidateOk {
    /// Adds a conflicting instance, or notes that there is no room for it.
    pub(super) fn push(&mut self, conflict: Conflict) {
        match self.conflicts.get_mut(usize::from(self.conflict_count)) {
            Some(place) => {
                *place = conflict;
                self.conflict_count += 1;
            }
            None => self.more = true,
        }
    }
}

/// Four replicas and more: a recovery cannot decide before another one does.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// The instance whose recovery waits.
    pub position: Position,
    /// How many votes of its recovery quorum agree with its command leader.
    pub agreeing: u8,
}

/// A message was refused because of its ballot.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nack {
    /// The instance.
    pub position: Position,
    /// The ballot promised there.
    pub ballot: Ballot,
}

/// "Send me what is committed here": answered with [`Commit`]s or a snapshot.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// The row.
    pub row: u8,
    /// The first number.
    pub from: u64,
    /// The last number.
    pub upto: u64,
    /// No snapshot instead of what has left memory.
    pub memory_only: bool,
}

/// The instance is executed and has left memory: it can only be had by snapshot.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Covered {
    /// The instance.
    pub position: Position,
}

/// How far the sender is. A claim: what it says to be executed will be executed after a restart too, so that others may forget it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Per row, everything up to here is executed.
    pub executed: Numbers,
    /// Per row, the highest number heard of.
    pub known: Numbers,
}

/// "Which is the highest number you know in each row?"
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRequest {
    /// Names the request; never reused by a replica, over restarts included.
    pub number: u64,
}

/// Answers [`ReadRequest`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadReply {
    /// Repeats the request.
    pub number: u64,
    /// Per row, the highest number voted for, accepted, committed or executed there.
    pub known: Numbers,
    /// Per row, the highest number accepted, committed or executed there. In its own row, a replica has answered for nothing beyond.
    pub decided: Numbers,
}

/// To itself only: numbers of the own row up to here may be used.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// Inclusive.
    pub upto: u64,
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident: $($marker:ident)?,)*) => {
        /// What one replica may say to another.
        #[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Message { $($(#[$doc])* $name($name),)* }

        $(
            impl From<$name> for Message {
                fn from(message: $name) -> Self { Message::$name(message) }
            }
            $(impl $marker<Epaxos> for $name {})?
        )*
    };
}

// Never reorder: the position is the wire format.
messages! {
    /// See [`PreAccept`].
    PreAccept: Hint,
    /// See [`Seen`].
    Seen: Hint,
    /// See [`PreAcceptOk`].
    PreAcceptOk:,
    /// See [`Accept`].
    Accept: Claim,
    /// See [`AcceptOk`].
    AcceptOk:,
    /// See [`Commit`].
    Commit:,
    /// See [`Recover`].
    Recover:,
    /// See [`RecoverOk`].
    RecoverOk:,
    /// See [`Validate`].
    Validate: Hint,
    /// See [`ValidateOk`].
    ValidateOk:,
    /// See [`Waiting`].
    Waiting: Hint,
    /// See [`Nack`].
    Nack: Hint,
    /// See [`Fetch`].
    Fetch: Hint,
    /// See [`Covered`].
    Covered: Hint,
    /// See [`Progress`].
    Progress:,
    /// See [`ReadRequest`].
    ReadRequest: Hint,
    /// See [`ReadReply`].
    ReadReply: Hint,
    /// See [`Reserved`].
    Reserved:,
}

macro_rules! claims {
    ($($name:ident = $rule:ident,)*) => {
        $(impl Claim<Epaxos> for $name { const RULE: Rule = Rule::$rule; })*
    };
}

claims! {
    PreAcceptOk = EpaxosVoteDurable,
    AcceptOk = EpaxosVoteDurable,
    ValidateOk = EpaxosVoteDurable,
    Recover = EpaxosPromiseDurable,
    RecoverOk = EpaxosPromiseDurable,
    Commit = EpaxosFastCommitDurable,
    Progress = EpaxosCollectAfterAll,
    Reserved = EpaxosNumberNeverReused,
}

fn is_plausible_ballot(ballot: Ballot) -> bool {
    ballot.round < NUMBER_MAX && usize::from(ballot.owner) < REPLICAS_MAX
}

fn are_plausible(numbers: &Numbers) -> bool {
    numbers.iter().all(|number| *number < NUMBER_MAX)
}

/// Whether the numbers are in range and no instance depends on itself or on a later one of its row.
fn are_plausible_deps(position: Position, deps: &Dependencies) -> bool {
    are_plausible(&deps.0) && deps.row(position.row) < position.number
}

impl Message {
    /// Whether the sender has written down what it says.
    pub(super) fn is_claim(&self) -> bool {
        match self {
            Message::PreAcceptOk(_)
            | Message::AcceptOk(_)
            | Message::Commit(_)
            | Message::Recover(_)
            | Message::RecoverOk(_)
            | Message::ValidateOk(_)
            | Message::Progress(_)
            | Message::Reserved(_) => true,
            Message::PreAccept(_)
            | Message::Seen(_)
            | Message::Accept(_)
            | Message::Validate(_)
            | Message::Waiting(_)
            | Message::Nack(_)
            | Message::Fetch(_)
            | Message::Covered(_)
            | Message::ReadRequest(_)
            | Message::ReadReply(_) => false,
        }
    }

    /// Whether the receiver needs the instance's batch to act on it.
    pub(super) fn brings_batch(&self) -> bool {
        match self {
            Message::PreAccept(_) | Message::Seen(_) => true,
            Message::Accept(message) => !message.noop,
            Message::Commit(message) => !message.noop,
            _ => false,
        }
    }

    /// The instance that the message is about.
    pub fn position(&self) -> Option<Position> {
        Some(match *self {
            Message::PreAccept(m) => m.position,
            Message::Seen(m) => m.position,
            Message::PreAcceptOk(m) => m.position,
            Message::Accept(m) => m.position,
            Message::AcceptOk(m) => m.position,
            Message::Commit(m) => m.position,
            Message::Recover(m) => m.position,
            Message::RecoverOk(m) => m.position,
            Message::Validate(m) => m.position,
            Message::ValidateOk(m) => m.position,
            Message::Waiting(m) => m.position,
            Message::Nack(m) => m.position,
            Message::Covered(m) => m.position,
            Message::Fetch(_)
            | Message::Progress(_)
            | Message::ReadRequest(_)
            | Message::ReadReply(_)
            | Message::Reserved(_) => return None,
        })
    }

    /// Whether the message names an instance whose number is beyond the limit of its row. What a replica says of its own progress names none.
    pub(super) fn names_beyond(&self, limit: impl Fn(u8) -> u64) -> bool {
        let is_far = |position: Position| position.number > limit(position.row);
        let are_far = |numbers: &Numbers| (0..).zip(numbers).any(|(row, number)| *number > limit(row));
        self.position().is_some_and(is_far)
            || match self {
                Message::PreAccept(m) => are_far(&m.deps.0),
                Message::PreAcceptOk(m) => are_far(&m.deps.0),
                Message::Accept(m) => are_far(&m.deps.0),
                Message::Commit(m) => are_far(&m.deps.0),
                Message::RecoverOk(m) => are_far(&m.deps.0) || are_far(&m.initial_deps.0),
                Message::Validate(m) => are_far(&m.deps.0),
                Message::ValidateOk(m) => {
                    let mut conflicts = m.conflicts.iter().take(m.conflict_count.into());
                    conflicts.any(|conflict| is_far(conflict.position())) || are_far(&m.executed)
                }
                Message::Fetch(m) => m.upto > limit(m.row),
                Message::ReadReply(m) => are_far(&m.known) || are_far(&m.decided),
                _ => false,
            }
    }

    /// Whether the numbers are in a range that cannot overflow anything here and name instances that can exist.
    pub(super) fn is_plausible(&self, replica_count: usize) -> bool {
        let row_exists = |row: u8| usize::from(row) < replica_count;
        let position = self.position().unwrap_or(Position { row: 0, number: 1 });
        if !row_exists(position.row) || position.number == 0 || position.number >= INSTANCE_NUMBER_END {
            return false;
        }
        match *self {
            Message::PreAccept(m) => {
                are_plausible_deps(position, &m.deps) && m.stamp < STAMP_END && row_exists(m.buddy)
            }
            Message::Seen(m) => m.stamp < STAMP_END && row_exists(m.buddy),
            Message::PreAcceptOk(m) => are_plausible_deps(position, &m.deps),
            Message::Accept(m) => {
                is_plausible_ballot(m.ballot) && are_plausible_deps(position, &m.deps) && m.stamp < STAMP_END
            }
            Message::Commit(m) => are_plausible_deps(position, &m.deps) && m.stamp < STAMP_END,
            Message::AcceptOk(AcceptOk { ballot, .. }) | Message::Nack(Nack { ballot, .. }) => {
                is_plausible_ballot(ballot)
            }
            Message::Recover(m) => is_plausible_ballot(m.ballot) && m.ballot.round > 0,
            Message::RecoverOk(m) => {
                is_plausible_ballot(m.ballot)
                    && is_plausible_ballot(m.accepted)
                    && are_plausible_deps(position, &m.deps)
                    && are_plausible_deps(position, &m.initial_deps)
                    && m.stamp < STAMP_END
                    // Only what is accepted can be a no-op: of a vote, the batch is needed.
                    && (!m.noop || m.phase >= Phase::Accepted)
            }
            Message::Validate(m) => {
                is_plausible_ballot(m.ballot) && are_plausible_deps(position, &m.deps) && m.stamp < STAMP_END
            }
            Message::ValidateOk(m) => {
                let count = usize::from(m.conflict_count);
                let known = |conflict: &Conflict| {
                    row_exists(conflict.position().row) && conflict.position().number > 0
                };
                is_plausible_ballot(m.ballot)
                    && are_plausible(&m.executed)
                    && m.conflicts.get(..count).is_some_and(|conflicts| conflicts.iter().all(known))
            }
            Message::Waiting(_) | Message::Covered(_) | Message::ReadRequest(_) => true,
            Message::Fetch(m) => row_exists(m.row) && m.from > 0 && m.from <= m.upto && m.upto < NUMBER_MAX,
            Message::Progress(m) => are_plausible(&m.executed) && are_plausible(&m.known),
            Message::ReadReply(m) => are_plausible(&m.known) && are_plausible(&m.decided),
            Message::Reserved(m) => m.upto < NUMBER_MAX,
        }
    }
}
