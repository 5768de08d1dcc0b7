//! Batches that are executed and have left memory are read back from the log for the peers that ask for them.
//!
//! Invariants:
//! * Each is read once for all that ask meanwhile; so many at once, the others wait for their turn.

use std::collections::{BTreeMap, VecDeque};

use panch_wire::ids::{Position, ReplicaId, ReplicaSet};

use super::Epaxos;
use super::instance::Instance;
use super::message::Message;
use crate::protocol::{Dest, Effects, Persist, Value};

/// The most batches being read back from the log at once.
const LOAD_COUNT_MAX: usize = 512;

/// Batches on their way from the log to peers that ask.
#[derive(Clone, Default, Debug)]
pub(super) struct Loads {
    /// Whom each is for.
    waiting: BTreeMap<Position, ReplicaSet>,
    /// Those whose turn has not come.
    queue: VecDeque<Position>,
}

impl Loads {
    fn under_way(&self) -> usize {
        self.waiting.len().saturating_sub(self.queue.len())
    }
}

impl Epaxos {
    /// Whether the batch of an executed instance is in the log only. It is read back for `to` then.
    pub(super) fn load_for(
        &mut self,
        to: ReplicaId,
        position: Position,
        effects: &mut Effects<Self>,
    ) -> bool {
        let left = |instance: &Instance| {
            instance.executed && instance.is_committed() && !instance.noop && instance.frame.is_none()
        };
        if to == self.group.me || !self.instances.get(&position).is_some_and(left) {
            return false;
        }
        if let Some(waiting) = self.loads.waiting.get_mut(&position) {
            waiting.insert(to);
        } else if self.loads.waiting.len() < self.load_count_max() {
            let mut waiting = ReplicaSet::default();
            waiting.insert(to);
            self.loads.waiting.insert(position, waiting);
            self.loads.queue.push_back(position);
            self.start_loads(effects);
        }
        true
    }

    /// As much as all peers together ask for at once: a window of each row.
    fn load_count_max(&self) -> usize {
        let count = self.group.replica_count;
        count * count * self.tuning.catchup_window.max(1)
    }

    /// Reads from the log what waits for that, as much as may be at once.
    fn start_loads(&mut self, effects: &mut Effects<Self>) {
        while self.loads.under_way() < LOAD_COUNT_MAX
            && let Some(position) = self.loads.queue.pop_front()
        {
            effects.load(position);
        }
    }

    /// A batch came back from the log.
    pub(super) fn on_loaded(
        &mut self,
        position: Position,
        value: Option<Value>,
        effects: &mut Effects<Self>,
    ) {
        let Some(waiting) = self.loads.waiting.remove(&position) else { return };
        self.start_loads(effects);
        let commit = self.commit_message(position).map(|(message, ..)| message);
        for to in waiting.iter() {
            match (&value, commit) {
                (Some(Value::Batch(frame)), Some(Message::Commit(commit))) => {
                    effects.send_after(Persist::default(), Dest::One(to), commit, Some(frame));
                }
                _ => self.send_covered(to, position, effects),
            }
        }
    }
}
