//! The network between nodes: connections that break, or datagrams that get lost, doubled, late and out of order.
//!
//! Invariants:
//! * In stream mode the packets of one direction of one connection arrive in the order of sending, each once, until the
//!   connection is reset; what is under way then is lost, and both ends are told (or find out later).
//! * In datagram mode nothing is promised, not even that a packet stays as it was.
//! * A blocked direction delivers nothing: streams hold packets back until it is unblocked, datagrams are dropped.
//! * What waits in front of a narrow link waits no longer than the link is narrow, or the connection lasts.

use std::collections::VecDeque;
use std::rc::Rc;

use panch_wire::ids::{ReplicaId, ReplicaSet};

use crate::queue::{MICROSECOND, MILLISECOND, SECOND, Time};
use crate::random::Stream;

/// What kind of network, and how good it is. Probabilities are in parts per million.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetworkSettings {
    /// Connections, or datagrams.
    pub streams: bool,
    /// The least time a packet takes.
    pub latency_low: Time,
    /// The longest ordinary time a packet takes.
    pub latency_high: Time,
    /// Packets lost; in stream mode, connections reset per packet.
    pub loss: u64,
    /// Datagrams delivered twice.
    pub duplication: u64,
    /// Datagrams that take much longer than usual.
    pub straggling: u64,
    /// The longest time a straggler takes.
    pub straggle_high: Time,
    /// Packets with a flipped bit.
    pub corruption: u64,
    /// Bytes per second that one direction of a link carries; what does not get through waits in front of it. 0: no limit.
    pub bandwidth: u64,
}

impl NetworkSettings {
    /// Connections that never break on their own.
    pub fn calm() -> Self {
        Self {
            streams: true,
            latency_low: 30 * MICROSECOND,
            latency_high: 200 * MICROSECOND,
            loss: 0,
            duplication: 0,
            straggling: 0,
            straggle_high: MILLISECOND,
            corruption: 0,
            bandwidth: 0,
        }
    }
}

/// A packet on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The sender's number.
    pub from: usize,
    /// The receiver's number.
    pub to: usize,
    /// The connection it was sent on.
    pub connection: u64,
    /// Names the life of the sender.
    pub life: u64,
    /// The timetable of the link that says when it arrives.
    timetable: u64,
    /// As the sender wrote it.
    pub bytes: Rc<[u8]>,
}

#[derive(Clone, Debug, Default)]
struct Link {
    blocked: bool,
    /// Added to every latency.
    slowness: Time,
    /// Bytes per second that it carries, if it is narrower than the others.
    narrow: Option<u64>,
    last_arrival: Time,
    /// When the last byte of what was sent has left, if the bandwidth is limited.
    free_at: Time,
    held: Vec<Packet>,
    /// What is under way, and when it arrives.
    under_way: VecDeque<(Time, Packet)>,
    /// How often that was decided anew.
    timetable: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    number: u64,
    up: bool,
}

/// What the network has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NetworkCounters {
    /// Packets sent.
    pub packets: u64,
    /// Packets lost.
    pub lost: u64,
    /// Packets delivered twice.
    pub duplicated: u64,
    /// Packets corrupted.
    pub corrupted: u64,
    /// Connections reset.
    pub resets: u64,
}

/// What becomes of a packet.
#[derive(Debug)]
pub enum Fate {
    /// It arrives at these times.
    Arrives(Vec<(Time, Packet)>),
    /// The connection broke over it: both ends are to be told.
    Reset,
}

/// All links.
#[derive(Debug)]
pub struct Network {
    /// What it is like now.
    pub settings: NetworkSettings,
    random: Stream,
    node_count: usize,
    links: Vec<Link>,
    connections: Vec<Connection>,
    /// What it has done.
    pub counters: NetworkCounters,
}

/// More packets than this held back on a blocked direction break the connection.
const HELD_MAX: usize = 256;

impl Network {
    /// A network without connections yet.
    pub fn new(settings: NetworkSettings, random: Stream, node_count: usize) -> Self {
        Self {
            settings,
            random,
            node_count,
            links: vec![Link::default(); node_count * node_count],
            connections: vec![Connection::default(); node_count * node_count],
            counters: NetworkCounters::default(),
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.node_count + to]
    }

    fn connection(&mut self, a: usize, b: usize) -> &mut Connection {
        let (low, high) = (a.min(b), a.max(b));
        &mut self.connections[low * self.node_count + high]
    }

    /// The nodes to which `node` knows to have no connection; datagrams need none, and that a blocked link delivers nothing is not
    /// noticed.
    pub fn unreached(&self, node: usize) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        if !self.settings.streams {
            return set;
        }
        for other in (0..self.node_count).filter(|other| *other != node) {
            let (low, high) = (node.min(other), node.max(other));
            let is_blocked = [(node, other), (other, node)]
                .into_iter()
                .any(|(from, to)| self.links[from * self.node_count + to].blocked);
            if !self.connections[low * self.node_count + high].up && !is_blocked {
                set.insert(ReplicaId(other as u8));
            }
        }
        set
    }

    // Faults.

    /// Nothing goes from `from` to `to` until it is unblocked.
    pub fn block(&mut self, from: usize, to: usize) {
        self.link(from, to).blocked = true;
    }

    /// Packets go again; those held back arrive at the returned times.
    pub fn unblock(&mut self, now: Time, from: usize, to: usize) -> Vec<(Time, Packet)> {
        let link = self.link(from, to);
        link.blocked = false;
        let held = std::mem::take(&mut link.held);
        held.into_iter().map(|packet| self.dispatch(now, packet)).collect()
    }

    /// Whether packets go from `from` to `to`.
    pub fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.links[from * self.node_count + to].blocked
    }

    /// Every packet from `from` to `to` takes this much longer.
    pub fn slow_down(&mut self, from: usize, to: usize, slowness: Time) {
        self.link(from, to).slowness = slowness;
    }

    /// No more than so many bytes per second go from `from` to `to` until it is widened.
    pub fn narrow(&mut self, from: usize, to: usize, bytes_per_second: u64) {
        self.link(from, to).narrow = Some(bytes_per_second);
    }

    /// As many bytes per second go from `from` to `to` as on every link; what waits in front of it arrives at the returned times.
    ///
    /// Senders that repeat themselves can make that more than a narrow link carries in minutes. If it kept its place in time, nothing
    /// new would overtake it on a stream, and the link would stay as good as cut for as long although it is narrow no more.
    pub fn widen(&mut self, now: Time, from: usize, to: usize) -> Vec<(Time, Packet)> {
        let link = self.link(from, to);
        link.narrow = None;
        if link.free_at <= now {
            return Vec::new();
        }
        (link.free_at, link.last_arrival) = (now, now);
        link.timetable += 1;
        let late = std::mem::take(&mut link.under_way).into_iter().filter(|(at, _)| *at > now);
        late.map(|(_, packet)| self.dispatch(now, packet)).collect()
    }

    // Connections.

    /// Breaks the connection of `a` and `b`; true if there was one.
    pub fn reset(&mut self, a: usize, b: usize) -> bool {
        for (from, to) in [(a, b), (b, a)] {
            let link = self.link(from, to);
            link.held.clear();
            link.under_way.clear();
            // What comes on the next connection does not wait for what is lost with this one.
            (link.free_at, link.last_arrival) = (0, 0);
        }
        let connection = self.connection(a, b);
        connection.number += 1;
        let was_up = std::mem::take(&mut connection.up);
        self.counters.resets += u64::from(was_up);
        was_up
    }

    /// Connects `a` and `b`, both alive; false if a direction is blocked.
    pub fn connect(&mut self, a: usize, b: usize) -> bool {
        if self.is_blocked(a, b) || self.is_blocked(b, a) {
            return false;
        }
        self.connection(a, b).up = true;
        true
    }

    /// Whether `a` and `b` can talk: always, in datagram mode.
    pub fn is_connected(&self, a: usize, b: usize) -> bool {
        let (low, high) = (a.min(b), a.max(b));
        !self.settings.streams || self.connections[low * self.node_count + high].up
    }

    /// Whether a packet still belongs to a connection that is up.
    pub fn is_current(&self, packet: &Packet) -> bool {
        let (low, high) = (packet.from.min(packet.to), packet.from.max(packet.to));
        let connection = self.connections[low * self.node_count + high];
        !self.settings.streams || connection.up && connection.number == packet.connection
    }

    /// Whether a packet whose time has come arrives: its connection is up, and no other time was set for it since.
    pub fn is_due(&self, packet: &Packet) -> bool {
        let link = &self.links[packet.from * self.node_count + packet.to];
        packet.timetable == link.timetable && self.is_current(packet)
    }

    // Packets.

    /// A packet on the present connection.
    pub fn address(&mut self, from: usize, to: usize, bytes: Rc<[u8]>) -> Packet {
        let connection = self.connection(from, to).number;
        Packet { from, to, connection, life: 0, timetable: 0, bytes }
    }

    /// Sends a packet.
    pub fn send(&mut self, now: Time, packet: Packet) -> Fate {
        self.counters.packets += 1;
        let (from, to) = (packet.from, packet.to);
        let connection = *self.connection(from, to);
        if self.settings.streams {
            if !connection.up {
                self.counters.lost += 1;
                return Fate::Arrives(Vec::new());
            }
            let breaks = self.random.chance(self.settings.loss + self.settings.corruption);
            let link = self.link(from, to);
            if breaks || link.blocked && link.held.len() >= HELD_MAX {
                self.counters.lost += 1;
                return Fate::Reset;
            }
            if link.blocked {
                link.held.push(packet);
                return Fate::Arrives(Vec::new());
            }
            return Fate::Arrives(vec![self.dispatch(now, packet)]);
        }
        if self.link(from, to).blocked || self.random.chance(self.settings.loss) {
            self.counters.lost += 1;
            return Fate::Arrives(Vec::new());
        }
        let mut arrivals = Vec::new();
        let copies = 1 + usize::from(self.random.chance(self.settings.duplication));
        self.counters.duplicated += copies as u64 - 1;
        for _ in 0..copies {
            let mut copy = packet.clone();
            if self.random.chance(self.settings.corruption) {
                self.counters.corrupted += 1;
                let mut bytes = copy.bytes.to_vec();
                let at = self.random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.random.below(8);
                copy.bytes = bytes.into();
            }
            arrivals.push(self.dispatch(now, copy));
        }
        Fate::Arrives(arrivals)
    }

    /// Says when a packet arrives.
    fn dispatch(&mut self, now: Time, mut packet: Packet) -> (Time, Packet) {
        let (from, to, size) = (packet.from, packet.to, packet.bytes.len());
        let settings = self.settings;
        let mut latency = self.random.skewed(settings.latency_low, settings.latency_high);
        if self.random.chance(settings.straggling) {
            latency += self.random.below(settings.straggle_high);
        }
        let link = self.link(from, to);
        let mut left = now;
        let bandwidth = link.narrow.unwrap_or(settings.bandwidth);
        if let Some(takes) = (size as Time * SECOND).checked_div(bandwidth) {
            left = left.max(link.free_at) + takes;
            link.free_at = left;
        }
        let mut at = left + latency + link.slowness;
        if settings.streams {
            at = at.max(link.last_arrival + 1);
            link.last_arrival = at;
        }
        packet.timetable = link.timetable;
        while link.under_way.pop_front_if(|(arrived, _)| *arrived <= now).is_some() {}
        link.under_way.push_back((at, packet.clone()));
        (at, packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Concern;

    fn network(settings: NetworkSettings) -> Network {
        let mut network = Network::new(settings, Stream::new(5, Concern::Network), 3);
        network.connect(0, 1);
        network
    }

    fn send(network: &mut Network, now: Time, from: usize, to: usize, byte: u8) -> Fate {
        let packet = network.address(from, to, Rc::new([byte]));
        network.send(now, packet)
    }

    fn arrivals(fate: Fate) -> Vec<(Time, Packet)> {
        match fate {
            Fate::Arrives(arrivals) => arrivals,
            Fate::Reset => Vec::new(),
        }
    }

    #[test]
    fn streams_keep_order_and_break_as_a_whole() {
        let mut network = network(NetworkSettings::calm());
        let mut last = 0;
        let mut packets = Vec::new();
        for number in 0..200u8 {
            let fate = send(&mut network, 0, 0, 1, number);
            for (at, packet) in arrivals(fate) {
                assert!(at > last && packet.bytes[0] == number);
                last = at;
                packets.push(packet);
            }
        }
        assert_eq!(packets.len(), 200);
        assert!(packets.iter().all(|packet| network.is_current(packet)));
        assert!(network.reset(1, 0));
        assert!(!packets.iter().any(|packet| network.is_current(packet)));
        assert!(arrivals(send(&mut network, 0, 0, 1, 0)).is_empty());
    }

    #[test]
    fn a_blocked_stream_holds_packets_and_blocks_one_way() {
        let mut network = network(NetworkSettings::calm());
        network.block(0, 1);
        assert!(arrivals(send(&mut network, 0, 0, 1, 1)).is_empty());
        assert_eq!(arrivals(send(&mut network, 0, 1, 0, 2)).len(), 1);
        let held = network.unblock(1000, 0, 1);
        assert_eq!(held.len(), 1);
        assert!(held[0].0 > 1000 && network.is_current(&held[0].1));
        network.block(2, 1);
        assert!(!network.connect(1, 2));
    }

    #[test]
    fn a_narrow_link_carries_one_packet_after_the_other() {
        let settings = NetworkSettings { bandwidth: 1_000_000, ..NetworkSettings::calm() };
        let mut network = network(settings);
        let mut last = 0;
        for _ in 0..10 {
            let packet = network.address(0, 1, vec![0; 50_000].into());
            last = arrivals(network.send(0, packet))[0].0;
        }
        assert!((500 * MILLISECOND..502 * MILLISECOND).contains(&last), "{last}");
        // The other direction is free, and so is the link as soon as all has left.
        assert!(arrivals(send(&mut network, 0, 1, 0, 1))[0].0 < MILLISECOND);
        assert!(arrivals(send(&mut network, SECOND, 0, 1, 1))[0].0 < SECOND + MILLISECOND);
    }

    #[test]
    fn one_link_alone_is_narrow() {
        let mut network = network(NetworkSettings::calm());
        network.connect(0, 2);
        network.narrow(0, 1, 1_000_000);
        for to in [1, 2] {
            let packet = network.address(0, to, vec![0; 50_000].into());
            let at = arrivals(network.send(0, packet))[0].0;
            assert_eq!(at >= 50 * MILLISECOND, to == 1);
        }
        assert!(network.widen(SECOND, 0, 1).is_empty());
        let at = arrivals(send(&mut network, SECOND, 0, 1, 1))[0].0;
        assert!(at < SECOND + MILLISECOND);
    }

    #[test]
    fn what_waits_in_front_of_a_narrow_link_leaves_when_it_is_widened() {
        let mut network = network(NetworkSettings::calm());
        network.narrow(0, 1, 1_000);
        let mut late = Vec::new();
        for number in 0..100u8 {
            let packet = network.address(0, 1, vec![number; 1_000].into());
            late.extend(arrivals(network.send(0, packet)));
        }
        assert!(late[0].0 > SECOND && late[99].0 > 100 * SECOND);
        let now = 10 * SECOND + SECOND / 2;
        let anew = network.widen(now, 0, 1);
        // Ten have arrived; the others come in their order, soon, and once.
        assert!(
            anew.iter().map(|(_, packet)| packet.bytes[0]).eq(10..100)
                && anew.is_sorted_by_key(|(at, _)| *at)
        );
        assert!(
            anew.iter().all(|(at, packet)| (now..now + MILLISECOND).contains(at) && network.is_due(packet))
        );
        assert!(!late[10..].iter().any(|(_, packet)| network.is_due(packet)));
        let next = arrivals(send(&mut network, now, 0, 1, 100))[0].0;
        assert!((anew[89].0..now + MILLISECOND).contains(&next));
    }

    #[test]
    fn a_connection_does_not_wait_for_what_was_lost_with_the_one_before() {
        let mut network = network(NetworkSettings::calm());
        network.narrow(0, 1, 1_000);
        for _ in 0..100 {
            let packet = network.address(0, 1, vec![0; 1_000].into());
            network.send(0, packet);
        }
        network.reset(0, 1);
        network.connect(0, 1);
        let at = arrivals(send(&mut network, SECOND, 0, 1, 1))[0].0;
        assert!(at < SECOND + 2 * MILLISECOND);
        assert!(network.widen(SECOND, 0, 1).len() == 1);
    }

    #[test]
    fn datagrams_are_lost_doubled_overtaken_and_damaged() {
        let settings = NetworkSettings {
            streams: false,
            loss: 200_000,
            duplication: 200_000,
            straggling: 200_000,
            corruption: 100_000,
            ..NetworkSettings::calm()
        };
        let mut network = network(settings);
        let mut all = Vec::new();
        for number in 0..200u8 {
            all.extend(arrivals(send(&mut network, u64::from(number), 0, 2, number)));
        }
        let counters = network.counters;
        assert!(counters.lost > 0 && counters.duplicated > 0 && counters.corrupted > 0);
        assert_eq!(all.len() as u64, 200 - counters.lost + counters.duplicated);
        assert!(all.is_sorted_by_key(|(_, packet)| packet.from) && !all.is_sorted_by_key(|(at, _)| *at));
    }
}
