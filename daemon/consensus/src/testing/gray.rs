//! Faults that last: one link, one disk. The group is asked to go on beside them, through every node that is well, about as fast
//! as without.

use panch_wire::time::Duration;

use super::cluster::Cluster;
use crate::protocol::Protocol;

/// What takes longer has failed, in milliseconds.
const PATIENCE_MS: u64 = 5_000;

/// How long commands took, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    writes: Vec<u64>,
    reads: Vec<u64>,
}

fn median(times: &[u64]) -> u64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

impl Pace {
    /// At most three times as slow as without a fault, in the median.
    pub(crate) fn assert_like(&self, well: &Pace, what: &str) {
        for (times, usual, kind) in
            [(&self.writes, &well.writes, "writes"), (&self.reads, &well.reads, "reads")]
        {
            let (now, before) = (median(times), median(usual));
            assert!(now <= 3 * before, "progress: {what}: {kind} take {now} us instead of {before}");
        }
    }
}

fn run_till<P: Protocol>(cluster: &mut Cluster<P>, what: &str, done: impl Fn(&Cluster<P>) -> bool) -> u64 {
    let begun = cluster.now;
    while !done(cluster) {
        cluster.run_until(cluster.now + Duration::from_micros(50));
        let waited = cluster.now.since(begun).as_millis() as u64;
        assert!(waited < PATIENCE_MS, "progress: {what} took too long");
    }
    cluster.now.since(begun).as_micros() as u64
}

/// Each of the nodes in turn writes and reads, for that long.
pub(crate) fn pace<P: Protocol>(cluster: &mut Cluster<P>, nodes: &[u8], milliseconds: u64) -> Pace {
    let end = cluster.now + Duration::from_millis(milliseconds);
    let mut pace = Pace { writes: Vec::new(), reads: Vec::new() };
    while cluster.now < end {
        for &node in nodes {
            let batch = cluster.propose(node).expect("one at a time has room");
            let mine = move |cluster: &Cluster<P>| {
                cluster.is_decided(batch) && cluster.committed(node).contains(&batch)
            };
            pace.writes.push(run_till(cluster, &format!("a write through {node}"), mine));
            let served = cluster.reads_served;
            // One that cannot be confirmed is asked for again.
            let begun = cluster.now;
            cluster.read(node);
            while cluster.reads_served == served {
                cluster.run_until(cluster.now + Duration::from_micros(50));
                if !cluster.reads_wait() {
                    cluster.read(node);
                }
                let waited = cluster.now.since(begun).as_millis() as u64;
                assert!(waited < PATIENCE_MS, "progress: a read through {node} took too long");
            }
            pace.reads.push(cluster.now.since(begun).as_micros() as u64);
            cluster.run_for(2);
        }
    }
    pace
}

/// A link is cut: from the first to the second, the other way, or both ways, and whoever notices is told.
pub(crate) fn cut<P: Protocol>(cluster: &mut Cluster<P>, from: u8, to: u8, ways: usize) {
    let links: &[(u8, u8)] = match ways {
        0 => &[(from, to), (to, from)],
        1 => &[(from, to)],
        _ => &[(to, from)],
    };
    for (from, to) in links {
        cluster.block(*from, *to);
    }
    if ways == 0 {
        cluster.suspect(from, to);
        cluster.suspect(to, from);
    }
}

/// Every link is cut that neither begins nor ends at `center`.
pub(crate) fn leave_star<P: Protocol>(cluster: &mut Cluster<P>, center: u8) {
    for from in cluster.ids().filter(|id| *id != center) {
        for to in cluster.ids().filter(|id| *id != center && *id != from) {
            cluster.block(from, to);
        }
    }
}
