//! Faults: when they strike, what they do, and how they end.

use panch_wal::Durability;
use panch_wire::ids::GroupId;

use super::node::{Node, State};
use super::{Event, World};
use crate::disk::{CrashKind, Latency};
use crate::network::NetworkSettings;
use crate::queue::{MILLISECOND, Time};
use crate::random::{Concern, Stream};
use crate::settings::{FaultWeights, Settings};

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Undo {
    Nothing,
    Unblock(usize, usize),
    FastLink(usize, usize),
    WideLink(usize, usize),
    FastNode(usize),
    FastDisk(usize),
    RoomOnDisk(usize),
    ReadableDisk(usize),
    TrueClock(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Kill,
    Power,
    Blackout,
    Pause,
    SlowNode,
    Partition,
    SlowLink,
    Reset,
    Stall,
    SlowDisk,
    FailWrite,
    Clock,
    Rot,
    Lose,
    Depose,
    Wipe,
    Restore,
    Full,
    FailRead,
}

pub(super) struct Faults {
    random: Stream,
    kinds: Vec<(Fault, u64)>,
    every: Time,
    over: bool,
}

impl Faults {
    pub(super) fn new(settings: &Settings) -> Self {
        let FaultWeights {
            kill,
            power,
            blackout,
            pause,
            slow_node,
            partition,
            slow_link,
            reset,
            stall,
            slow_disk,
            fail_write,
            clock,
            rot,
            lose,
            depose,
            wipe,
            restore,
            full,
            fail_read,
        } = settings.faults;
        let kinds = [
            (Fault::Kill, kill),
            (Fault::Power, power),
            (Fault::Blackout, blackout),
            (Fault::Pause, pause),
            (Fault::SlowNode, slow_node),
            (Fault::Partition, partition),
            (Fault::SlowLink, slow_link),
            (Fault::Reset, reset),
            (Fault::Stall, stall),
            (Fault::SlowDisk, slow_disk),
            (Fault::FailWrite, fail_write),
            (Fault::Clock, clock),
            (Fault::Rot, rot),
            (Fault::Lose, lose),
            (Fault::Depose, depose),
            (Fault::Wipe, wipe),
            (Fault::Restore, restore),
            (Fault::Full, full),
            (Fault::FailRead, fail_read),
        ];
        Self {
            random: Stream::new(settings.seed, Concern::Faults),
            kinds: kinds.into_iter().filter(|(_, weight)| *weight > 0).collect(),
            every: settings.fault_every,
            over: false,
        }
    }

    /// Whether everything has healed.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    fn pick(&mut self) -> Option<Fault> {
        let total = self.kinds.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(total);
        for (fault, weight) in &self.kinds {
            if at < *weight {
                return Some(*fault);
            }
            at -= weight;
        }
        None
    }
}

impl World {
    /// Schedules the first fault.
    pub(super) fn plan_faults(&mut self) {
        if !self.faults.kinds.is_empty() {
            let wait = self.faults.random.below(2 * self.faults.every);
            self.shared.queue.push_in(wait, Event::Fault);
        }
    }

    /// Whether everything has healed.
    pub(super) fn is_quiet(&self) -> bool {
        self.faults.over
    }

    /// What else is decided about faults that last.
    pub(super) fn fault_random(&mut self) -> &mut Stream {
        &mut self.faults.random
    }

    fn any_node(&mut self) -> usize {
        self.faults.random.below(self.nodes.len() as u64) as usize
    }

    /// Often a node that leads: that is where it hurts.
    pub(super) fn victim(&mut self) -> usize {
        let any = self.any_node();
        let group = GroupId(self.faults.random.below(u64::from(self.shared.settings.group_count())) as u16);
        let aimed = self.faults.random.chance(400_000);
        let leads = |node: &usize| self.status_of(*node, group).is_some_and(|status| status.protocol.leading);
        (0..self.nodes.len()).find(leads).filter(|_| aimed).unwrap_or(any)
    }

    fn any_link(&mut self) -> (usize, usize) {
        let from = self.any_node();
        let to =
            (from + 1 + self.faults.random.below(self.nodes.len() as u64 - 1) as usize) % self.nodes.len();
        (from, to)
    }

    /// One fault strikes.
    pub(super) fn strike(&mut self) {
        if self.faults.over {
            return;
        }
        if let Some(fault) = self.faults.pick() {
            self.shared.trace(|| format!("fault: {fault:?}"));
            self.inflict(fault);
        }
        self.plan_faults();
    }

    fn inflict(&mut self, fault: Fault) {
        let node = self.victim();
        let duration = self.faults.random.skewed(1, 400) * MILLISECOND;
        let now = self.now();
        match fault {
            Fault::Power | Fault::FailWrite
                if matches!(self.shared.settings.wal.durability, Durability::Periodic { .. }) =>
            {
                if self.are_others_whole(node) && !self.nodes[node].memory.is_returning() {
                    let kind = if fault == Fault::Power { CrashKind::Power } else { CrashKind::Failure };
                    self.strike_down(node, kind);
                }
            }
            Fault::Kill | Fault::Power => {
                let kind = if fault == Fault::Kill { CrashKind::Kill } else { CrashKind::Power };
                // Crashes are worst while something is being written.
                if self.faults.random.chance(600_000) {
                    self.nodes[node].doomed = Some(kind);
                } else {
                    self.strike_down(node, kind);
                }
            }
            Fault::Blackout => self.blackout(),
            Fault::Pause => {
                self.shared.coverage.pauses += 1;
                self.nodes[node].busy_until = now + duration;
            }
            Fault::SlowNode => {
                self.nodes[node].slowness = self.faults.random.skewed(100, 20_000) * 1000;
                self.shared.queue.push_in(duration, Event::Undo(Undo::FastNode(node)));
            }
            Fault::Partition => self.partition(duration),
            Fault::SlowLink => {
                let (from, to) = self.any_link();
                let slowness = self.faults.random.skewed(1, 50) * MILLISECOND;
                self.shared.network.slow_down(from, to, slowness);
                self.shared.queue.push_in(duration, Event::Undo(Undo::FastLink(from, to)));
            }
            Fault::Reset => {
                let (from, to) = self.any_link();
                self.shared.reset(from, to);
            }
            Fault::Stall => {
                self.shared.coverage.slow_disks += 1;
                self.nodes[node].disk.stall(now + duration);
            }
            Fault::SlowDisk => {
                self.shared.coverage.slow_disks += 1;
                let high = self.faults.random.skewed(1, 60) * MILLISECOND;
                self.nodes[node].disk.latency = Latency { low: high / 20, high, sync: high, read: high };
                self.shared.queue.push_in(duration, Event::Undo(Undo::FastDisk(node)));
            }
            Fault::FailWrite => self.nodes[node].disk.fail_next(),
            Fault::Full => {
                self.shared.coverage.full_disks += 1;
                self.nodes[node].disk.full = true;
                let duration = 4 * duration;
                self.shared.queue.push_in(duration, Event::Undo(Undo::RoomOnDisk(node)));
            }
            Fault::FailRead => {
                self.shared.coverage.unreadable_disks += 1;
                self.nodes[node].disk.unreadable = true;
                if self.faults.random.chance(500_000) {
                    // No file can be opened: none can be made either.
                    self.shared.coverage.full_disks += 1;
                    self.nodes[node].disk.full = true;
                    self.shared.queue.push_in(duration, Event::Undo(Undo::RoomOnDisk(node)));
                }
                self.shared.queue.push_in(duration, Event::Undo(Undo::ReadableDisk(node)));
            }
            Fault::Clock => {
                self.shared.coverage.clock_faults += 1;
                let bound = self.shared.settings.clock_bound();
                let clock = &mut self.nodes[node].clock;
                if self.faults.random.chance(500_000) && bound.is_none() {
                    clock.jump(self.faults.random.skewed(1, 5000) * MILLISECOND);
                } else {
                    let rate =
                        *self.faults.random.pick(&[2_000, 50_000, 500_000, 900_000, 1_100_000, 4_000_000]);
                    clock.set_rate(now, within(rate, bound));
                    self.shared.queue.push_in(duration, Event::Undo(Undo::TrueClock(node)));
                }
                self.nodes[node].wake(&mut self.shared, now);
            }
            Fault::Depose => {
                let leads =
                    |node: &usize| self.status_of(*node, GroupId(0)).is_some_and(|it| it.protocol.leading);
                let Some(leader) = (0..self.nodes.len()).find(leads) else { return };
                let timeout = self.shared.settings.tuning.election_timeout.as_nanos() as Time;
                let duration = 2 * timeout + self.faults.random.below(2 * timeout);
                let bound = self.shared.settings.clock_bound();
                self.nodes[leader].clock.set_rate(now, within(20_000, bound));
                self.shared.queue.push_in(2 * duration, Event::Undo(Undo::TrueClock(leader)));
                // At times it goes on hearing, or being heard.
                let (mute, deaf) =
                    *self.faults.random.pick(&[(true, true), (true, true), (true, false), (false, true)]);
                let others = (0..self.nodes.len()).filter(|other| *other != leader);
                let from = others.clone().filter(|_| mute).map(|other| (leader, other));
                let blocked = from.chain(others.filter(|_| deaf).map(|other| (other, leader))).collect();
                self.block_for(blocked, duration);
            }
            Fault::Wipe => {
                // A damaged log is a reason to give up a disk.
                let refused = |node: &Node| matches!(node.state, State::Refused);
                let refused = self.nodes.iter().position(refused);
                let node = refused.filter(|_| self.faults.random.chance(700_000)).unwrap_or(node);
                if self.are_others_whole(node) && !self.nodes[node].is_on_its_way_back() {
                    let kind = *self.faults.random.pick(&[CrashKind::Kill, CrashKind::Power]);
                    self.nodes[node].wipe(&mut self.shared, kind);
                    let absence = self.faults.random.skewed(1, 600) * MILLISECOND;
                    self.shared.queue.push_in(absence, Event::Restart { node });
                }
            }
            Fault::Restore => {
                let copy = self.nodes[node].copy_disk();
                let age = self.faults.random.skewed(1, 2000) * MILLISECOND;
                self.shared.queue.push_in(age, Event::Restore { node, copy });
            }
            Fault::Rot | Fault::Lose => {
                // A quorum stays whole: it must be able to go on when the damaged nodes refuse to start.
                let rotten = self.nodes.iter().filter(|node| node.rotten).count();
                // And nobody needs to hear from all the others.
                let calm = !self.nodes.iter().any(Node::is_on_its_way_back);
                if rotten < (self.nodes.len() - 1) / 2 && calm {
                    self.strike_down(node, CrashKind::Power);
                    if fault == Fault::Rot {
                        self.nodes[node].rot(&mut self.shared);
                    } else {
                        self.nodes[node].harm_file(&mut self.shared);
                    }
                }
            }
        }
    }

    /// A node goes down, and comes back after a while.
    pub(super) fn strike_down(&mut self, node: usize, kind: CrashKind) {
        if self.faults.over && kind == CrashKind::Kill || matches!(self.nodes[node].state, State::Refused) {
            return;
        }
        match kind {
            CrashKind::Kill => self.shared.coverage.kills += 1,
            CrashKind::Power => self.shared.coverage.power_failures += 1,
            CrashKind::Failure => self.shared.coverage.failed_writes += 1,
        }
        self.nodes[node].crash(&mut self.shared, kind);
        let absence = self.faults.random.skewed(1, 600) * MILLISECOND;
        self.shared.queue.push_in(absence, Event::Restart { node });
    }

    /// All nodes lose power at once.
    pub(super) fn blackout(&mut self) {
        self.shared.coverage.blackouts += 1;
        for node in 0..self.nodes.len() {
            self.strike_down(node, CrashKind::Power);
        }
    }

    fn partition(&mut self, duration: Time) {
        self.shared.coverage.partitions += 1;
        let count = self.nodes.len();
        let blocked: Vec<(usize, usize)> = match self.faults.random.below(4) {
            // One node apart, one direction only.
            0 => {
                let lonely = self.victim();
                let mute = self.faults.random.chance(500_000);
                let others = (0..count).filter(|other| *other != lonely);
                others.map(|other| if mute { (lonely, other) } else { (other, lonely) }).collect()
            }
            // One link, one direction or both.
            1 => {
                let (from, to) = self.any_link();
                if self.faults.random.chance(500_000) {
                    vec![(from, to)]
                } else {
                    vec![(from, to), (to, from)]
                }
            }
            // Two camps.
            _ => {
                let mut camps: Vec<bool> = (0..count).map(|_| self.faults.random.chance(500_000)).collect();
                let lonely = self.victim();
                camps[lonely] = !camps[(lonely + 1) % count];
                let links = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
                links.filter(|(from, to)| camps[*from] != camps[*to]).collect()
            }
        };
        self.block_for(blocked, duration);
    }

    fn block_for(&mut self, blocked: Vec<(usize, usize)>, duration: Time) {
        for (from, to) in blocked {
            self.shared.network.block(from, to);
            // One direction may come back a little earlier.
            let early = self.faults.random.skewed(0, duration / 4);
            self.shared.queue.push_in(duration - early, Event::Undo(Undo::Unblock(from, to)));
        }
    }

    /// A fault ends.
    pub(super) fn undo(&mut self, undo: Undo) {
        let now = self.now();
        match undo {
            Undo::Nothing => {}
            Undo::Unblock(from, to) => {
                for (at, packet) in self.shared.network.unblock(now, from, to) {
                    self.shared.queue.push(at, Event::Packet(packet));
                }
            }
            Undo::FastLink(from, to) => self.shared.network.slow_down(from, to, 0),
            Undo::WideLink(from, to) => {
                for (at, packet) in self.shared.network.widen(now, from, to) {
                    self.shared.queue.push(at, Event::Packet(packet));
                }
            }
            Undo::FastNode(node) => self.nodes[node].slowness = 0,
            Undo::FastDisk(node) => self.nodes[node].disk.latency = self.shared.settings.disk,
            Undo::RoomOnDisk(node) => self.nodes[node].disk.full = false,
            Undo::ReadableDisk(node) => self.nodes[node].disk.unreadable = false,
            Undo::TrueClock(node) => {
                self.nodes[node].clock.heal(now);
                self.nodes[node].wake(&mut self.shared, now);
            }
        }
    }

    /// Every fault ends, and every node that is down starts.
    pub(super) fn heal(&mut self) {
        self.faults.over = true;
        self.shared.trace(|| "everything heals".to_string());
        self.shared.filter = None;
        let network = &mut self.shared.network;
        let streams = network.settings.streams;
        network.settings = NetworkSettings { streams, ..NetworkSettings::calm() };
        let count = self.nodes.len();
        for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
            if from != to {
                self.undo(Undo::Unblock(from, to));
                self.undo(Undo::FastLink(from, to));
                self.undo(Undo::WideLink(from, to));
                self.shared.queue.push_in(MILLISECOND, Event::Connect { a: from, b: to });
            }
        }
        let now = self.now();
        for index in 0..count {
            let node: &mut Node = &mut self.nodes[index];
            node.slowness = 0;
            node.doomed = None;
            node.busy_until = now;
            node.clock.heal(now);
            node.disk.heal(Latency::default());
            node.wake(&mut self.shared, now);
            self.shared.queue.push_in(MILLISECOND, Event::Restart { node: index });
        }
    }
}

/// The rate nearest to `rate` that keeps to the bound.
fn within(rate: u64, bound: Option<u64>) -> u64 {
    const TRUE_RATE: u64 = 1_000_000;
    bound.map_or(rate, |bound| rate.clamp(TRUE_RATE - bound, TRUE_RATE + bound))
}
