//! What a measurement found: one [`Report`], which the table and the JSON both show.
//!
//! Invariants:
//! * No mean stands without percentiles.
//! * What is not known is absent, never zero.
//! * Whatever makes the numbers doubtful is one of the remarks: errors, drops, a generator at its limit.

mod table;

use serde::{Deserialize, Serialize};

use crate::check::Verdict;
use crate::circumstances::{Circumstances, Exit};
use crate::engine::{Outcome, Plan};
use crate::json::{finite, pairs};
use crate::preload::Preload;
use crate::quantity::{latency, short};
use crate::record::{Counts, Latencies, Waits};
use crate::schedule::Load;
use crate::thread_time::ThreadLoad;
use crate::truth::Truth;

pub use table::render;

/// The layout of a [`Report`] as JSON.
pub const SCHEMA: &str = "panch-loadgen/1";

/// The generator's threads, or the busiest of them, were on a CPU, or waited for one, for more than this part of their time: it may be what
/// was measured.
const CLIENT_BUSY_MAX: f64 = 0.85;
/// Through the generator's own fault requests were later than this, in nanoseconds, at the 99th percentile.
const CLIENT_LAG_MAX: u64 = 1_000_000;
/// An open loop of which less than this part is answered asked for more than the server takes.
const ANSWERED_MIN: f64 = 0.95;
/// How many findings of an audit are shown; all are in the JSON.
const FINDINGS_SHOWN: usize = 10;
/// What the generator is called among the processes that used CPU time.
const LOAD_GENERATOR: &str = "load generator";

/// Quantiles of one histogram, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "QuantileFields", into = "QuantileFields")]
pub struct Quantiles {
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// The largest.
    pub max: u64,
    /// From here on they are lower bounds, because some requests had no success and would have taken longer: see [`Waits`].
    pub bounds_from: Option<u64>,
}

/// [`Quantiles`] as JSON has them.
#[derive(Serialize, Deserialize)]
struct QuantileFields {
    p50: u64,
    p90: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p999: u64,
    max: u64,
    /// The names of those that would be longer.
    #[serde(default)]
    lower_bounds: Vec<String>,
    #[serde(default)]
    bounds_from: Option<u64>,
}

impl From<QuantileFields> for Quantiles {
    fn from(fields: QuantileFields) -> Self {
        let QuantileFields { p50, p90, p99, p999, max, lower_bounds, bounds_from } = fields;
        let mut quantiles = Self { p50, p90, p99, p999, max, bounds_from };
        if bounds_from.is_none() {
            // An older version names the bounds alone.
            let bounds = quantiles.named().into_iter();
            quantiles.bounds_from = bounds
                .filter(|(name, _)| lower_bounds.iter().any(|bound| bound == name))
                .map(|(_, value)| value)
                .min();
        }
        quantiles
    }
}

impl From<Quantiles> for QuantileFields {
    fn from(quantiles: Quantiles) -> Self {
        let Quantiles { p50, p90, p99, p999, max, bounds_from } = quantiles;
        let lower_bounds = quantiles.bounds().into_iter().map(str::to_owned).collect();
        Self { p50, p90, p99, p999, max, lower_bounds, bounds_from }
    }
}

impl Quantiles {
    /// `None` if there is nothing in it.
    pub fn of(latencies: &Latencies) -> Option<Self> {
        (!latencies.is_empty()).then(|| Self {
            p50: latencies.value_at_quantile(0.5),
            p90: latencies.value_at_quantile(0.9),
            p99: latencies.value_at_quantile(0.99),
            p999: latencies.value_at_quantile(0.999),
            max: latencies.max(),
            bounds_from: None,
        })
    }

    /// The same of requests some of which may have had no success.
    pub fn of_waits(waits: &Waits) -> Option<Self> {
        let bounds_from = (!waits.at_least.is_empty()).then(|| waits.at_least.min());
        Self::of(&waits.all()).map(|quantiles| Self { bounds_from, ..quantiles })
    }

    /// Whether one of them is a lower bound.
    pub fn is_bound(&self, value: u64) -> bool {
        self.bounds_from.is_some_and(|from| value >= from)
    }

    /// One of them for people: `>= 2.10 s` if it is a lower bound.
    pub fn text(&self, value: u64) -> String {
        let mark = if self.is_bound(value) { ">= " } else { "" };
        format!("{mark}{}", latency(value))
    }

    /// All of them, with their names.
    fn named(&self) -> [(&'static str, u64); 5] {
        [("p50", self.p50), ("p90", self.p90), ("p99", self.p99), ("p99.9", self.p999), ("max", self.max)]
    }

    /// The names of those that are lower bounds.
    pub fn bounds(&self) -> Vec<&'static str> {
        self.named().into_iter().filter(|(_, value)| self.is_bound(*value)).map(|(name, _)| name).collect()
    }
}

/// What the servers counted, for each command that clients saw acknowledged.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct PerCommand {
    /// Messages between nodes.
    #[serde(rename = "messages_per_command")]
    pub messages: Option<f64>,
    /// Packets between nodes.
    #[serde(rename = "packets_per_command")]
    pub packets: Option<f64>,
    /// Bytes between nodes.
    #[serde(rename = "peer_bytes_per_command")]
    pub peer_bytes: Option<f64>,
    /// Log writes.
    #[serde(rename = "log_writes_per_command")]
    pub log_writes: Option<f64>,
    /// Bytes of log writes.
    #[serde(rename = "log_bytes_per_command")]
    pub log_bytes: Option<f64>,
    /// System calls that entered the kernel's ring.
    #[serde(rename = "ring_enters_per_command")]
    pub ring_enters: Option<f64>,
    /// Turns of the nodes' loops.
    #[serde(rename = "turns_per_command")]
    pub turns: Option<f64>,
}

impl PerCommand {
    fn new(truth: &Truth, commands: u64) -> Self {
        let per_command = |counter: &str| finite(truth.per_command(counter, commands));
        Self {
            messages: per_command("messages_total"),
            packets: per_command("packets_total"),
            peer_bytes: per_command("peer_bytes_total"),
            log_writes: per_command("log_writes_total"),
            log_bytes: per_command("log_bytes_total"),
            ring_enters: per_command("ring_enters_total"),
            turns: per_command("turns_total"),
        }
    }
}

/// When requests were sent.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleFacts {
    /// `closed`: a request was sent when the answer to an earlier one had come. `open`: when it was due.
    #[serde(rename = "loop")]
    pub kind: String,
    /// Commands per second that were due; absent in a closed loop.
    pub rate_per_second: Option<f64>,
    /// How the arrivals were spread, `poisson` or `constant`; absent in a closed loop.
    pub arrivals: Option<String>,
    /// After how many nanoseconds an arrival that could not be sent was dropped; absent in a closed loop.
    pub drop_after_ns: Option<u64>,
    /// Load before the measured window, in nanoseconds.
    pub warm_up_ns: Option<u64>,
    /// The measured window as it was planned, in nanoseconds.
    pub duration_ns: Option<u64>,
}

impl ScheduleFacts {
    fn new(plan: &Plan) -> Self {
        let nanos = |span: std::time::Duration| u64::try_from(span.as_nanos()).ok();
        let (warm_up_ns, duration_ns) = (nanos(plan.warm_up), nanos(plan.duration));
        match plan.load {
            Load::Closed => Self { kind: "closed".to_owned(), warm_up_ns, duration_ns, ..Self::default() },
            Load::Open { rate, arrivals, drop_after } => Self {
                kind: "open".to_owned(),
                rate_per_second: finite(Some(rate)),
                arrivals: Some(arrivals.to_string()),
                drop_after_ns: nanos(drop_after),
                warm_up_ns,
                duration_ns,
            },
        }
    }
}

/// One run: a column of the table.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// What the run was: `closed loop, set=100`.
    pub name: String,
    /// Connections and pipeline: `16 x 8`.
    pub concurrency: String,
    /// What the servers were spoken to in: `native` or `resp`.
    pub wire_protocol: Option<String>,
    /// When requests were sent.
    pub schedule: Option<ScheduleFacts>,
    /// Commands per second asked for; absent in a closed loop.
    #[serde(rename = "offered_per_second")]
    pub offered: Option<f64>,
    /// Commands per second.
    #[serde(rename = "throughput_per_second")]
    pub throughput: f64,
    /// From due to answered; absent in a closed loop.
    #[serde(rename = "response_ns")]
    pub response: Option<Quantiles>,
    /// From sent to answered.
    #[serde(rename = "service_ns")]
    pub service: Option<Quantiles>,
    /// Of the reads alone, from due in an open loop and from sent in a closed one; absent unless there are writes as well.
    #[serde(rename = "read_ns")]
    pub reads: Option<Quantiles>,
    /// The same of the writes alone; absent unless there are reads as well.
    #[serde(rename = "write_ns")]
    pub writes: Option<Quantiles>,
    /// How late requests were sent, or dropped, through the generator's own fault, of all that were due; absent in a closed loop.
    #[serde(rename = "schedule_lag_ns")]
    pub lag: Option<Quantiles>,
    /// Fates of requests.
    #[serde(flatten)]
    pub counts: Counts,
    /// Error texts, and how often each came.
    #[serde(with = "pairs")]
    pub errors: Vec<(String, u64)>,
    /// Which programs the servers are, as far as they say it, each once: `panch 0.1.0`.
    pub server_versions: Vec<String>,
    /// The mode that the servers name; joined by `/` if they differ.
    pub durability: Option<String>,
    /// Why the servers' counters are not known, though some server told its own: see [`Truth::missing`].
    pub counters_missing: Vec<String>,
    /// Commands per batch, by the servers' count.
    pub batch_fill: Option<f64>,
    /// What else the servers counted.
    #[serde(flatten)]
    pub per_command: PerCommand,
    /// CPU seconds per million commands of each process: the servers, by position, and at last the generator.
    #[serde(rename = "cpu_seconds_per_million_commands", with = "pairs")]
    pub cpu: Vec<(String, Option<f64>)>,
    /// The part of their time that the generator's threads were on a CPU within the window, from 0 to 1.
    pub client_load: f64,
    /// The part of their time that they were ready to run and waited for a CPU that somebody else had, from 0 to 1; absent if the kernel
    /// does not count that.
    pub client_wait: Option<f64>,
    /// The same as [`Run::client_load`], of the busiest of these threads alone; absent in reports of older versions.
    pub client_load_of_busiest: Option<f64>,
    /// The same as [`Run::client_wait`], of that thread.
    pub client_wait_of_busiest: Option<f64>,
    /// What giving every key a value before the run came to; absent if that was not done.
    pub preload: Option<Preload>,
    /// The audit, if there was one.
    pub audit: Option<Verdict>,
    /// Why the numbers may say more about the generator than about the server, if they may.
    pub no_verdict: Option<String>,
    /// It was stopped before its end.
    pub interrupted: bool,
    /// Nothing went wrong: it went on to its end, everything that was due was sent and answered without an error, no write of the preload
    /// failed, and the audit, if there was one, read something, all of it, and found nothing.
    pub clean: bool,
}

impl Run {
    /// What a run was, with what the servers counted meanwhile and what the audit found.
    pub fn new(plan: &Plan, outcome: &Outcome, truth: &Truth, audit: Option<Verdict>) -> Self {
        let recorder = &outcome.recorder;
        let all = recorder.all();
        let is_open = matches!(plan.load, Load::Open { .. });
        let (name, offered) = match plan.load {
            Load::Closed => ("closed loop", None),
            Load::Open { rate, .. } => ("open loop", Some(rate)),
        };
        let timings = |timings: &crate::record::Timings| {
            Quantiles::of_waits(if is_open { &timings.response } else { &timings.service })
        };
        let (reads, writes) = timings(&recorder.reads).zip(timings(&recorder.writes)).unzip();
        let commands = recorder.counts.acknowledged;
        let per_million = |used: std::time::Duration, commands: u64| {
            (commands > 0).then(|| used.as_secs_f64() * 1e6 / commands as f64)
        };
        let mut cpu: Vec<(String, Option<f64>)> = truth
            .cpu
            .iter()
            .map(|process| (process.name.clone(), process.used.and_then(|used| per_million(used, commands))))
            .collect();
        let own = per_million(outcome.client_time.cpu, recorder.counts.completed);
        cpu.push((LOAD_GENERATOR.to_owned(), own));
        let client_load = outcome.client_load();
        Self {
            name: format!("{name}, {}", plan.workload.mix),
            concurrency: format!("{} x {}", plan.connections, plan.pipeline),
            wire_protocol: Some(plan.protocol.to_string()),
            schedule: Some(ScheduleFacts::new(plan)),
            offered,
            throughput: outcome.throughput(),
            response: Quantiles::of_waits(&all.response).filter(|_| is_open),
            service: Quantiles::of_waits(&all.service),
            reads,
            writes,
            lag: Quantiles::of(&recorder.lag).filter(|_| is_open),
            counts: recorder.counts,
            errors: recorder.errors.clone(),
            server_versions: truth.versions.clone(),
            durability: truth.durability.clone(),
            counters_missing: truth.missing.clone(),
            batch_fill: finite(truth.ratio("commands_total", "batches_total")),
            per_command: PerCommand::new(truth, commands),
            cpu,
            client_load: client_load.cpu,
            client_wait: client_load.waiting,
            client_load_of_busiest: Some(outcome.busiest.cpu),
            client_wait_of_busiest: outcome.busiest.waiting,
            audit,
            interrupted: outcome.interrupted,
            ..Self::default()
        }
        .judged()
    }

    /// With what follows from the numbers: whether the run is clean, and whether it allows a verdict.
    #[must_use]
    pub fn judged(mut self) -> Self {
        self.clean = !self.interrupted
            && self.counts.errors() == 0
            && self.counts.all_dropped() == 0
            && self.counts.disconnects == 0
            && self.preload.as_ref().is_none_or(Preload::is_clean)
            && self.audit.as_ref().is_none_or(Verdict::is_clean);
        let mean = ThreadLoad { cpu: self.client_load, waiting: self.client_wait };
        let busiest = self
            .client_load_of_busiest
            .map_or(mean, |cpu| ThreadLoad { cpu, waiting: self.client_wait_of_busiest });
        self.no_verdict = limit_of_generator(mean, busiest, self.lag.map_or(0, |lag| lag.p99));
        self
    }

    /// The rate that was asked for, if that is clearly more than was answered: more than was due by chance, too.
    pub fn unanswered_rate(&self) -> Option<f64> {
        let due = self.counts.sent + self.counts.dropped;
        let is_short = |asked: f64, answered: f64| answered < ANSWERED_MIN * asked;
        self.offered.filter(|offered| {
            !self.interrupted
                && is_short(*offered, self.throughput)
                && is_short(due as f64, self.counts.completed as f64)
        })
    }

    /// Whether only the server, over the connections that there were, can have kept the generator from the throughput that was asked for:
    /// nothing failed, and the generator was not the limit.
    pub fn is_servers_limit(&self) -> bool {
        self.counts.errors() == 0 && self.counts.disconnects == 0 && self.no_verdict.is_none()
    }

    /// What the requests went over, in words: `16 connections with 8 outstanding each`.
    pub fn connections(&self) -> String {
        let Some((connections, outstanding)) = self.concurrency.split_once(" x ") else {
            return "its connections".to_owned();
        };
        let noun = if connections == "1" { "connection" } else { "connections" };
        format!("{connections} {noun} with {outstanding} outstanding each")
    }

    /// Response times of an open loop, service times of a closed one: what its clients waited.
    pub fn waited(&self) -> Option<Quantiles> {
        self.response.or(self.service)
    }
}

/// Why the numbers may say more about the generator than about the server, if they may: how busy its threads were on average, and the
/// busiest of them; and how late it was, through its own fault, with one in a hundred requests, in nanoseconds.
fn limit_of_generator(mean: ThreadLoad, busiest: ThreadLoad, lag: u64) -> Option<String> {
    let percent = |part: f64| format!("{:.0} %", part * 100.0);
    let waiting = |load: ThreadLoad| percent(load.waiting.unwrap_or(0.0));
    if mean.cpu > CLIENT_BUSY_MAX {
        Some(format!("the load generator used {} of its threads; give it more --threads", percent(mean.cpu)))
    } else if mean.busy() > CLIENT_BUSY_MAX {
        Some(format!(
            "the load generator's threads were on a CPU for {} of their time and waited for one for {}; give it CPUs of its own",
            percent(mean.cpu),
            waiting(mean)
        ))
    } else if busiest.cpu > CLIENT_BUSY_MAX {
        Some(format!(
            "the busiest of the load generator's threads was on a CPU for {} of its time; give it more --threads",
            percent(busiest.cpu)
        ))
    } else if busiest.busy() > CLIENT_BUSY_MAX {
        Some(format!(
            "the busiest of the load generator's threads was on a CPU for {} of its time and waited for one for {}; give it CPUs of its \
             own",
            percent(busiest.cpu),
            waiting(busiest)
        ))
    } else if lag > CLIENT_LAG_MAX {
        Some(format!(
            "the load generator was more than {} late with 1 % of the requests; give it CPUs of its own, or lower the rate",
            latency(lag)
        ))
    } else {
        None
    }
}

/// Everything that `run` and `local` found.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The layout: [`SCHEMA`].
    pub schema: String,
    /// One line.
    pub title: String,
    /// How it came to be.
    #[serde(flatten)]
    pub circumstances: Circumstances,
    /// Lines of name and value on the machine and the settings.
    #[serde(with = "pairs")]
    pub environment: Vec<(String, String)>,
    /// What was measured: the columns of the table.
    pub runs: Vec<Run>,
    /// What has to be said about the numbers, a line each.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// How the program ended.
    #[serde(flatten)]
    pub exit: Exit,
}

impl Report {
    /// The report of these runs.
    pub fn new(title: String, environment: Vec<(String, String)>, runs: Vec<Run>) -> Self {
        let remarks = remarks(&runs);
        let exit = Exit::of(
            runs.iter().any(|run| run.interrupted),
            runs.iter().all(|run| run.clean),
            runs.iter().any(|run| run.no_verdict.is_some()),
        );
        let (schema, circumstances) = (SCHEMA.to_owned(), Circumstances::default());
        Self { schema, title, circumstances, environment, runs, remarks, exit }
    }

    /// The same, if other runs were to follow and did not, or something failed after the last one: for this reason, which is a stop or
    /// not.
    #[must_use]
    pub fn cut_short(mut self, reason: &str, is_stop: bool) -> Self {
        self.remarks.push(format!("INCOMPLETE: {reason}"));
        let is_interrupted = is_stop || self.runs.iter().any(|run| run.interrupted);
        self.exit = Exit::of(is_interrupted, false, false);
        self
    }

    /// Which programs the servers of all runs are, each once.
    pub fn server_versions(&self) -> Vec<String> {
        distinct(self.runs.iter().flat_map(|run| &run.server_versions))
    }
}

/// Each text once, in order.
pub(crate) fn distinct<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut distinct: Vec<String> = texts.cloned().collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

/// What has to be said about the numbers.
fn remarks(runs: &[Run]) -> Vec<String> {
    let mut lines = Vec::new();
    for run in runs {
        let name = &run.name;
        let counts = &run.counts;
        if let Some(reason) = &run.no_verdict {
            lines.push(format!("NO VERDICT for `{name}`, the client may have been the limit: {reason}."));
        }
        if let Some(offered) = run.unanswered_rate() {
            let reason = if run.is_servers_limit() {
                let connections = run.connections();
                format!(
                    ": the rate is beyond what the server takes over {connections}, and response times grow with the duration"
                )
            } else {
                String::new()
            };
            let answered = short(run.throughput);
            lines.push(format!(
                "`{name}`: {answered} of {} commands/s were answered{reason}.",
                short(offered)
            ));
        }
        lines.extend(run.preload.iter().flat_map(Preload::remarks).map(|text| format!("`{name}`: {text}.")));
        if counts.misses > 0 {
            lines.push(format!("`{name}`: {} reads found no value.", counts.misses));
        }
        if counts.warm_up_dropped > 0 {
            lines.push(format!(
                "`{name}`: {} commands were due in the warm-up and never sent.",
                counts.warm_up_dropped
            ));
        }
        if counts.errors() > 0 || counts.disconnects > 0 || counts.dropped > 0 {
            lines.push(format!(
                "`{name}`: {} refused, {} lost with {} broken connections, {} not answered before the end, {} never sent.",
                counts.refused, counts.lost, counts.disconnects, counts.unanswered, counts.dropped
            ));
        }
        if let Some(from) = run.waited().and_then(|quantiles| quantiles.bounds_from) {
            lines.push(format!(
                "  Each of those counts with the time for which it had waited, {} and more: what stands behind >= would be longer.",
                latency(from)
            ));
        }
        lines.extend(run.errors.iter().map(|(text, count)| format!("  {count} x {text}")));
        if !run.counters_missing.is_empty() {
            lines.push(format!(
                "`{name}`: the cluster's counters are not known: {}.",
                run.counters_missing.join("; ")
            ));
        }
        if let Some(verdict) = &run.audit {
            lines.extend(verdict.remarks(FINDINGS_SHOWN).into_iter().map(|line| format!("  {line}")));
        }
    }
    lines
}

#[cfg(test)]
mod tests;
