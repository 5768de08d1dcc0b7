//! Deterministic simulator: the same replica and the same log as in the daemon, in a virtual world that tries to break
//! them.
//!
//! | module | |
//! |---|---|
//! | [`world`] | nodes, time, faults, scripts; a run from trouble to rest |
//! | [`network`], [`disk`], [`client`] | what surrounds the nodes |
//! | [`settings`] | what a run is like: all from one seed |
//! | [`invariant`] | what must hold at every moment, one file each |
//! | [`run`] | one seed of a swarm |
//! | [`scenario`] | nasty schedules, one for each rule |
//! | [`linear`] | linearizability of histories; used by the load generator too |
//! | [`check`] | every schedule of small groups, within bounds |
//! | [`coverage`] | which branches runs have taken |
//!
//! A seed is one run; the same seed gives the same run on every machine. Nothing here knows real time, threads or sockets.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

pub mod check;
pub mod client;
pub mod coverage;
pub mod disk;
pub mod inspect;
pub mod invariant;
pub mod linear;
pub mod network;
pub mod queue;
pub mod random;
pub mod run;
pub mod scenario;
pub mod settings;
pub mod world;
