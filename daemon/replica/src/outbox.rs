//! What a core wants done in the world, carried out by its driver.

use panch_consensus::frontier::Frontier;
use panch_consensus::protocol::Value;
use panch_wal::Location;
use panch_wire::client::Commit;
use panch_wire::command::{Command, Reply};
use panch_wire::frame::Frame;
use panch_wire::ids::{GroupId, Position, ReplicaId, Slot};

use crate::transfer::SnapshotFile;

/// Whom a reply is for: the driver's own words, carried along and given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplyTo {
    /// The connection.
    pub connection: u64,
    /// The request on it.
    pub request: u64,
}

impl ReplyTo {
    /// For commands that nobody waits for.
    pub const NOBODY: ReplyTo = ReplyTo { connection: u64::MAX, request: u64::MAX };
}

/// What kind of message a packet carries, as the peer protocol numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MessageKind {
    /// Of the group's protocol.
    Protocol = 0,
    /// A [`TransferMessage`](crate::transfer::TransferMessage).
    Transfer = 1,
    /// A [`RejoinMessage`](crate::rejoin::RejoinMessage).
    Rejoin = 2,
    /// A [`DigestReport`](crate::divergence::DigestReport).
    Digest = 3,
    /// A [`Word`](crate::familiarity::Word), from node to node: of no group.
    Word = 4,
}

/// What a core wants done in the world. Calls come in order; none may call back into the core.
pub trait Outbox {
    /// Sends `message` (with `body`) to a peer. May drop it: protocols expect loss.
    fn send(
        &mut self,
        to: ReplicaId,
        group: GroupId,
        kind: MessageKind,
        message: &[u8],
        body: Option<&Frame>,
    );
    /// Whether something sent to that peer now would leave this node, as far as is known. A stream that is down is noticed late.
    fn reaches(&self, _peer: ReplicaId) -> bool {
        true
    }
    /// Answers a command. `commit` says which point of the group's history the answer belongs to, where there is one.
    fn reply(&mut self, to: ReplyTo, reply: Reply<'_>, commit: Option<&Commit>);
    /// Reads a frame back from the log; answered by [`Core::loaded`].
    fn load(&mut self, group: GroupId, position: Position, location: Location);
    /// Writes a chunk of the snapshot file of `slot`; `last` completes it: sync, rename, sync the directory. Each
    /// chunk is answered by [`Core::snapshot_written`]. After one that could not be written, those that follow fail up to
    /// the next at the beginning of the file; a complete file of that name stays as it is.
    fn snapshot_write(&mut self, group: GroupId, slot: Slot, offset: u64, bytes: &[u8], last: bool);
    /// Reads a chunk of a complete snapshot file for `peer`; answered by [`Core::snapshot_read`].
    fn snapshot_read(
        &mut self,
        group: GroupId,
        peer: ReplicaId,
        file: SnapshotFile,
        offset: u64,
        length: usize,
    );
    /// Removes a snapshot file, complete or not.
    fn snapshot_remove(&mut self, group: GroupId, slot: Slot);
    /// Removes what was written of a snapshot file that is not complete. One that is complete, under the same name, stays.
    fn snapshot_abandon(&mut self, group: GroupId, slot: Slot);
    /// A command that may write was executed and answered so, by whomever it was asked for; for observers. Called before any reply to it.
    fn wrote(&mut self, _group: GroupId, _command: &Command<'_>, _reply: &Reply<'_>) {}
    /// A value was executed; for observers.
    fn executed(&mut self, _group: GroupId, _position: Position, _value: &Value) {}
    /// The state of a group was replaced by one in which exactly these positions are executed; for observers.
    fn installed(&mut self, _group: GroupId, _covered: &Frontier) {}
}
