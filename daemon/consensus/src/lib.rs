//! The replication protocols of panch as pure state machines. Reading guide:
//!
//! 1. [`protocol`]: what a protocol is: events in, effects out, and what must be durable before what.
//! 2. [`ballot`], [`quorum`], [`window`], [`timers`]: the small shared parts.
//! 3. [`multi`]: Multi-Paxos: `election` (pre-vote, phase 1), `leader` (phase 2, commit, reads), `acceptor` (promises,
//!    acceptance, the follower commit rule), `catchup` (log tail, rewinds, entries read back from disk), `reads` (read
//!    index).
//!
//! No clock, no randomness of its own, no I/O: the same state, the same event and the same `now` give the same
//! effects on every machine.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

pub mod ballot;
pub mod multi;
pub mod protocol;
pub mod quorum;
pub mod timers;
pub mod window;
