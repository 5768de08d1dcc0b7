//! What a replica knows of values that it has not executed: all that is left of them if no other replica will be heard again.
//!
//! Where several replicas are left, what they know of a position is compared ([`Standing`]): what is known to be chosen comes first, then
//! the value of the highest ballot. A value that was chosen in a lower ballot is the value of every higher one, so this contradicts
//! nothing that was ever chosen and accepted by one of those that are left.

use panch_wire::ids::{Position, Slot};

use crate::ballot::Ballot;
use crate::epaxos::Dependencies;
use crate::protocol::Value;

/// How much a replica knows of a value. The higher one binds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Standing {
    /// It was proposed.
    Known,
    /// It was accepted.
    Accepted {
        /// In this ballot.
        ballot: Ballot,
        /// In the step of the ballot in which one value at most is proposed: not in a fast round, nor by a pre-acceptance.
        is_classic: bool,
    },
    /// It is chosen.
    Chosen,
}

/// A value that a replica knows and has not executed, or (in a graph) that others may not have executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remnant {
    /// Where.
    pub position: Position,
    /// How much is known of it.
    pub standing: Standing,
    /// As in [`Chosen`](crate::protocol::Chosen).
    pub stamp: u64,
    /// What it depends on, in a graph.
    pub deps: Dependencies,
    /// [`Value::checksum`] of the value.
    pub checksum: u64,
}

impl Remnant {
    /// In a log.
    pub fn at(slot: Slot, standing: Standing, value: &Value) -> Self {
        let deps = Dependencies::default();
        Self { position: slot.into(), standing, stamp: slot.0, deps, checksum: value.checksum() }
    }
}
