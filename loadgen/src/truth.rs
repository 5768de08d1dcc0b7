//! What the servers themselves count: scraped from INFO before and after a run, compared with what clients saw.
//!
//! Invariants:
//! * A counter that a server does not have is absent, never zero.
//! * What is said of the servers together is the sum over all of them. If one of them could not be read or was restarted meanwhile, or they
//!   are not the whole cluster, there is no sum, and the reason names the node.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::control;
use crate::host;

/// What a server says of one group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupLine {
    /// How the group decides, if it says.
    pub protocol: Option<String>,
    /// Digest of the group's state, if it says.
    pub digest: Option<String>,
    /// How many positions of its log or instance space it has executed, if it says.
    pub executed: Option<u64>,
}

impl GroupLine {
    /// Reads fields such as `leader=1,digest=00ff`.
    fn parse(value: &str) -> Self {
        let field = |name: &str| {
            let mut fields = value.split(',').filter_map(|field| field.split_once('='));
            fields.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let executed = field("executed").and_then(|text| text.parse().ok());
        Self { protocol: field("protocol"), digest: field("digest"), executed }
    }
}

/// Counts by the upper bound of what they count.
pub type Histogram = BTreeMap<u64, u64>;

/// Reads `upper=count,upper=count,..`; `None` if it is anything else.
fn parse_histogram(value: &str) -> Option<Histogram> {
    let bucket = |text: &str| {
        let (upper, count) = text.split_once('=')?;
        Some((upper.parse().ok()?, count.parse().ok()?))
    };
    value.split(',').filter(|text| !text.is_empty()).map(bucket).collect()
}

/// Servers that say in a field `NAME_version` which version of what they are.
const PROGRAMS: &[&str] = &["panch", "valkey", "keydb", "dragonfly", "redis"];

/// Counters of one server at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    /// Numbers by name.
    pub counters: BTreeMap<String, f64>,
    /// Histograms by name, without the `_histogram` at its end.
    pub histograms: BTreeMap<String, Histogram>,
    /// The durability mode, if it says.
    pub durability: Option<String>,
    /// Which program it is, and of which version, if it says: `panch 0.1.0`.
    pub version: Option<String>,
    /// Its number in the cluster, if it says.
    pub node: Option<u64>,
    /// Whether it leads some group.
    pub leads: bool,
    /// What it says of each of its groups.
    pub groups: BTreeMap<String, GroupLine>,
    /// CPU time of its process, if it can be known.
    pub cpu: Option<Duration>,
    /// How many nodes its cluster has, if it says.
    pub cluster_size: Option<usize>,
}

/// The counter of commands, which every node of panch has.
const COMMANDS: &str = "commands_total";
/// The number of the server's process.
const PROCESS: &str = "process_id";

impl Snapshot {
    /// Whether another process has told `earlier`, or this one counted anew: some number that only grows is smaller.
    fn is_restarted_since(&self, earlier: &Self) -> bool {
        let is_other = |name: &str| {
            let pair = earlier.counters.get(name).zip(self.counters.get(name));
            pair.is_some_and(|(before, after)| before != after)
        };
        let grows = |name: &str| {
            name.ends_with("_total") || name.starts_with("counter_") || name == "uptime_in_seconds"
        };
        is_other(PROCESS)
            || is_other("incarnation")
            || self.counters.iter().any(|(name, value)| {
                grows(name) && earlier.counters.get(name).is_some_and(|before| value < before)
            })
    }

    /// Reads the lines of INFO, whichever sections they come from.
    pub fn parse(text: &str) -> Self {
        let mut snapshot = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once(':') else { continue };
            if key.starts_with("group_") {
                snapshot.leads |= value.split(',').any(|field| field == "leading=1");
                snapshot.groups.insert(key.to_owned(), GroupLine::parse(value));
            } else if key == "durability" {
                snapshot.durability = Some(value.to_owned());
            } else if let Some(program) = key.strip_suffix("_version").filter(|name| PROGRAMS.contains(name))
            {
                // Others say besides which version of Redis they behave like.
                if program != "redis" || snapshot.version.is_none() {
                    snapshot.version = Some(format!("{program} {value}"));
                }
            } else if let Some(name) = key.strip_suffix("_histogram") {
                let histogram = parse_histogram(value);
                snapshot.histograms.extend(histogram.map(|histogram| (name.to_owned(), histogram)));
            } else if let Ok(number) = value.parse::<f64>() {
                snapshot.counters.insert(key.to_owned(), number);
            }
        }
        let number = |name: &str| snapshot.counters.get(name).copied();
        snapshot.node = number("node_id").map(|node| node as u64);
        snapshot.cluster_size = number("cluster_known_nodes").map(|count| count as usize);
        snapshot.cpu = number("used_cpu_user")
            .zip(number("used_cpu_sys"))
            .map(|(user, system)| Duration::from_secs_f64((user + system).max(0.0)));
        snapshot
    }
}

/// One server whose counters are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// Its RESP address.
    pub address: SocketAddr,
    /// Its process, if it runs on this machine.
    pub process: Option<u32>,
}

impl Source {
    /// Its counters now; `None` if it does not answer.
    pub fn scrape(&self, patience: Duration) -> Option<Snapshot> {
        let mut text = match control::info(self.address, "panch", patience) {
            Ok(text) => text,
            // What a server refuses is one thing. Whoever does not answer is not asked again: that would cost the whole patience each time.
            Err(error) if error.kind() == io::ErrorKind::Other => String::new(),
            Err(_) => return None,
        };
        text.push('\n');
        text.push_str(&control::info(self.address, "cpu", patience).unwrap_or_default());
        text.push('\n');
        text.push_str(&control::info(self.address, "server", patience).unwrap_or_default());
        text.push('\n');
        text.push_str(&control::cluster_info(self.address, patience).unwrap_or_default());
        let mut snapshot = Snapshot::parse(&text);
        snapshot.cpu = self.cpu_time(&snapshot);
        (snapshot != Snapshot::default()).then_some(snapshot)
    }

    /// CPU time of the process that told `snapshot`: of the one that the caller knows, else what the server says of itself, else of the
    /// process with the number that it tells. That comes last, because a server in a container tells a number that is another process's
    /// on this machine.
    fn cpu_time(&self, snapshot: &Snapshot) -> Option<Duration> {
        let known = self.process.and_then(host::process_cpu_time);
        let by_number = || {
            let told = snapshot.counters.get(PROCESS).filter(|_| self.address.ip().is_loopback());
            told.and_then(|process| host::process_cpu_time(*process as u32))
        };
        known.or(snapshot.cpu).or_else(by_number)
    }
}

/// Counters of every server at one moment, in the order of the sources.
pub fn scrape(sources: &[Source]) -> Vec<Option<Snapshot>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    sources.iter().map(|source| source.scrape(PATIENCE)).collect()
}

/// What the servers did between two moments.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Truth {
    /// The mode that the servers name; joined by `/` if they differ.
    pub durability: Option<String>,
    /// Which programs the servers are, each once: `panch 0.1.0`.
    pub versions: Vec<String>,
    /// Why there is no sum over all servers, a reason each; empty if there is one, or if the servers count nothing.
    pub missing: Vec<String>,
    /// Growth of each counter over all servers.
    growth: BTreeMap<String, f64>,
    /// What each histogram gained over all servers.
    histograms: BTreeMap<String, Histogram>,
    /// The largest value of each counter at the end, over all servers.
    peaks: BTreeMap<String, f64>,
    /// CPU time of each server's process.
    pub cpu: Vec<ProcessCpu>,
}

/// CPU time of one process.
#[derive(Clone, PartialEq, Debug)]
pub struct ProcessCpu {
    /// What the process is: `node 1 (leader)`.
    pub name: String,
    /// What it used; `None` if that is not known, for example because it was restarted.
    pub used: Option<Duration>,
}

impl Truth {
    /// The difference of two scrapes of the same sources.
    pub fn between(before: &[Option<Snapshot>], after: &[Option<Snapshot>]) -> Self {
        let mut truth = Self::default();
        let mut modes: Vec<&str> = Vec::new();
        let told = || before.iter().chain(after).flatten();
        let pairs: Vec<_> = before.iter().zip(after).collect();
        for (index, (before, after)) in pairs.iter().enumerate() {
            let name = name(index, before.as_ref(), after.as_ref());
            let (Some(before), Some(after)) = (before, after) else {
                let moment = if before.is_none() { "before" } else { "after" };
                truth.missing.push(format!("{name} did not tell its counters {moment} the run"));
                truth.cpu.push(ProcessCpu { name, used: None });
                continue;
            };
            modes.extend(after.durability.as_deref());
            truth.versions.extend(after.version.clone());
            let is_restarted = after.is_restarted_since(before);
            if is_restarted {
                truth.missing.push(format!("{name} was restarted during the run"));
            }
            let used = before.cpu.zip(after.cpu).map(|(before, after)| after.saturating_sub(before));
            let name = if after.leads { format!("{name} (leader)") } else { name };
            truth.cpu.push(ProcessCpu { name, used: used.filter(|_| !is_restarted) });
        }
        modes.sort_unstable();
        modes.dedup();
        truth.versions.sort_unstable();
        truth.versions.dedup();
        truth.durability = (!modes.is_empty()).then(|| modes.join("/"));
        truth.missing.extend(reasons_against_a_sum(after));
        if told().next().is_some()
            && !told().any(|snapshot| snapshot.counters.contains_key(COMMANDS))
            && told().all(|it| it.cpu.is_none())
        {
            // Servers that count nothing lack nothing.
            truth.missing.clear();
        }
        if truth.missing.is_empty() {
            let pairs: Vec<_> =
                pairs.into_iter().filter_map(|(one, other)| one.as_ref().zip(other.as_ref())).collect();
            truth.add_up(&pairs);
        }
        truth
    }

    /// Adds up what each server counted between its two snapshots, as far as all servers count it.
    fn add_up(&mut self, servers: &[(&Snapshot, &Snapshot)]) {
        let Some(((_, first), rest)) = servers.split_first() else { return };
        let all_have = |name: &str| {
            rest.iter().all(|(_, after)| after.counters.contains_key(name))
                && servers.iter().all(|(before, _)| before.counters.contains_key(name))
        };
        for name in first.counters.keys().filter(|name| all_have(name)) {
            let growth =
                |(before, after): &(&Snapshot, &Snapshot)| after.counters[name] - before.counters[name];
            self.growth.insert(name.clone(), servers.iter().map(growth).sum());
            let peak = servers.iter().map(|(_, after)| after.counters[name]).fold(f64::MIN, f64::max);
            self.peaks.insert(name.clone(), peak);
        }
        let all_have = |name: &str| rest.iter().all(|(_, after)| after.histograms.contains_key(name));
        for name in first.histograms.keys().filter(|name| all_have(name)) {
            let sum = self.histograms.entry(name.clone()).or_default();
            for (before, after) in servers {
                let earlier = before.histograms.get(name);
                for (upper, count) in &after.histograms[name] {
                    let counted = earlier.and_then(|earlier| earlier.get(upper)).unwrap_or(&0);
                    *sum.entry(*upper).or_default() += count.saturating_sub(*counted);
                }
            }
        }
    }

    /// How much a counter grew over all servers; `None` if there is no sum, or not every server has it.
    pub fn growth(&self, name: &str) -> Option<f64> {
        self.growth.get(name).copied()
    }

    /// The bound below which the part `quantile` of what a histogram gained over all servers lies; `None` if it gained nothing.
    pub fn quantile(&self, name: &str, quantile: f64) -> Option<u64> {
        let buckets = self.histograms.get(name)?;
        let total: u64 = buckets.values().sum();
        let rank = ((total as f64 * quantile).ceil() as u64).max(1);
        let mut below = 0;
        buckets.iter().find_map(|(upper, count)| {
            below += count;
            (below >= rank).then_some(*upper)
        })
    }

    /// The largest value of a counter at the end over all servers; `None` if there is no sum, or not every server has it.
    pub fn peak(&self, name: &str) -> Option<f64> {
        self.peaks.get(name).copied()
    }

    /// How much each counter grew over all servers, by name.
    pub fn growths(&self) -> impl Iterator<Item = (&str, f64)> {
        self.growth.iter().map(|(name, growth)| (name.as_str(), *growth))
    }

    /// CPU time of all servers' processes together; `None` unless it is known of each.
    pub fn cpu_total(&self) -> Option<Duration> {
        let used: Option<Duration> = self.cpu.iter().map(|process| process.used).sum();
        used.filter(|_| !self.cpu.is_empty())
    }

    /// Growth of one counter per growth of another; `None` if one is missing or the divisor did not grow.
    pub fn ratio(&self, name: &str, per: &str) -> Option<f64> {
        let divisor = self.growth(per).filter(|divisor| *divisor > 0.0)?;
        Some(self.growth(name)? / divisor)
    }

    /// Growth of a counter per command that clients saw acknowledged.
    pub fn per_command(&self, name: &str, commands: u64) -> Option<f64> {
        (commands > 0).then(|| self.growth(name).map(|growth| growth / commands as f64)).flatten()
    }
}

/// What a server is called in a report: by its number in the cluster if it ever says that.
fn name(index: usize, before: Option<&Snapshot>, after: Option<&Snapshot>) -> String {
    match after.or(before).and_then(|snapshot| snapshot.node) {
        Some(node) => format!("node {node}"),
        None => format!("server {}", index + 1),
    }
}

/// Why the sum over these servers would not be that over their cluster although each of them was read.
fn reasons_against_a_sum(servers: &[Option<Snapshot>]) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut nodes = Vec::new();
    for server in servers.iter().flatten().filter(|server| server.counters.contains_key(COMMANDS)) {
        let Some(node) = server.node else { continue };
        let process = server.counters.get(PROCESS).map(|process| process.to_bits());
        if process.is_some() && nodes.contains(&(node, process)) {
            reasons.push(format!("node {node} was asked twice"));
        }
        nodes.push((node, process));
    }
    let size = servers.iter().flatten().filter_map(|server| server.cluster_size).max();
    if let Some(size) = size.filter(|size| !nodes.is_empty() && servers.len() < *size) {
        reasons.push(format!(
            "the cluster has {size} nodes, and {} were asked for their counters",
            servers.len()
        ));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Panch\r\nnode_id:2\r\ndurability:sync\r\ncommands_total:100\r\nbatches_total:10\r\n\
                        cluster_id:00ff00ff00ff00fg\r\ngroup_0:leader=2,ballot=3.2,leading=1,lag=0\r\n";

    #[test]
    fn numbers_mode_and_leadership_are_read_and_the_rest_is_left() {
        let snapshot = Snapshot::parse(INFO);
        assert_eq!(snapshot.counters.len(), 3);
        assert_eq!(
            (snapshot.node, snapshot.leads, snapshot.durability.as_deref()),
            (Some(2), true, Some("sync"))
        );
        assert_eq!(snapshot.cpu, None);
        assert_eq!(snapshot.groups["group_0"], GroupLine::default());
        let told = Snapshot::parse("group_3:leader=2,protocol=epaxos,executed=7,digest=00ff,keys=1\n");
        let line = GroupLine {
            protocol: Some("epaxos".to_owned()),
            digest: Some("00ff".to_owned()),
            executed: Some(7),
        };
        assert_eq!(told.groups["group_3"], line);
        let version = |text: &str| Snapshot::parse(text).version;
        let panch = "redis_version:7.2.0\npanch_version:0.1.0\n";
        assert_eq!(version(panch).as_deref(), Some("panch 0.1.0"));
        assert_eq!(version("valkey_version:8.0.1\nredis_version:7.2.4").as_deref(), Some("valkey 8.0.1"));
        assert_eq!(version("redis_version:7.2.4\ngcc_version:12").as_deref(), Some("redis 7.2.4"));
        let redis = Snapshot::parse("# CPU\r\nused_cpu_sys:0.5\r\nused_cpu_user:1.25\r\n");
        assert_eq!(redis.cpu, Some(Duration::from_millis(1750)));
    }

    #[test]
    fn growth_is_summed_over_all_servers() {
        let at = |node: u64, commands: f64, batches: f64| {
            let text = INFO
                .replace("node_id:2", &format!("node_id:{node}"))
                .replace("commands_total:100", &format!("commands_total:{commands}"))
                .replace("batches_total:10", &format!("batches_total:{batches}"));
            Some(Snapshot::parse(&text))
        };
        let truth =
            Truth::between(&[at(2, 100.0, 10.0), at(3, 50.0, 5.0)], &[at(2, 300.0, 20.0), at(3, 70.0, 10.0)]);
        assert_eq!(truth.growth("commands_total"), Some(220.0));
        assert_eq!(truth.ratio("commands_total", "batches_total"), Some(220.0 / 15.0));
        assert_eq!(truth.per_command("commands_total", 110), Some(2.0));
        assert_eq!(truth.durability.as_deref(), Some("sync"));
        assert_eq!((truth.peak("commands_total"), truth.peak("component_max")), (Some(300.0), None));
        assert_eq!(truth.cpu_total(), None);
        assert_eq!(truth.cpu[0], ProcessCpu { name: "node 2 (leader)".to_owned(), used: None });
        let of = |process: u32, cpu: f64| {
            let text =
                format!("process_id:{process}\ncommands_total:{cpu}\nused_cpu_user:{cpu}\nused_cpu_sys:0\n");
            [Some(Snapshot::parse(&text))]
        };
        let truth = Truth::between(&of(7, 3.0), &of(7, 7.0));
        assert_eq!(
            (truth.growth("commands_total"), truth.cpu_total()),
            (Some(4.0), Some(Duration::from_secs(4)))
        );
    }

    #[test]
    fn what_a_server_says_of_its_cpu_time_is_worth_more_than_the_process_that_it_may_be() {
        let own = std::process::id();
        let source = |process: Option<u32>| Source { address: "127.0.0.1:1".parse().unwrap(), process };
        let told = Snapshot::parse(&format!("process_id:{own}\nused_cpu_user:5000000\nused_cpu_sys:0"));
        let silent = Snapshot::parse(&format!("process_id:{own}"));
        assert_eq!(source(None).cpu_time(&told), Some(Duration::from_secs(5_000_000)));
        for (source, snapshot) in [(source(Some(own)), &told), (source(None), &silent)] {
            assert!(source.cpu_time(snapshot).unwrap() < Duration::from_secs(5_000_000));
        }
        let remote = Source { address: "192.0.2.1:1".parse().unwrap(), process: None };
        assert_eq!(remote.cpu_time(&silent), None);
    }

    /// A node of a cluster of three.
    fn node(number: u64, process: u32, commands: u64) -> Option<Snapshot> {
        let text = "batches_total:5\ndurability:sync\ncluster_known_nodes:3\nused_cpu_user:1\nused_cpu_sys:1";
        Some(Snapshot::parse(&format!(
            "node_id:{number}\nprocess_id:{process}\ncommands_total:{commands}\n{text}"
        )))
    }

    #[test]
    fn a_node_that_was_restarted_or_not_read_leaves_no_sum_and_is_named() {
        let before = [node(1, 11, 100), node(2, 12, 100), node(3, 13, 100)];
        let counted = Truth::between(&before, &[node(1, 11, 150), node(2, 12, 150), node(3, 13, 150)]);
        assert_eq!((counted.growth("commands_total"), counted.missing.len()), (Some(150.0), 0));
        let restarted = "node 2 was restarted during the run";
        for (second, reason) in [
            (node(2, 99, 400), restarted),
            (node(2, 12, 99), restarted),
            (None, "node 2 did not tell its counters after the run"),
        ] {
            let truth = Truth::between(&before, &[node(1, 11, 150), second, node(3, 13, 150)]);
            assert_eq!(truth.missing, [reason]);
            assert_eq!((truth.growth("commands_total"), truth.peak("commands_total")), (None, None));
            assert_eq!((truth.ratio("commands_total", "batches_total"), truth.cpu_total()), (None, None));
            let used: Vec<bool> = truth.cpu.iter().map(|process| process.used.is_some()).collect();
            assert_eq!(used, [true, false, true]);
            assert_eq!((truth.durability.as_deref(), truth.cpu[1].name.as_str()), (Some("sync"), "node 2"));
        }
    }

    #[test]
    fn a_part_of_a_cluster_is_not_the_cluster() {
        let one = Truth::between(&[node(1, 11, 100)], &[node(1, 11, 150)]);
        assert_eq!(one.growth("commands_total"), None);
        assert_eq!(one.missing, ["the cluster has 3 nodes, and 1 were asked for their counters"]);
        let twice = [node(1, 11, 100), node(1, 11, 100), node(2, 12, 100)];
        assert_eq!(Truth::between(&twice, &twice).missing, ["node 1 was asked twice"]);
    }

    #[test]
    fn a_counter_that_some_server_lacks_has_no_sum() {
        let at = |text: &str| Some(Snapshot::parse(text));
        let (both, one) = ("commands_total:1\nother_total:1", "commands_total:1");
        for nodes in [[at(both), at(one)], [at(one), at(both)]] {
            let truth = Truth::between(&nodes, &nodes);
            assert_eq!((truth.growth("commands_total"), truth.growth("other_total")), (Some(0.0), None));
        }
    }

    #[test]
    fn quantiles_are_of_what_histograms_gained_over_all_servers() {
        let at = |process: u32, buckets: &str| {
            Some(Snapshot::parse(&format!("process_id:{process}\ncommit_us_histogram:{buckets}\n")))
        };
        let before = [at(1, "10=50,200=7"), at(2, "10=1000")];
        let after = [at(1, "10=50,20=40,200=57"), at(2, "10=1008,3000=2")];
        let truth = Truth::between(&before, &after);
        let quantile = |part| truth.quantile("commit_us", part);
        let told = [0.0, 0.08, 0.48, 0.5, 0.98, 0.99, 1.0].map(quantile);
        assert_eq!(told, [10, 10, 20, 200, 200, 3000, 3000].map(Some));
        assert_eq!(truth.quantile("execution_us", 0.5), None);
        let idle = Truth::between(&[at(1, "10=5")], &[at(1, "10=5")]);
        assert_eq!(idle.quantile("commit_us", 0.5), None);
        for wrong in ["10", "10=x", "10=1;20=2", "a=1"] {
            assert!(at(1, wrong).unwrap().histograms.is_empty(), "{wrong}");
        }
    }

    #[test]
    fn what_is_missing_is_absent_and_not_zero() {
        let truth = Truth::between(&[Some(Snapshot::default()), None], &[Some(Snapshot::parse(INFO)), None]);
        assert_eq!(truth.growth("commands_total"), None);
        assert_eq!(truth.ratio("commands_total", "batches_total"), None);
        assert_eq!(truth.per_command("messages_total", 5), None);
        assert_eq!(truth.cpu.len(), 2);
        assert_eq!(Truth::between(&[], &[]).durability, None);
    }
}
