//! Packets between nodes: one per peer, core and turn, carrying the messages of all groups of that core.
//!
//! All numbers are little-endian. A stream starts with a [`Hello`] from the node that opened it, its proof ([`Challenge`],
//! [`Proof`]) and a [`HelloReply`]; then packets flow:
//!
//! ```text
//! packet   0 checksum u64 (of the rest of the head)  8 magic u32  12 head length u32  16 total length u32
//!          20 message count u32  24 sender incarnation u32  28 receiver incarnation u32 (0 = unknown)
//!          32 log end u64  40 messages, then the bodies in the order of their messages
//! message  0 group u16  2 kind u8  3 length u8  4 body length u32 (0 = none)  8 bytes
//! ```
//!
//! Invariants:
//! * The head (header and messages) is the only thing that is copied to be sent; bodies are frames, sent as they lie.
//! * No message is handed out before the checksum of its head is verified, and none before its body is complete and valid.
//! * A body is copied once, from the received bytes into the pool frame that log, execution and catch-up then share.
//! * A reader holds at most one head and one unfinished frame; what it allocates follows the bytes that arrived, not the
//!   lengths that were announced. Lengths are bounded by [`MESSAGE_COUNT_MAX`], [`FIXED_SIZE_MAX`] and
//!   [`FRAME_SIZE_MAX`](crate::frame::FRAME_SIZE_MAX).

use crate::frame::{FrameFault, HEADER_SIZE};
use crate::ids::{GroupId, Incarnation};
use crate::record::FIXED_SIZE_MAX;

mod handshake;
mod hello;
mod reader;
mod writer;

pub use handshake::{Challenge, Earlier, Life, LifeKey, Nonce, Proof, Seal, Sealed, Secret, seal};
pub use hello::{Hello, HelloReply, Purpose, RefusalCode};
pub use reader::{Incoming, Next, PacketReader};
pub use writer::PacketWriter;

/// Version of this protocol.
pub const VERSION: u16 = 7;
/// Bytes of a packet before its messages.
pub const PACKET_HEADER_SIZE: usize = 40;
/// Bytes of a message before its own.
pub const MESSAGE_HEADER_SIZE: usize = 8;
/// The most messages in one packet.
pub const MESSAGE_COUNT_MAX: usize = 4096;
/// The largest head, in bytes.
pub const HEAD_SIZE_MAX: usize =
    PACKET_HEADER_SIZE + MESSAGE_COUNT_MAX * (MESSAGE_HEADER_SIZE + FIXED_SIZE_MAX);
/// The largest packet, bodies included, in bytes.
pub const PACKET_SIZE_MAX: usize = 1 << 30;

const MAGIC: [u8; 4] = *b"PNPK";

const _: () = assert!(FIXED_SIZE_MAX <= u8::MAX as usize && PACKET_SIZE_MAX <= u32::MAX as usize);

/// Why a stream from a peer is closed. The variant says who is to blame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerFault {
    /// Another protocol, version or cluster: an operator's mistake, or an upgrade under way.
    #[error("incompatible peer: {0}")]
    Incompatible(&'static str),
    /// The bytes arrived as they were sent, and break the rules: a bug in the peer.
    #[error("peer misbehaved: {0}")]
    Misbehaved(&'static str),
    /// The bytes changed on the way, or the stream lost its place.
    #[error("corrupt stream from peer: {0}")]
    Corrupt(&'static str),
}

impl From<FrameFault> for PeerFault {
    fn from(fault: FrameFault) -> Self {
        match fault {
            FrameFault::Version(_) => Self::Incompatible("frame format version"),
            FrameFault::Archive => Self::Misbehaved("a body is not a batch"),
            FrameFault::Length => Self::Corrupt("a body is not as long as its frame says"),
            FrameFault::Magic => Self::Corrupt("a body is not a frame"),
            FrameFault::Checksum => Self::Corrupt("checksum of a body"),
        }
    }
}

/// Who sent a packet, and for whom it was meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Incarnations {
    /// Of the sender.
    pub sender: Incarnation,
    /// Of the receiver as the sender knows it; 0 if it does not.
    pub receiver: Incarnation,
}

/// The smallest body: a frame is never smaller than its header.
const BODY_SIZE_MIN: usize = HEADER_SIZE;

/// The header of one message inside a head.
#[derive(Clone, Copy)]
struct MessageHeader {
    group: GroupId,
    kind: u8,
    length: u8,
    body_length: u32,
}

#[cfg(test)]
mod tests;
