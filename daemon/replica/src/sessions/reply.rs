//! A reply kept for a client that may ask again: 24 bytes, and an allocation only for longer values.

use panch_wire::command::{CommandError, Reply};

use crate::kv::digest;

/// The longest value kept without an allocation.
const SMALL_SIZE: usize = 22;

/// A reply, or the place for one.
#[derive(Default)]
pub(super) enum RememberedReply {
    /// Not executed yet.
    #[default]
    Absent,
    Ok,
    Nil,
    Int(i64),
    Status(&'static str),
    Error(CommandError),
    Small {
        length: u8,
        bytes: [u8; SMALL_SIZE],
    },
    Bytes(Box<[u8]>),
    Array(Box<[u8]>),
    Replies(Box<[u8]>),
}

const _: () = assert!(size_of::<RememberedReply>() == 24);

impl RememberedReply {
    /// Copies `reply`.
    pub(super) fn of(reply: Reply<'_>) -> Self {
        match reply {
            Reply::Ok => Self::Ok,
            Reply::Nil => Self::Nil,
            Reply::Int(number) => Self::Int(number),
            Reply::Status(text) => Self::Status(text),
            Reply::Error(error) => Self::Error(error),
            Reply::Bytes(value) if value.len() <= SMALL_SIZE => {
                let mut bytes = [0; SMALL_SIZE];
                bytes[..value.len()].copy_from_slice(value);
                Self::Small { length: value.len() as u8, bytes }
            }
            Reply::Bytes(value) => Self::Bytes(value.into()),
            Reply::Array(items) => Self::Array(items.into()),
            Reply::Replies(items) => Self::Replies(items.into()),
        }
    }

    /// The reply; `None` if absent.
    pub(super) fn reply(&self) -> Option<Reply<'_>> {
        Some(match self {
            Self::Absent => return None,
            Self::Ok => Reply::Ok,
            Self::Nil => Reply::Nil,
            Self::Int(number) => Reply::Int(*number),
            Self::Status(text) => Reply::Status(text),
            Self::Error(error) => Reply::Error(*error),
            Self::Small { length, bytes } => Reply::Bytes(&bytes[..usize::from(*length)]),
            Self::Bytes(value) => Reply::Bytes(value),
            Self::Array(items) => Reply::Array(items),
            Self::Replies(items) => Reply::Replies(items),
        })
    }

    /// Bytes allocated.
    pub(super) fn heap_size(&self) -> usize {
        match self {
            Self::Bytes(bytes) | Self::Array(bytes) | Self::Replies(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

/// What a remembered reply adds to the digest of the table.
pub(super) fn digest(seed: u64, session: u64, number: u64, reply: Reply<'_>) -> u64 {
    let (kind, content) = match reply {
        Reply::Ok => (1, 0),
        Reply::Nil => (2, 0),
        Reply::Int(number) => (3, number as u64),
        Reply::Bytes(value) => (4, digest::of_bytes(seed, value)),
        Reply::Status(text) => (5, digest::of_bytes(seed, text.as_bytes())),
        Reply::Array(items) => (6, digest::of_bytes(seed, items)),
        Reply::Error(error) => (7, u64::from(error as u8)),
        Reply::Replies(items) => (8, digest::of_bytes(seed, items)),
    };
    digest::of_words(seed, [session, number, kind, content])
}
