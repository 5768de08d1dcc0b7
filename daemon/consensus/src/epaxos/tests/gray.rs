//! One weak disk or link for as long as it lasts: what goes through the other replicas is about as fast as ever.

use panch_wire::time::Duration;

use super::super::Epaxos;
use crate::protocol::{Protocol, Tuning};
use crate::testing::cluster;

type Cluster = cluster::Cluster<Epaxos>;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Nothing,
    /// The disk of replica 1 completes nothing; it goes on talking.
    HungDisk,
    /// The disk of replica 1 is twenty times slower than the others'.
    SlowDisk,
    /// Everything that replica 1 hears and says is late, and in time for everybody who waits for it.
    SlowLinks,
    /// What the first sends does not reach the second.
    Cut(u8, u8),
}

/// Times in microseconds.
#[derive(Debug)]
struct Times {
    half: u64,
    worst: u64,
}

fn times(mut all: Vec<u64>) -> Times {
    all.sort_unstable();
    Times { half: all[all.len() / 2], worst: all[all.len() - 1] }
}

const STEP: Duration = Duration::from_micros(100);

fn wait(cluster: &mut Cluster, mut done: impl FnMut(&Cluster) -> bool) -> u64 {
    let begun = cluster.now;
    while !done(cluster) {
        cluster.run_for_duration(STEP);
        assert!(cluster.now.since(begun) < Duration::from_secs(10), "it takes for ever");
    }
    cluster.now.since(begun).as_micros() as u64
}

/// How long the writes of `writer` and the reads of `reader` take, one after the other, with clients at replica 1 all the while.
fn beside(replica_count: u8, thrifty: bool, fault: Fault, writer: u8, reader: u8) -> (Times, Times) {
    let tuning = Tuning { tail_size_max: 8 << 20, thrifty, ..Tuning::default() };
    let mut cluster = Cluster::new(replica_count, 0, 1, tuning);
    cluster.run_for(500);
    for id in 0..replica_count {
        cluster.propose_keys(id, &[b"a"]).unwrap();
    }
    cluster.run_for(500);
    match fault {
        Fault::Nothing => {}
        Fault::HungDisk => cluster.stall_disk(1, true),
        Fault::SlowDisk => cluster.slow_disk(1, 20),
        Fault::SlowLinks => {
            for id in (0..replica_count).filter(|id| *id != 1) {
                cluster.delay_link(id, 1, Duration::from_millis(15));
            }
        }
        Fault::Cut(from, to) => cluster.block(from, to),
    }
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for round in 0..400u32 {
        let _ = cluster.propose_keys(1, &[format!("one {round}").as_bytes()]);
        let batch = cluster.propose_keys(writer, &[format!("other {round}").as_bytes()]).unwrap();
        let served = cluster.reads_served;
        cluster.read(reader);
        writes.push(wait(&mut cluster, |cluster| cluster.is_decided(batch)));
        let before = writes[writes.len() - 1];
        let rest = wait(&mut cluster, |cluster| cluster.reads_served > served);
        reads.push(before + rest);
        cluster.run_for(2);
    }
    (times(reads), times(writes))
}

fn others_are_slowed_down_little(replica_count: u8, thrifty: bool) {
    let links = [(0, 1), (1, 0), (0, 2), (2, 0)].map(|(from, to)| Fault::Cut(from, to));
    for (writer, reader) in [(0, 0), (2, 0), (0, 2)] {
        let (usual_reads, usual_writes) = beside(replica_count, thrifty, Fault::Nothing, writer, reader);
        for fault in [Fault::HungDisk, Fault::SlowDisk, Fault::SlowLinks].into_iter().chain(links) {
            let (reads, writes) = beside(replica_count, thrifty, fault, writer, reader);
            let what = format!(
                "n={replica_count} thrifty: {thrifty} {fault:?} writes of {writer} {writes:?} reads of {reader} {reads:?}"
            );
            println!("{what}, usually {usual_writes:?} {usual_reads:?}");
            assert!(writes.half <= 3 * usual_writes.half, "{what}");
            // A read waits for what replica 1 has begun, and only it can end that soon.
            assert!(fault == Fault::SlowLinks || reads.half <= 3 * usual_reads.half, "{what}");
            assert!(reads.worst < 1_500_000 && writes.worst < 1_500_000, "{what}");
        }
    }
}

macro_rules! one_weak_disk_or_link {
    ($($name:ident $replica_count:literal $thrifty:literal,)*) => {
        $(#[test]
        fn $name() {
            others_are_slowed_down_little($replica_count, $thrifty);
        })*
    };
}

one_weak_disk_or_link! {
    one_weak_disk_or_link_of_three_slows_others_down_little 3 false,
    one_weak_disk_or_link_of_four_slows_others_down_little 4 false,
    one_weak_disk_or_link_of_five_slows_others_down_little 5 false,
    one_weak_disk_or_link_of_six_slows_others_down_little 6 false,
    one_weak_disk_or_link_of_seven_slows_others_down_little 7 false,
    one_weak_disk_or_link_of_five_slows_a_thrifty_leader_down_little 5 true,
}

/// How long the writes of a thrifty leader take that has one near peer and three far ones, of which one has a slow disk.
fn among_far_peers(is_slow: bool) -> Times {
    let tuning = Tuning { tail_size_max: 8 << 20, thrifty: true, ..Tuning::default() };
    let mut cluster = Cluster::new(5, 0, 1, tuning);
    for far in 2..5 {
        cluster.delay_link(0, far, Duration::from_millis(3));
    }
    cluster.run_for(500);
    let write = |cluster: &mut Cluster, round: u32| {
        let batch = cluster.propose_keys(0, &[format!("{round}").as_bytes()]).unwrap();
        let took = wait(cluster, |cluster| cluster.is_decided(batch));
        cluster.run_for(2);
        took
    };
    for round in 0..400 {
        write(&mut cluster, round);
    }
    if is_slow {
        cluster.slow_disk(2, 100);
    }
    times((400..1_000).map(|round| write(&mut cluster, round)).collect())
}

/// Who is as far as the others is no reason to take the slow one instead of them.
#[test]
fn a_thrifty_leader_tells_a_slow_peer_from_far_ones() {
    let (usual, beside) = (among_far_peers(false), among_far_peers(true));
    println!("{beside:?}, usually {usual:?}");
    assert!(beside.half <= 3 * usual.half, "{beside:?}, usually {usual:?}");
}

/// Both ends of a link that is cut, or late by so much, write one key and read.
fn contended(replica_count: u8, by: Option<Duration>) -> (Times, Times) {
    let mut cluster = Cluster::new(replica_count, 0, 1, Tuning::default());
    cluster.run_for(500);
    for id in 0..replica_count {
        cluster.propose_keys(id, &[b"a"]).unwrap();
    }
    cluster.run_for(500);
    match by {
        Some(by) => cluster.delay_link(0, 1, by),
        None => {
            cluster.block(0, 1);
            cluster.block(1, 0);
        }
    }
    cluster.run_for(2_000);
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let _ = cluster.propose_keys(1, &[b"k"]);
        cluster.run_for_duration(Duration::from_micros(300));
        let batch = cluster.propose_keys(0, &[b"k"]).unwrap();
        writes.push(wait(&mut cluster, |cluster| {
            let place = cluster.agreement.decided.iter().find(|(_, value)| **value == Some(batch));
            place.is_some_and(|(position, _)| cluster.executed(0).contains(*position))
        }));
        let _ = cluster.propose_keys(1, &[b"k"]);
        cluster.run_for_duration(Duration::from_micros(300));
        let served = cluster.reads_served;
        cluster.read(0);
        reads.push(wait(&mut cluster, |cluster| cluster.reads_served > served));
        cluster.run_for(2);
    }
    (times(reads), times(writes))
}

/// What one end lacks of the other, others know.
#[test]
fn both_ends_of_a_weak_link_write_and_read_one_key_about_as_fast_as_ever() {
    for replica_count in [3, 5] {
        let usual = contended(replica_count, Some(Duration::ZERO));
        for by in [
            None,
            Some(Duration::from_millis(20)),
            Some(Duration::from_millis(60)),
            Some(Duration::from_millis(120)),
        ] {
            let (reads, writes) = contended(replica_count, by);
            let what = format!(
                "n={replica_count} late by {by:?}: reads {reads:?} writes {writes:?}, usually {usual:?}"
            );
            println!("{what}");
            assert!(reads.half <= 3 * usual.0.half && writes.half <= 3 * usual.1.half, "{what}");
        }
    }
}

/// While all is well, word of the command leaders comes before anybody asks for it.
#[test]
fn under_full_load_on_good_links_hardly_anything_is_asked_for() {
    for replica_count in [3, 5] {
        let mut cluster = Cluster::new(replica_count, 0, 1, Tuning::default());
        cluster.run_for(500);
        let (mut turn, messages) = (0u32, cluster.message_count);
        for _ in 0..3_000 {
            for id in 0..replica_count {
                turn += 1;
                let key = format!("{}", turn % 7);
                let _ = cluster.propose_keys(id, &[key.as_bytes()]);
                cluster.read(id);
            }
            cluster.run_for_duration(STEP);
        }
        cluster.run_for(1_000);
        let (decided, messages) = (cluster.decided_count() as u64, cluster.message_count - messages);
        let asked: u64 = cluster.ids().map(|id| cluster.protocol(id).counters().chased).sum();
        println!("n={replica_count}: {decided} decided, {asked} asked for, {messages} messages");
        assert!(asked * 50 <= decided, "{asked} of {decided}");
    }
}
