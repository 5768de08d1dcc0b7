//! What a core counts and what it publishes for INFO: plain numbers on the core, a copy behind a mutex for the others.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use panch_replica::latency::Latencies;
use panch_replica::status::GroupStatus;
use panch_wire::ids::{GroupId, ReplicaSet};
use panch_wire::resp::{self, CommandName};

/// Counters of one core since its node started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CoreCounters {
    /// Passes of the core loop.
    pub turns: u64,
    /// Packets to peers.
    pub packets: u64,
    /// Bytes to peers.
    pub peer_bytes: u64,
    /// Messages dropped: to a peer that is not connected or whose queue is full, from a peer or between cores for want of
    /// memory.
    pub dropped_messages: u64,
    /// Log writes.
    pub log_writes: u64,
    /// Bytes of log writes.
    pub log_bytes: u64,
    /// `io_uring_enter` calls.
    pub ring_enters: u64,
    /// Times the core slept.
    pub parks: u64,
    /// Connections of clients whose next request waits for room.
    pub connections_waiting: u64,
    /// Client connections open.
    pub connections: u64,
    /// Client connections ever accepted.
    pub connections_accepted: u64,
    /// Connections refused, of clients and peers, because there were too many.
    pub connections_refused: u64,
    /// Requests of clients.
    pub requests: u64,
    /// Connections of clients ended because of their bytes.
    pub client_faults: u64,
    /// Connections of clients ended because they let memory lie that others needed.
    pub clients_evicted: u64,
    /// Connections of peers ended because of their bytes.
    pub peer_faults: u64,
    /// Times that what is remembered of other nodes was written to its file; counted by the first core.
    pub peer_memory_writes: u64,
    /// For how long (ms) small files could not be written, because the disk hangs or fails; 0 if they can. Counted by the first core.
    pub note_trouble_ms: u64,
    /// Bytes of frame memory in use.
    pub frames_used: u64,
    /// Cores whose log refuses proposals, because no further segment of it can be prepared.
    pub disk_full: u64,
    /// Nodes to which a core has no stream.
    pub peers_down: ReplicaSet,
}

impl CoreCounters {
    /// Adds another core's.
    pub fn add(&mut self, other: &CoreCounters) {
        let CoreCounters {
            turns,
            packets,
            peer_bytes,
            dropped_messages,
            log_writes,
            log_bytes,
            ring_enters,
            parks,
            connections_waiting,
            connections,
            connections_accepted,
            connections_refused,
            requests,
            client_faults,
            clients_evicted,
            peer_faults,
            peer_memory_writes,
            note_trouble_ms,
            frames_used,
            disk_full,
            peers_down,
        } = other;
        self.turns += turns;
        self.packets += packets;
        self.peer_bytes += peer_bytes;
        self.dropped_messages += dropped_messages;
        self.log_writes += log_writes;
        self.log_bytes += log_bytes;
        self.ring_enters += ring_enters;
        self.parks += parks;
        self.connections_waiting += connections_waiting;
        self.connections += connections;
        self.connections_accepted += connections_accepted;
        self.connections_refused += connections_refused;
        self.requests += requests;
        self.client_faults += client_faults;
        self.clients_evicted += clients_evicted;
        self.peer_faults += peer_faults;
        self.peer_memory_writes += peer_memory_writes;
        self.note_trouble_ms += note_trouble_ms;
        self.frames_used += frames_used;
        self.disk_full += disk_full;
        for peer in peers_down.iter() {
            self.peers_down.insert(peer);
        }
    }

    /// What `panchd status` looks at first, as lines of INFO: whether the disk has no room for more log, and the numbers of the nodes to which
    /// there is no stream.
    pub(crate) fn health(&self) -> [(&'static str, String); 2] {
        let down: Vec<String> = self.peers_down.iter().map(|id| (u64::from(id.0) + 1).to_string()).collect();
        [("disk_full", u8::from(self.disk_full > 0).to_string()), ("peers_down", down.join(","))]
    }

    /// The same for the groups of one core, whose counters these are, as fields of their lines in INFO: how many of the nodes it reaches,
    /// this one included, and whether its log has no room. Other cores have streams and logs of their own.
    pub(crate) fn health_of_groups(&self, node_count: usize) -> String {
        let reached = node_count.saturating_sub(self.peers_down.count());
        format!("reached={reached},log_full={}", u8::from(self.disk_full > 0))
    }
}

/// How often each command was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandCounts {
    /// By [`CommandName`]: taken in.
    calls: Box<[u64]>,
    /// Refused for what it looked like.
    rejected: Box<[u64]>,
}

impl Default for CommandCounts {
    fn default() -> Self {
        let none = || vec![0; resp::TABLE.len()].into();
        Self { calls: none(), rejected: none() }
    }
}

impl CommandCounts {
    /// One was taken in.
    pub(crate) fn call(&mut self, name: CommandName) {
        self.calls[name as usize] += 1;
    }

    /// One was refused.
    pub(crate) fn reject(&mut self, name: CommandName) {
        self.rejected[name as usize] += 1;
    }

    fn merge(&mut self, other: &Self, change: impl Fn(u64, u64) -> u64) {
        let pairs = [(&mut self.calls, &other.calls), (&mut self.rejected, &other.rejected)];
        for (mine, theirs) in pairs {
            mine.iter_mut().zip(theirs.iter()).for_each(|(mine, theirs)| *mine = change(*mine, *theirs));
        }
    }

    /// Adds another core's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.merge(other, |mine, theirs| mine + theirs);
    }

    /// Takes away what was counted before.
    pub(crate) fn since(&mut self, before: &Self) {
        self.merge(before, u64::saturating_sub);
    }

    /// Of each command that was asked for: its name, how often it was taken in, and refused.
    pub(crate) fn asked(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let counts = self.calls.iter().zip(self.rejected.iter());
        let named = resp::TABLE.iter().zip(counts);
        named
            .map(|(info, (calls, rejected))| (info.name, *calls, *rejected))
            .filter(|(_, calls, rejected)| calls + rejected > 0)
    }
}

/// What one core shows to the others.
#[derive(Clone, Debug, Default)]
pub struct CoreReport {
    /// Its counters.
    pub counters: CoreCounters,
    /// Its groups.
    pub groups: Vec<GroupStatus>,
    /// Latencies of all its groups together.
    pub latencies: Latencies,
    /// What its RESP clients asked for.
    pub commands: CommandCounts,
}

/// One core's place in the [`Reports`].
#[derive(Debug, Default)]
struct Place {
    report: Mutex<CoreReport>,
    /// Keys in its groups. Not part of the report: a reply to a command must not overtake what the command did to it.
    keys: AtomicU64,
    /// Bytes of memory that the data of its groups take.
    data_size: AtomicU64,
}

/// The reports of all cores of a node.
#[derive(Debug)]
pub struct Reports {
    cores: Vec<Place>,
    /// By group: no value is longer.
    value_size_bounds: Vec<AtomicUsize>,
    /// How often the disk had no room for something.
    shortages: AtomicU64,
    /// What the counters were when INFO was last told to count from there on.
    since: Mutex<(CoreCounters, CommandCounts)>,
}

impl Reports {
    /// Empty reports for `cores` cores and `groups` groups.
    pub fn new(cores: usize, groups: usize) -> Self {
        Self {
            cores: (0..cores).map(|_| Place::default()).collect(),
            value_size_bounds: (0..groups).map(|_| AtomicUsize::new(0)).collect(),
            shortages: AtomicU64::new(0),
            since: Mutex::default(),
        }
    }

    /// The disk has no room for something of a core: the others may have files to spare.
    pub(crate) fn note_shortage(&self) {
        self.shortages.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    pub(crate) fn shortages(&self) -> u64 {
        self.shortages.load(Ordering::Relaxed)
    }

    /// The report of one core.
    pub fn core(&self, core: usize) -> MutexGuard<'_, CoreReport> {
        self.cores[core].report.lock().expect("no core panics while it holds its report: a panic aborts")
    }

    /// All counters added up.
    pub fn counters(&self) -> CoreCounters {
        let mut sum = CoreCounters::default();
        for core in 0..self.cores.len() {
            sum.add(&self.core(core).counters);
        }
        sum
    }

    /// Every group's status, by group.
    pub fn groups(&self) -> Vec<GroupStatus> {
        let mut groups = Vec::new();
        for core in 0..self.cores.len() {
            groups.extend_from_slice(&self.core(core).groups);
        }
        groups.sort_unstable_by_key(|status| status.group);
        groups
    }

    /// Keys in the groups of all cores, as of the end of their last turns: those of this node's commands that were answered are in it.
    pub fn keys(&self) -> u64 {
        self.cores.iter().map(|place| place.keys.load(Ordering::Acquire)).sum()
    }

    /// The groups of `core` have so many keys. Said before any reply to the commands that made them leaves the core.
    pub(crate) fn set_keys(&self, core: usize, keys: u64) {
        self.cores[core].keys.store(keys, Ordering::Release);
    }

    /// No value of the group was longer at the end of the last turn of its core.
    pub(crate) fn value_size_bound(&self, group: GroupId) -> usize {
        self.value_size_bounds[group.index()].load(Ordering::Relaxed)
    }

    /// No value of the group is longer. It changes rarely, so that others have it in their caches.
    pub(crate) fn set_value_size_bound(&self, group: GroupId, bound: usize) {
        if self.value_size_bound(group) != bound {
            self.value_size_bounds[group.index()].store(bound, Ordering::Relaxed);
        }
    }

    /// Bytes of memory that the data of all cores take, a little while ago.
    pub fn data_size(&self) -> u64 {
        self.cores.iter().map(|place| place.data_size.load(Ordering::Relaxed)).sum()
    }

    /// The data of the groups of `core` take so many bytes of memory.
    pub(crate) fn set_data_size(&self, core: usize, size: u64) {
        self.cores[core].data_size.store(size, Ordering::Relaxed);
    }

    /// The counters from which INFO counts.
    pub(crate) fn since(&self) -> MutexGuard<'_, (CoreCounters, CommandCounts)> {
        self.since.lock().expect("nobody panics with it: a panic aborts")
    }
}

#[cfg(test)]
mod tests {
    use panch_wire::ids::ReplicaId;

    use super::*;

    #[test]
    fn commands_are_counted_by_their_names_from_when_they_are_told_to() {
        let (mut one, mut two) = (CommandCounts::default(), CommandCounts::default());
        one.call(CommandName::Get);
        let before = one.clone();
        one.call(CommandName::Get);
        two.call(CommandName::Get);
        two.reject(CommandName::Unwatch);
        one.add(&two);
        one.since(&before);
        assert_eq!(one.asked().collect::<Vec<_>>(), [("get", 2, 0), ("unwatch", 0, 1)]);
    }

    #[test]
    fn keys_are_those_of_all_cores() {
        let reports = Reports::new(3, 1);
        reports.set_keys(0, 5);
        reports.set_keys(2, 7);
        reports.set_keys(0, 4);
        assert_eq!(reports.keys(), 11);
    }

    #[test]
    fn a_node_misses_whom_one_of_its_cores_misses() {
        let mut one = CoreCounters { disk_full: 1, ..CoreCounters::default() };
        let mut two = CoreCounters::default();
        assert_eq!(two.health().map(|(_, value)| value), ["0", ""]);
        one.peers_down.insert(ReplicaId(2));
        two.peers_down.insert(ReplicaId(0));
        two.peers_down.insert(ReplicaId(2));
        assert_eq!(one.health_of_groups(3), "reached=2,log_full=1");
        assert_eq!(two.health_of_groups(3), "reached=1,log_full=0");
        one.add(&two);
        assert_eq!(one.health(), [("disk_full", "1".to_owned()), ("peers_down", "1,3".to_owned())]);
    }
}
