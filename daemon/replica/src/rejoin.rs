//! Coming back without a disk: a replica of a node that has lost its disk asks all others what it may have said, and claims
//! nothing until it has executed all of that. Why this is safe: [`panch_consensus::rejoin`].
//!
//! ```text
//!            all others have answered        everything up to the horizon
//!   Asking -------------------------> Mute ------ executed and durable ----> Member
//! ```
//! Invariants:
//! * While it asks, the protocol is not started: nothing of it is taken in or said.
//! * Only answers to this incarnation count; only members give them, after they know of the incarnation: they take in nothing
//!   of the earlier life any more ([`Core::admits`](crate::core::Core::admits)).
//! * While mute, no claim leaves the gate, not even to this replica itself, and no command of a client is taken.
//!
//! A node that starts again and has lost nothing, as far as it knows, waits in the same way (`Unrecognised`) until all others have taken in
//! this start, or were out of reach for a while: its directory may be a copy from earlier, and the one that knows may be slow. It
//! does not say then what others on their way back may have voted for: it may know too little.
//!
//! A node whose votes counted before they were on stable storage has forgotten the last of them when its machine stops or a write
//! fails ([`Life`]). It comes back in the same way, with what its log still holds: that was said, and is remembered. What was said after it is
//! what a lost disk has forgotten. The replica cannot tell what of its log was said last, so it must not be believed before it has executed
//! everything up to the horizon, whatever the log holds.

use panch_consensus::protocol::{Persist, Protocol};
use panch_consensus::quorum::classic_quorum;
use panch_consensus::rejoin::Horizon;
use panch_wire::command::CommandError;
use panch_wire::ids::{Incarnation, REPLICAS_MAX, ReplicaId, ReplicaSet};
use panch_wire::record::Fixed;
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};
use rkyv::{Archive, Deserialize, Serialize};

use crate::outbox::{MessageKind, Outbox};
use crate::replica::{Replica, Surroundings};

/// What a node writes down of its present life when it begins, before anything else; and at an orderly end.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Life {
    /// Votes count that may not be on stable storage.
    pub is_unsynced: bool,
    /// Names the time since the machine was started; 0: unknown, or it does not count, since a write or sync has failed.
    pub boot: u64,
    /// It has ended in order: everything is on stable storage.
    pub is_closed: bool,
}

impl Life {
    /// Whether votes of this life are forgotten, as seen after the start of the machine named `boot`. What a process has written
    /// is there for the next one, unless the machine has stopped in between, or a write or sync has failed ([`Life::doubted`]).
    pub fn has_lost_votes(&self, boot: u64) -> bool {
        let same_boot = self.boot == boot && boot != 0;
        self.is_unsynced && !self.is_closed && !same_boot && holds(Rule::PeriodicPowerRejoins)
    }

    /// This life, after a write or sync of its log has failed. The kernel may have dropped what it had taken in before, and does not say
    /// so again (protocols D2).
    #[must_use]
    pub fn doubted(self) -> Self {
        if holds(Rule::PeriodicFailureRejoins) { Self { boot: 0, ..self } } else { self }
    }

    /// The life that begins after this one. What this one has left unsynced is no safer for that, unless it is known to be lost.
    #[must_use]
    pub fn next(&self, is_unsynced: bool, boot: u64) -> Self {
        let is_owed = self.is_unsynced && !self.is_closed && !self.has_lost_votes(boot);
        Self { is_unsynced: is_unsynced || is_owed, boot, is_closed: false }
    }
}

/// Who has not answered is asked again after this.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What replicas say to each other when one has lost its disk.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejoinMessage {
    /// See [`Ask`].
    Ask(Ask),
    /// See [`Answer`].
    Answer(Answer),
}

/// "What may I have said before this incarnation?"
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The sender's incarnation.
    pub incarnation: u32,
}

/// Answers [`Ask`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Repeats the question.
    pub incarnation: u32,
    /// The highest that the sender knows of anything.
    pub horizon: Horizon,
}

/// Whether a replica may claim something.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Membership {
    /// Like any other.
    #[default]
    Member,
    /// It has lost its disk and waits for these to say what it may have said.
    Asking(ReplicaSet),
    /// It is catching up with that, so many positions in all, and claims nothing meanwhile.
    Mute(u64),
    /// It waits until the others have taken in this start of its node.
    Unrecognised,
}

/// Whether a node that remembers another one in this incarnation, at most, has forgotten it: that one's directory began in
/// `returned_in`, because the disk before was lost, and it was no member again before all others had met that. 0: it began otherwise.
pub fn has_forgotten(known: Incarnation, returned_in: Incarnation) -> bool {
    known < returned_in && holds(Rule::ForgetfulDoNotObject)
}

/// How far a replica is on its way back.
#[derive(Debug)]
enum Stage {
    Member,
    Unrecognised,
    Asking { answered: ReplicaSet, horizon: Horizon, ask_at: Instant },
    Mute { horizon: Horizon, until: Option<Persist> },
}

/// A replica's way back, and what it knows of others on theirs.
#[derive(Debug)]
pub(crate) struct Rejoin {
    stage: Stage,
    /// By replica: the incarnation in which it last asked.
    asked: [Incarnation; REPLICAS_MAX],
}

impl Rejoin {
    /// Of a member, or of one that has lost its disk.
    pub(crate) fn new(rejoining: bool) -> Self {
        let asking = Stage::Asking {
            answered: ReplicaSet::default(),
            horizon: Horizon::default(),
            ask_at: Instant::default(),
        };
        Self { stage: if rejoining { asking } else { Stage::Member }, asked: Default::default() }
    }

    pub(crate) fn is_member(&self) -> bool {
        matches!(self.stage, Stage::Member)
    }

    /// Whether the protocol is not started.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Asking { .. } | Stage::Unrecognised)
    }

    /// Whether it has lost its disk and is not a member again.
    pub(crate) fn is_returning(&self) -> bool {
        !matches!(self.stage, Stage::Member | Stage::Unrecognised)
    }

    /// It waits until the others have taken in this start, unless it has lost its disk.
    pub(crate) fn await_recognition(&mut self) {
        if self.is_member() && holds(Rule::StartRecognised) {
            self.stage = Stage::Unrecognised;
        }
    }

    /// The others have taken in this start; false if it did not wait for that.
    pub(crate) fn set_recognised(&mut self) -> bool {
        let has_waited = matches!(self.stage, Stage::Unrecognised);
        if has_waited {
            self.stage = Stage::Member;
        }
        has_waited
    }

    /// When those that have not answered are asked again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if let Stage::Asking { ask_at, .. } = self.stage { Some(ask_at) } else { None }
    }
}

impl<P: Protocol> Replica<P> {
    /// Whether this replica may claim something.
    pub(crate) fn membership(&self) -> Membership {
        match &self.rejoin.stage {
            Stage::Member => Membership::Member,
            Stage::Unrecognised => Membership::Unrecognised,
            Stage::Asking { answered, .. } => {
                let mut missing = ReplicaSet::first(self.group.replica_count);
                missing.remove(self.group.me);
                answered.iter().for_each(|id| missing.remove(id));
                Membership::Asking(missing)
            }
            Stage::Mute { horizon, .. } => Membership::Mute(horizon.count()),
        }
    }

    /// Takes in a message about a replica that has lost its disk.
    pub(crate) fn on_rejoin<O: Outbox>(
        &mut self,
        from: ReplicaId,
        message: RejoinMessage,
        around: &mut Surroundings<'_, O>,
    ) {
        match message {
            RejoinMessage::Ask(Ask { incarnation }) => {
                if !self.rejoin.is_member() {
                    return; // what it knows may be the less
                }
                let asked = &mut self.rejoin.asked[from.index()];
                if Incarnation(incarnation) > *asked {
                    *asked = Incarnation(incarnation);
                    self.protocol.forget(from);
                }
                let answer = Answer { incarnation, horizon: self.protocol.horizon() };
                self.send_rejoin(from, RejoinMessage::Answer(answer), around.out);
            }
            RejoinMessage::Answer(Answer { incarnation, horizon }) => {
                let own = self.incarnation;
                let Stage::Asking { answered, horizon: highest, .. } = &mut self.rejoin.stage else { return };
                if Incarnation(incarnation) != own || from == self.group.me || !horizon.is_plausible() {
                    return;
                }
                answered.insert(from);
                highest.merge(&horizon);
                let (answered, highest) = (answered.count() + 1, *highest);
                let everybody = self.group.replica_count;
                let enough =
                    if holds(Rule::RejoinAsksEverybody) { everybody } else { classic_quorum(everybody) };
                if answered >= enough {
                    self.start_mute(highest, around);
                }
            }
        }
    }

    /// The others have taken in this start of the node: the protocol starts.
    pub(crate) fn set_recognised<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        if self.rejoin.set_recognised() {
            self.protocol.start(around.now, &mut self.effects);
            self.settle(around);
        }
    }

    fn start_mute<O: Outbox>(&mut self, horizon: Horizon, around: &mut Surroundings<'_, O>) {
        self.rejoin.stage = Stage::Mute { horizon, until: None };
        self.gate.set_mute(true);
        self.protocol.rejoin(&horizon, &mut self.effects);
        self.protocol.start(around.now, &mut self.effects);
        self.settle(around);
    }

    /// At the end of a turn: asks again, or looks whether enough is executed and durable.
    pub(crate) fn advance_rejoin<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        match &mut self.rejoin.stage {
            Stage::Member | Stage::Unrecognised => {}
            Stage::Asking { answered, ask_at, .. } => {
                if *ask_at > around.now {
                    return;
                }
                *ask_at = around.now + ASK_EVERY;
                let answered = *answered;
                let ask = RejoinMessage::Ask(Ask { incarnation: self.incarnation.0 });
                for id in ReplicaSet::first(self.group.replica_count).iter() {
                    if id != self.group.me && !answered.contains(id) {
                        self.send_rejoin(id, ask, around.out);
                    }
                }
            }
            Stage::Mute { horizon, until } => {
                if until.is_none() && horizon.is_within(&self.executed) {
                    // Everything executed is in the log by now, or came with a snapshot that is durable.
                    *until = Some(self.effects.last_persist());
                }
                let is_durable = |point: Persist| point <= self.gate.durable() || !holds(Rule::RejoinDurable);
                if until.is_some_and(is_durable) {
                    self.rejoin.stage = Stage::Member;
                    self.gate.set_mute(false);
                    self.protocol.rejoined(&mut self.effects);
                    self.settle(around);
                }
            }
        }
    }

    /// Commands and reads that need more than this node has are answered at once with `error`: not done, try another node.
    pub(crate) fn refuse_commands<O: Outbox>(&mut self, error: CommandError, out: &mut O) {
        while let Some(tokens) = self.batcher.overdue_waiting(Instant(u64::MAX)) {
            self.answer(tokens, error, out);
        }
        for level in 0..self.reads.len() {
            let _ = self.reads[level].close_round();
            while let Some(round) = self.reads[level].next_overdue(Instant(u64::MAX)) {
                self.fail_round(level, round, error, out);
            }
        }
        self.refuse_flights(out);
    }

    fn send_rejoin(&mut self, to: ReplicaId, message: RejoinMessage, out: &mut impl Outbox) {
        self.encoded.clear();
        message.encode_fixed(&mut self.encoded);
        out.send(to, self.group.id, MessageKind::Rejoin, &self.encoded, None);
        self.probe.messages += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_are_lost_with_the_power_or_the_disk_unless_they_were_synced_or_the_life_was_closed() {
        let life = Life { is_unsynced: true, boot: 5, is_closed: false };
        for (life, boot, lost) in [
            (life, 5, false),
            (life, 6, true),
            (life, 0, true),
            (Life { boot: 0, ..life }, 0, true),
            (Life { is_closed: true, ..life }, 6, false),
            (Life { is_unsynced: false, ..life }, 6, false),
            // Started with another durability meanwhile, and killed: what the first life wrote is as unsynced as it was.
            (life.next(false, 5), 6, true),
            (life.next(false, 5).next(false, 5), 6, true),
            (Life { is_closed: true, ..life }.next(false, 5), 6, false),
            (life.next(false, 6), 7, false),
            (Life::default().next(true, 5), 6, true),
            (life.doubted(), 5, true),
            (Life { is_unsynced: false, ..life }.doubted(), 5, false),
            (life.next(false, 5).doubted(), 5, true),
        ] {
            assert_eq!(life.has_lost_votes(boot), lost, "{life:?} {boot}");
        }
    }
}
