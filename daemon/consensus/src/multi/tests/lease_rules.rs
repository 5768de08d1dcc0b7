//! The exact effects of single events: leases.

use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::time::{Duration, Instant};

use super::super::lease::usable;
use super::super::message::*;
use super::leases::{LEASE, leasing};
use super::solo::{ME, R1, R2, Solo, ballot, promised};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Event, Protocol, ReadContext, Tuning};
use crate::testing::{HEARTBEAT, TIMEOUT};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn follower() -> Solo {
    let mut solo = Solo::open(3, leasing(), &Slot(0).into(), &[]);
    // The length of its lease is durable.
    solo.settle();
    solo
}

fn heartbeat(ballot: Ballot, round: u64, lease: Duration) -> Heartbeat {
    let lease = lease.as_nanos() as u64;
    Heartbeat { ballot, round, commit: Slot(0), sent: Slot(0), acked: Slot(0), lease }
}

fn prepare(ballot: Ballot) -> Prepare {
    Prepare { ballot, from_slot: Slot(1), released: Release::default() }
}

/// What was sent to `to`, as the first of it that `pick` wants.
fn sent_to<T>(solo: &mut Solo, to: ReplicaId, pick: impl Fn(Message) -> Option<T>) -> Option<T> {
    let sent = solo.sent();
    sent.into_iter().filter(|(_, dest, _)| *dest == Dest::One(to)).find_map(|(_, _, message)| pick(message))
}

/// Whether R1's heartbeat is granted.
fn granted(solo: &mut Solo, message: Heartbeat) -> bool {
    solo.sent();
    solo.deliver(R1, message, None);
    let reply = sent_to(solo, R1, |message| match message {
        Message::HeartbeatReply(reply) => Some(reply),
        _ => None,
    });
    reply.expect("the leader is answered").granted
}

/// The wait that an acceptor asks the candidate for; `None` if it promises.
fn wait_of(solo: &mut Solo, from: ReplicaId, message: Prepare) -> Option<Duration> {
    solo.sent();
    solo.deliver(from, message, None);
    let answer = sent_to(solo, from, |message| match message {
        Message::Refused(refused) => Some(Some(Duration::from_nanos(refused.wait))),
        Message::Promise(_) => Some(None),
        _ => None,
    });
    answer.expect("the candidate is answered")
}

/// A leader that has just sent a round that asks for a lease: its send time and number.
fn asks(solo: &mut Solo) -> (Instant, u64) {
    solo.sent();
    solo.pass(HEARTBEAT);
    let heartbeat = sent_to(solo, R1, |message| match message {
        Message::Heartbeat(heartbeat) => Some(heartbeat),
        _ => None,
    });
    let heartbeat = heartbeat.expect("it is time");
    assert_eq!(heartbeat.lease, LEASE.as_nanos() as u64);
    (solo.now, heartbeat.round)
}

fn grant(solo: &mut Solo, from: ReplicaId, ballot: Ballot, round: u64) {
    let reply = HeartbeatReply { ballot, round, sent: Slot(0), received: Slot(1), granted: true };
    solo.deliver(from, reply, None);
}

/// Whether a lease read is answered at once.
fn reads(solo: &mut Solo, context: u64) -> bool {
    solo.effects.reads.clear();
    solo.step(Event::Read { context: ReadContext(context), lease: true });
    solo.effects.reads.contains(&(ReadContext(context), Some(Slot(1))))
}

/// What the log says of the longest lease.
fn named(records: &[Record]) -> Vec<Duration> {
    let named = records.iter().filter_map(|record| match record {
        Record::Lease(record) => Some(Duration::from_nanos(record.longest)),
        _ => None,
    });
    named.collect()
}

pub(super) fn longest_lease_is_written_down() {
    let mut solo = Solo::open(3, leasing(), &Slot(0).into(), &[]);
    let written = solo.effects.records.clone();
    assert!(
        !granted(&mut solo, heartbeat(ballot(1, 1), 1, LEASE)),
        "D7: a crash now, and nobody waits for it"
    );
    assert_eq!(named(&solo.records()), [LEASE]);
    solo.deliver(ME, Logged { point: 1 }, None);
    assert!(granted(&mut solo, heartbeat(ballot(1, 1), 2, LEASE)));
    assert_eq!(named(&[solo.protocol.restate()]), [LEASE], "it survives recycling");
    // A later life with a shorter lease waits for the longer one, and only then forgets it.
    let shorter = Tuning { lease: ms(10), ..leasing() };
    let mut solo = Solo::open(3, shorter, &Slot(0).into(), &written);
    solo.settle();
    assert!(wait_of(&mut solo, R2, prepare(ballot(2, 2))).is_some_and(|wait| wait >= LEASE));
    solo.now = solo.now + ms(5);
    assert!(granted(&mut solo, heartbeat(ballot(1, 1), 1, ms(10))));
    assert_eq!(named(&[solo.protocol.restate()]), [LEASE]);
    solo.now = solo.now + LEASE;
    solo.deliver(ME, Logged { point: u64::MAX }, None);
    assert!(granted(&mut solo, heartbeat(ballot(1, 1), 2, ms(10))));
    assert_eq!(named(&solo.records()), [ms(10)]);
    assert_eq!(named(&[solo.protocol.restate()]), [ms(10)]);
}

#[test]
fn the_longest_lease_is_in_the_log_before_it_is_granted() {
    longest_lease_is_written_down();
}

pub(super) fn lease_from_the_send_time() {
    let (mut solo, ballot) = Solo::leader_with(3, leasing());
    assert!(!reads(&mut solo, 1), "nothing is granted");
    let (sent, round) = asks(&mut solo);
    solo.now = sent + ms(30);
    grant(&mut solo, R1, ballot, round);
    solo.now = sent + ms(44);
    assert!(reads(&mut solo, 2));
    solo.now = sent + ms(45);
    assert!(!reads(&mut solo, 3), "T-M8: the grant began when the heartbeat arrived, not when its reply did");
    assert_eq!(solo.protocol.counters().lease_reads, 1);
}

#[test]
fn a_lease_counts_from_the_send_time() {
    lease_from_the_send_time();
}

pub(super) fn less_than_the_grant_is_used() {
    // 1 % of drift either way, and 5 ms.
    assert_eq!(usable(ms(250), 10_000), Duration::from_nanos(240_049_504));
    assert_eq!(usable(ms(5), 10_000), Duration::ZERO);
    assert_eq!(usable(ms(100), 2_000_000), Duration::ZERO);
}

#[test]
fn a_leader_counts_on_less_than_what_was_granted() {
    less_than_the_grant_is_used();
}

pub(super) fn lease_after_a_pause() {
    let (mut solo, ballot) = Solo::leader_with(3, leasing());
    let (sent, round) = asks(&mut solo);
    grant(&mut solo, R1, ballot, round);
    assert!(reads(&mut solo, 1));
    // Nothing is done for a while, not even what the timers ask for.
    solo.now = sent + 2 * LEASE;
    assert!(!reads(&mut solo, 2), "T-M6");
}

#[test]
fn a_leader_that_was_paused_does_not_trust_its_lease() {
    lease_after_a_pause();
}

pub(super) fn lease_before_the_term_start() {
    let (mut solo, ballot) = Solo::new_leader_with(3, leasing());
    let (_, round) = asks(&mut solo);
    grant(&mut solo, R1, ballot, round);
    solo.effects.reads.clear();
    solo.step(Event::Read { context: ReadContext(1), lease: true });
    assert_eq!(solo.effects.reads, [], "the leader cannot know yet what is chosen");
}

#[test]
fn no_lease_read_comes_before_the_term_start() {
    lease_before_the_term_start();
}

#[test]
fn a_lease_needs_a_quorum_of_grants() {
    let (mut solo, ballot) = Solo::leader_with(5, leasing());
    let (sent, round) = asks(&mut solo);
    grant(&mut solo, R1, ballot, round);
    grant(&mut solo, R1, ballot, round);
    assert!(!reads(&mut solo, 1));
    solo.now = sent + ms(10);
    grant(&mut solo, R2, ballot, round + 1);
    assert!(!reads(&mut solo, 2), "that round was never sent");
    grant(&mut solo, R2, ballot, round);
    assert!(reads(&mut solo, 3));
}

pub(super) fn grants_in_another_ballot() {
    let (mut solo, mine) = Solo::leader_with(3, leasing());
    let (_, round) = asks(&mut solo);
    grant(&mut solo, R1, ballot(mine.round + 1, 2), round);
    assert!(!reads(&mut solo, 1), "T-M11");
}

#[test]
fn a_grant_in_another_ballot_does_not_count() {
    grants_in_another_ballot();
}

pub(super) fn granter_refuses_others() {
    let mut solo = follower();
    let start = solo.now;
    assert!(granted(&mut solo, heartbeat(ballot(1, 1), 1, LEASE)));
    solo.now = start + LEASE - ms(1);
    assert_eq!(wait_of(&mut solo, R2, prepare(ballot(2, 2))), Some(ms(1)));
    assert_eq!(solo.protocol.counters().lease_refusals, 1);
    solo.now = start + LEASE;
    assert_eq!(wait_of(&mut solo, R2, prepare(ballot(2, 2))), None);
}

#[test]
fn a_granter_promises_others_nothing_till_the_grant_ends() {
    granter_refuses_others();
}

#[test]
fn a_granter_promises_the_leader_a_new_ballot_at_once() {
    let mut solo = follower();
    assert!(granted(&mut solo, heartbeat(ballot(1, 1), 1, LEASE)));
    assert_eq!(wait_of(&mut solo, R1, prepare(ballot(2, 1))), None);
}

#[test]
fn a_leader_with_a_lease_promises_others_nothing() {
    let (mut solo, mine) = Solo::leader_with(3, leasing());
    let (_, round) = asks(&mut solo);
    grant(&mut solo, R1, mine, round);
    let other = Prepare { from_slot: Slot(2), ..prepare(ballot(mine.round + 1, 2)) };
    assert_eq!(wait_of(&mut solo, R2, other), Some(LEASE));
    assert!(reads(&mut solo, 1));
}

#[test]
fn a_pre_vote_is_refused_with_the_time_left() {
    let mut solo = follower();
    assert!(granted(&mut solo, heartbeat(ballot(1, 1), 1, LEASE)));
    solo.step(Event::Suspect(R1));
    solo.now = solo.now + ms(20);
    solo.deliver(R2, PreVote { ballot: ballot(2, 2), commit: Slot(0) }, None);
    let reply = PreVoteReply {
        ballot: ballot(2, 2),
        seen: ballot(1, 1),
        granted: false,
        wait: ms(30).as_nanos() as u64,
    };
    assert_eq!(solo.sent().last(), Some(&super::solo::hint(R2, reply)));
}

pub(super) fn granter_does_not_stand() {
    let mut solo = follower();
    for round in 1..20 {
        assert!(granted(&mut solo, heartbeat(ballot(1, 1), round, LEASE)));
        solo.deliver(ME, Accepted { ballot: ballot(1, 1), upto: Slot(0) }, None);
        solo.deliver(ME, Logged { point: u64::MAX }, None);
        solo.step(Event::Suspect(R1));
        solo.sent();
        for _ in 1..LEASE.as_millis() {
            solo.pass(ms(1));
            assert_eq!(solo.sent(), [], "round {round}");
        }
        solo.pass(TIMEOUT / 8 + ms(2));
        assert!(
            matches!(solo.sent()[..], [(None, Dest::Others, Message::PreVote(_))]),
            "the lease costs no more than it lasts"
        );
    }
}

#[test]
fn a_granter_does_not_stand_for_election_till_the_grant_ends() {
    granter_does_not_stand();
}

pub(super) fn restarted_replica_waits() {
    let mut solo = Solo::open(3, leasing(), &Slot(0).into(), &[(promised(ballot(1, 1), 0), None)]);
    let start = solo.now;
    assert_eq!(wait_of(&mut solo, R2, prepare(ballot(2, 2))), Some(LEASE * 101 / 100));
    solo.now = start + LEASE * 101 / 100;
    assert_eq!(wait_of(&mut solo, R2, prepare(ballot(2, 2))), None);
}

#[test]
fn a_restarted_replica_promises_nothing_for_a_lease() {
    restarted_replica_waits();
}

#[test]
fn the_first_start_waits_for_nothing() {
    assert_eq!(wait_of(&mut follower(), R2, prepare(ballot(2, 2))), None);
}

pub(super) fn longer_than_own_lease() {
    let mut solo = follower();
    assert!(!granted(&mut solo, heartbeat(ballot(1, 1), 1, LEASE + ms(1))));
    assert_eq!(wait_of(&mut solo, R2, prepare(ballot(2, 2))), None);
    let mut solo = Solo::new(3);
    assert!(!granted(&mut solo, heartbeat(ballot(1, 1), 1, ms(1))), "this replica grants no leases");
}

#[test]
fn no_grant_is_longer_than_the_wait_after_a_restart() {
    longer_than_own_lease();
}

pub(super) fn release_of_earlier_rounds() {
    let mut solo = follower();
    assert!(granted(&mut solo, heartbeat(ballot(1, 1), 5, LEASE)));
    assert!(granted(&mut solo, heartbeat(ballot(1, 1), 4, LEASE)), "a late one");
    let released = |ballot, round| Release { ballot, round };
    let with = |released| Prepare { released, ..prepare(ballot(2, 2)) };
    assert!(wait_of(&mut solo, R2, with(released(ballot(0, 1), 9))).is_some());
    assert!(wait_of(&mut solo, R2, with(released(ballot(1, 1), 4))).is_some());
    assert_eq!(wait_of(&mut solo, R2, with(released(ballot(1, 1), 5))), None);
}

#[test]
fn a_handover_ends_only_the_rounds_it_names() {
    release_of_earlier_rounds();
}

pub(super) fn granter_whose_log_stands_still() {
    let mut solo = follower();
    let leader = ballot(1, 1);
    solo.accept(R1, leader, 1, 0, &solo.frame(1));
    assert!(granted(&mut solo, heartbeat(leader, 1, LEASE)));
    solo.now = solo.now + LEASE - ms(1);
    assert!(granted(&mut solo, heartbeat(leader, 2, LEASE)));
    solo.now = solo.now + ms(1);
    assert!(!granted(&mut solo, heartbeat(leader, 3, LEASE)), "what it asked its log did not come back");
    solo.deliver(ME, Accepted { ballot: leader, upto: Slot(1) }, None);
    assert!(granted(&mut solo, heartbeat(leader, 4, LEASE)));
}

#[test]
fn a_granter_whose_log_stands_still_grants_nothing() {
    granter_whose_log_stands_still();
}

#[test]
fn a_leader_whose_log_stands_still_asks_for_nothing() {
    let (mut solo, ballot) = Solo::leader_with(3, leasing());
    let frame = solo.frame(1);
    solo.step(Event::Propose(frame));
    for _ in 0..3 {
        let (_, round) = asks_or_not(&mut solo).expect("a round");
        grant(&mut solo, R1, ballot, round);
    }
    let (lease, _) = asks_or_not(&mut solo).expect("a round");
    assert_eq!(lease, 0);
    solo.deliver(ME, Accepted { ballot, upto: Slot(2) }, None);
    let (lease, _) = asks_or_not(&mut solo).expect("a round");
    assert!(lease > 0);
}

/// What the next heartbeat asks for, and its round.
fn asks_or_not(solo: &mut Solo) -> Option<(u64, u64)> {
    solo.sent();
    solo.pass(HEARTBEAT);
    sent_to(solo, R1, |message| match message {
        Message::Heartbeat(heartbeat) => Some((heartbeat.lease, heartbeat.round)),
        _ => None,
    })
}

#[test]
fn a_candidate_asks_again_when_a_lease_is_over() {
    let mut solo = follower();
    let ballot = solo.candidate();
    solo.sent();
    let wait = ms(10).as_nanos() as u64;
    let refused = Refused { ballot, promised: Ballot::default(), behind: false, wait };
    solo.deliver(R1, refused, None);
    solo.pass(ms(9));
    assert_eq!(solo.sent(), []);
    solo.pass(TIMEOUT / 16 + ms(1));
    let again = solo.sent();
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|(after, _, message)| after.is_some() && *message == prepare(ballot).into()));
    solo.promise(R1, ballot, 1, 0, 0);
    assert_eq!(solo.protocol.counters().terms, 1);
}

#[test]
fn a_follower_asks_the_leader_for_what_its_reads_need() {
    let mut solo = follower();
    solo.deliver(R1, Commit { ballot: ballot(1, 1), commit: Slot(0) }, None);
    let request = |solo: &mut Solo| {
        solo.end_turn();
        sent_to(solo, R1, |message| match message {
            Message::ReadIndexRequest(request) => Some(request),
            _ => None,
        })
    };
    solo.step(Event::Read { context: ReadContext(1), lease: true });
    let first = request(&mut solo).unwrap();
    assert!(first.lease);
    solo.step(Event::Read { context: ReadContext(2), lease: true });
    solo.step(Event::Read { context: ReadContext(3), lease: false });
    solo.deliver(R1, ReadIndexReply { number: first.number, slot: Some(Slot(0)) }, None);
    let second = request(&mut solo).unwrap();
    assert!(!second.lease, "one of the reads needs more");
    solo.deliver(R1, ReadIndexReply { number: second.number, slot: Some(Slot(0)) }, None);
    solo.step(Event::Read { context: ReadContext(4), lease: true });
    assert!(request(&mut solo).unwrap().lease);
}

#[test]
fn a_leader_with_a_lease_answers_a_follower_without_a_round() {
    let (mut solo, ballot) = Solo::leader_with(3, leasing());
    let (_, round) = asks(&mut solo);
    grant(&mut solo, R1, ballot, round);
    solo.sent();
    solo.deliver(R2, ReadIndexRequest { number: 7, lease: true }, None);
    let reply = ReadIndexReply { number: 7, slot: Some(Slot(1)) };
    assert_eq!(solo.sent(), [super::solo::hint(R2, reply)]);
    solo.deliver(R2, ReadIndexRequest { number: 8, lease: false }, None);
    assert_eq!(solo.sent(), []);
}
