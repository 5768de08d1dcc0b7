//! `panchd`: see `panchd --help`.

use std::process::ExitCode;

use panchd::cli::{self, Command, complain};
use panchd::exit::Exit;
use panchd::{host, log, run, salvage, status};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let _log = match log::start() {
        Ok(log) => log,
        Err(error) => {
            complain(&format!("panchd: cannot start the thread that writes the log: {error}\n"));
            return Exit::from(&error).into();
        }
    };
    let arguments = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    let exit = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Dev(arguments) => run::dev(&arguments),
        Command::Check(arguments) => host::check(&arguments),
        Command::Salvage(arguments) => salvage::salvage(&arguments),
        Command::Status(arguments) => status::status(&arguments),
    };
    exit.into()
}
