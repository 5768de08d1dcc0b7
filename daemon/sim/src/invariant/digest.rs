//! Replicas that have executed the same slots are in the same state [protocols §8, prefix equality].

use std::collections::BTreeMap;

use panch_replica::core::GroupStatus;
use panch_wire::ids::{GroupId, Slot};

/// The state after each slot, as its first observer had it.
#[derive(Default)]
pub struct Digests(BTreeMap<(GroupId, Slot), (u64, usize)>);

impl Digests {
    /// The status of a group at the end of a turn.
    ///
    /// # Errors
    /// If another replica had another state after the same slot.
    pub fn on_status(&mut self, node: usize, status: &GroupStatus) -> Result<(), String> {
        let (slot, digest) = (status.executed, status.digest);
        let (other, first) = *self.0.entry((status.group, slot)).or_insert((digest, node));
        if other == digest {
            return Ok(());
        }
        Err(format!(
            "group {}: after slot {} node {node} is in state {digest:016x}, node {first} was in {other:016x}",
            status.group.0, slot.0
        ))
    }
}
