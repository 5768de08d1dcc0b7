//! No message claims more than its sender's disk holds [protocols §6, D1; T-C1, T-M14].

use std::collections::BTreeMap;

use panch_wire::ids::{GroupId, Slot};

use super::agreement::Agreement;
use super::ledger::Ledger;
use crate::inspect::{Claim, Round};

/// How far the acknowledgements of each replica were checked.
#[derive(Default)]
pub struct Claims(BTreeMap<(GroupId, usize), (Option<Round>, Slot)>);

impl Claims {
    /// A node has lost its disk: what it acknowledges from now on is checked from the beginning.
    pub fn forget(&mut self, node: usize) {
        self.0.retain(|(_, of), _| *of != node);
    }

    /// A node sends a message.
    ///
    /// # Errors
    /// If it claims something that its disk does not hold.
    pub fn check(
        &mut self,
        ledger: &Ledger,
        agreement: &Agreement,
        node: usize,
        group: GroupId,
        claim: Claim,
    ) -> Result<(), String> {
        let page = ledger.page(group, node);
        let place = |what: &str| format!("node {node} {what} in group {}", group.0);
        match claim {
            Claim::Promised(scope, ballot) => {
                let settled = matches!(scope, crate::inspect::Scope::One(position) if !agreement.is_new(group, position));
                if page.promised(scope) >= ballot || settled {
                    return Ok(());
                }
                Err(format!("{} before it was durable: {ballot:?} {scope:?}", place("sent a promise")))
            }
            Claim::Voted(position, round, held) => {
                let vote = page.vote(position, round);
                let fits = vote.is_some_and(|vote| held.is_none_or(|held| held == vote.held));
                if fits || !agreement.is_new(group, position) {
                    return Ok(());
                }
                Err(format!(
                    "{} that is not durable: {position:?} in {round:?} for {held:?}, on the disk {vote:?}",
                    place("reported a vote")
                ))
            }
            Claim::AcceptedUpTo(round, upto) => {
                let checked = self.0.entry((group, node)).or_default();
                let from = if checked.0 == Some(round) { checked.1 } else { Slot(0) };
                for slot in (from.0 + 1..=upto.0).map(Slot) {
                    if agreement.is_new(group, slot.into()) && page.vote(slot.into(), round).is_none() {
                        return Err(format!(
                            "{} up to slot {} in {round:?}, but slot {} is not durable there",
                            place("acknowledged"),
                            upto.0,
                            slot.0
                        ));
                    }
                }
                *checked = (Some(round), from.max(upto));
                Ok(())
            }
        }
    }
}
