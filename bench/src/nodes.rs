//! Three durable nodes of panch in processes of their own, and a load for them that needs no other program.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use panch_loadgen::cluster::{Cluster, ClusterPlan};
use panch_loadgen::connection::Protocol;
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
    pub(crate) fn start(&self, replicas: u8, stop: &AtomicBool) -> Result<Nodes, Failure> {
        check(stop)?;
        let cpus = host::allowed_cpus();
        // The load needs a CPU too. If there are too few, a node that spins would steal from the one that has work.
        let crowded = cpus.len() <= usize::from(replicas);
        let plan = ClusterPlan {
            panchd: self.daemon(),
            replicas,
            groups: 1,
            durability: "sync".to_owned(),
            folder: self.folder(),
            overrides: self.overrides.clone(),
            cpus: if crowded { Vec::new() } else { cpus },
            crowded,
            keep: false,
        };
        Ok(Nodes { cluster: Cluster::start(&plan, PATIENCE, stop)? })
    }

    /// What must stand beside every number.
    pub(crate) fn heading(&self) -> String {
        let environment = Environment::read();
        let folder = self.folder();
        let kind = host::file_system(&folder);
        let loud =
            if kind == "tmpfs" || kind == "ramfs" { ": MEMORY, NOT A DISK; name one with --dir" } else { "" };
        format!(
            "kernel   Linux {}\nmachine  {}, {} CPUs, {:.1} GiB memory\ndata     {} ({kind} on {}){loud}\n{}",
            environment.kernel,
            environment.cpu,
            environment.cores,
            environment.memory as f64 / f64::from(1 << 30),
            folder.display(),
            device(&folder).unwrap_or_else(|| "an unknown device".to_owned()),
            host::commit().map(|commit| format!("commit   {commit}\n")).unwrap_or_default(),
        )
    }
}

/// The program `name` in one of the folders of PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The device that the file system of `folder` is on: the longest mount point that is a prefix.
fn device(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        Some((Path::new(place.split(' ').nth(4)?), source.split(' ').nth(1)?))
    });
    // Of mounts at the same place the last one is seen.
    let over = mounts.filter(|(place, _)| folder.starts_with(place));
    over.max_by_key(|(place, _)| place.as_os_str().len()).map(|(_, source)| source.to_owned())
}

/// A running cluster.
pub(crate) struct Nodes {
    cluster: Cluster,
}

/// A closed loop of SETs.
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

    /// The position of the node that leads.
    pub(crate) fn leader(&self) -> Result<usize, Failure> {
        let leads = self.counters()?.iter().position(|node| node.leads);
        leads.ok_or_else(|| Failure::Spoilt("no node leads".to_owned()))
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
