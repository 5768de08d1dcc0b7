//! Streams to other nodes. Each core dials every other node and sends on the stream it dialled; it receives on the streams
//! that others dialled (`inbound`). So a stream has one direction, and two nodes never disagree about which of two connections counts.
//!
//! Invariants:
//! * Nothing is sent before both hellos agreed.
//! * One packet per peer and turn; while it is being sent, the next one gathers.
//! * What waits for a peer is bounded: beyond that, messages are dropped, and the protocol repairs it.

use std::net::SocketAddr;
use std::sync::Arc;

use panch_replica::familiarity::{Asked, Past, Shown, Starts};
use panch_replica::outbox::MessageKind;
use panch_ring::event::Token;
use panch_ring::parts::SendList;
use panch_ring::ring::{Ring, SocketId};
use panch_ring::socket::Liveness;
use panch_wal::Lsn;
use panch_wire::frame::Frame;
use panch_wire::ids::{GroupId, Incarnation, ReplicaId};
use panch_wire::peer::{
    Challenge, Earlier, Hello, HelloReply, Incarnations, PacketWriter, PeerFault, Proof, RefusalCode, Secret,
};
use panch_wire::record::Fixed;
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use crate::addresses::Addresses;
use crate::complaints::Complaints;
use crate::draw::draw;
use crate::identity::DataDir;
use crate::pace::Pace;
use crate::token;
use recognition::{Opinion, Recognition};

mod reaching;
mod recognition;

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

/// A node that joins a cluster that was founded without it is refused at most about so often.
const UNMET_BRIEFLY: u32 = 5;
/// A peer that is sent nothing else hears at most this late how far the log is.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// A peer is told at most so often what has changed of what is remembered of others; when another node starts, at once.
const WORDS_EVERY: Duration = Duration::from_secs(1);

enum State {
    /// Not connected; try again at this time.
    Down(Instant),
    /// Waiting for the connection, or for the other side's part of the handshake.
    Opening(Opening),
    /// Packets flow.
    Up(SocketId),
}

/// The handshake of a stream, as far as it has come.
struct Opening {
    socket: SocketId,
    since: Instant,
    /// The connection stands.
    is_connected: bool,
    /// All bytes of the handshake until now, in the order in which they were said. None: this node may not be named yet.
    before: Vec<u8>,
    /// Received, and not understood yet.
    answer: Vec<u8>,
    is_proven: bool,
}

/// The stream to one peer.
struct Outbound {
    /// Where it was dialled last.
    address: SocketAddr,
    state: State,
    pace: Pace,
    incarnation: Incarnation,
    /// How often it was refused because the cluster was founded without it, since the stream was there last.
    unmet: u32,
    /// What it wants to be shown of this node's past, for what it has met and for what it was told, as far as it has said; `None`: it
    /// has not.
    asked: Option<[Asked; 2]>,
    opinion: Opinion,
    /// What it was told last of what is remembered (see [`PeerMemory::changes`](crate::memory::PeerMemory::changes)), and when.
    words: Option<(u64, u64)>,
    words_at: Instant,
    writer: PacketWriter,
    /// The writer has a packet open.
    open: bool,
    /// A packet is with the ring.
    sending: bool,
    /// The end of the log that the last packet stated, and when.
    told: u64,
    told_at: Instant,
}

impl Outbound {
    /// When it has to be told what is remembered, given [`PeerMemory::changes`](crate::memory::PeerMemory::changes).
    fn words_due(&self, (lives, met): (u64, u64)) -> Option<Instant> {
        match self.words {
            None => Some(Instant(0)),
            Some((told, _)) if told != lives => Some(Instant(0)),
            Some((_, told)) => (told != met).then(|| self.words_at + WORDS_EVERY),
        }
    }
}

/// What is wrong, and the detail.
type Complaint = (&'static str, String);

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
    data: Arc<DataDir>,
    secret: Option<Secret>,
    /// What is noted of this core's log at earlier starts.
    starts: Starts,
    outbound: Vec<Outbound>,
    addresses: Addresses,
    list: SendList,
    /// Bytes that may gather for one peer.
    queue_size_max: usize,
    /// The log that this life found.
    found: Lsn,
    /// How far the log was on stable storage at the last flush.
    log_end: u64,
    recognition: Recognition,
    complaints: Complaints,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
}

impl Peers {
    /// Streams to so many nodes at `addresses` (by number, this node's ignored), opened with `hello`. At most
    /// `queue_size_max` bytes gather for each.
    pub(crate) fn new(
        hello: Hello,
        addresses: Addresses,
        node_count: usize,
        queue_size_max: usize,
        data: Arc<DataDir>,
        secret: Option<Secret>,
    ) -> Self {
        let outbound = (0..node_count as u8).map(|index| Outbound {
            address: addresses.of(ReplicaId(index)),
            state: State::Down(Instant(0)),
            pace: Pace::default(),
            incarnation: Incarnation(0),
            unmet: 0,
            asked: None,
            opinion: Opinion::Unknown,
            words: None,
            words_at: Instant(0),
            writer: PacketWriter::new(),
            open: false,
            sending: false,
            told: 0,
            told_at: Instant(0),
        });
        Self {
            me: hello.node,
            hello,
            data,
            secret,
            starts: Starts::default(),
            found: Lsn(0),
            outbound: outbound.collect(),
            addresses,
            list: SendList::new(),
            queue_size_max,
            log_end: 0,
            recognition: Recognition::default(),
            complaints: Complaints::default(),
            packets: 0,
            bytes: 0,
            dropped: 0,
        }
    }

    /// What this node can show of its past, and the log that it found; before any stream is opened.
    pub(crate) fn show(&mut self, starts: Starts, found: Lsn) {
        (self.starts, self.found) = (starts, found);
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

    /// Whether others are told what this node remembers. One core says it for all, so that what was said first arrives first; and a
    /// node on its way back takes back nothing of what it said before: it may have forgotten that.
    fn is_telling(&self) -> bool {
        let may_have_forgotten = self.data.is_returning() && holds(Rule::ReturningTellsNothing);
        self.hello.core_index == 0 && !may_have_forgotten
    }

    /// Gives this turn's packets to the ring. `log_end`: how far the log is on stable storage; those that get nothing else
    /// hear of it at times, too.
    pub(crate) fn flush(&mut self, now: Instant, ring: &mut Ring, log_end: u64) {
        self.log_end = log_end;
        let sender = self.hello.incarnation;
        let changes = self.data.peers.changes();
        let is_telling = self.is_telling();
        for (index, peer) in self.outbound.iter_mut().enumerate() {
            let State::Up(socket) = peer.state else { continue };
            if peer.sending {
                continue;
            }
            if is_telling && peer.words_due(changes).is_some_and(|at| at <= now) {
                if !peer.open {
                    peer.open = true;
                    peer.writer.start(Incarnations { sender, receiver: peer.incarnation });
                }
                let words = self.data.peers.words(self.me, ReplicaId(index as u8));
                let mut encoded = Vec::new();
                let fits = words.iter().all(|word| {
                    encoded.clear();
                    word.encode_fixed(&mut encoded);
                    peer.writer.push_bytes(GroupId(0), MessageKind::Word as u8, &encoded, None)
                });
                if fits {
                    (peer.words, peer.words_at) = (Some(changes), now);
                }
            }
            let is_due = log_end > peer.told && now.since(peer.told_at) >= TELL_EVERY;
            if is_due && !peer.open {
                peer.open = true;
                peer.writer.start(Incarnations { sender, receiver: peer.incarnation });
            }
            if !peer.open || peer.writer.is_empty() && !is_due {
                continue;
            }
            (peer.told, peer.told_at) = (log_end, now);
            self.bytes += peer.writer.finish(log_end) as u64;
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
        // Before this start is noted, nobody is told of it.
        if self.data.is_named() {
            self.recognition.wait(now);
        }
        for index in 0..self.outbound.len() {
            let id = ReplicaId(index as u8);
            if id == self.me {
                continue;
            }
            match self.outbound[index].state {
                State::Down(at) if at <= now => self.dial(now, id, ring),
                State::Opening(Opening { since, is_connected, ref before, .. }) => {
                    let is_greeted = !is_connected || !before.is_empty();
                    if now.since(since) > OPEN_TIMEOUT {
                        if is_greeted {
                            self.fail(now, id, ring, None);
                            self.is_not_reached(now, id, Some("no answer"));
                        } else {
                            let text = "not greeted: this node cannot note yet that it has started";
                            self.fail(now, id, ring, Some((text, "")));
                        }
                        report(PeerEvent::Down(id));
                    } else if !is_greeted && let Some(event) = self.say_hello(now, id, ring) {
                        report(event);
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether all other nodes have taken in this life of this node, or were out of reach: see [`Recognition::is_reached`].
    pub(crate) fn has_been_taken_in(&mut self) -> bool {
        let opinions = (0..).map(ReplicaId).zip(self.outbound.iter().map(|peer| peer.opinion));
        self.recognition.is_reached(opinions.filter(|(id, _)| *id != self.me), self.data.peers.disowned())
    }

    /// Who has not taken in this life of this node.
    pub(crate) fn hesitating(&self) -> impl Iterator<Item = ReplicaId> {
        let all = (0..).map(ReplicaId).zip(&self.outbound);
        all.filter(|(id, peer)| *id != self.me && peer.opinion != Opinion::Accepted).map(|(id, _)| id)
    }

    /// When [`Peers::maintain`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let (changes, is_telling) = (self.data.peers.changes(), self.is_telling());
        let others = self.outbound.iter().enumerate().filter(|(index, _)| *index != self.me.index());
        others
            .filter_map(|(_, peer)| match peer.state {
                State::Down(at) => Some(at),
                State::Opening(Opening { since, .. }) => {
                    Some(since + OPEN_TIMEOUT + Duration::from_millis(1))
                }
                State::Up(_) if peer.sending => None,
                State::Up(_) => {
                    let told = (self.log_end > peer.told).then(|| peer.told_at + TELL_EVERY);
                    let words = is_telling.then(|| peer.words_due(changes)).flatten();
                    told.into_iter().chain(words).min()
                }
            })
            .chain(self.recognition.deadline())
            .min()
    }

    /// A peer was refused because the cluster was founded without it. Whether that lasts: part of every joining is that the peer
    /// has to take in this node first.
    pub(crate) fn is_unmet_for_long(&mut self, now: Instant, id: ReplicaId) -> bool {
        self.dial_soon(now, id);
        let Some(peer) = self.outbound.get_mut(id.index()) else { return false };
        peer.unmet = peer.unmet.saturating_add(1);
        peer.unmet > UNMET_BRIEFLY
    }

    /// The connection to `id` stands (or does not): say hello.
    pub(crate) fn connected(
        &mut self,
        now: Instant,
        id: ReplicaId,
        result: Result<(), std::io::Error>,
        ring: &mut Ring,
    ) -> Option<PeerEvent> {
        let State::Opening(opening) = &mut self.outbound[id.index()].state else { return None };
        if let Err(error) = result {
            self.fail(now, id, ring, None);
            // A peer that is not up yet is no news.
            let reason = Some(error.to_string()).filter(|_| self.outbound[id.index()].pace.is_slow());
            self.is_not_reached(now, id, reason.as_deref());
            return Some(PeerEvent::Down(id));
        }
        opening.is_connected = true;
        self.say_hello(now, id, ring)
    }

    /// Says hello to a peer that is connected, if this node may be named; else [`Peers::maintain`] tries again.
    fn say_hello(&mut self, now: Instant, id: ReplicaId, ring: &mut Ring) -> Option<PeerEvent> {
        let State::Opening(opening) = &mut self.outbound[id.index()].state else { return None };
        // The key of this life is durable before anybody hears of it.
        if !self.data.is_named() {
            return None;
        }
        let nonce = match draw() {
            Ok(nonce) => nonce,
            Err(error) => {
                self.fail(now, id, ring, Some(("no random numbers", &error.to_string())));
                return Some(PeerEvent::Down(id));
            }
        };
        let mut bytes = ring.send_buffers().take();
        Hello { nonce, ..self.hello }.write(&mut bytes);
        opening.before.extend_from_slice(&bytes);
        let socket = opening.socket;
        self.list.push_bytes(bytes);
        ring.send(socket, &mut self.list, token::peer_out(id.0));
        ring.receive(socket, token::peer_out(id.0));
        None
    }

    /// Bytes came back on the stream to `id`: the challenge, then the answer to the hello, and nothing else.
    pub(crate) fn received(
        &mut self,
        now: Instant,
        id: ReplicaId,
        bytes: &[u8],
        ring: &mut Ring,
    ) -> Option<PeerEvent> {
        let State::Opening(opening) = &mut self.outbound[id.index()].state else {
            self.fail(now, id, ring, Some(("it sent something on a stream that goes the other way", "")));
            return Some(PeerEvent::Down(id));
        };
        opening.answer.extend_from_slice(bytes);
        let heard = if !opening.is_proven && Challenge::may_be(&opening.answer) {
            self.prove(id, ring).map(|()| None)
        } else {
            self.read_answer(now, id)
        };
        match heard {
            Ok(event) => event,
            Err(None) => {
                self.fail(now, id, ring, None);
                Some(PeerEvent::Down(id))
            }
            Err(Some((kind, detail))) => {
                if matches!(&self.outbound[id.index()].state, State::Opening(opening) if !opening.is_proven) {
                    // Whoever it is has not shown to be that node.
                    self.is_not_reached(now, id, None);
                }
                self.fail(now, id, ring, Some((kind, &detail)));
                Some(PeerEvent::Down(id))
            }
        }
    }

    /// Answers the challenge, if it is all here: who is at this address has said who it is.
    fn prove(&mut self, id: ReplicaId, ring: &mut Ring) -> Result<(), Option<Complaint>> {
        let peer = &mut self.outbound[id.index()];
        let State::Opening(opening) = &mut peer.state else { return Ok(()) };
        let wrong = |fault: PeerFault| Some(("its part of the handshake is wrong", fault.to_string()));
        let Some(challenge) = Challenge::parse(&opening.answer).map_err(wrong)? else { return Ok(()) };
        let secret = self.secret.as_ref();
        let differs = |what: &str| Some(("the two do not belong together", what.to_owned()));
        challenge.check(secret, &opening.before, &opening.answer).map_err(differs)?;
        if challenge.node != id {
            let text = format!("it is node {}: compare the members of both", u64::from(challenge.node.0) + 1);
            return Err(Some(("another node is at this address", text)));
        }
        self.data.peers.confirm(id, challenge.life);
        opening.before.extend(opening.answer.drain(..Challenge::SIZE));
        let lives = self.data.lives();
        let last = lives.previous();
        let [asked, told] = *peer.asked.get_or_insert([Asked { earlier: last, since: last }; 2]);
        let (incarnation, log_end) = (self.hello.incarnation, Lsn(self.log_end).max(self.found));
        let past = Past { lives: &lives, logs: &self.starts, incarnation, log_end };
        let Shown { earlier: incarnation, earlier_key: key, since, log_end } = past.show(told);
        let told = Earlier { incarnation, key, since, log_end: log_end.0 };
        let Shown { earlier, earlier_key, since, log_end } = past.show(asked);
        let proof = Proof { key: self.data.key, earlier, earlier_key, since, log_end: log_end.0, told };
        let mut bytes = ring.send_buffers().take();
        proof.write(secret, &opening.before, &mut bytes);
        opening.before.extend_from_slice(&bytes);
        opening.is_proven = true;
        self.list.push_bytes(bytes);
        ring.send(opening.socket, &mut self.list, token::peer_out(id.0));
        Ok(())
    }

    /// Reads the answer to the hello, if it is all here.
    fn read_answer(&mut self, now: Instant, id: ReplicaId) -> Result<Option<PeerEvent>, Option<Complaint>> {
        let peer = &mut self.outbound[id.index()];
        let State::Opening(opening) = &mut peer.state else { return Ok(None) };
        let wrong = |fault: PeerFault| Some(("its answer to the hello is wrong", fault.to_string()));
        let Some((reply, size)) = HelloReply::parse(&opening.answer).map_err(wrong)? else { return Ok(None) };
        let is_sealed = opening.is_proven
            && HelloReply::is_sealed(&opening.answer[..size], self.secret.as_ref(), &opening.before);
        match reply.refusal {
            None if is_sealed => {}
            Some(RefusalCode::Incarnation) if is_sealed => return Ok(Some(PeerEvent::Disowned(id))),
            Some(RefusalCode::Descent) if is_sealed => {
                let told = Asked { earlier: reply.told, since: reply.told_since };
                let asked = [Asked { earlier: reply.known, since: reply.since }, told];
                if peer.asked.replace(asked) != Some(asked) {
                    peer.pace.hurry();
                    return Err(None);
                }
                return Err(Some(("it remembers what this node cannot show", forgotten_text(&asked[0]))));
            }
            Some(code @ (RefusalCode::Doubtful | RefusalCode::Contested)) if is_sealed => {
                peer.opinion = peer.opinion.after_refusal(&reply, self.data.identity.returned_in);
                return Err(Some(("it refused this node", code.text().to_owned())));
            }
            Some(RefusalCode::Unmet) if is_sealed && peer.opinion == Opinion::Unknown => {
                peer.opinion = peer.opinion.after_refusal(&reply, self.data.identity.returned_in);
                return Err(None);
            }
            // Part of every first start: only one that lasts is worth a line.
            Some(RefusalCode::Unconfirmed | RefusalCode::Unmet) if !peer.pace.is_slow() => {
                return Err(None);
            }
            Some(code) => {
                let detail = if reply.text.is_empty() { code.text() } else { reply.text };
                return Err(Some(("it refused this node", detail.to_owned())));
            }
            None => return Err(wrong(PeerFault::Misbehaved("seal of the hello's answer"))),
        }
        peer.incarnation = reply.incarnation;
        self.data.peers.set_recognised(id);
        // From now on it knows an end of this life's log.
        let this = self.hello.incarnation;
        peer.asked = Some([Asked { earlier: this, since: this }; 2]);
        peer.opinion = Opinion::Accepted;
        peer.words = None;
        peer.state = State::Up(opening.socket);
        peer.told = 0;
        peer.unmet = 0;
        peer.pace.up(now);
        peer.sending = false;
        peer.open = false;
        peer.writer.release();
        Ok(None)
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
        if let State::Opening(Opening { socket, .. }) | State::Up(socket) = peer.state {
            ring.close_socket(socket, Token(token::IGNORED));
        }
        if let Some((kind, detail)) = complaint {
            let (number, address) = (u64::from(id.0) + 1, peer.address);
            let separator = if detail.is_empty() { "" } else { ": " };
            let text = format_args!("node {number} at {address}: {kind}{separator}{detail}");
            self.complaints.print(now, kind, Some(address), text);
        }
        peer.state = State::Down(now + peer.pace.pause(now));
        peer.sending = false;
        peer.open = false;
        peer.writer.release();
    }
}

/// Says what to do where a peer asks for notes that are not there any more.
fn forgotten_text(asked: &Asked) -> String {
    format!(
        "start {} of this node, and the log found after start {}. Of starts as long ago as the older of the two this node has no notes \
         any more, so that the other one cannot know whether it has forgotten something. If that node was away for so long, \
         stop it, empty its data directory and start it with --rejoin; if this data directory is not the one that the node ran \
         with last, restore that",
        asked.earlier.0, asked.since.0
    )
}
