//! Bytes and connections that no honest client or peer would send: nodes stay up, serve the others, count what was wrong,
//! and keep nothing of it.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::common::peer::{hello_of, key_of, shake};
use crate::common::raw::encode;
use crate::common::{Cluster, Dice, Raw, Settings, eventually};
use panch_wire::client;
use panch_wire::command::{Command, CommandKind};
use panch_wire::ids::{Incarnation, ReplicaId};
use panch_wire::peer::{Challenge, Hello, HelloReply, PACKET_HEADER_SIZE, Proof, RefusalCode};
use redis::cmd;

/// A node must close a hopeless connection within this time.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// What happens to a connection that sends some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// The node closes it and counts an error.
    Closed,
    /// They are no error yet: the client goes away in the middle.
    Dropped,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Listener {
    Resp,
    Native,
    Peer,
    /// The peers' port, after a hello that was accepted.
    Stream,
}

fn bytes_of(hello: &Hello) -> Vec<u8> {
    let mut bytes = Vec::new();
    hello.write(&mut bytes);
    bytes
}

fn native_hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    client::Hello::new(0).write(&mut bytes);
    bytes
}

fn native_get(key: &[u8]) -> Vec<u8> {
    let command = Command { kind: CommandKind::Get, flags: 0, session: None, key, value: b"" };
    let request = client::RequestView {
        number: 1,
        acked_below: 0,
        level: client::ReadLevel::default(),
        ask_stages: false,
        ask_commit: false,
        operation: client::Operation::Command(command),
    };
    let mut bytes = Vec::new();
    client::write_request(&request, &mut bytes);
    bytes
}

/// Bytes of a packet with one message of eight bytes, and without its body.
const HEAD: u32 = PACKET_HEADER_SIZE as u32 + 16;

/// The head of a packet that announces `message_count` messages and `total_length` bytes; its checksum is right.
fn packet_from(sender: Incarnation, messages: &[u8], total_length: u32, message_count: u32) -> Vec<u8> {
    let mut bytes = vec![0; PACKET_HEADER_SIZE];
    bytes[8..12].copy_from_slice(b"PNPK");
    let head_length = PACKET_HEADER_SIZE as u32 + messages.len() as u32;
    for (at, number) in [(12, head_length), (16, total_length), (20, message_count), (24, sender.0)] {
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(messages);
    let sum = panch_wire::checksum::checksum(&bytes[8..]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// A message in a packet.
fn message(group: u16, kind: u8, body_length: u32, bytes: &[u8]) -> Vec<u8> {
    let mut message = group.to_le_bytes().to_vec();
    message.extend_from_slice(&[kind, bytes.len() as u8]);
    message.extend_from_slice(&body_length.to_le_bytes());
    message.extend_from_slice(bytes);
    message
}

#[test]
fn garbage_on_any_port_ends_its_own_connection_and_nothing_else() {
    use Fate::{Closed, Dropped};
    use Listener::{Native, Peer, Resp, Stream};
    let mut cluster = Cluster::start(Settings::default());
    let mut dice = Dice::new(1);
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl\r\n\r\n".to_vec();
    let post = b"POST /set HTTP/1.1\r\nContent-Length: 14\r\n\r\nSET evil taken\n".to_vec();
    let hello = hello_of(&cluster, 2);
    let peer_hello = bytes_of(&hello);
    let packet = |messages: &[u8], total_length, message_count| {
        packet_from(hello.incarnation, messages, total_length, message_count)
    };
    let mut flipped = peer_hello.clone();
    flipped[20] ^= 1;
    let join = |parts: &[&[u8]]| parts.concat();
    let huge_request = {
        let mut bytes = native_get(b"key");
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes
    };
    let key_longer_than_request = {
        let mut bytes = native_get(b"key");
        bytes[8..10].copy_from_slice(&u16::MAX.to_le_bytes());
        bytes
    };
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    // Too short for any message of a protocol.
    let short = message(0, 0, 0, &[0xff; 8]);
    let whole = packet(&short, HEAD, 1);
    let endless_head = {
        let mut bytes = whole.clone();
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes
    };
    let foreign_group = packet(&message(999, 0, 0, &[0; 8]), HEAD, 1);
    let unknown_kind = packet(&message(0, 77, 0, &[0; 8]), HEAD, 1);
    let large_body = packet(&message(0, 0, 100_000_000, &[0; 8]), HEAD + 100_000_000, 1);
    let half_a_body = packet(&message(0, 0, 1_000_000, &[0; 8]), HEAD + 1_000_000, 1);
    let random_body = packet(&message(0, 0, 5000, &[0; 8]), HEAD + 5000, 1);
    let cases: Vec<(&str, Listener, Vec<u8>, Fate)> = vec![
        ("nothing", Resp, vec![], Dropped),
        ("nothing", Native, vec![], Dropped),
        ("nothing", Peer, vec![], Dropped),
        ("random bytes", Resp, [&[0xff][..], &dice.bytes(100_000)].concat(), Dropped),
        ("random bytes", Native, dice.bytes(100_000), Closed),
        ("random bytes", Peer, dice.bytes(100_000), Closed),
        ("HTTP", Resp, http.clone(), Closed),
        ("HTTP", Native, http.clone(), Closed),
        ("HTTP", Peer, http, Closed),
        ("a form posted by a browser", Resp, post, Closed),
        ("a million million arguments", Resp, b"*1000000000000\r\n".to_vec(), Closed),
        ("a count that overflows", Resp, b"*99999999999999999999999999\r\n".to_vec(), Closed),
        ("many arguments announced", Resp, b"*1048576\r\n$3\r\nSET\r\n".to_vec(), Dropped),
        ("a huge argument", Resp, b"*2\r\n$3\r\nGET\r\n$2147483647\r\n".to_vec(), Closed),
        ("a negative length", Resp, b"*2\r\n$3\r\nGET\r\n$-5\r\n".to_vec(), Closed),
        ("an argument longer than announced", Resp, b"*2\r\n$3\r\nGET\r\n$3\r\nabcdef\r\n".to_vec(), Closed),
        ("an integer for an argument", Resp, b"*2\r\n$3\r\nGET\r\n:5\r\n".to_vec(), Closed),
        ("an inline command without end", Resp, vec![b'a'; 200_000], Closed),
        ("quotes that are not closed", Resp, b"SET a \"b\r\n".to_vec(), Closed),
        ("half a command", Resp, half(&encode(&[b"SET", b"half", b"half"])), Dropped),
        ("half a hello", Native, half(&native_hello()), Dropped),
        ("a request of 4 GiB", Native, join(&[&native_hello(), &huge_request]), Closed),
        ("a key longer than its request", Native, join(&[&native_hello(), &key_longer_than_request]), Closed),
        ("random bytes behind a hello", Native, join(&[&native_hello(), &[0xff; 64]]), Closed),
        ("half a request", Native, join(&[&native_hello(), &half(&native_get(b"key"))]), Dropped),
        ("half a hello", Peer, half(&peer_hello), Dropped),
        ("a hello that was changed on the way", Peer, flipped, Closed),
        ("random bytes", Stream, dice.bytes(5000), Closed),
        ("a head of 4 GiB", Stream, endless_head, Closed),
        ("a packet of 4 GiB", Stream, packet(&short, u32::MAX, 1), Closed),
        ("too many messages", Stream, packet(&short, HEAD, u32::MAX), Closed),
        ("half a packet", Stream, half(&whole), Dropped),
        ("a message that means nothing", Stream, whole.clone(), Closed),
        ("a message for a group that is not there", Stream, foreign_group, Closed),
        ("a message of an unknown kind", Stream, unknown_kind, Closed),
        ("a body of 100 MB", Stream, large_body, Closed),
        ("half a body", Stream, join(&[&half_a_body, &dice.bytes(1000)]), Dropped),
        ("a random body", Stream, join(&[&random_body, &dice.bytes(5000)]), Closed),
    ];
    let counts = |cluster: &Cluster| {
        let info = cluster.info(1);
        (info.number("client_protocol_errors"), info.number("peer_protocol_errors"))
    };
    let before = counts(&cluster);
    let (mut client_errors, mut peer_errors) = (0, 0);
    let mut bystander = cluster.connect(1);
    for (number, (name, listener, bytes, fate)) in cases.iter().enumerate() {
        let ports = cluster.ports(1);
        let port = match listener {
            Resp => ports.resp,
            Native => ports.native,
            Peer | Stream => ports.peer,
        };
        let mut raw = Raw::connect(port);
        if *listener == Stream {
            let proof = Proof { key: key_of(&cluster, 2), ..Proof::default() };
            let shaken = shake(port, &hello, &proof, None);
            assert_eq!(shaken.refusal, None);
            raw = shaken.raw;
        }
        let _ = raw.try_send(bytes);
        if *fate == Closed {
            assert!(
                raw.read_to_end(CLOSE_PATIENCE).is_some(),
                "{name} on the {listener:?} port: the connection stays open"
            );
            let of_peer = matches!(listener, Peer | Stream);
            let errors = if of_peer { &mut peer_errors } else { &mut client_errors };
            *errors += 1;
        }
        drop(raw);
        let key = format!("bystander-{number}");
        let written: redis::RedisResult<()> = cmd("SET").arg(&key).arg(name).query(&mut bystander);
        assert!(written.is_ok(), "after {name} on the {listener:?} port: {written:?}");
    }
    eventually("every error is counted", Duration::from_secs(5), || {
        // Random bytes may be an error before they are dropped.
        let now = counts(&cluster);
        let (client, peer) = (now.0 - before.0, now.1 - before.1);
        let dropped = cases.iter().filter(|(_, _, _, fate)| *fate == Dropped).count() as u64;
        let fits = |counted, errors| (errors..=errors + dropped).contains(&counted);
        (fits(client, client_errors) && fits(peer, peer_errors)).then_some(())
    });
    let evil: bool = cmd("EXISTS").arg("evil").query(&mut bystander).expect("EXISTS");
    assert!(!evil, "a web page can write");
    cluster.assert_all_serve();
    cluster.assert_same_state();
}

#[test]
fn a_peer_that_does_not_wait_for_the_answer_to_its_hello_is_cut_off() {
    let cluster = Cluster::start(Settings::default());
    let mut raw = Raw::connect(cluster.ports(1).peer);
    raw.send(&[bytes_of(&hello_of(&cluster, 2)), vec![0xff; 100]].concat());
    assert!(raw.read_to_end(CLOSE_PATIENCE).is_some(), "bytes of a peer were thrown away unseen");
    assert_eq!(cluster.info(1).number("peer_protocol_errors"), 1);
}

#[test]
fn bytes_that_drip_in_one_by_one_are_understood_and_delay_nobody() {
    let cluster = Cluster::start(Settings::default());
    let ports = cluster.ports(1);
    let set = encode(&[b"SET", b"drip", b"drop"]);
    let native = [native_hello(), native_get(b"drip")].concat();
    let peer = bytes_of(&hello_of(&cluster, 2));
    let mut slow: Vec<(Raw, Vec<u8>)> = vec![
        (Raw::connect(ports.resp), set),
        (Raw::connect(ports.native), native),
        (Raw::connect(ports.peer), peer),
    ];
    let mut bystander = cluster.connect(1);
    // A hello may not take for ever: that one comes in fewer pieces.
    let steps = [1, 1, 4];
    let longest = slow.iter().zip(steps).map(|((_, bytes), step)| bytes.len().div_ceil(step)).max();
    for at in 0..longest.expect("three") {
        for ((raw, bytes), step) in slow.iter_mut().zip(steps) {
            if let Some(piece) = bytes.chunks(step).nth(at) {
                raw.send(piece);
            }
        }
        let start = Instant::now();
        cmd("SET").arg("bystander").arg(at).query::<()>(&mut bystander).expect("SET");
        assert!(start.elapsed() < Duration::from_secs(3), "slow senders delay others");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(slow[0].0.reply_bytes(), b"+OK\r\n");
    let mut answer = vec![0; client::HELLO_REPLY_SIZE + client::REPLY_HEADER_SIZE + 4];
    std::io::Read::read_exact(&mut slow[1].0.stream, &mut answer).expect("hello and value");
    assert!(answer.ends_with(b"drop"), "{}", answer.escape_ascii());
    let mut answer = vec![0; Challenge::SIZE];
    std::io::Read::read_exact(&mut slow[2].0.stream, &mut answer).expect("the answer to the hello");
    assert!(Challenge::parse(&answer).expect("a challenge").is_some());
}

#[test]
fn peers_that_do_not_belong_here_are_refused_with_the_reason() {
    let mut cluster = Cluster::start(Settings::default());
    let right = hello_of(&cluster, 2);
    let cases = [
        (Hello { cluster: right.cluster ^ 1, ..right }, RefusalCode::Cluster),
        (Hello { fingerprint: right.fingerprint ^ 1, ..right }, RefusalCode::Fingerprint),
        (Hello { node: ReplicaId(0), ..right }, RefusalCode::Node),
        (Hello { node: ReplicaId(3), ..right }, RefusalCode::Node),
        (Hello { frame_version: right.frame_version + 1, ..right }, RefusalCode::FrameVersion),
        (Hello { log_version: right.log_version + 1, ..right }, RefusalCode::LogVersion),
        (Hello { incarnation: Incarnation(0), ..right }, RefusalCode::Malformed),
    ];
    for (hello, expected) in cases {
        let mut raw = Raw::connect(cluster.ports(1).peer);
        raw.send(&bytes_of(&hello));
        let answer = raw.read_to_end(CLOSE_PATIENCE);
        let answer = answer.unwrap_or_else(|| panic!("{expected:?}: the connection stays open"));
        let (reply, _) = HelloReply::parse(&answer).expect("an answer").expect("a whole answer");
        assert_eq!(reply.refusal, Some(expected));
        assert_eq!(reply.text, expected.text());
    }

    // A life that a node has left behind: whoever claims it has an old copy of its data.
    let proof = Proof { key: key_of(&cluster, 2), ..Proof::default() };
    cluster.kill(2);
    cluster.start_node(2);
    cluster.wait_writable();
    let shaken = shake(cluster.ports(1).peer, &right, &proof, None);
    assert_eq!(shaken.refusal, Some(RefusalCode::Incarnation));
    cluster.assert_all_serve();
}

#[test]
fn peers_that_never_finish_their_hello_are_given_up() {
    let mut cluster = Cluster::start(Settings::default());
    let hello = bytes_of(&hello_of(&cluster, 2));
    let mut silent: Vec<Raw> = (0..60).map(|_| Raw::connect(cluster.ports(1).peer)).collect();
    for (number, raw) in silent.iter_mut().enumerate() {
        raw.send(&hello[..number]);
    }
    for (number, raw) in silent.iter_mut().enumerate() {
        let end = raw.read_to_end(Duration::from_secs(10));
        assert!(end.is_some(), "a connection with {number} bytes of a hello is held for ever");
    }
    // Those who have something to say still get through.
    cluster.kill(2);
    cluster.start_node(2);
    cluster.assert_all_serve();
    cluster.assert_same_state();
}

#[test]
fn a_node_with_another_cluster_configuration_is_kept_out_until_it_is_corrected() {
    let mut cluster = Cluster::start(Settings::default());
    let odd = cluster.follower();
    cluster.stop(odd, Duration::from_secs(5));
    let path = cluster.config_path(odd);
    let text = std::fs::read_to_string(&path).expect("the configuration");
    let changed = text.replace("groups = 1\n", "groups = 1\nlinger = \"3ms\"\n");
    std::fs::write(&path, changed).expect("written");
    cluster.start_node(odd);
    eventually("it says why it is alone", Duration::from_secs(10), || {
        let errors = cluster.errors(odd);
        (errors.contains("refused this node") && errors.contains("the cluster configuration differs"))
            .then_some(())
    });
    let other = cluster.ids().find(|id| *id != odd).expect("three nodes");
    cmd("SET").arg("without").arg("it").query::<()>(&mut cluster.connect(other)).expect("two are a majority");
    assert_eq!(cluster.info(odd).group(0).leader, None, "it cannot follow, and must not lead");
    cluster.stop(odd, Duration::from_secs(5));
    std::fs::write(&path, text).expect("written");
    cluster.start_node(odd);
    cluster.wait_writable();
    let found: String = cmd("GET").arg("without").query(&mut cluster.connect(odd)).expect("GET");
    assert_eq!(found, "it");
    cluster.assert_same_state();
}

#[test]
fn connections_that_come_and_go_leave_no_descriptors_behind() {
    const ROUNDS: usize = 20;
    const AT_ONCE: usize = 100;
    let mut cluster = Cluster::start(Settings::default());
    cmd("SET").arg("k").arg("v".repeat(2000)).query::<()>(&mut cluster.connect(1)).expect("SET");
    let peer_hello = bytes_of(&hello_of(&cluster, 2));
    let quiet = |cluster: &Cluster| {
        eventually("only the asking client is connected", Duration::from_secs(10), || {
            (cluster.info(1).number("connected_clients") == 1).then_some(())
        });
    };
    quiet(&cluster);
    let before = cluster.open_files(1);
    let ports = cluster.ports(1);
    let get = encode(&[b"GET", b"k"]).repeat(50);
    let native = [native_hello(), native_get(b"k").repeat(50)].concat();
    for round in 0..ROUNDS {
        let mut open = Vec::new();
        for number in 0..AT_ONCE {
            let (port, bytes): (u16, &[u8]) = match number % 8 {
                0 => (ports.resp, b""),
                1 => (ports.resp, &get[..7]),
                2 => (ports.resp, &get),
                3 => (ports.native, b""),
                4 => (ports.native, &native),
                5 => (ports.peer, b""),
                6 => (ports.peer, &peer_hello[..20]),
                _ => (ports.peer, &peer_hello),
            };
            let mut raw = Raw::connect(port);
            raw.send(bytes);
            open.push(raw);
        }
        if round % 2 == 0 {
            // Half of them are gone before the node has answered, the others after.
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(open);
    }
    quiet(&cluster);
    eventually("every descriptor is closed", Duration::from_secs(10), || {
        // The nodes' own streams may be opened anew in between.
        (cluster.open_files(1) <= before + 4).then_some(())
    });
    cluster.assert_all_serve();
}

#[test]
fn connections_above_the_limit_are_told_so_and_below_it_accepted_again() {
    const LIMIT: usize = 20;
    let cluster = Cluster::start(Settings {
        // Whichever core the kernel gives a connection to, the limit is the node's.
        cores: 2,
        node: format!(
            "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"8MiB\"\nclient_connections_max = {LIMIT}\n"
        ),
        ..Settings::default()
    });
    let ports = cluster.ports(1);
    let leader = cluster.leader();
    eventually("clients of the start are gone", Duration::from_secs(10), || {
        (cluster.info(1).number("connected_clients") == 1).then_some(())
    });
    let mut held: Vec<Raw> = Vec::new();
    eventually("as many as allowed are served", Duration::from_secs(10), || {
        // The connection of the last INFO may not be gone yet.
        while held.len() < LIMIT {
            let mut raw = Raw::connect(ports.resp);
            raw.try_send(b"PING\r\n");
            let mut answer = [0; 7];
            let is_told = std::io::Read::read_exact(&mut raw.stream, &mut answer).is_ok();
            if !is_told || answer != *b"+PONG\r\n" {
                return None;
            }
            held.push(raw);
        }
        Some(())
    });
    for port in [ports.resp, ports.native, ports.resp] {
        let answer = Raw::connect(port).read_to_end(CLOSE_PATIENCE).expect("one too many is closed");
        let text = "ERR max number of clients reached";
        if port == ports.resp {
            assert_eq!(answer.escape_ascii().to_string(), format!("-{text}\\r\\n"));
        } else {
            let (reply, _) = client::HelloReply::parse(&answer).expect("an answer").expect("it is whole");
            assert_eq!(reply.refusal, Some(client::RefusalCode::TooManyConnections));
            assert_eq!(reply.text, text);
        }
    }
    // Who was let in is not disturbed, and sees the count.
    eventually("the count of the other core is known", Duration::from_secs(10), || {
        held[0].command(&[b"INFO", b"stats"]);
        let text = String::from_utf8(held[0].reply_bytes()).expect("text");
        (crate::common::Info::parse(&text).number("rejected_connections") >= 3).then_some(())
    });
    held[0].command(&[b"CONFIG", b"GET", b"maxclients"]);
    assert_eq!(held[0].reply_bytes(), format!("*2\r\n$10\r\nmaxclients\r\n$2\r\n{LIMIT}\r\n").into_bytes());
    held[0].command(&[b"SET", b"still", b"served"]);
    assert_eq!(held[0].reply_bytes(), b"+OK\r\n");
    // Peers are not counted as clients.
    assert_eq!(cluster.info(2).group(0).leader, Some(leader), "nodes still hear each other");
    drop(held);
    cluster.wait_writable();
}

/// Sends `opening`, then `request` until the node reads no more of it, or `size_max` bytes are sent.
fn flood(port: u16, opening: &[u8], request: &[u8], size_max: usize) -> (Raw, usize) {
    let mut raw = Raw::connect(port);
    raw.send(opening);
    raw.stream.set_write_timeout(Some(Duration::from_millis(1500))).expect("a timeout");
    let chunk = request.repeat((64 << 10) / request.len() + 1);
    let mut sent = 0;
    while sent < size_max {
        match raw.stream.write(&chunk) {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    (raw, sent)
}

fn a_client_that_reads_nothing_is_held_back(listener: Listener, request: &[u8], value_size: usize) {
    const GROWTH_MAX: u64 = 64 << 20;
    let mut cluster = Cluster::start(Settings {
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"8MiB\"\nframe_pool_size = \"16MiB\"\n\
               client_memory_max = \"16MiB\"\n"
            .into(),
        ..Settings::default()
    });
    let leader = cluster.leader();
    let mut bystander = cluster.connect(leader);
    let value = vec![b'v'; value_size];
    for _ in 0..20 {
        cmd("SET").arg("k").arg(&value).query::<()>(&mut bystander).expect("SET");
        cmd("GET").arg("k").query::<Vec<u8>>(&mut bystander).expect("GET");
    }
    let before = cluster.resident_size(leader);
    let (port, opening) = match listener {
        Listener::Native => (cluster.ports(leader).native, native_hello()),
        _ => (cluster.ports(leader).resp, Vec::new()),
    };
    let request = request.to_vec();
    let flooding = std::thread::spawn(move || flood(port, &opening, &request, 64 << 20));
    let (mut highest, mut slowest) = (before, Duration::ZERO);
    let start = Instant::now();
    while !flooding.is_finished() || start.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        let written = cmd("SET").arg("bystander").arg(1).query::<()>(&mut bystander);
        slowest = slowest.max(asked.elapsed());
        highest = highest.max(cluster.resident_size(leader));
        if let Err(error) = written {
            println!("a write of another client failed after {:.2?}: {error}", asked.elapsed());
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let (raw, sent) = flooding.join().expect("the flood ends");
    println!(
        "{sent} bytes of requests were taken, {} MiB of memory; the slowest write of another client took {slowest:.2?}",
        (highest - before) >> 20
    );
    assert!(
        highest - before < GROWTH_MAX,
        "memory grew by {} MiB for a client that reads nothing",
        (highest - before) >> 20
    );
    assert!(slowest < Duration::from_secs(12), "others wait {slowest:?}");
    drop(raw);
    cluster.assert_all_serve();
}

#[test]
fn a_client_that_asks_for_large_values_and_reads_nothing_is_held_back() {
    a_client_that_reads_nothing_is_held_back(Listener::Resp, &encode(&[b"GET", b"k"]), 64 << 10);
}

#[test]
fn a_native_client_that_asks_for_large_values_and_reads_nothing_is_held_back() {
    a_client_that_reads_nothing_is_held_back(Listener::Native, &native_get(b"k"), 64 << 10);
}

#[test]
fn a_client_that_asks_for_little_and_reads_nothing_is_held_back() {
    a_client_that_reads_nothing_is_held_back(Listener::Resp, b"PING\r\n", 100);
}

#[test]
fn a_client_that_writes_and_reads_nothing_is_held_back() {
    a_client_that_reads_nothing_is_held_back(
        Listener::Resp,
        &encode(&[b"SET", b"other", &[b'w'; 1000]]),
        100,
    );
}
