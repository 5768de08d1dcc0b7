//! Random schedules: faults of every kind, then a healed cluster that must make progress.

use super::super::Fast;
use super::scenarios::crash_all;
use crate::protocol::{Counters, Protocol, Tuning};
use crate::testing::cluster::Cluster;
use crate::testing::random::{heal_all, storm};
use crate::testing::tuning;

fn add(total: &mut Counters, more: Counters) {
    total.elections += more.elections;
    total.terms += more.terms;
    total.adopted += more.adopted;
    total.noops += more.noops;
    total.refused += more.refused;
    total.step_downs += more.step_downs;
    total.overwritten += more.overwritten;
    total.moved += more.moved;
    total.fast_chosen += more.fast_chosen;
    total.classic_chosen += more.classic_chosen;
    total.collisions += more.collisions;
    total.recoveries += more.recoveries;
    total.picks_forced += more.picks_forced;
    total.picks_free += more.picks_free;
    total.fallbacks += more.fallbacks;
    total.returns += more.returns;
}

/// Runs one seed; panics when an invariant breaks or progress stops.
pub(super) fn run(seed: u64, total: &mut Counters) -> u64 {
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
    for id in cluster.ids().filter(|id| cluster.is_up(*id)).collect::<Vec<_>>() {
        add(total, cluster.protocol(id).counters());
    }
    recover(&mut cluster);
    for id in cluster.ids() {
        add(total, cluster.protocol(id).counters());
    }
    cluster.reads_served
}

/// After the last fault everybody agrees, proposes and reads.
fn recover(cluster: &mut Cluster<Fast>) {
    heal_all(cluster);
    cluster.run_till("an election", 5_000, |cluster| cluster.leader().is_some());
    cluster.run_for(400);
    for id in cluster.ids() {
        cluster.repropose(id);
    }
    cluster.run_till("every old batch", 2_000, |cluster| cluster.ids().all(|id| cluster.is_idle(id)));
    let mut batches = Vec::new();
    for id in cluster.ids() {
        batches.push(cluster.propose(id).expect("nothing is outstanding"));
    }
    cluster.run_till("new batches", 2_000, |cluster| batches.iter().all(|batch| cluster.is_decided(*batch)));
    let wanted = cluster.reads_served + cluster.nodes.len() as u64;
    for id in cluster.ids() {
        cluster.read(id);
    }
    cluster.run_till("reads", 1_000, |cluster| cluster.reads_served >= wanted);
    cluster.run_till("catching up", 2_000, Cluster::is_level);
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
        assert!(total.terms > 150 && total.adopted > 100 && total.noops > 100, "{total:?}");
        assert!(total.refused > 100 && total.step_downs > 20 && total.overwritten > 20, "{total:?}");
        assert!(total.fast_chosen > 1000 && total.classic_chosen > 1000, "{total:?}");
        assert!(total.collisions > 100 && total.recoveries > 100, "{total:?}");
        assert!(total.picks_forced > 100 && total.picks_free > 100, "{total:?}");
        assert!(total.fallbacks > 50 && total.returns > 50, "{total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run_once = |seed| {
        let mut counters = Counters::default();
        (run(seed, &mut counters), counters)
    };
    for seed in 0..6 {
        assert_eq!(run_once(seed), run_once(seed));
    }
}
