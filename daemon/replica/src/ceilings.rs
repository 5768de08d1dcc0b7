//! The bounds that decide what a decided command comes to.
//!
//! What is executed follows from the log alone: every replica, under any configuration, at any time, comes to the same state.
//! So execution knows no configured limit. Those judge the bytes of a request when it comes in, before it is proposed
//! ([`BatchLimits`](crate::batcher::BatchLimits)); what only execution can know (the length of a value after an APPEND, how many
//! sessions there are, how much they remember) is judged by the constants here.
//!
//! They are part of the formats of the log and of snapshots. A version of the program with another value of any of them would
//! execute logs that were written before differently, and replicas of both versions would diverge. So none may ever change
//! without a new [`frame::FORMAT_VERSION`](panch_wire::frame::FORMAT_VERSION) and a new version of the snapshot format. The
//! longest key ([`KEY_SIZE_MAX`]) is one of them.

use panch_wire::command::KEY_SIZE_MAX;
use panch_wire::frame::FRAME_SIZE_MAX;

/// The longest value, in bytes. No configuration admits a longer one; an APPEND that would make one is refused. One command
/// can set such a value, one record of a snapshot and one reply hold it.
pub const VALUE_SIZE_MAX: usize = 127 << 20;

/// The longest answer to a command that reads many keys, in bytes.
pub const REPLY_SIZE_MAX: usize = 128 << 20;

/// The longest answer to a command that holds several, in bytes. Sessions remember it, so that one record of a snapshot holds it.
pub const REPLIES_SIZE_MAX: usize = REPLY_SIZE_MAX - 64;

/// Bytes of values that one command that holds several may have hashed, beside what it brings along.
pub const EXEC_WORK_MAX: usize = 4 * VALUE_SIZE_MAX;

/// How many sessions of a group may be open, and of those that were closed as many may be known.
pub const SESSION_COUNT_MAX: usize = 1 << 16;

/// How many numbers of one session may be outstanding.
pub const SESSION_WINDOW: u64 = 128;

/// A session that remembers more bytes of replies than this is refused further commands until it acknowledges some. The number
/// of one that was refused is used up.
pub const SESSION_REPLY_BYTES_MAX: usize = 8 << 20;

/// The lower bits of the number of a command in its session count within one generation of the session, the bits above name the
/// generation: see [`sessions`](crate::sessions).
pub const SESSION_NUMBER_BITS: u32 = 40;

/// Generations that a group can have. One begins when sessions expire, several hours' worth at a time: they last for centuries.
pub const SESSION_GENERATIONS_MAX: u64 = 1 << 23;

/// How many batches of a proposer may wait for one before them.
pub const HELD_MAX: u64 = 256;

// A value fits into a batch of its own, and into an answer.
const _: () =
    assert!(VALUE_SIZE_MAX + KEY_SIZE_MAX + 4096 <= FRAME_SIZE_MAX && VALUE_SIZE_MAX + 64 <= REPLY_SIZE_MAX);

#[cfg(test)]
mod tests {
    use panch_wire::frame::FORMAT_VERSION;

    use super::*;
    use crate::snapshot;

    /// If this fails, do not adjust it: a log that was written with the values below would be executed differently. Whoever needs
    /// another value gives frames and snapshots a new version first, so that older data is refused, and then states both here.
    #[test]
    fn what_logs_are_executed_by_changes_only_with_the_formats_version() {
        let ceilings = [
            VALUE_SIZE_MAX as u64,
            REPLY_SIZE_MAX as u64,
            SESSION_COUNT_MAX as u64,
            SESSION_WINDOW,
            SESSION_REPLY_BYTES_MAX as u64,
            SESSION_NUMBER_BITS.into(),
            SESSION_GENERATIONS_MAX,
            HELD_MAX,
            KEY_SIZE_MAX as u64,
            REPLIES_SIZE_MAX as u64,
            EXEC_WORK_MAX as u64,
        ];
        let of_this_version = [
            133_169_152,
            134_217_728,
            65_536,
            128,
            8_388_608,
            40,
            8_388_608,
            256,
            65_535,
            134_217_664,
            532_676_608,
        ];
        assert_eq!((FORMAT_VERSION, snapshot::VERSION, ceilings), (2, 3, of_this_version));
    }
}
