//! What the simulator must understand of the protocols to judge them from outside: claims in messages, facts in records.
//!
//! One file per protocol. The invariants know positions, rounds and values, and no protocol.

mod basic;
mod epaxos;
mod fast;
mod multi;

use panch_consensus::ballot::Ballot;
use panch_consensus::basic::message as basic_message;
use panch_consensus::epaxos::message as epaxos_message;
use panch_consensus::fast::message as fast_message;
use panch_consensus::multi::message as multi_message;
use panch_consensus::protocol::ProtocolKind;
use panch_wire::ids::{Position, REPLICAS_MAX, Slot};
use panch_wire::record::Fixed;

use crate::invariant::Held;

/// What an acceptor votes in: a ballot, and in Fast Paxos first its fast round, then its classic one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Round {
    /// The ballot; in Fast Paxos the term.
    pub ballot: Ballot,
    /// Whether a classic quorum chooses in it.
    pub classic: bool,
}

impl Round {
    /// A round in which a classic quorum chooses.
    pub fn classic(ballot: Ballot) -> Self {
        Self { ballot, classic: true }
    }
}

/// What a promise is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// All positions of the group.
    Group,
    /// One.
    One(Position),
}

/// What EPaxos decides beside the value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Attributes {
    /// Per row, everything that interferes up to this number comes first.
    pub deps: [u64; REPLICAS_MAX],
    /// Orders what depends on each other.
    pub stamp: u64,
}

/// Where the value of a vote is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Beside the record; a no-op if nothing is there.
    Beside,
    /// The record names it.
    Named(Held),
}

/// A vote in a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Voting {
    /// Where.
    pub position: Position,
    /// In which round.
    pub round: Round,
    /// For what.
    pub content: Content,
    /// Names the attributes voted for; 0 where there are none.
    pub attributes: u64,
}

/// What a record writes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fact {
    /// What is promised for all positions with the record at the latest.
    pub promised: Option<Ballot>,
    /// What is promised for one.
    pub joined: Option<(Position, Ballot)>,
    /// A vote.
    pub votes: Option<Voting>,
}

/// What a message says its sender remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// The ballot is promised.
    Promised(Scope, Ballot),
    /// Everything up to the slot is accepted in the round, or chosen.
    AcceptedUpTo(Round, Slot),
    /// The position was voted in in the round; for this value, if the message says it.
    Voted(Position, Round, Option<Held>),
}

/// What a message says to be decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commitment {
    /// Where.
    pub position: Position,
    /// Whether it is a no-op.
    pub noop: bool,
    /// The attributes.
    pub attributes: Attributes,
}

macro_rules! protocols {
    ($($kind:ident $module:ident $messages:ident,)*) => {
        /// A message of any protocol.
        #[derive(Clone, Copy, Debug)]
        pub enum Said { $(
            #[doc = concat!("Of ", stringify!($kind), ".")]
            $kind($messages::Message),
        )* }

        impl Said {
            /// Reads a message of that protocol.
            pub fn decode(kind: ProtocolKind, bytes: &[u8]) -> Option<Self> {
                match kind {
                    $(ProtocolKind::$kind => $messages::Message::decode_fixed(bytes).map(Self::$kind),)*
                }
            }

            /// Hands every claim of the message over.
            pub fn claims(&self, mut take: impl FnMut(Claim)) {
                match self { $(Self::$kind(message) => $module::claims(message, &mut take),)* }
            }

            /// What the message says to be decided.
            pub fn commitment(&self) -> Option<Commitment> {
                match self { $(Self::$kind(message) => $module::commitment(message),)* }
            }

            $(
                #[doc = concat!("The message, if it is of ", stringify!($kind), ".")]
                pub fn $module(&self) -> Option<&$messages::Message> {
                    match self {
                        Self::$kind(message) => Some(message),
                        _ => None,
                    }
                }
            )*
        }

        /// What a record of that protocol says; `None` if it is none.
        pub fn fact(kind: ProtocolKind, bytes: &[u8]) -> Option<Fact> {
            match kind {
                $(ProtocolKind::$kind => $messages::Record::decode_fixed(bytes).map(|record| $module::fact(&record)),)*
            }
        }

        /// What a record of that protocol says to be decided.
        pub fn recorded_commitment(kind: ProtocolKind, bytes: &[u8]) -> Option<Commitment> {
            match kind {
                $(ProtocolKind::$kind => {
                    $messages::Record::decode_fixed(bytes).and_then(|record| $module::recorded_commitment(&record))
                })*
            }
        }
    };
}

protocols! {
    Basic basic basic_message,
    Multi multi multi_message,
    Fast fast fast_message,
    Epaxos epaxos epaxos_message,
}
