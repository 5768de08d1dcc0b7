//! Streams that other nodes dialled: whose they are, and what of them has not been taken in.
//!
//! ```text
//!               hello and proof accepted, for this core
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

use panch_replica::familiarity::{Judgement, Known, LogEnd, Newcomer, Shown};
use panch_ring::ring::SocketId;
use panch_wal::Lsn;
use panch_wire::ids::{Incarnation, ReplicaId};
use panch_wire::peer::{Challenge, Hello, HelloReply, PacketReader, Proof, Purpose, RefusalCode, Secret};
use panch_wire::time::{Duration, Instant};

use crate::complaints::say;
use crate::draw::draw;
use crate::log_io::Places;
use crate::memory::{PeerMemory, render_word};
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
    /// Its hello, or the proof of it, is not all here.
    Greeting(Opening),
    /// Its hello was refused and answered. What still comes is thrown away until the other side has read the answer and
    /// closes; closing at once could destroy it.
    Refused,
    /// Another core goes on with a duplicate of the descriptor as soon as this core's ring has let go of it.
    HandedOver { stream: OwnedFd, hello: Hello, answer: Vec<u8> },
    /// Packets flow from a core of this node.
    Up { from: ReplicaId, core_index: u16, reader: PacketReader, log: LogNews },
}

/// The handshake of a stream, as far as it has come.
#[derive(Default)]
pub(crate) struct Opening {
    /// Received, and not understood yet.
    early: Vec<u8>,
    /// The hello that was challenged.
    challenged: Option<Challenged>,
}

/// A hello that has to be proven.
struct Challenged {
    hello: Hello,
    /// The bytes of the handshake until now.
    before: Vec<u8>,
    /// What was remembered of the end of its log then.
    asked: LogEnd,
}

impl Opening {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.early.extend_from_slice(bytes);
    }
}

/// What packets say of the log of the core that sends them.
pub(crate) struct LogNews {
    life: Incarnation,
    /// What was passed on.
    told: u64,
}

impl LogNews {
    /// Nothing, in this life of the node.
    pub(crate) fn new(life: Incarnation) -> Self {
        Self { life, told: 0 }
    }
}

impl Inbound {
    /// A stream that has said nothing yet.
    pub(crate) fn new(now: Instant, socket: SocketId, address: Option<SocketAddr>) -> Self {
        let state = InboundState::Greeting(Opening::default());
        Self { socket, address, since: now, state, held: Vec::new(), waiting: None }
    }

    /// Passes on what was said of the log of the node.
    pub(crate) fn tell(&mut self, peers: &PeerMemory) {
        if let InboundState::Up { from, core_index, reader, log } = &mut self.state
            && reader.log_end() > log.told
        {
            log.told = reader.log_end();
            peers.hear(*from, log.life, *core_index, log.told);
        }
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

    /// Passes on what was said of the logs of nodes.
    pub(crate) fn tell(&mut self, peers: &PeerMemory) {
        for place in 0..self.0.len() {
            if let Some(inbound) = self.0.get_mut(place) {
                inbound.tell(peers);
            }
        }
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

/// What a hello, or its proof, came to.
pub(crate) enum Greeting {
    /// More bytes are needed.
    Incomplete,
    /// The challenge was written.
    Challenged,
    /// Accept, as the answer says: packets follow.
    Accepted(Hello),
    /// A question that was answered; nothing follows.
    Answered,
    /// The answer was written; close once it is read.
    Refused(ReplicaId, RefusalCode),
    /// These bytes are not what has to come now, or more than that.
    Fault,
}

/// Who greets: this node, as far as other nodes have to know.
pub(crate) struct Host<'a> {
    pub(crate) hello: &'a Hello,
    pub(crate) node_count: u8,
    pub(crate) secret: Option<&'a Secret>,
    pub(crate) recollection: Recollection<'a>,
}

/// What a node remembers.
#[derive(Clone, Copy)]
pub(crate) enum Recollection<'a> {
    /// It runs, and remembers this of other nodes.
    Of(&'a PeerMemory),
    /// It waits for others before it begins: it is new, or else on its way back.
    Waiting { is_new: bool },
}

impl Host<'_> {
    /// Goes on with a handshake, and writes what has to be said to `out`.
    pub(crate) fn greet(&self, opening: &mut Opening, out: &mut Vec<u8>) -> Greeting {
        match opening.challenged.take() {
            None => self.challenge(opening, out),
            Some(challenged) => {
                let (early, secret) = (&opening.early, self.secret);
                let Challenged { hello, before, asked } = &challenged;
                match Proof::parse(early, secret, before) {
                    Ok(None) => {
                        opening.challenged = Some(challenged);
                        Greeting::Incomplete
                    }
                    // It has to wait for the answer: until then a stream may change its core, and what comes could get lost.
                    Ok(Some(_)) if early.len() > Proof::SIZE => Greeting::Fault,
                    Ok(Some((_, false))) => self.answer(hello, Some(RefusalCode::Secret), &[], out),
                    Ok(Some((proof, true))) => {
                        let refusal = self.judge(hello, *asked, &proof);
                        self.answer(hello, refusal, &[&before[..], early].concat(), out)
                    }
                    Err(_) => Greeting::Fault,
                }
            }
        }
    }

    /// Reads a hello: it is refused at once, or has to be proven.
    fn challenge(&self, opening: &mut Opening, out: &mut Vec<u8>) -> Greeting {
        let hello = match Hello::parse(&opening.early) {
            Ok(Some(hello)) => hello,
            Ok(None) => return Greeting::Incomplete,
            Err(_) => return Greeting::Fault,
        };
        if let Some(refusal) = hello.refusal(self.hello, self.node_count) {
            return self.answer(&hello, Some(refusal), &[], out);
        }
        if opening.early.len() > Hello::SIZE {
            return Greeting::Fault;
        }
        let nonce = match draw() {
            Ok(nonce) => nonce,
            Err(error) => {
                say(format_args!("no random numbers: {error}"));
                return self.answer(&hello, Some(RefusalCode::NotReady), &[], out);
            }
        };
        let mut before = std::mem::take(&mut opening.early);
        Challenge::write(self.hello, nonce, self.secret, &before, out);
        before.extend_from_slice(out);
        let asked = match self.recollection {
            Recollection::Of(peers) => peers.of(hello.node).end(hello.core_index),
            Recollection::Waiting { .. } => LogEnd::default(),
        };
        opening.challenged = Some(Challenged { hello, before, asked });
        Greeting::Challenged
    }

    /// Why a hello whose seal is right is refused.
    fn judge(&self, hello: &Hello, asked: LogEnd, proof: &Proof) -> Option<RefusalCode> {
        let asks = hello.purpose == Purpose::Inquiry;
        let peers = match self.recollection {
            Recollection::Waiting { is_new } => return (!asks || !is_new).then_some(RefusalCode::NotReady),
            Recollection::Of(_) if asks => return None,
            Recollection::Of(peers) => peers,
        };
        if proof.key.life() != hello.life {
            return Some(RefusalCode::Malformed);
        }
        let &Proof { earlier, earlier_key, since, .. } = proof;
        let shown = Shown { earlier, earlier_key, since, log_end: Lsn(proof.log_end) };
        let newcomer = Newcomer {
            node: hello.node,
            core: hello.core_index,
            life: hello.named_life(),
            returning: hello.purpose == Purpose::Rejoin,
            is_authentic: self.secret.is_some(),
            asked,
            claim: shown.claim(),
        };
        match peers.judge(&newcomer) {
            Ok(Judgement::Familiar) => None,
            // Its directory was lost or replaced by an older copy, or a part of its log is gone: it has forgotten votes.
            Ok(Judgement::Forgetful) => Some(RefusalCode::Incarnation),
            Ok(Judgement::Doubtful) => Some(RefusalCode::Doubtful),
            Ok(Judgement::Unmet) => Some(RefusalCode::Unmet),
            Ok(Judgement::Unproven) => Some(RefusalCode::Descent),
            Ok(Judgement::Unconfirmed) => Some(RefusalCode::Unconfirmed),
            Err(error) => {
                say(format_args!("cannot write down who says hello: {error}"));
                Some(RefusalCode::NotReady)
            }
        }
    }

    /// The answer to an inquiry: a word about the node itself, then what it remembers of others.
    fn tell(&self) -> String {
        let own = Known { life: self.hello.named_life(), ends: Vec::new() };
        let own = render_word(self.hello.node.0 + 1, &own);
        match self.recollection {
            Recollection::Of(peers) => format!("{own} {}", peers.tell()),
            Recollection::Waiting { .. } => own,
        }
    }

    /// Writes the answer. `before`: the handshake until now, if the other side has shown that it belongs here: nobody else is
    /// told what this node remembers.
    fn answer(
        &self,
        hello: &Hello,
        refusal: Option<RefusalCode>,
        before: &[u8],
        out: &mut Vec<u8>,
    ) -> Greeting {
        let asks = hello.purpose == Purpose::Inquiry && refusal.is_none();
        let known = match self.recollection {
            Recollection::Of(peers) if !before.is_empty() => peers.of(hello.node),
            _ => Known::default(),
        };
        let told = if asks { self.tell() } else { String::new() };
        let text = match (refusal, self.recollection) {
            (None, _) => &told,
            (Some(RefusalCode::NotReady), Recollection::Waiting { is_new: true }) => {
                "it has an empty data directory and waits for the other nodes"
            }
            (Some(RefusalCode::NotReady), Recollection::Waiting { is_new: false }) => {
                "it has lost its disk itself, and waits for the other nodes"
            }
            (Some(code), _) => code.text(),
        };
        let reply = HelloReply {
            version: self.hello.version,
            refusal,
            incarnation: self.hello.incarnation,
            core_count: self.hello.core_count,
            known: known.life.incarnation,
            since: known.end(hello.core_index).since,
            text,
        };
        let secret = self.secret.filter(|_| !before.is_empty());
        reply.write(secret, before, out);
        match refusal {
            None if asks => Greeting::Answered,
            None => Greeting::Accepted(*hello),
            Some(code) => Greeting::Refused(hello.node, code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use panch_ring::doorbell::Doorbell;
    use panch_ring::ring::{Ring, RingConfig};
    use panch_wire::peer::LifeKey;

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
        let log = LogNews::new(Incarnation(1));
        InboundState::Up { from: ReplicaId(node), core_index, reader: PacketReader::new(), log }
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

    const KEY: LifeKey = LifeKey([7; 16]);

    fn ours() -> Hello {
        Hello { incarnation: Incarnation(1), directory: 70, life: LifeKey([1; 16]).life(), ..Hello::new(1) }
    }

    fn theirs(incarnation: u32, key: LifeKey) -> Hello {
        let incarnation = Incarnation(incarnation);
        Hello { node: ReplicaId(2), incarnation, directory: 72, life: key.life(), ..ours() }
    }

    /// What the answer to a whole handshake says: refusal, what is known, and the text.
    fn shake(
        peers: &PeerMemory,
        secrets: [Option<&Secret>; 2],
        hello: Hello,
        proof: Proof,
    ) -> (Option<RefusalCode>, u32, String) {
        let ours = ours();
        let host =
            Host { hello: &ours, node_count: 3, secret: secrets[0], recollection: Recollection::Of(peers) };
        let (mut opening, mut before, mut out) = (Opening::default(), Vec::new(), Vec::new());
        hello.write(&mut before);
        opening.push(&before);
        assert!(matches!(host.greet(&mut opening, &mut out), Greeting::Challenged));
        assert_eq!(Challenge::parse(&out).unwrap().unwrap().life, ours.named_life());
        before.append(&mut out);
        let mut bytes = Vec::new();
        proof.write(secrets[1], &before, &mut bytes);
        opening.push(&bytes);
        let greeting = host.greet(&mut opening, &mut out);
        let (reply, _) = HelloReply::parse(&out).unwrap().unwrap();
        let sealed = HelloReply::is_sealed(&out, secrets[0], &[before, bytes].concat());
        assert_eq!(sealed, secrets[0].is_none() || reply.refusal != Some(RefusalCode::Secret));
        assert_eq!(matches!(greeting, Greeting::Refused(..)), reply.refusal.is_some());
        (reply.refusal, reply.known.0, reply.text.to_owned())
    }

    #[test]
    fn nothing_may_follow_a_hello_or_a_proof_before_its_answer() {
        let (ours, peers) = (ours(), PeerMemory::empty());
        let host = Host { hello: &ours, node_count: 3, secret: None, recollection: Recollection::Of(&peers) };
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        theirs(1, KEY).write(&mut bytes);
        let mut opening = Opening::default();
        opening.push(&[&bytes[..], &[0]].concat());
        assert!(matches!(host.greet(&mut opening, &mut out), Greeting::Fault));
        assert!(out.is_empty());
        let mut opening = Opening::default();
        opening.push(&bytes);
        assert!(matches!(host.greet(&mut opening, &mut out), Greeting::Challenged));
        bytes.append(&mut out);
        let mut proof = Vec::new();
        Proof { key: KEY, ..Proof::default() }.write(None, &bytes, &mut proof);
        opening.push(&[&proof[..], &[0]].concat());
        assert!(matches!(host.greet(&mut opening, &mut out), Greeting::Fault));
        assert!(out.is_empty());
    }

    #[test]
    fn a_hello_alone_changes_nothing() {
        let peers = PeerMemory::empty();
        peers.set_recognised(ReplicaId(2));
        let hello = theirs(4, KEY);
        let proof = Proof { key: KEY, ..Proof::default() };
        let without = [None; 2];
        assert_eq!(shake(&peers, without, hello, proof).0, Some(RefusalCode::Unconfirmed));
        peers.confirm(ReplicaId(2), hello.named_life());
        assert_eq!(shake(&peers, without, hello, proof).0, None);
        let known = peers.of(ReplicaId(2));
        // Whoever has listened to an inquiry, or to a challenge, has names and no keys.
        let other = LifeKey([8; 16]);
        let forged = theirs(u32::MAX, other);
        let (rejoin, same) = (Hello { purpose: Purpose::Rejoin, ..forged }, hello);
        let made_up = Proof {
            key: other,
            earlier: Incarnation(4),
            earlier_key: other,
            since: Incarnation(4),
            log_end: u64::MAX,
        };
        let nothing = Proof { earlier: Incarnation(0), earlier_key: LifeKey::default(), ..made_up };
        for (hello, proof, code) in [
            (forged, made_up, RefusalCode::Incarnation),
            (forged, Proof { earlier: Incarnation(3), ..made_up }, RefusalCode::Descent),
            (forged, nothing, RefusalCode::Descent),
            (rejoin, made_up, RefusalCode::Unconfirmed),
            (same, made_up, RefusalCode::Malformed),
            (theirs(3, other), made_up, RefusalCode::Incarnation),
        ] {
            assert_eq!(shake(&peers, without, hello, proof).0, Some(code), "{hello:?}");
        }
        let question = Hello { incarnation: Incarnation(0), purpose: Purpose::Inquiry, ..theirs(4, KEY) };
        let (refusal, last, told) = shake(&peers, without, question, Proof::default());
        assert_eq!((refusal, last), (None, 4));
        assert!(told.contains(&format!("{:x}", KEY.life())) && !told.contains("07070707"), "{told}");
        assert_eq!(peers.of(ReplicaId(2)), known);
        // The true one goes on.
        let next = Proof { key: other, earlier: Incarnation(4), earlier_key: KEY, ..Proof::default() };
        assert_eq!(shake(&peers, without, theirs(5, other), next).0, None);
    }

    #[test]
    fn a_node_that_nobody_has_recognised_yet_ends_nobody() {
        let peers = PeerMemory::empty();
        let secret = Secret::new(&[1; 16]);
        let earlier = Proof { key: KEY, ..Proof::default() };
        assert_eq!(shake(&peers, [secret.as_ref(); 2], theirs(4, KEY), earlier).0, None);
        let other = LifeKey([8; 16]);
        let (hello, proof) = (theirs(4, other), Proof { key: other, ..earlier });
        let answer = shake(&peers, [secret.as_ref(); 2], hello, proof).0;
        assert_eq!(answer, Some(RefusalCode::Doubtful), "this node may be the copy");
        peers.set_recognised(ReplicaId(2));
        let answer = shake(&peers, [secret.as_ref(); 2], hello, proof).0;
        assert_eq!(answer, Some(RefusalCode::Incarnation));
    }

    #[test]
    fn without_the_secret_of_the_cluster_nothing_is_remembered_and_nothing_answered() {
        let secret = |byte| Secret::new(&[byte; 16]);
        let (right, wrong) = (secret(1), secret(2));
        let peers = PeerMemory::empty();
        let hello = theirs(4, KEY);
        let proof = Proof { key: KEY, ..Proof::default() };
        assert_eq!(shake(&peers, [right.as_ref(); 2], hello, proof).0, None, "it is no stranger");
        let question = Hello { incarnation: Incarnation(0), purpose: Purpose::Inquiry, ..hello };
        for other in [None, wrong.as_ref()] {
            for hello in [hello, question, theirs(5, KEY)] {
                let (refusal, known, text) = shake(&peers, [right.as_ref(), other], hello, proof);
                assert_eq!((refusal, known), (Some(RefusalCode::Secret), 0));
                assert_eq!(text, RefusalCode::Secret.text());
            }
        }
        assert_eq!(shake(&peers, [right.as_ref(); 2], question, Proof::default()).1, 4);
        assert_eq!(peers.of(ReplicaId(2)).life, hello.named_life());
    }

    #[test]
    fn a_recorded_handshake_is_refused() {
        let secret = Secret::new(&[1; 16]);
        let (ours, peers) = (ours(), PeerMemory::empty());
        let host = Host {
            hello: &ours,
            node_count: 3,
            secret: secret.as_ref(),
            recollection: Recollection::Of(&peers),
        };
        let mut recorded = [Vec::new(), Vec::new()];
        theirs(4, KEY).write(&mut recorded[0]);
        for expected in [None, Some(RefusalCode::Secret)] {
            let (mut opening, mut out) = (Opening::default(), Vec::new());
            opening.push(&recorded[0]);
            assert!(matches!(host.greet(&mut opening, &mut out), Greeting::Challenged));
            if expected.is_none() {
                let before = [&recorded[0][..], &out].concat();
                Proof { key: KEY, ..Proof::default() }.write(secret.as_ref(), &before, &mut recorded[1]);
            }
            opening.push(&recorded[1]);
            out.clear();
            host.greet(&mut opening, &mut out);
            assert_eq!(HelloReply::parse(&out).unwrap().unwrap().0.refusal, expected);
        }
    }
}
