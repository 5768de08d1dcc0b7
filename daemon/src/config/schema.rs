//! What a node is told: the typed values of the config, valid by construction once [`load`](super::load) returns them.
//!
//! `[cluster]` must be the same on every node: it is fingerprinted, and nodes whose fingerprints differ refuse each
//! other. `[node]` is each node's own business.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use panch_consensus::protocol;
use panch_runtime::options::CORES_MAX;
use panch_wire::checksum::checksum;
use panch_wire::ids::{GroupId, ReplicaId};
use panch_wire::routing::Routing;

use super::render;

/// Everything that one node is told.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The same on every node.
    pub cluster: ClusterConfig,
    /// This node's own.
    pub node: NodeConfig,
}

impl Config {
    /// This node's entry in the member list.
    pub fn own_member(&self) -> &Member {
        self.cluster.member(self.node.id).expect("validation found the node among the members")
    }

    /// This node's replica of every group.
    pub fn replica(&self) -> ReplicaId {
        self.node.id.replica()
    }

    /// The other members, in the order of their numbers.
    pub fn peers(&self) -> impl Iterator<Item = &Member> {
        self.cluster.members.iter().filter(|member| member.node != self.node.id)
    }
}

/// A node's number in its cluster, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u8);

impl NodeId {
    /// The node's replica of every group: one less, because replicas are counted from 0.
    pub fn replica(self) -> ReplicaId {
        ReplicaId(self.0 - 1)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What all nodes must agree on.
#[derive(Clone, PartialEq, Debug)]
pub struct ClusterConfig {
    /// 1 to 64 letters, digits, dots, underscores or hyphens.
    pub name: String,
    /// Distinguishes clusters of the same name; may be empty.
    pub id: String,
    /// How groups decide that no placement names.
    pub protocol: ProtocolKind,
    /// Number of consensus groups, from 1.
    pub groups: u16,
    /// Groups with a protocol or keys of their own, in the order of their first groups. No group is in two of them, no
    /// prefix is there twice, and some group takes the keys without a prefix.
    pub placement: Vec<Placement>,
    /// In the order of their numbers, which are 1 to the length of the list.
    pub members: Vec<Member>,
    /// Commands at which a batch is complete while the pipeline has room for it.
    pub batch_commands: usize,
    /// The most batches proposed and not yet decided, per group.
    pub pipeline_depth: usize,
    /// A batch is full at this many bytes. A larger command travels alone.
    pub batch_size_max: usize,
    /// The longest a batch that could be proposed waits for more commands. Zero: it never waits.
    pub linger: Duration,
    /// The longest value, and the most bytes of a multi-key command.
    pub value_size_max: usize,
    /// How often an idle leader is heard.
    pub heartbeat_interval: Duration,
    /// How long a silent leader is trusted; at least three heartbeats.
    pub election_timeout: Duration,
    /// How long a follower leaves the leader it heard in office: what lease reads rest on, and what an election after a
    /// leader's death may have to wait for. Less than `election_timeout`, half of it if not given; zero: no leases. A node
    /// that starts with a smaller value than before must have been down for the larger one.
    pub lease: Duration,
    /// The most by which the rate of any node's clock may differ from true time, in millionths.
    pub clock_drift_ppm: u64,
    /// Fast Paxos, EPaxos: how long a fast quorum is waited for.
    pub slow_after: Duration,
    /// EPaxos: how long an instance may hold up others before it is recovered from a suspected command leader; more than
    /// `slow_after`.
    pub recover_after: Duration,
    /// EPaxos: the same, whoever its command leader is; more than `recover_after`.
    pub recover_always_after: Duration,
    /// Fast Paxos: every proposer may take any slot, instead of slots of its own.
    pub fast_free_for_all: bool,
    /// EPaxos: a command leader sends to a fast quorum only.
    pub epaxos_thrifty: bool,
}

impl ClusterConfig {
    /// The member with this number.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// The protocol of every group.
    pub fn protocols(&self) -> Vec<ProtocolKind> {
        let mut protocols = vec![self.protocol; usize::from(self.groups)];
        for placement in &self.placement {
            placement.groups.iter().for_each(|group| protocols[usize::from(*group)] = placement.protocol);
        }
        protocols
    }

    /// Which group every key lives in.
    pub fn routing(&self) -> Routing {
        let ids = |groups: &[u16]| groups.iter().copied().map(GroupId).collect::<Vec<_>>();
        let is_general = |group: &u16| {
            let placement = self.placement.iter().find(|placement| placement.groups.contains(group));
            placement.is_none_or(|placement| placement.prefixes.is_empty() || placement.other_keys)
        };
        let general: Vec<u16> = (0..self.groups).filter(is_general).collect();
        let prefixes = self.placement.iter().flat_map(|placement| {
            placement.prefixes.iter().map(|prefix| (prefix.as_bytes().into(), ids(&placement.groups)))
        });
        Routing::new(self.groups, ids(&general), prefixes.collect())
            .expect("validation looked at every group and prefix")
    }

    /// Names the cluster on the wire and on disk; made of `name` and `id` alone, so it outlives every other change.
    pub fn cluster_id(&self) -> u64 {
        checksum(format!("panch cluster\n{}\n{}\n", self.name, self.id).as_bytes())
    }

    /// Checksum over every value of `[cluster]` in canonical spelling. Nodes exchange it and refuse a different one.
    pub fn fingerprint(&self) -> u64 {
        checksum(render::cluster(self).as_bytes())
    }
}

/// Groups that differ from the others.
#[derive(Clone, PartialEq, Debug)]
pub struct Placement {
    /// Ascending, never empty.
    pub groups: Vec<u16>,
    /// How they decide.
    pub protocol: ProtocolKind,
    /// Keys that start with one of these live in these groups; ascending. If empty, the groups take keys without a prefix
    /// as any other group does.
    pub prefixes: Vec<String>,
    /// Whether the groups take keys without a prefix although they have prefixes.
    pub other_keys: bool,
}

/// One node as the others and the clients see it.
#[derive(Clone, PartialEq, Debug)]
pub struct Member {
    /// From 1, without gaps.
    pub node: NodeId,
    /// Where the other nodes connect.
    pub peer: Address,
    /// Where Redis clients are told to connect.
    pub client: Address,
    /// Where native clients are told to connect.
    pub native: Address,
}

/// What a node decides for itself.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeConfig {
    /// Which member this is.
    pub id: NodeId,
    /// Log and snapshots; belongs to this node alone. A relative path of the file was resolved against the file's folder.
    pub data_dir: PathBuf,
    /// A file with what all nodes know and strangers do not; `None`: strangers are told from nodes by what these remember only.
    pub secret_file: Option<PathBuf>,
    /// Which CPUs run core threads.
    pub cores: Cores,
    /// When a vote counts as remembered.
    pub durability: Durability,
    /// How often the log is synced if `durability` is [`Durability::Periodic`]: the most that a power failure may take.
    pub periodic_interval: Duration,
    /// What a core does when there is nothing to do.
    pub idle: Idle,
    /// How long a core spins before it sleeps, if `idle` is [`Idle::SpinThenPark`].
    pub spin: Duration,
    /// Where Redis clients are accepted.
    pub resp_listen: SocketAddr,
    /// Where native clients are accepted.
    pub native_listen: SocketAddr,
    /// Where peers are accepted.
    pub peer_listen: SocketAddr,
    /// Bytes of one preallocated log file; a multiple of the page size.
    pub log_segment_size: u64,
    /// The most log writes submitted and not yet complete, per core.
    pub log_writes_in_flight: usize,
    /// A group takes a snapshot after this many bytes of log.
    pub snapshot_log_size: u64,
    /// The most memory for batches, per core, in bytes.
    pub frame_pool_size: usize,
    /// The most client connections, RESP and native together.
    pub client_connections_max: usize,
    /// Bytes of memory that the data may take; 0: a share of what the machine has.
    pub data_memory_max: u64,
    /// Bytes that clients may make the node hold, all together: unfinished requests, unread replies, replies to come.
    pub client_memory_max: usize,
    /// A request that arrived this long ago is answered, whatever is known of it.
    pub request_timeout: Duration,
    /// How fresh the answer to a read must be if its client does not say: every Redis client, and native requests that
    /// leave it to the node.
    pub default_read_level: ReadLevel,
}

impl NodeConfig {
    /// Whether core threads are kept on their CPUs. More cores than CPUs (several nodes on one machine, or a test): the scheduler places them.
    pub fn is_pinned(&self) -> bool {
        matches!(self.cores, Cores::List(_)) || self.idle != Idle::Park
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every choice.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// The word for it in a config, on the command line and in INFO.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let words = [$($word,)*];
                Self::ALL.iter().copied().find(|choice| choice.word() == text).ok_or_else(|| match words.as_slice() {
                    [one] => format!("the only choice is {one}"),
                    [rest @ .., last] => format!("choose {} or {last}", rest.join(", ")),
                    [] => String::new(),
                })
            }
        }
    };
}

words! {
    /// How a group decides on the order of commands.
    ProtocolKind {
        /// Basic Paxos: two phases for every slot, no leader.
        Basic = "basic",
        /// Multi-Paxos: one leader per group.
        Multi = "multi",
        /// Fast Paxos: proposers go straight to the acceptors.
        Fast = "fast",
        /// EPaxos: no leader; commands that do not interfere are not ordered.
        Epaxos = "epaxos",
    }
}

impl ProtocolKind {
    /// The protocol that a replica runs.
    pub fn of_replica(self) -> protocol::ProtocolKind {
        match self {
            Self::Basic => protocol::ProtocolKind::Basic,
            Self::Multi => protocol::ProtocolKind::Multi,
            Self::Fast => protocol::ProtocolKind::Fast,
            Self::Epaxos => protocol::ProtocolKind::Epaxos,
        }
    }
}

words! {
    /// How fresh the answer to a read must be.
    ReadLevel {
        /// Linearizable: the leader alone answers while a quorum promised not to desert it. Rests on clocks that keep to
        /// `clock_drift_ppm`.
        Lease = "lease",
        /// Linearizable: decided like a write.
        Log = "log",
        /// Linearizable: a quorum confirms each round of reads.
        Quorum = "quorum",
        /// Whatever the node has executed.
        Stale = "stale",
    }
}

words! {
    /// When a vote counts as remembered.
    Durability {
        /// On disk before the vote leaves.
        Sync = "sync",
        /// Synced every `periodic_interval`: a power failure of a majority may lose that much of what was acknowledged.
        Periodic = "periodic",
        /// Never on disk: for measurements.
        Memory = "memory",
    }
}

words! {
    /// What a core does when there is nothing to do.
    Idle {
        /// Keeps looking: the lowest latency, a whole CPU per core.
        Spin = "spin",
        /// Looks for the time of `spin`, then sleeps.
        SpinThenPark = "spin-then-park",
        /// Sleeps at once.
        Park = "park",
    }
}

/// Which CPUs run core threads. Never more than the process may use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cores {
    /// One core thread on each of so many CPUs, chosen by the node.
    Count(usize),
    /// One core thread on every CPU that the process may use.
    All,
    /// One core thread on each of these CPUs.
    List(Vec<usize>),
}

impl Cores {
    /// The CPUs for the core threads, given those that the process may use (ascending).
    ///
    /// # Errors
    /// If a CPU is not available, or there are too many; the text says which and what would work.
    pub fn place(&self, allowed: &[usize]) -> Result<Vec<usize>, String> {
        match self {
            Cores::All if allowed.len() > CORES_MAX => Err(format!(
                "node.cores = \"all\" would be {} cores, and a node has {CORES_MAX} at most: set it to a number",
                allowed.len()
            )),
            Cores::All => Ok(allowed.to_vec()),
            Cores::Count(count) if *count <= allowed.len() => Ok(allowed[..*count].to_vec()),
            Cores::Count(count) => Err(format!(
                "node.cores = {count}, but this process may use only {} CPUs ({})",
                allowed.len(),
                list(allowed)
            )),
            Cores::List(cpus) => match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                None => Ok(cpus.clone()),
                Some(cpu) => Err(format!(
                    "node.cores names CPU {cpu}, but this process may use only CPUs {}",
                    list(allowed)
                )),
            },
        }
    }
}

/// Numbers with commas, ranges shortened: `0-3,8`.
pub(crate) fn list(numbers: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let text = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A host and a port: an IP address or a name that is looked up when it is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// An IP address as digits (without brackets), or a host name in lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The IP address, if the host is not a name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The host, if it is a name.
    pub fn name(&self) -> Option<String> {
        if self.ip().is_some() { None } else { Some(self.host.clone()) }
    }

    /// Where to connect: the first of [`Address::resolve_all`].
    ///
    /// # Errors
    /// If the name has no address.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        Ok(self.resolve_all()?.remove(0))
    }

    /// All that the name stands for, at least one. Looks it up, which may take seconds: not for a core thread.
    ///
    /// # Errors
    /// If the name has no address.
    pub fn resolve_all(&self) -> io::Result<Vec<SocketAddr>> {
        let addresses: Vec<_> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{self} has no address")));
        }
        Ok(addresses)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.port)),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let address = match text.parse::<SocketAddr>() {
            Ok(address) => Self { host: address.ip().to_string(), port: address.port() },
            Err(_) => {
                let (host, port) = text.rsplit_once(':').ok_or("a port is missing; write host:port")?;
                let port =
                    port.parse().map_err(|_| format!("`{port}` is not a port, a number from 1 to 65535"))?;
                if host.contains(':') {
                    return Err("an IPv6 address needs brackets: [::1]:7001".to_owned());
                }
                let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                // A last label of digits alone is an IP address gone wrong, never a name (RFC 1123, section 2.1).
                let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or("");
                if last.is_empty() || !host.chars().all(is_name) || last.chars().all(|c| c.is_ascii_digit()) {
                    return Err(format!("`{host}` is neither an IP address nor a host name"));
                }
                Self { host: host.to_ascii_lowercase(), port }
            }
        };
        if address.port == 0 {
            return Err(
                "port 0 would be a different port at every start; choose one from 1 to 65535".to_owned()
            );
        }
        Ok(address)
    }
}
