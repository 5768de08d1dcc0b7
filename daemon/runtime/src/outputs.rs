//! Where a core's effects go: peers, clients, other cores, the helper thread.

use std::collections::VecDeque;
use std::sync::Arc;

use panch_consensus::frontier::Frontier;
use panch_replica::outbox::{MessageKind, Outbox, ReplyTo};
use panch_replica::transfer::SnapshotFile;
use panch_wal::Location;
use panch_wire::client::Commit;
use panch_wire::command::{Command, Reply};
use panch_wire::frame::Frame;
use panch_wire::ids::{GroupId, Position, ReplicaId, Slot};

use crate::changes::Changes;
use crate::clients::connection::ConnectionKey;
use crate::clients::table::Clients;
use crate::peers::Peers;
use crate::remote::Replies;
use crate::storage::{Job, Storage};

/// The world as the pure core sees it.
pub(crate) struct Outputs {
    pub(crate) core: usize,
    pub(crate) peers: Peers,
    pub(crate) clients: Clients,
    pub(crate) storage: Storage,
    /// Replies for the clients of other cores, gathering during this turn.
    pub(crate) replies: Vec<Replies>,
    /// Of keys, for clients that watch some.
    pub(crate) changes: Arc<Changes>,
    /// Reads from the log to be started.
    pub(crate) loads: VecDeque<(GroupId, Position, Location)>,
}

impl Outbox for Outputs {
    fn send(
        &mut self,
        to: ReplicaId,
        group: GroupId,
        kind: MessageKind,
        message: &[u8],
        body: Option<&Frame>,
    ) {
        self.peers.send(to, group, kind as u8, message, body);
    }

    fn reaches(&self, peer: ReplicaId) -> bool {
        self.peers.is_up(peer)
    }

    fn reply(&mut self, to: ReplyTo, reply: Reply<'_>, commit: Option<&Commit>) {
        if to == ReplyTo::NOBODY {
            return;
        }
        let (key, asks_commit) = ConnectionKey::addressed(to);
        let commit = if asks_commit { commit } else { None };
        let core = key.core();
        if core == self.core {
            self.clients.reply(to, reply, commit);
        } else {
            self.replies[core].push(to, reply, commit);
        }
    }

    fn wrote(&mut self, _group: GroupId, command: &Command<'_>, reply: &Reply<'_>) {
        self.changes.note(self.core, command, reply);
    }

    fn installed(&mut self, _group: GroupId, _covered: &Frontier) {
        self.changes.note_all(self.core);
    }

    fn load(&mut self, group: GroupId, position: Position, location: Location) {
        self.loads.push_back((group, position, location));
    }

    fn snapshot_write(&mut self, group: GroupId, slot: Slot, offset: u64, bytes: &[u8], last: bool) {
        let bytes = bytes.to_vec();
        self.storage.submit(Job::SnapshotWrite { group, slot, offset, bytes, last });
    }

    fn snapshot_read(
        &mut self,
        group: GroupId,
        peer: ReplicaId,
        file: SnapshotFile,
        offset: u64,
        length: usize,
    ) {
        self.storage.submit(Job::SnapshotRead { group, peer, file, offset, length });
    }

    fn snapshot_remove(&mut self, group: GroupId, slot: Slot) {
        self.storage.submit(Job::SnapshotRemove { group, slot });
    }

    fn snapshot_abandon(&mut self, group: GroupId, slot: Slot) {
        self.storage.submit(Job::SnapshotAbandon { group, slot });
    }
}
