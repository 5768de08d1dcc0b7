//! Ordinary load, where services live: an open loop far below saturation, and clients without a pipeline. One node and three nodes of panch
//! beside Redis, which syncs every write or none.
//!
//! Invariants:
//! * Within a round every contender is measured once, one after the other; ratios are taken within a round.
//! * Latency counts from when a request was due, and a request without success counts with the time for which it had waited.
//! * Beside every figure stands what the run asked of the disk and the CPUs, and how often the machine itself stood still.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use panch_loadgen::circumstances::Circumstances;
use panch_loadgen::connection::Protocol;
use panch_loadgen::engine::{self, Plan};
use panch_loadgen::host;
use panch_loadgen::keys::KeyDistribution;
use panch_loadgen::progress::Progress;
use panch_loadgen::quantity::{Count, Period};
use panch_loadgen::schedule::{self, Arrivals};
use serde::Serialize;

use crate::failure::{Failure, check};
use crate::nodes::{Nodes, NodesArgs, REPLICAS, Writes};
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
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,50,200,1000")]
    pub connections: Vec<usize>,
    /// Measured time of a run of the open loop
    #[arg(long, value_name = "TIME", default_value = "8s")]
    pub duration: Period,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Also write every figure of every round to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
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
    /// In the order of measuring.
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

/// One run of the open loop. Times are in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Answered {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    /// Requests without success, never sent ones included; quantiles may be lower bounds then.
    failed: u64,
    strain: Strain,
}

/// One run without a pipeline.
#[derive(Clone, Copy, Debug, Serialize)]
struct Plain {
    per_second: f64,
    p50: f64,
    p99: f64,
    strain: Strain,
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
    runs: Vec<Runs<Figures>>,
}

/// Everything, as it is written to a file.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    circumstances: Circumstances,
    open_loop: Vec<Bout<Answered>>,
    without_pipeline: Vec<Bout<Plain>>,
}

struct Stage<'a> {
    arguments: &'a OrdinaryArgs,
    programs: Programs,
    one: Nodes,
    three: Nodes,
    always: Server,
    never: Server,
    /// The address of the node of three that leads.
    leader: SocketAddr,
    stop: &'a AtomicBool,
}

/// Runs the experiment: the report.
///
/// # Errors
/// If there is no result. Everything that was started is gone in any case.
pub fn run(arguments: &OrdinaryArgs, stop: &AtomicBool) -> Result<String, Failure> {
    let circumstances = Circumstances::now(std::env::args().skip(1));
    let folder = arguments.nodes.folder();
    let programs = Programs::find()?;
    let one = arguments.nodes.start(1, stop)?;
    let three = arguments.nodes.start(REPLICAS, stop)?;
    let always = programs.start_server(&folder, Syncs::Always, stop)?;
    let never = programs.start_server(&folder, Syncs::Never, stop)?;
    let leader = three.addresses()[three.leader()?].resp;
    let mut stage = Stage { arguments, programs, one, three, always, never, leader, stop };
    let mut report = Report { circumstances, open_loop: Vec::new(), without_pipeline: Vec::new() };
    for rate in &arguments.rates {
        let load = format!("{rate} SET/s over {CONNECTIONS} connections");
        report.open_loop.push(stage.bout(&load, |stage, contender| stage.answer(contender, rate.0))?);
    }
    for operation in [Operation::Set, Operation::Get] {
        for connections in &arguments.connections {
            let load = format!("{operation} over {connections} connections, one at a time each");
            let bout =
                stage.bout(&load, |stage, contender| stage.benchmark(contender, operation, *connections))?;
            report.without_pipeline.push(bout);
        }
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report).expect("figures and names can be written");
        std::fs::write(path, text + "\n").map_err(Failure::io(format!("cannot write {}", path.display())))?;
    }
    Ok(stage.heading() + &report.text())
}

impl Stage<'_> {
    fn heading(&self) -> String {
        let OrdinaryArgs { duration, rounds, nodes, .. } = self.arguments;
        format!(
            "panch-bench ordinary: keys and values of 16 B, {KEYS} keys, {rounds} rounds, interleaved; open loop (Poisson) for {} s \
             each\n{}panch    clients on the leader; durability sync: an answered write is synced (O_DIRECT + DSYNC) on a majority of \
             the nodes\nredis    {} {SERVER_SETTINGS}: an answered write is synced (fdatasync); memory only: --appendonly no\n",
            duration.0.as_secs_f64(),
            nodes.heading(),
            self.programs.version(),
        )
    }

    /// Measures every contender once per round, after a run that does not count.
    fn bout<Figures>(
        &mut self,
        load: &str,
        run_once: impl Fn(&mut Self, Contender) -> Result<Figures, Failure>,
    ) -> Result<Bout<Figures>, Failure> {
        let all = Contender::ALL.map(|contender| Runs { contender, rounds: Vec::new() });
        let mut bout = Bout { load: load.to_owned(), runs: all.into() };
        for round in 1..=self.arguments.rounds {
            eprintln!("ordinary: {load}: round {round}");
            for runs in &mut bout.runs {
                std::thread::sleep(PAUSE);
                check(self.stop)?;
                self.one.check_alive()?;
                self.three.check_alive()?;
                runs.rounds.push(run_once(self, runs.contender)?);
            }
        }
        Ok(bout)
    }

    fn address(&self, contender: Contender) -> SocketAddr {
        match contender {
            Contender::PanchOne => self.one.addresses()[0].resp,
            Contender::PanchThree => self.leader,
            Contender::RedisAlways => self.always.address(),
            Contender::RedisNever => self.never.address(),
        }
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

    /// One run of the open loop.
    fn answer(&mut self, contender: Contender, rate: u64) -> Result<Answered, Failure> {
        let writes = Writes {
            targets: vec![self.address(contender)],
            protocol: Protocol::Resp,
            connections: CONNECTIONS,
            pipeline: OUTSTANDING,
            requests: 0,
            keys: KeyDistribution::Uniform,
            key_count: KEYS,
        };
        let drop_after = Duration::from_secs(10);
        let plan = Plan {
            load: schedule::Load::Open { rate: rate as f64, arrivals: Arrivals::Poisson, drop_after },
            warm_up: Duration::from_secs(1),
            duration: self.arguments.duration.0,
            count: None,
            ..writes.plan()
        };
        let watch = self.watch(contender);
        let outcome = engine::run(&plan, self.stop, &mut Progress::silent())?;
        let strain = watch.end();
        check(self.stop)?;
        let all = outcome.recorder.all().response.all();
        let milliseconds = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1e6;
        let counts = &outcome.recorder.counts;
        Ok(Answered {
            p50: milliseconds(0.5),
            p90: milliseconds(0.9),
            p99: milliseconds(0.99),
            p999: milliseconds(0.999),
            failed: counts.errors() + counts.dropped,
            strain,
        })
    }

    /// One run without a pipeline: about as long as the one with other connections.
    fn benchmark(
        &mut self,
        contender: Contender,
        operation: Operation,
        connections: usize,
    ) -> Result<Plain, Failure> {
        let requests = match operation {
            Operation::Set => (2000 * connections as u64).clamp(5_000, 100_000),
            Operation::Get => (10_000 * connections as u64).clamp(20_000, 200_000),
        };
        let load = Load { operation, connections, depth: 1, requests, keys: KEYS };
        let watch = self.watch(contender);
        let figures = self.programs.benchmark(self.address(contender), load, self.stop)?;
        let strain = watch.end();
        Ok(Plain { per_second: figures.requests_per_second, p50: figures.p50, p99: figures.p99, strain })
    }
}

/// A figure that a table has a column for, and that is compared with Redis'.
type Column<Figures> = (&'static str, fn(&Figures) -> f64);

const ANSWERED: &[Column<Answered>] = &[
    ("p50, ms", |run| run.p50),
    ("p90, ms", |run| run.p90),
    ("p99, ms", |run| run.p99),
    ("p99.9, ms", |run| run.p999),
];
const PLAIN: &[Column<Plain>] =
    &[("commands/s", |run| run.per_second), ("p50, ms", |run| run.p50), ("p99, ms", |run| run.p99)];
const STRAIN: &[Column<Strain>] = &[
    ("disk operations", |strain| strain.disk_operations),
    ("disk MB", |strain| strain.disk_bytes / 1e6),
    ("CPU s", |strain| strain.cpu_seconds),
    ("gaps", |strain| strain.gaps),
    ("longest, ms", |strain| strain.gap_max * 1e3),
];
/// Of the columns of [`STRAIN`], those that are compared: gaps are the machine's.
const COMPARED: usize = 3;

impl<Figures> Runs<Figures> {
    fn sample(&self, figure: impl Fn(&Figures) -> f64) -> Sample {
        Sample(self.rounds.iter().map(figure).collect())
    }
}

impl<Figures> Bout<Figures> {
    fn of(&self, contender: Contender) -> &Runs<Figures> {
        self.runs.iter().find(|runs| runs.contender == contender).expect("every contender is measured")
    }

    fn text(&self, columns: &[Column<Figures>], strain_of: fn(&Figures) -> Strain) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
        let names = columns.iter().map(|(name, _)| *name).chain(STRAIN.iter().map(|(name, _)| *name));
        table.set_header(std::iter::once("median (range)").chain(names));
        for runs in &self.runs {
            let figures = columns.iter().map(|(_, figure)| runs.sample(figure).show_short());
            let strain =
                STRAIN.iter().map(|(_, figure)| runs.sample(|run| figure(&strain_of(run))).show_short());
            let name = std::iter::once(runs.contender.name().to_owned());
            table.add_row(name.chain(figures).chain(strain));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!("\n{}\n{table}\n", self.load);
        let base = self.of(Contender::RedisAlways);
        for contender in [Contender::PanchOne, Contender::PanchThree] {
            let runs = self.of(contender);
            let figures =
                columns.iter().map(|(name, figure)| (*name, runs.sample(figure).ratio(&base.sample(figure))));
            let strain = STRAIN[..COMPARED].iter().map(|(name, figure)| {
                let of = |runs: &Runs<Figures>| runs.sample(|run| figure(&strain_of(run)));
                (*name, of(runs).ratio(&of(base)))
            });
            let ratios: Vec<String> = figures
                .chain(strain)
                .map(|(name, ratio)| {
                    let name = name.split(',').next().unwrap_or(name);
                    // Nothing was asked of a disk by either, or none could be named.
                    ratio
                        .median()
                        .filter(|median| median.is_finite())
                        .map_or(format!("{name} -"), |median| format!("{name} {median:.2}"))
                })
                .collect();
            let gaps = |runs: &Runs<Figures>| runs.sample(|run| strain_of(run).gaps);
            let (own, others) = (gaps(runs), gaps(base));
            let disturbed = own.0.iter().zip(&others.0).filter(|(own, other)| own > other).count();
            let _ = writeln!(
                text,
                "{} / {}: {}; more gaps than it in {disturbed} of {} rounds",
                contender.name(),
                Contender::RedisAlways.name(),
                ratios.join(", "),
                own.0.len()
            );
        }
        text
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for bout in &self.open_loop {
            text.push_str(&bout.text(ANSWERED, |run| run.strain));
            for runs in &bout.runs {
                let failed: u64 = runs.rounds.iter().map(|run| run.failed).sum();
                if failed > 0 {
                    let name = runs.contender.name();
                    let _ = writeln!(
                        text,
                        "{name}: {failed} requests without success; its quantiles may be too low"
                    );
                }
            }
        }
        for bout in &self.without_pipeline {
            text.push_str(&bout.text(PLAIN, |run| run.strain));
        }
        text.push_str(
            "\nRatios are medians over rounds. disk operations: writes and flushes that the disk was asked for, by whomever; CPU: of the \
             servers; gaps: a thread that only sleeps woke more than 5 ms late: then the machine stood still, or had no CPU for it. ALL \
             NODES, REDIS AND THE LOAD SHARE ONE MACHINE AND ONE DISK: three nodes do three times the work on them.\n",
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_runs_in_the_same_round() {
        let run = |p50, gaps| Answered {
            p50,
            p90: 1.0,
            p99: 1.0,
            p999: 1.0,
            failed: 0,
            strain: Strain {
                disk_operations: 10.0,
                disk_bytes: f64::NAN,
                cpu_seconds: 1.0,
                gaps,
                gap_max: 0.0,
            },
        };
        let runs = Contender::ALL.map(|contender| {
            let times = if contender == Contender::PanchOne { [2.0, 30.0, 4.0] } else { [1.0, 10.0, 2.0] };
            Runs { contender, rounds: times.map(|p50| run(p50, p50)).to_vec() }
        });
        let bout = Bout { load: "1k SET/s".to_owned(), runs: runs.into() };
        let text = bout.text(ANSWERED, |run| run.strain);
        let line = text.lines().find(|line| line.starts_with("panch, one node /")).unwrap();
        assert!(line.contains(": p50 2.00, p90 1.00,") && line.contains("disk operations 1.00"), "{line}");
        assert!(line.ends_with("more gaps than it in 3 of 3 rounds"), "{line}");
    }
}
