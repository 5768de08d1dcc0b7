//! A cluster of cores in one thread, without sockets and disks: the same packets, log and state machine as in production,
//! and nothing else that could cost or allocate.
//!
//! Invariant: what a turn sends and writes arrives at the other nodes, or is durable, in their next turn.

use panch_consensus::protocol::{ProtocolKind, Tuning, random};
use panch_replica::batcher::{BatchLimits, Refusal};
use panch_replica::core::{Core, CoreConfig};
use panch_replica::outbox::{MessageKind, Outbox, ReplyTo};
use panch_replica::replica::{Level, ReplicaConfig};
use panch_replica::transfer::SnapshotFile;
use panch_wal::{Config, Location, Lsn, Wal, Write};
use panch_wire::client::Commit;
use panch_wire::command::{Command, Reply};
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{GroupId, Incarnation, Position, ReplicaId, Slot};
use panch_wire::peer::{Incarnations, Next, PacketReader, PacketWriter};
use panch_wire::time::{Duration, Instant};

/// Every node is in its first life.
const LIFE: Incarnation = Incarnation(1);
/// Time that a turn takes on the nodes' clock.
const TURN: Duration = Duration::from_micros(100);
/// Recent batches kept for lagging peers, in bytes: little, so that memory is soon as full as it gets.
const TAIL_SIZE_MAX: usize = 1 << 20;
/// Turns after which an election must be over: two seconds.
const ELECTION_TURNS: usize = 20_000;

/// What a core wants done.
struct Mail {
    packets: Vec<PacketWriter>,
    is_open: Vec<bool>,
    replies: u64,
    errors: u64,
}

impl Outbox for Mail {
    fn send(
        &mut self,
        to: ReplicaId,
        group: GroupId,
        kind: MessageKind,
        message: &[u8],
        body: Option<&Frame>,
    ) {
        let packet = &mut self.packets[to.index()];
        if !self.is_open[to.index()] {
            self.is_open[to.index()] = true;
            packet.start(Incarnations { sender: LIFE, receiver: LIFE });
        }
        let fits = packet.push_bytes(group, kind as u8, message, body);
        assert!(fits, "a turn's messages fit one packet");
    }

    fn reply(&mut self, _: ReplyTo, reply: Reply<'_>, _: Option<&Commit>) {
        self.replies += 1;
        self.errors += u64::from(matches!(reply, Reply::Error(_)));
    }

    fn load(&mut self, _: GroupId, position: Position, _: Location) {
        panic!("nobody lags so far behind that {position:?} must be read from the log");
    }

    fn snapshot_write(&mut self, _: GroupId, _: Slot, _: u64, _: &[u8], _: bool) {
        panic!("snapshots are switched off");
    }

    fn snapshot_read(&mut self, _: GroupId, _: ReplicaId, _: SnapshotFile, _: u64, _: usize) {
        panic!("snapshots are switched off");
    }

    fn snapshot_remove(&mut self, _: GroupId, _: Slot) {
        panic!("snapshots are switched off");
    }

    fn snapshot_abandon(&mut self, _: GroupId, _: Slot) {
        panic!("snapshots are switched off");
    }
}

struct Node {
    core: Core,
    pool: FramePool,
    mail: Mail,
    /// Received and not taken in yet, by sender.
    inbox: Vec<Vec<u8>>,
    readers: Vec<PacketReader>,
    writes: Vec<Write>,
}

impl Node {
    fn new(me: usize, replica_count: usize, batch: BatchLimits) -> Self {
        let pool = FramePool::new(64 << 20);
        let config = CoreConfig {
            rejoining: false,
            me: ReplicaId(me as u8),
            replica_count,
            groups: vec![(GroupId(0), ProtocolKind::Multi)],
            replica: ReplicaConfig {
                batch,
                hash_seed: 0,
                request_timeout: Duration::from_secs(10),
                session_idle_max: Duration::from_secs(3600),
                checkpoint_every: 512,
                snapshot_log_size: u64::MAX,
            },
            tuning: Tuning {
                pipeline_depth: batch.pipeline_depth,
                tail_size_max: TAIL_SIZE_MAX,
                ..Tuning::default()
            },
            log_size_max: u64::MAX,
            snapshot_size_max: u64::MAX,
        };
        let mut mail = Mail {
            packets: (0..replica_count).map(|_| PacketWriter::new()).collect(),
            is_open: vec![false; replica_count],
            replies: 0,
            errors: 0,
        };
        let mut core =
            Core::open(&config, LIFE, pool.clone(), |group| random(u64::from(group.0) + me as u64), |_| None);
        core.start(Instant(0), Wal::create(Config::default(), me as u64), Lsn(0), &mut mail);
        Self {
            core,
            pool,
            mail,
            inbox: vec![Vec::new(); replica_count],
            readers: (0..replica_count).map(|_| PacketReader::new()).collect(),
            writes: Vec::new(),
        }
    }

    fn turn(&mut self, now: Instant) {
        let Self { core, pool, mail, inbox, readers, writes } = self;
        for write in writes.drain(..) {
            core.log_written(now, write, Ok(()), mail).expect("the write succeeded");
        }
        for (from, (bytes, reader)) in inbox.iter_mut().zip(readers).enumerate() {
            let mut input = bytes.as_slice();
            loop {
                match reader.next(&mut input, pool).expect("packets arrive as they were sent") {
                    Next::Message(incoming) => core
                        .deliver(
                            now,
                            ReplicaId(from as u8),
                            incoming.group,
                            incoming.kind,
                            incoming.message,
                            incoming.body,
                            mail,
                        )
                        .expect("messages arrive as they were sent"),
                    Next::NeedBytes => break,
                    Next::PoolExhausted => panic!("the pool is large enough"),
                }
            }
            bytes.clear();
        }
        core.end_turn(now, mail);
        while let Some(write) = core.next_write(now, mail) {
            writes.push(write);
        }
        let wal = core.wal().expect("the core was started");
        while let Some(preparation) = wal.wants_segment(now) {
            wal.segment_ready(preparation.sequence);
        }
    }
}

/// A cluster of one group in this thread.
pub struct Loopback {
    nodes: Vec<Node>,
    now: Instant,
}

impl Loopback {
    /// A cluster of so many replicas that has elected replica 0, the group's home.
    ///
    /// # Panics
    /// If it elects nobody.
    pub fn new(replica_count: usize, batch: BatchLimits) -> Self {
        let nodes = (0..replica_count).map(|me| Node::new(me, replica_count, batch)).collect();
        let mut cluster = Self { nodes, now: Instant(1) };
        for _ in 0..ELECTION_TURNS {
            cluster.turn();
            if cluster.leads(0) {
                return cluster;
            }
        }
        panic!("replica 0 was not elected");
    }

    fn leads(&self, node: usize) -> bool {
        self.nodes[node].core.status().all(|status| status.protocol.leading)
    }

    /// Hands a command to a node.
    ///
    /// # Errors
    /// If the node has no room for it now.
    pub fn submit(&mut self, node: usize, command: &Command<'_>, level: Level) -> Result<(), Refusal> {
        let now = self.now;
        self.nodes[node].core.submit(now, now, GroupId(0), command, level, ReplyTo::default())
    }

    /// One turn of every node.
    pub fn turn(&mut self) {
        self.now = self.now + TURN;
        for from in 0..self.nodes.len() {
            self.nodes[from].turn(self.now);
        }
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                let mail = &mut self.nodes[from].mail;
                if !std::mem::take(&mut mail.is_open[to]) {
                    continue;
                }
                let mut packet = std::mem::take(&mut mail.packets[to]);
                packet.finish(0);
                for part in packet.parts() {
                    self.nodes[to].inbox[from].extend_from_slice(part);
                }
                packet.release();
                self.nodes[from].mail.packets[to] = packet;
            }
        }
    }

    /// Replies given so far, and how many of them were errors.
    pub fn replies(&self) -> (u64, u64) {
        let sum = |of: fn(&Mail) -> u64| self.nodes.iter().map(|node| of(&node.mail)).sum();
        (sum(|mail| mail.replies), sum(|mail| mail.errors))
    }
}
