//! What is left of a group if most of its replicas are lost.

use panch_wire::ids::Position;

use super::message::{Numbers, Phase};
use super::{Dependencies, Epaxos};
use crate::ballot::Ballot;
use crate::protocol::{Effects, Value};
use crate::remnant::{Remnant, Standing};

impl Epaxos {
    /// Everything that is known of instances that another replica may not have executed, with its value.
    pub(super) fn known_instances(&self) -> Vec<(Remnant, Value)> {
        let mut left = Vec::new();
        for (position, instance) in &self.instances {
            let (standing, deps, noop) = match instance.phase {
                Phase::Unknown => continue,
                Phase::Seen => (Standing::Known, instance.initial_deps, false),
                Phase::PreAccepted => {
                    let standing = Standing::Accepted { ballot: Ballot::default(), is_classic: false };
                    (standing, instance.deps, false)
                }
                Phase::Accepted => {
                    let standing = Standing::Accepted { ballot: instance.accepted, is_classic: true };
                    (standing, instance.deps, instance.noop)
                }
                Phase::Committed => (Standing::Chosen, instance.deps, instance.noop),
            };
            let value = match &instance.frame {
                _ if noop => Value::Noop,
                Some(frame) => Value::Batch(frame.clone()),
                None => continue,
            };
            let stamp = if noop { 0 } else { instance.stamp };
            let remnant = Remnant { position: *position, standing, stamp, deps, checksum: value.checksum() };
            left.push((remnant, value));
        }
        left
    }

    /// These are chosen, and whatever they depend on of which nothing is left is a no-op.
    pub(super) fn choose_known(&mut self, left: Vec<(Remnant, Value)>, effects: &mut Effects<Self>) {
        let mut upto = Numbers::default();
        for (remnant, value) in left {
            let Remnant { position, stamp, deps, .. } = remnant;
            let known = &mut upto[usize::from(position.row)];
            *known = position.number.max(*known);
            for (known, number) in upto.iter_mut().zip(&deps.0) {
                *known = (*known).max(*number);
            }
            if self.committed.contains(position) {
                continue;
            }
            if let Value::Batch(frame) = &value {
                self.learn(position, stamp, frame);
            }
            self.settle(position, stamp, deps, value == Value::Noop);
            self.release(position, effects);
        }
        for (row, upto) in (0..self.group.replica_count as u8).zip(upto) {
            for number in self.committed.upto(row) + 1..=upto {
                let position = Position { row, number };
                if !self.committed.contains(position) {
                    self.settle(position, 0, Dependencies::default(), true);
                    self.release(position, effects);
                }
            }
        }
        self.drain(effects);
    }
}
