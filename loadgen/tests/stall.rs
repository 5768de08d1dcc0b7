//! Who stood still, the generator or the server: only the first takes the verdict away.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use panch_loadgen::report::{Report, Run};
use support::{Faults, Server};

/// How long somebody stands still, of the three seconds that are measured.
const STALL: Duration = Duration::from_millis(500);
/// In nanoseconds: more than a busy machine delays a tenth of the requests, and less than a stall does.
const LONG: u64 = 100_000_000;

/// Starts to send a request each millisecond, over one connection with two outstanding requests at most: what is due while somebody
/// stands still is far more than that.
fn start(server: &Server) -> Child {
    let target = server.address.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_panch-loadgen"));
    command.args([
        "run",
        "--rate",
        "1000",
        "--arrivals",
        "constant",
        "--connections",
        "1",
        "--outstanding",
        "2",
    ]);
    command.args(["--warm-up", "0", "--duration", "3s", "--json", "-", "--target", &target]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end: the exit code, and the one run.
fn finish(generator: Child) -> (Option<i32>, Run) {
    let output = generator.wait_with_output().unwrap();
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), report.runs.into_iter().next().unwrap())
}

/// Lets the generator stand still for `span` once the server has seen a hundred requests.
fn stop_for(span: Duration, generator: &Child, server: &Server) {
    let patience = Instant::now() + Duration::from_secs(60);
    while server.requests() < 100 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    // The next requests fill the connection if nobody answers.
    std::thread::sleep(Duration::from_millis(20));
    let signal = |signal| {
        // SAFETY: signals a child that has not been waited for; touches no memory.
        unsafe { libc::kill(generator.id() as libc::pid_t, signal) };
    };
    signal(libc::SIGSTOP);
    std::thread::sleep(span);
    signal(libc::SIGCONT);
}

/// The generator itself was late with a good part of the requests, and says so.
fn assert_no_verdict((code, run): &(Option<i32>, Run)) {
    assert_eq!((*code, run.clean), (Some(3), true), "{run:?}");
    let lag = run.lag.unwrap();
    assert!(lag.p90 > LONG && lag.max > 3 * LONG, "{lag:?}");
    assert!(run.no_verdict.as_ref().unwrap().contains("late with 1 % of the requests"), "{run:?}");
    // Most of what was due meanwhile found no room at first.
    assert!(run.counts.queued > 200, "{:?}", run.counts);
}

#[test]
fn a_generator_that_stood_still_gives_no_verdict_though_its_connections_were_full_afterwards() {
    let server = Server::start(Faults::default());
    let generator = start(&server);
    stop_for(STALL, &generator, &server);
    assert_no_verdict(&finish(generator));
}

#[test]
fn a_generator_that_did_not_take_the_answers_gives_no_verdict_though_its_connections_were_full_before() {
    let server = Server::start(Faults { stall: Some((100, STALL / 2)), ..Faults::default() });
    let generator = start(&server);
    stop_for(STALL, &generator, &server);
    assert_no_verdict(&finish(generator));
}

#[test]
fn a_server_that_stood_still_is_measured() {
    let server = Server::start(Faults { stall: Some((100, STALL)), ..Faults::default() });
    let (code, run) = finish(start(&server));
    let (lag, response) = (run.lag.unwrap(), run.response.unwrap());
    assert!(run.clean && run.counts.queued > 200 && response.p90 > LONG, "{run:?}");
    // On a machine that is busy with other tests the generator may be late besides, but not for as long.
    assert!(lag.p99 < LONG / 2, "{lag:?}");
    assert_eq!(run.no_verdict.is_some(), lag.p99 > 1_000_000, "{lag:?}");
    assert_eq!(code, Some(if run.no_verdict.is_some() { 3 } else { 0 }));
}
