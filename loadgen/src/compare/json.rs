//! A comparison for programs: every number of every round. Fields are added without changing the schema's name, never renamed
//! or removed.

use super::figures::seed_model;
use super::{Agreement, Comparison, Entry, Measured};
use crate::json::{Object, quoted, run};

/// The layout of the text below.
pub const SCHEMA: &str = "panch-loadgen-compare/1";

/// The comparison as one JSON object, with a line end.
pub fn render(comparison: &Comparison) -> String {
    let mut facts = Object::new();
    for (name, value) in &comparison.facts {
        facts.text(name, value);
    }
    let entries: Vec<String> =
        comparison.entries.iter().map(|entry| row(entry, comparison.replicas)).collect();
    let mut report = Object::new();
    report
        .text("schema", SCHEMA)
        .text("title", &comparison.title)
        .raw("environment", &facts.close())
        .raw("replicas", &comparison.replicas.to_string())
        .raw("batch_commands", &comparison.batch.to_string())
        .raw("interrupted", if comparison.interrupted { "true" } else { "false" })
        .raw("clean", if comparison.is_clean() { "true" } else { "false" })
        .raw("protocols", &format!("[{}]", entries.join(",")));
    report.close() + "\n"
}

fn row(entry: &Entry, replicas: u8) -> String {
    let rounds: Vec<String> = entry.rounds.iter().map(round).collect();
    let (least, most) = seed_model(entry.protocol, replicas);
    let mut row = Object::new();
    row.text("protocol", entry.protocol.word())
        .text("label", &entry.label)
        .raw("seed_model_messages_per_batch", &format!("[{least},{most}]"));
    match &entry.failure {
        Some(failure) => row.text("failure", failure),
        None => row.raw("failure", "null"),
    };
    row.raw("rounds", &format!("[{}]", rounds.join(",")));
    row.close()
}

fn round(measured: &Measured) -> String {
    let figures = &measured.figures;
    let mut window = Object::new();
    window
        .number("throughput_per_second", Some(figures.throughput))
        .number("throughput_to_multi", figures.to_multi)
        .number("latency_p50_ns", figures.latency.map(|latency| latency.p50 as f64))
        .number("latency_p99_ns", figures.latency.map(|latency| latency.p99 as f64))
        .number("latency_p99.9_ns", figures.latency.map(|latency| latency.p999 as f64))
        .number("commit_p50_ns", figures.commit.map(|commit| commit.p50))
        .number("commit_p99_ns", figures.commit.map(|commit| commit.p99))
        .number("commit_p99.9_ns", figures.commit.map(|commit| commit.p999))
        .number("execution_p50_ns", figures.execution.map(|execution| execution.p50))
        .number("execution_p99_ns", figures.execution.map(|execution| execution.p99))
        .number("execution_p99.9_ns", figures.execution.map(|execution| execution.p999))
        .number("fast_path_part", figures.fast_path)
        .number("conflicts_per_batch", figures.conflicts)
        .number("clashes_per_batch", figures.clashes)
        .number("component_max", figures.component_max)
        .number("batch_fill", figures.batch_fill)
        .number("messages_per_command", figures.messages_per_command)
        .number("messages_per_batch", figures.messages_per_batch)
        .number("peer_bytes_per_command", figures.bytes_per_command)
        .number("log_writes_per_command", figures.log_writes_per_command)
        .number("log_bytes_per_command", figures.log_bytes_per_command)
        .number("cpu_seconds_per_million_commands", figures.cpu_per_million);
    // Growth of everything that the nodes count, for whoever wants another ratio.
    let mut counters = Object::new();
    for (name, growth) in measured.window.growths() {
        let is_counter = name.starts_with("counter_") || name.ends_with("_total");
        if is_counter {
            counters.number(name, Some(growth));
        }
    }
    let mut all = Object::new();
    all.raw("window", &window.close()).raw("counters", &counters.close());
    match &measured.agreement {
        Agreement::Equal { .. } => all.text("digests", "equal"),
        Agreement::Different(difference) => all.raw("digests", &quoted(difference)),
        Agreement::Untold => all.raw("digests", "null"),
    };
    all.raw("run", &run(&measured.column));
    all.close()
}
