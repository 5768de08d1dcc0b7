//! A cluster on one machine: makes the folder and the config files that `panchd dev` runs.
//!
//! Invariants:
//! * Every node of the cluster can also be started by hand with `panchd run --config DIR/node-N.toml`.
//! * Only folders that carry the marker are ever deleted from, and only what this module names: `node-N` and `node-N.toml`.
//! * Data that belongs to other settings is refused, never reused and never silently deleted.
//! * Nothing in the folder changes while another process uses it, as `panchd dev` or as one of its nodes.

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use panch_runtime::IdentityFault;
use panch_wire::ids::REPLICAS_MAX;

use super::schema::{Config, Durability, ProtocolKind};
use super::{LoadError, Loaded, load};

/// RESP ports start at the base port; native and peer ports lie this much and twice this much above.
pub const PORT_STRIDE: u16 = 100;
const MARKER: &str = ".panch-dev";
const MARKER_TEXT: &str =
    "This folder belongs to `panchd dev`; `panchd dev --fresh` deletes the data in it.\n";

/// What the cluster should be.
#[derive(Clone, Debug)]
pub struct DevPlan {
    /// Where configs and data live.
    pub folder: PathBuf,
    /// 1 to [`REPLICAS_MAX`] nodes.
    pub replicas: u8,
    /// RESP port of node 1; the others follow.
    pub base_port: u16,
    /// Consensus groups.
    pub groups: u16,
    /// How they decide.
    pub protocol: ProtocolKind,
    /// Core threads of each node.
    pub cores: u16,
    /// When votes count as remembered.
    pub durability: Durability,
    /// Delete data of earlier runs first.
    pub is_fresh: bool,
}

/// Why the cluster cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A file or folder could not be made or deleted.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// From the system.
        error: io::Error,
    },
    /// Another process runs the cluster of the folder.
    #[error(
        "{0} is in use by another `panchd dev`: stop that one, or name another folder with --dir and other ports with --base-port"
    )]
    InUse(PathBuf),
    /// A node of the folder runs by itself, or cannot be looked at.
    #[error("{0}")]
    Data(IdentityFault),
    /// Somebody else has a port.
    #[error(
        "cannot listen for {what} of node {node} on {address}: {error}. Stop what listens there (`ss -ltnp 'sport = :{}'` names it), or \
         choose other ports with --base-port",
        address.port()
    )]
    Listen {
        /// Who connects there.
        what: &'static str,
        /// The node.
        node: u8,
        /// Where.
        address: SocketAddr,
        /// From the system.
        error: io::Error,
    },
    /// The folder holds something else.
    #[error("{0} is not empty and was not made by `panchd dev`; name another folder with --dir")]
    Foreign(PathBuf),
    /// Data of a cluster with other settings.
    #[error(
        "{folder} holds the data of a cluster with other settings ({difference}); use the same settings, delete the \
         data with --fresh, or name another folder with --dir"
    )]
    Different {
        /// The folder.
        folder: PathBuf,
        /// The first line of `[cluster]` that differs.
        difference: String,
    },
    /// The ports do not fit below 65536.
    #[error("--base-port {0} is too high: RESP, native and peer ports of all nodes must fit below 65536")]
    Port(u16),
    /// The options make no valid config.
    #[error("{0}")]
    Config(#[from] LoadError),
}

/// The folder is this process's for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

/// The folder used if none is named: under `$XDG_STATE_HOME`, else under `~/.local/state`, else the current folder.
pub fn default_folder() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.unwrap_or_default().join("panch-dev")
}

impl DevPlan {
    fn ports(&self, node: u8) -> [u16; 3] {
        let resp = self.base_port + u16::from(node) - 1;
        [resp, resp + PORT_STRIDE, resp + 2 * PORT_STRIDE]
    }

    fn config_path(&self, node: u8) -> PathBuf {
        self.folder.join(format!("node-{node}.toml"))
    }

    /// The config file of one node.
    fn text(&self, node: u8) -> String {
        let member = |node: u8| {
            let [resp, native, peer] = self.ports(node);
            format!(
                "  {{ node = {node}, peer = \"127.0.0.1:{peer}\", client = \"127.0.0.1:{resp}\", native = \
                 \"127.0.0.1:{native}\" }},\n"
            )
        };
        let members: String = (1..=self.replicas).map(member).collect();
        let (groups, protocol) = (self.groups, self.protocol);
        let (cores, durability) = (self.cores, self.durability);
        format!(
            "# Written by `panchd dev` at every start.\n\n[cluster]\nname = \"dev\"\nprotocol = \
             \"{protocol}\"\ngroups = {groups}\nmembers = [\n{members}]\n\n[node]\nid = {node}\ndata_dir = \"node-{node}\"\ncores = {cores}\ndurability = \
             \"{durability}\"\n# All nodes share this machine's CPUs: a spinning one would steal from the one that \
             has work.\nidle = \"park\"\nlog_segment_size = \"16MiB\"\nsnapshot_log_size = \"64MiB\"\n"
        )
    }

    /// Makes the folder if it is not there, and keeps all others away from it.
    ///
    /// # Errors
    /// If the folder holds something else, or is in use; if the ports do not fit.
    pub fn claim(&self) -> Result<Claim, DevError> {
        assert!(
            (1..=REPLICAS_MAX).contains(&usize::from(self.replicas)),
            "the command line bounds the replicas"
        );
        let highest = u32::from(self.base_port) + u32::from(self.replicas) + 2 * u32::from(PORT_STRIDE);
        if self.base_port == 0 || highest > u32::from(u16::MAX) {
            return Err(DevError::Port(self.base_port));
        }
        let folder = &self.folder;
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
        let path = folder.join(MARKER);
        if !path.exists() {
            if fs::read_dir(folder).map_err(failed("read", folder))?.next().is_some() {
                return Err(DevError::Foreign(folder.clone()));
            }
            fs::write(&path, MARKER_TEXT).map_err(failed("write", &path))?;
        }
        let marker = File::open(&path).map_err(failed("open", &path))?;
        match marker.try_lock() {
            Ok(()) => Ok(Claim { _lock: marker }),
            Err(TryLockError::WouldBlock) => Err(DevError::InUse(folder.clone())),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    /// Whether the ports are free. Of one that is not, a node could only say what others answer there.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_ports(&self) -> Result<(), DevError> {
        for node in 1..=self.replicas {
            let of = ["Redis clients", "native clients", "other nodes"];
            for (port, what) in self.ports(node).into_iter().zip(of) {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                panch_runtime::check_port(address).map_err(|error| DevError::Listen {
                    what,
                    node,
                    address,
                    error,
                })?;
            }
        }
        Ok(())
    }

    /// Makes the files, and returns the config of every node in order.
    ///
    /// # Errors
    /// If the folder cannot be used, or holds the data of something else.
    pub fn prepare(&self, _claim: &Claim) -> Result<Vec<Loaded>, DevError> {
        if self.is_fresh {
            self.clear()?;
        } else {
            self.check_same()?;
        }
        let mut nodes = Vec::new();
        for node in 1..=self.replicas {
            let path = self.config_path(node);
            fs::write(&path, self.text(node)).map_err(failed("write", &path))?;
            nodes.push(load(&path, &[])?);
        }
        Ok(nodes)
    }

    fn clear(&self) -> Result<(), DevError> {
        // All of them before any is deleted: one may have been started by hand.
        let mut held = Vec::new();
        for node in 1..=REPLICAS_MAX {
            let data = self.folder.join(format!("node-{node}"));
            if data.is_dir() {
                held.push(panch_runtime::hold_data_dir(&data).map_err(DevError::Data)?);
            }
        }
        for node in 1..=REPLICAS_MAX {
            let data = self.folder.join(format!("node-{node}"));
            let config = self.folder.join(format!("node-{node}.toml"));
            ignore_missing(fs::remove_dir_all(&data)).map_err(failed("delete", &data))?;
            ignore_missing(fs::remove_file(&config)).map_err(failed("delete", &config))?;
        }
        Ok(())
    }

    /// Refuses to start nodes on data of a cluster that looked different.
    fn check_same(&self) -> Result<(), DevError> {
        for node in 1..=REPLICAS_MAX as u8 {
            if !self.folder.join(format!("node-{node}")).exists() {
                continue;
            }
            let path = self.config_path(node);
            let old = fs::read_to_string(&path).map_err(failed("read", &path))?;
            let new = self.text(node);
            if let Some(difference) = difference(cluster_lines(&old), cluster_lines(&new)) {
                return Err(DevError::Different { folder: self.folder.clone(), difference });
            }
        }
        Ok(())
    }
}

/// What to type to talk to the cluster.
pub fn connect_text(nodes: &[Config], folder: &Path) -> String {
    let Some(first) = nodes.first() else { return String::new() };
    let mut text = format!("A cluster of {} on this machine; data in {}\n", nodes.len(), folder.display());
    for node in nodes {
        let member = node.own_member();
        text.push_str(&format!(
            "  node {}: redis {}, native {}, peers {}\n",
            member.node, member.client, member.native, member.peer
        ));
    }
    let client = &first.own_member().client;
    text.push_str(&format!(
        "Connect:  redis-cli -h {} -p {} SET greeting hello\n",
        client.host(),
        client.port()
    ));
    text.push_str(&format!("Look:     panchd status --config {}\n", folder.join("node-1.toml").display()));
    if first.node.durability != Durability::Sync {
        text.push_str(&format!("durability = {}: acknowledged writes can be lost.\n", first.node.durability));
    }
    text
}

fn cluster_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().skip_while(|line| *line != "[cluster]").take_while(|line| *line != "[node]")
}

fn difference<'a>(
    mut old: impl Iterator<Item = &'a str>,
    mut new: impl Iterator<Item = &'a str>,
) -> Option<String> {
    loop {
        match (old.next(), new.next()) {
            (None, None) => return None,
            (old, new) if old == new => {}
            (old, new) => {
                let text =
                    |line: Option<&str>| line.unwrap_or("nothing").trim().trim_end_matches(',').to_owned();
                return Some(format!("was {}, now {}", text(old), text(new)));
            }
        }
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DevError {
    let path = path.to_owned();
    move |error| DevError::Io { action, path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(folder: &Path) -> DevPlan {
        DevPlan {
            folder: folder.join("dev"),
            replicas: 3,
            base_port: 7001,
            groups: 2,
            protocol: ProtocolKind::Multi,
            cores: 1,
            durability: Durability::Sync,
            is_fresh: false,
        }
    }

    fn prepare(plan: &DevPlan) -> Result<Vec<Loaded>, DevError> {
        plan.prepare(&plan.claim()?)
    }

    #[test]
    fn what_somebody_uses_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let plan = DevPlan { is_fresh: true, ..plan(folder.path()) };
        let claim = plan.claim().unwrap();
        assert!(matches!(prepare(&plan), Err(DevError::InUse(_))));
        drop(claim);
        prepare(&plan).unwrap();
        // A node that was started by hand.
        for node in ["node-1", "node-2"] {
            fs::create_dir(plan.folder.join(node)).unwrap();
        }
        let held = panch_runtime::hold_data_dir(&plan.folder.join("node-2")).unwrap();
        assert!(matches!(prepare(&plan), Err(DevError::Data(IdentityFault::Locked(_)))));
        assert!(plan.folder.join("node-1").exists() && plan.config_path(3).exists());
        drop(held);
        prepare(&plan).unwrap();
        assert!(!plan.folder.join("node-1").exists());
    }

    #[test]
    fn a_port_that_is_in_use_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base_port = taken.local_addr().unwrap().port() - 1;
        let text = DevPlan { base_port, ..plan(folder.path()) }.check_ports().unwrap_err().to_string();
        assert!(
            text.contains(&format!("127.0.0.1:{}", base_port + 1)) && text.contains("--base-port"),
            "{text}"
        );
    }

    #[test]
    fn nodes_agree_on_the_cluster_and_share_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let nodes = prepare(&plan(folder.path())).unwrap();
        assert_eq!(nodes.len(), 3);
        assert!(nodes.iter().all(|node| node.warnings.is_empty()));
        assert!(nodes.iter().all(|node| node.config.cluster == nodes[0].config.cluster));
        assert_eq!(nodes[2].config.node.data_dir, folder.path().join("dev/node-3"));
        assert_eq!(nodes[1].config.node.resp_listen.to_string(), "127.0.0.1:7002");
        assert_eq!(nodes[1].config.node.peer_listen.to_string(), "127.0.0.1:7202");
        let configs: Vec<Config> = nodes.into_iter().map(|node| node.config).collect();
        assert!(connect_text(&configs, folder.path()).contains("redis-cli -h 127.0.0.1 -p 7001"));
    }

    #[test]
    fn data_of_other_settings_is_refused_until_it_is_deleted_on_demand() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = plan(folder.path());
        prepare(&plan).unwrap();
        let data = plan.folder.join("node-2");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("segment"), "votes").unwrap();
        prepare(&plan).unwrap();
        // What is this node's own may change between runs.
        plan.cores = 2;
        prepare(&plan).unwrap();
        plan.groups = 4;
        let text = prepare(&plan).unwrap_err().to_string();
        assert!(text.contains("was groups = 2, now groups = 4"), "{text}");
        assert!(data.join("segment").exists());
        plan.is_fresh = true;
        prepare(&plan).unwrap();
        assert!(!data.exists());
    }

    #[test]
    fn a_folder_of_someone_else_is_never_touched() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = plan(folder.path());
        fs::create_dir_all(plan.folder.join("node-1")).unwrap();
        plan.is_fresh = true;
        assert!(matches!(prepare(&plan), Err(DevError::Foreign(_))));
        assert!(plan.folder.join("node-1").exists());
    }

    #[test]
    fn ports_that_do_not_fit_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for base_port in [0, 65_400] {
            let plan = DevPlan { base_port, ..plan(folder.path()) };
            assert!(matches!(prepare(&plan), Err(DevError::Port(_))));
        }
    }
}
