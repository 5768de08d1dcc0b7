//! Nodes that are asked to stop, that freeze, and that come back after a long time.

use std::time::Duration;

use crate::common::{Cluster, Load, LoadOptions, Raw, Settings, eventually};
use redis::cmd;

#[test]
fn a_node_that_is_asked_to_stop_under_load_ends_cleanly_and_loses_nothing() {
    let mut cluster = Cluster::start(Settings::default());
    let load = Load::start(&cluster, LoadOptions::default());
    load.wait_for_writes(100);
    // A follower, then the leader.
    for id in [cluster.follower(), cluster.leader()] {
        cluster.stop(id, Duration::from_secs(5));
        load.wait_for_writes(50);
        cluster.start_node(id);
        load.wait_for_writes(50);
    }
    // All at once: each must end although none of them has a majority any more.
    for id in cluster.ids() {
        cluster.signal(id, libc::SIGTERM);
    }
    for id in cluster.ids() {
        let status = cluster.wait_exit(id, Duration::from_secs(5));
        assert_eq!(status.code(), Some(0), "node {id}: {status}:\n{}", cluster.errors(id));
    }
    for id in cluster.ids() {
        cluster.start_node(id);
    }
    load.wait_for_writes(50);
    let outcome = load.stop();
    println!("{}", outcome.describe());
    outcome.check(&cluster);
    cluster.assert_same_state();
}

#[test]
fn a_node_that_is_asked_to_stop_as_soon_as_it_serves_ends_cleanly() {
    let mut cluster = Cluster::start(Settings { nodes: 1, ..Settings::default() });
    for _ in 0..15 {
        cluster.stop(1, Duration::from_secs(5));
        cluster.start_node(1);
    }
}

#[test]
fn a_follower_that_was_frozen_catches_up() {
    let mut cluster = Cluster::start(Settings::default());
    let leader = cluster.leader();
    let follower = cluster.follower();
    let others = cluster.ids().filter(|id| *id != follower).collect();
    let load = Load::start(&cluster, LoadOptions { nodes: others, ..LoadOptions::default() });
    load.wait_for_writes(50);
    cluster.signal(follower, libc::SIGSTOP);
    let before = load.writes();
    std::thread::sleep(Duration::from_secs(3));
    assert!(load.writes() > before + 100, "the others go on without it");
    assert_eq!(cluster.find_leader(0), Some(leader), "a frozen follower is no reason to elect");
    cluster.signal(follower, libc::SIGCONT);
    load.wait_for_writes(50);
    let outcome = load.stop();
    outcome.check(&cluster);
    cluster.assert_same_state();
}

#[test]
fn a_leader_that_was_frozen_is_replaced_and_serves_no_old_state_when_it_wakes() {
    let mut cluster = Cluster::start(Settings::default());
    let load = Load::start(&cluster, LoadOptions::default());
    load.wait_for_writes(100);
    for round in 0..3 {
        let old = cluster.leader();
        let key = format!("witness-{round}");
        let count = format!("count-{round}");
        cmd("SET").arg(&key).arg("before").query::<()>(&mut cluster.connect(old)).expect("SET");
        let mut clients: Vec<Raw> = (0..4).map(|_| Raw::connect(cluster.ports(old).resp)).collect();
        for client in &mut clients {
            client.command(&[b"PING"]);
            assert_eq!(client.reply_bytes(), b"+PONG\r\n");
        }
        cluster.signal(old, libc::SIGSTOP);
        let frozen_at = load.now();
        let new = eventually("another leader", Duration::from_secs(10), || {
            cluster.find_leader(0).filter(|leader| *leader != old)
        });
        println!("node {new} leads {:.2?} after", Duration::from_nanos(load.now() - frozen_at));
        let mut other = cluster.connect(new);
        cmd("SET").arg(&key).arg("after").query::<()>(&mut other).expect("SET");
        // These requests are the first thing that it does when it wakes. What it has not forgotten is not true any more.
        for (number, client) in clients.iter_mut().enumerate() {
            client.command(&[b"GET", key.as_bytes()]);
            let text = number.to_string();
            client.command(&[b"APPEND", count.as_bytes(), text.as_bytes()]);
        }
        cluster.signal(old, libc::SIGCONT);
        for client in &mut clients {
            let answer = client.reply_bytes();
            assert_eq!(answer, b"$5\r\nafter\r\n", "{}", answer.escape_ascii());
            let answer = client.reply_bytes();
            assert!(answer.starts_with(b":"), "{}", answer.escape_ascii());
        }
        let found: String = cmd("GET").arg(&count).query(&mut other).expect("GET");
        assert_eq!(found.len(), clients.len(), "each once: {found}");
        load.wait_for_writes(100);
    }
    let outcome = load.stop();
    println!("{}", outcome.describe());
    outcome.check(&cluster);
    cluster.assert_same_state();
}

#[test]
fn a_follower_that_was_away_for_long_comes_back_through_a_snapshot() {
    let mut cluster = Cluster::start(Settings {
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"4MiB\"\n".into(),
        ..Settings::default()
    });
    let away = cluster.follower();
    let others: Vec<usize> = cluster.ids().filter(|id| *id != away).collect();
    let options = LoadOptions { nodes: others.clone(), padding: 16 << 10, ..LoadOptions::default() };
    let load = Load::start(&cluster, options);
    load.wait_for_writes(50);
    cluster.kill(away);
    // Until the others have thrown the part of the log away that it would need.
    eventually("the others drop the start of their logs", Duration::from_secs(60), || {
        others
            .iter()
            .all(|id| {
                cluster.try_info(*id).is_some_and(|info| info.number("snapshots_total") >= 2)
                    && cluster.oldest_segment(*id, 0) > 2
            })
            .then_some(())
    });
    cluster.start_node(away);
    eventually("it installs a snapshot", Duration::from_secs(30), || {
        (cluster.info(away).number("installs_total") > 0).then_some(())
    });
    load.wait_for_writes(100);
    let outcome = load.stop();
    println!("{}", outcome.describe());
    outcome.check(&cluster);
    cluster.assert_same_state();

    // What it got is durable, too.
    cluster.kill(away);
    cluster.start_node(away);
    cluster.wait_writable();
    outcome.check(&cluster);
    cluster.assert_same_state();
}
