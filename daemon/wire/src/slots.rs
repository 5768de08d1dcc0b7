//! The slot of a key, and slot -> group where groups share all keys alike; [`routing`](crate::routing) builds on it.
//!
//! Part of the data format. The slot of a key is Redis Cluster's, so that cluster-aware clients agree with us; groups own
//! contiguous ranges of slots. "Slot" here is Redis' word for a hash bucket, not a position in a log.

use std::ops::Range;

use crate::ids::GroupId;

/// How many hash slots there are.
pub const SLOT_COUNT: u16 = 16384;

const CRC16_TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// CRC-16/XMODEM of `bytes`.
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// The part of `key` that is hashed: what is between the first `{` and the next `}`, if that is not empty.
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        Some(length) if length > 0 => &rest[..length],
        _ => key,
    }
}

/// The slot of `key`, below [`SLOT_COUNT`].
pub fn key_slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOT_COUNT
}

/// The group that owns `slot`.
///
/// # Panics
/// If `slot` or `group_count` is out of range: there are 1 to [`SLOT_COUNT`] groups.
pub fn group_of(slot: u16, group_count: u16) -> GroupId {
    assert!(slot < SLOT_COUNT && (1..=SLOT_COUNT).contains(&group_count));
    GroupId((u32::from(slot) * u32::from(group_count) / u32::from(SLOT_COUNT)) as u16)
}

/// The slots that `group` owns; never empty.
///
/// # Panics
/// If there is no such group, or `group_count` is out of range.
pub fn slot_range(group: GroupId, group_count: u16) -> Range<u16> {
    assert!(group.0 < group_count && group_count <= SLOT_COUNT);
    let start = |group: u32| (group * u32::from(SLOT_COUNT)).div_ceil(u32::from(group_count)) as u16;
    start(u32::from(group.0))..start(u32::from(group.0) + 1)
}

/// The group that owns `key` where no prefix is given groups of its own: [`Routing`](crate::routing::Routing) is the
/// general case.
pub fn group_of_key(key: &[u8], group_count: u16) -> GroupId {
    if group_count == 1 { GroupId(0) } else { group_of(key_slot(key), group_count) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(key_slot(b"foo"), 12182);
        assert_eq!(key_slot(b"bar"), 5061);
        assert_eq!(key_slot(b""), 0);
        assert_eq!(key_slot(b"{user1000}.following"), key_slot(b"{user1000}.followers"));
        assert_eq!(key_slot(b"{user1000}.following"), key_slot(b"user1000"));
    }

    #[test]
    fn only_the_first_complete_and_filled_tag_counts() {
        assert_eq!(hash_tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hash_tag(b"foo{bar}{zap}"), b"bar");
        assert_eq!(hash_tag(b"foo{bar"), b"foo{bar");
        assert_eq!(hash_tag(b"foo}bar{"), b"foo}bar{");
    }

    #[test]
    fn ranges_cover_every_slot_once_and_agree_with_the_owner() {
        for group_count in [1, 2, 3, 5, 7, 16, 100, 1000, 16383, 16384] {
            let mut next = 0;
            for group in (0..group_count).map(GroupId) {
                let range = slot_range(group, group_count);
                assert_eq!(range.start, next);
                assert!(!range.is_empty());
                assert!(range.clone().all(|slot| group_of(slot, group_count) == group));
                next = range.end;
            }
            assert_eq!(next, SLOT_COUNT);
        }
    }

    proptest! {
        #[test]
        fn every_key_has_a_group(key in proptest::collection::vec(any::<u8>(), 0..64), count in 1u16..=SLOT_COUNT) {
            let group = group_of_key(&key, count);
            prop_assert!(group.0 < count);
            prop_assert!(slot_range(group, count).contains(&key_slot(&key)));
        }
    }
}
