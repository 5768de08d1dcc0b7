//! What a replica counts. Plain numbers: a reader asks the core that owns them.

/// Counters of one replica since its node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// Commands taken into batches here.
    pub commands: u64,
    /// Reads taken here that do not go through the log.
    pub reads: u64,
    /// Batches sealed here, or by clients that have their home here.
    pub batches: u64,
    /// Batches proposed again because their fate was in doubt.
    pub reproposed: u64,
    /// Slots executed.
    pub slots: u64,
    /// Commands applied, whoever proposed them.
    pub applied: u64,
    /// Batches decided a second time and skipped.
    pub duplicates: u64,
    /// Batches decided before an earlier one of their proposer, and held until that was.
    pub held: u64,
    /// Batches decided far out of order and skipped; their proposer proposes them again.
    pub voided: u64,
    /// Batches that clients proposed themselves, executed and answered here.
    pub direct: u64,
    /// Messages to peers.
    pub messages: u64,
    /// Records appended to the log.
    pub records: u64,
    /// Commands answered with an error because they waited too long.
    pub timeouts: u64,
    /// Snapshots completed here.
    pub snapshots: u64,
    /// Snapshots installed from a peer.
    pub installs: u64,
    /// Peers that need another snapshot, because the log had no room for what follows the one that they get or got.
    pub log_cuts: u64,
    /// Sum of the times from seal to execution of the batches sealed here, in microseconds. How they are spread is in
    /// [`crate::latency`].
    pub execution_us: u64,
}
