//! `compare`: the same work for each protocol in turn, each on a fresh local cluster, and one table.
//!
//! First every protocol does what it can, in a closed loop; then all of them do the same, in an open loop of a part of what the slowest
//! did, because latencies at different throughputs say little about each other. Both several times, in a random order.
//!
//! Invariants:
//! * Every protocol gets the same schedule: the workload's draws depend on the seed alone, and a cluster starts empty.
//! * A figure counts the measured window alone. What the nodes count is read when the window opens and when it closes, and is
//!   divided by what they took in between.
//! * A node that runs another protocol than the one asked for is a failure, not a figure.
//! * One protocol that fails does not keep the others from being measured; it is named, and the exit code is not 0.

pub mod comparison;
pub mod figures;
mod noise;
pub mod order;
mod phases;
mod remarks;
mod settings;
pub mod table;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::audit;
use crate::cli::{CompareArgs, ProtocolKind};
use crate::cluster::{Cluster, ClusterError};
use crate::drive::DriveError;
use crate::engine::{self, EngineError, Plan};
use crate::local::START_PATIENCE;
use crate::preload::preload;
use crate::quantity::{Period, short};
use crate::report::Run;
use crate::stderr;
use crate::truth::{Snapshot, Source, Truth, scrape};

pub use comparison::{Agreement, Comparison, Entry, EqualLoad, Measured, SCHEMA, Series};
use order::Order;
use phases::Phases;

/// How long giving every key a value may take, if the mix reads.
const PRELOAD_LIMIT: Duration = Duration::from_secs(10);
/// How long nodes may take to execute what the others have.
const AGREEMENT_PATIENCE: Duration = Duration::from_secs(10);

/// `panch-loadgen compare`.
///
/// # Errors
/// If the options do not fit, or there is no daemon. What befalls a single protocol is part of the result.
pub fn run(arguments: &CompareArgs, stop: &AtomicBool) -> Result<Comparison, DriveError> {
    let workload = settings::workload(arguments).map_err(DriveError::Usage)?;
    let plan = settings::plan(arguments, workload).map_err(DriveError::Usage)?;
    let equal_part = settings::equal_part(arguments).map_err(DriveError::Usage)?;
    let order_seed = settings::order_seed(arguments).map_err(DriveError::Usage)?;
    stderr::line(settings::announcement(arguments, equal_part.is_some()));
    let comparison = Comparison {
        schema: SCHEMA.to_owned(),
        title: settings::title(arguments),
        environment: settings::facts(arguments, &plan, equal_part.is_some()),
        replicas: arguments.replicas,
        batch: arguments.batch,
        order_seed,
        protocols: entries(&arguments.protocols, arguments.replicas),
        ..Comparison::default()
    };
    let order = Order::new(order_seed, arguments.protocols.len());
    let mut campaign = Campaign { arguments, stop, comparison, order, position: 0 };
    campaign.measure_rounds(&plan, "", |entry| &mut entry.main)?;
    let comparison = campaign.comparison.judged();
    let equal_part = equal_part.filter(|_| !comparison.interrupted);
    let equal_load = equal_part.and_then(|part| comparison.part_of_slowest(part));
    let equal_plan = equal_load.as_ref().map(|load| settings::at_rate(&plan, load.rate));
    campaign.comparison = Comparison { equal_load, ..comparison };
    if let Some(plan) = equal_plan {
        campaign.measure_rounds(&plan, "equal load, ", |entry| &mut entry.equal_load)?;
    }
    Ok(campaign.comparison.judged())
}

/// A comparison under way.
struct Campaign<'a> {
    arguments: &'a CompareArgs,
    stop: &'a AtomicBool,
    comparison: Comparison,
    order: Order,
    /// How many runs there were.
    position: u32,
}

impl Campaign<'_> {
    /// Measures every protocol that has not failed so often as was asked for, until a stop. `name` goes before the place of each run.
    fn measure_rounds(
        &mut self,
        plan: &Plan,
        name: &str,
        series: fn(&mut Entry) -> &mut Series,
    ) -> Result<(), DriveError> {
        for round in 1..=self.arguments.repeat {
            for (place, index) in (1..).zip(self.order.round()) {
                let entry = &mut self.comparison.protocols[index];
                if entry.failure.is_some() {
                    continue;
                }
                self.position += 1;
                let place = settings::place(self.arguments, round, place);
                let mut phases = Phases::new(&format!("[{name}{place}] {}", entry.label));
                match measure(self.arguments, self.arguments.protocols[index], plan, &mut phases, self.stop) {
                    Ok(measured) => {
                        self.comparison.interrupted |= measured.run.interrupted;
                        let position = Some(self.position);
                        series(entry).rounds.push(Measured { position, ..measured });
                    }
                    Err(error) if error.is_interruption() => {
                        self.comparison.interrupted = true;
                        return Ok(());
                    }
                    Err(error @ DriveError::Cluster(ClusterError::NoDaemon(_))) => return Err(error),
                    Err(error) => {
                        phases.failed();
                        entry.failure = Some(error.to_string());
                    }
                }
            }
        }
        Ok(())
    }
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

/// One protocol from start to audit. The cluster is gone afterwards in any case.
fn measure(
    arguments: &CompareArgs,
    protocol: ProtocolKind,
    plan: &Plan,
    phases: &mut Phases,
    stop: &AtomicBool,
) -> Result<Measured, DriveError> {
    let cluster_plan = settings::cluster_plan(arguments, protocol);
    let begin = Instant::now();
    phases.begin(&format!("start: {} nodes in {}", cluster_plan.replicas, cluster_plan.folder.display()));
    let mut cluster = Cluster::start(&cluster_plan, START_PATIENCE, stop)?;
    let sources = cluster.sources();
    let targets = cluster.addresses().iter().map(|addresses| addresses.native).collect();
    let plan = settings::for_protocol(plan, arguments, protocol, targets);
    let mut before = scrape(&sources);
    runs(protocol, &before).map_err(DriveError::Mismatch)?;
    phases.end(&format!("serve after {}", seconds(begin.elapsed())));

    let mut preloaded = None;
    if plan.workload.mix.reads() {
        phases.begin("preload: every key gets a value");
        let preload = preload(&plan, PRELOAD_LIMIT, stop, phases)?;
        phases.end(&preload.remarks().join("; "));
        preloaded = Some(preload);
        // What the preload costs is no cost of the run.
        before = scrape(&sources);
    }
    phases.begin(&format!("warm-up: {}", Period(plan.warm_up)));
    phases.measure(&sources, plan.duration);
    let mut outcome = engine::run(&plan, stop, phases)?;
    let scrapes = phases.take_scrapes();
    if outcome.interrupted {
        return Err(EngineError::Interrupted.into());
    }
    phases.end(&format!("{} commands/s", short(outcome.throughput())));
    cluster.check_alive()?;

    phases.begin("stop: compare the nodes' states, read writes back, remove everything");
    let after = scrape(&sources);
    let agreement = agreement(&sources, AGREEMENT_PATIENCE, stop).ok_or(EngineError::Interrupted)?;
    let verdict = outcome.check.as_ref().map(|check| audit::at_targets_in_turn(&plan, check, stop));
    // The audit is a part of the run, and a stop ends it.
    outcome.interrupted |= verdict.is_some() && stop.load(Ordering::Relaxed);
    // What was measured was so before: a node that ended since then does not take it along.
    let failure = cluster.check_alive().err().map(|error| error.to_string());
    drop(cluster);
    phases.end("");
    let run = Run::new(&plan, &outcome, &Truth::between(&before, &after), verdict);
    let run = Run { preload: preloaded, ..run }.judged();
    let window = Truth::between(&scrapes.opened, &scrapes.closed);
    Ok(Measured { failure, ..Measured::new(protocol, run, &window, agreement) })
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

#[cfg(test)]
mod tests;
