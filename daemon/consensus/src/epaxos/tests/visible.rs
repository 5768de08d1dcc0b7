//! Visibility: of two instances that interfere and are committed with their batches, one depends on the other; and every replica that
//! has committed an instance has it with the same value.

use std::collections::BTreeMap;

use panch_wire::frame::Frame;
use panch_wire::ids::Position;

use super::super::{Dependencies, Epaxos, Footprint};
use crate::testing::cluster::Cluster;

/// What was seen to be committed at a position.
#[derive(Clone)]
struct Seen {
    stamp: u64,
    frame: Option<Frame>,
    /// The dependencies that all name who have committed it, and those that any does.
    least: Dependencies,
    most: Dependencies,
}

/// What was seen to be committed.
#[derive(Default)]
pub(super) struct Visible {
    committed: BTreeMap<Position, Seen>,
    /// Instances that were compared with all others.
    compared: BTreeMap<Position, Footprint>,
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
                let (deps, frame) = (instance.deps, instance.body().cloned());
                let seen = self.committed.entry(*position).or_insert_with(|| Seen {
                    stamp,
                    frame: frame.clone(),
                    least: deps,
                    most: deps,
                });
                assert_eq!(
                    (seen.stamp, &seen.frame),
                    (stamp, &frame),
                    "agreement: replica {id} commits another value at {position:?}"
                );
                let before = (seen.least, seen.most);
                seen.most.merge(&deps);
                for (least, number) in seen.least.0.iter_mut().zip(&deps.0) {
                    *least = (*least).min(*number);
                }
                let is_wider = before != (seen.least, seen.most);
                self.compare(*position, is_wider);
            }
        }
    }

    /// Of two that interfere, one depends on the other, whoever is asked: dependencies may differ in what does not interfere.
    fn compare(&mut self, position: Position, again: bool) {
        let Seen { frame, least, most, .. } = &self.committed[&position];
        let is_new = again || !self.compared.contains_key(&position);
        let Some(frame) = frame.as_ref().filter(|_| is_new) else { return };
        let mut footprint = Footprint::default();
        footprint.fill(frame);
        let interfering =
            |(other, touched): &(&Position, &Footprint)| **other != position && footprint.interferes(touched);
        for (other, _) in self.compared.iter().filter(interfering) {
            let its = &self.committed[other];
            let depends = least.contains(*other) || its.least.contains(position);
            assert!(
                depends,
                "visibility: {position:?} and {other:?} interfere and neither depends on the other"
            );
            assert!(
                least.contains(*other) == most.contains(*other)
                    && its.least.contains(position) == its.most.contains(position),
                "agreement: {position:?} and {other:?} interfere and replicas differ in which depends on the other"
            );
        }
        self.compared.insert(position, footprint);
    }

    /// How many instances were compared.
    pub(super) fn count(&self) -> usize {
        self.compared.len()
    }
}
