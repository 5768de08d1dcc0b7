//! Who a data directory belongs to, and how often its node has started.
//!
//! Whether the node is on its way back from the loss of its disk is in it, too: a crash must not make a member of it.
//!
//! One small file, replaced as a whole ([`crate::small_file`]). The incarnation in it is durable before the node sends or writes
//! anything (protocols D5), and not before it can: a start that fails earlier has not been, and the life before it stands.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use panch_consensus::protocol::ProtocolKind;
use panch_replica::core::next_incarnation;
use panch_replica::familiarity::{Start, Starts};
use panch_replica::founding::{Founder, Founders};
use panch_replica::rejoin::Life;
use panch_wal::Lsn;
use panch_wire::ids::{Incarnation, ReplicaId};
use panch_wire::peer::LifeKey;

use crate::draw::draw;
use crate::memory::{self, PeerMemory};
use crate::small_file::{read, replace};
use crate::starts;
use crate::storage::CoreDirectory;

mod orders;

const FILE: &str = "identity";
const LOCK: &str = "lock";
/// The layout of the identity file.
const FORMAT: u64 = 6;
/// The layout before, which is converted: the other small files need not have been there from the beginning.
const FORMAT_WITHOUT_FILES: u64 = 5;
/// An earlier layout, which is converted: it did not say what the cluster began with.
const FORMAT_WITHOUT_FOUNDING: u64 = 4;
/// What the file started with in the layouts before, of which the first had no number. The logs beside them cannot be read either.
const EARLIER: [&str; 3] = ["cluster ", "format 2\n", "format 3\n"];
/// How many of its files a data directory may have and still be called empty.
/// A crash while the first identity was written leaves the second, a file system on a disk of its own has the third.
const OWN_FILES: [&str; 3] = [LOCK, "identity.new", "lost+found"];

/// What stands for the directory of a node that was absent when the cluster was founded.
const ABSENT: &str = "absent";
/// Whether votes count before they are on stable storage.
const SYNCED: &str = "synced";
const UNSYNCED: &str = "unsynced";
/// Whether the life has ended in order.
const CLOSED: &str = "closed";
const OPEN: &str = "open";
/// States of a node, as the file spells them.
const MEMBER: &str = "member";
const REJOINING: &str = "rejoining";

/// What a data directory says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// The cluster.
    pub(crate) cluster: u64,
    /// The node in it.
    pub(crate) node: ReplicaId,
    /// How many core logs the directory has.
    pub(crate) cores: usize,
    /// How each group of the cluster decides: its log can be read by that protocol only.
    pub(crate) protocols: Vec<ProtocolKind>,
    /// Which group every key lives in, as a line of text that is the same for the same routing.
    pub(crate) routing: String,
    /// How often the node has started, this time included.
    pub(crate) incarnation: Incarnation,
    /// What the core logs are named: drawn once, when the directory was made.
    pub(crate) log: u64,
    /// The node has lost its disk, or its log, and is not a member again yet.
    pub(crate) rejoining: bool,
    /// What the nodes were when the cluster was founded.
    pub(crate) founders: Founders,
    /// The life that has begun.
    pub(crate) life: Life,
    /// What the cluster began with.
    pub(crate) founding: Founding,
}

/// What a cluster began with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Founding {
    /// Names the state that was salvaged for it; 0: it began with nothing.
    pub(crate) name: u64,
    /// The highest incarnation that this state knows.
    pub(crate) above: Incarnation,
}

/// What a node is told about the loss of its disk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Loss {
    /// It has lost nothing; a log in memory is no reason to come back.
    #[default]
    None,
    /// Its log is in memory only: if it has run before, it has lost that.
    OfMemory,
    /// The operator says that the disk was lost.
    OfDisk,
}

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

/// A data directory that this process holds, with its next incarnation, which is durable after [`DataDir::enter`].
pub(crate) struct DataDir {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    /// What is remembered of other nodes.
    pub(crate) peers: PeerMemory,
    /// The node comes back because it has lost the votes that were not on stable storage, with the power.
    pub(crate) has_lost_votes: bool,
    /// The key of this life.
    pub(crate) key: LifeKey,
    /// The lives that others can have heard of; this one once it is noted.
    lives: Mutex<Starts>,
    is_named: AtomicBool,
    /// This life is written down.
    is_entered: AtomicBool,
    /// Cores that are not through with their way back.
    rejoining_cores: AtomicUsize,
    /// A core could not bring everything to stable storage.
    is_open: AtomicBool,
    /// Held for the life of the process: the kernel releases it however the process ends.
    _lock: File,
}

impl DataDir {
    /// Opens or creates the directory for the node described by `wanted` (its incarnation and log name are ignored). A node that
    /// knows of no earlier incarnation gets none: see [`DataDir::begin`]. Nothing of one that has run changes before
    /// [`DataDir::enter`].
    /// A node that is `alone` has nobody to whom it could have said what it has forgotten.
    pub(crate) fn open(
        path: &Path,
        wanted: &Identity,
        loss: Loss,
        alone: bool,
    ) -> Result<Self, IdentityFault> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |error| IdentityFault::Io { path, error }
        };
        fs::create_dir_all(path).map_err(at(path))?;
        let lock = lock(path)?;
        let (file, mut format) = (path.join(FILE), FORMAT);
        let mut identity = match read_identity(path)? {
            Some((identity, found)) => {
                format = found;
                identity
            }
            None => {
                if loss == Loss::OfDisk && !is_empty(path).map_err(at(path))? {
                    return Err(IdentityFault::NotEmpty(path.to_path_buf()));
                }
                if wanted.founding != Founding::default() && !is_empty(path).map_err(at(path))? {
                    return Err(IdentityFault::BeginsWithData(path.to_path_buf()));
                }
                let founding = Founding::default();
                Identity { incarnation: Incarnation(0), log: fresh_name(wanted), founding, ..wanted.clone() }
            }
        };
        check(path, &identity, wanted)?;
        let has_run = identity.incarnation > Incarnation(0);
        orders::check(path, &identity, loss, wanted.founding != Founding::default())?;
        let begins_with_state = wanted.founding != Founding::default();
        if begins_with_state && (has_run || has_begun(path, &identity).map_err(at(path))?) {
            return Err(IdentityFault::BeginsWithData(path.to_path_buf()));
        }
        let is_complete = has_run && format > FORMAT_WITHOUT_FILES && !alone;
        let gone = if is_complete { file_gone(path, identity.cores).map_err(at(path))? } else { None };
        let lacks_files = gone.is_some();
        if loss == Loss::OfDisk && has_run && !identity.rejoining && !lacks_files {
            return Err(IdentityFault::NotEmpty(path.to_path_buf()));
        }
        if let Some(file) = gone.filter(|_| loss == Loss::None && !identity.rejoining) {
            return Err(IdentityFault::Gone(file));
        }
        if lacks_files && !identity.rejoining {
            // Before any file is made anew: a start that fails later must not leave a directory that looks whole, and votes.
            identity.rejoining = true;
            replace(path, FILE, &render(&identity, FORMAT)).map_err(at(&file))?;
        }
        let Life { is_unsynced, boot, .. } = wanted.life;
        let has_lost_votes = has_run && identity.life.has_lost_votes(boot);
        identity.rejoining |=
            loss == Loss::OfDisk || loss == Loss::OfMemory && has_run || has_lost_votes && !alone;
        identity.life = identity.life.next(is_unsynced, boot);
        if has_run {
            identity.incarnation = next_incarnation(identity.incarnation);
        } else {
            // The name of the directory is durable before others hear of it.
            replace(path, FILE, &render(&identity, FORMAT)).map_err(at(&file))?;
        }
        let lives = Mutex::new(starts::load(path, None)?);
        let peers = PeerMemory::open(path)?;
        peers.set_founders(identity.founders);
        let key = LifeKey(draw().map_err(at(path))?);
        let rejoining_cores = AtomicUsize::new(if identity.rejoining { identity.cores } else { 0 });
        let (path, is_open) = (path.to_path_buf(), AtomicBool::new(false));
        Ok(Self {
            path,
            identity,
            peers,
            has_lost_votes,
            key,
            lives,
            is_named: AtomicBool::new(false),
            is_entered: AtomicBool::new(false),
            rejoining_cores,
            is_open,
            _lock: lock,
        })
    }

    /// Holds the directory without beginning anything, to look at what is in it.
    ///
    /// # Errors
    /// If a node uses it, or it is not the directory of the node described by `wanted`, or holds nothing.
    pub(crate) fn look(path: &Path, wanted: &Identity) -> Result<(File, Identity), IdentityFault> {
        if !path.join(FILE).exists() {
            return Err(IdentityFault::Nothing(path.to_path_buf()));
        }
        let lock = lock(path)?;
        let found = read_identity(path)?;
        let (identity, _) = found.ok_or_else(|| IdentityFault::Nothing(path.to_path_buf()))?;
        check(path, &identity, wanted)?;
        let holds_state = identity.founding != Founding::default() && !identity.rejoining;
        if identity.incarnation == Incarnation(0) && !holds_state {
            return Err(IdentityFault::Nothing(path.to_path_buf()));
        }
        Ok((lock, identity))
    }

    /// It is written down, while nothing has begun, what the cluster begins with.
    pub(crate) fn set_founding(&mut self, founding: Founding) -> Result<(), IdentityFault> {
        self.identity.founding = founding;
        self.write(&self.identity)
    }

    /// The others have said what they remember of this node, which knows of no earlier life, and of the founding of the cluster: its
    /// next incarnation begins.
    pub(crate) fn begin(&mut self, last: Incarnation, founders: Founders) -> Result<(), IdentityFault> {
        let last = last.max(self.identity.founding.above);
        let next = last.0.checked_add(1).ok_or(IdentityFault::Exhausted)?;
        self.identity.incarnation = Incarnation(next);
        self.identity.founders = founders;
        self.peers.set_founders(founders);
        Ok(())
    }

    /// All cores have opened, and the node is about to run: its incarnation is durable when this returns, and the files that it
    /// keeps are there.
    pub(crate) fn enter(&self) -> Result<(), IdentityFault> {
        let fault = |file: &str| {
            let path = self.path.join(file);
            move |error| IdentityFault::Io { path, error }
        };
        if !self.path.join(memory::FILE).exists() {
            self.peers.save().map_err(fault(memory::FILE))?;
        }
        let lives = self.lives();
        if !self.path.join(starts::file_of(None)).exists() {
            starts::save(&self.path, None, &lives)?;
        }
        drop(lives);
        self.write(&self.identity)?;
        self.is_entered.store(true, Ordering::Release);
        Ok(())
    }

    /// The lives that others can have heard of.
    pub(crate) fn lives(&self) -> MutexGuard<'_, Starts> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes this life with its key, before it is named to any other node. Blocks for as long as a small file takes to be
    /// written, once.
    pub(crate) fn name_life(&self) -> Result<(), IdentityFault> {
        if self.is_named.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut lives = self.lives();
        let incarnation = self.identity.incarnation;
        if lives.key(incarnation).is_none() {
            let mut after = lives.clone();
            after.add(Start { incarnation, key: self.key, log_end: Lsn(0) }, |_| true);
            starts::save(&self.path, None, &after)?;
            *lives = after;
        }
        self.is_named.store(true, Ordering::Release);
        Ok(())
    }

    /// A core is through with its way back; true if it was the last, and it is written that the node is a member again.
    pub(crate) fn core_is_through(&self) -> Result<bool, IdentityFault> {
        if self.rejoining_cores.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(false);
        }
        self.write(&Identity { rejoining: false, ..self.identity.clone() })?;
        Ok(true)
    }

    /// Something is not on stable storage at the end.
    pub(crate) fn leave_open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// All cores have ended in order: it is written that nothing of this life is lost if the power fails now.
    pub(crate) fn close(&self) -> Result<(), IdentityFault> {
        if self.is_open.load(Ordering::Acquire) || !self.is_entered.load(Ordering::Acquire) {
            return Ok(());
        }
        let life = Life { is_closed: true, ..self.identity.life };
        let rejoining = self.rejoining_cores.load(Ordering::Acquire) > 0;
        self.write(&Identity { rejoining, life, ..self.identity.clone() })
    }

    fn write(&self, identity: &Identity) -> Result<(), IdentityFault> {
        replace(&self.path, FILE, &render(identity, FORMAT))
            .map_err(|error| IdentityFault::Io { path: self.path.join(FILE), error })
    }
}

/// Holds the directory for as long as the file lives.
fn lock(path: &Path) -> Result<File, IdentityFault> {
    let path_of_lock = path.join(LOCK);
    let at = |error| IdentityFault::Io { path: path_of_lock.clone(), error };
    let lock = File::options().create(true).truncate(false).write(true).open(&path_of_lock).map_err(at)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(IdentityFault::Locked(path.to_path_buf())),
        Err(fs::TryLockError::Error(error)) => Err(at(error)),
    }
}

/// What the directory says of itself, and in which layout; `None` if it says nothing.
fn read_identity(path: &Path) -> Result<Option<(Identity, u64)>, IdentityFault> {
    let file = path.join(FILE);
    match read(&file)? {
        Some(text) if EARLIER.iter().any(|earlier| text.starts_with(earlier)) => {
            Err(IdentityFault::Earlier(path.to_path_buf()))
        }
        Some(text) => parse(&text).map(Some).map_err(|line| IdentityFault::Damaged { path: file, line }),
        None => Ok(None),
    }
}

/// Whether nothing is in the directory but what this process has put there.
fn is_empty(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if !OWN_FILES.iter().any(|own| name == *own) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a core has had a log.
fn has_begun(path: &Path, identity: &Identity) -> io::Result<bool> {
    for core in 0..identity.cores {
        if CoreDirectory::holds_log(path, core)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A file of a node that has run that is not there.
fn file_gone(path: &Path, cores: usize) -> io::Result<Option<PathBuf>> {
    let starts = (0..cores).map(|core| starts::file_of(Some(core)));
    for name in [memory::FILE.to_owned(), starts::file_of(None)].into_iter().chain(starts) {
        let file = path.join(name);
        if !file.try_exists()? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// A name for the logs of a new directory: no two directories may share it, so that a segment that strays into another
/// directory is noticed.
fn fresh_name(wanted: &Identity) -> u64 {
    let mut seed = Vec::new();
    seed.extend_from_slice(&wanted.cluster.to_le_bytes());
    seed.push(wanted.node.0);
    seed.extend_from_slice(&std::process::id().to_le_bytes());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    seed.extend_from_slice(&now.as_nanos().to_le_bytes());
    panch_wire::checksum::checksum(&seed) | 1
}

fn check(path: &Path, found: &Identity, wanted: &Identity) -> Result<(), IdentityFault> {
    let foreign =
        |what, found, wanted| IdentityFault::Foreign { path: path.to_path_buf(), what, found, wanted };
    let layout =
        |what, found, wanted| IdentityFault::Layout { path: path.to_path_buf(), what, found, wanted };
    if found.cluster != wanted.cluster {
        return Err(foreign("cluster", found.cluster, wanted.cluster));
    }
    if found.node != wanted.node {
        return Err(foreign("node", u64::from(found.node.0) + 1, u64::from(wanted.node.0) + 1));
    }
    if found.cores != wanted.cores {
        return Err(layout("cores", found.cores, wanted.cores));
    }
    if found.protocols.len() != wanted.protocols.len() {
        return Err(layout("groups", found.protocols.len(), wanted.protocols.len()));
    }
    let pairs = || found.protocols.iter().copied().zip(wanted.protocols.iter().copied());
    if let Some((group, pair)) = (0..).zip(pairs()).find(|(_, (found, wanted))| found != wanted) {
        return Err(IdentityFault::Protocol {
            path: path.to_path_buf(),
            group,
            more: pairs().filter(|other| *other == pair).count() - 1,
            found: pair.0,
            wanted: pair.1,
        });
    }
    if found.routing != wanted.routing {
        return Err(IdentityFault::Routing {
            path: path.to_path_buf(),
            found: found.routing.clone(),
            wanted: wanted.routing.clone(),
        });
    }
    Ok(())
}

fn render(identity: &Identity, format: u64) -> String {
    let protocols: Vec<&str> = identity.protocols.iter().map(|kind| kind.name()).collect();
    let mut body = format!(
        "format {format}\ncluster {:#018x}\nnode {}\ncores {}\nprotocols {}\nrouting {}\nincarnation {}\nlog {:#018x}\nstate {}\n",
        identity.cluster,
        u64::from(identity.node.0) + 1,
        identity.cores,
        protocols.join(","),
        identity.routing,
        identity.incarnation.0,
        identity.log,
        if identity.rejoining { REJOINING } else { MEMBER },
    );
    let Life { is_unsynced, boot, is_closed } = identity.life;
    let (votes, end) = (if is_unsynced { UNSYNCED } else { SYNCED }, if is_closed { CLOSED } else { OPEN });
    body += &format!("founders {}\n", render_founders(&identity.founders));
    body += &format!("life {votes} {boot:#018x} {end}\n");
    if format > FORMAT_WITHOUT_FOUNDING {
        let Founding { name, above } = identity.founding;
        body += &format!("founding {name:#018x} above {}\n", above.0);
    }
    let sum = panch_wire::checksum::checksum(body.as_bytes());
    format!("{body}checksum {sum:#018x}\n")
}

/// `1:NAME 2:absent`: nodes of which nothing is known are left out.
fn render_founders(founders: &Founders) -> String {
    let words = (1..).zip(founders).filter_map(|(node, founder)| match founder {
        Founder::Unknown => None,
        Founder::Absent => Some(format!("{node}:{ABSENT}")),
        Founder::With(directory) => Some(format!("{node}:{directory:#018x}")),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn parse_founders(text: &str) -> Option<Founders> {
    let mut founders = Founders::default();
    for word in text.split_whitespace() {
        let (node, founder) = word.split_once(':')?;
        let founder = match founder {
            ABSENT => Founder::Absent,
            name => Founder::With(u64::from_str_radix(name.strip_prefix("0x")?, 16).ok()?),
        };
        *founders.get_mut(node.parse::<usize>().ok()?.checked_sub(1)?)? = founder;
    }
    Some(founders)
}

/// `synced BOOT open`, or other words for what [`Life`] says.
fn parse_life(text: &str) -> Option<Life> {
    let [votes, boot, end] = text.split(' ').collect::<Vec<_>>()[..] else { return None };
    let is = |word: &str, yes: &str, no: &str| (word == yes || word == no).then_some(word == yes);
    Some(Life {
        is_unsynced: is(votes, UNSYNCED, SYNCED)?,
        boot: u64::from_str_radix(boot.strip_prefix("0x")?, 16).ok()?,
        is_closed: is(end, CLOSED, OPEN)?,
    })
}

/// `NAME above INCARNATION`.
fn parse_founding(text: &str) -> Option<Founding> {
    let [name, "above", above] = text.split(' ').collect::<Vec<_>>()[..] else { return None };
    let name = u64::from_str_radix(name.strip_prefix("0x")?, 16).ok()?;
    Some(Founding { name, above: Incarnation(above.parse().ok()?) })
}

/// Parses the file, of this layout or of an earlier one, and says which; the number of the first bad line as the error.
fn parse(text: &str) -> Result<(Identity, u64), usize> {
    let line = |index: usize, key: &str| {
        let value = text.lines().nth(index).and_then(|line| line.strip_prefix(key)?.strip_prefix(' '));
        value.ok_or(index + 1)
    };
    let number = |index: usize, key: &str| {
        let value = line(index, key)?;
        let number = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => value.parse().ok(),
        };
        number.ok_or(index + 1)
    };
    let format = number(0, "format")?;
    if !(FORMAT_WITHOUT_FOUNDING..=FORMAT).contains(&format) {
        return Err(1);
    }
    let node = u8::try_from(number(2, "node")?).ok().and_then(|node| node.checked_sub(1)).ok_or(3usize)?;
    let rejoining = match line(8, "state")? {
        REJOINING => true,
        MEMBER => false,
        _ => return Err(9),
    };
    let founders = parse_founders(line(9, "founders")?).ok_or(10usize)?;
    let life = parse_life(line(10, "life")?).ok_or(11usize)?;
    let founding = if format > FORMAT_WITHOUT_FOUNDING {
        parse_founding(line(11, "founding")?).ok_or(12usize)?
    } else {
        Founding::default()
    };
    let protocols: Option<Vec<_>> = line(4, "protocols")?.split(',').map(ProtocolKind::from_name).collect();
    let identity = Identity {
        cluster: number(1, "cluster")?,
        node: ReplicaId(node),
        cores: number(3, "cores")? as usize,
        protocols: protocols.ok_or(5usize)?,
        routing: line(5, "routing")?.to_owned(),
        incarnation: Incarnation(u32::try_from(number(6, "incarnation")?).map_err(|_| 7usize)?),
        log: number(7, "log")?,
        rejoining,
        founders,
        life,
        founding,
    };
    if render(&identity, format) != text {
        return Err(text.lines().count());
    }
    Ok((identity, format))
}

#[cfg(test)]
mod tests;
