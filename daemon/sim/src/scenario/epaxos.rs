//! EPaxos: command leaders that die, conflicts, restarts, reads beside late news.

use panch_consensus::epaxos::message::Message;
use panch_consensus::protocol::ProtocolKind;
use panch_replica::replica::Level;

use super::{Script, broken, end, ensure, steady};
use crate::client::{Outcome, OwnedCommand};
use crate::disk::CrashKind;
use crate::linear::register::{Action, Answer};
use crate::network::NetworkSettings;
use crate::queue::{MILLISECOND, SECOND};
use crate::settings::Settings;
use crate::world::{Letter, Verdict};

fn set(text: &str) -> Action {
    Action::Set(text.as_bytes().into())
}

fn begin(seed: u64, count: usize) -> Result<Script, String> {
    steady(Settings::calm_of(ProtocolKind::Epaxos, seed, count))
}

fn is_answer(outcome: Option<&Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Answer(_)))
}

fn value(text: &str) -> Option<Outcome> {
    Some(Outcome::Answer(Answer::Value(Some(text.as_bytes().into()))))
}

fn is_commit(letter: &Letter) -> bool {
    matches!(letter.epaxos(), Some(Message::Commit(_)))
}

/// T-E2. The command leader answers, tells nobody, and loses power; what it answered must be there.
pub(super) fn leader_dies_after_the_answer(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    world.set_filter(Box::new(|letter: &Letter| {
        if letter.from == 0 && is_commit(letter) { Verdict::Drop } else { Verdict::Pass }
    }));
    let call = world.call(0, "r0", set("answered"), Level::Log);
    let answered = world.run_until(SECOND, |world| is_answer(world.outcome(call)));
    ensure!(answered, "no write");
    world.bounce(0, CrashKind::Power);
    world.clear_filter();
    let read = world.get(1, "r0", Level::Log);
    world.check().map_err(broken)?;
    ensure!(read == value("answered"), "read {read:?}: {}", world.describe());
    end(world)
}

/// T-E7. A command leader stands still in the middle; others recover its instances and go on; then it wakes up.
pub(super) fn slow_leader(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    world.set_filter(Box::new(|letter: &Letter| {
        let vote = matches!(letter.epaxos(), Some(Message::PreAcceptOk(_) | Message::AcceptOk(_)));
        if letter.to == 0 && vote { Verdict::Drop } else { Verdict::Pass }
    }));
    let call = world.call(0, "n0", Action::Increment(1), Level::Log);
    world.run_for(5 * MILLISECOND);
    world.pause(0, 2 * SECOND);
    let other = world.call(1, "n0", Action::Increment(1), Level::Log);
    let recovered = world.run_until(5 * SECOND, |world| world.outcome(other).is_some());
    world.clear_filter();
    ensure!(recovered, "nobody recovers: {}", world.describe());
    world.wait(call, 3 * SECOND);
    world.run_for(SECOND);
    world.check().map_err(broken)?;
    end(world)
}

/// T-E11. Everybody writes one key in the same moments, with nothing heard of each other: equal stamps, one order.
pub(super) fn same_stamps(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    for round in 0..8 {
        let text = |node| format!("{round}.{node};");
        let calls: Vec<_> = (0..count)
            .map(|node| world.call(node, "l0", Action::Append(text(node).into_bytes().into()), Level::Log))
            .collect();
        for call in calls {
            let outcome = world.wait(call, 3 * SECOND);
            ensure!(is_answer(outcome.as_ref()), "{outcome:?}: {}", world.describe());
        }
    }
    world.check().map_err(broken)?;
    end(world)
}

/// T-E12. Only one other node hears of a batch, and tells of it in its dependencies; then the two are gone.
pub(super) fn known_by_name_only(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    world.set_filter(Box::new(|letter: &Letter| {
        if letter.from == 0 && letter.to != 1 { Verdict::Drop } else { Verdict::Pass }
    }));
    let _ = world.call(0, "r0", set("unknown"), Level::Log);
    world.run_for(2 * MILLISECOND);
    let _ = world.call(1, "r0", set("depends"), Level::Log);
    world.run_for(20 * MILLISECOND);
    world.crash(0, CrashKind::Power);
    if count > 3 {
        world.crash(1, CrashKind::Power);
    }
    world.clear_filter();
    let call = world.call(count - 1, "r0", set("after"), Level::Log);
    let done = world.run_until(8 * SECOND, |world| world.outcome(call).is_some());
    world.check().map_err(broken)?;
    ensure!(done, "blocked by an unknown instance: {}", world.describe());
    end(world)
}

/// T-E13. A command leader restarts over and over with proposals on their way.
pub(super) fn numbers_after_restarts(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.streams = false;
    let mut world = steady(settings)?;
    for round in 0..5 {
        world.stall_disk(0, 20 * MILLISECOND);
        let _ = world.call(0, "r0", set(&format!("v{round}")), Level::Log);
        world.run_for((1 + round) * MILLISECOND);
        world.bounce(0, CrashKind::Power);
        world.check().map_err(broken)?;
    }
    ensure!(world.set_soon(1, "r0", "after"), "blocked: {}", world.describe());
    end(world)
}

/// T-E14. Proposals are late, commits are not, and everything comes twice.
pub(super) fn early_commits(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network = NetworkSettings { streams: false, duplication: 1_000_000, ..NetworkSettings::calm() };
    let mut world = steady(settings)?;
    world.set_filter(Box::new(move |letter: &Letter| match letter.epaxos() {
        Some(Message::PreAccept(_) | Message::Seen(_)) if letter.to == count - 1 => {
            Verdict::Delay(20 * MILLISECOND)
        }
        _ => Verdict::Pass,
    }));
    for expected in 1..=8 {
        let call = world.call(0, "n0", Action::Increment(1), Level::Log);
        let outcome = world.wait(call, 2 * SECOND);
        ensure!(outcome == Some(Outcome::Answer(Answer::Number(expected))), "{expected}: {outcome:?}");
    }
    world.run_for(100 * MILLISECOND);
    world.check().map_err(broken)?;
    end(world)
}

/// T-E15. All replicas write one key as fast as they can, with uneven delays: components stay bounded, all finish.
pub(super) fn one_hot_key(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.latency_high *= 10;
    let mut world = steady(settings)?;
    let mut calls = Vec::new();
    for _ in 0..40 {
        for node in 0..count {
            calls.push(world.call(node, "n0", Action::Increment(1), Level::Log));
        }
        world.run_for(MILLISECOND);
    }
    for call in calls {
        let outcome = world.wait(call, 10 * SECOND);
        ensure!(outcome.is_some(), "unanswered: {}", world.describe());
    }
    world.check().map_err(broken)?;
    end(world)
}

/// T-E16. Acceptors restart between the votes for two batches that interfere.
pub(super) fn acceptors_restart(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    for round in 0..4 {
        world.set_filter(Box::new(
            |letter: &Letter| if is_commit(letter) { Verdict::Drop } else { Verdict::Pass },
        ));
        let first = world.call(0, "r0", set(&format!("a{round}")), Level::Log);
        world.run_for(3 * MILLISECOND);
        for node in 1..count {
            world.bounce(node, CrashKind::Power);
        }
        world.run_for(20 * MILLISECOND);
        let second = world.call(1, "r0", set(&format!("b{round}")), Level::Log);
        world.run_for(20 * MILLISECOND);
        world.clear_filter();
        world.wait(first, 3 * SECOND);
        world.wait(second, 3 * SECOND);
        world.check().map_err(broken)?;
    }
    end(world)
}

/// T-E18. Numbers of one session on different keys and nodes, each sent twice to different nodes.
pub(super) fn wandering_session(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    let session = seed + 77;
    let call = world.call_command(0, OwnedCommand::open_session(session), None, Level::Log);
    let outcome = world.wait(call, SECOND);
    ensure!(is_answer(outcome.as_ref()), "no session: {outcome:?}");
    for number in 1..=8u64 {
        let key: &[u8] = if number % 2 == 0 { b"n0" } else { b"n1" };
        let command = OwnedCommand::of(key, &Action::Increment(1)).in_session(session, number);
        let calls: Vec<_> = [number as usize % count, (number as usize + 1) % count]
            .map(|node| world.call_command(node, command.clone(), None, Level::Log))
            .into();
        let expected = number.div_ceil(2) as i64;
        for call in calls {
            let outcome = world.wait(call, 2 * SECOND);
            ensure!(
                outcome == Some(Outcome::Answer(Answer::Number(expected))),
                "number {number}: {outcome:?} instead of {expected}"
            );
        }
    }
    world.check().map_err(broken)?;
    end(world)
}

/// T-E22. A write is answered; the news of it reach nobody for a while; reads elsewhere must see it.
pub(super) fn read_and_late_news(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.streams = false;
    let mut world = steady(settings)?;
    world.set_filter(Box::new(|letter: &Letter| {
        if is_commit(letter) { Verdict::Delay(50 * MILLISECOND) } else { Verdict::Pass }
    }));
    for number in 0..6 {
        let text = format!("v{number}");
        ensure!(world.set(0, "r0", &text), "no write");
        let node = 1 + number % (count - 1);
        let read = world.get(node, "r0", Level::Quorum);
        world.check().map_err(broken)?;
        ensure!(read == value(&text), "node {node} read {read:?} after {text}");
    }
    end(world)
}

/// T-E23. A command leader forgets an instance that one peer saw; a later one of the same row must still cover it.
pub(super) fn forgotten_instance(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.streams = false;
    let mut world = steady(settings)?;
    world.set_filter(Box::new(|letter: &Letter| {
        if letter.from == 0 && letter.to != 1 || letter.to == 0 { Verdict::Drop } else { Verdict::Pass }
    }));
    world.stall_disk(0, SECOND);
    let _ = world.call(0, "r0", set("forgotten"), Level::Log);
    world.run_for(5 * MILLISECOND);
    world.bounce(0, CrashKind::Power);
    world.clear_filter();
    ensure!(world.set_soon(0, "r0", "after"), "no write after the restart: {}", world.describe());
    let read = world.get(1, "r0", Level::Log);
    world.check().map_err(broken)?;
    ensure!(read == value("after"), "read {read:?}");
    end(world)
}
