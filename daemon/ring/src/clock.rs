//! The clock of a core: CLOCK_BOOTTIME, which never turns back and counts the time a machine is suspended.
//!
//! CLOCK_MONOTONIC stands still while the machine sleeps. A leader that wakes up would then still believe in a lease that has
//! long ended for everybody else. Deadlines are counted on the same clock: see [`crate::ring::Ring::set_deadline`]. A
//! virtual machine that its host pauses sees neither clock advance unless the hypervisor corrects the guest's clock: without
//! that, lease reads must not be used on it.

use panch_wire::time::Instant;

/// Nanoseconds of CLOCK_BOOTTIME now. About 25 ns.
pub fn now() -> Instant {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(result, 0, "CLOCK_BOOTTIME always exists");
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_run_backwards() {
        let mut last = now();
        for _ in 0..1000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }
}
