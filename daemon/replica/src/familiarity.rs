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
//! What nobody can notice: a copy is restored, and of the others only those are up that have not heard of anything later.

use panch_wal::Lsn;
use panch_wire::ids::{Incarnation, REPLICAS_MAX, ReplicaId, ReplicaSet};
use panch_wire::peer::{Life, LifeKey};
use panch_wire::rule::{Rule, holds};

use crate::founding::{Founder, Founders};

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
    /// What it shows.
    pub claim: Claim,
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
}

/// What is remembered of all nodes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Familiarity {
    known: [Known; REPLICAS_MAX],
    /// Who was found at the address of each node, for as long as this node runs.
    found: [Option<Life>; REPLICAS_MAX],
    /// Who has taken in this life of this node.
    recognised: ReplicaSet,
    /// What the nodes were when the cluster was founded: all that is known of those that were not met.
    founders: Founders,
    revision: u64,
}

impl Familiarity {
    /// What was written down.
    pub fn new(known: [Known; REPLICAS_MAX]) -> Self {
        Self { known, ..Self::default() }
    }

    /// Takes note of what the nodes were when the cluster was founded.
    pub fn set_founders(&mut self, founders: Founders) {
        self.founders = founders;
    }

    /// What the nodes were when the cluster was founded.
    pub fn founders(&self) -> &Founders {
        &self.founders
    }

    /// What is remembered, by node: all that has to be written down.
    pub fn known(&self) -> &[Known; REPLICAS_MAX] {
        &self.known
    }

    /// Grows with every change of what has to be written down.
    pub fn revision(&self) -> u64 {
        self.revision
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

    /// Judges a hello, and takes it in if it is familiar. If that changed anything (see [`Familiarity::revision`]), it must be
    /// written down before the hello is accepted.
    pub fn judge(&mut self, newcomer: &Newcomer) -> Judgement {
        match self.compare(newcomer) {
            Judgement::Forgetful if !self.recognised.contains(newcomer.node) => Judgement::Doubtful,
            judgement => judgement,
        }
    }

    fn compare(&mut self, newcomer: &Newcomer) -> Judgement {
        let Newcomer { node, core, life, returning, claim, .. } = *newcomer;
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
            if !is_named && !is_confirmed {
                return Judgement::Unconfirmed;
            }
        } else if before.incarnation == Incarnation(0) || returning {
            match self.founders[node.index()] {
                Founder::With(directory) if directory != life.directory && !returning => {
                    return Judgement::Doubtful;
                }
                Founder::Absent if !returning && !self.recognised.contains(node) => return Judgement::Unmet,
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
            asked if asked.since == end.since => asked.lsn.min(end.lsn),
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
            self.revision += 1;
        }
        Judgement::Familiar
    }

    /// A node says, in this life of it, how far the log of one of its cores is durable.
    pub fn hear(&mut self, node: ReplicaId, life: Incarnation, core: u16, lsn: Lsn) {
        let known = self.known.get_mut(node.index()).filter(|known| known.life.incarnation == life);
        if let Some(known) = known
            && lsn > known.end(core).lsn
            && let Some(end) = known.end_mut(core)
        {
            *end = LogEnd { lsn, since: life };
            self.revision += 1;
        }
    }

    /// Takes over what another node remembers, but for what it says of `me`, for one that has forgotten it.
    pub fn learn(&mut self, me: ReplicaId, node: ReplicaId, told: &Known) {
        let known = self.known.get_mut(node.index()).filter(|_| node != me && told.life.incarnation.0 > 0);
        if let Some(known) = known {
            let before = known.clone();
            known.merge(told);
            self.revision += u64::from(before != *known);
        }
    }
}

/// One start of a node, as one of its cores notes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// The incarnation that began.
    pub incarnation: Incarnation,
    /// The key of the life that began.
    pub key: LifeKey,
    /// The last commit group of the log that was found.
    pub log_end: Lsn,
}

/// What a node notes of its starts, or one of its cores of the log that it found, oldest first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Starts(Vec<Start>);

impl Starts {
    /// What was written down.
    pub fn new(starts: Vec<Start>) -> Self {
        Self(starts)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Start> {
        self.0.iter()
    }

    /// Adds a start; the oldest is forgotten beyond [`STARTS_MAX`]. It takes the place of the last one if nobody can have heard of
    /// that, as `was_named` says: then the shorter log of the two counts. The last one may have written, and what it had found may
    /// be gone since.
    pub fn add(&mut self, start: Start, was_named: impl Fn(Incarnation) -> bool) {
        if let Some(last) = self.0.last_mut().filter(|last| !was_named(last.incarnation)) {
            let log_end = last.log_end.min(start.log_end);
            *last = Start { log_end, ..start };
            return;
        }
        self.0.push(start);
        let excess = self.0.len().saturating_sub(STARTS_MAX);
        self.0.drain(..excess);
    }

    /// Whether every start from this incarnation on that others can have heard of is noted.
    fn covers(&self, incarnation: Incarnation) -> bool {
        self.0.first().is_some_and(|first| first.incarnation <= incarnation)
    }

    /// The key of an incarnation.
    pub fn key(&self, incarnation: Incarnation) -> Option<LifeKey> {
        self.0.iter().find(|start| start.incarnation == incarnation).map(|start| start.key)
    }

    /// The log that was found by the first start after `incarnation`; `None` if that is not noted (any more).
    pub fn log_end_after(&self, incarnation: Incarnation) -> Option<Lsn> {
        let is_covered = self.covers(Incarnation(incarnation.0.saturating_add(1)));
        let first = self.0.iter().find(|start| start.incarnation > incarnation);
        first.filter(|_| is_covered).map(|start| start.log_end)
    }

    /// The incarnation before the last one noted; 0 if there is none.
    pub fn previous(&self) -> Incarnation {
        self.0.iter().rev().nth(1).map_or(Incarnation(0), |start| start.incarnation)
    }
}

/// What a node is asked to show: a life of its own that is remembered, and the one since which an end of its log is. Of what is
/// not remembered: 0.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Asked {
    /// The life.
    pub earlier: Incarnation,
    /// Since when the end of the log is remembered.
    pub since: Incarnation,
}

/// What a node shows of its past, as far as it has notes: see [`Claim`]. 0 for what it cannot show.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Shown {
    /// An earlier incarnation.
    pub earlier: Incarnation,
    /// The key of that life.
    pub earlier_key: LifeKey,
    /// Speaks of the first start after this incarnation; of the present, if it is this one.
    pub since: Incarnation,
    /// The end of the log that was found.
    pub log_end: Lsn,
}

impl Shown {
    /// As it is judged.
    pub fn claim(&self) -> Claim {
        let Self { earlier, since, log_end, .. } = *self;
        Claim { earlier, earlier_name: self.earlier_key.life(), since, log_end }
    }
}

/// What a node knows of its past, with the log of one of its cores.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// Its lives that others can have heard of, with this one.
    pub lives: &'a Starts,
    /// What the core found.
    pub logs: &'a Starts,
    /// This life.
    pub incarnation: Incarnation,
    /// How far the log is durable.
    pub log_end: Lsn,
}

impl Past<'_> {
    /// Answers what is asked. Of a life that was forgotten because it was too long ago, nothing is claimed; that it is none of
    /// its own lives, although it has notes of that time, is the answer that a wrong key gives.
    pub fn show(&self, asked: Asked) -> Shown {
        let mut shown = Shown::default();
        if self.lives.covers(asked.earlier) {
            let key = self.lives.key(asked.earlier).unwrap_or_default();
            (shown.earlier, shown.earlier_key) = (asked.earlier, key);
        }
        let log_end = if asked.since == self.incarnation {
            Some(self.log_end)
        } else {
            self.logs.log_end_after(asked.since)
        };
        if let Some(log_end) = log_end {
            (shown.since, shown.log_end) = (asked.since, log_end);
        }
        shown
    }
}

#[cfg(test)]
mod tests;
