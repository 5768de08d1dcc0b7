//! Nothing that was on stable storage is forgotten: neither a promise nor a vote by a restart (unless a snapshot covers
//! it), nor an executed slot by the cluster, even after all nodes lost power [protocols D1, D3, D9, DUR].

use std::collections::BTreeMap;

use panch_replica::core::GroupStatus;
use panch_wire::ids::{GroupId, Slot};

use super::agreement::Agreement;
use super::ledger::{Ledger, Vote};

/// A node lives again; `replayed` holds the votes that its log gave back, oldest first.
///
/// # Errors
/// If it forgot something.
pub fn check_boot(
    ledger: &Ledger,
    node: usize,
    status: &GroupStatus,
    replayed: &[(Slot, Vote)],
) -> Result<(), String> {
    let page = ledger.page(status.group, node);
    let place = format!("node {node} group {} restarted", status.group.0);
    if status.protocol.ballot < page.promised {
        return Err(format!(
            "{place} with promise {:?}, its disk had {:?}",
            status.protocol.ballot, page.promised
        ));
    }
    let back: BTreeMap<Slot, Vote> = replayed.iter().copied().collect();
    for slot in page.votes.range(status.executed.next()..).map(|(slot, _)| *slot) {
        let had = page.latest(slot).expect("a slot in the ledger has a vote");
        let has = back.get(&slot);
        if has.is_none_or(|has| has.ballot < had.ballot || has.ballot == had.ballot && *has != had) {
            return Err(format!("{place} with {has:?} in slot {}, its disk had {had:?}", slot.0));
        }
    }
    Ok(())
}

/// The cluster has come to rest.
///
/// # Errors
/// If a slot that somebody executed is not there any more.
pub fn check_end(agreement: &Agreement, group: GroupId, executed: Slot) -> Result<(), String> {
    let highest = agreement.highest(group);
    if executed >= highest {
        return Ok(());
    }
    Err(format!(
        "group {}: the cluster came to rest at slot {}, but slot {} had been executed",
        group.0, executed.0, highest.0
    ))
}
