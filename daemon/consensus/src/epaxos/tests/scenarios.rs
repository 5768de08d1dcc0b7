//! Named schedules on a cluster (protocols 10). Others are rule tests: T-E1, T-E3, T-E6, T-E8, T-E13, T-E14, T-E16, T-E19, T-E20, T-E23; T-E9 and T-E18 are tests of
//! the index and of footprints, T-E10 and T-E11 of the graph.

use std::cell::Cell;
use std::rc::Rc;

use super::super::message::Message;
use super::super::{Epaxos, component_bound};
use super::at;
use super::visible::Visible;
use crate::protocol::Protocol;
use crate::testing::cluster::{self, Verdict};
use crate::testing::tuning;

type Cluster = cluster::Cluster<Epaxos>;

/// A cluster that has settled.
fn cluster(replica_count: u8) -> Cluster {
    let mut cluster = Cluster::new(replica_count, 0, 1, tuning());
    cluster.run_for(100);
    cluster
}

fn finish(cluster: &mut Cluster) {
    cluster.heal();
    for id in cluster.ids() {
        cluster.stall_disk(id, false);
        cluster.restart(id);
    }
    cluster.run_till("a level cluster", 3_000, |cluster| {
        cluster.is_level() && cluster.ids().all(|id| cluster.is_idle(id))
    });
    Visible::default().look(cluster);
}

#[test]
pub(super) fn votes_count_only_once_they_are_durable() {
    let mut cluster = cluster(3);
    cluster.stall_disk(1, true);
    cluster.stall_disk(2, true);
    let batch = cluster.propose(0).unwrap();
    cluster.run_for(40);
    assert!(!cluster.is_decided(batch));
    cluster.crash_hard(1);
    finish(&mut cluster);
    assert!(cluster.is_decided(batch));
}

#[test]
pub(super) fn a_ballot_is_used_only_once_it_is_durable() {
    let mut cluster = cluster(3);
    cluster.filter = Some(Box::new(|from, _, _| if from == 1 { Verdict::Drop } else { Verdict::Pass }));
    cluster.propose(0).unwrap();
    cluster.run_for(2);
    cluster.stall_disk(1, true);
    cluster.crash_hard(0);
    let sent = Rc::new(Cell::new(0));
    let counted = Rc::clone(&sent);
    cluster.filter = Some(Box::new(move |from, _, message| {
        if from == 1 && matches!(message, Message::Recover(_)) {
            counted.set(counted.get() + 1);
        }
        Verdict::Pass
    }));
    cluster.suspect(1, 0);
    cluster.run_for(300);
    assert!(cluster.protocol(1).counters().recovery_starts > 0, "it wants to recover");
    assert_eq!(sent.get(), 0);
    finish(&mut cluster);
}

/// T-E2.
#[test]
pub(super) fn a_fast_commit_is_used_only_once_its_record_is_durable() {
    let mut cluster = cluster(3);
    let is_vote = |message: &Message| matches!(message, Message::PreAcceptOk(_));
    cluster.filter = Some(Box::new(move |_, _, m| if is_vote(m) { Verdict::Hold } else { Verdict::Pass }));
    let batch = cluster.propose(0).unwrap();
    cluster.run_for(5);
    assert_eq!(cluster.held_count(), 1);
    cluster.stall_disk(0, true);
    cluster.filter = None;
    cluster.release_held();
    cluster.run_for(3);
    assert_eq!(cluster.protocol(0).counters().fast_commits, 1);
    assert!(!cluster.is_decided(batch), "nobody may know of it yet");
    cluster.crash_hard(0);
    // Recovered without its command leader: the vote of the buddy is found.
    cluster.run_till("the recovery", 1_000, |cluster| cluster.is_decided(batch));
    finish(&mut cluster);
}

/// T-E7.
#[test]
fn a_slow_leaders_batch_is_proposed_again_once() {
    let mut cluster = cluster(3);
    let is_first = |message: &Message| matches!(message, Message::PreAccept(_));
    cluster.filter = Some(Box::new(move |_, _, m| if is_first(m) { Verdict::Hold } else { Verdict::Pass }));
    let batch = cluster.propose(0).unwrap();
    cluster.run_for(3);
    cluster.isolate(0);
    cluster.filter = None;
    for id in [1, 2] {
        cluster.suspect(id, 0);
    }
    cluster.run_till("a no-op", 1_000, |cluster| cluster.decided(at(0, 1)) == Some(None));
    cluster.release_held();
    finish(&mut cluster);
    assert_eq!(cluster.decided(at(0, 2)), Some(Some(batch)));
    assert_eq!(cluster.protocol(0).counters().resubmitted, 1);
}

/// T-E12.
#[test]
fn an_instance_known_only_as_a_dependency_is_recovered() {
    let mut cluster = cluster(3);
    // The third never hears of the first batch, and its command leader never hears of the vote.
    cluster.filter = Some(Box::new(|from, to, _| match (from, to) {
        (0, 2) | (1, 0) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    cluster.propose(0).unwrap();
    cluster.run_for(4);
    let second = cluster.propose(1).unwrap();
    cluster.run_for(1);
    cluster.crash_hard(0);
    cluster.run_till("the second batch", 2_000, |cluster| cluster.is_decided(second));
    assert!(cluster.decided(at(0, 1)).is_some());
    finish(&mut cluster);
}

/// T-E15.
#[test]
fn writers_of_one_key_at_all_replicas_all_finish() {
    for replica_count in [3, 5] {
        let mut cluster = cluster(replica_count);
        let mut visible = Visible::default();
        let mut batches = Vec::new();
        for _ in 0..100 {
            for id in cluster.ids() {
                batches.extend(cluster.propose(id));
            }
            cluster.run_for(1);
            visible.look(&cluster);
        }
        assert!(batches.len() > 60, "{}", batches.len());
        cluster
            .run_till("every batch", 1_000, |cluster| batches.iter().all(|batch| cluster.is_decided(*batch)));
        for id in cluster.ids() {
            let largest = cluster.protocol(id).counters().component_max as usize;
            assert!(largest <= component_bound(replica_count.into(), &tuning()), "{largest} instances");
        }
        finish(&mut cluster);
    }
}

/// T-E4, T-E5: two command leaders die with votes of instances that exclude each other.
#[test]
fn votes_of_two_dead_leaders_that_exclude_each_other_are_decided() {
    let mut cluster = cluster(5);
    cluster.filter = Some(Box::new(|from, to, message| match (from, to, message) {
        (3, 1, Message::PreAccept(_)) | (4, 2, Message::PreAccept(_)) => Verdict::Pass,
        (_, _, Message::PreAccept(_) | Message::PreAcceptOk(_)) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    cluster.propose(3).unwrap();
    cluster.propose(4).unwrap();
    cluster.run_for(3);
    cluster.crash_hard(3);
    cluster.crash_hard(4);
    cluster.filter = None;
    for id in 0..3 {
        cluster.suspect(id, 3);
        cluster.suspect(id, 4);
    }
    // Whoever waits is not allowed to wait for ever.
    let third = cluster.propose(0).unwrap();
    cluster.run_till("both and the one behind them", 3_000, |cluster| {
        cluster.is_decided(third) && [3, 4].iter().all(|row| cluster.decided(at(*row, 1)).is_some())
    });
    finish(&mut cluster);
}

/// T-E22.
#[test]
pub(super) fn a_read_sees_a_batch_whose_commits_are_delayed() {
    let mut cluster = cluster(3);
    let is_commit = |message: &Message| matches!(message, Message::Commit(_));
    cluster.filter = Some(Box::new(move |_, _, m| if is_commit(m) { Verdict::Hold } else { Verdict::Pass }));
    let batch = cluster.propose(0).unwrap();
    cluster.run_till("the commit", 50, |cluster| cluster.is_decided(batch));
    // The cluster checks that the read sees it.
    cluster.read(2);
    cluster.run_for(5);
    assert_eq!(cluster.reads_served, 0);
    cluster.filter = None;
    cluster.release_held();
    cluster.run_till("the read", 500, |cluster| cluster.reads_served == 1);
}

#[test]
fn a_replica_that_missed_much_is_given_what_has_left_memory() {
    let mut cluster = cluster(3);
    cluster.isolate(2);
    for _ in 0..200 {
        for id in [0, 1] {
            let _ = cluster.propose(id);
        }
        cluster.run_for(2);
    }
    let in_memory = cluster.protocol(0).instances.values().filter(|instance| instance.frame.is_some());
    assert!(in_memory.count() < 200, "the tail is bounded");
    finish(&mut cluster);
}

#[test]
fn a_whole_cluster_that_restarts_goes_on() {
    let mut cluster = cluster(5);
    for round in 0..3 {
        for id in cluster.ids() {
            cluster.propose(id).unwrap();
        }
        cluster.run_for(round);
        for id in cluster.ids() {
            cluster.crash_hard(id);
        }
        finish(&mut cluster);
    }
    let batch = cluster.propose(4).unwrap();
    cluster.run_till("a new batch", 1_000, |cluster| cluster.is_decided(batch));
}

#[test]
fn each_own_batch_is_told_to_be_committed_once() {
    for replica_count in [1, 3, 5] {
        crate::testing::commits::each_own_batch_is_told_once::<Epaxos>(replica_count);
    }
}
