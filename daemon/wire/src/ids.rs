//! Identifiers shared by every layer.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

/// The most replicas a group may have. Votes are kept in bit sets of this width.
pub const REPLICAS_MAX: usize = 9;

/// One member of a group; equal to the number of its node in the cluster's member list, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplicaId(pub u8);

impl ReplicaId {
    /// Position in per-replica arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One consensus group over all nodes of the cluster, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct GroupId(pub u16);

impl GroupId {
    /// Position in per-group arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Position in a group's log. Slot 0 is never used: "nothing yet" is slot 0 in every cumulative counter.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug,
)]
pub struct Slot(pub u64);

impl Slot {
    /// The slot after this one.
    pub fn next(self) -> Slot {
        Slot(self.0 + 1)
    }
    /// The slot before this one; slot 0 stays slot 0.
    pub fn prev(self) -> Slot {
        Slot(self.0.saturating_sub(1))
    }
}

/// Where a value is decided: a row and a number in it, from 1. A protocol with one log has one row, row 0, whose numbers
/// are its slots; EPaxos has one row per replica, and a position is an instance.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug,
)]
pub struct Position {
    /// The row: 0 in a log, in EPaxos the replica that owns it.
    pub row: u8,
    /// From 1.
    pub number: u64,
}

impl Position {
    /// The slot of a protocol with one log.
    pub fn slot(self) -> Slot {
        Slot(self.number)
    }
}

impl From<Slot> for Position {
    fn from(slot: Slot) -> Self {
        Self { row: 0, number: slot.0 }
    }
}

/// How often this replica's node has started with this data directory; durable before it sends anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Incarnation(pub u32);

impl Incarnation {
    /// Of no node: they count from 1. Batches with it were sealed by a client.
    pub const CLIENT: Self = Self(0);
}

/// Names a batch independently of where it is decided. A node never uses a name again: `counter` restarts at 1 with each
/// incarnation. A client's batch is named after its content, which every node checks: votes for a name are votes for these bytes
/// ([`Frame::is_named_after_content`](crate::frame::Frame::is_named_after_content)). It may be decided again; its commands take effect
/// through their session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct BatchId {
    /// The replica that sealed the batch, or that the client which did wants its answers from: the batch's home.
    pub proposer: ReplicaId,
    /// The incarnation in which it did; [`Incarnation::CLIENT`] for a client's.
    pub incarnation: Incarnation,
    /// From 1, without gaps within one incarnation; of a client's half of a hash, and not 0.
    pub counter: u64,
}

impl BatchId {
    /// Whether a client sealed the batch.
    pub fn is_of_client(self) -> bool {
        self.incarnation == Incarnation::CLIENT
    }

    /// Whether `proposer` sealed the batch in `incarnation`.
    pub fn is_of(self, proposer: ReplicaId, incarnation: Incarnation) -> bool {
        self.proposer == proposer && self.incarnation == incarnation
    }
}

/// A set of replicas. Votes are counted by set size, never by a counter, so a duplicate cannot count twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ReplicaSet(u16);

impl ReplicaSet {
    /// The set `{0, 1, .., count - 1}`.
    pub fn first(count: usize) -> Self {
        assert!(count <= REPLICAS_MAX);
        Self(((1u32 << count) - 1) as u16)
    }
    /// Adds `id`; true if it was not yet in the set.
    pub fn insert(&mut self, id: ReplicaId) -> bool {
        assert!(id.index() < REPLICAS_MAX);
        let bit = 1 << id.0;
        let new = self.0 & bit == 0;
        self.0 |= bit;
        new
    }
    /// Removes `id`.
    pub fn remove(&mut self, id: ReplicaId) {
        self.0 &= !(1u16.checked_shl(u32::from(id.0)).unwrap_or(0));
    }
    /// Whether `id` is in the set.
    pub fn contains(self, id: ReplicaId) -> bool {
        id.index() < REPLICAS_MAX && self.0 & (1 << id.0) != 0
    }
    /// How many members.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
    /// Members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = ReplicaId> {
        (0..REPLICAS_MAX as u8).map(ReplicaId).filter(move |id| self.contains(*id))
    }
}

impl fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
