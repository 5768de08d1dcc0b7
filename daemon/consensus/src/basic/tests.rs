//! Tests of Basic Paxos: exact effects of single events (`acceptor_rules`, `proposer_rules`, `learner_rules`), named
//! schedules (`scenarios`), faults that last (`gray`), what a batch costs (`cost`), memory (`pressure`), random schedules (`random`), and that they notice when a safety
//! rule is removed (`mutants`).

mod acceptor_rules;
mod cost;
mod gray;
mod learner_rules;
#[cfg(feature = "mutants")]
mod mutants;
mod pressure;
mod proposer_rules;
mod random;
mod scenarios;

use panch_wire::frame::Frame;
use panch_wire::ids::Slot;
use panch_wire::record::Fixed;

use super::Basic;
use super::message::{AcceptRecord, ChosenRecord, Message, PromiseRecord, Record, SlotSet};
use crate::ballot::Ballot;
use crate::frontier::Frontier;
use crate::testing::solo::Solo;
use crate::testing::tuning;

// Small enough to travel and be written by the hundred.
const _: () = assert!(Message::SIZE <= 64 && Record::SIZE <= 64);

/// The ballot of an attempt of a replica in its first life.
fn ballot(attempt: u64, owner: u8) -> Ballot {
    Ballot { round: attempt << 32 | 1, owner }
}

fn one(slot: u64) -> SlotSet {
    SlotSet::one(Slot(slot))
}

fn solo(replica_count: usize) -> Solo<Basic> {
    restarted(replica_count, 0, &[])
}

fn restarted(replica_count: usize, executed: u64, records: &[(Record, Option<Frame>)]) -> Solo<Basic> {
    Solo::open(replica_count, tuning(), &Frontier::from(Slot(executed)), records)
}

fn promised(ballot: Ballot, slot: u64, commit: u64) -> Record {
    Record::Promise(PromiseRecord { ballot, slot: Slot(slot), commit: Slot(commit) })
}

fn accepted(ballot: Ballot, slot: u64, commit: u64) -> Record {
    Record::Accept(AcceptRecord { ballot, slot: Slot(slot), commit: Slot(commit) })
}

fn learned(slot: u64, commit: u64) -> Record {
    Record::Chosen(ChosenRecord { slot: Slot(slot), commit: Slot(commit) })
}
