//! Faults that last beside a healthy majority: the disk of who leads, a link of who leads. Somebody else leads soon, and the group
//! goes on as long as they last.

use panch_consensus::protocol::ProtocolKind;

use super::{Script, begin, broken, end, ensure, others};
use crate::queue::{MILLISECOND, SECOND, Time};
use crate::settings::Settings;

/// A world whose leader has settled, and its leader.
fn settled(kind: ProtocolKind, seed: u64, count: usize) -> Result<(Script, usize), String> {
    let (mut world, leader) = begin(Settings::calm_of(kind, seed, count))?;
    ensure!(world.set_soon(leader, "r0", "start"), "no write: {}", world.describe());
    world.run_for(2 * SECOND);
    let leader = world.wait_for_leader().ok_or("no leader")?;
    Ok((world, leader))
}

/// How long two elections take.
fn two_elections(world: &Script) -> Time {
    2 * world.shared.settings.tuning.election_timeout.as_nanos() as Time
}

/// Each of the nodes writes once, in time.
fn all_write(world: &mut Script, nodes: &[usize], text: &str) -> Result<(), String> {
    for node in nodes {
        ensure!(world.set(*node, "r0", text), "no write through {node}: {}", world.describe());
    }
    world.check().map_err(broken)
}

/// The disk of who leads completes nothing any more, and its node talks on.
fn hung_disk(kind: ProtocolKind, seed: u64, count: usize) -> Result<(), String> {
    let (mut world, leader) = settled(kind, seed, count)?;
    let well = others(count, leader);
    world.stall_disk(leader, 10 * SECOND);
    all_write(&mut world, &well, "meanwhile")?;
    let wait = two_elections(&world);
    world.run_for(wait);
    ensure!(world.leader() != Some(leader), "it leads with such a disk: {}", world.describe());
    for _ in 0..10 {
        all_write(&mut world, &well, "later")?;
        world.run_for(100 * MILLISECOND);
        ensure!(world.leader() != Some(leader), "the disk is no better: {}", world.describe());
    }
    end(world)
}

/// The link between who leads and one other is cut, one way or both.
fn cut_link(kind: ProtocolKind, seed: u64, count: usize) -> Result<(), String> {
    let (mut world, leader) = settled(kind, seed, count)?;
    let all: Vec<_> = (0..count).collect();
    let other = others(count, leader)[seed as usize / 3 % (count - 1)];
    for (way, (from, to)) in [(leader, other), (other, leader)].into_iter().enumerate() {
        if seed % 3 != way as u64 {
            world.block(from, to);
        }
    }
    world.run_for(2 * SECOND);
    ensure!(world.leader() != Some(leader), "it leads without that link: {}", world.describe());
    for _ in 0..5 {
        all_write(&mut world, &all, "later")?;
    }
    for (from, to) in [(leader, other), (other, leader)] {
        world.unblock(from, to);
    }
    end(world)
}

pub(super) fn leaders_hung_disk(seed: u64, count: usize) -> Result<(), String> {
    hung_disk(ProtocolKind::Multi, seed, count)
}

pub(super) fn coordinators_hung_disk(seed: u64, count: usize) -> Result<(), String> {
    hung_disk(ProtocolKind::Fast, seed, count)
}

pub(super) fn leaders_cut_link(seed: u64, count: usize) -> Result<(), String> {
    cut_link(ProtocolKind::Multi, seed, count)
}

pub(super) fn coordinators_cut_link(seed: u64, count: usize) -> Result<(), String> {
    cut_link(ProtocolKind::Fast, seed, count)
}
