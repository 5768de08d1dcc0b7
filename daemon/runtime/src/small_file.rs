//! Small files of a data directory, on the file system: see [`panch_wal::small_file`], which says in what order.
//!
//! They are written past the page cache where the file system can: what is read later is then what the disk has, also after a write that
//! failed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use panch_ring::file::{LogFile, sync_directory};
use panch_wal::{SmallDisk, SmallFileFault};
use panch_wire::frame::Page;

use crate::identity::IdentityFault;

/// A small file of the directory.
#[derive(Debug)]
pub(crate) struct SmallFile {
    file: panch_wal::SmallFile,
    disk: FileSystem,
}

impl SmallFile {
    /// Opens the file and reads its text; `None` if there is none. `room`: bytes of text for which room is set aside when it is made.
    pub(crate) fn open(path: PathBuf, room: usize) -> Result<(Self, Option<String>), IdentityFault> {
        let mut disk = FileSystem { path, open: None };
        let (file, text) = match panch_wal::SmallFile::read(&mut disk, room) {
            Ok(found) => found,
            Err(SmallFileFault::Io(error)) => return Err(IdentityFault::Io { path: disk.path, error }),
            Err(SmallFileFault::Later(_)) => return Err(IdentityFault::Later(disk.path)),
        };
        let text = text.map(String::from_utf8).transpose();
        let text = text.map_err(|_| IdentityFault::Damaged { path: disk.path.clone(), line: 1 })?;
        Ok((Self { file, disk }, text))
    }

    /// Whether room is set aside for what is written next.
    pub(crate) fn has_room(&self) -> bool {
        self.file.has_room()
    }

    /// Replaces the text, for good once this returns. Blocks for as long as the disk takes.
    pub(crate) fn store(&mut self, text: &str) -> Result<(), IdentityFault> {
        let stored = self.file.store(&mut self.disk, text.as_bytes());
        stored.map_err(|error| IdentityFault::Io { path: self.disk.path.clone(), error })
    }
}

/// The layout that the first line of a text states, if it is a later one than `known`.
pub(crate) fn is_later(text: &str, known: u64) -> bool {
    let format = text.lines().next().and_then(|line| line.strip_prefix("format ")?.parse::<u64>().ok());
    format.is_some_and(|format| format > known)
}

#[derive(Debug)]
struct FileSystem {
    path: PathBuf,
    /// The file that has the name.
    open: Option<LogFile>,
}

impl FileSystem {
    fn beside(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        name.into()
    }

    fn file(&mut self) -> io::Result<&LogFile> {
        let open = self.open.take().map_or_else(|| LogFile::open(&self.path), Ok)?;
        Ok(self.open.insert(open))
    }
}

impl SmallDisk for FileSystem {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, offset: u64, pages: &[Page]) -> io::Result<()> {
        self.file()?.write_pages(offset, pages)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file()?.sync()
    }

    fn make(&mut self, pages: &[Page]) -> io::Result<()> {
        let beside = self.beside();
        let made = File::create(&beside).and_then(|mut file| file.write_all(bytemuck::cast_slice(pages)));
        if made.is_err() {
            // What it has taken of the room may be all that is missing elsewhere.
            let _ = fs::remove_file(beside);
        }
        made
    }

    fn sync_new(&mut self) -> io::Result<()> {
        File::options().write(true).open(self.beside())?.sync_all()
    }

    fn rename_new(&mut self) -> io::Result<()> {
        self.open = None;
        fs::rename(self.beside(), &self.path)
    }

    fn sync_names(&mut self) -> io::Result<()> {
        sync_directory(self.path.parent().unwrap_or(Path::new(".")))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_file_system_does_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("core-0.starts");
        let (mut file, text) = SmallFile::open(path.clone(), 5000).unwrap();
        assert_eq!(text, None);
        let mut of = Vec::new();
        for text in ["old", "new", &"long".repeat(1200), &"longer".repeat(1200), "short"] {
            file.store(text).unwrap();
            assert!(file.has_room());
            let (_, found) = SmallFile::open(path.clone(), 5000).unwrap();
            assert_eq!(found.as_deref(), Some(text));
            of.push(fs::metadata(&path).unwrap().ino());
        }
        assert!(of[0] == of[1] && of[1] == of[2], "in place");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no leftover");
        let metadata = fs::metadata(&path).unwrap();
        assert!(metadata.blocks() * 512 >= metadata.len(), "no holes");
    }

    #[test]
    fn later_layouts_are_told_from_damage() {
        assert!(is_later("format 8\nx", 7) && !is_later("format 7\n", 7) && !is_later("Format 9\n", 7));
    }
}
