//! Every vote and promise that was ever on a node's stable storage, read from what was written to its disk.

use std::collections::BTreeMap;

use panch_consensus::ballot::Ballot;
use panch_wire::ids::{GroupId, Slot};

use super::Held;

/// An acceptance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Vote {
    /// The ballot.
    pub ballot: Ballot,
    /// The value.
    pub held: Held,
}

/// One group on one node.
#[derive(Default)]
pub struct Page {
    /// The highest ballot in any record.
    pub promised: Ballot,
    /// Every acceptance.
    pub votes: BTreeMap<Slot, Vec<Vote>>,
}

impl Page {
    /// The acceptance in the highest ballot.
    pub fn latest(&self, slot: Slot) -> Option<Vote> {
        self.votes.get(&slot)?.iter().max_by_key(|vote| vote.ballot).copied()
    }

    /// Whether the slot was accepted in exactly this ballot.
    pub fn has_voted(&self, slot: Slot, ballot: Ballot) -> bool {
        self.votes.get(&slot).is_some_and(|votes| votes.iter().any(|vote| vote.ballot == ballot))
    }
}

/// All nodes.
pub struct Ledger {
    node_count: usize,
    pages: BTreeMap<(GroupId, usize), Page>,
    empty: Page,
}

impl Ledger {
    /// Nothing is written yet.
    pub fn new(node_count: usize) -> Self {
        Self { node_count, pages: BTreeMap::new(), empty: Page::default() }
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.node_count
    }

    /// One group on one node.
    pub fn page(&self, group: GroupId, node: usize) -> &Page {
        self.pages.get(&(group, node)).unwrap_or(&self.empty)
    }

    /// A record became stable.
    pub fn on_stable(&mut self, node: usize, group: GroupId, ballot: Ballot, accepts: Option<(Slot, Vote)>) {
        let page = self.pages.entry((group, node)).or_default();
        page.promised = page.promised.max(ballot);
        if let Some((slot, vote)) = accepts {
            let votes = page.votes.entry(slot).or_default();
            if !votes.contains(&vote) {
                votes.push(vote);
            }
        }
    }
}
