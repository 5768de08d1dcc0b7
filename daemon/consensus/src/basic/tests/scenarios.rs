//! Named schedules on a whole cluster.

use panch_wire::ids::Slot;

use super::super::Basic;
use super::super::message::Message;
use crate::protocol::Protocol;
use crate::testing::cluster::{Cluster, Verdict};
use crate::testing::tuning;

fn cluster(replica_count: u8, seed: u64) -> Cluster<Basic> {
    Cluster::new(replica_count, 0, seed, tuning())
}

/// Everybody is up, what was proposed is decided, and all hold the same.
fn converge(cluster: &mut Cluster<Basic>) {
    cluster.heal();
    for id in cluster.ids() {
        cluster.restart(id);
        cluster.stall_disk(id, false);
    }
    cluster.run_till("convergence", 3_000, |cluster| {
        cluster.is_level() && cluster.ids().all(|id| cluster.is_idle(id))
    });
}

/// T-C1: replica 1 accepts and forgets it in a crash, while the proposer that may have counted its vote is away.
pub(super) fn votes_lost_in_a_crash() {
    let mut cluster = cluster(3, 1);
    cluster.filter = Some(Box::new(|from, to, message| match message {
        Message::Accept(_) if (from, to) == (0, 1) => Verdict::Hold,
        Message::Accept(_) | Message::Chosen(_) if from == 0 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let _ = cluster.propose(0);
    cluster.run_for(4);
    cluster.stall_disk(1, true);
    cluster.release_held();
    cluster.run_for(4);
    assert_eq!(cluster.protocol(1).status().last, Slot(1));
    cluster.crash(0);
    cluster.crash_hard(1);
    cluster.heal();
    cluster.restart(1);
    let _ = cluster.propose(2);
    cluster.run_for(200);
    converge(&mut cluster);
}

#[test]
fn a_vote_counts_only_once_it_survives_a_crash() {
    votes_lost_in_a_crash();
}

/// Replica 1 promises replica 2's ballot, crashes, and is then asked to accept in replica 0's lower one.
pub(super) fn promise_lost_in_a_crash() {
    let mut cluster = cluster(3, 2);
    cluster.block(0, 2);
    cluster.block(2, 0);
    cluster.filter = Some(Box::new(|_, _, message| match message {
        Message::Accept(_) => Verdict::Hold,
        _ => Verdict::Pass,
    }));
    let _ = cluster.propose(0);
    cluster.run_for(4);
    assert_eq!(cluster.held_count(), 1);
    cluster.stall_disk(1, true);
    let _ = cluster.propose(2);
    cluster.run_for(4);
    cluster.crash_hard(1);
    cluster.restart(1);
    cluster.filter = None;
    cluster.release_held();
    cluster.run_for(8);
    converge(&mut cluster);
}

#[test]
fn a_promise_leaves_only_once_it_survives_a_crash() {
    promise_lost_in_a_crash();
}

/// T-B5: the own log stalls, so a crash takes all that replica 0 knew of its ballot.
pub(super) fn ballot_of_an_earlier_life() {
    let mut cluster = cluster(3, 3);
    cluster.stall_disk(0, true);
    cluster.filter = Some(Box::new(|from, to, message| match message {
        Message::Accept(_) if (from, to) == (0, 2) => Verdict::Drop,
        Message::Accepted(_) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let _ = cluster.propose(0);
    cluster.run_for(6);
    assert_eq!(cluster.protocol(1).status().last, Slot(1));
    cluster.crash_hard(0);
    cluster.filter = Some(Box::new(|from, to, message| match message {
        Message::Prepare(_) | Message::Accept(_) if (from, to) == (0, 1) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    cluster.restart(0);
    let _ = cluster.propose(0);
    cluster.run_for(8);
    converge(&mut cluster);
}

#[test]
fn a_ballot_of_an_earlier_life_is_not_used_again() {
    ballot_of_an_earlier_life();
}

/// T-B3.
#[test]
fn duelling_proposers_all_get_their_batches_decided() {
    let mut cluster = cluster(5, 4);
    for _ in 0..4 {
        for id in cluster.ids() {
            cluster.propose(id).unwrap();
        }
    }
    cluster.run_till("the duels", 1_000, |cluster| cluster.ids().all(|id| cluster.is_idle(id)));
    let duels: u64 = cluster.ids().map(|id| cluster.protocol(id).counters().duels).sum();
    assert!(duels > 0, "they all took the lowest slots");
    converge(&mut cluster);
}

/// T-B4: of the first pipeline only one acceptance arrives anywhere, then the proposer is gone.
#[test]
fn what_a_dead_proposer_left_open_is_finished_by_others() {
    for heard_by in [1, 2] {
        let mut cluster = cluster(3, 5);
        cluster.filter = Some(Box::new(move |from, to, message| match message {
            Message::Accept(accept) if from == 0 && (to != heard_by || accept.slots.first != Slot(2)) => {
                Verdict::Drop
            }
            _ => Verdict::Pass,
        }));
        let left: Vec<_> = (0..3).map(|_| cluster.propose(0).unwrap()).collect();
        cluster.run_for(4);
        cluster.crash_hard(0);
        cluster.filter = None;
        let batch = cluster.propose(1).unwrap();
        cluster.run_till("the next batch", 500, |cluster| cluster.is_decided(batch));
        assert_eq!(cluster.decided(Slot(2)), Some(Some(left[1])), "it was accepted, so it is adopted");
        assert_eq!(cluster.decided(Slot(1)), Some(None));
        converge(&mut cluster);
    }
}

/// What is accepted somewhere holds reads up, so it is finished although nothing follows it.
#[test]
fn the_last_slot_is_finished_although_its_proposer_is_gone() {
    let mut cluster = cluster(3, 6);
    cluster.filter = Some(Box::new(|from, to, message| match message {
        Message::Accept(_) if from == 0 && to == 2 => Verdict::Drop,
        Message::Accepted(_) if to == 0 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let batch = cluster.propose(0).unwrap();
    cluster.run_for(4);
    cluster.crash(0);
    cluster.read(2);
    cluster.run_till("the slot", 500, |cluster| cluster.is_decided(batch));
    assert_eq!(cluster.reads_served, 1);
    converge(&mut cluster);
}

#[test]
fn one_replica_down_stops_nobody_for_long() {
    let mut cluster = cluster(3, 7);
    for round in 0..60 {
        if round == 20 {
            cluster.crash(2);
        }
        for id in cluster.ids() {
            let _ = cluster.propose(id);
        }
        cluster.run_for(10);
    }
    assert!(cluster.last_decided() > Slot(100), "{:?}", cluster.last_decided());
    converge(&mut cluster);
}

#[test]
fn a_replica_that_was_away_catches_up_by_its_own_log_peers_and_snapshots() {
    for keep in [0, 1000] {
        let mut cluster = cluster(3, 8);
        cluster.isolate(2);
        for _ in 0..80 {
            let _ = cluster.propose(0);
            cluster.run_for(5);
        }
        for id in [0, 1] {
            cluster.snapshot(id, keep);
        }
        assert!(cluster.last_decided() >= Slot(80) && cluster.chosen_upto(2) == Slot(0));
        converge(&mut cluster);
        cluster.crash(2);
        converge(&mut cluster);
    }
}

#[test]
fn a_single_replica_decides_alone_and_after_a_restart() {
    let mut cluster = cluster(1, 9);
    for _ in 0..3 {
        cluster.propose(0).unwrap();
    }
    cluster.read(0);
    cluster.run_till("three batches", 100, |cluster| cluster.is_idle(0));
    assert_eq!((cluster.last_decided(), cluster.reads_served), (Slot(3), 1));
    cluster.crash(0);
    converge(&mut cluster);
    assert_eq!(cluster.chosen_upto(0), Slot(3));
}

#[test]
fn each_own_batch_is_told_to_be_committed_once() {
    for replica_count in [1, 3, 5] {
        crate::testing::commits::each_own_batch_is_told_once::<Basic>(replica_count);
    }
}
