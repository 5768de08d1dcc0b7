//! The calls to the system that the standard library does not offer. All `unsafe` of this crate is here.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// A resource limit of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limit {
    /// What holds now.
    pub(super) soft: u64,
    /// What the process may raise it to.
    pub(super) hard: u64,
}

/// "No limit" among limits.
pub(super) const UNLIMITED: u64 = libc::RLIM_INFINITY;

/// Which limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Resource {
    /// RLIMIT_NOFILE.
    OpenFiles,
    /// RLIMIT_MEMLOCK, in bytes.
    LockedMemory,
}

impl Resource {
    fn code(self) -> libc::__rlimit_resource_t {
        match self {
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        }
    }
}

/// The limit as it is.
pub(super) fn limit(resource: Resource) -> io::Result<Limit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one `rlimit` to the pointer, which is valid for the call.
    check(unsafe { libc::getrlimit(resource.code(), &mut limit) })?;
    Ok(Limit { soft: limit.rlim_cur, hard: limit.rlim_max })
}

/// Raises the soft limit to the hard one.
pub(super) fn raise(resource: Resource) -> io::Result<Limit> {
    let before = limit(resource)?;
    let wanted = libc::rlimit { rlim_cur: before.hard, rlim_max: before.hard };
    // SAFETY: the kernel reads one `rlimit` from the pointer, which is valid for the call.
    check(unsafe { libc::setrlimit(resource.code(), &wanted) })?;
    limit(resource)
}

/// Bytes that this user may still write on the file system of `file`.
pub(super) fn free_bytes(file: &File) -> io::Result<u64> {
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the descriptor is open for the call, and the kernel writes one `statvfs` to the pointer.
    check(unsafe { libc::fstatvfs(file.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the struct is filled; all its bits were valid zeros before.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// IORING_SETUP_SINGLE_ISSUER and IORING_SETUP_DEFER_TASKRUN of `linux/io_uring.h`.
const RING_FLAGS: u32 = (1 << 12) | (1 << 13);
/// IORING_REGISTER_PROBE.
const REGISTER_PROBE: u32 = 8;
/// Operations that are asked about: as many as a probe has room for.
const PROBED_COUNT: usize = 256;

/// A system call of io_uring that is refused.
#[derive(Debug)]
pub(super) struct RingRefused {
    /// Which.
    pub(super) call: &'static str,
    /// Why: ENOSYS: not in this kernel; EPERM: forbidden; EINVAL: too old for the flags; ENOMEM: memory limits.
    pub(super) error: io::Error,
}

/// Makes, asks, enters and closes a small ring, set up as the core threads set up theirs. A filter may allow some of the calls.
///
/// # Errors
/// The first call that is refused.
pub(super) fn try_ring() -> Result<(), RingRefused> {
    /// `struct io_uring_params`: only the flags are given, the rest is for the kernel to fill.
    #[repr(C)]
    struct Parameters {
        entries: [u32; 2],
        flags: u32,
        rest: [u32; 27],
    }
    const { assert!(size_of::<Parameters>() == 120) };
    let refused = |call| RingRefused { call, error: io::Error::last_os_error() };
    let mut parameters = Parameters { entries: [0; 2], flags: RING_FLAGS, rest: [0; 27] };
    // SAFETY: the kernel reads and writes one `io_uring_params`, which has exactly this size and outlives the call.
    let descriptor = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2_u32, &raw mut parameters) };
    if descriptor < 0 {
        return Err(refused("io_uring_setup"));
    }
    // SAFETY: the call returned a new descriptor that nothing else owns.
    let ring = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
    // `struct io_uring_probe`: 16 bytes, and 8 for each operation.
    let mut probe = [0_u64; 2 + PROBED_COUNT];
    let (argument, count) = (probe.as_mut_ptr(), PROBED_COUNT as u32);
    // SAFETY: the kernel writes a probe of so many operations, for which there is room, and the ring is open.
    let asked = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_PROBE, argument, count)
    };
    if asked < 0 {
        return Err(refused("io_uring_register"));
    }
    let none = std::ptr::null::<libc::sigset_t>();
    // SAFETY: nothing is submitted, waited for or read; the ring is open.
    let entered = unsafe {
        libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), 0_u32, 0_u32, 0_u32, none, 0_usize)
    };
    if entered < 0 {
        return Err(refused("io_uring_enter"));
    }
    Ok(())
}

/// Sets the affinity of this thread to what it is.
///
/// # Errors
/// If that is forbidden.
pub(super) fn try_affinity() -> io::Result<()> {
    // SAFETY: `cpu_set_t` is plain bits, for which all zeros is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the kernel writes at most `size` bytes into the set, which outlives the call.
    check(unsafe { libc::sched_getaffinity(0, size, &mut set) })?;
    // SAFETY: the kernel reads `size` bytes of the set, which outlives the call.
    check(unsafe { libc::sched_setaffinity(0, size, &set) })
}

/// What kind of file system something is on, as `statfs` names it.
pub(super) fn file_system(path: &Path) -> io::Result<u32> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path is a C string, and the kernel writes one `statfs` to the pointer; both outlive the call.
    check(unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the struct is filled; all its bits were valid zeros before.
    Ok(unsafe { stat.assume_init() }.f_type as u32)
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A set of signals.
struct Signals(libc::sigset_t);

impl Signals {
    fn of(signals: &[i32]) -> Self {
        // SAFETY: an all-zero set is a valid place for `sigemptyset` to write to.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` outlives the calls, and is a valid set from the first on; a signal that does not exist is refused.
        unsafe {
            libc::sigemptyset(&mut set);
            for signal in signals {
                libc::sigaddset(&mut set, *signal);
            }
        }
        Self(set)
    }

    /// Changes what the calling thread has blocked; that is what it had before.
    fn change(&self, how: i32) -> Self {
        let mut before = Self::of(&[]);
        // SAFETY: both are valid sets, and outlive the call.
        unsafe { libc::pthread_sigmask(how, &self.0, &mut before.0) };
        before
    }
}

/// Blocks (or unblocks) these signals for the calling thread and those it starts from now on.
pub(super) fn set_blocked(signals: &[i32], blocked: bool) {
    Signals::of(signals).change(if blocked { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK });
}

/// Does something while these signals are blocked for the calling thread: those that it starts meanwhile have them blocked for good.
pub(super) fn while_blocked<T>(signals: &[i32], act: impl FnOnce() -> T) -> T {
    let before = Signals::of(signals).change(libc::SIG_BLOCK);
    let result = act();
    before.change(libc::SIG_SETMASK);
    result
}

/// Waits for so long at most until `stream` takes something, or says what is in the way, at once. A pipe that does takes a page. Whether
/// that is so; a signal may end the wait before.
pub(crate) fn wait_writable(stream: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut asked = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let timeout = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the kernel reads and writes one `pollfd`, which outlives the call, as the descriptor does.
    unsafe { libc::poll(&mut asked, 1, timeout) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_limits_and_a_disk() {
        let limit = limit(Resource::OpenFiles).unwrap();
        assert!(limit.soft > 0 && limit.soft <= limit.hard);
        assert!(free_bytes(&tempfile::tempfile().unwrap()).unwrap() > 0);
    }

    #[test]
    fn signals_are_blocked_for_threads_that_start_meanwhile_and_as_before_afterwards() {
        let is_blocked = || {
            let now = Signals::of(&[]).change(libc::SIG_BLOCK);
            // SAFETY: it is a valid set, and outlives the call.
            unsafe { libc::sigismember(&now.0, libc::SIGUSR2) == 1 }
        };
        std::thread::spawn(move || {
            assert!(!is_blocked());
            let thread = while_blocked(&[libc::SIGUSR2], || std::thread::spawn(is_blocked));
            assert!(thread.join().unwrap() && !is_blocked());
            set_blocked(&[libc::SIGUSR2], true);
            while_blocked(&[libc::SIGUSR2], || ());
            assert!(is_blocked(), "it was before");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_pipe_takes_something_until_it_is_full() {
        use std::io::Write;
        use std::os::fd::AsFd;
        let (reader, mut writer) = io::pipe().unwrap();
        assert!(wait_writable(writer.as_fd(), Duration::ZERO));
        // SAFETY: the call takes no memory, and the descriptor is open.
        let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
        writer.write_all(&vec![0; size as usize]).unwrap();
        assert!(!wait_writable(writer.as_fd(), Duration::from_millis(10)));
        drop(reader);
        assert!(wait_writable(writer.as_fd(), Duration::ZERO), "that nobody reads is said at once");
    }
}
