//! A replica whose state is not that of the others: it says so, and stops serving its group.
//!
//! ```text
//!             a majority has another digest
//!   Sound ------------------------------------> Outvoted     for good: only an empty data directory ends it
//!    |  ^                                          ^
//!    |  '- agrees with a majority -.               |
//!    '---- digests differ, and ----+-> Undecided --'
//!          none has a majority
//! ```
//! Digests are compared at common positions, see [`crate::checkpoint`]. Two that differ are proof that something is lost or wrong; that
//! a majority has another digest says where.
//!
//! Invariants:
//! * What is not [`Standing::Sound`] answers no command and no read, stale ones included. What was in flight is answered as unknown.
//! * A standing is in the log, and repeated in every segment: a restart does not make a replica forget that it must not serve. The peers
//!   would show it again, but only after some reports, and stale reads need no peer.
//! * A replica that is outvoted sends no snapshot, and its peers take none of it. So it does not lead either: who needs a snapshot would get
//!   none.
//! * One peer, whatever digests it reports, stops nobody who agrees with a majority; what it says to be decided does so until the next
//!   digests show that, and once in its life.
//!
//! Sooner than digests can tell, a replica may hear that something is decided otherwise than it knows, from a peer that says so or a leader
//! whose first phase has missed what this replica has committed: somebody has forgotten a vote. It stops at once, undecided, until
//! digests of states that have that decision behind them say who is right. They lie apart, and have nothing to compare while those who
//! forgot have executed less.
//!
//! It goes on voting. State follows from what was decided, votes decide, and a wrong state says nothing about the votes that a log with
//! checksums holds: a forgotten vote is noticed by those who remember it, see [`crate::rejoin`]. A replica that fell silent
//! would take from the majority that is right what it needs to survive its next failure, and in the undecided case the votes by
//! which a third replica gets to where it can tell who is right.

use panch_consensus::protocol::{Contradiction, Order, Protocol};
use panch_wire::ids::{Position, REPLICAS_MAX, ReplicaId, ReplicaSet};
use panch_wire::record::Fixed;
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};
use rkyv::{Archive, Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, DigestCounts, Disagreement, Finding, Place, RECENT_MAX};
use crate::outbox::{MessageKind, Outbox};
use crate::replica::{Replica, STANDING_RECORD, Surroundings};

/// Reports of what is new leave at most this often.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Everything is reported again after this, because a report may be lost.
const REPEAT_EVERY: Duration = Duration::from_secs(1);
/// Reports of one turn.
const REPORT_COUNT_MAX: usize = 4;
/// Checkpoints of one report.
const CHECKPOINT_COUNT_MAX: usize = 8;
/// How long a replica that disagrees with some waits for a majority to show, before it stops serving.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a replica may serve.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Standing {
    /// It knows of nothing that speaks against it.
    #[default]
    Sound,
    /// Replicas differ, and no digest has a majority: nobody knows who is right.
    Undecided(Disagreement),
    /// A majority has another digest.
    Outvoted(Disagreement),
}

/// What operators see of the comparison.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DigestStatus {
    /// The latest own checkpoints, oldest first.
    pub recent: [Option<Checkpoint>; RECENT_MAX],
    /// Peers that a majority with this replica disagrees with, or that say so themselves.
    pub wrong: ReplicaSet,
    /// The latest disagreement with one of them.
    pub dissent: Option<Disagreement>,
    /// Counts.
    pub counts: DigestCounts,
}

/// A digest as it is reported.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReportedCheckpoint {
    /// The row.
    pub row: u8,
    /// The last number that it covers; 0: none.
    pub number: u64,
    /// The digest.
    pub digest: u64,
}

/// What a replica says of its state. It asserts nothing that it would have to remember.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct DigestReport {
    /// How many numbers apart the sender's checkpoints lie.
    pub every: u64,
    /// Names the set of positions that are executed.
    pub frontier: u64,
    /// Of the whole state there.
    pub digest: u64,
    /// The sender does not serve because a majority disagrees with it.
    pub outvoted: bool,
    /// Some of its checkpoints.
    pub checkpoints: [ReportedCheckpoint; CHECKPOINT_COUNT_MAX],
}

/// A standing in the log; the latest counts.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct StandingRecord {
    /// 0: sound, and the rest means nothing; 1: undecided; 2: outvoted.
    standing: u8,
    /// 0: `number` names a frontier; it is a number of `row`: 1: of a checkpoint, 2: of a decision.
    place: u8,
    row: u8,
    others: u16,
    number: u64,
    own: u64,
    other: u64,
}

impl StandingRecord {
    fn of(standing: Standing) -> Self {
        let (code, found) = match standing {
            Standing::Sound => (0, None),
            Standing::Undecided(found) => (1, Some(found)),
            Standing::Outvoted(found) => (2, Some(found)),
        };
        let Some(Disagreement { at, own, other, others }) = found else {
            return Self { standing: code, place: 0, row: 0, others: 0, number: 0, own: 0, other: 0 };
        };
        let others = others.iter().fold(0, |bits, id| bits | 1 << id.0);
        let (place, row, number) = match at {
            Place::Frontier(frontier) => (0, 0, frontier),
            Place::Checkpoint(Position { row, number }) => (1, row, number),
            Place::Decision(Position { row, number }) => (2, row, number),
        };
        Self { standing: code, place, row, others, number, own, other }
    }

    /// `None` if it means nothing.
    fn standing(self) -> Option<Standing> {
        let Self { standing, place, row, others: bits, number, own, other } = self;
        let mut others = ReplicaSet::default();
        for id in (0..REPLICAS_MAX as u8).filter(|id| bits & 1 << id != 0) {
            others.insert(ReplicaId(id));
        }
        let at = match place {
            0 => Place::Frontier(number),
            1 => Place::Checkpoint(Position { row, number }),
            2 => Place::Decision(Position { row, number }),
            _ => return None,
        };
        let found = Disagreement { at, own, other, others };
        match standing {
            0 => Some(Standing::Sound),
            1 => Some(Standing::Undecided(found)),
            2 => Some(Standing::Outvoted(found)),
            _ => None,
        }
    }
}

/// A replica's own standing, and when it reports next.
#[derive(Default, Debug)]
pub(crate) struct Watch {
    standing: Standing,
    /// A disagreement that a majority has not settled, and since when.
    doubt: Option<(Instant, Disagreement)>,
    /// Peers that have said in their present life that something is decided which is not: digests have shown that.
    refuted: ReplicaSet,
    reported_at: Instant,
    /// How many positions were executed at the last report.
    reported_count: u64,
    repeat_at: Instant,
}

impl Watch {
    /// Whether commands and reads may be answered.
    #[inline]
    pub(crate) fn serves(&self) -> bool {
        self.standing == Standing::Sound
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// What must be repeated in each segment of the log.
    pub(crate) fn record(&self) -> Option<StandingRecord> {
        (!self.serves() && holds(Rule::StandingRestated)).then(|| StandingRecord::of(self.standing))
    }

    fn found(&self) -> Option<Disagreement> {
        match self.standing {
            Standing::Sound => self.doubt.map(|(_, found)| found),
            Standing::Undecided(found) | Standing::Outvoted(found) => Some(found),
        }
    }
}

/// Whether agreement with a majority at `confirmed` settles a disagreement at `doubtful`: it is about the same place, or about a
/// whole state that is not before it.
fn settles(confirmed: Place, doubtful: Place, is_log: bool) -> bool {
    match (confirmed, doubtful) {
        // The present state.
        (Place::Frontier(_), _) => true,
        // No digest is of a decision.
        (Place::Decision(_), _) => false,
        (Place::Checkpoint(confirmed), Place::Decision(doubtful)) => {
            is_log && confirmed.number >= doubtful.number
        }
        (Place::Checkpoint(confirmed), Place::Checkpoint(doubtful)) => {
            confirmed == doubtful || is_log && confirmed.number >= doubtful.number
        }
        (Place::Checkpoint(confirmed), Place::Frontier(slot)) => is_log && confirmed.number >= slot,
    }
}

impl<P: Protocol> Replica<P> {
    /// Takes in a standing of the log; `None` if it is none.
    pub(crate) fn replay_standing(&mut self, bytes: &[u8]) -> Option<()> {
        self.watch.standing = StandingRecord::decode_fixed(bytes)?.standing()?;
        if matches!(self.watch.standing, Standing::Outvoted(_)) {
            self.lead_no_more();
        }
        Some(())
    }

    /// Takes in what a peer says of its state.
    pub(crate) fn on_digest_report(&mut self, from: ReplicaId, report: &DigestReport) {
        let same = report.every == self.checkpoints.every();
        let checkpoints = report.checkpoints.iter().filter(|it| same && it.number > 0);
        let checkpoints = checkpoints.map(|&ReportedCheckpoint { row, number, digest }| Checkpoint {
            at: Position { row, number },
            digest,
        });
        self.checkpoints.reported(from, report.outvoted, (report.frontier, report.digest), checkpoints);
        // Under load, states of a graph are seldom the same when this replica reports: what the peer had executed then, this one has now.
        if report.frontier == self.executed.digest() && holds(Rule::EpaxosDoubtEnds) {
            self.checkpoints.compare_whole(report.frontier, self.machine.digest());
        }
    }

    /// When [`Replica::watch_digests`] wants to be called.
    pub(crate) fn digests_due(&self) -> Option<Instant> {
        if self.group.replica_count == 1 {
            return None;
        }
        let is_news = self.checkpoints.has_unsent() || self.executed().0 != self.watch.reported_count;
        let news = is_news.then(|| self.watch.reported_at + REPORT_EVERY);
        let doubt = self.watch.doubt.filter(|_| self.watch.serves()).map(|(since, _)| since + PATIENCE);
        [news, doubt, Some(self.watch.repeat_at)].into_iter().flatten().min()
    }

    /// Reports and compares digests, and draws the consequences.
    pub(crate) fn watch_digests<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        let now = around.now;
        if self.group.replica_count == 1 {
            return;
        }
        let is_repeat = self.watch.repeat_at <= now;
        let is_news = self.checkpoints.has_unsent() || self.executed().0 != self.watch.reported_count;
        if is_repeat || is_news && self.watch.reported_at + REPORT_EVERY <= now {
            if is_repeat {
                self.watch.repeat_at = now + REPEAT_EVERY;
                self.checkpoints.repeat(CHECKPOINT_COUNT_MAX);
            }
            self.watch.reported_at = now;
            self.watch.reported_count = self.executed().0;
            self.report_digests(around.out);
        }
        while let Some(finding) = self.checkpoints.next_finding() {
            self.on_finding(finding, around);
        }
        // In a graph, only whole states settle most doubts, and under load these are seldom compared.
        let is_refuted = |found: Disagreement| self.checkpoints.is_refuted(found);
        if P::ORDER == Order::Graph
            && !matches!(self.watch.standing, Standing::Outvoted(_))
            && self.watch.found().is_some_and(is_refuted)
        {
            self.end_doubt(around);
        }
        if let Some((since, found)) = self.watch.doubt
            && self.watch.serves()
            && now.since(since) >= PATIENCE
        {
            self.set_standing(Standing::Undecided(found), around);
        }
    }

    fn on_finding<O: Outbox>(&mut self, finding: Finding, around: &mut Surroundings<'_, O>) {
        match finding {
            Finding::Outvoted(found) => {
                if !matches!(self.watch.standing, Standing::Outvoted(_)) {
                    self.set_standing(Standing::Outvoted(found), around);
                }
            }
            Finding::Split(found) => {
                if self.watch.serves() {
                    self.set_standing(Standing::Undecided(found), around);
                }
            }
            Finding::Doubtful(found) => {
                self.watch.doubt.get_or_insert((around.now, found));
            }
            Finding::Confirmed(place) => {
                let is_log = P::ORDER == Order::Log;
                // What was decided shows in a state only once it is executed.
                let shows = |at: Place| match at {
                    Place::Decision(position) => self.executed.contains(position),
                    Place::Checkpoint(_) | Place::Frontier(_) => true,
                };
                let found = self.watch.found();
                if found.is_some_and(|found| shows(found.at) && settles(place, found.at, is_log)) {
                    if let Some(Disagreement { at: Place::Decision(_), others, .. }) = found {
                        others.iter().for_each(|id| _ = self.watch.refuted.insert(id));
                    }
                    self.end_doubt(around);
                }
            }
        }
    }

    /// A peer begins another life: what was said in the former says nothing of this one.
    pub(crate) fn on_new_life(&mut self, peer: ReplicaId) {
        if peer.index() < self.group.replica_count {
            self.checkpoints.forget_reports_of(peer);
            self.watch.refuted.remove(peer);
            self.snapshots.on_new_life(peer);
        }
    }

    /// Something that this replica knows to be decided is said to be decided otherwise. Of whom a majority is known to disagree with,
    /// that is no news, and who was wrong about it before is not listened to.
    pub(crate) fn on_contradiction<O: Outbox>(
        &mut self,
        contradiction: Contradiction,
        around: &mut Surroundings<'_, O>,
    ) {
        let Contradiction { position, known: own, told: other, from } = contradiction;
        let mut others = ReplicaSet::default();
        others.insert(from);
        let is_believed = !self.checkpoints.is_wrong(from) && !self.watch.refuted.contains(from);
        if self.watch.serves() && is_believed {
            let found = Disagreement { at: Place::Decision(position), own, other, others };
            self.checkpoints.forget_reports();
            self.checkpoints.forget_reports_of(from);
            self.set_standing(Standing::Undecided(found), around);
        }
    }

    fn end_doubt<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        self.watch.doubt = None;
        if matches!(self.watch.standing, Standing::Undecided(_)) {
            self.set_standing(Standing::Sound, around);
        }
    }

    fn set_standing<O: Outbox>(&mut self, standing: Standing, around: &mut Surroundings<'_, O>) {
        self.watch.standing = standing;
        self.watch.repeat_at = around.now;
        if matches!(standing, Standing::Outvoted(_)) {
            self.lead_no_more();
            self.settle(around);
        }
        self.encoded.clear();
        StandingRecord::of(standing).encode_fixed(&mut self.encoded);
        let _ = around.wal.append(self.group.id, STANDING_RECORD, &self.encoded, None);
    }

    /// This replica is outvoted: its state is not to spread, and what a leader does for others, it cannot do.
    fn lead_no_more(&mut self) {
        self.snapshots.withhold();
        if holds(Rule::OutvotedDoesNotLead) {
            self.protocol.disqualify(&mut self.effects);
        }
    }

    fn report_digests(&mut self, out: &mut impl Outbox) {
        let (frontier, digest) = (self.executed.digest(), self.machine.digest());
        self.checkpoints.compare_whole(frontier, digest);
        let mut report = DigestReport {
            every: self.checkpoints.every(),
            frontier,
            digest,
            outvoted: matches!(self.watch.standing, Standing::Outvoted(_)),
            checkpoints: Default::default(),
        };
        for _ in 0..REPORT_COUNT_MAX {
            report.checkpoints = Default::default();
            for place in &mut report.checkpoints {
                let Some(Checkpoint { at, digest }) = self.checkpoints.next_unsent() else { break };
                *place = ReportedCheckpoint { row: at.row, number: at.number, digest };
            }
            self.encoded.clear();
            report.encode_fixed(&mut self.encoded);
            for index in 0..self.group.replica_count as u8 {
                if ReplicaId(index) != self.group.me {
                    out.send(ReplicaId(index), self.group.id, MessageKind::Digest, &self.encoded, None);
                    self.probe.messages += 1;
                }
            }
            if !self.checkpoints.has_unsent() {
                break;
            }
        }
    }

    /// For operators.
    pub(crate) fn digest_status(&self) -> DigestStatus {
        DigestStatus {
            recent: self.checkpoints.recent(),
            wrong: self.checkpoints.wrong(),
            dissent: self.checkpoints.dissent(),
            counts: self.checkpoints.counts(),
        }
    }
}
