//! Every protocol, with real processes: nodes that are killed, frozen and cut off under load lose nothing that was
//! acknowledged, do nothing twice, and stay linearizable.
//!
//! `PANCH_KILLS` sets how often a node is killed (20).

use std::time::Duration;

use crate::common::{Cluster, Dice, Load, LoadOptions, Settings};

const FROZEN_FOR: Duration = Duration::from_secs(5);
const CUT_FOR: Duration = Duration::from_secs(3);

fn kills() -> usize {
    std::env::var("PANCH_KILLS").map_or(20, |text| text.parse().expect("a number"))
}

fn settings(protocol: &str, nodes: usize) -> Settings {
    Settings {
        nodes,
        cluster: format!("protocol = \"{protocol}\"\n"),
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"4MiB\"\n".into(),
        linked: true,
        ..Settings::default()
    }
}

fn kill_all(cluster: &mut Cluster) {
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

/// Three nodes: any is killed again and again, one is frozen, one is cut off, then all are killed at once.
fn survives(protocol: &str) {
    let mut cluster = Cluster::start(settings(protocol, 3));
    let load = Load::start(&cluster, LoadOptions { padding: 2048, ..LoadOptions::default() });
    let mut dice = Dice::new(31);
    load.wait_for_writes(200);
    for _ in 0..kills() {
        // Every node has batches of its own in flight when it dies.
        let id = 1 + dice.below(3);
        cluster.kill(id);
        load.wait_for_writes(20);
        cluster.start_node(id);
        load.wait_for_writes(20);
    }
    println!("{protocol}: {} kills survived", kills());
    let id = 1 + dice.below(3);
    cluster.signal(id, libc::SIGSTOP);
    load.wait_for_writes(20);
    std::thread::sleep(FROZEN_FOR);
    load.wait_for_writes(20);
    cluster.signal(id, libc::SIGCONT);
    load.wait_for_writes(50);
    println!("{protocol}: a frozen node survived");
    let id = 1 + dice.below(3);
    let links = cluster.links.as_ref().expect("the cluster is linked");
    links.cut_off(id);
    load.wait_for_writes(20);
    std::thread::sleep(CUT_FOR);
    load.wait_for_writes(20);
    links.heal();
    load.wait_for_writes(50);
    println!("{protocol}: a node that was cut off came back");
    kill_all(&mut cluster);
    load.wait_for_writes(200);
    let outcome = load.stop();
    println!("{protocol}: {}", outcome.describe());
    cluster.assert_all_serve();
    outcome.check(&cluster);
    cluster.assert_same_state();
}

/// Five nodes: whichever two are killed, the others go on.
fn serves_with_three_of_five(protocol: &str) {
    let mut cluster = Cluster::start(settings(protocol, 5));
    let load = Load::start(&cluster, LoadOptions { threads: 10, ..LoadOptions::default() });
    let mut dice = Dice::new(57);
    load.wait_for_writes(200);
    for _ in 0..kills().div_ceil(5) {
        let first = 1 + dice.below(5);
        let second = 1 + (first + dice.below(4)) % 5;
        cluster.kill(first);
        cluster.kill(second);
        load.wait_for_writes(100);
        cluster.start_node(first);
        cluster.start_node(second);
        load.wait_for_writes(50);
    }
    kill_all(&mut cluster);
    load.wait_for_writes(100);
    let outcome = load.stop();
    println!("{protocol}, any two of five killed: {}", outcome.describe());
    cluster.assert_all_serve();
    outcome.check(&cluster);
    cluster.assert_same_state();
}

macro_rules! protocols {
    ($($protocol:ident)*) => {$(
        mod $protocol {
            #[test]
            fn survives_kills_a_freeze_a_cut_and_the_end_of_all() {
                super::survives(stringify!($protocol));
            }

            #[test]
            fn goes_on_when_any_two_of_five_are_killed() {
                super::serves_with_three_of_five(stringify!($protocol));
            }
        }
    )*};
}

protocols!(basic multi fast epaxos);
