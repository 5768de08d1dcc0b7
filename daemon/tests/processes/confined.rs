//! Machines that do not give a node what it needs: it says so in one line, with what to change, and a supervisor learns that another try
//! is in vain. What it can do without does not stop it.

use std::time::Duration;

use crate::common::{Cluster, Confined, Settings};

/// Starting again will not help.
const CONFIG: i32 = 78;
const KIB: u64 = 1 << 10;

fn prepare(confined: Confined) -> Cluster {
    let mut cluster = Cluster::prepare(Settings { nodes: 1, ..Settings::default() });
    cluster.confined = Some(confined);
    cluster
}

/// The node must refuse with one line that has all of `texts`.
fn assert_refused(cluster: &mut Cluster, texts: &[&str]) {
    let (status, errors) = cluster.start_in_vain(1);
    assert_eq!(status.code(), Some(CONFIG), "{status}:\n{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    for text in texts {
        assert!(errors.contains(text), "it does not say {text:?}:\n{errors}");
    }
    assert!(!cluster.data_dir(1).exists(), "nothing has begun");
}

fn assert_serves(mut cluster: Cluster) {
    cluster.start_node(1);
    cluster.wait_writable();
    cluster.stop(1, Duration::from_secs(10));
}

#[test]
fn io_uring_may_be_forbidden_by_a_filter_in_whole_or_in_part() {
    for (call, name) in [
        (libc::SYS_io_uring_setup, "io_uring_setup"),
        (libc::SYS_io_uring_register, "io_uring_register"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
    ] {
        let refused = format!("{name} is refused");
        let texts = [&*refused, "seccomp=unconfined", "SystemCallFilter=@aio"];
        assert_refused(&mut prepare(Confined::without([call])), &texts);
    }
}

#[test]
fn a_development_cluster_looks_first_as_well() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_panchd"));
    command.args(["dev", "--replicas", "1", "--dir"]).arg(folder.path().join("dev"));
    command.args(["--base-port", &crate::common::dev::base_port().to_string()]);
    Confined::without([libc::SYS_io_uring_setup]).is_for(&mut command);
    let output = command.output().expect("the daemon can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(CONFIG), "{errors}");
    assert!(errors.lines().count() == 1 && errors.contains("io_uring_setup is refused"), "{errors}");
}

#[test]
fn locked_memory_may_be_too_little_and_is_raised_as_far_as_allowed() {
    let little = Confined::with_limit(libc::RLIMIT_MEMLOCK, 64 * KIB, 64 * KIB);
    let little = Confined { counts_locked_memory: true, ..little };
    let texts = ["locked memory: limit 64KiB", "LimitMEMLOCK=infinity", "--ulimit memlock=-1"];
    assert_refused(&mut prepare(little), &texts);
    let soft = Confined::with_limit(libc::RLIMIT_MEMLOCK, 64 * KIB, 8192 * KIB);
    assert_serves(prepare(Confined { counts_locked_memory: true, ..soft }));
}

#[test]
fn descriptors_may_be_too_few_and_clients_may_get_fewer() {
    let few = Confined::with_limit(libc::RLIMIT_NOFILE, 64, 64);
    assert_refused(
        &mut prepare(few),
        &["open files: limit 64", "LimitNOFILE=10174", "--ulimit nofile=10174"],
    );
    let mut cluster = prepare(Confined::with_limit(libc::RLIMIT_NOFILE, 64, 512));
    cluster.start_node(1);
    let errors = cluster.errors(1);
    assert!(errors.contains("warning: open files: limit 512") && errors.contains("to 338"), "{errors}");
    assert_eq!(cluster.info(1).text("maxclients"), "338");
}

#[test]
fn threads_may_be_forbidden_to_choose_their_cpus() {
    let confined = Confined::without([libc::SYS_sched_setaffinity]);
    // Nodes of tests do not choose: see `Cluster::config_text`.
    assert_serves(prepare(confined.clone()));
    let mut cluster = prepare(confined);
    let path = cluster.config_path(1);
    let text = std::fs::read_to_string(&path).expect("the configuration");
    assert!(text.contains("idle = \"park\""), "{text}");
    std::fs::write(&path, text.replace("idle = \"park\"", "idle = \"spin-then-park\"")).expect("written");
    let texts = ["sched_setaffinity is refused", "SystemCallFilter=@resources", "node.idle = \"park\""];
    assert_refused(&mut cluster, &texts);
}
