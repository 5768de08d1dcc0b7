//! EPaxos: all replicas commit an instance with attributes that order it alike, and of two committed instances that interfere one
//! depends on the other, unless all replicas had executed it before anybody voted for that other [EPaxos §4.3; protocols §5, VI, T-E4, T-E9, T-E17, T-E23].
//!
//! Attributes order an instance alike if they differ in dependencies only that do not interfere with it.

use std::collections::{BTreeMap, BTreeSet};

use panch_consensus::frontier::Frontier;
use panch_wire::ids::{GroupId, Position, ReplicaId, ReplicaSet};

use super::access::{Access, Key};
use crate::inspect::Commitment;

/// As what an instance was committed: the dependencies that all who committed it named, and those that any did.
#[derive(Clone, Copy, Debug)]
struct Committed {
    least: Commitment,
    most: Commitment,
}

impl Committed {
    fn new(commitment: Commitment) -> Self {
        Self { least: commitment, most: commitment }
    }

    /// Takes in what somebody else has committed; false if it is another value, whatever it depends on.
    fn widen(&mut self, commitment: Commitment) -> bool {
        if commitment.noop || self.least.noop {
            return commitment.noop == self.least.noop;
        }
        for (row, number) in commitment.attributes.deps.iter().enumerate() {
            let (least, most) = (&mut self.least.attributes.deps[row], &mut self.most.attributes.deps[row]);
            (*least, *most) = ((*least).min(*number), (*most).max(*number));
        }
        commitment.attributes.stamp == self.least.attributes.stamp
    }

    /// Whether it depends on the other; `None`: some say so, and some do not.
    fn depends(&self, on: Position) -> Option<bool> {
        let names = |commitment: &Commitment| {
            commitment.attributes.deps.get(usize::from(on.row)).is_some_and(|upto| on.number <= *upto)
        };
        (names(&self.least) == names(&self.most)).then(|| names(&self.least))
    }
}

/// What is committed and what it touches.
#[derive(Default)]
pub struct Visibility {
    committed: BTreeMap<(GroupId, Position), Committed>,
    /// What the instances of `by_key` touch.
    accesses: BTreeMap<(GroupId, Position), Access>,
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
        let new = Committed::new(commitment);
        let committed = self.committed.entry((group, position)).or_insert(new);
        let before = *committed;
        if !committed.widen(commitment) {
            return Err(format!(
                "group {}: {position:?} is committed as {before:?} and as {commitment:?}",
                group.0
            ));
        }
        let is_wider = committed.least != before.least || committed.most != before.most;
        if let Some(access) = self.waiting.remove(&(group, position)) {
            self.complete(group, position, &access)
        } else if is_wider && let Some(access) = self.accesses.get(&(group, position)) {
            self.check(group, position, access)
        } else {
            Ok(())
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
        if self.committed.contains_key(&(group, position)) {
            return self.complete(group, position, access);
        }
        self.waiting.insert((group, position), access.clone());
        Ok(())
    }

    fn complete(&mut self, group: GroupId, position: Position, access: &Access) -> Result<(), String> {
        self.check(group, position, access)?;
        for (key, writes) in keys_of(access) {
            self.by_key.entry((group, key.clone())).or_default().push((position, writes));
        }
        self.accesses.insert((group, position), access.clone());
        Ok(())
    }

    /// Checks an instance against all that interfere with it.
    fn check(&self, group: GroupId, position: Position, access: &Access) -> Result<(), String> {
        let own = &self.committed[&(group, position)];
        for (key, writes) in keys_of(access) {
            let others = self.by_key.get(&(group, key.clone())).map_or(&[][..], Vec::as_slice);
            for (other, its_write) in others.iter().filter(|(_, its_write)| writes || *its_write) {
                if *other == position
                    || self.was_over(group, *other, position)
                    || self.was_over(group, position, *other)
                {
                    continue;
                }
                let its = &self.committed[&(group, *other)];
                let what = match (own.depends(*other), its.depends(position)) {
                    (Some(false), Some(false)) => "neither depends on the other",
                    (None, _) | (_, None) => "some say that one depends on the other, and some do not",
                    _ => continue,
                };
                return Err(format!(
                    "group {}: {position:?} and {other:?} interfere at key {} (writes: {writes}, {its_write}) and {what}: {own:?}, {its:?}",
                    group.0,
                    key.escape_ascii()
                ));
            }
        }
        Ok(())
    }
}

/// The keys that are touched, and whether each is written.
fn keys_of(access: &Access) -> impl Iterator<Item = (&Key, bool)> {
    let writes = access.writes.iter().map(|key| (key, true));
    writes.chain(access.reads.difference(&access.writes).map(|key| (key, false)))
}
