//! What a coordinator may propose in a slot, given the votes of a classic quorum [Fast Paxos §3.2, rule O4].
//!
//! Pure: the answer depends on the arguments only.

use panch_wire::ids::REPLICAS_MAX;
use panch_wire::rule::{Rule, holds};

use super::round::{ValueName, Vote};
use crate::quorum::{classic_quorum, fast_quorum};

/// What the votes say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pick {
    /// This value may have been chosen: it must be proposed.
    Forced(ValueName),
    /// Nothing was or can be chosen in any earlier round. This value has the most votes and most deserves to be proposed.
    Free(ValueName),
    /// Nothing was or can be chosen in any earlier round, and nobody voted.
    Empty,
}

/// Applies rule O4. `answers` has one entry for each acceptor that will not vote in any lower round any more: its latest
/// vote below the round to be opened, if it ever voted. At least a classic quorum of `replica_count`.
pub fn pick(replica_count: usize, answers: &[Option<Vote>]) -> Pick {
    let votes = || answers.iter().flatten();
    let Some(highest) = votes().map(|vote| vote.round).max() else { return Pick::Empty };
    let deciding = || votes().filter(|vote| vote.round == highest || !holds(Rule::FastPickHighestRound));
    // The value of most votes; of several, the one with the least name, so that all coordinators pick alike.
    let mut best: Option<(usize, ValueName)> = None;
    for vote in deciding() {
        let count = deciding().filter(|other| other.name == vote.name).count();
        if best.is_none_or(|(most, name)| count > most || count == most && vote.name < name) {
            best = Some((count, vote.name));
        }
    }
    let Some((count, name)) = best else { return Pick::Empty };
    if highest.classic && holds(Rule::FastPickClassicBinds) {
        // One value at most is proposed in a classic round, and it may be chosen.
        return Pick::Forced(name);
    }
    if count >= threshold(replica_count, answers.len()) { Pick::Forced(name) } else { Pick::Free(name) }
}

/// With so many votes among the answers, a value of a fast round may have a fast quorum if all others voted for it too.
fn threshold(replica_count: usize, answer_count: usize) -> usize {
    let answer_count =
        if holds(Rule::FastPickThreshold) { answer_count } else { classic_quorum(replica_count) };
    (answer_count + fast_quorum(replica_count)).saturating_sub(replica_count).max(1)
}

const _: () = assert!(REPLICAS_MAX <= 16, "votes are counted by comparing all with all");
