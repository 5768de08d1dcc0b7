//! Agreement: a position holds the same value on every replica, for ever [Paxos Made Simple §1; protocols §8]. Where no
//! log orders the values, a batch is decided at one position at most.

use std::collections::BTreeMap;

use panch_consensus::frontier::Frontier;
use panch_wire::ids::{BatchId, GroupId, Position};

use super::Decision;

/// What was executed where first.
#[derive(Default)]
pub struct Agreement {
    /// With the node that executed it first.
    positions: BTreeMap<(GroupId, Position), (Decision, usize)>,
    known: BTreeMap<GroupId, Frontier>,
    places: BTreeMap<(GroupId, BatchId), Position>,
}

impl Agreement {
    /// Whether nobody has executed the position yet.
    pub fn is_new(&self, group: GroupId, position: Position) -> bool {
        !self.positions.contains_key(&(group, position))
    }

    /// A node executed a position.
    ///
    /// # Errors
    /// If another one, or the same before, executed something else there.
    pub fn on_executed(
        &mut self,
        node: usize,
        group: GroupId,
        position: Position,
        decision: Decision,
    ) -> Result<(), String> {
        let (decided, first) = *self.positions.entry((group, position)).or_insert((decision, node));
        self.known.entry(group).or_default().insert(position);
        if decided == decision {
            return Ok(());
        }
        let (mine, other) = (decision.id, decided.id);
        Err(format!(
            "{position:?} of group {}: node {node} executed {mine:?}, node {first} {other:?}",
            group.0
        ))
    }

    /// A batch was executed in a group without a log.
    ///
    /// # Errors
    /// If it was executed at another position too.
    pub fn on_batch(&mut self, group: GroupId, position: Position, batch: BatchId) -> Result<(), String> {
        let first = *self.places.entry((group, batch)).or_insert(position);
        if first == position {
            return Ok(());
        }
        Err(format!("group {}: {batch:?} was executed at {first:?} and at {position:?}", group.0))
    }

    /// Everything in the group that anybody has executed.
    pub fn known(&self, group: GroupId) -> Frontier {
        self.known.get(&group).cloned().unwrap_or_default()
    }
}
