//! Numbers that nobody can guess.

use std::fs::File;
use std::io::{self, Read};

/// Draws them from the kernel, which does not wait once it is up.
///
/// # Errors
/// If `/dev/urandom` cannot be read.
pub(crate) fn draw() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
