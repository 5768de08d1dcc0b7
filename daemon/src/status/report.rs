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
    pub(super) answer: Result<NodeStatus, String>,
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
            State::Unreachable => "unreachable",
        }
    }
}

/// What a node's disk does.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Disk {
    Ok,
    /// There is no room for more log: writes are refused.
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
        let differences = differences(&answers);
        let exit = if !differences.is_empty() {
            Exit::Differ
        } else if !absent.is_empty() || !leaderless.is_empty() {
            Exit::Unavailable
        } else {
            Exit::Done
        };
        let problems = [absent, leaderless, troubles(&nodes), differences].concat();
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
        Err(error) => {
            report.error = Some(printable(error));
            return report;
        }
    };
    let count = |name: &str| status.fact(name)?.parse::<u64>().ok();
    let has_role = |role: &str| status.groups.iter().any(|group| group.field("role") == Some(role));
    report.node = number(&asked.name, status);
    let unfit = [State::Diverged, State::Rejoining, State::Starting];
    report.state = unfit.into_iter().find(|state| has_role(state.word())).unwrap_or(State::Serving);
    report.uptime_s = count("uptime_in_seconds");
    report.durability = status.fact("durability").map(printable);
    report.peers_down = status
        .fact("peers_down")
        .map(|list| list.split(',').filter(|node| !node.is_empty()).map(printable).collect());
    report.disk = match (count("disk_full"), count("small_file_trouble_ms")) {
        (_, Some(1..)) => Some(Disk::Hangs),
        (Some(1..), _) => Some(Disk::Full),
        (Some(0), _) => Some(Disk::Ok),
        (None, _) => None,
    };
    report.facts = status.facts.iter().map(|(name, value)| (printable(name), printable(value))).collect();
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
        let error = node.answer.as_ref().err()?;
        let name = if node.name == node.address { String::new() } else { format!(" {}", node.name) };
        Some(format!("Node{name} at {} does not answer: {}.", node.address, printable(error)))
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

/// Nodes whose disks are full, hang or fail, and that miss others, as far as they say so.
fn troubles(nodes: &[NodeReport]) -> Vec<String> {
    let mut lines = Vec::new();
    for node in nodes {
        let name = &node.node;
        match node.disk {
            Some(Disk::Hangs) => {
                let time = node.facts.get("small_file_trouble_ms").and_then(|time| time.parse::<u64>().ok());
                let seconds = time.unwrap_or_default().div_ceil(1000);
                lines.push(format!(
                    "Node {name} has not been able to write a small file for {seconds} s: its disk hangs or fails. Nodes that start again are \
                     not taken in by it until it can."
                ));
            }
            Some(Disk::Full) => {
                lines.push(format!(
                    "The disk of node {name} is full: it has no room for more log, and refuses writes."
                ));
            }
            Some(Disk::Ok) | None => {}
        }
        if let Some(down) = node.peers_down.as_ref().filter(|down| !down.is_empty()) {
            lines.push(format!("Node {name} does not reach node {}.", down.join(", ")));
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
    let answer = Err("Connection refused".to_owned());
    Asked { name: name.to_owned(), address: format!("10.0.0.{name}:7001"), answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(line: &str) -> String {
        format!("disk_full:0\r\npeers_down:\r\ngroup_3:{line}\r\n")
    }

    fn multi(leading: u8, leader: &str, executed: u64) -> String {
        group(&format!(
            "protocol=multi,role=x,leader={leader},leading={leading},committed={executed},executed={executed}"
        ))
    }

    fn lags(report: &Report) -> Vec<Option<u64>> {
        report.groups[0].replicas.iter().map(|replica| replica.lag).collect()
    }

    #[test]
    fn who_is_behind_is_told_by_who_leads() {
        let (leader, close, far) = (multi(1, "1", 120), multi(0, "1", 118), multi(0, "1", 20));
        let all = vec![answered("1", &leader), answered("2", &close), answered("3", &far)];
        let report = Report::new(all, true);
        assert_eq!((lags(&report), report.exit), (vec![Some(0), Some(2), Some(100)], Exit::Done));
        assert_eq!(report.groups[0].leader.as_deref(), Some("1"));
        assert_eq!(report.problems, [""; 0]);
        // A single node does not know how far the leader is.
        let report = Report::new(vec![answered("2", &close)], false);
        assert_eq!((lags(&report), report.exit), (vec![None], Exit::Done));
        assert_eq!(report.groups[0].leader.as_deref(), Some("1"), "so it says");
        let report = Report::new(vec![answered("1", &leader)], false);
        assert_eq!(lags(&report), [Some(0)]);
    }

    #[test]
    fn groups_without_leaders_are_compared_with_whoever_is_furthest() {
        let line = |executed| group(&format!("protocol=epaxos,leader=-,committed=0,executed={executed}"));
        let report = Report::new(vec![answered("1", &line(7)), answered("2", &line(9))], true);
        assert_eq!((lags(&report), report.exit), (vec![Some(2), Some(0)], Exit::Done));
        assert!(!report.groups[0].needs_leader);
    }

    #[test]
    fn a_node_that_is_missing_and_a_group_without_a_leader_are_no_success() {
        let follower = || answered("2", &multi(0, "1", 5));
        let report = Report::new(vec![answered("1", &multi(1, "1", 5)), follower(), silent("3")], true);
        assert_eq!(report.exit, Exit::Unavailable);
        assert_eq!(report.problems, ["Node 3 at 10.0.0.3:7001 does not answer: Connection refused."]);
        assert_eq!(report.nodes[2].state, State::Unreachable);

        let report = Report::new(vec![silent("1"), follower(), silent("3")], true);
        assert_eq!(report.exit, Exit::Unavailable);
        assert!(report.problems[2].starts_with("1 of 3 nodes answer"), "{:?}", report.problems);
        assert_eq!(report.problems[3], "Group 3 has no leader that answers: node 2 follows node 1.");
        assert_eq!(lags(&report), [None]);

        let nobody = || multi(0, "none", 5);
        let report = Report::new(vec![answered("1", &nobody()), answered("2", &nobody())], true);
        assert_eq!(report.exit, Exit::Unavailable);
        assert_eq!(report.problems, ["Group 3 has no leader: it cannot write until one is elected."]);
        let report = Report::new(vec![answered("1", &nobody())], false);
        assert_eq!(report.exit, Exit::Unavailable);
        assert_eq!(Report::new(vec![silent("1")], false).exit, Exit::Unavailable);
    }

    #[test]
    fn disks_and_peers_that_fail_are_worth_a_line() {
        let of = |lines: &str| {
            let report = Report::new(vec![answered("2", &format!("node_id:2\r\n{lines}"))], false);
            (report.problems, report.nodes[0].disk, report.exit)
        };
        assert_eq!(
            of("disk_full:0\r\nsmall_file_trouble_ms:0\r\npeers_down:\r\n"),
            (vec![], Some(Disk::Ok), Exit::Done)
        );
        assert_eq!(of("small_file_trouble_ms:soon\r\n"), (vec![], None, Exit::Done), "an older version");
        let (lines, disk, _) = of("disk_full:0\r\nsmall_file_trouble_ms:2100\r\n");
        assert!(
            lines.len() == 1 && lines[0].starts_with("Node 2") && lines[0].contains("for 3 s"),
            "{lines:?}"
        );
        assert_eq!(disk, Some(Disk::Hangs));
        let (lines, disk, _) = of("disk_full:1\r\npeers_down:1,3\r\n");
        assert_eq!(disk, Some(Disk::Full));
        assert!(lines.len() == 2 && lines[0].contains("disk of node 2 is full"), "{lines:?}");
        assert_eq!(lines[1], "Node 2 does not reach node 1, 3.");
    }

    #[test]
    fn digests_are_compared_where_nodes_have_executed_the_same() {
        let node = |name: &str, line: &str| answered(name, &format!("group_3:protocol=basic,{line}"));
        let one = || node("1", "digest=aa,diverged=0,frontier=10,checkpoints=0.512:11;0.1024:12;");
        let two = || node("2", "digest=bb,diverged=0,frontier=11,checkpoints=0.1024:12;0.1536:13;");
        let differences = |nodes| {
            let report = Report::new(nodes, true);
            assert_eq!(report.exit == Exit::Differ, !report.problems.is_empty());
            report.problems
        };
        let three = node("3", "digest=bb,diverged=0,frontier=11");
        assert_eq!(differences(vec![one(), two(), three, node("4", "protocol=older")]), [""; 0]);
        assert_eq!(
            differences(vec![two(), node("5", "digest=cc,frontier=11")]),
            ["The data of group 3 differ after the same commands (11): digest bb on node 2; cc on node 5."]
        );
        assert_eq!(
            differences(vec![one(), two(), node("5", "digest=cc,frontier=9,checkpoints=0.1024:13;")]),
            [
                "The data of group 3 differ after the same commands (0.1024): digest 12 on node 1, 2; 13 on node 5."
            ]
        );
        let stopped = differences(vec![node("5", "digest=cc,diverged=1,frontier=9")]);
        assert!(stopped[0].starts_with("Node 5 does not serve group 3"), "{stopped:?}");
    }

    #[test]
    fn foreign_text_is_made_printable_and_json_is_an_object() {
        let foreign = "node_id:\u{1b}[2J\r\npeers_down:\u{1b}\r\nx\u{1b}:\u{1b}\r\n\
            group_3:protocol=\u{1b},role=\u{1b},ballot=\u{1b},diverged=1,frontier=1,digest=\u{1b}";
        let report =
            Report::new(vec![answered("1", foreign), answered("2", "group_3:frontier=1,digest=2")], true);
        assert!(!report.problems.iter().any(|line| line.contains('\u{1b}')), "{:?}", report.problems);
        let text = report.json();
        assert!(!text.contains("\\u001b"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["exit_code"], &value["nodes"][1]["node"]), (&65.into(), &"2".into()));
        assert_eq!(value["groups"][0]["replicas"][1]["lag"], serde_json::Value::Null);
    }
}
