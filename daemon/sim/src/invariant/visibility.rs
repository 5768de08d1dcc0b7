//! EPaxos: all replicas commit an instance with the same attributes, and of two committed instances that interfere one
//! depends on the other, unless all replicas had executed it before anybody voted for that other [EPaxos §4.3; protocols §5, VI, T-E4, T-E9, T-E17, T-E23].

use std::collections::{BTreeMap, BTreeSet};

use panch_consensus::frontier::Frontier;
use panch_wire::ids::{GroupId, Position, ReplicaId, ReplicaSet};

use super::access::{Access, Key};
use crate::inspect::{Attributes, Commitment};

/// What is committed and what it touches.
#[derive(Default)]
pub struct Visibility {
    committed: BTreeMap<(GroupId, Position), Commitment>,
    /// Instances that are committed and whose keys are known, by key, each with whether it writes the key.
    by_key: BTreeMap<(GroupId, Key), Vec<(Position, bool)>>,
    waiting: BTreeMap<(GroupId, Position), Access>,
    known: BTreeSet<(GroupId, Position)>,
    /// When the first vote for an instance was written.
    voted: BTreeMap<(GroupId, Position), u64>,
    /// Who has executed an instance, and when the last one had.
    executed: BTreeMap<(GroupId, Position), (ReplicaSet, u64)>,
    node_count: usize,
    /// Counts what was noted.
    clock: u64,
}

impl Visibility {
    /// Nothing is committed yet.
    pub fn new(node_count: usize) -> Self {
        Self { node_count, ..Self::default() }
    }

    /// A node has lost its disk: what it had executed, it has not.
    pub fn forget(&mut self, node: usize) {
        for (nodes, _) in self.executed.values_mut() {
            nodes.remove(ReplicaId(node as u8));
        }
    }

    /// A vote for an instance was written somewhere.
    pub fn on_voted(&mut self, group: GroupId, position: Position) {
        self.clock += 1;
        self.voted.entry((group, position)).or_insert(self.clock);
    }

    /// A node has executed an instance, by itself or in a snapshot.
    fn note_executed(&mut self, node: usize, group: GroupId, position: Position) {
        self.clock += 1;
        let (nodes, at) = self.executed.entry((group, position)).or_default();
        if nodes.insert(ReplicaId(node as u8)) {
            *at = self.clock;
        }
    }

    /// A node's state is that of a snapshot.
    pub fn on_restored(&mut self, node: usize, group: GroupId, covered: &Frontier) {
        let held: Vec<_> = self
            .known
            .iter()
            .filter(|(of, position)| *of == group && covered.contains(*position))
            .copied()
            .collect();
        for (_, position) in held {
            self.note_executed(node, group, position);
        }
    }

    /// Whether all nodes had executed `first` before anybody voted for `second`: then nobody need report it any more.
    fn was_over(&self, group: GroupId, first: Position, second: Position) -> bool {
        let (Some((nodes, at)), Some(voted)) =
            (self.executed.get(&(group, first)), self.voted.get(&(group, second)))
        else {
            return false;
        };
        nodes.count() == self.node_count && at < voted
    }

    /// Somebody says that an instance is committed.
    ///
    /// # Errors
    /// If somebody said otherwise before, or an interfering instance and this one do not know each other.
    pub fn on_commitment(&mut self, group: GroupId, commitment: Commitment) -> Result<(), String> {
        let position = commitment.position;
        let first = *self.committed.entry((group, position)).or_insert(commitment);
        let same = first.noop == commitment.noop && (first.noop || first == commitment);
        if !same {
            return Err(format!(
                "group {}: {position:?} is committed as {first:?} and as {commitment:?}",
                group.0
            ));
        }
        match self.waiting.remove(&(group, position)) {
            Some(access) => self.complete(group, first, &access),
            None => Ok(()),
        }
    }

    /// Somebody executed an instance that touches this.
    ///
    /// # Errors
    /// As [`Visibility::on_commitment`].
    pub fn on_executed(
        &mut self,
        node: usize,
        group: GroupId,
        position: Position,
        access: &Access,
    ) -> Result<(), String> {
        self.note_executed(node, group, position);
        if !self.known.insert((group, position)) {
            return Ok(());
        }
        match self.committed.get(&(group, position)).copied() {
            Some(commitment) => self.complete(group, commitment, access),
            None => {
                self.waiting.insert((group, position), access.clone());
                Ok(())
            }
        }
    }

    fn complete(&mut self, group: GroupId, commitment: Commitment, access: &Access) -> Result<(), String> {
        let Commitment { position, attributes, .. } = commitment;
        let depends = |attributes: &Attributes, on: Position| {
            attributes.deps.get(usize::from(on.row)).is_some_and(|upto| on.number <= *upto)
        };
        let keys = access.writes.iter().map(|key| (key, true));
        let keys = keys.chain(access.reads.difference(&access.writes).map(|key| (key, false)));
        for (key, writes) in keys {
            let others = self.by_key.get(&(group, key.clone())).map_or(&[][..], Vec::as_slice);
            for (other, its_write) in others.iter().filter(|(_, its_write)| writes || *its_write) {
                let its = &self.committed[&(group, *other)].attributes;
                let blind = !depends(&attributes, *other) && !depends(its, position);
                if blind && !self.was_over(group, *other, position) && !self.was_over(group, position, *other)
                {
                    return Err(format!(
                        "group {}: {position:?} and {other:?} interfere at key {} (writes: {writes}, {its_write}) and neither depends on the \
                         other: {attributes:?}, {its:?}",
                        group.0,
                        key.escape_ascii()
                    ));
                }
            }
            self.by_key.entry((group, key.clone())).or_default().push((position, writes));
        }
        Ok(())
    }
}
