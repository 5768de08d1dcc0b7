//! What panch's bytes mean: identifiers, frames and batches, the client and peer protocols, checksums.
//!
//! No I/O, no clock, no threads. Every decoder here takes foreign bytes and returns an error, never panics.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

pub mod batch;
pub mod checksum;
pub mod client;
pub mod command;
pub mod exec;
mod fields;
pub mod frame;
pub mod ids;
pub mod peer;
pub mod record;
pub mod reply;
pub mod resp;
pub mod routing;
pub mod rule;
pub mod slots;
pub mod time;
pub mod transaction;
