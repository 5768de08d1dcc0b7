//! Fast Paxos: batches that clients send to all nodes themselves.

use panch_consensus::fast::message::Message;
use panch_replica::replica::Level;
use panch_wire::command::CommandError;

use super::fast::{open, settings};
use super::{Script, broken, end, ensure, others};
use crate::client::{Outcome, OwnedCommand, ScriptedBatch};
use crate::disk::CrashKind;
use crate::linear::register::{Action, Answer};
use crate::queue::{MILLISECOND, SECOND};
use crate::world::{Call, Letter, Verdict};

const SESSIONS: [u64; 2] = [0x5e55, 0x7fd1];

/// A world that takes such batches, with both sessions open; its coordinator.
fn ready(seed: u64, count: usize, free_for_all: bool) -> Result<(Script, usize), String> {
    let (mut world, coordinator) = open(settings(seed, count, free_for_all))?;
    for session in SESSIONS {
        let call = world.call_command(coordinator, OwnedCommand::open_session(session), None, Level::Log);
        let outcome = world.wait(call, SECOND);
        ensure!(outcome == Some(Outcome::Answer(Answer::Number(1))), "no session: {outcome:?}");
    }
    Ok((world, coordinator))
}

fn increment(session: u64, number: u64) -> OwnedCommand {
    OwnedCommand::of(b"n0", &Action::Increment(1)).in_session(session, number)
}

/// A batch of one increment, the first command of that session.
fn batch(home: usize, to: impl Into<Vec<usize>>, session: u64) -> ScriptedBatch {
    let commands = vec![(increment(session, 1), None)];
    ScriptedBatch { home, to: to.into(), session, number: 1, forged: None, commands }
}

fn number(outcome: Option<Outcome>) -> Option<i64> {
    match outcome {
        Some(Outcome::Answer(Answer::Number(number))) => Some(number),
        _ => None,
    }
}

fn answered(world: &mut Script, call: Call, expected: i64) -> Result<(), String> {
    let outcome = world.wait(call, 2 * SECOND);
    world.check().map_err(broken)?;
    let found = number(outcome.clone());
    ensure!(found == Some(expected), "answered {outcome:?}, not {expected}: {}", world.describe());
    Ok(())
}

/// Every node says that so many increments took effect.
fn counted(world: &mut Script, count: usize, expected: i64) -> Result<(), String> {
    for node in 0..count {
        // Repeated commands are no history of their own: it is not checked here.
        let get = OwnedCommand::of(b"n0", &Action::Get);
        let call = world.call_command(node, get, None, Level::Quorum);
        let read = world.wait(call, SECOND);
        world.check().map_err(broken)?;
        let text = expected.to_string().into_bytes().into();
        let wanted = Some(Outcome::Answer(Answer::Value((expected > 0).then_some(text))));
        ensure!(read == wanted, "node {node} reads {read:?}, not {expected}: {}", world.describe());
    }
    Ok(())
}

/// T-FD1. Too few have the batch to choose it, its home is not among them, and its client is gone: the slot does not stay open.
/// The client comes back, and asks for the same elsewhere.
pub(super) fn client_dies_half_way(seed: u64, count: usize) -> Result<(), String> {
    for free_for_all in [false, true] {
        let (mut world, coordinator) = ready(seed, count, free_for_all)?;
        let rest = others(count, coordinator);
        let few = rest[..(count - 1) / 2].to_vec();
        let home = rest[count - 2];
        world.call_batch(batch(home, few, SESSIONS[0]));
        world.run_for(MILLISECOND);
        // Reads and writes of others have to get past it.
        let start = world.now();
        ensure!(world.set(coordinator, "r0", "after"), "no write: {}", world.describe());
        let took = (world.now() - start) / MILLISECOND;
        ensure!(took < 100, "a write behind it took {took} ms");
        let again = world.call_batch(batch(rest[0], (0..count).collect::<Vec<_>>(), SESSIONS[0]));
        answered(&mut world, again, 1)?;
        counted(&mut world, count, 1)?;
        end(world)?;
    }
    Ok(())
}

/// T-FD2. The batch comes again, byte for byte, when it is long executed: it is decided twice, takes effect once, and is answered
/// alike.
pub(super) fn chosen_in_two_slots(seed: u64, count: usize) -> Result<(), String> {
    for free_for_all in [false, true] {
        let (mut world, coordinator) = ready(seed, count, free_for_all)?;
        let all: Vec<usize> = (0..count).collect();
        let home = others(count, coordinator)[0];
        let first = world.call_batch(batch(home, all.clone(), SESSIONS[0]));
        answered(&mut world, first, 1)?;
        let applied = world.status(home).probe.direct;
        let second = world.call_batch(batch(home, all, SESSIONS[0]));
        answered(&mut world, second, 1)?;
        let twice = world.status(home).probe.direct;
        ensure!((applied, twice) == (1, 2), "decided {applied} times, then {twice} times");
        counted(&mut world, count, 1)?;
        end(world)?;
    }
    Ok(())
}

/// T-FD3. A batch with a command outside its session could take effect as often as it is decided: no node takes it in.
pub(super) fn command_without_session(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = ready(seed, count, false)?;
    let home = others(count, coordinator)[0];
    let plain = OwnedCommand { session: None, ..increment(SESSIONS[0], 1) };
    for node in 0..count {
        let sent =
            ScriptedBatch { commands: vec![(plain.clone(), None)], ..batch(home, [node], SESSIONS[0]) };
        let call = world.call_batch(sent);
        let outcome = world.wait(call, SECOND);
        world.check().map_err(broken)?;
        let refused = Some(Outcome::Refused(CommandError::Malformed));
        ensure!(outcome == refused, "node {node}: {outcome:?}");
    }
    counted(&mut world, count, 0)?;
    end(world)
}

/// T-FD4. Nobody hears of the votes, and the home dies; the client asks another home while the first batch is undecided.
pub(super) fn another_home_while_undecided(seed: u64, count: usize) -> Result<(), String> {
    for free_for_all in [false, true] {
        let (mut world, coordinator) = ready(seed, count, free_for_all)?;
        let rest = others(count, coordinator);
        let all: Vec<usize> = (0..count).collect();
        world.set_filter(Box::new(|letter: &Letter| match letter.fast() {
            Some(Message::Votes(_) | Message::SlotPromise(_)) => Verdict::Drop,
            _ => Verdict::Pass,
        }));
        world.call_batch(batch(rest[0], all.clone(), SESSIONS[0]));
        world.run_for(2 * MILLISECOND);
        world.crash(rest[0], CrashKind::Power);
        let second = world.call_batch(batch(rest[1], all, SESSIONS[0]));
        world.run_for(2 * MILLISECOND);
        world.clear_filter();
        let mut outcome = world.wait(second, SECOND);
        if outcome == Some(Outcome::Lost) {
            // Its time was over with the fall-back to classic rounds: once more, as an ordinary command.
            let third = world.call_command(rest[1], increment(SESSIONS[0], 1), None, Level::Log);
            outcome = world.wait(third, SECOND);
        }
        world.check().map_err(broken)?;
        ensure!(number(outcome.clone()) == Some(1), "{outcome:?}: {}", world.describe());
        world.restart(rest[0]);
        world.run_for(SECOND);
        counted(&mut world, count, 1)?;
        end(world)?;
    }
    Ok(())
}

/// T-FD5. Two clients with one home, and every node hears of another of them first: both find a place.
pub(super) fn two_clients_collide(seed: u64, count: usize) -> Result<(), String> {
    for free_for_all in [false, true] {
        let (mut world, coordinator) = ready(seed, count, free_for_all)?;
        let home = others(count, coordinator)[0];
        let (even, odd): (Vec<usize>, Vec<usize>) =
            (0..count).partition(|node| (node + home).is_multiple_of(2));
        let [a, b] = SESSIONS;
        let mut calls = vec![world.call_batch(batch(home, even.clone(), a))];
        world.call_batch(batch(home, odd.clone(), b));
        world.run_for(MILLISECOND);
        world.call_batch(batch(home, odd, a));
        calls.push(world.call_batch(batch(home, even, b)));
        let mut sum = 0;
        for call in calls {
            let outcome = world.wait(call, 2 * SECOND);
            world.check().map_err(broken)?;
            let found = number(outcome.clone());
            sum += found.ok_or(format!("{outcome:?}: {}", world.describe()))?;
        }
        ensure!(sum == 3, "one comes first, the other second: {sum}");
        let collisions: u64 = (0..count).map(|node| world.status(node).counters.collisions).sum();
        ensure!(collisions > 0, "nothing collided: {}", world.describe());
        counted(&mut world, count, 2)?;
        end(world)?;
    }
    Ok(())
}

/// T-FD6. Two clients give their batches one name, which is not that of either: nobody votes for them.
pub(super) fn one_name_for_two_batches(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = ready(seed, count, true)?;
    let home = others(count, coordinator)[0];
    let (first, rest) = (vec![home], others(count, home));
    let forged = Some([7, 8]);
    let call = world.call_batch(ScriptedBatch { forged, ..batch(home, first, SESSIONS[0]) });
    world.call_batch(ScriptedBatch { forged, ..batch(home, rest, SESSIONS[1]) });
    world.run_for(200 * MILLISECOND);
    world.check().map_err(broken)?;
    let outcome = world.outcome(call);
    ensure!(outcome == Some(&Outcome::Refused(CommandError::Malformed)), "not refused: {outcome:?}");
    for session in SESSIONS {
        let call = world.call_command(coordinator, increment(session, 1), None, Level::Log);
        let outcome = world.wait(call, 2 * SECOND);
        world.check().map_err(broken)?;
        ensure!(number(outcome.clone()).is_some(), "{outcome:?}: {}", world.describe());
    }
    counted(&mut world, count, 2)?;
    end(world)
}

/// T-FD7. So many are down that only classic rounds are left: the home proposes the batch as one of its own.
pub(super) fn in_classic_rounds(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = ready(seed, count, false)?;
    let rest = others(count, coordinator);
    let down = count - (3 * count).div_ceil(4) + 1;
    for node in &rest[1..=down] {
        world.crash(*node, CrashKind::Power);
    }
    world.run_for(SECOND);
    let call = world.call_batch(batch(rest[0], (0..count).collect::<Vec<_>>(), SESSIONS[0]));
    answered(&mut world, call, 1)?;
    end(world)
}
