//! What nodes cannot start without, looked at before anything of them has begun: later it would be a panic, or an error that does not say
//! what to change.

use std::fs;

use super::limits::{self, locked_memory, open_files};
use super::sys::{self, Resource};
use super::{CPUS_ONLINE, Finding, Level, affinity, cores, disk, kernel, memory, ring};
use crate::cli::complain;
use crate::config::Config;
use crate::exit::Exit;

/// Raises the limits of this process as far as it may, and looks whether it can run these nodes. Says what is doubtful, one line for each
/// kind, and of what is in the way one line in all.
///
/// # Errors
/// How to end, if it cannot.
pub fn preflight(configs: &[Config]) -> Result<(), Exit> {
    raise_limits();
    let (text, exit) = judge(&needs(configs));
    complain(&text);
    if exit == Exit::Done { Ok(()) } else { Err(exit) }
}

/// Raises the limits of this process as far as it may. What it may not is judged as it is.
pub(super) fn raise_limits() {
    for (resource, what) in [(Resource::OpenFiles, "open files"), (Resource::LockedMemory, "locked memory")] {
        if let Err(error) = sys::raise(resource) {
            complain(&format!("panchd: cannot raise the limit on {what}: {error}\n"));
        }
    }
}

/// What to say of these findings, and how to end.
fn judge(findings: &[Finding]) -> (String, Exit) {
    let mut failures = findings.iter().filter(|finding| finding.level == Level::Failure);
    let Some(Finding { what, text, remedy, .. }) = failures.next() else {
        let warnings = findings.iter().filter(|finding| finding.level == Level::Warning);
        let line = |Finding { what, text, remedy, .. }: &Finding| {
            format!("panchd: warning: {what}: {text} ({remedy})\n")
        };
        return (warnings.map(line).collect(), Exit::Done);
    };
    let more = match failures.count() {
        0 => String::new(),
        count => format!(" (and {count} more: `panchd check` lists them)"),
    };
    let exit = findings.iter().fold(Exit::Done, |exit, finding| exit.or_worse(finding.exit()));
    (format!("panchd: cannot run here: {what}: {text}. To change that: {remedy}{more}\n"), exit)
}

/// What nodes in one process need of the machine, each kind once. Limits are judged as they are now.
pub(super) fn needs(configs: &[Config]) -> Vec<Finding> {
    let (nodes, cores) = (configs.len() as u64, configs.iter().map(cores).sum());
    let connections = configs.iter().map(|config| config.node.client_connections_max as u64).sum();
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let unread = |what, error| {
        Finding::warning(
            what,
            format!("the limit cannot be read: {error}"),
            "make sure that it is high enough",
        )
    };
    let mut findings = vec![
        kernel(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()),
        ring(sys::try_ring(), disabled.trim()),
        match sys::limit(Resource::LockedMemory) {
            Ok(limit) => locked_memory(limit.soft, cores),
            Err(error) => unread("locked memory", error),
        },
        match sys::limit(Resource::OpenFiles) {
            Ok(limit) => open_files(limit.soft, connections, nodes, reserve(configs)),
            Err(error) => unread("open files", error),
        },
        memory::memory(configs),
    ];
    if configs.iter().any(|config| config.node.is_pinned()) {
        findings.push(affinity(sys::try_affinity(), fs::read_to_string(CPUS_ONLINE)));
    }
    findings.extend(configs.iter().find_map(|config| disk::file_system(&config.node)));
    findings
}

/// Descriptors that these nodes need together beside those of their clients.
fn reserve(configs: &[Config]) -> u64 {
    configs.iter().map(|config| limits::reserve(&config.node, cores(config))).sum()
}

/// The most connections of clients for which each of these nodes, in one process, has descriptors.
pub fn connections_possible(configs: &[Config]) -> usize {
    let Ok(limit) = sys::limit(Resource::OpenFiles) else { return usize::MAX };
    let possible = limit.soft.saturating_sub(reserve(configs)) / configs.len().max(1) as u64;
    usize::try_from(possible).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_is_one_line_with_its_remedy_and_what_is_doubtful_one_each() {
        let warning = || Finding::warning("open files", "few", "more");
        let lasting = || Finding::failure("io_uring", "forbidden", "allow it");
        let passing = || Finding::failure("memory", "none left", "wait").passing_if(true);
        assert_eq!(judge(&[Finding::fine("kernel", "new")]), (String::new(), Exit::Done));
        assert_eq!(judge(&[warning()]), ("panchd: warning: open files: few (more)\n".to_owned(), Exit::Done));
        let (text, exit) = judge(&[warning(), lasting()]);
        assert_eq!(
            (text.as_str(), exit),
            ("panchd: cannot run here: io_uring: forbidden. To change that: allow it\n", Exit::Config)
        );
        assert_eq!(judge(&[passing()]).1, Exit::Temporary);
        let (text, exit) = judge(&[passing(), lasting()]);
        assert!(text.ends_with("wait (and 1 more: `panchd check` lists them)\n"), "{text}");
        assert_eq!((text.lines().count(), exit), (1, Exit::Config), "it cannot start whatever passes");
    }
}
