//! A native client with a session: it asks one node, and when no answer comes in time or the outcome is not known, asks
//! another with the same number. So every command takes effect exactly once.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use panch_wire::client::{
    Answer, Commit, HELLO_REPLY_SIZE, Hello, HelloReply, Operation, ReadLevel, RequestView, parse_reply,
    write_request,
};
use panch_wire::command::{Command, CommandError, CommandKind};

use super::{Cluster, Dice};

/// Short, so that a command is often asked for again while its first copy is still on its way.
const ANSWER_PATIENCE: Duration = Duration::from_millis(250);
const REPLY_SIZE_MAX: u32 = 1 << 20;

/// What a command was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answered {
    Ok,
    Number(i64),
    Value(Option<Vec<u8>>),
    Refused(CommandError),
}

/// A client with one command outstanding.
pub struct SessionClient {
    session: u64,
    number: u64,
    ports: Vec<u16>,
    dice: Dice,
    connection: Option<TcpStream>,
    /// Attempts beyond the first of a command.
    pub retries: u64,
    /// How reads are asked for.
    pub level: ReadLevel,
    /// Ask where commands are committed.
    pub ask_commit: bool,
    /// What the last answer said of that.
    pub commit: Option<Commit>,
}

impl SessionClient {
    pub fn new(cluster: &Cluster, session: u64) -> Self {
        let ports = cluster.ids().map(|id| cluster.ports(id).native).collect();
        Self {
            session,
            number: 0,
            ports,
            dice: Dice::new(session),
            connection: None,
            retries: 0,
            level: ReadLevel::Log,
            ask_commit: false,
            commit: None,
        }
    }

    /// A client that asks one node only.
    pub fn of_node(cluster: &Cluster, id: usize, session: u64) -> Self {
        Self { ports: vec![cluster.ports(id).native], ..Self::new(cluster, session) }
    }

    /// Opens the session; that uses up no number.
    pub fn open(&mut self) {
        self.open_at(b"");
    }

    /// Opens the session in the group of that key.
    pub fn open_at(&mut self, key: &[u8]) {
        // Nothing expires during a test: the session begins with its first number.
        assert_eq!(self.ask(1, CommandKind::OpenSession, key, b""), Answered::Number(1));
    }

    /// Asks until there is a definite answer.
    pub fn call(&mut self, kind: CommandKind, key: &str, value: &[u8]) -> Answered {
        self.number += 1;
        self.ask(self.number, kind, key.as_bytes(), value)
    }

    /// Asks again for the last command, as if its answer had been lost; once.
    pub fn again(&mut self, kind: CommandKind, key: &str, value: &[u8]) -> Option<Answered> {
        self.attempt(self.number, kind, key.as_bytes(), value)
    }

    /// Asks once for a new command.
    pub fn call_once(&mut self, kind: CommandKind, key: &str, value: &[u8]) -> Option<Answered> {
        self.number += 1;
        self.attempt(self.number, kind, key.as_bytes(), value)
    }

    fn ask(&mut self, number: u64, kind: CommandKind, key: &[u8], value: &[u8]) -> Answered {
        let start = Instant::now();
        loop {
            match self.attempt(number, kind, key, value) {
                None | Some(Answered::Refused(CommandError::Unknown)) => {}
                Some(Answered::Refused(error)) if error.is_passing() => {}
                Some(answer) => return answer,
            }
            assert!(start.elapsed() < Duration::from_secs(60), "no answer to {kind:?} {number} for a minute");
            self.retries += 1;
            self.connection = None;
            std::thread::sleep(Duration::from_millis(self.dice.below(20) as u64));
        }
    }

    fn attempt(&mut self, number: u64, kind: CommandKind, key: &[u8], value: &[u8]) -> Option<Answered> {
        if self.connection.is_none() {
            let port = self.ports[self.dice.below(self.ports.len())];
            self.connection = Some(connect(port, self.session)?);
        }
        let connection = self.connection.as_mut()?;
        let command = Command { kind, flags: 0, session: None, key, value };
        let request = RequestView {
            number,
            acked_below: number,
            level: self.level,
            ask_stages: false,
            ask_commit: self.ask_commit,
            operation: Operation::Command(command),
        };
        let mut bytes = Vec::new();
        write_request(&request, &mut bytes);
        connection.write_all(&bytes).ok()?;
        bytes.clear();
        loop {
            if let Some((reply, _)) = parse_reply(&bytes, REPLY_SIZE_MAX).expect("a reply") {
                assert_eq!(reply.number, number, "one command is outstanding");
                self.commit = reply.commit;
                return Some(match reply.answer {
                    Answer::Ok => Answered::Ok,
                    Answer::Int(value) => Answered::Number(value),
                    Answer::Nil => Answered::Value(None),
                    Answer::Bytes(value) => Answered::Value(Some(value.to_vec())),
                    Answer::Error(error) => Answered::Refused(error),
                    other => panic!("{kind:?} was answered {other:?}"),
                });
            }
            read_more(connection, &mut bytes)?;
        }
    }
}

fn connect(port: u16, session: u64) -> Option<TcpStream> {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let mut connection = TcpStream::connect_timeout(&address, ANSWER_PATIENCE).ok()?;
    connection.set_read_timeout(Some(ANSWER_PATIENCE)).ok()?;
    connection.set_nodelay(true).ok()?;
    let mut bytes = Vec::new();
    Hello::new(session).write(&mut bytes);
    connection.write_all(&bytes).ok()?;
    bytes.clear();
    while bytes.len() < HELLO_REPLY_SIZE {
        read_more(&mut connection, &mut bytes)?;
    }
    let (reply, _) = HelloReply::parse(&bytes).ok()??;
    reply.refusal.is_none().then_some(connection)
}

fn read_more(connection: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 4096];
    let count = connection.read(&mut buffer).ok().filter(|count| *count > 0)?;
    bytes.extend_from_slice(&buffer[..count]);
    Some(())
}
