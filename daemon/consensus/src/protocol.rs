//! A protocol: events in, effects out.
//!
//! What is durable before what (see each message's marker):
//!
//! | message or act | durable at the sender first |
//! |---|---|
//! | Prepare | own promise of that ballot (a ballot is never reused) |
//! | Promise | the promise, and every acceptance it reports |
//! | Accept | nothing; the leader's own vote counts only once durable, like anybody's |
//! | Accepted | the acceptance with its value |
//! | pre-vote, heartbeat, commit notice, read index, refusals | nothing |
//! | reply to a client | nothing local: a chosen value is recoverable from the votes |
//!
//! A message type is either a [`Hint`] (asserts nothing durable) or a [`Claim`] (asserts something this replica must
//! remember). [`Effects::send_after`] takes claims only and names the [`Persist`] point; the gate in `panch-replica`
//! is the one place that releases them. A replica's own vote takes the same way: `Dest::All` and `Dest::One(me)` come
//! back to it through the gate.

use panch_wire::command::Command;
use panch_wire::frame::Frame;
use panch_wire::ids::{BatchId, GroupId, Incarnation, Position, ReplicaId, Slot};
use panch_wire::record::Fixed;
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use crate::ballot::Ballot;
use crate::frontier::Frontier;
use crate::rejoin::Horizon;
use crate::remnant::Remnant;

/// The only source of randomness, seeded by the driver.
pub type Random = rand_xoshiro::Xoshiro256PlusPlus;

/// A source of randomness from a seed.
pub fn random(seed: u64) -> Random {
    use rand_xoshiro::rand_core::SeedableRng;
    Random::seed_from_u64(seed)
}

/// The protocols. The names are those of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ProtocolKind {
    /// Two phases for every slot, no leader.
    Basic = 0,
    /// One leader, one phase while nobody challenges it.
    Multi = 1,
    /// Proposers go straight to the acceptors; a coordinator repairs collisions.
    Fast = 2,
    /// No leader; commands that do not interfere are not ordered.
    Epaxos = 3,
}

impl ProtocolKind {
    /// All of them.
    pub const ALL: &'static [ProtocolKind] = &[Self::Basic, Self::Multi, Self::Fast, Self::Epaxos];

    /// The name in the configuration, in reports and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Multi => "multi",
            Self::Fast => "fast",
            Self::Epaxos => "epaxos",
        }
    }

    /// How it orders what it decides.
    pub const fn order(self) -> Order {
        match self {
            Self::Basic | Self::Multi | Self::Fast => Order::Log,
            Self::Epaxos => Order::Graph,
        }
    }

    /// The protocol of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// The protocol of that number on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| *kind as u8 == code)
    }
}

/// How decided values are ordered for execution.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// One log: every replica executes the same values in the same order.
    Log,
    /// A dependency graph: replicas execute values that interfere in the same order, others in any. A protocol with this
    /// order decides a batch at one position at most.
    Graph,
}

impl Order {
    /// Whether a command must go through the log to be linearizable, although it only reads: replicas of a graph execute writes that do not
    /// interfere in different orders, so what one of them holds of several keys at some moment need not be what any order of all writes leaves
    /// there. One key has one order.
    pub fn needs_log(self, command: &Command<'_>) -> bool {
        self == Self::Graph && command.reads_many_keys() && holds(Rule::EpaxosManyKeysInLog)
    }
}

/// Which group, and who I am in it.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The group.
    pub id: GroupId,
    /// This replica.
    pub me: ReplicaId,
    /// How many replicas the group has; ids are `0..replica_count`.
    pub replica_count: usize,
    /// The replica that should lead when it can: leaders of different groups are spread over the nodes.
    pub home: ReplicaId,
}

/// Knobs of a protocol. All replicas of a cluster should agree on them; safety does not depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Time between heartbeats of a leader.
    pub heartbeat_interval: Duration,
    /// A follower that hears nothing for a random time in `election_timeout .. 2 * election_timeout` stands for election.
    pub election_timeout: Duration,
    /// Batches in flight per proposer.
    pub pipeline_depth: usize,
    /// Bytes of recent frames kept in memory for peers that lag (frame footprint); older entries are read from the log.
    pub tail_size_max: usize,
    /// EPaxos: the most executed instances that are kept for a member that is heard and lags; each takes about half a kilobyte of
    /// memory.
    pub kept_count_max: u64,
    /// Bytes of unchosen entries at which a leader takes no further proposals.
    pub unchosen_size_max: usize,
    /// The most entries in flight to a peer that is catching up.
    pub catchup_window: usize,
    /// The most bytes in flight to such a peer, in about. What it lacks must reach it faster than new entries come: at a busy time a
    /// round trip with its log write takes several milliseconds, and thousands of new entries a second may be small.
    pub catchup_size_max: usize,
    /// Fast Paxos, EPaxos: a fast quorum that is not complete after this long is given up. Above the slowest ordinary round
    /// trip with its log write.
    pub slow_after: Duration,
    /// EPaxos: an instance that blocks others for this long is recovered if its command leader is suspected.
    pub recover_after: Duration,
    /// EPaxos: an instance that blocks others for this long is recovered whoever is suspected.
    pub recover_always_after: Duration,
    /// Fast Paxos: acceptors place any proposer's batch in the next free slot, instead of in its own stripe of slots.
    pub free_for_all: bool,
    /// EPaxos: a command leader sends to a fast quorum only.
    pub thrifty: bool,
    /// Multi-Paxos: how long a follower that heard its leader promises to follow nobody else, on its own clock; zero: no
    /// leases. Below `election_timeout`: after a leader's death nobody is elected before its last grants are over. The log
    /// names the longest one granted, so a node that is started with a smaller value waits for the larger one. Differences
    /// between nodes only cost the lease.
    pub lease: Duration,
    /// Multi-Paxos: the most by which the rate of a clock may differ from true time, in millionths. Lease reads are
    /// linearizable only while every clock keeps to it.
    pub clock_drift_ppm: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(500),
            pipeline_depth: 10,
            tail_size_max: 8 << 20,
            kept_count_max: 1 << 19,
            unchosen_size_max: 8 << 20,
            catchup_window: 512,
            catchup_size_max: 4 << 20,
            slow_after: Duration::from_millis(50),
            recover_after: Duration::from_millis(300),
            recover_always_after: Duration::from_millis(2000),
            free_for_all: false,
            thrifty: false,
            lease: Duration::ZERO,
            clock_drift_ppm: 10_000,
        }
    }
}

impl Tuning {
    /// How many entries may be in flight to a peer that is catching up, if `count` entries like them take `size` bytes.
    pub(crate) fn catchup_count(&self, size: usize, count: usize) -> u64 {
        let average = size / count.max(1);
        (self.catchup_size_max / average.max(1)).clamp(1, self.catchup_window.max(1)) as u64
    }
}

/// What a slot was decided to hold.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Nothing: fills a hole, or marks the start of a leader's term.
    Noop,
    /// A batch.
    Batch(Frame),
}

impl Value {
    /// The frame, if any, as messages and records carry it.
    pub fn body(&self) -> Option<&Frame> {
        match self {
            Value::Noop => None,
            Value::Batch(frame) => Some(frame),
        }
    }
}

impl Value {
    /// Tells values apart; 0 of a no-op.
    pub fn checksum(&self) -> u64 {
        self.body().map_or(0, Frame::checksum)
    }
}

/// Something that this replica knows to be decided is said to be decided otherwise. Consensus rules that out: somebody has forgotten
/// a vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contradiction {
    /// Where.
    pub position: Position,
    /// [`Value::checksum`] of what is known here.
    pub known: u64,
    /// That of what is said; 0 also of nothing.
    pub told: u64,
    /// By whom.
    pub from: ReplicaId,
}

impl From<Option<Frame>> for Value {
    fn from(body: Option<Frame>) -> Self {
        body.map_or(Value::Noop, Value::Batch)
    }
}

/// Names one round of reads between a replica's reads and its protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReadContext(pub u64);

/// A point in this replica's own log: points are totally ordered, and the log is durable up to some point.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Persist(pub u64);

/// Who a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dest {
    /// One replica, possibly this one.
    One(ReplicaId),
    /// Every replica but this one.
    Others,
    /// Every replica, this one included.
    All,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<P: Protocol> {
    /// The local batcher sealed a batch (or asks again for one whose fate is unknown).
    Propose(Frame),
    /// A client's own batch, which it sends to every replica. Checked: all of its commands are writes of one session, and
    /// its home, [`BatchId::proposer`], is a member of the group. Only Fast Paxos is given any.
    ClientBatch(Frame),
    /// A message arrived. Bodies were checksummed and validated.
    Deliver {
        /// The sender, a member of the group.
        from: ReplicaId,
        /// The message.
        message: P::Message,
        /// The batch that travelled with it.
        body: Option<Frame>,
    },
    /// A local read wants a moment after which it is linearizable.
    Read {
        /// Names it.
        context: ReadContext,
        /// A lease is good enough; without one it is a quorum read like any other.
        lease: bool,
    },
    /// The value that [`Effects::load`] asked for; `None` if the log could not give it.
    Loaded(Position, Option<Value>),
    /// A snapshot replaced the state and is durable: everything it covers is decided and executed, and will be after a
    /// restart; nothing else is executed.
    Installed {
        /// What it covers.
        covered: Frontier,
        /// The highest stamp among that.
        stamp: u64,
    },
    /// The peer has installed a snapshot that was made when so many positions were executed, or gave up (`None`).
    SnapshotSent(ReplicaId, Option<Slot>),
    /// [`Protocol::deadline`] has passed.
    Deadline,
    /// The connection to this replica was lost or refused: a hint, never trusted for safety.
    Suspect(ReplicaId),
}

/// A message on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing<M> {
    /// The point that must be durable first and the rule that says so; `None` for hints.
    pub after: Option<(Persist, Rule)>,
    /// To whom.
    pub dest: Dest,
    /// What.
    pub message: M,
    /// The batch that travels with it.
    pub body: Option<Frame>,
}

/// A message that asserts nothing durable.
pub trait Hint<P: Protocol>: Into<P::Message> {}

/// A message that asserts something this replica must remember.
pub trait Claim<P: Protocol>: Into<P::Message> {
    /// The rule that holds it back, for mutant builds.
    const RULE: Rule = Rule::ClaimAfterDurable;
}

/// A decided value, ready to be executed.
#[derive(Clone, PartialEq, Debug)]
pub struct Chosen {
    /// Where it was decided.
    pub position: Position,
    /// A number that comes with the value and is the same on every replica: in a log the slot, in EPaxos the command
    /// leader's stamp.
    pub stamp: u64,
    /// The value.
    pub value: Value,
}

/// What a step wants done. Reused from turn to turn.
#[derive(Debug)]
pub struct Effects<P: Protocol> {
    persisted: u64,
    /// Records to append to the log, in order.
    pub records: Vec<(P::Record, Option<Frame>)>,
    /// Messages to send, in order.
    pub outgoing: Vec<Outgoing<P::Message>>,
    /// Values chosen, in the order of their execution.
    pub chosen: Vec<Chosen>,
    /// Own batches, of this incarnation or of clients that have their home here, that became known to be chosen. For measuring:
    /// one may be missing (a snapshot covered it) or told again (it was chosen in a second slot, where it is skipped).
    pub committed: Vec<BatchId>,
    /// Reads that may be served once so many positions are executed; `None`: ask again later.
    pub reads: Vec<(ReadContext, Option<Slot>)>,
    /// Chosen entries to be read back from the log.
    pub loads: Vec<Position>,
    /// Peers that need a snapshot made when at least so many positions were executed.
    pub snapshots: Vec<(ReplicaId, Slot)>,
    /// Own batches that were executed as part of an installed snapshot, or may have been: what they answered is not known
    /// here, and they are never proposed again. For protocols that order by a graph.
    pub settled: Vec<BatchId>,
    /// The fate of outstanding proposals became doubtful: propose those that are not executed again, in order.
    pub repropose: bool,
    /// The first contradiction of what is known.
    pub contradiction: Option<Contradiction>,
}

impl<P: Protocol> Default for Effects<P> {
    fn default() -> Self {
        Self {
            persisted: 0,
            records: Vec::new(),
            outgoing: Vec::new(),
            chosen: Vec::new(),
            committed: Vec::new(),
            reads: Vec::new(),
            loads: Vec::new(),
            snapshots: Vec::new(),
            settled: Vec::new(),
            repropose: false,
            contradiction: None,
        }
    }
}

impl<P: Protocol> Effects<P> {
    /// Appends `record` to the log, with the batch it accepts.
    pub fn persist(&mut self, record: P::Record, body: Option<&Frame>) -> Persist {
        self.records.push((record, body.cloned()));
        self.persisted += 1;
        Persist(self.persisted)
    }

    /// The latest point: durable once everything persisted so far is.
    pub fn last_persist(&self) -> Persist {
        Persist(self.persisted)
    }

    /// Sends a message that asserts nothing durable.
    pub fn send<M: Hint<P>>(&mut self, dest: Dest, message: M, body: Option<&Frame>) {
        self.outgoing.push(Outgoing { after: None, dest, message: message.into(), body: body.cloned() });
    }

    /// Sends a message once `after` is durable.
    pub fn send_after<M: Claim<P>>(&mut self, after: Persist, dest: Dest, message: M, body: Option<&Frame>) {
        self.outgoing.push(Outgoing {
            after: Some((after, M::RULE)),
            dest,
            message: message.into(),
            body: body.cloned(),
        });
    }

    /// `value` is chosen at `slot`. Called in slot order, once per slot.
    pub fn choose(&mut self, slot: Slot, value: Value) {
        self.chosen.push(Chosen { position: slot.into(), stamp: slot.0, value });
    }

    /// `value` is to be executed next. For protocols that order by a graph; called once per position.
    pub fn execute(&mut self, position: Position, stamp: u64, value: Value) {
        self.chosen.push(Chosen { position, stamp, value });
    }

    /// The own batch is chosen and may be executed as soon as what comes before it is.
    pub fn commit(&mut self, batch: BatchId) {
        self.committed.push(batch);
    }

    /// The read may be served once `at` positions are executed, in a log: everything up to that slot.
    pub fn serve_read(&mut self, context: ReadContext, at: Slot) {
        self.reads.push((context, Some(at)));
    }

    /// The read cannot be confirmed now.
    pub fn retry_read(&mut self, context: ReadContext) {
        self.reads.push((context, None));
    }

    /// Asks for the chosen value at `position`, which has left memory; answered by [`Event::Loaded`].
    pub fn load(&mut self, position: impl Into<Position>) {
        self.loads.push(position.into());
    }

    /// `peer` can only be helped by a snapshot made when at least `slot` positions were executed; answered by
    /// [`Event::SnapshotSent`].
    pub fn send_snapshot(&mut self, peer: ReplicaId, slot: Slot) {
        self.snapshots.push((peer, slot));
    }

    /// The own batch was executed as part of an installed snapshot, or may have been; nothing more comes of it here.
    pub fn settle(&mut self, batch: BatchId) {
        self.settled.push(batch);
    }

    /// `from` says that `told` is decided, a no-op or nothing if there is none, where this replica knows `known` to be. Whether
    /// that is a contradiction.
    pub fn contradict(
        &mut self,
        position: impl Into<Position>,
        known: &Value,
        told: Option<&Frame>,
        from: ReplicaId,
    ) -> bool {
        self.contradict_checksum(position, known.checksum(), told.map_or(0, Frame::checksum), from)
    }

    /// The same of values of which only checksums are known.
    pub fn contradict_checksum(
        &mut self,
        position: impl Into<Position>,
        known: u64,
        told: u64,
        from: ReplicaId,
    ) -> bool {
        let differs = known != told && holds(Rule::DecisionsCompared);
        if differs {
            self.contradiction.get_or_insert(Contradiction { position: position.into(), known, told, from });
        }
        differs
    }

    /// Asks the replica to propose its unexecuted batches again.
    pub fn repropose(&mut self) {
        self.repropose = true;
    }
}

/// What an operator sees of one replica of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// The leader or coordinator this replica follows; `None` while there is none.
    pub leader: Option<ReplicaId>,
    /// Whether this replica leads and may serve.
    pub leading: bool,
    /// The highest ballot this replica has promised.
    pub ballot: Ballot,
    /// Everything up to here is known to be chosen.
    pub committed: Slot,
    /// The last slot this replica has accepted.
    pub last: Slot,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters a protocol keeps for reports and for the simulator's coverage.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// Every counter with its name.
            pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }

            /// Adds another's counts; the largest component is the larger of the two.
            #[cfg(test)]
            pub(crate) fn add(&mut self, other: &Counters) {
                let component_max = self.component_max.max(other.component_max);
                $(self.$name += other.$name;)*
                self.component_max = component_max;
            }
        }
    };
}

counters! {
    /// Elections this replica stood for (pre-vote won).
    elections,
    /// Terms this replica led.
    terms,
    /// Values adopted from earlier ballots in phase 1.
    adopted,
    /// Holes filled with a no-op.
    noops,
    /// Accepts refused because of a gap.
    gaps,
    /// Times a peer's send position was moved back.
    rewinds,
    /// Messages refused because of their ballot.
    refused,
    /// Times a leader stepped down by itself: no contact with a quorum, or its own log stood still.
    step_downs,
    /// Leadership transfers started.
    transfers,
    /// Entries accepted over an older ballot's different value.
    overwritten,
    /// Commit advances held back because an entry was accepted in an older ballot.
    commit_held,

    // Multi-Paxos.
    /// Reads served under a lease.
    lease_reads,
    /// Prepares and pre-votes refused because of a lease granted to another.
    lease_refusals,

    // Basic Paxos.
    /// First phases begun.
    prepares,
    /// Ballots lost to another proposer: each is followed by a pause.
    duels,
    /// Batches that lost their slot to another value and went on to a later one.
    moved,

    // Fast Paxos.
    /// Slots chosen in a fast round.
    fast_chosen,
    /// Slots chosen in a classic round.
    classic_chosen,
    /// Slots in which a fast quorum became impossible.
    collisions,
    /// Slots recovered by the coordinator.
    recoveries,
    /// Picks of a value that may have been chosen: a classic vote, or enough fast votes.
    picks_forced,
    /// Picks among values none of which can have been chosen.
    picks_free,
    /// Changes from fast to classic rounds because too few replicas answer.
    fallbacks,
    /// Changes back to fast rounds.
    returns,
    /// Batches of clients, with their home here, that lost a slot and were given another.
    direct_moved,

    // EPaxos.
    /// Instances committed by this command leader in one round trip.
    fast_commits,
    /// Instances committed by this command leader in two.
    slow_commits,
    /// Pre-acceptances that added dependencies.
    conflicts,
    /// Instances whose recovery this replica began.
    recovery_starts,
    /// Questions for what others have not told in time and something waits for.
    chased,
    /// Recoveries that found the instance committed.
    recovered_committed,
    /// Recoveries that found it accepted.
    recovered_accepted,
    /// Recoveries that had to keep what was pre-accepted.
    recovered_preaccepted,
    /// Recoveries that ended with a no-op.
    recovered_noop,
    /// Validations asked for.
    validates,
    /// Validations that found an instance that may exclude the one recovered.
    validates_rejected,
    /// Recoveries that had to wait for another instance.
    waits,
    /// Such waits that ended with the value.
    waits_accepted,
    /// Such waits that ended with a no-op.
    waits_noop,
    /// Batches proposed again after their instance became a no-op.
    resubmitted,
    /// Instances in the largest strongly connected component executed.
    component_max,
    /// Times new batches were held back because too much waits for execution.
    held_back,
}

/// What a replica remembers when it starts.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// What the state machine holds.
    pub executed: &'a Frontier,
    /// The highest stamp among that.
    pub stamp: u64,
    /// How often the node has started, this time included.
    pub incarnation: Incarnation,
}

/// What a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The position: the log must keep the record until a durable snapshot covers it.
    pub position: Position,
    /// Whether the value of the position lies beside the record (no body: a no-op).
    pub has_value: bool,
}

/// A replication protocol as a pure state machine.
pub trait Protocol: Sized {
    /// Its name.
    const KIND: ProtocolKind;
    /// How it orders what it decides.
    const ORDER: Order = Self::KIND.order();
    /// Whether values are accepted in the order of their slots: then a log with a value but not the one before it has lost
    /// something.
    const ACCEPTS_IN_ORDER: bool;
    /// What one replica may say to another; small: the batch travels beside it.
    type Message: Fixed + Copy + std::fmt::Debug;
    /// What must survive a crash; small: the batch lies beside it in the log.
    type Record: Fixed + Copy + std::fmt::Debug;

    /// A replica with that past. Followed by [`Protocol::replay`] for each record of its log, then [`Protocol::start`].
    fn open(group: Group, tuning: Tuning, past: Past<'_>, random: Random) -> Self;

    /// Takes in one record of the log, oldest first. May choose values; does nothing else.
    fn replay(&mut self, record: Self::Record, body: Option<Frame>, effects: &mut Effects<Self>);

    /// The highest that this replica knows of anything, for a peer that has lost its disk.
    fn horizon(&self) -> Horizon;

    /// `peer` has lost its disk: what it said of itself does not hold any more. Votes that it gave were given.
    fn forget(&mut self, peer: ReplicaId);

    /// This replica has lost its disk, and `horizon` is the highest that all others know of. Between the replay and
    /// [`Protocol::start`]; from then on its claims are dropped until [`Protocol::rejoined`]. See [`crate::rejoin`].
    fn rejoin(&mut self, horizon: &Horizon, effects: &mut Effects<Self>);

    /// Everything up to the horizon is executed and durable: claims leave from now on.
    fn rejoined(&mut self, effects: &mut Effects<Self>);

    /// The log is replayed; life begins at `now`.
    fn start(&mut self, now: Instant, effects: &mut Effects<Self>);

    /// Same state, same event, same `now`: same effects. `now` is read after the event arrived: a lease granted or trusted
    /// at a time before that would last too long.
    fn step(&mut self, now: Instant, event: Event<Self>, effects: &mut Effects<Self>);

    /// When [`Event::Deadline`] is wanted. A time that has passed means: at the end of this turn.
    fn deadline(&self) -> Option<Instant>;

    /// What the record is about, if about one position.
    fn record_place(record: &Self::Record) -> Option<Place>;

    /// When the record was written, at least so many positions were executed or known to be chosen without a gap: the
    /// snapshot and the log behind it must hold them.
    fn record_committed(record: &Self::Record) -> Slot;

    /// One record that says everything small this replica must remember (promise, what is committed): written at the
    /// start of every log segment, because older segments are recycled.
    fn restate(&self) -> Self::Record;

    /// A durable snapshot covers this: the log no longer holds what lies in it.
    fn truncated(&mut self, covered: &Frontier);

    /// What the log may forget once a durable snapshot covers `covered`: all of it, or less while others may still ask for
    /// values that only the log holds.
    fn forgettable(&self, covered: &Frontier) -> Frontier {
        covered.clone()
    }

    /// The log has reached its bound, and `position`, which is executed here, lies in its oldest part and is kept for others: those that lack
    /// it are helped with snapshots from now on. Returns how many these are. [`Protocol::forgettable`] may say more then.
    fn give_up(&mut self, _position: Position) -> u64 {
        0
    }

    /// A snapshot that a peer sends has grown.
    fn snapshot_grown(&mut self, _now: Instant) {}

    /// Whether a snapshot that covers exactly `covered` can replace the state: what is executed here beyond it is executed
    /// again. If so, it will be: nothing may change that until [`Event::Installed`] or [`Protocol::abandon_install`].
    fn prepare_install(&mut self, _covered: &Frontier) -> bool {
        true
    }

    /// The snapshot could not be written down.
    fn abandon_install(&mut self) {}

    /// Whether this replica waits for a snapshot of a peer, which must cover what an own one covers: none is made meanwhile.
    fn awaits_snapshot(&self) -> bool {
        false
    }

    /// Whether this replica knows of anybody who could decide a batch that is proposed now. While it does not, batches are better
    /// kept where they can still be given up: nothing of them has left. A replica that reaches no majority need not know that.
    fn may_decide(&self) -> bool {
        true
    }

    /// What this replica knows of values that it has not executed, by position, each value at most once: in a log, behind what it knows to
    /// be chosen; in a graph, also what is executed here and has not left memory. After the replay.
    fn remnants(&self) -> Vec<(Remnant, Value)>;

    /// No replica of this cluster will be heard again, and `remnants`, ascending and beyond `executed`, is what is left of values: all of
    /// them are chosen. Each need not have been, but nobody can tell, and what was acknowledged last is among them. Of positions between
    /// them nothing is left: no-ops. The last that is done with this replica.
    fn choose_remnants(
        &mut self,
        executed: &Frontier,
        remnants: Vec<(Remnant, Value)>,
        effects: &mut Effects<Self>,
    ) {
        let mut next = executed.slot().next();
        for (Remnant { position, .. }, value) in remnants {
            while next < position.slot() {
                effects.choose(next, Value::Noop);
                next = next.next();
            }
            if next == position.slot() {
                effects.choose(next, value);
                next = next.next();
            }
        }
    }

    /// The state of this replica is wrong, and stays so: it votes, but does not lead any more if another can. May be called
    /// during the replay.
    fn disqualify(&mut self, _effects: &mut Effects<Self>) {}

    /// For operators.
    fn status(&self) -> Status;

    /// For reports and coverage.
    fn counters(&self) -> Counters;
}
