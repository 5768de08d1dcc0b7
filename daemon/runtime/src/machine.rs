//! What the machine has.

use std::path::Path;

/// Bytes of memory that this process may use and is not slowed down for, if the system says so: what the machine has, or what the control
/// groups are limited to that the process is in.
pub fn memory_size() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limit = group_limits(&groups, |path| read(path)).min();
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
fn group_limits(groups: &str, read: impl Fn(&Path) -> Option<String>) -> impl Iterator<Item = u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(own)) = (parts.next(), parts.next()) else { continue };
        // Only the second version has a hierarchy without controllers.
        let (root, files): (_, &[_]) = if controllers.is_empty() {
            ("/sys/fs/cgroup", &["memory.max", "memory.high"])
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", &["memory.limit_in_bytes"])
        } else {
            continue;
        };
        let folder = Path::new(root).join(own.trim_start_matches('/'));
        for folder in folder.ancestors().take_while(|at| at.starts_with(root)) {
            let limit = |file: &&str| read(&folder.join(file))?.trim().parse::<u64>().ok();
            limits.extend(files.iter().filter_map(limit));
        }
    }
    limits.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_group_counts() {
        let read = |path: &Path| match path.to_str()? {
            "/sys/fs/cgroup/system.slice/panch.service/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/system.slice/memory.max" => Some("1073741824\n".to_owned()),
            _ => None,
        };
        let limits: Vec<u64> =
            group_limits("1:name=x:/old\n0::/system.slice/panch.service\n", read).collect();
        assert_eq!(limits, [1 << 30]);
        assert_eq!(group_limits("", read).count(), 0);
    }

    #[test]
    fn a_limit_from_which_on_the_process_is_slowed_down_counts_and_so_does_one_of_the_first_version() {
        let limits = |groups: &str, files: &[(&str, &str)]| -> Vec<u64> {
            let read = |path: &Path| {
                let found = files.iter().find(|(name, _)| Path::new(name) == path)?;
                Some(found.1.to_owned())
            };
            group_limits(groups, read).collect()
        };
        let own = "/sys/fs/cgroup/system.slice/panch.service/memory.high";
        let files = [
            (own, "2000\n"),
            ("/sys/fs/cgroup/system.slice/memory.max", "3000\n"),
            ("/sys/fs/memory.max", "1\n"),
        ];
        assert_eq!(limits("0::/system.slice/panch.service\n", &files), [2000, 3000]);
        // Inside a container its own group is the root.
        assert_eq!(limits("0::/\n", &[("/sys/fs/cgroup/memory.high", "max\n")]), [0; 0]);
        let files = [
            ("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "4000\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let groups = "5:cpu,cpuacct:/docker/x\n4:hugetlb,memory:/docker/x\n0::/docker/x\n";
        assert_eq!(limits(groups, &files), [4000, 9_223_372_036_854_771_712]);
    }

    #[test]
    fn this_machine_has_memory() {
        assert_eq!(of_machine("Other: 1 kB\nMemTotal:       24000 kB\n"), Some(24_576_000));
        assert!(memory_size().is_some_and(|size| size > 1 << 20));
    }
}
