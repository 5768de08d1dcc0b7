//! No message claims more than its sender's disk holds [protocols §6, D1; T-C1, T-M14].

use std::collections::BTreeMap;

use panch_consensus::ballot::Ballot;
use panch_wire::ids::{GroupId, Slot};

use super::agreement::Agreement;
use super::ledger::Ledger;
use crate::inspect::Claim;

/// How far the acknowledgements of each replica were checked.
#[derive(Default)]
pub struct Claims(BTreeMap<(GroupId, usize), (Ballot, Slot)>);

impl Claims {
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
            Claim::Promised(ballot) | Claim::Reported(ballot, _, _) if page.promised < ballot => {
                Err(format!("{} before the promise was durable: {ballot:?}", place("sent a promise")))
            }
            Claim::Promised(_) => Ok(()),
            Claim::Reported(_, slot, accepted) => {
                if page.has_voted(slot, accepted) || !agreement.is_new(group, slot) {
                    return Ok(());
                }
                Err(format!(
                    "{} that is not durable: slot {} in {accepted:?}",
                    place("reported a vote"),
                    slot.0
                ))
            }
            Claim::AcceptedUpTo(ballot, upto) => {
                let checked = self.0.entry((group, node)).or_default();
                let from = if checked.0 == ballot { checked.1 } else { Slot(0) };
                for slot in (from.0 + 1..=upto.0).map(Slot) {
                    if agreement.is_new(group, slot) && !page.has_voted(slot, ballot) {
                        return Err(format!(
                            "{} up to slot {} in {ballot:?}, but slot {} is not durable there",
                            place("acknowledged"),
                            upto.0,
                            slot.0
                        ));
                    }
                }
                *checked = (ballot, from.max(upto));
                Ok(())
            }
        }
    }
}
