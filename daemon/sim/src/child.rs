//! Child processes: they do the work that may end in an abort, and say line by line how it goes.
//!
//! ```text
//! at <what>             what comes next, so that the parent knows where a child died
//! fail <what>\t<text>   it failed, with why
//! count <name> <number> coverage, at the end
//! done
//! ```

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail, ensure};
use clap::Args;
use panch_consensus::protocol::ProtocolKind;
use panch_sim::check;
use panch_sim::coverage::Coverage;
use panch_sim::run::{run_gray_seed, run_seed};
use panch_sim::scenario;
use panch_sim::settings::Mix;

/// What a child does.
#[derive(Args, Clone, Debug)]
pub(crate) struct Work {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// The seed after the last.
    #[arg(long, default_value_t = 0)]
    pub to: u64,
    /// Distance between two seeds.
    #[arg(long, default_value_t = 1)]
    pub stride: u64,
    /// The protocol, or a mix.
    #[arg(long, default_value = "multi", value_parser = crate::mix)]
    pub protocol: Mix,
    /// Replicas of every group.
    #[arg(long, default_value_t = 3)]
    pub replicas: u8,
    /// One weakness that lasts, and no other faults.
    #[arg(long)]
    pub gray: bool,
    /// Scenarios instead of seeds.
    #[arg(long)]
    pub scenario: Vec<String>,
    /// Configurations of the bounded exhaustive check instead of seeds.
    #[arg(long)]
    pub check: Vec<String>,
    /// States to look at in each configuration; 0: its own number.
    #[arg(long, default_value_t = 0)]
    pub states: usize,
    /// A rule to remove.
    #[arg(long)]
    pub without: Option<String>,
    /// Stop at the first failure.
    #[arg(long)]
    pub first: bool,
}

impl Work {
    /// Nothing at all, and the end at the first failure.
    pub(crate) fn none() -> Self {
        Self {
            from: 0,
            to: 0,
            stride: 1,
            protocol: Mix::One(ProtocolKind::Multi),
            replicas: 3,
            gray: false,
            scenario: Vec::new(),
            check: Vec::new(),
            states: 0,
            without: None,
            first: true,
        }
    }
}

/// What a child said.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What failed, and why.
    pub failures: Vec<(String, String)>,
    /// What it has been through.
    pub coverage: Coverage,
    /// What it was at when it died, and its last words; `None` if it did not.
    pub died: Option<(String, String)>,
}

/// In the child: does the work. False if something failed.
pub(crate) fn work(work: &Work) -> anyhow::Result<bool> {
    remove_rule(work.without.as_deref())?;
    let mut out = std::io::stdout().lock();
    let mut passed = true;
    for name in &work.scenario {
        let scenario = scenario::find(name).with_context(|| format!("there is no scenario {name}"))?;
        writeln!(out, "at {name}")?;
        if let Some(Err(text)) = scenario.run() {
            writeln!(out, "fail {name}\t{}", text.escape_debug())?;
            passed = false;
            if work.first {
                break;
            }
        }
    }
    for name in &work.check {
        let configuration = check::all().find(|it| it.name == name);
        let configuration = configuration.with_context(|| format!("there is no configuration {name}"))?;
        writeln!(out, "at {name}")?;
        let states = if work.states == 0 { configuration.states_max } else { work.states };
        if let Some(violation) = (configuration.run)(states, &mut |_| true).violation {
            writeln!(out, "fail {name}\t{}", violation.to_string().escape_debug())?;
            passed = false;
            if work.first {
                break;
            }
        }
    }
    let mut coverage = Coverage::default();
    let mut seed = work.from;
    let run = if work.gray { run_gray_seed } else { run_seed };
    while seed < work.to {
        writeln!(out, "at {seed}")?;
        out.flush()?;
        match run(seed, work.protocol, usize::from(work.replicas), false) {
            Ok(of_seed) => coverage.add(&of_seed),
            Err(violation) => {
                writeln!(out, "fail {seed}\t{}", violation.to_string().escape_debug())?;
                coverage.runs += 1;
                passed = false;
                if work.first {
                    break;
                }
            }
        }
        seed += work.stride;
    }
    for (name, count) in coverage.rows() {
        writeln!(out, "count {name} {count}")?;
    }
    writeln!(out, "done")?;
    Ok(passed)
}

#[cfg(feature = "mutants")]
fn remove_rule(name: Option<&str>) -> anyhow::Result<()> {
    use panch_wire::rule::{Rule, remove};
    let Some(name) = name else { return Ok(()) };
    let rule = Rule::ALL.iter().find(|rule| rule.name() == name);
    remove(Some(*rule.with_context(|| format!("there is no rule {name}"))?));
    Ok(())
}

#[cfg(not(feature = "mutants"))]
fn remove_rule(name: Option<&str>) -> anyhow::Result<()> {
    match name {
        None => Ok(()),
        Some(_) => bail!("this build keeps all rules: build with --features mutants"),
    }
}

/// In the parent: starts a child.
pub(crate) fn spawn(work: &Work) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("child");
    for (name, value) in [("--from", work.from), ("--to", work.to), ("--stride", work.stride)] {
        command.arg(name).arg(value.to_string());
    }
    command.arg("--protocol").arg(work.protocol.name());
    command.arg("--replicas").arg(work.replicas.to_string());
    for (name, values) in [("--scenario", &work.scenario), ("--check", &work.check)] {
        for value in values {
            command.arg(name).arg(value);
        }
    }
    command.arg("--states").arg(work.states.to_string());
    if let Some(rule) = &work.without {
        command.arg("--without").arg(rule);
    }
    for (name, is_set) in [("--first", work.first), ("--gray", work.gray)] {
        if is_set {
            command.arg(name);
        }
    }
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("cannot start a child process")
}

/// In the parent: hears a child to its end.
pub(crate) fn listen(mut child: Child) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut at = String::new();
    let mut done = false;
    let out = child.stdout.take().context("the child's output is a pipe")?;
    for line in BufReader::new(out).lines() {
        let line = line?;
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "at" => at = rest.to_string(),
            "fail" => {
                let (what, text) = rest.split_once('\t').unwrap_or((rest, ""));
                report.failures.push((what.to_string(), text.replace("\\n", "\n").replace("\\\"", "\"")));
            }
            "count" => {
                let (name, count) = rest.split_once(' ').context("a count has a name")?;
                if !report.coverage.add_named(name, count.parse()?) {
                    bail!("the child counts {name}, which is not known");
                }
            }
            "done" => done = true,
            _ => bail!("the child said: {line}"),
        }
    }
    let mut words = String::new();
    if let Some(mut errors) = child.stderr.take() {
        std::io::Read::read_to_string(&mut errors, &mut words)?;
    }
    let status = child.wait()?;
    if !done {
        if words.is_empty() {
            words = status.to_string();
        }
        // Else a name that is not known would count as something that was noticed.
        ensure!(!at.is_empty(), "the child ended before it began: {}", words.trim());
        report.died = Some((at, words.trim().to_string()));
    }
    Ok(report)
}
