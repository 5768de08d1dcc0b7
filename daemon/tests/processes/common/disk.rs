//! Small disks of their own for nodes: file systems in files, that fill up, hang, and turn slow.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)` of linux/fs.h.
const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;
/// What fills a disk.
const FILLER: &str = "filler";

/// An ext4 file system on a loop device. Taken down when dropped: before that, whatever uses it must have ended.
pub struct Disk {
    path: PathBuf,
    slow: Option<Slow>,
}

/// A disk that is stopped and let go again and again.
struct Slow {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Disk {
    /// Makes a disk of so many mebibytes and mounts it at `path`; `None` if this process may not, or has not the tools.
    pub fn mount(path: &Path, mebibytes: u64) -> Option<Self> {
        let image = path.with_extension("image");
        fs::create_dir_all(path).expect("a folder to mount on");
        File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).expect("a file for a disk");
        let run = |command: &mut Command| {
            let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        // Without reserved blocks: root may use them, and would find room on a full disk.
        let made = run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0"])
            .arg(&image));
        let mounted = made && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(path));
        mounted.then(|| Self { path: path.to_path_buf(), slow: None })
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut file = File::create(self.path.join(FILLER)).expect("a file that fills the disk");
        for size in [1 << 20, 64 << 10, 4 << 10] {
            let bytes = vec![0x5a; size];
            while file.write_all(&bytes).and_then(|()| file.sync_data()).is_ok() {}
        }
        // A large file leaves a block or two, which it would need to grow any further.
        for number in 0.. {
            let path = self.path.join(format!("{FILLER}-{number}"));
            let last =
                File::create(&path).and_then(|mut file| file.write_all(b"x").and_then(|()| file.sync_all()));
            if last.is_err() {
                break;
            }
        }
    }

    /// There is room again.
    pub fn empty(&self) {
        for entry in fs::read_dir(&self.path).expect("the disk's own folder") {
            let path = entry.expect("an entry").path();
            let is_filler = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(FILLER));
            if is_filler {
                fs::remove_file(path).expect("what filled the disk is removed");
            }
        }
    }

    /// Nothing is written any more, and nothing fails: whoever writes waits until [`Disk::go_on`].
    pub fn hang(&self) {
        control(&self.path, FIFREEZE).expect("the disk hangs");
    }

    /// The disk works again, at its own speed.
    pub fn go_on(&mut self) {
        if let Some(Slow { over, thread }) = self.slow.take() {
            over.store(true, Ordering::Relaxed);
            thread.join().expect("what slows the disk down does not panic");
        } else {
            control(&self.path, FITHAW).expect("the disk works again");
        }
    }

    /// Lets everybody go on who waits for the disk, whatever state it is in: who waits can not even be killed.
    pub fn release(&mut self) {
        if let Some(Slow { over, thread }) = self.slow.take() {
            over.store(true, Ordering::Relaxed);
            let _ = thread.join();
        }
        // A disk that works says that it does.
        let _ = control(&self.path, FITHAW);
    }

    /// From now on the disk works for a moment only every `every`: no write takes less.
    pub fn slow_down(&mut self, every: Duration) {
        let over = Arc::new(AtomicBool::new(false));
        let (shared, path) = (Arc::clone(&over), self.path.clone());
        let thread = std::thread::spawn(move || {
            while !shared.load(Ordering::Relaxed) {
                control(&path, FIFREEZE).expect("the disk hangs");
                std::thread::sleep(every);
                control(&path, FITHAW).expect("the disk works again");
                std::thread::sleep(every / 20);
            }
        });
        self.slow = Some(Slow { over, thread });
    }
}

fn control(path: &Path, request: libc::Ioctl) -> io::Result<()> {
    let folder = File::open(path)?;
    // SAFETY: both requests take no memory; the descriptor is open.
    match unsafe { libc::ioctl(folder.as_raw_fd(), request, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.release();
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
