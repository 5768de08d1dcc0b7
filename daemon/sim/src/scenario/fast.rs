//! Fast Paxos: collisions, picking, what restarts and lost messages must not change.

use std::cell::Cell;
use std::rc::Rc;

use panch_consensus::fast::message::Message;
use panch_consensus::protocol::ProtocolKind;
use panch_replica::replica::Level;

use super::{Script, begin, broken, end, ensure, others};
use crate::client::Outcome;
use crate::disk::CrashKind;
use crate::linear::register::{Action, Answer};
use crate::network::NetworkSettings;
use crate::queue::{MILLISECOND, SECOND, Time};
use crate::settings::Settings;
use crate::world::{Call, Letter, Verdict};

fn set(text: &str) -> Action {
    Action::Set(text.as_bytes().into())
}

pub(super) fn settings(seed: u64, count: usize, free_for_all: bool) -> Settings {
    let mut settings = Settings::calm_of(ProtocolKind::Fast, seed, count);
    settings.tuning.free_for_all = free_for_all;
    settings
}

/// A world whose coordinator has let everybody propose.
pub(super) fn open(settings: Settings) -> Result<(Script, usize), String> {
    let (mut world, coordinator) = begin(settings)?;
    ensure!(world.set(coordinator, "r0", "start"), "no write");
    world.run_for(300 * MILLISECOND);
    let coordinator = world.leader().unwrap_or(coordinator);
    Ok((world, coordinator))
}

fn is_answer(outcome: Option<&Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Answer(_)))
}

fn all_answered(world: &mut Script, calls: Vec<Call>) -> Result<(), String> {
    for call in calls {
        let outcome = world.wait(call, 2 * SECOND);
        ensure!(is_answer(outcome.as_ref()), "{outcome:?}: {}", world.describe());
    }
    world.check().map_err(broken)
}

/// Two nodes propose at once, and each half of the acceptors hears another of them first.
fn collide(world: &mut Script, a: usize, b: usize, gap: Time) -> Vec<Call> {
    world.set_filter(Box::new(move |letter: &Letter| match letter.fast() {
        Some(Message::Propose(_)) if letter.from == a && letter.to % 2 == b % 2 => Verdict::Delay(gap),
        Some(Message::Propose(_)) if letter.from == b && letter.to % 2 == a % 2 => Verdict::Delay(gap),
        _ => Verdict::Pass,
    }));
    vec![world.call(a, "r0", set("a"), Level::Log), world.call(b, "r0", set("b"), Level::Log)]
}

/// T-F1. A collision; the coordinator dies; the next one gets its pick accepted almost nowhere and dies; a third recovers.
pub(super) fn pick_over_a_pick(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = open(settings(seed, count, true))?;
    let rest = others(count, coordinator);
    let _ = collide(&mut world, rest[0], rest[1], 5 * MILLISECOND);
    world.run_for(MILLISECOND);
    world.crash(coordinator, CrashKind::Power);
    let lucky = rest[rest.len() - 1];
    world.set_filter(Box::new(move |letter: &Letter| match letter.fast() {
        Some(Message::Accept(_)) if letter.to != lucky => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    world.run_until(2 * SECOND, |world| {
        (0..count).any(|node| {
            node != coordinator
                && world.is_up(node)
                && world.status(node).protocol.leader.is_some_and(|of| of.index() == node)
        })
    });
    world.run_for(30 * MILLISECOND);
    let second = (0..count).find(|node| {
        *node != coordinator
            && world.is_up(*node)
            && world.status(*node).protocol.leader.is_some_and(|of| of.index() == *node)
    });
    world.check().map_err(broken)?;
    world.restart(coordinator);
    if let Some(second) = second {
        world.bounce(second, CrashKind::Power);
    }
    world.clear_filter();
    let node = rest[0];
    ensure!(world.set_soon(node, "r1", "after"), "nobody recovers: {}", world.describe());
    world.check().map_err(broken)?;
    end(world)
}

/// T-F2. Votes split evenly, again and again: nothing is forced by too low a count.
pub(super) fn split_votes(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = open(settings(seed, count, true))?;
    let rest = others(count, coordinator);
    for _ in 0..10 {
        let calls = collide(&mut world, rest[0], rest[1], 3 * MILLISECOND);
        all_answered(&mut world, calls)?;
    }
    let counters = world.status(world.leader().unwrap_or(coordinator)).counters;
    ensure!(counters.collisions + counters.recoveries > 0, "nothing collided: {counters:?}");
    end(world)
}

/// T-F3. Acceptors restart between a vote and a duplicate of what they voted on.
pub(super) fn restart_between_votes(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = settings(seed, count, true);
    settings.network = NetworkSettings {
        streams: false,
        duplication: 1_000_000,
        straggling: 300_000,
        straggle_high: 100 * MILLISECOND,
        ..NetworkSettings::calm()
    };
    let (mut world, coordinator) = open(settings)?;
    let rest = others(count, coordinator);
    for round in 0..6 {
        let a = world.call(rest[0], "r0", set(&format!("a{round}")), Level::Log);
        let b = world.call(coordinator, "r0", set(&format!("b{round}")), Level::Log);
        world.run_for(2 * MILLISECOND);
        world.bounce(rest[1], CrashKind::Kill);
        world.wait(a, SECOND);
        world.wait(b, SECOND);
        world.check().map_err(broken)?;
    }
    end(world)
}

/// T-F4. Coordinators die with classic votes of one term and fast votes of the next on the disks.
pub(super) fn rounds_of_two_terms(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, _) = open(settings(seed, count, true))?;
    for round in 0..4 {
        let coordinator = world.wait_for_leader().ok_or("no coordinator")?;
        let rest = others(count, coordinator);
        let _ = collide(&mut world, rest[0], rest[1], 4 * MILLISECOND);
        world.run_for((1 + round) * 2 * MILLISECOND);
        world.bounce(coordinator, CrashKind::Power);
        world.clear_filter();
        ensure!(world.set_soon(rest[0], "r1", &format!("v{round}")), "no write: {}", world.describe());
        world.check().map_err(broken)?;
    }
    end(world)
}

/// T-F5. A fast quorum voted, but one vote does not reach the coordinator, which has a batch of its own to propose.
pub(super) fn one_vote_short(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = open(settings(seed, count, true))?;
    let rest = others(count, coordinator);
    let quorum = (3 * count).div_ceil(4);
    // Those beyond a fast quorum hear nothing of it; of the rest, one vote is lost on the way to the coordinator.
    let (unheard, beyond) = (rest[0], rest[quorum - 1..].to_vec());
    world.set_filter(Box::new(move |letter: &Letter| match letter.fast() {
        Some(Message::Votes(_)) if letter.from == unheard && letter.to == coordinator => Verdict::Drop,
        Some(Message::Propose(_)) if beyond.contains(&letter.to) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let first = world.call(rest[1], "r0", set("chosen"), Level::Log);
    world.run_for(MILLISECOND);
    let second = world.call(coordinator, "r0", set("own"), Level::Log);
    world.run_for(200 * MILLISECOND);
    world.check().map_err(broken)?;
    world.clear_filter();
    all_answered(&mut world, vec![first, second])?;
    end(world)
}

/// T-F6. Everything arrives twice and late: a batch may be chosen in two slots, and counts once.
pub(super) fn chosen_twice(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = settings(seed, count, true);
    settings.network = NetworkSettings {
        streams: false,
        duplication: 1_000_000,
        straggling: 200_000,
        straggle_high: 40 * MILLISECOND,
        ..NetworkSettings::calm()
    };
    let (mut world, coordinator) = open(settings)?;
    let node = others(count, coordinator)[0];
    for expected in 1..=8 {
        let call = world.call(node, "n0", Action::Increment(1), Level::Log);
        let outcome = world.wait(call, 2 * SECOND);
        ensure!(
            outcome == Some(Outcome::Answer(Answer::Number(expected))),
            "increment {expected}: {outcome:?}"
        );
    }
    world.check().map_err(broken)?;
    end(world)
}

/// T-F6, exactly. No vote arrives anywhere for a while, so that the batch is proposed again: it keeps its slot.
pub(super) fn proposed_twice(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = settings(seed, count, true);
    settings.network.streams = false;
    let (mut world, coordinator) = open(settings)?;
    world.set_filter(Box::new(|letter: &Letter| match letter.fast() {
        Some(Message::Votes(_) | Message::SlotPromise(_)) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let call = world.call(others(count, coordinator)[0], "n0", Action::Increment(1), Level::Log);
    world.run_for(80 * MILLISECOND);
    world.clear_filter();
    all_answered(&mut world, vec![call])?;
    world.run_for(500 * MILLISECOND);
    for node in 0..count {
        let twice = world.status(node).probe.duplicates;
        ensure!(twice == 0, "node {node}: {twice} batches were chosen in two slots");
    }
    end(world)
}

/// T-F7. Two proposers are swapped at half of the acceptors for many slots in a row; all of it finishes.
pub(super) fn cascade(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = open(settings(seed, count, true))?;
    let rest = others(count, coordinator);
    let mut calls = collide(&mut world, rest[0], rest[1], 2 * MILLISECOND);
    for _ in 0..10 {
        world.run_for(300_000);
        calls.push(world.call(rest[0], "n0", Action::Increment(1), Level::Log));
        calls.push(world.call(rest[1], "n0", Action::Increment(1), Level::Log));
    }
    all_answered(&mut world, calls)?;
    end(world)
}

/// T-F8. With so many down that no fast quorum is left, classic rounds carry the load, and not the timers.
pub(super) fn no_fast_quorum(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = open(settings(seed, count, false))?;
    let rest = others(count, coordinator);
    let down = count - (3 * count).div_ceil(4) + 1;
    for node in &rest[1..=down] {
        world.crash(*node, CrashKind::Power);
    }
    world.run_for(SECOND);
    let start = world.now();
    for number in 0..40 {
        ensure!(world.set(rest[0], "r0", &format!("v{number}")), "no write: {}", world.describe());
    }
    let spent = world.now() - start;
    world.check().map_err(broken)?;
    ensure!(spent < 40 * 8 * MILLISECOND, "40 writes took {} ms: from timer to timer", spent / MILLISECOND);
    end(world)
}

/// T-F9. Permissions and proposals of an old term arrive after a newer one has begun.
pub(super) fn old_permissions(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = settings(seed, count, true);
    settings.network.streams = false;
    let (mut world, coordinator) = open(settings)?;
    let rest = others(count, coordinator);
    let late = rest[1];
    world.set_filter(Box::new(move |letter: &Letter| match letter.fast() {
        Some(Message::Any(_) | Message::Propose(_)) if letter.to == late => Verdict::Delay(700 * MILLISECOND),
        _ => Verdict::Pass,
    }));
    let _ = world.call(rest[0], "r0", set("old"), Level::Log);
    world.run_for(5 * MILLISECOND);
    world.crash(coordinator, CrashKind::Power);
    ensure!(world.set_soon(rest[0], "r0", "new"), "no new coordinator: {}", world.describe());
    world.clear_filter();
    world.run_for(SECOND);
    world.check().map_err(broken)?;
    end(world)
}

/// T-F10. Some hear only the votes for a batch, not the batch, and its proposer dies.
pub(super) fn votes_without_the_batch(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = open(settings(seed, count, true))?;
    let rest = others(count, coordinator);
    let (proposer, blind) = (rest[0], rest[rest.len() - 1]);
    world.set_filter(Box::new(move |letter: &Letter| match letter.fast() {
        Some(Message::Propose(_) | Message::Accept(_) | Message::PayloadReply(_) | Message::Decided(_))
            if letter.to == blind =>
        {
            Verdict::Drop
        }
        _ => Verdict::Pass,
    }));
    let call = world.call(proposer, "r0", set("named"), Level::Log);
    let outcome = world.wait(call, 2 * SECOND);
    ensure!(is_answer(outcome.as_ref()), "not decided: {outcome:?}");
    world.crash(proposer, CrashKind::Power);
    world.clear_filter();
    let read = world.get(blind, "r0", Level::Log);
    world.check().map_err(broken)?;
    ensure!(
        read == Some(Outcome::Answer(Answer::Value(Some((*b"named").into())))),
        "read {read:?}: {}",
        world.describe()
    );
    end(world)
}

/// T-F11. An acceptor hears of the classic round of a slot first, and of the proposal for its fast round later.
pub(super) fn classic_before_fast(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = settings(seed, count, true);
    settings.network.streams = false;
    let (mut world, coordinator) = open(settings)?;
    let rest = others(count, coordinator);
    let slow: Vec<usize> = rest[rest.len() / 2..].to_vec();
    world.set_filter(Box::new(move |letter: &Letter| match letter.fast() {
        Some(Message::Propose(_)) if slow.contains(&letter.to) => Verdict::Delay(60 * MILLISECOND),
        _ => Verdict::Pass,
    }));
    let calls =
        (0..3).map(|number| world.call(rest[0], "r0", set(&format!("v{number}")), Level::Log)).collect();
    all_answered(&mut world, calls)?;
    world.run_for(200 * MILLISECOND);
    world.check().map_err(broken)?;
    end(world)
}

/// A world in stripes whose coordinator has let everybody propose, with a write executed everywhere.
fn striped(seed: u64, count: usize) -> Result<(Script, usize), String> {
    let mut settings = settings(seed, count, false);
    settings.network.streams = false;
    open(settings)
}

fn is_fast_vote(letter: &Letter) -> bool {
    matches!(letter.fast(), Some(Message::Votes(votes)) if !votes.round.classic)
}

/// T-F11, exactly. The coordinator hears of a slot from heartbeats only and picks from a quorum that has not voted there; then the proposal
/// reaches the others of that quorum, whose votes are all that a fast quorum lacks; and then what was picked. All of it happens before the
/// coordinator opens a new term without the proposer, so that the times are counted from a heartbeat on.
pub(super) fn promise_before_fast(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = striped(seed, count)?;
    let rest = others(count, coordinator);
    let early: Vec<usize> = rest[..count - (count / 2 + 1)].to_vec();
    let proposer = early[0];
    let beat: Rc<Cell<bool>> = Rc::default();
    let has_beaten = Rc::clone(&beat);
    world.set_filter(Box::new(move |letter: &Letter| {
        beat.set(beat.get() || matches!(letter.fast(), Some(Message::Heartbeat(_))));
        Verdict::Pass
    }));
    world.run_until(SECOND, |_| has_beaten.get());
    // The next heartbeat comes 5 ms after the proposal, and the question about its slot 15 ms later.
    world.run_for(15 * MILLISECOND);
    world.set_filter(Box::new(move |letter: &Letter| match letter.fast() {
        Some(Message::Propose(_)) if letter.to == coordinator => Verdict::Drop,
        Some(Message::Propose(_)) if !early.contains(&letter.to) => Verdict::Delay(23 * MILLISECOND),
        Some(Message::SlotPromise(_)) if early.contains(&letter.from) => Verdict::Drop,
        Some(Message::Accept(_)) => Verdict::Delay(6 * MILLISECOND),
        // Whoever heard of a fast quorum would not accept anything else any more.
        _ if is_fast_vote(letter) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let call = world.call(proposer, "r0", set("late"), Level::Log);
    world.run_for(200 * MILLISECOND);
    world.check().map_err(broken)?;
    let counters = world.status(coordinator).counters;
    ensure!(counters.noops > 0, "the coordinator saw a vote: {counters:?}");
    world.clear_filter();
    all_answered(&mut world, vec![call])?;
    end(world)
}

/// All but the coordinator vote for a batch, and nobody hears of the votes: the slot looks empty, and is not.
pub(super) fn unheard_votes(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = striped(seed, count)?;
    world.set_filter(Box::new(move |letter: &Letter| match letter.fast() {
        Some(Message::Propose(_)) if letter.to == coordinator => Verdict::Drop,
        _ if is_fast_vote(letter) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let call = world.call(others(count, coordinator)[0], "r0", set("unheard"), Level::Log);
    world.run_for(100 * MILLISECOND);
    world.check().map_err(broken)?;
    world.clear_filter();
    all_answered(&mut world, vec![call])?;
    end(world)
}

/// The coordinator alone knows that a batch is chosen, and dies. A replica that has not heard of it stands, and what the others voted for does
/// not come with their promises.
pub(super) fn part_of_a_promise_lost(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = striped(seed, count)?;
    let last = others(count, coordinator)[count - 2];
    world.set_filter(Box::new(move |letter: &Letter| match letter.fast() {
        _ if letter.to == last => Verdict::Drop,
        Some(Message::PreVote(_) | Message::Decided(_)) => Verdict::Drop,
        Some(Message::Votes(_)) if letter.to != coordinator => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    ensure!(world.set(coordinator, "r0", "chosen"), "no write: {}", world.describe());
    world.crash(coordinator, CrashKind::Power);
    world.set_filter(Box::new(move |letter: &Letter| match letter.fast() {
        Some(Message::PromiseVote(_)) if letter.to == last => Verdict::Drop,
        Some(Message::PreVote(_)) if letter.from != last => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let call = world.call(last, "r1", set("other"), Level::Log);
    world.run_for(SECOND);
    world.check().map_err(broken)?;
    let elections = world.status(last).counters.elections;
    ensure!(elections > 0, "the last one never stood: {}", world.describe());
    ensure!(world.leader().is_none(), "it won without the votes of those that promised");
    world.clear_filter();
    world.wait(call, SECOND);
    world.restart(coordinator);
    let read = world.get(last, "r0", Level::Log);
    world.check().map_err(broken)?;
    ensure!(
        read == Some(Outcome::Answer(Answer::Value(Some((*b"chosen").into())))),
        "read {read:?}: {}",
        world.describe()
    );
    end(world)
}

/// A write is answered while one replica hears nothing; it is read there before any news arrive.
pub(super) fn read_before_news(seed: u64, count: usize) -> Result<(), String> {
    let (mut world, coordinator) = striped(seed, count)?;
    let reader = others(count, coordinator)[0];
    world.set_filter(Box::new(move |letter: &Letter| match letter.fast() {
        Some(Message::ReadReply(_)) => Verdict::Pass,
        _ if letter.to == reader => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    ensure!(world.set(coordinator, "r0", "new"), "no write: {}", world.describe());
    let call = world.call(reader, "r0", Action::Get, Level::Quorum);
    world.run_for(5 * MILLISECOND);
    world.clear_filter();
    let read = world.wait(call, SECOND);
    world.check().map_err(broken)?;
    ensure!(
        read == Some(Outcome::Answer(Answer::Value(Some((*b"new").into())))),
        "read {read:?}: {}",
        world.describe()
    );
    end(world)
}
