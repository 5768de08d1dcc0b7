//! The key-value state machine: what each data command does to the table and what it answers.
//!
//! Semantics are those of Redis. Every answer is a function of the commands applied so far, never of the configuration, the
//! seed, the machine or the time.

pub(crate) mod digest;
mod entry;
mod exec;
mod index;
mod lengths;
mod number;
mod reply_size;
mod slab;
mod table;
#[cfg(test)]
mod tests;

use panch_wire::command::{Command, CommandError, CommandKind, KEY_SIZE_MAX, Reply, flags, list};
use panch_wire::transaction::{self, Step};

use crate::ceilings;
use number::Text;
pub use reply_size::{SMALL_REPLY_SIZE, reply_size};
use table::Table;

/// The table with its ceilings, see [`ceilings`]; only tests have lower ones.
pub struct Kv {
    table: Table,
    value_size_max: usize,
    reply_size_max: usize,
}

const MALFORMED: Reply<'static> = Reply::Error(CommandError::Malformed);
const TOO_LARGE: Reply<'static> = Reply::Error(CommandError::TooLarge);

impl Kv {
    /// An empty table.
    pub fn new(hash_seed: u64) -> Self {
        Self {
            table: Table::new(hash_seed),
            value_size_max: ceilings::VALUE_SIZE_MAX,
            reply_size_max: ceilings::REPLY_SIZE_MAX,
        }
    }

    /// An empty table whose ceilings are within reach of a test.
    #[cfg(test)]
    fn bounded(hash_seed: u64, value_size_max: usize, reply_size_max: usize) -> Self {
        Self { value_size_max, reply_size_max, ..Self::new(hash_seed) }
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.table.count()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the table has allocated.
    pub fn size_bytes(&self) -> usize {
        self.table.size_bytes()
    }

    /// Bytes of memory that the pairs take; what was allocated for more of them is not counted.
    pub fn data_size(&self) -> usize {
        self.table.data_size()
    }

    /// Equal tables have equal digests, however they came about.
    pub fn digest(&self) -> u64 {
        self.table.digest()
    }

    /// The value at `key`.
    pub fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.table.find(self.table.hashed(key)).map(|index| self.table.value(index))
    }

    /// Bytes that the reply to this command would have at most, if commands that are applied before it and are not yet make no value longer
    /// than `written`. Keys are looked up only if there are values that are not short.
    pub fn reply_size(&self, command: &Command<'_>, written: usize) -> usize {
        let bound = self.value_size_bound();
        if bound <= SMALL_REPLY_SIZE {
            return reply_size(command, &mut |_| bound.max(written));
        }
        let size = reply_size(command, &mut |key| self.value(key).map_or(0, <[u8]>::len).max(written));
        // What would be longer is an error instead.
        let is_too_long = command.kind == CommandKind::MGet
            && size >= ceilings::REPLY_SIZE_MAX
            && reply_size(command, &mut |key| self.value(key).map_or(0, <[u8]>::len))
                >= ceilings::REPLY_SIZE_MAX;
        if is_too_long { SMALL_REPLY_SIZE } else { size }
    }

    /// No value is longer: at most twice the length of the longest.
    pub fn value_size_bound(&self) -> usize {
        self.table.value_size_bound()
    }

    /// Brings what these commands will read into the processor's caches; see [`Kv::FORESEEN_MAX`]. Changes nothing.
    pub fn foresee<'a>(&self, commands: impl Iterator<Item = Command<'a>>) {
        self.table.foresee(commands.map(|command| command.key));
    }

    /// The most commands that [`Kv::foresee`] looks at.
    pub const FORESEEN_MAX: usize = table::FORESEEN_MAX;

    /// Serves a command that reads. Answers `Malformed` to any other. `scratch` holds the answer if it is put together.
    pub fn read<'a>(&'a self, command: &Command<'_>, scratch: &'a mut Vec<u8>) -> Reply<'a> {
        match command.kind {
            CommandKind::Get => self.value(command.key).map_or(Reply::Nil, Reply::Bytes),
            CommandKind::StrLen => Reply::Int(self.value(command.key).map_or(0, <[u8]>::len) as i64),
            CommandKind::Type => {
                Reply::Status(if self.value(command.key).is_some() { "string" } else { "none" })
            }
            CommandKind::MGet => self.values(command.value, self.reply_size_max, scratch),
            CommandKind::Exists => {
                let present = list::items(command.value).filter(|key| self.value(key).is_some());
                Reply::Int(present.count() as i64)
            }
            _ => MALFORMED,
        }
    }

    /// Applies a data command. `scratch` holds the answer if it is put together or no longer in the table.
    ///
    /// A command of another kind, or with parts that do not fit its kind, is answered `Malformed` and changes nothing.
    pub fn apply<'a>(&'a mut self, command: &Command<'_>, scratch: &'a mut Vec<u8>) -> Reply<'a> {
        let &Command { kind, flags, key, value, .. } = command;
        if kind.is_read() {
            return self.read(command, scratch);
        }
        if key.len() > KEY_SIZE_MAX {
            return MALFORMED;
        }
        match kind {
            CommandKind::Set => self.set(flags, key, value, scratch),
            CommandKind::SetNx => match self.set(flags::IF_ABSENT, key, value, scratch) {
                Reply::Ok => Reply::Int(1),
                Reply::Nil => Reply::Int(0),
                other => other,
            },
            CommandKind::GetSet => self.set(flags::RETURN_OLD, key, value, scratch),
            CommandKind::GetDel => {
                scratch.clear();
                let found = self.table.remove(self.table.hashed(key), Some(scratch));
                if found { Reply::Bytes(scratch) } else { Reply::Nil }
            }
            CommandKind::IncrBy => match value.try_into() {
                Ok(bytes) => self.increment(key, i64::from_le_bytes(bytes)),
                Err(_) => MALFORMED,
            },
            CommandKind::Append => self.append(key, value),
            CommandKind::MSet => self.set_many(flags, value),
            CommandKind::Del => {
                let mut count = 0;
                for key in list::items(value) {
                    count += i64::from(self.table.remove(self.table.hashed(key), None));
                }
                Reply::Int(count)
            }
            CommandKind::CompareAndSet => self.compare_and_set(key, value),
            CommandKind::Transaction => self.transact(value),
            CommandKind::Exec => self.execute(value, scratch),
            _ => MALFORMED,
        }
    }

    fn set<'a>(&'a mut self, flags: u8, key: &[u8], value: &[u8], scratch: &'a mut Vec<u8>) -> Reply<'a> {
        if value.len() > self.value_size_max {
            return TOO_LARGE;
        }
        let key = self.table.hashed(key);
        let found = self.table.find(key);
        let return_old = flags & flags::RETURN_OLD != 0;
        let refused = flags & if found.is_some() { flags::IF_ABSENT } else { flags::IF_PRESENT } != 0;
        if refused {
            // What stays as it is need not be copied.
            let old = found.filter(|_| return_old).map(|index| self.table.value(index));
            return old.map_or(Reply::Nil, Reply::Bytes);
        }
        if let (true, Some(index)) = (return_old, found) {
            scratch.clear();
            scratch.extend_from_slice(self.table.value(index));
        }
        match found {
            Some(index) => self.table.replace(index, value),
            None => self.table.insert(key, value),
        }
        match (return_old, found) {
            (true, Some(_)) => Reply::Bytes(scratch),
            (true, None) => Reply::Nil,
            (false, _) => Reply::Ok,
        }
    }

    fn increment(&mut self, key: &[u8], by: i64) -> Reply<'static> {
        let key = self.table.hashed(key);
        let found = self.table.find(key);
        let old = match found {
            None => 0,
            Some(index) => match number::parse(self.table.value(index)) {
                Some(number) => number,
                None => return Reply::Error(CommandError::NotAnInteger),
            },
        };
        let Some(new) = old.checked_add(by) else { return Reply::Error(CommandError::Overflow) };
        let text = Text::of(new);
        match found {
            Some(index) => self.table.replace(index, text.as_bytes()),
            None => self.table.insert(key, text.as_bytes()),
        }
        Reply::Int(new)
    }

    fn append(&mut self, key: &[u8], tail: &[u8]) -> Reply<'static> {
        let key = self.table.hashed(key);
        let found = self.table.find(key);
        let size = found.map_or(0, |index| self.table.value(index).len()) + tail.len();
        if size > self.value_size_max {
            return TOO_LARGE;
        }
        match found {
            Some(index) => self.table.append(index, tail),
            None => self.table.insert(key, tail),
        }
        Reply::Int(size as i64)
    }

    fn set_many(&mut self, flags: u8, pairs: &[u8]) -> Reply<'static> {
        // All or nothing: every pair is checked before the first is set.
        let if_absent = flags & flags::IF_ABSENT != 0;
        let mut refused = false;
        let mut items = list::items(pairs);
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            if key.len() > KEY_SIZE_MAX {
                return MALFORMED;
            }
            if value.len() > self.value_size_max {
                return TOO_LARGE;
            }
            refused |= if_absent && self.value(key).is_some();
        }
        if refused {
            return Reply::Int(0);
        }
        let mut items = list::items(pairs);
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            self.table.set(self.table.hashed(key), value);
        }
        if if_absent { Reply::Int(1) } else { Reply::Ok }
    }

    fn transact(&mut self, value: &[u8]) -> Reply<'static> {
        if !transaction::is_valid(value) {
            return MALFORMED;
        }
        // All or nothing: every condition and every size is looked at before the first write.
        let mut holds = true;
        for step in transaction::steps(value) {
            match step {
                Step::Equals(key, expected) => holds &= self.value(key) == Some(expected),
                Step::Absent(key) => holds &= self.value(key).is_none(),
                Step::Set(_, value) if value.len() > self.value_size_max => return TOO_LARGE,
                Step::Set(..) | Step::Delete(_) => {}
            }
        }
        if !holds {
            return Reply::Int(0);
        }
        for step in transaction::steps(value) {
            match step {
                Step::Set(key, value) => self.table.set(self.table.hashed(key), value),
                Step::Delete(key) => {
                    self.table.remove(self.table.hashed(key), None);
                }
                Step::Equals(..) | Step::Absent(_) => {}
            }
        }
        Reply::Int(1)
    }

    fn compare_and_set(&mut self, key: &[u8], pair: &[u8]) -> Reply<'static> {
        let mut items = list::items(pair);
        let (Some(expected), Some(new), None) = (items.next(), items.next(), items.next()) else {
            return MALFORMED;
        };
        if new.len() > self.value_size_max {
            return TOO_LARGE;
        }
        match self.table.find(self.table.hashed(key)) {
            Some(index) if self.table.value(index) == expected => {
                self.table.replace(index, new);
                Reply::Int(1)
            }
            _ => Reply::Int(0),
        }
    }

    /// The values of all these keys; refused, before anything is copied, if they do not fit into `room` bytes.
    fn values<'a>(&self, keys: &[u8], room: usize, scratch: &'a mut Vec<u8>) -> Reply<'a> {
        let item_len = |value: Option<&[u8]>| 1 + value.map_or(0, <[u8]>::len);
        let mut size = 0;
        for key in list::items(keys) {
            size += 4 + item_len(self.value(key));
            if size > room {
                return TOO_LARGE;
            }
        }
        scratch.clear();
        scratch.reserve(size);
        for key in list::items(keys) {
            let value = self.value(key);
            scratch.extend_from_slice(&(item_len(value) as u32).to_le_bytes());
            scratch.push(u8::from(value.is_some()));
            scratch.extend_from_slice(value.unwrap_or_default());
        }
        Reply::Array(scratch)
    }

    /// Adds an entry of a snapshot; false if the key is there already.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) -> bool {
        let key = self.table.hashed(key);
        let new = self.table.find(key).is_none();
        if new {
            self.table.insert(key, value);
        }
        new
    }

    pub(crate) fn begin_scan(&mut self) {
        self.table.begin_scan();
    }

    pub(crate) fn scan(&mut self, out: &mut Vec<u8>, size: usize, visit_count: &mut usize) -> bool {
        self.table.scan(out, size, visit_count)
    }

    pub(crate) fn abort_scan(&mut self) {
        self.table.abort_scan();
    }
}
