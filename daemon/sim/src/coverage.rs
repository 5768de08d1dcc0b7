//! What runs have been through: the branches that a sweep must have taken to mean anything.

use std::collections::BTreeMap;

use panch_consensus::protocol::{Counters, ProtocolKind};
use panch_replica::status::GroupStatus;

use crate::settings::Mix;

macro_rules! coverage {
    ($($(#[$doc:meta])* $name:ident: $expected:expr,)*) => {
        /// Counts over any number of runs.
        #[derive(Clone, PartialEq, Eq, Debug, Default)]
        pub struct Coverage {
            $($(#[$doc])* pub $name: u64,)*
            /// What the protocols counted, by protocol and name.
            pub counters: BTreeMap<(ProtocolKind, &'static str), u64>,
        }

        impl Coverage {
            /// Adds another's counts.
            pub fn add(&mut self, other: &Coverage) {
                $(self.$name += other.$name;)*
                for ((kind, name), count) in &other.counters {
                    self.count(*kind, name, *count);
                }
            }

            /// Adds to the count called `name`; false if there is none.
            pub fn add_named(&mut self, name: &str, count: u64) -> bool {
                match name {
                    $(stringify!($name) => self.$name += count,)*
                    _ => {
                        let Some((kind, name)) = counter(name) else { return false };
                        self.count(kind, name, count);
                    }
                }
                true
            }

            /// Every count: its name and the count.
            pub fn rows(&self) -> Vec<(String, u64)> {
                let mut rows = vec![$((stringify!($name).to_string(), self.$name),)*];
                rows.extend(self.counters.iter().map(|((kind, name), count)| {
                    (format!("{}.{name}", kind.name()), *count)
                }));
                rows
            }

            fn world(&self) -> Vec<(&'static str, u64, bool)> {
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
    /// Commands that clients were told not to be applied, and sent again as if they never had.
    not_applied: true,
    /// Commands refused because they are too long for the node that was asked.
    too_large: true,
    /// Starts of nodes with limits of their own.
    own_limits: true,
    /// Sessions that clients found expired.
    expired_sessions: true,
    /// Sessions opened again under the name of one that had expired.
    reopened_sessions: true,
    /// Processes killed.
    kills: true,
    /// Machines without power.
    power_failures: true,
    /// Power failures of all machines at once.
    blackouts: true,
    /// Nodes that stayed away while the others had to serve.
    absences: true,
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
    /// Files removed while their node was down.
    lost_files: true,
    /// Starts that failed because a snapshot could not be read.
    unreadable_snapshots: true,
    /// Nodes that refused to start because of such damage.
    refused_logs: true,
    /// Disks without room for anything new.
    full_disks: true,
    /// What could not be made for lack of room.
    no_room: true,
    /// Disks that could not be read while their node was up.
    unreadable_disks: true,
    /// Starts of nodes that are tuned in their own way.
    own_tuning: true,
    /// Prepared segments that were made for another size.
    misfits: true,
    /// Weaknesses that lasted while other faults struck.
    lasting: true,
    /// Weaknesses that lasted beside nothing else.
    gray: true,
    /// Commands of others that were measured meanwhile.
    measured: true,
    /// Nodes that stayed away for minutes while the others worked on.
    long_absences: true,
    /// Disks lost.
    wipes: true,
    /// Nodes that lost votes with the power, because these counted before they were synced.
    lost_votes: true,
    /// Disks replaced by an older copy.
    restores: true,
    /// Of these, disks of which not all others knew better.
    partly_noticed: true,
    /// Refusals of nodes because of what others had told.
    contested: true,
    /// Older copies that were taken back because nobody was there who knew better.
    taken_back: true,
    /// Nodes that others refused because they have forgotten what they said.
    disowned: true,
    /// Nodes that lost their disk and became members again.
    rejoins: true,
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
    /// Batches sealed.
    batches: true,
    /// Batches proposed again.
    reproposed: true,
    /// Batches decided twice and skipped.
    duplicates: true,
    /// Batches decided out of order and skipped.
    voided: false,
    /// Batches that clients proposed themselves, executed and answered.
    direct: true,
    /// Such batches without an answer, whose commands were asked for again.
    direct_retries: true,
    /// Batches decided before an earlier one of their proposer, and held.
    held: true,
    /// Reads that did not go through the log.
    quorum_reads: true,
    /// Reads of whatever a node had executed.
    stale_reads: true,
    /// Commands answered as overdue.
    timeouts: true,
    /// Snapshots made.
    snapshots: true,
    /// Snapshots installed from a peer.
    installs: true,
    /// Peers that needed another snapshot because the log had no room.
    log_cuts: false,
    /// Checkpoints whose digests all replicas were heard about.
    compared: true,
    /// Operations checked for linearizability.
    checked: true,
    /// Operations on several keys that were answered.
    many: true,
    /// Transactions whose conditions held.
    transactions: true,
    /// Commands that hold several, whose conditions held.
    execs: true,
    /// Commands that hold several, of which a condition did not hold.
    failed_execs: true,
    /// Families of keys checked as one object.
    families: true,
}

/// The protocol and the name of a protocol's counter, from its name here.
fn counter(name: &str) -> Option<(ProtocolKind, &'static str)> {
    let (kind, name) = name.split_once('.')?;
    let known = Counters::default().rows().find(|(known, _)| *known == name)?.0;
    Some((ProtocolKind::from_name(kind)?, known))
}

impl Coverage {
    fn count(&mut self, kind: ProtocolKind, name: &'static str, count: u64) {
        let sum = self.counters.entry((kind, name)).or_default();
        *sum = if name == "component_max" { (*sum).max(count) } else { *sum + count };
    }

    /// Adds what a node counted in the life that ends.
    pub fn add_status(&mut self, status: &GroupStatus) {
        for (name, count) in status.counters.rows().filter(|(_, count)| *count > 0) {
            self.count(status.kind, name, count);
        }
        let probe = &status.probe;
        self.batches += probe.batches;
        self.reproposed += probe.reproposed;
        self.duplicates += probe.duplicates;
        self.voided += probe.voided;
        self.held += probe.held;
        self.direct += probe.direct;
        self.quorum_reads += probe.reads;
        self.timeouts += probe.timeouts;
        self.snapshots += probe.snapshots;
        self.installs += probe.installs;
        self.log_cuts += probe.log_cuts;
        self.compared += status.digests.counts.compared;
    }

    /// Names of the counts that a long sweep of such worlds must have and this one has not.
    pub fn missing(&self, mix: Mix, replica_count: usize) -> Vec<String> {
        let concerns = |name: &str| {
            (mix != Mix::One(ProtocolKind::Epaxos) || !OF_LOGS.contains(&name))
                && (mix.kinds().contains(&ProtocolKind::Fast) || !OF_FAST.contains(&name))
                && (replica_count > 2 || !OF_LOST_DISKS.contains(&name))
        };
        let world = self
            .world()
            .into_iter()
            .filter(|(name, count, expected)| *expected && *count == 0 && concerns(name));
        let mut missing: Vec<String> = world.map(|(name, ..)| name.to_string()).collect();
        for kind in mix.kinds() {
            let some = |name: &&&'static str| !self.counters.contains_key(&(*kind, **name));
            let names = expected(*kind, mix, replica_count);
            missing.extend(names.iter().filter(some).map(|name| format!("{}.{name}", kind.name())));
        }
        missing
    }
}

/// Counts that a world without a log need not have: a batch has one position there, and what a peer lacks is in memory.
const OF_LOGS: &[&str] = &["duplicates", "held", "loads"];

/// Counts that only a world with Fast Paxos can have.
const OF_FAST: &[&str] = &["direct", "direct_retries"];

/// Counts that two replicas cannot have: without one of them there is no majority.
const OF_LOST_DISKS: &[&str] = &[
    "wipes",
    "rejoins",
    "lost_votes",
    "restores",
    "disowned",
    "lasting",
    "gray",
    "measured",
    "long_absences",
    "partly_noticed",
    "contested",
    "taken_back",
];

/// The counters that a long sweep of a protocol must have: its branches, the rare ones included.
fn expected(kind: ProtocolKind, mix: Mix, replica_count: usize) -> Vec<&'static str> {
    let names: &[&str] = match kind {
        ProtocolKind::Multi => &[
            "elections",
            "terms",
            "adopted",
            "gaps",
            "rewinds",
            "refused",
            "step_downs",
            "transfers",
            "overwritten",
            "commit_held",
        ],
        ProtocolKind::Basic => &["prepares", "duels", "moved", "adopted", "noops", "refused", "overwritten"],
        ProtocolKind::Fast => &[
            "elections",
            "terms",
            "refused",
            "step_downs",
            "fast_chosen",
            "classic_chosen",
            "collisions",
            "recoveries",
            "picks_forced",
            "picks_free",
            "fallbacks",
            "returns",
        ],
        ProtocolKind::Epaxos => &[
            "fast_commits",
            "slow_commits",
            "conflicts",
            "recovery_starts",
            "chased",
            "recovered_committed",
            "recovered_accepted",
            "recovered_preaccepted",
            "recovered_noop",
            "resubmitted",
            "component_max",
        ],
    };
    let mut names = names.to_vec();
    if mix == Mix::One(ProtocolKind::Multi) {
        names.extend(["lease_reads", "lease_refusals"]);
    }
    if mix == Mix::One(ProtocolKind::Fast) {
        names.push("direct_moved");
    }
    if kind == ProtocolKind::Epaxos && replica_count >= 5 {
        // Only there are recoveries validated: with three replicas the fast pair decides them alone.
        names.extend(["validates", "validates_rejected", "waits", "waits_accepted", "waits_noop"]);
    }
    names
}
