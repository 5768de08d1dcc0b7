//! Small fixed-size values (peer messages, log records) as rkyv archives.
//!
//! A value of type `T` occupies exactly `size_of::<T::Archived>()` bytes. Decoding validates with bytecheck and copies
//! first, so the source need not be aligned.

use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::writer::Buffer;
use rkyv::util::Align;
use rkyv::{Archive, Deserialize, Portable, Serialize};

/// The largest archive a fixed-size value may have, in bytes.
pub const FIXED_SIZE_MAX: usize = 248;

/// The serialiser that [`encode_fixed`] uses.
pub type FixedSerializer<'a> = Strategy<rkyv::ser::Serializer<Buffer<'a>, (), ()>, Failure>;

/// A value whose archive has no out-of-line part and at most [`FIXED_SIZE_MAX`] bytes.
pub trait Fixed: Sized {
    /// Bytes of the archive.
    const SIZE: usize;
    /// Appends the archive to `out`.
    fn encode_fixed(&self, out: &mut Vec<u8>);
    /// Reads the archive from the front of `bytes`; `None` if it is too short or not valid.
    fn decode_fixed(bytes: &[u8]) -> Option<Self>;
}

impl<T> Fixed for T
where
    T: Archive + for<'a> Serialize<FixedSerializer<'a>>,
    T::Archived:
        Portable + for<'a> CheckBytes<LowValidator<'a, Failure>> + Deserialize<T, Strategy<(), Failure>>,
{
    const SIZE: usize = size_of::<T::Archived>();

    fn encode_fixed(&self, out: &mut Vec<u8>) {
        const { assert!(size_of::<T::Archived>() <= FIXED_SIZE_MAX) };
        let mut scratch = Align([0u8; FIXED_SIZE_MAX]);
        let buffer = Buffer::from(&mut scratch.0[..Self::SIZE]);
        let mut serializer = rkyv::ser::Serializer::new(buffer, (), ());
        rkyv::api::serialize_using::<_, Failure>(self, &mut serializer)
            .expect("a fixed-size archive fits its size");
        out.extend_from_slice(&scratch.0[..Self::SIZE]);
    }

    fn decode_fixed(bytes: &[u8]) -> Option<Self> {
        let mut scratch = Align([0u8; FIXED_SIZE_MAX]);
        scratch.0[..Self::SIZE].copy_from_slice(bytes.get(..Self::SIZE)?);
        let archived = rkyv::api::low::access::<T::Archived, Failure>(&scratch.0[..Self::SIZE]).ok()?;
        rkyv::api::deserialize_using::<T, _, Failure>(archived, &mut ()).ok()
    }
}
