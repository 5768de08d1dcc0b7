//! Exactly-once, end to end: native clients with sessions count on shared counters and ask any node again whenever an
//! answer is late, while nodes are killed, frozen and made to take snapshots. At the end every counter is exact.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::session::{Answered, SessionClient};
use crate::common::{Cluster, Dice, Settings, eventually};
use panch_wire::command::CommandKind;

const CLIENTS: u64 = 6;
const COUNTERS: usize = 3;

fn counter(number: usize) -> String {
    format!("counter{number}")
}

/// Counts until told to stop; how often each counter was raised, and how often a command was asked for again.
fn count(mut client: SessionClient, mut dice: Dice, stop: &AtomicBool, done: &AtomicU64) -> (Vec<i64>, u64) {
    let mut raised = vec![0; COUNTERS];
    let padding = vec![b'p'; 3000];
    let mut last = BTreeMap::new();
    client.open();
    while !stop.load(Ordering::Relaxed) {
        let number = dice.below(COUNTERS);
        match client.call(CommandKind::IncrBy, &counter(number), &1i64.to_le_bytes()) {
            Answered::Number(value) => {
                let before = last.insert(number, value).unwrap_or(0);
                assert!(value > before, "{} went from {before} to {value}", counter(number));
            }
            other => panic!("a counter answered {other:?}"),
        }
        raised[number] += 1;
        done.fetch_add(1, Ordering::Relaxed);
        // Makes the log long, so that snapshots carry the sessions.
        client.call(CommandKind::Set, &format!("padding{}", dice.below(50)), &padding);
    }
    (raised, client.retries)
}

fn counters_are_exact(protocol: &str) {
    let mut cluster = Cluster::start(Settings {
        cluster: format!("protocol = \"{protocol}\"\n"),
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"4MiB\"\n".into(),
        ..Settings::default()
    });
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let clients = (1..=CLIENTS).map(|session| {
        let client = SessionClient::new(&cluster, session);
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        std::thread::spawn(move || count(client, Dice::new(100 + session), &stop, &done))
    });
    let clients: Vec<_> = clients.collect();
    let wait_for = |more: u64| {
        let goal = done.load(Ordering::Relaxed) + more;
        let reached = || (done.load(Ordering::Relaxed) >= goal).then_some(());
        eventually(&format!("{more} more counts"), Duration::from_secs(60), reached);
    };
    let mut dice = Dice::new(7);
    wait_for(300);
    for round in 0..6 {
        let id = 1 + dice.below(3);
        if round % 3 == 2 {
            // Longer than the clients wait.
            cluster.signal(id, libc::SIGSTOP);
            std::thread::sleep(Duration::from_millis(700));
            cluster.signal(id, libc::SIGCONT);
        } else {
            cluster.kill(id);
            wait_for(40);
            cluster.start_node(id);
        }
        wait_for(150);
    }
    eventually("every node has made a snapshot", Duration::from_secs(60), || {
        cluster.ids().all(|id| cluster.oldest_segment(id, 0) > 1).then_some(())
    });
    for id in cluster.ids() {
        cluster.kill(id);
    }
    for id in cluster.ids() {
        cluster.start_node(id);
    }
    wait_for(100);
    stop.store(true, Ordering::Relaxed);
    let mut expected = vec![0; COUNTERS];
    let mut retries = 0;
    for client in clients {
        let (raised, again) = client.join().expect("no client failed");
        expected.iter_mut().zip(raised).for_each(|(sum, count)| *sum += count);
        retries += again;
    }
    println!("{protocol}: {expected:?} counts, {retries} commands asked for again");
    assert!(retries > 0, "nothing was ever asked for again");
    // A node that was started last may wait to be taken in by the others.
    cluster.wait_writable();
    for id in cluster.ids() {
        let mut connection = cluster.connect(id);
        for (number, expected) in expected.iter().enumerate() {
            let found: i64 =
                redis::cmd("GET").arg(counter(number)).query(&mut connection).expect("a counter");
            assert_eq!(found, *expected, "{} on node {id}", counter(number));
        }
    }
    cluster.assert_same_state();
}

macro_rules! protocols {
    ($($protocol:ident)*) => {$(
        #[test]
        fn $protocol() {
            counters_are_exact(stringify!($protocol));
        }
    )*};
}

protocols!(basic multi fast epaxos);
