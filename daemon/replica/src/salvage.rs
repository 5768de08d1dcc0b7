//! The way back from the loss of a majority: what one node has executed becomes what a new cluster begins with.
//!
//! Nodes that have forgotten votes wait for the others, and if a majority has forgotten, they wait for ever: nobody can tell what was
//! decided. Then an operator gives the cluster up. What a node's snapshots and log show is executed once more, without any other
//! node, and the state of every group is written to a file. A new cluster begins with it as with a snapshot below an empty log.
//!
//! * The log itself is not carried over: promises and votes in it bind nobody in the new cluster, and would mislead it.
//! * (S1) All nodes of a cluster begin with the same state. What they begin with has a name ([`founding_of`]), which is a part of what nodes say
//!   to each other first, and stands in their data directories: nodes that began with different files, or one of them with none, refuse each
//!   other. Every file has a name of its own, drawn when it is written, so what is salvaged anew founds another cluster, whatever is in it.
//!   Who begins twice with the same files means the same cluster: whether a node may be new in that is found as in one that began with nothing
//!   ([`founding`](crate::founding)): the others remember the directories that it was founded with.
//! * (S2) A node begins with all of it or not at all: without a log, no group may lack its snapshot ([`lacks_state`]).
//! * (S3) Its incarnations are higher than any that the files know: the state skips what it takes for a batch of an earlier life.
//! * A node that was outvoted is wrong, and its file is not used. One that was contradicted ([`Undecided`](crate::divergence::Standing)) may
//!   be the only one that is right: somebody has forgotten a vote, and it is for the operator to say who. What it has counts alone,
//!   unless all others have the same.
//! * What was accepted behind the last decided position is in the file beside the state, and what all files have of that is put together
//!   when the cluster begins ([`merge`]): the last that was acknowledged is among it, and the rest was asked for and not answered.
//!
//! ```text
//! file   the snapshot of each group, one behind the other
//!        the remnants of each group, likewise, see `bytes`
//!        text: what it is, a line per group in the same order, and a checksum
//!        length of the text u64, "panchslv"
//! ```

use std::cmp::Reverse;
use std::fmt::Write;

use panch_consensus::protocol::{Order, Protocol, ProtocolKind, Value};
use panch_consensus::remnant::Remnant;
use panch_wire::checksum::checksum;
use panch_wire::client::Commit;
use panch_wire::command::Reply;
use panch_wire::frame::Frame;
use panch_wire::ids::{GroupId, Incarnation, Position, ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};

use crate::any::{AnyReplica, each};
use crate::core::Core;
use crate::divergence::Standing;
use crate::latency::Latencies;
use crate::outbox::{MessageKind, Outbox, ReplyTo};
use crate::replica::Replica;
use crate::transfer::SnapshotFile;

pub mod bytes;
mod merge;

pub use merge::{Pick, merge};

/// The last bytes of a file of salvaged state.
pub const MAGIC: [u8; 8] = *b"panchslv";
/// Bytes behind the text.
pub const TRAILER_SIZE: usize = 16;
/// The longest text, in bytes.
pub const TEXT_SIZE_MAX: u64 = 1 << 20;
const FORMAT: u64 = 3;

/// What was salvaged of one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Salvaged {
    /// The group.
    pub group: GroupId,
    /// Positions in the state: all that its log shows to be decided.
    pub executed: Slot,
    /// The last position of every row without a gap below it; of one row in a log.
    pub rows: Vec<u64>,
    /// Digest of the positions in the state.
    pub covered: u64,
    /// Digest of the state.
    pub digest: u64,
    /// Keys in it.
    pub keys: u64,
    /// Its node knew that it differs from a majority of the others.
    pub diverged: bool,
    /// Its node was contradicted, and no majority has said who is right.
    pub undecided: bool,
    /// The highest incarnation that the state knows.
    pub incarnation: Incarnation,
    /// Bytes of its snapshot.
    pub size: u64,
    /// Values beside the state, not known to be decided, or (in a graph) not known to be executed by all.
    pub remnants: u64,
    /// Their bytes in the file.
    pub remnants_size: u64,
    /// The checksum of these.
    pub remnants_sum: u64,
}

/// What a file of salvaged state says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Salvage {
    /// The cluster.
    pub cluster: u64,
    /// What that began with itself: 0 for nothing.
    pub founding: u64,
    /// The name of this file, drawn when it was written.
    pub name: u64,
    /// The node whose directory it was.
    pub node: ReplicaId,
    /// How many nodes the cluster had.
    pub node_count: usize,
    /// How each group decided.
    pub protocols: Vec<ProtocolKind>,
    /// Which group every key lives in.
    pub routing: String,
    /// The groups in ascending order, and so are their snapshots in the file.
    pub groups: Vec<Salvaged>,
}

/// Why files of salvaged state cannot begin a cluster.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Misfit {
    /// Its name or id is another one.
    #[error(
        "it is of another cluster: `cluster.name` and `cluster.id` must be those that it was salvaged from"
    )]
    Cluster,
    /// A number differs.
    #[error(
        "it is of a cluster with {found} {what}, and the configuration has {wanted}: restore that in `[cluster]`, or salvage with the configuration that the node ran with"
    )]
    Count {
        /// Of what.
        what: &'static str,
        /// In the file.
        found: usize,
        /// In the configuration.
        wanted: usize,
    },
    /// A group would go on with another protocol.
    #[error("group {group} is of protocol \"{}\", and the configuration says \"{}\": restore the protocol", found.name(), wanted.name())]
    Protocol {
        /// The first group that differs.
        group: usize,
        /// In the file.
        found: ProtocolKind,
        /// In the configuration.
        wanted: ProtocolKind,
    },
    /// Keys would be looked for in other groups.
    #[error(
        "its keys were in the groups \"{found}\", and the configuration says \"{wanted}\": restore `cluster.placement`"
    )]
    Routing {
        /// In the file.
        found: String,
        /// In the configuration.
        wanted: String,
    },
    /// Two files of one node.
    #[error("two of the files were salvaged from node {}: give one of each node, the last that was written", .0.0 + 1)]
    Twice(ReplicaId),
    /// Two nodes know different values to be decided.
    #[error("nodes {} and {} know different values to be decided in group {} at {} of row {}: one of them has forgotten a vote. Leave out the file of the one that is wrong", nodes[0].0 + 1, nodes[1].0 + 1, group.0, position.number, position.row)]
    Contradict {
        /// The group.
        group: GroupId,
        /// Where.
        position: Position,
        /// The nodes.
        nodes: [ReplicaId; 2],
    },
    /// They are not of one cluster.
    #[error("the files were salvaged from different clusters: give the files of one")]
    Mixed,
    /// Two nodes had executed the same and have different states.
    #[error("nodes {} and {} have executed the same positions of group {} and have different data: leave out the file of the one that is wrong (if another node agrees with one of them, that one is right)", nodes[0].0 + 1, nodes[1].0 + 1, group.0)]
    Differ {
        /// The group.
        group: GroupId,
        /// The nodes.
        nodes: [ReplicaId; 2],
    },
    /// A node was contradicted, and the files differ.
    #[error("node {} knew that others differ from it in group {}, and no majority had said who is right; the files differ, too, so that only you can judge: leave out the file of node {} and give those of all others, or, if you judge that node right, give its file alone (what others have beyond it is not taken over then, in no group); keep all data directories", node.0 + 1, group.0, node.0 + 1)]
    Undecided {
        /// The group.
        group: GroupId,
        /// The node.
        node: ReplicaId,
    },
    /// Only a state that differs from others is left.
    #[error("the data of group {} differ from what other nodes had, as their node knew: salvage another node", group.0)]
    Diverged {
        /// The group.
        group: GroupId,
    },
}

impl Salvage {
    /// Whether a cluster with these properties can begin with it.
    ///
    /// # Errors
    /// What differs, and what to do.
    pub fn check(
        &self,
        cluster: u64,
        node_count: usize,
        protocols: &[ProtocolKind],
        routing: &str,
    ) -> Result<(), Misfit> {
        let count = |what, found, wanted| Misfit::Count { what, found, wanted };
        if self.cluster != cluster {
            return Err(Misfit::Cluster);
        }
        if self.node_count != node_count {
            return Err(count("nodes", self.node_count, node_count));
        }
        if self.protocols.len() != protocols.len() {
            return Err(count("groups", self.protocols.len(), protocols.len()));
        }
        let mut pairs = self.protocols.iter().copied().zip(protocols.iter().copied()).enumerate();
        if let Some((group, (found, wanted))) = pairs.find(|(_, (found, wanted))| found != wanted) {
            return Err(Misfit::Protocol { group, found, wanted });
        }
        if self.routing != routing {
            return Err(Misfit::Routing { found: self.routing.clone(), wanted: routing.to_owned() });
        }
        Ok(())
    }

    /// The text of a file.
    pub fn render(&self) -> String {
        let protocols: Vec<&str> = self.protocols.iter().map(|kind| kind.name()).collect();
        let mut text = format!(
            "format {FORMAT}\ncluster {:#018x}\nfounding {:#018x}\nname {:#018x}\nnode {}\nnodes {}\nprotocols {}\nrouting {}\n",
            self.cluster,
            self.founding,
            self.name,
            self.node.0 + 1,
            self.node_count,
            protocols.join(","),
            self.routing,
        );
        for it in &self.groups {
            let rows: Vec<String> = it.rows.iter().map(u64::to_string).collect();
            let _ = writeln!(
                text,
                "group {} executed {} rows {} covered {:#018x} digest {:#018x} keys {} diverged {} undecided {} incarnation {} size {} remnants {} of {} sum {:#018x}",
                it.group.0,
                it.executed.0,
                rows.join(","),
                it.covered,
                it.digest,
                it.keys,
                u8::from(it.diverged),
                u8::from(it.undecided),
                it.incarnation.0,
                it.size,
                it.remnants,
                it.remnants_size,
                it.remnants_sum,
            );
        }
        let sum = checksum(text.as_bytes());
        let _ = writeln!(text, "checksum {sum:#018x}");
        text
    }

    /// What the text of a file says; `None` if it is damaged or of another version.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut line = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        (line("format")?.parse::<u64>().ok()? == FORMAT).then_some(())?;
        let cluster = number(line("cluster")?)?;
        let founding = number(line("founding")?)?;
        let name = number(line("name")?)?;
        let node = ReplicaId(u8::try_from(number(line("node")?)?.checked_sub(1)?).ok()?);
        let node_count = usize::try_from(number(line("nodes")?)?).ok()?;
        let protocols =
            line("protocols")?.split(',').map(ProtocolKind::from_name).collect::<Option<Vec<_>>>()?;
        let routing = line("routing")?.to_owned();
        let groups = lines.take_while(|line| !line.starts_with("checksum ")).map(parse_group);
        let groups = groups.collect::<Option<Vec<_>>>()?;
        let found = Self { cluster, founding, name, node, node_count, protocols, routing, groups };
        let numbers = found.groups.iter().map(|it| it.group.index());
        (found.render() == text && numbers.eq(0..found.protocols.len())).then_some(found)
    }
}

/// Whether the text of a file is of a version before this one, which did not tell a node that was contradicted from one that was outvoted.
pub fn is_earlier(text: &str) -> bool {
    let format = text.lines().next().and_then(|line| line.strip_prefix("format ")?.parse::<u64>().ok());
    let end = text.rfind("checksum ").unwrap_or_default();
    let (body, sum) = text.split_at(end);
    format.is_some_and(|format| format < FORMAT)
        && sum.strip_prefix("checksum ").and_then(|sum| number(sum.trim_end()))
            == Some(checksum(body.as_bytes()))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn parse_group(line: &str) -> Option<Salvaged> {
    let words: Vec<&str> = line.split(' ').collect();
    let value = |index: usize| words.get(2 * index + 1).copied();
    let get = |index: usize| number(value(index)?);
    Some(Salvaged {
        group: GroupId(get(0)?.try_into().ok()?),
        executed: Slot(get(1)?),
        rows: value(2)?.split(',').map(|row| row.parse().ok()).collect::<Option<_>>()?,
        covered: get(3)?,
        digest: get(4)?,
        keys: get(5)?,
        diverged: get(6)? != 0,
        undecided: get(7)? != 0,
        incarnation: Incarnation(get(8)?.try_into().ok()?),
        size: get(9)?,
        remnants: get(10)?,
        remnants_size: get(11)?,
        remnants_sum: get(12)?,
    })
}

/// For every group, which of the files has the state that the new cluster builds on: in a log, where most is decided, which holds all
/// that is decided in the others; in a graph, the one that the others have most for. `remnants` are those of each file, by group.
///
/// # Errors
/// Why no choice is right.
pub fn choose(files: &[Salvage], remnants: &[Vec<Vec<Remnant>>]) -> Result<Vec<usize>, Misfit> {
    let Some(first) = files.first() else { return Ok(Vec::new()) };
    for (index, file) in files.iter().enumerate() {
        file.check(first.cluster, first.node_count, &first.protocols, &first.routing)?;
        if file.founding != first.founding {
            return Err(Misfit::Mixed);
        }
        if files[..index].iter().any(|other| other.node == file.node) {
            return Err(Misfit::Twice(file.node));
        }
    }
    (0..first.groups.len()).map(|group| choose_group(files, remnants, group)).collect()
}

fn choose_group(files: &[Salvage], remnants: &[Vec<Vec<Remnant>>], group: usize) -> Result<usize, Misfit> {
    let sound = || files.iter().enumerate().filter(|(_, file)| !file.groups[group].diverged);
    if let Some((doubtful, file)) = sound().find(|(_, file)| file.groups[group].undecided)
        && holds(Rule::UndecidedSalvagedAlone)
    {
        let of = |index: usize| content(&files[index].groups[group], &remnants[index][group]);
        if sound().any(|(index, _)| of(index) != of(doubtful)) {
            return Err(Misfit::Undecided { group: file.groups[group].group, node: file.node });
        }
    }
    for (_, left) in sound() {
        for (_, right) in sound() {
            let [one, other] = [&left.groups[group], &right.groups[group]];
            if one.covered == other.covered && one.digest != other.digest {
                return Err(Misfit::Differ { group: one.group, nodes: [left.node, right.node] });
            }
        }
    }
    let rank = |file: &Salvage| {
        let it = &file.groups[group];
        (
            Reverse(lost_with(files, remnants, group, file)),
            it.executed,
            it.covered,
            it.digest,
            Reverse(file.node),
        )
    };
    let furthest = sound().max_by_key(|(_, file)| rank(file)).map(|(index, _)| index);
    furthest.ok_or(Misfit::Diverged { group: files[0].groups[group].group })
}

/// What is in a file of a group: the positions that are executed, the state, and which values are beside it.
fn content(it: &Salvaged, remnants: &[Remnant]) -> (u64, u64, Vec<(Position, u64)>) {
    let mut values: Vec<_> = remnants.iter().map(|it| (it.position, it.checksum)).collect();
    values.sort_unstable();
    (it.covered, it.digest, values)
}

/// How many positions that another file has executed are lost if the cluster builds on `base`: it lacks them, and no file has their values
/// beside its state. None in a log, if it is the one where most is decided.
pub fn lost_with(files: &[Salvage], remnants: &[Vec<Vec<Remnant>>], group: usize, base: &Salvage) -> u64 {
    let rows = |file: &Salvage| file.groups[group].rows.clone();
    let mut lost = 0;
    for (row, upto) in rows(base).into_iter().enumerate() {
        let others = files.iter().filter(|file| !file.groups[group].diverged);
        let highest = others.filter_map(|file| rows(file).get(row).copied()).max().unwrap_or(0);
        let mut left: Vec<u64> = remnants
            .iter()
            .zip(files)
            .filter(|(_, file)| !file.groups[group].diverged)
            .flat_map(|(remnants, _)| &remnants[group])
            .filter(|it| usize::from(it.position.row) == row)
            .map(|it| it.position.number)
            .filter(|number| *number > upto && *number <= highest)
            .collect();
        left.sort_unstable();
        left.dedup();
        lost += highest.saturating_sub(upto) - left.len() as u64;
    }
    lost
}

/// What a cluster is named that begins with the files of these names after a cluster with the name `before`. Never 0, which is
/// a cluster that began with nothing, nor the number of one that is not known.
pub fn founding_of(cluster: u64, before: u64, files: impl Iterator<Item = u64>) -> u64 {
    let mut names: Vec<u64> = files.collect();
    names.sort_unstable();
    let words = [cluster, before].into_iter().chain(names);
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    checksum(&bytes).clamp(1, u64::MAX - 1)
}

/// The first group of a core that may not begin: the cluster began with a salvaged state, and the core has neither a log nor the state.
pub fn lacks_state(groups: &[GroupId], has_snapshot: impl Fn(GroupId) -> bool) -> Option<GroupId> {
    groups.iter().copied().find(|group| !has_snapshot(*group) && holds(Rule::FoundedWithState))
}

impl Core {
    /// After the replay, instead of a start: what is decided, of which every group begins a snapshot, and the values beside it. The sizes
    /// are for the caller to fill in.
    pub fn salvage(&mut self) -> Vec<(Salvaged, Vec<(Remnant, Value)>)> {
        self.replicas.iter_mut().map(|any| each!(any, replica => replica.salvage())).collect()
    }

    /// Instead of a replay and a start: these values, ascending, take effect in a group, which then begins a snapshot of its state. `None` if
    /// the group is not here.
    pub fn take_over(&mut self, group: GroupId, remnants: Vec<(Remnant, Value)>) -> Option<Salvaged> {
        let index = self.index_of(group)?;
        Some(each!(&mut self.replicas[index], replica => replica.take_over(remnants)))
    }

    /// The next bytes of the snapshot of a group; true if they are the last, or the group is not here.
    pub fn salvage_chunk(&mut self, group: GroupId, into: &mut Vec<u8>, size: usize) -> bool {
        let index = self.index_of(group);
        let any = index.map(|index| &mut self.replicas[index]);
        any.is_none_or(|any| each!(any, replica => replica.machine.snapshot_chunk(into, size)))
    }
}

impl<P: Protocol> Replica<P> {
    fn salvage(&mut self) -> (Salvaged, Vec<(Remnant, Value)>) {
        let remnants = self.protocol.remnants();
        let bodies = remnants.iter().filter_map(|(_, value)| value.body()).map(Frame::id);
        let incarnation = bodies.filter(|id| !id.is_of_client()).map(|id| id.incarnation).max();
        let mut found = self.salvaged();
        found.incarnation = found.incarnation.max(incarnation.unwrap_or_default());
        (found, remnants)
    }

    fn take_over(&mut self, remnants: Vec<(Remnant, Value)>) -> Salvaged {
        let latencies = &mut Latencies::default();
        let executed = self.executed.clone();
        self.protocol.choose_remnants(&executed, remnants, &mut self.effects);
        self.execute_chosen(Default::default(), latencies, &mut Nobody);
        if P::ORDER == Order::Log {
            self.execute_held(latencies, &mut Nobody);
        }
        self.salvaged()
    }

    /// What the state is, of which a snapshot begins.
    fn salvaged(&mut self) -> Salvaged {
        self.machine.begin_snapshot(self.group.id, &self.executed, self.stamp);
        let rows = match P::ORDER {
            Order::Graph => self.group.replica_count as u8,
            Order::Log => 1,
        };
        Salvaged {
            group: self.group.id,
            executed: self.executed(),
            rows: (0..rows).map(|row| self.executed.upto(row)).collect(),
            covered: self.executed.digest(),
            digest: self.machine.digest(),
            keys: self.machine.key_count() as u64,
            diverged: matches!(self.watch.standing(), Standing::Outvoted(_)),
            undecided: matches!(self.watch.standing(), Standing::Undecided(_)),
            incarnation: self.machine.incarnation_max(),
            size: 0,
            remnants: 0,
            remnants_size: 0,
            remnants_sum: 0,
        }
    }
}

/// Wants nothing done: nobody listens while a state is salvaged.
pub struct Nobody;

impl Outbox for Nobody {
    fn send(&mut self, _: ReplicaId, _: GroupId, _: MessageKind, _: &[u8], _: Option<&Frame>) {}
    fn reply(&mut self, _: ReplyTo, _: Reply<'_>, _: Option<&Commit>) {}
    fn load(&mut self, _: GroupId, _: Position, _: panch_wal::Location) {}
    fn snapshot_write(&mut self, _: GroupId, _: Slot, _: u64, _: &[u8], _: bool) {}
    fn snapshot_read(&mut self, _: GroupId, _: ReplicaId, _: SnapshotFile, _: u64, _: usize) {}
    fn snapshot_remove(&mut self, _: GroupId, _: Slot) {}
    fn snapshot_abandon(&mut self, _: GroupId, _: Slot) {}
}

#[cfg(test)]
mod tests;
