//! What this node remembers of other nodes over its own restarts: of each the highest incarnation that it took in, and the
//! data directory that it ran with.
//!
//! A node whose disk was replaced by an empty one has forgotten its votes. It shows in its hello: the directory is another one,
//! or an earlier incarnation comes again. Such a node is refused, unless it says that it knows, and is on its way back. A copy of a
//! directory that was made since the node's last start cannot be told from the directory: it must be exact.
//!
//! Invariants:
//! * A hello is accepted only once what it says is durable here. A node that was accepted once is not taken for another one
//!   later, whoever restarted in between.
//! * What is remembered never goes back to an earlier incarnation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use panch_replica::founding::{Founder, Founders};
use panch_wire::ids::{Incarnation, REPLICAS_MAX, ReplicaId};
use panch_wire::peer::{Hello, Purpose};

use crate::identity::{IdentityFault, read, replace};

const FILE: &str = "peers";
const FORMAT: &str = "format 1\n";

/// What is remembered of one node; nothing: incarnation 0.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Known {
    incarnation: Incarnation,
    directory: u64,
}

/// What is remembered of all nodes. Shared by the cores.
#[derive(Debug)]
pub(crate) struct PeerMemory {
    /// Where it is kept; `None`: nowhere, for tests.
    directory: Option<PathBuf>,
    known: Mutex<[Known; REPLICAS_MAX]>,
    /// What the nodes were when the cluster was founded: all that is known of those that were not met.
    founders: Founders,
}

/// What a hello comes to, as far as this memory can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Judgement {
    /// It is who it was, or says why not.
    Familiar,
    /// It has forgotten what it was.
    Forgetful,
}

impl PeerMemory {
    /// What the data directory holds.
    pub(crate) fn open(directory: &Path) -> Result<Self, IdentityFault> {
        let path = directory.join(FILE);
        let known = match read(&path)? {
            Some(text) => parse(&text).map_err(|line| IdentityFault::Damaged { path, line })?,
            None => Default::default(),
        };
        let (directory, founders) = (Some(directory.to_path_buf()), Founders::default());
        Ok(Self { directory, known: Mutex::new(known), founders })
    }

    /// Nothing, and nothing is kept.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self { directory: None, known: Mutex::default(), founders: Founders::default() }
    }

    /// Takes note of what the nodes were when the cluster was founded.
    pub(crate) fn set_founders(&mut self, founders: Founders) {
        self.founders = founders;
    }

    fn known(&self) -> MutexGuard<'_, [Known; REPLICAS_MAX]> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest incarnation remembered of a node; 0 if none.
    pub(crate) fn incarnation(&self, node: ReplicaId) -> Incarnation {
        self.known().get(node.index()).map_or(Incarnation(0), |known| known.incarnation)
    }

    /// Everything that is remembered, for a node that has forgotten it: one word per node. A node that was not met has incarnation 0,
    /// and the directory that it was founded with, or 0 if it was absent then.
    pub(crate) fn tell(&self) -> String {
        let known = self.known();
        let all = (1..).zip(known.iter().zip(&self.founders));
        let words = all.filter_map(|(node, (known, founder))| match founder {
            _ if known.incarnation.0 > 0 => Some(render_word(node, known.incarnation, known.directory)),
            Founder::With(directory) => Some(render_word(node, Incarnation(0), *directory)),
            Founder::Absent => Some(render_word(node, Incarnation(0), 0)),
            Founder::Unknown => None,
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Takes over what another node remembers, but for what it says of `me`, where that is of a later incarnation. Durable when
    /// it returns. A node that has lost its disk could be told anything by another one that does not say that it has.
    ///
    /// # Errors
    /// If it is not what [`PeerMemory::tell`] says, or could not be written down.
    pub(crate) fn learn(&self, told: &str, me: ReplicaId) -> io::Result<()> {
        let mut all = self.known();
        let mut after = *all;
        for word in told.split_whitespace() {
            let (node, known) = parse_word(word).ok_or(io::ErrorKind::InvalidData)?;
            let place = after.get_mut(node.index()).ok_or(io::ErrorKind::InvalidData)?;
            if node != me && known.incarnation > place.incarnation {
                *place = known;
            }
        }
        if let Some(directory) = self.directory.as_ref().filter(|_| after != *all) {
            replace(directory, FILE, &render(&after))?;
        }
        *all = after;
        Ok(())
    }

    /// Looks at who says hello, and remembers it if it is familiar. Blocks for as long as a small file takes to be written, at
    /// the first hello of a life of another node.
    ///
    /// # Errors
    /// If it could not be written down: the hello must not be accepted now.
    pub(crate) fn judge(&self, hello: &Hello) -> io::Result<Judgement> {
        let mut all = self.known();
        let Some(known) = all.get(hello.node.index()).copied() else { return Ok(Judgement::Forgetful) };
        let new = Known { incarnation: hello.incarnation, directory: hello.directory };
        if new == known {
            return Ok(Judgement::Familiar);
        }
        let expected = match self.founders[hello.node.index()] {
            _ if known.incarnation > Incarnation(0) => Some(known.directory),
            Founder::With(directory) => Some(directory),
            Founder::Absent | Founder::Unknown => None,
        };
        let same_directory = expected.is_none_or(|expected| new.directory == expected);
        let returning = hello.purpose == Purpose::Rejoin && new.incarnation > known.incarnation;
        if new.incarnation < known.incarnation || !same_directory && !returning {
            return Ok(Judgement::Forgetful);
        }
        let mut after = *all;
        after[hello.node.index()] = new;
        if let Some(directory) = &self.directory {
            replace(directory, FILE, &render(&after))?;
        }
        *all = after;
        Ok(Judgement::Familiar)
    }
}

fn render(known: &[Known; REPLICAS_MAX]) -> String {
    let mut body = FORMAT.to_owned();
    for (node, known) in (1..).zip(known).filter(|(_, known)| known.incarnation.0 > 0) {
        body +=
            &format!("node {node} incarnation {} directory {:#018x}\n", known.incarnation.0, known.directory);
    }
    let sum = panch_wire::checksum::checksum(body.as_bytes());
    format!("{body}checksum {sum:#018x}\n")
}

/// One word of [`PeerMemory::tell`]. `node` is the number that people know.
pub(crate) fn render_word(node: u8, incarnation: Incarnation, directory: u64) -> String {
    format!("{node}:{}:{directory:x}", incarnation.0)
}

/// What [`PeerMemory::tell`] says, as node, incarnation and directory; `None` if it is something else.
pub(crate) fn words_of(told: &str) -> Option<Vec<(ReplicaId, Incarnation, u64)>> {
    let words = told.split_whitespace().map(|word| {
        let (node, known) = parse_word(word)?;
        Some((node, known.incarnation, known.directory))
    });
    words.collect()
}

/// One word of [`PeerMemory::tell`].
fn parse_word(word: &str) -> Option<(ReplicaId, Known)> {
    let [node, incarnation, directory] = word.split(':').collect::<Vec<_>>()[..] else { return None };
    let node = ReplicaId(node.parse::<u8>().ok()?.checked_sub(1)?);
    let incarnation = Incarnation(incarnation.parse().ok()?);
    Some((node, Known { incarnation, directory: u64::from_str_radix(directory, 16).ok()? }))
}

/// Parses the file; the number of the first bad line as the error.
fn parse(text: &str) -> Result<[Known; REPLICAS_MAX], usize> {
    let mut all = [Known::default(); REPLICAS_MAX];
    let mut count = 1;
    for line in text.lines().skip(1).take_while(|line| !line.starts_with("checksum ")) {
        count += 1;
        let words: Vec<&str> = line.split(' ').collect();
        let ["node", node, "incarnation", incarnation, "directory", directory] = words[..] else {
            return Err(count);
        };
        let node = node.parse::<usize>().ok().and_then(|node| all.get_mut(node.checked_sub(1)?));
        let directory = directory.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let (Some(node), Ok(incarnation), Some(directory)) = (node, incarnation.parse(), directory) else {
            return Err(count);
        };
        *node = Known { incarnation: Incarnation(incarnation), directory };
    }
    if render(&all) == text { Ok(all) } else { Err(count + 1) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn hello(incarnation: u32, directory: u64, purpose: Purpose) -> Hello {
        Hello {
            node: ReplicaId(2),
            incarnation: Incarnation(incarnation),
            directory,
            purpose,
            ..Hello::new(1)
        }
    }

    #[test]
    fn a_node_with_an_emptied_directory_is_forgetful_until_it_says_that_it_rejoins() {
        use Judgement::{Familiar, Forgetful};
        use Purpose::{Rejoin, Stream};
        let memory = PeerMemory::empty();
        for (incarnation, directory, purpose, judgement) in [
            (3, 7, Stream, Familiar),
            (4, 7, Stream, Familiar),
            (3, 7, Stream, Forgetful),
            // Emptied: its incarnation counts from the beginning, and gets past the one remembered some day.
            (1, 8, Stream, Forgetful),
            (4, 8, Stream, Forgetful),
            (5, 8, Stream, Forgetful),
            (4, 8, Rejoin, Forgetful),
            (5, 8, Rejoin, Familiar),
            (5, 8, Stream, Familiar),
            (6, 8, Stream, Familiar),
            (7, 7, Stream, Forgetful),
        ] {
            let case = (incarnation, directory, purpose);
            assert_eq!(memory.judge(&hello(incarnation, directory, purpose)).unwrap(), judgement, "{case:?}");
        }
        assert_eq!(memory.incarnation(ReplicaId(2)), Incarnation(6));
        assert_eq!(memory.incarnation(ReplicaId(1)), Incarnation(0));
    }

    #[test]
    fn a_node_that_was_not_met_comes_with_the_directory_that_it_was_founded_with() {
        let mut memory = PeerMemory::empty();
        let mut founders = Founders::default();
        (founders[1], founders[2]) = (Founder::Absent, Founder::With(7));
        memory.set_founders(founders);
        assert_eq!(memory.tell(), "2:0:0 3:0:7");
        assert_eq!(memory.judge(&hello(1, 8, Purpose::Stream)).unwrap(), Judgement::Forgetful);
        assert_eq!(memory.judge(&hello(1, 7, Purpose::Stream)).unwrap(), Judgement::Familiar);
        assert_eq!(memory.judge(&hello(2, 8, Purpose::Rejoin)).unwrap(), Judgement::Familiar);
        let other = Hello { node: ReplicaId(1), ..hello(1, 8, Purpose::Stream) };
        assert_eq!(memory.judge(&other).unwrap(), Judgement::Familiar);
        assert_eq!(words_of(&memory.tell()).unwrap().len(), 2);
    }

    #[test]
    fn what_was_accepted_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let memory = PeerMemory::open(dir.path()).unwrap();
        assert_eq!(memory.judge(&hello(3, 7, Purpose::Stream)).unwrap(), Judgement::Familiar);
        let memory = PeerMemory::open(dir.path()).unwrap();
        assert_eq!(memory.incarnation(ReplicaId(2)), Incarnation(3));
        assert_eq!(memory.judge(&hello(4, 8, Purpose::Stream)).unwrap(), Judgement::Forgetful);
    }

    #[test]
    fn what_others_remember_is_learned_where_it_is_newer_and_not_of_oneself() {
        let (told, memory) = (PeerMemory::empty(), PeerMemory::empty());
        told.judge(&hello(3, 7, Purpose::Stream)).unwrap();
        told.judge(&Hello { node: ReplicaId(0), ..hello(9, 5, Purpose::Stream) }).unwrap();
        memory.learn(&told.tell(), ReplicaId(0)).unwrap();
        assert_eq!(memory.incarnation(ReplicaId(0)), Incarnation(0));
        assert_eq!(memory.judge(&hello(1, 8, Purpose::Stream)).unwrap(), Judgement::Forgetful);
        memory.judge(&hello(4, 7, Purpose::Stream)).unwrap();
        memory.learn(&told.tell(), ReplicaId(0)).unwrap();
        assert_eq!(memory.incarnation(ReplicaId(2)), Incarnation(4));
        for foreign in ["3", "3:1", "0:1:2", "10:1:2", "3:x:2", "3:1:y", "3:1:2:4"] {
            assert!(memory.learn(foreign, ReplicaId(0)).is_err(), "{foreign}");
        }
        assert!(9 * "9:4294967295:0123456789abcdef ".len() < panch_wire::peer::HelloReply::TEXT_SIZE_MAX);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        PeerMemory::open(dir.path()).unwrap().judge(&hello(3, 7, Purpose::Stream)).unwrap();
        let file = dir.path().join(FILE);
        let text = fs::read_to_string(&file).unwrap();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            fs::write(&file, bytes).unwrap();
            assert!(PeerMemory::open(dir.path()).is_err(), "flip at {at}");
        }
    }
}
