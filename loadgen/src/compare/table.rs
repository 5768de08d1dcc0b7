//! The table of a comparison: a row for each protocol, in one piece or in three for narrow terminals; below it the latencies at equal load,
//! what each figure means, what went wrong, and where it was measured.

use std::fmt::Write as _;

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};

use super::comparison::{Comparison, Entry, EqualLoad, Series};
use super::figures::{Figures, LATENCY_P50, LATENCY_P99, LATENCY_P999};
use crate::quantity::short;

/// Columns of text that the table in one piece needs.
pub const WIDE: usize = 204;
/// Columns of text that the narrow form needs, and that text beside it is wrapped at.
pub const NARROW: usize = 96;

/// What a column has of an entry.
#[derive(Clone, Copy)]
enum Value {
    /// A figure.
    Figure(fn(&Figures) -> Option<f64>, fn(f64) -> String),
    /// A latency of clients in milliseconds, with its name in JSON: it may be a lower bound.
    Latency(fn(&Figures) -> Option<u64>, &'static str),
    /// The throughput in relation to Multi-Paxos, and whether that is, or may be, within the noise.
    ToMulti,
    /// The noise.
    Noise,
    /// What is calculated, not measured.
    Model,
    /// In how many rounds the client may have been the limit.
    NoVerdict,
}

/// A column.
#[derive(Clone, Copy)]
struct Column {
    /// Two lines.
    head: &'static str,
    value: Value,
    /// Whether least and most of several rounds are shown: not of more figures than can differ by chance.
    has_range: bool,
}

const fn figure_of(head: &'static str, of: fn(&Figures) -> Option<f64>, show: fn(f64) -> String) -> Column {
    Column { head, value: Value::Figure(of, show), has_range: false }
}

const fn millis_of(head: &'static str, of: fn(&Figures) -> Option<f64>) -> Column {
    figure_of(head, of, figure)
}

const fn latency_of(head: &'static str, of: fn(&Figures) -> Option<u64>, name: &'static str) -> Column {
    Column { head, value: Value::Latency(of, name), has_range: false }
}

const fn with_range(column: Column) -> Column {
    Column { has_range: true, ..column }
}

const THROUGHPUT: Column = figure_of("k cmd\n/s", |f| Some(f.throughput / 1e3), thousands);
const P50: Column = with_range(latency_of("p50\nms", |f| f.latency_p50, LATENCY_P50));
const P99: Column = with_range(latency_of("p99\nms", |f| f.latency_p99, LATENCY_P99));
const P999: Column = latency_of("p99.9\nms", |f| f.latency_p999, LATENCY_P999);
const COMMIT_P50: Column = millis_of("commit\np50", |f| f.commit_p50.map(millis));
const COMMIT_P99: Column = with_range(millis_of("commit\np99", |f| f.commit_p99.map(millis)));
const COMMIT_P999: Column = millis_of("commit\np99.9", |f| f.commit_p999.map(millis));

/// How well it went.
const SERVICE: &[Column] = &[
    with_range(THROUGHPUT),
    Column { head: "to\nmulti", value: Value::ToMulti, has_range: true },
    Column { head: "A/A\nnoise", value: Value::Noise, has_range: false },
    P50,
    P99,
    P999,
    COMMIT_P50,
    COMMIT_P99,
    COMMIT_P999,
];

const NO_VERDICT: Column = Column { head: "no\nverdict", value: Value::NoVerdict, has_range: false };

/// How it was decided.
const DECISIONS: &[Column] = &[
    figure_of("fast\n%", |f| f.fast_path.map(|part| part * 100.0), |number| format!("{number:.1}")),
    figure_of("confl\n/batch", |f| f.conflicts, figure),
    figure_of("clash\n/batch", |f| f.clashes, figure),
    figure_of("comp\nmax", |f| f.component_max, |number| format!("{number:.0}")),
    figure_of("cmd\n/batch", |f| f.batch_fill, figure),
];

/// What it cost, and whether to believe it.
const COST: &[Column] = &[
    figure_of("msg\n/cmd", |f| f.messages_per_command, figure),
    figure_of("msg\n/batch", |f| f.messages_per_batch, figure),
    Column { head: "seed\nmodel", value: Value::Model, has_range: false },
    figure_of("net B\n/cmd", |f| f.bytes_per_command, figure),
    figure_of("logwr\n/cmd", |f| f.log_writes_per_command, figure),
    figure_of("log B\n/cmd", |f| f.log_bytes_per_command, figure),
    figure_of("CPU s\n/Mcmd", |f| f.cpu_per_million, figure),
    NO_VERDICT,
];

/// How well it went at equal load.
const EQUAL: &[Column] = &[
    THROUGHPUT,
    P50,
    P99,
    P999,
    COMMIT_P50,
    COMMIT_P99,
    COMMIT_P999,
    figure_of("cmd\n/batch", |f| f.batch_fill, figure),
    NO_VERDICT,
];

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

fn thousands(number: f64) -> String {
    format!("{number:.1}")
}

fn ratio(number: f64) -> String {
    format!("{number:.2}")
}

/// A number in at most five characters and three significant digits, up to 99999.
fn figure(number: f64) -> String {
    match number {
        0.0 => "0".to_owned(),
        n if n < 0.001 => "<.001".to_owned(),
        n if n < 1.0 => format!("{n:.3}"),
        n if n < 10.0 => format!("{n:.2}"),
        n if n < 100.0 => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}

impl Value {
    /// Of one set of figures; what depends on the entry as a whole is not among them.
    fn of(self, figures: &Figures) -> Option<String> {
        match self {
            Self::Figure(of, show) => of(figures).map(show),
            Self::Latency(of, name) => {
                let mark = if figures.is_bound(name) { ">=" } else { "" };
                of(figures).map(|nanos| format!("{mark}{}", figure(millis(nanos))))
            }
            Self::ToMulti => figures.to_multi.map(ratio),
            Self::Noise | Self::Model | Self::NoVerdict => None,
        }
    }

    /// The text of a row: the median of `series`.
    fn show(self, entry: &Entry, series: &Series) -> Option<String> {
        match self {
            Self::Noise => entry.aa_ratio.map(ratio),
            Self::Model => Some(model(entry)),
            Self::NoVerdict => {
                let rounds = series.rounds.len();
                (rounds > 0).then(|| format!("{} of {rounds}", series.without_verdict()))
            }
            _ => {
                let text = self.of(series.median.as_ref()?)?;
                let mark = if matches!(self, Self::ToMulti) { chance_mark(entry) } else { "" };
                Some(format!("{mark}{text}"))
            }
        }
    }
}

/// What stands before a ratio to Multi-Paxos that may be chance.
fn chance_mark(entry: &Entry) -> &'static str {
    match (entry.within_noise, &entry.noise_unknown) {
        (Some(true), _) => "~",
        (None, Some(_)) => "?",
        _ => "",
    }
}

/// The whole report for a terminal of `width` columns. `color` is for terminals.
pub fn render(comparison: &Comparison, width: usize, color: bool) -> String {
    let mut text = format!("{}\n\n", comparison.title);
    let service = meaningful(comparison, SERVICE, |entry| &entry.main);
    let cost = meaningful(comparison, COST, |entry| &entry.main);
    let pieces = vec![service.clone(), DECISIONS.to_vec(), cost];
    let is_wide = width >= WIDE;
    let width = if is_wide { WIDE } else { NARROW };
    for columns in if is_wide { vec![pieces.concat()] } else { pieces } {
        let _ = writeln!(text, "{}", table(comparison, &columns, |entry| &entry.main, color));
    }
    let rounds = comparison.rounds();
    if rounds > 1 {
        let _ = writeln!(text, "Medians of {rounds} rounds; least and most:");
        let _ = writeln!(text, "{}", ranges(comparison, &service, |entry| &entry.main));
    }
    if let Some(load) = &comparison.equal_load {
        text.push('\n');
        wrap(&mut text, &equal_load(load), width, 2);
        let columns = meaningful(comparison, EQUAL, |entry| &entry.equal_load);
        let _ = writeln!(text, "{}", table(comparison, &columns, |entry| &entry.equal_load, color));
        if rounds > 1 {
            let _ = writeln!(text, "{}", ranges(comparison, EQUAL, |entry| &entry.equal_load));
        }
    }
    let mut lines = legend(comparison);
    lines.push(String::new());
    lines.extend(comparison.remarks.iter().cloned());
    lines.push(String::new());
    for line in lines {
        wrap(&mut text, &line, width, 2);
    }
    let circumstances = comparison.circumstances.facts(&comparison.server_versions());
    let order = comparison.order_seed.map(|seed| {
        ("order".to_owned(), format!("drawn for each round; the same again with --order-seed {seed}"))
    });
    let facts = || comparison.environment.iter().chain(&order).chain(&circumstances);
    let names = facts().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts() {
        wrap(&mut text, &format!("{name:names$}  {value}"), width, names + 2);
    }
    text
}

/// Those of `columns` that say anything of a series of each protocol.
fn meaningful(comparison: &Comparison, columns: &[Column], series: fn(&Entry) -> &Series) -> Vec<Column> {
    let entries = &comparison.protocols;
    let says_something = |column: &&Column| match column.value {
        Value::ToMulti => comparison.has_ratios(),
        Value::Noise => has_noise(comparison),
        Value::NoVerdict => entries.iter().any(|entry| series(entry).without_verdict() > 0),
        _ => true,
    };
    columns.iter().filter(says_something).copied().collect()
}

fn has_noise(comparison: &Comparison) -> bool {
    comparison.protocols.iter().any(|entry| entry.aa_ratio.is_some())
}

fn equal_load(load: &EqualLoad) -> String {
    format!(
        "At equal load: an open loop of {} commands/s for each, {:.0} % of what {}, the slowest, did above; latencies from due to \
         answered.",
        short(load.rate),
        load.part_of_slowest * 100.0,
        load.slowest
    )
}

fn new_table(color: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
    if color {
        table.enforce_styling();
    }
    table
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

/// The medians of one series of each protocol.
fn table(comparison: &Comparison, columns: &[Column], series: fn(&Entry) -> &Series, color: bool) -> Table {
    let mut table = new_table(color);
    let mut header = vec![Cell::new("protocol")];
    header.extend(columns.iter().map(|column| right(column.head)));
    table.set_header(header);
    for entry in &comparison.protocols {
        let name = Cell::new(&entry.label);
        let is_bad = entry.failure.is_some() || !series(entry).is_clean();
        let mut row =
            vec![if color && is_bad { name.fg(Color::Red).add_attribute(Attribute::Bold) } else { name }];
        let text =
            |column: &Column| column.value.show(entry, series(entry)).unwrap_or_else(|| "-".to_owned());
        row.extend(columns.iter().map(|column| right(text(column))));
        table.add_row(row);
    }
    table
}

fn model(entry: &Entry) -> String {
    match entry.model {
        (least, most) if least == most => figure(least),
        (least, most) => format!("{least:.0}-{most:.0}"),
    }
}

/// The least and the most of one series of each protocol.
fn ranges(comparison: &Comparison, columns: &[Column], series: fn(&Entry) -> &Series) -> Table {
    let mut table = new_table(false);
    let columns: Vec<&Column> = columns.iter().filter(|column| column.has_range).collect();
    let mut header = vec![Cell::new("protocol")];
    header.extend(columns.iter().map(|column| right(column.head.replace('\n', " "))));
    table.set_header(header);
    for entry in &comparison.protocols {
        let Series { min, max, .. } = series(entry);
        let range = |column: &Column| {
            let least = column.value.of(min.as_ref()?)?;
            Some(format!("{least} - {}", column.value.of(max.as_ref()?)?))
        };
        let mut row = vec![Cell::new(&entry.label)];
        row.extend(columns.iter().map(|column| right(range(column).unwrap_or_else(|| "-".to_owned()))));
        table.add_row(row);
    }
    table
}

/// What the columns mean.
fn legend(comparison: &Comparison) -> Vec<String> {
    let n = comparison.replicas;
    let unbatched = if comparison.batch == 1 {
        "a batch is one command, also behind a full pipeline"
    } else {
        "behind a full pipeline a batch grows beyond the set number"
    };
    let mut lines = Vec::new();
    if comparison.has_ratios() {
        lines.push("to multi: throughput divided by that of multi in the same round.".to_owned());
    }
    if has_noise(comparison) {
        lines.push(
            "A/A noise: the highest throughput of all runs of this protocol divided by the lowest, which is chance and drift alone. \
             ~: neither the ratio to multi nor its inverse exceeds the larger noise of the two, so it may be no difference at all."
                .to_owned(),
        );
    }
    let mut series = comparison.protocols.iter().flat_map(Entry::series);
    if series.any(|(_, series)| series.without_verdict() > 0) {
        lines.push(
            "no verdict: in so many rounds the client may have been the limit, for the reasons below."
                .to_owned(),
        );
    }
    lines.extend([
        "p50, p99, p99.9: execution latency as the client sees it, from sent (open loop: from due) to the answer, which \
         comes after execution. >=: would be longer, since some commands had no success."
            .to_owned(),
        "commit: ms from sealing a batch until the node that sealed it knows it to be chosen, before its execution; of \
         commands, by the nodes' own count, at most 1/16 too high."
            .to_owned(),
        "fast %: decided by the fast path (Fast Paxos: slots, EPaxos: instances). confl/batch: pre-acceptances that added \
         dependencies (EPaxos). clash/batch: collisions (Fast Paxos) or ballots lost to another proposer (Basic Paxos). \
         comp max: largest cycle of dependencies executed at once, in instances (EPaxos)."
            .to_owned(),
        format!(
            "cmd/batch: as measured; {unbatched}. msg, net B: sent between nodes, answers and heartbeats included. logwr, \
             log B: log writes of all nodes; with durability sync each is on stable storage when it completes. CPU: of all \
             nodes together. Each over the measured window. -: not counted by these nodes, or not a part of the protocol."
        ),
        format!(
            "seed model: messages per batch by the formula of the requirement document, which counts one-way messages only: \
             basic 2(1+n), multi 1+n, fast n, and 1+n more with probability 0.1, epaxos 2n without and 3n with a conflict; \
             n = {n}. A model, not a measurement: compare with msg/batch."
        ),
    ]);
    lines
}

/// Appends `text` and a line end, broken at spaces before `width` columns; lines after the first are set in by `indent`.
fn wrap(out: &mut String, text: &str, width: usize, indent: usize) {
    for line in text.split('\n') {
        let mut used = 0;
        // What a line begins with stays as it is.
        let start = line.len() - line.trim_start().len();
        out.push_str(&line[..start]);
        used += start;
        let mut is_first = true;
        for word in line[start..].split(' ') {
            let size = word.chars().count();
            if !is_first && used + 1 + size > width {
                out.truncate(out.trim_end_matches(' ').len());
                let indent = indent.max(start);
                let _ = write!(out, "\n{:indent$}", "");
                used = indent;
            } else if !is_first {
                out.push(' ');
                used += 1;
            }
            out.push_str(word);
            used += size;
            is_first = false;
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
}
