//! Each invariant notices what it is about.

use panch_consensus::ballot::Ballot;
use panch_consensus::protocol::{Counters, Status};
use panch_replica::probe::Probe;
use panch_replica::status::GroupStatus;
use panch_sim::client::{Outcome, OwnedCommand};
use panch_sim::inspect::{Attributes, Claim, Commitment, Fact, Round, Scope};
use panch_sim::invariant::access::Access;
use panch_sim::invariant::exactly_once::ExactlyOnce;
use panch_sim::invariant::ledger::{Entry, Page, Vote};
use panch_sim::invariant::stale::Stale;
use panch_sim::invariant::{Decision, Held, Invariants, durability};
use panch_sim::linear::register::{Action, Answer};
use panch_sim::linear::store::ManyAction;
use panch_wire::command::CommandError;
use panch_wire::ids::{BatchId, GroupId, Position, REPLICAS_MAX, Slot};

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
        kind: panch_consensus::protocol::ProtocolKind::Multi,
        frontier: executed,
        group: GROUP,
        protocol,
        executed: Slot(executed),
        digest,
        keys: 0,
        membership: Default::default(),
        standing: Default::default(),
        sending: Default::default(),
        digests: Default::default(),
        probe: Probe::default(),
        counters: Counters::default(),
    }
}

fn slot(number: u64) -> Position {
    Slot(number).into()
}

fn classic(round: u64) -> Round {
    Round::classic(ballot(round))
}

fn fast(round: u64) -> Round {
    Round { ballot: ballot(round), classic: false }
}

fn entry(number: u64, round: Round, checksum: u64) -> Entry {
    let vote = Vote { round, held: Held::Batch(checksum), attributes: 0 };
    Entry { promised: Some(round.ballot), joined: None, votes: Some((slot(number), vote)) }
}

/// Node `node` has the vote on its disk.
fn vote(invariants: &mut Invariants, node: usize, number: u64, round: u64, checksum: u64) {
    invariants.on_stable(node, GROUP, entry(number, classic(round), checksum));
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
    invariants.on_slot(0, GROUP, slot(1), decision(7));
    invariants.on_slot(1, GROUP, slot(1), decision(7));
    whole(&invariants);
    invariants.on_slot(2, GROUP, slot(1), decision(8));
    broken(&invariants, "agreement");
}

#[test]
fn votes_count_only_in_one_ballot_and_for_one_value() {
    let mut invariants = Invariants::new(3);
    vote(&mut invariants, 0, 1, 1, 7);
    vote(&mut invariants, 1, 1, 2, 7);
    vote(&mut invariants, 2, 1, 3, 8);
    invariants.on_slot(0, GROUP, slot(1), decision(7));
    broken(&invariants, "chosen");
}

#[test]
fn a_ballot_has_one_value() {
    let mut invariants = Invariants::new(5);
    vote(&mut invariants, 0, 1, 2, 7);
    whole(&invariants);
    vote(&mut invariants, 1, 1, 2, 8);
    broken(&invariants, "vote");
}

#[test]
fn a_lost_disk_helps_to_explain_what_is_executed_and_to_claim_nothing() {
    let mut invariants = Invariants::new(3);
    vote(&mut invariants, 0, 1, 1, 7);
    invariants.on_wipe(0);
    vote(&mut invariants, 1, 1, 1, 7);
    invariants.on_slot(1, GROUP, slot(1), decision(7));
    whole(&invariants);
    // It may vote again in the round it has forgotten, and what it has forgotten it must not claim.
    vote(&mut invariants, 0, 2, 1, 7);
    invariants.on_claim(0, GROUP, Claim::Voted(slot(2), classic(1), None));
    whole(&invariants);
    invariants.on_wipe(0);
    invariants.on_claim(0, GROUP, Claim::Voted(slot(2), classic(1), None));
    broken(&invariants, "claim");

    // Two votes of one node are one.
    let mut invariants = Invariants::new(3);
    vote(&mut invariants, 0, 1, 1, 7);
    invariants.on_wipe(0);
    vote(&mut invariants, 0, 1, 1, 7);
    invariants.on_slot(1, GROUP, slot(1), decision(7));
    broken(&invariants, "chosen");
}

#[test]
fn claims_need_the_disk() {
    let mut invariants = Invariants::new(3);
    vote(&mut invariants, 0, 1, 1, 7);
    vote(&mut invariants, 0, 3, 1, 7);
    invariants.on_claim(0, GROUP, Claim::Promised(Scope::Group, ballot(1)));
    invariants.on_claim(0, GROUP, Claim::AcceptedUpTo(classic(1), Slot(1)));
    invariants.on_claim(0, GROUP, Claim::Voted(slot(3), classic(1), None));
    whole(&invariants);
    for claim in [
        Claim::Promised(Scope::Group, ballot(2)),
        Claim::AcceptedUpTo(classic(1), Slot(3)),
        Claim::AcceptedUpTo(classic(2), Slot(1)),
        Claim::Voted(slot(2), classic(1), None),
        Claim::Voted(slot(1), classic(2), None),
        Claim::Voted(slot(1), classic(1), Some(Held::Batch(8))),
        Claim::Promised(Scope::One(slot(1)), ballot(1)),
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
    invariants.on_appended(0, GROUP, Fact { promised: Some(ballot(2)), ..Fact::default() });
    invariants.on_appended(0, GROUP, Fact { promised: Some(ballot(1)), ..Fact::default() });
    broken(&invariants, "ballot");
}

#[test]
fn slots_are_executed_in_order_and_lead_to_one_state() {
    let mut invariants = Invariants::new(3);
    for number in [1, 2] {
        for node in 0..2 {
            vote(&mut invariants, node, number, 1, number);
        }
        invariants.on_slot(0, GROUP, slot(number), decision(number));
    }
    whole(&invariants);
    invariants.on_slot(0, GROUP, slot(1), decision(1));
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
    let joined = Entry { joined: Some((slot(5), ballot(3))), ..Entry::default() };
    invariants.on_stable(0, GROUP, joined);
    let check = |status: &GroupStatus, entries: &[Entry]| {
        let mut page = Page::default();
        entries.iter().for_each(|entry| page.add(*entry).unwrap());
        durability::check_boot(&invariants.ledger, 0, status, &status.executed.into(), &page)
    };
    let kept = entry(4, classic(2), 7);
    assert_eq!(check(&status(3, 4, 2, 1), &[kept, joined]), Ok(()));
    assert_eq!(check(&status(4, 4, 2, 1), &[joined]), Ok(()), "a snapshot covers it");
    assert!(check(&status(3, 4, 1, 1), &[kept, joined]).is_err(), "the promise");
    assert!(check(&status(3, 3, 2, 1), &[joined]).is_err(), "the vote");
    assert!(check(&status(3, 3, 2, 1), &[entry(4, classic(2), 8), joined]).is_err(), "the value");
    assert!(check(&status(3, 4, 2, 1), &[kept]).is_err(), "the promise of one position");
}

#[test]
fn what_was_executed_stays_decided() {
    let mut invariants = Invariants::new(3);
    for node in 0..2 {
        vote(&mut invariants, node, 1, 1, 7);
    }
    invariants.on_slot(0, GROUP, slot(1), decision(7));
    assert_eq!(durability::check_end(&invariants.agreement, GROUP, &Slot(1).into()), Ok(()));
    assert!(durability::check_end(&invariants.agreement, GROUP, &Slot(0).into()).is_err());
}

#[test]
fn a_node_votes_once_in_a_round() {
    let mut invariants = Invariants::new(3);
    invariants.on_stable(0, GROUP, entry(1, fast(1), 7));
    invariants.on_stable(0, GROUP, entry(1, fast(1), 7));
    invariants.on_stable(0, GROUP, entry(1, classic(1), 8));
    whole(&invariants);
    invariants.on_stable(0, GROUP, entry(1, fast(1), 8));
    broken(&invariants, "vote");
}

#[test]
fn a_fast_round_needs_a_fast_quorum() {
    let mut invariants = Invariants::new(5);
    for node in 0..3 {
        invariants.on_stable(node, GROUP, entry(1, fast(1), 7));
        invariants.on_stable(node, GROUP, entry(2, classic(1), 7));
    }
    invariants.on_slot(0, GROUP, slot(2), decision(7));
    whole(&invariants);
    invariants.on_slot(0, GROUP, slot(1), decision(7));
    broken(&invariants, "chosen");
}

#[test]
fn two_values_chosen_in_two_rounds_are_noticed_before_anybody_executes_them() {
    let mut invariants = Invariants::new(5);
    for node in 0..4 {
        invariants.on_stable(node, GROUP, entry(1, fast(1), 7));
    }
    for node in 2..4 {
        invariants.on_stable(node, GROUP, entry(1, classic(1), 8));
    }
    whole(&invariants);
    invariants.on_stable(4, GROUP, entry(1, classic(1), 8));
    broken(&invariants, "vote");
}

fn at(row: u8, number: u64) -> Position {
    Position { row, number }
}

fn batch(counter: u64) -> Decision {
    let id = BatchId { counter, ..BatchId::default() };
    Decision { held: Held::Batch(counter), id: Some(id) }
}

fn access(writes: &[&str], reads: &[&str]) -> Access {
    let keys = |keys: &[&str]| keys.iter().map(|key| key.as_bytes().to_vec()).collect();
    Access { writes: keys(writes), reads: keys(reads) }
}

fn commitment(position: Position, deps: [u64; 3]) -> Commitment {
    let mut attributes = Attributes { deps: [0; REPLICAS_MAX], stamp: 1 };
    attributes.deps[..3].copy_from_slice(&deps);
    Commitment { position, noop: false, attributes }
}

#[test]
fn what_interferes_is_executed_in_one_order() {
    let (a, b) = (access(&["x"], &[]), access(&["x", "y"], &[]));
    let run = |orders: [[u8; 2]; 2], second: &Access| {
        let mut invariants = Invariants::new(3);
        for (node, order) in orders.into_iter().enumerate() {
            for row in order {
                let keys = if row == 0 { &a } else { second };
                invariants.on_instance(node, GROUP, at(row, 1), batch(u64::from(row) + 1), keys);
            }
        }
        invariants.violation().map(|violation| violation.rule)
    };
    assert_eq!(run([[0, 1], [0, 1]], &b), None);
    assert_eq!(run([[0, 1], [1, 0]], &access(&["y"], &["z"])), None);
    assert_eq!(run([[0, 1], [1, 0]], &b), Some("order"));
    assert_eq!(run([[0, 1], [1, 0]], &access(&[], &["x"])), Some("order"), "a read between other writes");
}

#[test]
fn a_snapshot_holds_a_prefix_of_every_key() {
    let mut invariants = Invariants::new(3);
    for row in 0..3 {
        invariants.on_instance(0, GROUP, at(row, 1), batch(u64::from(row) + 1), &access(&["x"], &[]));
    }
    let mut covered = panch_consensus::frontier::Frontier::default();
    covered.insert(at(0, 1));
    invariants.on_restored(1, GROUP, covered.clone());
    invariants.on_instance(1, GROUP, at(1, 1), batch(2), &access(&["x"], &[]));
    whole(&invariants);
    covered.insert(at(2, 1));
    invariants.on_restored(1, GROUP, covered);
    broken(&invariants, "order");
}

#[test]
fn a_batch_has_one_position_where_there_is_no_log() {
    let mut invariants = Invariants::new(3);
    invariants.on_instance(0, GROUP, at(0, 1), batch(1), &access(&["x"], &[]));
    invariants.on_instance(0, GROUP, at(1, 1), batch(1), &access(&["x"], &[]));
    broken(&invariants, "agreement");
    let mut invariants = Invariants::new(3);
    invariants.on_instance(0, GROUP, at(0, 1), batch(1), &access(&["x"], &[]));
    invariants.on_instance(0, GROUP, at(0, 1), batch(1), &access(&["x"], &[]));
    broken(&invariants, "executed");
}

#[test]
fn of_two_that_interfere_one_depends_on_the_other() {
    let run = |first: [u64; 3], second: [u64; 3], keys: Access| {
        let mut invariants = Invariants::new(3);
        invariants.on_commitment(GROUP, commitment(at(0, 3), first));
        invariants.on_instance(0, GROUP, at(0, 3), batch(1), &access(&["x"], &[]));
        invariants.on_instance(0, GROUP, at(1, 2), batch(2), &keys);
        invariants.on_commitment(GROUP, commitment(at(1, 2), second));
        invariants.violation().map(|violation| violation.rule)
    };
    assert_eq!(run([2, 2, 0], [0, 1, 0], access(&["x"], &[])), None);
    assert_eq!(run([2, 0, 0], [5, 1, 0], access(&["x"], &[])), None, "a prefix");
    assert_eq!(run([2, 1, 0], [2, 1, 9], access(&["y"], &["z"])), None);
    assert_eq!(run([2, 1, 0], [2, 1, 9], access(&["y"], &["x"])), Some("visibility"));
    assert_eq!(run([2, 1, 0], [2, 1, 9], access(&["x"], &[])), Some("visibility"));
}

#[test]
fn all_commit_attributes_that_order_an_instance_alike() {
    let (first, other) = (at(0, 3), at(1, 1));
    let mut invariants = Invariants::new(3);
    for deps in [[2, 0, 0], [2, 0, 0], [2, 1, 0]] {
        invariants.on_commitment(GROUP, commitment(first, deps));
    }
    // Nothing is known to interfere with it.
    whole(&invariants);
    invariants.on_instance(0, GROUP, first, batch(1), &access(&["x"], &[]));
    invariants.on_commitment(GROUP, commitment(other, [0, 0, 0]));
    invariants.on_instance(0, GROUP, other, batch(2), &access(&["x"], &[]));
    broken(&invariants, "visibility");

    let mut invariants = Invariants::new(3);
    invariants.on_commitment(GROUP, commitment(first, [2, 0, 0]));
    let mut later = commitment(first, [2, 0, 0]);
    later.attributes.stamp += 1;
    invariants.on_commitment(GROUP, later);
    broken(&invariants, "visibility");
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

#[test]
fn a_process_never_shows_what_it_has_replaced() {
    let shown = |value: &str| Outcome::Answer(Answer::Value(Some(value.as_bytes().into())));
    let both = |values: [Option<&str>; 2]| {
        let values = values.map(|value| value.map(|value| value.as_bytes().into()));
        Outcome::Answer(Answer::Values(values.to_vec()))
    };
    let get = OwnedCommand::of(b"a", &Action::Get);
    let mget = OwnedCommand::of_many(&ManyAction::Read(vec![b"b".as_slice().into(), b"a".as_slice().into()]));
    let mut stale = Stale::default();
    let mut read =
        |life, command: &OwnedCommand, outcome| stale.on_read((1, life), &command.borrow(), &outcome);
    assert!(read(1, &get, Outcome::Answer(Answer::Value(None))).is_ok());
    assert!(read(1, &get, shown("1")).is_ok());
    assert!(read(1, &get, shown("1")).is_ok());
    assert!(read(1, &get, shown("2")).is_ok());
    assert!(read(1, &mget, both([Some("1"), None])).is_ok(), "another key, and a deletion");
    assert!(read(1, &get, Outcome::Refused(CommandError::Unavailable)).is_ok());
    assert!(read(1, &mget, both([Some("1"), Some("1")])).is_err());
    // The next process may have executed less.
    assert!(read(2, &get, shown("1")).is_ok());
}
