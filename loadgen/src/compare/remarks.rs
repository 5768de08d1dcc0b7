//! What has to be said about the numbers: for each run what went wrong, or that nothing did.

use super::comparison::{Agreement, Comparison, Measured, Series};
use crate::preload::Preload;
use crate::quantity::short;
use crate::report::distinct;

/// How many findings of an audit are shown; all are in the JSON.
const FINDINGS_SHOWN: usize = 5;

/// All remarks, a line each.
pub(super) fn of(comparison: &Comparison) -> Vec<String> {
    let mut lines = Vec::new();
    if comparison.interrupted {
        lines.push("INTERRUPTED: what is missing was not measured.".to_owned());
    }
    let reasons = distinct(comparison.protocols.iter().flat_map(|entry| &entry.noise_unknown));
    if !reasons.is_empty() {
        lines.push(format!(
            "NOISE NOT KNOWN: nothing tells which part of a ratio with a ? is chance ({}; --repeat sets how often).",
            reasons.join(", ")
        ));
    }
    for entry in &comparison.protocols {
        for (suffix, series) in entry.series() {
            lines.extend(series_lines(comparison, &format!("{}{suffix}", entry.label), series));
        }
        match (&entry.failure, entry.main.rounds.is_empty()) {
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

/// What is said of a series; rounds one after the other of which the same is to be said are said once.
fn series_lines(comparison: &Comparison, label: &str, series: &Series) -> Vec<String> {
    let rounds: Vec<Vec<String>> = series.rounds.iter().map(|round| round_lines(comparison, round)).collect();
    let mut lines = Vec::new();
    let mut first = 1;
    for same in rounds.chunk_by(|one, other| one == other) {
        let last = first + same.len() - 1;
        let which = match (rounds.len(), first == last) {
            (1, _) => label.to_owned(),
            (_, true) => format!("{label}, round {first}"),
            (_, false) => format!("{label}, rounds {first} to {last}"),
        };
        let mut told = same[0].iter();
        lines.extend(told.next().map(|line| format!("{which}: {line}")));
        lines.extend(told.map(|line| format!("  {line}")));
        first = last + 1;
    }
    lines
}

/// What is said of one run: how it went, and then whatever makes its numbers doubtful.
fn round_lines(comparison: &Comparison, round: &Measured) -> Vec<String> {
    let counts = &round.run.counts;
    let audit = match &round.run.audit {
        Some(verdict) => format!("acknowledged writes read back: {verdict}"),
        None => {
            "acknowledged writes NOT read back: there are none, or values are too small for a tag".to_owned()
        }
    };
    let state = match &round.digests {
        Agreement::Equal => format!("{} nodes with equal digests", comparison.replicas),
        Agreement::Different(difference) => format!("DIFFERENT STATES: {difference}"),
        Agreement::Untold => "DIGESTS NOT TOLD by some node".to_owned(),
    };
    let mut lines = vec![format!(
        "{} errors, {} unknown outcomes; {state}; {audit}.",
        counts.refused,
        counts.lost + counts.unanswered
    )];
    lines.extend(round.failure.iter().map(|failure| format!("FAILED AFTER THE RUN: {}", indented(failure))));
    lines.extend(
        round.run.preload.iter().flat_map(Preload::remarks).map(|text| format!("PRELOAD INCOMPLETE: {text}")),
    );
    if counts.misses > 0 {
        lines.push(format!("{} reads found no value", counts.misses));
    }
    if counts.dropped > 0 {
        lines.push(format!("{} commands were due and never sent", counts.dropped));
    }
    if counts.warm_up_dropped > 0 {
        lines.push(format!("{} commands were due in the warm-up and never sent", counts.warm_up_dropped));
    }
    let bounds = round.run.waited().map(|waited| waited.bounds()).unwrap_or_default();
    if !bounds.is_empty() {
        lines.push(format!(
            "LOWER BOUNDS: {} would be longer, since some commands had no success",
            bounds.join(", ")
        ));
    }
    lines.extend(round.run.errors.iter().map(|(text, count)| format!("{count} x {text}")));
    if let Some(verdict) = &round.run.audit {
        lines.extend(verdict.remarks(FINDINGS_SHOWN));
    }
    if let Some(reason) = &round.run.no_verdict {
        lines.push(format!("NO VERDICT, the client may have been the limit: {reason}"));
    }
    if comparison.batch == 1 && round.window.batch_fill.is_some_and(|fill| fill > 1.0) {
        lines.push("NOT UNBATCHED: the nodes put several commands into a batch".to_owned());
    }
    if let Some(offered) = round.run.unanswered_rate() {
        let reason = if round.run.is_servers_limit() {
            format!(": the rate is beyond what this protocol takes here over {}", round.run.connections())
        } else {
            String::new()
        };
        let answered = short(round.run.throughput);
        lines.push(format!("{answered} of {} commands/s were answered{reason}", short(offered)));
    }
    if !round.is_counted() {
        let reasons = round.counters_missing.join("; ");
        let reasons = if reasons.is_empty() { "no node told any" } else { &reasons };
        lines.push(format!("COUNTERS NOT KNOWN: {reasons}"));
    }
    lines
}

/// A text of several lines, each but the first set in.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n  ")
}
