//! Random schedules: faults of every kind, then a healed cluster that must make progress.

use super::super::Epaxos;
use super::visible::Visible;
use crate::protocol::{Counters, Protocol, Tuning};
use crate::testing::cluster;
use crate::testing::random::{heal_all, storm};
use crate::testing::tuning;

type Cluster = cluster::Cluster<Epaxos>;

pub(super) fn add(total: &mut Counters, more: Counters) {
    total.fast_commits += more.fast_commits;
    total.slow_commits += more.slow_commits;
    total.conflicts += more.conflicts;
    total.refused += more.refused;
    total.recovery_starts += more.recovery_starts;
    total.recovered_committed += more.recovered_committed;
    total.recovered_accepted += more.recovered_accepted;
    total.recovered_preaccepted += more.recovered_preaccepted;
    total.recovered_noop += more.recovered_noop;
    total.validates += more.validates;
    total.validates_rejected += more.validates_rejected;
    total.waits += more.waits;
    total.waits_accepted += more.waits_accepted;
    total.waits_noop += more.waits_noop;
    total.resubmitted += more.resubmitted;
    total.component_max = total.component_max.max(more.component_max);
    total.held_back += more.held_back;
}

fn propose(cluster: &mut Cluster, id: u8) {
    const KEYS: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"e", b"f"];
    let keys: Vec<_> = (0..=cluster.below(3)).map(|_| KEYS[cluster.below(6) as usize]).collect();
    let _ = cluster.propose_keys(id, &keys);
}

/// Runs one seed; panics when an invariant breaks or progress stops.
pub(super) fn run(seed: u64, total: &mut Counters) -> u64 {
    let replica_count = [3, 5, 3, 4, 3, 5, 2][(seed % 7) as usize];
    let tuning = Tuning { thrifty: seed.is_multiple_of(4), ..tuning() };
    let mut cluster = Cluster::new(replica_count, 0, seed, tuning);
    let mut visible = Visible::default();
    storm(&mut cluster, 60, |cluster, id| {
        visible.look(cluster);
        propose(cluster, id);
    });
    for id in cluster.ids().filter(|id| cluster.is_up(*id)).collect::<Vec<_>>() {
        add(total, cluster.protocol(id).counters());
    }
    recover(&mut cluster, &mut visible);
    cluster.reads_served
}

/// After the last fault everybody agrees, proposes and reads.
fn recover(cluster: &mut Cluster, visible: &mut Visible) {
    heal_all(cluster);
    cluster.run_for(400);
    for id in cluster.ids() {
        cluster.repropose(id);
    }
    cluster.run_till("every old batch", 6_000, |cluster| cluster.ids().all(|id| cluster.is_idle(id)));
    let mut batches = Vec::new();
    for id in cluster.ids() {
        batches.push(cluster.propose(id).expect("nothing is outstanding"));
    }
    cluster.run_till("new batches", 1_000, |cluster| batches.iter().all(|batch| cluster.is_decided(*batch)));
    visible.look(cluster);
    let wanted = cluster.reads_served + cluster.nodes.len() as u64;
    for id in cluster.ids() {
        cluster.read(id);
    }
    cluster.run_till("reads", 1_000, |cluster| cluster.reads_served == wanted);
    cluster.run_till("catching up", 2_000, |cluster| cluster.is_level());
    visible.look(cluster);
    assert!(visible.count() > 0);
}

#[test]
fn random_schedules_agree_and_recover() {
    let mut total = Counters::default();
    let mut reads_served = 0;
    let first = std::env::var("PANCH_SEED").map_or(0, |seed| seed.parse().unwrap());
    let count = std::env::var("PANCH_SEED_COUNT").map_or(60, |count| count.parse().unwrap());
    for seed in first..first + count {
        let result = std::panic::catch_unwind(|| {
            let mut counters = Counters::default();
            (run(seed, &mut counters), counters)
        });
        let (served, counters) = result.unwrap_or_else(|_| panic!("seed {seed} failed"));
        reads_served += served;
        add(&mut total, counters);
    }
    println!("{total:?}, {reads_served} reads");
    if count >= 60 {
        // A schedule that never reaches the interesting places would prove nothing.
        assert!(reads_served > 500, "{reads_served} reads");
        assert!(total.fast_commits > 100 && total.slow_commits > 100 && total.conflicts > 100, "{total:?}");
        assert!(total.recovered_accepted > 50 && total.recovered_preaccepted > 10, "{total:?}");
        assert!(
            total.recovered_noop > 100 && total.recovered_committed > 20 && total.resubmitted > 10,
            "{total:?}"
        );
        assert!(total.validates > 5 && total.component_max > 3 && total.held_back > 0, "{total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run_once = |seed| {
        let mut counters = Counters::default();
        (run(seed, &mut counters), counters)
    };
    for seed in 0..3 {
        assert_eq!(run_once(seed), run_once(seed));
    }
}
