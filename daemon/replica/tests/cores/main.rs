//! What only several cores together show, under each protocol.

#![allow(clippy::unwrap_used)]

mod contradicted;
mod latency;
mod limits;
mod past;
mod refused;
mod rogue;
mod salvage;
mod sessions;
mod transfer;
mod world;
