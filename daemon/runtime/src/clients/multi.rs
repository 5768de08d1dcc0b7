//! MULTI, EXEC, DISCARD, WATCH and UNWATCH of one connection.
//!
//! Commands between MULTI and EXEC gather here, as the value of the one command
//! ([`CommandKind::Exec`](panch_wire::command::CommandKind::Exec)) that EXEC proposes. Whatever is refused among them spoils the whole.
//!
//! WATCH is a linearizable read of its keys. Two things are noted of each: a hash of its value, which EXEC makes a condition of the
//! proposed command, judged when that is executed; and how often the key was changed on this node ([`Changes`]) before the read was
//! asked for, which is compared when EXEC comes in, once all that the connection asked for before is answered. Together they are enough:
//! * If the value is another one when the command is executed, the condition does not hold, wherever the change came from.
//! * If it was another one in between and is the same again, a client can know only by having seen it. It sees what nodes have executed.
//!   What was executed on this node before EXEC came in was counted, and nothing is proposed. What it was not, this connection has not
//!   seen, and in the order of execution the whole change, there and back, is before the command or behind it.
//!
//! What a client learns of such a change through another node before that is executed on this one is no reason to refuse: values that
//! it read through this node are those that are there when its commands are executed.

use panch_replica::batcher::BatchLimits;
use panch_wire::batch::size_of_command;
use panch_wire::command::{Command, CommandKind, Reply, list};
use panch_wire::exec::{self, Condition, Step, ValueHash, hash_of};
use panch_wire::ids::GroupId;

/// Answer to MULTI between another and its EXEC.
pub(crate) const NESTED: &str = "ERR MULTI calls can not be nested";
/// Answer to DISCARD where nothing is queued.
pub(crate) const DISCARD_WITHOUT_MULTI: &str = "ERR DISCARD without MULTI";
/// Answer to WATCH between MULTI and EXEC.
pub(crate) const WATCH_INSIDE_MULTI: &str = "ERR WATCH inside MULTI is not allowed";
/// Answer between MULTI and EXEC to what the node answers itself: it has no place among commands that are executed together.
pub(crate) const NOT_INSIDE_MULTI: &str = "ERR Command not allowed inside a transaction";
/// Answer to EXEC with arguments, whatever is queued.
pub(crate) const EXEC_WITH_ARGUMENTS: &str =
    "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command";
/// Answer between MULTI and EXEC while clients hold all the memory that they may.
pub(crate) const NO_MEMORY: &str = "TRYAGAIN the node has no memory for more commands between MULTI and EXEC now (client_memory_max): nothing of them is executed";
/// Before the reason why EXEC executes nothing.
pub(crate) const DISCARDED: &str = "EXECABORT Transaction discarded because of: ";
const EXEC_WITHOUT_MULTI: &str = "ERR EXEC without MULTI";
const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";

/// What a connection has queued and watches.
#[derive(Default)]
pub(crate) struct Multi {
    queue: Option<Queue>,
    watch: Watch,
    /// The request of the last EXEC that had conditions.
    conditional: Option<u64>,
}

/// What a client is told of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// The reply itself.
    Reply,
    /// That its keys are watched.
    Watched,
    /// That a key has changed, so that nothing was executed.
    Changed,
}

/// Commands since MULTI.
#[derive(Default)]
struct Queue {
    /// As in the value of the command to be.
    steps: Vec<u8>,
    /// Of all their keys.
    group: Option<GroupId>,
    /// Something among them was refused.
    is_spoiled: bool,
}

/// Keys that are watched.
#[derive(Default)]
struct Watch {
    /// By ascending keys, as conditions have to be.
    keys: Vec<Watched>,
    group: Option<GroupId>,
    /// The request that asks for the values of further keys, and those.
    pending: Option<(u64, Vec<Watched>)>,
    /// Bytes that the conditions of all take, and of the longest of their keys.
    conditions_size: usize,
    key_size: usize,
    /// The values of some could not be had.
    has_failed: bool,
}

struct Watched {
    key: Box<[u8]>,
    /// How often it had been changed before it was read.
    changes: u64,
    /// Of its value, if there was one.
    hash: Option<ValueHash>,
}

impl Watched {
    fn condition(&self) -> Condition<'_> {
        Condition { key: &self.key, hash: self.hash }
    }
}

/// Keys to be watched once their values are there.
pub(crate) struct Watching {
    group: GroupId,
    keys: Vec<Watched>,
    /// The keys, as MGET has them.
    list: Vec<u8>,
}

impl Watching {
    /// The group of the keys.
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// What reads their values; `None` if all are watched already.
    pub(crate) fn read(&self) -> Option<Command<'_>> {
        let first = self.keys.first()?;
        Some(Command { kind: CommandKind::MGet, flags: 0, session: None, key: &first.key, value: &self.list })
    }
}

/// Why something has no place between MULTI and EXEC, or among the keys that are watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unfit {
    /// Its keys are of another group than those before.
    OtherGroup,
    /// With it the command that EXEC proposes would be larger than so many bytes.
    TooLarge(usize),
}

/// What EXEC comes to.
pub(crate) enum Execution<'a> {
    /// Nothing is executed, because of this.
    Refused(&'static str),
    /// Nothing is executed: a key that is watched has changed.
    Changed,
    /// There is nothing to be executed.
    Empty,
    /// Propose this.
    Proposed(Command<'a>),
}

impl Multi {
    /// Whether commands are queued: MULTI was said, and not EXEC yet.
    pub(crate) fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// Whether the answer to a WATCH is still to come.
    pub(crate) fn is_watching(&self) -> bool {
        self.watch.pending.is_some()
    }

    /// Whether EXEC has to wait until everything before it is answered: only then all is counted that the client may have seen.
    pub(crate) fn must_wait(&self) -> bool {
        self.is_watching() || !self.watch.keys.is_empty()
    }

    /// Commands that are queued; `None` outside MULTI.
    pub(crate) fn queued(&self) -> Option<usize> {
        self.queue.as_ref().map(|queue| exec::commands(&queue.steps).count())
    }

    /// Bytes of what is queued and watched.
    pub(crate) fn size(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.steps.capacity()) + 2 * self.watch.size()
    }

    /// MULTI; false within another.
    pub(crate) fn open(&mut self) -> bool {
        let is_new = self.queue.is_none();
        self.queue.get_or_insert_default();
        is_new
    }

    /// Forgets the queue and what is watched.
    pub(crate) fn clear(&mut self) {
        self.queue = None;
        self.unwatch();
    }

    /// Forgets what is watched.
    pub(crate) fn unwatch(&mut self) {
        self.watch = Watch::default();
    }

    /// Something was refused: if commands are queued they are not executed.
    pub(crate) fn spoil(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.is_spoiled = true;
        }
    }

    /// Queues a command of that group; of several, if `None`.
    ///
    /// # Errors
    /// If it does not fit, which spoils the queue.
    ///
    /// # Panics
    /// If commands are not queued.
    pub(crate) fn push(
        &mut self,
        command: &Command<'_>,
        group: Option<GroupId>,
        limits: &BatchLimits,
    ) -> Result<(), Unfit> {
        let Self { queue, watch, .. } = self;
        let queue = queue.as_mut().expect("the caller has asked");
        let is_other = |of: Option<GroupId>| of.is_some() && of != group;
        let before = queue.steps.len();
        if group.is_none() || is_other(queue.group) || is_other(watch.group) {
            queue.is_spoiled = true;
            return Err(Unfit::OtherGroup);
        }
        if queue.is_spoiled {
            // It will not be executed, so nothing of it is kept.
            return Ok(());
        }
        exec::push_command(command, &mut queue.steps);
        let size_max = limits.command_size_max;
        let is_long =
            command.value.len() > limits.value_size_max && command.longest_value() > limits.value_size_max;
        if is_long || watch.size() + size_of_exec(&queue.steps) > size_max {
            queue.is_spoiled = true;
            queue.steps.truncate(before);
            return Err(Unfit::TooLarge(size_max));
        }
        queue.group = group;
        Ok(())
    }

    /// Begins to watch the keys of a list, those that are not watched yet. `changes` tells how often a key was changed on this node.
    ///
    /// # Errors
    /// If they do not fit.
    pub(crate) fn watch(
        &self,
        keys: &[u8],
        group: Option<GroupId>,
        limits: &BatchLimits,
        changes: impl Fn(GroupId, &[u8]) -> u64,
    ) -> Result<Watching, Unfit> {
        let group = group.ok_or(Unfit::OtherGroup)?;
        if self.watch.group.is_some_and(|of| of != group) {
            return Err(Unfit::OtherGroup);
        }
        let is_new =
            |key: &&[u8]| self.watch.keys.binary_search_by(|watched| (*watched.key).cmp(key)).is_err();
        let mut fresh: Vec<&[u8]> = list::items(keys).filter(is_new).collect();
        fresh.sort_unstable();
        fresh.dedup();
        let mut read = Vec::new();
        fresh.iter().for_each(|key| list::push(&mut read, key));
        let watched = |key: &&[u8]| Watched { key: (*key).into(), changes: changes(group, key), hash: None };
        let watching = Watching { group, keys: fresh.iter().map(watched).collect(), list: read };
        let added: usize = fresh.iter().map(|key| size_of_condition(key)).sum();
        let first = fresh.first().map_or(0, |key| key.len());
        if self.watch.size() + added + first + size_of_exec(&[]) > limits.command_size_max {
            return Err(Unfit::TooLarge(limits.command_size_max));
        }
        Ok(watching)
    }

    /// Their values were asked for with request `number`.
    pub(crate) fn asked(&mut self, number: u64, watching: Watching) {
        for watched in &watching.keys {
            self.watch.conditions_size += size_of_condition(&watched.key);
            self.watch.key_size = self.watch.key_size.max(watched.key.len());
        }
        self.watch.group = Some(watching.group);
        self.watch.pending = Some((number, watching.keys));
    }

    /// What is queued was proposed with request `number`; it is forgotten.
    pub(crate) fn proposed(&mut self, number: u64) {
        self.conditional = (!self.watch.keys.is_empty()).then_some(number);
        self.clear();
    }

    /// Some keys could not be watched: what they were to guard is not executed.
    pub(crate) fn fail(&mut self) {
        self.watch.has_failed = true;
    }

    /// A request was answered. If it asked for values of keys, these are watched from now on.
    pub(crate) fn on_reply(&mut self, number: u64, reply: &Reply<'_>) -> Told {
        if self.conditional.take_if(|of| *of == number).is_some() {
            return if *reply == Reply::Nil { Told::Changed } else { Told::Reply };
        }
        let Some((_, keys)) = self.watch.pending.take_if(|(of, _)| *of == number) else { return Told::Reply };
        let Reply::Array(values) = reply else {
            self.fail();
            return Told::Reply;
        };
        let hash = |value: &[u8]| match value {
            [1, value @ ..] => Some(hash_of(value)),
            _ => None,
        };
        let values = list::items(values).map(hash);
        self.watch
            .keys
            .extend(keys.into_iter().zip(values).map(|(watched, hash)| Watched { hash, ..watched }));
        self.watch.keys.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Told::Watched
    }

    /// EXEC: what is to be done. `scratch` is memory for the command. Nothing is forgotten before [`Multi::clear`].
    pub(crate) fn execution<'a>(
        &'a self,
        changes: impl Fn(GroupId, &[u8]) -> u64,
        scratch: &'a mut Vec<u8>,
    ) -> Execution<'a> {
        let Some(queue) = &self.queue else { return Execution::Refused(EXEC_WITHOUT_MULTI) };
        if queue.is_spoiled || self.watch.has_failed {
            return Execution::Refused(ABORTED);
        }
        let has_changed = |watched: &Watched| {
            self.watch.group.is_none_or(|group| changes(group, &watched.key) != watched.changes)
        };
        if self.watch.keys.iter().any(has_changed) {
            return Execution::Changed;
        }
        let value: &[u8] = if self.watch.keys.is_empty() {
            &queue.steps
        } else {
            scratch.clear();
            self.watch.keys.iter().for_each(|watched| watched.condition().push(scratch));
            scratch.extend_from_slice(&queue.steps);
            scratch
        };
        let Some(first) = exec::steps(value).next() else { return Execution::Empty };
        let key = match first {
            Step::Condition(condition) => condition.key,
            Step::Command(command) => command.key,
        };
        Execution::Proposed(Command { kind: CommandKind::Exec, flags: 0, session: None, key, value })
    }
}

/// Bytes of a condition in the value of the command.
fn size_of_condition(key: &[u8]) -> usize {
    4 + 1 + size_of::<ValueHash>() + key.len()
}

/// Bytes that a command of these steps has in a batch.
fn size_of_exec(steps: &[u8]) -> usize {
    let key = exec::commands(steps).next().map_or(&[][..], |command| command.key);
    size_of_command(&Command { kind: CommandKind::Exec, flags: 0, session: None, key, value: steps })
}

impl Watch {
    /// The most bytes that its conditions take, the key of the first of them counted twice.
    fn size(&self) -> usize {
        self.key_size + self.conditions_size
    }
}

#[cfg(test)]
mod tests;
