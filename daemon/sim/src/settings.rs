//! What a run is like: sizes, times and which faults may strike. Everything follows from the seed.

mod own;

pub use own::Own;

use panch_consensus::protocol::{ProtocolKind, Tuning};
use panch_replica::batcher::BatchLimits;
use panch_replica::replica::ReplicaConfig;
use panch_wal::Durability;
use panch_wire::frame::PAGE_SIZE;
use panch_wire::time::Duration;

use crate::disk::Latency;
use crate::network::NetworkSettings;
use crate::queue::{MICROSECOND, MILLISECOND, SECOND, Time};
use crate::random::{Concern, Stream};

/// How likely each fault is, relative to the others; 0: never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultWeights {
    /// A process is killed and started again.
    pub kill: u64,
    /// A machine loses power and comes back.
    pub power: u64,
    /// All machines lose power at once.
    pub blackout: u64,
    /// A process stands still for a while.
    pub pause: u64,
    /// A node is slow for a while.
    pub slow_node: u64,
    /// Links are blocked for a while.
    pub partition: u64,
    /// A link is slow for a while.
    pub slow_link: u64,
    /// A connection is reset.
    pub reset: u64,
    /// A disk completes nothing for a while.
    pub stall: u64,
    /// A disk is slow for a while.
    pub slow_disk: u64,
    /// A write fails.
    pub fail_write: u64,
    /// A clock jumps, or runs fast or slow for a while.
    pub clock: u64,
    /// A page of the log of a node that is down is damaged.
    pub rot: u64,
    /// A file of a node that is down is removed, or a snapshot damaged or unreadable.
    pub lose: u64,
    /// A leader is cut off while its clock crawls, so that it does not notice that it was deposed.
    pub depose: u64,
    /// A node loses its disk and comes back as one that has.
    pub wipe: u64,
    /// A node's disk is replaced by an older copy of it.
    pub restore: u64,
    /// A disk has no room for anything new for a while.
    pub full: u64,
    /// What is read from a disk cannot be read for a while.
    pub fail_read: u64,
}

/// Settings of the clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientSettings {
    /// How many.
    pub count: usize,
    /// Operations of each.
    pub operations: u64,
    /// The longest pause between two operations.
    pub think: Time,
    /// After this long a client stops waiting for an answer.
    pub patience: Time,
    /// Keys of each kind.
    pub keys: u64,
    /// Operations, in parts per million, that are about a family of keys, most of them about several at once.
    pub many: u64,
    /// Keys of a family.
    pub family_size: u64,
    /// Clients, in parts per million, that use a session.
    pub sessions: u64,
    /// Reads, in parts per million, that go through the log.
    pub log_reads: u64,
    /// Of the other reads, in parts per million, those that are content with a lease.
    pub lease_reads: u64,
    /// Reads of one key and MGETs, in parts per million, that are content with what the node has executed.
    pub stale_reads: u64,
    /// The longest padding of a value.
    pub padding: u64,
    /// Keys that are only written, to make the state large.
    pub bulk_keys: u64,
    /// Writes of sessions, in parts per million, that begin a batch which the client itself proposes, where the protocol is Fast
    /// Paxos.
    pub direct: u64,
    /// Copies of such batches, in parts per million, that are lost; others come twice, or late.
    pub direct_faults: u64,
    /// No session is idle for so long that it expires.
    pub sessions_last: bool,
}

/// Which protocols the groups of a world have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mix {
    /// All the same.
    One(ProtocolKind),
    /// Several groups of any.
    Mixed,
}

impl Mix {
    /// All of them, by name.
    pub const NAMES: [&'static str; 5] = ["basic", "multi", "fast", "epaxos", "mixed"];

    /// The mix of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "mixed" { Some(Self::Mixed) } else { ProtocolKind::from_name(name).map(Self::One) }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::One(kind) => kind.name(),
            Self::Mixed => "mixed",
        }
    }

    /// The protocols in it.
    pub fn kinds(&self) -> &[ProtocolKind] {
        match self {
            Self::One(kind) => std::slice::from_ref(kind),
            Self::Mixed => KINDS,
        }
    }

    fn groups(self, random: &mut Stream, count: usize) -> Vec<ProtocolKind> {
        match self {
            Self::One(kind) => vec![kind; count],
            Self::Mixed => (0..count + 1).map(|_| *random.pick(KINDS)).collect(),
        }
    }
}

/// The protocols that there are.
const KINDS: &[ProtocolKind] = ProtocolKind::ALL;

/// When one weakness lasts, that of a link, a disk or a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lasting {
    /// Never.
    Never,
    /// As long as other faults strike.
    Meanwhile,
    /// Beside nothing else, once the trouble is over: then the others must be about as fast as without it.
    AtRest,
}

/// Settings of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What everything follows from.
    pub seed: u64,
    /// Replicas of every group, one per node.
    pub replica_count: usize,
    /// The protocol of each group, all on the one core of every node.
    pub protocols: Vec<ProtocolKind>,
    /// How long faults strike.
    pub trouble: Time,
    /// The mean time between two faults.
    pub fault_every: Time,
    /// Which faults.
    pub faults: FaultWeights,
    /// The clients.
    pub clients: ClientSettings,
    /// The network while faults strike.
    pub network: NetworkSettings,
    /// The disks while faults strike.
    pub disk: Latency,
    /// The longest ordinary time from an arrival to the turn that takes it in.
    pub reaction: Time,
    /// Knobs of the protocol.
    pub tuning: Tuning,
    /// Settings of the replicas.
    pub replica: ReplicaConfig,
    /// Settings of the log.
    pub wal: panch_wal::Config,
    /// Bytes of log segments at which a snapshot is asked for.
    pub log_size_max: u64,
    /// Bytes of frame memory of a node.
    pub pool_size: usize,
    /// Whether all machines lose power once more at the end.
    pub final_blackout: bool,
    /// Whether each node draws limits of its own at each start, see [`Settings::own`].
    pub limits_vary: bool,
    /// Whether each node is tuned in its own way at each start, see [`Settings::own`].
    pub tuning_varies: bool,
    /// When one weakness lasts.
    pub lasting: Lasting,
    /// How long one node stays away in the middle of the trouble; 0: none does.
    pub long_absence: Time,
    /// Whether, before that, the rest must serve without as many nodes as can be missing.
    pub final_absence: bool,
}

const PAGE: u64 = PAGE_SIZE as u64;
/// Frame memory of a node in a world with EPaxos, in bytes.
const EPAXOS_POOL_SIZE_MIN: usize = 16 << 20;

impl Settings {
    /// The most by which the rate of a clock may differ from true time, in millionths, if leases rely on it: then clocks do not
    /// jump either.
    pub fn clock_bound(&self) -> Option<u64> {
        (!self.tuning.lease.is_zero()).then_some(self.tuning.clock_drift_ppm)
    }

    /// How many groups.
    pub fn group_count(&self) -> u16 {
        self.protocols.len() as u16
    }

    /// A good day: no faults, no clients, small files.
    pub fn calm(seed: u64, replica_count: usize) -> Self {
        Self {
            seed,
            replica_count,
            protocols: vec![ProtocolKind::Multi],
            trouble: 0,
            fault_every: 100 * MILLISECOND,
            faults: FaultWeights::default(),
            clients: ClientSettings {
                count: 0,
                operations: 0,
                think: MILLISECOND,
                patience: 400 * MILLISECOND,
                keys: 2,
                many: 0,
                family_size: 2,
                sessions: 500_000,
                log_reads: 500_000,
                lease_reads: 0,
                stale_reads: 0,
                padding: 0,
                bulk_keys: 0,
                direct: 0,
                direct_faults: 0,
                sessions_last: true,
            },
            network: NetworkSettings::calm(),
            disk: Latency::default(),
            reaction: 50 * MICROSECOND,
            tuning: Tuning {
                heartbeat_interval: Duration::from_millis(20),
                election_timeout: Duration::from_millis(150),
                pipeline_depth: 4,
                tail_size_max: 256 << 10,
                catchup_window: 16,
                unchosen_size_max: 256 << 10,
                slow_after: Duration::from_millis(10),
                recover_after: Duration::from_millis(150),
                recover_always_after: Duration::from_millis(600),
                ..Tuning::default()
            },
            replica: ReplicaConfig {
                batch: BatchLimits {
                    commands_max: 8,
                    size_max: 3 * PAGE_SIZE,
                    command_size_max: 16 << 10,
                    value_size_max: 16 << 10,
                    pipeline_depth: 4,
                    linger: Duration::ZERO,
                    queue_max: 8,
                },
                hash_seed: seed,
                request_timeout: Duration::from_millis(300),
                snapshot_log_size: 1 << 20,
                session_idle_max: Duration::from_secs(3600),
                checkpoint_every: 8,
            },
            wal: panch_wal::Config {
                segment_size: 256 << 10,
                group_size_max: 64 << 10,
                packed_size_max: packed_size_max(0),
                writes_in_flight_max: 2,
                spares: 1,
                reuse_max: 2,
                attest_after: Duration::from_millis(20),
                retry_after: Duration::from_millis(50),
                durability: Durability::Sync,
            },
            log_size_max: 4 << 20,
            pool_size: 4 << 20,
            final_blackout: false,
            limits_vary: false,
            tuning_varies: false,
            lasting: Lasting::Never,
            long_absence: 0,
            final_absence: false,
        }
    }

    /// A good day of groups of another protocol.
    pub fn calm_of(kind: ProtocolKind, seed: u64, replica_count: usize) -> Self {
        Self { protocols: vec![kind], ..Self::calm(seed, replica_count) }
    }

    /// A day from a swarm: a random subset of faults, each with a random intensity, and random sizes everywhere.
    pub fn swarm(seed: u64, mix: Mix, replica_count: usize) -> Self {
        let random = &mut Stream::new(seed, Concern::Plan);
        let knobs = &mut Stream::new(seed, Concern::Knobs);
        let mut settings = Self::calm(seed, replica_count);
        settings.protocols = mix.groups(knobs, 1 + usize::from(random.chance(250_000)));
        settings.trouble = random.range(300, 2500) * MILLISECOND;
        settings.fault_every = random.skewed(30, 400) * MILLISECOND;
        settings.faults = weights(random);
        settings.final_blackout = random.chance(200_000);
        settings.network = network(random);
        let high = random.skewed(100, 4000) * MICROSECOND;
        let sync = if random.chance(300_000) { random.skewed(0, 60) * MILLISECOND } else { 0 };
        let read = if random.chance(200_000) { random.skewed(0, 100) * MILLISECOND } else { 0 };
        settings.disk = Latency { low: high / 10, high, sync, read };
        settings.reaction = random.skewed(5, 2000) * MICROSECOND;
        let operations = random.range(20, 150);
        settings.clients = ClientSettings {
            count: random.range(2, 8) as usize,
            operations,
            think: 2 * settings.trouble / operations,
            patience: random.range(20, 600) * MILLISECOND,
            keys: random.range(1, 3),
            many: 0,
            family_size: 2,
            sessions: *random.pick(&[0, 500_000, 500_000, 1_000_000]),
            log_reads: *random.pick(&[0, 300_000, 1_000_000]),
            lease_reads: 0,
            stale_reads: 0,
            padding: *random.pick(&[0, 0, 500, 3000]),
            bulk_keys: if random.chance(150_000) { random.range(20, 80) } else { 0 },
            direct: 0,
            direct_faults: 0,
            sessions_last: true,
        };
        let heartbeat = random.range(5, 40);
        let depth = random.range(1, 8) as usize;
        settings.tuning = Tuning {
            heartbeat_interval: Duration::from_millis(heartbeat),
            election_timeout: Duration::from_millis(heartbeat * random.range(4, 10)),
            pipeline_depth: depth,
            tail_size_max: random.skewed(4, 64) as usize * PAGE_SIZE,
            catchup_window: random.range(1, 32) as usize,
            unchosen_size_max: 256 << 10,
            ..Tuning::default()
        };
        knob(knobs, &mut settings.tuning);
        if mix == Mix::One(ProtocolKind::Multi) && knobs.chance(400_000) {
            lease(knobs, &mut settings);
        }
        if settings.protocols.contains(&ProtocolKind::Fast) {
            settings.clients.direct = *knobs.pick(&[0, 300_000, 1_000_000]);
            settings.clients.direct_faults = *knobs.pick(&[0, 10_000, 150_000]);
        }
        settings.final_absence = Stream::new(seed, Concern::Absence).chance(500_000);
        // Of a stream of its own: what else a seed gives does not depend on it.
        let wipes = &mut Stream::new(seed, Concern::Wipes);
        settings.faults.wipe = if wipes.chance(250_000) { wipes.range(1, 10) } else { 0 };
        let families = &mut Stream::new(seed, Concern::Families);
        settings.clients.many = *families.pick(&[0, 100_000, 300_000, 600_000]);
        settings.clients.family_size = families.range(2, 3);
        settings.faults.lose = if wipes.chance(150_000) { wipes.range(1, 10) } else { 0 };
        let copies = &mut Stream::new(seed, Concern::Copies);
        settings.faults.restore = if copies.chance(250_000) { copies.range(1, 10) } else { 0 };
        let narrow = &mut Stream::new(seed, Concern::Bandwidth);
        if narrow.chance(150_000) {
            settings.network.bandwidth = *narrow.pick(&[500_000, 2_000_000, 10_000_000]);
        }
        settings.clients.stale_reads = *families.pick(&[0, 0, 200_000]);
        settings.replica.batch = BatchLimits {
            commands_max: random.range(1, 6) as usize,
            size_max: random.range(1, 4) as usize * PAGE_SIZE,
            pipeline_depth: depth,
            linger: Duration::from_micros(random.skewed(0, 2000)),
            queue_max: random.range(1, 8) as usize,
            command_size_max: 16 << 10,
            value_size_max: 16 << 10,
        };
        settings.replica.request_timeout = Duration::from_millis(random.range(50, 500));
        settings.replica.snapshot_log_size = random.skewed(8, 512) << 10;
        let limits = &mut Stream::new(seed, Concern::Limits);
        settings.limits_vary = limits.chance(400_000);
        if limits.chance(300_000) {
            // About as long as clients wait and nodes are cut off.
            settings.replica.session_idle_max = Duration::from_millis(limits.skewed(80, 1500));
            settings.clients.sessions_last = false;
        }
        let segment_pages = random.range(12, 64);
        settings.wal = panch_wal::Config {
            segment_size: segment_pages * PAGE,
            group_size_max: random.range(4, segment_pages / 2) as usize * PAGE_SIZE,
            packed_size_max: packed_size_max(segment_pages),
            writes_in_flight_max: random.range(1, 4) as usize,
            spares: random.range(1, 2) as usize,
            // Neither is drawn, so that what seeds mean does not change.
            reuse_max: (segment_pages % 5) as usize,
            attest_after: Duration::from_millis(random.range(1, 50)),
            retry_after: Duration::from_millis(50),
            durability: Durability::Sync,
        };
        settings.log_size_max = settings.wal.segment_size * random.range(2, 8);
        if random.chance(40_000) {
            let interval = Duration::from_millis(random.range(1, 100));
            settings.wal.durability = Durability::Periodic { interval };
            // Votes since the last sync are lost with the power: one node at a time comes back from that.
            settings.faults.power = if replica_count > 2 { random.range(1, 10) } else { 0 };
            settings.faults.blackout = 0;
            settings.faults.rot = 0;
            settings.faults.lose = 0;
            settings.final_blackout = false;
        }
        settings.pool_size = random.skewed(1 << 20, 3 << 20) as usize;
        if random.chance(200_000) && settings.clients.bulk_keys == 0 {
            // Less than the daemon allows, while snapshots are small: packets wait for memory.
            settings.pool_size = random.range(160 << 10, 400 << 10) as usize * settings.protocols.len();
        }
        // The shares that the daemon gives them.
        if settings.protocols.contains(&ProtocolKind::Epaxos) {
            // Instances that wait for others keep their batches in memory: without room for them it stands still.
            settings.pool_size = settings.pool_size.max(EPAXOS_POOL_SIZE_MIN);
        }
        let share = settings.pool_size / settings.protocols.len();
        settings.tuning.tail_size_max = settings.tuning.tail_size_max.min(share / 4);
        settings.tuning.unchosen_size_max = share / 8;
        settings.outlast();
        settings
    }

    /// As [`Settings::swarm`], without other faults: one weakness lasts, and the speed of everybody else is judged.
    pub fn gray(seed: u64, mix: Mix, replica_count: usize) -> Self {
        let calm = Self::calm(seed, replica_count);
        let swarm = Self::swarm(seed, mix, replica_count);
        Self {
            trouble: 200 * MILLISECOND,
            faults: FaultWeights::default(),
            network: NetworkSettings { streams: swarm.network.streams, ..calm.network },
            disk: calm.disk,
            lasting: Lasting::AtRest,
            long_absence: 0,
            final_absence: false,
            final_blackout: false,
            ..swarm
        }
    }

    /// What else may be the matter, of streams of their own: a weakness that lasts, a node that stays away for long, disks without
    /// room, and nodes that are tuned differently.
    fn outlast(&mut self) {
        let room = &mut Stream::new(self.seed, Concern::Room);
        self.faults.full = if room.chance(150_000) { room.range(1, 10) } else { 0 };
        self.faults.fail_read = if room.chance(150_000) { room.range(1, 10) } else { 0 };
        if room.chance(10_000) && self.replica_count > 2 {
            self.stay_away(SECOND * room.range(60, 240));
        }
        self.tuning_varies = Stream::new(self.seed, Concern::Tuning).chance(300_000);
        let lasting = &mut Stream::new(self.seed, Concern::Lasting);
        self.lasting = match lasting.below(100) {
            0..10 => Lasting::Meanwhile,
            10..12 => Lasting::AtRest,
            _ => Lasting::Never,
        };
    }

    /// A node stays away for minutes while the others work on, at the leisure of a long day: the virtual time between two events must
    /// be longer, or there would be too many of them.
    fn stay_away(&mut self, time: Time) {
        self.long_absence = time;
        self.trouble += time + time / 4;
        self.fault_every = time / 20;
        self.clients.think = 2 * self.trouble / self.clients.operations;
        // Leaders and leases live as many heartbeats as before.
        let slower = Duration::from_millis(100).as_nanos() / self.tuning.heartbeat_interval.as_nanos().max(1);
        let slower = slower.max(1) as u32;
        self.tuning.heartbeat_interval *= slower;
        self.tuning.election_timeout *= slower;
        self.tuning.lease *= slower;
    }
}

/// Which bodies a log packs: none if its segments have an odd number of pages, otherwise the small ones.
fn packed_size_max(segment_pages: u64) -> usize {
    if segment_pages.is_multiple_of(2) { panch_wal::Config::default().packed_size_max } else { 0 }
}

/// What only some protocols look at.
fn knob(random: &mut Stream, tuning: &mut Tuning) {
    let recover_after = random.skewed(20, 400);
    tuning.slow_after = Duration::from_micros(random.skewed(500, 60_000));
    tuning.recover_after = Duration::from_millis(recover_after);
    tuning.recover_always_after = Duration::from_millis(recover_after * random.range(2, 8));
    tuning.free_for_all = random.chance(500_000);
    tuning.thrifty = random.chance(300_000);
}

/// Leaders have leases, and clocks keep to the bound that these are made for.
fn lease(random: &mut Stream, settings: &mut Settings) {
    let tuning = &mut settings.tuning;
    tuning.lease = tuning.election_timeout * random.range(3, 9) as u32 / 10;
    tuning.clock_drift_ppm = *random.pick(&[100, 10_000, 200_000]);
    settings.clients.lease_reads = *random.pick(&[500_000, 1_000_000]);
}

fn weights(random: &mut Stream) -> FaultWeights {
    let mut weight = |share: u64| if random.chance(share) { random.range(1, 10) } else { 0 };
    FaultWeights {
        kill: weight(500_000),
        power: weight(500_000),
        blackout: weight(150_000),
        pause: weight(300_000),
        slow_node: weight(200_000),
        partition: weight(500_000),
        slow_link: weight(200_000),
        reset: weight(300_000),
        stall: weight(250_000),
        slow_disk: weight(250_000),
        fail_write: weight(150_000),
        clock: weight(250_000),
        rot: weight(150_000),
        lose: 0,
        depose: weight(250_000),
        wipe: 0,
        restore: 0,
        full: 0,
        fail_read: 0,
    }
}

fn network(random: &mut Stream) -> NetworkSettings {
    let low = random.skewed(10, 300) * MICROSECOND;
    let mut settings = NetworkSettings {
        latency_low: low,
        latency_high: low * random.range(2, 10),
        ..NetworkSettings::calm()
    };
    if random.chance(400_000) {
        let mut parts = |share: u64, most: u64| if random.chance(share) { random.skewed(0, most) } else { 0 };
        settings.loss = parts(600_000, 100_000);
        settings.duplication = parts(600_000, 300_000);
        settings.straggling = parts(600_000, 100_000);
        settings.corruption = parts(200_000, 20_000);
        settings.straggle_high = random.skewed(1, 300) * MILLISECOND;
        settings.streams = false;
    } else if random.chance(300_000) {
        settings.loss = random.skewed(0, 10_000);
    }
    settings
}
