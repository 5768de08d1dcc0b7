//! Takes packets apart, from received chunks of any size.
//!
//! ```text
//!            40 bytes            head complete, sums right
//!  Header ------------> Head --------------------------> Messages --last one--> Header
//!                                              with a body |   ^ complete and valid; or passed over
//!                                                          v   |
//!                                                       Body / Skip
//! ```

use super::{
    BODY_SIZE_MIN, HEAD_SIZE_MAX, Incarnations, MAGIC, MESSAGE_COUNT_MAX, MESSAGE_HEADER_SIZE, MessageHeader,
    PACKET_HEADER_SIZE, PACKET_SIZE_MAX, PeerFault,
};
use crate::batch::BatchView;
use crate::checksum::checksum;
use crate::fields::{u16_at, u32_at, u64_at};
use crate::frame::{FRAME_SIZE_MAX, Frame, FrameMut, FramePool, PAGE_SIZE, pages_for};
use crate::ids::{GroupId, Incarnation};
use crate::record::FIXED_SIZE_MAX;

/// One message of a packet.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The group it is for.
    pub group: GroupId,
    /// What it is.
    pub kind: u8,
    /// The message itself, for [`Fixed::decode_fixed`](crate::record::Fixed::decode_fixed).
    pub message: &'a [u8],
    /// Its body: received, checksummed and validated.
    pub body: Option<Frame>,
    /// Of the packet.
    pub incarnations: Incarnations,
}

/// What [`PacketReader::next`] came to.
#[derive(Debug)]
pub enum Next<'a> {
    /// A message. There may be more in the same bytes.
    Message(Incoming<'a>),
    /// The input is used up.
    NeedBytes,
    /// No frame memory for the next body. The rest of the input must be offered again once frames were given back, or
    /// after [`PacketReader::skip_body`].
    PoolExhausted,
}

enum State {
    /// Collecting the header or the head.
    Head,
    /// The head is complete; the next message starts at `at` of it.
    Messages { at: usize },
    /// Filling the body of the message at `at` of the head.
    Body { at: usize, memory: FrameMut, filled: usize },
    /// Passing over the `left` bytes of a body that nobody wants; the next message starts at `next` of the head.
    Skip { next: usize, left: usize },
    /// The stream is lost.
    Broken(PeerFault),
}

/// Reads the packets of one stream.
pub struct PacketReader {
    head: Vec<u8>,
    state: State,
    log_end: u64,
}

impl Default for PacketReader {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketReader {
    /// A reader at the start of a stream, behind the hellos.
    pub fn new() -> Self {
        Self { head: Vec::new(), state: State::Head, log_end: 0 }
    }

    /// Whether the stream could end here without cutting a packet.
    pub fn is_between_packets(&self) -> bool {
        match self.state {
            State::Head => self.head.is_empty(),
            State::Messages { at } => at == self.head.len(),
            _ => false,
        }
    }

    /// The last commit group of the sender's log that was on stable storage when the last packet left; 0 before the first.
    pub fn log_end(&self) -> u64 {
        self.log_end
    }

    /// Bytes of memory that the reader itself holds.
    pub fn capacity(&self) -> usize {
        self.head.capacity()
    }

    /// The next message. Takes what it needs from the front of `input`; call it until it returns something other than a
    /// message. Bodies are taken from `pool`.
    ///
    /// # Errors
    /// Close the stream: its place is lost, and every further call returns the same fault.
    pub fn next<'r>(&'r mut self, input: &mut &[u8], pool: &FramePool) -> Result<Next<'r>, PeerFault> {
        match self.advance(input, pool) {
            Ok(Step::Message { at, body }) => {
                let header = MessageHeader::at(&self.head, at);
                let start = at + MESSAGE_HEADER_SIZE;
                Ok(Next::Message(Incoming {
                    group: header.group,
                    kind: header.kind,
                    message: &self.head[start..start + usize::from(header.length)],
                    body,
                    incarnations: incarnations(&self.head),
                }))
            }
            Ok(Step::NeedBytes) => Ok(Next::NeedBytes),
            Ok(Step::PoolExhausted) => Ok(Next::PoolExhausted),
            Err(fault) => {
                self.state = State::Broken(fault);
                Err(fault)
            }
        }
    }

    /// Gives up the message that [`Next::PoolExhausted`] was returned for: its body is passed over as it arrives, without
    /// frame memory, and the messages behind it are read as usual. Does nothing if no body is waited for.
    pub fn skip_body(&mut self) {
        let State::Messages { at } = self.state else { return };
        if at == self.head.len() {
            return;
        }
        let header = MessageHeader::at(&self.head, at);
        if header.body_length > 0 {
            self.state = State::Skip { next: header.end(at), left: header.body_length as usize };
        }
    }

    fn advance(&mut self, input: &mut &[u8], pool: &FramePool) -> Result<Step, PeerFault> {
        loop {
            match &mut self.state {
                State::Broken(fault) => return Err(*fault),
                State::Head => {
                    if !self.collect_head(input)? {
                        return Ok(Step::NeedBytes);
                    }
                    self.state = State::Messages { at: PACKET_HEADER_SIZE };
                }
                State::Messages { at } if *at == self.head.len() => {
                    self.head.clear();
                    self.state = State::Head;
                }
                State::Messages { at } => {
                    let at = *at;
                    let header = MessageHeader::at(&self.head, at);
                    if header.body_length == 0 {
                        self.state = State::Messages { at: header.end(at) };
                        return Ok(Step::Message { at, body: None });
                    }
                    let size = header.body_length as usize;
                    if pages_for(size).next_power_of_two() * PAGE_SIZE > pool.size_max() {
                        return Err(PeerFault::Incompatible("a body is larger than the frame pool"));
                    }
                    // Memory only for a body of which something arrived: a silent peer must not hold frames.
                    if input.is_empty() {
                        return Ok(Step::NeedBytes);
                    }
                    let Some(memory) = pool.take(size) else { return Ok(Step::PoolExhausted) };
                    self.state = State::Body { at, memory, filled: 0 };
                }
                State::Skip { next, left } => {
                    *left -= take(input, *left).len();
                    if *left > 0 {
                        return Ok(Step::NeedBytes);
                    }
                    self.state = State::Messages { at: *next };
                }
                State::Body { at, memory, filled } => {
                    let at = *at;
                    let header = MessageHeader::at(&self.head, at);
                    let size = header.body_length as usize;
                    let chunk = take(input, size - *filled);
                    memory[*filled..*filled + chunk.len()].copy_from_slice(chunk);
                    *filled += chunk.len();
                    if *filled < size {
                        return Ok(Step::NeedBytes);
                    }
                    let next = State::Messages { at: header.end(at) };
                    let State::Body { memory, .. } = std::mem::replace(&mut self.state, next) else {
                        unreachable!("the state was just matched")
                    };
                    let frame = memory.receive(size)?;
                    BatchView::validate(&frame)?;
                    return Ok(Step::Message { at, body: Some(frame) });
                }
            }
        }
    }

    /// Whether the head is complete; if it is, it is valid.
    fn collect_head(&mut self, input: &mut &[u8]) -> Result<bool, PeerFault> {
        if self.head.len() < PACKET_HEADER_SIZE {
            let missing = PACKET_HEADER_SIZE - self.head.len();
            self.head.extend_from_slice(take(input, missing));
            if self.head.len() >= 12 && self.head[8..12] != MAGIC {
                return Err(PeerFault::Corrupt("a packet does not start with its magic number"));
            }
            if self.head.len() < PACKET_HEADER_SIZE {
                return Ok(false);
            }
        }
        // Not yet covered by a verified checksum: only good for deciding how much to collect.
        let length = u32_at(&self.head, 12) as usize;
        if !(PACKET_HEADER_SIZE..=HEAD_SIZE_MAX).contains(&length) {
            return Err(PeerFault::Corrupt("length of a packet's head"));
        }
        self.head.extend_from_slice(take(input, length - self.head.len()));
        if self.head.len() < length {
            return Ok(false);
        }
        if checksum(&self.head[8..]) != u64_at(&self.head, 0) {
            return Err(PeerFault::Corrupt("checksum of a packet's head"));
        }
        check_messages(&self.head)?;
        self.log_end = u64_at(&self.head, 32);
        Ok(true)
    }
}

enum Step {
    Message { at: usize, body: Option<Frame> },
    NeedBytes,
    PoolExhausted,
}

/// Takes up to `size` bytes from the front of `input`.
fn take<'a>(input: &mut &'a [u8], size: usize) -> &'a [u8] {
    let (chunk, rest) = input.split_at(size.min(input.len()));
    *input = rest;
    chunk
}

fn incarnations(head: &[u8]) -> Incarnations {
    Incarnations { sender: Incarnation(u32_at(head, 24)), receiver: Incarnation(u32_at(head, 28)) }
}

/// Whether the messages fill the head exactly, are as many as announced, and their bodies fill the packet exactly.
fn check_messages(head: &[u8]) -> Result<(), PeerFault> {
    let total = u32_at(head, 16) as usize;
    let message_count = u32_at(head, 20) as usize;
    if message_count > MESSAGE_COUNT_MAX || total > PACKET_SIZE_MAX {
        return Err(PeerFault::Misbehaved("a packet is too large"));
    }
    let (mut at, mut body_size) = (PACKET_HEADER_SIZE, 0);
    for _ in 0..message_count {
        if head.len() < at + MESSAGE_HEADER_SIZE {
            return Err(PeerFault::Misbehaved("a packet has fewer messages than announced"));
        }
        let header = MessageHeader::at(head, at);
        let body_length = header.body_length as usize;
        if usize::from(header.length) > FIXED_SIZE_MAX {
            return Err(PeerFault::Misbehaved("a message is too long"));
        }
        if body_length != 0 && !(BODY_SIZE_MIN..=FRAME_SIZE_MAX).contains(&body_length) {
            return Err(PeerFault::Misbehaved("length of a body"));
        }
        at = header.end(at);
        body_size += body_length;
    }
    if at != head.len() {
        return Err(PeerFault::Misbehaved("the messages do not fill the head of their packet"));
    }
    if at + body_size != total {
        return Err(PeerFault::Misbehaved("the bodies do not fill their packet"));
    }
    Ok(())
}

impl MessageHeader {
    /// The header at `at`, where the head has at least [`MESSAGE_HEADER_SIZE`] bytes.
    fn at(head: &[u8], at: usize) -> Self {
        Self {
            group: GroupId(u16_at(head, at)),
            kind: head[at + 2],
            length: head[at + 3],
            body_length: u32_at(head, at + 4),
        }
    }

    /// Where the next message starts.
    fn end(self, at: usize) -> usize {
        at + MESSAGE_HEADER_SIZE + usize::from(self.length)
    }
}
