//! Tests of Fast Paxos: rule O4 by table and by brute force (`picking`), exact effects of single events (`acceptor_rules`,
//! `coordinator_rules`, `direct_rules`, `election_rules`, `pressure`), named schedules (`scenarios`), faults that last (`gray`), what is kept for a slot (`payloads`), what a batch costs (`budget`), random schedules (`random`), and that
//! all of these notice when a safety rule is removed (`mutants`).

mod acceptor_rules;
mod budget;
mod coordinator_rules;
mod direct_rules;
mod election_rules;
mod gray;
#[cfg(feature = "mutants")]
mod mutants;
mod payloads;
mod picking;
mod pressure;
mod random;
mod scenarios;
mod solo;

use panch_wire::command::Command;
use panch_wire::frame::{Frame, FramePool};
use panch_wire::record::{FIXED_SIZE_MAX, Fixed};

use super::message::{Message, Record};
use crate::testing::{batch_of, set};

/// A batch that says `value`; several may have one name.
fn batch_with(pool: &FramePool, counter: u64, value: &[u8]) -> Frame {
    batch_of(pool, 1, 1, counter, &[Command { value, ..set(b"key") }])
}

// Small enough to travel and be written by the hundred.
const _: () = assert!(Message::SIZE <= FIXED_SIZE_MAX && Record::SIZE <= 64);
