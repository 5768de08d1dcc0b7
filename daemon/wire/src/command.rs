//! Commands: what one client operation asks of the key-value state machine, and what it answers.

use crate::exec;
use crate::transaction::{self, Step};

/// The longest key, in bytes.
pub const KEY_SIZE_MAX: usize = u16::MAX as usize;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// What a command does. The numbers are part of the disk and wire formats: never reorder, never reuse.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum CommandKind { $($(#[$doc])* $name = $code,)* }

        impl CommandKind {
            /// Every kind.
            pub const ALL: &'static [CommandKind] = &[$(CommandKind::$name,)*];
            /// The kind with this number.
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// Value of a key. Reply: `Bytes` or `Nil`.
    Get = 1,
    /// Sets key to value, subject to [`flags`]. Reply: `Ok`, `Nil` if the condition failed; with
    /// [`flags::RETURN_OLD`] the old value or `Nil` in either case.
    Set = 2,
    /// Sets key if absent. Reply: `Int` 1 or 0.
    SetNx = 3,
    /// Sets key, replies with the old value: `Bytes` or `Nil`.
    GetSet = 4,
    /// Deletes key, replies with the old value: `Bytes` or `Nil`.
    GetDel = 5,
    /// Adds the decimal `i64` (8 bytes, little-endian) in `value` to the number at key. Reply: `Int`.
    IncrBy = 6,
    /// Appends value. Reply: `Int`, the new length.
    Append = 7,
    /// Reply: `Int`, length of the value, 0 if absent.
    StrLen = 8,
    /// Reply: `Status("string")` or `Status("none")`.
    Type = 9,
    /// Values of many keys; `value` is a [`list`] of keys, `key` the first of them. Reply: `Array`.
    MGet = 10,
    /// Sets many keys in one step; `value` is a [`list`] of key, value, key, value. Reply: `Ok`; with
    /// [`flags::IF_ABSENT`] only if none of them is there, `Int` 1 or 0.
    MSet = 11,
    /// Deletes many keys; `value` is a [`list`] of keys. Reply: `Int`, how many existed.
    Del = 12,
    /// Counts the given keys that exist, repeats included; `value` is a [`list`]. Reply: `Int`.
    Exists = 13,
    /// Sets key to the second item of the list in `value` if it now equals the first. Reply: `Int` 1 or 0.
    CompareAndSet = 14,
    /// Writes many keys if all conditions hold; `value` is as in [`transaction`]. Reply: `Int` 1, or 0 if one does not.
    Transaction = 15,
    /// Several commands with nothing between, if all conditions hold; `value` is as in [`exec`]. Reply: `Replies`, or `Nil` if
    /// a condition does not hold.
    Exec = 16,
    /// Opens the session named in the command's session header. Reply: `Int`, the number that its first command is to have; the
    /// same each time until the session expires, then a higher one. Or an error if the table is full.
    OpenSession = 32,
    /// Closes the session named in the command's session header, if the number there is one of this opening. Reply: `Ok`.
    CloseSession = 33,
    /// Closes every session not used since the slot in `value` (8 bytes, little-endian). Reply: `Int`, how many.
    ExpireSessions = 34,
}

impl CommandKind {
    /// Whether the command leaves the state as it was, so that it may be served without the log.
    pub fn is_read(self) -> bool {
        use CommandKind::*;
        matches!(self, Get | StrLen | Type | MGet | Exists)
    }

    /// Whether the keys of the command are in a list in its value.
    pub fn has_many_keys(self) -> bool {
        use CommandKind::*;
        matches!(self, MGet | MSet | Del | Exists | Transaction | Exec)
    }

    /// Whether the command is about sessions, and not about keys.
    pub fn is_about_sessions(self) -> bool {
        use CommandKind::*;
        matches!(self, OpenSession | CloseSession | ExpireSessions)
    }

    /// Whether it may be one of the commands of an `Exec`.
    pub fn may_be_held(self) -> bool {
        self != Self::Exec && !self.is_about_sessions()
    }
}

/// Bits of [`Command::flags`].
pub mod flags {
    /// SET only if the key is absent, MSET only if all keys are.
    pub const IF_ABSENT: u8 = 1;
    /// SET only if the key is present.
    pub const IF_PRESENT: u8 = 2;
    /// SET replies with the old value.
    pub const RETURN_OLD: u8 = 4;
    /// The command carries a session header (set by the batch writer, never by clients).
    pub const SESSION: u8 = 0x80;
}

/// Who asks, for exactly-once execution.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionHeader {
    /// The client's session, chosen at random by the client; never 0.
    pub session: u64,
    /// Number of this command in the session, from the one that the reply to its opening said.
    pub number: u64,
    /// The client has the replies of all numbers below this one: they need not be remembered.
    pub acked_below: u64,
}

/// One client operation, borrowed from wherever its bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command<'a> {
    /// What to do.
    pub kind: CommandKind,
    /// See [`flags`]; bits that mean nothing for the kind are ignored.
    pub flags: u8,
    /// Present for clients that identify themselves.
    pub session: Option<SessionHeader>,
    /// The key, or the first of them.
    pub key: &'a [u8],
    /// The value, or a [`list`].
    pub value: &'a [u8],
}

/// What a command answers. Errors of this kind are part of the state machine: every replica gives the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply<'a> {
    /// Done.
    Ok,
    /// No such value, or a condition that did not hold.
    Nil,
    /// A number.
    Int(i64),
    /// A value.
    Bytes(&'a [u8]),
    /// A short constant text.
    Status(&'static str),
    /// Values, each possibly absent, as a [`list`] whose items start with 0 (absent) or 1 (present).
    Array(&'a [u8]),
    /// The command could not be applied.
    Error(CommandError),
    /// The replies to several commands, as in [`reply`](crate::reply).
    Replies(&'a [u8]),
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why a command was not applied. The numbers are part of the native protocol.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum CommandError { $($(#[$doc])* $name = $code,)* }
        impl CommandError {
            /// Every error.
            pub const ALL: &'static [CommandError] = &[$(CommandError::$name,)*];
            /// The error with this number.
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
            /// The text after `-` in a RESP error reply.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

errors! {
    /// The value is not a decimal 64-bit integer.
    NotAnInteger = 1, "ERR value is not an integer or out of range";
    /// The sum does not fit 64 bits.
    Overflow = 2, "ERR increment or decrement would overflow";
    /// The resulting value would be larger than the limit.
    TooLarge = 3, "ERR string exceeds maximum allowed size";
    /// The session is not open (never opened, closed or expired), or was opened anew since: this copy of the command was not applied,
    /// and no later one will be. Whether an earlier one was is not known any more.
    UnknownSession = 4, "SESSIONEXPIRED the session is not open any more: this copy of the command was not applied; whether an earlier one was is not known. Open a session and number its commands from where it begins";
    /// The number is below what the client said it no longer needs.
    StaleNumber = 5, "ERR command number was already acknowledged by the client";
    /// More than the allowed number of commands of one session are outstanding.
    SessionWindow = 6, "ERR too many outstanding commands in the session";
    /// No room for another session.
    SessionTableFull = 7, "ERR too many sessions";
    /// Keys of one command live in different groups.
    CrossSlot = 8, "CROSSSLOT Keys in request don't hash to the same slot";
    /// No majority could decide the command, or confirm the read, in time; it was not applied and never will be.
    Unavailable = 9, "CLUSTERDOWN no majority of replicas answers this node, or none of them leads yet: the command was not applied, try again";
    /// The log's disk is full: writes are refused until there is room.
    LogFull = 10, "OOM the log has no room left on its disk; writes are refused until space is freed";
    /// The command's bytes mean nothing.
    Malformed = 11, "ERR malformed command";
    /// The group's protocol is not Fast Paxos: clients send it commands, not batches.
    NoDirectProposals = 13, "ERR the group takes no batches of clients: only groups of the protocol fast do";
    /// The state of this node is not that of others: it serves nothing, and the command was not applied by it.
    Diverged = 14, "CLUSTERDOWN the data of this node differ from those of other nodes, so that it serves nothing; its log and INFO say what to do";
    /// The command was proposed, or was by others, but this node did not learn of the outcome in time: it was applied, or will be, or
    /// never is.
    Unknown = 12, "UNKNOWN the outcome of this command is not known: it was proposed, but its result did not come in time; it may have been applied, and may still be";
    /// The node did not take the command in before its time was over; it was not applied and never will be.
    NoRoom = 15, "TRYAGAIN the node could not take the command in within request_timeout, for want of memory or because earlier requests of the connection took as long: it was not applied";
    /// The node took the command in, and could not propose it, or confirm the read, before its time was over; it was not applied and never
    /// will be.
    Overdue = 16, "TRYAGAIN the node could not propose the command, or confirm the read, within request_timeout, since its log or the other nodes are slow: it was not applied";
    /// The node has no part in the group yet; the command was not applied by it.
    NotMember = 17, "CLUSTERDOWN the node is starting, or on its way back after the loss of its disk, and serves nothing yet: the command was not applied, try another node";
    /// The data have taken the memory that this node may use for them; this copy of the command was not applied and never will be. An
    /// earlier copy of a command with a session may be on its way all the same: a node remembers what was executed, and not what it or
    /// another has proposed. The text is that of Redis, and says no more than that this copy is not allowed.
    OutOfMemory = 19, "OOM command not allowed when used memory > 'maxmemory'.";
    /// The node takes nothing in any more; the command was not applied by it.
    Stopping = 18, "CLUSTERDOWN the node is stopping: the command was not applied, try another node";
}

impl CommandError {
    /// Whether this copy of the command was not applied and never will be, for a reason that passes: the same command may be sent again, to
    /// this node or to another.
    pub fn is_passing(self) -> bool {
        use CommandError::*;
        matches!(self, Unavailable | LogFull | OutOfMemory | NoRoom | Overdue | NotMember | Stopping)
    }
}

/// Several byte strings in one: each as a little-endian `u32` length and its bytes.
pub mod list {
    /// Appends one item.
    pub fn push(out: &mut Vec<u8>, item: &[u8]) {
        out.extend_from_slice(&(item.len() as u32).to_le_bytes());
        out.extend_from_slice(item);
    }

    /// Items of `bytes`; ends early at a malformed item (see [`is_valid`]).
    pub fn items(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        std::iter::from_fn(move || {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let length = u32::from_le_bytes(*length) as usize;
            let item = rest.get(..length)?;
            bytes = &rest[length..];
            Some(item)
        })
    }

    /// Whether `bytes` is a well-formed list of a multiple of `step` items, at least one step.
    pub fn is_valid(bytes: &[u8], step: usize) -> bool {
        let (mut count, mut size) = (0, 0);
        for item in items(bytes) {
            count += 1;
            size += 4 + item.len();
        }
        size == bytes.len() && count > 0 && count % step == 0
    }
}

impl<'a> Command<'a> {
    /// Every key that the command reads or writes, as often as it names it, and whether it may write it. Commands about
    /// sessions have none.
    pub fn keys(&self) -> impl Iterator<Item = (&'a [u8], bool)> + use<'a> {
        let held = exec::steps(if self.kind == CommandKind::Exec { self.value } else { &[] });
        self.own_keys().chain(held.flat_map(exec::Step::keys))
    }

    /// The same without those of commands that it holds.
    pub(crate) fn own_keys(&self) -> impl Iterator<Item = (&'a [u8], bool)> + use<'a> {
        use CommandKind::*;
        let kind = self.kind;
        let mut only = (!kind.has_many_keys() && !kind.is_about_sessions()).then_some(self.key);
        let is_list = kind.has_many_keys() && kind != Exec;
        let mut items = list::items(if is_list { self.value } else { &[] });
        std::iter::from_fn(move || {
            if let Some(key) = only.take() {
                return Some((key, !kind.is_read()));
            }
            let first = items.next()?;
            match kind {
                Transaction => {
                    let key = items.next()?;
                    let _ = items.next()?;
                    Some((key, matches!(first, b"S" | b"D")))
                }
                MSet => {
                    let _ = items.next()?;
                    Some((first, true))
                }
                _ => Some((first, !kind.is_read())),
            }
        })
    }

    /// Whether the command only reads, and more than one key: its answer shows several keys at one moment.
    pub fn reads_many_keys(&self) -> bool {
        let mut keys = self.keys().map(|(key, _)| key);
        let first = keys.next();
        self.kind.is_read() && keys.any(|key| Some(key) != first)
    }

    /// Whether the data may take more memory for it.
    pub fn may_grow(&self) -> bool {
        use CommandKind::*;
        match self.kind {
            Set | SetNx | GetSet | IncrBy | Append | MSet | CompareAndSet => true,
            Transaction => transaction::steps(self.value).any(|step| matches!(step, Step::Set(..))),
            Exec => exec::commands(self.value).any(|command| command.may_grow()),
            Get | GetDel | StrLen | Type | MGet | Del | Exists | OpenSession | CloseSession
            | ExpireSessions => false,
        }
    }

    /// The length of the longest value that the command brings along to be written, in bytes. Of a list that means nothing, 0.
    pub fn longest_value(&self) -> usize {
        use CommandKind::*;
        match self.kind {
            MGet | Del | Exists => 0,
            // Key, value, key, value.
            MSet => list::items(self.value).skip(1).step_by(2).map(<[u8]>::len).max().unwrap_or(0),
            CompareAndSet => list::items(self.value).nth(1).map_or(0, <[u8]>::len),
            Transaction => {
                let length = |step: Step<'_>| if let Step::Set(_, value) = step { value.len() } else { 0 };
                transaction::steps(self.value).map(length).max().unwrap_or(0)
            }
            Exec => exec::commands(self.value).map(|command| command.longest_value()).max().unwrap_or(0),
            _ => self.value.len(),
        }
    }

    /// Whether the parts fit the kind: the check that stands between foreign bytes and the state machine.
    pub fn is_valid(&self) -> bool {
        use CommandKind::*;
        let value_fits = match self.kind {
            IncrBy | ExpireSessions => self.value.len() == 8,
            MGet | Del | Exists => list::is_valid(self.value, 1),
            MSet | CompareAndSet => list::is_valid(self.value, 2),
            Transaction => transaction::is_valid(self.value),
            Exec => exec::is_valid(self.value),
            _ => true,
        };
        let session_fits = match self.kind {
            OpenSession | CloseSession => self.session.is_some(),
            _ => true,
        };
        let sizes_fit = self.keys().all(|(key, _)| key.len() <= KEY_SIZE_MAX);
        self.key.len() <= KEY_SIZE_MAX
            && value_fits
            && session_fits
            && sizes_fit
            && self.session.is_none_or(|header| header.session != 0 && header.number != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_value_is_one_that_would_be_written() {
        let listed = |items: &[&[u8]]| {
            let mut value = Vec::new();
            items.iter().for_each(|item| list::push(&mut value, item));
            value
        };
        let mut steps = Vec::new();
        for step in [Step::Equals(b"k", b"12345"), Step::Set(b"key", b"12"), Step::Delete(b"a key")] {
            step.push(&mut steps);
        }
        let mut held = Vec::new();
        for (kind, value) in [(CommandKind::Append, &b"123"[..]), (CommandKind::Del, &listed(&[b"a key"]))] {
            exec::push_command(&Command { kind, flags: 0, session: None, key: b"k", value }, &mut held);
        }
        use CommandKind::*;
        for (kind, value, longest) in [
            (Set, b"123".to_vec(), 3),
            (Append, b"1234".to_vec(), 4),
            (MSet, listed(&[b"a key", b"1", b"k", b"12"]), 2),
            (MSet, b"nonsense".to_vec(), 0),
            (Del, listed(&[b"a key"]), 0),
            (CompareAndSet, listed(&[b"12345", b"12"]), 2),
            (Transaction, steps, 2),
            (Exec, held, 3),
        ] {
            let command = Command { kind, flags: 0, session: None, key: b"k", value: &value };
            assert_eq!(command.longest_value(), longest, "{kind:?}");
        }
    }

    #[test]
    fn what_only_reads_or_deletes_takes_no_memory() {
        let (mut deletes, mut sets) = (Vec::new(), Vec::new());
        Step::Delete(b"k").push(&mut deletes);
        Step::Absent(b"k").push(&mut sets);
        Step::Set(b"k", b"v").push(&mut sets);
        let command = |kind, value| Command { kind, flags: 0, session: None, key: b"k", value };
        let held = |inner: &Command<'_>| {
            let mut value = Vec::new();
            exec::push_command(&command(CommandKind::Get, b""), &mut value);
            exec::push_command(inner, &mut value);
            value
        };
        use CommandKind::*;
        for (kind, value, may) in [
            (Set, &b"v"[..], true),
            (IncrBy, &[1; 8], true),
            (GetDel, b"", false),
            (Transaction, &deletes, false),
            (Transaction, &sets, true),
            (Exec, &held(&command(Append, b"v")), true),
            (Exec, &held(&command(Transaction, &deletes)), false),
        ] {
            assert_eq!(command(kind, value).may_grow(), may, "{kind:?}");
        }
    }

    #[test]
    fn a_key_that_is_named_twice_is_one_key() {
        let read = |kind, keys: &[&[u8]]| {
            let mut value = Vec::new();
            keys.iter().for_each(|key| list::push(&mut value, key));
            Command { kind, flags: 0, session: None, key: keys[0], value: &value }.reads_many_keys()
        };
        for kind in [CommandKind::MGet, CommandKind::Exists] {
            assert!(read(kind, &[b"a", b"b"]) && read(kind, &[b"a", b"a", b"b"]), "{kind:?}");
            assert!(!read(kind, &[b"a"]) && !read(kind, &[b"a", b"a"]), "{kind:?}");
        }
        assert!(!read(CommandKind::Get, &[b"a", b"b"]), "it names one key");
        assert!(!read(CommandKind::Del, &[b"a", b"b"]), "it writes");
    }

    #[test]
    fn every_kind_names_its_keys() {
        let mut keys = Vec::new();
        [b"a".as_slice(), b"b"].iter().for_each(|key| list::push(&mut keys, key));
        let mut steps = Vec::new();
        for step in [Step::Equals(b"a", b"1"), Step::Absent(b"c"), Step::Set(b"a", b"2"), Step::Delete(b"b")]
        {
            step.push(&mut steps);
        }
        let mut held = Vec::new();
        exec::Condition { key: b"c", hash: None }.push(&mut held);
        for (kind, key) in [(CommandKind::SetNx, b"a"), (CommandKind::StrLen, b"b")] {
            exec::push_command(&Command { kind, flags: 0, session: None, key, value: b"" }, &mut held);
        }
        for kind in CommandKind::ALL.iter().copied() {
            let value = match kind {
                CommandKind::Transaction => &steps,
                CommandKind::Exec => &held,
                _ => &keys,
            };
            let command = Command { kind, flags: 0, session: None, key: b"a", value };
            let named: Vec<_> = command.keys().map(|(key, written)| (key[0], written)).collect();
            use CommandKind::*;
            let expected: &[(u8, bool)] = match kind {
                Get | StrLen | Type => &[(b'a', false)],
                MGet | Exists => &[(b'a', false), (b'b', false)],
                Del => &[(b'a', true), (b'b', true)],
                Transaction => &[(b'a', false), (b'c', false), (b'a', true), (b'b', true)],
                Exec => &[(b'c', false), (b'a', true), (b'b', false)],
                OpenSession | CloseSession | ExpireSessions => &[],
                _ => &[(b'a', true)],
            };
            assert_eq!(named, expected, "{kind:?}");
        }
    }
}
