//! Rules of the command leader and of restarts, on one replica.

use panch_wire::frame::Frame;
use panch_wire::ids::{Position, ReplicaId, Slot};

use super::super::Dependencies;
use super::super::message::{
    Accept, Commit, Message, PreAccept, PreAcceptOk, Progress, ReadRequest, Recover, Seen,
};
use super::super::record::{AcceptRecord, PreAcceptRecord, Record, ReserveRecord};
use super::{Solo, at, ballot, deps, solo};
use crate::frontier::Frontier;
use crate::protocol::{Dest, Event, Protocol, Tuning};
use crate::testing::solo::{ME, R1, R2};
use crate::testing::{batch, tuning};

fn lead(replica_count: usize) -> (Solo, Frame) {
    let mut solo = solo(replica_count);
    let _ = solo.settle();
    let frame = solo.frame(1);
    solo.step(Event::Propose(frame.clone()));
    (solo, frame)
}

fn commits(solo: &mut Solo) -> Vec<Position> {
    let records = solo.records().into_iter();
    records
        .filter_map(|record| if let Record::Commit(commit) = record { Some(commit.position) } else { None })
        .collect()
}

/// Everything this replica tells others until it has nothing more to tell itself.
fn told(solo: &mut Solo) -> Vec<Message> {
    solo.settle().into_iter().map(|(_, _, message)| message).collect()
}

#[test]
pub(super) fn only_the_buddy_is_asked_for_a_vote() {
    let (mut solo, _) = lead(3);
    let (position, none) = (at(0, 1), deps([0, 0, 0]));
    let stamp = 1;
    let sent = solo.sent();
    let to = |id: ReplicaId, message: Message| (None, Dest::One(id), message);
    assert_eq!(sent[0], to(R1, PreAccept { position, stamp, deps: none, buddy: 1 }.into()));
    assert_eq!(sent[1], to(R2, Seen { position, stamp, buddy: 1 }.into()));
    assert_eq!(sent[2].1, Dest::One(ME));
    solo.deliver(ME, PreAcceptOk { position, deps: none }, None);
    solo.records();
    solo.deliver(R2, PreAcceptOk { position, deps: none }, None);
    assert_eq!(commits(&mut solo), []);
    solo.deliver(R1, PreAcceptOk { position, deps: deps([0, 0, 4]) }, None);
    assert_eq!(commits(&mut solo), [position]);
}

#[test]
fn the_own_vote_counts_once_it_is_durable() {
    let (mut solo, _) = lead(3);
    let position = at(0, 1);
    solo.records();
    solo.deliver(R1, PreAcceptOk { position, deps: deps([0, 0, 0]) }, None);
    assert_eq!(commits(&mut solo), []);
    solo.deliver(ME, PreAcceptOk { position, deps: deps([0, 0, 0]) }, None);
    assert_eq!(commits(&mut solo), [position]);
}

#[test]
fn a_fast_commit_is_executed_when_its_record_is_durable() {
    let (mut solo, frame) = lead(3);
    let position = at(0, 1);
    let _ = solo.settle();
    solo.deliver(R1, PreAcceptOk { position, deps: deps([0, 0, 0]) }, None);
    assert_eq!(solo.executed(), []);
    let commit = Commit { position, stamp: 1, deps: deps([0, 0, 0]), noop: false };
    let point = solo.effects.last_persist().0;
    assert_eq!(solo.sent(), [(Some(point), Dest::All, commit.into())]);
    solo.deliver(ME, commit, None);
    assert_eq!(solo.executed(), [(position, Some(frame).into())]);
}

#[test]
pub(super) fn late_votes_do_not_commit_once_the_second_phase_has_begun() {
    let (mut solo, _) = lead(3);
    let position = at(0, 1);
    let _ = solo.settle();
    solo.pass(tuning().slow_after);
    let _ = solo.sent();
    solo.deliver(R2, PreAcceptOk { position, deps: deps([0, 0, 7]) }, None);
    let accept = Accept { position, ballot: ballot(0, 0), stamp: 1, deps: deps([0, 0, 7]), noop: false };
    assert!(solo.sent().iter().any(|(after, dest, message)| {
        after.is_some() && *dest == Dest::One(R1) && *message == accept.into()
    }));
    solo.records();
    solo.deliver(R1, PreAcceptOk { position, deps: deps([0, 3, 0]) }, None);
    assert_eq!(commits(&mut solo), []);
}

fn proposed(sent: &[(Option<u64>, Dest, Message)]) -> bool {
    sent.iter().any(|(_, _, message)| matches!(message, Message::PreAccept(_)))
}

#[test]
fn a_leader_whose_log_stands_still_proposes_nothing_more() {
    let (mut solo, _) = lead(3);
    assert!(proposed(&solo.sent()));
    solo.pass(2 * tuning().slow_after);
    let _ = solo.sent();
    let second = batch(&solo.pool, 0, 1, 2);
    solo.step(Event::Propose(second));
    assert!(!proposed(&solo.sent()), "others would have to wait for it, or to recover it");
    // The first vote is written after all.
    solo.deliver(ME, PreAcceptOk { position: at(0, 1), deps: deps([0, 0, 0]) }, None);
    assert!(proposed(&solo.sent()));
}

#[test]
fn a_replica_that_only_says_what_needs_no_disk_is_suspected() {
    let (mut solo, _) = lead(3);
    let _ = solo.settle();
    for number in 1..=10 {
        solo.deliver(R1, ReadRequest { number }, None);
        solo.deliver(R2, Progress { executed: Default::default(), known: Default::default() }, None);
        solo.pass(tuning().recover_after / 5);
        let _ = solo.settle();
    }
    assert_eq!([R1, R2].map(|id| solo.protocol.is_suspected(id)), [true, false]);
    solo.deliver(R1, Progress { executed: Default::default(), known: Default::default() }, None);
    assert!(!solo.protocol.is_suspected(R1));
}

#[test]
pub(super) fn a_fast_commit_of_seven_takes_five() {
    let (mut solo, _) = lead(7);
    let (position, none) = (at(0, 1), deps([0; 7]));
    let _ = solo.settle();
    for id in 1..4 {
        solo.deliver(ReplicaId(id), PreAcceptOk { position, deps: none }, None);
    }
    assert_eq!(commits(&mut solo), []);
    solo.deliver(ReplicaId(3), PreAcceptOk { position, deps: none }, None);
    assert_eq!(commits(&mut solo), [], "a vote counts once");
    solo.deliver(ReplicaId(4), PreAcceptOk { position, deps: none }, None);
    assert_eq!(commits(&mut solo), [position]);
}

#[test]
fn votes_that_add_dependencies_lead_to_the_second_phase_with_their_union() {
    let (mut solo, _) = lead(5);
    let position = at(0, 1);
    let _ = solo.settle();
    for (id, votes) in [(1, [0, 4, 0, 0, 0]), (2, [0, 0, 6, 0, 0]), (3, [0, 4, 0, 0, 1])] {
        solo.deliver(ReplicaId(id), PreAcceptOk { position, deps: deps(votes) }, None);
    }
    let accepted = solo.records().into_iter().find_map(|record| match record {
        Record::Accept(record) => Some(record.deps),
        _ => None,
    });
    assert_eq!(accepted, Some(deps([0, 4, 6, 0, 1])));
}

#[test]
fn a_thrifty_leader_waits_for_nobody_whom_it_has_not_asked() {
    let mut solo = Solo::open(5, Tuning { thrifty: true, ..tuning() }, &Frontier::default(), &[]);
    let _ = solo.settle();
    solo.step(Event::Propose(solo.frame(1)));
    let _ = solo.settle();
    let position = at(0, 1);
    solo.deliver(R1, PreAcceptOk { position, deps: deps([0, 4, 0, 0, 0]) }, None);
    let accepts = |solo: &mut Solo| told(solo).iter().any(|message| matches!(message, Message::Accept(_)));
    assert!(!accepts(&mut solo), "two are no classic quorum");
    solo.deliver(R2, PreAcceptOk { position, deps: deps([0; 5]) }, None);
    assert!(accepts(&mut solo));
}

fn restarted(records: &[(Record, Option<Frame>)]) -> Solo {
    Solo::open(3, tuning(), &Frontier::default(), records)
}

fn own_vote(number: u64) -> Record {
    let none = Dependencies::default();
    Record::PreAccept(PreAcceptRecord {
        position: at(0, number),
        stamp: 1,
        deps: none,
        initial_deps: none,
        buddy: 1,
    })
}

fn reserve(upto: u64) -> (Record, Option<Frame>) {
    (Record::Reserve(ReserveRecord { upto, covered: Slot(0) }), None)
}

#[test]
pub(super) fn a_restarted_leader_recovers_instead_of_going_on() {
    let frame = solo(3).frame(1);
    let mut solo = restarted(&[reserve(1), (own_vote(1), Some(frame))]);
    let sent = told(&mut solo);
    assert!(sent.contains(&Recover { position: at(0, 1), ballot: ballot(1, 0) }.into()), "{sent:?}");
    assert!(!sent.iter().any(|message| matches!(message, Message::PreAccept(_))), "{sent:?}");
    // A vote of the earlier life.
    solo.records();
    solo.deliver(R1, PreAcceptOk { position: at(0, 1), deps: deps([0, 0, 0]) }, None);
    assert_eq!(commits(&mut solo), []);
}

#[test]
pub(super) fn numbers_that_may_have_been_used_are_skipped() {
    let frame = solo(3).frame(1);
    let mut solo = restarted(&[reserve(64), (own_vote(1), Some(frame))]);
    let _ = solo.settle();
    solo.step(Event::Propose(solo.frame(2)));
    let sent = told(&mut solo);
    let proposed =
        sent.iter().find_map(|m| if let Message::PreAccept(m) = m { Some(m.position) } else { None });
    assert_eq!(proposed, Some(at(0, 65)));
}

#[test]
fn no_number_is_used_before_its_reservation_is_durable() {
    let mut solo = solo(3);
    solo.step(Event::Propose(solo.frame(1)));
    let is_proposal = |message: &Message| matches!(message, Message::PreAccept(_));
    assert!(!solo.effects.outgoing.iter().any(|out| is_proposal(&out.message)));
    assert!(told(&mut solo).iter().any(is_proposal));
}

#[test]
pub(super) fn after_a_restart_everything_depends_on_the_own_row() {
    let mut solo = restarted(&[reserve(64)]);
    let _ = solo.settle();
    let frame = solo.frame(5);
    let none = deps([0, 0, 0]);
    solo.deliver(R1, PreAccept { position: at(1, 1), stamp: 1, deps: none, buddy: 0 }, Some(&frame));
    let sent = told(&mut solo);
    assert!(sent.contains(&PreAcceptOk { position: at(1, 1), deps: deps([64, 0, 0]) }.into()), "{sent:?}");
}

#[test]
pub(super) fn batches_of_the_log_are_depended_on_after_a_restart() {
    let frame = solo(3).frame(1);
    let accepted = Record::Accept(AcceptRecord {
        position: at(2, 3),
        ballot: ballot(0, 2),
        stamp: 4,
        deps: deps([0, 0, 0]),
        noop: false,
        body: true,
    });
    let mut solo = restarted(&[(accepted, Some(frame))]);
    let _ = solo.settle();
    let frame = solo.frame(5);
    let none = deps([0, 0, 0]);
    solo.deliver(R1, PreAccept { position: at(1, 1), stamp: 1, deps: none, buddy: 0 }, Some(&frame));
    let sent = told(&mut solo);
    assert!(sent.contains(&PreAcceptOk { position: at(1, 1), deps: deps([0, 0, 3]) }.into()), "{sent:?}");
}

#[test]
fn what_a_snapshot_covers_is_depended_on_after_a_restart() {
    let mut covered = Frontier::default();
    covered.extend_to(2, 9);
    let mut solo = Solo::open(3, tuning(), &covered, &[reserve(0)]);
    let _ = solo.settle();
    let frame = solo.frame(5);
    let none = deps([0, 0, 0]);
    solo.deliver(R1, PreAccept { position: at(1, 1), stamp: 1, deps: none, buddy: 0 }, Some(&frame));
    assert!(told(&mut solo).contains(&PreAcceptOk { position: at(1, 1), deps: deps([0, 0, 9]) }.into()));
}

/// Sessions expire by stamps, so they may not begin anew with the index of conflicts.
#[test]
fn stamps_go_on_above_those_of_a_snapshot() {
    let proposed = |solo: &mut Solo| {
        let _ = solo.settle();
        solo.step(Event::Propose(solo.frame(7)));
        let sent = told(solo).into_iter();
        sent.filter_map(|m| if let Message::PreAccept(m) = m { Some(m.stamp) } else { None }).next()
    };
    let mut covered = Frontier::default();
    covered.extend_to(2, 9);
    let mut from_snapshot = Solo::open(3, tuning(), &covered, &[reserve(0)]);
    assert_eq!(proposed(&mut from_snapshot), Some(10));
    let mut behind = solo(3);
    assert!(behind.protocol.prepare_install(&covered));
    behind.step(Event::Installed { covered, stamp: 20 });
    assert_eq!(proposed(&mut behind), Some(21));
}

#[test]
fn a_batch_is_proposed_again_only_after_its_instance_became_a_noop() {
    let (mut solo, frame) = lead(3);
    let _ = solo.settle();
    solo.step(Event::Propose(frame.clone()));
    assert!(!told(&mut solo).iter().any(|message| matches!(message, Message::PreAccept(_))));
    let noop = Commit { position: at(0, 1), stamp: 0, deps: deps([0, 0, 0]), noop: true };
    solo.deliver(R1, noop, None);
    solo.step(Event::Propose(frame));
    let sent = told(&mut solo).into_iter();
    let proposed: Vec<_> =
        sent.filter_map(|m| if let Message::PreAccept(m) = m { Some(m.position) } else { None }).collect();
    assert_eq!(proposed, [at(0, 2)]);
}

#[test]
fn too_much_in_flight_holds_new_batches_back() {
    let mut solo = solo(3);
    let _ = solo.settle();
    for counter in 1..=super::super::leader::window(3, &tuning()) as u64 + 1 {
        solo.step(Event::Propose(solo.frame(counter)));
        let _ = solo.settle();
    }
    assert_eq!(solo.protocol.counters.held_back, 1);
    solo.deliver(R1, PreAcceptOk { position: at(0, 1), deps: deps([0, 0, 0]) }, None);
    assert!(told(&mut solo).iter().any(|message| matches!(message, Message::PreAccept(_))));
}

#[test]
fn three_replicas_say_five_things_and_write_two_records_each_per_batch() {
    let (mut solo, frame) = lead(3);
    let position = at(0, 1);
    solo.deliver(ME, PreAcceptOk { position, deps: deps([0, 0, 0]) }, None);
    solo.deliver(R1, PreAcceptOk { position, deps: deps([0, 0, 0]) }, None);
    let bodies: Vec<_> = solo.effects.records.iter().map(|(_, body)| body.is_some()).collect();
    assert_eq!(bodies, [true, false]);
    let others = |out: &crate::protocol::Outgoing<Message>| match out.dest {
        Dest::One(to) => usize::from(to != ME),
        Dest::Others | Dest::All => 2,
    };
    let messages: usize = solo.effects.outgoing.iter().map(others).sum();
    let with_body = solo.effects.outgoing.iter().filter(|out| out.body.is_some()).count();
    assert_eq!((messages, with_body), (4, 2), "and one vote comes back");
    // The buddy writes a vote with the batch and a commit; the third one commit with the batch.
    for (id, records) in [(0, vec![true, false]), (2, vec![true])] {
        let mut other = super::solo(3);
        let _ = other.settle();
        let none = deps([0, 0, 0]);
        let position = at(1, 1);
        if id == 0 {
            other.deliver(R1, PreAccept { position, stamp: 1, deps: none, buddy: 0 }, Some(&frame));
        } else {
            other.deliver(R1, Seen { position, stamp: 1, buddy: 2 }, Some(&frame));
        }
        other.deliver(R1, Commit { position, stamp: 1, deps: none, noop: false }, None);
        assert_eq!(other.effects.records.iter().map(|(_, body)| body.is_some()).collect::<Vec<_>>(), records);
        assert_eq!(other.executed().len(), 1);
    }
}

#[test]
fn an_own_batch_is_told_to_be_committed_once_the_fast_commit_is_durable() {
    let mut solo = solo(3);
    let _ = solo.settle();
    let own = batch(&solo.pool, 0, 1, 1);
    solo.step(Event::Propose(own.clone()));
    let position = at(0, 1);
    for voter in [ME, R1] {
        solo.deliver(voter, PreAcceptOk { position, deps: deps([0, 0, 0]) }, None);
    }
    assert_eq!(commits(&mut solo), [position]);
    assert_eq!(solo.effects.committed, []);
    let commit = Commit { position, stamp: 1, deps: deps([0, 0, 0]), noop: false };
    for _ in 0..2 {
        solo.deliver(ME, commit, None);
    }
    assert_eq!(solo.effects.committed, [own.id()]);
}
