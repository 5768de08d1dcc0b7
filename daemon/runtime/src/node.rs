//! A node: opens its data, starts one thread per core, and ends when told or when a core fails.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use glommio::{LocalExecutorBuilder, Placement};
use panch_consensus::protocol::random;
use panch_replica::core::{CoreConfig, PastFault, ReplayFault};
use panch_replica::familiarity::Start;
use panch_replica::rejoin::Life;
use panch_replica::salvage::lacks_state;
use panch_replica::snapshot::SnapshotFault;
use panch_ring::clock;
use panch_ring::file::LogFile;
use panch_ring::mesh::{self, MeshPort};
use panch_ring::ring::{Ring, RingConfig, RingError};
use panch_wal::{Durability, Lsn, RecoverError, Wal};
use panch_wire::frame::FramePool;
use panch_wire::ids::{GroupId, Incarnation, ReplicaId};
use panch_wire::peer::{Hello, Purpose};
use panch_wire::time::Instant;

use crate::addresses::{Addresses, LookUps};
use crate::changes::Changes;
use crate::clients::memory::{Memory, Share};
use crate::clients::seats::Seats;
use crate::clients::table::Clients;
use crate::complaints::say;
use crate::core::{CoreFault, CoreLoop, check_ports};
use crate::counters::Reports;
use crate::identity::{DataDir, Founding, Identity, IdentityFault, Loss};
use crate::inquiry::{before_first_incarnation, before_next_incarnation};
use crate::log_io::LogIo;
use crate::log_size::LogSize;
use crate::machine::memory_size;
use crate::notes::Notes;
use crate::options::{CORES_MAX, NodeOptions};
use crate::outputs::Outputs;
use crate::park;
use crate::past::Past;
use crate::peers::Peers;
use crate::remote::{Parcel, Replies};
use crate::salvage::{Beginning, SalvageFault};
use crate::starts;
use crate::storage::{CoreDirectory, Storage};
use crate::view::NodeView;

/// Parcels that may wait between two cores.
const MESH_CAPACITY: usize = 1024;
/// glommio's own registered memory: nothing of ours is in it.
const EXECUTOR_MEMORY: usize = 64 << 10;
/// The share of a core's frame memory whose size may gather for one peer: one in this many.
const PEER_QUEUE_SHARE: usize = 4;
/// At least this much may gather for one peer, in bytes.
const PEER_QUEUE_SIZE_MIN: usize = 8 << 20;

/// With fewer members no majority is left without one of them.
const REJOIN_MEMBERS_MIN: usize = 3;

/// Why a node cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeFault {
    /// The data directory is not usable.
    #[error(transparent)]
    Identity(#[from] IdentityFault),
    /// A directory of a core cannot be opened.
    #[error("{}: {error}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The log cannot be trusted.
    #[error("{}: {fault}", path.display())]
    Log {
        /// The core's directory.
        path: PathBuf,
        /// Why.
        fault: RecoverError,
    },
    /// The log holds what this configuration has no place for.
    #[error("{}: {fault}", path.display())]
    Replay {
        /// The core's directory.
        path: PathBuf,
        /// Why.
        fault: ReplayFault,
    },
    /// The snapshots and the log are not the whole past.
    #[error("{}: {fault}", path.display())]
    Past {
        /// The core's directory.
        path: PathBuf,
        /// What is missing.
        fault: PastFault,
    },
    /// A snapshot cannot be used.
    #[error("{}: {fault}", path.display())]
    Snapshot {
        /// The file, which stays as it is.
        path: PathBuf,
        /// Why.
        fault: SnapshotFault,
    },
    /// Salvaged state cannot be written, or used.
    #[error(transparent)]
    Salvage(#[from] SalvageFault),
    /// The state that the cluster began with is not there.
    #[error("{}: the cluster began with salvaged state, and that of group {} is not here, nor any log: empty the whole data directory and begin again with --from, or with --rejoin if the others run already", path.display(), group.0)]
    StateMissing {
        /// The core's directory.
        path: PathBuf,
        /// The first group without it.
        group: GroupId,
    },
    /// The log is not there although votes may be in it.
    #[error("{}: the log of core {core} is gone but this node has run before: it may have voted and can no longer know how; restore the directory from an exact copy, or empty the whole data directory and start the node with --rejoin", path.display())]
    LogMissing {
        /// The core's directory.
        path: PathBuf,
        /// The core.
        core: usize,
    },
    /// A node whose log is to be in memory has one on its disk.
    #[error("{}: holds the log of a time when durability was not \"memory\". A log in memory begins empty, so this one would be lost: restore the durability, or, if the log is to be given up, empty the whole data directory and start the node with --rejoin (three nodes and more)", path.display())]
    LogOnDisk {
        /// The core's directory.
        path: PathBuf,
    },
    /// A node without a durable log may not come back by itself.
    #[error(
        "this node has forgotten its votes (its log was in memory, its disk is lost, or its machine stopped or its disk failed with durability = \"periodic\"), and cannot come back: that takes a majority without it, so three nodes and more that do not run in one process. Begin a new cluster with what is left (`panchd salvage` on every node), or with empty data directories, and use durability = \"sync\""
    )]
    Forgotten,
    /// The node was asked to stop while it waited for others: nothing of it has run.
    #[error("stopped while it waited for other nodes")]
    Stopped,
    /// The ring cannot be made.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A core failed.
    #[error(transparent)]
    Core(#[from] CoreFault),
    /// A thread or descriptor could not be had.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What happened.
        error: io::Error,
    },
}

/// A running node.
pub struct Node {
    threads: Vec<JoinHandle<Result<(), NodeFault>>>,
    data: Arc<DataDir>,
    control: Arc<MeshPort<Parcel>>,
    reports: Arc<Reports>,
    notes: Notes,
    /// Of the addresses of other nodes, for as long as this one runs.
    _look_ups: LookUps,
    is_asked_to_stop: Arc<AtomicBool>,
}

/// Stops a node; usable from any thread, and from several.
#[derive(Clone)]
pub struct StopHandle(Arc<MeshPort<Parcel>>);

impl StopHandle {
    /// Asks every core to write what is pending and end.
    pub fn stop(&self) {
        for core in 0..self.0.core_count() - 1 {
            // A full queue belongs to a core that is awake; one Stop in it is enough.
            let _ = self.0.send(core, Parcel::Stop);
        }
    }
}

impl Node {
    /// Opens the data directory and starts the cores; returns once every core serves, or with the first fault.
    ///
    /// # Errors
    /// See [`NodeFault`]; each says what to do.
    pub fn start(options: NodeOptions) -> Result<Self, NodeFault> {
        let cores = options.cpus.len();
        assert!((1..=CORES_MAX).contains(&cores), "the configuration was checked");
        assert_eq!(
            options.routing.group_count(),
            options.group_count(),
            "every group has a protocol, every key a group"
        );
        let beginning = Beginning::open(&options)?;
        let founding = beginning.as_ref().map(|it| it.founding).unwrap_or_default();
        let wanted = Identity { founding, ..wanted_identity(&options) };
        if options.loss == Loss::OfDisk && options.members.len() < REJOIN_MEMBERS_MIN {
            return Err(NodeFault::Forgotten);
        }
        if options.log.durability == Durability::Memory {
            refuse_logs(&options)?;
        }
        let node_count = options.members.len();
        let mut data = DataDir::open(&options.data_dir, &wanted, options.loss, node_count == 1)?;
        if options.told_to_found && data.identity.incarnation == Incarnation(0) && data.identity.rejoining {
            return Err(IdentityFault::Rejoining { path: data.path, flag: "--found" }.into());
        }
        data.peers.set_node_count(node_count);
        if data.has_lost_votes {
            say_what_is_lost(&options);
        }
        let forgotten = options.log.durability == Durability::Memory
            && data.identity.incarnation > Incarnation(1)
            && options.loss == Loss::None;
        // While it does not vote, the others must be able to decide what it waits for.
        if forgotten || data.identity.rejoining && options.members.len() < REJOIN_MEMBERS_MIN {
            return Err(NodeFault::Forgotten);
        }
        if let Some(beginning) = beginning {
            // Named only once it is there whole.
            beginning.install(&options)?;
            data.set_founding(beginning.founding)?;
        }
        let io = |what| move |error| NodeFault::Io { what, error };
        let look_ups = Addresses::start(&options.members).map_err(io("cannot start a thread"))?;
        let addresses = look_ups.addresses();
        if data.identity.incarnation == Incarnation(0) {
            let (last, founders) = before_first_incarnation(&options, addresses, &mut data)?;
            data.begin(last, founders)?;
        } else if options.told_to_found {
            return Err(IdentityFault::Founded(data.path).into());
        } else if data.lacks_peers {
            before_next_incarnation(&options, addresses, &mut data)?;
        }
        let (incarnation, rejoining) = (data.identity.incarnation, data.identity.rejoining);
        if cores > 1 {
            check_ports(&options)?;
        }
        // One port more than cores: the control port, through which the node is stopped.
        let mut ports = mesh::connect::<Parcel>(cores + 1, MESH_CAPACITY).map_err(io("eventfd"))?;
        let control = Arc::new(ports.pop().expect("one port per core and one more"));
        let reports = Arc::new(Reports::new(cores, options.protocols.len()));
        let seats = Arc::new(Seats::new(options.connections_max));
        let memory = Arc::new(Memory::new(options.client_memory_max, options.connections_max, cores));
        let changes = Arc::new(Changes::new(cores));
        let options = Arc::new(options);
        let failed = Arc::new(AtomicBool::new(false));
        // A core says that it is ready, and again that it has failed.
        let (ready_sender, ready) = crossbeam::channel::bounded(2 * cores);
        let (go_sender, go) = crossbeam::channel::bounded(cores);
        let data = Arc::new(data);
        let bells = ports.iter().map(|port| port.doorbell().clone()).collect();
        let notes = Notes::start(Arc::clone(&data), bells).map_err(io("cannot start a thread"))?;
        let mut threads = Vec::new();
        for (core, port) in ports.into_iter().enumerate() {
            let view = NodeView {
                options: Arc::clone(&options),
                core,
                incarnation,
                rejoining,
                started: clock::now(),
                reports: Arc::clone(&reports),
                seats: Arc::clone(&seats),
                memory: Arc::clone(&memory),
                changes: Arc::clone(&changes),
            };
            let (ready, go) = (ready_sender.clone(), go.clone());
            let (data, failed) = (Arc::clone(&data), Arc::clone(&failed));
            let stop = StopHandle(Arc::clone(&control));
            let addresses = addresses.clone();
            let thread = std::thread::Builder::new().name(format!("panch-core-{core}")).spawn(move || {
                let gates = Gates { ready, go };
                let alarm = Alarm { data, failed, stop };
                let result = run_core(view, port, addresses, &alarm, &gates);
                if let Err(fault) = &result {
                    alarm.raise(fault);
                    let _ = gates.ready.send(false);
                }
                result
            });
            threads.push(thread.map_err(io("cannot start a core's thread"))?);
        }
        drop(ready_sender);
        let is_asked_to_stop = Arc::clone(&options.stop);
        let node = Self { threads, data, control, reports, notes, _look_ups: look_ups, is_asked_to_stop };
        if (0..cores).all(|_| ready.recv() == Ok(true)) {
            node.data.enter()?;
            for _ in 0..cores {
                let _ = go_sender.send(());
            }
            return Ok(node);
        }
        // Those that are ready do not begin.
        drop(go_sender);
        Err(node.wait().err().unwrap_or(NodeFault::Io {
            what: "a core ended before it served",
            error: io::ErrorKind::Other.into(),
        }))
    }

    /// What stops this node.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.control))
    }

    /// What the cores publish.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Waits until the node has ended.
    ///
    /// # Errors
    /// The first fault of a core, if it did not end by request.
    pub fn wait(self) -> Result<(), NodeFault> {
        let mut result = Ok(());
        for thread in self.threads {
            let ended = thread.join().expect("a panic aborts the process");
            if result.is_ok() {
                result = ended;
            }
        }
        // What it writes last is of a life that is not closed.
        drop(self.notes);
        if self.data.has_disk_failed() && self.data.is_left_open() {
            // Other cores have ended beside that one, and had not heard yet what becomes of their logs on that disk.
            self.data.mistrust();
        }
        write_doubt(&self.data, &self.is_asked_to_stop);
        if result.is_ok() {
            self.data.close()?;
        }
        result
    }
}

/// What a core does that ends with a fault.
struct Alarm {
    data: Arc<DataDir>,
    failed: Arc<AtomicBool>,
    stop: StopHandle,
}

impl Alarm {
    /// At once: the other cores are to end, and this process may be killed while this one waits for its disk. What does not succeed here is
    /// tried again when all have ended.
    fn raise(&self, fault: &NodeFault) {
        self.failed.store(true, Ordering::Relaxed);
        self.stop.stop();
        if let NodeFault::Core(CoreFault::Log(failed)) = fault {
            self.data.note_failure(failed);
            let _ = self.data.write_doubt();
        }
    }
}

/// How long a node that was asked to stop tries to write down that its log may lack votes.
const DOUBT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// If votes that counted may be gone, a start that does not know that would vote again, so this process stays to write it down: a disk that
/// was reset comes back. From when it is asked to stop it stays for a while only.
fn write_doubt(data: &DataDir, is_asked_to_stop: &AtomicBool) {
    let mut next_word = std::time::Instant::now();
    let mut asked = None;
    while let Err(error) = data.write_doubt() {
        let now = std::time::Instant::now();
        if is_asked_to_stop.load(Ordering::Relaxed) {
            asked.get_or_insert(now);
        }
        let is_over = asked.is_some_and(|asked| asked + DOUBT_PATIENCE <= now);
        if is_over || next_word <= now {
            next_word = now + DOUBT_PATIENCE;
            let next = if is_over { "before the next start" } else { "if this does not end" };
            say(format_args!(
                "the log could not be written or synced, and it cannot be written down that votes that counted before they were synced \
                 may be lost: {error}. Such a node must not vote again: {next}, empty `data_dir`, and start it with --rejoin"
            ));
        }
        if is_over {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
}

/// The machine stopped or a write failed, and with it went what was written and not synced.
fn say_what_is_lost(options: &NodeOptions) {
    let node = u64::from(options.node.0) + 1;
    if options.members.len() == 1 {
        say(format_args!(
            "node {node} ran with durability = \"periodic\", and was not stopped in order before its machine, or could not write its log: \
             what was acknowledged in the last interval may be lost"
        ));
    } else {
        say(format_args!(
            "node {node} ran with durability = \"periodic\", and was not stopped in order before its machine, or could not write its log: \
             it may have forgotten its last votes, and comes back as a node that has lost its disk. Until all other nodes have answered it serves nothing but stale \
             reads. If another one lost its power at the same time, no node can tell what the two have decided together last"
        ));
    }
}

/// A log in memory begins empty. One on the disk would be given up, and would be out of date if it were used later.
fn refuse_logs(options: &NodeOptions) -> Result<(), NodeFault> {
    for core in 0..options.cpus.len() {
        let path = options.data_dir.join(format!("core-{core}"));
        match CoreDirectory::holds_log(&options.data_dir, core) {
            Ok(false) => {}
            Ok(true) => return Err(NodeFault::LogOnDisk { path }),
            Err(error) => return Err(NodeFault::Directory { path, error }),
        }
    }
    Ok(())
}

/// What a data directory is to say of itself.
pub(crate) fn wanted_identity(options: &NodeOptions) -> Identity {
    Identity {
        cluster: options.cluster,
        node: options.node,
        cores: options.cpus.len(),
        protocols: options.protocols.clone(),
        routing: options.routing.to_string(),
        incarnation: Incarnation(0),
        log: 0,
        rejoining: false,
        installing: false,
        returned_in: Incarnation(0),
        founders: Default::default(),
        life: Life {
            is_unsynced: matches!(options.log.durability, Durability::Periodic { .. }),
            boot: options.boot,
            is_closed: false,
        },
        founding: Founding::default(),
    }
}

/// What one core is made of.
pub(crate) fn core_config(options: &NodeOptions, core: usize, rejoining: bool) -> CoreConfig {
    let (snapshot_log_size, segment_size) = (options.replica.snapshot_log_size, options.log.segment_size);
    CoreConfig {
        me: options.node,
        replica_count: options.members.len(),
        groups: options.groups_of(core),
        replica: options.replica,
        tuning: options.tuning,
        rejoining,
        log_size_max: LogSize { snapshot_log_size, segment_size }.usual_max(),
        // Whoever is slowed down by a larger one can still be filled, and is good for nothing without it.
        snapshot_size_max: memory_size().unwrap_or(u64::MAX),
    }
}

/// Where a core waits for the others before it begins: a start that fails anywhere changes nothing.
struct Gates {
    /// It has opened and listens, or it has failed.
    ready: crossbeam::channel::Sender<bool>,
    /// All have, and that the node runs is written down; closed if it will not.
    go: crossbeam::channel::Receiver<()>,
}

fn run_core(
    view: NodeView,
    port: MeshPort<Parcel>,
    addresses: Addresses,
    alarm: &Alarm,
    gates: &Gates,
) -> Result<(), NodeFault> {
    let placement = match view.options.cpus[view.core] {
        Some(cpu) => Placement::Fixed(cpu),
        None => Placement::Unbound,
    };
    let executor = LocalExecutorBuilder::new(placement)
        .name("panch-core")
        .io_memory(EXECUTOR_MEMORY)
        .make()
        .map_err(|error| NodeFault::Io { what: "cannot start glommio", error: error.into() })?;
    executor.run(async move {
        let mut core = open_core(view, port, addresses, &alarm.data, &alarm.failed)?;
        core.listen()?;
        let _ = gates.ready.send(true);
        if gates.go.recv().is_ok() {
            // The core waits for its disk now, and again when it is dropped, so the alarm comes before.
            let ended = park::run(&mut core).map_err(NodeFault::from);
            let _ = ended.as_ref().inspect_err(|fault| alarm.raise(fault));
            let heard =
                core.hear_out(ended.is_ok()).map_err(|failed| NodeFault::from(CoreFault::from(failed)));
            let _ = heard.as_ref().inspect_err(|fault| alarm.raise(fault));
            // What does not succeed here is tried again when all have ended.
            let _ = alarm.data.write_doubt();
            ended.and(heard)?;
        }
        Ok(())
    })
}

/// Loads snapshots, replays the log, and puts a core together.
fn open_core(
    view: NodeView,
    port: MeshPort<Parcel>,
    addresses: Addresses,
    data: &Arc<DataDir>,
    failed: &Arc<AtomicBool>,
) -> Result<CoreLoop, NodeFault> {
    let options = Arc::clone(&view.options);
    let path = data.path.join(format!("core-{}", view.core));
    let directory_fault = |error| NodeFault::Directory { path: path.clone(), error };
    let directory = CoreDirectory::open(&data.path, view.core).map_err(directory_fault)?;
    let pool = FramePool::new(options.frame_pool_size);
    let mut ring = Ring::new(&RingConfig::default(), port.doorbell().clone())?;
    let hello = Hello {
        cluster: options.cluster,
        node: options.node,
        core_index: view.core as u16,
        core_count: view.cores() as u16,
        fingerprint: options.fingerprint,
        incarnation: view.incarnation,
        directory: data.identity.log,
        founding: data.identity.founding.name,
        life: data.key.life(),
        purpose: if view.rejoining { Purpose::Rejoin } else { Purpose::Stream },
        ..Hello::new(panch_wal::TOLD_VERSION)
    };
    let storage = Storage::start(directory.clone(), options.log.segment_size, port.doorbell().clone())
        .map_err(directory_fault)?;
    let queue_size_max = (options.frame_pool_size / PEER_QUEUE_SHARE).max(PEER_QUEUE_SIZE_MIN);
    let mut out = Outputs {
        core: view.core,
        peers: Peers::new(
            hello,
            addresses,
            options.members.len(),
            queue_size_max,
            Arc::clone(data),
            options.secret.clone(),
        ),
        clients: Clients::new(
            view.core,
            view.cores(),
            Arc::clone(&view.seats),
            Share::new(Arc::clone(&view.memory)).into(),
            ring.send_buffers().clone(),
        ),
        storage,
        replies: (0..view.cores()).map(|_| Replies::default()).collect(),
        changes: Arc::clone(&view.changes),
        loads: Default::default(),
    };
    let memory = options.log.durability == Durability::Memory;
    let mut past = Past::read(&data.path, view.core, &directory, options.replica.hash_seed)?;
    if past.is_before_log() && data.identity.founding.name != 0 && !view.rejoining {
        let groups: Vec<GroupId> = view.groups().into_iter().map(|(group, _)| group).collect();
        if let Some(group) = lacks_state(&groups, |group| past.has_snapshot(group)) {
            return Err(NodeFault::StateMissing { path, group });
        }
    }
    if !memory && past.is_log_lost(view.rejoining) {
        return Err(NodeFault::LogMissing { path, core: view.core });
    }
    if memory {
        directory.note(|_| ()).map_err(directory_fault)?;
    }
    let config = core_config(&options, view.core, view.rejoining);
    let seed = clock::now().0 ^ data.identity.log ^ u64::from(view.incarnation.0) << 32;
    let random = |group: GroupId| random(seed ^ u64::from(group.0) << 48);
    let mut core = past.open(&config, view.incarnation, pool.clone(), random);
    for peer in (0..options.members.len() as u8).map(ReplicaId) {
        core.admits(peer, data.peers.of(peer).life.incarnation, Incarnation(0));
    }
    let mut log = LogIo::default();
    let identity = data.identity.log ^ view.core as u64;
    let now: Instant = clock::now();
    let (wal, last) = if memory || !past.has_log() {
        (Wal::create(options.log.clone(), identity), Lsn(0))
    } else {
        let mut segments = directory.segments();
        let mut recovered = past.replay(&mut segments, identity, &pool, &mut core, &mut out)?;
        let mut existing = std::mem::take(&mut past.segments);
        if past.inventory.is_none() {
            existing.sort_unstable_by_key(|file| file.sequence);
            let noted = directory.note(|inventory| {
                existing.iter().for_each(|file| inventory.add(file.sequence, file.size));
            });
            // With the mark of an earlier version beside it, that waits for the next segment on a full disk. Without any the log must not
            // be used: nobody would miss it if it were lost.
            if !past.has_begun() {
                noted.map_err(directory_fault)?;
            }
        }
        let misfits = recovered.take_misfits(options.log.segment_size);
        directory.discard(&misfits).map_err(directory_fault)?;
        for file in existing.iter().filter(|file| !misfits.contains(&file.sequence)) {
            let segment = LogFile::open(&directory.segment(file.sequence)).map_err(directory_fault)?;
            log.open(file.sequence, ring.add_file(segment));
        }
        let last = recovered.last;
        (Wal::resume(options.log.clone(), recovered), last)
    };
    let start = Start { incarnation: view.incarnation, key: data.key, log_end: last };
    let was_named = |incarnation| data.lives().key(incarnation).is_some();
    out.peers.show(starts::note(&data.path, view.core, start, was_named)?, last);
    // At the first start of a directory there is nothing that others could know better. Notes of starts may be gone, or older than
    // they are made.
    if data.has_run {
        core.await_recognition();
    }
    core.start(now, wal, last, &mut out);
    // Only now: a start that fails changes nothing.
    directory.remove_snapshots(&past.superseded).map_err(directory_fault)?;
    Ok(CoreLoop::new(view, ring, port, pool, core, out, log, hello, Arc::clone(data), Arc::clone(failed)))
}
