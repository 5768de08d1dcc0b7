//! Ordinary load, where services live: an open loop far below saturation, and clients without a pipeline. One node and three nodes of panch
//! beside Redis, which syncs every write or none.
//!
//! Invariants:
//! * Within a round every contender is measured once, one after the other, in an order that is drawn; ratios are taken within a round.
//! * Latency counts from when a request was due.
//! * A run in which something failed, or another node came to lead, is spoilt: its figures count nowhere, and the experiment is no success.
//! * Beside every figure stands what the run asked of the disk and the CPUs, how often the machine itself stood still, and, where it can be
//!   known, whether the load generator was the limit.
//! * What was measured is shown, whatever comes after it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use panch_loadgen::circumstances::Circumstances;
use panch_loadgen::cli::{EXIT_NO_VERDICT, EXIT_UNCLEAN, measurable, sendable};
use panch_loadgen::compare::order::{Order, any_seed};
use panch_loadgen::connection::Protocol;
use panch_loadgen::engine::{self, Outcome, Plan};
use panch_loadgen::keys::KeyDistribution;
use panch_loadgen::progress::Progress;
use panch_loadgen::quantity::{Count, Period};
use panch_loadgen::report::Run;
use panch_loadgen::schedule::{self, Arrivals};
use panch_loadgen::truth::Truth;
use panch_loadgen::{host, stderr};
use serde::Serialize;

use crate::failure::{Failure, above_zero, check};
use crate::nodes::{
    Nodes, NodesArgs, Placement, REPLICAS, Writes, change_of_leaders, durability_words, first_leader, some,
};
use crate::redis::{Load, Operation, Programs, SERVER_SETTINGS, Server, Syncs};
use crate::sample::Sample;
use crate::strain::{Strain, Watch};

/// Connections of the open loop.
const CONNECTIONS: usize = 50;
/// The most outstanding requests of each: only a server that stands still makes one wait for another.
const OUTSTANDING: usize = 16;
const KEYS: u64 = 100_000;
/// Between two runs, so that what the one before has left is written.
const PAUSE: Duration = Duration::from_millis(500);
/// Load before the measured time of a run of the open loop.
const WARM_UP: Duration = Duration::from_secs(1);
/// An open loop drops what it could not send for so long.
const DROP_AFTER: Duration = Duration::from_secs(10);
/// Servers that are there at the same time, the two of Redis included.
const SERVERS: usize = 1 + REPLICAS as usize + 2;

/// `panch-bench ordinary`.
#[derive(Args, Clone, Debug)]
pub struct OrdinaryArgs {
    /// The nodes.
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// Rates of the open loop in SETs per second, one table each
    #[arg(long, value_name = "RATE,..", value_delimiter = ',', default_value = "1k,5k,20k")]
    pub rates: Vec<Count>,
    /// Connections of the closed loop without a pipeline (redis-benchmark)
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,50,200,1000", value_parser = some())]
    pub connections: Vec<usize>,
    /// Measured time of a run of the open loop
    #[arg(long, value_name = "TIME", default_value = "8s")]
    pub duration: Period,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// What the order within each round is drawn from [default: drawn as well, and told in the report]
    #[arg(long, value_name = "N")]
    pub order_seed: Option<u64>,
    /// Also write every figure of every round to this file, as JSON; with - to standard output, and the tables to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl OrdinaryArgs {
    /// Refuses options of which nothing would be measured.
    fn check(&self) -> Result<(), Failure> {
        measurable(self.duration).map_err(Failure::Usage)?;
        for rate in &self.rates {
            above_zero(*rate, "a rate of --rates")?;
            // The open loop has one thread.
            sendable(*rate, 1).map_err(Failure::Usage)?;
        }
        Ok(())
    }
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Contender {
    PanchOne,
    PanchThree,
    RedisAlways,
    RedisNever,
}

impl Contender {
    /// In the order of the tables.
    const ALL: [Self; 4] = [Self::PanchOne, Self::RedisAlways, Self::PanchThree, Self::RedisNever];

    fn name(self) -> &'static str {
        match self {
            Self::PanchOne => "panch, one node",
            Self::PanchThree => "panch, three nodes",
            Self::RedisAlways => "Redis, every write synced",
            Self::RedisNever => "Redis, memory only",
        }
    }
}

/// How much of a run there is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    /// A tenth or so, which does not count: connections, memory and files that the first run of all would pay for.
    WarmUp,
    Whole,
}

/// Why not to believe a run.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
struct Doubts {
    /// What happened that makes its figures worthless.
    spoilt: Vec<String>,
    /// Why they may say more about the load generator than about the server.
    no_verdict: Option<String>,
}

impl Doubts {
    fn is_spoilt(&self) -> bool {
        !self.spoilt.is_empty()
    }
}

/// What the load generator itself came to. Parts of the time are from 0 to 1; without a number, the kernel does not count them.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
struct Generator {
    /// How late one request in a hundred was sent through its own fault, in milliseconds.
    late_p99: f64,
    on_cpu: f64,
    waiting_for_cpu: f64,
}

/// One run of the open loop. Times are in milliseconds.
#[derive(Clone, Debug, Serialize)]
struct Answered {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    /// Requests without success, never sent ones included, whenever they were due; and connections that broke.
    failed: u64,
    generator: Generator,
    strain: Strain,
    doubts: Doubts,
}

impl Answered {
    /// What came of `plan`; `change` says whether other nodes came to lead.
    fn new(plan: &Plan, outcome: &Outcome, strain: Strain, change: Option<String>) -> Self {
        // The load generator's own verdict, with its own thresholds.
        let run = Run::new(plan, outcome, &Truth::default(), None);
        let all = outcome.recorder.all().response.all();
        let milliseconds = |nanos: u64| nanos as f64 / 1e6;
        let quantile = |quantile: f64| milliseconds(all.value_at_quantile(quantile));
        let counts = &run.counts;
        let failure = (!run.clean).then(|| {
            let why = run.errors.first().map_or(String::new(), |(text, _)| format!(": {text}"));
            format!(
                "{} requests failed, {} were never sent, {} connections broke{why}",
                counts.errors(),
                counts.all_dropped(),
                counts.disconnects
            )
        });
        let mut spoilt: Vec<String> = failure.into_iter().chain(change).collect();
        if all.is_empty() {
            spoilt.push("nothing was due".to_owned());
        }
        Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            failed: counts.errors() + counts.all_dropped() + counts.disconnects,
            generator: Generator {
                late_p99: run.lag.map_or(0.0, |lag| milliseconds(lag.p99)),
                on_cpu: run.client_load,
                waiting_for_cpu: run.client_wait.unwrap_or(f64::NAN),
            },
            strain,
            doubts: Doubts { spoilt, no_verdict: run.no_verdict },
        }
    }
}

/// One run without a pipeline.
#[derive(Clone, Debug, Serialize)]
struct Plain {
    per_second: f64,
    p50: f64,
    p99: f64,
    strain: Strain,
    doubts: Doubts,
}

/// The runs of one contender under one load.
#[derive(Clone, Debug, Serialize)]
struct Runs<Figures> {
    contender: Contender,
    rounds: Vec<Figures>,
}

/// All contenders under one load.
#[derive(Clone, Debug, Serialize)]
struct Bout<Figures> {
    /// What the load is: a rate, or what is asked over how many connections.
    load: String,
    /// Whether it writes, so that the disk has something to do.
    writes: bool,
    runs: Vec<Runs<Figures>>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    circumstances: Circumstances,
    /// Where it was measured, and how: what stands above the tables.
    heading: String,
    order_seed: u64,
    open_loop: Vec<Bout<Answered>>,
    without_pipeline: Vec<Bout<Plain>>,
    /// Why there is no more.
    incomplete: Option<String>,
    exit_code: u8,
}

struct Stage<'a> {
    arguments: &'a OrdinaryArgs,
    programs: Programs,
    one: Nodes,
    three: Nodes,
    always: Server,
    never: Server,
    order: Order,
    stop: &'a AtomicBool,
}

/// Where a run is sent.
struct Target {
    address: SocketAddr,
    /// The nodes that lead, by their positions; absent where there is nothing to lead.
    leaders: Option<Vec<usize>>,
}

/// Runs the experiment: the report, of all loads or of those that were measured before a stop or a failure.
///
/// # Errors
/// If there is no result at all. Everything that was started is gone in any case.
pub fn run(arguments: &OrdinaryArgs, stop: &AtomicBool) -> Result<Report, Failure> {
    arguments.check()?;
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let circumstances = Circumstances::now(words);
    let folder = arguments.nodes.folder();
    let programs = Programs::find()?;
    let mut placement = Placement::new(SERVERS);
    let one = arguments.nodes.start(1, &mut placement, stop)?;
    let three = arguments.nodes.start(REPLICAS, &mut placement, stop)?;
    let always = programs.start_server(&folder, Syncs::Always, stop)?;
    let never = programs.start_server(&folder, Syncs::Never, stop)?;
    let order_seed = arguments.order_seed.unwrap_or_else(any_seed);
    let order = Order::new(Some(order_seed), Contender::ALL.len());
    let mut stage = Stage { arguments, programs, one, three, always, never, order, stop };
    let mut report = Report {
        circumstances,
        heading: stage.heading(&placement, order_seed)?,
        order_seed,
        open_loop: Vec::new(),
        without_pipeline: Vec::new(),
        incomplete: None,
        exit_code: 0,
    };
    let end = stage.preload().and_then(|()| stage.measure(&mut report));
    report.ended(end, arguments.rates.len() + 2 * arguments.connections.len())
}

impl Stage<'_> {
    fn heading(&self, placement: &Placement, order_seed: u64) -> Result<String, Failure> {
        let OrdinaryArgs { duration, rounds, nodes, .. } = self.arguments;
        Ok(format!(
            "panch-bench ordinary: keys and values of 16 B, {KEYS} keys, all of which have a value; {rounds} rounds, interleaved, after one \
             that does not count; open loop (Poisson) for {} s each\n{}order    drawn for each round; the same again with --order-seed \
             {order_seed}\npanch    clients on the leader; {}\nredis    {} {SERVER_SETTINGS}: an answered write is synced (fdatasync); \
             memory only: --appendonly no\n",
            duration.0.as_secs_f64(),
            nodes.heading(placement),
            durability_words(&self.three.durability()?),
            self.programs.version(),
        ))
    }

    /// Gives every key a value at every contender: who reads a key that is not there is answered sooner.
    fn preload(&mut self) -> Result<(), Failure> {
        stderr::line("ordinary: every key gets a value");
        for contender in Contender::ALL {
            let target = self.target(contender)?;
            let writes =
                Writes { keys: KeyDistribution::Sequential, requests: KEYS, ..Self::writes(target.address) };
            writes.run(self.stop)?;
        }
        self.check_alive()
    }

    /// Measures all loads. What is done stands in the report, also if a later one fails.
    fn measure(&mut self, report: &mut Report) -> Result<(), Failure> {
        let arguments = self.arguments;
        for rate in &arguments.rates {
            let load = format!("{rate} SET/s over {CONNECTIONS} connections");
            let answer = |stage: &mut Self, contender, length| stage.answer(contender, rate.0, length);
            report.open_loop.push(self.bout(load, true, answer)?);
        }
        for operation in [Operation::Set, Operation::Get] {
            for connections in &arguments.connections {
                let load = format!("{operation} over {connections} connections, one at a time each");
                let benchmark = |stage: &mut Self, contender, length| {
                    stage.benchmark(contender, operation, *connections, length)
                };
                report.without_pipeline.push(self.bout(load, operation == Operation::Set, benchmark)?);
            }
        }
        Ok(())
    }

    /// Measures every contender once per round, after a short run of each that does not count.
    fn bout<Figures>(
        &mut self,
        load: String,
        writes: bool,
        run_once: impl Fn(&mut Self, Contender, Length) -> Result<Figures, Failure>,
    ) -> Result<Bout<Figures>, Failure> {
        let all = Contender::ALL.map(|contender| Runs { contender, rounds: Vec::new() });
        let mut bout = Bout { load, writes, runs: all.into() };
        stderr::line(format_args!("ordinary: {}: warm-up", bout.load));
        for contender in Contender::ALL {
            self.pause()?;
            run_once(self, contender, Length::WarmUp)?;
        }
        for round in 1..=self.arguments.rounds {
            stderr::line(format_args!("ordinary: {}: round {round}", bout.load));
            for index in self.order.round() {
                let runs = &mut bout.runs[index];
                self.pause()?;
                runs.rounds.push(run_once(self, runs.contender, Length::Whole)?);
                // Whoever has ended, measured or not, has not left the others the same machine.
                self.check_alive()?;
            }
        }
        Ok(bout)
    }

    fn pause(&self) -> Result<(), Failure> {
        std::thread::sleep(PAUSE);
        check(self.stop)
    }

    fn check_alive(&mut self) -> Result<(), Failure> {
        self.one.check_alive()?;
        self.three.check_alive()?;
        self.always.check_alive()?;
        self.never.check_alive()
    }

    /// Where `contender` is reached now: the leader may be another than before.
    fn target(&self, contender: Contender) -> Result<Target, Failure> {
        let alone = |address| Target { address, leaders: None };
        Ok(match contender {
            Contender::PanchOne => alone(self.one.addresses()[0].resp),
            Contender::PanchThree => {
                let leaders = self.three.leaders()?;
                let address = self.three.addresses()[first_leader(&leaders)?].resp;
                Target { address, leaders: Some(leaders) }
            }
            Contender::RedisAlways => alone(self.always.address()),
            Contender::RedisNever => alone(self.never.address()),
        })
    }

    /// Whether other nodes lead than before a run, in words.
    fn change_since(&self, target: &Target) -> Result<Option<String>, Failure> {
        let Some(before) = &target.leaders else { return Ok(None) };
        Ok(change_of_leaders(before, &self.three.leaders()?))
    }

    fn watch(&self, contender: Contender) -> Watch {
        let processes = match contender {
            Contender::PanchOne => self.one.processes(),
            Contender::PanchThree => self.three.processes(),
            Contender::RedisAlways => vec![self.always.process()],
            Contender::RedisNever => vec![self.never.process()],
        };
        Watch::begin(&self.arguments.nodes.folder(), move || {
            processes.iter().filter_map(|process| host::process_cpu_time(*process)).sum()
        })
    }

    /// SETs at `address`.
    fn writes(address: SocketAddr) -> Writes {
        Writes {
            targets: vec![address],
            protocol: Protocol::Resp,
            connections: CONNECTIONS,
            pipeline: OUTSTANDING,
            requests: 0,
            keys: KeyDistribution::Uniform,
            key_count: KEYS,
        }
    }

    /// The open loop at `address`.
    fn open_loop(&self, address: SocketAddr, rate: u64, length: Length) -> Plan {
        let duration = self.arguments.duration.0;
        let (warm_up, duration) = match length {
            Length::WarmUp => (Duration::ZERO, duration.min(WARM_UP)),
            Length::Whole => (WARM_UP, duration),
        };
        let load =
            schedule::Load::Open { rate: rate as f64, arrivals: Arrivals::Poisson, drop_after: DROP_AFTER };
        Plan { load, warm_up, duration, count: None, ..Self::writes(address).plan() }
    }

    /// One run of the open loop.
    fn answer(&mut self, contender: Contender, rate: u64, length: Length) -> Result<Answered, Failure> {
        let target = self.target(contender)?;
        let plan = self.open_loop(target.address, rate, length);
        let watch = self.watch(contender);
        let outcome = engine::run(&plan, self.stop, &mut Progress::silent())?;
        let strain = watch.end(outcome.recorder.counts.acknowledged);
        check(self.stop)?;
        Ok(Answered::new(&plan, &outcome, strain, self.change_since(&target)?))
    }

    /// One run without a pipeline: about as long as the one with other connections.
    fn benchmark(
        &mut self,
        contender: Contender,
        operation: Operation,
        connections: usize,
        length: Length,
    ) -> Result<Plain, Failure> {
        let whole = match operation {
            Operation::Set => (2000 * connections as u64).clamp(5_000, 100_000),
            Operation::Get => (10_000 * connections as u64).clamp(20_000, 200_000),
        };
        let requests = if length == Length::Whole { whole } else { whole / 10 };
        let load = Load { operation, connections, depth: 1, requests, keys: KEYS };
        let target = self.target(contender)?;
        let watch = self.watch(contender);
        let figures = self.programs.benchmark(target.address, load, self.stop)?;
        let strain = watch.end(requests);
        let spoilt = self.change_since(&target)?.into_iter().collect();
        Ok(Plain {
            per_second: figures.requests_per_second,
            p50: figures.p50,
            p99: figures.p99,
            strain,
            doubts: Doubts { spoilt, no_verdict: None },
        })
    }
}

/// Whether the contenders are compared by a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    Always,
    /// Under a load that writes: else the disk only has what others ask of it.
    IfWritten,
    /// It says something of the machine or of the load generator.
    Never,
}

/// A figure that a table has a column for.
struct Column<Figures> {
    name: &'static str,
    figure: fn(&Figures) -> f64,
    compared: Compared,
}

/// Runs of whatever kind.
trait Measured: Sized {
    fn strain(&self) -> &Strain;
    fn doubts(&self) -> &Doubts;
    /// What the contender did.
    fn figures() -> Vec<Column<Self>>;
    /// What the load generator did.
    fn generator() -> Vec<Column<Self>> {
        Vec::new()
    }
}

fn column<Figures>(name: &'static str, compared: Compared, figure: fn(&Figures) -> f64) -> Column<Figures> {
    Column { name, figure, compared }
}

impl Measured for Answered {
    fn strain(&self) -> &Strain {
        &self.strain
    }

    fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    fn figures() -> Vec<Column<Self>> {
        vec![
            column("p50, ms", Compared::Always, |run: &Self| run.p50),
            column("p90, ms", Compared::Always, |run: &Self| run.p90),
            column("p99, ms", Compared::Always, |run: &Self| run.p99),
            column("p99.9, ms", Compared::Always, |run: &Self| run.p999),
        ]
    }

    fn generator() -> Vec<Column<Self>> {
        vec![
            column("load late p99, ms", Compared::Never, |run: &Self| run.generator.late_p99),
            column("load on CPU, %", Compared::Never, |run: &Self| 100.0 * run.generator.on_cpu),
            column("load waiting for it, %", Compared::Never, |run: &Self| {
                100.0 * run.generator.waiting_for_cpu
            }),
        ]
    }
}

impl Measured for Plain {
    fn strain(&self) -> &Strain {
        &self.strain
    }

    fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    fn figures() -> Vec<Column<Self>> {
        vec![
            column("commands/s", Compared::Always, |run: &Self| run.per_second),
            column("p50, ms", Compared::Always, |run: &Self| run.p50),
            column("p99, ms", Compared::Always, |run: &Self| run.p99),
        ]
    }
}

/// What every run asked of the machine.
fn strain<Figures: Measured>() -> Vec<Column<Figures>> {
    vec![
        column("disk operations/command", Compared::IfWritten, |run: &Figures| {
            run.strain().per_command(run.strain().disk_operations)
        }),
        column("disk B/command", Compared::IfWritten, |run: &Figures| {
            run.strain().per_command(run.strain().disk_bytes)
        }),
        column("CPU us/command", Compared::Always, |run: &Figures| {
            1e6 * run.strain().per_command(run.strain().cpu_seconds)
        }),
        column("gaps/s", Compared::Never, |run: &Figures| run.strain().gaps_per_second()),
        column("longest gap, ms", Compared::Never, |run: &Figures| 1e3 * run.strain().gap_max),
    ]
}

impl<Figures: Measured> Runs<Figures> {
    /// A figure, round by round; not a number where the run was spoilt, so that it counts nowhere.
    fn sample(&self, figure: impl Fn(&Figures) -> f64) -> Sample {
        let known = |run: &Figures| if run.doubts().is_spoilt() { f64::NAN } else { figure(run) };
        Sample(self.rounds.iter().map(known).collect())
    }

    /// In how many rounds that is so.
    fn count(&self, is_so: impl Fn(&Doubts) -> bool) -> usize {
        self.rounds.iter().filter(|run| is_so(run.doubts())).count()
    }
}

impl<Figures: Measured> Bout<Figures> {
    fn of(&self, contender: Contender) -> &Runs<Figures> {
        self.runs.iter().find(|runs| runs.contender == contender).expect("every contender is measured")
    }

    fn has(&self, is_so: impl Fn(&Doubts) -> bool) -> bool {
        self.runs.iter().any(|runs| runs.count(&is_so) > 0)
    }

    fn table(&self, columns: &[Column<Figures>]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
        type IsSo = fn(&Doubts) -> bool;
        let doubts: [(&str, IsSo); 2] =
            [("spoilt", Doubts::is_spoilt), ("no verdict", |doubts| doubts.no_verdict.is_some())];
        let doubts: Vec<_> = doubts.into_iter().filter(|(_, is_so)| self.has(is_so)).collect();
        let names = columns.iter().map(|column| column.name).chain(doubts.iter().map(|(name, _)| *name));
        table.set_header(std::iter::once("median (range)").chain(names));
        for runs in &self.runs {
            let figures = columns.iter().map(|column| runs.sample(column.figure).show_short());
            let doubts =
                doubts.iter().map(|(_, is_so)| format!("{} of {}", runs.count(is_so), runs.rounds.len()));
            let name = std::iter::once(runs.contender.name().to_owned());
            table.add_row(name.chain(figures).chain(doubts));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// The ratios of a contender to Redis that syncs, and whether the machine stood still more often.
    fn ratios(&self, contender: Contender) -> String {
        let (runs, base) = (self.of(contender), self.of(Contender::RedisAlways));
        let is_compared = |column: &Column<Figures>| match column.compared {
            Compared::Always => true,
            Compared::IfWritten => self.writes,
            Compared::Never => false,
        };
        let columns = Figures::figures().into_iter().chain(strain());
        let ratios = columns.filter(is_compared).map(|column| {
            let ratio = runs.sample(column.figure).ratio(&base.sample(column.figure));
            let name = column.name.split(',').next().unwrap_or(column.name);
            format!("{name} {}", ratio.show(|value| format!("{value:.2}")))
        });
        let ratios: Vec<String> = ratios.collect();
        let gaps = |runs: &Runs<Figures>| runs.sample(|run| run.strain().gaps_per_second());
        let (own, others) = (gaps(runs), gaps(base));
        let disturbed = own.0.iter().zip(&others.0).filter(|(own, other)| own > other).count();
        format!(
            "{} / {}: {}; more gaps per second than it in {disturbed} of {} rounds",
            contender.name(),
            Contender::RedisAlways.name(),
            ratios.join(", "),
            own.0.len()
        )
    }

    /// What is to be said of single runs.
    fn remarks(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for runs in &self.runs {
            for (round, run) in (1..).zip(&runs.rounds) {
                let _: usize = round;
                let name = runs.contender.name();
                let doubts = run.doubts();
                lines.extend(doubts.spoilt.iter().map(|why| format!("SPOILT: {name}, round {round}: {why}")));
                lines.extend(
                    doubts.no_verdict.iter().map(|why| format!("NO VERDICT: {name}, round {round}: {why}")),
                );
            }
        }
        lines
    }

    fn text(&self) -> String {
        let mut text = format!("\n{}\n{}\n", self.load, self.table(&Figures::figures()));
        let machine: Vec<Column<Figures>> = strain().into_iter().chain(Figures::generator()).collect();
        let _ = writeln!(text, "{}", self.table(&machine));
        for contender in [Contender::PanchOne, Contender::PanchThree] {
            let _ = writeln!(text, "{}", self.ratios(contender));
        }
        for line in self.remarks() {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

impl Report {
    /// With how it ended, after so many loads of those that were planned.
    fn ended(mut self, end: Result<(), Failure>, planned: usize) -> Result<Self, Failure> {
        let measured = self.open_loop.len() + self.without_pipeline.len();
        let has = |is_so: fn(&Doubts) -> bool| {
            self.open_loop.iter().any(|bout| bout.has(is_so))
                || self.without_pipeline.iter().any(|bout| bout.has(is_so))
        };
        self.exit_code = match &end {
            Err(failure) => failure.exit_code(),
            Ok(()) if has(Doubts::is_spoilt) => EXIT_UNCLEAN,
            Ok(()) if has(|doubts| doubts.no_verdict.is_some()) => EXIT_NO_VERDICT,
            Ok(()) => 0,
        };
        match end {
            Err(failure) if measured == 0 => Err(failure),
            Err(failure) => {
                let remark = format!("INCOMPLETE: {measured} of {planned} loads were measured: {failure}");
                Ok(Self { incomplete: Some(remark), ..self })
            }
            Ok(()) => Ok(self),
        }
    }

    /// The code that the program ends with.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// Everything, for people.
    pub fn text(&self) -> String {
        let mut text = self.heading.clone();
        text.extend(self.open_loop.iter().map(Bout::text));
        text.extend(self.without_pipeline.iter().map(Bout::text));
        text.push_str(
            "\nRatios are medians over rounds, and their range; spoilt rounds count nowhere. disk operations: writes and flushes that the \
             disk was asked for, by whomever; CPU: of the servers; gaps: a thread that only sleeps woke more than 5 ms late: then the \
             machine stood still, or had no CPU for it; load: the load generator of the open loop (redis-benchmark does not tell). ALL \
             NODES, REDIS AND THE LOAD SHARE ONE MACHINE AND ONE DISK: three nodes do three times the work on them.\n",
        );
        if let Some(remark) = &self.incomplete {
            let _ = writeln!(text, "{remark}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use panch_loadgen::connection::Pending;
    use panch_loadgen::record::Recorder;
    use panch_loadgen::thread_time::{ThreadLoad, ThreadTime};
    use panch_loadgen::workload::{Operation as Asked, OperationKind};
    use panch_wire::time::Instant;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: OrdinaryArgs,
    }

    fn arguments(text: &str) -> Result<OrdinaryArgs, clap::Error> {
        let words = std::iter::once("ordinary").chain(text.split_whitespace());
        Line::try_parse_from(words).map(|line| line.arguments)
    }

    fn machine(gaps: f64, seconds: f64) -> Strain {
        Strain {
            disk_operations: 10.0,
            disk_bytes: f64::NAN,
            cpu_seconds: 1.0,
            gaps,
            gap_max: 0.0,
            seconds,
            commands: 100.0,
        }
    }

    fn answered(p50: f64) -> Answered {
        Answered {
            p50,
            p90: 1.0,
            p99: 1.0,
            p999: 1.0,
            failed: 0,
            generator: Generator { late_p99: 0.25, on_cpu: 0.5, waiting_for_cpu: f64::NAN },
            strain: machine(p50, 1.0),
            doubts: Doubts::default(),
        }
    }

    /// Three rounds in which one node of panch was slower, and met more gaps, than the others.
    fn bout() -> Bout<Answered> {
        let runs = Contender::ALL.map(|contender| {
            let times = if contender == Contender::PanchOne { [2.0, 30.0, 4.0] } else { [1.0, 10.0, 2.0] };
            Runs { contender, rounds: times.map(answered).to_vec() }
        });
        Bout { load: "1k SET/s".to_owned(), writes: true, runs: runs.into() }
    }

    fn line<'a>(text: &'a str, start: &str) -> &'a str {
        text.lines().find(|line| line.starts_with(start)).unwrap()
    }

    fn report(open_loop: Vec<Bout<Answered>>) -> Report {
        Report {
            circumstances: Circumstances::default(),
            heading: "heading\n".to_owned(),
            order_seed: 7,
            open_loop,
            without_pipeline: Vec::new(),
            incomplete: None,
            exit_code: 0,
        }
    }

    #[test]
    fn ratios_are_of_runs_in_the_same_round_with_their_range_and_what_nobody_knows_has_none() {
        let text = bout().text();
        let ratios = line(&text, "panch, one node /");
        assert!(ratios.contains(": p50 2.00 (2.00 .. 3.00), p90 1.00 (1.00 .. 1.00),"), "{ratios}");
        assert!(
            ratios.contains("disk operations/command 1.00") && ratios.contains("disk B/command -,"),
            "{ratios}"
        );
        assert!(ratios.ends_with("more gaps per second than it in 3 of 3 rounds"), "{ratios}");
        assert!(!text.contains("NaN") && !text.contains("inf") && !text.contains("spoilt"), "{text}");
        assert!(text.contains("load late p99, ms") && text.contains("50.0 (50.0 .. 50.0)"), "{text}");
    }

    #[test]
    fn a_load_that_only_reads_compares_no_disk() {
        let text = Bout { writes: false, ..bout() }.text();
        let ratios = line(&text, "panch, one node /");
        assert!(ratios.contains("CPU us/command") && !ratios.contains("disk"), "{ratios}");
    }

    #[test]
    fn a_longer_run_has_no_more_gaps_for_its_length() {
        let mut bout = bout();
        for run in &mut bout.runs[0].rounds {
            run.strain = machine(30.0, 100.0);
        }
        let text = bout.text();
        assert!(line(&text, "panch, one node /").ends_with("in 0 of 3 rounds"), "{text}");
    }

    #[test]
    fn a_spoilt_run_counts_nowhere_and_is_no_success() {
        let mut spoilt = bout();
        spoilt.runs[0].rounds[1].doubts.spoilt.push("7 requests failed".to_owned());
        let text = spoilt.text();
        assert!(text.contains("SPOILT: panch, one node, round 2: 7 requests failed"), "{text}");
        assert!(line(&text, "panch, one node /").contains(": p50 2.00 (2.00 .. 2.00),"), "{text}");
        assert!(line(&text, "panch, one node /").ends_with("in 2 of 3 rounds"), "{text}");
        assert!(line(&text, "│ panch, one node ").contains(" 1 of 3 "), "{text}");
        let code = |bout| report(vec![bout]).ended(Ok(()), 1).unwrap().exit_code();
        let mut doubtful = bout();
        doubtful.runs[2].rounds[0].doubts.no_verdict = Some("late".to_owned());
        assert!(doubtful.text().contains("NO VERDICT: panch, three nodes, round 1: late"));
        assert_eq!((code(bout()), code(doubtful), code(spoilt)), (0, 3, 1));
    }

    #[test]
    fn what_was_measured_before_a_failure_is_shown_and_it_is_said_that_there_is_no_more() {
        for (failure, code) in [(Failure::Interrupted, 130), (Failure::Spoilt("gone".to_owned()), 1)] {
            let words = failure.to_string();
            let report = report(vec![bout()]).ended(Err(failure), 5).unwrap();
            let text = report.text();
            assert!(text.contains("│ panch, one node "), "{text}");
            assert!(text.ends_with(&format!("INCOMPLETE: 1 of 5 loads were measured: {words}\n")), "{text}");
            assert_eq!(report.exit_code(), code);
        }
        assert!(report(Vec::new()).ended(Err(Failure::Interrupted), 5).is_err());
    }

    #[test]
    fn options_of_which_nothing_would_be_measured_are_refused() {
        arguments("").unwrap().check().unwrap();
        for (text, part) in [
            ("--duration 0", "--duration must be above zero"),
            ("--rates 1k,0", "--rates must be above zero"),
            ("--rates 1G", "more than 1 threads can send"),
        ] {
            let failure = arguments(text).unwrap().check().unwrap_err();
            assert!(failure.to_string().contains(part), "{text}: {failure}");
            assert_eq!(failure.exit_code(), 64);
        }
        assert!(arguments("--connections 50,0").is_err() && arguments("--rounds 0").is_err());
    }

    /// A run of the open loop of which `happen` says what became of its requests, with a thread that was so busy.
    fn run(cpu: f64, happen: impl Fn(&mut Recorder, &Pending)) -> Answered {
        let load = schedule::Load::Open { rate: 1e3, arrivals: Arrivals::Poisson, drop_after: DROP_AFTER };
        let address = "127.0.0.1:1".parse().unwrap();
        let plan = Plan { load, duration: Duration::from_secs(1), ..Stage::writes(address).plan() };
        let mut recorder = Recorder::new(Instant(100)..Instant(1_000_000_100));
        let operation = Asked { kind: OperationKind::Set, key: 0, write: 1 };
        let pending = Pending { operation, intended: Instant(200), sent: Instant(200) };
        recorder.sent(Instant(200), Instant(200), Duration::ZERO);
        recorder.answered(&pending, Instant(1_000_200));
        happen(&mut recorder, &pending);
        let outcome = Outcome {
            recorder,
            check: None,
            elapsed: Duration::from_secs(1),
            client_time: ThreadTime { cpu: Duration::from_secs_f64(cpu), waiting: None },
            threads: 1,
            busiest: ThreadLoad { cpu, waiting: None },
            interrupted: false,
        };
        Answered::new(&plan, &outcome, machine(0.0, 1.0), None)
    }

    #[test]
    fn whoever_refuses_or_does_not_take_or_drops_requests_spoils_the_run() {
        let clean = run(0.1, |_, _| ());
        assert_eq!((clean.failed, &clean.doubts), (0, &Doubts::default()));
        assert!((clean.p50 - 1.0).abs() < 0.01, "{}", clean.p50);
        let refused = run(0.1, |recorder, pending| recorder.refused(pending, "ERR no quorum", Instant(300)));
        assert_eq!(
            refused.doubts.spoilt,
            ["1 requests failed, 0 were never sent, 0 connections broke: ERR no quorum"]
        );
        let broken = run(0.1, |recorder, _| recorder.disconnected("reset by peer"));
        let late = run(0.1, |recorder, _| recorder.dropped(Instant(300), Instant(900), Duration::ZERO));
        let early = run(0.1, |recorder, _| recorder.dropped(Instant(50), Instant(900), Duration::ZERO));
        for answered in [refused, broken, late, early] {
            assert_eq!((answered.failed, answered.doubts.spoilt.len()), (1, 1), "{:?}", answered.doubts);
        }
    }

    #[test]
    fn a_load_generator_at_its_limit_gives_no_verdict() {
        let busy = run(0.9, |_, _| ());
        assert!(busy.doubts.no_verdict.unwrap().contains("90 % of its threads") && busy.failed == 0);
        let late = run(0.1, |recorder, _| {
            recorder.sent(Instant(300), Instant(9_000_300), Duration::from_millis(9));
        });
        assert!(late.doubts.no_verdict.is_some() && late.generator.late_p99 > 8.9, "{late:?}");
    }
}
