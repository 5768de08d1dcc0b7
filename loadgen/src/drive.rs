//! `run`: measures servers that are running already. Also what one measured run is, from scrape to audit.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::audit;
use crate::check::Check;
use crate::cli::{Mode, RunArgs, resolve, sendable};
use crate::connection::Protocol;
use crate::engine::{self, EngineError, Plan};
use crate::host::Environment;
use crate::preload::preload;
use crate::progress::Progress;
use crate::quantity::Period;
use crate::report::{Report, Run};
use crate::schedule::Load;
use crate::truth::{Source, Truth, scrape};

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
    /// Reading keys for the audit.
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

/// A name for a run that no earlier run had: the time, mixed with the process. Within a process, each call gives another one.
pub fn run_name() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    name_at(since.as_nanos() as u64, &LAST, std::process::id())
}

/// The name of a run of `process` that begins when a clock shows `now`; `last` is what the run before took for that.
fn name_at(now: u64, last: &AtomicU64, process: u32) -> u64 {
    // A clock may stand still, or be set back.
    let next = |last: u64| now.max(last.wrapping_add(1));
    let taken = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
    let (Ok(last) | Err(last)) = taken;
    next(last) ^ (u64::from(process) << 40)
}

/// One measured run: counters before, load, counters after, audit. What the audit cannot read leaves the run unclean.
///
/// # Errors
/// If the run could not be made.
pub fn measure(plan: &Plan, sources: &[Source], label: &str, stop: &AtomicBool) -> Result<Run, DriveError> {
    let mut base = None;
    if plan.check && plan.workload.mix.incr > 0 {
        let mut check = Check::new(&plan.workload, plan.run);
        audit::note_counters(plan, &mut check, stop)?;
        base = Some(check);
    }
    let before = scrape(sources);
    let mut progress = Progress::new(label, plan.warm_up + plan.duration);
    let mut outcome = engine::run(plan, stop, &mut progress)?;
    drop(progress);
    let after = scrape(sources);
    if let (Some(mut base), Some(check)) = (base, &mut outcome.check) {
        base.merge(check);
        *check = base;
    }
    let verdict = outcome.check.as_ref().map(|check| audit::at_every_target(plan, check, stop));
    // The audit is a part of the run, and a stop ends it.
    outcome.interrupted |= verdict.is_some() && stop.load(Ordering::Relaxed);
    Ok(Run::new(plan, &outcome, &Truth::between(&before, &after), verdict))
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
    if let Some(rate) = arguments.rate {
        sendable(rate, load_arguments.threads)?;
    }
    if load_arguments.check && !arguments.mix.writes() {
        return Err("--check reads back what was written: it needs a --mix that writes".to_owned());
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
    let preload = if arguments.preload {
        let mut progress = Progress::new("preload", PRELOAD_LIMIT);
        Some(preload(&plan, PRELOAD_LIMIT, stop, &mut progress)?)
    } else {
        None
    };
    let run = Run { preload, ..measure(&plan, &sources, "run", stop)? }.judged();

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_run_has_its_own_name_though_the_clock_stands_still_or_is_set_back() {
        let last = AtomicU64::new(0);
        let times = [1000, 1000, 1000, 1001, 1, 1000, 1005, 1006];
        let mut names: BTreeSet<u64> = times.into_iter().map(|now| name_at(now, &last, 1)).collect();
        assert_eq!(names.len(), times.len());
        // Another process may begin at the same time.
        assert!(names.insert(name_at(1000, &AtomicU64::new(0), 2)));
        assert_ne!(run_name(), run_name());
    }
}
