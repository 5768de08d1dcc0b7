//! `panchd status`: asks nodes for `INFO panch` over RESP and shows every group as a table.
//!
//! Invariants:
//! * What a node sends is foreign: its length is bounded, and a line that is not understood is left out, not guessed at.
//! * Fields that a newer node adds are ignored.
//! * Digests are compared only where nodes have executed the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::cli::{self, ConfigArgs, StatusArgs};
use crate::config::Address;
use crate::exit::Exit;

const DEFAULT_ADDRESS: &str = "127.0.0.1:7001";
const PATIENCE: Duration = Duration::from_secs(3);
const REQUEST: &[u8] = b"*2\r\n$4\r\nINFO\r\n$5\r\npanch\r\n";
/// A section for 1024 groups is a third of this.
const SECTION_SIZE_MAX: usize = 1 << 20;
const LINE_SIZE_MAX: u64 = 512;

/// What a node says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeStatus {
    /// Lines that are not about a group, such as the node's number and the durability mode.
    pub facts: Vec<(String, String)>,
    /// Every group, in the order of their numbers.
    pub groups: Vec<GroupStatus>,
}

/// What a node says of one group. Values are shown as the node spelt them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// The group's number.
    pub group: u16,
    fields: Vec<(String, String)>,
}

impl GroupStatus {
    /// The value of a field, such as `leader` or `committed`.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// `panchd status`: prints one table. How to end: [`Exit::Differ`] if nodes have different data or do not serve because of that, else
/// [`Exit::Unavailable`] if no node answers.
pub fn status(arguments: &StatusArgs) -> Exit {
    let mut addresses = Vec::new();
    match (&arguments.config, &arguments.address) {
        (Some(config), _) => {
            let config = ConfigArgs { config: config.clone(), overrides: arguments.overrides.clone() };
            match config.load() {
                Ok(loaded) => {
                    let members = &loaded.config.cluster.members;
                    addresses.extend(
                        members.iter().map(|member| (format!("{}", member.node), member.client.clone())),
                    );
                }
                Err(exit) => return exit,
            }
        }
        (None, Some(address)) => addresses.push((address.to_string(), address.clone())),
        (None, None) => {
            let address: Address = DEFAULT_ADDRESS.parse().expect("the default is an address");
            addresses.push((address.to_string(), address));
        }
    }
    let answers: Vec<_> = addresses.iter().map(|(name, address)| (name.clone(), ask(address))).collect();
    let mut has_answer = false;
    let mut statuses = Vec::new();
    for ((name, answer), (_, address)) in answers.into_iter().zip(&addresses) {
        match answer {
            Ok(status) => {
                has_answer = true;
                statuses.push((name, status));
            }
            Err(error) => eprintln!("The node at {address} does not answer: {error}."),
        }
    }
    cli::print(&render(&statuses));
    for trouble in troubles(&statuses) {
        eprintln!("{trouble}");
    }
    let differences = differences(&statuses);
    for difference in &differences {
        eprintln!("{difference}");
    }
    match (differences.is_empty(), has_answer) {
        (false, _) => Exit::Differ,
        (true, true) => Exit::Done,
        (true, false) => Exit::Unavailable,
    }
}

/// Nodes whose disks hang or fail, as far as they say so.
fn troubles(nodes: &[(String, NodeStatus)]) -> Vec<String> {
    let of = |(name, status): &(String, NodeStatus)| {
        let (_, time) = status.facts.iter().find(|(key, _)| key == "small_file_trouble_ms")?;
        let time: u64 = time.parse().ok().filter(|time| *time > 0)?;
        let (name, seconds) = (printable(name), time.div_ceil(1000));
        Some(format!(
            "Node {name} has not been able to write a small file for {seconds} s: its disk hangs or fails. Nodes that start again are not taken \
             in by it until it can."
        ))
    };
    nodes.iter().filter_map(of).collect()
}

/// Digests at each place where several nodes have one, and who has them; and nodes that say that their data are not those of others. Empty
/// if nothing is wrong.
fn differences(nodes: &[(String, NodeStatus)]) -> Vec<String> {
    let mut places: BTreeMap<(u16, &str), BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    let mut lines = Vec::new();
    for (name, status) in nodes {
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
                    "Node {} does not serve group {}: its data are not those of other nodes. Its log says what to do.",
                    printable(name),
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
            printable(&sides.join("; "))
        ));
    }
    lines
}

/// Asks the node at `address`. Blocks for a few seconds at most, unless a name takes longer to look up.
///
/// # Errors
/// If the node cannot be reached, does not answer in time, or answers with something else.
pub fn ask(address: &Address) -> io::Result<NodeStatus> {
    let mut stream = TcpStream::connect_timeout(&address.resolve()?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    let answer = read_section(&mut BufReader::new(stream)).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, "it accepts connections but sends nothing")
        }
        _ => error,
    })?;
    Ok(parse(&answer))
}

/// One bulk or verbatim string, or the error that came instead.
fn read_section(reader: &mut impl BufRead) -> io::Result<String> {
    let foreign = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut line = Vec::new();
    reader.take(LINE_SIZE_MAX).read_until(b'\n', &mut line)?;
    let line = String::from_utf8_lossy(&line);
    let Some(line) = line.strip_suffix("\r\n") else {
        return Err(foreign("it does not speak RESP".to_owned()));
    };
    let length = match line.split_at_checked(1) {
        Some(("$" | "=", length)) => {
            length.parse::<usize>().ok().filter(|length| *length <= SECTION_SIZE_MAX)
        }
        Some(("-", error)) => return Err(foreign(format!("it refuses INFO: {error}"))),
        _ => None,
    };
    let Some(length) = length else {
        return Err(foreign("it does not answer INFO as a panch node does".to_owned()));
    };
    let mut section = vec![0; length];
    reader.read_exact(&mut section)?;
    if line.starts_with('=') && section.len() >= 4 {
        // RESP3 verbatim strings start with their format, "txt:".
        section.drain(..4);
    }
    Ok(String::from_utf8_lossy(&section).into_owned())
}

/// Understands the text of the section.
pub fn parse(section: &str) -> NodeStatus {
    let mut status = NodeStatus::default();
    for line in section.lines() {
        let Some((key, value)) = line.trim().split_once(':').filter(|(key, _)| !key.starts_with('#')) else {
            continue;
        };
        match key.strip_prefix("group_").map(str::parse::<u16>) {
            Some(Ok(group)) => {
                let fields = value.split(',').filter_map(|field| field.split_once('='));
                let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                status.groups.push(GroupStatus { group, fields });
            }
            _ => status.facts.push((key.to_owned(), value.to_owned())),
        }
    }
    status.groups.sort_by_key(|group| group.group);
    status
}

/// Columns: heading, field of the section, whether it is a number.
const COLUMNS: &[(&str, &str, bool)] = &[
    ("leader", "leader", true),
    ("ballot", "ballot", true),
    ("committed", "committed", true),
    ("executed", "executed", true),
    ("last", "last", true),
    ("lag", "lag", true),
    ("durability", "durability", false),
];

/// The tables of several nodes as one, sorted by group, so that what should be alike stands together.
pub fn render(nodes: &[(String, NodeStatus)]) -> String {
    let mut text = String::new();
    for (name, status) in nodes.iter().filter(|(_, status)| !status.facts.is_empty()) {
        // The protocols' counters of all groups, and buckets, are for programs; the table shows those that matter, group by group.
        let facts: Vec<String> = status
            .facts
            .iter()
            .filter(|(key, _)| !key.starts_with("counter_") && !key.ends_with("_histogram"))
            .map(|(key, value)| format!("{} {}", printable(key), printable(value)))
            .collect();
        let _ = writeln!(text, "node {name}: {}", facts.join(", "));
    }
    let mut groups: Vec<_> = nodes
        .iter()
        .flat_map(|(name, status)| status.groups.iter().map(move |group| (group, name)))
        .collect();
    if groups.is_empty() {
        return text;
    }
    // Stable: nodes stay in their order within a group.
    groups.sort_by_key(|(group, _)| group.group);
    let mut rows = vec![["group", "node", "protocol", "role"].map(str::to_owned).to_vec()];
    let own = rows[0].len();
    rows[0].extend(COLUMNS.iter().map(|(heading, ..)| (*heading).to_owned()));
    rows[0].push("figures".to_owned());
    for (group, name) in groups {
        let shown = |field: &str| group.field(field).map_or("?".to_owned(), printable);
        let mut row = vec![group.group.to_string(), name.clone(), shown("protocol"), shown("role")];
        row.extend(COLUMNS.iter().map(|(_, field, _)| shown(field)));
        row.push(figures(group));
        rows.push(row);
    }
    let is_number = |column: usize| {
        column == 0 || column >= own && COLUMNS.get(column - own).is_some_and(|column| column.2)
    };
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match is_number(column) {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// How well the group's protocol does on this node, since the node started; empty if the node does not say.
fn figures(group: &GroupStatus) -> String {
    let count = |name: &str| group.field(name)?.parse::<u64>().ok();
    let plural = |count: u64, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    // Of nothing there is no share.
    let share = |fast: u64, slow: u64| match fast.checked_add(slow).filter(|all| *all > 0) {
        Some(all) => format!("fast path {:.1} % of {all}", 100.0 * fast as f64 / all as f64),
        None => "fast path unused".to_owned(),
    };
    let text = || match group.field("protocol")? {
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

/// What a node sends may be anything; a terminal obeys control characters.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const SECTION: &str = "# panch\r\nnode:1\r\ndurability:sync\r\ncounter_duels:7\r\n\
        commit_us_histogram:7=10,1023=980\r\n\
        group_1:protocol=epaxos,role=replica,leader=-,ballot=0.1,committed=7,executed=7,last=9,leading=0,lag=2,\
        durability=sync,fast_commits=3,slow_commits=1,conflicts=2,new=1\r\n\
        group_0:protocol=multi,role=leader,leader=1,ballot=3.0,committed=123,executed=123,last=123,leading=1,lag=0,\
        durability=sync,elections=1\r\n";

    #[test]
    fn groups_become_a_table_in_order() {
        let text = render(&[("1".to_owned(), parse(SECTION))]);
        let expected = "\
node 1: node 1, durability sync
group  node  protocol  role     leader  ballot  committed  executed  last  lag  durability  figures
    0  1     multi     leader        1     3.0        123       123   123    0  sync        1 election
    1  1     epaxos    replica       -     0.1          7         7     9    2  sync        fast path 75.0 % of 4, 2 conflicts
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_disk_that_hangs_is_worth_a_line() {
        let node = |time: &str| ("2".to_owned(), parse(&format!("small_file_trouble_ms:{time}\r\n")));
        assert_eq!(
            troubles(&[node("0"), node("soon"), ("1".to_owned(), parse(SECTION))]),
            Vec::<String>::new()
        );
        let lines = troubles(&[node("0"), node("2100")]);
        assert!(
            lines.len() == 1 && lines[0].starts_with("Node 2") && lines[0].contains("for 3 s"),
            "{lines:?}"
        );
    }

    #[test]
    fn figures_are_those_that_matter_for_the_protocol() {
        let figures = |line: &str| figures(&parse(&format!("group_0:{line}")).groups[0]);
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

    #[test]
    fn digests_are_compared_where_nodes_have_executed_the_same() {
        let node =
            |name: &str, line: &str| (name.to_owned(), parse(&format!("group_3:protocol=multi,{line}")));
        let equal = [
            node("1", "digest=aa,diverged=0,frontier=10,checkpoints=0.512:11;0.1024:12;"),
            node("2", "digest=bb,diverged=0,frontier=11,checkpoints=0.1024:12;0.1536:13;"),
            node("3", "digest=bb,diverged=0,frontier=11"),
            node("4", "protocol=older"),
        ];
        assert_eq!(differences(&equal), [""; 0]);
        let frontier = differences(&[equal[1].clone(), node("5", "digest=cc,frontier=11")]);
        assert_eq!(
            frontier,
            ["The data of group 3 differ after the same commands (11): digest bb on node 2; cc on node 5."]
        );
        let checkpoint =
            [equal[0].clone(), equal[1].clone(), node("5", "digest=cc,frontier=9,checkpoints=0.1024:13;")];
        assert_eq!(
            differences(&checkpoint),
            [
                "The data of group 3 differ after the same commands (0.1024): digest 12 on node 1, 2; 13 on node 5."
            ]
        );
        let stopped = differences(&[node("5", "digest=cc,diverged=1,frontier=9")]);
        assert!(stopped[0].starts_with("Node 5 does not serve group 3"), "{stopped:?}");
        assert!(!differences(&[node("\u{1b}", "diverged=1")])[0].contains('\u{1b}'));
    }

    #[test]
    fn nodes_of_one_group_stand_together() {
        let nodes = [("1".to_owned(), parse(SECTION)), ("2".to_owned(), parse(SECTION))];
        let text = render(&nodes);
        let keys: Vec<String> = text
            .lines()
            .skip(3)
            .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join("."))
            .collect();
        assert_eq!(keys, ["0.1", "0.2", "1.1", "1.2"]);
    }

    #[test]
    fn foreign_answers_are_errors_or_left_out_and_never_obeyed() {
        let read = |bytes: &[u8]| read_section(&mut BufReader::new(bytes)).map_err(|error| error.to_string());
        assert_eq!(read(b"$2\r\nhi\r\n"), Ok("hi".to_owned()));
        assert_eq!(read(b"=6\r\ntxt:hi\r\n"), Ok("hi".to_owned()));
        assert!(read(b"-NOAUTH no\r\n").unwrap_err().contains("NOAUTH no"));
        assert!(read(b"HTTP/1.1 400 Bad\r\n").is_err());
        assert!(read(b"$99999999999\r\n").is_err());
        assert!(read(b"$-1\r\n").is_err());
        assert!(read(b"$5\r\nhi").is_err());
        assert!(read(b"").is_err());
        assert!(read("é\r\n".as_bytes()).is_err());
        assert!(read(&[b'x'; 4096]).is_err());
        let status =
            parse("nonsense\ngroup_x:1\ngroup_70000:leader=1\ngroup_2:\u{1b}[2J,leader=\u{1b}[31m\n");
        assert_eq!(status.groups.len(), 1);
        assert!(!render(&[("1".to_owned(), status)]).contains('\u{1b}'));
    }

    #[test]
    fn a_node_is_asked_over_resp() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let node = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(format!("${}\r\n{SECTION}\r\n", SECTION.len()).as_bytes()).unwrap();
            request
        });
        let status = ask(&address).unwrap();
        assert_eq!(node.join().unwrap(), REQUEST);
        assert_eq!(status, parse(SECTION));
        assert_eq!(status.groups[0].field("ballot"), Some("3.0"));
        assert!(ask(&address).is_err(), "nobody listens any more");
    }
}
