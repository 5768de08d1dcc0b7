//! What the messages of all protocols have in common.
//!
//! Invariants:
//! * Every message is marked [`Hint`] or [`Claim`], a claim with the rule that holds it back until it is durable.
//! * Numbers from outside are small enough to be counted on from without overflow, wherever they pass the checks here.
//!
//! [`Hint`]: crate::protocol::Hint
//! [`Claim`]: crate::protocol::Claim

use panch_wire::ids::{REPLICAS_MAX, Slot};

use crate::ballot::Ballot;

/// Rounds and slots from outside are below this, so that counting on from them never overflows.
const NUMBER_MAX: u64 = 1 << 62;

/// Whether the round cannot overflow and the owner can be a replica.
pub(crate) fn is_plausible_ballot(ballot: Ballot) -> bool {
    ballot.round < NUMBER_MAX && usize::from(ballot.owner) < REPLICAS_MAX
}

/// Whether the slot cannot overflow.
pub(crate) fn is_plausible_slot(slot: Slot) -> bool {
    slot.0 < NUMBER_MAX
}

/// `messages! { Protocol: Name: Hint, Other: Claim(Rule), }` makes the enum `Message` of these structs, the conversions
/// into it, and the marks. Never reorder: the position is the wire format.
macro_rules! messages {
    ($protocol:ident: $($name:ident: $mark:ident $(($rule:ident))?,)*) => {
        /// What one replica may say to another.
        #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Message { $(#[doc = concat!("See [`", stringify!($name), "`].")] $name($name),)* }

        $(
            impl From<$name> for Message {
                fn from(message: $name) -> Self { Message::$name(message) }
            }
            $crate::messages::messages! { @$mark $protocol $name $($rule)? }
        )*
    };
    (@Hint $protocol:ident $name:ident) => {
        impl $crate::protocol::Hint<$protocol> for $name {}
    };
    (@Claim $protocol:ident $name:ident $rule:ident) => {
        impl $crate::protocol::Claim<$protocol> for $name {
            const RULE: panch_wire::rule::Rule = panch_wire::rule::Rule::$rule;
        }
    };
}

pub(crate) use messages;
