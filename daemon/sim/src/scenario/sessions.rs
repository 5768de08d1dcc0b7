//! Exactly-once execution.

use panch_replica::replica::Level;
use panch_wire::command::CommandError;

use super::{Script, begin, broken, end, ensure, others};
use crate::client::{Outcome, OwnedCommand};
use crate::disk::CrashKind;
use crate::linear::register::{Action, Answer};
use crate::queue::SECOND;
use crate::settings::Settings;
use crate::world::Call;

const SESSION: u64 = 0x5e55;

fn open(world: &mut Script, node: usize) -> Result<(), String> {
    let call = world.call_command(node, OwnedCommand::open_session(SESSION), None, Level::Log);
    let outcome = world.wait(call, SECOND);
    ensure!(outcome == one(), "the session was not opened: {outcome:?}");
    Ok(())
}

fn increment(world: &mut Script, node: usize, number: u64) -> Call {
    let command = OwnedCommand::of(b"n0", &Action::Increment(1)).in_session(SESSION, number);
    world.call_command(node, command, None, Level::Log)
}

fn count(world: &mut Script, node: usize) -> Option<Outcome> {
    let command = OwnedCommand::of(b"n0", &Action::Get);
    let call = world.call_command(node, command, None, Level::Log);
    world.wait(call, SECOND)
}

fn one() -> Option<Outcome> {
    Some(Outcome::Answer(Answer::Number(1)))
}

fn value_one() -> Option<Outcome> {
    Some(Outcome::Answer(Answer::Value(Some((*b"1").into()))))
}

/// T-C7. Both copies are decided, one takes effect, both answers are alike.
pub(super) fn retry_while_undecided(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    open(&mut world, leader)?;
    let nodes = others(3, leader);
    let calls = [increment(&mut world, nodes[0], 1), increment(&mut world, nodes[1], 1)];
    for call in calls {
        let outcome = world.wait(call, SECOND);
        world.check().map_err(broken)?;
        ensure!(outcome == one(), "a copy was answered {outcome:?}");
    }
    let value = count(&mut world, leader);
    ensure!(value == value_one(), "after both copies: {value:?}");
    end(world)
}

/// T-C8. All nodes start again from snapshots, one of which was installed from a peer; then the command is retried.
pub(super) fn retry_after_restore(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.replica.snapshot_log_size = 32 << 10;
    settings.tuning.tail_size_max = 8 << 10;
    settings.wal.segment_size = 64 << 10;
    settings.wal.group_size_max = 16 << 10;
    let (mut world, leader) = begin(settings)?;
    open(&mut world, leader)?;
    let away = others(3, leader)[1];
    world.isolate(away);
    let call = increment(&mut world, leader, 1);
    let outcome = world.wait(call, SECOND);
    ensure!(outcome == one(), "the first time: {outcome:?}");
    for number in 0..40 {
        ensure!(world.set(leader, "r0", &format!("filler{number}")), "no write");
    }
    world.rejoin(away);
    world.run_for(SECOND);
    world.check().map_err(broken)?;
    ensure!(world.status(away).probe.installs > 0, "no snapshot was installed: {}", world.describe());
    for node in 0..3 {
        world.crash(node, CrashKind::Power);
    }
    for node in 0..3 {
        world.restart(node);
    }
    let leader = world.wait_for_leader().ok_or("no leader after the restart")?;
    world.check().map_err(broken)?;
    ensure!(world.coverage().restored >= 3, "the nodes did not start from snapshots");
    for node in [leader, away] {
        let call = increment(&mut world, node, 1);
        let outcome = world.wait(call, SECOND);
        ensure!(outcome == one(), "the retry through node {node}: {outcome:?}");
    }
    let value = count(&mut world, leader);
    ensure!(value == value_one(), "after the retries: {value:?}");
    end(world)
}

/// T-C9. Whichever comes first, the retry is never taken for a new command.
pub(super) fn expiry_and_retry(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    open(&mut world, leader)?;
    let call = increment(&mut world, leader, 1);
    let outcome = world.wait(call, SECOND);
    ensure!(outcome == one(), "the first time: {outcome:?}");
    let nodes = others(3, leader);
    let expiry = world.call_command(nodes[0], OwnedCommand::expire_sessions(1 << 40), None, Level::Log);
    let retry = increment(&mut world, nodes[1], 1);
    let expired = world.wait(expiry, SECOND);
    ensure!(matches!(expired, Some(Outcome::Answer(Answer::Number(_)))), "the expiry: {expired:?}");
    let outcome = world.wait(retry, SECOND);
    let unknown = Some(Outcome::Refused(CommandError::UnknownSession));
    ensure!(outcome == one() || outcome == unknown, "the racing retry: {outcome:?}");
    let retry = increment(&mut world, leader, 1);
    let outcome = world.wait(retry, SECOND);
    ensure!(outcome == unknown, "the late retry: {outcome:?}");
    // Opened again under the same name it is another session, in which that number is none of its own.
    let call = world.call_command(nodes[0], OwnedCommand::open_session(SESSION), None, Level::Log);
    let opened = world.wait(call, SECOND);
    let Some(Outcome::Answer(Answer::Number(first))) = opened else {
        return Err(format!("opened again: {opened:?}"));
    };
    let copy = increment(&mut world, nodes[1], 1);
    let outcome = world.wait(copy, SECOND);
    ensure!(outcome == unknown, "a copy after the session was opened again: {outcome:?}");
    let value = count(&mut world, leader);
    ensure!(value == value_one(), "in the end: {value:?}");
    let call = increment(&mut world, leader, first as u64);
    let outcome = world.wait(call, SECOND);
    ensure!(outcome == Some(Outcome::Answer(Answer::Number(2))), "a command of the new session: {outcome:?}");
    end(world)
}
