//! Rules of catching up and of what leaves memory, on one replica.

use super::super::message::{Commit, Numbers, Progress};
use super::{Solo, at, deps, solo};
use crate::frontier::Frontier;
use crate::protocol::Protocol;
use crate::testing::solo::{ME, R1, R2};

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
    assert_eq!(solo.executed(), [(at(1, 1), crate::protocol::Value::Noop)]);
    solo.deliver(R1, progress(1), None);
    assert!(!solo.protocol.instances.contains_key(&at(1, 1)), "everybody has executed it");
}
