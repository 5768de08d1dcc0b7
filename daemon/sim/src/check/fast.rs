//! Fast Paxos: picking and recovery with two values.
//!
//! Values are proposed free for all, so that they collide. Heartbeats and repeated pre-votes are left out: they say nothing that
//! other messages do not say.

use panch_consensus::explore::{Action, Bounds, Packet, World};
use panch_consensus::fast::Fast;
use panch_consensus::fast::message::{Message, Record};
use panch_consensus::fast::round::{Round, ValueName};
use panch_consensus::protocol::Protocol;
use panch_consensus::quorum::{classic_quorum, fast_quorum};
use panch_wire::ids::{ReplicaId, Slot};

use super::{Configuration, Script, Scripted, search, set, setup};

/// The configurations.
pub(super) const ALL: &[Configuration] = &[
    Configuration {
        name: "fast-3-collision",
        text: "n=3, free for all, two proposers at once: every order of all messages, any of them lost",
        states_max: 40_000,
        run: |states, report| search(collision(3), check, states, report),
    },
    Configuration {
        name: "fast-3-takeover",
        text: "n=3, two proposers at once, coordinator 0; at any moment coordinator 1 takes over with the promise of 2; votes arrive \
               at coordinators only",
        states_max: 60_000,
        run: |states, report| search(takeover(3, &[2], 0), check, states, report),
    },
    Configuration {
        name: "fast-3-restart",
        text: "n=3, as before, and replica 2 crashes once and starts again",
        states_max: 60_000,
        run: |states, report| search(takeover(3, &[2], 1), check, states, report),
    },
    Configuration {
        name: "fast-3-fallback",
        text: "n=3, replica 2 was silent and coordinator 0 proposes in classic rounds; at any moment 1 takes over with the promise of 2",
        states_max: 40_000,
        run: |states, report| search(fallback(), check, states, report),
    },
    Configuration {
        name: "fast-3-stripes",
        text: "n=3, stripes, a proposer crashes, with or without its own vote, with a batch on its way, starts again and proposes another; votes \
               arrive at the coordinator only",
        states_max: 40_000,
        run: |states, report| search(stripes(), check, states, report),
    },
    Configuration {
        name: "fast-4-takeover",
        text: "n=4, two proposers at once, coordinator 0; at any moment coordinator 1 takes over with the promises of 2 and 3; votes \
               arrive at coordinators only",
        states_max: 40_000,
        run: |states, report| search(takeover(4, &[2, 3], 0), check, states, report),
    },
    Configuration {
        name: "fast-4-slow",
        text: "n=4, one value, and the coordinator, which has not voted, gives up the fast round at any moment",
        states_max: 40_000,
        run: |states, report| search(slow(4), check, states, report),
    },
    Configuration {
        name: "fast-5-slow",
        text: "n=5, one value, and the coordinator, which has not voted, gives up the fast round at any moment",
        states_max: 40_000,
        run: |states, report| search(slow(5), check, states, report),
    },
    Configuration {
        name: "fast-5-takeover",
        text: "n=5, three votes for one value and one for another, coordinator 0 recovers; at any moment coordinator 4 takes over with \
               promises of 2 and 3; votes arrive at coordinators only",
        states_max: 40_000,
        run: |states, report| search(split(), check, states, report),
    },
    Configuration {
        name: "fast-5-t-f1",
        text: "n=5, T-F1: the first recovery picked the value of the minority and is on its way; at any moment a second one begins at \
               another quorum",
        states_max: 40_000,
        run: |states, report| search(minority(), check, states, report),
    },
];

/// One value at most is chosen in a slot by durable votes, and each replica votes once per slot and round.
fn check(world: &World<Fast>, replica_count: usize) -> Result<(), String> {
    let mut votes: Vec<(Slot, Round, ValueName, ReplicaId)> = Vec::new();
    for id in (0..replica_count as u8).map(ReplicaId) {
        for (record, body) in world.log(id) {
            let Record::Vote(vote) = record else { continue };
            let name = ValueName::of(body.as_ref());
            let is_same = |other: &&(Slot, Round, ValueName, ReplicaId)| {
                (other.0, other.1, other.3) == (vote.slot, vote.round, id)
            };
            match votes.iter().find(is_same) {
                Some((_, _, other, _)) if *other != name => {
                    return Err(format!(
                        "{id:?} voted twice in {:?}, {:?}: {other:?} and {name:?}",
                        vote.slot, vote.round
                    ));
                }
                Some(_) => {}
                None => votes.push((vote.slot, vote.round, name, id)),
            }
        }
    }
    votes.sort_unstable();
    let mut chosen: Option<(Slot, ValueName)> = None;
    for group in votes.chunk_by(|one, two| (one.0, one.1, one.2) == (two.0, two.1, two.2)) {
        let (slot, round, name, _) = group[0];
        let needed = if round.classic { classic_quorum(replica_count) } else { fast_quorum(replica_count) };
        if group.len() < needed {
            continue;
        }
        match chosen {
            Some((other_slot, other)) if other_slot == slot && other != name => {
                return Err(format!("{slot:?} is chosen to hold {other:?} and, in {round:?}, {name:?}"));
            }
            _ => chosen = Some((slot, name)),
        }
    }
    Ok(())
}

/// Replica 0 coordinates and everybody knows its plan.
fn coordinated(replica_count: usize, from: &[u8], bounds: Bounds, free_for_all: bool) -> Scripted<Fast> {
    let mut setup = setup(replica_count, from, bounds);
    setup.tuning.free_for_all = free_for_all;
    let mut script: Script<Fast> = Script::new(setup)?;
    script.deadline(0)?;
    script.deliver(|_| true)?;
    assert!(script.world.protocol(ReplicaId(0)).status().leading, "the only candidate is elected");
    script.world.ignore(|packet| {
        matches!(packet.message, Message::Heartbeat(_) | Message::HeartbeatReply(_) | Message::PreVote(_))
    });
    Ok(script)
}

fn collision(replica_count: usize) -> Scripted<Fast> {
    coordinated(replica_count, &[1, 2], Bounds::default(), true)
}

/// `id` needs one more pre-vote, which is on its way, to open a term; those of `voters` are granted. It does not hear coordinator 0.
fn may_take_over(script: &mut Script<Fast>, id: u8, voters: &[u8]) -> Result<(), String> {
    script
        .world
        .ignore(|packet| matches!(packet.message, Message::Heartbeat(_) | Message::HeartbeatReply(_)));
    script.cut(&[(0, id)]);
    for replica in voters.iter().chain([&id]) {
        script.act(Action::Suspect(ReplicaId(*replica), ReplicaId(0)))?;
    }
    script.deadline(id)?;
    let is_asked = |packet: &Packet<Fast>| {
        matches!(packet.message, Message::PreVote(_))
            && packet.from == ReplicaId(id)
            && voters.contains(&packet.to.0)
    };
    script.deliver(is_asked)?;
    for voter in &voters[1..] {
        script.deliver(|packet| {
            matches!(packet.message, Message::PreVoteReply(_)) && packet.from == ReplicaId(*voter)
        })?;
    }
    script.world.ignore(only_for_coordinators);
    Ok(())
}

/// What others than 0, 1 and 4 learn from votes is left out.
fn only_for_coordinators(packet: &Packet<Fast>) -> bool {
    let learns = matches!(packet.to.0, 0 | 1 | 4);
    match packet.message {
        Message::Heartbeat(_) | Message::HeartbeatReply(_) | Message::PreVote(_) => true,
        Message::Votes(_) => !learns,
        _ => false,
    }
}

fn takeover(replica_count: usize, voters: &[u8], crashes: u8) -> Scripted<Fast> {
    let bounds = Bounds { crashes, ..Bounds::default() };
    let mut script = coordinated(replica_count, &[1, 2], bounds, true)?;
    script.setup.crashing = set(&[2]);
    may_take_over(&mut script, 1, voters)?;
    script.propose(0)?;
    script.propose(1)?;
    Ok(script)
}

fn fallback() -> Scripted<Fast> {
    let mut setup = setup(3, &[0, 1], Bounds::default());
    setup.timing_out = set(&[]);
    let mut script: Script<Fast> = Script::new(setup)?;
    // Nobody else promises: after a while it settles for those that did.
    for _ in 0..4 {
        if script.world.protocol(ReplicaId(0)).status().leading {
            break;
        }
        script.deadline(0)?;
        script.deliver_between(0, 1)?;
    }
    assert!(script.world.protocol(ReplicaId(0)).status().leading, "the only candidate is elected");
    // Replica 2 is back.
    script.deliver(|packet| packet.to == ReplicaId(2))?;
    may_take_over(&mut script, 1, &[2])?;
    Ok(script)
}

fn stripes() -> Scripted<Fast> {
    let bounds = Bounds { crashes: 1, ..Bounds::default() };
    let mut setup = setup(3, &[1, 1], bounds);
    setup.crashing = set(&[1]);
    let mut script: Script<Fast> = Script::new(setup)?;
    script.deadline(0)?;
    script.deliver(|_| true)?;
    // It repeats the plan, for whoever forgets it.
    let is_plan = |packet: &Packet<Fast>| matches!(packet.message, Message::Heartbeat(_));
    for _ in 0..8 {
        if !script.world.packets().any(is_plan) {
            script.deadline(0)?;
        }
    }
    script.deliver(|packet| packet.to == ReplicaId(2))?;
    script.world.ignore(|packet| match packet.message {
        Message::HeartbeatReply(_) | Message::PreVote(_) => true,
        Message::Votes(_) => packet.to != ReplicaId(0),
        _ => false,
    });
    // From here on a crash can lose the proposer's own vote.
    script.setup.syncs = true;
    script.propose(0)?;
    Ok(script)
}

/// One deadline is missing until the coordinator gives up the fast round. It has heard of a vote, and has none of its own.
fn slow(replica_count: usize) -> Scripted<Fast> {
    let bounds = Bounds { deadlines: 1, ..Bounds::default() };
    let mut script = coordinated(replica_count, &[1], bounds, true)?;
    script.setup.timing_out = set(&[0]);
    script.propose(0)?;
    let is_vote =
        |packet: &Packet<Fast>| matches!(packet.message, Message::Votes(_)) && packet.to == ReplicaId(0);
    script.deliver(is_vote)?;
    script.deadline(0)?;
    script.deadline(0)?;
    script.world.ignore(only_for_coordinators);
    Ok(script)
}

fn split() -> Scripted<Fast> {
    let mut script = coordinated(5, &[1, 3], Bounds::default(), true)?;
    may_take_over(&mut script, 4, &[2, 3])?;
    script.propose(0)?;
    script.propose(1)?;
    let is_for = |packet: &Packet<Fast>, from: u8, to: &[u8]| {
        matches!(packet.message, Message::Propose(_)) && packet.from.0 == from && to.contains(&packet.to.0)
    };
    script.deliver(|packet| is_for(packet, 1, &[0, 2]))?;
    Ok(script)
}

/// Votes: one value at 0, 2 and 4, the other at 3, none at 1, which opens a term with 2 and 3 and picks the other value: of two values
/// with one vote each it is the one with the least name.
fn minority() -> Scripted<Fast> {
    let orders = [[4, 3], [3, 4]];
    let name = |order: &[u8; 2], from: u8| {
        let counter = if order[0] == from { 1 } else { 2 };
        ValueName::of(Some(&super::batch(from, counter)))
    };
    let from = orders.iter().find(|order| name(order, 3) < name(order, 4));
    let from = from.expect("in one of the orders the names are as wanted");
    let mut script = coordinated(5, from, Bounds::default(), true)?;
    may_take_over(&mut script, 1, &[2, 3])?;
    may_take_over(&mut script, 4, &[2, 3])?;
    script.world.ignore(|packet| matches!(packet.message, Message::Votes(_) | Message::PreVote(_)));
    script.setup.cut.clear();
    script.propose(0)?;
    script.propose(1)?;
    script.deliver(|packet| {
        matches!(packet.message, Message::Propose(_))
            && packet.from == ReplicaId(4)
            && matches!(packet.to.0, 0 | 2)
    })?;
    script.act(Action::Crash { replica: ReplicaId(0), kept: 0 })?;
    let is_in_the_first_term = |packet: &Packet<Fast>| match packet.message {
        Message::PreVoteReply(_) => packet.to == ReplicaId(1),
        Message::Prepare(_) => matches!(packet.to.0, 2 | 3),
        Message::Promise(_) | Message::PromiseVote(_) => packet.to == ReplicaId(1),
        _ => false,
    };
    script.deliver(is_in_the_first_term)?;
    script.world.ignore(|packet| match packet.message {
        Message::Accept(_) => !matches!((packet.from.0, packet.to.0), (1, 2 | 3) | (4, 0 | 3)),
        Message::Prepare(_) => !matches!(packet.to.0, 0 | 3),
        Message::PreVoteReply(_) | Message::Promise(_) | Message::PromiseVote(_) => packet.to != ReplicaId(4),
        _ => true,
    });
    let accepts = script.world.packets().filter(|packet| matches!(packet.message, Message::Accept(_)));
    assert_eq!(accepts.count(), 2, "the first term proposes to two others");
    Ok(script)
}
