//! Nodes that lose their disk, or a log that was in memory only: they are refused until they say so, and then come back with
//! everything that was acknowledged.

use std::time::Duration;

use crate::common::{Cluster, Load, LoadOptions, Settings, eventually};
use redis::cmd;

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(protocol: &str) -> Settings {
    Settings { cluster: format!("protocol = \"{protocol}\"\n"), groups: 2, cores: 2, ..Settings::default() }
}

/// A node that lost its data directory is refused; with `--rejoin` it comes back; then another is killed for good.
fn comes_back(protocol: &str) {
    let mut cluster = Cluster::start(settings(protocol));
    let load = Load::start(&cluster, LoadOptions { threads: 3, ..LoadOptions::default() });
    load.wait_for_writes(100);
    let (lost, other) = (3, 1);
    cluster.kill(lost);
    cluster.lose_disk(lost);
    load.wait_for_writes(50);

    // However often it is tried.
    for _ in 0..4 {
        cluster.spawn(lost);
        assert_eq!(cluster.wait_exit(lost, PATIENCE).code(), Some(78));
        let text = cluster.errors(lost);
        assert!(text.contains("remembers 1 starts") && text.contains("start it with --rejoin"), "{text}");
    }
    load.wait_for_writes(50);

    cluster.spawn_to_rejoin(lost);
    std::thread::sleep(Duration::from_millis(30));
    cluster.kill(lost);
    // The file is there since the tries before; a process that was killed early has not said so in it.
    let has_identity = cluster.data_dir(lost).join("identity").exists();
    let identity = if has_identity { cluster.small_file(lost, "identity") } else { String::new() };
    if identity.contains("state rejoining") {
        // It knows.
        cluster.start_node(lost);
    } else {
        cluster.lose_disk(lost);
        cluster.start_to_rejoin(lost);
    }
    cluster.wait_member(lost);
    // The other core tells this one at its next turn.
    eventually("INFO says so, too", PATIENCE, || (cluster.info(lost).text("rejoining") == "0").then_some(()));
    load.wait_for_writes(100);
    cluster.kill(lost);
    cluster.spawn_to_rejoin(lost);
    assert_eq!(cluster.wait_exit(lost, PATIENCE).code(), Some(78));
    let text = cluster.errors(lost);
    assert!(text.contains("is not empty"), "{text}");
    cluster.start_node(lost);
    cluster.kill(other);
    load.wait_for_writes(100);
    cluster.start_node(other);
    load.wait_for_writes(20);
    let outcome = load.stop();
    println!("{protocol}: {}", outcome.describe());
    cluster.assert_all_serve();
    outcome.check(&cluster);
    cluster.assert_same_state();
}

#[test]
fn basic_paxos_takes_back_a_node_that_lost_its_disk() {
    comes_back("basic");
}

#[test]
fn multi_paxos_takes_back_a_node_that_lost_its_disk() {
    comes_back("multi");
}

#[test]
fn fast_paxos_takes_back_a_node_that_lost_its_disk() {
    comes_back("fast");
}

#[test]
fn epaxos_takes_back_a_node_that_lost_its_disk() {
    comes_back("epaxos");
}

#[test]
fn a_node_that_forgot_its_votes_while_the_others_were_down_stops_when_they_are_back() {
    let mut cluster = Cluster::start(settings("multi"));
    cmd("SET").arg("key").arg("1").query::<()>(&mut cluster.connect(1)).expect("three nodes decide");
    for id in cluster.ids() {
        cluster.kill(id);
    }
    cluster.lose_disk(3);
    cluster.spawn(3);
    for id in [1, 2] {
        cluster.start_node(id);
    }
    assert_eq!(cluster.wait_exit(3, PATIENCE).code(), Some(78));
    let text = cluster.errors(3);
    assert!(text.contains("may be forgotten") && text.contains("start it with --rejoin"), "{text}");
    cluster.wait_writable();
    cluster.lose_disk(3);
    cluster.start_to_rejoin(3);
    cluster.wait_member(3);
    cluster.assert_all_serve();
}

#[test]
fn a_node_whose_log_is_in_memory_comes_back_by_itself() {
    let settings = settings("multi");
    let node = format!("{}durability = \"memory\"\n", settings.node);
    let mut cluster = Cluster::start(Settings { node, ..settings });
    let load = Load::start(&cluster, LoadOptions { threads: 3, ..LoadOptions::default() });
    for id in [1, 2, 3] {
        load.wait_for_writes(50);
        cluster.kill(id);
        load.wait_for_writes(50);
        cluster.start_node(id);
        cluster.wait_member(id);
    }
    load.wait_for_writes(50);
    let outcome = load.stop();
    println!("logs in memory: {}", outcome.describe());
    cluster.assert_all_serve();
    outcome.check(&cluster);
    cluster.assert_same_state();
}

#[test]
fn a_node_whose_machine_stopped_before_its_votes_were_synced_comes_back_by_itself() {
    let settings = settings("multi");
    let node = format!("{}durability = \"periodic\"\n", settings.node);
    let mut cluster = Cluster::start(Settings { node, machines: true, ..settings });
    let load = Load::start(&cluster, LoadOptions { threads: 3, ..LoadOptions::default() });
    let text = "was not stopped in order before its machine";
    load.wait_for_writes(50);
    // A process that is killed loses nothing.
    cluster.kill(2);
    cluster.start_node(2);
    assert!(!cluster.errors(2).contains(text), "{}", cluster.errors(2));
    load.wait_for_writes(50);
    cluster.kill(2);
    cluster.reboot(2);
    load.wait_for_writes(50);
    cluster.start_node(2);
    assert!(cluster.errors(2).contains(text), "{}", cluster.errors(2));
    cluster.wait_member(2);
    // Nor does a machine that is stopped in order.
    load.wait_for_writes(50);
    cluster.stop(3, PATIENCE);
    cluster.reboot(3);
    cluster.start_node(3);
    assert!(!cluster.errors(3).contains(text), "{}", cluster.errors(3));
    load.wait_for_writes(50);
    let outcome = load.stop();
    println!("votes that were not synced: {}", outcome.describe());
    cluster.assert_all_serve();
    outcome.check(&cluster);
    cluster.assert_same_state();
    // All machines at once: nobody can tell what was decided last, and nobody pretends to.
    for id in cluster.ids() {
        cluster.kill(id);
        cluster.reboot(id);
        cluster.spawn(id);
    }
    for id in cluster.ids() {
        eventually("it says for whom it waits", PATIENCE, || {
            (cluster.try_info(id)?.text("rejoining") == "1" && cluster.errors(id).contains(text))
                .then_some(())
        });
    }
}

/// A slow disk owes an answer at any moment, and gives it. One that hangs may give none while the node waits for it: what it was given then has
/// not counted.
#[test]
fn a_node_that_is_stopped_beside_a_weak_disk_has_forgotten_nothing_that_counted() {
    let small = "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"8MiB\"\n";
    let node = format!("{small}durability = \"periodic\"\nperiodic_interval = \"1ms\"\n");
    let mut cluster = Cluster::start(Settings { node, disk: Some(128), ..settings("multi") });
    if cluster.disk(3).is_none() {
        println!("skipped: this process may not make disks");
        return;
    }
    let load = Load::start(
        &cluster,
        LoadOptions { threads: 32, nodes: vec![1, 2], padding: 2048, ..LoadOptions::default() },
    );
    load.wait_for_writes(50);
    // The last is longer than a node that ends waits for its disk.
    for hangs_for in [None, Some(5), Some(15)].map(|seconds| seconds.map(Duration::from_secs)) {
        cluster.assert_all_serve();
        let disk = cluster.disk(3).expect("disks were made");
        match hangs_for {
            Some(_) => disk.hang(),
            None => disk.slow_down(Duration::from_millis(30)),
        }
        std::thread::sleep(Duration::from_secs(1));
        cluster.signal(3, libc::SIGTERM);
        std::thread::sleep(hangs_for.unwrap_or(Duration::from_secs(3)));
        cluster.disk(3).expect("disks were made").go_on();
        assert_eq!(cluster.wait_exit(3, PATIENCE).code(), Some(0), "{}", cluster.errors(3));
        cluster.start_node(3);
        let text = cluster.errors(3);
        assert!(!text.contains("could not write its log"), "hangs for {hangs_for:?}: {text}");
        load.wait_for_writes(50);
    }
    let outcome = load.stop();
    println!("stopped beside a weak disk: {}", outcome.describe());
    cluster.assert_all_serve();
    outcome.check(&cluster);
    cluster.assert_same_state();
}

#[test]
fn a_node_that_waits_for_others_says_for_whom_and_can_be_stopped() {
    let mut cluster = Cluster::start(settings("multi"));
    let key = |cluster: &Cluster, id| cmd("SET").arg("key").arg("1").query::<()>(&mut cluster.connect(id));
    key(&cluster, 1).expect("three nodes decide");
    for id in [2, 3] {
        cluster.kill(id);
        cluster.lose_disk(id);
        cluster.spawn_to_rejoin(id);
    }
    for (id, other) in [(2, 3), (3, 2)] {
        let text = format!("waits for node {other} at");
        eventually("it says for whom it waits", PATIENCE, || {
            cluster.errors(id).contains(&text).then_some(())
        });
    }
    cluster.signal(2, libc::SIGTERM);
    assert_eq!(cluster.wait_exit(2, PATIENCE).code(), Some(0));
}
