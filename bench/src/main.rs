//! `panch-bench`: the experiments. See the library for how.

#![deny(
    clippy::print_stderr,
    reason = "it ends the program if nobody reads that; stderr::line of panch-loadgen does not"
)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand};
use panch_bench::catchup::CatchupArgs;
use panch_bench::cost::CostArgs;
use panch_bench::failure::Failure;
use panch_bench::memory::MemoryArgs;
use panch_bench::ordinary::OrdinaryArgs;
use panch_bench::side_by_side::SideBySideArgs;
use panch_bench::{catchup, cost, guard, memory, ordinary, side_by_side};
use panch_loadgen::output::Output;
use panch_loadgen::stderr;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Experiments with panch on this machine. Everything that an experiment starts is gone when it ends.
///
/// Exit codes: 0 done and every promise kept, 1 a promise broken or a run spoilt, 3 nothing of that, but the load generator may have been
/// the limit (ordinary), 64 usage, 69 a program is missing, 74 the machine failed, 130 interrupted.
#[derive(Parser, Debug)]
#[command(name = "panch-bench", version, about, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand, Debug)]
enum Experiment {
    /// One and three durable nodes of panch beside Redis at ordinary load: an open loop, and clients without a pipeline
    Ordinary(OrdinaryArgs),
    /// Three durable nodes of panch and one durable Redis under redis-benchmark, in turn; and the native protocol
    SideBySide(SideBySideArgs),
    /// Log writes, packets and io_uring_enter calls per turn and per command
    Cost(CostArgs),
    /// Resident memory: idle, with a million keys, with a follower that stands still
    Memory(MemoryArgs),
    /// How long a node that stood still needs to be level again while the load goes on, with each protocol
    Catchup(CatchupArgs),
}

impl Experiment {
    /// Where its figures are to be written besides.
    fn json(&self) -> Option<&Path> {
        match self {
            Self::Ordinary(arguments) => arguments.json.as_deref(),
            _ => None,
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do if standard error is closed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    panch_loadgen::cluster::clean_up_on_panic();
    guard::clean_up_on_panic();
    // A pipe that nobody reads yet is waited for. Until signals are handled, they end that.
    let output = match Output::new(cli.experiment.json()) {
        Ok(output) => output,
        Err(error) => return failed(&error.into()),
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            stderr::line(format_args!("panch-bench: cannot handle signals: {error}"));
            return ExitCode::from(74);
        }
    }
    match run(&cli.experiment, output, &stop) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    stderr::line(format_args!("panch-bench: {failure}"));
    ExitCode::from(failure.exit_code())
}

/// Runs the experiment and writes what it found: the exit code.
fn run(experiment: &Experiment, output: Output, stop: &AtomicBool) -> Result<u8, Failure> {
    let of_promises = |(text, kept): (String, bool)| (text, u8::from(!kept));
    let (text, code) = match experiment {
        Experiment::Ordinary(arguments) => {
            let report = ordinary::run(arguments, stop)?;
            output.write(&report, |_, _| report.text())?;
            return Ok(report.exit_code());
        }
        Experiment::SideBySide(arguments) => side_by_side::run(arguments, stop)?,
        Experiment::Cost(arguments) => of_promises(cost::run(arguments, stop)?),
        Experiment::Memory(arguments) => of_promises(memory::run(arguments, stop)?),
        Experiment::Catchup(arguments) => of_promises(catchup::run(arguments, stop)?),
    };
    output.write(&(), |_, _| text)?;
    Ok(code)
}
