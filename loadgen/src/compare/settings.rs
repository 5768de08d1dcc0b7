//! What the options of a comparison ask for: the load, the clusters, the order, and what a report says of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::order;
use crate::cli::{CompareArgs, Mode, OrderArg, ProtocolKind, measurable, sendable};
use crate::cluster::ClusterPlan;
use crate::connection::{PIPELINE_MAX, Protocol, pipeline_max};
use crate::drive::{environment_facts, run_name};
use crate::engine::Plan;
use crate::host::{self, Environment};
use crate::keys::KeyDistribution;
use crate::local::{START_PATIENCE, daemon_beside_this_program, durability_fact, open_pipeline};
use crate::quantity::{Period, Size};
use crate::schedule::{Arrivals, Load};
use crate::workload::{Mix, TAG_SIZE, Workload};

/// How long the last answers may take.
const DRAIN: Duration = Duration::from_secs(5);
/// An open loop drops what it could not send for so long.
const DROP_AFTER: Duration = Duration::from_secs(10);
/// Clients that propose themselves ask again after so long.
const REPEAT_AFTER: Duration = Duration::from_secs(2);
/// Connections for each node, unless told.
const CONNECTIONS_PER_NODE: usize = 8;
/// The part of what the slowest did that is offered to all, in percent, unless told.
const EQUAL_PERCENT: f64 = 50.0;

pub(super) fn workload(arguments: &CompareArgs) -> Result<Workload, String> {
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
pub(super) fn plan(arguments: &CompareArgs, workload: Workload) -> Result<Plan, String> {
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
    if let Some(rate) = arguments.rate {
        sendable(rate, arguments.threads)?;
    }
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
        // A value without room for its tag cannot be told from an older one; and of reads there is nothing to audit.
        check: arguments.mix.writes() && (arguments.mix.set == 0 || workload.value_size >= TAG_SIZE),
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

/// The same run as an open loop of `rate` commands per second.
pub(super) fn at_rate(plan: &Plan, rate: f64) -> Plan {
    let load = Load::Open { rate, arrivals: Arrivals::Poisson, drop_after: DROP_AFTER };
    Plan { load, pipeline: open_pipeline(plan.pipeline), ..plan.clone() }
}

/// The same run under a name of its own, for one protocol at its nodes. Clients that propose themselves have sessions, which hold fewer
/// outstanding commands.
pub(super) fn for_protocol(
    plan: &Plan,
    arguments: &CompareArgs,
    protocol: ProtocolKind,
    targets: Vec<SocketAddr>,
) -> Plan {
    let is_direct = protocol == ProtocolKind::FastDirect;
    Plan {
        targets,
        run: run_name(),
        pipeline: plan.pipeline.min(pipeline_max(is_direct)),
        direct: is_direct.then_some(arguments.batch as usize),
        repeat_after: is_direct.then_some(REPEAT_AFTER),
        ..plan.clone()
    }
}

/// Which part of what the slowest protocol does in a closed loop is offered to all of them afterwards; `None` if that is not to be measured.
pub(super) fn equal_part(arguments: &CompareArgs) -> Result<Option<f64>, String> {
    let percent = match (arguments.mode, arguments.equal_load) {
        (Mode::Open, Some(percent)) if percent != 0.0 => {
            return Err(
                "an open loop offers all protocols the same as it is; leave out --equal-load".to_owned()
            );
        }
        (Mode::Open, _) => 0.0,
        (Mode::Closed, percent) => percent.unwrap_or(EQUAL_PERCENT),
    };
    if !(0.0..=100.0).contains(&percent) {
        return Err("--equal-load is a percentage, from 0 to 100".to_owned());
    }
    Ok((percent > 0.0).then_some(percent / 100.0))
}

/// From what the order of the protocols is drawn; `None` if it is that of the command line.
pub(super) fn order_seed(arguments: &CompareArgs) -> Result<Option<u64>, String> {
    match (arguments.order, arguments.order_seed) {
        (OrderArg::Listed, Some(_)) => Err("--order-seed is for --order random".to_owned()),
        (OrderArg::Listed, None) => Ok(None),
        (OrderArg::Random, seed) => Ok(Some(seed.unwrap_or_else(order::any_seed))),
    }
}

/// What is said before the first run.
pub(super) fn announcement(arguments: &CompareArgs, at_equal_load: bool) -> String {
    let runs = u64::from(arguments.repeat) * arguments.protocols.len() as u64;
    let runs = if at_equal_load { 2 * runs } else { runs };
    format!(
        "{runs} runs, each {} warm-up and {} measured, on a cluster of its own",
        arguments.warm_up, arguments.duration
    )
}

/// Where a run is: which round, and which of the runs in it, both from 1.
pub(super) fn place(arguments: &CompareArgs, round: u32, place: usize) -> String {
    let of_protocols = format!("{place}/{}", arguments.protocols.len());
    match arguments.repeat {
        1 => of_protocols,
        rounds => format!("round {round}/{rounds}, {of_protocols}"),
    }
}

pub(super) fn cluster_plan(arguments: &CompareArgs, protocol: ProtocolKind) -> ClusterPlan {
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

pub(super) fn title(arguments: &CompareArgs) -> String {
    let load = match (arguments.mode, arguments.rate) {
        (Mode::Open, Some(rate)) => format!("open loop of {rate} commands/s"),
        _ => "closed loop".to_owned(),
    };
    format!(
        "panch-loadgen compare: {} replicas, {load}, native clients of all nodes, durability {}",
        arguments.replicas, arguments.durability
    )
}

pub(super) fn facts(arguments: &CompareArgs, plan: &Plan, at_equal_load: bool) -> Vec<(String, String)> {
    let environment = Environment::read();
    let workload = &plan.workload;
    let folder = folder(arguments);
    let mut file_system = host::file_system(&folder);
    if let Some(disk) = host::disk(&folder) {
        file_system = format!("{file_system} on {disk}");
    }
    let mut outstanding = plan.pipeline.to_string();
    let mut most = plan.pipeline;
    if at_equal_load {
        most = open_pipeline(plan.pipeline);
        outstanding = format!("{outstanding} ({most} at equal load)");
    }
    let direct_max = pipeline_max(true);
    let direct = if arguments.protocols.contains(&ProtocolKind::FastDirect) && most > direct_max {
        format!(" ({} at most {direct_max})", ProtocolKind::FastDirect.label())
    } else {
        String::new()
    };
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
                "{} connections with {outstanding} outstanding commands each{direct}, {} threads",
                plan.connections, plan.threads
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
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn arguments(text: &str) -> CompareArgs {
        let words = ["panch-loadgen", "compare"].into_iter().chain(text.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Compare(arguments) => arguments,
            _ => panic!("not asked for"),
        }
    }

    #[test]
    fn by_default_everything_is_measured_three_times_in_a_drawn_order_and_at_half_load() {
        let default = arguments("");
        assert_eq!((default.repeat, equal_part(&default)), (3, Ok(Some(0.5))));
        assert!(order_seed(&default).unwrap().is_some());
        assert!(announcement(&default, true).starts_with("24 runs, each 1s warm-up and 4s measured"));
        assert!(announcement(&default, false).starts_with("12 runs"));
    }

    #[test]
    fn the_order_and_the_equal_load_are_as_they_are_told() {
        assert_eq!(order_seed(&arguments("--order-seed 7")), Ok(Some(7)));
        assert_eq!(order_seed(&arguments("--order listed")), Ok(None));
        assert!(
            order_seed(&arguments("--order listed --order-seed 7")).unwrap_err().contains("--order random")
        );
        assert_eq!(equal_part(&arguments("--equal-load 0")), Ok(None));
        assert_eq!(equal_part(&arguments("--equal-load 25")), Ok(Some(0.25)));
        assert_eq!(equal_part(&arguments("--mode open --rate 10")), Ok(None));
        assert_eq!(equal_part(&arguments("--mode open --rate 10 --equal-load 0")), Ok(None));
        for text in [
            "--mode open --rate 10 --equal-load 5",
            "--equal-load 101",
            "--equal-load NaN",
            "--equal-load=-1",
        ] {
            assert!(equal_part(&arguments(text)).unwrap_err().contains("--equal-load"), "{text}");
        }
    }

    #[test]
    fn what_was_written_is_audited_if_it_can_be_told_from_older_values() {
        for (text, check) in [
            ("", true),
            ("--mix set=1,get=1", true),
            ("--value-size 15", false),
            ("--value-size 15 --mix incr=1,get=1", true),
            ("--mix get=1", false),
        ] {
            let arguments = arguments(text);
            assert_eq!(plan(&arguments, workload(&arguments).unwrap()).unwrap().check, check, "{text}");
        }
    }

    #[test]
    fn at_equal_load_there_is_room_for_arrivals_that_come_together() {
        let arguments = arguments("--outstanding 10");
        let plan = plan(&arguments, workload(&arguments).unwrap()).unwrap();
        let open = at_rate(&plan, 1234.0);
        assert_eq!((plan.pipeline, open.pipeline), (10, 40));
        assert!(matches!(open.load, Load::Open { rate: 1234.0, arrivals: Arrivals::Poisson, .. }));
        assert_eq!(Plan { load: plan.load, pipeline: plan.pipeline, ..open }, plan);
        let told = |at_equal_load| {
            let facts = facts(&arguments, &plan, at_equal_load);
            facts.into_iter().find(|(name, _)| name == "clients").unwrap().1
        };
        assert_eq!(
            told(true),
            "24 connections with 10 (40 at equal load) outstanding commands each, 1 threads"
        );
        assert_eq!(told(false), "24 connections with 10 outstanding commands each, 1 threads");
    }

    #[test]
    fn clients_that_propose_themselves_have_no_more_outstanding_than_their_sessions_hold_and_that_is_said() {
        let arguments = arguments("--protocols fast,fast-direct --outstanding 100");
        let plan = plan(&arguments, workload(&arguments).unwrap()).unwrap();
        let open = at_rate(&plan, 1.0);
        let pipeline = |plan: &Plan, protocol| for_protocol(plan, &arguments, protocol, Vec::new()).pipeline;
        assert_eq!(pipeline(&plan, ProtocolKind::FastDirect), 100);
        assert_eq!(pipeline(&open, ProtocolKind::FastDirect), 128);
        assert_eq!(pipeline(&open, ProtocolKind::Fast), 400);
        let told = |at_equal_load| {
            let facts = facts(&arguments, &plan, at_equal_load);
            facts.into_iter().find(|(name, _)| name == "clients").unwrap().1
        };
        assert!(
            told(true)
                .contains("100 (400 at equal load) outstanding commands each (fast-direct at most 128),")
        );
        assert!(told(false).contains("100 outstanding commands each,"));
    }
}
