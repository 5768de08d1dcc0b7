//! What the simulator must understand of a protocol to judge it from outside: claims in messages, facts in records.

use panch_consensus::ballot::Ballot;
use panch_consensus::multi::Multi;
use panch_consensus::multi::message::{Message, Record};
use panch_consensus::protocol::Protocol;
use panch_wire::ids::Slot;

/// What a message says its sender remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// The ballot is promised.
    Promised(Ballot),
    /// Everything up to the slot is accepted in the ballot, or chosen.
    AcceptedUpTo(Ballot, Slot),
    /// The first ballot is promised; the slot's value was accepted in the second.
    Reported(Ballot, Slot, Ballot),
}

/// What a record writes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fact {
    /// The ballot, promised with this record at the latest.
    pub ballot: Ballot,
    /// The slot whose value beside the record is accepted in the ballot.
    pub accepts: Option<Slot>,
}

/// A protocol that the simulator can judge.
pub trait Inspect: Protocol {
    /// What the message claims.
    fn claim(message: &Self::Message) -> Option<Claim>;
    /// What the record says.
    fn fact(record: &Self::Record) -> Fact;
}

impl Inspect for Multi {
    fn claim(message: &Message) -> Option<Claim> {
        match message {
            Message::Prepare(prepare) => Some(Claim::Promised(prepare.ballot)),
            Message::Promise(promise) => Some(Claim::Promised(promise.ballot)),
            Message::PromiseEntry(entry) => Some(Claim::Reported(entry.ballot, entry.slot, entry.accepted)),
            Message::Accepted(accepted) => Some(Claim::AcceptedUpTo(accepted.ballot, accepted.upto)),
            _ => None,
        }
    }

    fn fact(record: &Record) -> Fact {
        match *record {
            Record::Promise(promised) => Fact { ballot: promised.ballot, accepts: None },
            Record::Accept(accepted) => Fact { ballot: accepted.ballot, accepts: Some(accepted.slot) },
        }
    }
}
