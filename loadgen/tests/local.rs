//! `panch-loadgen local` as a whole, with a stand-in for the daemon: this test program, started once more.

#![allow(clippy::unwrap_used)]

mod common;
mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use panch_loadgen::report::Report;
use support::{Faults, Server};

const CONFIG: &str = "PANCH_STAND_IN_CONFIG";
/// What the stand-in does when it has told its counters a second time, which is when the first run is over: `end`, or `interrupt` the
/// generator. If it is not set, nothing.
const AFTER_ONE_RUN: &str = "PANCH_STAND_IN_AFTER_ONE_RUN";

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
    let _resp = native.also_listen(listener("client"));
    if let Ok(deed) = std::env::var(AFTER_ONE_RUN) {
        while native.infos() < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        match deed.as_str() {
            "end" => std::process::exit(3),
            // SAFETY: signals the process that started this one, and waits for it.
            _ => unsafe { libc::kill(libc::getppid(), libc::SIGTERM) },
        };
    }
    std::thread::sleep(Duration::from_secs(600));
}

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let daemon = folder.path().join("panchd");
        let own = std::env::current_exe().unwrap();
        let script = format!(
            "#!/bin/sh\n{CONFIG}=\"$3\" exec {} --exact stand_in_daemon --nocapture --test-threads 1\n",
            own.display()
        );
        common::write_program(&daemon, &script);
        fs::create_dir(folder.path().join("data")).unwrap();
        Self { folder }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, duration: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_panch-loadgen"));
        command.args([
            "local",
            "--replicas",
            "1",
            "--warm-up",
            "50ms",
            "--duration",
            duration,
            "--key-count",
            "100",
        ]);
        command.args([
            "--rate",
            "200",
            "--connections",
            "2",
            "--outstanding",
            "2",
            "--check",
            "--durability",
            "memory",
        ]);
        command.arg("--panchd").arg(self.folder.path().join("panchd")).arg("--dir").arg(self.data());
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

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether everything went well. On a machine that is busy with other tests the generator may have been the limit.
fn is_measured(output: &Output) -> bool {
    matches!(output.status.code(), Some(0 | 3))
}

#[test]
fn local_prints_one_table_of_three_runs_and_leaves_nothing() {
    let fixture = Fixture::new();
    let output = fixture.command("300ms").output().unwrap();
    let text = text(&output);
    assert!(is_measured(&output), "{text}");
    for part in [
        "closed loop",
        "open loop",
        "response time p50",
        "batch fill",
        "node 1 (leader)",
        "MEMORY",
        "loopback",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert_eq!(text.matches('┌').count(), 1, "{text}");
    assert!(text.contains("ok, 100 reads"), "{text}");
    assert!(fixture.is_clean());
    assert_eq!(processes_of(&fixture.data()), 0);
}

#[test]
fn with_a_dash_programs_get_standard_output_and_people_standard_error() {
    let fixture = Fixture::new();
    let output = fixture.command("200ms").args(["--json", "-"]).output().unwrap();
    let table = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(is_measured(&output) && table.contains("throughput, commands/s"), "{table}");
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    let circumstances = &report.circumstances;
    assert_eq!(
        (report.schema.as_str(), Some(i32::from(report.exit.code))),
        ("panch-loadgen/1", output.status.code())
    );
    assert_eq!(circumstances.arguments[..3], ["local", "--replicas", "1"]);
    assert!(circumstances.started_unix_ns.is_some() && circumstances.loadgen_version.is_some());
    let schedule = report.runs[2].schedule.as_ref().unwrap();
    assert_eq!((schedule.kind.as_str(), schedule.rate_per_second), ("open", Some(200.0)));
    assert_eq!(schedule.arrivals.as_deref(), Some("poisson"));
    assert_eq!(report.runs[0].wire_protocol.as_deref(), Some("native"));
    assert_eq!(report.server_versions(), ["panch 0.0.7"]);
    assert!(table.contains("servers panch 0.0.7"), "{table}");
    assert!(report.remarks.iter().all(|remark| table.contains(remark)));
}

/// The exit code, and the table, of a measurement in which something happens after the first of three runs.
fn after_one_run(deed: &str) -> (Option<i32>, String) {
    let fixture = Fixture::new();
    let output = fixture.command("200ms").env(AFTER_ONE_RUN, deed).output().unwrap();
    assert!(fixture.is_clean());
    assert_eq!(processes_of(&fixture.data()), 0);
    (output.status.code(), text(&output))
}

#[test]
fn a_node_that_ends_between_two_runs_does_not_take_the_first_along() {
    let (code, text) = after_one_run("end");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("closed loop") && text.contains("INCOMPLETE: 1 of 3 runs were made: "), "{text}");
}

#[test]
fn a_signal_between_two_runs_shows_the_first_and_is_no_success() {
    let (code, text) = after_one_run("interrupt");
    assert_eq!(code, Some(130), "{text}");
    assert!(text.contains("closed loop") && text.contains("runs were made: interrupted"), "{text}");
}

#[test]
fn a_pipe_gets_the_whole_report() {
    let fixture = Fixture::new();
    let pipe = fixture.folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::read_to_string(pipe).unwrap())
    };
    let output = fixture.command("100ms").arg("--json").arg(&pipe).output().unwrap();
    assert!(is_measured(&output), "{}", text(&output));
    let report: Report = serde_json::from_str(&reader.join().unwrap()).unwrap();
    assert_eq!((report.runs.len(), Some(i32::from(report.exit.code))), (3, output.status.code()));
}

#[test]
fn a_signal_ends_the_measurement_and_everything_is_cleaned_up() {
    let fixture = Fixture::new();
    let mut process = fixture.command("60s").spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    // Not before the node is there, to see that it goes.
    while fixture.is_clean() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    // SAFETY: signals a child that has not been waited for.
    unsafe { libc::kill(process.id() as libc::pid_t, libc::SIGTERM) };
    let status = process.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(fixture.is_clean());
    assert_eq!(processes_of(&fixture.data()), 0);
}

#[test]
fn nodes_do_not_outlive_a_generator_that_is_killed() {
    let fixture = Fixture::new();
    let mut process = fixture.command("60s").spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while processes_of(&fixture.data()) < 2 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    while processes_of(&fixture.data()) > 0 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(processes_of(&fixture.data()), 0);
}
