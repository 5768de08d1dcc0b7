//! `panchd dev`: what it must not do to a cluster that runs, its own or another one.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use crate::common::cluster::launch;
use crate::common::{dev, eventually};
use redis::cmd;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// Starting again may help.
const TEMPORARY: i32 = 74;

/// Where clusters of `panchd dev` are.
struct Place {
    folder: TempDir,
    base_port: u16,
}

/// One that runs; killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        Self { folder, base_port: dev::base_port() }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("dev")
    }

    fn launch(&self, dir: &Path, base_port: u16, more: &[&str], errors: &Path) -> Child {
        let (dir, base_port) = (dir.display().to_string(), base_port.to_string());
        let mut arguments = vec!["dev", "--dir", &dir, "--base-port", &base_port];
        arguments.extend(more);
        launch(&arguments, File::create(errors).expect("a file"))
    }

    fn start(&self) -> Running {
        let errors = self.folder.path().join("running.stderr");
        let running = Running(self.launch(&self.dir(), self.base_port, &[], &errors));
        eventually("the cluster serves", PATIENCE, || self.set().ok());
        running
    }

    /// Starts another one, which must end by itself; how, and what it says.
    fn start_in_vain(&self, dir: &Path, base_port: u16, more: &[&str]) -> (ExitStatus, String) {
        let errors = self.folder.path().join("other.stderr");
        let mut other = Running(self.launch(dir, base_port, more, &errors));
        let status =
            eventually("it ends", PATIENCE, || other.0.try_wait().expect("a child can be waited for"));
        (status, fs::read_to_string(errors).expect("its errors"))
    }

    fn connect(&self) -> redis::RedisResult<redis::Connection> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.base_port))?;
        client.get_connection_with_timeout(Duration::from_secs(1))
    }

    fn set(&self) -> redis::RedisResult<()> {
        cmd("SET").arg("key").arg("value").query(&mut self.connect()?)
    }

    fn get(&self) -> Option<String> {
        cmd("GET").arg("key").query(&mut self.connect().expect("it runs")).expect("it serves")
    }
}

#[test]
fn a_cluster_that_runs_keeps_its_data_and_its_ports() {
    let place = Place::new();
    let running = place.start();
    let config = fs::read(place.dir().join("node-2.toml")).expect("its configuration");
    let elsewhere = dev::base_port();
    for more in [&["--fresh"][..], &[], &["--fresh", "--groups", "4"]] {
        for base_port in [place.base_port, elsewhere] {
            let (status, errors) = place.start_in_vain(&place.dir(), base_port, more);
            assert_eq!(status.code(), Some(TEMPORARY), "{errors}");
            assert!(errors.contains("is in use by another `panchd dev`"), "{errors}");
        }
    }
    // Another folder, the same ports: the first node's, or those of one of the others.
    for shift in [0, 1] {
        let other = place.folder.path().join(format!("other-{shift}"));
        let port = place.base_port + shift;
        let (status, errors) = place.start_in_vain(&other, port, &["--replicas", "1"]);
        assert_eq!(status.code(), Some(TEMPORARY), "{errors}");
        let named = format!("cannot listen for Redis clients of node 1 on 127.0.0.1:{port}");
        assert!(errors.contains(&named) && errors.contains("--base-port"), "{errors}");
        assert!(!errors.contains("--rejoin"), "{errors}");
    }
    assert_eq!(place.get().as_deref(), Some("value"));
    assert_eq!(fs::read(place.dir().join("node-2.toml")).expect("its configuration"), config);
    drop(running);
    let _running = place.start();
    assert_eq!(place.get().as_deref(), Some("value"), "it is all there at the next start");
}

#[test]
fn a_port_of_any_kind_is_named_before_anything_is_deleted() {
    let place = Place::new();
    drop(place.start());
    let data = place.dir().join("node-1/identity");
    assert!(data.exists());
    for (port, what) in [
        (place.base_port + 2, "Redis clients of node 3"),
        (place.base_port + 101, "native clients of node 2"),
        (place.base_port + 200, "other nodes of node 1"),
    ] {
        let taken =
            eventually("the port is free", PATIENCE, || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
        let (status, errors) = place.start_in_vain(&place.dir(), place.base_port, &["--fresh"]);
        assert_eq!(status.code(), Some(TEMPORARY), "{errors}");
        assert!(errors.contains(&format!("cannot listen for {what} on 127.0.0.1:{port}")), "{errors}");
        assert!(data.exists(), "nothing is deleted");
        drop(taken);
    }
}

#[test]
fn a_node_that_was_started_by_hand_keeps_its_data() {
    let place = Place::new();
    drop(place.start());
    let config = place.dir().join("node-3.toml").display().to_string();
    let errors = place.folder.path().join("node.stderr");
    let _node = Running(launch(&["run", "--config", &config], File::create(&errors).expect("a file")));
    let lock = place.dir().join("node-3/lock");
    eventually("the node holds its directory", PATIENCE, || {
        let file = File::open(&lock).ok()?;
        file.try_lock().is_err().then_some(())
    });
    let (status, text) = place.start_in_vain(&place.dir(), dev::base_port(), &["--fresh"]);
    assert_eq!(status.code(), Some(TEMPORARY), "{text}");
    assert!(text.contains("node-3 is in use by another panchd"), "{text}");
    for node in 1..=3 {
        assert!(place.dir().join(format!("node-{node}/identity")).exists(), "{text}");
    }
}
