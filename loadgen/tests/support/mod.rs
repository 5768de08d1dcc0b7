//! A small server for tests: the native protocol, and enough RESP for INFO, GET and SET. A thread per connection.
//! Each test program uses its own part of this.
#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use panch_loadgen::resp::{RespReply, parse_reply};
use panch_wire::client::{
    Answer, HELLO_SIZE, Hello, HelloReply, Operation, ReplyView, Terms, parse_request, write_reply,
};
use panch_wire::command::{Command, CommandError, CommandKind};
use panch_wire::ids::ReplicaId;

/// How the server misbehaves.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    /// Answers the requests of one packet in reverse.
    pub reversed: bool,
    /// Acknowledges every n-th write without doing it.
    pub lose_every: Option<u64>,
    /// Takes so long for each request.
    pub each: Option<Duration>,
    /// Stops for so long when the n-th request comes.
    pub stall: Option<(u64, Duration)>,
    /// Closes a connection instead of doing every n-th write.
    pub hang_up_every: Option<u64>,
    /// Refuses INCR.
    pub refuse_incr: bool,
    /// Never answers.
    pub mute: bool,
    /// Does every n-th write, then closes the connection instead of answering.
    pub hang_up_after_every: Option<u64>,
    /// Does every n-th write, then says that it does not know.
    pub unknown_every: Option<u64>,
    /// Does not answer every n-th write, and goes on.
    pub silent_every: Option<u64>,
    /// Does again what was done before under the same number of a session.
    pub forgets_numbers: bool,
    /// Forgets all sessions with every n-th write: opened again, they begin at another number.
    pub forgets_sessions_every: Option<u64>,
}

#[derive(Default)]
struct State {
    values: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    requests: AtomicU64,
    writes: AtomicU64,
    writes_seen: AtomicU64,
    /// How often INFO was asked for what panch counts.
    infos: AtomicU64,
    /// What each number of each session did.
    numbers: Mutex<HashMap<(u64, u64), i64>>,
    /// What INFO says of the protocol: empty, or `,protocol=NAME`.
    told_protocol: Mutex<String>,
    /// When each native request was found, and when its reply was handed to the socket.
    times: Mutex<Vec<(Instant, Instant)>>,
}

/// A running server; it ends with the process.
pub struct Server {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Server {
    pub fn start(faults: Faults) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").unwrap(), faults)
    }

    pub fn listen(listener: TcpListener, faults: Faults) -> Self {
        Self::with_state(listener, faults, Arc::new(State::default()))
    }

    /// Serves the same values at another address too.
    pub fn also_listen(&self, listener: TcpListener) -> Self {
        Self::with_state(listener, Faults::default(), Arc::clone(&self.state))
    }

    fn with_state(listener: TcpListener, faults: Faults, state: Arc<State>) -> Self {
        let address = listener.local_addr().unwrap();
        let server = Self { address, state: Arc::clone(&state) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || drop(serve(stream, &state, faults)));
            }
        });
        server
    }

    /// What INFO says from now on that the group runs.
    pub fn tell_protocol(&self, name: &str) {
        *self.state.told_protocol.lock().unwrap() = format!(",protocol={name}");
    }

    /// When each native request was found, and when its reply was sent, in their order: of one connection without a pipeline.
    pub fn times(&self) -> Vec<(Instant, Instant)> {
        self.state.times.lock().unwrap().clone()
    }

    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// How often it was asked for its counters.
    pub fn infos(&self) -> u64 {
        self.state.infos.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, state: &State, faults: Faults) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    let mut buffer = [0; 64 << 10];
    let mut is_native = None;
    let mut session = 0;
    loop {
        let size = stream.read(&mut buffer)?;
        if size == 0 {
            return Ok(());
        }
        received.extend_from_slice(&buffer[..size]);
        if is_native.is_none() {
            is_native = Some(received[0] == b'P');
        }
        let (found, before) = (Instant::now(), state.requests.load(Ordering::SeqCst));
        let mut out = Vec::new();
        let (used, hang_up) = if is_native == Some(true) {
            native(&received, state, faults, &mut session, &mut out)
        } else {
            (resp(&received, state, &mut out), false)
        };
        if hang_up {
            return Ok(());
        }
        received.drain(..used);
        if is_native == Some(true) && state.requests.load(Ordering::SeqCst) > before {
            state.times.lock().unwrap().push((found, Instant::now()));
        }
        stream.write_all(&out)?;
    }
}

/// Answers all requests in `bytes`. Returns how many bytes they are, and whether to hang up.
fn native(
    bytes: &[u8],
    state: &State,
    faults: Faults,
    session: &mut u64,
    out: &mut Vec<u8>,
) -> (usize, bool) {
    let mut at = 0;
    if bytes.starts_with(b"PNCH") {
        match Hello::parse(bytes).unwrap() {
            None => return (0, false),
            Some(hello) => *session = hello.session,
        }
        at = HELLO_SIZE;
        let reply = HelloReply {
            version: 1,
            refusal: None,
            node: ReplicaId(0),
            group_count: 1,
            request_size_max: 1 << 20,
            text: "",
        };
        reply.write(out);
    }
    let terms = Terms { session: *session, request_size_max: 1 << 20 };
    let mut replies: Vec<Vec<u8>> = Vec::new();
    while let Some((request, size)) = parse_request(&bytes[at..], &terms).unwrap() {
        at += size;
        let number = state.requests.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some((stall, span)) = faults.stall
            && number == stall
        {
            std::thread::sleep(span);
        }
        if let Some(each) = faults.each {
            let until = Instant::now() + each;
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        let Operation::Command(command) = request.operation else { panic!("only commands are sent") };
        if !command.kind.is_read() {
            let write = state.writes_seen.fetch_add(1, Ordering::SeqCst) + 1;
            if faults.hang_up_every.is_some_and(|every| write.is_multiple_of(every)) {
                return (at, true);
            }
        }
        let mut value = Vec::new();
        let mut answer = apply(&command, state, faults, &mut value);
        let seen = state.writes_seen.load(Ordering::SeqCst);
        let comes_now = |every: Option<u64>| {
            !command.kind.is_read() && every.is_some_and(|every| seen.is_multiple_of(every))
        };
        if comes_now(faults.hang_up_after_every) {
            return (at, true);
        }
        if comes_now(faults.silent_every) {
            continue;
        }
        if comes_now(faults.unknown_every) {
            answer = Answer::Error(CommandError::Unknown);
        }
        let mut reply = Vec::new();
        write_reply(&ReplyView { number: request.number, stages: None, commit: None, answer }, &mut reply);
        replies.push(reply);
    }
    if faults.reversed {
        replies.reverse();
    }
    if !faults.mute {
        replies.iter().for_each(|reply| out.extend_from_slice(reply));
    }
    (at, false)
}

fn apply<'a>(command: &Command<'_>, state: &State, faults: Faults, value: &'a mut Vec<u8>) -> Answer<'a> {
    let mut values = state.values.lock().unwrap();
    let is_write = !command.kind.is_read();
    let write = if is_write { state.writes.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
    let is_lost = is_write && faults.lose_every.is_some_and(|every| write.is_multiple_of(every));
    match command.kind {
        CommandKind::Get => match values.get(command.key) {
            Some(found) => {
                value.extend_from_slice(found);
                Answer::Bytes(value)
            }
            None => Answer::Nil,
        },
        CommandKind::IncrBy if faults.refuse_incr => Answer::Error(CommandError::NotAnInteger),
        CommandKind::OpenSession => {
            let seen = state.writes_seen.load(Ordering::SeqCst);
            let generation = faults.forgets_sessions_every.map_or(0, |every| seen / every);
            Answer::Int((generation as i64) << 40 | 1)
        }
        CommandKind::IncrBy => {
            let mut numbers = state.numbers.lock().unwrap();
            let name = command.session.map(|header| (header.session, header.number));
            if let Some(known) = name.and_then(|name| numbers.get(&name))
                && !faults.forgets_numbers
            {
                return Answer::Int(*known);
            }
            let old =
                values.get(command.key).map_or(0, |text| std::str::from_utf8(text).unwrap().parse().unwrap());
            let new: i64 = old + i64::from_le_bytes(command.value.try_into().unwrap());
            if !is_lost {
                values.insert(command.key.to_vec(), new.to_string().into_bytes());
            }
            if let Some(name) = name {
                numbers.insert(name, new);
            }
            Answer::Int(new)
        }
        CommandKind::Set => {
            if !is_lost {
                values.insert(command.key.to_vec(), command.value.to_vec());
            }
            Answer::Ok
        }
        other => panic!("{other:?} is never sent"),
    }
}

fn resp(bytes: &[u8], state: &State, out: &mut Vec<u8>) -> usize {
    let mut at = 0;
    while let Some((RespReply::Array { items, .. }, size)) = parse_reply(&bytes[at..], 1 << 20).unwrap() {
        at += size;
        let mut words = Vec::new();
        let mut rest = items;
        while let Some((RespReply::Bulk(word), size)) = parse_reply(rest, 1 << 20).unwrap() {
            words.push(word);
            rest = &rest[size..];
        }
        let requests = state.requests.load(Ordering::SeqCst);
        match words[0] {
            b"INFO" if words[1] == b"panch" => {
                state.infos.fetch_add(1, Ordering::SeqCst);
                let text = format!(
                    "# Panch\r\nnode_id:1\r\ndurability:memory\r\ncommands_total:{requests}\r\nbatches_total:{}\r\n\
                     messages_total:{requests}\r\ncounter_fast_commits:{requests}\r\ncounter_slow_commits:0\r\n\
                     group_0:leader=1,leading=1,digest=00ff{}\r\n",
                    requests / 10,
                    state.told_protocol.lock().unwrap()
                );
                let _ = write!(out, "${}\r\n{text}\r\n", text.len());
            }
            b"INFO" if words[1] == b"server" => out.extend_from_slice(b"$21\r\npanch_version:0.0.7\r\n\r\n"),
            b"INFO" => out.extend_from_slice(b"$0\r\n\r\n"),
            b"SET" => {
                state.requests.fetch_add(1, Ordering::SeqCst);
                state.values.lock().unwrap().insert(words[1].to_vec(), words[2].to_vec());
                out.extend_from_slice(b"+OK\r\n");
            }
            b"GET" => {
                state.requests.fetch_add(1, Ordering::SeqCst);
                match state.values.lock().unwrap().get(words[1]) {
                    Some(value) => {
                        let _ = write!(out, "${}\r\n", value.len());
                        out.extend_from_slice(value);
                        out.extend_from_slice(b"\r\n");
                    }
                    None => out.extend_from_slice(b"$-1\r\n"),
                }
            }
            _ => out.extend_from_slice(b"-ERR unknown command\r\n"),
        }
    }
    at
}
