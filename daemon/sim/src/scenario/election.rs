//! Changes of the leader: what a candidate must find, and who must not disturb.

use panch_consensus::multi::message::Message;
use panch_replica::replica::Level;

use super::{begin, broken, end, ensure, others};
use crate::client::Outcome;
use crate::disk::CrashKind;
use crate::linear::register::{Action, Answer};
use crate::queue::{MILLISECOND, SECOND};
use crate::settings::Settings;
use crate::world::{Letter, Verdict};

fn value(text: &str) -> Option<Outcome> {
    Some(Outcome::Answer(Answer::Value(Some(text.as_bytes().into()))))
}

/// T-M2. Leader and one follower decide; the leader dies. Of the two left, one has never heard of the value.
pub(super) fn value_reported_once(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    let [knowing, ignorant] = others(3, leader)[..] else { unreachable!("three nodes") };
    // The follower does not hear that what it voted for is chosen: it would not give that up for any leader.
    world.set_filter(Box::new(move |letter: &Letter| {
        let accept = matches!(letter.multi(), Some(Message::Accept(_)));
        let news = matches!(letter.multi(), Some(Message::Commit(_) | Message::Heartbeat(_)));
        let is_dropped = accept && letter.to == ignorant || news && letter.from == leader;
        if is_dropped { Verdict::Drop } else { Verdict::Pass }
    }));
    ensure!(world.set(leader, "r0", "kept"), "leader and follower did not decide");
    world.crash(leader, CrashKind::Power);
    world.clear_filter();
    ensure!(world.set_soon(knowing, "r1", "next"), "the two left do not decide: {}", world.describe());
    let read = world.get(ignorant, "r0", Level::Log);
    world.check().map_err(broken)?;
    ensure!(read == value("kept"), "read {read:?}");
    end(world)
}

/// T-M3. As T-M2, and only the ignorant one can be elected; the entries of the other's promise are lost at first.
pub(super) fn part_of_a_promise_lost(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    let [knowing, ignorant] = others(3, leader)[..] else { unreachable!("three nodes") };
    // The follower does not hear that what it voted for is chosen: it would not give that up for any leader.
    world.set_filter(Box::new(move |letter: &Letter| {
        let accept = matches!(letter.multi(), Some(Message::Accept(_)));
        let news = matches!(letter.multi(), Some(Message::Commit(_) | Message::Heartbeat(_)));
        let is_dropped = accept && letter.to == ignorant || news && letter.from == leader;
        if is_dropped { Verdict::Drop } else { Verdict::Pass }
    }));
    ensure!(world.set(leader, "r0", "kept"), "leader and follower did not decide");
    world.crash(leader, CrashKind::Power);
    world.set_filter(Box::new(move |letter: &Letter| match letter.multi() {
        Some(Message::PreVote(_) | Message::Prepare(_)) if letter.from == knowing => Verdict::Drop,
        Some(Message::PromiseEntry(_)) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let elections = world.status(ignorant).counters.elections;
    world.run_for(2 * SECOND);
    world.check().map_err(broken)?;
    ensure!(world.status(ignorant).counters.elections > elections, "it did not stand for election");
    ensure!(world.leader().is_none(), "elected with part of a promise");
    world.clear_filter();
    ensure!(world.set_soon(ignorant, "r1", "next"), "no leader with whole promises: {}", world.describe());
    let read = world.get(ignorant, "r0", Level::Log);
    ensure!(read == value("kept"), "read {read:?}");
    end(world)
}

/// T-M4. The first leader's value is on two of five disks in a low ballot, the second leader's is chosen in a higher one;
/// the third hears of the first value twice, and last.
pub(super) fn highest_ballot_wins(seed: u64) -> Result<(), String> {
    let (mut world, first) = begin(Settings::calm(seed, 5))?;
    let rest = others(5, first);
    let (third, others_of_second) = (rest[0], rest[1..].to_vec());
    ensure!(world.set(first, "r0", "before"), "no write");
    world.run_for(100 * MILLISECOND);
    let to_third_only = move |letter: &Letter| {
        let accept = matches!(letter.multi(), Some(Message::Accept(_)));
        if accept && letter.to != third { Verdict::Drop } else { Verdict::Pass }
    };
    world.set_filter(Box::new(to_third_only));
    let losing = world.call(first, "r0", Action::Set((*b"losing").into()), Level::Log);
    world.run_for(20 * MILLISECOND);
    for node in [first, third] {
        world.isolate(node);
    }
    world.clear_filter();
    let second = others_of_second[0];
    ensure!(world.set_soon(second, "r1", "winning"), "three of five did not decide: {}", world.describe());
    ensure!(world.wait(losing, SECOND) != Some(Outcome::Answer(Answer::Done)), "two of five decided");
    // One of the three that decided comes over to the two.
    for node in &others_of_second[1..] {
        world.crash(*node, CrashKind::Power);
    }
    world.set_filter(Box::new(move |letter: &Letter| {
        let stands = matches!(letter.multi(), Some(Message::PreVote(_) | Message::Prepare(_)));
        let reports = matches!(letter.multi(), Some(Message::Promise(_) | Message::PromiseEntry(_)));
        if stands && letter.from != third {
            Verdict::Drop
        } else if reports && letter.from == first {
            Verdict::Delay(40 * MILLISECOND)
        } else {
            Verdict::Pass
        }
    }));
    for node in [first, third] {
        world.rejoin(node);
    }
    ensure!(world.set_soon(third, "r0", "after"), "the third leader does not decide: {}", world.describe());
    world.check().map_err(broken)?;
    let read = world.get(third, "r1", Level::Log);
    ensure!(read == value("winning"), "read {read:?}");
    end(world)
}

/// T-M12. After seconds alone, standing for election over and over, a node comes back to a leader that stays.
pub(super) fn return_from_partition(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    let away = others(3, leader)[seed as usize % 2];
    // Once leadership has gone home, nothing but a disturbance moves it.
    world.run_for(2 * SECOND);
    let leader =
        if world.leader() == Some(leader) { leader } else { world.wait_for_leader().ok_or("no leader")? };
    let away = if away == leader { others(3, leader)[0] } else { away };
    let ballot = world.status(leader).protocol.ballot;
    world.isolate(away);
    for number in 0..10 {
        ensure!(world.set_soon(leader, "r0", &format!("v{number}")), "no write without the node");
        world.run_for(300 * MILLISECOND);
    }
    world.rejoin(away);
    world.run_for(SECOND);
    world.check().map_err(broken)?;
    let now = world.status(leader).protocol;
    ensure!(now.ballot == ballot && now.leading, "the return changed the leader: {now:?}");
    let followed = world.status(away).protocol;
    ensure!(followed.ballot == ballot && followed.leader.is_some(), "it does not follow: {followed:?}");
    end(world)
}

/// T-M13. A node whose messages arrive everywhere, but to which nothing comes, cannot depose a leader that works.
pub(super) fn deaf_node(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.network.streams = false;
    let (mut world, _) = begin(settings)?;
    world.run_for(2 * SECOND);
    let leader = world.wait_for_leader().ok_or("no leader")?;
    let [deaf, _] = others(3, leader)[..] else { unreachable!("three nodes") };
    let ballot = world.status(leader).protocol.ballot;
    for node in others(3, deaf) {
        world.block(node, deaf);
    }
    for number in 0..10 {
        ensure!(world.set(leader, "r0", &format!("v{number}")), "no write beside the deaf node");
        world.run_for(300 * MILLISECOND);
    }
    world.check().map_err(broken)?;
    let now = world.status(leader).protocol;
    ensure!(now.ballot == ballot && now.leading, "the deaf node changed the leader: {now:?}");
    end(world)
}

/// T-X3. Candidates whose promises do not become durable crash, and stand again.
pub(super) fn ballot_used_twice(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    ensure!(world.set(leader, "r0", "a"), "no write");
    world.crash(leader, CrashKind::Power);
    for _ in 0..3 {
        for node in others(3, leader) {
            world.stall_disk(node, 2 * SECOND);
        }
        world.run_for(SECOND);
        world.check().map_err(broken)?;
        for node in others(3, leader) {
            world.bounce(node, CrashKind::Power);
        }
    }
    ensure!(world.set_soon(others(3, leader)[0], "r0", "b"), "nobody is elected: {}", world.describe());
    end(world)
}
