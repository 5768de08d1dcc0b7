//! A node that lost its disk comes back, and what nodes remember of each other for that.
//!
//! The operator says that a node was a member and has lost its disk. It asks every other node for the highest incarnation
//! that it remembers of it, takes the next one, writes down that it is on its way back, and starts. When its core is
//! through, it writes down that it is a member again.
//!
//! A hello is judged where a packet of a life arrives that was not judged yet: see [`super::restore`].

use panch_replica::familiarity::{Familiarity, Starts};
use panch_wire::ids::{Incarnation, ReplicaId, ReplicaSet};

use super::node::{Node, State, Tag};
use super::{Event, Shared, World};
use crate::disk::{CrashKind, Name, Step};
use crate::queue::{MILLISECOND, Time};
use panch_replica::core::next_incarnation;

/// What a node knows of its own way back, and of the lives of others.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    /// The operator says that the disk was lost.
    pub(crate) lost: bool,
    /// The identity file says so.
    pub(crate) rejoining: bool,
    /// It is being written that the node is a member again.
    pub(super) promoting: bool,
    /// What it knows of others.
    pub(crate) peers: Familiarity,
    /// What of that is on the disk.
    pub(crate) written: Familiarity,
    /// When that was written.
    pub(crate) written_at: Time,
    /// Names the data directory.
    pub(crate) directory: u64,
    /// The incarnation in which it began because the disk before was lost; 0: it did not.
    pub(crate) returned_in: Incarnation,
    /// What it has noted of its own starts.
    pub(crate) starts: Starts,
}

impl Memory {
    /// Whether the node is on its way back.
    pub(crate) fn is_returning(&self) -> bool {
        self.lost || self.rejoining
    }
}

impl Node {
    /// Starts the process: first its new incarnation becomes durable.
    pub(crate) fn start(&mut self, shared: &mut Shared) {
        if !matches!(self.state, State::Down) || self.is_absent {
            return;
        }
        self.life += 1;
        let mut bytes = [0; 5];
        if let Some(file) = self.disk.open(Name::Identity) {
            self.disk.read(file, 0, &mut bytes);
        }
        let stored = Incarnation(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        self.memory.rejoining = bytes[4] != 0;
        self.memory.promoting = false;
        if stored == Incarnation(0) && self.memory.lost {
            shared.trace(|| format!("node {} asks for its incarnation", self.index));
            self.state = State::Inquiring { answered: ReplicaSet::default(), highest: Incarnation(0) };
            shared.queue.push_in(MILLISECOND, Event::Inquire { node: self.index });
            return;
        }
        self.begin(shared, next_incarnation(stored));
    }

    /// Writes down the incarnation to come, and whether the node is on its way back.
    fn begin(&mut self, shared: &mut Shared, incarnation: Incarnation) {
        self.state = State::Booting;
        let rejoining = self.memory.is_returning();
        self.write_identity(shared, incarnation, rejoining, Tag::Identity(incarnation, rejoining));
    }

    fn write_identity(&mut self, shared: &mut Shared, incarnation: Incarnation, rejoining: bool, tag: Tag) {
        let file = self.disk.create(0);
        let mut bytes = incarnation.0.to_le_bytes().to_vec();
        bytes.push(u8::from(rejoining));
        let written = self.disk.write(file, 0, [&bytes[..]].into_iter());
        let steps = [Step::WriteStable(written), Step::Link(file, Name::Identity), Step::SyncDirectory];
        self.make(shared, tag, steps);
    }

    /// At the end of a turn: a node whose replicas are all through is a member again.
    pub(crate) fn consider_promotion(&mut self, shared: &mut Shared) {
        let Some(life) = self.life() else { return };
        let incarnation = life.core.incarnation();
        let is_through = life.live && !life.core.is_rejoining();
        if is_through && self.memory.is_returning() && !self.memory.promoting {
            self.memory.promoting = true;
            self.write_identity(shared, incarnation, false, Tag::Promotion);
        }
    }

    /// It is written that the node is a member again; or that failed, and is tried again.
    pub(crate) fn on_promotion(&mut self, shared: &mut Shared, succeeded: bool) {
        self.memory.promoting = false;
        if succeeded {
            shared.trace(|| format!("node {} is a member again", self.index));
            shared.coverage.rejoins += 1;
            self.memory.lost = false;
            self.memory.rejoining = false;
            // An older copy whose last votes went with the power, too, has come back that way.
            self.restored = false;
        }
        let now = shared.queue.now();
        self.wake(shared, now);
    }

    /// The last votes went with the power; the identity file tells. Other files are synced whenever they change.
    pub(crate) fn lose_votes(&mut self, shared: &mut Shared) {
        shared.trace(|| format!("node {} has lost its last votes", self.index));
        shared.coverage.lost_votes += 1;
        self.memory.lost = true;
        shared.invariants.on_wipe(self.index);
    }

    /// What the node remembers of others is lost; the operator knows.
    pub(super) fn forget_others(&mut self, shared: &mut Shared) {
        self.crash(shared, CrashKind::Kill);
        shared.trace(|| format!("node {} forgets all others", self.index));
        self.state = State::Down;
        let forgotten = Memory {
            lost: true,
            peers: Familiarity::default(),
            written: Familiarity::default(),
            ..self.memory.clone()
        };
        self.memory = forgotten;
    }

    /// The disk is lost with everything on it; the operator knows.
    pub(crate) fn wipe(&mut self, shared: &mut Shared, kind: CrashKind) {
        self.crash(shared, kind);
        shared.trace(|| format!("node {} loses its disk", self.index));
        shared.coverage.wipes += 1;
        self.state = State::Down;
        self.rotten = false;
        self.forget_log();
        self.disk.wipe();
        // No life had that number yet.
        self.memory = Memory { lost: true, directory: self.life + 1, ..Memory::default() };
        self.restored = false;
        shared.invariants.on_wipe(self.index);
    }
}

impl World {
    /// A node on its way back asks those that it reaches, and goes on when all have answered.
    pub(super) fn inquire(&mut self, node: usize) {
        let network = &self.shared.network;
        let reaches = |peer: usize| !network.is_blocked(node, peer) && !network.is_blocked(peer, node);
        let answers = self.nodes.iter().filter(|peer| peer.index != node && peer.is_up());
        let answers: Vec<_> = answers
            .filter(|peer| reaches(peer.index))
            .map(|peer| (peer.id(), peer.memory.peers.clone()))
            .collect();
        let count = self.nodes.len();
        let me = ReplicaId(node as u8);
        let asking = &mut self.nodes[node];
        let State::Inquiring { answered, highest } = &mut asking.state else { return };
        for (peer, told) in answers {
            answered.insert(peer);
            *highest = told.last_incarnation(me).max(*highest);
            for (of, known) in (0..).map(ReplicaId).zip(told.known()) {
                asking.memory.peers.learn(me, of, known);
            }
        }
        let (is_complete, highest) = (answered.count() + 1 == count, *highest);
        if is_complete {
            asking.memory.returned_in = Incarnation(highest.0 + 1);
            self.nodes[node].begin(&mut self.shared, Incarnation(highest.0 + 1));
        } else {
            self.shared.queue.push_in(10 * MILLISECOND, Event::Inquire { node });
        }
    }

    /// Whether all other nodes can be counted on to answer one that has lost its disk, and to decide without it.
    pub(super) fn are_others_whole(&self, node: usize) -> bool {
        let mut others = self.nodes.iter().filter(|other| other.index != node);
        self.nodes.len() > 2
            && others.all(|other| {
                !other.rotten && !other.is_on_its_way_back() && !matches!(other.state, State::Refused)
            })
    }
}
