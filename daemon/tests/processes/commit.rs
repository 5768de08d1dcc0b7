//! What replies say of where a command was committed, end to end, on nodes with two cores: half of the commands are
//! answered by another core than the client's.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::session::{Answered, SessionClient};
use crate::common::{Cluster, Settings, eventually};
use panch_wire::client::{Commit, ReadLevel};
use panch_wire::command::CommandKind;

const KEYS: usize = 8;

fn cluster(protocol: &str) -> Cluster {
    Cluster::start(Settings {
        groups: 2,
        cores: 2,
        cluster: format!("protocol = \"{protocol}\"\n"),
        ..Settings::default()
    })
}

/// A client of each node, without a session, that asks.
fn clients(cluster: &Cluster) -> Vec<SessionClient> {
    let mut clients: Vec<_> = cluster.ids().map(|id| SessionClient::of_node(cluster, id, 0)).collect();
    clients.iter_mut().for_each(|client| client.ask_commit = true);
    clients
}

fn write(client: &mut SessionClient, key: &str) -> Commit {
    assert_eq!(client.call(CommandKind::Set, key, b"value"), Answered::Ok);
    client.commit.expect("a write says where it was committed")
}

fn read(client: &mut SessionClient, key: &str, level: ReadLevel) -> Option<Commit> {
    client.level = level;
    assert_eq!(client.call(CommandKind::Get, key, b""), Answered::Value(Some(b"value".to_vec())));
    client.commit
}

/// Slots are given once, in the order of what clients see, whichever node they ask.
fn a_log_tells_its_slots(protocol: &str) {
    let cluster = cluster(protocol);
    let mut clients = clients(&cluster);
    for key in (0..KEYS).map(|key| format!("key{key}")) {
        let mut last = 0;
        for _ in 0..3 {
            for client in &mut clients {
                let commit = write(client, &key);
                assert!(commit.position.number > last, "{commit:?} after {last}");
                assert_eq!((commit.position.row, commit.stamp), (0, commit.position.number));
                last = commit.stamp;
            }
        }
        for client in &mut clients {
            for level in [ReadLevel::Quorum, ReadLevel::Lease, ReadLevel::Log] {
                let seen = read(client, &key, level).expect("a read of a log says what it has seen");
                assert!(seen.stamp >= last, "a {level:?} read has seen {seen:?}, not {last}");
            }
        }
    }
}

#[test]
fn basic_tells_the_slot() {
    a_log_tells_its_slots("basic");
}

#[test]
fn multi_tells_the_slot() {
    a_log_tells_its_slots("multi");
}

#[test]
fn fast_tells_the_slot() {
    a_log_tells_its_slots("fast");
}

#[test]
fn epaxos_tells_the_instance_and_the_stamp_of_its_leader() {
    let cluster = cluster("epaxos");
    let mut clients = clients(&cluster);
    let mut instances = BTreeMap::new();
    for key in (0..KEYS).map(|key| format!("key{key}")) {
        for _ in 0..3 {
            for (index, client) in clients.iter_mut().enumerate() {
                let commit = write(client, &key);
                assert_eq!(usize::from(commit.position.row), index, "the node asked is the command leader");
                assert!(commit.stamp > 0);
                let before = instances.insert((key.clone(), commit.position), commit.stamp);
                assert_eq!(before, None, "an instance is decided once");
            }
        }
        let client = &mut clients[0];
        assert!(read(client, &key, ReadLevel::Log).expect("it was decided").stamp > 0);
        assert_eq!(read(client, &key, ReadLevel::Quorum), None, "no position says what a read has seen");
    }
}

#[test]
fn who_does_not_ask_is_not_told() {
    let cluster = cluster("multi");
    for id in cluster.ids() {
        let mut client = SessionClient::of_node(&cluster, id, 0);
        for key in (0..KEYS).map(|key| format!("key{key}")) {
            assert_eq!(client.call(CommandKind::Set, &key, b"value"), Answered::Ok);
            assert_eq!(client.commit, None);
            assert_eq!(read(&mut client, &key, ReadLevel::Stale), None);
        }
    }
}

/// Both histograms hold every command that a node took, whichever of its cores did.
#[test]
fn info_counts_every_command_by_its_commit_and_its_execution() {
    for protocol in ["basic", "multi", "fast", "epaxos"] {
        let cluster = cluster(protocol);
        for client in &mut clients(&cluster) {
            for key in (0..KEYS).map(|key| format!("key{key}")) {
                write(client, &key);
            }
        }
        for id in cluster.ids() {
            // What one core tells of another is a little old.
            eventually(&format!("node {id} of {protocol} counts"), Duration::from_secs(15), || {
                let info = cluster.info(id);
                let commands = info.number("commands_total");
                let counted = |name| {
                    let buckets = info.text(name).split(',').filter_map(|bucket| bucket.split_once('='));
                    buckets.map(|(_, count)| count.parse::<u64>().unwrap()).sum::<u64>()
                };
                let all = [counted("commit_us_histogram"), counted("execution_us_histogram")];
                (commands >= KEYS as u64 && all == [commands; 2] && info.number("commit_us_p50") > 0)
                    .then_some(())
            });
        }
    }
}
