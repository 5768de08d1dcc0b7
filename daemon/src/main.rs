//! `panchd`: see `panchd --help`.

use std::process::ExitCode;

use panchd::cli::{self, Command};
use panchd::{host, log, run, salvage, status};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    let _log = log::start();
    let exit = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Dev(arguments) => run::dev(&arguments),
        Command::Check(arguments) => host::check(&arguments),
        Command::Salvage(arguments) => salvage::salvage(&arguments),
        Command::Status(arguments) => status::status(&arguments),
    };
    exit.into()
}
