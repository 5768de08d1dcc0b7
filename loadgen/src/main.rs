//! `panch-loadgen`: measures panch, or any server that speaks RESP. See the library for how.

#![deny(clippy::print_stderr, reason = "it ends the program if nobody reads that; stderr::line does not")]

use std::fs::File;
use std::io::{self, IsTerminal, Write};
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
use panch_loadgen::report::Report;
use panch_loadgen::{cluster, compare, diff, drive, host, json, local, report, stderr};
use serde::Serialize;
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
fn begin(path: Option<&Path>) -> anyhow::Result<(Output<'_>, Circumstances, Arc<AtomicBool>)> {
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

/// Where a report goes: the table to standard output, and JSON to a file if one is named; or JSON to standard output and the table to
/// standard error.
enum Output<'a> {
    Table,
    TableAndFile(&'a Path, File),
    Json,
}

impl<'a> Output<'a> {
    /// Before anything is measured: a path that cannot be written costs no measurement. The file stays open, because whoever reads a pipe
    /// takes its being closed for the end; and what it holds stays until there is a report.
    fn new(path: Option<&'a Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Table) };
        if path == Path::new("-") {
            return Ok(Self::Json);
        }
        let opened = File::options().create(true).write(true).truncate(false).open(path);
        let file = opened.with_context(|| format!("cannot write {}, named by --json", path.display()))?;
        Ok(Self::TableAndFile(path, file))
    }

    /// Writes `report`, of which `table` makes a text of at most so many columns, for a terminal or not. The table comes first: it is shown
    /// even if the rest cannot be written, or nobody reads it yet.
    fn write(self, report: &impl Serialize, table: impl FnOnce(usize, bool) -> String) -> anyhow::Result<()> {
        let (out, error) = (&mut io::stdout().lock(), &mut io::stderr().lock());
        let has_color = |is_terminal: bool| is_terminal && std::env::var_os("NO_COLOR").is_none();
        let shown = if matches!(self, Self::Json) {
            print(error, &table(compare::table::WIDE, has_color(error.is_terminal())))
        } else {
            let width = host::terminal_width().unwrap_or(compare::table::WIDE);
            print(out, &table(width, has_color(out.is_terminal())))
        };
        match self {
            Self::Table => shown,
            Self::TableAndFile(path, file) => {
                let written = replace(file, &json::render(report));
                written.with_context(|| format!("cannot write {}", path.display())).and(shown)
            }
            Self::Json => print(out, &json::render(report)).and(shown),
        }
    }
}

/// Writes `text` instead of what `file` holds; of a pipe, or whatever else holds nothing, behind what was written before.
fn replace(mut file: File, text: &str) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(text.as_bytes())
}

fn print(out: &mut impl Write, text: &str) -> anyhow::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads may stop early, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write the report"),
    }
}
