//! Little-endian fields of fixed layouts. Positions are the caller's constants inside a header it has checked the length of.

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Whether `bytes` can still become something that starts with `magic`.
pub(crate) fn may_start_with(bytes: &[u8], magic: &[u8; 4]) -> bool {
    let known = bytes.len().min(magic.len());
    bytes[..known] == magic[..known]
}

/// `text`, cut at a character boundary so that it has at most `size_max` bytes.
pub(crate) fn cut(text: &str, size_max: usize) -> &str {
    let mut end = text.len().min(size_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
