//! A node that waits for others before it begins answers those that ask it meanwhile: nodes that are all new find each other so.
//!
//! A thread of its own, which ends with the value. It knows nothing of the data directory but its name.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use panch_wire::peer::{Hello, Proof, Secret};

use crate::inbound::{Greeting, Host, Opening, Recollection};

/// Between two looks at what has arrived.
const PAUSE: Duration = Duration::from_millis(1);
/// Who has said nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most that are listened to at once.
const STRANGERS_MAX: usize = 32;

/// Answers until it is dropped; after that no answer leaves.
pub(crate) struct Answering {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    /// Answers on `listener` as `ours` of a cluster of so many nodes: that the node is new, or else that it is on its way back.
    pub(crate) fn start(
        listener: OwnedFd,
        ours: Hello,
        node_count: u8,
        secret: Option<Secret>,
        is_new: bool,
    ) -> io::Result<Self> {
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("panch-answers".into()).spawn(move || {
            let mut strangers = Vec::new();
            let (hello, secret) = (&ours, secret.as_ref());
            let recollection = Recollection::Waiting { is_new };
            let host = Host { hello, node_count, secret, recollection, is_late: false };
            while !stopped.load(Ordering::Acquire) {
                accept(&listener, &mut strangers);
                strangers.retain_mut(|stranger| stranger.is_listened_to(&host));
                sleep(PAUSE);
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It has no result; a panic would have ended the process.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, strangers: &mut Vec<Stranger>) {
    while strangers.len() < STRANGERS_MAX
        && let Ok((stream, _)) = listener.accept()
    {
        if stream.set_nonblocking(true).is_ok() {
            strangers.push(Stranger { stream, opening: Opening::default(), since: Instant::now() });
        }
    }
}

/// Somebody who has connected and was not answered yet.
struct Stranger {
    stream: TcpStream,
    opening: Opening,
    since: Instant,
}

impl Stranger {
    /// Takes in what has arrived, and goes on with the handshake; false when nothing more is to be expected.
    fn is_listened_to(&mut self, host: &Host<'_>) -> bool {
        let mut buffer = [0; Hello::SIZE + Proof::SIZE];
        match self.stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => self.opening.push(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return self.since.elapsed() < PATIENCE,
            Err(_) => return false,
        }
        let mut out = Vec::new();
        let greeting = host.greet(&mut self.opening, &mut out);
        // An answer fits into the buffer of a new socket. If not, the other node asks again.
        let is_sent = self.stream.write_all(&out).is_ok();
        is_sent && matches!(greeting, Greeting::Incomplete | Greeting::Challenged)
    }
}

#[cfg(test)]
mod tests {
    use panch_ring::socket::{ListenOptions, listen};
    use panch_wire::ids::{Incarnation, ReplicaId};
    use panch_wire::peer::{Challenge, HelloReply, Purpose, RefusalCode};

    use super::*;

    #[test]
    fn a_new_node_answers_inquiries_and_nothing_else_until_it_is_dropped() {
        let ours = Hello { purpose: Purpose::Inquiry, directory: 0xab, ..Hello::new(1) };
        let listener = listen(([127, 0, 0, 1], 0).into(), ListenOptions::default()).unwrap();
        let listener = TcpListener::from(listener);
        let address = listener.local_addr().unwrap();
        let answering = Answering::start(listener.into(), ours, 3, None, true).unwrap();
        let ask = |hello: Hello| -> io::Result<(Option<RefusalCode>, String)> {
            let mut stream = TcpStream::connect(address)?;
            let (mut bytes, mut answer) = (Vec::new(), Vec::new());
            hello.write(&mut bytes);
            // In two parts, as a network may deliver it.
            stream.write_all(&bytes[..9])?;
            sleep(Duration::from_millis(5));
            stream.write_all(&bytes[9..])?;
            let mut challenge = [0; Challenge::SIZE];
            stream.read_exact(&mut challenge[..4])?;
            if Challenge::may_be(&challenge[..4]) {
                stream.read_exact(&mut challenge[4..])?;
                bytes.extend_from_slice(&challenge);
                let mut proof = Vec::new();
                Proof::default().write(None, &bytes, &mut proof);
                stream.write_all(&proof)?;
            } else {
                answer.extend_from_slice(&challenge[..4]);
            }
            stream.read_to_end(&mut answer)?;
            let (reply, _) = HelloReply::parse(&answer).unwrap().unwrap();
            Ok((reply.refusal, reply.text.to_owned()))
        };
        let theirs = Hello { node: ReplicaId(2), directory: 7, ..ours };
        assert_eq!(ask(theirs).unwrap(), (None, "1:0:ab:0:-".to_owned()));
        let stream = Hello { purpose: Purpose::Stream, incarnation: Incarnation(1), ..theirs };
        assert_eq!(ask(stream).unwrap().0, Some(RefusalCode::NotReady));
        assert_eq!(ask(Hello { cluster: 1, ..theirs }).unwrap().0, Some(RefusalCode::Cluster));
        drop(answering);
        assert!(ask(theirs).is_err());
    }
}
