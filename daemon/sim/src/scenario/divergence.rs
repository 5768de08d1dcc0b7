//! Replicas whose states differ: it is noticed, who is in a minority stops serving, and without a majority all do.

use panch_consensus::multi::message::Message;
use panch_consensus::protocol::ProtocolKind;
use panch_replica::checkpoint::{Disagreement, Place};
use panch_replica::divergence::Standing;
use panch_replica::replica::Level;
use panch_wire::command::CommandError;
use panch_wire::ids::{GroupId, ReplicaId};
use panch_wire::time::Duration;

use super::{Script, begin, broken, ensure, others, steady};
use crate::client::{Outcome, OwnedCommand};
use crate::disk::CrashKind;
use crate::linear::register::{Action, Answer};
use crate::queue::{MICROSECOND, MILLISECOND, SECOND};
use crate::settings::Settings;
use crate::world::{Letter, Verdict};

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
        // Until then it serves nothing because the others have not taken it in.
        world.run_for(500 * MILLISECOND);
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

/// T-ED1. The same with EPaxos while the third node writes all the time: no two nodes have executed the same when they look.
pub(super) fn third_tells_under_load(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, 3);
    settings.network.latency_low = 20 * MILLISECOND;
    settings.network.latency_high = 20 * MILLISECOND + 100 * MICROSECOND;
    settings.tuning.slow_after = Duration::from_millis(80);
    settings.tuning.recover_after = Duration::from_millis(400);
    settings.tuning.recover_always_after = Duration::from_millis(2000);
    settings.tuning.pipeline_depth = 32;
    settings.replica.batch.pipeline_depth = 32;
    settings.replica.batch.queue_max = 64;
    let mut world = prepared(settings)?;
    world.crash(2, CrashKind::Kill);
    for number in 0..5 {
        ensure!(world.set_soon(0, "r2", &format!("v{number}")), "two do not write: {}", world.describe());
    }
    change(&mut world, 1, 0)?;
    let stopped = world.run_until(NOTICED_WITHIN, |world| (0..2).all(|node| is_undecided(world, node)));
    ensure!(stopped, "not noticed: {}", world.describe());
    world.restart(2);
    let live = world.run_until(SECOND, |world| world.is_up(2) && world.status_of(2, GroupId(0)).is_some());
    ensure!(live, "the third does not start: {}", world.describe());
    for number in 0..1500 {
        let text = format!("load {number}");
        let _ = world.call(2, "r1", Action::Set(text.as_bytes().into()), Level::Log);
        world.run_for(MILLISECOND);
        if is_sound(&world, 0) {
            break;
        }
    }
    ensure!(is_sound(&world, 0), "not decided: {}", world.describe());
    ensure!(!is_sound(&world, 1), "the wrong one serves: {}", world.describe());
    world.check().map_err(broken)
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

/// T-D6. As before, but the third dies before it has accepted anything of whoever forgot and leads now. The old leader does not help that
/// one to decide otherwise: it leads again, and what was acknowledged is kept.
pub(super) fn forgetful_leader(seed: u64) -> Result<(), String> {
    forgetful_leader_meets(seed, Old::Memory)
}

/// T-D9. The same, but the old leader was restarted meanwhile: what it knows to be chosen is in its log alone, or in its snapshot.
pub(super) fn forgetful_leader_and_a_restart(seed: u64) -> Result<(), String> {
    forgetful_leader_meets(seed, Old::Log)?;
    forgetful_leader_meets(seed, Old::Snapshot)
}

/// Where the old leader of T-D6 has what is forgotten.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    Memory,
    Log,
    Snapshot,
}

fn forgetful_leader_meets(seed: u64, old: Old) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    if old == Old::Snapshot {
        settings.replica.snapshot_log_size = 4 << 10;
    }
    let (mut world, leader) = begin(settings)?;
    let rest = others(3, leader);
    let (lost, third) = (rest[0], rest[1]);
    ensure!(world.set_soon(leader, "r0", "before"), "no first write: {}", world.describe());
    world.run_for(SECOND);
    let copy = world.copy(lost);
    world.isolate(third);
    let before = world.newest_snapshot(leader);
    let mut kept = Vec::new();
    for number in 0..200 {
        // Each write has a key of its own, so that none stands for another.
        let key = format!("kept{number}");
        ensure!(world.set_soon(leader, &key, "kept"), "no write with two of three: {}", world.describe());
        kept.push(key);
        if number >= 2 && (old != Old::Snapshot || world.newest_snapshot(leader) > before) {
            break;
        }
    }
    let has_snapshot = world.newest_snapshot(leader) > before;
    ensure!(old != Old::Snapshot || has_snapshot, "no snapshot: {}", world.describe());
    world.run_for(500 * MILLISECOND);
    world.isolate(leader);
    if old != Old::Memory {
        world.bounce(leader, CrashKind::Kill);
    }
    world.restore(lost, &copy);
    world.forget_lives();
    world.set_filter(Box::new(move |letter: &Letter| {
        let stands = letter.from == third && matches!(letter.multi(), Some(Message::PreVote(_)));
        let accepts = letter.to == third && matches!(letter.multi(), Some(Message::Accept(_)));
        if stands || accepts { Verdict::Drop } else { Verdict::Pass }
    }));
    for (from, to) in [(lost, third), (third, lost)] {
        world.unblock(from, to);
    }
    world.restart(lost);
    let elected = world.run_until(20 * SECOND, |world| {
        let status = world.status_of(lost, GroupId(0));
        status.is_some_and(|status| status.protocol.leader == Some(ReplicaId(lost as u8)))
    });
    ensure!(elected, "nobody else leads: {}", world.describe());
    // More than the old leader has, so that its acknowledgement could cover what it has not heard of.
    for number in 0..3 {
        let _ = world.call(lost, "r0", Action::Set(format!("new {number}").as_bytes().into()), Level::Log);
    }
    world.run_for(20 * MILLISECOND);
    world.crash(third, CrashKind::Kill);
    for (from, to) in [(lost, leader), (leader, lost)] {
        world.unblock(from, to);
    }
    // Of a snapshot whoever forgot has all that there is, and may lead with that.
    let leads = |world: &Script, node: usize| world.status(node).protocol.leading;
    let is_back = |world: &Script| {
        is_sound(world, leader) && (leads(world, leader) || old == Old::Snapshot && leads(world, lost))
    };
    let settled = world.run_until(20 * SECOND, |world| {
        is_back(world) && world.status(lost).executed == world.status(leader).executed
    });
    ensure!(settled, "who knows more does not lead: {}", world.describe());
    for key in kept {
        let read = world.get(leader, &key, Level::Quorum);
        let is_kept =
            matches!(&read, Some(Outcome::Answer(Answer::Value(Some(value)))) if value[..] == *b"kept");
        ensure!(is_kept, "acknowledged and lost: {key} is {read:?}");
    }
    let found = world.status(lost).digest == world.status(leader).digest;
    ensure!(found, "states differ: {}", world.describe());
    Ok(())
}

/// T-D7. The replica that leads when it can is outvoted. It does not lead: one that has lost its disk gets in again.
pub(super) fn outvoted_home(seed: u64) -> Result<(), String> {
    let mut world = prepared(Settings::calm(seed, 3))?;
    change(&mut world, 0, 0)?;
    ensure!(world.run_until(NOTICED_WITHIN, |world| is_outvoted(world, 0)), "not noticed");
    // Time enough to hand the lead over to where it belongs.
    world.run_for(5 * SECOND);
    ensure!(!world.status(0).protocol.leading, "it leads: {}", world.describe());
    ensure!(world.set_soon(1, "r1", "goes on"), "the others do not go on: {}", world.describe());
    world.wipe(2);
    world.restart(2);
    ensure!(world.set_soon(2, "r1", "back"), "no way back: {}", world.describe());
    world.bounce(0, CrashKind::Power);
    world.run_for(5 * SECOND);
    ensure!(!world.status(0).protocol.leading, "it leads again: {}", world.describe());
    world.check().map_err(broken)
}

/// T-D8. Sessions expire, whoever is outvoted.
pub(super) fn sessions_expire(seed: u64) -> Result<(), String> {
    for kind in ProtocolKind::ALL {
        let mut settings = Settings::calm_of(*kind, seed, 3);
        settings.replica.session_idle_max = Duration::from_secs(1);
        let mut world = prepared(settings)?;
        let first = world.leader().unwrap_or(0);
        change(&mut world, first, 0)?;
        ensure!(world.run_until(NOTICED_WITHIN, |world| is_outvoted(world, first)), "{kind:?}: not noticed");
        world.run_for(2 * SECOND);
        let node = others(3, first)[0];
        let call = world.call_command(node, OwnedCommand::open_session(7), None, Level::Log);
        let opened = world.wait(call, SECOND);
        ensure!(matches!(opened, Some(Outcome::Answer(_))), "{kind:?}: no session: {opened:?}");
        world.run_for(4 * SECOND);
        let command = OwnedCommand::of(b"n0", &Action::Increment(1)).in_session(7, 1);
        let call = world.call_command(node, command, None, Level::Log);
        let outcome = world.wait(call, SECOND);
        let expired = outcome == Some(Outcome::Refused(CommandError::UnknownSession));
        ensure!(expired, "{kind:?}: the session lives: {outcome:?}");
        world.check().map_err(broken)?;
    }
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
