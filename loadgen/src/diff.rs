//! `diff`: two reports side by side, run by run, and what differs in how they came to be.
//!
//! Invariants:
//! * Only what was measured both times has a ratio. A ratio to or of a lower bound is a bound itself, and of two bounds there is none.
//! * Of rounds of the same work the medians are compared: which of them stand beside each other would be chance.
//! * What differs in the circumstances is said, so that it is not taken for a difference of the servers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Deserialize;

use crate::circumstances::{Circumstances, Exit};
use crate::cli::DiffArgs;
use crate::compare::{self, Comparison, Series};
use crate::quantity::{Period, short};
use crate::report::{self, Quantiles, Report, Run};

mod rounds;

use rounds::Rounds;

/// Why two reports cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// The file.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What is in it.
    #[error("{path} is not a report of panch-loadgen: {error}")]
    NoReport {
        /// Which.
        path: PathBuf,
        /// Where it stops being one.
        error: serde_json::Error,
    },
    /// A report of another layout.
    #[error(
        "{path} has the schema {schema:?}; only {:?} and {:?} are known here",
        report::SCHEMA,
        compare::SCHEMA
    )]
    OtherSchema {
        /// Which.
        path: PathBuf,
        /// Its layout.
        schema: String,
    },
}

/// What is compared of a report of either kind.
#[derive(Clone, PartialEq, Debug)]
pub struct Side {
    /// Where it was read from.
    pub path: String,
    title: String,
    circumstances: Circumstances,
    environment: Vec<(String, String)>,
    server_versions: Vec<String>,
    exit: Exit,
    /// What was measured, by names that are all different.
    measured: Vec<(String, Rounds)>,
}

impl Side {
    /// Reads a report of either kind.
    ///
    /// # Errors
    /// If the file cannot be read, or is no report of a known layout.
    pub fn read(path: &Path) -> Result<Self, DiffError> {
        let text = fs::read_to_string(path)
            .map_err(|error| DiffError::Unreadable { path: path.to_owned(), error })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, DiffError> {
        #[derive(Deserialize)]
        struct Layout {
            schema: String,
        }
        let no_report = |error| DiffError::NoReport { path: path.to_owned(), error };
        let Layout { schema } = serde_json::from_str(text).map_err(no_report)?;
        let path_text = path.display().to_string();
        match schema.as_str() {
            report::SCHEMA => Ok(Self::of_report(path_text, serde_json::from_str(text).map_err(no_report)?)),
            compare::SCHEMA => {
                Ok(Self::of_comparison(path_text, serde_json::from_str(text).map_err(no_report)?))
            }
            _ => Err(DiffError::OtherSchema { path: path.to_owned(), schema }),
        }
    }

    fn of_report(path: String, report: Report) -> Self {
        let server_versions = report.server_versions();
        let Report { title, circumstances, environment, exit, runs, .. } = report;
        let measured = numbered(runs.into_iter().map(|run| (run.name.clone(), Rounds(vec![run]))));
        Self { path, title, circumstances, environment, server_versions, exit, measured }
    }

    fn of_comparison(path: String, comparison: Comparison) -> Self {
        let server_versions = comparison.server_versions();
        let Comparison { title, circumstances, environment, exit, protocols, .. } = comparison;
        let series = protocols.iter().flat_map(|entry| {
            let named = |(suffix, series): (&str, &Series)| {
                let runs = series.rounds.iter().map(|round| round.run.clone()).collect();
                (format!("{}{suffix}", entry.label), Rounds(runs))
            };
            entry.series().map(named)
        });
        let measured = numbered(series.filter(|(_, rounds)| !rounds.0.is_empty()));
        Self { path, title, circumstances, environment, server_versions, exit, measured }
    }

    fn rounds(&self, name: &str) -> Option<&Rounds> {
        self.measured.iter().find(|(known, _)| known == name).map(|(_, rounds)| rounds)
    }

    /// Circumstances by name, without those that are different every time.
    fn facts(&self) -> BTreeMap<String, String> {
        let mut facts: BTreeMap<String, String> = self.environment.iter().cloned().collect();
        facts.insert("title".to_owned(), self.title.clone());
        facts.insert("arguments".to_owned(), arguments(&self.circumstances.arguments));
        facts.insert("servers".to_owned(), self.server_versions.join(", "));
        let known =
            [("panch-loadgen", &self.circumstances.loadgen_version), ("commit", &self.circumstances.commit)];
        for (name, value) in known {
            facts.extend(value.iter().map(|value| (name.to_owned(), value.clone())));
        }
        facts.retain(|_, value| !value.is_empty());
        facts
    }
}

/// Arguments in one line, without where the report was to be written: that says nothing of the measurement.
fn arguments(arguments: &[String]) -> String {
    let mut kept = Vec::new();
    let mut rest = arguments.iter().map(String::as_str);
    while let Some(argument) = rest.next() {
        match argument {
            "--json" => drop(rest.next()),
            _ if argument.starts_with("--json=") => {}
            _ => kept.push(argument),
        }
    }
    kept.join(" ")
}

/// What has the same name gets numbers from the second on.
fn numbered(measured: impl Iterator<Item = (String, Rounds)>) -> Vec<(String, Rounds)> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    measured
        .map(|(name, rounds)| {
            let count = seen.entry(name.clone()).or_default();
            *count += 1;
            (if *count == 1 { name } else { format!("{name} #{count}") }, rounds)
        })
        .collect()
}

/// When a run's requests were sent, over what; empty if an older version did not tell.
fn schedule(run: &Run) -> String {
    let Some(schedule) = &run.schedule else { return String::new() };
    let mut text = format!("{} loop of {} connections x pipeline", schedule.kind, run.concurrency);
    if let Some(rate) = schedule.rate_per_second {
        let _ = write!(text, ", {rate}/s");
    }
    if let Some(arrivals) = &schedule.arrivals {
        let _ = write!(text, ", {arrivals}");
    }
    let period = |nanos| Period(std::time::Duration::from_nanos(nanos));
    for (name, nanos) in [
        ("dropped after", schedule.drop_after_ns),
        ("warm-up", schedule.warm_up_ns),
        ("measured", schedule.duration_ns),
    ] {
        if let Some(nanos) = nanos {
            let _ = write!(text, ", {name} {}", period(nanos));
        }
    }
    if let Some(protocol) = &run.wire_protocol {
        let _ = write!(text, ", {protocol}");
    }
    text
}

/// `panch-loadgen diff`: its text.
///
/// # Errors
/// If one of the files is no report.
pub fn run(arguments: &DiffArgs) -> Result<String, DiffError> {
    Ok(render(&Side::read(&arguments.before)?, &Side::read(&arguments.after)?))
}

/// Two reports, A and B, as one table, and below it what differs in how they came to be.
pub fn render(a: &Side, b: &Side) -> String {
    let mut text = String::new();
    for (letter, side) in [("A", a), ("B", b)] {
        let started = side.circumstances.started_at.iter();
        let started: String = started.map(|at| format!(", started {at}")).collect();
        let _ = writeln!(text, "{letter}  {}: {}{started}", side.path, side.title);
    }
    let _ = writeln!(text, "\n{}", table(a, b));
    for line in remarks(a, b) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Takes one of several quantiles, in nanoseconds.
type Quantile = fn(&Quantiles) -> u64;

fn table(a: &Side, b: &Side) -> Table {
    const LATENCIES: [(&str, Quantile); 3] = [("p50", |q| q.p50), ("p99", |q| q.p99), ("p99.9", |q| q.p999)];
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let mut header = vec![Cell::new("run"), Cell::new("")];
    header.extend(["A", "B", "B / A"].map(|text| right(text.to_owned())));
    table.set_header(header);
    let absent = || "-".to_owned();
    let ratio = |text: Option<String>| right(text.unwrap_or_else(absent));
    for name in names(a, b) {
        let (one, other) = (a.rounds(&name), b.rounds(&name));
        let throughput =
            |rounds: Option<&Rounds>| right(rounds.map_or_else(absent, |rounds| short(rounds.throughput())));
        let quotient = one.zip(other).and_then(|(one, other)| divided(other.throughput(), one.throughput()));
        table.add_row(vec![
            Cell::new(&name),
            Cell::new("throughput, commands/s"),
            throughput(one),
            throughput(other),
            ratio(quotient),
        ]);
        // What an open loop's clients waited is another time than what a closed loop's did.
        let is_open = [one, other].into_iter().flatten().any(Rounds::is_open);
        let of = |rounds: Option<&Rounds>| rounds.and_then(|rounds| rounds.times(is_open));
        let (one, other) = (of(one), of(other));
        for (part, value) in LATENCIES {
            let shown = |quantiles: Option<Quantiles>| {
                right(quantiles.map_or_else(absent, |quantiles| quantiles.text(value(&quantiles))))
            };
            let time = if is_open { "response time" } else { "service time" };
            let quotient = one.zip(other).and_then(|(one, other)| times(&one, &other, value));
            let row = vec![
                Cell::new(""),
                Cell::new(format!("{time} {part}")),
                shown(one),
                shown(other),
                ratio(quotient),
            ];
            table.add_row(row);
        }
    }
    table
}

/// Names of all runs: those of A in their order, then what only B has.
fn names(a: &Side, b: &Side) -> Vec<String> {
    let mut names: Vec<String> = a.measured.iter().map(|(name, _)| name.clone()).collect();
    names
        .extend(b.measured.iter().filter(|(name, _)| a.rounds(name).is_none()).map(|(name, _)| name.clone()));
    names
}

fn divided(dividend: f64, divisor: f64) -> Option<String> {
    (divisor > 0.0).then(|| format!("{:.3}", dividend / divisor))
}

/// How many times as long B took as A.
fn times(a: &Quantiles, b: &Quantiles, value: Quantile) -> Option<String> {
    let quotient = divided(value(b) as f64, value(a) as f64)?;
    match (a.is_bound(value(a)), b.is_bound(value(b))) {
        (false, false) => Some(quotient),
        (false, true) => Some(format!(">= {quotient}")),
        (true, false) => Some(format!("<= {quotient}")),
        (true, true) => None,
    }
}

/// What has to be said about the numbers: runs that lack their counterpart or went wrong, and what differs in the circumstances.
fn remarks(a: &Side, b: &Side) -> Vec<String> {
    let mut lines = Vec::new();
    for (letter, side, other) in [("A", a, b), ("B", b, a)] {
        if side.exit.code != 0 {
            lines.push(format!("{letter} ended with exit code {}, {}.", side.exit.code, side.exit.meaning));
        }
        let most = side.measured.iter().map(|(_, rounds)| rounds.0.len()).max().unwrap_or(0);
        if most > 1 {
            lines.push(format!("{letter} shows medians of up to {most} rounds."));
        }
        for (name, rounds) in &side.measured {
            if other.rounds(name).is_none() {
                lines.push(format!("{letter} alone has `{name}`."));
            }
            if !rounds.is_clean() {
                lines.push(format!("{letter}: `{name}` was not clean."));
            }
            let reasons: Vec<&String> = rounds.0.iter().filter_map(|run| run.no_verdict.as_ref()).collect();
            if let Some(reason) = reasons.first() {
                let which = match rounds.0.len() {
                    1 => String::new(),
                    all => format!(" in {} of {all} rounds", reasons.len()),
                };
                lines.push(format!("{letter}: NO VERDICT for `{name}`{which}: {reason}."));
            }
        }
    }
    let (mut one, mut other) = (a.facts(), b.facts());
    for (name, first) in &a.measured {
        // What has no counterpart is named above.
        let Some(second) = b.rounds(name) else { continue };
        for (facts, rounds) in [(&mut one, first), (&mut other, second)] {
            let schedule = rounds.0.first().map(schedule).filter(|text| !text.is_empty());
            facts.extend(schedule.map(|text| (format!("schedule of `{name}`"), text)));
        }
    }
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let different: Vec<&String> =
        names.into_iter().filter(|name| one.get(*name) != other.get(*name)).collect();
    if different.is_empty() {
        lines.push("The circumstances do not differ.".to_owned());
    } else {
        lines.push("The circumstances differ:".to_owned());
    }
    for name in different {
        lines.push(format!("  {name}"));
        for (letter, facts) in [("A", &one), ("B", &other)] {
            lines.push(format!("    {letter}  {}", facts.get(name).map_or("not told", String::as_str)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Entry, Measured};
    use crate::json;
    use crate::record::Counts;
    use crate::report::ScheduleFacts;

    fn quantiles(p50: u64, bounds_from: Option<u64>) -> Quantiles {
        Quantiles { p50, p90: p50 * 2, p99: p50 * 3, p999: p50 * 10, max: p50 * 20, bounds_from }
    }

    fn run(name: &str, throughput: f64, service: Quantiles) -> Run {
        let schedule = ScheduleFacts { kind: "closed".to_owned(), ..ScheduleFacts::default() };
        Run {
            name: name.to_owned(),
            concurrency: "4 x 1".to_owned(),
            schedule: Some(schedule),
            throughput,
            service: Some(service),
            counts: Counts { acknowledged: 10, ..Counts::default() },
            ..Run::default()
        }
        .judged()
    }

    fn side(name: &str, report: &Report) -> Side {
        Side::parse(&json::render(report), Path::new(name)).unwrap()
    }

    fn report(kernel: &str, arguments: &str, runs: Vec<Run>) -> Report {
        let environment = vec![("kernel".to_owned(), kernel.to_owned())];
        let mut report = Report::new("panch-loadgen run".to_owned(), environment, runs);
        report.circumstances.arguments = arguments.split(' ').map(str::to_owned).collect();
        report
    }

    /// The cells of the `index`-th row below the header.
    fn cells(text: &str, index: usize) -> Vec<String> {
        let line = text.lines().filter(|line| line.starts_with('│')).nth(index + 1).unwrap();
        line.trim_matches('│').split('┆').map(|cell| cell.trim().to_owned()).collect()
    }

    #[test]
    fn runs_of_the_same_name_stand_side_by_side_with_their_ratio() {
        let one = report(
            "6.1",
            "run -c 4 --json a.json",
            vec![
                run("closed loop, set=100", 1000.0, quantiles(100_000, None)),
                run("closed loop, set=100", 500.0, quantiles(100_000, Some(300_000))),
                run("closed loop, get=1", 1.0, quantiles(1, None)),
            ],
        );
        let other = report(
            "6.2",
            "run --json=b.json -c 4",
            vec![
                run("closed loop, set=100", 1500.0, quantiles(50_000, Some(500_000))),
                run("closed loop, set=100", 500.0, quantiles(100_000, Some(1_000_000))),
            ],
        );
        let text = render(&side("a.json", &one), &side("b.json", &other));
        assert_eq!(
            cells(&text, 0),
            ["closed loop, set=100", "throughput, commands/s", "1000", "1500", "1.500"]
        );
        assert_eq!(cells(&text, 1), ["", "service time p50", "100 us", "50.0 us", "0.500"]);
        assert_eq!(cells(&text, 3), ["", "service time p99.9", "1.00 ms", ">= 500 us", ">= 0.500"]);
        assert_eq!(cells(&text, 4)[0], "closed loop, set=100 #2");
        assert_eq!(cells(&text, 6)[4], "<= 1.000");
        assert_eq!(cells(&text, 7)[2..], [">= 1.00 ms", ">= 1.00 ms", "-"]);
        assert_eq!(cells(&text, 8)[2..], ["1.00", "-", "-"]);
        assert!(text.contains("A alone has `closed loop, get=1`."), "{text}");
        assert!(text.contains("  kernel\n    A  6.1\n    B  6.2\n"), "{text}");
        assert!(!text.contains("  arguments"), "{text}");
    }

    #[test]
    fn what_differs_in_the_circumstances_is_said_and_what_does_not_is_not() {
        let of = |rate| {
            let mut run = run("open loop, set=100", 900.0, quantiles(100, None));
            run.response = run.service;
            run.schedule = Some(ScheduleFacts {
                kind: "open".to_owned(),
                rate_per_second: Some(rate),
                arrivals: Some("poisson".to_owned()),
                duration_ns: Some(5_000_000_000),
                ..ScheduleFacts::default()
            });
            run
        };
        let same = side("a.json", &report("6.1", "run --rate 1k", vec![of(1000.0)]));
        assert!(render(&same, &same).contains("The circumstances do not differ."));
        let mut other =
            report("6.1", "run --rate 2k", vec![Run { interrupted: true, ..of(2000.0) }.judged()]);
        other.circumstances.loadgen_version = Some("9.9.9".to_owned());
        other.circumstances.started_at = Some("2026-01-31T23:59:59Z".to_owned());
        let text = render(&same, &side("b.json", &other));
        for part in [
            "  arguments\n    A  run --rate 1k\n    B  run --rate 2k\n",
            "  panch-loadgen\n    A  not told\n    B  9.9.9\n",
            "  schedule of `open loop, set=100`\n    A  open loop of 4 x 1 connections x pipeline, 1000/s, poisson, measured 5s\n",
            "response time p50",
            "B  b.json: panch-loadgen run, started 2026-01-31T23:59:59Z\n",
            "B ended with exit code 130, interrupted",
            "B: `open loop, set=100` was not clean.",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains("  kernel"), "{text}");
    }

    #[test]
    fn comparisons_are_compared_by_the_medians_of_each_protocol_and_load() {
        let round = |throughput, p50, bounds_from| {
            let run = run("closed loop, set=100", throughput, quantiles(p50, bounds_from));
            Measured { run, ..Measured::default() }
        };
        let side = |[first, second, third]: [f64; 3], bounds_from| {
            let longest = round(second, 300_000, bounds_from);
            let rounds = vec![round(first, 100_000, None), longest, round(third, 200_000, None)];
            let main = Series { rounds, ..Series::default() };
            let equal_load = Series { rounds: vec![main.rounds[0].clone()], ..Series::default() };
            let entry = Entry { label: "multi".to_owned(), main, equal_load, ..Entry::default() };
            let failed = Entry { label: "fast".to_owned(), ..Entry::default() };
            let (schema, protocols) = (compare::SCHEMA.to_owned(), vec![failed, entry]);
            let comparison = Comparison { schema, protocols, ..Comparison::default() };
            Side::parse(&json::render(&comparison), Path::new("c.json")).unwrap()
        };
        let a = side([300.0, 100.0, 200.0], None);
        let names: Vec<&str> = a.measured.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["multi", "multi at equal load"]);
        // The longest of three is behind the median, and all the more if it is a bound.
        let text = render(&a, &side([500.0, 400.0, 600.0], Some(300_000)));
        assert_eq!(cells(&text, 0), ["multi", "throughput, commands/s", "200", "500", "2.500"]);
        assert_eq!(cells(&text, 1), ["", "service time p50", "200 us", "200 us", "1.000"]);
        assert_eq!(cells(&text, 2), ["", "service time p99", "600 us", "600 us", "1.000"]);
        assert!(
            text.contains("A shows medians of up to 3 rounds.") && !text.contains("NO VERDICT"),
            "{text}"
        );
        let mut doubtful = a.clone();
        doubtful.measured[0].1.0[1].no_verdict = Some("late".to_owned());
        let text = render(&doubtful, &a);
        assert!(text.contains("A: NO VERDICT for `multi` in 1 of 3 rounds: late."), "{text}");
    }

    #[test]
    fn what_is_no_report_is_refused_with_the_reason() {
        let fault = |text: &str| Side::parse(text, Path::new("x.json")).unwrap_err().to_string();
        assert!(fault("").contains("x.json is not a report of panch-loadgen: EOF"));
        assert!(fault("{}").contains("missing field `schema`"));
        assert!(fault(r#"{"schema":"panch-loadgen/1","title":3}"#).contains("invalid type"));
        assert!(fault(r#"{"schema":"panch-loadgen/2"}"#).contains("the schema \"panch-loadgen/2\"; only"));
        let missing = Side::read(Path::new("/no/such/file")).unwrap_err();
        assert!(missing.to_string().starts_with("cannot read /no/such/file: No such file"), "{missing}");
    }
}
