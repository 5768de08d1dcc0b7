//! Rounds, names of values, votes.
//!
//! Invariants:
//! * A term belongs to one coordinator; its fast round is followed by its classic round, and by nothing between them.
//! * Two values have one name only if they are the same bytes: a client cannot make others with the hash in its batch's name, and
//!   a node gives no two of its batches one id.

use panch_wire::frame::Frame;
use panch_wire::ids::{BatchId, Incarnation, ReplicaId};
use panch_wire::rule::{Rule, holds};
use rkyv::{Archive, Deserialize, Serialize};

use crate::ballot::Ballot;
use crate::protocol::Value;

/// A round of one slot: first the term, then within it fast before classic.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug,
)]
pub struct Round {
    /// The term, which belongs to one coordinator.
    pub term: Ballot,
    /// Whether it is the term's classic round.
    pub classic: bool,
}

impl Round {
    /// The round in which proposers go straight to the acceptors.
    pub fn fast(term: Ballot) -> Self {
        Self { term, classic: false }
    }

    /// The round in which only the coordinator proposes.
    pub fn classic(term: Ballot) -> Self {
        Self { term, classic: true }
    }
}

/// Names a value in votes, whose bytes travel elsewhere.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug,
)]
pub struct ValueName {
    /// [`Frame::digest`].
    digest: u64,
    /// [`BatchId::counter`]; 0 only in the name of the no-op.
    counter: u64,
    /// [`BatchId::incarnation`].
    incarnation: u32,
    /// [`BatchId::proposer`].
    proposer: u8,
}

impl ValueName {
    /// The no-op.
    pub const NOOP: Self = Self { digest: 0, counter: 0, incarnation: 0, proposer: 0 };

    /// The name of a batch, or of the no-op if there is none.
    pub fn of(body: Option<&Frame>) -> Self {
        let Some(frame) = body else { return Self::NOOP };
        let id = frame.id();
        // The same name for different bytes would let votes for different values add up. [D4]
        let digest = if holds(Rule::FastDigestCompared) { frame.digest() } else { 1 };
        Self { digest, counter: id.counter, incarnation: id.incarnation.0, proposer: id.proposer.0 }
    }

    /// The name of a value.
    pub fn of_value(value: &Value) -> Self {
        Self::of(value.body())
    }

    /// The batch; `None` for the no-op.
    pub fn batch(self) -> Option<BatchId> {
        (self != Self::NOOP).then_some(BatchId {
            proposer: ReplicaId(self.proposer),
            incarnation: Incarnation(self.incarnation),
            counter: self.counter,
        })
    }
}

/// What an acceptor voted for in a slot, and in which round.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vote {
    /// The round.
    pub round: Round,
    /// The value.
    pub name: ValueName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_round_of_a_term_follows_its_fast_one_and_precedes_every_later_term() {
        let term = |round, owner| Ballot { round, owner };
        let order = [
            Round::default(),
            Round::fast(term(1, 2)),
            Round::classic(term(1, 2)),
            Round::fast(term(2, 0)),
            Round::classic(term(2, 0)),
            Round::fast(term(2, 1)),
        ];
        assert!(order.is_sorted() && order.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
