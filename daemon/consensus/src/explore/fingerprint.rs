//! 128 bits that stand for a state: two states with equal fingerprints are taken to be the same.
//!
//! A replica is what its `Debug` text says, without what differs between schedules and means nothing for what was agreed: points
//! in time, random numbers, counters, how fit others seem, and what is asked for before it is overdue. Two states that differ only in a time may still behave differently later; the search
//! then follows only the one it saw first.

use std::fmt;

/// Types whose text is left out.
const SKIPPED: [&str; 5] = ["Instant", "Xoshiro256PlusPlus", "Counters", "Fitness", "Chase"];

/// Both halves of the 128-bit product, xored.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A fingerprint in the making.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fingerprint {
    lanes: [u64; 2],
    /// Brackets open in a text that is left out; `None`: nothing is left out now.
    skipping: Option<u32>,
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self { lanes: [0x9e37_79b9_7f4a_7c15, 0xe703_7ed1_a0b4_28db], skipping: None }
    }
}

impl Fingerprint {
    pub(super) fn add(&mut self, word: u64) {
        self.lanes[0] = fold(self.lanes[0] ^ word, 0xa076_1d64_78bd_642f).wrapping_add(word);
        self.lanes[1] = fold(self.lanes[1] ^ word.rotate_left(32), 0x8ebc_6af0_9c88_c6e3).wrapping_add(word);
    }

    pub(super) fn add_wide(&mut self, word: u128) {
        self.add(word as u64);
        self.add((word >> 64) as u64);
    }

    /// Adds what the `Debug` text of `value` says.
    pub(super) fn add_text(&mut self, value: &dyn fmt::Debug) {
        self.skipping = None;
        fmt::write(self, format_args!("{value:?}")).expect("a fingerprint takes any text");
    }

    pub(super) fn finish(self) -> u128 {
        u128::from(self.lanes[0]) << 64 | u128::from(self.lanes[1])
    }

    fn add_bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.add(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }
}

impl fmt::Write for Fingerprint {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(mut open) = self.skipping else {
            if SKIPPED.contains(&text) {
                self.skipping = Some(0);
            } else {
                self.add_bytes(text.as_bytes());
            }
            return Ok(());
        };
        for (index, byte) in text.bytes().enumerate() {
            match byte {
                b'(' | b'[' | b'{' => open += 1,
                b')' | b']' | b'}' => {
                    open -= 1;
                    if open == 0 {
                        self.skipping = None;
                        self.add_bytes(&text.as_bytes()[index + 1..]);
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        self.skipping = Some(open);
        Ok(())
    }
}
