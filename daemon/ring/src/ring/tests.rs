//! Tests against the real kernel: loopback sockets and a temporary directory.

mod log;
mod stream;
mod wake;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use panch_wire::batch::BatchWriter;
use panch_wire::command::{Command, CommandKind};
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, Incarnation, ReplicaId};

use super::*;
use crate::event::Token;
use crate::socket::{ListenOptions, listen, local_address, stream_for};

/// Longer than any step takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn small() -> RingConfig {
    RingConfig { entries: 64, receive_buffer_count: 8, receive_buffer_size: 4096, ..RingConfig::default() }
}

fn plain() -> RingConfig {
    RingConfig { plain: true, ..small() }
}

fn ring(config: &RingConfig) -> Ring {
    Ring::new(config, Doorbell::new().unwrap()).unwrap()
}

/// Runs `ring` until `done` says so; it sees each event and may start operations.
fn run(ring: &mut Ring, mut done: impl FnMut(&mut Ring, Option<Event>) -> bool) {
    let start = Instant::now();
    loop {
        while let Some(event) = ring.next_event() {
            if done(ring, Some(event)) {
                return;
            }
        }
        if done(ring, None) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "nothing happens any more: {:?}", ring.counters());
        ring.wait(Some(Duration::from_millis(20))).unwrap();
    }
}

/// The next event.
fn next(ring: &mut Ring) -> Event {
    let mut first = None;
    run(ring, |_, event| {
        first = event;
        first.is_some()
    });
    first.unwrap()
}

/// Lets `ring` work for a while and returns what it reports.
fn events_within(ring: &mut Ring, time: Duration) -> Vec<Event> {
    let start = Instant::now();
    let mut events = Vec::new();
    while start.elapsed() < time {
        ring.wait(Some(Duration::from_millis(2))).unwrap();
        while let Some(event) = ring.next_event() {
            events.push(event);
        }
    }
    events
}

/// A frame of at least `size` bytes, recognisable by `fill`.
fn frame(pool: &FramePool, size: usize, fill: u8) -> Frame {
    let mut writer = BatchWriter::new(pool.take(size + 4096).unwrap(), Vec::new());
    let value = vec![fill; size];
    let command = Command { kind: CommandKind::Set, flags: 0, session: None, key: b"key", value: &value };
    assert!(writer.push(&command));
    writer.seal(BatchId { proposer: ReplicaId(0), incarnation: Incarnation(1), counter: u64::from(fill) }).0
}

/// A listener on a free port of this machine.
fn listener() -> (std::os::fd::OwnedFd, SocketAddr) {
    let listener = listen("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap();
    let address = local_address(&listener).unwrap();
    (listener, address)
}

/// A connection: one end in the ring, the other a plain socket.
fn connection(ring: &mut Ring) -> (SocketId, std::net::TcpStream) {
    let (listener, address) = listener();
    let peer = std::net::TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let (stream, _) = std::net::TcpListener::from(listener).accept().unwrap();
    (ring.add_socket(stream), peer)
}
