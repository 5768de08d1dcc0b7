//! A node stands still under full load and goes on: how long until it is level with the others, while the load goes on?
//!
//! What a node lacks must reach it faster than new commands come; otherwise it lags for ever, and its own clients with it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use panch_loadgen::connection::Protocol;
use panch_loadgen::keys::KeyDistribution;
use panch_loadgen::stderr;

use crate::failure::{Failure, check};
use crate::guard::Paused;
use crate::nodes::{Nodes, NodesArgs, Placement, REPLICAS, Writes, some};

const RAMP_UP: Duration = Duration::from_secs(2);
/// The node must be level within this time.
const LEVEL_WITHIN: Duration = Duration::from_secs(20);
/// What is on its way anyhow, in positions: as many as all nodes together have in flight.
const LEVEL: f64 = 60.0;
/// More requests than there is time for.
const REQUESTS: u64 = 1 << 40;
const KEYS: u64 = 1_000_000;

/// `panch-bench catchup`.
#[derive(Args, Clone, Debug)]
pub struct CatchupArgs {
    /// The nodes.
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// Which protocols, in this order
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', default_value = "basic,multi,fast,epaxos",
        value_parser = ["basic", "multi", "fast", "epaxos"])]
    pub protocols: Vec<String>,
    /// For how many seconds the node stands still
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub pause: u64,
    /// Requests outstanding at each of the other nodes, on 12 connections
    #[arg(long, value_name = "COUNT", default_value_t = 1536, value_parser = some())]
    pub outstanding: usize,
}

const CONNECTIONS: usize = 24;

/// What was measured with one protocol.
struct Row {
    protocol: String,
    /// Commands per second before, during and after the pause.
    rates: [f64; 3],
    /// Positions that the node lacked when it went on.
    behind: f64,
    snapshots: f64,
    /// From when it went on; `None`: not within the time.
    level_after: Option<Duration>,
}

/// Runs the experiment. The report, and whether the node became level in time with each protocol.
///
/// # Errors
/// If there is no result.
pub fn run(arguments: &CatchupArgs, stop: &AtomicBool) -> Result<(String, bool), Failure> {
    let mut rows = Vec::new();
    for protocol in &arguments.protocols {
        stderr::line(format_args!("catchup: {protocol}"));
        rows.push(measure(arguments, protocol, stop)?);
    }
    let kept = rows.iter().all(|row| row.level_after.is_some());
    let text = format!(
        "panch-bench catchup: node {REPLICAS} of {REPLICAS} stands still for {} s while the others serve {} outstanding SETs each, \
         and goes on while they do\n{}\n{}\nlevel: less than {LEVEL} positions behind; it must be within {} s\n",
        arguments.pause,
        arguments.outstanding,
        arguments.nodes.heading(&Placement::new(usize::from(REPLICAS))),
        table(&rows),
        LEVEL_WITHIN.as_secs()
    );
    Ok((text, kept))
}

fn measure(arguments: &CatchupArgs, protocol: &str, stop: &AtomicBool) -> Result<Row, Failure> {
    let mut plan = arguments.nodes.clone();
    plan.overrides.push(format!("cluster.protocol={protocol}"));
    let mut nodes = plan.start(REPLICAS, &mut Placement::new(usize::from(REPLICAS)), stop)?;
    let last = usize::from(REPLICAS) - 1;
    let process = nodes.processes()[last];
    let targets = nodes.addresses()[..last].iter().map(|node| node.native).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| load(targets, arguments.outstanding, &done));
        let row = watch(arguments, protocol, &nodes, process, stop);
        done.store(true, Ordering::Relaxed);
        match load.join().expect("a panic ends the process") {
            // It has no end of its own.
            Err(Failure::Interrupted) | Ok(()) => row,
            Err(failure) => Err(failure),
        }
    })
    .and_then(|row| nodes.check_alive().map(|()| row))
}

fn load(targets: Vec<SocketAddr>, outstanding: usize, done: &AtomicBool) -> Result<(), Failure> {
    let load = Writes {
        pipeline: (outstanding * targets.len() / CONNECTIONS).max(1),
        targets,
        protocol: Protocol::Native,
        connections: CONNECTIONS,
        requests: REQUESTS,
        keys: KeyDistribution::Uniform,
        key_count: KEYS,
    };
    load.run(done).map(drop)
}

/// Commands taken in by the nodes that serve, and positions executed by the first and by the last node, snapshots included.
struct Moment {
    at: Instant,
    commands: f64,
    executed: [f64; 2],
    snapshots: f64,
}

fn moment(nodes: &Nodes, last_answers: bool) -> Result<Moment, Failure> {
    let count = usize::from(REPLICAS) - usize::from(!last_answers);
    let counters = nodes.counters_of(count)?;
    let number = |index: usize, name: &str| {
        counters.get(index).and_then(|node| node.counters.get(name)).copied().unwrap_or(0.0)
    };
    let executed = |index: usize| {
        let groups = counters.get(index).into_iter().flat_map(|node| node.groups.values());
        groups.filter_map(|group| group.executed).sum::<u64>() as f64
    };
    let last = usize::from(REPLICAS) - 1;
    Ok(Moment {
        at: Instant::now(),
        commands: (0..last).map(|index| number(index, "commands_total")).sum(),
        executed: [executed(0), executed(last)],
        snapshots: number(last, "installs_total"),
    })
}

fn rate(from: &Moment, to: &Moment) -> f64 {
    (to.commands - from.commands) / to.at.duration_since(from.at).as_secs_f64()
}

fn watch(
    arguments: &CatchupArgs,
    protocol: &str,
    nodes: &Nodes,
    process: u32,
    stop: &AtomicBool,
) -> Result<Row, Failure> {
    std::thread::sleep(RAMP_UP / 2);
    let start = moment(nodes, true)?;
    std::thread::sleep(RAMP_UP / 2);
    let before = moment(nodes, true)?;
    {
        let _paused = Paused::new(process);
        std::thread::sleep(Duration::from_secs(arguments.pause));
    }
    let after = moment(nodes, false)?;
    let mut behind = None;
    loop {
        check(stop)?;
        let now = moment(nodes, true)?;
        let lag = now.executed[0] - now.executed[1];
        let since = now.at.duration_since(after.at);
        let behind = *behind.get_or_insert(lag);
        stderr::line(format_args!(
            "catchup: {protocol}: {lag:.0} positions behind after {:.1} s",
            since.as_secs_f64()
        ));
        if lag < LEVEL || since > LEVEL_WITHIN {
            return Ok(Row {
                protocol: protocol.to_owned(),
                rates: [rate(&start, &before), rate(&before, &after), rate(&after, &now)],
                behind,
                snapshots: now.snapshots,
                level_after: (lag < LEVEL).then_some(since),
            });
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
    let head = [
        "protocol",
        "k cmd/s before",
        "paused",
        "after",
        "positions behind",
        "snapshots",
        "level after s",
        "",
    ];
    table.set_header(head);
    for row in rows {
        let [before, paused, after] = row.rates.map(|rate| format!("{:.0}", rate / 1000.0));
        let (level, verdict) = match row.level_after {
            Some(time) => (format!("{:.1}", time.as_secs_f64()), "kept"),
            None => ("-".to_owned(), "MISSED"),
        };
        let (behind, snapshots) = (format!("{:.0}", row.behind), format!("{:.0}", row.snapshots));
        table.add_row([
            row.protocol.clone(),
            before,
            paused,
            after,
            behind,
            snapshots,
            level,
            verdict.to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}
