//! Disks: what is said before it is written, what is not written after all, and what does not stay as it was.

use panch_consensus::multi::message::Message;
use panch_replica::replica::Level;
use panch_wire::ids::GroupId;

use super::{Script, begin, broken, end, ensure, others};
use crate::client::Outcome;
use crate::disk::{CrashKind, Latency};
use crate::linear::register::{Action, Answer};
use crate::queue::{MICROSECOND, MILLISECOND, SECOND};
use crate::settings::Settings;
use crate::world::{Letter, Verdict, key_in};

fn set(text: &str) -> Action {
    Action::Set(text.as_bytes().into())
}

/// T-C1. The follower's vote decides, but its write does not become durable before the power fails.
pub(super) fn vote_lost_in_crash(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    ensure!(world.set(leader, "r0", "a"), "no write");
    world.run_for(100 * MILLISECOND);
    let [follower, away] = others(3, leader)[..] else { unreachable!("three nodes") };
    world.isolate(away);
    world.stall_disk(follower, SECOND);
    let call = world.call(leader, "r0", set("b"), Level::Log);
    world.run_for(100 * MILLISECOND);
    world.check().map_err(broken)?;
    ensure!(world.outcome(call).is_none(), "decided by a vote that is not durable");
    for node in [leader, follower] {
        world.crash(node, CrashKind::Power);
    }
    world.rejoin(away);
    world.restart(follower);
    ensure!(world.set_soon(away, "r1", "c"), "the other two do not decide: {}", world.describe());
    end(world)
}

/// T-C5. The follower's disk fails one write. It must stop, and what it voted must not count.
pub(super) fn failed_write(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    ensure!(world.set(leader, "r0", "a"), "no write");
    world.run_for(100 * MILLISECOND);
    let [follower, away] = others(3, leader)[..] else { unreachable!("three nodes") };
    world.isolate(away);
    world.fail_disk(follower);
    let stops = world.coverage().failed_writes;
    let call = world.call(leader, "r0", set("b"), Level::Log);
    let failed = world.run_until(SECOND, |world| world.disk_failures(follower) > 0);
    ensure!(failed, "no write failed");
    world.run_for(5 * MILLISECOND);
    world.check().map_err(broken)?;
    ensure!(world.coverage().failed_writes > stops, "the node goes on after a failed write");
    ensure!(world.outcome(call).is_none(), "decided by a vote whose write failed");
    end(world)
}

/// T-C6. A node's log is damaged where it is known to be durable: the node refuses to start, or the damage does not matter.
pub(super) fn damaged_log(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    for number in 0..20 {
        ensure!(world.set(leader, "r0", &format!("v{number}")), "no write");
    }
    world.run_for(200 * MILLISECOND);
    let damaged = others(3, leader)[0];
    world.crash(damaged, CrashKind::Power);
    ensure!(world.rot(damaged), "nothing is known to be durable");
    world.restart(damaged);
    world.run_for(500 * MILLISECOND);
    world.check().map_err(broken)?;
    ensure!(world.has_refused(damaged) || world.is_up(damaged), "neither refused nor started");
    end(world)
}

/// T-C11. A file of a follower's log is gone: the one with its vote for what was acknowledged, or a blank one behind it. It
/// refuses to start, and comes back by the way of a lost disk.
pub(super) fn lost_segment(seed: u64) -> Result<(), String> {
    for used in [true, false] {
        let mut settings = Settings::calm(seed, 3);
        settings.wal.segment_size = 64 << 10;
        settings.wal.group_size_max = 16 << 10;
        let (mut world, leader) = begin(settings)?;
        for number in 0..30 {
            ensure!(world.set(leader, "r0", &format!("v{number}")), "no write");
        }
        let [follower, away] = others(3, leader)[..] else { unreachable!("three nodes") };
        world.isolate(away);
        ensure!(world.set(leader, "r0", "acknowledged"), "no write");
        world.run_for(100 * MILLISECOND);
        world.crash(follower, CrashKind::Kill);
        world.lose_segment(follower, used);
        world.isolate(leader);
        world.rejoin(away);
        world.isolate(leader);
        world.restart(follower);
        let served = world.set_soon(away, "r1", "other");
        world.check().map_err(broken)?;
        ensure!(!served && world.has_refused(follower), "it started: {}", world.describe());
        world.rejoin(leader);
        world.wipe(follower);
        world.restart(follower);
        ensure!(world.set_soon(follower, "r1", "back"), "not a member again: {}", world.describe());
        end(world)?;
    }
    Ok(())
}

/// T-C12. A node installs a snapshot over values that lost, and then the file is gone or damaged. It must not go back to
/// them.
pub(super) fn lost_snapshot(seed: u64) -> Result<(), String> {
    for remove in [true, false] {
        let mut settings = Settings::calm(seed, 5);
        settings.replica.snapshot_log_size = 48 << 10;
        settings.tuning.tail_size_max = 16 << 10;
        settings.wal.segment_size = 1 << 20;
        let (mut world, old) = begin(settings)?;
        ensure!(world.set(old, "r0", "a"), "no write");
        world.run_for(100 * MILLISECOND);
        // The leader and one follower accept what the three others never hear of.
        let rest = others(5, old);
        let (victim, majority) = (rest[0], &rest[1..]);
        world.isolate(old);
        world.isolate(victim);
        world.unblock(old, victim);
        world.unblock(victim, old);
        world.run_for(50 * MILLISECOND);
        for number in 0..3 {
            let _ = world.call(old, "r1", set(&format!("loses{number}")), Level::Log);
        }
        let leads = |world: &Script, node: usize| world.status(node).protocol.leading;
        let led = world.run_until(10 * SECOND, |world| majority.iter().any(|node| leads(world, *node)));
        ensure!(led, "the three others have no leader: {}", world.describe());
        let leader = *majority.iter().find(|node| leads(&world, **node)).ok_or("just seen")?;
        let big = "x".repeat(3500);
        for number in 0..40 {
            ensure!(world.set_soon(leader, &format!("big{number}"), &big), "no write: {}", world.describe());
        }
        world.rejoin(victim);
        world.rejoin(old);
        let installed = world.run_until(10 * SECOND, |world| world.status(victim).probe.installs > 0);
        ensure!(installed, "no snapshot was installed: {}", world.describe());
        ensure!(world.set_soon(leader, "r0", "b"), "no write");
        world.run_for(200 * MILLISECOND);
        world.crash(victim, CrashKind::Kill);
        world.harm_snapshot(victim, remove);
        world.restart(victim);
        world.run_for(SECOND);
        world.check().map_err(broken)?;
        ensure!(world.has_refused(victim), "it started: {}", world.describe());
        world.wipe(victim);
        world.restart(victim);
        ensure!(world.set_soon(victim, "r1", "back"), "not a member again: {}", world.describe());
        end(world)?;
    }
    Ok(())
}

/// T-C13. A snapshot cannot be read for a peer, and none can be written in its place. The node needs the one that it has, and so does the peer.
pub(super) fn failed_remake(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.replica.snapshot_log_size = 48 << 10;
    settings.tuning.tail_size_max = 16 << 10;
    settings.wal.segment_size = 64 << 10;
    settings.wal.group_size_max = 16 << 10;
    let (mut world, leader) = begin(settings)?;
    let lagging = others(3, leader)[0];
    world.isolate(lagging);
    let big = "x".repeat(3500);
    for number in 0..60 {
        ensure!(world.set_soon(leader, &format!("big{number}"), &big), "no write: {}", world.describe());
    }
    // No file can be read: another one is made, in the end up to what was executed last, and again in its own place.
    world.spoil_disk(leader, false, true);
    world.rejoin(lagging);
    let made = world.status(leader).probe.snapshots + 2;
    let again = world.run_until(10 * SECOND, |world| world.status(leader).probe.snapshots >= made);
    ensure!(again, "it was not made again: {}", world.describe());
    let newest = world.newest_snapshot(leader);
    world.spoil_disk(leader, true, true);
    let no_room = world.coverage().no_room;
    let failed = world.run_until(10 * SECOND, |world| world.coverage().no_room > no_room + 1);
    ensure!(failed, "it was made again: {}", world.describe());
    world.spoil_disk(leader, true, false);
    let installed = world.run_until(10 * SECOND, |world| world.status(lagging).probe.installs > 0);
    world.check().map_err(broken)?;
    ensure!(world.newest_snapshot(leader) == newest, "it is gone: {}", world.describe());
    ensure!(installed, "a snapshot that can be read is sent to nobody: {}", world.describe());
    world.spoil_disk(leader, false, false);
    let made = world.status(leader).probe.snapshots;
    let again = world.run_until(10 * SECOND, |world| world.status(leader).probe.snapshots > made);
    ensure!(again, "the doubt was forgotten: {}", world.describe());
    world.bounce(leader, CrashKind::Power);
    ensure!(world.is_up(leader), "it does not start: {}", world.describe());
    ensure!(world.set_soon(lagging, "r0", "c"), "no write: {}", world.describe());
    end(world)
}

/// T-M5. The leader's own disk is slow; one follower is not enough.
pub(super) fn own_vote_counted_early(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    ensure!(world.set(leader, "r0", "a"), "no write");
    world.run_for(100 * MILLISECOND);
    let [follower, away] = others(3, leader)[..] else { unreachable!("three nodes") };
    world.set_filter(Box::new(move |letter: &Letter| {
        let accept = matches!(letter.multi(), Some(Message::Accept(_)));
        if accept && letter.to == away { Verdict::Drop } else { Verdict::Pass }
    }));
    world.stall_disk(leader, 250 * MILLISECOND);
    let call = world.call(leader, "r0", set("b"), Level::Log);
    world.run_for(100 * MILLISECOND);
    world.check().map_err(broken)?;
    ensure!(world.outcome(call).is_none(), "decided before the leader's own vote was durable");
    for node in [leader, follower] {
        world.crash(node, CrashKind::Power);
    }
    world.clear_filter();
    world.restart(leader);
    ensure!(world.set_soon(away, "r1", "c"), "the other two do not decide: {}", world.describe());
    end(world)
}

/// T-X4. One group is busy, the other quiet: the segment with the quiet group's promise is recycled.
pub(super) fn promise_recycled(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.protocols.push(settings.protocols[0]);
    settings.replica.snapshot_log_size = 32 << 10;
    settings.wal.segment_size = 64 << 10;
    settings.wal.group_size_max = 16 << 10;
    settings.log_size_max = 128 << 10;
    let (mut world, _) = begin(settings)?;
    let (busy, quiet) = (key_in(GroupId(0), 2), GroupId(1));
    let led = world.run_until(5 * SECOND, |world| {
        (0..3).all(|node| world.status_of(node, quiet).is_some_and(|status| status.protocol.leader.is_some()))
    });
    ensure!(led, "the quiet group has no leader");
    for number in 0..100 {
        let node = world.leader().ok_or("no leader")?;
        ensure!(world.set_soon(node, &busy, &format!("v{number}")), "no write");
    }
    ensure!(world.coverage().recycled_segments > 0, "no segment was recycled");
    for node in 0..3 {
        world.bounce(node, CrashKind::Power);
        world.check().map_err(broken)?;
    }
    end(world)
}

/// T-X5. Snapshots take long to become durable; the power fails meanwhile.
pub(super) fn recycled_before_snapshot(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.replica.snapshot_log_size = 48 << 10;
    settings.wal.segment_size = 64 << 10;
    settings.wal.group_size_max = 16 << 10;
    settings.disk = Latency { low: 2 * MILLISECOND, high: 3 * MILLISECOND, sync: 0, read: 0 };
    settings.clients.patience = 2 * SECOND;
    settings.replica.request_timeout = panch_wire::time::Duration::from_secs(2);
    let (mut world, leader) = begin(settings)?;
    let big = "x".repeat(3500);
    let mut number = 0;
    for round in 0..4 {
        for node in 0..3 {
            let sync = if round == 0 { 0 } else { 400 * MILLISECOND };
            world.set_disk(node, Latency { low: 2 * MILLISECOND, high: 3 * MILLISECOND, sync, read: 0 });
        }
        for _ in 0..25 {
            number += 1;
            let written = world.set_soon(leader, &format!("big{number}"), &format!("{number}.{big}"));
            ensure!(written, "no write: {}", world.describe());
        }
        if round > 0 {
            world.bounce(others(3, leader)[round % 2], CrashKind::Power);
        }
        world.check().map_err(broken)?;
    }
    world.run_for(SECOND);
    let snapshots: u64 = (0..3).map(|node| world.status(node).probe.snapshots).sum();
    ensure!(snapshots > 0, "no snapshot was made");
    end(world)
}

/// T-X6. Power fails in the middle of long log writes, over and over.
pub(super) fn torn_tail(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.replica.batch.size_max = 16 << 10;
    settings.wal.writes_in_flight_max = 4;
    settings.disk = Latency { low: 100 * MICROSECOND, high: 3 * MILLISECOND, sync: 0, read: 0 };
    let (mut world, _) = begin(settings)?;
    let big = "x".repeat(9000);
    for round in 0..12 {
        let leader = world.wait_for_leader().ok_or("no leader")?;
        let victim = if round % 3 == 0 { leader } else { others(3, leader)[round % 2] };
        world.doom(victim, CrashKind::Power);
        for number in 0..4 {
            let text = format!("{round}.{number}.{big}");
            let _ = world.call((leader + number) % 3, "r0", set(&text), Level::Log);
        }
        world.run_for(SECOND);
        world.check().map_err(broken)?;
    }
    end(world)
}

/// T-X8. Whatever was acknowledged is there after each power failure.
pub(super) fn blackouts(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.replica.snapshot_log_size = 32 << 10;
    settings.wal.segment_size = 64 << 10;
    settings.wal.group_size_max = 16 << 10;
    let (mut world, mut leader) = begin(settings)?;
    for round in 0..6 {
        let text = format!("v{round}");
        ensure!(world.set_soon(leader, "r0", &text), "no write");
        for node in 0..3 {
            let _ = world.call(node, "r1", set(&format!("{round}.{node}")), Level::Log);
        }
        world.run_for(seed % 3 * 200 * MICROSECOND);
        for node in 0..3 {
            world.crash(node, CrashKind::Power);
        }
        for node in 0..3 {
            world.restart(node);
        }
        leader = world.wait_for_leader().ok_or("no leader after the power failure")?;
        world.check().map_err(broken)?;
        let read = world.get(leader, "r0", Level::Quorum);
        let expected = Outcome::Answer(Answer::Value(Some(text.as_bytes().into())));
        ensure!(read == Some(expected), "round {round}: read {read:?}");
    }
    end(world)
}
