//! Starts that must not succeed, and those that must although something is wrong: the exit code tells a supervisor
//! whether to try again (74) or not (78), the text tells a person what to do.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::cluster::launch;
use crate::common::{Cluster, Dice, Load, LoadOptions, Settings, eventually};
use redis::cmd;

/// The environment failed.
const IO: i32 = 74;
/// Starting again will not help.
const CONFIG: i32 = 78;
const PAGE: usize = 4096;

fn single() -> Settings {
    Settings { nodes: 1, ..Settings::default() }
}

/// Starts node `id`, which must refuse with `code` and say all of `texts`.
fn assert_refused(cluster: &mut Cluster, id: usize, code: i32, texts: &[&str]) {
    let (status, errors) = cluster.start_in_vain(id);
    assert_eq!(status.code(), Some(code), "{status}:\n{errors}");
    for text in texts {
        assert!(errors.contains(text), "it does not say {text:?}:\n{errors}");
    }
}

fn change_config(cluster: &Cluster, id: usize, from: &str, to: &str) {
    let path = cluster.config_path(id);
    let text = fs::read_to_string(&path).expect("the configuration");
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).expect("written");
}

fn set(cluster: &Cluster, key: &str, value: &[u8]) {
    cmd("SET").arg(key).arg(value).query::<()>(&mut cluster.connect(1)).expect("SET");
}

fn get(cluster: &Cluster, key: &str) -> Option<Vec<u8>> {
    cmd("GET").arg(key).query(&mut cluster.connect(1)).expect("GET")
}

#[test]
fn a_wrong_configuration_is_shown_with_its_place() {
    let mut cluster = Cluster::prepare(single());
    change_config(&cluster, 1, "cores = 1", "cores = 0");
    let path = cluster.config_path(1);
    let text = fs::read_to_string(&path).expect("the configuration");
    let line = text.lines().position(|line| line.starts_with("cores")).expect("the line") + 1;
    let place = format!("node-1.toml:{line}:9");
    assert_refused(&mut cluster, 1, CONFIG, &[&place, "cores = 0", "        ^", "`node.cores`", "1 error"]);
    change_config(&cluster, 1, "cores = 0", "cores = 1");
    fs::write(&path, "[cluster\nname = 5").expect("written");
    assert_refused(&mut cluster, 1, CONFIG, &["node-1.toml:1:", "^"]);
    fs::remove_file(&path).expect("removed");
    assert_refused(&mut cluster, 1, CONFIG, &["cannot read the config file", "node-1.toml"]);
}

#[test]
fn the_data_of_another_node_or_cluster_is_refused_and_left_alone() {
    let mut cluster = Cluster::start(single());
    set(&cluster, "key", b"value");
    cluster.stop(1, Duration::from_secs(5));
    change_config(&cluster, 1, "name = \"test\"", "name = \"other\"");
    assert_refused(&mut cluster, 1, CONFIG, &["belongs to cluster", "`data_dir`"]);
    change_config(&cluster, 1, "name = \"other\"", "name = \"test\"");
    change_config(&cluster, 1, "cores = 1", "cores = 2");
    assert_refused(&mut cluster, 1, CONFIG, &["was made with cores = 1", "restore cores = 1"]);
    change_config(&cluster, 1, "cores = 2", "cores = 1");
    change_config(&cluster, 1, "groups = 1", "groups = 2");
    assert_refused(&mut cluster, 1, CONFIG, &["was made with groups = 1", "restore groups = 1"]);
    change_config(&cluster, 1, "groups = 2", "groups = 1");
    change_config(&cluster, 1, "groups = 1", "groups = 1\nprotocol = \"epaxos\"");
    let texts =
        ["made with protocol = \"multi\" for group 0,", "says \"epaxos\"", "restore protocol = \"multi\""];
    assert_refused(&mut cluster, 1, CONFIG, &texts);
    let prefix = "placement = [{ groups = 0, prefix = \"user:\", other_keys = true }]";
    change_config(&cluster, 1, "protocol = \"epaxos\"", prefix);
    assert_refused(
        &mut cluster,
        1,
        CONFIG,
        &["they were \"* 0\"", "says \"* 0; \"user:\" 0\"", "restore `prefix`"],
    );
    change_config(&cluster, 1, prefix, "");
    cluster.start_node(1);
    assert_eq!(get(&cluster, "key").as_deref(), Some(&b"value"[..]), "a refused start changes nothing");
    cluster.stop(1, Duration::from_secs(5));

    // Node 2 on the folder of node 1.
    let mut three = Cluster::start(Settings::default());
    three.stop(1, Duration::from_secs(5));
    three.stop(2, Duration::from_secs(5));
    change_config(&three, 2, "data_dir = \"node-2\"", "data_dir = \"node-1\"");
    assert_refused(&mut three, 2, CONFIG, &["belongs to node 0x1", "says 0x2"]);
}

#[test]
fn two_processes_cannot_share_a_data_directory() {
    let mut first = Cluster::start(single());
    set(&first, "key", b"value");
    let mut second = Cluster::prepare(single());
    let path = first.data_dir(1);
    let shared = format!("data_dir = \"{}\"", path.display());
    change_config(&second, 1, "data_dir = \"node-1\"", &shared);
    let shown = path.display().to_string();
    // The other one may be about to end.
    assert_refused(&mut second, 1, IO, &[&shown, "is in use by another panchd"]);
    assert_eq!(get(&first, "key").as_deref(), Some(&b"value"[..]));
    // The lock ends with its holder, however it ended.
    first.kill(1);
    second.start_node(1);
    assert_eq!(get(&second, "key").as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_port_in_use_is_named() {
    let mut cluster = Cluster::prepare(single());
    let ports = cluster.ports(1);
    for (port, what) in
        [(ports.resp, "Redis clients"), (ports.native, "native clients"), (ports.peer, "nodes")]
    {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
        let text = format!("cannot listen for {what} on 127.0.0.1:{port}");
        assert_refused(&mut cluster, 1, IO, &[&text, "in use"]);
        drop(taken);
    }
    cluster.start_node(1);
}

#[test]
fn the_ports_of_a_node_with_several_cores_are_its_own() {
    let settings = Settings { cores: 2, groups: 2, ..single() };
    let first = Cluster::start(settings.clone());
    let mut second = Cluster::prepare(settings);
    let (taken, own) = (first.ports(1), second.ports(1));
    for (from, to) in [(own.resp, taken.resp), (own.native, taken.native), (own.peer, taken.peer)] {
        change_config(&second, 1, &format!(":{from}"), &format!(":{to}"));
    }
    // The cores of a node share its ports; if another process could, clients would end up on either at random.
    second.spawn(1);
    let end = eventually("the second node ends or serves", Duration::from_secs(10), || {
        second.poll_exit(1).map(Some).or_else(|| {
            let listening = fs::read_dir(format!("/proc/{}/task", second.pid(1))).is_ok_and(|tasks| {
                tasks.flatten().any(|task| {
                    fs::read_to_string(task.path().join("comm"))
                        .is_ok_and(|name| name.trim() == "panch-core-1")
                })
            });
            listening.then_some(None)
        })
    });
    let Some(status) = end else { panic!("a second node listens on the ports of the first") };
    assert_eq!(status.code(), Some(IO), "{status}:\n{}", second.errors(1));
    assert!(second.errors(1).contains("in use"), "{}", second.errors(1));
}

/// The segments of node 1's log, oldest first.
fn segments(cluster: &Cluster) -> Vec<PathBuf> {
    let entries = fs::read_dir(cluster.log_dir(1, 0)).expect("the log");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    paths.sort();
    paths
}

/// Byte offsets of the commit groups in a segment, with their sizes.
fn commit_groups(path: &Path) -> Vec<(usize, usize)> {
    let bytes = fs::read(path).expect("a segment");
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let mut groups = Vec::new();
    let mut at = 0;
    while at + PAGE <= bytes.len() && &bytes[at + 8..at + 12] == b"PWAL" {
        let size = number(at + 20) * PAGE;
        groups.push((at, size));
        at += size;
    }
    groups
}

/// Changes one byte of a file, and gives the old one back.
fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("the file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("the byte");
    file.write_all_at(&[byte[0] ^ 0x40], at).expect("written");
}

#[test]
fn a_log_that_is_damaged_where_it_was_acknowledged_is_refused_and_accepted_again_once_restored() {
    let mut cluster = Cluster::start(single());
    for number in 0..60 {
        set(&cluster, &format!("key-{number}"), &[b'x'; 3000]);
    }
    cluster.kill(1);
    let segment = segments(&cluster).remove(0);
    let groups = commit_groups(&segment);
    assert!(groups.len() >= 60, "every write was acknowledged alone: {} commit groups", groups.len());
    let (start, size) = groups[groups.len() / 2];
    assert_eq!(size, PAGE, "records and a packed body");
    let name = segment.file_name().and_then(|name| name.to_str()).expect("a name").to_string();
    let place = format!("at or behind offset {start}");
    // In the header, in the records, in the body, and in the checksum.
    for offset in [20, 100, 1000, 3] {
        flip(&segment, (start + offset) as u64);
        let texts = [&name, "is damaged", &place, "Restore the data directory", "--rejoin"];
        assert_refused(&mut cluster, 1, CONFIG, &texts);
        flip(&segment, (start + offset) as u64);
    }
    cluster.start_node(1);
    for number in 0..60 {
        assert!(get(&cluster, &format!("key-{number}")).is_some(), "key-{number} is lost");
    }
}

fn write_mebibytes(cluster: &Cluster, count: usize) {
    let mut connection = cluster.connect(1);
    let value = vec![b'x'; 64 << 10];
    for number in 0..16 * count {
        cmd("SET")
            .arg(format!("large-{}", number % 32))
            .arg(&value)
            .query::<()>(&mut connection)
            .expect("SET");
    }
}

#[test]
fn a_log_with_a_missing_segment_is_refused_and_accepted_again_once_restored() {
    let mut cluster = Cluster::start(Settings {
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"1GiB\"\n".into(),
        ..single()
    });
    write_mebibytes(&cluster, 14);
    cluster.kill(1);
    let all = segments(&cluster);
    assert!(all.len() >= 4, "{all:?}");
    let used: Vec<&PathBuf> = all.iter().filter(|path| !commit_groups(path).is_empty()).collect();
    assert!(used.len() >= 3, "{used:?}");
    for missing in [used[0], used[1]] {
        let beside = missing.with_extension("away");
        fs::rename(missing, &beside).expect("renamed");
        let name = missing.file_name().and_then(|name| name.to_str()).expect("a name");
        assert_refused(
            &mut cluster,
            1,
            CONFIG,
            &[name, "is missing", "Restore the data directory", "--rejoin"],
        );
        fs::rename(&beside, missing).expect("renamed");
    }
    cluster.start_node(1);
    assert!(get(&cluster, "large-0").is_some());
}

/// With the directory of a core goes the mark beside it. What is noted of earlier starts says that there was a log: there is nobody
/// else who could.
#[test]
fn a_core_that_is_gone_with_its_mark_is_missed() {
    let mut cluster = Cluster::start(single());
    set(&cluster, "kept", b"by the only node");
    cluster.kill(1);
    // Of the first start nothing is noted but that there was no log.
    cluster.start_node(1);
    cluster.kill(1);
    let data = cluster.data_dir(1);
    let away = data.with_extension("away");
    fs::create_dir(&away).expect("made");
    for name in ["core-0", "core-0.begun"] {
        fs::rename(data.join(name), away.join(name)).expect("renamed");
    }
    for _ in 0..2 {
        assert_refused(
            &mut cluster,
            1,
            CONFIG,
            &["the log of core 0 is gone", "restore the directory", "--rejoin"],
        );
    }
    fs::remove_dir_all(data.join("core-0")).expect("removed");
    for name in ["core-0", "core-0.begun"] {
        fs::rename(away.join(name), data.join(name)).expect("renamed");
    }
    cluster.start_node(1);
    assert_eq!(get(&cluster, "kept").as_deref(), Some(&b"by the only node"[..]));
}

#[test]
fn a_node_without_the_snapshot_that_its_log_builds_on_is_refused() {
    let mut cluster = Cluster::start(Settings {
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"4MiB\"\n".into(),
        ..single()
    });
    set(&cluster, "early", b"in the snapshot only");
    let snapshots = |cluster: &Cluster| -> Vec<PathBuf> {
        let entries = fs::read_dir(cluster.snapshot_dir(1, 0)).expect("the snapshots");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "snapshot")).collect()
    };
    eventually("the start of the log is dropped", Duration::from_secs(60), || {
        write_mebibytes(&cluster, 2);
        let oldest = segments(&cluster).remove(0);
        (!oldest.ends_with("0000000000000001.wal") && !snapshots(&cluster).is_empty()).then_some(())
    });
    cluster.kill(1);
    let found = snapshots(&cluster);
    let lost: Vec<(PathBuf, PathBuf)> =
        found.iter().map(|path| (path.clone(), path.with_extension("away"))).collect();
    for (path, beside) in &lost {
        fs::rename(path, beside).expect("renamed");
    }
    let texts = ["the log continues the snapshot of slot", "there is none", "--rejoin"];
    assert_refused(&mut cluster, 1, CONFIG, &texts);
    // A damaged one is as good as none, and stays as it is.
    for (path, beside) in &lost {
        fs::copy(beside, path).expect("copied");
        flip(path, fs::metadata(path).expect("its size").len() / 2);
    }
    let texts = ["The log continues this snapshot", "restore the data directory", "--rejoin"];
    assert_refused(&mut cluster, 1, CONFIG, &texts);
    for (path, beside) in &lost {
        assert!(path.exists(), "what is damaged is left for inspection");
        fs::rename(beside, path).expect("renamed");
    }
    cluster.start_node(1);
    assert_eq!(get(&cluster, "early").as_deref(), Some(&b"in the snapshot only"[..]));
}

#[test]
fn a_torn_tail_is_cut_and_everything_acknowledged_is_there() {
    let mut cluster = Cluster::start(single());
    let mut dice = Dice::new(5);
    for round in 0..5 {
        for number in 0..20 {
            set(&cluster, &format!("key-{round}-{number}"), &[b'x'; 5000]);
        }
        cluster.kill(1);
        let segment = segments(&cluster).remove(0);
        let groups = commit_groups(&segment);
        let (last, size) = *groups.last().expect("there are commit groups");
        let end = last + size;
        let bytes = fs::read(&segment).expect("the segment");
        assert!(bytes[end..end + PAGE].iter().all(|byte| *byte == 0), "nothing was written behind the end");
        let tail = match round {
            // Pages of which nothing is known.
            0 => dice.bytes(3 * PAGE),
            // The first sectors of a commit group that was never finished.
            1 => bytes[last..last + 512].to_vec(),
            // A whole earlier one in the wrong place.
            2 => bytes[groups[3].0..groups[3].0 + groups[3].1].to_vec(),
            // The header of one whose body never came.
            3 => bytes[last..last + PAGE].to_vec(),
            // Something further behind, as if an earlier write were missing.
            _ => [vec![0; 2 * PAGE], dice.bytes(PAGE)].concat(),
        };
        let file = File::options().write(true).open(&segment).expect("the segment");
        file.write_all_at(&tail, end as u64).expect("written");
        drop(file);
        cluster.start_node(1);
        for earlier in 0..=round {
            for number in 0..20 {
                let key = format!("key-{earlier}-{number}");
                assert_eq!(get(&cluster, &key).map(|value| value.len()), Some(5000), "{key}, round {round}");
            }
        }
    }
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_its_own_code() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = folder.path().join("stderr");
    for arguments in [&["nonsense"][..], &["run"], &["run", "--config"], &["dev", "--replicas", "0"]] {
        let mut child = launch(arguments, File::create(&path).expect("a file"));
        let status = child.wait().expect("it ends");
        let text = fs::read_to_string(&path).expect("its errors");
        assert_eq!(status.code(), Some(64), "{arguments:?}: {text}");
        assert!(text.contains("Usage") || text.contains("--help"), "{text}");
    }
}

/// A path that is mistyped is named, and nothing is tried again for it.
#[test]
fn a_path_that_leads_nowhere_is_named() {
    let mut cluster = Cluster::start(single());
    cluster.stop(1, Duration::from_secs(20));
    let folder = cluster.folder().to_path_buf();
    let config = cluster.config_path(1).display().to_string();
    let (nowhere, inside) = (folder.join("nowhere"), folder.join("nowhere/file"));
    let (nowhere, inside) = (nowhere.display().to_string(), inside.display().to_string());
    let below_a_file = format!("{config}/below");
    let commands: [&[&str]; 11] = [
        &["run", "--config", &nowhere],
        &["run", "--config", &config, "--from", &nowhere],
        &["run", "--config", &config, "--from", &below_a_file],
        &["run", "--config", &config, "--set", "node.secret_file=\"nowhere\""],
        &["run", "--config", &config, "--set", &format!("node.data_dir=\"{below_a_file}\"")],
        &["check", "--config", &nowhere],
        &["status", "--config", &nowhere],
        &["salvage", "--config", &nowhere, "--out", &inside],
        &["salvage", "--config", &config, "--out", &inside],
        &["salvage", "--config", &config, "--out", &below_a_file],
        &["dev", "--dir", &below_a_file],
    ];
    let path = folder.join("stderr");
    for arguments in commands {
        let mut child = launch(arguments, File::create(&path).expect("a file"));
        let status = child.wait().expect("it ends");
        let text = fs::read_to_string(&path).expect("its errors");
        assert_eq!(status.code(), Some(CONFIG), "{arguments:?}: {text}");
        let named = ["nowhere", "below"].iter().any(|part| text.contains(part));
        assert!(named, "{arguments:?}: {text}");
    }
}

/// A small file system of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` if this process may not mount one.
    fn mount(path: &Path, mebibytes: usize) -> Option<Self> {
        fs::create_dir_all(path).expect("a folder to mount on");
        let target = std::ffi::CString::new(path.to_str().expect("ASCII")).expect("no zero byte");
        let options = std::ffi::CString::new(format!("size={mebibytes}m")).expect("no zero byte");
        // SAFETY: all pointers are to C strings that outlive the call.
        let result = unsafe {
            libc::mount(c"none".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast())
        };
        (result == 0).then(|| Self(path.to_path_buf()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let target = std::ffi::CString::new(self.0.to_str().expect("ASCII")).expect("no zero byte");
        // SAFETY: the pointer is to a C string that outlives the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_node_whose_disk_is_full_refuses_writes_serves_reads_and_stops_nobody() {
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let Some(mount) = SmallDisk::mount(&disk.path().join("full"), 24) else {
        println!("skipped: this process may not mount a tmpfs");
        return;
    };
    let mut cluster = Cluster::prepare(Settings {
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"1GiB\"\n".into(),
        ..Settings::default()
    });
    let full = 2;
    let data_dir = format!("data_dir = \"{}\"", mount.0.join("data").display());
    change_config(&cluster, full, "data_dir = \"node-2\"", &data_dir);
    for id in cluster.ids() {
        cluster.spawn(id);
    }
    cluster.wait_serving(&[1, 2, 3]);
    cluster.wait_writable();
    set(&cluster, "key", b"value");
    let others: Vec<usize> = cluster.ids().filter(|id| *id != full).collect();
    let options = LoadOptions { nodes: others, padding: 16 << 10, ..LoadOptions::default() };
    let load = Load::start(&cluster, options);
    // Far more than fits.
    eventually("the disk is full", Duration::from_secs(60), || {
        cluster.errors(full).contains("cannot prepare log segment").then_some(())
    });
    load.wait_for_writes(2500);
    let mut client = cluster.connect(full);
    let refused = eventually("the full node refuses a write", Duration::from_secs(20), || {
        cmd("SET").arg("refused").arg(vec![b'x'; 60_000]).query::<()>(&mut client).err()
    });
    assert_eq!(refused.code(), Some("OOM"), "{refused}");
    let value: String = cmd("GET").arg("key").query(&mut client).expect("reads are served");
    assert_eq!(value, "value");
    // It said so at its start.
    let warning = "warning: file system: ";
    assert!(cluster.errors(full).contains(warning) && cluster.errors(full).contains("(tmpfs)"));
    eventually("it says that the disk is full", Duration::from_secs(20), || {
        (cluster.info(full).text("disk_full") == "1").then_some(())
    });
    load.wait_for_writes(100);
    assert!(cluster.poll_exit(full).is_none(), "the full node stays up");
    let outcome = load.stop();
    println!("{}", outcome.describe());
    outcome.check(&cluster);
    drop(cluster);
    drop(mount);
}
