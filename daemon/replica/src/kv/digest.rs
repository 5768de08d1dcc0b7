//! The hash behind state digests.
//!
//! It is part of the snapshot format and compared between replicas, so it must give the same on every machine and in
//! every version, which the hash of the index need not. It finds accidents, not malice.

const K: [u64; 4] =
    [0x9e37_79b9_7f4a_7c15, 0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3];

/// Both halves of the 128-bit product, xored.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("the caller has eight bytes"))
}

#[inline]
fn half_word(bytes: &[u8]) -> u64 {
    u64::from(u32::from_le_bytes(*bytes.first_chunk().expect("the caller has four bytes")))
}

/// Hash of `bytes`; `seed` separates the uses.
#[inline]
pub(crate) fn of_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let length = bytes.len();
    let mut state = fold(seed ^ K[0], length as u64 ^ K[1]);
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        state = fold(word(block) ^ state, word(&block[8..]) ^ K[2]);
    }
    let (a, b) = match rest.len() {
        0 => (0, 0),
        1..4 => {
            let byte = |at: usize| u64::from(rest[at]);
            (byte(0) | byte(rest.len() / 2) << 8 | byte(rest.len() - 1) << 16, 0)
        }
        4..8 => (half_word(rest), half_word(&rest[rest.len() - 4..])),
        _ => (word(rest), word(&rest[rest.len() - 8..])),
    };
    fold(fold(a ^ state, b ^ K[3]), K[0])
}

/// Hash of `words`; `seed` separates the uses.
#[inline]
pub(crate) fn of_words<const N: usize>(seed: u64, words: [u64; N]) -> u64 {
    let mut state = fold(seed ^ K[1], N as u64 ^ K[2]);
    for word in words {
        state = fold(word ^ state, K[3]);
    }
    fold(state, K[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_never_change() {
        let bytes: Vec<u8> = (0..64).collect();
        let folded = (0..=64).fold(0u64, |sum, length| sum.rotate_left(1) ^ of_bytes(7, &bytes[..length]));
        assert_eq!((folded, of_words(7, [1, 2, 3])), (GOLDEN_BYTES, GOLDEN_WORDS));
    }

    const GOLDEN_BYTES: u64 = 7600468652547172708;
    const GOLDEN_WORDS: u64 = 13180522622311306040;

    #[test]
    fn every_bit_of_the_input_counts() {
        for length in 0..50 {
            let bytes = vec![0x5au8; length];
            let whole = of_bytes(1, &bytes);
            assert_ne!(whole, of_bytes(2, &bytes));
            for bit in 0..length * 8 {
                let mut other = bytes.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(whole, of_bytes(1, &other), "length {length}, bit {bit}");
            }
        }
    }
}
