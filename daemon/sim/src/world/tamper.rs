//! A disk gives back something sound that is not what was written: the state in a snapshot is another.

use panch_replica::snapshot::Restored;
use panch_replica::transfer::CHUNK_SIZE;
use panch_wire::command::{Command, CommandKind};
use panch_wire::ids::GroupId;

use super::node::{Node, State};
use super::{Shared, World};
use crate::disk::Name;

impl Node {
    fn change_state(&mut self, shared: &mut Shared, key: &str, change: u8) -> bool {
        assert!(matches!(self.state, State::Down), "the disk of a running node is its own");
        let group = GroupId(0);
        let newest = self.snapshot_files().newest.into_iter().find(|(of, _)| *of == group);
        let Some((_, slot)) = newest else { return false };
        let found = self.load_snapshot(group, slot, shared.settings.replica.hash_seed, false);
        let Ok((file, Restored { covered, stamp, mut machine, .. })) = found else { return false };
        let Some(mut value) = machine.kv().value(key.as_bytes()).map(<[u8]>::to_vec) else { return false };
        // The file keeps its size: the log names that.
        let Some(last) = value.last_mut() else { return false };
        *last = change;
        let (key, value) = (key.as_bytes(), &value[..]);
        let command = Command { kind: CommandKind::Set, flags: 0, session: None, key, value };
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
    /// Changes the state of the first group in the newest snapshot of a node that is down: the value of `key` ends with another
    /// byte. All checksums are right. False if there is no snapshot, or no such key in it.
    pub fn change_state(&mut self, node: usize, key: &str, change: u8) -> bool {
        self.nodes[node].change_state(&mut self.shared, key, change)
    }
}
