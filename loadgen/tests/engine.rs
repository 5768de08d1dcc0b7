//! The engine against a small server on loopback: every request is accounted for, whatever the server does.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use panch_loadgen::connection::Protocol;
use panch_loadgen::drive::measure;
use panch_loadgen::engine::{self, EngineError, Outcome, Plan};
use panch_loadgen::keys::KeyDistribution;
use panch_loadgen::preload::{Preload, preload};
use panch_loadgen::progress::{Progress, Watch};
use panch_loadgen::record::Interval;
use panch_loadgen::schedule::{Arrivals, Load};
use panch_loadgen::truth::Source;
use panch_loadgen::workload::Workload;
use panch_ring::clock;
use panch_wire::client::ReadLevel;
use support::{Faults, Server};

const FOREVER: Duration = Duration::from_secs(60);
const MS: u64 = 1_000_000;

/// A closed loop of `count` commands over two connections.
fn counted(server: &Server, mix: &str, count: u64) -> Plan {
    Plan {
        targets: vec![server.address],
        protocol: Protocol::Native,
        connections: 2,
        pipeline: 8,
        threads: 1,
        cpus: Vec::new(),
        load: Load::Closed,
        workload: Workload {
            mix: mix.parse().unwrap(),
            keys: KeyDistribution::Uniform,
            key_count: 50,
            key_size: 16,
            value_size: 16,
            read_level: ReadLevel::Quorum,
            seed: 5,
        },
        run: 4711,
        warm_up: Duration::ZERO,
        duration: FOREVER,
        count: Some(count),
        drain: FOREVER,
        connect_timeout: FOREVER,
        spin: Duration::ZERO,
        check: true,
        repeat_after: None,
        direct: None,
    }
}

fn open(server: &Server, rate: f64, duration: Duration) -> Plan {
    let load = Load::Open { rate, arrivals: Arrivals::Constant, drop_after: FOREVER };
    Plan { load, duration, count: None, ..counted(server, "set", 0) }
}

fn run(plan: &Plan) -> Outcome {
    engine::run(plan, &AtomicBool::new(false), &mut Progress::silent()).unwrap()
}

#[test]
fn a_closed_loop_makes_exactly_the_requests_that_were_asked_for() {
    for protocol in [Protocol::Native, Protocol::Resp] {
        let server = Server::start(Faults { reversed: true, ..Faults::default() });
        let plan = Plan {
            protocol,
            threads: 2,
            spin: Duration::from_micros(20),
            ..counted(&server, "set=1,get=1", 3001)
        };
        let outcome = run(&plan);
        let counts = &outcome.recorder.counts;
        assert_eq!(
            (server.requests(), counts.acknowledged, counts.completed, counts.errors()),
            (3001, 3001, 3001, 0)
        );
        let all = outcome.recorder.all();
        assert_eq!((all.service.known.len(), all.response.known.len()), (3001, 3001));
        assert_eq!(all.response.at_least.len(), 0);
        assert!(outcome.throughput() > 0.0 && outcome.client_load().cpu > 0.0);
    }
}

#[test]
fn an_honest_server_passes_the_audit() {
    let server = Server::start(Faults::default());
    let sources = [Source { address: server.address, process: None }];
    // Twice, so that the second run finds counters and values of the first.
    for run in [1, 2] {
        let plan = Plan { run, ..counted(&server, "set=2,incr=1,get=1", 2000) };
        let run = measure(&plan, &sources, "test", &AtomicBool::new(false)).unwrap();
        let verdict = run.audit.as_ref().unwrap();
        assert_eq!((verdict.checked, verdict.violations.as_slice()), (100, [].as_slice()));
        assert!(run.clean);
        assert_eq!(run.durability.as_deref(), Some("memory"));
        assert!(run.batch_fill.is_some());
        assert_eq!(run.per_command.log_writes, None);
    }
}

/// Increments through sessions at a server with these faults: how the audit ended, and how often requests were repeated.
fn increments_in_sessions(faults: Faults) -> (usize, u64) {
    let server = Server::start(faults);
    let plan =
        Plan { repeat_after: Some(Duration::from_millis(300)), run: 1, ..counted(&server, "incr", 600) };
    let run = measure(&plan, &[], "test", &AtomicBool::new(false)).unwrap();
    assert_eq!((run.counts.acknowledged, run.counts.errors()), (600, 0), "{:?}", run.errors);
    (run.audit.unwrap().violations.len(), run.counts.repeated)
}

#[test]
fn with_sessions_every_increment_takes_effect_exactly_once_whatever_becomes_of_its_answer() {
    assert_eq!(increments_in_sessions(Faults::default()), (0, 0));
    for faults in [
        Faults { hang_up_every: Some(50), ..Faults::default() },
        Faults { hang_up_after_every: Some(50), ..Faults::default() },
        Faults { unknown_every: Some(50), ..Faults::default() },
        Faults { silent_every: Some(100), ..Faults::default() },
    ] {
        let (violations, repeated) = increments_in_sessions(faults);
        assert_eq!(violations, 0, "{faults:?}");
        assert!(repeated > 0, "{faults:?}");
        // The audit would notice: a server that forgets numbers applies what is repeated twice.
        if faults.hang_up_every.is_none() {
            let (violations, _) = increments_in_sessions(Faults { forgets_numbers: true, ..faults });
            assert!(violations > 0, "{faults:?}");
        }
    }
}

#[test]
fn what_was_asked_in_a_session_that_expired_is_unknown_and_never_asked_again() {
    // Every answer that gets lost is that of an increment that was made, and the server knows the session no more.
    let faults =
        Faults { hang_up_after_every: Some(50), forgets_sessions_every: Some(50), ..Faults::default() };
    let server = Server::start(faults);
    let plan = Plan { repeat_after: Some(FOREVER), run: 1, ..counted(&server, "incr", 600) };
    let run = measure(&plan, &[], "test", &AtomicBool::new(false)).unwrap();
    let (counts, verdict) = (&run.counts, run.audit.as_ref().unwrap());
    assert!(counts.lost > 0 && !run.clean, "{counts:?}");
    assert_eq!((counts.acknowledged + counts.lost, counts.repeated), (600, 0), "{counts:?}");
    assert!(verdict.violations.is_empty() && verdict.checked > 0, "{verdict:?}");
    assert!(run.errors.iter().any(|(text, _)| text.contains("the session expired")), "{:?}", run.errors);
}

/// Notes when the window opens and closes.
#[derive(Default)]
struct Windows(Vec<(&'static str, u64)>, u64);

impl Watch for Windows {
    fn show(&mut self, _: Duration, _: bool, _: Duration, interval: &Interval) {
        self.1 += interval.completed;
    }
    fn window_opened(&mut self) {
        self.0.push(("opened", clock::now().0));
    }
    fn window_closed(&mut self) {
        self.0.push(("closed", clock::now().0));
    }
}

#[test]
fn a_watcher_is_told_once_when_the_measured_window_opens_and_when_it_closes() {
    let server = Server::start(Faults::default());
    let mut windows = Windows::default();
    let plan =
        Plan { warm_up: Duration::from_millis(200), ..open(&server, 1000.0, Duration::from_millis(400)) };
    engine::run(&plan, &AtomicBool::new(false), &mut windows).unwrap();
    let [("opened", from), ("closed", to)] = windows.0[..] else { panic!("{:?}", windows.0) };
    // Told by a thread that looks every 20 ms.
    assert!((300 * MS..2000 * MS).contains(&(to - from)), "{}", to - from);
    // A run that is stopped while it warms up has no window.
    let mut windows = Windows::default();
    engine::run(&Plan { warm_up: FOREVER, ..plan }, &AtomicBool::new(true), &mut windows)
        .map(drop)
        .unwrap_err();
    assert!(windows.0.is_empty());
}

#[test]
fn a_server_that_loses_acknowledged_writes_fails_the_audit() {
    for mix in ["set", "incr"] {
        let server = Server::start(Faults { lose_every: Some(7), ..Faults::default() });
        let run = measure(&counted(&server, mix, 1000), &[], "test", &AtomicBool::new(false)).unwrap();
        assert!(!run.audit.as_ref().unwrap().violations.is_empty());
        assert!(!run.clean);
    }
}

#[test]
fn a_stalled_server_cannot_hide_it_from_an_open_loop() {
    let stall = Duration::from_millis(400);
    let server = Server::start(Faults { stall: Some((100, stall)), ..Faults::default() });
    let plan = Plan { connections: 1, pipeline: 1, ..open(&server, 500.0, Duration::from_secs(1)) };
    let outcome = run(&plan);
    let all = outcome.recorder.all();
    let (response, service) = (all.response.all(), all.service.all());
    let long = |histogram: &panch_loadgen::record::Latencies| histogram.count_between(200 * MS, u64::MAX);
    assert!(response.max() >= 400 * MS && service.max() >= 400 * MS);
    // 100 requests were due in the first half of the stall, and one of them was being served.
    assert!(long(&response) > 10 * long(&service), "{} of {}", long(&response), long(&service));
    assert!(outcome.recorder.counts.queued > 50);
    assert_eq!(outcome.recorder.counts.errors(), 0);
}

#[test]
fn every_arrival_is_sent_or_counted_as_dropped() {
    let server = Server::start(Faults { mute: true, ..Faults::default() });
    let mut plan = Plan {
        connections: 1,
        pipeline: 3,
        drain: Duration::from_millis(10),
        ..open(&server, 1000.0, Duration::from_millis(300))
    };
    for drop_after in [Duration::from_millis(50), FOREVER] {
        plan.load = Load::Open { rate: 1000.0, arrivals: Arrivals::Constant, drop_after };
        let outcome = run(&plan);
        let (all, counts) = (outcome.recorder.all(), outcome.recorder.counts);
        assert_eq!((counts.sent, counts.dropped), (3, 297));
        assert_eq!((counts.unanswered, counts.acknowledged), (3, 0));
        // Nobody knows how long they would have taken, but for how long they waited.
        assert_eq!((all.response.known.len(), all.response.at_least.len()), (0, 300));
        assert_eq!(all.service.at_least.len(), 3);
        assert!(all.response.at_least.max() >= 300 * MS);
    }
}

#[test]
fn what_is_dropped_while_warming_up_is_counted_too() {
    let server = Server::start(Faults { mute: true, ..Faults::default() });
    let span = Duration::from_millis(200);
    let plan = Plan {
        connections: 1,
        pipeline: 3,
        warm_up: span,
        drain: Duration::from_millis(10),
        load: Load::Open { rate: 1000.0, arrivals: Arrivals::Constant, drop_after: span / 4 },
        ..open(&server, 1000.0, span)
    };
    let counts = run(&plan).recorder.counts;
    assert_eq!((counts.warm_up_dropped, counts.dropped, counts.sent), (197, 200, 0));
}

/// Runs an open loop of one connection, one request at a time, against a server with these faults, and returns with the outcome how long
/// each request took by the server's own clock, from the moment at which it was due.
fn modelled(faults: Faults, rate: f64, duration: Duration) -> (Outcome, Vec<Duration>) {
    let server = Server::start(faults);
    let plan = Plan { connections: 1, pipeline: 1, ..open(&server, rate, duration) };
    let outcome = run(&plan);
    let times = server.times();
    // The window began with the schedule; by the clock that the server reads.
    let start = Instant::now() - clock::now().since(outcome.recorder.window.start);
    let due = |number: usize| start + Duration::from_secs_f64(number as f64 / rate);
    let took =
        times.iter().enumerate().map(|(number, (_, done))| done.saturating_duration_since(due(number)));
    let mut took: Vec<Duration> = took.collect();
    took.sort();
    (outcome, took)
}

/// Every request was sent and answered, and the percentiles are those of `took`.
fn assert_equals_model((outcome, took): &(Outcome, Vec<Duration>)) {
    let (counts, response) = (&outcome.recorder.counts, outcome.recorder.all().response);
    let count = took.len();
    assert_eq!(
        (counts.sent, counts.dropped, counts.errors()),
        (count as u64, 0, 0),
        "sent after the window, too"
    );
    assert_eq!((response.known.len(), response.at_least.len()), (count as u64, 0));
    for part in [0.5, 0.9, 0.99, 0.999] {
        let expected = took[((count as f64 * part).ceil() as usize).clamp(1, count) - 1].as_secs_f64();
        let found = response.known.value_at_quantile(part) as f64 / 1e9;
        let error = (found - expected).abs();
        assert!(error < 0.03 * expected + 0.002, "{part}: {found} s instead of {expected} s");
    }
}

#[test]
fn beyond_its_capacity_a_server_gets_the_latencies_of_its_queue() {
    // It does 1000 in a second, whatever is asked.
    let faults = Faults { each: Some(Duration::from_millis(1)), ..Faults::default() };
    let model = modelled(faults, 1300.0, Duration::from_secs(2));
    assert_eq!(model.1.len(), 2600);
    // The queue grows with what the server does not manage.
    assert!(model.1[2600 * 9 / 10] > Duration::from_millis(500));
    assert_equals_model(&model);
}

#[test]
fn a_stall_is_measured_wherever_it_lies() {
    let stall = Duration::from_millis(700);
    // Of 500 requests in a second: before the first, in the middle, and over the end.
    for first in [1, 100, 400] {
        let faults = Faults { stall: Some((first, stall)), ..Faults::default() };
        let model = modelled(faults, 500.0, Duration::from_secs(1));
        assert_eq!(model.1.len(), 500);
        assert!(model.1[450] > Duration::from_millis(450), "{:?}", model.1[450]);
        assert_equals_model(&model);
    }
}

#[test]
fn what_nobody_waits_for_is_a_bound() {
    let server =
        Server::start(Faults { stall: Some((400, Duration::from_millis(700))), ..Faults::default() });
    let plan = Plan { connections: 1, pipeline: 1, ..open(&server, 500.0, Duration::from_secs(1)) };
    let plan = Plan { drain: Duration::from_millis(50), ..plan };
    let run = measure(&plan, &[], "test", &AtomicBool::new(false)).unwrap();
    let response = run.response.unwrap();
    assert!(!response.is_bound(response.p50));
    assert!(response.is_bound(response.p90) && response.is_bound(response.p99));
}

#[test]
fn a_server_that_is_gone_at_the_end_does_not_take_the_measurement_along() {
    let one = Server::start(Faults::default());
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = measure(&counted(&one, "set", 500), &[], "test", &AtomicBool::new(false)).unwrap();
    assert!(run.clean);
    let plan = Plan { targets: vec![one.address, gone], connections: 1, ..counted(&one, "set", 500) };
    let run = measure(&plan, &[], "test", &AtomicBool::new(false)).unwrap();
    let verdict = run.audit.as_ref().unwrap();
    assert!(verdict.violations.is_empty() && verdict.unread.len() == 1, "{verdict:?}");
    assert!(verdict.unread[0].contains(&gone.to_string()) && !run.clean);
}

#[test]
fn counters_are_noted_at_the_first_server_that_answers() {
    let server = Server::start(Faults::default());
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for run in [1, 2] {
        let targets = vec![gone, server.address];
        let plan = Plan { run, targets, ..counted(&server, "incr", 300) };
        let run = measure(&plan, &[], "test", &AtomicBool::new(false)).unwrap();
        let verdict = run.audit.as_ref().unwrap();
        assert_eq!((verdict.violations.as_slice(), verdict.unread.len()), ([].as_slice(), 1), "{verdict:?}");
    }
}

#[test]
fn a_preload_that_is_not_done_in_time_says_how_many_keys_it_left_out() {
    let fast = Server::start(Faults::default());
    let plan = Plan { threads: 2, ..counted(&fast, "get", 49) };
    // Two threads have different shares of so many keys.
    let workload = Workload { key_count: 49, keys: KeyDistribution::Sequential, ..plan.workload.clone() };
    let plan = Plan { workload, ..plan };
    let fill =
        |plan: &Plan, limit| preload(plan, limit, &AtomicBool::new(false), &mut Progress::silent()).unwrap();
    assert_eq!(fill(&plan, FOREVER), Preload { keys: 49, key_count: 49, ..Preload::default() });
    let counts = run(&plan).recorder.counts;
    assert_eq!((counts.acknowledged, counts.misses), (49, 0));
    let slow = Server::start(Faults { each: Some(Duration::from_millis(5)), ..Faults::default() });
    let workload = Workload { key_count: 10_000, ..plan.workload.clone() };
    let short = fill(&Plan { targets: vec![slow.address], workload, ..plan }, Duration::from_millis(100));
    assert!(short.keys > 0 && short.shortage().unwrap().contains("of 10000 keys"), "{short:?}");
    assert!(short.is_clean(), "too little time is no failure: {short:?}");
}

#[test]
fn broken_connections_are_counted_opened_again_and_their_outcomes_unknown() {
    let server = Server::start(Faults { hang_up_every: Some(200), ..Faults::default() });
    let run = measure(&counted(&server, "set=1,incr=1", 1000), &[], "test", &AtomicBool::new(false)).unwrap();
    let counts = &run.counts;
    assert!(counts.disconnects >= 4 && counts.lost >= 4, "{counts:?}");
    assert_eq!(counts.acknowledged + counts.lost, 1000);
    assert!(run.audit.as_ref().unwrap().violations.is_empty(), "{:?}", run.audit);
    assert!(!run.clean);
}

#[test]
fn refusals_are_counted_by_their_words() {
    let server = Server::start(Faults { refuse_incr: true, ..Faults::default() });
    let outcome = run(&counted(&server, "incr=1,set=1", 500));
    let counts = &outcome.recorder.counts;
    assert!(counts.refused > 100);
    assert_eq!(counts.acknowledged + counts.refused, 500);
    assert_eq!(outcome.recorder.errors.len(), 1);
    assert!(outcome.recorder.errors[0].0.contains("not an integer"));
}

#[test]
fn nobody_there_is_an_error_that_names_the_address() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::start(Faults::default());
    let plan = Plan {
        targets: vec![address],
        threads: 2,
        connect_timeout: Duration::from_millis(100),
        ..counted(&server, "set", 1)
    };
    let error = engine::run(&plan, &AtomicBool::new(false), &mut Progress::silent()).err().unwrap();
    assert!(matches!(&error, EngineError::Connect { address: named, .. } if *named == address), "{error}");
}

/// A run without an end that is stopped once the server has had a hundred requests.
fn stopped(server: &Server) -> Outcome {
    let plan = Plan { count: None, ..counted(server, "set", 0) };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while server.requests() < 100 {
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Ordering::SeqCst);
        });
        engine::run(&plan, &stop, &mut Progress::silent()).unwrap()
    })
}

#[test]
fn a_stop_ends_a_run_early_with_what_there_is() {
    let server = Server::start(Faults::default());
    let outcome = stopped(&server);
    assert!(outcome.interrupted && outcome.elapsed < FOREVER);
    assert_eq!(outcome.recorder.counts.acknowledged, server.requests());
}

#[test]
fn what_is_answered_after_a_stop_was_not_answered_within_the_window() {
    let stall = Duration::from_secs(1);
    let server = Server::start(Faults { stall: Some((100, stall)), ..Faults::default() });
    let outcome = stopped(&server);
    let counts = &outcome.recorder.counts;
    assert_eq!(counts.acknowledged, server.requests());
    assert!(counts.completed < counts.acknowledged, "{counts:?}");
}

#[test]
fn the_window_of_a_count_ends_with_its_time_if_the_last_answer_comes_later() {
    let stall = Duration::from_secs(1);
    let server = Server::start(Faults { stall: Some((1, stall)), ..Faults::default() });
    let duration = stall / 2;
    let plan = Plan { duration, connections: 1, ..counted(&server, "set", 8) };
    let outcome = run(&plan);
    let counts = &outcome.recorder.counts;
    assert_eq!((counts.acknowledged, counts.completed, outcome.elapsed), (8, 0, duration));
}
