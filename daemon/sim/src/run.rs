//! One run of a swarm, from its seed to its verdict.

use panch_consensus::multi::Multi;

use crate::coverage::Coverage;
use crate::invariant::Violation;
use crate::settings::Settings;
use crate::world::World;

/// Runs a seed of a swarm of Multi-Paxos clusters. With `trace`, everything that happens is printed.
///
/// # Errors
/// What was violated.
pub fn run_seed(seed: u64, replica_count: usize, trace: bool) -> Result<Coverage, Violation> {
    World::<Multi>::new(Settings::swarm(seed, replica_count), trace).run()
}
