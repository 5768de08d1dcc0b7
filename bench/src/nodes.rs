//! Nodes of panch in processes of their own, where all servers of an experiment run, and a load that needs no other program.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use panch_loadgen::cluster::{Cluster, ClusterPlan};
use panch_loadgen::connection::{PIPELINE_MAX, Protocol};
use panch_loadgen::control;
use panch_loadgen::drive::run_name;
use panch_loadgen::engine::{self, Outcome, Plan};
use panch_loadgen::host::{self, Environment};
use panch_loadgen::keys::KeyDistribution;
use panch_loadgen::progress::Progress;
use panch_loadgen::schedule::Load;
use panch_loadgen::truth::{Snapshot, scrape};
use panch_loadgen::workload::{Mix, Workload};
use panch_wire::client::ReadLevel;

use crate::failure::{Failure, check};

/// How many nodes a cluster has here.
pub(crate) const REPLICAS: u8 = 3;
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads how many connections or outstanding requests there are to be: with none nothing is measured.
pub(crate) fn some() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=PIPELINE_MAX as u64)
}

/// Where the nodes come from and where they live.
#[derive(Args, Clone, Debug)]
pub struct NodesArgs {
    /// The daemon [default: panchd beside this program, else on PATH]
    #[arg(long, value_name = "PATH")]
    pub panchd: Option<PathBuf>,
    /// Where folders with data are made; must be on a disk [default: the system's folder for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Overrides a key of the nodes' configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// On which CPUs the servers of an experiment run: decided once for all that are there at the same time, so that none has what another has
/// not.
pub(crate) struct Placement {
    servers: usize,
    /// The CPUs that this process may use.
    cpus: Vec<usize>,
    /// How many of them have nodes.
    taken: usize,
}

impl Placement {
    /// For so many servers, those of Redis included.
    pub(crate) fn new(servers: usize) -> Self {
        Self { servers, cpus: host::allowed_cpus(), taken: 0 }
    }

    /// Whether there is no CPU for each server and one for the load. Then nobody is pinned and no node spins: it would steal from the one
    /// that has work.
    fn is_crowded(&self) -> bool {
        self.cpus.len() <= self.servers
    }

    /// The CPUs of the next so many nodes; none if the kernel places them.
    fn take(&mut self, nodes: usize) -> Vec<usize> {
        if self.is_crowded() {
            return Vec::new();
        }
        let taken = self.cpus.iter().copied().skip(self.taken).take(nodes).collect();
        self.taken += nodes;
        taken
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.is_crowded() {
            "nobody is pinned, and nodes of panch park when they are idle"
        } else {
            "each node of panch is pinned to one of its own, and the kernel places the others"
        };
        write!(f, "{} and the load on {} CPUs: {how}", self.servers, self.cpus.len())
    }
}

impl NodesArgs {
    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    fn daemon(&self) -> PathBuf {
        let beside = || std::env::current_exe().ok().map(|own| own.with_file_name("panchd"));
        self.panchd
            .clone()
            .or_else(|| beside().filter(|path| path.is_file()))
            .or_else(|| on_path("panchd"))
            .unwrap_or_else(|| beside().unwrap_or_default())
    }

    /// Starts so many nodes and waits until they serve.
    pub(crate) fn start(
        &self,
        replicas: u8,
        placement: &mut Placement,
        stop: &AtomicBool,
    ) -> Result<Nodes, Failure> {
        check(stop)?;
        let plan = ClusterPlan {
            panchd: self.daemon(),
            replicas,
            groups: 1,
            durability: "sync".to_owned(),
            folder: self.folder(),
            overrides: self.overrides.clone(),
            cpus: placement.take(usize::from(replicas)),
            crowded: placement.is_crowded(),
            keep: false,
        };
        Ok(Nodes { cluster: Cluster::start(&plan, PATIENCE, stop)? })
    }

    /// What must stand beside every number.
    pub(crate) fn heading(&self, placement: &Placement) -> String {
        let environment = Environment::read();
        let folder = self.folder();
        let kind = host::file_system(&folder);
        let loud =
            if kind == "tmpfs" || kind == "ramfs" { ": MEMORY, NOT A DISK; name one with --dir" } else { "" };
        let settings = match self.overrides.as_slice() {
            [] => String::new(),
            overrides => format!("settings {}\n", overrides.join(" ")),
        };
        format!(
            "kernel   Linux {}\nmachine  {}, {} CPUs, {:.1} GiB memory\nservers  {placement}\ndata     {} ({kind} on {}){loud}\n{}{settings}",
            environment.kernel,
            environment.cpu,
            environment.cores,
            environment.memory as f64 / f64::from(1 << 30),
            folder.display(),
            host::disk(&folder).unwrap_or_else(|| "no disk that can be named".to_owned()),
            host::commit().map(|commit| format!("commit   {commit}\n")).unwrap_or_default(),
        )
    }
}

/// The program `name` in one of the folders of PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// What an answered write is worth in a durability mode, by its name.
pub(crate) fn durability_words(mode: &str) -> String {
    let worth = match mode {
        "sync" => "an answered write is synced (O_DIRECT + DSYNC) on a majority of the nodes",
        "periodic" => "A POWER FAILURE LOSES THE LAST ANSWERED WRITES, which are synced later",
        "memory" => "NOTHING IS WRITTEN TO DISK",
        _ => "nobody knows here what an answered write is worth",
    };
    format!("durability {mode}: {worth}")
}

/// Why a run that was one of the leader's is none, if other nodes lead than before: their positions.
pub(crate) fn change_of_leaders(before: &[usize], after: &[usize]) -> Option<String> {
    let named = |leaders: &[usize]| match leaders {
        [] => "nobody".to_owned(),
        _ => leaders.iter().map(|index| format!("node {}", index + 1)).collect::<Vec<_>>().join(" and "),
    };
    (before != after).then(|| format!("{} led before it, and {} after it", named(before), named(after)))
}

/// A running cluster.
pub(crate) struct Nodes {
    cluster: Cluster,
}

/// SETs: a closed loop, as long as its plan is not changed.
pub(crate) struct Writes {
    pub(crate) targets: Vec<SocketAddr>,
    pub(crate) protocol: Protocol,
    pub(crate) connections: usize,
    pub(crate) pipeline: usize,
    pub(crate) requests: u64,
    pub(crate) keys: KeyDistribution,
    pub(crate) key_count: u64,
}

impl Nodes {
    /// Native and RESP address of each node.
    pub(crate) fn addresses(&self) -> Vec<panch_loadgen::cluster::Addresses> {
        self.cluster.addresses()
    }

    /// The nodes' processes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.cluster.sources().iter().filter_map(|source| source.process).collect()
    }

    pub(crate) fn check_alive(&mut self) -> Result<(), Failure> {
        Ok(self.cluster.check_alive()?)
    }

    /// The counters of every node.
    pub(crate) fn counters(&self) -> Result<Vec<Snapshot>, Failure> {
        self.counters_of(self.cluster.sources().len())
    }

    /// The counters of the first so many nodes.
    pub(crate) fn counters_of(&self, count: usize) -> Result<Vec<Snapshot>, Failure> {
        let sources = self.cluster.sources();
        let nodes = scrape(&sources[..count]).into_iter().collect::<Option<Vec<_>>>();
        nodes.ok_or_else(|| Failure::Spoilt("a node does not answer INFO".to_owned()))
    }

    /// The durability mode that the nodes themselves name, whatever they were started with.
    pub(crate) fn durability(&self) -> Result<String, Failure> {
        let modes = self.counters()?.into_iter().map(|node| node.durability);
        let mut modes: Vec<String> =
            modes.map(|mode| mode.unwrap_or_else(|| "not told".to_owned())).collect();
        modes.sort_unstable();
        modes.dedup();
        Ok(modes.join("/"))
    }

    /// The positions of the nodes that say that they lead.
    pub(crate) fn leaders(&self) -> Result<Vec<usize>, Failure> {
        let nodes = self.counters()?;
        Ok((0..nodes.len()).filter(|index| nodes[*index].leads).collect())
    }

    /// The position of the node that leads.
    pub(crate) fn leader(&self) -> Result<usize, Failure> {
        first_leader(&self.leaders()?)
    }

    /// CPU time that each node has used.
    pub(crate) fn cpu(&self) -> Vec<Duration> {
        self.processes()
            .into_iter()
            .map(|process| host::process_cpu_time(process).unwrap_or_default())
            .collect()
    }

    /// Keys that the node at `index` has.
    pub(crate) fn keys(&self, index: usize) -> Result<u64, Failure> {
        self.info_number(index, "keyspace", "keys=")
    }

    /// Bytes of frame memory that the node at `index` uses.
    pub(crate) fn frame_memory(&self, index: usize) -> Result<u64, Failure> {
        self.info_number(index, "memory", "frames_used:")
    }

    /// The number behind `name` in a section of INFO; 0 if it is not there.
    fn info_number(&self, index: usize, section: &str, name: &str) -> Result<u64, Failure> {
        let address = self.addresses()[index].resp;
        let text = control::info(address, section, Duration::from_secs(2)).map_err(Failure::io("INFO"))?;
        let (_, rest) = text.split_once(name).unwrap_or_default();
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Ok(rest[..end].parse().unwrap_or(0))
    }
}

impl Writes {
    /// As the load generator is told it.
    pub(crate) fn plan(&self) -> Plan {
        Plan {
            targets: self.targets.clone(),
            protocol: self.protocol,
            connections: self.connections,
            pipeline: self.pipeline,
            threads: 1,
            cpus: Vec::new(),
            load: Load::Closed,
            workload: Workload {
                mix: Mix::WRITES,
                keys: self.keys,
                key_count: self.key_count,
                key_size: 16,
                value_size: 16,
                read_level: ReadLevel::Quorum,
                seed: 1,
            },
            run: run_name(),
            warm_up: Duration::ZERO,
            repeat_after: None,
            direct: None,
            duration: Duration::from_secs(3600),
            count: Some(self.requests),
            drain: Duration::from_secs(10),
            connect_timeout: PATIENCE,
            spin: Duration::ZERO,
            check: false,
        }
    }

    /// Runs to the last answer; every one must be good.
    ///
    /// # Errors
    /// If a request failed.
    pub(crate) fn run(&self, stop: &AtomicBool) -> Result<Outcome, Failure> {
        let outcome = engine::run(&self.plan(), stop, &mut Progress::silent())?;
        check(stop)?;
        let counts = &outcome.recorder.counts;
        if counts.errors() > 0 || counts.disconnects > 0 {
            let why = outcome.recorder.errors.first().map_or("a connection was lost", |(text, _)| text);
            return Err(Failure::Spoilt(format!(
                "{} of {} requests failed: {why}",
                counts.errors(),
                self.requests
            )));
        }
        Ok(outcome)
    }
}

/// The first of the nodes that lead.
pub(crate) fn first_leader(leaders: &[usize]) -> Result<usize, Failure> {
    leaders.first().copied().ok_or_else(|| Failure::Spoilt("no node leads".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(servers: usize, cpus: usize) -> Placement {
        Placement { servers, cpus: (0..cpus).collect(), taken: 0 }
    }

    #[test]
    fn with_fewer_cpus_than_servers_and_the_load_no_cluster_is_pinned_however_small_it_is() {
        let mut crowded = placement(6, 6);
        assert!(crowded.take(1).is_empty() && crowded.take(3).is_empty());
        assert!(crowded.to_string().starts_with("6 and the load on 6 CPUs: nobody is pinned"), "{crowded}");
    }

    #[test]
    fn with_enough_cpus_no_two_nodes_share_one_though_they_are_of_different_clusters() {
        let mut roomy = placement(6, 7);
        assert_eq!((roomy.take(1), roomy.take(3)), (vec![0], vec![1, 2, 3]));
        assert!(!roomy.is_crowded() && roomy.to_string().contains("pinned to one of its own"), "{roomy}");
    }

    #[test]
    fn the_settings_stand_in_the_heading_and_weak_durability_is_loud() {
        let nodes = NodesArgs {
            panchd: None,
            dir: None,
            overrides: vec!["node.durability=memory".to_owned(), "node.idle=park".to_owned()],
        };
        let heading = nodes.heading(&placement(6, 2));
        assert!(heading.contains("\nsettings node.durability=memory node.idle=park\n"), "{heading}");
        let plain = NodesArgs { overrides: Vec::new(), ..nodes }.heading(&placement(6, 2));
        assert!(!plain.contains("settings"), "{plain}");
        assert!(durability_words("sync").ends_with("on a majority of the nodes"));
        for (mode, part) in [("memory", "NOTHING"), ("periodic", "LOSES"), ("sync/memory", "nobody knows")] {
            assert!(durability_words(mode).contains(part), "{mode}");
        }
    }

    #[test]
    fn another_leader_or_none_or_two_is_a_change() {
        assert_eq!(change_of_leaders(&[1], &[1]), None);
        for (after, text) in [
            (&[2][..], "node 2 led before it, and node 3 after it"),
            (&[], "node 2 led before it, and nobody after it"),
            (&[0, 1], "node 2 led before it, and node 1 and node 2 after it"),
        ] {
            assert_eq!(change_of_leaders(&[1], after).as_deref(), Some(text));
        }
        assert!(first_leader(&[]).is_err());
        assert_eq!(first_leader(&[1, 2]).unwrap(), 1);
    }
}
