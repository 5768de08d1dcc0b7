//! Visibility: of two instances that interfere and are committed with their batches, one depends on the other; and every replica that
//! has committed an instance has it with the same value.

use std::collections::BTreeMap;

use panch_wire::frame::Frame;
use panch_wire::ids::Position;

use super::super::{Dependencies, Epaxos, Footprint};
use crate::testing::cluster::Cluster;

/// What was seen to be committed.
#[derive(Default)]
pub(super) struct Visible {
    committed: BTreeMap<Position, (u64, Dependencies, Option<Frame>)>,
    /// Instances that were compared with all others.
    compared: BTreeMap<Position, (Dependencies, Footprint)>,
}

impl Visible {
    /// Looks at everything that is in memory anywhere.
    pub(super) fn look(&mut self, cluster: &Cluster<Epaxos>) {
        for id in cluster.ids().filter(|id| cluster.is_up(*id)) {
            for (position, instance) in &cluster.protocol(id).instances {
                let has_left = !instance.noop && instance.frame.is_none();
                if !instance.is_committed() || instance.unannounced || has_left {
                    continue;
                }
                let stamp = if instance.noop { 0 } else { instance.stamp };
                let value = (stamp, instance.deps, instance.body().cloned());
                let known = self.committed.entry(*position).or_insert_with(|| value.clone());
                assert_eq!(*known, value, "agreement: replica {id} commits another value at {position:?}");
                self.compare(*position);
            }
        }
    }

    fn compare(&mut self, position: Position) {
        let (_, deps, frame) = &self.committed[&position];
        let Some(frame) = frame.as_ref().filter(|_| !self.compared.contains_key(&position)) else { return };
        let mut footprint = Footprint::default();
        footprint.fill(frame);
        for (other, (other_deps, other_footprint)) in &self.compared {
            assert!(
                deps.contains(*other)
                    || other_deps.contains(position)
                    || !footprint.interferes(other_footprint),
                "visibility: {position:?} and {other:?} interfere and neither depends on the other"
            );
        }
        self.compared.insert(position, (*deps, footprint));
    }

    /// How many instances were compared.
    pub(super) fn count(&self) -> usize {
        self.compared.len()
    }
}
