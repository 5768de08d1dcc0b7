//! Rules of catching up and of what leaves memory, on one replica.

use super::super::NUMBER_SPAN_MAX;
use super::super::message::{
    Accept, Commit, Fetch, Message, Numbers, PreAccept, PreAcceptOk, Progress, ReadReply, Seen, Validate,
};
use super::{Solo, at, ballot, deps, solo};
use crate::frontier::Frontier;
use crate::protocol::{Event, Protocol, ReadContext, Value};
use crate::testing::solo::{ME, R1, R2};

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
        ReadReply { number: FIRST_READ, known: deps.0 }.into(),
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
