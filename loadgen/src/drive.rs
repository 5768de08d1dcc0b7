//! `run`: measures servers that are running already. Also what one measured run is, from scrape to audit.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use panch_wire::client::ReadLevel;

use crate::check::{Check, Verdict};
use crate::cli::{Mode, RunArgs, resolve};
use crate::connection::Protocol;
use crate::control::Control;
use crate::engine::{self, EngineError, Plan};
use crate::host::Environment;
use crate::keys::{KeyDistribution, KeyText};
use crate::progress::{Progress, Watch};
use crate::quantity::Period;
use crate::report::{Report, Run};
use crate::schedule::Load;
use crate::truth::{Source, Truth, scrape};
use crate::workload::{Mix, OperationKind, Workload};

/// How long a connection may take to open, and an answer beside the load to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How long `run --preload` may take.
const PRELOAD_LIMIT: Duration = Duration::from_secs(600);

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// Options that do not fit.
    #[error("{0}")]
    Usage(String),
    /// The run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The local cluster.
    #[error(transparent)]
    Cluster(#[from] crate::cluster::ClusterError),
    /// The nodes run something else than what was to be measured.
    #[error("{0}")]
    Mismatch(String),
    /// Reading keys back.
    #[error("the audit could not read from {address}: {error}")]
    Audit {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

impl DriveError {
    /// Whether it was stopped on purpose.
    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Engine(EngineError::Interrupted) | Self::Cluster(crate::cluster::ClusterError::Interrupted)
        )
    }
}

/// A name for a run that no earlier run had: the time, mixed with the process.
pub fn run_name() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_nanos() as u64) ^ (u64::from(std::process::id()) << 40)
}

/// One measured run: counters before, load, counters after, audit.
///
/// # Errors
/// If the run could not be made, or the audit not be read.
pub fn measure(plan: &Plan, sources: &[Source], label: &str, stop: &AtomicBool) -> Result<Run, DriveError> {
    let mut base = None;
    if plan.check && plan.workload.mix.incr > 0 {
        let mut check = Check::new(&plan.workload, plan.run);
        with_reader(plan, plan.targets[0], |read| check.note_counters(read))?;
        base = Some(check);
    }
    let before = scrape(sources);
    let mut progress = Progress::new(label, plan.warm_up + plan.duration);
    let outcome = engine::run(plan, stop, &mut progress)?;
    drop(progress);
    let after = scrape(sources);
    let mut verdict = None;
    if let Some(check) = &outcome.check {
        let check = match base {
            Some(mut base) => {
                base.merge(check);
                base
            }
            None => check.clone(),
        };
        let mut sum = Verdict::default();
        for target in &plan.targets {
            // A node that is down does not take the measurement along.
            sum.merge(
                with_reader(plan, *target, |read| check.audit(read)).unwrap_or_else(|error| Verdict {
                    unread: vec![error.to_string()],
                    ..Verdict::default()
                }),
            );
        }
        verdict = Some(sum);
    }
    Ok(Run::new(plan, &outcome, &Truth::between(&before, &after), verdict))
}

/// Gives every key a value, so that reads find one. Takes at most as long as `limit`; what is left then stays without.
///
/// # Errors
/// If the servers could not be reached.
pub fn preload(plan: &Plan, limit: Duration, stop: &AtomicBool) -> Result<(), DriveError> {
    preload_with(plan, limit, stop, &mut Progress::new("preload", limit))
}

/// As [`preload`], with a display of the caller's.
///
/// # Errors
/// As [`preload`].
pub fn preload_with(
    plan: &Plan,
    limit: Duration,
    stop: &AtomicBool,
    watch: &mut dyn Watch,
) -> Result<(), DriveError> {
    let workload = Workload { mix: Mix::WRITES, keys: KeyDistribution::Sequential, ..plan.workload.clone() };
    let count = Some(workload.key_count);
    let load = Load::Closed;
    let filling = Plan {
        workload,
        count,
        load,
        warm_up: Duration::ZERO,
        duration: limit,
        check: false,
        ..plan.clone()
    };
    let outcome = engine::run(&filling, stop, watch)?;
    let errors = outcome.recorder.counts.errors();
    if errors > 0 {
        eprintln!("panch-loadgen: {errors} writes of the preload failed; reads of those keys find nothing");
    }
    Ok(())
}

/// At which level an audit reads: one at which what was acknowledged must be seen.
pub(crate) fn audit_level(workload: &Workload) -> ReadLevel {
    match workload.read_level {
        ReadLevel::Stale => ReadLevel::Quorum,
        level => level,
    }
}

/// Reads keys of the plan's workload from one server, at a level at which what was acknowledged must be seen.
fn with_reader<T>(
    plan: &Plan,
    address: SocketAddr,
    work: impl FnOnce(&mut dyn FnMut(OperationKind, u64) -> io::Result<Option<Vec<u8>>>) -> io::Result<T>,
) -> Result<T, DriveError> {
    let level = audit_level(&plan.workload);
    let read_all = || {
        let mut control = Control::connect(address, plan.protocol, level, PATIENCE)?;
        let mut text = KeyText::new(plan.workload.key_size);
        work(&mut |kind, key| control.read(&mut text, kind, key))
    };
    read_all().map_err(|error| DriveError::Audit { address, error })
}

/// What every report says about the machine.
pub fn environment_facts(environment: &Environment) -> Vec<(String, String)> {
    let mut facts = vec![
        ("kernel".to_owned(), format!("Linux {}", environment.kernel)),
        (
            "machine".to_owned(),
            format!(
                "{}, {} CPUs, {:.1} GiB memory",
                environment.cpu,
                environment.cores,
                environment.memory as f64 / f64::from(1 << 30)
            ),
        ),
    ];
    if let Some(commit) = crate::host::commit() {
        facts.push(("commit".to_owned(), commit));
    }
    facts
}

/// One line on what is asked.
pub fn workload_fact(plan: &Plan) -> (String, String) {
    let workload = &plan.workload;
    let text = format!(
        "{} keys, {}, {} B keys, {} B values, seed {}; {} warm-up, {} measured; {} threads",
        workload.key_count,
        workload.keys,
        workload.key_size,
        workload.value_size,
        workload.seed,
        Period(plan.warm_up),
        Period(plan.duration),
        plan.threads
    );
    ("workload".to_owned(), text)
}

/// The addresses, each once: a server that is named twice is not two.
fn resolve_all(texts: &[String]) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = Vec::new();
    for text in texts {
        let address = resolve(text)?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// The plan of `run`.
///
/// # Errors
/// If the options do not fit each other.
pub fn plan(arguments: &RunArgs) -> Result<Plan, String> {
    let targets = resolve_all(&arguments.target)?;
    let load_arguments = &arguments.load;
    let load = match (arguments.mode, arguments.rate) {
        (Mode::Closed, None) => Load::Closed,
        (Mode::Closed, Some(_)) => {
            return Err("a closed loop has no --rate; leave out --mode closed".to_owned());
        }
        (Mode::Open, rate) => Load::Open {
            rate: rate
                .filter(|rate| rate.0 > 0)
                .ok_or("an open loop needs a --rate above zero; for a closed loop say --mode closed")?
                .0 as f64,
            arrivals: load_arguments.arrivals.into(),
            drop_after: load_arguments.drop_after.0,
        },
    };
    if load_arguments.sessions && arguments.protocol == Protocol::Resp {
        return Err("--sessions needs --protocol native: Redis' protocol has no sessions".to_owned());
    }
    if arguments.count.is_some_and(|count| count.0 == 0) {
        return Err("--count must be above zero: of no commands, nothing is measured".to_owned());
    }
    if arguments.direct && !load_arguments.sessions {
        return Err("--direct needs --sessions: what nobody answers is asked again".to_owned());
    }
    let is_local = targets.iter().any(|target| target.ip().is_loopback());
    Ok(Plan {
        protocol: arguments.protocol,
        connections: load_arguments.connections,
        pipeline: load_arguments.outstanding,
        threads: load_arguments.threads,
        cpus: load_arguments.pin.cpus(is_local)?,
        load,
        workload: load_arguments.workload(arguments.mix)?,
        run: run_name(),
        warm_up: load_arguments.warm_up.0,
        duration: load_arguments.duration.0,
        count: arguments.count.map(|count| count.0),
        drain: load_arguments.drain.0,
        connect_timeout: PATIENCE,
        spin: load_arguments.spin.0,
        check: load_arguments.check,
        repeat_after: load_arguments.repeats(),
        direct: arguments.direct.then_some(arguments.direct_batch.get()),
        targets,
    })
}

/// `panch-loadgen run`: its report, of one run.
///
/// # Errors
/// If there is no measurement.
pub fn run(arguments: &RunArgs, stop: &AtomicBool) -> Result<Report, DriveError> {
    let plan = plan(arguments).map_err(DriveError::Usage)?;
    let mut sources = Vec::new();
    let addresses = match (arguments.info.is_empty(), plan.protocol) {
        (true, Protocol::Resp) => plan.targets.clone(),
        (true, Protocol::Native) => Vec::new(),
        (false, _) => resolve_all(&arguments.info).map_err(DriveError::Usage)?,
    };
    sources.extend(addresses.into_iter().map(|address| Source { address, process: None }));
    if arguments.preload {
        preload(&plan, PRELOAD_LIMIT, stop)?;
    }
    let run = measure(&plan, &sources, "run", stop)?;

    let title = format!("panch-loadgen run: {} over {}", arguments.target.join(", "), plan.protocol);
    let mut facts = environment_facts(&Environment::read());
    if plan.targets.iter().any(|target| target.ip().is_loopback()) {
        facts.push(("placement".to_owned(), "client and server share this machine, loopback".to_owned()));
    }
    let durability = run.durability.clone().unwrap_or_else(|| "not told by the server".to_owned());
    facts.push(("durability".to_owned(), durability));
    facts.push(workload_fact(&plan));
    Ok(Report::new(title, facts, vec![run]))
}
