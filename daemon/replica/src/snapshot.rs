//! Snapshots: the whole state after so many executed positions (in a log: at one slot), as bytes for a file or for a replica that has fallen behind.
//!
//! ```text
//! header  magic "panchsnp", version u16, group u16, zero u32, slot u64, checksum u64 of all before
//! chunk*  checksum u64 of all behind it, length u32, number u32 from 1, slot u64, payload
//! ```
//! Numbers are little-endian. The payloads in a row are the records (see `record`), cut anywhere; the last record holds
//! counts and the state digest. Zero bytes behind the last chunk are padding. Every byte is under a checksum, so damage
//! is noticed and placed; the digest shows in the end that the whole is the state that was meant.

pub mod file;
mod reader;
pub(crate) mod record;
pub(crate) mod scan;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

pub use file::{SNAPSHOT_RECORD, SnapshotFault, SnapshotFiles, SnapshotName};
pub use reader::{Restored, SnapshotError, SnapshotHeader, SnapshotReader};

/// Bytes of the header.
pub const HEADER_SIZE: usize = 32;
/// The longest payload of a chunk.
pub const PAYLOAD_SIZE_MAX: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"panchsnp";
pub(crate) const VERSION: u16 = 3;
const CHUNK_HEADER_SIZE: usize = 24;
const CHECKSUM_SIZE: usize = 8;
