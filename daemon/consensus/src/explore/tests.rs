//! The search finds what is there to be found, and nothing else.

use panch_wire::batch::BatchWriter;
use panch_wire::command::{Command, CommandKind};
use panch_wire::frame::{FramePool, PAGE_SIZE};
use panch_wire::ids::{BatchId, Incarnation};

use super::*;
use crate::multi::Multi;
use crate::multi::message::Message;

/// A batch that writes `key`.
pub(super) fn batch(proposer: u8, counter: u64, key: &[u8]) -> Frame {
    let pool = FramePool::new(1 << 20);
    let id = BatchId { proposer: ReplicaId(proposer), incarnation: Incarnation(1), counter };
    let mut writer = BatchWriter::new(pool.take(PAGE_SIZE).expect("the pool has room"), Vec::new());
    let command = Command { kind: CommandKind::Set, flags: 0, session: None, key, value: b"value" };
    assert!(writer.push(&command));
    writer.seal(id).0
}

/// Proposals by these replicas, all of which write the same key.
pub(super) fn proposals(from: &[u8]) -> Vec<(ReplicaId, Frame)> {
    let proposal = |(index, from): (usize, &u8)| (ReplicaId(*from), batch(*from, index as u64 + 1, b"key"));
    from.iter().enumerate().map(proposal).collect()
}

fn set(ids: &[u8]) -> ReplicaSet {
    let mut set = ReplicaSet::default();
    ids.iter().for_each(|id| {
        set.insert(ReplicaId(*id));
    });
    set
}

fn search(setup: &Setup, start: &World<Multi>) -> Outcome {
    let mut report = |_: &Progress| true;
    let outcome = explore(setup, start, &|_| Ok(()), &mut report);
    println!("{:?}", outcome.progress);
    outcome
}

/// Deadlines fire at `id`, and messages pass between `id` and `peers` only, until it leads.
fn elect(setup: &Setup, world: &mut World<Multi>, id: u8, peers: &[u8]) {
    let among = set(&[&[id], peers].concat());
    for _ in 0..8 {
        if world.protocol(ReplicaId(id)).status().leading {
            world.lose_packets();
            return;
        }
        for replica in [peers, &[id]].concat() {
            world.perform(setup, Action::Deadline(ReplicaId(replica))).expect("nothing is wrong yet");
            if replica != id {
                world.lose_packets();
            }
        }
        let reaches = |packet: &Packet<Multi>| among.contains(packet.from) && among.contains(packet.to);
        world.deliver_all(setup, reaches).expect("nothing is wrong yet");
    }
    panic!("replica {id} does not become leader");
}

#[test]
fn the_first_schedules_of_a_first_election_and_one_batch_agree() {
    let mut setup = Setup::new(3, proposals(&[0]));
    setup.timing_out = set(&[0]);
    setup.bounds.deadlines = 1;
    setup.bounds.states = 3_000;
    let start = World::new(&setup).expect("starting decides nothing");
    let outcome = search(&setup, &start);
    assert_eq!(outcome.violation, None);
}

/// A slot holds a batch of an old ballot at one replica, and another one, chosen in a newer ballot, at the two others, of
/// which only the leader knows that it is chosen.
fn two_ballots() -> (Setup, World<Multi>) {
    let mut setup = Setup::new(3, proposals(&[0, 0, 1]));
    let mut world = World::new(&setup).expect("starting decides nothing");
    elect(&setup, &mut world, 0, &[1, 2]);
    for index in [0, 1] {
        world.perform(&setup, Action::Propose(index)).expect("nothing is wrong yet");
    }
    world.lose_packets();
    elect(&setup, &mut world, 1, &[2]);
    world.perform(&setup, Action::Propose(2)).expect("nothing is wrong yet");
    let arrives = |packet: &Packet<Multi>| {
        matches!(packet.message, Message::Accept(_) | Message::Accepted(_)) && packet.to != ReplicaId(0)
    };
    world.deliver_all(&setup, arrives).expect("nothing is wrong yet");
    world.lose_packets();
    // The first leader forgets that it led. From here on the second leader is cut off.
    let crash = Action::Crash { replica: ReplicaId(0), kept: 0 };
    world.perform(&setup, crash).expect("nothing is wrong yet");
    setup.cut = [(0, 1), (2, 1), (1, 0), (1, 2)].map(|(from, to)| (ReplicaId(from), ReplicaId(to))).to_vec();
    // Its follower stands for election; what was promised is on its way.
    setup.timing_out = set(&[2]);
    let is_promise =
        |packet: &Packet<Multi>| matches!(packet.message, Message::Promise(_) | Message::PromiseEntry(_));
    for _ in 0..8 {
        if world.packets().any(is_promise) {
            return (setup, world);
        }
        world.perform(&setup, Action::Deadline(ReplicaId(2))).expect("nothing is wrong yet");
        world.deliver_all(&setup, |packet| !is_promise(packet)).expect("nothing is wrong yet");
    }
    panic!("nothing is promised");
}

fn newer_ballots_win() {
    let (mut setup, world) = two_ballots();
    setup.bounds.states = 3_000;
    setup.bounds.deadlines = 1;
    let mut start = world;
    start.refill(&setup);
    let outcome = search(&setup, &start);
    if let Some(violation) = outcome.violation {
        panic!("{violation}");
    }
}

#[test]
fn whoever_leads_after_two_ballots_keeps_what_was_chosen() {
    newer_ballots_win();
}

#[cfg(feature = "mutants")]
#[test]
fn a_search_finds_a_leader_that_adopts_any_reported_value() {
    use panch_wire::rule::{Rule, remove};
    remove(Some(Rule::AdoptHighestBallot));
    let found = catch_unwind(newer_ballots_win);
    remove(None);
    let violation = found.expect_err("the rule can be removed unnoticed");
    let text = violation.downcast_ref::<String>().expect("a panic with a text");
    println!("{text}");
    assert!(text.contains("was decided to hold"), "{text}");
}

#[test]
fn a_search_ends_when_everything_was_tried() {
    let mut setup = Setup::new(3, proposals(&[1]));
    setup.timing_out = set(&[0]);
    setup.bounds.deadlines = 1;
    // One replica asks; the answers never come.
    setup.cut = [(1, 0), (2, 0)].map(|(from, to)| (ReplicaId(from), ReplicaId(to))).to_vec();
    let start = World::new(&setup).expect("starting decides nothing");
    let outcome = search(&setup, &start);
    assert!(outcome.is_complete && outcome.violation.is_none());
    // Proposed or not; asked or not, and then each of the two questions arrived or not.
    assert_eq!(outcome.progress.state_count, 2 * (1 + 4));
}

#[test]
fn crashes_lose_what_is_not_durable_and_nothing_else() {
    let (mut setup, mut start) = two_ballots();
    setup.syncs = true;
    setup.bounds.crashes = 1;
    setup.bounds.duplicates = 1;
    setup.bounds.states = 3_000;
    start.refill(&setup);
    assert_eq!(search(&setup, &start).violation, None);
}

#[test]
fn a_failed_check_comes_with_the_shortest_schedule() {
    let mut setup = Setup::new(3, proposals(&[0]));
    setup.timing_out = set(&[0]);
    setup.bounds.deadlines = 2;
    let start = World::new(&setup).expect("starting decides nothing");
    let nobody_stands = |world: &World<Multi>| match world.protocol(ReplicaId(0)).counters().elections {
        0 => Ok(()),
        _ => Err("replica 0 stands".to_owned()),
    };
    let outcome = explore(&setup, &start, &nobody_stands, &mut |_| true);
    let violation = outcome.violation.expect("pre-votes are granted");
    assert_eq!(violation.text, "replica 0 stands");
    // The deadline, a question, its answer.
    assert_eq!(violation.schedule.len(), 3, "{violation}");
}
