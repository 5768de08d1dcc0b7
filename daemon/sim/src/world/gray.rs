//! Weaknesses that last and kill nothing: one link, one disk, one node. All others must go on about as fast as without it.

use std::fmt;

use panch_consensus::protocol::ProtocolKind;
use panch_replica::replica::Level;
use panch_wire::ids::GroupId;
use panch_wire::slots::group_of_key;

use super::World;
use super::node::State;
use super::script::Call;
use crate::client::Outcome;
use crate::disk::Latency;
use crate::invariant::Violation;
use crate::linear::register::Action;
use crate::queue::{MICROSECOND, MILLISECOND, SECOND, Time};
use crate::random::{Concern, Stream};

/// By how much the median of the others may grow.
const RATIO_MAX: u64 = 3;
/// And this much more: as much as the medians of so few commands differ by chance.
const SLACK: Time = 2 * MILLISECOND;
/// Rounds of commands that are measured without the weakness, and as many beside it.
const ROUNDS: usize = 30;
/// Rounds before anything is measured.
const ROUNDS_BEFORE: usize = 20;
/// Between two rounds.
const PAUSE: Time = 8 * MILLISECOND;
/// What has no answer after this time has none.
const PATIENCE: Time = 2 * SECOND;
/// Bytes of a packet that a narrow link carries from one heartbeat to the next, for each group: what is said without a batch.
const NARROW_PER_HEARTBEAT: u64 = 300;

/// One weakness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weakness {
    /// A disk completes nothing.
    HungDisk(usize),
    /// A disk takes so long for what it does.
    SlowDisk(usize, Time),
    /// Nothing that the first says reaches the second.
    CutOneWay(usize, usize),
    /// What two nodes say to each other takes so much longer, one way.
    SlowLink(usize, usize, Time),
    /// Less goes through between two nodes than is written.
    NarrowLink(usize, usize, u64),
    /// A node takes so much longer for each turn.
    SlowNode(usize, Time),
}

impl Weakness {
    /// Whether clients of a node are promised that they notice nothing.
    fn spares(self, node: usize) -> bool {
        match self {
            Self::HungDisk(weak) | Self::SlowDisk(weak, _) | Self::SlowNode(weak, _) => node != weak,
            Self::CutOneWay(one, other) | Self::SlowLink(one, other, _) | Self::NarrowLink(one, other, _) => {
                node != one && node != other
            }
        }
    }
}

/// Whether a protocol promises that others stay fast. In Basic Paxos every node proposes, and a slot that a slow one has begun waits for
/// it or for whoever takes it over. In Fast Paxos votes that come late, for whatever reason, can cost every command a wait, as yet.
fn is_promised(weakness: Weakness, kind: ProtocolKind) -> bool {
    match kind {
        ProtocolKind::Basic => !matches!(weakness, Weakness::SlowNode(..)),
        ProtocolKind::Fast => matches!(weakness, Weakness::CutOneWay(..) | Weakness::HungDisk(..)),
        _ => true,
    }
}

/// How long commands of one kind took in one group, those without a good answer included as for ever.
#[derive(Default)]
struct Times(Vec<Time>);

impl Times {
    fn median(&mut self) -> Time {
        self.0.sort_unstable();
        self.0.get(self.0.len() / 2).copied().unwrap_or(0)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let middle = self.0.get(self.0.len() / 2).copied().unwrap_or(0);
        if middle == Time::MAX {
            return write!(f, "for ever");
        }
        write!(f, "{} us", middle / MICROSECOND)
    }
}

/// How fast a group is.
#[derive(Default)]
struct Pace {
    writes: Times,
    reads: Times,
}

impl World {
    /// What lasts in this run, and whom it concerns: often who leads.
    fn weakness(&mut self) -> Weakness {
        let mut random = Stream::new(self.shared.settings.seed, Concern::Lasting);
        // What was drawn for the settings is not drawn again.
        let _ = random.word();
        let count = self.nodes.len();
        let any = random.below(count as u64) as usize;
        let one = self.leader().filter(|_| random.chance(500_000)).unwrap_or(any);
        let other = (one + 1 + random.below(count as u64 - 1) as usize) % count;
        let tuning = self.shared.settings.tuning;
        let timeout = tuning.election_timeout.as_nanos() as Time;
        let slow = random.range(timeout / 8, timeout / 3);
        let per_second = SECOND / (tuning.heartbeat_interval.as_nanos() as Time).max(1);
        let narrow = per_second.max(1) * NARROW_PER_HEARTBEAT * u64::from(self.shared.settings.group_count());
        match random.below(8) {
            0 => Weakness::HungDisk(one),
            1 => Weakness::SlowDisk(one, slow),
            2 => Weakness::CutOneWay(one, other),
            3 => Weakness::CutOneWay(other, one),
            4 | 5 => Weakness::SlowLink(one, other, slow),
            6 => Weakness::NarrowLink(one, other, narrow),
            _ => Weakness::SlowNode(one, slow),
        }
    }

    fn suffer(&mut self, weakness: Weakness) {
        self.shared.trace(|| format!("from now on: {weakness:?}"));
        let network = &mut self.shared.network;
        match weakness {
            Weakness::HungDisk(node) => self.nodes[node].disk.hung = true,
            Weakness::SlowDisk(node, time) => {
                self.nodes[node].disk.latency = Latency { low: time / 2, high: time, sync: time, read: time };
            }
            Weakness::CutOneWay(from, to) => network.block(from, to),
            Weakness::SlowLink(one, other, time) => {
                network.slow_down(one, other, time);
                network.slow_down(other, one, time);
            }
            Weakness::NarrowLink(one, other, per_second) => {
                network.narrow(one, other, per_second);
                network.narrow(other, one, per_second);
            }
            Weakness::SlowNode(node, time) => self.nodes[node].slowness = time,
        }
    }

    /// One weakness lasts from now on, until everything heals.
    pub(super) fn weaken(&mut self) {
        if self.nodes.len() > 2 {
            self.shared.coverage.lasting += 1;
            let weakness = self.weakness();
            self.suffer(weakness);
        }
    }

    /// Heals everything, and requires that the nodes which a lasting weakness spares serve about as fast beside it as without it.
    /// It may cost them something once, until it is noticed.
    ///
    /// # Errors
    /// The first violation.
    pub(super) fn serve_beside_weakness(&mut self) -> Result<(), Violation> {
        self.heal();
        self.come_to_rest(|world| world.clients.are_idle(), "the healed cluster does not come to rest")?;
        let is_whole = self.nodes.iter().all(|node| matches!(node.state, State::Up(_)));
        if !is_whole || self.nodes.len() < 3 {
            return Ok(());
        }
        let weakness = self.weakness();
        let spared: Vec<usize> = (0..self.nodes.len()).filter(|node| weakness.spares(*node)).collect();
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.pace(&all, ROUNDS_BEFORE)?;
        let mut before = self.pace(&spared, ROUNDS)?;
        self.shared.coverage.gray += 1;
        self.suffer(weakness);
        let noticed = SECOND + 4 * self.shared.settings.tuning.election_timeout.as_nanos() as Time;
        let end = self.now() + noticed;
        while self.now() < end {
            self.pace(&spared, 1)?;
        }
        let mut beside = self.pace(&spared, ROUNDS)?;
        let groups = self.shared.groups().zip(before.iter_mut().zip(&mut beside));
        let mut slow = None;
        for (group, (before, beside)) in groups {
            let Some(kind) = self.shared.kind(group).filter(|kind| is_promised(weakness, *kind)) else {
                continue;
            };
            for (what, before, beside) in [
                ("writes", &mut before.writes, &mut beside.writes),
                ("reads", &mut before.reads, &mut beside.reads),
            ] {
                self.shared.coverage.measured += beside.0.len() as u64;
                let (was, is) = (before.median(), beside.median());
                if is > (RATIO_MAX * was).saturating_add(SLACK) {
                    slow.get_or_insert(format!(
                        "{weakness:?}: {what} of group {} ({}) take {beside}, {before} before",
                        group.0,
                        kind.name()
                    ));
                }
            }
        }
        if let Some(text) = slow {
            let text = format!("{text}: {}", self.describe());
            self.shared.invariants.note("gray", Err(text));
        }
        self.check()
    }

    /// So many rounds in which each of these nodes writes and reads a key of its own, in every group; by group.
    fn pace(&mut self, nodes: &[usize], rounds: usize) -> Result<Vec<Pace>, Violation> {
        let group_count = self.shared.settings.group_count();
        let level = if self.shared.settings.tuning.lease.is_zero() { Level::Quorum } else { Level::Lease };
        let mut paces: Vec<Pace> = (0..group_count).map(|_| Pace::default()).collect();
        for _ in 0..rounds {
            let begun = self.now();
            let mut calls: Vec<(GroupId, bool, Call, Option<Time>)> = Vec::new();
            for &node in nodes {
                for group in self.shared.groups() {
                    let key = own_key(node, group, group_count);
                    let value = format!("{node}.{begun}").into_bytes();
                    let write = self.call(node, &key, Action::Set(value.into()), Level::Log);
                    let read = self.call(node, &key, Action::Get, level);
                    calls.extend([(group, false, write, None), (group, true, read, None)]);
                }
            }
            self.run_until(PATIENCE, |world| {
                for (.., call, ended) in calls.iter_mut().filter(|(.., ended)| ended.is_none()) {
                    *ended = world.outcome(*call).map(|outcome| match outcome {
                        Outcome::Answer(_) => world.now() - begun,
                        _ => Time::MAX,
                    });
                }
                calls.iter().all(|(.., ended)| ended.is_some())
            });
            for (group, is_read, _, ended) in calls {
                let pace = &mut paces[group.index()];
                let times = if is_read { &mut pace.reads } else { &mut pace.writes };
                times.0.push(ended.unwrap_or(Time::MAX));
            }
            self.run_for(PAUSE);
            self.check()?;
        }
        Ok(paces)
    }
}

/// A key of a group that only this node is asked for.
fn own_key(node: usize, group: GroupId, group_count: u16) -> String {
    let mut keys = (0..).map(|number| format!("own{node}.{number}"));
    keys.find(|key| group_of_key(key.as_bytes(), group_count) == group).expect("every group has keys")
}
