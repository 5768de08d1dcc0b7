//! Links between nodes that can be cut, slowed down and narrowed: a relay in front of every node's peer port.
//!
//! A relay knows from the first bytes of a stream who opened it. Each direction of a link is a thing of its own: what node 1
//! says to node 2 may stand still while node 2 is heard by node 1. A cut direction loses nothing, it stands still, as TCP does
//! while packets are dropped; healed, it goes on where it stood.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use panch_wire::peer::Hello;

/// How long a relay waits before it looks again.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a relay waits for bytes before it looks whether something has changed.
const PATIENCE: Duration = Duration::from_millis(20);
/// Bytes that may be on their way through a relay, per direction of a stream.
const ON_THE_WAY_MAX: usize = 4 << 20;

#[derive(Default)]
struct State {
    /// Directions that stand still: from, to.
    cut: Mutex<BTreeSet<(usize, usize)>>,
    qualities: Mutex<Qualities>,
    over: AtomicBool,
}

/// What a direction of a link is like.
#[derive(Clone, Copy, Default)]
struct Quality {
    /// How long everything takes.
    delay: Duration,
    /// Bytes per second of each stream; 0: as many as go.
    bandwidth: u64,
}

/// What all links are like, and those that are otherwise.
#[derive(Default)]
struct Qualities {
    everywhere: Quality,
    links: BTreeMap<(usize, usize), Quality>,
}

impl Qualities {
    fn both_ways(&mut self, one: usize, other: usize, change: impl Fn(&mut Quality)) {
        for link in [(one, other), (other, one)] {
            change(self.links.entry(link).or_insert(self.everywhere));
        }
    }
}

impl Quality {
    fn is_perfect(self) -> bool {
        self.delay.is_zero() && self.bandwidth == 0
    }
}

impl State {
    fn is_cut(&self, link: (usize, usize)) -> bool {
        self.cut.lock().expect("no holder panics").contains(&link)
    }

    fn quality(&self, link: (usize, usize)) -> Quality {
        let qualities = self.qualities();
        qualities.links.get(&link).copied().unwrap_or(qualities.everywhere)
    }

    fn qualities(&self) -> MutexGuard<'_, Qualities> {
        self.qualities.lock().expect("no holder panics")
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
        cut.extend(others.flat_map(|other| [(node, other), (other, node)]));
    }

    /// Nothing that one node says reaches the other any more; what that one says still goes through.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.state.cut.lock().expect("no holder panics").insert((from, to));
    }

    /// From now on everything takes that long, one way.
    pub fn delay(&self, one_way: Duration) {
        self.state.qualities().everywhere.delay = one_way;
    }

    /// From now on what two nodes say to each other takes that long, one way.
    pub fn delay_between(&self, one: usize, other: usize, one_way: Duration) {
        self.state.qualities().both_ways(one, other, |quality| quality.delay = one_way);
    }

    /// From now on no more bytes per second than that go through each direction of a stream between two nodes.
    pub fn narrow_between(&self, one: usize, other: usize, bytes_per_second: u64) {
        self.state.qualities().both_ways(one, other, |quality| quality.bandwidth = bytes_per_second);
    }

    /// Everything goes its way again, at once.
    pub fn heal(&self) {
        self.state.cut.lock().expect("no holder panics").clear();
        *self.state.qualities() = Qualities::default();
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
    let Ok(acceptor) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { return };
    let (Ok(back_from), Ok(back_to)) = (acceptor.try_clone(), opener.try_clone()) else { return };
    let shared = Arc::clone(state);
    let back = std::thread::spawn(move || copy(back_from, back_to, &[], (node, from), &shared));
    copy(opener, acceptor, &hello, (from, node), state);
    let _ = back.join();
}

/// What has been read from one end and not written to the other.
#[derive(Default)]
struct Delayed {
    pieces: VecDeque<(Instant, Vec<u8>)>,
    size: usize,
    /// When the next byte may leave if the link is narrow.
    free_at: Option<Instant>,
}

impl Delayed {
    fn push(&mut self, bytes: &[u8], quality: Quality) {
        let Quality { delay, bandwidth } = quality;
        let mut due = Instant::now() + delay;
        if bandwidth > 0 {
            let begins = self.free_at.map_or(due, |free| free.max(due));
            due = begins + Duration::from_secs_f64(bytes.len() as f64 / bandwidth as f64);
            self.free_at = Some(due);
        }
        self.size += bytes.len();
        self.pieces.push_back((due, bytes.to_vec()));
    }

    fn due(&self) -> Option<Instant> {
        self.pieces.front().map(|(due, _)| *due)
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let (_, bytes) = self.pieces.pop_front()?;
        self.size -= bytes.len();
        Some(bytes)
    }
}

/// Copies bytes from one end to the other while the direction is whole, `first` before all others.
fn copy(mut from: TcpStream, mut to: TcpStream, first: &[u8], link: (usize, usize), state: &State) {
    let mut buffer = vec![0; 64 << 10];
    let mut delayed = Delayed::default();
    if !first.is_empty() {
        delayed.push(first, state.quality(link));
    }
    let _ = from.set_nodelay(true);
    let _ = to.set_nodelay(true);
    // What was said before the end of a stream arrives before the end.
    let mut has_ended = false;
    while !state.is_over() && (!has_ended || delayed.due().is_some()) {
        if state.is_cut(link) {
            std::thread::sleep(PAUSE);
            continue;
        }
        let now = Instant::now();
        // What a narrow or slow link still holds when it is healed is as free to go as what comes behind it.
        if delayed.due().is_some_and(|due| due <= now || state.quality(link).is_perfect()) {
            let bytes = delayed.pop().expect("one is due");
            if to.write_all(&bytes).is_err() {
                break;
            }
            continue;
        }
        let patience = delayed.due().map_or(PATIENCE, |due| due.duration_since(now).min(PATIENCE));
        if has_ended || delayed.size >= ON_THE_WAY_MAX {
            std::thread::sleep(patience);
            continue;
        }
        let _ = from.set_read_timeout(Some(patience.max(Duration::from_micros(100))));
        match from.read(&mut buffer) {
            Ok(0) => has_ended = true,
            // What was read while the link was cut waits like everything behind it.
            Ok(count) if delayed.size == 0 && state.quality(link).is_perfect() && !state.is_cut(link) => {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Ok(count) => delayed.push(&buffer[..count], state.quality(link)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    if has_ended && delayed.due().is_none() {
        // The other direction may have something to say yet.
        let _ = to.shutdown(Shutdown::Write);
        return;
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
