//! Leases of Multi-Paxos: a leader reads alone for as long as a quorum promised not to desert it, and no longer.
//!
//! What breaks without its rule is in most of these the same: the old leader answers from its state after another has decided something.
//! The history of the clients shows it.

use std::cell::Cell;
use std::rc::Rc;

use panch_consensus::multi::message::Message;
use panch_replica::replica::Level;
use panch_wire::ids::GroupId;
use panch_wire::time::Duration;

use super::{Script, begin, broken, end, ensure, others};
use crate::client::Outcome;
use crate::disk::CrashKind;
use crate::linear::register::{Action, Answer};
use crate::queue::{MILLISECOND, SECOND, Time};
use crate::settings::Settings;
use crate::world::{Letter, Verdict};

fn settings(seed: u64, lease: u64) -> Settings {
    let mut settings = Settings::calm(seed, 3);
    settings.tuning.lease = Duration::from_millis(lease);
    settings
}

fn set(text: &str) -> Action {
    Action::Set(text.as_bytes().into())
}

/// How many reads a node has served under a lease.
fn lease_reads(world: &Script, node: usize) -> u64 {
    world.status_of(node, GroupId(0)).map_or(0, |status| status.counters.lease_reads)
}

/// Whether a node serves a read under its lease.
fn serves(world: &mut Script, node: usize) -> bool {
    let before = lease_reads(world, node);
    let call = world.call(node, "r0", Action::Get, Level::Lease);
    world.run_for(3 * MILLISECOND);
    matches!(world.outcome(call), Some(Outcome::Answer(_))) && lease_reads(world, node) > before
}

/// A world whose leader has a lease.
fn leased(settings: Settings) -> Result<(Script, usize), String> {
    let (mut world, leader) = begin(settings)?;
    ensure!(world.set(leader, "r0", "old"), "no write");
    world.run_for(300 * MILLISECOND);
    let leader = world.leader().unwrap_or(leader);
    ensure!(serves(&mut world, leader), "the leader has no lease: {}", world.describe());
    Ok((world, leader))
}

/// The old leader is asked all the time, and the others write as soon as they can: once a write is answered the old leader must not
/// answer from before. Whether a write was answered in this time.
fn contest(world: &mut Script, old: usize, time: Time) -> Result<bool, String> {
    /// Few writes at a time, or no checker of histories could tell in which order they came.
    const WRITE_EVERY: Time = 8;
    let is_answer = |outcome: Option<&Outcome>| matches!(outcome, Some(Outcome::Answer(_)));
    let rest = others(3, old);
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for number in 0..time / MILLISECOND {
        for node in rest.iter().filter(|_| number % WRITE_EVERY == 0) {
            writes.push(world.call(*node, "r0", set(&format!("{node}.{number}")), Level::Log));
        }
        if writes.iter().any(|write| is_answer(world.outcome(*write))) {
            reads.push(world.call(old, "r0", Action::Get, Level::Lease));
        } else {
            world.call(old, "r0", Action::Get, Level::Lease);
        }
        world.run_for(MILLISECOND);
        world.check().map_err(broken)?;
        let before = Outcome::Answer(Answer::Value(Some((*b"old").into())));
        let is_stale = reads.iter().any(|read| world.outcome(*read) == Some(&before));
        ensure!(
            !is_stale,
            "the old leader answers from before what another has decided: {}",
            world.describe()
        );
    }
    Ok(writes.iter().any(|write| is_answer(world.outcome(*write))))
}

/// The leader is cut off, and everybody knows it.
pub(super) fn cut_off(seed: u64) -> Result<(), String> {
    let (mut world, leader) = leased(settings(seed, 100))?;
    world.isolate(leader);
    ensure!(contest(&mut world, leader, 300 * MILLISECOND)?, "nobody took over: {}", world.describe());
    world.rejoin(leader);
    end(world)
}

/// T-M6. The leader is stopped until another has decided something, and is asked when it wakes up. It has not been away for long
/// enough to step down.
pub(super) fn paused_leader(seed: u64) -> Result<(), String> {
    let (mut world, leader) = leased(settings(seed, 60))?;
    world.isolate(leader);
    world.pause(leader, 110 * MILLISECOND);
    let written = contest(&mut world, leader, 130 * MILLISECOND)?;
    ensure!(written, "nobody took over in time: {}", world.describe());
    world.rejoin(leader);
    end(world)
}

/// Longer than a node that starts again waits for those that are out of reach: before it is recognised it says nothing, and would need no
/// rule to keep what it has granted.
const LONG: u64 = 600;

/// A leader that holds its office as long as its lease lasts, and followers that stand soon once they have been started again.
fn long_lease(seed: u64) -> Result<(Script, usize), String> {
    let mut settings = settings(seed, LONG);
    let usual = settings.tuning.election_timeout;
    settings.tuning.election_timeout = Duration::from_millis(LONG + 200);
    let (mut world, leader) = leased(settings)?;
    world.shared.settings.tuning.election_timeout = usual;
    Ok((world, leader))
}

/// T-M7. One follower alone grants; it restarts at once, and is asked for its vote by the other.
pub(super) fn granter_restarts(seed: u64) -> Result<(), String> {
    granter_restarts_with(seed, Duration::from_millis(LONG))
}

/// The same, and it is started with a lease that is over at once.
pub(super) fn granter_restarts_with_less(seed: u64) -> Result<(), String> {
    granter_restarts_with(seed, Duration::from_millis(2))
}

/// That somebody reaches more nodes than the leader does is not told, so the leader stays.
fn keep_leader(world: &mut Script) {
    world.set_filter(Box::new(|letter: &Letter| match letter.multi() {
        Some(Message::Condition(_)) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
}

/// The leader and `other`, which is started again, do not hear each other: who else follows grants alone.
fn leave_one_granter(world: &mut Script, leader: usize, other: usize) -> Result<(), String> {
    world.bounce(other, CrashKind::Kill);
    keep_leader(world);
    for (from, to) in [(leader, other), (other, leader)] {
        world.block(from, to);
    }
    world.run_for(SECOND + (world.shared.settings.seed * 20) * MILLISECOND);
    ensure!(world.leader() == Some(leader), "the leader lost its office: {}", world.describe());
    Ok(())
}

/// The leader is cut off, and `granter` is started again with that lease.
fn restart_granter(world: &mut Script, leader: usize, granter: usize, lease: Duration) -> Result<(), String> {
    world.shared.settings.tuning.lease = lease;
    world.isolate(leader);
    world.bounce(granter, CrashKind::Kill);
    contest(world, leader, (LONG + 100) * MILLISECOND)?;
    world.rejoin(leader);
    Ok(())
}

fn granter_restarts_with(seed: u64, lease: Duration) -> Result<(), String> {
    let (mut world, leader) = long_lease(seed)?;
    let (granter, other) = (others(3, leader)[0], others(3, leader)[1]);
    leave_one_granter(&mut world, leader, other)?;
    ensure!(serves(&mut world, leader), "the leader has no lease: {}", world.describe());
    restart_granter(&mut world, leader, granter, lease)?;
    end(world)
}

/// As T-M7, and the follower has been started with a shorter lease than the leader's: it must not grant what it would not wait for.
pub(super) fn short_granter(seed: u64) -> Result<(), String> {
    let (mut world, leader) = long_lease(seed)?;
    let (granter, other) = (others(3, leader)[0], others(3, leader)[1]);
    let (long, short) = (world.shared.settings.tuning.lease, Duration::from_millis(2));
    world.shared.settings.tuning.lease = short;
    world.bounce(granter, CrashKind::Kill);
    world.shared.settings.tuning.lease = long;
    leave_one_granter(&mut world, leader, other)?;
    restart_granter(&mut world, leader, granter, short)?;
    end(world)
}

/// The only follower that grants looks for votes itself.
pub(super) fn granter_stands(seed: u64) -> Result<(), String> {
    let (mut world, leader) = leased(settings(seed, 100))?;
    let other = others(3, leader)[1];
    keep_leader(&mut world);
    for (from, to) in [(leader, other), (other, leader)] {
        world.block(from, to);
    }
    world.run_for(500 * MILLISECOND);
    ensure!(serves(&mut world, leader), "the leader has no lease: {}", world.describe());
    world.isolate(leader);
    ensure!(contest(&mut world, leader, 400 * MILLISECOND)?, "nobody took over: {}", world.describe());
    world.rejoin(leader);
    end(world)
}

/// T-M8. Answers to the leader are slow; then it is no longer heard. What it counts from their arrival is over for the others. A leader
/// that is answered so late hands over, if anybody tells that it reaches more nodes; here nobody does.
pub(super) fn slow_answers(seed: u64) -> Result<(), String> {
    let mut settings = settings(seed, 140);
    settings.network.streams = false;
    let (mut world, leader) = leased(settings)?;
    let slow = move |letter: &Letter| {
        matches!(letter.multi(), Some(Message::HeartbeatReply(_))) && letter.to == leader
    };
    world.set_filter(Box::new(move |letter: &Letter| match letter.multi() {
        Some(Message::Condition(_)) => Verdict::Drop,
        _ if slow(letter) => Verdict::Delay(110 * MILLISECOND),
        _ => Verdict::Pass,
    }));
    world.run_for(400 * MILLISECOND);
    ensure!(serves(&mut world, leader), "the leader has no lease: {}", world.describe());
    world.set_filter(Box::new(move |letter: &Letter| match letter {
        letter if letter.from == leader => Verdict::Drop,
        letter if slow(letter) => Verdict::Delay(110 * MILLISECOND),
        letter if letter.to == leader => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    ensure!(contest(&mut world, leader, 400 * MILLISECOND)?, "nobody took over: {}", world.describe());
    world.clear_filter();
    end(world)
}

/// T-C10 with leases. The leader's clock is slow and the others' are fast, as far as they may be.
pub(super) fn drifting_clocks(seed: u64) -> Result<(), String> {
    let mut settings = settings(seed, 130);
    settings.tuning.clock_drift_ppm = 200_000;
    let (mut world, leader) = leased(settings)?;
    world.set_clock_rate(leader, 800_000);
    for node in others(3, leader) {
        world.set_clock_rate(node, 1_200_000);
    }
    world.run_for(300 * MILLISECOND);
    ensure!(world.leader() == Some(leader), "the leader lost its office: {}", world.describe());
    world.isolate(leader);
    ensure!(contest(&mut world, leader, 400 * MILLISECOND)?, "nobody took over: {}", world.describe());
    world.rejoin(leader);
    end(world)
}

/// T-M9 with leases. The write is chosen but only the dead leader knew; the new leader gets grants and decides nothing.
pub(super) fn lease_before_term_start(seed: u64) -> Result<(), String> {
    let (mut world, leader) = leased(settings(seed, 60))?;
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
    let elected = world.run_until(5 * SECOND, |world| {
        others(3, leader).iter().any(|node| {
            let status = world.status_of(*node, GroupId(0));
            status.is_some_and(|status| status.protocol.leader.is_some_and(|of| of.index() == *node))
        })
    });
    ensure!(elected, "nobody was elected: {}", world.describe());
    // The grants come first: a read that must wait for its round would hold back those behind it.
    world.run_for(50 * MILLISECOND);
    for node in others(3, leader) {
        let call = world.call(node, "r0", Action::Get, Level::Lease);
        let outcome = world.wait(call, 5 * MILLISECOND);
        world.check().map_err(broken)?;
        let before = Outcome::Answer(Answer::Value(Some((*b"old").into())));
        ensure!(outcome != Some(before), "node {node} reads what was before");
    }
    world.clear_filter();
    end(world)
}

/// The node that leads by preference comes back; the other one leads until it hands over.
fn handing_over(settings: Settings) -> Result<(Script, usize, usize), String> {
    let (mut world, home) = leased(settings)?;
    world.crash(home, CrashKind::Power);
    let leads = |world: &Script| world.leader().filter(|leader| *leader != home);
    let elected = world.run_until(3 * SECOND, |world| leads(world).is_some());
    let other = leads(&world).filter(|_| elected);
    let other = other.ok_or_else(|| format!("nobody was elected: {}", world.describe()))?;
    world.restart(home);
    Ok((world, home, other))
}

/// A leader hands over and hears nothing more: what it holds ends before it asks.
pub(super) fn handover(seed: u64) -> Result<(), String> {
    let (mut world, _, old) = handing_over(settings(seed, 120))?;
    let asked = Rc::new(Cell::new(false));
    let seen = asked.clone();
    world.set_filter(Box::new(move |letter: &Letter| {
        let asks = matches!(letter.multi(), Some(Message::TransferLeader(_)));
        seen.set(seen.get() || asks);
        if seen.get() && letter.to == old { Verdict::Drop } else { Verdict::Pass }
    }));
    let handed = world.run_until(3 * SECOND, |_| asked.get());
    ensure!(handed, "the leader does not hand over: {}", world.describe());
    ensure!(contest(&mut world, old, 100 * MILLISECOND)?, "nobody took over: {}", world.describe());
    world.clear_filter();
    end(world)
}

/// The request to take over is late; the leader has gone on meanwhile, and its lease with it. It does not hear who takes over.
pub(super) fn late_handover(seed: u64) -> Result<(), String> {
    const LATE: Time = 400 * MILLISECOND;
    let mut settings = settings(seed, 120);
    settings.network.streams = false;
    let (mut world, home, old) = handing_over(settings)?;
    let asked = Rc::new(Cell::new(false));
    let seen = asked.clone();
    world.set_filter(Box::new(move |letter: &Letter| match letter.multi() {
        Some(Message::TransferLeader(_)) => {
            seen.set(true);
            Verdict::Delay(LATE)
        }
        _ => Verdict::Pass,
    }));
    let handed = world.run_until(3 * SECOND, |_| asked.get());
    ensure!(handed, "the leader does not hand over: {}", world.describe());
    world.run_for(LATE - 5 * MILLISECOND);
    ensure!(serves(&mut world, old), "the leader did not go on: {}", world.describe());
    world.set_filter(Box::new(
        move |letter: &Letter| {
            if letter.to == old { Verdict::Drop } else { Verdict::Pass }
        },
    ));
    contest(&mut world, old, 130 * MILLISECOND)?;
    world.clear_filter();
    ensure!(world.set_soon(home, "r0", "after"), "no write after it: {}", world.describe());
    end(world)
}

/// The logs of both followers stand still: nothing can be decided, so nothing is granted, and reads take their round.
pub(super) fn stalled_logs(seed: u64) -> Result<(), String> {
    let (mut world, leader) = leased(settings(seed, 60))?;
    for node in others(3, leader) {
        world.stall_disk(node, 300 * MILLISECOND);
    }
    let _ = world.call(leader, "r0", set("late"), Level::Log);
    world.run_for(200 * MILLISECOND);
    let before = lease_reads(&world, leader);
    let read = world.get(leader, "r0", Level::Lease);
    world.check().map_err(broken)?;
    ensure!(lease_reads(&world, leader) == before, "a lease from logs that stand still served {read:?}");
    ensure!(read == Some(Outcome::Answer(Answer::Value(Some((*b"old").into())))), "read {read:?}");
    end(world)
}
