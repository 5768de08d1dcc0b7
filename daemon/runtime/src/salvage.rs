//! Files of salvaged state: writing one from a data directory that no node uses, and beginning with one. What may be done with them is decided
//! in [`panch_replica::salvage`].

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use panch_consensus::protocol::{Value, random};
use panch_consensus::remnant::Remnant;
use panch_replica::core::{Core, CoreConfig, next_incarnation};
use panch_replica::salvage::{
    MAGIC, Misfit, Nobody, Pick, Salvage, Salvaged, TEXT_SIZE_MAX, TRAILER_SIZE, bytes, choose, founding_of,
    is_earlier, lost_with, merge,
};
use panch_replica::snapshot::{Restored, SnapshotError, SnapshotFiles, SnapshotReader};
use panch_replica::transfer::SnapshotFile;
use panch_ring::file;
use panch_wal::Durability;
use panch_wire::batch::BatchView;
use panch_wire::checksum::checksum;
use panch_wire::frame::{FramePool, PAGE_SIZE};
use panch_wire::ids::{GroupId, ReplicaId, Slot};

use crate::complaints::say;
use crate::draw::draw;
use crate::identity::{DataDir, Founding, Identity};
use crate::node::{NodeFault, core_config, wanted_identity};
use crate::options::NodeOptions;
use crate::past::Past;
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
    /// A file that a cluster is to begin with cannot be read.
    #[error("cannot read {}, named by --from: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}, named by --out: {error}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// A batch in the file finds no memory.
    #[error("{}: a batch of {size} bytes finds no memory: raise `node.frame_pool_size`", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// Bytes of the batch.
        size: u64,
    },
    /// What is to be written is there already.
    #[error("{} is there already: choose another name, or remove it", .0.display())]
    Exists(PathBuf),
    /// The file is none, or damaged.
    #[error("{} is no file that this version of `panchd salvage` has written, or it is damaged: copy it again, or salvage again", .0.display())]
    Damaged(PathBuf),
    /// The file was written by an earlier version.
    #[error("{} was written by `panchd salvage` of an earlier version, which does not say of a node that was contradicted what it would have to: salvage the data directory of that node, or the copy that was kept, again with this version; if neither is left, begin the cluster with the version that wrote the file, and upgrade it then", .0.display())]
    Earlier(PathBuf),
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
    let unwritable = |error| SalvageFault::Unwritable { path: out.to_path_buf(), error };
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = out.with_file_name(name);
    // Before all the work: a name that cannot be written is said at once.
    let mut file = File::create(&beside).map_err(unwritable)?;
    let found = salvage_to(options, &mut file).and_then(|found| {
        file::rename(&beside, out).map(|()| found).map_err(|error| unwritable(error).into())
    });
    if found.is_err() {
        let _ = fs::remove_file(&beside);
    }
    found.map_err(|fault| match fault {
        NodeFault::Salvage(SalvageFault::Unwritable { error, .. }) => unwritable(error).into(),
        other => other,
    })
}

/// Writes everything but the name of the file.
fn salvage_to(options: &NodeOptions, file: &mut File) -> Result<Salvage, NodeFault> {
    let unwritable = |error| SalvageFault::Unwritable { path: PathBuf::new(), error };
    let wanted = wanted_identity(options);
    let (_lock, identity) = DataDir::look(&options.data_dir, &wanted)?;
    let mut found = Salvage {
        cluster: identity.cluster,
        founding: identity.founding.name,
        name: name().map_err(unwritable)?,
        node: identity.node,
        node_count: options.members.len(),
        protocols: identity.protocols.clone(),
        routing: identity.routing.clone(),
        groups: Vec::new(),
    };
    let (mut cores, mut remnants) = (Vec::new(), Vec::new());
    for index in 0..identity.cores {
        let mut core = load_core(options, &identity, index)?;
        for (it, left) in core.salvage() {
            remnants.push((it.group, left));
            found.groups.push(it);
        }
        cores.push(core);
    }
    found.groups.sort_by_key(|it| it.group);
    remnants.sort_by_key(|(group, _)| *group);
    for it in &mut found.groups {
        it.incarnation = it.incarnation.max(identity.incarnation);
    }
    write(&mut found, &mut cores, &remnants, file).map_err(unwritable)?;
    Ok(found)
}

/// A number that no other file has.
fn name() -> io::Result<u64> {
    Ok(checksum(&draw()?))
}

/// Writes the states of all groups, what is beside them, and what they are, durably.
fn write(
    found: &mut Salvage,
    cores: &mut [Core],
    remnants: &[(GroupId, Vec<(Remnant, Value)>)],
    file: &mut File,
) -> io::Result<()> {
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
    for (it, (_, remnants)) in found.groups.iter_mut().zip(remnants) {
        chunk.clear();
        for (remnant, value) in remnants {
            bytes::push(&mut chunk, remnant, value.body());
        }
        file.write_all(&chunk)?;
        it.remnants = remnants.len() as u64;
        it.remnants_size = chunk.len() as u64;
        it.remnants_sum = checksum(&chunk);
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
    let directory = CoreDirectory::open(&options.data_dir, index).map_err(directory_fault)?;
    let mut past = Past::read(&options.data_dir, index, &directory, options.replica.hash_seed)?;
    let in_memory = options.log.durability == Durability::Memory;
    if past.is_log_lost(identity.rejoining) && !in_memory {
        return Err(NodeFault::LogMissing { path, core: index });
    }
    let pool = FramePool::new(options.frame_pool_size);
    let config = core_config(options, index, false);
    let mut core = past.open(&config, next_incarnation(identity.incarnation), pool.clone(), |_| random(0));
    if past.has_log() {
        let name = identity.log ^ index as u64;
        past.replay(&mut directory.segments(), name, &pool, &mut core, &mut Nobody)?;
    }
    Ok(core)
}

/// A file of salvaged state that a node is to begin with.
struct Given {
    path: PathBuf,
    file: Salvage,
    /// By group: where the batch of each remnant lies in the file, and how many bytes it has.
    bodies: Vec<Vec<(u64, u64)>>,
}

/// Files of salvaged state that a node is to begin with, in the order of their nodes, and which of them each group builds on.
pub(crate) struct Beginning {
    given: Vec<Given>,
    /// By file and group.
    remnants: Vec<Vec<Vec<Remnant>>>,
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
        let mut given = Vec::new();
        for path in &options.begin_with {
            let file = read_text(path)?.ok_or_else(|| SalvageFault::Damaged(path.clone()))?;
            let routing = options.routing.to_string();
            let fits = file.check(options.cluster, options.members.len(), &options.protocols, &routing);
            fits.map_err(|misfit| SalvageFault::Misfit { path: path.clone(), misfit })?;
            let (remnants, bodies) = read_remnants(path, &file)?;
            given.push((Given { path: path.clone(), file, bodies }, remnants));
        }
        // Whoever is given the same files begins with the same, in whatever order they are named.
        given.sort_by_key(|(it, _)| (it.file.node, it.file.name));
        given.dedup_by_key(|(it, _)| (it.file.node, it.file.name));
        let (given, remnants): (Vec<Given>, Vec<_>) = given.into_iter().unzip();
        let files: Vec<Salvage> = given.iter().map(|it| it.file.clone()).collect();
        let chosen = choose(&files, &remnants).map_err(SalvageFault::Choice)?;
        let name = founding_of(options.cluster, files[0].founding, files.iter().map(|file| file.name));
        let groups = files.iter().flat_map(|file| &file.groups);
        let above = groups.map(|it| it.incarnation).max().unwrap_or_default();
        Ok(Some(Self { given, remnants, chosen, founding: Founding { name, above } }))
    }

    /// Writes the snapshot of every group into the data directory, durably, in place of others that an earlier try has left.
    pub(crate) fn install(&self, options: &NodeOptions) -> Result<(), NodeFault> {
        let cores = options.cpus.len();
        for index in 0..cores {
            let path = options.data_dir.join(format!("core-{index}"));
            let fault = |error| NodeFault::Directory { path: path.clone(), error };
            let directory = CoreDirectory::open(&options.data_dir, index).map_err(fault)?;
            directory.await_log().map_err(fault)?;
            let SnapshotFiles { newest, superseded } = directory.snapshot_files().map_err(fault)?;
            directory.remove_snapshots(&[newest, superseded].concat()).map_err(fault)?;
            for group in (index..self.chosen.len()).step_by(cores) {
                self.install_group(options, group, &directory)?;
            }
        }
        Ok(())
    }

    fn install_group(
        &self,
        options: &NodeOptions,
        group: usize,
        directory: &CoreDirectory,
    ) -> Result<(), NodeFault> {
        let base = &self.given[self.chosen[group]];
        let id = base.file.groups[group].group;
        let restored = base.state(group, options.replica.hash_seed)?;
        let order = options.protocols[group].order();
        let sound: Vec<usize> =
            (0..self.given.len()).filter(|file| !self.given[*file].file.groups[group].diverged).collect();
        let files: Vec<(ReplicaId, &[Remnant])> = sound
            .iter()
            .map(|file| (self.given[*file].file.node, &self.remnants[*file][group][..]))
            .collect();
        let picks = merge(id, order, &files, |position| restored.covered.contains(position));
        let picks = picks.map_err(SalvageFault::Choice)?;
        let bodies = |pick: &Pick| self.given[sound[pick.file]].bodies[group][pick.index];
        let size: usize = picks.iter().map(|pick| 2 * bodies(pick).1 as usize + PAGE_SIZE).sum();
        let pool = FramePool::new(options.frame_pool_size.max(size));
        let mut remnants = Vec::new();
        for pick in &picks {
            let value = self.given[sound[pick.file]].value(&pick.remnant, id, bodies(pick), &pool)?;
            remnants.push((pick.remnant, value));
        }
        let before = restored.covered.count();
        let file = SnapshotFile { slot: before, size: base.file.groups[group].size };
        let mut past = Some((file, restored));
        let config = CoreConfig {
            groups: vec![(id, options.protocols[group])],
            ..core_config(options, group % options.cpus.len(), false)
        };
        let mut core =
            Core::open(&config, next_incarnation(self.founding.above), pool, |_| random(0), |_| past.take());
        let it = core.take_over(id, remnants).expect("the core has this group");
        let to = directory.snapshot(id, it.executed);
        let written = |error| NodeFault::Directory { path: to.clone(), error };
        let mut partial = directory.begin_snapshot(id, it.executed).map_err(written)?;
        let mut chunk = Vec::new();
        loop {
            chunk.clear();
            let is_last = core.salvage_chunk(id, &mut chunk, CHUNK_SIZE);
            partial.write_all(&chunk).map_err(written)?;
            if is_last {
                break;
            }
        }
        directory.end_snapshot(partial, id, it.executed).map_err(written)?;
        self.say_what_counts(group, before, picks.len() as u64, &it);
        Ok(())
    }

    fn say_what_counts(&self, group: usize, before: Slot, picks: u64, it: &Salvaged) {
        let base = &self.given[self.chosen[group]].file;
        let files: Vec<Salvage> = self.given.iter().map(|it| it.file.clone()).collect();
        let lost = lost_with(&files, &self.remnants, group, base);
        let empty = (it.executed.0 - before.0).saturating_sub(picks);
        say(format_args!(
            "group {group} begins with what node {} had executed ({} positions), and {picks} values beyond that from all files, whether they are \
             known to be decided or not; of {empty} positions between them nothing is left. {} keys, digest {:016x}",
            base.node.0 + 1,
            before.0,
            it.keys,
            it.digest,
        ));
        if lost > 0 {
            say(format_args!(
                "group {group}: {lost} positions that another node has executed are LOST: their values are in none of the files"
            ));
        }
    }
}

impl Given {
    /// The state of a group in the file.
    fn state(&self, group: usize, hash_seed: u64) -> Result<Restored, SalvageFault> {
        let (path, file) = (&self.path, &self.file);
        let it = &file.groups[group];
        let at = |error| SalvageFault::Unreadable { path: path.clone(), error };
        let state = |error| SalvageFault::State { path: path.clone(), group: it.group, error };
        let from = File::open(path).map_err(at)?;
        let start: u64 = file.groups[..group].iter().map(|it| it.size).sum();
        let mut reader = SnapshotReader::new(hash_seed);
        let mut buffer = vec![0; CHUNK_SIZE];
        let mut done = 0;
        while done < it.size {
            let chunk = &mut buffer[..CHUNK_SIZE.min((it.size - done) as usize)];
            from.read_exact_at(chunk, start + done).map_err(at)?;
            reader.feed(chunk).map_err(state)?;
            done += chunk.len() as u64;
        }
        let restored = reader.finish().map_err(state)?;
        if is_it(it, &restored) { Ok(restored) } else { Err(state(SnapshotError::Totals)) }
    }

    /// The value of a remnant, whose batch lies there.
    fn value(
        &self,
        remnant: &Remnant,
        group: GroupId,
        (offset, size): (u64, u64),
        pool: &FramePool,
    ) -> Result<Value, SalvageFault> {
        let damaged = || SalvageFault::State { path: self.path.clone(), group, error: SnapshotError::Totals };
        if size == 0 {
            return if remnant.checksum == 0 { Ok(Value::Noop) } else { Err(damaged()) };
        }
        let at = |error| SalvageFault::Unreadable { path: self.path.clone(), error };
        let memory = pool.take(size as usize);
        let mut memory = memory.ok_or_else(|| SalvageFault::Memory { path: self.path.clone(), size })?;
        let from = File::open(&self.path).map_err(at)?;
        from.read_exact_at(&mut memory[..size as usize], offset).map_err(at)?;
        let frame = memory.receive(size as usize).map_err(|_| damaged())?;
        let is_sound = frame.checksum() == remnant.checksum && BatchView::access(&frame).is_ok();
        if is_sound { Ok(Value::Batch(frame)) } else { Err(damaged()) }
    }
}

fn is_it(it: &Salvaged, restored: &Restored) -> bool {
    let covered = &restored.covered;
    (restored.group, covered.count(), covered.digest(), restored.machine.digest())
        == (it.group, it.executed, it.covered, it.digest)
}

/// What the file says of itself; `None` if it is none, or damaged.
fn read_text(path: &Path) -> Result<Option<Salvage>, SalvageFault> {
    let at = |error| SalvageFault::Unreadable { path: path.to_path_buf(), error };
    let file = File::open(path).map_err(at)?;
    let meta = fs::metadata(path).map_err(at)?;
    if meta.is_dir() {
        return Err(at(ErrorKind::IsADirectory.into()));
    }
    let mut trailer = [0; TRAILER_SIZE];
    let Some(end) = meta.len().checked_sub(TRAILER_SIZE as u64) else { return Ok(None) };
    file.read_exact_at(&mut trailer, end).map_err(at)?;
    let (length, magic) = trailer.split_at(8);
    let length = u64::from_le_bytes(length.try_into().map_err(|_| at(ErrorKind::InvalidData.into()))?);
    let Some(start) = end.checked_sub(length).filter(|_| magic == MAGIC && length <= TEXT_SIZE_MAX) else {
        return Ok(None);
    };
    let mut text = vec![0; length as usize];
    file.read_exact_at(&mut text, start).map_err(at)?;
    let text = String::from_utf8(text).unwrap_or_default();
    if is_earlier(&text) {
        return Err(SalvageFault::Earlier(path.to_path_buf()));
    }
    let found = Salvage::parse(&text);
    let size = |it: &Salvaged| it.size.checked_add(it.remnants_size);
    Ok(found.filter(|found| {
        found.groups.iter().try_fold(0u64, |sum, it| sum.checked_add(size(it)?)) == Some(start)
    }))
}

/// The remnants of each group, and where their batches lie.
type Remnants = (Vec<Vec<Remnant>>, Vec<Vec<(u64, u64)>>);

fn read_remnants(path: &Path, file: &Salvage) -> Result<Remnants, SalvageFault> {
    let at = |error| SalvageFault::Unreadable { path: path.to_path_buf(), error };
    let from = File::open(path).map_err(at)?;
    let mut start: u64 = file.groups.iter().map(|it| it.size).sum();
    let (mut remnants, mut bodies) = (Vec::new(), Vec::new());
    for it in &file.groups {
        let mut section = vec![0; it.remnants_size as usize];
        from.read_exact_at(&mut section, start).map_err(at)?;
        let found = Some(section).filter(|section| checksum(section) == it.remnants_sum);
        let found = found.and_then(|section| parse_remnants(&section, start));
        let found = found.filter(|(remnants, _)| remnants.len() as u64 == it.remnants);
        let error = SnapshotError::Totals;
        let damaged = || SalvageFault::State { path: path.to_path_buf(), group: it.group, error };
        let (those, places) = found.ok_or_else(damaged)?;
        remnants.push(those);
        bodies.push(places);
        start += it.remnants_size;
    }
    Ok((remnants, bodies))
}

/// Offset and size of the body of each remnant.
type Bodies = Vec<(u64, u64)>;

/// The remnants in a section that begins at this place of the file.
fn parse_remnants(section: &[u8], start: u64) -> Option<(Vec<Remnant>, Bodies)> {
    let (mut remnants, mut bodies) = (Vec::new(), Vec::new());
    let mut rest = section;
    while let Some((header, behind)) = rest.split_first_chunk() {
        let (remnant, size) = bytes::parse(header)?;
        let offset = start + (section.len() - behind.len()) as u64;
        rest = behind.get(usize::try_from(size).ok()?..)?;
        remnants.push(remnant);
        bodies.push((offset, size));
    }
    rest.is_empty().then_some((remnants, bodies))
}
