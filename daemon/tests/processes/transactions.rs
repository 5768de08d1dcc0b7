//! MULTI, EXEC and WATCH: commands that take effect at one moment or not at all, through every node, under every protocol.

use redis::{Connection, ErrorKind, RedisResult, ServerErrorKind, Value, cmd, pipe};

use crate::common::cluster::tag_of_group;
use crate::common::{Cluster, Raw, Settings};

const GROUPS: usize = 3;

/// One node's worth of text replies: what each line of commands is answered with, on one connection.
fn talk(raw: &mut Raw, lines: &[(&str, &str)]) {
    for (line, expected) in lines {
        let arguments: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        raw.command(&arguments);
        let reply = String::from_utf8(raw.reply_bytes()).expect("text");
        let is_right = match expected.strip_suffix("..") {
            Some(beginning) => reply.starts_with(beginning),
            None => reply == expected.replace(' ', "\r\n") + "\r\n" || reply == format!("{expected}\r\n"),
        };
        assert!(is_right, "{line}: {} instead of {expected}", reply.escape_debug());
    }
}

fn get(client: &mut Connection, key: &str) -> Option<String> {
    cmd("GET").arg(key).query(client).expect("GET")
}

fn atomic_pipelines(protocol: &str) {
    let cluster = Cluster::start(Settings {
        groups: GROUPS,
        cores: 2,
        cluster: format!("protocol = \"{protocol}\"\n"),
        ..Settings::default()
    });
    for id in cluster.ids() {
        let clients = [cluster.connect(id), cluster.connect_resp3(id)];
        for (version, mut client) in clients.into_iter().enumerate() {
            for group in 0..GROUPS {
                let key = format!("{{{}}}{id}.{version}", tag_of_group(group, GROUPS));
                let mut pipeline = pipe();
                pipeline.atomic();
                for name in ["a", "b"] {
                    pipeline.cmd("SET").arg(format!("{key}{name}")).arg(7).ignore();
                }
                pipeline.cmd("INCRBY").arg(format!("{key}a")).arg(2);
                pipeline.cmd("MGET").arg(format!("{key}a")).arg(format!("{key}none")).arg(format!("{key}b"));
                let replies: (i64, Vec<Option<i64>>) = pipeline.query(&mut client).expect("one step");
                assert_eq!(replies, (9, vec![Some(9), None, Some(7)]), "{protocol}, node {id}");
            }
        }
    }
    // Two clients that count together through different nodes lose nothing, nor does one that waits for no answer.
    const ROUNDS: i64 = 40;
    for group in 0..GROUPS {
        let key = format!("{{{}}}count", tag_of_group(group, GROUPS));
        std::thread::scope(|scope| {
            for id in 1..=2 {
                let (cluster, key) = (&cluster, &key);
                scope.spawn(move || {
                    let mut client = cluster.connect(id);
                    for _ in 0..ROUNDS {
                        let increment = |client: &mut Connection, pipeline: &mut redis::Pipeline| {
                            let count: Option<i64> = cmd("GET").arg(key).query(client)?;
                            pipeline.cmd("SET").arg(key).arg(count.unwrap_or(0) + 1).ignore().query(client)
                        };
                        let () = redis::transaction(&mut client, &[key], increment).expect("an increment");
                    }
                });
            }
        });
        for id in cluster.ids() {
            assert_eq!(get(&mut cluster.connect(id), &key), Some((2 * ROUNDS).to_string()), "{protocol}");
        }
    }
    cluster.assert_same_state();
}

macro_rules! protocols {
    ($($protocol:ident)*) => {$(
        mod $protocol {
            #[test]
            fn pipelines_are_one_step_and_increments_that_watch_lose_nothing() {
                super::atomic_pipelines(stringify!($protocol));
            }
        }
    )*};
}

protocols! { basic multi fast epaxos }

#[test]
fn whatever_is_refused_while_queueing_leaves_nothing_done() {
    let (a, b) = (tag_of_group(0, GROUPS), tag_of_group(1, GROUPS));
    let cluster = Cluster::start(Settings {
        groups: GROUPS,
        cores: 2,
        cluster: "value_size_max = \"100KiB\"\n".into(),
        ..Settings::default()
    });
    let aborted = "-EXECABORT Transaction discarded because of previous errors.";
    for id in cluster.ids() {
        let mut raw = Raw::connect(cluster.ports(id).resp);
        let key = format!("{{{a}}}{id}");
        let set = format!("SET {key} 1");
        for (bad, answer) in [
            ("NONSENSE", "-ERR unknown command.."),
            ("GET", "-ERR wrong number of arguments for 'get' command"),
            (&format!("SET {key} 1 nonsense")[..], "-ERR syntax error"),
            (&format!("INCRBY {key} x"), "-ERR value is not an integer or out of range"),
            (&format!("SET {{{b}}}x 1"), "-CROSSSLOT.."),
            (&format!("MSET {key} 1 {{{b}}}x 1"), "-CROSSSLOT.."),
            ("PING", "-ERR Command not allowed inside a transaction"),
        ] {
            talk(
                &mut raw,
                &[("MULTI", "+OK"), (&set, "+QUEUED"), (bad, answer), (&set, "+QUEUED"), ("EXEC", aborted)],
            );
            talk(&mut raw, &[(&format!("GET {key}"), "$-1"), ("EXEC", "-ERR EXEC without MULTI")]);
        }
        // So much finds no room in one command, and the connection goes on.
        let big = format!("SET {key} {}", "x".repeat(90 << 10));
        talk(
            &mut raw,
            &[("MULTI", "+OK"), (&big, "+QUEUED"), (&big, "-ERR.."), ("EXEC", aborted), (&set, "+OK")],
        );
        talk(&mut raw, &[(&format!("DEL {key}"), ":1")]);
    }
    cluster.assert_same_state();
}

#[test]
fn a_key_that_was_changed_and_changed_back_was_changed() {
    let tag = tag_of_group(1, GROUPS);
    let cluster = Cluster::start(Settings { groups: GROUPS, cores: 2, ..Settings::default() });
    for id in cluster.ids() {
        let [mut raw, mut other] = [(); 2].map(|()| Raw::connect(cluster.ports(id).resp));
        let key = format!("{{{tag}}}{id}");
        let [watch, get] = ["WATCH", "GET"].map(|name| format!("{name} {key}"));
        let [one, two] = [1, 2].map(|value| format!("SET {key} {value}"));
        let queue = [("MULTI", "+OK"), (&get[..], "+QUEUED")];
        talk(&mut raw, &[(&one, "+OK"), (&watch, "+OK")]);
        talk(&mut raw, &queue);
        talk(&mut raw, &[("EXEC", "*1 $1 1")]);
        // The same value again is a change, too; and so is one of its own.
        for (by_other, by_itself) in [(vec![&two, &one], vec![]), (vec![&one], vec![]), (vec![], vec![&one])]
        {
            talk(&mut raw, &[(&watch, "+OK"), (&get, "$1 1")]);
            by_other.iter().for_each(|line| talk(&mut other, &[(line, "+OK")]));
            by_itself.iter().for_each(|line| talk(&mut raw, &[(line, "+OK")]));
            talk(&mut raw, &queue);
            talk(&mut raw, &[("EXEC", "*-1")]);
        }
        // Nothing is watched any more; nor after UNWATCH, DISCARD or RESET.
        talk(&mut raw, &queue);
        talk(&mut raw, &[("EXEC", "*1 $1 1")]);
        for end in
            [vec![("UNWATCH", "+OK")], vec![("MULTI", "+OK"), ("DISCARD", "+OK")], vec![("RESET", "+RESET")]]
        {
            talk(&mut raw, &[(&watch, "+OK")]);
            talk(&mut other, &[(&two, "+OK"), (&one, "+OK")]);
            talk(&mut raw, &end);
            talk(&mut raw, &queue);
            talk(&mut raw, &[("EXEC", "*1 $1 1")]);
        }
        // What changes nothing is no change, and conditions may be all there is.
        talk(&mut raw, &[(&watch, "+OK")]);
        talk(&mut other, &[(&format!("SETNX {key} 3"), ":0"), (&format!("DEL {key}none"), ":0")]);
        talk(&mut raw, &[("MULTI", "+OK"), ("EXEC", "*0")]);
    }
}

/// A change that this node has not executed yet when EXEC comes in fails the condition where it is executed.
#[test]
fn a_change_through_another_node_is_noticed() {
    let cluster = Cluster::start(Settings::default());
    let mut clients: Vec<Raw> = cluster.ids().map(|id| Raw::connect(cluster.ports(id).resp)).collect();
    for round in 0..30 {
        let (one, other) = (round % 3, (round + 1 + round / 3 % 2) % 3);
        let key = format!("k{round}");
        talk(&mut clients[one], &[(&format!("WATCH {key}"), "+OK"), ("MULTI", "+OK")]);
        talk(&mut clients[one], &[(&format!("SET {key} mine"), "+QUEUED")]);
        talk(&mut clients[other], &[(&format!("SET {key} other"), "+OK")]);
        talk(&mut clients[one], &[("EXEC", "*-1"), (&format!("GET {key}"), "$5 other")]);
    }
}

#[test]
fn clients_know_what_they_are_told() {
    let cluster = Cluster::start(Settings { groups: GROUPS, ..Settings::default() });
    let [a, b] = [0, 1].map(|group| tag_of_group(group, GROUPS));
    let mut client = cluster.connect(1);
    let mut pipeline = pipe();
    let refused: RedisResult<Value> =
        pipeline.atomic().cmd("SET").arg(&a).arg(1).cmd("SET").arg(&b).arg(1).query(&mut client);
    assert_eq!(refused.expect_err("two groups").kind(), ErrorKind::Server(ServerErrorKind::ExecAbort));
    assert_eq!((get(&mut client, &a), get(&mut client, &b)), (None, None));
    let error = cmd("WATCH").arg(&a).arg(&b).exec(&mut client).expect_err("two groups");
    assert_eq!(error.kind(), ErrorKind::Server(ServerErrorKind::CrossSlot));
    // RESP3 has a null of its own.
    let mut raw = Raw::connect(cluster.ports(2).resp);
    raw.command(&[b"HELLO", b"3"]);
    talk_to_end_of_hello(&mut raw);
    talk(&mut raw, &[(&format!("WATCH {a}"), "+OK"), (&format!("SET {a} 2"), "+OK"), ("MULTI", "+OK")]);
    talk(&mut raw, &[("EXEC", "_"), ("EXEC", "-ERR EXEC without MULTI")]);
}

/// Reads the map that HELLO 3 is answered with: it ends with the empty list of modules.
fn talk_to_end_of_hello(raw: &mut Raw) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"modules\r\n*0\r\n") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut raw.stream, &mut byte).expect("the answer comes");
        bytes.push(byte[0]);
    }
}
