//! Decided batches that wait for an earlier one of their proposer.
//!
//! Part of the replicated state: every replica holds the same batches after the same log, so they are under the digest
//! and in the snapshot. Their number is bounded by `HELD_MAX` per proposer, and they go when the proposer starts anew.

use std::collections::BTreeMap;

use panch_wire::frame::Frame;
use panch_wire::ids::ReplicaId;

use crate::kv::digest;

const DIGEST_HELD: u64 = 6;

/// Batches by proposer and counter.
#[derive(Debug, Default)]
pub(crate) struct Held(BTreeMap<(ReplicaId, u64), Frame>);

impl Held {
    /// Keeps a batch; false if it is kept already.
    pub(crate) fn insert(&mut self, batch: Frame) -> bool {
        let id = batch.id();
        self.0.insert((id.proposer, id.counter), batch).is_none()
    }

    pub(crate) fn take(&mut self, proposer: ReplicaId, counter: u64) -> Option<Frame> {
        self.0.remove(&(proposer, counter))
    }

    /// The proposer's earlier incarnation is over: nobody will propose what its batches wait for.
    pub(crate) fn clear(&mut self, proposer: ReplicaId) {
        self.0.retain(|(of, _), _| *of != proposer);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Frame> {
        self.0.values()
    }

    pub(crate) fn digest(&self) -> u64 {
        self.0.iter().fold(0u64, |sum, ((proposer, counter), batch)| {
            sum.wrapping_add(digest::of_words(
                DIGEST_HELD,
                [u64::from(proposer.0), *counter, batch.checksum()],
            ))
        })
    }
}
