//! What a turn and a command cost, from the nodes' own counters, and whether the cost model holds: per core and turn at most
//! one log write, one packet per peer, one `io_uring_enter`.
//!
//! A core that sleeps enters the ring once more to arm the wake-up, so a park may have an enter of its own. (It then sleeps in
//! glommio's reactor, whose system call is not in this count.)
//!
//! The counters tell averages: a promise that is broken in one turn and kept in the next does not show, one that is broken
//! under load does.

use std::fmt::Write as _;
use std::sync::atomic::AtomicBool;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use panch_loadgen::connection::Protocol;
use panch_loadgen::keys::KeyDistribution;
use panch_loadgen::quantity::{Count, short};
use panch_loadgen::stderr;
use panch_loadgen::truth::Snapshot;

use crate::failure::{Failure, above_zero};
use crate::nodes::{NodesArgs, Placement, REPLICAS, Writes, some};

/// `panch-bench cost`.
#[derive(Args, Clone, Debug)]
pub struct CostArgs {
    /// The nodes.
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// SETs per depth
    #[arg(long, value_name = "COUNT", default_value = "1M")]
    pub requests: Count,
    /// Connections of the load
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = some())]
    pub connections: usize,
    /// Outstanding requests per connection, one run each
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,16,100", value_parser = some())]
    pub depths: Vec<usize>,
}

/// Growth of one node's counters during a run.
struct Growth {
    name: String,
    before: Snapshot,
    after: Snapshot,
}

impl Growth {
    fn of(&self, counter: &str) -> Result<f64, Failure> {
        let value = |snapshot: &Snapshot| snapshot.counters.get(counter).copied();
        match value(&self.before).zip(value(&self.after)) {
            Some((before, after)) => Ok(after - before),
            None => Err(Failure::Spoilt(format!("{} does not count {counter}", self.name))),
        }
    }
}

/// Counters are read in the middle of a turn: so many may be counted whose turn is not.
const SLACK: f64 = 4.0;

/// One promise on one node.
struct Promise {
    text: &'static str,
    count: f64,
    /// What the count must not exceed.
    limit: f64,
}

impl Promise {
    fn rate(&self) -> f64 {
        self.count / self.limit
    }

    fn is_kept(&self) -> bool {
        self.count <= self.limit + SLACK
    }
}

fn promises(growth: &Growth) -> Result<[Promise; 3], Failure> {
    let turns = growth.of("turns_total")?;
    let peers = f64::from(REPLICAS - 1);
    let (writes, packets) = (growth.of("log_writes_total")?, growth.of("packets_total")?);
    let (enters, parks) = (growth.of("ring_enters_total")?, growth.of("parks_total")?);
    Ok([
        Promise { text: "log writes / turn", count: writes, limit: turns },
        Promise { text: "packets / peer and turn", count: packets, limit: turns * peers },
        Promise { text: "enters / (turn + park)", count: enters, limit: turns + parks },
    ])
}

/// Runs the experiment. The report, and whether every promise was kept.
///
/// # Errors
/// If there is no result.
pub fn run(arguments: &CostArgs, stop: &AtomicBool) -> Result<(String, bool), Failure> {
    above_zero(arguments.requests, "--requests")?;
    let mut placement = Placement::new(usize::from(REPLICAS));
    let mut nodes = arguments.nodes.start(REPLICAS, &mut placement, stop)?;
    let mut text = format!(
        "panch-bench cost: {REPLICAS} nodes, durability {}, SETs of 16 B to the leader over RESP, {} connections, {} \
         requests per run\n{}",
        nodes.durability()?,
        arguments.connections,
        arguments.requests,
        arguments.nodes.heading(&placement)
    );
    let leader = nodes.leader()?;
    let mut kept = true;
    for depth in &arguments.depths {
        stderr::line(format_args!("cost: pipeline {depth}"));
        let before = nodes.counters()?;
        let load = Writes {
            targets: vec![nodes.addresses()[leader].resp],
            protocol: Protocol::Resp,
            connections: arguments.connections,
            pipeline: *depth,
            requests: arguments.requests.0,
            keys: KeyDistribution::Uniform,
            key_count: 100_000,
        };
        let outcome = load.run(stop)?;
        nodes.check_alive()?;
        let growths =
            before.into_iter().zip(nodes.counters()?).enumerate().map(|(index, (before, after))| {
                let role = if index == leader { "leader" } else { "follower" };
                Growth { name: format!("node {}, {role}", index + 1), before, after }
            });
        let growths: Vec<Growth> = growths.collect();
        let commands = growths.iter().map(|growth| growth.of("commands_total")).sum::<Result<f64, _>>()?;
        let batches = growths.iter().map(|growth| growth.of("batches_total")).sum::<Result<f64, _>>()?;
        let _ = writeln!(
            text,
            "\npipeline {depth}: {} commands/s, {} commands per batch\n{}",
            short(outcome.throughput()),
            short(commands / batches),
            table(&growths, commands)?
        );
        for growth in &growths {
            for broken in promises(growth)?.iter().filter(|promise| !promise.is_kept()) {
                kept = false;
                let rate = short(broken.rate());
                let _ =
                    writeln!(text, "BROKEN on {}: {rate} {}, promised at most 1", growth.name, broken.text);
            }
        }
    }
    text.push_str(if kept { "\nkept: every promise\n" } else { "\nBROKEN: see above\n" });
    Ok((text, kept))
}

fn table(growths: &[Growth], commands: f64) -> Result<String, Failure> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
    table.set_header(std::iter::once("").chain(growths.iter().map(|growth| growth.name.as_str())));
    let mut row = |name: &str, value: &dyn Fn(&Growth) -> Result<f64, Failure>| {
        let values = growths.iter().map(|growth| Ok(short(value(growth)?)));
        let values = values.collect::<Result<Vec<_>, Failure>>()?;
        table.add_row(std::iter::once(name.to_owned()).chain(values));
        Ok::<_, Failure>(())
    };
    for (index, promise) in growths.first().map(promises).transpose()?.iter().flatten().enumerate() {
        row(promise.text, &|growth| Ok(promises(growth)?[index].rate()))?;
    }
    let per = |counter: &'static str, divisor: &'static str| {
        move |growth: &Growth| Ok(growth.of(counter)? / growth.of(divisor)?)
    };
    row("enters / turn", &per("ring_enters_total", "turns_total"))?;
    row("parks / turn", &per("parks_total", "turns_total"))?;
    row("turns", &|growth| growth.of("turns_total"))?;
    for (name, counter) in [
        ("turns / command", "turns_total"),
        ("log writes / command", "log_writes_total"),
        ("log bytes / command", "log_bytes_total"),
        ("messages / command", "messages_total"),
        ("peer bytes / command", "peer_bytes_total"),
        ("enters / command", "ring_enters_total"),
    ] {
        row(name, &|growth| Ok(growth.of(counter)? / commands))?;
    }
    row("CPU seconds / M commands", &|growth| {
        let (before, after) = (growth.before.cpu.unwrap_or_default(), growth.after.cpu.unwrap_or_default());
        Ok(after.saturating_sub(before).as_secs_f64() * 1e6 / commands)
    })?;
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    Ok(table.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(writes: u64) -> Growth {
        let at = |factor: u64| {
            Snapshot::parse(&format!(
                "turns_total:{}\nlog_writes_total:{}\npackets_total:{}\nring_enters_total:{}\nparks_total:{}\n",
                1000 * factor,
                writes * factor,
                2000 * factor,
                1500 * factor,
                500 * factor
            ))
        };
        Growth { name: String::new(), before: at(1), after: at(2) }
    }

    #[test]
    fn one_of_each_per_turn_keeps_every_promise_and_more_breaks_it() {
        assert!(promises(&growth(1000)).unwrap().iter().all(Promise::is_kept));
        let broken = promises(&growth(1100)).unwrap();
        assert!(!broken[0].is_kept() && broken[1..].iter().all(Promise::is_kept));
    }

    #[test]
    fn a_counter_that_is_missing_is_not_zero() {
        let growth = Growth { after: Snapshot::default(), ..growth(1) };
        assert!(promises(&growth).is_err());
    }
}
