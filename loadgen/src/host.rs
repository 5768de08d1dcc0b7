//! The machine that the load comes from: CPU times, placement, and what a report says about the environment.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// CPU time of the calling thread.
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "a thread has a CPU clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lets time-outs of the calling thread end on time: by default the kernel may add 50 us, which would look like latency.
pub fn precise_timers() {
    // SAFETY: sets a number of the calling thread; touches no memory. Failing leaves the default.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// The CPUs that this process may use, ascending.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: cpu_set_t is an array of integers, for which zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the given size into `set`.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
    }
    // SAFETY: every index is below the size of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// CPU time that a process has used so far, all its threads together. `None` if there is no such process.
pub fn process_cpu_time(process: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // SAFETY: asks for a constant; touches no memory.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let ticks = cpu_ticks(&text)?;
    Some(Duration::from_secs_f64(ticks as f64 / ticks_per_second.max(1) as f64))
}

/// `utime + stime` in the text of `/proc/PID/stat`. The second field is a name that may contain anything, `)` included.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// What a report says about the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Environment {
    /// Kernel release.
    pub kernel: String,
    /// CPU model.
    pub cpu: String,
    /// How many CPUs this process may use.
    pub cores: usize,
    /// Memory in bytes; zero if unknown.
    pub memory: u64,
}

impl Environment {
    /// This machine's.
    pub fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let unknown = |text: String| if text.is_empty() { "unknown".to_owned() } else { text };
        let cpuinfo = read("/proc/cpuinfo");
        Self {
            kernel: unknown(read("/proc/sys/kernel/osrelease").trim().to_owned()),
            cpu: unknown(field(&cpuinfo, "model name").or(field(&cpuinfo, "Model")).unwrap_or("").to_owned()),
            cores: allowed_cpus().len(),
            memory: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok())
                .map_or(0, |kilobytes| kilobytes * 1024),
        }
    }
}

/// The first value of `name` in lines of `name: value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// The kind of file system that `path` is on, as far as it matters for durability.
pub fn file_system(path: &Path) -> String {
    const KNOWN: &[(i64, &str)] = &[
        (0x0102_1994, "tmpfs"),
        (0x8584_58f6, "ramfs"),
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x794c_7630, "overlayfs"),
        (0x2fc1_2fc1, "zfs"),
        (0x6969, "nfs"),
        (0x0102_1997, "9p"),
        (0x6a65_6a63, "virtiofs"),
    ];
    let Ok(text) = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()) else {
        return "unknown".to_owned();
    };
    // SAFETY: statfs is a C struct of integers, for which zero is a value.
    let mut result: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated path and a writable struct.
    if unsafe { libc::statfs(text.as_ptr(), &raw mut result) } != 0 {
        return "unknown".to_owned();
    }
    let kind = result.f_type & 0xffff_ffff;
    KNOWN
        .iter()
        .find(|(known, _)| *known == kind)
        .map_or(format!("file system {kind:#x}"), |(_, name)| (*name).to_owned())
}

/// The disk that `path` is on: `vda (QEMU HARDDISK)`. `None` if no single disk can be named, as for memory, network and
/// stacked file systems.
pub fn disk(path: &Path) -> Option<String> {
    let folder = disk_folder(path)?;
    let name = folder.file_name()?.to_string_lossy().into_owned();
    let model = fs::read_to_string(folder.join("device/model")).unwrap_or_default();
    Some(if model.trim().is_empty() { name } else { format!("{name} ({})", model.trim()) })
}

/// The folder in which the kernel tells of the disk that `path` is on; `None` as for [`disk`].
pub fn disk_folder(path: &Path) -> Option<PathBuf> {
    let device = fs::metadata(path).ok()?.st_dev();
    let folder = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    let folder = fs::canonicalize(folder).ok()?;
    let is_part = folder.join("partition").exists();
    if is_part { folder.parent().map(Path::to_owned) } else { Some(folder) }
}

/// A time in seconds since 1970 began, in UTC, after RFC 3339: `2026-01-31T23:59:59Z`. `None` if the year has more than four digits.
pub fn utc(seconds: u64) -> Option<String> {
    let seconds = libc::time_t::try_from(seconds).ok()?;
    // SAFETY: tm is a C struct of integers and a pointer that may be null, for which zero is a value.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: a readable number and a writable struct; this form of the function keeps nothing.
    if unsafe { libc::gmtime_r(&raw const seconds, &raw mut time) }.is_null() {
        return None;
    }
    let (year, month) = (i64::from(time.tm_year) + 1900, time.tm_mon + 1);
    let (day, hour, minute, second) = (time.tm_mday, time.tm_hour, time.tm_min, time.tm_sec);
    (year < 10_000).then(|| format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// The width of the terminal that standard output is, in columns; `None` if it is none.
pub fn terminal_width() -> Option<usize> {
    // SAFETY: winsize is a C struct of integers, for which zero is a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one winsize into `size`, if standard output is a terminal.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// The commit that this program was built from, with `-dirty` if the sources had been changed after it. `None` if that could not be known
/// when it was built.
pub fn commit() -> Option<String> {
    option_env!("PANCH_COMMIT").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_are_found_behind_any_process_name() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0";
        assert_eq!(cpu_ticks(stat), Some(175));
        assert_eq!(cpu_ticks("12 (a) S 1"), None);
        assert!(process_cpu_time(std::process::id()).is_some());
        assert_eq!(process_cpu_time(u32::MAX), None);
    }

    #[test]
    fn times_are_spelled_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_826_155, "2000-02-29T12:09:15Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(seconds).as_deref(), Some(text));
        }
        assert_eq!((utc(253_402_300_800), utc(u64::MAX)), (None, None));
    }

    #[test]
    fn values_are_found_by_their_whole_name() {
        let text = "model\t\t: 85\nmodel name\t: Some CPU @ 2: fast\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2: fast"));
        assert_eq!(field(text, "name"), None);
        assert!(Environment::read().cores > 0);
        assert_ne!(file_system(Path::new("/")), "");
        assert_eq!(file_system(Path::new("/no/such/path")), "unknown");
        assert_eq!((disk(Path::new("/proc")), disk(Path::new("/no/such/path"))), (None, None));
    }
}
