//! The command line: what can be asked.
//!
//! Invariant: except for what `dev` makes up, tuning keys are never flags. There is one way to change a key without editing the file: `--set key=value`.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use panch_runtime::options::CORES_MAX;

use crate::config::dev::{DevPlan, default_folder};
use crate::config::{self, Address, Durability, Loaded, ProtocolKind};
use crate::exit::Exit;
use crate::log;

/// A replicated key-value service.
#[derive(Parser, Debug)]
#[command(name = "panchd", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run one node
    Run(RunArgs),
    /// Run a whole cluster on this machine, for development
    Dev(DevArgs),
    /// Check a configuration and whether this machine can run it
    Check(CheckArgs),
    /// Save what a stopped node has, for a new cluster, when a majority has lost its disks or its last votes
    Salvage(SalvageArgs),
    /// Show every group of a running node, or of all nodes of a configuration
    Status(StatusArgs),
}

/// Where the configuration comes from.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Overrides one key, for example --set cluster.batch_commands=50; may be repeated, the last one wins
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

impl ConfigArgs {
    /// Loads the configuration; prints warnings, or every error.
    ///
    /// # Errors
    /// How to end, after the errors were printed.
    pub fn load(&self) -> Result<Loaded, Exit> {
        let is_terminal = std::io::stderr().is_terminal();
        match config::load(&self.config, &self.overrides) {
            Ok(loaded) => {
                complain(&loaded.warnings.render(is_terminal));
                Ok(loaded)
            }
            Err(error) => {
                complain(&error.render(is_terminal));
                Err(Exit::from(&error))
            }
        }
    }
}

/// `panchd run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The node's configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// This node was a member and has lost its disk: with an empty data directory, come back
    ///
    /// The node asks all other nodes what it may have voted for, catches up with that, and votes again only then; until
    /// then it answers commands with an error. All other nodes must be up. One start with this flag is enough: a node that is stopped on
    /// its way goes on when it is started without it.
    #[arg(long)]
    pub rejoin: bool,
    /// Found a new cluster although some of its nodes cannot be started: with an empty data directory, at the very first start
    ///
    /// By itself a node with an empty data directory waits until every other node has answered that it is new, too. With this flag on one
    /// of them a majority of the nodes is enough. It is refused if any node that answers has data.
    #[arg(long, conflicts_with = "rejoin")]
    pub found: bool,
    /// Begin a new cluster with what `panchd salvage` has written: with an empty data directory, on every node with the same files; may be repeated
    ///
    /// Of several files all counts, for each group: the state in which most is decided, and what any of the nodes has accepted beyond that. The node waits until every other node has answered that it
    /// begins with the same. Nodes of the cluster before, and nodes that begin with something else, are refused.
    #[arg(long, value_name = "FILE", conflicts_with = "rejoin")]
    pub from: Vec<PathBuf>,
}

/// `panchd salvage`.
#[derive(Args, Debug)]
pub struct SalvageArgs {
    /// The node's configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `panchd dev`.
#[derive(Args, Debug)]
pub struct DevArgs {
    /// Folder for configuration and data, kept between runs [default: panch-dev in the user's state folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub replicas: u8,
    /// RESP port of node 1; the others follow, native ports lie 100 and peer ports 200 above
    #[arg(long, default_value_t = 7001, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub base_port: u16,
    /// Number of consensus groups
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub groups: u16,
    /// How the groups decide: basic, multi, fast or epaxos
    #[arg(long, default_value_t = ProtocolKind::Multi, value_name = "NAME")]
    pub protocol: ProtocolKind,
    /// Core threads of each node
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=CORES_MAX as i64))]
    pub cores: u16,
    /// When a write counts as remembered: sync, periodic or memory
    #[arg(long, default_value_t = Durability::Sync, value_name = "MODE")]
    pub durability: Durability,
    /// Delete the data of earlier runs in the folder
    #[arg(long)]
    pub fresh: bool,
}

impl DevArgs {
    /// The cluster that was asked for.
    pub fn plan(&self) -> DevPlan {
        DevPlan {
            folder: self.dir.clone().unwrap_or_else(default_folder),
            replicas: self.replicas,
            base_port: self.base_port,
            groups: self.groups,
            protocol: self.protocol,
            cores: self.cores,
            durability: self.durability,
            is_fresh: self.fresh,
        }
    }
}

/// `panchd check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The configuration to check.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print the effective values
    #[arg(long)]
    pub print: bool,
}

/// `panchd status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// RESP address of a node [default: 127.0.0.1:7001]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config")]
    pub address: Option<Address>,
    /// Ask every node of this configuration
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Overrides one key of the configuration
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub overrides: Vec<String>,
    /// Print one JSON object, for programs
    #[arg(long)]
    pub json: bool,
}

/// Reads the command line. Prints help or the error itself.
///
/// # Errors
/// How to end: [`Exit::Done`] after help or the version, [`Exit::Usage`] after an error.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    Cli::try_parse_from(arguments).map_err(|error| {
        if !error.use_stderr() {
            // Nothing is left to do if standard output is closed.
            let _ = error.print();
            return Exit::Done;
        }
        let text = error.render();
        if std::io::stderr().is_terminal() {
            complain(&text.ansi().to_string());
        } else {
            complain(&text.to_string());
        }
        Exit::Usage
    })
}

/// Writes to standard output. A reader that went away (`panchd status | head`) is no error.
pub fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// The same for a line that is worth no waiting: a node goes on when whoever reads has stopped.
pub fn announce(text: &str) {
    log::announce(std::io::stdout(), text);
}

/// Writes to standard error, which may be closed, or be a terminal that is gone: no reason to end, as `eprintln` would. If nobody reads it,
/// nobody waits for that longer than a second, here and at the end of the process.
pub fn complain(text: &str) {
    log::write(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let about = Cli::command().get_about().map(ToString::to_string);
        assert_eq!(about.as_deref(), Some("A replicated key-value service"));
    }

    #[test]
    fn overrides_keep_their_order() {
        let Command::Run(run) = cli("panchd run --config a.toml --set a.b=1 --set a.b=2").unwrap().command
        else {
            panic!("not run")
        };
        assert_eq!(run.config.overrides, ["a.b=1", "a.b=2"]);
    }

    #[test]
    fn a_wrong_mode_names_the_right_ones() {
        let text = cli("panchd dev --durability fsync").unwrap_err().to_string();
        assert!(text.contains("choose sync, periodic or memory"), "{text}");
        let text = cli("panchd dev --protocol raft").unwrap_err().to_string();
        assert!(text.contains("choose basic, multi, fast or epaxos"), "{text}");
        assert!(cli("panchd dev --replicas 10").is_err());
        assert!(cli("panchd dev --cores 255").is_ok() && cli("panchd dev --cores 256").is_err());
        assert!(cli("panchd run --config a.toml --found").is_ok());
        assert!(cli("panchd run --config a.toml --found --rejoin").is_err());
        assert!(cli("panchd run --config a.toml --found --from a --from b").is_ok());
        assert!(cli("panchd run --config a.toml --from a --rejoin").is_err());
        assert!(
            cli("panchd status --address nowhere").unwrap_err().to_string().contains("a port is missing")
        );
    }
}
