//! Receive buffers that the kernel picks from, and the pool that send buffers return to.
//!
//! Invariants:
//! * A receive buffer belongs to exactly one of: the kernel (its number is in the ring that the kernel reads), a
//!   [`ReceivedBytes`], or, where the kernel has no buffer rings, the free list.
//! * The memory outlives the ring as long as one [`ReceivedBytes`] does.
//! * Nothing here allocates after warm-up.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::mapping::Mapping;

/// The only buffer group of a ring.
pub(crate) const GROUP: u16 = 0;

/// The receive buffers of one ring.
#[derive(Clone)]
pub(crate) struct ReceiveBuffers(Rc<Shared>);

struct Shared {
    memory: Mapping,
    /// Entries that tell the kernel which buffers it may fill.
    entries: Mapping,
    count: u16,
    /// Bytes per buffer.
    size: u32,
    /// Whether the kernel picks the buffers; else they wait in `free`.
    registered: Cell<bool>,
    /// Entries ever published, modulo 2^16.
    tail: Cell<u16>,
    /// Buffers that neither this process nor, as far as it knows, a completion holds.
    available: Cell<usize>,
    free: RefCell<Vec<u16>>,
}

impl ReceiveBuffers {
    /// Allocates `count` buffers of `size` bytes, none of them offered to a kernel yet.
    ///
    /// `count` is a power of two, at most 32768.
    pub(crate) fn new(count: u16, size: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the number of receive buffers is a power of two");
        assert!(size > 0);
        Ok(Self(Rc::new(Shared {
            memory: Mapping::new(usize::from(count) * size as usize)?,
            entries: Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?,
            count,
            size,
            registered: Cell::new(false),
            tail: Cell::new(0),
            available: Cell::new(usize::from(count)),
            free: RefCell::new((0..count).collect()),
        })))
    }

    /// Lets the kernel pick buffers by itself.
    pub(crate) fn register(&self, ring: &IoUring) -> io::Result<()> {
        let shared = &self.0;
        assert!(!shared.registered.get() && shared.free.borrow().len() == usize::from(shared.count));
        // SAFETY: the entries are page-aligned, hold `count` entries, and live until no operation can use the ring
        // any more: `Ring::drop` waits for the operations, or leaks the buffers.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                shared.entries.at(0) as u64,
                shared.count,
                GROUP,
                0,
            )?;
        }
        shared.registered.set(true);
        for id in std::mem::take(&mut *shared.free.borrow_mut()) {
            shared.publish(id);
        }
        Ok(())
    }

    /// Takes the buffers back from the kernel, which has used none of them yet.
    pub(crate) fn unregister(&self, ring: &IoUring) -> io::Result<()> {
        let shared = &self.0;
        assert!(shared.registered.get() && shared.available.get() == usize::from(shared.count));
        ring.submitter().unregister_buf_ring(GROUP)?;
        shared.registered.set(false);
        shared.free.borrow_mut().extend(0..shared.count);
        Ok(())
    }

    /// Whether the kernel picks the buffers.
    pub(crate) fn registered(&self) -> bool {
        self.0.registered.get()
    }

    /// Buffers that a receive could use at this moment.
    pub(crate) fn available(&self) -> usize {
        self.0.available.get()
    }

    /// Wraps buffer `id`, which a completion has just handed over with `length` bytes in it.
    pub(crate) fn filled(&self, id: u16, length: u32) -> ReceivedBytes {
        assert!(id < self.0.count && length <= self.0.size, "the kernel returns what it was offered");
        self.0.available.set(self.0.available.get() - 1);
        ReceivedBytes { shared: Rc::clone(&self.0), id, length }
    }

    /// Fills a free buffer with `read`, where the kernel does not pick; `None` if there is no free buffer.
    pub(crate) fn fill(
        &self,
        read: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
    ) -> Option<io::Result<ReceivedBytes>> {
        let shared = &self.0;
        let id = shared.free.borrow_mut().pop()?;
        let mut bytes = self.filled(id, 0);
        // SAFETY: the buffer was on the free list and is now owned by `bytes` alone, which exposes none of it yet.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(shared.address(id).cast(), shared.size as usize) };
        Some(read(memory).map(|length| {
            assert!(length <= shared.size as usize);
            bytes.length = length as u32;
            bytes
        }))
    }
}

impl Shared {
    fn address(&self, id: u16) -> *mut u8 {
        self.memory.at(usize::from(id) * self.size as usize)
    }

    /// Offers buffer `id` to the kernel.
    fn publish(&self, id: u16) {
        let tail = self.tail.get();
        let entry: *mut BufRingEntry = self.entries.at(0).cast();
        // SAFETY: the index is masked into the `count` entries. The kernel reads an entry only between head and tail,
        // and this one is beyond the tail: at most `count` buffers exist and this one is not in the ring.
        let entry = unsafe { &mut *entry.add(usize::from(tail & (self.count - 1))) };
        entry.set_addr(self.address(id) as u64);
        entry.set_len(self.size);
        entry.set_bid(id);
        let tail = tail.wrapping_add(1);
        self.tail.set(tail);
        // SAFETY: the tail lies in the reserved field of the first entry, aligned and mapped; only this thread writes it.
        unsafe {
            let field = BufRingEntry::tail(self.entries.at(0).cast_const().cast());
            AtomicU16::from_ptr(field.cast_mut()).store(tail, Ordering::Release);
        }
    }
}

/// Bytes received, still in the ring's own buffer. Dropping it returns the buffer.
pub struct ReceivedBytes {
    shared: Rc<Shared>,
    id: u16,
    length: u32,
}

impl Deref for ReceivedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer is owned by this value until drop; its first `length` bytes were written by the kernel.
        unsafe { std::slice::from_raw_parts(self.shared.address(self.id), self.length as usize) }
    }
}

impl Drop for ReceivedBytes {
    fn drop(&mut self) {
        self.shared.available.set(self.shared.available.get() + 1);
        if self.shared.registered.get() {
            self.shared.publish(self.id);
        } else {
            self.shared.free.borrow_mut().push(self.id);
        }
    }
}

impl fmt::Debug for ReceivedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceivedBytes({} bytes)", self.length)
    }
}

/// Byte buffers in waiting: taken empty, filled, sent, and back here by themselves once the kernel is done with them.
#[derive(Clone)]
pub struct SendBuffers(Rc<SendShared>);

struct SendShared {
    idle: RefCell<Vec<Vec<u8>>>,
    idle_max: usize,
    capacity_max: usize,
}

impl SendBuffers {
    /// A pool that keeps at most `idle_max` buffers, none of them with a capacity above `capacity_max` bytes.
    pub fn new(idle_max: usize, capacity_max: usize) -> Self {
        Self(Rc::new(SendShared { idle: RefCell::new(Vec::with_capacity(idle_max)), idle_max, capacity_max }))
    }

    /// An empty buffer, usually with the capacity of an earlier use.
    pub fn take(&self) -> Vec<u8> {
        self.0.idle.borrow_mut().pop().unwrap_or_default()
    }

    /// Returns a buffer; its content is forgotten.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut idle = self.0.idle.borrow_mut();
        if idle.len() < self.0.idle_max && (1..=self.0.capacity_max).contains(&buffer.capacity()) {
            buffer.clear();
            idle.push(buffer);
        }
    }

    /// Buffers in waiting at this moment.
    pub fn idle_count(&self) -> usize {
        self.0.idle.borrow().len()
    }
}
