//! The table of a comparison: a row for each protocol, in one piece or in three for narrow terminals; below it what each
//! figure means, what went wrong, and where it was measured.

use std::fmt::Write as _;

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};

use super::figures::{Figures, Spread};
use super::{Agreement, Comparison, Entry};
use crate::quantity::short;

/// Columns of text that the table in one piece needs.
pub const WIDE: usize = 180;
/// Columns of text that the narrow form needs, and that text beside it is wrapped at.
pub const NARROW: usize = 96;

/// An open loop of which less than this part is answered is said to be too fast.
const OFFERED_MIN: f64 = 0.95;

/// A column of figures.
struct Measure {
    /// Two lines, or three.
    head: &'static str,
    of: fn(&Figures) -> Option<f64>,
    show: fn(f64) -> String,
}

const fn measure(head: &'static str, of: fn(&Figures) -> Option<f64>, show: fn(f64) -> String) -> Measure {
    Measure { head, of, show }
}

/// How well it went.
const SERVICE: &[Measure] = &[
    measure("k cmd\n/s", |f| Some(f.throughput / 1e3), thousands),
    measure("to\nmulti", |f| f.to_multi, |number| format!("{number:.2}")),
    measure("p50\nms", |f| f.latency_p50.map(millis), figure),
    measure("p99\nms", |f| f.latency_p99.map(millis), figure),
    measure("p99.9\nms", |f| f.latency_p999.map(millis), figure),
    measure("commit\np50", |f| f.commit_p50.map(millis), figure),
    measure("commit\np99", |f| f.commit_p99.map(millis), figure),
    measure("commit\np99.9", |f| f.commit_p999.map(millis), figure),
];

/// How it was decided.
const DECISIONS: &[Measure] = &[
    measure("fast\n%", |f| f.fast_path.map(|part| part * 100.0), |number| format!("{number:.1}")),
    measure("confl\n/batch", |f| f.conflicts, figure),
    measure("clash\n/batch", |f| f.clashes, figure),
    measure("comp\nmax", |f| f.component_max, |number| format!("{number:.0}")),
    measure("cmd\n/batch", |f| f.batch_fill, figure),
];

/// What it cost.
const COST: &[Measure] = &[
    measure("msg\n/cmd", |f| f.messages_per_command, figure),
    measure("msg\n/batch", |f| f.messages_per_batch, figure),
    measure(MODEL, |_| None, figure),
    measure("net B\n/cmd", |f| f.bytes_per_command, figure),
    measure("logwr\n/cmd", |f| f.log_writes_per_command, figure),
    measure("log B\n/cmd", |f| f.log_bytes_per_command, figure),
    measure("CPU s\n/Mcmd", |f| f.cpu_per_million, figure),
];

/// The column that is calculated, not measured.
const MODEL: &str = "seed\nmodel";

/// Columns whose ranges over rounds are shown: not more than can differ by chance.
const RANGED: &[usize] = &[0, 1, 2, 3, 6];

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

fn thousands(number: f64) -> String {
    format!("{number:.1}")
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

/// The whole report for a terminal of `width` columns. `color` is for terminals.
pub fn render(comparison: &Comparison, width: usize, color: bool) -> String {
    let mut text = format!("{}\n\n", comparison.title);
    let pieces: Vec<Vec<&Measure>> = [SERVICE, DECISIONS, COST].map(|piece| piece.iter().collect()).into();
    let pieces = if width >= WIDE { vec![pieces.concat()] } else { pieces };
    for measures in &pieces {
        let _ = writeln!(text, "{}", table(comparison, measures, color));
    }
    if rounds(comparison) > 1 {
        let _ = writeln!(text, "Medians of {} rounds; least and most:", rounds(comparison));
        let _ = writeln!(text, "{}", ranges(comparison));
    }
    let width = if width >= WIDE { WIDE } else { NARROW };
    let mut lines = legend(comparison);
    lines.push(String::new());
    lines.extend(comparison.remarks.iter().cloned());
    lines.push(String::new());
    for line in lines {
        wrap(&mut text, &line, width, 2);
    }
    let circumstances = comparison.circumstances.facts(&comparison.server_versions());
    let facts = || comparison.environment.iter().chain(&circumstances);
    let names = facts().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts() {
        wrap(&mut text, &format!("{name:names$}  {value}"), width, names + 2);
    }
    text
}

fn rounds(comparison: &Comparison) -> usize {
    comparison.protocols.iter().map(|entry| entry.rounds.len()).max().unwrap_or(0)
}

fn spread(entry: &Entry, measure: &Measure) -> Option<Spread> {
    Spread::of(entry.rounds.iter().filter_map(|round| (measure.of)(&round.window)))
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

fn table(comparison: &Comparison, measures: &[&Measure], color: bool) -> Table {
    let mut table = new_table(color);
    let mut header = vec![Cell::new("protocol")];
    header.extend(measures.iter().map(|measure| right(measure.head)));
    table.set_header(header);
    for entry in &comparison.protocols {
        let name = Cell::new(&entry.label);
        let is_bad = entry.failure.is_some() || entry.rounds.iter().any(|round| !round.is_clean());
        let mut row =
            vec![if color && is_bad { name.fg(Color::Red).add_attribute(Attribute::Bold) } else { name }];
        row.extend(measures.iter().map(|measure| {
            if measure.head == MODEL {
                return right(model(entry));
            }
            right(spread(entry, measure).map_or("-".to_owned(), |spread| (measure.show)(spread.median)))
        }));
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

/// The least and the most of each round.
fn ranges(comparison: &Comparison) -> Table {
    let mut table = new_table(false);
    let measures: Vec<&Measure> = RANGED.iter().map(|index| &SERVICE[*index]).collect();
    let mut header = vec![Cell::new("protocol")];
    header.extend(measures.iter().map(|measure| right(measure.head.replace('\n', " "))));
    table.set_header(header);
    for entry in &comparison.protocols {
        let mut row = vec![Cell::new(&entry.label)];
        row.extend(measures.iter().map(|measure| {
            right(spread(entry, measure).map_or("-".to_owned(), |spread| {
                format!("{} - {}", (measure.show)(spread.least), (measure.show)(spread.most))
            }))
        }));
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
    vec![
        "p50, p99, p99.9: execution latency as the client sees it, from sent (open loop: from due) to the answer, which \
         comes after execution."
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
    ]
}

/// What went wrong, or that nothing did.
pub(super) fn remarks(comparison: &Comparison) -> Vec<String> {
    let mut lines = Vec::new();
    if comparison.interrupted {
        lines.push("INTERRUPTED: what is missing was not measured.".to_owned());
    }
    for entry in &comparison.protocols {
        for (number, round) in (1..).zip(&entry.rounds) {
            let label = match entry.rounds.len() {
                1 => entry.label.clone(),
                _ => format!("{}, round {number}", entry.label),
            };
            let _: usize = number;
            let counts = &round.run.counts;
            let audit = match &round.run.audit {
                Some(verdict) => format!("acknowledged writes read back: {verdict}"),
                None => "acknowledged writes NOT read back: values are too small for a tag".to_owned(),
            };
            let state = match &round.digests {
                Agreement::Equal => format!("{} nodes with equal digests", comparison.replicas),
                Agreement::Different(difference) => format!("DIFFERENT STATES: {difference}"),
                Agreement::Untold => "DIGESTS NOT TOLD by some node".to_owned(),
            };
            lines.push(format!(
                "{label}: {} errors, {} unknown outcomes; {state}; {audit}.",
                counts.refused,
                counts.lost + counts.unanswered
            ));
            if counts.dropped > 0 {
                lines.push(format!("  {} commands were due and never sent", counts.dropped));
            }
            let bounds = round.run.waited().map(|waited| waited.bounds()).unwrap_or_default();
            if !bounds.is_empty() {
                lines.push(format!(
                    "  LOWER BOUNDS: {} would be longer, since some commands had no success",
                    bounds.join(", ")
                ));
            }
            lines.extend(round.run.errors.iter().map(|(text, count)| format!("  {count} x {text}")));
            if let Some(verdict) = &round.run.audit {
                lines.extend(verdict.violations.iter().take(5).map(|text| format!("  AUDIT: {text}")));
                lines.extend(verdict.unread.iter().map(|text| format!("  AUDIT INCOMPLETE: {text}")));
            }
            if let Some(reason) = &round.run.no_verdict {
                lines.push(format!("  NO VERDICT, the client may have been the limit: {reason}"));
            }
            if comparison.batch == 1 && round.window.batch_fill.is_some_and(|fill| fill > 1.0) {
                lines.push("  NOT UNBATCHED: the nodes put several commands into a batch".to_owned());
            }
            if let Some(offered) = round.run.offered
                && round.window.throughput < OFFERED_MIN * offered
            {
                lines.push(format!(
                    "  {} of {} commands/s were answered: the rate is beyond what this protocol takes here",
                    short(round.window.throughput),
                    short(offered)
                ));
            }
            if !round.is_counted() {
                let reasons = round.counters_missing.join("; ");
                let reasons = if reasons.is_empty() { "no node told any" } else { &reasons };
                lines.push(format!("  COUNTERS NOT KNOWN: {reasons}"));
            }
        }
        match (&entry.failure, entry.rounds.is_empty()) {
            (Some(failure), true) => {
                lines.push(format!("{}: NOT MEASURED: {}", entry.label, indented(failure)));
            }
            (Some(failure), false) => {
                lines.push(format!("{}: LATER ROUNDS FAILED: {}", entry.label, indented(failure)));
            }
            (None, _) => {}
        }
    }
    lines
}

/// A text of several lines, each but the first set in.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n  ")
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
