//! Machines that are started anew: a node sees a start of its machine of its own, by a file that is mounted over what the kernel
//! says, in a mount namespace of the node's process. That takes the rights of root.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr;

/// Where the kernel says which start of the machine this is.
const BOOT_ID: &CStr = c"/proc/sys/kernel/random/boot_id";

/// The machine of one node.
#[derive(Debug)]
pub struct Machine {
    /// Holds the name of its last start.
    path: PathBuf,
    starts: u64,
}

impl Machine {
    /// A machine whose name is kept in this file; `None` if this process may not pretend to be on one.
    pub fn new(path: PathBuf) -> Option<Self> {
        let mut machine = Self { path, starts: 0 };
        machine.start();
        let mut command = Command::new("cat");
        command.arg(BOOT_ID.to_str().expect("ASCII")).stdin(Stdio::null()).stderr(Stdio::null());
        machine.is_for(&mut command);
        let seen = command.output().is_ok_and(|output| output.stdout == machine.name().as_bytes());
        seen.then_some(machine)
    }

    fn name(&self) -> String {
        format!("00000000-0000-4000-8000-{:012x}\n", self.starts)
    }

    /// It is started, once more.
    pub fn start(&mut self) {
        self.starts += 1;
        fs::write(&self.path, self.name()).expect("a name is written");
    }

    /// The command will run on this machine.
    pub fn is_for(&self, command: &mut Command) {
        see_instead(command, &self.path, BOOT_ID);
    }
}

/// What this command's process sees at `place` is this file.
pub fn see_instead(command: &mut Command, file: &Path, place: &'static CStr) {
    let file = c_path(file);
    // SAFETY: these are plain system calls, allowed between fork and exec; the strings live in the closure.
    unsafe {
        command.pre_exec(move || {
            let none = ptr::null();
            let root = c"/".as_ptr();
            // What is mounted from now on is seen by this process alone.
            check(libc::unshare(libc::CLONE_NEWNS))?;
            check(libc::mount(none, root, none, libc::MS_REC | libc::MS_SLAVE, none.cast()))?;
            check(libc::mount(file.as_ptr(), place.as_ptr(), none, libc::MS_BIND, none.cast()))
        });
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path without zeros")
}
