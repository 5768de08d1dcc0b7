//! Random schedules: faults of every kind, then a healed cluster that must make progress.

use super::super::Epaxos;
use super::visible::Visible;
use crate::protocol::Tuning;
use crate::testing::cluster;
use crate::testing::random::{
    Tally, assert_repeatable, catch_up, counters_of, decide, finish_old_batches, heal_all,
    propose_everywhere, read_everywhere, storm, sweep,
};
use crate::testing::tuning;

type Cluster = cluster::Cluster<Epaxos>;

fn propose(cluster: &mut Cluster, id: u8) {
    const KEYS: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"e", b"f"];
    let keys: Vec<_> = (0..=cluster.below(3)).map(|_| KEYS[cluster.below(6) as usize]).collect();
    let _ = cluster.propose_keys(id, &keys);
}

/// Runs one seed; panics when an invariant breaks or progress stops.
pub(super) fn run(seed: u64) -> Tally {
    let replica_count = [3, 5, 3, 4, 3, 5, 2][(seed % 7) as usize];
    let tuning = Tuning { thrifty: seed.is_multiple_of(4), ..tuning() };
    let mut cluster = Cluster::new(replica_count, 0, seed, tuning);
    let mut visible = Visible::default();
    storm(&mut cluster, 60, |cluster, id| {
        visible.look(cluster);
        propose(cluster, id);
    });
    let counters = counters_of(&cluster);
    recover(&mut cluster, &mut visible);
    Tally { counters, reads_served: cluster.reads_served }
}

/// After the last fault everybody agrees, proposes and reads.
fn recover(cluster: &mut Cluster, visible: &mut Visible) {
    heal_all(cluster);
    finish_old_batches(cluster, 6_000);
    let batches = propose_everywhere(cluster);
    // One that lagged may rest until it knows that no snapshot is coming.
    decide(cluster, &batches, 2_000);
    visible.look(cluster);
    read_everywhere(cluster);
    catch_up(cluster, 2_000);
    visible.look(cluster);
    assert!(visible.count() > 0);
}

#[test]
fn random_schedules_agree_and_recover() {
    sweep(60, run, |total, reads_served| {
        // A schedule that never reaches the interesting places would prove nothing.
        assert!(reads_served > 500, "{reads_served} reads");
        assert!(total.fast_commits > 100 && total.slow_commits > 100 && total.conflicts > 100, "{total:?}");
        assert!(total.recovered_accepted > 50 && total.recovered_preaccepted > 10, "{total:?}");
        assert!(
            total.recovered_noop > 100 && total.recovered_committed > 20 && total.resubmitted > 10,
            "{total:?}"
        );
        assert!(total.validates > 5 && total.component_max > 3 && total.held_back > 0, "{total:?}");
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_repeatable(3, run);
}
