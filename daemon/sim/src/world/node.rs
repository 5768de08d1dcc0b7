//! A node: one core, its data directory, its clock; what it takes in waits for its next turn.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use panch_consensus::protocol::Random;
use panch_replica::batcher::BatchLimits;
use panch_replica::core::{Core, CoreConfig};
use panch_replica::rejoin::Life as Written;
use panch_replica::replica::PROTOCOL_RECORD;
use panch_replica::snapshot::{Restored, SnapshotFault, SnapshotFiles, file};
use panch_replica::status::GroupStatus;
use panch_replica::transfer::SnapshotFile;
use panch_wal::{
    Durability, End, INVENTORY_SIZE, Inventory, Location, Lsn, RecoverError, Recovered, SegmentFile,
    SegmentReader, SegmentSequence, Sync, Wal, Write,
};
use panch_wire::frame::{FramePool, PAGE_SIZE};
use panch_wire::ids::{GroupId, Incarnation, Position, REPLICAS_MAX, ReplicaId, ReplicaSet, Slot};
use panch_wire::peer::{PacketReader, PacketWriter};

use super::clock::Clock;
use super::helper::Helper;
use super::log_watch::{self, Watched};
use super::outbox::{Deed, Deeds, Execution};
use super::rejoin::Memory;
use super::restore::Recognition;
use super::{Event, Shared};
use crate::client::{Outcome, Proposal, Request};
use crate::disk::{CrashKind, Disk, FileId, Job, JobId, Name, Progress, Step};
use crate::inspect::{self, Commitment};
use crate::invariant::Held;
use crate::invariant::ledger::Entry;
use crate::network::Packet;
use crate::queue::{MICROSECOND, MILLISECOND, SECOND, Time};
use crate::random::{Concern, Stream};
use crate::settings::{Own, Settings};

/// Names the log of a node, so that another's is not taken for it.
pub(super) const IDENTITY: u64 = 0x70a6_c401;

/// Something that waits for the node's next turn.
pub(crate) enum Input {
    Packet(Packet),
    Disk(Tag, bool),
    Request(Request),
    Batch(Rc<Proposal>),
    /// A stream to a peer, in the life of this name.
    Connected(usize, u64),
    Disconnected(usize),
}

/// What a disk job was for.
pub(crate) enum Tag {
    Identity(Incarnation, bool),
    /// A node on its way back is a member again.
    Promotion,
    Log(LogWrite),
    Sync(Sync),
    Segment(SegmentSequence),
    /// There was no room for the segment.
    NoSegment(SegmentSequence),
    /// The segment is in the inventory.
    Noted(SegmentSequence),
    SnapshotWrite {
        group: GroupId,
        slot: Slot,
        last: bool,
    },
    SnapshotRead {
        group: GroupId,
        peer: ReplicaId,
        file: SnapshotFile,
        offset: u64,
        length: usize,
        from: Option<FileId>,
    },
    SnapshotRemove,
    Load {
        group: GroupId,
        position: Position,
        location: Location,
        from: Option<FileId>,
    },
    Nothing,
}

/// A log write with what the invariants and the damager of logs want to know of it.
pub(crate) struct LogWrite {
    pub(crate) write: Write,
    pub(crate) records: Vec<Watched>,
    /// What the commit group states to be on stable storage.
    pub(crate) states: Lsn,
}

/// Where a completed log write lies.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) lsn: Lsn,
    pub(crate) segment: SegmentSequence,
    pub(crate) first_page: usize,
    pub(crate) page_count: usize,
}

pub(crate) enum State {
    Down,
    /// It has lost its disk and asks the others for its incarnation.
    Inquiring {
        answered: ReplicaSet,
        highest: Incarnation,
    },
    /// Its new incarnation is being written.
    Booting,
    Up(Box<Life>),
    /// It refused to start: its log is damaged.
    Refused,
    /// Others said that it has forgotten what it was.
    Disowned,
}

/// A running process.
pub(crate) struct Life {
    pub(crate) core: Core,
    /// What it takes in from clients.
    pub(crate) limits: BatchLimits,
    pub(crate) pool: FramePool,
    pub(crate) deeds: Deeds,
    pub(crate) live: bool,
    /// What the log gave back.
    pub(crate) replayed: Vec<(GroupId, Entry)>,
    /// What was executed of that before it was known to be durable.
    pub(crate) executed: Vec<Execution>,
    /// What it said to be decided.
    pub(crate) committed: Vec<(GroupId, Commitment)>,
    /// Packets that wait for frame memory, each with its reader and how far that has come.
    pub(crate) waiting: VecDeque<(Packet, PacketReader, usize)>,
    pub(crate) helper: Helper,
    pub(crate) writers: Vec<PacketWriter>,
    /// How far its log is on stable storage.
    pub(crate) log_end: u64,
    /// By peer, what the last packet said of that, and when.
    pub(crate) told: [(u64, Time); REPLICAS_MAX],
    /// Its name, and those of the lives of others whose hello it has accepted.
    pub(crate) name: u64,
    pub(crate) accepted: [u64; REPLICAS_MAX],
    /// What the others think of it.
    pub(crate) recognition: Recognition,
    /// By peer: what was remembered when it was told last, and when that was.
    pub(crate) words: [(u64, Time); REPLICAS_MAX],
}

/// One node.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) disk: Disk<Tag>,
    pub(crate) clock: Clock,
    pub(crate) state: State,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) random: Stream,
    protocol_random: Stream,
    pub(crate) next_turn: Option<Time>,
    pub(crate) busy_until: Time,
    /// Added to every reaction.
    pub(crate) slowness: Time,
    /// Clients that wait for an answer of this process.
    pub(crate) asking: BTreeSet<(usize, u64)>,
    /// Counts processes.
    pub(crate) life: u64,
    /// What it knows of its own way back, and of the lives of others.
    pub(crate) memory: Memory,
    /// An older copy of its disk was restored.
    pub(crate) restored: bool,
    /// Not everybody noticed that: the operator looks after it.
    pub(crate) is_watched: bool,
    /// Its files were damaged: it may refuse to start.
    pub(crate) rotten: bool,
    /// Its snapshots cannot be read at its next start.
    pub(crate) unreadable: bool,
    /// Bytes of its segments in this life.
    pub(crate) segment_size: u64,
    /// It is kept down.
    pub(crate) is_absent: bool,
    /// It will end in the middle of its next log write.
    pub(crate) doomed: Option<CrashKind>,
    /// Log writes under way and what the completed ones among them hold, oldest first.
    pub(crate) in_flight: VecDeque<(Lsn, Option<Vec<Watched>>)>,
    extents: VecDeque<Extent>,
    /// Everything up to here is stated to be durable by a completed write.
    attested: Lsn,
}

/// How long a disk takes to find that it has no room: what is tried again at once would keep a node busy.
const NO_ROOM_AFTER: Time = 5 * MILLISECOND;

/// Completed writes that are remembered for damage.
const EXTENTS_MAX: usize = 64;

/// What a disk says of the segments that must be on it.
pub(super) fn inventory_on<T>(disk: &Disk<T>) -> Result<Option<Inventory>, RecoverError> {
    let Some(file) = disk.open(Name::Inventory) else { return Ok(None) };
    let mut bytes = vec![0; INVENTORY_SIZE];
    disk.read(file, 0, &mut bytes);
    Inventory::read(&bytes)
}

impl Node {
    pub(crate) fn new(index: usize, settings: &Settings) -> Self {
        let seed = settings.seed;
        let mut random = Stream::new(seed, Concern::Turns(index));
        let base = SECOND + random.below(1000 * SECOND);
        Self {
            index,
            disk: Disk::new(Stream::new(seed, Concern::Disk(index)), settings.disk),
            clock: Clock::new(base),
            state: State::Down,
            inbox: VecDeque::new(),
            random,
            protocol_random: Stream::new(seed, Concern::Protocol(index)),
            next_turn: None,
            busy_until: 0,
            slowness: 0,
            asking: BTreeSet::new(),
            life: 0,
            memory: Memory::default(),
            restored: false,
            is_watched: false,
            rotten: false,
            unreadable: false,
            segment_size: settings.wal.segment_size,
            is_absent: false,
            doomed: None,
            in_flight: VecDeque::new(),
            extents: VecDeque::new(),
            attested: Lsn::default(),
        }
    }

    pub(crate) fn id(&self) -> ReplicaId {
        ReplicaId(self.index as u8)
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    pub(crate) fn life(&self) -> Option<&Life> {
        match &self.state {
            State::Up(life) => Some(life),
            _ => None,
        }
    }

    /// The status of every group, if the node is up.
    pub(crate) fn status(&self) -> Vec<GroupStatus> {
        self.life().map(|life| life.core.status().collect()).unwrap_or_default()
    }

    /// Hands something in for the next turn.
    pub(crate) fn take_in(&mut self, shared: &mut Shared, input: Input) {
        if !self.is_up() {
            return;
        }
        self.inbox.push_back(input);
        let reaction =
            self.random.skewed(MICROSECOND, shared.settings.reaction.max(MICROSECOND)) + self.slowness;
        let at = shared.queue.now() + reaction;
        self.wake(shared, at);
    }

    /// The next turn is at `at` at the latest, but not while the node is busy or paused.
    pub(crate) fn wake(&mut self, shared: &mut Shared, at: Time) {
        let at = at.max(self.busy_until);
        if self.next_turn.is_none_or(|next| at < next) {
            self.next_turn = Some(at);
            shared.queue.push(at, Event::Turn { node: self.index, at });
        }
    }

    /// Starts a job on the disk that makes something new; without room for that it fails.
    pub(crate) fn make(&mut self, shared: &mut Shared, tag: Tag, steps: impl IntoIterator<Item = Step>) {
        if !self.disk.full {
            return self.submit(shared, tag, steps);
        }
        shared.coverage.no_room += 1;
        let tag = if let Tag::Segment(sequence) = tag { Tag::NoSegment(sequence) } else { tag };
        self.fail(shared, tag);
    }

    /// Starts a job on the disk that fails.
    pub(super) fn fail(&mut self, shared: &mut Shared, tag: Tag) {
        let (job, _) = self.disk.submit(shared.queue.now(), Job::failing(tag));
        shared.queue.push_in(NO_ROOM_AFTER, Event::Disk { node: self.index, job });
    }

    /// Starts a job on the disk.
    pub(crate) fn submit(&mut self, shared: &mut Shared, tag: Tag, steps: impl IntoIterator<Item = Step>) {
        let (job, at) = self.disk.submit(shared.queue.now(), Job::new(tag, steps));
        shared.queue.push(at, Event::Disk { node: self.index, job });
    }

    /// A disk job has come to the end of a step.
    pub(crate) fn on_disk(&mut self, shared: &mut Shared, job: JobId) {
        match self.disk.advance(shared.queue.now(), job) {
            Progress::Gone => {}
            Progress::Until(at) => shared.queue.push(at, Event::Disk { node: self.index, job }),
            Progress::Ended(Tag::Identity(incarnation, rejoining), succeeded) => {
                if succeeded {
                    self.boot(shared, incarnation, rejoining);
                } else {
                    self.state = State::Down;
                    shared.queue.push_in(10 * MILLISECOND, Event::Restart { node: self.index });
                }
            }
            Progress::Ended(Tag::Promotion, succeeded) => self.on_promotion(shared, succeeded),
            Progress::Ended(Tag::Nothing, _) => {}
            Progress::Ended(Tag::SnapshotRemove, _) => self.on_helped(shared),
            Progress::Ended(Tag::Segment(sequence), true) => self.note_segment(shared, sequence),
            Progress::Ended(mut tag, succeeded) => {
                if let Tag::Log(log) = &mut tag
                    && succeeded
                {
                    self.on_log_stable(shared, log);
                }
                if let Tag::SnapshotWrite { group, slot, .. } = tag
                    && !succeeded
                {
                    self.give_up_file(group, slot);
                }
                let is_helpers = matches!(tag, Tag::SnapshotWrite { .. } | Tag::SnapshotRead { .. });
                self.take_in(shared, Input::Disk(tag, succeeded));
                if is_helpers {
                    self.on_helped(shared);
                }
            }
        }
    }

    /// What the disk says of the segments that the log was given.
    fn inventory(&self) -> Result<Option<Inventory>, RecoverError> {
        inventory_on(&self.disk)
    }

    /// A segment's file is there for good: it is noted before the log is told.
    fn note_segment(&mut self, shared: &mut Shared, sequence: SegmentSequence) {
        let mut inventory = self.inventory().ok().flatten().unwrap_or_default();
        inventory.add(sequence, self.segment_size);
        let (offset, page) = inventory.encode();
        let known = self.disk.open(Name::Inventory);
        let file = known.unwrap_or_else(|| self.disk.create(INVENTORY_SIZE as u64));
        let written = self.disk.write(file, offset, [&page.0[..]].into_iter());
        let mut steps = vec![Step::WriteStable(written)];
        if known.is_none() {
            steps.extend([Step::Link(file, Name::Inventory), Step::SyncDirectory]);
        }
        self.submit(shared, Tag::Noted(sequence), steps);
    }

    fn on_log_stable(&mut self, shared: &mut Shared, log: &mut LogWrite) {
        // A commit group is worth nothing while an older one is missing.
        let place = self.in_flight.iter_mut().find(|(lsn, _)| *lsn == log.write.lsn());
        place.expect("a completed write was in flight").1 = Some(std::mem::take(&mut log.records));
        while let Some((_, Some(records))) = self.in_flight.pop_front_if(|(_, records)| records.is_some()) {
            for Watched { group, entry, commitment, .. } in records {
                shared.invariants.on_stable(self.index, group, entry);
                if let Some(commitment) = commitment {
                    shared.invariants.on_commitment(group, *commitment);
                }
            }
        }
        self.attested = self.attested.max(log.states);
        let first_page = log.write.offset() as usize / PAGE_SIZE;
        let page_count = log.write.size() / PAGE_SIZE;
        self.extents.push_back(Extent {
            lsn: log.write.lsn(),
            segment: log.write.segment(),
            first_page,
            page_count,
        });
        if self.extents.len() > EXTENTS_MAX {
            self.extents.pop_front();
        }
    }

    // Life and death.

    /// The incarnation is durable: reads the newest snapshots and the log, and begins to live.
    fn boot(&mut self, shared: &mut Shared, incarnation: Incarnation, rejoining: bool) {
        self.memory.rejoining = rejoining;
        shared.trace(|| format!("node {} boots, incarnation {}", self.index, incarnation.0));
        let pool = FramePool::new(shared.settings.pool_size);
        let Own { replica: limits, tuning, wal, log_size_max } =
            shared.settings.own(self.index, incarnation.0);
        shared.coverage.own_limits += u64::from(shared.settings.limits_vary);
        shared.coverage.own_tuning += u64::from(shared.settings.tuning_varies);
        let config = CoreConfig { tuning, log_size_max, ..shared.core_config(self.id(), limits, rejoining) };
        let is_unreadable = std::mem::take(&mut self.unreadable);
        let mut restored = Vec::new();
        for (group, slot) in self.snapshot_files().newest {
            match self.load_snapshot(group, slot, config.replica.hash_seed, is_unreadable) {
                Ok(found) => {
                    shared.coverage.restored += 1;
                    restored.push((group, Some(found)));
                }
                Err(SnapshotFault::Read(_)) if is_unreadable => {
                    shared.coverage.unreadable_snapshots += 1;
                    self.state = State::Down;
                    shared.queue.push_in(20 * MILLISECOND, Event::Restart { node: self.index });
                    return;
                }
                Err(fault) => return self.refuse(shared, format!("snapshot of slot {}: {fault}", slot.0)),
            }
        }
        let protocol_random = &mut self.protocol_random;
        let random = |_| -> Random { protocol_random.fork() };
        let mut deeds = Deeds { graphs: shared.graphs(), ..Deeds::default() };
        for (group, found) in &restored {
            if deeds.graphs.contains(group)
                && let Some((_, restored)) = found
            {
                shared.invariants.on_restored(self.index, *group, restored.covered.clone());
            }
        }
        let mut core = Core::open(&config, incarnation, pool.clone(), random, |group| {
            restored.iter_mut().find(|(of, _)| *of == group)?.1.take()
        });
        let mut replayed = Vec::new();
        let mut committed = Vec::new();
        let mut fault = None;
        let identity = IDENTITY ^ self.index as u64;
        let recovered = self.inventory().and_then(|inventory| {
            panch_wal::recover(&mut LogDirectory(&self.disk), identity, inventory.as_ref(), &pool, |entry| {
                let kind = shared.kind(entry.group).filter(|_| entry.kind == PROTOCOL_RECORD);
                if let Some(fact) = kind.and_then(|kind| inspect::fact(kind, entry.bytes)) {
                    let held = entry.body.as_ref().map_or(Held::Noop, |frame| Held::Batch(frame.checksum()));
                    replayed.push((entry.group, log_watch::entry(fact, held)));
                }
                let commitment = kind.and_then(|kind| inspect::recorded_commitment(kind, entry.bytes));
                committed.extend(commitment.map(|commitment| (entry.group, commitment)));
                if let Err(error) = core.replay(entry, &mut deeds) {
                    fault = Some(error.to_string());
                }
            })
        });
        let mut recovered = match (recovered, fault) {
            (Ok(recovered), None) => recovered,
            (Ok(_), Some(error)) => {
                let text = format!("node {} cannot replay its log: {error}", self.index);
                shared.invariants.note("recovery", Err(text));
                return;
            }
            (Err(error), _) => return self.refuse(shared, error.to_string()),
        };
        if let Err(fault) = core.check_past() {
            return self.refuse(shared, fault.to_string());
        }
        shared.coverage.torn_tails += u64::from(recovered.end == End::Torn);
        shared.coverage.replayed_records += recovered.record_count;
        for (peer, known) in (0..).map(ReplicaId).zip(self.memory.peers.known()) {
            core.admits(peer, known.life.incarnation, Incarnation(0));
        }
        self.segment_size = wal.segment_size;
        self.discard_misfits(shared, &mut recovered);
        let last = recovered.last;
        let is_first = self.memory.starts.iter().next().is_none();
        let name = self.note_start(shared, incarnation, last);
        let now = self.clock.at(shared.queue.now());
        self.memory.peers.set_node_count(shared.settings.replica_count);
        if !is_first {
            core.await_recognition();
        }
        let recognition = Recognition::new(shared.queue.now(), !core.is_unrecognised());
        core.start(now, Wal::resume(wal, recovered), last, &mut deeds);
        shared.coverage.resyncs += u64::from(!core.is_live());
        let writers = (0..shared.settings.replica_count).map(|_| PacketWriter::new()).collect();
        let life = Life {
            core,
            limits: limits.batch,
            pool,
            deeds,
            live: false,
            replayed,
            executed: Vec::new(),
            committed,
            waiting: VecDeque::new(),
            helper: Helper::default(),
            writers,
            log_end: 0,
            told: [(0, 0); REPLICAS_MAX],
            name,
            accepted: [0; REPLICAS_MAX],
            recognition,
            words: [(u64::MAX, 0); REPLICAS_MAX],
        };
        self.state = State::Up(Box::new(life));
        self.inbox.clear();
        self.next_turn = None;
        self.tidy(shared);
        let now = shared.queue.now();
        self.wake(shared, now);
        for peer in 0..shared.settings.replica_count {
            if peer != self.index {
                shared.queue.push_in(MILLISECOND, Event::Connect { a: self.index, b: peer });
            }
        }
    }

    /// Prepared segments that were made for another size are of no use. They hold nothing.
    fn discard_misfits(&mut self, shared: &mut Shared, recovered: &mut Recovered) {
        let misfits = recovered.take_misfits(self.segment_size);
        let Some(lowest) = misfits.last() else { return };
        shared.coverage.misfits += misfits.len() as u64;
        let mut inventory = self.inventory().ok().flatten().unwrap_or_default();
        inventory.remove_from(*lowest);
        let mut bytes = vec![0; INVENTORY_SIZE];
        let (offset, page) = inventory.encode();
        bytes[offset as usize..][..PAGE_SIZE].copy_from_slice(&page.0);
        self.disk.replace(Name::Inventory, &bytes);
        for sequence in misfits {
            self.disk.discard(Name::Segment(sequence.0));
        }
    }

    /// The process does not start, for this reason: right only if its files were damaged.
    fn refuse(&mut self, shared: &mut Shared, reason: String) {
        shared.trace(|| format!("node {} refuses to start: {reason}", self.index));
        if self.rotten {
            shared.coverage.refused_logs += 1;
        } else {
            let text = format!("node {} refuses files that were not damaged: {reason}", self.index);
            shared.invariants.note("recovery", Err(text));
        }
        self.state = State::Refused;
    }

    /// Removes what earlier lives left unfinished, and snapshots older than the newest.
    fn tidy(&mut self, shared: &mut Shared) {
        let superseded =
            self.snapshot_files().superseded.into_iter().map(|(group, slot)| Name::Snapshot(group, slot));
        let unfinished = self.disk.names().filter(|name| matches!(name, Name::Temporary(_)));
        let useless: Vec<Name> = superseded.chain(unfinished).collect();
        for name in useless {
            self.submit(shared, Tag::Nothing, [Step::Unlink(name)]);
        }
    }

    /// The complete snapshots: those that count, and the others.
    pub(super) fn snapshot_files(&self) -> SnapshotFiles {
        let files = self.disk.names().filter_map(|name| match name {
            Name::Snapshot(group, slot) => Some((group, slot)),
            _ => None,
        });
        files.collect::<Vec<_>>().into()
    }

    pub(super) fn load_snapshot(
        &self,
        group: GroupId,
        slot: Slot,
        hash_seed: u64,
        is_unreadable: bool,
    ) -> Result<(SnapshotFile, Restored), SnapshotFault> {
        let file = self.disk.open(Name::Snapshot(group, slot)).expect("the name was just listed");
        let size = self.disk.size(file);
        file::load(group, slot, hash_seed, |offset, into| {
            if is_unreadable {
                return Err(std::io::Error::other("the disk failed"));
            }
            let count = into.len().min((size - offset) as usize);
            self.disk.read(file, offset, &mut into[..count]);
            Ok(count)
        })
    }

    /// The process ends.
    pub(crate) fn crash(&mut self, shared: &mut Shared, kind: CrashKind) {
        match &self.state {
            State::Refused => return,
            State::Down if kind == CrashKind::Kill => return,
            _ => {}
        }
        shared.trace(|| format!("node {} ends: {kind:?}", self.index));
        for status in self.status() {
            shared.coverage.add_status(&status);
        }
        self.state = State::Down;
        self.inbox.clear();
        self.in_flight.clear();
        self.doomed = None;
        self.next_turn = None;
        self.memory.peers = self.memory.written.after_restart();
        self.disk.crash(kind);
        shared.invariants.on_crash(self.index);
        let life = Written {
            is_unsynced: matches!(shared.settings.wal.durability, Durability::Periodic { .. }),
            boot: 1,
            is_closed: false,
        };
        let has_lost_votes = match kind {
            CrashKind::Kill => life.has_lost_votes(1),
            CrashKind::Power => life.has_lost_votes(2),
            CrashKind::Failure => life.doubted().has_lost_votes(1),
        };
        if has_lost_votes {
            self.lose_votes(shared);
        }
        for (client, attempt) in std::mem::take(&mut self.asking) {
            // Some connections are reset, some clients just hear nothing.
            if self.random.chance(500_000) {
                let event = Event::Outcome { client, attempt, number: 0, outcome: Outcome::Lost };
                shared.queue.push_in(self.random.below(MILLISECOND), event);
            }
        }
        for peer in (0..shared.settings.replica_count).filter(|peer| *peer != self.index) {
            let noticed = kind == CrashKind::Kill || self.random.chance(300_000);
            if shared.network.reset(self.index, peer) && noticed {
                let delay = 100 * MICROSECOND + self.random.below(2 * MILLISECOND);
                shared.queue.push_in(delay, Event::Disconnected { node: peer, peer: self.index });
            }
        }
    }

    /// Nothing is known of a log any more.
    pub(crate) fn forget_log(&mut self) {
        self.extents.clear();
        self.attested = Lsn::default();
    }

    /// Something happens to a file of the log or to a snapshot while the node is down.
    pub(crate) fn harm_file(&mut self, shared: &mut Shared) {
        let names = self.disk.names().filter(|name| matches!(name, Name::Segment(_) | Name::Snapshot(..)));
        let names: Vec<Name> = names.collect();
        if names.is_empty() || !matches!(self.state, State::Down) {
            return;
        }
        let name = *self.random.pick(&names);
        match (name, self.random.below(3)) {
            (Name::Snapshot(..), 0) => self.unreadable = true,
            (Name::Snapshot(..), 1) => self.rot_snapshot(shared, name),
            _ => self.lose(shared, name),
        }
    }

    /// Flips bits of a snapshot.
    pub(crate) fn rot_snapshot(&mut self, shared: &mut Shared, name: Name) {
        let size = self.disk.open(name).map_or(0, |file| self.disk.size(file));
        let page = self.random.below(size.div_ceil(PAGE_SIZE as u64).max(1)) as usize;
        self.disk.rot(name, page);
        shared.trace(|| format!("node {}: {name:?} rots at page {page}", self.index));
        self.rotten = true;
    }

    /// Removes a file while the node is down.
    pub(crate) fn lose(&mut self, shared: &mut Shared, name: Name) {
        shared.trace(|| format!("node {}: {name:?} is lost", self.index));
        self.disk.lose(name);
        self.rotten = true;
    }

    /// Damages a page that later writes know to be durable; false if there is none.
    pub(crate) fn rot(&mut self, shared: &mut Shared) -> bool {
        let known: Vec<Extent> =
            self.extents.iter().filter(|extent| extent.lsn <= self.attested).copied().collect();
        if known.is_empty() || !matches!(self.state, State::Down) {
            return false;
        }
        let extent = *self.random.pick(&known);
        let page = extent.first_page + self.random.below(extent.page_count as u64) as usize;
        self.disk.rot(Name::Segment(extent.segment.0), page);
        shared.trace(|| format!("node {}: {} rots at page {page}", self.index, extent.segment));
        self.rotten = true;
        true
    }
}

/// The log directory as recovery reads it.
pub(super) struct LogDirectory<'a>(pub(super) &'a Disk<Tag>);

impl SegmentReader for LogDirectory<'_> {
    fn segments(&mut self) -> std::io::Result<Vec<SegmentFile>> {
        let segments = self.0.names().filter_map(|name| match name {
            Name::Segment(sequence) => {
                let size = self.0.open(name).map_or(0, |file| self.0.size(file));
                Some(SegmentFile { sequence: SegmentSequence(sequence), size })
            }
            _ => None,
        });
        Ok(segments.collect())
    }

    fn read(&mut self, sequence: SegmentSequence, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        let file = self.0.open(Name::Segment(sequence.0)).ok_or(std::io::ErrorKind::NotFound)?;
        self.0.read(file, offset, into);
        Ok(())
    }
}

impl Life {
    /// Takes the deeds out, in order.
    pub(crate) fn take_deeds(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.deeds.list)
    }
}
