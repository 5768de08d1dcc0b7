//! Three cores whose network takes a millisecond for every message. Their logs are in memory.

use std::collections::VecDeque;

use panch_consensus::protocol::{ProtocolKind, Tuning, random};
use panch_replica::batcher::BatchLimits;
use panch_replica::core::{Core, CoreConfig};
use panch_replica::outbox::{MessageKind, Outbox, ReplyTo};
use panch_replica::replica::{Level, ReplicaConfig};
use panch_replica::transfer::SnapshotFile;
use panch_wal::{Config, Durability, Location, Lsn, Wal};
use panch_wire::client::Commit;
use panch_wire::command::{Command, CommandError, CommandKind, Reply};
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{GroupId, Incarnation, Position, ReplicaId, Slot};
use panch_wire::time::{Duration, Instant};

pub(crate) const NODE_COUNT: u8 = 3;
const DELAY: Duration = Duration::from_millis(1);
const STEP: Duration = Duration::from_micros(100);

struct Packet {
    at: Instant,
    from: ReplicaId,
    to: ReplicaId,
    group: GroupId,
    kind: u8,
    message: Vec<u8>,
    body: Option<Frame>,
}

/// What one core wants of the world: messages go through the network, nothing else happens.
struct Net<'a> {
    now: Instant,
    me: ReplicaId,
    packets: &'a mut VecDeque<Packet>,
    replies: &'a mut u64,
    refused: &'a mut Vec<CommandError>,
    cut: Option<ReplicaId>,
}

impl Outbox for Net<'_> {
    fn send(
        &mut self,
        to: ReplicaId,
        group: GroupId,
        kind: MessageKind,
        message: &[u8],
        body: Option<&Frame>,
    ) {
        if !self.reaches(to) {
            return;
        }
        let (at, from) = (self.now + DELAY, self.me);
        let message = message.to_vec();
        self.packets.push_back(Packet {
            at,
            from,
            to,
            group,
            kind: kind as u8,
            message,
            body: body.cloned(),
        });
    }

    fn reaches(&self, peer: ReplicaId) -> bool {
        self.cut.is_none_or(|cut| (cut == peer) == (cut == self.me))
    }

    fn reply(&mut self, to: ReplyTo, reply: Reply<'_>, _: Option<&Commit>) {
        if let Reply::Error(error) = reply {
            assert!(self.cut.is_some(), "{reply:?}");
            self.refused.push(error);
            return;
        }
        *self.replies += u64::from(to != ReplyTo::NOBODY);
    }

    fn load(&mut self, _: GroupId, _: Position, _: Location) {
        panic!("nobody lags so far");
    }

    fn snapshot_write(&mut self, _: GroupId, _: Slot, _: u64, _: &[u8], _: bool) {
        panic!("the log is too short for a snapshot");
    }

    fn snapshot_read(&mut self, _: GroupId, _: ReplicaId, _: SnapshotFile, _: u64, _: usize) {
        panic!("nobody lags so far");
    }

    fn snapshot_remove(&mut self, _: GroupId, _: Slot) {}
    fn snapshot_abandon(&mut self, _: GroupId, _: Slot) {}
}

pub(crate) struct World {
    now: Instant,
    pub(crate) cores: Vec<Core>,
    packets: VecDeque<Packet>,
    /// Commands answered; none may fail unless a node is cut off.
    pub(crate) replies: u64,
    /// What commands were refused with.
    pub(crate) refused: Vec<CommandError>,
    /// A node whose streams to the others are down.
    cut: Option<ReplicaId>,
}

/// The configuration of a core.
pub(crate) fn config(
    me: ReplicaId,
    kind: ProtocolKind,
    session_idle_max: Duration,
    batch: BatchLimits,
) -> CoreConfig {
    CoreConfig {
        rejoining: false,
        me,
        replica_count: NODE_COUNT.into(),
        groups: vec![(GroupId(0), kind)],
        replica: ReplicaConfig {
            batch,
            hash_seed: 0,
            request_timeout: Duration::from_secs(10),
            snapshot_log_size: 1 << 30,
            session_idle_max,
            checkpoint_every: 512,
        },
        tuning: Tuning::default(),
        log_size_max: 1 << 30,
        snapshot_size_max: u64::MAX,
    }
}

impl World {
    pub(crate) fn new(kind: ProtocolKind, session_idle_max: Duration) -> Self {
        Self::with_limits(kind, session_idle_max, |_| BatchLimits::default())
    }

    /// A world whose nodes take in what `limits` says.
    pub(crate) fn with_limits(
        kind: ProtocolKind,
        session_idle_max: Duration,
        limits: impl Fn(ReplicaId) -> BatchLimits,
    ) -> Self {
        Self::begin(|me| {
            let config = config(me, kind, session_idle_max, limits(me));
            let pool = FramePool::new(1 << 24);
            Core::open(&config, Incarnation(1), pool, |_| random(me.0.into()), |_| None)
        })
    }

    /// A world of these cores, whose logs are empty.
    pub(crate) fn begin(open: impl Fn(ReplicaId) -> Core) -> Self {
        let mut world = Self {
            now: Instant(1),
            cores: Vec::new(),
            packets: VecDeque::new(),
            replies: 0,
            refused: Vec::new(),
            cut: None,
        };
        for me in (0..NODE_COUNT).map(ReplicaId) {
            let mut core = open(me);
            let wal = Wal::create(Config { durability: Durability::Memory, ..Config::default() }, 1);
            world.act(me, |now, net| core.start(now, wal, Lsn(0), net));
            world.cores.push(core);
        }
        world
    }

    fn act(&mut self, me: ReplicaId, work: impl FnOnce(Instant, &mut Net<'_>)) {
        let Self { now, packets, replies, refused, cut, .. } = self;
        work(*now, &mut Net { now: *now, me, packets, replies, refused, cut: *cut });
    }

    /// Every core takes in what has arrived and ends its turn.
    fn turn(&mut self) {
        self.now = self.now + STEP;
        let mut cores = std::mem::take(&mut self.cores);
        while self.packets.front().is_some_and(|packet| packet.at <= self.now) {
            let Packet { from, to, group, kind, message, body, .. } = self.packets.pop_front().unwrap();
            let core = &mut cores[to.index()];
            self.act(to, |now, net| core.deliver(now, from, group, kind, &message, body, net).unwrap());
        }
        for (me, core) in (0..).map(ReplicaId).zip(&mut cores) {
            self.act(me, |now, net| {
                core.end_turn(now, net);
                while core.next_write(now, net).is_some() {}
            });
        }
        self.cores = cores;
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// The streams of a node go down, or with `None` are there again.
    pub(crate) fn cut(&mut self, node: Option<u8>) {
        self.cut = node.map(ReplicaId);
        let Some(cut) = self.cut else { return };
        self.packets.retain(|packet| packet.from != cut && packet.to != cut);
        let mut cores = std::mem::take(&mut self.cores);
        for (me, core) in (0..).map(ReplicaId).zip(&mut cores) {
            for peer in
                (0..NODE_COUNT).map(ReplicaId).filter(|peer| *peer != me && (*peer == cut || me == cut))
            {
                self.act(me, |now, net| core.suspect(now, peer, net));
            }
        }
        self.cores = cores;
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.turn();
        }
    }

    /// A write of a key that all such writes share.
    pub(crate) fn submit(&mut self, node: usize) {
        let command =
            Command { kind: CommandKind::Set, flags: 0, session: None, key: b"key", value: b"value" };
        self.submit_command(node, &command);
    }

    pub(crate) fn submit_command(&mut self, node: usize, command: &Command<'_>) {
        let (now, token) = (self.now, ReplyTo { connection: 0, request: 0 });
        self.cores[node].submit(now, now, GroupId(0), command, Level::Log, token).unwrap();
    }
}
