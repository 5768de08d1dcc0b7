//! The report for programs: the same numbers as the table's, in nanoseconds and plain units.
//!
//! The field `schema` names the layout; fields are added without changing it, never renamed or removed.

use std::fmt::Write as _;

use crate::report::{Column, Heading, Quantiles};

/// The layout of the text below.
pub const SCHEMA: &str = "panch-loadgen/1";

/// Counters of the servers that are worth keeping, as growth per acknowledged command.
const PER_COMMAND: &[(&str, &str)] = &[
    ("messages_per_command", "messages_total"),
    ("packets_per_command", "packets_total"),
    ("peer_bytes_per_command", "peer_bytes_total"),
    ("log_writes_per_command", "log_writes_total"),
    ("log_bytes_per_command", "log_bytes_total"),
    ("ring_enters_per_command", "ring_enters_total"),
    ("turns_per_command", "turns_total"),
];

/// The report as one JSON object, with a line end.
pub fn render(heading: &Heading, columns: &[Column]) -> String {
    let mut facts = Object::new();
    for (name, value) in &heading.facts {
        facts.text(name, value);
    }
    let mut report = Object::new();
    report.text("schema", SCHEMA).text("title", &heading.title).raw("environment", &facts.close());
    let runs: Vec<String> = columns.iter().map(run).collect();
    report.raw("runs", &format!("[{}]", runs.join(",")));
    report.close() + "\n"
}

pub(crate) fn run(column: &Column) -> String {
    let counts = &column.counts;
    let commands = counts.acknowledged;
    let mut run = Object::new();
    run.text("name", &column.title.replace('\n', ", "))
        .text("concurrency", &column.concurrency)
        .number("offered_per_second", column.offered)
        .number("throughput_per_second", Some(column.throughput))
        .raw("response_ns", &quantiles(column.response))
        .raw("service_ns", &quantiles(column.service))
        .raw("read_ns", &quantiles(column.parts.map(|(reads, _)| reads)))
        .raw("write_ns", &quantiles(column.parts.map(|(_, writes)| writes)))
        .raw("schedule_lag_ns", &quantiles(column.lag));
    let fates = [
        ("sent", counts.sent),
        ("queued", counts.queued),
        ("completed", counts.completed),
        ("acknowledged", counts.acknowledged),
        ("misses", counts.misses),
        ("refused", counts.refused),
        ("lost", counts.lost),
        ("unanswered", counts.unanswered),
        ("dropped", counts.dropped),
        ("disconnects", counts.disconnects),
        ("repeated", counts.repeated),
    ];
    for (name, count) in fates {
        run.raw(name, &count.to_string());
    }
    let mut errors = Object::new();
    for (text, count) in &column.errors {
        errors.raw(text, &count.to_string());
    }
    run.raw("errors", &errors.close());
    match &column.truth.durability {
        Some(mode) => run.text("durability", mode),
        None => run.raw("durability", "null"),
    };
    run.number("batch_fill", column.truth.ratio("commands_total", "batches_total"));
    for (name, counter) in PER_COMMAND {
        run.number(name, column.truth.per_command(counter, commands));
    }
    let mut cpu = Object::new();
    for process in &column.truth.cpu {
        let used = process.used.filter(|_| commands > 0);
        cpu.number(&process.name, used.map(|used| used.as_secs_f64() * 1e6 / commands as f64));
    }
    let (own_cpu, load) = column.client_cpu;
    let own = (counts.completed > 0).then(|| own_cpu.as_secs_f64() * 1e6 / counts.completed as f64);
    cpu.number("load generator", own);
    run.raw("cpu_seconds_per_million_commands", &cpu.close()).number("client_load", Some(load));
    match &column.verdict {
        None => run.raw("audit", "null"),
        Some(verdict) => {
            let mut audit = Object::new();
            let violations: Vec<String> = verdict.violations.iter().map(|text| quoted(text)).collect();
            audit.raw("reads", &verdict.checked.to_string());
            audit.raw("violations", &format!("[{}]", violations.join(",")));
            let unread: Vec<String> = verdict.unread.iter().map(|text| quoted(text)).collect();
            audit.raw("unread", &format!("[{}]", unread.join(",")));
            run.raw("audit", &audit.close())
        }
    };
    match column.client_limits() {
        Some(reason) => run.text("no_verdict", &reason),
        None => run.raw("no_verdict", "null"),
    };
    run.raw("interrupted", if column.interrupted { "true" } else { "false" });
    run.raw("clean", if column.is_clean() { "true" } else { "false" });
    run.close()
}

fn quantiles(quantiles: Option<Quantiles>) -> String {
    let Some(quantiles) = quantiles else { return "null".to_owned() };
    let Quantiles { p50, p90, p99, p999, max, .. } = quantiles;
    let bounds: Vec<String> = quantiles.bounds().into_iter().map(quoted).collect();
    let mut object = Object::new();
    for (name, value) in [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)] {
        object.raw(name, &value.to_string());
    }
    // Those that would be longer: see `Quantiles::bounds_from`.
    object.raw("lower_bounds", &format!("[{}]", bounds.join(",")));
    object.close()
}

/// An object under construction.
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        Self("{".to_owned())
    }

    /// A member whose value is JSON already.
    pub(crate) fn raw(&mut self, name: &str, value: &str) -> &mut Self {
        let separator = if self.0.len() > 1 { "," } else { "" };
        let _ = write!(self.0, "{separator}{}:{value}", quoted(name));
        self
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.raw(name, &quoted(value))
    }

    /// JSON knows neither infinity nor NaN; both would mean "not known" here.
    pub(crate) fn number(&mut self, name: &str, value: Option<f64>) -> &mut Self {
        match value.filter(|value| value.is_finite()) {
            Some(value) => self.raw(name, &value.to_string()),
            None => self.raw(name, "null"),
        }
    }

    pub(crate) fn close(&self) -> String {
        format!("{}}}", self.0)
    }
}

pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if c < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    pub(crate) fn texts_are_escaped_and_unknown_numbers_are_null() {
        let mut object = Object::new();
        object
            .text("a \"b\"\\", "c\n\u{1}")
            .number("d", None)
            .number("e", Some(f64::NAN))
            .number("f", Some(1.5));
        assert_eq!(object.close(), "{\"a \\\"b\\\"\\\\\":\"c\\n\\u0001\",\"d\":null,\"e\":null,\"f\":1.5}");
        assert_eq!(Object::new().close(), "{}");
    }
}
