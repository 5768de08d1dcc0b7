//! What Redis clients see: every command on every node, replies and error texts as Redis has them, order within a
//! connection, odd ways to send bytes, and several groups on several cores.

use std::time::Duration;

use crate::common::cluster::tag_of_group;
use crate::common::raw::encode;
use crate::common::{Cluster, Dice, Raw, Settings, eventually};
use redis::{Connection, ErrorKind, FromRedisValue, RedisError, Value, cmd};

/// The longest value that the default configuration takes.
const VALUE_SIZE_MAX: usize = 1 << 20;

fn ask<T: FromRedisValue>(connection: &mut Connection, arguments: &[&str]) -> T {
    try_ask(connection, arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

fn try_ask<T: FromRedisValue>(connection: &mut Connection, arguments: &[&str]) -> Result<T, RedisError> {
    let mut command = cmd(arguments[0]);
    for argument in &arguments[1..] {
        command.arg(*argument);
    }
    command.query(connection)
}

/// The error line that a command is answered with.
fn error_line(raw: &mut Raw, arguments: &[&str]) -> String {
    let arguments: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
    raw.command(&arguments);
    let line = String::from_utf8(raw.reply_bytes()).expect("text");
    assert!(line.starts_with('-'), "{arguments:?} was answered with {line}");
    line.trim_start_matches('-').trim_end().to_string()
}

type Text = Option<String>;

/// Every data command through one connection, in a key space of its own.
fn every_command_does_what_redis_does(client: &mut Connection, space: &str) {
    let key = |name: &str| format!("{space}:{name}");
    let (a, b, c, n, s) = (key("a"), key("b"), key("c"), key("n"), key("s"));
    assert_eq!(ask::<Text>(client, &["GET", &a]), None);
    assert_eq!(ask::<String>(client, &["SET", &a, "1"]), "OK");
    assert_eq!(ask::<Text>(client, &["GET", &a]).as_deref(), Some("1"));
    assert_eq!(ask::<Text>(client, &["SET", &a, "2", "NX"]), None);
    assert_eq!(ask::<Text>(client, &["SET", &a, "2", "XX"]).as_deref(), Some("OK"));
    assert_eq!(ask::<Text>(client, &["SET", &b, "2", "XX"]), None);
    assert_eq!(ask::<Text>(client, &["SET", &b, "3", "NX"]).as_deref(), Some("OK"));
    assert_eq!(ask::<Text>(client, &["SET", &a, "4", "GET"]).as_deref(), Some("2"));
    assert_eq!(ask::<Text>(client, &["SET", &a, "5", "NX", "GET"]).as_deref(), Some("4"));
    assert_eq!(ask::<Text>(client, &["SET", &c, "6", "GET"]), None);
    assert_eq!(ask::<Text>(client, &["get", &a]).as_deref(), Some("4"), "names are understood in any case");
    assert_eq!(ask::<i64>(client, &["SETNX", &a, "7"]), 0);
    assert_eq!(ask::<i64>(client, &["SETNX", &key("new"), "7"]), 1);
    assert_eq!(ask::<Text>(client, &["GETSET", &a, "8"]).as_deref(), Some("4"));
    assert_eq!(ask::<Text>(client, &["GETSET", &key("newer"), "8"]), None);
    assert_eq!(ask::<Text>(client, &["GETDEL", &a]).as_deref(), Some("8"));
    assert_eq!(ask::<Text>(client, &["GETDEL", &a]), None);
    assert_eq!(ask::<String>(client, &["MSET", &a, "x", &b, "y"]), "OK");
    assert_eq!(ask::<i64>(client, &["MSETNX", &b, "z", &c, "z"]), 0);
    assert_eq!(
        ask::<Vec<Text>>(client, &["MGET", &a, &key("none"), &b]),
        [Some("x".to_string()), None, Some("y".to_string())]
    );
    assert_eq!(ask::<i64>(client, &["EXISTS", &a, &b, &a, &key("none")]), 3);
    assert_eq!(ask::<i64>(client, &["DEL", &a, &b, &key("none")]), 2);
    assert_eq!(ask::<i64>(client, &["UNLINK", &a]), 0);
    assert_eq!(ask::<i64>(client, &["EXISTS", &a]), 0);
    assert_eq!(ask::<i64>(client, &["INCR", &n]), 1);
    assert_eq!(ask::<i64>(client, &["INCRBY", &n, "41"]), 42);
    assert_eq!(ask::<i64>(client, &["DECR", &n]), 41);
    assert_eq!(ask::<i64>(client, &["DECRBY", &n, "50"]), -9);
    assert_eq!(ask::<Text>(client, &["GET", &n]).as_deref(), Some("-9"));
    assert_eq!(ask::<i64>(client, &["APPEND", &s, "abc"]), 3);
    assert_eq!(ask::<i64>(client, &["APPEND", &s, "de"]), 5);
    assert_eq!(ask::<i64>(client, &["STRLEN", &s]), 5);
    assert_eq!(ask::<i64>(client, &["STRLEN", &key("none")]), 0);
    assert_eq!(ask::<String>(client, &["TYPE", &s]), "string");
    assert_eq!(ask::<String>(client, &["TYPE", &key("none")]), "none");
    // Neither keys nor values are text.
    let odd: Vec<u8> = (0..=255).collect();
    cmd("SET").arg(&odd).arg(&odd).query::<()>(client).expect("any bytes are a key and a value");
    assert_eq!(cmd("GET").arg(&odd).query::<Vec<u8>>(client).expect("any bytes"), odd);
    cmd("SET").arg(key("empty")).arg("").query::<()>(client).expect("an empty value");
    assert_eq!(ask::<Text>(client, &["GET", &key("empty")]).as_deref(), Some(""));
    // About the connection and the node.
    assert_eq!(ask::<String>(client, &["PING"]), "PONG");
    assert_eq!(ask::<String>(client, &["PING", "hello"]), "hello");
    assert_eq!(ask::<String>(client, &["ECHO", "hello"]), "hello");
    assert_eq!(ask::<String>(client, &["SELECT", "0"]), "OK");
    assert_eq!(ask::<String>(client, &["CLIENT", "SETNAME", "me"]), "OK");
    assert_eq!(ask::<String>(client, &["CLIENT", "GETNAME"]), "me");
    assert!(ask::<i64>(client, &["COMMAND", "COUNT"]) > 20);
}

#[test]
fn every_command_works_on_every_node_in_both_protocol_versions() {
    let cluster = Cluster::start(Settings::default());
    for id in cluster.ids() {
        every_command_does_what_redis_does(&mut cluster.connect(id), &format!("two-{id}"));
        every_command_does_what_redis_does(&mut cluster.connect_resp3(id), &format!("three-{id}"));
    }
    // The versions differ where they must.
    let mut two = Raw::connect(cluster.ports(1).resp);
    two.command(&[b"GET", b"nothing here"]);
    assert_eq!(two.reply_bytes(), b"$-1\r\n");
    two.send(&[encode(&[b"HELLO", b"3"]), encode(&[b"GET", b"nothing here"])].concat());
    let end = b"_\r\n";
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        let mut byte = [0];
        std::io::Read::read_exact(&mut two.stream, &mut byte).expect("the answers come");
        bytes.push(byte[0]);
    }
    assert_eq!(bytes[0], b'%', "HELLO 3 is answered with a map: {}", bytes.escape_ascii());

    // Every node counts the keys of all.
    let counts: Vec<u64> =
        cluster.ids().map(|id| ask(&mut cluster.connect(id), &["DBSIZE"])).collect::<Vec<u64>>();
    cluster.assert_same_state();
    let keys = cluster.info(1).group(0).keys;
    assert!(keys > 20, "{keys} keys");
    for id in cluster.ids() {
        assert_eq!(ask::<u64>(&mut cluster.connect(id), &["DBSIZE"]), keys, "counted before: {counts:?}");
    }
}

#[test]
fn errors_have_the_words_of_redis_and_leave_the_connection_usable() {
    let cluster = Cluster::start(Settings::default());
    let mut raw = Raw::connect(cluster.ports(cluster.follower()).resp);
    raw.command(&[b"SET", b"text", b"abc"]);
    raw.reply().expect("SET");
    raw.command(&[b"SET", b"big", b"9223372036854775807"]);
    raw.reply().expect("SET");
    let expected: &[(&[&str], &str)] = &[
        (&["INCR", "text"], "ERR value is not an integer or out of range"),
        (&["INCR", "big"], "ERR increment or decrement would overflow"),
        (&["INCRBY", "big", "1x"], "ERR value is not an integer or out of range"),
        (&["DECRBY", "big", "-9223372036854775808"], "ERR decrement would overflow"),
        (&["GET"], "ERR wrong number of arguments for 'get' command"),
        (&["get", "a", "b"], "ERR wrong number of arguments for 'get' command"),
        (&["MSET", "a"], "ERR wrong number of arguments for 'mset' command"),
        (&["MSET", "a", "b", "c"], "ERR wrong number of arguments for 'mset' command"),
        (&["SET", "a", "b", "NX", "XX"], "ERR syntax error"),
        (&["SET", "a", "b", "nonsense"], "ERR syntax error"),
        (&["NOSUCH", "a", "b"], "ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b'"),
        (&["CLIENT", "NOSUCH"], "ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP."),
        (&["SELECT", "1"], "ERR SELECT is not allowed in cluster mode"),
        (&["HELLO", "4"], "NOPROTO unsupported protocol version"),
        (&["AUTH", "user", "secret"], "WRONGPASS invalid username-password pair or user is disabled."),
    ];
    for (arguments, text) in expected {
        assert_eq!(error_line(&mut raw, arguments), *text, "{arguments:?}");
    }
    raw.command(&[b"GET", b"text"]);
    assert_eq!(raw.reply_bytes(), b"$3\r\nabc\r\n", "nothing was changed and the connection works");
    // An expiry must not be ignored silently.
    assert!(error_line(&mut raw, &["SET", "a", "b", "EX", "10"]).starts_with("ERR "));
    raw.command(&[b"EXISTS", b"a"]);
    assert_eq!(raw.reply_bytes(), b":0\r\n");
}

#[test]
fn commands_of_one_connection_take_effect_and_are_answered_in_order() {
    let cluster = Cluster::start(Settings::default());
    for id in cluster.ids() {
        let mut client = cluster.connect(id);
        let mut expected = Vec::new();
        let mut pipeline = redis::pipe();
        for round in 0..200 {
            let key = format!("order-{id}-{}", round % 7);
            let before = if round < 7 { Value::Nil } else { bulk(&format!("v{}", round - 7)) };
            pipeline.cmd("GET").arg(&key);
            expected.push(before.clone());
            pipeline.cmd("SET").arg(&key).arg(format!("v{round}"));
            expected.push(Value::Okay);
            pipeline.cmd("GET").arg(&key);
            expected.push(bulk(&format!("v{round}")));
            pipeline.cmd("PING");
            expected.push(Value::SimpleString("PONG".into()));
            pipeline.cmd("STRLEN").arg(&key);
            expected.push(Value::Int(format!("v{round}").len() as i64));
        }
        let replies: Vec<Value> = pipeline.query(&mut client).expect("a pipeline");
        assert_eq!(replies, expected, "node {id}");
    }
}

fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

#[test]
fn a_reply_has_the_form_of_the_version_in_which_it_was_asked_for() {
    let cluster = Cluster::start(Settings::default());
    for id in cluster.ids() {
        let mut raw = Raw::connect(cluster.ports(id).resp);
        let (get, three, two) =
            (encode(&[b"GET", b"none"]), encode(&[b"HELLO", b"3"]), encode(&[b"HELLO", b"2"]));
        raw.send(&[&get[..], &three, &get, &two, &get, &encode(&[b"QUIT"])].concat());
        let replies = raw.read_to_end(Duration::from_secs(10)).expect("QUIT closes the connection");
        let at = |part: &[u8]| replies.windows(part.len()).position(|window| window == part);
        let text = replies.escape_ascii();
        assert!(replies.starts_with(b"$-1\r\n%"), "{text}");
        assert!(at(b"\r\n_\r\n*").is_some(), "{text}");
        assert!(replies.ends_with(b"$-1\r\n+OK\r\n"), "{text}");
    }
}

#[test]
fn values_up_to_the_limit_are_kept_and_larger_ones_are_refused() {
    let cluster = Cluster::start(Settings::default());
    let mut dice = Dice::new(7);
    let follower = cluster.follower();
    let mut client = cluster.connect(follower);
    for size in [VALUE_SIZE_MAX, VALUE_SIZE_MAX - 1, VALUE_SIZE_MAX - 4096, 300_000, 65_536] {
        let value = dice.bytes(size);
        let key = format!("large-{size}");
        cmd("SET").arg(&key).arg(&value).query::<()>(&mut client).unwrap_or_else(|error| {
            panic!("a value of {size} bytes fits: {error}");
        });
        for id in cluster.ids() {
            let found: Vec<u8> = cmd("GET").arg(&key).query(&mut cluster.connect(id)).expect("GET");
            assert!(found == value, "the value of {size} bytes is another on node {id}");
        }
    }
    // The limit is one of requests: what APPEND makes of a value is known only when it is executed, and no configuration is
    // asked then.
    let key = format!("large-{VALUE_SIZE_MAX}");
    assert_eq!(ask::<usize>(&mut client, &["APPEND", &key, "x"]), VALUE_SIZE_MAX + 1);
    for id in cluster.ids() {
        let found: Vec<u8> = ask(&mut cluster.connect(id), &["GET", &key]);
        assert_eq!((found.len(), found.last()), (VALUE_SIZE_MAX + 1, Some(&b'x')), "on node {id}");
    }
    // A longer one costs itself only: see the tests of answers.
    let error =
        cmd("SET").arg("k").arg(dice.bytes(VALUE_SIZE_MAX + 1)).exec(&mut client).expect_err("too long");
    assert!(error.to_string().contains("value_size_max"), "{error}");
    assert_eq!(ask::<i64>(&mut client, &["EXISTS", "k"]), 0);
}

#[test]
fn inline_commands_are_understood() {
    let cluster = Cluster::start(Settings::default());
    let mut raw = Raw::connect(cluster.ports(1).resp);
    raw.send(b"PING\r\n");
    assert_eq!(raw.reply_bytes(), b"+PONG\r\n");
    raw.send(b"\r\nSET inline \"a b\\x41\"\r\nGET inline\n");
    assert_eq!(raw.reply_bytes(), b"+OK\r\n");
    assert_eq!(raw.reply_bytes(), b"$4\r\na bA\r\n");
    raw.send(b"QUIT\r\n");
    assert_eq!(raw.read_to_end(Duration::from_secs(5)).as_deref(), Some(&b"+OK\r\n"[..]));
}

#[test]
fn a_thousand_requests_in_tiny_pieces_are_answered_in_order() {
    let cluster = Cluster::start(Settings::default());
    let mut raw = Raw::connect(cluster.ports(cluster.follower()).resp);
    let mut requests = Vec::new();
    for number in 0..1000 {
        let number = number.to_string();
        requests.extend(match number.len() % 2 {
            0 => encode(&[b"ECHO", number.as_bytes()]),
            _ => encode(&[b"SET", b"pieces", number.as_bytes()]),
        });
    }
    let mut dice = Dice::new(3);
    let mut sender = raw.stream.try_clone().expect("a second handle");
    let writer = std::thread::spawn(move || {
        let mut rest = &requests[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((1 + dice.below(40)).min(rest.len()));
            std::io::Write::write_all(&mut sender, piece).expect("the node reads");
            rest = behind;
        }
    });
    for number in 0..1000 {
        let text = number.to_string();
        let expected = match text.len() % 2 {
            0 => format!("${}\r\n{text}\r\n", text.len()),
            _ => "+OK\r\n".to_string(),
        };
        assert_eq!(String::from_utf8_lossy(&raw.reply_bytes()), expected, "reply {number}");
    }
    writer.join().expect("all was sent");
}

#[test]
fn groups_on_several_cores_are_served_by_every_node() {
    const GROUPS: usize = 4;
    let cluster = Cluster::start(Settings { groups: GROUPS, cores: 2, ..Settings::default() });
    let tags: Vec<String> = (0..GROUPS).map(|group| tag_of_group(group, GROUPS)).collect();
    for id in cluster.ids() {
        // Several connections: the kernel spreads them over the cores.
        for connection in 0..4 {
            let mut client = cluster.connect(id);
            for tag in &tags {
                let space = format!("{{{tag}}}-{id}-{connection}");
                every_command_does_what_redis_does(&mut client, &space);
            }
            let mut pipeline = redis::pipe();
            let mut expected = Vec::new();
            for round in 0..100 {
                let key = format!("{{{}}}-pipeline-{id}-{connection}", tags[round % GROUPS]);
                pipeline.cmd("APPEND").arg(&key).arg("x").cmd("GET").arg(&key);
                let length = round / GROUPS + 1;
                expected.push(Value::Int(length as i64));
                expected.push(bulk(&"x".repeat(length)));
            }
            let replies: Vec<Value> = pipeline.query(&mut client).expect("a pipeline over all groups");
            assert_eq!(replies, expected, "node {id}");
        }
        let mut client = cluster.connect(id);
        let (first, second) = (format!("{{{}}}-a", tags[0]), format!("{{{}}}-b", tags[1]));
        for arguments in [
            vec!["MSET", &first, "1", &second, "2"],
            vec!["MGET", &first, &second],
            vec!["DEL", &first, &second],
        ] {
            let error = try_ask::<Value>(&mut client, &arguments).expect_err("keys of two groups");
            assert_eq!(error.code(), Some("CROSSSLOT"), "{error}");
        }
        let same = format!("{{{}}}-b", tags[0]);
        assert_eq!(ask::<String>(&mut client, &["MSET", &first, "1", &same, "2"]), "OK");
        assert_eq!(
            ask::<Vec<Text>>(&mut client, &["MGET", &first, &same]),
            [Some("1".to_string()), Some("2".to_string())]
        );
        assert_eq!(ask::<i64>(&mut client, &["DEL", &first, &same]), 2);
    }
    for id in cluster.ids() {
        let mut client = cluster.connect(id);
        let ranges: Vec<Vec<Value>> = ask(&mut client, &["CLUSTER", "SLOTS"]);
        let mut covered = vec![0; 16384];
        for range in &ranges {
            let [Value::Int(first), Value::Int(last), ..] = range[..] else { panic!("{range:?}") };
            covered[first as usize..=last as usize].iter_mut().for_each(|count| *count += 1);
            assert_eq!(range.len(), 2 + 3, "every node serves every slot");
        }
        assert!(covered.iter().all(|count| *count == 1), "every slot once: {ranges:?}");
        for key in ["foo", "{user}.a", "x{}y", ""] {
            let slot: u16 = ask(&mut client, &["CLUSTER", "KEYSLOT", key]);
            assert_eq!(slot, panch_wire::slots::key_slot(key.as_bytes()), "{key}");
        }
    }
    cluster.assert_same_state();
    // Each group has keys, and the groups' leaders are spread over the nodes.
    let info = cluster.info(1);
    let keys: Vec<u64> = (0..GROUPS).map(|group| info.group(group).keys).collect();
    assert!(keys.iter().all(|keys| *keys > 50), "{keys:?}");
    let total = keys.iter().sum::<u64>();
    let mut client = cluster.connect(1);
    eventually("DBSIZE counts all groups", Duration::from_secs(5), || {
        (ask::<u64>(&mut client, &["DBSIZE"]) == total).then_some(())
    });
}

#[test]
fn nodes_that_are_down_are_shown_as_failed_and_are_asked_for_nothing() {
    let mut cluster = Cluster::start(Settings::default());
    let leader = cluster.leader();
    let nodes = |cluster: &Cluster, id: usize| -> Vec<(String, String)> {
        let text: String = ask(&mut cluster.connect(id), &["CLUSTER", "NODES"]);
        let fields = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            (words[2].replace("myself,", ""), words[7..].join(" "))
        };
        text.lines().map(fields).collect()
    };
    let of = |flags: &str, rest: &str| (flags.to_owned(), rest.to_owned());
    let expected = |failed: Option<usize>, master: usize| -> Vec<(String, String)> {
        let node = |id| match id {
            id if failed == Some(id) => of("slave,fail", "disconnected"),
            id if id == master => of("master", "connected 0-16383"),
            _ => of("slave", "connected"),
        };
        (1..=3).map(node).collect()
    };
    for id in cluster.ids() {
        eventually("one master, two replicas", Duration::from_secs(10), || {
            (nodes(&cluster, id) == expected(None, leader)).then_some(())
        });
    }
    cluster.kill(leader);
    let other = cluster.leader();
    for id in cluster.ids().filter(|id| *id != leader) {
        eventually("the one that was killed has failed", Duration::from_secs(10), || {
            (nodes(&cluster, id) == expected(Some(leader), other)).then_some(())
        });
        let ranges: Vec<Vec<Value>> = ask(&mut cluster.connect(id), &["CLUSTER", "SLOTS"]);
        assert_eq!(ranges.iter().map(Vec::len).collect::<Vec<_>>(), [2 + 2], "without the one that failed");
    }
}

#[test]
fn keys_with_a_prefix_live_in_its_groups_and_every_node_serves_them() {
    let cluster = Cluster::start(Settings {
        groups: 3,
        cores: 2,
        cluster: "placement = [{ groups = 1, prefix = [\"user:\", \"order:\"] }]\n".into(),
        ..Settings::default()
    });
    let before: Vec<u64> = (0..3).map(|group| cluster.info(1).group(group).keys).collect();
    for id in cluster.ids() {
        let mut client = cluster.connect(id);
        for number in 0..20 {
            ask::<()>(&mut client, &["SET", &format!("user:{id}:{number}"), "1"]);
            ask::<()>(&mut client, &["SET", &format!("{{user:{id}}}:{number}"), "1"]);
        }
        // Different slots, but one group; the same slot, but not one group.
        assert_eq!(ask::<String>(&mut client, &["MSET", "user:a", "1", "order:b", "2"]), "OK");
        let error =
            try_ask::<Value>(&mut client, &["MSET", "user:{x}", "1", "{x}", "2"]).expect_err("two groups");
        assert_eq!(error.code(), Some("CROSSSLOT"), "{error}");
        // Slots tell of the other groups only, and of each slot once.
        let ranges: Vec<Vec<Value>> = ask(&mut client, &["CLUSTER", "SLOTS"]);
        let mut next = 0;
        for range in &ranges {
            let [Value::Int(first), Value::Int(last), ..] = range[..] else { panic!("{range:?}") };
            assert_eq!(first, next, "{ranges:?}");
            next = last + 1;
        }
        assert_eq!(next, 16384, "{ranges:?}");
    }
    cluster.assert_same_state();
    let info = cluster.info(2);
    let keys: Vec<u64> = (0..3).map(|group| info.group(group).keys - before[group]).collect();
    assert_eq!((keys[1], keys[0] + keys[2]), (3 * 20 + 2, 3 * 20), "{keys:?}");
    assert!(keys[0] > 0 && keys[2] > 0, "{keys:?}");
    // What programs read of the protocols: per cluster, per group, and every counter.
    assert_eq!(info.text("protocol"), "multi");
    assert!(info.text("group_1").starts_with("protocol=multi,role="), "{}", info.text("group_1"));
    assert!((1..=3).map(|id| cluster.info(id).number("counter_terms")).sum::<u64>() >= 3);
    assert_eq!((info.number("counter_fast_commits"), info.number("counter_component_max")), (0, 0));
    // A cluster-aware client asks the node that has the slot, and is answered there.
    let ranges: Vec<Vec<Value>> = ask(&mut cluster.connect(1), &["CLUSTER", "SLOTS"]);
    for number in 0..20 {
        let key = format!("user:1:{number}");
        let slot = i64::from(panch_wire::slots::key_slot(key.as_bytes()));
        let holds = |range: &&Vec<Value>| matches!(range[..], [Value::Int(first), Value::Int(last), ..] if (first..=last).contains(&slot));
        let range = ranges.iter().find(holds).expect("every slot has a node");
        let Value::Array(node) = &range[2] else { panic!("{range:?}") };
        let id = cluster
            .ids()
            .find(|id| node[1] == Value::Int(i64::from(cluster.ports(*id).resp)))
            .expect("a node");
        assert_eq!(ask::<i64>(&mut cluster.connect(id), &["INCR", &key]), 2, "{key}");
    }
}

#[test]
fn groups_of_different_protocols_are_served_side_by_side() {
    const PREFIXES: [(&str, &str); 4] = [("", "multi"), ("b:", "basic"), ("f:", "fast"), ("e:", "epaxos")];
    let entry = |(group, (prefix, protocol)): (usize, &(&str, &str))| {
        format!("{{ groups = {group}, prefix = \"{prefix}\", protocol = \"{protocol}\" }}")
    };
    let placement: Vec<String> = PREFIXES.iter().enumerate().skip(1).map(entry).collect();
    let cluster = Cluster::start(Settings {
        groups: 4,
        cores: 2,
        cluster: format!("placement = [{}]\n", placement.join(", ")),
        ..Settings::default()
    });
    for id in cluster.ids() {
        let mut client = cluster.connect(id);
        for (prefix, protocol) in PREFIXES {
            for count in 1..=10 {
                let found: i64 = ask(&mut client, &["INCR", &format!("{prefix}counter")]);
                assert_eq!(found, 10 * (id as i64 - 1) + count, "{protocol} through node {id}");
            }
        }
    }
    cluster.assert_same_state();
    for id in cluster.ids() {
        let info = cluster.info(id);
        assert_eq!(info.text("protocol"), "basic,multi,fast,epaxos");
        for (group, (_, protocol)) in PREFIXES.iter().enumerate() {
            let line = info.text(&format!("group_{group}"));
            assert!(line.starts_with(&format!("protocol={protocol},")), "{line}");
            let leaderless = line.contains(",role=replica,leader=-,") && line.contains(",leading=0,");
            assert_eq!(leaderless, ["basic", "epaxos"].contains(protocol), "{line}");
        }
        let state: String = ask(&mut cluster.connect(id), &["CLUSTER", "INFO"]);
        assert!(state.contains("cluster_state:ok"), "{state}");
    }
    let total = |name: &str| cluster.ids().map(|id| cluster.info(id).number(name)).sum::<u64>();
    assert!(total("counter_prepares") > 0 && total("counter_terms") > 0);
    assert!(total("counter_fast_commits") + total("counter_slow_commits") >= 30);
    assert!(total("counter_fast_chosen") + total("counter_classic_chosen") >= 30);
}

#[test]
fn errors_of_redis_have_the_kinds_that_clients_know() {
    let cluster = Cluster::start(Settings { groups: 2, ..Settings::default() });
    let mut client = cluster.connect(1);
    let (a, b) = (tag_of_group(0, 2), tag_of_group(1, 2));
    let error = try_ask::<Value>(&mut client, &["MSET", &a, "1", &b, "2"]).expect_err("two groups");
    assert_eq!(error.kind(), ErrorKind::Server(redis::ServerErrorKind::CrossSlot));
    let error = try_ask::<Value>(&mut client, &["INCR"]).expect_err("no key");
    assert_eq!(error.kind(), ErrorKind::Server(redis::ServerErrorKind::ResponseError));
}
