//! Reads that do not go through the log: none may miss a write that was acknowledged before it began.

use panch_consensus::multi::message::Message;
use panch_replica::replica::Level;
use panch_wire::ids::GroupId;

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

/// T-M9. The write is chosen but only the dead leader knew. The new leader cannot decide anything, its own term-start
/// included, but everybody answers its heartbeats.
pub(super) fn read_before_term_start(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    ensure!(world.set(leader, "r0", "old"), "no write");
    world.run_for(100 * MILLISECOND);
    world.set_filter(Box::new(move |letter: &Letter| {
        let news = matches!(letter.multi(), Some(Message::Commit(_) | Message::Heartbeat(_)));
        if letter.from == leader && news { Verdict::Drop } else { Verdict::Pass }
    }));
    ensure!(world.set(leader, "r0", "new"), "no second write");
    world.crash(leader, CrashKind::Power);
    world.set_filter(Box::new(|letter: &Letter| match letter.multi() {
        Some(Message::Accepted(_)) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let group = GroupId(0);
    let elected = world.run_until(5 * SECOND, |world| {
        others(3, leader).iter().any(|node| {
            let status = world.status_of(*node, group);
            status.is_some_and(|status| status.protocol.leader.is_some_and(|of| of.index() == *node))
        })
    });
    ensure!(elected, "nobody was elected: {}", world.describe());
    for node in others(3, leader) {
        let call = world.call(node, "r0", Action::Get, Level::Quorum);
        let outcome = world.wait(call, 60 * MILLISECOND);
        world.check().map_err(broken)?;
        let stale = matches!(outcome, Some(Outcome::Answer(_))) && outcome != value("new");
        ensure!(!stale, "node {node} read {outcome:?}");
    }
    end(world)
}

/// T-M10. A leader stands still while another is elected and decides; when it wakes, a read waits for it.
pub(super) fn round_before_the_read(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.clients.patience = 3 * SECOND;
    let (mut world, leader) = begin(settings)?;
    ensure!(world.set(leader, "r0", "old"), "no write");
    world.run_for(100 * MILLISECOND);
    world.isolate(leader);
    world.run_for(MILLISECOND);
    world.set_clock_rate(leader, 1000);
    world.pause(leader, SECOND);
    let rest = others(3, leader);
    let written = rest.iter().any(|node| world.set_soon(*node, "r0", "new"));
    ensure!(written, "the others did not write: {}", world.describe());
    let call = world.call(leader, "r0", Action::Get, Level::Quorum);
    let outcome = world.wait(call, 3 * SECOND);
    world.check().map_err(broken)?;
    let stale = matches!(outcome, Some(Outcome::Answer(_))) && outcome != value("new");
    ensure!(!stale, "the deposed leader read {outcome:?}");
    end(world)
}

/// T-M11. A deposed leader, whose clock crawls, asks; the others answer its heartbeats in their higher ballot.
pub(super) fn contact_in_a_higher_ballot(seed: u64) -> Result<(), String> {
    let mut settings = Settings::calm(seed, 3);
    settings.network.streams = false;
    let (mut world, leader) = begin(settings)?;
    ensure!(world.set(leader, "r0", "old"), "no write");
    world.run_for(100 * MILLISECOND);
    world.isolate(leader);
    world.set_clock_rate(leader, 5_000);
    let rest = others(3, leader);
    let written = rest.iter().any(|node| world.set_soon(*node, "r0", "new"));
    ensure!(written, "the others did not write: {}", world.describe());
    world.set_filter(Box::new(move |letter: &Letter| {
        let reply = matches!(letter.multi(), Some(Message::HeartbeatReply(_)));
        if letter.to == leader && !reply { Verdict::Drop } else { Verdict::Pass }
    }));
    world.rejoin(leader);
    let still_leads = world.status(leader).protocol.leader.is_some_and(|of| of.index() == leader);
    ensure!(still_leads, "the leader stepped down by itself");
    let call = world.call(leader, "r0", Action::Get, Level::Quorum);
    let outcome = world.wait(call, 200 * MILLISECOND);
    world.check().map_err(broken)?;
    let stale = matches!(outcome, Some(Outcome::Answer(_))) && outcome != value("new");
    ensure!(!stale, "the deposed leader read {outcome:?}");
    world.set_clock_rate(leader, 1_000_000);
    end(world)
}

/// T-C10, as far as there are no leases: whatever one node's clock does, reads are right and the others go on.
pub(super) fn unsteady_clock(seed: u64) -> Result<(), String> {
    let (mut world, leader) = begin(Settings::calm(seed, 3))?;
    let mut number = 0;
    for odd in [leader, others(3, leader)[0]] {
        for rate in [1_000, 10_000_000, 1_000_000] {
            world.set_clock_rate(odd, rate);
            world.jump_clock(odd, 700 * MILLISECOND);
            for _ in 0..3 {
                number += 1;
                let written = (0..3).any(|node| world.set_soon(node, "r0", &format!("v{number}")));
                ensure!(written, "no write with one odd clock: {}", world.describe());
                for node in 0..3 {
                    let call = world.call(node, "r0", Action::Get, Level::Quorum);
                    world.wait(call, 100 * MILLISECOND);
                }
            }
        }
    }
    end(world)
}
