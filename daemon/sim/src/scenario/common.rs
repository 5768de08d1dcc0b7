//! What every protocol must stand: doubled and late messages.

use panch_consensus::multi::message::Message;
use panch_replica::replica::Level;

use super::{begin, broken, end, ensure, others};
use crate::client::Outcome;
use crate::disk::CrashKind;
use crate::linear::register::{Action, Answer};
use crate::network::NetworkSettings;
use crate::queue::{MILLISECOND, SECOND};
use crate::settings::Settings;
use crate::world::{Letter, Verdict};

/// T-C2. With five nodes, the leader and one follower are no quorum, however often the follower says yes.
pub(super) fn every_message_twice(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 5);
    settings.network = NetworkSettings { streams: false, duplication: 1_000_000, ..NetworkSettings::calm() };
    let (mut world, leader) = begin(settings)?;
    ensure!(world.set(leader, "r0", "a"), "no write with five nodes");
    let apart = others(5, leader);
    for node in &apart[1..] {
        world.isolate(*node);
    }
    let call = world.call(leader, "r0", Action::Set((*b"b").into()), Level::Log);
    let outcome = world.wait(call, 100 * MILLISECOND);
    world.check().map_err(broken)?;
    ensure!(outcome.is_none(), "two of five nodes decided: {outcome:?}");
    for node in &apart[1..] {
        world.rejoin(*node);
    }
    end(world)
}

/// T-C3. Votes of a follower's earlier life come late; batches of the new life are not taken for those of the old.
pub(super) fn messages_of_an_earlier_life(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.network.streams = false;
    let (mut world, leader) = begin(settings)?;
    let follower = others(3, leader)[0];
    ensure!(world.set(follower, "r0", "a"), "no write through a follower");
    world.set_filter(Box::new(move |letter: &Letter| {
        let vote = matches!(letter.multi(), Some(Message::Accepted(_) | Message::HeartbeatReply(_)));
        if letter.from == follower && vote { Verdict::Delay(400 * MILLISECOND) } else { Verdict::Pass }
    }));
    ensure!(world.set(leader, "r1", "b"), "no write without the follower's vote");
    world.run_for(100 * MILLISECOND);
    world.bounce(follower, CrashKind::Kill);
    world.clear_filter();
    ensure!(world.set_soon(follower, "r0", "c"), "no write through the restarted follower");
    let stale = world.coverage().stale_packets;
    world.run_for(SECOND);
    ensure!(world.coverage().stale_packets > stale, "no message of the earlier life arrived");
    let value = world.get(follower, "r0", Level::Log);
    ensure!(value == Some(Outcome::Answer(Answer::Value(Some((*b"c").into())))), "read {value:?}");
    end(world)
}

/// T-X7. A follower's batch reaches the leader twice and is decided twice.
pub(super) fn batch_decided_twice(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.network = NetworkSettings { streams: false, duplication: 1_000_000, ..NetworkSettings::calm() };
    let (mut world, leader) = begin(settings)?;
    let follower = others(3, leader)[0];
    for expected in 1..=5 {
        let call = world.call(follower, "n0", Action::Increment(1), Level::Log);
        let outcome = world.wait(call, SECOND);
        ensure!(
            outcome == Some(Outcome::Answer(Answer::Number(expected))),
            "increment {expected}: {outcome:?}"
        );
        world.run_for(20 * MILLISECOND);
    }
    world.check().map_err(broken)?;
    ensure!(world.status(leader).probe.duplicates > 0, "no batch was decided twice");
    end(world)
}
