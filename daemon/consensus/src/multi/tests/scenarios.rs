//! Named schedules (protocols: nasty scenarios). Each ends in a panic if the rule it is about is removed.

use panch_wire::ids::{BatchId, Slot};

use super::super::Multi;
use super::super::message::{Message, Release, TransferLeader};
use crate::protocol::Protocol;
use crate::testing::cluster::{self, Verdict};
use crate::testing::tuning;

type Cluster = cluster::Cluster<Multi>;

/// A group whose replica 0 leads and has decided its term-start entry everywhere.
fn led_by_0(replica_count: u8) -> Cluster {
    let mut cluster = Cluster::new(replica_count, 0, 7, tuning());
    cluster.run_till("the first election", 1_000, |cluster| cluster.leader() == Some(0));
    cluster.run_for(30);
    assert!(cluster.ids().all(|id| cluster.chosen_upto(id) == Slot(1)));
    cluster
}

fn propose(cluster: &mut Cluster, id: u8) -> BatchId {
    cluster.propose(id).expect("the replica is up and has room")
}

/// Replica `id` stands for election at once, as if the leader 0 had asked it to.
fn stand_now(cluster: &mut Cluster, id: u8) {
    let ballot = cluster.protocol(0).status().ballot;
    cluster.inject(0, id, TransferLeader { released: Release { ballot, round: 0 } });
}

fn run_till_decided(cluster: &mut Cluster, batch: BatchId) {
    cluster.run_till("a decision", 2_000, |cluster| cluster.is_decided(batch));
}

/// T-M1: a deposed leader hears a commit index for slots in which it holds values that lost.
pub(super) fn commit_index_over_a_value_that_lost() {
    let mut cluster = led_by_0(3);
    cluster.isolate(0);
    let _ = propose(&mut cluster, 0);
    let _ = propose(&mut cluster, 0);
    cluster.run_till("a new leader", 1_000, |cluster| matches!(cluster.leader(), Some(1 | 2)));
    let leader = cluster.leader().unwrap();
    let batches = [propose(&mut cluster, leader), propose(&mut cluster, leader)];
    run_till_decided(&mut cluster, batches[1]);
    cluster.heal();
    cluster.run_for(300);
    assert_eq!(cluster.chosen_upto(0), cluster.chosen_upto(leader));
    assert!(cluster.protocol(0).counters().commit_held > 0);
}

/// T-M2: a value that a quorum accepted is reported by one replica of the promise quorum only.
pub(super) fn chosen_value_reported_once() {
    let mut cluster = led_by_0(3);
    cluster.filter = Some(Box::new(|_, to, message| match message {
        Message::Commit(_) | Message::Heartbeat(_) => Verdict::Drop,
        _ if to == 2 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let batch = propose(&mut cluster, 0);
    run_till_decided(&mut cluster, batch);
    cluster.crash(0);
    cluster.heal();
    cluster.run_till("a new leader", 1_000, |cluster| matches!(cluster.leader(), Some(1 | 2)));
    let batch = propose(&mut cluster, 1);
    run_till_decided(&mut cluster, batch);
}

/// T-M3: the entries of a promise are lost on the way.
pub(super) fn promise_whose_entries_are_lost() {
    let mut cluster = led_by_0(3);
    cluster.block(0, 2);
    // 1 has voted for it, and does not hear that it is chosen: what it knows it would not give up for any leader.
    cluster.filter = Some(Box::new(|from, _, message| match message {
        Message::Commit(_) | Message::Heartbeat(_) if from == 0 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let batch = propose(&mut cluster, 0);
    run_till_decided(&mut cluster, batch);
    cluster.crash(0);
    cluster.heal();
    cluster.filter = Some(Box::new(|from, _, message| match message {
        Message::PreVote(_) if from == 1 => Verdict::Drop,
        Message::PromiseEntry(_) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    cluster.run_for(1_000);
    assert!(cluster.protocol(2).counters().elections > 0);
    assert_eq!(cluster.leader(), None, "a promise is incomplete without its entries");
    cluster.heal();
    cluster.run_till("a new leader", 1_000, |cluster| matches!(cluster.leader(), Some(1 | 2)));
}

/// T-M5: the leader and one follower voted, but the leader's own vote is not durable; both crash.
pub(super) fn own_vote_is_lost_in_a_crash() {
    let mut cluster = led_by_0(3);
    cluster.block(0, 2);
    cluster.stall_disk(0, true);
    let batch = propose(&mut cluster, 0);
    cluster.run_for(20);
    let decided = cluster.is_decided(batch);
    cluster.crash_hard(0);
    cluster.crash(1);
    cluster.heal();
    cluster.restart(0);
    cluster.run_till("a new leader", 1_000, |cluster| cluster.leader().is_some());
    let leader = cluster.leader().unwrap();
    let batch = propose(&mut cluster, leader);
    run_till_decided(&mut cluster, batch);
    assert!(!decided, "a vote counts only once it is durable");
}

/// D1: a promise is given, and forgotten in a crash; then the deposed leader's Accept arrives.
pub(super) fn promise_is_lost_in_a_crash() {
    let mut cluster = led_by_0(3);
    cluster.filter = Some(Box::new(|from, to, message| match message {
        _ if from + to == 2 && from != to => Verdict::Drop,
        Message::Accept(_) if from == 0 => Verdict::Hold,
        Message::HeartbeatReply(_) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let batch = propose(&mut cluster, 0);
    cluster.stall_disk(1, true);
    stand_now(&mut cluster, 2);
    cluster.run_for(5);
    cluster.crash_hard(1);
    cluster.restart(1);
    // Nor does 1 hear that it is chosen.
    cluster.filter = Some(Box::new(|from, to, message| match message {
        _ if from == 2 || to == 2 => Verdict::Drop,
        Message::Commit(_) | Message::Heartbeat(_) if from == 0 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    cluster.release_held();
    cluster.run_for(5);
    assert!(cluster.is_decided(batch), "1 has promised nothing that it remembers");
    cluster.heal();
    cluster.isolate(0);
    cluster.run_for(300);
    cluster.heal();
    cluster.run_for(500);
    assert_eq!(cluster.chosen_upto(2), cluster.chosen_upto(0));
}

/// T-M9: a read reaches a new leader before its term-start entry is chosen.
pub(super) fn read_before_the_term_start() {
    let mut cluster = led_by_0(3);
    // What 0 decides, the others do not learn.
    cluster.filter = Some(Box::new(|from, _, message| match message {
        Message::Commit(_) | Message::Heartbeat(_) if from == 0 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let batch = propose(&mut cluster, 0);
    run_till_decided(&mut cluster, batch);
    cluster.crash(0);
    cluster.filter = Some(Box::new(|_, _, message| match message {
        Message::Accepted(_) => Verdict::Hold,
        _ => Verdict::Pass,
    }));
    cluster.run_till("a new term", 1_000, |cluster| {
        [1, 2].into_iter().any(|id| cluster.protocol(id).counters().terms > 0)
    });
    // The other one hears of it.
    cluster.run_for(1);
    for id in [1, 2] {
        cluster.read(id);
    }
    cluster.run_for(30);
    assert_eq!(cluster.reads_served, 0, "the leader cannot know yet what is decided");
    cluster.heal();
    cluster.release_held();
    cluster.run_till("the reads", 1_000, |cluster| cluster.reads_served == 2);
}

/// T-M10: a read arrives while a round is on its way whose replies were given before a new leader took over.
pub(super) fn read_joins_a_round_in_flight() {
    let mut cluster = led_by_0(3);
    cluster.filter = Some(Box::new(|_, to, message| match message {
        Message::HeartbeatReply(_) if to == 0 => Verdict::Hold,
        _ => Verdict::Pass,
    }));
    cluster.run_till("a round", 25, |cluster| cluster.held_count() == 2);
    cluster.isolate(0);
    stand_now(&mut cluster, 1);
    let batch = propose(&mut cluster, 1);
    cluster.run_for(12);
    assert!(cluster.is_decided(batch));
    assert!(cluster.protocol(0).status().leading, "the old leader does not know yet");
    cluster.read(0);
    cluster.release_held();
    cluster.run_for(500);
    assert_eq!(cluster.reads_served, 0);
}

/// T-M11: followers of a newer leader answer the old one's heartbeats with their ballot.
pub(super) fn replies_in_a_higher_ballot_are_not_contact() {
    let mut cluster = led_by_0(3);
    cluster.filter = Some(Box::new(|_, to, message| match message {
        Message::HeartbeatReply(_) => Verdict::Pass,
        _ if to == 0 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    stand_now(&mut cluster, 1);
    cluster.run_till("a new leader", 50, |cluster| cluster.leader() == Some(1));
    let batch = propose(&mut cluster, 1);
    cluster.run_till("a decision", 10, |cluster| cluster.is_decided(batch));
    cluster.read(0);
    cluster.run_for(500);
    assert_eq!(cluster.reads_served, 0);
    assert!(!cluster.protocol(0).status().leading);
}

/// T-M14: one Accept is lost, the next one arrives.
pub(super) fn acknowledgement_over_a_gap() {
    let mut cluster = led_by_0(3);
    cluster.filter = Some(Box::new(|_, to, message| match message {
        Message::Accept(accept) if to == 2 || accept.slot == Slot(2) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let _ = propose(&mut cluster, 0);
    let _ = propose(&mut cluster, 0);
    cluster.run_for(50);
    let undecided = cluster.decided_count() == 1;
    cluster.crash(0);
    cluster.heal();
    cluster.run_till("a new leader", 1_000, |cluster| matches!(cluster.leader(), Some(1 | 2)));
    cluster.run_for(50);
    assert!(undecided);
    assert!(cluster.protocol(1).counters().gaps == 0 || cluster.chosen_upto(1) >= Slot(2));
}

/// An old leader's Accepts arrive after a new leader got the slot decided.
pub(super) fn accept_of_a_deposed_leader() {
    let mut cluster = led_by_0(3);
    cluster.filter = Some(Box::new(|from, _, message| match message {
        Message::Accept(_) if from == 0 => Verdict::Hold,
        _ => Verdict::Pass,
    }));
    let _ = propose(&mut cluster, 0);
    // 2 accepts what 1 proposes but does not learn that it is decided, and 0 hears nothing of it.
    cluster.filter = Some(Box::new(|from, to, message| match message {
        _ if from == 1 && to == 0 => Verdict::Drop,
        Message::Promise(_) if to == 0 => Verdict::Drop,
        Message::Commit(_) | Message::Heartbeat(_) => Verdict::Drop,
        Message::Prepare(_) if to == 0 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    stand_now(&mut cluster, 1);
    cluster.run_till("a new leader", 50, |cluster| cluster.leader() == Some(1));
    cluster.release_held();
    cluster.run_for(20);
    cluster.heal();
    cluster.run_for(300);
    let decided = cluster.decided_count();
    assert!(decided >= 2);
    assert!(cluster.ids().map(|id| cluster.protocol(id).counters().refused).sum::<u64>() > 0);
}

/// T-C2: every message arrives twice, and only one follower votes.
pub(super) fn duplicated_votes() {
    let mut cluster = led_by_0(5);
    cluster.weather.duplicate = 100;
    cluster.filter = Some(Box::new(|_, to, message| match message {
        Message::Accept(_) if to > 1 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let batch = propose(&mut cluster, 0);
    cluster.run_for(50);
    let decided = cluster.is_decided(batch);
    cluster.crash(0);
    cluster.crash(1);
    cluster.heal();
    cluster.run_till("a new leader", 1_000, |cluster| cluster.leader().is_some());
    let leader = cluster.leader().unwrap();
    let batch = propose(&mut cluster, leader);
    run_till_decided(&mut cluster, batch);
    assert!(!decided);
}

/// T-B5, D4: a candidate crashes before its own promise is durable and stands again.
pub(super) fn ballot_used_before_it_is_written_down() {
    let mut cluster = Cluster::new(3, 0, 7, tuning());
    cluster.stall_disk(0, true);
    // Nobody but 0 stands; 2 gets none of its Accepts, and no vote comes back.
    cluster.filter = Some(Box::new(|from, to, message| match message {
        Message::PreVote(_) if from != 0 => Verdict::Drop,
        Message::Accept(_) if to == 2 => Verdict::Drop,
        Message::Accepted(_) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    cluster.run_for(95);
    let _ = cluster.propose(0);
    cluster.run_for(5);
    cluster.crash_hard(0);
    cluster.restart(0);
    cluster.heal();
    cluster.filter = Some(Box::new(|from, to, message| match message {
        Message::PreVote(_) if from != 0 => Verdict::Drop,
        Message::Accept(_) | Message::Prepare(_) | Message::Commit(_) | Message::Heartbeat(_) if to == 1 => {
            Verdict::Drop
        }
        _ => Verdict::Pass,
    }));
    cluster.run_till("an election", 1_000, |cluster| cluster.leader() == Some(0));
    let batch = propose(&mut cluster, 0);
    run_till_decided(&mut cluster, batch);
    cluster.heal();
    cluster.run_for(300);
    assert_eq!(cluster.chosen_upto(1), cluster.chosen_upto(0));
}

#[test]
fn a_commit_index_does_not_commit_a_value_that_lost() {
    commit_index_over_a_value_that_lost();
}

#[test]
fn a_chosen_value_survives_though_one_promise_reports_it() {
    chosen_value_reported_once();
}

#[test]
fn a_promise_without_its_entries_does_not_count() {
    promise_whose_entries_are_lost();
}

#[test]
fn a_vote_counts_only_once_durable() {
    own_vote_is_lost_in_a_crash();
}

#[test]
fn a_promise_leaves_only_once_durable() {
    promise_is_lost_in_a_crash();
}

#[test]
fn a_new_leader_serves_no_read_before_its_term_start_is_chosen() {
    read_before_the_term_start();
}

#[test]
fn a_read_does_not_join_a_round_in_flight() {
    read_joins_a_round_in_flight();
}

#[test]
fn a_reply_in_a_higher_ballot_deposes_the_leader() {
    replies_in_a_higher_ballot_are_not_contact();
}

#[test]
fn an_acknowledgement_never_jumps_over_a_gap() {
    acknowledgement_over_a_gap();
}

#[test]
fn an_accept_of_a_deposed_leader_is_refused() {
    accept_of_a_deposed_leader();
}

#[test]
fn duplicated_votes_do_not_add_up() {
    duplicated_votes();
}

#[test]
fn a_ballot_is_not_used_twice() {
    ballot_used_before_it_is_written_down();
}

/// T-M12.
#[test]
fn a_replica_that_was_cut_off_does_not_disturb_when_it_returns() {
    let mut cluster = led_by_0(3);
    let ballot = cluster.protocol(0).status().ballot;
    cluster.isolate(2);
    cluster.run_for(3_000);
    assert_eq!(cluster.protocol(2).status().ballot, ballot);
    cluster.heal();
    cluster.run_for(500);
    assert_eq!(cluster.protocol(0).status().ballot, ballot);
    assert!(cluster.protocol(0).status().leading);
    assert_eq!(cluster.protocol(2).status().leader, cluster.protocol(0).status().leader);
}

/// T-M13.
#[test]
fn a_replica_that_only_sends_does_not_disturb() {
    let mut cluster = led_by_0(3);
    let ballot = cluster.protocol(0).status().ballot;
    cluster.block(0, 2);
    cluster.block(1, 2);
    cluster.run_for(3_000);
    assert_eq!(cluster.protocol(0).status().ballot, ballot);
    let batch = propose(&mut cluster, 1);
    cluster.run_till("a decision", 20, |cluster| cluster.is_decided(batch));
}

/// T-M13, the leader's side.
#[test]
fn a_leader_that_only_sends_makes_room() {
    let mut cluster = led_by_0(3);
    cluster.block(1, 0);
    cluster.block(2, 0);
    cluster.run_till("a new leader", 1_000, |cluster| matches!(cluster.leader(), Some(1 | 2)));
    assert_eq!(cluster.protocol(0).counters().step_downs, 1);
    let batch = propose(&mut cluster, 1);
    run_till_decided(&mut cluster, batch);
}

#[test]
fn a_leader_whose_log_stalls_makes_room_and_does_not_stand_until_it_moves() {
    let mut cluster = led_by_0(3);
    cluster.stall_disk(0, true);
    let batch = propose(&mut cluster, 0);
    run_till_decided(&mut cluster, batch);
    cluster.run_till("a new leader", 1_000, |cluster| matches!(cluster.leader(), Some(1 | 2)));
    let elections = cluster.protocol(0).counters().elections;
    cluster.run_for(2_000);
    assert_eq!(cluster.protocol(0).counters().elections, elections);
    cluster.stall_disk(0, false);
    cluster.run_till("going home", 5_000, |cluster| cluster.leader() == Some(0));
}

#[test]
fn leadership_goes_home_without_a_pause_in_service() {
    let mut cluster = led_by_0(3);
    cluster.crash(0);
    cluster.run_till("a new leader", 1_000, |cluster| matches!(cluster.leader(), Some(1 | 2)));
    let other = cluster.leader().unwrap();
    cluster.restart(0);
    cluster.run_till("going home", 2_000, |cluster| cluster.leader() == Some(0));
    assert_eq!(cluster.protocol(other).counters().transfers, 1);
    assert_eq!(cluster.protocol(other).counters().step_downs, 0);
    let batch = propose(&mut cluster, other);
    cluster.run_till("a decision", 20, |cluster| cluster.is_decided(batch));
}

#[test]
fn a_lagging_peer_is_fed_from_memory_then_from_the_log_then_by_a_snapshot() {
    let mut cluster = led_by_0(3);
    cluster.crash(2);
    for _ in 0..100 {
        let batch = propose(&mut cluster, 0);
        run_till_decided(&mut cluster, batch);
    }
    cluster.restart(2);
    cluster.run_till("catching up", 500, |cluster| cluster.chosen_upto(2) == cluster.chosen_upto(0));
    cluster.crash(2);
    for _ in 0..100 {
        let batch = propose(&mut cluster, 0);
        run_till_decided(&mut cluster, batch);
    }
    cluster.snapshot(0, 20);
    cluster.run_for(10);
    cluster.restart(2);
    cluster.run_till("a snapshot", 500, |cluster| cluster.chosen_upto(2) == cluster.chosen_upto(0));
}

/// T-M16.
#[test]
fn a_replica_that_needs_what_the_others_no_longer_have_does_not_lead() {
    let mut cluster = led_by_0(3);
    cluster.isolate(2);
    for _ in 0..50 {
        let batch = propose(&mut cluster, 0);
        run_till_decided(&mut cluster, batch);
    }
    cluster.run_for(30);
    cluster.snapshot(0, 0);
    cluster.snapshot(1, 0);
    cluster.run_for(10);
    cluster.crash(0);
    cluster.heal();
    cluster.run_till("a new leader", 2_000, |cluster| cluster.leader().is_some());
    assert_eq!(cluster.leader(), Some(1));
    assert_eq!(cluster.protocol(2).counters().elections, 0);
    cluster.run_till("catching up", 500, |cluster| cluster.chosen_upto(2) == cluster.chosen_upto(1));
}

#[test]
fn a_single_replica_serves_alone() {
    let mut cluster = Cluster::new(1, 0, 7, tuning());
    cluster.run_till("the election", 10, |cluster| cluster.leader() == Some(0));
    let batch = propose(&mut cluster, 0);
    cluster.run_till("a decision", 10, |cluster| cluster.is_decided(batch));
    cluster.read(0);
    assert_eq!(cluster.reads_served, 1);
    cluster.crash(0);
    cluster.restart(0);
    cluster.run_till("the second term", 10, |cluster| cluster.leader() == Some(0));
    cluster.run_till("what was decided", 10, |cluster| cluster.chosen_upto(0) >= Slot(2));
}

#[test]
fn each_own_batch_is_told_to_be_committed_once() {
    for replica_count in [1, 3, 5] {
        crate::testing::commits::each_own_batch_is_told_once::<Multi>(replica_count);
    }
}
