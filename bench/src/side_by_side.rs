//! panch and Redis under the same load on the same machine, in turn: what durability on a majority costs against durability
//! on one disk; and the native protocol against RESP.
//!
//! Invariants:
//! * Within a round every contender is measured once for the same number of requests, one after the other, in an order that is drawn, so
//!   that what disturbs the machine disturbs all of them. Ratios are taken within a round.
//! * What an answered write is worth is said of both servers: as the nodes of panch tell it, and as Redis is started.
//! * A run in which other nodes came to lead is spoilt: its figures count nowhere, and the experiment is no success.

use std::fmt::Write as _;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use panch_loadgen::cli::EXIT_UNCLEAN;
use panch_loadgen::cluster::Addresses;
use panch_loadgen::compare::order::{Order, any_seed};
use panch_loadgen::connection::Protocol;
use panch_loadgen::keys::KeyDistribution;
use panch_loadgen::quantity::{Count, short};
use panch_loadgen::{host, stderr};

use crate::failure::{Failure, above_zero};
use crate::nodes::{
    Nodes, NodesArgs, Placement, REPLICAS, Writes, change_of_leaders, durability_words, first_leader, some,
};
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
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "16,100", value_parser = some())]
    pub depths: Vec<usize>,
    /// Which node of panch the clients connect to
    #[arg(long, value_enum, value_name = "NODE", default_value = "leader")]
    pub node: NodeArg,
    /// What the order within each round is drawn from [default: drawn as well, and told in the report]
    #[arg(long, value_name = "N")]
    pub order_seed: Option<u64>,
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
    /// In the order of the table.
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
    /// What made runs worthless, a line each.
    spoilt: Vec<String>,
}

/// One run.
struct Once {
    figures: Figures,
    /// CPU seconds of the servers.
    cpu: f64,
    /// What made it worthless.
    spoilt: Option<String>,
}

impl Runs {
    /// Adds the run of a round, with so many requests. What is spoilt is no number, so that it counts nowhere.
    fn push(&mut self, round: u16, requests: u64, once: Once) {
        let Once { figures, cpu, spoilt } = once;
        let known = |number: f64| if spoilt.is_some() { f64::NAN } else { number };
        self.throughput.push(known(figures.requests_per_second));
        self.p50.push(known(figures.p50));
        self.p99.push(known(figures.p99));
        self.cpu.push(known(cpu * 1e6 / requests as f64));
        self.spoilt.extend(spoilt.map(|why| format!("round {round}: {why}")));
    }
}

struct Stage<'a> {
    arguments: &'a SideBySideArgs,
    programs: Programs,
    nodes: Nodes,
    redis: Server,
    order: Order,
    stop: &'a AtomicBool,
}

/// Runs the experiment: the report, of all depths or of those that were measured before a stop or a failure, and the exit code.
///
/// # Errors
/// If there is no result at all. Everything that was started is gone in any case.
pub fn run(arguments: &SideBySideArgs, stop: &AtomicBool) -> Result<(String, u8), Failure> {
    above_zero(arguments.requests, "--requests")?;
    let programs = Programs::find()?;
    // With the one of Redis.
    let mut placement = Placement::new(usize::from(REPLICAS) + 1);
    let nodes = arguments.nodes.start(REPLICAS, &mut placement, stop)?;
    let redis = programs.start_server(&arguments.nodes.folder(), Syncs::Always, stop)?;
    let order_seed = arguments.order_seed.unwrap_or_else(any_seed);
    let order = Order::new(Some(order_seed), Contender::ALL.len());
    let mut stage = Stage { arguments, programs, nodes, redis, order, stop };
    let mut text = stage.heading(&placement, order_seed)?;
    let (mut code, mut remark) = (0, String::new());
    for (done, depth) in arguments.depths.iter().enumerate() {
        let runs = match stage.measure(*depth) {
            Ok(runs) => runs,
            Err(failure) if done == 0 => return Err(failure),
            Err(failure) => {
                let planned = arguments.depths.len();
                remark = format!("INCOMPLETE: {done} of {planned} depths were measured: {failure}\n");
                code = failure.exit_code();
                break;
            }
        };
        let _ = writeln!(text, "\n{CONNECTIONS} connections, pipeline {depth}\n{}", table(&runs));
        verdicts(&mut text, &runs);
        for (contender, why) in spoilt(&runs) {
            let _ = writeln!(text, "SPOILT: {}, {why}", contender.name());
            code = EXIT_UNCLEAN;
        }
    }
    text.push_str(
        "\nRatios are medians over rounds, and their range. ALL REPLICAS SHARE ONE MACHINE AND ONE DISK with Redis and the load: three \
         nodes do three times the work on the same CPUs. On machines of their own they do not.\n",
    );
    text.push_str(&remark);
    Ok((text, code))
}

/// What made runs worthless, with whose they were.
fn spoilt(all: &[Runs; 4]) -> impl Iterator<Item = (Contender, &String)> {
    let pairs = Contender::ALL.into_iter().zip(all);
    pairs.flat_map(|(contender, runs)| runs.spoilt.iter().map(move |why| (contender, why)))
}

impl Stage<'_> {
    fn heading(&self, placement: &Placement, order_seed: u64) -> Result<String, Failure> {
        let SideBySideArgs { requests, rounds, keys, nodes, .. } = self.arguments;
        let keys = if keys.0 == 0 { "one key".to_owned() } else { format!("{keys} keys") };
        let role = if self.arguments.node == NodeArg::Leader { "the leader" } else { "a follower" };
        Ok(format!(
            "panch-bench side-by-side: SETs of 16 B, {keys}, {requests} per run, {rounds} rounds, interleaved\n{}order    drawn for each \
             round; the same again with --order-seed {order_seed}\npanch    {REPLICAS} nodes, clients on {role}; {}\nredis    {} \
             {SERVER_SETTINGS}: an answered write is synced (fdatasync) on one node\n",
            nodes.heading(placement),
            durability_words(&self.nodes.durability()?),
            self.programs.version(),
        ))
    }

    fn measure(&mut self, depth: usize) -> Result<[Runs; 4], Failure> {
        // Not measured: connections, memory and files that the first run of all would pay for.
        let warm_up = (self.arguments.requests.0 / 10).clamp(1, 100_000);
        for contender in Contender::ALL {
            self.run_once(contender, depth, warm_up)?;
        }
        let mut all: [Runs; 4] = Default::default();
        for round in 1..=self.arguments.rounds {
            for index in self.order.round() {
                let contender = Contender::ALL[index];
                let requests = self.arguments.requests.0;
                let once = self.run_once(contender, depth, requests)?;
                let speed = short(once.figures.requests_per_second);
                stderr::line(format_args!(
                    "side-by-side: pipeline {depth} round {round}: {}: {speed}/s",
                    contender.name()
                ));
                all[index].push(round, requests, once);
            }
        }
        Ok(all)
    }

    /// One run, to the node that has the role asked for now: it may be another than before.
    fn run_once(&mut self, contender: Contender, depth: usize, requests: u64) -> Result<Once, Failure> {
        let leaders = self.nodes.leaders()?;
        let leader = first_leader(&leaders)?;
        let target = match self.arguments.node {
            NodeArg::Leader => leader,
            NodeArg::Follower => (leader + 1) % usize::from(REPLICAS),
        };
        let before = self.cpu(contender);
        let keys = self.arguments.keys.0;
        let load = Load { operation: Operation::Set, connections: CONNECTIONS, depth, requests, keys };
        let node = self.nodes.addresses()[target];
        let figures = match contender {
            Contender::Panch => self.programs.benchmark(node.resp, load, self.stop)?,
            Contender::Redis => self.programs.benchmark(self.redis.address(), load, self.stop)?,
            Contender::PanchNative => self.run_own(node, Protocol::Native, load)?,
            Contender::PanchRespSameClient => self.run_own(node, Protocol::Resp, load)?,
        };
        let cpu = self.cpu(contender) - before;
        self.nodes.check_alive()?;
        self.redis.check_alive()?;
        let change = change_of_leaders(&leaders, &self.nodes.leaders()?);
        // Who leads is nothing to Redis.
        Ok(Once { figures, cpu, spoilt: change.filter(|_| contender != Contender::Redis) })
    }

    fn run_own(&self, node: Addresses, protocol: Protocol, load: Load) -> Result<Figures, Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spoilt_run_is_said_and_counts_neither_in_a_table_nor_in_a_ratio() {
        let mut all: [Runs; 4] = Default::default();
        let once = |requests_per_second: f64, spoilt: Option<&str>| Once {
            figures: Figures { requests_per_second, p50: 1.0, p99: 2.0 },
            cpu: 3.0,
            spoilt: spoilt.map(str::to_owned),
        };
        let changed = Some("node 1 led before it, and node 2 after it");
        for (round, (panch, spoilt)) in (1..).zip([(200.0, None), (9.0, changed), (400.0, None)]) {
            all[0].push(round, 1_000_000, once(panch, spoilt));
            for runs in &mut all[1..] {
                runs.push(round, 1_000_000, once(100.0, None));
            }
        }
        let mut text = table(&all);
        verdicts(&mut text, &all);
        assert!(text.contains("panch / Redis             3.00 (2.00 .. 4.00)"), "{text}");
        let row = text.lines().find(|line| line.contains(Contender::Panch.name())).unwrap();
        assert!(row.contains(" 300 (200 .. 400) "), "{row}");
        let told: Vec<String> =
            self::spoilt(&all).map(|(contender, why)| format!("{} {why}", contender.name())).collect();
        assert_eq!(told, ["panch, RESP, redis-benchmark round 2: node 1 led before it, and node 2 after it"]);
    }
}
