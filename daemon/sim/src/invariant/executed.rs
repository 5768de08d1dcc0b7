//! Slots are executed in order, each once, and a replica's positions only grow [protocols §3.3, PM8].

use std::collections::BTreeMap;

use panch_replica::core::GroupStatus;
use panch_wire::ids::{GroupId, Slot};

#[derive(Clone, Copy, Default)]
struct Positions {
    executed: Slot,
    committed: Slot,
    last: Slot,
}

/// The positions of the nodes in their present lives.
#[derive(Default)]
pub struct Executed(BTreeMap<(usize, GroupId), Positions>);

impl Executed {
    /// A node executed a slot.
    ///
    /// # Errors
    /// If it is not above the last one executed.
    pub fn on_executed(&mut self, node: usize, group: GroupId, slot: Slot) -> Result<(), String> {
        let positions = self.0.entry((node, group)).or_default();
        let before = std::mem::replace(&mut positions.executed, slot);
        if slot > before {
            return Ok(());
        }
        Err(format!("node {node} group {}: executed slot {} after slot {}", group.0, slot.0, before.0))
    }

    /// The status of a group at the end of a turn.
    ///
    /// # Errors
    /// If a position went back, or more is executed than committed.
    pub fn on_status(&mut self, node: usize, status: &GroupStatus) -> Result<(), String> {
        let now = Positions {
            executed: status.executed,
            committed: status.protocol.committed,
            last: status.protocol.last,
        };
        let before = self.0.entry((node, status.group)).or_default();
        let old = std::mem::replace(before, now);
        let place = format!("node {node} group {}", status.group.0);
        if now.executed < old.executed || now.committed < old.committed {
            return Err(format!("{place}: positions went back: {status:?}"));
        }
        if now.last < old.last {
            return Err(format!("{place}: the log ended at slot {}, now at {}", old.last.0, now.last.0));
        }
        if now.executed > now.committed {
            return Err(format!("{place}: executed {} of {}", now.executed.0, now.committed.0));
        }
        Ok(())
    }

    /// The node's process is gone.
    pub fn on_crash(&mut self, node: usize) {
        self.0.retain(|(of, _), _| *of != node);
    }
}
