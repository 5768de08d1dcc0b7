//! A data directory as it is found: whose it is, what of it is there, and who holds it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::format::{EARLIER, FORMAT, Identity, parse, render};
use super::{FILE, IdentityFault};
use crate::memory;
use crate::small_file::{SmallFile, is_later};
use crate::starts;
use crate::storage::CoreDirectory;

const LOCK: &str = "lock";
/// How many of its files a data directory may have and still be called empty.
/// A crash while the first identity was written leaves the second, a file system on a disk of its own has the third.
const OWN_FILES: [&str; 3] = [LOCK, "identity.new", "lost+found"];

/// Holds the directory for as long as the file lives.
pub(super) fn lock(path: &Path) -> Result<File, IdentityFault> {
    let path_of_lock = path.join(LOCK);
    let at = |error| IdentityFault::Io { path: path_of_lock.clone(), error };
    let lock = File::options().create(true).truncate(false).write(true).open(&path_of_lock).map_err(at)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(IdentityFault::Locked(path.to_path_buf())),
        Err(fs::TryLockError::Error(error)) => Err(at(error)),
    }
}

/// Bytes by which the text of a directory's identity can grow: most of it never changes.
const GROWTH_MAX: usize = 512;

/// The identity file, with what the directory says of itself, and in which layout; `None` if it says nothing.
pub(super) fn open_identity(
    path: &Path,
    wanted: &Identity,
) -> Result<(SmallFile, Option<(Identity, u64)>), IdentityFault> {
    let file = path.join(FILE);
    let room = render(wanted, FORMAT).len() + GROWTH_MAX;
    let (small, text) = SmallFile::open(file.clone(), room)?;
    match text {
        Some(text) if EARLIER.iter().any(|earlier| text.starts_with(earlier)) => {
            Err(IdentityFault::Earlier(path.to_path_buf()))
        }
        Some(text) if is_later(&text, FORMAT) => Err(IdentityFault::Later(file)),
        Some(text) => {
            let found = parse(&text).map_err(|line| IdentityFault::Damaged { path: file, line })?;
            Ok((small, Some(found)))
        }
        None => Ok((small, None)),
    }
}

/// Whether nothing is in the directory but what this process has put there.
pub(super) fn is_empty(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if !OWN_FILES.iter().any(|own| name == *own) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a core has had a log.
pub(super) fn has_begun(path: &Path, identity: &Identity) -> io::Result<bool> {
    for core in 0..identity.cores {
        if CoreDirectory::holds_log(path, core)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there is something that only a node makes which has written its identity before.
pub(super) fn holds_data(path: &Path, wanted: &Identity) -> io::Result<bool> {
    for name in files_of(wanted.cores) {
        if path.join(name).try_exists()? {
            return Ok(true);
        }
    }
    has_begun(path, wanted)
}

/// What a node that has run has beside its identity, and its cores' logs.
fn files_of(cores: usize) -> impl Iterator<Item = String> {
    let of_cores = (0..cores).map(|core| starts::file_of(Some(core)));
    [memory::FILE.to_owned(), starts::file_of(None)].into_iter().chain(of_cores)
}

/// A file of a node that has run that is not there.
pub(super) fn file_gone(path: &Path, cores: usize) -> io::Result<Option<PathBuf>> {
    for name in files_of(cores) {
        let file = path.join(name);
        if !file.try_exists()? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// A name for the logs of a new directory: no two directories may share it, so that a segment that strays into another
/// directory is noticed.
pub(super) fn fresh_name(wanted: &Identity) -> u64 {
    let mut seed = Vec::new();
    seed.extend_from_slice(&wanted.cluster.to_le_bytes());
    seed.push(wanted.node.0);
    seed.extend_from_slice(&std::process::id().to_le_bytes());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    seed.extend_from_slice(&now.as_nanos().to_le_bytes());
    panch_wire::checksum::checksum(&seed) | 1
}

pub(super) fn check(path: &Path, found: &Identity, wanted: &Identity) -> Result<(), IdentityFault> {
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
