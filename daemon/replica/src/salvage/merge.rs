//! What several nodes have left of the values of a group, put together.
//!
//! * (S4) What is known of a position in any of the files wins over what is not: what is chosen, then what was accepted in the highest
//!   ballot. Of votes in one fast round the value with most of them counts, as for a coordinator; the others are kept behind the last
//!   position, since any of them may have been chosen there or elsewhere, and a batch takes effect once.
//! * In a graph a batch takes effect once, too: its proposer repeats it at a higher position of the same row once it knows the lower one to
//!   be a no-op. Whoever has not heard of that still has it at the lower one, where it does not count if it is known at a higher one.
//! * Whatever the order of the files, the outcome is the same: all nodes of the new cluster come to it by themselves.

use std::collections::BTreeMap;

use panch_consensus::protocol::Order;
use panch_consensus::remnant::{Remnant, Standing};
use panch_wire::ids::{GroupId, Position, ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use super::Misfit;

/// A value that counts: which file has its bytes, which of its remnants it is, and what is said of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pick {
    /// The index of the file.
    pub file: usize,
    /// The index of the remnant in it.
    pub index: usize,
    /// What is to be chosen.
    pub remnant: Remnant,
}

/// What the files, each of another node, have of positions beyond those that are executed in the state that counts: a value for every position of
/// which anything is left, ascending.
///
/// # Errors
/// If two nodes know different values to be chosen.
pub fn merge(
    group: GroupId,
    order: Order,
    files: &[(ReplicaId, &[Remnant])],
    is_executed: impl Fn(Position) -> bool,
) -> Result<Vec<Pick>, Misfit> {
    let mut known: BTreeMap<Position, Vec<Pick>> = BTreeMap::new();
    for (file, (_, remnants)) in files.iter().enumerate() {
        for (index, remnant) in remnants.iter().enumerate() {
            known.entry(remnant.position).or_default().push(Pick { file, index, remnant: *remnant });
        }
    }
    let repeated = match order {
        Order::Graph if holds(Rule::BatchSalvagedOnce) => repeated(known.values()),
        _ => BTreeMap::new(),
    };
    known.retain(|position, _| !is_executed(*position));
    let (mut picks, mut ties) = (Vec::new(), Vec::new());
    for candidates in known.values() {
        let best = best_of(candidates);
        let Some(first) = first_of(&best) else { continue };
        let other = best.iter().find(|it| it.remnant.checksum != first.remnant.checksum);
        if let (Standing::Chosen, Some(other)) = (first.remnant.standing, other)
            && holds(Rule::HighestBallotSalvaged)
        {
            let mut nodes = [first.file, other.file].map(|file| files[file].0);
            nodes.sort_unstable();
            return Err(Misfit::Contradict { group, position: first.remnant.position, nodes });
        }
        let mut pick = *first;
        match order {
            Order::Log => {
                let mut names = vec![pick.remnant.checksum];
                for other in &best {
                    if !names.contains(&other.remnant.checksum) {
                        names.push(other.remnant.checksum);
                        ties.push(**other);
                    }
                }
            }
            // Those that voted for a batch saw each of what must be executed before it what had reached them.
            Order::Graph if !is_single(pick.remnant.standing) => {
                best.iter().for_each(|it| pick.remnant.deps.merge(&it.remnant.deps));
            }
            Order::Graph => {}
        }
        // Left out: nothing being left of a position below others, it is a no-op.
        let Position { row, number } = pick.remnant.position;
        let counts = repeated.get(&(row, pick.remnant.checksum)).is_none_or(|(_, counts)| *counts == number);
        if counts {
            picks.push(pick);
        }
    }
    let last = picks.last().map_or(Slot(0), |it| it.remnant.position.slot());
    ties.sort_by_key(|it| (it.remnant.position, it.remnant.checksum));
    ties.retain(|it| it.remnant.checksum != 0);
    for (place, mut tie) in (last.0 + 1..).zip(ties) {
        (tie.remnant.position, tie.remnant.stamp) = (Slot(place).into(), place);
        picks.push(tie);
    }
    Ok(picks)
}

/// Those that bind most of what is known of a position.
fn best_of(candidates: &[Pick]) -> Vec<&Pick> {
    let highest = candidates.iter().map(|it| it.remnant.standing).max();
    let highest = highest.filter(|_| holds(Rule::HighestBallotSalvaged));
    candidates.iter().filter(|it| highest.is_none_or(|highest| it.remnant.standing == highest)).collect()
}

/// Of those that bind alike, one of the value of which there are most.
fn first_of<'a>(best: &[&'a Pick]) -> Option<&'a Pick> {
    let votes = |name| best.iter().filter(|it| it.remnant.checksum == name).count();
    let key = |it: &&&Pick| (votes(it.remnant.checksum), std::cmp::Reverse(it.remnant.checksum));
    best.iter().max_by_key(key).copied()
}

/// Where in its row each batch counts, of all positions of which it is the value, executed or not; first of all where it is known to be
/// chosen.
fn repeated<'a>(known: impl Iterator<Item = &'a Vec<Pick>>) -> BTreeMap<(u8, u64), (bool, u64)> {
    let mut places = BTreeMap::new();
    for Pick { remnant: Remnant { position, standing, checksum, .. }, .. } in
        known.filter_map(|candidates| first_of(&best_of(candidates)))
    {
        let place = (*standing == Standing::Chosen, position.number);
        let known = places.entry((position.row, *checksum)).or_insert(place);
        *known = place.max(*known);
    }
    // A no-op is no batch.
    places.retain(|(_, checksum), _| *checksum != 0);
    places
}

/// One value and one order at most are proposed so.
fn is_single(standing: Standing) -> bool {
    matches!(standing, Standing::Chosen | Standing::Accepted { is_classic: true, .. })
}
