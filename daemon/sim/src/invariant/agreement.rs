//! Agreement: a slot holds the same value on every replica, for ever [Paxos Made Simple §1; protocols §8].

use std::collections::BTreeMap;

use panch_wire::ids::{GroupId, Slot};

use super::Decision;

/// What was executed where first.
#[derive(Default)]
pub struct Agreement {
    /// With the node that executed it first.
    slots: BTreeMap<(GroupId, Slot), (Decision, usize)>,
    highest: BTreeMap<GroupId, Slot>,
}

impl Agreement {
    /// Whether nobody has executed the slot yet.
    pub fn is_new(&self, group: GroupId, slot: Slot) -> bool {
        !self.slots.contains_key(&(group, slot))
    }

    /// A node executed a slot.
    ///
    /// # Errors
    /// If another one, or the same before, executed something else there.
    pub fn on_executed(
        &mut self,
        node: usize,
        group: GroupId,
        slot: Slot,
        decision: Decision,
    ) -> Result<(), String> {
        let (decided, first) = *self.slots.entry((group, slot)).or_insert((decision, node));
        let highest = self.highest.entry(group).or_default();
        *highest = (*highest).max(slot);
        if decided == decision {
            return Ok(());
        }
        let (mine, other) = (decision.id, decided.id);
        Err(format!(
            "slot {} of group {}: node {node} executed {mine:?}, node {first} {other:?}",
            slot.0, group.0
        ))
    }

    /// The last slot of the group that anybody has executed.
    pub fn highest(&self, group: GroupId) -> Slot {
        self.highest.get(&group).copied().unwrap_or_default()
    }
}
