//! `panch-loadgen`: measures panch, or any server that speaks RESP. See the library for how.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::Parser;
use mimalloc::MiMalloc;
use panch_loadgen::circumstances::Circumstances;
use panch_loadgen::cli::{Cli, Command, EXIT_INTERRUPTED, EXIT_IO, EXIT_USAGE};
use panch_loadgen::drive::DriveError;
use panch_loadgen::{cluster, compare, drive, host, json, local, report};
use serde::Serialize;
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
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let circumstances = Circumstances::now(arguments);
    let path = match &cli.command {
        Command::Local(arguments) => &arguments.load.json,
        Command::Run(arguments) => &arguments.load.json,
        Command::Compare(arguments) => &arguments.json,
    };
    let output = Output::new(path.as_deref())?;
    let mut report = match &cli.command {
        Command::Local(arguments) => local::run(arguments, &stop)?,
        Command::Run(arguments) => drive::run(arguments, &stop)?,
        Command::Compare(arguments) => {
            let mut comparison = compare::run(arguments, &stop)?;
            comparison.circumstances = circumstances;
            output.write(&comparison, |width, color| compare::table::render(&comparison, width, color))?;
            return Ok(ExitCode::from(comparison.exit.code));
        }
    };
    report.circumstances = circumstances;
    output.write(&report, |_, color| report::render(&report, color))?;
    Ok(ExitCode::from(report.exit.code))
}

/// Where a report goes: the table to standard output, and JSON to a file if one is named; or JSON to standard output and the table to
/// standard error.
enum Output<'a> {
    Table,
    TableAndFile(&'a Path),
    Json,
}

impl<'a> Output<'a> {
    /// Before anything is measured: a path that cannot be written costs no measurement.
    fn new(path: Option<&'a Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Table) };
        if path == Path::new("-") {
            return Ok(Self::Json);
        }
        let opened = std::fs::File::options().create(true).append(true).open(path);
        opened.map(drop).with_context(|| format!("cannot write {}, named by --json", path.display()))?;
        Ok(Self::TableAndFile(path))
    }

    /// Writes `report`, of which `table` makes a text of at most so many columns, for a terminal or not.
    fn write(
        &self,
        report: &impl Serialize,
        table: impl FnOnce(usize, bool) -> String,
    ) -> anyhow::Result<()> {
        let (out, error) = (&mut std::io::stdout().lock(), &mut std::io::stderr().lock());
        let written = match self {
            Self::Table => Ok(()),
            Self::TableAndFile(path) => std::fs::write(path, json::render(report))
                .with_context(|| format!("cannot write {}", path.display())),
            Self::Json => print(out, &json::render(report)),
        };
        // The measurement is shown even if it cannot be written.
        let has_color = |is_terminal: bool| is_terminal && std::env::var_os("NO_COLOR").is_none();
        if matches!(self, Self::Json) {
            print(error, &table(compare::table::WIDE, has_color(error.is_terminal())))?;
        } else {
            let width = host::terminal_width().unwrap_or(compare::table::WIDE);
            print(out, &table(width, has_color(out.is_terminal())))?;
        }
        written
    }
}

fn print(out: &mut impl Write, text: &str) -> anyhow::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads may stop early, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write the report"),
    }
}
