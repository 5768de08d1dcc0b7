//! `panch-loadgen`: measures panch, or any server that speaks RESP. See the library for how.

#![deny(clippy::print_stderr, reason = "it ends the program if nobody reads that; stderr::line does not")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::Parser;
use mimalloc::MiMalloc;
use panch_loadgen::circumstances::Circumstances;
use panch_loadgen::cli::{
    Cli, Command, CompareArgs, EXIT_DATA, EXIT_INTERRUPTED, EXIT_IO, EXIT_NO_INPUT, EXIT_USAGE,
};
use panch_loadgen::compare::Comparison;
use panch_loadgen::diff::DiffError;
use panch_loadgen::drive::DriveError;
use panch_loadgen::output::{Output, print};
use panch_loadgen::report::Report;
use panch_loadgen::{cluster, compare, diff, drive, local, report, stderr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => {
            // Help and version are asked for, and no errors. If nobody reads them, nobody reads that either.
            let _ = told.print();
            return if told.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            stderr::line(format_args!("panch-loadgen: {error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match (error.downcast_ref::<DriveError>(), error.downcast_ref::<DiffError>()) {
        (Some(error), _) if error.is_interruption() => EXIT_INTERRUPTED,
        (Some(DriveError::Usage(_)), _) => EXIT_USAGE,
        (_, Some(DiffError::Unreadable { .. })) => EXIT_NO_INPUT,
        (_, Some(DiffError::NoReport { .. } | DiffError::OtherSchema { .. })) => EXIT_DATA,
        _ => EXIT_IO,
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Local(arguments) => {
            report(arguments.load.json.as_deref(), |stop| local::run(arguments, stop))
        }
        Command::Run(arguments) => report(arguments.load.json.as_deref(), |stop| drive::run(arguments, stop)),
        Command::Compare(arguments) => comparison(arguments),
        Command::Diff(arguments) => {
            print(&mut std::io::stdout().lock(), &diff::run(arguments)?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn report(
    path: Option<&Path>,
    measure: impl FnOnce(&AtomicBool) -> Result<Report, DriveError>,
) -> anyhow::Result<ExitCode> {
    let (output, circumstances, stop) = begin(path)?;
    let report = Report { circumstances, ..measure(&stop)? };
    output.write(&report, |_, color| report::render(&report, color))?;
    Ok(ExitCode::from(report.exit.code))
}

fn comparison(arguments: &CompareArgs) -> anyhow::Result<ExitCode> {
    let (output, circumstances, stop) = begin(arguments.json.as_deref())?;
    let comparison = Comparison { circumstances, ..compare::run(arguments, &stop)? };
    output.write(&comparison, |width, color| compare::table::render(&comparison, width, color))?;
    Ok(ExitCode::from(comparison.exit.code))
}

/// What every measurement begins with: where its report will go, how it came to be, and what a signal sets.
fn begin(path: Option<&Path>) -> anyhow::Result<(Output, Circumstances, Arc<AtomicBool>)> {
    cluster::clean_up_on_panic();
    // A pipe that nobody reads yet is waited for. Until signals are handled, they end that.
    let output = Output::new(path)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot handle signals")?;
    }
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    Ok((output, Circumstances::now(arguments), stop))
}
