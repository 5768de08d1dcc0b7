//! Faults of every kind, at random.

use panch_wire::time::Duration;

use super::cluster::{Cluster, Weather};
use crate::protocol::Protocol;

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
