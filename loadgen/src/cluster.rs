//! A cluster of panchd processes on this machine, for the time of a measurement.
//!
//! Invariants:
//! * Whatever ends this process, no node outlives it: the guard kills them, a panic's hook does, and the kernel does
//!   (PDEATHSIG) if nothing else could.
//! * The folder goes with the nodes, unless it is to be kept.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use panch_wire::client::ReadLevel;

use crate::connection::Protocol;
use crate::control::Control;
use crate::stderr;
use crate::truth::Source;
use crate::workload::OperationKind;

/// What kind of cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterPlan {
    /// The daemon's binary.
    pub panchd: PathBuf,
    /// 1 to 9 nodes.
    pub replicas: u8,
    /// Consensus groups.
    pub groups: u16,
    /// `sync`, `periodic` or `memory`.
    pub durability: String,
    /// Where the folder is made.
    pub folder: PathBuf,
    /// Passed on to every node as `--set`.
    pub overrides: Vec<String>,
    /// The CPUs that nodes are spread over, in turn.
    pub cpus: Vec<usize>,
    /// Whether nodes share CPUs with each other or the generator, so that spinning would steal.
    pub crowded: bool,
    /// Leave the folder behind.
    pub keep: bool,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No daemon.
    #[error("there is no panchd at {0}: build it with `cargo build --release`, or name it with --panchd")]
    NoDaemon(PathBuf),
    /// The folder or a file.
    #[error("cannot make {path}: {error}")]
    Files {
        /// What.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A node could not be started.
    #[error("cannot start {path}: {error}")]
    Start {
        /// The daemon.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A node has ended.
    #[error("node {node} ended by itself ({status}); its last words:\n{log}")]
    Ended {
        /// Which.
        node: u8,
        /// How.
        status: String,
        /// The end of its output.
        log: String,
    },
    /// The nodes run, but do not serve.
    #[error("the nodes do not serve after {} s: node {node}: {reason}; its last words:\n{log}", .patience.as_secs())]
    NotServing {
        /// Which.
        node: u8,
        /// How long it was waited.
        patience: Duration,
        /// The last failure.
        reason: String,
        /// The end of its output.
        log: String,
    },
    /// A stop was asked for meanwhile.
    #[error("interrupted")]
    Interrupted,
}

/// Addresses of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// For the other nodes.
    pub peer: SocketAddr,
    /// For Redis clients.
    pub resp: SocketAddr,
    /// For native clients.
    pub native: SocketAddr,
}

struct Node {
    number: u8,
    addresses: Addresses,
    process: Child,
    log: PathBuf,
}

/// A running cluster. Dropping it ends it.
pub struct Cluster {
    folder: PathBuf,
    keep: bool,
    nodes: Vec<Node>,
}

/// What a panic has to clean up, of every cluster that there is.
static LEFTOVERS: Mutex<Vec<Leftover>> = Mutex::new(Vec::new());

/// What one cluster would leave behind.
struct Leftover {
    /// Its folder, which no other cluster has.
    folder: PathBuf,
    /// Whether the folder is to stay.
    keep: bool,
    /// Children that were not waited for.
    processes: Vec<u32>,
}

/// Makes a panic end all clusters too: with `panic = "abort"` no guard is dropped.
pub fn clean_up_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Ok(mut leftovers) = LEFTOVERS.try_lock() {
            for process in leftovers.iter_mut().flat_map(|leftover| leftover.processes.drain(..)) {
                // SAFETY: sends a signal; touches no memory. The process is a child that was not reaped yet.
                unsafe { libc::kill(process as libc::pid_t, libc::SIGKILL) };
            }
            for leftover in leftovers.drain(..).filter(|leftover| !leftover.keep) {
                let _ = fs::remove_dir_all(leftover.folder);
            }
        }
        usual(panic);
    }));
}

fn leftovers() -> MutexGuard<'static, Vec<Leftover>> {
    LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes what a panic has to clean up of the cluster in `folder`.
fn change_leftover(folder: &Path, change: impl FnOnce(&mut Leftover)) {
    if let Some(leftover) = leftovers().iter_mut().find(|leftover| leftover.folder == folder) {
        change(leftover);
    }
}

/// How often a cluster is started anew because a port was taken in the meantime.
const TRIES: usize = 3;

impl Cluster {
    /// Starts the nodes and waits until each of them serves. Blocks up to `patience`, or until `stop`.
    ///
    /// Call it on the main thread: the kernel ends the nodes when the thread that started them ends.
    ///
    /// # Errors
    /// If that does not succeed; everything is cleaned up then.
    pub fn start(plan: &ClusterPlan, patience: Duration, stop: &AtomicBool) -> Result<Self, ClusterError> {
        if !plan.panchd.is_file() {
            return Err(ClusterError::NoDaemon(plan.panchd.clone()));
        }
        let mut tries = 1;
        loop {
            let mut cluster = Self::spawn(plan)?;
            match cluster.wait_until_serving(patience, stop) {
                Err(ClusterError::Ended { log, .. }) if tries < TRIES && log.contains("in use") => tries += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(cluster),
            }
        }
    }

    fn spawn(plan: &ClusterPlan) -> Result<Self, ClusterError> {
        let folder = tempfile::Builder::new()
            .prefix("panch-loadgen-")
            .tempdir_in(&plan.folder)
            .map_err(|error| ClusterError::Files { path: plan.folder.clone(), error })?
            .keep();
        leftovers().push(Leftover { folder: folder.clone(), keep: plan.keep, processes: Vec::new() });
        let mut cluster = Self { folder, keep: plan.keep, nodes: Vec::new() };
        let members = free_addresses(usize::from(plan.replicas))
            .map_err(|error| ClusterError::Files { path: PathBuf::from("127.0.0.1"), error })?;
        for (number, addresses) in (1..).zip(&members) {
            let node = cluster.spawn_node(plan, number, *addresses, &members)?;
            change_leftover(&cluster.folder, |leftover| leftover.processes.push(node.process.id()));
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    fn spawn_node(
        &self,
        plan: &ClusterPlan,
        number: u8,
        addresses: Addresses,
        members: &[Addresses],
    ) -> Result<Node, ClusterError> {
        let config = self.folder.join(format!("node-{number}.toml"));
        let log = self.folder.join(format!("node-{number}.log"));
        let data = self.folder.join(format!("node-{number}"));
        let files = |path: &Path| {
            let path = path.to_owned();
            move |error| ClusterError::Files { path, error }
        };
        fs::write(&config, config_text(plan, number, &data, members)).map_err(files(&config))?;
        let output = File::create(&log).map_err(files(&log))?;
        let errors = output.try_clone().map_err(files(&log))?;
        let mut command = Command::new(&plan.panchd);
        command.arg("run").arg("--config").arg(&config);
        for text in &plan.overrides {
            command.arg("--set").arg(text);
        }
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // A terminal's Ctrl-C goes to the whole foreground group; the nodes shall end when the measurement says so.
        command.process_group(0);
        let parent = std::process::id();
        // SAFETY: between fork and exec only system calls are made, which are safe in the child of a threaded process.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have ended before the line above.
                if libc::getppid() as u32 != parent {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        let start = |error| ClusterError::Start { path: plan.panchd.clone(), error };
        let process = command.spawn().map_err(start)?;
        Ok(Node { number, addresses, process, log })
    }

    /// Waits until a write through every node succeeds: then it listens, and knows a leader.
    fn wait_until_serving(&mut self, patience: Duration, stop: &AtomicBool) -> Result<(), ClusterError> {
        let deadline = Instant::now() + patience;
        for index in 0..self.nodes.len() {
            loop {
                self.check_alive()?;
                if stop.load(Ordering::Relaxed) {
                    return Err(ClusterError::Interrupted);
                }
                let node = &self.nodes[index];
                let Err(error) = write_once(node.addresses.native) else { break };
                if Instant::now() >= deadline {
                    let (node, reason, log) = (node.number, error.to_string(), tail(&node.log));
                    return Err(ClusterError::NotServing { node, patience, reason, log });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Whether every node still runs.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check_alive(&mut self) -> Result<(), ClusterError> {
        for node in &mut self.nodes {
            let status = match node.process.try_wait() {
                Ok(None) => continue,
                Ok(Some(status)) => status.to_string(),
                Err(error) => error.to_string(),
            };
            return Err(ClusterError::Ended { node: node.number, status, log: tail(&node.log) });
        }
        Ok(())
    }

    /// Addresses of all nodes, in the order of their numbers.
    pub fn addresses(&self) -> Vec<Addresses> {
        self.nodes.iter().map(|node| node.addresses).collect()
    }

    /// Where each node's counters and CPU times are.
    pub fn sources(&self) -> Vec<Source> {
        self.nodes
            .iter()
            .map(|node| Source { address: node.addresses.resp, process: Some(node.process.id()) })
            .collect()
    }

    /// Configs, logs and data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // Fails only for a process that has ended already.
            let _ = node.process.kill();
        }
        // Once they were waited for, their numbers may be those of other processes.
        change_leftover(&self.folder, |leftover| leftover.processes.clear());
        for node in &mut self.nodes {
            let _ = node.process.wait();
        }
        if !self.keep
            && let Err(error) = fs::remove_dir_all(&self.folder)
        {
            let folder = self.folder.display();
            stderr::line(format_args!("panch-loadgen: cannot remove {folder}: {error}"));
        }
        leftovers().retain(|leftover| leftover.folder != self.folder);
    }
}

fn write_once(address: SocketAddr) -> io::Result<()> {
    let mut control = Control::connect(address, Protocol::Native, ReadLevel::Quorum, Duration::from_secs(1))?;
    control.ask(OperationKind::Set, b"panch-loadgen:ready", b"1").map(drop)
}

/// Ports that nobody has at this moment. They are found together, so that they differ.
fn free_addresses(nodes: usize) -> io::Result<Vec<Addresses>> {
    let listeners: Vec<TcpListener> =
        (0..3 * nodes).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
    let all: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
    Ok(all.chunks(3).map(|ports| Addresses { peer: ports[0], resp: ports[1], native: ports[2] }).collect())
}

/// The config of one node.
fn config_text(plan: &ClusterPlan, number: u8, data: &Path, members: &[Addresses]) -> String {
    let mut text = format!(
        "[cluster]\nname = \"loadgen-{}\"\ngroups = {}\nmembers = [\n",
        std::process::id(),
        plan.groups
    );
    for (node, Addresses { peer, resp, native }) in (1..).zip(members) {
        let _: u8 = node;
        let _ = writeln!(
            text,
            "  {{ node = {node}, peer = \"{peer}\", client = \"{resp}\", native = \"{native}\" }},"
        );
    }
    let _ = write!(
        text,
        "]\n\n[node]\nid = {number}\ndata_dir = {}\ndurability = \"{}\"\n",
        quoted(&data.to_string_lossy()),
        plan.durability
    );
    if !plan.cpus.is_empty() {
        let _ = writeln!(text, "cores = [{}]", plan.cpus[usize::from(number - 1) % plan.cpus.len()]);
    }
    if plan.crowded {
        text.push_str("idle = \"park\"\n");
    }
    text
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// The end of a log.
fn tail(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(15)..];
    if shown.is_empty() {
        "  (nothing)".to_owned()
    } else {
        shown.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(panchd: &str) -> ClusterPlan {
        ClusterPlan {
            panchd: PathBuf::from(panchd),
            replicas: 3,
            groups: 1,
            durability: "memory".to_owned(),
            folder: std::env::temp_dir(),
            overrides: Vec::new(),
            cpus: vec![0, 1],
            crowded: true,
            keep: false,
        }
    }

    #[test]
    fn a_config_names_every_member_and_places_nodes_in_turn() {
        let members = free_addresses(3).unwrap();
        let text = config_text(&plan("x"), 3, Path::new("/tmp/a \"b\\"), &members);
        for Addresses { peer, resp, native } in &members {
            for address in [peer, resp, native] {
                assert_eq!(text.matches(&format!("\"{address}\"")).count(), 1);
            }
        }
        assert!(
            text.contains("id = 3\n") && text.contains("cores = [0]\n") && text.contains("idle = \"park\"")
        );
        assert!(text.contains(r#"data_dir = "/tmp/a \"b\\""#), "{text}");
    }

    #[test]
    fn a_missing_daemon_is_named_with_what_to_do() {
        let error =
            Cluster::start(&plan("/no/panchd"), Duration::ZERO, &AtomicBool::new(false)).err().unwrap();
        assert!(error.to_string().contains("cargo build --release"), "{error}");
    }

    /// A program with this text. Another process writes it: while this one has it open for writing, a process that another test starts
    /// would inherit that, and nobody could run it.
    fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("panchd");
        let write = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let status = Command::new("sh").args(["-c", write]).arg(&path).arg(text).status().unwrap();
        assert!(status.success());
        path
    }

    #[test]
    fn nodes_that_end_by_themselves_are_reported_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = script(folder.path(), "#!/bin/sh\necho \"cannot read $3\"\nexit 78\n");
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let plan = ClusterPlan { folder: data.clone(), ..plan(daemon.to_str().unwrap()) };
        let error = Cluster::start(&plan, Duration::from_secs(20), &AtomicBool::new(false)).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("78") && text.contains("cannot read") && text.contains(".toml"), "{text}");
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    }

    #[test]
    fn dropping_a_cluster_ends_its_processes() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = script(folder.path(), "#!/bin/sh\nexec sleep 1000\n");
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let mut cluster =
            Cluster::spawn(&ClusterPlan { folder: data.clone(), ..plan(daemon.to_str().unwrap()) }).unwrap();
        cluster.check_alive().unwrap();
        let processes: Vec<u32> = cluster.sources().iter().filter_map(|source| source.process).collect();
        assert_eq!(processes.len(), 3);
        drop(cluster);
        for process in processes {
            assert!(!Path::new(&format!("/proc/{process}")).exists());
        }
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    }

    #[test]
    fn a_panic_knows_all_clusters_and_one_that_ends_takes_only_its_own_along() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = script(folder.path(), "#!/bin/sh\nexec sleep 1000\n");
        let plan =
            ClusterPlan { replicas: 1, folder: folder.path().to_owned(), ..plan(daemon.to_str().unwrap()) };
        let known = |folder: &Path| {
            let leftovers = leftovers();
            let of = leftovers.iter().find(|leftover| leftover.folder == folder);
            of.map(|leftover| (leftover.keep, leftover.processes.clone()))
        };
        let of = |cluster: &Cluster| {
            let processes: Vec<u32> = cluster.sources().iter().filter_map(|source| source.process).collect();
            (cluster.folder().to_owned(), Some((cluster.keep, processes)))
        };
        let one = Cluster::spawn(&plan).unwrap();
        let other = Cluster::spawn(&ClusterPlan { keep: true, ..plan }).unwrap();
        let [(first, of_first), (second, of_second)] = [of(&one), of(&other)];
        assert_eq!((known(&first), known(&second)), (of_first, of_second.clone()));
        drop(one);
        assert_eq!((known(&first), known(&second)), (None, of_second));
        drop(other);
        assert_eq!((known(&second), second.exists()), (None, true));
    }
}
