//! EPaxos: promises of single instances; a pre-acceptance is the vote of a round of its own before ballot 0, which no count
//! of equal votes decides; attributes beside every value.

use panch_consensus::ballot::Ballot;
use panch_consensus::epaxos::Dependencies;
use panch_consensus::epaxos::message::{Message, Phase, Record};
use panch_wire::ids::Position;

use super::{Attributes, Claim, Commitment, Content, Fact, Round, Scope, Voting};
use crate::invariant::Held;

const PRE_ACCEPTED: Round = Round { ballot: Ballot { round: 0, owner: 0 }, classic: false };

fn promised(position: Position, ballot: Ballot) -> Claim {
    Claim::Promised(Scope::One(position), ballot)
}

pub(super) fn claims(message: &Message, take: &mut impl FnMut(Claim)) {
    match message {
        Message::PreAcceptOk(vote) => take(Claim::Voted(vote.position, PRE_ACCEPTED, None)),
        Message::AcceptOk(vote) => take(Claim::Voted(vote.position, Round::classic(vote.ballot), None)),
        Message::Recover(recover) => take(promised(recover.position, recover.ballot)),
        Message::RecoverOk(promise) => {
            take(promised(promise.position, promise.ballot));
            match promise.phase {
                Phase::PreAccepted => take(Claim::Voted(promise.position, PRE_ACCEPTED, None)),
                Phase::Accepted => {
                    take(Claim::Voted(promise.position, Round::classic(promise.accepted), None));
                }
                Phase::Unknown | Phase::Seen | Phase::Committed => {}
            }
        }
        Message::ValidateOk(reply) => take(promised(reply.position, reply.ballot)),
        _ => {}
    }
}

fn commitment_of(position: Position, noop: bool, stamp: u64, deps: Dependencies) -> Commitment {
    Commitment { position, noop, attributes: Attributes { deps: deps.0, stamp } }
}

pub(super) fn commitment(message: &Message) -> Option<Commitment> {
    match message {
        Message::Commit(it) => Some(commitment_of(it.position, it.noop, it.stamp, it.deps)),
        _ => None,
    }
}

pub(super) fn recorded_commitment(record: &Record) -> Option<Commitment> {
    match record {
        Record::Commit(it) => Some(commitment_of(it.position, it.noop, it.stamp, it.deps)),
        _ => None,
    }
}

/// A name of attributes, never 0.
fn name(deps: &Dependencies, stamp: u64) -> u64 {
    let mix = |sum: u64, number: &u64| (sum ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    deps.0.iter().fold(stamp, mix) | 1
}

fn voting(position: Position, round: Round, noop: bool, stamp: u64, deps: &Dependencies) -> Voting {
    // The batch may lie beside an older record; its instance and stamp name it as well.
    let held = if noop { Held::Noop } else { Held::Batch(stamp) };
    let attributes = if noop { 1 } else { name(deps, stamp) };
    Voting { position, round, content: Content::Named(held), attributes }
}

pub(super) fn fact(record: &Record) -> Fact {
    match record {
        Record::PreAccept(it) => Fact {
            votes: Some(voting(it.position, PRE_ACCEPTED, false, it.stamp, &it.deps)),
            ..Fact::default()
        },
        Record::Accept(it) => Fact {
            joined: Some((it.position, it.ballot)),
            votes: Some(voting(it.position, Round::classic(it.ballot), it.noop, it.stamp, &it.deps)),
            ..Fact::default()
        },
        Record::Promise(it) => Fact { joined: Some((it.position, it.ballot)), ..Fact::default() },
        Record::Validate(it) => Fact { joined: Some((it.position, it.ballot)), ..Fact::default() },
        Record::Commit(_) | Record::Reserve(_) => Fact::default(),
    }
}
