//! The one checksum of the disk and peer formats: CRC-64/NVME. It detects accidents, not malice.

use crc_fast::{CrcAlgorithm, checksum as crc};

/// Checksum of `bytes`.
pub fn checksum(bytes: &[u8]) -> u64 {
    crc(CrcAlgorithm::Crc64Nvme, bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn is_the_standard_crc64_nvme() {
        assert_eq!(super::checksum(b"123456789"), 0xae8b14860a799888);
    }
}
