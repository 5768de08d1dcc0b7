//! One core's turn, without I/O: its replicas, of whatever protocols, and their common log.
//!
//! A driver (the glommio loop in `panch-runtime`, the virtual world in `panch-sim`) hands in what arrived, then calls
//! [`Core::end_turn`] once, then [`Core::next_write`] once: one log write and one packet per peer and turn, shared by
//! all groups of the core.

use std::io;

use panch_consensus::frontier::Frontier;
use panch_consensus::protocol::{Event, Group, ProtocolKind, Random, Tuning};
use panch_wal::{Location, Lsn, Sync, Wal, Write, WriteFailed};
use panch_wire::client::Commit;
use panch_wire::command::{Command, Reply};
use panch_wire::frame::{Frame, FramePool, home_of};
use panch_wire::ids::{GroupId, Incarnation, Position, REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::rule::{self, Rule};
use panch_wire::time::Instant;

use crate::any::{AnyReplica, each};
use crate::batcher::Refusal;
use crate::client_batch::{self, BatchRefusal, Sound, Terms};
use crate::latency::Latencies;
use crate::outbox::{MessageKind, Outbox, ReplyTo};
use crate::rejoin::Membership;
use crate::replica::{Level, ReplicaConfig, Surroundings, takes_proposals};
use crate::sending::LOG_KEPT_FACTOR;
use crate::snapshot::{Restored, SnapshotName};
use crate::status::GroupStatus;
use crate::transfer::{SnapshotFile, TransferLimits};

/// What a core is made of.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// This node's replica in every group.
    pub me: ReplicaId,
    /// Replicas of every group.
    pub replica_count: usize,
    /// The groups of this core, each with its protocol.
    pub groups: Vec<(GroupId, ProtocolKind)>,
    /// Settings of every replica.
    pub replica: ReplicaConfig,
    /// Knobs of the protocol.
    pub tuning: Tuning,
    /// The node has lost its disk: its replicas ask the others what they may have said.
    pub rejoining: bool,
    /// Bytes of log segments at which the group that keeps the oldest one is made to take a snapshot.
    pub log_size_max: u64,
    /// The largest snapshot that is taken from a peer, in bytes: what this node's memory can hold.
    pub snapshot_size_max: u64,
}

/// The share of the frame memory that snapshots on their way to peers may take, all groups together: one part in this many.
const WINDOW_SHARE: u64 = 16;

/// The incarnation for a node whose last one was `stored`: durable before [`Core::start`] (protocols D5).
pub fn next_incarnation(stored: Incarnation) -> Incarnation {
    if rule::holds(Rule::IncarnationDurable) { Incarnation(stored.0 + 1) } else { stored }
}

/// One core's replicas and their common log.
pub struct Core {
    me: ReplicaId,
    incarnation: Incarnation,
    /// In ascending order of group.
    pub(crate) replicas: Vec<AnyReplica>,
    wal: Option<Wal>,
    pool: FramePool,
    latencies: Latencies,
    /// The latest incarnation heard of each peer.
    peers: [Incarnation; REPLICAS_MAX],
    durable: Lsn,
    log_size_max: u64,
    /// Until the log is durable up to here, nothing is said and nothing is taken in.
    start_after: Option<Lsn>,
}

impl Core {
    /// A core before its log is replayed. `restored` holds the state of each group that has a snapshot.
    pub fn open(
        config: &CoreConfig,
        incarnation: Incarnation,
        pool: FramePool,
        mut random: impl FnMut(GroupId) -> Random,
        mut restored: impl FnMut(GroupId) -> Option<(SnapshotFile, Restored)>,
    ) -> Self {
        let mut groups = config.groups.clone();
        groups.sort_unstable();
        let transfers = TransferLimits {
            window_max: pool.size_max() as u64 / WINDOW_SHARE / groups.len().max(1) as u64,
            size_max: config.snapshot_size_max,
        };
        let replicas = groups.into_iter().map(|(id, kind)| {
            let home = ReplicaId((id.index() % config.replica_count) as u8);
            let group = Group { id, me: config.me, replica_count: config.replica_count, home };
            let past = restored(id);
            AnyReplica::open(kind, config, group, incarnation, random(id), past, transfers)
        });
        Self {
            me: config.me,
            incarnation,
            replicas: replicas.collect(),
            wal: None,
            pool,
            latencies: Latencies::default(),
            peers: Default::default(),
            durable: Lsn::default(),
            log_size_max: config.log_size_max,
            start_after: None,
        }
    }

    /// Takes in one record of the log, oldest first.
    ///
    /// # Errors
    /// If the record belongs to no group of this core or does not decode: the log was written by another version.
    pub fn replay(&mut self, entry: panch_wal::Entry<'_>, out: &mut impl Outbox) -> Result<(), ReplayFault> {
        let group = entry.group;
        let index = self.index_of(group).ok_or(ReplayFault::UnknownGroup(group))?;
        each!(&mut self.replicas[index], replica => replica.replay(entry, &mut self.latencies, out))
            .ok_or(ReplayFault::Undecodable(group))
    }

    /// After the replay: whether what was found is the whole past.
    ///
    /// # Errors
    /// What is missing. A node without it must not start.
    pub fn check_past(&self) -> Result<(), PastFault> {
        self.replicas.iter().try_for_each(|any| {
            each!(any, replica => {
                let group = replica.group.id;
                replica.snapshots.check_name(group)?;
                replica.hole().map_or(Ok(()), |slot| Err(PastFault::Hole { group, slot }))
            })
        })
    }

    /// The log is replayed and this incarnation is durable: life begins as soon as the log is durable up to `replayed`,
    /// since what was read may have been in a volatile cache only.
    pub fn start(&mut self, now: Instant, wal: Wal, replayed: Lsn, out: &mut impl Outbox) {
        self.wal = Some(wal);
        self.start_after = Some(replayed);
        self.release_durable(now, out);
    }

    /// Whether [`Core::start`] has taken effect.
    pub fn is_live(&self) -> bool {
        self.wal.is_some() && self.start_after.is_none()
    }

    /// Whether a replica of this core is still on its way back from the loss of its disk.
    pub fn is_rejoining(&self) -> bool {
        self.replicas.iter().any(|any| each!(any, replica => replica.rejoin.is_returning()))
    }

    /// This is not the first start of the node: its replicas claim nothing before [`Core::set_recognised`], unless they are on
    /// their way back, which takes more than that. To be called before [`Core::start`].
    pub fn await_recognition(&mut self) {
        for any in &mut self.replicas {
            each!(any, replica => replica.rejoin.await_recognition());
        }
    }

    /// Whether it waits for [`Core::set_recognised`].
    pub fn is_unrecognised(&self) -> bool {
        let waits = |membership| membership == Membership::Unrecognised;
        self.replicas.iter().any(|any| each!(any, replica => waits(replica.membership())))
    }

    /// Every other node has taken in this start of the node, or was out of reach for a while.
    pub fn set_recognised(&mut self, now: Instant, out: &mut impl Outbox) {
        if !self.is_live() {
            for any in &mut self.replicas {
                each!(any, replica => { replica.rejoin.set_recognised(); });
            }
        }
        self.for_each(now, out, |any, around| each!(any, replica => replica.set_recognised(around)));
    }

    /// This node's incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Takes a command of a client, which `arrived` at the node now or earlier: its time runs since then.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if there is no room now: read no more from this client and try again after a turn.
    pub fn submit(
        &mut self,
        now: Instant,
        arrived: Instant,
        group: GroupId,
        command: &Command<'_>,
        level: Level,
        token: ReplyTo,
    ) -> Result<(), Refusal> {
        let Some(index) = self.index_of(group) else { return Err(Refusal::TooLarge) };
        if !self.is_live() {
            return Err(Refusal::Busy);
        }
        let pool = &self.pool;
        each!(&mut self.replicas[index], replica => replica.submit(now, arrived, pool, command, level, token))
    }

    /// Makes a frame of the bytes that a client proposes and checks it.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn receive_batch(
        &self,
        bytes: &[u8],
        terms: &Terms<'_>,
        group_of: impl Fn(&Command<'_>) -> Option<GroupId>,
    ) -> Result<(Frame, Sound), BatchRefusal> {
        client_batch::receive(bytes, &self.pool, terms, group_of)
    }

    /// Whether a batch with these bytes finds room, as far as its header tells: to be asked before they are made a frame. True, too, if
    /// the bytes or the group are wrong, or the log is full: nobody has to wait for that.
    pub fn has_room_for_batch(&self, group: GroupId, bytes: &[u8], connection: u64) -> bool {
        let (Some(index), Some(home)) = (self.index_of(group), home_of(bytes)) else { return true };
        let is_full = self.wal.as_ref().is_some_and(Wal::is_full);
        is_full || each!(&self.replicas[index], replica => replica.has_room_for_batch(home, connection))
    }

    /// Takes in a batch that [`Core::receive_batch`] found sound. At its home `connection` gets an answer for each command, under
    /// the command's number in its session; nobody else answers. If there is no room for it, who cannot wait hears
    /// [`CommandError::Unknown`](panch_wire::command::CommandError::Unknown), and so does everybody if the log is full.
    ///
    /// # Errors
    /// As [`Core::submit`].
    pub fn submit_batch(
        &mut self,
        now: Instant,
        arrived: Instant,
        group: GroupId,
        frame: Frame,
        connection: u64,
        can_wait: bool,
    ) -> Result<(), Refusal> {
        let Some(index) = self.index_of(group) else { return Err(Refusal::TooLarge) };
        let Some(wal) = self.wal.as_ref().filter(|_| self.start_after.is_none()) else {
            return Err(Refusal::Busy);
        };
        let (takes_proposals, is_full) = (takes_proposals(wal), wal.is_full());
        each!(&mut self.replicas[index], replica => {
            if takes_proposals && replica.submit_batch(now, arrived, frame.clone(), connection).is_ok() {
                return Ok(());
            }
            if can_wait && !is_full {
                return Err(Refusal::Busy);
            }
            replica.decline_batch(now, frame, connection);
            Ok(())
        })
    }

    /// The node stops: whatever waits to be decided or confirmed is answered with what is known of it. Nothing may be submitted afterwards.
    pub fn give_up(&mut self, out: &mut impl Outbox) {
        for any in &mut self.replicas {
            each!(any, replica => replica.give_up(out));
        }
    }

    /// Answers a read with whatever this node has executed; `None` if the group is not here, the command is no read, or the core does not
    /// live yet: what it has executed of its log may still be lost.
    pub fn read_stale<R>(
        &mut self,
        group: GroupId,
        command: &Command<'_>,
        answer: impl FnOnce(Reply<'_>, Option<&Commit>) -> R,
    ) -> Option<R> {
        let index = self.index_of(group).filter(|_| command.kind.is_read() && self.is_live())?;
        Some(each!(&mut self.replicas[index], replica => replica.read_stale(command, answer)))
    }

    /// Whether a packet between these incarnations may be taken in: messages from or to an earlier life are void
    /// (protocols D6).
    pub fn admits(&mut self, from: ReplicaId, sender: Incarnation, receiver: Incarnation) -> bool {
        if from.index() >= REPLICAS_MAX || from == self.me || sender < self.peers[from.index()] {
            return false;
        }
        if sender > std::mem::replace(&mut self.peers[from.index()], sender) {
            for any in &mut self.replicas {
                each!(any, replica => replica.on_new_life(from));
            }
        }
        receiver == Incarnation(0) || receiver == self.incarnation
    }

    /// The latest incarnation heard of `peer`; 0 if none.
    pub fn peer_incarnation(&self, peer: ReplicaId) -> Incarnation {
        self.peers[peer.index()]
    }

    /// Takes in one message of a peer. The body was validated.
    ///
    /// # Errors
    /// What is wrong with it: the peer misbehaves, or has another version or configuration.
    pub fn deliver(
        &mut self,
        now: Instant,
        from: ReplicaId,
        group: GroupId,
        kind: u8,
        bytes: &[u8],
        body: Option<Frame>,
        out: &mut impl Outbox,
    ) -> Result<(), Misbehaviour> {
        let index = self.index_of(group).ok_or(Misbehaviour::Undecodable)?;
        if !self.is_live() {
            return Ok(());
        }
        let Some(wal) = &mut self.wal else { return Ok(()) };
        // What a protocol is given it may have to write down.
        let is_logged = kind == MessageKind::Protocol as u8;
        if let Some(body) = body.as_ref().filter(|body| is_logged && !wal.takes_body(body)) {
            return Err(Misbehaviour::BodyTooLarge { size: body.bytes().len() });
        }
        let around = &mut Surroundings { now, wal, pool: &self.pool, latencies: &mut self.latencies, out };
        each!(&mut self.replicas[index], replica => replica.on_bytes(from, kind, bytes, body, around))
    }

    /// The connection to `peer` was lost.
    pub fn suspect(&mut self, now: Instant, peer: ReplicaId, out: &mut impl Outbox) {
        self.for_each(
            now,
            out,
            |any, around| each!(any, replica => replica.step(Event::Suspect(peer), around)),
        );
    }

    /// A log write has ended.
    ///
    /// # Errors
    /// If it failed: the node must stop and never try that write again (protocols D2).
    pub fn log_written(
        &mut self,
        now: Instant,
        write: Write,
        result: io::Result<()>,
        out: &mut impl Outbox,
    ) -> Result<(), WriteFailed> {
        self.wal.as_mut().expect("a write comes from the log").on_written(write, result)?;
        self.release_durable(now, out);
        Ok(())
    }

    /// A sync of the log has ended.
    ///
    /// # Errors
    /// As [`Core::log_written`].
    pub fn log_synced(
        &mut self,
        now: Instant,
        sync: Sync,
        result: io::Result<()>,
        out: &mut impl Outbox,
    ) -> Result<(), WriteFailed> {
        self.wal.as_mut().expect("a sync comes from the log").on_synced(sync, result)?;
        self.release_durable(now, out);
        Ok(())
    }

    fn release_durable(&mut self, now: Instant, out: &mut impl Outbox) {
        let Some(wal) = &mut self.wal else { return };
        let durable = wal.durable();
        if let Some(after) = self.start_after {
            if durable < after {
                return;
            }
            self.start_after = None;
            self.durable = durable;
            for any in &mut self.replicas {
                let around =
                    &mut Surroundings { now, wal, pool: &self.pool, latencies: &mut self.latencies, out };
                each!(any, replica => replica.start(around));
            }
        }
        if durable > self.durable {
            self.durable = durable;
            self.for_each(now, out, |any, around| each!(any, replica => replica.durable(durable, around)));
        }
    }

    /// The frame at `location` was read back from the log; `None` if it could not be.
    pub fn loaded(
        &mut self,
        now: Instant,
        group: GroupId,
        position: Position,
        location: Location,
        frame: Option<Frame>,
        out: &mut impl Outbox,
    ) {
        self.with(group, now, out, |any, around| {
            each!(any, replica => replica.loaded(position, location, frame, around));
        });
    }

    /// A snapshot chunk was written; `durable` once the file is complete and survives a crash.
    pub fn snapshot_written(
        &mut self,
        now: Instant,
        group: GroupId,
        slot: Slot,
        written: Result<bool, ()>,
        out: &mut impl Outbox,
    ) {
        self.with(group, now, out, |any, around| match written {
            Ok(durable) => each!(any, replica => replica.snapshot_written(slot, durable, around)),
            Err(()) => each!(any, replica => replica.snapshot_failed(slot, around)),
        });
    }

    /// A snapshot chunk was read for `peer`; `None` if it could not be.
    pub fn snapshot_read(
        &mut self,
        now: Instant,
        group: GroupId,
        peer: ReplicaId,
        file: SnapshotFile,
        offset: u64,
        bytes: Option<&[u8]>,
        out: &mut impl Outbox,
    ) {
        self.with(group, now, out, |any, around| {
            each!(any, replica => replica.snapshot_read(peer, file, offset, bytes, around));
        });
    }

    /// Ends a turn: batches leave, deadlines fall, a full log asks for snapshots.
    pub fn end_turn(&mut self, now: Instant, out: &mut impl Outbox) {
        self.for_each(now, out, |any, around| each!(any, replica => replica.end_turn(around)));
        let Some(wal) = &mut self.wal else { return };
        let (is_full, size) = (wal.is_full(), wal.retained_size());
        if (is_full || size > self.log_size_max)
            && let Some(group) = wal.oldest_blocking_group()
        {
            let kept_max = self.log_size_max.saturating_mul(LOG_KEPT_FACTOR);
            let excess = if is_full { u64::MAX } else { size.saturating_sub(kept_max) };
            self.with(
                group,
                now,
                out,
                |any, around| each!(any, replica => replica.need_room(excess, around)),
            );
        }
    }

    /// The next log write; called until `None` at the end of a turn. Usually there is one: everything that the turn
    /// appended, of all groups.
    pub fn next_write(&mut self, now: Instant, out: &mut impl Outbox) -> Option<Write> {
        let wal = self.wal.as_mut()?;
        let replicas = &mut self.replicas;
        let write = wal.next_write(now, |restatement| {
            if rule::holds(Rule::PromiseRestated) {
                for any in replicas {
                    each!(any, replica => replica.restate(restatement));
                }
            }
        });
        // A log in memory is durable as soon as it is appended to.
        self.release_durable(now, out);
        write
    }

    /// The log, for the driver's segment work.
    pub fn wal(&mut self) -> Option<&mut Wal> {
        self.wal.as_mut()
    }

    /// When the next turn is wanted even if nothing arrives.
    pub fn deadline(&self) -> Option<Instant> {
        let takes = self.wal.as_ref().is_some_and(takes_proposals);
        let live = self.is_live();
        let deadline = |any: &AnyReplica| each!(any, replica => replica.deadline(takes));
        let replicas = self.replicas.iter().filter(|_| live).filter_map(deadline).min();
        let wal = self.wal.as_ref().and_then(Wal::deadline);
        [replicas, wal].into_iter().flatten().min()
    }

    /// For operators, per group.
    pub fn status(&self) -> impl Iterator<Item = GroupStatus> {
        self.replicas.iter().map(|any| each!(any, replica => replica.group_status()))
    }

    /// What the reply to a command of that group would take, see [`Kv::reply_size`](crate::kv::Kv::reply_size); `None` if the group is not
    /// here.
    pub fn reply_size(&self, group: GroupId, command: &Command<'_>, written: usize) -> Option<usize> {
        let index = self.index_of(group)?;
        Some(each!(&self.replicas[index], replica => replica.kv().reply_size(command, written)))
    }

    /// Whether a group of this core remembers the reply to this command, so that a copy of it changes nothing, see
    /// [`Sessions::remembers`](crate::sessions::Sessions::remembers).
    pub fn remembers(&self, group: GroupId, command: &Command<'_>) -> bool {
        let Some((index, header)) = self.index_of(group).zip(command.session) else { return false };
        each!(&self.replicas[index], replica => replica.remembers(header))
    }

    /// How long the values of each group are at most.
    pub fn value_size_bounds(&self) -> impl Iterator<Item = (GroupId, usize)> {
        self.replicas
            .iter()
            .map(|any| each!(any, replica => (replica.group.id, replica.kv().value_size_bound())))
    }

    /// Bytes of memory that the data of all groups take, see [`Kv::data_size`](crate::kv::Kv::data_size).
    pub fn data_size(&self) -> u64 {
        self.replicas.iter().map(|any| each!(any, replica => replica.kv().data_size() as u64)).sum()
    }

    /// Keys in all groups.
    pub fn key_count(&self) -> u64 {
        self.replicas.iter().map(|any| each!(any, replica => replica.key_count())).sum()
    }

    /// Commit and execution latencies of all groups together since the start.
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Which positions of a group are executed; `None` if the group is not here.
    pub fn executed(&self, group: GroupId) -> Option<&Frontier> {
        let index = self.index_of(group)?;
        Some(each!(&self.replicas[index], replica => &replica.executed))
    }

    pub(crate) fn index_of(&self, group: GroupId) -> Option<usize> {
        self.replicas.binary_search_by_key(&group, AnyReplica::group).ok()
    }

    fn with<O: Outbox>(
        &mut self,
        group: GroupId,
        now: Instant,
        out: &mut O,
        work: impl FnOnce(&mut AnyReplica, &mut Surroundings<'_, O>),
    ) {
        if self.is_live()
            && let Some(index) = self.index_of(group)
            && let Some(wal) = &mut self.wal
        {
            work(
                &mut self.replicas[index],
                &mut Surroundings { now, wal, pool: &self.pool, latencies: &mut self.latencies, out },
            );
        }
    }

    fn for_each<O: Outbox>(
        &mut self,
        now: Instant,
        out: &mut O,
        mut work: impl FnMut(&mut AnyReplica, &mut Surroundings<'_, O>),
    ) {
        if !self.is_live() {
            return;
        }
        let Some(wal) = &mut self.wal else { return };
        for replica in &mut self.replicas {
            work(
                replica,
                &mut Surroundings { now, wal, pool: &self.pool, latencies: &mut self.latencies, out },
            );
        }
    }
}

/// A record of the log that this core cannot take in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplayFault {
    /// It belongs to a group that is not configured.
    #[error("the log holds records of group {}, which is not configured on this core: restore the cluster's `groups` and this node's `cores`", .0.0)]
    UnknownGroup(GroupId),
    /// It is not a record of the configured protocol.
    #[error("the log holds a record of group {} that this version cannot read: start it with the version and protocol that wrote it", .0.0)]
    Undecodable(GroupId),
}

/// What is missing of a replica's past.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PastFault {
    /// A slot that was known to be chosen is neither in the snapshot nor in the log.
    #[error("slot {} of group {} was decided, but is neither in the newest snapshot nor in the log: it is lost here. Restore the data directory from an exact copy of its last state, or empty it whole and start the node with --rejoin", slot.0, group.0)]
    Hole {
        /// The group.
        group: GroupId,
        /// The first slot that is missing.
        slot: Slot,
    },
    /// The log continues a snapshot that is not there.
    #[error("the log continues the snapshot of slot {} of group {} ({} bytes), and {}: an older state would contradict what was acknowledged. Restore the file or the data directory from an exact copy of its last state, or empty the data directory whole and start the node with --rejoin", named.slot, group.0, named.size, found.map_or("there is none".to_string(), |file| if file.slot.0 == named.slot { "the file of that name covers something else".to_string() } else { format!("the newest file is of slot {} with {} bytes", file.slot.0, file.size) }))]
    Snapshot {
        /// The group.
        group: GroupId,
        /// What the log names.
        named: SnapshotName,
        /// The newest file.
        found: Option<SnapshotFile>,
    },
}

/// What a peer should not have sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Misbehaviour {
    /// It is no message of the group's protocol.
    #[error("the peer sent something that is not a message of this protocol")]
    Undecodable,
    /// A snapshot that this node cannot hold.
    #[error(
        "the peer sends a snapshot of {size} bytes, and this node can hold no more than {size_max}: its memory is too small for the state of its groups"
    )]
    SnapshotTooLarge {
        /// Bytes of the snapshot.
        size: u64,
        /// The largest that is taken, in bytes.
        size_max: u64,
    },
    /// A batch that the log here cannot take.
    #[error(
        "the peer sent a batch of {size} bytes, which does not fit this node's log segments: all nodes need the same `log_segment_size` and batch sizes"
    )]
    BodyTooLarge {
        /// Bytes of the batch.
        size: usize,
    },
}

impl Misbehaviour {
    /// Whether nothing more is to be taken from the peer on this stream. One whose state does not fit here is told so, and whatever else
    /// it says is sound.
    pub fn ends_stream(&self) -> bool {
        !matches!(self, Self::SnapshotTooLarge { .. })
    }
}
