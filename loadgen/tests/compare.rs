//! `panch-loadgen compare` as a whole, with a stand-in for the daemon: this test program, started once more.

#![allow(clippy::unwrap_used)]

mod common;
mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use panch_loadgen::compare::{Agreement, Comparison};
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

/// What was measured, in its order: the part of each line of progress that says which run it is.
fn measured(progress: &str) -> Vec<&str> {
    progress.lines().filter_map(|line| line.split_once(" measure: ")).map(|(run, _)| run).collect()
}

#[test]
fn compare_prints_medians_and_latencies_at_equal_load_and_leaves_nothing() {
    let fixture = Fixture::new();
    let json = fixture.folder.path().join("report.json");
    let mut command = fixture.command("epaxos,multi,multi", "300ms");
    command.args(["--conflict", "50", "--repeat", "2", "--order", "listed", "--equal-load", "20", "--json"]);
    let output = command.arg(&json).output().unwrap();
    let (table, progress) = texts(&output);
    assert!(output.status.success(), "{table}\n{progress}");
    let (epaxos, second) = (row(&table, "epaxos"), row(&table, "multi #2"));
    assert!(epaxos[1].parse::<f64>().unwrap() > 0.0, "{table}");
    // Two runs of epaxos, and four of multi; these are the same protocol, whatever the ratio of the two is.
    assert!(epaxos[3].parse::<f64>().unwrap() >= 1.0 && second[2].starts_with('~'), "{table}");
    // The stand-in counts only fast commits, ten commands to a batch, and a message for each command.
    assert_eq!((epaxos[10].as_str(), second[10].as_str()), ("100.0", "-"));
    assert_eq!(epaxos[15], "1.00");
    assert!(table.contains("Medians of 2 rounds") && table.contains("50 % of the commands"), "{table}");
    assert!(table.contains("At equal load: an open loop of "), "{table}");
    let runs = ["1/3] epaxos", "2/3] multi #1", "3/3] multi #2"];
    let rounds = ["[round 1/2, ", "[round 2/2, ", "[equal load, round 1/2, ", "[equal load, round 2/2, "];
    let expected: Vec<String> =
        rounds.iter().flat_map(|round| runs.map(|run| format!("{round}{run}"))).collect();
    assert_eq!(measured(&progress), expected);
    for text in [&table, &progress] {
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
    let comparison: Comparison = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let load = comparison.equal_load.unwrap();
    assert!((load.part_of_slowest - 0.2).abs() < 0.01, "{load:?}");
    let all = comparison.protocols.iter().flat_map(|entry| entry.series().map(|(_, series)| series));
    for series in all {
        let (least, median) = (series.min.as_ref().unwrap(), series.median.as_ref().unwrap());
        let most = series.max.as_ref().unwrap();
        assert!(least.throughput <= median.throughput && median.throughput <= most.throughput);
        assert_eq!(series.rounds.len(), 2);
        assert!(series.rounds.iter().all(|round| round.digests == Agreement::Equal && round.is_clean()));
    }
    let entry = &comparison.protocols[1];
    assert!(entry.equal_load.rounds.iter().all(|round| round.run.offered == Some(load.rate)));
    assert_eq!(entry.main.rounds.iter().map(|round| round.position).collect::<Vec<_>>(), [Some(2), Some(5)]);
    assert!(fixture.is_clean());
    assert_eq!(processes_of(&fixture.data()), 0);
}

#[test]
fn what_the_preload_asks_of_the_nodes_is_no_cost_of_the_run() {
    let fixture = Fixture::new();
    let json = fixture.folder.path().join("report.json");
    let mut command = fixture.command("multi", "100ms");
    command.args(["--mix", "set=1,get=1", "--repeat", "1", "--equal-load", "0", "--json"]);
    let output = command.arg(&json).output().unwrap();
    let (table, progress) = texts(&output);
    assert!(output.status.success() && progress.contains("preload"), "{table}\n{progress}");
    let comparison: Comparison = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let run = &comparison.protocols[0].main.rounds[0].run;
    assert_eq!(run.preload.as_ref().unwrap().keys, 100);
    // The stand-in counts a message for each command.
    assert_eq!(run.per_command.messages, Some(1.0));
}

#[test]
fn the_order_is_drawn_and_the_same_again_from_its_seed() {
    let fixture = Fixture::new();
    let run = |options: &[&str]| {
        let mut command = fixture.command("epaxos,multi", "50ms");
        let output = command.args(["--repeat", "6", "--equal-load", "0"]).args(options).output().unwrap();
        let (table, progress) = texts(&output);
        assert!(output.status.success(), "{table}\n{progress}");
        assert!(!table.contains("At equal load"), "{table}");
        let seed = table.split("--order-seed ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        let order: Vec<String> = measured(&progress).into_iter().map(str::to_owned).collect();
        (seed, order)
    };
    let (seed, order) = run(&[]);
    assert_eq!(order.len(), 12);
    assert_eq!(run(&["--order-seed", &seed]), (seed, order));
}

#[test]
fn a_protocol_that_cannot_run_is_named_and_the_others_are_measured() {
    let fixture = Fixture::new();
    let mut command = fixture.command("fast,basic,multi", "200ms");
    let output = command.args(["--repeat", "1", "--order", "listed"]).output().unwrap();
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
    assert!(table.contains("of what multi, the slowest, did above"), "{table}");
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
        (&["--equal-load", "101"], 64, "--equal-load is a percentage"),
        (&["--mode", "open", "--rate", "10", "--equal-load", "50"], 64, "leave out --equal-load"),
        (&["--order", "listed", "--order-seed", "1"], 64, "--order random"),
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
