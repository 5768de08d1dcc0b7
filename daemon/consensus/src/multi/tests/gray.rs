//! Faults that last: the leader's disk, links of one node, of all but one.

use panch_wire::time::Duration;

use super::super::Multi;
use crate::protocol::{Protocol, Tuning};
use crate::testing::cluster;
use crate::testing::gray::{Weakness, beside, cut, jitter, leading_is_slow, leave_star, pace, term_count};
use crate::testing::tuning;

type Cluster = cluster::Cluster<Multi>;

/// A group that 0 leads, which is its home, and how fast it is.
fn led_by_0(replica_count: u8) -> Cluster {
    let mut cluster = Cluster::new(replica_count, 0, 7, tuning());
    cluster.run_till("the first election", 1_000, |cluster| cluster.leader() == Some(0));
    cluster.run_for(500);
    cluster
}

fn all_but(cluster: &Cluster, out: u8) -> Vec<u8> {
    cluster.ids().filter(|id| *id != out).collect()
}

/// The disk of the leader does what `break_disk` says: others lead soon, and are as fast as before.
fn beside_the_leaders_disk(replica_count: u8, soon: u64, break_disk: impl Fn(&mut Cluster)) {
    let mut cluster = led_by_0(replica_count);
    let well = all_but(&cluster, 0);
    let before = pace(&mut cluster, &well, 300);
    break_disk(&mut cluster);
    let _ = pace(&mut cluster, &well, soon);
    assert!(matches!(cluster.leader(), Some(1..)), "progress: 0 leads with such a disk");
    let now = pace(&mut cluster, &well, 2_000);
    now.assert_like(&before, "beside a bad disk");
    assert!(matches!(cluster.leader(), Some(1..)), "the disk is no better");
    cluster.stall_disk(0, false);
    cluster.slow_disk(0, 1);
    let _ = pace(&mut cluster, &well, 2_500);
    cluster.run_till("the lead to go home", 3_000, |cluster| cluster.leader() == Some(0));
}

pub(super) fn hung_disk_of_the_leader() {
    for replica_count in [3, 5] {
        // Twice the least election timeout.
        beside_the_leaders_disk(replica_count, 200, |cluster| cluster.stall_disk(0, true));
    }
}

#[test]
fn a_leader_whose_disk_hangs_hands_over() {
    hung_disk_of_the_leader();
}

#[test]
fn a_leader_whose_disk_has_become_slow_hands_over() {
    for replica_count in [3, 5] {
        beside_the_leaders_disk(replica_count, 300, |cluster| cluster.slow_disk(0, 20));
    }
}

#[test]
fn a_hung_disk_of_a_follower_costs_nothing() {
    for replica_count in [3, 5] {
        let mut cluster = led_by_0(replica_count);
        let well = all_but(&cluster, 1);
        let before = pace(&mut cluster, &well, 300);
        cluster.stall_disk(1, true);
        pace(&mut cluster, &well, 2_000).assert_like(&before, "beside a follower's hung disk");
        assert_eq!(cluster.leader(), Some(0));
    }
}

pub(super) fn link_of_the_leader() {
    for replica_count in [3, 5] {
        for ways in 0..3 {
            let mut cluster = led_by_0(replica_count);
            let all: Vec<_> = cluster.ids().collect();
            let before = pace(&mut cluster, &all, 300);
            cut(&mut cluster, 0, replica_count - 1, ways);
            cluster.run_for(500);
            assert!(!matches!(cluster.leader(), Some(0)), "progress: 0 does not reach everybody");
            // Long enough for the lead to have gone home, would it be left to go there.
            pace(&mut cluster, &all, 2_000).assert_like(&before, "beside a cut link");
            cluster.heal();
            cluster.run_till("the lead to go home", 3_000, |cluster| cluster.leader() == Some(0));
        }
    }
}

#[test]
fn who_reaches_more_replicas_than_the_leader_takes_over() {
    link_of_the_leader();
}

#[test]
fn a_link_between_followers_does_not_matter() {
    for ways in 0..3 {
        let mut cluster = led_by_0(5);
        let all: Vec<_> = cluster.ids().collect();
        let before = pace(&mut cluster, &all, 300);
        cut(&mut cluster, 3, 4, ways);
        pace(&mut cluster, &all, 2_000).assert_like(&before, "beside a cut link");
        assert_eq!((cluster.leader(), cluster.protocol(0).counters().terms), (Some(0), 1));
    }
}

/// Quorum loss [OmniPaxos]: only one replica reaches a quorum, and it does not lead.
#[test]
fn the_only_replica_that_reaches_a_quorum_leads() {
    for replica_count in [3, 5] {
        let mut cluster = led_by_0(replica_count);
        let all: Vec<_> = cluster.ids().collect();
        leave_star(&mut cluster, 2);
        cluster.run_for(1_000);
        let _ = pace(&mut cluster, &all, 1_000);
        assert_eq!(cluster.leader(), Some(2));
    }
}

/// Constrained election [OmniPaxos]: it does not even know what the others have decided, and they have forgotten it.
#[test]
fn the_only_replica_that_reaches_a_quorum_leads_however_far_it_is_behind() {
    let mut cluster = led_by_0(5);
    cluster.isolate(2);
    let _ = pace(&mut cluster, &[0, 1], 500);
    for id in [0, 1, 3, 4] {
        cluster.snapshot(id, 0);
    }
    cluster.heal();
    leave_star(&mut cluster, 2);
    cluster.run_for(2_000);
    let all: Vec<_> = cluster.ids().collect();
    let _ = pace(&mut cluster, &all, 500);
    assert_eq!(cluster.leader(), Some(2));
}

pub(super) fn narrow_link_of_the_leader() {
    for replica_count in [3, 5] {
        let mut cluster = led_by_0(replica_count);
        let all: Vec<_> = cluster.ids().collect();
        let before = pace(&mut cluster, &all, 300);
        // What arrives has waited for what was sent before it.
        cluster.delay_link(0, replica_count - 1, Duration::from_millis(400));
        cluster.run_for(1_500);
        assert!(matches!(cluster.leader(), Some(1..)), "progress: 0 leads over such a link");
        let first = term_count(&cluster);
        pace(&mut cluster, &all[1..], 10_000).assert_like(&before, "beside a narrow link");
        assert!(
            term_count(&cluster) - first <= 8,
            "the lead does not stay: {}",
            term_count(&cluster) - first
        );
    }
}

#[test]
fn a_leader_behind_a_narrow_link_hands_over_to_one_with_better_links() {
    narrow_link_of_the_leader();
}

/// Whoever leads, it is as far away: then the lead stays where it is most of the time.
#[test]
fn a_replica_that_nobody_reaches_in_time_does_not_move_the_lead_to_and_fro() {
    for replica_count in [3, 5] {
        let mut cluster = led_by_0(replica_count);
        let well = all_but(&cluster, replica_count - 1);
        let before = pace(&mut cluster, &well, 300);
        for &other in &well {
            cluster.delay_link(other, replica_count - 1, Duration::from_millis(400));
        }
        cluster.run_for(1_500);
        let first = term_count(&cluster);
        pace(&mut cluster, &well, 20_000).assert_like(&before, "beside a slow replica");
        assert!(term_count(&cluster) - first <= 8, "it moves: {}", term_count(&cluster) - first);
    }
}

pub(super) fn slow_process_of_the_leader() {
    for replica_count in [3, 5] {
        let mut cluster = led_by_0(replica_count);
        let well = all_but(&cluster, 0);
        let before = pace(&mut cluster, &well, 300);
        cluster.stutter(0, Duration::from_millis(36), Duration::from_millis(4));
        cluster.run_for(1_500);
        assert!(matches!(cluster.leader(), Some(1..)), "progress: 0 leads with so little time");
        let first = term_count(&cluster);
        pace(&mut cluster, &well, 10_000).assert_like(&before, "beside a slow process");
        assert_eq!(term_count(&cluster), first, "the lead does not stay");
        cluster.heal();
        cluster.run_till("the lead to go home", 5_000, |cluster| cluster.leader() == Some(0));
    }
}

#[test]
fn a_leader_whose_process_gets_little_time_hands_over() {
    slow_process_of_the_leader();
}

/// All have as little time: there is nobody better.
#[test]
fn where_all_processes_get_little_time_the_lead_stays() {
    let mut cluster = led_by_0(3);
    for id in cluster.ids() {
        cluster.stutter(id, Duration::from_millis(30), Duration::from_millis(5));
        cluster.run_for(7);
    }
    let first = term_count(&cluster);
    cluster.run_for(10_000);
    assert!(term_count(&cluster) - first <= 2, "it moves: {}", term_count(&cluster) - first);
}

/// With the times that are configured by default.
fn by_default(replica_count: u8) -> Cluster {
    let mut cluster = Cluster::new(replica_count, 0, 7, Tuning::default());
    cluster.run_till("the first election", 3_000, |cluster| cluster.leader() == Some(0));
    cluster.run_for(2_000);
    cluster
}

fn beside_all(replica_count: u8) {
    for weakness in Weakness::ALL {
        beside(by_default(replica_count), weakness);
    }
}

#[test]
fn three_go_on_beside_any_one_lasting_weakness() {
    beside_all(3);
}

#[test]
fn five_go_on_beside_any_one_lasting_weakness() {
    beside_all(5);
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
        jitter(&mut by_default(replica_count), Duration::from_millis(10));
    }
}
