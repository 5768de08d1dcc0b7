//! `panchd dev`: where it may listen.

use super::ports;

/// Ports lie so far apart by kind.
const STRIDE: u16 = 100;
/// As many nodes as the tests start.
const NODES: u16 = 3;

/// A base port whose ports, of all kinds and for a few nodes, nothing listens on.
pub fn base_port() -> u16 {
    ports::take_where(|base| {
        let ports = (0..3).flat_map(|kind| (0..NODES).map(move |node| base + kind * STRIDE + node));
        ports.collect()
    })
}
