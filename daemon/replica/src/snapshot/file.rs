//! Snapshot files at a start: which one counts, and why one cannot be used.
//!
//! The log below a snapshot is given up, and what came from a peer may contradict what lies there. So the log names the
//! snapshot that it continues ([`SnapshotName`]), from before that takes effect until a later one is named, and a start
//! that does not have it is refused: an older state is no substitute.
//!
//! The newest complete file counts, named or not. A file that is newer than the one named was complete when the process
//! ended and its name was not yet durable: it holds a prefix of what the log, still whole, goes on from, or a state that
//! [`prepare_install`](panch_consensus::protocol::Protocol::prepare_install) has let replace it.

use std::io;

use panch_consensus::frontier::Frontier;
use panch_wal::RecordKind;
use panch_wire::ids::{GroupId, Slot};
use rkyv::{Archive, Deserialize, Serialize};

use super::{Restored, SnapshotError, SnapshotReader};
use crate::transfer::SnapshotFile;

/// The kind of log record that holds a [`SnapshotName`].
pub const SNAPSHOT_RECORD: RecordKind = RecordKind(2);

/// Names a snapshot in the log.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotName {
    /// How many positions it covers; in a log the last slot.
    pub slot: u64,
    /// Bytes of the file when it was named. Another file of the same state may have another size, see [`SnapshotName::is_of`].
    pub size: u64,
    /// Digest of what it covers.
    pub covered: u64,
}

impl SnapshotName {
    /// The name of this file.
    pub fn of(file: SnapshotFile, covered: &Frontier) -> Self {
        Self { slot: file.slot.0, size: file.size, covered: covered.digest() }
    }

    /// Whether it names this file, or another one of the same state, which is as good: how the records are cut into chunks depends on where
    /// they lie in memory, so that one that was made again in the place of the first may be shorter or longer. That nothing of it is missing,
    /// a file shows by itself, with its checksums and its last record.
    pub fn is_of(self, file: SnapshotFile, covered: &Frontier) -> bool {
        (self.slot, self.covered) == (file.slot.0, covered.digest())
    }
}

/// Why a snapshot file cannot be used. The file stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFault {
    /// The process has no descriptor left.
    #[error("{0}: raise the limit of open files and start again")]
    Descriptors(#[source] io::Error),
    /// The system does not give its bytes.
    #[error("{0}: see to the disk, or to the file, and start again")]
    Read(#[source] io::Error),
    /// Another version wrote it.
    #[error("it has format version {0}, which this program does not know: start the version that wrote it")]
    Version(u16),
    /// Its bytes are not those that were written.
    #[error(
        "{0}. The log continues this snapshot, and an older state would contradict what was acknowledged: restore the data directory from an exact copy of its last state, or empty it whole and start the node with --rejoin"
    )]
    Damaged(#[source] SnapshotError),
    /// It holds something else than its name says.
    #[error(
        "it is the snapshot of slot {} of group {} under a wrong name: give the file its name back, restore the data directory from an exact copy of its last state, or empty it whole and start the node with --rejoin", slot.0, group.0
    )]
    Misnamed {
        /// The group whose state it is.
        group: GroupId,
        /// What it covers.
        slot: Slot,
    },
}

impl From<io::Error> for SnapshotFault {
    fn from(error: io::Error) -> Self {
        // EMFILE and ENFILE, the same numbers on every Linux.
        match error.raw_os_error() {
            Some(23 | 24) => Self::Descriptors(error),
            _ => Self::Read(error),
        }
    }
}

impl From<SnapshotError> for SnapshotFault {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Version(version) => Self::Version(version),
            error => Self::Damaged(error),
        }
    }
}

/// Complete snapshot files, each named by its group and by what it covers.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SnapshotFiles {
    /// The newest of each group, which is to be loaded.
    pub newest: Vec<(GroupId, Slot)>,
    /// The others, which nobody needs once a start has succeeded.
    pub superseded: Vec<(GroupId, Slot)>,
}

impl From<Vec<(GroupId, Slot)>> for SnapshotFiles {
    fn from(mut files: Vec<(GroupId, Slot)>) -> Self {
        files.sort_unstable_by(|left, right| right.cmp(left));
        let mut last = None;
        let (newest, superseded) =
            files.into_iter().partition(|(group, _)| last.replace(*group) != Some(*group));
        Self { newest, superseded }
    }
}

/// Reads the snapshot of `slot` of `group`. `read` fills memory from an offset of its file and tells how many bytes it got,
/// 0 at the end. `hash_seed` is the state's, see [`SnapshotReader::new`].
///
/// # Errors
/// Why it cannot be used.
pub fn load(
    group: GroupId,
    slot: Slot,
    hash_seed: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<usize>,
) -> Result<(SnapshotFile, Restored), SnapshotFault> {
    let mut reader = SnapshotReader::new(hash_seed);
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = read(size, &mut buffer)?;
        if count == 0 {
            break;
        }
        reader.feed(&buffer[..count])?;
        size += count as u64;
    }
    let restored = reader.finish()?;
    let found = (restored.group, restored.covered.count());
    if found != (group, slot) {
        return Err(SnapshotFault::Misnamed { group: found.0, slot: found.1 });
    }
    Ok((SnapshotFile { slot, size }, restored))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_group_counts() {
        let file = |group, slot| (GroupId(group), Slot(slot));
        let SnapshotFiles { newest: counts, superseded: rest } =
            vec![file(0, 9), file(1, 3), file(0, 10), file(1, 2), file(0, 1)].into();
        assert_eq!(counts, [file(1, 3), file(0, 10)]);
        assert_eq!(rest, [file(1, 2), file(0, 9), file(0, 1)]);
    }

    fn fault(read: impl FnMut(u64, &mut [u8]) -> io::Result<usize>) -> SnapshotFault {
        load(GroupId(0), Slot(1), 1, read).err().expect("it cannot be used")
    }

    #[test]
    fn what_fails_is_told_apart_and_says_what_to_do() {
        let os = |number| fault(move |_, _| Err(io::Error::from_raw_os_error(number)));
        assert!(os(24).to_string().contains("raise the limit of open files"), "{}", os(24));
        assert!(matches!(os(5), SnapshotFault::Read(_)));
        assert!(os(5).to_string().contains("disk"), "{}", os(5));
        let damaged = fault(|at, into| {
            into[..32].fill(1);
            Ok(if at == 0 { 32 } else { 0 })
        });
        assert!(matches!(damaged, SnapshotFault::Damaged(SnapshotError::NotASnapshot)));
        assert!(damaged.to_string().contains("--rejoin"), "{damaged}");
        let empty = fault(|_, _| Ok(0));
        assert!(matches!(empty, SnapshotFault::Damaged(SnapshotError::Truncated { .. })));
        let version = SnapshotFault::from(SnapshotError::Version(9)).to_string();
        assert!(
            version.contains("start the version that wrote it") && !version.contains("rejoin"),
            "{version}"
        );
    }
}
