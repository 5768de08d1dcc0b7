//! The command line.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use panch_wire::client::ReadLevel;

use crate::connection::{PIPELINE_MAX, Protocol, pipeline_max};
use crate::host;
use crate::keys::KeyDistribution;
use crate::quantity::{Count, Period, Size};
use crate::schedule::Arrivals;
use crate::workload::{Mix, TAG_SIZE, Workload};

/// Exit code of a run with errors, or whose audit failed.
pub const EXIT_UNCLEAN: u8 = 1;
/// Exit code of a clean run whose numbers may say more about the generator than about the server.
pub const EXIT_NO_VERDICT: u8 = 3;
/// Exit code if the options make no sense, after `sysexits.h`.
pub const EXIT_USAGE: u8 = 64;
/// Exit code if a file that is to be read holds something else than it should.
pub const EXIT_DATA: u8 = 65;
/// Exit code if a file that is to be read cannot be read.
pub const EXIT_NO_INPUT: u8 = 66;
/// Exit code if there was no measurement for another reason: nobody there, no daemon, no ring.
pub const EXIT_IO: u8 = 74;
/// Exit code of a run that was stopped: as a shell reports SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Measures panch, or any server that speaks RESP.
///
/// In an open loop latency counts from when a request was due, so a server that stalls cannot hide it; in a closed loop nothing is due, and
/// it counts from when a request was sent. A request without success counts with the time for which it had waited, and quantiles that rest on
/// such are shown with >=.
///
/// The exit code is 0 only if every request that was due was sent and succeeded, no write of a preload failed, and the audit, if there was
/// one, had something to read, read all of it and found nothing wrong. It is 1 if something failed, was not sent or was not audited; 3 if
/// nothing did, but the load generator may have been the limit (compare says that of each run, and ends with 0); 64 if the options make no
/// sense; 65 if a file that was to be read is no report, and 66 if it could not be read; 74 if there is no measurement for another reason, or
/// the report could not be written; 130 if a signal stopped it.
#[derive(Parser, Debug)]
#[command(name = "panch-loadgen", version, about, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Start a cluster on this machine, measure it for some seconds, print one table, clean everything up
    Local(LocalArgs),
    /// Give the same work to each consensus protocol in turn, on a fresh local cluster each, and print one table
    Compare(CompareArgs),
    /// Measure a server that is running already
    Run(RunArgs),
    /// Print two reports that --json wrote side by side, and what differs in how they came to be
    Diff(DiffArgs),
}

/// What `local` and `run` can both be told.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// Measured time of each run
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub duration: Period,
    /// Load before the measured time
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub warm_up: Period,
    /// Connections, over all threads
    #[arg(short, long, value_name = "N", default_value_t = 16)]
    pub connections: usize,
    /// The most outstanding requests per connection
    #[arg(short = 'P', long, alias = "pipeline", value_name = "N", default_value_t = 16)]
    pub outstanding: usize,
    /// Threads of the load generator
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Bytes of a value
    #[arg(short = 'd', long, value_name = "SIZE", default_value = "16")]
    pub value_size: Size,
    /// Bytes of a key
    #[arg(long, value_name = "SIZE", default_value = "16")]
    pub key_size: Size,
    /// How many keys
    #[arg(short = 'r', long, value_name = "COUNT", default_value = "100k")]
    pub key_count: Count,
    /// Which keys are used: uniform, zipf, zipf:THETA, sequential or hot:PERCENT, of which so many percent of the commands share one
    #[arg(long, value_name = "DISTRIBUTION", default_value_t = KeyDistribution::Uniform)]
    pub keys: KeyDistribution,
    /// How the arrivals of an open loop are spread
    #[arg(long, value_enum, value_name = "SPREAD", default_value = "poisson")]
    pub arrivals: ArrivalsArg,
    /// How fresh reads must be (native protocol)
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "quorum")]
    pub read_level: ReadLevelArg,
    /// Everything random is drawn from this
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// An open loop drops what it could not send for so long, and counts it
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub drop_after: Period,
    /// How long to wait for the last answers
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub drain: Period,
    /// How long a thread of the load generator looks for work before it sleeps
    #[arg(long, value_name = "TIME", default_value = "0")]
    pub spin: Period,
    /// Where threads run: auto, none, or a list of CPUs such as 0,2
    #[arg(long, value_name = "CPUS", default_value = "auto")]
    pub pin: Pin,
    /// Afterwards, read sampled keys back and compare them with the acknowledged writes
    #[arg(long)]
    pub check: bool,
    /// Every connection opens a session and numbers its commands: each takes effect exactly once, however often it is
    /// repeated, at whichever node (native protocol)
    #[arg(long)]
    pub sessions: bool,
    /// With --sessions: a request without an answer for so long is repeated at the next node
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub repeat_after: Period,
    /// Also write the report to this file, as JSON; with - to standard output, and the table to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `panch-loadgen local`.
#[derive(Args, Clone, Debug)]
pub struct LocalArgs {
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Number of nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub replicas: u8,
    /// Number of consensus groups
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub groups: u16,
    /// Rate of the open loop in commands per second; auto is half of what the closed loop reached
    #[arg(long, value_name = "RATE", default_value = "auto")]
    pub rate: Rate,
    /// The second run's mix
    #[arg(long, value_name = "MIX", default_value = "set=50,get=50")]
    pub mix: Mix,
    /// When a write counts as remembered
    #[arg(long, value_enum, value_name = "MODE", default_value = "sync")]
    pub durability: DurabilityArg,
    /// Which nodes the clients connect to
    #[arg(long, value_enum, value_name = "NODES", default_value = "all")]
    pub via: Via,
    /// The daemon [default: panchd beside this program]
    #[arg(long, value_name = "PATH")]
    pub panchd: Option<PathBuf>,
    /// Overrides a key of the nodes' configuration, for example --set cluster.batch_commands=1000; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where the folder with the nodes' data is made [default: the system's folder for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the nodes' configuration, logs and data behind
    #[arg(long)]
    pub keep: bool,
}

/// `panch-loadgen compare`.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// Which protocols; one may be named several times
    #[arg(
        long,
        value_enum,
        value_name = "NAME,..",
        value_delimiter = ',',
        default_value = "basic,multi,fast,epaxos"
    )]
    pub protocols: Vec<ProtocolKind>,
    /// Number of nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub replicas: u8,
    /// Number of consensus groups
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub groups: u16,
    /// Commands at which a batch is complete (cluster.batch_commands). Behind a full pipeline a batch grows beyond that, up
    /// to cluster.batch_size_max; with 1, every batch has exactly one command
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch: u32,
    /// Batches in flight per node and group (cluster.pipeline_depth)
    #[arg(long, alias = "pipeline", value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub pipeline_depth: u32,
    /// Percent of the commands that share one key
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub conflict: f64,
    /// How many keys the other commands use, each as often as any other. With few keys, batches that are under way at the
    /// same time share some by chance, which is a conflict to EPaxos: see the column confl/batch
    #[arg(short = 'r', long, alias = "keys", value_name = "COUNT", default_value = "10M")]
    pub key_count: Count,
    /// Bytes of a value
    #[arg(short = 'd', long, value_name = "SIZE", default_value = "16")]
    pub value_size: Size,
    /// Parts of get, set and incr
    #[arg(long, value_name = "MIX", default_value = "set=100")]
    pub mix: Mix,
    /// How fresh reads must be
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "quorum")]
    pub read_level: ReadLevelArg,
    /// Measured time of each run
    #[arg(long, value_name = "TIME", default_value = "4s")]
    pub duration: Period,
    /// Load before the measured time
    #[arg(long, alias = "warmup", value_name = "TIME", default_value = "1s")]
    pub warm_up: Period,
    /// Connections, spread over all nodes [default: 8 per node]
    #[arg(short, long, value_name = "N")]
    pub connections: Option<usize>,
    /// The most outstanding requests per connection
    #[arg(short = 'P', long, value_name = "N", default_value_t = 128)]
    pub outstanding: usize,
    /// Threads of the load generator
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// A closed loop sends when an answer comes, an open loop when a request is due
    #[arg(long, value_enum, value_name = "MODE", default_value = "closed")]
    pub mode: Mode,
    /// Commands per second; needed for an open loop
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Count>,
    /// When a write counts as remembered
    #[arg(long, value_enum, value_name = "MODE", default_value = "sync")]
    pub durability: DurabilityArg,
    /// Which keys are used, and when commands are due in an open loop, is drawn from this
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Rounds over all protocols; with more than one, the table has medians, ranges, and the noise: how much runs of the same protocol
    /// differ
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// After the closed loop, offer every protocol so many percent of what the slowest of them did, in an open loop, and measure the
    /// latencies there; 0 leaves that out [default: 50]
    #[arg(long, value_name = "PERCENT")]
    pub equal_load: Option<f64>,
    /// The order of the protocols in each round
    #[arg(long, value_enum, value_name = "ORDER", default_value = "random")]
    pub order: OrderArg,
    /// With --order random: what the order is drawn from [default: drawn as well, and told in the report]
    #[arg(long, value_name = "N")]
    pub order_seed: Option<u64>,
    /// The daemon [default: panchd beside this program]
    #[arg(long, value_name = "PATH")]
    pub panchd: Option<PathBuf>,
    /// Overrides a key of the nodes' configuration, for example --set node.idle=spin; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where the folders with the nodes' data are made [default: the system's folder for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Also write every number of every round to this file, as JSON; with - to standard output, and the table to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `panch-loadgen run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Where to connect, host:port; several are used in turn
    #[arg(long, value_name = "ADDRESS,..", value_delimiter = ',', required = true)]
    pub target: Vec<String>,
    /// What the target speaks: native or resp
    #[arg(long, value_name = "PROTOCOL", default_value_t = Protocol::Native)]
    pub protocol: Protocol,
    /// RESP addresses to read the servers' counters from [default: the targets, if they speak RESP]
    #[arg(long, value_name = "ADDRESS,..", value_delimiter = ',')]
    pub info: Vec<String>,
    /// A closed loop sends when an answer comes, an open loop when a request is due
    #[arg(long, value_enum, value_name = "MODE", default_value = "open")]
    pub mode: Mode,
    /// Commands per second; needed for an open loop
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Count>,
    /// Parts of get, set and incr
    #[arg(long, value_name = "MIX", default_value = "set=100")]
    pub mix: Mix,
    /// Ends the run after so many commands, if that is earlier than the duration
    #[arg(long, value_name = "COUNT")]
    pub count: Option<Count>,
    /// Before the run, give every key a value
    #[arg(long)]
    pub preload: bool,
    /// With --sessions: every connection seals its own batches and proposes them to all targets, which are to be all nodes of a
    /// cluster of Fast Paxos whose keys are not placed by prefix
    #[arg(long)]
    pub direct: bool,
    /// With --direct: the most commands of a batch
    #[arg(long, value_name = "N", default_value = "100")]
    pub direct_batch: NonZeroUsize,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `panch-loadgen diff`.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// The report that the other one is related to
    #[arg(value_name = "A.json")]
    pub before: PathBuf,
    /// The other one
    #[arg(value_name = "B.json")]
    pub after: PathBuf,
}

/// How a cluster decides on the order of commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ProtocolKind {
    /// Two phases per batch, any node proposes.
    Basic,
    /// One leader per group.
    Multi,
    /// Proposals straight to all acceptors.
    Fast,
    /// The same, and the proposers are the clients.
    FastDirect,
    /// No leader; only commands that conflict are ordered.
    Epaxos,
}

impl ProtocolKind {
    /// What a row of a comparison is called.
    pub fn label(self) -> &'static str {
        match self {
            Self::FastDirect => "fast-direct",
            other => other.word(),
        }
    }

    /// The word for it in a config, and in INFO.
    pub fn word(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Multi => "multi",
            Self::Fast | Self::FastDirect => "fast",
            Self::Epaxos => "epaxos",
        }
    }
}

/// How a run is driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mode {
    /// As fast as answers come.
    Closed,
    /// At a rate.
    Open,
}

/// In which order protocols are measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OrderArg {
    /// Drawn for each round.
    Random,
    /// As they are named.
    Listed,
}

/// Spread of arrivals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ArrivalsArg {
    /// Independent of each other.
    Poisson,
    /// Equally spaced.
    Constant,
}

impl From<ArrivalsArg> for Arrivals {
    fn from(arrivals: ArrivalsArg) -> Self {
        match arrivals {
            ArrivalsArg::Poisson => Self::Poisson,
            ArrivalsArg::Constant => Self::Constant,
        }
    }
}

/// Freshness of reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ReadLevelArg {
    /// Decided like a write.
    Log,
    /// Confirmed by a quorum.
    Quorum,
    /// By a leader's lease.
    Lease,
    /// Whatever the node has.
    Stale,
}

impl From<ReadLevelArg> for ReadLevel {
    fn from(level: ReadLevelArg) -> Self {
        match level {
            ReadLevelArg::Log => Self::Log,
            ReadLevelArg::Quorum => Self::Quorum,
            ReadLevelArg::Lease => Self::Lease,
            ReadLevelArg::Stale => Self::Stale,
        }
    }
}

/// Durability of a local cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DurabilityArg {
    /// On disk before a vote leaves.
    Sync,
    /// Synced now and then: a power failure may lose acknowledged writes.
    Periodic,
    /// Never on disk: for measurements.
    Memory,
}

impl fmt::Display for DurabilityArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sync => "sync",
            Self::Periodic => "periodic",
            Self::Memory => "memory",
        })
    }
}

/// Which nodes of a local cluster clients connect to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Via {
    /// All of them in turn; those that do not lead forward.
    All,
    /// A node that leads.
    Leader,
}

/// A rate, or the wish to find one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rate {
    /// From what a closed loop reached.
    Auto,
    /// Commands per second.
    Fixed(Count),
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => match text.trim_end_matches("/s").parse::<Count>() {
                Ok(Count(0)) => Err("a rate of zero sends nothing".to_owned()),
                Ok(count) => Ok(Self::Fixed(count)),
                Err(fault) => Err(format!("{fault}; or write auto")),
            },
        }
    }
}

/// Where the generator's threads run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pin {
    /// Pinned, unless the server runs on this machine: then the kernel has to share the CPUs out.
    Auto,
    /// Where the kernel puts them.
    None,
    /// On these CPUs in turn.
    Cpus(Vec<usize>),
}

impl FromStr for Pin {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            _ => {
                let cpus = text.split(',').map(|cpu| cpu.trim().parse::<usize>());
                let cpus = cpus.collect::<Result<Vec<_>, _>>();
                cpus.map(Self::Cpus).map_err(|_| "write auto, none, or CPUs such as 0,2".to_owned())
            }
        }
    }
}

impl Pin {
    /// The CPUs to pin to; empty to leave it to the kernel.
    ///
    /// # Errors
    /// If a CPU is not available.
    pub fn cpus(&self, shares_machine: bool) -> Result<Vec<usize>, String> {
        let allowed = host::allowed_cpus();
        match self {
            Self::None => Ok(Vec::new()),
            Self::Auto => Ok(if shares_machine { Vec::new() } else { allowed }),
            Self::Cpus(cpus) => match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                Some(cpu) => Err(format!("--pin: this process may not use CPU {cpu}, only {allowed:?}")),
                None => Ok(cpus.clone()),
            },
        }
    }
}

impl LoadArgs {
    /// After how long requests of sessions are repeated; `None` without sessions.
    pub fn repeats(&self) -> Option<std::time::Duration> {
        self.sessions.then_some(self.repeat_after.0)
    }

    /// The workload with this mix.
    ///
    /// # Errors
    /// If the options do not fit each other; the text says which.
    pub fn workload(&self, mix: Mix) -> Result<Workload, String> {
        let size = |size: Size| usize::try_from(size.0).unwrap_or(usize::MAX);
        let workload = Workload {
            mix,
            keys: self.keys,
            key_count: self.key_count.0,
            key_size: size(self.key_size),
            value_size: size(self.value_size),
            read_level: self.read_level.into(),
            seed: self.seed,
        };
        workload.validate()?;
        if self.threads == 0 || self.threads > 1024 {
            return Err("--threads is from 1 to 1024".to_owned());
        }
        if self.connections < self.threads {
            return Err(format!("--connections must be at least --threads, {}", self.threads));
        }
        if !(1..=PIPELINE_MAX).contains(&self.outstanding) {
            return Err(format!("--outstanding is from 1 to {PIPELINE_MAX}"));
        }
        if self.outstanding > pipeline_max(self.sessions) {
            return Err(format!(
                "with --sessions --outstanding is at most {}: the nodes remember so many answers of each",
                pipeline_max(true)
            ));
        }
        measurable(self.duration)?;
        if self.sessions && self.repeat_after.0.is_zero() {
            return Err("--repeat-after must be above zero".to_owned());
        }
        if self.check && mix.set > 0 && workload.value_size < TAG_SIZE {
            return Err(format!("--check marks every value: it needs a --value-size of at least {TAG_SIZE}"));
        }
        Ok(workload)
    }
}

/// Whether something can be measured in this time.
///
/// # Errors
/// If it cannot.
pub fn measurable(duration: Period) -> Result<(), String> {
    if duration.0.is_zero() {
        return Err("--duration must be above zero: in no time, nothing is measured".to_owned());
    }
    Ok(())
}

/// The highest rate that a thread is asked for: far more than one can send, but it can still count what it did not.
const RATE_MAX: u64 = 10_000_000;

/// Whether so many threads can be asked for this rate.
///
/// # Errors
/// If they cannot: nothing would be sent, but only counted.
pub fn sendable(rate: Count, threads: usize) -> Result<(), String> {
    let most = RATE_MAX.saturating_mul(threads as u64);
    if rate.0 > most {
        return Err(format!(
            "a rate of {rate}/s is more than {threads} threads can send; at most {} is asked for",
            Count(most)
        ));
    }
    Ok(())
}

/// The addresses that a text names.
///
/// # Errors
/// If it is not `host:port`, or the name has no address.
pub fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut addresses =
        text.to_socket_addrs().map_err(|error| format!("{text}: {error}; write host:port"))?;
    addresses.next().ok_or_else(|| format!("{text} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["panch-loadgen"].into_iter().chain(text.split_whitespace()))
    }

    fn load(text: &str) -> LoadArgs {
        match parse(text).unwrap().command {
            Command::Local(arguments) => arguments.load,
            Command::Run(arguments) => arguments.load,
            Command::Compare(_) | Command::Diff(_) => panic!("not asked for"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_exit_code() {
        use clap::CommandFactory;
        let help = Cli::command().render_long_help().to_string();
        let words: Vec<&str> = help.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        for code in [
            0,
            EXIT_UNCLEAN,
            EXIT_NO_VERDICT,
            EXIT_USAGE,
            EXIT_DATA,
            EXIT_NO_INPUT,
            EXIT_IO,
            EXIT_INTERRUPTED,
        ] {
            assert!(words.contains(&code.to_string().as_str()), "{code} is missing in {help}");
        }
    }

    #[test]
    fn defaults_fit_each_other() {
        assert!(load("local").workload(Mix::WRITES).is_ok());
        assert!(load("local --check").workload(Mix::WRITES).is_ok());
    }

    #[test]
    fn an_open_loop_needs_a_rate_and_a_closed_loop_must_be_asked_for() {
        let plan = |text: &str| match parse(text).unwrap().command {
            Command::Run(arguments) => crate::drive::plan(&arguments),
            _ => panic!("not asked for"),
        };
        assert!(plan("run --target 127.0.0.1:1").unwrap_err().contains("--mode closed"));
        assert!(plan("run --target 127.0.0.1:1 --rate 0").is_err());
        assert!(plan("run --target 127.0.0.1:1 --rate 10k").is_ok());
        assert!(
            plan("run --target 127.0.0.1:1 --rate 1G").unwrap_err().contains("more than 1 threads can send")
        );
        assert!(plan("run --target 127.0.0.1:1 --rate 20M --threads 2").is_ok());
        assert!(plan("run --target 127.0.0.1:1 --rate 9 --check --mix get").unwrap_err().contains("--check"));
        assert_eq!(plan("run --target 127.0.0.1:1,127.0.0.1:2 --mode closed").unwrap().targets.len(), 2);
        assert!(plan("run --target 127.0.0.1:1 --mode closed --rate 1").is_err());
        assert!(parse("local --rate 0").is_err());
        assert_eq!("20k/s".parse(), Ok(Rate::Fixed(Count(20_000))));
    }

    #[test]
    fn options_that_do_not_fit_are_named() {
        for (text, part) in [
            ("local --threads 2 --connections 1", "--connections"),
            ("local --outstanding 0", "--outstanding"),
            ("local --duration 0", "--duration"),
            ("local --threads 0", "--threads"),
            ("local --check --value-size 8", "--value-size"),
            ("local --key-size 3", "key size"),
            ("local --sessions --repeat-after 0", "--repeat-after"),
            ("local --sessions -P 129", "--outstanding is at most 128"),
        ] {
            let fault = load(text).workload(Mix::WRITES).unwrap_err();
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }

    #[test]
    fn run_and_compare_name_the_same_things_alike_and_older_names_go_on() {
        let compare = |text: &str| match parse(text).unwrap().command {
            Command::Compare(arguments) => arguments,
            _ => panic!("not asked for"),
        };
        let options = "--outstanding 7 --key-count 9 --warm-up 3s --duration 4s -d 5 -c 6 -t 2 --seed 8";
        let (one, other) = (load(&format!("local {options}")), compare(&format!("compare {options}")));
        assert_eq!((one.outstanding, one.key_count, one.warm_up), (7, Count(9), other.warm_up));
        assert_eq!((one.outstanding, one.key_count), (other.outstanding, other.key_count));
        assert_eq!((one.duration, one.value_size), (other.duration, other.value_size));
        assert_eq!(
            (Some(one.connections), one.threads, one.seed),
            (other.connections, other.threads, other.seed)
        );
        assert_eq!(load("local -P 7 -r 9").outstanding, compare("compare -P 7 -r 9").outstanding);
        let older = compare("compare --warmup 3s --keys 9 --pipeline 11");
        assert_eq!((older.warm_up, older.key_count, older.pipeline_depth), (other.warm_up, Count(9), 11));
        assert_eq!(load("local --pipeline 7").outstanding, 7);
    }

    #[test]
    fn pins_are_auto_none_or_cpus() {
        assert_eq!("0,2".parse(), Ok(Pin::Cpus(vec![0, 2])));
        assert!("0,x".parse::<Pin>().is_err());
        assert_eq!(Pin::Auto.cpus(true), Ok(vec![]));
        assert!(!Pin::Auto.cpus(false).unwrap().is_empty());
        assert!(Pin::Cpus(vec![9999]).cpus(false).is_err());
    }

    #[test]
    fn addresses_need_a_port() {
        assert_eq!(resolve("127.0.0.1:7"), Ok("127.0.0.1:7".parse().unwrap()));
        assert!(resolve("127.0.0.1").unwrap_err().contains("host:port"));
    }
}
