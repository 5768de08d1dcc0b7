//! What a node is told at its start.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use panch_consensus::protocol::{ProtocolKind, Tuning};
use panch_replica::replica::ReplicaConfig;
use panch_wal::Config as LogConfig;
use panch_wire::client::ReadLevel;
use panch_wire::ids::{GroupId, ReplicaId};
use panch_wire::peer::Secret;
use panch_wire::routing::Routing;
use panch_wire::time::Duration;

pub use crate::identity::Loss;

/// The most core threads of a node.
pub const CORES_MAX: usize = 255;
/// Bytes that every connection of a client may hold whatever the others do. If half of [`NodeOptions::client_memory_max`] is enough for all
/// of them, they keep to it together.
pub const CLIENT_LITTLE_MIN: usize = 4 << 10;

/// Where a member of the cluster is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// For the other nodes.
    pub peer: SocketAddr,
    /// The name that had this address when the node was started, if it is configured by a name.
    pub peer_name: Option<PeerName>,
    /// For Redis clients, as told to them.
    pub resp: SocketAddr,
    /// For native clients, as told to them.
    pub native: SocketAddr,
}

/// A name that is looked up, and the port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerName {
    /// The name.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What a core does when it finds nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Idle {
    /// Looks again at once: for a CPU that nobody else needs.
    Spin,
    /// Looks again for a while, then sleeps. Where looking again does not pay (the CPU is shared) it sleeps at once.
    #[default]
    SpinThenPark,
    /// Sleeps at once.
    Park,
}

/// Everything a node needs to know.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// This node.
    pub node: ReplicaId,
    /// Name of the cluster: nodes of another are refused.
    pub cluster: u64,
    /// Digest of the configuration that all nodes must have alike.
    pub fingerprint: u64,
    /// What all nodes of the cluster know and strangers do not, if there is such a thing.
    pub secret: Option<Secret>,
    /// All nodes, by number.
    pub members: Vec<Member>,
    /// The protocol of every consensus group of the cluster, by group.
    pub protocols: Vec<ProtocolKind>,
    /// Which of the groups every key lives in: for as many groups as there are `protocols`.
    pub routing: Routing,
    /// One core thread per entry, pinned to that CPU; `None` leaves it to the scheduler. One to [`CORES_MAX`].
    pub cpus: Vec<Option<usize>>,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// What was lost, and so has to be asked of the other nodes.
    pub loss: Loss,
    /// Files of salvaged state (see [`salvage`](crate::salvage::salvage)) that a new cluster is to begin with: of each group what has come
    /// furthest. Empty: it begins with nothing.
    pub begin_with: Vec<PathBuf>,
    /// How commands for operators name this node's configuration.
    pub config_file: PathBuf,
    /// Found the cluster without the nodes that do not answer, if a majority is there and none has data.
    pub told_to_found: bool,
    /// Names the time since this machine was started, as no other; 0 if that is not known.
    pub boot: u64,
    /// Once it is set, a start that waits for other nodes ends with [`NodeFault::Stopped`](crate::NodeFault::Stopped).
    pub stop: Arc<AtomicBool>,
    /// Where to listen for nodes.
    pub peer_listen: SocketAddr,
    /// Where to listen for Redis clients.
    pub resp_listen: SocketAddr,
    /// Where to listen for native clients.
    pub native_listen: SocketAddr,
    /// The log.
    pub log: LogConfig,
    /// Every replica.
    pub replica: ReplicaConfig,
    /// The protocol.
    pub tuning: Tuning,
    /// How fresh the answer to a read must be whose client names no level; never [`ReadLevel::Default`].
    pub default_read_level: ReadLevel,
    /// What to do when there is nothing to do.
    pub idle: Idle,
    /// How long [`Idle::SpinThenPark`] looks again.
    pub spin: Duration,
    /// Bytes of frame memory per core.
    pub frame_pool_size: usize,
    /// Connections of clients, over all cores.
    pub connections_max: usize,
    /// Bytes of memory that the data may take on this node when it takes in a command that may make them grow.
    pub data_memory_max: u64,
    /// Bytes that the clients of all cores may make the node hold: unfinished requests, unread replies, replies to come.
    pub client_memory_max: usize,
    /// Gives memory that a core's thread has freed back to the machine, on which it is called. Once in a while after clients held much.
    pub release_memory: fn(),
}

impl NodeOptions {
    /// How many consensus groups the cluster has.
    pub fn group_count(&self) -> u16 {
        self.protocols.len() as u16
    }

    /// The core that runs `group`: groups are dealt out in turn.
    pub(crate) fn core_of(&self, group: GroupId) -> usize {
        group.index() % self.cpus.len()
    }

    /// The groups of a core.
    pub(crate) fn groups_of(&self, core: usize) -> Vec<(GroupId, ProtocolKind)> {
        let all = (0..).map(GroupId).zip(self.protocols.iter().copied());
        all.filter(|(group, _)| self.core_of(*group) == core).collect()
    }
}
