//! The numbers of the table, from what the clients saw and what the nodes counted.
//!
//! Invariant: what is not known is absent, never zero, and never derived from something else.

use serde::{Deserialize, Serialize};

use crate::cli::ProtocolKind;
use crate::json::finite;
use crate::report::{Quantiles, Run};
use crate::truth::Truth;

/// The part of its fast rounds that the requirement document lets fail.
const MODEL_FAST_FAILURES: f64 = 0.1;

/// One protocol's numbers, of one round. Latencies are in nanoseconds. What the nodes count themselves, commit and execution, is of
/// commands by the time that their batch took on the node that sealed it, and at most 1/16 too high.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Commands per second.
    #[serde(rename = "throughput_per_second")]
    pub throughput: f64,
    /// That, divided by the throughput of Multi-Paxos in the same round.
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
        let latency = |part: fn(Quantiles) -> u64| run.waited().map(part);
        let nanos =
            |name: &str, quantile| window.quantile(name, quantile).map(|micros| micros.saturating_mul(1_000));
        Self {
            throughput: run.throughput,
            to_multi: None,
            latency_p50: latency(|quantiles| quantiles.p50),
            latency_p99: latency(|quantiles| quantiles.p99),
            latency_p999: latency(|quantiles| quantiles.p999),
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

/// Median, least and most of numbers; `None` if there is none. Of an even number of them, the mean of the two in the middle.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of these numbers.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        let (least, most) = (*numbers.first()?, *numbers.last()?);
        let middle = numbers.len() / 2;
        let median = if numbers.len().is_multiple_of(2) {
            f64::midpoint(numbers[middle - 1], numbers[middle])
        } else {
            numbers[middle]
        };
        Some(Self { median, least, most })
    }
}
