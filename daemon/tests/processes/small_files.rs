//! The small files of a node on disks that are full or hang: nodes that start again are taken in on a full disk, and no core waits for a
//! disk that hangs.

use std::time::{Duration, Instant};

use crate::common::{Cluster, Load, LoadOptions, Settings, eventually};
use redis::cmd;

const PATIENCE: Duration = Duration::from_secs(30);
/// A node whose disk hangs answers what needs no disk within this time.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Every node has a disk, and room in its log for all that is written: where the process may make disks.
fn cluster(protocol: &str) -> Option<Cluster> {
    let mut cluster = Cluster::start(Settings {
        cluster: format!("protocol = \"{protocol}\"\n"),
        node: "log_segment_size = \"32MiB\"\nsnapshot_log_size = \"64MiB\"\n".into(),
        disk: Some(128),
        ..Settings::default()
    });
    if cluster.disk(1).is_none() {
        println!("skipped: this process may not make disks");
        return None;
    }
    Some(cluster)
}

fn load(cluster: &Cluster) -> Load {
    Load::start(cluster, LoadOptions { threads: 3, ..LoadOptions::default() })
}

fn end(cluster: &mut Cluster, load: Load) {
    let outcome = load.stop();
    println!("{}", outcome.describe());
    cluster.assert_all_serve();
    outcome.check(cluster);
    cluster.assert_same_state();
}

/// All nodes start again while the disk of one is full, which is needed for a majority each time.
fn restarts_beside_a_full_disk(protocol: &str) {
    let Some(mut cluster) = cluster(protocol) else { return };
    let load = load(&cluster);
    load.wait_for_writes(50);
    // A segment that is being made would give its room back.
    std::thread::sleep(Duration::from_secs(5));
    cluster.disk(1).expect("just seen").fill();
    for (restarted, other) in [(2, 3), (3, 2)] {
        cluster.kill(restarted);
        load.wait_for_writes(20);
        cluster.start_node(restarted);
        load.wait_for_writes(20);
        // Only if the full node has taken the other one in.
        cluster.kill(other);
        load.wait_for_writes(20);
        cluster.start_node(other);
        load.wait_for_writes(20);
    }
    let before = cluster.info(1).number("incarnation");
    for _ in 0..2 {
        cluster.kill(1);
        load.wait_for_writes(20);
        cluster.start_node(1);
        cluster.kill(2);
        load.wait_for_writes(20);
        cluster.start_node(2);
        load.wait_for_writes(20);
    }
    assert_eq!(cluster.info(1).number("incarnation"), before + 2);
    assert_eq!(cluster.info(1).number("small_file_trouble_ms"), 0);
    cluster.disk(1).expect("just seen").empty();
    end(&mut cluster, load);
}

#[test]
fn multi_paxos_restarts_beside_a_full_disk() {
    restarts_beside_a_full_disk("multi");
}

#[test]
fn epaxos_restarts_beside_a_full_disk() {
    restarts_beside_a_full_disk("epaxos");
}

/// A node starts again while the disk of another one hangs.
fn returns_beside_a_hung_disk(protocol: &str) {
    let Some(mut cluster) = cluster(protocol) else { return };
    let load = load(&cluster);
    load.wait_for_writes(50);
    cluster.kill(3);
    load.wait_for_writes(20);
    let mut client = cluster.connect(1);
    client.set_read_timeout(Some(AT_ONCE)).expect("a time");
    cluster.disk(1).expect("just seen").hang();
    cluster.start_node(3);
    load.wait_for_writes(50);
    let begun = Instant::now();
    let mut is_seen = false;
    while begun.elapsed() < Duration::from_secs(8) {
        let pong: String = cmd("PING").query(&mut client).expect("PING is answered at once");
        assert_eq!(pong, "PONG");
        let info: String = cmd("INFO").query(&mut client).expect("INFO is answered at once");
        is_seen |= info.lines().any(|line| {
            line.strip_prefix("small_file_trouble_ms:")
                .is_some_and(|time| time.parse::<u64>().is_ok_and(|time| time > 0))
        });
        std::thread::sleep(Duration::from_millis(50));
    }
    load.wait_for_writes(50);
    assert!(is_seen, "INFO shows that the disk hangs");
    let text = cluster.errors(1);
    assert!(text.contains("the disk has not finished a small write"), "{text}");
    cluster.disk(1).expect("just seen").go_on();
    eventually("INFO shows that the disk works", PATIENCE, || {
        (cluster.info(1).number("small_file_trouble_ms") == 0).then_some(())
    });
    // Only if node 1 has taken node 3 in.
    eventually("all nodes serve", PATIENCE, || {
        cluster.ids().all(|id| cluster.try_info(id).is_some()).then_some(())
    });
    cluster.assert_all_serve();
    cluster.kill(2);
    load.wait_for_writes(50);
    cluster.start_node(2);
    end(&mut cluster, load);
}

#[test]
fn multi_paxos_serves_on_while_a_node_returns_beside_a_hung_disk() {
    returns_beside_a_hung_disk("multi");
}

#[test]
fn epaxos_serves_on_while_a_node_returns_beside_a_hung_disk() {
    returns_beside_a_hung_disk("epaxos");
}
