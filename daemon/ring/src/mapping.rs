//! Anonymous page-aligned memory that the kernel and this process share.

use std::io;
use std::ptr::NonNull;

/// A private anonymous mapping: page-aligned, zero at first, unmapped on drop.
///
/// It hands out raw pointers only; who may touch which byte at what time is the user's business.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

impl Mapping {
    /// Maps `size` bytes, which must not be zero.
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        assert!(size > 0);
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: NonNull::new(start.cast()).expect("mmap never returns null on success"), size })
    }

    /// The byte at `offset`.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.size);
        // SAFETY: the offset is inside the mapping, which is one allocation.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and size are those of the mapping, which nobody uses after its owner is gone.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}
