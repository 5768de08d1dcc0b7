//! Running a plan: threads with an io_uring loop each, started together, added up at the end.
//!
//! A thread is a glommio executor, pinned if asked for, whose single task is the loop of `lane.rs`: reap, parse,
//! record, fill sends, submit, wait. The loop owns the thread and sleeps in its own ring, so glommio's reactor never runs.
//!
//! Invariants:
//! * All threads start at the same instant, when every connection is ready.
//! * A run is bounded: warm-up, then the duration or the count, then at most `drain` for the last answers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use panch_ring::clock;
use panch_wire::time::{Duration, Instant};

use crate::check::Check;
use crate::connection::Protocol;
use crate::host;
use crate::lane::Lanes;
use crate::progress::Watch;
use crate::record::{Interval, Recorder};
use crate::schedule::Load;
use crate::thread_time::{ThreadLoad, ThreadTime};
use crate::workload::Workload;

/// One run.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Where to connect; connections are spread over them in turn.
    pub targets: Vec<SocketAddr>,
    /// What they speak.
    pub protocol: Protocol,
    /// Connections, over all threads.
    pub connections: usize,
    /// The most outstanding requests per connection.
    pub pipeline: usize,
    /// Threads.
    pub threads: usize,
    /// The CPUs that threads are pinned to, in turn; empty: the kernel places them.
    pub cpus: Vec<usize>,
    /// When to send.
    pub load: Load,
    /// What to send.
    pub workload: Workload,
    /// Names the run in the values that it writes.
    pub run: u64,
    /// Load before the measured window.
    pub warm_up: Duration,
    /// The measured window.
    pub duration: Duration,
    /// Ends the window after so many requests, warm-up not counted, if that is earlier.
    pub count: Option<u64>,
    /// How long to wait for the last answers.
    pub drain: Duration,
    /// How long to try to connect before the run.
    pub connect_timeout: Duration,
    /// How long a thread looks for work before it sleeps.
    pub spin: Duration,
    /// Whether acknowledged writes are remembered for an audit.
    pub check: bool,
    /// Every connection opens a session: a request without an answer for so long, or whose outcome a node does not know, is
    /// repeated under its number at the next target. Native protocol only.
    pub repeat_after: Option<Duration>,
    /// Every connection proposes its writes itself, in batches of so many commands at most, to all targets: those are all nodes of
    /// groups of Fast Paxos. Needs sessions.
    pub direct: Option<usize>,
}

/// What a run was.
pub struct Outcome {
    /// All records.
    pub recorder: Recorder,
    /// What must still be there, if that was asked for.
    pub check: Option<Check>,
    /// Length of the measured window.
    pub elapsed: Duration,
    /// What the time of the generator's threads went into within the window, all threads together.
    pub client_time: ThreadTime,
    /// How many threads that was.
    pub threads: usize,
    /// How busy the busiest of them was within its own window.
    pub busiest: ThreadLoad,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

impl Outcome {
    /// Answers per second of the window; 0 if that never began.
    pub fn throughput(&self) -> f64 {
        if self.elapsed.is_zero() {
            return 0.0;
        }
        self.recorder.counts.completed as f64 / self.elapsed.as_secs_f64()
    }

    /// How busy the generator's threads were, on average.
    pub fn client_load(&self) -> ThreadLoad {
        self.client_time
            .parts_of(self.elapsed.saturating_mul(u32::try_from(self.threads).unwrap_or(u32::MAX)))
    }
}

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A connection could not be opened in time.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// The last failure.
        reason: String,
    },
    /// Another thread has failed, and says why.
    #[error("another thread failed")]
    Elsewhere,
    /// Stopped before it began.
    #[error("interrupted")]
    Interrupted,
    /// No executor.
    #[error("cannot start a glommio executor: {0}")]
    Executor(String),
    /// No ring.
    #[error(transparent)]
    Ring(#[from] panch_ring::ring::RingError),
    /// The ring broke.
    #[error("io_uring: {0}")]
    Io(#[from] std::io::Error),
}

/// Lets threads start together.
pub(crate) struct Gate {
    barrier: Barrier,
    failed: AtomicBool,
    start: AtomicU64,
}

impl Gate {
    fn new(threads: usize) -> Self {
        Self { barrier: Barrier::new(threads), failed: AtomicBool::new(false), start: AtomicU64::new(0) }
    }

    /// Waits for all threads. Every thread calls this exactly once, also if it has failed. `None` if any has.
    fn meet(&self, ready: bool) -> Option<Instant> {
        if !ready {
            self.failed.store(true, Ordering::SeqCst);
        }
        if self.barrier.wait().is_leader() {
            self.start.store(clock::now().0, Ordering::SeqCst);
        }
        self.barrier.wait();
        (!self.failed.load(Ordering::SeqCst)).then(|| Instant(self.start.load(Ordering::SeqCst)))
    }
}

/// What a thread hands back.
pub(crate) struct ThreadOutcome {
    pub(crate) recorder: Recorder,
    pub(crate) check: Option<Check>,
    pub(crate) elapsed: Duration,
    pub(crate) time: ThreadTime,
}

impl ThreadOutcome {
    fn load(&self) -> ThreadLoad {
        self.time.parts_of(self.elapsed)
    }
}

/// Runs the plan. `stop` ends it early, with what was measured so far.
///
/// # Errors
/// If the plan could not be started, or a ring broke.
///
/// # Panics
/// If the plan has no target, thread or connection, or fewer connections than threads.
pub fn run(plan: &Plan, stop: &AtomicBool, progress: &mut dyn Watch) -> Result<Outcome, EngineError> {
    assert!(!plan.targets.is_empty() && plan.threads > 0 && plan.connections >= plan.threads);
    let gate = Gate::new(plan.threads);
    let shares: Vec<_> = (0..plan.threads).map(|_| Mutex::new(Interval::new())).collect();
    let outcomes = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, share) in shares.iter().enumerate() {
            let gate = &gate;
            let body = move || in_executor(plan, index, || load(plan, index, gate, share, stop), gate);
            let thread = thread::Builder::new().name(format!("load-{index}")).spawn_scoped(scope, body);
            threads.push(thread.expect("the machine can start a few threads"));
        }
        watch(plan, &gate, &shares, &threads, progress);
        threads.into_iter().map(|thread| thread.join().expect("a panic ends the process")).collect::<Vec<_>>()
    });
    merge(plan, outcomes, stop.load(Ordering::Relaxed))
}

fn in_executor(
    plan: &Plan,
    index: usize,
    work: impl FnOnce() -> Result<ThreadOutcome, EngineError>,
    gate: &Gate,
) -> Result<ThreadOutcome, EngineError> {
    let placement = match plan.cpus.as_slice() {
        [] => Placement::Unbound,
        cpus => Placement::Fixed(cpus[index % cpus.len()]),
    };
    let executor = LocalExecutorBuilder::new(placement)
        .name(&format!("load-{index}"))
        .io_memory(64 << 10)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make();
    match executor {
        Ok(executor) => executor.run(async { work() }),
        Err(error) => {
            gate.meet(false);
            Err(EngineError::Executor(error.to_string()))
        }
    }
}

fn load(
    plan: &Plan,
    index: usize,
    gate: &Gate,
    share: &Mutex<Interval>,
    stop: &AtomicBool,
) -> Result<ThreadOutcome, EngineError> {
    host::precise_timers();
    let connected = Lanes::new(plan, index).and_then(|mut lanes| lanes.connect(stop).map(|()| lanes));
    match (gate.meet(connected.is_ok()), connected) {
        (Some(start), Ok(lanes)) => lanes.run(start, share, stop),
        (None, Ok(_)) => Err(EngineError::Elsewhere),
        (_, Err(error)) => Err(error),
    }
}

/// Shows progress until the threads have ended.
fn watch<T>(
    plan: &Plan,
    gate: &Gate,
    shares: &[Mutex<Interval>],
    threads: &[thread::ScopedJoinHandle<'_, T>],
    progress: &mut dyn Watch,
) {
    const LOOK: Duration = Duration::from_millis(20);
    let (mut opened, mut closed) = (false, false);
    let mut shown = 0;
    let mut since = Instant(0);
    while !threads.iter().all(thread::ScopedJoinHandle::is_finished) {
        thread::sleep(LOOK);
        let start = Instant(gate.start.load(Ordering::SeqCst));
        if start.0 == 0 {
            continue;
        }
        since = since.max(start);
        let now = clock::now();
        let elapsed = now.since(start);
        if !opened && elapsed >= plan.warm_up {
            opened = true;
            progress.window_opened();
        }
        if opened && !closed && elapsed >= plan.warm_up + plan.duration {
            closed = true;
            progress.window_closed();
        }
        if elapsed.as_secs() > shown {
            shown = elapsed.as_secs();
            let mut sum = Interval::new();
            for share in shares {
                sum.absorb(&mut share.lock().unwrap_or_else(PoisonError::into_inner));
            }
            progress.show(elapsed, elapsed < plan.warm_up, now.since(since), &sum);
            since = now;
        }
    }
    if opened && !closed {
        progress.window_closed();
    }
}

fn merge(
    plan: &Plan,
    outcomes: Vec<Result<ThreadOutcome, EngineError>>,
    interrupted: bool,
) -> Result<Outcome, EngineError> {
    let mut sum: Option<Outcome> = None;
    let mut failure = None;
    for outcome in outcomes {
        match (outcome, &mut sum) {
            (Ok(outcome), None) => {
                sum = Some(Outcome {
                    busiest: outcome.load(),
                    recorder: outcome.recorder,
                    check: outcome.check,
                    elapsed: outcome.elapsed,
                    client_time: outcome.time,
                    threads: plan.threads,
                    interrupted,
                });
            }
            (Ok(outcome), Some(sum)) => {
                sum.busiest = sum.busiest.busier(outcome.load());
                sum.recorder.add(&outcome.recorder);
                if let (Some(mine), Some(other)) = (&mut sum.check, &outcome.check) {
                    mine.merge(other);
                }
                sum.elapsed = sum.elapsed.max(outcome.elapsed);
                sum.client_time = sum.client_time + outcome.time;
            }
            // The thread that knows the reason is worth more than those that gave up because of it.
            (Err(EngineError::Elsewhere), _) if failure.is_some() => {}
            (Err(error), _) => failure = Some(error),
        }
    }
    match (failure, sum) {
        (Some(error), _) => Err(error),
        (None, Some(sum)) => Ok(sum),
        (None, None) => Err(EngineError::Elsewhere),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::report::Run;
    use crate::truth::Truth;
    use clap::Parser;

    fn plan(text: &str) -> Plan {
        let Command::Run(arguments) = Cli::try_parse_from(text.split(' ')).unwrap().command else {
            panic!("not asked for")
        };
        crate::drive::plan(&arguments).unwrap()
    }

    #[test]
    fn a_thread_that_is_busy_all_the_time_does_not_hide_in_the_mean() {
        let plan = plan("panch-loadgen run --target 127.0.0.1:1 --mode closed --threads 4");
        // On a CPU for so long, of a window of this length; a thread whose part of a count is done has a shorter one.
        let thread = |cpu: u64, window: u64| {
            Ok(ThreadOutcome {
                recorder: Recorder::new(Instant(0)..Instant(0)),
                check: None,
                elapsed: Duration::from_millis(window),
                time: ThreadTime { cpu: Duration::from_millis(cpu), waiting: None },
            })
        };
        for (busy, window) in [(950, 1000), (475, 500)] {
            let threads = vec![thread(10, 1000), thread(10, 1000), thread(busy, window), thread(10, 1000)];
            let outcome = merge(&plan, threads, false).unwrap();
            assert!(outcome.client_load().cpu < 0.3, "{:?}", outcome.client_load());
            assert_eq!(outcome.busiest, ThreadLoad { cpu: 0.95, waiting: None });
            let reason = Run::new(&plan, &outcome, &Truth::default(), None).no_verdict.unwrap();
            assert!(reason.contains("busiest") && reason.contains("95 %"), "{reason}");
        }
        let idle = merge(&plan, (0..4).map(|_| thread(300, 1000)).collect(), false).unwrap();
        assert_eq!(Run::new(&plan, &idle, &Truth::default(), None).no_verdict, None);
    }
}
