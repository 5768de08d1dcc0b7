//! Tests of Multi-Paxos: exact effects of single events (`acceptor_rules`, `leader_rules`, `trust_rules`), named schedules (`scenarios`), faults that last (`gray`), random schedules
//! (`random`), leases one event at a time (`lease_rules`) and as schedules (`leases`), and that the two latter notice when a safety rule is removed (`mutants`).

mod acceptor_rules;
mod gray;
mod leader_rules;
mod lease_rules;
mod leases;
#[cfg(feature = "mutants")]
mod mutants;
mod random;
mod scenarios;
mod solo;
mod trust_rules;

use panch_wire::record::Fixed;

use super::message::{Message, Record};

// Small enough to travel and be written by the hundred.
const _: () = assert!(Message::SIZE <= 64 && Record::SIZE <= 64);
