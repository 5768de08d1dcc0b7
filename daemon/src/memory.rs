//! The memory allocator of the programs here.

// The allocator's library is what `mi_collect` is in.
use mimalloc as _;

unsafe extern "C" {
    /// Gives memory that the calling thread has freed back to the machine; with `force` all that it can.
    // SAFETY: it may be called by any thread at any time, whichever allocator the program uses.
    safe fn mi_collect(force: bool);
}

/// Gives memory that this thread has freed back to the machine. Takes up to some milliseconds.
pub fn release() {
    mi_collect(true);
}
