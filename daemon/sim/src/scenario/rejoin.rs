//! A node loses its disk and comes back: what it may have said must not be contradicted.
//!
//! In all of them the lost disk held the one other vote for something, and what could go wrong without its rule is that
//! the node helps somebody who has not heard of it.

use std::cell::Cell;
use std::rc::Rc;

use panch_consensus::multi::message::Message;
use panch_consensus::protocol::ProtocolKind;
use panch_replica::rejoin::Membership;
use panch_replica::replica::Level;
use panch_wal::Durability;
use panch_wire::ids::GroupId;
use panch_wire::time::Duration;

use super::{Script, begin, broken, end, ensure, others, steady};
use crate::client::Outcome;
use crate::disk::{CrashKind, Latency};
use crate::linear::register::{Action, Answer};
use crate::queue::{MICROSECOND, MILLISECOND, SECOND};
use crate::settings::Settings;
use crate::world::{DiskCopy, Letter, Verdict};

fn set(text: &str) -> Action {
    Action::Set(text.as_bytes().into())
}

/// Drops everything that protocols say to or from a node, and with `all` what is said about coming back, too.
fn cut_off(world: &mut Script, node: usize, all: bool) {
    world.set_filter(Box::new(move |letter: &Letter| {
        let concerned = letter.from == node || letter.to == node;
        if concerned && (all || letter.rejoin.is_none()) { Verdict::Drop } else { Verdict::Pass }
    }));
}

fn is_mute(world: &Script, node: usize) -> bool {
    world.status_of(node, GroupId(0)).is_some_and(|status| matches!(status.membership, Membership::Mute(_)))
}

/// A write that only the leader and one follower have, whose disk is lost then: the world, the leader, that follower, and
/// the third, which knows nothing at all.
fn half_known(seed: u64) -> Result<(Script, usize, usize, usize), String> {
    let mut world = Script::new(Settings::calm(seed, 3), false);
    let third = 2;
    cut_off(&mut world, third, true);
    ensure!(world.set_soon(0, "r0", "kept"), "no write with two of three: {}", world.describe());
    world.run_for(200 * MILLISECOND);
    let leader = world.leader().ok_or("no leader")?;
    let lost = 1 - leader;
    world.wipe(lost);
    Ok((world, leader, lost, third))
}

/// T-R1. Only the leader can tell what the lost disk held, and does not answer.
pub(super) fn one_does_not_answer(seed: u64) -> Result<(), String> {
    let (mut world, leader, lost, third) = half_known(seed)?;
    cut_off(&mut world, leader, true);
    world.restart(lost);
    world.run_for(2 * SECOND);
    world.check().map_err(broken)?;
    ensure!(world.is_returning(lost), "a member again without an answer of node {leader}");
    ensure!(!world.set_soon(third, "r1", "new"), "decided by a node that has lost its disk");
    end(world)
}

/// T-R2. All have told what the lost disk held, and then the only other one that has it is cut off.
pub(super) fn cut_off_after_the_answers(seed: u64) -> Result<(), String> {
    let (mut world, leader, lost, third) = half_known(seed)?;
    cut_off(&mut world, leader, false);
    world.restart(lost);
    world.run_for(2 * SECOND);
    world.check().map_err(broken)?;
    ensure!(is_mute(&world, lost), "not mute: {}", world.describe());
    ensure!(!world.set_soon(third, "r1", "new"), "decided by a node that has lost its disk");
    end(world)
}

/// T-R3. A deposed leader that has not noticed proposes to the node, which deposed it in its earlier life.
pub(super) fn deposed_leader_proposes(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    // All that the new leader has to give is its snapshot.
    settings.replica.snapshot_log_size = 1;
    settings.tuning.tail_size_max = 0;
    let (mut world, first) = begin(settings)?;
    ensure!(world.set(first, "r0", "before"), "no first write");
    world.run_for(200 * MILLISECOND);
    let old = world.leader().unwrap_or(first);
    let rest = others(3, old);
    cut_off(&mut world, old, true);
    world.set_clock_rate(old, 5_000);
    ensure!(world.set_soon(rest[0], "r0", "kept"), "no new leader: {}", world.describe());
    world.run_for(500 * MILLISECOND);
    let leads = |node: &usize| world.status(*node).protocol.leading;
    let new = *rest.iter().find(|node| leads(node)).ok_or("nobody leads")?;
    let lost = 3 - old - new;
    for number in 0..40 {
        if world.newest_snapshot(new) == Some(world.status(new).executed) {
            break;
        }
        ensure!(world.set_soon(new, "r0", &format!("kept {number}")), "no write with two of three");
        world.run_for((20 + 7 * number) * MILLISECOND);
    }
    let snapshot = world.newest_snapshot(new);
    ensure!(snapshot == Some(world.status(new).executed), "no snapshot of everything: {snapshot:?}");
    // It must stay leader while nobody answers.
    world.set_clock_rate(new, 20_000);
    world.wipe(lost);
    // The old leader answers, and is not heard otherwise. The new one gives its snapshot and nothing to accept.
    world.set_filter(Box::new(move |letter: &Letter| {
        let from_old = letter.from == old || letter.to == old;
        let accept = matches!(letter.multi(), Some(Message::Accept(_)));
        if accept || from_old && letter.rejoin.is_none() { Verdict::Drop } else { Verdict::Pass }
    }));
    world.restart(lost);
    let back = world.run_until(5 * SECOND, |world| world.is_up(lost) && !world.is_returning(lost));
    ensure!(back, "the node does not come back: {}", world.describe());
    cut_off(&mut world, new, true);
    world.bounce(lost, CrashKind::Kill);
    world.set_clock_rate(old, 1_000_000);
    // Decided sooner or later, but not where something else was decided already.
    let _ = world.call(old, "r0", set("later"), Level::Log);
    world.run_for(500 * MILLISECOND);
    world.check().map_err(broken)?;
    end(world)
}

/// T-R4. The power fails in the moment in which the node is a member again.
pub(super) fn power_fails_at_the_end(seed: u64) -> Result<(), String> {
    let (mut world, leader, lost, third) = half_known(seed)?;
    let last = world.status(leader).executed;
    // It must stay leader while nobody answers.
    world.set_clock_rate(leader, 20_000);
    world.set_disk(lost, Latency { low: 10 * MICROSECOND, high: 30 * MILLISECOND, sync: 0, read: 0 });
    for _ in 0..12 {
        cut_off(&mut world, third, false);
        world.restart(lost);
        let back = world.run_until(20 * SECOND, |world| world.is_up(lost) && !world.is_returning(lost));
        world.check().map_err(broken)?;
        ensure!(back, "the node does not come back: {}", world.describe());
        world.set_filter(Box::new(|_| Verdict::Drop));
        world.bounce(lost, CrashKind::Power);
        let status = world.status(lost);
        ensure!(
            status.protocol.last >= last,
            "a member that has forgotten what it came back for: {status:?}"
        );
        world.wipe(lost);
    }
    world.restart(lost);
    end(world)
}

/// T-R5. In every protocol a node comes back after each other has lost its disk, also when it crashes on the way; then
/// everything is there with any other node missing.
pub(super) fn one_after_the_other(seed: u64) -> Result<(), String> {
    for kind in ProtocolKind::ALL {
        let mut world = steady(Settings::calm_of(*kind, seed, 3))?;
        for node in 0..3 {
            let (text, writer) = (format!("v{node}"), (node + 1) % 3);
            ensure!(world.set_soon(writer, "r0", &text), "{kind:?}: no write: {}", world.describe());
            world.wipe(node);
            ensure!(world.set_soon(writer, "r1", &text), "{kind:?}: no write with two of three");
            world.restart(node);
            world.run_for(2 * MILLISECOND + seed * MILLISECOND);
            let crash = if seed.is_multiple_of(2) { CrashKind::Power } else { CrashKind::Kill };
            world.crash(node, crash);
            world.restart(node);
            let back = world.run_until(20 * SECOND, |world| world.is_up(node) && !world.is_returning(node));
            world.check().map_err(broken)?;
            ensure!(back, "{kind:?}: node {node} does not come back: {}", world.describe());
            world.crash(writer, CrashKind::Kill);
            ensure!(
                world.set_soon(node, "r2", &text),
                "{kind:?}: no write with the node: {}",
                world.describe()
            );
            let read = world.get(node, "r0", Level::Log);
            let value = Answer::Value(Some(text.as_bytes().into()));
            ensure!(read == Some(Outcome::Answer(value)), "{kind:?}: read {read:?}");
            world.restart(writer);
            world.run_for(SECOND);
        }
        end(world)?;
    }
    Ok(())
}

/// T-R6. A read at the third, which only the node can answer: what its lost disk had voted for must be seen.
pub(super) fn read_through_the_mute(seed: u64) -> Result<(), String> {
    for kind in [ProtocolKind::Basic, ProtocolKind::Fast, ProtocolKind::Epaxos] {
        let mut world = steady(Settings::calm_of(kind, seed, 3))?;
        // In EPaxos the other half of the fast pair is the next node.
        let (first, lost, third) = (0, 1, 2);
        cut_off(&mut world, third, true);
        ensure!(world.set_soon(first, "r0", "kept"), "{kind:?}: no write with two: {}", world.describe());
        world.wipe(lost);
        cut_off(&mut world, first, false);
        world.restart(lost);
        let mute = world.run_until(5 * SECOND, |world| is_mute(world, lost));
        ensure!(mute, "{kind:?}: not mute: {}", world.describe());
        let call = world.call(third, "r0", Action::Get, Level::Quorum);
        world.run_for(SECOND);
        world.check().map_err(broken)?;
        let answer = world.outcome(call);
        ensure!(!matches!(answer, Some(Outcome::Answer(_))), "{kind:?}: the read sees {answer:?}");
        end(world)?;
    }
    Ok(())
}

/// A write that the leader and a node whose disk is then restored have, and the third has not; what the third decides with
/// the node while the leader is away.
fn decide_with_a_copy(
    mut world: Script,
    [leader, lost, third]: [usize; 3],
    copy: &DiskCopy,
) -> Result<(), String> {
    cut_off(&mut world, third, true);
    ensure!(world.set_soon(leader, "r0", "kept"), "no write with two of three: {}", world.describe());
    world.run_for(500 * MILLISECOND);
    world.isolate(leader);
    world.restore(lost, copy);
    world.clear_filter();
    world.unblock(lost, third);
    world.unblock(third, lost);
    world.restart(lost);
    world.run_for(SECOND);
    ensure!(!world.set_soon(third, "r0", "new"), "decided by a node with an older copy of its disk");
    world.check().map_err(broken)?;
    world.rejoin(leader);
    let back = world.run_until(20 * SECOND, |world| world.is_up(lost) && !world.is_returning(lost));
    ensure!(back, "the node does not come back: {}", world.describe());
    end(world)
}

/// T-R8. The third knows of the node's last start, and of nothing that it wrote since.
pub(super) fn copy_from_before_the_last_start(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    let rest = others(3, leader);
    let (lost, third) = (rest[0], rest[1]);
    ensure!(world.set_soon(leader, "r0", "before"), "no first write");
    world.run_for(SECOND);
    world.crash(lost, CrashKind::Kill);
    let copy = world.copy(lost);
    world.restart(lost);
    let knows = world.run_until(2 * SECOND, |world| world.has_accepted(third, lost));
    ensure!(knows, "the last start is not heard of: {}", world.describe());
    world.block(lost, third);
    world.block(third, lost);
    world.bounce(third, CrashKind::Kill);
    world.run_for(500 * MILLISECOND);
    decide_with_a_copy(world, [leader, lost, third], &copy)
}

/// T-R9. The third knows how far the node's log was, and of nothing that was in it.
pub(super) fn copy_of_the_last_run(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    let rest = others(3, leader);
    ensure!(world.set_soon(leader, "r0", "before"), "no first write");
    world.run_for(SECOND);
    let copy = world.copy(rest[0]);
    decide_with_a_copy(world, [leader, rest[0], rest[1]], &copy)
}

/// A node has started once more, which the leader has met, and the third was told of; the three, and a copy from before that start.
fn told_of_a_start(seed: u64) -> Result<(Script, [usize; 3], DiskCopy), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    let rest = others(3, leader);
    let (lost, third) = (rest[0], rest[1]);
    ensure!(world.set_soon(leader, "r0", "before"), "no first write");
    world.run_for(SECOND);
    world.crash(lost, CrashKind::Kill);
    let copy = world.copy(lost);
    world.block(lost, third);
    world.block(third, lost);
    world.restart(lost);
    let knows = world.run_until(2 * SECOND, |world| world.has_accepted(leader, lost));
    ensure!(knows, "the last start is not heard of: {}", world.describe());
    world.run_for(SECOND);
    ensure!(!world.has_accepted(third, lost), "the third has met the last start");
    Ok((world, [leader, lost, third], copy))
}

/// T-R10. The third has met nothing of the node's last start, and was told of it by the leader.
pub(super) fn copy_that_others_have_told_of(seed: u64) -> Result<(), String> {
    let (world, nodes, copy) = told_of_a_start(seed)?;
    decide_with_a_copy(world, nodes, &copy)
}

/// T-R11. The first knows of the node's last start and answers late; the third was away, and is there again.
pub(super) fn copy_that_a_slow_node_knows_of(seed: u64) -> Result<(), String> {
    let mut world = steady(Settings::calm_of(ProtocolKind::Basic, seed, 3))?;
    let (first, lost, third) = (0, 1, 2);
    ensure!(world.set_soon(first, "r0", "before"), "no first write");
    world.run_for(SECOND);
    world.isolate(third);
    world.crash(lost, CrashKind::Kill);
    let copy = world.copy(lost);
    world.restart(lost);
    let knows = world.run_until(2 * SECOND, |world| world.has_accepted(first, lost));
    ensure!(knows, "the last start is not heard of: {}", world.describe());
    ensure!(world.set_soon(first, "r0", "kept"), "no write with two of three: {}", world.describe());
    world.run_for(100 * MILLISECOND);
    world.pause(first, 100 * MILLISECOND);
    world.restore(lost, &copy);
    world.rejoin(third);
    world.restart(lost);
    world.set_soon(third, "r0", "new");
    world.check().map_err(broken)?;
    ensure!(world.coverage().disowned > 0, "nobody has noticed: {}", world.describe());
    end(world)
}

/// T-R12. The copy remembers directories of others that are lost, and these remember more of the node than the copy holds.
pub(super) fn copy_that_knows_nobody(seed: u64) -> Result<(), String> {
    let mut world = steady(Settings::calm(seed, 3))?;
    let restored = 1;
    ensure!(world.set_soon(0, "r0", "before"), "no first write");
    world.run_for(SECOND);
    let copy = world.copy(restored);
    for lost in [0, 2] {
        world.wipe(lost);
        world.restart(lost);
        let is_back = |world: &Script| {
            world.is_up(lost) && world.status_of(lost, GroupId(0)).is_some() && !world.is_returning(lost)
        };
        ensure!(
            world.run_until(20 * SECOND, is_back),
            "node {lost} does not come back: {}",
            world.describe()
        );
        ensure!(world.set_soon(lost, "r1", "kept"), "no write: {}", world.describe());
    }
    world.run_for(SECOND);
    world.restore(restored, &copy);
    world.restart(restored);
    let is_over = world.run_until(20 * SECOND, |world| {
        world.coverage().disowned > 0 && world.is_up(restored) && !world.is_returning(restored)
    });
    world.check().map_err(broken)?;
    ensure!(is_over, "nobody can tell: {}", world.describe());
    end(world)
}

/// T-R13. The third was told of the node's last start by the leader, which comes back without what it remembered of others.
pub(super) fn copy_that_only_a_forgetful_node_knows_of(seed: u64) -> Result<(), String> {
    let (mut world, [leader, lost, third], copy) = told_of_a_start(seed)?;
    cut_off(&mut world, third, true);
    ensure!(world.set_soon(leader, "r0", "kept"), "no write with two of three: {}", world.describe());
    world.forget_others(leader);
    world.restore(lost, &copy);
    world.clear_filter();
    world.unblock(lost, third);
    world.unblock(third, lost);
    world.restart(leader);
    // It is there, and talks to the third, before the copy is.
    world.run_for(SECOND);
    world.restart(lost);
    world.run_for(2 * SECOND);
    ensure!(!world.set_soon(third, "r0", "new"), "decided by a node with an older copy of its disk");
    world.check().map_err(broken)
}

/// T-R14. A copy remembers a directory of a node that is lost, objects to its start, finds out that it is a copy, and is never seen again.
pub(super) fn forgetful_objector_goes_away(seed: u64) -> Result<(), String> {
    let mut world = steady(Settings::calm(seed, 3))?;
    let (replaced, restored, third) = (0, 1, 2);
    ensure!(world.set_soon(third, "r0", "before"), "no first write");
    world.run_for(SECOND);
    let copy = world.copy(restored);
    world.wipe(replaced);
    world.restart(replaced);
    let is_back = world.run_until(20 * SECOND, |world| {
        world.is_up(replaced)
            && world.status_of(replaced, GroupId(0)).is_some()
            && !world.is_returning(replaced)
    });
    ensure!(is_back, "the node does not come back: {}", world.describe());
    ensure!(world.set_soon(third, "r0", "kept"), "no write: {}", world.describe());
    world.run_for(SECOND);
    // The third does not hear of the copy before the node that starts has heard of it.
    world.restore(restored, &copy);
    world.crash(replaced, CrashKind::Kill);
    world.block(restored, third);
    world.block(third, restored);
    world.restart(restored);
    world.restart(replaced);
    world.run_for(100 * MILLISECOND);
    world.isolate(restored);
    world.unblock(restored, third);
    world.unblock(third, restored);
    ensure!(world.set_soon(third, "r0", "new"), "two sound nodes do not decide: {}", world.describe());
    world.check().map_err(broken)
}

/// T-ER1. The node votes for a batch while it does not know of an earlier one that interferes, which its lost disk had
/// helped to commit; the vote leaves when it knows.
pub(super) fn vote_before_it_knows(seed: u64) -> Result<(), String> {
    let mut world = steady(Settings::calm_of(ProtocolKind::Epaxos, seed, 3))?;
    let (first, lost, third) = (0, 1, 2);
    // The third hears of nothing that the first does.
    let apart = move |letter: &Letter| {
        let pair = [letter.from, letter.to];
        pair.contains(&first) && pair.contains(&third) && letter.rejoin.is_none()
    };
    world.set_filter(Box::new(move |letter| if apart(letter) { Verdict::Drop } else { Verdict::Pass }));
    ensure!(world.set_soon(first, "r0", "earlier"), "no write with two: {}", world.describe());
    world.wipe(lost);
    let silent = Rc::new(Cell::new(true));
    let is_silent = Rc::clone(&silent);
    world.set_filter(Box::new(move |letter: &Letter| {
        let hidden = is_silent.get() && letter.from == first && letter.rejoin.is_none();
        // Commits of the first reach nobody but the node, and that late.
        if apart(letter) || hidden { Verdict::Drop } else { Verdict::Pass }
    }));
    world.restart(lost);
    let mute = world.run_until(5 * SECOND, |world| is_mute(world, lost));
    ensure!(mute, "not mute: {}", world.describe());
    world.call(third, "r0", set("later"), Level::Log);
    world.run_for(100 * MILLISECOND);
    silent.set(false);
    let back = world.run_until(20 * SECOND, |world| !world.is_returning(lost));
    world.check().map_err(broken)?;
    ensure!(back, "the node does not come back: {}", world.describe());
    world.run_for(500 * MILLISECOND);
    world.check().map_err(broken)?;
    end(world)
}

/// T-R7. A vote counts before it is synced, and the power of one node fails, or its disk, which keeps nothing that was not synced; the
/// only other one that has the write is cut off, and the third was when it was made. Then everybody is there again.
pub(super) fn unsynced_votes_are_lost(seed: u64) -> Result<(), String> {
    for kind in ProtocolKind::ALL {
        for crash in [CrashKind::Power, CrashKind::Failure] {
            unsynced_votes_are_lost_in(*kind, crash, seed)
                .map_err(|error| format!("{kind:?}, {crash:?}: {error}"))?;
        }
    }
    Ok(())
}

fn unsynced_votes_are_lost_in(kind: ProtocolKind, crash: CrashKind, seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm_of(kind, seed, 3);
    settings.wal.durability = Durability::Periodic { interval: Duration::from_millis(100) };
    let mut world = steady(settings)?;
    ensure!(world.set_soon(0, "r0", "before"), "no first write: {}", world.describe());
    world.run_for(400 * MILLISECOND);
    let first = world.leader().unwrap_or(0);
    // In EPaxos the other half of the fast pair is the next node.
    let (lost, third) = ((first + 1) % 3, (first + 2) % 3);
    cut_off(&mut world, third, true);
    ensure!(world.set_soon(first, "r0", "kept"), "no write with two: {}", world.describe());
    world.crash(lost, crash);
    cut_off(&mut world, first, true);
    world.restart(lost);
    world.run_for(SECOND);
    world.check().map_err(broken)?;
    ensure!(world.is_returning(lost), "a member again without an answer of node {first}");
    ensure!(!world.set_soon(third, "r1", "other"), "decided with a vote that was forgotten");
    world.set_filter(Box::new(|_| Verdict::Pass));
    let back = world.run_until(20 * SECOND, |world| world.is_up(lost) && !world.is_returning(lost));
    ensure!(back, "the node does not come back: {}", world.describe());
    let read = world.get(third, "r0", Level::Quorum);
    let value = Answer::Value(Some(b"kept".as_slice().into()));
    ensure!(read == Some(Outcome::Answer(value)), "read {read:?}");
    end(world)
}
