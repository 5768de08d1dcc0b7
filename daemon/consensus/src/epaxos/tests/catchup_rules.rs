//! Rules of catching up and of what leaves memory, on one replica.

use panch_wire::ids::ReplicaId;

use super::super::NUMBER_SPAN_MAX;
use super::super::message::{
    Accept, Commit, Fetch, Message, Numbers, PreAccept, PreAcceptOk, Progress, ReadReply, Seen, Validate,
};
use super::{Solo, at, ballot, deps, solo};
use crate::frontier::Frontier;
use crate::protocol::{Dest, Event, Protocol, ReadContext, Tuning, Value};
use crate::testing::solo::{ME, R1, R2};
use crate::testing::tuning;

/// The number of the first read of a replica's first life.
const FIRST_READ: u64 = (1 << 32) + 1;

fn ready(replica_count: usize) -> Solo {
    let mut solo = solo(replica_count);
    let _ = solo.settle();
    solo
}

/// Everything of row 1 up to here is executed.
fn progress(executed: u64) -> Progress {
    let mut numbers = Numbers::default();
    numbers[1] = executed;
    Progress { executed: numbers, known: numbers }
}

#[test]
fn what_was_committed_while_a_snapshot_could_not_be_written_stays_until_it_is_executed() {
    let mut solo = ready(3);
    let mut covered = Frontier::default();
    covered.extend_to(2, 5);
    assert!(solo.protocol.prepare_install(&covered));
    let noop = Commit { position: at(1, 1), stamp: 0, deps: deps([0, 0, 0]), noop: true };
    solo.deliver(R1, noop, None);
    for member in [ME, R1, R2] {
        solo.deliver(member, progress(1), None);
    }
    assert_eq!(solo.executed(), [], "nothing is while the snapshot is written");
    solo.protocol.abandon_install();
    solo.deliver(R1, progress(1), None);
    assert_eq!(solo.executed(), [(at(1, 1), Value::Noop)]);
    solo.deliver(R1, progress(1), None);
    assert!(!solo.protocol.instances.contains_key(&at(1, 1)), "everybody has executed it");
}

/// Otherwise one message makes a replica fill the whole row with no-ops.
#[test]
fn numbers_far_beyond_what_is_committed_are_not_believed() {
    let far = NUMBER_SPAN_MAX + 1;
    let (position, near, deps) = (at(2, 1), deps([0, far - 1, 0]), deps([0, far, 0]));
    let (stamp, noop, ballot) = (1, false, ballot(1, 1));
    let messages: [Message; 8] = [
        Seen { position: at(1, far), stamp, buddy: 0 }.into(),
        PreAccept { position, stamp, deps, buddy: 0 }.into(),
        PreAcceptOk { position, deps }.into(),
        Accept { position, ballot, stamp, deps, noop }.into(),
        Commit { position, stamp, deps, noop }.into(),
        Validate { position, ballot, stamp, deps }.into(),
        Fetch { row: 1, from: far, upto: far, memory_only: false }.into(),
        ReadReply { number: FIRST_READ, known: deps.0, decided: deps.0 }.into(),
    ];
    let mut solo = ready(3);
    solo.step(Event::Read { context: ReadContext(7), lease: false });
    let _ = solo.settle();
    let frame = solo.frame(1);
    for message in messages {
        solo.deliver(R2, message, Some(&frame));
        assert_eq!((solo.protocol.announced[1], solo.sent()), (0, vec![]), "{message:?}");
    }
    solo.deliver(R2, Commit { position, stamp, deps: near, noop }, Some(&frame));
    assert_eq!(solo.protocol.announced[1], far - 1);
}

#[test]
fn a_replica_hears_that_it_is_far_behind_and_takes_one_step_after_the_other() {
    let mut solo = ready(3);
    let far = 3 * NUMBER_SPAN_MAX;
    solo.deliver(R1, progress(far), None);
    assert_eq!(solo.protocol.announced[1], NUMBER_SPAN_MAX);
    let frame = solo.frame(1);
    solo.deliver(R1, Commit { position: at(1, 1), stamp: 1, deps: deps([0; 3]), noop: false }, Some(&frame));
    solo.deliver(R1, progress(far), None);
    assert_eq!(solo.protocol.announced[1], NUMBER_SPAN_MAX + 1);
}

fn commit(number: u64) -> Commit {
    Commit { position: at(1, number), stamp: number, deps: deps([0; 3]), noop: false }
}

/// Commits these instances of row 1 in this order.
fn commit_all(solo: &mut Solo, from: ReplicaId, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        let frame = solo.frame(number);
        solo.deliver(from, commit(number), Some(&frame));
    }
}

/// What is asked for of row 1.
fn fetches(solo: &mut Solo) -> Vec<(u64, u64)> {
    let sent = solo.settle().into_iter();
    sent.filter_map(|(_, _, m)| if let Message::Fetch(m) = m { Some((m.from, m.upto)) } else { None })
        .collect()
}

#[test]
fn the_next_part_is_fetched_when_all_of_the_last_is_there_in_any_order_from_anybody() {
    let mut solo = ready(3);
    for member in [R1, R2] {
        solo.deliver(member, progress(20), None);
    }
    solo.pass(tuning().heartbeat_interval);
    let _ = solo.settle();
    solo.pass(tuning().heartbeat_interval * 2);
    assert_eq!(fetches(&mut solo), [(1, 6)], "a window");
    commit_all(&mut solo, R1, [6, 1, 3]);
    commit_all(&mut solo, R2, [5, 4]);
    assert_eq!(fetches(&mut solo), []);
    commit_all(&mut solo, R2, [2]);
    assert_eq!(fetches(&mut solo), [(7, 12)]);
    commit_all(&mut solo, R1, 7..=20);
    assert_eq!(fetches(&mut solo), [(13, 18), (19, 20)], "and no further than anybody has it");
}

/// A replica that has executed so many instances of row 1, most of which have left memory.
fn with_history(count: u64) -> Solo {
    let mut solo = Solo::open(3, Tuning { catchup_window: 1000, ..tuning() }, &Frontier::default(), &[]);
    let _ = solo.settle();
    commit_all(&mut solo, R1, 1..=count);
    let _ = solo.settle();
    assert_eq!(solo.executed().len() as u64, count);
    solo
}

#[test]
fn what_cannot_be_read_from_the_log_at_once_is_read_afterwards() {
    let mut solo = with_history(800);
    solo.deliver(R2, Fetch { row: 1, from: 1, upto: 700, memory_only: false }, None);
    let mut answered = 0;
    while let Some(position) = solo.effects.loads.pop() {
        assert!(solo.effects.loads.len() < 512);
        let frame = solo.frame(position.number);
        solo.step(Event::Loaded(position, Some(Value::Batch(frame))));
        answered += solo.sent().iter().filter(|sent| sent.2 == commit(position.number).into()).count();
    }
    assert_eq!(answered, 700);
}

#[test]
fn no_snapshot_is_sent_to_a_replica_that_has_executed_what_it_asked_for() {
    let mut solo = with_history(50);
    for member in [ME, R1] {
        solo.deliver(member, progress(50), None);
    }
    solo.deliver(R2, Fetch { row: 1, from: 1, upto: 1, memory_only: false }, None);
    assert_eq!(solo.effects.loads, [at(1, 1)]);
    // It has it from another, so everybody has, and nobody keeps it any more.
    solo.deliver(R2, progress(50), None);
    let _ = solo.settle();
    solo.step(Event::Loaded(at(1, 1), None));
    assert_eq!((solo.sent(), solo.effects.snapshots.len()), (vec![], 0));
}

#[test]
fn the_buddy_is_a_replica_that_keeps_up() {
    let mut solo = with_history(2000);
    let buddy = |solo: &mut Solo, counter: u64| {
        let frame = solo.frame(10_000 + counter);
        solo.step(Event::Propose(frame));
        let sent = solo.settle().into_iter();
        sent.filter(|(_, _, message)| matches!(message, Message::PreAccept(_)))
            .map(|(_, dest, _)| dest)
            .next()
    };
    let to = |id: ReplicaId| Some(Dest::One(id));
    assert_eq!(buddy(&mut solo, 1), to(R1), "nobody says to have executed anything");
    solo.deliver(R2, progress(1900), None);
    assert_eq!(buddy(&mut solo, 2), to(R2));
    solo.deliver(R1, progress(500), None);
    assert_eq!(buddy(&mut solo, 3), to(R2));
    solo.deliver(R1, progress(1000), None);
    assert_eq!(buddy(&mut solo, 4), to(R1));
    // It has lost its disk: while it may not vote it says nothing of its progress.
    solo.protocol.forget(R1);
    assert_eq!(buddy(&mut solo, 5), to(R2));
    solo.step(Event::Suspect(R2));
    assert_eq!(buddy(&mut solo, 6), to(R1), "better than one that does not answer at all");
}
