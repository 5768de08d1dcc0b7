//! The exact effects of single events: promises that mix, slots without an owner, who is asked for what is missing.

use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::time::Duration;

use super::super::message::*;
use super::super::round::Round;
use super::super::slots::SPAN_MAX;
use super::solo::{R1, R2, R3, Solo, term, votes};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Protocol, Value};
use crate::testing::{TIMEOUT, tuning};

fn promise(solo: &mut Solo, from: ReplicaId, term: Ballot, commit: u64, vote_count: u64) {
    let promise = Promise { term, from_slot: Slot(1), commit: Slot(commit), vote_count };
    solo.hear(from, promise, None);
}

#[test]
pub(super) fn votes_that_an_earlier_answer_reported_do_not_make_up_for_those_of_a_later_one() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let mine = solo.candidate();
    solo.settle();
    let round = Round::classic(term(0, 1));
    // Its first answer reports slots 1 and 2; then slot 1 is chosen there, and it answers the same Prepare again.
    promise(&mut solo, R1, mine, 0, 2);
    solo.report(R1, mine, 1, round, &frame);
    promise(&mut solo, R1, mine, 1, 1);
    assert_eq!(solo.protocol.counters().terms, 0, "the vote in slot 2 is on its way");
    solo.report(R1, mine, 2, round, &frame);
    assert_eq!(solo.protocol.counters().terms, 1);
}

#[test]
fn a_promise_stays_complete_when_an_older_answer_arrives_late() {
    let mut solo = Solo::new(5);
    let (x, y) = (solo.frame(1), solo.frame(2));
    let mine = solo.candidate();
    solo.settle();
    let round = Round::fast(term(0, 1));
    promise(&mut solo, R1, mine, 2, 0);
    promise(&mut solo, R1, mine, 0, 1);
    solo.report(R1, mine, 1, round, &x);
    promise(&mut solo, R2, mine, 0, 1);
    solo.report(R2, mine, 2, round, &y);
    assert_eq!(solo.protocol.counters().terms, 1);
    let told = solo.told();
    assert!(
        !told.iter().any(|(_, message, _)| matches!(message, Message::Accept(_))),
        "replica 1 knows what is chosen in both slots"
    );
}

#[test]
fn a_quorum_among_reported_votes_is_executed_without_asking_for_the_bytes() {
    let mut solo = Solo::new(5);
    let frame = solo.frame(1);
    let mine = solo.candidate();
    solo.settle();
    let round = Round::classic(term(0, 1));
    for from in [R3, R2, R1] {
        solo.report(from, mine, 1, round, &frame);
    }
    promise(&mut solo, R1, mine, 0, 1);
    promise(&mut solo, R2, mine, 0, 1);
    assert_eq!(solo.chosen(), [(1, Value::Batch(frame))]);
    assert!(!solo.told().iter().any(|(_, message, _)| matches!(message, Message::PayloadRequest(_))));
}

/// Coordinator of three that was told by replica 1 that two slots are chosen; from then on only `alive` answers. Whether it
/// opens another term within that time.
fn opens_another_term(alive: ReplicaId, commit: u64, time: Duration) -> bool {
    let mut solo = Solo::new(3);
    let mine = solo.candidate();
    solo.settle();
    promise(&mut solo, R1, mine, 2, 0);
    assert_eq!(solo.protocol.counters().terms, 1);
    let end = solo.now + time;
    while solo.now < end {
        solo.pass(Duration::from_millis(5));
        let prepares = |message: &Message| matches!(message, Message::Prepare(p) if p.term > mine);
        if solo.told().iter().any(|(_, message, _)| prepares(message)) {
            return true;
        }
        let reply = HeartbeatReply { term: mine, commit: Slot(commit), last: Slot(commit), votes: true };
        solo.hear(alive, reply, None);
    }
    assert_eq!(solo.protocol.counters().step_downs, 0);
    false
}

#[test]
fn slots_that_nobody_left_knows_to_be_chosen_get_another_first_phase() {
    assert!(opens_another_term(R2, 0, 2 * TIMEOUT), "who knew is gone");
    assert!(!opens_another_term(R1, 2, 2 * TIMEOUT), "who knows can still tell");
}

#[test]
fn who_speaks_last_is_asked_for_what_is_missing() {
    let mut solo = Solo::new(3);
    for (index, coordinator) in [R1, R2].into_iter().enumerate() {
        let term = term(1 + index as u64, coordinator.0);
        solo.hear(coordinator, Heartbeat { term, commit: Slot(5), plan: None }, None);
        solo.told();
        solo.pass(2 * tuning().slow_after);
        let told = solo.told();
        let asks = |message: &Message| matches!(message, Message::CatchupRequest(_));
        let asked: Vec<_> = told.iter().filter(|(_, m, _)| asks(m)).map(|(dest, _, _)| *dest).collect();
        assert_eq!(asked, [Dest::One(coordinator)]);
    }
}

#[test]
fn after_a_silence_whoever_knows_more_is_asked() {
    let mut solo = Solo::new(3);
    solo.hear(R1, Heartbeat { term: term(1, 1), commit: Slot(5), plan: None }, None);
    solo.pass(TIMEOUT);
    solo.told();
    solo.hear(R2, Heartbeat { term: term(2, 2), commit: Slot(3), plan: None }, None);
    solo.pass(2 * tuning().slow_after);
    let asks = |(dest, message, _): &(Dest, Message, _)| {
        *dest == Dest::One(R2) && matches!(message, Message::CatchupRequest(_))
    };
    assert!(solo.told().iter().any(asks));
}

fn grants(solo: &mut Solo, commit: u64) -> bool {
    solo.sent();
    solo.hear(R2, PreVote { term: term(9, 2), commit: Slot(commit) }, None);
    let reply = solo.sent().into_iter().find_map(|(_, _, message)| match message {
        Message::PreVoteReply(reply) => Some(reply.granted),
        _ => None,
    });
    reply.expect("a pre-vote is answered")
}

#[test]
fn deep_pipelines_do_not_keep_a_candidate_away_that_knows_as_much_as_the_voter() {
    let mut solo = Solo::restarted(3, Slot(3), &[]);
    solo.hear(R1, votes(Round::fast(term(1, 1)), SPAN_MAX / 4 + 10, None), None);
    assert!(grants(&mut solo, 3));
    assert!(!grants(&mut solo, 2), "it may have no room for every slot that is open here");
}

#[test]
fn a_read_does_not_wait_for_a_vote_that_was_lost() {
    let mut solo = Solo::new(3);
    solo.read(1);
    let number = solo.sent().into_iter().find_map(|(_, _, message)| match message {
        Message::ReadRequest(request) => Some(request.number),
        _ => None,
    });
    solo.hear(R1, ReadReply { number: number.unwrap(), last: Slot(7) }, None);
    solo.sent();
    // The coordinator hears of the slot, and decides it.
    solo.hear(R1, Heartbeat { term: term(1, 1), commit: Slot(0), plan: None }, None);
    let reply = HeartbeatReply { term: term(1, 1), commit: Slot(0), last: Slot(7), votes: true };
    assert!(solo.sent().iter().any(|(_, _, message)| *message == Message::HeartbeatReply(reply)));
}
