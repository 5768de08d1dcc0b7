//! Bounded exhaustive checks on the command line: which, how far they came, and what they found.
//!
//! An assertion of a protocol that fails ends the process with its text, without a schedule.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::ensure;
use panch_consensus::explore::Outcome;
use panch_sim::check::{Configuration, all};

/// Runs the configurations whose names begin like one of these, or all; false if one found a violation.
pub(crate) fn run(names: &[String], states_max: Option<usize>, threads: u8) -> anyhow::Result<bool> {
    for name in names {
        ensure!(all().any(|it| it.name.starts_with(name)), "there is no configuration {name}");
    }
    let is_wanted =
        |it: &&Configuration| names.is_empty() || names.iter().any(|name| it.name.starts_with(name.as_str()));
    let chosen: Vec<_> = all().filter(is_wanted).collect();
    let begin = Instant::now();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let work = || {
            while let Some(configuration) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                let begin = Instant::now();
                let mut states = states_max.unwrap_or(configuration.states_max);
                states = states.max(1);
                let outcome = (configuration.run)(states, &mut |_| true);
                print(configuration, &outcome, begin);
                found.lock().expect("no thread panics with it").push(outcome);
            }
        };
        (0..threads).for_each(|_| {
            scope.spawn(work);
        });
    });
    let outcomes = found.into_inner().expect("no thread panics with it");
    let states: usize = outcomes.iter().map(|outcome| outcome.progress.state_count).sum();
    let steps: usize = outcomes.iter().map(|outcome| outcome.progress.step_count).sum();
    let complete = outcomes.iter().filter(|outcome| outcome.is_complete).count();
    let violated = outcomes.iter().filter(|outcome| outcome.violation.is_some()).count();
    println!(
        "{} configurations, {complete} of them complete, {states} states, {steps} steps, {:.1} s: {violated} violated",
        outcomes.len(),
        begin.elapsed().as_secs_f64()
    );
    Ok(violated == 0)
}

fn print(configuration: &Configuration, outcome: &Outcome, begin: Instant) {
    let Configuration { name, text, .. } = configuration;
    let progress = outcome.progress;
    let extent = if outcome.is_complete { "complete" } else { "bounded" };
    let verdict = match &outcome.violation {
        None => format!("{extent}, nothing violated"),
        Some(violation) => format!("VIOLATED\n{violation}"),
    };
    println!(
        "{name}: {text}\n    {} states, {} steps, depth {}, {:.1} s: {verdict}",
        progress.state_count,
        progress.step_count,
        progress.depth,
        begin.elapsed().as_secs_f64()
    );
}
