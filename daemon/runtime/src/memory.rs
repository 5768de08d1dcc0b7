//! What this node remembers of other nodes over its own restarts, in a file: see [`panch_replica::familiarity`].
//!
//! A life of another node is written down before its hello is accepted. A thread of its own does that ([`crate::notes`]): who says
//! hello waits, and is judged again when it is done. The ends of its logs, which every packet states, are
//! heard in memory and written by the same thread, at a bounded rate: what this node has heard in the
//! last seconds is lost if it crashes, and then a node that comes back without it is noticed by the others only.
//!
//! Invariants:
//! * A hello is accepted only once what it says is durable here. A node that was accepted once is not taken for another one
//!   later, whoever restarted in between.
//! * No core waits for the disk.
//! * The file is there from the first start on: a node that lacks it has lost it.

use std::fmt::Write;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use panch_replica::familiarity::{CORES_MAX, Familiarity, Judgement, Known, LogEnd, Newcomer, Word};
use panch_replica::founding::{Founder, Founders};
use panch_wal::Lsn;
use panch_wire::ids::{Incarnation, REPLICAS_MAX, ReplicaId, ReplicaSet};
use panch_wire::peer::Life;

use crate::identity::IdentityFault;
use crate::notes::Reminder;
use crate::small_file::{SmallFile, is_later};

pub(crate) const FILE: &str = "peers";
const FORMAT: &str = "format 3\n";
/// The number in it.
const FORMAT_NUMBER: u64 = 3;
/// The longest text, in bytes: of each node what was met, and what each has told.
const SIZE_MAX: usize = 64 + (REPLICAS_MAX + 1) * REPLICAS_MAX * (144 + 28 * CORES_MAX);
/// The layout before: nothing that was told by others.
const UNTOLD: &str = "format 2\n";
/// The first layout: lives without a name, and no ends of logs.
const UNNAMED: &str = "format 1\n";

/// What is remembered of all nodes. Shared by the cores.
#[derive(Debug)]
pub(crate) struct PeerMemory {
    now: Mutex<Now>,
    /// Whoever writes holds this; no core does.
    written: Mutex<Written>,
    writes: AtomicU64,
    /// Grows when another node is taken in.
    lives: AtomicU64,
    /// See [`Familiarity::met_revision`].
    met: AtomicU64,
    /// See [`PeerMemory::outdatings`].
    outdatings: AtomicU64,
    /// Wakes the thread that writes.
    pub(crate) reminder: Reminder,
}

/// What counts.
#[derive(Debug)]
struct Now {
    familiarity: Familiarity,
    /// Hellos that are familiar and have to be written down before they count: at most one of each core of a node.
    waiting: Vec<Newcomer>,
}

/// What is on the disk.
#[derive(Debug)]
struct Written {
    /// `None`: nowhere, for tests.
    file: Option<SmallFile>,
    /// The revision that the file holds; `None`: another state than any that counted.
    revision: Option<u64>,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PeerMemory {
    /// What the data directory holds.
    pub(crate) fn open(directory: &Path, reminder: Reminder) -> Result<Self, IdentityFault> {
        let path = directory.join(FILE);
        let (file, text) = SmallFile::open(path.clone(), SIZE_MAX)?;
        let now = match text {
            Some(text) if is_later(&text, FORMAT_NUMBER) => return Err(IdentityFault::Later(path)),
            Some(text) => parse(&text).map_err(|line| IdentityFault::Damaged { path, line })?,
            None => Familiarity::default(),
        };
        Ok(Self::with(Some(file), now, reminder))
    }

    /// Nothing, and nothing is kept.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self::with(None, Familiarity::default(), Reminder::default())
    }

    fn with(file: Option<SmallFile>, familiarity: Familiarity, reminder: Reminder) -> Self {
        let revision = Some(familiarity.revision());
        Self {
            now: Mutex::new(Now { familiarity, waiting: Vec::new() }),
            written: Mutex::new(Written { file, revision }),
            writes: AtomicU64::default(),
            lives: AtomicU64::default(),
            met: AtomicU64::default(),
            outdatings: AtomicU64::default(),
            reminder,
        }
    }

    /// Takes note of how many nodes the cluster has.
    pub(crate) fn set_node_count(&self, count: usize) {
        hold(&self.now).familiarity.set_node_count(count);
    }

    /// What others are to be told has changed if one of these has: the first at once, the second when it is time.
    pub(crate) fn changes(&self) -> (u64, u64) {
        (self.lives.load(Ordering::Acquire), self.met.load(Ordering::Acquire))
    }

    /// What this node tells `to`: see [`Familiarity::words`].
    pub(crate) fn words(&self, me: ReplicaId, to: ReplicaId) -> Vec<Word> {
        hold(&self.now).familiarity.words(me, to).collect()
    }

    /// A node tells what it remembers of another one. Costs no I/O.
    pub(crate) fn hear_word(&self, from: ReplicaId, word: &Word) {
        if hold(&self.now).familiarity.hear_word(from, word) {
            self.outdatings.fetch_add(1, Ordering::AcqRel);
            self.reminder.soon();
        }
    }

    /// Grows when streams of a node have to be closed, by every core: see [`PeerMemory::is_outdated`].
    pub(crate) fn outdatings(&self) -> u64 {
        self.outdatings.load(Ordering::Acquire)
    }

    /// See [`Familiarity::is_outdated`].
    pub(crate) fn is_outdated(&self, node: ReplicaId) -> bool {
        hold(&self.now).familiarity.is_outdated(node)
    }

    /// What was told of a node beyond what is remembered of it: see [`Familiarity::told_of`].
    pub(crate) fn told_of(&self, node: ReplicaId, core: u16) -> (Life, LogEnd) {
        hold(&self.now).familiarity.told_of(node, core)
    }

    /// Who was found to be forgetful since this node started.
    pub(crate) fn disowned(&self) -> ReplicaSet {
        hold(&self.now).familiarity.disowned()
    }

    /// Sees to it that the file is there, and has room for what may have to be written on a full disk.
    ///
    /// # Errors
    /// If it could not be written.
    pub(crate) fn settle(&self) -> Result<(), IdentityFault> {
        let mut written = hold(&self.written);
        if written.file.as_ref().is_some_and(|file| !file.has_room()) {
            written.revision = None;
        }
        drop(written);
        self.write_down().map(drop)
    }

    /// Takes note of what the nodes were when the cluster was founded.
    pub(crate) fn set_founders(&self, founders: Founders) {
        hold(&self.now).familiarity.set_founders(founders);
    }

    /// Takes note of the highest incarnation in the state that the cluster began with.
    pub(crate) fn set_founded_above(&self, incarnation: Incarnation) {
        hold(&self.now).familiarity.set_founded_above(incarnation);
    }

    /// The last incarnation of a node that anything here is from: see [`Familiarity::last_incarnation`].
    pub(crate) fn last_incarnation(&self, node: ReplicaId) -> Incarnation {
        hold(&self.now).familiarity.last_incarnation(node)
    }

    /// What is remembered of a node.
    pub(crate) fn of(&self, node: ReplicaId) -> Known {
        hold(&self.now).familiarity.of(node)
    }

    /// How often the file was written since the node started.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// A node has accepted a hello of this life of this node.
    pub(crate) fn set_recognised(&self, by: ReplicaId) {
        hold(&self.now).familiarity.set_recognised(by);
    }

    /// Everything that is remembered, for a node that has forgotten it: one word per node. No key is in it. A node that was not met
    /// has incarnation 0, and the directory that it was founded with, or 0 if it was absent then.
    pub(crate) fn tell(&self) -> String {
        let now = &hold(&self.now).familiarity;
        let all = (1..).zip(now.known().iter().zip(now.founders()));
        let words = all.filter_map(|(node, (known, founder))| {
            let directory = match founder {
                _ if known.life.incarnation.0 > 0 => return Some(render_word(node, known)),
                Founder::With(directory) => *directory,
                Founder::Absent => 0,
                Founder::Unknown => return None,
            };
            let life = Life { directory, ..Life::default() };
            Some(render_word(node, &Known { life, ends: Vec::new() }))
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Takes over what another node remembers, but for what it says of `me`, where that is more. Not written down yet: that is due once
    /// all have told, and before this node says anything. A node that has lost its disk could be told anything by another one that
    /// does not say that it has.
    ///
    /// # Errors
    /// If it is not what [`PeerMemory::tell`] says.
    pub(crate) fn learn(&self, told: &str, me: ReplicaId) -> io::Result<()> {
        let words: Option<Vec<_>> = told.split_whitespace().map(parse_word).collect();
        let words = words.filter(|words| words.iter().all(|(node, _)| node.index() < REPLICAS_MAX));
        let words = words.ok_or(io::ErrorKind::InvalidData)?;
        let mut now = hold(&self.now);
        words.iter().for_each(|(node, known)| now.familiarity.learn(me, *node, known));
        Ok(())
    }

    /// Looks at who says hello. `None`: it is familiar, which has to be written down first; to be asked again when the thread that writes
    /// has written. Does not wait for the disk.
    pub(crate) fn judge(&self, newcomer: &Newcomer) -> Option<Judgement> {
        let mut now = hold(&self.now);
        let mut after = now.familiarity.clone();
        let judgement = after.judge(newcomer);
        if after.revision() == now.familiarity.revision() {
            // A judgement may be worth noting all the same, for as long as this node runs.
            now.familiarity = after;
            return Some(judgement);
        }
        let is_other = |it: &Newcomer| (it.node, it.core) != (newcomer.node, newcomer.core);
        now.waiting.retain(is_other);
        now.waiting.push(*newcomer);
        drop(now);
        self.reminder.now();
        None
    }

    /// Whoever is at the node's address says that it is in this life.
    pub(crate) fn confirm(&self, node: ReplicaId, life: Life) {
        hold(&self.now).familiarity.confirm(node, life);
    }

    /// A node says how far the log of one of its cores is durable. Costs no I/O.
    pub(crate) fn hear(&self, node: ReplicaId, life: Incarnation, core: u16, log_end: u64) {
        let familiarity = &mut hold(&self.now).familiarity;
        familiarity.hear(node, life, core, Lsn(log_end));
        self.met.store(familiarity.met_revision(), Ordering::Release);
    }

    /// Writes down what was heard, and who waits for it; false if that was nothing. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// If it could not be written: who waits goes on waiting.
    pub(crate) fn write_down(&self) -> Result<bool, IdentityFault> {
        let mut written = hold(&self.written);
        let Written { file, revision } = &mut *written;
        let now = hold(&self.now);
        let (mut after, waiting) = (now.familiarity.clone(), now.waiting.clone());
        drop(now);
        for newcomer in &waiting {
            after.judge(newcomer);
        }
        if *revision == Some(after.revision()) {
            self.let_in(&waiting);
            return Ok(false);
        }
        // Of what is there after an error nobody knows whether it is this.
        *revision = None;
        if let Some(file) = file {
            file.store(&render(&after, FORMAT))?;
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        let counts = self.let_in(&waiting);
        // What was heard since is in memory only; it can make a judgement stricter, never milder.
        let now = hold(&self.now);
        let is_same = now.familiarity.known() == after.known() && now.familiarity.told().eq(after.told());
        drop(now);
        *revision = is_same.then_some(counts);
        Ok(true)
    }

    /// What was written down counts from now on; the revision then.
    fn let_in(&self, newcomers: &[Newcomer]) -> u64 {
        let mut now = hold(&self.now);
        let before = now.familiarity.revision();
        for newcomer in newcomers {
            now.familiarity.judge(newcomer);
            now.waiting.retain(|it| it != newcomer);
        }
        self.met.store(now.familiarity.met_revision(), Ordering::Release);
        if now.familiarity.revision() != before {
            self.lives.fetch_add(1, Ordering::AcqRel);
        }
        now.familiarity.revision()
    }
}

fn remembered(known: &[Known; REPLICAS_MAX]) -> impl Iterator<Item = (u64, &Known)> {
    (1..).zip(known).filter(|(_, known)| known.life.incarnation.0 > 0)
}

fn render(now: &Familiarity, format: &str) -> String {
    let mut body = format.to_owned();
    for (node, known) in remembered(now.known()) {
        body += &render_line(node, known);
    }
    for (by, node, known) in now.told().filter(|_| format == FORMAT) {
        write!(body, "told by {} ", u64::from(by.0) + 1).expect("a string takes everything");
        body += &render_line(u64::from(node.0) + 1, known);
    }
    with_checksum(body)
}

fn render_line(node: u64, known: &Known) -> String {
    let Life { incarnation, directory, name } = known.life;
    let ends = render_ends(known);
    format!(
        "node {node} incarnation {} directory {directory:#018x} life {name:#018x} ends {ends}\n",
        incarnation.0
    )
}

/// The text of a small file with its last line.
pub(crate) fn with_checksum(body: String) -> String {
    let sum = panch_wire::checksum::checksum(body.as_bytes());
    format!("{body}checksum {sum:#018x}\n")
}

/// `1.ff,0.0`: by core, the incarnation in which an end was said, and the end.
fn render_ends(known: &Known) -> String {
    let mut text = String::new();
    for end in &known.ends {
        let separator = if text.is_empty() { "" } else { "," };
        write!(text, "{separator}{}.{:x}", end.since.0, end.lsn.0).expect("a string takes everything");
    }
    if text.is_empty() { "-".into() } else { text }
}

fn parse_ends(text: &str) -> Option<Vec<LogEnd>> {
    if text == "-" {
        return Some(Vec::new());
    }
    let ends = text.split(',').map(|end| {
        let (since, lsn) = end.split_once('.')?;
        Some(LogEnd { since: Incarnation(since.parse().ok()?), lsn: Lsn(parse_hex(lsn)?) })
    });
    ends.collect::<Option<Vec<_>>>().filter(|ends| ends.len() <= CORES_MAX)
}

fn parse_hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// One word of [`PeerMemory::tell`]. `node` is the number that people know.
pub(crate) fn render_word(node: u8, known: &Known) -> String {
    let Life { incarnation, directory, name } = known.life;
    format!("{node}:{}:{directory:x}:{name:x}:{}", incarnation.0, render_ends(known))
}

/// What [`PeerMemory::tell`] says, as node, incarnation and directory; `None` if it is something else.
pub(crate) fn words_of(told: &str) -> Option<Vec<(ReplicaId, Incarnation, u64)>> {
    let words = told.split_whitespace().map(|word| {
        let (node, Known { life, .. }) = parse_word(word)?;
        Some((node, life.incarnation, life.directory))
    });
    words.collect()
}

/// One word of [`PeerMemory::tell`].
fn parse_word(word: &str) -> Option<(ReplicaId, Known)> {
    let (node, incarnation, directory, name, ends) = match word.split(':').collect::<Vec<_>>()[..] {
        [node, incarnation, directory] => (node, incarnation, directory, "0", "-"),
        [node, incarnation, directory, name, ends] => (node, incarnation, directory, name, ends),
        _ => return None,
    };
    let node = ReplicaId(node.parse::<u8>().ok()?.checked_sub(1)?);
    let incarnation = Incarnation(incarnation.parse().ok()?);
    let life = Life { incarnation, directory: parse_hex(directory)?, name: parse_hex(name)? };
    let known = Known { life, ends: parse_ends(ends)? };
    Some((node, known))
}

/// Parses the file; the number of the first bad line as the error.
fn parse(text: &str) -> Result<Familiarity, usize> {
    let is_unnamed = text.starts_with(UNNAMED);
    let mut known: [Known; REPLICAS_MAX] = Default::default();
    let mut told = Vec::new();
    let mut count = 1;
    for line in text.lines().skip(1).take_while(|line| !line.starts_with("checksum ")) {
        count += 1;
        let (by, rest) = match line.strip_prefix("told by ").and_then(|rest| rest.split_once(' ')) {
            Some((by, rest)) => (Some(parse_node(by).ok_or(count)?), rest),
            None => (None, line),
        };
        let (node, of_node) = parse_line(rest, is_unnamed).ok_or(count)?;
        match by {
            Some(by) => told.push((by, node, of_node)),
            None => known[node.index()] = of_node,
        }
    }
    let mut all = Familiarity::new(known);
    for (by, node, of_node) in told {
        all.set_told(by, node, of_node);
    }
    let expected = match text {
        _ if is_unnamed => render_unnamed(all.known()),
        text if text.starts_with(UNTOLD) => render(&all, UNTOLD),
        _ => render(&all, FORMAT),
    };
    if expected == text { Ok(all) } else { Err(count + 1) }
}

/// The number that people know.
fn parse_node(text: &str) -> Option<ReplicaId> {
    let node = text.parse::<u8>().ok()?.checked_sub(1)?;
    (usize::from(node) < REPLICAS_MAX).then_some(ReplicaId(node))
}

/// What [`render_line`] says.
fn parse_line(line: &str, is_unnamed: bool) -> Option<(ReplicaId, Known)> {
    let words: Vec<&str> = line.split(' ').collect();
    let (node, incarnation, directory, name, ends) = match words[..] {
        ["node", node, "incarnation", incarnation, "directory", directory] if is_unnamed => {
            (node, incarnation, directory, "0x0", "-")
        }
        ["node", node, "incarnation", incarnation, "directory", directory, "life", name, "ends", ends]
            if !is_unnamed =>
        {
            (node, incarnation, directory, name, ends)
        }
        _ => return None,
    };
    let number = |text: &str| parse_hex(text.strip_prefix("0x")?);
    let life = Life {
        incarnation: Incarnation(incarnation.parse().ok()?),
        directory: number(directory)?,
        name: number(name)?,
    };
    Some((parse_node(node)?, Known { life, ends: parse_ends(ends)? }))
}

/// As the first layout had it, to compare the checksum.
fn render_unnamed(known: &[Known; REPLICAS_MAX]) -> String {
    let mut body = UNNAMED.to_owned();
    for (node, Known { life, .. }) in remembered(known) {
        let (incarnation, directory) = (life.incarnation.0, life.directory);
        body += &format!("node {node} incarnation {incarnation} directory {directory:#018x}\n");
    }
    with_checksum(body)
}

#[cfg(test)]
mod tests;
