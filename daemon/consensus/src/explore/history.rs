//! What was decided and executed so far, and what that forbids.

#[cfg(test)]
mod tests;

use panch_wire::frame::Frame;
use panch_wire::ids::{BatchId, Position};

use super::fingerprint::Fingerprint;
use crate::epaxos::Footprint;
use crate::protocol::{Chosen, Order};

/// The proposals of a search: batches by number.
#[derive(Debug)]
pub(super) struct Batches {
    ids: Vec<BatchId>,
    footprints: Vec<Footprint>,
}

impl Batches {
    pub(super) fn new<'a>(frames: impl Iterator<Item = &'a Frame>) -> Self {
        let (mut ids, mut footprints) = (Vec::new(), Vec::new());
        for frame in frames {
            let mut footprint = Footprint::default();
            footprint.fill(frame);
            ids.push(frame.id());
            footprints.push(footprint);
        }
        Self { ids, footprints }
    }

    fn number(&self, frame: &Frame) -> Option<usize> {
        self.ids.iter().position(|id| *id == frame.id())
    }

    /// Whether all replicas must execute the two in the same order.
    fn are_ordered(&self, order: Order, one: usize, two: usize) -> bool {
        order == Order::Log || self.footprints[one].interferes(&self.footprints[two])
    }
}

/// What all replicas together have decided and executed, over all their lives.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// Position, stamp and batch; `None`: a no-op.
    decided: Vec<(Position, u64, Option<usize>)>,
    /// Bit set of batches executed anywhere.
    executed: u32,
    /// By batch the bit set of those that were executed before it, or before it was proposed.
    earlier: Vec<u32>,
}

/// What one replica has executed in its present life.
#[derive(Clone, Debug, Default)]
pub(super) struct Executed {
    position_count: u64,
    /// In order, each batch once.
    batches: Vec<usize>,
}

impl Executed {
    pub(super) fn add_to(&self, fingerprint: &mut Fingerprint) {
        fingerprint.add(self.position_count);
        self.batches.iter().for_each(|batch| fingerprint.add(*batch as u64));
    }

    pub(super) fn contains(&self, batch: usize) -> bool {
        self.batches.contains(&batch)
    }
}

impl History {
    pub(super) fn new(batch_count: usize) -> Self {
        Self { earlier: vec![0; batch_count], ..Self::default() }
    }

    pub(super) fn add_to(&self, fingerprint: &mut Fingerprint) {
        for (position, stamp, batch) in &self.decided {
            fingerprint.add(position.number << 8 | u64::from(position.row));
            fingerprint.add(*stamp);
            fingerprint.add(batch.map_or(u64::MAX, |batch| batch as u64));
        }
        fingerprint.add(u64::from(self.executed));
        self.earlier.iter().for_each(|batches| fingerprint.add(u64::from(*batches)));
    }

    /// A batch is proposed for the first time: it comes after what was executed and must be in the same order.
    pub(super) fn on_propose(&mut self, batches: &Batches, order: Order, batch: usize) {
        for other in 0..self.earlier.len() {
            if self.executed & 1 << other != 0 && batches.are_ordered(order, batch, other) {
                self.earlier[batch] |= 1 << other;
            }
        }
    }

    /// A replica executes what was decided.
    pub(super) fn on_chosen(
        &mut self,
        batches: &Batches,
        order: Order,
        chosen: &Chosen,
        executed: &mut Executed,
    ) -> Result<(), String> {
        let Chosen { position, stamp, value } = chosen;
        let batch = match value.body() {
            None => None,
            Some(frame) => Some(batches.number(frame).ok_or_else(|| format!("nobody proposed {frame:?}"))?),
        };
        match self.decided.binary_search_by_key(position, |(position, ..)| *position) {
            Ok(place) => {
                let (_, known_stamp, known) = self.decided[place];
                if known != batch || (batch.is_some() && known_stamp != *stamp) {
                    return Err(format!(
                        "{position:?} was decided to hold {known:?} and now holds {batch:?}"
                    ));
                }
            }
            Err(place) => {
                let is_elsewhere = self.decided.iter().any(|(.., other)| batch.is_some() && *other == batch);
                if order == Order::Graph && is_elsewhere {
                    return Err(format!("batch {batch:?} is decided at {position:?} and elsewhere"));
                }
                self.decided.insert(place, (*position, *stamp, batch));
            }
        }
        executed.position_count += 1;
        if order == Order::Log && position.number != executed.position_count {
            return Err(format!("{position:?} is executed out of turn"));
        }
        let Some(batch) = batch.filter(|batch| !executed.contains(*batch)) else { return Ok(()) };
        for &other in &executed.batches {
            if batches.are_ordered(order, other, batch) {
                if self.earlier[other] & 1 << batch != 0 {
                    return Err(format!("batch {batch} comes before batch {other}, and now after it"));
                }
                self.earlier[batch] |= 1 << other;
            }
        }
        executed.batches.push(batch);
        self.executed |= 1 << batch;
        Ok(())
    }
}
