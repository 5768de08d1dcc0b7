//! panch and Redis under the same load on the same machine, in turn: what durability on a majority costs against durability
//! on one disk; and the native protocol against RESP.
//!
//! Invariants:
//! * Within a round every contender is measured once for the same number of requests, one after the other, so that what
//!   disturbs the machine disturbs all of them. Ratios are taken within a round.
//! * Both servers have synced a write to their disks before they answer it; the report says so and on how many.

use std::fmt::Write as _;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use panch_loadgen::connection::Protocol;
use panch_loadgen::host;
use panch_loadgen::keys::KeyDistribution;
use panch_loadgen::quantity::{Count, short};

use crate::failure::Failure;
use crate::nodes::{Nodes, NodesArgs, REPLICAS, Writes};
use crate::redis::{Figures, Load, Operation, Programs, SERVER_SETTINGS, Server, Syncs};
use crate::sample::Sample;

/// Connections of every load.
const CONNECTIONS: usize = 50;
/// The native protocol should be so many times as fast as RESP.
const NATIVE_BAR: f64 = 2.0;

/// `panch-bench side-by-side`.
#[derive(Args, Clone, Debug)]
pub struct SideBySideArgs {
    /// The nodes.
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// SETs per run
    #[arg(long, value_name = "COUNT", default_value = "1M")]
    pub requests: Count,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// How many keys; 0: one key, as redis-benchmark does by default
    #[arg(long, value_name = "COUNT", default_value = "0")]
    pub keys: Count,
    /// Outstanding requests per connection, one table each
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "16,100")]
    pub depths: Vec<usize>,
    /// Which node of panch the clients connect to
    #[arg(long, value_enum, value_name = "NODE", default_value = "leader")]
    pub node: NodeArg,
}

/// Which node clients connect to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum NodeArg {
    /// The one that leads.
    Leader,
    /// One that forwards.
    Follower,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    Panch,
    Redis,
    PanchNative,
    PanchRespSameClient,
}

impl Contender {
    /// In the order of measuring.
    const ALL: [Self; 4] = [Self::Panch, Self::Redis, Self::PanchNative, Self::PanchRespSameClient];

    fn name(self) -> &'static str {
        match self {
            Self::Panch => "panch, RESP, redis-benchmark",
            Self::Redis => "Redis, RESP, redis-benchmark",
            Self::PanchNative => "panch, native, panch-loadgen",
            Self::PanchRespSameClient => "panch, RESP, panch-loadgen",
        }
    }
}

/// The runs of one contender at one depth.
#[derive(Default)]
struct Runs {
    throughput: Sample,
    p50: Sample,
    p99: Sample,
    /// CPU seconds of all server processes per million commands.
    cpu: Sample,
}

struct Stage<'a> {
    arguments: &'a SideBySideArgs,
    programs: Programs,
    nodes: Nodes,
    redis: Server,
    /// The position of the node that clients connect to.
    target: usize,
    stop: &'a AtomicBool,
}

/// Runs the experiment: the report.
///
/// # Errors
/// If there is no result. Everything that was started is gone in any case.
pub fn run(arguments: &SideBySideArgs, stop: &AtomicBool) -> Result<String, Failure> {
    let programs = Programs::find()?;
    let nodes = arguments.nodes.start(REPLICAS, stop)?;
    let redis = programs.start_server(&arguments.nodes.folder(), Syncs::Always, stop)?;
    let leader = nodes.leader()?;
    let target = match arguments.node {
        NodeArg::Leader => leader,
        NodeArg::Follower => (leader + 1) % usize::from(REPLICAS),
    };
    let mut stage = Stage { arguments, programs, nodes, redis, target, stop };
    let mut text = stage.heading();
    for depth in &arguments.depths {
        let runs = stage.measure(*depth)?;
        let _ = writeln!(text, "\n{CONNECTIONS} connections, pipeline {depth}\n{}", table(&runs));
        verdicts(&mut text, &runs);
    }
    text.push_str(
        "\nRatios are medians over rounds. ALL REPLICAS SHARE ONE MACHINE AND ONE DISK with Redis and the load: three nodes \
         do three times the work on the same CPUs. On machines of their own they do not.\n",
    );
    Ok(text)
}

impl Stage<'_> {
    fn heading(&self) -> String {
        let SideBySideArgs { requests, rounds, keys, nodes, .. } = self.arguments;
        let keys = if keys.0 == 0 { "one key".to_owned() } else { format!("{keys} keys") };
        let role = if self.arguments.node == NodeArg::Leader { "the leader" } else { "a follower" };
        format!(
            "panch-bench side-by-side: SETs of 16 B, {keys}, {requests} per run, {rounds} rounds, interleaved\n{}panch    \
             {REPLICAS} nodes, clients on {role}; durability sync: an answered write is synced (O_DIRECT + DSYNC) on a \
             majority of the nodes\nredis    {} {SERVER_SETTINGS}: an answered write is synced (fdatasync) on one node\n",
            nodes.heading(),
            self.programs.version(),
        )
    }

    fn measure(&mut self, depth: usize) -> Result<[Runs; 4], Failure> {
        // Not measured: connections, memory and files that the first run of all would pay for.
        let warm_up = (self.arguments.requests.0 / 10).clamp(1, 100_000);
        for contender in Contender::ALL {
            self.run_once(contender, depth, warm_up)?;
        }
        let mut all: [Runs; 4] = Default::default();
        for round in 1..=self.arguments.rounds {
            for (contender, runs) in Contender::ALL.into_iter().zip(&mut all) {
                let requests = self.arguments.requests.0;
                let (figures, cpu) = self.run_once(contender, depth, requests)?;
                let speed = short(figures.requests_per_second);
                eprintln!("side-by-side: pipeline {depth} round {round}: {}: {speed}/s", contender.name());
                runs.throughput.push(figures.requests_per_second);
                runs.p50.push(figures.p50);
                runs.p99.push(figures.p99);
                runs.cpu.push(cpu * 1e6 / requests as f64);
            }
        }
        Ok(all)
    }

    /// One run: its figures and the CPU seconds of the servers.
    fn run_once(
        &mut self,
        contender: Contender,
        depth: usize,
        requests: u64,
    ) -> Result<(Figures, f64), Failure> {
        self.nodes.check_alive()?;
        let before = self.cpu(contender);
        let keys = self.arguments.keys.0;
        let load = Load { operation: Operation::Set, connections: CONNECTIONS, depth, requests, keys };
        let node = self.nodes.addresses()[self.target];
        let figures = match contender {
            Contender::Panch => self.programs.benchmark(node.resp, load, self.stop)?,
            Contender::Redis => self.programs.benchmark(self.redis.address(), load, self.stop)?,
            Contender::PanchNative => self.run_own(Protocol::Native, load)?,
            Contender::PanchRespSameClient => self.run_own(Protocol::Resp, load)?,
        };
        Ok((figures, self.cpu(contender) - before))
    }

    fn run_own(&self, protocol: Protocol, load: Load) -> Result<Figures, Failure> {
        let node = self.nodes.addresses()[self.target];
        let writes = Writes {
            targets: vec![if protocol == Protocol::Native { node.native } else { node.resp }],
            protocol,
            connections: CONNECTIONS,
            pipeline: load.depth,
            requests: load.requests,
            keys: KeyDistribution::Uniform,
            key_count: load.keys.max(1),
        };
        let outcome = writes.run(self.stop)?;
        let latencies = &outcome.recorder.writes.service.known;
        let milliseconds = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1e6;
        Ok(Figures {
            requests_per_second: outcome.throughput(),
            p50: milliseconds(0.5),
            p99: milliseconds(0.99),
        })
    }

    /// CPU seconds that the contender's processes have used.
    fn cpu(&self, contender: Contender) -> f64 {
        match contender {
            Contender::Redis => {
                host::process_cpu_time(self.redis.process()).unwrap_or_default().as_secs_f64()
            }
            _ => self.nodes.cpu().iter().map(std::time::Duration::as_secs_f64).sum(),
        }
    }
}

fn table(all: &[Runs; 4]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
    table.set_header(["median (range)", "commands/s", "p50, ms", "p99, ms", "server CPU, s / M commands"]);
    for (contender, runs) in Contender::ALL.into_iter().zip(all) {
        table.add_row([
            contender.name().to_owned(),
            runs.throughput.show_short(),
            runs.p50.show_short(),
            runs.p99.show_short(),
            runs.cpu.show_short(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn verdicts(text: &mut String, [panch, redis, native, resp]: &[Runs; 4]) {
    let times = |value: f64| format!("{value:.2}");
    let against_redis = panch.throughput.ratio(&redis.throughput);
    let _ = writeln!(text, "panch / Redis             {}", against_redis.show(times));
    for (name, base) in [("redis-benchmark", panch), ("panch-loadgen  ", resp)] {
        let ratio = native.throughput.ratio(&base.throughput);
        let verdict = if ratio.median().is_some_and(|ratio| ratio >= NATIVE_BAR) { "kept" } else { "MISSED" };
        let _ =
            writeln!(text, "native / RESP of {name} {}, bar {NATIVE_BAR:.1}: {verdict}", ratio.show(times));
    }
}
