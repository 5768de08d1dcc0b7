//! Random schedules: faults of every kind, then a healed cluster that must make progress.

use super::super::Multi;
use crate::protocol::Tuning;
use crate::testing::cluster;
use crate::testing::random::{
    Tally, assert_repeatable, catch_up, counters_of, decide, finish_old_batches, heal_all,
    propose_everywhere, read_everywhere, repropose_everywhere, storm, sweep,
};
use crate::testing::tuning;

pub(super) type Cluster = cluster::Cluster<Multi>;

/// Runs one seed; panics when an invariant breaks or progress stops.
pub(super) fn run(seed: u64) -> Tally {
    run_with(seed, tuning(), |_, _| {})
}

/// The same with that tuning, and something more to happen with every proposal.
pub(super) fn run_with(seed: u64, tuning: Tuning, more: impl Fn(&mut Cluster, u8)) -> Tally {
    let replica_count = if seed.is_multiple_of(3) { 5 } else { 3 };
    let mut cluster = Cluster::new(replica_count, (seed % 3) as u8, seed, tuning);
    storm(&mut cluster, 60, |cluster, id| {
        let _ = cluster.propose(id);
        more(cluster, id);
    });
    let counters = counters_of(&cluster);
    recover(&mut cluster);
    Tally { counters, reads_served: cluster.reads_served }
}

/// After the last fault everybody agrees, proposes and reads.
fn recover(cluster: &mut Cluster) {
    heal_all(cluster);
    cluster.run_till("an election", 5_000, |cluster| cluster.leader().is_some());
    finish_old_batches(cluster, 2_000);
    let batches = propose_everywhere(cluster);
    // A transfer home may be under way and drop proposals.
    cluster.run_for(300);
    repropose_everywhere(cluster);
    decide(cluster, &batches, 1_000);
    read_everywhere(cluster);
    catch_up(cluster, 1_000);
}

#[test]
fn random_schedules_agree_and_recover() {
    sweep(300, run, |total, reads_served| {
        // A schedule that never reaches the interesting places would prove nothing.
        assert!(reads_served > 1000, "{reads_served} reads");
        assert!(
            total.terms > 150 && total.adopted > 100 && total.gaps > 100 && total.rewinds > 100,
            "{total:?}"
        );
        assert!(total.refused > 100 && total.step_downs > 20 && total.transfers > 20, "{total:?}");
        assert!(total.overwritten > 5 && total.commit_held > 5, "{total:?}");
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_repeatable(5, run);
}
