//! Basic Paxos: promises and votes for one slot each.

use panch_consensus::ballot::Ballot;
use panch_consensus::basic::message::{Message, Record};
use panch_wire::ids::Slot;

use super::{Claim, Commitment, Content, Fact, Round, Scope, Voting};

fn promised(slot: Slot, ballot: Ballot) -> Claim {
    Claim::Promised(Scope::One(slot.into()), ballot)
}

pub(super) fn claims(message: &Message, take: &mut impl FnMut(Claim)) {
    match message {
        Message::Promise(promise) => {
            promise.slots.iter().for_each(|slot| take(promised(slot, promise.ballot)));
        }
        Message::PromiseValue(value) => {
            take(promised(value.slot, value.ballot));
            take(Claim::Voted(value.slot.into(), Round::classic(value.accepted), None));
        }
        Message::Accepted(accepted) => {
            let round = Round::classic(accepted.ballot);
            accepted.slots.iter().for_each(|slot| take(Claim::Voted(slot.into(), round, None)));
        }
        _ => {}
    }
}

pub(super) fn commitment(_: &Message) -> Option<Commitment> {
    None
}

pub(super) fn recorded_commitment(_: &Record) -> Option<Commitment> {
    None
}

pub(super) fn fact(record: &Record) -> Fact {
    let (slot, ballot, voted) = match record {
        Record::Promise(record) => (record.slot, record.ballot, false),
        Record::Accept(record) => (record.slot, record.ballot, true),
        Record::Chosen(_) | Record::Covered(_) => return Fact::default(),
    };
    let position = slot.into();
    let round = Round::classic(ballot);
    let votes = voted.then_some(Voting { position, round, content: Content::Beside, attributes: 0 });
    Fact { promised: None, joined: Some((position, ballot)), votes }
}
