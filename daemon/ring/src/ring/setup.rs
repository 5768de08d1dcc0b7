//! Creating a ring: configuration, the flags that this kernel knows, and errors that say what to do.

use std::io;

use io_uring::IoUring;

/// Sizes of one core's ring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RingConfig {
    /// Submissions that fit before the ring has to be entered; the completion queue is four times as long.
    pub entries: u32,
    /// Receive buffers: a power of two, at most 32768.
    pub receive_buffer_count: u16,
    /// Bytes per receive buffer.
    pub receive_buffer_size: u32,
    /// Send buffers kept for reuse.
    pub send_buffers_idle_max: usize,
    /// Bytes above which a send buffer is freed instead of kept.
    pub send_buffer_capacity_max: usize,
    /// Uses only the oldest form of each operation: no deferred task work, no multishot, no kernel-picked buffers. For
    /// diagnosis, and to test what an old kernel gets.
    pub plain: bool,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            entries: 1024,
            receive_buffer_count: 256,
            receive_buffer_size: 16 << 10,
            send_buffers_idle_max: 1024,
            send_buffer_capacity_max: 256 << 10,
            plain: false,
        }
    }
}

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// ENOSYS.
    #[error("this kernel has no io_uring: Linux 6.1 or newer is needed, built with CONFIG_IO_URING")]
    Missing,
    /// EPERM, and the sysctl says so.
    #[error("io_uring is disabled: set the sysctl kernel.io_uring_disabled to 0 (it is {0})")]
    Disabled(String),
    /// EPERM or EACCES for another reason.
    #[error(
        "io_uring is not permitted: allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp filter \
         (systemd: SystemCallFilter=@system-service @aio) or the container's security profile"
    )]
    Forbidden,
    /// ENOMEM.
    #[error(
        "not enough locked memory for io_uring: raise it with LimitMEMLOCK= in the unit, or with `ulimit -l` as root or as far as \
         /etc/security/limits.conf allows"
    )]
    Memory,
    /// EMFILE or ENFILE.
    #[error(
        "no file descriptor left for io_uring: raise the limit with LimitNOFILE= in the unit, or with `ulimit -n` as root or as far as \
         /etc/security/limits.conf allows"
    )]
    Descriptors,
    /// Anything else.
    #[error("cannot set up io_uring: {0}")]
    Other(#[source] io::Error),
}

impl From<io::Error> for RingError {
    fn from(error: io::Error) -> Self {
        Self::explain(error, std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok().as_deref())
    }
}

impl RingError {
    /// `disabled` is the content of the sysctl, if there is one.
    fn explain(error: io::Error, disabled: Option<&str>) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::EPERM | libc::EACCES) => match disabled.map(str::trim) {
                Some(level) if level != "0" => Self::Disabled(level.to_owned()),
                _ => Self::Forbidden,
            },
            Some(libc::ENOMEM) => Self::Memory,
            Some(libc::EMFILE | libc::ENFILE) => Self::Descriptors,
            _ => Self::Other(error),
        }
    }
}

/// How completions reach a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskWork {
    /// Only when this thread enters the ring (DEFER_TASKRUN): nothing interrupts a turn.
    Deferred,
    /// At any system call of this thread (COOP_TASKRUN).
    Cooperative,
    /// At any time, by interrupting the thread.
    Interrupting,
}

/// Builds the best ring that this kernel offers. Call it on the thread that will use the ring.
pub(super) fn build(config: &RingConfig) -> Result<(IoUring, TaskWork), RingError> {
    // From newest to oldest: 6.1, 5.19, 5.18, 5.5. A kernel refuses flags that it does not know with EINVAL.
    let ladder: &[(TaskWork, bool)] = &[
        (TaskWork::Deferred, true),
        (TaskWork::Cooperative, true),
        (TaskWork::Interrupting, true),
        (TaskWork::Interrupting, false),
    ];
    let ladder = if config.plain { &ladder[3..] } else { ladder };
    let mut refused = None;
    for &(task_work, submit_all) in ladder {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(config.entries.saturating_mul(4));
        if submit_all {
            builder.setup_submit_all();
        }
        match task_work {
            TaskWork::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            }
            TaskWork::Cooperative => {
                builder.setup_coop_taskrun().setup_taskrun_flag();
            }
            TaskWork::Interrupting => {}
        }
        match builder.build(config.entries) {
            Ok(ring) => return Ok((ring, task_work)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(RingError::Other(refused.expect("the ladder has a last rung")))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn message(code: i32, disabled: Option<&str>) -> String {
        RingError::explain(io::Error::from_raw_os_error(code), disabled).to_string()
    }

    #[test]
    fn errors_name_the_setting_to_change() {
        assert!(message(libc::ENOSYS, None).contains("6.1"));
        assert!(message(libc::EPERM, Some("2\n")).contains("kernel.io_uring_disabled to 0 (it is 2)"));
        assert!(message(libc::EPERM, Some("0\n")).contains("seccomp"));
        assert!(message(libc::ENOMEM, None).contains("LimitMEMLOCK="));
        assert!(message(libc::EMFILE, None).contains("LimitNOFILE="));
        let other = io::Error::from_raw_os_error(libc::EBUSY).to_string();
        assert_eq!(message(libc::EBUSY, None), format!("cannot set up io_uring: {other}"));
    }
}
