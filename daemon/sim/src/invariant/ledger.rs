//! Every vote and promise that was ever on a node's stable storage, read from what was written to its disk, and what is
//! chosen by them.
//!
//! An acceptor votes once in a round, for ever, whatever crashes lie between [Fast Paxos §2.2; protocols §4.4, PF1, T-F3].
//! A ballot has one value [Paxos Made Simple §2.2, P2c; T-B5].
//! At most one value is chosen at a position, by whatever rounds [Paxos Made Simple §2.1].
//!
//! A node that loses its disk begins a new page. Votes on its earlier ones may have been counted by others, so they may still
//! have helped to choose what is executed; nobody has to remember them.

use std::collections::{BTreeMap, BTreeSet};

use panch_consensus::ballot::Ballot;
use panch_consensus::quorum::classic_quorum;
use panch_wire::ids::{GroupId, Position};

use super::Held;
use crate::inspect::{Round, Scope};

/// A vote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Vote {
    /// The round.
    pub round: Round,
    /// The value.
    pub held: Held,
    /// Names the attributes voted for; 0 where there are none.
    pub attributes: u64,
}

/// What one record adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// A promise for all positions.
    pub promised: Option<Ballot>,
    /// A promise for one.
    pub joined: Option<(Position, Ballot)>,
    /// A vote.
    pub votes: Option<(Position, Vote)>,
}

/// One group on one node.
#[derive(Default)]
pub struct Page {
    /// The highest ballot promised for all positions.
    pub promised: Ballot,
    /// The highest ballot promised for one position.
    pub joined: BTreeMap<Position, Ballot>,
    /// Every vote.
    pub votes: BTreeMap<Position, Vec<Vote>>,
}

impl Page {
    /// The highest ballot promised.
    pub fn promised(&self, scope: Scope) -> Ballot {
        match scope {
            Scope::Group => self.promised,
            Scope::One(position) => self.joined.get(&position).copied().unwrap_or_default(),
        }
    }

    /// The vote in the highest round.
    pub fn latest(&self, position: Position) -> Option<Vote> {
        self.votes.get(&position)?.iter().max_by_key(|vote| vote.round).copied()
    }

    /// The vote in exactly this round.
    pub fn vote(&self, position: Position, round: Round) -> Option<Vote> {
        self.votes.get(&position)?.iter().find(|vote| vote.round == round).copied()
    }

    /// Adds what a record says.
    ///
    /// # Errors
    /// If there is another vote in the same round.
    pub fn add(&mut self, entry: Entry) -> Result<(), (Vote, Vote)> {
        self.promised = self.promised.max(entry.promised.unwrap_or_default());
        if let Some((position, ballot)) = entry.joined {
            let joined = self.joined.entry(position).or_default();
            *joined = (*joined).max(ballot);
        }
        let Some((position, vote)) = entry.votes else { return Ok(()) };
        let votes = self.votes.entry(position).or_default();
        match votes.iter().find(|other| other.round == vote.round) {
            Some(other) if *other != vote => return Err((*other, vote)),
            Some(_) => {}
            None => votes.push(vote),
        }
        Ok(())
    }
}

/// How many votes choose in a round.
pub fn quorum(round: Round, count: usize) -> usize {
    if round.classic { classic_quorum(count) } else { (3 * count).div_ceil(4) }
}

/// All nodes.
pub struct Ledger {
    node_count: usize,
    pages: BTreeMap<(GroupId, usize), Page>,
    /// Those of disks that were lost.
    lost: Vec<(GroupId, usize, Page)>,
    chosen: BTreeMap<(GroupId, Position), Vote>,
    empty: Page,
}

impl Ledger {
    /// Nothing is written yet.
    pub fn new(node_count: usize) -> Self {
        Self {
            node_count,
            pages: BTreeMap::new(),
            lost: Vec::new(),
            chosen: BTreeMap::new(),
            empty: Page::default(),
        }
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.node_count
    }

    /// One group on one node.
    pub fn page(&self, group: GroupId, node: usize) -> &Page {
        self.pages.get(&(group, node)).unwrap_or(&self.empty)
    }

    /// The vote with which a quorum chose at the position, the first time one did.
    pub fn chosen(&self, group: GroupId, position: Position) -> Option<Vote> {
        self.chosen.get(&(group, position)).copied()
    }

    /// A node has lost its disk.
    pub fn forget(&mut self, node: usize) {
        let pages = self.pages.extract_if(.., |(_, of), _| *of == node);
        self.lost.extend(pages.map(|((group, node), page)| (group, node, page)));
    }

    /// Whether a quorum has voted for this in one round, votes on lost disks included.
    pub fn was_chosen(&self, group: GroupId, position: Position, held: Held) -> bool {
        let lost = self.lost.iter().filter(|(of, ..)| *of == group);
        let here = (0..self.node_count).map(|node| (node, self.page(group, node)));
        let pages: Vec<_> = here.chain(lost.map(|(_, node, page)| (*node, page))).collect();
        let votes = || pages.iter().filter_map(|(_, page)| page.votes.get(&position)).flatten();
        votes().filter(|vote| vote.held == held).any(|vote| {
            let voters = pages.iter().filter(|(_, page)| page.vote(position, vote.round) == Some(*vote));
            let voters: BTreeSet<usize> = voters.map(|(node, _)| *node).collect();
            voters.len() >= quorum(vote.round, self.node_count)
        })
    }

    /// A record became stable.
    ///
    /// # Errors
    /// If the node has voted for something else in the same round, or a second value is chosen by this vote.
    pub fn on_stable(&mut self, node: usize, group: GroupId, entry: Entry) -> Result<(), String> {
        let page = self.pages.entry((group, node)).or_default();
        let place = |position: Position| format!("group {} {position:?}", group.0);
        page.add(entry).map_err(|(first, second)| {
            let position = entry.votes.map(|(position, _)| position).unwrap_or_default();
            format!("{}: node {node} voted twice in a round: {first:?}, then {second:?}", place(position))
        })?;
        let Some((position, vote)) = entry.votes else { return Ok(()) };
        if !vote.round.classic && vote.attributes != 0 {
            // A pre-acceptance: what it decides is not a matter of counting.
            return Ok(());
        }
        let others =
            (0..self.node_count).filter_map(|node| self.page(group, node).vote(position, vote.round));
        if vote.round.classic
            && let Some(other) = others.into_iter().find(|other| *other != vote)
        {
            return Err(format!("{}: two values in one ballot: {other:?} and {vote:?}", place(position)));
        }
        let voted = |node: &usize| self.page(group, *node).vote(position, vote.round) == Some(vote);
        if (0..self.node_count).filter(voted).count() < quorum(vote.round, self.node_count) {
            return Ok(());
        }
        let first = *self.chosen.entry((group, position)).or_insert(vote);
        if (first.held, first.attributes) == (vote.held, vote.attributes) {
            return Ok(());
        }
        Err(format!("{}: two values are chosen: by {first:?} and by {vote:?}", place(position)))
    }
}
