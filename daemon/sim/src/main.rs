//! `panch-sim`: sweeps over seeds, replays of one, scenarios, bounded exhaustive checks, and mutants.
//!
//! Code under test may abort the process, so whatever may fail runs in a child process: see [`child`].

mod checks;
mod child;
#[cfg(feature = "mutants")]
mod mutants;
mod scenarios;
mod sweep;

use std::ops::Range;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use panch_sim::settings::Mix;

/// Tries to break panch: the same replicas and the same log as in the daemon, in a virtual world with virtual time.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    sweep: Sweep,
}

#[derive(Args)]
struct Sweep {
    /// Seeds to run, for example 0..1000.
    #[arg(long, value_parser = seeds, value_name = "FROM..TO")]
    seeds: Option<Range<u64>>,
    /// One seed to run.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Print everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Nothing is the matter but one weakness that lasts, of a link, a disk or a node; the speed of all others is judged.
    #[arg(long)]
    gray: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Args, Clone, Copy)]
struct Cluster {
    /// The protocol, or `mixed`: several groups of any.
    #[arg(long, default_value = "multi", value_parser = mix, value_name = "PROTOCOL")]
    protocol: Mix,
    /// Replicas of every group.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    replicas: u8,
    /// Child processes at once.
    #[arg(long, alias = "jobs", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    threads: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the scripted scenarios: all, or those named.
    Scenarios {
        /// For example T-M4.
        names: Vec<String>,
    },
    /// Tries every schedule of small groups, within bounds: all configurations, or those named.
    Check {
        /// For example fast-5-t-f1, or the beginning of several names.
        names: Vec<String>,
        /// States to look at in each configuration, instead of its own number.
        #[arg(long)]
        states_max: Option<usize>,
        /// Configurations at once.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
        threads: u8,
    },
    /// Removes each safety rule in turn and requires that a scenario, a bounded exhaustive check or a seed notices.
    #[cfg(feature = "mutants")]
    Mutants {
        /// Seeds to run for each rule that no scenario and no check catches.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// States to look at in each configuration of the check; 0: its own number.
        #[arg(long, default_value_t = 20_000)]
        states: usize,
        /// Do not stop at what catches a rule first: report all that does.
        #[arg(long)]
        table: bool,
        /// Only these rules, by name.
        #[arg(long)]
        rule: Vec<String>,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Runs seeds and reports on the standard output, for the parent process.
    #[command(hide = true)]
    Child(child::Work),
}

fn seeds(text: &str) -> anyhow::Result<Range<u64>> {
    let (from, to) = text.split_once("..").context("write FROM..TO, for example 0..1000")?;
    let range = from.parse()?..to.parse()?;
    if range.is_empty() {
        bail!("there are no seeds in {text}");
    }
    Ok(range)
}

fn mix(text: &str) -> anyhow::Result<Mix> {
    Mix::from_name(text).with_context(|| format!("write one of {}", Mix::NAMES.join(", ")))
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let passed = match cli.command {
        Some(Command::Scenarios { names }) => scenarios::run(&names)?,
        Some(Command::Check { names, states_max, threads }) => checks::run(&names, states_max, threads)?,
        #[cfg(feature = "mutants")]
        Some(Command::Mutants { seeds, states, table, rule, cluster }) => {
            mutants::run(mutants::Effort { seeds, states, table, cluster }, &rule)?
        }
        Some(Command::Child(work)) => child::work(&work)?,
        None => {
            let Sweep { seeds, seed, trace, gray, cluster } = cli.sweep;
            let range = match (seeds, seed) {
                (Some(range), _) => range,
                (None, Some(seed)) => seed..seed + 1,
                (None, None) => bail!("say which seeds: --seeds 0..1000"),
            };
            if trace { sweep::trace(range.start, gray, cluster) } else { sweep::run(range, gray, cluster)? }
        }
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
