//! Batches that clients of Fast Paxos send straight to all nodes.

use std::rc::Rc;

use panch_replica::replica::Level;
use panch_wire::batch::BatchWriter;
use panch_wire::checksum::checksum;
use panch_wire::frame::FramePool;
use panch_wire::ids::{GroupId, ReplicaId};
use panch_wire::slots::group_of_key;

use super::{Clients, Intent, OwnedCommand, Part, Plan, Task, Wish};
use crate::coverage::Coverage;
use crate::queue::Time;
use crate::settings::ClientSettings;

/// A batch on its way to several nodes.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The client's number.
    pub client: usize,
    /// Names the attempt among the client's.
    pub attempt: u64,
    /// The node that answers.
    pub home: usize,
    /// The nodes it is sent to.
    pub to: Vec<usize>,
    /// The group of its keys.
    pub group: GroupId,
    /// The session that the client greeted the nodes with.
    pub session: u64,
    /// The batch, sealed.
    pub bytes: Rc<[u8]>,
}

/// A batch that a script sends: once, and exactly so.
#[derive(Clone, Debug)]
pub struct ScriptedBatch {
    /// The node that answers.
    pub home: usize,
    /// The nodes it is sent to.
    pub to: Vec<usize>,
    /// The session that the client greeted the nodes with.
    pub session: u64,
    /// The number that tells batches of the same content apart.
    pub number: u64,
    /// Not its true name.
    pub forged: Option<[u64; 2]>,
    /// What it holds.
    pub commands: Vec<(OwnedCommand, Option<Intent>)>,
}

/// Commands beside the first of a batch, at most.
const MORE_MAX: u64 = 5;
/// Bytes of their values, at most: nodes refuse batches that are too large.
const VALUES_SIZE_MAX: usize = 8 << 10;

fn seal<'a>(home: usize, number: u64, commands: impl Iterator<Item = &'a OwnedCommand>) -> Rc<[u8]> {
    let pool = FramePool::new(1 << 20);
    let memory = pool.take(1 << 18).expect("the pool is empty");
    let mut writer = BatchWriter::new(memory, Vec::new());
    for command in commands {
        assert!(writer.push(&command.borrow()), "batches of clients are small");
    }
    writer.seal_for_client(ReplicaId(home as u8), number).0.bytes().into()
}

/// Gives a batch another name; the checksum is that of the bytes.
fn forge(bytes: &[u8], name: [u64; 2]) -> Rc<[u8]> {
    let mut bytes = bytes.to_vec();
    bytes[32..40].copy_from_slice(&name[0].to_le_bytes());
    bytes[40..48].copy_from_slice(&name[1].to_le_bytes());
    let sum = checksum(&bytes[8..]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes.into()
}

impl Proposal {
    pub(super) fn of(task: &Task, client: usize, attempt: u64, home: usize, to: Vec<usize>) -> Self {
        let mut commands = task.open_parts().map(|part| &part.command);
        let session = commands.clone().find_map(|command| command.session).map_or(0, |it| it.session);
        let bytes = seal(home, attempt, &mut commands);
        Self { client, attempt, home, to, group: task.group, session, bytes }
    }
}

impl super::Client {
    pub(super) fn is_direct(&self) -> bool {
        self.task.as_ref().is_some_and(|task| task.direct.is_some())
    }

    /// More commands for a batch whose first one has the session's latest number.
    pub(super) fn more_of_batch(
        &mut self,
        index: usize,
        group: GroupId,
        group_count: u16,
        settings: &ClientSettings,
    ) -> Vec<Part> {
        let mut parts = Vec::new();
        let Some((first, offset)) =
            self.session.as_ref().and_then(|session| Some((session.number, session.offset(group)?)))
        else {
            return parts;
        };
        let mut size = 0;
        for _ in 0..self.random.below(MORE_MAX + 1) {
            let (command, intent, _) = self.random_operation(index, settings);
            let Some(session) = &mut self.session else { break };
            if command.kind.is_read() || group_of_key(&command.key, group_count) != group {
                continue;
            }
            size += command.value.len();
            if size > VALUES_SIZE_MAX {
                break;
            }
            session.number += 1;
            let mut command = command.in_session(session.id, offset + session.number);
            if let Some(header) = &mut command.session {
                header.acked_below = offset + first;
            }
            parts.push(Part { command, intent, answered: false });
        }
        parts
    }
}

impl Clients {
    /// A batch without an answer goes to another home as another batch, or its commands one by one.
    pub(super) fn reconsider_direct(&mut self, index: usize, coverage: &mut Coverage) {
        let client = &mut self.list[index];
        let again = client.is_direct() && client.random.chance(500_000);
        let Some(task) = client.task.as_mut().filter(|task| task.direct.is_some()) else { return };
        coverage.direct_retries += 1;
        if !again {
            task.direct = None;
        }
    }

    /// A client of its own for one batch; the wishes that start it and its number.
    pub fn call_batch(&mut self, now: Time, batch: ScriptedBatch) -> (usize, Vec<Wish>) {
        let mut client = self.client(Plan::Script([].into()), false);
        (client.node, client.pinned) = (batch.home, true);
        let index = self.list.len();
        let group_count = self.protocols.len() as u16;
        let group = batch.commands.first().map(|(command, _)| group_of_key(&command.key, group_count));
        let parts = batch.commands.into_iter();
        let task = Task {
            parts: parts.map(|(command, intent)| Part { command, intent, answered: false }).collect(),
            level: Level::Log,
            stale: false,
            group: group.unwrap_or_default(),
            invoked: now,
            first_attempt: 1,
            direct: Some(batch.to.clone()),
        };
        client.attempt = 1;
        client.ticket = 1;
        let bytes = seal(batch.home, batch.number, task.open_parts().map(|part| &part.command));
        let proposal = Proposal {
            session: batch.session,
            bytes: batch.forged.map_or(Rc::clone(&bytes), |name| forge(&bytes, name)),
            ..Proposal::of(&task, index, 1, batch.home, batch.to)
        };
        client.task = Some(task);
        self.list.push(client);
        (index, vec![Wish::Propose(proposal), Wish::Timer(self.settings.patience, index, 1)])
    }
}
