//! Only chosen values are executed: when anybody executes a slot for the first time, a classic quorum has accepted that
//! value in one ballot, on stable storage [Paxos Made Simple §2.2; protocols D1, D10, PM1, PM2, PM3, T-M5].
//!
//! This is the follower commit rule and the leader's counting of votes in one, judged from the disks.

use panch_consensus::quorum::classic_quorum;
use panch_wire::ids::{GroupId, Slot};

use super::Held;
use super::ledger::Ledger;

/// Checks the slot against the votes on the disks.
///
/// # Errors
/// If no ballot has a quorum for the value.
pub fn check(ledger: &Ledger, group: GroupId, slot: Slot, held: Held) -> Result<(), String> {
    let count = ledger.node_count();
    let votes = |node| ledger.page(group, node).votes.get(&slot).map_or(&[][..], Vec::as_slice);
    let ballots = (0..count).flat_map(votes).filter(|vote| vote.held == held).map(|vote| vote.ballot);
    let most = ballots.map(|ballot| {
        let voted = |node: &usize| votes(*node).iter().any(|vote| vote.ballot == ballot && vote.held == held);
        (0..count).filter(voted).count()
    });
    let most = most.max().unwrap_or(0);
    if most >= classic_quorum(count) {
        return Ok(());
    }
    let on_disk: Vec<_> = (0..count).map(votes).collect();
    Err(format!(
        "slot {} of group {} was executed as {held:?} with {most} durable votes in one ballot; on the disks: {on_disk:?}",
        slot.0, group.0
    ))
}
