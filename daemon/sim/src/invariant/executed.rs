//! A life executes each position once, in a log in the order of the slots, and a replica's positions only grow [protocols
//! §3.3, PM8, T-E14]. Where no log orders the values, a snapshot of a peer may take back what lies beyond it.

use std::collections::BTreeMap;

use panch_consensus::frontier::Frontier;
use panch_consensus::protocol::Order;
use panch_replica::status::GroupStatus;
use panch_wire::ids::{GroupId, Position, Slot};

use super::order_of;

#[derive(Clone, Copy, Default)]
struct Positions {
    executed: Slot,
    committed: Slot,
    last: Slot,
    installs: u64,
}

/// The positions of the nodes in their present lives.
#[derive(Default)]
pub struct Executed {
    positions: BTreeMap<(usize, GroupId), Positions>,
    graphs: BTreeMap<(usize, GroupId), Frontier>,
}

impl Executed {
    /// A node executed a slot of a log.
    ///
    /// # Errors
    /// If it is not above the last one executed.
    pub fn on_slot(&mut self, node: usize, group: GroupId, slot: Slot) -> Result<(), String> {
        let positions = self.positions.entry((node, group)).or_default();
        let before = std::mem::replace(&mut positions.executed, slot);
        if slot > before {
            return Ok(());
        }
        Err(format!("node {node} group {}: executed slot {} after slot {}", group.0, slot.0, before.0))
    }

    /// A node executed a position of a graph.
    ///
    /// # Errors
    /// If it was executed before.
    pub fn on_instance(&mut self, node: usize, group: GroupId, position: Position) -> Result<(), String> {
        if self.graphs.entry((node, group)).or_default().insert(position) {
            return Ok(());
        }
        Err(format!("node {node} group {}: executed {position:?} twice", group.0))
    }

    /// The state of a node in a graph covers exactly this: a snapshot.
    pub fn on_restored(&mut self, node: usize, group: GroupId, covered: Frontier) {
        self.graphs.insert((node, group), covered);
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
            installs: status.probe.installs,
        };
        let before = self.positions.entry((node, status.group)).or_default();
        let old = std::mem::replace(before, now);
        let place = format!("node {node} group {}", status.group.0);
        if order_of(status.kind) == Order::Graph {
            if now.executed < old.executed && now.installs == old.installs {
                return Err(format!("{place}: positions went back: {status:?}"));
            }
            return Ok(());
        }
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
        self.positions.retain(|(of, _), _| *of != node);
        self.graphs.retain(|(of, _), _| *of != node);
    }
}
