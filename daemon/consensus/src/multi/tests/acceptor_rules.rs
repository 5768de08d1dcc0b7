//! The exact effects of single events: acceptor, restart, election.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};

use super::super::message::*;
use super::solo::{ME, R1, R2, Solo, accepted, ballot, claim, hint, promised};
use crate::ballot::Ballot;
use crate::protocol::{Counters, Dest, Event, Protocol, Value};
use crate::rejoin::Horizon;
use crate::testing::{TIMEOUT, tuning};

#[test]
fn promises_a_higher_ballot_after_writing_it_down_and_reports_what_it_accepted() {
    let mut solo = Solo::new(3);
    let frames = [solo.frame(1), solo.frame(2), solo.frame(3)];
    let (old, new) = (ballot(1, 1), ballot(2, 2));
    for (slot, frame) in (1..).zip(&frames) {
        solo.accept(R1, old, slot, 1, frame);
    }
    solo.settle();
    solo.deliver(R2, Prepare { ballot: new, from_slot: Slot(2), released: Release::default() }, None);
    assert_eq!(solo.records(), [promised(new, 1)]);
    let promise = Promise { ballot: new, from_slot: Slot(2), commit: Slot(1), entry_count: 2 };
    let entry = |slot| PromiseEntry { ballot: new, slot: Slot(slot), accepted: old };
    let reply = [claim(4, R2, promise), claim(4, R2, entry(2)), claim(4, R2, entry(3))];
    assert_eq!(solo.effects.outgoing[1].body.as_ref(), Some(&frames[1]));
    assert_eq!(solo.sent(), reply);
    // The same request again: the same answer, nothing to write.
    solo.deliver(R2, Prepare { ballot: new, from_slot: Slot(2), released: Release::default() }, None);
    assert_eq!(solo.records(), []);
    assert_eq!(solo.sent(), reply);
}

#[test]
fn refuses_lower_ballots() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let high = ballot(5, 2);
    solo.deliver(R2, Prepare { ballot: high, from_slot: Slot(1), released: Release::default() }, None);
    solo.settle();
    let low = ballot(5, 1);
    solo.deliver(R1, Prepare { ballot: low, from_slot: Slot(1), released: Release::default() }, None);
    solo.accept(R1, low, 1, 0, &frame);
    solo.deliver(R1, Commit { ballot: low, commit: Slot(1) }, None);
    let refused = Refused { ballot: low, promised: high, behind: false, wait: 0 };
    assert_eq!(solo.sent(), [hint(R1, refused), hint(R1, refused)]);
    let heartbeat =
        Heartbeat { ballot: low, round: 7, commit: Slot(0), sent: Slot(0), acked: Slot(0), lease: 0 };
    solo.deliver(R1, heartbeat, None);
    let reply = HeartbeatReply { ballot: high, round: 7, sent: Slot(0), received: Slot(0), granted: false };
    assert_eq!(solo.sent(), [hint(R1, reply)]);
    assert_eq!(solo.records(), []);
    assert_eq!(solo.protocol.counters().refused, 4);
}

#[test]
fn a_ballot_is_owned_by_who_uses_it() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    solo.deliver(
        R1,
        Prepare { ballot: ballot(3, 2), from_slot: Slot(1), released: Release::default() },
        None,
    );
    solo.accept(R1, ballot(3, 2), 1, 0, &frame);
    solo.settle();
    assert_eq!(solo.status().ballot, Ballot::default());
}

#[test]
fn does_not_promise_what_it_can_no_longer_report() {
    let frame = Solo::new(3).frame(1);
    let records = [(accepted(ballot(1, 1), 5, 4), Some(frame))];
    let mut solo = Solo::restarted(3, Slot(4), &records);
    solo.deliver(
        R2,
        Prepare { ballot: ballot(2, 2), from_slot: Slot(4), released: Release::default() },
        None,
    );
    let refused = Refused { ballot: ballot(2, 2), promised: ballot(1, 1), behind: true, wait: 0 };
    assert_eq!(solo.sent(), [hint(R2, refused)]);
    solo.deliver(
        R2,
        Prepare { ballot: ballot(2, 2), from_slot: Slot(5), released: Release::default() },
        None,
    );
    assert_eq!(solo.sent().len(), 2);
}

#[test]
fn acknowledges_once_per_turn_and_after_the_last_record() {
    let mut solo = Solo::new(3);
    let frames = [solo.frame(1), solo.frame(2)];
    let leader = ballot(1, 1);
    solo.accept(R1, leader, 1, 0, &frames[0]);
    solo.accept(R1, leader, 2, 0, &frames[1]);
    assert_eq!(solo.records(), [accepted(leader, 1, 0), accepted(leader, 2, 0)]);
    assert_eq!(solo.sent(), []);
    solo.end_turn();
    assert_eq!(solo.sent(), [claim(2, R1, Accepted { ballot: leader, upto: Slot(2) })]);
    // Again: acknowledged again, not written again.
    solo.accept(R1, leader, 1, 0, &frames[0]);
    solo.end_turn();
    assert_eq!(solo.records(), []);
    assert_eq!(solo.sent(), [claim(2, R1, Accepted { ballot: leader, upto: Slot(2) })]);
    assert!(solo.effects.repropose, "the leader became known");
}

/// The next acceptance says what was chosen before it; where none comes, a record of its own does, once.
#[test]
pub(super) fn what_is_chosen_at_rest_is_written_down() {
    let mut solo = Solo::new(3);
    let frames = [solo.frame(1), solo.frame(2)];
    let (old, leader) = (ballot(1, 2), ballot(2, 1));
    // What was accepted in an older ballot, beyond what the leader has sent, lies there for as long as nobody writes.
    let stale = solo.frame(3);
    for slot in 1..=3 {
        solo.accept(R2, old, slot, 0, &stale);
    }
    solo.accept(R1, leader, 1, 0, &frames[0]);
    solo.accept(R1, leader, 2, 0, &frames[1]);
    solo.settle();
    let interval = tuning().heartbeat_interval;
    let heartbeat = |commit| Heartbeat {
        ballot: leader,
        round: 1,
        commit: Slot(commit),
        sent: Slot(2),
        acked: Slot(2),
        lease: 0,
    };
    solo.deliver(R1, heartbeat(1), None);
    solo.pass(interval);
    solo.deliver(R1, heartbeat(1), None);
    assert_eq!(solo.records(), [], "more is to come");
    // A read may follow each write: its heartbeat is no rest.
    solo.deliver(R1, heartbeat(2), None);
    solo.pass(interval / 4);
    solo.deliver(R1, heartbeat(2), None);
    assert_eq!(solo.records(), []);
    solo.pass(interval / 4);
    solo.deliver(R1, heartbeat(2), None);
    assert_eq!(solo.records(), [promised(leader, 2)]);
    solo.pass(interval);
    solo.deliver(R1, heartbeat(2), None);
    assert_eq!(solo.records(), []);
    // Whoever was restarted knows it.
    let [first, second] = frames;
    let records = [
        (accepted(leader, 1, 0), Some(first)),
        (accepted(leader, 2, 0), Some(second)),
        (promised(leader, 2), None),
    ];
    let mut solo = Solo::restarted(3, Slot(0), &records);
    assert_eq!(solo.chosen().len(), 2);
    solo.pass(interval);
    solo.deliver(R1, heartbeat(2), None);
    assert_eq!(solo.records(), []);
}

/// A leader that comes to rest does the same, and none of its followers has to be asked.
#[test]
fn a_leader_at_rest_writes_down_what_is_chosen() {
    let (mut solo, ballot) = Solo::leader(3);
    solo.pass(tuning().heartbeat_interval);
    assert_eq!(solo.records(), [promised(ballot, 1)]);
    solo.pass(tuning().heartbeat_interval);
    assert_eq!(solo.records(), []);
}

#[test]
fn a_gap_is_reported_not_accepted() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let leader = ballot(1, 1);
    solo.accept(R1, leader, 2, 0, &frame);
    solo.end_turn();
    assert_eq!(solo.records(), []);
    assert_eq!(solo.sent(), [hint(R1, Gap { ballot: leader, expected: Slot(1) })]);
}

#[test]
fn a_new_ballot_overwrites_what_was_not_chosen() {
    let mut solo = Solo::new(3);
    let frames = [solo.frame(1), solo.frame(2)];
    solo.accept(R1, ballot(1, 1), 1, 0, &frames[0]);
    solo.settle();
    solo.accept(R2, ballot(2, 2), 1, 1, &frames[1]);
    assert_eq!(solo.records(), [accepted(ballot(2, 2), 1, 0)]);
    assert_eq!(solo.chosen(), [(1, Value::Batch(frames[1].clone()))]);
    assert_eq!(solo.protocol.counters().overwritten, 1);
    // Chosen: nothing changes it, whatever the ballot.
    solo.accept(R1, ballot(3, 1), 1, 1, &frames[0]);
    assert_eq!(solo.records(), []);
    solo.end_turn();
    assert_eq!(solo.sent().last(), Some(&claim(2, R1, Accepted { ballot: ballot(3, 1), upto: Slot(1) })));
}

#[test]
fn commits_only_what_was_accepted_in_the_ballot_that_announces_it() {
    let mut solo = Solo::new(3);
    let frames = [solo.frame(1), solo.frame(2)];
    solo.accept(R1, ballot(1, 1), 1, 0, &frames[0]);
    solo.deliver(R2, Commit { ballot: ballot(2, 2), commit: Slot(1) }, None);
    assert_eq!(solo.chosen(), []);
    assert_eq!(solo.protocol.counters().commit_held, 1);
    solo.accept(R2, ballot(2, 2), 1, 1, &frames[1]);
    assert_eq!(solo.chosen(), [(1, Value::Batch(frames[1].clone()))]);
}

pub(super) fn snapshot_keeps_what_lies_beyond() {
    let mut solo = Solo::new(3);
    let leader = ballot(1, 1);
    for slot in 1..=5 {
        let frame = solo.frame(slot);
        solo.accept(R1, leader, slot, 0, &frame);
    }
    solo.settle();
    solo.step(Event::Installed { covered: Slot(3).into(), stamp: 3 });
    assert_eq!(solo.settle(), [claim(5, R1, Accepted { ballot: leader, upto: Slot(5) })]);
    solo.deliver(
        R2,
        Prepare { ballot: ballot(2, 2), from_slot: Slot(4), released: Release::default() },
        None,
    );
    assert_eq!(solo.sent().len(), 3, "a promise and the two entries beyond the snapshot");
    assert_eq!(solo.chosen(), []);
    assert_eq!(solo.status().committed, Slot(3));
}

/// T-M15.
#[test]
fn a_snapshot_keeps_acknowledged_entries_beyond_it() {
    snapshot_keeps_what_lies_beyond();
}

#[test]
fn an_acknowledgement_that_was_lost_is_repeated_on_a_heartbeat() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let leader = ballot(1, 1);
    solo.accept(R1, leader, 1, 0, &frame);
    solo.settle();
    let heartbeat = |acked| Heartbeat {
        ballot: leader,
        round: 1,
        commit: Slot(0),
        sent: Slot(1),
        acked: Slot(acked),
        lease: 0,
    };
    let reply = HeartbeatReply { ballot: leader, round: 1, sent: Slot(1), received: Slot(1), granted: false };
    solo.deliver(R1, heartbeat(0), None);
    solo.end_turn();
    let again = claim(1, R1, Accepted { ballot: leader, upto: Slot(1) });
    assert_eq!(solo.sent(), [hint(R1, reply), again]);
    solo.deliver(R1, heartbeat(1), None);
    solo.end_turn();
    assert_eq!(solo.sent(), [hint(R1, reply)]);
}

// Restart.

#[test]
fn replay_restores_promise_entries_and_what_was_chosen() {
    let pool = Solo::new(3);
    let (b1, b2) = (ballot(1, 1), ballot(2, 2));
    let frames: Vec<_> = (0..6).map(|counter| pool.frame(counter + 1)).collect();
    let records = [
        (promised(b1, 0), None),
        (accepted(b1, 1, 0), Some(frames[0].clone())),
        (accepted(b1, 2, 0), Some(frames[1].clone())),
        (accepted(b1, 3, 1), Some(frames[2].clone())),
        (promised(b2, 1), None),
        (accepted(b2, 2, 1), Some(frames[3].clone())),
        (accepted(b2, 3, 2), Some(frames[4].clone())),
    ];
    let mut solo = Solo::restarted(3, Slot(1), &records);
    assert_eq!(solo.chosen(), [(2, Value::Batch(frames[3].clone()))]);
    // Slot 2 is chosen but only the snapshot, up to slot 1, is stated: its acceptance may not be written yet.
    assert_eq!(solo.protocol.restate(), promised(b2, 1));
    assert_eq!(solo.status().last, Slot(3));
    // What is there in the leader's ballot is acknowledged without writing it again.
    solo.accept(R2, b2, 2, 2, &frames[3]);
    solo.end_turn();
    assert_eq!(solo.records(), []);
    assert_eq!(solo.sent(), [claim(0, R2, Accepted { ballot: b2, upto: Slot(3) })]);
}

#[test]
fn a_promise_that_rose_over_an_acceptance_is_not_an_acceptance() {
    let pool = Solo::new(3);
    let frames = [pool.frame(1), pool.frame(2)];
    let records = [
        (accepted(ballot(1, 1), 1, 0), Some(frames[0].clone())),
        (accepted(ballot(1, 1), 2, 1), Some(frames[1].clone())),
        (promised(ballot(2, 2), 1), None),
    ];
    let mut solo = Solo::restarted(3, Slot(0), &records);
    solo.chosen();
    solo.deliver(R2, Commit { ballot: ballot(2, 2), commit: Slot(2) }, None);
    assert_eq!(solo.chosen(), [], "slot 2 may hold another value in ballot 2");
}

#[test]
fn a_restarted_candidate_stands_above_every_ballot_it_used() {
    let mut solo = Solo::restarted(3, Slot(0), &[(promised(ballot(7, 0), 0), None)]);
    assert_eq!(solo.candidate(), ballot(8, 0));
}

#[test]
fn a_pre_vote_is_granted_unless_a_leader_lives_or_entries_would_be_missing() {
    let grant = |solo: &mut Solo, from: ReplicaId, commit: u64| {
        let ballot = ballot(9, from.0);
        solo.deliver(from, PreVote { ballot, commit: Slot(commit) }, None);
        match solo.sent().last() {
            Some((None, Dest::One(to), Message::PreVoteReply(reply))) if *to == from => reply.granted,
            other => panic!("{other:?} is not a reply to a pre-vote"),
        }
    };
    let mut solo = Solo::restarted(3, Slot(4), &[]);
    assert!(grant(&mut solo, R2, 4));
    assert!(!grant(&mut solo, R2, 3), "slot 4 is no longer in memory");
    solo.deliver(R1, Commit { ballot: ballot(1, 1), commit: Slot(4) }, None);
    assert!(!grant(&mut solo, R2, 4), "a leader was just heard");
    assert!(grant(&mut solo, R1, 4), "the leader itself has restarted");
    solo.now = solo.now + TIMEOUT;
    assert!(grant(&mut solo, R2, 4));
    let (mut leader, _) = Solo::leader(3);
    assert!(!grant(&mut leader, R2, 9));
}

#[test]
fn a_candidate_writes_its_ballot_down_before_it_asks() {
    let mut solo = Solo::new(3);
    solo.pass(TIMEOUT);
    let first = ballot(1, 0);
    let pre_vote = PreVote { ballot: first, commit: Slot(0) };
    assert_eq!(solo.sent(), [(None, Dest::Others, pre_vote.into())]);
    assert_eq!(solo.records(), []);
    solo.deliver(R1, PreVoteReply { ballot: first, seen: ballot(4, 2), granted: true, wait: 0 }, None);
    let second = ballot(5, 0);
    assert_eq!(solo.records(), [promised(second, 0)]);
    let prepare = Prepare { ballot: second, from_slot: Slot(1), released: Release::default() };
    assert_eq!(solo.sent(), [(Some(1), Dest::All, prepare.into())]);
}

pub(super) fn highest_ballot_is_adopted() {
    let mut solo = Solo::new(5);
    let (newer, older) = (solo.frame(1), solo.frame(2));
    let ballot_ = solo.candidate();
    solo.report(R1, ballot_, 1, ballot(3, 3), &newer);
    solo.report(R2, ballot_, 1, ballot(2, 4), &older);
    solo.promise(R1, ballot_, 1, 0, 1);
    solo.promise(R2, ballot_, 1, 0, 1);
    let values: Vec<_> = solo.effects.records.drain(..).map(|(_, body)| body).collect();
    assert_eq!(values, [Some(newer), None], "the newer value and the term start");
}

/// T-M4.
#[test]
fn the_value_of_the_highest_ballot_is_proposed_again() {
    highest_ballot_is_adopted();
}

/// T-M2.
#[test]
fn a_hole_gets_a_noop_and_its_neighbours_keep_their_values() {
    let mut solo = Solo::new(3);
    let (five, seven) = (solo.frame(5), solo.frame(7));
    let mut solo_ballot = solo.candidate();
    for slot in 1..5 {
        let frame = solo.frame(slot);
        solo.report(R1, solo_ballot, slot, ballot(1, 1), &frame);
    }
    solo.report(R1, solo_ballot, 7, ballot(1, 1), &seven);
    solo.report(R1, solo_ballot, 5, ballot(1, 1), &five);
    solo.promise(R1, solo_ballot, 1, 4, 6);
    let values: Vec<_> = solo.effects.records.drain(..).skip(4).collect();
    let record = |slot| accepted(solo_ballot, slot, 0);
    assert_eq!(
        values,
        [(record(5), Some(five)), (record(6), None), (record(7), Some(seven)), (record(8), None)]
    );
    assert_eq!(
        solo.protocol.counters(),
        Counters { elections: 1, terms: 1, adopted: 6, noops: 1, ..Counters::default() }
    );
    solo_ballot = solo.status().ballot;
    assert_eq!(solo_ballot.owner(), ME);
}

/// PM5.
#[test]
fn a_slot_that_a_promise_calls_chosen_is_never_filled() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let ballot_ = solo.candidate();
    solo.report(R1, ballot_, 2, ballot(1, 1), &frame);
    solo.promise(R1, ballot_, 1, 2, 1);
    assert_eq!(solo.records(), []);
    assert_eq!(solo.protocol.counters().terms, 0);
}

#[test]
fn a_promise_counts_once_its_entries_are_there_in_any_order() {
    let mut solo = Solo::new(3);
    let frames = [solo.frame(1), solo.frame(2)];
    let ballot_ = solo.candidate();
    solo.report(R1, ballot_, 2, ballot(1, 1), &frames[1]);
    solo.report(R1, ballot_, 2, ballot(1, 1), &frames[1]);
    solo.promise(R1, ballot_, 1, 0, 2);
    assert_eq!(solo.protocol.counters().terms, 0, "a duplicate is not the other entry");
    solo.report(R1, ballot_, 1, ballot(1, 1), &frames[0]);
    assert_eq!(solo.protocol.counters().terms, 1);
    assert!(solo.effects.repropose);
}

#[test]
fn a_candidate_too_far_behind_gives_up_once_no_quorum_is_left() {
    let mut solo = Solo::new(5);
    let ballot_ = solo.candidate();
    let refused = Refused { ballot: ballot_, promised: Ballot::default(), behind: true, wait: 0 };
    for (from, terms) in [(R1, 0), (R2, 0), (R2, 0)] {
        solo.deliver(from, refused, None);
        assert_eq!(solo.protocol.counters().terms, terms);
    }
    solo.deliver(ReplicaId(3), refused, None);
    solo.promise(R1, ballot_, 1, 0, 0);
    solo.promise(R2, ballot_, 1, 0, 0);
    assert_eq!(solo.protocol.counters().terms, 0);
}

#[test]
fn on_its_way_back_it_asks_for_slots_that_it_has_only_in_a_dead_ballot() {
    let mut solo = Solo::new(3);
    let frame = solo.frame(1);
    let (dead, new) = (ballot(1, 1), ballot(2, 2));
    solo.protocol.rejoin(&Horizon::of_log(dead, Slot(3)), &mut solo.effects);
    for slot in 1..=3 {
        solo.accept(R1, dead, slot, 0, &frame);
    }
    solo.settle();
    for slot in 1..=2 {
        solo.accept(R2, new, slot, 2, &frame);
    }
    solo.settle();
    let heartbeat =
        Heartbeat { ballot: new, round: 7, commit: Slot(2), sent: Slot(2), acked: Slot(0), lease: 0 };
    solo.deliver(R2, heartbeat, None);
    assert!(solo.settle().contains(&hint(R2, FillRequest { ballot: new, upto: Slot(3) })));
}

#[test]
fn a_leader_that_proposes_something_else_where_a_value_is_chosen_is_contradicted() {
    let mut solo = Solo::new(3);
    let (known, other) = (solo.frame(1), solo.frame(2));
    let (old, new) = (ballot(1, 1), ballot(2, 2));
    solo.accept(R1, old, 1, 0, &known);
    solo.accept(R1, old, 2, 2, &known);
    solo.settle();
    assert_eq!(solo.status().committed, Slot(2));
    // The same value again, by whomever: an honest first phase has found it.
    solo.accept(R1, old, 1, 2, &known);
    solo.accept(R2, new, 1, 0, &known);
    assert_eq!(solo.effects.contradiction, None);
    // A deposed leader is not listened to.
    solo.accept(R1, old, 2, 2, &other);
    assert_eq!(solo.effects.contradiction, None);
    solo.accept(R2, new, 2, 0, &other);
    let found = solo.effects.contradiction.expect("a first phase has missed what is chosen");
    assert_eq!((found.position, found.from), (Slot(2).into(), R2));
    assert_eq!((found.known, found.told), (known.checksum(), other.checksum()));
    // What is committed stays.
    solo.settle();
    assert_eq!(solo.status().committed, Slot(2));
}

#[test]
fn a_leader_that_has_never_proposed_what_is_chosen_is_contradicted() {
    let mut solo = Solo::new(3);
    let known = solo.frame(1);
    let (old, new) = (ballot(1, 1), ballot(2, 2));
    for slot in 1..=3 {
        solo.accept(R1, old, slot, slot, &known);
    }
    solo.settle();
    assert_eq!(solo.status().committed, Slot(3));
    // A late answer of the leader that had it chosen, and a new leader that knows of everything.
    solo.deliver(R1, Proposed { ballot: old, last: Slot(1) }, None);
    solo.deliver(R2, Proposed { ballot: new, last: Slot(3) }, None);
    assert_eq!(solo.effects.contradiction, None);
    solo.deliver(R2, Proposed { ballot: new, last: Slot(1) }, None);
    let found = solo.effects.contradiction.take().expect("a first phase has missed what is chosen");
    assert_eq!((found.position, found.from), (Slot(2).into(), R2));
    assert_eq!((found.known, found.told), (known.checksum(), 0));
}

fn heartbeat(ballot: Ballot, round: u64, commit: u64, sent: u64) -> Heartbeat {
    Heartbeat { ballot, round, commit: Slot(commit), sent: Slot(sent), acked: Slot(0), lease: 0 }
}

/// Follows R1, and knows of three slots that they are chosen.
fn with_three_chosen() -> (Solo, [Frame; 4]) {
    let mut solo = Solo::new(3);
    let frames = [solo.frame(1), solo.frame(2), solo.frame(3), solo.frame(4)];
    for (slot, frame) in (1..=3).zip(&frames) {
        solo.accept(R1, ballot(1, 1), slot, slot, frame);
    }
    solo.settle();
    assert_eq!(solo.status().committed, Slot(3));
    (solo, frames)
}

/// A leader that has forgotten what is chosen must not count a vote for what it is going to propose there.
pub(super) fn acknowledged_once_told() {
    let (mut solo, frames) = with_three_chosen();
    let new = ballot(2, 2);
    solo.deliver(R2, heartbeat(new, 1, 0, 0), None);
    let upto = |solo: &mut Solo| {
        let told = solo.settle().into_iter();
        let acks = told.filter_map(|(_, to, message)| match message {
            Message::Accepted(accepted) if to == Dest::One(R2) => Some(accepted.upto.0),
            _ => None,
        });
        acks.max()
    };
    assert_eq!(upto(&mut solo).unwrap_or(0), 0, "the leader has said nothing of it");
    solo.accept(R2, new, 1, 0, &frames[0]);
    assert_eq!(upto(&mut solo), Some(1));
    // The second is lost; what comes behind it does not make up for it.
    solo.accept(R2, new, 3, 0, &frames[2]);
    assert_eq!(upto(&mut solo), Some(1));
    solo.deliver(R2, heartbeat(new, 2, 0, 3), None);
    let reply = HeartbeatReply { ballot: new, round: 2, sent: Slot(3), received: Slot(1), granted: false };
    assert!(solo.sent().contains(&hint(R2, reply)), "it is sent again");
    solo.accept(R2, new, 2, 0, &frames[1]);
    solo.accept(R2, new, 3, 0, &frames[2]);
    solo.accept(R2, new, 4, 0, &frames[3]);
    assert_eq!(upto(&mut solo), Some(4));
}

#[test]
fn what_is_chosen_is_acknowledged_once_the_leader_has_said_what_it_proposes_there() {
    acknowledged_once_told();
    // A leader that knows more need not say it slot by slot.
    let (mut solo, frames) = with_three_chosen();
    solo.accept(R2, ballot(2, 2), 4, 3, &frames[3]);
    solo.end_turn();
    assert_eq!(solo.sent().last(), Some(&claim(4, R2, Accepted { ballot: ballot(2, 2), upto: Slot(4) })));
}

/// A leader contradicts what is chosen: nothing that it says counts, until a majority has gone on without this replica.
pub(super) fn contradicting_leader_is_deserted() {
    let (mut solo, frames) = with_three_chosen();
    let new = ballot(2, 2);
    solo.accept(R2, new, 1, 0, &frames[0]);
    solo.accept(R2, new, 2, 0, &frames[3]);
    assert!(solo.effects.contradiction.take().is_some());
    solo.accept(R2, new, 3, 1, &frames[2]);
    solo.deliver(R2, heartbeat(new, 1, 1, 3), None);
    solo.deliver(R2, Commit { ballot: new, commit: Slot(1) }, None);
    assert_eq!(solo.settle(), [], "neither votes nor contact");
    assert_eq!(solo.status().leader, None);
    // It does not wait for that leader either.
    let stands =
        |solo: &mut Solo| solo.sent().iter().any(|(_, _, message)| matches!(message, Message::PreVote(_)));
    let mut stood = false;
    for round in 2..40 {
        solo.deliver(R2, heartbeat(new, round, 1, 3), None);
        solo.pass(TIMEOUT / 10);
        stood |= stands(&mut solo);
    }
    assert!(stood);
    // A majority has it otherwise: who is right, digests tell.
    solo.deliver(R2, heartbeat(new, 40, 2, 3), None);
    assert_eq!(solo.status().leader, Some(R2));
    assert_eq!(solo.status().committed, Slot(3));
    solo.accept(R2, new, 3, 2, &frames[2]);
    solo.accept(R2, new, 4, 2, &frames[3]);
    let told = solo.settle();
    assert!(
        told.iter().any(|(_, _, message)| *message == Message::from(Accepted { ballot: new, upto: Slot(4) }))
    );
}

#[test]
fn a_leader_that_contradicts_what_is_chosen_is_not_followed_unless_a_majority_does() {
    contradicting_leader_is_deserted();
}

#[test]
fn a_higher_ballot_is_followed_after_a_contradiction() {
    let (mut solo, frames) = with_three_chosen();
    solo.accept(R2, ballot(2, 2), 1, 0, &frames[3]);
    assert_eq!(solo.settle(), []);
    solo.deliver(R1, heartbeat(ballot(3, 1), 1, 3, 3), None);
    assert_eq!(solo.status().leader, Some(R1));
    assert!(!solo.settle().is_empty());
}

#[test]
fn a_replica_whose_state_is_wrong_does_not_lead() {
    let (mut solo, ballot_) = Solo::leader(3);
    solo.protocol.disqualify(&mut solo.effects);
    assert!(!solo.status().leading);
    for _ in 0..20 {
        solo.pass(TIMEOUT);
    }
    let told = solo.settle();
    let stands = |message: &Message| matches!(message, Message::PreVote(_) | Message::Prepare(_));
    assert!(!told.iter().any(|(_, _, message)| stands(message)), "{told:?}");
    let higher = ballot(ballot_.round + 1, 1);
    solo.deliver(R1, heartbeat(higher, 1, 1, 1), None);
    let released = Release { ballot: higher, round: 1 };
    solo.deliver(R1, TransferLeader { released }, None);
    assert_eq!(solo.status().leader, Some(R1), "it votes for others");
    assert_eq!(solo.status().ballot, higher);
}
