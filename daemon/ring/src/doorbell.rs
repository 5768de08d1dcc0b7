//! The doorbell of a core: an eventfd and a flag that says whether anyone has to use it.
//!
//! Whoever gives a core work pushes it first and rings then. Ringing a core that is awake costs a fence and a load.
//! The protocol and its proof are in `park.rs`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::utils::CachePadded;

use crate::park::ParkFlag;

/// Wakes one core. Clones ring the same core, from any thread.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    parked: CachePadded<ParkFlag>,
    eventfd: File,
}

impl Doorbell {
    /// A doorbell whose core is awake.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // Not EFD_NONBLOCK: a ring answers a read of a non-blocking eventfd with EAGAIN at once instead of waiting.
        // SAFETY: creates a descriptor and touches no memory.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just created and nobody else owns it.
        let eventfd = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Self(Arc::new(Bell { parked: CachePadded::new(ParkFlag::new()), eventfd })))
    }

    /// Wakes the core if it sleeps. What it shall find must be visible before this call.
    pub fn ring(&self) {
        self.0.parked.wake_if_parked(|| {
            (&self.0.eventfd)
                .write_all(&1u64.to_ne_bytes())
                .expect("an eventfd takes 2^64 - 2 rings before it blocks");
        });
    }

    /// Announces that the caller, the doorbell's core, is going to sleep. It must look for work once more before it does.
    pub fn announce_park(&self) {
        self.0.parked.announce();
    }

    /// The core is awake again.
    pub fn withdraw_park(&self) {
        self.0.parked.withdraw();
    }

    /// Blocks the calling thread until someone rings, or until `timeout`. True if someone did.
    ///
    /// # Errors
    /// Only if the kernel is out of memory.
    pub fn sleep(&self, timeout: Option<Duration>) -> io::Result<bool> {
        if !readable(self.as_fd(), timeout)? {
            return Ok(false);
        }
        let mut count = [0; 8];
        match (&self.0.eventfd).read_exact(&mut count) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.eventfd.as_fd()
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.eventfd.as_raw_fd()
    }
}

/// Waits until `fd` can be read. A signal counts as a time-out: callers look for work anyway.
fn readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let time = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
    });
    let time = time.as_ref().map_or(std::ptr::null(), |time| time as *const libc::timespec);
    // SAFETY: one pollfd, and a timespec or null; the kernel writes only `revents`.
    let result = unsafe { libc::ppoll(&raw mut poll, 1, time, std::ptr::null()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) };
    }
    Ok(result > 0)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_core_that_is_awake_is_not_disturbed() {
        let bell = Doorbell::new().unwrap();
        bell.ring();
        assert!(!bell.sleep(Some(Duration::ZERO)).unwrap());
        bell.announce_park();
        bell.ring();
        bell.ring();
        assert!(bell.sleep(Some(Duration::ZERO)).unwrap());
        assert!(!bell.sleep(Some(Duration::ZERO)).unwrap(), "two rings are one wake-up");
    }

    #[test]
    fn another_thread_wakes_a_sleeper() {
        let bell = Doorbell::new().unwrap();
        bell.announce_park();
        let other = bell.clone();
        let start = Instant::now();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            other.ring();
        });
        assert!(bell.sleep(Some(Duration::from_secs(10))).unwrap());
        assert!(start.elapsed() < Duration::from_secs(5));
        bell.withdraw_park();
        thread.join().unwrap();
    }
}
