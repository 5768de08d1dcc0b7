//! What operators, disks and links do to a cluster, under load, in every protocol: nothing that was acknowledged is lost, histories stay
//! linearizable, and all nodes come to the same state.
//!
//! A node that was killed, stood still, was cut off one way, ran out of disk, or was restarted with other limits starts again without a
//! word. One whose data directory is not what it was (an older copy, a missing file, nothing at all) may refuse; then what it prints is
//! followed to the letter, and it is a member again.
//!
//! `PANCH_ACTS` sets how many acts each protocol lives through (8: each once), or which (`Kill,Restore`); `PANCH_SEED` in which order,
//! and to whom.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::{Cluster, Dice, Load, LoadOptions, Settings, eventually};
use redis::cmd;

const PATIENCE: Duration = Duration::from_secs(30);
/// Starting again will not help.
const CONFIG: i32 = 78;
/// Mebibytes of each node's disk.
const DISK: u64 = 192;
/// How long a weakness lasts.
const WEAK_FOR: Duration = Duration::from_secs(2);
/// Longer than peers take to write down how far a node's log has come.
const REMEMBERED_AFTER: Duration = Duration::from_secs(6);
/// A value that only the larger limit lets in, in bytes.
const LARGE: usize = 300 << 10;
/// The limits of sizes, each low and high: those of the cluster, and of a node.
const CLUSTER_LIMITS: [(&str, &str, &str); 4] = [
    ("value_size_max", "\"64KiB\"", "\"1MiB\""),
    ("batch_size_max", "\"16KiB\"", "\"128KiB\""),
    ("batch_commands", "10", "200"),
    ("pipeline_depth", "3", "12"),
];
const NODE_LIMITS: [(&str, &str, &str); 4] = [
    ("log_segment_size", "\"2MiB\"", "\"4MiB\""),
    ("snapshot_log_size", "\"4MiB\"", "\"8MiB\""),
    ("frame_pool_size", "\"16MiB\"", "\"64MiB\""),
    ("client_memory_max", "\"8MiB\"", "\"64MiB\""),
];
/// How a node says that its data directory is to be emptied.
const EMPTY: [&str; 4] =
    ["empty it whole", "empty `data_dir`", "empty the data directory", "empty the whole data directory"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    /// kill -9.
    Kill,
    /// A process stands still.
    Freeze,
    /// What one node says does not reach another one.
    CutOneWay,
    /// A disk has no room left.
    FillDisk,
    /// A node that was stopped comes back with a copy of its data directory from before.
    Restore,
    /// A file of a stopped node is deleted.
    DeleteFile,
    /// All nodes are restarted with other limits.
    ChangeLimits,
    /// A node loses its data directory.
    Wipe,
}

const ALL: [Act; 8] = [
    Act::Kill,
    Act::Freeze,
    Act::CutOneWay,
    Act::FillDisk,
    Act::Restore,
    Act::DeleteFile,
    Act::ChangeLimits,
    Act::Wipe,
];

/// What is to be done, in this order.
fn acts(dice: &mut Dice) -> Vec<Act> {
    let wanted = std::env::var("PANCH_ACTS").unwrap_or_else(|_| ALL.len().to_string());
    if let Ok(count) = wanted.parse::<usize>() {
        let mut left = Vec::new();
        let next = |_| {
            if left.is_empty() {
                left = ALL.to_vec();
            }
            left.swap_remove(dice.below(left.len()))
        };
        return (0..count).map(next).collect();
    }
    let named =
        |name: &str| ALL.into_iter().find(|act| format!("{act:?}") == name).expect("the name of an act");
    wanted.split(',').map(named).collect()
}

/// A cluster that is acted upon.
struct Stage {
    cluster: Cluster,
    load: Load,
    dice: Dice,
    limits_are_low: bool,
    /// Large values that were acknowledged: key and length.
    large: Vec<(String, usize)>,
}

impl Stage {
    fn any_node(&mut self) -> usize {
        1 + self.dice.below(self.cluster.settings.nodes)
    }

    fn perform(&mut self, act: Act) {
        match act {
            Act::Kill => {
                let id = self.any_node();
                self.cluster.kill(id);
                self.load.wait_for_writes(20);
                self.cluster.start_node(id);
            }
            Act::Freeze => {
                let id = self.any_node();
                self.cluster.signal(id, libc::SIGSTOP);
                self.load.wait_for_writes(20);
                std::thread::sleep(WEAK_FOR);
                self.cluster.signal(id, libc::SIGCONT);
            }
            Act::CutOneWay => {
                let from = self.any_node();
                let to = 1
                    + (from + self.dice.below(self.cluster.settings.nodes - 1)) % self.cluster.settings.nodes;
                let links = self.cluster.links.as_ref().expect("the cluster is linked");
                links.cut_one_way(from, to);
                self.load.wait_for_writes(20);
                std::thread::sleep(WEAK_FOR);
                self.load.wait_for_writes(20);
                self.cluster.links.as_ref().expect("the cluster is linked").heal();
            }
            Act::FillDisk => self.fill_disk(),
            Act::Restore => self.restore(),
            Act::DeleteFile => self.delete_file(),
            Act::ChangeLimits => self.change_limits(),
            Act::Wipe => {
                let id = self.any_node();
                self.cluster.kill(id);
                self.cluster.lose_disk(id);
                self.load.wait_for_writes(20);
                assert!(
                    self.start_or_follow(id),
                    "node {id} has nothing, and starts as if that were nothing"
                );
            }
        }
        self.load.wait_for_writes(50);
    }

    fn fill_disk(&mut self) {
        let id = self.any_node();
        let Some(disk) = self.cluster.disk(id) else {
            println!("    skipped: this process may not make a disk");
            return;
        };
        disk.fill();
        self.load.wait_for_writes(50);
        std::thread::sleep(WEAK_FOR);
        self.load.wait_for_writes(50);
        if self.dice.below(2) == 0 {
            // What a start writes has its room already: it starts without any.
            self.cluster.kill(id);
            self.cluster.spawn(id);
            std::thread::sleep(WEAK_FOR);
        }
        self.cluster.disk(id).expect("just seen").empty();
        assert!(self.cluster.poll_exit(id).is_none(), "node {id} ended:\n{}", self.cluster.errors(id));
        // Its log has room again, and says so once a segment is made.
        eventually("a node takes writes when its disk has room again", PATIENCE, || {
            cmd("SET").arg("room").arg("").query::<()>(&mut self.cluster.connect(id)).ok()
        });
    }

    fn restore(&mut self) {
        let id = self.any_node();
        let copy = self.cluster.folder().join("copy");
        let _ = fs::remove_dir_all(&copy);
        let runs = self.dice.below(2) == 0;
        if runs {
            // A snapshot of the volume while the node runs.
            self.cluster.signal(id, libc::SIGSTOP);
            copy_folder(&self.cluster.data_dir(id), &copy);
            self.cluster.signal(id, libc::SIGCONT);
        } else {
            self.cluster.stop(id, PATIENCE);
            copy_folder(&self.cluster.data_dir(id), &copy);
            self.cluster.start_node(id);
        }
        println!("    of node {id}, copied while it {}", if runs { "ran" } else { "was stopped" });
        self.load.wait_for_writes(100);
        std::thread::sleep(REMEMBERED_AFTER);
        self.load.wait_for_writes(100);
        self.cluster.kill(id);
        self.cluster.lose_disk(id);
        copy_folder(&copy, &self.cluster.data_dir(id));
        self.load.wait_for_writes(20);
        assert!(self.start_or_follow(id), "node {id} starts with a directory that lacks votes");
    }

    fn delete_file(&mut self) {
        let id = self.any_node();
        self.cluster.stop(id, PATIENCE);
        let files = files_of(&self.cluster.data_dir(id));
        let file = &files[self.dice.below(files.len())];
        println!(
            "    of node {id}: {}",
            file.strip_prefix(self.cluster.data_dir(id)).expect("it lies there").display()
        );
        let bytes = fs::read(file).expect("read");
        fs::remove_file(file).expect("removed");
        self.load.wait_for_writes(20);
        if self.dice.below(3) == 0 {
            // Whoever can puts back what is missing, instead of what costs more.
            self.cluster.spawn(id);
            std::thread::sleep(WEAK_FOR);
            if self.cluster.poll_exit(id).is_some() {
                println!(
                    "    it is put back: {}",
                    self.cluster.errors(id).lines().last().unwrap_or_default()
                );
                fs::write(file, bytes).expect("written");
                self.cluster.start_node(id);
                return;
            }
            self.cluster.stop(id, PATIENCE);
        }
        self.start_or_follow(id);
    }

    fn change_limits(&mut self) {
        let key = format!("large-{}", self.large.len());
        let big = vec![b'x'; LARGE];
        let mut client = self.cluster.connect(1);
        let written = eventually("a write is answered, or refused for its size", PATIENCE, || {
            let written = cmd("SET").arg(&key).arg(&big).query::<()>(&mut client);
            (written.is_ok() || self.limits_are_low).then_some(written)
        });
        assert_eq!(written.is_err(), self.limits_are_low, "{written:?}");
        // As in Redis, what is too long ends its connection, with an answer.
        let is_answered = written.as_ref().err().is_none_or(|error| !error.is_io_error());
        assert!(is_answered, "{written:?}");
        let mut client = self.cluster.connect(1);
        if written.is_ok() {
            self.large.push((key, LARGE));
        }
        if self.limits_are_low
            && let Some((key, length)) = self.large.last_mut()
        {
            // The limit judges what a request brings, not what comes of it.
            let longer: usize =
                cmd("APPEND").arg(&*key).arg("tail").query(&mut client).expect("a short request");
            *length += 4;
            assert_eq!(longer, *length);
        }
        for id in self.cluster.ids() {
            self.cluster.stop(id, PATIENCE);
        }
        for id in self.cluster.ids() {
            let path = self.cluster.config_path(id);
            let mut text = fs::read_to_string(&path).expect("a configuration");
            for limits in [&CLUSTER_LIMITS, &NODE_LIMITS] {
                let (from, to) = (lines(limits, self.limits_are_low), lines(limits, !self.limits_are_low));
                assert!(text.contains(&from), "{text}");
                text = text.replace(&from, &to);
            }
            fs::write(path, text).expect("written");
        }
        self.limits_are_low = !self.limits_are_low;
        for id in self.cluster.ids() {
            self.cluster.spawn(id);
        }
        let all: Vec<usize> = self.cluster.ids().collect();
        self.cluster.wait_serving(&all);
        self.check_large();
    }

    fn check_large(&self) {
        for id in self.cluster.ids() {
            for (key, length) in &self.large {
                let found: usize = eventually("STRLEN is answered", PATIENCE, || {
                    cmd("STRLEN").arg(key).query(&mut self.cluster.connect(id)).ok()
                });
                assert_eq!(found, *length, "{key} on node {id}");
            }
        }
    }

    /// Starts a node whose data directory may not be what it was. If it refuses, or stops because others refuse it, does what it says.
    /// True if it had to.
    fn start_or_follow(&mut self, id: usize) -> bool {
        self.cluster.spawn(id);
        let is_up = |cluster: &mut Cluster| {
            let others: Vec<usize> = cluster.ids().filter(|other| *other != id).collect();
            let info = cluster.try_info(id);
            // Every other one has had its say.
            let serves = info.is_some_and(|info| info.group(0).executed > 0);
            serves && others.iter().all(|other| cluster.try_info(*other).is_some())
        };
        let status =
            eventually("the node is up, or refuses", PATIENCE, || match self.cluster.poll_exit(id) {
                Some(status) => Some(Some(status)),
                None if is_up(&mut self.cluster) => {
                    std::thread::sleep(WEAK_FOR);
                    Some(self.cluster.poll_exit(id))
                }
                None => None,
            });
        let Some(status) = status else { return false };
        let text = self.cluster.errors(id);
        let last = text.lines().last().unwrap_or_default();
        println!("    it says: {last}");
        assert_eq!(status.code(), Some(CONFIG), "node {id} ended with {status}:\n{text}");
        // To the letter: what it does not tell to do is not done.
        if EMPTY.iter().any(|words| last.contains(words)) {
            empty_folder(&self.cluster.data_dir(id));
        }
        assert!(last.contains("with --rejoin"), "node {id} does not say how it comes back:\n{text}");
        self.cluster.start_to_rejoin(id);
        self.cluster.wait_member(id);
        true
    }
}

/// Lines of a configuration with all of these limits low, or high.
fn lines(limits: &[(&str, &str, &str)], are_low: bool) -> String {
    let line =
        |(name, low, high): &(&str, &str, &str)| format!("{name} = {}\n", if are_low { low } else { high });
    limits.iter().map(line).collect()
}

fn empty_folder(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.expect("removed");
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(copied.success(), "{copied}");
}

/// Every file below a folder that holds something.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("its type");
        if kind.is_dir() {
            files.extend(files_of(&entry.path()));
        } else if entry.file_name() != "lock" {
            files.push(entry.path());
        }
    }
    files.sort();
    files
}

fn lives_through(protocol: &str, seed: u64) {
    let cluster = Cluster::start(Settings {
        cluster: format!("protocol = \"{protocol}\"\n{}", lines(&CLUSTER_LIMITS, false)),
        node: lines(&NODE_LIMITS, false),
        linked: true,
        disk: Some(DISK),
        ..Settings::default()
    });
    let seed = std::env::var("PANCH_SEED").map_or(seed, |text| text.parse().expect("a number"));
    let load = Load::start(&cluster, LoadOptions { padding: 2048, ..LoadOptions::default() });
    let mut dice = Dice::new(seed);
    let acts = acts(&mut dice);
    let mut stage = Stage { cluster, load, dice, limits_are_low: false, large: Vec::new() };
    stage.load.wait_for_writes(200);
    for (number, act) in (1..).zip(acts) {
        println!("{protocol}, seed {seed}, act {number}: {act:?}");
        stage.perform(act);
    }
    stage.check_large();
    let Stage { mut cluster, load, .. } = stage;
    let outcome = load.stop();
    println!("{protocol}: {}", outcome.describe());
    cluster.assert_all_serve();
    outcome.check(&cluster);
    cluster.assert_same_state();
}

macro_rules! protocols {
    ($($protocol:ident $seed:literal)*) => {$(
        #[test]
        fn $protocol() {
            lives_through(stringify!($protocol), $seed);
        }
    )*};
}

protocols!(basic 1 multi 2 fast 3 epaxos 4);
