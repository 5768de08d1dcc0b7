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
use panch_wire::peer::{
    Challenge, Earlier, Hello, HelloReply, PacketReader, Proof, Purpose, RefusalCode, Secret,
};
use panch_wire::time::{Duration, Instant};

use crate::complaints::say;
use crate::draw::draw;
use crate::log_io::Places;
use crate::memory::{PeerMemory, render_word};
use crate::peers::OPEN_TIMEOUT;

/// The most streams that have not said who they are, or were refused.
pub(crate) const STRANGERS_MAX: usize = 64;
/// A hello waits this long to be written down; then the other node is told why it is not taken in.
pub(crate) const NOTE_PATIENCE: Duration = Duration::from_secs(1);
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
    /// Since when it waits to be written down.
    waits: Option<Instant>,
}

/// A hello that has to be proven.
struct Challenged {
    hello: Hello,
    /// The bytes of the handshake until now.
    before: Vec<u8>,
    /// What was remembered of the end of its log then, and what was told.
    asked: [LogEnd; 2],
}

impl Opening {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.early.extend_from_slice(bytes);
    }

    /// It has to be written down before it is answered.
    pub(crate) fn wait(&mut self, now: Instant) {
        self.waits.get_or_insert(now);
    }

    /// Whether it has waited for long enough.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.waits.is_some_and(|since| now.since(since) >= NOTE_PATIENCE)
    }

    /// Whether it could go on without more bytes: it waits for something to be written down.
    pub(crate) fn may_go_on(&self) -> bool {
        !self.early.is_empty()
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
            let waits = match &self.state {
                InboundState::Greeting(opening) => opening.waits.map(|since| since + NOTE_PATIENCE),
                _ => None,
            };
            let late = self.since + OPEN_TIMEOUT;
            return Some(waits.map_or(late, |at| at.min(late)));
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

    /// A stranger that has waited for too long to be written down.
    pub(crate) fn late_greeting(&self, now: Instant) -> Option<usize> {
        let mut streams = self.0.iter();
        let found = streams.find(
            |(_, inbound)| matches!(&inbound.state, InboundState::Greeting(opening) if opening.is_late(now)),
        );
        found.map(|(place, _)| place)
    }

    /// The stream on which this core of this node speaks.
    pub(crate) fn stream_of(&self, node: ReplicaId, core: u16) -> Option<usize> {
        let mut streams = self.0.iter();
        let found = streams.find(|(_, inbound)| {
            matches!(inbound.state, InboundState::Up { from, core_index, .. } if (from, core_index) == (node, core))
        });
        found.map(|(place, _)| place)
    }

    /// A stream on which this node speaks.
    pub(crate) fn stream_of_node(&self, node: ReplicaId) -> Option<usize> {
        let mut streams = self.0.iter();
        let found = streams
            .find(|(_, inbound)| matches!(inbound.state, InboundState::Up { from, .. } if from == node));
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
    /// Who says hello has to be written down first.
    Waiting,
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
    /// Whoever waits to be written down has waited for long enough.
    pub(crate) is_late: bool,
}

/// What becomes of a hello whose seal is right.
enum Verdict {
    /// It is refused for this, or else accepted.
    Is(Option<RefusalCode>),
    /// It is accepted once it is written down.
    Waits,
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
                    Ok(Some((proof, true))) => match self.judge(hello, *asked, &proof) {
                        Verdict::Waits => {
                            opening.challenged = Some(challenged);
                            Greeting::Waiting
                        }
                        Verdict::Is(refusal) => {
                            self.answer(hello, refusal, &[&before[..], early].concat(), out)
                        }
                    },
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
            Recollection::Of(peers) => {
                let (node, core) = (hello.node, hello.core_index);
                [peers.of(node).end(core), peers.told_of(node, core).1]
            }
            Recollection::Waiting { .. } => Default::default(),
        };
        opening.challenged = Some(Challenged { hello, before, asked });
        Greeting::Challenged
    }

    /// Why a hello whose seal is right is refused.
    fn judge(&self, hello: &Hello, [asked, asked_told]: [LogEnd; 2], proof: &Proof) -> Verdict {
        let asks = hello.purpose == Purpose::Inquiry;
        let peers = match self.recollection {
            Recollection::Waiting { is_new } => {
                return Verdict::Is((!asks || !is_new).then_some(RefusalCode::NotReady));
            }
            Recollection::Of(_) if asks => return Verdict::Is(None),
            Recollection::Of(peers) => peers,
        };
        if proof.key.life() != hello.life {
            return Verdict::Is(Some(RefusalCode::Malformed));
        }
        let &Proof { earlier, earlier_key, since, .. } = proof;
        let shown = Shown { earlier, earlier_key, since, log_end: Lsn(proof.log_end) };
        let Earlier { incarnation: earlier, key: earlier_key, since, log_end } = proof.told;
        let told = Shown { earlier, earlier_key, since, log_end: Lsn(log_end) };
        let newcomer = Newcomer {
            node: hello.node,
            core: hello.core_index,
            life: hello.named_life(),
            returning: hello.purpose == Purpose::Rejoin,
            is_authentic: self.secret.is_some(),
            asked,
            claim: shown.claim(),
            asked_told,
            told: told.claim(),
        };
        Verdict::Is(match peers.judge(&newcomer) {
            None if !self.is_late => return Verdict::Waits,
            None => Some(RefusalCode::NotReady),
            Some(Judgement::Familiar) => None,
            // Its directory was lost or replaced by an older copy, or a part of its log is gone: it has forgotten votes.
            Some(Judgement::Forgetful) => Some(RefusalCode::Incarnation),
            Some(Judgement::Doubtful) => Some(RefusalCode::Doubtful),
            Some(Judgement::Unmet) => Some(RefusalCode::Unmet),
            Some(Judgement::Unproven) => Some(RefusalCode::Descent),
            Some(Judgement::Unconfirmed) => Some(RefusalCode::Unconfirmed),
            Some(Judgement::Contested) => Some(RefusalCode::Contested),
        })
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
        let last = match self.recollection {
            Recollection::Of(peers) if asks => peers.last_incarnation(hello.node),
            _ => known.life.incarnation,
        };
        let (told, told_end) = match self.recollection {
            Recollection::Of(peers) if !before.is_empty() => peers.told_of(hello.node, hello.core_index),
            _ => Default::default(),
        };
        let memories = if asks { self.tell() } else { String::new() };
        let text = match (refusal, self.recollection) {
            (None, _) => &memories,
            (Some(RefusalCode::NotReady), Recollection::Waiting { is_new: true }) => {
                "it has an empty data directory and waits for the other nodes"
            }
            (Some(RefusalCode::NotReady), Recollection::Waiting { is_new: false }) => {
                "it is on its way back from a loss itself, and waits for the other nodes"
            }
            (Some(RefusalCode::NotReady), Recollection::Of(_)) => {
                "its disk hangs or fails, and who says hello has to be written down there first"
            }
            (Some(code), _) => code.text(),
        };
        let reply = HelloReply {
            version: self.hello.version,
            refusal,
            incarnation: self.hello.incarnation,
            core_count: self.hello.core_count,
            known: last,
            since: known.end(hello.core_index).since,
            told: told.incarnation,
            told_since: told_end.since,
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
mod tests;
