//! Only chosen values are executed: when anybody executes a position for the first time, a quorum has voted for that value
//! in one round, on stable storage [Paxos Made Simple §2.2; Fast Paxos §2.2; protocols D1, D10, PM1, PM2, PM3, T-M5].
//!
//! This is the follower commit rule and every counting of votes in one, judged from the disks.

use panch_wire::ids::{GroupId, Position};

use super::Held;
use super::ledger::Ledger;

/// Checks the position against the votes on the disks.
///
/// # Errors
/// If no round has a quorum for the value.
pub fn check(ledger: &Ledger, group: GroupId, position: Position, held: Held) -> Result<(), String> {
    let chosen = ledger.chosen(group, position).is_some_and(|vote| vote.held == held);
    if chosen || ledger.was_chosen(group, position, held) {
        return Ok(());
    }
    let votes = |node| ledger.page(group, node).votes.get(&position).map_or(&[][..], Vec::as_slice);
    let on_disk: Vec<_> = (0..ledger.node_count()).map(votes).collect();
    Err(format!(
        "{position:?} of group {} was executed as {held:?} without a quorum of durable votes in one round; on the disks: \
         {on_disk:?}",
        group.0
    ))
}
