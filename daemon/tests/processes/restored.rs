//! A data directory that was restored from an older copy, and strangers that pretend to be a node: neither is taken for the node
//! that the others know.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::common::peer::{hello_of, key_of, shake};
use crate::common::{Cluster, Settings, eventually};
use panch_wire::ids::Incarnation;
use panch_wire::peer::{Hello, LifeKey, Proof, Purpose, RefusalCode};
use redis::cmd;

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(protocol: &str) -> Settings {
    Settings { cluster: format!("protocol = \"{protocol}\"\n"), groups: 2, cores: 2, ..Settings::default() }
}

fn write(cluster: &Cluster, through: usize, keys: std::ops::Range<usize>) {
    let mut connection = cluster.connect(through);
    for key in keys {
        // Right after a start or a stop nobody may lead for longer than a request waits.
        eventually("a majority decides", PATIENCE, || {
            cmd("SET").arg(key).arg("acknowledged").query::<()>(&mut connection).ok()
        });
    }
}

fn assert_written(cluster: &Cluster, through: usize, keys: std::ops::Range<usize>) {
    let mut connection = cluster.connect(through);
    for key in keys {
        let value: Option<String> = cmd("GET").arg(key).query(&mut connection).expect("GET");
        assert_eq!(value.as_deref(), Some("acknowledged"), "key {key} through node {through}");
    }
}

/// The node is refused however often it is tried, and what it prints makes it a member again.
fn is_refused_and_comes_back(cluster: &mut Cluster, id: usize) {
    for _ in 0..3 {
        cluster.spawn(id);
        assert_eq!(cluster.wait_exit(id, PATIENCE).code(), Some(78));
        let text = cluster.errors(id);
        assert!(text.contains("an older copy of it"), "{text}");
        assert!(text.contains("empty `data_dir` and start it with --rejoin"), "{text}");
    }
}

fn rejoin(cluster: &mut Cluster, id: usize) {
    cluster.lose_disk(id);
    cluster.start_to_rejoin(id);
    cluster.wait_member(id);
}

/// A copy from before the last start, and one from the last run, come back while the node that knew with it is down.
fn restored_copies(protocol: &str) {
    let mut cluster = Cluster::start(settings(protocol));
    write(&cluster, 1, 0..10);
    // An upgrade that is rolled back: copy, start, trouble, restore.
    cluster.stop(3, PATIENCE);
    cluster.copy_disk(3);
    cluster.start_node(3);
    cluster.wait_writable();
    cluster.stop(1, PATIENCE);
    write(&cluster, 2, 10..60);
    cluster.stop(2, PATIENCE);
    cluster.stop(3, PATIENCE);
    cluster.restore_disk(3);
    cluster.start_node(1);
    is_refused_and_comes_back(&mut cluster, 3);
    cluster.start_node(2);
    rejoin(&mut cluster, 3);
    cluster.wait_writable();
    assert_written(&cluster, 3, 0..60);
    // A copy of the running node; what it has said since is lost with it.
    cluster.copy_disk_of_running(3);
    cluster.wait_writable();
    write(&cluster, 2, 60..100);
    cluster.kill(3);
    cluster.restore_disk(3);
    is_refused_and_comes_back(&mut cluster, 3);
    rejoin(&mut cluster, 3);
    cluster.wait_writable();
    for id in cluster.ids() {
        assert_written(&cluster, id, 0..100);
    }
    cluster.assert_same_state();
    // Starts and crashes alone are no reason.
    for _ in 0..3 {
        cluster.kill(3);
        cluster.start_node(3);
    }
    cluster.wait_writable();
}

#[test]
fn multi_paxos_refuses_restored_copies() {
    restored_copies("multi");
}

#[test]
fn fast_paxos_refuses_restored_copies() {
    restored_copies("fast");
}

#[test]
fn epaxos_refuses_restored_copies() {
    restored_copies("epaxos");
}

/// A copy of the running node is restored after all nodes were killed: what was told is in the files of the others.
#[test]
fn what_was_told_is_remembered_by_nodes_that_were_killed() {
    let mut cluster = Cluster::start(settings("multi"));
    cluster.copy_disk_of_running(3);
    cluster.wait_writable();
    let writes = |cluster: &Cluster| cluster.info(1).number("peer_memory_writes");
    write(&cluster, 1, 0..20);
    let before = writes(&cluster);
    eventually("what was told is written down", PATIENCE, || (writes(&cluster) > before).then_some(()));
    for id in cluster.ids() {
        cluster.kill(id);
    }
    cluster.restore_disk(3);
    cluster.start_node(1);
    is_refused_and_comes_back(&mut cluster, 3);
}

/// The only node that is there was away during the start that the copy lacks, and was told of it.
#[test]
fn a_copy_is_refused_by_a_node_that_was_only_told_of_what_it_lacks() {
    let mut cluster = Cluster::start(settings("multi"));
    write(&cluster, 1, 0..10);
    cluster.stop(3, PATIENCE);
    cluster.copy_disk(3);
    cluster.stop(1, PATIENCE);
    cluster.start_node(3);
    write(&cluster, 2, 10..30);
    cluster.stop(3, PATIENCE);
    cluster.start_node(1);
    eventually("node 1 is told of node 3", PATIENCE, || {
        let text = fs::read_to_string(cluster.data_dir(1).join("peers")).expect("a file");
        // Of the last start, not of the first, of which it was told as well.
        text.contains("told by 2 node 3 incarnation 2 ").then_some(())
    });
    cluster.stop(2, PATIENCE);
    cluster.restore_disk(3);
    cluster.spawn(3);
    eventually("node 3 does not count", PATIENCE, || {
        let text = cluster.errors(3);
        let is_refused = text.contains("has met a later start of this node");
        (is_refused && text.contains("does not vote and serves nothing")).then_some(())
    });
    cluster.start_node(2);
    assert_eq!(cluster.wait_exit(3, PATIENCE).code(), Some(78));
    rejoin(&mut cluster, 3);
    cluster.wait_writable();
    for id in cluster.ids() {
        assert_written(&cluster, id, 0..30);
    }
    cluster.assert_same_state();
}

/// A stranger who knows all that nodes tell strangers, and claims a late incarnation of node 3.
fn forged(cluster: &Cluster) -> (Hello, Proof) {
    let key = LifeKey([7; 16]);
    let right = hello_of(cluster, 3);
    let hello = Hello { incarnation: Incarnation(u32::MAX), life: key.life(), ..right };
    let (earlier, earlier_key) = (right.incarnation, key);
    (hello, Proof { key, earlier, earlier_key, since: earlier, log_end: u64::MAX, ..Proof::default() })
}

fn peers_file(cluster: &Cluster, id: usize) -> String {
    let text = cluster.small_file(id, "peers");
    // How far logs have come changes by itself.
    text.lines()
        .filter_map(|line| line.split(" ends ").next())
        .filter(|line| line.starts_with("node"))
        .collect()
}

#[test]
fn a_forged_hello_changes_nothing_and_the_true_node_goes_on() {
    let mut cluster = Cluster::start(settings("multi"));
    let before = peers_file(&cluster, 1);
    let port = cluster.ports(1).peer;
    let (hello, proof) = forged(&cluster);
    let asked = Hello { purpose: Purpose::Inquiry, incarnation: Incarnation(0), ..hello };
    let told = shake(port, &asked, &proof, None);
    assert_eq!((told.refusal, told.known), (None, hello_of(&cluster, 3).incarnation));
    for (hello, code) in [
        (hello, RefusalCode::Incarnation),
        (Hello { purpose: Purpose::Rejoin, ..hello }, RefusalCode::Unconfirmed),
        (Hello { life: key_of(&cluster, 3).life(), ..hello }, RefusalCode::Malformed),
    ] {
        assert_eq!(shake(port, &hello, &proof, None).refusal, Some(code));
    }
    assert_eq!(peers_file(&cluster, 1), before);
    cluster.kill(3);
    cluster.start_node(3);
    cluster.assert_all_serve();
}

#[test]
fn a_cluster_with_a_secret_talks_to_nobody_without_it() {
    let settings = settings("multi");
    let node = format!("{}secret_file = \"secret\"\n", settings.node);
    let mut cluster = Cluster::prepare(Settings { node, ..settings });
    let path = cluster.folder().join("secret");
    let set = |text: &str| {
        fs::write(&path, text).expect("a secret is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its permissions");
    };
    set("a secret of one kind\n");
    for id in cluster.ids() {
        cluster.spawn(id);
    }
    cluster.wait_writable();
    let port = cluster.ports(1).peer;
    let (hello, proof) = forged(&cluster);
    for purpose in [Purpose::Stream, Purpose::Rejoin, Purpose::Inquiry] {
        let incarnation = if purpose == Purpose::Inquiry { Incarnation(0) } else { hello.incarnation };
        let shaken = shake(port, &Hello { purpose, incarnation, ..hello }, &proof, None);
        assert_eq!((shaken.refusal, shaken.known), (Some(RefusalCode::Secret), Incarnation(0)));
    }
    // Another secret: neither side talks, and both say why.
    cluster.stop(3, PATIENCE);
    set("a secret of another kind");
    cluster.start_node(3);
    for (id, other) in [(3, 1), (1, 3)] {
        let about = format!("node {other} at");
        eventually("it says what differs", PATIENCE, || {
            let text = cluster.errors(id);
            let mut lines = text.lines().filter(|line| line.contains(&about));
            lines
                .find(|line| line.contains("cluster secret is another one") && line.contains("secret_file"))
                .map(drop)
        });
    }
    cluster.stop(3, PATIENCE);
    set("a secret of one kind");
    cluster.start_node(3);
    cluster.assert_all_serve();
    for id in cluster.ids() {
        assert!(!cluster.errors(id).contains("of one kind"));
    }
}
