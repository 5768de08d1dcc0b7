//! A connection that sends exactly the bytes it is told to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a test waits for bytes that must come.
const PATIENCE: Duration = Duration::from_secs(15);

pub struct Raw {
    pub stream: TcpStream,
}

impl Raw {
    pub fn connect(port: u16) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Self { stream }
    }

    /// Sends bytes; false if the other side has closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the node reads what is sent");
    }

    /// Sends a command as an array of bulk strings.
    pub fn command(&mut self, arguments: &[&[u8]]) {
        let bytes = encode(arguments);
        self.send(&bytes);
    }

    /// The next reply, read byte by byte so that nothing behind it is lost.
    pub fn reply(&mut self) -> redis::RedisResult<redis::Value> {
        redis::parse_redis_value(&self.reply_bytes())
    }

    /// The bytes of the next reply of RESP2.
    pub fn reply_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_reply(&mut bytes);
        bytes
    }

    fn read_reply(&mut self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        while !bytes[start..].ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("a reply comes");
            bytes.push(byte[0]);
        }
        let line = std::str::from_utf8(&bytes[start + 1..bytes.len() - 2]).unwrap_or_default();
        let number = line.parse::<i64>().unwrap_or(-1);
        match bytes[start] {
            b'$' if number >= 0 => {
                let from = bytes.len();
                bytes.resize(from + number as usize + 2, 0);
                self.stream.read_exact(&mut bytes[from..]).expect("the rest of a reply comes");
            }
            b'*' => (0..number).for_each(|_| self.read_reply(bytes)),
            _ => {}
        }
    }

    /// Reads until the other side closes. `None` if it does not within `patience`.
    pub fn read_to_end(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let deadline = std::time::Instant::now() + patience;
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let left = deadline.checked_duration_since(std::time::Instant::now())?;
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("a timeout");
            match self.stream.read(&mut chunk) {
                Ok(0) => return Some(bytes),
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return None;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A reset is an end too.
                Err(_) => return Some(bytes),
            }
        }
    }
}

/// A command as an array of bulk strings.
pub fn encode(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
