//! One client connection: what it sent and was not understood yet, what it is owed, how it speaks.

use std::net::SocketAddr;

use panch_replica::outbox::ReplyTo;
use panch_ring::ring::SocketId;
use panch_wire::client::{self, Commit, ReplyView, Terms};
use panch_wire::command::Reply;
use panch_wire::resp::{self, Parser};
use panch_wire::time::Instant;

use super::arrivals::Arrivals;
use super::multi::{Multi, Told};
use super::order::ReplyOrder;
use super::{OUTSTANDING_MAX, Room};

/// Names a connection for as long as it lives: the core, a generation and a place in the core's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionKey(pub(crate) u64);

/// In the address of a reply, beside the key: the client asked where its command was committed.
const ASKS_COMMIT: u64 = 1 << 63;
const INDEX_BITS: u32 = 24;
const GENERATION_BITS: u32 = 24;
/// The most connections of one core.
pub(crate) const CONNECTIONS_MAX: usize = 1 << INDEX_BITS;

impl ConnectionKey {
    pub(crate) fn new(core: usize, generation: u32, index: usize) -> Self {
        let generation = u64::from(generation) & ((1 << GENERATION_BITS) - 1);
        Self((core as u64) << (INDEX_BITS + GENERATION_BITS) | generation << INDEX_BITS | index as u64)
    }
    /// The address of the reply to a request on this connection.
    pub(crate) fn address(self, request: u64, asks_commit: bool) -> ReplyTo {
        ReplyTo { connection: self.0 | if asks_commit { ASKS_COMMIT } else { 0 }, request }
    }
    /// What [`ConnectionKey::address`] put into an address: the connection, and whether it asked.
    pub(crate) fn addressed(to: ReplyTo) -> (Self, bool) {
        (Self(to.connection & !ASKS_COMMIT), to.connection & ASKS_COMMIT != 0)
    }
    pub(crate) fn core(self) -> usize {
        (self.0 >> (INDEX_BITS + GENERATION_BITS)) as usize
    }
    pub(crate) fn index(self) -> usize {
        (self.0 & ((1 << INDEX_BITS) - 1)) as usize
    }
}

/// How a connection speaks.
pub(crate) enum Speech {
    /// Redis' protocol.
    Resp(Box<RespSpeech>),
    /// The native protocol.
    Native(NativeSpeech),
}

/// The state of a RESP connection.
pub(crate) struct RespSpeech {
    pub(crate) parser: Parser,
    pub(crate) resp3: bool,
    pub(crate) order: ReplyOrder,
    pub(crate) multi: Multi,
    /// Reads may be stale (READONLY).
    pub(crate) readonly: bool,
    pub(crate) name: Vec<u8>,
    pub(crate) library: Vec<u8>,
    pub(crate) library_version: Vec<u8>,
}

/// The state of a native connection.
pub(crate) struct NativeSpeech {
    /// `None` before the hello.
    pub(crate) terms: Option<Terms>,
    pub(crate) outstanding: usize,
}

/// One client connection.
pub(crate) struct Connection {
    pub(crate) key: ConnectionKey,
    pub(crate) socket: SocketId,
    pub(crate) address: Option<SocketAddr>,
    /// Number for CLIENT ID: unique on the node.
    pub(crate) id: u64,
    pub(crate) since: Instant,
    pub(crate) speech: Speech,
    /// Received and not yet consumed.
    pub(crate) input: Vec<u8>,
    /// When that arrived.
    pub(crate) arrivals: Arrivals,
    /// When the request at the front of the input, which waits for room, is to be refused.
    pub(crate) waits_until: Option<Instant>,
    /// Replies not yet given to the ring.
    pub(crate) output: Vec<u8>,
    /// The largest reply so far, or value written: what the next read may return. 0 if there was none.
    pub(crate) largest: usize,
    /// In the table's list of connections with output.
    pub(crate) dirty: bool,
    /// A list of replies is with the ring.
    pub(crate) sending: bool,
    /// In the table's list of connections that wait for room.
    pub(crate) stalled: bool,
    /// The ring was told to receive no more.
    pub(crate) paused: bool,
    /// Close once everything is sent.
    pub(crate) closing: bool,
    /// The client sends no more.
    pub(crate) ended: bool,
    /// More is owed to it than may be held: it is being closed, and nothing more is held.
    pub(crate) overrun: bool,
}

impl Connection {
    pub(crate) fn new(
        key: ConnectionKey,
        socket: SocketId,
        address: Option<SocketAddr>,
        id: u64,
        since: Instant,
        speech: Speech,
    ) -> Self {
        Self {
            key,
            socket,
            address,
            id,
            since,
            speech,
            input: Vec::new(),
            arrivals: Arrivals::default(),
            waits_until: None,
            output: Vec::new(),
            largest: 0,
            dirty: false,
            sending: false,
            stalled: false,
            paused: false,
            closing: false,
            ended: false,
            overrun: false,
        }
    }

    /// Encodes the reply to request `number`; with `commit` if the request asked for it.
    pub(crate) fn reply(&mut self, number: u64, reply: Reply<'_>, commit: Option<&Commit>) {
        let size = match &mut self.speech {
            Speech::Resp(speech) => {
                let (resp3, output) = (speech.resp3, &mut self.output);
                match speech.multi.on_reply(number, &reply) {
                    Told::Reply => speech.order.reply(number, &reply, resp3, output),
                    Told::Watched => speech.order.complete(number, output, resp::ok),
                    Told::Changed => {
                        speech.order.complete(number, output, |out| resp::null_array(resp3, out))
                    }
                }
            }
            Speech::Native(speech) => {
                speech.outstanding = speech.outstanding.saturating_sub(1);
                let view = ReplyView { number, stages: None, commit: commit.copied(), answer: reply.into() };
                let before = self.output.len();
                client::write_reply(&view, &mut self.output);
                self.output.len() - before
            }
        };
        self.largest = self.largest.max(size);
    }

    /// Whether no more requests are to be taken in: the replies owed and those still expected would not fit into `room`.
    /// With nothing owed there is always room for one.
    pub(crate) fn is_full(&self, room: &Room) -> bool {
        let outstanding = self.outstanding();
        let outstanding_max = if self.largest == 0 { room.unknown_max } else { OUTSTANDING_MAX };
        let expected = outstanding.saturating_mul(self.largest);
        outstanding >= outstanding_max
            || expected.saturating_add(self.held()).saturating_add(room.unsent) > room.size_max
    }

    /// Whether replies are still to be sent.
    pub(crate) fn is_owed(&self) -> bool {
        self.outstanding() > 0 || self.sending || !self.output.is_empty()
    }

    /// Requests without a reply.
    pub(crate) fn outstanding(&self) -> usize {
        match &self.speech {
            Speech::Resp(speech) => speech.order.len(),
            Speech::Native(speech) => speech.outstanding,
        }
    }

    /// Bytes of replies held for this connection, those with the ring not counted.
    pub(crate) fn held(&self) -> usize {
        let side = match &self.speech {
            Speech::Resp(speech) => speech.order.side_size(),
            Speech::Native(_) => 0,
        };
        self.output.len() + side
    }
}
