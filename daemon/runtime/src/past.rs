//! What the directory of a core holds of its past, as a start and `panchd salvage` read it.

use std::path::{Path, PathBuf};

use panch_consensus::protocol::Random;
use panch_replica::core::{Core, CoreConfig};
use panch_replica::outbox::Outbox;
use panch_replica::snapshot::{Restored, SnapshotFiles};
use panch_replica::transfer::SnapshotFile;
use panch_wal::{Inventory, Lsn, Recovered, SegmentFile, SegmentReader, recover};
use panch_wire::frame::FramePool;
use panch_wire::ids::{GroupId, Incarnation, Slot};

use crate::node::NodeFault;
use crate::starts;
use crate::storage::{CoreDirectory, DirectoryReader};

/// The snapshots of a core, and which files its log has.
pub(crate) struct Past {
    /// The core's directory.
    path: PathBuf,
    /// Until they are handed to the core.
    snapshots: Vec<(GroupId, SnapshotFile, Restored)>,
    /// Snapshots that do not count any more.
    pub(crate) superseded: Vec<(GroupId, Slot)>,
    /// The files of the log, in no order.
    pub(crate) segments: Vec<SegmentFile>,
    /// Which there should be; `None` if that is not known.
    pub(crate) inventory: Option<Inventory>,
    has_begun: bool,
    /// There is no log, and an earlier start is noted to have found one.
    has_found_log: bool,
    awaits_log: bool,
}

impl Past {
    /// Reads the snapshots, and which files there are.
    ///
    /// # Errors
    /// If a snapshot cannot be used, or the directory, the inventory or the notes of starts cannot be read.
    pub(crate) fn read(
        data_dir: &Path,
        core: usize,
        directory: &CoreDirectory,
        hash_seed: u64,
    ) -> Result<Self, NodeFault> {
        let path = &data_dir.join(format!("core-{core}"));
        let fault = |error| NodeFault::Directory { path: path.clone(), error };
        let segments = directory.segments().segments().map_err(fault)?;
        let has_found_log = segments.is_empty() && has_found_log(data_dir, core)?;
        let SnapshotFiles { newest, superseded } = directory.snapshot_files().map_err(fault)?;
        let mut snapshots = Vec::new();
        for (group, slot) in newest {
            let fault = |fault| NodeFault::Snapshot { path: directory.snapshot(group, slot), fault };
            let (file, restored) = directory.load_snapshot(group, slot, hash_seed).map_err(fault)?;
            snapshots.push((group, file, restored));
        }
        let inventory = directory.inventory().map_err(fault)?;
        let inventory = inventory.map_err(|fault| NodeFault::Log { path: path.clone(), fault })?;
        Ok(Self {
            path: path.clone(),
            snapshots,
            superseded,
            segments,
            inventory,
            has_begun: directory.has_begun().map_err(fault)?,
            has_found_log,
            awaits_log: directory.awaits_log().map_err(fault)?,
        })
    }

    /// Whether there is a log.
    pub(crate) fn has_log(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Whether the core's log has a mark beside it. One that has none and is there was made by a start that came no further.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the core has had no log yet, as far as its directory tells.
    pub(crate) fn is_before_log(&self) -> bool {
        !self.has_log() && !self.has_begun && !self.has_found_log
    }

    /// Whether there was a log, and is none. Judged by what it left behind and not by the incarnation: a first start that failed early has
    /// not voted. A state without a log is one that the cluster began with, or what is left of one that is gone.
    /// A node that comes back from the loss of its disk has said so already.
    pub(crate) fn is_log_lost(&self, is_returning: bool) -> bool {
        let is_left = self.has_begun || self.has_found_log && !is_returning;
        !self.has_log() && (is_left || !self.snapshots.is_empty() && !self.awaits_log)
    }

    /// Whether the state of the group is there.
    pub(crate) fn has_snapshot(&self, group: GroupId) -> bool {
        self.snapshots.iter().any(|(other, _, _)| *other == group)
    }

    /// A core with the states that were found.
    pub(crate) fn open(
        &mut self,
        config: &CoreConfig,
        incarnation: Incarnation,
        pool: FramePool,
        random: impl FnMut(GroupId) -> Random,
    ) -> Core {
        Core::open(config, incarnation, pool, random, |group| {
            let at = self.snapshots.iter().position(|(other, _, _)| *other == group)?;
            let (_, file, restored) = self.snapshots.swap_remove(at);
            Some((file, restored))
        })
    }

    /// Replays the log named `identity` into the core.
    ///
    /// # Errors
    /// If the log cannot be read or trusted, or is not the whole past.
    pub(crate) fn replay(
        &self,
        segments: &mut DirectoryReader<'_>,
        identity: u64,
        pool: &FramePool,
        core: &mut Core,
        out: &mut impl Outbox,
    ) -> Result<Recovered, NodeFault> {
        let path = || self.path.clone();
        let mut fault = None;
        let recovered = recover(segments, identity, self.inventory.as_ref(), pool, |entry| {
            if fault.is_none() {
                fault = core.replay(entry, out).err();
            }
        });
        let recovered = recovered.map_err(|fault| NodeFault::Log { path: path(), fault })?;
        if let Some(fault) = fault {
            return Err(NodeFault::Replay { path: path(), fault });
        }
        core.check_past().map_err(|fault| NodeFault::Past { path: path(), fault })?;
        Ok(recovered)
    }
}

/// Whether an earlier start of the core is noted to have found a log.
fn has_found_log(data_dir: &Path, core: usize) -> Result<bool, NodeFault> {
    let (_, starts) = starts::open(data_dir, Some(core))?;
    Ok(starts.iter().any(|start| start.log_end > Lsn(0)))
}
