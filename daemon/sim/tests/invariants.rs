//! Each invariant notices what it is about.

use panch_consensus::ballot::Ballot;
use panch_consensus::protocol::{Counters, Status};
use panch_replica::core::GroupStatus;
use panch_replica::probe::Probe;
use panch_sim::inspect::{Claim, Fact};
use panch_sim::invariant::exactly_once::ExactlyOnce;
use panch_sim::invariant::ledger::Vote;
use panch_sim::invariant::{Decision, Held, Invariants, durability};
use panch_sim::linear::register::Answer;
use panch_wire::ids::{GroupId, Slot};

const GROUP: GroupId = GroupId(0);

fn ballot(round: u64) -> Ballot {
    Ballot { round, owner: 0 }
}

fn decision(checksum: u64) -> Decision {
    Decision { held: Held::Batch(checksum), id: None }
}

fn status(executed: u64, last: u64, round: u64, digest: u64) -> GroupStatus {
    let protocol =
        Status { ballot: ballot(round), committed: Slot(executed), last: Slot(last), ..Status::default() };
    GroupStatus {
        group: GROUP,
        protocol,
        executed: Slot(executed),
        digest,
        keys: 0,
        probe: Probe::default(),
        counters: Counters::default(),
    }
}

/// Node `node` has the vote on its disk.
fn vote(invariants: &mut Invariants, node: usize, slot: u64, round: u64, checksum: u64) {
    let fact = Fact { ballot: ballot(round), accepts: Some(Slot(slot)) };
    invariants.on_stable(node, GROUP, fact, Held::Batch(checksum));
}

#[track_caller]
fn broken(invariants: &Invariants, rule: &str) {
    assert_eq!(invariants.violation().map(|violation| violation.rule), Some(rule));
}

#[track_caller]
fn whole(invariants: &Invariants) {
    assert_eq!(invariants.violation(), None);
}

#[test]
fn executing_something_else_breaks_agreement() {
    let mut invariants = Invariants::new(3);
    for node in 0..2 {
        vote(&mut invariants, node, 1, 1, 7);
    }
    invariants.on_executed(0, GROUP, Slot(1), decision(7));
    invariants.on_executed(1, GROUP, Slot(1), decision(7));
    whole(&invariants);
    invariants.on_executed(2, GROUP, Slot(1), decision(8));
    broken(&invariants, "agreement");
}

#[test]
fn votes_count_only_in_one_ballot_and_for_one_value() {
    let mut invariants = Invariants::new(3);
    vote(&mut invariants, 0, 1, 1, 7);
    vote(&mut invariants, 1, 1, 2, 7);
    vote(&mut invariants, 2, 1, 2, 8);
    invariants.on_executed(0, GROUP, Slot(1), decision(7));
    broken(&invariants, "chosen");
}

#[test]
fn claims_need_the_disk() {
    let mut invariants = Invariants::new(3);
    vote(&mut invariants, 0, 1, 1, 7);
    vote(&mut invariants, 0, 3, 1, 7);
    invariants.on_claim(0, GROUP, Claim::Promised(ballot(1)));
    invariants.on_claim(0, GROUP, Claim::AcceptedUpTo(ballot(1), Slot(1)));
    invariants.on_claim(0, GROUP, Claim::Reported(ballot(1), Slot(3), ballot(1)));
    whole(&invariants);
    for claim in [
        Claim::Promised(ballot(2)),
        Claim::AcceptedUpTo(ballot(1), Slot(3)),
        Claim::AcceptedUpTo(ballot(2), Slot(1)),
        Claim::Reported(ballot(1), Slot(2), ballot(1)),
    ] {
        let mut invariants = Invariants::new(3);
        vote(&mut invariants, 0, 1, 1, 7);
        vote(&mut invariants, 0, 3, 1, 7);
        invariants.on_claim(0, GROUP, claim);
        broken(&invariants, "claim");
    }
}

#[test]
fn ballots_and_positions_never_fall_within_a_life() {
    for (before, after, rule) in [
        (status(5, 6, 3, 1), status(5, 6, 2, 1), "ballot"),
        (status(5, 6, 3, 1), status(4, 6, 3, 2), "executed"),
        (status(5, 6, 3, 1), status(5, 5, 3, 1), "executed"),
    ] {
        let mut invariants = Invariants::new(3);
        invariants.on_status(0, &before);
        invariants.on_status(0, &after);
        broken(&invariants, rule);
        let mut invariants = Invariants::new(3);
        invariants.on_status(0, &before);
        invariants.on_crash(0);
        invariants.on_status(0, &after);
        whole(&invariants);
    }
    let mut invariants = Invariants::new(3);
    invariants.on_appended(0, GROUP, Fact { ballot: ballot(2), accepts: None });
    invariants.on_appended(0, GROUP, Fact { ballot: ballot(1), accepts: Some(Slot(1)) });
    broken(&invariants, "ballot");
}

#[test]
fn slots_are_executed_in_order_and_lead_to_one_state() {
    let mut invariants = Invariants::new(3);
    for slot in [1, 2] {
        for node in 0..2 {
            vote(&mut invariants, node, slot, 1, slot);
        }
        invariants.on_executed(0, GROUP, Slot(slot), decision(slot));
    }
    whole(&invariants);
    invariants.on_executed(0, GROUP, Slot(1), decision(1));
    broken(&invariants, "executed");
    let mut invariants = Invariants::new(3);
    invariants.on_status(0, &status(5, 5, 1, 1));
    invariants.on_status(1, &status(5, 5, 1, 2));
    broken(&invariants, "digest");
}

#[test]
fn a_restart_forgets_nothing_that_was_durable() {
    let mut invariants = Invariants::new(3);
    vote(&mut invariants, 0, 4, 2, 7);
    let kept = Vote { ballot: ballot(2), held: Held::Batch(7) };
    let check = |status: &GroupStatus, replayed: &[(Slot, Vote)]| {
        durability::check_boot(&invariants.ledger, 0, status, replayed)
    };
    assert_eq!(check(&status(3, 4, 2, 1), &[(Slot(4), kept)]), Ok(()));
    assert_eq!(check(&status(4, 4, 2, 1), &[]), Ok(()), "a snapshot covers it");
    assert!(check(&status(3, 4, 1, 1), &[(Slot(4), kept)]).is_err(), "the promise");
    assert!(check(&status(3, 3, 2, 1), &[]).is_err(), "the vote");
    let other = Vote { held: Held::Batch(8), ..kept };
    assert!(check(&status(3, 4, 2, 1), &[(Slot(4), other)]).is_err(), "the value");
}

#[test]
fn what_was_executed_stays_decided() {
    let mut invariants = Invariants::new(3);
    for node in 0..2 {
        vote(&mut invariants, node, 1, 1, 7);
    }
    invariants.on_executed(0, GROUP, Slot(1), decision(7));
    assert_eq!(durability::check_end(&invariants.agreement, GROUP, Slot(1)), Ok(()));
    assert!(durability::check_end(&invariants.agreement, GROUP, Slot(0)).is_err());
}

#[test]
fn sessions_are_answered_alike_and_lists_hold_nothing_twice() {
    let mut answers = ExactlyOnce::default();
    assert_eq!(answers.on_answer(1, 1, &Answer::Number(1)), Ok(()));
    assert_eq!(answers.on_answer(1, 1, &Answer::Number(1)), Ok(()));
    assert!(answers.on_answer(1, 1, &Answer::Number(2)).is_err());
    assert_eq!(ExactlyOnce::check_list(b"l0", b"0.1;1.1;0.2;"), Ok(()));
    assert!(ExactlyOnce::check_list(b"l0", b"0.1;1.1;0.1;").is_err());
}
