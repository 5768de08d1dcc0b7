//! The list of scenarios and their verdicts.

use anyhow::Context;
use panch_sim::scenario::{ALL, Body, Scenario, find};

use crate::child::{Work, listen, spawn};

/// Runs the scenarios with these names, or all; false if one failed.
pub(crate) fn run(names: &[String]) -> anyhow::Result<bool> {
    let mut chosen: Vec<&Scenario> = Vec::new();
    for name in names {
        chosen.push(find(name).with_context(|| format!("there is no scenario {name}"))?);
    }
    if names.is_empty() {
        chosen = ALL.iter().collect();
    }
    let (mut passed, mut failed, mut waiting) = (0, 0, 0);
    for scenario in chosen {
        let Scenario { name, text, body } = scenario;
        if let Body::Needs(what) = body {
            println!("{name:6} needs {what:8} {text}");
            waiting += 1;
            continue;
        }
        match verdict(name)? {
            None => {
                println!("{name:6} passed         {text}");
                passed += 1;
            }
            Some(why) => {
                println!("{name:6} FAILED         {text}\n{why}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed, {waiting} not applicable yet");
    Ok(failed == 0)
}

/// Runs a scenario in a child process; why it failed, if it did.
fn verdict(name: &str) -> anyhow::Result<Option<String>> {
    let work = Work { scenario: vec![name.to_string()], ..Work::none() };
    let report = listen(spawn(&work)?)?;
    let failure = report.failures.into_iter().next().map(|(_, text)| text);
    Ok(failure.or(report.died.map(|(_, words)| words)))
}
