//! The report for people: one table, with what must stand beside it to be believed. What is not known is shown as `-`.

use std::fmt::Write as _;

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};

use super::{LOAD_GENERATOR, Quantiles, Report, Run};
use crate::quantity::short;
use crate::record::Counts;

type Row<'a> = (&'a str, Box<dyn Fn(&Run) -> Option<String> + 'a>);

fn rows<'a>() -> Vec<Row<'a>> {
    fn quantiles<'a>(names: [&'a str; 5], of: fn(&Run) -> Option<Quantiles>) -> Vec<Row<'a>> {
        let parts: [fn(&Quantiles) -> u64; 5] = [|q| q.p50, |q| q.p90, |q| q.p99, |q| q.p999, |q| q.max];
        names
            .into_iter()
            .zip(parts)
            .map(|(name, part)| -> Row<'a> { (name, Box::new(move |run| of(run).map(|q| q.text(part(&q))))) })
            .collect()
    }
    fn pair(quantiles: Quantiles) -> String {
        format!("{} / {}", quantiles.text(quantiles.p50), quantiles.text(quantiles.p99))
    }
    fn number<'a>(name: &'a str, of: fn(&Run) -> Option<f64>) -> Row<'a> {
        (name, Box::new(move |run| of(run).map(short)))
    }
    let mut rows: Vec<Row<'a>> = vec![
        ("connections x pipeline", Box::new(|run| Some(run.concurrency.clone()))),
        ("offered, commands/s", Box::new(|run| run.offered.map(short))),
        ("arrivals", Box::new(|run| run.schedule.as_ref().and_then(|schedule| schedule.arrivals.clone()))),
        ("throughput, commands/s", Box::new(|run| Some(short(run.throughput)))),
    ];
    rows.extend(quantiles(["response time p50", "  p90", "  p99", "  p99.9", "  max"], |run| run.response));
    rows.extend(quantiles(["service time p50", "  p90", "  p99", "  p99.9", "  max"], |run| run.service));
    rows.push(("reads p50 / p99", Box::new(|run| run.reads.map(pair))));
    rows.push(("writes p50 / p99", Box::new(|run| run.writes.map(pair))));
    rows.push(("schedule lag p50 / p99", Box::new(|run| run.lag.map(pair))));
    rows.push((
        "waited for a connection",
        Box::new(|run| {
            let counts = &run.counts;
            run.offered.filter(|_| counts.sent > 0)?;
            Some(format!("{:.1} %", 100.0 * counts.queued as f64 / counts.sent as f64))
        }),
    ));
    rows.push(("dropped", Box::new(|run| run.offered.map(|_| dropped(&run.counts)))));
    rows.push(("errors", Box::new(|run| Some(run.counts.errors().to_string()))));
    rows.push((
        "repeated in sessions",
        Box::new(|run| (run.counts.repeated > 0).then(|| run.counts.repeated.to_string())),
    ));
    rows.push(("audit", Box::new(|run| run.audit.as_ref().map(ToString::to_string))));
    rows.push(("durability", Box::new(|run| run.durability.clone())));
    rows.push(number("batch fill, commands", |run| run.batch_fill));
    rows.push(number("messages/command", |run| run.per_command.messages));
    rows.push(number("peer bytes/command", |run| run.per_command.peer_bytes));
    rows.push(number("log writes/command", |run| run.per_command.log_writes));
    rows.push(number("log bytes/command", |run| run.per_command.log_bytes));
    rows.push(number("ring enters/command", |run| run.per_command.ring_enters));
    rows
}

/// How many requests were never sent, and how many more of the warm-up.
fn dropped(counts: &Counts) -> String {
    match counts.warm_up_dropped {
        0 => counts.dropped.to_string(),
        more => format!("{}, warm-up {more}", counts.dropped),
    }
}

/// Rows that matter even if no run has a value for them.
const ALWAYS: &[&str] = &[
    "service time p50",
    "durability",
    "batch fill, commands",
    "messages/command",
    "peer bytes/command",
    "log writes/command",
];

/// The whole report as text. `color` is for terminals.
pub fn render(report: &Report, color: bool) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", report.title);
    let circumstances = report.circumstances.facts(&report.server_versions());
    let facts = || report.environment.iter().chain(&circumstances);
    let width = facts().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts() {
        let _ = writeln!(text, "  {name:width$}  {value}");
    }
    let _ = writeln!(text, "\n{}", table(&report.runs, color));
    for line in &report.remarks {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn table(runs: &[Run], color: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
    if color {
        table.enforce_styling();
    }
    let mut header = vec![Cell::new("")];
    header.extend(runs.iter().map(|run| {
        let note = if run.interrupted { "\n(interrupted)" } else { "" };
        Cell::new(format!("{}{note}", run.name.replacen(", ", "\n", 1))).set_alignment(CellAlignment::Right)
    }));
    table.set_header(header);
    let value_cell = |name: &str, run: &Run, value: Option<String>| {
        let cell = Cell::new(value.unwrap_or_else(|| "-".to_owned())).set_alignment(CellAlignment::Right);
        let counts = &run.counts;
        let is_bad = match name {
            "errors" => counts.errors() > 0,
            "dropped" => counts.all_dropped() > 0,
            "audit" => run.audit.as_ref().is_some_and(|verdict| !verdict.is_clean()),
            _ => false,
        };
        match (color, is_bad, name) {
            (true, true, _) => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            (true, false, "throughput, commands/s") => cell.add_attribute(Attribute::Bold),
            _ => cell,
        }
    };
    for (name, value) in rows() {
        let values: Vec<_> = runs.iter().map(&value).collect();
        if values.iter().all(Option::is_none) && !ALWAYS.contains(&name) {
            continue;
        }
        let mut row = vec![Cell::new(name)];
        row.extend(runs.iter().zip(values).map(|(run, value)| value_cell(name, run, value)));
        table.add_row(row);
    }
    cpu_rows(&mut table, runs);
    table.to_string()
}

/// CPU seconds per million commands: a row for each process, servers by position.
fn cpu_rows(table: &mut Table, runs: &[Run]) {
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let seconds = |used: Option<f64>| used.map_or("-".to_owned(), |used| format!("{} s", short(used)));
    fn servers(run: &Run) -> impl Iterator<Item = &(String, Option<f64>)> {
        run.cpu.iter().filter(|(name, _)| name != LOAD_GENERATOR)
    }
    let count = runs.iter().map(|run| servers(run).count()).max().unwrap_or(0);
    for server in 0..count {
        let processes: Vec<_> = runs.iter().map(|run| servers(run).nth(server)).collect();
        // A node that led only for a part of the runs has two names; the longer one says so.
        let names = processes.iter().flatten().map(|(name, _)| name.as_str());
        let name = names.max_by_key(|name| name.len()).unwrap_or("server");
        let mut row = vec![Cell::new(format!("CPU/M commands, {name}"))];
        row.extend(processes.iter().map(|process| right(seconds(process.and_then(|(_, used)| *used)))));
        table.add_row(row);
    }
    let mut row = vec![Cell::new("CPU/M commands, load generator")];
    row.extend(runs.iter().map(|run| {
        let own = run.cpu.iter().find(|(name, _)| name == LOAD_GENERATOR);
        right(seconds(own.and_then(|(_, used)| *used)))
    }));
    table.add_row(row);
    let percent = |part: f64| format!("{:.0} %", part * 100.0);
    let mut row = vec![Cell::new("load generator's threads on CPU")];
    row.extend(runs.iter().map(|run| right(percent(run.client_load))));
    table.add_row(row);
    // Of a single thread it is the same.
    let is_busier =
        |run: &Run| run.client_load_of_busiest.is_some_and(|busiest| busiest > run.client_load + 0.005);
    if runs.iter().any(is_busier) {
        let mut row = vec![Cell::new("  the busiest of them")];
        row.extend(runs.iter().map(|run| right(run.client_load_of_busiest.map_or("-".to_owned(), percent))));
        table.add_row(row);
    }
    if runs.iter().any(|run| run.client_wait.is_some()) {
        let mut row = vec![Cell::new("  waiting for a CPU")];
        row.extend(runs.iter().map(|run| right(run.client_wait.map_or("-".to_owned(), percent))));
        table.add_row(row);
    }
}
