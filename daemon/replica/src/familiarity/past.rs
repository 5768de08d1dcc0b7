//! What a node knows of its own past, and shows of it.

use panch_wal::Lsn;
use panch_wire::ids::Incarnation;
use panch_wire::peer::LifeKey;
use panch_wire::rule::{Rule, holds};

use super::{Claim, STARTS_MAX};

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
        if let Some(last) =
            self.0.last_mut().filter(|last| !was_named(last.incarnation) && holds(Rule::UnheardStartsDropped))
        {
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
