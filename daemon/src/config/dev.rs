//! A cluster on one machine: makes the folder and the config files that `panchd dev` runs.
//!
//! Invariants:
//! * Every node of the cluster can also be started by hand with `panchd run --config DIR/node-N.toml`.
//! * Only folders that carry the marker are ever deleted from, and only what this module names: `node-N` and `node-N.toml`.
//! * Data that belongs to other settings is refused, never reused and never silently deleted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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

    /// Makes the folder and the files, and returns the config of every node in order.
    ///
    /// # Errors
    /// If the folder cannot be used, or holds something else.
    pub fn prepare(&self) -> Result<Vec<Loaded>, DevError> {
        assert!(
            (1..=REPLICAS_MAX).contains(&usize::from(self.replicas)),
            "the command line bounds the replicas"
        );
        let highest = u32::from(self.base_port) + u32::from(self.replicas) + 2 * u32::from(PORT_STRIDE);
        if self.base_port == 0 || highest > u32::from(u16::MAX) {
            return Err(DevError::Port(self.base_port));
        }
        self.claim_folder()?;
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

    fn claim_folder(&self) -> Result<(), DevError> {
        let folder = &self.folder;
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
        let marker = folder.join(MARKER);
        if !marker.exists() {
            if fs::read_dir(folder).map_err(failed("read", folder))?.next().is_some() {
                return Err(DevError::Foreign(folder.clone()));
            }
            fs::write(&marker, MARKER_TEXT).map_err(failed("write", &marker))?;
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), DevError> {
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

    #[test]
    fn nodes_agree_on_the_cluster_and_share_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let nodes = plan(folder.path()).prepare().unwrap();
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
        plan.prepare().unwrap();
        let data = plan.folder.join("node-2");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("segment"), "votes").unwrap();
        plan.prepare().unwrap();
        // What is this node's own may change between runs.
        plan.cores = 2;
        plan.prepare().unwrap();
        plan.groups = 4;
        let text = plan.prepare().unwrap_err().to_string();
        assert!(text.contains("was groups = 2, now groups = 4"), "{text}");
        assert!(data.join("segment").exists());
        plan.is_fresh = true;
        plan.prepare().unwrap();
        assert!(!data.exists());
    }

    #[test]
    fn a_folder_of_someone_else_is_never_touched() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = plan(folder.path());
        fs::create_dir_all(plan.folder.join("node-1")).unwrap();
        plan.is_fresh = true;
        assert!(matches!(plan.prepare(), Err(DevError::Foreign(_))));
        assert!(plan.folder.join("node-1").exists());
    }

    #[test]
    fn ports_that_do_not_fit_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for base_port in [0, 65_400] {
            assert!(matches!(DevPlan { base_port, ..plan(folder.path()) }.prepare(), Err(DevError::Port(_))));
        }
    }
}
