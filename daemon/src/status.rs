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
use std::net::TcpStream;
use std::thread::scope;
use std::time::Duration;

use crate::cli::{ConfigArgs, StatusArgs, complain, print};
use crate::config::Address;
use crate::exit::Exit;
use report::{Asked, Report};

const DEFAULT_ADDRESS: &str = "127.0.0.1:7001";
const PATIENCE: Duration = Duration::from_secs(3);
const REQUEST: &[u8] = b"*3\r\n$4\r\nINFO\r\n$6\r\nserver\r\n$5\r\npanch\r\n";
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
    let mut addresses = Vec::new();
    match (&arguments.config, &arguments.address) {
        (Some(config), _) => {
            let config = ConfigArgs { config: config.clone(), overrides: arguments.overrides.clone() };
            match config.load() {
                Ok(loaded) => {
                    let members = &loaded.config.cluster.members;
                    addresses.extend(
                        members.iter().map(|member| (member.node.to_string(), member.client.clone())),
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
    let report = Report::new(ask_all(addresses), arguments.config.is_some());
    if arguments.json {
        print(&report.json());
    } else {
        print(&table::render(&report));
        complain(&report.problems.iter().map(|problem| format!("{problem}\n")).collect::<String>());
    }
    report.exit
}

/// Asks all of them at once: each may take its time.
fn ask_all(addresses: Vec<(String, Address)>) -> Vec<Asked> {
    scope(|scope| {
        let asked: Vec<_> = addresses
            .into_iter()
            .map(|(name, address)| {
                scope.spawn(move || {
                    let answer = ask(&address).map_err(|error| error.to_string());
                    Asked { name, address: address.to_string(), answer }
                })
            })
            .collect();
        asked.into_iter().map(|thread| thread.join().expect("a panic aborts the process")).collect()
    })
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
        assert_eq!((status.groups[0].field("ballot"), status.fact("node_id")), (Some("3.0"), Some("1")));
        assert_eq!(status.groups.iter().map(|group| group.group).collect::<Vec<_>>(), [0, 1]);
        assert!(ask(&address).is_err(), "nobody listens any more");
    }
}
