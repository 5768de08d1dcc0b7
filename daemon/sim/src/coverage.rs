//! What runs have been through: the branches that a sweep must have taken to mean anything.

use panch_replica::core::GroupStatus;

macro_rules! coverage {
    ($($(#[$doc:meta])* $name:ident: $expected:expr,)*) => {
        /// Counts over any number of runs.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Coverage { $($(#[$doc])* pub $name: u64,)* }

        impl Coverage {
            /// Adds another's counts.
            pub fn add(&mut self, other: &Coverage) {
                $(self.$name += other.$name;)*
            }

            /// Adds to the count called `name`; false if there is none.
            pub fn add_named(&mut self, name: &str, count: u64) -> bool {
                match name {
                    $(stringify!($name) => self.$name += count,)*
                    _ => return false,
                }
                true
            }

            /// Every count: its name, the count, and whether a long sweep must have some.
            pub fn rows(&self) -> Vec<(&'static str, u64, bool)> {
                vec![$((stringify!($name), self.$name, $expected),)*]
            }
        }
    };
}

coverage! {
    /// Runs.
    runs: true,
    /// Events of the virtual world.
    events: true,
    /// Turns of cores.
    turns: true,
    /// Operations of clients that were answered.
    acked: true,
    /// Operations of clients whose outcome stayed unknown.
    unknown: true,
    /// Attempts of clients beyond the first of an operation.
    retries: true,
    /// Commands refused for lack of room.
    busy: true,
    /// Processes killed.
    kills: true,
    /// Machines without power.
    power_failures: true,
    /// Power failures of all machines at once.
    blackouts: true,
    /// Nodes that stopped because a log write failed.
    failed_writes: true,
    /// Processes paused.
    pauses: true,
    /// Network partitions.
    partitions: true,
    /// Disks stalled or slowed.
    slow_disks: true,
    /// Clocks that jumped or changed their rate.
    clock_faults: true,
    /// Connections reset.
    resets: true,
    /// Packets lost.
    lost_packets: true,
    /// Packets delivered twice.
    duplicated_packets: true,
    /// Packets damaged.
    corrupted_packets: true,
    /// Packets refused because of an incarnation.
    stale_packets: true,
    /// Packets that waited for frame memory.
    pool_waits: false,
    /// Pages that a crash threw back.
    lost_pages: true,
    /// Pages that a crash tore.
    torn_pages: true,
    /// Logs that recovery cut at a torn commit group.
    torn_tails: true,
    /// Log pages damaged while their node was down.
    rotten_pages: true,
    /// Logs refused because of such damage.
    refused_logs: true,
    /// Records replayed at boots.
    replayed_records: true,
    /// Boots that waited until what they read was on stable storage.
    resyncs: true,
    /// Log segments filled.
    segments: true,
    /// Log segments recycled.
    recycled_segments: true,
    /// Frames read back from the log.
    loads: true,
    /// Frames that could not be read back.
    failed_loads: false,
    /// Boots from a snapshot.
    restored: true,
    /// Elections stood for.
    elections: true,
    /// Terms led.
    terms: true,
    /// Values adopted in phase 1.
    adopted: true,
    /// Holes filled with a no-op.
    noops: false,
    /// Accepts refused because of a gap.
    gaps: true,
    /// Send positions moved back.
    rewinds: true,
    /// Messages refused because of their ballot.
    refused: true,
    /// Leaders that stepped down.
    step_downs: true,
    /// Leadership transfers.
    transfers: true,
    /// Entries accepted over another ballot's different value.
    overwritten: true,
    /// Commits held back because an entry was of an older ballot.
    commit_held: true,
    /// Batches sealed.
    batches: true,
    /// Batches proposed again.
    reproposed: true,
    /// Batches decided twice and skipped.
    duplicates: true,
    /// Batches decided out of order and skipped.
    voided: true,
    /// Reads that did not go through the log.
    quorum_reads: true,
    /// Commands answered as overdue.
    timeouts: true,
    /// Snapshots made.
    snapshots: true,
    /// Snapshots installed from a peer.
    installs: true,
    /// Operations checked for linearizability.
    checked: true,
    /// Keys whose check was given up.
    undecided: false,
}

impl Coverage {
    /// Adds what a node counted in the life that ends.
    pub fn add_status(&mut self, status: &GroupStatus) {
        let (counters, probe) = (&status.counters, &status.probe);
        self.elections += counters.elections;
        self.terms += counters.terms;
        self.adopted += counters.adopted;
        self.noops += counters.noops;
        self.gaps += counters.gaps;
        self.rewinds += counters.rewinds;
        self.refused += counters.refused;
        self.step_downs += counters.step_downs;
        self.transfers += counters.transfers;
        self.overwritten += counters.overwritten;
        self.commit_held += counters.commit_held;
        self.batches += probe.batches;
        self.reproposed += probe.reproposed;
        self.duplicates += probe.duplicates;
        self.voided += probe.voided;
        self.quorum_reads += probe.reads;
        self.timeouts += probe.timeouts;
        self.snapshots += probe.snapshots;
        self.installs += probe.installs;
    }

    /// Names of the counts that a long sweep must have and this one has not.
    pub fn missing(&self) -> Vec<&'static str> {
        self.rows()
            .into_iter()
            .filter(|(_, count, expected)| *expected && *count == 0)
            .map(|row| row.0)
            .collect()
    }
}
