//! Random schedules: faults of every kind, then a healed cluster that must make progress.

use super::super::Basic;
use crate::testing::cluster::Cluster;
use crate::testing::random::{
    Tally, assert_repeatable, catch_up, counters_of, decide, finish_old_batches, heal_all,
    propose_everywhere, read_everywhere, storm, sweep,
};
use crate::testing::tuning;

/// Runs one seed; panics when an invariant breaks or progress stops.
pub(super) fn run(seed: u64) -> Tally {
    let replica_count = if seed.is_multiple_of(3) { 5 } else { 3 };
    let mut cluster = Cluster::<Basic>::new(replica_count, (seed % 3) as u8, seed, tuning());
    storm(&mut cluster, 60, |cluster, id| {
        let _ = cluster.propose(id);
    });
    let counters = counters_of(&cluster);
    recover(&mut cluster);
    Tally { counters, reads_served: cluster.reads_served }
}

/// After the last fault everybody agrees, proposes and reads. Logs may be seconds behind when it ends.
fn recover(cluster: &mut Cluster<Basic>) {
    heal_all(cluster);
    finish_old_batches(cluster, 6_000);
    let batches = propose_everywhere(cluster);
    decide(cluster, &batches, 1_000);
    read_everywhere(cluster);
    catch_up(cluster, 1_000);
}

#[test]
fn random_schedules_agree_and_recover() {
    sweep(200, run, |total, reads_served| {
        // A schedule that never reaches the interesting places would prove nothing.
        assert!(reads_served > 1000, "{reads_served} reads");
        assert!(total.prepares > 1000 && total.duels > 500 && total.moved > 50, "{total:?}");
        assert!(total.adopted > 200 && total.noops > 200 && total.refused > 500, "{total:?}");
        assert!(total.overwritten > 5, "{total:?}");
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_repeatable(5, run);
}
