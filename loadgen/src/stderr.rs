//! What is said to people while something is measured.

use std::fmt::Display;
use std::io::Write;

/// Writes `text` and a line end to standard error, in one piece. Nothing happens if that fails: a measurement does not end because
/// whoever watched it has left.
pub fn line(text: impl Display) {
    let line = format!("{text}\n");
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}
