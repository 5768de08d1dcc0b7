//! Rules of acceptors and of recovery, on one replica.

use panch_wire::frame::Frame;
use panch_wire::ids::{Position, ReplicaId};

use super::super::Dependencies;
use super::super::message::{
    Accept, AcceptOk, Commit, Fetch, Message, Nack, Phase, PreAccept, PreAcceptOk, Progress, ReadReply,
    Recover, RecoverOk, Seen, Validate, ValidateOk, Waiting,
};
use super::{Solo, at, ballot, deps, solo};
use crate::ballot::Ballot;
use crate::frontier::Frontier;
use crate::protocol::{Event, Protocol, ReadContext};
use crate::testing::solo::{R1, R2};
use crate::testing::tuning;

const R4: ReplicaId = ReplicaId(4);

fn ready(replica_count: usize) -> Solo {
    let mut solo = solo(replica_count);
    let _ = solo.settle();
    solo
}

fn told(solo: &mut Solo) -> Vec<Message> {
    solo.settle().into_iter().map(|(_, _, message)| message).collect()
}

fn accept(position: Position, ballot: Ballot, deps: Dependencies, noop: bool) -> Accept {
    Accept { position, ballot, stamp: u64::from(!noop), deps, noop }
}

fn reports(sent: &[Message]) -> Vec<RecoverOk> {
    sent.iter()
        .filter_map(|m| if let Message::RecoverOk(report) = m { Some(*report) } else { None })
        .collect()
}

fn accepts(sent: &[Message]) -> Vec<Accept> {
    sent.iter().filter_map(|m| if let Message::Accept(accept) = m { Some(*accept) } else { None }).collect()
}

/// What a replica that has not heard of the instance answers.
fn knows_nothing(position: Position, ballot: Ballot) -> RecoverOk {
    RecoverOk {
        position,
        ballot,
        accepted: Ballot::default(),
        phase: Phase::Unknown,
        noop: false,
        buddy: 0,
        stamp: 0,
        deps: Dependencies::default(),
        initial_deps: Dependencies::default(),
    }
}

#[test]
pub(super) fn a_promise_leaves_the_ballot_of_the_acceptance_alone() {
    let mut solo = ready(3);
    let frame = solo.frame(1);
    let position = at(1, 1);
    solo.deliver(R1, accept(position, ballot(1, 1), deps([0, 0, 2]), false), Some(&frame));
    for round in 2..4 {
        solo.deliver(R2, Recover { position, ballot: ballot(round, 2) }, None);
        let reports = reports(&told(&mut solo));
        assert_eq!((reports[0].accepted, reports[0].phase), (ballot(1, 1), Phase::Accepted));
    }
}

#[test]
pub(super) fn ballots_below_the_one_joined_are_refused() {
    let mut solo = ready(3);
    let frame = solo.frame(1);
    let position = at(1, 1);
    solo.deliver(R2, Recover { position, ballot: ballot(2, 2) }, None);
    let _ = solo.settle();
    let nack = Message::from(Nack { position, ballot: ballot(2, 2) });
    solo.deliver(R1, PreAccept { position, stamp: 1, deps: deps([0, 0, 0]), buddy: 0 }, Some(&frame));
    assert_eq!(told(&mut solo), [nack]);
    solo.deliver(R1, accept(position, ballot(1, 1), deps([0, 0, 0]), false), Some(&frame));
    assert_eq!(told(&mut solo), [nack]);
    solo.deliver(R1, Recover { position, ballot: ballot(1, 1) }, None);
    assert_eq!(told(&mut solo), [nack]);
}

#[test]
pub(super) fn a_committed_instance_is_not_voted_for_again() {
    let mut solo = ready(3);
    let frame = solo.frame(1);
    let position = at(1, 1);
    let commit = Commit { position, stamp: 1, deps: deps([0, 0, 0]), noop: false };
    solo.deliver(R1, commit, Some(&frame));
    assert_eq!(solo.executed().len(), 1);
    let _ = solo.settle();
    solo.deliver(R1, PreAccept { position, stamp: 1, deps: deps([0, 0, 0]), buddy: 0 }, Some(&frame));
    assert_eq!(told(&mut solo), [commit.into()]);
    solo.deliver(R2, Recover { position, ballot: ballot(1, 2) }, None);
    assert_eq!(told(&mut solo), [commit.into()]);
    solo.deliver(R1, commit, Some(&frame));
    assert_eq!(solo.executed(), [], "a duplicate is not executed");
}

#[test]
fn a_commit_without_its_batch_asks_for_it() {
    let mut solo = ready(3);
    let position = at(1, 1);
    let commit = Commit { position, stamp: 1, deps: deps([0, 0, 0]), noop: false };
    solo.deliver(R1, commit, None);
    assert_eq!(told(&mut solo), [Fetch { row: 1, from: 1, upto: 1, memory_only: false }.into()]);
    let frame = solo.frame(1);
    solo.deliver(R1, commit, Some(&frame));
    assert_eq!(solo.executed().len(), 1);
}

#[test]
pub(super) fn an_accepted_noop_conflicts_until_it_is_committed() {
    let mut solo = ready(3);
    solo.deliver(R1, accept(at(2, 1), ballot(1, 1), deps([0, 0, 0]), true), None);
    let _ = solo.settle();
    let frame = solo.frame(1);
    solo.deliver(
        R1,
        PreAccept { position: at(1, 1), stamp: 1, deps: deps([0, 0, 0]), buddy: 0 },
        Some(&frame),
    );
    assert_eq!(told(&mut solo), [PreAcceptOk { position: at(1, 1), deps: deps([0, 0, 1]) }.into()]);
}

/// Recovers an instance of a suspected owner and returns the ballot.
fn recover(solo: &mut Solo, position: Position) -> Ballot {
    solo.step(Event::Suspect(ReplicaId(position.row)));
    for _ in 0..30 {
        solo.pass(tuning().heartbeat_interval);
        let own = solo.protocol.coordinations.get(&position).map(|own| own.ballot);
        let _ = solo.settle();
        if let Some(ballot) = own {
            return ballot;
        }
    }
    panic!("no recovery of {position:?}");
}

#[test]
pub(super) fn the_acceptance_of_the_highest_ballot_is_taken_up() {
    let mut solo = ready(3);
    let frame = solo.frame(1);
    let position = at(2, 1);
    solo.deliver(R1, accept(position, ballot(1, 1), deps([0, 1, 0]), false), Some(&frame));
    let own = recover(&mut solo, position);
    let report = RecoverOk {
        accepted: ballot(1, 2),
        phase: Phase::Accepted,
        stamp: 1,
        deps: deps([0, 2, 0]),
        ..knows_nothing(position, own)
    };
    solo.deliver(R1, report, Some(&frame));
    let accepts = accepts(&told(&mut solo));
    assert_eq!(accepts[0], accept(position, own, deps([0, 2, 0]), false));
}

#[test]
fn a_promise_that_comes_late_is_no_acceptance() {
    let mut solo = ready(3);
    let frame = solo.frame(1);
    let position = at(2, 1);
    solo.deliver(R2, PreAccept { position, stamp: 1, deps: deps([0, 0, 0]), buddy: 0 }, Some(&frame));
    let own = recover(&mut solo, position);
    solo.deliver(R1, knows_nothing(position, own), None);
    for from in [R1, R2] {
        solo.deliver(from, knows_nothing(position, own), None);
    }
    // The own acceptance arrives; it is the only one.
    let _ = solo.settle();
    assert_eq!(solo.executed(), []);
    solo.deliver(R1, AcceptOk { position, ballot: own }, None);
    assert_eq!(solo.executed().len(), 1);
}

#[test]
pub(super) fn the_vote_of_the_buddy_is_kept() {
    let mut solo = ready(3);
    let frame = solo.frame(1);
    let position = at(2, 1);
    solo.deliver(R2, PreAccept { position, stamp: 1, deps: deps([0, 0, 0]), buddy: 0 }, Some(&frame));
    let own = recover(&mut solo, position);
    solo.deliver(R1, knows_nothing(position, own), None);
    assert_eq!(accepts(&told(&mut solo))[0], accept(position, own, deps([0, 0, 0]), false));
}

#[test]
fn the_vote_of_the_third_is_not_kept() {
    let mut solo = ready(3);
    let frame = solo.frame(1);
    let position = at(2, 1);
    solo.deliver(R2, PreAccept { position, stamp: 1, deps: deps([0, 0, 0]), buddy: 1 }, Some(&frame));
    let own = recover(&mut solo, position);
    solo.deliver(R1, RecoverOk { buddy: 1, ..knows_nothing(position, own) }, None);
    assert_eq!(accepts(&told(&mut solo))[0], accept(position, own, deps([0, 0, 0]), true));
}

#[test]
fn without_the_buddy_the_owner_that_has_not_committed_decides_for_a_noop() {
    let mut solo = ready(3);
    let frame = solo.frame(1);
    let position = at(2, 1);
    solo.deliver(R2, Seen { position, stamp: 1, buddy: 1 }, Some(&frame));
    let own = recover(&mut solo, position);
    let report = RecoverOk { phase: Phase::PreAccepted, buddy: 1, stamp: 1, ..knows_nothing(position, own) };
    solo.deliver(R2, report, Some(&frame));
    assert_eq!(accepts(&told(&mut solo))[0], accept(position, own, deps([0, 0, 0]), true));
}

#[test]
fn a_vote_for_a_noop_is_nonsense() {
    let mut solo = ready(3);
    let position = at(1, 1);
    solo.deliver(R2, Recover { position, ballot: ballot(1, 2) }, None);
    let own = recover(&mut solo, position);
    let report =
        RecoverOk { phase: Phase::PreAccepted, noop: true, buddy: 2, ..knows_nothing(position, own) };
    solo.deliver(R2, report, None);
    assert_eq!(accepts(&told(&mut solo)), [], "its batch is not known");
    solo.deliver(R2, knows_nothing(position, own), None);
    assert!(accepts(&told(&mut solo))[0].noop);
}

fn no_conflicts(position: Position, ballot: Ballot) -> ValidateOk {
    ValidateOk {
        position,
        ballot,
        conflict_count: 0,
        more: false,
        conflicts: Default::default(),
        executed: Default::default(),
    }
}

/// Five replicas; this one and two that know nothing recover an instance of the last, whose vote here adds nothing.
fn recover_a_vote() -> (Solo, Position, Ballot, Frame) {
    let mut solo = ready(5);
    let frame = solo.frame(1);
    let position = at(4, 1);
    solo.deliver(R4, PreAccept { position, stamp: 1, deps: deps([0; 5]), buddy: 0 }, Some(&frame));
    let own = recover(&mut solo, position);
    for id in [R1, R2] {
        solo.deliver(id, knows_nothing(position, own), None);
    }
    (solo, position, own, frame)
}

#[test]
pub(super) fn votes_are_validated_before_they_are_accepted() {
    let (mut solo, position, own, _) = recover_a_vote();
    let sent = told(&mut solo);
    assert!(
        sent.contains(&Validate { position, ballot: own, stamp: 1, deps: deps([0; 5]) }.into()),
        "{sent:?}"
    );
    assert_eq!(accepts(&sent), []);
    for id in [R1, R2] {
        solo.deliver(id, no_conflicts(position, own), None);
    }
    assert_eq!(accepts(&told(&mut solo))[0], accept(position, own, deps([0; 5]), false));
}

#[test]
fn an_instance_that_excludes_the_fast_commit_makes_a_noop() {
    use super::super::message::Conflict;
    for (conflict, waits) in [(Conflict::new(at(3, 1), true), false), (Conflict::new(at(1, 1), false), true)]
    {
        let (mut solo, position, own, _) = recover_a_vote();
        let _ = solo.settle();
        let mut answer = ValidateOk { conflict_count: 1, ..no_conflicts(position, own) };
        answer.conflicts[0] = conflict;
        solo.deliver(R1, answer, None);
        solo.deliver(R2, no_conflicts(position, own), None);
        let sent = told(&mut solo);
        if waits {
            assert_eq!(
                (accepts(&sent), sent.contains(&Waiting { position, agreeing: 1 }.into())),
                (vec![], true)
            );
            // Another recovery has too many votes for both to have been committed fast.
            solo.deliver(R1, Waiting { position: at(1, 1), agreeing: 2 }, None);
            assert!(accepts(&told(&mut solo))[0].noop);
        } else {
            assert!(accepts(&sent)[0].noop);
        }
    }
}

#[test]
pub(super) fn conflicting_instances_are_reported_by_a_validation() {
    let mut solo = ready(5);
    let (beta, alpha) = (at(3, 1), at(4, 1));
    let frame = solo.frame(1);
    solo.deliver(
        ReplicaId(3),
        PreAccept { position: beta, stamp: 1, deps: deps([0; 5]), buddy: 0 },
        Some(&frame),
    );
    solo.deliver(R1, Recover { position: alpha, ballot: ballot(1, 1) }, None);
    let _ = solo.settle();
    let other = solo.frame(2);
    let validate = Validate { position: alpha, ballot: ballot(1, 1), stamp: 1, deps: deps([0; 5]) };
    solo.deliver(R1, validate, Some(&other));
    let sent = told(&mut solo);
    let Some(Message::ValidateOk(answer)) = sent.first() else { panic!("{sent:?}") };
    assert_eq!((answer.conflict_count, answer.conflicts[0].position()), (1, beta));
    assert!(!answer.conflicts[0].is_committed() && !answer.more);
}

/// What this replica answers to a validation of the first instance of replica 4 with the batch of `frame` and no dependencies.
fn validated(solo: &mut Solo, frame: &Frame) -> ValidateOk {
    let (position, ballot) = (at(4, 1), ballot(9, 1));
    solo.deliver(R1, Recover { position, ballot }, None);
    let _ = solo.settle();
    solo.deliver(R1, Validate { position, ballot, stamp: 1, deps: deps([0; 5]) }, Some(frame));
    let answer = told(solo).into_iter().find_map(|message| match message {
        Message::ValidateOk(answer) => Some(answer),
        _ => None,
    });
    answer.expect("it is answered")
}

#[test]
pub(super) fn what_is_executed_where_a_validation_asks_becomes_a_dependency() {
    let (mut solo, position, own, _) = recover_a_vote();
    let _ = solo.settle();
    let mut executed = [0; panch_wire::ids::REPLICAS_MAX];
    // The command leader knew its own row.
    (executed[1], executed[3], executed[4]) = (2, 7, 0);
    solo.deliver(R1, ValidateOk { executed, ..no_conflicts(position, own) }, None);
    // Not known to be committed where it was reported, but executed elsewhere: there is nothing to wait for.
    let mut other = ValidateOk { conflict_count: 1, ..no_conflicts(position, own) };
    other.conflicts[0] = super::super::message::Conflict::new(at(3, 7), false);
    solo.deliver(R2, other, None);
    assert_eq!(accepts(&told(&mut solo))[0], accept(position, own, deps([0, 2, 0, 7, 0]), false));
}

#[test]
fn what_is_executed_without_a_gap_is_reported_as_such_and_not_remembered() {
    let mut solo = ready(5);
    let frame = solo.frame(1);
    let commit = Commit { position: at(3, 1), stamp: 1, deps: deps([0; 5]), noop: false };
    solo.deliver(ReplicaId(3), commit, Some(&frame));
    let _ = solo.settle();
    let answer = validated(&mut solo, &frame);
    assert_eq!((answer.conflict_count, &answer.executed[..5]), (0, &[0, 0, 0, 1, 0][..]));
}

#[test]
fn what_is_executed_behind_a_gap_is_a_conflict_even_without_its_batch() {
    let mut solo = ready(5);
    let frame = solo.frame(1);
    let beta = at(3, 2);
    solo.deliver(
        ReplicaId(3),
        Commit { position: beta, stamp: 1, deps: deps([0; 5]), noop: false },
        Some(&frame),
    );
    let position = at(3, 1);
    let seen = Seen { position, stamp: 1, buddy: 0 };
    let pool = panch_wire::frame::FramePool::new(1 << 20);
    let other = crate::testing::batch_of(&pool, 3, 1, 1, &[crate::testing::set(b"other")]);
    solo.deliver(ReplicaId(3), seen, Some(&other));
    let _ = solo.settle();
    assert!(solo.protocol.instances[&beta].executed, "it does not interfere with what is open");
    solo.protocol.tuning.tail_size_max = 0;
    solo.protocol.trim_tail();
    assert!(solo.protocol.instances[&beta].frame.is_none(), "its batch has left memory");
    let answer = validated(&mut solo, &frame);
    let conflicts = &answer.conflicts[..usize::from(answer.conflict_count)];
    assert_eq!(conflicts, [super::super::message::Conflict::new(beta, true)]);
    assert_eq!(answer.executed[3], 0);
}

#[test]
pub(super) fn a_vote_is_remembered_although_a_snapshot_covers_it() {
    let mut solo = ready(5);
    let beta = at(3, 2);
    let frame = solo.frame(1);
    let vote = PreAccept { position: beta, stamp: 1, deps: deps([0; 5]), buddy: 0 };
    solo.deliver(ReplicaId(3), vote, Some(&frame));
    let _ = solo.settle();
    let mut covered = crate::frontier::Frontier::default();
    covered.insert(beta);
    assert!(solo.protocol.prepare_install(&covered));
    solo.step(Event::Installed { covered: covered.clone(), stamp: 1 });
    let _ = solo.settle();
    // How it was decided is not known: somebody else has to say.
    let conflict = super::super::message::Conflict::new(beta, false);
    let answer = validated(&mut solo, &frame);
    assert_eq!((answer.conflict_count, answer.conflicts[0], answer.executed[3]), (1, conflict, 0));
    solo.deliver(R1, Fetch { row: 3, from: 2, upto: 2, memory_only: false }, None);
    assert_eq!(told(&mut solo), [super::super::message::Covered { position: beta }.into()]);
    // Once everything before it is executed, that says all.
    covered.insert(at(3, 1));
    assert!(solo.protocol.prepare_install(&covered));
    solo.step(Event::Installed { covered, stamp: 1 });
    let answer = validated(&mut solo, &frame);
    assert_eq!((answer.conflict_count, answer.executed[3]), (0, 2));
}

#[test]
pub(super) fn a_recovery_accepts_the_dependencies_that_were_reported() {
    let mut solo = ready(5);
    let (gamma, position) = (at(3, 1), at(4, 1));
    let frame = solo.frame(1);
    // It depends on the instance recovered, so it excludes nothing; but the own vote depends on it.
    solo.deliver(
        ReplicaId(3),
        PreAccept { position: gamma, stamp: 1, deps: deps([0, 0, 0, 0, 1]), buddy: 0 },
        Some(&frame),
    );
    let other = solo.frame(2);
    solo.deliver(R4, PreAccept { position, stamp: 1, deps: deps([0; 5]), buddy: 0 }, Some(&other));
    let own = recover(&mut solo, position);
    let vote = RecoverOk { phase: Phase::PreAccepted, stamp: 1, ..knows_nothing(position, own) };
    solo.deliver(R1, vote, Some(&other));
    solo.deliver(R2, knows_nothing(position, own), None);
    let _ = solo.settle();
    for id in [R1, R2] {
        solo.deliver(id, no_conflicts(position, own), None);
    }
    assert_eq!(accepts(&told(&mut solo))[0], accept(position, own, deps([0; 5]), false));
}

#[test]
pub(super) fn what_one_replica_lacks_is_kept_for_it() {
    let mut solo = ready(3);
    let frame = solo.frame(1);
    let commit = Commit { position: at(1, 1), stamp: 1, deps: deps([0, 0, 0]), noop: false };
    solo.deliver(R1, commit, Some(&frame));
    solo.pass(tuning().heartbeat_interval);
    let _ = solo.settle();
    let progress = |executed: u64| {
        let mut numbers = [0; panch_wire::ids::REPLICAS_MAX];
        numbers[1] = executed;
        Progress { executed: numbers, known: numbers }
    };
    solo.deliver(R1, progress(1), None);
    let _ = solo.settle();
    let fetch = Fetch { row: 1, from: 1, upto: 1, memory_only: false };
    solo.deliver(R2, fetch, None);
    assert_eq!(told(&mut solo), [commit.into()]);
    solo.deliver(R2, progress(1), None);
    let _ = solo.settle();
    solo.deliver(R2, fetch, None);
    assert_eq!((told(&mut solo), solo.effects.snapshots.len()), (vec![], 0), "it has executed it");
    solo.protocol.forget(R2);
    solo.deliver(R2, fetch, None);
    let covered = super::super::message::Covered { position: at(1, 1) };
    assert_eq!((told(&mut solo), solo.effects.snapshots.len()), (vec![covered.into()], 1));
}

/// It is silent while it gets the snapshot, if it has lost its disk.
#[test]
fn what_follows_a_snapshot_stays_until_its_replica_had_time_to_ask_for_it() {
    let gone = tuning().recover_always_after * 16;
    let mut solo = ready(3);
    let progress = |executed: u64| {
        let mut numbers = [0; panch_wire::ids::REPLICAS_MAX];
        numbers[1] = executed;
        Progress { executed: numbers, known: numbers }
    };
    let commit = |solo: &mut Solo, number: u64| {
        let frame = solo.frame(number);
        let deps = deps([0, number - 1, 0]);
        solo.deliver(R1, Commit { position: at(1, number), stamp: number, deps, noop: false }, Some(&frame));
        solo.pass(tuning().heartbeat_interval);
        let _ = solo.settle();
        solo.deliver(R1, progress(number), None);
        let _ = solo.settle();
    };
    commit(&mut solo, 1);
    solo.deliver(R2, progress(1), None);
    let _ = solo.settle();
    assert!(!solo.protocol.instances.contains_key(&at(1, 1)), "everybody has executed it");
    solo.protocol.forget(R2);
    solo.deliver(R2, Fetch { row: 1, from: 1, upto: 1, memory_only: false }, None);
    assert_eq!(solo.effects.snapshots.len(), 1);
    solo.pass(gone);
    commit(&mut solo, 2);
    assert!(solo.protocol.instances.contains_key(&at(1, 2)), "the snapshot is on its way");
    solo.step(Event::SnapshotSent(R2, Some(panch_wire::ids::Slot(1))));
    commit(&mut solo, 3);
    assert!(solo.protocol.instances.contains_key(&at(1, 2)), "it can ask now");
    solo.pass(gone);
    commit(&mut solo, 4);
    assert!(solo.protocol.instances.contains_key(&at(1, 2)), "others have time to pass it on");
    let beats = tuning().recover_always_after.as_nanos() / tuning().heartbeat_interval.as_nanos();
    // What was looked at before it was gone has its time first.
    for number in 5..9 + 2 * beats as u64 {
        commit(&mut solo, number);
    }
    assert!(!solo.protocol.instances.contains_key(&at(1, 2)), "it is gone again");
}

#[test]
pub(super) fn a_read_waits_for_what_a_quorum_knows() {
    let mut solo = ready(3);
    solo.step(Event::Read { context: ReadContext(7), lease: false });
    let sent = told(&mut solo);
    let number =
        sent.iter().find_map(|m| if let Message::ReadRequest(m) = m { Some(m.number) } else { None });
    assert_eq!(solo.effects.reads, []);
    let mut known = [0; panch_wire::ids::REPLICAS_MAX];
    known[1] = 1;
    solo.deliver(R1, ReadReply { number: number.unwrap(), known, decided: known }, None);
    assert_eq!(solo.effects.reads, []);
    let frame = solo.frame(1);
    solo.deliver(
        R1,
        Commit { position: at(1, 1), stamp: 1, deps: deps([0, 0, 0]), noop: false },
        Some(&frame),
    );
    assert_eq!(solo.effects.reads, [(ReadContext(7), Some(panch_wire::ids::Slot(1)))]);
}

#[test]
fn an_acceptance_is_answered_after_its_record() {
    let mut solo = ready(3);
    let frame = solo.frame(1);
    let position = at(1, 1);
    let _ = (solo.sent(), solo.records());
    solo.deliver(R1, accept(position, ballot(1, 1), deps([0, 0, 0]), false), Some(&frame));
    let point = solo.effects.last_persist().0;
    let expected =
        (Some(point), crate::protocol::Dest::One(R1), AcceptOk { position, ballot: ballot(1, 1) }.into());
    assert_eq!(solo.sent(), [expected]);
    assert_eq!(solo.records().len(), 1);
    solo.deliver(R1, accept(position, ballot(1, 1), deps([0, 0, 0]), false), Some(&frame));
    assert_eq!((solo.sent(), solo.records()), (vec![expected], vec![]), "sent again, answered again");
}

#[test]
fn a_commit_of_something_else_is_contradicted() {
    let mut solo = ready(3);
    let (known, other) = (solo.frame(1), solo.frame(2));
    let commit = |number, noop: bool| Commit {
        position: at(1, number),
        stamp: u64::from(!noop),
        deps: Dependencies::default(),
        noop,
    };
    solo.deliver(R1, commit(1, false), Some(&known));
    solo.deliver(R2, commit(1, false), Some(&known));
    solo.deliver(R2, commit(1, false), None);
    solo.deliver(R1, commit(2, true), None);
    solo.deliver(R2, commit(2, true), None);
    assert_eq!(solo.effects.contradiction, None);
    for (number, noop, body) in [(1, false, Some(&other)), (1, true, None), (2, false, Some(&other))] {
        solo.deliver(R2, commit(number, noop), body);
        let found = solo.effects.contradiction.take().expect("two values are chosen");
        assert_eq!((found.position, found.from), (at(1, number), R2));
    }
}

#[test]
fn what_a_snapshot_covers_is_not_compared_with_what_was_accepted() {
    let mut solo = ready(5);
    let frame = solo.frame(1);
    // The no-op loses; the batch is committed elsewhere, and comes in a snapshot that leaves a hole before it.
    solo.deliver(R1, Seen { position: at(1, 2), stamp: 1, buddy: 0 }, Some(&frame));
    solo.deliver(R2, accept(at(1, 2), ballot(1, 2), deps([0; 5]), true), None);
    let mut covered = Frontier::default();
    covered.insert(at(1, 2));
    assert!(solo.protocol.prepare_install(&covered));
    solo.step(Event::Installed { covered, stamp: 1 });
    let commit = Commit { position: at(1, 2), stamp: 1, deps: Dependencies::default(), noop: false };
    solo.deliver(R1, commit, Some(&frame));
    assert_eq!(solo.effects.contradiction, None);
}
