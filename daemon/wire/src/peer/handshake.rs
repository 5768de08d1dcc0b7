//! The proof of a hello: what keeps a stranger from speaking as a member, and a member from speaking as what it no longer is.
//!
//! ```text
//! dialling node                                  accepting node
//!   Hello: who I am, a nonce        ---------->
//!                                   <----------  Challenge: who I am, a nonce, seal    or HelloReply: refused
//!   Proof: keys of my lives, seal   ---------->
//!                                   <----------  HelloReply: accepted or refused, seal
//! ```
//! * Every start of a node draws a secret key, whose hash names this life and is public ([`LifeKey::life`]). A node that comes
//!   back shows the key of the life that it is remembered with: only its own directory holds that, and no older copy of it.
//! * The [`Challenge`] comes from whoever is at the configured address. So each side learns on the stream that it dials itself
//!   who the other one is, whatever strangers say.
//! * With a secret of the cluster each message from the challenge on carries a [`Seal`] over all before it, nonces of both
//!   sides included: nothing of a recorded handshake can be used again. It covers the opening of a stream, not what follows.

use std::fmt;

use super::{Hello, PeerFault, RefusalCode, VERSION};
use crate::checksum::checksum;
use crate::fields::{may_start_with, u16_at, u32_at, u64_at};
use crate::ids::{Incarnation, ReplicaId};

const CHALLENGE_MAGIC: &[u8; 4] = b"PNPC";
const PROOF_MAGIC: &[u8; 4] = b"PNPP";
/// What blake3 derives keys for: these texts never change.
const LIFE_CONTEXT: &str = "panch 2026 name of a node's life";
const SECRET_CONTEXT: &str = "panch 2026 secret of a cluster";

/// A number that is used once.
pub type Nonce = [u8; 16];
/// A keyed hash; zeros where there is no secret.
pub type Seal = [u8; 32];

/// The key of one start of a node. Not printed.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct LifeKey(pub [u8; 16]);

impl LifeKey {
    /// The name of the life, which everybody may know; never 0.
    pub fn life(&self) -> u64 {
        let hash = blake3::derive_key(LIFE_CONTEXT, &self.0);
        u64_at(&hash, 0).max(1)
    }
}

impl fmt::Debug for LifeKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "LifeKey(of {:#x})", self.life())
    }
}

/// The secret that the nodes of a cluster share. Not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The fewest bytes of a secret.
    pub const SIZE_MIN: usize = 16;

    /// The secret that these bytes are; `None` if they are too few.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= Self::SIZE_MIN).then(|| Self(blake3::derive_key(SECRET_CONTEXT, bytes)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(..)")
    }
}

/// Whose message a seal closes: no seal of one serves for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Sealed {
    /// A [`Challenge`].
    Challenge = 1,
    /// A [`Proof`].
    Proof = 2,
    /// A [`HelloReply`](super::HelloReply).
    Reply = 3,
}

/// The seal over `before` (all messages of the handshake until now) and `message` (without its seal); zeros without a secret.
pub fn seal(secret: Option<&Secret>, what: Sealed, before: &[u8], message: &[u8]) -> Seal {
    let Some(Secret(key)) = secret else { return Seal::default() };
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&[what as u8]);
    hasher.update(&(before.len() as u64).to_le_bytes());
    hasher.update(before);
    hasher.update(message);
    *hasher.finalize().as_bytes()
}

/// Whether two seals are the same; takes as long wherever they differ.
pub(super) fn same_seal(left: &Seal, right: &Seal) -> bool {
    blake3::Hash::from_bytes(*left) == blake3::Hash::from_bytes(*right)
}

/// A life of a node, as everybody may know it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Life {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Names the data directory.
    pub directory: u64,
    /// Names the life: see [`LifeKey::life`]; 0 if it is not known.
    pub name: u64,
}

/// What an accepting node answers to a hello that it does not refuse at once.
///
/// ```text
/// 0 "PNPC"  4 peer version u16  6 has secret u8  7 node u8  8 incarnation u32  12 zero[4]  16 directory u64  24 life u64
/// 32 nonce[16]  48 founding u64  56 seal[32]  88 checksum u64 of the rest
/// ```
/// The first six bytes never change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// Whether the node has a secret, and so wants one.
    pub has_secret: bool,
    /// The accepting node.
    pub node: ReplicaId,
    /// The accepting node's life.
    pub life: Life,
    /// The accepting node's.
    pub nonce: Nonce,
    /// What the accepting node's cluster began with, see [`Hello::founding`](super::Hello::founding).
    pub founding: u64,
    /// Over the hello and this.
    pub seal: Seal,
}

impl Challenge {
    /// Bytes of a challenge.
    pub const SIZE: usize = 96;
    const SEALED: usize = 56;

    /// Appends the challenge of the node that says `ours`, with its seal. `hello`: the bytes of the hello that it answers.
    pub fn write(ours: &Hello, nonce: Nonce, secret: Option<&Secret>, hello: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(CHALLENGE_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let life = ours.named_life();
        out.extend_from_slice(&[u8::from(secret.is_some()), ours.node.0]);
        out.extend_from_slice(&life.incarnation.0.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&life.directory.to_le_bytes());
        out.extend_from_slice(&life.name.to_le_bytes());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&ours.founding.to_le_bytes());
        let seal = seal(secret, Sealed::Challenge, hello, &out[start..]);
        out.extend_from_slice(&seal);
        end(start, out);
        debug_assert_eq!(out.len() - start, Self::SIZE);
    }

    /// Reads a challenge from the front of `bytes`. `None` if more bytes are needed, or it is something else.
    ///
    /// # Errors
    /// As [`Hello::parse`](super::Hello::parse).
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, PeerFault> {
        let Some(bytes) = whole(bytes, CHALLENGE_MAGIC, Self::SIZE, "checksum of a challenge")? else {
            return Ok(None);
        };
        let life = Life {
            incarnation: Incarnation(u32_at(bytes, 8)),
            directory: u64_at(bytes, 16),
            name: u64_at(bytes, 24),
        };
        Ok(Some(Self {
            has_secret: bytes[6] != 0,
            node: ReplicaId(bytes[7]),
            life,
            nonce: array(bytes, 32),
            founding: u64_at(bytes, 48),
            seal: array(bytes, Self::SEALED),
        }))
    }

    /// Whether `bytes` may be a challenge, rather than an answer.
    pub fn may_be(bytes: &[u8]) -> bool {
        may_start_with(bytes, CHALLENGE_MAGIC)
    }

    /// Whether whoever wrote this challenge (its `bytes`) has the secret that this node has, or both have none.
    ///
    /// # Errors
    /// What differs, for people.
    pub fn check(&self, secret: Option<&Secret>, hello: &[u8], bytes: &[u8]) -> Result<(), &'static str> {
        match (secret, self.has_secret) {
            (None, true) => {
                Err("it has a cluster secret and this node has none: give every node the same `secret_file`")
            }
            (Some(_), false) => {
                Err("it has no cluster secret and this node has one: give every node the same `secret_file`")
            }
            _ if same_seal(&self.seal, &seal(secret, Sealed::Challenge, hello, &bytes[..Self::SEALED])) => {
                Ok(())
            }
            _ => Err("its cluster secret is another one: give every node the same `secret_file`"),
        }
    }
}

/// What a dialling node answers to a [`Challenge`]: how its life follows from the one that it may be remembered with.
///
/// ```text
/// 0 "PNPP"  4 peer version u16  6 zero[2]  8 earlier incarnation u32  12 since incarnation u32  16 key[16]  32 earlier key[16]
/// 48 log end u64  56 told: earlier incarnation u32  60 since incarnation u32  64 earlier key[16]  80 log end u64  88 seal[32]
/// 120 checksum u64 of the rest
/// ```
/// The first six bytes never change.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Proof {
    /// The key of the life that the hello named.
    pub key: LifeKey,
    /// An earlier life; 0 if none is shown.
    pub earlier: Incarnation,
    /// Its key; zeros if the node does not have it.
    pub earlier_key: LifeKey,
    /// Speaks of the log as it was found by the first start after this incarnation.
    pub since: Incarnation,
    /// The last commit group of the core's log that was found then.
    pub log_end: u64,
    /// The same, of what others have told the accepting node.
    pub told: Earlier,
}

/// What a node shows of its past to one that was told of it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Earlier {
    /// See [`Proof::earlier`].
    pub incarnation: Incarnation,
    /// See [`Proof::earlier_key`].
    pub key: LifeKey,
    /// See [`Proof::since`].
    pub since: Incarnation,
    /// See [`Proof::log_end`].
    pub log_end: u64,
}

impl Proof {
    /// Bytes of a proof.
    pub const SIZE: usize = 128;
    const SEALED: usize = 88;

    /// Appends the proof with its seal. `before`: the bytes of the hello and of the challenge.
    pub fn write(&self, secret: Option<&Secret>, before: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(PROOF_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.earlier.0.to_le_bytes());
        out.extend_from_slice(&self.since.0.to_le_bytes());
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.earlier_key.0);
        out.extend_from_slice(&self.log_end.to_le_bytes());
        let Earlier { incarnation, key, since, log_end } = &self.told;
        out.extend_from_slice(&incarnation.0.to_le_bytes());
        out.extend_from_slice(&since.0.to_le_bytes());
        out.extend_from_slice(&key.0);
        out.extend_from_slice(&log_end.to_le_bytes());
        let seal = seal(secret, Sealed::Proof, before, &out[start..]);
        out.extend_from_slice(&seal);
        end(start, out);
        debug_assert_eq!(out.len() - start, Self::SIZE);
    }

    /// Reads a proof from the front of `bytes`, and whether its seal is right. `None` if more bytes are needed.
    ///
    /// # Errors
    /// As [`Hello::parse`](super::Hello::parse).
    pub fn parse(
        bytes: &[u8],
        secret: Option<&Secret>,
        before: &[u8],
    ) -> Result<Option<(Self, bool)>, PeerFault> {
        let Some(bytes) = whole(bytes, PROOF_MAGIC, Self::SIZE, "checksum of a proof")? else {
            return Ok(None);
        };
        let expected = seal(secret, Sealed::Proof, before, &bytes[..Self::SEALED]);
        let proof = Self {
            earlier: Incarnation(u32_at(bytes, 8)),
            since: Incarnation(u32_at(bytes, 12)),
            key: LifeKey(array(bytes, 16)),
            earlier_key: LifeKey(array(bytes, 32)),
            log_end: u64_at(bytes, 48),
            told: Earlier {
                incarnation: Incarnation(u32_at(bytes, 56)),
                since: Incarnation(u32_at(bytes, 60)),
                key: LifeKey(array(bytes, 64)),
                log_end: u64_at(bytes, 80),
            },
        };
        Ok(Some((proof, same_seal(&array(bytes, Self::SEALED), &expected))))
    }
}

/// The message at the front of `bytes`, once it is all there.
fn whole<'a>(
    bytes: &'a [u8],
    magic: &[u8; 4],
    size: usize,
    corrupt: &'static str,
) -> Result<Option<&'a [u8]>, PeerFault> {
    if !may_start_with(bytes, magic) {
        return Err(PeerFault::Incompatible("not the peer protocol"));
    }
    if bytes.len() >= 6 && u16_at(bytes, 4) != VERSION {
        return Err(PeerFault::Incompatible(RefusalCode::Version.text()));
    }
    let Some(bytes) = bytes.get(..size) else { return Ok(None) };
    if checksum(&bytes[..size - 8]) != u64_at(bytes, size - 8) {
        return Err(PeerFault::Corrupt(corrupt));
    }
    Ok(Some(bytes))
}

fn end(start: usize, out: &mut Vec<u8>) {
    let sum = checksum(&out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the message was checked to be whole")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Life = Life { incarnation: Incarnation(3), directory: 7, name: 9 };

    fn secret(byte: u8) -> Secret {
        Secret::new(&[byte; Secret::SIZE_MIN]).unwrap()
    }

    #[test]
    fn a_challenge_shows_whether_both_have_the_same_secret() {
        let (one, two) = (secret(1), secret(2));
        let ours_of_four = Hello {
            node: ReplicaId(4),
            incarnation: LIFE.incarnation,
            directory: LIFE.directory,
            life: LIFE.name,
            founding: 6,
            ..Hello::new(1)
        };
        for (theirs, ours, fits) in [
            (None, None, true),
            (Some(&one), Some(&one), true),
            (Some(&one), Some(&two), false),
            (None, Some(&one), false),
            (Some(&one), None, false),
        ] {
            let mut bytes = Vec::new();
            Challenge::write(&ours_of_four, [5; 16], theirs, b"hello", &mut bytes);
            assert_eq!(bytes.len(), Challenge::SIZE);
            let challenge = Challenge::parse(&bytes).unwrap().unwrap();
            assert_eq!((challenge.node, challenge.life, challenge.nonce), (ReplicaId(4), LIFE, [5; 16]));
            assert_eq!(challenge.founding, 6);
            assert_eq!(challenge.check(ours, b"hello", &bytes).is_ok(), fits, "{theirs:?} {ours:?}");
            let of_another = challenge.check(ours, b"other", &bytes).is_ok();
            assert_eq!(of_another, fits && ours.is_none(), "a challenge answers one hello");
        }
        assert_eq!(Secret::new(&[1; Secret::SIZE_MIN - 1]), None);
    }

    #[test]
    fn a_proof_is_worth_nothing_in_another_handshake() {
        let proof = Proof {
            key: LifeKey([1; 16]),
            earlier: Incarnation(2),
            earlier_key: LifeKey([2; 16]),
            since: Incarnation(1),
            log_end: 77,
            told: Earlier {
                incarnation: Incarnation(4),
                key: LifeKey([3; 16]),
                since: Incarnation(3),
                log_end: 78,
            },
        };
        let secret = secret(1);
        let mut bytes = Vec::new();
        proof.write(Some(&secret), b"nonces", &mut bytes);
        assert_eq!(bytes.len(), Proof::SIZE);
        assert_eq!(Proof::parse(&bytes, Some(&secret), b"nonces"), Ok(Some((proof, true))));
        assert_eq!(Proof::parse(&bytes, Some(&secret), b"others"), Ok(Some((proof, false))));
        assert_eq!(Proof::parse(&bytes, None, b"nonces"), Ok(Some((proof, false))));
        for cut in 0..bytes.len() {
            assert_eq!(Proof::parse(&bytes[..cut], None, b""), Ok(None));
        }
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(Proof::parse(&bytes, None, b"").is_err(), "flip at {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn neither_keys_nor_secrets_are_printed_and_names_tell_lives_apart() {
        let (one, two) = (LifeKey([1; 16]), LifeKey([2; 16]));
        assert_ne!(one.life(), two.life());
        assert!(!format!("{one:?}").contains("1, 1"));
        assert_eq!(format!("{:?}", secret(3)), "Secret(..)");
    }
}
