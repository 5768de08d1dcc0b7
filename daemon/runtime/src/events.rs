//! What happens to a node, for whoever reads its log: who leads, who is out of reach, whether there is a majority, room on the disk and in
//! memory, snapshots.
//!
//! A core looks at itself whenever it publishes what it is, and tells what has changed since. What passes by itself within a moment is not
//! told, what lasts is told again every minute, and what comes and goes counts as lasting. The lines about groups are bounded: a cluster that
//! cannot settle does not fill a disk with words. What finds no place among them is told later, as far as it is still so.

use std::fmt;
use std::io;

use panch_replica::rejoin::Membership;
use panch_replica::status::GroupStatus;
use panch_wal::is_out_of_room;
use panch_wire::ids::{GroupId, ReplicaId};
use panch_wire::time::{Duration, Instant};

use crate::clients::groups::{self, has_leader};
use crate::complaints::Level;

/// What is over within this time is not told.
const PATIENCE: Duration = Duration::from_secs(1);
/// What comes again within this time was not over: what flaps around a limit is told as what lasts.
const CALM: Duration = Duration::from_secs(5);
/// What lasts is told again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The most lines about groups within one [`AGAIN_AFTER`].
const LINES_MAX: u32 = 200;
/// As many of them may say of a group only that something lasts: news of other groups find a place among them all the same.
const REPEATED_MAX: u32 = LINES_MAX / 2;

/// Where lines go.
type Tell<'a> = dyn FnMut(Level, fmt::Arguments<'_>) + 'a;

/// A state that should not last.
#[derive(Clone, Copy, Default)]
struct Trouble {
    since: Option<Instant>,
    /// When it was told last.
    told: Option<Instant>,
    /// Since when it seems to be over.
    gone: Option<Instant>,
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
    /// Looks at it. It is over once it was not there for as long as `calm`. `tell` is given what is new and returns whether it could tell
    /// that: what it could not is given again at the next look.
    fn update(&mut self, now: Instant, is_there: bool, calm: Duration, tell: impl FnOnce(Turn) -> bool) {
        if !is_there {
            let Some(since) = self.since else { return };
            let gone = *self.gone.get_or_insert(now);
            if self.told.is_none() || gone + calm <= now && tell(Turn::Over(gone.since(since))) {
                *self = Self::default();
            }
            return;
        }
        self.gone = None;
        let since = *self.since.get_or_insert(now);
        let (turn, due) = match self.told {
            None => (Turn::Begun, since + PATIENCE),
            Some(told) => (Turn::Lasts(now.since(since)), told + AGAIN_AFTER),
        };
        if due <= now && tell(turn) {
            self.told = Some(now);
        }
    }

    /// Whether it lasts and was not told since `begin`.
    fn is_untold_since(&self, begin: Instant) -> bool {
        self.told.is_some_and(|told| told < begin)
    }

    /// The same for a state of which everything is told, because there are few of its kind and [`CALM`] bounds how often each changes.
    /// `words`: that it has begun, that it lasts, and that it is over; for how long is added.
    fn tell(
        &mut self,
        now: Instant,
        is_there: bool,
        level: Level,
        words: [fmt::Arguments<'_>; 3],
        tell: &mut Tell<'_>,
    ) {
        let [begun, lasts, over] = words;
        self.update(now, is_there, CALM, |turn| {
            match turn {
                Turn::Begun => tell(level, begun),
                Turn::Lasts(time) => tell(level, format_args!("{lasts}, for {} s now", time.as_secs())),
                Turn::Over(time) => tell(Level::Info, format_args!("{over}, after {} s", time.as_secs())),
            }
            true
        });
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
    /// Whether the core's log refuses proposals, because no further segment of it can be prepared.
    pub(crate) lacks_segment: bool,
    /// Whether the data have all the memory that they may.
    pub(crate) is_data_full: bool,
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
    no_segment: Trouble,
    /// The last segment that could not be prepared found no room on the disk.
    is_disk_full: bool,
    data_full: Trouble,
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
            no_segment: Trouble::default(),
            is_disk_full: false,
            data_full: Trouble::default(),
            lines: Lines::default(),
        }
    }

    /// A segment of the log could not be prepared, for this reason.
    pub(crate) fn note_segment_failure(&mut self, error: &io::Error) {
        self.is_disk_full = is_out_of_room(error);
    }

    /// Tells what has changed.
    pub(crate) fn look(&mut self, now: Instant, sight: Sight<'_>, tell: &mut Tell<'_>) {
        if self.lines.is_over(now) {
            let begin = self.lines.since;
            let unrepeated = self.groups.iter().filter(|seen| seen.leaderless.is_untold_since(begin)).count();
            self.lines.begin(now, unrepeated, tell);
        }
        if self.tells_of_node {
            self.look_at_nodes(now, sight.reaches, tell);
            let words = [
                format_args!(
                    "the data take all of data_memory_max: what makes them grow is refused until they take less"
                ),
                format_args!("the data still take all of data_memory_max: what makes them grow is refused"),
                format_args!("the data take less than data_memory_max again"),
            ];
            self.data_full.tell(now, sight.is_data_full, Level::Warning, words, tell);
        }
        let words = if self.is_disk_full {
            [
                format_args!("the log's disk has no room: writes are refused until there is some"),
                format_args!("the log's disk still has no room: writes are refused"),
                format_args!("the log's disk has room again"),
            ]
        } else {
            [
                format_args!(
                    "the next log segment cannot be prepared: writes are refused until it can. The line \"cannot prepare log segment\" says why"
                ),
                format_args!("the next log segment still cannot be prepared: writes are refused"),
                format_args!("the next log segment is prepared: writes are taken again"),
            ]
        };
        self.no_segment.tell(now, sight.lacks_segment, Level::Warning, words, tell);
        for status in &mut *sight.groups {
            self.look_at_group(now, &status, tell);
        }
    }

    fn look_at_group(&mut self, now: Instant, status: &GroupStatus, tell: &mut Tell<'_>) {
        let Self { me, groups, lines, .. } = self;
        let group = status.group.0;
        let seen = match groups.iter_mut().find(|seen| seen.group == status.group) {
            Some(seen) => seen,
            None => {
                groups.push(GroupSeen {
                    group: status.group,
                    leader: None,
                    leaderless: Trouble::default(),
                    step_downs: status.counters.step_downs,
                    membership: Membership::Member,
                    snapshots: status.probe.snapshots,
                    installs: status.probe.installs,
                });
                groups.last_mut().expect("one was added")
            }
        };
        if has_leader(status.kind) {
            let leader = status.protocol.leader;
            if let Some(id) = leader.filter(|_| leader != seen.leader) {
                let who = if id == *me {
                    "this node leads".to_string()
                } else {
                    format!("node {} leads", u64::from(id.0) + 1)
                };
                let ballot = groups::ballot(status.kind, status.protocol.ballot);
                if lines.tell(Level::Info, format_args!("group {group}: {who} (ballot {ballot})"), tell) {
                    seen.leader = leader;
                }
            }
            // These lines are bounded otherwise, and who leads is told at once: what is told last has to be what is so.
            seen.leaderless.update(now, leader.is_none(), Duration::ZERO, |turn| match turn {
                Turn::Begun => {
                    let text = format_args!("group {group}: no leader is known");
                    let is_told = lines.tell(Level::Warning, text, tell);
                    if is_told {
                        seen.leader = None;
                    }
                    is_told
                }
                Turn::Lasts(time) => lines.repeat(
                    Level::Warning,
                    format_args!("group {group}: still no leader is known, for {} s now", time.as_secs()),
                    tell,
                ),
                // Who leads is told instead.
                Turn::Over(_) => true,
            });
        }
        if status.counters.step_downs > seen.step_downs {
            let text = "this node has given up the lead: it reached no majority, its own log did not follow, or its data are not those of others";
            if lines.tell(Level::Warning, format_args!("group {group}: {text}"), tell) {
                // Who leads next is told, though it be the same.
                (seen.step_downs, seen.leader) = (status.counters.step_downs, None);
            }
        }
        let news = news_of_membership(seen.membership, status.membership);
        if news.is_none_or(|text| lines.tell(Level::Info, format_args!("group {group}: {text}"), tell)) {
            seen.membership = status.membership;
        }
        let probe = &status.probe;
        let counts = [
            (&mut seen.snapshots, probe.snapshots, "a snapshot is complete"),
            (&mut seen.installs, probe.installs, "a snapshot of another node is installed"),
        ];
        for (seen, count, text) in counts {
            let text = format_args!("group {group}: {text} ({count} since the start)");
            if count > *seen && lines.tell(Level::Info, text, tell) {
                *seen = count;
            }
        }
    }

    fn look_at_nodes(&mut self, now: Instant, reaches: &dyn Fn(ReplicaId) -> bool, tell: &mut Tell<'_>) {
        let mut reached = 1;
        for id in (0..self.node_count as u8).map(ReplicaId).filter(|id| *id != self.me) {
            let is_reached = reaches(id);
            reached += usize::from(is_reached);
            let node = u64::from(id.0) + 1;
            let words = [
                format_args!("node {node} is out of reach"),
                format_args!("node {node} is still out of reach"),
                format_args!("node {node} is in reach again"),
            ];
            self.unreached[id.index()].tell(now, !is_reached, Level::Warning, words, tell);
        }
        let words = [
            format_args!(
                "only {reached} of {} nodes are in reach, this one included: without a majority nothing is decided, and no read is confirmed",
                self.node_count
            ),
            format_args!("still no majority of the nodes is in reach"),
            format_args!("a majority of the nodes is in reach again"),
        ];
        self.no_majority.tell(now, 2 * reached <= self.node_count, Level::Error, words, tell);
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

/// Bounds what is told of groups: there may be many.
#[derive(Default)]
struct Lines {
    since: Instant,
    count: u32,
    /// Something found no place.
    is_short: bool,
}

impl Lines {
    /// Whether the next [`AGAIN_AFTER`] begins.
    fn is_over(&self, now: Instant) -> bool {
        now.since(self.since) >= AGAIN_AFTER
    }

    /// It does. `unrepeated`: groups that have been without a leader all the while, which found no place.
    fn begin(&mut self, now: Instant, unrepeated: usize, tell: &mut Tell<'_>) {
        if unrepeated > 0 {
            tell(
                Level::Warning,
                format_args!(
                    "of {unrepeated} more groups still no leader is known, for more than a minute now"
                ),
            );
        }
        if self.is_short {
            tell(
                Level::Warning,
                format_args!(
                    "{LINES_MAX} lines in a minute were too few for what has changed in groups: what is still so is told now"
                ),
            );
        }
        *self = Self { since: now, ..Self::default() };
    }

    /// Tells something, if there is a place for it; whether there was.
    fn tell(&mut self, level: Level, text: fmt::Arguments<'_>, tell: &mut Tell<'_>) -> bool {
        let has_place = self.count < LINES_MAX;
        if has_place {
            self.count += 1;
            tell(level, text);
        }
        self.is_short |= !has_place;
        has_place
    }

    /// The same for what was told before and lasts.
    fn repeat(&mut self, level: Level, text: fmt::Arguments<'_>, tell: &mut Tell<'_>) -> bool {
        self.count < REPEATED_MAX && self.tell(level, text, tell)
    }
}

#[cfg(test)]
mod tests;
