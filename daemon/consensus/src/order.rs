//! From decided to executable.
//!
//! [`graph`]: the order of a dependency graph (EPaxos). A protocol with one log needs nothing of its own here: its order
//! is that of its slots, and its window knows what has no gap before it.

pub mod graph;
