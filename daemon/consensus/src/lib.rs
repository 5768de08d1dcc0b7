//! The replication protocols of panch as pure state machines. Reading guide:
//!
//! 1. [`protocol`]: what a protocol is: events in, effects out, and what must be durable before what.
//! 2. [`ballot`], [`quorum`], [`window`], [`frontier`], [`timers`], `messages`: the small shared parts.
//! 3. [`multi`]: Multi-Paxos: `election` (pre-vote, phase 1), `leader` (phase 2, commit, reads), `acceptor` (promises,
//!    acceptance, the follower commit rule), `catchup` (log tail, rewinds, entries read back from disk), `reads` (read
//!    index).
//! 4. [`basic`]: Basic Paxos, two phases for every slot and no leader: `slots` (what is kept per slot), `acceptor`
//!    (promises, acceptances), `proposer` (both phases, back-off), `placement` (which slot a batch goes to, which holes
//!    are filled), `learner` (what is chosen, catching up), `reads` (quorum reads).
//! 5. [`fast`]: Fast Paxos: proposers go straight to the acceptors; `picking` is the rule that keeps that safe.
//! 6. [`epaxos`], [`order`]: dependencies between batches, and the order of execution that follows from them.
//! 7. [`rejoin`]: a replica that has lost its disk comes back.
//! 8. `fitness`: how fit the members of a group are, for those who rely on them.
//! 9. [`explore`]: every schedule of a small group, one after the other.
//!
//! No clock, no randomness of its own, no I/O: the same state, the same event and the same `now` give the same
//! effects on every machine.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

pub mod ballot;
pub mod basic;
pub mod epaxos;
pub mod explore;
pub mod fast;
pub(crate) mod fitness;
pub mod frontier;
pub(crate) mod messages;
pub mod multi;
pub mod order;
pub mod protocol;
pub mod quorum;
pub mod rejoin;
pub mod remnant;
#[cfg(test)]
pub(crate) mod testing;
pub mod timers;
pub mod window;
