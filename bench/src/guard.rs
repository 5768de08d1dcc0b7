//! Processes and folders that end with this program, however it ends.
//!
//! Invariants:
//! * A guard that is dropped has ended its process, waited for it, and removed its folder.
//! * A panic (which aborts, so that nothing is dropped) does the same through its hook; if even that is not possible, the
//!   kernel ends the processes (PDEATHSIG).

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use panch_loadgen::stderr;

static LEFTOVERS: Mutex<Leftovers> = Mutex::new(Leftovers { processes: Vec::new(), folders: Vec::new() });

struct Leftovers {
    processes: Vec<u32>,
    folders: Vec<PathBuf>,
}

fn leftovers() -> MutexGuard<'static, Leftovers> {
    LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a panic end guarded processes and remove guarded folders.
pub fn clean_up_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Ok(mut leftovers) = LEFTOVERS.try_lock() {
            for process in leftovers.processes.drain(..) {
                send_signal(process, libc::SIGKILL);
            }
            for folder in leftovers.folders.drain(..) {
                let _ = std::fs::remove_dir_all(folder);
            }
        }
        usual(panic);
    }));
}

/// Sends a signal to a child that was not waited for yet. A child that has ended meanwhile does not mind.
pub(crate) fn send_signal(process: u32, signal: libc::c_int) {
    // SAFETY: touches no memory. The process id is a child's that was not reaped, so it belongs to nobody else.
    unsafe { libc::kill(process as libc::pid_t, signal) };
}

/// A process that stands still, and goes on when this is dropped.
pub(crate) struct Paused(u32);

impl Paused {
    pub(crate) fn new(process: u32) -> Self {
        send_signal(process, libc::SIGSTOP);
        Self(process)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        send_signal(self.0, libc::SIGCONT);
    }
}

/// A child process that ends when this is dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command`. Call it on the main thread: the kernel ends the child when the thread that started it ends.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        // A terminal's Ctrl-C goes to the foreground group; children shall end when this program says so.
        command.process_group(0);
        let parent = std::process::id();
        // SAFETY: between fork and exec only system calls are made, which are safe in the child of a threaded process.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have ended before the line above.
                if libc::getppid() as u32 != parent {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        leftovers().processes.push(child.id());
        Ok(Self(child))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let id = self.0.id();
        // Fails only for a process that has ended already.
        let _ = self.0.kill();
        leftovers().processes.retain(|process| *process != id);
        let _ = self.0.wait();
    }
}

/// A folder that is removed when this is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes a folder with a new name in `parent`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn create(parent: &Path) -> io::Result<Self> {
        let path = tempfile::Builder::new().prefix("panch-bench-").tempdir_in(parent)?.keep();
        leftovers().folders.push(path.clone());
        Ok(Self(path))
    }
}

impl AsRef<OsStr> for Folder {
    fn as_ref(&self) -> &OsStr {
        self.0.as_os_str()
    }
}

impl AsRef<Path> for Folder {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        leftovers().folders.retain(|folder| *folder != self.0);
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            stderr::line(format_args!("panch-bench: cannot remove {}: {error}", self.0.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_leaves_nothing_behind() {
        let folder = Folder::create(&std::env::temp_dir()).unwrap();
        let path = folder.0.clone();
        std::fs::write(path.join("file"), "data").unwrap();
        let process = Process::start(Command::new("sleep").arg("1000").current_dir(&path)).unwrap();
        let id = process.id();
        assert!(Path::new(&format!("/proc/{id}")).exists() && leftovers().processes.contains(&id));
        drop((process, folder));
        assert!(!Path::new(&format!("/proc/{id}")).exists() && !path.exists());
        assert!(!leftovers().processes.contains(&id) && !leftovers().folders.contains(&path));
    }
}
