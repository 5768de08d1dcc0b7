//! One turn of a node: what has arrived goes in, the log gets its writes, and the deeds are carried out.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use panch_consensus::epaxos::component_bound;
use panch_consensus::protocol::Tuning;
use panch_replica::batcher::Refusal;
use panch_replica::familiarity::Word;
use panch_replica::outbox::{MessageKind, ReplyTo};
use panch_replica::rejoin::RejoinMessage;
use panch_replica::transfer::TransferMessage;
use panch_wal::Durability;
use panch_wal::Location;
use panch_wire::command::CommandError;
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{GroupId, Incarnation, Position, ReplicaId};
use panch_wire::peer::{Incarnations, Next, PacketReader, PacketWriter};
use panch_wire::record::Fixed;
use panch_wire::time::Instant;

use super::log_watch::{Watched, records};
use super::node::{Input, Life, LogWrite, Node, State, Tag};
use super::outbox::{Deed, Execution, Sent};
use super::rejoin::Memory;
use super::{Event, Letter, Shared, Verdict};
use crate::client::{Outcome, outcome_of};
use crate::disk::{CrashKind, Disk, FileId, Name, Step};
use crate::inspect::Said;
use crate::invariant::ledger::Page;
use crate::network::{Fate, Packet};
use crate::queue::{MICROSECOND, MILLISECOND, Time};

/// As in the daemon.
pub(super) const TELL_EVERY: Time = 200 * MILLISECOND;

/// Why a process ends by itself.
#[derive(Debug)]
struct Stop(&'static str);

impl Node {
    /// One turn.
    pub(crate) fn turn(&mut self, shared: &mut Shared) {
        self.next_turn = None;
        shared.coverage.turns += 1;
        let now = self.clock.at(shared.queue.now());
        if let Err(Stop(reason)) = self.take_turn(shared, now) {
            shared.trace(|| format!("node {} stops: {reason}", self.index));
            shared.coverage.failed_writes += 1;
            // With any other durability no vote has left that was not stable.
            let is_periodic = matches!(shared.settings.wal.durability, Durability::Periodic { .. });
            self.crash(shared, if is_periodic { CrashKind::Failure } else { CrashKind::Kill });
            let pause = 10 * MILLISECOND + self.random.below(100 * MILLISECOND);
            shared.queue.push_in(pause, Event::Restart { node: self.index });
            return;
        }
        self.busy_until = shared.queue.now() + MICROSECOND + self.slowness;
        let State::Up(life) = &self.state else { return };
        if let Some(deadline) = life.core.deadline() {
            let at = self.clock.when(shared.queue.now(), deadline);
            self.wake(shared, at);
        }
        if self.life().is_some_and(|life| !life.waiting.is_empty()) {
            let at = shared.queue.now() + 200 * MICROSECOND;
            self.wake(shared, at);
        }
    }

    fn take_turn(&mut self, shared: &mut Shared, now: Instant) -> Result<(), Stop> {
        let State::Up(life) = &mut self.state else { return Ok(()) };
        let waiting = std::mem::take(&mut life.waiting);
        for (packet, reader, at) in waiting {
            life.take_packet(shared, &mut self.memory, now, self.index, packet, reader, at);
        }
        while let Some(input) = self.inbox.pop_front() {
            let State::Up(life) = &mut self.state else { return Ok(()) };
            match input {
                Input::Packet(packet) => {
                    if life.waiting.is_empty() {
                        let reader = PacketReader::new();
                        life.take_packet(shared, &mut self.memory, now, self.index, packet, reader, 0);
                    } else {
                        life.waiting.push_back((packet, PacketReader::new(), 0));
                    }
                }
                Input::Disk(tag, succeeded) => life.take_disk(shared, now, &self.disk, tag, succeeded)?,
                Input::Connected(peer, name) => {
                    life.told[peer] = (0, 0);
                    life.words[peer] = (u64::MAX, 0);
                    let known = life.accepts(shared, &mut self.memory, self.index, peer, name);
                    let peer = ReplicaId(peer as u8);
                    shared.coverage.stale_packets += u64::from(!known);
                    life.deeds.peers[peer.index()] = life.core.peer_incarnation(peer);
                }
                Input::Disconnected(peer) => life.core.suspect(now, ReplicaId(peer as u8), &mut life.deeds),
                Input::Request(request) if request.stale => {
                    let token = address(request.client, request.attempt, 0);
                    let command = request.command.borrow();
                    let read = life.core.read_stale(request.group, &command, |reply, _| outcome_of(reply));
                    let outcome = read.unwrap_or(Outcome::Refused(CommandError::Malformed));
                    shared.coverage.stale_reads += 1;
                    let result = shared.invariants.stale.on_read((self.index, self.life), &command, &outcome);
                    shared.invariants.note("stale", result);
                    self.answer(shared, token, outcome);
                }
                Input::Request(request) => {
                    let number = request.command.session.map_or(0, |header| header.number);
                    let token = address(request.client, request.attempt, number);
                    let (command, level) = (request.command.borrow(), request.level);
                    // Some have waited before they came this far.
                    let waited = shared.settings.replica.request_timeout / 8 * (request.attempt % 8) as u32;
                    let submitted =
                        life.core.submit(now, now - waited, request.group, &command, level, token);
                    let outcome = match submitted {
                        Ok(()) => continue,
                        Err(Refusal::TooLarge) => Outcome::Refused(CommandError::TooLarge),
                        Err(_) => {
                            shared.coverage.busy += 1;
                            Outcome::Refused(CommandError::Unavailable)
                        }
                    };
                    self.answer(shared, token, outcome);
                }
                Input::Batch(proposal) => {
                    if let Some((token, outcome)) = life.take_batch(shared, now, self.index, &proposal) {
                        self.answer(shared, token, outcome);
                    }
                }
            }
        }
        if self.consider_recognition(shared, now) {
            return Ok(());
        }
        let State::Up(life) = &mut self.state else { return Ok(()) };
        life.deeds.unreached = shared.network.unreached(self.index);
        life.core.end_turn(now, &mut life.deeds);
        self.consider_promotion(shared);
        self.write_log(shared, now);
        self.observe(shared);
        self.carry_out(shared);
        Ok(())
    }

    /// Gives the log its writes, syncs and segments.
    fn write_log(&mut self, shared: &mut Shared, now: Instant) {
        let State::Up(life) = &mut self.state else { return };
        let mut jobs: Vec<(Tag, Vec<Step>)> = Vec::new();
        while let Some(write) = life.core.next_write(now, &mut life.deeds) {
            let name = Name::Segment(write.segment().0);
            let file = self.disk.open(name).expect("the log writes to segments that were prepared");
            let header = write.parts().next().expect("a write has its header pages");
            let kind = |group: GroupId| shared.settings.protocols.get(group.index()).copied();
            let records = records(header, kind);
            for Watched { group, fact, restated, .. } in &records {
                if !restated {
                    shared.invariants.on_appended(self.index, *group, *fact);
                }
            }
            self.in_flight.push_back((write.lsn(), None));
            let written = self.disk.write(file, write.offset(), write.parts());
            let step = if write.dsync() { Step::WriteStable(written) } else { Step::Write(written) };
            let wal = life.core.wal().expect("the log wrote");
            let log = LogWrite { records, states: wal.synced(), write };
            jobs.push((Tag::Log(log), vec![step]));
        }
        let wal = life.core.wal().expect("a process has its log");
        while let Some(sync) = wal.next_sync(now) {
            let file = self.disk.open(Name::Segment(sync.segment().0)).expect("a segment of the log exists");
            jobs.push((Tag::Sync(sync), vec![Step::Sync(file)]));
        }
        while let Some(preparation) = wal.wants_segment(now) {
            shared.coverage.segments += 1;
            let name = Name::Segment(preparation.sequence.0);
            let steps = match preparation.recycle {
                Some(old) => {
                    shared.coverage.recycled_segments += 1;
                    vec![Step::Rename(Name::Segment(old.0), name), Step::SyncDirectory]
                }
                None => {
                    let file = self.disk.create(self.segment_size);
                    vec![Step::Sync(file), Step::Link(file, name), Step::SyncDirectory]
                }
            };
            jobs.push((Tag::Segment(preparation.sequence), steps));
        }
        while let Some(surplus) = wal.take_surplus() {
            jobs.push((Tag::Nothing, vec![Step::Unlink(Name::Segment(surplus.0))]));
        }
        let writes = jobs.iter().any(|(tag, _)| matches!(tag, Tag::Log(_)));
        for (tag, steps) in jobs {
            match tag {
                Tag::Segment(_) => self.make(shared, tag, steps),
                tag => self.submit(shared, tag, steps),
            }
        }
        if writes && let Some(kind) = self.doomed.take() {
            let delay = self.random.below(self.disk.latency.high);
            shared.queue.push_in(delay, Event::Crash { node: self.index, kind });
        }
    }

    /// Lets the invariants look.
    fn observe(&mut self, shared: &mut Shared) {
        let State::Up(life) = &mut self.state else { return };
        if !life.live && life.core.is_live() {
            life.live = true;
            let mut pages: BTreeMap<GroupId, Page> = BTreeMap::new();
            for (group, entry) in std::mem::take(&mut life.replayed) {
                shared.invariants.on_stable(self.index, group, entry);
                // Two votes in one round are noticed in the ledger.
                let _ = pages.entry(group).or_default().add(entry);
            }
            for (group, commitment) in std::mem::take(&mut life.committed) {
                shared.invariants.on_commitment(group, commitment);
            }
            for status in life.core.status() {
                let executed = life.core.executed(status.group).expect("the group is here");
                let replayed = pages.entry(status.group).or_default();
                shared.invariants.on_boot(self.index, &status, executed, replayed);
            }
        }
        if life.live {
            let executed = std::mem::take(&mut life.executed);
            executed.iter().for_each(|execution| note_execution(shared, self.index, execution));
        }
        for deed in &life.deeds.list {
            match deed {
                Deed::Executed(execution) if life.live => note_execution(shared, self.index, execution),
                // Another power failure may still take away what was read of the log; nothing is said of it before.
                Deed::Executed(execution) => life.executed.push(execution.clone()),
                Deed::Installed(group, covered) => {
                    shared.invariants.on_restored(self.index, *group, covered.clone());
                }
                Deed::Send(sent) if sent.kind == MessageKind::Protocol => {
                    let said = shared.kind(sent.group).and_then(|kind| Said::decode(kind, &sent.message));
                    if let Some(said) = said {
                        said.claims(|claim| shared.invariants.on_claim(self.index, sent.group, claim));
                        if let Some(commitment) = said.commitment() {
                            shared.invariants.on_commitment(sent.group, commitment);
                        }
                    }
                }
                _ => {}
            }
        }
        if !life.live {
            return;
        }
        for status in life.core.status() {
            let size = status.counters.component_max;
            if size > 1 {
                let pipeline_depth = shared.settings.pipeline_depth_max();
                let tuning = Tuning { pipeline_depth, ..shared.settings.tuning };
                let bound = component_bound(shared.settings.replica_count, &tuning);
                shared.invariants.on_component(self.index, status.group, size, bound);
            }
            shared.invariants.on_status(self.index, &status);
        }
    }

    fn carry_out(&mut self, shared: &mut Shared) {
        let State::Up(life) = &mut self.state else { return };
        let deeds = life.take_deeds();
        let mut writers = std::mem::take(&mut life.writers);
        let me = life.core.incarnation();
        life.log_end = life.core.wal().map_or(0, |wal| wal.synced().0);
        if let Some(hello) = &mut shared.hellos[self.index] {
            hello.set_log_end(life.log_end);
        }
        let mut receivers: Vec<Option<Incarnation>> = vec![None; writers.len()];
        for deed in deeds {
            match deed {
                Deed::Executed(..) | Deed::Installed(..) => {}
                Deed::Reply(token, outcome) => self.answer(shared, token, outcome),
                Deed::Send(sent) => {
                    let to = sent.to.index();
                    let verdict = judge(shared, self.index, &sent);
                    if let Verdict::Drop = verdict {
                        continue;
                    }
                    if let Verdict::Delay(delay) = verdict {
                        let mut writer = PacketWriter::new();
                        writer.start(Incarnations { sender: me, receiver: sent.receiver });
                        push(&mut writer, &sent);
                        let packet = self.packet(shared, to, &mut writer);
                        shared.queue.push_in(delay, Event::Packet(packet));
                        continue;
                    }
                    if receivers[to].is_some_and(|receiver| receiver != sent.receiver) {
                        self.send(shared, to, &mut writers[to]);
                        receivers[to] = None;
                    }
                    if receivers[to].is_none() {
                        writers[to].start(Incarnations { sender: me, receiver: sent.receiver });
                        receivers[to] = Some(sent.receiver);
                    }
                    if !push(&mut writers[to], &sent) {
                        self.send(shared, to, &mut writers[to]);
                        writers[to].start(Incarnations { sender: me, receiver: sent.receiver });
                        push(&mut writers[to], &sent);
                    }
                }
                Deed::Load(group, position, location) => {
                    shared.coverage.loads += 1;
                    let from = self.disk.open(Name::Segment(location.segment.0));
                    self.submit(shared, Tag::Load { group, position, location, from }, [Step::Read]);
                }
                Deed::SnapshotRead { .. }
                | Deed::SnapshotWrite { .. }
                | Deed::SnapshotRemove(..)
                | Deed::SnapshotAbandon(..) => self.hand_over(shared, deed),
            }
        }
        for (to, words) in self.words_to_tell(shared) {
            if receivers[to].is_none() {
                writers[to].start(Incarnations { sender: me, receiver: Incarnation(0) });
                receivers[to] = Some(Incarnation(0));
            }
            for word in words {
                let _ = writers[to].push(GroupId(0), MessageKind::Word as u8, &word, None);
            }
        }
        for (to, writer) in writers.iter_mut().enumerate() {
            if receivers[to].is_none() && to != self.index {
                // Those that are sent nothing hear at times how far the log is.
                let State::Up(life) = &self.state else { return };
                let (log_end, at) = life.told[to];
                if life.log_end <= log_end || shared.queue.now() < at + TELL_EVERY {
                    continue;
                }
                writer.start(Incarnations { sender: me, receiver: Incarnation(0) });
            }
            if to == self.index && receivers[to].is_none() {
                continue;
            }
            self.send(shared, to, writer);
            if let State::Up(life) = &mut self.state {
                life.told[to] = (life.log_end, shared.queue.now());
            }
        }
        if let State::Up(life) = &mut self.state {
            life.writers = writers;
        }
    }

    fn answer(&mut self, shared: &mut Shared, token: ReplyTo, outcome: Outcome) {
        let (client, attempt, number) = addressed(token);
        self.asking.remove(&(client, attempt));
        shared.trace(|| {
            format!("node {} answers client {client} attempt {attempt}.{number}: {outcome:?}", self.index)
        });
        let delay = 20 * MICROSECOND + self.random.below(100 * MICROSECOND);
        shared.queue.push_in(delay, Event::Outcome { client, attempt, number, outcome });
    }

    fn packet(&self, shared: &mut Shared, to: usize, writer: &mut PacketWriter) -> Packet {
        let State::Up(life) = &self.state else { unreachable!("only a node that is up sends") };
        writer.finish(life.log_end);
        let mut bytes = Vec::with_capacity(writer.size());
        for part in writer.parts() {
            bytes.extend_from_slice(part);
        }
        writer.release();
        let mut packet = shared.network.address(self.index, to, bytes.into());
        packet.life = life.name;
        packet
    }

    fn send(&self, shared: &mut Shared, to: usize, writer: &mut PacketWriter) {
        let packet = self.packet(shared, to, writer);
        match shared.network.send(shared.queue.now(), packet) {
            Fate::Arrives(arrivals) => {
                for (at, packet) in arrivals {
                    shared.queue.push(at, Event::Packet(packet));
                }
            }
            Fate::Reset => shared.reset(self.index, to),
        }
    }
}

/// Where the answer to a command goes: the attempt of a client, and the command's number in its session, 0 without.
pub(super) fn address(client: usize, attempt: u64, number: u64) -> ReplyTo {
    ReplyTo { connection: (client as u64) << 32 | attempt, request: number }
}

/// What [`address`] put into an address.
fn addressed(token: ReplyTo) -> (usize, u64, u64) {
    ((token.connection >> 32) as usize, token.connection & u64::from(u32::MAX), token.request)
}

fn push(writer: &mut PacketWriter, sent: &Sent) -> bool {
    writer.push_bytes(sent.group, sent.kind as u8, &sent.message, sent.body.as_ref())
}

/// Tells the invariants what a node has executed.
fn note_execution(shared: &mut Shared, node: usize, execution: &Execution) {
    let Execution { group, position, decision, access } = execution;
    shared.trace(|| {
        let Position { row, number } = position;
        format!("node {node} executed {row}.{number} of group {}: {:?}", group.0, decision.id)
    });
    match access {
        None => shared.invariants.on_slot(node, *group, *position, *decision),
        Some(access) => shared.invariants.on_instance(node, *group, *position, *decision, access),
    }
}

/// Asks the script what becomes of a message.
fn judge(shared: &mut Shared, from: usize, sent: &Sent) -> Verdict {
    if shared.filter.is_none() && !shared.is_tracing() {
        return Verdict::Pass;
    }
    let letter = Letter {
        from,
        to: sent.to.index(),
        group: sent.group,
        said: (sent.kind == MessageKind::Protocol)
            .then(|| Said::decode(shared.kind(sent.group)?, &sent.message))
            .flatten(),
        transfer: (sent.kind == MessageKind::Transfer)
            .then(|| TransferMessage::decode_fixed(&sent.message))
            .flatten(),
        rejoin: (sent.kind == MessageKind::Rejoin)
            .then(|| RejoinMessage::decode_fixed(&sent.message))
            .flatten(),
    };
    let verdict = shared.filter.as_mut().map_or(Verdict::Pass, |filter| filter(&letter));
    shared.trace(|| {
        let body = sent.body.as_ref().map_or(String::new(), |frame| format!(" {frame:?}"));
        let fate = if let Verdict::Pass = verdict { String::new() } else { format!(" {verdict:?}") };
        let way = format!("node {from} -> {} of group {}", letter.to, sent.group.0);
        match (&letter.said, &letter.transfer) {
            (Some(message), _) => format!("{way}: {message:?}{body}{fate}"),
            (_, Some(transfer)) => format!("{way}: {transfer:?}{fate}"),
            _ => format!("{way}: {:?}{fate}", letter.rejoin),
        }
    });
    verdict
}

impl Life {
    fn take_packet(
        &mut self,
        shared: &mut Shared,
        memory: &mut Memory,
        now: Instant,
        me: usize,
        packet: Packet,
        mut reader: PacketReader,
        at: usize,
    ) {
        if !shared.network.is_current(&packet) {
            return;
        }
        if !self.accepts(shared, memory, me, packet.from, packet.life) {
            shared.coverage.stale_packets += 1;
            return;
        }
        let from = ReplicaId(packet.from as u8);
        let bytes = Rc::clone(&packet.bytes);
        let mut input = &bytes[at..];
        loop {
            match reader.next(&mut input, &self.pool) {
                Ok(Next::Message(incoming)) => {
                    let Incarnations { sender, receiver } = incoming.incarnations;
                    let admitted = self.core.admits(from, sender, receiver);
                    self.deeds.peers[from.index()] = self.core.peer_incarnation(from);
                    if !admitted {
                        shared.coverage.stale_packets += 1;
                        return;
                    }
                    if incoming.kind == MessageKind::Word as u8 {
                        let word = Word::decode_fixed(incoming.message);
                        if let Some(word) = word.filter(|word| memory.peers.hear_word(from, word)) {
                            self.accepted[usize::from(word.node)] = 0;
                        }
                        continue;
                    }
                    let (group, kind, message, body) =
                        (incoming.group, incoming.kind, incoming.message, incoming.body);
                    if self.core.deliver(now, from, group, kind, message, body, &mut self.deeds).is_err() {
                        let text = format!("node {me} cannot read a message of node {}", packet.from);
                        shared.invariants.note("message", Err(text));
                        return;
                    }
                }
                Ok(Next::NeedBytes) => return memory.hear(shared, from, reader.log_end()),
                Ok(Next::PoolExhausted) => {
                    shared.coverage.pool_waits += 1;
                    let at = bytes.len() - input.len();
                    self.waiting.push_back((packet, reader, at));
                    return;
                }
                Err(fault) => {
                    if shared.settings.network.corruption == 0 {
                        let text = format!("node {me} refuses a packet of node {}: {fault}", packet.from);
                        shared.invariants.note("message", Err(text));
                    }
                    return;
                }
            }
        }
    }

    fn take_disk(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        disk: &Disk<Tag>,
        tag: Tag,
        succeeded: bool,
    ) -> Result<(), Stop> {
        let (core, deeds) = (&mut self.core, &mut self.deeds);
        let result = if succeeded { Ok(()) } else { Err(io::Error::other("the disk failed")) };
        match tag {
            Tag::Log(log) => {
                core.log_written(now, log.write, result, deeds).map_err(|_| Stop("a log write failed"))?
            }
            Tag::Sync(sync) => {
                core.log_synced(now, sync, result, deeds).map_err(|_| Stop("a log sync failed"))?
            }
            // A directory that was not synced: nothing is known about its names any more.
            Tag::Segment(_) | Tag::Noted(_) if !succeeded => {
                return Err(Stop("a segment could not be prepared"));
            }
            Tag::NoSegment(sequence) => {
                if let Some(wal) = core.wal() {
                    wal.segment_failed(sequence);
                }
            }
            Tag::Noted(sequence) => {
                if let Some(wal) = core.wal() {
                    wal.segment_ready(sequence);
                }
            }
            Tag::SnapshotWrite { group, slot, last } => {
                let written = if succeeded { Ok(last) } else { Err(()) };
                core.snapshot_written(now, group, slot, written, deeds);
            }
            Tag::SnapshotRead { group, peer, file, offset, length, from } => {
                let bytes = from.filter(|_| succeeded).map(|from| {
                    let mut bytes = vec![0; length];
                    disk.read(from, offset, &mut bytes);
                    bytes
                });
                core.snapshot_read(now, group, peer, file, offset, bytes.as_deref(), deeds);
            }
            Tag::Load { group, position, location, from } => {
                let from = from.filter(|_| succeeded);
                let frame = from.and_then(|from| read_frame(disk, &self.pool, from, location));
                shared.coverage.failed_loads += u64::from(frame.is_none());
                core.loaded(now, group, position, location, frame, deeds);
            }
            // A segment that is there is noted first.
            Tag::Identity(..) | Tag::Promotion | Tag::Segment(_) | Tag::SnapshotRemove | Tag::Nothing => {}
        }
        Ok(())
    }
}

fn read_frame(disk: &Disk<Tag>, pool: &FramePool, from: FileId, location: Location) -> Option<Frame> {
    let size = location.read_size();
    let mut memory = pool.take(size)?;
    disk.read(from, location.read_offset(), &mut memory[..size]);
    location.unpack(memory, size)
}
