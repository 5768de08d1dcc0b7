//! One client connection: what it sent and was not understood yet, what it is owed, how it speaks.

use std::collections::HashMap;
use std::net::SocketAddr;

use panch_replica::kv::SMALL_REPLY_SIZE;
use panch_replica::outbox::ReplyTo;
use panch_ring::ring::SocketId;
use panch_wire::client::{self, Answer, Commit, ReplyView, Terms};
use panch_wire::command::{CommandError, Reply, list};
use panch_wire::resp::{self, Parser};
use panch_wire::time::Instant;

use super::OUTSTANDING_MAX;
use super::arrivals::Arrivals;
use super::multi::{Multi, Told};
use super::order::{Class, ReplyOrder};
use super::output::Output;

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
#[derive(Default)]
pub(crate) struct NativeSpeech {
    /// `None` before the hello.
    pub(crate) terms: Option<Terms>,
    pub(crate) outstanding: usize,
    /// Bytes that the replies to those will take, as far as that can be foreseen.
    pub(crate) reserved: usize,
    /// Requests whose replies are long, by number: how many, since nothing keeps a client from using a number twice, and how much more than
    /// the least they take together.
    long: HashMap<u64, (usize, usize)>,
}

/// Replies that are not so much longer than the least are counted like those.
const LONG_SIZE_MIN: usize = 256;
/// Memory for so many of them is kept.
const LONG_KEPT_MAX: usize = 64;

impl NativeSpeech {
    /// A request is outstanding whose reply will take so much more than the least.
    pub(crate) fn begin(&mut self, number: u64, reserved: usize) {
        self.outstanding += 1;
        self.reserved += SMALL_REPLY_SIZE;
        if reserved > LONG_SIZE_MIN {
            self.reserved += reserved;
            let (count, sum) = self.long.entry(number).or_default();
            (*count, *sum) = (*count + 1, *sum + reserved);
        }
    }

    /// What was reserved beyond the least for a request of that number.
    fn take_long(&mut self, number: u64) -> usize {
        if self.long.is_empty() {
            return 0;
        }
        let Some((count, sum)) = self.long.get_mut(&number) else { return 0 };
        let one = *sum / *count;
        (*count, *sum) = (*count - 1, *sum - one);
        if *count == 0 {
            self.long.remove(&number);
        }
        if self.long.is_empty() && self.long.capacity() > LONG_KEPT_MAX {
            self.long = HashMap::new();
        }
        one
    }

    /// One is answered. Returns what was reserved for it.
    fn end(&mut self, number: u64) -> usize {
        self.outstanding = self.outstanding.saturating_sub(1);
        let reserved = SMALL_REPLY_SIZE + self.take_long(number);
        self.reserved = self.reserved.saturating_sub(reserved);
        reserved
    }
}

/// One client connection.
pub(crate) struct Connection {
    pub(crate) key: ConnectionKey,
    pub(crate) socket: SocketId,
    pub(crate) address: Option<SocketAddr>,
    /// Number for CLIENT ID: unique on the node.
    pub(crate) id: u64,
    pub(crate) since: Instant,
    /// The last command, for people.
    pub(crate) command: &'static str,
    pub(crate) speech: Speech,
    /// Received and not yet consumed.
    pub(crate) input: Vec<u8>,
    /// Bytes of it without which the request at its front is not complete, as far as that is known.
    pub(crate) needed: usize,
    /// There is no memory for that, since then.
    pub(crate) lacks_room: Option<Instant>,
    /// When the request at the front began to come.
    pub(crate) began: Instant,
    /// When that arrived.
    pub(crate) arrivals: Arrivals,
    /// When the request at the front of the input, which waits for room, is to be refused.
    pub(crate) waits_until: Option<Instant>,
    /// Replies not yet given to the ring.
    pub(crate) output: Output,
    /// Bytes with the ring that the kernel had not taken when it was last looked at.
    pub(crate) unsent: usize,
    /// The longest value that it wrote since it last had no unanswered write: what a read behind that may return.
    pub(crate) written: usize,
    /// What it is counted with, see [`Share`](super::memory::Share).
    pub(crate) counted: usize,
    /// When its client last did something for it: took replies, or sent something.
    pub(crate) moved: Instant,
    /// What the kernel knew of that: bytes acknowledged and received.
    pub(crate) progress: (u64, u64),
    /// How long values were lately that it asked for: what one that cannot be looked up may return.
    pub(crate) likely_size: usize,
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
            command: "NULL",
            speech,
            input: Vec::new(),
            needed: 0,
            lacks_room: None,
            began: since,
            arrivals: Arrivals::default(),
            waits_until: None,
            output: Output::default(),
            unsent: 0,
            written: 0,
            counted: 0,
            moved: since,
            progress: (0, 0),
            likely_size: usize::MAX,
            dirty: false,
            sending: false,
            stalled: false,
            paused: false,
            closing: false,
            ended: false,
            overrun: false,
        }
    }

    /// Encodes the reply to request `number`; with `commit` if the request asked for it. Returns by how many bytes it is longer than
    /// what was reserved.
    pub(crate) fn reply(&mut self, number: u64, reply: Reply<'_>, commit: Option<&Commit>) -> usize {
        if let Some(size) = longest_value(&reply) {
            self.likely_size = size.max(self.likely_size / 2);
        }
        match &mut self.speech {
            Speech::Resp(speech) => {
                let (resp3, output) = (speech.resp3, &mut self.output);
                let reserved = speech.order.reserved_of(number);
                let size = match speech.multi.on_reply(number, &reply) {
                    Told::Reply => speech.order.reply(number, &reply, resp3, output),
                    Told::Watched => speech.order.complete(number, output, resp::ok),
                    Told::Changed => {
                        speech.order.complete(number, output, |out| resp::null_array(resp3, out))
                    }
                };
                size.saturating_sub(reserved)
            }
            Speech::Native(speech) => {
                let reserved = speech.end(number);
                let view = ReplyView { number, stages: None, commit: commit.copied(), answer: reply.into() };
                let output = self.output.tail(panch_wire::reply::size(&reply));
                let before = output.len();
                client::write_reply(&view, output);
                (output.len() - before).saturating_sub(reserved)
            }
        }
    }

    /// Answers a request that is not all there, before the connection is closed.
    pub(crate) fn refuse_unfinished(&mut self, error: CommandError) {
        match &mut self.speech {
            Speech::Resp(speech) => {
                let number = speech.order.begin(Class::Immediate);
                speech.order.complete(number, &mut self.output, |out| resp::error(error.text(), out));
            }
            Speech::Native(_) => {
                let Some(number) = client::request_number(&self.input) else { return };
                let view = ReplyView { number, stages: None, commit: None, answer: Answer::Error(error) };
                client::write_reply(&view, self.output.tail(0));
            }
        }
    }

    /// Whether no request is to be taken in, however small its reply.
    pub(crate) fn is_full(&self, room: usize) -> bool {
        self.outstanding() >= OUTSTANDING_MAX || self.owed() + SMALL_REPLY_SIZE > room
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
        self.output.size() + side
    }

    /// Bytes of replies, those that are to come included, the ring's not.
    pub(crate) fn owed(&self) -> usize {
        let expected = match &self.speech {
            Speech::Resp(speech) => speech.order.owed(),
            Speech::Native(speech) => speech.reserved,
        };
        self.output.size() + expected
    }

    /// Bytes of memory that the connection takes, or will once its replies are there.
    pub(crate) fn size(&self) -> usize {
        let (queued, parsed) = self.begun_size();
        self.input.capacity() + self.output.spare_size() + self.owed() + self.unsent + queued + parsed
    }

    /// Bytes beside the input: of commands that are queued, and of arguments that were found and names.
    fn begun_size(&self) -> (usize, usize) {
        match &self.speech {
            Speech::Resp(speech) => {
                let names = [&speech.name, &speech.library, &speech.library_version];
                let names: usize = names.iter().map(|name| name.capacity()).sum();
                (speech.multi.size(), speech.parser.size() + names)
            }
            Speech::Native(_) => (0, 0),
        }
    }

    /// Bytes that are held until its client does something: reads, or finishes what it has begun.
    pub(crate) fn lying(&self) -> usize {
        if self.sending {
            self.held() + self.unsent
        } else if self.outstanding() > 0 || self.stalled {
            0 // the client waits for the node
        } else {
            let (queued, parsed) = self.begun_size();
            self.input.len() + queued + if self.input.is_empty() { 0 } else { parsed }
        }
    }
}

/// The length of the longest value in the reply to a command that asks for some.
fn longest_value(reply: &Reply<'_>) -> Option<usize> {
    match reply {
        Reply::Bytes(value) => Some(value.len()),
        Reply::Nil => Some(0),
        Reply::Array(items) if items.len() <= SMALL_REPLY_SIZE => Some(items.len()),
        Reply::Array(items) | Reply::Replies(items) => list::items(items).map(<[u8]>::len).max(),
        Reply::Ok | Reply::Int(_) | Reply::Status(_) | Reply::Error(_) => None,
    }
}
