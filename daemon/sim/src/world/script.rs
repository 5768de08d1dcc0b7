//! What a scenario can do to the world.

use panch_replica::familiarity::Familiarity;
use panch_replica::replica::Level;
use panch_replica::status::GroupStatus;
use panch_wire::frame::PAGE_SIZE;
use panch_wire::ids::{GroupId, Slot};

use super::faults::Undo;
use super::node::State;
use super::restore::DiskCopy;
use super::{Event, Filter, World};
use crate::client::{Intent, Outcome, OwnedCommand, ScriptedBatch};
use crate::disk::{CrashKind, Latency, Name};
use crate::linear::register::{Action, Answer};
use crate::linear::store::ManyAction;
use crate::queue::{MILLISECOND, SECOND, Time};

/// A command that a script has sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call(usize);

impl World {
    // Commands.

    /// Sends a command about a key to one node, once.
    pub fn call(&mut self, node: usize, key: &str, action: Action, level: Level) -> Call {
        let command = OwnedCommand::of(key.as_bytes(), &action);
        self.call_command(node, command, Some(action.into()), level)
    }

    /// Sends a command about several keys to one node, once.
    pub fn call_many(&mut self, node: usize, action: ManyAction, level: Level) -> Call {
        let command = OwnedCommand::of_many(&action);
        self.call_command(node, command, Some(action.into()), level)
    }

    /// Sends any command to one node, once. With `intent` it becomes part of the history that is checked.
    pub fn call_command(
        &mut self,
        node: usize,
        command: OwnedCommand,
        intent: Option<Intent>,
        level: Level,
    ) -> Call {
        let (client, wishes) = self.clients.call(self.now(), node, command, intent, level, false);
        self.grant(wishes);
        Call(client)
    }

    /// Sends a batch of commands to some nodes, once, as a client that proposes itself.
    pub fn call_batch(&mut self, batch: ScriptedBatch) -> Call {
        let (client, wishes) = self.clients.call_batch(self.now(), batch);
        self.grant(wishes);
        Call(client)
    }

    /// What came of a command, as soon as that is known.
    pub fn outcome(&self, call: Call) -> Option<&Outcome> {
        self.clients.result(call.0)
    }

    /// Waits for the outcome of a command.
    pub fn wait(&mut self, call: Call, time: Time) -> Option<Outcome> {
        self.run_until(time, |world| world.outcome(call).is_some());
        self.outcome(call).cloned()
    }

    /// Sets a key through one node and waits; whether that was acknowledged.
    pub fn set(&mut self, node: usize, key: &str, value: &str) -> bool {
        let call = self.call(node, key, Action::Set(value.as_bytes().into()), Level::Log);
        self.wait(call, 2 * SECOND) == Some(Outcome::Answer(Answer::Done))
    }

    /// As [`World::set`], again and again until it is acknowledged, for at most two seconds.
    pub fn set_soon(&mut self, node: usize, key: &str, value: &str) -> bool {
        let action = Action::Set(value.as_bytes().into());
        let command = OwnedCommand::of(key.as_bytes(), &action);
        let (client, wishes) =
            self.clients.call(self.now(), node, command, Some(action.into()), Level::Log, true);
        self.grant(wishes);
        self.wait(Call(client), 2 * SECOND) == Some(Outcome::Answer(Answer::Done))
    }

    /// Reads a key through one node and waits.
    pub fn get(&mut self, node: usize, key: &str, level: Level) -> Option<Outcome> {
        let call = self.call(node, key, Action::Get, level);
        self.wait(call, 2 * SECOND)
    }

    /// One new write through every node that did not refuse to start and is not kept away, sent until it is acknowledged.
    pub(super) fn probe(&mut self) {
        for node in 0..self.nodes.len() {
            if matches!(self.nodes[node].state, State::Refused) || self.nodes[node].is_absent {
                continue;
            }
            for (number, group) in self.shared.groups().enumerate() {
                let key = key_in(group, self.shared.settings.group_count());
                let action = Action::Set(format!("probe{node}.{number}.{}", self.now()).into_bytes().into());
                let command = OwnedCommand::of(key.as_bytes(), &action);
                let (_, wishes) =
                    self.clients.call(self.now(), node, command, Some(action.into()), Level::Log, true);
                self.grant(wishes);
            }
        }
    }

    // Nodes.

    /// The status of a group on a node; `None` while the node is down.
    pub fn status_of(&self, node: usize, group: GroupId) -> Option<GroupStatus> {
        self.nodes[node].status().into_iter().find(|status| status.group == group)
    }

    /// The status of the first group on a node that is up.
    ///
    /// # Panics
    /// If the node is down.
    pub fn status(&self, node: usize) -> GroupStatus {
        self.status_of(node, GroupId(0)).expect("the script asks nodes that are up")
    }

    /// The node that leads the first group and may serve.
    pub fn leader(&self) -> Option<usize> {
        (0..self.nodes.len())
            .find(|node| self.status_of(*node, GroupId(0)).is_some_and(|status| status.protocol.leading))
    }

    /// Waits until a node leads that everybody else follows who is up.
    pub fn wait_for_leader(&mut self) -> Option<usize> {
        self.run_until(10 * SECOND, |world| {
            world.leader().is_some_and(|leader| {
                (0..world.nodes.len()).all(|node| {
                    let followed = world.status_of(node, GroupId(0)).map(|status| status.protocol.leader);
                    followed.is_none_or(|of| of.is_some_and(|of| of.index() == leader))
                })
            })
        });
        self.leader()
    }

    /// Whether a node refused to start because of its log.
    pub fn has_refused(&self, node: usize) -> bool {
        matches!(self.nodes[node].state, State::Refused)
    }

    /// Whether a node's process runs.
    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].is_up()
    }

    /// Ends a node's process; it does not come back by itself.
    pub fn crash(&mut self, node: usize, kind: CrashKind) {
        self.nodes[node].crash(&mut self.shared, kind);
    }

    /// Starts a node's process.
    pub fn restart(&mut self, node: usize) {
        self.shared.queue.push_in(0, Event::Restart { node });
    }

    /// Ends a node's process and starts it again, until it lives or refuses.
    pub fn bounce(&mut self, node: usize, kind: CrashKind) {
        self.crash(node, kind);
        self.restart(node);
        self.run_until(2 * SECOND, |world| match &world.nodes[node].state {
            State::Up(life) => life.core.is_live(),
            State::Refused => true,
            _ => false,
        });
    }

    /// A node loses its disk, whatever it does; it is started again by [`World::restart`], as one that has lost its disk.
    pub fn wipe(&mut self, node: usize) {
        self.nodes[node].wipe(&mut self.shared, CrashKind::Power);
    }

    /// A node ends, and the file with what it remembers of others is lost: it is started as one on its way back.
    pub fn forget_others(&mut self, node: usize) {
        self.nodes[node].forget_others(&mut self.shared);
    }

    /// Whether a node has accepted the hello of another one's present life.
    pub fn has_accepted(&self, node: usize, peer: usize) -> bool {
        let name = self.nodes[peer].life().map(|life| life.name);
        self.nodes[node].life().is_some_and(|life| Some(life.accepted[peer]) == name)
    }

    /// A copy of a node's disk.
    pub fn copy(&self, node: usize) -> DiskCopy {
        *self.nodes[node].copy_disk()
    }

    /// A node ends, and its disk is replaced by a copy.
    pub fn restore(&mut self, node: usize, copy: &DiskCopy) {
        self.nodes[node].restore(&mut self.shared, copy);
    }

    /// Every node forgets what it remembers of the lives of others: nobody recognizes a disk that was restored. What is decided
    /// twice from then on is no violation; only the script judges.
    pub fn forget_lives(&mut self) {
        self.shared.invariants.suspend();
        for node in &mut self.nodes {
            node.memory.peers = Familiarity::default();
            node.memory.written = Familiarity::default();
        }
    }

    /// Whether a node is on its way back from the loss of its disk.
    pub fn is_returning(&self, node: usize) -> bool {
        self.nodes[node].memory.is_returning()
    }

    /// A node's process stands still.
    pub fn pause(&mut self, node: usize, time: Time) {
        self.nodes[node].busy_until = self.now() + time;
    }

    /// A node's clock jumps ahead.
    pub fn jump_clock(&mut self, node: usize, by: Time) {
        self.nodes[node].clock.jump(by);
        let now = self.now();
        self.nodes[node].wake(&mut self.shared, now);
    }

    /// A node's clock runs at so many millionths of true time.
    pub fn set_clock_rate(&mut self, node: usize, rate: u64) {
        let now = self.now();
        self.nodes[node].clock.set_rate(now, rate);
        self.nodes[node].wake(&mut self.shared, now);
    }

    /// A node will end in the middle of its next log write, and start again a little later.
    pub fn doom(&mut self, node: usize, kind: CrashKind) {
        self.nodes[node].doomed = Some(kind);
    }

    /// A node's disk completes nothing for this long.
    pub fn stall_disk(&mut self, node: usize, time: Time) {
        let until = self.now() + time;
        self.nodes[node].disk.stall(until);
    }

    /// How fast a node's disk is from now on.
    pub fn set_disk(&mut self, node: usize, latency: Latency) {
        self.nodes[node].disk.latency = latency;
    }

    /// The next write or sync of a node's disk fails.
    pub fn fail_disk(&mut self, node: usize) {
        self.nodes[node].disk.fail_next();
    }

    /// Whether a node's disk has no room for anything new, and whether nothing can be read from it.
    pub fn spoil_disk(&mut self, node: usize, full: bool, unreadable: bool) {
        let disk = &mut self.nodes[node].disk;
        (disk.full, disk.unreadable) = (full, unreadable);
    }

    /// How many steps of a node's disk have failed.
    pub fn disk_failures(&self, node: usize) -> u64 {
        self.nodes[node].disk.counters.failures
    }

    /// Bytes of the segments on a node's disk, those that were prepared included.
    pub fn log_size(&self, node: usize) -> u64 {
        let segments = self.nodes[node].disk.names().filter(|name| matches!(name, Name::Segment(_)));
        segments.count() as u64 * self.shared.settings.wal.segment_size
    }

    /// The newest complete snapshot of the first group on a node's disk.
    pub fn newest_snapshot(&self, node: usize) -> Option<Slot> {
        let names = self.nodes[node].disk.names();
        let slots = names.filter_map(|name| match name {
            Name::Snapshot(GroupId(0), slot) => Some(slot),
            _ => None,
        });
        slots.max()
    }

    /// Damages the log of a node that is down, where it is known to be durable; false if there is no such place yet.
    pub fn rot(&mut self, node: usize) -> bool {
        self.nodes[node].rot(&mut self.shared)
    }

    /// Removes a segment of the log of a node that is down: the one that it wrote to last, if `used`, or else the last one
    /// that was prepared.
    pub fn lose_segment(&mut self, node: usize, used: bool) {
        let disk = &self.nodes[node].disk;
        let is_used = |name: &Name| {
            let mut page = [0; PAGE_SIZE];
            disk.open(*name).inspect(|file| disk.read(*file, 0, &mut page));
            page.iter().any(|byte| *byte != 0)
        };
        let segments = disk.names().filter(|name| matches!(name, Name::Segment(_)));
        let lost = segments.filter(|name| !used || is_used(name)).max().expect("a log has segments");
        self.nodes[node].lose(&mut self.shared, lost);
    }

    /// Removes the newest snapshot of a node, or flips bits in it.
    pub fn harm_snapshot(&mut self, node: usize, remove: bool) {
        let slot = self.newest_snapshot(node).expect("the node has a snapshot");
        let name = Name::Snapshot(GroupId(0), slot);
        if remove {
            self.nodes[node].lose(&mut self.shared, name);
        } else {
            self.nodes[node].rot_snapshot(&mut self.shared, name);
        }
    }

    // Network.

    /// Decides about every message from now on.
    pub fn set_filter(&mut self, filter: Filter) {
        self.shared.filter = Some(filter);
    }

    /// No message is touched any more.
    pub fn clear_filter(&mut self) {
        self.shared.filter = None;
    }

    /// Nothing goes from `from` to `to`; packets are held back, or lost in datagram mode.
    pub fn block(&mut self, from: usize, to: usize) {
        self.shared.network.block(from, to);
    }

    /// Packets go from `from` to `to` again.
    pub fn unblock(&mut self, from: usize, to: usize) {
        self.undo(Undo::Unblock(from, to));
    }

    /// Nothing goes to or from a node any more, and its connections break.
    pub fn isolate(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.block(node, other);
            self.block(other, node);
            self.shared.reset(node, other);
        }
    }

    /// Undoes [`World::isolate`].
    pub fn rejoin(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.unblock(node, other);
            self.unblock(other, node);
            self.shared.queue.push_in(MILLISECOND, Event::Connect { a: node, b: other });
        }
    }
}

/// A key that lives in `group`.
///
/// # Panics
/// If there is no such group.
pub fn key_in(group: GroupId, group_count: u16) -> String {
    let keys = (0..).map(|number| format!("p{number}"));
    let mut fitting =
        keys.filter(|key| panch_wire::slots::group_of_key(key.as_bytes(), group_count) == group);
    fitting.next().expect("every group has keys")
}
