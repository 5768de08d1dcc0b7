//! A replica that needs a snapshot over a long and narrow link, while the others go on writing and make newer ones.

use panch_consensus::epaxos::message::Message;
use panch_consensus::protocol::ProtocolKind;
use panch_replica::replica::Level;
use panch_wire::ids::GroupId;
use panch_wire::time::Duration;

use super::{Script, broken, end, ensure, others};
use crate::linear::register::Action;
use crate::queue::{MICROSECOND, MILLISECOND, SECOND, Time};
use crate::settings::Settings;
use crate::world::{Letter, Verdict};

/// Bytes per second of each direction of a link.
const BANDWIDTH: u64 = 8_000_000;
/// Bytes of the values that make up the state, and how many there are.
const VALUE_SIZE: usize = 12_000;
const VALUE_COUNT: usize = 640;

/// A round trip takes 100 ms; a snapshot is made with every 256 KiB of log.
fn settings(kind: ProtocolKind, seed: u64) -> Settings {
    sized(kind, seed, 3)
}

/// The same with that many replicas.
fn sized(kind: ProtocolKind, seed: u64, count: usize) -> Settings {
    let mut settings = Settings::calm_of(kind, seed, count);
    settings.network.latency_low = 50 * MILLISECOND;
    settings.network.latency_high = 50 * MILLISECOND + 100 * MICROSECOND;
    settings.network.bandwidth = BANDWIDTH;
    settings.tuning.heartbeat_interval = Duration::from_millis(100);
    settings.tuning.election_timeout = Duration::from_millis(1000);
    settings.tuning.slow_after = Duration::from_millis(400);
    settings.tuning.recover_after = Duration::from_millis(800);
    settings.tuning.recover_always_after = Duration::from_millis(3000);
    settings.tuning.tail_size_max = 64 << 10;
    settings.tuning.catchup_window = 64;
    settings.tuning.pipeline_depth = 32;
    settings.replica.batch.pipeline_depth = 32;
    settings.replica.batch.queue_max = 64;
    settings.replica.snapshot_log_size = 256 << 10;
    settings.replica.request_timeout = Duration::from_secs(10);
    settings.log_size_max = 768 << 10;
    settings.pool_size = 32 << 20;
    settings
}

/// Writes that many values of that size through a node, some at a time; whether all were answered.
fn fill(world: &mut Script, node: usize, count: usize) -> bool {
    let value = "x".repeat(VALUE_SIZE);
    (0..count).step_by(16).all(|first| {
        let keys = (first..count.min(first + 16)).map(|number| format!("r{number}"));
        let value = Action::Set(value.as_bytes().into());
        let calls: Vec<_> = keys.map(|key| world.call(node, &key, value.clone(), Level::Log)).collect();
        world.run_until(20 * SECOND, |world| calls.iter().all(|call| world.outcome(*call).is_some()))
    })
}

/// How many positions more one node has executed than another.
fn lag(world: &Script, from: usize, away: usize) -> u64 {
    let executed = |node| world.status_of(node, GroupId(0)).map_or(0, |it| it.executed.0);
    executed(from).saturating_sub(executed(away))
}

/// One write of three kilobytes that nobody waits for, and some time.
fn go_on(world: &mut Script, node: usize, time: Time) -> Result<(), String> {
    write_on(world, node, "r0", time)
}

/// The same, to that key.
fn write_on(world: &mut Script, node: usize, key: &str, time: Time) -> Result<(), String> {
    let text = format!("{}{}", world.now(), "y".repeat(3000));
    let _ = world.call(node, key, Action::Set(text.as_bytes().into()), Level::Log);
    world.run_for(time);
    world.check().map_err(broken)
}

/// A world in which a replica is back that was cut off until the others have forgotten what it lacks, that replica, and another.
fn begin(settings: Settings, count: usize) -> Result<(Script, usize, usize), String> {
    let seed = settings.seed;
    let kind = settings.protocols[0];
    let mut world = Script::new(settings, false);
    let from = world.wait_for_leader().unwrap_or(0);
    let away = others(3, from)[1];
    ensure!(fill(&mut world, from, count), "no writes: {}", world.describe());
    if kind == ProtocolKind::Epaxos {
        // Whenever it is that snapshots are made and heartbeats sent.
        world.run_for(seed * 17 * MILLISECOND);
    }
    world.isolate(away);
    ensure!(fill(&mut world, from, 60), "no writes: {}", world.describe());
    // EPaxos waits a while for a replica that is away.
    world.run_for(if kind == ProtocolKind::Epaxos { 50 * SECOND } else { SECOND });
    world.rejoin(away);
    Ok((world, from, away))
}

/// It catches up soon: 8 MB of state, 0.2 MB per second of writes. And votes and heartbeats share the link: nobody else leads.
fn chase(kind: ProtocolKind, seed: u64) -> Result<(), String> {
    let (mut world, from, away) = begin(settings(kind, seed), VALUE_COUNT)?;
    let (begun, installed) = (world.now(), world.status(away).probe.installs);
    let stood = |world: &Script| -> u64 {
        others(3, from).into_iter().map(|node| world.status(node).counters.elections).sum()
    };
    let stood_before = stood(&world);
    let mut lag_left = u64::MAX;
    for step in 0.. {
        go_on(&mut world, from, 15 * MILLISECOND)?;
        lag_left = lag(&world, from, away);
        if step > 50 && lag_left < 60 || world.now() - begun > 6 * SECOND {
            break;
        }
    }
    let installs = world.status(away).probe.installs - installed;
    ensure!(lag_left < 60, "{lag_left} behind after 6 s and {installs} snapshots");
    ensure!(installs > 0, "no snapshot was needed");
    ensure!(stood(&world) == stood_before, "somebody did not hear the leader: {}", world.describe());
    end(world)
}

/// Keys that nobody has written before: a replica executes such writes whatever it lacks. It catches up although the snapshot is on its way for
/// longer than it rests when it first hears that it needs one.
pub(super) fn epaxos_on_new_keys(seed: u64) -> Result<(), String> {
    let mut settings = settings(ProtocolKind::Epaxos, seed);
    settings.network.bandwidth = 2_000_000;
    let (mut world, from, away) = begin(settings, VALUE_COUNT)?;
    let (begun, installed) = (world.now(), world.status(away).probe.installs);
    let mut lag_left = u64::MAX;
    for step in 0.. {
        write_on(&mut world, from, &format!("rn{step}"), 15 * MILLISECOND)?;
        lag_left = lag(&world, from, away);
        if step > 50 && lag_left < 60 || world.now() - begun > 20 * SECOND {
            break;
        }
    }
    let installs = world.status(away).probe.installs - installed;
    ensure!(lag_left < 60, "{lag_left} behind after 20 s and {installs} snapshots");
    ensure!(installs > 0, "no snapshot was needed");
    end(world)
}

/// A replica is heard and executes nothing, because nothing that is decided reaches it. The others keep what it lacks until their logs have reached
/// their bound, and then wait for it no longer: it gets a snapshot, and they make no more of these than usual.
pub(super) fn epaxos_slow_replica(seed: u64) -> Result<(), String> {
    let settings = settings(ProtocolKind::Epaxos, seed);
    let (log_size_max, segment_size) = (settings.log_size_max, settings.wal.segment_size);
    let snapshot_log_size = settings.replica.snapshot_log_size;
    let mut world = Script::new(settings, false);
    ensure!(fill(&mut world, 0, 20), "no writes: {}", world.describe());
    let (from, away) = (0, 2);
    world.set_filter(Box::new(move |letter: &Letter| match letter.epaxos() {
        Some(Message::Progress(_)) | None => Verdict::Pass,
        Some(_) if letter.to == away => Verdict::Drop,
        Some(_) => Verdict::Pass,
    }));
    let (made, mut largest) = (world.status(from).probe.snapshots, 0);
    let count = 1600;
    for step in 0..count {
        write_on(&mut world, from, &format!("r{}", step % 20), 15 * MILLISECOND)?;
        largest = largest.max(world.log_size(from)).max(world.log_size(1));
    }
    let bound = 2 * log_size_max + 20 * VALUE_SIZE as u64 + 5 * segment_size;
    ensure!(largest <= bound, "the log took {largest} bytes instead of {bound}: {}", world.describe());
    ensure!(world.status(from).probe.log_cuts > 0, "the log never reached its bound");
    let made = world.status(from).probe.snapshots - made;
    let usual = count * 5000 / snapshot_log_size;
    ensure!(made <= usual + 4, "{made} snapshots were made, and {usual} are usual");
    world.clear_filter();
    ensure!(world.status(away).probe.installs > 0, "it got no snapshot: {}", world.describe());
    let is_level = world.run_until(20 * SECOND, |world| lag(world, from, away) == 0);
    ensure!(is_level, "{} behind: {}", lag(&world, from, away), world.describe());
    end(world)
}

/// More is written than the link carries beside a snapshot, until the log that is kept reaches its bound. No transfer is begun
/// again for that: the replica gets one snapshot after the other, and catches up as soon as less is written.
fn vain(kind: ProtocolKind, seed: u64) -> Result<(), String> {
    let mut settings = settings(kind, seed);
    // EPaxos spares the replica that lags the most of what is only voted for.
    let is_graph = kind == ProtocolKind::Epaxos;
    settings.network.bandwidth = if is_graph { 500_000 } else { 700_000 };
    if is_graph {
        settings.log_size_max = 512 << 10;
    }
    settings.tuning.pipeline_depth = 8;
    settings.tuning.catchup_window = 16;
    let (mut world, from, away) = begin(settings, 80)?;
    let installed = world.status(away).probe.installs;
    let is_done = |world: &Script| {
        let cuts = world.status(from).probe.log_cuts;
        cuts > 0 && (is_graph || world.status(away).probe.installs >= installed + 2)
    };
    for _ in 0..6000 {
        go_on(&mut world, from, 5 * MILLISECOND)?;
        if is_done(&world) {
            break;
        }
    }
    let (cuts, installs) = (world.status(from).probe.log_cuts, world.status(away).probe.installs);
    ensure!(is_done(&world), "the log was cut {cuts} times, {installs} snapshots were installed");
    for _ in 0..400 {
        go_on(&mut world, from, 30 * MILLISECOND)?;
    }
    let lag_left = lag(&world, from, away);
    ensure!(lag_left < 60, "{lag_left} behind when less was written");
    ensure!(world.status(away).probe.installs > installed, "no snapshot was needed");
    end(world)
}

/// Two replicas need a snapshot, and the disk of one has no room for it. The other gets one and catches up, with the log that follows it;
/// no more snapshots are made than usual. And so does the first, once it has room.
fn beside_one_without_room(kind: ProtocolKind, seed: u64) -> Result<(), String> {
    let mut settings = sized(kind, seed, 5);
    settings.network.bandwidth = 2_000_000;
    let snapshot_log_size = settings.replica.snapshot_log_size;
    let mut world = Script::new(settings, false);
    let from = world.wait_for_leader().unwrap_or(0);
    let [away, full] = others(5, from)[2..] else { unreachable!("five nodes") };
    ensure!(fill(&mut world, from, VALUE_COUNT), "no writes: {}", world.describe());
    world.isolate(away);
    world.isolate(full);
    ensure!(fill(&mut world, from, 60), "no writes: {}", world.describe());
    // EPaxos waits a while for replicas that are away.
    world.run_for(if kind == ProtocolKind::Epaxos { 50 * SECOND } else { SECOND });
    world.spoil_disk(full, true, false);
    world.rejoin(full);
    world.rejoin(away);
    let (begun, installed) = (world.now(), world.status(away).probe.installs);
    let (no_room, made) = (world.coverage().no_room, world.status(from).probe.snapshots);
    let (mut lag_left, mut steps) = (u64::MAX, 0);
    while world.now() - begun < 12 * SECOND {
        go_on(&mut world, from, 60 * MILLISECOND)?;
        steps += 1;
        lag_left = lag(&world, from, away);
    }
    let made = world.status(from).probe.snapshots - made;
    let installs = world.status(away).probe.installs - installed;
    ensure!(world.coverage().no_room > no_room, "no snapshot was refused for want of room");
    ensure!(installs > 0 && lag_left < 20, "{lag_left} behind, {installs} snapshots came, {made} were made");
    let usual = steps * 5000 / snapshot_log_size;
    ensure!(made <= usual + 4, "{made} snapshots were made, and {usual} are usual");
    world.spoil_disk(full, false, false);
    let is_level = world.run_until(40 * SECOND, |world| lag(world, from, full) == 0);
    ensure!(is_level, "{} behind with room: {}", lag(&world, from, full), world.describe());
    end(world)
}

pub(super) fn multi_without_room(seed: u64) -> Result<(), String> {
    beside_one_without_room(ProtocolKind::Multi, seed)
}

pub(super) fn epaxos_without_room(seed: u64) -> Result<(), String> {
    beside_one_without_room(ProtocolKind::Epaxos, seed)
}

pub(super) fn in_vain(seed: u64) -> Result<(), String> {
    vain(ProtocolKind::Multi, seed)
}

pub(super) fn epaxos_in_vain(seed: u64) -> Result<(), String> {
    vain(ProtocolKind::Epaxos, seed)
}

pub(super) fn multi(seed: u64) -> Result<(), String> {
    chase(ProtocolKind::Multi, seed)
}

pub(super) fn basic(seed: u64) -> Result<(), String> {
    chase(ProtocolKind::Basic, seed)
}

pub(super) fn fast(seed: u64) -> Result<(), String> {
    chase(ProtocolKind::Fast, seed)
}

pub(super) fn epaxos(seed: u64) -> Result<(), String> {
    chase(ProtocolKind::Epaxos, seed)
}
