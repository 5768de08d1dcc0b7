//! Batches: the commands decided together, as one rkyv archive inside a [`Frame`].
//!
//! Keys and values are written to their final place as they arrive: that is the only user-space copy on the proposer.
//! The table of commands and the archive's root follow when the batch is sealed.

use rkyv::munge::munge;
use rkyv::rancor::{Failure, Fallible};
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::{Buffer, Positional};
use rkyv::ser::{Allocator, Serializer, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Place, Serialize};

use crate::command::{Command, CommandKind, SessionHeader, flags};
use crate::frame::{Frame, FrameFault, FrameMut, HEADER_SIZE};
use crate::ids::{BatchId, ReplicaId};

/// One command of an archived batch. Its bytes lie at `at`: the session header if flagged, the key, the value.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
pub struct Entry {
    at: u32,
    value_len: u32,
    key_len: u16,
    kind: u8,
    flags: u8,
}

/// The archive's root.
#[derive(Archive)]
pub struct Body {
    /// Bytes that the entries point into.
    pub bytes: Vec<u8>,
    /// In the order in which the commands were taken.
    pub entries: Vec<Entry>,
}

const _: () = assert!(size_of::<ArchivedEntry>() == 12 && size_of::<ArchivedBody>() == 16);

const ROOT_SIZE: usize = size_of::<ArchivedBody>();
const SESSION_SIZE: usize = 24;

/// The most bytes that one command adds to a batch.
pub fn size_of_command(command: &Command<'_>) -> usize {
    let session = if command.session.is_some() { SESSION_SIZE } else { 0 };
    session + command.key.len() + command.value.len() + size_of::<ArchivedEntry>()
}

/// Bytes of a batch beyond its commands.
pub const OVERHEAD: usize = HEADER_SIZE + ROOT_SIZE + 4;

/// A batch being filled.
pub struct BatchWriter {
    memory: FrameMut,
    /// Bytes written after the header.
    length: usize,
    entries: Vec<Entry>,
}

impl BatchWriter {
    /// Starts a batch in `memory`. `entries` is reused storage; its content is dropped.
    pub fn new(memory: FrameMut, mut entries: Vec<Entry>) -> Self {
        entries.clear();
        Self { memory, length: 0, entries }
    }

    /// Commands so far.
    pub fn command_count(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the sealed frame if it were sealed now.
    pub fn size(&self) -> usize {
        OVERHEAD + self.length + self.entries.len() * size_of::<ArchivedEntry>()
    }

    /// Bytes of the memory.
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Goes on in `memory`, which must be larger.
    pub fn move_to(&mut self, mut memory: FrameMut) {
        assert!(memory.len() > self.memory.len(), "a batch only grows");
        let used = HEADER_SIZE..HEADER_SIZE + self.length;
        memory[used.clone()].copy_from_slice(&self.memory[used]);
        self.memory = memory;
    }

    /// Adds `command` if it fits into the memory; false if it does not.
    pub fn push(&mut self, command: &Command<'_>) -> bool {
        if self.size() + size_of_command(command) > self.memory.len() {
            return false;
        }
        let at = self.length;
        let mut flags = command.flags & !flags::SESSION;
        if let Some(header) = command.session {
            flags |= flags::SESSION;
            self.append(&header.session.to_le_bytes());
            self.append(&header.number.to_le_bytes());
            self.append(&header.acked_below.to_le_bytes());
        }
        self.append(command.key);
        self.append(command.value);
        self.entries.push(Entry {
            at: at as u32,
            value_len: command.value.len() as u32,
            key_len: command.key.len() as u16,
            kind: command.kind as u8,
            flags,
        });
        true
    }

    fn append(&mut self, bytes: &[u8]) {
        let at = HEADER_SIZE + self.length;
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Completes the archive and the header. Returns the frame and the entry storage for reuse.
    pub fn seal(mut self, id: BatchId) -> (Frame, Vec<Entry>) {
        let (length, command_count) = (self.complete(), self.entries.len() as u32);
        (self.memory.seal(length, id, command_count), self.entries)
    }

    /// The same for a batch that a client proposes itself and wants answered by `home`. It is named after its content and
    /// `number`, which the client gives to no other batch.
    pub fn seal_for_client(mut self, home: ReplicaId, number: u64) -> (Frame, Vec<Entry>) {
        let (length, command_count) = (self.complete(), self.entries.len() as u32);
        (self.memory.seal_for_client(length, home, number, command_count), self.entries)
    }

    /// Writes what follows the bytes of the commands; the length of the frame.
    fn complete(&mut self) -> usize {
        let length = self.length;
        let body = Unsealed { bytes_len: length, entries: &self.entries };
        let archive = &mut self.memory[HEADER_SIZE..];
        let writer = Tail { start: length, buffer: Buffer::from(&mut archive[length..]) };
        let mut serializer = Serializer::new(writer, SubAllocator::empty(), ());
        rkyv::api::serialize_using::<_, Failure>(&body, &mut serializer)
            .expect("push left room for the table and the root");
        HEADER_SIZE + serializer.writer.pos()
    }
}

/// Writes behind bytes that are already in place, and counts positions from their start.
struct Tail<'a> {
    start: usize,
    buffer: Buffer<'a>,
}

impl Positional for Tail<'_> {
    fn pos(&self) -> usize {
        self.start + self.buffer.pos()
    }
}

impl Writer<Failure> for Tail<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.buffer.write(bytes)
    }
}

/// Serialises to [`ArchivedBody`] around bytes that are already in place at position 0.
struct Unsealed<'a> {
    bytes_len: usize,
    entries: &'a [Entry],
}

impl Archive for Unsealed<'_> {
    type Archived = ArchivedBody;
    type Resolver = VecResolver;
    fn resolve(&self, resolver: VecResolver, out: Place<ArchivedBody>) {
        munge!(let ArchivedBody { bytes, entries } = out);
        ArchivedVec::resolve_from_len(self.bytes_len, VecResolver::from_pos(0), bytes);
        ArchivedVec::resolve_from_len(self.entries.len(), resolver, entries);
    }
}

impl<S: Fallible + Writer + Allocator + ?Sized> Serialize<S> for Unsealed<'_> {
    fn serialize(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        ArchivedVec::<ArchivedEntry>::serialize_from_slice(self.entries, serializer)
    }
}

/// A validated look at the commands of a frame.
#[derive(Clone, Copy)]
pub struct BatchView<'a> {
    body: &'a ArchivedBody,
}

impl<'a> BatchView<'a> {
    /// Validates the archive of `frame`: every command has a known kind, parts that fit the kind, and bytes in range, which are
    /// not also others': what a batch does is in proportion to its size.
    ///
    /// # Errors
    /// [`FrameFault::Archive`] if it is not a batch. Called on every frame from a peer or a disk, before it is used.
    pub fn validate(frame: &'a Frame) -> Result<Self, FrameFault> {
        let view = Self::access(frame)?;
        if view.body.entries.len() != frame.command_count() as usize {
            return Err(FrameFault::Archive);
        }
        let mut room = view.body.bytes.len();
        for entry in view.body.entries.iter() {
            let command = view.command(entry).filter(Command::is_valid).ok_or(FrameFault::Archive)?;
            let size = size_of_command(&command) - size_of::<ArchivedEntry>();
            room = room.checked_sub(size).ok_or(FrameFault::Archive)?;
        }
        Ok(view)
    }

    /// Looks at a frame that was sealed here or validated before; the cost is a few bounds checks.
    ///
    /// # Errors
    /// [`FrameFault::Archive`] if it is not a batch after all.
    pub fn access(frame: &'a Frame) -> Result<Self, FrameFault> {
        let archive = &frame.bytes()[HEADER_SIZE..];
        rkyv::api::low::access::<ArchivedBody, Failure>(archive)
            .map(|body| Self { body })
            .map_err(|_| FrameFault::Archive)
    }

    /// How many commands.
    pub fn command_count(&self) -> usize {
        self.body.entries.len()
    }

    /// The commands in order.
    pub fn commands(self) -> impl ExactSizeIterator<Item = Command<'a>> {
        self.body.entries.iter().map(move |entry| self.command(entry).expect("the frame was validated"))
    }

    fn command(&self, entry: &'a ArchivedEntry) -> Option<Command<'a>> {
        let mut bytes = self.body.bytes.get(entry.at.to_native() as usize..)?;
        let mut session = None;
        if entry.flags & flags::SESSION != 0 {
            let (header, rest) = bytes.split_first_chunk::<SESSION_SIZE>()?;
            let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
            session = Some(SessionHeader { session: word(0), number: word(8), acked_below: word(16) });
            bytes = rest;
        }
        let (key, rest) = bytes.split_at_checked(usize::from(entry.key_len.to_native()))?;
        let value = rest.get(..entry.value_len.to_native() as usize)?;
        Some(Command {
            kind: CommandKind::from_code(entry.kind)?,
            flags: entry.flags & !flags::SESSION,
            session,
            key,
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FramePool;
    use crate::ids::Incarnation;
    use proptest::prelude::*;

    const ID: BatchId = BatchId { proposer: ReplicaId(1), incarnation: Incarnation(2), counter: 3 };

    fn set<'a>(key: &'a [u8], value: &'a [u8], session: Option<SessionHeader>) -> Command<'a> {
        Command { kind: CommandKind::Set, flags: 0, session, key, value }
    }

    proptest! {
        #[test]
        fn commands_come_back_as_they_were(parts in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..300), prop::option::of(1u64..)), 1..120)
        ) {
            let pool = FramePool::new(1 << 24);
            let mut writer = BatchWriter::new(pool.take(1 << 17).unwrap(), Vec::new());
            let commands: Vec<_> = parts.iter().map(|(key, value, session)| {
                set(key, value, session.map(|session| SessionHeader { session, number: 5, acked_below: 1 }))
            }).collect();
            for command in &commands {
                prop_assert!(writer.push(command));
            }
            let size = writer.size();
            let (frame, _) = writer.seal(ID);
            prop_assert!(frame.bytes().len() <= size);
            let view = BatchView::validate(&frame).unwrap();
            prop_assert_eq!(view.commands().collect::<Vec<_>>(), commands);
        }

        #[test]
        fn no_bytes_panic_the_validator(flips in prop::collection::vec((0usize..400, any::<u8>()), 1..8)) {
            let pool = FramePool::new(1 << 24);
            let mut writer = BatchWriter::new(pool.take(4096).unwrap(), Vec::new());
            for number in 1..9 {
                let session = Some(SessionHeader { session: 1, number, acked_below: 0 });
                writer.push(&set(b"key", b"value", session));
            }
            let (frame, _) = writer.seal(ID);
            let length = frame.bytes().len();
            let mut copy = pool.take(length).unwrap();
            copy[..length].copy_from_slice(frame.bytes());
            for (at, byte) in flips {
                if at + HEADER_SIZE < length {
                    copy[HEADER_SIZE + at] = byte;
                }
            }
            let frame = copy.seal(length, ID, 8);
            if let Ok(view) = BatchView::validate(&frame) {
                let _ = view.commands().count();
            }
        }
    }

    #[test]
    fn commands_that_share_bytes_are_no_batch() {
        let pool = FramePool::new(1 << 20);
        let mut writer = BatchWriter::new(pool.take(4096).unwrap(), Vec::new());
        assert!(writer.push(&set(b"a", b"value", None)) && writer.push(&set(b"b", b"value", None)));
        assert!(BatchView::validate(&writer.seal(ID).0).is_ok());
        let mut writer = BatchWriter::new(pool.take(4096).unwrap(), Vec::new());
        assert!(writer.push(&set(b"a", b"value", None)) && writer.push(&set(b"b", b"value", None)));
        writer.entries[0].value_len += 1;
        assert_eq!(BatchView::validate(&writer.seal(ID).0).err(), Some(FrameFault::Archive));
    }

    #[test]
    fn a_full_batch_refuses_and_still_seals() {
        let pool = FramePool::new(1 << 20);
        let mut writer = BatchWriter::new(pool.take(4096).unwrap(), Vec::new());
        let mut count = 0;
        while writer.push(&set(b"k", &[7; 50], None)) {
            count += 1;
        }
        let (frame, _) = writer.seal(ID);
        assert_eq!(frame.command_count(), count);
        assert_eq!(frame.page_count(), 1);
    }
}
