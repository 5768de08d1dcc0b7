//! Basic Paxos: what a proposer must find, what an acceptor must refuse, and that nobody waits for ever.

use panch_consensus::basic::message::Message;
use panch_consensus::protocol::ProtocolKind;
use panch_consensus::quorum::classic_quorum;
use panch_replica::replica::Level;
use panch_wire::time::Duration;

use super::{Script, broken, end, ensure, steady};
use crate::client::Outcome;
use crate::disk::{CrashKind, Latency};
use crate::linear::register::Action;
use crate::queue::{MILLISECOND, SECOND};
use crate::settings::Settings;
use crate::world::{Letter, Verdict};

fn set(text: &str) -> Action {
    Action::Set(text.as_bytes().into())
}

fn begin(seed: u64, count: usize) -> Result<Script, String> {
    steady(Settings::calm_of(ProtocolKind::Basic, seed, count))
}

fn tells(letter: &Letter) -> bool {
    matches!(
        letter.basic(),
        Some(Message::Chosen(_) | Message::Learned(_) | Message::Progress(_) | Message::ReadReply(_))
    )
}

/// T-B1. Node 0 alone accepts its value; the others choose something else in a higher ballot; then only node 0 and nodes that
/// accepted, but do not know that it is chosen, are left.
pub(super) fn highest_ballot_wins(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    world.set_filter(Box::new(|letter: &Letter| match letter.basic() {
        Some(Message::Accept(_)) if letter.from == 0 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let losing = world.call(0, "r0", set("losing"), Level::Log);
    world.run_for(10 * MILLISECOND);
    ensure!(world.outcome(losing).is_none(), "a proposer alone decided");
    world.isolate(0);
    world.set_filter(Box::new(|letter: &Letter| match letter.basic() {
        Some(Message::Prepare(_)) if letter.from > 1 => Verdict::Drop,
        _ if letter.to > 1 && tells(letter) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    ensure!(world.set_soon(1, "r1", "winning"), "the others do not decide: {}", world.describe());
    world.crash(1, CrashKind::Power);
    for node in classic_quorum(count) + 1..count {
        world.crash(node, CrashKind::Power);
    }
    world.set_filter(Box::new(|letter: &Letter| match letter.basic() {
        Some(Message::Prepare(_)) if letter.from > 1 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    // What node 0 has accepted itself is the last that it hears.
    world.set_disk(0, Latency { low: 15 * MILLISECOND, high: 15 * MILLISECOND, ..Latency::default() });
    world.rejoin(0);
    world.run_for(SECOND);
    world.check().map_err(broken)?;
    world.clear_filter();
    let read = world.get(0, "r1", Level::Log);
    ensure!(is_value(read.as_ref(), "winning"), "read {read:?}");
    end(world)
}

fn is_value(outcome: Option<&Outcome>, text: &str) -> bool {
    use crate::linear::register::Answer;
    outcome == Some(&Outcome::Answer(Answer::Value(Some(text.as_bytes().into()))))
}

/// T-B2. Node 2 accepts without having promised; then a Prepare in a lower ballot arrives, late.
pub(super) fn accepting_promises(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Basic, seed, count);
    settings.network.streams = false;
    settings.replica.request_timeout = Duration::from_secs(5);
    let mut world = steady(settings)?;
    world.set_filter(Box::new(|letter: &Letter| match letter.basic() {
        Some(Message::Prepare(_)) if letter.from == 0 && letter.to == 2 => Verdict::Delay(900 * MILLISECOND),
        Some(Message::Prepare(_)) if letter.from == 0 => Verdict::Drop,
        Some(Message::Prepare(_)) if letter.to == 2 || letter.from > 1 => Verdict::Drop,
        Some(Message::Accept(_)) if letter.to == 0 => Verdict::Drop,
        _ if tells(letter) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let _ = world.call(0, "r0", set("late"), Level::Log);
    world.run_for(2 * MILLISECOND);
    let early = world.call(1, "r1", set("early"), Level::Log);
    let decided =
        world.run_until(850 * MILLISECOND, |world| matches!(world.outcome(early), Some(Outcome::Answer(_))));
    world.check().map_err(broken)?;
    ensure!(decided, "nothing was decided: {}", world.describe());
    world.crash(1, CrashKind::Power);
    world.run_for(SECOND);
    world.check().map_err(broken)?;
    end(world)
}

/// T-B3. Everybody proposes at the same moments, again and again.
pub(super) fn duelling_proposers(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    for round in 0..5 {
        let calls: Vec<_> = (0..count)
            .map(|node| world.call(node, "r0", set(&format!("{round}.{node}")), Level::Log))
            .collect();
        for call in calls {
            let outcome = world.wait(call, 2 * SECOND);
            ensure!(matches!(outcome, Some(Outcome::Answer(_))), "{outcome:?}: {}", world.describe());
        }
    }
    for node in 0..count {
        let twice = world.status(node).probe.duplicates;
        ensure!(twice == 0, "node {node}: {twice} batches were chosen in two slots");
    }
    end(world)
}

/// A reader's first question is answered by one node late, after a write that it knows nothing of; its second must not be taken for
/// answered.
pub(super) fn answer_to_an_older_read(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Basic, seed, count);
    settings.network.streams = false;
    let mut world = steady(settings)?;
    world.set_filter(Box::new(|letter: &Letter| match letter.basic() {
        Some(Message::ReadReply(_)) if letter.from == 2 => Verdict::Delay(40 * MILLISECOND),
        _ => Verdict::Pass,
    }));
    let first = world.get(0, "r0", Level::Quorum);
    ensure!(is_value(first.as_ref(), "start"), "read {first:?}");
    // From here on node 0 hears only what is on its way.
    world.set_filter(Box::new(|letter: &Letter| if letter.to == 0 { Verdict::Drop } else { Verdict::Pass }));
    ensure!(world.set(1, "r0", "new"), "no write: {}", world.describe());
    let second = world.call(0, "r0", Action::Get, Level::Quorum);
    let outcome = world.wait(second, 60 * MILLISECOND);
    world.check().map_err(broken)?;
    ensure!(!is_value(outcome.as_ref(), "start"), "an answer to an older question served a read");
    world.clear_filter();
    end(world)
}

/// T-B4. The proposer dies when too few have accepted; its slot is a hole below all that follows.
pub(super) fn proposer_dies_half_way(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    let reached = if count > 3 { 1 } else { 0 };
    world.set_filter(Box::new(move |letter: &Letter| match letter.basic() {
        Some(Message::Accept(_)) if letter.from == 0 && letter.to > reached => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let _ = world.call(0, "r0", set("open"), Level::Log);
    world.run_for(10 * MILLISECOND);
    world.crash(0, CrashKind::Power);
    world.clear_filter();
    for node in 1..count {
        ensure!(world.set_soon(node, "r1", &format!("v{node}")), "blocked by a hole: {}", world.describe());
    }
    world.check().map_err(broken)?;
    end(world)
}

/// T-B5. A proposer crashes with nothing on its disk and proposes something else; its first value is on one disk.
pub(super) fn ballot_of_an_earlier_life(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Basic, seed, count);
    settings.network.streams = false;
    let mut world = steady(settings)?;
    world.stall_disk(0, SECOND);
    world.set_filter(Box::new(|letter: &Letter| match letter.basic() {
        Some(Message::Accept(_)) if letter.from == 0 && letter.to != 1 => Verdict::Drop,
        Some(Message::Accepted(_)) if letter.to == 0 => Verdict::Drop,
        Some(Message::Prepare(_)) if letter.from != 0 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let _ = world.call(0, "r0", set("first"), Level::Log);
    world.run_for(10 * MILLISECOND);
    world.crash(0, CrashKind::Power);
    world.set_filter(Box::new(|letter: &Letter| match letter.basic() {
        Some(Message::Accept(_) | Message::Prepare(_)) if letter.to == 1 => Verdict::Drop,
        Some(Message::Prepare(_)) if letter.from != 0 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    world.bounce(0, CrashKind::Power);
    ensure!(world.set_soon(0, "r0", "second"), "no write after the restart: {}", world.describe());
    world.check().map_err(broken)?;
    world.crash(0, CrashKind::Power);
    world.clear_filter();
    ensure!(world.set_soon(1, "r1", "after"), "the others do not decide: {}", world.describe());
    end(world)
}
