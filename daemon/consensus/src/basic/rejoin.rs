//! Coming back without a disk.
//!
//! Why it is safe, given (H1) to (H3) of [`crate::rejoin`]. A slot beyond the horizon: no promise and no vote of the earlier
//! life there was part of a quorum, since the other members would have the slot open, and none will be. So it is a slot in
//! which this acceptor has said nothing yet, whatever the ballot: promises are per slot, there is none to be kept. A slot at
//! or below the horizon: nothing is promised or accepted there, ever, before it is known to be chosen; and then it is only
//! said to be so. That alone would do for promises and votes; being mute besides makes the log durable first. Own ballots
//! carry the incarnation, so that none of the earlier life is used again; a run of the earlier life counts for nobody.
//! Answers to reads name the horizon at least: what was chosen with a forgotten vote lies below.
//!
//! This replica may propose while it is mute, which takes a quorum of others: that finishes slots that nobody else would.
//! Peers hear of the horizon in [`Progress`](super::message::Progress) and fill the slots below, too.

use panch_wire::ids::{ReplicaId, Slot};

use super::Basic;
use crate::rejoin::Horizon;

impl Basic {
    /// The highest that is known of anything here.
    pub(super) fn own_horizon(&self) -> Horizon {
        let slot = self.last().max(self.open.last()).max(self.used);
        Horizon::of_log(self.highest, slot)
    }

    /// What `peer` said to have learned it has forgotten.
    pub(super) fn forget_peer(&mut self, peer: ReplicaId) {
        self.learning.forget(peer);
        if let Some(proposing) = self.proposing.get_mut(peer.index()) {
            *proposing = None;
        }
    }

    pub(super) fn rejoin_at(&mut self, horizon: &Horizon) {
        self.floor = horizon.slot();
    }

    /// Whether an earlier life of this replica may have promised or accepted something in the slot.
    pub(super) fn is_below_floor(&self, slot: Slot) -> bool {
        slot <= self.floor
    }
}
