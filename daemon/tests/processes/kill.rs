//! Nodes that are killed without warning, under load: nothing that was acknowledged is lost, nothing happens twice, and
//! what clients see is linearizable.
//!
//! `PANCH_KILLS` sets how often the leader is killed (20).

use std::time::Duration;

use crate::common::{Cluster, Dice, Load, LoadOptions, Settings, eventually};
use redis::{Value, cmd};

/// After a restart, before the next kill.
const CALM: Duration = Duration::from_millis(300);
/// No failover may take longer.
const GAP_MAX: Duration = Duration::from_secs(5);

#[test]
fn nothing_acknowledged_is_lost_when_leaders_and_then_all_nodes_are_killed() {
    let kills: usize = std::env::var("PANCH_KILLS").map_or(20, |text| text.parse().expect("a number"));
    let mut cluster = Cluster::start(Settings {
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"4MiB\"\n".into(),
        ..Settings::default()
    });
    let load = Load::start(&cluster, LoadOptions { padding: 4096, ..LoadOptions::default() });
    load.wait_for_writes(200);
    let mut moments = Vec::new();
    for _ in 0..kills {
        let leader = cluster.leader();
        moments.push(load.now());
        cluster.kill(leader);
        load.wait_for_writes(20);
        cluster.start_node(leader);
        load.wait_for_writes(20);
        std::thread::sleep(CALM);
    }
    let end_of_failovers = load.now();
    eventually("every log has lost its beginning", Duration::from_secs(60), || {
        // So the next start begins with a snapshot.
        cluster.ids().all(|id| cluster.oldest_segment(id, 0) > 1).then_some(())
    });
    let all: Vec<usize> = cluster.ids().collect();
    for id in &all {
        cluster.signal(*id, libc::SIGKILL);
    }
    for id in &all {
        cluster.wait_exit(*id, Duration::from_secs(10));
    }
    for id in &all {
        cluster.start_node(*id);
    }
    load.wait_for_writes(200);
    let outcome = load.stop();
    println!("{kills} kills of the leader and one of all nodes: {}", outcome.describe());
    cluster.assert_all_serve();
    outcome.check(&cluster);
    cluster.assert_same_state();

    let mut gaps: Vec<Duration> = Vec::new();
    for (at, moment) in moments.iter().enumerate() {
        let until = moments.get(at + 1).copied().unwrap_or(end_of_failovers);
        gaps.push(outcome.longest_gap(*moment, until));
    }
    gaps.sort_unstable();
    if let (Some(middle), Some(longest)) = (gaps.get(gaps.len() / 2), gaps.last()) {
        println!("time without service after a kill of the leader: p50 {middle:.2?}, max {longest:.2?}");
        assert!(*middle < GAP_MAX, "failover takes too long: {gaps:?}");
    }
}

#[test]
fn a_single_node_that_is_killed_comes_back_with_everything_it_acknowledged() {
    let mut cluster = Cluster::start(Settings { nodes: 1, ..Settings::default() });
    let load = Load::start(&cluster, LoadOptions { threads: 3, ..LoadOptions::default() });
    let mut dice = Dice::new(11);
    for _ in 0..4 {
        load.wait_for_writes(100);
        cluster.kill(1);
        for _ in 0..4 {
            // Wherever it is in its start.
            cluster.spawn(1);
            std::thread::sleep(Duration::from_millis(dice.below(60) as u64));
            cluster.kill(1);
        }
        cluster.start_node(1);
    }
    load.wait_for_writes(50);
    let outcome = load.stop();
    println!("kills of the only node: {}", outcome.describe());
    outcome.check(&cluster);
}

#[test]
fn groups_on_several_cores_lose_nothing_when_any_node_is_killed() {
    let mut cluster = Cluster::start(Settings { groups: 4, cores: 2, ..Settings::default() });
    let load = Load::start(&cluster, LoadOptions::default());
    let mut dice = Dice::new(23);
    for _ in 0..8 {
        load.wait_for_writes(80);
        let id = 1 + dice.below(3);
        cluster.kill(id);
        if dice.below(2) == 0 {
            load.wait_for_writes(40);
        }
        cluster.start_node(id);
    }
    load.wait_for_writes(80);
    let outcome = load.stop();
    println!("kills of any node: {}", outcome.describe());
    cluster.assert_all_serve();
    outcome.check(&cluster);
    cluster.assert_same_state();
}

#[test]
fn without_a_majority_nothing_is_acknowledged_and_with_one_again_everything_goes_on() {
    let mut cluster = Cluster::start(Settings::default());
    let load = Load::start(&cluster, LoadOptions { nodes: vec![2], threads: 2, ..LoadOptions::default() });
    load.wait_for_writes(30);
    cluster.kill(1);
    cluster.kill(3);
    // What was on its way may still have been chosen.
    std::thread::sleep(Duration::from_millis(100));
    let before = load.writes();
    let mut client = cluster.connect(2);
    for command in [cmd("SET").arg("lonely").arg("x").to_owned(), cmd("GET").arg("lonely").to_owned()] {
        let error = command.query::<Value>(&mut client).expect_err("there is no majority");
        let code = error.code().expect("an answer").to_string();
        assert!(["CLUSTERDOWN", "UNKNOWN"].contains(&code.as_str()), "{error}");
    }
    assert_eq!(load.writes(), before, "acknowledged by one of three");
    cluster.start_node(1);
    load.wait_for_writes(30);
    cluster.start_node(3);
    load.wait_for_writes(30);
    let outcome = load.stop();
    println!("two of three killed: {}", outcome.describe());
    outcome.check(&cluster);
    cluster.assert_same_state();
}

#[test]
fn with_periodic_durability_a_killed_process_loses_nothing() {
    let mut cluster = Cluster::start(Settings {
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"8MiB\"\ndurability = \"periodic\"\n".into(),
        ..Settings::default()
    });
    let load = Load::start(&cluster, LoadOptions::default());
    for _ in 0..3 {
        load.wait_for_writes(200);
        for id in cluster.ids() {
            cluster.signal(id, libc::SIGKILL);
        }
        for id in cluster.ids() {
            cluster.wait_exit(id, Duration::from_secs(10));
        }
        for id in cluster.ids() {
            cluster.start_node(id);
        }
    }
    load.wait_for_writes(50);
    let outcome = load.stop();
    println!("kills of all nodes: {}", outcome.describe());
    outcome.check(&cluster);
    cluster.assert_same_state();
}
