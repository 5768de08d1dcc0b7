//! The exact effects of single events: candidate and coordinator.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::time::Duration;

use super::super::message::*;
use super::super::round::Round;
use super::solo::{R1, R2, R3, Solo, promise_record, term, vote_record, votes};
use crate::protocol::{Event, Protocol, Tuning, Value};
use crate::testing::{batch, tuning};

const R4: ReplicaId = ReplicaId(4);

fn slot_promise(solo: &mut Solo, from: ReplicaId, plan: Plan, slot: u64) {
    solo.hear(from, SlotPromise { term: plan.term, slot: Slot(slot), voted: None }, None);
}

/// Long enough for a slot to count as slow.
fn long() -> Duration {
    2 * tuning().slow_after
}

#[test]
pub(super) fn nobody_may_vote_before_the_first_phase_is_done() {
    let mut solo = Solo::new(3);
    let mine = solo.candidate();
    let told = solo.told();
    assert!(!told.iter().any(|(_, message, _)| matches!(message, Message::Any(_))));
    solo.promise(R1, mine, 1, 0);
    solo.promise(R2, mine, 1, 0);
    let told = solo.told();
    assert!(told.iter().any(|(_, message, _)| matches!(message, Message::Any(_))));
}

#[test]
pub(super) fn a_promise_counts_once_its_votes_have_arrived() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let mine = solo.candidate();
    solo.settle();
    solo.promise(R1, mine, 1, 2);
    solo.report(R1, mine, 1, Round::classic(term(0, 1)), &frame);
    assert_eq!(solo.protocol.counters().terms, 0);
    solo.report(R1, mine, 2, Round::classic(term(0, 1)), &frame);
    assert_eq!(solo.protocol.counters().terms, 1);
}

/// Candidate of five that voted for `own` in `own_round`; two more report their votes. What is proposed in slot 1.
fn proposed(own: u64, own_round: Round, reports: [(u64, Round); 2]) -> Vec<Value> {
    let maker = Solo::new(5);
    let record = (vote_record(own_round, 1, 0), Some(maker.frame(own)));
    let mut solo = Solo::restarted(5, Slot(0), &[record]);
    let mine = solo.candidate();
    solo.settle();
    for (from, (counter, round)) in [R1, R2].into_iter().zip(reports) {
        solo.promise(from, mine, 1, 1);
        let frame = solo.frame(counter);
        solo.report(from, mine, 1, round, &frame);
    }
    solo.accepts(1)
}

#[test]
pub(super) fn t_f1_the_newer_classic_round_counts_however_many_older_fast_votes_there_are() {
    let maker = Solo::new(5);
    let (x, y) = (1, 2);
    let old = Round::fast(term(1, 1));
    let newer = Round::classic(term(2, 2));
    assert_eq!(proposed(y, newer, [(x, old), (x, old)]), [Value::Batch(maker.frame(y))]);
}

#[test]
pub(super) fn t_f4_the_higher_round_decides_which_rule_applies() {
    let maker = Solo::new(5);
    let (x, y) = (1, 2);
    let classic = Round::classic(term(1, 1));
    let fast = Round::fast(term(2, 2));
    // Two of three fast votes of the higher round are enough for a fast quorum together with the two unseen.
    assert_eq!(proposed(y, classic, [(x, fast), (x, fast)]), [Value::Batch(maker.frame(x))]);
    // One is not, but classic votes below it do not bind either.
    assert_eq!(proposed(y, classic, [(y, classic), (x, fast)]), [Value::Batch(maker.frame(x))]);
    // The same votes with the classic round above.
    let above = Round::classic(term(3, 1));
    assert_eq!(proposed(y, above, [(x, fast), (x, fast)]), [Value::Batch(maker.frame(y))]);
}

#[test]
pub(super) fn t_f2_with_more_answers_more_votes_are_needed_to_bind() {
    let (mut solo, plan) = Solo::coordinator(5, tuning());
    let round = Round::fast(plan.term);
    let (x, y) = (solo.frame(1), solo.frame(2));
    for (from, frame) in [(R1, &x), (R2, &y), (R3, &x), (R4, &y)] {
        assert_eq!(solo.protocol.counters().collisions, 0);
        solo.hear(from, votes(round, 1, Some(frame)), None);
    }
    // Two and two: no fast quorum is possible any more. Two would bind among three answers, not among four. The bytes come
    // with the promises that are asked for.
    assert_eq!(solo.protocol.counters().collisions, 1);
    for (from, frame) in [(R1, &x), (R2, &y)] {
        let promise = SlotPromise { term: plan.term, slot: Slot(1), voted: Some(round) };
        solo.hear(from, promise, Some(frame));
    }
    assert_eq!(solo.accepts(1).len(), 1);
    let counters = solo.protocol.counters();
    assert_eq!((counters.picks_free, counters.picks_forced, counters.recoveries), (1, 0, 1));
}

#[test]
pub(super) fn a_slow_slot_goes_to_the_classic_round_only_with_a_quorum_of_answers() {
    let (mut solo, plan) = Solo::coordinator(5, tuning());
    let frame = solo.frame(1);
    solo.propose(R1, plan, 1, &frame);
    solo.settle();
    solo.pass(long());
    solo.pass(long());
    let told = solo.told();
    let asked = told.iter().filter(|(_, message, _)| matches!(message, Message::SlotPrepare(_)));
    assert!(asked.count() >= 4);
    assert!(!told.iter().any(|(_, message, _)| matches!(message, Message::Accept(_))));
    slot_promise(&mut solo, R1, plan, 1);
    assert_eq!(solo.accepts(1), [], "two answers of five");
    slot_promise(&mut solo, R2, plan, 1);
    assert_eq!(solo.accepts(1), [Value::Batch(frame)]);
}

#[test]
pub(super) fn a_hole_becomes_a_no_op_only_after_a_quorum_gave_up_its_fast_votes() {
    let (mut solo, plan) = Solo::coordinator(3, tuning());
    // Slots 3 and 4 are chosen; nothing is known of slots 1 and 2.
    solo.hear(R1, Skip { plan, first: Slot(4), count: 1 }, None);
    for (from, slot) in [(R1, 3), (R1, 4), (R2, 3), (R2, 4)] {
        solo.hear(from, votes(Round::fast(plan.term), slot, None), None);
    }
    solo.settle();
    solo.pass(long());
    solo.pass(long());
    assert_eq!(solo.accepts(1), []);
    slot_promise(&mut solo, R2, plan, 1);
    assert_eq!(solo.accepts(1), [Value::Noop]);
    assert!(solo.protocol.counters().noops >= 1);
}

#[test]
fn a_collision_is_noticed_with_the_vote_that_makes_it_and_resolved_without_a_timer() {
    let (mut solo, plan) = Solo::coordinator(3, Tuning { free_for_all: true, ..tuning() });
    assert_eq!(plan.mode, Mode::FreeForAll);
    let (x, y) = (solo.frame(1), solo.frame(2));
    solo.propose(R1, plan, 0, &x);
    solo.settle();
    // The own vote and one for another value: three of three are out of reach, and two answers are a quorum.
    solo.propose(R1, plan, 0, &y);
    solo.settle();
    solo.hear(R2, votes(Round::fast(plan.term), 1, Some(&y)), None);
    assert_eq!(solo.protocol.counters().collisions, 1);
    // Both batches are here, though y lies in slot 2.
    assert_eq!(solo.accepts(1).len(), 1);
}

/// Four of five replicas vote in `slot`, three of them, this one among them, for `most`.
fn split(solo: &mut Solo, plan: Plan, slot: u64, most: &Frame, other: &Frame) {
    solo.propose(R1, plan, slot, most);
    solo.settle();
    for (from, frame) in [(R1, most), (R2, most), (R3, other)] {
        solo.hear(from, votes(Round::fast(plan.term), slot, Some(frame)), None);
    }
}

#[test]
fn a_slot_does_not_wait_for_the_vote_of_a_replica_that_is_not_relied_on() {
    let (mut solo, plan) = Solo::coordinator(5, Tuning { free_for_all: true, ..tuning() });
    let frames = [1, 2, 3, 4].map(|counter| solo.frame(counter));
    split(&mut solo, plan, 1, &frames[0], &frames[1]);
    // The fifth is fit, and its vote makes the fast quorum.
    assert_eq!(solo.protocol.counters().collisions, 0);
    solo.hear(R4, votes(Round::fast(plan.term), 1, Some(&frames[0])), None);
    assert_eq!(solo.protocol.counters().fast_chosen, 1);
    // The other four are a fast quorum: the plan stays.
    solo.step(Event::Suspect(R4));
    split(&mut solo, plan, 2, &frames[2], &frames[3]);
    assert_eq!(solo.protocol.counters().collisions, 1);
    assert_eq!(solo.accepts(2), [Value::Batch(frames[2].clone())]);
}

#[test]
fn a_recovery_goes_on_when_the_batch_that_was_voted_for_arrives_last() {
    let (mut solo, plan) = Solo::coordinator(3, tuning());
    let frame = solo.frame(1);
    let round = Round::fast(plan.term);
    // Slot 2 stays empty while slot 4 is voted for, so it is recovered: the coordinator promises it to the classic round.
    solo.hear(R1, votes(round, 4, None), None);
    solo.settle();
    solo.pass(long());
    solo.pass(long());
    solo.settle();
    // Its proposer and another acceptor have not heard of that. Their votes come here without the batch, which follows.
    for from in [R1, R2] {
        solo.hear(from, votes(round, 2, Some(&frame)), None);
    }
    assert_eq!(solo.accepts(2), []);
    solo.propose(R1, plan, 2, &frame);
    assert_eq!(solo.accepts(2), [Value::Batch(frame)]);
}

#[test]
pub(super) fn t_f5_after_a_missed_fast_quorum_the_votes_decide_not_the_coordinators_wish() {
    let (mut solo, plan) = Solo::coordinator(3, tuning());
    let (x, mine) = (solo.frame(1), crate::testing::batch(&solo.pool, 0, 1, 1));
    solo.step(Event::Propose(mine));
    solo.propose(R1, plan, 1, &x);
    solo.settle();
    // Replica 1 voted too; the vote of replica 2 was lost on its way here, elsewhere x is chosen.
    solo.hear(R1, votes(Round::fast(plan.term), 1, Some(&x)), None);
    solo.pass(long());
    solo.pass(long());
    assert_eq!(solo.accepts(1), [Value::Batch(x)]);
}

#[test]
fn everything_that_a_promise_calls_chosen_is_caught_up_with() {
    let mut solo = Solo::restarted(3, Slot(0), &[(promise_record(term(1, 1), 0), None)]);
    let frame = solo.frame(1);
    let mine = solo.candidate();
    solo.settle();
    let promise = Promise { term: mine, from_slot: Slot(1), commit: Slot(2), vote_count: 0 };
    solo.hear(R1, promise, None);
    let told = solo.told();
    assert!(!told.iter().any(|(_, message, _)| matches!(message, Message::Accept(_))));
    solo.pass(long());
    let told = solo.told();
    let asked = |m: &Message| matches!(m, Message::CatchupRequest(asked) if asked.from_slot == Slot(1));
    assert!(told.iter().any(|(_, message, _)| asked(message)));
    solo.hear(R1, Decided { slot: Slot(1), commit: Slot(2) }, Some(&frame));
    solo.hear(R1, Decided { slot: Slot(2), commit: Slot(2) }, None);
    assert_eq!(solo.chosen(), [(1, Value::Batch(frame)), (2, Value::Noop)]);
}

#[test]
fn a_coordinator_that_lost_too_many_goes_on_in_classic_rounds() {
    let (mut solo, plan) = Solo::coordinator(3, tuning());
    assert_eq!(plan.mode, Mode::Stripes(0b111));
    solo.step(Event::Suspect(R2));
    let told = solo.told();
    let next = told.iter().find_map(|(_, message, _)| match message {
        Message::Prepare(prepare) => Some(prepare.term),
        _ => None,
    });
    let next = next.expect("another way of proposing is another term");
    assert!(next > plan.term);
    solo.promise(R1, next, 1, 0);
    let told = solo.told();
    let classic = |m: &Message| matches!(m, Message::Any(any) if any.plan.mode == Mode::Classic);
    assert!(told.iter().any(|(_, message, _)| classic(message)));
    assert_eq!(solo.protocol.counters().fallbacks, 1);
    // A batch of another replica goes straight to the classic round.
    let frame = solo.frame(1);
    solo.hear(R1, Forward, Some(&frame));
    assert_eq!(solo.accepts(1), [Value::Batch(frame.clone())]);
    solo.hear(R1, Forward, Some(&frame));
    assert_eq!(solo.accepts(2), [], "it is on its way already");
}

#[test]
fn an_own_batch_is_committed_before_the_slots_below_are() {
    let mut solo = Solo::new(3);
    let (own, earlier) = (batch(&solo.pool, 0, 1, 1), batch(&solo.pool, 0, 2, 1));
    solo.hear(R1, Decided { slot: Slot(3), commit: Slot(0) }, Some(&earlier));
    assert_eq!(solo.effects.committed, [], "of another life");
    solo.hear(R1, Decided { slot: Slot(2), commit: Slot(0) }, Some(&own));
    assert_eq!((&solo.effects.committed[..], solo.effects.chosen.len()), (&[own.id()][..], 0));
    let other = solo.frame(1);
    solo.hear(R1, Decided { slot: Slot(1), commit: Slot(0) }, Some(&other));
    assert_eq!((solo.effects.committed.len(), solo.effects.chosen.len()), (1, 3));
}

#[test]
pub(super) fn a_coordinator_proposes_nothing_beside_what_it_knows_to_be_chosen() {
    let mut solo = Solo::new(3);
    let (known, other) = (solo.frame(1), solo.frame(2));
    let old = Round::classic(term(1, 1));
    // Slot 1 is open. Slots 2 and 3 were chosen by two others, one of which has forgotten it.
    for slot in [2, 3] {
        for peer in [R1, R2] {
            solo.hear(peer, votes(old, slot, Some(&known)), None);
        }
    }
    let mine = solo.candidate();
    solo.settle();
    solo.promise(R1, mine, 1, 2);
    solo.report(R1, mine, 1, old, &other);
    solo.report(R1, mine, 4, old, &other);
    let told = solo.told();
    let slots = told.iter().filter_map(|(_, message, _)| match message {
        Message::Accept(accept) => Some(accept.slot.0),
        _ => None,
    });
    assert_eq!(slots.collect::<Vec<_>>(), [1, 4]);
}
