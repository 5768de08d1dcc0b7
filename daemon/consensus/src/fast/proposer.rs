//! Proposing: own stripes, skips, forwarding, and batches that lost their slot.
//!
//! In stripes a proposer owns every `k`-th slot and chooses the slot itself, so two proposers never meet. One that sees
//! votes above its next slot has nothing to gain from waiting: it fills its slots below with no-ops in one message.
//!
//! Invariants:
//! * A batch gets a second slot only when its first is known to hold another value, or lies where a new term's first phase
//!   found nothing (T-F6). Whatever happens, executing skips a batch that it has executed.
//! * A slot is used once per incarnation and term by its proposer.
//! * The list is bounded, by the batcher as far as own batches go; of others', what does not fit is proposed again by whoever
//!   waits for it.

use std::collections::VecDeque;

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use super::acceptor::first_in_stripe;
use super::message::{Forward, Mode, Plan, Propose, Skip};
use super::round::ValueName;
use super::slots::SPAN_MAX;
use super::{Fast, Role, Timer};
use crate::protocol::{Counters, Dest, Effects};

/// Waiting for the fate of an attempt doubles at most so often.
const DOUBLINGS_MAX: u32 = 4;

/// Where a batch is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// To be proposed.
    Unplaced,
    /// Proposed in this slot.
    Placed(Slot),
    /// Sent to where somebody else chooses the slot.
    Sent,
    /// If it was placed by an earlier term, it is decided once this slot is committed.
    Waiting(Slot),
    /// Chosen in this slot.
    Chosen(Slot),
}

#[derive(Clone, Debug)]
struct Proposal {
    frame: Frame,
    name: ValueName,
    fate: Fate,
    attempt: u32,
    sent: Instant,
    /// Somebody has voted for it there, where it may still be chosen: the place to propose it in if it has lost another.
    hint: Option<Slot>,
}

impl Proposal {
    /// Its slot holds something else.
    fn lose(&mut self, counters: &mut Counters) {
        self.fate = Fate::Unplaced;
        counters.moved += 1;
        counters.direct_moved += u64::from(self.frame.id().is_of_client());
    }
}

/// A replica's batches on their way, oldest first.
#[derive(Clone, Default, Debug)]
pub(super) struct Proposer {
    proposals: VecDeque<Proposal>,
    /// In stripes: the own slots below were used or skipped.
    next: Slot,
}

impl Proposer {
    /// The batch of that name, if it is one of those on their way.
    pub(super) fn batch(&self, name: ValueName) -> Option<Frame> {
        let id = name.batch()?;
        let found = self.proposals.iter().find(|proposal| proposal.frame.id() == id && proposal.name == name);
        found.map(|proposal| proposal.frame.clone())
    }

    /// The first batch that has not been chosen.
    pub(super) fn oldest(&self) -> Option<Frame> {
        let waits = |proposal: &&Proposal| !matches!(proposal.fate, Fate::Chosen(_));
        self.proposals.iter().find(waits).map(|proposal| proposal.frame.clone())
    }

    /// Forgets what others asked this replica to propose.
    pub(super) fn keep_own(&mut self, me: ReplicaId) {
        self.proposals.retain(|proposal| proposal.frame.id().proposer == me);
    }
}

impl Fast {
    /// The most batches or slots in flight over all proposers.
    pub(super) fn in_flight_max(&self) -> u64 {
        (self.group.replica_count * self.tuning.pipeline_depth * 2) as u64
    }

    pub(super) fn on_own_batch(&mut self, frame: Frame) {
        self.take_batch(frame);
    }

    pub(super) fn on_forward(&mut self, body: Option<Frame>, effects: &mut Effects<Self>) {
        let Some(frame) = body else { return };
        if self.role != Role::Coordinator {
            return;
        }
        match self.plan {
            Some(Plan { mode: Mode::Classic, .. }) => {
                self.propose_classic(frame, effects);
            }
            Some(_) => self.take_batch(frame),
            None => {}
        }
    }

    fn take_batch(&mut self, frame: Frame) {
        self.take_batch_as(frame, Fate::Unplaced);
    }

    pub(super) fn take_batch_as(&mut self, frame: Frame, fate: Fate) {
        let name = ValueName::of(Some(&frame));
        // Not by the batch's own name: two clients may have given it to different batches.
        let known = self.proposals_mut().any(|proposal| proposal.name == name);
        // Its own batches are few enough; those of clients and of others must not take their places.
        let is_own = frame.id().proposer == self.me() && !frame.id().is_of_client();
        if known || !is_own && self.proposer.proposals.len() as u64 >= self.in_flight_max() {
            return;
        }
        let attempt = u32::from(fate == Fate::Sent);
        self.proposer.proposals.push_back(Proposal {
            frame,
            name,
            fate,
            attempt,
            sent: self.now,
            hint: None,
        });
        self.due.place = true;
    }

    fn proposals_mut(&mut self) -> impl Iterator<Item = &mut Proposal> {
        self.proposer.proposals.iter_mut()
    }

    /// How long an attempt may take.
    fn patience(&self, attempt: u32) -> Duration {
        3 * self.tuning.slow_after * (1 << attempt.saturating_sub(1).min(DOUBLINGS_MAX))
    }

    /// The plan of a new term is known: what was on its way is looked at anew.
    pub(super) fn follow_plan(&mut self, effects: &mut Effects<Self>) {
        let Some(plan) = self.plan else { return };
        self.proposer.next = plan.from_slot;
        let decided = plan.from_slot.prev();
        let commit = self.commit();
        for proposal in self.proposals_mut() {
            proposal.fate = match proposal.fate {
                Fate::Chosen(slot) => Fate::Chosen(slot),
                _ if !holds(Rule::FastSecondSlotAfterLoss) => Fate::Unplaced,
                // The coordinator decides every slot below the plan's first, and found nothing from there on.
                Fate::Placed(slot) if slot <= decided => Fate::Placed(slot),
                Fate::Sent | Fate::Waiting(_) if commit < decided => Fate::Waiting(decided),
                _ => Fate::Unplaced,
            };
        }
        self.due.place = true;
        effects.repropose();
    }

    /// `name` was chosen in `slot`.
    pub(super) fn settle_proposals(&mut self, slot: Slot, name: ValueName) {
        let mut lost = false;
        for proposal in self.proposer.proposals.iter_mut() {
            if proposal.name == name {
                proposal.fate = Fate::Chosen(slot);
            } else if proposal.fate == Fate::Placed(slot) {
                proposal.lose(&mut self.counters);
                lost = true;
            }
        }
        self.due.place |= lost;
        self.find_losers(slot, name);
    }

    /// Where acceptors chose the slots: batches that were voted for in `slot`, or once somewhere else, have lost. Those with votes
    /// in another slot, too few by themselves, are proposed there.
    fn find_losers(&mut self, slot: Slot, name: ValueName) {
        let Some(chosen) = self.slots.get(slot) else { return };
        let (now, patience) = (self.now, self.tuning.slow_after);
        for proposal in &mut self.proposer.proposals {
            if proposal.fate != Fate::Sent || proposal.name == name {
                continue;
            }
            // After a while a vote for it anywhere would be known.
            let was_here = chosen.has_vote_for(proposal.name) || chosen.voted_before.contains(&proposal.name);
            let is_late = now.since(proposal.sent) >= patience;
            let mut open = self.slots.from(self.slots.commit()).filter(|(_, open)| open.chosen.is_none());
            let hint = open.find(|(_, open)| open.has_vote_for(proposal.name)).map(|(slot, _)| slot);
            if was_here || is_late && hint.is_none() {
                proposal.lose(&mut self.counters);
                proposal.hint = hint;
                self.due.place = true;
            }
        }
    }

    /// More is committed: done batches leave, and those whose old slots are decided by now are placed again.
    pub(super) fn after_commit(&mut self) {
        let commit = self.commit();
        let proposer = &mut self.proposer;
        proposer.proposals.retain(|proposal| !matches!(proposal.fate, Fate::Chosen(slot) if slot <= commit));
        for proposal in proposer.proposals.iter_mut() {
            match proposal.fate {
                Fate::Waiting(slot) | Fate::Placed(slot) if slot <= commit => {
                    proposal.fate = Fate::Unplaced;
                    self.due.place = true;
                }
                Fate::Unplaced => self.due.place = true,
                _ => {}
            }
        }
    }

    /// Proposes what has no place yet, and skips own slots that others wait for.
    pub(super) fn place_proposals(&mut self, effects: &mut Effects<Self>) {
        let Some(plan) = self.plan else { return };
        let mut placed = false;
        for index in 0..self.proposer.proposals.len() {
            if self.proposer.proposals[index].fate == Fate::Unplaced {
                if !self.place(index, plan, effects) {
                    break;
                }
                placed = true;
            }
        }
        self.skip_own_slots(plan, effects);
        if placed || !self.proposer.proposals.is_empty() {
            self.arm_propose();
        }
    }

    fn arm_propose(&mut self) {
        let waiting = |proposal: &&Proposal| !matches!(proposal.fate, Fate::Chosen(_));
        let proposals = self.proposer.proposals.iter().filter(waiting);
        match proposals.map(|proposal| proposal.sent + self.patience(proposal.attempt)).min() {
            Some(at) => self.timers.arm(Timer::Propose, at.max(self.now + self.tuning.slow_after)),
            None => self.timers.disarm(Timer::Propose),
        }
    }

    /// Proposes one batch; false if there is no room.
    fn place(&mut self, index: usize, plan: Plan, effects: &mut Effects<Self>) -> bool {
        let commit = self.commit();
        let hint = self.proposer.proposals[index].hint.take();
        let hint = hint.filter(|slot| *slot > commit && covers(plan, *slot));
        let fate = match plan.mode {
            _ if hint.is_some() => hint.map_or(Fate::Sent, Fate::Placed),
            Mode::FreeForAll => Fate::Sent,
            Mode::Stripes(_) if plan.mode.stripe(self.me()).is_some() => match self.take_own_slot(plan) {
                Some(slot) => Fate::Placed(slot),
                None => return false,
            },
            _ => Fate::Sent,
        };
        let now = self.now;
        let proposal = &mut self.proposer.proposals[index];
        proposal.fate = fate;
        proposal.attempt += 1;
        proposal.sent = now;
        self.send_proposal(index, plan, effects);
        true
    }

    fn send_proposal(&mut self, index: usize, plan: Plan, effects: &mut Effects<Self>) {
        let proposal = &self.proposer.proposals[index];
        let attempt = proposal.attempt;
        let propose = |slot| Propose { plan, slot, attempt };
        match proposal.fate {
            Fate::Placed(slot) => effects.send(Dest::All, propose(Some(slot)), Some(&proposal.frame)),
            Fate::Sent if plan.mode.is_placed_by_acceptors(self.group.me) => {
                effects.send(Dest::All, propose(None), Some(&proposal.frame));
            }
            Fate::Sent if self.role == Role::Coordinator => {
                let frame = proposal.frame.clone();
                let slot = self.propose_classic(frame, effects);
                self.proposer.proposals[index].fate = slot.map_or(Fate::Unplaced, Fate::Placed);
            }
            Fate::Sent => effects.send(Dest::One(plan.term.owner()), Forward, Some(&proposal.frame)),
            Fate::Unplaced | Fate::Waiting(_) | Fate::Chosen(_) => {}
        }
    }

    /// The next slot of the own stripe in which nothing is known to happen.
    fn take_own_slot(&mut self, plan: Plan) -> Option<Slot> {
        let slot = self.next_own_slot(plan)?;
        if slot.0 > self.commit().0 + SPAN_MAX / 2 {
            return None;
        }
        self.proposer.next = slot.next();
        Some(slot)
    }

    fn next_own_slot(&self, plan: Plan) -> Option<Slot> {
        let remainder = plan.mode.stripe(self.me())?;
        let first = self.proposer.next.max(self.commit().next());
        let mut slot = first_in_stripe(first, plan.mode.step(), remainder);
        while self.is_in_use(slot) {
            slot = Slot(slot.0 + plan.mode.step());
        }
        Some(slot)
    }

    /// Others have gone on to higher slots: the own ones below become no-ops.
    fn skip_own_slots(&mut self, plan: Plan, effects: &mut Effects<Self>) {
        let Some(first) = self.next_own_slot(plan) else { return };
        let horizon = Slot(self.horizon.0.min(self.commit().0 + SPAN_MAX));
        if horizon < first {
            return;
        }
        self.proposer.next = horizon.next();
        let step = plan.mode.step();
        let mut first = first;
        while first <= horizon {
            // A run of slots in which nothing is known to happen: acceptors may have begun to vote for clients' batches in others.
            let slots = (first.0..=horizon.0).step_by(step as usize).map(Slot);
            let count = slots.take_while(|slot| !self.is_in_use(*slot)).count() as u64;
            if count > 0 {
                effects.send(Dest::All, Skip { plan, first, count }, None);
            }
            first = Slot(first.0 + (count + 1) * step);
        }
    }

    fn is_in_use(&self, slot: Slot) -> bool {
        self.slots.get(slot).is_some_and(|open| open.is_voted() || open.chosen.is_some())
    }

    /// Attempts that took too long are repeated.
    pub(super) fn retry_proposals(&mut self, effects: &mut Effects<Self>) {
        if let Some(plan) = self.plan {
            for index in 0..self.proposer.proposals.len() {
                let proposal = &self.proposer.proposals[index];
                let overdue = self.now.since(proposal.sent) >= self.patience(proposal.attempt);
                if !overdue || matches!(proposal.fate, Fate::Chosen(_) | Fate::Waiting(_)) {
                    continue;
                }
                if matches!(proposal.fate, Fate::Placed(slot) if !covers(plan, slot)) {
                    // The coordinator decides that slot without help.
                    continue;
                }
                let now = self.now;
                let proposal = &mut self.proposer.proposals[index];
                proposal.attempt += 1;
                proposal.sent = now;
                if proposal.fate == Fate::Unplaced {
                    self.place(index, plan, effects);
                } else {
                    self.send_proposal(index, plan, effects);
                }
            }
        }
        self.arm_propose();
    }
}

/// Whether `slot` is in use by proposers under this plan.
fn covers(plan: Plan, slot: Slot) -> bool {
    plan.mode.is_fast() && slot >= plan.from_slot
}
