//! The core loop: one task on one thread that takes in everything that happened, lets the replicas take their turn, and
//! hands everything out in one go.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use panch_consensus::multi::Multi;
use panch_replica::core::Core;
use panch_ring::clock;
use panch_ring::event::{Event, Token};
use panch_ring::mesh::MeshPort;
use panch_ring::parts::ReadBuffer;
use panch_ring::ring::{Ring, SocketId};
use panch_ring::socket::{self, ListenOptions};
use panch_wire::batch::BatchView;
use panch_wire::frame::FramePool;
use panch_wire::ids::{Incarnation, ReplicaId};
use panch_wire::peer::{Hello, Next, PacketReader};
use panch_wire::time::{Duration, Instant};

use crate::clients::connection::{Connection, ConnectionKey, NativeSpeech, Speech};
use crate::clients::describe::Neighbours;
use crate::clients::{Counter, Stop, native, resp};
use crate::counters::CoreCounters;
use crate::log_io::{LogIo, Places};
use crate::outputs::Outputs;
use crate::peers::{self, Greeting, Inbound, InboundState, PeerEvent};
use crate::remote::{self, Parcel, PeerMessage};
use crate::storage::{Done, Job};
use crate::token::{self, Subject};
use crate::view::NodeView;

/// Bytes of unconsumed requests at which no more is received from a client.
const INPUT_SIZE_MAX: usize = 256 << 10;
/// A listener that ran out of descriptors tries again after this.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// What a core publishes about itself is at most this old while it works.
const REPORT_EVERY: Duration = Duration::from_millis(50);
/// An orderly stop takes at most this long to write what is pending.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Why a core ended.
#[derive(Debug, thiserror::Error)]
pub enum CoreFault {
    /// The log could not be written: the node must stop (protocols D2).
    #[error("{0}")]
    Log(#[from] panch_wal::WriteFailed),
    /// The ring failed.
    #[error("io_uring: {0}")]
    Ring(io::Error),
    /// Something else of the operating system.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What happened.
        error: io::Error,
    },
}

/// One core, running.
pub(crate) struct CoreLoop {
    pub(crate) view: NodeView,
    pub(crate) ring: Ring,
    pub(crate) port: MeshPort<Parcel>,
    pub(crate) pool: FramePool,
    pub(crate) core: Core<Multi>,
    pub(crate) out: Outputs,
    pub(crate) log: LogIo,
    pub(crate) hello: Hello,
    /// Set by whichever core fails first, so that all stop.
    pub(crate) failed: Arc<AtomicBool>,
    inbound: Places<Inbound>,
    requests: Vec<Vec<u8>>,
    /// Requests of other cores that found no room: from which core, the parcel, and where to go on.
    backlog: Vec<(Vec<u8>, usize)>,
    parcels: Vec<(usize, Parcel)>,
    closing: Vec<ConnectionKey>,
    listen_again: Vec<(Instant, SocketId, Token)>,
    listeners: Vec<SocketId>,
    counters: CoreCounters,
    reported: Instant,
    scratch: Vec<u8>,
    stopping: Option<Instant>,
    pub(crate) stopped: bool,
    write_failed: Option<CoreFault>,
}

impl CoreLoop {
    #[expect(clippy::too_many_arguments, reason = "the parts are made by the node, one by one")]
    pub(crate) fn new(
        view: NodeView,
        ring: Ring,
        port: MeshPort<Parcel>,
        pool: FramePool,
        core: Core<Multi>,
        out: Outputs,
        log: LogIo,
        hello: Hello,
        failed: Arc<AtomicBool>,
    ) -> Self {
        let cores = view.cores();
        Self {
            view,
            ring,
            port,
            pool,
            core,
            out,
            log,
            hello,
            failed,
            inbound: Places::default(),
            requests: vec![Vec::new(); cores],
            backlog: Vec::new(),
            parcels: Vec::new(),
            closing: Vec::new(),
            listen_again: Vec::new(),
            listeners: Vec::new(),
            counters: CoreCounters::default(),
            reported: Instant(0),
            scratch: Vec::new(),
            stopping: None,
            stopped: false,
            write_failed: None,
        }
    }

    /// Opens the listeners: every core listens, the kernel spreads the connections.
    pub(crate) fn listen(&mut self) -> Result<(), CoreFault> {
        let options = Arc::clone(&self.view.options);
        let shared = ListenOptions { reuse_port: self.view.cores() > 1, ..ListenOptions::default() };
        for (address, what, token) in [
            (options.peer_listen, "nodes", token::LISTEN_PEER),
            (options.resp_listen, "Redis clients", token::LISTEN_RESP),
            (options.native_listen, "native clients", token::LISTEN_NATIVE),
        ] {
            let listener = socket::listen(address, shared).map_err(|error| CoreFault::Io {
                what: format!("cannot listen for {what} on {address}"),
                error,
            })?;
            let listener = self.ring.add_socket(listener);
            self.ring.accept(listener, token);
            self.listeners.push(listener);
        }
        Ok(())
    }

    /// One turn. True if anything was done, so that the next turn should come at once.
    pub(crate) fn turn(&mut self) -> Result<bool, CoreFault> {
        let now = clock::now();
        let mut busy = false;
        while let Some(event) = self.ring.next_event() {
            busy = true;
            self.on_event(now, event)?;
        }
        busy |= self.drain_mesh(now);
        while let Some(done) = self.out.storage.next_done() {
            busy = true;
            self.on_done(now, done);
        }
        busy |= self.retry_inbound(now);
        self.maintain(now);
        self.core.end_turn(now, &mut self.out);
        if (self.out.clients.has_stalled() || !self.backlog.is_empty()) && self.retry_stalled(now) {
            busy = true;
            self.core.end_turn(now, &mut self.out);
        }
        self.write_log(now);
        self.start_loads(now);
        self.send_parcels();
        self.out.peers.flush(&mut self.ring);
        self.out.clients.flush(&mut self.ring);
        self.close_finished();
        self.counters.turns += 1;
        if now.since(self.reported) >= REPORT_EVERY {
            self.report(now);
        }
        self.ring.set_deadline(self.deadline());
        self.ring.submit().map_err(CoreFault::Ring)?;
        if let Some(fault) = self.write_failed.take() {
            return Err(fault);
        }
        self.stop_if_done(now);
        Ok(busy)
    }

    /// Whether something waits that the ring does not know of.
    pub(crate) fn is_idle(&self) -> bool {
        self.port.is_empty() && self.out.storage.is_quiet()
    }

    /// When the next turn is wanted even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let listen = self.listen_again.iter().map(|(at, _, _)| *at).min();
        let stop = self.stopping.map(|since| since + STOP_PATIENCE);
        [self.core.deadline(), self.out.peers.deadline(), listen, stop].into_iter().flatten().min()
    }

    /// Publishes what INFO on other cores may ask for.
    pub(crate) fn report(&mut self, now: Instant) {
        self.reported = now;
        self.count();
        let mut report = self.view.reports.core(self.view.core);
        report.counters = self.counters;
        report.groups.clear();
        report.groups.extend(self.core.status());
    }

    /// Notes that the core sleeps.
    pub(crate) fn parked(&mut self) {
        self.counters.parks += 1;
    }

    fn count(&mut self) {
        let ring = self.ring.counters();
        self.counters.ring_enters = ring.enters;
        self.counters.packets = self.out.peers.packets;
        self.counters.peer_bytes = self.out.peers.bytes;
        self.counters.dropped_messages = self.out.peers.dropped;
        self.counters.log_writes = self.log.write_count;
        self.counters.log_bytes = self.log.write_bytes;
        self.counters.connections = self.out.clients.count() as u64;
        self.counters.frames_used = self.pool.used() as u64;
    }

    fn on_event(&mut self, now: Instant, event: Event) -> Result<(), CoreFault> {
        match event {
            Event::Accepted { token, stream } => self.on_accepted(now, token, stream),
            Event::AcceptFailed { token, error } => self.on_accept_failed(now, token, &error),
            Event::Received { token, bytes } => match token::subject(token) {
                Subject::Client(key) => self.on_client_bytes(now, key, &bytes),
                Subject::PeerIn(place) => self.on_peer_bytes(now, place, &bytes),
                Subject::PeerOut(peer) => {
                    let id = ReplicaId(peer);
                    let event = self.out.peers.received(now, id, &bytes, &mut self.ring);
                    self.on_peer_event(now, event);
                }
                _ => {}
            },
            Event::ReceiveEnded { token, .. } => match token::subject(token) {
                Subject::Client(key) => self.on_client_ended(key),
                Subject::PeerIn(place) => self.close_inbound(place),
                Subject::PeerOut(peer) => {
                    let event = self.out.peers.ended(now, ReplicaId(peer), &mut self.ring);
                    self.on_peer_event(now, event);
                }
                _ => {}
            },
            Event::Sent { token, result } => match token::subject(token) {
                Subject::Client(key) => self.on_client_sent(key, result),
                Subject::PeerOut(peer) => {
                    let event = self.out.peers.sent(now, ReplicaId(peer), result, &mut self.ring);
                    self.on_peer_event(now, event);
                }
                _ => {}
            },
            Event::Connected { token, result } => {
                if let Subject::PeerOut(peer) = token::subject(token) {
                    let event = self.out.peers.connected(now, ReplicaId(peer), result, &mut self.ring);
                    self.on_peer_event(now, event);
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
            Event::Closed { .. } | Event::Deadline => {}
        }
        Ok(())
    }

    // Listening.

    fn on_accepted(&mut self, now: Instant, token: Token, stream: std::os::fd::OwnedFd) {
        let subject = token::subject(token);
        if subject == Subject::ListenPeer {
            let socket = self.ring.add_socket(stream);
            let state = InboundState::Greeting(Vec::new());
            let place = self.inbound.add(Inbound { socket, state, held: Vec::new() });
            self.ring.receive(socket, token::peer_in(place));
            return;
        }
        if self.out.clients.is_full() || self.stopping.is_some() {
            self.counters.connections_refused += 1;
            return; // dropping the stream closes it
        }
        self.counters.connections_accepted += 1;
        let address: Option<SocketAddr> = socket::peer_address(&stream).ok();
        let socket = self.ring.add_socket(stream);
        let speech = if subject == Subject::ListenResp {
            resp::speech(self.view.options.replica.machine.value_size_max)
        } else {
            Speech::Native(NativeSpeech { terms: None, outstanding: 0 })
        };
        let key = self.out.clients.add(now, socket, address, speech);
        self.ring.receive(socket, token::client(key));
    }

    fn on_accept_failed(&mut self, now: Instant, token: Token, error: &io::Error) {
        let index = match token::subject(token) {
            Subject::ListenPeer => 0,
            Subject::ListenResp => 1,
            _ => 2,
        };
        eprintln!(
            "panchd: cannot accept connections for now: {error} (raise the open files limit: LimitNOFILE= or ulimit -n)"
        );
        self.listen_again.push((now + ACCEPT_RETRY, self.listeners[index], token));
    }

    fn maintain(&mut self, now: Instant) {
        let mut events = Vec::new();
        self.out.peers.maintain(now, &mut self.ring, |event| events.push(event));
        for event in events {
            self.on_peer_event(now, Some(event));
        }
        let ring = &mut self.ring;
        self.listen_again.retain(|(at, listener, token)| {
            let due = *at <= now;
            if due {
                ring.accept(*listener, *token);
            }
            !due
        });
    }

    // Clients.

    fn on_client_bytes(&mut self, now: Instant, key: ConnectionKey, bytes: &[u8]) {
        let Some(mut connection) = self.out.clients.take(key) else { return };
        if connection.closing {
            // Whatever follows a protocol error or QUIT is not looked at.
        } else if connection.input.is_empty() && !connection.stalled {
            let (used, stop) = self.consume(now, &mut connection, bytes);
            connection.input.extend_from_slice(&bytes[used..]);
            self.stop_consuming(&mut connection, stop);
        } else {
            connection.input.extend_from_slice(bytes);
            if !connection.stalled {
                self.consume_input(now, &mut connection);
            }
        }
        if connection.stalled && connection.input.len() > INPUT_SIZE_MAX && !connection.paused {
            connection.paused = true;
            self.ring.pause_receive(connection.socket);
        }
        self.out.clients.put_back(connection);
    }

    /// Consumes what the connection has gathered; true if anything was.
    fn consume_input(&mut self, now: Instant, connection: &mut Connection) -> bool {
        let mut input = std::mem::take(&mut connection.input);
        let (used, stop) = self.consume(now, connection, &input);
        input.drain(..used);
        if input.is_empty() && input.capacity() > INPUT_SIZE_MAX {
            input = Vec::new();
        }
        connection.input = input;
        self.stop_consuming(connection, stop);
        used > 0
    }

    fn consume(&mut self, now: Instant, connection: &mut Connection, input: &[u8]) -> (usize, Stop) {
        let room = self.view.options.output_size_max;
        // INFO shows this core as of now; a handful of copies per received chunk.
        self.count();
        let counters = self.counters;
        let mut counter = Counter {
            now,
            core: &mut self.core,
            view: &self.view,
            parcels: &mut self.requests,
            requests: &mut self.counters.requests,
        };
        match connection.speech {
            Speech::Resp(_) => {
                let neighbours = Neighbours { clients: &self.out.clients, counters: &counters };
                resp::consume(connection, input, room, &mut counter, &neighbours, &mut self.scratch)
            }
            Speech::Native(_) => native::consume(connection, input, room, &mut counter),
        }
    }

    fn stop_consuming(&mut self, connection: &mut Connection, stop: Stop) {
        match stop {
            Stop::NeedBytes => {}
            Stop::Stalled => self.out.clients.stall(connection),
            Stop::Close(fault) => {
                self.counters.client_faults += u64::from(fault);
                connection.input = Vec::new();
                self.begin_close(connection);
            }
        }
    }

    fn begin_close(&mut self, connection: &mut Connection) {
        if !connection.closing {
            connection.closing = true;
            self.closing.push(connection.key);
        }
    }

    fn on_client_ended(&mut self, key: ConnectionKey) {
        let Some(mut connection) = self.out.clients.take(key) else { return };
        connection.ended = true;
        if !connection.stalled {
            self.begin_close(&mut connection);
        }
        self.out.clients.put_back(connection);
    }

    fn on_client_sent(&mut self, key: ConnectionKey, result: io::Result<()>) {
        if result.is_err() {
            self.close_client(key);
        } else {
            self.out.clients.sent(key);
        }
    }

    fn close_client(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.out.clients.remove(key) {
            self.ring.close_socket(connection.socket, Token(token::IGNORED));
        }
    }

    /// Tries connections that waited for room again; true if any got further.
    fn retry_stalled(&mut self, now: Instant) -> bool {
        let mut progressed = self.drain_backlog(now);
        let stalled = self.out.clients.take_stalled();
        for key in &stalled {
            let Some(mut connection) = self.out.clients.take(*key) else { continue };
            connection.stalled = false;
            if !connection.closing {
                progressed |= self.consume_input(now, &mut connection);
            }
            if !connection.stalled {
                if connection.ended {
                    self.begin_close(&mut connection);
                } else if connection.paused {
                    connection.paused = false;
                    self.ring.receive(connection.socket, token::client(connection.key));
                }
            }
            self.out.clients.put_back(connection);
        }
        self.out.clients.recycle_stalled(stalled);
        progressed
    }

    /// Closes connections that asked for it and are owed nothing more.
    fn close_finished(&mut self) {
        let mut closing = std::mem::take(&mut self.closing);
        closing.retain(|key| {
            let Some(connection) = self.out.clients.find(*key) else { return false };
            let owed = connection.outstanding() > 0 || connection.sending || !connection.output.is_empty();
            if !owed {
                self.close_client(*key);
            }
            owed
        });
        self.closing.append(&mut closing);
    }

    // Peers.

    fn on_peer_event(&mut self, now: Instant, event: Option<PeerEvent>) {
        match event {
            Some(PeerEvent::Up(id, incarnation)) => {
                self.core.admits(id, incarnation, Incarnation(0));
            }
            Some(PeerEvent::Down(id)) => self.core.suspect(now, id, &mut self.out),
            None => {}
        }
    }

    fn on_peer_bytes(&mut self, now: Instant, place: usize, bytes: &[u8]) {
        let Some(inbound) = self.inbound.get_mut(place) else { return };
        if !inbound.held.is_empty() {
            inbound.held.extend_from_slice(bytes);
            return;
        }
        match &mut inbound.state {
            InboundState::Up { .. } => {
                let used = self.deliver(now, place, bytes);
                if used < bytes.len()
                    && let Some(inbound) = self.inbound.get_mut(place)
                {
                    inbound.held.extend_from_slice(&bytes[used..]);
                    self.ring.pause_receive(inbound.socket);
                }
            }
            InboundState::Greeting(early) => {
                early.extend_from_slice(bytes);
                self.greet(place);
            }
        }
    }

    fn greet(&mut self, place: usize) {
        let Some(inbound) = self.inbound.get_mut(place) else { return };
        let InboundState::Greeting(early) = &mut inbound.state else { return };
        let mut answer = self.ring.send_buffers().take();
        let members = self.view.options.members.len() as u8;
        let core = &self.core;
        match peers::greet(early, &self.hello, members, |id| core.peer_incarnation(id), &mut answer) {
            Greeting::Incomplete => {}
            Greeting::Accepted(hello) => {
                let socket = inbound.socket;
                let owner = usize::from(hello.core_index) % self.view.cores();
                if owner != self.view.core
                    && usize::from(hello.core_count) == self.view.cores()
                    && self.hand_over(owner, socket, hello)
                {
                    self.inbound.take(place);
                    return;
                }
                self.begin_stream(place, socket, hello, answer);
            }
            Greeting::Refused(reason) => {
                eprintln!("panchd: {reason}");
                self.counters.peer_faults += 1;
                let socket = inbound.socket;
                self.answer(socket, answer, place);
                self.ring.finish_sending(socket);
                self.ring.pause_receive(socket);
            }
            Greeting::Fault => {
                self.counters.peer_faults += 1;
                self.close_inbound(place);
            }
        }
    }

    /// Packets of `hello.node` flow on this stream from now on.
    fn begin_stream(&mut self, place: usize, socket: SocketId, hello: Hello, answer: Vec<u8>) {
        if let Some(inbound) = self.inbound.get_mut(place) {
            inbound.state = InboundState::Up { from: hello.node, reader: PacketReader::new() };
        }
        self.core.admits(hello.node, hello.incarnation, Incarnation(0));
        self.answer(socket, answer, place);
    }

    /// Gives a stream to the core that runs its groups; false if that core cannot take it now.
    fn hand_over(&mut self, core: usize, socket: SocketId, hello: Hello) -> bool {
        let stream = self.ring.socket_fd(socket).and_then(|fd| fd.try_clone_to_owned().ok());
        let Some(stream) = stream else { return false };
        if self.port.send(core, Parcel::PeerStream { stream, hello }).is_err() {
            return false;
        }
        self.ring.release_socket(socket, Token(token::IGNORED));
        true
    }

    /// Takes over a stream that another core accepted.
    fn adopt(&mut self, stream: std::os::fd::OwnedFd, hello: Hello) {
        let socket = self.ring.add_socket(stream);
        let state = InboundState::Greeting(Vec::new());
        let place = self.inbound.add(Inbound { socket, state, held: Vec::new() });
        let mut answer = self.ring.send_buffers().take();
        peers::accept(&self.hello, &mut answer);
        self.begin_stream(place, socket, hello, answer);
        self.ring.receive(socket, token::peer_in(place));
    }

    fn answer(&mut self, socket: SocketId, bytes: Vec<u8>, place: usize) {
        let mut list = panch_ring::parts::SendList::new();
        list.push_bytes(bytes);
        self.ring.send(socket, &mut list, token::peer_in(place));
    }

    /// Takes in packets; returns how many bytes were used: fewer than given if frame memory ran out.
    fn deliver(&mut self, now: Instant, place: usize, bytes: &[u8]) -> usize {
        let Some(inbound) = self.inbound.get_mut(place) else { return bytes.len() };
        let InboundState::Up { from, reader } = &mut inbound.state else { return bytes.len() };
        let from = *from;
        let mut rest = bytes;
        let fault = loop {
            let message = match reader.next(&mut rest, &self.pool) {
                Ok(Next::Message(message)) => message,
                Ok(Next::NeedBytes) => return bytes.len(),
                Ok(Next::PoolExhausted) => return bytes.len() - rest.len(),
                Err(fault) => break fault.to_string(),
            };
            let (sender, receiver) = (message.incarnations.sender, message.incarnations.receiver);
            if !self.core.admits(from, sender, receiver) {
                continue;
            }
            let group = message.group;
            if group.0 >= self.view.options.groups {
                break "a message for a group that does not exist".to_string();
            }
            let core = self.view.core_of(group);
            if core != self.view.core {
                let parcel = Parcel::PeerMessage(Box::new(PeerMessage {
                    from,
                    sender,
                    receiver,
                    group,
                    kind: message.kind,
                    message: message.message.to_vec(),
                    body: message.body.map(|frame| frame.bytes().to_vec()),
                }));
                // A full mesh drops it, like a network would.
                let _ = self.port.send(core, parcel);
                continue;
            }
            let (kind, body) = (message.kind, message.body);
            let delivered = self.core.deliver(now, from, group, kind, message.message, body, &mut self.out);
            if let Err(fault) = delivered {
                break fault.to_string();
            }
        };
        eprintln!("panchd: closing the stream of node {}: {fault}", u64::from(from.0) + 1);
        self.counters.peer_faults += 1;
        self.close_inbound(place);
        bytes.len()
    }

    /// Goes on with streams that waited for frame memory; true if any got further.
    fn retry_inbound(&mut self, now: Instant) -> bool {
        let mut progressed = false;
        for place in 0..self.inbound.len() {
            let Some(inbound) = self.inbound.get_mut(place).filter(|it| !it.held.is_empty()) else {
                continue;
            };
            let mut held = std::mem::take(&mut inbound.held);
            let used = self.deliver(now, place, &held);
            progressed |= used > 0;
            held.drain(..used);
            let Some(inbound) = self.inbound.get_mut(place) else { continue };
            if held.is_empty() {
                self.ring.receive(inbound.socket, token::peer_in(place));
            }
            inbound.held = held;
        }
        progressed
    }

    fn close_inbound(&mut self, place: usize) {
        if let Some(inbound) = self.inbound.take(place) {
            self.ring.close_socket(inbound.socket, Token(token::IGNORED));
        }
    }

    // Other cores.

    fn drain_mesh(&mut self, now: Instant) -> bool {
        let mut parcels = std::mem::take(&mut self.parcels);
        self.port.drain(|from, parcel| parcels.push((from, parcel)));
        let busy = !parcels.is_empty();
        for (_, parcel) in parcels.drain(..) {
            match parcel {
                Parcel::Requests(bytes) => self.backlog.push((bytes, 0)),
                Parcel::Replies(bytes) => {
                    let mut at = 0;
                    while let Some((to, reply, next)) = remote::reply_at(&bytes, at) {
                        self.out.clients.reply(to, reply);
                        at = next;
                    }
                }
                Parcel::PeerStream { stream, hello } => self.adopt(stream, hello),
                Parcel::PeerMessage(message) => self.on_forwarded(now, *message),
                Parcel::Stop => self.begin_stop(now),
            }
        }
        self.parcels = parcels;
        if !self.backlog.is_empty() {
            self.drain_backlog(now);
        }
        busy
    }

    /// Submits commands of other cores until there is no room; true if any was submitted.
    fn drain_backlog(&mut self, now: Instant) -> bool {
        let mut progressed = false;
        let mut full = false;
        let core = &mut self.core;
        let out = &mut self.out;
        self.backlog.retain_mut(|(bytes, at)| {
            while !full && let Some((request, next)) = remote::request_at(bytes, *at) {
                match core.submit(now, request.group, &request.command, request.level, request.token) {
                    Ok(()) => {}
                    Err(panch_replica::batcher::Refusal::Busy) => {
                        full = true;
                        break;
                    }
                    Err(panch_replica::batcher::Refusal::TooLarge) => {
                        use panch_replica::core::Outbox;
                        let error = panch_wire::command::CommandError::TooLarge;
                        out.reply(request.token, panch_wire::command::Reply::Error(error));
                    }
                }
                progressed = true;
                *at = next;
            }
            *at < bytes.len()
        });
        progressed
    }

    fn on_forwarded(&mut self, now: Instant, message: PeerMessage) {
        if !self.core.admits(message.from, message.sender, message.receiver) {
            return;
        }
        let body = match message.body {
            None => None,
            Some(bytes) => {
                let Some(mut memory) = self.pool.take(bytes.len()) else { return };
                memory[..bytes.len()].copy_from_slice(&bytes);
                match memory.receive(bytes.len()) {
                    Ok(frame) => Some(frame),
                    Err(_) => return,
                }
            }
        };
        let PeerMessage { from, group, kind, message, .. } = message;
        if self.core.deliver(now, from, group, kind, &message, body, &mut self.out).is_err() {
            self.counters.peer_faults += 1;
        }
    }

    fn send_parcels(&mut self) {
        for core in 0..self.view.cores() {
            // A full queue keeps the parcel here, where more gathers; the clients behind it wait.
            if !self.requests[core].is_empty() {
                let parcel = std::mem::take(&mut self.requests[core]);
                if let Err(Parcel::Requests(parcel)) = self.port.send(core, Parcel::Requests(parcel)) {
                    self.requests[core] = parcel;
                }
            }
            if !self.out.replies[core].is_empty() {
                let parcel = std::mem::take(&mut self.out.replies[core]);
                if let Err(Parcel::Replies(parcel)) = self.port.send(core, Parcel::Replies(parcel)) {
                    self.out.replies[core] = parcel;
                }
            }
        }
    }

    /// Whether parcels wait for room in the mesh.
    pub(crate) fn has_unsent_parcels(&self) -> bool {
        self.requests.iter().chain(&self.out.replies).any(|parcel| !parcel.is_empty())
    }

    // The log.

    fn write_log(&mut self, now: Instant) {
        while let Some(write) = self.core.next_write(now, &mut self.out) {
            self.log.write(&mut self.ring, write);
        }
        let Some(wal) = self.core.wal() else { return };
        while let Some(sync) = wal.next_sync(now) {
            self.log.sync(&mut self.ring, sync);
        }
        while let Some(preparation) = wal.wants_segment(now) {
            if let Some(recycled) = preparation.recycle {
                self.log.close(recycled, &mut self.ring);
            }
            self.out.storage.submit(Job::Prepare(preparation));
        }
        while let Some(sequence) = wal.take_surplus() {
            self.log.close(sequence, &mut self.ring);
            self.out.storage.submit(Job::Delete(sequence));
        }
    }

    fn on_done(&mut self, now: Instant, done: Done) {
        match done {
            Done::Prepared { sequence, result } => {
                let Some(wal) = self.core.wal() else { return };
                match result {
                    Ok(file) => {
                        wal.segment_ready(sequence);
                        let file = self.ring.add_file(file);
                        self.log.open(sequence, file);
                    }
                    Err(error) => {
                        eprintln!(
                            "panchd: cannot prepare log segment {sequence}: {error}; writes are refused once the current one is full"
                        );
                        wal.segment_failed(sequence);
                    }
                }
            }
            Done::SnapshotWritten { group, slot, result } => {
                if let Err(error) = &result {
                    eprintln!(
                        "panchd: cannot write the snapshot of group {} at slot {}: {error}",
                        group.0, slot.0
                    );
                }
                let written = result.map_err(drop);
                self.core.snapshot_written(now, group, slot, written, &mut self.out);
            }
            Done::SnapshotRead { group, peer, file, offset, bytes } => {
                let bytes = bytes.as_deref().ok();
                self.core.snapshot_read(now, group, peer, file, offset, bytes, &mut self.out);
            }
        }
    }

    fn start_loads(&mut self, now: Instant) {
        while let Some((group, slot, location)) = self.out.loads.pop_front() {
            let Some(file) = self.log.file(location.segment) else {
                self.core.loaded(now, group, slot, None, &mut self.out);
                continue;
            };
            let size = location.padded_length();
            let Some(memory) = self.pool.take(size) else {
                // Frame memory comes back when peers have acknowledged; until then they wait.
                self.out.loads.push_front((group, slot, location));
                return;
            };
            let token = self.log.begin_load(group, slot, location);
            self.ring.read_log(file, location.offset, size, ReadBuffer::Frame(memory), token);
        }
    }

    fn on_loaded(&mut self, now: Instant, place: usize, result: io::Result<usize>, buffer: ReadBuffer) {
        let (group, slot, location) = self.log.loaded(place);
        let ReadBuffer::Frame(memory) = buffer else { return };
        let length = location.length as usize;
        let whole = result.is_ok_and(|count| count >= length);
        // The segment may have been recycled meanwhile: the checksum tells.
        let frame = if whole { memory.receive(length).ok() } else { None };
        let frame = frame.filter(|frame| BatchView::validate(frame).is_ok());
        self.core.loaded(now, group, slot, frame, &mut self.out);
    }

    // Stopping.

    fn begin_stop(&mut self, now: Instant) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(now);
        for listener in self.listeners.drain(..) {
            self.ring.close_socket(listener, Token(token::IGNORED));
        }
        self.listen_again.clear();
        if let Some(wal) = self.core.wal() {
            wal.request_attest();
        }
    }

    fn stop_if_done(&mut self, now: Instant) {
        let failed = self.failed.load(Ordering::Relaxed);
        let Some(since) = self.stopping else {
            if failed {
                self.stopped = true;
            }
            return;
        };
        let pending = self.core.wal().is_some_and(|wal| wal.outstanding() > 0 || wal.has_pending());
        if !pending || failed || now.since(since) >= STOP_PATIENCE {
            self.out.clients.close_all(&mut self.ring);
            self.stopped = true;
        }
    }
}
