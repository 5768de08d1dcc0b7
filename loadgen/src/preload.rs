//! Giving every key a value before a run whose mix reads.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::drive::{DriveError, run_name};
use crate::engine::{self, EngineError, Plan};
use crate::keys::KeyDistribution;
use crate::progress::Watch;
use crate::schedule::Load;
use crate::workload::{Mix, Workload};

/// What a preload came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Preload {
    /// How many keys were given a value.
    pub keys: u64,
    /// How many keys there are.
    pub key_count: u64,
}

impl Preload {
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
    Ok(Preload { keys: outcome.recorder.counts.acknowledged, key_count: plan.workload.key_count })
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
        let text =
            "panch-loadgen run --target 127.0.0.1:1 --mode closed --sessions --mix get=1 -r 70 --check";
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
        assert_eq!(Preload { keys: 7, key_count: 7 }.shortage(), None);
        assert!(Preload { keys: 5, key_count: 7 }.shortage().unwrap().contains("only 5 of 7 keys"));
    }
}
