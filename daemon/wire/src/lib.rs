//! What panch's bytes mean: identifiers, frames and batches, the client and peer protocols, checksums.
//!
//! No I/O, no clock, no threads. Every decoder here takes foreign bytes and returns an error, never panics.
#![forbid(unsafe_code)]

pub mod batch;
pub mod checksum;
pub mod command;
pub mod frame;
pub mod ids;
pub mod record;
pub mod rule;
pub mod time;
