//! Frames: the bytes of one batch, encoded once, and the pool they live in.
//!
//! Invariants:
//! * A frame's memory is page-aligned and zero from its length to the end of its last page, so the log writes it as it is.
//! * A [`Frame`] is immutable; the log, every peer's send and execution share it by reference count.
//! * The header names the value only ([`BatchId`], length, count, checksum): no ballot, no slot. The bytes are final
//!   when sealed, for every protocol.
//! * After warm-up, taking and dropping frames allocates nothing: dropped memory returns to a free list of its size class.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::{Rc, Weak};

use crate::checksum::checksum;
use crate::ids::{BatchId, Incarnation, ReplicaId};

/// Unit of frame memory and of the log: one page, in bytes.
pub const PAGE_SIZE: usize = 4096;
/// Bytes before a frame's archive.
pub const HEADER_SIZE: usize = 128;
/// Version of the frame and batch format, and of what the commands of a batch come to when they are executed.
pub const FORMAT_VERSION: u16 = 2;
const MAGIC: u32 = u32::from_le_bytes(*b"PFRM");
const CLASS_COUNT: usize = 16;
/// The largest frame, in bytes (a class of 2^15 pages).
pub const FRAME_SIZE_MAX: usize = PAGE_SIZE << (CLASS_COUNT - 1);

/// One page of memory with the alignment that O_DIRECT needs.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; PAGE_SIZE]);

/// Number of pages that hold `size` bytes.
pub fn pages_for(size: usize) -> usize {
    size.div_ceil(PAGE_SIZE)
}

struct Memory {
    pages: Box<[Page]>,
    /// Bytes in use.
    length: Cell<usize>,
    pool: Weak<Shared>,
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.pages)
    }
}

struct Shared {
    free: RefCell<[Vec<Rc<Memory>>; CLASS_COUNT]>,
    /// Bytes handed out or on free lists.
    size: Cell<usize>,
    /// Bytes handed out.
    used: Cell<usize>,
    size_max: usize,
}

/// A bounded supply of frame memory for one core.
#[derive(Clone)]
pub struct FramePool(Rc<Shared>);

impl FramePool {
    /// A pool that never holds more than `size_max` bytes.
    pub fn new(size_max: usize) -> Self {
        Self(Rc::new(Shared { free: RefCell::default(), size: Cell::new(0), used: Cell::new(0), size_max }))
    }

    /// Bytes handed out at this moment.
    pub fn used(&self) -> usize {
        self.0.used.get()
    }

    /// The bound given at the start.
    pub fn size_max(&self) -> usize {
        self.0.size_max
    }

    /// Memory for at least `capacity` bytes; `None` if the pool is exhausted or `capacity` exceeds [`FRAME_SIZE_MAX`].
    pub fn take(&self, capacity: usize) -> Option<FrameMut> {
        let class = class_of(capacity)?;
        let size = PAGE_SIZE << class;
        let shared = &self.0;
        let mut free = shared.free.borrow_mut();
        let memory = match free[class].pop() {
            Some(memory) => memory,
            None => {
                // Memory idle in other classes is given back before the pool is called exhausted.
                for other in (0..CLASS_COUNT).rev() {
                    while shared.size.get() + size > shared.size_max {
                        let Some(idle) = free[other].pop() else { break };
                        shared.size.set(shared.size.get() - idle.bytes().len());
                    }
                }
                if shared.size.get() + size > shared.size_max {
                    return None;
                }
                shared.size.set(shared.size.get() + size);
                Rc::new(Memory {
                    pages: bytemuck::allocation::zeroed_slice_box(1 << class),
                    length: Cell::new(0),
                    pool: Rc::downgrade(shared),
                })
            }
        };
        shared.used.set(shared.used.get() + size);
        Some(FrameMut { memory: Some(memory) })
    }
}

fn class_of(capacity: usize) -> Option<usize> {
    let class = pages_for(capacity.max(1)).next_power_of_two().trailing_zeros() as usize;
    (class < CLASS_COUNT).then_some(class)
}

fn give_back(memory: Rc<Memory>) {
    if let Some(pool) = memory.pool.upgrade() {
        let size = memory.bytes().len();
        pool.used.set(pool.used.get() - size);
        let class = class_of(size).expect("the pool hands out only known classes");
        pool.free.borrow_mut()[class].push(memory);
    }
}

/// Frame memory while it is being filled. Its content is whatever was there before.
pub struct FrameMut {
    memory: Option<Rc<Memory>>,
}

impl FrameMut {
    /// Finishes a frame whose first `length` bytes are complete, header included, as received from a peer or a disk.
    ///
    /// # Errors
    /// If the header does not describe exactly these bytes.
    pub fn receive(mut self, length: usize) -> Result<Frame, FrameFault> {
        Header::read(&self[..length])?;
        Ok(self.freeze(length))
    }

    /// Writes the header over bytes whose archive is complete, and freezes.
    pub(crate) fn seal(mut self, length: usize, id: BatchId, command_count: u32) -> Frame {
        let header = Header { id, length: length as u32, command_count, client: ClientPart::default() };
        header.write(&mut self[..length]);
        self.freeze(length)
    }

    /// The same for a batch that a client seals, named after its content.
    pub(crate) fn seal_for_client(
        mut self,
        length: usize,
        home: ReplicaId,
        number: u64,
        command_count: u32,
    ) -> Frame {
        let (counter, digest) = client_name(number, &self[HEADER_SIZE..length]);
        let id = BatchId { proposer: home, incarnation: Incarnation::CLIENT, counter };
        let client = ClientPart { digest, number };
        Header { id, length: length as u32, command_count, client }.write(&mut self[..length]);
        self.freeze(length)
    }

    fn freeze(&mut self, length: usize) -> Frame {
        let end = pages_for(length) * PAGE_SIZE;
        self[length..end].fill(0);
        let memory = self.memory.take().expect("memory is present until frozen");
        memory.length.set(length);
        Frame { memory }
    }
}

impl Deref for FrameMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.memory.as_ref().expect("memory is present until frozen").bytes()
    }
}

impl DerefMut for FrameMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        let memory = self.memory.as_mut().expect("memory is present until frozen");
        let memory = Rc::get_mut(memory).expect("memory being filled has one owner");
        bytemuck::cast_slice_mut(&mut memory.pages)
    }
}

impl Drop for FrameMut {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            give_back(memory);
        }
    }
}

/// The immutable bytes of one batch, shared by reference count.
pub struct Frame {
    memory: Rc<Memory>,
}

impl Frame {
    /// Header and archive.
    pub fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[..self.memory.length.get()]
    }

    /// [`Frame::bytes`] with the zeros up to the end of the last page.
    pub fn padded(&self) -> &[u8] {
        &self.memory.bytes()[..self.page_count() * PAGE_SIZE]
    }

    /// Pages that [`Frame::padded`] covers.
    pub fn page_count(&self) -> usize {
        pages_for(self.memory.length.get())
    }

    /// Memory this frame keeps from the pool, in bytes.
    pub fn footprint(&self) -> usize {
        self.memory.bytes().len()
    }

    /// The batch's name.
    pub fn id(&self) -> BatchId {
        Header::parse(self.bytes()).id
    }

    /// How many commands the batch has.
    pub fn command_count(&self) -> u32 {
        Header::parse(self.bytes()).command_count
    }

    /// The checksum over header and archive.
    pub fn checksum(&self) -> u64 {
        u64_at(self.bytes(), 0)
    }

    /// What tells apart different batches of one name. With the name of a client's batch it is a cryptographic hash, since a client
    /// could make two batches of any one checksum; a node is trusted, and its batches have names of their own anyway.
    pub fn digest(&self) -> u64 {
        let Header { id, client, .. } = Header::parse(self.bytes());
        if id.is_of_client() { client.digest } else { self.checksum() }
    }

    /// The number that the client gave its batch; 0 for a node's.
    pub fn client_number(&self) -> u64 {
        Header::parse(self.bytes()).client.number
    }

    /// Whether name and digest are what the content of a client's batch says. Costs a hash of all bytes.
    pub fn is_named_after_content(&self) -> bool {
        let Header { id, client, .. } = Header::parse(self.bytes());
        id.is_of_client()
            && (id.counter, client.digest) == client_name(client.number, &self.bytes()[HEADER_SIZE..])
    }
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        Self { memory: Rc::clone(&self.memory) }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if Rc::strong_count(&self.memory) == 1 {
            give_back(Rc::clone(&self.memory));
        }
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.memory, &other.memory) || self.bytes() == other.bytes()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id();
        write!(
            f,
            "Frame({}.{}.{}, {} commands)",
            id.proposer,
            id.incarnation.0,
            id.counter,
            self.command_count()
        )
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameFault {
    /// Shorter than a header, or not the length that the header says.
    #[error("frame length does not match its header")]
    Length,
    /// The magic number is missing.
    #[error("not a frame")]
    Magic,
    /// Written by an incompatible version.
    #[error("frame format version {0} is not supported")]
    Version(u16),
    /// Damaged.
    #[error("frame checksum mismatch")]
    Checksum,
    /// The archive inside is not a batch.
    #[error("frame does not hold a valid batch")]
    Archive,
}

/// The replica that the header of these bytes calls the batch's home, if they are long enough for one. They are not checked.
pub fn home_of(bytes: &[u8]) -> Option<ReplicaId> {
    (bytes.len() >= HEADER_SIZE).then(|| Header::parse(bytes).id.proposer)
}

/// The name of a client's batch within its home: 128 bits of BLAKE3 over the client's own number and the archive.
fn client_name(number: u64, archive: &[u8]) -> (u64, u64) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(archive);
    let hash = hasher.finalize();
    (u64_at(hash.as_bytes(), 0).max(1), u64_at(hash.as_bytes(), 8))
}

/// What the header of a client's batch has beside that of others; there it is 0.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct ClientPart {
    /// The second half of the name.
    digest: u64,
    /// Tells batches with the same commands apart.
    number: u64,
}

/// The first [`HEADER_SIZE`] bytes. Little-endian; the checksum covers everything after itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    id: BatchId,
    length: u32,
    command_count: u32,
    client: ClientPart,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Header {
    fn write(&self, bytes: &mut [u8]) {
        bytes[8..HEADER_SIZE].fill(0);
        bytes[8..12].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[12..14].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[14] = self.id.proposer.0;
        bytes[16..20].copy_from_slice(&self.length.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.command_count.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.id.incarnation.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.id.counter.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.client.digest.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.client.number.to_le_bytes());
        let sum = checksum(&bytes[8..]);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
    }

    fn parse(bytes: &[u8]) -> Self {
        Self {
            id: BatchId {
                proposer: ReplicaId(bytes[14]),
                incarnation: Incarnation(u32_at(bytes, 24)),
                counter: u64_at(bytes, 32),
            },
            length: u32_at(bytes, 16),
            command_count: u32_at(bytes, 20),
            client: ClientPart { digest: u64_at(bytes, 40), number: u64_at(bytes, 48) },
        }
    }

    /// Checks that `bytes` are one whole frame.
    fn read(bytes: &[u8]) -> Result<Self, FrameFault> {
        if bytes.len() < HEADER_SIZE {
            return Err(FrameFault::Length);
        }
        if u32_at(bytes, 8) != MAGIC {
            return Err(FrameFault::Magic);
        }
        let version = u16::from_le_bytes([bytes[12], bytes[13]]);
        if version != FORMAT_VERSION {
            return Err(FrameFault::Version(version));
        }
        let header = Self::parse(bytes);
        if header.length as usize != bytes.len() {
            return Err(FrameFault::Length);
        }
        if checksum(&bytes[8..]) != u64_at(bytes, 0) {
            return Err(FrameFault::Checksum);
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(counter: u64) -> BatchId {
        BatchId { proposer: ReplicaId(2), incarnation: Incarnation(7), counter }
    }

    #[test]
    fn pool_is_bounded_and_reuses_memory() {
        let pool = FramePool::new(3 * PAGE_SIZE);
        let first = pool.take(2 * PAGE_SIZE).unwrap();
        let second = pool.take(1).unwrap();
        assert!(pool.take(1).is_none());
        drop(first);
        assert_eq!(pool.used(), PAGE_SIZE);
        // The two idle pages serve another class.
        let third = pool.take(10).unwrap();
        drop((second, third));
        assert_eq!(pool.used(), 0);
        assert!(pool.take(FRAME_SIZE_MAX + 1).is_none());
    }

    #[test]
    fn memory_returns_only_when_the_last_reference_goes() {
        let pool = FramePool::new(PAGE_SIZE);
        let frame = pool.take(1).unwrap().seal(HEADER_SIZE + 3, id(1), 0);
        let other = frame.clone();
        drop(frame);
        assert!(pool.take(1).is_none());
        drop(other);
        assert!(pool.take(1).is_some());
    }

    #[test]
    fn a_clients_batch_is_named_after_its_number_and_all_its_bytes() {
        let pool = FramePool::new(1 << 20);
        let seal = |number, last: u8| {
            let mut memory = pool.take(PAGE_SIZE).unwrap();
            memory[HEADER_SIZE..HEADER_SIZE + 5].copy_from_slice(&[1, 2, 3, 4, last]);
            memory.seal_for_client(HEADER_SIZE + 5, ReplicaId(2), number, 1)
        };
        let name = |frame: &Frame| (frame.id(), frame.digest());
        let frame = seal(7, 5);
        assert!(frame.is_named_after_content() && frame.id().is_of_client());
        assert_eq!((frame.client_number(), frame.id().proposer), (7, ReplicaId(2)));
        assert_eq!(name(&frame), name(&seal(7, 5)));
        for other in [seal(8, 5), seal(7, 6)] {
            assert!(other.id() != frame.id() && other.digest() != frame.digest());
        }
        for at in [32, 40, 48, HEADER_SIZE] {
            let mut copy = pool.take(PAGE_SIZE).unwrap();
            copy[..frame.bytes().len()].copy_from_slice(frame.bytes());
            copy[at] ^= 1;
            let sum = checksum(&copy[8..frame.bytes().len()]);
            copy[..8].copy_from_slice(&sum.to_le_bytes());
            assert!(!copy.receive(frame.bytes().len()).unwrap().is_named_after_content(), "byte {at}");
        }
        assert!(!pool.take(1).unwrap().seal(HEADER_SIZE, id(1), 0).is_named_after_content());
    }

    #[test]
    fn damaged_frames_are_refused_and_stale_bytes_never_leak_into_the_padding() {
        let pool = FramePool::new(1 << 20);
        let mut dirty = pool.take(PAGE_SIZE).unwrap();
        dirty.fill(0xff);
        drop(dirty);
        let mut fresh = pool.take(PAGE_SIZE).unwrap();
        fresh[HEADER_SIZE..HEADER_SIZE + 5].copy_from_slice(b"hello");
        let frame = fresh.seal(HEADER_SIZE + 5, id(9), 1);
        assert!(frame.padded()[HEADER_SIZE + 5..].iter().all(|byte| *byte == 0));
        assert_eq!(frame.id(), id(9));
        for at in 0..frame.bytes().len() {
            let mut copy = pool.take(PAGE_SIZE).unwrap();
            copy[..frame.bytes().len()].copy_from_slice(frame.bytes());
            copy[at] ^= 1;
            assert!(copy.receive(frame.bytes().len()).is_err(), "flip at {at}");
        }
    }
}
