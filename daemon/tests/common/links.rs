//! Links between nodes that can be cut: a relay in front of every node's peer port.
//!
//! A relay knows from the first bytes of a stream who opened it. A cut link loses nothing, it stands still, as TCP does
//! while packets are dropped; healed, it goes on where it stood.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use panch_wire::peer::Hello;

/// How long a relay waits before it looks again.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Default)]
struct State {
    /// Pairs of nodes, the lower one first.
    cut: Mutex<BTreeSet<(usize, usize)>>,
    over: AtomicBool,
}

impl State {
    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cut.lock().expect("no holder panics").contains(&(one.min(other), one.max(other)))
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// The links of a cluster.
pub struct Links {
    ports: Vec<u16>,
    state: Arc<State>,
}

impl Links {
    /// A relay in front of each of these ports, of the nodes from 1.
    pub fn start(targets: impl Iterator<Item = u16>) -> Self {
        let state = Arc::new(State::default());
        let ports = (1..).zip(targets).map(|(node, target)| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port for a relay");
            let port = listener.local_addr().expect("its address").port();
            listener.set_nonblocking(true).expect("a listener that does not block");
            let state = Arc::clone(&state);
            std::thread::spawn(move || accept(&listener, node, target, &state));
            port
        });
        Self { ports: ports.collect(), state }
    }

    /// Where other nodes reach a node.
    pub fn port(&self, node: usize) -> u16 {
        self.ports[node - 1]
    }

    /// Nothing goes between a node and the others any more.
    pub fn cut_off(&self, node: usize) {
        let others = (1..=self.ports.len()).filter(|other| *other != node);
        let mut cut = self.state.cut.lock().expect("no holder panics");
        cut.extend(others.map(|other| (node.min(other), node.max(other))));
    }

    /// Everything goes its way again.
    pub fn heal(&self) {
        self.state.cut.lock().expect("no holder panics").clear();
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, node: usize, target: u16, state: &Arc<State>) {
    while !state.is_over() {
        match listener.accept() {
            Ok((stream, _)) => {
                let state = Arc::clone(state);
                std::thread::spawn(move || relay(stream, node, target, &state));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Relays one stream to `node`, once it is known who opened it.
fn relay(mut opener: TcpStream, node: usize, target: u16, state: &Arc<State>) {
    let mut hello = [0; Hello::SIZE];
    let _ = opener.set_read_timeout(Some(Duration::from_secs(10)));
    if opener.set_nonblocking(false).is_err() || opener.read_exact(&mut hello).is_err() {
        return;
    }
    let Ok(Some(from)) = Hello::parse(&hello).map(|hello| hello.map(|it| it.node.index() + 1)) else {
        return;
    };
    while state.is_cut(from, node) {
        if state.is_over() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    let Ok(mut acceptor) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { return };
    if acceptor.write_all(&hello).is_err() {
        return;
    }
    let (Ok(back_from), Ok(back_to)) = (acceptor.try_clone(), opener.try_clone()) else { return };
    let shared = Arc::clone(state);
    let back = std::thread::spawn(move || copy(back_from, back_to, (node, from), &shared));
    copy(opener, acceptor, (from, node), state);
    let _ = back.join();
}

/// Copies bytes from one end to the other while the link is whole.
fn copy(mut from: TcpStream, mut to: TcpStream, link: (usize, usize), state: &State) {
    let mut buffer = vec![0; 256 << 10];
    let _ = from.set_nodelay(true);
    let _ = to.set_nodelay(true);
    let _ = from.set_read_timeout(Some(Duration::from_millis(20)));
    while !state.is_over() {
        if state.is_cut(link.0, link.1) {
            std::thread::sleep(PAUSE);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) if to.write_all(&buffer[..count]).is_ok() => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
