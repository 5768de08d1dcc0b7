//! What execution or a read waits for and its command leader does not tell, because the link to it is cut or narrow: whoever has named it
//! is asked, after about as long as the command leader's own word takes at most.
//!
//! Somebody has voted for it, so it is known elsewhere, and most often decided there soon: who is asked too early tells it as soon as it is
//! decided. Once the answer of somebody else has come first, the next is asked for at once, until the command leader is first again. What is
//! missing for other reasons is fetched by `recovery::scan`.
//!
//! Invariants:
//! * Of each row one thing is asked for at a time: the first that is missing, with what is known to be needed behind it.
//! * Nothing is asked for twice within the time after which an answer counts as late.

use panch_wire::ids::{Position, REPLICAS_MAX, ReplicaId};
use panch_wire::time::{Duration, Instant};

use super::Epaxos;
use super::message::Message;
use crate::protocol::Effects;

/// Word of a command leader takes no more than so many times as long as the votes of the quickest peer.
const PATIENCE: u32 = 2;

/// What is missing of one row.
#[derive(Clone, Copy, Default, Debug)]
struct Missing {
    /// The first number that is; 0: nothing.
    first: u64,
    /// Since when that is so.
    since: Instant,
    /// Up to here it was asked for, and when.
    asked: Option<(u64, Instant)>,
    /// The last one that was asked for came from somebody else than its command leader.
    is_late: bool,
    /// Who has named the highest number of the row; its owner if nobody else did.
    namer: Option<ReplicaId>,
}

/// What is missing, by row.
#[derive(Clone, Default, Debug)]
pub(super) struct Chase {
    rows: [Missing; REPLICAS_MAX],
    /// When something may have to be asked for.
    pub(super) next_at: Option<Instant>,
}

impl Chase {
    /// Nothing is missing.
    fn rest(&mut self) {
        for row in &mut self.rows {
            (row.first, row.asked) = (0, None);
        }
    }

    fn wake_at(&mut self, at: Instant) {
        self.next_at = Some(self.next_at.map_or(at, |other| other.min(at)));
    }
}

impl Epaxos {
    /// A peer has named numbers of others' rows: it can be asked for them.
    pub(super) fn note_namer(&mut self, from: ReplicaId, message: &Message) {
        let numbers = match message {
            Message::PreAcceptOk(message) => &message.deps.0,
            Message::Commit(message) => &message.deps.0,
            Message::ReadReply(message) => &message.known,
            _ => return,
        };
        if from == self.group.me {
            return;
        }
        let rows = self.chase.rows.iter_mut().zip(&self.announced).zip(numbers).enumerate();
        for (row, ((missing, announced), number)) in rows.take(self.group.replica_count) {
            if number >= announced && row != from.index() {
                missing.namer = Some(from);
            }
        }
    }

    /// A commit becomes known. Whose word came first?
    pub(super) fn note_teller(&mut self, from: ReplicaId, position: Position) {
        let missing = &mut self.chase.rows[usize::from(position.row)];
        let was_asked = missing.asked.is_some_and(|(upto, _)| position.number <= upto);
        if missing.first > 0 && position.number >= missing.first {
            let is_owners = from == ReplicaId(position.row);
            missing.is_late = !is_owners && (was_asked || missing.is_late);
        }
    }

    /// How long the word of a command leader takes at most, if all is well.
    fn chase_patience(&self) -> Duration {
        let peers = self.peers().filter(|peer| !self.is_suspected(*peer));
        let quickest = peers.filter_map(|peer| self.members[peer.index()].standing.latency()).min();
        let (least, most) = (self.tuning.slow_after / 50, self.tuning.slow_after);
        quickest.map_or(most, |quickest| (PATIENCE * quickest).clamp(least, most))
    }

    /// What keeps the first number of the row that is not executed from being executed, if it is committed.
    fn obstacle_of(&mut self, row: u8) -> Option<Position> {
        let number = self.graph.executed().upto(row) + 1;
        self.graph.missing_for(Position { row, number })
    }

    /// What own commands and reads wait for: per row, from where and up to where.
    fn missing(&mut self) -> [(u64, u64); REPLICAS_MAX] {
        let mut all = [(u64::MAX, 0); REPLICAS_MAX];
        let mut add = |position: Position, first: u64| {
            let (from, upto) = &mut all[usize::from(position.row)];
            *from = first.min(*from);
            *upto = position.number.max(*upto);
        };
        if self.graph.waiting_count() > 0
            && let Some(position) = self.obstacle_of(self.group.me.0)
        {
            add(position, position.number.min(self.committed.upto(position.row) + 1));
        }
        if let Some(target) = self.read_target() {
            for row in 0..self.group.replica_count as u8 {
                let (number, settled) = (target[usize::from(row)], self.committed.upto(row));
                if settled < number {
                    add(Position { row, number }, settled + 1);
                } else if self.graph.executed().upto(row) < number
                    && let Some(position) = self.obstacle_of(row)
                {
                    add(position, position.number.min(self.committed.upto(position.row) + 1));
                }
            }
        }
        all
    }

    /// At the end of each turn: asks for what is waited for and late.
    pub(super) fn chase(&mut self, effects: &mut Effects<Self>) {
        let waits = self.graph.waiting_count() > 0 || self.read_target().is_some();
        if !waits || self.is_paused() {
            if self.chase.next_at.take().is_some() {
                self.chase.rest();
            }
            return;
        }
        self.chase.next_at = None;
        let missing = self.missing();
        let (now, patience) = (self.now, self.chase_patience());
        let again_after = self.tuning.slow_after.max(2 * patience);
        for row in self.peers().map(|peer| peer.0) {
            let (first, upto) = missing[usize::from(row)];
            let state = &mut self.chase.rows[usize::from(row)];
            if upto == 0 {
                (state.first, state.asked) = (0, None);
                continue;
            }
            if state.first != first {
                (state.first, state.since) = (first, now);
            }
            state.asked = state.asked.filter(|(asked, _)| *asked >= first);
            let Missing { since, asked, is_late, namer, .. } = *state;
            let is_hopeless = is_late || self.is_suspected(ReplicaId(row));
            let at = match asked {
                Some((_, at)) => at + again_after,
                None if is_hopeless => since,
                None => since + patience,
            };
            if now < at {
                self.chase.wake_at(at);
                continue;
            }
            // Who is asked in vain may have failed, too: then the others take turns.
            match namer.filter(|peer| asked.is_none() && !self.is_suspected(*peer)) {
                Some(peer) => self.fetch_from(peer, row, first, upto, effects),
                None => self.fetch(row, first, upto, effects),
            }
            self.counters.chased += 1;
            // As much as finds room here.
            let asked = self.fetching[usize::from(row)].map_or(upto, |asked| asked.min(upto));
            self.chase.rows[usize::from(row)].asked = Some((asked, now));
            self.chase.wake_at(now + again_after);
        }
    }
}
