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

use panch_wire::frame::Frame;
use panch_wire::ids::{GroupId, Incarnation, ReplicaId, Slot};
use panch_wire::record::Fixed;
use panch_wire::rule::Rule;
use panch_wire::time::{Duration, Instant};

use crate::ballot::Ballot;

/// The only source of randomness, seeded by the driver.
pub type Random = rand_xoshiro::Xoshiro256PlusPlus;

/// A source of randomness from a seed.
pub fn random(seed: u64) -> Random {
    use rand_xoshiro::rand_core::SeedableRng;
    Random::seed_from_u64(seed)
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
    /// Bytes of unchosen entries at which a leader takes no further proposals.
    pub unchosen_size_max: usize,
    /// The most entries in flight to a peer that is catching up.
    pub catchup_window: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(500),
            pipeline_depth: 10,
            tail_size_max: 8 << 20,
            unchosen_size_max: 8 << 20,
            catchup_window: 64,
        }
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
    /// A message arrived. Bodies were checksummed and validated.
    Deliver {
        /// The sender, a member of the group.
        from: ReplicaId,
        /// The message.
        message: P::Message,
        /// The batch that travelled with it.
        body: Option<Frame>,
    },
    /// A local read wants a position after which it is linearizable.
    Read(ReadContext),
    /// The value that [`Effects::load`] asked for; `None` if the log could not give it.
    Loaded(Slot, Option<Value>),
    /// A snapshot up to this slot, inclusive, replaced the state and is durable: everything up to the slot is decided
    /// and executed, and will be after a restart.
    Installed(Slot),
    /// The peer acknowledged a snapshot up to this slot, or gave up (`None`).
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

/// What a step wants done. Reused from turn to turn.
#[derive(Debug)]
pub struct Effects<P: Protocol> {
    persisted: u64,
    /// Records to append to the log, in order.
    pub records: Vec<(P::Record, Option<Frame>)>,
    /// Messages to send, in order.
    pub outgoing: Vec<Outgoing<P::Message>>,
    /// Values chosen, in slot order without gaps.
    pub chosen: Vec<(Slot, Value)>,
    /// Reads that may be served once everything up to the slot is executed; `None`: ask again later.
    pub reads: Vec<(ReadContext, Option<Slot>)>,
    /// Chosen entries to be read back from the log.
    pub loads: Vec<Slot>,
    /// Peers that need a snapshot because the log no longer reaches back to the slot, which the snapshot must cover.
    pub snapshots: Vec<(ReplicaId, Slot)>,
    /// The fate of outstanding proposals became doubtful: propose those that are not executed again, in order.
    pub repropose: bool,
}

impl<P: Protocol> Default for Effects<P> {
    fn default() -> Self {
        Self {
            persisted: 0,
            records: Vec::new(),
            outgoing: Vec::new(),
            chosen: Vec::new(),
            reads: Vec::new(),
            loads: Vec::new(),
            snapshots: Vec::new(),
            repropose: false,
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
        self.chosen.push((slot, value));
    }

    /// The read may be served once everything up to `at` is executed.
    pub fn serve_read(&mut self, context: ReadContext, at: Slot) {
        self.reads.push((context, Some(at)));
    }

    /// The read cannot be confirmed now.
    pub fn retry_read(&mut self, context: ReadContext) {
        self.reads.push((context, None));
    }

    /// Asks for the chosen value at `slot`, which has left memory; answered by [`Event::Loaded`].
    pub fn load(&mut self, slot: Slot) {
        self.loads.push(slot);
    }

    /// `peer` needs the value at `slot` and can only be helped by a snapshot; answered by [`Event::SnapshotSent`].
    pub fn send_snapshot(&mut self, peer: ReplicaId, slot: Slot) {
        self.snapshots.push((peer, slot));
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

/// Counters a protocol keeps for reports and for the simulator's coverage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Elections this replica stood for (pre-vote won).
    pub elections: u64,
    /// Terms this replica led.
    pub terms: u64,
    /// Values adopted from earlier ballots in phase 1.
    pub adopted: u64,
    /// Holes filled with a no-op.
    pub noops: u64,
    /// Accepts refused because of a gap.
    pub gaps: u64,
    /// Times a peer's send position was moved back.
    pub rewinds: u64,
    /// Messages refused because of their ballot.
    pub refused: u64,
    /// Times a leader stepped down by itself: no contact with a quorum, or its own log stood still.
    pub step_downs: u64,
    /// Leadership transfers started.
    pub transfers: u64,
    /// Entries accepted over an older ballot's different value.
    pub overwritten: u64,
    /// Commit advances held back because an entry was accepted in an older ballot.
    pub commit_held: u64,
}

/// A replication protocol as a pure state machine.
pub trait Protocol: Sized {
    /// What one replica may say to another; small: the batch travels beside it.
    type Message: Fixed + Copy + std::fmt::Debug;
    /// What must survive a crash; small: the batch lies beside it in the log.
    type Record: Fixed + Copy + std::fmt::Debug;

    /// A replica whose state machine holds everything up to and including `executed` (0: nothing) and whose node starts
    /// for the `incarnation`-th time. Followed by [`Protocol::replay`] for each record of its log, then
    /// [`Protocol::start`].
    fn open(group: Group, tuning: Tuning, executed: Slot, incarnation: Incarnation, random: Random) -> Self;

    /// Takes in one record of the log, oldest first. May choose values; does nothing else.
    fn replay(&mut self, record: Self::Record, body: Option<Frame>, effects: &mut Effects<Self>);

    /// The log is replayed; life begins at `now`.
    fn start(&mut self, now: Instant, effects: &mut Effects<Self>);

    /// Same state, same event, same `now`: same effects.
    fn step(&mut self, now: Instant, event: Event<Self>, effects: &mut Effects<Self>);

    /// When [`Event::Deadline`] is wanted. A time that has passed means: at the end of this turn.
    fn deadline(&self) -> Option<Instant>;

    /// The slot whose value lies beside this record, if it accepts one.
    fn record_slot(record: &Self::Record) -> Option<Slot>;

    /// When the record was written, everything up to this slot was known to be chosen: the log behind the snapshot must
    /// hold it.
    fn record_committed(record: &Self::Record) -> Slot;

    /// One record that says everything small this replica must remember (promise, what is committed): written at the
    /// start of every log segment, because older segments are recycled.
    fn restate(&self) -> Self::Record;

    /// The log below this slot (exclusive) is no longer needed from disk: a durable snapshot covers it.
    fn truncated(&mut self, below: Slot);

    /// For operators.
    fn status(&self) -> Status;

    /// For reports and coverage.
    fn counters(&self) -> Counters;
}
