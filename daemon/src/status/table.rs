//! The report for people: one table of the nodes and one of the groups.

use std::fmt::Write as _;

use super::report::{Disk, GroupReport, NodeReport, ReplicaReport, Report};

/// A column: its heading, and whether it holds numbers, which stand at its right edge.
type Column = (&'static str, bool);

const NODES: [Column; 7] = [
    ("node", false),
    ("address", false),
    ("state", false),
    ("up", true),
    ("durability", false),
    ("peers down", false),
    ("disk", false),
];
const GROUPS: [Column; 10] = [
    ("group", true),
    ("protocol", false),
    ("node", false),
    ("role", false),
    ("leader", true),
    ("ballot", true),
    ("committed", true),
    ("executed", true),
    ("lag", true),
    ("figures", false),
];
/// Stands for what is not known.
const UNKNOWN: &str = "?";

pub(super) fn render(report: &Report) -> String {
    let mut text = table(&NODES, report.nodes.iter().map(node).collect());
    let groups = report.groups.iter().flat_map(|group| group.replicas.iter().map(|it| replica(group, it)));
    let groups: Vec<_> = groups.collect();
    if !groups.is_empty() {
        text.push('\n');
        text.push_str(&table(&GROUPS, groups));
    }
    text
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

fn node(node: &NodeReport) -> Vec<String> {
    let down = node.peers_down.as_ref().map(|down| match down.as_slice() {
        [] => "-".to_owned(),
        down => down.join(","),
    });
    vec![
        node.node.clone(),
        node.address.clone(),
        node.state.word().to_owned(),
        shown(node.uptime_s.map(span)),
        shown(node.durability.as_ref()),
        shown(down),
        shown(node.disk.map(Disk::word)),
    ]
}

fn replica(group: &GroupReport, replica: &ReplicaReport) -> Vec<String> {
    let leader = match &replica.leader {
        Some(leader) => leader.clone(),
        None if group.needs_leader => "none".to_owned(),
        None => "-".to_owned(),
    };
    vec![
        group.group.to_string(),
        group.protocol.clone(),
        replica.node.clone(),
        shown(replica.role.as_ref()),
        leader,
        shown(replica.ballot.as_ref()),
        shown(replica.committed),
        shown(replica.executed),
        shown(replica.lag),
        figures(&group.protocol, replica),
    ]
}

/// A time in its largest unit, of which there are two at least.
fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let (size, unit) = units.into_iter().find(|(size, _)| seconds >= 2 * size).unwrap_or((1, "s"));
    format!("{} {unit}", seconds / size)
}

fn table(columns: &[Column], mut rows: Vec<Vec<String>>) -> String {
    rows.insert(0, columns.iter().map(|(heading, _)| (*heading).to_owned()).collect());
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, width), (_, is_number)) in row.iter().zip(&widths).zip(columns) {
            let _ = match is_number {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// How well the group's protocol does on this node, since the node started; empty if the node does not say.
fn figures(protocol: &str, replica: &ReplicaReport) -> String {
    let count = |name: &str| replica.fields.get(name)?.parse::<u64>().ok();
    let plural = |count: u64, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    // Of nothing there is no share.
    let share = |fast: u64, slow: u64| match fast.checked_add(slow).filter(|all| *all > 0) {
        Some(all) => format!("fast path {:.1} % of {all}", 100.0 * fast as f64 / all as f64),
        None => "fast path unused".to_owned(),
    };
    let text = || match protocol {
        "basic" => {
            let (prepares, duels) = (count("prepares")?, count("duels")?);
            Some(format!("{} lost of {}", plural(duels, "duel"), plural(prepares, "ballot")))
        }
        "multi" => Some(plural(count("elections")?, "election")),
        "fast" => {
            let share = share(count("fast_chosen")?, count("classic_chosen")?);
            Some(format!("{share}, {}", plural(count("collisions")?, "collision")))
        }
        "epaxos" => {
            let share = share(count("fast_commits")?, count("slow_commits")?);
            Some(format!("{share}, {}", plural(count("conflicts")?, "conflict")))
        }
        _ => None,
    };
    text().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::report::{answered, silent};
    use super::*;

    #[test]
    fn nodes_and_groups_become_tables_in_order() {
        let section = |leading: u8, executed: u64| {
            format!(
                "uptime_in_seconds:7300\r\ndurability:sync\r\ncounter_duels:7\r\ndisk_full:{}\r\npeers_down:{}\r\n\
                 group_1:protocol=epaxos,role=replica,leader=-,ballot=0.1,committed=7,executed=7,fast_commits=3,\
                 slow_commits=1,conflicts=2,new=1\r\n\
                 group_0:protocol=multi,role=leader,leader=1,ballot=3.1,leading={leading},committed={executed},\
                 executed={executed},elections=1\r\n",
                1 - leading,
                if leading == 1 { "" } else { "3" },
            )
        };
        let nodes = vec![answered("1", &section(1, 123)), answered("2", &section(0, 120)), silent("3")];
        let expected = "\
node  address        state         up  durability  peers down  disk
1     10.0.0.1:7001  serving      2 h  sync        -           ok
2     10.0.0.2:7001  serving      2 h  sync        3           full
3     10.0.0.3:7001  unreachable    ?  ?           ?           ?

group  protocol  node  role     leader  ballot  committed  executed  lag  figures
    0  multi     1     leader        1     3.1        123       123    0  1 election
    0  multi     2     leader        1     3.1        120       120    3  1 election
    1  epaxos    1     replica       -     0.1          7         7    0  fast path 75.0 % of 4, 2 conflicts
    1  epaxos    2     replica       -     0.1          7         7    0  fast path 75.0 % of 4, 2 conflicts
";
        assert_eq!(render(&Report::new(nodes, true)), expected);
    }

    #[test]
    fn what_is_not_said_is_not_guessed() {
        let text =
            render(&Report::new(vec![answered("1", "group_0:leader=7\r\ngroup_1:protocol=fast")], false));
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["1", "10.0.0.1:7001", "serving", "?", "?", "?", "?"]);
        assert_eq!(rows[4], ["0", "?", "1", "?", "7", "?", "?", "?", "?"]);
        assert_eq!(rows[5], ["1", "fast", "1", "?", "none", "?", "?", "?", "?"]);
    }

    #[test]
    fn times_are_in_the_largest_unit() {
        let shown = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(span);
        assert_eq!(shown, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]);
    }

    #[test]
    fn figures_are_those_that_matter_for_the_protocol() {
        let figures = |line: &str| {
            let report = Report::new(vec![answered("1", &format!("group_0:{line}"))], false);
            figures(&report.groups[0].protocol, &report.groups[0].replicas[0])
        };
        assert_eq!(figures("protocol=basic,prepares=100,duels=5"), "5 duels lost of 100 ballots");
        assert_eq!(figures("protocol=multi,elections=0"), "0 elections");
        let fast = "protocol=fast,fast_chosen=999,classic_chosen=1,collisions=1";
        assert_eq!(figures(fast), "fast path 99.9 % of 1000, 1 collision");
        assert_eq!(
            figures("protocol=epaxos,fast_commits=0,slow_commits=0,conflicts=0"),
            "fast path unused, 0 conflicts"
        );
        // Foreign text: nothing is guessed, nothing overflows.
        assert_eq!(figures("protocol=fast,fast_chosen=9"), "");
        assert_eq!(figures("protocol=raft,elections=1"), "");
        let all = u64::MAX;
        let huge = format!("protocol=epaxos,fast_commits={all},slow_commits={all},conflicts=-1");
        assert_eq!(figures(&huge), "");
    }
}
