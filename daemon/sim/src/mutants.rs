//! Mutants: with each safety rule removed in turn, a scenario or a seed must notice.
//!
//! A rule that nothing misses is either not needed or not tested; both are findings.

use anyhow::ensure;
use panch_sim::scenario::{ALL, Body};
use panch_wire::rule::Rule;

use crate::Cluster;
use crate::child::{Work, listen, spawn};
use crate::scenarios::verdict;

/// Runs every scenario and `seeds` seeds without each of the rules; false if a rule was not missed.
pub(crate) fn run(seeds: u64, names: &[String], cluster: Cluster) -> anyhow::Result<bool> {
    for name in names {
        ensure!(Rule::ALL.iter().any(|rule| rule.name() == name), "there is no rule {name}");
    }
    let chosen =
        Rule::ALL.iter().filter(|rule| names.is_empty() || names.iter().any(|name| name == rule.name()));
    let (mut count, mut missed) = (0, Vec::new());
    for rule in chosen {
        count += 1;
        let name = rule.name();
        let mut caught = Vec::new();
        let mut why = None;
        for scenario in ALL.iter().filter(|scenario| matches!(scenario.body, Body::Script(_))) {
            if let Some(text) = verdict(scenario.name, Some(name))? {
                caught.push(scenario.name.to_string());
                why.get_or_insert(text);
            }
        }
        let work = Work {
            from: 0,
            to: seeds,
            stride: 1,
            replicas: cluster.replicas,
            scenario: None,
            without: Some(name.to_string()),
            first: true,
        };
        let report = if seeds > 0 { listen(spawn(&work)?)? } else { Default::default() };
        if let Some((seed, text)) = report.failures.into_iter().next().or(report.died) {
            caught.push(format!("seed {seed}"));
            why.get_or_insert(text);
        }
        match why {
            Some(text) => {
                let line: String = text.lines().next().unwrap_or_default().chars().take(150).collect();
                println!("{name:24} caught by {}\n{:24} {line}", caught.join(", "), "");
            }
            None => {
                println!("{name:24} NOT CAUGHT by any scenario or {seeds} seeds");
                missed.push(name);
            }
        }
    }
    println!("{count} rules removed, {} not caught {}", missed.len(), missed.join(" "));
    Ok(missed.is_empty())
}
