//! `panch-bench`: the experiments. See the library for how.

use std::io::Write;
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
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Experiments with panch on this machine. Everything that an experiment starts is gone when it ends.
///
/// Exit codes: 0 done and every promise kept, 1 a promise broken or the run spoilt, 64 usage, 69 a program is missing, 74
/// the machine failed, 130 interrupted.
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
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            eprintln!("panch-bench: cannot handle signals: {error}");
            return ExitCode::from(74);
        }
    }
    match run(&cli.experiment, &stop) {
        Ok((text, kept)) => {
            let mut out = std::io::stdout().lock();
            // Whoever reads may stop early, as `head` does.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            ExitCode::from(u8::from(!kept))
        }
        Err(failure) => {
            eprintln!("panch-bench: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(experiment: &Experiment, stop: &AtomicBool) -> Result<(String, bool), Failure> {
    match experiment {
        Experiment::Ordinary(arguments) => Ok((ordinary::run(arguments, stop)?, true)),
        Experiment::SideBySide(arguments) => Ok((side_by_side::run(arguments, stop)?, true)),
        Experiment::Cost(arguments) => cost::run(arguments, stop),
        Experiment::Memory(arguments) => memory::run(arguments, stop),
        Experiment::Catchup(arguments) => catchup::run(arguments, stop),
    }
}
