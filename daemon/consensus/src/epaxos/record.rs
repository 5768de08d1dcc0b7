//! What a replica of an EPaxos group writes down. The batch lies beside its first record; a record that names none is of a no-op or of a batch the
//! log already has.

use panch_wire::ids::{Position, Slot};
use rkyv::{Archive, Deserialize, Serialize};

use super::Dependencies;
use super::message::INSTANCE_NUMBER_END;
use crate::ballot::Ballot;
use crate::protocol::Place;

/// A vote in ballot 0, written down with its batch.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreAcceptRecord {
    /// The instance.
    pub position: Position,
    /// The command leader's stamp.
    pub stamp: u64,
    /// What is voted for.
    pub deps: Dependencies,
    /// What the command leader had proposed.
    pub initial_deps: Dependencies,
    /// The other half of the fast pair.
    pub buddy: u8,
}

/// An acceptance. It promises the ballot too.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcceptRecord {
    /// The instance.
    pub position: Position,
    /// The ballot accepted in.
    pub ballot: Ballot,
    /// The command leader's stamp; 0 of a no-op.
    pub stamp: u64,
    /// The dependencies.
    pub deps: Dependencies,
    /// A no-op is accepted.
    pub noop: bool,
    /// The batch lies beside the record: the log had none for the instance.
    pub body: bool,
}

/// A promise: no lower ballot is obeyed in this instance.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PromiseRecord {
    /// The instance.
    pub position: Position,
    /// The ballot promised.
    pub ballot: Ballot,
}

/// What a validation made known. It promises the ballot too.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValidateRecord {
    /// The instance.
    pub position: Position,
    /// The ballot promised.
    pub ballot: Ballot,
    /// The command leader's stamp.
    pub stamp: u64,
    /// What the command leader had proposed.
    pub initial_deps: Dependencies,
    /// The batch lies beside the record: the log had none for the instance.
    pub body: bool,
}

/// A chosen value.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitRecord {
    /// The instance.
    pub position: Position,
    /// The command leader's stamp; 0 of a no-op.
    pub stamp: u64,
    /// The dependencies.
    pub deps: Dependencies,
    /// The value is a no-op.
    pub noop: bool,
    /// The batch lies beside the record: the log had none for the instance.
    pub body: bool,
}

/// What is remembered apart from instances.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReserveRecord {
    /// Numbers of the own row up to here may have been used.
    pub upto: u64,
    /// How many positions a durable snapshot covered.
    pub covered: Slot,
}

/// What a replica writes down. Never reorder: the position is the disk format.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    /// See [`PreAcceptRecord`].
    PreAccept(PreAcceptRecord),
    /// See [`AcceptRecord`].
    Accept(AcceptRecord),
    /// See [`PromiseRecord`].
    Promise(PromiseRecord),
    /// See [`ValidateRecord`].
    Validate(ValidateRecord),
    /// See [`CommitRecord`].
    Commit(CommitRecord),
    /// See [`ReserveRecord`].
    Reserve(ReserveRecord),
}

impl Record {
    /// The command leader's stamp; 0 if the record has none.
    pub fn stamp(&self) -> u64 {
        match *self {
            Record::PreAccept(record) => record.stamp,
            Record::Accept(record) => record.stamp,
            Record::Validate(record) => record.stamp,
            Record::Commit(record) => record.stamp,
            Record::Promise(_) | Record::Reserve(_) => 0,
        }
    }

    /// The instance and whether its value lies beside the record.
    pub fn place(&self) -> Option<Place> {
        let (position, has_value) = match *self {
            Record::PreAccept(record) => (record.position, true),
            Record::Accept(record) => (record.position, record.body),
            Record::Promise(record) => (record.position, false),
            Record::Validate(record) => (record.position, record.body),
            Record::Commit(record) => (record.position, record.body || record.noop),
            Record::Reserve(_) => return None,
        };
        Some(Place { position, has_value })
    }

    /// Whether a record of this group's log can be what it says.
    pub(super) fn is_plausible(&self, replica_count: usize) -> bool {
        let Some(Place { position, .. }) = self.place() else { return true };
        usize::from(position.row) < replica_count
            && position.number > 0
            && position.number < INSTANCE_NUMBER_END
    }
}
