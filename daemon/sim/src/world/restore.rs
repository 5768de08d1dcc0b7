//! Hellos: whether a node still is what others remember; and disks that are replaced by an older copy.
//!
//! A node whose copy is too old is refused by those that know better, stops, and is then started again, or comes back as one
//! that has lost its disk. Copies are restored only where all others know better: beyond that nobody could tell.

use panch_replica::familiarity::{Asked, Familiarity, Judgement, Newcomer, Past, Start, Starts};
use panch_wal::Lsn;
use panch_wire::frame::FramePool;
use panch_wire::ids::{Incarnation, ReplicaId};
use panch_wire::peer::{Life as LifeName, LifeKey};

use super::node::{IDENTITY, Life, LogDirectory, Node, State, inventory_on};
use super::rejoin::Memory;
use super::{Event, Shared, World};
use crate::disk::{Copy, CrashKind, Disk, Latency};
use crate::queue::{MILLISECOND, SECOND};
use crate::random::{Concern, Stream};

/// What was heard is written down at most this often.
const WRITE_EVERY: u64 = 5 * SECOND;

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
        Newcomer { node, core: 0, life, returning, is_authentic: true, asked: known.end(0), claim }
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
        if judgement == Judgement::Familiar {
            self.write_down(shared);
            return true;
        }
        shared.trace(|| format!("node {me} refuses node {from}: {judgement:?}, {newcomer:?}"));
        shared.queue.push_in(MILLISECOND, Event::Disowned { node: from, life: name, by: me });
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
        let memory = Memory { peers: self.memory.written.clone(), ..self.memory.clone() };
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
        shared.invariants.on_wipe(self.index);
    }
}

impl World {
    /// Restores a copy if the node is well and everybody else will notice.
    pub(super) fn consider_restoring(&mut self, node: usize, copy: &DiskCopy) {
        let shared = &self.shared;
        let owner = &self.nodes[node];
        let is_well = !owner.is_on_its_way_back() && !owner.rotten && !matches!(owner.state, State::Refused);
        if self.is_quiet() || !is_well || copy.memory.is_returning() || !self.are_others_whole(node) {
            return;
        }
        let Some(hello) = owner.hello_with(shared, copy) else { return };
        let notices = |peer: &Node| {
            let mut known = peer.memory.written.clone();
            known.judge(&hello.to(node, &known.clone())) == Judgement::Doubtful
        };
        if self.nodes.iter().filter(|peer| peer.index != node).all(notices) {
            self.nodes[node].restore(&mut self.shared, copy);
            let absence = self.fault_random().skewed(1, 100) * MILLISECOND;
            self.shared.queue.push_in(absence, Event::Restart { node });
        }
    }

    /// A node hears that it is not what it was. It stops, if whoever says so has been recognised by itself: that one may
    /// have the older memory.
    pub(super) fn on_disowned(&mut self, node: usize, life: u64, by: usize) {
        let name_of = |node: usize| self.nodes[node].life().map(|life| life.name);
        let Some(refused) = self.nodes[node].life().filter(|refused| refused.name == life) else { return };
        if name_of(by) != Some(refused.accepted[by]) {
            return;
        }
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
