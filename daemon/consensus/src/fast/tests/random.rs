//! Random schedules: faults of every kind, then a healed cluster that must make progress.

use super::super::Fast;
use super::scenarios::crash_all;
use crate::protocol::Tuning;
use crate::testing::cluster::Cluster;
use crate::testing::random::{
    Tally, assert_repeatable, catch_up, counters_of, decide, finish_old_batches, heal_all,
    propose_everywhere, read_everywhere, storm, sweep,
};
use crate::testing::tuning;

/// Runs one seed; panics when an invariant breaks or progress stops.
pub(super) fn run(seed: u64) -> Tally {
    let replica_count = [3, 5, 4][(seed % 3) as usize];
    let tuning = Tuning { free_for_all: seed / 3 % 2 == 1, ..tuning() };
    let mut cluster = Cluster::<Fast>::new(replica_count, (seed % 3) as u8, seed, tuning);
    for _ in 0..2 {
        storm(&mut cluster, 30, |cluster, id| {
            let _ = cluster.propose(id);
            if cluster.below(30) == 0 && cluster.is_up(id) {
                let peer = cluster.below(u64::from(replica_count)) as u8;
                cluster.suspect(id, peer);
            }
        });
        if seed.is_multiple_of(4) {
            crash_all(&mut cluster);
        }
    }
    let mut counters = counters_of(&cluster);
    recover(&mut cluster);
    counters.add(&counters_of(&cluster));
    Tally { counters, reads_served: cluster.reads_served }
}

/// After the last fault everybody agrees, proposes and reads.
fn recover(cluster: &mut Cluster<Fast>) {
    heal_all(cluster);
    cluster.run_till("an election", 5_000, |cluster| cluster.leader().is_some());
    finish_old_batches(cluster, 2_000);
    let batches = propose_everywhere(cluster);
    decide(cluster, &batches, 2_000);
    read_everywhere(cluster);
    catch_up(cluster, 2_000);
}

#[test]
fn random_schedules_agree_and_recover() {
    sweep(200, run, |total, reads_served| {
        // A schedule that never reaches the interesting places would prove nothing.
        assert!(reads_served > 1000, "{reads_served} reads");
        assert!(total.terms > 150 && total.adopted > 100 && total.noops > 100, "{total:?}");
        assert!(total.refused > 100 && total.step_downs > 20 && total.overwritten > 20, "{total:?}");
        assert!(total.fast_chosen > 1000 && total.classic_chosen > 1000, "{total:?}");
        assert!(total.collisions > 100 && total.recoveries > 100, "{total:?}");
        assert!(total.picks_forced > 100 && total.picks_free > 100, "{total:?}");
        assert!(total.fallbacks > 50 && total.returns > 50, "{total:?}");
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_repeatable(6, run);
}
