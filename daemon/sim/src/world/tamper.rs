//! A disk gives back something sound that is not what was written: the state in a snapshot is another.

use panch_replica::snapshot::Restored;
use panch_replica::transfer::CHUNK_SIZE;
use panch_wire::command::{Command, CommandKind};
use panch_wire::ids::GroupId;

use super::node::{Node, State};
use super::{Shared, World};
use crate::disk::Name;

impl Node {
    fn change_state(&mut self, shared: &mut Shared, key: &str) -> bool {
        assert!(matches!(self.state, State::Down), "the disk of a running node is its own");
        let group = GroupId(0);
        let found = self.newest_snapshot(group, shared.settings.replica.hash_seed);
        let Ok(Some((file, Restored { covered, stamp, mut machine, .. }))) = found else { return false };
        let key = key.as_bytes();
        let command = Command { kind: CommandKind::Set, flags: 0, session: None, key, value: b"changed" };
        machine.apply(stamp, &command, &mut Vec::new());
        machine.begin_snapshot(group, &covered, stamp);
        let mut bytes = Vec::new();
        while !machine.snapshot_chunk(&mut bytes, CHUNK_SIZE) {}
        self.disk.replace(Name::Snapshot(group, file.slot), &bytes);
        shared.invariants.on_changed(self.index);
        shared.trace(|| format!("the state of node {} is changed", self.index));
        true
    }
}

impl World {
    /// Changes the state of the first group in the newest snapshot of a node that is down: there is another key. All checksums are
    /// right. False if there is no snapshot.
    pub fn change_state(&mut self, node: usize, key: &str) -> bool {
        self.nodes[node].change_state(&mut self.shared, key)
    }
}
