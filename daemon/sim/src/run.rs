//! One run of a swarm, from its seed to its verdict.

use crate::coverage::Coverage;
use crate::invariant::Violation;
use crate::settings::{Mix, Settings};
use crate::world::World;

/// Runs a seed of a swarm of clusters of these protocols. With `trace`, everything that happens is printed.
///
/// # Errors
/// What was violated.
pub fn run_seed(seed: u64, mix: Mix, replica_count: usize, trace: bool) -> Result<Coverage, Violation> {
    World::new(Settings::swarm(seed, mix, replica_count), trace).run()
}

/// As [`run_seed`], in a world in which nothing is the matter but one weakness that lasts.
///
/// # Errors
/// What was violated.
pub fn run_gray_seed(seed: u64, mix: Mix, replica_count: usize, trace: bool) -> Result<Coverage, Violation> {
    World::new(Settings::gray(seed, mix, replica_count), trace).run()
}
