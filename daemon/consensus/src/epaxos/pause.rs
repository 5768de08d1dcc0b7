//! When nothing is executed: a snapshot is to replace the state.
//!
//! What is executed beyond a snapshot is executed again once it is installed, so its batches must be in memory until then, and a snapshot that
//! has less than this replica is not taken. A replica that lacks what only a snapshot has would go on executing what does not interfere with
//! it, faster than a snapshot comes over a narrow link, and no snapshot would ever be of use. So it rests as long as peers say that only a
//! snapshot can help, and while one arrives. What finds no room in memory meanwhile is fetched later.
//!
//! Invariants:
//! * Word of a peer counts only about what it was asked for, and only until the instance is known to be committed.
//! * If no snapshot begins to arrive, or one that has arrived is of no use, what is ready is executed now and then.
//! * If no snapshot arrives, recoveries find out whether the word was true: they are put off for [`GONE_AFTER`] times the patience only.
//! * If the others need the votes of this replica, it does not rest when memory is short: they could decide nothing.

use panch_wire::ids::{Position, ReplicaId};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use super::Epaxos;
use super::collect::GONE_AFTER;
use super::message::Covered;
use crate::protocol::Effects;

/// A snapshot is given so many times the patience to begin to arrive. After that, what is ready is executed now and then.
const MADE_WITHIN: u32 = 3;

/// A peer has said that only a snapshot can help.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    /// With what.
    position: Position,
    /// Nothing is executed before this.
    until: Instant,
    /// When the first peer said so, or a snapshot has grown since.
    grown: Instant,
}

impl Epaxos {
    /// Whether nothing is executed now. What the graph calls executed may then be no more than ready for it.
    pub(super) fn is_paused(&self) -> bool {
        self.installing || self.pause.is_some_and(|pause| self.now < pause.until) && !self.is_pressed()
    }

    /// Whether memory is short, and the others cannot do without this replica.
    fn is_pressed(&self) -> bool {
        let others = self.peers().filter(|peer| !self.is_suspected(*peer)).count();
        self.held_size > self.tuning.unchosen_size_max / 2 && others < self.quorum()
    }

    /// Whether a snapshot may still begin to arrive, or grows.
    pub(super) fn may_get_snapshot(&self) -> bool {
        let within = MADE_WITHIN * self.tuning.recover_always_after;
        self.pause.is_some_and(|pause| self.now.since(pause.grown) < within)
    }

    /// The pause ends with its cause.
    pub(super) fn end_pause(&mut self) {
        self.pause.take_if(|pause| self.committed.contains(pause.position));
    }

    /// It is executed elsewhere, and a snapshot is on its way: a recovery can wait.
    pub(super) fn on_covered(&mut self, from: ReplicaId, message: Covered) {
        let position = message.position;
        if self.committed.contains(position) || !self.was_asked(from, position) {
            return;
        }
        let (now, patience) = (self.now, self.tuning.recover_always_after);
        let pause = self.pause.get_or_insert(Pause { position, until: now + patience, grown: now });
        let is_made = now.since(pause.grown) < MADE_WITHIN * patience && holds(Rule::EpaxosPauseLasts);
        if now >= pause.until || is_made {
            (pause.position, pause.until) = (position, now + patience);
        }
        // That is an answer: what else is missing is asked for at once.
        self.fetch_waits[usize::from(position.row)].on_answer();
        if now.since(pause.grown) < GONE_AFTER * patience {
            self.instance(position).since = now;
        }
    }

    /// A snapshot that a peer sends has grown.
    pub(super) fn on_snapshot_grown(&mut self, now: Instant) {
        let patience = self.tuning.recover_always_after;
        if let Some(pause) = self.pause.as_mut().filter(|_| holds(Rule::EpaxosPauseLasts)) {
            (pause.until, pause.grown) = (now + patience, now);
        }
    }

    /// A snapshot that has arrived cannot be taken.
    pub(super) fn on_useless_snapshot(&mut self) {
        let now = self.now;
        if let Some(pause) = &mut self.pause {
            pause.until = pause.until.min(now);
        }
    }

    /// A peer is asked for numbers of the row up to `upto`.
    pub(super) fn note_asked(&mut self, peer: ReplicaId, row: u8, upto: u64) {
        let asked = &mut self.members[peer.index()].asked[usize::from(row)];
        *asked = upto.max(*asked);
    }

    /// Whether word of the peer about the instance was asked for.
    fn was_asked(&self, peer: ReplicaId, position: Position) -> bool {
        position.number <= self.members[peer.index()].asked[usize::from(position.row)]
            || self.coordinations.contains_key(&position)
            || !holds(Rule::EpaxosCoveredIfAsked)
    }

    /// Executes everything that can be.
    pub(super) fn drain(&mut self, effects: &mut Effects<Self>) {
        self.end_pause();
        if self.is_paused() {
            return;
        }
        while let Some(position) = self.graph.next() {
            self.execute(position, effects);
        }
        self.counters.component_max = self.graph.component_max();
        self.trim_tail();
    }
}
