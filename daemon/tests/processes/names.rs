//! Nodes that know each other by name: an address that changes is found while nodes run, and while they wait for each other at the first
//! start.

use std::fs;
use std::time::Duration;

use crate::common::{Cluster, Hosts, Settings, eventually};
use redis::cmd;

const PATIENCE: Duration = Duration::from_secs(30);
const NAMES: [&str; 3] = ["panch-one", "panch-two", "panch-three"];

/// A cluster whose nodes know each other by name; `None` if this process cannot give them names.
fn prepare() -> Option<Cluster> {
    let mut cluster = Cluster::prepare(Settings::default());
    cluster.hosts = Hosts::new(cluster.folder());
    if cluster.hosts.is_none() {
        println!("skipped: this process may not mount what nodes look names up in");
        return None;
    }
    for id in cluster.ids() {
        let path = cluster.config_path(id);
        let mut text = fs::read_to_string(&path).expect("the configuration");
        for (name, id) in NAMES.into_iter().zip(1..) {
            let port = cluster.ports(id).peer;
            let before = format!("peer = \"127.0.0.1:{port}\"");
            assert!(text.contains(&before), "{text}");
            text = text.replace(&before, &format!("peer = \"{name}:{port}\""));
        }
        fs::write(&path, text).expect("written");
        listen(&cluster, id, "127.0.0.1");
    }
    Some(cluster)
}

/// A node is to listen there from its next start on.
fn listen(cluster: &Cluster, id: usize, ip: &str) {
    let path = cluster.config_path(id);
    let text = fs::read_to_string(&path).expect("the configuration");
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("peer_listen")).collect();
    let port = cluster.ports(id).peer;
    fs::write(&path, format!("{}\npeer_listen = \"{ip}:{port}\"\n", kept.join("\n"))).expect("written");
}

/// The address of the second name; those of the others stay.
fn set_second(cluster: &Cluster, ip: &str) {
    let [first, second, third] = NAMES;
    let hosts = cluster.hosts.as_ref().expect("there are names");
    hosts.set(&[(first, "127.0.0.1"), (second, ip), (third, "127.0.0.1")]);
}

#[test]
fn a_node_that_comes_back_with_another_address_is_found() {
    let Some(mut cluster) = prepare() else { return };
    set_second(&cluster, "127.0.0.1");
    cluster.ids().for_each(|id| cluster.spawn(id));
    cluster.wait_serving(&[1, 2, 3]);
    cluster.wait_writable();

    cluster.stop(2, PATIENCE);
    let port = cluster.ports(2).peer;
    let lost = format!("node 2 at 127.0.0.1:{port} is not reached: ");
    eventually("it is said that it is away", PATIENCE, || cluster.errors(1).contains(&lost).then_some(()));
    // It is dialled some times meanwhile.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(cluster.errors(1).matches(&lost).count(), 1, "{}", cluster.errors(1));

    set_second(&cluster, "127.0.0.2");
    listen(&cluster, 2, "127.0.0.2");
    cluster.spawn(2);
    cluster.wait_serving(&[2]);
    let found = format!("node 2, {}:{port}, is tried at 127.0.0.2:{port}", NAMES[1]);
    for id in [1, 3] {
        eventually("it is found", PATIENCE, || cluster.errors(id).contains(&found).then_some(()));
    }
    cluster.kill(3);
    cluster.wait_writable();
    cmd("SET").arg("key").arg("value").query::<()>(&mut cluster.connect(1)).expect("the two decide");
    let down = |cluster: &Cluster| cluster.info(1).text("peers_down").to_owned();
    eventually("it misses the other one", PATIENCE, || (down(&cluster) == "3").then_some(()));
}

#[test]
fn nodes_that_are_new_find_each_other_at_an_address_that_was_wrong_at_first() {
    let Some(mut cluster) = prepare() else { return };
    set_second(&cluster, "127.0.0.2");
    cluster.ids().for_each(|id| cluster.spawn(id));
    eventually("it waits", PATIENCE, || {
        cluster.errors(1).contains("waits for node 2 at 127.0.0.2").then_some(())
    });
    set_second(&cluster, "127.0.0.1");
    cluster.wait_serving(&[1, 2, 3]);
    cluster.wait_writable();
}

#[test]
fn a_name_without_an_address_may_have_one_later() {
    let Some(mut cluster) = prepare() else { return };
    cluster.hosts.as_ref().expect("there are names").set(&[("somebody-else", "127.0.0.1")]);
    let (status, errors) = cluster.start_in_vain(1);
    assert_eq!(status.code(), Some(74), "{errors}");
    assert!(errors.contains(NAMES[0]) && errors.contains("has no address"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}
