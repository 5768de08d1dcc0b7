//! From a configuration to what the runtime is told about the node.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use panch_consensus::protocol::Tuning;
use panch_replica::batcher::BatchLimits;
use panch_replica::replica::ReplicaConfig;
use panch_runtime::options::{Idle, Member, NodeOptions, PeerName};
use panch_runtime::placement::allowed_cpus;
use panch_wal::Durability;
use panch_wire::client::ReadLevel;
use panch_wire::command::KEY_SIZE_MAX;
use panch_wire::peer::Secret;
use panch_wire::time::Duration;

use crate::config::{self, Config};
use crate::host;
use crate::memory;
use crate::run::Order;
use crate::secret;

/// Positions of a row between two comparisons of digests. Nodes with another number are not compared with: it changes with a version only.
const CHECKPOINT_EVERY: u64 = 512;
/// A session that was not used for this long is closed.
const SESSION_IDLE_MAX: Duration = Duration::from_secs(3600);
/// Batches that may wait for the pipeline, per group.
const BATCH_QUEUE_MAX: usize = 64;
/// The share of a core's frame memory that recent entries for lagging peers may take: one in this many.
const TAIL_SHARE: usize = 4;
/// The share of it that entries which are not chosen yet may take.
const UNCHOSEN_SHARE: usize = 8;
/// What a command has beyond its value: a key, a session header, its place in the batch.
const COMMAND_OVERHEAD: usize = KEY_SIZE_MAX + 64;
/// The most of the tail per group, in bytes.
const TAIL_SIZE_MAX: usize = 8 << 20;
/// The executed instances that all groups of a core keep for members that lag, at most: about a quarter of a gigabyte.
const KEPT_COUNT_MAX: u64 = 1 << 19;
/// Of one group, so many may always be kept: a member that catches up is behind by a few thousand at high load.
const KEPT_COUNT_MIN: u64 = 1 << 14;

/// Why the runtime cannot be told about a configured node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionsFault {
    /// The DNS may have it, or be there, at another try.
    #[error(
        "{0} has no address: {1}. Add it to the DNS or to /etc/hosts, or use an IP address in cluster.members"
    )]
    Name(config::Address, io::Error),
    /// The CPUs are not known.
    #[error("cannot read the CPU affinity: {0}")]
    Affinity(io::Error),
    /// There are not the CPUs that the configuration wants.
    #[error("{0}")]
    Cores(String),
    /// The secret of the cluster is not there, or is none.
    #[error("{0}")]
    Secret(String),
}

/// What a node finds around it: on its machine, and in the network.
pub(crate) struct Surroundings {
    members: Vec<Member>,
    cpus: Vec<Option<usize>>,
    secret: Option<Secret>,
    data_memory_max: u64,
}

impl Surroundings {
    /// For a node that runs, one of `nodes` in this process.
    ///
    /// # Errors
    /// If it does not find what it needs.
    pub(crate) fn find(config: &Config, nodes: usize) -> Result<Self, OptionsFault> {
        let node = &config.node;
        let resolve = |address: &config::Address| {
            address.resolve().map_err(|error| OptionsFault::Name(address.clone(), error))
        };
        let members = config.cluster.members.iter().map(|member| {
            Ok(Member {
                peer: resolve(&member.peer)?,
                peer_name: member.peer.name().map(|host| PeerName { host, port: member.peer.port() }),
                resp: resolve(&member.client)?,
                native: resolve(&member.native)?,
            })
        });
        let members = members.collect::<Result<Vec<_>, OptionsFault>>()?;
        let allowed = allowed_cpus().map_err(OptionsFault::Affinity)?;
        let cpus = node.cores.place(&allowed).map_err(OptionsFault::Cores)?;
        let pinned = node.is_pinned();
        Ok(Self {
            members,
            cpus: cpus.into_iter().map(|cpu| pinned.then_some(cpu)).collect(),
            secret: node
                .secret_file
                .as_deref()
                .map(secret::read)
                .transpose()
                .map_err(OptionsFault::Secret)?,
            data_memory_max: host::data_memory_max(config, nodes),
        })
    }

    /// For who only reads the data directory of a node: that takes neither the other nodes nor its CPUs nor the secret, of which any may be
    /// lost. How many cores it was made with counts all the same.
    ///
    /// # Errors
    /// If that cannot be found out.
    pub(crate) fn without(config: &Config) -> Result<Self, OptionsFault> {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let member = Member { peer: nowhere, peer_name: None, resp: nowhere, native: nowhere };
        let cores = match &config.node.cores {
            config::Cores::Count(count) => *count,
            config::Cores::List(cpus) => cpus.len(),
            config::Cores::All => allowed_cpus().map_err(OptionsFault::Affinity)?.len(),
        };
        Ok(Self {
            members: vec![member; config.cluster.members.len()],
            cpus: vec![None; cores],
            secret: None,
            data_memory_max: u64::MAX,
        })
    }
}

/// What the runtime is told about a configured node.
pub(crate) fn node_options(
    config: &Config,
    order: &Order,
    stop: Arc<AtomicBool>,
    surroundings: Surroundings,
) -> NodeOptions {
    let (cluster, node) = (&config.cluster, &config.node);
    let Surroundings { members, cpus, secret, data_memory_max } = surroundings;
    let groups_per_core = usize::from(cluster.groups).div_ceil(cpus.len());
    let tail_size_max = (node.frame_pool_size / TAIL_SHARE / groups_per_core).min(TAIL_SIZE_MAX);
    NodeOptions {
        node: node.id.replica(),
        cluster: cluster.cluster_id(),
        fingerprint: cluster.fingerprint(),
        secret,
        members,
        protocols: cluster.protocols().into_iter().map(config::ProtocolKind::of_replica).collect(),
        routing: cluster.routing(),
        cpus,
        data_dir: node.data_dir.clone(),
        loss: order.loss,
        told_to_found: order.told_to_found,
        begin_with: order.begin_with.clone(),
        config_file: order.config_file.clone(),
        boot: host::boot(),
        stop,
        peer_listen: node.peer_listen,
        resp_listen: node.resp_listen,
        native_listen: node.native_listen,
        log: panch_wal::Config {
            segment_size: node.log_segment_size,
            writes_in_flight_max: node.log_writes_in_flight,
            // What one snapshot frees is enough until the next one.
            reuse_max: (node.snapshot_log_size / node.log_segment_size + 1) as usize,
            durability: match node.durability {
                config::Durability::Sync => Durability::Sync,
                config::Durability::Periodic => Durability::Periodic { interval: node.periodic_interval },
                config::Durability::Memory => Durability::Memory,
            },
            ..panch_wal::Config::default()
        },
        replica: ReplicaConfig {
            batch: BatchLimits {
                commands_max: cluster.batch_commands,
                size_max: cluster.batch_size_max,
                command_size_max: cluster.value_size_max + COMMAND_OVERHEAD,
                value_size_max: cluster.value_size_max,
                pipeline_depth: cluster.pipeline_depth,
                linger: cluster.linger,
                queue_max: BATCH_QUEUE_MAX,
            },
            hash_seed: 0,
            request_timeout: node.request_timeout,
            snapshot_log_size: node.snapshot_log_size,
            session_idle_max: SESSION_IDLE_MAX,
            checkpoint_every: CHECKPOINT_EVERY,
        },
        tuning: Tuning {
            heartbeat_interval: cluster.heartbeat_interval,
            election_timeout: cluster.election_timeout,
            lease: cluster.lease,
            clock_drift_ppm: cluster.clock_drift_ppm,
            pipeline_depth: cluster.pipeline_depth,
            tail_size_max,
            kept_count_max: (KEPT_COUNT_MAX / groups_per_core as u64).max(KEPT_COUNT_MIN),
            unchosen_size_max: node.frame_pool_size / UNCHOSEN_SHARE / groups_per_core,
            slow_after: cluster.slow_after,
            recover_after: cluster.recover_after,
            recover_always_after: cluster.recover_always_after,
            free_for_all: cluster.fast_free_for_all,
            thrifty: cluster.epaxos_thrifty,
            ..Tuning::default()
        },
        default_read_level: match node.default_read_level {
            config::ReadLevel::Lease => ReadLevel::Lease,
            config::ReadLevel::Log => ReadLevel::Log,
            config::ReadLevel::Quorum => ReadLevel::Quorum,
            config::ReadLevel::Stale => ReadLevel::Stale,
        },
        idle: match node.idle {
            config::Idle::Spin => Idle::Spin,
            config::Idle::SpinThenPark => Idle::SpinThenPark,
            config::Idle::Park => Idle::Park,
        },
        spin: node.spin,
        frame_pool_size: node.frame_pool_size,
        connections_max: node.client_connections_max,
        data_memory_max,
        client_memory_max: node.client_memory_max,
        release_memory: memory::release,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn who_only_reads_a_directory_needs_no_name_no_cpu_and_no_secret() {
        let text = include_str!("../../configs/cluster-3/1.toml");
        let members = r#"cluster.members=[{ node = 1, peer = "lost.invalid:1", client = "lost.invalid:2", native = "lost.invalid:3" }]"#;
        let listen = [("resp", 1), ("native", 2), ("peer", 3)];
        let listen = listen.map(|(key, port)| format!("node.{key}_listen=127.0.0.1:{port}"));
        let rest = ["node.cores=[4000, 4001, 4002]", "node.secret_file=/nowhere"].map(str::to_owned);
        let with = |sets: &[String]| config::parse(Path::new("1.toml"), text, sets).unwrap().config;
        assert!(matches!(Surroundings::find(&with(&rest), 1), Err(OptionsFault::Cores(_))));
        let config = with(&[&[members.to_owned()][..], &listen, &rest].concat());
        let order = Order::about(Path::new("1.toml"));
        let options = node_options(&config, &order, Arc::default(), Surroundings::without(&config).unwrap());
        assert_eq!((options.members.len(), options.cpus), (1, vec![None; 3]));
    }
}
