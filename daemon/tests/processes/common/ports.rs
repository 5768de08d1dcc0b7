//! Ports for nodes: free ones outside the range that the kernel gives to outgoing connections, so that a node which was
//! killed finds its own ports free again.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
static NEXT: AtomicU32 = AtomicU32::new(0);

const LOWEST: u32 = 10_000;

/// A port for which nothing listens on any of those that belong to it. No other test of this process gets them.
pub fn take_where(belonging: impl Fn(u16) -> Vec<u16>) -> u16 {
    for _ in 0..1000 {
        let base = take(1)[0];
        let mut taken = TAKEN.lock().expect("no test panics while it holds the ports");
        let others: Vec<u16> = belonging(base).into_iter().filter(|port| *port != base).collect();
        let is_free =
            |port: &u16| !taken.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        if others.iter().all(is_free) {
            taken.extend(others);
            return base;
        }
    }
    panic!("no free ports that belong together");
}

/// Ports that nothing listens on. No other test of this process gets them before [`give_back`]; another process may.
pub fn take(count: usize) -> Vec<u16> {
    let highest = ephemeral_start().clamp(LOWEST + 2000, 60_000);
    let span = highest - LOWEST;
    let start = std::process::id().wrapping_mul(2_654_435_761) % span;
    let mut taken = TAKEN.lock().expect("no test panics while it holds the ports");
    let mut ports = Vec::new();
    let mut tries = 0;
    while ports.len() < count {
        tries += 1;
        assert!(tries < 4 * span, "no free ports between {LOWEST} and {highest}");
        let port = (LOWEST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % span) as u16;
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port);
            ports.push(port);
        }
    }
    ports
}

/// The ports may be used for something else.
pub fn give_back(ports: impl IntoIterator<Item = u16>) {
    let mut taken = TAKEN.lock().expect("no test panics while it holds the ports");
    for port in ports {
        taken.remove(&port);
    }
}

fn ephemeral_start() -> u32 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}
