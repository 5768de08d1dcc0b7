//! What nodes tell each other of third ones.
//!
//! Kept by who told it: whoever was wrong, because it was restored itself or has lost its disk, says something else once it is a
//! member again, and then nothing is left of what it said before. Words are about what their sender has met itself, never about
//! what it was told: so nothing goes around for ever.

use panch_wal::Lsn;
use panch_wire::ids::{Incarnation, REPLICAS_MAX, ReplicaId, ReplicaSet};
use panch_wire::peer::Life;
use rkyv::{Archive, Deserialize, Serialize};

use super::{Known, LogEnd};

/// What a node remembers of another one, with one of that node's logs.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    /// The number of the node it is about, from 0.
    pub node: u8,
    /// The core whose log it is.
    pub core: u16,
    /// The last life that was taken in; 0: none.
    pub incarnation: u32,
    /// Its directory.
    pub directory: u64,
    /// Its name; 0 if that is not known.
    pub name: u64,
    /// The life in which the end of the log was said.
    pub since: u32,
    /// The end of the log; 0: nothing was said.
    pub log_end: u64,
}

impl Word {
    pub(super) fn new(node: ReplicaId, core: u16, known: &Known) -> Self {
        let (Life { incarnation, directory, name }, end) = (known.life, known.end(core));
        Self {
            node: node.0,
            core,
            incarnation: incarnation.0,
            directory,
            name,
            since: end.since.0,
            log_end: end.lsn.0,
        }
    }

    pub(super) fn life(&self) -> Life {
        Life { incarnation: Incarnation(self.incarnation), directory: self.directory, name: self.name }
    }
}

/// All that was told.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Told {
    /// By teller, then by the node that it is about.
    by: [[Known; REPLICAS_MAX]; REPLICAS_MAX],
    /// By node: who has told something of it since this node started.
    tellers: [ReplicaSet; REPLICAS_MAX],
}

impl Told {
    /// The last life of a node that anybody has met, and the end of the log of a core of it beyond what is known here. Words about
    /// a life that is over count for nothing: the one after it was taken in.
    pub(super) fn of(&self, node: ReplicaId, core: u16, known: &Known) -> (Life, LogEnd) {
        let (mut life, mut end) = (known.life, LogEnd::default());
        let mut longest = known.end(core).lsn;
        for told in self.by.iter().map(|told| &told[node.index()]) {
            if told.life.incarnation < known.life.incarnation || told.life.incarnation == Incarnation(0) {
                continue;
            }
            let is_later = told.life.incarnation > life.incarnation;
            if is_later || life == known.life && told.life.incarnation == life.incarnation {
                life = told.life;
            }
            if told.end(core).lsn > longest {
                end = told.end(core);
                longest = end.lsn;
            }
        }
        (life, end)
    }

    /// Whether somebody has met a later life of a node than is known here, in this directory of it and not in the one known here. A
    /// later life in the same directory speaks for nobody: whoever comes from there has shown what is known here, too.
    pub(super) fn is_behind(&self, node: ReplicaId, known: &Known, directory: u64) -> bool {
        let mut lives = self.lives(node);
        known.life.directory != directory
            && lives.any(|life| life.incarnation > known.life.incarnation && life.directory == directory)
    }

    /// The lives of a node that anybody has told of.
    pub(super) fn lives(&self, node: ReplicaId) -> impl Iterator<Item = Life> {
        self.by.iter().map(move |told| told[node.index()].life)
    }

    /// Whether `by` has told something of a node since this one started.
    pub(super) fn has_told(&self, by: ReplicaId, node: ReplicaId) -> bool {
        self.tellers[node.index()].contains(by)
    }

    /// Takes in a word; true if it says something new.
    pub(super) fn hear(&mut self, from: ReplicaId, word: &Word) -> bool {
        let (node, life) = (usize::from(word.node), word.life());
        self.tellers[node].insert(from);
        let told = &mut self.by[from.index()][node];
        let before = told.life;
        if before != life {
            if before.directory != life.directory || life.incarnation < before.incarnation {
                told.ends.clear();
            }
            told.life = life;
        }
        let said = LogEnd { since: Incarnation(word.since), lsn: Lsn(word.log_end) };
        let place = told.end(word.core);
        // What it has heard and not written down when it crashed was said all the same.
        let is_more = said.lsn > place.lsn;
        if is_more && let Some(end) = told.end_mut(word.core) {
            *end = said;
        }
        before != life || is_more
    }

    /// What is left of it after a restart.
    pub(super) fn after_restart(&self) -> Self {
        Self { by: self.by.clone(), tellers: Default::default() }
    }

    /// By whom, and of whom, something was told.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ReplicaId, ReplicaId, &Known)> {
        let all = (0..).map(ReplicaId).zip(&self.by);
        let all = all.flat_map(|(by, told)| {
            (0..).map(ReplicaId).zip(told).map(move |(node, known)| (by, node, known))
        });
        all.filter(|(_, _, known)| known.life.incarnation > Incarnation(0))
    }

    pub(super) fn set(&mut self, by: ReplicaId, node: ReplicaId, known: Known) {
        self.by[by.index()][node.index()] = known;
    }
}
