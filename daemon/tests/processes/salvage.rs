//! The way back when a majority of the nodes has lost its disks or its last votes: what is left becomes a new cluster, by the commands that the
//! nodes print.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::{Cluster, Settings, eventually};
use redis::cmd;

const PATIENCE: Duration = Duration::from_secs(40);
const KEYS: usize = 300;

fn settings(protocol: &str, durability: &str) -> Settings {
    let settings = Settings::default();
    Settings {
        cluster: format!("protocol = \"{protocol}\"\n"),
        node: format!("{}durability = \"{durability}\"\n", settings.node),
        groups: 2,
        cores: 2,
        machines: true,
        ..settings
    }
}

/// Writes and counts: all of it is acknowledged.
fn write(cluster: &Cluster) {
    for key in 0..KEYS {
        let mut connection = cluster.connect(key % 3 + 1);
        cmd("SET")
            .arg(format!("key {key}"))
            .arg(format!("value {key}"))
            .query::<()>(&mut connection)
            .expect("a write");
        cmd("INCR").arg(format!("count {}", key % 7)).query::<i64>(&mut connection).expect("a count");
    }
}

fn check(cluster: &Cluster) {
    for id in cluster.ids() {
        let mut connection = cluster.connect(id);
        for key in 0..KEYS {
            let value: Option<String> =
                cmd("GET").arg(format!("key {key}")).query(&mut connection).expect("a read");
            assert_eq!(value, Some(format!("value {key}")), "key {key} through node {id}");
        }
        for count in 0..7 {
            let value: usize =
                cmd("GET").arg(format!("count {count}")).query(&mut connection).expect("a read");
            assert_eq!(
                value,
                (0..KEYS).filter(|key| key % 7 == count).count(),
                "count {count} through node {id}"
            );
        }
    }
}

/// Runs a command that a node has printed.
fn follow(command: &str) -> Output {
    let mut words = command.split_whitespace();
    assert_eq!(words.next(), Some("panchd"), "{command}");
    Command::new(env!("CARGO_BIN_EXE_panchd")).args(words).output().expect("panchd runs")
}

/// The command of this node that it says is the way back.
fn way_back(cluster: &Cluster, id: usize) -> String {
    eventually("it says what can be done", PATIENCE, || {
        let text = cluster.errors(id);
        let (_, rest) = text.split_once("The way back")?;
        let (_, rest) = rest.split_once('`')?;
        Some(rest.split_once('`')?.0.to_owned())
    })
}

/// Does what `panchd salvage` has printed, with the files of all nodes that have one.
fn begin_anew(cluster: &mut Cluster, printed: &[(usize, String)], ids: &[usize]) {
    let line = |text: &str, start: &str| {
        let found = text.lines().map(str::trim).find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in {text}")).to_owned()
    };
    let files: Vec<String> = printed
        .iter()
        .map(|(_, text)| line(text, "panchd run ").split_once(" --from ").expect("a file").1.to_owned())
        .collect();
    for id in ids {
        if let Some((_, text)) = printed.iter().find(|(other, _)| other == id) {
            let words = line(text, "mv ");
            let [_, from, to] = words.split(' ').collect::<Vec<_>>()[..] else { panic!("{words}") };
            fs::rename(from, to).expect("the directory is moved away");
        }
        cluster.spawn_from(*id, &files);
    }
}

fn old_dir(cluster: &Cluster, id: usize) -> PathBuf {
    let mut path = cluster.data_dir(id).into_os_string();
    path.push(".old");
    path.into()
}

/// A directory of the cluster before is refused by the new one, and the other way around.
fn refuses_old_directory(cluster: &mut Cluster, id: usize) {
    cluster.kill(id);
    let (now, kept) = (cluster.data_dir(id), cluster.folder().join("kept"));
    fs::rename(&now, &kept).expect("moved");
    fs::rename(old_dir(cluster, id), &now).expect("moved");
    cluster.spawn(id);
    let other = if id == 1 { 2 } else { 1 };
    let text = "was founded anew from a state that was salvaged";
    eventually("the old directory is refused, and refuses", PATIENCE, || {
        (cluster.errors(id).contains(text) && cluster.errors(other).contains(text)).then_some(())
    });
    cluster.kill(id);
    fs::rename(&now, old_dir(cluster, id)).expect("moved");
    fs::rename(&kept, &now).expect("moved");
    cluster.start_node(id);
    cluster.assert_all_serve();
}

fn salvage(cluster: &Cluster, id: usize) -> String {
    let (config, out) = (cluster.config_path(id), cluster.folder().join(format!("node-{id}.salvage")));
    format!("panchd salvage --config {} --out {}", config.display(), out.display())
}

fn printed(command: &str) -> String {
    let output = follow(command);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command}: {errors}");
    text.into_owned()
}

fn all_lose_power(protocol: &str) {
    let mut cluster = Cluster::start(settings(protocol, "periodic"));
    write(&cluster);
    for id in cluster.ids() {
        cluster.kill(id);
    }
    for id in cluster.ids() {
        cluster.reboot(id);
        cluster.spawn(id);
    }
    let commands: Vec<String> = cluster.ids().map(|id| way_back(&cluster, id)).collect();
    let running = follow(&commands[0]);
    let text = String::from_utf8_lossy(&running.stderr);
    assert!(running.status.code() == Some(74) && text.contains("in use by another panchd"), "{text}");
    for id in cluster.ids() {
        cluster.stop(id, PATIENCE);
    }
    let texts: Vec<(usize, String)> =
        (1..).zip(&commands).map(|(id, command)| (id, printed(command))).collect();
    for (_, text) in &texts {
        println!("{text}");
    }
    let again = follow(&commands[0]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
    begin_anew(&mut cluster, &texts, &[1, 2, 3]);
    cluster.wait_serving(&[1, 2, 3]);
    cluster.wait_writable();
    check(&cluster);
    cluster.assert_same_state();
    refuses_old_directory(&mut cluster, 3);
    // The new cluster is one like any other: nodes are killed, and lose their disks.
    cluster.kill(2);
    cluster.start_node(2);
    cluster.assert_all_serve();
    cluster.kill(1);
    cluster.lose_disk(1);
    cluster.start_to_rejoin(1);
    cluster.wait_member(1);
    cluster.assert_all_serve();
    check(&cluster);
    cluster.assert_same_state();
}

#[test]
fn multi_paxos_comes_back_after_all_nodes_have_lost_their_power() {
    all_lose_power("multi");
}

#[test]
fn basic_paxos_comes_back_after_all_nodes_have_lost_their_power() {
    all_lose_power("basic");
}

#[test]
fn fast_paxos_comes_back_after_all_nodes_have_lost_their_power() {
    all_lose_power("fast");
}

#[test]
fn epaxos_comes_back_after_all_nodes_have_lost_their_power() {
    all_lose_power("epaxos");
}

/// The one that is left has every write that it has executed: here all, since nothing was under way.
#[test]
fn what_one_of_three_disks_holds_becomes_a_new_cluster() {
    // One whose slots are in order, and one whose instances are not: the others begin as the first does.
    for protocol in ["multi", "epaxos"] {
        let mut cluster = Cluster::start(settings(protocol, "sync"));
        write(&cluster);
        cluster.assert_same_state();
        for id in [2, 3] {
            cluster.kill(id);
            cluster.lose_disk(id);
            cluster.spawn_to_rejoin(id);
        }
        // They have nothing; what they print is done where a directory is left.
        assert!(way_back(&cluster, 2).starts_with("panchd salvage --config "));
        for id in [2, 3] {
            cluster.kill(id);
            let output = follow(&salvage(&cluster, id));
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(78) && text.contains("holds no data"), "{text}");
            cluster.lose_disk(id);
        }
        cluster.stop(1, PATIENCE);
        let texts = [(1, printed(&salvage(&cluster, 1)))];
        if protocol == "multi" {
            // One cannot be started, and has lost its disk when it can. The state knows its batches, and no member has met it.
            begin_anew(&mut cluster, &texts, &[1]);
            cluster.spawn_to_found_from(2, &cluster.folder().join("node-1.salvage").display().to_string());
            cluster.wait_serving(&[1, 2]);
            cluster.start_to_rejoin(3);
            cluster.wait_member(3);
        } else {
            begin_anew(&mut cluster, &texts, &[1, 2, 3]);
            cluster.wait_serving(&[1, 2, 3]);
        }
        cluster.wait_writable();
        let founding = |id| {
            let text = cluster.small_file(id, "identity");
            text.lines().find(|line| line.starts_with("founding ")).expect("a line").to_owned()
        };
        assert_eq!(founding(3), founding(1), "who asks it next is told the same");
        check(&cluster);
        cluster.assert_same_state();
        refuses_old_directory(&mut cluster, 1);
        cluster.assert_same_state();
    }
}

fn errors_of(cluster: &mut Cluster, id: usize, from: &[&Path]) -> String {
    let files: Vec<String> = from.iter().map(|path| path.display().to_string()).collect();
    cluster.spawn_from(id, &files);
    assert_eq!(cluster.wait_exit(id, PATIENCE).code(), Some(78), "{}", cluster.errors(id));
    cluster.errors(id)
}

#[test]
fn nothing_else_begins_with_salvaged_state() {
    let mut cluster = Cluster::start(settings("multi", "sync"));
    write(&cluster);
    for id in cluster.ids() {
        cluster.stop(id, PATIENCE);
    }
    printed(&salvage(&cluster, 1));
    let file = cluster.folder().join("node-1.salvage");
    // A directory with data.
    let text = errors_of(&mut cluster, 1, &[&file]);
    assert!(text.contains("is not empty: --from is for the first start"), "{text}");
    for id in cluster.ids() {
        cluster.lose_disk(id);
    }
    // A file that is not there, and what is none.
    let nowhere = cluster.folder().join("node-one.salvage");
    let text = errors_of(&mut cluster, 1, &[&nowhere]);
    assert!(text.contains("node-one.salvage, named by --from: No such file"), "{text}");
    let folder = cluster.folder().to_path_buf();
    let text = errors_of(&mut cluster, 1, &[&folder]);
    assert!(text.contains("named by --from: is a directory"), "{text}");
    // A damaged file: of what it says, and of a state.
    let bytes = fs::read(&file).expect("the file");
    let damaged = cluster.folder().join("damaged");
    for (at, part) in [(bytes.len() - 30, "or it is damaged"), (100, "is damaged")] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        fs::write(&damaged, bytes).expect("written");
        let text = errors_of(&mut cluster, 1, &[&damaged]);
        assert!(text.contains(part), "{text}");
    }
    // Another configuration.
    let config = fs::read_to_string(cluster.config_path(1)).expect("the configuration");
    for (from, to, part) in [
        ("groups = 2", "groups = 3", "cluster with 2 groups"),
        ("name = \"test\"", "name = \"other\"", "of another cluster"),
        ("protocol = \"multi\"", "protocol = \"fast\"", "group 0 is of protocol \"multi\""),
    ] {
        fs::write(cluster.config_path(1), config.replace(from, to)).expect("written");
        let _ = fs::remove_dir_all(cluster.data_dir(1));
        let text = errors_of(&mut cluster, 1, &[&file]);
        assert!(text.contains(part), "{text}");
    }
    fs::write(cluster.config_path(1), &config).expect("written");
    let _ = fs::remove_dir_all(cluster.data_dir(1));
    // One begins with it, and the others with nothing: they wait, whatever they are told.
    cluster.spawn_from(1, &[file.display().to_string()]);
    cluster.spawn(2);
    cluster.spawn(3);
    let refused = "was founded anew from a state that was salvaged";
    for id in cluster.ids() {
        eventually("it says why it waits", PATIENCE, || cluster.errors(id).contains(refused).then_some(()));
    }
    // A start that was stopped goes on without being told again.
    cluster.kill(1);
    cluster.spawn(1);
    eventually("it still waits", PATIENCE, || cluster.errors(1).contains(refused).then_some(()));
    // Its state is gone before its log has begun: it does not begin with nothing.
    cluster.kill(1);
    for core in 0..2 {
        fs::remove_dir_all(cluster.snapshot_dir(1, core)).expect("removed");
    }
    cluster.spawn(1);
    for id in [2, 3] {
        cluster.kill(id);
        cluster.spawn_from(id, &[file.display().to_string()]);
    }
    assert_eq!(cluster.wait_exit(1, PATIENCE).code(), Some(78));
    let text = cluster.errors(1);
    assert!(text.contains("began with salvaged state, and that of group 0 is not here"), "{text}");
    for id in [2, 3] {
        cluster.kill(id);
    }
    for id in cluster.ids() {
        cluster.lose_disk(id);
        cluster.spawn_from(id, &[file.display().to_string()]);
    }
    cluster.wait_serving(&[1, 2, 3]);
    cluster.wait_writable();
    check(&cluster);
    cluster.assert_same_state();
    // It has begun: once is enough.
    cluster.kill(3);
    let text = errors_of(&mut cluster, 3, &[&file]);
    assert!(text.contains("is not empty: --from is for the first start"), "{text}");
    // A log that is gone with all that says that it was there is missed in a cluster that began with a state, too.
    let data = cluster.data_dir(3);
    fs::remove_dir_all(data.join("core-0/log")).expect("removed");
    fs::remove_file(data.join("core-0.begun")).expect("removed");
    cluster.spawn(3);
    assert_eq!(cluster.wait_exit(3, PATIENCE).code(), Some(78));
    let text = cluster.errors(3);
    assert!(text.contains("the log of core 0 is gone") && text.contains("--rejoin"), "{text}");
    cluster.lose_disk(3);
    cluster.start_to_rejoin(3);
    cluster.wait_member(3);
    check(&cluster);
}

fn refused(cluster: &mut Cluster, id: usize, parts: &[&str]) {
    let status = cluster.wait_exit(id, PATIENCE);
    let text = cluster.errors(id);
    assert_eq!(status.code(), Some(78), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

fn waits(cluster: &Cluster, id: usize, part: &str) {
    eventually("it waits", PATIENCE, || cluster.errors(id).contains(part).then_some(()));
}

/// A node whose first start has not come to its end is told something else.
#[test]
fn a_directory_that_waits_for_one_thing_is_not_used_for_another() {
    let mut cluster = Cluster::start(settings("multi", "sync"));
    write(&cluster);
    for id in cluster.ids() {
        cluster.stop(id, PATIENCE);
    }
    printed(&salvage(&cluster, 1));
    let file = cluster.folder().join("node-1.salvage").display().to_string();
    for id in cluster.ids() {
        cluster.lose_disk(id);
    }
    let again = salvage(&cluster, 1).replace(".salvage", ".again");
    let salvages = |code, parts: &[&str]| {
        let output = follow(&again);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        parts.iter().for_each(|part| assert!(text.contains(part), "no {part:?} in {text}"));
    };
    // It waits to begin with a state.
    cluster.spawn_from(1, std::slice::from_ref(&file));
    waits(&cluster, 1, "node 1 has an empty data directory");
    salvages(74, &["in use by another panchd"]);
    cluster.kill(1);
    cluster.spawn_to_rejoin(1);
    refused(&mut cluster, 1, &["waits to begin a new cluster with salvaged state", "without --rejoin"]);
    cluster.spawn_to_found(1);
    waits(&cluster, 1, "is to found the cluster");
    cluster.kill(1);
    // The power failed while it was being filled, before anything was in it but what it is for.
    let identity = cluster.data_dir(1).join("identity");
    let text = cluster.small_file(1, "identity");
    let (body, _) = text.split_once("founding ").expect("a line");
    assert!(body.contains("state member\n"), "{body}");
    let body = body.replace("state member\n", "state installing\n");
    let body = format!("{body}founding {:#018x} above 0\nreturned 0\n", 0);
    let sum = panch_wire::checksum::checksum(body.as_bytes());
    fs::write(&identity, format!("{body}checksum {sum:#018x}\n")).expect("written");
    for core in 0..2 {
        fs::remove_dir_all(cluster.data_dir(1).join(format!("core-{core}"))).expect("removed");
        fs::remove_file(cluster.data_dir(1).join(format!("core-{core}.unbegun"))).expect("removed");
    }
    for spawn in [Cluster::spawn, Cluster::spawn_to_rejoin, Cluster::spawn_to_found] {
        spawn(&mut cluster, 1);
        refused(&mut cluster, 1, &["was interrupted", "again with --from and the same files"]);
    }
    salvages(78, &["holds no data"]);
    cluster.spawn_from(1, std::slice::from_ref(&file));
    waits(&cluster, 1, "node 1 has an empty data directory");
    cluster.kill(1);
    // It waits to come back.
    cluster.lose_disk(1);
    cluster.spawn_to_rejoin(1);
    waits(&cluster, 1, "has lost its disk and waits");
    cluster.kill(1);
    cluster.spawn_from(1, std::slice::from_ref(&file));
    refused(&mut cluster, 1, &["on its way back", "start the node without --from"]);
    cluster.spawn_to_found(1);
    refused(&mut cluster, 1, &["on its way back", "start the node without --found"]);
    salvages(78, &["holds no data"]);
    cluster.spawn(1);
    waits(&cluster, 1, "has lost its disk and waits");
    cluster.kill(1);
    // It waits as a new one: it may still be told what for.
    cluster.lose_disk(1);
    cluster.spawn(1);
    waits(&cluster, 1, "node 1 has an empty data directory");
    cluster.kill(1);
    for id in cluster.ids() {
        cluster.spawn_from(id, std::slice::from_ref(&file));
    }
    cluster.wait_serving(&[1, 2, 3]);
    cluster.wait_writable();
    check(&cluster);
}

/// The same files found a cluster of the same name. Two attempts are told apart all the same, as where nothing was salvaged; files that were
/// written anew found another cluster.
#[test]
fn a_second_beginning_with_the_same_files_does_not_mix_with_the_first() {
    let mut cluster = Cluster::start(settings("multi", "sync"));
    write(&cluster);
    for id in cluster.ids() {
        cluster.stop(id, PATIENCE);
    }
    printed(&salvage(&cluster, 1));
    let anew = salvage(&cluster, 1).replace(".salvage", ".anew");
    printed(&anew);
    let file = cluster.folder().join("node-1.salvage").display().to_string();
    let other = cluster.folder().join("node-1.anew").display().to_string();
    for id in cluster.ids() {
        cluster.lose_disk(id);
        cluster.spawn_from(id, std::slice::from_ref(&file));
    }
    cluster.wait_serving(&[1, 2, 3]);
    cluster.wait_writable();
    let set = |cluster: &Cluster, value: &str| {
        cmd("SET").arg("attempt").arg(value).query::<()>(&mut cluster.connect(1)).expect("a write");
    };
    let get = |cluster: &Cluster, id| {
        cmd("GET").arg("attempt").query::<Option<String>>(&mut cluster.connect(id)).expect("a read")
    };
    set(&cluster, "first");
    for id in cluster.ids() {
        cluster.stop(id, PATIENCE);
    }
    // Those that are new know who is not.
    for id in [1, 2] {
        cluster.lose_disk(id);
    }
    cluster.spawn(3);
    cluster.spawn_from(1, std::slice::from_ref(&file));
    refused(&mut cluster, 1, &["may be forgotten", "with --rejoin"]);
    cluster.stop(3, PATIENCE);
    // It is away, and comes back.
    cluster.lose_disk(1);
    cluster.spawn_from(1, std::slice::from_ref(&file));
    cluster.spawn_to_found_from(2, &file);
    cluster.wait_serving(&[1, 2]);
    cluster.wait_writable();
    set(&cluster, "second");
    cluster.spawn(3);
    for id in [1, 2, 3] {
        waits(&cluster, id, "was founded (with --found) without one of the two nodes");
    }
    assert_eq!([1, 2].map(|id| get(&cluster, id)), [Some("second".to_owned()), Some("second".to_owned())]);
    cluster.kill(3);
    cluster.lose_disk(3);
    // With files of another name it is not of this cluster at all.
    cluster.spawn_from(3, std::slice::from_ref(&other));
    waits(&cluster, 3, "was founded anew from a state that was salvaged");
    cluster.kill(3);
    cluster.lose_disk(3);
    cluster.spawn_from(3, std::slice::from_ref(&file));
    cluster.wait_serving(&[3]);
    assert_eq!(get(&cluster, 3).as_deref(), Some("second"));
}
