//! The exact effects of single events: leader, reads, and messages that make no sense.

use panch_wire::frame::PAGE_SIZE;
use panch_wire::ids::{ReplicaId, Slot};
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::super::message::*;
use super::solo::{ME, R1, R2, Solo, accepted, ballot, claim, hint};
use crate::protocol::{Dest, Event, Protocol, Random, ReadContext, Tuning, Value};
use crate::testing::solo::Sent;
use crate::testing::{HEARTBEAT, TIMEOUT, tuning};

#[test]
fn a_leader_sends_at_once_and_counts_its_own_vote_when_durable() {
    let (mut solo, ballot_) = Solo::leader(3);
    let frame = solo.frame(1);
    solo.step(Event::Propose(frame.clone()));
    assert_eq!(solo.records(), [accepted(ballot_, 2, 1)]);
    let accept = Accept { ballot: ballot_, slot: Slot(2), commit: Slot(1) };
    assert_eq!(solo.sent(), [hint(R1, accept), hint(R2, accept)]);
    solo.deliver(R1, Accepted { ballot: ballot_, upto: Slot(2) }, None);
    solo.deliver(R1, Accepted { ballot: ballot_, upto: Slot(2) }, None);
    assert_eq!(solo.chosen(), []);
    solo.end_turn();
    let own = solo.sent();
    assert_eq!(own, [claim(3, ME, Accepted { ballot: ballot_, upto: Slot(2) })]);
    solo.deliver(ME, Accepted { ballot: ballot_, upto: Slot(2) }, None);
    assert_eq!(solo.chosen(), [(2, Value::Batch(frame))]);
    solo.end_turn();
    assert_eq!(solo.sent()[0], hint(R1, Commit { ballot: ballot_, commit: Slot(2) }));
}

pub(super) fn old_acknowledgement_is_ignored() {
    let (mut solo, first) = Solo::leader(3);
    let (old, new) = (solo.frame(1), solo.frame(2));
    solo.step(Event::Propose(old));
    solo.settle();
    // Another leader gets another value accepted in slot 2, at itself only.
    solo.deliver(
        R2,
        Prepare { ballot: ballot(first.round + 1, 2), from_slot: Slot(2), released: Release::default() },
        None,
    );
    solo.settle();
    let second = solo.candidate();
    solo.report(R2, second, 2, ballot(first.round + 1, 2), &new);
    solo.promise(R2, second, 2, 1, 1);
    solo.settle();
    assert_eq!(solo.protocol.counters().terms, 2);
    // The vote for the old value arrives at last.
    solo.deliver(R1, Accepted { ballot: first, upto: Slot(2) }, None);
    assert_eq!(solo.chosen(), []);
    solo.deliver(R1, Accepted { ballot: second, upto: Slot(2) }, None);
    assert_eq!(solo.chosen(), [(2, Value::Batch(new))]);
}

#[test]
fn an_acknowledgement_of_an_older_ballot_does_not_count() {
    old_acknowledgement_is_ignored();
}

#[test]
fn a_leader_tells_how_far_it_has_proposed_to_those_that_know_more() {
    let (mut solo, ballot) = Solo::leader(3);
    let said = hint(R1, Proposed { ballot, last: Slot(1) });
    let reply = |received| HeartbeatReply {
        ballot,
        round: 0,
        sent: Slot(1),
        received: Slot(received),
        granted: false,
    };
    solo.deliver(R1, reply(1), None);
    assert!(!solo.settle().contains(&said));
    solo.deliver(R1, reply(3), None);
    assert!(solo.settle().contains(&said));
}

#[test]
fn a_leader_bounds_what_is_unchosen() {
    let (mut solo, _) = Solo::leader(3);
    for counter in 1..100 {
        let frame = solo.frame(counter);
        solo.step(Event::Propose(frame));
    }
    assert_eq!(solo.records().len() as u64, 3 * 4 * 2);
}

#[test]
fn a_peer_that_lags_has_as_many_entries_on_their_way_as_bytes_and_count_allow() {
    let flight = |catchup_window, pages| {
        let catchup_size_max = pages * PAGE_SIZE;
        let tail_size_max = 1000 * PAGE_SIZE;
        let (mut solo, ballot) =
            Solo::leader_with(3, Tuning { catchup_window, catchup_size_max, tail_size_max, ..tuning() });
        let mut sent = 0;
        for number in 1..=200 {
            let frame = solo.frame(number);
            solo.step(Event::Propose(frame));
            let to_r2 =
                |(_, dest, message): &Sent<_>| matches!((dest, message), (Dest::One(R2), Message::Accept(_)));
            sent += solo.settle().iter().filter(|sent| to_r2(sent)).count();
            solo.deliver(R1, Accepted { ballot, upto: Slot(number + 1) }, None);
            solo.settle();
        }
        sent
    };
    assert!((25..35).contains(&flight(500, 30)), "{}", flight(500, 30));
    assert!((95..110).contains(&flight(500, 100)), "small entries, many of them: {}", flight(500, 100));
    assert!((45..55).contains(&flight(50, 100)), "{}", flight(50, 100));
}

#[test]
fn a_follower_forwards_and_a_replica_without_leader_waits_for_one() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    solo.step(Event::Propose(frame.clone()));
    assert_eq!(solo.sent(), []);
    assert!(!solo.effects.repropose);
    solo.deliver(R1, Commit { ballot: ballot(1, 1), commit: Slot(0) }, None);
    assert!(solo.effects.repropose);
    solo.step(Event::Propose(frame));
    assert_eq!(solo.sent(), [hint(R1, Forward)]);
}

#[test]
fn a_gap_moves_the_send_position_back_once() {
    let (mut solo, ballot_) = Solo::leader(3);
    for counter in 1..4 {
        let frame = solo.frame(counter);
        solo.step(Event::Propose(frame));
    }
    solo.sent();
    let gap = Gap { ballot: ballot_, expected: Slot(2) };
    solo.deliver(R1, gap, None);
    let accept = |slot| hint(R1, Accept { ballot: ballot_, slot: Slot(slot), commit: Slot(1) });
    assert_eq!(solo.sent(), [accept(2), accept(3), accept(4)]);
    solo.deliver(R1, gap, None);
    assert_eq!(solo.sent(), []);
    assert_eq!(solo.protocol.counters().rewinds, 1);
}

#[test]
fn a_lost_tail_shows_in_the_heartbeat_reply() {
    let (mut solo, ballot_) = Solo::leader(3);
    let frame = solo.frame(1);
    solo.step(Event::Propose(frame));
    solo.sent();
    solo.pass(HEARTBEAT);
    let round = solo.sent().into_iter().find_map(|(_, dest, message)| match message {
        Message::Heartbeat(heartbeat) if dest == Dest::One(R1) => {
            assert_eq!(heartbeat.sent, Slot(2));
            Some(heartbeat.round)
        }
        _ => None,
    });
    let reply = HeartbeatReply {
        ballot: ballot_,
        round: round.unwrap(),
        sent: Slot(2),
        received: Slot(1),
        granted: false,
    };
    solo.deliver(R1, reply, None);
    assert_eq!(solo.sent(), [hint(R1, Accept { ballot: ballot_, slot: Slot(2), commit: Slot(1) })]);
}

#[test]
fn a_leader_without_contact_steps_down() {
    let (mut solo, _) = Solo::leader(3);
    for _ in 0..6 {
        solo.pass(HEARTBEAT);
    }
    assert!(!solo.status().leading);
    assert_eq!(solo.protocol.counters().step_downs, 1);
}

#[test]
fn a_peer_whose_connection_broke_is_sent_again_what_it_did_not_acknowledge() {
    let (mut solo, ballot_) = Solo::leader(3);
    let frame = solo.frame(1);
    solo.step(Event::Propose(frame.clone()));
    solo.sent();
    solo.step(Event::Suspect(R1));
    solo.step(Event::Propose(frame));
    let accept = |slot| Accept { ballot: ballot_, slot: Slot(slot), commit: Slot(1) };
    assert_eq!(solo.sent(), [hint(R2, accept(3))]);
    let reply =
        HeartbeatReply { ballot: ballot_, round: 0, sent: Slot(0), received: Slot(1), granted: false };
    solo.deliver(R1, reply, None);
    assert_eq!(solo.sent(), [hint(R1, accept(2)), hint(R1, accept(3))]);
}

#[test]
fn a_follower_that_lost_the_leader_asks_the_others_soon() {
    let mut solo = Solo::new(3);
    solo.deliver(R1, Commit { ballot: ballot(1, 1), commit: Slot(0) }, None);
    solo.step(Event::Suspect(R2));
    assert_eq!(solo.status().leader, Some(R1));
    solo.step(Event::Suspect(R1));
    assert_eq!(solo.status().leader, None);
    solo.pass(TIMEOUT * 5 / 8);
    assert!(matches!(solo.sent()[..], [(None, Dest::Others, Message::PreVote(_))]));
}

// Reads.

#[test]
fn a_read_waits_for_a_round_of_its_own() {
    let (mut solo, ballot_) = Solo::leader(3);
    solo.step(Event::Read { context: ReadContext(1), lease: false });
    solo.step(Event::Read { context: ReadContext(2), lease: false });
    solo.end_turn();
    let heartbeats = solo.sent();
    assert_eq!(heartbeats.len(), 2, "one round for both, at the end of the turn");
    let Message::Heartbeat(Heartbeat { round, sent, .. }) = heartbeats[0].2 else { panic!() };
    solo.step(Event::Read { context: ReadContext(3), lease: false });
    solo.end_turn();
    assert_eq!(solo.sent(), [], "a round is on its way");
    solo.deliver(
        R1,
        HeartbeatReply { ballot: ballot_, round, sent, received: Slot(1), granted: false },
        None,
    );
    assert_eq!(solo.effects.reads, [(ReadContext(1), Some(Slot(1))), (ReadContext(2), Some(Slot(1)))]);
    solo.end_turn();
    assert_eq!(solo.sent().len(), 2, "the next round for the read that waited");
}

#[test]
fn a_follower_asks_the_leader_once_at_a_time() {
    let mut solo = Solo::new(3);
    solo.step(Event::Read { context: ReadContext(1), lease: false });
    assert_eq!(solo.effects.reads, [(ReadContext(1), None)], "no leader");
    solo.effects.reads.clear();
    solo.deliver(R1, Commit { ballot: ballot(1, 1), commit: Slot(0) }, None);
    solo.step(Event::Read { context: ReadContext(2), lease: false });
    solo.end_turn();
    let number = (1 << 32) + 1;
    assert_eq!(solo.sent(), [hint(R1, ReadIndexRequest { number, lease: false })]);
    solo.step(Event::Read { context: ReadContext(3), lease: false });
    solo.end_turn();
    assert_eq!(solo.sent(), []);
    solo.deliver(R1, ReadIndexReply { number: number - 1, slot: Some(Slot(9)) }, None);
    assert_eq!(solo.effects.reads, []);
    solo.deliver(R1, ReadIndexReply { number, slot: Some(Slot(9)) }, None);
    assert_eq!(solo.effects.reads, [(ReadContext(2), Some(Slot(9)))]);
    solo.end_turn();
    assert_eq!(solo.sent(), [hint(R1, ReadIndexRequest { number: number + 1, lease: false })]);
    solo.effects.reads.clear();
    solo.pass(TIMEOUT);
    assert_eq!(solo.effects.reads, [(ReadContext(3), None)], "no answer in time");
}

// Foreign bytes.

#[test]
fn no_message_panics() {
    let mut random = Random::seed_from_u64(5);
    let mut number = |small: u64| {
        let number = random.next_u64();
        match number % 8 {
            0 => u64::MAX - number % 3,
            1 => number,
            2 => (1 << 62) - 1,
            _ => number / 8 % small,
        }
    };
    for _ in 0..40 {
        let mut solo = if number(2) == 0 { Solo::leader(3).0 } else { Solo::new(5) };
        let frame = solo.frame(1);
        for _ in 0..500 {
            let from = ReplicaId(number(6) as u8);
            let owner = if number(3) == 0 { number(4) as u8 } else { from.0 };
            let (ballot, other) = (ballot(number(9), owner), ballot(number(9), number(4) as u8));
            let (slot, more) = (Slot(number(9)), Slot(number(9)));
            let message: Message = match number(16) {
                0 => PreVote { ballot, commit: more }.into(),
                1 => PreVoteReply { ballot, seen: other, granted: number(2) == 0, wait: number(9) }.into(),
                2 => {
                    Prepare { ballot, from_slot: slot, released: Release { ballot: other, round: number(9) } }
                        .into()
                }
                3 => Promise { ballot, from_slot: slot, commit: more, entry_count: number(3) }.into(),
                4 => PromiseEntry { ballot, slot, accepted: other }.into(),
                5 => Refused { ballot, promised: other, behind: true, wait: number(9) }.into(),
                6 => Accept { ballot, slot, commit: more }.into(),
                7 => Accepted { ballot, upto: slot }.into(),
                8 => Gap { ballot, expected: slot }.into(),
                9 => Commit { ballot, commit: slot }.into(),
                10 => Heartbeat {
                    ballot,
                    round: number(9),
                    commit: slot,
                    sent: more,
                    acked: slot,
                    lease: number(1 << 30),
                }
                .into(),
                11 => HeartbeatReply { ballot, round: number(9), sent: slot, received: more, granted: true }
                    .into(),
                12 => ReadIndexRequest { number: number(9), lease: number(2) == 0 }.into(),
                13 => ReadIndexReply { number: number(9), slot: Some(slot) }.into(),
                14 => Forward.into(),
                _ => TransferLeader { released: Release { ballot, round: number(9) } }.into(),
            };
            solo.deliver(from, message, (number(2) == 0).then_some(&frame));
            if number(4) == 0 {
                solo.pass(HEARTBEAT);
            }
            if number(4) == 0 {
                solo.settle();
            }
        }
    }
}
