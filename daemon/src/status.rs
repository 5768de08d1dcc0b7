//! `panchd status`: asks nodes for `INFO` over RESP and shows what they say, for people or for programs.
//!
//! * Here: asking, and understanding an answer. `report` judges what all nodes say together, `table` shows it.
//!
//! Invariants:
//! * What a node sends is foreign: its length is bounded, and a line that is not understood is left out, not guessed at.
//! * Fields that a newer node adds are ignored, or passed on as they are.

mod report;
mod table;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{Builder, scope};
use std::time::{Duration, Instant};

use crate::cli::{ConfigArgs, StatusArgs, complain, print};
use crate::config::{Address, Member};
use crate::exit::Exit;
use report::{Asked, Report, Silence};

const DEFAULT_ADDRESS: &str = "127.0.0.1:7001";
/// A node has this time for all of its answer.
const PATIENCE: Duration = Duration::from_secs(3);
const REQUEST: &[u8] = b"*4\r\n$4\r\nINFO\r\n$6\r\nserver\r\n$6\r\nmemory\r\n$5\r\npanch\r\n";
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

/// What a node says of one group. Values are kept as the node spelt them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// The group's number.
    pub group: u16,
    fields: Vec<(String, String)>,
}

impl NodeStatus {
    /// The value of a line that is not about a group.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(fact, _)| fact == name).map(|(_, value)| value.as_str())
    }
}

impl GroupStatus {
    /// The value of a field, such as `leader` or `committed`.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// `panchd status`: prints what nodes say, and what is wrong with it.
pub fn status(arguments: &StatusArgs) -> Exit {
    let questions = match questions(arguments) {
        Ok(questions) => questions,
        Err(exit) => return exit,
    };
    let report = match ask_all(questions) {
        Ok(asked) => Report::new(asked, arguments.config.is_some()),
        Err(error) => {
            complain(&format!("panchd status: cannot start a thread: {error}\n"));
            return Exit::from(&error);
        }
    };
    if arguments.json {
        print(&report.json());
    } else {
        print(&table::render(&report));
        complain(&report.problems.iter().map(|problem| format!("{problem}\n")).collect::<String>());
    }
    report.exit
}

/// A node to be asked.
struct Question {
    /// Its number in the configuration, or its address.
    name: String,
    address: Address,
    /// What the configuration says that it is.
    wanted: Option<Identity>,
}

/// Which node, in the spelling of INFO.
struct Identity {
    node: String,
    cluster: String,
}

/// Whom to ask; or how to end.
fn questions(arguments: &StatusArgs) -> Result<Vec<Question>, Exit> {
    let Some(config) = &arguments.config else {
        let default = || DEFAULT_ADDRESS.parse().expect("the default is an address");
        let address = arguments.address.clone().unwrap_or_else(default);
        return Ok(vec![Question { name: address.to_string(), address, wanted: None }]);
    };
    let config = ConfigArgs { config: config.clone(), overrides: arguments.overrides.clone() };
    let cluster = config.load()?.config.cluster;
    let id = format!("{:016x}", cluster.cluster_id());
    let question = |member: &Member| {
        let name = member.node.to_string();
        let wanted = Identity { node: name.clone(), cluster: id.clone() };
        Question { name, address: member.client.clone(), wanted: Some(wanted) }
    };
    Ok(cluster.members.iter().map(question).collect())
}

/// Asks all of them at once: each may take its time.
///
/// # Errors
/// If there is no thread for one of them.
fn ask_all(questions: Vec<Question>) -> io::Result<Vec<Asked>> {
    scope(|scope| {
        let threads: Vec<_> = questions
            .into_iter()
            .map(|question| Builder::new().spawn_scoped(scope, move || question.ask()))
            .collect::<io::Result<_>>()?;
        Ok(threads.into_iter().map(|thread| thread.join().expect("a panic aborts the process")).collect())
    })
}

impl Question {
    fn ask(self) -> Asked {
        let answer = match ask(&self.address) {
            Ok(status) => match stranger(&status, self.wanted.as_ref()) {
                None => Ok(status),
                Some(who) => Err(Silence::Foreign(who)),
            },
            Err(error) => Err(Silence::Mute(error.to_string())),
        };
        Asked { name: self.name, address: self.address.to_string(), answer }
    }
}

/// Who this is, if it is not the node that is wanted, or none at all.
fn stranger(status: &NodeStatus, wanted: Option<&Identity>) -> Option<String> {
    let (Some(node), Some(cluster)) = (status.fact("node_id"), status.fact("cluster_id")) else {
        return Some("what answers there does not say which node of which cluster it is".to_owned());
    };
    let wanted = wanted?;
    if cluster != wanted.cluster {
        Some(format!("it is node {node} of another cluster, {cluster} instead of {}", wanted.cluster))
    } else if node != wanted.node {
        Some(format!("it is node {node}"))
    } else {
        None
    }
}

/// Asks the node at `address`. Blocks for a few seconds at most, unless its name takes longer to look up.
///
/// # Errors
/// If the node cannot be reached, does not answer in time, or answers with something else.
pub fn ask(address: &Address) -> io::Result<NodeStatus> {
    ask_within(PATIENCE, address.resolve_all()?)
}

/// Asks the first of the addresses where somebody listens. All of it has this time.
fn ask_within(patience: Duration, addresses: Vec<SocketAddr>) -> io::Result<NodeStatus> {
    let deadline = Instant::now() + patience;
    let mut stream = Timed { stream: connect(addresses, deadline)?, deadline };
    let exchange = stream.write_all(REQUEST).and_then(|()| read_section(&mut BufReader::new(stream)));
    let answer = exchange.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, "it accepts connections but does not answer in time")
        }
        _ => error,
    })?;
    Ok(parse(&answer))
}

/// Connects to the first of the addresses where somebody listens; if nobody does, the error is that of the last. Each gets its part of the
/// time that is left: one that is silent does not take it from those after it.
fn connect(addresses: Vec<SocketAddr>, deadline: Instant) -> io::Result<TcpStream> {
    let mut result = Err(io::ErrorKind::NotFound.into());
    let count = addresses.len() as u32;
    for (index, address) in (0..).zip(addresses) {
        result = time_left(deadline)
            .and_then(|left| TcpStream::connect_timeout(&address, (left / (count - index)).max(TIMEOUT_MIN)));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// A timeout of nothing is refused.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// # Errors
/// If none is left.
fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.max(TIMEOUT_MIN)) }
}

/// A stream of which everything together ends in time: whoever sends a byte now and then keeps nobody waiting.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(time_left(self.deadline)?))?;
        self.stream.read(into)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(time_left(self.deadline)?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

/// What a node sends may be anything; a terminal obeys control characters.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const SECTION: &str = "# panch\r\nnode_id:1\r\ndurability:sync\r\ngroup_1:protocol=epaxos\r\n\
        group_0:protocol=multi,role=leader,leader=1,ballot=3.0,new=1\r\n";

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
        assert_eq!(status.groups[0].field("leader"), Some("\u{1b}[31m"));
    }

    /// Somebody who answers one question with this section, and returns the question.
    fn answering(section: &'static str) -> (Address, thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let node = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(format!("${}\r\n{section}\r\n", section.len()).as_bytes()).unwrap();
            request
        });
        (address, node)
    }

    #[test]
    fn a_node_is_asked_over_resp() {
        let (address, node) = answering(SECTION);
        let status = ask(&address).unwrap();
        assert_eq!(node.join().unwrap(), REQUEST);
        assert_eq!(status, parse(SECTION));
        assert_eq!((status.groups[0].field("ballot"), status.fact("node_id")), (Some("3.0"), Some("1")));
        assert_eq!(status.groups.iter().map(|group| group.group).collect::<Vec<_>>(), [0, 1]);
        assert!(ask(&address).is_err(), "nobody listens any more");
    }

    #[test]
    fn an_answer_of_somebody_else_is_none_of_the_node() {
        let sections =
            ["node_id:1\r\ncluster_id:ab\r\n", "node_id:1\r\ncluster_id:ab\r\n", "role:master\r\n"];
        let question = |(index, section): (usize, &'static str)| {
            let name = (index + 1).to_string();
            let wanted = Identity { node: name.clone(), cluster: "ab".to_owned() };
            Question { name, address: answering(section).0, wanted: Some(wanted) }
        };
        let report =
            Report::new(ask_all(sections.into_iter().enumerate().map(question).collect()).unwrap(), true);
        assert_eq!(report.exit, Exit::Unavailable);
        let states: Vec<&str> = report.nodes.iter().map(|node| node.state.word()).collect();
        assert_eq!(states, ["serving", "foreign", "foreign"], "{:?}", report.problems);
        assert!(
            report.problems[0].ends_with("as node 2 of this cluster: it is node 1."),
            "{:?}",
            report.problems
        );
    }

    #[test]
    fn every_address_of_a_name_is_tried() {
        let [left, listener] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let (closed, open) = (left.local_addr().unwrap(), listener.local_addr().unwrap());
        drop(left);
        let connect = |addresses| connect(addresses, Instant::now() + PATIENCE);
        assert_eq!(connect(vec![closed, open]).unwrap().peer_addr().unwrap(), open);
        assert_eq!(connect(vec![closed, closed]).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect(Vec::new()).is_err());
    }

    /// Each byte comes in time, and the answer never does.
    #[test]
    fn who_answers_byte_by_byte_is_given_up_like_one_who_does_not() {
        for drips in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let node = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(b"$100000\r\n").unwrap();
                stream.set_nonblocking(true).unwrap();
                while !drips || stream.write_all(b"x").is_ok() {
                    thread::sleep(Duration::from_millis(20));
                    match stream.read(&mut [0; 64]) {
                        Ok(1..) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        // The other end is closed.
                        _ => break,
                    }
                }
            });
            let begun = Instant::now();
            let error = ask_within(Duration::from_millis(200), vec![address]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            node.join().unwrap();
        }
    }

    #[test]
    fn only_the_node_that_is_wanted_is_taken_for_it() {
        let wanted = Identity { node: "2".to_owned(), cluster: "00ab".to_owned() };
        let who = |section: &str, wanted| stranger(&parse(section), wanted);
        let own = "node_id:2\r\ncluster_id:00ab\r\n";
        assert_eq!((who(own, Some(&wanted)), who(own, None)), (None, None));
        let redis = "redis_version:7.0.15\r\n";
        for wanted in [Some(&wanted), None] {
            assert!(who(redis, wanted).is_some_and(|who| who.contains("does not say which node")));
        }
        let other = who("node_id:3\r\ncluster_id:00ab\r\n", Some(&wanted));
        assert_eq!(other.as_deref(), Some("it is node 3"));
        let other = who("node_id:2\r\ncluster_id:00ac\r\n", Some(&wanted));
        assert!(other.is_some_and(|who| who.contains("another cluster, 00ac instead of 00ab")));
    }
}
