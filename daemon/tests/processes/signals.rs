//! Signals that somebody may send from habit, or that a terminal sends when it closes: none of them ends a node but those that ask for it.

use std::time::Duration;

use crate::common::{Cluster, Settings, eventually};
use redis::cmd;

#[test]
fn a_node_outlives_what_does_not_ask_it_to_stop_and_says_that_nothing_is_reloaded() {
    let mut cluster = Cluster::start(Settings { nodes: 1, ..Settings::default() });
    for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGHUP, libc::SIGHUP] {
        cluster.signal(1, signal);
    }
    eventually("it has heard of it", Duration::from_secs(10), || {
        (cluster.errors(1).matches("SIGHUP changes nothing").count() > 0).then_some(())
    });
    cmd("SET").arg("key").arg("value").query::<()>(&mut cluster.connect(1)).expect("it serves");
    cluster.stop(1, Duration::from_secs(10));
    assert!(!cluster.errors(1).contains("SIGUSR"), "{}", cluster.errors(1));
}

/// While it waits for others it can be asked to stop, and not by accident.
#[test]
fn a_node_that_waits_for_others_outlives_them_too() {
    let mut cluster = Cluster::prepare(Settings::default());
    cluster.spawn(1);
    eventually("it waits", Duration::from_secs(20), || cluster.errors(1).contains("waits for").then_some(()));
    for signal in [libc::SIGUSR1, libc::SIGHUP] {
        cluster.signal(1, signal);
    }
    eventually("it has heard of it", Duration::from_secs(10), || {
        cluster.errors(1).contains("SIGHUP changes nothing").then_some(())
    });
    assert_eq!(cluster.poll_exit(1), None);
    cluster.stop(1, Duration::from_secs(10));
}
