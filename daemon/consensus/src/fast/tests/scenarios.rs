//! Named schedules over a whole group (protocols: T-F and T-C). Those on one replica are among the rules.

use std::cell::RefCell;
use std::rc::Rc;

use panch_wire::ids::{BatchId, Slot};
use panch_wire::time::Duration;

use super::super::Fast;
use super::super::message::{Message, Mode, Propose};
use crate::protocol::{Counters, Protocol, Tuning};
use crate::testing::cluster::{CALM, Verdict, Weather};
use crate::testing::{cluster, tuning};

type Cluster = cluster::Cluster<Fast>;

/// A group whose coordinator is replica 0 and whose fast rounds everybody takes part in.
fn group(replica_count: u8, free_for_all: bool) -> Cluster {
    seeded_group(7, replica_count, free_for_all)
}

fn seeded_group(seed: u64, replica_count: u8, free_for_all: bool) -> Cluster {
    let tuning = Tuning { free_for_all, pipeline_depth: 10, ..tuning() };
    let mut cluster = Cluster::new(replica_count, 0, seed, tuning);
    cluster.run_till("a plan", 1_000, |cluster| cluster.leader() == Some(0));
    cluster.run_for(50);
    assert!(cluster.ids().all(|id| cluster.protocol(id).plan.is_some_and(|plan| plan.mode.is_fast())));
    cluster
}

fn decide(cluster: &mut Cluster, what: &str, milliseconds: u64, batches: &[BatchId]) {
    let batches = batches.to_vec();
    cluster.run_till(what, milliseconds, |cluster| batches.iter().all(|batch| cluster.is_decided(*batch)));
}

fn total(cluster: &Cluster, count: impl Fn(&Counters) -> u64) -> u64 {
    cluster.ids().filter(|id| cluster.is_up(*id)).map(|id| count(&cluster.protocol(id).counters())).sum()
}

fn everybody_agrees(cluster: &mut Cluster) {
    cluster.run_till("everybody to catch up", 2_000, |cluster| {
        let last = cluster.last_decided();
        cluster.ids().filter(|id| cluster.is_up(*id)).all(|id| cluster.chosen_upto(id) == last)
    });
}

/// The power fails everywhere.
pub(super) fn crash_all(cluster: &mut Cluster) {
    cluster.ids().for_each(|id| cluster.crash(id));
    cluster.ids().for_each(|id| cluster.restart(id));
}

#[test]
pub(super) fn t_f5_a_lost_vote_does_not_let_the_coordinator_contradict_what_others_learned() {
    let mut cluster = group(3, false);
    // Only replica 1 gets all votes of the fast round; then it is cut off.
    let lost = |from: u8, to: u8, message: &Message| match message {
        Message::Votes(votes) if matches!((from, to), (2, 0) | (1, 2)) && !votes.round.classic => {
            Verdict::Drop
        }
        _ => Verdict::Pass,
    };
    cluster.filter = Some(Box::new(lost));
    let mine = cluster.propose(0).unwrap();
    let other = cluster.propose(1).unwrap();
    cluster.run_till("both at replica 1", 100, |cluster| cluster.chosen_upto(1) >= Slot(3));
    cluster.isolate(1);
    assert!(cluster.chosen_upto(0) < cluster.chosen_upto(1));
    cluster.run_till("a recovery", 300, |cluster| cluster.chosen_upto(2) >= Slot(3));
    assert!(cluster.protocol(0).counters().recoveries + cluster.protocol(0).counters().adopted > 0);
    cluster.heal();
    decide(&mut cluster, "both", 500, &[mine, other]);
    everybody_agrees(&mut cluster);
}

#[test]
pub(super) fn t_f6_a_batch_is_decided_once_although_it_was_proposed_twice() {
    (0..10).for_each(proposed_twice);
}

fn proposed_twice(seed: u64) {
    let mut cluster = seeded_group(seed, 3, true);
    let blocked = Rc::new(RefCell::new(true));
    let switch = blocked.clone();
    let lost = move |_: u8, _: u8, message: &Message| match message {
        Message::Votes(_) | Message::SlotPromise(_) if *switch.borrow() => Verdict::Drop,
        _ => Verdict::Pass,
    };
    cluster.filter = Some(Box::new(lost));
    let batch = cluster.propose(1).unwrap();
    // Attempts follow each other while no vote arrives anywhere.
    cluster.run_for(80);
    *blocked.borrow_mut() = false;
    decide(&mut cluster, "the batch", 1_000, &[batch]);
    cluster.run_for(500);
    everybody_agrees(&mut cluster);
    let times = cluster.agreement.decided.values().filter(|value| **value == Some(batch)).count();
    assert_eq!(times, 1, "one slot was enough");
}

#[test]
fn t_f7_proposals_that_cross_each_other_collide_in_every_slot_and_still_get_through() {
    for seed in 0..10 {
        let mut cluster = group(5, true);
        cluster.weather = Weather { fifo: seed % 2 == 0, delay: Duration::from_micros(2_000), ..CALM };
        // Replicas 0 and 1 hear replica 0 first, the others replica 1.
        let mut batches = Vec::new();
        for _ in 0..10 {
            batches.extend(cluster.propose(0));
            batches.extend(cluster.propose(1));
            batches.extend(cluster.propose(4));
        }
        assert_eq!(batches.len(), 30);
        decide(&mut cluster, "all batches", 1_500, &batches);
        everybody_agrees(&mut cluster);
        let counters = cluster.protocol(0).counters();
        assert!(counters.collisions > 5 && counters.picks_free + counters.picks_forced > 5, "{counters:?}");
    }
}

#[test]
fn t_f8_with_one_of_three_down_the_group_goes_on_in_classic_rounds_and_returns_later() {
    let mut cluster = group(3, false);
    cluster.crash(2);
    let first = cluster.propose(0).unwrap();
    decide(&mut cluster, "the first batch", 100, &[first]);
    cluster.run_till("a fall-back", 200, |cluster| cluster.protocol(0).counters().fallbacks == 1);
    cluster.run_for(20);
    // From now on no batch waits for a timer: 200 one after the other, from both replicas.
    let start = cluster.now;
    for number in 0..200 {
        let batch = cluster.propose(number % 2).unwrap();
        decide(&mut cluster, "a batch", 9, &[batch]);
    }
    let took = cluster.now.since(start);
    assert!(took < Duration::from_millis(200 * 5), "{took:?} for 200 batches");
    assert_eq!(cluster.protocol(0).counters().fallbacks, 1);
    cluster.restart(2);
    cluster.run_till("a return", 2_000, |cluster| cluster.protocol(0).counters().returns == 1);
    cluster.run_for(50);
    let before = cluster.protocol(1).counters().fast_chosen;
    for id in cluster.ids() {
        let batch = cluster.propose(id).unwrap();
        decide(&mut cluster, "a batch in a fast round", 9, &[batch]);
    }
    assert!(cluster.protocol(1).counters().fast_chosen >= before + 3);
    everybody_agrees(&mut cluster);
}

#[test]
fn with_one_of_five_down_the_others_go_on_in_fast_rounds_without_its_stripe() {
    let mut cluster = group(5, false);
    cluster.crash(4);
    let first = cluster.propose(1).unwrap();
    decide(&mut cluster, "the first batch", 100, &[first]);
    cluster.run_till("another plan", 300, |cluster| {
        cluster.protocol(0).plan.is_some_and(|plan| plan.mode == Mode::Stripes(0b01111))
    });
    cluster.run_for(20);
    for number in 0..50 {
        let batch = cluster.propose(number % 4).unwrap();
        decide(&mut cluster, "a batch", 9, &[batch]);
    }
    assert_eq!(cluster.protocol(0).counters().fallbacks, 0);
    // Two are too many for a fast quorum, not for the group.
    cluster.crash(3);
    for number in 0..50 {
        let batch = cluster.propose(number % 3).unwrap();
        decide(&mut cluster, "a batch", 100, &[batch]);
    }
    assert_eq!(cluster.protocol(0).counters().fallbacks, 1);
    everybody_agrees(&mut cluster);
}

#[test]
fn t_f10_a_batch_survives_the_death_of_its_proposer_if_it_may_be_chosen() {
    let mut cluster = group(4, false);
    // Replica 0, the coordinator, never gets the batch; three others vote for it.
    let lost = |from: u8, to: u8, message: &Message| match message {
        Message::Propose(Propose { .. }) if (from, to) == (3, 0) => Verdict::Drop,
        _ => Verdict::Pass,
    };
    cluster.filter = Some(Box::new(lost));
    let batch = cluster.propose(3).unwrap();
    cluster.run_till("the votes", 50, |cluster| cluster.is_decided(batch));
    cluster.crash(3);
    everybody_agrees(&mut cluster);
    assert!(cluster.chosen_upto(0) >= Slot(1));
}

#[test]
fn a_dead_coordinator_is_replaced_and_nothing_chosen_is_lost() {
    for seed in 0..20 {
        let mut cluster = group(3 + seed % 3, seed % 2 == 0);
        let mut batches = Vec::new();
        for id in 1..3 {
            batches.extend((0..5).filter_map(|_| cluster.propose(id)));
        }
        cluster.run_until(cluster.now + Duration::from_micros(u64::from(seed) * 100));
        cluster.crash_hard(0);
        batches.extend(cluster.propose(1));
        decide(&mut cluster, "all batches of the living", 2_000, &batches);
        cluster.run_till("another coordinator", 2_000, |cluster| cluster.leader().is_some());
        everybody_agrees(&mut cluster);
        assert!(total(&cluster, |counters| counters.terms) > 0);
    }
}

#[test]
pub(super) fn t_c1_votes_are_lost_in_a_crash_of_all() {
    let mut cluster = group(3, false);
    for id in cluster.ids() {
        cluster.stall_disk(id, true);
    }
    let lost = cluster.propose(1).unwrap();
    cluster.run_for(5);
    for id in cluster.ids() {
        cluster.crash_hard(id);
    }
    for id in cluster.ids() {
        cluster.restart(id);
    }
    assert!(!cluster.is_decided(lost), "decided by votes that nobody remembers");
    let batch = cluster.propose(2).unwrap();
    decide(&mut cluster, "another batch", 2_000, &[batch]);
    everybody_agrees(&mut cluster);
}

#[test]
fn t_c2_every_message_twice() {
    let mut cluster = group(5, true);
    cluster.weather = Weather { duplicate: 100, ..CALM };
    let batches: Vec<_> = (0..30).filter_map(|number| cluster.propose(number % 5)).collect();
    decide(&mut cluster, "all batches", 1_000, &batches);
    everybody_agrees(&mut cluster);
}

#[test]
fn a_power_failure_everywhere_loses_nothing_that_was_decided() {
    for seed in 0..20 {
        let mut cluster = group(3 + seed % 3, seed % 2 == 0);
        for number in 0..12 {
            let _ = cluster.propose(number % 3);
        }
        cluster.run_until(cluster.now + Duration::from_micros(u64::from(seed) * 150));
        // The cluster remembers what was decided and compares with what replicas say later.
        crash_all(&mut cluster);
        let batch = cluster.propose(1).unwrap();
        decide(&mut cluster, "a batch after the failure", 3_000, &[batch]);
        everybody_agrees(&mut cluster);
    }
}

#[test]
fn a_replica_that_slept_catches_up_from_memory_the_log_or_a_snapshot() {
    for snapshot in [false, true] {
        let mut cluster = group(3, false);
        cluster.crash(2);
        for number in 0..100 {
            let batch = cluster.propose(number % 2).unwrap();
            decide(&mut cluster, "a batch", 200, &[batch]);
        }
        if snapshot {
            cluster.snapshot(0, 3);
            cluster.snapshot(1, 3);
            cluster.run_for(20);
        }
        cluster.restart(2);
        everybody_agrees(&mut cluster);
        cluster.read(2);
        cluster.run_till("a read", 500, |cluster| cluster.reads_served == 1);
    }
}

#[test]
fn an_idle_group_reads_without_a_coordinator() {
    let mut cluster = group(3, false);
    let batch = cluster.propose(1).unwrap();
    decide(&mut cluster, "a batch", 100, &[batch]);
    cluster.crash(0);
    for id in [1, 2] {
        cluster.read(id);
    }
    cluster.run_till("reads", 20, |cluster| cluster.reads_served == 2);
}

#[test]
fn groups_of_every_size_decide_and_read() {
    for replica_count in 1..=9 {
        for free_for_all in [false, true] {
            let mut cluster = group(replica_count, free_for_all);
            let batches: Vec<_> = cluster.ids().filter_map(|id| cluster.propose(id)).collect();
            assert_eq!(batches.len(), usize::from(replica_count));
            decide(&mut cluster, "a batch of everybody", 200, &batches);
            everybody_agrees(&mut cluster);
            cluster.read(replica_count - 1);
            cluster.run_till("a read", 20, |cluster| cluster.reads_served == 1);
        }
    }
}

#[test]
fn each_own_batch_is_told_to_be_committed_once() {
    for replica_count in [1, 3, 5] {
        crate::testing::commits::each_own_batch_is_told_once::<Fast>(replica_count);
    }
}
