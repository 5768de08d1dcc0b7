//! Faults of every kind, at random; what must work once they are over; and many such schedules, one seed each.

use panch_wire::ids::BatchId;
use panch_wire::time::Duration;

use super::cluster::{Cluster, Weather};
use crate::protocol::{Counters, Protocol};

pub(crate) fn weather<P: Protocol>(cluster: &mut Cluster<P>) -> Weather {
    let slow = [0, 2, 10, 30][cluster.below(4) as usize];
    Weather {
        drop: [0, 0, 2, 10, 30][cluster.below(5) as usize],
        duplicate: [0, 5, 30][cluster.below(3) as usize],
        delay: Duration::from_micros([200, 2_000, 20_000][cluster.below(3) as usize]),
        fifo: cluster.below(5) > 0,
        slow,
        slow_delay: Duration::from_millis(300),
        disk: Duration::from_micros([200, 3_000, 60_000][cluster.below(3) as usize]),
    }
}

pub(crate) fn one_fault<P: Protocol>(cluster: &mut Cluster<P>) {
    let count = cluster.nodes.len() as u64;
    let mut id = cluster.below(count) as u8;
    if cluster.below(2) == 0 {
        id = cluster.leader().unwrap_or(id);
    }
    let other = cluster.below(count) as u8;
    match cluster.below(12) {
        0 | 1 => cluster.crash(id),
        2..=4 => cluster.restart(id),
        5 => cluster.isolate(id),
        6 => cluster.block(id, other),
        7 => cluster.heal(),
        8 => {
            cluster.heal();
            cluster.weather = weather(cluster);
        }
        9 => {
            let keep = cluster.below(20);
            cluster.snapshot(id, keep);
        }
        10 => {
            let stalled = cluster.below(3) == 0;
            cluster.stall_disk(id, stalled);
        }
        _ => cluster.repropose(id),
    }
}

/// Proposals, reads and faults at random times, `steps` times.
pub(crate) fn storm<P: Protocol>(
    cluster: &mut Cluster<P>,
    steps: usize,
    mut propose: impl FnMut(&mut Cluster<P>, u8),
) {
    cluster.weather = weather(cluster);
    let with_leases = !cluster.tuning.lease.is_zero();
    for step in 0..steps {
        let pause = cluster.below(50);
        cluster.run_for(pause);
        for id in cluster.ids() {
            for _ in 0..cluster.below(3) {
                propose(cluster, id);
            }
            match cluster.below(3) {
                0 if with_leases && step % 2 == 0 => cluster.lease_read(id),
                0 => cluster.read(id),
                _ => {}
            }
        }
        if cluster.below(2) == 0 {
            one_fault(cluster);
        }
    }
}

/// The last fault is over and everybody is up.
pub(crate) fn heal_all<P: Protocol>(cluster: &mut Cluster<P>) {
    cluster.heal();
    for id in cluster.ids() {
        cluster.restart(id);
        cluster.pause(id, false);
        cluster.stall_disk(id, false);
    }
}

/// Decides what was proposed before the last fault; panics if that takes longer than so many milliseconds.
pub(crate) fn finish_old_batches<P: Protocol>(cluster: &mut Cluster<P>, milliseconds: u64) {
    cluster.run_for(400);
    repropose_everywhere(cluster);
    cluster.run_till("every old batch", milliseconds, |cluster| cluster.ids().all(|id| cluster.is_idle(id)));
}

pub(crate) fn repropose_everywhere<P: Protocol>(cluster: &mut Cluster<P>) {
    cluster.ids().for_each(|id| cluster.repropose(id));
}

/// A new batch from every replica of an idle group.
pub(crate) fn propose_everywhere<P: Protocol>(cluster: &mut Cluster<P>) -> Vec<BatchId> {
    cluster.ids().map(|id| cluster.propose(id).expect("nothing is outstanding")).collect()
}

/// Decides these; panics if that takes longer than so many milliseconds.
pub(crate) fn decide<P: Protocol>(cluster: &mut Cluster<P>, batches: &[BatchId], milliseconds: u64) {
    let all_decided = |cluster: &Cluster<P>| batches.iter().all(|batch| cluster.is_decided(*batch));
    cluster.run_till("new batches", milliseconds, all_decided);
}

/// Serves a read at every replica.
pub(crate) fn read_everywhere<P: Protocol>(cluster: &mut Cluster<P>) {
    let wanted = cluster.reads_served + cluster.nodes.len() as u64;
    cluster.ids().for_each(|id| cluster.read(id));
    cluster.run_till("reads", 1_000, |cluster| cluster.reads_served >= wanted);
}

/// Everybody executes what anybody has; panics if that takes longer than so many milliseconds.
pub(crate) fn catch_up<P: Protocol>(cluster: &mut Cluster<P>, milliseconds: u64) {
    cluster.run_till("catching up", milliseconds, Cluster::is_level);
}

/// What the replicas that are up have counted since they started.
pub(crate) fn counters_of<P: Protocol>(cluster: &Cluster<P>) -> Counters {
    let mut counters = Counters::default();
    for id in cluster.ids().filter(|id| cluster.is_up(*id)) {
        counters.add(&cluster.protocol(id).counters());
    }
    counters
}

/// What random schedules came across.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) counters: Counters,
    pub(crate) reads_served: u64,
}

/// Runs one seed; panics when an invariant breaks or progress stops.
pub(crate) type Run = fn(seed: u64) -> Tally;

/// Runs `count` seeds; `interesting` panics if they never reached the places that prove something. The environment may
/// ask for other seeds (`PANCH_SEED`, the first, and `PANCH_SEED_COUNT`); fewer need not reach anything.
pub(crate) fn sweep(count: u64, run: Run, interesting: impl Fn(&Counters, u64)) {
    let from_environment = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let first = from_environment("PANCH_SEED", 0);
    let wanted = from_environment("PANCH_SEED_COUNT", count);
    let mut total = Tally::default();
    for seed in first..first + wanted {
        let tally = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| panic!("seed {seed} failed"));
        total.counters.add(&tally.counters);
        total.reads_served += tally.reads_served;
    }
    println!("{total:?}");
    if wanted >= count {
        interesting(&total.counters, total.reads_served);
    }
}

/// A seed says everything about a run.
pub(crate) fn assert_repeatable(count: u64, run: Run) {
    for seed in 0..count {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
