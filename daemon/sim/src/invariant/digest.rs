//! Replicas that have executed the same positions are in the same state [protocols §8, prefix equality].

use std::collections::BTreeMap;

use panch_replica::divergence::Standing;
use panch_replica::status::GroupStatus;
use panch_wire::ids::{GroupId, ReplicaSet};

/// No replica takes itself or another for one with a wrong state where none has one.
///
/// # Errors
/// If it does.
pub fn check_standing(node: usize, status: &GroupStatus) -> Result<(), String> {
    let wrong = status.digests.wrong;
    if status.standing == Standing::Sound && wrong == ReplicaSet::default() {
        return Ok(());
    }
    Err(format!(
        "group {}: node {node} is {:?} and takes {wrong:?} for wrong",
        status.group.0, status.standing
    ))
}

/// The state after each set of positions, as its first observer had it. A set goes by the digest of its frontier, in a log
/// the slot.
#[derive(Default)]
pub struct Digests(BTreeMap<(GroupId, u64), (u64, usize)>);

impl Digests {
    /// The status of a group at the end of a turn.
    ///
    /// # Errors
    /// If another replica had another state after the same positions.
    pub fn on_status(&mut self, node: usize, status: &GroupStatus) -> Result<(), String> {
        let (frontier, digest) = (status.frontier, status.digest);
        let (other, first) = *self.0.entry((status.group, frontier)).or_insert((digest, node));
        if other == digest {
            return Ok(());
        }
        Err(format!(
            "group {}: after {} positions node {node} is in state {digest:016x}, node {first} was in {other:016x}",
            status.group.0, status.executed.0
        ))
    }
}
