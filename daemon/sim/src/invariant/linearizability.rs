//! What the clients saw is linearizable, key by key [Herlihy and Wing 1990; protocols §8].

use crate::linear::register::{History, Summary, check_all};

/// Steps of the search per key before it is given up.
const STEPS_MAX: u64 = 2_000_000;

/// Checks a whole history.
///
/// # Errors
/// If a key's history is not linearizable.
pub fn check(history: &History) -> Result<Summary, String> {
    check_all(history, STEPS_MAX)
        .map_err(|anomaly| format!("key {}: {}", anomaly.key.escape_ascii(), anomaly.text))
}
