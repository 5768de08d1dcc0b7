//! Shared by the tests that start a stand-in for the daemon.

use std::path::Path;
use std::process::Command;

/// Makes `path` a program with this text. Another process writes it: while this one has it open for writing, a process that another
/// test starts would inherit that, and nobody could run it.
pub(crate) fn write_program(path: &Path, text: &str) {
    let write = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
    let status = Command::new("sh").args(["-c", write]).arg(path).arg(text).status().unwrap();
    assert!(status.success());
}
