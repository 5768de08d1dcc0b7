//! Mutants: with each safety rule removed in turn, a scenario or a seed must notice.
//!
//! A rule of one protocol is removed from groups of that protocol, any other from Multi-Paxos.
//!
//! A rule that nothing misses is either not needed or not tested; both are findings.

use anyhow::ensure;
use panch_consensus::protocol::ProtocolKind;
use panch_sim::scenario::{ALL, Body, Scenario};
use panch_sim::settings::Mix;
use panch_wire::rule::Rule;

use crate::Cluster;
use crate::child::{Work, listen, spawn};
use crate::scenarios::verdict;

/// The protocol that a rule belongs to; `None`: it is about what all have in common.
fn protocol_of(rule: &Rule) -> Option<ProtocolKind> {
    let kinds = [ProtocolKind::Basic, ProtocolKind::Fast, ProtocolKind::Epaxos];
    let named = |kind: &ProtocolKind| {
        let rest = rule.name().strip_prefix(kind.name());
        rest.is_some_and(|rest| rest.starts_with('-'))
    };
    kinds.into_iter().find(named)
}

/// Whether a scenario can notice that a rule of that protocol is removed.
fn concerns(scenario: &Scenario, kind: Option<ProtocolKind>) -> bool {
    let of = match kind {
        Some(kind) => scenario.protocol() == Some(kind),
        None => scenario.protocol().is_none_or(|kind| kind == ProtocolKind::Multi),
    };
    of && !matches!(scenario.body, Body::Needs(_))
}

/// The worlds whose seeds are run without a rule: with five replicas a protocol may have branches that it lacks with three.
fn worlds(kind: Option<ProtocolKind>, cluster: Cluster) -> Vec<(Mix, u8)> {
    match kind {
        None => vec![(Mix::One(ProtocolKind::Multi), cluster.replicas)],
        Some(kind) => [cluster.replicas, 5].into_iter().map(|replicas| (Mix::One(kind), replicas)).collect(),
    }
}

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
        let kind = protocol_of(rule);
        for scenario in ALL.iter().filter(|scenario| concerns(scenario, kind)) {
            if let Some(text) = verdict(scenario.name, Some(name))? {
                caught.push(scenario.name.to_string());
                why.get_or_insert(text);
            }
        }
        for (mix, replicas) in worlds(kind, cluster) {
            if seeds == 0 {
                break;
            }
            let work = Work {
                from: 0,
                to: seeds,
                stride: 1,
                protocol: mix,
                replicas,
                scenario: None,
                without: Some(name.to_string()),
                first: true,
            };
            let report = listen(spawn(&work)?)?;
            if let Some((seed, text)) = report.failures.into_iter().next().or(report.died) {
                caught.push(format!("seed {seed} (n={replicas})"));
                why.get_or_insert(text);
            }
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
