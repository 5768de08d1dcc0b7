//! The data take no more memory than they may: what would make them grow is refused, on every node, and nothing else is.

use std::time::Duration;

use crate::common::raw::encode;
use crate::common::session::{Answered, SessionClient};
use crate::common::{Cluster, Raw, Settings, eventually};
use panch_wire::command::{CommandError, CommandKind};
use redis::cmd;

const OOM: &str = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";

fn replies(raw: &mut Raw, commands: &[&[&str]]) -> Vec<String> {
    let encoded = commands.iter().map(|command| {
        let arguments: Vec<&[u8]> = command.iter().map(|argument| argument.as_bytes()).collect();
        encode(&arguments)
    });
    raw.send(&encoded.collect::<Vec<_>>().concat());
    commands.iter().map(|_| String::from_utf8_lossy(&raw.reply_bytes()).into_owned()).collect()
}

#[test]
fn a_full_cluster_refuses_what_grows_and_serves_the_rest_until_something_is_deleted() {
    const MAX: u64 = 4 << 20;
    let node = |max: u64| {
        format!("log_segment_size = \"4MiB\"\nsnapshot_log_size = \"8MiB\"\ndata_memory_max = \"{max}B\"\n")
    };
    let settings = Settings { groups: 2, cores: 2, node: node(MAX), ..Settings::default() };
    let mut cluster = Cluster::start(settings);
    let value = "v".repeat(10_000);
    let mut client = cluster.connect(1);
    // Keys of both groups, so that some are of the core that their client is connected to and some are not.
    let mut counted = std::array::from_fn::<_, 8, _>(|number| {
        let mut session = SessionClient::of_node(&cluster, 1, 1 + number as u64);
        let key = format!("counter{number}");
        session.open_at(key.as_bytes());
        assert_eq!(session.call(CommandKind::IncrBy, &key, &1i64.to_le_bytes()), Answered::Number(1));
        (session, key)
    });
    let written = (0..2000)
        .take_while(|number| {
            let set = cmd("SET").arg(format!("key{number}")).arg(&value).query::<()>(&mut client);
            if let Err(error) = &set {
                assert!(error.to_string().contains("OOM") || error.code() == Some("OOM"), "{error}");
            }
            // It is looked at from time to time.
            std::thread::sleep(Duration::from_micros(500));
            set.is_ok()
        })
        .count();
    assert!((300..800).contains(&written), "{written} values of 10 kB in 4 MiB");
    cluster.assert_same_state();
    let refused: [&[&str]; 6] = [
        &["SET", "a", "1"],
        &["SETNX", "a", "1"],
        &["INCR", "a"],
        &["APPEND", "key0", "x"],
        &["MSET", "a", "1"],
        &["GETSET", "key0", "x"],
    ];
    let served: [(&[&str], &str); 4] = [
        (&["STRLEN", "key0"], ":10000\r\n"),
        (&["EXISTS", "key0"], ":1\r\n"),
        (&["DEL", "none"], ":0\r\n"),
        (&["PING"], "+PONG\r\n"),
    ];
    for id in cluster.ids() {
        let mut raw = Raw::connect(cluster.ports(id).resp);
        eventually("each node knows", Duration::from_secs(5), || {
            (replies(&mut raw, &[&["SET", "a", "1"]]) == [OOM]).then_some(())
        });
        assert_eq!(replies(&mut raw, &refused), [OOM; 6]);
        for (command, expected) in served {
            assert_eq!(replies(&mut raw, &[command]), [expected]);
        }
        let multi: [&[&str]; 6] =
            [&["MULTI"], &["DEL", "none"], &["SET", "none", "1"], &["EXEC"], &["MULTI"], &["EXEC"]];
        let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
        assert_eq!(replies(&mut raw, &multi), ["+OK\r\n", "+QUEUED\r\n", OOM, aborted, "+OK\r\n", "*0\r\n"]);
        let info = cluster.info(id);
        assert!(info.number("used_memory_dataset") >= MAX && info.number("maxmemory") == MAX);
        assert!(info.number("used_memory_dataset") < MAX + (1 << 20));
    }
    // Another copy of what was executed adds nothing.
    for (session, key) in &mut counted {
        let again = session.again(CommandKind::IncrBy, key, &1i64.to_le_bytes());
        assert_eq!(again, Some(Answered::Number(1)), "{key}");
        let next = session.call_once(CommandKind::IncrBy, key, &1i64.to_le_bytes());
        assert_eq!(next, Some(Answered::Refused(CommandError::OutOfMemory)), "{key}");
    }
    // What was decided is executed whatever the limits say: a node with another limit comes to the same state.
    let id = cluster.follower();
    cluster.stop(id, Duration::from_secs(10));
    cluster.settings.node = node(2 << 20);
    cluster.start_node(id);
    for number in 0..written {
        cmd("DEL")
            .arg(format!("key{number}"))
            .query::<()>(&mut cluster.connect(1))
            .expect("deletions are served");
    }
    eventually("there is room again", Duration::from_secs(5), || {
        cmd("SET").arg("a").arg(1).query::<()>(&mut cluster.connect(id)).ok()
    });
    cluster.assert_same_state();
}
