//! Processes that may do less than this one: system calls that a filter refuses, as the profiles of containers do, limits, and a
//! capability less.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What a process may not do.
#[derive(Clone, Debug, Default)]
pub struct Confined {
    /// System calls that are refused with EPERM.
    pub refused: Vec<libc::c_long>,
    /// A resource, with its soft and its hard limit.
    pub limits: Vec<(libc::__rlimit_resource_t, u64, u64)>,
    /// It is counted what memory it locks, as for everybody but root.
    pub counts_locked_memory: bool,
}

/// CAP_IPC_LOCK of `linux/capability.h`.
const CAP_IPC_LOCK: libc::c_ulong = 14;

impl Confined {
    /// One that may not use these system calls.
    pub fn without(refused: impl IntoIterator<Item = libc::c_long>) -> Self {
        Self { refused: refused.into_iter().collect(), ..Self::default() }
    }

    /// One with such a soft and hard limit.
    pub fn with_limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> Self {
        Self { limits: vec![(resource, soft, hard)], ..Self::default() }
    }

    /// The command will run so.
    pub fn is_for(&self, command: &mut Command) {
        let filter = filter(&self.refused);
        let (limits, counts_locked_memory) = (self.limits.clone(), self.counts_locked_memory);
        // SAFETY: these are plain system calls, allowed between fork and exec; what they read lives in the closure.
        unsafe {
            command.pre_exec(move || {
                if counts_locked_memory {
                    // Who may not drop it does not have it.
                    libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0);
                }
                for (resource, soft, hard) in &limits {
                    check(libc::setrlimit(*resource, &libc::rlimit { rlim_cur: *soft, rlim_max: *hard }))?;
                }
                let program =
                    libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
                check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))
            });
        }
    }
}

/// A filter that refuses these system calls: compares the number, which is the first thing that the kernel shows, with each.
fn filter(refused: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let line = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = vec![line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in refused {
        program.push(line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, *call as u32));
        program.push(line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    }
    program.push(line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
