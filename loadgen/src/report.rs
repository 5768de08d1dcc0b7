//! The one table at the end, with what must stand beside it to be believed.
//!
//! Invariants:
//! * No mean stands without percentiles.
//! * What is not known is shown as `-`, never as zero.
//! * Whatever makes the numbers doubtful is said under the table: errors, drops, a generator at its limit.

use std::fmt::Write as _;

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};

use crate::check::Verdict;
use crate::engine::{Outcome, Plan};
use crate::quantity::{latency, short};
use crate::record::{Counts, Latencies, Waits};
use crate::schedule::Load;
use crate::truth::{ProcessCpu, Truth};

/// The generator used more than this part of its threads: it may be what was measured.
const CLIENT_LOAD_MAX: f64 = 0.85;
/// Requests were later than this, in nanoseconds, at the 99th percentile, through the generator's own fault.
const CLIENT_LAG_MAX: u64 = 1_000_000;

/// Quantiles of one histogram, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    fn text(&self, value: u64) -> String {
        let mark = if self.is_bound(value) { ">= " } else { "" };
        format!("{mark}{}", latency(value))
    }

    /// The names of those that are lower bounds.
    pub fn bounds(&self) -> Vec<&'static str> {
        let all = [
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p999),
            ("max", self.max),
        ];
        all.into_iter().filter(|(_, value)| self.is_bound(*value)).map(|(name, _)| name).collect()
    }
}

/// One run, ready to be shown: a column of the table.
#[derive(Clone, PartialEq, Debug)]
pub struct Column {
    /// What the run was: `closed loop, set=100`.
    pub title: String,
    /// Connections and pipeline: `16 x 8`.
    pub concurrency: String,
    /// Commands per second asked for; absent in a closed loop.
    pub offered: Option<f64>,
    /// Commands per second.
    pub throughput: f64,
    /// From due to answered; absent in a closed loop.
    pub response: Option<Quantiles>,
    /// From sent to answered.
    pub service: Option<Quantiles>,
    /// Of the reads alone and the writes alone, if there are both.
    pub parts: Option<(Quantiles, Quantiles)>,
    /// How late the generator was.
    pub lag: Option<Quantiles>,
    /// Fates of requests.
    pub counts: Counts,
    /// Error texts.
    pub errors: Vec<(String, u64)>,
    /// The servers' own view.
    pub truth: Truth,
    /// CPU time of the generator's threads within the window, and the part of their time that this is.
    pub client_cpu: (std::time::Duration, f64),
    /// The audit, if there was one.
    pub verdict: Option<Verdict>,
    /// It was stopped before its end.
    pub interrupted: bool,
}

impl Column {
    /// The column of a run.
    pub fn new(plan: &Plan, outcome: &Outcome, truth: Truth, verdict: Option<Verdict>) -> Self {
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
        Self {
            title: format!("{name}\n{}", plan.workload.mix),
            concurrency: format!("{} x {}", plan.connections, plan.pipeline),
            offered,
            throughput: outcome.throughput(),
            response: Quantiles::of_waits(&all.response).filter(|_| is_open),
            service: Quantiles::of_waits(&all.service),
            parts: timings(&recorder.reads).zip(timings(&recorder.writes)),
            lag: Quantiles::of(&recorder.lag).filter(|_| is_open),
            counts: recorder.counts,
            errors: recorder.errors.clone(),
            truth,
            client_cpu: (outcome.client_cpu, outcome.client_load()),
            verdict,
            interrupted: outcome.interrupted,
        }
    }

    /// Whether nothing went wrong: it went on to its end, everything that was due was sent and answered without an error, and the audit, if
    /// there was one, read everything and found nothing.
    pub fn is_clean(&self) -> bool {
        !self.interrupted
            && self.counts.errors() == 0
            && self.counts.dropped == 0
            && self.counts.disconnects == 0
            && self.verdict.as_ref().is_none_or(Verdict::is_clean)
    }

    /// Why the numbers may say more about the generator than about the server.
    pub fn client_limits(&self) -> Option<String> {
        let (_, load) = self.client_cpu;
        let lag = self.lag.map_or(0, |lag| lag.p99);
        if load > CLIENT_LOAD_MAX {
            Some(format!(
                "the load generator used {:.0} % of its threads; give it more --threads",
                load * 100.0
            ))
        } else if lag > CLIENT_LAG_MAX {
            Some(format!(
                "the load generator sent 1 % of the requests more than {} late; give it CPUs of its own, or lower the rate",
                latency(lag)
            ))
        } else {
            None
        }
    }
}

/// What stands above the table.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Heading {
    /// One line.
    pub title: String,
    /// Lines of name and value.
    pub facts: Vec<(String, String)>,
}

type Row<'a> = (&'a str, Box<dyn Fn(&Column) -> Option<String> + 'a>);

fn rows<'a>() -> Vec<Row<'a>> {
    fn quantiles<'a>(names: [&'a str; 5], of: fn(&Column) -> Option<Quantiles>) -> Vec<Row<'a>> {
        let parts: [fn(&Quantiles) -> u64; 5] = [|q| q.p50, |q| q.p90, |q| q.p99, |q| q.p999, |q| q.max];
        names
            .into_iter()
            .zip(parts)
            .map(|(name, part)| -> Row<'a> {
                (name, Box::new(move |column| of(column).map(|q| q.text(part(&q)))))
            })
            .collect()
    }
    fn pair(quantiles: Quantiles) -> String {
        format!("{} / {}", quantiles.text(quantiles.p50), quantiles.text(quantiles.p99))
    }
    fn per_command<'a>(name: &'a str, counter: &'static str) -> Row<'a> {
        (
            name,
            Box::new(move |column| column.truth.per_command(counter, column.counts.acknowledged).map(short)),
        )
    }
    let mut rows: Vec<Row<'a>> = vec![
        ("connections x pipeline", Box::new(|column| Some(column.concurrency.clone()))),
        ("offered, commands/s", Box::new(|column| column.offered.map(short))),
        ("throughput, commands/s", Box::new(|column| Some(short(column.throughput)))),
    ];
    rows.extend(quantiles(["response time p50", "  p90", "  p99", "  p99.9", "  max"], |column| {
        column.response
    }));
    rows.extend(quantiles(["service time p50", "  p90", "  p99", "  p99.9", "  max"], |column| {
        column.service
    }));
    rows.push(("reads p50 / p99", Box::new(|column| column.parts.map(|(reads, _)| pair(reads)))));
    rows.push(("writes p50 / p99", Box::new(|column| column.parts.map(|(_, writes)| pair(writes)))));
    rows.push(("schedule lag p50 / p99", Box::new(|column| column.lag.map(pair))));
    rows.push((
        "waited for a connection",
        Box::new(|column| {
            let counts = &column.counts;
            column.offered.filter(|_| counts.sent > 0)?;
            Some(format!("{:.1} %", 100.0 * counts.queued as f64 / counts.sent as f64))
        }),
    ));
    rows.push(("dropped", Box::new(|column| column.offered.map(|_| column.counts.dropped.to_string()))));
    rows.push(("errors", Box::new(|column| Some(column.counts.errors().to_string()))));
    rows.push((
        "repeated in sessions",
        Box::new(|column| (column.counts.repeated > 0).then(|| column.counts.repeated.to_string())),
    ));
    rows.push(("audit", Box::new(|column| column.verdict.as_ref().map(ToString::to_string))));
    rows.push(("durability", Box::new(|column| column.truth.durability.clone())));
    rows.push((
        "batch fill, commands",
        Box::new(|column| column.truth.ratio("commands_total", "batches_total").map(short)),
    ));
    rows.push(per_command("messages/command", "messages_total"));
    rows.push(per_command("peer bytes/command", "peer_bytes_total"));
    rows.push(per_command("log writes/command", "log_writes_total"));
    rows.push(per_command("log bytes/command", "log_bytes_total"));
    rows.push(per_command("ring enters/command", "ring_enters_total"));
    rows
}

/// Rows that matter even if no column has a value for them.
const ALWAYS: &[&str] = &[
    "service time p50",
    "durability",
    "batch fill, commands",
    "messages/command",
    "peer bytes/command",
    "log writes/command",
];

/// The whole report. `color` is for terminals.
pub fn render(heading: &Heading, columns: &[Column], color: bool) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", heading.title);
    let width = heading.facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in &heading.facts {
        let _ = writeln!(text, "  {name:width$}  {value}");
    }
    let _ = writeln!(text, "\n{}", table(columns, color));
    for line in remarks(columns) {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn table(columns: &[Column], color: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
    if color {
        table.enforce_styling();
    }
    let mut header = vec![Cell::new("")];
    header.extend(columns.iter().map(|column| {
        let note = if column.interrupted { "\n(interrupted)" } else { "" };
        Cell::new(format!("{}{note}", column.title)).set_alignment(CellAlignment::Right)
    }));
    table.set_header(header);
    let value_cell = |name: &str, column: &Column, value: Option<String>| {
        let cell = Cell::new(value.unwrap_or_else(|| "-".to_owned())).set_alignment(CellAlignment::Right);
        let counts = &column.counts;
        let is_bad = match name {
            "errors" => counts.errors() > 0,
            "dropped" => counts.dropped > 0,
            "audit" => column.verdict.as_ref().is_some_and(|verdict| !verdict.is_clean()),
            _ => false,
        };
        match (color, is_bad, name) {
            (true, true, _) => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            (true, false, "throughput, commands/s") => cell.add_attribute(Attribute::Bold),
            _ => cell,
        }
    };
    for (name, value) in rows() {
        let values: Vec<_> = columns.iter().map(&value).collect();
        if values.iter().all(Option::is_none) && !ALWAYS.contains(&name) {
            continue;
        }
        let mut row = vec![Cell::new(name)];
        row.extend(columns.iter().zip(values).map(|(column, value)| value_cell(name, column, value)));
        table.add_row(row);
    }
    cpu_rows(&mut table, columns);
    table.to_string()
}

/// CPU seconds per million commands: a row for each process, servers by position.
fn cpu_rows(table: &mut Table, columns: &[Column]) {
    let per_million = |used: std::time::Duration, commands: u64| {
        let millions = commands as f64 / 1e6;
        if commands == 0 { "-".to_owned() } else { format!("{} s", short(used.as_secs_f64() / millions)) }
    };
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let servers = columns.iter().map(|column| column.truth.cpu.len()).max().unwrap_or(0);
    for server in 0..servers {
        let processes: Vec<Option<&ProcessCpu>> =
            columns.iter().map(|column| column.truth.cpu.get(server)).collect();
        let mut names: Vec<&str> = processes.iter().flatten().map(|process| process.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        // A node that led only for a part of the runs has two names; the longer one says so.
        let name = names.iter().max_by_key(|name| name.len()).copied().unwrap_or("server");
        let mut row = vec![Cell::new(format!("CPU/M commands, {name}"))];
        row.extend(columns.iter().zip(&processes).map(|(column, process)| {
            let used = process.and_then(|process| process.used);
            right(used.map_or("-".to_owned(), |used| per_million(used, column.counts.acknowledged)))
        }));
        table.add_row(row);
    }
    let mut row = vec![Cell::new("CPU/M commands, load generator")];
    row.extend(columns.iter().map(|column| right(per_million(column.client_cpu.0, column.counts.completed))));
    table.add_row(row);
    let mut row = vec![Cell::new("load generator's threads busy")];
    row.extend(columns.iter().map(|column| right(format!("{:.0} %", column.client_cpu.1 * 100.0))));
    table.add_row(row);
}

/// What has to be said about the numbers.
fn remarks(columns: &[Column]) -> Vec<String> {
    let mut lines = Vec::new();
    for column in columns {
        let title = column.title.replace('\n', ", ");
        let counts = &column.counts;
        if let Some(reason) = column.client_limits() {
            lines.push(format!("NO VERDICT for `{title}`, the client may have been the limit: {reason}."));
        }
        if let Some(offered) = column.offered
            && !column.interrupted
            && column.throughput < 0.95 * offered
        {
            lines.push(format!(
                "`{title}`: {} of {} commands/s were answered: the rate is beyond what the server takes, and response \
                 times grow with the duration.",
                short(column.throughput),
                short(offered)
            ));
        }
        if counts.misses > 0 {
            lines.push(format!("`{title}`: {} reads found no value.", counts.misses));
        }
        if counts.errors() > 0 || counts.disconnects > 0 || counts.dropped > 0 {
            lines.push(format!(
                "`{title}`: {} refused, {} lost with {} broken connections, {} not answered before the end, {} never sent.",
                counts.refused, counts.lost, counts.disconnects, counts.unanswered, counts.dropped
            ));
        }
        if let Some(from) = column.response.or(column.service).and_then(|quantiles| quantiles.bounds_from) {
            lines.push(format!(
                "  Each of those counts with the time for which it had waited, {} and more: what stands behind >= would be longer.",
                latency(from)
            ));
        }
        lines.extend(column.errors.iter().map(|(text, count)| format!("  {count} x {text}")));
        if let Some(verdict) = &column.verdict {
            const SHOWN: usize = 10;
            lines.extend(
                verdict.violations.iter().take(SHOWN).map(|violation| format!("  AUDIT: {violation}")),
            );
            lines.extend(verdict.unread.iter().map(|reason| format!("  AUDIT INCOMPLETE: {reason}")));
            if verdict.violations.len() > SHOWN {
                lines.push(format!("  AUDIT: and {} more", verdict.violations.len() - SHOWN));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests;
