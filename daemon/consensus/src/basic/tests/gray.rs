//! Faults that last: every replica proposes, so what matters is that each reaches a quorum.

use super::super::Basic;
use crate::testing::gray::{cut, leave_star, pace};
use crate::testing::{cluster, tuning};

type Cluster = cluster::Cluster<Basic>;

fn group(replica_count: u8) -> Cluster {
    let mut cluster = Cluster::new(replica_count, 0, 7, tuning());
    cluster.run_for(300);
    cluster
}

#[test]
fn replicas_that_do_not_reach_each_other_are_served() {
    for replica_count in [3, 5] {
        for ways in 0..3 {
            let mut cluster = group(replica_count);
            let all: Vec<_> = cluster.ids().collect();
            let before = pace(&mut cluster, &all, 300);
            cut(&mut cluster, 0, replica_count - 1, ways);
            let what = format!("n = {replica_count}, ways {ways}");
            pace(&mut cluster, &all, 2_000).assert_like(&before, &what);
        }
    }
}

#[test]
fn a_hung_disk_costs_nothing() {
    for replica_count in [3, 5] {
        let mut cluster = group(replica_count);
        let well: Vec<_> = cluster.ids().skip(1).collect();
        let before = pace(&mut cluster, &well, 300);
        cluster.stall_disk(0, true);
        pace(&mut cluster, &well, 2_000).assert_like(&before, "beside a hung disk");
    }
}

#[test]
fn the_only_replica_that_reaches_a_quorum_is_served() {
    let mut cluster = group(5);
    leave_star(&mut cluster, 2);
    let _ = pace(&mut cluster, &[2], 1_000);
}
