//! From a configuration to running nodes, and to their orderly end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use panch_consensus::protocol::Tuning;
use panch_replica::batcher::BatchLimits;
use panch_replica::replica::ReplicaConfig;
use panch_runtime::machine::memory_size;
use panch_runtime::options::{Idle, Loss, Member, NodeOptions, PeerName};
use panch_runtime::placement::allowed_cpus;
use panch_runtime::{Node, NodeFault, StopHandle};
use panch_wal::Durability;
use panch_wire::client::ReadLevel;
use panch_wire::command::KEY_SIZE_MAX;
use panch_wire::time::Duration;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::{DevArgs, RunArgs, complain, print};
use crate::config::dev::connect_text;
use crate::config::{self, Config};
use crate::exit::Exit;
use crate::host;
use crate::memory;
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
/// Of the memory of the machine the data may take so much where nobody says: a numerator and a denominator.
const DATA_SHARE: (u64, u64) = (3, 5);
/// The most of the tail per group, in bytes.
const TAIL_SIZE_MAX: usize = 8 << 20;
/// The executed instances that all groups of a core keep for members that lag, at most: about a quarter of a gigabyte.
const KEPT_COUNT_MAX: u64 = 1 << 19;
/// Of one group, so many may always be kept: a member that catches up is behind by a few thousand at high load.
const KEPT_COUNT_MIN: u64 = 1 << 14;

/// A start that is asked to stop ends by itself within this time, or is ended.
const STOP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// `panchd run`.
pub fn run(arguments: &RunArgs) -> Exit {
    let loaded = match arguments.config.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let loss = match loaded.config.node.durability {
        _ if arguments.rejoin => Loss::OfDisk,
        config::Durability::Memory => Loss::OfMemory,
        _ => Loss::None,
    };
    let order = Order {
        loss,
        told_to_found: arguments.found,
        begin_with: arguments.from.clone(),
        config_file: arguments.config.config.clone(),
    };
    serve(&[loaded.config], &order, |config| {
        let node = &config[0].node;
        print(&format!(
            "panchd: node {} serves Redis clients on {}, native clients on {}, peers on {}; data in {}; durability {}\n",
            node.id,
            node.resp_listen,
            node.native_listen,
            node.peer_listen,
            node.data_dir.display(),
            node.durability,
        ));
    })
}

/// `panchd dev`.
pub fn dev(arguments: &DevArgs) -> Exit {
    let plan = arguments.plan();
    let prepared = plan.claim().and_then(|claim| {
        plan.check_ports()?;
        Ok((plan.prepare(&claim)?, claim))
    });
    let (loaded, _claim) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            complain(&format!("panchd dev: {error}\n"));
            return Exit::from(&error);
        }
    };
    let configs: Vec<Config> = loaded.into_iter().map(|loaded| loaded.config).collect();
    // All nodes of the folder have ended together: none could tell another what it has forgotten.
    serve(&configs, &Order::default(), |configs| print(&connect_text(configs, Path::new(&plan.folder))))
}

/// What the operator says at the start.
#[derive(Clone, Default)]
pub(crate) struct Order {
    loss: Loss,
    told_to_found: bool,
    begin_with: Vec<PathBuf>,
    /// As the operator names it.
    config_file: PathBuf,
}

impl Order {
    /// Nothing but how the configuration is named.
    pub(crate) fn about(config_file: &Path) -> Self {
        Self { config_file: config_file.to_path_buf(), ..Self::default() }
    }
}

/// Starts a node for each configuration in this process and waits for their end.
fn serve(configs: &[Config], order: &Order, announce: impl FnOnce(&[Config])) -> Exit {
    // Core threads must never be interrupted: they inherit this mask, the signal thread takes its own back.
    host::block_signals();
    let (started, starting) = mpsc::channel::<Vec<StopHandle>>();
    let stop = Arc::new(AtomicBool::new(false));
    let asked_to_stop = Arc::clone(&stop);
    let signals = std::thread::Builder::new()
        .name("panch-signals".into())
        .spawn(move || heed_signals(&asked_to_stop, &starting));
    if let Err(error) = signals {
        complain(&format!("panchd: cannot start the signal thread: {error}\n"));
        return Exit::from(&error);
    }
    if let Err(exit) = host::preflight(configs) {
        return exit;
    }
    let nodes = match start_all(configs, order, &stop) {
        Ok(nodes) => nodes,
        Err(exit) => return exit,
    };
    let stop: Vec<_> = nodes.iter().map(Node::stop_handle).collect();
    // The thread may have ended for want of signals.
    let _ = started.send(stop);
    announce(configs);
    let mut exit = Exit::Done;
    for (node, config) in nodes.into_iter().zip(configs) {
        if let Err(fault) = node.wait() {
            tracing::error!(target: "panch", "node {} stopped: {fault}", config.node.id);
            exit = exit.or_worse(Exit::from(&fault));
        }
    }
    exit
}

/// Stops the nodes when asked to, at once when asked twice. No other signal that somebody may send from habit ends the process.
fn heed_signals(asked_to_stop: &AtomicBool, starting: &mpsc::Receiver<Vec<StopHandle>>) {
    let signals = Signals::new(host::SIGNALS);
    // Not before they are handled: one may be waiting already, and would end the process as it is.
    host::unblock_signals();
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("panchd: cannot listen for signals: {error}\n"));
            return;
        }
    };
    let mut is_asked = false;
    for signal in signals.forever() {
        match signal {
            SIGTERM | SIGINT => {}
            SIGHUP => {
                // Not as the other lines here: whoever reads standard error may stand still, and this thread has to hear of a stop.
                tracing::warn!(
                    target: "panch",
                    "SIGHUP changes nothing: no configuration is read again while a node runs, and standard error goes where it went. To \
                     apply another configuration, restart the node"
                );
                continue;
            }
            _ => continue,
        }
        if std::mem::replace(&mut is_asked, true) {
            // Asked twice: do not wait for anything.
            std::process::exit(i32::from(Exit::Temporary.code()));
        }
        asked_to_stop.store(true, Ordering::Relaxed);
        let Ok(handles) = starting.recv_timeout(STOP_PATIENCE) else {
            // A node that waits for others before it starts has nothing to lose yet.
            std::process::exit(i32::from(Exit::Done.code()));
        };
        for handle in &handles {
            handle.stop();
        }
    }
}

/// Bytes of memory that the data may take; 0 stands for a share of what the machine has.
fn data_memory_max(configured: u64) -> u64 {
    let (part, of) = DATA_SHARE;
    match configured {
        0 => memory_size().map_or(u64::MAX, |size| size / of * part),
        size => size,
    }
}

/// Starts the nodes at the same time: at their first start they wait for each other. How to end if one cannot start, for the first.
fn start_all(configs: &[Config], order: &Order, stop: &Arc<AtomicBool>) -> Result<Vec<Node>, Exit> {
    let connections_possible = host::connections_possible(configs);
    let (results, arriving) = mpsc::channel();
    for (index, config) in configs.iter().enumerate() {
        let mut options = node_options(config, order, Arc::clone(stop)).map_err(|fault| {
            complain(&format!("panchd: node {} cannot start: {fault}\n", config.node.id));
            Exit::from(&fault)
        })?;
        options.connections_max = options.connections_max.min(connections_possible);
        let results = results.clone();
        let start = move || {
            // Nobody listens any more once another node could not start: the process ends then.
            let _ = results.send((index, Node::start(options)));
        };
        let thread = std::thread::Builder::new().name(format!("panch-start-{}", config.node.id)).spawn(start);
        thread.map_err(|error| {
            complain(&format!("panchd: cannot start a thread: {error}\n"));
            Exit::from(&error)
        })?;
    }
    drop(results);
    let mut nodes = Vec::new();
    for (index, result) in arriving {
        match result {
            Ok(node) => nodes.push((index, node)),
            Err(fault) => {
                if !matches!(fault, NodeFault::Stopped) {
                    complain(&format!("panchd: node {} cannot start: {fault}\n", configs[index].node.id));
                }
                return Err(Exit::from(&fault));
            }
        }
    }
    nodes.sort_by_key(|(index, _)| *index);
    Ok(nodes.into_iter().map(|(_, node)| node).collect())
}

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

/// What the runtime is told about a configured node.
pub(crate) fn node_options(
    config: &Config,
    order: &Order,
    stop: Arc<AtomicBool>,
) -> Result<NodeOptions, OptionsFault> {
    let (cluster, node) = (&config.cluster, &config.node);
    let resolve = |address: &config::Address| {
        address.resolve().map_err(|error| OptionsFault::Name(address.clone(), error))
    };
    let members = cluster.members.iter().map(|member| {
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
    let groups_per_core = usize::from(cluster.groups).div_ceil(cpus.len());
    let tail_size_max = (node.frame_pool_size / TAIL_SHARE / groups_per_core).min(TAIL_SIZE_MAX);
    Ok(NodeOptions {
        node: node.id.replica(),
        cluster: cluster.cluster_id(),
        fingerprint: cluster.fingerprint(),
        secret: node.secret_file.as_deref().map(secret::read).transpose().map_err(OptionsFault::Secret)?,
        members,
        protocols: cluster.protocols().into_iter().map(config::ProtocolKind::of_replica).collect(),
        routing: cluster.routing(),
        cpus: cpus.into_iter().map(|cpu| pinned.then_some(cpu)).collect(),
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
        data_memory_max: data_memory_max(node.data_memory_max),
        client_memory_max: node.client_memory_max,
        release_memory: memory::release,
    })
}
