//! What every core knows of the node and the cluster; the same for as long as the node runs.

use std::sync::Arc;

use panch_consensus::protocol::ProtocolKind;
use panch_wire::ids::{GroupId, Incarnation, ReplicaId};
use panch_wire::time::Instant;

use crate::changes::Changes;
use crate::clients::memory::Memory;
use crate::clients::seats::Seats;
use crate::counters::Reports;
use crate::options::NodeOptions;

/// One core's view of its node.
#[derive(Clone)]
pub(crate) struct NodeView {
    pub(crate) options: Arc<NodeOptions>,
    /// This core.
    pub(crate) core: usize,
    pub(crate) incarnation: Incarnation,
    /// The node has lost its disk, or was in this state when it started.
    pub(crate) rejoining: bool,
    pub(crate) started: Instant,
    pub(crate) reports: Arc<Reports>,
    pub(crate) seats: Arc<Seats>,
    /// What clients hold, on all cores.
    pub(crate) memory: Arc<Memory>,
    /// Of keys on this node, for clients that watch some.
    pub(crate) changes: Arc<Changes>,
}

impl NodeView {
    /// How many cores the node has.
    pub(crate) fn cores(&self) -> usize {
        self.options.cpus.len()
    }

    /// The core that runs `group`: groups are dealt out in turn.
    pub(crate) fn core_of(&self, group: GroupId) -> usize {
        self.options.core_of(group)
    }

    /// The groups of this core.
    pub(crate) fn groups(&self) -> Vec<(GroupId, ProtocolKind)> {
        self.options.groups_of(self.core)
    }

    /// Whether the data have all the memory that they may: what makes them grow is refused.
    pub(crate) fn is_data_full(&self) -> bool {
        self.reports.data_size() >= self.options.data_memory_max
    }

    /// This node.
    pub(crate) fn node(&self) -> ReplicaId {
        self.options.node
    }
}
