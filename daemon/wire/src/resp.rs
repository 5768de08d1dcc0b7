//! The Redis protocol (RESP2 and RESP3), server side: from received bytes to [`Request`]s, from replies to bytes.
//!
//! ```text
//! bytes --Parser--> Arguments --translate--> Request --(the runtime executes it)--> encode / write_reply --> bytes
//! ```
//! Written by hand. The `redis-protocol` crate was the first candidate, but it builds a tree of frames on the heap for every
//! command, and it reads requests by the rules for replies: inline commands and Redis' own error texts are missing. Here
//! a command is a list of ranges into the receive buffer, and in steady state nothing is allocated.
//!
//! Invariants:
//! * Parsing does not depend on how the bytes were cut, and every byte is looked at a bounded number of times.
//! * A protocol error ([`RespFault`]) ends the connection, as with Redis; a refused command ([`Refusal`]) does not, nor does one that is
//!   too large ([`Oversize`]).
//! * Error texts are Redis' own wherever Redis has one: clients match on them.
//! * No foreign byte reaches a line of a reply unsanitised: a CR or LF in an echoed name becomes a space.

mod encode;
mod glob;
mod help;
mod inline;
mod parser;
mod query;
mod refusal;
mod request;
mod table;

pub use encode::{
    array, bulk, bulk_integer, error, integer, map, nil, null_array, ok, set, simple, verbatim, write_reply,
};
pub use glob::matches_glob;
pub use help::write_help;
pub use parser::{Arguments, Limits, Oversize, Parsed, Parser, RespFault};
pub use query::{CommandQuery, KeysOf, ListFilter};
pub use refusal::{NO_PASSWORD_SET, Refusal, Sizes, WRONG_PASSWORD};
pub use request::{
    ClientRequest, ClusterRequest, HelloRequest, Replies, Request, is_user, translate, translate_named,
};
pub use table::{CommandInfo, CommandName, TABLE, flag};

#[cfg(test)]
mod tests;
