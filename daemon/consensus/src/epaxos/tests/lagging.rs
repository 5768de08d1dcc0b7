//! A replica that lags: what it does until a snapshot is there, how long it is waited for, and how often it asks.

use panch_wire::ids::{Position, ReplicaId};

use super::super::message::{Commit, Covered, Fetch, Message, Numbers, Progress};
use super::{Solo, at, deps, solo};
use crate::frontier::Frontier;
use crate::protocol::{Dest, Event, Protocol};
use crate::testing::solo::{ME, R1, R2};
use crate::testing::tuning;

/// So much is executed of each row.
fn progress<const COUNT: usize>(numbers: [u64; COUNT]) -> Progress {
    let mut executed = Numbers::default();
    executed[..COUNT].copy_from_slice(&numbers);
    Progress { executed, known: executed }
}

/// An instance of row 1 is decided.
fn commit(solo: &mut Solo, number: u64) {
    let frame = solo.frame(number);
    let commit = Commit { position: at(1, number), stamp: number, deps: deps([0; 3]), noop: false };
    solo.deliver(R1, commit, Some(&frame));
}

/// Who is asked for what of row 1.
fn asked(solo: &mut Solo) -> Vec<(ReplicaId, u64, u64)> {
    let sent = solo.settle().into_iter();
    let asked = sent.filter_map(|(_, dest, message)| match (dest, message) {
        (Dest::One(to), Message::Fetch(Fetch { row: 1, from, upto, .. })) => Some((to, from, upto)),
        _ => None,
    });
    asked.collect()
}

/// A replica that has asked for what it lacks of row 1, and whom.
fn lagging() -> (Solo, ReplicaId) {
    let mut solo = solo(3);
    let _ = solo.settle();
    for member in [R1, R2] {
        solo.deliver(member, progress([0, 20, 0]), None);
    }
    solo.pass(tuning().heartbeat_interval);
    let _ = solo.settle();
    solo.pass(tuning().heartbeat_interval * 2);
    let asked = asked(&mut solo);
    assert_eq!(asked.len(), 1);
    (solo, asked[0].0)
}

fn positions(solo: &mut Solo) -> Vec<Position> {
    solo.executed().into_iter().map(|(position, _)| position).collect()
}

#[test]
pub(super) fn a_replica_that_only_a_snapshot_can_help_rests_until_it_is_there() {
    let (mut solo, peer) = lagging();
    let patience = tuning().recover_always_after;
    solo.deliver(peer, Covered { position: at(1, 1) }, None);
    commit(&mut solo, 21);
    for _ in 0..5 {
        solo.pass(patience / 2);
        let _ = solo.settle();
        solo.deliver(peer, Covered { position: at(1, 1) }, None);
        assert_eq!(positions(&mut solo), [], "a peer goes on saying so");
    }
    for _ in 0..5 {
        solo.pass(patience / 4 * 3);
        let now = solo.now;
        solo.protocol.snapshot_grown(now);
        let _ = solo.settle();
        assert_eq!(positions(&mut solo), [], "one is on its way");
    }
    solo.pass(patience);
    let _ = solo.settle();
    assert_eq!(positions(&mut solo), [at(1, 21)], "nobody says so any more");
}

#[test]
pub(super) fn the_rest_is_over_when_what_is_missing_comes_after_all() {
    let (mut solo, peer) = lagging();
    solo.deliver(peer, Covered { position: at(1, 1) }, None);
    commit(&mut solo, 21);
    assert_eq!(positions(&mut solo), []);
    commit(&mut solo, 1);
    assert_eq!(positions(&mut solo).len(), 2);
}

/// One peer that sends nonsense would stop this replica for ever.
#[test]
pub(super) fn word_that_nobody_asked_for_counts_for_nothing() {
    let (mut solo, peer) = lagging();
    let other = if peer == R1 { R2 } else { R1 };
    let before = solo.protocol.instance(at(1, 1)).since;
    solo.deliver(other, Covered { position: at(1, 1) }, None);
    solo.deliver(peer, Covered { position: at(1, 30) }, None);
    assert_eq!(solo.protocol.instance(at(1, 1)).since, before, "its recovery is not put off");
    commit(&mut solo, 21);
    assert_eq!(positions(&mut solo), [at(1, 21)]);
}

#[test]
pub(super) fn word_that_only_a_snapshot_can_help_does_not_put_off_recoveries_for_ever() {
    let (mut solo, peer) = lagging();
    let mut recovers = 0;
    for _ in 0..40 {
        solo.deliver(peer, Covered { position: at(1, 1) }, None);
        solo.pass(tuning().recover_always_after / 2);
        let sent = solo.settle().into_iter();
        let of_it = |message: &Message| matches!(message, Message::Recover(m) if m.position == at(1, 1));
        recovers += sent.filter(|(_, _, message)| of_it(message)).count();
    }
    assert!(recovers > 0);
}

/// Two that are level and have executed so much, and one that has executed less.
fn with_laggard(count: u64, executed: u64) -> Solo {
    let mut solo = solo(3);
    let _ = solo.settle();
    for number in 1..=count {
        commit(&mut solo, number);
    }
    assert_eq!(solo.executed().len() as u64, count);
    let _ = solo.settle();
    for member in [ME, R1] {
        solo.deliver(member, progress([0, count, 0]), None);
    }
    solo.deliver(R2, progress([0, executed, 0]), None);
    let _ = solo.settle();
    solo
}

/// Up to where the log may forget row 1.
fn forgettable(solo: &Solo) -> u64 {
    let mut all = Frontier::default();
    all.extend_to(1, 1 << 40);
    solo.protocol.forgettable(&all).upto(1)
}

#[test]
pub(super) fn a_laggard_is_waited_for_until_the_log_is_full_and_again_when_it_is_level() {
    let mut solo = with_laggard(2000, 10);
    assert_eq!(forgettable(&solo), 10);
    assert_eq!(solo.protocol.give_up(at(1, 10)), 0, "it has that");
    assert_eq!((solo.protocol.give_up(at(1, 11)), forgettable(&solo)), (1, 2000));
    // It goes on asking, and is sent a snapshot: that does not hold the log back either.
    solo.deliver(R2, Fetch { row: 1, from: 11, upto: 11, memory_only: false }, None);
    assert_eq!(solo.effects.snapshots.len(), 1);
    commit(&mut solo, 2001);
    let _ = solo.settle();
    for (member, executed) in [(ME, 2001), (R1, 2001), (R2, 20)] {
        solo.deliver(member, progress([0, executed, 0]), None);
    }
    assert_eq!(forgettable(&solo), 2001);
    solo.deliver(R2, progress([0, 2000, 0]), None);
    commit(&mut solo, 2002);
    let _ = solo.settle();
    for member in [ME, R1] {
        solo.deliver(member, progress([0, 2002, 0]), None);
    }
    assert_eq!(forgettable(&solo), 2001, "it is waited for again");
}

/// It goes on working, and may have executed what has not come here: that is no reason to keep everything for it.
#[test]
fn a_member_that_is_too_far_behind_for_the_memory_is_waited_for_no_longer() {
    let most = 1000;
    for (theirs, kept) in [(2000 - most, 2000 - most), (10, 2000)] {
        let mut solo = with_laggard(2000, 10);
        solo.protocol.tuning.kept_count_max = most;
        solo.deliver(R2, progress([0, theirs, 500]), None);
        solo.pass(tuning().heartbeat_interval);
        assert_eq!(forgettable(&solo), kept);
    }
}

/// Each would come to need a snapshot that the other must not take.
#[test]
pub(super) fn two_never_give_each_other_up() {
    let mut solo = with_laggard(2000, 10);
    solo.deliver(R2, progress([0, 10, 1991]), None);
    assert_eq!((solo.protocol.give_up(at(1, 11)), forgettable(&solo)), (0, 10));
}

/// Its first word after a silence is seldom a report: what it said before is as old as ever.
#[test]
pub(super) fn who_is_given_up_in_silence_is_passed_on_to_first_until_it_reports() {
    let mut solo = with_laggard(2000, 10);
    solo.protocol.tuning.kept_count_max = 1000;
    solo.step(Event::Suspect(R2));
    solo.pass(tuning().heartbeat_interval);
    let _ = solo.settle();
    assert!(solo.protocol.members[R2.index()].given_up);
    let frame = solo.frame(5000);
    let first = Commit { position: at(2, 1), stamp: 1, deps: deps([0; 3]), noop: false };
    solo.deliver(R2, first, Some(&frame));
    assert!(!solo.protocol.is_suspected(R2));
    solo.deliver(ME, progress([0, 2000, 0]), None);
    assert_eq!(forgettable(&solo), 10);
    solo.deliver(R2, progress([0, 20, 1]), None);
    solo.pass(tuning().heartbeat_interval);
    assert_eq!(forgettable(&solo), 2000, "it is heard, and lags");
}

/// Two of four are enough to tell this replica what they decide with a third, which it does not hear itself.
#[test]
fn who_hears_too_few_and_goes_on_executing_keeps_nothing_for_ever() {
    let mut solo = solo(4);
    let _ = solo.settle();
    for member in [R2, ReplicaId(3)] {
        solo.deliver(member, progress([0, 1, 0, 0]), None);
    }
    let (heartbeat, patience) = (tuning().heartbeat_interval, tuning().recover_always_after);
    let beats = (20 * patience.as_nanos() / heartbeat.as_nanos()) as u64;
    let live = |solo: &mut Solo, number: u64, is_new: bool| {
        if is_new {
            commit(solo, number);
        }
        let _ = solo.settle();
        for member in [ME, R1] {
            solo.deliver(member, progress([0, number, 0, 0]), None);
        }
        solo.pass(heartbeat);
    };
    for number in 1..=beats {
        live(&mut solo, number, true);
    }
    assert!(solo.protocol.is_suspected(R2));
    let before = forgettable(&solo);
    assert!(before > beats / 10 && before < beats, "{before} of {beats}");
    for _ in 0..beats {
        live(&mut solo, beats, false);
    }
    let after = forgettable(&solo);
    assert!(after < beats, "nobody it hears shows that anything is passed on any more: {after} of {beats}");
}

#[test]
pub(super) fn what_a_member_has_not_told_yet_is_no_lag() {
    let mut solo = solo(3);
    for number in 1..=2000 {
        commit(&mut solo, number);
    }
    solo.deliver(ME, progress([0, 2000, 0]), None);
    assert_eq!((solo.protocol.give_up(at(1, 1)), forgettable(&solo)), (0, 0));
}

#[test]
pub(super) fn what_is_on_its_way_is_not_asked_for_again() {
    let (mut solo, _) = lagging();
    let heartbeat = tuning().heartbeat_interval;
    for number in 1..=5 {
        commit(&mut solo, number);
        solo.pass(heartbeat);
        assert_eq!(asked(&mut solo), [], "it comes, one after the other");
    }
    let mut times = Vec::new();
    for beat in 1..=16 {
        solo.pass(heartbeat);
        times.extend(asked(&mut solo).into_iter().map(|(_, from, _)| (beat, from)));
    }
    assert_eq!(times.len(), 4, "and when nothing comes, less and less often: {times:?}");
}
