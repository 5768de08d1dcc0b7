//! Random schedules: faults of every kind, then a healed cluster that must make progress.

use super::super::Basic;
use crate::protocol::{Counters, Protocol};
use crate::testing::cluster::Cluster;
use crate::testing::random::{heal_all, storm};
use crate::testing::tuning;

fn add(total: &mut Counters, more: Counters) {
    total.adopted += more.adopted;
    total.noops += more.noops;
    total.refused += more.refused;
    total.overwritten += more.overwritten;
    total.prepares += more.prepares;
    total.duels += more.duels;
    total.moved += more.moved;
}

/// Runs one seed; panics when an invariant breaks or progress stops.
pub(super) fn run(seed: u64, total: &mut Counters) -> u64 {
    let replica_count = if seed.is_multiple_of(3) { 5 } else { 3 };
    let mut cluster = Cluster::<Basic>::new(replica_count, (seed % 3) as u8, seed, tuning());
    storm(&mut cluster, 60, |cluster, id| {
        let _ = cluster.propose(id);
    });
    for id in cluster.ids().filter(|id| cluster.is_up(*id)).collect::<Vec<_>>() {
        add(total, cluster.protocol(id).counters());
    }
    recover(&mut cluster);
    cluster.reads_served
}

/// After the last fault everybody agrees, proposes and reads. Logs may be seconds behind when it ends.
fn recover(cluster: &mut Cluster<Basic>) {
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
    let wanted = cluster.reads_served + cluster.nodes.len() as u64;
    for id in cluster.ids() {
        cluster.read(id);
    }
    cluster.run_till("reads", 1_000, |cluster| cluster.reads_served >= wanted);
    cluster.run_till("catching up", 1_000, Cluster::is_level);
}

#[test]
fn random_schedules_agree_and_recover() {
    let mut total = Counters::default();
    let mut reads_served = 0;
    let first = std::env::var("PANCH_SEED").map_or(0, |seed| seed.parse().unwrap());
    let count = std::env::var("PANCH_SEED_COUNT").map_or(200, |count| count.parse().unwrap());
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
    if count >= 200 {
        // A schedule that never reaches the interesting places would prove nothing.
        assert!(reads_served > 1000, "{reads_served} reads");
        assert!(total.prepares > 1000 && total.duels > 500 && total.moved > 50, "{total:?}");
        assert!(total.adopted > 200 && total.noops > 200 && total.refused > 500, "{total:?}");
        assert!(total.overwritten > 5, "{total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run_once = |seed| {
        let mut counters = Counters::default();
        (run(seed, &mut counters), counters)
    };
    for seed in 0..5 {
        assert_eq!(run_once(seed), run_once(seed));
    }
}
