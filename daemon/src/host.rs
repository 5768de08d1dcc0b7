//! Can this machine run this node? Asked by `panchd check`, and of what a start cannot do without by `panchd run` and `panchd dev`.
//!
//! Invariants:
//! * Every finding that is not fine says which setting of the system or which key of the config to change.
//! * Nothing is left behind: test files have no name by the time they are written to, test sockets are closed.

mod disk;
mod limits;
mod memory;
mod preflight;
pub(crate) mod sys;

pub use memory::data_memory_max;
pub use preflight::{connections_possible, preflight};

use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener};

use panch_runtime::log_size::LogSize;
use panch_runtime::placement::allowed_cpus;

use crate::cli::{self, CheckArgs, complain};
use crate::config::schema::list;
use crate::config::units::Size;
use crate::config::{Address, ClusterConfig, Config, Durability, NodeConfig};
use crate::exit::Exit;
use crate::secret;

use limits::LOCKED_MEMORY_REMEDY;

/// Single-issuer rings with deferred task work, as the core threads use them.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Read to find the CPUs that core threads are kept on.
const CPUS_ONLINE: &str = "/sys/devices/system/cpu/online";

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// As it should be.
    Fine,
    /// The node runs, but not as well or as safely as it could.
    Warning,
    /// The node cannot run.
    Failure,
}

/// One thing looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// What was looked at, in two words.
    pub what: &'static str,
    /// What was found.
    pub text: String,
    /// What to change; empty if fine.
    pub remedy: String,
    /// A failure that may be over at another try, whoever changes nothing.
    pub may_pass: bool,
}

impl Finding {
    fn fine(what: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Fine, what, text: text.into(), remedy: String::new(), may_pass: false }
    }

    fn warning(what: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warning, what, text: text.into(), remedy: remedy.into(), may_pass: false }
    }

    fn failure(what: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Failure, what, text: text.into(), remedy: remedy.into(), may_pass: false }
    }

    /// The same, if it may be over at another try.
    fn passing_if(self, may_pass: bool) -> Self {
        Self { may_pass, ..self }
    }

    /// How a process ends because of it.
    fn exit(&self) -> Exit {
        match (self.level, self.may_pass) {
            (Level::Fine | Level::Warning, _) => Exit::Done,
            (Level::Failure, true) => Exit::Temporary,
            (Level::Failure, false) => Exit::Config,
        }
    }
}

/// `panchd check`: prints what was found.
pub fn check(arguments: &CheckArgs) -> Exit {
    let loaded = match arguments.config.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    // As a node does.
    preflight::raise_limits();
    let findings = examine(&loaded.config);
    let text = render(&findings);
    if arguments.print {
        // Only the values go to standard output, so that they can be kept as a file.
        complain(&text);
        cli::print(&loaded.print());
    } else {
        cli::print(&format!("The configuration is valid.\n{text}"));
    }
    findings.iter().fold(Exit::Done, |exit, finding| exit.or_worse(finding.exit()))
}

/// Looks at everything that the node of `config` needs from this machine.
pub fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = preflight::needs(std::slice::from_ref(config));
    findings.push(cpus(config, allowed_cpus()));
    findings.extend(config.node.secret_file.as_deref().map(|path| match secret::read(path) {
        Ok(_) => Finding::fine("cluster secret", path.display().to_string()),
        Err(text) => Finding::failure("cluster secret", text, "every node needs the same"),
    }));
    findings.extend(disk::examine(&config.node, cores(config)));
    let listeners = [
        ("node.resp_listen", config.node.resp_listen),
        ("node.native_listen", config.node.native_listen),
        ("node.peer_listen", config.node.peer_listen),
    ];
    findings.extend(listeners.map(|(key, address)| port(key, address)));
    findings.extend(names(&config.cluster).into_iter().map(|address| name(address, address.resolve())));
    findings
}

/// Where members are reached by name, each name once: a node needs the addresses of all of them when it is started.
fn names(cluster: &ClusterConfig) -> Vec<&Address> {
    let all = cluster.members.iter().flat_map(|member| [&member.peer, &member.client, &member.native]);
    let mut names: Vec<&Address> = Vec::new();
    for address in all.filter(|address| address.ip().is_none()) {
        if !names.iter().any(|other| other.host() == address.host()) {
            names.push(address);
        }
    }
    names
}

/// How many core threads the node has, as far as the process may use CPUs.
fn cores(config: &Config) -> u64 {
    let placed = allowed_cpus().ok().and_then(|allowed| config.node.cores.place(&allowed).ok());
    placed.map_or(1, |cpus| cpus.len() as u64)
}

/// How large the log of each core may become on the disk; `None` if it is in memory.
fn log_size(node: &NodeConfig) -> Option<LogSize> {
    let NodeConfig { snapshot_log_size, log_segment_size: segment_size, .. } = *node;
    (node.durability != Durability::Memory).then_some(LogSize { snapshot_log_size, segment_size })
}

/// The signals that a node takes: to stop, and those that it says something to, or nothing, instead of ending.
pub const SIGNALS: [i32; 5] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

/// [`SIGNALS`] no longer reach this thread, nor those it starts from now on.
pub fn block_signals() {
    sys::set_blocked(&SIGNALS, true);
}

/// Does something; threads that it starts are not reached by [`SIGNALS`], whatever holds for this one.
pub(crate) fn without_signals<T>(act: impl FnOnce() -> T) -> T {
    sys::while_blocked(&SIGNALS, act)
}

/// They reach this thread again.
pub fn unblock_signals() {
    sys::set_blocked(&SIGNALS, false);
}

/// Names the time since this machine was started; 0 if it does not say.
pub fn boot() -> u64 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if id.trim().is_empty() { 0 } else { panch_wire::checksum::checksum(id.trim().as_bytes()) }
}

/// The findings as lines, remedies below what they remedy.
pub fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    for finding in findings {
        let level = match finding.level {
            Level::Fine => "ok",
            Level::Warning => "warn",
            Level::Failure => "FAIL",
        };
        let _ = writeln!(text, "{level:<4}  {:<width$}  {}", finding.what, finding.text);
        if !finding.remedy.is_empty() {
            let _ = writeln!(text, "{:<4}  {:<width$}  -> {}", "", "", finding.remedy);
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let _ = match (count(Level::Failure), count(Level::Warning)) {
        (0, 0) => writeln!(text, "This machine can run the node."),
        (0, warnings) => writeln!(text, "This machine can run the node, with warnings: {warnings}."),
        (failures, _) => writeln!(text, "This machine cannot run the node yet; to be changed: {failures}."),
    };
    text
}

fn kernel(release: &str) -> Finding {
    let what = "kernel";
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    let release = release.trim();
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= KERNEL_MIN => {
            Finding::fine(what, format!("Linux {release}"))
        }
        (Some(_), Some(_)) => Finding::failure(
            what,
            format!("Linux {release} is too old"),
            format!("use Linux {}.{} or later", KERNEL_MIN.0, KERNEL_MIN.1),
        ),
        _ => Finding::warning(
            what,
            format!("the version \"{release}\" cannot be read"),
            "make sure it is Linux 6.1 or later",
        ),
    }
}

/// `disabled` is the value of the sysctl, empty if the kernel has none.
fn ring(made: Result<(), sys::RingRefused>, disabled: &str) -> Finding {
    let what = "io_uring";
    let Err(sys::RingRefused { call, error }) = made else {
        return Finding::fine(what, "a ring could be made");
    };
    let code = error.raw_os_error();
    let remedy = match (code, disabled) {
        (Some(libc::EPERM), "2") => {
            "run `sysctl -w kernel.io_uring_disabled=0` (on the host, if this is a container)"
        }
        (Some(libc::EPERM), "1") => {
            "run `sysctl -w kernel.io_uring_disabled=0` (on the host, if this is a container), or put this user into the group of kernel.io_uring_group"
        }
        (Some(libc::EPERM | libc::EACCES | libc::ENOSYS), _) => {
            "a seccomp filter forbids it: `docker run --security-opt seccomp=unconfined`, or a profile (seccomp=FILE) that allows \
             io_uring_setup, io_uring_enter and io_uring_register; in a systemd drop-in `SystemCallFilter=@aio`"
        }
        (Some(libc::EINVAL), _) => "use Linux 6.1 or later",
        (Some(libc::ENOMEM), _) => LOCKED_MEMORY_REMEDY,
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            "raise the limit on open files: in a systemd drop-in `LimitNOFILE=65536`, or `docker run --ulimit nofile=65536`"
        }
        _ => "see `man io_uring_setup` for this error",
    };
    // Memory is what others give back.
    Finding::failure(what, format!("{call} is refused: {error}"), remedy)
        .passing_if(matches!(code, Some(libc::ENOMEM | libc::ENFILE)))
}

/// Whether threads can be kept on their CPUs. `topology`: what the system says of its CPUs.
fn affinity(allowed: io::Result<()>, topology: io::Result<String>) -> Finding {
    let what = "CPU affinity";
    let instead = "or set node.idle = \"park\" and node.cores to a number: core threads stay where the scheduler puts them then";
    if let Err(error) = allowed {
        let remedy = format!(
            "a seccomp filter forbids it: in a systemd drop-in `SystemCallFilter=@resources`, or `docker run --security-opt \
             seccomp=FILE` with a profile that allows sched_setaffinity; {instead}"
        );
        return Finding::failure(what, format!("sched_setaffinity is refused: {error}"), remedy);
    }
    match topology {
        Ok(_) => Finding::fine(what, "core threads can be kept on their CPUs"),
        Err(error) => Finding::failure(
            what,
            format!("cannot read {CPUS_ONLINE}: {error}"),
            format!("mount sysfs on /sys (`docker run` does so by itself); {instead}"),
        ),
    }
}

fn cpus(config: &Config, allowed: io::Result<Vec<usize>>) -> Finding {
    let what = "CPUs";
    let allowed = match allowed {
        Ok(allowed) => allowed,
        Err(error) => {
            return Finding::warning(what, format!("the affinity mask cannot be read: {error}"), "");
        }
    };
    match config.node.cores.place(&allowed) {
        Ok(cpus) => Finding::fine(what, format!("cores on {} of CPUs {}", list(&cpus), list(&allowed))),
        Err(text) => Finding::failure(
            what,
            text,
            "change node.cores, or allow more CPUs (systemd: AllowedCPUs= and CPUAffinity=; Docker: --cpuset-cpus)",
        ),
    }
}

fn port(key: &'static str, address: SocketAddr) -> Finding {
    let Err(error) = TcpListener::bind(address) else {
        return Finding::fine("port", format!("{address} is free ({key})"));
    };
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "stop what listens there (`ss -ltnp 'sport = :{}'` names it; it may be this very node), or change {key}",
            address.port()
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "this machine has no address {} (see `ip address`): change {key}, or cluster.members",
                address.ip()
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("choose a port from 1024 for {key}, or grant CAP_NET_BIND_SERVICE")
        }
        _ => format!("change {key}"),
    };
    let may_pass = Exit::from(&error) == Exit::Temporary;
    Finding::failure("port", format!("cannot listen on {address} ({key}): {error}"), remedy)
        .passing_if(may_pass)
}

/// What the name of an address is found to stand for.
fn name(address: &Address, found: io::Result<SocketAddr>) -> Finding {
    let host = address.host();
    match found {
        Ok(found) => Finding::fine("name", format!("{host} is {}", found.ip())),
        // Whatever the resolver says: it may know more at another try.
        Err(error) => Finding::failure(
            "name",
            format!("{host} has no address: {error}"),
            format!("add {host} to the DNS or to /etc/hosts, or use an IP address in cluster.members"),
        )
        .passing_if(true),
    }
}

/// The unit in which people are told of so much.
fn unit(size: u64) -> u64 {
    if size >> 34 == 0 { 1 << 20 } else { 1 << 30 }
}

/// About so much, for people: what there is.
fn rounded(size: u64) -> Size {
    Size(size - size % unit(size))
}

/// The same for what is needed, or is too much: with less than that it would not be enough.
fn rounded_up(size: u64) -> Size {
    size.checked_next_multiple_of(unit(size)).map_or_else(|| rounded(size), Size)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    #[test]
    fn old_kernels_are_told_from_new_ones_by_number() {
        assert_eq!(kernel("6.1.0-18-amd64\n").level, Level::Fine);
        assert_eq!(kernel("10.0.1").level, Level::Fine);
        assert_eq!(kernel("6.0.19").level, Level::Failure);
        assert_eq!(kernel("5.15.0-91-generic").level, Level::Failure);
        assert_eq!(kernel("").level, Level::Warning);
    }

    #[test]
    fn a_ring_that_is_refused_names_the_setting_that_refuses_it() {
        let ring_refused = |errno, disabled| {
            let error = io::Error::from_raw_os_error(errno);
            ring(Err(sys::RingRefused { call: "io_uring_setup", error }), disabled)
        };
        assert_eq!(ring(Ok(()), "2").level, Level::Fine);
        assert!(ring_refused(libc::EPERM, "2").remedy.contains("io_uring_disabled=0"));
        assert!(ring_refused(libc::EPERM, "1").remedy.contains("io_uring_group"));
        assert!(ring_refused(libc::EPERM, "0").remedy.contains("seccomp"));
        assert!(ring_refused(libc::ENOMEM, "0").remedy.contains("LimitMEMLOCK"));
        assert!(ring_refused(libc::EINVAL, "0").remedy.contains("6.1"));
        assert_eq!(ring_refused(libc::EPERM, "0").exit(), Exit::Config);
        assert_eq!(ring_refused(libc::ENOMEM, "0").exit(), Exit::Temporary);
    }

    #[test]
    fn each_name_of_a_member_is_looked_up_once_and_fails_as_at_a_start() {
        let text = include_str!("../../configs/cluster-3/1.toml");
        let members =
            r#"cluster.members=[{ node = 1, peer = "one:1", client = "one:2", native = "other:3" }]"#;
        let listen = [("resp", 1), ("native", 2), ("peer", 3)];
        let listen = listen.map(|(key, port)| format!("node.{key}_listen=127.0.0.1:{port}"));
        let sets = [&[members.to_owned()][..], &listen].concat();
        let config = parse(Path::new("1.toml"), text, &sets).unwrap().config;
        assert_eq!(names(&config.cluster).iter().map(|it| it.host()).collect::<Vec<_>>(), ["one", "other"]);
        let address = names(&config.cluster)[0];
        assert_eq!(name(address, Ok("10.0.0.1:1".parse().unwrap())).level, Level::Fine);
        assert_eq!(name(address, Err(io::ErrorKind::NotFound.into())).exit(), Exit::Temporary);
    }

    #[test]
    fn threads_that_cannot_be_kept_on_their_cpus_have_two_ways_out() {
        let refused = || io::Error::from_raw_os_error(libc::EPERM);
        assert_eq!(affinity(Ok(()), Ok("0-3\n".to_owned())).level, Level::Fine);
        for finding in [affinity(Err(refused()), Ok(String::new())), affinity(Ok(()), Err(refused()))] {
            assert!(
                finding.exit() == Exit::Config && finding.remedy.contains("node.idle = \"park\""),
                "{finding:?}"
            );
        }
    }

    #[test]
    fn taken_and_foreign_addresses_fail_with_different_remedies() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = port("node.resp_listen", listener.local_addr().unwrap());
        assert!(taken.exit() == Exit::Temporary && taken.remedy.contains("change node.resp_listen"));
        // 192.0.2.0/24 is reserved for examples: no machine has it.
        let foreign = port("node.peer_listen", "192.0.2.1:7001".parse().expect("an address"));
        assert!(foreign.level == Level::Failure && foreign.remedy.contains("192.0.2.1"), "{foreign:?}");
    }

    #[test]
    fn examining_covers_every_need_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let text = include_str!("../../configs/cluster-3/1.toml");
        let config = parse(&folder.path().join("1.toml"), text, &[]).unwrap().config;
        let findings = examine(&config);
        for what in [
            "kernel",
            "io_uring",
            "locked memory",
            "open files",
            "memory",
            "CPUs",
            "data folder",
            "disk space",
            "port",
        ] {
            assert!(findings.iter().any(|finding| finding.what == what), "{what} is missing");
        }
        assert!(findings.iter().all(|finding| finding.level == Level::Fine || !finding.remedy.is_empty()));
        assert_eq!(findings.iter().filter(|finding| finding.what == "io_uring").count(), 1, "once is enough");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(!Path::new(&config.node.data_dir).exists());
        let text = render(&findings);
        assert_eq!(
            text.lines().filter(|line| line.contains("->")).count(),
            findings.iter().filter(|f| !f.remedy.is_empty()).count()
        );
    }
}
