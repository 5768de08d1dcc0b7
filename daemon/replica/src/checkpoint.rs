//! Digests at common positions: whether the replicas of a group are in the same state.
//!
//! Replicas pass the same positions at different times, so digests are compared at *checkpoints*: at the end of every so many
//! numbers of a row, whichever replica gets there first. Each keeps its own digests and those that others reported for a while on both sides
//! of where it is.
//!
//! * In a log, every replica passes through the same states: the digest of a checkpoint is that of the whole state there.
//! * In a graph, states between two quiet moments are nobody else's. There a checkpoint covers the instances of its row since the one
//!   before: of each what was decided and what it changed. Whatever interferes is executed in the same order everywhere, so an instance
//!   changes the same on every replica, however others are interleaved.
//! * Besides, replicas that happen to have executed the same positions compare their whole state: in a graph at its common frontier,
//!   in a quiet cluster after every write.
//!
//! Invariants:
//! * A peer has one vote per place, its latest, and none in a place far from here: it can neither outvote nor crowd out others.
//! * A replica that a majority has found to be wrong has no vote until it agrees again.
//! * Memory is bounded by [`RING`] places per row.
//!
//! What is not compared is counted: places that were left behind before everybody was heard.

use std::collections::VecDeque;

use panch_consensus::frontier::Frontier;
use panch_consensus::protocol::Order;
use panch_consensus::quorum::classic_quorum;
use panch_wire::ids::{Position, REPLICAS_MAX, ReplicaId, ReplicaSet};
use panch_wire::rule::{Rule, holds};

use crate::kv::digest;

/// Places of a row that are remembered: half of them ahead of this replica.
const RING: usize = 64;
/// Own checkpoints that wait to be reported; older ones are left out.
const UNSENT_MAX: usize = RING;
/// Checkpoints of a row that may be open because an earlier instance is not executed.
const OPEN_MAX: usize = 1024;
/// Own checkpoints that an operator is shown.
pub const RECENT_MAX: usize = 8;

const DIGEST_INSTANCE: u64 = 8;
const DIGEST_CHECKPOINT: u64 = 9;

/// A digest with where it was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The last position that it covers.
    pub at: Position,
    /// Of what it covers.
    pub digest: u64,
}

/// Where digests are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// At a checkpoint.
    Checkpoint(Position),
    /// Wherever exactly the positions of this frontier are executed; named by its digest, in a log the slot.
    Frontier(u64),
    /// What was decided there: not digests of states are compared, but the checksums of values.
    Decision(Position),
}

/// Two digests, or checksums, of one place that should be equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disagreement {
    /// Where.
    pub at: Place,
    /// This replica's.
    pub own: u64,
    /// That of the others.
    pub other: u64,
    /// Who has that.
    pub others: ReplicaSet,
}

/// Counts of one replica since its node started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DigestCounts {
    /// Checkpoints at which all replicas were heard and agreed.
    pub compared: u64,
    /// Checkpoints that were left behind before all were heard.
    pub missed: u64,
    /// Comparisons in which replicas disagreed.
    pub differed: u64,
}

/// What the votes of one place say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Those heard are equal; whether they are a majority.
    Equal { decided: bool },
    /// A majority is equal, some are not.
    Minority { digest: u64 },
    /// They differ; one may get a majority yet.
    Open,
    /// They differ, and none can get a majority any more.
    Split,
}

/// The digests of one place by replica.
#[derive(Clone, Copy, Default, Debug)]
struct Votes {
    heard: ReplicaSet,
    digests: [u64; REPLICAS_MAX],
}

impl Votes {
    fn set(&mut self, of: ReplicaId, digest: u64) {
        self.heard.insert(of);
        self.digests[of.index()] = digest;
    }

    fn of(&self, id: ReplicaId) -> Option<u64> {
        self.heard.contains(id).then(|| self.digests[id.index()])
    }

    /// Who has this digest, those without a vote included.
    fn with(&self, digest: u64) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        for id in self.heard.iter().filter(|id| self.digests[id.index()] == digest) {
            set.insert(id);
        }
        set
    }

    fn judge(&self, replica_count: usize, without: ReplicaSet) -> Verdict {
        let voters = || self.heard.iter().filter(|id| !without.contains(*id));
        let supporters = |digest: u64| voters().filter(|id| self.digests[id.index()] == digest).count();
        let Some(best) = voters().max_by_key(|id| supporters(self.digests[id.index()])) else {
            return Verdict::Equal { decided: false };
        };
        let digest = self.digests[best.index()];
        let (count, quorum) = (supporters(digest), classic_quorum(replica_count));
        let silent = (0..replica_count as u8).map(ReplicaId);
        let silent = silent.filter(|id| !self.heard.contains(*id) && !without.contains(*id)).count();
        if count == voters().count() {
            Verdict::Equal { decided: count >= quorum }
        } else if count >= quorum {
            Verdict::Minority { digest }
        } else if count + silent >= quorum {
            Verdict::Open
        } else {
            Verdict::Split
        }
    }
}

/// A place of a row's ring.
#[derive(Clone, Copy, Default, Debug)]
struct Entry {
    /// The checkpoint's number; 0: none.
    number: u64,
    votes: Votes,
    done: bool,
}

/// One row: in a log the only one, in a graph one of each replica.
#[derive(Debug)]
struct Row {
    ring: Vec<Entry>,
    /// In a graph: the sums of the checkpoints from `first` on that are not complete.
    open: VecDeque<u64>,
    first: u64,
    /// The last checkpoint passed, as a count.
    passed: u64,
    /// The next place whose digest is repeated.
    repeated: usize,
}

/// Where a majority to which this replica belongs disagreed with another one.
#[derive(Clone, Copy, Default, Debug)]
struct Refuted {
    anywhere: bool,
    /// By row, the highest checkpoint.
    upto: [u64; REPLICAS_MAX],
}

impl Refuted {
    fn insert(&mut self, at: Place) {
        self.anywhere = true;
        if let Place::Checkpoint(Position { row, number }) = at
            && let Some(upto) = self.upto.get_mut(usize::from(row))
        {
            *upto = number.max(*upto);
        }
    }

    /// Whether that settles a disagreement with it. What is proven about one row says nothing of another one, in which this replica may be
    /// wrong; but of whole states that differ it says why.
    fn settles(&self, doubtful: Place) -> bool {
        match doubtful {
            Place::Checkpoint(Position { row, number }) | Place::Decision(Position { row, number }) => {
                self.upto.get(usize::from(row)).is_some_and(|upto| number <= *upto)
            }
            Place::Frontier(_) => self.anywhere,
        }
    }
}

/// What a comparison has brought to light about this replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// A majority has another digest.
    Outvoted(Disagreement),
    /// Digests differ; a majority may show yet.
    Doubtful(Disagreement),
    /// Digests differ, and no digest has a majority.
    Split(Disagreement),
    /// This replica agrees with a majority there.
    Confirmed(Place),
}

/// The digests of one replica and those that others reported.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    me: ReplicaId,
    replica_count: usize,
    every: u64,
    order: Order,
    rows: Vec<Row>,
    /// By replica: the frontier and the digest of the whole state that it last reported.
    whole: [Option<(u64, u64)>; REPLICAS_MAX],
    /// Peers without a vote: a majority disagreed with them, or they say so themselves.
    without: ReplicaSet,
    /// Peers whose last report says that they have stopped serving because a majority disagrees.
    outvoted: ReplicaSet,
    /// By replica: where a majority to which this replica belongs disagreed with it.
    refuted: [Refuted; REPLICAS_MAX],
    /// The latest disagreement of a peer with a majority that this replica belongs to.
    dissent: Option<Disagreement>,
    unsent: VecDeque<Checkpoint>,
    recent: VecDeque<Checkpoint>,
    findings: VecDeque<Finding>,
    counts: DigestCounts,
}

/// What of a batch's effect goes into the checkpoint of its row: `changed` is what it added to the digest of the state.
pub(crate) fn contribution(at: Position, stamp: u64, checksum: u64, changed: u64) -> u64 {
    digest::of_words(DIGEST_INSTANCE, [u64::from(at.row), at.number, stamp, checksum, changed])
}

impl Checkpoints {
    /// For a replica that begins with `executed`; a checkpoint every `every` numbers of a row.
    pub(crate) fn new(
        me: ReplicaId,
        replica_count: usize,
        order: Order,
        every: u64,
        executed: &Frontier,
    ) -> Self {
        assert!(every > 0, "checkpoints lie apart");
        let row_count = if order == Order::Log { 1 } else { replica_count };
        let row = || Row {
            ring: vec![Entry::default(); RING],
            open: VecDeque::new(),
            first: 0,
            passed: 0,
            repeated: 0,
        };
        let mut checkpoints = Self {
            me,
            replica_count,
            every,
            order,
            rows: (0..row_count).map(|_| row()).collect(),
            whole: [None; REPLICAS_MAX],
            without: ReplicaSet::default(),
            outvoted: ReplicaSet::default(),
            refuted: Default::default(),
            dissent: None,
            unsent: VecDeque::with_capacity(UNSENT_MAX),
            recent: VecDeque::with_capacity(RECENT_MAX),
            findings: VecDeque::with_capacity(RING),
            counts: DigestCounts::default(),
        };
        checkpoints.restored(executed);
        checkpoints
    }

    /// How many numbers apart checkpoints lie.
    pub(crate) fn every(&self) -> u64 {
        self.every
    }

    /// The state is that of a snapshot that covers `executed`. In a graph what is in it of a checkpoint is not known, so that this one is
    /// not compared.
    pub(crate) fn restored(&mut self, executed: &Frontier) {
        for (index, row) in self.rows.iter_mut().enumerate() {
            row.open.clear();
            row.first = executed.highest(index as u8).div_ceil(self.every);
            row.passed = executed.upto(index as u8) / self.every;
            for entry in &mut row.ring {
                // The digests of an earlier state are not this one's.
                entry.votes.heard.remove(self.me);
            }
        }
        self.unsent.clear();
        self.recent.clear();
    }

    /// A slot of a log is executed.
    #[inline]
    pub(crate) fn executed_slot(&mut self, number: u64, digest: impl FnOnce() -> u64) {
        if number.is_multiple_of(self.every) {
            self.pass(Position { row: 0, number }, digest());
        }
    }

    /// An instance of a graph is executed, with this [`contribution`].
    #[inline]
    pub(crate) fn executed_instance(&mut self, at: Position, contribution: u64, executed: &Frontier) {
        let every = self.every;
        let Some(row) = self.rows.get_mut(usize::from(at.row)) else { return };
        let place = (at.number - 1) / every;
        let Some(offset) = place.checked_sub(row.first) else { return };
        let offset = offset as usize;
        if offset >= OPEN_MAX {
            // So much waits for one instance that it is not worth the memory.
            row.open.clear();
            row.first = place + 1;
            return;
        }
        if row.open.len() <= offset {
            row.open.resize(offset + 1, 0);
        }
        row.open[offset] = row.open[offset].wrapping_add(contribution);
        self.close(at.row, executed);
    }

    /// Passes what is complete of a row.
    fn close(&mut self, index: u8, executed: &Frontier) {
        loop {
            let row = &mut self.rows[usize::from(index)];
            if row.first >= executed.upto(index) / self.every {
                return;
            }
            let Some(sum) = row.open.pop_front() else { return };
            row.first += 1;
            let end = Position { row: index, number: row.first * self.every };
            self.pass(end, digest::of_words(DIGEST_CHECKPOINT, [u64::from(index), end.number, sum]));
        }
    }

    fn pass(&mut self, at: Position, digest: u64) {
        self.rows[usize::from(at.row)].passed = at.number / self.every;
        let checkpoint = Checkpoint { at, digest };
        if self.replica_count == 1 {
            return;
        }
        for (queue, max) in [(&mut self.unsent, UNSENT_MAX), (&mut self.recent, RECENT_MAX)] {
            if queue.len() == max {
                queue.pop_front();
            }
            queue.push_back(checkpoint);
        }
        self.vote(self.me, checkpoint);
    }

    /// A digest of a replica at a checkpoint.
    fn vote(&mut self, of: ReplicaId, checkpoint: Checkpoint) {
        let Checkpoint { at, digest } = checkpoint;
        let count = at.number / self.every;
        let Some(row) = self.rows.get_mut(usize::from(at.row)) else { return };
        let is_near = count.abs_diff(row.passed) < RING as u64 / 2;
        if !holds(Rule::DigestsCompared) || count == 0 || at.number % self.every != 0 || !is_near {
            return;
        }
        let entry = &mut row.ring[count as usize % RING];
        if entry.number > at.number {
            return;
        }
        if entry.number < at.number {
            self.counts.missed += u64::from(entry.number > 0 && !entry.done);
            *entry = Entry { number: at.number, ..Entry::default() };
        }
        if entry.votes.of(of) == Some(digest) {
            return;
        }
        entry.votes.set(of, digest);
        let votes = entry.votes;
        let is_new = !entry.done;
        if self.weigh(Place::Checkpoint(at), &votes) && votes.heard.count() == self.replica_count && is_new {
            self.counts.compared += 1;
            self.rows[usize::from(at.row)].ring[count as usize % RING].done = true;
        }
    }

    /// Draws conclusions from the votes of a place; whether there is nothing wrong.
    fn weigh(&mut self, at: Place, votes: &Votes) -> bool {
        let own = votes.of(self.me);
        let disagreement = |other: u64, own: u64| Disagreement { at, own, other, others: votes.with(other) };
        // In a graph a checkpoint says nothing of the rest of the state.
        let tells_all = self.order == Order::Log || matches!(at, Place::Frontier(_));
        let verdict = votes.judge(self.replica_count, self.without);
        let majority = match verdict {
            Verdict::Equal { decided } => {
                let first = votes.heard.iter().find(|id| !self.without.contains(*id));
                first.filter(|_| decided).map(|id| votes.digests[id.index()])
            }
            Verdict::Minority { digest } => Some(digest),
            Verdict::Open | Verdict::Split => None,
        };
        if let Some(majority) = majority {
            if tells_all {
                for id in votes.with(majority).iter().filter(|id| !self.outvoted.contains(*id)) {
                    self.without.remove(id);
                    self.refuted[id.index()] = Refuted::default();
                }
                if self.without == ReplicaSet::default() {
                    self.dissent = None;
                }
            }
            let Some(own) = own else { return true };
            if own != majority {
                self.counts.differed += 1;
                self.findings.push_back(Finding::Outvoted(disagreement(majority, own)));
                return false;
            }
            self.findings.push_back(Finding::Confirmed(at));
            for id in votes.heard.iter().filter(|id| votes.digests[id.index()] != majority) {
                self.counts.differed += 1;
                self.without.insert(id);
                self.refuted[id.index()].insert(at);
                self.dissent = Some(disagreement(votes.digests[id.index()], own));
            }
            return votes.with(majority).count() == votes.heard.count();
        }
        let Some(own) = own else { return true };
        let other = votes.heard.iter().filter(|id| !self.without.contains(*id));
        let Some(other) = other.map(|id| votes.digests[id.index()]).find(|digest| *digest != own) else {
            return true;
        };
        let found = disagreement(other, own);
        self.counts.differed += 1;
        self.findings.push_back(if verdict == Verdict::Split {
            Finding::Split(found)
        } else {
            Finding::Doubtful(found)
        });
        false
    }

    /// What a peer reports: `outvoted` says that it does not serve because a majority disagrees with it.
    pub(crate) fn reported(
        &mut self,
        from: ReplicaId,
        outvoted: bool,
        whole: (u64, u64),
        checkpoints: impl Iterator<Item = Checkpoint>,
    ) {
        if from == self.me || from.index() >= self.replica_count {
            return;
        }
        if outvoted {
            self.outvoted.insert(from);
            self.without.insert(from);
        } else {
            self.outvoted.remove(from);
        }
        self.whole[from.index()] = Some(whole);
        checkpoints.for_each(|checkpoint| self.vote(from, checkpoint));
    }

    /// Compares the state with that of the replicas that have executed the same.
    pub(crate) fn compare_whole(&mut self, frontier: u64, digest: u64) {
        if !holds(Rule::DigestsCompared) {
            return;
        }
        let mut votes = Votes::default();
        votes.set(self.me, digest);
        for (id, whole) in (0..).map(ReplicaId).zip(self.whole) {
            if let Some((at, digest)) = whole
                && at == frontier
                && id != self.me
            {
                votes.set(id, digest);
            }
        }
        self.weigh(Place::Frontier(frontier), &votes);
    }

    /// What others reported of their states may be from before they forgot something: only what they report from now on counts.
    pub(crate) fn forget_reports(&mut self) {
        self.whole = [None; REPLICAS_MAX];
    }

    /// The same of one peer: what it reported may be of a state that it does not have any more. If it has, it reports that again.
    pub(crate) fn forget_reports_of(&mut self, peer: ReplicaId) {
        if !holds(Rule::ReportsOfOneLife) {
            return;
        }
        self.whole[peer.index()] = None;
        self.refuted[peer.index()] = Refuted::default();
        for entry in self.rows.iter_mut().flat_map(|row| &mut row.ring) {
            entry.votes.heard.remove(peer);
        }
    }

    /// The next thing that was found out.
    pub(crate) fn next_finding(&mut self) -> Option<Finding> {
        self.findings.pop_front()
    }

    /// Whether own checkpoints wait to be reported.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The next own checkpoint to report.
    pub(crate) fn next_unsent(&mut self) -> Option<Checkpoint> {
        self.unsent.pop_front()
    }

    /// Own checkpoints are reported again, in turn, because a report may be lost and a peer may get near later.
    pub(crate) fn repeat(&mut self, count: usize) {
        let me = self.me;
        for (index, row) in self.rows.iter_mut().enumerate() {
            let mut left = (count / 2).max(1);
            for _ in 0..RING {
                row.repeated = (row.repeated + 1) % RING;
                let entry = row.ring[row.repeated];
                if left > 0
                    && self.unsent.len() < UNSENT_MAX
                    && let Some(digest) = entry.votes.of(me)
                {
                    left -= 1;
                    let at = Position { row: index as u8, number: entry.number };
                    self.unsent.push_back(Checkpoint { at, digest });
                }
                if left == 0 {
                    break;
                }
            }
        }
    }

    /// Whether a majority disagrees with this peer, as far as is known here.
    pub(crate) fn is_wrong(&self, peer: ReplicaId) -> bool {
        self.without.contains(peer)
    }

    /// Peers that have said that they do not serve because a majority disagrees with them.
    pub(crate) fn outvoted(&self) -> ReplicaSet {
        self.outvoted
    }

    /// Whether a majority to which this replica belongs disagreed with all that this disagreement is with, and about that.
    pub(crate) fn is_refuted(&self, found: Disagreement) -> bool {
        let others = found.others;
        let is_refuted = |id: ReplicaId| self.refuted[id.index()].settles(found.at);
        others.count() > 0 && others.iter().all(is_refuted) && holds(Rule::EpaxosDoubtEnds)
    }

    /// Peers that a majority disagrees with.
    pub(crate) fn wrong(&self) -> ReplicaSet {
        self.without
    }

    /// The latest disagreement with one of them.
    pub(crate) fn dissent(&self) -> Option<Disagreement> {
        self.dissent
    }

    /// Counts.
    pub(crate) fn counts(&self) -> DigestCounts {
        self.counts
    }

    /// The latest own checkpoints, oldest first.
    pub(crate) fn recent(&self) -> [Option<Checkpoint>; RECENT_MAX] {
        std::array::from_fn(|index| self.recent.get(index).copied())
    }
}

#[cfg(test)]
mod tests;
