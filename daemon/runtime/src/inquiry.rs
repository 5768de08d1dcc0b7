//! Before a node with a new data directory says anything: asking the other nodes what they remember of it, and of each other: one of
//! them may have lost its disk, and not say so.
//!
//! A node that has lost its disk waits until all have answered. One that knows of no loss asks each of them once: if one remembers it, its
//! directory was lost, and those that have lost theirs too would not notice.
//!
//! Blocks the thread that starts the node; nothing of the node runs yet.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use panch_wire::ids::{Incarnation, ReplicaId};
use panch_wire::peer::{Hello, HelloReply, Purpose, RefusalCode};

use crate::complaints::say;
use crate::memory::PeerMemory;
use crate::options::NodeOptions;

/// How long one node is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts to reach those that have not answered.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the operator hears what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(5);

fn question(options: &NodeOptions, directory: u64) -> Hello {
    Hello {
        cluster: options.cluster,
        node: options.node,
        core_count: options.cpus.len() as u16,
        fingerprint: options.fingerprint,
        directory,
        purpose: Purpose::Inquiry,
        ..Hello::new(panch_wal::FORMAT_VERSION)
    }
}

fn others(options: &NodeOptions) -> Vec<(ReplicaId, SocketAddr)> {
    let others = (0..).map(ReplicaId).zip(&options.members).filter(|(id, _)| *id != options.node);
    others.map(|(id, member)| (id, member.peer)).collect()
}

/// The first other node that answers at once and remembers this one.
pub(crate) fn remembered_by(
    options: &NodeOptions,
    directory: u64,
    peers: &PeerMemory,
) -> Option<(ReplicaId, Incarnation)> {
    let hello = question(options, directory);
    others(options).into_iter().find_map(|(id, address)| {
        let known = ask(address, &hello, peers).ok()?;
        (known > Incarnation(0)).then_some((id, known))
    })
}

/// The highest incarnation that any other node remembers of this one, once all have said theirs.
pub(crate) fn last_incarnation(options: &NodeOptions, directory: u64, peers: &PeerMemory) -> Incarnation {
    let hello = question(options, directory);
    let mut missing = others(options);
    let mut highest = Incarnation(0);
    let mut said: Option<Instant> = None;
    while !missing.is_empty() {
        let mut reasons = Vec::new();
        missing.retain(|(id, address)| match ask(*address, &hello, peers) {
            Ok(known) => {
                highest = known.max(highest);
                false
            }
            Err(error) => {
                reasons.push(format!("node {} at {address} ({error})", u64::from(id.0) + 1));
                true
            }
        });
        if !missing.is_empty() {
            if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                said = Some(Instant::now());
                say(format_args!(
                    "node {} has lost its disk and waits for {}. All other nodes must answer: if one of them has lost its disk, too, no \
                     node can tell what the two have decided together",
                    u64::from(options.node.0) + 1,
                    reasons.join(", ")
                ));
            }
            sleep(PAUSE);
        }
    }
    highest
}

fn ask(address: SocketAddr, hello: &Hello, peers: &PeerMemory) -> io::Result<Incarnation> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut bytes = Vec::new();
    hello.write(&mut bytes);
    stream.write_all(&bytes)?;
    let mut answer = Vec::new();
    let mut buffer = [0; HelloReply::SIZE + HelloReply::TEXT_SIZE_MAX];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..count]);
        match HelloReply::parse(&answer).map_err(io::Error::other)? {
            None => {}
            Some((HelloReply { refusal: None, known, text, .. }, _)) => {
                peers.learn(text, hello.node)?;
                return Ok(known);
            }
            Some((HelloReply { refusal: Some(code), text, .. }, _)) => {
                return Err(io::Error::other(refusal_text(code, text).to_owned()));
            }
        }
    }
}

fn refusal_text(code: RefusalCode, text: &str) -> &str {
    if text.is_empty() { code.text() } else { text }
}
