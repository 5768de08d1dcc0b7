//! Multi-Paxos: one promise for all slots; votes in the order of the slots.

use panch_consensus::multi::message::{Message, Record};

use super::{Claim, Commitment, Content, Fact, Round, Scope, Voting};

pub(super) fn claims(message: &Message, take: &mut impl FnMut(Claim)) {
    match message {
        Message::Prepare(prepare) => take(Claim::Promised(Scope::Group, prepare.ballot)),
        Message::Promise(promise) => take(Claim::Promised(Scope::Group, promise.ballot)),
        Message::PromiseEntry(entry) => {
            take(Claim::Promised(Scope::Group, entry.ballot));
            take(Claim::Voted(entry.slot.into(), Round::classic(entry.accepted), None));
        }
        Message::Accepted(accepted) => {
            take(Claim::AcceptedUpTo(Round::classic(accepted.ballot), accepted.upto));
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
    let votes = record.slot().map(|slot| Voting {
        position: slot.into(),
        round: Round::classic(record.ballot()),
        content: Content::Beside,
        attributes: 0,
    });
    Fact { promised: Some(record.ballot()), joined: None, votes }
}
