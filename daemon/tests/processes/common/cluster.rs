//! Nodes as processes.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::confined::Confined;
use super::disk::Disk;
use super::hosts::Hosts;
use super::links::Links;
use super::machine::Machine;
use super::{Info, eventually, ports};

/// A node that starts has this long to serve.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Lines of a node's standard error that a failed test shows.
const LINES_SHOWN: usize = 40;

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct Settings {
    pub nodes: usize,
    pub groups: usize,
    pub cores: usize,
    /// Lines for `[cluster]`.
    pub cluster: String,
    /// Lines for `[node]`.
    pub node: String,
    /// Nodes reach each other through links that can be cut.
    pub linked: bool,
    /// Every node has a machine of its own, which can be started anew: see [`Cluster::reboot`].
    pub machines: bool,
    /// Every node has a disk of its own, of so many mebibytes, which can be filled and stopped: where the process may make one.
    pub disk: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nodes: 3,
            groups: 1,
            cores: 1,
            cluster: String::new(),
            node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"8MiB\"\n".into(),
            linked: false,
            machines: false,
            disk: None,
        }
    }
}

/// The ports of one node.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub resp: u16,
    pub native: u16,
    pub peer: u16,
}

struct Process {
    ports: Ports,
    child: Option<Child>,
    /// Standard error up to here belongs to earlier starts.
    seen: u64,
    /// Stopped with SIGSTOP.
    frozen: bool,
}

/// Nodes 1 to N on this machine.
pub struct Cluster {
    folder: TempDir,
    pub settings: Settings,
    nodes: Vec<Process>,
    /// Between the nodes, if they are linked.
    pub links: Option<Links>,
    /// Of the nodes from 1, if they have some.
    disks: Vec<Disk>,
    /// The same.
    machines: Vec<Machine>,
    /// What nodes may not do that are started from now on.
    pub confined: Option<Confined>,
    /// Where nodes that are started from now on find names.
    pub hosts: Option<Hosts>,
}

impl Cluster {
    /// Starts a cluster and waits until every node serves.
    pub fn start(settings: Settings) -> Self {
        for _ in 0..5 {
            let mut cluster = Self::prepare(settings.clone());
            let ids: Vec<usize> = cluster.ids().collect();
            ids.iter().for_each(|id| cluster.spawn(*id));
            if cluster.try_wait_all_serving(&ids) {
                cluster.wait_writable();
                return cluster;
            }
            // Somebody else took a port between the choice and the start.
        }
        panic!("five times in a row a port was taken by somebody else");
    }

    /// Writes the configuration of a cluster; starts nothing.
    pub fn prepare(settings: Settings) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("panch-test-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a folder for a cluster");
        let ports = ports::take(3 * settings.nodes);
        let nodes = ports.chunks(3).map(|ports| Process {
            ports: Ports { resp: ports[0], native: ports[1], peer: ports[2] },
            child: None,
            seen: 0,
            frozen: false,
        });
        let nodes: Vec<Process> = nodes.collect();
        let links = settings.linked.then(|| Links::start(nodes.iter().map(|node| node.ports.peer)));
        let mount = |id: usize, size| Disk::mount(&folder.path().join(format!("disk-{id}")), size);
        let disks: Option<Vec<Disk>> =
            settings.disk.and_then(|size| (1..=settings.nodes).map(|id| mount(id, size)).collect());
        let machine = |id| Machine::new(folder.path().join(format!("boot-{id}")));
        let wanted = if settings.machines { settings.nodes } else { 0 };
        let machines: Option<Vec<Machine>> = (1..=wanted).map(machine).collect();
        if machines.is_none() {
            println!(
                "this process may not mount: a new start of a machine is written into the identity instead"
            );
        }
        let (disks, machines) = (disks.unwrap_or_default(), machines.unwrap_or_default());
        let cluster = Self { folder, settings, nodes, links, disks, machines, confined: None, hosts: None };
        for id in cluster.ids() {
            fs::write(cluster.config_path(id), cluster.config_text(id)).expect("a configuration is written");
        }
        cluster
    }

    pub fn ids(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.settings.nodes
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config_path(&self, id: usize) -> PathBuf {
        self.folder().join(format!("node-{id}.toml"))
    }

    /// The name that the node's data directory was given when it was made.
    pub fn directory_name(&self, id: usize) -> u64 {
        let text = self.small_file(id, "identity");
        let name = text.lines().find_map(|line| line.strip_prefix("log 0x")).expect("it has a name");
        u64::from_str_radix(name, 16).expect("a number")
    }

    /// The text of a small file of a node.
    pub fn small_file(&self, id: usize, name: &str) -> String {
        let bytes = fs::read(self.data_dir(id).join(name)).expect("a small file");
        let text = panch_wal::small_file::text_of(&bytes).expect("a copy that is whole");
        String::from_utf8(text).expect("text")
    }

    pub fn data_dir(&self, id: usize) -> PathBuf {
        self.folder().join(self.data_dir_name(id))
    }

    /// As the configuration says it: relative to the folder.
    fn data_dir_name(&self, id: usize) -> String {
        if self.disks.is_empty() { format!("node-{id}") } else { format!("disk-{id}/data") }
    }

    /// The disk of a node; `None` if the cluster has none, or this process may not make any.
    pub fn disk(&mut self, id: usize) -> Option<&mut Disk> {
        self.disks.get_mut(id - 1)
    }

    pub fn log_dir(&self, id: usize, core: usize) -> PathBuf {
        self.data_dir(id).join(format!("core-{core}/log"))
    }

    pub fn snapshot_dir(&self, id: usize, core: usize) -> PathBuf {
        self.data_dir(id).join(format!("core-{core}/snapshot"))
    }

    /// Number of the oldest segment of a core's log.
    pub fn oldest_segment(&self, id: usize, core: usize) -> u64 {
        let entries = fs::read_dir(self.log_dir(id, core)).expect("a log");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let number =
            |name: std::ffi::OsString| u64::from_str_radix(name.to_str()?.strip_suffix(".wal")?, 16).ok();
        names.filter_map(number).min().expect("a segment")
    }

    pub fn config_text(&self, id: usize) -> String {
        let Settings { groups, cores, cluster, node, .. } = &self.settings;
        let members: String = (1..)
            .zip(&self.nodes)
            .map(|(id, Process { ports: Ports { resp, native, peer }, .. })| {
                let peer = self.links.as_ref().map_or(*peer, |links| links.port(id));
                format!(
                    "  {{ node = {id}, peer = \"127.0.0.1:{peer}\", client = \"127.0.0.1:{resp}\", native = \
                     \"127.0.0.1:{native}\" }},\n"
                )
            })
            .collect();
        let listen = match &self.links {
            Some(_) => format!("peer_listen = \"127.0.0.1:{}\"\n", self.ports(id).peer),
            None => String::new(),
        };
        let data_dir = self.data_dir_name(id);
        format!(
            "[cluster]\nname = \"test\"\ngroups = {groups}\nmembers = [\n{members}]\n{cluster}\n[node]\nid = {id}\n\
             data_dir = \"{data_dir}\"\ncores = {cores}\nidle = \"park\"\n{listen}{node}"
        )
    }

    pub fn ports(&self, id: usize) -> Ports {
        self.nodes[id - 1].ports
    }

    /// Starts a node without waiting. Its standard error is kept over restarts.
    pub fn spawn(&mut self, id: usize) {
        let config = self.config_path(id);
        self.spawn_with(id, &["run", "--config", config.to_str().expect("a path of ASCII")]);
    }

    /// Starts a node that has lost its disk, without waiting.
    pub fn spawn_to_rejoin(&mut self, id: usize) {
        let config = self.config_path(id);
        self.spawn_with(id, &["run", "--rejoin", "--config", config.to_str().expect("a path of ASCII")]);
    }

    /// A node that is not running loses its data directory.
    pub fn lose_disk(&mut self, id: usize) {
        assert!(self.nodes[id - 1].child.is_none(), "node {id} runs");
        fs::remove_dir_all(self.data_dir(id)).expect("a data directory is removed");
    }

    fn copy_dir(&self, id: usize) -> PathBuf {
        self.folder().join(format!("node-{id}.copy"))
    }

    /// Copies the data directory of a node that is not running.
    pub fn copy_disk(&self, id: usize) {
        assert!(self.nodes[id - 1].child.is_none(), "node {id} runs");
        let _ = fs::remove_dir_all(self.copy_dir(id));
        copy_folder(&self.data_dir(id), &self.copy_dir(id));
    }

    /// As [`Cluster::copy_disk`] of a node that runs: it is frozen meanwhile, as a snapshot of the file system would have it.
    pub fn copy_disk_of_running(&mut self, id: usize) {
        self.signal(id, libc::SIGSTOP);
        let _ = fs::remove_dir_all(self.copy_dir(id));
        copy_folder(&self.data_dir(id), &self.copy_dir(id));
        self.signal(id, libc::SIGCONT);
    }

    /// A node that is not running gets the copy of its data directory back.
    pub fn restore_disk(&mut self, id: usize) {
        self.lose_disk(id);
        copy_folder(&self.copy_dir(id), &self.data_dir(id));
    }

    /// The machine of a node that does not run is started anew.
    pub fn reboot(&mut self, id: usize) {
        assert!(self.nodes[id - 1].child.is_none(), "node {id} runs");
        match self.machines.get_mut(id - 1) {
            Some(machine) => machine.start(),
            None => self.change_boot(id),
        }
    }

    /// Writes another start of the machine into the identity of a node.
    fn change_boot(&self, id: usize) {
        let path = self.data_dir(id).join("identity");
        let text = self.small_file(id, "identity");
        let (body, _) = text.split_once("checksum ").expect("a checksum");
        let line = body.lines().find(|line| line.starts_with("life ")).expect("the life before");
        let boot = line.split(' ').nth(2).expect("the start of the machine");
        let body = body.replace(boot, "0x00000000000000b0");
        let sum = panch_wire::checksum::checksum(body.as_bytes());
        fs::write(path, format!("{body}checksum {sum:#018x}\n")).expect("written");
    }

    /// Waits until a node that has lost its disk is a member again.
    pub fn wait_member(&self, id: usize) {
        eventually("the node is a member again", START_PATIENCE, || {
            self.errors(id).contains("is a member again").then_some(())
        });
    }

    fn spawn_with(&mut self, id: usize, arguments: &[&str]) {
        assert!(self.nodes[id - 1].child.is_none(), "node {id} runs already");
        let path = self.error_path(id);
        let log = File::options().create(true).append(true).open(path).expect("a file for standard error");
        self.nodes[id - 1].seen = log.metadata().expect("its size").len();
        self.nodes[id - 1].child = Some(launch_on(arguments, log, |command| {
            if let Some(machine) = self.machines.get(id - 1) {
                machine.is_for(command);
            }
            if let Some(hosts) = &self.hosts {
                hosts.are_for(command);
            }
            if let Some(confined) = &self.confined {
                confined.is_for(command);
            }
        }));
    }

    fn error_path(&self, id: usize) -> PathBuf {
        self.folder().join(format!("node-{id}.stderr"))
    }

    /// What a node has written to standard error since it was started last.
    pub fn errors(&self, id: usize) -> String {
        let bytes = fs::read(self.error_path(id)).unwrap_or_default();
        String::from_utf8_lossy(&bytes[(self.nodes[id - 1].seen as usize).min(bytes.len())..]).into_owned()
    }

    /// Waits until a node answers PING. False if it could not start because a port was taken.
    fn try_wait_serving(&mut self, id: usize) -> bool {
        self.try_wait_all_serving(&[id])
    }

    /// Waits until all of these nodes answer PING: at the first start they wait for each other. False if one of them could not start
    /// because a port was taken.
    fn try_wait_all_serving(&mut self, ids: &[usize]) -> bool {
        let start = Instant::now();
        loop {
            if ids.iter().all(|id| self.answers(*id)) {
                return true;
            }
            for id in ids {
                let Some(status) = self.poll_exit(*id) else { continue };
                let errors = self.errors(*id);
                if status.code() == Some(74) && errors.contains("in use") && errors.contains("cannot listen")
                {
                    for other in ids.iter().filter(|other| self.is_running(**other)).collect::<Vec<_>>() {
                        self.kill(*other);
                    }
                    return false;
                }
                panic!("node {id} ended with {status} instead of serving:\n{errors}");
            }
            let errors = || ids.iter().map(|id| self.errors(*id)).collect::<String>();
            assert!(start.elapsed() < START_PATIENCE, "nodes {ids:?} do not serve:\n{}", errors());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts a node that founds the cluster without those that do not answer, without waiting.
    pub fn spawn_to_found(&mut self, id: usize) {
        let config = self.config_path(id);
        self.spawn_with(id, &["run", "--found", "--config", config.to_str().expect("a path of ASCII")]);
    }

    /// Starts a node that begins with salvaged state, without waiting.
    pub fn spawn_from(&mut self, id: usize, files: &[String]) {
        let config = self.config_path(id);
        let mut arguments = vec!["run", "--config", config.to_str().expect("a path of ASCII")];
        arguments.extend(files.iter().flat_map(|file| ["--from", file]));
        self.spawn_with(id, &arguments);
    }

    /// The same for one that is to found the new cluster without those that cannot be started.
    pub fn spawn_to_found_from(&mut self, id: usize, file: &str) {
        let config = self.config_path(id);
        let config = config.to_str().expect("a path of ASCII");
        self.spawn_with(id, &["run", "--found", "--config", config, "--from", file]);
    }

    /// Waits until nodes that were started serve.
    pub fn wait_serving(&mut self, ids: &[usize]) {
        assert!(self.try_wait_all_serving(ids), "a port was taken by somebody else");
    }

    fn answers(&self, id: usize) -> bool {
        let patience = Duration::from_millis(500);
        self.connect_within(id, patience).is_ok_and(|mut connection| {
            let _ = connection.set_read_timeout(Some(patience));
            redis::cmd("PING").query::<String>(&mut connection).is_ok()
        })
    }

    /// Starts a node and waits until it answers PING.
    pub fn start_node(&mut self, id: usize) {
        self.start_with(id, Self::spawn);
    }

    /// As [`Cluster::start_node`], for one that has lost its disk.
    pub fn start_to_rejoin(&mut self, id: usize) {
        self.start_with(id, Self::spawn_to_rejoin);
    }

    fn start_with(&mut self, id: usize, spawn: fn(&mut Self, usize)) {
        for _ in 0..50 {
            spawn(self, id);
            if self.try_wait_serving(id) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the ports of node {id} stay taken");
    }

    /// Starts a node that is expected to end by itself; its exit status and what it wrote to standard error.
    pub fn start_in_vain(&mut self, id: usize) -> (ExitStatus, String) {
        self.spawn(id);
        let status = self.wait_exit(id, START_PATIENCE);
        (status, self.errors(id))
    }

    /// The exit status if the node has ended; it is not running any more then.
    pub fn poll_exit(&mut self, id: usize) -> Option<ExitStatus> {
        let child = self.nodes[id - 1].child.as_mut()?;
        let status = child.try_wait().expect("a child can be waited for")?;
        self.nodes[id - 1].child = None;
        Some(status)
    }

    /// Waits for the end of a node.
    pub fn wait_exit(&mut self, id: usize, patience: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.poll_exit(id) {
                return status;
            }
            assert!(
                start.elapsed() < patience,
                "node {id} still runs after {patience:?}:\n{}",
                self.errors(id)
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn pid(&self, id: usize) -> u32 {
        self.nodes[id - 1].child.as_ref().expect("the node runs").id()
    }

    /// Sends a signal.
    pub fn signal(&mut self, id: usize, signal: i32) {
        let pid = self.pid(id) as i32;
        self.nodes[id - 1].frozen = signal == libc::SIGSTOP;
        // SAFETY: kill takes no memory; the child was not waited for, so the number is still its own.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "kill: {}", io::Error::last_os_error());
    }

    /// Kills a node with SIGKILL.
    pub fn kill(&mut self, id: usize) {
        self.signal(id, libc::SIGKILL);
        let status = self.wait_exit(id, Duration::from_secs(10));
        assert_eq!(status.signal(), Some(libc::SIGKILL), "node {id} ended by itself: {}", self.errors(id));
    }

    /// Asks a node to stop; it must end with exit code 0.
    pub fn stop(&mut self, id: usize, patience: Duration) {
        self.signal(id, libc::SIGTERM);
        let status = self.wait_exit(id, patience);
        assert_eq!(status.code(), Some(0), "node {id} ended with {status}:\n{}", self.errors(id));
    }

    pub fn is_running(&self, id: usize) -> bool {
        self.nodes[id - 1].child.is_some()
    }

    fn connect_within(&self, id: usize, patience: Duration) -> redis::RedisResult<redis::Connection> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.ports(id).resp))?;
        client.get_connection_with_timeout(patience)
    }

    /// A Redis client of a node, with generous timeouts.
    pub fn connect(&self, id: usize) -> redis::Connection {
        let connection = self
            .connect_within(id, Duration::from_secs(10))
            .unwrap_or_else(|error| panic!("connect to node {id}: {error}\n{}", self.errors(id)));
        connection.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout");
        connection.set_write_timeout(Some(Duration::from_secs(15))).expect("a timeout");
        connection
    }

    /// The same with RESP3.
    pub fn connect_resp3(&self, id: usize) -> redis::Connection {
        let url = format!("redis://127.0.0.1:{}/?protocol=resp3", self.ports(id).resp);
        let connection = redis::Client::open(url).and_then(|client| client.get_connection());
        let connection = connection.unwrap_or_else(|error| panic!("connect to node {id}: {error}"));
        connection.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout");
        connection
    }

    /// INFO of a node; `None` if it does not answer.
    pub fn try_info(&self, id: usize) -> Option<Info> {
        let patience = Duration::from_millis(1000);
        let mut connection = self.connect_within(id, patience).ok()?;
        connection.set_read_timeout(Some(patience)).ok()?;
        let text: String = redis::cmd("INFO").query(&mut connection).ok()?;
        Some(Info::parse(&text))
    }

    pub fn info(&self, id: usize) -> Info {
        eventually(&format!("node {id} answers INFO"), Duration::from_secs(15), || self.try_info(id))
    }

    fn awake(&self) -> impl Iterator<Item = usize> {
        self.ids().filter(|id| self.nodes[id - 1].child.is_some() && !self.nodes[id - 1].frozen)
    }

    /// The node that leads a group, as it says itself.
    pub fn find_leader(&self, group: usize) -> Option<usize> {
        self.awake().find(|id| self.try_info(*id).is_some_and(|info| info.group(group).leading))
    }

    /// Waits for a leader of group 0.
    pub fn leader(&self) -> usize {
        eventually("a leader", Duration::from_secs(20), || self.find_leader(0))
    }

    /// A node that does not lead group 0.
    pub fn follower(&self) -> usize {
        let leader = self.leader();
        self.awake().find(|id| *id != leader).expect("there are several nodes")
    }

    /// Waits until a write through every node that runs is answered.
    pub fn wait_writable(&self) {
        for id in self.awake() {
            let begun = Instant::now();
            while let Err(error) = self.write_to_all_groups(id) {
                assert!(
                    begun.elapsed() < Duration::from_secs(20),
                    "not within 20 s: a write through node {id}: {error}\n{}",
                    self.reports()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn write_to_all_groups(&self, id: usize) -> redis::RedisResult<()> {
        let mut connection = self.connect_within(id, Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(12)))?;
        (0..self.settings.groups).try_for_each(|group| {
            let key = format!("{{{}}}ready", tag_of_group(group, self.settings.groups));
            redis::cmd("SET").arg(key).arg("yes").query::<()>(&mut connection)
        })
    }

    /// What the nodes that run say of themselves, for whoever reads why a test failed.
    fn reports(&self) -> String {
        let report = |id| {
            let patience = Duration::from_secs(1);
            let report = self.connect_within(id, patience).and_then(|mut connection| {
                connection.set_read_timeout(Some(patience))?;
                redis::cmd("INFO").arg("panch").query::<String>(&mut connection)
            });
            format!("--- node {id} ---\n{}", report.unwrap_or_else(|error| error.to_string()))
        };
        self.awake().map(report).collect()
    }

    /// Waits until every running node has executed the same and checks that they came to the same state.
    pub fn assert_same_state(&self) {
        if self.settings.cores > 1 {
            // What a node's cores tell each other is up to a tenth of a second old.
            std::thread::sleep(Duration::from_millis(300));
        }
        for group in 0..self.settings.groups {
            let states = eventually(
                &format!("all nodes execute the same of group {group}"),
                Duration::from_secs(30),
                || {
                    let states: Option<Vec<_>> =
                        self.awake().map(|id| Some((id, self.try_info(id)?.group(group)))).collect();
                    let states = states?;
                    let first = &states[0].1;
                    let settled = |state: &super::info::GroupInfo| {
                        state.executed == first.executed
                            && state.last == state.executed
                            && state.committed == state.executed
                    };
                    states.iter().all(|(_, state)| settled(state)).then_some(states)
                },
            );
            for (id, state) in &states {
                assert_eq!(
                    (&state.digest, state.keys),
                    (&states[0].1.digest, states[0].1.keys),
                    "nodes {id} and {} differ in group {group} after slot {}",
                    states[0].0,
                    state.executed
                );
            }
        }
    }

    /// Open descriptors of a node.
    pub fn open_files(&self, id: usize) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid(id))).expect("the node runs").count()
    }

    /// Resident memory of a node, in bytes.
    pub fn resident_size(&self, id: usize) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.pid(id))).expect("the node runs");
        let pages: u64 = text.split_whitespace().nth(1).and_then(|field| field.parse().ok()).expect("pages");
        pages * 4096
    }

    /// Checks that every node runs and serves.
    pub fn assert_all_serve(&mut self) {
        for id in self.ids() {
            if let Some(status) = self.poll_exit(id) {
                panic!("node {id} ended with {status}:\n{}", self.errors(id));
            }
        }
        self.wait_writable();
    }

    /// Whether anything accepts connections at `port`.
    pub fn is_listening(port: u16) -> bool {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok()
    }
}

/// A hash tag whose keys live in `group`.
pub fn tag_of_group(group: usize, groups: usize) -> String {
    let lives_there =
        |tag: &String| usize::from(panch_wire::slots::group_of_key(tag.as_bytes(), groups as u16).0) == group;
    (0..).map(|number| format!("t{number}")).find(lives_there).expect("some tag is in every group")
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder is made");
    for entry in fs::read_dir(from).expect("a folder is read") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        if path.is_dir() {
            copy_folder(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).expect("a file is copied");
        }
    }
}

/// Runs the daemon with these arguments; its standard error goes to `errors`.
pub fn launch(arguments: &[&str], errors: File) -> Child {
    launch_on(arguments, errors, |_| ())
}

/// The same, with what else the command is to be.
fn launch_on(arguments: &[&str], errors: File, prepare: impl FnOnce(&mut Command)) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_panchd"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    end_with_test(&mut command);
    prepare(&mut command);
    command.spawn().expect("the daemon can be started")
}

/// The process is killed when the thread ends that starts it.
pub fn end_with_test(command: &mut Command) {
    // SAFETY: prctl is a plain system call, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for id in self.ids() {
                let running = self.is_running(id);
                let text = fs::read(self.error_path(id)).unwrap_or_default();
                let text = String::from_utf8_lossy(&text).into_owned();
                let lines: Vec<&str> = text.lines().collect();
                let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
                let state = if running { "runs" } else { "does not run" };
                eprintln!("--- standard error of node {id} (it {state}) ---\n{}", shown.join("\n"));
            }
        }
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.kill();
        }
        self.disks.iter_mut().for_each(Disk::release);
        for mut child in self.nodes.iter_mut().filter_map(|node| node.child.take()) {
            let _ = child.wait();
        }
        ports::give_back(self.nodes.iter().flat_map(|node| {
            let Ports { resp, native, peer } = node.ports;
            [resp, native, peer]
        }));
    }
}
