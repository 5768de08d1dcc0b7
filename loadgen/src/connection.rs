//! One client connection without its socket: what is outstanding, how requests are written and replies are matched.
//!
//! Invariants:
//! * At most `pipeline` requests are outstanding.
//! * Every request ends exactly once: answered by [`Connection::receive`], or given back by [`Connection::abandon`] or
//!   [`Connection::give_up`].
//! * With a session a request keeps its number until it is answered, over however many sockets, or until the session has expired: see
//!   `session.rs`.
//! * Nothing allocates per request once the buffers have grown to their working size.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use panch_wire::client::{
    self, Answer as NativeAnswer, ClientFault, Hello, HelloReply, ReadLevel, RequestView,
};
use panch_wire::command::{Command, CommandError, CommandKind, SessionHeader};
use panch_wire::time::Instant;

use crate::direct::{Batches, PROPOSALS};
use crate::resp::{self, RespFault, RespReply};
use crate::session::{self, Session};
use crate::workload::{Operation, OperationKind, VALUE_SIZE_MAX};

/// What a server speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// panch's own: replies in any order, read levels.
    Native,
    /// Redis': replies in order.
    Resp,
}

impl FromStr for Protocol {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "native" => Ok(Self::Native),
            "resp" => Ok(Self::Resp),
            _ => Err("choose native or resp".to_owned()),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Resp => "resp",
        })
    }
}

/// A request on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    /// What was asked.
    pub operation: Operation,
    /// When it was due.
    pub intended: Instant,
    /// Before it was given to the kernel.
    pub sent: Instant,
}

/// What a server says to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// Done.
    Ok,
    /// There is no such value.
    Nil,
    /// A number.
    Integer(i64),
    /// A value.
    Value(&'a [u8]),
    /// Refused.
    Error {
        /// The server's words.
        text: &'a str,
        /// Whether the command may nevertheless have been applied.
        maybe_applied: bool,
    },
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionFault {
    /// The server does not speak the native protocol, or speaks it wrongly.
    #[error("native protocol: {0}")]
    Native(#[from] ClientFault),
    /// The server does not speak RESP, or speaks it wrongly.
    #[error("{0}")]
    Resp(#[from] RespFault),
    /// The node does not take this client.
    #[error("the node refuses the connection: {0}")]
    Refused(String),
    /// A reply to a request that was never made, or was answered already.
    #[error("a reply to no request")]
    Unasked,
    /// The node could not say what became of a request of a session: another one may.
    #[error("to be asked again: {0}")]
    AskAgain(&'static str),
    /// A request of this size would be refused.
    #[error("the node takes requests of at most {0} bytes")]
    RequestTooLarge(u32),
}

/// The longest reply that is accepted, in bytes.
const REPLY_SIZE_MAX: usize = VALUE_SIZE_MAX + (64 << 10);
/// What pipelines are bounded by: a request's place is the low 16 bits of its number.
pub const PIPELINE_MAX: usize = 1 << 16;

/// The most outstanding requests that a connection can have: with a session, as many as the nodes remember.
pub fn pipeline_max(has_session: bool) -> usize {
    if has_session { session::WINDOW } else { PIPELINE_MAX }
}

/// The state of one connection.
pub struct Connection {
    pipeline: usize,
    outstanding: Outstanding,
    ready: bool,
    /// The beginning of a reply whose rest has not come yet.
    partial: Vec<u8>,
    read_level: ReadLevel,
    /// The longest request that will be made.
    request_size: usize,
    /// Writes leave in batches that the client proposes itself.
    batches: Option<Batches>,
    /// Batches that waited may leave.
    wants_flush: bool,
}

enum Outstanding {
    /// Replies come in the order of the requests.
    InOrder(VecDeque<Pending>),
    /// Replies name their request: the slot in the low 16 bits, a sequence number above.
    Numbered { slots: Vec<Option<(u64, Pending)>>, free: Vec<u16>, sequence: u64 },
    /// As numbered, and repeated until they are answered.
    Session(Session),
}

impl Connection {
    /// A connection that is not open yet. `request_size` is the most bytes that key and value of one request have.
    ///
    /// # Panics
    /// If `pipeline` is zero or above [`PIPELINE_MAX`].
    pub fn new(protocol: Protocol, pipeline: usize, read_level: ReadLevel, request_size: usize) -> Self {
        assert!((1..=PIPELINE_MAX).contains(&pipeline));
        let outstanding = match protocol {
            Protocol::Resp => Outstanding::InOrder(VecDeque::with_capacity(pipeline)),
            Protocol::Native => Outstanding::Numbered {
                slots: vec![None; pipeline],
                free: (0..pipeline).rev().map(|slot| slot as u16).collect(),
                sequence: 0,
            },
        };
        Self {
            pipeline,
            outstanding,
            ready: false,
            partial: Vec::new(),
            read_level,
            request_size,
            batches: None,
            wants_flush: false,
        }
    }

    /// As [`Connection::new`] of the native protocol, with the session `id`, which is not 0: every request is repeated under
    /// its number until it is answered.
    pub fn with_session(id: u64, pipeline: usize, read_level: ReadLevel, request_size: usize) -> Self {
        let outstanding = Outstanding::Session(Session::new(id));
        Self { outstanding, ..Self::new(Protocol::Native, pipeline, read_level, request_size) }
    }

    /// As [`Connection::with_session`], but writes leave in batches of so many commands at most, which the client proposes itself:
    /// see [`Connection::write_batches`].
    pub fn direct(
        id: u64,
        commands_max: usize,
        pipeline: usize,
        read_level: ReadLevel,
        request_size: usize,
    ) -> Self {
        let batches = Some(Batches::new(commands_max, request_size));
        Self { batches, ..Self::with_session(id, pipeline, read_level, request_size) }
    }

    /// Whether [`Connection::write_batches`] has something to write although nothing was asked for since; once.
    pub fn take_wants_flush(&mut self) -> bool {
        std::mem::take(&mut self.wants_flush)
    }

    /// Appends proposals of the writes asked for since the last time: for this server, which answers, and for all others.
    pub fn write_batches(&mut self, out: &mut Vec<u8>) {
        if let Some(batches) = &mut self.batches {
            batches.write(out);
        }
    }

    /// There is a socket now: appends what has to be said first.
    pub fn open(&mut self, out: &mut Vec<u8>) {
        assert!(!self.ready && self.partial.is_empty(), "abandoned before reuse");
        match &self.outstanding {
            Outstanding::InOrder(_) => self.ready = true,
            Outstanding::Numbered { .. } | Outstanding::Session(_) => self.greet(out),
        }
    }

    /// Appends the hello of the native protocol.
    pub fn greet(&self, out: &mut Vec<u8>) {
        let session = match &self.outstanding {
            Outstanding::Session(session) => session.id(),
            _ => 0,
        };
        Hello::new(session).write(out);
    }

    /// Appends what has to be said between the hello and the first request, once that is known.
    pub fn proceed(&mut self, out: &mut Vec<u8>) {
        if let Outstanding::Session(session) = &mut self.outstanding {
            session.write_opens(out);
        }
    }

    /// The next request that has to be repeated on this socket; [`Connection::repeat`] it.
    pub fn next_repeat(&self) -> Option<(u64, Pending)> {
        match &self.outstanding {
            Outstanding::Session(session) if self.ready => session.next_repeat(),
            _ => None,
        }
    }

    /// Appends the request that [`Connection::next_repeat`] gave, at `now`.
    pub fn repeat(&mut self, number: u64, now: Instant, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let Outstanding::Session(session) = &mut self.outstanding else { return };
        if let Some((pending, acked_below)) = session.repeat(number, now) {
            let (number, acked_below) = (session.on_wire(key, number), session.on_wire(key, acked_below));
            write_native(pending.operation.kind, number, acked_below, self.read_level, key, value, out);
        }
    }

    /// How often requests were repeated, on all sockets.
    pub fn repeated(&self) -> u64 {
        match &self.outstanding {
            Outstanding::Session(session) => session.repeated(),
            _ => 0,
        }
    }

    /// Since when the request waits that was asked, or asked again, longest ago. Only with a session.
    pub fn waits_since(&self) -> Option<Instant> {
        match &self.outstanding {
            Outstanding::Session(session) => session.waits_since(),
            _ => None,
        }
    }

    /// Whether requests may be made.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Requests without an answer.
    pub fn outstanding(&self) -> usize {
        match &self.outstanding {
            Outstanding::InOrder(queue) => queue.len(),
            Outstanding::Numbered { free, .. } => self.pipeline - free.len(),
            Outstanding::Session(session) => session.outstanding(),
        }
    }

    /// How many requests may be made at this moment.
    pub fn room(&self) -> usize {
        match &self.outstanding {
            _ if !self.ready => 0,
            Outstanding::Session(session) => session.room(self.pipeline),
            _ => self.pipeline - self.outstanding(),
        }
    }

    /// Appends a request to `out`.
    ///
    /// # Panics
    /// If there is no [`Connection::room`].
    pub fn request(&mut self, pending: Pending, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        assert!(self.room() > 0, "requests are made only where there is room");
        let kind = pending.operation.kind;
        match &mut self.outstanding {
            Outstanding::InOrder(queue) => {
                queue.push_back(pending);
                match kind {
                    OperationKind::Get => resp::write_command(&[b"GET", key], out),
                    OperationKind::Set => resp::write_command(&[b"SET", key, value], out),
                    OperationKind::Incr => resp::write_command(&[b"INCR", key], out),
                }
            }
            Outstanding::Numbered { slots, free, sequence } => {
                let slot = free.pop().expect("there is room");
                *sequence += 1;
                let number = *sequence << 16 | u64::from(slot);
                slots[usize::from(slot)] = Some((number, pending));
                write_native(kind, number, 0, self.read_level, key, value, out);
            }
            Outstanding::Session(session) => {
                let (number, acked_below) = session.add(pending);
                let (number, acked_below) = (session.on_wire(key, number), session.on_wire(key, acked_below));
                match &mut self.batches {
                    Some(batches) if kind != OperationKind::Get => {
                        let header = SessionHeader { session: session.id(), number, acked_below };
                        with_command(kind, key, value, |command| {
                            batches.push(&Command { session: Some(header), ..command });
                        });
                    }
                    _ => write_native(kind, number, acked_below, self.read_level, key, value, out),
                }
            }
        }
    }

    /// Takes bytes from the server and reports every complete answer.
    ///
    /// # Errors
    /// If the connection cannot go on: close it, then [`Connection::abandon`].
    pub fn receive(
        &mut self,
        bytes: &[u8],
        mut on_answer: impl FnMut(Pending, Answer<'_>),
    ) -> Result<(), ConnectionFault> {
        if self.partial.is_empty() {
            let used = self.consume(bytes, &mut on_answer)?;
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(bytes);
            let used = self.consume(&whole, &mut on_answer)?;
            whole.drain(..used);
            self.partial = whole;
        }
        Ok(())
    }

    fn consume(
        &mut self,
        bytes: &[u8],
        on_answer: &mut impl FnMut(Pending, Answer<'_>),
    ) -> Result<usize, ConnectionFault> {
        let mut at = 0;
        let is_greeted = match &self.outstanding {
            Outstanding::Session(session) => session.is_greeted(),
            _ => self.ready,
        };
        if !is_greeted {
            match HelloReply::parse(bytes)? {
                None => return Ok(0),
                Some((reply, size)) => {
                    at = size;
                    self.accept_terms(&reply)?;
                }
            }
        }
        match &mut self.outstanding {
            Outstanding::InOrder(queue) => {
                while let Some((reply, size)) = resp::parse_reply(&bytes[at..], REPLY_SIZE_MAX)? {
                    let pending = queue.pop_front().ok_or(ConnectionFault::Unasked)?;
                    on_answer(pending, from_resp(reply));
                    at += size;
                }
            }
            Outstanding::Numbered { slots, free, .. } => {
                while let Some((reply, size)) = client::parse_reply(&bytes[at..], REPLY_SIZE_MAX as u32)? {
                    let slot = reply.number as u16;
                    let (_, pending) = slots
                        .get_mut(usize::from(slot))
                        .and_then(|place| place.take_if(|(number, _)| *number == reply.number))
                        .ok_or(ConnectionFault::Unasked)?;
                    free.push(slot);
                    on_answer(pending, from_native(reply.answer));
                    at += size;
                }
            }
            Outstanding::Session(session) => {
                while let Some((reply, size)) = client::parse_reply(&bytes[at..], REPLY_SIZE_MAX as u32)? {
                    if session.is_open()
                        && reply.number & PROPOSALS != 0
                        && let NativeAnswer::Error(error) = reply.answer
                    {
                        return Err(if error.is_passing() {
                            ConnectionFault::AskAgain(error.text())
                        } else {
                            ConnectionFault::Refused(error.text().to_owned())
                        });
                    }
                    if session.is_open() {
                        session.answer(&reply, |pending, answer| on_answer(pending, from_native(answer)))?;
                        self.wants_flush |=
                            self.batches.as_mut().is_some_and(|batches| batches.answered(reply.number));
                    } else {
                        session.opened(&reply)?;
                        self.ready = session.is_open();
                    }
                    at += size;
                }
            }
        }
        Ok(at)
    }

    fn accept_terms(&mut self, reply: &HelloReply<'_>) -> Result<(), ConnectionFault> {
        if let Some(refusal) = reply.refusal {
            return Err(ConnectionFault::Refused(match reply.text {
                "" => format!("{refusal:?}"),
                text => text.to_owned(),
            }));
        }
        if reply.request_size_max < (client::REQUEST_HEADER_SIZE + self.request_size) as u32 {
            return Err(ConnectionFault::RequestTooLarge(reply.request_size_max));
        }
        if let Some(batches) = &mut self.batches {
            batches.start(reply.node, reply.group_count);
        }
        match &mut self.outstanding {
            Outstanding::Session(session) => session.greeted(reply.group_count),
            _ => self.ready = true,
        }
        Ok(())
    }

    /// The socket is gone: gives back every request whose answer will not come, and is as new. With a session none is given
    /// back, since they are repeated on the next socket; unless the session has expired.
    pub fn abandon(&mut self, mut on_lost: impl FnMut(Pending)) {
        self.ready = false;
        self.partial.clear();
        match &mut self.outstanding {
            Outstanding::InOrder(queue) => queue.drain(..).for_each(on_lost),
            Outstanding::Numbered { slots, free, .. } => {
                for (slot, place) in slots.iter_mut().enumerate() {
                    if let Some((_, pending)) = place.take() {
                        free.push(slot as u16);
                        on_lost(pending);
                    }
                }
            }
            Outstanding::Session(session) => session.socket_lost(on_lost),
        }
    }

    /// As [`Connection::abandon`], for good: with a session, too, everything is given back.
    pub fn give_up(&mut self, mut on_lost: impl FnMut(Pending)) {
        self.abandon(&mut on_lost);
        if let Outstanding::Session(session) = &mut self.outstanding {
            session.give_up(on_lost);
        }
    }
}

fn write_native(
    kind: OperationKind,
    number: u64,
    acked_below: u64,
    level: ReadLevel,
    key: &[u8],
    value: &[u8],
    out: &mut Vec<u8>,
) {
    with_command(kind, key, value, |command| {
        let operation = client::Operation::Command(command);
        let request =
            RequestView { number, acked_below, level, ask_stages: false, ask_commit: false, operation };
        client::write_request(&request, out);
    });
}

/// The command for an operation.
fn with_command(kind: OperationKind, key: &[u8], value: &[u8], work: impl FnOnce(Command<'_>)) {
    let one = 1i64.to_le_bytes();
    let (kind, value) = match kind {
        OperationKind::Get => (CommandKind::Get, [].as_slice()),
        OperationKind::Set => (CommandKind::Set, value),
        OperationKind::Incr => (CommandKind::IncrBy, one.as_slice()),
    };
    work(Command { kind, flags: 0, session: None, key, value });
}

fn from_native(answer: NativeAnswer<'_>) -> Answer<'_> {
    match answer {
        NativeAnswer::Ok
        | NativeAnswer::Status(_)
        | NativeAnswer::Array(_)
        | NativeAnswer::Replies(_)
        | NativeAnswer::Pong => Answer::Ok,
        NativeAnswer::Nil => Answer::Nil,
        NativeAnswer::Int(number) => Answer::Integer(number),
        NativeAnswer::Bytes(value) => Answer::Value(value),
        NativeAnswer::Error(error) => {
            // Of a session that is gone, an earlier try may have been applied.
            let maybe = [CommandError::Unknown, CommandError::UnknownSession, CommandError::StaleNumber];
            Answer::Error { text: error.text(), maybe_applied: maybe.contains(&error) }
        }
    }
}

fn from_resp(reply: RespReply<'_>) -> Answer<'_> {
    match reply {
        RespReply::Status(_) | RespReply::Array { .. } => Answer::Ok,
        RespReply::Nil => Answer::Nil,
        RespReply::Integer(number) => Answer::Integer(number),
        RespReply::Bulk(value) => Answer::Value(value),
        RespReply::Error(text) => {
            let text = str::from_utf8(text).unwrap_or("an error that is not UTF-8");
            Answer::Error { text, maybe_applied: text.starts_with("UNKNOWN") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use panch_wire::client::{ReplyView, Terms, parse_request, write_reply};
    use panch_wire::ids::ReplicaId;

    fn pending(key: u64) -> Pending {
        let operation = Operation { kind: OperationKind::Get, key, write: 0 };
        Pending { operation, intended: Instant(1), sent: Instant(2) }
    }

    fn connection(protocol: Protocol) -> Connection {
        Connection::new(protocol, 3, ReadLevel::Quorum, 100)
    }

    fn answer_of(refusal: u16, request_size_max: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let reply = HelloReply {
            version: 1,
            refusal: client::RefusalCode::from_code(refusal),
            node: ReplicaId(0),
            group_count: 1,
            request_size_max,
            text: "",
        };
        reply.write(&mut out);
        out
    }

    fn native() -> Connection {
        let mut connection = connection(Protocol::Native);
        let mut out = Vec::new();
        connection.open(&mut out);
        assert_eq!(Hello::parse(&out), Ok(Some(Hello::new(0))));
        assert_eq!(connection.room(), 0);
        for byte in answer_of(0, 1 << 20) {
            connection.receive(&[byte], |_, _| panic!("nothing was asked")).unwrap();
        }
        assert_eq!(connection.room(), 3);
        connection
    }

    #[test]
    fn native_replies_find_their_request_in_any_order_and_in_pieces() {
        let mut connection = native();
        let mut out = Vec::new();
        for key in 0..3 {
            connection.request(pending(key), b"key", b"", &mut out);
        }
        assert_eq!(connection.room(), 0);
        let terms = Terms { session: 0, request_size_max: 1 << 20 };
        let (mut numbers, mut at) = (Vec::new(), 0);
        while let Some((request, size)) = parse_request(&out[at..], &terms).unwrap() {
            assert_eq!(request.level, ReadLevel::Quorum);
            numbers.push(request.number);
            at += size;
        }
        let mut replies = Vec::new();
        for &number in numbers.iter().rev() {
            let answer = NativeAnswer::Bytes(b"value");
            write_reply(&ReplyView { number, stages: None, commit: None, answer }, &mut replies);
        }
        let mut keys = Vec::new();
        for piece in replies.chunks(7) {
            connection
                .receive(piece, |pending, answer| {
                    assert_eq!(answer, Answer::Value(b"value"));
                    keys.push(pending.operation.key);
                })
                .unwrap();
        }
        assert_eq!(keys, [2, 1, 0]);
        let again = connection.receive(&replies[..21], |_, _| panic!("answered already"));
        assert!(matches!(again, Err(ConnectionFault::Unasked)));
    }

    #[test]
    fn resp_replies_come_in_the_order_of_the_requests() {
        let mut connection = connection(Protocol::Resp);
        let mut out = Vec::new();
        connection.open(&mut out);
        for key in 0..3 {
            connection.request(pending(key), b"key", b"", &mut out);
        }
        assert!(out.starts_with(b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n*2"));
        let mut answers = Vec::new();
        for piece in b"$-1\r\n-UNKNOWN x\r\n:7\r\n".chunks(3) {
            let note = |pending: Pending, answer: Answer<'_>| {
                answers.push((
                    pending.operation.key,
                    matches!(answer, Answer::Error { maybe_applied: true, .. }),
                ));
            };
            connection.receive(piece, note).unwrap();
        }
        assert_eq!(answers, [(0, false), (1, true), (2, false)]);
        let more = connection.receive(b"+OK\r\n", |_, _| panic!("nothing is outstanding"));
        assert!(matches!(more, Err(ConnectionFault::Unasked)));
    }

    #[test]
    fn an_abandoned_connection_gives_every_request_back_and_starts_anew() {
        for protocol in [Protocol::Native, Protocol::Resp] {
            let mut connection = match protocol {
                Protocol::Native => native(),
                Protocol::Resp => {
                    let mut connection = connection(Protocol::Resp);
                    connection.open(&mut Vec::new());
                    connection
                }
            };
            connection.request(pending(5), b"key", b"", &mut Vec::new());
            connection.request(pending(6), b"key", b"", &mut Vec::new());
            let mut lost = Vec::new();
            connection.abandon(|pending| lost.push(pending.operation.key));
            lost.sort_unstable();
            assert_eq!((lost, connection.outstanding(), connection.is_ready()), (vec![5, 6], 0, false));
            connection.open(&mut Vec::new());
        }
    }

    #[test]
    fn refusals_and_small_limits_are_named() {
        for (bytes, part) in [(answer_of(2, 0), "TooManyConnections"), (answer_of(0, 131), "at most 131")] {
            let mut connection = connection(Protocol::Native);
            connection.open(&mut Vec::new());
            let text = connection.receive(&bytes, |_, _| ()).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
        let mut connection = connection(Protocol::Native);
        connection.open(&mut Vec::new());
        assert!(matches!(
            connection.receive(b"-ERR", |_, _| ()),
            Err(ConnectionFault::Native(ClientFault::Magic))
        ));
    }
}
