//! A node whose data are not those of the others: it is found out, says so, and serves nothing until it has been replaced as it says.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::{Cluster, Settings, eventually};
use panch_replica::snapshot::{Restored, SnapshotReader};
use panch_replica::transfer::CHUNK_SIZE;
use panch_wire::command::{Command as KvCommand, CommandKind};
use panch_wire::ids::GroupId;
use redis::cmd;

const PATIENCE: Duration = Duration::from_secs(30);

/// `panchd status` for all nodes.
fn status(cluster: &Cluster) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_panchd"));
    command.args(["status", "--config"]).arg(cluster.config_path(1)).output().expect("the daemon can be run")
}

fn get(cluster: &Cluster, id: usize, is_stale: bool) -> redis::RedisResult<Option<String>> {
    let mut connection = cluster.connect(id);
    if is_stale {
        cmd("READONLY").query::<()>(&mut connection)?;
    }
    cmd("GET").arg("key0").query(&mut connection)
}

/// Writes a snapshot of the node that has another value of a key, and is sound otherwise: what a disk, a hand or a fault of the daemon may do.
fn change_state(cluster: &Cluster, id: usize) {
    let files = fs::read_dir(cluster.snapshot_dir(id, 0)).expect("a folder");
    let files = files.map(|entry| entry.expect("an entry").path());
    let path = files.filter(|path| path.extension().is_some_and(|it| it == "snapshot")).max();
    let path = path.expect("a snapshot");
    let mut reader = SnapshotReader::new(0);
    reader.feed(&fs::read(&path).expect("it is readable")).expect("it is sound");
    let Restored { covered, stamp, mut machine, .. } = reader.finish().expect("it is whole");
    // Nothing that the log holds behind the snapshot writes it again.
    let key = b"still".as_slice();
    // As long as before: the log knows how large the file is.
    let mut value = machine.kv().value(key).expect("it was written").to_vec();
    value[0] ^= 1;
    let value = &value[..];
    let command = KvCommand { kind: CommandKind::Set, flags: 0, session: None, key, value };
    machine.apply(stamp, &command, &mut Vec::new());
    machine.begin_snapshot(GroupId(0), &covered, stamp);
    let mut bytes = Vec::new();
    // In pieces as large as those of the daemon: the file keeps its size.
    while !machine.snapshot_chunk(&mut bytes, CHUNK_SIZE) {}
    fs::write(&path, bytes).expect("it can be written");
}

fn is_found_and_comes_back(protocol: &str) {
    let mut cluster = Cluster::start(Settings {
        cluster: format!("protocol = \"{protocol}\"\n"),
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"4MiB\"\n".into(),
        ..Settings::default()
    });
    let value = "x".repeat(4000);
    cmd("SET").arg("still").arg("value").query::<()>(&mut cluster.connect(1)).expect("the nodes decide");
    for round in 0..40 {
        let mut pipe = redis::pipe();
        for key in 0..100 {
            pipe.cmd("SET").arg(format!("key{key}")).arg(format!("{round}{value}")).ignore();
        }
        pipe.query::<()>(&mut cluster.connect(1)).expect("the nodes decide");
    }
    let wrong = 3;
    eventually("a snapshot", PATIENCE, || (cluster.info(wrong).number("snapshots_total") > 0).then_some(()));
    let before = status(&cluster);
    assert_eq!(before.status.code(), Some(0), "{before:?}");

    cluster.kill(wrong);
    change_state(&cluster, wrong);
    cluster.start_node(wrong);
    eventually("it stops serving", PATIENCE, || (cluster.info(wrong).text("diverged") == "1").then_some(()));
    let refuses = |cluster: &Cluster| {
        for is_stale in [false, true] {
            let error = get(cluster, wrong, is_stale).expect_err("its data are wrong").to_string();
            assert!(error.contains("differ from those of other nodes"), "{error}");
        }
        let set = cmd("SET").arg("key0").arg("1").query::<()>(&mut cluster.connect(wrong));
        assert!(set.expect_err("its data are wrong").to_string().contains("differ from"));
    };
    refuses(&cluster);
    for id in [1, 2] {
        cmd("SET").arg("key0").arg("1").query::<()>(&mut cluster.connect(id)).expect("a majority goes on");
        assert_eq!(get(&cluster, id, false).expect("a majority goes on").as_deref(), Some("1"));
        assert_eq!(cluster.info(id).text("diverged"), "0");
    }
    let found = status(&cluster);
    assert_eq!(found.status.code(), Some(65), "{found:?}");
    let text = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(text.contains("Node 3 does not serve group 0"), "{text}");
    eventually("it says what to do", PATIENCE, || {
        let text = cluster.errors(wrong);
        (text.contains("a majority agrees with the latter") && text.contains("--rejoin")).then_some(())
    });
    eventually("the others say what to do", PATIENCE, || {
        cluster.errors(1).contains("Empty the data directory of node 3").then_some(())
    });

    // Nobody has to remind it.
    cluster.kill(wrong);
    for id in [1, 2] {
        cluster.kill(id);
    }
    cluster.start_node(wrong);
    eventually("it need not wait for the others any more", PATIENCE, || {
        let error = get(&cluster, wrong, false).expect_err("it serves nothing").to_string();
        error.contains("differ from those of other nodes").then_some(())
    });
    refuses(&cluster);
    for id in [1, 2] {
        cluster.start_node(id);
    }

    // As it says.
    cluster.kill(wrong);
    cluster.lose_disk(wrong);
    cluster.start_to_rejoin(wrong);
    cluster.wait_member(wrong);
    cluster.assert_all_serve();
    cluster.assert_same_state();
    eventually("nothing differs any more", PATIENCE, || {
        (status(&cluster).status.code() == Some(0)).then_some(())
    });
    assert_eq!(get(&cluster, wrong, false).expect("it serves").as_deref(), Some("1"));
}

#[test]
fn a_node_of_multi_paxos_with_other_data_is_found_and_comes_back() {
    is_found_and_comes_back("multi");
}

#[test]
fn a_node_of_epaxos_with_other_data_is_found_and_comes_back() {
    is_found_and_comes_back("epaxos");
}
