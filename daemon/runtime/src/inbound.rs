//! Streams that other nodes dialled: whose they are, and what of them has not been taken in.
//!
//! ```text
//!               hello accepted, for this core
//!  Greeting ------------------------------------> Up --closed by either side-->
//!     |  \-- for another core --> HandedOver --descriptor released--> (the other core goes on)
//!     |
//!     \-- hello refused --> Refused --the other side closes, or too late-->
//! ```
//! Invariants:
//! * Streams in `Greeting` and `Refused` are strangers': at most [`STRANGERS_MAX`], each for at most [`OPEN_TIMEOUT`].
//! * At most one stream of a core of a node is `Up`: a newer one replaces the older, whose other end is gone.
//! * `held` is empty unless frame memory ran out; then nothing more is received.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use panch_ring::ring::SocketId;
use panch_wire::ids::{Incarnation, ReplicaId};
use panch_wire::peer::{Hello, HelloReply, PacketReader, Purpose, RefusalCode};
use panch_wire::time::{Duration, Instant};

use crate::complaints::say;
use crate::log_io::Places;
use crate::memory::{Judgement, PeerMemory, render_word};
use crate::peers::OPEN_TIMEOUT;

/// The most streams that have not said who they are, or were refused.
pub(crate) const STRANGERS_MAX: usize = 64;
/// A body waits this long for frame memory; then it is passed over, so that what is behind it arrives.
pub(crate) const BODY_PATIENCE: Duration = Duration::from_millis(200);

/// A stream that another node dialled.
pub(crate) struct Inbound {
    pub(crate) socket: SocketId,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) since: Instant,
    pub(crate) state: InboundState,
    /// Received, and not taken in because frame memory ran out.
    pub(crate) held: Vec<u8>,
    /// Since when bodies find no frame memory.
    pub(crate) waiting: Option<Instant>,
}

pub(crate) enum InboundState {
    /// Its hello is not all here.
    Greeting(Vec<u8>),
    /// Its hello was refused and answered. What still comes is thrown away until the other side has read the answer and
    /// closes; closing at once could destroy it.
    Refused,
    /// Another core goes on with a duplicate of the descriptor as soon as this core's ring has let go of it.
    HandedOver { stream: OwnedFd, hello: Hello },
    /// Packets flow from a core of this node.
    Up { from: ReplicaId, core_index: u16, reader: PacketReader },
}

impl Inbound {
    /// A stream that has said nothing yet.
    pub(crate) fn new(now: Instant, socket: SocketId, address: Option<SocketAddr>) -> Self {
        let state = InboundState::Greeting(Vec::new());
        Self { socket, address, since: now, state, held: Vec::new(), waiting: None }
    }

    fn is_stranger(&self) -> bool {
        matches!(self.state, InboundState::Greeting(_) | InboundState::Refused)
    }

    /// When something has to be done although nothing arrives.
    fn deadline(&self) -> Option<Instant> {
        if self.is_stranger() {
            return Some(self.since + OPEN_TIMEOUT);
        }
        self.waiting.filter(|_| !self.held.is_empty()).map(|since| since + BODY_PATIENCE)
    }
}

/// The streams that other nodes dialled to this core.
#[derive(Default)]
pub(crate) struct InboundStreams(Places<Inbound>);

impl InboundStreams {
    pub(crate) fn add(&mut self, inbound: Inbound) -> usize {
        self.0.add(inbound)
    }

    pub(crate) fn take(&mut self, place: usize) -> Option<Inbound> {
        self.0.take(place)
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut Inbound> {
        self.0.get_mut(place)
    }

    /// Places, in use or not.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The stranger to give up before another one is let in, if there are too many.
    pub(crate) fn excess_stranger(&self) -> Option<usize> {
        let strangers = || self.0.iter().filter(|(_, inbound)| inbound.is_stranger());
        if strangers().count() < STRANGERS_MAX {
            return None;
        }
        strangers().min_by_key(|(_, inbound)| inbound.since).map(|(place, _)| place)
    }

    /// A stranger whose time is over.
    pub(crate) fn overdue_stranger(&self, now: Instant) -> Option<usize> {
        let mut streams = self.0.iter();
        streams
            .find(|(_, inbound)| inbound.is_stranger() && now.since(inbound.since) >= OPEN_TIMEOUT)
            .map(|(place, _)| place)
    }

    /// The stream on which this core of this node speaks.
    pub(crate) fn stream_of(&self, node: ReplicaId, core: u16) -> Option<usize> {
        let mut streams = self.0.iter();
        let found = streams.find(|(_, inbound)| {
            matches!(inbound.state, InboundState::Up { from, core_index, .. } if (from, core_index) == (node, core))
        });
        found.map(|(place, _)| place)
    }

    /// Whether a stream waits for frame memory.
    pub(crate) fn has_held(&self) -> bool {
        self.0.iter().any(|(_, inbound)| !inbound.held.is_empty())
    }

    /// When something has to be done although nothing arrives.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.0.iter().filter_map(|(_, inbound)| inbound.deadline()).min()
    }
}

/// What a hello came to.
pub(crate) enum Greeting {
    /// More bytes are needed.
    Incomplete,
    /// Accept: packets follow.
    Accepted(Hello),
    /// A question that was answered; nothing follows.
    Answered,
    /// The answer was written; close once it is read.
    Refused(ReplicaId, RefusalCode),
    /// These bytes are no hello, or more than one.
    Fault,
}

/// Writes the answer that accepts a hello.
pub(crate) fn accept(ours: &Hello, out: &mut Vec<u8>) {
    answer(ours, None, Incarnation(0), "", out);
}

fn answer(ours: &Hello, refusal: Option<RefusalCode>, known: Incarnation, told: &str, out: &mut Vec<u8>) {
    let text = refusal.map_or(told, |code| code.text());
    let (version, incarnation, core_count) = (ours.version, ours.incarnation, ours.core_count);
    HelloReply { version, refusal, incarnation, core_count, known, text }.write(out);
}

/// The answer to an inquiry: a word about the node itself, then what it remembers of others.
pub(crate) fn tell(ours: &Hello, peers: &PeerMemory) -> String {
    let own = render_word(ours.node.0 + 1, ours.incarnation, ours.directory);
    format!("{own} {}", peers.tell())
}

/// Judges the hello in `bytes` and writes the answer to `out`. `peers` is what is remembered of other nodes.
pub(crate) fn greet(
    bytes: &[u8],
    ours: &Hello,
    node_count: u8,
    peers: &PeerMemory,
    out: &mut Vec<u8>,
) -> Greeting {
    let hello = match Hello::parse(bytes) {
        Ok(Some(hello)) => hello,
        Ok(None) => return Greeting::Incomplete,
        Err(_) => return Greeting::Fault,
    };
    let mut refusal = hello.refusal(ours, node_count);
    if refusal.is_none() && bytes.len() > Hello::SIZE {
        // It has to wait for the answer: until then a stream may change its core, and what comes could get lost.
        return Greeting::Fault;
    }
    let asks = hello.purpose == Purpose::Inquiry;
    if refusal.is_none() && !asks {
        refusal = match peers.judge(&hello) {
            Ok(Judgement::Familiar) => None,
            // Its directory was lost or replaced by a copy from before its last start: it has forgotten votes.
            Ok(Judgement::Forgetful) => Some(RefusalCode::Incarnation),
            Err(error) => {
                say(format_args!("cannot write down who says hello: {error}"));
                Some(RefusalCode::NotReady)
            }
        };
    }
    let told = if asks { tell(ours, peers) } else { String::new() };
    answer(ours, refusal, peers.incarnation(hello.node), &told, out);
    match refusal {
        None if asks => Greeting::Answered,
        None => Greeting::Accepted(hello),
        Some(code) => Greeting::Refused(hello.node, code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use panch_ring::doorbell::Doorbell;
    use panch_ring::ring::{Ring, RingConfig};

    fn at(milliseconds: u64) -> Instant {
        Instant(0) + Duration::from_millis(milliseconds)
    }

    fn streams(count: u64) -> (Ring, InboundStreams) {
        let mut ring = Ring::new(&RingConfig::default(), Doorbell::new().unwrap()).unwrap();
        let mut streams = InboundStreams::default();
        for number in 0..count {
            let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
            streams.add(Inbound::new(at(number), ring.add_socket(socket), None));
        }
        (ring, streams)
    }

    fn up(node: u8, core_index: u16) -> InboundState {
        InboundState::Up { from: ReplicaId(node), core_index, reader: PacketReader::new() }
    }

    #[test]
    fn the_oldest_stranger_makes_room_when_there_are_too_many() {
        let (_ring, mut streams) = streams(STRANGERS_MAX as u64 + 1);
        streams.get_mut(0).unwrap().state = up(1, 0);
        assert_eq!(streams.excess_stranger(), Some(1), "a peer is no stranger");
        streams.get_mut(1).unwrap().state = InboundState::Refused;
        assert_eq!(streams.excess_stranger(), Some(1), "a refused one still is");
        streams.take(2);
        assert_eq!(streams.excess_stranger(), None);
    }

    #[test]
    fn strangers_are_given_up_in_time_and_peers_are_not() {
        let (_ring, mut streams) = streams(3);
        streams.get_mut(0).unwrap().state = up(1, 0);
        streams.get_mut(2).unwrap().state = InboundState::Refused;
        assert_eq!(streams.deadline(), Some(at(1) + OPEN_TIMEOUT));
        let late = streams.deadline().unwrap();
        assert_eq!(streams.overdue_stranger(late - Duration::from_nanos(1)), None);
        assert_eq!(streams.overdue_stranger(late), Some(1));
        streams.take(1);
        assert_eq!(streams.overdue_stranger(at(2) + OPEN_TIMEOUT), Some(2));
        streams.take(2);
        assert_eq!((streams.overdue_stranger(Instant(u64::MAX)), streams.deadline()), (None, None));
    }

    #[test]
    fn a_stream_is_found_by_node_and_core() {
        let (_ring, mut streams) = streams(3);
        streams.get_mut(1).unwrap().state = up(2, 0);
        streams.get_mut(2).unwrap().state = up(2, 1);
        assert_eq!(streams.stream_of(ReplicaId(2), 1), Some(2));
        assert_eq!(streams.stream_of(ReplicaId(1), 1), None);
    }

    #[test]
    fn a_stream_that_waits_for_memory_asks_to_be_looked_at() {
        let (_ring, mut streams) = streams(1);
        let inbound = streams.get_mut(0).unwrap();
        inbound.state = up(1, 0);
        inbound.waiting = Some(at(5));
        assert!(!streams.has_held() && streams.deadline().is_none(), "the body before has found memory");
        streams.get_mut(0).unwrap().held.push(1);
        assert!(streams.has_held());
        assert_eq!(streams.deadline(), Some(at(5) + BODY_PATIENCE));
    }

    #[test]
    fn nothing_may_follow_a_hello_before_its_answer() {
        let ours = Hello { incarnation: Incarnation(1), ..Hello::new(1) };
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        Hello { node: ReplicaId(2), ..ours }.write(&mut bytes);
        bytes.push(0);
        assert!(matches!(greet(&bytes, &ours, 3, &PeerMemory::empty(), &mut out), Greeting::Fault));
        assert!(out.is_empty());
    }

    #[test]
    fn earlier_incarnations_of_a_node_are_refused() {
        let ours = Hello { incarnation: Incarnation(1), ..Hello::new(1) };
        let theirs = Hello { node: ReplicaId(2), incarnation: Incarnation(4), ..ours };
        let peers = PeerMemory::empty();
        let judge = |hello: Hello| {
            let (mut bytes, mut out) = (Vec::new(), Vec::new());
            hello.write(&mut bytes);
            let greeting = greet(&bytes, &ours, 3, &peers, &mut out);
            (greeting, HelloReply::parse(&out).unwrap().unwrap().0.known)
        };
        assert!(matches!(judge(theirs).0, Greeting::Accepted(hello) if hello == theirs));
        let earlier = Hello { incarnation: Incarnation(3), ..theirs };
        assert!(matches!(judge(earlier).0, Greeting::Refused(ReplicaId(2), RefusalCode::Incarnation)));
        let question = Hello { incarnation: Incarnation(0), purpose: Purpose::Inquiry, ..theirs };
        assert!(matches!(judge(question), (Greeting::Answered, Incarnation(4))));
    }
}
