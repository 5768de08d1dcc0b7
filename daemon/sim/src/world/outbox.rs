//! What a node wants done, gathered while its core works and carried out when the turn ends.

use panch_consensus::frontier::Frontier;
use panch_consensus::protocol::Value;
use panch_replica::outbox::{MessageKind, Outbox, ReplyTo};
use panch_replica::transfer::SnapshotFile;
use panch_wal::Location;
use panch_wire::client::Commit;
use panch_wire::command::Reply;
use panch_wire::frame::Frame;
use panch_wire::ids::{GroupId, Incarnation, Position, REPLICAS_MAX, ReplicaId, ReplicaSet, Slot};

use crate::client::{Outcome, outcome_of};
use crate::invariant::Decision;
use crate::invariant::access::Access;

/// A message to a peer.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) to: ReplicaId,
    /// The receiver's incarnation as it was known when the message was made.
    pub(crate) receiver: Incarnation,
    pub(crate) group: GroupId,
    pub(crate) kind: MessageKind,
    pub(crate) message: Vec<u8>,
    pub(crate) body: Option<Frame>,
}

/// Something a node wants done, or did.
#[derive(Debug)]
pub(crate) enum Deed {
    Send(Sent),
    Reply(ReplyTo, Outcome),
    Load(GroupId, Position, Location),
    SnapshotWrite { group: GroupId, slot: Slot, offset: u64, bytes: Vec<u8>, last: bool },
    SnapshotRead { group: GroupId, peer: ReplicaId, file: SnapshotFile, offset: u64, length: usize },
    SnapshotRemove(GroupId, Slot),
    SnapshotAbandon(GroupId, Slot),
    Installed(GroupId, Frontier),
    Executed(Execution),
}

/// What a node has executed at a position.
#[derive(Clone, Debug)]
pub(crate) struct Execution {
    pub(crate) group: GroupId,
    pub(crate) position: Position,
    pub(crate) decision: Decision,
    /// Where no log orders what is executed.
    pub(crate) access: Option<Box<Access>>,
}

/// The outbox of a core, in order.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) list: Vec<Deed>,
    /// The incarnation of each peer, as the core knows it.
    pub(crate) peers: [Incarnation; REPLICAS_MAX],
    /// Peers to which no connection is open.
    pub(crate) unreached: ReplicaSet,
    /// Groups without a log.
    pub(crate) graphs: Vec<GroupId>,
}

impl Outbox for Deeds {
    fn send(
        &mut self,
        to: ReplicaId,
        group: GroupId,
        kind: MessageKind,
        message: &[u8],
        body: Option<&Frame>,
    ) {
        let receiver = self.peers[to.index()];
        let sent = Sent { to, receiver, group, kind, message: message.to_vec(), body: body.cloned() };
        self.list.push(Deed::Send(sent));
    }

    fn reaches(&self, peer: ReplicaId) -> bool {
        !self.unreached.contains(peer)
    }

    fn reply(&mut self, to: ReplyTo, reply: Reply<'_>, _: Option<&Commit>) {
        if to != ReplyTo::NOBODY {
            self.list.push(Deed::Reply(to, outcome_of(reply)));
        }
    }

    fn load(&mut self, group: GroupId, position: Position, location: Location) {
        self.list.push(Deed::Load(group, position, location));
    }

    fn snapshot_write(&mut self, group: GroupId, slot: Slot, offset: u64, bytes: &[u8], last: bool) {
        self.list.push(Deed::SnapshotWrite { group, slot, offset, bytes: bytes.to_vec(), last });
    }

    fn snapshot_read(
        &mut self,
        group: GroupId,
        peer: ReplicaId,
        file: SnapshotFile,
        offset: u64,
        length: usize,
    ) {
        self.list.push(Deed::SnapshotRead { group, peer, file, offset, length });
    }

    fn snapshot_remove(&mut self, group: GroupId, slot: Slot) {
        self.list.push(Deed::SnapshotRemove(group, slot));
    }

    fn snapshot_abandon(&mut self, group: GroupId, slot: Slot) {
        self.list.push(Deed::SnapshotAbandon(group, slot));
    }

    fn installed(&mut self, group: GroupId, covered: &Frontier) {
        if self.graphs.contains(&group) {
            self.list.push(Deed::Installed(group, covered.clone()));
        }
    }

    fn executed(&mut self, group: GroupId, position: Position, value: &Value) {
        let graph = self.graphs.contains(&group);
        let access = graph.then(|| Box::new(value.body().map(Access::of).unwrap_or_default()));
        let decision = Decision::from(value);
        self.list.push(Deed::Executed(Execution { group, position, decision, access }));
    }
}
