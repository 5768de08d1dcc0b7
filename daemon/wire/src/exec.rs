//! Several commands as one: conditions, then commands that take effect in their order, with nothing between, if every condition
//! holds.
//!
//! The value of an [`Exec`](crate::command::CommandKind::Exec) command is a [`list`] of steps, one item each; numbers are
//! little-endian:
//!
//! ```text
//! condition  0 "="  1 hash[16]  17 key                                     the key has a value with this hash
//! condition  0 "-"  1 key                                                  there is no such key
//! command    0 "C"  1 kind u8  2 flags u8  3 key length u16  5 key, value
//! ```
//!
//! Invariants:
//! * All conditions stand before the first command, and are judged by the state before the whole.
//! * Their keys ascend, so that each key is in one of them at most: judging them costs no more than hashing what is stored.
//! * Every command is a valid one on data that holds no others. One that answers with an error undoes nothing, as in Redis.
//! * There is at least one step. The key of the whole is that of the first one; all keys live in one group.

use crate::command::{Command, CommandKind, KEY_SIZE_MAX, flags, list};

/// Bytes of a [`ValueHash`].
pub const HASH_SIZE: usize = 16;
/// What a condition knows of a value. Part of the format of the log: the same on every machine and in every version.
pub type ValueHash = [u8; HASH_SIZE];

const HAS_HASH: u8 = b'=';
const IS_ABSENT: u8 = b'-';
const COMMAND: u8 = b'C';
/// Bytes of a command before its key.
const COMMAND_HEADER_SIZE: usize = 5;

/// The hash of a value: the first bytes of its BLAKE3 hash.
pub fn hash_of(value: &[u8]) -> ValueHash {
    *blake3::hash(value).as_bytes().first_chunk().expect("a hash of BLAKE3 is longer")
}

/// What must be so for the commands to take effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Condition<'a> {
    /// The key it is about.
    pub key: &'a [u8],
    /// The hash of its value; `None` if there is to be no such key.
    pub hash: Option<ValueHash>,
}

impl Condition<'_> {
    /// Whether it holds for a key with that value.
    pub fn holds(&self, value: Option<&[u8]>) -> bool {
        match (self.hash, value) {
            (None, None) => true,
            (Some(hash), Some(value)) => hash == hash_of(value),
            _ => false,
        }
    }

    /// Appends it to the value of a command.
    pub fn push(&self, out: &mut Vec<u8>) {
        let hash = self.hash.as_ref().map_or(&[][..], <[u8; HASH_SIZE]>::as_slice);
        begin(1 + hash.len() + self.key.len(), out);
        out.push(if self.hash.is_some() { HAS_HASH } else { IS_ABSENT });
        out.extend_from_slice(hash);
        out.extend_from_slice(self.key);
    }
}

/// Appends a command to the value of one that holds it. A session header is left out: the whole has it.
///
/// # Panics
/// If the key is longer than [`KEY_SIZE_MAX`], or the whole than `u32::MAX`.
pub fn push_command(command: &Command<'_>, out: &mut Vec<u8>) {
    let key_size = u16::try_from(command.key.len()).expect("a key has at most KEY_SIZE_MAX bytes");
    begin(COMMAND_HEADER_SIZE + command.key.len() + command.value.len(), out);
    out.extend_from_slice(&[COMMAND, command.kind as u8, command.flags & !flags::SESSION]);
    out.extend_from_slice(&key_size.to_le_bytes());
    out.extend_from_slice(command.key);
    out.extend_from_slice(command.value);
}

/// Begins an item of the list whose bytes follow.
fn begin(size: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(size).expect("a step is below 4 GiB").to_le_bytes());
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// What must hold.
    Condition(Condition<'a>),
    /// What is done then.
    Command(Command<'a>),
}

impl<'a> Step<'a> {
    /// The step in this item; `None` if it is none. Whether the parts of a command fit its kind is not looked at.
    fn of(item: &'a [u8]) -> Option<Self> {
        let (tag, rest) = item.split_first()?;
        match *tag {
            HAS_HASH => {
                let (hash, key) = rest.split_first_chunk()?;
                Some(Self::Condition(Condition { key, hash: Some(*hash) }))
            }
            IS_ABSENT => Some(Self::Condition(Condition { key: rest, hash: None })),
            COMMAND => {
                let ([kind, bits, low, high], rest) = rest.split_first_chunk()?;
                let (key, value) = rest.split_at_checked(usize::from(u16::from_le_bytes([*low, *high])))?;
                let kind = CommandKind::from_code(*kind).filter(|kind| kind.may_be_held())?;
                let command = Command { kind, flags: *bits, session: None, key, value };
                (bits & flags::SESSION == 0).then_some(Self::Command(command))
            }
            _ => None,
        }
    }

    /// The keys of the step, as [`Command::keys`] says them.
    pub(crate) fn keys(self) -> impl Iterator<Item = (&'a [u8], bool)> {
        let (condition, command) = match self {
            Self::Condition(condition) => (Some((condition.key, false)), None),
            Self::Command(command) => (None, Some(command.own_keys())),
        };
        condition.into_iter().chain(command.into_iter().flatten())
    }
}

/// The steps in the value of a command; ends early at what is none (see [`is_valid`]).
pub fn steps(value: &[u8]) -> impl Iterator<Item = Step<'_>> {
    list::items(value).map_while(Step::of)
}

/// The conditions in the value of a command.
pub fn conditions(value: &[u8]) -> impl Iterator<Item = Condition<'_>> {
    steps(value).map_while(|step| match step {
        Step::Condition(condition) => Some(condition),
        Step::Command(_) => None,
    })
}

/// The commands in the value of a command.
pub fn commands(value: &[u8]) -> impl Iterator<Item = Command<'_>> {
    steps(value).filter_map(|step| match step {
        Step::Condition(_) => None,
        Step::Command(command) => Some(command),
    })
}

/// Whether `value` keeps to everything that the head of this module says, but for the groups of its keys.
pub fn is_valid(value: &[u8]) -> bool {
    let mut last: Option<&[u8]> = None;
    let mut has_commands = false;
    let mut fits = |item| match Step::of(item) {
        None => false,
        Some(Step::Condition(Condition { key, .. })) => {
            let ascends = last.replace(key).is_none_or(|last| last < key);
            ascends && !has_commands && key.len() <= KEY_SIZE_MAX
        }
        Some(Step::Command(command)) => {
            has_commands = true;
            command.is_valid()
        }
    };
    list::is_valid(value, 1) && list::items(value).all(&mut fits)
}

#[cfg(test)]
mod tests;
