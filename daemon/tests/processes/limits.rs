//! Limits that change between two starts, with real processes: what was acknowledged stays, and replicas stay equal.

use std::fs;
use std::time::Duration;

use crate::common::{Cluster, Settings, eventually};

const LONG: usize = 900_000;

fn cluster_lines(protocol: &str, value_size_max: &str) -> String {
    format!("protocol = \"{protocol}\"\nvalue_size_max = \"{value_size_max}\"\n")
}

/// All nodes stop and start again with another limit.
fn restart_with(cluster: &mut Cluster, protocol: &str, value_size_max: &str) {
    cluster.settings.cluster = cluster_lines(protocol, value_size_max);
    for id in cluster.ids() {
        cluster.stop(id, Duration::from_secs(20));
        fs::write(cluster.config_path(id), cluster.config_text(id)).expect("a configuration is written");
    }
    // Spawned before any is waited for: none serves alone.
    cluster.ids().for_each(|id| cluster.spawn(id));
    cluster.wait_writable();
}

fn lengths(cluster: &Cluster, key: &str) -> Vec<usize> {
    let length = |id| {
        eventually("the length is told", Duration::from_secs(20), || {
            redis::cmd("STRLEN").arg(key).query(&mut cluster.connect(id)).ok()
        })
    };
    cluster.ids().map(length).collect()
}

fn values_survive_a_lower_limit(protocol: &str) {
    let mut cluster = Cluster::start(Settings {
        cluster: cluster_lines(protocol, "1MiB"),
        // No snapshot is due: everything is replayed.
        node: "log_segment_size = \"16MiB\"\nsnapshot_log_size = \"16MiB\"\n".into(),
        ..Settings::default()
    });
    let set = |cluster: &Cluster, key: &str, size: usize| -> redis::RedisResult<String> {
        redis::cmd("SET").arg(key).arg(vec![b'x'; size]).query(&mut cluster.connect(1))
    };
    let append = |cluster: &Cluster, key: &str, size: usize| -> redis::RedisResult<usize> {
        redis::cmd("APPEND").arg(key).arg(vec![b'y'; size]).query(&mut cluster.connect(2))
    };
    set(&cluster, "big", LONG).expect("it is within the limit");
    for number in 0..6 {
        set(&cluster, &format!("other{number}"), LONG / 2).expect("so is this");
    }
    set(&cluster, "late", LONG).expect("and this");
    restart_with(&mut cluster, protocol, "512KiB");
    for key in ["big", "late"] {
        assert_eq!(lengths(&cluster, key), [LONG; 3], "{protocol}: {key} after the limit was lowered");
    }
    assert!(set(&cluster, "big", LONG).is_err(), "too long for a request now");
    assert_eq!(append(&cluster, "big", LONG / 2).expect("a value may grow beyond"), LONG + LONG / 2);
    cluster.assert_same_state();
    restart_with(&mut cluster, protocol, "2MiB");
    assert_eq!(lengths(&cluster, "big"), [LONG + LONG / 2; 3], "{protocol}: after the limit was raised");
    cluster.assert_same_state();
}

#[test]
fn multi() {
    values_survive_a_lower_limit("multi");
}

#[test]
fn epaxos() {
    values_survive_a_lower_limit("epaxos");
}
