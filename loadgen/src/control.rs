//! Single blocking requests beside the load: readiness, the audit's reads, the servers' counters.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use panch_wire::client::ReadLevel;
use panch_wire::time::Instant;

use crate::connection::{Answer, Connection, Pending, Protocol};
use crate::keys::KeyText;
use crate::resp::{self, RespReply};
use crate::workload::{Operation, OperationKind};

/// The longest INFO that is read, in bytes.
const INFO_SIZE_MAX: usize = 1 << 20;

/// A connection that is used for one request at a time.
pub struct Control {
    stream: TcpStream,
    connection: Connection,
    outgoing: Vec<u8>,
}

/// What one request got, owned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Got {
    /// Done, or a number.
    Done,
    /// There is no value.
    Nil,
    /// The value.
    Value(Vec<u8>),
}

fn open(address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// Linux calls a read that timed out "would block".
fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        _ => error,
    }
}

impl Control {
    /// Connects and says hello. `patience` bounds this and every later answer.
    ///
    /// # Errors
    /// If the server cannot be reached or does not take the client.
    pub fn connect(
        address: SocketAddr,
        protocol: Protocol,
        read_level: ReadLevel,
        patience: Duration,
    ) -> io::Result<Self> {
        let stream = open(address, patience)?;
        let mut control =
            Self { stream, connection: Connection::new(protocol, 1, read_level, 0), outgoing: Vec::new() };
        control.connection.open(&mut control.outgoing);
        control.exchange(|connection| connection.is_ready(), &mut |_, _| ())?;
        Ok(control)
    }

    /// Makes one request and waits for its answer.
    ///
    /// # Errors
    /// If the connection broke, or the server refused the request; the text says why.
    pub fn ask(&mut self, kind: OperationKind, key: &[u8], value: &[u8]) -> io::Result<Got> {
        let operation = Operation { kind, key: 0, write: 0 };
        let pending = Pending { operation, intended: Instant(0), sent: Instant(0) };
        self.connection.request(pending, key, value, &mut self.outgoing);
        let mut got = Err(io::Error::other("no answer"));
        self.exchange(|connection| connection.outstanding() == 0, &mut |_, answer| {
            got = match answer {
                Answer::Ok | Answer::Integer(_) => Ok(Got::Done),
                Answer::Nil => Ok(Got::Nil),
                Answer::Value(value) => Ok(Got::Value(value.to_vec())),
                Answer::Error { text, .. } => Err(io::Error::other(text.to_owned())),
            };
        })?;
        got
    }

    /// Reads the value at the key that a workload spells so.
    ///
    /// # Errors
    /// As [`Control::ask`].
    pub fn read(&mut self, text: &mut KeyText, kind: OperationKind, key: u64) -> io::Result<Option<Vec<u8>>> {
        match self.ask(OperationKind::Get, text.spell(kind.key_prefix(), key), &[])? {
            Got::Value(value) => Ok(Some(value)),
            Got::Done | Got::Nil => Ok(None),
        }
    }

    fn exchange(
        &mut self,
        done: impl Fn(&Connection) -> bool,
        on_answer: &mut dyn FnMut(Pending, Answer<'_>),
    ) -> io::Result<()> {
        self.stream.write_all(&self.outgoing).map_err(in_words)?;
        self.outgoing.clear();
        let mut buffer = [0; 16 << 10];
        while !done(&self.connection) {
            let size = self.stream.read(&mut buffer).map_err(in_words)?;
            if size == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            self.connection.receive(&buffer[..size], &mut *on_answer).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Asks a server for sections of its INFO, over RESP.
///
/// # Errors
/// If it cannot be reached, or answers with something else.
pub fn info(address: SocketAddr, section: &str, patience: Duration) -> io::Result<String> {
    text(address, &[b"INFO", section.as_bytes()], patience)
}

/// Asks a server for the state of its cluster, CLUSTER INFO, over RESP.
///
/// # Errors
/// If it cannot be reached, or answers with something else: it may be of no cluster.
pub fn cluster_info(address: SocketAddr, patience: Duration) -> io::Result<String> {
    text(address, &[b"CLUSTER", b"INFO"], patience)
}

/// Makes one request over RESP that is answered with a text.
fn text(address: SocketAddr, words: &[&[u8]], patience: Duration) -> io::Result<String> {
    let mut stream = open(address, patience)?;
    let mut outgoing = Vec::new();
    resp::write_command(words, &mut outgoing);
    stream.write_all(&outgoing).map_err(in_words)?;
    let mut received = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match resp::parse_reply(&received, INFO_SIZE_MAX).map_err(io::Error::other)? {
            Some((RespReply::Bulk(text), _)) => return Ok(String::from_utf8_lossy(text).into_owned()),
            Some((RespReply::Error(text), _)) => {
                return Err(io::Error::other(String::from_utf8_lossy(text).into_owned()));
            }
            Some(_) => return Err(io::Error::other("the answer is not a text")),
            None => {}
        }
        let size = stream.read(&mut buffer).map_err(in_words)?;
        if size == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        received.extend_from_slice(&buffer[..size]);
    }
}
