//! What a core says of its groups.

use panch_consensus::protocol::{Counters, ProtocolKind, Status};
use panch_wire::ids::{GroupId, Slot};

use crate::divergence::{DigestStatus, Standing};
use crate::probe::Probe;
use crate::rejoin::Membership;
use crate::sending::SendingStatus;

/// For operators: one group on one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Its protocol.
    pub kind: ProtocolKind,
    /// What the protocol says.
    pub protocol: Status,
    /// How many positions are executed; in a log the last slot.
    pub executed: Slot,
    /// Names the set of positions that are executed; in a log the last slot.
    pub frontier: u64,
    /// Digest of the state: equal on all replicas with the same `frontier`.
    pub digest: u64,
    /// Keys in the group's table.
    pub keys: u64,
    /// Whether the replica may claim something.
    pub membership: Membership,
    /// Whether the replica serves, or has stopped because its state is not that of others.
    pub standing: Standing,
    /// What it has compared.
    pub digests: DigestStatus,
    /// Snapshots on their way to peers.
    pub sending: SendingStatus,
    /// Counters of the replica.
    pub probe: Probe,
    /// Counters of the protocol.
    pub counters: Counters,
}
