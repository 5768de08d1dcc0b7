//! The numbers of the table, from what the clients saw and what the nodes counted.
//!
//! Invariants:
//! * What is not known is absent, never zero, and never derived from something else.
//! * What would be longer is a lower bound, in a round and in a median of rounds.

use serde::{Deserialize, Serialize};

use crate::cli::ProtocolKind;
use crate::json::finite;
use crate::report::{Quantiles, Run};
use crate::spread::{Bounded, Spread};
use crate::truth::Truth;

/// The part of its fast rounds that the requirement document lets fail.
const MODEL_FAST_FAILURES: f64 = 0.1;

/// The name of the client's median latency in JSON.
pub(super) const LATENCY_P50: &str = "latency_p50_ns";
/// That of what one in a hundred exceeds.
pub(super) const LATENCY_P99: &str = "latency_p99_ns";
/// That of what one in a thousand exceeds.
pub(super) const LATENCY_P999: &str = "latency_p99.9_ns";

/// One protocol's numbers, of one round. Latencies are in nanoseconds. What the nodes count themselves, commit and execution, is of
/// commands by the time that their batch took on the node that sealed it, and at most 1/16 too high.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Commands per second.
    #[serde(rename = "throughput_per_second")]
    pub throughput: f64,
    /// That, divided by the throughput of Multi-Paxos in the same round; absent where that means nothing: in an open loop, which asks all
    /// for the same, and without another protocol.
    #[serde(rename = "throughput_to_multi")]
    pub to_multi: Option<f64>,
    /// From sent (closed loop) or due (open loop) to answered, which is after execution: the median.
    #[serde(rename = "latency_p50_ns")]
    pub latency_p50: Option<u64>,
    /// The same, exceeded by one in a hundred.
    #[serde(rename = "latency_p99_ns")]
    pub latency_p99: Option<u64>,
    /// The same, exceeded by one in a thousand.
    #[serde(rename = "latency_p99.9_ns")]
    pub latency_p999: Option<u64>,
    /// Which of these three, by their names here, are lower bounds, because some requests had no success and would have taken longer.
    pub lower_bounds: Vec<String>,
    /// From when a node sealed a batch until it knew it to be chosen: the median.
    #[serde(rename = "commit_p50_ns")]
    pub commit_p50: Option<u64>,
    /// The same, exceeded by one in a hundred.
    #[serde(rename = "commit_p99_ns")]
    pub commit_p99: Option<u64>,
    /// The same, exceeded by one in a thousand.
    #[serde(rename = "commit_p99.9_ns")]
    pub commit_p999: Option<u64>,
    /// From when a node sealed a batch until it had executed it: the median.
    #[serde(rename = "execution_p50_ns")]
    pub execution_p50: Option<u64>,
    /// The same, exceeded by one in a hundred.
    #[serde(rename = "execution_p99_ns")]
    pub execution_p99: Option<u64>,
    /// The same, exceeded by one in a thousand.
    #[serde(rename = "execution_p99.9_ns")]
    pub execution_p999: Option<u64>,
    /// Decisions by the fast path, of all: Fast Paxos and EPaxos.
    #[serde(rename = "fast_path_part")]
    pub fast_path: Option<f64>,
    /// Pre-acceptances that added dependencies, per batch: EPaxos.
    #[serde(rename = "conflicts_per_batch")]
    pub conflicts: Option<f64>,
    /// Fast rounds that could not succeed any more (Fast Paxos) or ballots lost to another proposer (Basic Paxos), per batch.
    #[serde(rename = "clashes_per_batch")]
    pub clashes: Option<f64>,
    /// Instances in the largest strongly connected component that was executed: EPaxos.
    pub component_max: Option<f64>,
    /// Commands in a batch.
    pub batch_fill: Option<f64>,
    /// Messages between nodes, per command.
    pub messages_per_command: Option<f64>,
    /// Messages between nodes, per batch.
    pub messages_per_batch: Option<f64>,
    /// Bytes between nodes, per command.
    #[serde(rename = "peer_bytes_per_command")]
    pub bytes_per_command: Option<f64>,
    /// Log writes of all nodes, per command. With durability sync each is on stable storage when it completes.
    pub log_writes_per_command: Option<f64>,
    /// Bytes of log writes of all nodes, per command.
    pub log_bytes_per_command: Option<f64>,
    /// CPU seconds of all nodes, per million commands.
    #[serde(rename = "cpu_seconds_per_million_commands")]
    pub cpu_per_million: Option<f64>,
}

impl Figures {
    /// The numbers of a run whose nodes counted `window` meanwhile.
    pub fn new(protocol: ProtocolKind, run: &Run, window: &Truth) -> Self {
        // What the nodes took in the window, by their own count, so that both parts of each ratio are of the same moments.
        let commands = window
            .growth("commands_total")
            .map(|writes| writes + window.growth("reads_total").unwrap_or(0.0))
            .filter(|commands| *commands > 0.0);
        let per_command = |name: &str| finite(Some(window.growth(name)? / commands?));
        let per_batch = |name: &str| window.ratio(name, "batches_total");
        let part = |one: &str, other: &str| {
            let (one, other) = (window.growth(one)?, window.growth(other)?);
            (one + other > 0.0).then(|| one / (one + other))
        };
        let (is_basic, is_fast, is_epaxos) = (
            protocol == ProtocolKind::Basic,
            matches!(protocol, ProtocolKind::Fast | ProtocolKind::FastDirect),
            protocol == ProtocolKind::Epaxos,
        );
        let waited = run.waited();
        let mut lower_bounds = Vec::new();
        let mut latency = |name: &str, part: fn(&Quantiles) -> u64| {
            let waited = waited?;
            let value = part(&waited);
            lower_bounds.extend(waited.is_bound(value).then(|| name.to_owned()));
            Some(value)
        };
        let nanos =
            |name: &str, quantile| window.quantile(name, quantile).map(|micros| micros.saturating_mul(1_000));
        Self {
            throughput: run.throughput,
            to_multi: None,
            latency_p50: latency(LATENCY_P50, |quantiles| quantiles.p50),
            latency_p99: latency(LATENCY_P99, |quantiles| quantiles.p99),
            latency_p999: latency(LATENCY_P999, |quantiles| quantiles.p999),
            lower_bounds,
            commit_p50: nanos("commit_us", 0.5),
            commit_p99: nanos("commit_us", 0.99),
            commit_p999: nanos("commit_us", 0.999),
            execution_p50: nanos("execution_us", 0.5),
            execution_p99: nanos("execution_us", 0.99),
            execution_p999: nanos("execution_us", 0.999),
            fast_path: match protocol {
                ProtocolKind::Fast | ProtocolKind::FastDirect => {
                    part("counter_fast_chosen", "counter_classic_chosen")
                }
                ProtocolKind::Epaxos => part("counter_fast_commits", "counter_slow_commits"),
                ProtocolKind::Basic | ProtocolKind::Multi => None,
            },
            conflicts: per_batch("counter_conflicts").filter(|_| is_epaxos),
            clashes: if is_basic {
                per_batch("counter_duels")
            } else {
                per_batch("counter_collisions").filter(|_| is_fast)
            },
            component_max: window.peak("counter_component_max").filter(|_| is_epaxos),
            batch_fill: window.ratio("commands_total", "batches_total"),
            messages_per_command: per_command("messages_total"),
            messages_per_batch: per_batch("messages_total"),
            bytes_per_command: per_command("peer_bytes_total"),
            log_writes_per_command: per_command("log_writes_total"),
            log_bytes_per_command: per_command("log_bytes_total"),
            cpu_per_million: window
                .cpu_total()
                .zip(commands)
                .map(|(used, commands)| used.as_secs_f64() * 1e6 / commands),
        }
    }

    /// Whether a latency, by its name in JSON, is a lower bound.
    pub fn is_bound(&self, name: &str) -> bool {
        self.lower_bounds.iter().any(|bound| bound == name)
    }

    /// Takes one number of each figure's spread over several rounds; what no round knows is absent. `None` without rounds.
    pub(super) fn of_rounds(rounds: &[&Self], pick: fn(&Spread) -> Bounded) -> Option<Self> {
        rounds.first()?;
        let number = |of: fn(&Self) -> Option<f64>| {
            let known = rounds.iter().filter_map(|round| of(round));
            Spread::of(known.map(Bounded::exact)).map(|spread| pick(&spread).value)
        };
        let nanos = |of: fn(&Self) -> Option<u64>| {
            let known = rounds.iter().filter_map(|round| of(round));
            Spread::of(known.map(|nanos| Bounded::exact(nanos as f64)))
                .map(|spread| pick(&spread).value.round() as u64)
        };
        let mut lower_bounds = Vec::new();
        let mut latency = |name: &str, of: fn(&Self) -> Option<u64>| {
            let bounded =
                |round: &&Self| Some(Bounded { value: of(round)? as f64, is_bound: round.is_bound(name) });
            let Bounded { value, is_bound } = pick(&Spread::of(rounds.iter().filter_map(bounded))?);
            lower_bounds.extend(is_bound.then(|| name.to_owned()));
            Some(value.round() as u64)
        };
        Some(Self {
            latency_p50: latency(LATENCY_P50, |figures| figures.latency_p50),
            latency_p99: latency(LATENCY_P99, |figures| figures.latency_p99),
            latency_p999: latency(LATENCY_P999, |figures| figures.latency_p999),
            lower_bounds,
            throughput: number(|figures| Some(figures.throughput))?,
            to_multi: number(|figures| figures.to_multi),
            commit_p50: nanos(|figures| figures.commit_p50),
            commit_p99: nanos(|figures| figures.commit_p99),
            commit_p999: nanos(|figures| figures.commit_p999),
            execution_p50: nanos(|figures| figures.execution_p50),
            execution_p99: nanos(|figures| figures.execution_p99),
            execution_p999: nanos(|figures| figures.execution_p999),
            fast_path: number(|figures| figures.fast_path),
            conflicts: number(|figures| figures.conflicts),
            clashes: number(|figures| figures.clashes),
            component_max: number(|figures| figures.component_max),
            batch_fill: number(|figures| figures.batch_fill),
            messages_per_command: number(|figures| figures.messages_per_command),
            messages_per_batch: number(|figures| figures.messages_per_batch),
            bytes_per_command: number(|figures| figures.bytes_per_command),
            log_writes_per_command: number(|figures| figures.log_writes_per_command),
            log_bytes_per_command: number(|figures| figures.log_bytes_per_command),
            cpu_per_million: number(|figures| figures.cpu_per_million),
        })
    }
}

/// Messages per request by the requirement document's own formula, for `replicas` nodes: the least and the most. It counts
/// one-way messages, the proposer's to itself included, and no answers: a model to compare with, not what a protocol does.
pub fn seed_model(protocol: ProtocolKind, replicas: u8) -> (f64, f64) {
    let nodes = f64::from(replicas);
    match protocol {
        ProtocolKind::Basic => (2.0 * (1.0 + nodes), 2.0 * (1.0 + nodes)),
        ProtocolKind::Multi => (1.0 + nodes, 1.0 + nodes),
        ProtocolKind::Fast | ProtocolKind::FastDirect => {
            let expected = nodes + MODEL_FAST_FAILURES * (1.0 + nodes);
            (expected, expected)
        }
        ProtocolKind::Epaxos => (2.0 * nodes, 3.0 * nodes),
    }
}
