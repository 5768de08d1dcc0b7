//! How often keys were changed on this node, for clients that watch some (WATCH).
//!
//! No part of any state: every node counts for itself what it executes, from the first WATCH of its life on. Keys share counters by
//! their hash, so there is nothing to be forgotten and no bound to be reached: whoever watches a key may be told that it has changed
//! when another one did, and tries again.
//!
//! Each core that runs groups has counters of its own, and only that core counts there; those of connections on other cores are read
//! across. A core counts a command before the reply to it leaves the core. So whoever has seen what a command did, through this
//! node, finds it counted.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use panch_wire::command::{Command, CommandError, CommandKind, Reply, flags};
use panch_wire::{exec, reply};

/// Counters of one core, a power of two: 128 KiB.
const COUNTER_COUNT: usize = 1 << 18;

type Counters = Box<[AtomicU64]>;

/// The counters of all cores of a node.
pub(crate) struct Changes {
    cores: Box<[OnceLock<Counters>]>,
    hasher: RandomState,
}

impl Changes {
    /// Nobody watches anything yet.
    pub(crate) fn new(cores: usize) -> Self {
        Self { cores: (0..cores).map(|_| OnceLock::new()).collect(), hasher: RandomState::new() }
    }

    /// How often `key`, of a group of `core`, may have been changed. From now on it is counted.
    pub(crate) fn of(&self, core: usize, key: &[u8]) -> u64 {
        let counters =
            self.cores[core].get_or_init(|| (0..COUNTER_COUNT).map(|_| AtomicU64::new(0)).collect());
        self.counter(counters, key).load(Ordering::Acquire)
    }

    /// `core` has executed a write that was answered so.
    pub(crate) fn note(&self, core: usize, command: &Command<'_>, reply: &Reply<'_>) {
        let Some(counters) = self.cores[core].get() else { return };
        match (command.kind, reply) {
            (CommandKind::Exec, Reply::Replies(replies)) => {
                for (held, reply) in exec::commands(command.value).zip(reply::items(replies)) {
                    self.note_one(counters, &held, &reply);
                }
            }
            _ => self.note_one(counters, command, reply),
        }
    }

    fn note_one(&self, counters: &Counters, command: &Command<'_>, reply: &Reply<'_>) {
        if may_have_changed(command, reply) {
            for (key, _) in command.keys().filter(|(_, is_written)| *is_written) {
                self.counter(counters, key).fetch_add(1, Ordering::Release);
            }
        }
    }

    /// The state of a group of `core` was replaced by another one.
    pub(crate) fn note_all(&self, core: usize) {
        for counter in self.cores[core].get().into_iter().flatten() {
            counter.fetch_add(1, Ordering::Release);
        }
    }

    fn counter<'a>(&self, counters: &'a Counters, key: &[u8]) -> &'a AtomicU64 {
        &counters[self.hasher.hash_one(key) as usize % COUNTER_COUNT]
    }
}

/// Whether a command that was answered so may have changed what it writes; true in doubt.
fn may_have_changed(command: &Command<'_>, reply: &Reply<'_>) -> bool {
    use CommandKind::*;
    let (kind, bits) = (command.kind, command.flags);
    match reply {
        // As one of several, it may have been too large an answer to something done.
        Reply::Error(error) => *error == CommandError::TooLarge,
        Reply::Int(0) => !matches!(kind, SetNx | MSet | Del | CompareAndSet | Transaction),
        // SET GET answers the old value, set or not.
        Reply::Nil if kind == Set && bits & flags::RETURN_OLD != 0 => bits & flags::IF_PRESENT == 0,
        Reply::Bytes(_) if kind == Set => bits & flags::IF_ABSENT == 0,
        Reply::Nil => !matches!(kind, Set | GetDel | Exec),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use panch_wire::command::list;
    use panch_wire::transaction::Step;

    use super::*;

    fn command<'a>(kind: CommandKind, flags: u8, value: &'a [u8]) -> Command<'a> {
        Command { kind, flags, session: None, key: b"a", value }
    }

    /// Whether keys `a` and `b` count as changed by the command.
    fn changes(command: &Command<'_>, reply: Reply<'_>) -> [bool; 2] {
        let changes = Changes::new(2);
        let read = || [b"a", b"b"].map(|key| changes.of(1, key));
        let before = read();
        changes.note(1, command, &reply);
        changes.note(0, &Command { kind: CommandKind::Append, ..*command }, &Reply::Int(7));
        let after = read();
        [after[0] != before[0], after[1] != before[1]]
    }

    #[test]
    fn a_key_counts_as_changed_by_what_changed_it_and_by_nothing_else() {
        use CommandKind::*;
        let (mut both, mut pairs, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for key in [b"a", b"b"] {
            list::push(&mut both, key);
            list::push(&mut pairs, key);
            list::push(&mut pairs, b"1");
        }
        Step::Absent(b"a").push(&mut steps);
        Step::Set(b"b", b"1").push(&mut steps);
        let (nx, xx, get) = (flags::IF_ABSENT, flags::IF_PRESENT, flags::RETURN_OLD);
        let error = Reply::Error(CommandError::NotAnInteger);
        let (none, first, all) = ([false; 2], [true, false], [true; 2]);
        for (kind, flags, value, reply, expected) in [
            (Set, 0, &b"1"[..], Reply::Ok, first),
            (Set, nx, b"1", Reply::Nil, none),
            (Set, get, b"1", Reply::Nil, first),
            (Set, get, b"1", Reply::Bytes(b"0"), first),
            (Set, nx | get, b"1", Reply::Nil, first),
            (Set, nx | get, b"1", Reply::Bytes(b"0"), none),
            (Set, xx | get, b"1", Reply::Nil, none),
            (Set, xx | get, b"1", Reply::Bytes(b"0"), first),
            (SetNx, 0, b"1", Reply::Int(1), first),
            (SetNx, 0, b"1", Reply::Int(0), none),
            (GetSet, 0, b"1", Reply::Nil, first),
            (GetDel, 0, b"", Reply::Nil, none),
            (GetDel, 0, b"", Reply::Bytes(b"0"), first),
            (IncrBy, 0, &[0; 8], Reply::Int(0), first),
            (IncrBy, 0, &[0; 8], error, none),
            (Append, 0, b"", Reply::Int(0), first),
            (MSet, 0, &pairs, Reply::Ok, all),
            (MSet, nx, &pairs, Reply::Int(1), all),
            (MSet, nx, &pairs, Reply::Int(0), none),
            (Del, 0, &both, Reply::Int(0), none),
            (Del, 0, &both, Reply::Int(1), all),
            (CompareAndSet, 0, &pairs, Reply::Int(1), first),
            (CompareAndSet, 0, &pairs, Reply::Int(0), none),
            (Transaction, 0, &steps, Reply::Int(1), [false, true]),
            (Transaction, 0, &steps, Reply::Int(0), none),
            (MGet, 0, &both, Reply::Array(b""), none),
        ] {
            let command = command(kind, flags, value);
            assert_eq!(changes(&command, reply), expected, "{command:?} {reply:?}");
        }
    }

    #[test]
    fn of_several_commands_each_counts_by_its_own_answer() {
        let mut value = Vec::new();
        for (key, kind) in [(b"a", CommandKind::Get), (b"b", CommandKind::SetNx), (b"a", CommandKind::GetSet)]
        {
            let held = Command { kind, flags: 0, session: None, key, value: b"" };
            exec::push_command(&held, &mut value);
        }
        let exec = command(CommandKind::Exec, 0, &value);
        let too_large = Reply::Error(CommandError::TooLarge);
        for (answers, expected) in [
            ([Reply::Nil, Reply::Int(0), Reply::Nil], [true, false]),
            ([Reply::Nil, Reply::Int(1), too_large], [true, true]),
        ] {
            let mut replies = Vec::new();
            answers.iter().for_each(|answer| reply::push_item(answer, &mut replies));
            assert_eq!(changes(&exec, Reply::Replies(&replies)), expected);
        }
        assert_eq!(changes(&exec, Reply::Nil), [false; 2], "a condition did not hold");
    }

    #[test]
    fn another_state_counts_as_a_change_of_every_key() {
        let changes = Changes::new(2);
        let before = [changes.of(0, b"a"), changes.of(1, b"a")];
        changes.note_all(0);
        assert_eq!([changes.of(0, b"a"), changes.of(1, b"a")], [before[0] + 1, before[1]]);
    }
}
