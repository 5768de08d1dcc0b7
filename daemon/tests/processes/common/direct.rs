//! A native client that proposes its own batches: it sends each to every node, and the node that it named as the batch's
//! home answers. What stays without an answer it sends again, under the same numbers, with another home.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use panch_wire::batch::BatchWriter;
use panch_wire::client::{
    Answer, HELLO_REPLY_SIZE, Hello, HelloReply, Operation, ReadLevel, RequestView, parse_reply,
    write_request,
};
use panch_wire::command::{Command, CommandError, CommandKind, SessionHeader};
use panch_wire::frame::FramePool;
use panch_wire::ids::{GroupId, ReplicaId};

use super::session::{Answered, SessionClient};
use super::{Cluster, Dice};

const ANSWER_PATIENCE: Duration = Duration::from_millis(400);
const REPLY_SIZE_MAX: u32 = 1 << 20;
/// Numbers of the requests themselves: no command has them.
pub const REQUESTS: u64 = 1 << 63;

/// One command: kind, key, value.
pub type Asked<'a> = (CommandKind, &'a str, &'a [u8]);

/// A sealed batch of a client.
pub fn seal(home: usize, number: u64, commands: &[Command<'_>]) -> Vec<u8> {
    let pool = FramePool::new(8 << 20);
    let mut writer = BatchWriter::new(pool.take(4 << 20).expect("an empty pool"), Vec::new());
    assert!(commands.iter().all(|command| writer.push(command)), "batches of tests are small");
    writer.seal_for_client(ReplicaId(home as u8), number).0.bytes().to_vec()
}

/// The request that proposes a frame.
pub fn propose(number: u64, group: GroupId, frame: &[u8]) -> Vec<u8> {
    let request = RequestView {
        number,
        acked_below: 0,
        level: ReadLevel::Log,
        ask_stages: false,
        ask_commit: true,
        operation: Operation::Propose { group, frame },
    };
    let mut bytes = Vec::new();
    write_request(&request, &mut bytes);
    bytes
}

/// A connection that was greeted with a session.
pub struct Link {
    pub stream: TcpStream,
    bytes: Vec<u8>,
}

impl Link {
    pub fn open(port: u16, session: u64) -> Option<Self> {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let stream = TcpStream::connect_timeout(&address, ANSWER_PATIENCE).ok()?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE)).ok()?;
        stream.set_nodelay(true).ok()?;
        let mut link = Self { stream, bytes: Vec::new() };
        let mut hello = Vec::new();
        Hello::new(session).write(&mut hello);
        link.send(&hello)?;
        while link.bytes.len() < HELLO_REPLY_SIZE {
            link.read_more()?;
        }
        let (reply, size) = HelloReply::parse(&link.bytes).ok()??;
        let accepted = reply.refusal.is_none();
        link.bytes.drain(..size);
        accepted.then_some(link)
    }

    pub fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).ok()
    }

    fn read_more(&mut self) -> Option<()> {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        self.bytes.extend_from_slice(&buffer[..count]);
        Some(())
    }

    /// The next reply: its number, what it says, and whether it names a position.
    pub fn reply(&mut self) -> Option<(u64, Answered, bool)> {
        loop {
            if let Some((reply, size)) = parse_reply(&self.bytes, REPLY_SIZE_MAX).expect("a reply") {
                let answer = match reply.answer {
                    Answer::Ok => Answered::Ok,
                    Answer::Int(value) => Answered::Number(value),
                    Answer::Nil => Answered::Value(None),
                    Answer::Bytes(value) => Answered::Value(Some(value.to_vec())),
                    Answer::Error(error) => Answered::Refused(error),
                    other => panic!("answered {other:?}"),
                };
                let told = (reply.number, answer, reply.commit.is_some());
                self.bytes.drain(..size);
                return Some(told);
            }
            self.read_more()?;
        }
    }
}

/// A client with one batch outstanding.
pub struct DirectClient {
    session: u64,
    number: u64,
    batch: u64,
    ports: Vec<u16>,
    dice: Dice,
    links: Vec<Option<Link>>,
    group_count: u16,
    /// Batches beyond the first for the same commands.
    pub retries: u64,
}

impl DirectClient {
    /// A client whose session is open everywhere.
    pub fn new(cluster: &Cluster, session: u64) -> Self {
        SessionClient::new(cluster, session).open();
        let ports: Vec<u16> = cluster.ids().map(|id| cluster.ports(id).native).collect();
        let links = ports.iter().map(|_| None).collect();
        let group_count = cluster.settings.groups as u16;
        let dice = Dice::new(session);
        Self { session, number: 0, batch: 0, ports, dice, links, group_count, retries: 0 }
    }

    /// Asks until all commands are answered. Their keys are in one group.
    pub fn call(&mut self, asked: &[Asked<'_>]) -> Vec<Answered> {
        let first = self.number + 1;
        self.number += asked.len() as u64;
        let mut answers = vec![None; asked.len()];
        let start = Instant::now();
        while answers.iter().any(Option::is_none) {
            assert!(start.elapsed() < Duration::from_secs(60), "no answer to {asked:?} for a minute");
            self.retries += u64::from(self.attempt(first, asked, &mut answers).is_none());
        }
        answers.into_iter().flatten().collect()
    }

    fn attempt(&mut self, first: u64, asked: &[Asked<'_>], answers: &mut [Option<Answered>]) -> Option<()> {
        let home = self.dice.below(self.ports.len());
        self.batch += 1;
        let header = |number| Some(SessionHeader { session: self.session, number, acked_below: first });
        let commands: Vec<_> = (first..)
            .zip(asked)
            .map(|(number, (kind, key, value))| Command {
                kind: *kind,
                flags: 0,
                session: header(number),
                key: key.as_bytes(),
                value,
            })
            .collect();
        let group = panch_wire::slots::group_of_key(asked[0].1.as_bytes(), self.group_count);
        let request = propose(REQUESTS | self.batch, group, &seal(home, self.batch, &commands));
        for (link, port) in self.links.iter_mut().zip(&self.ports) {
            if link.is_none() {
                *link = Link::open(*port, self.session);
            }
            if link.as_mut().is_some_and(|link| link.send(&request).is_none()) {
                *link = None;
            }
        }
        let mut waiting = asked.len();
        while waiting > 0 {
            let Some((number, answer, _)) = self.links[home].as_mut().and_then(Link::reply) else {
                self.links[home] = None;
                return None;
            };
            if matches!(answer, Answered::Refused(error) if error.is_passing()) {
                return None;
            }
            let Some(index) = number.checked_sub(first).filter(|index| *index < asked.len() as u64) else {
                assert!(number < first, "an answer to no command: {number} {answer:?}");
                continue; // to an earlier attempt
            };
            match answer {
                Answered::Refused(CommandError::Unknown) => return None,
                Answered::Refused(error) => panic!("{:?} was refused: {error:?}", asked[index as usize]),
                answer => {
                    let before = answers[index as usize].replace(answer.clone());
                    assert!(before.is_none_or(|before| before == answer), "answered in two ways");
                    waiting -= 1;
                }
            }
        }
        Some(())
    }
}
