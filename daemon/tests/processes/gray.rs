//! One lasting weakness that kills nothing: a disk that hangs or is slow, a link that is cut one way, a slow process. While it lasts, the
//! other nodes must serve about as fast as without it; above all no command may wait for a timer.
//!
//! It measures times, so it runs only when it is asked for, on a machine that does nothing else: `PANCH_WEAK_SECONDS` sets how long each
//! weakness lasts, `PANCH_NODES` in how large a cluster (3), and `PANCH_WEAK` which, by the beginnings of their names (`HungDisk,Slow`;
//! all). One line per weakness with medians before and while it lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::common::{Cluster, Settings};
use redis::cmd;

/// What waits for a timer waits longer than this: the shortest is a Fast Paxos round that is given up, 50 ms. Less proves nothing on a
/// machine that has other things to do.
const NO_TIMER: Duration = Duration::from_millis(40);
/// By how much the median may grow.
const RATIO_MAX: f64 = 3.0;
/// For so long the cluster is measured without the weakness, at most.
const BEFORE_MAX: Duration = Duration::from_secs(8);
/// A weakness may cost this much once, until it is noticed.
const NOTICED_AFTER: Duration = Duration::from_secs(3);
/// Between two operations of a client, so that they measure delays and not how much the machine can do.
const PAUSE: Duration = Duration::from_millis(2);

/// Bytes per second of a narrow link: heartbeats fit, what the clients write does not.
const NARROW: u64 = 20_000;

#[derive(Clone, Copy, Debug)]
enum Weakness {
    /// A disk completes nothing.
    HungDisk(usize),
    /// A disk takes 20 ms for what it does in less than one.
    SlowDisk(usize),
    /// Nothing that the first says reaches the second.
    CutOneWay(usize, usize),
    /// What two nodes say to each other takes 60 ms longer, one way.
    SlowLink(usize, usize),
    /// Less goes through between two nodes than is written.
    NarrowLink(usize, usize),
    /// A process gets a tenth of its time.
    SlowNode(usize),
}

impl Weakness {
    /// Whether it is judged. What a leader costs whose process gets a tenth of its time, or a proposer of Basic Paxos, is shown only:
    /// nobody else takes over from it yet.
    fn is_judged(self) -> bool {
        !matches!(self, Self::SlowNode(_))
    }

    /// Whether clients of this node are promised an undisturbed service.
    fn spares(self, id: usize) -> bool {
        match self {
            Self::HungDisk(weak) | Self::SlowDisk(weak) | Self::SlowNode(weak) => id != weak,
            Self::CutOneWay(one, other) | Self::SlowLink(one, other) | Self::NarrowLink(one, other) => {
                id != one && id != other
            }
        }
    }
}

/// One operation of a client.
struct Sample {
    node: usize,
    is_read: bool,
    asked: Instant,
    /// `None`: it was answered with an error.
    took: Option<Duration>,
}

/// Clients of all nodes, one writer and one reader each.
struct Clients {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Sample>>>,
}

impl Clients {
    fn start(cluster: &Cluster) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for node in cluster.ids() {
            for is_read in [false, true] {
                let url = format!("redis://127.0.0.1:{}/", cluster.ports(node).resp);
                let over = Arc::clone(&over);
                threads.push(std::thread::spawn(move || work(node, is_read, &url, &over)));
            }
        }
        Self { over, threads }
    }

    fn stop(self) -> Vec<Sample> {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client does not panic")).collect()
    }
}

fn work(node: usize, is_read: bool, url: &str, over: &AtomicBool) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut connection = None;
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(PAUSE);
        if connection.is_none() {
            let client = redis::Client::open(url).expect("an address");
            connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok();
        }
        let Some(open) = &mut connection else { continue };
        let _ = open.set_read_timeout(Some(Duration::from_secs(12)));
        number += 1;
        // Each client has keys of its own: conflicts are another matter.
        let key = format!("{node}-{}", number % 50);
        let asked = Instant::now();
        let result = if is_read {
            cmd("GET").arg(key).query::<Option<String>>(open).map(drop)
        } else {
            cmd("SET").arg(key).arg(number).query::<()>(open)
        };
        let took = result.is_ok().then(|| asked.elapsed());
        if took.is_none() {
            connection = None;
        }
        samples.push(Sample { node, is_read, asked, took });
    }
    samples
}

/// The median, a failure counting as for ever, and how many were asked.
fn median<'a>(samples: impl Iterator<Item = &'a Sample>) -> (Duration, usize) {
    let mut times: Vec<Duration> = samples.map(|sample| sample.took.unwrap_or(Duration::MAX)).collect();
    times.sort_unstable();
    (times.get(times.len() / 2).copied().unwrap_or(Duration::MAX), times.len())
}

fn in_milliseconds(time: Duration) -> String {
    if time == Duration::MAX { "never".into() } else { format!("{:.2}", time.as_secs_f64() * 1e3) }
}

/// Whom a cluster's leader, if it has one, can be weak towards.
fn weaknesses(leader: usize, count: usize) -> Vec<Weakness> {
    let follower = 1 + leader % count;
    let other = 1 + follower % count;
    vec![
        Weakness::HungDisk(leader),
        Weakness::HungDisk(follower),
        Weakness::SlowDisk(leader),
        Weakness::SlowDisk(follower),
        Weakness::CutOneWay(leader, follower),
        Weakness::CutOneWay(follower, leader),
        Weakness::CutOneWay(follower, other),
        Weakness::SlowLink(leader, follower),
        Weakness::SlowLink(follower, other),
        Weakness::NarrowLink(leader, follower),
        Weakness::SlowNode(leader),
        Weakness::SlowNode(follower),
    ]
}

struct SlowNode {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl SlowNode {
    /// Stops a process and lets it go on, again and again.
    fn start(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let signal = |signal| {
                // SAFETY: kill takes no memory; the process lives until this thread has ended.
                unsafe { libc::kill(pid as i32, signal) };
            };
            while !shared.load(Ordering::Relaxed) {
                signal(libc::SIGSTOP);
                std::thread::sleep(Duration::from_millis(45));
                signal(libc::SIGCONT);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { over, thread }
    }

    fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic");
    }
}

/// How long a weakness lasts; `None`: nobody has asked.
fn seconds() -> Option<Duration> {
    let text = std::env::var("PANCH_WEAK_SECONDS").ok()?;
    Some(Duration::from_secs(text.parse().expect("a number")))
}

fn is_wanted(weakness: Weakness) -> bool {
    let name = format!("{weakness:?}");
    std::env::var("PANCH_WEAK").map_or(true, |names| names.split(',').any(|start| name.starts_with(start)))
}

/// Runs `during` while the weakness lasts.
fn suffer(cluster: &mut Cluster, weakness: Weakness, during: impl FnOnce()) {
    match weakness {
        Weakness::HungDisk(id) => {
            cluster.disk(id).expect("disks were made").hang();
            during();
            cluster.disk(id).expect("disks were made").go_on();
        }
        Weakness::SlowDisk(id) => {
            cluster.disk(id).expect("disks were made").slow_down(Duration::from_millis(20));
            during();
            cluster.disk(id).expect("disks were made").go_on();
        }
        Weakness::CutOneWay(from, to) => {
            cluster.links.as_ref().expect("the cluster is linked").cut_one_way(from, to);
            during();
            cluster.links.as_ref().expect("the cluster is linked").heal();
        }
        Weakness::SlowLink(one, other) => {
            let links = cluster.links.as_ref().expect("the cluster is linked");
            links.delay_between(one, other, Duration::from_millis(60));
            during();
            links.heal();
        }
        Weakness::NarrowLink(one, other) => {
            let links = cluster.links.as_ref().expect("the cluster is linked");
            links.narrow_between(one, other, NARROW);
            during();
            links.heal();
        }
        Weakness::SlowNode(id) => {
            let slow = SlowNode::start(cluster.pid(id));
            during();
            slow.stop();
        }
    }
}

fn stays_fast(protocol: &str) {
    let Some(seconds) = seconds() else {
        println!("skipped: set PANCH_WEAK_SECONDS, and run one protocol at a time");
        return;
    };
    let nodes = std::env::var("PANCH_NODES").map_or(3, |text| text.parse().expect("a number"));
    let mut cluster = Cluster::start(Settings {
        nodes,
        cluster: format!("protocol = \"{protocol}\"\n"),
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"8MiB\"\n".into(),
        linked: true,
        disk: Some(128),
        ..Settings::default()
    });
    if cluster.disk(1).is_none() {
        println!("skipped: this process may not make disks");
        return;
    }
    let mut slow = Vec::new();
    for number in 0..weaknesses(1, nodes).len() {
        // Who leads may have changed.
        let leader = cluster.find_leader(0).unwrap_or(1);
        let weakness = weaknesses(leader, nodes)[number];
        if !is_wanted(weakness) {
            continue;
        }
        let clients = Clients::start(&cluster);
        std::thread::sleep(seconds.min(BEFORE_MAX));
        let begun = Instant::now();
        suffer(&mut cluster, weakness, || std::thread::sleep(NOTICED_AFTER + seconds));
        let ended = Instant::now();
        let samples = clients.stop();
        for is_read in [false, true] {
            let of_kind = || samples.iter().filter(|it| it.is_read == is_read);
            let spared = || of_kind().filter(|it| weakness.spares(it.node));
            let (before, _) = median(spared().filter(|it| it.asked < begun));
            let while_weak = |it: &&Sample| it.asked >= begun + NOTICED_AFTER && it.asked < ended;
            let (while_it_lasts, count) = median(spared().filter(while_weak));
            let concerned = cluster.ids().filter(|id| !weakness.spares(*id));
            let at = |id| in_milliseconds(median(of_kind().filter(|it| it.node == id).filter(while_weak)).0);
            let elsewhere: Vec<String> = concerned.map(|id| format!("node {id}: {}", at(id))).collect();
            let what = if is_read { "read" } else { "write" };
            println!(
                "{protocol}, {nodes} nodes, {weakness:?}, leader {leader}: {what} p50 {} ms before, {} ms while it lasts ({count}); of \
                 those concerned: {}",
                in_milliseconds(before),
                in_milliseconds(while_it_lasts),
                elsewhere.join(", "),
            );
            let limit = before.mul_f64(RATIO_MAX).max(NO_TIMER);
            if while_it_lasts > limit && weakness.is_judged() {
                slow.push(format!("{weakness:?}: {what} {before:.1?} -> {while_it_lasts:.1?}"));
            }
        }
        cluster.wait_writable();
    }
    assert!(slow.is_empty(), "{protocol}: {slow:#?}");
    cluster.assert_all_serve();
    cluster.assert_same_state();
}

macro_rules! protocols {
    ($($protocol:ident)*) => {$(
        #[test]
        fn $protocol() {
            stays_fast(stringify!($protocol));
        }
    )*};
}

protocols!(basic multi fast epaxos);
