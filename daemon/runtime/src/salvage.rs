//! Files of salvaged state: writing one from a data directory that no node uses, and beginning with one. What may be done with them is decided
//! in [`panch_replica::salvage`].

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use panch_consensus::protocol::random;
use panch_replica::core::{Core, next_incarnation};
use panch_replica::salvage::{
    MAGIC, Misfit, Nobody, Salvage, Salvaged, TEXT_SIZE_MAX, TRAILER_SIZE, choose, founding_of,
};
use panch_replica::snapshot::{SnapshotError, SnapshotFiles, SnapshotReader};
use panch_ring::file;
use panch_wal::{Durability, SegmentReader, recover};
use panch_wire::frame::FramePool;
use panch_wire::ids::GroupId;

use crate::identity::{DataDir, Founding, Identity};
use crate::node::{NodeFault, core_config, wanted_identity};
use crate::options::NodeOptions;
use crate::storage::CoreDirectory;

/// Bytes that are read or written at once.
const CHUNK_SIZE: usize = 1 << 20;

/// How long a node waits for others before it says what can be done if they never come.
pub(crate) const WAY_BACK_AFTER: Duration = Duration::from_secs(15);

/// What to do when a majority has forgotten votes.
pub(crate) fn way_back(options: &NodeOptions) -> String {
    format!(
        "The way back if that cannot be, because a majority has lost its disks or its last votes: stop all nodes and run `{}` on each whose data \
         directory is left. It says what may be lost, and how a new cluster begins with the rest",
        salvage_command(options)
    )
}

fn salvage_command(options: &NodeOptions) -> String {
    let mut out = options.data_dir.clone().into_os_string();
    out.push(".salvage");
    format!("panchd salvage --config {} --out {}", options.config_file.display(), Path::new(&out).display())
}

/// Why salvaged state cannot be written, or used.
#[derive(Debug, thiserror::Error)]
pub enum SalvageFault {
    /// The file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// What is to be written is there already.
    #[error("{} is there already: choose another name, or remove it", .0.display())]
    Exists(PathBuf),
    /// The file is none, or damaged.
    #[error("{} is no file that this version of `panchd salvage` has written, or it is damaged: copy it again, or salvage again", .0.display())]
    Damaged(PathBuf),
    /// The state of a group in the file is not what the file says.
    #[error("{}: the state of group {} is damaged ({error}): copy the file again, or salvage again", path.display(), group.0)]
    State {
        /// The file.
        path: PathBuf,
        /// The group.
        group: GroupId,
        /// What is wrong.
        error: SnapshotError,
    },
    /// The file does not belong to this cluster.
    #[error("{}: {misfit}", path.display())]
    Misfit {
        /// The file.
        path: PathBuf,
        /// What differs.
        misfit: Misfit,
    },
    /// The files do not go together.
    #[error("{0}")]
    Choice(Misfit),
}

/// Writes the state that the data directory of a node shows to `out`, durably. The directory stays as it is.
///
/// # Errors
/// If a node uses the directory, or could not start with what is in it; if the file is there already.
pub fn salvage(options: &NodeOptions, out: &Path) -> Result<Salvage, NodeFault> {
    if out.exists() {
        return Err(SalvageFault::Exists(out.to_path_buf()).into());
    }
    let wanted = wanted_identity(options);
    let (_lock, identity) = DataDir::look(&options.data_dir, &wanted)?;
    let mut found = Salvage {
        cluster: identity.cluster,
        founding: identity.founding.name,
        node: identity.node,
        node_count: options.members.len(),
        protocols: identity.protocols.clone(),
        routing: identity.routing.clone(),
        groups: Vec::new(),
    };
    let mut cores = Vec::new();
    for index in 0..identity.cores {
        let mut core = load_core(options, &identity, index)?;
        found.groups.extend(core.salvage());
        cores.push(core);
    }
    found.groups.sort_by_key(|it| it.group);
    for it in &mut found.groups {
        it.incarnation = it.incarnation.max(identity.incarnation);
    }
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = out.with_file_name(name);
    let written = write(&mut found, &mut cores, &beside).and_then(|()| file::rename(&beside, out));
    if let Err(error) = written {
        let _ = fs::remove_file(&beside);
        return Err(SalvageFault::Io { path: out.to_path_buf(), error }.into());
    }
    Ok(found)
}

/// Writes the states of all groups, and what they are, durably.
fn write(found: &mut Salvage, cores: &mut [Core], path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut chunk = Vec::new();
    let count = cores.len();
    for it in &mut found.groups {
        // Groups are dealt out to cores in turn.
        let core = &mut cores[it.group.index() % count];
        loop {
            chunk.clear();
            let is_last = core.salvage_chunk(it.group, &mut chunk, CHUNK_SIZE);
            file.write_all(&chunk)?;
            it.size += chunk.len() as u64;
            if is_last {
                break;
            }
        }
    }
    let text = found.render();
    file.write_all(text.as_bytes())?;
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(&MAGIC)?;
    file.sync_all()
}

/// A core with what its snapshots and its log hold, as a start has it.
fn load_core(options: &NodeOptions, identity: &Identity, index: usize) -> Result<Core, NodeFault> {
    let path = options.data_dir.join(format!("core-{index}"));
    let directory_fault = |error| NodeFault::Directory { path: path.clone(), error };
    let log_fault = |fault| NodeFault::Log { path: path.clone(), fault };
    let directory = CoreDirectory::open(&options.data_dir, index).map_err(directory_fault)?;
    let SnapshotFiles { newest, .. } = directory.snapshot_files().map_err(directory_fault)?;
    let mut snapshots = Vec::new();
    for (group, slot) in newest {
        let loaded = directory.load_snapshot(group, slot, options.replica.hash_seed);
        let fault = |fault| NodeFault::Snapshot { path: directory.snapshot(group, slot), fault };
        let (file, restored) = loaded.map_err(fault)?;
        snapshots.push((group, file, restored));
    }
    let mut segments = directory.segments();
    let existing = segments.segments().map_err(directory_fault)?;
    let inventory = directory.inventory().map_err(directory_fault)?.map_err(log_fault)?;
    let in_memory = options.log.durability == Durability::Memory;
    if existing.is_empty() && directory.has_begun().map_err(directory_fault)? && !in_memory {
        return Err(NodeFault::LogMissing { path, core: index });
    }
    let pool = FramePool::new(options.frame_pool_size);
    let config = core_config(options, index, false);
    let mut core = Core::open(
        &config,
        next_incarnation(identity.incarnation),
        pool.clone(),
        |_| random(0),
        |group| {
            let at = snapshots.iter().position(|(other, _, _)| *other == group)?;
            let (_, file, restored) = snapshots.swap_remove(at);
            Some((file, restored))
        },
    );
    if !existing.is_empty() {
        let mut fault = None;
        let name = identity.log ^ index as u64;
        let recovered = recover(&mut segments, name, inventory.as_ref(), &pool, |entry| {
            if fault.is_none() {
                fault = core.replay(entry, &mut Nobody).err();
            }
        });
        recovered.map_err(log_fault)?;
        if let Some(fault) = fault {
            return Err(NodeFault::Replay { path, fault });
        }
        core.check_past().map_err(|fault| NodeFault::Past { path, fault })?;
    }
    Ok(core)
}

/// Files of salvaged state that a node is to begin with, and which of them for each group.
pub(crate) struct Beginning {
    paths: Vec<PathBuf>,
    files: Vec<Salvage>,
    /// By group.
    chosen: Vec<usize>,
    pub(crate) founding: Founding,
}

impl Beginning {
    /// Reads what the files say of themselves; `None` if there are none.
    pub(crate) fn open(options: &NodeOptions) -> Result<Option<Self>, SalvageFault> {
        if options.begin_with.is_empty() {
            return Ok(None);
        }
        let paths = options.begin_with.clone();
        let mut files = Vec::new();
        for path in &paths {
            let file = read_text(path)?.ok_or_else(|| SalvageFault::Damaged(path.clone()))?;
            let routing = options.routing.to_string();
            let fits = file.check(options.cluster, options.members.len(), &options.protocols, &routing);
            fits.map_err(|misfit| SalvageFault::Misfit { path: path.clone(), misfit })?;
            files.push(file);
        }
        let chosen = choose(&files).map_err(SalvageFault::Choice)?;
        let groups = || chosen.iter().enumerate().map(|(group, file)| &files[*file].groups[group]);
        let name = founding_of(options.cluster, files[0].founding, groups());
        let above = groups().map(|it| it.incarnation).max().unwrap_or_default();
        Ok(Some(Self { founding: Founding { name, above }, paths, files, chosen }))
    }

    /// Writes the snapshot of every group into the data directory, durably, in place of others that an earlier try has left.
    pub(crate) fn install(&self, options: &NodeOptions) -> Result<(), NodeFault> {
        let cores = options.cpus.len();
        for index in 0..cores {
            let path = options.data_dir.join(format!("core-{index}"));
            let fault = |error| NodeFault::Directory { path: path.clone(), error };
            let directory = CoreDirectory::open(&options.data_dir, index).map_err(fault)?;
            let SnapshotFiles { newest, superseded } = directory.snapshot_files().map_err(fault)?;
            directory.remove_snapshots(&[newest, superseded].concat()).map_err(fault)?;
            for group in (index..self.chosen.len()).step_by(cores) {
                self.install_group(group, &directory, options.replica.hash_seed)?;
            }
        }
        Ok(())
    }

    fn install_group(
        &self,
        group: usize,
        directory: &CoreDirectory,
        hash_seed: u64,
    ) -> Result<(), NodeFault> {
        let (path, file) = (&self.paths[self.chosen[group]], &self.files[self.chosen[group]]);
        let it = &file.groups[group];
        let at = |error| SalvageFault::Io { path: path.clone(), error };
        let state = |error| SalvageFault::State { path: path.clone(), group: it.group, error };
        let from = File::open(path).map_err(at)?;
        let start: u64 = file.groups[..group].iter().map(|it| it.size).sum();
        let to = directory.snapshot(it.group, it.executed);
        let written = |error| NodeFault::Directory { path: to.clone(), error };
        let mut partial = directory.begin_snapshot(it.group, it.executed).map_err(written)?;
        let mut reader = SnapshotReader::new(hash_seed);
        let mut buffer = vec![0; CHUNK_SIZE];
        let mut done = 0;
        while done < it.size {
            let chunk = &mut buffer[..CHUNK_SIZE.min((it.size - done) as usize)];
            from.read_exact_at(chunk, start + done).map_err(at)?;
            reader.feed(chunk).map_err(state)?;
            partial.write_all(chunk).map_err(written)?;
            done += chunk.len() as u64;
        }
        let restored = reader.finish().map_err(state)?;
        if !is_it(it, &restored) {
            return Err(state(SnapshotError::Totals).into());
        }
        directory.end_snapshot(partial, it.group, it.executed).map_err(written)
    }
}

fn is_it(it: &Salvaged, restored: &panch_replica::snapshot::Restored) -> bool {
    let covered = &restored.covered;
    (restored.group, covered.count(), covered.digest(), restored.machine.digest())
        == (it.group, it.executed, it.covered, it.digest)
}

/// What the file says of itself; `None` if it is none, or damaged.
fn read_text(path: &Path) -> Result<Option<Salvage>, SalvageFault> {
    let at = |error| SalvageFault::Io { path: path.to_path_buf(), error };
    let file = File::open(path).map_err(at)?;
    let size = fs::metadata(path).map_err(at)?.len();
    let mut trailer = [0; TRAILER_SIZE];
    let Some(end) = size.checked_sub(TRAILER_SIZE as u64) else { return Ok(None) };
    file.read_exact_at(&mut trailer, end).map_err(at)?;
    let (length, magic) = trailer.split_at(8);
    let length = u64::from_le_bytes(length.try_into().map_err(|_| at(ErrorKind::InvalidData.into()))?);
    let Some(start) = end.checked_sub(length).filter(|_| magic == MAGIC && length <= TEXT_SIZE_MAX) else {
        return Ok(None);
    };
    let mut text = vec![0; length as usize];
    file.read_exact_at(&mut text, start).map_err(at)?;
    let found = String::from_utf8(text).ok().and_then(|text| Salvage::parse(&text));
    Ok(found.filter(|found| found.groups.iter().map(|it| it.size).sum::<u64>() == start))
}
