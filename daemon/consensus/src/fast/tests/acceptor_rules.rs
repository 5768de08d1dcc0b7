//! The exact effects of single events: acceptor, learner, restart.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};

use super::super::message::*;
use super::super::round::{Round, ValueName};
use super::batch_with;
use super::solo::{
    R1, R2, R3, Solo, claim, free_for_all, hint, promise_record, stripes, term, vote_record, votes,
};
use crate::protocol::{Dest, Protocol, ReadContext, Value};

#[test]
pub(super) fn a_fast_vote_leaves_after_its_record() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let plan = stripes(term(1, 1), 3);
    let round = Round::fast(plan.term);
    solo.propose(R1, plan, 1, &frame);
    assert_eq!(solo.effects.records[0].1.as_ref(), Some(&frame));
    assert_eq!(solo.records(), [vote_record(round, 1, 0)]);
    let expected = Votes { step: 3, ..votes(round, 1, Some(&frame)) };
    assert_eq!(solo.released()[0], claim(1, Dest::All, expected));
}

#[test]
pub(super) fn one_vote_per_slot_and_round() {
    let mut solo = Solo::new(3);
    let frames = [solo.frame(1), solo.frame(2)];
    let plan = stripes(term(1, 1), 3);
    solo.propose(R1, plan, 1, &frames[0]);
    solo.records();
    solo.sent();
    solo.propose(R1, plan, 1, &frames[1]);
    assert_eq!(solo.records(), []);
    let again = Votes { step: 3, ..votes(Round::fast(plan.term), 1, Some(&frames[0])) };
    assert_eq!(solo.sent()[0].2, Message::Votes(again), "it repeats the vote it gave");
}

#[test]
pub(super) fn t_f3_a_restart_does_not_vote_a_second_time() {
    let frames = [Solo::new(3).frame(1), Solo::new(3).frame(2)];
    let plan = stripes(term(1, 1), 3);
    let round = Round::fast(plan.term);
    let mut solo = Solo::restarted(3, Slot(0), &[(vote_record(round, 1, 0), Some(frames[0].clone()))]);
    solo.hear(R1, Any { plan }, None);
    solo.propose(R1, plan, 1, &frames[1]);
    assert_eq!(solo.records(), []);
    let voted = |(_, _, message)| match message {
        Message::Votes(votes) => Some(votes.entries[0].name),
        _ => None,
    };
    assert_eq!(solo.sent().into_iter().find_map(voted), Some(ValueName::of(Some(&frames[0]))));
}

#[test]
fn no_fast_vote_without_a_plan_below_it_or_in_classic_mode() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let plan = Plan { from_slot: Slot(5), ..stripes(term(1, 1), 3) };
    solo.propose(R1, plan, 4, &frame);
    assert_eq!(solo.records(), []);
    let classic = Plan { term: term(2, 1), mode: Mode::Classic, ..plan };
    solo.hear(R1, Any { plan: classic }, None);
    solo.propose(R1, Plan { mode: Mode::FreeForAll, ..classic }, 9, &frame);
    assert_eq!(solo.records(), []);
}

#[test]
fn promises_a_higher_term_after_writing_it_down_and_reports_its_votes() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let plan = stripes(term(1, 1), 3);
    solo.propose(R1, plan, 4, &frame);
    solo.records();
    solo.sent();
    let new = term(2, 2);
    solo.hear(R2, Prepare { term: new, from_slot: Slot(1) }, None);
    assert_eq!(solo.records(), [promise_record(new, 0)]);
    let promise = Promise { term: new, from_slot: Slot(1), commit: Slot(0), vote_count: 1 };
    let report = PromiseVote { term: new, slot: Slot(4), round: Round::fast(plan.term) };
    assert_eq!(solo.effects.outgoing[1].body.as_ref(), Some(&frame));
    assert_eq!(solo.sent(), [claim(2, Dest::One(R2), promise), claim(2, Dest::One(R2), report)]);
}

#[test]
pub(super) fn a_promise_is_written_down_before_it_leaves() {
    let mut solo = Solo::new(3);
    let new = term(2, 2);
    solo.hear(R2, Prepare { term: new, from_slot: Slot(1) }, None);
    let promise = Promise { term: new, from_slot: Slot(1), commit: Slot(0), vote_count: 0 };
    assert_eq!(solo.released(), [claim(1, Dest::One(R2), promise)]);
    solo.hear(R2, SlotPrepare { term: new, slot: Slot(3) }, None);
    let promise = SlotPromise { term: new, slot: Slot(3), voted: None };
    assert_eq!(solo.released(), [claim(2, Dest::One(R2), promise)]);
}

#[test]
pub(super) fn a_term_is_written_down_before_it_is_used() {
    let mut solo = Solo::new(3);
    let mine = solo.candidate();
    assert_eq!(solo.records(), [promise_record(mine, 0)]);
    assert_eq!(solo.released(), [claim(1, Dest::All, Prepare { term: mine, from_slot: Slot(1) })]);
}

#[test]
pub(super) fn messages_of_an_older_term_are_refused_with_the_newer() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let (old, new) = (term(4, 1), term(5, 2));
    solo.hear(R2, Prepare { term: new, from_slot: Slot(1) }, None);
    solo.records();
    solo.sent();
    let plan = stripes(old, 3);
    solo.propose(R1, plan, 1, &frame);
    solo.hear(R1, Skip { plan, first: Slot(1), count: 3 }, None);
    solo.hear(R1, Any { plan }, None);
    solo.hear(R1, Accept { term: old, slot: Slot(1) }, Some(&frame));
    solo.hear(R1, SlotPrepare { term: old, slot: Slot(1) }, None);
    solo.hear(R1, Prepare { term: old, from_slot: Slot(1) }, None);
    solo.hear(R1, Heartbeat { term: old, commit: Slot(0), plan: Some(plan) }, None);
    assert_eq!(solo.sent(), vec![hint(R1, Refused { term: old, promised: new }); 7]);
    assert_eq!(solo.records(), []);
}

#[test]
pub(super) fn t_f9_a_proposal_of_an_old_term_after_a_newer_promise() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let plan = stripes(term(1, 1), 3);
    solo.hear(R1, Any { plan }, None);
    solo.hear(R2, Prepare { term: term(2, 2), from_slot: Slot(1) }, None);
    solo.records();
    solo.propose(R1, plan, 1, &frame);
    assert_eq!(solo.records(), [], "the promise said that slot 1 is empty here");
}

#[test]
pub(super) fn t_f11_no_fast_vote_after_a_promise_for_the_classic_round() {
    let frame = Solo::new(3).frame(1);
    let plan = stripes(term(1, 1), 3);
    let prepared = |solo: &mut Solo| solo.hear(R1, SlotPrepare { term: plan.term, slot: Slot(1) }, None);
    let accepted = |solo: &mut Solo| solo.hear(R1, Accept { term: plan.term, slot: Slot(1) }, None);
    for before in [&prepared as &dyn Fn(&mut Solo), &accepted] {
        let mut solo = Solo::new(3);
        solo.hear(R1, Any { plan }, None);
        before(&mut solo);
        assert_eq!(solo.records().len(), 1);
        solo.propose(R1, plan, 1, &frame);
        assert_eq!(solo.records(), []);
        // Elsewhere fast voting goes on.
        solo.propose(R1, plan, 4, &frame);
        assert_eq!(solo.records().len(), 1);
    }
    let round = Round::classic(plan.term);
    let record = Record::SlotPromise(SlotRecord { round, slot: Slot(1), commit: Slot(0) });
    let mut solo = Solo::restarted(3, Slot(0), &[(record, None)]);
    solo.propose(R1, plan, 1, &frame);
    assert_eq!(solo.records(), [], "not after a restart either");
}

#[test]
pub(super) fn a_fast_round_needs_a_fast_quorum() {
    let mut solo = Solo::new(5);
    let frame = solo.frame(1);
    let round = Round::fast(term(1, 1));
    solo.propose(R1, stripes(round.term, 5), 1, &frame);
    for peer in [R1, R2, R3] {
        solo.hear(peer, votes(round, 1, Some(&frame)), None);
    }
    assert_eq!(solo.chosen(), []);
    // The own vote is the fourth, once it is durable.
    solo.settle();
    assert_eq!(solo.chosen(), [(1, Value::Batch(frame))]);
    assert_eq!(solo.protocol.counters().fast_chosen, 1);
}

#[test]
pub(super) fn votes_count_once_per_member() {
    let mut solo = Solo::new(3);
    let round = Round::fast(term(1, 1));
    for _ in 0..3 {
        solo.hear(R1, votes(round, 1, None), None);
    }
    assert_eq!(solo.chosen(), []);
    solo.hear(R2, votes(round, 1, None), None);
    solo.hear(ReplicaId(7), votes(round, 1, None), None);
    assert_eq!(solo.chosen(), [], "replica 7 is no member");
}

#[test]
pub(super) fn votes_of_different_rounds_do_not_add_up() {
    let mut solo = Solo::new(5);
    solo.hear(R1, votes(Round::classic(term(1, 1)), 1, None), None);
    solo.hear(R2, votes(Round::classic(term(2, 2)), 1, None), None);
    solo.hear(R3, votes(Round::classic(term(2, 2)), 1, None), None);
    assert_eq!(solo.chosen(), []);
    solo.hear(R1, votes(Round::classic(term(2, 2)), 1, None), None);
    assert_eq!(solo.chosen(), [(1, Value::Noop)]);
}

#[test]
pub(super) fn two_batches_of_one_name_are_two_values() {
    let mut solo = Solo::new(3);
    let frames = [b"a", b"b"].map(|value| batch_with(&solo.pool, 1, value));
    let round = Round::classic(term(1, 1));
    solo.hear(R1, Accept { term: round.term, slot: Slot(1) }, Some(&frames[0]));
    solo.hear(R1, votes(round, 1, Some(&frames[0])), None);
    solo.hear(R2, votes(round, 1, Some(&frames[1])), None);
    assert_eq!(solo.chosen(), []);
}

#[test]
pub(super) fn t_f10_a_value_chosen_by_name_is_fetched_before_it_is_executed() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let round = Round::classic(term(1, 1));
    solo.hear(R1, votes(round, 1, Some(&frame)), None);
    solo.hear(R2, votes(round, 1, Some(&frame)), None);
    assert_eq!(solo.chosen(), []);
    let request = PayloadRequest { slot: Slot(1), name: ValueName::of(Some(&frame)) };
    assert_eq!(solo.sent(), [hint(R1, request)]);
    // The one that was asked is dead: the next is asked.
    solo.pass(crate::testing::tuning().slow_after);
    assert_eq!(solo.sent(), [hint(R2, request)]);
    solo.hear(R2, PayloadReply { slot: Slot(1) }, Some(&solo.frame(2)));
    assert_eq!(solo.chosen(), [], "that is another batch");
    solo.hear(R2, PayloadReply { slot: Slot(1) }, Some(&frame));
    assert_eq!(solo.chosen(), [(1, Value::Batch(frame))]);
}

#[test]
pub(super) fn a_value_chosen_without_the_own_vote_is_written_down() {
    let mut solo = Solo::new(3);
    let frames = [solo.frame(1), solo.frame(2)];
    let plan = stripes(term(1, 1), 3);
    let round = Round::fast(plan.term);
    solo.propose(R1, plan, 1, &frames[0]);
    solo.hear(R2, Decided { slot: Slot(1), commit: Slot(1) }, Some(&frames[1]));
    assert_eq!(solo.chosen(), [(1, Value::Batch(frames[1].clone()))]);
    solo.hear(R1, SlotPrepare { term: plan.term, slot: Slot(2) }, None);
    // After a restart the log must say what was chosen, not what was voted for.
    let records: Vec<_> = solo.effects.records.drain(..).collect();
    let commit = records.last().map(|(record, _)| record.commit());
    assert_eq!((records[0].0, commit), (vote_record(round, 1, 0), Some(Slot(1))));
    let mut solo = Solo::restarted(3, Slot(0), &records);
    assert_eq!(solo.chosen(), [(1, Value::Batch(frames[1].clone()))]);
}

/// The vote behind it may have been lost with a disk: see `rejoin`.
#[test]
fn a_promise_after_a_restart_says_what_the_log_calls_chosen() {
    let frame = Solo::new(3).frame(1);
    let record = Record::Learned(LearnedRecord { slot: Slot(1), commit: Slot(0) });
    let mut solo = Solo::restarted(3, Slot(0), &[(record, Some(frame.clone()))]);
    assert_eq!(solo.chosen(), [(1, Value::Batch(frame))]);
    solo.hear(R1, Prepare { term: term(2, 1), from_slot: Slot(1) }, None);
    let commits = solo.sent().into_iter().filter_map(|(_, _, message)| match message {
        Message::Promise(promise) => Some(promise.commit),
        _ => None,
    });
    assert_eq!(commits.collect::<Vec<_>>(), [Slot(1)]);
}

#[test]
pub(super) fn t_f6_a_repeated_proposal_gets_no_second_slot_while_its_first_is_open() {
    let mut solo = Solo::new(3);
    let frames = [solo.frame(1), solo.frame(2)];
    let plan = free_for_all(term(1, 1));
    let round = Round::fast(plan.term);
    solo.propose(R1, plan, 0, &frames[0]);
    assert_eq!(solo.records(), [vote_record(round, 1, 0)]);
    solo.sent();
    solo.hear(R1, Propose { plan, slot: None, attempt: 2 }, Some(&frames[0]));
    assert_eq!(solo.records(), []);
    assert_eq!(solo.sent()[0].2, Message::Votes(votes(round, 1, Some(&frames[0]))));
    // Slot 1 turns out to hold something else: now it may have another.
    solo.hear(R2, Decided { slot: Slot(1), commit: Slot(1) }, Some(&frames[1]));
    solo.records();
    solo.hear(R1, Propose { plan, slot: None, attempt: 3 }, Some(&frames[0]));
    assert_eq!(solo.records(), [vote_record(round, 2, 1)]);
    // What was chosen is not placed again; the proposer is told.
    solo.sent();
    solo.hear(R1, Propose { plan, slot: None, attempt: 2 }, Some(&frames[1]));
    assert_eq!(solo.records(), []);
    assert_eq!(solo.sent(), [hint(R1, Decided { slot: Slot(1), commit: Slot(1) })]);
}

#[test]
pub(super) fn a_read_waits_for_what_a_quorum_may_have_voted_in() {
    let mut solo = Solo::new(3);
    solo.read(7);
    assert_eq!(solo.effects.reads, []);
    let Message::ReadRequest(request) = solo.sent()[0].2 else { panic!("a request to the others") };
    // Another read arrives while the request is on its way: it needs one of its own.
    solo.read(8);
    assert_eq!(solo.sent(), []);
    solo.hear(R2, ReadReply { number: request.number - 1, last: Slot(3) }, None);
    assert_eq!(solo.effects.reads, []);
    solo.hear(R2, ReadReply { number: request.number, last: Slot(9) }, None);
    assert_eq!(solo.effects.reads, [(ReadContext(7), Some(Slot(9)))]);
    assert!(matches!(solo.sent()[0].2, Message::ReadRequest(next) if next.number == request.number + 1));
}

#[test]
fn votes_of_a_turn_travel_together_and_skips_as_ranges() {
    let mut solo = Solo::new(3);
    let plan = stripes(term(1, 1), 3);
    let step = |solo: &mut Solo, message: Message, body| {
        solo.step(crate::protocol::Event::Deliver { from: R1, message, body });
    };
    step(&mut solo, Skip { plan, first: Slot(1), count: 5 }.into(), None);
    for slot in [16, 19] {
        let frame = solo.frame(slot);
        step(&mut solo, Propose { plan, slot: Some(Slot(slot)), attempt: 1 }.into(), Some(frame));
    }
    solo.end_turn();
    let sent = solo.sent();
    let Message::Votes(votes) = sent.iter().find(|sent| matches!(sent.2, Message::Votes(_))).unwrap().2
    else {
        panic!("votes")
    };
    assert_eq!((votes.count, votes.step, votes.entries[0].count), (3, 3, 5));
    assert_eq!(solo.records().len(), 7);
    // Votes for batches come in any order: it follows from the names of the batches.
    let mut slots: Vec<_> = votes.iter().map(|(slot, _)| slot.0).collect();
    slots.sort_unstable();
    assert_eq!(slots, [1, 4, 7, 10, 13, 16, 19]);
    assert_eq!(sent.iter().filter(|sent| matches!(sent.2, Message::Votes(_))).count(), 1);
    // It has nothing to propose itself, so it skips its own stripe up to there.
    let own = Skip { plan, first: Slot(3), count: 6 };
    assert_eq!(sent.iter().filter(|sent| sent.2 == Message::Skip(own)).count(), 1);
}

#[test]
fn numbers_from_outside_are_bounded() {
    let mut solo = Solo::new(3);
    let far = Slot(u64::MAX - 1);
    let plan = stripes(term(1, 1), 3);
    solo.hear(R1, Propose { plan, slot: Some(far), attempt: 1 }, Some(&solo.frame(1)));
    solo.hear(R1, Propose { plan, slot: Some(Slot(1 << 40)), attempt: 1 }, Some(&solo.frame(1)));
    solo.hear(R1, Skip { plan, first: Slot(1 << 61), count: u64::MAX }, None);
    let mut wide = votes(Round::fast(plan.term), 1, None);
    wide.entries[0].count = u32::MAX;
    solo.hear(R1, wide, None);
    let none = Plan { mode: Mode::Stripes(0), ..plan };
    solo.hear(R1, Any { plan: none }, None);
    solo.hear(R1, Accept { term: term(u64::MAX, 1), slot: far }, None);
    solo.hear(R1, CatchupRequest { from_slot: Slot(1 << 61), to_slot: Slot(1 << 61) }, None);
    assert_eq!(solo.records(), []);
    assert!(solo.protocol.status().last < Slot(1 << 20));
}

#[test]
fn a_peer_that_knows_something_else_to_be_decided_is_contradicted() {
    let mut solo = Solo::new(3);
    let (known, other) = (solo.frame(1), solo.frame(2));
    // Slot 1 is missing, so that this one stays open.
    for body in [&known, &known] {
        solo.hear(R1, Decided { slot: Slot(2), commit: Slot(0) }, Some(body));
    }
    assert_eq!(solo.effects.contradiction, None);
    solo.hear(R2, Decided { slot: Slot(2), commit: Slot(0) }, Some(&other));
    let found = solo.effects.contradiction.expect("two values are chosen");
    assert_eq!((found.position, found.from), (Slot(2).into(), R2));
    assert_eq!((found.known, found.told), (known.checksum(), other.checksum()));
    // What is committed and in memory, too.
    solo.effects.contradiction = None;
    solo.hear(R1, Decided { slot: Slot(1), commit: Slot(0) }, None);
    assert_eq!(solo.status().committed, Slot(2));
    solo.hear(R1, Decided { slot: Slot(1), commit: Slot(0) }, None);
    assert_eq!(solo.effects.contradiction, None);
    solo.hear(R2, Decided { slot: Slot(1), commit: Slot(0) }, Some(&other));
    let found = solo.effects.contradiction.expect("two values are chosen");
    assert_eq!((found.position, found.known, found.told), (Slot(1).into(), 0, other.checksum()));
}

/// Slot 1 is open. Slot 2 is known to be chosen: by the own vote and that of replica 1, in the classic round of its term.
fn with_two_chosen() -> (Solo, Frame) {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let round = Round::classic(term(1, 1));
    solo.hear(R1, Accept { term: round.term, slot: Slot(2) }, Some(&frame));
    solo.settle();
    solo.hear(R1, votes(round, 2, Some(&frame)), None);
    solo.records();
    solo.sent();
    (solo, frame)
}

/// What is told of slot 2 in the place of a vote.
fn told_of_two() -> Decided {
    Decided { slot: Slot(2), commit: Slot(0) }
}

#[test]
pub(super) fn where_something_else_is_known_to_be_chosen_there_is_no_vote() {
    let (mut solo, known) = with_two_chosen();
    let other = solo.frame(2);
    solo.hear(R2, Prepare { term: term(2, 2), from_slot: Slot(1) }, None);
    solo.records();
    solo.sent();
    solo.hear(R2, Accept { term: term(2, 2), slot: Slot(2) }, Some(&other));
    assert_eq!(solo.records(), []);
    assert_eq!(solo.effects.outgoing[0].body.as_ref(), Some(&known));
    assert_eq!(solo.sent(), [hint(R2, told_of_two())]);
    let found = solo.effects.contradiction.take().expect("somebody has forgotten a vote");
    assert_eq!((found.position, found.from), (Slot(2).into(), R2));
    assert_eq!((found.known, found.told), (known.checksum(), other.checksum()));
    // The same is voted for again, and other slots are none of this.
    solo.hear(R2, Accept { term: term(2, 2), slot: Slot(2) }, Some(&known));
    solo.hear(R2, Accept { term: term(2, 2), slot: Slot(3) }, Some(&other));
    let round = Round::classic(term(2, 2));
    assert_eq!(solo.records(), [vote_record(round, 2, 0), vote_record(round, 3, 0)]);
    assert_eq!(solo.effects.contradiction, None);
}

#[test]
pub(super) fn no_fast_vote_where_something_else_is_known_to_be_chosen() {
    let (mut solo, _) = with_two_chosen();
    let other = solo.frame(2);
    let plan = free_for_all(term(2, 2));
    solo.propose(R1, plan, 2, &other);
    assert_eq!(solo.records(), []);
    assert!(solo.sent().contains(&hint(R1, told_of_two())));
    let found = solo.effects.contradiction.take().expect("the coordinator has called it free");
    assert_eq!((found.position, found.from), (Slot(2).into(), R2));
    solo.hear(R1, Skip { plan, first: Slot(2), count: 1 }, None);
    assert_eq!(solo.records(), []);
    assert!(solo.effects.contradiction.take().is_some());
    // Where the acceptor chooses, it chooses another.
    let round = Round::fast(plan.term);
    solo.propose(R1, plan, 0, &other);
    solo.propose(R1, plan, 0, &solo.frame(3));
    assert_eq!(solo.records(), [vote_record(round, 1, 0), vote_record(round, 3, 0)]);
    assert_eq!(solo.effects.contradiction, None);
}

/// Two batches for one slot in one fast round contradict nobody.
#[test]
fn a_collision_is_no_contradiction() {
    let mut solo = Solo::new(5);
    let (known, other) = (solo.frame(1), solo.frame(2));
    let plan = free_for_all(term(1, 1));
    for peer in [R1, R2, R3, ReplicaId(4)] {
        solo.hear(peer, votes(Round::fast(plan.term), 2, Some(&known)), None);
    }
    solo.hear(R1, Decided { slot: Slot(2), commit: Slot(0) }, Some(&known));
    solo.sent();
    solo.propose(R2, plan, 2, &other);
    assert_eq!(solo.records(), []);
    assert!(solo.sent().contains(&hint(R2, told_of_two())));
    assert_eq!(solo.effects.contradiction, None);
}

/// It had not been chosen yet when that was proposed, or nobody knows whether it had.
#[test]
fn an_earlier_round_is_no_contradiction() {
    let newer = Round::classic(term(2, 2));
    let in_newer = |solo: &mut Solo, known: &Frame| {
        for peer in [R1, R2] {
            solo.hear(peer, votes(newer, 2, Some(known)), None);
        }
        solo.hear(R2, PayloadReply { slot: Slot(2) }, Some(known));
    };
    let somewhen = |solo: &mut Solo, known: &Frame| {
        solo.hear(R2, Decided { slot: Slot(2), commit: Slot(0) }, Some(known));
    };
    for learn in [&in_newer as &dyn Fn(&mut Solo, &Frame), &somewhen] {
        let mut solo = Solo::new(3);
        let (known, other) = (solo.frame(1), solo.frame(2));
        learn(&mut solo, &known);
        solo.sent();
        solo.hear(R1, Accept { term: term(1, 1), slot: Slot(2) }, Some(&other));
        assert_eq!(solo.records(), []);
        assert!(solo.sent().contains(&hint(R1, told_of_two())));
        assert_eq!(solo.effects.contradiction, None);
    }
}
