//! What a node answers itself, and what it answers to commands that are too large.

use std::time::Duration;

use crate::common::raw::encode;
use crate::common::{Cluster, Info, Raw, Settings};

/// The default configuration's.
const VALUE_SIZE_MAX: usize = 1 << 20;
const KEY_SIZE_MAX: usize = 65_535;

/// The reply to each of some commands sent at once.
fn replies(raw: &mut Raw, commands: &[Vec<u8>]) -> Vec<String> {
    raw.send(&commands.concat());
    commands.iter().map(|_| String::from_utf8_lossy(&raw.reply_bytes()).into_owned()).collect()
}

fn lines(lines: &[&str]) -> Vec<Vec<u8>> {
    lines.iter().map(|line| encode(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())).collect()
}

#[test]
fn a_refused_hello_changes_nothing() {
    let cluster = Cluster::start(Settings { nodes: 1, ..Settings::default() });
    let mut raw = Raw::connect(cluster.ports(1).resp);
    let answers = replies(
        &mut raw,
        &lines(&[
            "HELLO 3 AUTH nobody x SETNAME thief",
            "GET none",
            "CLIENT GETNAME",
            "AUTH default x",
            "AUTH nobody x",
            "AUTH x",
        ]),
    );
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    assert_eq!(answers[..5], [wrong, "$-1\r\n", "$-1\r\n", "+OK\r\n", wrong]);
    assert!(answers[5].starts_with("-ERR AUTH <password> called without any password"), "{}", answers[5]);
    raw.send(&lines(&["HELLO 3 AUTH default x SETNAME me", "CLIENT GETNAME", "GET none", "QUIT"]).concat());
    let rest = raw.read_to_end(Duration::from_secs(10)).expect("QUIT closes");
    let text = String::from_utf8_lossy(&rest).into_owned();
    assert!(text.starts_with("%7\r\n") && text.ends_with("$2\r\nme\r\n_\r\n+OK\r\n"), "{text}");
}

#[test]
fn keys_are_counted_behind_what_the_connection_wrote_on_all_cores() {
    const KEYS: usize = 40;
    let cluster = Cluster::start(Settings { groups: 4, cores: 2, ..Settings::default() });
    for id in cluster.ids() {
        // What was written through the others must have come here, or it is counted as it comes.
        cluster.assert_same_state();
        // The kernel chooses the core of a connection.
        for round in 0..4 {
            let mut raw = Raw::connect(cluster.ports(id).resp);
            let mut commands = lines(&["DBSIZE"]);
            commands.extend(
                (0..KEYS).flat_map(|number| lines(&[&format!("SET key-{id}-{round}-{number} 1"), "DBSIZE"])),
            );
            commands.extend(lines(&["DBSIZE"]));
            let answers = replies(&mut raw, &commands);
            let counts: Vec<usize> = answers
                .iter()
                .filter_map(|answer| answer.strip_prefix(':')?.trim_end().parse().ok())
                .collect();
            let expected: Vec<usize> = (0..=KEYS).chain([KEYS]).map(|more| counts[0] + more).collect();
            assert_eq!(counts, expected, "node {id}, round {round}");
        }
    }
}

#[test]
fn keys_live_for_ever_and_say_so() {
    let cluster = Cluster::start(Settings { groups: 2, cores: 2, ..Settings::default() });
    let mut raw = Raw::connect(cluster.ports(cluster.follower()).resp);
    for readonly in ["READWRITE", "READONLY"] {
        let answers = replies(
            &mut raw,
            &lines(&[
                readonly,
                "SET a 1 KEEPTTL",
                "TTL a",
                "PTTL a",
                "EXPIRETIME a",
                "PEXPIRETIME a",
                "PERSIST a",
                "DEL a",
                "TTL a",
                "PTTL a",
                "PERSIST a",
                "EXISTS a",
                "TOUCH a",
                "SET a 1",
                "TOUCH a a",
                "EXISTS a",
            ]),
        );
        let of = |answers: &[&str]| answers.iter().map(|it| format!("{it}\r\n")).collect::<Vec<_>>();
        let expected = [
            "+OK", "+OK", ":-1", ":-1", ":-1", ":-1", ":0", ":1", ":-2", ":-2", ":0", ":0", ":0", "+OK",
            ":2", ":1",
        ];
        assert_eq!(answers, of(&expected));
        // By themselves, so that no write before them sends them through the log.
        for (command, expected) in
            [("TTL a", ":-1\r\n"), ("TTL none", ":-2\r\n"), ("TOUCH a {a}none", ":1\r\n")]
        {
            assert_eq!(replies(&mut raw, &lines(&[command])), [expected]);
        }
    }
}

#[test]
fn a_node_tells_time_and_role_and_who_has_what_was_written() {
    let cluster = Cluster::start(Settings::default());
    let mut raw = Raw::connect(cluster.ports(1).resp);
    let answers = replies(&mut raw, &lines(&["SET a 1", "WAIT 1 0", "ROLE", "TIME", "CLIENT HELP"]));
    assert_eq!(answers[..3], ["+OK\r\n", ":1\r\n", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"]);
    let numbers: Vec<u64> = answers[3].lines().filter_map(|line| line.parse().ok()).collect();
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    assert!(now.abs_diff(numbers[0]) < 60 && numbers[1] < 1_000_000, "{}", answers[3]);
    assert!(answers[4].contains("+CLIENT <subcommand>"), "{}", answers[4]);
}

#[test]
fn clients_of_all_cores_are_listed_with_the_fields_of_redis() {
    /// Those of Redis 7.0 but for sizes of buffers that are made otherwise here (rbs, rbp), and those of 7.2 for libraries.
    const FIELDS: [&str; 27] = [
        "id",
        "addr",
        "laddr",
        "fd",
        "name",
        "age",
        "idle",
        "flags",
        "db",
        "sub",
        "psub",
        "ssub",
        "multi",
        "qbuf",
        "qbuf-free",
        "argv-mem",
        "multi-mem",
        "obl",
        "oll",
        "omem",
        "tot-mem",
        "events",
        "cmd",
        "user",
        "redir",
        "resp",
        "lib-name",
    ];
    const CLIENTS: usize = 16;
    let cluster = Cluster::start(Settings { nodes: 1, groups: 2, cores: 2, ..Settings::default() });
    let port = cluster.ports(1).resp;
    let mut clients: Vec<Raw> = (0..CLIENTS)
        .map(|number| {
            let mut raw = Raw::connect(port);
            let name = format!("CLIENT SETNAME client-{number}");
            assert_eq!(replies(&mut raw, &lines(&[&name])), ["+OK\r\n"]);
            raw
        })
        .collect();
    assert_eq!(replies(&mut clients[1], &lines(&["MULTI", "SET a 1"])), ["+OK\r\n", "+QUEUED\r\n"]);
    for asks in [0, 2, 5, 9] {
        // Behind a write, and before another command: in its place.
        let answers = replies(&mut clients[asks], &lines(&["SET b 1", "CLIENT LIST", "PING"]));
        assert_eq!((answers[0].as_str(), answers[2].as_str()), ("+OK\r\n", "+PONG\r\n"));
        let listed: Vec<&str> = answers[1].lines().filter(|line| line.contains("name=client-")).collect();
        assert_eq!(listed.len(), CLIENTS, "{}", answers[1]);
        for number in 0..CLIENTS {
            let mine = listed.iter().find(|line| line.contains(&format!(" name=client-{number} ")));
            let mine = mine.unwrap_or_else(|| panic!("client {number} is missing: {}", answers[1]));
            let fields: Vec<(&str, &str)> =
                mine.split(' ').filter_map(|field| field.split_once('=')).collect();
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            assert_eq!(names[..FIELDS.len()], FIELDS, "{mine}");
            let of = |name: &str| fields.iter().find(|(of, _)| *of == name).expect("it is there").1;
            assert_eq!(of("laddr"), format!("127.0.0.1:{port}"));
            assert!(of("fd").parse::<i32>().is_ok_and(|fd| fd > 2), "{mine}");
            let (flags, multi) = if number == 1 { ("x", "1") } else { ("N", "-1") };
            assert_eq!((of("flags"), of("multi"), of("user")), (flags, multi, "default"));
            let last = if number == asks { "client|list" } else { of("cmd") };
            assert_eq!(of("cmd"), last);
        }
    }
    let long = format!("CLIENT SETNAME {}", "x".repeat(2000));
    let answer = replies(&mut clients[3], &lines(&[&long])).concat();
    assert!(answer.starts_with("-ERR Client names") && answer.contains("1024 bytes"), "{answer}");
    clients[3].send(&lines(&["CLIENT INFO"]).concat());
    let text = String::from_utf8_lossy(&clients[3].reply_bytes()).into_owned();
    assert!(text.contains(" name=client-3 ") && text.contains(" cmd=client|info "), "{text}");
}

#[test]
fn commands_are_counted_by_their_names() {
    let cluster = Cluster::start(Settings { nodes: 1, ..Settings::default() });
    let mut raw = Raw::connect(cluster.ports(1).resp);
    replies(&mut raw, &lines(&["CONFIG RESETSTAT", "SET a 1", "GET a", "GET", "GET a", "NOSUCH", "PING"]));
    raw.command(&[b"INFO", b"stats", b"commandstats", b"cpu", b"clients"]);
    let text = String::from_utf8_lossy(&raw.reply_bytes()).into_owned();
    let info = Info::parse(&text);
    assert_eq!(info.text("cmdstat_get"), "calls=2,rejected_calls=1");
    assert_eq!(info.text("cmdstat_set"), "calls=1,rejected_calls=0");
    // As with Redis, RESETSTAT is the first that counts.
    assert_eq!(
        (info.text("cmdstat_config"), info.number("total_commands_processed")),
        ("calls=1,rejected_calls=0", 5)
    );
    assert_eq!(info.number("blocked_clients"), 0);
    assert!(info.text("used_cpu_user").parse::<f64>().is_ok_and(|seconds| seconds < 60.0));
}

#[test]
fn statistics_begin_anew_when_they_are_told_to() {
    let cluster = Cluster::start(Settings { nodes: 1, groups: 2, cores: 2, ..Settings::default() });
    let mut raw = Raw::connect(cluster.ports(1).resp);
    replies(&mut raw, &lines(&["SET a 1", "SET b 1", "SET c 1"]));
    let processed = |raw: &mut Raw| {
        raw.command(&[b"INFO", b"stats"]);
        Info::parse(&String::from_utf8_lossy(&raw.reply_bytes())).number("total_commands_processed")
    };
    assert!(processed(&mut raw) >= 3);
    assert_eq!(replies(&mut raw, &lines(&["CONFIG RESETSTAT"])), ["+OK\r\n"]);
    // Another core says what it has counted a moment later.
    std::thread::sleep(Duration::from_millis(300));
    replies(&mut raw, &lines(&["CONFIG RESETSTAT"]));
    // RESETSTAT itself counts, and then INFO.
    assert_eq!(processed(&mut raw), 1);
    replies(&mut raw, &lines(&["SET a 1", "GET a"]));
    assert_eq!(processed(&mut raw), 4);
}

#[test]
fn what_is_too_large_is_refused_alone() {
    let cluster = Cluster::start(Settings::default());
    let mut raw = Raw::connect(cluster.ports(cluster.follower()).resp);
    let value = |size| vec![b'v'; size];
    let set = |key: &[u8], value: &[u8]| encode(&[b"SET", key, value]);
    let third = value(VALUE_SIZE_MAX * 2 / 5);
    let large_in_total = encode(&[b"MSET", b"a", &third, b"b", &third, b"c", &third]);
    let larger_in_total = {
        let whole = value(VALUE_SIZE_MAX);
        let keys: Vec<Vec<u8>> = (0..10).map(|number| format!("m{number}").into_bytes()).collect();
        let pairs = keys.iter().flat_map(|key| [&key[..], &whole[..]]);
        encode(&[&b"MSET"[..]].into_iter().chain(pairs).collect::<Vec<_>>())
    };
    let many: Vec<&[u8]> = [&b"DEL"[..]].into_iter().chain(std::iter::repeat_n(&b"a"[..], 1 << 20)).collect();
    let value_text = format!("a value may have at most {VALUE_SIZE_MAX} bytes (value_size_max)");
    let cases = [
        ("a value", set(b"a", &value(VALUE_SIZE_MAX + 1)), value_text.as_str()),
        ("a huge value", set(b"a", &value(20 << 20)), &value_text),
        ("an appended value", encode(&[b"APPEND", b"a", &value(VALUE_SIZE_MAX + 1)]), &value_text),
        ("a key", set(&value(KEY_SIZE_MAX + 1), b"v"), "key is longer than 65535 bytes"),
        ("a huge key", set(&value(3 << 20), b"v"), "key is longer than 65535 bytes"),
        ("a key to read", encode(&[b"MGET", b"a", &value(3 << 20)]), "key is longer than 65535 bytes"),
        ("all of it", large_in_total, "too large in total"),
        ("much more", larger_in_total, "too large in total"),
        ("the number of arguments", encode(&many), "too many arguments: at most 1048576"),
        ("what is no command", encode(&[b"NOSUCH", b"a", &value(3 << 20)]), "unknown command 'NOSUCH'"),
    ];
    for (number, (what, large, text)) in cases.iter().enumerate() {
        let key = format!("around-{number}");
        let around =
            [set(key.as_bytes(), b"1"), large.clone(), encode(&[b"INCR", key.as_bytes()]), large.clone()];
        let answers = replies(&mut raw, &around);
        assert_eq!((answers[0].as_str(), answers[2].as_str()), ("+OK\r\n", ":2\r\n"), "{what}");
        for refused in [&answers[1], &answers[3]] {
            assert!(refused.starts_with('-') && refused.contains(text), "{what}: {refused}");
        }
    }
    let answers = replies(&mut raw, &lines(&["EXISTS a b c m1 m9", "PING"]));
    assert_eq!(answers, [":0\r\n", "+PONG\r\n"], "nothing of it was executed");
    // What is as large as may be is taken.
    let key = value(KEY_SIZE_MAX);
    assert_eq!(
        replies(&mut raw, &[set(&key, &value(VALUE_SIZE_MAX)), encode(&[b"STRLEN", &key])]),
        ["+OK\r\n", ":1048576\r\n"]
    );
    cluster.assert_same_state();
}

#[test]
fn what_is_too_large_is_not_kept_as_it_comes() {
    const SENT: usize = 200 << 20;
    const GROWTH_MAX: u64 = 16 << 20;
    let cluster = Cluster::start(Settings { nodes: 1, ..Settings::default() });
    let mut raw = Raw::connect(cluster.ports(1).resp);
    let chunk = vec![b'v'; 1 << 20];
    // The kernel's own buffers and the memory that any large value needs come first.
    replies(&mut raw, &[encode(&[b"SET", b"a", &chunk])]);
    let before = cluster.resident_size(1);
    raw.send(format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${SENT}\r\n").as_bytes());
    let mut highest = before;
    for _ in 0..SENT >> 20 {
        raw.send(&chunk);
        highest = highest.max(cluster.resident_size(1));
    }
    raw.send(b"\r\n");
    let answer = String::from_utf8_lossy(&raw.reply_bytes()).into_owned();
    assert!(answer.contains("value_size_max"), "{answer}");
    assert!(highest - before < GROWTH_MAX, "memory grew by {} MiB", (highest - before) >> 20);
    assert_eq!(replies(&mut raw, &lines(&["STRLEN a"])), [":1048576\r\n"]);
}
