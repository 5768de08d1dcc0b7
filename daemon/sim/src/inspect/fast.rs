//! Fast Paxos: a promised term for all slots, promises of its classic round for single ones, votes in both rounds.

use panch_consensus::fast::message::{Message, Record, SlotRecord};
use panch_consensus::fast::round;

use super::{Claim, Commitment, Content, Fact, Round, Scope, Voting};

fn round_of(round: round::Round) -> Round {
    Round { ballot: round.term, classic: round.classic }
}

pub(super) fn claims(message: &Message, take: &mut impl FnMut(Claim)) {
    match message {
        Message::Prepare(prepare) => take(Claim::Promised(Scope::Group, prepare.term)),
        Message::Promise(promise) => take(Claim::Promised(Scope::Group, promise.term)),
        Message::PromiseVote(vote) => {
            take(Claim::Promised(Scope::Group, vote.term));
            take(Claim::Voted(vote.slot.into(), round_of(vote.round), None));
        }
        Message::Votes(votes) => {
            let round = round_of(votes.round);
            let entries = votes.entries.iter().take(votes.count.into());
            for entry in entries {
                for index in 0..u64::from(entry.count) {
                    let slot = panch_wire::ids::Slot(entry.first.0 + index * u64::from(votes.step));
                    take(Claim::Voted(slot.into(), round, None));
                }
            }
        }
        Message::SlotPromise(promise) => {
            let position = promise.slot.into();
            take(Claim::Promised(Scope::One(position), promise.term));
            if let Some(voted) = promise.voted {
                take(Claim::Voted(position, round_of(voted), None));
            }
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
    let (record, voted) = match record {
        Record::Promise(record) => return Fact { promised: Some(record.term), ..Fact::default() },
        Record::Learned(_) => return Fact::default(),
        Record::SlotPromise(record) => (record, false),
        Record::Vote(record) => (record, true),
    };
    let SlotRecord { round, slot, .. } = *record;
    let position = slot.into();
    // A vote in the fast round blocks no other; one in the classic round, or the promise of it, ends the fast round.
    let joined = round.classic.then_some((position, round.term));
    let votes =
        voted.then_some(Voting { position, round: round_of(round), content: Content::Beside, attributes: 0 });
    Fact { promised: Some(round.term), joined, votes }
}
