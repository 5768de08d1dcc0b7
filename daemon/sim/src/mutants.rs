//! Mutants: with each safety rule removed in turn, a scenario, a bounded exhaustive check or a seed must notice.
//!
//! A rule of one protocol is removed from groups of that protocol, any other from Multi-Paxos. The cheapest comes first: scripted scenarios,
//! those that are a part of the check, its configurations, then seeds; what notices first ends the search.
//!
//! What is [known] to notice is tried before all that.
//!
//! A rule that nothing misses is either not needed or not tested; both are findings.

mod known;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::ensure;
use panch_consensus::protocol::ProtocolKind;
use panch_sim::check;
use panch_sim::scenario::{ALL, Body, Scenario};
use panch_sim::settings::Mix;
use panch_wire::rule::Rule;

use self::known::Known;
use crate::Cluster;
use crate::child::{Work, listen, spawn};

/// How hard to try.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Seeds for each rule.
    pub seeds: u64,
    /// States of each configuration of the check; 0: its own number.
    pub states: usize,
    /// Whether to go on after the first that notices.
    pub table: bool,
    /// Of the seeds; and how many rules at once.
    pub cluster: Cluster,
}

/// Nodes of the simulator are new together.
const FOUNDING: &str = "a model of first starts in the replica crate has it";

/// A disk of the simulator holds a log, and what else a node keeps as values.
const SMALL_FILES: &str = "a model of disks that lose and tear in the tests of the log crate has it";

/// Every life in the simulator has a name and is heard of, and nobody is absent when a cluster is founded.
const FAMILIARITY: &str = "a test of the replica crate has it";

/// Rules whose removal no whole group can notice, each with the reason. A test of the consensus crate misses them.
const TABLES: &[(Rule, &str)] = &[
    (
        // Where a whole group lacks a snapshot, the log shows a hole as well. The test `past` of the replica crate misses the name alone.
        Rule::LogNamesSnapshot,
        "a start without its snapshot is refused for the hole, too",
    ),
    (
        // `picked()` proposes the named value of `Forced` and of `Free` alike, and the value of most votes is named either way: a value
        // that is forced by the right threshold has the most votes.
        Rule::FastPickThreshold,
        "what is forced has the most votes, and those decide anyway",
    ),
    (Rule::PeerLogNeverShrinks, "no machine is put back while it runs; a test of the replica crate has it"),
    (
        Rule::PeerLifeRemembered,
        "what others have told keeps a copy out, too; a test of the replica crate has it",
    ),
    (
        Rule::MajorityDisowns,
        "a copy mostly takes in those that refuse it; a test of the replica crate has it",
    ),
    (
        Rule::SilenceTakesNothingBack,
        "a node on its way back tells nothing, either; a test of the replica crate has it",
    ),
    (Rule::OnlyNotedSegmentsUsed, "no run loses just that segment; a test of the log crate has it"),
    (Rule::UnnamedLifeConfirmed, FAMILIARITY),
    (Rule::AbsentTakesInFirst, FAMILIARITY),
    (Rule::UnheardStartsDropped, FAMILIARITY),
    (
        Rule::RejoinAboveFounding,
        "no cluster of the simulator begins with a state; a test of the replica crate has it",
    ),
    (Rule::FoundingAsksEverybody, FOUNDING),
    (Rule::FoundingAsksTwice, FOUNDING),
    (Rule::FoundersAreNamed, FOUNDING),
    (Rule::FoundingsDoNotMix, "tests of hellos in the wire crate have it"),
    (Rule::SmallFileCopiesInTurn, SMALL_FILES),
    (Rule::SmallFileWholeCopyStays, SMALL_FILES),
    (Rule::SmallFileSyncedWhenRead, SMALL_FILES),
    (Rule::SmallFileSyncedBeforeRenamed, SMALL_FILES),
    (Rule::SmallFileNameSynced, SMALL_FILES),
    (Rule::ReportsOfOneLife, "tests of contradictions in the replica crate have it"),
    (Rule::FoundedWithState, "a test of salvaged states in the replica crate has it"),
    (Rule::HighestBallotSalvaged, "a test of salvaged states in the replica crate has it"),
    (Rule::BatchSalvagedOnce, "a test of salvaged states in the replica crate has it"),
    (Rule::UndecidedSalvagedAlone, "a test of salvaged states in the replica crate has it"),
    (
        // The votes of one classic round are all for one value, so that it has the most votes among them.
        Rule::FastPickClassicBinds,
        "the votes of a classic round are for one value, which is picked anyway",
    ),
    (
        // Two rows with a gap each, and the only ones that know what lies behind them are down but for some that a snapshot brought past it.
        Rule::EpaxosVoterRemembers,
        "others that are up know the instance, or its row has no gap any more, before that matters",
    ),
    (Rule::EpaxosCoveredIfAsked, "no replica of the simulator says what is not so"),
    (
        Rule::EpaxosPassedOn,
        "few runs kill just the one between two that were cut off from each other for long; a test of the consensus crate has it",
    ),
    (Rule::EpaxosFetchOnce, "what is asked for again is only in the way of other messages"),
    (
        // It takes more terms than a group has replicas, each with votes for another batch in one slot that stays open.
        Rule::FastPayloadsLeave,
        "no run has so many terms while a slot is open",
    ),
    (
        // Somebody must forget votes and another know a slot to be chosen behind one that is open.
        Rule::FastChosenIsFinal,
        "what is known to be chosen is soon committed, and then final anyway; tests of the consensus crate have it",
    ),
    (
        // What is left of a client's name is 64 bits of its hash: enough for anything but an attack of 2^32 hashes.
        Rule::FastDigestCompared,
        "a node gives no two batches one id, and a client's batches are told apart by the other half of their names",
    ),
];

/// What notices that a rule is removed, and what it says.
type Caught = Vec<(String, String)>;

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

/// What a child is given to do one after the other: names of scenarios, or of configurations of the check.
fn in_turn(names: Vec<String>, work: impl Fn(String) -> Work, effort: Effort) -> anyhow::Result<Caught> {
    let mut caught = Vec::new();
    for name in names {
        if !caught.is_empty() && !effort.table {
            break;
        }
        caught.extend(one(&work(name))?);
    }
    Ok(caught)
}

/// A child with this work notices something, or dies of it.
fn one(work: &Work) -> anyhow::Result<Caught> {
    let report = listen(spawn(work)?)?;
    Ok(report.failures.into_iter().chain(report.died).collect())
}

/// Looks for something that notices the removal of `rule`.
fn hunt(rule: &Rule, effort: Effort) -> anyhow::Result<Caught> {
    let kind = protocol_of(rule);
    let without = || Work { without: Some(rule.name().to_string()), ..Work::none() };
    if !effort.table
        && let Some(known) = known::what_notices(rule)
    {
        let caught = match known {
            Known::Scenario(name) => one(&Work { scenario: vec![name.to_string()], ..without() })?,
            Known::Seed(replicas, seed) => {
                let protocol = Mix::One(kind.unwrap_or(ProtocolKind::Multi));
                one(&Work { from: seed, to: seed + 1, protocol, replicas, ..without() })?
            }
        };
        if !caught.is_empty() {
            return Ok(caught);
        }
    }
    let mut scenarios: Vec<_> = ALL.iter().filter(|scenario| concerns(scenario, kind)).collect();
    // What takes seconds comes last: most rules are noticed by something shorter.
    scenarios
        .sort_by_key(|scenario| (scenario.name.contains("XS"), matches!(scenario.body, Body::Checked(..))));
    let names = scenarios.into_iter().map(|scenario| scenario.name.to_string()).collect();
    let mut caught = in_turn(names, |name| Work { scenario: vec![name], ..without() }, effort)?;
    if caught.is_empty() || effort.table {
        let of_kind = |name: &str| kind.is_some_and(|kind| name.starts_with(kind.name()));
        let names = check::all().map(|it| it.name.to_string()).filter(|name| of_kind(name)).collect();
        let work = |name| Work { check: vec![name], states: effort.states, ..without() };
        caught.extend(in_turn(names, work, effort)?);
    }
    for (mix, replicas) in worlds(kind, effort.cluster) {
        if effort.seeds == 0 || !caught.is_empty() && !effort.table {
            break;
        }
        let work = Work { to: effort.seeds, protocol: mix, replicas, ..without() };
        let report = listen(spawn(&work)?)?;
        let failure = report.failures.into_iter().next().or(report.died);
        caught.extend(failure.map(|(seed, text)| (format!("seed {seed} (n={replicas})"), text)));
    }
    Ok(caught)
}

/// Removes each of the rules, or all; false if one was not missed.
pub(crate) fn run(effort: Effort, names: &[String]) -> anyhow::Result<bool> {
    for name in names {
        ensure!(Rule::ALL.iter().any(|rule| rule.name().starts_with(name)), "there is no rule {name}");
    }
    let is_wanted = |rule: &&Rule| names.is_empty() || names.iter().any(|name| rule.name().starts_with(name));
    let chosen: Vec<_> = Rule::ALL.iter().filter(is_wanted).collect();
    let begin = Instant::now();
    let is_table = |rule: &Rule| TABLES.iter().find(|(of, _)| of == rule).map(|(_, why)| *why);
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> anyhow::Result<()> {
        while let Some(rule) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let begin = Instant::now();
            if let Some(why) = is_table(rule) {
                println!("{:36} by a table test only: {why}", rule.name());
                continue;
            }
            let caught = hunt(rule, effort)?;
            print(rule, &caught, begin);
            if caught.is_empty() {
                missed.lock().expect("no thread panics with it").push(rule.name());
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..effort.cluster.threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    let missed = missed.into_inner().expect("no thread panics with it");
    println!(
        "{} rules: {} by a table test only, {} not caught {}({:.0} s)",
        chosen.len(),
        chosen.iter().filter(|rule| is_table(rule).is_some()).count(),
        missed.len(),
        missed.iter().map(|name| format!("{name} ")).collect::<String>(),
        begin.elapsed().as_secs_f64()
    );
    Ok(missed.is_empty())
}

fn print(rule: &Rule, caught: &Caught, begin: Instant) {
    let (name, time) = (rule.name(), begin.elapsed().as_secs_f64());
    match caught.first() {
        Some((_, text)) => {
            let by: Vec<_> = caught.iter().map(|(by, _)| by.as_str()).collect();
            let line: String = text.lines().next().unwrap_or_default().chars().take(150).collect();
            println!("{name:36} caught by {} ({time:.0} s)\n{:36} {line}", by.join(", "), "");
        }
        None => println!("{name:36} NOT CAUGHT ({time:.0} s)"),
    }
}
