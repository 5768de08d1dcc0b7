//! Hellos: whether a node still is what others remember; and disks that are replaced by an older copy.
//!
//! A node whose copy is too old is refused by those that know better, stops, and is then started again, or comes back as one
//! that has lost its disk. Where all others know better, it never gets further. Where only some do, they may be cut off from it, or
//! end: then nobody could tell, and the operator finds out before the node votes.

use panch_replica::familiarity::{Asked, Familiarity, Judgement, Newcomer, Past, Start, Starts, Word};
use panch_replica::rejoin::has_forgotten;
use panch_wal::Lsn;
use panch_wire::frame::FramePool;
use panch_wire::ids::{Incarnation, ReplicaId, ReplicaSet};
use panch_wire::peer::{Life as LifeName, LifeKey};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use super::faults::Undo;
use super::node::{IDENTITY, Life, LogDirectory, Node, State, inventory_on};
use super::rejoin::Memory;
use super::turn::TELL_EVERY;
use super::{Event, Shared, World};
use crate::disk::{Copy, CrashKind, Disk, Latency};
use crate::queue::{MILLISECOND, SECOND, Time};
use crate::random::{Concern, Stream};

/// What was heard is written down at most this often.
const WRITE_EVERY: u64 = 5 * SECOND;

/// Whoever is out of reach for so long after a start does not hold up the node. Less than in the daemon: here nodes are away for
/// shorter, too.
const PATIENCE: Time = 200 * MILLISECOND;
/// After so long an operator who has restored a copy acts on what a node says that is not taken in.
const OPERATOR_PATIENCE: Time = 5000 * MILLISECOND;

/// What the others think of a life of a node.
pub(crate) struct Recognition {
    begun: Time,
    taken_in: ReplicaSet,
    objecting: ReplicaSet,
    /// It need not wait for them any more.
    is_over: bool,
}

impl Recognition {
    /// It has just begun.
    pub(super) fn new(now: Time, is_over: bool) -> Self {
        Self { begun: now, taken_in: ReplicaSet::default(), objecting: ReplicaSet::default(), is_over }
    }

    /// Whether a node has not taken it in, and is waited for.
    fn is_refused_by(&self, node: usize) -> bool {
        !self.is_over && !self.taken_in.contains(ReplicaId(node as u8))
    }

    /// As in the daemon: whether all have taken it in, or were out of reach.
    fn is_due(&self, now: Time, me: ReplicaId, count: usize, peers: &Familiarity) -> bool {
        let disowned = peers.disowned();
        let objects = |id: &ReplicaId| self.objecting.contains(*id);
        let others = || ReplicaSet::first(count).iter().filter(move |id| *id != me);
        let has_answered = |id: ReplicaId| self.taken_in.contains(id) || objects(&id);
        !others().any(|id| objects(&id) && !disowned.contains(id))
            && (now >= self.begun + PATIENCE || others().all(has_answered))
    }
}

/// What a node shows of itself.
#[derive(Clone)]
pub(crate) struct Greeting {
    life: LifeName,
    returning: bool,
    starts: Starts,
    /// How far its log is on stable storage.
    log_end: Lsn,
}

impl Greeting {
    /// The log is on stable storage up to here.
    pub(crate) fn set_log_end(&mut self, log_end: u64) {
        self.log_end = self.log_end.max(Lsn(log_end));
    }

    /// As a peer hears it that asks for what it has to know.
    fn to(&self, node: usize, peers: &Familiarity) -> Newcomer {
        let node = ReplicaId(node as u8);
        let known = peers.of(node);
        let asked = Asked { earlier: known.life.incarnation, since: known.end(0).since };
        let (life, returning) = (self.life, self.returning);
        let (incarnation, log_end) = (life.incarnation, self.log_end);
        let past = Past { lives: &self.starts, logs: &self.starts, incarnation, log_end };
        let claim = past.show(asked).claim();
        let (last, asked_told) = peers.told_of(node, 0);
        let told = past.show(Asked { earlier: last.incarnation, since: asked_told.since }).claim();
        let asked = known.end(0);
        Newcomer { node, core: 0, life, returning, is_authentic: true, asked, claim, asked_told, told }
    }
}

/// A disk, and what is noted beside it, as they were.
pub struct DiskCopy {
    disk: Copy,
    memory: Memory,
}

impl Memory {
    /// Judges the hello of a life; false if it is refused, or is not the present life of the node.
    fn greet(&mut self, shared: &mut Shared, me: usize, from: usize, name: u64) -> bool {
        let hello = shared.hellos[from].as_ref().filter(|hello| hello.life.name == name);
        let Some(newcomer) = hello.map(|hello| hello.to(from, &self.peers)) else { return false };
        let judgement = self.peers.judge(&newcomer);
        shared.queue.push_in(MILLISECOND, Event::Judged { node: from, life: name, by: me, judgement });
        if judgement == Judgement::Familiar {
            self.write_down(shared);
            return true;
        }
        shared.trace(|| format!("node {me} refuses node {from}: {judgement:?}, {newcomer:?}"));
        false
    }

    /// A packet says how far the log of its sender is durable.
    pub(super) fn hear(&mut self, shared: &Shared, from: ReplicaId, log_end: u64) {
        let life = self.peers.known()[from.index()].life.incarnation;
        self.peers.hear(from, life, 0, Lsn(log_end));
        if shared.queue.now() - self.written_at >= WRITE_EVERY {
            self.write_down(shared);
        }
    }

    fn write_down(&mut self, shared: &Shared) {
        self.written = self.peers.clone();
        self.written_at = shared.queue.now();
    }
}

impl Life {
    /// Whether what this life of a node says is taken in.
    pub(super) fn accepts(
        &mut self,
        shared: &mut Shared,
        memory: &mut Memory,
        me: usize,
        from: usize,
        name: u64,
    ) -> bool {
        if self.accepted[from] != name && memory.greet(shared, me, from, name) {
            self.accepted[from] = name;
            let life = memory.peers.of(ReplicaId(from as u8)).life;
            self.core.admits(ReplicaId(from as u8), life.incarnation, Incarnation(0));
        }
        self.accepted[from] == name
    }
}

impl Node {
    /// Whether the others have taken in this start by now. A copy that nobody who can be reached knows better about is taken back by
    /// the operator; true then.
    pub(super) fn consider_recognition(&mut self, shared: &mut Shared, now: Instant) -> bool {
        let (me, at) = (self.id(), shared.queue.now());
        let is_watched = self.restored && self.is_watched;
        let State::Up(life) = &mut self.state else { return false };
        if life.recognition.is_over {
            return false;
        }
        if !life.recognition.is_due(at, me, shared.settings.replica_count, &self.memory.peers) {
            let patience = life.recognition.begun + PATIENCE;
            // After that it says hello again at times, as whoever is refused does.
            self.wake(shared, if at < patience { patience } else { at + TELL_EVERY });
            return false;
        }
        if is_watched {
            shared.trace(|| {
                format!("node {} is taken back, since nobody is there who knows better", self.index)
            });
            shared.coverage.taken_back += 1;
            self.crash(shared, CrashKind::Kill);
            self.state = State::Disowned;
            shared.queue.push_in(MILLISECOND, Event::Restart { node: self.index });
            return true;
        }
        life.recognition.is_over = true;
        life.core.set_recognised(now, &mut life.deeds);
        false
    }

    /// What the others are told of what is remembered, if that has changed.
    pub(super) fn words_to_tell(&mut self, shared: &Shared) -> Vec<(usize, Vec<Word>)> {
        let may_have_forgotten = self.memory.is_returning() && holds(Rule::ReturningTellsNothing);
        let (me, now, peers) = (self.id(), shared.queue.now(), &self.memory.peers);
        let State::Up(life) = &mut self.state else { return Vec::new() };
        if may_have_forgotten {
            return Vec::new();
        }
        let mut told = Vec::new();
        for to in (0..shared.settings.replica_count).filter(|to| *to != me.index()) {
            let (revision, at) = &mut life.words[to];
            let is_first = *revision == u64::MAX;
            let is_refused = now >= life.recognition.begun + PATIENCE && life.recognition.is_refused_by(to);
            let is_new = *revision != peers.met_revision() || is_refused;
            if is_new && (is_first || now >= *at + TELL_EVERY) {
                (*revision, *at) = (peers.met_revision(), now);
                told.push((to, peers.words(me, ReplicaId(to as u8)).collect()));
            }
        }
        told
    }

    /// Whether it is no member, or will turn out to be none.
    pub(crate) fn is_on_its_way_back(&self) -> bool {
        self.memory.is_returning() || self.restored
    }

    /// Notes that a life begins, with a log that ends here; the name of the life.
    pub(super) fn note_start(&mut self, shared: &mut Shared, incarnation: Incarnation, log_end: Lsn) -> u64 {
        let mut key = LifeKey::default();
        key.0[..8].copy_from_slice(&self.life.to_le_bytes());
        key.0[8] = self.index as u8;
        self.memory.starts.add(Start { incarnation, key, log_end }, |_| true);
        let life = LifeName { incarnation, directory: self.memory.directory, name: key.life() };
        let (returning, starts) = (self.memory.is_returning(), self.memory.starts.clone());
        shared.hellos[self.index] = Some(Greeting { life, returning, starts, log_end });
        life.name
    }

    /// A copy of the data directory, of the process running or not.
    pub(super) fn copy_disk(&self) -> Box<DiskCopy> {
        let memory = Memory { peers: self.memory.written.after_restart(), ..self.memory.clone() };
        Box::new(DiskCopy { disk: self.disk.copy(), memory })
    }

    /// What the node will say when it starts with the copy; `None` if it will not start.
    fn hello_with(&self, shared: &Shared, copy: &DiskCopy) -> Option<Greeting> {
        let mut disk = Disk::new(Stream::new(0, Concern::Disk(self.index)), Latency::default());
        disk.restore(&copy.disk);
        let pool = FramePool::new(shared.settings.pool_size);
        let identity = IDENTITY ^ self.index as u64;
        let inventory = inventory_on(&disk).ok()?;
        let log = &mut LogDirectory(&disk);
        let recovered = panch_wal::recover(log, identity, inventory.as_ref(), &pool, |_| {}).ok()?;
        let mut starts = copy.memory.starts.clone();
        let last = starts.iter().last()?.incarnation;
        let (incarnation, key) = (Incarnation(last.0 + 1), LifeKey([0xff; 16]));
        starts.add(Start { incarnation, key, log_end: recovered.last }, |_| true);
        let life = LifeName { incarnation, directory: copy.memory.directory, name: key.life() };
        Some(Greeting { life, returning: false, starts, log_end: recovered.last })
    }

    /// The disk is replaced by a copy.
    pub(super) fn restore(&mut self, shared: &mut Shared, copy: &DiskCopy) {
        self.crash(shared, CrashKind::Kill);
        shared.trace(|| format!("node {} gets an older copy of its disk", self.index));
        shared.coverage.restores += 1;
        self.state = State::Down;
        self.forget_log();
        self.disk.restore(&copy.disk);
        self.memory = Memory { lost: false, promoting: false, ..copy.memory.clone() };
        self.restored = true;
        self.is_watched = false;
        shared.invariants.on_wipe(self.index);
    }
}

impl World {
    /// Restores a copy if the node is well and somebody else will notice, at times cut off from some.
    pub(super) fn consider_restoring(&mut self, node: usize, copy: &DiskCopy) {
        let shared = &self.shared;
        let owner = &self.nodes[node];
        let is_well = !owner.is_on_its_way_back() && !owner.rotten && !matches!(owner.state, State::Refused);
        if self.is_quiet() || !is_well || copy.memory.is_returning() || !self.are_others_whole(node) {
            return;
        }
        let Some(hello) = owner.hello_with(shared, copy) else { return };
        let notices = |peer: &Node| {
            let mut known = peer.memory.written.after_restart();
            let judgement = known.judge(&hello.to(node, &known.clone()));
            matches!(judgement, Judgement::Doubtful | Judgement::Contested)
        };
        let others = self.nodes.iter().filter(|peer| peer.index != node);
        let (noticing, blind): (Vec<&Node>, Vec<&Node>) = others.partition(|peer| notices(peer));
        let (noticing, all_notice) =
            (noticing.iter().map(|it| it.index).collect::<Vec<_>>(), blind.is_empty());
        if !noticing.is_empty() {
            self.nodes[node].restore(&mut self.shared, copy);
            self.nodes[node].is_watched = !all_notice;
            self.shared.coverage.partly_noticed += u64::from(!all_notice);
            for peer in noticing {
                if self.fault_random().chance(300_000) {
                    let duration = self.fault_random().skewed(10, 2000) * MILLISECOND;
                    for (from, to) in [(node, peer), (peer, node)] {
                        self.shared.network.block(from, to);
                        self.shared.queue.push_in(duration, Event::Undo(Undo::Unblock(from, to)));
                    }
                }
            }
            let absence = self.fault_random().skewed(1, 100) * MILLISECOND;
            self.shared.queue.push_in(absence, Event::Restart { node });
        }
    }

    /// A node hears what another one thinks of its life. It stops if it is forgetful.
    pub(super) fn on_judged(&mut self, node: usize, life: u64, by: usize, judgement: Judgement) {
        let is_cut_off = self.shared.network.is_blocked(by, node);
        let is_any_restored = self.nodes.iter().any(|other| other.restored);
        let (about, judge) = (ReplicaId(node as u8), &self.nodes[by].memory.peers);
        let last_known = judge.of(about).life.incarnation.max(judge.told_of(about, 0).0.incarnation);
        let now = self.shared.queue.now();
        let judged = &mut self.nodes[node];
        let may_know_more = !has_forgotten(last_known, judged.memory.returned_in);
        let is_restored = judged.restored;
        let State::Up(present) = &mut judged.state else { return };
        if present.name != life {
            return;
        }
        let has_waited = now >= present.recognition.begun + OPERATOR_PATIENCE;
        if is_cut_off {
            return self.shared.queue.push_in(20 * MILLISECOND, Event::Judged { node, life, by, judgement });
        }
        let id = ReplicaId(by as u8);
        match judgement {
            Judgement::Familiar => {
                present.recognition.taken_in.insert(id);
                present.recognition.objecting.remove(id);
                judged.memory.peers.set_recognised(id);
            }
            Judgement::Doubtful | Judgement::Contested => {
                if may_know_more && !present.recognition.taken_in.contains(id) {
                    present.recognition.objecting.insert(id);
                }
                if judgement == Judgement::Contested && !is_any_restored {
                    let text = format!("node {by} was told lies about node {node}");
                    self.shared.invariants.note("familiarity", Err(text));
                    return;
                }
                self.shared.coverage.contested += u64::from(judgement == Judgement::Contested);
                // Whoever knew it first-hand may have lost that with its power. The operator who restored the copy does what the node prints.
                let is_refused = !present.recognition.taken_in.contains(id);
                if judgement == Judgement::Contested && is_restored && is_refused && has_waited {
                    return self.on_disowned(node, by);
                }
            }
            Judgement::Forgetful => return self.on_disowned(node, by),
            Judgement::Unmet | Judgement::Unproven | Judgement::Unconfirmed => {}
        }
        let now = self.now();
        self.nodes[node].wake(&mut self.shared, now);
    }

    /// A node hears that it is not what it was, and stops.
    fn on_disowned(&mut self, node: usize, by: usize) {
        if !self.nodes[node].restored {
            let text = format!("node {by} refuses node {node}, whose disk is as it left it");
            self.shared.invariants.note("familiarity", Err(text));
            return;
        }
        self.shared.coverage.disowned += 1;
        self.nodes[node].crash(&mut self.shared, CrashKind::Kill);
        self.nodes[node].state = State::Disowned;
        let delay = self.fault_random().range(1, 100) * MILLISECOND;
        self.shared.queue.push_in(delay, Event::Restart { node });
    }

    /// Starts a node. One that was refused is at times just tried again; sooner or later it comes back without its disk.
    pub(super) fn restart_node(&mut self, node: usize) {
        if matches!(self.nodes[node].state, State::Disowned) {
            let is_tried_again = !self.is_quiet() && self.fault_random().chance(300_000);
            if is_tried_again {
                self.nodes[node].state = State::Down;
            } else if self.are_others_whole(node) {
                self.nodes[node].wipe(&mut self.shared, CrashKind::Kill);
            } else {
                self.shared.queue.push_in(50 * MILLISECOND, Event::Restart { node });
                return;
            }
        }
        self.nodes[node].start(&mut self.shared);
    }
}
