//! What the clients saw is linearizable: key by key, and families of keys as one object [Herlihy and Wing 1990; protocols §8].

use crate::linear::register::Summary;
use crate::linear::store::History;

/// Steps of the search per part before it is given up: some seconds, and some hundred megabytes at most.
const STEPS_MAX: u64 = 16_000_000;

/// Checks a whole history.
///
/// # Errors
/// If the history of a key, or of a family of keys, is not linearizable or could not be decided: who runs histories makes them
/// small enough.
pub fn check(history: &History) -> Result<Summary, String> {
    history.check(STEPS_MAX).map_err(|anomaly| format!("{}: {}", anomaly.key.escape_ascii(), anomaly.text))
}
