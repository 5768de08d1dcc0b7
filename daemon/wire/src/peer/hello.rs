//! The opening of a stream between nodes: both sides make sure that they belong together before anything else is said.

use super::handshake::{Life, Nonce, Seal, Sealed, Secret, same_seal, seal};
use super::{PeerFault, VERSION};
use crate::checksum::checksum;
use crate::fields::{cut, may_start_with, u16_at, u32_at, u64_at};
use crate::frame::FORMAT_VERSION;
use crate::ids::{Incarnation, ReplicaId};
use crate::rule::{Rule, holds};

const MAGIC: &[u8; 4] = b"PNPH";
const REPLY_MAGIC: &[u8; 4] = b"PNPR";

/// What a node says first on a stream that it opened.
///
/// ```text
/// 0 "PNPH"  4 peer version u16  6 frame version u16  8 log version u16  10 core u16  12 core count u16  14 node u8
/// 15 purpose u8  16 cluster u64  24 fingerprint u64  32 incarnation u32  36 directory u64  44 life u64  52 zero[4]
/// 56 nonce[16]  72 founding u64  80 checksum u64 of the rest
/// ```
/// The first six bytes never change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Version of the peer protocol.
    pub version: u16,
    /// Version of frames and batches.
    pub frame_version: u16,
    /// Version of the log.
    pub log_version: u16,
    /// The cluster, chosen at random when it was made.
    pub cluster: u64,
    /// The sender.
    pub node: ReplicaId,
    /// The core of the sender that speaks on this stream.
    pub core_index: u16,
    /// How many cores the sender has.
    pub core_count: u16,
    /// Digest of the configuration that every node must have alike.
    pub fingerprint: u64,
    /// The sender's incarnation.
    pub incarnation: Incarnation,
    /// Names the sender's data directory: drawn when it was made, so that an emptied one is told from the one before.
    pub directory: u64,
    /// Names the sender's life: see [`LifeKey::life`](super::LifeKey::life).
    pub life: u64,
    /// What the sender's cluster began with: 0 for nothing, or else the name of the state that was salvaged for it. Nodes that began with
    /// different states are never one cluster. [`Hello::ANY_FOUNDING`] from a node that has lost its disk and has to learn it.
    pub founding: u64,
    /// The sender's, for this stream.
    pub nonce: Nonce,
    /// What the sender wants.
    pub purpose: Purpose,
}

/// What a node that says hello wants.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum Purpose {
    /// To send packets.
    #[default]
    Stream = 0,
    /// To send packets, as a node that has lost its disk and is on its way back: its directory may be another than before.
    Rejoin = 1,
    /// To learn its last incarnation, which it has forgotten: nothing follows. Its incarnation is 0.
    Inquiry = 2,
}

impl Purpose {
    fn from_code(code: u8) -> Option<Self> {
        [Self::Stream, Self::Rejoin, Self::Inquiry].into_iter().find(|purpose| *purpose as u8 == code)
    }
}

impl Hello {
    /// Bytes of a hello.
    pub const SIZE: usize = 88;
    /// The founding of a node that has forgotten it.
    pub const ANY_FOUNDING: u64 = u64::MAX;

    /// Appends the hello.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        for field in [self.version, self.frame_version, self.log_version, self.core_index, self.core_count] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&[self.node.0, self.purpose as u8]);
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        out.extend_from_slice(&self.incarnation.0.to_le_bytes());
        out.extend_from_slice(&self.directory.to_le_bytes());
        out.extend_from_slice(&self.life.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.founding.to_le_bytes());
        let sum = checksum(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
        debug_assert_eq!(out.len() - start, Self::SIZE);
    }

    /// Reads a hello from the front of `bytes`; its size is [`Hello::SIZE`]. `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`PeerFault::Incompatible`] if it is another protocol or another version of it, noticed as early as possible;
    /// [`PeerFault::Corrupt`] if the checksum does not fit.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, PeerFault> {
        if !may_start_with(bytes, MAGIC) {
            return Err(PeerFault::Incompatible("not the peer protocol"));
        }
        if bytes.len() >= 6 && u16_at(bytes, 4) != VERSION {
            return Err(PeerFault::Incompatible(RefusalCode::Version.text()));
        }
        let Some(bytes) = bytes.get(..Self::SIZE) else { return Ok(None) };
        if checksum(&bytes[..80]) != u64_at(bytes, 80) {
            return Err(PeerFault::Corrupt("checksum of the hello"));
        }
        let Some(purpose) = Purpose::from_code(bytes[15]) else {
            return Err(PeerFault::Misbehaved("purpose of the hello"));
        };
        Ok(Some(Self {
            version: VERSION,
            frame_version: u16_at(bytes, 6),
            log_version: u16_at(bytes, 8),
            core_index: u16_at(bytes, 10),
            core_count: u16_at(bytes, 12),
            node: ReplicaId(bytes[14]),
            cluster: u64_at(bytes, 16),
            fingerprint: u64_at(bytes, 24),
            incarnation: Incarnation(u32_at(bytes, 32)),
            directory: u64_at(bytes, 36),
            life: u64_at(bytes, 44),
            nonce: bytes[56..72].try_into().expect("16 bytes"),
            founding: u64_at(bytes, 72),
            purpose,
        }))
    }

    /// Why the node that says `ours` must refuse this hello; `None` if the two belong together.
    ///
    /// Whether the sender's core count and incarnation are acceptable only the node's own tables can say.
    pub fn refusal(&self, ours: &Hello, node_count: u8) -> Option<RefusalCode> {
        if self.version != ours.version {
            Some(RefusalCode::Version)
        } else if self.cluster != ours.cluster {
            Some(RefusalCode::Cluster)
        } else if !self.has_founding_of(ours) && holds(Rule::FoundingsDoNotMix) {
            Some(RefusalCode::Founding)
        } else if self.frame_version != ours.frame_version {
            Some(RefusalCode::FrameVersion)
        } else if self.log_version != ours.log_version {
            Some(RefusalCode::LogVersion)
        } else if self.fingerprint != ours.fingerprint {
            Some(RefusalCode::Fingerprint)
        } else if self.node == ours.node || self.node.0 >= node_count {
            Some(RefusalCode::Node)
        } else if self.core_index >= self.core_count
            || (self.incarnation.0 == 0) != (self.purpose == Purpose::Inquiry)
        {
            Some(RefusalCode::Malformed)
        } else {
            None
        }
    }

    /// Whether the two nodes began with the same state. One that asks may have forgotten it, and so may one that waits to be answered.
    fn has_founding_of(&self, ours: &Hello) -> bool {
        let has_forgotten = self.founding == Self::ANY_FOUNDING && self.purpose == Purpose::Inquiry;
        self.founding == ours.founding || has_forgotten || ours.founding == Self::ANY_FOUNDING
    }

    /// A hello with the format versions of this build.
    pub fn new(log_version: u16) -> Self {
        Self {
            version: VERSION,
            frame_version: FORMAT_VERSION,
            log_version,
            cluster: 0,
            node: ReplicaId(0),
            core_index: 0,
            core_count: 1,
            fingerprint: 0,
            incarnation: Incarnation(0),
            directory: 0,
            life: 0,
            founding: 0,
            nonce: Nonce::default(),
            purpose: Purpose::Stream,
        }
    }

    /// The life that the sender names.
    pub fn named_life(&self) -> Life {
        Life { incarnation: self.incarnation, directory: self.directory, name: self.life }
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why a node does not take a peer.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum RefusalCode {
            $($(#[$doc])* $name,)*
            /// A reason that this version does not know.
            Other(u16),
        }

        impl RefusalCode {
            /// The reason with this number; 0 is no refusal.
            pub fn from_code(code: u16) -> Option<Self> {
                match code { 0 => None, $($code => Some(Self::$name),)* other => Some(Self::Other(other)) }
            }
            /// The number on the wire, never 0.
            pub fn code(self) -> u16 {
                match self { $(Self::$name => $code,)* Self::Other(other) => other.max(1) }
            }
            /// In words.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Other(_) => "refused" }
            }
        }
    };
}

refusals! {
    /// Another version of the peer protocol.
    Version = 1, "peer protocol version";
    /// Another format of frames.
    FrameVersion = 2, "frame format version";
    /// Another format of the log.
    LogVersion = 3, "log format version";
    /// Another cluster.
    Cluster = 4, "another cluster";
    /// The configuration that every node must have alike differs.
    Fingerprint = 5, "the cluster configuration differs: compare [cluster] in `panchd check --print` of both nodes";
    /// Not a member, or the receiver's own number.
    Node = 6, "not a node of the cluster";
    /// The data directory is another one than before, or an older copy, or part of its log is gone.
    Incarnation = 7, "the data directory is not the one that this node ran with before, or an older copy of it, or part of its log is lost, so votes may be forgotten: empty the data directory and start the node with --rejoin";
    /// The fields contradict each other.
    Malformed = 8, "malformed hello";
    /// The node is starting or stopping.
    NotReady = 9, "not ready";
    /// The [`Proof`](super::Proof) speaks of other lives than the one that is remembered, which the answer names.
    Descent = 10, "show how this start follows from the one that is remembered";
    /// Nobody at the node's configured address has named this life yet.
    Unconfirmed = 11, "the node at the configured address has not confirmed this start yet: is its peer address in [cluster] members the right one, and can it be reached?";
    /// The sender looks forgetful, but has not taken in the one who says so: that one may have the older memory.
    Doubtful = 13, "one of the two nodes has an older copy of its data directory, or has lost it, and no other has said yet which: the one that the other nodes take in is right, and the other one will stop. If all nodes run and reach each other and this lasts, only you can know: empty the data directory that was replaced, and start its node with --rejoin";
    /// Another node has told of a later life of the sender, or of a longer log, than the sender shows.
    Contested = 16, "another node has met a later start of this node, or a longer log, than its data directory shows: it seems to be an older copy, and is not counted on. Restore the directory that the node ran with last, or empty it and start the node with --rejoin; what the other node says counts until that one has lost its disk and come back";
    /// The cluster secret is another one.
    Secret = 12, "the cluster secret is another one: give every node the same `secret_file`";
    /// The sender's cluster began with another state, or with none.
    Founding = 14, "the cluster was founded anew from a state that was salvaged (`panchd salvage`), and one of the two nodes was not, or from another state: every node needs an empty data directory and the same --from files, or --rejoin if the others run already";
    /// The cluster was founded without the sender, which has not taken in the one who says so.
    Unmet = 15, "the cluster was founded (with --found) without one of the two nodes, whose data directory is of another time: if its data is not needed, stop that node, empty its data directory and start it. If its data is what counts, stop the nodes that founded the cluster and start all nodes with the directories that they ran with before";
}

/// What a node answers to a [`Hello`].
///
/// ```text
/// 0 "PNPR"  4 peer version u16  6 refusal u16 (0 = accepted)  8 incarnation u32  12 text length u16  14 core count u16
/// 16 checksum u64 of the rest  24 known u32  28 since u32  32 seal[32] (zeros without a secret)  64 told u32  68 told since u32
/// 72 text
/// ```
/// The first six bytes never change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelloReply<'a> {
    /// Version of the peer protocol.
    pub version: u16,
    /// `None` if accepted.
    pub refusal: Option<RefusalCode>,
    /// The answering node's incarnation.
    pub incarnation: Incarnation,
    /// How many cores the answering node has.
    pub core_count: u16,
    /// The highest incarnation of the asking node that the answering one remembers; 0 if none.
    pub known: Incarnation,
    /// The incarnation in which the asking node said the log end that the answering one remembers of this core; 0 if none.
    pub since: Incarnation,
    /// The last incarnation of the asking node that others have told the answering one of, if it is later; 0 if none.
    pub told: Incarnation,
    /// The incarnation in which a longer end of the core's log was said, as others have told; 0 if none.
    pub told_since: Incarnation,
    /// For people, when refused. To an accepted [`Purpose::Inquiry`]: what the node remembers of others.
    pub text: &'a str,
}

impl<'a> HelloReply<'a> {
    /// Bytes of an answer before its text.
    pub const SIZE: usize = 72;
    /// The longest text, in bytes: what a node remembers of eight others with 255 cores each.
    pub const TEXT_SIZE_MAX: usize = 63 << 10;

    /// Appends the answer; a text longer than [`HelloReply::TEXT_SIZE_MAX`] is cut. `before`: the bytes of the handshake until
    /// now. A refusal before the proof has no seal.
    pub fn write(&self, secret: Option<&Secret>, before: &[u8], out: &mut Vec<u8>) {
        let text = cut(self.text, Self::TEXT_SIZE_MAX);
        let start = out.len();
        out.extend_from_slice(REPLY_MAGIC);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.refusal.map_or(0, RefusalCode::code).to_le_bytes());
        out.extend_from_slice(&self.incarnation.0.to_le_bytes());
        out.extend_from_slice(&(text.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.core_count.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.known.0.to_le_bytes());
        out.extend_from_slice(&self.since.0.to_le_bytes());
        out.extend_from_slice(&Seal::default());
        out.extend_from_slice(&self.told.0.to_le_bytes());
        out.extend_from_slice(&self.told_since.0.to_le_bytes());
        out.extend_from_slice(text.as_bytes());
        // Seal and checksum count as zero in the seal, the checksum in itself.
        let seal = seal(secret, Sealed::Reply, before, &out[start..]);
        out[start + 32..start + 64].copy_from_slice(&seal);
        let sum = checksum(&out[start..]);
        out[start + 16..start + 24].copy_from_slice(&sum.to_le_bytes());
    }

    /// Whether the answer in `bytes`, which were read as one, was sealed with this secret in this handshake.
    pub fn is_sealed(bytes: &[u8], secret: Option<&Secret>, before: &[u8]) -> bool {
        let mut message = bytes.to_vec();
        let found: Seal = message[32..64].try_into().expect("32 bytes");
        message[16..24].fill(0);
        message[32..64].fill(0);
        same_seal(&found, &seal(secret, Sealed::Reply, before, &message))
    }

    /// Reads an answer from the front of `bytes`, and how many bytes it takes. `None` if more bytes are needed.
    ///
    /// # Errors
    /// As [`Hello::parse`].
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, PeerFault> {
        if !may_start_with(bytes, REPLY_MAGIC) {
            return Err(PeerFault::Incompatible("not the peer protocol"));
        }
        if bytes.len() >= 6 && u16_at(bytes, 4) != VERSION {
            return Err(PeerFault::Incompatible(RefusalCode::Version.text()));
        }
        if bytes.len() < Self::SIZE {
            return Ok(None);
        }
        let text_size = usize::from(u16_at(bytes, 12));
        if text_size > Self::TEXT_SIZE_MAX {
            return Err(PeerFault::Corrupt("length of the hello's answer"));
        }
        let end = Self::SIZE + text_size;
        let Some(bytes) = bytes.get(..end) else { return Ok(None) };
        let mut covered = bytes.to_vec();
        covered[16..24].fill(0);
        if checksum(&covered) != u64_at(bytes, 16) {
            return Err(PeerFault::Corrupt("checksum of the hello's answer"));
        }
        let reply = Self {
            version: VERSION,
            refusal: RefusalCode::from_code(u16_at(bytes, 6)),
            incarnation: Incarnation(u32_at(bytes, 8)),
            core_count: u16_at(bytes, 14),
            known: Incarnation(u32_at(bytes, 24)),
            since: Incarnation(u32_at(bytes, 28)),
            told: Incarnation(u32_at(bytes, 64)),
            told_since: Incarnation(u32_at(bytes, 68)),
            text: str::from_utf8(&bytes[Self::SIZE..])
                .map_err(|_| PeerFault::Misbehaved("text of the hello's answer"))?,
        };
        Ok(Some((reply, end)))
    }
}
