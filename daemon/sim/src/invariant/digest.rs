//! Replicas that have executed the same positions are in the same state [protocols §8, prefix equality].

use std::collections::BTreeMap;

use panch_replica::status::GroupStatus;
use panch_wire::ids::GroupId;

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
