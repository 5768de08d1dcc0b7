//! The core loop: one task on one thread that takes in everything that happened, lets the replicas take their turn, and
//! hands everything out in one go.
//!
//! Here is the turn itself and what comes from listeners; the rest is by subject, as parts of [`CoreLoop`]: `clients`,
//! `peers` (streams that other nodes dialled), `mesh` (the other cores), `log` (with snapshots), `stop`.

mod clients;
mod log;
mod mesh;
mod peers;
mod rejoin;
mod stop;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use panch_replica::core::Core;
use panch_ring::clock;
use panch_ring::event::{Event, Token};
use panch_ring::mesh::MeshPort;
use panch_ring::ring::{Ring, SocketId};
use panch_ring::socket::{self, ListenOptions, Liveness};
use panch_wire::frame::FramePool;
use panch_wire::ids::ReplicaId;
use panch_wire::peer::Hello;
use panch_wire::time::{Duration, Instant};

use crate::clients::connection::ConnectionKey;
use crate::clients::groups::divergence;
use crate::complaints::{Complaints, say, tell};
use crate::counters::{CommandCounts, CoreCounters};
use crate::events::{Events, Sight};
use crate::identity::DataDir;
use crate::inbound::InboundStreams;
use crate::log_io::LogIo;
use crate::options::NodeOptions;
use crate::outputs::Outputs;
use crate::peers::PEER_LIVENESS;
use crate::remote::{Backlog, Forwarding, Gathering, Parcel};
use crate::token::{self, Subject};
use crate::view::NodeView;
use rejoin::{Returning, Unrecognised};
use stop::Stopping;

/// A listener that ran out of descriptors tries again after this.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// A port that is in use is tried again after this, so often in all: the kernel gives the ring of a process that was killed up, and
/// with it the port, a moment after the process has ended.
const PORT_RETRY: std::time::Duration = std::time::Duration::from_millis(50);
const PORT_TRIES: u32 = 40;
/// What a core publishes about itself is at most this old while it works.
const REPORT_EVERY: Duration = Duration::from_millis(50);
/// A client that has vanished is noticed within two minutes, so that its descriptor comes back.
const CLIENT_LIVENESS: Liveness = Liveness {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(15),
    probes: 4,
    unacknowledged_max: None,
};

/// Why a core ended.
#[derive(Debug, thiserror::Error)]
pub enum CoreFault {
    /// The log could not be written: the node must stop (protocols D2).
    #[error("{0}")]
    Log(#[from] panch_wal::WriteFailed),
    /// The ring failed.
    #[error("io_uring: {0}")]
    Ring(io::Error),
    /// Another node remembers this one with another data directory, in a later life, or with more of its log.
    #[error(
        "node {by} says that this data directory is not the one that the node ran with before, or an older copy of it, or that a part of its log is lost: votes may be forgotten. Start the node with the right directory; if that is lost, empty `data_dir` and start it with --rejoin"
    )]
    Disowned {
        /// The number of the other node.
        by: u64,
    },
    /// Something else of the operating system.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What happened.
        error: io::Error,
    },
}

/// Bytes of clients that one turn takes in, and one receive more.
const RECEIVED_MAX: usize = 4 << 20;

/// One core, running.
pub(crate) struct CoreLoop {
    pub(crate) view: NodeView,
    pub(crate) ring: Ring,
    pub(crate) port: MeshPort<Parcel>,
    pub(crate) pool: FramePool,
    pub(crate) core: Core,
    pub(crate) out: Outputs,
    pub(crate) log: LogIo,
    pub(crate) hello: Hello,
    /// The node's data directory.
    pub(crate) data: Arc<DataDir>,
    /// Rounds of the thread that writes small files, after which this core has looked whether anybody waited for one.
    pub(crate) notes_seen: u64,
    /// Whether this core is still on the node's way back from the loss of its disk.
    returning: Option<Returning>,
    /// Set by whichever core fails first, so that all stop.
    pub(crate) failed: Arc<AtomicBool>,
    inbound: InboundStreams,
    /// [`PeerMemory::outdatings`](crate::memory::PeerMemory::outdatings), as far as this core has looked.
    outdatings: u64,
    /// [`Reports::shortages`](crate::counters::Reports::shortages), as far as this core has looked.
    shortages: u64,
    /// This start is not taken in by the others yet.
    unrecognised: Option<Unrecognised>,
    /// By core: commands of this core's clients for its groups.
    forwarding: Vec<Forwarding>,
    /// Commands of other cores for this core's groups.
    backlog: Backlog,
    parcels: Vec<(usize, Parcel)>,
    /// Single parcels that found the mesh full.
    unsent: VecDeque<(usize, Parcel)>,
    closing: Vec<ConnectionKey>,
    listen_again: Vec<(Instant, SocketId, Token)>,
    listeners: Vec<SocketId>,
    counters: CoreCounters,
    commands: CommandCounts,
    /// Answers that other cores still have to add to.
    gatherings: Vec<Gathering>,
    complaints: Complaints,
    events: Events,
    reported: Instant,
    memory_checked: Instant,
    /// Bytes of clients in this turn.
    received: usize,
    scratch: Vec<u8>,
    stopping: Option<Stopping>,
    /// Other cores whose clients are owed nothing any more, since the node stops.
    cores_drained: usize,
    pub(crate) stopped: bool,
}

impl CoreLoop {
    #[expect(clippy::too_many_arguments, reason = "the parts are made by the node, one by one")]
    pub(crate) fn new(
        view: NodeView,
        ring: Ring,
        port: MeshPort<Parcel>,
        pool: FramePool,
        core: Core,
        out: Outputs,
        log: LogIo,
        hello: Hello,
        data: Arc<DataDir>,
        failed: Arc<AtomicBool>,
    ) -> Self {
        let cores = view.cores();
        let unrecognised = core.is_unrecognised().then(Unrecognised::default);
        let events = Events::new(view.node(), view.options.members.len(), view.core == 0);
        let returning = view.rejoining.then(|| Returning::new(clock::now()));
        Self {
            view,
            ring,
            port,
            pool,
            core,
            out,
            log,
            hello,
            data,
            notes_seen: 0,
            returning,
            failed,
            inbound: InboundStreams::default(),
            outdatings: 0,
            shortages: 0,
            unrecognised,
            forwarding: (0..cores).map(|_| Forwarding::default()).collect(),
            backlog: Backlog::new(cores),
            parcels: Vec::new(),
            unsent: VecDeque::new(),
            closing: Vec::new(),
            listen_again: Vec::new(),
            listeners: Vec::new(),
            counters: CoreCounters::default(),
            commands: CommandCounts::default(),
            gatherings: Vec::new(),
            complaints: Complaints::default(),
            events,
            reported: Instant(0),
            memory_checked: Instant(0),
            received: 0,
            scratch: Vec::new(),
            stopping: None,
            cores_drained: 0,
            stopped: false,
        }
    }

    /// Opens the listeners: every core listens, the kernel spreads the connections.
    pub(crate) fn listen(&mut self) -> Result<(), CoreFault> {
        let reuse_port = self.view.cores() > 1;
        for (token, listener) in open_listeners(&self.view.options, reuse_port)? {
            let listener = self.ring.add_socket(listener);
            self.ring.accept(listener, token);
            self.listeners.push(listener);
        }
        Ok(())
    }

    /// One turn. True if anything was done, so that the next turn should come at once.
    pub(crate) fn turn(&mut self) -> Result<bool, CoreFault> {
        let mut busy = false;
        self.received = 0;
        // More may come for as long as this goes on; what is given back, sent and said meanwhile waits for the end of the turn.
        while self.received < RECEIVED_MAX
            && let Some(event) = self.ring.next_event()
        {
            busy = true;
            // Read after the event arrived, which may be long after the one before: leases depend on it.
            self.on_event(clock::now(), event)?;
        }
        busy |= self.drain_mesh();
        let now = clock::now();
        while let Some(done) = self.out.storage.next_done() {
            busy = true;
            self.on_done(now, done);
        }
        let rounds = self.data.peers.reminder.rounds();
        if rounds != std::mem::replace(&mut self.notes_seen, rounds) {
            self.retry_greetings(now);
        }
        busy |= self.retry_inbound(now);
        let used_for_inbound = self.pool.used();
        self.maintain(now)?;
        self.core.end_turn(now, &mut self.out);
        if self.has_waiting_requests() && self.retry_stalled(now) {
            busy = true;
            self.core.end_turn(now, &mut self.out);
        }
        let used_for_requests = self.pool.used();
        if self.view.cores() > 1 {
            self.view.reports.set_keys(self.view.core, self.core.key_count());
            self.core
                .value_size_bounds()
                .for_each(|(group, bound)| self.view.reports.set_value_size_bound(group, bound));
        }
        self.consider_return(now);
        self.write_log(now);
        self.start_loads(now);
        self.send_parcels();
        let log_end = self.core.wal().map_or(0, |wal| wal.synced().0);
        self.out.peers.flush(now, &mut self.ring, log_end);
        self.out.clients.flush(now, &mut self.ring);
        self.close_finished(now);
        // Frame memory that came back after somebody had looked for it in vain.
        busy |= self.inbound.has_held() && self.pool.used() < used_for_inbound;
        busy |= self.has_waiting_requests() && self.pool.used() < used_for_requests;
        self.counters.turns += 1;
        if now.since(self.reported) >= REPORT_EVERY {
            self.report(now);
        }
        self.stop_if_done(now);
        self.ring.set_deadline(self.deadline());
        self.ring.submit().map_err(CoreFault::Ring)?;
        Ok(busy)
    }

    /// Whether something waits that the ring does not know of.
    pub(crate) fn is_idle(&self) -> bool {
        self.port.is_empty() && self.out.storage.is_quiet() && self.has_no_note()
    }

    /// Whether nothing was written down that the core has not seen.
    fn has_no_note(&self) -> bool {
        self.data.peers.reminder.rounds() == self.notes_seen
    }

    /// When the next turn is wanted even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let listen = self.listen_again.iter().map(|(at, _, _)| *at).min();
        let stop = self.stopping.as_ref().map(Stopping::deadline);
        let timeout = self.view.options.replica.request_timeout;
        let backlog = self.backlog.first_arrived().map(|arrived| arrived + timeout);
        let waiting = [self.out.clients.deadline(), self.memory_deadline(), backlog];
        let (core, peers, inbound) =
            (self.core.deadline(), self.out.peers.deadline(), self.inbound.deadline());
        [core, peers, inbound, listen, stop].into_iter().chain(waiting).flatten().min()
    }

    /// Publishes what INFO on other cores may ask for.
    pub(crate) fn report(&mut self, now: Instant) {
        self.reported = now;
        self.count();
        self.inbound.tell(&self.data.peers);
        let mut report = self.view.reports.core(self.view.core);
        report.counters = self.counters;
        report.groups.clear();
        report.groups.extend(self.core.status());
        report.latencies.clone_from(self.core.latencies());
        report.commands.clone_from(&self.commands);
        drop(report);
        self.view.reports.set_data_size(self.view.core, self.core.data_size());
        if self.out.clients.share().has_come_back() {
            (self.view.options.release_memory)();
        }
        if self.view.core == 0
            && let Some(text) = self.data.peers.reminder.complaint()
        {
            say(format_args!("node {}: {text}", u64::from(self.view.node().0) + 1));
        }
        self.complain_of_divergence(now);
        self.tell_events(now);
    }

    /// Tells what has happened since the last time.
    fn tell_events(&mut self, now: Instant) {
        let lacks_segment = self.core.wal().is_some_and(|wal| wal.is_full());
        let is_data_full = self.view.is_data_full();
        let node = u64::from(self.view.node().0) + 1;
        let (core, peers) = (&self.core, &self.out.peers);
        let reaches = |id| peers.is_up(id);
        let sight = Sight { groups: &mut core.status(), reaches: &reaches, lacks_segment, is_data_full };
        self.events.look(now, sight, &mut |level, text| tell(level, format_args!("node {node}: {text}")));
    }

    /// Says, at a bounded rate, whose data differ from whose.
    fn complain_of_divergence(&mut self, now: Instant) {
        for status in self.core.status() {
            if let Some(text) = divergence(&self.view, &status) {
                self.complaints.print(now, "diverged", None, format_args!("{text}"));
            }
        }
    }

    /// Notes that the core sleeps.
    pub(crate) fn parked(&mut self) {
        self.counters.parks += 1;
    }

    /// Brings the counters up to date that are kept elsewhere: a handful of copies.
    fn count(&mut self) {
        let ring = self.ring.counters();
        self.counters.ring_enters = ring.enters;
        self.counters.packets = self.out.peers.packets;
        self.counters.peer_bytes = self.out.peers.bytes;
        self.counters.dropped_messages = self.out.peers.dropped;
        self.counters.log_writes = self.log.write_count;
        self.counters.log_bytes = self.log.write_bytes;
        self.counters.connections = self.out.clients.count() as u64;
        self.counters.connections_waiting = self.out.clients.waiting_count() as u64;
        self.counters.frames_used = self.pool.used() as u64;
        self.counters.peers_down = self.out.peers.down();
        self.counters.disk_full = u64::from(self.core.wal().is_some_and(|wal| wal.is_full()));
        if self.view.core == 0 {
            self.counters.peer_memory_writes = self.data.peers.writes();
            self.counters.note_trouble_ms = self.data.peers.reminder.trouble().as_millis() as u64;
        }
    }

    fn on_event(&mut self, now: Instant, event: Event) -> Result<(), CoreFault> {
        match event {
            Event::Accepted { token, stream } => self.on_accepted(now, token, stream),
            Event::AcceptFailed { token, error } => self.on_accept_failed(now, token, &error),
            Event::Received { token, bytes } => match token::subject(token) {
                Subject::Client(key) => self.on_client_bytes(now, key, &bytes),
                Subject::PeerIn(place) => self.on_peer_bytes(now, place, &bytes),
                Subject::PeerOut(peer) => {
                    let event = self.out.peers.received(now, ReplicaId(peer), &bytes, &mut self.ring);
                    self.on_peer_event(now, event)?;
                }
                _ => {}
            },
            Event::ReceiveEnded { token, .. } => match token::subject(token) {
                Subject::Client(key) => self.on_client_ended(key),
                Subject::PeerIn(place) => self.close_inbound(place),
                Subject::PeerOut(peer) => {
                    let event = self.out.peers.ended(now, ReplicaId(peer), &mut self.ring);
                    self.on_peer_event(now, event)?;
                }
                _ => {}
            },
            Event::Sent { token, result } => match token::subject(token) {
                Subject::Client(key) => self.on_client_sent(now, key, result),
                Subject::PeerIn(place) if result.is_err() => self.close_inbound(place),
                Subject::PeerOut(peer) => {
                    let event = self.out.peers.sent(now, ReplicaId(peer), result, &mut self.ring);
                    self.on_peer_event(now, event)?;
                }
                _ => {}
            },
            Event::Connected { token, result } => {
                if let Subject::PeerOut(peer) = token::subject(token) {
                    let event = self.out.peers.connected(now, ReplicaId(peer), result, &mut self.ring);
                    self.on_peer_event(now, event)?;
                }
            }
            Event::Written { token, result, parts } => {
                if let Subject::LogWrite(place) = token::subject(token) {
                    let write = self.log.written(place, parts);
                    self.core.log_written(now, write, result, &mut self.out)?;
                }
            }
            Event::Synced { token, result } => {
                if let Subject::LogSync(place) = token::subject(token) {
                    let sync = self.log.synced(place);
                    self.core.log_synced(now, sync, result, &mut self.out)?;
                }
            }
            Event::Read { token, result, buffer } => {
                if let Subject::Load(place) = token::subject(token) {
                    self.on_loaded(now, place, result, buffer);
                }
            }
            Event::Closed { token } => {
                if let Subject::HandedOver(place) = token::subject(token) {
                    self.on_released(place);
                }
            }
            Event::Deadline => {}
        }
        Ok(())
    }

    fn on_accepted(&mut self, now: Instant, token: Token, stream: OwnedFd) {
        let address = socket::peer_address(&stream).ok();
        match token::subject(token) {
            Subject::ListenPeer => self.on_peer_accepted(now, stream, address),
            subject => self.on_client_accepted(now, subject, stream, address),
        }
    }

    fn on_accept_failed(&mut self, now: Instant, token: Token, error: &io::Error) {
        let index = match token::subject(token) {
            Subject::ListenPeer => 0,
            Subject::ListenResp => 1,
            _ => 2,
        };
        self.complaints.print(
            now,
            "accept",
            None,
            format_args!(
                "cannot accept connections for now: {error} (raise the open files limit: LimitNOFILE= or ulimit -n)"
            ),
        );
        if let Some(listener) = self.listeners.get(index) {
            self.listen_again.push((now + ACCEPT_RETRY, *listener, token));
        }
    }

    /// What has to be done because time has passed.
    fn maintain(&mut self, now: Instant) -> Result<(), CoreFault> {
        let mut events = Vec::new();
        self.out.peers.maintain(now, &mut self.ring, |event| events.push(event));
        for event in events {
            self.on_peer_event(now, Some(event))?;
        }
        self.close_outdated();
        self.consider_recognition(now);
        self.give_up_strangers(now);
        let ring = &mut self.ring;
        self.listen_again.retain(|(at, listener, token)| {
            let due = *at <= now;
            if due {
                ring.accept(*listener, *token);
            }
            !due
        });
        Ok(())
    }
}

/// Opens a node's listeners, for one core or, sharing the ports, for one of several.
fn open_listeners(options: &NodeOptions, reuse_port: bool) -> Result<[(Token, OwnedFd); 3], CoreFault> {
    let clients = |address, what| open_listener(address, what, CLIENT_LIVENESS, reuse_port);
    Ok([
        (token::LISTEN_PEER, open_listener(options.peer_listen, "nodes", PEER_LIVENESS, reuse_port)?),
        (token::LISTEN_RESP, clients(options.resp_listen, "Redis clients")?),
        (token::LISTEN_NATIVE, clients(options.native_listen, "native clients")?),
    ])
}

fn open_listener(
    address: SocketAddr,
    what: &str,
    liveness: Liveness,
    reuse_port: bool,
) -> Result<OwnedFd, CoreFault> {
    let options = ListenOptions { reuse_port, liveness: Some(liveness), ..ListenOptions::default() };
    listen_patiently(address, options)
        .map_err(|error| CoreFault::Io { what: format!("cannot listen for {what} on {address}"), error })
}

/// Waits for a port that is in use, for a while.
fn listen_patiently(address: SocketAddr, options: ListenOptions) -> io::Result<OwnedFd> {
    let mut tries = PORT_TRIES;
    loop {
        tries -= 1;
        match socket::listen(address, options) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            result => return result,
        }
        std::thread::sleep(PORT_RETRY);
    }
}

/// Whether somebody could listen on the port alone. Waits for a while for one that is in use: whoever has it may be about to end.
///
/// # Errors
/// If not.
pub fn check_port(address: SocketAddr) -> io::Result<()> {
    listen_patiently(address, ListenOptions::default()).map(drop)
}

/// A listener for other nodes, for the time before the cores run. All ports must be free.
pub(crate) fn listen_before_start(options: &NodeOptions) -> Result<OwnedFd, CoreFault> {
    check_ports(options)?;
    open_listener(options.peer_listen, "nodes", PEER_LIVENESS, false)
}

/// Whether the node's ports are free. Listeners that share ports among cores would share them with another process, too.
pub(crate) fn check_ports(options: &NodeOptions) -> Result<(), CoreFault> {
    open_listeners(options, false).map(drop)
}
