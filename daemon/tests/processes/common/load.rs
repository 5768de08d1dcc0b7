//! Load: clients that write, read and count on several nodes at once, and remember what they asked, when, and what came
//! back. Afterwards the memory is checked against what a correct store could have answered.
//!
//! What is known of an operation without a good answer:
//! * `CLUSTERDOWN`, `TRYAGAIN` and `OOM` say that it was not applied; it must never be seen.
//! * Anything else (`UNKNOWN`, a timeout, a closed connection) leaves the outcome open.

mod family;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use panch_sim::linear::register::{Action, Answer};
use panch_sim::linear::store::History;

use super::{Cluster, Dice, eventually};
use family::OnFamily;

/// Keys of the same name are left after this many operations, so that each history stays short enough to check.
const OPERATIONS_PER_KEY: u64 = 300;
/// The search of one key is given up after this many steps.
const STEPS_MAX: u64 = 20_000_000;
/// A client that waits this long for an answer gives up on it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(12);
/// A cluster at rest answers a read within this time.
const READ_PATIENCE: Duration = Duration::from_secs(20);
const OWN_KEYS: usize = 40;

/// What the load is like.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    pub threads: usize,
    /// Between two operations of a thread.
    pub pause: Duration,
    /// Bytes that are added to the values of keys which only one thread writes.
    pub padding: usize,
    /// The nodes that the threads are spread over; all if empty.
    pub nodes: Vec<usize>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { threads: 6, pause: Duration::from_micros(500), padding: 0, nodes: Vec::new() }
    }
}

#[derive(Clone, Debug)]
enum Asked {
    Get,
    Set(String),
    GetSet(String),
    Append(String),
    Increment,
}

#[derive(Clone, Debug)]
enum Answered {
    Done,
    Value(Option<String>),
    Number(i64),
}

#[derive(Clone, Debug)]
struct Operation {
    key: String,
    invoked: u64,
    /// `None` if the outcome is open.
    returned: Option<(u64, Answered)>,
    asked: Asked,
}

/// What a thread knows of a key that only it writes.
#[derive(Clone, Debug, Default)]
struct OwnKey {
    acknowledged: Option<String>,
    open: Vec<String>,
}

#[derive(Default)]
struct Memory {
    operations: Vec<Operation>,
    /// On several keys at once.
    many: Vec<OnFamily>,
    own: BTreeMap<String, OwnKey>,
    /// When writes were acknowledged.
    written: Vec<u64>,
    refused: u64,
    open: u64,
}

/// Clients at work.
pub struct Load {
    start: Instant,
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Memory>>,
}

/// What the clients remember.
pub struct Outcome {
    memory: Memory,
}

struct Client {
    number: usize,
    /// Its own node, and one more that it asks now and then what it has just written.
    nodes: [Node; 2],
    start: Instant,
    dice: Dice,
    memory: Memory,
    lanes: Arc<Vec<AtomicU64>>,
    writes: Arc<AtomicU64>,
    serial: u64,
    padding: String,
}

/// A node as a client sees it.
struct Node {
    url: String,
    connection: Option<redis::Connection>,
}

const OWN: usize = 0;
const OTHER: usize = 1;
const LANES: [(&str, usize); 4] = [("register", 6), ("counter", 3), ("text", 2), ("family", 3)];
const FAMILY: usize = 3;

impl Load {
    /// Starts the clients. Threads are spread evenly over the nodes.
    pub fn start(cluster: &Cluster, options: LoadOptions) -> Self {
        let start = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(AtomicU64::new(0));
        let nodes: Vec<usize> =
            if options.nodes.is_empty() { cluster.ids().collect() } else { options.nodes.clone() };
        let lane_count = LANES.iter().map(|(_, count)| count).sum::<usize>();
        let lanes: Arc<Vec<AtomicU64>> = Arc::new((0..lane_count).map(|_| AtomicU64::new(0)).collect());
        let threads = (0..options.threads).map(|number| {
            let node = |number: usize| {
                let port = cluster.ports(nodes[number % nodes.len()]).resp;
                Node { url: format!("redis://127.0.0.1:{port}/"), connection: None }
            };
            let mut client = Client {
                number,
                nodes: [node(number), node(number + 1)],
                start,
                dice: Dice::new(number as u64 + 1),
                memory: Memory::default(),
                lanes: Arc::clone(&lanes),
                writes: Arc::clone(&writes),
                serial: 0,
                padding: "x".repeat(options.padding),
            };
            let (stop, pause) = (Arc::clone(&stop), options.pause);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    client.one();
                    std::thread::sleep(pause);
                }
                client.memory
            })
        });
        let threads = threads.collect();
        Self { start, stop, writes, threads }
    }

    /// Nanoseconds on the clock of the load.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Writes acknowledged until now.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Waits until `count` more writes are acknowledged.
    pub fn wait_for_writes(&self, count: u64) {
        let before = self.writes();
        eventually(&format!("{count} more writes"), Duration::from_secs(60), || {
            (self.writes() >= before + count).then_some(())
        });
    }

    /// Ends the load.
    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut memory = Memory::default();
        for thread in self.threads {
            let part = thread.join().expect("a client does not panic");
            memory.operations.extend(part.operations);
            memory.many.extend(part.many);
            memory.own.extend(part.own);
            memory.written.extend(part.written);
            memory.refused += part.refused;
            memory.open += part.open;
        }
        memory.written.sort_unstable();
        Outcome { memory }
    }
}

fn bytes(text: &str) -> Rc<[u8]> {
    text.as_bytes().into()
}

/// How an operation ended.
enum End<T> {
    Answer(T),
    /// The store says that it was not applied.
    Refused,
    Open,
}

impl Node {
    /// The connection, opened anew if there is none; `None` if the node does not take it.
    fn connected(&mut self) -> Option<&mut redis::Connection> {
        if self.connection.is_none() {
            let connection = redis::Client::open(self.url.as_str())
                .and_then(|client| client.get_connection_with_timeout(Duration::from_secs(2)))
                .and_then(|connection| {
                    connection.set_read_timeout(Some(ANSWER_PATIENCE))?;
                    connection.set_write_timeout(Some(ANSWER_PATIENCE))?;
                    Ok(connection)
                });
            self.connection = connection.ok();
        }
        self.connection.as_mut()
    }
}

impl Client {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Runs a command on one of the client's nodes.
    fn run<T: redis::FromRedisValue>(&mut self, at: usize, command: &redis::Cmd) -> End<T> {
        let Some(connection) = self.nodes[at].connected() else { return End::Refused };
        match command.query::<T>(connection) {
            Ok(answer) => End::Answer(answer),
            Err(error) => match error.code() {
                Some("CLUSTERDOWN" | "TRYAGAIN" | "OOM") => {
                    self.memory.refused += 1;
                    End::Refused
                }
                Some("UNKNOWN") => {
                    self.memory.open += 1;
                    End::Open
                }
                Some(code) => panic!("an answer that was not asked for: {code}: {error}"),
                None => {
                    assert!(error.is_io_error(), "the answer cannot be understood: {error}");
                    self.nodes[at].connection = None;
                    self.memory.open += 1;
                    End::Open
                }
            },
        }
    }

    fn one(&mut self) {
        if self.nodes[OWN].connected().is_none() {
            std::thread::sleep(Duration::from_millis(10));
            return;
        }
        self.serial += 1;
        let value = format!("{}.{}", self.number, self.serial);
        match self.dice.below(100) {
            0..25 => self.shared(0, Asked::Get),
            25..45 => self.shared(0, Asked::Set(value)),
            45..52 => self.shared(0, Asked::GetSet(value)),
            52..67 => self.shared(1, Asked::Increment),
            67..72 => self.shared(1, Asked::Get),
            72..77 => self.shared(2, Asked::Append(format!("{value},"))),
            77..80 => self.shared(2, Asked::Get),
            80..90 => {
                let family = self.lane(FAMILY);
                self.on_family(&family, value);
            }
            90..92 => {
                let member = family::member(&self.lane(FAMILY), 0);
                self.call(OWN, &member, Asked::Set(value));
            }
            _ => self.own(value),
        }
    }

    /// What is used in this kind of lane at present.
    fn lane(&mut self, kind: usize) -> String {
        let before: usize = LANES[..kind].iter().map(|(_, count)| count).sum();
        let (name, count) = LANES[kind];
        let lane = before + self.dice.below(count);
        let turn = self.lanes[lane].fetch_add(1, Ordering::Relaxed);
        format!("{name}-{lane}-{}", turn / OPERATIONS_PER_KEY)
    }

    /// An operation on a key that all threads use.
    fn shared(&mut self, kind: usize, asked: Asked) {
        let key = self.lane(kind);
        let reads_back = !matches!(asked, Asked::Get) && self.dice.below(4) == 0;
        let acknowledged = self.call(OWN, &key, asked);
        // Another node must know what this one has acknowledged.
        if reads_back && acknowledged && self.nodes[OTHER].connected().is_some() {
            self.call(OTHER, &key, Asked::Get);
        }
    }

    /// Asks one of the client's nodes and remembers what came of it; true if it was answered.
    fn call(&mut self, at: usize, key: &str, asked: Asked) -> bool {
        let invoked = self.now();
        let command = |name| redis::Cmd::new().arg(name).arg(key).to_owned();
        let end = match &asked {
            Asked::Get => match self.run::<Option<String>>(at, &command("GET")) {
                // It changed nothing.
                End::Open => End::Refused,
                End::Answer(value) => End::Answer(Answered::Value(value)),
                End::Refused => End::Refused,
            },
            Asked::Set(value) => self.run::<()>(at, command("SET").arg(value)).map(|()| Answered::Done),
            Asked::GetSet(value) => self.run(at, command("GETSET").arg(value)).map(Answered::Value),
            Asked::Append(value) => self.run(at, command("APPEND").arg(value)).map(Answered::Number),
            Asked::Increment => self.run(at, &command("INCR")).map(Answered::Number),
        };
        let returned = match end {
            End::Refused => return false,
            End::Open => None,
            End::Answer(answer) => Some((self.now(), answer)),
        };
        if let Some((at, _)) = returned
            && !matches!(asked, Asked::Get)
        {
            self.wrote(at);
        }
        let answered = returned.is_some();
        self.memory.operations.push(Operation { key: key.to_string(), invoked, returned, asked });
        answered
    }

    /// A write to a key that only this thread writes.
    fn own(&mut self, mut value: String) {
        let key = format!("own-{}-{}", self.number, self.dice.below(OWN_KEYS));
        value.push_str(&self.padding);
        let end = self.run::<()>(OWN, redis::cmd("SET").arg(&key).arg(&value));
        let known = self.memory.own.entry(key).or_default();
        match end {
            End::Answer(()) => {
                known.acknowledged = Some(value);
                let now = self.now();
                self.wrote(now);
            }
            End::Open => known.open.push(value),
            End::Refused => {}
        }
    }

    fn wrote(&mut self, at: u64) {
        self.memory.written.push(at);
        self.writes.fetch_add(1, Ordering::Relaxed);
    }
}

impl<T> End<T> {
    fn map<R>(self, change: impl FnOnce(T) -> R) -> End<R> {
        match self {
            End::Answer(answer) => End::Answer(change(answer)),
            End::Refused => End::Refused,
            End::Open => End::Open,
        }
    }
}

impl Outcome {
    pub fn operation_count(&self) -> usize {
        self.memory.operations.len() + self.memory.many.len()
    }

    pub fn write_count(&self) -> usize {
        self.memory.written.len()
    }

    pub fn refused_count(&self) -> u64 {
        self.memory.refused
    }

    pub fn open_count(&self) -> u64 {
        self.memory.open
    }

    /// The longest time without an acknowledged write that overlaps `from..to`.
    pub fn longest_gap(&self, from: u64, to: u64) -> Duration {
        let written = &self.memory.written;
        let first = written.partition_point(|at| *at < from).saturating_sub(1);
        let mut longest = 0;
        for pair in written[first..].windows(2) {
            if pair[0] > to {
                break;
            }
            longest = longest.max(pair[1] - pair[0]);
        }
        Duration::from_nanos(longest)
    }

    /// Reads everything back, and checks what was read and the whole history. Call it when the cluster is at rest.
    pub fn check(&self, cluster: &Cluster) {
        let mut connections: Vec<_> = cluster.ids().map(|id| cluster.connect(id)).collect();
        let node_count = connections.len();
        let mut read = |at: usize, key: &str| -> Option<String> {
            let connection = &mut connections[at % node_count];
            // On a busy machine nobody may lead for longer than one request waits.
            let deadline = Instant::now() + READ_PATIENCE;
            loop {
                match redis::cmd("GET").arg(key).query(connection) {
                    Ok(value) => return value,
                    Err(error) => assert!(Instant::now() < deadline, "GET {key}: {error}"),
                }
            }
        };
        self.check_own_keys(&mut read);
        let mut keys: Vec<&str> =
            self.memory.operations.iter().map(|operation| operation.key.as_str()).collect();
        keys.extend(family::members(&self.memory.many));
        keys.sort_unstable();
        keys.dedup();
        let finals: BTreeMap<&str, Option<String>> =
            keys.iter().enumerate().map(|(at, key)| (*key, read(at, key))).collect();
        self.check_counters(&finals);
        self.check_history(&finals);
    }

    fn check_own_keys(&self, read: &mut impl FnMut(usize, &str) -> Option<String>) {
        for (at, (key, known)) in self.memory.own.iter().enumerate() {
            let found = read(at, key);
            let is_known =
                found == known.acknowledged || known.open.iter().any(|value| found.as_ref() == Some(value));
            assert!(
                is_known,
                "{key}: {:?} was acknowledged ({} more are open), {found:?} was read",
                known.acknowledged,
                known.open.len()
            );
        }
    }

    fn check_counters(&self, finals: &BTreeMap<&str, Option<String>>) {
        let mut bounds: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for operation in &self.memory.operations {
            if matches!(operation.asked, Asked::Increment) {
                let (acknowledged, possible) = bounds.entry(&operation.key).or_default();
                *acknowledged += i64::from(operation.returned.is_some());
                *possible += 1;
            }
        }
        for (key, (acknowledged, possible)) in bounds {
            let found = finals[key].as_deref().map_or(0, |text| text.parse().expect("a number"));
            assert!(
                (acknowledged..=possible).contains(&found),
                "{key} is {found}: {acknowledged} increments were acknowledged, {possible} asked for"
            );
        }
    }

    fn check_history(&self, finals: &BTreeMap<&str, Option<String>>) {
        let mut history = History::default();
        let mut last = family::add_to(&mut history, &self.memory.many);
        for operation in &self.memory.operations {
            let action = match &operation.asked {
                Asked::Get => Action::Get,
                Asked::Set(value) => Action::Set(bytes(value)),
                Asked::GetSet(value) => Action::GetSet(bytes(value)),
                Asked::Append(value) => Action::Append(bytes(value)),
                Asked::Increment => Action::Increment(1),
            };
            let answer = operation.returned.as_ref().map(|(_, answer)| match answer {
                Answered::Done => Answer::Done,
                Answered::Value(value) => Answer::Value(value.as_deref().map(bytes)),
                Answered::Number(number) => Answer::Number(*number),
            });
            let returned = operation.returned.as_ref().map(|(at, _)| *at);
            last = last.max(operation.invoked).max(returned.unwrap_or(0));
            history.push(operation.key.as_bytes(), operation.invoked, returned, action, answer);
        }
        for (key, value) in finals {
            let answer = Some(Answer::Value(value.as_deref().map(bytes)));
            history.push(key.as_bytes(), last + 1, Some(last + 2), Action::Get, answer);
        }
        if let Err(anomaly) = history.check(STEPS_MAX) {
            panic!("not linearizable: {}: {}", anomaly.key.escape_ascii(), anomaly.text);
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let _ = write!(
            text,
            "{} acknowledged writes, {} recorded operations, {} refused, {} open",
            self.write_count(),
            self.operation_count(),
            self.refused_count(),
            self.open_count()
        );
        text
    }
}
