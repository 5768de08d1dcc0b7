//! Batches that clients send straight to the acceptors.
//!
//! A client takes the proposer's part: it seals its own batch and sends the same bytes to every replica; each votes at once, and
//! the replica that the client named as the batch's home executes and answers. Nobody has chosen a slot: every acceptor takes the
//! next free one of the home's stripe, or, free for all, of all. What collides is repaired as ever.
//!
//! Invariants:
//! * An acceptor votes as it would if the home had proposed the batch and left the slot open.
//! * The home has the batch among its own: what loses its slot, or sees the plan change, gets another place from there. Other
//!   replicas owe it nothing beyond their votes; a slot with votes is finished by the coordinator, whatever becomes of the client.
//! * Without a plan that lets acceptors place the home's batches, or with too many slots open, only the home acts, and proposes as
//!   ever.
//! * A client's batch may be chosen again after the home has forgotten it. Its commands take effect through their session, once.

use panch_wire::frame::Frame;
use panch_wire::ids::{BatchId, Slot};

use super::proposer::Fate;
use super::round::{ValueName, Vote};
use super::{Fast, Role};
use crate::protocol::Effects;

/// So many of the latest values are looked at for a batch that comes late: it comes within a round trip or two of the others'.
const LATE_MAX: usize = 64;

/// What is known of a batch that comes in.
enum Known {
    /// Chosen in this slot, which is not committed.
    Chosen(Slot),
    /// Committed.
    Committed,
    /// Nothing.
    New,
}

impl Fast {
    pub(super) fn on_client_batch(&mut self, frame: Frame, effects: &mut Effects<Self>) {
        let home = frame.id().proposer;
        let name = ValueName::of(Some(&frame));
        let known = self.look_up(name);
        // With so much in flight the home sees to the order. Otherwise clients in a hurry would leave little but collisions.
        let is_crowded = self.slots.last().0 - self.commit().0 >= self.in_flight_max();
        let plan = self.plan.filter(|plan| plan.mode.is_placed_by_acceptors(home) && !is_crowded);
        if home == self.me() {
            let fate = match known {
                Known::Chosen(slot) => Fate::Chosen(slot),
                Known::New if plan.is_some() => Fate::Sent,
                // What was executed before the home knew whom to answer is chosen once more, and then answered.
                Known::Committed | Known::New => Fate::Unplaced,
            };
            self.take_batch_as(frame.clone(), fate);
        }
        if let (Some(plan), Known::New) = (plan, known) {
            self.vote_in_free_slot(plan, &frame, effects);
        }
    }

    /// As coordinator: a client's batch is chosen in `slot`. Where else it has votes, nobody will propose it any more.
    pub(super) fn recover_strays(&mut self, slot: Slot, name: ValueName, effects: &mut Effects<Self>) {
        if self.role != Role::Coordinator || !name.batch().is_some_and(BatchId::is_of_client) {
            return;
        }
        while let Some(stray) = self.next_stray(slot, name) {
            self.recover(stray, effects);
        }
    }

    fn next_stray(&self, slot: Slot, name: ValueName) -> Option<Slot> {
        let mut others = self.slots.from(self.commit()).filter(|(other, _)| *other != slot);
        let stray = others.find(|(other, open)| open.has_vote_for(name) && self.may_give_up(*other));
        stray.map(|(stray, _)| stray)
    }

    /// As coordinator: a vote for a client's batch that was chosen elsewhere is one that no others follow.
    pub(super) fn look_for_stray(&mut self, slot: Slot, vote: Vote, effects: &mut Effects<Self>) {
        let is_client = vote.name.batch().is_some_and(BatchId::is_of_client);
        if is_client && self.role == Role::Coordinator && self.may_give_up(slot) {
            let is_stray = match self.look_up(vote.name) {
                Known::Chosen(other) => other != slot,
                Known::Committed => true,
                Known::New => false,
            };
            if is_stray {
                self.recover(slot, effects);
            }
        }
    }

    fn look_up(&self, name: ValueName) -> Known {
        let open = self.slots.from(self.commit()).find(|(_, open)| open.chosen == Some(name));
        if let Some((slot, _)) = open {
            return Known::Chosen(slot);
        }
        let mut latest = self.slots.tail_backwards().take(LATE_MAX);
        let committed = latest.any(|(_, value)| ValueName::of_value(value) == name);
        if committed { Known::Committed } else { Known::New }
    }
}
