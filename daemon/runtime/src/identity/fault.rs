//! Why a data directory cannot be used: each fault says what to do.

use std::io;
use std::path::PathBuf;

use panch_consensus::protocol::ProtocolKind;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFault {
    /// The directory cannot be read or written.
    #[error("data directory {}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// Another process uses the directory.
    #[error("data directory {} is in use by another panchd: stop it, or give this node a directory of its own", .0.display())]
    Locked(PathBuf),
    /// A node comes back with a directory that is not empty.
    #[error("data directory {} is not empty: --rejoin is for a node that has lost it. Start the node without --rejoin, or empty the directory if what is in it cannot be used any more", .0.display())]
    NotEmpty(PathBuf),
    /// Others remember the node, but its directory knows nothing of an earlier life.
    #[error("data directory {} is new, but node {by} remembers {life} starts of this node: what it has voted for may be forgotten. Start it with the directory that it ran with; if that is lost, start it with --rejoin", path.display())]
    Remembered {
        /// The directory.
        path: PathBuf,
        /// The number of the other node.
        by: u64,
        /// The incarnation that it remembers.
        life: u32,
    },
    /// The cluster was founded with another directory of this node.
    #[error("data directory {} is new, but the cluster was founded with another data directory of this node, says node {by}: what it has voted for may be forgotten. Start it with the directory that it ran with; if that is lost, start it with --rejoin", path.display())]
    Replaced {
        /// The directory.
        path: PathBuf,
        /// The number of the other node.
        by: u64,
    },
    /// The operator wants to found a cluster that is there.
    #[error(
        "node {by} is a member of this cluster and has data: --found is for a cluster that has none. Start this node without --found; if it has lost its disk, with --rejoin"
    )]
    Exists {
        /// The number of the other node.
        by: u64,
    },
    /// The operator wants to found a cluster, but this node has data.
    #[error("data directory {} is not empty: --found is for the first start of a cluster. Start the node without --found", .0.display())]
    Founded(PathBuf),
    /// The operator wants to begin with salvaged state, but this node has data.
    #[error("data directory {} is not empty: --from is for the first start of a cluster that goes on from salvaged state. If this node has begun with it already, start it without --from; if the directory is of the cluster before, move it away first", .0.display())]
    BeginsWithData(PathBuf),
    /// The operator wants something else with the directory of a node that comes back.
    #[error("data directory {} is that of a node on its way back from the loss of its disk (it was started with --rejoin): {flag} is for the first start of a cluster. To go on, start the node without {flag}; to begin a new cluster, stop it and empty the directory first", path.display())]
    Rejoining {
        /// The directory.
        path: PathBuf,
        /// What it was started with.
        flag: &'static str,
    },
    /// The node waits to begin with salvaged state, and is told to come back.
    #[error("data directory {} waits to begin a new cluster with salvaged state (it was started with --from): --rejoin is for a node that has lost its disk. To go on, start the node without --rejoin; if the others run already with another directory of this node, which is lost, empty this one and start it with --rejoin", .0.display())]
    Beginning(PathBuf),
    /// The process ended while salvaged state was taken over.
    #[error("data directory {} was being filled with salvaged state (--from), and that was interrupted: start the node again with --from and the same files, or empty the directory to do something else with it", .0.display())]
    HalfFilled(PathBuf),
    /// There is nothing in the directory that could be salvaged.
    #[error("data directory {} holds no data: nothing can be salvaged from it. Salvage the nodes that have data", .0.display())]
    Nothing(PathBuf),
    /// There is no next incarnation.
    #[error(
        "another node remembers incarnation {} of this node, the last that there is: its file `peers` is wrong, restore that node",
        u32::MAX
    )]
    Exhausted,
    /// A file that is replaced as a whole is damaged.
    #[error("{} is damaged (line {line}): restore it from a backup, or empty the data directory and start the node with --rejoin", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line that does not parse, from 1.
        line: usize,
    },
    /// A small file is gone.
    #[error("{} is gone, but this node has run before: without it the node could take another one that has forgotten votes for the one that it knew. Restore the data directory from an exact copy, or start the node with --rejoin (three nodes and more): it keeps what it has, and votes once all other nodes have answered", .0.display())]
    Gone(PathBuf),
    /// There is data, and nothing that says whose.
    #[error("{} is gone, but the data directory holds data: without it nobody can tell whose votes these are. Restore the data directory from an exact copy of its last state, or empty it whole and start the node with --rejoin (three nodes and more)", .0.display())]
    Nameless(PathBuf),
    /// The directory is another node's or another cluster's.
    #[error("data directory {} belongs to {what} {found:#x}, but the configuration says {wanted:#x}: point `data_dir` to this node's own directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// In the directory.
        found: u64,
        /// In the configuration.
        wanted: u64,
    },
    /// The directory was made by a version that kept less in its identity file.
    #[error("data directory {} was made by an earlier version of panchd: start it with that version, or empty the data directories of all nodes to start a new cluster", .0.display())]
    Earlier(PathBuf),
    /// A file of the directory was written by a later version.
    #[error("{} was written by a later version of panchd, and this one cannot read it: start the node with that version, or a newer one. Nothing was changed", .0.display())]
    Later(PathBuf),
    /// A group decides by another protocol than the one that wrote its log.
    #[error("data directory {} was made with protocol = \"{}\" for group {group}{}, but the configuration says \"{}\": the protocol of a group cannot change while it has data, so restore protocol = \"{}\" for it (`cluster.protocol`, or its entry of `cluster.placement`), or empty the data directories of all nodes to start a new cluster", path.display(), found.name(), and_more(*more), wanted.name(), found.name())]
    Protocol {
        /// The directory.
        path: PathBuf,
        /// The first group that differs.
        group: u16,
        /// How many more differ in the same way.
        more: usize,
        /// In the directory.
        found: ProtocolKind,
        /// In the configuration.
        wanted: ProtocolKind,
    },
    /// Keys would be looked for in other groups than those that they were written to.
    #[error("data directory {} was made with other groups for keys: they were \"{found}\" and the configuration says \"{wanted}\" (`*`: keys without a prefix). Keys would not be found where they were written, so restore `prefix`, `groups` and `other_keys` of `cluster.placement`, or empty the data directories of all nodes to start a new cluster", path.display())]
    Routing {
        /// The directory.
        path: PathBuf,
        /// In the directory.
        found: String,
        /// In the configuration.
        wanted: String,
    },
    /// The number of cores or groups changed.
    #[error("data directory {} was made with {what} = {found}, but the configuration says {wanted}: each core has a log of its own groups, so restore {what} = {found}", path.display())]
    Layout {
        /// The directory.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// In the directory.
        found: usize,
        /// In the configuration.
        wanted: usize,
    },
}

/// ` and 2 more`, or nothing.
fn and_more(count: usize) -> String {
    if count > 0 { format!(" and {count} more") } else { String::new() }
}
