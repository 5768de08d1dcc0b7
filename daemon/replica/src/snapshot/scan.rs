//! Reading a slab as it was at one moment, while it goes on changing.
//!
//! Places are visited in order. Before a place that was not yet visited changes for the first time, its owner writes the
//! old content to `saved`; such a place is settled and the visit skips it. Places given out after the start lie beyond
//! `limit`, or were free at the start and are settled when they are filled.

/// Progress of one scan.
pub(crate) struct Scan {
    cursor: u32,
    limit: u32,
    settled: Vec<u64>,
    saved: Vec<u8>,
}

impl Scan {
    /// A scan over the places below `limit`.
    pub(crate) fn new(limit: u32) -> Self {
        Self { cursor: 0, limit, settled: vec![0; (limit as usize).div_ceil(64)], saved: Vec::new() }
    }

    /// To be called before the place `index` changes: where to write its present content, if it must be kept.
    pub(crate) fn on_change(&mut self, index: u32) -> Option<&mut Vec<u8>> {
        if index < self.cursor || index >= self.limit || self.is_settled(index) {
            return None;
        }
        self.settled[index as usize / 64] |= 1 << (index % 64);
        Some(&mut self.saved)
    }

    fn is_settled(&self, index: u32) -> bool {
        self.settled[index as usize / 64] & 1 << (index % 64) != 0
    }

    /// Visits the next place: its number, or `None` if it is settled.
    pub(crate) fn advance(&mut self) -> Option<u32> {
        let index = self.cursor;
        assert!(index < self.limit, "the scan is done");
        self.cursor += 1;
        (!self.is_settled(index)).then_some(index)
    }

    /// Moves what was saved to the end of `out`.
    pub(crate) fn drain_saved(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.saved);
    }

    /// Whether every place was visited and everything saved was taken.
    pub(crate) fn is_done(&self) -> bool {
        self.cursor == self.limit && self.saved.is_empty()
    }
}
