//! `panch-loadgen`: measures panch, or any server that speaks RESP. See the library for how.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::Parser;
use mimalloc::MiMalloc;
use panch_loadgen::cli::{
    Cli, Command, CompareArgs, EXIT_INTERRUPTED, EXIT_IO, EXIT_NO_VERDICT, EXIT_UNCLEAN, EXIT_USAGE,
};
use panch_loadgen::drive::DriveError;
use panch_loadgen::{cluster, compare, drive, host, json, local, report};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("panch-loadgen: {error:#}");
            ExitCode::from(match error.downcast_ref::<DriveError>() {
                Some(error) if error.is_interruption() => EXIT_INTERRUPTED,
                Some(DriveError::Usage(_)) => EXIT_USAGE,
                _ => EXIT_IO,
            })
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    cluster::clean_up_on_panic();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot handle signals")?;
    }
    let path = match &cli.command {
        Command::Local(arguments) => &arguments.load.json,
        Command::Run(arguments) => &arguments.load.json,
        Command::Compare(arguments) => &arguments.json,
    };
    check_writable(path.as_deref())?;
    let report = match &cli.command {
        Command::Local(arguments) => local::run(arguments, &stop)?,
        Command::Run(arguments) => drive::run(arguments, &stop)?,
        Command::Compare(arguments) => return compare(arguments, &stop),
    };
    // The measurement is shown even if it cannot be written.
    let written = write_json(path.as_deref(), || json::render(&report));
    print(&report::render(&report, color()))?;
    written?;
    let is_clean = report.runs.iter().all(|run| run.clean);
    let is_limited = report.runs.iter().any(|run| run.no_verdict.is_some());
    Ok(exit_code(report.runs.iter().any(|run| run.interrupted), is_clean, is_limited))
}

fn compare(arguments: &CompareArgs, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
    let comparison = compare::run(arguments, stop)?;
    let written = write_json(arguments.json.as_deref(), || json::render(&comparison));
    let width = host::terminal_width().unwrap_or(compare::table::WIDE);
    print(&compare::table::render(&comparison, width, color()))?;
    written?;
    // Protocols are compared at equal load of the client, so its limit is said and does not fail the comparison.
    Ok(exit_code(comparison.interrupted, comparison.clean, false))
}

fn exit_code(interrupted: bool, clean: bool, limited: bool) -> ExitCode {
    match (interrupted, clean, limited) {
        (true, _, _) => ExitCode::from(EXIT_INTERRUPTED),
        (false, false, _) => ExitCode::from(EXIT_UNCLEAN),
        (false, true, true) => ExitCode::from(EXIT_NO_VERDICT),
        (false, true, false) => ExitCode::SUCCESS,
    }
}

/// Before anything is measured: a path that cannot be written costs no measurement.
fn check_writable(path: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let opened = std::fs::File::options().create(true).append(true).open(path);
    opened.map(drop).with_context(|| format!("cannot write {}, named by --json", path.display()))
}

fn write_json(path: Option<&Path>, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, text()).with_context(|| format!("cannot write {}", path.display()))
}

fn color() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads may stop early, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write the report"),
    }
}
