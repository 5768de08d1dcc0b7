//! Nothing that was on stable storage is forgotten: neither a promise nor a vote by a restart (unless a snapshot covers
//! it), nor an executed position by the cluster, even after all nodes lost power [protocols D1, D3, D9, DUR].

use panch_consensus::frontier::Frontier;
use panch_replica::status::GroupStatus;
use panch_wire::ids::GroupId;

use super::agreement::Agreement;
use super::ledger::{Ledger, Page};

/// A node lives again and holds `executed`; `replayed` is what its log gave back.
///
/// # Errors
/// If it forgot something.
pub fn check_boot(
    ledger: &Ledger,
    node: usize,
    status: &GroupStatus,
    executed: &Frontier,
    replayed: &Page,
) -> Result<(), String> {
    let page = ledger.page(status.group, node);
    let place = format!("node {node} group {} restarted", status.group.0);
    if status.protocol.ballot < page.promised {
        return Err(format!(
            "{place} with promise {:?}, its disk had {:?}",
            status.protocol.ballot, page.promised
        ));
    }
    for (position, had) in page.joined.iter().filter(|(position, _)| !executed.contains(**position)) {
        let has = replayed.joined.get(position);
        if has.is_none_or(|has| has < had) {
            return Err(format!("{place} with promise {has:?} for {position:?}, its disk had {had:?}"));
        }
    }
    for position in page.votes.keys().filter(|position| !executed.contains(**position)) {
        let had = page.latest(*position).expect("a position in the ledger has a vote");
        let has = replayed.latest(*position);
        if has.is_none_or(|has| has.round < had.round || has.round == had.round && has != had) {
            return Err(format!("{place} with {has:?} at {position:?}, its disk had {had:?}"));
        }
    }
    Ok(())
}

/// The cluster has come to rest; `executed` is what one of its nodes holds.
///
/// # Errors
/// If a position that somebody executed is not there any more.
pub fn check_end(agreement: &Agreement, group: GroupId, executed: &Frontier) -> Result<(), String> {
    let known = agreement.known(group);
    if executed.covers(&known) {
        return Ok(());
    }
    Err(format!(
        "group {}: the cluster came to rest with {executed:?}, but {known:?} had been executed",
        group.0
    ))
}
