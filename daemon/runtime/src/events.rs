//! What happens to a node, for whoever reads its log: who leads, who is out of reach, whether there is a majority, room on the disk, snapshots.
//!
//! A core looks at itself whenever it publishes what it is, and tells what has changed since. What passes by itself within a moment is not told,
//! what lasts is told again every minute. The lines of a core are bounded: a cluster that cannot settle does not fill a disk with words.

use std::fmt;

use panch_replica::rejoin::Membership;
use panch_replica::status::GroupStatus;
use panch_wire::ids::{GroupId, ReplicaId};
use panch_wire::time::{Duration, Instant};

use crate::clients::groups::{self, has_leader};
use crate::complaints::Level;

/// What is over within this time is not told.
const PATIENCE: Duration = Duration::from_secs(1);
/// What lasts is told again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The most lines within one [`AGAIN_AFTER`].
const LINES_MAX: u32 = 200;

/// A state that should not last.
#[derive(Clone, Copy, Default)]
struct Trouble {
    since: Option<Instant>,
    /// When it was told last.
    told: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// It is there, and was for a moment.
    Begun,
    /// For so long.
    Lasts(Duration),
    /// After so long; it had been told.
    Over(Duration),
}

impl Trouble {
    fn update(&mut self, now: Instant, is_there: bool) -> Option<Turn> {
        if !is_there {
            let since = self.since.take()?;
            return self.told.take().map(|_| Turn::Over(now.since(since)));
        }
        let since = *self.since.get_or_insert(now);
        let (turn, due) = match self.told {
            None => (Turn::Begun, since + PATIENCE),
            Some(told) => (Turn::Lasts(now.since(since)), told + AGAIN_AFTER),
        };
        (due <= now).then(|| {
            self.told = Some(now);
            turn
        })
    }
}

/// What was told of a group.
struct GroupSeen {
    group: GroupId,
    /// Who leads, and in which ballot.
    leader: Option<ReplicaId>,
    leaderless: Trouble,
    /// How often this replica has given up the lead.
    step_downs: u64,
    membership: Membership,
    snapshots: u64,
    installs: u64,
}

/// What a core can see of its node at a moment.
pub(crate) struct Sight<'a> {
    pub(crate) groups: &'a mut dyn Iterator<Item = GroupStatus>,
    /// Whether this node reaches another.
    pub(crate) reaches: &'a dyn Fn(ReplicaId) -> bool,
    pub(crate) is_disk_full: bool,
}

/// What a core has told.
pub(crate) struct Events {
    me: ReplicaId,
    node_count: usize,
    /// One core tells what is of the whole node.
    tells_of_node: bool,
    groups: Vec<GroupSeen>,
    /// By node.
    unreached: Vec<Trouble>,
    no_majority: Trouble,
    disk_full: Trouble,
    lines: Lines,
}

impl Events {
    pub(crate) fn new(me: ReplicaId, node_count: usize, tells_of_node: bool) -> Self {
        Self {
            me,
            node_count,
            tells_of_node,
            groups: Vec::new(),
            unreached: vec![Trouble::default(); node_count],
            no_majority: Trouble::default(),
            disk_full: Trouble::default(),
            lines: Lines::default(),
        }
    }

    /// Tells what has changed.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        sight: Sight<'_>,
        tell: &mut dyn FnMut(Level, fmt::Arguments<'_>),
    ) {
        let Self { lines, .. } = self;
        lines.begin(now, tell);
        if self.tells_of_node {
            self.look_at_nodes(now, sight.reaches, tell);
        }
        match self.disk_full.update(now, sight.is_disk_full) {
            Some(Turn::Begun) => self.lines.tell(
                Level::Warning,
                format_args!("the log's disk has no room: writes are refused until there is some"),
                tell,
            ),
            Some(Turn::Lasts(time)) => self.lines.tell(
                Level::Warning,
                format_args!(
                    "the log's disk still has no room, for {} s now: writes are refused",
                    time.as_secs()
                ),
                tell,
            ),
            Some(Turn::Over(time)) => self.lines.tell(
                Level::Info,
                format_args!("the log's disk has room again, after {} s", time.as_secs()),
                tell,
            ),
            None => {}
        }
        for status in &mut *sight.groups {
            self.look_at_group(now, &status, tell);
        }
    }

    fn look_at_group(
        &mut self,
        now: Instant,
        status: &GroupStatus,
        tell: &mut dyn FnMut(Level, fmt::Arguments<'_>),
    ) {
        let group = status.group.0;
        let seen = match self.groups.iter_mut().find(|seen| seen.group == status.group) {
            Some(seen) => seen,
            None => {
                self.groups.push(GroupSeen {
                    group: status.group,
                    leader: None,
                    leaderless: Trouble::default(),
                    step_downs: status.counters.step_downs,
                    membership: Membership::Member,
                    snapshots: status.probe.snapshots,
                    installs: status.probe.installs,
                });
                self.groups.last_mut().expect("one was added")
            }
        };
        if has_leader(status.kind) {
            let leader = status.protocol.leader;
            if leader.is_some() && leader != seen.leader {
                seen.leader = leader;
                let who = match leader {
                    Some(id) if id == self.me => "this node leads".to_string(),
                    Some(id) => format!("node {} leads", u64::from(id.0) + 1),
                    None => unreachable!("it is there"),
                };
                let ballot = groups::ballot(status.kind, status.protocol.ballot);
                self.lines.tell(Level::Info, format_args!("group {group}: {who} (ballot {ballot})"), tell);
            }
            match seen.leaderless.update(now, leader.is_none()) {
                Some(Turn::Begun) => {
                    seen.leader = None;
                    self.lines.tell(Level::Warning, format_args!("group {group}: no leader is known"), tell);
                }
                Some(Turn::Lasts(time)) => self.lines.tell(
                    Level::Warning,
                    format_args!("group {group}: still no leader is known, for {} s now", time.as_secs()),
                    tell,
                ),
                Some(Turn::Over(_)) | None => {}
            }
        }
        if status.counters.step_downs > seen.step_downs {
            // Who leads next is told, though it be the same.
            (seen.step_downs, seen.leader) = (status.counters.step_downs, None);
            let text = "this node gives up the lead: it reaches no majority, or its own log does not follow";
            self.lines.tell(Level::Warning, format_args!("group {group}: {text}"), tell);
        }
        if let Some(text) = news_of_membership(seen.membership, status.membership) {
            self.lines.tell(Level::Info, format_args!("group {group}: {text}"), tell);
        }
        seen.membership = status.membership;
        if status.probe.snapshots > seen.snapshots {
            self.lines.tell(
                Level::Info,
                format_args!(
                    "group {group}: a snapshot is complete ({} since the start)",
                    status.probe.snapshots
                ),
                tell,
            );
        }
        if status.probe.installs > seen.installs {
            self.lines.tell(
                Level::Info,
                format_args!(
                    "group {group}: a snapshot of another node is installed ({} since the start)",
                    status.probe.installs
                ),
                tell,
            );
        }
        (seen.snapshots, seen.installs) = (status.probe.snapshots, status.probe.installs);
    }

    fn look_at_nodes(
        &mut self,
        now: Instant,
        reaches: &dyn Fn(ReplicaId) -> bool,
        tell: &mut dyn FnMut(Level, fmt::Arguments<'_>),
    ) {
        let mut reached = 1;
        for id in (0..self.node_count as u8).map(ReplicaId).filter(|id| *id != self.me) {
            let is_reached = reaches(id);
            reached += usize::from(is_reached);
            let node = u64::from(id.0) + 1;
            match self.unreached[id.index()].update(now, !is_reached) {
                Some(Turn::Begun) => {
                    self.lines.tell(Level::Warning, format_args!("node {node} is out of reach"), tell);
                }
                Some(Turn::Lasts(time)) => self.lines.tell(
                    Level::Warning,
                    format_args!("node {node} is still out of reach, for {} s now", time.as_secs()),
                    tell,
                ),
                Some(Turn::Over(time)) => self.lines.tell(
                    Level::Info,
                    format_args!("node {node} is in reach again, after {} s", time.as_secs()),
                    tell,
                ),
                None => {}
            }
        }
        match self.no_majority.update(now, 2 * reached <= self.node_count) {
            Some(Turn::Begun) => self.lines.tell(
                Level::Error,
                format_args!(
                    "only {reached} of {} nodes are in reach, this one included: without a majority nothing is decided, and no read is confirmed",
                    self.node_count
                ),
                tell,
            ),
            Some(Turn::Lasts(time)) => self.lines.tell(
                Level::Error,
                format_args!("still no majority of the nodes is in reach, for {} s now", time.as_secs()),
                tell,
            ),
            Some(Turn::Over(time)) => self.lines.tell(
                Level::Info,
                format_args!("a majority of the nodes is in reach again, after {} s", time.as_secs()),
                tell,
            ),
            None => {}
        }
    }
}

/// What is to be told of a replica's way back after the loss of its disk.
fn news_of_membership(before: Membership, now: Membership) -> Option<&'static str> {
    use Membership::*;
    match (before, now) {
        (Asking(_) | Mute(_), Member) => Some("this replica takes part again"),
        (Asking(_), Asking(_)) | (Mute(_), Mute(_)) => None,
        (_, Asking(_)) => {
            Some("this replica asks the others what it may have said, and says nothing until it knows")
        }
        (_, Mute(_)) => {
            Some("this replica catches up with what it may have said, and says nothing meanwhile")
        }
        (_, Member | Unrecognised) => None,
    }
}

/// Bounds what is told.
#[derive(Default)]
struct Lines {
    since: Instant,
    count: u32,
    left_out: u32,
}

impl Lines {
    fn begin(&mut self, now: Instant, tell: &mut dyn FnMut(Level, fmt::Arguments<'_>)) {
        if now.since(self.since) < AGAIN_AFTER {
            return;
        }
        if self.left_out > 0 {
            tell(Level::Warning, format_args!("{} more such lines were left out", self.left_out));
        }
        *self = Self { since: now, count: 0, left_out: 0 };
    }

    fn tell(
        &mut self,
        level: Level,
        text: fmt::Arguments<'_>,
        tell: &mut dyn FnMut(Level, fmt::Arguments<'_>),
    ) {
        // What is not of one group is rare, and what an error says must not be missed.
        if level != Level::Error && self.count >= LINES_MAX {
            self.left_out += 1;
            return;
        }
        self.count += 1;
        tell(level, text);
    }
}

#[cfg(test)]
mod tests {
    use panch_wire::ids::ReplicaSet;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(1) + Duration::from_secs(seconds)
    }

    #[test]
    fn what_passes_within_a_moment_is_not_told_and_what_lasts_is_told_again() {
        let mut trouble = Trouble::default();
        assert_eq!(trouble.update(at(0), true), None);
        assert_eq!(trouble.update(at(0) + PATIENCE / 2, false), None);
        assert_eq!(trouble.update(at(10), true), None);
        assert_eq!(trouble.update(at(11), true), Some(Turn::Begun));
        assert_eq!(trouble.update(at(70), true), None);
        assert_eq!(trouble.update(at(71), true), Some(Turn::Lasts(Duration::from_secs(61))));
        assert_eq!(trouble.update(at(72), false), Some(Turn::Over(Duration::from_secs(62))));
        assert_eq!(trouble.update(at(73), false), None);
    }

    /// Looks every half second at what the nodes from 1 are that are reached; the lines.
    fn told(events: &mut Events, from: u64, to: u64, reached: &[u8], is_disk_full: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for half in 2 * from..2 * to {
            let sight = Sight {
                groups: &mut std::iter::empty(),
                reaches: &|id| reached.contains(&(id.0 + 1)),
                is_disk_full,
            };
            let now = at(0) + Duration::from_millis(500) * half as u32;
            events.look(now, sight, &mut |level, text| lines.push(format!("{level:?} {text}")));
        }
        lines
    }

    #[test]
    fn a_node_that_is_without_majority_for_a_minute_has_said_so_twice() {
        let mut events = Events::new(ReplicaId(0), 3, true);
        assert_eq!(told(&mut events, 0, 10, &[2, 3], false), [""; 0]);
        assert_eq!(told(&mut events, 10, 20, &[2], false), ["Warning node 3 is out of reach"]);
        assert_eq!(
            told(&mut events, 20, 30, &[], true),
            [
                "Warning node 2 is out of reach",
                "Error only 1 of 3 nodes are in reach, this one included: without a majority nothing is decided, and no read is confirmed",
                "Warning the log's disk has no room: writes are refused until there is some",
            ]
        );
        let later = told(&mut events, 30, 82, &[], true);
        let still = "Error still no majority of the nodes is in reach, for 61 s now";
        assert!(later.iter().any(|line| line == still), "{later:?}");
        assert_eq!(
            told(&mut events, 82, 90, &[2, 3], false),
            [
                "Info node 2 is in reach again, after 62 s",
                "Info node 3 is in reach again, after 72 s",
                "Info a majority of the nodes is in reach again, after 62 s",
                "Info the log's disk has room again, after 62 s",
            ]
        );
        // Of the node only one core speaks.
        let mut other = Events::new(ReplicaId(0), 3, false);
        assert_eq!(told(&mut other, 0, 100, &[], false), [""; 0]);
    }

    #[test]
    fn a_way_back_is_told_once_per_step() {
        use Membership::*;
        let steps = [
            Unrecognised,
            Member,
            Asking(ReplicaSet::first(3)),
            Asking(ReplicaSet::first(1)),
            Mute(7),
            Mute(3),
            Member,
            Member,
        ];
        let told: Vec<usize> =
            (1..steps.len()).filter(|at| news_of_membership(steps[at - 1], steps[*at]).is_some()).collect();
        assert_eq!(told, [2, 4, 6]);
    }

    #[test]
    fn a_cluster_that_cannot_settle_fills_no_disk() {
        let mut events = Events::new(ReplicaId(0), 3, true);
        let mut lines = Vec::new();
        for turn in 0..200 {
            let from = 4 * turn / 10;
            lines.extend(told(&mut events, from, from + 2, if turn % 2 == 0 { &[] } else { &[2, 3] }, false));
        }
        assert!(lines.len() as u32 <= 2 * LINES_MAX + 2, "{}", lines.len());
    }
}
