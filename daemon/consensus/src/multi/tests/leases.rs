//! Leases as schedules (protocols: T-M6, T-M7, T-M8, T-C10), and at random with clocks that drift.
//!
//! The cluster checks every read, so a read under a lease that is none ends in a panic.

use panch_wire::time::Duration;

use super::super::Multi;
use super::super::message::Message;
use super::random;
use crate::protocol::{Protocol, Tuning};
use crate::testing::cluster::{self, Verdict};
use crate::testing::random::{Tally, sweep};
use crate::testing::tuning;

pub(super) const LEASE: Duration = Duration::from_millis(50);

type Cluster = cluster::Cluster<Multi>;

pub(super) fn leasing() -> Tuning {
    Tuning { lease: LEASE, ..tuning() }
}

/// Clocks may differ from true time by a tenth.
fn leasing_with_drift() -> Tuning {
    Tuning { clock_drift_ppm: 100_000, ..leasing() }
}

/// Replica 0 leads under a lease.
fn leased_by_0(seed: u64, tuning: Tuning) -> Cluster {
    let mut cluster = Cluster::new(3, 0, seed, tuning);
    cluster.run_till("the first election", 1_000, |cluster| cluster.leader() == Some(0));
    cluster.run_for(50);
    assert!(reads_at_once(&mut cluster, 0), "the leader holds a lease");
    cluster
}

fn reads_at_once(cluster: &mut Cluster, id: u8) -> bool {
    let served = cluster.reads_served;
    cluster.lease_read(id);
    cluster.reads_served > served
}

/// Replica 0 is cut off, the others look for a leader at once, and 0 is asked all the time.
fn contest(cluster: &mut Cluster) -> bool {
    cluster.isolate(0);
    for id in [1, 2] {
        cluster.suspect(id, 0);
    }
    let mut decided = false;
    for _ in 0..120 {
        cluster.run_for(1);
        if let Some(leader @ (1 | 2)) = cluster.leader() {
            let before = cluster.decided_count();
            let _ = cluster.propose(leader);
            decided |= cluster.decided_count() > before || before > 2;
        }
        cluster.lease_read(0);
    }
    decided
}

/// T-C10: the leader's clock is slow and the followers' are fast, as far as the bound allows.
fn drifting_clocks(replies_after_ms: u64) {
    let mut decided = 0;
    for seed in 0..20 {
        let mut cluster = leased_by_0(seed, leasing_with_drift());
        cluster.set_clock_rate(0, 900_000);
        cluster.set_clock_rate(1, 1_100_000);
        cluster.set_clock_rate(2, 1_100_000);
        cluster.filter = Some(Box::new(|_, to, message| match message {
            Message::HeartbeatReply(_) if to == 0 => Verdict::Hold,
            _ => Verdict::Pass,
        }));
        cluster.run_for(replies_after_ms);
        cluster.release_held();
        decided += u64::from(contest(&mut cluster));
    }
    assert!(decided > 10, "{decided}: the others must get to lead while 0 still believes it does");
}

/// T-M8: the replies are slow, too.
pub(super) fn slow_replies_and_drifting_clocks() {
    drifting_clocks(30);
}

pub(super) fn slow_replies_and_drifting_clocks_in_time() {
    drifting_clocks(25);
}

#[test]
fn drifting_clocks_and_slow_replies_do_not_make_two_leaders() {
    slow_replies_and_drifting_clocks();
    slow_replies_and_drifting_clocks_in_time();
}

/// The only follower that granted looks for votes itself.
pub(super) fn granter_stands() {
    for seed in 0..20 {
        let mut cluster = leased_by_0(seed, leasing());
        cluster.block(0, 2);
        cluster.run_for(60);
        contest(&mut cluster);
    }
}

#[test]
fn a_granter_does_not_lead_before_the_lease_ends() {
    granter_stands();
}

/// T-M6: the leader is stopped till another one has decided something.
pub(super) fn paused_leader() {
    for seed in 0..5 {
        let mut cluster = leased_by_0(seed, leasing());
        cluster.pause(0, true);
        cluster.run_till("a new leader", 1_000, |cluster| matches!(cluster.leader(), Some(1 | 2)));
        cluster.filter = Some(Box::new(|_, to, _| if to == 0 { Verdict::Drop } else { Verdict::Pass }));
        let leader = [1, 2].into_iter().find(|id| cluster.protocol(*id).status().leading).unwrap();
        let batch = cluster.propose(leader).unwrap();
        cluster.run_till("a decision", 100, |cluster| cluster.is_decided(batch));
        assert!(cluster.protocol(0).status().leading, "it does not know yet");
        assert!(!reads_at_once(&mut cluster, 0));
        cluster.pause(0, false);
        cluster.heal();
        cluster.run_for(500);
    }
}

#[test]
fn a_leader_that_wakes_up_does_not_answer_from_the_past() {
    paused_leader();
}

/// T-M7: a follower grants, restarts at once and is asked for a promise.
pub(super) fn granter_restarts() {
    granter_restarts_with(LEASE);
}

/// The same, and it is started with a lease that is over at once.
pub(super) fn granter_restarts_with_a_shorter_lease() {
    granter_restarts_with(Duration::from_millis(1));
}

fn granter_restarts_with(lease: Duration) {
    let mut cluster = leased_by_0(7, leasing());
    // Only 1 grants; 2 hears nothing, and stands. That 1 reaches more than the leader does is not told.
    cluster.block(0, 2);
    cluster.filter = Some(Box::new(|from, _, message| match message {
        Message::PreVote(_) if from == 2 => Verdict::Hold,
        Message::Condition(_) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    cluster.run_till("a candidate", 1_000, |cluster| cluster.held_count() > 0);
    cluster.run_for(1);
    cluster.isolate(0);
    cluster.filter = None;
    cluster.crash(1);
    cluster.tuning.lease = lease;
    cluster.restart(1);
    cluster.run_for(3);
    cluster.release_held();
    cluster.run_for(5);
    if cluster.leader() == Some(2) {
        let _ = cluster.propose(2);
        cluster.run_for(5);
    }
    assert!(reads_at_once(&mut cluster, 0), "the lease still runs: nobody else may lead");
    cluster.heal();
    cluster.run_till("a leader", 1_000, |cluster| cluster.leader().is_some());
}

#[test]
fn a_granter_that_restarts_still_keeps_its_word() {
    granter_restarts();
    granter_restarts_with_a_shorter_lease();
}

/// Replica 0 was away; the leader of that time, the second one returned, asks it to take over again. The request is held.
fn held_handover() -> (Cluster, u8) {
    let mut cluster = leased_by_0(7, leasing());
    cluster.crash(0);
    cluster.run_till("a new leader", 1_000, |cluster| matches!(cluster.leader(), Some(1 | 2)));
    let other = cluster.leader().unwrap();
    cluster.restart(0);
    cluster.filter = Some(Box::new(|_, _, message| match message {
        Message::TransferLeader(_) => Verdict::Hold,
        _ => Verdict::Pass,
    }));
    cluster.run_till("the handover", 2_000, |cluster| cluster.held_count() > 0);
    (cluster, other)
}

/// The leader hands over to the home replica.
pub(super) fn handover() {
    let (mut cluster, other) = held_handover();
    assert!(!reads_at_once(&mut cluster, other), "the lease ended before the request left");
    // Late, but in time: nobody waits for the old lease.
    cluster.filter = None;
    cluster.release_held();
    cluster.run_till("going home", 10, |cluster| cluster.leader() == Some(0));
    cluster.run_till("a lease", 50, |cluster| cluster.protocol(0).counters().terms == 1);
    cluster.run_for(30);
    assert!(reads_at_once(&mut cluster, 0));
}

#[test]
fn leadership_goes_home_without_waiting_for_the_old_lease() {
    handover();
}

/// The request to take over is lost; the leader goes on, and its lease with it. Then the request arrives after all.
pub(super) fn late_handover() {
    let (mut cluster, other) = held_handover();
    cluster.run_for(180);
    assert!(reads_at_once(&mut cluster, other));
    cluster.release_held();
    cluster.filter = Some(Box::new(move |_, to, _| if to == other { Verdict::Drop } else { Verdict::Pass }));
    for _ in 0..100 {
        cluster.run_for(1);
        let _ = cluster.propose(0);
        cluster.lease_read(other);
    }
    cluster.heal();
    cluster.run_till("a leader", 1_000, |cluster| cluster.leader().is_some());
}

#[test]
fn a_leader_that_goes_on_after_a_failed_handover_holds_a_lease_again() {
    late_handover();
}

/// A leader dies: the lease it held costs the others less than an election timeout.
#[test]
fn a_dead_leaders_lease_is_waited_for_and_no_longer() {
    for seed in 0..20 {
        let mut cluster = leased_by_0(seed, leasing());
        cluster.crash(0);
        for id in [1, 2] {
            cluster.suspect(id, 0);
        }
        cluster.run_till("a new leader", 150, |cluster| matches!(cluster.leader(), Some(1 | 2)));
    }
}

/// A stalled disk at a follower ends its grants, and the lease with them.
pub(super) fn stalled_logs() {
    let mut cluster = leased_by_0(7, leasing());
    cluster.stall_disk(1, true);
    cluster.stall_disk(2, true);
    let _ = cluster.propose(0);
    cluster.run_for(160);
    assert!(!reads_at_once(&mut cluster, 0));
}

#[test]
fn a_quorum_of_stalled_logs_gives_no_lease() {
    stalled_logs();
}

/// The leader is in trouble, the others try to take over at once, and everybody is read all the time.
fn fight(cluster: &mut Cluster) {
    let Some(leader) = cluster.leader() else { return };
    let count = cluster.nodes.len() as u64;
    match cluster.below(4) {
        0 => cluster.pause(leader, true),
        1 | 2 => cluster.isolate(leader),
        _ => {}
    }
    for id in cluster.ids().filter(|id| *id != leader) {
        cluster.suspect(id, leader);
    }
    if cluster.below(2) == 0 {
        let id = cluster.below(count) as u8;
        cluster.crash(id);
        cluster.restart(id);
    }
    let wakes = cluster.below(120);
    for step in 0..120 {
        cluster.run_for(1);
        if step == wakes {
            cluster.pause(leader, false);
        }
        for id in cluster.ids() {
            cluster.lease_read(id);
        }
        if let Some(leader) = cluster.leader() {
            let _ = cluster.propose(leader);
        }
    }
    cluster.pause(leader, false);
}

/// Everything at random, with leases, and clocks that drift and change.
pub(super) fn run(seed: u64) -> Tally {
    random::run_with(seed, leasing_with_drift(), |cluster, id| {
        match cluster.below(60) {
            0..4 => {
                let rate = if cluster.below(2) == 0 { 900_000 } else { 1_100_000 };
                cluster.set_clock_rate(id, rate);
            }
            4 | 5 => fight(cluster),
            6 => cluster.pause(id, true),
            _ => cluster.pause(id, false),
        }
        cluster.lease_read(id);
    })
}

#[test]
fn random_schedules_with_leases_and_drifting_clocks() {
    sweep(100, run, |total, _| {
        assert!(total.lease_reads > 3000 && total.lease_refusals > 30 && total.terms > 40, "{total:?}");
    });
}
