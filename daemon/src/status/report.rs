//! What nodes say, judged together: who leads, how far each is behind, and what is wrong.
//!
//! Invariants:
//! * Digests are compared only where nodes have executed the same.
//! * How far a node is behind is said only if it is known how far the others are.
//! * Text of a node is made printable before it gets into the report.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Serialize, Serializer};

use super::{GroupStatus, NodeStatus, printable};
use crate::exit::Exit;

/// A node that was asked.
pub(super) struct Asked {
    /// Its number in the configuration, or its address.
    pub(super) name: String,
    pub(super) address: String,
    /// What it has answered, or why it has not.
    pub(super) answer: Result<NodeStatus, Silence>,
}

/// Why a node says nothing of itself.
pub(super) enum Silence {
    /// Nobody answers, or nothing that can be understood: what happened.
    Mute(String),
    /// Somebody else answers: who.
    Foreign(String),
}

impl Silence {
    fn text(&self) -> String {
        match self {
            Silence::Mute(text) | Silence::Foreign(text) => printable(text),
        }
    }
}

/// Everything, for people and for programs.
#[derive(Serialize, Debug)]
pub(super) struct Report {
    /// How the command ends.
    #[serde(rename = "exit_code", serialize_with = "code")]
    pub(super) exit: Exit,
    /// What is wrong, in words.
    pub(super) problems: Vec<String>,
    /// In the order in which they were asked.
    pub(super) nodes: Vec<NodeReport>,
    /// In the order of their numbers.
    pub(super) groups: Vec<GroupReport>,
}

fn code<S: Serializer>(exit: &Exit, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(exit.code())
}

/// What a node is fit for.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Serving,
    /// Its start is not taken in by the others yet.
    Starting,
    /// It has lost its disk and is on its way back.
    Rejoining,
    /// Its data, of some group, are not those of others.
    Diverged,
    /// Somebody else answers at its address.
    Foreign,
    /// It does not answer.
    Unreachable,
}

impl State {
    pub(super) fn word(self) -> &'static str {
        match self {
            State::Serving => "serving",
            State::Starting => "starting",
            State::Rejoining => "rejoining",
            State::Diverged => "diverged",
            State::Foreign => "foreign",
            State::Unreachable => "unreachable",
        }
    }
}

/// What a node's disk does.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Disk {
    Ok,
    /// No further segment of the log can be prepared, for want of room or because the disk fails: writes are refused.
    Full,
    /// Small files cannot be written: it hangs or fails.
    Hangs,
}

impl Disk {
    pub(super) fn word(self) -> &'static str {
        match self {
            Disk::Ok => "ok",
            Disk::Full => "full",
            Disk::Hangs => "hangs",
        }
    }
}

/// One node.
#[derive(Serialize, Debug)]
pub(super) struct NodeReport {
    /// Its number, or its address if that is not known.
    pub(super) node: String,
    pub(super) address: String,
    pub(super) state: State,
    /// Why it does not answer.
    pub(super) error: Option<String>,
    pub(super) uptime_s: Option<u64>,
    pub(super) durability: Option<String>,
    /// Nodes to which it has no stream, as it says.
    pub(super) peers_down: Option<Vec<String>>,
    pub(super) disk: Option<Disk>,
    /// All that it says of itself, as it spells it.
    pub(super) facts: BTreeMap<String, String>,
}

impl NodeReport {
    /// The value of a fact that is a number.
    fn count(&self, name: &str) -> Option<u64> {
        self.facts.get(name)?.parse().ok()
    }

    /// Whether it cannot prepare more log, on one of its cores or on all.
    fn is_full(&self) -> bool {
        self.count("disk_full").is_some_and(|full| full > 0)
    }

    /// Whether it misses so many of the nodes, of which there are `count`, that it has no majority. Of several cores each may have one all
    /// the same.
    fn is_cut_off(&self, count: usize) -> bool {
        let down = self.peers_down.as_ref().map_or(0, Vec::len);
        2 * count.saturating_sub(down) <= count
    }

    /// Whether what it says of itself holds for all of its groups. Where that is not so, only what it says of each group counts.
    fn has_one_core(&self) -> bool {
        self.count("cores").is_none_or(|cores| cores <= 1)
    }
}

/// One group on all nodes that answer.
#[derive(Serialize, Debug)]
pub(super) struct GroupReport {
    pub(super) group: u16,
    pub(super) protocol: String,
    /// Whether its protocol has one.
    pub(super) needs_leader: bool,
    /// Who leads.
    pub(super) leader: Option<String>,
    /// How far the group has come, as far as anybody who answers knows; `None`: who leads does not answer, or nobody can be compared with.
    pub(super) position: Option<u64>,
    pub(super) replicas: Vec<ReplicaReport>,
}

impl GroupReport {
    /// The group as this node has it.
    fn on(&self, node: &NodeReport) -> Option<&ReplicaReport> {
        self.replicas.iter().find(|replica| replica.node == node.node)
    }
}

/// A group on one node.
#[derive(Serialize, Debug)]
pub(super) struct ReplicaReport {
    pub(super) node: String,
    pub(super) role: Option<String>,
    /// Who leads, as it knows.
    pub(super) leader: Option<String>,
    pub(super) ballot: Option<String>,
    pub(super) committed: Option<u64>,
    pub(super) executed: Option<u64>,
    /// Positions of the group that it has not executed.
    pub(super) lag: Option<u64>,
    /// Everything that it says of the group, as it spells it.
    pub(super) fields: BTreeMap<String, String>,
}

impl ReplicaReport {
    /// The value of a field that is a number.
    fn count(&self, name: &str) -> Option<usize> {
        self.fields.get(name)?.parse().ok()
    }
}

/// An answer, with the number of the node.
type Answer<'a> = (String, &'a NodeStatus);

impl Report {
    /// `is_whole`: all nodes of the cluster were asked.
    pub(super) fn new(asked: Vec<Asked>, is_whole: bool) -> Self {
        let answers: Vec<Answer<'_>> = asked
            .iter()
            .filter_map(|node| node.answer.as_ref().ok().map(|status| (number(&node.name, status), status)))
            .collect();
        let nodes: Vec<NodeReport> = asked.iter().map(node_report).collect();
        let groups = group_reports(&answers, is_whole);
        let absent = absences(&asked, is_whole);
        let leaderless: Vec<String> =
            groups.iter().filter_map(|group| leaderless(group, is_whole && !absent.is_empty())).collect();
        let impotent = if is_whole { impotence(&nodes, &groups) } else { Vec::new() };
        let differences = differences(&answers);
        let exit = if !differences.is_empty() {
            Exit::Differ
        } else if !absent.is_empty() || !leaderless.is_empty() || !impotent.is_empty() {
            Exit::Unavailable
        } else {
            Exit::Done
        };
        let problems = [absent, leaderless, impotent, troubles(&nodes), differences].concat();
        Self { exit, problems, nodes, groups }
    }

    /// One object, on several lines.
    pub(super) fn json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("numbers, texts and lists, with texts as keys");
        text.push('\n');
        text
    }
}

/// What a node calls itself, or else how it was asked for.
fn number(name: &str, status: &NodeStatus) -> String {
    printable(status.fact("node_id").unwrap_or(name))
}

fn node_report(asked: &Asked) -> NodeReport {
    let mut report = NodeReport {
        node: asked.name.clone(),
        address: asked.address.clone(),
        state: State::Unreachable,
        error: None,
        uptime_s: None,
        durability: None,
        peers_down: None,
        disk: None,
        facts: BTreeMap::new(),
    };
    let status = match &asked.answer {
        Ok(status) => status,
        Err(silence) => {
            report.error = Some(silence.text());
            if let Silence::Foreign(_) = silence {
                report.state = State::Foreign;
            }
            return report;
        }
    };
    report.facts = status.facts.iter().map(|(name, value)| (printable(name), printable(value))).collect();
    let has_role = |role: &str| status.groups.iter().any(|group| group.field("role") == Some(role));
    report.node = number(&asked.name, status);
    let unfit = [State::Diverged, State::Rejoining, State::Starting];
    report.state = unfit.into_iter().find(|state| has_role(state.word())).unwrap_or(State::Serving);
    report.uptime_s = report.count("uptime_in_seconds");
    report.durability = status.fact("durability").map(printable);
    report.peers_down = status
        .fact("peers_down")
        .map(|list| list.split(',').filter(|node| !node.is_empty()).map(printable).collect());
    report.disk = match (report.count("disk_full"), report.count("small_file_trouble_ms")) {
        (_, Some(1..)) => Some(Disk::Hangs),
        (Some(1..), _) => Some(Disk::Full),
        (Some(0), _) => Some(Disk::Ok),
        (None, _) => None,
    };
    report
}

fn group_reports(answers: &[Answer<'_>], is_whole: bool) -> Vec<GroupReport> {
    let mut by_group: BTreeMap<u16, Vec<(&str, &GroupStatus)>> = BTreeMap::new();
    for (node, status) in answers {
        for group in &status.groups {
            by_group.entry(group.group).or_default().push((node.as_str(), group));
        }
    }
    by_group.into_iter().map(|(group, on)| group_report(group, &on, is_whole)).collect()
}

fn group_report(group: u16, on: &[(&str, &GroupStatus)], is_whole: bool) -> GroupReport {
    let field = |name| on.iter().find_map(|(_, status)| status.field(name));
    let protocol = printable(field("protocol").unwrap_or("?"));
    let needs_leader = matches!(protocol.as_str(), "multi" | "fast");
    let leads = |status: &GroupStatus| status.field("leading") == Some("1");
    let leading =
        on.iter().find(|(_, status)| needs_leader && leads(status)).map(|(node, _)| (*node).to_owned());
    // Of a single node more cannot be known than what it says.
    let named =
        || on.iter().find_map(|(_, status)| named_leader(status)).filter(|_| needs_leader && !is_whole);
    let comes_to = |status: &GroupStatus| {
        let count = |name| status.field(name)?.parse::<u64>().ok();
        count("executed").into_iter().chain(count("committed")).max()
    };
    let is_comparable = if needs_leader { leading.is_some() } else { on.len() > 1 };
    let position = on.iter().filter_map(|(_, status)| comes_to(status)).max().filter(|_| is_comparable);
    let replicas = on.iter().map(|(node, status)| replica_report(node, status, position)).collect();
    GroupReport { group, protocol, needs_leader, leader: leading.or_else(named), position, replicas }
}

/// The leader that a node names.
fn named_leader(status: &GroupStatus) -> Option<String> {
    let leader = status.field("leader")?;
    leader.parse::<u64>().ok().map(|leader| leader.to_string())
}

fn replica_report(node: &str, status: &GroupStatus, position: Option<u64>) -> ReplicaReport {
    let count = |name: &str| status.field(name)?.parse::<u64>().ok();
    let executed = count("executed");
    ReplicaReport {
        node: node.to_owned(),
        role: status.field("role").map(printable),
        leader: named_leader(status),
        ballot: status.field("ballot").map(printable),
        committed: count("committed"),
        executed,
        lag: position.zip(executed).map(|(position, executed)| position.saturating_sub(executed)),
        fields: status.fields.iter().map(|(name, value)| (printable(name), printable(value))).collect(),
    }
}

/// Nodes that do not answer, and what that means if they are many.
fn absences(asked: &[Asked], is_whole: bool) -> Vec<String> {
    let line = |node: &Asked| {
        let silence = node.answer.as_ref().err()?;
        let is_named = node.name != node.address;
        let name = if is_named { format!(" {}", node.name) } else { String::new() };
        let as_whom = match silence {
            Silence::Foreign(_) if is_named => format!(" as node {} of this cluster", node.name),
            Silence::Foreign(_) => " as a node of panch".to_owned(),
            Silence::Mute(_) => String::new(),
        };
        Some(format!("Node{name} at {} does not answer{as_whom}: {}.", node.address, silence.text()))
    };
    let mut lines: Vec<String> = asked.iter().filter_map(line).collect();
    let answering = asked.len() - lines.len();
    if is_whole && 2 * answering <= asked.len() {
        let count = asked.len();
        lines.push(format!(
            "{answering} of {count} nodes answer, which is no majority: without one nothing is written."
        ));
    }
    lines
}

/// What is wrong if a group has no leader that answers.
fn leaderless(group: &GroupReport, has_absent: bool) -> Option<String> {
    if !group.needs_leader || group.leader.is_some() {
        return None;
    }
    let mut text = format!("Group {} has no leader", group.group);
    let named = group.replicas.iter().find_map(|replica| Some((&replica.node, replica.leader.as_ref()?)));
    match named.filter(|_| has_absent) {
        Some((by, leader)) => {
            let _ = write!(text, " that answers: node {by} follows node {leader}.");
        }
        None => text.push_str(": it cannot write until one is elected."),
    }
    Some(text)
}

/// What keeps nodes that answer from deciding anything, though all of them may; these are all nodes of the cluster.
fn impotence(nodes: &[NodeReport], groups: &[GroupReport]) -> Vec<String> {
    let mut lines: Vec<String> =
        nodes.iter().filter_map(|node| isolation(node, nodes.len(), groups)).collect();
    let count = nodes.len();
    let is_stuck = |full: usize| full > 0 && 2 * (count - full) <= count;
    // Of a group: on so many nodes its log takes no more.
    let full_on = |group: &GroupReport| nodes.iter().filter(|node| is_full(node, group)).count();
    let stuck: Vec<(u16, usize)> = groups
        .iter()
        .map(|group| (group.group, full_on(group)))
        .filter(|(_, full)| is_stuck(*full))
        .collect();
    let full = match groups {
        [] => nodes.iter().filter(|node| node.is_full() && node.has_one_core()).count(),
        _ if stuck.len() == groups.len() => stuck.iter().map(|(_, full)| *full).min().unwrap_or(0),
        _ => 0,
    };
    if is_stuck(full) {
        lines.push(format!(
            "{full} of {count} nodes cannot prepare more log, which leaves no majority: what nodes have left of it is soon used up, and then \
             nothing is written."
        ));
    } else if !stuck.is_empty() {
        let names: Vec<String> = stuck.iter().map(|(group, _)| group.to_string()).collect();
        lines.push(format!(
            "No majority of the nodes can prepare more log for group {}: what nodes have left of it is soon used up, and then nothing is \
             written there.",
            names.join(", ")
        ));
    }
    lines
}

/// Whether the node cannot prepare more log for the group.
fn is_full(node: &NodeReport, group: &GroupReport) -> bool {
    let said = group.on(node).and_then(|replica| replica.count("log_full"));
    said.map_or_else(|| node.is_full() && node.has_one_core(), |full| full > 0)
}

/// What to say of a node that answers and reaches no majority, for all of its groups or for those of some of its cores.
fn isolation(node: &NodeReport, count: usize, groups: &[GroupReport]) -> Option<String> {
    let said = groups.iter().filter_map(|group| Some((group.group, group.on(node)?.count("reached")?)));
    let said: Vec<(u16, usize)> = said.collect();
    let cut_off: Vec<String> =
        said.iter().filter(|(_, reached)| 2 * reached <= count).map(|(group, _)| group.to_string()).collect();
    let is_whole = if said.is_empty() {
        node.has_one_core() && node.is_cut_off(count)
    } else {
        cut_off.len() == said.len()
    };
    if is_whole {
        Some(format!("Node {} reaches no majority of the nodes: it decides nothing.", node.node))
    } else if !cut_off.is_empty() {
        Some(format!(
            "Node {} reaches no majority of the nodes from the cores that have group {}: it decides nothing there.",
            node.node,
            cut_off.join(", ")
        ))
    } else {
        None
    }
}

/// Nodes that have no room for more log or more data, whose disks hang or fail, and that miss others, as far as they say so.
fn troubles(nodes: &[NodeReport]) -> Vec<String> {
    let mut lines = Vec::new();
    for node in nodes {
        let name = &node.node;
        if let Some(time @ 1..) = node.count("small_file_trouble_ms") {
            let seconds = time.div_ceil(1000);
            lines.push(format!(
                "Node {name} has not been able to write a small file for {seconds} s: its disk hangs or fails. Nodes that start again are \
                 not taken in by it until it can."
            ));
        }
        if node.is_full() {
            lines.push(format!(
                "Node {name} cannot prepare more log, because its disk is full or fails, and refuses {}. Its log says why.",
                if node.has_one_core() { "writes" } else { "writes on one of its cores at least" }
            ));
        }
        if let (Some(size), Some(max @ 1..)) = (node.count("used_memory_dataset"), node.count("maxmemory"))
            && size >= max
        {
            lines.push(format!(
                "The data of node {name} take {} MiB, all of its data_memory_max: it refuses what makes them grow, and serves reads and \
                 deletions.",
                size >> 20
            ));
        }
        if let Some(down) = node.peers_down.as_ref().filter(|down| !down.is_empty()) {
            let from = if node.has_one_core() { "" } else { ", from one of its cores at least" };
            lines.push(format!("Node {name} does not reach node {}{from}.", down.join(", ")));
        }
    }
    lines
}

/// Digests at each place where several nodes have one, and who has them; and nodes that say that their data are not those of others. Empty
/// if nothing is wrong.
fn differences(answers: &[Answer<'_>]) -> Vec<String> {
    let mut places: BTreeMap<(u16, &str), BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    let mut lines = Vec::new();
    for (name, status) in answers {
        for group in &status.groups {
            let mut note = |place, digest| {
                let digests = places.entry((group.group, place)).or_default();
                digests.entry(digest).or_default().push(name);
            };
            if let (Some(frontier), Some(digest)) = (group.field("frontier"), group.field("digest")) {
                note(frontier, digest);
            }
            let checkpoints = group.field("checkpoints").unwrap_or_default().split(';');
            for (place, digest) in checkpoints.filter_map(|checkpoint| checkpoint.split_once(':')) {
                note(place, digest);
            }
            if group.field("diverged").is_some_and(|diverged| diverged != "0") {
                lines.push(format!(
                    "Node {name} does not serve group {}: its data are not those of other nodes. Its log says what to do.",
                    group.group
                ));
            }
        }
    }
    for ((group, place), digests) in places.iter().filter(|(_, digests)| digests.len() > 1) {
        let sides: Vec<String> = digests
            .iter()
            .map(|(digest, nodes)| format!("{} on node {}", printable(digest), nodes.join(", ")))
            .collect();
        lines.push(format!(
            "The data of group {group} differ after the same commands ({}): digest {}.",
            printable(place),
            sides.join("; ")
        ));
    }
    lines
}

/// Node `name`, which has answered with this section.
#[cfg(test)]
pub(super) fn answered(name: &str, section: &str) -> Asked {
    let answer = Ok(super::parse(section));
    Asked { name: name.to_owned(), address: format!("10.0.0.{name}:7001"), answer }
}

/// Node `name`, which does not answer.
#[cfg(test)]
pub(super) fn silent(name: &str) -> Asked {
    let answer = Err(Silence::Mute("Connection refused".to_owned()));
    Asked { name: name.to_owned(), address: format!("10.0.0.{name}:7001"), answer }
}

#[cfg(test)]
mod tests;
