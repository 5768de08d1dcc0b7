//! Replicas whose states differ: it is noticed, who is in a minority stops serving, and without a majority all do.

use panch_consensus::protocol::ProtocolKind;
use panch_replica::checkpoint::{Disagreement, Place};
use panch_replica::divergence::Standing;
use panch_replica::replica::Level;
use panch_wire::command::CommandError;
use panch_wire::ids::GroupId;

use super::{Script, begin, broken, ensure, others, steady};
use crate::client::Outcome;
use crate::disk::CrashKind;
use crate::linear::register::Action;
use crate::queue::{MILLISECOND, SECOND};
use crate::settings::Settings;

/// A state that differs is noticed within this time of quiet, in nanoseconds.
const NOTICED_WITHIN: u64 = 5 * SECOND;

/// The key whose value is changed.
const KEPT: &str = "kept";

fn standing(world: &Script, node: usize) -> Option<Standing> {
    world.status_of(node, GroupId(0)).map(|status| status.standing)
}

fn is_sound(world: &Script, node: usize) -> bool {
    standing(world, node) == Some(Standing::Sound)
}

fn is_undecided(world: &Script, node: usize) -> bool {
    matches!(standing(world, node), Some(Standing::Undecided(_)))
}

fn is_outvoted(world: &Script, node: usize) -> bool {
    matches!(standing(world, node), Some(Standing::Outvoted(_)))
}

/// A world in which every node has a snapshot.
fn prepared(mut settings: Settings) -> Result<Script, String> {
    let count = settings.replica_count;
    settings.replica.snapshot_log_size = settings.replica.snapshot_log_size.min(32 << 10);
    let mut world = steady(settings)?;
    // Nothing behind the snapshot writes it again: what is changed there stays changed.
    ensure!(world.set_soon(0, KEPT, "0"), "no write: {}", world.describe());
    for number in 0..40 {
        let written = world.set_soon(number % count, &format!("r{}", number % 3), &format!("v{number}"));
        ensure!(written, "no write: {}", world.describe());
        if (0..count).all(|node| world.newest_snapshot(node).is_some()) && number > 8 {
            break;
        }
    }
    let ready =
        world.run_until(5 * SECOND, |world| (0..count).all(|node| world.newest_snapshot(node).is_some()));
    ensure!(ready, "not everybody has a snapshot");
    Ok(world)
}

/// A node ends, its state is changed, and it starts again.
fn change(world: &mut Script, node: usize, change: u8) -> Result<(), String> {
    world.crash(node, CrashKind::Kill);
    // No value of the prepared world ends with a letter.
    ensure!(world.change_state(node, KEPT, b'a' + change), "no snapshot to change");
    world.restart(node);
    Ok(())
}

/// A node answers neither a read nor a write.
fn refuses(world: &mut Script, node: usize) -> Result<(), String> {
    let refused = Some(Outcome::Refused(CommandError::Diverged));
    for level in [Level::Log, Level::Quorum, Level::Lease] {
        let read = world.get(node, "r0", level);
        ensure!(read == refused, "node {node} answers a read ({level:?}) with {read:?}");
    }
    let call = world.call(node, "r0", Action::Set(b"refused".as_slice().into()), Level::Log);
    let written = world.wait(call, SECOND);
    ensure!(written == refused, "node {node} answers a write with {written:?}");
    Ok(())
}

/// T-D1. A minority has another state: it stops, for good, and the others go on.
pub(super) fn minority_stops(seed: u64, count: usize) -> Result<(), String> {
    for kind in ProtocolKind::ALL {
        let mut world = prepared(Settings::calm_of(*kind, seed, count))?;
        let wrong: Vec<usize> = (count.div_ceil(2)..count).collect();
        for node in &wrong {
            change(&mut world, *node, 0)?;
        }
        let noticed =
            world.run_until(NOTICED_WITHIN, |world| wrong.iter().all(|node| is_outvoted(world, *node)));
        ensure!(noticed, "{kind:?}: not noticed: {}", world.describe());
        for node in 0..count - wrong.len() {
            ensure!(world.set_soon(node, "r1", "goes on"), "{kind:?}: node {node} does not go on");
            ensure!(is_sound(&world, node), "{kind:?}: node {node} stops: {}", world.describe());
        }
        let last = count - 1;
        refuses(&mut world, last)?;
        // Nobody reminds it.
        world.isolate(last);
        world.bounce(last, CrashKind::Power);
        ensure!(is_outvoted(&world, last), "{kind:?}: node {last} has forgotten that it must not serve");
        refuses(&mut world, last)?;
        world.check().map_err(broken)?;
    }
    Ok(())
}

/// T-D2. No state has a majority: all stop.
pub(super) fn all_stop_without_a_majority(seed: u64, count: usize) -> Result<(), String> {
    for kind in ProtocolKind::ALL {
        let mut world = prepared(Settings::calm_of(*kind, seed, count))?;
        // 1/1/1 of three, 2/2 of four.
        for node in count.div_ceil(2) - count % 2..count {
            change(&mut world, node, if count.is_multiple_of(2) { 0 } else { node as u8 })?;
        }
        let noticed =
            world.run_until(NOTICED_WITHIN, |world| (0..count).all(|node| is_undecided(world, node)));
        ensure!(noticed, "{kind:?}: not all stop: {}", world.describe());
        for node in 0..count {
            refuses(&mut world, node)?;
            world.bounce(node, CrashKind::Power);
            ensure!(is_undecided(&world, node), "{kind:?}: node {node} has forgotten that it must not serve");
        }
        world.run_for(2 * SECOND);
        ensure!((0..count).all(|node| is_undecided(&world, node)), "{kind:?}: {}", world.describe());
        world.check().map_err(broken)?;
    }
    Ok(())
}

/// T-D3. Two of three differ while the third is away: both stop until it can tell who is right.
pub(super) fn third_tells_who_is_right(seed: u64) -> Result<(), String> {
    for kind in ProtocolKind::ALL {
        let mut world = prepared(Settings::calm_of(*kind, seed, 3))?;
        world.crash(2, CrashKind::Kill);
        change(&mut world, 1, 0)?;
        let stopped = world.run_until(NOTICED_WITHIN, |world| (0..2).all(|node| is_undecided(world, node)));
        ensure!(stopped, "{kind:?}: not noticed: {}", world.describe());
        world.restart(2);
        let decided =
            world.run_until(2 * NOTICED_WITHIN, |world| is_sound(world, 0) && is_outvoted(world, 1));
        ensure!(decided, "{kind:?}: not decided: {}", world.describe());
        ensure!(world.set_soon(0, "r1", "goes on"), "{kind:?}: the majority does not go on");
        refuses(&mut world, 1)?;
        world.check().map_err(broken)?;
    }
    Ok(())
}

/// T-D5. Three writes of a leader and a node whose disk is then restored, which nobody notices; with the third it decides something else.
/// When the leader is back it hears of a decision that contradicts its own, and says so without any digest.
pub(super) fn forgotten_votes(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    let rest = others(3, leader);
    let (lost, third) = (rest[0], rest[1]);
    ensure!(world.set_soon(leader, "r0", "before"), "no first write: {}", world.describe());
    world.run_for(SECOND);
    let copy = world.copy(lost);
    world.isolate(third);
    for number in 0..3 {
        let written = world.set_soon(leader, "r0", &format!("kept {number}"));
        ensure!(written, "no write with two of three: {}", world.describe());
    }
    world.run_for(500 * MILLISECOND);
    world.isolate(leader);
    world.restore(lost, &copy);
    world.forget_lives();
    for (from, to) in [(lost, third), (third, lost)] {
        world.unblock(from, to);
    }
    world.restart(lost);
    ensure!(world.set_soon(third, "r0", "new"), "the others do not decide: {}", world.describe());
    ensure!(is_sound(&world, leader), "found out too early: {}", world.describe());
    world.rejoin(leader);
    let noticed = world.run_until(NOTICED_WITHIN, |world| {
        let found = standing(world, leader);
        matches!(found, Some(Standing::Undecided(Disagreement { at: Place::Decision(_), .. })))
    });
    ensure!(noticed, "not noticed: {}", world.describe());
    refuses(&mut world, leader)?;
    // Digests say later who has the majority.
    for number in 0..3 {
        ensure!(world.set_soon(third, "r1", &format!("{number}")), "the others stop: {}", world.describe());
    }
    let decided = world.run_until(2 * NOTICED_WITHIN, |world| is_outvoted(world, leader));
    ensure!(decided, "not decided: {}", world.describe());
    Ok(())
}

/// T-D4. The segment in which it was written that a replica must not serve is recycled.
pub(super) fn standing_outlives_its_segment(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.wal.segment_size = 64 << 10;
    settings.wal.group_size_max = 16 << 10;
    settings.log_size_max = 128 << 10;
    let mut world = prepared(settings)?;
    change(&mut world, 2, 0)?;
    let noticed = world.run_until(NOTICED_WITHIN, |world| is_outvoted(world, 2));
    ensure!(noticed, "not noticed: {}", world.describe());
    for number in 0..100 {
        ensure!(world.set_soon(number % 2, "r0", &format!("after {number}")), "no write");
    }
    world.run_for(500 * MILLISECOND);
    ensure!(world.coverage().recycled_segments > 0, "no segment was recycled");
    world.isolate(2);
    for _ in 0..3 {
        world.bounce(2, CrashKind::Power);
        ensure!(is_outvoted(&world, 2), "it has forgotten that it must not serve: {}", world.describe());
    }
    world.check().map_err(broken)
}
