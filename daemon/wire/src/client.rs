//! The native client protocol: pipelined requests, replies in any order, exactly-once sessions, a read level per request.
//!
//! All numbers are little-endian. A connection starts with a [`Hello`] from the client and a [`HelloReply`] from the node;
//! then requests and replies flow independently. A client finds the group of a key with [`crate::slots`]; the rule is
//! fixed, only the group count is told.
//!
//! ```text
//! hello    0 "PNCH"  4 version u16  6 flags u16  8 session u64  16 zero[16]
//! answer   0 "PNCH"  4 version u16  6 refusal u16 (0 = accepted)  8 groups u16  10 text length u16  12 request size max u32
//!          16 node u8  17 zero[15]  32 text
//! request  0 length u32  4 kind u8  5 level u8  6 flags u8  7 zero  8 key length u16  10 zero[6]  16 number u64
//!          24 acked below u64  32 key, value
//! propose  0 length u32  4 126  5 zero  6 flags u8  7 zero  8 zero u16  10 group u16  12 zero[4]  16 number u64
//!          24 zero u64  32 frame
//! reply    0 length u32  4 status u8  5 code u8  6 flags u8  7 zero  8 number u64  16 [stages u32 x 6]  [commit]  payload
//! commit   0 row u8  1 zero[7]  8 number u64  16 stamp u64
//! ```
//!
//! # Sessions
//!
//! A client that wants its commands to take effect once, however often it asks, names a session in its hello and opens it with a
//! request in every group whose keys it writes. The answer is the number that the session's commands begin with in that group: the
//! first has that one, the next ones higher ones, at most 128 at a time without an answer. Opening a session that is open says
//! the same number again, so a client opens it on every new connection. If the number has changed, the session had expired
//! meanwhile and this is another one: what had no answer then is answered with `UnknownSession` under its old number, and
//! the client cannot learn any more whether it took effect.
//!
//! # Clients that propose themselves
//!
//! In a group of Fast Paxos a client may take the proposer's part and save one message delay. It writes a batch of its own
//! ([`BatchWriter::seal_for_client`](crate::batch::BatchWriter::seal_for_client) makes the frame) with a replica of its choice for
//! the batch's home, and sends the same bytes to every node in a `propose` request. The frame's name is a BLAKE3 hash of a number
//! of the client's and the archive: the first two little-endian words of it lie at 32 (of 0, 1) and 40, the number at 48.
//! Every node checks the batch completely: that name; 1 to 128 commands, which share no bytes, all of them writes
//! of the session of the connection's hello and of keys in the named group; no opening, closing or expiry of sessions; a frame
//! that is whole and no larger than a batch of the nodes may be. One that is refused gets one error reply under the request's
//! number: choose that so that no command has it, the highest bit set, say. A sound one is answered by its home alone, with one
//! reply for each command under the command's number in the session.
//!
//! The commands of one batch take effect in their order; batches in flight at once have no order among each other.
//!
//! Every command takes effect once, through the session, which is to be opened with an ordinary request before. So a client
//! that hears nothing, or that the outcome is unknown, asks again under the same numbers: as another batch with another home,
//! or command by command. A batch that one node refuses may have been chosen with the votes of others: after any error the
//! client asks again likewise, or knows that it has sent nonsense. A node without this kind of request answers `Malformed`.
//!
//! Invariants:
//! * The first six bytes of hello and answer never change, so that any two versions can refuse each other politely.
//! * A length is checked against its limit before anything is made of it; nothing here allocates by a foreign length.
//! * A request whose frame is sound but whose content is not gets an error reply; only a broken frame ends the connection.

use crate::command::{Command, CommandError, CommandKind, Reply, SessionHeader, flags};
use crate::fields::{cut, may_start_with, u16_at, u32_at, u64_at};
use crate::ids::{GroupId, ReplicaId};

mod told;

use told::{COMMIT_SIZE, STAGES_SIZE};
pub use told::{Commit, Stages};

/// Version of this protocol.
pub const VERSION: u16 = 2;
/// Bytes of a [`Hello`].
pub const HELLO_SIZE: usize = 32;
/// Bytes of a [`HelloReply`] before its text.
pub const HELLO_REPLY_SIZE: usize = 32;
/// Bytes of a request before its key.
pub const REQUEST_HEADER_SIZE: usize = 32;
/// Bytes of a reply before its stages or payload.
pub const REPLY_HEADER_SIZE: usize = 16;
/// The longest text of a refusal, in bytes.
pub const TEXT_SIZE_MAX: usize = 512;

const MAGIC: &[u8; 4] = b"PNCH";
/// `kind` of a request that asks nothing; command kinds stay below.
const KIND_PING: u8 = 127;
/// `kind` of a request that proposes a batch.
const KIND_PROPOSE: u8 = 126;
/// Request flags: reply with [`Stages`], with [`Commit`]. Beside them a request carries the bits of [`flags`] that clients
/// may set.
const ASK_STAGES: u8 = 0x40;
const ASK_COMMIT: u8 = 0x20;
const COMMAND_FLAGS: u8 = flags::IF_ABSENT | flags::IF_PRESENT | flags::RETURN_OLD;
/// Reply flags: [`Stages`], then [`Commit`], follow the header.
const HAS_STAGES: u8 = 1;
const HAS_COMMIT: u8 = 2;

/// Why the bytes of a client, or of a node towards a client, end the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientFault {
    /// The first bytes are not those of this protocol.
    #[error("not the native client protocol")]
    Magic,
    /// A length is above the agreed limit or below its own header.
    #[error("length {0} is out of range")]
    Length(u32),
    /// The parts do not fill the whole, or a reserved field is in use.
    #[error("malformed header")]
    Malformed,
}

/// What a client says first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The client's protocol version.
    pub version: u16,
    /// Reserved; a node ignores bits that it does not know.
    pub flags: u16,
    /// The client's session, chosen at random by the client; 0 for a client that does not need exactly-once.
    pub session: u64,
}

impl Hello {
    /// A hello of this version.
    pub fn new(session: u64) -> Self {
        Self { version: VERSION, flags: 0, session }
    }

    /// Appends the hello.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.session.to_le_bytes());
        out.extend_from_slice(&[0; 16]);
    }

    /// Reads a hello from the front of `bytes`; its size is [`HELLO_SIZE`]. `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`ClientFault::Magic`] as early as the bytes can no longer be a hello.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, ClientFault> {
        if !may_start_with(bytes, MAGIC) {
            return Err(ClientFault::Magic);
        }
        Ok((bytes.len() >= HELLO_SIZE).then(|| Self {
            version: u16_at(bytes, 4),
            flags: u16_at(bytes, 6),
            session: u64_at(bytes, 8),
        }))
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// Why a node does not take a client.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum RefusalCode {
            $($(#[$doc])* $name,)*
            /// A reason that this version does not know.
            Other(u16),
        }

        impl RefusalCode {
            /// The reason with this number; 0 is no refusal.
            pub fn from_code(code: u16) -> Option<Self> {
                match code { 0 => None, $($code => Some(Self::$name),)* other => Some(Self::Other(other)) }
            }
            /// The number on the wire, never 0.
            pub fn code(self) -> u16 {
                match self { $(Self::$name => $code,)* Self::Other(other) => other.max(1) }
            }
        }
    };
}

refusals! {
    /// The node does not speak the client's version.
    Version = 1,
    /// The node has as many connections as it allows.
    TooManyConnections = 2,
    /// The node is starting or stopping.
    NotReady = 3,
}

/// What a node answers to a [`Hello`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelloReply<'a> {
    /// The node's protocol version: the connection speaks this one if accepted.
    pub version: u16,
    /// `None` if accepted.
    pub refusal: Option<RefusalCode>,
    /// The node.
    pub node: ReplicaId,
    /// How many groups the keys are spread over.
    pub group_count: u16,
    /// The largest request, header included, in bytes.
    pub request_size_max: u32,
    /// For people, when refused.
    pub text: &'a str,
}

impl<'a> HelloReply<'a> {
    /// Appends the answer; a text longer than [`TEXT_SIZE_MAX`] is cut.
    pub fn write(&self, out: &mut Vec<u8>) {
        let text = cut(self.text, TEXT_SIZE_MAX);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.refusal.map_or(0, RefusalCode::code).to_le_bytes());
        out.extend_from_slice(&self.group_count.to_le_bytes());
        out.extend_from_slice(&(text.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.request_size_max.to_le_bytes());
        out.push(self.node.0);
        out.extend_from_slice(&[0; 15]);
        out.extend_from_slice(text.as_bytes());
    }

    /// Reads an answer from the front of `bytes`, and how many bytes it takes. `None` if more bytes are needed.
    ///
    /// # Errors
    /// If these are not the bytes of an answer.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, ClientFault> {
        if !may_start_with(bytes, MAGIC) {
            return Err(ClientFault::Magic);
        }
        if bytes.len() < HELLO_REPLY_SIZE {
            return Ok(None);
        }
        let text_size = usize::from(u16_at(bytes, 10));
        if text_size > TEXT_SIZE_MAX {
            return Err(ClientFault::Length(text_size as u32));
        }
        let end = HELLO_REPLY_SIZE + text_size;
        let Some(text) = bytes.get(HELLO_REPLY_SIZE..end) else { return Ok(None) };
        let reply = Self {
            version: u16_at(bytes, 4),
            refusal: RefusalCode::from_code(u16_at(bytes, 6)),
            node: ReplicaId(bytes[16]),
            group_count: u16_at(bytes, 8),
            request_size_max: u32_at(bytes, 12),
            text: str::from_utf8(text).map_err(|_| ClientFault::Malformed)?,
        };
        Ok(Some((reply, end)))
    }
}

/// How fresh the answer to a read must be. Ignored for writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum ReadLevel {
    /// Linearizable: the read is decided like a write.
    Log = 0,
    /// Linearizable: a quorum confirms that the replica may answer (ReadIndex and its equivalents).
    #[default]
    Quorum = 1,
    /// Linearizable as long as clocks drift less than configured; `Quorum` where no lease is held.
    Lease = 2,
    /// Whatever this replica has applied.
    Stale = 3,
    /// The level that the node's configuration names (`default_read_level`).
    Default = 4,
}

impl ReadLevel {
    /// The level with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Log),
            1 => Some(Self::Quorum),
            2 => Some(Self::Lease),
            3 => Some(Self::Stale),
            4 => Some(Self::Default),
            _ => None,
        }
    }
}

/// What a request asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation<'a> {
    /// Answer [`Answer::Pong`], nothing else.
    Ping,
    /// Apply this command.
    Command(Command<'a>),
    /// Vote for this batch of the client's own; if its home is here, answer its commands.
    Propose {
        /// The group of all its keys.
        group: GroupId,
        /// The frame, of which nothing was checked.
        frame: &'a [u8],
    },
    /// Its bytes mean nothing: answer with this error. Never written.
    Invalid(CommandError),
}

/// One request, borrowed from the receive buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestView<'a> {
    /// Names the request: unique among the outstanding ones of the connection. With a session, the number of the command
    /// in the session, from the one that its opening was answered with; that of an opening itself is any.
    pub number: u64,
    /// With a session: the client has the replies of all numbers below this one.
    pub acked_below: u64,
    /// For reads.
    pub level: ReadLevel,
    /// Reply with [`Stages`].
    pub ask_stages: bool,
    /// Reply with [`Commit`].
    pub ask_commit: bool,
    /// What is asked.
    pub operation: Operation<'a>,
}

/// What both sides of a connection agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The session of the hello, 0 for none.
    pub session: u64,
    /// The largest request, header included, in bytes.
    pub request_size_max: u32,
}

/// Reads a request from the front of `bytes`, and how many bytes it takes. `None` if more bytes are needed.
///
/// Commands that change the state carry the session of `terms`; reads do not, since repeating one harms nobody.
///
/// # Errors
/// Only if the frame is broken, so that the next request cannot be found: close the connection.
pub fn parse_request<'a>(
    bytes: &'a [u8],
    terms: &Terms,
) -> Result<Option<(RequestView<'a>, usize)>, ClientFault> {
    let Some(length) = whole(bytes, REQUEST_HEADER_SIZE, terms.request_size_max)? else { return Ok(None) };
    let Some(bytes) = bytes.get(..length) else { return Ok(None) };
    let key_end = REQUEST_HEADER_SIZE + usize::from(u16_at(bytes, 8));
    if key_end > length || bytes[6] & !(COMMAND_FLAGS | ASK_STAGES | ASK_COMMIT) != 0 || bytes[7] != 0 {
        return Err(ClientFault::Malformed);
    }
    let number = u64_at(bytes, 16);
    let acked_below = u64_at(bytes, 24);
    let level = ReadLevel::from_code(bytes[5]);
    let operation = if bytes[4] == KIND_PING {
        Operation::Ping
    } else if bytes[4] == KIND_PROPOSE {
        // Nothing of a command belongs to it: what is there would be ignored, today.
        let is_plain = key_end == REQUEST_HEADER_SIZE && bytes[6] & !ASK_COMMIT == 0 && acked_below == 0;
        if is_plain {
            Operation::Propose { group: GroupId(u16_at(bytes, 10)), frame: &bytes[REQUEST_HEADER_SIZE..] }
        } else {
            Operation::Invalid(CommandError::Malformed)
        }
    } else {
        let command = CommandKind::from_code(bytes[4]).map(|kind| Command {
            kind,
            flags: bytes[6] & COMMAND_FLAGS,
            session: (terms.session != 0 && !kind.is_read()).then_some(SessionHeader {
                session: terms.session,
                number,
                acked_below,
            }),
            key: &bytes[REQUEST_HEADER_SIZE..key_end],
            value: &bytes[key_end..],
        });
        match command {
            // Expiry of sessions is the nodes' own decision; a client could end the sessions of others with it.
            Some(command)
                if command.kind != CommandKind::ExpireSessions && level.is_some() && command.is_valid() =>
            {
                Operation::Command(command)
            }
            _ => Operation::Invalid(CommandError::Malformed),
        }
    };
    let request = RequestView {
        number,
        acked_below,
        level: level.unwrap_or_default(),
        ask_stages: bytes[6] & ASK_STAGES != 0,
        ask_commit: bytes[6] & ASK_COMMIT != 0,
        operation,
    };
    Ok(Some((request, length)))
}

/// Appends a request. The session of a command is not written: it is the connection's.
///
/// # Panics
/// If the key is longer than [`KEY_SIZE_MAX`](crate::command::KEY_SIZE_MAX), the whole longer than `u32::MAX`, or the
/// operation is [`Operation::Invalid`].
pub fn write_request(request: &RequestView<'_>, out: &mut Vec<u8>) {
    let mut group = GroupId(0);
    let (kind, mut bits, key, value) = match &request.operation {
        Operation::Ping => (KIND_PING, 0, [].as_slice(), [].as_slice()),
        Operation::Propose { group: of, frame } => {
            group = *of;
            (KIND_PROPOSE, 0, [].as_slice(), *frame)
        }
        Operation::Command(command) => {
            (command.kind as u8, command.flags & COMMAND_FLAGS, command.key, command.value)
        }
        Operation::Invalid(_) => panic!("an invalid operation is only ever read"),
    };
    if request.ask_stages {
        bits |= ASK_STAGES;
    }
    if request.ask_commit {
        bits |= ASK_COMMIT;
    }
    let length = REQUEST_HEADER_SIZE + key.len() + value.len();
    let length = u32::try_from(length).expect("a request is below 4 GiB");
    let key_size = u16::try_from(key.len()).expect("a key has at most KEY_SIZE_MAX bytes");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[kind, request.level as u8, bits, 0]);
    out.extend_from_slice(&key_size.to_le_bytes());
    out.extend_from_slice(&group.0.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&request.number.to_le_bytes());
    out.extend_from_slice(&request.acked_below.to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

/// What a request is answered with: a [`Reply`] as a client sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// Done.
    Ok,
    /// No such value, or a condition that did not hold.
    Nil,
    /// A number.
    Int(i64),
    /// A value.
    Bytes(&'a [u8]),
    /// A short text.
    Status(&'a str),
    /// As [`Reply::Array`].
    Array(&'a [u8]),
    /// The command was not applied, unless the error says that this is not known.
    Error(CommandError),
    /// As [`Reply::Replies`].
    Replies(&'a [u8]),
    /// To [`Operation::Ping`].
    Pong,
}

impl<'a> From<Reply<'a>> for Answer<'a> {
    fn from(reply: Reply<'a>) -> Self {
        match reply {
            Reply::Ok => Self::Ok,
            Reply::Nil => Self::Nil,
            Reply::Int(number) => Self::Int(number),
            Reply::Bytes(bytes) => Self::Bytes(bytes),
            Reply::Status(text) => Self::Status(text),
            Reply::Array(items) => Self::Array(items),
            Reply::Error(error) => Self::Error(error),
            Reply::Replies(items) => Self::Replies(items),
        }
    }
}

/// One reply, borrowed from the receive buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyView<'a> {
    /// The request's number.
    pub number: u64,
    /// If asked for, and known.
    pub stages: Option<Stages>,
    /// If asked for, and known.
    pub commit: Option<Commit>,
    /// The answer.
    pub answer: Answer<'a>,
}

const STATUS_OK: u8 = 0;
const STATUS_NIL: u8 = 1;
const STATUS_INT: u8 = 2;
const STATUS_BYTES: u8 = 3;
const STATUS_TEXT: u8 = 4;
const STATUS_ARRAY: u8 = 5;
const STATUS_ERROR: u8 = 6;
const STATUS_PONG: u8 = 7;
const STATUS_REPLIES: u8 = 8;

/// Appends a reply.
///
/// # Panics
/// If it is longer than `u32::MAX` bytes.
pub fn write_reply(reply: &ReplyView<'_>, out: &mut Vec<u8>) {
    let number;
    let (status, code, payload) = match reply.answer {
        Answer::Ok => (STATUS_OK, 0, [].as_slice()),
        Answer::Nil => (STATUS_NIL, 0, [].as_slice()),
        Answer::Int(value) => {
            number = value.to_le_bytes();
            (STATUS_INT, 0, number.as_slice())
        }
        Answer::Bytes(bytes) => (STATUS_BYTES, 0, bytes),
        Answer::Status(text) => (STATUS_TEXT, 0, text.as_bytes()),
        Answer::Array(items) => (STATUS_ARRAY, 0, items),
        Answer::Error(error) => (STATUS_ERROR, error as u8, [].as_slice()),
        Answer::Pong => (STATUS_PONG, 0, [].as_slice()),
        Answer::Replies(items) => (STATUS_REPLIES, 0, items),
    };
    let (mut bits, mut length) = (0, REPLY_HEADER_SIZE + payload.len());
    if reply.stages.is_some() {
        bits |= HAS_STAGES;
        length += STAGES_SIZE;
    }
    if reply.commit.is_some() {
        bits |= HAS_COMMIT;
        length += COMMIT_SIZE;
    }
    let length = u32::try_from(length).expect("a reply is below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[status, code, bits, 0]);
    out.extend_from_slice(&reply.number.to_le_bytes());
    if let Some(stages) = &reply.stages {
        stages.write(out);
    }
    if let Some(commit) = &reply.commit {
        commit.write(out);
    }
    out.extend_from_slice(payload);
}

/// Reads a reply from the front of `bytes`, and how many bytes it takes. `None` if more bytes are needed.
///
/// # Errors
/// If the bytes are not those of a node that speaks this version, or the reply is longer than `reply_size_max`.
pub fn parse_reply(bytes: &[u8], reply_size_max: u32) -> Result<Option<(ReplyView<'_>, usize)>, ClientFault> {
    let Some(length) = whole(bytes, REPLY_HEADER_SIZE, reply_size_max)? else { return Ok(None) };
    let Some(bytes) = bytes.get(..length) else { return Ok(None) };
    let mut payload = &bytes[REPLY_HEADER_SIZE..];
    let (mut stages, mut commit) = (None, None);
    if bytes[6] != 0 {
        if bytes[6] & !(HAS_STAGES | HAS_COMMIT) != 0 {
            return Err(ClientFault::Malformed);
        }
        if bytes[6] & HAS_STAGES != 0 {
            stages = Some(Stages::read(take(&mut payload)?));
        }
        if bytes[6] & HAS_COMMIT != 0 {
            commit = Some(Commit::read(take(&mut payload)?));
        }
    }
    let answer = match (bytes[4], payload) {
        (STATUS_OK, []) => Answer::Ok,
        (STATUS_NIL, []) => Answer::Nil,
        (STATUS_INT, number) => {
            Answer::Int(i64::from_le_bytes(number.try_into().map_err(|_| ClientFault::Malformed)?))
        }
        (STATUS_BYTES, value) => Answer::Bytes(value),
        (STATUS_TEXT, text) => Answer::Status(str::from_utf8(text).map_err(|_| ClientFault::Malformed)?),
        (STATUS_ARRAY, items) => Answer::Array(items),
        (STATUS_ERROR, []) => Answer::Error(CommandError::from_code(bytes[5]).ok_or(ClientFault::Malformed)?),
        (STATUS_PONG, []) => Answer::Pong,
        (STATUS_REPLIES, items) => Answer::Replies(items),
        _ => return Err(ClientFault::Malformed),
    };
    Ok(Some((ReplyView { number: u64_at(bytes, 8), stages, commit, answer }, length)))
}

/// Cuts a block off the front of what follows the header.
fn take<'a, const SIZE: usize>(payload: &mut &'a [u8]) -> Result<&'a [u8; SIZE], ClientFault> {
    let (block, rest) = payload.split_first_chunk().ok_or(ClientFault::Malformed)?;
    *payload = rest;
    Ok(block)
}

/// Bytes of the request at the front of `bytes`, as it says itself; 0 if it has not said it yet. [`parse_request`] judges it.
pub fn request_size(bytes: &[u8]) -> usize {
    bytes.split_first_chunk::<4>().map_or(0, |(length, _)| u32::from_le_bytes(*length) as usize)
}

/// The number of the request at the front of `bytes`, once its header is there.
pub fn request_number(bytes: &[u8]) -> Option<u64> {
    (bytes.len() >= REQUEST_HEADER_SIZE).then(|| u64_at(bytes, 16))
}

/// The length in the first four bytes, once the header is there. A bad length is refused as soon as it is known.
fn whole(bytes: &[u8], header_size: usize, size_max: u32) -> Result<Option<usize>, ClientFault> {
    let Some((length, _)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length);
    if length > size_max || (length as usize) < header_size {
        return Err(ClientFault::Length(length));
    }
    Ok((bytes.len() >= header_size).then_some(length as usize))
}

#[cfg(test)]
mod tests;
