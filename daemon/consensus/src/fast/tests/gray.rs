//! Faults that last: the coordinator's disk, and links.

use panch_wire::time::Duration;

use super::super::Fast;
use crate::protocol::{Protocol, Tuning};
use crate::testing::gray::{cut, jitter, leading_is_slow, leave_star, pace};
use crate::testing::{cluster, tuning};

type Cluster = cluster::Cluster<Fast>;

/// A group that 0 coordinates, in fast rounds.
fn group(replica_count: u8) -> Cluster {
    group_with(replica_count, Tuning { pipeline_depth: 10, ..tuning() })
}

fn group_with(replica_count: u8, tuning: Tuning) -> Cluster {
    let mut cluster = Cluster::new(replica_count, 0, 7, tuning);
    cluster.run_till("a plan", 1_000, |cluster| cluster.leader() == Some(0));
    cluster.run_for(300);
    assert!(cluster.ids().all(|id| cluster.protocol(id).plan.is_some_and(|plan| plan.mode.is_fast())));
    cluster
}

fn all_but(cluster: &Cluster, out: u8) -> Vec<u8> {
    cluster.ids().filter(|id| *id != out).collect()
}

/// The disk of `bad` does what `break_disk` says: the others are nearly as fast as before.
fn beside_a_disk(replica_count: u8, bad: u8, soon: u64, break_disk: impl Fn(&mut Cluster, u8)) {
    let mut cluster = group(replica_count);
    let well = all_but(&cluster, bad);
    let before = pace(&mut cluster, &well, 300);
    break_disk(&mut cluster, bad);
    let _ = pace(&mut cluster, &well, soon);
    assert!(
        cluster.leader().is_some_and(|leader| leader != bad),
        "progress: {bad} coordinates with such a disk"
    );
    let what = format!("n = {replica_count}, beside the bad disk of {bad}");
    pace(&mut cluster, &well, 3_000).assert_like(&before, &what);
}

pub(super) fn hung_disk_of_the_coordinator() {
    for replica_count in [3, 5] {
        beside_a_disk(replica_count, 0, 150, |cluster, bad| cluster.stall_disk(bad, true));
    }
}

#[test]
fn a_coordinator_whose_disk_hangs_hands_over() {
    hung_disk_of_the_coordinator();
}

#[test]
fn a_hung_disk_of_a_voter_costs_little() {
    for replica_count in [3, 5] {
        beside_a_disk(replica_count, replica_count - 1, 500, |cluster, bad| cluster.stall_disk(bad, true));
    }
}

/// All of `nodes` write at once, again and again; how long it takes until all of that is decided, in the median, in microseconds.
fn pace_at_once(cluster: &mut Cluster, nodes: &[u8], milliseconds: u64) -> u64 {
    let end = cluster.now + Duration::from_millis(milliseconds);
    let mut times = Vec::new();
    while cluster.now < end {
        let begun = cluster.now;
        let batches: Vec<_> = nodes.iter().map(|node| cluster.propose(*node).expect("it has room")).collect();
        while !batches.iter().all(|batch| cluster.is_decided(*batch)) {
            cluster.run_until(cluster.now + Duration::from_micros(50));
            assert!(cluster.now.since(begun) < Duration::from_secs(5), "progress: writes took too long");
        }
        times.push(cluster.now.since(begun).as_micros() as u64);
        cluster.run_for(2);
    }
    times.sort_unstable();
    times[times.len() / 2]
}

/// Without the fifth vote every slot that the others do not agree on needs another round, and none may wait for a timer before it.
#[test]
fn free_for_all_a_hung_disk_of_a_voter_costs_little() {
    let tuning = Tuning { pipeline_depth: 10, free_for_all: true, ..tuning() };
    let mut cluster = group_with(5, tuning);
    let well = all_but(&cluster, 4);
    let before = pace_at_once(&mut cluster, &well, 300);
    cluster.stall_disk(4, true);
    let _ = pace_at_once(&mut cluster, &well, 500);
    let collisions = cluster.protocol(0).counters().collisions;
    let beside = pace_at_once(&mut cluster, &well, 3_000);
    assert!(cluster.protocol(0).counters().collisions > collisions + 100, "little collided");
    assert!(beside <= 3 * before, "progress: writes take {beside} us instead of {before}");
}

#[test]
fn a_disk_that_has_become_slow_costs_little() {
    for (replica_count, bad) in [(3, 0), (3, 2), (5, 0), (5, 4)] {
        beside_a_disk(replica_count, bad, 500, |cluster, bad| cluster.slow_disk(bad, 20));
    }
}

pub(super) fn link_of_the_coordinator() {
    for replica_count in [3, 5] {
        for ways in 0..3 {
            let mut cluster = group(replica_count);
            let all: Vec<_> = cluster.ids().collect();
            let before = pace(&mut cluster, &all, 300);
            cut(&mut cluster, 0, replica_count - 1, ways);
            cluster.run_for(1_000);
            let what = format!("n = {replica_count}, ways {ways}");
            pace(&mut cluster, &all, 2_000).assert_like(&before, &what);
            cluster.heal();
            cluster.run_till("fast rounds", 10_000, |cluster| {
                cluster.protocol(0).plan.is_some_and(|plan| plan.mode.is_fast())
            });
        }
    }
}

#[test]
fn who_reaches_more_replicas_than_the_coordinator_takes_over() {
    link_of_the_coordinator();
}

#[test]
fn beside_a_link_between_two_voters_the_group_goes_on_in_classic_rounds() {
    for replica_count in [3, 5] {
        for ways in 0..3 {
            let mut cluster = group(replica_count);
            let all: Vec<_> = cluster.ids().collect();
            let before = pace(&mut cluster, &all, 300);
            cut(&mut cluster, 1, 2, ways);
            cluster.run_for(1_000);
            let what = format!("n = {replica_count}, ways {ways}");
            pace(&mut cluster, &all, 2_000).assert_like(&before, &what);
            assert_eq!(cluster.leader(), Some(0));
        }
    }
}

/// Reads of the others need a quorum that they do not reach; what they write is decided all the same.
#[test]
fn the_only_replica_that_reaches_a_quorum_coordinates() {
    let mut cluster = group(5);
    leave_star(&mut cluster, 2);
    cluster.run_for(2_000);
    let _ = pace(&mut cluster, &[2], 500);
    for id in cluster.ids() {
        let batch = cluster.propose(id).expect("it has room");
        cluster.run_till("a write", 1_000, |cluster| cluster.is_decided(batch));
    }
    assert_eq!(cluster.leader(), Some(2));
}

/// The links between two and `by`: those that have no part in it are as fast as ever.
fn beside_a_late_link(replica_count: u8, one: u8, other: u8, nodes: &[u8]) {
    for by in [20, 60, 200] {
        let mut cluster = group(replica_count);
        let before = pace(&mut cluster, nodes, 300);
        cluster.delay_link(one, other, Duration::from_millis(by));
        let _ = pace(&mut cluster, nodes, 1_000);
        let what = format!("n = {replica_count}, between {one} and {other} {by} ms");
        let recovered = cluster.protocol(0).counters().recoveries;
        pace(&mut cluster, nodes, 5_000).assert_like(&before, &what);
        let terms: u64 = cluster.ids().map(|id| cluster.protocol(id).counters().terms).sum();
        let recovered = cluster.protocol(0).counters().recoveries - recovered;
        println!("{what}: {terms} terms, {recovered} recoveries");
        // It is tried again now and then, less and less often.
        assert!(terms <= 20, "{what}: {terms} terms");
    }
}

pub(super) fn late_link_of_the_coordinator() {
    beside_a_late_link(3, 0, 2, &[0, 1]);
    beside_a_late_link(5, 0, 4, &[0, 1, 2, 3]);
}

#[test]
fn a_late_link_of_the_coordinator_costs_nothing_in_the_long_run() {
    late_link_of_the_coordinator();
}

#[test]
fn a_late_link_between_voters_costs_nothing_in_the_long_run() {
    beside_a_late_link(3, 1, 2, &[0]);
    beside_a_late_link(5, 1, 2, &[0, 3, 4]);
}

/// All links are equally long: nobody is late.
#[test]
fn long_links_to_all_are_no_reason_to_drop_anybody() {
    let mut cluster = group(3);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        cluster.delay_link(one, other, Duration::from_millis(3));
    }
    let _ = pace(&mut cluster, &[0, 1, 2], 3_000);
    assert!(cluster.protocol(0).plan.is_some_and(|plan| plan.mode.is_fast()));
    assert_eq!(cluster.protocol(0).counters().fallbacks, 0);
}

pub(super) fn slow_process_of_the_coordinator() {
    for replica_count in [3, 5] {
        let mut cluster = group(replica_count);
        let well = all_but(&cluster, 0);
        let before = pace(&mut cluster, &well, 300);
        cluster.stutter(0, Duration::from_millis(36), Duration::from_millis(4));
        let _ = pace(&mut cluster, &well, 3_000);
        assert!(matches!(cluster.leader(), Some(1..)), "progress: 0 coordinates with so little time");
        let what = format!("n = {replica_count}, beside a slow process");
        pace(&mut cluster, &well, 10_000).assert_like(&before, &what);
    }
}

#[test]
fn a_coordinator_whose_process_gets_little_time_hands_over() {
    slow_process_of_the_coordinator();
}

/// With the times that are configured by default.
fn by_default(replica_count: u8) -> Cluster {
    let mut cluster = Cluster::new(replica_count, 0, 7, Tuning::default());
    cluster.run_till("the first election", 3_000, |cluster| cluster.leader() == Some(0));
    cluster.run_for(2_000);
    cluster
}

#[test]
fn the_lead_does_not_go_round_if_it_is_leading_that_takes_the_time() {
    for replica_count in [3, 5] {
        leading_is_slow(by_default(replica_count));
    }
}

#[test]
fn ordinary_jitter_costs_no_lead() {
    for replica_count in [3, 5] {
        jitter(&mut by_default(replica_count), Duration::from_micros(500));
    }
}
