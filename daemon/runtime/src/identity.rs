//! Who a data directory belongs to, and how often its node has started.
//!
//! Whether the node is on its way back from the loss of its disk is in it, too: a crash must not make a member of it.
//!
//! One small file, replaced as a whole ([`crate::small_file`]). The incarnation in it is durable before the node sends or writes
//! anything (protocols D5), and not before it can: a start that fails earlier has not been, and the life before it stands.
//!
//! Once the node runs only the thread of [`crate::notes`] writes, so that no core waits for the disk: who needs something written down asks
//! for it, and looks again when that thread says that it has written.
//!
//! Here is the directory that a process holds; by subject: `format` (what the file says), `folder` (what is found in the directory),
//! `orders` (what a node may be told to do with it), `fault`.

mod fault;
mod folder;
mod format;
mod orders;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use panch_replica::core::next_incarnation;
use panch_replica::familiarity::{Start, Starts};
use panch_replica::founding::Founders;
use panch_replica::rejoin::Life;
use panch_wal::{Lsn, WriteFailed};
use panch_wire::ids::Incarnation;
use panch_wire::peer::LifeKey;

pub use fault::IdentityFault;
pub(crate) use format::{Founding, Identity};

use crate::complaints::say;
use crate::draw::draw;
use crate::memory::{self, PeerMemory};
use crate::notes::Reminder;
use crate::small_file::SmallFile;
use crate::starts;
use folder::{check, file_gone, fresh_name, has_begun, holds_data, is_empty, lock, open_identity};
use format::{FORMAT, FORMAT_WITHOUT_FILES, render};

const FILE: &str = "identity";

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

/// A data directory that this process holds, with its next incarnation, which is durable after [`DataDir::enter`].
pub(crate) struct DataDir {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    /// What is remembered of other nodes.
    pub(crate) peers: PeerMemory,
    /// The node has lost what it remembered of the others: all of them have to say it before it says anything. True until [`DataDir::enter`],
    /// however often it starts.
    pub(crate) lacks_peers: bool,
    /// The node comes back because it has lost the votes that were not on stable storage, with the power or by a failed write.
    pub(crate) has_lost_votes: bool,
    /// This is not the first start of the directory.
    pub(crate) has_run: bool,
    /// The key of this life.
    pub(crate) key: LifeKey,
    /// The identity file. Whoever writes it holds this; no core does.
    file: Mutex<SmallFile>,
    own: Own,
    /// This life is written down.
    is_entered: AtomicBool,
    way_back: WayBack,
    /// A core could not bring everything to stable storage.
    is_open: AtomicBool,
    /// A write or sync of a log has failed, and votes may be gone with it: so says whatever is written from then on.
    is_doubted: AtomicBool,
    /// See [`DataDir::has_disk_failed`].
    has_disk_failed: AtomicBool,
    /// Held for the life of the process: the kernel releases it however the process ends.
    _lock: File,
}

/// The lives of this node.
struct Own {
    /// Those that others can have heard of; this one once it is noted.
    lives: Mutex<Starts>,
    /// Their file. Whoever writes it holds this; no core does.
    file: Mutex<SmallFile>,
    /// This one has to be noted.
    is_wanted: AtomicBool,
    /// It is.
    is_named: AtomicBool,
}

/// The node's way back from the loss of its disk.
struct WayBack {
    /// Cores that are not through with it.
    cores: AtomicUsize,
    /// It has to be written down that all are.
    is_wanted: AtomicBool,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds a directory that is there, as a node that runs does, for as long as the file lives.
///
/// # Errors
/// If a node uses it, or it cannot be written.
pub fn hold_data_dir(path: &Path) -> Result<File, IdentityFault> {
    lock(path)
}

impl DataDir {
    /// Opens or creates the directory for the node described by `wanted` (its incarnation and log name are ignored). A node that
    /// knows of no earlier incarnation gets none: see [`DataDir::begin`]. Nothing of one that has run changes before
    /// [`DataDir::enter`]. If it is to begin with a salvaged state, it is durable when this returns that the state is being installed, until
    /// [`DataDir::set_founding`]: whatever interrupts that, the directory is not taken for a new one.
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
        let mut format = FORMAT;
        let (mut file, found) = open_identity(path, wanted)?;
        let mut identity = match found {
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
                if holds_data(path, wanted).map_err(at(path))? {
                    return Err(IdentityFault::Nameless(path.join(FILE)));
                }
                let founding = Founding::default();
                let (incarnation, log) = (Incarnation(0), fresh_name(wanted));
                Identity { incarnation, log, founding, ..wanted.clone() }
            }
        };
        check(path, &identity, wanted)?;
        let has_run = identity.incarnation > Incarnation(0);
        orders::check(path, &identity, loss, wanted.founding != Founding::default())?;
        let begins_with_state = wanted.founding != Founding::default();
        if begins_with_state && (has_run || has_begun(path, &identity).map_err(at(path))?) {
            return Err(IdentityFault::BeginsWithData(path.to_path_buf()));
        }
        if begins_with_state {
            // What an earlier try has named is not there whole, from here on.
            (identity.founding, identity.installing) = (Founding::default(), true);
        }
        let is_complete = has_run && format > FORMAT_WITHOUT_FILES && !alone;
        let gone = if is_complete { file_gone(path, identity.cores).map_err(at(path))? } else { None };
        let lacks_files = gone.is_some();
        // Looked for first of all.
        let lacks_peers = gone.as_deref() == Some(&path.join(memory::FILE));
        if loss == Loss::OfDisk && has_run && !identity.rejoining && !lacks_files {
            return Err(IdentityFault::NotEmpty(path.to_path_buf()));
        }
        if let Some(gone) = gone.filter(|_| loss == Loss::None && !identity.rejoining) {
            return Err(IdentityFault::Gone(gone));
        }
        let before = (identity.rejoining, identity.founders);
        identity.rejoining |= lacks_files;
        if lacks_peers {
            // Since the founding a node may have come back with another directory. It was met, and the others know.
            identity.founders = Founders::default();
        }
        if before != (identity.rejoining, identity.founders) {
            // Before any file is made anew: a start that fails later must not leave a directory that looks whole, and votes.
            file.store(&render(&identity, FORMAT))?;
        }
        let Life { is_unsynced, boot, .. } = wanted.life;
        let has_lost_votes = has_run && identity.life.has_lost_votes(boot);
        identity.rejoining |=
            loss == Loss::OfDisk || loss == Loss::OfMemory && has_run || has_lost_votes && !alone;
        identity.life = identity.life.next(is_unsynced, boot);
        if has_run {
            identity.incarnation = next_incarnation(identity.incarnation);
        } else {
            // The name of the directory is durable before others hear of it, and what it is for before anything is in it.
            file.store(&render(&identity, FORMAT))?;
        }
        let (starts_file, lives) = starts::open(path, None)?;
        let own = Own {
            lives: Mutex::new(lives),
            file: Mutex::new(starts_file),
            is_wanted: AtomicBool::new(false),
            is_named: AtomicBool::new(false),
        };
        let peers = PeerMemory::open(path, Reminder::default())?;
        peers.set_founders(identity.founders);
        peers.set_founded_above(identity.founding.above);
        let key = LifeKey(draw().map_err(at(path))?);
        let cores = AtomicUsize::new(if identity.rejoining { identity.cores } else { 0 });
        Ok(Self {
            path: path.to_path_buf(),
            identity,
            peers,
            lacks_peers,
            has_lost_votes,
            has_run,
            key,
            file: Mutex::new(file),
            own,
            is_entered: AtomicBool::new(false),
            way_back: WayBack { cores, is_wanted: AtomicBool::new(false) },
            is_open: AtomicBool::new(false),
            is_doubted: AtomicBool::new(false),
            has_disk_failed: AtomicBool::new(false),
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
        let (_, found) = open_identity(path, wanted)?;
        let (identity, _) = found.ok_or_else(|| IdentityFault::Nothing(path.to_path_buf()))?;
        check(path, &identity, wanted)?;
        let holds_state = identity.founding != Founding::default() && !identity.rejoining;
        if identity.incarnation == Incarnation(0) && !holds_state {
            return Err(IdentityFault::Nothing(path.to_path_buf()));
        }
        Ok((lock, identity))
    }

    /// It is written down, while nothing has begun, what the cluster begins with, and that it is here, if it has to be.
    pub(crate) fn set_founding(&mut self, founding: Founding) -> Result<(), IdentityFault> {
        (self.identity.founding, self.identity.installing) = (founding, false);
        self.peers.set_founded_above(founding.above);
        self.write(&self.identity)
    }

    /// The others have said what they remember of this node, which knows of no earlier life, and of the founding of the cluster: its
    /// next incarnation begins.
    pub(crate) fn begin(&mut self, last: Incarnation, founders: Founders) -> Result<(), IdentityFault> {
        let last = last.max(self.identity.founding.above);
        let next = last.0.checked_add(1).ok_or(IdentityFault::Exhausted)?;
        self.identity.incarnation = Incarnation(next);
        if self.identity.rejoining {
            self.identity.returned_in = Incarnation(next);
        }
        self.identity.founders = founders;
        self.peers.set_founders(founders);
        Ok(())
    }

    /// The others have said what they remember, of this node and of each other, which this one had forgotten: its next incarnation is above
    /// that, too.
    pub(crate) fn go_on(&mut self, last: Incarnation) -> Result<(), IdentityFault> {
        let next = last.0.checked_add(1).ok_or(IdentityFault::Exhausted)?;
        self.identity.incarnation = self.identity.incarnation.max(Incarnation(next));
        Ok(())
    }

    /// All cores have opened, and the node is about to run: its incarnation is durable when this returns, and the files that it
    /// keeps are there, with the room that changes of them need.
    pub(crate) fn enter(&self) -> Result<(), IdentityFault> {
        let settled = self.peers.settle();
        if !self.path.join(memory::FILE).exists() {
            settled?;
        }
        let mut file = hold(&self.own.file);
        let settled = if file.has_room() { Ok(()) } else { starts::save(&mut file, &self.lives()) };
        drop(file);
        if !self.path.join(starts::file_of(None)).exists() {
            settled?;
        }
        self.write(&self.identity)?;
        self.is_entered.store(true, Ordering::Release);
        Ok(())
    }

    /// The lives that others can have heard of.
    pub(crate) fn lives(&self) -> MutexGuard<'_, Starts> {
        hold(&self.own.lives)
    }

    /// Whether this life is noted with its key, so that it may be named to other nodes. If not, it will be: to be asked again when
    /// the thread that writes has written. Does not wait for the disk.
    pub(crate) fn is_named(&self) -> bool {
        let is_named = self.own.is_named.load(Ordering::Acquire);
        if !is_named && !self.own.is_wanted.swap(true, Ordering::AcqRel) {
            self.peers.reminder.now();
        }
        is_named
    }

    /// Whether a core is not through with the way back of the node.
    pub(crate) fn is_returning(&self) -> bool {
        self.way_back.cores.load(Ordering::Acquire) > 0
    }

    /// A core is through with its way back. If it was the last, it is written down soon that the node is a member again.
    pub(crate) fn core_is_through(&self) {
        if self.way_back.cores.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.way_back.is_wanted.store(true, Ordering::Release);
            self.peers.reminder.now();
        }
    }

    /// Writes down whatever has to be, and waits for the disk: for the one thread that does so.
    ///
    /// # Errors
    /// The first; the rest is tried all the same, and all of it again by the next call.
    pub(crate) fn write_down(&self) -> Result<(), IdentityFault> {
        let named = self.name_life();
        let remembered = self.peers.write_down().map(drop);
        let returned = self.end_return();
        named.and(remembered).and(returned)
    }

    /// Notes this life, if it is to be named to others.
    fn name_life(&self) -> Result<(), IdentityFault> {
        if !self.own.is_wanted.load(Ordering::Acquire) || self.own.is_named.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut file = hold(&self.own.file);
        let mut after = self.lives().clone();
        let incarnation = self.identity.incarnation;
        after.add(Start { incarnation, key: self.key, log_end: Lsn(0) }, |_| true);
        starts::save(&mut file, &after)?;
        *self.lives() = after;
        self.own.is_named.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes down that the node is a member again, if it is.
    fn end_return(&self) -> Result<(), IdentityFault> {
        if self.way_back.is_wanted.load(Ordering::Acquire) {
            self.write(&Identity { rejoining: false, ..self.identity.clone() })?;
            self.way_back.is_wanted.store(false, Ordering::Release);
            say(format_args!("node {} is a member again", u64::from(self.identity.node.0) + 1));
        }
        Ok(())
    }

    /// Something is not on stable storage at the end.
    pub(crate) fn leave_open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// Whether something is not on stable storage at the end.
    pub(crate) fn is_left_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// What had counted and was not synced may be gone: what is written from now on says so. With other durabilities nothing counts unsynced.
    pub(crate) fn mistrust(&self) {
        if self.identity.life.is_unsynced && self.is_entered.load(Ordering::Acquire) {
            self.is_doubted.store(true, Ordering::Release);
        }
    }

    /// Whether what had counted may be gone without anybody knowing yet.
    pub(crate) fn may_be_doubted(&self) -> bool {
        let is_doubted = self.is_doubted.load(Ordering::Acquire);
        self.identity.life.is_unsynced && self.is_entered.load(Ordering::Acquire) && !is_doubted
    }

    /// A core's log could not be written or synced.
    pub(crate) fn note_failure(&self, failed: &WriteFailed) {
        if failed.is_of_disk() {
            self.has_disk_failed.store(true, Ordering::Release);
        }
        if failed.loses_more {
            self.mistrust();
        }
    }

    /// Whether a core's disk failed, rather than that it had no room.
    pub(crate) fn has_disk_failed(&self) -> bool {
        self.has_disk_failed.load(Ordering::Acquire)
    }

    /// If what had counted may be gone, this is written down.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub(crate) fn write_doubt(&self) -> Result<(), IdentityFault> {
        if !self.is_doubted.load(Ordering::Acquire) {
            return Ok(());
        }
        self.write(&Identity { rejoining: self.is_returning(), ..self.identity.clone() })
    }

    /// All cores and the thread that writes have ended in order: it is written that nothing of this life is lost if the power fails now.
    pub(crate) fn close(&self) -> Result<(), IdentityFault> {
        if self.is_open.load(Ordering::Acquire) || !self.is_entered.load(Ordering::Acquire) {
            return Ok(());
        }
        let life = Life { is_closed: true, ..self.identity.life };
        let rejoining = self.is_returning();
        self.write(&Identity { rejoining, life, ..self.identity.clone() })
    }

    fn write(&self, identity: &Identity) -> Result<(), IdentityFault> {
        let mut file = hold(&self.file);
        // Looked at while nobody else writes: a later text does not take the doubt back.
        let is_doubted = self.is_doubted.load(Ordering::Acquire);
        let life = if is_doubted { identity.life.doubted() } else { identity.life };
        file.store(&render(&Identity { life, ..identity.clone() }, FORMAT))
    }
}

#[cfg(test)]
mod tests;
