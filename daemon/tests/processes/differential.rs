//! A node answers what Debian's `redis-server` answers, byte for byte, however the commands come in; where it does not, the reason stands
//! in `differences`.
//!
//! Every stream goes to both, over connections of their own, and keys live in one slot: Redis runs as a cluster of one node, since that
//! is how nodes present themselves. Where there is no `redis-server` of version 7.0 the tests say so and pass.

mod differences;
mod streams;

use std::collections::BTreeSet;
use std::io::Read;
use std::net::Shutdown;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::cluster::end_with_test;
use crate::common::{Cluster, Dice, Raw, Settings, eventually, ports};
use differences::{self as differ, DIFFERENCES, reply_size};
use streams::{Step, Writer, all_different};

const PATIENCE: Duration = Duration::from_secs(20);

/// Redis, as long as it lives.
struct Redis {
    child: Child,
    ports: Vec<u16>,
    _folder: tempfile::TempDir,
}

impl Redis {
    /// Starts one that has all slots. `None` if none is installed, or one of another version.
    fn start() -> Option<Self> {
        let version = Command::new("redis-server").arg("--version").output();
        let is_right = version.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains(" v=7.0."));
        if !is_right {
            println!("skipped: there is no redis-server of version 7.0 to compare with");
            return None;
        }
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for redis-server");
        let ports = ports::take(2);
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &ports[0].to_string(), "--cluster-port", &ports[1].to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--cluster-enabled", "yes"])
            .args(["--dir", folder.path().to_str().expect("a path of ASCII"), "--logfile", "log"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        end_with_test(&mut command);
        let child = command.spawn().expect("redis-server can be started");
        let redis = Self { child, ports, _folder: folder };
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", redis.port())).expect("an address");
        let mut client = eventually("redis-server answers", PATIENCE, || client.get_connection().ok());
        redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16383).exec(&mut client).expect("slots");
        eventually("redis-server serves its slots", PATIENCE, || {
            redis::cmd("SET").arg("ready").arg("yes").exec(&mut client).ok()
        });
        redis::cmd("FLUSHALL").exec(&mut client).expect("FLUSHALL");
        Some(redis)
    }

    fn port(&self) -> u16 {
        self.ports[0]
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        ports::give_back(self.ports.drain(..));
    }
}

/// A node and Redis.
struct Pair {
    cluster: Cluster,
    node: usize,
    redis: Redis,
}

impl Pair {
    /// `None` if there is no Redis.
    fn start(settings: Settings) -> Option<Self> {
        let redis = Redis::start()?;
        let cluster = Cluster::start(settings);
        let node = if cluster.settings.nodes > 1 { cluster.follower() } else { 1 };
        let pair = Self { cluster, node, redis };
        // What the start of the cluster has left behind counts on both sides.
        pair.cluster.assert_same_state();
        let mut client = pair.cluster.connect(node);
        let keys: u64 = redis::cmd("DBSIZE").query(&mut client).expect("DBSIZE");
        let mut client = Raw::connect(pair.redis.port());
        for number in 0..keys {
            client.command(&[b"SET", format!("filler {number}").as_bytes(), b""]);
            client.reply().expect("SET");
        }
        Some(pair)
    }

    /// Ports of the node and of Redis.
    fn ports(&self) -> [u16; 2] {
        [self.cluster.ports(self.node).resp, self.redis.port()]
    }
}

/// How the bytes of a stream are sent.
#[derive(Clone, Copy, Debug)]
enum Delivery {
    Whole,
    EveryByte,
    /// In pieces by this seed.
    Pieces(u64),
    /// Each command once the one before it is answered.
    OneByOne,
}

/// How a stream ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// With QUIT.
    Quit,
    /// The client shuts its side down.
    Half,
    /// The server closes by itself.
    Closed,
}

/// All that a server answers to a stream on a new connection.
fn answers(port: u16, steps: &[Step], delivery: Delivery, end: End) -> Vec<u8> {
    let mut raw = Raw::connect(port);
    let bytes: Vec<u8> = steps.iter().flat_map(|step| step.bytes.iter().copied()).collect();
    let mut early = Vec::new();
    match delivery {
        Delivery::Whole => raw.send(&bytes),
        Delivery::EveryByte => bytes.chunks(1).for_each(|byte| raw.send(byte)),
        Delivery::Pieces(seed) => {
            let mut dice = Dice::new(seed);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(rest.len().min(1 + dice.below(40)));
                raw.send(piece);
                rest = behind;
                if dice.below(20) == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        Delivery::OneByOne => {
            for step in steps {
                raw.send(&step.bytes);
                early.extend(next_reply(&mut raw, &mut Vec::new()));
            }
        }
    }
    match end {
        End::Quit => raw.send(b"QUIT\r\n"),
        End::Half => raw.stream.shutdown(Shutdown::Write).expect("half of it can be shut"),
        End::Closed => {}
    }
    let rest = raw.read_to_end(PATIENCE).expect("the server closes the connection");
    [early, rest].concat()
}

/// The next reply, of either version of the protocol; `buffer` has what came behind the one before.
fn next_reply(raw: &mut Raw, buffer: &mut Vec<u8>) -> Vec<u8> {
    loop {
        if let Some(size) = reply_size(buffer) {
            return buffer.drain(..size).collect();
        }
        let mut chunk = [0; 4096];
        let count = raw.stream.read(&mut chunk).expect("a reply comes");
        assert!(count > 0, "closed instead of a reply");
        buffer.extend_from_slice(&chunk[..count]);
    }
}

/// Checks the answers of both to the same steps; notes which differences there were.
fn compare(
    steps: &[Step],
    ours: &[u8],
    theirs: &[u8],
    end: End,
    what: &str,
    seen: &mut BTreeSet<&'static str>,
) {
    if steps.iter().all(|step| step.difference.is_none()) {
        assert!(ours == theirs, "{what}\nnode:  {}\nRedis: {}", ours.escape_ascii(), theirs.escape_ascii());
        return;
    }
    let (ours, theirs) = (differ::replies(ours), differ::replies(theirs));
    let shown = |replies: &[&[u8]]| -> String {
        replies.iter().map(|reply| format!("  {}\n", reply.escape_ascii())).collect()
    };
    let expected = steps.len() + usize::from(end == End::Quit);
    assert!(
        ours.len() == expected && theirs.len() == expected,
        "{what}: {expected} replies\nnode:\n{}Redis:\n{}",
        shown(&ours),
        shown(&theirs)
    );
    let quit = Step::line("QUIT");
    for ((step, ours), theirs) in steps.iter().chain([&quit]).zip(ours).zip(theirs) {
        let is_alike = step.difference.map_or(ours == theirs, |difference| (difference.alike)(ours, theirs));
        assert!(
            is_alike,
            "{what}: {}\nnode:  {}\nRedis: {}\nexpected to differ: {:?}",
            step.bytes.escape_ascii(),
            ours.escape_ascii(),
            theirs.escape_ascii(),
            step.difference.map(|difference| (difference.what, difference.why))
        );
        seen.extend(step.difference.map(|difference| difference.what));
    }
}

/// Sends the same to both and compares.
fn check(
    pair: &Pair,
    steps: &[Step],
    delivery: Delivery,
    end: End,
    what: &str,
    seen: &mut BTreeSet<&'static str>,
) {
    let [ours, theirs] = pair.ports().map(|port| answers(port, steps, delivery, end));
    compare(steps, &ours, &theirs, end, &format!("{what}, {delivery:?}, {end:?}"), seen);
}

fn hello_3() -> Step {
    Step::line_differs(&differ::HELLO, "HELLO 3")
}

fn random_streams(pair: &Pair, seeds: std::ops::Range<u64>, seen: &mut BTreeSet<&'static str>) {
    for seed in seeds {
        let mut writer = Writer::new(seed, &format!("s{seed}"));
        let mut steps = if seed % 2 == 0 { vec![] } else { vec![hello_3()] };
        let count = 20 + writer.dice.below(60);
        steps.extend(writer.steps(count));
        let delivery = match seed / 2 % 4 {
            0 => Delivery::Whole,
            1 => Delivery::EveryByte,
            2 => Delivery::Pieces(seed),
            _ => Delivery::OneByOne,
        };
        let end = if seed / 8 % 2 == 0 { End::Quit } else { End::Half };
        check(pair, &steps, delivery, end, &format!("stream {seed}"), seen);
    }
}

/// Several connections take turns; each sends a few commands at once and waits for the answers.
fn several_connections(pair: &Pair, seed: u64) {
    const CONNECTIONS: usize = 4;
    let mut writer = Writer::new(seed, &format!("several-{seed}"));
    let mut talks = pair.ports().map(|port| -> Vec<(Raw, Vec<u8>)> {
        (0..CONNECTIONS).map(|_| (Raw::connect(port), Vec::new())).collect()
    });
    for turn in 0..60 {
        let at = writer.dice.below(CONNECTIONS);
        let mut steps: Vec<Step> = (0..1 + writer.dice.below(5)).map(|_| writer.data()).collect();
        steps.push(Step::line("DBSIZE"));
        let [ours, theirs] = [0, 1].map(|side| {
            let (raw, buffer) = &mut talks[side][at];
            steps.iter().for_each(|step| raw.send(&step.bytes));
            let replies: Vec<u8> = steps.iter().flat_map(|_| next_reply(raw, buffer)).collect();
            replies
        });
        let what = format!("seed {seed}, turn {turn}, connection {at}");
        compare(&steps, &ours, &theirs, End::Half, &what, &mut BTreeSet::new());
    }
}

/// Streams by hand: what the random ones do not have.
fn by_hand() -> Vec<(&'static str, Vec<Step>, End)> {
    let line = Step::line;
    let lines = |lines: &[&str]| lines.iter().map(|it| line(it)).collect::<Vec<_>>();
    let ping_then = |bytes: &[u8]| vec![line("PING"), Step::inline(bytes)];
    let mut cases = vec![
        (
            "a refused HELLO leaves protocol and name as they were",
            lines(&["HELLO 3 AUTH nobody x SETNAME thief", "GET {h}none", "CLIENT GETNAME"]),
            End::Quit,
        ),
        (
            "a refused HELLO leaves RESP3 as it was",
            [
                vec![hello_3()],
                lines(&["HELLO 2 AUTH nobody x", "GET {h}none", "CLIENT GETNAME", "RESET", "GET {h}none"]),
            ]
            .concat(),
            End::Half,
        ),
        (
            "a granted HELLO with a user",
            [
                vec![Step::line_differs(&differ::HELLO, "HELLO 3 AUTH default any SETNAME me")],
                lines(&["CLIENT GETNAME", "GET {h}none", "AUTH default other", "AUTH x"]),
            ]
            .concat(),
            End::Quit,
        ),
        (
            "replies that nobody wants to hear",
            lines(&[
                "SET {q}a 1",
                "CLIENT REPLY SKIP",
                "INCR {q}a",
                "INCR {q}a",
                "CLIENT REPLY OFF",
                "INCR {q}a",
                "PING",
                "nonsense",
                "CLIENT REPLY SKIP",
                "GET",
                "CLIENT REPLY ON",
                "GET {q}a",
                "CLIENT REPLY SKIP",
                "CLIENT REPLY SKIP",
                "GET {q}a",
                "GET {q}a",
                "CLIENT REPLY SKIP",
                "CLIENT REPLY ON",
                "CLIENT REPLY OFF",
                "MGET {q}a {q}b",
                "RESET",
                "GET {q}a",
                "CLIENT REPLY SKIP",
                "RESET",
                "GET {q}a",
                "CLIENT REPLY OFF",
                "DEL {q}a",
            ]),
            End::Half,
        ),
        (
            "the time that keys have",
            lines(&[
                "SET {t}a 1 KEEPTTL",
                "TTL {t}a",
                "PTTL {t}a",
                "EXPIRETIME {t}a",
                "PEXPIRETIME {t}a",
                "PERSIST {t}a",
                "TTL {t}none",
                "PTTL {t}none",
                "EXPIRETIME {t}none",
                "PEXPIRETIME {t}none",
                "PERSIST {t}none",
                "DEL {t}a",
                "TTL {t}a",
                "SET {t}a 2 KEEPTTL XX",
                "SET {t}a 2 EX",
                "SET {t}a 2 KEEPTTL GET NX",
                "TOUCH {t}a {t}a {t}none",
                "GET {t}a",
            ]),
            End::Quit,
        ),
        (
            "keys are counted behind what the connection wrote",
            lines(&[
                "DBSIZE",
                "SET {d1}a 1",
                "DBSIZE",
                "SET {d2}a 1",
                "SET {d3}a 1",
                "SET {d4}a 1",
                "DBSIZE",
                "DEL {d1}a",
                "DBSIZE",
                "DEL {d2}a",
                "WAIT 0 0",
                "DBSIZE",
            ]),
            End::Half,
        ),
        (
            "numbers at the ends of what fits",
            lines(&[
                "SET {n}a 9223372036854775806",
                "INCR {n}a",
                "INCR {n}a",
                "DECRBY {n}a -1",
                "DECRBY {n}a -9223372036854775808",
                "SET {n}a -9223372036854775808",
                "DECR {n}a",
                "INCRBY {n}a 9223372036854775807",
                "SET {n}a ~",
                "INCR {n}a",
                "APPEND {n}a 7",
                "INCR {n}a",
                "STRLEN {n}a",
                "GETDEL {n}a",
                "GETDEL {n}a",
            ]),
            End::Quit,
        ),
        ("a NUL in an inline command", ping_then(b"ECHO a\0b\r\nPING\r\nPING\r\n"), End::Half),
        ("half a command at the end", ping_then(b"*2\r\n$3\r\nGET\r\n$5\r\nab"), End::Half),
        ("QUIT and what follows it", lines(&["PING", "QUIT"]), End::Closed),
        ("QUIT with arguments", lines(&["SET {z}a 1", "QUIT now please"]), End::Closed),
    ];
    for bytes in [
        &b"*x\r\n"[..],
        b"*03\r\n",
        b"*-\r\n",
        b"*99999999999\r\n",
        b"*2147483648\r\n",
        b"*1\r\n:3\r\n",
        b"*1\r\nPING\r\n",
        b"*2\r\n$4\r\nPING\r\n$-1\r\n",
        b"*2\r\n$4\r\nPING\r\n$x\r\n",
        b"*2\r\n$4\r\nPING\r\n$01\r\n",
        b"*2\r\n$4\r\nPING\r\n$536870913\r\n",
        b"echo \"a\r\n",
        b"echo 'a'b\r\n",
    ] {
        cases.push(("a protocol error", ping_then(bytes), End::Closed));
    }
    cases
}

/// Differences that random streams do not meet.
fn different_by_hand() -> Vec<Step> {
    let line_differs = Step::line_differs;
    vec![
        line_differs(&differ::EXPIRY, "SET {x}a 1 EX 100"),
        line_differs(&differ::EXPIRY, "SET {x}b 1 PXAT 99999999999999"),
        line_differs(&differ::EXPIRY, "GETEX {x}a"),
        line_differs(&differ::EXPIRY, "EXPIRE {x}a 100"),
        line_differs(&differ::SLOTS, "MSET {x}c 1 {y}d 2"),
        line_differs(&differ::SLOTS, "EXISTS {x}c {y}d"),
        line_differs(&differ::CLUSTER, "CLUSTER SLOTS"),
        line_differs(&differ::COMMAND, "COMMAND"),
        line_differs(&differ::COMMAND, "COMMAND DOCS get"),
        Step::differs(&differ::LIMITS, &[b"SET", b"{x}e", &vec![b'v'; (1 << 20) + 1]]),
        Step::differs(&differ::LIMITS, &[b"SET", &vec![b'k'; 1 << 16], b"v"]),
        // The last, since the node closes.
        Step { bytes: b"*1\r\n$4\r\nPINGxx".to_vec(), difference: Some(&differ::LINE_END) },
    ]
}

fn categories_are_those_of_redis(pair: &Pair) {
    let list = |port: u16, rest: &[&[u8]]| -> BTreeSet<String> {
        let mut raw = Raw::connect(port);
        let mut arguments: Vec<&[u8]> = vec![b"COMMAND", b"LIST"];
        arguments.extend(rest);
        raw.command(&arguments);
        redis::from_redis_value(raw.reply().expect("a list")).expect("names")
    };
    let [ours, theirs] = pair.ports();
    let common: BTreeSet<String> = list(ours, &[]).intersection(&list(theirs, &[])).cloned().collect();
    assert!(common.len() > 50, "{common:?}");
    let categories = [
        "read",
        "write",
        "fast",
        "slow",
        "keyspace",
        "string",
        "connection",
        "dangerous",
        "admin",
        "transaction",
    ];
    for category in categories {
        let of = |port| -> BTreeSet<String> {
            let found = list(port, &[b"FILTERBY", b"ACLCAT", category.as_bytes()]);
            found.intersection(&common).cloned().collect()
        };
        assert_eq!(of(ours), of(theirs), "{category}");
    }
}

/// Redis closes such a connection without a word, a node says why.
fn browsers_are_cut_off_by_both(pair: &Pair) {
    let request = [Step::inline(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")];
    let [ours, theirs] = pair.ports().map(|port| answers(port, &request, Delivery::Whole, End::Closed));
    assert!(ours.starts_with(b"-ERR Protocol error: HTTP") && theirs.is_empty(), "{}", ours.escape_ascii());
}

/// A node of one with two groups on two cores.
fn alone() -> Settings {
    Settings { nodes: 1, groups: 2, cores: 2, ..Settings::default() }
}

#[test]
fn streams_at_random_are_answered_alike() {
    let Some(pair) = Pair::start(alone()) else { return };
    let mut seen = BTreeSet::new();
    random_streams(&pair, 0..100, &mut seen);
    assert!(seen.len() > 8, "{seen:?}");
}

#[test]
fn streams_by_hand_are_answered_alike_and_differ_where_they_are_said_to() {
    let Some(pair) = Pair::start(alone()) else { return };
    let mut seen = BTreeSet::new();
    for (what, steps, end) in by_hand() {
        check(&pair, &steps, Delivery::Whole, end, what, &mut seen);
        if end != End::Closed {
            check(&pair, &steps, Delivery::EveryByte, end, what, &mut seen);
            check(&pair, &steps, Delivery::Pieces(7), end, what, &mut seen);
        }
    }
    categories_are_those_of_redis(&pair);
    browsers_are_cut_off_by_both(&pair);
    check(&pair, &all_different(), Delivery::Whole, End::Quit, "differences", &mut seen);
    check(&pair, &different_by_hand(), Delivery::Whole, End::Half, "differences", &mut seen);
    let missed: Vec<_> = DIFFERENCES.iter().map(|it| it.what).filter(|what| !seen.contains(what)).collect();
    assert!(missed.is_empty(), "not met, so no difference: {missed:?}");
}

#[test]
fn several_connections_and_nodes_are_answered_alike() {
    let Some(pair) = Pair::start(Settings { groups: 2, ..Settings::default() }) else { return };
    for seed in 0..4 {
        several_connections(&pair, seed);
    }
    random_streams(&pair, 1000..1016, &mut BTreeSet::new());
    let wait = [Step::line("SET {w}a 1"), Step::line_differs(&differ::WAIT, "WAIT 1 20")];
    check(&pair, &wait, Delivery::Whole, End::Quit, "WAIT", &mut BTreeSet::new());
    pair.cluster.assert_same_state();
}
