//! `compare`: the same work for each protocol in turn, each on a fresh local cluster, and one table.
//!
//! Invariants:
//! * Every protocol gets the same schedule: the workload's draws depend on the seed alone, and a cluster starts empty.
//! * A figure counts the measured window alone. What the nodes count is read when the window opens and when it closes, and is
//!   divided by what they took in between.
//! * A node that runs another protocol than the one asked for is a failure, not a figure.
//! * One protocol that fails does not keep the others from being measured; it is named, and the exit code is not 0.

pub mod figures;
mod phases;
pub mod table;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::check::{Check, Verdict};
use crate::circumstances::{Circumstances, Exit};
use crate::cli::{CompareArgs, Mode, ProtocolKind, measurable};
use crate::cluster::{Cluster, ClusterError, ClusterPlan};
use crate::connection::{PIPELINE_MAX, Protocol};
use crate::control::Control;
use crate::drive::{DriveError, PATIENCE, audit_level, environment_facts, preload_with, run_name};
use crate::engine::{self, EngineError, Plan};
use crate::host::{self, Environment};
use crate::json::pairs;
use crate::keys::{KeyDistribution, KeyText};
use crate::local::{START_PATIENCE, daemon_beside_this_program, durability_fact};
use crate::quantity::{Period, Size, short};
use crate::report::{Run, distinct};
use crate::schedule::{Arrivals, Load};
use crate::truth::{Snapshot, Source, Truth, scrape};
use crate::workload::{Mix, TAG_SIZE, Workload};

use figures::Figures;
use phases::Phases;

/// How long giving every key a value may take, if the mix reads.
const PRELOAD_LIMIT: Duration = Duration::from_secs(10);
/// How long the last answers may take.
const DRAIN: Duration = Duration::from_secs(5);
/// Clients that propose themselves ask again after so long.
const REPEAT_AFTER: Duration = Duration::from_secs(2);
/// An open loop drops what it could not send for so long.
const DROP_AFTER: Duration = Duration::from_secs(10);
/// How long nodes may take to execute what the others have.
const AGREEMENT_PATIENCE: Duration = Duration::from_secs(10);
/// Connections for each node, unless told.
const CONNECTIONS_PER_NODE: usize = 8;

/// The layout of a [`Comparison`] as JSON.
pub const SCHEMA: &str = "panch-loadgen-compare/1";

/// Whether all nodes ended up in the same state. As JSON: `"equal"`, what the difference was, or `null`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(from = "Option<String>", into = "Option<String>")]
pub enum Agreement {
    /// All digests of all groups are equal on all nodes.
    Equal,
    /// They were not, all the time that was waited.
    Different(String),
    /// Some node did not tell.
    #[default]
    Untold,
}

/// The word for [`Agreement::Equal`].
const EQUAL: &str = "equal";

impl From<Option<String>> for Agreement {
    fn from(text: Option<String>) -> Self {
        match text {
            None => Self::Untold,
            Some(text) if text == EQUAL => Self::Equal,
            Some(difference) => Self::Different(difference),
        }
    }
}

impl From<Agreement> for Option<String> {
    fn from(agreement: Agreement) -> Self {
        match agreement {
            Agreement::Equal => Some(EQUAL.to_owned()),
            Agreement::Different(difference) => Some(difference),
            Agreement::Untold => None,
        }
    }
}

/// One protocol, measured once.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// The numbers of the table, of the measured window.
    pub window: Figures,
    /// How much everything that the nodes count grew within the window, over all nodes, for whoever wants another ratio; empty if that is
    /// not known.
    pub counters: BTreeMap<String, f64>,
    /// Why it is not: see [`Truth::missing`].
    pub counters_missing: Vec<String>,
    /// The state of the nodes afterwards.
    pub digests: Agreement,
    /// All of the run that every report has.
    pub run: Run,
}

impl Measured {
    fn new(protocol: ProtocolKind, run: Run, window: &Truth, digests: Agreement) -> Self {
        let counters = window
            .growths()
            .filter(|(name, growth)| {
                growth.is_finite() && (name.starts_with("counter_") || name.ends_with("_total"))
            })
            .map(|(name, growth)| (name.to_owned(), growth))
            .collect();
        Self {
            window: Figures::new(protocol, &run, window),
            counters,
            counters_missing: window.missing.clone(),
            digests,
            run,
        }
    }

    /// Whether nothing went wrong.
    pub fn is_clean(&self) -> bool {
        self.run.clean && self.is_counted() && self.digests == Agreement::Equal
    }

    /// Whether the counters of all nodes were read at both ends of the window.
    pub fn is_counted(&self) -> bool {
        !self.counters.is_empty()
    }
}

/// One protocol in all rounds: a row of the table.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Which, as a config has it.
    pub protocol: String,
    /// What it is called: its name, and a number if it was asked for several times.
    pub label: String,
    /// Messages per batch by the requirement document's formula, least and most: see [`figures::seed_model`].
    #[serde(rename = "seed_model_messages_per_batch")]
    pub model: (f64, f64),
    /// Why there is no more.
    pub failure: Option<String>,
    /// What was measured, round by round.
    pub rounds: Vec<Measured>,
}

/// Everything that a comparison found.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// The layout: [`SCHEMA`].
    pub schema: String,
    /// One line.
    pub title: String,
    /// How it came to be.
    #[serde(flatten)]
    pub circumstances: Circumstances,
    /// Lines of name and value on the machine and the settings.
    #[serde(with = "pairs")]
    pub environment: Vec<(String, String)>,
    /// Number of nodes.
    pub replicas: u8,
    /// Commands at which a batch is complete.
    #[serde(rename = "batch_commands")]
    pub batch: u32,
    /// It was stopped before its end.
    #[serde(default)]
    pub interrupted: bool,
    /// Every protocol was measured, and nothing went wrong.
    #[serde(default)]
    pub clean: bool,
    /// The rows.
    pub protocols: Vec<Entry>,
    /// What has to be said about the numbers, a line each.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// How the program ended.
    #[serde(flatten)]
    pub exit: Exit,
}

impl Comparison {
    /// With what follows from the numbers: the ratios to Multi-Paxos, whether all is clean, and what has to be said.
    #[must_use]
    pub fn judged(mut self) -> Self {
        relate(&mut self.protocols);
        self.clean = !self.interrupted
            && self.protocols.iter().all(|entry| {
                entry.failure.is_none()
                    && !entry.rounds.is_empty()
                    && entry.rounds.iter().all(Measured::is_clean)
            });
        self.remarks = table::remarks(&self);
        // Protocols are compared at equal load of the client, so its limit is said and does not fail the comparison.
        self.exit = Exit::of(self.interrupted, self.clean, false);
        self
    }

    /// Which programs the servers of all rounds are, each once.
    pub fn server_versions(&self) -> Vec<String> {
        let rounds = self.protocols.iter().flat_map(|entry| &entry.rounds);
        distinct(rounds.flat_map(|round| &round.run.server_versions))
    }
}

/// `panch-loadgen compare`.
///
/// # Errors
/// If the options do not fit, or there is no daemon. What befalls a single protocol is part of the result.
pub fn run(arguments: &CompareArgs, stop: &AtomicBool) -> Result<Comparison, DriveError> {
    let workload = workload(arguments).map_err(DriveError::Usage)?;
    let plan = plan(arguments, workload).map_err(DriveError::Usage)?;
    let mut comparison = Comparison {
        schema: SCHEMA.to_owned(),
        title: title(arguments),
        environment: facts(arguments, &plan),
        replicas: arguments.replicas,
        batch: arguments.batch,
        protocols: entries(&arguments.protocols, arguments.replicas),
        ..Comparison::default()
    };
    'rounds: for round in 0..arguments.repeat {
        for (index, protocol) in arguments.protocols.iter().enumerate() {
            let entry = &mut comparison.protocols[index];
            if entry.failure.is_some() {
                continue;
            }
            let place = place(arguments, round, index);
            let mut phases = Phases::new(&format!("{place} {}", entry.label));
            match measure(arguments, *protocol, &plan, &mut phases, stop) {
                Ok(measured) => entry.rounds.push(measured),
                Err(error) if error.is_interruption() => {
                    comparison.interrupted = true;
                    break 'rounds;
                }
                Err(error @ DriveError::Cluster(ClusterError::NoDaemon(_))) => return Err(error),
                Err(error) => {
                    phases.failed();
                    entry.failure = Some(error.to_string());
                }
            }
        }
    }
    Ok(comparison.judged())
}

/// Rows for the protocols; those that are named several times are numbered.
fn entries(protocols: &[ProtocolKind], replicas: u8) -> Vec<Entry> {
    let label = |index: usize, protocol: ProtocolKind| {
        let count = |kinds: &[ProtocolKind]| kinds.iter().filter(|kind| **kind == protocol).count();
        match count(protocols) {
            1 => protocol.label().to_owned(),
            _ => format!("{} #{}", protocol.label(), count(&protocols[..=index])),
        }
    };
    let entry = |(index, protocol): (usize, &ProtocolKind)| Entry {
        protocol: protocol.word().to_owned(),
        label: label(index, *protocol),
        model: figures::seed_model(*protocol, replicas),
        ..Entry::default()
    };
    protocols.iter().enumerate().map(entry).collect()
}

/// Each throughput in relation to that of Multi-Paxos in the same round: the machine's speed may drift between rounds.
fn relate(entries: &mut [Entry]) {
    let base: Vec<f64> = match entries.iter().find(|entry| entry.protocol == ProtocolKind::Multi.word()) {
        Some(multi) => multi.rounds.iter().map(|round| round.window.throughput).collect(),
        None => return,
    };
    for entry in entries {
        for (round, base) in entry.rounds.iter_mut().zip(&base).filter(|(_, base)| **base > 0.0) {
            round.window.to_multi = Some(round.window.throughput / base);
        }
    }
}

fn place(arguments: &CompareArgs, round: u32, index: usize) -> String {
    let of_protocols = format!("{}/{}", index + 1, arguments.protocols.len());
    match arguments.repeat {
        1 => format!("[{of_protocols}]"),
        rounds => format!("[round {}/{rounds}, {of_protocols}]", round + 1),
    }
}

/// One protocol from start to audit. The cluster is gone afterwards in any case.
fn measure(
    arguments: &CompareArgs,
    protocol: ProtocolKind,
    plan: &Plan,
    phases: &mut Phases,
    stop: &AtomicBool,
) -> Result<Measured, DriveError> {
    let cluster_plan = cluster_plan(arguments, protocol);
    let begin = Instant::now();
    phases.begin(&format!("start: {} nodes in {}", cluster_plan.replicas, cluster_plan.folder.display()));
    let mut cluster = Cluster::start(&cluster_plan, START_PATIENCE, stop)?;
    let sources = cluster.sources();
    let targets = cluster.addresses().iter().map(|addresses| addresses.native).collect();
    let is_direct = protocol == ProtocolKind::FastDirect;
    let plan = Plan {
        targets,
        run: run_name(),
        direct: is_direct.then_some(arguments.batch as usize),
        repeat_after: is_direct.then_some(REPEAT_AFTER),
        ..plan.clone()
    };
    let before = scrape(&sources);
    runs(protocol, &before).map_err(DriveError::Mismatch)?;
    phases.end(&format!("serve after {}", seconds(begin.elapsed())));

    if plan.workload.mix.reads() {
        phases.begin("preload: every key gets a value");
        preload_with(&plan, PRELOAD_LIMIT, stop, phases)?;
        phases.end("");
    }
    phases.begin(&format!("warm-up: {}", Period(plan.warm_up)));
    phases.measure(&sources, plan.duration);
    let outcome = engine::run(&plan, stop, phases)?;
    let scrapes = phases.take_scrapes();
    if outcome.interrupted {
        return Err(EngineError::Interrupted.into());
    }
    phases.end(&format!("{} commands/s", short(outcome.throughput())));
    cluster.check_alive()?;

    phases.begin("stop: compare the nodes' states, read writes back, remove everything");
    let after = scrape(&sources);
    let agreement = agreement(&sources, AGREEMENT_PATIENCE, stop).ok_or(EngineError::Interrupted)?;
    let verdict = match &outcome.check {
        Some(check) => Some(audit(&plan, check)?),
        None => None,
    };
    cluster.check_alive()?;
    drop(cluster);
    phases.end("");
    let run = Run::new(&plan, &outcome, &Truth::between(&before, &after), verdict);
    Ok(Measured::new(protocol, run, &Truth::between(&scrapes.opened, &scrapes.closed), agreement))
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

/// Whether all groups of all nodes say that they run `protocol`, as far as they say it.
fn runs(protocol: ProtocolKind, nodes: &[Option<Snapshot>]) -> Result<(), String> {
    for (number, node) in (1..).zip(nodes) {
        let _: usize = number;
        let Some(node) = node else { return Err(format!("node {number} does not answer INFO")) };
        for (group, line) in &node.groups {
            if let Some(told) = line.protocol.as_deref().filter(|told| *told != protocol.word()) {
                return Err(format!(
                    "asked for {}, but {group} of node {number} runs {told}",
                    protocol.word()
                ));
            }
        }
    }
    Ok(())
}

/// Waits until the digests of every group are the same on all nodes. `None` if a stop came first.
fn agreement(sources: &[Source], patience: Duration, stop: &AtomicBool) -> Option<Agreement> {
    let deadline = Instant::now() + patience;
    loop {
        let agreement = compare_digests(&scrape(sources));
        if Instant::now() >= deadline || !matches!(agreement, Agreement::Different(_)) {
            return Some(agreement);
        }
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn compare_digests(nodes: &[Option<Snapshot>]) -> Agreement {
    let Some(Some(first)) = nodes.first() else { return Agreement::Untold };
    if first.groups.is_empty() {
        return Agreement::Untold;
    }
    for (number, node) in (1..).zip(nodes) {
        let _: usize = number;
        let Some(node) = node else { return Agreement::Untold };
        for (group, expected) in &first.groups {
            let (Some(expected), Some(found)) =
                (&expected.digest, node.groups.get(group).and_then(|line| line.digest.as_ref()))
            else {
                return Agreement::Untold;
            };
            if expected != found {
                return Agreement::Different(format!(
                    "{group}: digest {expected} on node 1, {found} on node {number}"
                ));
            }
        }
    }
    Agreement::Equal
}

/// Reads the sampled keys back, each from another node in turn: that all nodes hold the same is compared by digest.
fn audit(plan: &Plan, check: &Check) -> Result<Verdict, DriveError> {
    let mut text = KeyText::new(plan.workload.key_size);
    let failed = |address| move |error: io::Error| DriveError::Audit { address, error };
    let mut readers = Vec::new();
    for address in &plan.targets {
        let level = audit_level(&plan.workload);
        let control = Control::connect(*address, plan.protocol, level, PATIENCE).map_err(failed(*address))?;
        readers.push((*address, control));
    }
    let mut turn = 0;
    check.audit(|kind, key| {
        turn = (turn + 1) % readers.len();
        let (address, control) = &mut readers[turn];
        control.read(&mut text, kind, key).map_err(failed(*address))
    })
}

fn workload(arguments: &CompareArgs) -> Result<Workload, String> {
    if !(0.0..=100.0).contains(&arguments.conflict) {
        return Err("--conflict is a percentage, from 0 to 100".to_owned());
    }
    let keys = match arguments.conflict {
        0.0 => KeyDistribution::Uniform,
        percent => KeyDistribution::Hot { percent },
    };
    let workload = Workload {
        mix: arguments.mix,
        keys,
        key_count: arguments.key_count.0,
        key_size: 16,
        value_size: usize::try_from(arguments.value_size.0).unwrap_or(usize::MAX),
        read_level: arguments.read_level.into(),
        seed: arguments.seed,
    };
    workload.validate()?;
    Ok(workload)
}

/// The run without its targets.
fn plan(arguments: &CompareArgs, workload: Workload) -> Result<Plan, String> {
    let connections = arguments.connections.unwrap_or(CONNECTIONS_PER_NODE * usize::from(arguments.replicas));
    if !(1..=1024).contains(&arguments.threads) {
        return Err("--threads is from 1 to 1024".to_owned());
    }
    if connections < arguments.threads {
        return Err(format!("--connections must be at least --threads, {}", arguments.threads));
    }
    if !(1..=PIPELINE_MAX).contains(&arguments.outstanding) {
        return Err(format!("--outstanding is from 1 to {PIPELINE_MAX}"));
    }
    measurable(arguments.duration)?;
    let load = match (arguments.mode, arguments.rate) {
        (Mode::Closed, None) => Load::Closed,
        (Mode::Closed, Some(_)) => return Err("a closed loop has no --rate; add --mode open".to_owned()),
        (Mode::Open, rate) => Load::Open {
            rate: rate.filter(|rate| rate.0 > 0).ok_or("an open loop needs a --rate above zero")?.0 as f64,
            arrivals: Arrivals::Poisson,
            drop_after: DROP_AFTER,
        },
    };
    Ok(Plan {
        targets: Vec::new(),
        protocol: Protocol::Native,
        connections,
        pipeline: arguments.outstanding,
        threads: arguments.threads,
        cpus: Vec::new(),
        load,
        // A value without room for its tag cannot be told from an older one.
        check: arguments.mix.set == 0 || workload.value_size >= TAG_SIZE,
        workload,
        run: 0,
        warm_up: arguments.warm_up.0,
        duration: arguments.duration.0,
        count: None,
        drain: DRAIN,
        connect_timeout: START_PATIENCE,
        spin: Duration::ZERO,
        repeat_after: None,
        direct: None,
    })
}

fn cluster_plan(arguments: &CompareArgs, protocol: ProtocolKind) -> ClusterPlan {
    let cpus = host::allowed_cpus();
    let mut overrides = vec![
        format!("cluster.protocol=\"{}\"", protocol.word()),
        format!("cluster.batch_commands={}", arguments.batch),
        format!("cluster.pipeline_depth={}", arguments.pipeline_depth),
    ];
    overrides.extend_from_slice(&arguments.overrides);
    ClusterPlan {
        panchd: arguments.panchd.clone().unwrap_or_else(daemon_beside_this_program),
        replicas: arguments.replicas,
        groups: arguments.groups,
        durability: arguments.durability.to_string(),
        folder: folder(arguments),
        overrides,
        crowded: cpus.len() < usize::from(arguments.replicas) + arguments.threads,
        cpus,
        keep: false,
    }
}

fn folder(arguments: &CompareArgs) -> PathBuf {
    arguments.dir.clone().unwrap_or_else(std::env::temp_dir)
}

fn title(arguments: &CompareArgs) -> String {
    let load = match (arguments.mode, arguments.rate) {
        (Mode::Open, Some(rate)) => format!("open loop of {rate} commands/s"),
        _ => "closed loop".to_owned(),
    };
    format!(
        "panch-loadgen compare: {} replicas, {load}, native clients of all nodes, durability {}",
        arguments.replicas, arguments.durability
    )
}

fn facts(arguments: &CompareArgs, plan: &Plan) -> Vec<(String, String)> {
    let environment = Environment::read();
    let workload = &plan.workload;
    let folder = folder(arguments);
    let mut file_system = host::file_system(&folder);
    if let Some(disk) = host::disk(&folder) {
        file_system = format!("{file_system} on {disk}");
    }
    let reads = match workload.mix {
        Mix { get: 0, .. } => "no reads".to_owned(),
        mix => mix.to_string(),
    };
    let mut facts = vec![
        (
            "work".to_owned(),
            format!(
                "{} keys, {:.4} % of the commands on one of them; {} B values; {reads}; seed {}; {} warm-up, {} measured",
                workload.key_count,
                match workload.keys {
                    KeyDistribution::Hot { percent } => percent,
                    _ => 0.0,
                },
                Size(arguments.value_size.0),
                workload.seed,
                Period(plan.warm_up),
                Period(plan.duration),
            )
            .replace(".0000 %", " %"),
        ),
        (
            "clients".to_owned(),
            format!(
                "{} connections with {} outstanding commands each, {} threads",
                plan.connections, plan.pipeline, plan.threads
            ),
        ),
        (
            "nodes".to_owned(),
            format!(
                "batches of {}, {} in flight per node and group, {} groups",
                arguments.batch, arguments.pipeline_depth, arguments.groups
            ),
        ),
        ("durability".to_owned(), durability_fact(arguments.durability, &file_system)),
        (
            "placement".to_owned(),
            format!(
                "all {} nodes and the load generator share this one machine and its loopback: {} processes on {} CPUs",
                arguments.replicas,
                arguments.replicas + 1,
                environment.cores
            ),
        ),
    ];
    if !arguments.overrides.is_empty() {
        facts.push(("settings".to_owned(), arguments.overrides.join(" ")));
    }
    facts.extend(environment_facts(&environment));
    facts
}

#[cfg(test)]
mod tests;
