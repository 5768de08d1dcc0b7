//! What is chosen is compared with what a leader proposes there, also when it has left memory.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};

use super::super::message::*;
use super::solo::{R1, R2, Solo, accepted, ballot, hint, promised};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Event, Protocol, Tuning, Value};
use crate::testing::tuning;

/// Has followed R1, knows of slots 1 to 3 that they are chosen, and was restarted: none of them is in memory, slot 4 is.
fn restarted() -> (Solo, Vec<Frame>) {
    restarted_with(4, &[])
}

/// The same with that many slots, the last of which is not known to be chosen, and what the log holds beyond.
fn restarted_with(count: u64, more: &[Record]) -> (Solo, Vec<Frame>) {
    let pool = Solo::new(3);
    let frames: Vec<_> = (1..=count + 1).map(|counter| pool.frame(counter)).collect();
    let accepted =
        |slot: u64| (accepted(ballot(1, 1), slot, slot - 1), Some(frames[slot as usize - 1].clone()));
    let mut records: Vec<_> = (1..=count).map(accepted).collect();
    records.extend(more.iter().map(|record| (*record, None)));
    let mut solo = Solo::restarted(3, Slot(0), &records);
    assert_eq!(solo.status().committed, Slot(count - 1));
    solo.settle();
    (solo, frames)
}

impl Solo {
    fn loads(&mut self) -> Vec<u64> {
        self.effects.loads.drain(..).map(|position| position.number).collect()
    }

    fn loaded(&mut self, slot: u64, value: Option<&Frame>) {
        self.step(Event::Loaded(Slot(slot).into(), value.cloned().map(Value::Batch)));
    }

    /// The highest slot that was acknowledged to `to` since the last question.
    fn acknowledged_to(&mut self, to: ReplicaId) -> u64 {
        let told = self.settle().into_iter();
        let acks = told.filter_map(|(_, dest, message)| match message {
            Message::Accepted(accepted) if dest == Dest::One(to) => Some(accepted.upto.0),
            _ => None,
        });
        acks.max().unwrap_or(0)
    }

    fn heartbeat(&mut self, from: ReplicaId, ballot: Ballot, round: u64, commit: u64, sent: u64) {
        let (commit, sent) = (Slot(commit), Slot(sent));
        self.deliver(from, Heartbeat { ballot, round, commit, sent, acked: Slot(0), lease: 0 }, None);
    }

    /// Neither votes for R2 nor counts as contact of it.
    fn deserts(&mut self, ballot: Ballot) -> bool {
        self.heartbeat(R2, ballot, 99, 0, 1);
        self.settle().is_empty() && self.status().leader.is_none()
    }
}

/// The leader proposes in slot 2 what is not chosen there; the slot has left memory.
fn leader_is_compared_with_the_log(mut solo: Solo, frames: &[Frame]) {
    let new = ballot(2, 2);
    solo.accept(R2, new, 1, 0, &frames[0]);
    assert_eq!(solo.acknowledged_to(R2), 0, "not before it was compared");
    assert_eq!(solo.loads(), [1]);
    solo.loaded(1, Some(&frames[0]));
    assert_eq!(solo.acknowledged_to(R2), 1);
    solo.accept(R2, new, 2, 0, &frames[4]);
    assert_eq!(solo.acknowledged_to(R2), 1);
    assert_eq!((solo.loads(), solo.effects.contradiction), (vec![2], None));
    solo.loaded(2, Some(&frames[1]));
    let found = solo.effects.contradiction.take().expect("a first phase has missed what is chosen");
    assert_eq!((found.position, found.from), (Slot(2).into(), R2));
    assert_eq!((found.known, found.told), (frames[1].checksum(), frames[4].checksum()));
    assert_eq!(solo.acknowledged_to(R2), 0);
    assert!(solo.deserts(new));
    // A majority has it otherwise: who is right, digests tell.
    solo.heartbeat(R2, new, 100, 2, 2);
    assert_eq!(solo.status().leader, Some(R2));
}

pub(super) fn compared_after_a_restart() {
    let (solo, frames) = restarted();
    leader_is_compared_with_the_log(solo, &frames);
}

#[test]
fn what_is_chosen_is_compared_after_a_restart() {
    compared_after_a_restart();
}

#[test]
fn what_is_chosen_is_compared_when_it_is_older_than_what_memory_keeps() {
    let mut solo = Solo::open(3, Tuning { tail_size_max: 0, ..tuning() }, &Slot(0).into(), &[]);
    let frames: Vec<_> = (1..=5).map(|counter| solo.frame(counter)).collect();
    for slot in 1..=3 {
        solo.accept(R1, ballot(1, 1), slot, slot, &frames[slot as usize - 1]);
    }
    solo.settle();
    leader_is_compared_with_the_log(solo, &frames);
}

#[test]
fn a_leader_that_was_deserted_is_deserted_again_after_a_restart() {
    let new = ballot(2, 2);
    let (mut solo, frames) = restarted_with(4, &[promised(new, 3)]);
    solo.accept(R2, new, 1, 0, &frames[4]);
    solo.loaded(1, Some(&frames[0]));
    assert!(solo.effects.contradiction.is_some());
    assert_eq!(solo.acknowledged_to(R2), 0);
    assert!(solo.deserts(new));
}

#[test]
fn a_leader_that_knows_less_is_followed_whatever_order_the_log_answers_in() {
    let (mut solo, frames) = restarted();
    let new = ballot(2, 2);
    for (slot, frame) in (1..=4).zip(&frames) {
        solo.accept(R2, new, slot, 0, frame);
    }
    assert_eq!(solo.loads(), [1, 2, 3]);
    // All of it has arrived: nothing is sent again.
    solo.heartbeat(R2, new, 1, 0, 4);
    let reply = HeartbeatReply { ballot: new, round: 1, sent: Slot(4), received: Slot(4), granted: false };
    assert!(solo.sent().contains(&hint(R2, reply)));
    assert_eq!(solo.acknowledged_to(R2), 0);
    // Sent again all the same, it is not read again.
    solo.accept(R2, new, 2, 0, &frames[1]);
    assert!(solo.loads().is_empty());
    for (slot, upto) in [(3, 0), (1, 1), (2, 4)] {
        solo.loaded(slot, Some(&frames[slot as usize - 1]));
        assert_eq!(solo.acknowledged_to(R2), upto);
    }
    assert_eq!(solo.effects.contradiction, None);
}

#[test]
fn nothing_is_read_for_a_leader_that_calls_it_chosen() {
    let (mut solo, frames) = restarted();
    let new = ballot(2, 2);
    solo.accept(R2, new, 4, 3, &frames[3]);
    assert_eq!(solo.acknowledged_to(R2), 4);
    solo.accept(R2, new, 2, 3, &frames[1]);
    solo.accept(R2, new, 5, 4, &frames[4]);
    assert_eq!(solo.acknowledged_to(R2), 5);
    assert!(solo.loads().is_empty());
}

#[test]
fn what_others_say_while_the_log_is_read_counts() {
    let (mut solo, frames) = restarted();
    let new = ballot(2, 2);
    for (slot, frame) in (1..=4).zip(&frames) {
        solo.accept(R2, new, slot, 0, frame);
    }
    // Another has acknowledged the first two.
    solo.deliver(R2, Commit { ballot: new, commit: Slot(2) }, None);
    solo.loaded(3, Some(&frames[2]));
    assert_eq!(solo.acknowledged_to(R2), 4);
    solo.loaded(1, Some(&frames[0]));
    solo.loaded(2, Some(&frames[1]));
    assert_eq!(solo.effects.contradiction, None);
}

#[test]
fn what_is_read_for_a_leader_is_not_held_against_the_next() {
    let (mut solo, frames) = restarted();
    solo.accept(R2, ballot(2, 2), 1, 0, &frames[4]);
    solo.accept(R1, ballot(3, 1), 1, 0, &frames[0]);
    assert_eq!(solo.loads(), [1]);
    solo.loaded(1, Some(&frames[0]));
    assert_eq!(solo.effects.contradiction, None);
    assert_eq!(solo.acknowledged_to(R1), 1);
}

#[test]
fn few_comparisons_wait_at_once() {
    let (mut solo, frames) = restarted_with(400, &[]);
    let new = ballot(2, 2);
    let mut upto = 0;
    for round in 1..=4 {
        for slot in upto + 1..=400 {
            solo.accept(R2, new, slot, 0, &frames[slot as usize - 1]);
        }
        let loads = solo.loads();
        assert!(loads.len() <= 128);
        for slot in loads {
            solo.loaded(slot, Some(&frames[slot as usize - 1]));
        }
        solo.heartbeat(R2, new, round, 0, 400);
        let reply = solo.sent().into_iter().find_map(|(_, _, message)| match message {
            Message::HeartbeatReply(reply) => Some(reply.received.0),
            _ => None,
        });
        upto = reply.expect("a reply");
        assert!(upto >= (128 * round).min(400), "{upto}");
    }
    assert_eq!(solo.acknowledged_to(R2), 400);
}

/// Slots 1 to 3 are covered by a snapshot.
fn with_a_snapshot() -> (Solo, Vec<Frame>) {
    let pool = Solo::new(3);
    let frames: Vec<_> = (1..=5).map(|counter| pool.frame(counter)).collect();
    let mut solo = Solo::restarted(3, Slot(3), &[(accepted(ballot(1, 1), 4, 3), Some(frames[3].clone()))]);
    solo.settle();
    (solo, frames)
}

pub(super) fn leader_below_the_log_gets_a_snapshot() {
    let (mut solo, frames) = with_a_snapshot();
    let new = ballot(2, 2);
    solo.accept(R2, new, 1, 0, &frames[4]);
    solo.heartbeat(R2, new, 1, 0, 1);
    assert_eq!(solo.effects.snapshots, [], "it may learn from others what it lacks");
    solo.heartbeat(R2, new, 2, 0, 1);
    assert_eq!(solo.effects.snapshots, [(R2, Slot(1))]);
    assert_eq!((solo.acknowledged_to(R2), solo.loads()), (0, vec![]));
}

#[test]
fn a_leader_that_lacks_what_only_a_snapshot_holds_gets_it() {
    leader_below_the_log_gets_a_snapshot();
}

#[test]
fn a_leader_that_learns_from_others_gets_no_snapshot() {
    let (mut solo, frames) = with_a_snapshot();
    let new = ballot(2, 2);
    solo.accept(R2, new, 1, 0, &frames[0]);
    for commit in 0..=3 {
        solo.heartbeat(R2, new, commit + 1, commit, 3);
    }
    solo.heartbeat(R2, new, 5, 3, 3);
    assert_eq!(solo.effects.snapshots, []);
    solo.accept(R2, new, 4, 3, &frames[3]);
    assert_eq!(solo.acknowledged_to(R2), 4);
}

#[test]
fn a_leader_gets_a_snapshot_of_what_cannot_be_read_any_more() {
    let (mut solo, frames) = restarted();
    let new = ballot(2, 2);
    for (slot, frame) in (1..=4).zip(&frames) {
        solo.accept(R2, new, slot, 0, frame);
    }
    solo.loaded(2, None);
    assert_eq!(solo.effects.snapshots, [(R2, Slot(2))]);
    solo.loaded(3, Some(&frames[2]));
    solo.loaded(1, Some(&frames[0]));
    assert_eq!(solo.acknowledged_to(R2), 1);
    assert_eq!(solo.loads(), [1, 2, 3]);
    // Asked for again when it is sent again.
    solo.accept(R2, new, 2, 0, &frames[1]);
    assert_eq!(solo.loads(), [2]);
}

pub(super) fn never_proposed_is_found_in_the_log() {
    let (mut solo, frames) = restarted();
    let new = ballot(2, 2);
    solo.deliver(R2, Proposed { ballot: new, last: Slot(1) }, None);
    assert_eq!(solo.loads(), [2]);
    // Once is enough.
    solo.deliver(R2, Proposed { ballot: new, last: Slot(1) }, None);
    assert!(solo.loads().is_empty());
    solo.step(Event::Loaded(Slot(2).into(), Some(Value::Noop)));
    assert_eq!((solo.loads(), solo.effects.contradiction), (vec![3], None));
    solo.loaded(3, Some(&frames[2]));
    let found = solo.effects.contradiction.take().expect("a first phase has missed what is chosen");
    assert_eq!((found.position, found.from), (Slot(3).into(), R2));
    assert_eq!((found.known, found.told), (frames[2].checksum(), 0));
    assert!(solo.deserts(new));
}

#[test]
fn a_leader_that_has_never_proposed_what_the_log_calls_chosen_is_contradicted() {
    never_proposed_is_found_in_the_log();
    // A late answer of the leader that had it chosen, and a new leader that knows of everything.
    let (mut solo, _) = restarted();
    solo.deliver(R1, Proposed { ballot: ballot(1, 1), last: Slot(1) }, None);
    solo.deliver(R2, Proposed { ballot: ballot(2, 2), last: Slot(3) }, None);
    assert!(solo.loads().is_empty());
    // Restarted when it had obeyed already, it knows what came before.
    let (mut solo, frames) = restarted_with(4, &[promised(ballot(2, 2), 3)]);
    assert_eq!(solo.protocol.status().ballot, ballot(2, 2));
    solo.deliver(R2, Proposed { ballot: ballot(2, 2), last: Slot(1) }, None);
    assert_eq!(solo.loads(), [2]);
    solo.loaded(2, Some(&frames[1]));
    assert!(solo.effects.contradiction.is_some());
}
