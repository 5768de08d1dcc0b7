//! Batches that clients send to every replica themselves.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};

use super::super::message::*;
use super::super::round::{Round, ValueName};
use super::solo::{ME, R1, R2, Solo, free_for_all, stripes, term, votes};
use crate::protocol::{Dest, Event, Protocol, Value};
use crate::testing::{batch, tuning};

fn plan_of(free: bool) -> Plan {
    if free { free_for_all(term(1, 1)) } else { stripes(term(1, 1), 3) }
}

/// A replica that follows a plan of replica 1.
fn follower(free: bool) -> (Solo, Plan) {
    let mut solo = Solo::new(3);
    let plan = plan_of(free);
    solo.hear(R1, Any { plan }, None);
    solo.settle();
    (solo, plan)
}

fn client_batch(solo: &Solo, home: ReplicaId, number: u64) -> Frame {
    batch(&solo.pool, home.0, 0, number)
}

fn arrive(solo: &mut Solo, frame: &Frame) {
    solo.step(Event::ClientBatch(frame.clone()));
    solo.end_turn();
}

/// The slots of the votes that leave, each with what was voted for.
fn voted(solo: &mut Solo) -> Vec<(u64, ValueName)> {
    let sent = solo.sent();
    let votes = sent.into_iter().filter_map(|(_, _, message)| match message {
        Message::Votes(votes) => Some(votes),
        _ => None,
    });
    votes.flat_map(|votes| votes.iter().map(|(slot, vote)| (slot.0, vote.name)).collect::<Vec<_>>()).collect()
}

fn name(frame: &Frame) -> ValueName {
    ValueName::of(Some(frame))
}

fn proposals(solo: &mut Solo) -> Vec<(Option<Slot>, Frame)> {
    let told = solo.told();
    let proposal = |(_, message, body)| match message {
        Message::Propose(propose) => Some((propose.slot, body?)),
        _ => None,
    };
    told.into_iter().filter_map(proposal).collect()
}

#[test]
fn an_acceptor_places_it_in_the_stripe_of_its_home_or_in_the_next_free_slot() {
    for (free, slots) in [(false, [1, 2, 4]), (true, [1, 2, 3])] {
        let (mut solo, _) = follower(free);
        let frames = [(R1, 1), (R2, 2), (R1, 3)].map(|(home, number)| client_batch(&solo, home, number));
        for (frame, slot) in frames.iter().zip(slots) {
            arrive(&mut solo, frame);
            assert_eq!(voted(&mut solo), [(slot, name(frame))], "free for all: {free}");
        }
        // Asked again it repeats its vote.
        arrive(&mut solo, &frames[0]);
        assert_eq!(voted(&mut solo), [(1, name(&frames[0]))]);
    }
}

#[test]
fn two_batches_of_one_number_are_two_values() {
    let (mut solo, _) = follower(false);
    let frames = [b"x".as_slice(), b"y"]
        .map(|key| crate::testing::batch_of(&solo.pool, ME.0, 0, 5, &[crate::testing::set(key)]));
    for (frame, slot) in frames.iter().zip([3, 6]) {
        arrive(&mut solo, frame);
        assert_eq!(voted(&mut solo)[0], (slot, name(frame)));
    }
}

#[test]
fn however_many_batches_clients_have_in_flight_those_of_the_home_find_room() {
    let (mut solo, _) = follower(false);
    for number in 1..=solo.protocol.in_flight_max() {
        let frame = client_batch(&solo, ME, number);
        arrive(&mut solo, &frame);
    }
    proposals(&mut solo);
    let own = batch(&solo.pool, ME.0, 1, 1);
    solo.step(Event::Propose(own.clone()));
    solo.end_turn();
    assert!(proposals(&mut solo).iter().any(|(_, frame)| *frame == own));
}

#[test]
fn without_a_fast_plan_only_its_home_acts() {
    for mode in [None, Some(Mode::Classic)] {
        let mut solo = Solo::new(3);
        if let Some(mode) = mode {
            solo.hear(R1, Any { plan: Plan { mode, ..stripes(term(1, 1), 3) } }, None);
            solo.settle();
        }
        let (mine, other) = (client_batch(&solo, ME, 1), client_batch(&solo, R2, 2));
        arrive(&mut solo, &other);
        assert!(solo.told().is_empty(), "{mode:?}");
        arrive(&mut solo, &mine);
        let told = solo.told();
        let forwarded = told.iter().any(|(to, message, body)| {
            matches!(message, Message::Forward(_)) && *to == Dest::One(R1) && body.as_ref() == Some(&mine)
        });
        assert_eq!(forwarded, mode.is_some(), "{mode:?}");
    }
}

#[test]
fn a_home_without_a_stripe_hands_it_to_the_coordinator() {
    let mut solo = Solo::new(4);
    let plan = Plan { mode: Mode::Stripes(0b1110), ..stripes(term(1, 1), 4) };
    solo.hear(R1, Any { plan }, None);
    solo.settle();
    let frame = client_batch(&solo, ME, 1);
    arrive(&mut solo, &frame);
    let told = solo.told();
    assert!(
        told.iter()
            .any(|(to, message, _)| { matches!(message, Message::Forward(_)) && *to == Dest::One(R1) })
    );
}

#[test]
fn its_home_gives_it_another_slot_when_it_has_lost_its_first() {
    for free in [false, true] {
        let (mut solo, plan) = follower(free);
        let round = Round::fast(plan.term);
        let (mine, other) = (client_batch(&solo, ME, 1), client_batch(&solo, ME, 2));
        let slot = if free { 1 } else { 3 };
        arrive(&mut solo, &mine);
        assert_eq!(voted(&mut solo), [(slot, name(&mine))]);
        solo.settle();
        for from in [R1, R2] {
            solo.hear(from, votes(round, slot, Some(&other)), None);
        }
        assert_eq!(proposals(&mut solo), [], "nothing is decided yet");
        solo.hear(R1, votes(Round::classic(plan.term), slot, Some(&other)), None);
        solo.hear(R2, votes(Round::classic(plan.term), slot, Some(&other)), None);
        let again = (!free).then_some(Slot(6));
        assert_eq!(proposals(&mut solo), [(again, mine)], "free for all: {free}");
        let counters = solo.protocol.counters();
        assert_eq!((counters.moved, counters.direct_moved), (1, 1));
    }
}

#[test]
fn what_was_committed_before_it_came_is_voted_for_by_nobody_but_its_home_which_proposes_it_once_more() {
    for home in [ME, R2] {
        let (mut solo, _) = follower(false);
        let frame = client_batch(&solo, home, 1);
        solo.hear(R1, Decided { slot: Slot(1), commit: Slot(1) }, Some(&frame));
        assert_eq!(solo.chosen(), [(1, Value::Batch(frame.clone()))]);
        solo.settle();
        arrive(&mut solo, &frame);
        let expected = if home == ME { vec![(Some(Slot(3)), frame)] } else { vec![] };
        assert_eq!(proposals(&mut solo), expected);
    }
}

#[test]
fn what_is_chosen_and_waits_for_earlier_slots_is_not_proposed_again() {
    let (mut solo, _) = follower(false);
    let frame = client_batch(&solo, ME, 1);
    solo.hear(R1, Decided { slot: Slot(2), commit: Slot(0) }, Some(&frame));
    solo.settle();
    arrive(&mut solo, &frame);
    solo.pass(20 * tuning().slow_after);
    assert_eq!(proposals(&mut solo), []);
}

#[test]
fn a_home_does_not_skip_slots_in_which_acceptors_vote_for_clients() {
    let (mut solo, plan) = follower(false);
    let round = Round::fast(plan.term);
    let frame = client_batch(&solo, ME, 1);
    // Others have the batch, which has not come here; the slots around its own are in nobody's way.
    solo.hear(R1, votes(round, 6, Some(&frame)), None);
    solo.hear(R2, votes(round, 11, None), None);
    let told = solo.told();
    let skipped = |(_, message, _): &(_, Message, _)| match message {
        Message::Skip(skip) => Some((skip.first.0, skip.count)),
        _ => None,
    };
    assert_eq!(told.iter().filter_map(skipped).collect::<Vec<_>>(), [(3, 1), (9, 1)]);
}

#[test]
fn nobody_is_blamed_for_a_batch_that_its_client_may_not_have_sent_everywhere() {
    for is_client in [true, false] {
        let (mut solo, plan) = Solo::coordinator(3, tuning());
        let frame = batch(&solo.pool, 1, u32::from(!is_client), 1);
        solo.hear(R1, votes(Round::fast(plan.term), 1, Some(&frame)), None);
        for _ in 0..8 {
            for peer in [R1, R2] {
                solo.hear(
                    peer,
                    HeartbeatReply { term: plan.term, commit: Slot(0), last: Slot(1), votes: true },
                    None,
                );
            }
            solo.pass(tuning().slow_after);
            for (to, message, _) in solo.told() {
                if let (Dest::One(R2), Message::SlotPrepare(SlotPrepare { term, slot })) = (to, message) {
                    solo.hear(R2, SlotPromise { term, slot, voted: None }, None);
                }
            }
        }
        assert_eq!(solo.protocol.status().ballot == plan.term, is_client);
    }
}

#[test]
fn votes_for_a_batch_that_was_chosen_elsewhere_hold_nobody_up() {
    for vote_comes_first in [true, false] {
        let (mut solo, plan) = Solo::coordinator(3, tuning());
        let frame = client_batch(&solo, R1, 1);
        let stray = votes(Round::fast(plan.term), 4, Some(&frame));
        let decided = Decided { slot: Slot(1), commit: Slot(1) };
        if vote_comes_first {
            solo.hear(R1, stray, None);
            assert_eq!(solo.protocol.counters().recoveries, 0);
            solo.hear(R1, decided, Some(&frame));
        } else {
            solo.hear(R1, decided, Some(&frame));
            solo.hear(R1, stray, None);
        }
        assert_eq!(solo.protocol.counters().recoveries, 1, "without waiting for a timer");
    }
}
