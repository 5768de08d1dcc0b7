//! EPaxos: every replica leads the instances of its own row; instances that do not interfere are not ordered.
//!
//! Reading guide: [`message`] and [`record`] (what is said and written down), `footprint` and `conflicts` (what a batch touches and depends on), `instance` (what is held
//! of an instance), `leader` (the command leader), `accept` (the second phase), `acceptor`, `coordination` (the stages of what a replica does about an instance), `recovery`
//! and `validate` (instances that nobody finishes), `catchup`, `chase`, `loads`, `pause` and `collect` (commits and snapshots for others, what is asked for, what
//! leaves memory), `reads` (quorum reads), `replay` (restarts), `rejoin` (coming back without a disk), [`crate::order::graph`] (the order of execution).
//!
//! ```text
//!            learn            vote, ballot 0         accept                quorum of acceptances, or heard
//!   Unknown -------> Seen -------------------> PreAccepted -------> Accepted --------------------------> Committed ---> executed
//!      |              '---------------------------------------------> ^                                   ^   (order::graph)
//!      '--------------------- accept in a higher ballot --------------'   PreAccepted --- fast quorum ----'
//! ```
//! With three replicas and less the fast quorum is a pair that the command leader fixes beforehand: one round trip whatever the conflicts
//! (protocols 5.5). With four and more it is a quorum of votes that add nothing to the command leader's dependencies (5.6).
//!
//! Invariants:
//! * A value is chosen once per instance: the batch of its owner with its dependencies, or a no-op.
//! * A batch is chosen in one instance at most.
//! * Replicas may hold one chosen batch with dependencies that differ in what does not interfere with it, and in nothing else.
//! * Of two instances that interfere and are chosen with their batches, one depends on the other, or all replicas had executed one of them when
//!   the other was voted for.
//! * No vote or promise leaves before it is durable, and no fast commit is used by anybody before its record is durable at the command leader (P-E1).
//! * Ballot 0 belongs to the owner of the row, and only to the life of it in which the number was used first.
//!
//! Why no instance stays open while a quorum is up and its messages arrive, whatever happened before:
//! * Whoever knows of an instance that is not decided recovers it after a while (`recovery::scan`), and by its first question all others know of it.
//! * A ballot that nobody outbids ends: promises need a quorum, and so does the second phase. With each ballot that is outbid the replicas wait
//!   longer before the next one, and the order of their turns moves on; so one is left alone in the end, however slow it is.
//! * Three replicas and less decide by what the quorum says at once.
//! * Four and more may have to validate. The quorum of a validation needs nothing but what its members have: of what they have executed
//!   without a gap, how far it goes; of the rest, what is in memory. Neither absences nor snapshots nor restarts take that away (`validate`).
//! * A recovery that waits for others names them to all, so that they are recovered, too. Of two that wait for each other, each hears how many
//!   votes the other has found. With more than any fast commit leaves over, the one that hears of it ends with a no-op; with no more than that,
//!   both command leaders are in the quorums that wait, so they are up, and their own answer, however late, ends the wait. What more
//!   conflicts there are than fit an answer is found by the next round of questions, and each settles some.
//! * One case is left: instances of two rows with gaps, each behind the other's gap, where those that know how they were decided are down, and the rest
//!   has them from a snapshot. A recovery asks again then, until one of them is back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use panch_wire::frame::Frame;
use panch_wire::ids::{BatchId, Incarnation, Position, REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::time::Instant;

use crate::ballot::Ballot;
use crate::frontier::Frontier;
use crate::order::graph::Graph;
use crate::protocol::{
    Counters, Effects, Event, Group, Past, Place, Protocol, ProtocolKind, Random, Status, Tuning, Value,
};
use crate::quorum::classic_quorum;
use crate::rejoin::Horizon;
use crate::remnant::Remnant;

mod accept;
mod acceptor;
mod catchup;
mod chase;
mod collect;
mod conflicts;
mod coordination;
mod footprint;
mod instance;
mod leader;
mod loads;
pub mod message;
mod pause;
mod reads;
pub mod record;
mod recovery;
mod rejoin;
mod remnants;
mod replay;
#[cfg(test)]
mod tests;
mod validate;

pub use conflicts::{Conflicts, Dependencies};
pub use footprint::Footprint;
pub use leader::component_bound;

use catchup::Member;
use chase::Chase;
use coordination::Coordination;
use instance::Instance;
use loads::Loads;
use message::{Message, Numbers};
use pause::Pause;
use reads::Reads;
use record::Record;
use recovery::FetchWait;

/// Instances so far beyond what is committed here are not looked at: a bound against nonsense from outside.
const NUMBER_SPAN_MAX: u64 = 1 << 20;

/// How many failures a fast quorum survives with four replicas and more. [EPaxos* 5.6, table of quorum sizes]
pub fn fast_failures(replica_count: usize) -> usize {
    let failures = replica_count.saturating_sub(1) / 2;
    (failures + 1).div_ceil(2)
}

/// One replica of an EPaxos group.
#[derive(Clone, Debug)]
pub struct Epaxos {
    group: Group,
    tuning: Tuning,
    incarnation: Incarnation,
    now: Instant,
    /// The log is being replayed.
    replaying: bool,
    /// Votes that make a fast commit with four replicas and more, this replica's own included.
    fast_quorum: usize,
    instances: BTreeMap<Position, Instance>,
    conflicts: Conflicts,
    graph: Graph,
    /// The footprint of the batch looked at last. Its storage is reused.
    footprint: Footprint,
    /// Which batch that is: its name and its checksum.
    footprint_of: Option<(BatchId, u64)>,
    /// Positions known to be chosen, executed ones included.
    committed: Frontier,
    /// Per row, the highest number that anybody was heard to know.
    announced: Numbers,
    /// Per row, the highest number voted for, accepted, committed or executed here.
    voted: Numbers,
    /// Per row, the highest number accepted, or committed for all to know, or executed here.
    decided: Numbers,
    /// Since when the own log owes votes for own instances, and the number of the last of these.
    log_owes: Option<(Instant, u64)>,
    /// The next number of the own row.
    next: u64,
    /// Numbers of the own row up to here are reserved, and up to there durably.
    reserved: u64,
    reserved_durable: u64,
    /// Numbers of the own row up to here may have been used before the last start.
    own_floor: u64,
    /// An earlier life that is forgotten may have said something about numbers up to here, per row.
    floor: Numbers,
    /// No claim of this replica leaves.
    mute: bool,
    /// Batches to be proposed.
    queue: VecDeque<Frame>,
    /// The counters of batches in the queue or in an instance that is not decided.
    batches: BTreeSet<u64>,
    /// The own instances that are not decided, with the counters of their batches.
    in_flight: BTreeMap<u64, u64>,
    /// Own instances that a snapshot covers and nobody has told the outcome of yet: the batch, and how often was asked.
    doubtful: BTreeMap<u64, (Frame, u32)>,
    /// The counters of batches that are decided, in row 0.
    finished: Frontier,
    /// Proposals are held back.
    holding: bool,
    coordinations: BTreeMap<Position, Coordination>,
    /// Something was decided that a recovery may be waiting for.
    check_waiting: bool,
    members: [Member; REPLICAS_MAX],
    /// Per row, everything up to here is executed by all replicas and will be after their restarts.
    collected: Dependencies,
    /// Executed instances in the order of their execution; some may have left memory.
    tail: VecDeque<Position>,
    tail_size: usize,
    /// Memory of the batches that are known and not executed, in bytes.
    held_size: usize,
    /// Per row, everything up to here has left memory: it is executed by all replicas that were heard lately, and nobody is expected to ask
    /// for it.
    released: Dependencies,
    /// What is being passed on by others; `None`: nothing was looked at yet.
    passing_on: Option<collect::PassingOn>,
    loads: Loads,
    /// A snapshot is being written down that will replace the state: nothing is executed or forgotten until it has.
    installing: bool,
    /// Peers say that only a snapshot can help.
    pause: Option<Pause>,
    /// How many positions were executed when the others were last told how far this replica is.
    reported: Slot,
    /// How many positions were executed when an executed instance last left memory and log.
    left_memory_at: Slot,
    /// Per row, the last number of what is being fetched.
    fetching: [Option<u64>; REPLICAS_MAX],
    fetch_waits: [FetchWait; REPLICAS_MAX],
    fetch_turn: usize,
    chase: Chase,
    /// What durable snapshots cover: the log may no longer hold it.
    covered: Frontier,
    reads: Reads,
    heartbeat_at: Option<Instant>,
    /// When something may have to be sent again.
    retry_at: Option<Instant>,
    /// Scratch space.
    due: Vec<Position>,
    counters: Counters,
}

impl Epaxos {
    fn quorum(&self) -> usize {
        classic_quorum(self.group.replica_count)
    }

    /// Three replicas and less: a fast commit is made by the command leader and one other.
    fn has_fixed_pair(&self) -> bool {
        self.group.replica_count <= 3
    }

    /// Numbers of the row beyond this are not looked at.
    fn number_limit(&self, row: u8) -> u64 {
        self.committed.upto(row) + NUMBER_SPAN_MAX
    }

    fn peers(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let me = self.group.me;
        (0..self.group.replica_count as u8).map(ReplicaId).filter(move |peer| *peer != me)
    }

    fn on_deadline(&mut self, effects: &mut Effects<Self>) {
        let now = self.now;
        if self.heartbeat_at.is_some_and(|at| at <= now) {
            self.heartbeat_at = Some(now + self.tuning.heartbeat_interval);
            self.on_heartbeat_time(effects);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.on_retry_time(effects);
        }
        if self.reads.retry_at.is_some_and(|at| at <= now) {
            self.on_read_retry(effects);
        }
        self.start_read_round(effects);
    }

    fn on_message(
        &mut self,
        from: ReplicaId,
        message: Message,
        body: Option<Frame>,
        effects: &mut Effects<Self>,
    ) {
        let count = self.group.replica_count;
        if from.index() >= count || !message.is_plausible(count) {
            return;
        }
        // Nobody is so far ahead of a replica that could take part in the decision: as if it were lost.
        if message.names_beyond(|row| self.number_limit(row)) {
            return;
        }
        self.on_heard(from, &message);
        self.note_namer(from, &message);
        if let Some(position) = message.position()
            && from != self.group.me
            && message.brings_batch()
            && !self.has_room(position, body.as_ref())
        {
            // As if it were lost: it is fetched when its turn comes.
            self.announce(position);
            return;
        }
        match message {
            Message::PreAccept(message) => self.on_pre_accept(from, message, body, effects),
            Message::Seen(message) => self.on_seen(message, body),
            Message::PreAcceptOk(message) => self.on_pre_accept_ok(from, message, effects),
            Message::Accept(message) => self.on_accept(from, message, body, effects),
            Message::AcceptOk(message) => self.on_accept_ok(from, message, effects),
            Message::Commit(message) => self.on_commit(from, message, body, effects),
            Message::Recover(message) => self.on_recover(from, message, effects),
            Message::RecoverOk(message) => self.on_recover_ok(from, message, body, effects),
            Message::Validate(message) => self.on_validate(from, message, body, effects),
            Message::ValidateOk(message) => self.on_validate_ok(from, message, effects),
            Message::Waiting(message) => self.on_waiting(message),
            Message::Nack(message) => self.on_nack(message),
            Message::Fetch(message) => self.on_fetch(from, message, effects),
            Message::Covered(message) => self.on_covered(from, message),
            Message::Progress(message) => self.on_progress(from, message),
            Message::ReadRequest(message) => self.on_read_request(from, message, effects),
            Message::ReadReply(message) => self.on_read_reply(from, message, effects),
            Message::Reserved(message) if from == self.group.me => self.on_reserved(message),
            Message::Reserved(_) => {}
        }
    }
}

impl Protocol for Epaxos {
    const KIND: ProtocolKind = ProtocolKind::Epaxos;
    const ACCEPTS_IN_ORDER: bool = false;
    type Message = Message;
    type Record = Record;

    fn open(group: Group, tuning: Tuning, past: Past<'_>, _random: Random) -> Self {
        assert!(group.me.index() < group.replica_count && group.replica_count <= REPLICAS_MAX);
        let count = group.replica_count;
        let mut epaxos = Self {
            group,
            tuning,
            incarnation: past.incarnation,
            now: Instant::default(),
            replaying: true,
            fast_quorum: count - fast_failures(count),
            instances: BTreeMap::new(),
            conflicts: Conflicts::new(count),
            graph: Graph::new(count, past.executed),
            footprint: Footprint::default(),
            footprint_of: None,
            committed: Frontier::default(),
            announced: Numbers::default(),
            voted: Numbers::default(),
            decided: Numbers::default(),
            log_owes: None,
            next: 1,
            reserved: 0,
            reserved_durable: 0,
            own_floor: 0,
            floor: Numbers::default(),
            mute: false,
            queue: VecDeque::new(),
            batches: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            doubtful: BTreeMap::new(),
            finished: Frontier::default(),
            holding: false,
            coordinations: BTreeMap::new(),
            check_waiting: false,
            members: Default::default(),
            collected: Dependencies::default(),
            tail: VecDeque::new(),
            tail_size: 0,
            held_size: 0,
            released: Dependencies::default(),
            passing_on: None,
            loads: Loads::default(),
            installing: false,
            pause: None,
            reported: past.executed.count(),
            left_memory_at: past.executed.count(),
            fetching: Default::default(),
            fetch_waits: Default::default(),
            fetch_turn: 0,
            chase: Chase::default(),
            covered: past.executed.clone(),
            reads: Reads::new(past.incarnation),
            heartbeat_at: None,
            retry_at: None,
            due: Vec::new(),
            counters: Counters::default(),
        };
        epaxos.take_in(past.executed, past.stamp);
        epaxos
    }

    fn replay(&mut self, record: Record, body: Option<Frame>, effects: &mut Effects<Self>) {
        self.on_record(record, body, effects);
    }

    fn horizon(&self) -> Horizon {
        self.own_horizon()
    }

    fn forget(&mut self, peer: ReplicaId) {
        self.forget_peer(peer);
    }

    fn rejoin(&mut self, horizon: &Horizon, _: &mut Effects<Self>) {
        self.rejoin_at(horizon);
    }

    fn rejoined(&mut self, effects: &mut Effects<Self>) {
        self.speak(effects);
    }

    fn start(&mut self, now: Instant, effects: &mut Effects<Self>) {
        self.begin(now, effects);
    }

    fn step(&mut self, now: Instant, event: Event<Self>, effects: &mut Effects<Self>) {
        self.now = now;
        match event {
            Event::Propose(frame) => self.on_propose(frame),
            // Clients propose to acceptors in Fast Paxos only: refused before it gets here.
            Event::ClientBatch(_) => {}
            Event::Deliver { from, message, body } => self.on_message(from, message, body, effects),
            Event::Read { context, .. } => self.on_read(context, effects),
            Event::Loaded(position, value) => self.on_loaded(position, value, effects),
            Event::Installed { covered, stamp } => self.on_installed(&covered, stamp, effects),
            Event::SnapshotSent(peer, upto) => self.on_snapshot_sent(peer, upto.is_some()),
            Event::Deadline => self.on_deadline(effects),
            Event::Suspect(peer) => self.on_suspect(peer),
        }
        self.drain(effects);
        self.report_if_far(effects);
        self.check_waits(effects);
        self.serve_reads(effects);
        self.chase(effects);
        self.pump(effects);
    }

    fn deadline(&self) -> Option<Instant> {
        if self.wants_read_round() {
            return Some(Instant(0));
        }
        [self.heartbeat_at, self.retry_at, self.reads.retry_at, self.chase.next_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn record_place(record: &Record) -> Option<Place> {
        record.place()
    }

    fn record_committed(record: &Record) -> Slot {
        match record {
            Record::Reserve(record) => record.covered,
            _ => Slot(0),
        }
    }

    fn restate(&self) -> Record {
        self.restate_record()
    }

    fn truncated(&mut self, covered: &Frontier) {
        if covered.covers(&self.covered) {
            self.covered = covered.clone();
        }
    }

    fn forgettable(&self, covered: &Frontier) -> Frontier {
        self.released_of(covered)
    }

    fn give_up(&mut self, position: Position) -> u64 {
        self.give_up_without(position)
    }

    fn snapshot_grown(&mut self, now: Instant) {
        self.on_snapshot_grown(now);
    }

    fn prepare_install(&mut self, covered: &Frontier) -> bool {
        self.installing = self.could_install(covered);
        if !self.installing {
            self.on_useless_snapshot();
        }
        self.installing
    }

    fn abandon_install(&mut self) {
        self.installing = false;
    }

    fn awaits_snapshot(&self) -> bool {
        self.may_get_snapshot()
    }

    fn remnants(&self) -> Vec<(Remnant, Value)> {
        self.known_instances()
    }

    fn choose_remnants(
        &mut self,
        _: &Frontier,
        remnants: Vec<(Remnant, Value)>,
        effects: &mut Effects<Self>,
    ) {
        self.choose_known(remnants, effects);
    }

    fn status(&self) -> Status {
        // Nobody leads; what one replica of a group must do is done by the first that is not suspected.
        let leading = self.peers().all(|peer| peer > self.group.me || self.is_suspected(peer));
        let last = self.announced.iter().sum();
        Status {
            leader: None,
            leading,
            ballot: Ballot::default(),
            committed: self.committed.count(),
            last: Slot(last),
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
