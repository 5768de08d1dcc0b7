//! `panch-loadgen`: measures panch, or any server that speaks RESP. See the library for how.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::Parser;
use mimalloc::MiMalloc;
use panch_loadgen::cli::{Cli, Command, EXIT_INTERRUPTED, EXIT_IO, EXIT_UNCLEAN, EXIT_USAGE};
use panch_loadgen::drive::DriveError;
use panch_loadgen::report::Column;
use panch_loadgen::{cluster, drive, json, local, report};
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
    let (load, (heading, columns)) = match &cli.command {
        Command::Local(arguments) => (&arguments.load, local::run(arguments, &stop)?),
        Command::Run(arguments) => (&arguments.load, drive::run(arguments, &stop)?),
    };
    if let Some(path) = &load.json {
        let text = json::render(&heading, &columns);
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut out = std::io::stdout().lock();
    let color = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = report::render(&heading, &columns, color);
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads may stop early, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        result => result.context("cannot write the report")?,
    }
    Ok(if columns.iter().any(|column| column.interrupted) {
        ExitCode::from(EXIT_INTERRUPTED)
    } else if columns.iter().all(Column::is_clean) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_UNCLEAN)
    })
}
