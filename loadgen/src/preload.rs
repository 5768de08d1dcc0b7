//! Giving every key a value before a run whose mix reads.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::drive::{DriveError, run_name};
use crate::engine::{self, EngineError, Plan};
use crate::json::pairs;
use crate::keys::KeyDistribution;
use crate::progress::Watch;
use crate::record::Recorder;
use crate::schedule::Load;
use crate::workload::{Mix, Workload};

/// What a preload came to.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Preload {
    /// How many keys were given a value.
    pub keys: u64,
    /// How many keys there are.
    pub key_count: u64,
    /// How many writes did not succeed, and how many connections broke meanwhile.
    pub failed: u64,
    /// Error texts, and how often each came.
    #[serde(with = "pairs")]
    pub errors: Vec<(String, u64)>,
}

impl Preload {
    fn new(key_count: u64, recorder: &Recorder) -> Self {
        let counts = &recorder.counts;
        Self {
            keys: counts.acknowledged,
            key_count,
            failed: counts.errors() + counts.disconnects,
            errors: recorder.errors.clone(),
        }
    }

    /// Whether nothing went wrong. One that merely had too little time for all keys is clean.
    pub fn is_clean(&self) -> bool {
        self.failed == 0
    }

    /// What is to be said of it, a line each: what went wrong, and which keys it left out.
    pub fn remarks(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.is_clean() {
            let errors: Vec<String> =
                self.errors.iter().map(|(text, count)| format!("{count} x {text}")).collect();
            let errors = if errors.is_empty() { "no answer in time".to_owned() } else { errors.join("; ") };
            lines.push(format!(
                "the preload failed, with {} failed writes and broken connections: {errors}",
                self.failed
            ));
        }
        lines.extend(self.shortage());
        lines
    }

    /// What is to be said if some keys were not given one.
    pub fn shortage(&self) -> Option<String> {
        (self.keys < self.key_count).then(|| {
            format!(
                "the preload gave only {} of {} keys a value, and reads of the others may find none",
                self.keys, self.key_count
            )
        })
    }
}

/// Gives every key of the plan's workload a value. Takes at most as long as `limit`, and as the plan's drain for the last answers; what
/// is left then stays without.
///
/// # Errors
/// If the servers could not be reached, or a stop came before its end.
pub fn preload(
    plan: &Plan,
    limit: Duration,
    stop: &AtomicBool,
    watch: &mut dyn Watch,
) -> Result<Preload, DriveError> {
    let outcome = engine::run(&filling(plan, limit), stop, watch)?;
    if outcome.interrupted {
        return Err(EngineError::Interrupted.into());
    }
    Ok(Preload::new(plan.workload.key_count, &outcome.recorder))
}

/// The run that writes every key once.
fn filling(plan: &Plan, limit: Duration) -> Plan {
    let workload = Workload { mix: Mix::WRITES, keys: KeyDistribution::Sequential, ..plan.workload.clone() };
    Plan {
        count: Some(workload.key_count),
        workload,
        load: Load::Closed,
        // A session of the run that follows is not to find numbers that were used before, nor the audit a value that it takes for its own.
        run: run_name(),
        warm_up: Duration::ZERO,
        duration: limit,
        check: false,
        ..plan.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn every_key_is_written_once_under_another_name_than_that_of_the_run() {
        let text = "panch-loadgen run --target 127.0.0.1:1 --mode closed --sessions --mix get=1,incr=1 -r 70 --check";
        let Command::Run(arguments) = Cli::try_parse_from(text.split(' ')).unwrap().command else {
            panic!("not asked for")
        };
        let plan = crate::drive::plan(&arguments).unwrap();
        let filling = filling(&plan, Duration::from_secs(3));
        assert_ne!(filling.run, plan.run);
        assert_eq!((filling.count, filling.duration), (Some(70), Duration::from_secs(3)));
        assert_eq!((filling.workload.mix, filling.workload.keys), (Mix::WRITES, KeyDistribution::Sequential));
        assert_eq!((filling.repeat_after, filling.check), (plan.repeat_after, false));
    }

    #[test]
    fn keys_without_a_value_are_counted() {
        let preload = |keys| Preload { keys, key_count: 7, ..Preload::default() };
        assert_eq!((preload(7).shortage(), preload(7).remarks().len()), (None, 0));
        assert!(preload(5).shortage().unwrap().contains("only 5 of 7 keys"));
        // For more keys than there is time for nobody is to blame.
        assert!(preload(5).is_clean());
    }

    #[test]
    fn a_preload_that_was_refused_says_why() {
        let errors = vec![("CLUSTERDOWN no majority".to_owned(), 2)];
        let refused = Preload { keys: 5, key_count: 7, failed: 2, errors };
        assert!(!refused.is_clean());
        let [failure, shortage]: [String; 2] = refused.remarks().try_into().unwrap();
        assert!(failure.contains("2 failed writes") && failure.ends_with("2 x CLUSTERDOWN no majority"));
        assert!(shortage.contains("only 5 of 7 keys"));
        let silent = Preload { failed: 1, ..Preload::default() };
        assert!(silent.remarks()[0].ends_with("no answer in time"));
    }
}
