//! EPaxos: recovery with two and three commands that conflict.
//!
//! A heartbeat of any replica begins the recovery of everything that it knows not to be committed. Progress reports, requests for what
//! others have committed, and reads are left out.

use panch_consensus::epaxos::Epaxos;
use panch_consensus::epaxos::message::{Message, Record};
use panch_consensus::epaxos::record::CommitRecord;
use panch_consensus::explore::{Bounds, Packet, World};
use panch_wire::ids::{Position, REPLICAS_MAX, ReplicaId};
use panch_wire::time::Duration;

use super::{Configuration, Script, Scripted, search, set, setup};

/// The configurations.
pub(super) const ALL: &[Configuration] = &[
    Configuration {
        name: "epaxos-3-two",
        text: "n=3, command leaders 0 and 1 propose conflicting batches; one replica begins a recovery of what it knows",
        states_max: 40_000,
        run: |states, report| search(proposed(3, &[0, 1], bounds(1, 0)), check, states, report),
    },
    Configuration {
        name: "epaxos-3-voted",
        text: "n=3, both command leaders' votes are asked for and given, the answers are on their way; three times a replica begins a \
               recovery",
        states_max: 40_000,
        run: |states, report| search(voted(3, &[0, 1], bounds(3, 0)), check, states, report),
    },
    Configuration {
        name: "epaxos-3-crash",
        text: "n=3, as before; twice a replica begins a recovery, and one replica crashes and starts again",
        states_max: 40_000,
        run: |states, report| search(voted(3, &[0, 1], bounds(2, 1)), check, states, report),
    },
    Configuration {
        name: "epaxos-3-slow",
        text: "n=3, command leader 0 has given up the fast path while its buddy's vote is on its way; the buddy begins a recovery",
        states_max: 40_000,
        run: |states, report| search(slow(), check, states, report),
    },
    Configuration {
        name: "epaxos-3-t-e1",
        text: "n=3, T-E1: a no-op was accepted at one replica only, a second recovery with the command leader's buddy begins, and the first \
               replica begins a third",
        states_max: 40_000,
        run: |states, report| search(two_ballots(), check, states, report),
    },
    Configuration {
        name: "epaxos-3-t-e3",
        text: "n=3, T-E3: command leader 2 has a batch of its own when it hears of that of 0, whose buddy is 1 and begins a recovery",
        states_max: 40_000,
        run: |states, report| search(pair(), check, states, report),
    },
    Configuration {
        name: "epaxos-3-three",
        text: "n=3, three command leaders propose conflicting batches; one replica begins a recovery of what it knows",
        states_max: 40_000,
        run: |states, report| search(proposed(3, &[0, 1, 2], bounds(1, 0)), check, states, report),
    },
    Configuration {
        name: "epaxos-3-three-voted",
        text: "n=3, all three votes are asked for and given, the answers are on their way; twice a replica begins a recovery",
        states_max: 40_000,
        run: |states, report| search(voted(3, &[0, 1, 2], bounds(2, 0)), check, states, report),
    },
    Configuration {
        name: "epaxos-5-two",
        text: "n=5, command leaders 0 and 4 propose conflicting batches: every order of all messages, any of them lost",
        states_max: 40_000,
        run: |states, report| search(proposed(5, &[0, 4], bounds(0, 0)), check, states, report),
    },
    Configuration {
        name: "epaxos-5-voted",
        text: "n=5, 1 has voted for the batch of 0 and 3 for that of 4, the others hear of both; 1 and 3 begin recoveries",
        states_max: 40_000,
        run: |states, report| search(either(), check, states, report),
    },
    Configuration {
        name: "epaxos-5-t-e4",
        text: "n=5, T-E4: 1 has voted for the batch of 0 and 3 for that of 4; both command leaders die; 1 recovers the one and 3 the \
               other at 1, 2 and 3, whose promises are on their way",
        states_max: 40_000,
        run: |states, report| search(anomaly(), check, states, report),
    },
    Configuration {
        name: "epaxos-5-t-e20",
        text: "n=5, T-E20: 0 has committed its batch with the votes of 1 and 2, and died with that; 3 has voted for the batch of 4 first, \
               which died too, and recovers both at 1, 2 and 3, whose promises are on their way",
        states_max: 40_000,
        run: |states, report| search(reported(), check, states, report),
    },
];

fn bounds(deadlines: u8, crashes: u8) -> Bounds {
    Bounds { deadlines, crashes, ..Bounds::default() }
}

/// Whether two commits of an instance order it alike: their dependencies differ in no-ops at most. All batches here interfere.
fn are_alike(one: &CommitRecord, other: &CommitRecord, commits: &[CommitRecord]) -> bool {
    let is_noop = |position| commits.iter().any(|commit| commit.position == position && commit.noop);
    let between =
        |row: u8| one.deps.row(row).min(other.deps.row(row)) + 1..=one.deps.row(row).max(other.deps.row(row));
    let mut differing =
        (0..REPLICAS_MAX as u8).flat_map(|row| between(row).map(move |number| Position { row, number }));
    *one == CommitRecord { deps: one.deps, ..*other } && differing.all(is_noop)
}

/// Everybody's durable commits agree on value and dependencies, and of two committed batches one depends on the other.
fn check(world: &World<Epaxos>, replica_count: usize) -> Result<(), String> {
    let mut commits: Vec<CommitRecord> = Vec::new();
    let mut again = Vec::new();
    for id in (0..replica_count as u8).map(ReplicaId) {
        for (record, _) in world.log(id) {
            let Record::Commit(commit) = *record else { continue };
            // A body beside it is a matter of each log, and the stamp of a no-op means nothing.
            let stamp = if commit.noop { 0 } else { commit.stamp };
            let commit = CommitRecord { body: false, stamp, ..commit };
            match commits.iter().find(|other| other.position == commit.position) {
                Some(other) if *other != commit => again.push((id, commit, *other)),
                Some(_) => {}
                None => commits.push(commit),
            }
        }
    }
    if let Some((id, commit, other)) = again.iter().find(|(_, one, other)| !are_alike(one, other, &commits)) {
        return Err(format!("{id:?} has committed {commit:?}, and another replica {other:?}"));
    }
    let batches: Vec<_> = commits.iter().filter(|commit| !commit.noop).collect();
    for (index, one) in batches.iter().enumerate() {
        for two in &batches[index + 1..] {
            if !one.deps.contains(two.position) && !two.deps.contains(one.position) {
                return Err(format!("neither depends on the other: {one:?}, {two:?}"));
            }
        }
    }
    Ok(())
}

/// Everybody has started; the first deadline of a replica with something to settle is its heartbeat, unless `slow_first`.
fn started(replica_count: usize, from: &[u8], bounds: Bounds, slow_first: bool) -> Scripted<Epaxos> {
    let mut setup = setup(replica_count, from, bounds);
    let tuning = &mut setup.tuning;
    tuning.heartbeat_interval = Duration::from_millis(100);
    tuning.slow_after = Duration::from_millis(if slow_first { 50 } else { 1000 });
    tuning.recover_after = Duration::from_millis(1);
    let mut script = Script::new(setup)?;
    script.world.ignore(is_by_the_way);
    Ok(script)
}

fn is_by_the_way(packet: &Packet<Epaxos>) -> bool {
    match packet.message {
        Message::Progress(_) | Message::Fetch(_) => true,
        // A restarted replica asks about all numbers that it had reserved.
        Message::Recover(message) => message.position.number > 3,
        _ => false,
    }
}

fn proposed(replica_count: usize, from: &[u8], bounds: Bounds) -> Scripted<Epaxos> {
    let mut script = started(replica_count, from, bounds, false)?;
    for index in 0..from.len() {
        script.propose(index)?;
    }
    Ok(script)
}

fn voted(replica_count: usize, from: &[u8], bounds: Bounds) -> Scripted<Epaxos> {
    let mut script = proposed(replica_count, from, bounds)?;
    script.deliver(is_question)?;
    Ok(script)
}

fn is_question(packet: &Packet<Epaxos>) -> bool {
    matches!(packet.message, Message::PreAccept(_) | Message::Seen(_))
}

fn slow() -> Scripted<Epaxos> {
    let mut script = started(3, &[0, 2], bounds(1, 0), true)?;
    script.setup.timing_out = set(&[1]);
    script.propose(0)?;
    script.deliver(|packet| matches!(packet.message, Message::PreAccept(_)))?;
    // Only replica 2 ever knows of this one; it votes for the other with it.
    script.propose(1)?;
    script
        .world
        .ignore(|packet| is_by_the_way(packet) || (is_question(packet) && packet.from == ReplicaId(2)));
    script.deadline(0)?;
    Ok(script)
}

fn two_ballots() -> Scripted<Epaxos> {
    let mut script = started(3, &[1], bounds(1, 0), false)?;
    script.setup.timing_out = set(&[0]);
    script.propose(0)?;
    script.deliver(is_question)?;
    // Replica 0 hears from the command leader that it has committed nothing, and accepts a no-op alone.
    script.deadline(0)?;
    script.deliver(|packet| !is_accept(packet) && !is_vote(packet) && is_between(packet, 0, 1))?;
    script.world.lose_packets();
    script.deadline(2)?;
    Ok(script)
}

fn is_accept(packet: &Packet<Epaxos>) -> bool {
    matches!(packet.message, Message::Accept(_))
}

fn is_vote(packet: &Packet<Epaxos>) -> bool {
    matches!(packet.message, Message::PreAcceptOk(_))
}

fn is_between(packet: &Packet<Epaxos>, one: u8, two: u8) -> bool {
    matches!((packet.from.0, packet.to.0), pair if pair == (one, two) || pair == (two, one))
}

fn pair() -> Scripted<Epaxos> {
    let mut script = started(3, &[2, 0], bounds(1, 0), false)?;
    script.setup.timing_out = set(&[1]);
    script.propose(0)?;
    script.propose(1)?;
    Ok(script)
}

fn asks(packet: &Packet<Epaxos>, from: u8, to: &[u8]) -> bool {
    matches!(packet.message, Message::PreAccept(_)) && packet.from.0 == from && to.contains(&packet.to.0)
}

fn is_recover(packet: &Packet<Epaxos>) -> bool {
    matches!(packet.message, Message::Recover(_))
}

/// Both command leaders have proposed; `voters` of the first and the second have voted in this order, and those of the first have told it.
fn orphaned(first: &[u8], second: &[u8], first_again: &[u8]) -> Scripted<Epaxos> {
    let mut script = started(5, &[0, 4], bounds(0, 0), false)?;
    script.propose(0)?;
    script.propose(1)?;
    script.deliver(|packet| asks(packet, 0, first))?;
    script.deliver(|packet| asks(packet, 4, second))?;
    script.deliver(|packet| asks(packet, 0, first_again))?;
    script.deliver(|packet| is_vote(packet) && first.contains(&packet.from.0))?;
    // Both die.
    script.isolate(0);
    script.isolate(4);
    script.world.lose_packets();
    Ok(script)
}

/// These begin recoveries of what they know; the others have promised.
fn recovering(mut script: Script<Epaxos>, recoverers: &[u8]) -> Scripted<Epaxos> {
    for id in recoverers {
        script.deadline(*id)?;
        script.deliver(is_recover)?;
    }
    Ok(script)
}

fn anomaly() -> Scripted<Epaxos> {
    recovering(orphaned(&[1], &[3], &[])?, &[1, 3])
}

fn reported() -> Scripted<Epaxos> {
    recovering(orphaned(&[1, 2], &[3], &[3])?, &[3])
}

/// The command leaders live, but only the recoverers begin anything.
fn either() -> Scripted<Epaxos> {
    let mut script = started(5, &[0, 4], bounds(2, 0), false)?;
    script.setup.timing_out = set(&[1, 3]);
    script.propose(0)?;
    script.propose(1)?;
    script.deliver(|packet| asks(packet, 0, &[1]) || asks(packet, 4, &[3]))?;
    Ok(script)
}
