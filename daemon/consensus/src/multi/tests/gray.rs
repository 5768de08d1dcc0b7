//! Faults that last: the leader's disk, links of one node, of all but one.

use super::super::Multi;
use crate::protocol::Protocol;
use crate::testing::cluster;
use crate::testing::gray::{cut, leave_star, pace};
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
