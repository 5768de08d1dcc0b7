//! `panch-loadgen compare` as a whole, with a stand-in for the daemon: this test program, started once more.

#![allow(clippy::unwrap_used)]

mod common;
mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::{Faults, Server};

const CONFIG: &str = "PANCH_STAND_IN_CONFIG";
const PROTOCOL: &str = "PANCH_STAND_IN_PROTOCOL";

/// Not a test by itself: what the stand-in runs. It serves the addresses of its config until it is killed.
#[test]
fn stand_in_daemon() {
    let Some(config) = std::env::var_os(CONFIG) else { return };
    let text = fs::read_to_string(config).unwrap();
    let id: usize = text.split("id = ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    let member = text.lines().find(|line| line.contains(&format!("node = {id},"))).unwrap();
    let listener = |name: &str| {
        let address = member.split(&format!("{name} = \"")).nth(1).unwrap().split('"').next().unwrap();
        TcpListener::bind(address).unwrap()
    };
    let native = Server::listen(listener("native"), Faults::default());
    native.tell_protocol(&std::env::var(PROTOCOL).unwrap());
    let _resp = native.also_listen(listener("client"));
    std::thread::sleep(Duration::from_secs(600));
}

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    /// A daemon that has EPaxos and Multi-Paxos, takes Basic Paxos for Multi-Paxos, and refuses Fast Paxos.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let daemon = folder.path().join("panchd");
        let own = std::env::current_exe().unwrap();
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n*'cluster.protocol=\"fast\"'*) echo 'this version has no fast'; exit 78;;\n\
             *'cluster.protocol=\"epaxos\"'*) told=epaxos;;\n*) told=multi;;\nesac\n\
             {CONFIG}=\"$3\" {PROTOCOL}=$told exec {} --exact stand_in_daemon --nocapture --test-threads 1\n",
            own.display()
        );
        common::write_program(&daemon, &script);
        fs::create_dir(folder.path().join("data")).unwrap();
        Self { folder }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, protocols: &str, duration: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_panch-loadgen"));
        command.args(["compare", "--protocols", protocols, "--replicas", "1", "--warm-up", "50ms"]);
        command.args([
            "--duration",
            duration,
            "--key-count",
            "100",
            "--connections",
            "2",
            "--outstanding",
            "2",
        ]);
        command.args(["--durability", "memory", "--panchd"]).arg(self.folder.path().join("panchd"));
        command.arg("--dir").arg(self.data());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn is_clean(&self) -> bool {
        fs::read_dir(self.data()).unwrap().count() == 0
    }
}

/// Processes whose command line or environment names `folder`: nodes that were left behind.
fn processes_of(folder: &Path) -> usize {
    let name = folder.to_str().unwrap();
    let names_it =
        |path: PathBuf| fs::read(path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(name));
    let processes = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    processes
        .filter(|entry| names_it(entry.path().join("cmdline")) || names_it(entry.path().join("environ")))
        .count()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The cells of the row that starts with `label`.
fn row(text: &str, label: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.starts_with(&format!("│ {label} "))).unwrap();
    line.split(['│', '┆']).map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
}

#[test]
fn compare_prints_one_table_of_all_protocols_and_leaves_nothing() {
    let fixture = Fixture::new();
    let json = fixture.folder.path().join("report.json");
    let mut command = fixture.command("epaxos,multi,multi", "300ms");
    let output = command.args(["--conflict", "50", "--repeat", "2", "--json"]).arg(&json).output().unwrap();
    let (table, progress) = texts(&output);
    assert!(output.status.success(), "{table}\n{progress}");
    let (epaxos, second) = (row(&table, "epaxos"), row(&table, "multi #2"));
    assert!(epaxos[1].parse::<f64>().unwrap() > 0.0, "{table}");
    // The stand-in counts only fast commits, ten commands to a batch, and a message for each command.
    assert_eq!((epaxos[9].as_str(), second[9].as_str()), ("100.0", "-"));
    assert_eq!(epaxos[14], "1.00");
    assert_eq!(table.matches("1 nodes with equal digests; acknowledged writes read back: ok").count(), 6);
    assert!(table.contains("Medians of 2 rounds") && table.contains("50 % of the commands"), "{table}");
    let measured: Vec<&str> = progress
        .lines()
        .filter(|line| line.contains(" measure: "))
        .map(|line| line.split_once(" measure").unwrap().0)
        .collect();
    assert_eq!(
        measured,
        [
            "[round 1/2, 1/3] epaxos",
            "[round 1/2, 2/3] multi #1",
            "[round 1/2, 3/3] multi #2",
            "[round 2/2, 1/3] epaxos",
            "[round 2/2, 2/3] multi #1",
            "[round 2/2, 3/3] multi #2"
        ]
    );
    for text in [&table, &progress] {
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
    let json = fs::read_to_string(json).unwrap();
    assert_eq!(json.matches("\"throughput_to_multi\":").count(), 6);
    assert!(fixture.is_clean());
    assert_eq!(processes_of(&fixture.data()), 0);
}

#[test]
fn a_protocol_that_cannot_run_is_named_and_the_others_are_measured() {
    let fixture = Fixture::new();
    let output = fixture.command("fast,basic,multi", "200ms").output().unwrap();
    let (table, progress) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{table}\n{progress}");
    assert!(table.contains("fast: NOT MEASURED: node 1 ended by itself"), "{table}");
    assert!(table.contains("this version has no fast"), "{table}");
    assert!(
        table.contains("basic: NOT MEASURED: asked for basic, but group_0 of node 1 runs multi"),
        "{table}"
    );
    assert_eq!(row(&table, "fast")[1], "-");
    assert!(row(&table, "multi")[1].parse::<f64>().unwrap() > 0.0);
    assert!(progress.contains("[1/3] fast start: 1 nodes") && progress.contains("FAILED"), "{progress}");
    assert!(fixture.is_clean());
}

#[test]
fn a_signal_ends_the_comparison_with_what_there_is_and_everything_is_cleaned_up() {
    let fixture = Fixture::new();
    let process = fixture.command("multi,epaxos", "60s").spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while fixture.is_clean() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    // SAFETY: signals a child that has not been waited for.
    unsafe { libc::kill(process.id() as libc::pid_t, libc::SIGINT) };
    let output = process.wait_with_output().unwrap();
    let (table, progress) = texts(&output);
    assert_eq!(output.status.code(), Some(130), "{table}\n{progress}");
    assert!(table.contains("INTERRUPTED"), "{table}");
    assert!(fixture.is_clean());
    assert_eq!(processes_of(&fixture.data()), 0);
}

#[test]
fn options_that_do_not_fit_and_a_missing_daemon_end_before_anything_is_started() {
    let fixture = Fixture::new();
    for (options, code, part) in [
        (&["--conflict", "101"][..], 64, "--conflict"),
        (&["--mode", "open"], 64, "--rate"),
        (&["--rate", "10"], 64, "--mode open"),
        (&["--outstanding", "0"], 64, "--outstanding"),
        (&["--duration", "0"], 64, "--duration must be above zero"),
        (&["--protocols", "raft"], 64, "raft"),
        (&["--panchd", "/no/panchd"], 74, "cargo build --release"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_panch-loadgen"));
        command.args(["compare", "--dir"]).arg(fixture.data());
        if code == 64 {
            command.arg("--panchd").arg(fixture.folder.path().join("panchd"));
        }
        let output = command.args(options).output().unwrap();
        let (_, errors) = texts(&output);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(part), "{part} is missing in {errors}");
        assert!(fixture.is_clean());
    }
}
