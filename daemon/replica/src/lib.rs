//! One consensus group's whole brain, and one core's turn over all its groups; no I/O, no clock.
//!
//! What happens to a command: [`core`] takes it in, [`batcher`] writes it into the batch that is being filled, the
//! protocol (`panch-consensus`) decides the batch's slot, `gate` holds votes back until they are durable, [`machine`]
//! executes it, and the reply leaves through [`outbox::Outbox`].
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod any;
pub mod batcher;
pub mod ceilings;
pub mod checkpoint;
pub mod client_batch;
pub mod core;
pub mod divergence;
pub mod familiarity;
pub mod founding;
mod gate;
pub mod kv;
pub mod latency;
mod log_index;
pub mod machine;
pub mod outbox;
pub mod probe;
mod reads;
pub mod rejoin;
pub mod replica;
pub mod salvage;
pub mod sending;
pub mod sessions;
pub mod snapshot;
mod snapshots;
pub mod status;
pub mod transfer;
mod window;
