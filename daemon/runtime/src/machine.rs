//! What the machine has.

use std::path::Path;

/// Bytes of memory that this process may use, if the system says so: what the machine has, or what its control groups are limited to.
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

/// The limits of the control groups in /proc/self/cgroup, and of those that they are in; without one there is none.
fn group_limits(groups: &str, read: impl Fn(&Path) -> Option<String>) -> impl Iterator<Item = u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let folder = Path::new("/sys/fs/cgroup").join(own);
    let limit = |folder: &Path| read(&folder.join("memory.max"))?.trim().parse().ok();
    let limits: Vec<u64> =
        folder.ancestors().take_while(|at| at.starts_with("/sys/fs/cgroup")).filter_map(limit).collect();
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
        assert_eq!(of_machine("Other: 1 kB\nMemTotal:       24000 kB\n"), Some(24_576_000));
        assert!(memory_size().is_some_and(|size| size > 1 << 20));
    }
}
