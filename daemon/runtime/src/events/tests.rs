use panch_consensus::protocol::{Counters, ProtocolKind, Status};
use panch_replica::divergence::{DigestStatus, Standing};
use panch_replica::probe::Probe;
use panch_wire::ids::{ReplicaSet, Slot};

use super::*;

fn at(seconds: u64) -> Instant {
    Instant(1) + Duration::from_secs(seconds)
}

#[test]
fn what_passes_within_a_moment_is_not_told_and_what_lasts_is_told_again() {
    let mut trouble = Trouble::default();
    let mut update = |now, is_there| {
        let mut told = None;
        trouble.update(now, is_there, Duration::ZERO, |turn| {
            told = Some(turn);
            true
        });
        told
    };
    assert_eq!(update(at(0), true), None);
    assert_eq!(update(at(0) + PATIENCE / 2, false), None);
    assert_eq!(update(at(10), true), None);
    assert_eq!(update(at(11), true), Some(Turn::Begun));
    assert_eq!(update(at(70), true), None);
    assert_eq!(update(at(71), true), Some(Turn::Lasts(Duration::from_secs(61))));
    assert_eq!(update(at(72), false), Some(Turn::Over(Duration::from_secs(62))));
    assert_eq!(update(at(73), false), None);
}

#[test]
fn what_comes_and_goes_is_told_as_what_lasts_and_over_once_it_stays_away() {
    let mut trouble = Trouble::default();
    let mut turns = Vec::new();
    let mut look = |half: u64, is_there| {
        let now = at(0) + Duration::from_millis(500) * half as u32;
        trouble.update(now, is_there, CALM, |turn| {
            turns.push(turn);
            true
        });
    };
    // For two minutes it is there for two seconds, and then not for two.
    (0..240).for_each(|half| look(half, half % 8 < 4));
    (240..260).for_each(|half| look(half, false));
    let lasts = |seconds| Turn::Lasts(Duration::from_secs(seconds));
    // At 117.5 s it was there for the last time.
    assert_eq!(turns, [Turn::Begun, lasts(61), Turn::Over(Duration::from_secs(118))]);
}

/// What a core sees in a test.
#[derive(Clone, Copy, Default)]
struct View<'a> {
    /// Nodes from 1.
    reached: &'a [u8],
    groups: &'a [GroupStatus],
    lacks_segment: bool,
    is_data_full: bool,
}

/// Looks every half second; the lines.
fn told(events: &mut Events, from: u64, to: u64, view: View<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for half in 2 * from..2 * to {
        let sight = Sight {
            groups: &mut view.groups.iter().copied(),
            reaches: &|id| view.reached.contains(&(id.0 + 1)),
            lacks_segment: view.lacks_segment,
            is_data_full: view.is_data_full,
        };
        let now = at(0) + Duration::from_millis(500) * half as u32;
        events.look(now, sight, &mut |level, text| lines.push(format!("{level:?} {text}")));
    }
    lines
}

fn reached(reached: &[u8]) -> View<'_> {
    View { reached, ..View::default() }
}

#[test]
fn a_node_that_is_without_majority_for_a_minute_has_said_so_twice() {
    let mut events = Events::new(ReplicaId(0), 3, true);
    events.note_segment_failure(&io::ErrorKind::StorageFull.into());
    let alone = View { lacks_segment: true, ..View::default() };
    assert_eq!(told(&mut events, 0, 10, reached(&[2, 3])), [""; 0]);
    assert_eq!(told(&mut events, 10, 20, reached(&[2])), ["Warning node 3 is out of reach"]);
    assert_eq!(
        told(&mut events, 20, 30, alone),
        [
            "Warning node 2 is out of reach",
            "Error only 1 of 3 nodes are in reach, this one included: without a majority nothing is decided, and no read is confirmed",
            "Warning the log's disk has no room: writes are refused until there is some",
        ]
    );
    let later = told(&mut events, 30, 82, alone);
    let still = "Error still no majority of the nodes is in reach, for 61 s now";
    assert!(later.iter().any(|line| line == still), "{later:?}");
    assert_eq!(
        told(&mut events, 82, 90, reached(&[2, 3])),
        [
            "Info node 2 is in reach again, after 62 s",
            "Info node 3 is in reach again, after 72 s",
            "Info a majority of the nodes is in reach again, after 62 s",
            "Info the log's disk has room again, after 62 s",
        ]
    );
    // Of the node only one core speaks.
    let mut other = Events::new(ReplicaId(0), 3, false);
    assert_eq!(told(&mut other, 0, 100, View { is_data_full: true, ..View::default() }), [""; 0]);
}

#[test]
fn a_disk_that_fails_is_not_said_to_be_full_and_full_memory_is_told() {
    let mut events = Events::new(ReplicaId(0), 1, true);
    events.note_segment_failure(&io::ErrorKind::PermissionDenied.into());
    let begun = told(&mut events, 0, 5, View { lacks_segment: true, is_data_full: true, ..View::default() });
    assert_eq!(begun.len(), 2, "{begun:?}");
    assert!(begun[0].starts_with("Warning the data take all of data_memory_max"), "{begun:?}");
    assert!(begun[1].starts_with("Warning the next log segment cannot be prepared"), "{begun:?}");
    assert_eq!(
        told(&mut events, 5, 12, View::default()),
        [
            "Info the data take less than data_memory_max again, after 5 s",
            "Info the next log segment is prepared: writes are taken again, after 5 s",
        ]
    );
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

/// So many groups, all led by this node, or by none.
fn groups(count: u16, leader: Option<u8>) -> Vec<GroupStatus> {
    let of = |group| GroupStatus {
        group: GroupId(group),
        kind: ProtocolKind::Multi,
        protocol: Status { leader: leader.map(ReplicaId), ..Status::default() },
        executed: Slot(0),
        frontier: 0,
        digest: 0,
        keys: 0,
        membership: Membership::Member,
        standing: Standing::Sound,
        digests: DigestStatus::default(),
        sending: Default::default(),
        probe: Probe::default(),
        counters: Counters::default(),
    };
    (0..count).map(of).collect()
}

#[test]
fn a_cluster_that_cannot_settle_fills_no_disk() {
    let mut events = Events::new(ReplicaId(0), 3, true);
    let mut lines = Vec::new();
    for second in 0..AGAIN_AFTER.as_secs() {
        let groups = groups(10, Some((second % 3) as u8));
        lines.extend(told(&mut events, second, second + 1, View { groups: &groups, ..reached(&[2, 3]) }));
    }
    assert_eq!(lines.len() as u32, LINES_MAX);
}

#[test]
fn what_many_groups_say_keeps_nothing_back_of_nodes_and_is_told_later_if_it_is_still_so() {
    const COUNT: u16 = 2 * LINES_MAX as u16;
    let minute = AGAIN_AFTER.as_secs();
    let mut events = Events::new(ReplicaId(0), 3, true);
    let (led, leaderless) = (groups(COUNT, Some(0)), groups(COUNT, None));
    let count = |lines: &[String], text: &str| lines.iter().filter(|line| line.contains(text)).count();
    // The first minute begins with the first look.
    let lines = told(&mut events, minute, minute + 1, View { groups: &led, ..reached(&[2, 3]) });
    assert_eq!(count(&lines, "this node leads"), LINES_MAX as usize);
    let lines = told(&mut events, minute + 1, minute + 10, View { groups: &led, ..View::default() });
    assert_eq!(count(&lines, "out of reach"), 2, "{lines:?}");
    assert_eq!((count(&lines, "only 1 of 3"), lines.len()), (1, 3), "{lines:?}");
    let lines = told(&mut events, minute + 10, minute + 20, View { groups: &led, ..reached(&[2, 3]) });
    assert_eq!((count(&lines, "in reach again"), lines.len()), (3, 3), "{lines:?}");
    // What found no place before is told in the next minute, and then nothing more.
    let lines = told(&mut events, minute + 20, 4 * minute, View { groups: &led, ..reached(&[2, 3]) });
    assert_eq!(count(&lines, "this node leads"), LINES_MAX as usize, "{}", lines.len());
    assert_eq!((count(&lines, "were too few"), lines.len()), (1, LINES_MAX as usize + 1));
    // All of them are leaderless for long: what is said again of some leaves room for what is new of others.
    let lines = told(&mut events, 4 * minute, 7 * minute, View { groups: &leaderless, ..reached(&[2, 3]) });
    assert_eq!(
        count(&lines, "no leader is known") - count(&lines, "still no leader"),
        COUNT.into(),
        "{}",
        lines.len()
    );
    assert_eq!(count(&lines, "of 200 more groups still no leader is known"), 1);
    assert!(lines.len() as u32 <= 4 * (LINES_MAX + 1));
}
