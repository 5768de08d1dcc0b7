//! Whether a node that says hello still is what it was: what is remembered of the lives of other nodes, and what a node
//! remembers of its own.
//!
//! A node that has forgotten a vote must not be counted on. Its disk may have been replaced by an empty one, or by a copy from an
//! earlier moment, or part of its log may be gone; it cannot tell. The others can: they remember of each node its last life that
//! they took in (incarnation, directory and the name of the life, which is the hash of a key that only this life's directory
//! holds), and for each of its logs an end that was durable, as every packet states it. A node that starts again shows
//! ([`Past::show`]), from its own notes ([`Starts`]), that the life which is remembered was its own, and that its first start
//! after it found at least the log that had been durable by then. Later starts do not count: each of them writes to the log, so
//! it would soon be as long as the one that was lost. Within a life the log never gets shorter: a machine that was put back to
//! an earlier moment, with its memory, shows less than it has said.
//!
//! Invariants:
//! * A life is taken for familiar only if it descends from the one remembered: it has its key and all of its log that was told.
//! * What a stranger says changes nothing. The first life of a node, and one that comes back from a loss, have no key to show:
//!   they are taken in once whoever is at the node's own address has named them ([`Familiarity::confirm`]).
//! * What is remembered never goes back to an earlier incarnation.
//! * Only what contradicts a memory is forgetful. A node that has no note of a start any more, because it was too long ago, has
//!   shown nothing, and one of which only the founding is known has contradicted nobody who has met it.
//!
//! While they run, nodes tell each other what they remember ([`Word`]). What was told is kept apart from what was met: it never makes
//! anybody familiar, and ends nobody. It only keeps out a node that shows less than was told of it ([`Judgement::Contested`]), for as
//! long as whoever told it says so.
//!
//! Of two that take each other for forgetful the one is right that a majority has taken in, itself included
//! ([`Familiarity::judge`]): the other one ends. A node that starts again claims nothing until all others have taken it in, or
//! were out of reach for a while ([`crate::rejoin`]).
//!
//! What nobody can notice: a copy is restored, and of the others only those can be reached that have neither heard of anything later,
//! nor been told of it.

use panch_consensus::quorum::classic_quorum;
use panch_wal::Lsn;
use panch_wire::ids::{Incarnation, REPLICAS_MAX, ReplicaId, ReplicaSet};
use panch_wire::peer::Life;
use panch_wire::rule::{Rule, holds};

use crate::founding::{Founder, Founders};
use told::Told;

mod past;
mod told;

pub use past::{Asked, Past, Shown, Start, Starts};
pub use told::Word;

/// How many starts a node remembers of itself, of those that others can have heard of. A peer that was away for all of them
/// cannot tell any more.
pub const STARTS_MAX: usize = 256;
/// The most cores of a node.
pub const CORES_MAX: usize = 255;

/// How far a log was durable, as its node has said.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LogEnd {
    /// The last commit group; 0: nothing was said.
    pub lsn: Lsn,
    /// The life in which it was said, or shown to be still there.
    pub since: Incarnation,
}

/// What is remembered of one node; nothing: incarnation 0.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Known {
    /// The last life that was taken in. Without a name if it was told by a version that gave none.
    pub life: Life,
    /// The ends of its logs, by core; those at the end of which nothing was said are left out.
    pub ends: Vec<LogEnd>,
}

impl Known {
    /// The end of a core's log.
    pub fn end(&self, core: u16) -> LogEnd {
        self.ends.get(usize::from(core)).copied().unwrap_or_default()
    }

    fn end_mut(&mut self, core: u16) -> Option<&mut LogEnd> {
        let core = usize::from(core);
        if core >= CORES_MAX {
            return None;
        }
        if self.ends.len() <= core {
            self.ends.resize(core + 1, LogEnd::default());
        }
        self.ends.get_mut(core)
    }

    /// Takes in what somebody else remembers of the same node.
    fn merge(&mut self, other: &Known) {
        if other.life.directory == self.life.directory {
            for (core, theirs) in (0..).zip(&other.ends) {
                if let Some(ours) = self.end_mut(core).filter(|ours| ours.lsn < theirs.lsn) {
                    *ours = *theirs;
                }
            }
        } else if other.life.incarnation > self.life.incarnation {
            self.ends.clone_from(&other.ends);
        }
        if other.life.incarnation > self.life.incarnation {
            self.life = other.life;
        }
    }
}

/// What a node shows of its past.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Claim {
    /// An earlier incarnation; 0 if none is shown.
    pub earlier: Incarnation,
    /// The name of that life, as its key says.
    pub earlier_name: u64,
    /// Speaks of the first start after this incarnation.
    pub since: Incarnation,
    /// The end of the log that it found.
    pub log_end: Lsn,
}

/// A core of a node that says hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Newcomer {
    /// The node.
    pub node: ReplicaId,
    /// The core, whose log it is about.
    pub core: u16,
    /// Its life. It has shown its key.
    pub life: Life,
    /// It says that it has lost its disk or its log, and is on its way back.
    pub returning: bool,
    /// It has the secret of the cluster, so it is no stranger.
    pub is_authentic: bool,
    /// What was remembered of the end of the core's log when it was asked for its claim. What it has said since to others, who
    /// have told it here, it need not have known then.
    pub asked: LogEnd,
    /// What it shows of what is remembered.
    pub claim: Claim,
    /// What was told of the end of the core's log when it was asked for its claim: see `asked`.
    pub asked_told: LogEnd,
    /// What it shows of what was told.
    pub told: Claim,
}

/// What a hello comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// It is who it was, or says why not.
    Familiar,
    /// It has forgotten what it was.
    Forgetful,
    /// So it seems; but it has not taken in this node, which may be the one that has forgotten. Or its directory is another one
    /// than at the founding, and that is all that is known of it.
    Doubtful,
    /// The cluster was founded without it, and it has not taken in this node: its data may be of another time.
    Unmet,
    /// It has not shown what this depends on: the life remembered, and the start after the log end remembered.
    Unproven,
    /// Nobody at the node's own address has named this life.
    Unconfirmed,
    /// It is as it is remembered here, but another node has told of a later life of it, or of a longer log.
    Contested,
}

/// What is remembered of all nodes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Familiarity {
    known: [Known; REPLICAS_MAX],
    /// Who was found at the address of each node, for as long as this node runs.
    found: [Option<Life>; REPLICAS_MAX],
    /// What other nodes have told.
    told: Told,
    /// How many nodes the cluster has; 0: unknown.
    node_count: usize,
    /// Who has taken in this life of this node.
    recognised: ReplicaSet,
    /// Who was found to be forgetful, since this node started.
    disowned: ReplicaSet,
    /// What the nodes were when the cluster was founded: all that is known of those that were not met.
    founders: Founders,
    /// The highest incarnation of any node in the state that the cluster began with; 0: it began with none.
    founded_above: Incarnation,
    revision: u64,
    /// As `revision`, of what was met first-hand.
    met_revision: u64,
}

impl Familiarity {
    /// What was written down.
    pub fn new(known: [Known; REPLICAS_MAX]) -> Self {
        Self { known, ..Self::default() }
    }

    /// What is left of it after a restart.
    #[must_use]
    pub fn after_restart(&self) -> Self {
        let Self { known, founders, founded_above, node_count, .. } = self;
        let (known, told) = (known.clone(), self.told.after_restart());
        let (founders, founded_above, node_count) = (*founders, *founded_above, *node_count);
        Self { known, founders, founded_above, told, node_count, ..Self::default() }
    }

    /// Takes note of how many nodes the cluster has, which says what a majority is.
    pub fn set_node_count(&mut self, count: usize) {
        self.node_count = count;
    }

    /// Takes note of what the nodes were when the cluster was founded.
    pub fn set_founders(&mut self, founders: Founders) {
        self.founders = founders;
    }

    /// What the nodes were when the cluster was founded.
    pub fn founders(&self) -> &Founders {
        &self.founders
    }

    /// Takes note of the highest incarnation of any node in the state that the cluster began with.
    pub fn set_founded_above(&mut self, incarnation: Incarnation) {
        self.founded_above = incarnation;
    }

    /// The last incarnation of a node that anything here is from: one that has forgotten its lives comes back above it. A node that
    /// was not met has none but in the state that the cluster began with, where its batches would be taken for those of an earlier life.
    pub fn last_incarnation(&self, node: ReplicaId) -> Incarnation {
        let met = self.known.get(node.index()).map_or(Incarnation(0), |known| known.life.incarnation);
        if holds(Rule::RejoinAboveFounding) { met.max(self.founded_above) } else { met }
    }

    /// What is remembered, by node: all that has to be written down.
    pub fn known(&self) -> &[Known; REPLICAS_MAX] {
        &self.known
    }

    /// Grows with every change of what has to be written down.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Grows with every change of what others are to be told.
    pub fn met_revision(&self) -> u64 {
        self.met_revision
    }

    fn is_changed(&mut self) {
        self.revision += 1;
        self.met_revision += 1;
    }

    /// What is remembered of a node.
    pub fn of(&self, node: ReplicaId) -> Known {
        self.known.get(node.index()).cloned().unwrap_or_default()
    }

    /// Whoever is at the node's address says that it is this one.
    pub fn confirm(&mut self, node: ReplicaId, life: Life) {
        if let Some(found) = self.found.get_mut(node.index()) {
            *found = Some(life);
        }
    }

    /// A node has accepted a hello of this life of this node. Until then it may be this node that has forgotten something: a copy
    /// of a directory remembers others as they were.
    pub fn set_recognised(&mut self, by: ReplicaId) {
        self.recognised.insert(by);
    }

    /// Who was found to be forgetful since this node started: what they say of this node is worth nothing.
    pub fn disowned(&self) -> ReplicaSet {
        self.disowned
    }

    /// Judges a hello, and takes it in if it is familiar. If that changed anything (see [`Familiarity::revision`]), it must be
    /// written down before the hello is accepted.
    pub fn judge(&mut self, newcomer: &Newcomer) -> Judgement {
        if newcomer.node.index() >= REPLICAS_MAX {
            return Judgement::Forgetful;
        }
        match self.compare(newcomer) {
            Judgement::Forgetful if !self.may_disown(newcomer) => Judgement::Doubtful,
            Judgement::Forgetful => {
                // Not for what a stranger says in its name.
                if newcomer.is_authentic || self.found[newcomer.node.index()] == Some(newcomer.life) {
                    self.disowned.insert(newcomer.node);
                }
                Judgement::Forgetful
            }
            Judgement::Familiar => {
                self.disowned.remove(newcomer.node);
                Judgement::Familiar
            }
            judgement => judgement,
        }
    }

    /// Whether a node that looks forgetful is the one that has forgotten, not this one. The other has taken in this one, or a
    /// majority without the other has, having told what it remembers of the other. Nobody may know the other better.
    fn may_disown(&self, newcomer: &Newcomer) -> bool {
        let node = newcomer.node;
        let known = &self.known[node.index()];
        if self.told.is_behind(node, known, newcomer.life.directory) {
            return false;
        }
        if self.recognised.contains(node) {
            return true;
        }
        let backing = self.recognised.iter().filter(|by| *by != node && self.told.has_told(*by, node));
        let with_this_one = backing.count() + 1;
        self.node_count > 0
            && with_this_one >= classic_quorum(self.node_count)
            && holds(Rule::MajorityDisowns)
    }

    fn compare(&mut self, newcomer: &Newcomer) -> Judgement {
        let Newcomer { node, core, life, returning, claim, .. } = *newcomer;
        let objection = self.objection(newcomer);
        let Some(known) = self.known.get_mut(node.index()) else { return Judgement::Forgetful };
        let is_confirmed = newcomer.is_authentic || self.found[node.index()] == Some(life);
        let before = known.life;
        let is_named = before.name != 0 && holds(Rule::PeerLifeRemembered);
        if life.incarnation < before.incarnation {
            return Judgement::Forgetful;
        }
        if life.incarnation == before.incarnation {
            if life.directory != before.directory || is_named && life.name != before.name {
                return Judgement::Forgetful;
            }
            if !is_named && !is_confirmed && holds(Rule::UnnamedLifeConfirmed) {
                return Judgement::Unconfirmed;
            }
        } else if before.incarnation == Incarnation(0) || returning {
            match self.founders[node.index()] {
                Founder::With(directory) if directory != life.directory && !returning => {
                    return Judgement::Doubtful;
                }
                Founder::Absent
                    if !returning && !self.recognised.contains(node) && holds(Rule::AbsentTakesInFirst) =>
                {
                    return Judgement::Unmet;
                }
                _ => {}
            }
            if !is_confirmed {
                return Judgement::Unconfirmed;
            }
        } else if life.directory != before.directory {
            return Judgement::Forgetful;
        } else if is_named {
            if claim.earlier != before.incarnation {
                return Judgement::Unproven;
            }
            if claim.earlier_name != before.name {
                return Judgement::Forgetful;
            }
        } else if !is_confirmed {
            return Judgement::Unconfirmed;
        }
        let end = known.end(core);
        let is_own = end.since == life.incarnation;
        let owed = match newcomer.asked {
            _ if !is_own => end.lsn,
            asked if asked.since == end.since && holds(Rule::PeerLogNeverShrinks) => asked.lsn.min(end.lsn),
            _ => Lsn(0),
        };
        let is_open = owed > Lsn(0) && (is_own || !returning);
        if is_open && holds(Rule::PeerLogEndRemembered) {
            // What an earlier start found, a later one found as well.
            if claim.since > end.since || claim.since == Incarnation(0) {
                return Judgement::Unproven;
            }
            if claim.log_end < owed {
                // An earlier start may have found less than the one that counts.
                let is_exact = claim.since == end.since;
                return if is_exact { Judgement::Forgetful } else { Judgement::Unproven };
            }
        }
        if let Some(judgement) = objection {
            return judgement;
        }
        let mut after = known.clone();
        after.life = life;
        if life.incarnation > before.incarnation && returning {
            after.ends.clear();
        } else if is_open
            && !is_own
            && let Some(end) = after.end_mut(core)
        {
            end.since = life.incarnation;
        }
        if after != *known {
            *known = after;
            self.is_changed();
        }
        Judgement::Familiar
    }

    /// What speaks against a node that is as it is remembered: what others have told. One that says that it has lost its disk
    /// need not show anything of that.
    fn objection(&self, newcomer: &Newcomer) -> Option<Judgement> {
        let Newcomer { node, core, life, returning, told: claim, asked_told: asked, .. } = *newcomer;
        let known = self.known.get(node.index())?;
        if returning || !holds(Rule::PeerWordsRemembered) {
            return None;
        }
        let (last, end) = self.told.of(node, core, known);
        if last.incarnation > known.life.incarnation || last.name != known.life.name {
            if life.incarnation < last.incarnation || life.directory != last.directory {
                return Some(Judgement::Contested);
            }
            let is_named = last.name != 0;
            if life.incarnation == last.incarnation {
                if is_named && life.name != last.name {
                    return Some(Judgement::Contested);
                }
            } else if is_named {
                if claim.earlier != last.incarnation {
                    return Some(Judgement::Unproven);
                }
                if claim.earlier_name != last.name {
                    return Some(Judgement::Contested);
                }
            }
        }
        let owed = match asked {
            _ if end.since != life.incarnation => end.lsn,
            asked if asked.since == end.since => asked.lsn.min(end.lsn),
            _ => Lsn(0),
        };
        if owed > Lsn(0) {
            if claim.since > end.since || claim.since == Incarnation(0) {
                return Some(Judgement::Unproven);
            }
            if claim.log_end < owed {
                let is_exact = claim.since == end.since;
                return Some(if is_exact { Judgement::Contested } else { Judgement::Unproven });
            }
        }
        None
    }

    /// What was told of a node beyond what is remembered of it: the last life, and the end of one of its logs. It is asked for that,
    /// too.
    pub fn told_of(&self, node: ReplicaId, core: u16) -> (Life, LogEnd) {
        let known = &self.known[node.index()];
        let (life, end) = self.told.of(node, core, known);
        if life == known.life { (Life::default(), end) } else { (life, end) }
    }

    /// What this node tells `to` of all others that it has met: of all their logs, since nodes need not have equally many cores.
    pub fn words(&self, me: ReplicaId, to: ReplicaId) -> impl Iterator<Item = Word> + '_ {
        let all = (0..).map(ReplicaId).zip(&self.known).take(self.node_count);
        let met = all.filter(move |(node, known)| {
            *node != me && *node != to && known.life.incarnation > Incarnation(0)
        });
        met.flat_map(|(node, known)| {
            (0..known.ends.len().max(1) as u16).map(move |core| Word::new(node, core, known))
        })
    }

    /// Another node, whose hello was accepted, tells what it remembers. True if what it speaks of is outdated, see
    /// [`Familiarity::is_outdated`]. Words of one node come in the order in which it told them.
    pub fn hear_word(&mut self, from: ReplicaId, word: &Word) -> bool {
        let (node, count) = (ReplicaId(word.node), self.node_count);
        // Who has not met a node, or not any more, contradicts nothing that it has said of it before.
        let says_nothing = word.incarnation == 0 && holds(Rule::SilenceTakesNothingBack);
        if node == from || node.index() >= count || from.index() >= count || says_nothing {
            return false;
        }
        self.revision += u64::from(self.told.hear(from, word));
        self.is_outdated(node)
    }

    /// Whether the life of a node that is remembered here is not the last one, as others have told: what still comes from that one
    /// must not be taken in any more.
    pub fn is_outdated(&self, node: ReplicaId) -> bool {
        let known = self.known[node.index()].life;
        self.told.lives(node).any(|told| {
            told.incarnation > known.incarnation
                || told.incarnation == known.incarnation
                    && told.name != known.name
                    && known.name != 0
                    && told.name != 0
        })
    }

    /// What was told, by whom and of whom: all that has to be written down.
    pub fn told(&self) -> impl Iterator<Item = (ReplicaId, ReplicaId, &Known)> {
        self.told.iter()
    }

    /// What was written down of what `by` told of `node`.
    pub fn set_told(&mut self, by: ReplicaId, node: ReplicaId, known: Known) {
        self.told.set(by, node, known);
    }

    /// A node says, in this life of it, how far the log of one of its cores is durable.
    pub fn hear(&mut self, node: ReplicaId, life: Incarnation, core: u16, lsn: Lsn) {
        let known = self.known.get_mut(node.index()).filter(|known| known.life.incarnation == life);
        if let Some(known) = known
            && lsn > known.end(core).lsn
            && let Some(end) = known.end_mut(core)
        {
            *end = LogEnd { lsn, since: life };
            self.is_changed();
        }
    }

    /// Takes over what another node remembers, but for what it says of `me`, for one that has forgotten it.
    pub fn learn(&mut self, me: ReplicaId, node: ReplicaId, told: &Known) {
        let known = self.known.get_mut(node.index()).filter(|_| node != me && told.life.incarnation.0 > 0);
        if let Some(known) = known {
            let before = known.clone();
            known.merge(told);
            if before != *known {
                self.is_changed();
            }
        }
    }
}

#[cfg(test)]
mod tests;
