//! Replies of one connection on their way to the ring: buffers that are filled one after the other, none of which grows by much.

use panch_ring::buffers::SendBuffers;
use panch_ring::parts::SendList;

/// Replies that are longer do not share a buffer with what is in it.
pub(crate) const SHARED_SIZE_MAX: usize = 64 << 10;
/// What a reply takes beside the values in it.
const REPLY_SIZE: usize = 64;

/// Replies that the ring does not have yet.
#[derive(Default)]
pub(crate) struct Output {
    /// What is filled, in order; none of them empty.
    full: Vec<Vec<u8>>,
    full_size: usize,
    /// What is being filled, behind those.
    last: Vec<u8>,
}

impl Output {
    /// Bytes of all replies.
    pub(crate) fn size(&self) -> usize {
        self.full_size + self.last.len()
    }

    /// Bytes of memory beyond those that shared buffers have anyway.
    pub(crate) fn spare_size(&self) -> usize {
        self.last.capacity().saturating_sub(self.last.len().max(SHARED_SIZE_MAX))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.size() == 0
    }

    /// Where a reply with values of about `size` bytes is to be written.
    pub(crate) fn tail(&mut self, size: usize) -> &mut Vec<u8> {
        if self.last.len() + size > SHARED_SIZE_MAX {
            self.seal();
            self.last.reserve_exact(size + REPLY_SIZE);
        }
        &mut self.last
    }

    /// Takes over a buffer with replies.
    pub(crate) fn append(&mut self, buffer: Vec<u8>) {
        self.seal();
        self.last = buffer;
    }

    fn seal(&mut self) {
        if !self.last.is_empty() {
            self.full_size += self.last.len();
            self.full.push(std::mem::take(&mut self.last));
        }
    }

    /// Uses a buffer of earlier replies, if there is none.
    pub(crate) fn reuse(&mut self, buffers: &SendBuffers) {
        if self.last.capacity() == 0 {
            self.last = buffers.take();
        }
    }

    /// Nothing was written: the buffer is not needed yet.
    pub(crate) fn give_back(&mut self, buffers: &SendBuffers) {
        buffers.give(std::mem::take(&mut self.last));
    }

    /// Moves everything to the end of `list`.
    pub(crate) fn drain_into(&mut self, list: &mut SendList) {
        self.seal();
        self.full_size = 0;
        self.full.drain(..).for_each(|buffer| list.push_bytes(buffer));
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.full.concat(), self.last.clone()].concat()
    }

    #[cfg(test)]
    pub(crate) fn buffer_count(&self) -> usize {
        self.full.len() + usize::from(!self.last.is_empty())
    }
}
