//! Streams to other nodes. Each core dials every other node and sends on the stream it dialled; it receives on the streams
//! that others dialled (`inbound`). So a stream has one direction, and two nodes never disagree about which of two connections counts.
//!
//! Invariants:
//! * Nothing is sent before both hellos agreed.
//! * One packet per peer and turn; while it is being sent, the next one gathers.
//! * What waits for a peer is bounded: beyond that, messages are dropped, and the protocol repairs it.

use std::net::SocketAddr;

use panch_ring::event::Token;
use panch_ring::parts::SendList;
use panch_ring::ring::{Ring, SocketId};
use panch_ring::socket::{self, Liveness};
use panch_wire::frame::Frame;
use panch_wire::ids::{GroupId, Incarnation, ReplicaId};
use panch_wire::peer::{Hello, HelloReply, Incarnations, PacketWriter, RefusalCode};
use panch_wire::time::{Duration, Instant};

use crate::complaints::Complaints;
use crate::token;

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A peer that does not answer for this long while a stream is opened is given up.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that has vanished or hangs is noticed by the kernel within seconds: another stream may reach it, and what is
/// queued for it holds frame memory.
pub(crate) const PEER_LIVENESS: Liveness = Liveness {
    idle: Duration::from_secs(5),
    interval: Duration::from_secs(2),
    probes: 3,
    unacknowledged_max: Some(Duration::from_secs(5)),
};

enum State {
    /// Not connected; try again at this time.
    Down(Instant),
    /// Waiting for the connection, or for the answer to the hello.
    Opening { socket: SocketId, since: Instant, answer: Vec<u8> },
    /// Packets flow.
    Up(SocketId),
}

/// The stream to one peer.
struct Outbound {
    address: SocketAddr,
    state: State,
    backoff: Duration,
    incarnation: Incarnation,
    writer: PacketWriter,
    /// The writer has a packet open.
    open: bool,
    /// A packet is with the ring.
    sending: bool,
}

/// What happened on the streams of this node to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PeerEvent {
    /// This peer remembers the node otherwise: what the node has said before may be forgotten.
    Disowned(ReplicaId),
    /// The stream to this peer is lost or could not be opened.
    Down(ReplicaId),
}

/// The streams from this core to every other node.
pub(crate) struct Peers {
    hello: Hello,
    me: ReplicaId,
    outbound: Vec<Outbound>,
    list: SendList,
    /// Bytes that may gather for one peer.
    queue_size_max: usize,
    complaints: Complaints,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
}

impl Peers {
    /// Streams to the nodes at `addresses` (by number, this node's ignored), opened with `hello`. At most
    /// `queue_size_max` bytes gather for each.
    pub(crate) fn new(
        hello: Hello,
        addresses: impl Iterator<Item = SocketAddr>,
        queue_size_max: usize,
    ) -> Self {
        let outbound = addresses.map(|address| Outbound {
            address,
            state: State::Down(Instant(0)),
            backoff: BACKOFF_MIN,
            incarnation: Incarnation(0),
            writer: PacketWriter::new(),
            open: false,
            sending: false,
        });
        Self {
            me: hello.node,
            hello,
            outbound: outbound.collect(),
            list: SendList::new(),
            queue_size_max,
            complaints: Complaints::default(),
            packets: 0,
            bytes: 0,
            dropped: 0,
        }
    }

    /// Adds a message to the packet that is gathering for `to`.
    pub(crate) fn send(
        &mut self,
        to: ReplicaId,
        group: GroupId,
        kind: u8,
        message: &[u8],
        body: Option<&Frame>,
    ) {
        let sender = self.hello.incarnation;
        let peer = &mut self.outbound[to.index()];
        if !matches!(peer.state, State::Up(_)) {
            self.dropped += 1;
            return;
        }
        if !peer.open {
            peer.open = true;
            peer.writer.start(Incarnations { sender, receiver: peer.incarnation });
        }
        let size = peer.writer.size() + body.map_or(0, |frame| frame.bytes().len());
        // A full queue, in bytes or in messages, is a slow peer: what it misses it asks for.
        if (size > self.queue_size_max && !peer.writer.is_empty())
            || !peer.writer.push_bytes(group, kind, message, body)
        {
            self.dropped += 1;
        }
    }

    /// Whether the stream to a peer is there.
    pub(crate) fn is_up(&self, id: ReplicaId) -> bool {
        self.outbound.get(id.index()).is_some_and(|peer| matches!(peer.state, State::Up(_)))
    }

    /// Gives this turn's packets to the ring.
    pub(crate) fn flush(&mut self, ring: &mut Ring) {
        for (index, peer) in self.outbound.iter_mut().enumerate() {
            let State::Up(socket) = peer.state else { continue };
            if !peer.open || peer.sending || peer.writer.is_empty() {
                continue;
            }
            self.bytes += peer.writer.finish() as u64;
            self.packets += 1;
            let (head, frames) = peer.writer.take_parts(ring.send_buffers().take());
            self.list.push_bytes(head);
            for frame in frames {
                self.list.push_frame(frame);
            }
            peer.open = false;
            peer.sending = true;
            ring.send(socket, &mut self.list, token::peer_out(index as u8));
        }
    }

    /// Opens streams whose time has come and gives up those that take too long.
    pub(crate) fn maintain(&mut self, now: Instant, ring: &mut Ring, mut report: impl FnMut(PeerEvent)) {
        for index in 0..self.outbound.len() {
            let id = ReplicaId(index as u8);
            if id == self.me {
                continue;
            }
            match self.outbound[index].state {
                State::Down(at) if at <= now => self.dial(now, id, ring),
                State::Opening { since, .. } if now.since(since) > OPEN_TIMEOUT => {
                    self.fail(now, id, ring, Some(("no answer", "")));
                    report(PeerEvent::Down(id));
                }
                _ => {}
            }
        }
    }

    /// When [`Peers::maintain`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let others = self.outbound.iter().enumerate().filter(|(index, _)| *index != self.me.index());
        others
            .filter_map(|(_, peer)| match peer.state {
                State::Down(at) => Some(at),
                State::Opening { since, .. } => Some(since + OPEN_TIMEOUT + Duration::from_millis(1)),
                State::Up(_) => None,
            })
            .min()
    }

    fn dial(&mut self, now: Instant, id: ReplicaId, ring: &mut Ring) {
        let address = self.outbound[id.index()].address;
        let stream = socket::stream_for(address).and_then(|stream| {
            socket::set_liveness(&stream, &PEER_LIVENESS)?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => {
                let socket = ring.add_socket(stream);
                ring.connect(socket, address, token::peer_out(id.0));
                self.outbound[id.index()].state = State::Opening { socket, since: now, answer: Vec::new() };
            }
            Err(error) => self.fail(now, id, ring, Some(("cannot connect", &error.to_string()))),
        }
    }

    /// The connection to `id` stands (or does not): say hello.
    pub(crate) fn connected(
        &mut self,
        now: Instant,
        id: ReplicaId,
        result: Result<(), std::io::Error>,
        ring: &mut Ring,
    ) -> Option<PeerEvent> {
        let State::Opening { socket, .. } = self.outbound[id.index()].state else { return None };
        if result.is_err() {
            // A peer that is not up yet is no news.
            self.fail(now, id, ring, None);
            return Some(PeerEvent::Down(id));
        }
        let mut bytes = ring.send_buffers().take();
        self.hello.write(&mut bytes);
        self.list.push_bytes(bytes);
        ring.send(socket, &mut self.list, token::peer_out(id.0));
        ring.receive(socket, token::peer_out(id.0));
        None
    }

    /// Bytes came back on the stream to `id`: the answer to the hello, and nothing else.
    pub(crate) fn received(
        &mut self,
        now: Instant,
        id: ReplicaId,
        bytes: &[u8],
        ring: &mut Ring,
    ) -> Option<PeerEvent> {
        let peer = &mut self.outbound[id.index()];
        let State::Opening { socket, answer, .. } = &mut peer.state else {
            self.fail(now, id, ring, Some(("it sent something on a stream that goes the other way", "")));
            return Some(PeerEvent::Down(id));
        };
        answer.extend_from_slice(bytes);
        let socket = *socket;
        let complaint = match HelloReply::parse(answer) {
            Ok(None) => return None,
            Ok(Some((HelloReply { refusal: Some(RefusalCode::Incarnation), .. }, _))) => {
                return Some(PeerEvent::Disowned(id));
            }
            Ok(Some((HelloReply { refusal: None, incarnation, .. }, _))) => {
                peer.incarnation = incarnation;
                None
            }
            Ok(Some((HelloReply { refusal: Some(code), text, .. }, _))) => {
                let detail = if text.is_empty() { code.text() } else { text };
                Some(("it refused this node", detail.to_string()))
            }
            Err(fault) => Some(("its answer to the hello is wrong", fault.to_string())),
        };
        if let Some((kind, detail)) = complaint {
            self.fail(now, id, ring, Some((kind, &detail)));
            return Some(PeerEvent::Down(id));
        }
        peer.state = State::Up(socket);
        peer.backoff = BACKOFF_MIN;
        peer.sending = false;
        peer.open = false;
        peer.writer.release();
        None
    }

    /// A send on the stream to `id` has ended.
    pub(crate) fn sent(
        &mut self,
        now: Instant,
        id: ReplicaId,
        result: Result<(), std::io::Error>,
        ring: &mut Ring,
    ) -> Option<PeerEvent> {
        let peer = &mut self.outbound[id.index()];
        if !matches!(peer.state, State::Up(_)) {
            return None;
        }
        peer.sending = false;
        if result.is_err() {
            self.fail(now, id, ring, None);
            return Some(PeerEvent::Down(id));
        }
        None
    }

    /// The stream to `id` has ended.
    pub(crate) fn ended(&mut self, now: Instant, id: ReplicaId, ring: &mut Ring) -> Option<PeerEvent> {
        if matches!(self.outbound[id.index()].state, State::Down(_)) {
            return None;
        }
        self.fail(now, id, ring, None);
        Some(PeerEvent::Down(id))
    }

    /// Gives the stream to `id` up, for now. `complaint` is what happened and its detail, if it is worth a line.
    fn fail(
        &mut self,
        now: Instant,
        id: ReplicaId,
        ring: &mut Ring,
        complaint: Option<(&'static str, &str)>,
    ) {
        let peer = &mut self.outbound[id.index()];
        if let State::Opening { socket, .. } | State::Up(socket) = peer.state {
            ring.close_socket(socket, Token(token::IGNORED));
        }
        if let Some((kind, detail)) = complaint {
            let (number, address) = (u64::from(id.0) + 1, peer.address);
            let separator = if detail.is_empty() { "" } else { ": " };
            let text = format_args!("node {number} at {address}: {kind}{separator}{detail}");
            self.complaints.print(now, kind, Some(address), text);
        }
        peer.state = State::Down(now + peer.backoff);
        peer.backoff = (peer.backoff * 2).min(BACKOFF_MAX);
        peer.sending = false;
        peer.open = false;
        peer.writer.release();
    }
}
