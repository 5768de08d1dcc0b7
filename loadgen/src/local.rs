//! `local`: a cluster for the time of three runs, and one table.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cli::{DurabilityArg, LoadArgs, LocalArgs, Rate, Via, sendable};
use crate::cluster::{Cluster, ClusterPlan};
use crate::connection::{PIPELINE_MAX, Protocol, pipeline_max};
use crate::drive::{DriveError, environment_facts, measure, run_name, workload_fact};
use crate::engine::{EngineError, Plan};
use crate::host::{self, Environment};
use crate::preload::preload;
use crate::progress::Progress;
use crate::report::{Report, Run};
use crate::schedule::Load;
use crate::stderr;
use crate::truth::scrape;
use crate::workload::Mix;

/// How long the nodes may take until they serve.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long giving every key a value may take.
const PRELOAD_LIMIT: Duration = Duration::from_secs(5);
/// The part of the closed loop's throughput that the open loop asks for.
const OPEN_PART: f64 = 0.5;

/// `panch-loadgen local`: its report, of three runs; of fewer, if there is a stop or a failure in between.
///
/// # Errors
/// If the cluster could not be started, or the first of the runs not be made. The cluster is gone in any case.
pub fn run(arguments: &LocalArgs, stop: &AtomicBool) -> Result<Report, DriveError> {
    let load = &arguments.load;
    let writes = load.workload(Mix::WRITES).map_err(DriveError::Usage)?;
    let mixed = load.workload(arguments.mix).map_err(DriveError::Usage)?;
    let cpus = load.pin.cpus(true).map_err(DriveError::Usage)?;
    if let Rate::Fixed(rate) = arguments.rate {
        sendable(rate, load.threads).map_err(DriveError::Usage)?;
    }
    let cluster_plan = cluster_plan(arguments);
    stderr::line(format_args!(
        "starting {} nodes of {} in {}",
        cluster_plan.replicas,
        cluster_plan.panchd.display(),
        cluster_plan.folder.display()
    ));
    let mut cluster = Cluster::start(&cluster_plan, START_PATIENCE, stop)?;
    let sources = cluster.sources();
    let targets = match arguments.via {
        Via::All => cluster.addresses().iter().map(|addresses| addresses.native).collect(),
        Via::Leader => {
            let leads = scrape(&sources).iter().position(|node| node.as_ref().is_some_and(|node| node.leads));
            vec![cluster.addresses()[leads.unwrap_or(0)].native]
        }
    };
    let closed = Plan {
        targets,
        protocol: Protocol::Native,
        connections: load.connections,
        pipeline: load.outstanding,
        threads: load.threads,
        cpus,
        load: Load::Closed,
        workload: writes,
        run: run_name(),
        warm_up: load.warm_up.0,
        duration: load.duration.0,
        count: None,
        drain: load.drain.0,
        connect_timeout: START_PATIENCE,
        spin: load.spin.0,
        check: load.check,
        repeat_after: load.repeats(),
        direct: None,
    };
    let preload = if arguments.mix.reads() {
        let mut progress = Progress::new("preload", PRELOAD_LIMIT);
        Some(preload(&closed, PRELOAD_LIMIT, stop, &mut progress)?)
    } else {
        None
    };
    let mut runs = vec![measure(&closed, &sources, "closed-write", stop)?];
    let rate = match arguments.rate {
        Rate::Auto => (runs[0].throughput * OPEN_PART).max(1.0),
        Rate::Fixed(rate) => rate.0 as f64,
    };
    // Of a mix that only reads there is nothing to audit.
    let check = load.check && mixed.mix.writes();
    let mixed = Plan { workload: mixed, run: run_name(), check, ..closed.clone() };
    let later = [(mixed, "closed-mixed", preload), (open(&closed, load, rate), "open-write", None)];
    // What was measured is shown, whatever comes after it.
    let end = later.iter().try_for_each(|(plan, label, preload)| {
        cluster.check_alive()?;
        if stop.load(Ordering::Relaxed) {
            return Err(EngineError::Interrupted.into());
        }
        runs.push(Run { preload: preload.clone(), ..measure(plan, &sources, label, stop)? }.judged());
        Ok::<_, DriveError>(())
    });
    let end = end.and_then(|()| Ok(cluster.check_alive()?));
    let facts = facts(arguments, &cluster_plan, &closed, &cluster);
    drop(cluster);
    let noun = if arguments.replicas == 1 { "replica" } else { "replicas" };
    let title = format!("panch-loadgen local: {} {noun} over the native protocol", arguments.replicas);
    let planned = 1 + later.len();
    let remark = |error: &DriveError| format!("{} of {planned} runs were made: {error}", runs.len());
    let shortage = end.err().map(|error| (remark(&error), error.is_interruption()));
    let report = Report::new(title, facts, runs);
    Ok(match shortage {
        Some((remark, is_stop)) => report.cut_short(&remark, is_stop),
        None => report,
    })
}

/// The open loop of `rate` commands per second over the connections of a closed one.
fn open(closed: &Plan, load: &LoadArgs, rate: f64) -> Plan {
    let pipeline = open_pipeline(load.outstanding).min(pipeline_max(load.sessions));
    let load = Load::Open { rate, arrivals: load.arrivals.into(), drop_after: load.drop_after.0 };
    Plan { load, pipeline, run: run_name(), ..closed.clone() }
}

/// An open loop needs more room than a closed one of the same throughput: else arrivals that come together would wait for
/// each other.
pub(crate) fn open_pipeline(pipeline: usize) -> usize {
    pipeline.saturating_mul(4).min(PIPELINE_MAX)
}

fn cluster_plan(arguments: &LocalArgs) -> ClusterPlan {
    let cpus = host::allowed_cpus();
    ClusterPlan {
        panchd: arguments.panchd.clone().unwrap_or_else(daemon_beside_this_program),
        replicas: arguments.replicas,
        groups: arguments.groups,
        durability: arguments.durability.to_string(),
        folder: arguments.dir.clone().unwrap_or_else(std::env::temp_dir),
        overrides: arguments.overrides.clone(),
        crowded: cpus.len() < usize::from(arguments.replicas) + arguments.load.threads,
        cpus,
        keep: arguments.keep,
    }
}

pub(crate) fn daemon_beside_this_program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name("panchd")
}

/// Lines of name and value on the machine and the settings.
fn facts(
    arguments: &LocalArgs,
    plan: &ClusterPlan,
    closed: &Plan,
    cluster: &Cluster,
) -> Vec<(String, String)> {
    let environment = Environment::read();
    let file_system = host::file_system(&plan.folder);
    let mut facts = environment_facts(&environment);
    let processes = usize::from(plan.replicas);
    facts.push((
        "placement".to_owned(),
        format!(
            "client and all replicas share this machine, loopback: {processes} nodes and {} client threads on {} CPUs",
            closed.threads, environment.cores
        ),
    ));
    facts.push(("durability".to_owned(), durability_fact(arguments.durability, &file_system)));
    facts.push((
        "groups".to_owned(),
        format!("{}, clients connect to {}", plan.groups, via_words(arguments.via)),
    ));
    if !plan.overrides.is_empty() {
        facts.push(("settings".to_owned(), plan.overrides.join(" ")));
    }
    facts.push(workload_fact(closed));
    if plan.keep {
        facts.push(("kept".to_owned(), cluster.folder().display().to_string()));
    }
    facts
}

fn via_words(via: Via) -> &'static str {
    match via {
        Via::All => "all nodes in turn",
        Via::Leader => "the leader",
    }
}

pub(crate) fn durability_fact(mode: DurabilityArg, file_system: &str) -> String {
    let on_disk = format!("all replicas on one {file_system}");
    match (mode, file_system) {
        (DurabilityArg::Memory, _) => "MEMORY: nothing is written to disk".to_owned(),
        (DurabilityArg::Periodic, _) => format!("PERIODIC: a power failure loses the last writes; {on_disk}"),
        (DurabilityArg::Sync, "tmpfs" | "ramfs") => {
            format!("sync, BUT {on_disk}, which is memory: name a folder on a disk with --dir")
        }
        (DurabilityArg::Sync, _) => format!("sync: on disk before a vote leaves; {on_disk}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn the_open_loop_has_room_for_more_but_in_sessions_not_for_more_than_those_have() {
        for (options, room) in [("-P 100", 400), ("-P 100 --sessions", 128), ("-P 16 --sessions", 64)] {
            let text = format!("panch-loadgen run --target 127.0.0.1:1 --mode closed {options}");
            let Command::Run(arguments) = Cli::try_parse_from(text.split(' ')).unwrap().command else {
                panic!("not asked for")
            };
            let closed = crate::drive::plan(&arguments).unwrap();
            let open = open(&closed, &arguments.load, 10.0);
            assert_eq!((open.pipeline, open.connections), (room, closed.connections), "{options}");
            assert_ne!(open.run, closed.run);
        }
    }

    #[test]
    fn weak_durability_is_said_loudly() {
        assert!(durability_fact(DurabilityArg::Memory, "ext4").contains("MEMORY"));
        assert!(durability_fact(DurabilityArg::Periodic, "ext4").contains("PERIODIC"));
        assert!(durability_fact(DurabilityArg::Sync, "tmpfs").contains("BUT"));
        assert!(durability_fact(DurabilityArg::Sync, "ext4").starts_with("sync: on disk"));
    }
}
