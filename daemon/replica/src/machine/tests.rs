use panch_wire::batch::BatchWriter;
use panch_wire::command::{Command, CommandError, CommandKind, Reply, SessionHeader};
use panch_wire::exec;
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, GroupId, Incarnation, ReplicaId, Slot};
use panch_wire::reply;
use proptest::prelude::*;

use crate::ceilings::VALUE_SIZE_MAX;

use super::{Admission, HELD_MAX, Progress, Proposers, StateMachine};

fn batch(incarnation: u32, counter: u64) -> BatchId {
    BatchId { proposer: ReplicaId(1), incarnation: Incarnation(incarnation), counter }
}

#[test]
fn batches_of_a_proposer_are_applied_once_and_without_a_gap() {
    let mut proposers = Proposers::default();
    assert_eq!(proposers.admit(batch(3, 2)), Admission::Hold);
    assert_eq!(proposers.admit(batch(3, 1)), Admission::Apply);
    assert_eq!(proposers.admit(batch(3, 1)), Admission::Duplicate);
    assert_eq!(proposers.admit(batch(3, 3)), Admission::Hold);
    assert_eq!(proposers.admit(batch(3, 2 + HELD_MAX)), Admission::Gap);
    assert_eq!(proposers.admit(batch(3, 2)), Admission::Apply);
    assert_eq!(proposers.progress(ReplicaId(1)), Progress { incarnation: Incarnation(3), next: 3 });
}

#[test]
fn a_new_incarnation_starts_over_and_ends_the_old() {
    let mut proposers = Proposers::default();
    assert_eq!(proposers.admit(batch(3, 1)), Admission::Apply);
    assert_eq!(proposers.admit(batch(4, 2)), Admission::Hold);
    assert_eq!(proposers.admit(batch(3, 2)), Admission::Duplicate);
    assert_eq!(proposers.admit(batch(4, 1)), Admission::Apply);
    let other = BatchId { proposer: ReplicaId(0), ..batch(1, 1) };
    assert_eq!(proposers.admit(other), Admission::Apply, "proposers do not share counters");
}

#[test]
fn a_batch_of_nobody_is_void() {
    let nobody = BatchId { proposer: ReplicaId(200), ..batch(1, 1) };
    assert_eq!(Proposers::default().admit(nobody), Admission::Gap);
    assert_eq!(Proposers::default().admit(BatchId::default()), Admission::Duplicate);
}

fn frame(incarnation: u32, counter: u64) -> Frame {
    let mut writer = BatchWriter::new(FramePool::new(1 << 16).take(4096).unwrap(), Vec::new());
    writer.push(&Command { kind: CommandKind::Set, flags: 0, session: None, key: b"k", value: b"v" });
    writer.seal(batch(incarnation, counter)).0
}

fn counters_of_held(machine: &mut StateMachine) -> Vec<u64> {
    std::iter::from_fn(|| machine.next_held(ReplicaId(1))).map(|batch| batch.id().counter).collect()
}

#[test]
fn batches_that_come_early_are_applied_behind_the_one_they_wait_for() {
    let mut machine = StateMachine::new(0);
    for early in [3, 2, 5] {
        assert_eq!(machine.admit(&frame(1, early)), Admission::Hold);
    }
    assert_eq!(machine.admit(&frame(1, 3)), Admission::Duplicate);
    assert_eq!(counters_of_held(&mut machine), [0; 0]);
    assert_eq!(machine.admit(&frame(1, 1)), Admission::Apply);
    assert_eq!(counters_of_held(&mut machine), [2, 3]);
    assert_eq!(machine.admit(&frame(1, 2)), Admission::Duplicate);
    assert_eq!(machine.admit(&frame(1, 4)), Admission::Apply);
    assert_eq!(counters_of_held(&mut machine), [5]);
}

#[test]
fn a_new_incarnation_ends_the_wait_of_the_old_ones_batches() {
    let mut machine = StateMachine::new(0);
    assert_eq!(machine.admit(&frame(1, 2)), Admission::Hold);
    assert_eq!(machine.admit(&frame(2, 1)), Admission::Apply);
    assert_eq!(counters_of_held(&mut machine), [0; 0]);
}

#[test]
fn the_next_counter_tells_what_is_settled() {
    let mut machine = StateMachine::new(0);
    assert_eq!(machine.admit(&frame(3, 1)), Admission::Apply);
    let next = |incarnation| machine.next_counter(ReplicaId(1), Incarnation(incarnation));
    assert_eq!((next(2), next(3), next(4)), (u64::MAX, 2, 1));
}

fn apply(machine: &mut StateMachine, kind: CommandKind, header: Option<(u64, u64)>, value: &[u8]) -> String {
    let session = header.map(|(session, number)| SessionHeader { session, number, acked_below: 1 });
    let command = Command { kind, flags: 0, session, key: b"k", value };
    format!("{:?}", machine.apply(1, &command, &mut Vec::new()))
}

#[test]
fn a_command_of_a_session_takes_effect_once() {
    let mut machine = StateMachine::new(0);
    let one = 1i64.to_le_bytes();
    let unknown = format!("{:?}", Reply::Error(CommandError::UnknownSession));
    assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 1)), &one), unknown);
    assert_eq!(apply(&mut machine, CommandKind::OpenSession, Some((7, 1)), b""), "Int(1)");
    for _ in 0..3 {
        assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 1)), &one), "Int(1)");
    }
    assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 2)), &one), "Int(2)");
    assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 1)), &one), "Int(1)");
    assert_eq!(apply(&mut machine, CommandKind::IncrBy, None, &one), "Int(3)");
}

#[test]
fn a_command_of_a_session_that_holds_several_takes_effect_once_and_answers_alike() {
    let mut machine = StateMachine::new(0);
    let mut value = Vec::new();
    for (kind, by) in [(CommandKind::IncrBy, &1i64.to_le_bytes()[..]), (CommandKind::Get, b"")] {
        exec::push_command(&Command { kind, flags: 0, session: None, key: b"k", value: by }, &mut value);
    }
    let mut replies = Vec::new();
    reply::push_item(&Reply::Int(1), &mut replies);
    reply::push_item(&Reply::Bytes(b"1"), &mut replies);
    let first = format!("{:?}", Reply::Replies(&replies));
    apply(&mut machine, CommandKind::OpenSession, Some((7, 1)), b"");
    for _ in 0..2 {
        assert_eq!(apply(&mut machine, CommandKind::Exec, Some((7, 1)), &value), first);
    }
    // That a condition did not hold is remembered, too.
    let mut value = Vec::new();
    exec::Condition { key: b"k", hash: None }.push(&mut value);
    assert_eq!(apply(&mut machine, CommandKind::Exec, Some((7, 2)), &value), "Nil");
    assert_eq!(apply(&mut machine, CommandKind::GetDel, None, b""), "Bytes([49])");
    assert_eq!(apply(&mut machine, CommandKind::Exec, Some((7, 2)), &value), "Nil");
    assert_eq!(apply(&mut machine, CommandKind::Exec, Some((7, 3)), &value), "Replies([])");
}

/// Its client opened it again under the same name; a copy of an old command, of a node that was cut off with it, is decided now.
#[test]
fn a_command_takes_effect_once_though_its_session_was_opened_again() {
    let mut machine = StateMachine::new(0);
    let one = 1i64.to_le_bytes();
    let unknown = format!("{:?}", Reply::Error(CommandError::UnknownSession));
    apply(&mut machine, CommandKind::OpenSession, Some((7, 1)), b"");
    assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 5)), &one), "Int(1)");
    assert_eq!(apply(&mut machine, CommandKind::ExpireSessions, None, &2u64.to_le_bytes()), "Int(1)");
    assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 5)), &one), unknown);
    assert_eq!(apply(&mut machine, CommandKind::OpenSession, Some((7, 1)), b""), "Int(1099511627777)");
    assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 5)), &one), unknown);
    assert_eq!(machine.kv().value(b"k"), Some(&b"1"[..]));
    assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 1099511627777)), &one), "Int(2)");
}

/// What a request may bring along is limited by the configuration; what was decided is not.
#[test]
fn values_longer_than_any_configured_limit_are_executed_and_restored() {
    let mut machine = StateMachine::new(0);
    let half = vec![7; VALUE_SIZE_MAX / 2];
    assert_eq!(apply(&mut machine, CommandKind::Set, None, &half), "Ok");
    let twice = format!("Int({})", 2 * half.len());
    assert_eq!(apply(&mut machine, CommandKind::Append, None, &half), twice);
    let too_large = format!("{:?}", Reply::Error(CommandError::TooLarge));
    assert_eq!(apply(&mut machine, CommandKind::Append, None, b"two"), too_large, "the ceiling is fixed");
    machine.begin_snapshot(GroupId(1), &Slot(1).into(), 1);
    let mut reader = crate::snapshot::SnapshotReader::new(9);
    let (mut chunk, mut done) = (Vec::new(), false);
    while !done {
        chunk.clear();
        done = machine.snapshot_chunk(&mut chunk, 1 << 20);
        reader.feed(&chunk).unwrap();
    }
    assert_eq!(reader.finish().unwrap().machine.digest(), machine.digest());
}

#[test]
fn a_read_of_a_session_is_executed_each_time() {
    let mut machine = StateMachine::new(0);
    apply(&mut machine, CommandKind::OpenSession, Some((7, 1)), b"");
    apply(&mut machine, CommandKind::Set, None, b"a");
    assert_eq!(apply(&mut machine, CommandKind::Get, Some((7, 1)), b""), "Bytes([97])");
    apply(&mut machine, CommandKind::Set, None, b"b");
    assert_eq!(apply(&mut machine, CommandKind::Get, Some((7, 1)), b""), "Bytes([98])");
    assert_eq!(apply(&mut machine, CommandKind::Set, Some((7, 1)), b"c"), "Ok", "a read uses up no number");
}

#[test]
fn sessions_are_opened_closed_and_expired_by_commands() {
    let mut machine = StateMachine::new(0);
    let malformed = format!("{:?}", Reply::Error(CommandError::Malformed));
    assert_eq!(apply(&mut machine, CommandKind::OpenSession, None, b""), malformed);
    assert_eq!(apply(&mut machine, CommandKind::ExpireSessions, None, b"2"), malformed);
    apply(&mut machine, CommandKind::OpenSession, Some((7, 1)), b"");
    apply(&mut machine, CommandKind::OpenSession, Some((8, 1)), b"");
    assert_eq!(apply(&mut machine, CommandKind::CloseSession, Some((7, 1)), b""), "Ok");
    assert_eq!(apply(&mut machine, CommandKind::ExpireSessions, None, &2u64.to_le_bytes()), "Int(1)");
    assert_eq!((machine.sessions().known_count(), machine.sessions().generation()), (0, 1));
}

#[test]
fn the_digest_covers_every_part_of_the_state() {
    let mut machine = StateMachine::new(0);
    let mut digests = vec![machine.digest()];
    apply(&mut machine, CommandKind::Set, None, b"v");
    digests.push(machine.digest());
    apply(&mut machine, CommandKind::OpenSession, Some((7, 1)), b"");
    digests.push(machine.digest());
    apply(&mut machine, CommandKind::Set, Some((7, 1)), b"v");
    digests.push(machine.digest());
    apply(&mut machine, CommandKind::ExpireSessions, None, &2u64.to_le_bytes());
    digests.push(machine.digest());
    machine.admit(&frame(1, 1));
    digests.push(machine.digest());
    machine.admit(&frame(1, 3));
    digests.push(machine.digest());
    let count = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), count);
}

#[test]
#[should_panic(expected = "one snapshot at a time")]
fn two_snapshots_at_once_are_refused() {
    let mut machine = StateMachine::new(0);
    machine.begin_snapshot(GroupId(0), &Slot(1).into(), 1);
    machine.begin_snapshot(GroupId(0), &Slot(1).into(), 1);
}

proptest! {
    /// Whatever is decided, in whatever order and however often: 1, 2, 3, .. of each incarnation, which only rises.
    #[test]
    fn what_is_applied_is_a_prefix(decided in prop::collection::vec((0u32..3, 1u64..6), 0..100)) {
        let mut proposers = Proposers::default();
        let mut last = (0, 0);
        for (incarnation, counter) in decided {
            if proposers.admit(batch(incarnation, counter)) == Admission::Apply {
                let follows = if incarnation == last.0 { counter == last.1 + 1 } else { incarnation > last.0 && counter == 1 };
                prop_assert!(follows, "{:?} after {:?}", (incarnation, counter), last);
                last = (incarnation, counter);
            }
        }
    }
}

#[cfg(feature = "mutants")]
mod removed {
    use super::*;
    use panch_wire::rule::{Rule, remove};

    /// Runs `test` with `rule` removed.
    fn without(rule: Rule, test: impl FnOnce()) {
        remove(Some(rule));
        test();
        remove(None);
    }

    #[test]
    fn without_session_dedupe_a_command_takes_effect_again() {
        without(Rule::SessionDedupe, || {
            let mut machine = StateMachine::new(0);
            let one = 1i64.to_le_bytes();
            apply(&mut machine, CommandKind::OpenSession, Some((7, 1)), b"");
            assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 1)), &one), "Int(1)");
            assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 1)), &one), "Int(2)");
        });
    }

    #[test]
    fn without_generations_a_command_of_a_session_that_expired_takes_effect_again() {
        without(Rule::SessionGeneration, || {
            let mut machine = StateMachine::new(0);
            let one = 1i64.to_le_bytes();
            apply(&mut machine, CommandKind::OpenSession, Some((7, 1)), b"");
            assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 1)), &one), "Int(1)");
            apply(&mut machine, CommandKind::ExpireSessions, None, &2u64.to_le_bytes());
            apply(&mut machine, CommandKind::OpenSession, Some((7, 1)), b"");
            assert_eq!(apply(&mut machine, CommandKind::IncrBy, Some((7, 1)), &one), "Int(2)");
        });
    }

    #[test]
    fn without_batch_order_every_batch_is_applied() {
        without(Rule::BatchInOrder, || {
            let mut proposers = Proposers::default();
            for counter in [1, 1, 5, 2] {
                assert_eq!(proposers.admit(batch(1, counter)), Admission::Apply);
            }
        });
    }

    #[test]
    fn without_sessions_in_the_snapshot_it_is_still_readable() {
        without(Rule::SessionsInSnapshot, || {
            let mut machine = StateMachine::new(0);
            apply(&mut machine, CommandKind::OpenSession, Some((7, 1)), b"");
            machine.begin_snapshot(GroupId(1), &Slot(1).into(), 1);
            let mut bytes = Vec::new();
            while !machine.snapshot_chunk(&mut bytes, 1 << 16) {}
            let mut reader = crate::snapshot::SnapshotReader::new(0);
            reader.feed(&bytes).unwrap();
            let restored = reader.finish().unwrap().machine;
            assert_eq!(restored.sessions().known_count(), 0);
        });
    }
}
