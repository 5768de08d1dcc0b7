//! Every request is answered in time and truly, whatever it waits for: each test takes one thing away and asks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::cluster::tag_of_group;
use crate::common::raw::encode;
use crate::common::{Cluster, Raw, Settings, eventually};

/// `request_timeout` of the nodes.
const TIMEOUT: Duration = Duration::from_secs(1);
/// An answer may come so much later: other tests run beside this one.
const SLACK: Duration = Duration::from_millis(1500);
/// Clients of one node at a time.
const CLIENTS: usize = 6;
/// Writes of each client, sent at once.
const WRITES: usize = 12;

fn node_lines(more: &str) -> String {
    format!(
        "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"8MiB\"\nrequest_timeout = \"{}ms\"\n{more}",
        TIMEOUT.as_millis()
    )
}

/// What became of writes, by key: the first word of the error, `OK` for none.
type Fates = BTreeMap<String, String>;

/// Several clients send writes of so many bytes and reads at once, and each gets an answer to each in time. Keys of all groups are used.
fn ask(cluster: &Cluster, id: usize, name: &str, size: usize) -> Fates {
    let port = cluster.ports(id).resp;
    let groups = cluster.settings.groups;
    let tags: Vec<String> = (0..groups).map(|group| tag_of_group(group, groups)).collect();
    let client = |client: usize| {
        let mut raw = Raw::connect(port);
        let keys: Vec<String> = (0..WRITES)
            .map(|number| format!("{{{}}}{name}-{client}-{number}", tags[number % tags.len()]))
            .collect();
        let value = vec![b'x'; size];
        let mut bytes = Vec::new();
        for key in &keys {
            // The write has to wait for the read before it.
            bytes.extend_from_slice(&encode(&[b"GET", key.as_bytes()]));
            bytes.extend_from_slice(&encode(&[b"SET", key.as_bytes(), &value]));
        }
        let mut sender = Raw { stream: raw.stream.try_clone().expect("a second handle") };
        let sending = std::thread::spawn(move || sender.send(&bytes));
        let mut fates = Fates::new();
        let mut last = Instant::now();
        for key in keys {
            for is_read in [true, false] {
                let reply = raw.reply_bytes();
                let text = String::from_utf8_lossy(&reply).into_owned();
                let word = text.split_whitespace().next().unwrap_or_default();
                let fate = word.trim_start_matches('-').trim_start_matches('+').to_owned();
                assert!(
                    ["OK", "$-1", "CLUSTERDOWN", "TRYAGAIN", "UNKNOWN", "OOM"].contains(&fate.as_str()),
                    "{key}: {text}"
                );
                last = Instant::now();
                if !is_read {
                    fates.insert(key.clone(), fate);
                }
            }
        }
        sending.join().expect("everything was sent");
        (fates, last)
    };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        let mut all = Fates::new();
        for thread in threads {
            let (fates, last) = thread.join().expect("a client gets its answers");
            let took = last - begun;
            assert!(took <= TIMEOUT + SLACK, "{name}: the last answer came after {took:?}: {fates:?}");
            all.extend(fates);
        }
        println!("{name}: {:?}", count(&all));
        all
    })
}

fn count(fates: &Fates) -> BTreeMap<&str, usize> {
    fates.values().fold(BTreeMap::new(), |mut counts, fate| {
        *counts.entry(fate.as_str()).or_default() += 1;
        counts
    })
}

/// What was answered with OK is there; what was said to be not applied is not, and does not come.
fn assert_true(cluster: &Cluster, fates: &Fates) {
    cluster.wait_writable();
    let id = cluster.ids().next().expect("a node");
    let mut connection = cluster.connect(id);
    for (key, fate) in fates {
        let length: usize = eventually("the node answers", Duration::from_secs(10), || {
            redis::cmd("STRLEN").arg(key).query(&mut connection).ok()
        });
        match fate.as_str() {
            "OK" => assert!(length > 0, "{key} was acknowledged and is gone"),
            "UNKNOWN" => {}
            refused => assert_eq!(length, 0, "{key} was refused with {refused} and applied"),
        }
    }
}

fn freeze(cluster: &mut Cluster, ids: &[usize]) {
    ids.iter().for_each(|id| cluster.signal(*id, libc::SIGSTOP));
}

fn thaw(cluster: &mut Cluster, ids: &[usize]) {
    ids.iter().for_each(|id| cluster.signal(*id, libc::SIGCONT));
}

/// Small requests wait in the batcher, large ones for frame memory, and with two cores half of them have to cross.
fn without_a_majority(protocol: &str) {
    let mut cluster = Cluster::start(Settings {
        groups: 2,
        cores: 2,
        cluster: format!("protocol = \"{protocol}\"\nvalue_size_max = \"128KiB\"\n"),
        node: node_lines("frame_pool_size = \"1MiB\"\n"),
        ..Settings::default()
    });
    let mut fates = Fates::new();
    // Where there is a leader, one of them does not lead.
    for id in [1, 2] {
        let others: Vec<usize> = cluster.ids().filter(|other| *other != id).collect();
        freeze(&mut cluster, &others);
        for (name, size) in [("small", 10), ("large", 20_000)] {
            let found = ask(&cluster, id, &format!("{protocol}-{name}-{id}"), size);
            assert!(!found.values().any(|fate| fate == "OK"), "{protocol}: one of three decides: {found:?}");
            fates.extend(found);
        }
        thaw(&mut cluster, &others);
        cluster.wait_writable();
    }
    assert!(count(&fates).keys().any(|fate| ["CLUSTERDOWN", "TRYAGAIN"].contains(fate)), "{fates:?}");
    assert_true(&cluster, &fates);
    cluster.assert_same_state();
}

#[test]
fn basic_without_a_majority() {
    without_a_majority("basic");
}

#[test]
fn multi_without_a_majority() {
    without_a_majority("multi");
}

#[test]
fn fast_without_a_majority() {
    without_a_majority("fast");
}

#[test]
fn epaxos_without_a_majority() {
    without_a_majority("epaxos");
}

/// A disk that hangs or is full, of a follower and of the leader: whoever is asked answers in time.
#[test]
fn beside_a_disk_that_hangs_or_is_full() {
    let mut cluster = Cluster::start(Settings {
        cluster: "value_size_max = \"128KiB\"\n".into(),
        node: node_lines("frame_pool_size = \"8MiB\"\n"),
        disk: Some(128),
        ..Settings::default()
    });
    if cluster.disk(1).is_none() {
        println!("skipped: this process may not make disks");
        return;
    }
    let mut fates = Fates::new();
    for (turn, is_full) in [false, true].into_iter().enumerate() {
        for weak in [cluster.follower(), cluster.leader()] {
            let disk = cluster.disk(weak).expect("disks were made");
            if is_full {
                disk.fill()
            } else {
                disk.hang()
            }
            for id in cluster.ids() {
                for (name, size) in [("small", 10), ("large", 20_000)] {
                    let name = format!("{turn}-{weak}-{name}-{id}");
                    fates.extend(ask(&cluster, id, &name, size));
                }
            }
            let disk = cluster.disk(weak).expect("disks were made");
            if is_full {
                disk.empty()
            } else {
                disk.go_on()
            }
            cluster.assert_all_serve();
        }
    }
    assert!(fates.values().any(|fate| fate == "OK"), "two of three serve: {:?}", count(&fates));
    assert_true(&cluster, &fates);
    cluster.assert_same_state();
}

/// Whoever waits at a node that is stopped is told what is known, and so is whoever asks while it stops.
#[test]
fn a_node_that_is_stopped_without_a_majority_tells_its_clients() {
    let mut cluster = Cluster::start(Settings {
        groups: 2,
        cores: 2,
        // Longer than a stop takes: nothing is overdue.
        node: node_lines("").replace("1000ms", "30s"),
        ..Settings::default()
    });
    cluster.kill(2);
    cluster.kill(3);
    let mut fates = Fates::new();
    let tags = [tag_of_group(0, 2), tag_of_group(1, 2)];
    let mut clients: Vec<Raw> = (0..4).map(|_| Raw::connect(cluster.ports(1).resp)).collect();
    let mut late = Raw::connect(cluster.ports(1).resp);
    late.command(&[b"PING"]);
    assert_eq!(late.reply_bytes(), b"+PONG\r\n");
    for (number, client) in clients.iter_mut().enumerate() {
        for tag in &tags {
            client.command(&[b"SET", format!("{{{tag}}}waits-{number}").as_bytes(), b"x"]);
        }
    }
    // All of it has arrived.
    std::thread::sleep(Duration::from_millis(300));
    cluster.signal(1, libc::SIGTERM);
    std::thread::sleep(Duration::from_millis(300));
    late.command(&[b"SET", b"late", b"x"]);
    let text = String::from_utf8_lossy(&late.reply_bytes()).into_owned();
    assert!(text.starts_with("-CLUSTERDOWN the node is stopping"), "{text}");
    for (number, client) in clients.iter_mut().enumerate() {
        for tag in &tags {
            let text = String::from_utf8_lossy(&client.reply_bytes()).into_owned();
            let is_true =
                text.starts_with("-CLUSTERDOWN the node is stopping") || text.starts_with("-UNKNOWN");
            assert!(is_true, "{text}");
            let fate = text.trim_start_matches('-').split(' ').next().unwrap_or_default().to_owned();
            fates.insert(format!("{{{tag}}}waits-{number}"), fate);
        }
        assert_eq!(client.read_to_end(Duration::from_secs(5)).as_deref(), Some(&[][..]), "it is closed");
    }
    assert_eq!(cluster.wait_exit(1, Duration::from_secs(10)).code(), Some(0), "{}", cluster.errors(1));
    cluster.ids().for_each(|id| cluster.spawn(id));
    let ids: Vec<usize> = cluster.ids().collect();
    cluster.wait_serving(&ids);
    assert_true(&cluster, &fates);
}
