//! A replica's snapshots: when to make one, who needs one, and what the log may forget.

use std::collections::VecDeque;

use panch_consensus::frontier::Frontier;
use panch_consensus::protocol::{Event, Order, Protocol};
use panch_wal::{Lsn, Wal};
use panch_wire::batch::BatchWriter;
use panch_wire::command::{Command, CommandKind};
use panch_wire::frame::Frame;
use panch_wire::ids::{BatchId, GroupId, Incarnation, REPLICAS_MAX, ReplicaId, ReplicaSet, Slot};
use panch_wire::record::Fixed;
use panch_wire::rule::{self, Rule};
use panch_wire::time::{Duration, Instant};

use crate::core::{Misbehaviour, PastFault};
use crate::outbox::{MessageKind, Outbox};
use crate::replica::{Replica, Surroundings};
use crate::sending::{SendingStatus, Sendings};
use crate::snapshot::{Restored, SNAPSHOT_RECORD, SnapshotName};
use crate::transfer::{
    Ack, CHUNK_SIZE, Chunk, LEFT_MAX, Making, Reason, Receiving, Refuse, SnapshotFile, TransferLimits,
    TransferMessage, Writes,
};

mod doubt;
mod receive;
mod room;

/// How long a snapshot that could not be written waits for the next try.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A complete snapshot whose name is on its way to the log. Until it is durable there, the file has no effect.
struct Naming {
    /// The name is durable with this commit group.
    lsn: Lsn,
    file: SnapshotFile,
    covered: Frontier,
    /// It came from a peer.
    received: Option<(ReplicaId, Restored)>,
}

/// The snapshots of one replica.
pub(crate) struct Snapshots {
    log_size_max: u64,
    /// Bytes appended to the log since the last snapshot was begun.
    log_size: u64,
    wanted: bool,
    making: Option<Making>,
    /// What the snapshot being made covers.
    making_covers: Frontier,
    latest: Option<SnapshotFile>,
    latest_covers: Frontier,
    /// The last one that the log names.
    named: Option<SnapshotName>,
    /// Oldest first; at most one of a snapshot that was received.
    naming: VecDeque<Naming>,
    /// Peers that wait for a snapshot to exist, each with what that must cover.
    waiting: Vec<(ReplicaId, Slot)>,
    /// What those need that have refused a snapshot: they are left alone for a while.
    refusing: [Option<Slot>; REPLICAS_MAX],
    /// A snapshot that could not be written is tried again not before this.
    retry_at: Instant,
    writes: Writes,
    /// The latest file may be damaged: another one is made in its place, and until one could not be written, nobody else gets this one.
    doubts_latest: bool,
    /// The log takes in so many more bytes before the word of a peer makes the latest file doubtful again, or it is so late.
    trusted_for: u64,
    trusted_until: Instant,
    sending: Sendings,
    /// A graph: what each peer is sent must cover so much if it can, because it has got a snapshot that covers less.
    least: [Slot; REPLICAS_MAX],
    /// A graph: its full log is not looked through before this.
    look_at: Instant,
    /// The log still has what the latest snapshot covers, for peers that get or got an older one.
    keeps_log: bool,
    /// The largest snapshot that is taken from a peer, in bytes.
    size_max: u64,
    receiving: Option<Receiving>,
    /// So much time may what is left of a snapshot take that grows, before another peer's is taken in its place.
    left_max: Duration,
    /// Complete and verified, waiting for its file to become durable.
    received: Option<(ReplicaId, SnapshotFile, Restored)>,
    superseded: Vec<Slot>,
    /// No peer gets a snapshot: the state may be wrong.
    withheld: bool,
    /// The protocol may believe that a snapshot is on its way to these, and it is not.
    refused: ReplicaSet,
    chunk: Vec<u8>,
}

impl Snapshots {
    pub(crate) fn new(log_size_max: u64, limits: TransferLimits) -> Self {
        Self {
            log_size_max,
            log_size: 0,
            wanted: false,
            making: None,
            making_covers: Frontier::default(),
            latest: None,
            latest_covers: Frontier::default(),
            named: None,
            naming: VecDeque::new(),
            waiting: Vec::new(),
            refusing: Default::default(),
            retry_at: Instant(0),
            writes: Writes::default(),
            doubts_latest: false,
            trusted_for: 0,
            trusted_until: Instant(0),
            sending: Sendings::new(limits.window_max),
            least: Default::default(),
            look_at: Instant(0),
            keeps_log: false,
            size_max: limits.size_max,
            receiving: None,
            left_max: LEFT_MAX,
            received: None,
            superseded: Vec::new(),
            withheld: false,
            refused: ReplicaSet::default(),
            chunk: Vec::new(),
        }
    }

    /// The snapshot that the node started from.
    pub(crate) fn found(&mut self, file: SnapshotFile, covers: &Frontier) {
        self.latest = Some(file);
        self.latest_covers = covers.clone();
    }

    /// The log names a snapshot. A name that is repeated may lie behind a later one.
    pub(crate) fn read_name(&mut self, name: SnapshotName) {
        if self.named.is_none_or(|named| named.slot <= name.slot) {
            self.named = Some(name);
        }
    }

    /// The name that a new log segment repeats.
    pub(crate) fn name(&self) -> Option<SnapshotName> {
        self.named
    }

    /// After the replay: whether the snapshot that was found is the one that the log continues, or a later one.
    pub(crate) fn check_name(&self, group: GroupId) -> Result<(), PastFault> {
        let Some(named) = self.named.filter(|_| rule::holds(Rule::LogNamesSnapshot)) else { return Ok(()) };
        let found = self.latest;
        let is_it =
            found.is_some_and(|file| file.slot.0 > named.slot || named.is_of(file, &self.latest_covers));
        if is_it { Ok(()) } else { Err(PastFault::Snapshot { group, named, found }) }
    }

    /// The log took in `size` bytes of this replica.
    pub(crate) fn log_grew(&mut self, size: usize) {
        self.log_size += size as u64;
        self.trusted_for = self.trusted_for.saturating_sub(size as u64);
    }

    /// The log's disk needs room: make a snapshot soon.
    pub(crate) fn request(&mut self) {
        self.wanted = true;
    }

    /// From now on no peer gets a snapshot: the state is not to spread. The own log is cut as before.
    pub(crate) fn withhold(&mut self) {
        self.withheld = true;
        self.waiting.clear();
        self.refusing = Default::default();
        self.sending.stop_all();
        self.refused = ReplicaSet::first(REPLICAS_MAX);
    }

    /// `peer` can only be helped by a snapshot that covers `slot`.
    pub(crate) fn want(&mut self, now: Instant, peer: ReplicaId, slot: Slot) {
        if self.withheld {
            self.refused.insert(peer);
            return;
        }
        if self.sending.quiet_until(now, peer).is_some() {
            self.refusing[peer.index()] = Some(slot);
            return;
        }
        let slot = slot.max(self.least[peer.index()]);
        match self.latest {
            Some(file) if file.slot >= slot && !self.doubts_latest => self.sending.start(now, peer, file),
            _ if self.sending.leave_busy(now, peer) => self.refusing[peer.index()] = Some(slot),
            _ => {
                self.wanted = true;
                self.waiting.retain(|(waits, _)| *waits != peer);
                self.waiting.push((peer, slot));
            }
        }
    }

    /// Those who have refused a snapshot and were left alone for long enough get what is the newest now.
    fn end_quiet(&mut self, now: Instant) {
        for peer in (0..REPLICAS_MAX as u8).map(ReplicaId) {
            let is_over = |_: &mut Slot| self.sending.quiet_until(now, peer).is_none();
            if let Some(slot) = self.refusing[peer.index()].take_if(is_over) {
                self.want(now, peer, slot);
            }
        }
    }

    /// `peer` begins another life.
    pub(crate) fn on_new_life(&mut self, peer: ReplicaId) {
        self.sending.on_new_life(peer);
    }

    /// `peer` has got the snapshot of `slot`. If it asks for one again, that was of no use: in a graph it may have executed what this one
    /// lacks, and not have it in memory any more.
    fn needs_newer(&mut self, peer: ReplicaId, slot: Slot) {
        self.least[peer.index()] = Slot(slot.0 + 1);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        // A snapshot being made advances once per turn: the next turn should come at once.
        let making = self.making.is_some_and(|making| making.has_room(&self.writes)).then_some(Instant(0));
        let retry = self.is_due().then_some(self.retry_at);
        // Neither begins while another is on its way.
        let retry = retry.filter(|_| self.is_idle());
        let refusing = (0..).map(ReplicaId).zip(&self.refusing).filter(|(_, needs)| needs.is_some());
        let refusing =
            refusing.map(|(peer, _)| self.sending.quiet_until(Instant(0), peer).unwrap_or_default());
        [making, retry, self.sending.deadline(), refusing.min()].into_iter().flatten().min()
    }

    /// For operators.
    pub(crate) fn sending_status(&self) -> SendingStatus {
        self.sending.status()
    }

    /// Whether none is being made or waits to take effect.
    fn is_idle(&self) -> bool {
        self.making.is_none() && self.received.is_none() && self.naming.is_empty()
    }

    /// Whether the file of that slot is being written, or was and something of it still is.
    fn is_in_use(&self, slot: Slot) -> bool {
        self.writes.of(slot) > 0 || self.receiving.as_ref().is_some_and(|it| it.slot == slot)
    }

    fn is_due(&self) -> bool {
        self.wanted || self.log_size >= self.log_size_max
    }
}

impl<P: Protocol> Replica<P> {
    /// Moves every snapshot on its way by one turn's worth.
    pub(crate) fn pump_snapshots<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        let group = self.group.id;
        self.drop_stale_receiving(around);
        self.snapshots.end_quiet(around.now);
        let due =
            self.snapshots.is_due() && self.snapshots.is_idle() && self.snapshots.retry_at <= around.now;
        let grows = |it: &Receiving| !it.yields(around.now, Duration::MAX);
        let comes = self.snapshots.receiving.as_ref().is_some_and(grows) || self.protocol.awaits_snapshot();
        if due && P::ORDER == Order::Graph && comes {
            // An own snapshot has what the one on its way may lack, which could not replace it then.
            self.snapshots.retry_at = around.now + RETRY_AFTER;
        } else if due {
            let covered = self.snapshots.latest.map_or(Slot(0), |file| file.slot);
            let executed = self.executed();
            let is_in_use = self.snapshots.is_in_use(executed);
            if P::ORDER == Order::Graph || executed == covered || is_in_use {
                // Another attempt at once frees no more: a graph's log may keep what a replica that is away has not executed,
                // and a log with nothing new executed what is not decided. What a peer began to send up to here is given up first.
                self.snapshots.retry_at = around.now + RETRY_AFTER;
            }
            if !is_in_use {
                self.snapshots.wanted = false;
                self.snapshots.log_size = 0;
            }
            if executed == covered && !self.snapshots.doubts_latest {
                // Nothing new to cover, but the log may hold what it need not hold any more.
                if !self.snapshots.keeps_log {
                    self.truncate_log(around.wal);
                }
                // Nor can anybody be sent anything newer.
                if let Some(latest) = self.snapshots.latest {
                    for (peer, _) in std::mem::take(&mut self.snapshots.waiting) {
                        self.snapshots.sending.start(around.now, peer, latest);
                    }
                }
            } else if !is_in_use {
                self.machine.begin_snapshot(group, &self.executed, self.stamp);
                self.snapshots.making_covers = self.executed.clone();
                self.snapshots.making =
                    Some(Making { slot: executed, offset: 0, complete: false, failed: false });
            }
        }
        if let Some(making) = &mut self.snapshots.making
            && making.has_room(&self.snapshots.writes)
        {
            let chunk = &mut self.snapshots.chunk;
            chunk.clear();
            making.complete = self.machine.snapshot_chunk(chunk, CHUNK_SIZE);
            if making.complete || !chunk.is_empty() {
                around.out.snapshot_write(group, making.slot, making.offset, chunk, making.complete);
                making.offset += chunk.len() as u64;
                self.snapshots.writes.begin(making.slot);
            }
        }
        self.snapshots.sending.end_catch_up(around.now);
        if self.snapshots.keeps_log && !self.snapshots.sending.keep_log() {
            self.truncate_log(around.wal);
        }
        self.snapshots.sending.resend_lost(around.now);
        while let Some((peer, file, offset, length)) = self.snapshots.sending.next_chunk(around.now) {
            around.out.snapshot_read(group, peer, file, offset, length);
        }
        while let Some(peer) = self.snapshots.sending.next_overdue(around.now) {
            self.step(Event::SnapshotSent(peer, None), around);
        }
        for peer in std::mem::take(&mut self.snapshots.refused).iter() {
            self.step(Event::SnapshotSent(peer, None), around);
        }
        self.remove_superseded(around.out);
    }

    /// The driver wrote a chunk; `durable` once the whole file is complete and survives a crash.
    pub(crate) fn snapshot_written<O: Outbox>(
        &mut self,
        slot: Slot,
        durable: bool,
        around: &mut Surroundings<'_, O>,
    ) {
        self.snapshots.writes.end(slot);
        self.acknowledge_owed(around.out);
        if let Some(making) = self.snapshots.making
            && making.slot == slot
        {
            if making.failed {
                self.end_failed_making(around);
                return;
            }
            // [protocols D9] Removed rule: the log is given up while the snapshot may still be lost.
            let early = !rule::holds(Rule::RecycleAfterSnapshot) && making.complete;
            if durable || early {
                let file = SnapshotFile { slot, size: making.offset };
                self.snapshots.making = None;
                self.probe.snapshots += 1;
                let covered = std::mem::take(&mut self.snapshots.making_covers);
                self.name(file, covered, None, around);
            }
            return;
        }
        if durable && self.snapshots.received.as_ref().is_some_and(|(_, file, _)| file.slot == slot) {
            let (from, file, restored) = self.snapshots.received.take().expect("just seen");
            self.name(file, restored.covered.clone(), Some((from, restored)), around);
        }
    }

    /// `file` is durable: the log names it, and once the name is durable, too, the file takes effect.
    fn name<O: Outbox>(
        &mut self,
        file: SnapshotFile,
        covered: Frontier,
        received: Option<(ReplicaId, Restored)>,
        around: &mut Surroundings<'_, O>,
    ) {
        let name = SnapshotName::of(file, &covered);
        if !rule::holds(Rule::LogNamesSnapshot) {
            self.take_effect(Naming { lsn: Lsn(0), file, covered, received }, around);
            return;
        }
        self.encoded.clear();
        name.encode_fixed(&mut self.encoded);
        let lsn = around.wal.append(self.group.id, SNAPSHOT_RECORD, &self.encoded, None).lsn;
        self.snapshots.read_name(name);
        self.snapshots.naming.push_back(Naming { lsn, file, covered, received });
    }

    /// At the start: the log may not name the snapshot that was found, because the process ended in between or the file is
    /// of an earlier version.
    pub(crate) fn name_found<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        let Some(file) = self.snapshots.latest else { return };
        let covered = self.snapshots.latest_covers.clone();
        if self.snapshots.named.is_none_or(|named| !named.is_of(file, &covered)) {
            self.name(file, covered, None, around);
        }
    }

    /// The log is durable up to `lsn`: what it names by now takes effect.
    pub(crate) fn end_naming<O: Outbox>(&mut self, lsn: Lsn, around: &mut Surroundings<'_, O>) {
        while let Some(naming) = self.snapshots.naming.pop_front_if(|naming| naming.lsn <= lsn) {
            self.take_effect(naming, around);
        }
    }

    fn take_effect<O: Outbox>(&mut self, naming: Naming, around: &mut Surroundings<'_, O>) {
        let Naming { file, covered, received, .. } = naming;
        self.supersede(file, &covered, received.is_some(), around);
        if let Some((from, restored)) = received {
            // Or else the log went on meanwhile and has everything.
            if P::ORDER == Order::Graph || file.slot > self.executed() {
                self.probe.installs += 1;
                self.installed(restored, around);
            }
            let ack = Ack { slot: file.slot.0, offset: file.size };
            self.send_transfer(from, TransferMessage::Ack(ack), None, around.out);
            return;
        }
        for (peer, _) in std::mem::take(&mut self.snapshots.waiting) {
            self.snapshots.sending.start(around.now, peer, file);
        }
    }

    /// The log below what the latest snapshot covers is not needed.
    pub(crate) fn raise_floor(&mut self, wal: &mut Wal) {
        if self.snapshots.latest.is_some() && self.snapshots.naming.is_empty() {
            let floor = self.log.earliest().unwrap_or_else(|| wal.next_record());
            wal.set_floor(self.group.id, floor);
        }
    }

    /// The driver read a chunk for `peer`.
    pub(crate) fn snapshot_read<O: Outbox>(
        &mut self,
        peer: ReplicaId,
        file: SnapshotFile,
        offset: u64,
        bytes: Option<&[u8]>,
        around: &mut Surroundings<'_, O>,
    ) {
        if !self.snapshots.sending.read(peer, file.slot, offset) {
            return;
        }
        let Some(bytes) = bytes else {
            self.snapshots.doubt(file.slot);
            self.snapshots.sending.failed(around.now, peer);
            self.step(Event::SnapshotSent(peer, None), around);
            return;
        };
        match chunk_frame(around, self.group.me, offset, bytes) {
            Some(frame) => {
                let message = TransferMessage::Chunk(Chunk { slot: file.slot.0, offset, size: file.size });
                self.send_transfer(peer, message, Some(&frame), around.out);
            }
            None => self.snapshots.sending.no_memory(peer),
        }
    }

    /// A peer's word about a snapshot.
    pub(crate) fn on_transfer<O: Outbox>(
        &mut self,
        from: ReplicaId,
        message: TransferMessage,
        body: Option<Frame>,
        around: &mut Surroundings<'_, O>,
    ) -> Result<(), Misbehaviour> {
        match message {
            TransferMessage::Chunk(chunk) => return self.on_chunk(from, chunk, body, around),
            TransferMessage::Ack(Ack { slot, offset }) => {
                if self.snapshots.sending.acked(around.now, from, Slot(slot), offset) {
                    if P::ORDER == Order::Graph {
                        self.snapshots.needs_newer(from, Slot(slot));
                    }
                    self.step(Event::SnapshotSent(from, Some(Slot(slot))), around);
                }
            }
            TransferMessage::Refuse(Refuse { slot, reason }) => {
                if self.snapshots.sending.is_sending(from, Slot(slot)) {
                    self.snapshots.sending.refused(around.now, from, reason);
                    match reason {
                        Reason::Damaged => self.snapshots.doubt_on_word(around.now, Slot(slot)),
                        Reason::Behind if P::ORDER == Order::Graph => {
                            self.snapshots.needs_newer(from, Slot(slot));
                        }
                        Reason::Behind | Reason::NoRoom | Reason::Busy | Reason::Unknown => {}
                    }
                    self.step(Event::SnapshotSent(from, None), around);
                }
            }
        }
        Ok(())
    }

    /// `file` takes effect: the log below it may go, at once if the state is going to be replaced by it.
    fn supersede<O: Outbox>(
        &mut self,
        file: SnapshotFile,
        covered: &Frontier,
        is_installed: bool,
        around: &mut Surroundings<'_, O>,
    ) {
        match self.snapshots.latest.replace(file) {
            Some(old) if old.slot != file.slot => self.snapshots.superseded.push(old.slot),
            // Whoever was sent the one before gets this one from its beginning.
            Some(_) => self.snapshots.stop_sending(file.slot),
            None => {}
        }
        self.snapshots.latest_covers = covered.clone();
        self.snapshots.doubts_latest = false;
        // What a graph's log must keep for others, its protocol knows.
        self.snapshots.keeps_log = P::ORDER == Order::Log
            && !is_installed
            && self.snapshots.sending.keep_log()
            && rule::holds(Rule::LogKeptForTransfers);
        if !self.snapshots.keeps_log {
            self.truncate_log(around.wal);
        }
        self.remove_superseded(around.out);
    }

    /// The log below what the latest snapshot covers goes.
    fn truncate_log(&mut self, wal: &mut Wal) {
        let covered = self.snapshots.latest_covers.clone();
        self.snapshots.keeps_log = false;
        self.protocol.truncated(&covered);
        self.log.truncate(&self.protocol.forgettable(&covered));
        self.raise_floor(wal);
    }

    fn remove_superseded(&mut self, out: &mut impl Outbox) {
        let (sending, group) = (&self.snapshots.sending, self.group.id);
        self.snapshots.superseded.retain(|slot| {
            let used = sending.uses(*slot);
            if !used {
                out.snapshot_remove(group, *slot);
            }
            used
        });
    }

    fn send_transfer(
        &mut self,
        to: ReplicaId,
        message: TransferMessage,
        body: Option<&Frame>,
        out: &mut impl Outbox,
    ) {
        self.encoded.clear();
        message.encode_fixed(&mut self.encoded);
        out.send(to, self.group.id, MessageKind::Transfer, &self.encoded, body);
        self.probe.messages += 1;
    }
}

/// A chunk as a frame with one command.
fn chunk_frame<O: Outbox>(
    around: &Surroundings<'_, O>,
    me: ReplicaId,
    offset: u64,
    bytes: &[u8],
) -> Option<Frame> {
    let command = Command { kind: CommandKind::Set, flags: 0, session: None, key: b"", value: bytes };
    let memory = around.pool.take(bytes.len() + 1024)?;
    let mut writer = BatchWriter::new(memory, Vec::new());
    let fits = writer.push(&command);
    assert!(fits, "the frame was taken large enough for this chunk");
    Some(writer.seal(BatchId { proposer: me, incarnation: Incarnation(0), counter: offset }).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: ReplicaId = ReplicaId(1);

    /// A protocol that hears nothing of it would wait for the end of the transfer for ever.
    #[test]
    fn whoever_gets_no_snapshot_because_none_leaves_is_reported() {
        let limits = TransferLimits { window_max: 1 << 20, size_max: 1 << 30 };
        let mut snapshots = Snapshots::new(1 << 20, limits);
        snapshots.want(Instant(1), PEER, Slot(1));
        assert!(snapshots.waiting == [(PEER, Slot(1))] && !snapshots.refused.contains(PEER));
        snapshots.withhold();
        assert!(std::mem::take(&mut snapshots.refused).contains(PEER), "it waited");
        snapshots.want(Instant(2), PEER, Slot(1));
        assert!(snapshots.refused.contains(PEER), "it is refused");
    }

    /// Otherwise it would be sent the same again and again.
    #[test]
    fn whoever_asks_again_after_a_snapshot_is_sent_a_newer_one() {
        let limits = TransferLimits { window_max: 1 << 20, size_max: 1 << 30 };
        let mut snapshots = Snapshots::new(1 << 20, limits);
        snapshots.found(SnapshotFile { slot: Slot(9), size: 1 }, &Frontier::default());
        snapshots.want(Instant(1), PEER, Slot(5));
        assert!(snapshots.sending.is_sending(PEER, Slot(9)) && !snapshots.wanted);
        snapshots.needs_newer(PEER, Slot(9));
        snapshots.sending.stop(PEER);
        snapshots.want(Instant(2), PEER, Slot(5));
        assert!(!snapshots.sending.is_sending(PEER, Slot(9)) && snapshots.wanted);
        assert_eq!(snapshots.waiting, [(PEER, Slot(10))], "it is sent the next");
    }

    /// It takes what there is, as soon as it can. A newer snapshot would be made for it again and again.
    #[test]
    fn none_is_made_for_whoever_takes_that_of_another() {
        let limits = TransferLimits { window_max: 1 << 20, size_max: 1 << 30 };
        let mut snapshots = Snapshots::new(1 << 20, limits);
        let (mut now, second) = (Instant(1), Duration::from_secs(1));
        snapshots.found(SnapshotFile { slot: Slot(9), size: 1 }, &Frontier::default());
        // Twice, since it is asked about again only after twice the time.
        for _ in 0..2 {
            snapshots.sending.refused(now, PEER, crate::transfer::Reason::Busy);
            now = now + second;
        }
        snapshots.want(now, PEER, Slot(10));
        assert!(
            !snapshots.wanted && snapshots.waiting.is_empty() && snapshots.deadline() == Some(now + second)
        );
        snapshots.found(SnapshotFile { slot: Slot(10), size: 1 }, &Frontier::default());
        snapshots.end_quiet(now + second);
        assert!(snapshots.sending.is_sending(PEER, Slot(10)));
        // Nor is it kept waiting for ever.
        snapshots.sending.stop(PEER);
        snapshots.want(now + second, PEER, Slot(11));
        assert!(snapshots.wanted && snapshots.waiting == [(PEER, Slot(11))]);
    }
}
