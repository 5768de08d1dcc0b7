//! What the servers themselves count: scraped from INFO before and after a run, compared with what clients saw.
//!
//! Invariant: a counter that a server does not have is absent, never zero.

use std::collections::BTreeMap;
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
}

impl Snapshot {
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
        // Redis says it itself; everybody else only if the process is on this machine.
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
        let mut text = control::info(self.address, "panch", patience).unwrap_or_default();
        text.push('\n');
        text.push_str(&control::info(self.address, "cpu", patience).unwrap_or_default());
        text.push('\n');
        text.push_str(&control::info(self.address, "server", patience).unwrap_or_default());
        let mut snapshot = Snapshot::parse(&text);
        // A server on this machine says which process it is, unless the caller knows.
        let told = snapshot.counters.get("process_id").filter(|_| self.address.ip().is_loopback());
        if let Some(process) = self.process.or(told.map(|process| *process as u32)) {
            snapshot.cpu = host::process_cpu_time(process).or(snapshot.cpu);
        }
        (snapshot != Snapshot::default()).then_some(snapshot)
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
    /// Growth of each counter over all servers. Only of servers that answered both times.
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
    /// What it used; `None` if that is not known.
    pub used: Option<Duration>,
}

impl Truth {
    /// The difference of two scrapes of the same sources.
    pub fn between(before: &[Option<Snapshot>], after: &[Option<Snapshot>]) -> Self {
        let mut truth = Self::default();
        let mut modes: Vec<&str> = Vec::new();
        for (index, pair) in before.iter().zip(after).enumerate() {
            let (Some(before), Some(after)) = pair else {
                truth.cpu.push(ProcessCpu { name: format!("server {}", index + 1), used: None });
                continue;
            };
            let is_restarted = before.counters.get("process_id") != after.counters.get("process_id");
            for (key, value) in &after.counters {
                let peak = truth.peaks.entry(key.clone()).or_insert(*value);
                *peak = peak.max(*value);
                if let Some(earlier) = before.counters.get(key) {
                    // A counter that went back belongs to a process that was restarted: it starts from zero.
                    let growth = if is_restarted || value < earlier { *value } else { value - earlier };
                    *truth.growth.entry(key.clone()).or_default() += growth;
                }
            }
            for (name, buckets) in &after.histograms {
                let earlier = before.histograms.get(name).filter(|_| !is_restarted);
                let sum = truth.histograms.entry(name.clone()).or_default();
                for (upper, count) in buckets {
                    let counted = earlier.and_then(|earlier| earlier.get(upper)).unwrap_or(&0);
                    *sum.entry(*upper).or_default() += count.saturating_sub(*counted);
                }
            }
            modes.extend(after.durability.as_deref());
            truth.versions.extend(after.version.clone());
            truth.cpu.push(ProcessCpu {
                name: match (after.node, after.leads) {
                    (Some(node), true) => format!("node {node} (leader)"),
                    (Some(node), false) => format!("node {node}"),
                    (None, _) => format!("server {}", index + 1),
                },
                used: before
                    .cpu
                    .zip(after.cpu)
                    .map(|(before, after)| if is_restarted { after } else { after.saturating_sub(before) }),
            });
        }
        modes.sort_unstable();
        modes.dedup();
        truth.versions.sort_unstable();
        truth.versions.dedup();
        truth.durability = (!modes.is_empty()).then(|| modes.join("/"));
        truth
    }

    /// How much a counter grew over all servers; `None` if no server has it.
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

    /// The largest value of a counter at the end over all servers; `None` if no server has it.
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
    fn growth_is_summed_over_servers_and_a_restart_counts_from_zero() {
        let at = |commands: f64, batches: f64| {
            let text = INFO
                .replace("commands_total:100", &format!("commands_total:{commands}"))
                .replace("batches_total:10", &format!("batches_total:{batches}"));
            Some(Snapshot::parse(&text))
        };
        let truth = Truth::between(&[at(100.0, 10.0), at(50.0, 5.0)], &[at(300.0, 20.0), at(20.0, 10.0)]);
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
        let truth = Truth::between(&of(7, 3.0), &of(8, 4.0));
        assert_eq!(
            (truth.growth("commands_total"), truth.cpu[0].used),
            (Some(4.0), Some(Duration::from_secs(4)))
        );
        assert_eq!(truth.cpu_total(), Some(Duration::from_secs(4)));
    }

    #[test]
    fn quantiles_are_of_what_histograms_gained_over_all_servers() {
        let at = |process: u32, buckets: &str| {
            Some(Snapshot::parse(&format!("process_id:{process}\ncommit_us_histogram:{buckets}\n")))
        };
        let before = [at(1, "10=50,200=7"), at(2, "10=1000")];
        let after = [at(1, "10=50,20=40,200=57"), at(3, "10=8,3000=2")];
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
