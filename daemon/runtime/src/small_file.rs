//! Small files that are replaced as a whole, durably: written beside, synced, renamed, directory synced. After a crash at any
//! moment the file is the old one or the new one, and the new one once [`replace`] has returned.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::identity::IdentityFault;

/// A small file of the directory; `None` if there is none.
pub(crate) fn read(file: &Path) -> Result<Option<String>, IdentityFault> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(IdentityFault::Damaged { path: file.to_path_buf(), line: 1 })
        }
        Err(error) => Err(IdentityFault::Io { path: file.to_path_buf(), error }),
    }
}

/// Replaces a small file of the directory as a whole, durably.
pub(crate) fn replace(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    replace_on(&mut FileSystem, directory, name, text)
}

/// What a file system is asked for.
trait Disk {
    /// Makes a file with these bytes in it, in place of one that is there.
    fn write(&mut self, file: &Path, text: &str) -> io::Result<()>;
    /// The bytes of a file are on stable storage when it returns.
    fn sync(&mut self, file: &Path) -> io::Result<()>;
    /// Gives a file the name of another one.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// The names in a directory are on stable storage when it returns.
    fn sync_directory(&mut self, directory: &Path) -> io::Result<()>;
}

struct FileSystem;

impl Disk for FileSystem {
    fn write(&mut self, file: &Path, text: &str) -> io::Result<()> {
        File::create(file)?.write_all(text.as_bytes())
    }

    fn sync(&mut self, file: &Path) -> io::Result<()> {
        File::options().write(true).open(file)?.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&mut self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

fn replace_on(disk: &mut impl Disk, directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let file = directory.join(name);
    let beside = file.with_extension("new");
    disk.write(&beside, text)?;
    disk.sync(&beside)?;
    disk.rename(&beside, &file)?;
    disk.sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    /// A disk that has lost, at a power failure, whatever was not synced, or has not: names and bytes apart.
    #[derive(Clone, Default)]
    struct Fragile {
        /// By name, which file it is; and as it is on stable storage.
        names: BTreeMap<PathBuf, usize>,
        stable_names: BTreeMap<PathBuf, usize>,
        /// By file: its text; and whether that is on stable storage.
        files: Vec<(String, bool)>,
        /// The power fails after so many more operations.
        left: usize,
    }

    impl Fragile {
        fn step(&mut self) -> io::Result<()> {
            self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(())
        }

        /// What the file may hold when the power is back.
        fn outcomes(&self, file: &Path) -> Vec<String> {
            let held = |names: &BTreeMap<PathBuf, usize>| match names.get(file) {
                None => vec!["no file".to_owned()],
                Some(file) => match &self.files[*file] {
                    (text, true) => vec![text.clone()],
                    (text, false) => vec![text.clone(), "torn".to_owned()],
                },
            };
            [held(&self.names), held(&self.stable_names)].concat()
        }
    }

    impl Disk for Fragile {
        fn write(&mut self, file: &Path, text: &str) -> io::Result<()> {
            self.step()?;
            self.files.push((text.to_owned(), false));
            self.names.insert(file.to_path_buf(), self.files.len() - 1);
            Ok(())
        }

        fn sync(&mut self, file: &Path) -> io::Result<()> {
            self.step()?;
            self.files[self.names[file]].1 = true;
            Ok(())
        }

        fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
            self.step()?;
            let file = self.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            self.names.insert(to.to_path_buf(), file);
            Ok(())
        }

        fn sync_directory(&mut self, _: &Path) -> io::Result<()> {
            self.step()?;
            self.stable_names.clone_from(&self.names);
            Ok(())
        }
    }

    #[test]
    fn a_power_failure_at_any_moment_leaves_the_old_file_or_the_new_one_and_the_new_one_at_the_end() {
        let (directory, file) = (Path::new("/data"), Path::new("/data/identity"));
        let mut before = Fragile { left: 9, ..Fragile::default() };
        replace_on(&mut before, directory, "identity", "old").unwrap();
        for left in 0..9 {
            let mut disk = Fragile { left, ..before.clone() };
            let is_done = replace_on(&mut disk, directory, "identity", "new").is_ok();
            for text in disk.outcomes(file) {
                let fits = text == "new" || text == "old" && !is_done;
                assert!(fits, "after {left} operations, done: {is_done}: {text}");
            }
        }
    }

    #[test]
    fn the_file_system_does_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["old", "new"] {
            replace(dir.path(), "peers", text).unwrap();
            assert_eq!(read(&dir.path().join("peers")).unwrap().as_deref(), Some(text));
        }
        assert!(!dir.path().join("peers.new").exists());
    }
}
