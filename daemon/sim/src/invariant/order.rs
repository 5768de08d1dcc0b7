//! Where no log orders the values, what interferes is executed in one order everywhere: the writes of a key in one sequence,
//! and each read of it between the same two of them [protocols §5.8, T-E11, T-E15].

use std::collections::BTreeMap;

use panch_consensus::frontier::Frontier;
use panch_wire::ids::{GroupId, Position};

use super::access::{Access, Key};

/// What all replicas together have shown so far.
#[derive(Default)]
pub struct KeyOrder {
    writes: BTreeMap<(GroupId, Key), Vec<Position>>,
    /// How many writes of the key each read of it has seen.
    reads: BTreeMap<(GroupId, Key, Position), usize>,
    /// How many writes of the key each node holds.
    counts: BTreeMap<(usize, GroupId), BTreeMap<Key, usize>>,
}

impl KeyOrder {
    /// A node executed a batch.
    ///
    /// # Errors
    /// If another did so in another order.
    pub fn on_executed(
        &mut self,
        node: usize,
        group: GroupId,
        position: Position,
        access: &Access,
    ) -> Result<(), String> {
        let counts = self.counts.entry((node, group)).or_default();
        let place = |key: &Key| format!("node {node} group {} key {}", group.0, key.escape_ascii());
        for key in access.reads.difference(&access.writes) {
            let seen = counts.get(key).copied().unwrap_or(0);
            let first = *self.reads.entry((group, key.clone(), position)).or_insert(seen);
            if seen != first {
                return Err(format!(
                    "{}: {position:?} reads after {seen} writes, elsewhere after {first}",
                    place(key)
                ));
            }
        }
        for key in &access.writes {
            let all = self.writes.entry((group, key.clone())).or_default();
            let count = counts.entry(key.clone()).or_default();
            if *count == all.len() {
                all.push(position);
            }
            if all[*count] != position {
                return Err(format!(
                    "{}: write {} is {position:?}, elsewhere {:?}; others: {all:?}",
                    place(key),
                    *count + 1,
                    all[*count]
                ));
            }
            *count += 1;
        }
        Ok(())
    }

    /// A node's state is now that of a snapshot.
    ///
    /// # Errors
    /// If the snapshot holds a write of a key without one before it.
    pub fn on_restored(&mut self, node: usize, group: GroupId, covered: &Frontier) -> Result<(), String> {
        let mut counts = BTreeMap::new();
        for ((of, key), all) in self.writes.iter().filter(|((of, _), _)| *of == group) {
            let count = all.iter().take_while(|position| covered.contains(**position)).count();
            if let Some(position) = all[count..].iter().find(|position| covered.contains(**position)) {
                return Err(format!(
                    "node {node} group {} key {}: a snapshot holds {position:?} without {:?}",
                    of.0,
                    key.escape_ascii(),
                    all[count]
                ));
            }
            counts.insert(key.clone(), count);
        }
        self.counts.insert((node, group), counts);
        Ok(())
    }

    /// The node's process is gone.
    pub fn on_crash(&mut self, node: usize) {
        self.counts.retain(|(of, _), _| *of != node);
    }
}
