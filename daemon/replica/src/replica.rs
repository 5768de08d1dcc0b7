//! One replica of one group: batcher -> protocol -> gate -> execution -> replies.
//!
//! Invariants:
//! * Values are executed in the order in which the protocol gives them, each position once.
//! * Effects are carried out in the order in which the protocol gave them, and completely, before the next event.
//! * A batch in flight is answered when it is executed here, whoever leads: its proposer is this replica.

use panch_consensus::frontier::Frontier;
use panch_consensus::protocol::{Dest, Effects, Event, Group, Order, Persist, Protocol, Value};
use panch_wal::{BodyRef, Location, Lsn, RecordKind, Restatement, Wal};
use panch_wire::client::Commit;
use panch_wire::command::{Command, CommandError, CommandKind, Reply, SessionHeader};
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{Incarnation, Position, ReplicaId, ReplicaSet, Slot};
use panch_wire::record::Fixed;
use panch_wire::time::{Duration, Instant};

use crate::batcher::{BatchLimits, Batcher, Refusal};
use crate::checkpoint::Checkpoints;
use crate::client_batch::Flights;
use crate::core::Misbehaviour;
use crate::divergence::{DigestReport, Watch};
use crate::gate::Gate;
use crate::kv::Kv;
use crate::latency::Latencies;
use crate::log_index::{Found, LogIndex};
use crate::machine::StateMachine;
use crate::outbox::{MessageKind, Outbox, ReplyTo};
use crate::probe::Probe;
use crate::reads::Reads;
use crate::rejoin::{Rejoin, RejoinMessage};
use crate::snapshot::{Restored, SNAPSHOT_RECORD, SnapshotName};
use crate::snapshots::Snapshots;
use crate::status::GroupStatus;
use crate::transfer::{TransferLimits, TransferMessage};

mod direct;
mod execution;
mod overdue;

/// The kind of log record that a protocol writes. The others are [`STANDING_RECORD`] and [`crate::snapshot::SNAPSHOT_RECORD`].
pub const PROTOCOL_RECORD: RecordKind = RecordKind(1);
/// A [`StandingRecord`](crate::divergence::StandingRecord).
pub(crate) const STANDING_RECORD: RecordKind = RecordKind(3);
/// Commands that arrived further apart than this share of the request timeout do not share a batch.
const SPREAD_SHARE: u32 = 8;
/// The time after which a session expires is measured in this many steps.
const SESSION_MARKS: usize = 8;

/// Settings of a replica.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaConfig {
    /// Bounds of batches and pipeline.
    pub batch: BatchLimits,
    /// Decides where things lie in the hash tables of the state, see [`StateMachine::new`].
    pub hash_seed: u64,
    /// A command that arrived this long ago is answered: as not applied if it was never proposed, as unknown if it was.
    pub request_timeout: Duration,
    /// Bytes of log after which a snapshot is made.
    pub snapshot_log_size: u64,
    /// A session that was not used for this long is closed; one eighth longer at most.
    pub session_idle_max: Duration,
    /// How many positions of a row apart digests are compared. Replicas with another distance are not compared with.
    pub checkpoint_every: u64,
}

/// How a command wants to be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Through the log: the only level for writes.
    Log,
    /// A read at a position confirmed by a quorum. One that needs the log to be linearizable goes through it at this level too, see
    /// [`Order::needs_log`].
    Quorum,
    /// A read that a leader's lease is good enough for; without one, as [`Level::Quorum`].
    Lease,
}

/// One replica of one group.
pub struct Replica<P: Protocol> {
    pub(crate) group: Group,
    config: ReplicaConfig,
    pub(crate) protocol: P,
    pub(crate) effects: Effects<P>,
    pub(crate) gate: Gate<P::Message>,
    pub(crate) rejoin: Rejoin,
    pub(crate) batcher: Batcher,
    /// Batches that clients sealed and wait for here.
    flights: Flights,
    /// Those that want a quorum and those content with a lease: neither waits for the other.
    pub(crate) reads: [Reads; 2],
    pub(crate) machine: StateMachine,
    pub(crate) checkpoints: Checkpoints,
    /// Whether it has the same state as the others, as far as it knows.
    pub(crate) watch: Watch,
    pub(crate) snapshots: Snapshots,
    pub(crate) log: LogIndex,
    pub(crate) executed: Frontier,
    /// The highest stamp executed.
    pub(crate) stamp: u64,
    /// Known to be chosen when the log was written.
    logged_commit: Slot,
    pub(crate) incarnation: Incarnation,
    repropose_at: Option<Instant>,
    /// When batches below this counter are proposed again: a later one was decided before them.
    overtaken: Option<(Instant, u64)>,
    reproposed: Instant,
    /// At the end of the last turn a batch could have been decided.
    may_propose: bool,
    /// The stamps at the last few steps of the session clock, oldest first.
    session_marks: [u64; SESSION_MARKS],
    session_mark_at: Instant,
    pub(crate) probe: Probe,
    pub(crate) encoded: Vec<u8>,
    pub(crate) reply: Vec<u8>,
}

/// Whether batches may be proposed: what room is left on a full disk is for votes and snapshots.
pub(crate) fn takes_proposals(wal: &Wal) -> bool {
    !wal.is_stalled() && !wal.is_full()
}

/// What the index notes of a value beside a record.
fn found(noop: bool, body: Option<BodyRef>) -> Found {
    if noop { Found::Noop } else { body.map_or(Found::Nowhere, Found::Body) }
}

/// What a replica needs from its core while it works.
pub(crate) struct Surroundings<'a, O: Outbox> {
    pub(crate) now: Instant,
    pub(crate) wal: &'a mut Wal,
    pub(crate) pool: &'a FramePool,
    /// Of all groups of the core together.
    pub(crate) latencies: &'a mut Latencies,
    pub(crate) out: &'a mut O,
}

impl<P: Protocol> Replica<P> {
    pub(crate) fn new(
        group: Group,
        config: ReplicaConfig,
        protocol: P,
        restored: Restored,
        incarnation: Incarnation,
        rejoin: Rejoin,
        transfers: TransferLimits,
    ) -> Self {
        let Restored { covered: executed, stamp, machine, .. } = restored;
        Self {
            group,
            config,
            protocol,
            effects: Effects::default(),
            gate: Gate::new(),
            rejoin,
            batcher: Batcher::new(config.batch, config.request_timeout / SPREAD_SHARE, group.me, incarnation),
            flights: Flights::new(&config.batch, group.me),
            reads: [Reads::new(false), Reads::new(true)],
            machine,
            checkpoints: Checkpoints::new(
                group.me,
                group.replica_count,
                P::ORDER,
                config.checkpoint_every,
                &executed,
            ),
            watch: Watch::default(),
            snapshots: Snapshots::new(config.snapshot_log_size, transfers),
            // In a graph others may still ask for values that a snapshot here covers.
            log: LogIndex::new(&if P::ORDER == Order::Log { executed.clone() } else { Frontier::default() }),
            executed,
            stamp,
            logged_commit: Slot(0),
            incarnation,
            repropose_at: None,
            overtaken: None,
            reproposed: Instant::default(),
            may_propose: false,
            session_marks: [0; SESSION_MARKS],
            session_mark_at: Instant::default(),
            probe: Probe::default(),
            encoded: Vec::new(),
            reply: Vec::new(),
        }
    }

    /// Takes in one record of this replica's own log; `None` if it does not decode.
    pub(crate) fn replay(
        &mut self,
        entry: panch_wal::Entry<'_>,
        latencies: &mut Latencies,
        out: &mut impl Outbox,
    ) -> Option<()> {
        if entry.kind == SNAPSHOT_RECORD {
            self.snapshots.read_name(SnapshotName::decode_fixed(entry.bytes)?);
            return Some(());
        }
        if entry.kind == STANDING_RECORD {
            return self.replay_standing(entry.bytes);
        }
        let record = P::Record::decode_fixed(entry.bytes).filter(|_| entry.kind == PROTOCOL_RECORD)?;
        let (body, body_ref, lsn) = (entry.body, entry.body_at.map(|(body, _)| body), entry.lsn);
        if let Some(place) = P::record_place(&record) {
            let value = place.has_value.then_some(found(body.is_none(), body_ref));
            self.log.appended(place.position, lsn, value);
        }
        self.logged_commit = self.logged_commit.max(P::record_committed(&record));
        self.protocol.replay(record, body, &mut self.effects);
        self.execute_chosen(Instant::default(), latencies, out);
        Some(())
    }

    /// The first slot that was known to be chosen, or accepted behind others, and is now neither in the snapshot nor in
    /// the log.
    pub(crate) fn hole(&self) -> Option<Slot> {
        let next = self.executed().next();
        let skipped = P::ACCEPTS_IN_ORDER && self.log.starts_after(next.into());
        (self.logged_commit > self.executed() || skipped).then_some(next)
    }

    /// How many positions are executed; in a log the last slot.
    pub(crate) fn executed(&self) -> Slot {
        self.executed.count()
    }

    /// The log is replayed and this incarnation is durable.
    pub(crate) fn start<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        self.session_mark_at = around.now;
        self.name_found(around);
        self.raise_floor(around.wal);
        if self.rejoin.is_waiting() {
            return;
        }
        self.protocol.start(around.now, &mut self.effects);
        self.settle(around);
    }

    /// Takes a command in, which `arrived` at the node now or earlier.
    pub(crate) fn submit(
        &mut self,
        now: Instant,
        arrived: Instant,
        pool: &FramePool,
        command: &Command<'_>,
        level: Level,
        token: ReplyTo,
    ) -> Result<(), Refusal> {
        if command.kind.is_read() && level != Level::Log && !P::ORDER.needs_log(command) {
            self.reads[usize::from(level == Level::Lease)].push(arrived, command, token)?;
            self.probe.reads += 1;
        } else {
            self.batcher.push(now, arrived, pool, command, token)?;
            self.probe.commands += 1;
        }
        Ok(())
    }

    pub(crate) fn read_stale<R>(
        &mut self,
        command: &Command<'_>,
        answer: impl FnOnce(Reply<'_>, Option<&Commit>) -> R,
    ) -> R {
        self.probe.reads += 1;
        if !self.watch.serves() {
            return answer(Reply::Error(CommandError::Diverged), None);
        }
        let seen = self.seen();
        answer(self.machine.read(command, &mut self.reply), seen.as_ref())
    }

    /// The last thing that a read can show now; `None` where no single position says it.
    fn seen(&self) -> Option<Commit> {
        (P::ORDER == Order::Log).then(|| Commit { position: self.executed().into(), stamp: self.stamp })
    }

    /// Takes in one message of a peer.
    ///
    /// # Errors
    /// If it is none, or says what no peer should.
    pub(crate) fn on_bytes<O: Outbox>(
        &mut self,
        from: ReplicaId,
        kind: u8,
        bytes: &[u8],
        body: Option<Frame>,
        around: &mut Surroundings<'_, O>,
    ) -> Result<(), Misbehaviour> {
        const UNDECODABLE: Misbehaviour = Misbehaviour::Undecodable;
        if from.index() >= self.group.replica_count {
            return Err(UNDECODABLE);
        }
        if kind == MessageKind::Rejoin as u8 {
            self.on_rejoin(from, RejoinMessage::decode_fixed(bytes).ok_or(UNDECODABLE)?, around);
        } else if self.rejoin.is_waiting() {
            return Ok(());
        } else if kind == MessageKind::Protocol as u8 {
            let message = P::Message::decode_fixed(bytes).ok_or(UNDECODABLE)?;
            self.step(Event::Deliver { from, message, body }, around);
        } else if kind == MessageKind::Transfer as u8 {
            let message = TransferMessage::decode_fixed(bytes).ok_or(UNDECODABLE)?;
            return self.on_transfer(from, message, body, around);
        } else if kind == MessageKind::Digest as u8 {
            self.on_digest_report(from, &DigestReport::decode_fixed(bytes).ok_or(UNDECODABLE)?);
        } else {
            return Err(UNDECODABLE);
        }
        Ok(())
    }

    /// Carries out one event and everything that follows from it.
    pub(crate) fn step<O: Outbox>(&mut self, event: Event<P>, around: &mut Surroundings<'_, O>) {
        if self.rejoin.is_waiting() {
            return;
        }
        self.protocol.step(around.now, event, &mut self.effects);
        self.settle(around);
    }

    /// The core's log is durable up to `lsn`.
    pub(crate) fn durable<O: Outbox>(&mut self, lsn: Lsn, around: &mut Surroundings<'_, O>) {
        self.gate.durable_to(lsn);
        while let Some(message) = self.gate.release() {
            self.deliver(message.dest, message.message, message.body.as_ref(), around);
            self.settle(around);
        }
        self.end_naming(lsn, around);
    }

    /// The end of a turn: batches leave, reads ask, deadlines fall.
    pub(crate) fn end_turn<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        let now = around.now;
        self.advance_rejoin(around);
        if !self.rejoin.is_member() {
            self.refuse_commands(CommandError::NotMember, around.out);
        }
        if self.rejoin.is_waiting() {
            return;
        }
        self.watch_digests(around);
        if !self.watch.serves() {
            self.refuse_commands(CommandError::Diverged, around.out);
        }
        if self.repropose_at.is_some_and(|at| at <= now) {
            self.repropose_at = None;
            self.reproposed = now;
            self.repropose_below(u64::MAX, around);
            self.repropose_flights(around);
        }
        if let Some((_, counter)) = self.overtaken.take_if(|(at, _)| *at <= now) {
            self.repropose_below(counter, around);
        }
        if around.wal.is_full() {
            // Never proposed, so the answer can be definite.
            while let Some(tokens) = self.batcher.overdue_waiting(Instant(u64::MAX)) {
                self.answer(tokens, CommandError::LogFull, around.out);
            }
        }
        let is_member = self.rejoin.is_member() && self.watch.serves();
        if is_member {
            self.expire_sessions(around);
            self.propose_arrived(around);
        }
        // Before anything leaves: this process may not have run for longer than its commands may wait.
        self.answer_overdue_waiting(around);
        self.may_propose = self.may_decide(around.out);
        if is_member && self.may_propose && takes_proposals(around.wal) {
            while let Some(frame) = self.batcher.seal_next(now) {
                let frame = frame.clone();
                self.probe.batches += 1;
                self.step(Event::Propose(frame), around);
            }
        }
        for lease in [true, false] {
            if let Some(context) = self.reads[usize::from(lease)].close_round() {
                self.step(Event::Read { context, lease }, around);
            }
            while let Some(context) = self.reads[usize::from(lease)].next_retry(now) {
                self.step(Event::Read { context, lease }, around);
            }
        }
        self.answer_overdue(around);
        self.pump_snapshots(around);
        // A deadline that has passed is the protocol's wish to act at the end of this turn; acting may create another.
        for _ in 0..8 {
            if self.protocol.deadline().is_none_or(|at| at > now) {
                break;
            }
            self.step(Event::Deadline, around);
        }
    }

    /// When this replica wants its next turn even if nothing happens.
    ///
    /// While the log takes no proposals, or nobody could decide them, batches are not waited for: what ends that is an event.
    pub(crate) fn deadline(&self, takes_proposals: bool) -> Option<Instant> {
        if self.rejoin.is_waiting() {
            return self.rejoin.deadline();
        }
        let [quorum, lease] = &self.reads;
        let waiting = [self.batcher.oldest(), self.flights.first_arrived(), quorum.oldest(), lease.oldest()];
        let overdue = waiting.into_iter().flatten().map(|arrived| arrived + self.config.request_timeout);
        [
            self.protocol.deadline(),
            self.batcher.deadline().filter(|_| takes_proposals && self.may_propose),
            quorum.deadline(),
            lease.deadline(),
            self.snapshots.deadline(),
            self.repropose_at,
            self.overtaken.map(|(at, _)| at),
            self.doubtful_at(),
            self.digests_due(),
        ]
        .into_iter()
        .flatten()
        .chain(overdue)
        .min()
    }

    /// Keys in the group's table.
    pub(crate) fn key_count(&self) -> u64 {
        self.machine.key_count() as u64
    }

    /// The group's table.
    pub(crate) fn kv(&self) -> &Kv {
        self.machine.kv()
    }

    pub(crate) fn remembers(&self, header: SessionHeader) -> bool {
        self.machine.sessions().remembers(header)
    }

    /// For operators.
    pub(crate) fn group_status(&self) -> GroupStatus {
        GroupStatus {
            group: self.group.id,
            kind: P::KIND,
            protocol: self.protocol.status(),
            executed: self.executed(),
            frontier: self.executed.digest(),
            digest: self.machine.digest(),
            keys: self.key_count(),
            membership: self.membership(),
            standing: self.watch.standing(),
            digests: self.digest_status(),
            sending: self.snapshots.sending_status(),
            probe: self.probe,
            counters: self.protocol.counters(),
        }
    }

    /// Repeats the record that states this replica's promise, and the name of its snapshot, at the start of a log segment.
    pub(crate) fn restate(&mut self, restatement: &mut Restatement<'_>) {
        self.encoded.clear();
        self.protocol.restate().encode_fixed(&mut self.encoded);
        restatement.record(self.group.id, PROTOCOL_RECORD, &self.encoded);
        if let Some(record) = self.watch.record() {
            self.encoded.clear();
            record.encode_fixed(&mut self.encoded);
            restatement.record(self.group.id, STANDING_RECORD, &self.encoded);
        }
        if let Some(name) = self.snapshots.name() {
            self.encoded.clear();
            name.encode_fixed(&mut self.encoded);
            restatement.record(self.group.id, SNAPSHOT_RECORD, &self.encoded);
        }
    }

    /// Carries out the effects that the protocol has left.
    pub(crate) fn settle<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        loop {
            self.append_records(around.wal);
            let mut progressed = false;
            // Before the execution, which ends a batch.
            while let Some(id) = self.effects.committed.pop() {
                let batch = if id.is_of_client() { self.flights.commit(id) } else { self.batcher.commit(id) };
                if let Some((since, commands)) = batch {
                    around.latencies.committed(around.now.since(since), commands);
                }
            }
            if !self.effects.chosen.is_empty() {
                progressed = true;
                self.execute_chosen(around.now, around.latencies, around.out);
            }
            if !self.effects.outgoing.is_empty() {
                progressed = true;
                let mut outgoing = std::mem::take(&mut self.effects.outgoing);
                for message in outgoing.drain(..) {
                    if let Some(message) = self.gate.admit(message) {
                        self.deliver(message.dest, message.message, message.body.as_ref(), around);
                    }
                }
                // Steps taken while delivering to myself may have left more behind.
                outgoing.append(&mut self.effects.outgoing);
                self.effects.outgoing = outgoing;
            }
            if !self.effects.reads.is_empty() {
                progressed = true;
                let mut reads = std::mem::take(&mut self.effects.reads);
                for (context, at) in reads.drain(..) {
                    self.reads[Reads::place(context)].confirmed(around.now, context, at);
                }
                self.effects.reads = reads;
                self.serve_reads(around.out);
            }
            if !self.effects.loads.is_empty() {
                progressed = true;
                self.start_loads(around);
            }
            if !self.effects.snapshots.is_empty() {
                progressed = true;
                let mut peers = std::mem::take(&mut self.effects.snapshots);
                for (peer, slot) in peers.drain(..) {
                    self.snapshots.want(around.now, peer, slot);
                }
                self.effects.snapshots = peers;
            }
            while let Some(id) = self.effects.settled.pop() {
                if let Some(batch) = self.batcher.finish(id) {
                    self.answer(batch.tokens, CommandError::Unknown, around.out);
                }
            }
            if std::mem::take(&mut self.effects.repropose) {
                self.doubt(around.now);
            }
            if let Some(contradiction) = self.effects.contradiction.take() {
                self.on_contradiction(contradiction, around);
            }
            if !progressed && self.effects.records.is_empty() {
                return;
            }
        }
    }

    fn append_records(&mut self, wal: &mut Wal) {
        let mut point = self.effects.last_persist().0 - self.effects.records.len() as u64;
        for (record, body) in self.effects.records.drain(..) {
            point += 1;
            self.encoded.clear();
            record.encode_fixed(&mut self.encoded);
            let appended = wal.append(self.group.id, PROTOCOL_RECORD, &self.encoded, body.as_ref());
            if let Some(place) = P::record_place(&record) {
                let value = place.has_value.then_some(found(body.is_none(), appended.body));
                self.log.appended(place.position, appended.lsn, value);
            }
            self.gate.appended(Persist(point), appended.lsn);
            self.snapshots
                .log_grew(self.encoded.len() + body.as_ref().map_or(0, |frame| frame.padded().len()));
            self.probe.records += 1;
        }
    }

    fn deliver<O: Outbox>(
        &mut self,
        dest: Dest,
        message: P::Message,
        body: Option<&Frame>,
        around: &mut Surroundings<'_, O>,
    ) {
        let me = self.group.me;
        let others = matches!(dest, Dest::Others | Dest::All);
        let mine = dest == Dest::All || dest == Dest::One(me);
        if others || !mine {
            self.encoded.clear();
            message.encode_fixed(&mut self.encoded);
        }
        match dest {
            Dest::One(to) if to != me => {
                around.out.send(to, self.group.id, MessageKind::Protocol, &self.encoded, body);
                self.probe.messages += 1;
            }
            Dest::Others | Dest::All => {
                for index in 0..self.group.replica_count {
                    let to = ReplicaId(index as u8);
                    if to != me {
                        around.out.send(to, self.group.id, MessageKind::Protocol, &self.encoded, body);
                        self.probe.messages += 1;
                    }
                }
            }
            Dest::One(_) => {}
        }
        if mine {
            let event = Event::Deliver { from: me, message, body: body.cloned() };
            self.protocol.step(around.now, event, &mut self.effects);
        }
    }

    fn start_loads<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        let mut loads = std::mem::take(&mut self.effects.loads);
        for position in loads.drain(..) {
            let value = match self.log.find(position) {
                Found::Body(body) => match around.wal.locate(body) {
                    Some(location) => {
                        around.out.load(self.group.id, position, location);
                        continue;
                    }
                    None => None,
                },
                Found::Noop => Some(Value::Noop),
                Found::Nowhere => None,
            };
            self.protocol.step(around.now, Event::Loaded(position, value), &mut self.effects);
        }
        loads.append(&mut self.effects.loads);
        self.effects.loads = loads;
    }

    /// What was read for `position` counts only if the log has the value there still: while the read was under way the segment may have been
    /// released and written over.
    pub(crate) fn loaded<O: Outbox>(
        &mut self,
        position: Position,
        location: Location,
        frame: Option<Frame>,
        around: &mut Surroundings<'_, O>,
    ) {
        let is_there = |body| around.wal.locate(body) == Some(location);
        let retained = matches!(self.log.find(position), Found::Body(body) if is_there(body));
        let value = frame.filter(|_| retained).map(Value::Batch);
        self.step(Event::Loaded(position, value), around);
    }

    /// Whether this replica is the one that closes sessions: the leader, or, while one that does not serve may be the leader, the first of
    /// the others. It does no harm if two are.
    fn expires(&self) -> bool {
        let outvoted = self.checkpoints.outvoted();
        let mut sound =
            ReplicaSet::first(self.group.replica_count).iter().filter(|id| !outvoted.contains(*id));
        let stands_in = outvoted != ReplicaSet::default() && sound.next() == Some(self.group.me);
        self.protocol.status().leading || stands_in
    }

    /// As leader: proposes to close sessions that were not used for the configured time. All replicas close the same ones,
    /// because the command says up to which slot, not since when.
    fn expire_sessions<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        let now = around.now;
        if now.since(self.session_mark_at) < self.config.session_idle_max / SESSION_MARKS as u32 {
            return;
        }
        self.session_mark_at = now;
        self.session_marks.rotate_left(1);
        let unused_since = std::mem::replace(&mut self.session_marks[SESSION_MARKS - 1], self.stamp);
        if unused_since == 0 || !self.expires() || self.machine.sessions().known_count() == 0 {
            return;
        }
        let value = unused_since.to_le_bytes();
        let command =
            Command { kind: CommandKind::ExpireSessions, flags: 0, session: None, key: b"", value: &value };
        // Refused for want of room: the next mark is soon enough.
        let _ = self.batcher.push(now, now, around.pool, &command, ReplyTo::NOBODY);
    }
}
