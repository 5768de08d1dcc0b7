//! A node that needs a snapshot catches up over long links, while the others go on writing.
//!
//! `PANCH_STATE_MB` says how large the state is, in megabytes (20). One line per protocol with the time it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Cluster, Settings, eventually};
use redis::cmd;

/// One way.
const DELAY: Duration = Duration::from_millis(50);
/// Every so often ten values of this size are written: 0.45 MB per second.
const WRITE_EVERY: Duration = Duration::from_millis(100);
const WRITTEN_SIZE: usize = 4500;
/// With four chunks per round trip, and newer snapshots that cut the log under the one on its way, it would take for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes through a node until it is told to stop.
fn write(url: &str, over: &AtomicBool) {
    let client = redis::Client::open(url).expect("an address");
    let mut connection = client.get_connection().expect("the node accepts clients");
    let value = "y".repeat(WRITTEN_SIZE);
    for round in 0.. {
        let begin = Instant::now();
        let mut pipe = redis::pipe();
        for key in 0..10 {
            pipe.cmd("SET").arg(format!("hot{key}")).arg(format!("{round}{value}")).ignore();
        }
        let _ = pipe.query::<()>(&mut connection);
        if over.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(WRITE_EVERY.saturating_sub(begin.elapsed()));
    }
}

fn catches_up(protocol: &str) {
    let megabytes: usize = std::env::var("PANCH_STATE_MB").map_or(20, |text| text.parse().expect("a number"));
    let mut cluster = Cluster::start(Settings {
        cluster: format!("protocol = \"{protocol}\"\n"),
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"4MiB\"\n".into(),
        linked: true,
        ..Settings::default()
    });
    let (from, away) = (1, 3);
    let value = "x".repeat(10_000);
    for first in (0..megabytes * 100).step_by(100) {
        let mut pipe = redis::pipe();
        for key in first..first + 100 {
            pipe.cmd("SET").arg(format!("key{key}")).arg(&value).ignore();
        }
        pipe.query::<()>(&mut cluster.connect(from)).expect("the nodes decide");
    }
    cluster.kill(away);
    cluster.lose_disk(away);
    cluster.links.as_ref().expect("linked").delay(DELAY);
    let over = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let url = format!("redis://127.0.0.1:{}/", cluster.ports(from).resp);
        let over = Arc::clone(&over);
        move || write(&url, &over)
    });
    let begin = Instant::now();
    cluster.spawn_to_rejoin(away);
    eventually("the node catches up", PATIENCE, || {
        let behind = cluster.try_info(away)?.group(0).executed;
        let ahead = cluster.info(from).group(0).executed;
        // Half a second's worth.
        (behind > 0 && ahead.saturating_sub(behind) < 50).then_some(())
    });
    let (took, info) = (begin.elapsed(), cluster.info(from));
    over.store(true, Ordering::Relaxed);
    writer.join().expect("the writer ends");
    println!(
        "{protocol}: {megabytes} MB of state, caught up after {:.1} s, {} snapshots installed, window at most {} bytes",
        took.as_secs_f64(),
        cluster.info(away).number("installs_total"),
        info.number("snapshot_window_max"),
    );
    cmd("SET").arg("last").arg("value").query::<()>(&mut cluster.connect(from)).expect("the nodes decide");
    cluster.links.as_ref().expect("linked").heal();
    cluster.wait_member(away);
    cluster.assert_same_state();
}

#[test]
fn a_node_catches_up_over_long_links_with_multi_paxos() {
    catches_up("multi");
}

#[test]
fn a_node_catches_up_over_long_links_with_epaxos() {
    catches_up("epaxos");
}
