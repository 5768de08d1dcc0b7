//! Schedules after which nothing may stand still, although some replicas stay down.

use panch_wire::ids::Position;
use panch_wire::time::Duration;

use super::super::message::Message;
use super::super::{Epaxos, fast_failures};
use super::at;
use crate::protocol::Tuning;
use crate::quorum::classic_quorum;
use crate::testing::cluster::{self, Verdict};
use crate::testing::tuning;

type Cluster = cluster::Cluster<Epaxos>;

/// Five replicas with the settings of a daemon, except for these.
fn five(tuning: Tuning) -> Cluster {
    let mut cluster = Cluster::new(5, 0, 1, Tuning { tail_size_max: 8 << 20, ..tuning });
    cluster.run_for(500);
    cluster
}

/// The command leader of an instance dies with two votes of others, and whoever did not vote has by then dropped much of what it
/// might conflict with.
fn decided_after_drops(tuning: Tuning) -> bool {
    let mut cluster = five(tuning);
    cluster.filter = Some(Box::new(|from, to, message| match (from, to, message) {
        (_, 0, Message::PreAcceptOk(ok)) if ok.position == at(0, 1) => Verdict::Drop,
        (0, 3 | 4, Message::PreAccept(_)) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    cluster.propose_keys(0, &[b"x"]).unwrap();
    cluster.run_for(1);
    for number in 0..40 {
        while cluster.propose_keys(3, &[format!("z{number}").as_bytes()]).is_none() {
            cluster.run_for(1);
        }
    }
    cluster.run_for(10);
    cluster.crash_hard(0);
    cluster.filter = None;
    let second = cluster.propose_keys(3, &[b"x"]).unwrap();
    for id in 1..5 {
        cluster.suspect(id, 0);
    }
    (0..60).any(|_| {
        cluster.run_for(1000);
        cluster.is_decided(second)
    })
}

#[test]
fn an_instance_of_a_dead_leader_is_decided_whatever_has_left_memory() {
    for thrifty in [true, false] {
        assert!(decided_after_drops(Tuning { thrifty, ..Tuning::default() }), "thrifty: {thrifty}");
    }
}

/// As many replicas fail together as a group survives the loss of. Only some of them, or others, had voted for an instance of replica 0. The rest goes on
/// for so long that it drops what it has executed (15 times `recover_always_after`), and takes snapshots. Then all are back but for 0. With
/// `restarts` the rest is restarted one after the other meanwhile; with `exact` as many go down when they come as a group survives the loss of.
fn decided_after_a_long_absence(replica_count: u8, tuning: Tuning, restarts: bool, exact: bool) {
    let what = format!("n={replica_count}, restarts: {restarts}, exactly a quorum: {exact}");
    let rounds = 20 * tuning.recover_always_after.as_nanos() / 10_000_000;
    let mut cluster = Cluster::new(replica_count, 0, 1, Tuning { tail_size_max: 8 << 20, ..tuning });
    let quorum = classic_quorum(replica_count.into()) as u8;
    let voter_count = (quorum - fast_failures(replica_count.into()) as u8).max(1);
    let absent = replica_count - quorum;
    cluster.run_for(500);
    cluster.filter = Some(Box::new(move |from, to, message| match (from, to, message) {
        (_, 0, Message::PreAcceptOk(ok)) if ok.position == at(0, 1) => Verdict::Drop,
        (from, to, _) if from <= voter_count && to > voter_count => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    cluster.propose_keys(0, &[b"x"]).unwrap();
    cluster.run_for(5);
    for id in 0..absent {
        cluster.crash_hard(id);
    }
    cluster.filter = None;
    for id in absent..replica_count {
        for gone in 0..absent {
            cluster.suspect(id, gone);
        }
    }
    for number in 0..rounds {
        for id in absent..replica_count {
            let _ = cluster.propose_keys(id, &[format!("z{id} {number}").as_bytes()]);
        }
        cluster.run_for(10);
    }
    for id in absent..replica_count {
        cluster.snapshot(id, 0);
        cluster.run_for(100);
        if restarts {
            cluster.crash_hard(id);
            cluster.restart(id);
            cluster.run_for(500);
        }
    }
    if exact {
        for id in quorum + 1..replica_count {
            cluster.crash_hard(id);
        }
    }
    for id in 1..absent {
        cluster.restart(id);
    }
    cluster.run_for(3_000);
    let proposer = absent.max(1);
    let second = cluster.propose_keys(proposer, &[b"x"]).unwrap();
    let served = cluster.reads_served;
    cluster.read(proposer);
    cluster.run_till(&what, 20_000, |cluster| {
        cluster.is_decided(second) && cluster.decided(at(0, 1)).is_some() && cluster.reads_served > served
    });
}

#[test]
fn what_few_voted_for_before_a_long_absence_is_decided() {
    for replica_count in 4..=7 {
        for (restarts, exact) in [(false, false), (true, false), (false, true), (true, true)] {
            let tuning = Tuning { catchup_window: 64, ..tuning() };
            decided_after_a_long_absence(replica_count, tuning, restarts, exact);
        }
    }
}

#[test]
fn what_few_voted_for_before_a_long_absence_is_decided_with_default_settings() {
    decided_after_a_long_absence(5, Tuning::default(), false, true);
    decided_after_a_long_absence(7, Tuning::default(), true, true);
}

/// Nothing but a partition and one crash: a minority is cut off from the others for long, 0 among it goes on proposing, and dies when the partition
/// ends.
fn decided_after_a_long_partition(replica_count: u8) {
    let mut cluster =
        Cluster::new(replica_count, 0, 1, Tuning { tail_size_max: 8 << 20, catchup_window: 64, ..tuning() });
    cluster.run_for(500);
    let minority = replica_count - classic_quorum(replica_count.into()) as u8;
    for (few, many) in (0..minority).flat_map(|few| (minority..replica_count).map(move |many| (few, many))) {
        cluster.block(few, many);
        cluster.block(many, few);
    }
    for number in 0..600u32 {
        let _ = cluster.propose_keys(0, &[b"x"]);
        for id in minority..replica_count {
            let _ = cluster.propose_keys(id, &[format!("z{id} {number}").as_bytes()]);
        }
        cluster.run_for(10);
    }
    for id in minority..replica_count {
        cluster.snapshot(id, 0);
    }
    cluster.run_for(200);
    cluster.crash_hard(0);
    cluster.heal();
    cluster.run_for(3_000);
    let conflicting = cluster.propose_keys(1, &[b"x"]).unwrap();
    let served = cluster.reads_served;
    cluster.read(1);
    cluster.run_till(&format!("the end of a partition, n={replica_count}"), 30_000, |cluster| {
        cluster.is_decided(conflicting) && cluster.reads_served > served
    });
}

#[test]
fn what_a_minority_was_asked_in_a_long_partition_is_decided() {
    for replica_count in 4..=7 {
        decided_after_a_long_partition(replica_count);
    }
}

/// One replica recovers two instances that wait for each other. What each reports is arranged so that nobody else is in a hurry.
fn mutual_waits_end(slow_after: u64) -> bool {
    let mut cluster = five(Tuning { slow_after: Duration::from_millis(slow_after), ..Tuning::default() });
    let (alpha, beta) = (at(4, 1), at(3, 1));
    // Replicas 0 and 1 vote for beta, replica 2 for alpha; the votes are lost.
    let votes = |from: u8, to: u8, message: &Message| match (from, to, message) {
        (3, 0 | 1, Message::PreAccept(_)) | (4, 2, Message::PreAccept(_)) => Verdict::Pass,
        (_, _, Message::PreAccept(_) | Message::PreAcceptOk(_)) => Verdict::Drop,
        _ => Verdict::Pass,
    };
    cluster.filter = Some(Box::new(votes));
    cluster.propose(3).unwrap();
    cluster.propose(4).unwrap();
    cluster.run_till("votes", 10, |cluster| {
        let voted = [(0, beta), (1, beta), (2, alpha)];
        voted.iter().all(|(id, position)| cluster.protocol(*id).instances.contains_key(position))
    });
    // Only replica 2 recovers: alpha with 3 in its quorum, beta without.
    cluster.filter = Some(Box::new(move |from, to, message| match message {
        Message::Recover(_) if from != 2 => Verdict::Drop,
        Message::RecoverOk(m) if m.position == alpha && from == 1 => Verdict::Drop,
        Message::Recover(m) if m.position == beta && to == 3 => Verdict::Drop,
        _ => votes(from, to, message),
    }));
    let waits = |cluster: &Cluster, position: Position| {
        cluster.protocol(2).coordinations.get(&position).is_some_and(|own| own.is_waiting())
    };
    for (dead, position) in [(4, alpha), (3, beta)] {
        cluster.crash_hard(dead);
        cluster.suspect(2, dead);
        cluster.run_till("its recovery waits or is over", 5_000, |cluster| {
            waits(cluster, position) || cluster.decided(position).is_some()
        });
    }
    cluster.filter = None;
    for id in 0..3 {
        cluster.suspect(id, 3);
        cluster.suspect(id, 4);
    }
    (0..60_000).any(|_| {
        cluster.run_for(1);
        [alpha, beta].iter().all(|position| cluster.decided(*position).is_some())
    })
}

#[test]
fn two_recoveries_of_one_replica_do_not_wait_for_each_other_for_ever() {
    for slow_after in [20, 50] {
        assert!(mutual_waits_end(slow_after), "slow_after {slow_after} ms");
    }
}

/// Two rows run on behind a first instance that stays open for a while and then depends on what came after. A replica that lags, full of what
/// it cannot execute yet, needs more numbers of either row than a command leader has open.
#[test]
fn a_replica_that_lags_has_room_for_what_the_first_instance_depends_on() {
    let mut cluster = Cluster::new(
        3,
        0,
        1,
        Tuning {
            slow_after: Duration::from_millis(100),
            catchup_window: 512,
            recover_after: Duration::from_millis(300),
            recover_always_after: Duration::from_millis(2000),
            ..tuning()
        },
    );
    cluster.run_for(200);
    cluster.isolate(2);
    for id in [0, 1] {
        cluster.suspect(id, 2);
    }
    cluster.filter = Some(Box::new(|_, _, message| match message {
        Message::PreAccept(m) if m.position.number == 1 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    cluster.propose_keys(0, &[b"a"]).unwrap();
    cluster.propose_keys(1, &[b"b"]).unwrap();
    let (mut sent, last) = ([1u64; 2], 56);
    while sent.iter().any(|sent| *sent < last) {
        for id in 0..2u8 {
            let number = sent[usize::from(id)] + 1;
            let crossing: &[u8] = if id == 0 { b"b" } else { b"a" };
            let own = format!("{id} {number}");
            let key = if number == last { crossing } else { own.as_bytes() };
            if number <= last && cluster.propose_keys(id, &[key]).is_some() {
                sent[usize::from(id)] = number;
            }
        }
        cluster.run_for(1);
    }
    cluster.filter = None;
    cluster.run_for(200);
    let go_on = |cluster: &mut Cluster, milliseconds: u64| {
        for _ in 0..milliseconds {
            for id in 0..2 {
                let _ = cluster.propose_keys(id, &[b"h"]);
            }
            cluster.run_for(1);
        }
    };
    go_on(&mut cluster, 200);
    cluster.heal();
    // It fills with what is said now, before it can ask for what it lacks.
    cluster.filter = Some(Box::new(|_, _, message| match message {
        Message::Fetch(_) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    go_on(&mut cluster, 400);
    cluster.filter = None;
    go_on(&mut cluster, 100);
    cluster.run_till("a level cluster", 60_000, |cluster| cluster.is_level());
}

/// Replicas 0 and 1 do not reach each other for long, and replica 2, which both reach and which passes on what they decide with it, dies: with
/// `at_once` when that begins, else when it has lasted for long already. What it decides with one at last is not passed on to the other. With
/// `given_up` each has executed more without word of the other than is kept in memory for one that lags.
fn decided_after_a_long_silence(at_once: bool, given_up: bool) {
    let mut tuning = Tuning { catchup_window: 64, ..tuning() };
    if given_up {
        tuning.kept_count_max = 100;
    }
    let mut cluster = Cluster::new(3, 0, 1, tuning);
    let long = 20 * cluster.tuning.recover_always_after.as_millis() as u64;
    let work = |cluster: &mut Cluster, milliseconds: u64| {
        for number in 0..milliseconds / 2 {
            for id in [0, 1] {
                let _ = cluster.propose_keys(id, &[format!("z{id} {number}").as_bytes()]);
            }
            cluster.run_for(2);
        }
    };
    work(&mut cluster, 10);
    cluster.run_for(500);
    cluster.block(0, 1);
    cluster.block(1, 0);
    if !at_once {
        work(&mut cluster, long);
    }
    cluster.filter = Some(Box::new(|from, to, message| match message {
        Message::Commit(commit) if from == 2 && commit.position.row != to => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    work(&mut cluster, 100);
    let (zero, one) = (cluster.executed(0), cluster.executed(1));
    assert!(!zero.covers(&one) && !one.covers(&zero), "each has executed what the other has not");
    if given_up {
        assert!(
            [(0, 1), (1, 0usize)].iter().all(|(id, other)| cluster.protocol(*id).members[*other].given_up)
        );
    }
    cluster.crash_hard(2);
    cluster.filter = None;
    for id in [0, 1] {
        cluster.suspect(id, 2);
    }
    cluster.run_for(long);
    cluster.heal();
    cluster.run_till(
        &format!("level after a silence, at once: {at_once}, given up: {given_up}"),
        60_000,
        |cluster| cluster.executed(0) == cluster.executed(1),
    );
    let last = cluster.propose_keys(0, &[b"z0 1", b"z1 1"]).unwrap();
    cluster.run_till("a command that waits for all others", 10_000, |cluster| cluster.is_decided(last));
}

#[test]
fn two_that_cannot_reach_each_other_do_not_forget_what_the_other_lacks() {
    decided_after_a_long_silence(true, false);
}

#[test]
fn what_one_between_two_others_has_not_passed_on_is_not_forgotten_when_it_dies() {
    decided_after_a_long_silence(false, false);
}

#[test]
pub(super) fn two_that_give_each_other_up_in_silence_lose_nothing() {
    decided_after_a_long_silence(false, true);
}
