//! Collects the messages for one peer into a packet.

use super::{
    BODY_SIZE_MIN, HEAD_SIZE_MAX, Incarnations, MAGIC, MESSAGE_COUNT_MAX, MESSAGE_HEADER_SIZE, MessageHeader,
    PACKET_HEADER_SIZE, PACKET_SIZE_MAX,
};
use crate::checksum::checksum;
use crate::frame::{FRAME_SIZE_MAX, Frame};
use crate::ids::GroupId;
use crate::record::{FIXED_SIZE_MAX, Fixed};

/// One packet being filled or sent. Its storage is reused from packet to packet.
///
/// ```text
/// start -> push, push, .. -> finish -> parts (sent, the writer untouched until the send completed) -> start
/// ```
/// A driver keeps two per peer: one fills while the other is on its way.
#[derive(Debug, Default)]
pub struct PacketWriter {
    head: Vec<u8>,
    frames: Vec<Frame>,
    message_count: usize,
    body_size: usize,
    incarnations: Incarnations,
    finished: bool,
}

impl PacketWriter {
    /// A writer with no packet in it: call [`PacketWriter::start`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops the previous packet and starts the next.
    pub fn start(&mut self, incarnations: Incarnations) {
        self.head.clear();
        self.head.resize(PACKET_HEADER_SIZE, 0);
        self.frames.clear();
        self.message_count = 0;
        self.body_size = 0;
        self.incarnations = incarnations;
        self.finished = false;
    }

    /// Adds a message; false if the packet has no room for it, and the message must go into the next.
    ///
    /// # Panics
    /// If no packet was started.
    #[must_use]
    pub fn push<M: Fixed>(&mut self, group: GroupId, kind: u8, message: &M, body: Option<&Frame>) -> bool {
        const { assert!(M::SIZE <= FIXED_SIZE_MAX) };
        if !self.has_room(M::SIZE, body) {
            return false;
        }
        self.begin(group, kind, M::SIZE, body);
        let before = self.head.len();
        message.encode_fixed(&mut self.head);
        debug_assert_eq!(self.head.len() - before, M::SIZE);
        true
    }

    /// As [`PacketWriter::push`], for a message that is already encoded.
    ///
    /// # Panics
    /// If no packet was started, or `message` is longer than [`FIXED_SIZE_MAX`].
    #[must_use]
    pub fn push_bytes(&mut self, group: GroupId, kind: u8, message: &[u8], body: Option<&Frame>) -> bool {
        assert!(message.len() <= FIXED_SIZE_MAX);
        if !self.has_room(message.len(), body) {
            return false;
        }
        self.begin(group, kind, message.len(), body);
        self.head.extend_from_slice(message);
        true
    }

    fn has_room(&self, length: usize, body: Option<&Frame>) -> bool {
        assert!(!self.head.is_empty() && !self.finished, "a packet is open");
        let head = self.head.len() + MESSAGE_HEADER_SIZE + length;
        let body = body.map_or(0, |frame| frame.bytes().len());
        self.message_count < MESSAGE_COUNT_MAX
            && head <= HEAD_SIZE_MAX
            && head + self.body_size + body <= PACKET_SIZE_MAX
    }

    fn begin(&mut self, group: GroupId, kind: u8, length: usize, body: Option<&Frame>) {
        let body_length = body.map_or(0, |frame| frame.bytes().len());
        assert!(body.is_none() || (BODY_SIZE_MIN..=FRAME_SIZE_MAX).contains(&body_length));
        MessageHeader { group, kind, length: length as u8, body_length: body_length as u32 }
            .write(&mut self.head);
        self.message_count += 1;
        self.body_size += body_length;
        self.frames.extend(body.cloned());
    }

    /// How many messages are in it.
    pub fn message_count(&self) -> usize {
        self.message_count
    }

    /// Whether there is nothing worth sending.
    pub fn is_empty(&self) -> bool {
        self.message_count == 0
    }

    /// Bytes of the packet so far, bodies included.
    pub fn size(&self) -> usize {
        self.head.len() + self.body_size
    }

    /// Writes the header: the packet is complete. Returns its size in bytes. `log_end`: the last commit group of the sender's
    /// log that is on stable storage now, so that it covers every claim in the packet.
    ///
    /// # Panics
    /// If no packet was started.
    pub fn finish(&mut self, log_end: u64) -> usize {
        assert!(!self.head.is_empty() && !self.finished, "a packet is open");
        let fields = [
            u32::from_le_bytes(MAGIC),
            self.head.len() as u32,
            self.size() as u32,
            self.message_count as u32,
            self.incarnations.sender.0,
            self.incarnations.receiver.0,
        ];
        for (index, field) in fields.into_iter().enumerate() {
            let at = 8 + 4 * index;
            self.head[at..at + 4].copy_from_slice(&field.to_le_bytes());
        }
        self.head[32..40].copy_from_slice(&log_end.to_le_bytes());
        let sum = checksum(&self.head[8..]);
        self.head[..8].copy_from_slice(&sum.to_le_bytes());
        self.finished = true;
        self.size()
    }

    /// The finished packet's bytes in the order of sending: the head, then every body.
    ///
    /// # Panics
    /// If the packet is not finished.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        assert!(self.finished, "only a finished packet is sent");
        std::iter::once(self.head.as_slice()).chain(self.frames.iter().map(Frame::bytes))
    }

    /// Gives the finished packet away, the head first, and takes `head` as storage for the next one.
    ///
    /// # Panics
    /// If the packet is not finished.
    pub fn take_parts(&mut self, head: Vec<u8>) -> (Vec<u8>, std::vec::Drain<'_, Frame>) {
        assert!(self.finished, "only a finished packet is sent");
        self.message_count = 0;
        self.body_size = 0;
        self.finished = false;
        let taken = std::mem::replace(&mut self.head, head);
        self.head.clear();
        (taken, self.frames.drain(..))
    }

    /// How many parts [`PacketWriter::parts`] gives.
    pub fn part_count(&self) -> usize {
        1 + self.frames.len()
    }

    /// Gives the bodies back once the packet is sent, so that their memory can serve again.
    pub fn release(&mut self) {
        self.frames.clear();
        self.head.clear();
        self.message_count = 0;
        self.body_size = 0;
        self.finished = false;
    }
}

impl MessageHeader {
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.group.0.to_le_bytes());
        out.extend_from_slice(&[self.kind, self.length]);
        out.extend_from_slice(&self.body_length.to_le_bytes());
    }
}
