//! Standard error that nobody reads, a pipe that is full: whatever a node has to say there, it does not wait for long.

use std::fs::{self, File};
use std::io::{PipeReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::common::cluster::{end_with_test, launch};
use crate::common::{Cluster, Confined, Settings, eventually};

/// The environment failed.
const IO: i32 = 74;
/// Starting again will not help.
const CONFIG: i32 = 78;
/// A node that waits for a second now and then ends within this time.
const PATIENCE: Duration = Duration::from_secs(15);
/// Set for a process that is to panic.
const PANICS: &str = "PANCH_TEST_PANICS";

/// A pipe that takes nothing more, as long as its reader is kept.
fn full_pipe() -> (PipeReader, File) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    // SAFETY: the call takes no memory, and the descriptor is open.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
    let size = usize::try_from(size).expect("a pipe has a size");
    writer.write_all(&vec![b'.'; size]).expect("it takes so much");
    (reader, OwnedFd::from(writer).into())
}

fn single(node: &str) -> Cluster {
    let cluster = Cluster::prepare(Settings { nodes: 1, ..Settings::default() });
    let text = format!("{}{node}", cluster.config_text(1));
    fs::write(cluster.config_path(1), text).expect("a configuration is written");
    cluster
}

/// Starts the node of this cluster.
fn start(cluster: &Cluster, errors: File) -> Child {
    let config = cluster.config_path(1);
    launch(&["run", "--config", config.to_str().expect("a path of ASCII")], errors)
}

/// Waits for the end of a process.
fn end_of(mut child: Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it still runs after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_start_that_fails_ends_with_its_exit_code_though_nobody_reads_why() {
    let (_reader, errors) = full_pipe();
    let cluster = single("nonsense = 1\n");
    assert_eq!(end_of(start(&cluster, errors)).code(), Some(CONFIG), "its configuration is wrong");

    let (_reader, errors) = full_pipe();
    let cluster = single("");
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, cluster.ports(1).resp)).expect("the port is free");
    assert_eq!(end_of(start(&cluster, errors)).code(), Some(IO), "its port is in use");

    let (_reader, errors) = full_pipe();
    assert_eq!(end_of(launch(&["nonsense"], errors)).code(), Some(64), "its command line makes no sense");
}

#[test]
fn a_node_serves_and_stops_though_nobody_reads_its_warnings() {
    let (_reader, errors) = full_pipe();
    // Little for so many clients.
    let cluster = single("client_memory_max = \"8MiB\"\nclient_connections_max = 10000\n");
    let child = start(&cluster, errors);
    eventually("it listens", PATIENCE, || Cluster::is_listening(cluster.ports(1).resp).then_some(()));
    // SAFETY: kill takes no memory; the child was not waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(end_of(child).code(), Some(0));
}

/// A process that logs as a node does, and panics.
fn panicking(errors: Stdio) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "unread::a_panic_ends_the_process_though_nobody_reads_it", "--nocapture"]);
    command.env(PANICS, "yes").stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    // It leaves no memory behind.
    Confined::with_limit(libc::RLIMIT_CORE, 0, 0).is_for(&mut command);
    end_with_test(&mut command);
    command.spawn().expect("this program can be started")
}

#[test]
fn a_panic_ends_the_process_though_nobody_reads_it() {
    if std::env::var_os(PANICS).is_some() {
        let _log = panchd::log::start().expect("a thread");
        panic!("as the test wants it");
    }
    let (_reader, errors) = full_pipe();
    assert_eq!(end_of(panicking(errors.into())).signal(), Some(libc::SIGABRT));

    let mut child = panicking(Stdio::piped());
    let mut text = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut text).expect("text");
    assert_eq!(end_of(child).signal(), Some(libc::SIGABRT));
    assert!(text.contains("ERROR panchd: thread") && text.contains("as the test wants it"), "{text}");
}
