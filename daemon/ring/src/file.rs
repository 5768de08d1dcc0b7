//! Log files: the calls that block. They run on a helper thread or at start-up, never on a core's turn.
//!
//! A segment is preallocated and written with zeros before its first use: a durable write into a hole, or into blocks
//! that the file system has only reserved, has to change the file's metadata as well, which costs a journal commit.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use panch_wire::frame::{PAGE_SIZE, Page, pages_for};

use crate::parts::zeroed_pages;

/// Pages per write when a segment is zeroed and nobody waits for it: 128 KiB. A vote that comes meanwhile waits for one of them at most.
const ZEROING_PAGES: usize = 32;
/// The same when somebody does: 1 MiB.
const ZEROING_PAGES_MAX: usize = 256;
/// Whoever may rest while a segment is zeroed rests so many times as long as the write before has taken.
const REST_FACTOR: u32 = 15;
/// While it rests it looks this often whether it still may.
const REST_STEP: Duration = Duration::from_millis(5);

/// How a segment is to go on being made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// There is time: most of it is left to other writes to the same disk.
    Rest,
    /// Somebody waits for it.
    Hurry,
    /// Nobody wants it any more.
    Stop,
}

/// An open log segment.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    direct: bool,
}

impl LogFile {
    /// Opens an existing segment for reading and writing, past the page cache where the file system can.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(OpenOptions::new().read(true).write(true), path)
    }

    /// Creates a segment of `size` bytes, all of them written as zeros and on disk together with its name.
    /// A crash leaves either the whole segment under `path`, or at most a leftover with `.new` appended.
    ///
    /// `pace` is told how much is written, in thousandths, after each piece and while it rests.
    ///
    /// # Errors
    /// If `path` exists; [`io::ErrorKind::Interrupted`] if it is to stop; ENOSPC before anything could be promised; otherwise as the calls it makes.
    pub fn create(path: &Path, size: u64, pace: impl Fn(u64) -> Pace) -> io::Result<Self> {
        assert!(size.is_multiple_of(PAGE_SIZE as u64), "a segment is made of whole pages");
        if path.try_exists()? {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the log segment exists already"));
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let temporary = Path::new(&name);
        let mut options = OpenOptions::new();
        let log = Self::open_with(options.read(true).write(true).create(true).truncate(true), temporary)?;
        let written = log.preallocate(size, pace).and_then(|()| rename(temporary, path));
        if let Err(error) = written {
            // The space matters more than the leftover's name; the first error is the one to report.
            let _ = fs::remove_file(temporary);
            return Err(error);
        }
        Ok(log)
    }

    fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<Self> {
        match options.custom_flags(libc::O_DIRECT).open(path) {
            Ok(file) => Ok(Self { file, direct: true }),
            // Some file systems (tmpfs of older kernels) know no O_DIRECT. Durable writes are still durable there.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Ok(Self { file: options.custom_flags(0).open(path)?, direct: false })
            }
            Err(error) => Err(error),
        }
    }

    fn preallocate(&self, size: u64, pace: impl Fn(u64) -> Pace) -> io::Result<()> {
        let length = libc::off_t::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // SAFETY: works on a descriptor that is open for the whole call; no memory is involved.
        if size > 0 && unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, length) } != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
                return Err(error);
            }
        }
        let zeros = zeroed_pages(ZEROING_PAGES_MAX.min(pages_for(size as usize)));
        let zeros: &[u8] = bytemuck::cast_slice(&zeros);
        let mut offset = 0;
        let mut piece = ZEROING_PAGES * PAGE_SIZE;
        while offset < size {
            let count = (size - offset).min(piece.min(zeros.len()) as u64);
            let begun = Instant::now();
            self.file.write_all_at(&zeros[..count as usize], offset)?;
            offset += count;
            let (written, rest) = (Instant::now(), REST_FACTOR * begun.elapsed());
            // Asked at least once after each piece.
            piece = loop {
                match pace(1000 * offset / size) {
                    Pace::Rest if written.elapsed() < rest => std::thread::sleep(REST_STEP.min(rest)),
                    Pace::Rest => break ZEROING_PAGES * PAGE_SIZE,
                    Pace::Hurry => break zeros.len(),
                    Pace::Stop => return Err(io::ErrorKind::Interrupted.into()),
                }
            };
        }
        self.file.sync_all()
    }

    /// Whether reads and writes go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Bytes in the segment.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads pages from `offset` (a multiple of the page size) until `pages` is full or the file ends, and returns the
    /// number of bytes read. Blocks: for recovery.
    ///
    /// # Errors
    /// As pread(2); EINTR is retried.
    pub fn read_pages(&self, offset: u64, pages: &mut [Page]) -> io::Result<usize> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(pages);
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes whole pages at `offset`, which are durable after [`LogFile::sync`]. Blocks.
    ///
    /// # Errors
    /// As pwrite(2). After an error, what is in that range is unknown.
    pub fn write_pages(&self, offset: u64, pages: &[Page]) -> io::Result<()> {
        self.file.write_all_at(bytemuck::cast_slice(pages), offset)
    }

    /// Waits until everything that was written is on disk. Blocks.
    ///
    /// # Errors
    /// As fdatasync(2). After an error, what of it is on disk is unknown.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl From<LogFile> for OwnedFd {
    fn from(log: LogFile) -> Self {
        log.file.into()
    }
}

/// Makes the names in `directory` durable: creations, renames and removals until now.
///
/// # Errors
/// As open(2) and fsync(2).
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Renames within a directory, replacing `to`, and returns once that is durable.
///
/// # Errors
/// As rename(2), open(2) and fsync(2).
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(parent(to))
}

/// Removes a file and returns once that is durable.
///
/// # Errors
/// As unlink(2), open(2) and fsync(2).
pub fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    sync_directory(parent(path))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_new_segment_is_whole_zero_and_without_holes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let size = (ZEROING_PAGES + 3) * PAGE_SIZE;
        let log = LogFile::create(&path, size as u64, |_| Pace::Hurry).unwrap();
        assert_eq!(log.size().unwrap(), size as u64);
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= size as u64);
        let mut pages = zeroed_pages(ZEROING_PAGES + 10);
        pages.iter_mut().for_each(|page| page.0.fill(7));
        assert_eq!(log.read_pages(0, &mut pages).unwrap(), size);
        let bytes: &[u8] = bytemuck::cast_slice(&pages);
        assert!(bytes[..size].iter().all(|byte| *byte == 0));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no leftover");
    }

    #[test]
    fn an_existing_segment_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = LogFile::create(&path, 2 * PAGE_SIZE as u64, |_| Pace::Hurry).unwrap();
        let mut pages = zeroed_pages(1);
        pages[0].0.fill(9);
        log.write_pages(PAGE_SIZE as u64, &pages).unwrap();
        log.sync().unwrap();
        assert_eq!(
            LogFile::create(&path, PAGE_SIZE as u64, |_| Pace::Hurry).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        let mut back = zeroed_pages(1);
        assert_eq!(LogFile::open(&path).unwrap().read_pages(PAGE_SIZE as u64, &mut back).unwrap(), PAGE_SIZE);
        assert_eq!(back[0].0, [9; PAGE_SIZE]);
    }

    #[test]
    fn a_leftover_of_a_crash_does_not_stop_a_new_segment() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(directory.path().join("log.new"), vec![1; 3 * PAGE_SIZE]).unwrap();
        let log = LogFile::create(&path, PAGE_SIZE as u64, |_| Pace::Hurry).unwrap();
        assert_eq!(log.size().unwrap(), PAGE_SIZE as u64);
        rename(&path, &directory.path().join("old")).unwrap();
        remove(&directory.path().join("old")).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
