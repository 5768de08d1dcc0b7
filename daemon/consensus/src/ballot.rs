//! Ballots: Paxos round numbers, unique by their owner.

use panch_wire::ids::ReplicaId;
use rkyv::{Archive, Deserialize, Serialize};

/// `(round, owner)`, compared lexicographically. Round 0 is below every ballot that is ever used.
///
/// A ballot of one's own is made with [`Ballot::above`] only: arithmetic on somebody else's ballot gives a ballot that
/// is not one's own.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug,
)]
pub struct Ballot {
    /// The round; compared first.
    pub round: u64,
    /// The replica that owns it.
    pub owner: u8,
}

impl Ballot {
    /// The lowest ballot of `owner` above `other`.
    pub fn above(other: Ballot, owner: ReplicaId) -> Ballot {
        Ballot { round: other.round + 1, owner: owner.0 }
    }

    /// The replica that owns the ballot.
    pub fn owner(self) -> ReplicaId {
        ReplicaId(self.owner)
    }
}
