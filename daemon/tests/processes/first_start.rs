//! First starts: a cluster is founded once, by nodes that are all new, and never beside one that has data.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{Cluster, Settings, eventually};
use redis::cmd;

const PATIENCE: Duration = Duration::from_secs(20);

fn wait_for_text(cluster: &Cluster, id: usize, text: &str) {
    eventually(&format!("node {id} says {text:?}"), PATIENCE, || {
        cluster.errors(id).contains(text).then_some(())
    });
}

fn set(cluster: &Cluster, id: usize) {
    cmd("SET").arg("key").arg("value").query::<()>(&mut cluster.connect(id)).expect("a majority decides");
}

fn get(cluster: &Cluster, id: usize) -> Option<String> {
    cmd("GET").arg("key").query(&mut cluster.connect(id)).expect("a majority answers")
}

#[test]
fn nodes_wait_for_each_other_say_so_and_can_be_stopped() {
    let mut cluster = Cluster::prepare(Settings::default());
    for id in [1, 2] {
        cluster.spawn(id);
    }
    wait_for_text(&cluster, 1, "node 1 has an empty data directory");
    wait_for_text(&cluster, 2, "waits for node 3 at");
    assert!(!Cluster::is_listening(cluster.ports(1).resp), "it serves nobody");
    let begin = Instant::now();
    cluster.stop(2, PATIENCE);
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    for id in [2, 3] {
        cluster.spawn(id);
    }
    cluster.wait_serving(&[1, 2, 3]);
    cluster.wait_writable();
}

#[test]
fn a_majority_on_empty_directories_founds_nothing() {
    let mut cluster = Cluster::start(Settings::default());
    set(&cluster, 1);
    for id in cluster.ids() {
        cluster.kill(id);
    }
    // Their disks are not mounted, where they were; that of node 3 is.
    for id in [1, 2] {
        fs::rename(cluster.data_dir(id), cluster.folder().join(format!("unmounted-{id}"))).expect("renamed");
        cluster.spawn(id);
    }
    for id in [1, 2] {
        wait_for_text(&cluster, id, "waits for node 3 at");
    }
    cluster.start_node(3);
    for id in [1, 2] {
        assert_eq!(cluster.wait_exit(id, PATIENCE).code(), Some(78));
        let text = cluster.errors(id);
        assert!(text.contains("may be forgotten") && text.contains("with --rejoin"), "{text}");
        fs::remove_dir_all(cluster.data_dir(id)).expect("removed");
        cluster.spawn_to_found(id);
        assert_eq!(cluster.wait_exit(id, PATIENCE).code(), Some(78));
        fs::remove_dir_all(cluster.data_dir(id)).expect("removed");
        fs::rename(cluster.folder().join(format!("unmounted-{id}")), cluster.data_dir(id)).expect("renamed");
    }
    for id in [1, 2] {
        cluster.start_node(id);
    }
    cluster.assert_all_serve();
    assert_eq!(get(&cluster, 1).as_deref(), Some("value"));
}

#[test]
fn a_cluster_can_be_founded_without_a_minority_which_joins_later() {
    let mut cluster = Cluster::prepare(Settings::default());
    cluster.spawn(1);
    cluster.spawn_to_found(2);
    cluster.wait_serving(&[1, 2]);
    set(&cluster, 1);
    // Not an order that may be given again.
    cluster.stop(2, PATIENCE);
    cluster.spawn_to_found(2);
    assert_eq!(cluster.wait_exit(2, PATIENCE).code(), Some(78));
    assert!(cluster.errors(2).contains("without --found"), "{}", cluster.errors(2));
    // One that was absent has to be told by all that they have not met it.
    cluster.spawn(3);
    wait_for_text(&cluster, 3, "founded without it (node 1)");
    cluster.stop(3, PATIENCE);
    cluster.spawn_to_found(3);
    assert_eq!(cluster.wait_exit(3, PATIENCE).code(), Some(78));
    assert!(cluster.errors(3).contains("is a member of this cluster and has data"), "{}", cluster.errors(3));
    cluster.spawn(3);
    cluster.start_node(2);
    cluster.wait_serving(&[3]);
    cluster.assert_all_serve();
    assert_eq!(get(&cluster, 3).as_deref(), Some("value"));
    // Now they have.
    cluster.kill(3);
    cluster.lose_disk(3);
    cluster.spawn(3);
    assert_eq!(cluster.wait_exit(3, PATIENCE).code(), Some(78));
    cluster.lose_disk(3);
    cluster.start_to_rejoin(3);
    cluster.wait_member(3);
    cluster.assert_all_serve();
}

#[test]
fn a_node_that_was_new_when_the_others_began_is_known_by_its_directory() {
    let mut cluster = Cluster::start(Settings::default());
    set(&cluster, 1);
    for id in cluster.ids() {
        cluster.kill(id);
    }
    // As if node 3 had been killed between the founding and its own beginning, and nobody had met it.
    let text = cluster.small_file(3, "identity");
    for id in [1, 2] {
        let peers = cluster.small_file(id, "peers");
        assert!(peers.contains("node 3 incarnation 1"), "{peers}");
        let nothing = "format 2\n";
        let sum = panch_wire::checksum::checksum(nothing.as_bytes());
        let nothing = format!("{nothing}checksum {sum:#018x}\n");
        fs::write(cluster.data_dir(id).join("peers"), nothing).expect("written");
        let own = cluster.small_file(id, "identity");
        let name = text.lines().find_map(|line| line.strip_prefix("log ")).expect("a name");
        assert!(own.contains(&format!("3:{name}")), "{own}");
    }
    cluster.lose_disk(3);
    cluster.spawn(3);
    cluster.start_node(1);
    assert_eq!(cluster.wait_exit(3, PATIENCE).code(), Some(78));
    let text = cluster.errors(3);
    assert!(text.contains("founded with another data directory of this node"), "{text}");
}

/// A cluster is founded without a node that has the data of an earlier one.
#[test]
fn founders_and_a_node_with_data_of_another_time_say_so_and_nobody_stops() {
    let mut cluster = Cluster::start(Settings::default());
    set(&cluster, 1);
    for id in cluster.ids() {
        cluster.kill(id);
    }
    for id in [1, 2] {
        cluster.lose_disk(id);
    }
    cluster.spawn(1);
    cluster.spawn_to_found(2);
    cluster.wait_serving(&[1, 2]);
    set(&cluster, 1);
    cluster.spawn(3);
    for id in cluster.ids() {
        wait_for_text(&cluster, id, "was founded (with --found) without one of the two nodes");
    }
    std::thread::sleep(Duration::from_secs(2));
    for id in cluster.ids() {
        assert_eq!(cluster.poll_exit(id), None, "{}", cluster.errors(id));
    }
    set(&cluster, 2);
    // As it says.
    cluster.stop(3, PATIENCE);
    cluster.lose_disk(3);
    cluster.start_node(3);
    cluster.assert_all_serve();
    assert_eq!(get(&cluster, 3).as_deref(), Some("value"));
}

#[test]
fn a_start_that_fails_changes_nothing() {
    let mut cluster = Cluster::start(Settings::default());
    set(&cluster, 1);
    cluster.stop(3, PATIENCE);
    let files = ["identity", "starts", "peers"].map(|name| cluster.data_dir(3).join(name));
    let texts = || files.each_ref().map(|file| fs::read(file).expect("a small file"));
    let before = texts();
    let taken = std::net::TcpListener::bind(("127.0.0.1", cluster.ports(3).resp)).expect("its port");
    for _ in 0..3 {
        cluster.spawn(3);
        assert_eq!(cluster.wait_exit(3, PATIENCE).code(), Some(74), "{}", cluster.errors(3));
    }
    assert_eq!(texts(), before);
    drop(taken);
    cluster.start_node(3);
    cluster.assert_all_serve();
}

#[test]
fn a_node_that_has_lost_what_it_remembers_of_others_says_so_and_comes_back_with_what_it_has() {
    let mut cluster = Cluster::start(Settings::default());
    set(&cluster, 1);
    // Another one has a directory since that it did not have at the founding.
    cluster.kill(2);
    cluster.lose_disk(2);
    cluster.start_to_rejoin(2);
    cluster.wait_member(2);
    cluster.kill(2);
    cluster.start_node(2);
    cluster.assert_all_serve();
    for name in ["peers", "starts"] {
        cluster.stop(3, PATIENCE);
        fs::remove_file(cluster.data_dir(3).join(name)).expect("removed");
        cluster.spawn(3);
        assert_eq!(cluster.wait_exit(3, PATIENCE).code(), Some(78));
        let text = cluster.errors(3);
        assert!(text.contains(&format!("{name} is gone")) && text.contains("it keeps what it has"), "{text}");
        cluster.start_to_rejoin(3);
        cluster.wait_member(3);
        cluster.assert_all_serve();
    }
}

#[test]
fn a_wrong_address_is_waited_for_by_name() {
    let mut cluster = Cluster::prepare(Settings::default());
    let path = cluster.config_path(1);
    let text = fs::read_to_string(&path).expect("the configuration");
    let (two, three) = (cluster.ports(2).peer.to_string(), cluster.ports(3).peer.to_string());
    let crossed = text.replace(&two, "two").replace(&three, &two).replace("two", &three);
    fs::write(&path, crossed).expect("written");
    for id in cluster.ids() {
        cluster.spawn(id);
    }
    wait_for_text(&cluster, 1, "node 3 at");
    let text = cluster.errors(1);
    assert!(text.contains("configuration differs") || text.contains("another node answers"), "{text}");
}
