//! A multi-key compare-and-set as one command: conditions, then writes that all take effect if every condition holds.
//!
//! The value of a [`Transaction`](crate::command::CommandKind::Transaction) command is a [`list`] of steps, three items each:
//!
//! | first item | second | third | step |
//! |---|---|---|---|
//! | `=` | key | value | condition: the key has this value |
//! | `-` | key | empty | condition: the key is absent |
//! | `S` | key | value | write: sets the key |
//! | `D` | key | empty | write: deletes the key |
//!
//! Invariants:
//! * All conditions stand before the first write, and are judged by the state before the command.
//! * Writes take effect in their order: the last one to a key decides.
//! * There is at least one step. The command's own key is that of the first one; all keys live in one group.

use crate::command::{KEY_SIZE_MAX, list};

/// One condition or write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// Holds if the key has this value.
    Equals(&'a [u8], &'a [u8]),
    /// Holds if there is no such key.
    Absent(&'a [u8]),
    /// Sets the key to the value.
    Set(&'a [u8], &'a [u8]),
    /// Deletes the key if it is there.
    Delete(&'a [u8]),
}

impl<'a> Step<'a> {
    /// The step in these three items; `None` if they are none.
    fn of([tag, key, value]: [&'a [u8]; 3]) -> Option<Self> {
        match (tag, value) {
            (b"=", _) => Some(Self::Equals(key, value)),
            (b"-", []) => Some(Self::Absent(key)),
            (b"S", _) => Some(Self::Set(key, value)),
            (b"D", []) => Some(Self::Delete(key)),
            _ => None,
        }
    }

    /// The key it is about.
    pub fn key(self) -> &'a [u8] {
        match self {
            Self::Equals(key, _) | Self::Absent(key) | Self::Set(key, _) | Self::Delete(key) => key,
        }
    }

    /// Whether it changes its key, and is no condition.
    pub fn is_write(self) -> bool {
        matches!(self, Self::Set(..) | Self::Delete(_))
    }

    /// Appends the step to the value of a command.
    pub fn push(self, out: &mut Vec<u8>) {
        let (tag, value): (&[u8], &[u8]) = match self {
            Self::Equals(_, value) => (b"=", value),
            Self::Absent(_) => (b"-", &[]),
            Self::Set(_, value) => (b"S", value),
            Self::Delete(_) => (b"D", &[]),
        };
        for item in [tag, self.key(), value] {
            list::push(out, item);
        }
    }
}

/// The steps in the value of a command; ends early at what is none (see [`is_valid`]).
pub fn steps(value: &[u8]) -> impl Iterator<Item = Step<'_>> {
    let mut items = list::items(value);
    std::iter::from_fn(move || Step::of([items.next()?, items.next()?, items.next()?]))
}

/// Whether `value` keeps to everything that the head of this module says, but for the groups of its keys.
pub fn is_valid(value: &[u8]) -> bool {
    let mut count = 0;
    let mut writing = false;
    for step in steps(value) {
        if writing && !step.is_write() || step.key().len() > KEY_SIZE_MAX {
            return false;
        }
        writing |= step.is_write();
        count += 1;
    }
    list::is_valid(value, 3) && list::items(value).count() == 3 * count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(steps: &[Step<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        steps.iter().for_each(|step| step.push(&mut out));
        out
    }

    #[test]
    fn what_is_pushed_is_read_back() {
        use Step::*;
        let all = [Equals(b"a", b"1"), Absent(b"b"), Set(b"a", b"2"), Delete(b"c"), Set(b"", b"")];
        let bytes = value(&all);
        assert!(is_valid(&bytes));
        assert_eq!(steps(&bytes).collect::<Vec<_>>(), all);
        assert_eq!(all.map(Step::is_write), [false, false, true, true, true]);
        assert_eq!(all.map(Step::key), [b"a".as_slice(), b"b", b"a", b"c", b""]);
    }

    #[test]
    fn what_breaks_the_rules_is_not_valid() {
        use Step::*;
        assert!(!is_valid(b""));
        assert!(!is_valid(&value(&[Set(b"a", b"1"), Absent(b"a")])), "a condition behind a write");
        let key = vec![b'k'; KEY_SIZE_MAX + 1];
        assert!(!is_valid(&value(&[Delete(&key)])));
        assert!(is_valid(&value(&[Delete(&key[1..])])));
        let sound = value(&[Absent(b"a"), Set(b"a", b"1")]);
        for length in 0..sound.len() {
            let is_first_step = length == value(&[Absent(b"a")]).len();
            assert_eq!(is_valid(&sound[..length]), is_first_step, "{length} bytes");
        }
        for items in [[b"X".as_slice(), b"a", b""], [b"D", b"a", b"1"], [b"-", b"a", b"1"], [b"", b"a", b"1"]]
        {
            let mut bytes = Vec::new();
            items.iter().for_each(|item| list::push(&mut bytes, item));
            assert!(!is_valid(&bytes), "{items:?}");
        }
    }
}
