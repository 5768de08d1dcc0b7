//! Faults that last: one link, one disk. The group is asked to go on beside them, through every node that is well, about as fast
//! as without.

use panch_wire::time::Duration;

use super::cluster::Cluster;
use crate::protocol::Protocol;

/// What takes longer has failed, in milliseconds.
const PATIENCE_MS: u64 = 5_000;

/// How long commands took, in microseconds, each with the node that it went through.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    writes: Vec<(u8, u64)>,
    reads: Vec<(u8, u64)>,
}

/// What commands took through each node, now and without a fault.
type Compared<'a> = (&'a [(u8, u64)], &'a [(u8, u64)], &'static str);

fn median(times: &[(u8, u64)], of: impl Fn(u8) -> bool) -> u64 {
    let mut times: Vec<_> = times.iter().filter(|(node, _)| of(*node)).map(|(_, time)| *time).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

impl Pace {
    fn kinds<'a>(&'a self, well: &'a Pace) -> [Compared<'a>; 2] {
        [(&self.writes, &well.writes, "writes"), (&self.reads, &well.reads, "reads")]
    }

    /// At most three times as slow as without a fault, in the median.
    pub(crate) fn assert_like(&self, well: &Pace, what: &str) {
        for (times, usual, kind) in self.kinds(well) {
            let (now, before) = (median(times, |_| true), median(usual, |_| true));
            assert!(now <= 3 * before, "progress: {what}: {kind} take {now} us instead of {before}");
        }
    }

    /// The same for what went through each single node.
    pub(crate) fn assert_like_everywhere(&self, well: &Pace, what: &str) {
        for (times, usual, kind) in self.kinds(well) {
            let before = median(usual, |_| true);
            let mut nodes: Vec<_> = times.iter().map(|(node, _)| *node).collect();
            nodes.sort_unstable();
            nodes.dedup();
            for node in nodes {
                let now = median(times, |of| of == node);
                assert!(
                    now <= 3 * before,
                    "progress: {what}: {kind} through {node} take {now} us instead of {before}"
                );
            }
        }
    }

    /// One command in so many may have taken `limit`.
    pub(crate) fn assert_few_take(&self, limit: Duration, one_in: usize, what: &str) {
        for (times, _, kind) in self.kinds(self) {
            let limit = limit.as_micros() as u64;
            let slow = times.iter().filter(|(_, time)| *time >= limit).count();
            let all = times.len();
            assert!(slow * one_in <= all, "progress: {what}: {slow} of {all} {kind} take {limit} us or more");
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

/// One write through `node`; how long it took, in microseconds.
pub(crate) fn write<P: Protocol>(cluster: &mut Cluster<P>, node: u8) -> u64 {
    let batch = cluster.propose(node).expect("one at a time has room");
    let is_told =
        move |cluster: &Cluster<P>| cluster.committed(node).iter().rev().take(16).any(|it| *it == batch);
    let mine = move |cluster: &Cluster<P>| is_told(cluster) && cluster.is_decided(batch);
    run_till(cluster, &format!("a write through {node}"), mine)
}

/// One read through `node`; how long it took, in microseconds.
pub(crate) fn read<P: Protocol>(cluster: &mut Cluster<P>, node: u8) -> u64 {
    let served = cluster.reads_served;
    let begun = cluster.now;
    cluster.read(node);
    while cluster.reads_served == served {
        cluster.run_until(cluster.now + Duration::from_micros(50));
        // One that cannot be confirmed is asked for again.
        if !cluster.reads_wait() {
            cluster.read(node);
        }
        let waited = cluster.now.since(begun).as_millis() as u64;
        assert!(waited < PATIENCE_MS, "progress: a read through {node} took too long");
    }
    cluster.now.since(begun).as_micros() as u64
}

/// Each of the nodes in turn writes and reads, for that long.
pub(crate) fn pace<P: Protocol>(cluster: &mut Cluster<P>, nodes: &[u8], milliseconds: u64) -> Pace {
    let end = cluster.now + Duration::from_millis(milliseconds);
    let mut pace = Pace { writes: Vec::new(), reads: Vec::new() };
    while cluster.now < end {
        for &node in nodes {
            pace.writes.push((node, write(cluster, node)));
            pace.reads.push((node, read(cluster, node)));
            cluster.run_for(2);
        }
    }
    pace
}

/// A process that gets little time runs so long out of every period, which is no part of any interval.
const PERIOD: Duration = Duration::from_millis(47);
const RUNS: Duration = Duration::from_millis(5);

/// One lasting weakness of who leads, of another, or of a link between the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weakness {
    /// A third of what the group writes gets through, each way.
    NarrowLink,
    /// Messages take so many milliseconds longer, each way.
    SlowLink(u64),
    /// What the leader says does not arrive.
    DeafFollower,
    /// What the other says does not arrive.
    DeafLeader,
    /// The leader's process runs for a tenth of the time.
    SlowProcess,
    /// The leader's disk takes 20 times as long.
    SlowDisk,
    /// The leader's disk completes nothing any more.
    HungDisk,
    /// The other's disk completes nothing any more.
    HungDiskOfOther,
}

impl Weakness {
    pub(crate) const ALL: [Self; 10] = [
        Self::NarrowLink,
        Self::SlowLink(50),
        Self::SlowLink(200),
        Self::SlowLink(500),
        Self::DeafFollower,
        Self::DeafLeader,
        Self::SlowProcess,
        Self::SlowDisk,
        Self::HungDisk,
        Self::HungDiskOfOther,
    ];

    /// What it does, to `leader` or `other` or between them.
    fn strike<P: Protocol>(self, cluster: &mut Cluster<P>, leader: u8, other: u8) {
        match self {
            Self::NarrowLink => cluster.narrow_link(leader, other, 20),
            Self::SlowLink(by) => cluster.delay_link(leader, other, Duration::from_millis(by)),
            Self::DeafFollower => cluster.block(leader, other),
            Self::DeafLeader => cluster.block(other, leader),
            Self::SlowProcess => cluster.stutter(leader, PERIOD, RUNS),
            Self::SlowDisk => cluster.slow_disk(leader, 20),
            Self::HungDisk => cluster.stall_disk(leader, true),
            Self::HungDiskOfOther => cluster.stall_disk(other, true),
        }
    }

    /// Whether what goes through that node has no part in it.
    fn spares(self, id: u8, leader: u8, other: u8) -> bool {
        match self {
            Self::SlowProcess | Self::SlowDisk | Self::HungDisk => id != leader,
            Self::HungDiskOfOther => id != other,
            _ => id != leader && id != other,
        }
    }

    /// Whether nodes that have a part in it must be served all the same.
    fn leaves_ends_served(self) -> bool {
        matches!(self, Self::NarrowLink | Self::SlowLink(_) | Self::DeafFollower | Self::DeafLeader)
    }
}

/// How often somebody began to lead.
pub(crate) fn term_count<P: Protocol>(cluster: &Cluster<P>) -> u64 {
    cluster.ids().map(|id| cluster.protocol(id).counters().terms).sum()
}

/// Beside a weakness that lasts, of whoever leads the group and of the last of the others: once it was noticed, what goes through
/// the other nodes is about as fast as before, and does not wait for a timer; healthy nodes at the ends of a link are served; and
/// the lead does not go to and fro.
pub(crate) fn beside<P: Protocol>(mut cluster: Cluster<P>, weakness: Weakness) {
    /// By then it was noticed, in milliseconds.
    const NOTICED: u64 = 4_000;
    let leader = cluster.leader().expect("the group is led");
    let count = cluster.ids().count() as u8;
    let other = (leader + count - 1) % count;
    let well: Vec<_> = cluster.ids().filter(|id| weakness.spares(*id, leader, other)).collect();
    let what = format!("n = {count}, {weakness:?} of {leader}, {other}");
    let before = pace(&mut cluster, &well, 300);
    weakness.strike(&mut cluster, leader, other);
    let _ = pace(&mut cluster, &well, NOTICED);
    let first = term_count(&cluster);
    let now = pace(&mut cluster, &well, NOTICED);
    now.assert_like_everywhere(&before, &what);
    now.assert_few_take(cluster.tuning.slow_after, 10, &what);
    if weakness.leaves_ends_served() {
        for id in [leader, other] {
            write(&mut cluster, id);
            read(&mut cluster, id);
        }
    }
    let soon = term_count(&cluster);
    let mut worst = 0;
    for _ in 0..180 {
        let terms = term_count(&cluster);
        for &node in &well {
            write(&mut cluster, node);
            read(&mut cluster, node);
            cluster.run_for(900 / well.len() as u64);
        }
        worst = worst.max(term_count(&cluster) - terms);
    }
    println!(
        "{what}: terms {first} till it was noticed, {soon} in the next {} s, {} in the next 180 s, now {:?} leads; p50 {} -> {} us, {} -> {} us",
        NOTICED / 1_000,
        term_count(&cluster) - soon,
        cluster.leader(),
        median(&before.writes, |_| true),
        median(&now.writes, |_| true),
        median(&before.reads, |_| true),
        median(&now.reads, |_| true),
    );
    assert!(term_count(&cluster) - soon <= 20 && worst <= 3, "{what}: the lead goes to and fro");
}

/// For so many seconds every node has something to do now and then.
fn work<P: Protocol>(cluster: &mut Cluster<P>, seconds: u64) {
    for _ in 0..10 * seconds {
        for id in cluster.ids() {
            write(cluster, id);
            read(cluster, id);
        }
        cluster.run_for(100);
    }
}

/// One message in fifty takes up to twenty times as long as usual, and keeps back those behind it.
pub(crate) fn jitter<P: Protocol>(cluster: &mut Cluster<P>, usual: Duration) {
    cluster.weather.delay = usual;
    cluster.weather.slow = 2;
    cluster.weather.slow_delay = 20 * usual;
    let first = term_count(cluster);
    let leader = cluster.leader();
    work(cluster, 120);
    assert_eq!((term_count(cluster), cluster.leader()), (first, leader), "ordinary jitter costs the lead");
}

/// Leading takes most of the time that a process gets, whoever leads: nobody is better, and the lead settles.
pub(crate) fn leading_is_slow<P: Protocol>(mut cluster: Cluster<P>) {
    let first = term_count(&cluster);
    let (mut slow, mut turns) = (None, 0);
    for _ in 0..180 * 4 {
        if cluster.leader() != slow {
            slow.inspect(|id| cluster.run_steadily(*id));
            slow = cluster.leader();
            slow.inspect(|id| cluster.stutter(*id, PERIOD, RUNS));
            turns += u64::from(slow.is_some());
        }
        for id in cluster.ids() {
            let _ = cluster.propose(id);
        }
        cluster.run_for(250);
    }
    let (count, terms) = (cluster.ids().count() as u64, term_count(&cluster) - first);
    println!("n = {count}, leading is slow: {turns} turns, {terms} terms in 180 s");
    assert!(turns <= 5 * count, "the lead goes round: {turns} turns, {terms} terms");
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
