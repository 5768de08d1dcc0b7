//! What the machine has.

use std::path::Path;

/// Bytes of memory that this process may use, if the system says so: what the machine has, or what the control groups are limited to that
/// the process is in. Beyond that it is ended.
pub fn memory_size() -> Option<u64> {
    smallest(&HARD)
}

/// The same, or the size from which on the process is slowed down, if a control group names a smaller one. What the node chooses for itself
/// is to stay below. What it must take in whole may be more: slow is better than never.
pub fn memory_size_at_ease() -> Option<u64> {
    smallest(&SOFT)
}

/// Which limits of control groups count.
struct Counted {
    /// Files of the first version that have one.
    first: &'static [&'static str],
    /// And of the second.
    second: &'static [&'static str],
}

/// What no process gets beyond.
const HARD: Counted = Counted { first: &["memory.limit_in_bytes"], second: &["memory.max"] };
/// And from where on it is slowed down: systemd's `MemoryHigh=`. The first version knows no such thing.
const SOFT: Counted = Counted { first: HARD.first, second: &["memory.max", "memory.high"] };

fn smallest(counted: &Counted) -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limit = group_limits(&groups, counted, |path| read(path)).into_iter().min();
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| of_machine(&text));
    [limit, machine].into_iter().flatten().min()
}

/// What /proc/meminfo says.
fn of_machine(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// The limits of the control groups in /proc/self/cgroup, and of those that they are in, of both versions; without one there is none.
fn group_limits(groups: &str, counted: &Counted, read: impl Fn(&Path) -> Option<String>) -> Vec<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(own)) = (parts.next(), parts.next()) else { continue };
        // Only the second version has a hierarchy without controllers.
        let (root, files) = if controllers.is_empty() {
            ("/sys/fs/cgroup", counted.second)
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", counted.first)
        } else {
            continue;
        };
        let folder = Path::new(root).join(own.trim_start_matches('/'));
        for folder in folder.ancestors().take_while(|at| at.starts_with(root)) {
            let limit = |file: &&str| read(&folder.join(file))?.trim().parse::<u64>().ok();
            limits.extend(files.iter().filter_map(limit));
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limits of a process in these groups, where there are these files.
    fn limits(groups: &str, counted: &Counted, files: &[(&str, &str)]) -> Vec<u64> {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(found.1.to_owned())
        };
        group_limits(groups, counted, read)
    }

    #[test]
    fn the_narrowest_group_counts() {
        let files = [
            ("/sys/fs/cgroup/system.slice/panch.service/memory.max", "max\n"),
            ("/sys/fs/cgroup/system.slice/memory.max", "1073741824\n"),
        ];
        for counted in [&HARD, &SOFT] {
            let groups = "1:name=x:/old\n0::/system.slice/panch.service\n";
            assert_eq!(limits(groups, counted, &files), [1 << 30]);
            assert_eq!(limits("", counted, &files), [0; 0]);
        }
    }

    #[test]
    fn a_limit_from_which_on_the_process_is_slowed_down_counts_for_what_it_chooses_only() {
        let own = "/sys/fs/cgroup/system.slice/panch.service/memory.high";
        let files = [
            (own, "2000\n"),
            ("/sys/fs/cgroup/system.slice/memory.max", "3000\n"),
            ("/sys/fs/memory.max", "1\n"),
        ];
        let groups = "0::/system.slice/panch.service\n";
        assert_eq!(limits(groups, &SOFT, &files), [2000, 3000]);
        assert_eq!(
            limits(groups, &HARD, &files),
            [3000],
            "a snapshot of more than 2000 is taken all the same"
        );
        // Inside a container its own group is the root.
        assert_eq!(limits("0::/\n", &SOFT, &[("/sys/fs/cgroup/memory.high", "max\n")]), [0; 0]);
    }

    #[test]
    fn limits_of_the_first_version_are_found() {
        let files = [
            ("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "4000\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let groups = "5:cpu,cpuacct:/docker/x\n4:hugetlb,memory:/docker/x\n0::/docker/x\n";
        for counted in [&HARD, &SOFT] {
            assert_eq!(limits(groups, counted, &files), [4000, 9_223_372_036_854_771_712]);
        }
    }

    #[test]
    fn this_machine_has_memory() {
        assert_eq!(of_machine("Other: 1 kB\nMemTotal:       24000 kB\n"), Some(24_576_000));
        assert!(memory_size().is_some_and(|size| size > 1 << 20));
        assert!(memory_size_at_ease() <= memory_size());
    }
}
