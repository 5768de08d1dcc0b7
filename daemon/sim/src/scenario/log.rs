//! The replicated log: what may be acknowledged, committed, overwritten and truncated.

use panch_consensus::multi::message::Message;
use panch_replica::replica::Level;

use super::{Script, begin, broken, end, ensure, others};
use crate::disk::{CrashKind, Latency};
use crate::linear::register::Action;
use crate::queue::{MILLISECOND, SECOND};
use crate::settings::Settings;
use crate::world::{Letter, Verdict};

fn set(text: &str) -> Action {
    Action::Set(text.as_bytes().into())
}

/// T-M1. A leader alone accepts a value; the others decide something else there; it returns and hears their commit index.
pub(super) fn losing_value_on_old_leader(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    ensure!(world.set(leader, "r0", "a"), "no write");
    world.run_for(100 * MILLISECOND);
    world.isolate(leader);
    let alone = world.call(leader, "r0", set("losing"), Level::Log);
    let before = world.status(leader).protocol.last;
    world.run_for(20 * MILLISECOND);
    ensure!(world.status(leader).protocol.last > before, "the old leader accepted nothing alone");
    let rest = others(3, leader);
    for number in 0..3 {
        ensure!(world.set_soon(rest[0], "r1", &format!("b{number}")), "no write: {}", world.describe());
    }
    ensure!(world.outcome(alone).is_none_or(|outcome| !is_answer(outcome)), "a leader alone decided");
    world.rejoin(leader);
    world.run_for(500 * MILLISECOND);
    world.check().map_err(broken)?;
    ensure!(world.status(leader).counters.overwritten > 0, "nothing was overwritten: {}", world.describe());
    end(world)
}

fn is_answer(outcome: &crate::client::Outcome) -> bool {
    matches!(outcome, crate::client::Outcome::Answer(_))
}

/// T-M14. One Accept is lost, the one behind it arrives. Two of three nodes are there, so the follower's vote decides.
pub(super) fn gap_is_not_acknowledged(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    let [follower, away] = others(3, leader)[..] else { unreachable!("three nodes") };
    ensure!(world.set(leader, "r0", "a"), "no write");
    world.run_for(100 * MILLISECOND);
    world.isolate(away);
    let lost = world.status(leader).protocol.last.next();
    world.set_filter(Box::new(move |letter: &Letter| match letter.multi() {
        Some(Message::Accept(accept)) if letter.to == follower && accept.slot == lost => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let first = world.call(leader, "r0", set("b"), Level::Log);
    world.run_for(MILLISECOND);
    let second = world.call(leader, "r1", set("c"), Level::Log);
    world.run_for(15 * MILLISECOND);
    world.check().map_err(broken)?;
    ensure!(world.status(follower).counters.gaps > 0, "no gap was seen");
    for call in [first, second] {
        ensure!(world.outcome(call).is_none(), "decided over a gap: {:?}", world.outcome(call));
    }
    world.clear_filter();
    for call in [first, second] {
        let outcome = world.wait(call, SECOND);
        ensure!(outcome.as_ref().is_some_and(is_answer), "the gap was not filled: {outcome:?}");
    }
    end(world)
}

/// T-X13. A batch on its way to the leader is lost, the one behind it is not: it must not wait until its proposer doubts everything.
pub(super) fn lost_forward(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    ensure!(world.set(leader, "r0", "a"), "no write");
    world.run_for(100 * MILLISECOND);
    let follower = others(3, leader)[0];
    world.set_filter(Box::new(move |letter: &Letter| match letter.multi() {
        Some(Message::Forward(_)) if letter.from == follower => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let first = world.call(follower, "r0", set("b"), Level::Log);
    world.run_for(2 * MILLISECOND);
    world.clear_filter();
    let second = world.call(follower, "r1", set("c"), Level::Log);
    for call in [first, second] {
        let outcome = world.wait(call, 50 * MILLISECOND);
        ensure!(outcome.as_ref().is_some_and(is_answer), "not repeated soon: {outcome:?}");
    }
    end(world)
}

/// T-M15. A follower has acknowledged entries whose commit it never heard of; the next leader has only a snapshot that
/// ends among them.
pub(super) fn snapshot_below_acknowledged_entries(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.tuning.tail_size_max = 4096;
    settings.tuning.pipeline_depth = 10;
    settings.replica.batch.pipeline_depth = 10;
    settings.replica.batch.commands_max = 1;
    settings.replica.batch.queue_max = 20;
    settings.replica.snapshot_log_size = 14 << 10;
    let (mut world, leader) = begin(settings)?;
    world.run_for(2 * SECOND);
    let leader = world.leader().unwrap_or(leader);
    let [next, lagging] = others(3, leader)[..] else { unreachable!("three nodes") };
    for attempt in 0..40 {
        let known = world.status(lagging).protocol.committed;
        world.set_filter(Box::new(move |letter: &Letter| {
            let news = match letter.multi() {
                Some(Message::Commit(_) | Message::Heartbeat(_)) => true,
                Some(Message::Accept(accept)) => accept.commit > known,
                _ => false,
            };
            let acknowledges = letter.from == lagging && matches!(letter.multi(), Some(Message::Accepted(_)));
            if letter.to == lagging && news || acknowledges { Verdict::Drop } else { Verdict::Pass }
        }));
        for number in 0..10 {
            let _ = world.call(leader, "r0", set(&format!("{attempt}.{number}")), Level::Log);
        }
        world.run_for(60 * MILLISECOND);
        world.check().map_err(broken)?;
        let last = world.status(lagging).protocol.last;
        let unheard = last > known.next();
        let snapshot = world.newest_snapshot(next);
        world.clear_filter();
        if unheard && snapshot.is_some_and(|slot| slot > known && slot < last) {
            return install_among(world, leader, next, lagging);
        }
        world.run_for(SECOND);
    }
    Err("no snapshot ended among the follower's entries".to_string())
}

fn install_among(mut world: Script, leader: usize, next: usize, lagging: usize) -> Result<(), String> {
    world.crash(leader, CrashKind::Power);
    world.set_filter(Box::new(move |letter: &Letter| {
        let stands = matches!(letter.multi(), Some(Message::PreVote(_) | Message::Prepare(_)));
        if stands && letter.from == lagging { Verdict::Drop } else { Verdict::Pass }
    }));
    let written = world.set_soon(next, "r1", "after");
    world.check().map_err(broken)?;
    ensure!(written, "the two left do not decide: {}", world.describe());
    ensure!(world.status(lagging).probe.installs > 0, "no snapshot was installed: {}", world.describe());
    end(world)
}

/// T-M16. The others have snapshots and no log that reaches back far enough; then their leader dies.
pub(super) fn truncated_past_a_candidate(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.tuning.tail_size_max = 8 << 10;
    settings.replica.snapshot_log_size = 32 << 10;
    settings.wal.segment_size = 64 << 10;
    settings.wal.group_size_max = 16 << 10;
    let (mut world, leader) = begin(settings)?;
    let [next, away] = others(3, leader)[..] else { unreachable!("three nodes") };
    world.isolate(away);
    for number in 0..40 {
        ensure!(world.set(leader, "r0", &format!("v{number}")), "no write");
    }
    world.crash(leader, CrashKind::Power);
    world.rejoin(away);
    ensure!(world.set_soon(away, "r0", "last"), "the two left do not decide: {}", world.describe());
    world.check().map_err(broken)?;
    ensure!(world.status(away).probe.installs > 0, "no snapshot was installed");
    ensure!(world.status(next).protocol.leading, "the node that was away leads: {}", world.describe());
    end(world)
}

/// T-X1. A leader whose clock crawls does not notice that it was deposed, and what it says reaches everybody.
pub(super) fn old_leader_goes_on(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.network.streams = false;
    let (mut world, leader) = begin(settings)?;
    ensure!(world.set(leader, "r0", "a"), "no write");
    world.run_for(100 * MILLISECOND);
    world.isolate(leader);
    world.set_clock_rate(leader, 5_000);
    let rest = others(3, leader);
    ensure!(world.set_soon(rest[0], "r0", "b"), "the others did not decide: {}", world.describe());
    world.set_filter(Box::new(move |letter: &Letter| match letter.multi() {
        Some(Message::Accepted(_)) => Verdict::Pass,
        _ if letter.to == leader => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    world.rejoin(leader);
    let call = world.call(leader, "r0", set("c"), Level::Log);
    world.run_for(100 * MILLISECOND);
    world.check().map_err(broken)?;
    ensure!(!world.outcome(call).is_some_and(is_answer), "the deposed leader decided");
    ensure!(
        rest.iter().any(|node| world.status(*node).counters.refused > 0),
        "nobody refused the deposed leader"
    );
    world.set_clock_rate(leader, 1_000_000);
    end(world)
}

/// T-X2. A leader of five loses its office and regains it without the one follower that acknowledged its entries; in the
/// new term one other follower acknowledges them, and then the old acknowledgement arrives.
pub(super) fn old_acknowledgements(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 5);
    settings.network.streams = false;
    let (mut world, _) = begin(settings)?;
    // The home replica leads, so that no transfer comes in between.
    world.run_for(3 * SECOND);
    let leader = world.wait_for_leader().ok_or("no leader")?;
    ensure!(world.set(leader, "r0", "a"), "no write");
    world.run_for(100 * MILLISECOND);
    let rest = others(5, leader);
    let (early, late) = (rest[0], rest[1]);
    let ballot = world.status(leader).protocol.ballot;
    let only = move |letter: &Letter, accepts: usize, replies: bool| {
        let message = letter.multi();
        let stands = matches!(message, Some(Message::PreVote(_) | Message::Prepare(_)));
        match message {
            _ if stands && letter.from != leader => Verdict::Drop,
            Some(Message::Accept(_)) if letter.to != accepts => Verdict::Drop,
            Some(Message::Accepted(accepted)) if letter.from == early && accepted.ballot == ballot => {
                Verdict::Delay(3 * SECOND)
            }
            _ if letter.from == early || letter.to == early && accepts != early => Verdict::Drop,
            Some(Message::HeartbeatReply(_)) if !replies => Verdict::Drop,
            _ => Verdict::Pass,
        }
    };
    world.set_filter(Box::new(move |letter: &Letter| only(letter, early, false)));
    let call = world.call(leader, "r0", set("b"), Level::Log);
    let deposed = world.run_until(2 * SECOND, |world| world.status(leader).protocol.leader.is_none());
    ensure!(deposed, "the leader stayed without contact");
    world.set_filter(Box::new(move |letter: &Letter| only(letter, late, true)));
    let again = world.run_until(2 * SECOND, |world| {
        let protocol = world.status(leader).protocol;
        protocol.ballot > ballot && protocol.leader.is_some_and(|of| of.index() == leader)
    });
    ensure!(again, "it was not elected again: {}", world.describe());
    world.run_for(4 * SECOND);
    world.check().map_err(broken)?;
    ensure!(!world.outcome(call).is_some_and(is_answer), "decided with an old acknowledgement");
    ensure!(!world.status(leader).protocol.leading, "the term began with an old acknowledgement");
    end(world)
}

/// T-X9. A large snapshot goes to a node that was away, and the disk gives its pieces in any order.
pub(super) fn snapshot_read_in_any_order(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.tuning.tail_size_max = 8 << 10;
    settings.replica.snapshot_log_size = 64 << 10;
    settings.wal.segment_size = 64 << 10;
    settings.wal.group_size_max = 16 << 10;
    settings.log_size_max = 128 << 10;
    let (mut world, leader) = begin(settings)?;
    let away = others(3, leader)[0];
    world.isolate(away);
    let big = "x".repeat(3500);
    for number in 0..120 {
        ensure!(world.set(leader, &format!("big{number}"), &format!("{number}.{big}")), "no write");
    }
    for node in 0..3 {
        world.set_disk(node, Latency { read: 5 * MILLISECOND, ..Latency::default() });
    }
    world.rejoin(away);
    let target = world.status(leader).executed;
    let caught_up = world.run_until(4 * SECOND, |world| world.status(away).executed >= target);
    world.check().map_err(broken)?;
    ensure!(caught_up, "it does not catch up: {}", world.describe());
    ensure!(world.status(away).probe.installs > 0, "no snapshot was installed");
    end(world)
}
