//! What clients make a node hold is bounded for all of them together, and whoever reads is served meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::cluster::tag_of_group;
use crate::common::raw::encode;
use crate::common::{Cluster, Raw, Settings, eventually};
use redis::cmd;

const MIB: usize = 1 << 20;
/// No node may take more, whatever its clients do, with the defaults for them.
const RESIDENT_MAX: u64 = 256 << 20;
/// Memory that a node may keep when they are gone.
const KEPT_MAX: u64 = 48 << 20;

fn settings() -> Settings {
    let node = "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"8MiB\"\n";
    Settings { node: node.into(), ..Settings::default() }
}

fn connect(cluster: &Cluster, id: usize) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", cluster.ports(id).resp)).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// Writes as another client until `patience` is over. Returns the most memory that the node took, and how long the writes waited, ascending.
fn write_meanwhile(cluster: &Cluster, id: usize, patience: Duration) -> (u64, Vec<Duration>) {
    let mut client = cluster.connect(id);
    let (start, mut highest, mut waits) = (Instant::now(), 0, Vec::new());
    while start.elapsed() < patience {
        let asked = Instant::now();
        cmd("SET").arg("other").arg(1).query::<()>(&mut client).expect("others are served");
        waits.push(asked.elapsed());
        highest = highest.max(cluster.resident_size(id));
        std::thread::sleep(Duration::from_millis(2));
    }
    waits.sort_unstable();
    (highest, waits)
}

fn show(what: &str, before: u64, highest: u64, waits: &[Duration]) {
    let p99 = waits[waits.len() * 99 / 100];
    println!(
        "{what}: {} MiB before, {} at most; {} writes of another, p99 {p99:.2?}",
        before >> 20,
        highest >> 20,
        waits.len()
    );
}

#[test]
fn a_hundred_clients_that_do_not_read_long_values_take_no_more_than_they_may() {
    let mut cluster = Cluster::start(settings());
    let id = cluster.leader();
    cmd("SET").arg("k").arg(vec![b'v'; MIB]).query::<()>(&mut cluster.connect(id)).expect("SET");
    let before = cluster.resident_size(id);
    let request = encode(&[b"GET", b"k"]).repeat(50);
    let mut idle: Vec<TcpStream> = (0..100).map(|_| connect(&cluster, id)).collect();
    idle.iter_mut().for_each(|stream| stream.write_all(&request).expect("the requests are small"));
    let (highest, waits) = write_meanwhile(&cluster, id, Duration::from_secs(5));
    show("unread values", before, highest, &waits);
    assert!(highest < RESIDENT_MAX, "{} MiB", highest >> 20);
    assert!(*waits.last().expect("some were written") < Duration::from_secs(2), "{waits:?}");
    // Somebody who reads gets long values all the same, since those who do not give way.
    let mut reader = connect(&cluster, id);
    reader.write_all(&encode(&[b"GET", b"k"])).expect("it is taken");
    let mut value = vec![0; MIB + 12];
    reader.read_exact(&mut value).expect("the value comes");
    assert!(
        value.starts_with(b"$1048576\r\nv") && value.ends_with(b"v\r\n"),
        "{}",
        value[..20].escape_ascii()
    );
    let info = cluster.info(id);
    assert!(info.number("evicted_clients") > 0);
    assert!(cluster.errors(id).contains("to keep to client_memory_max"), "{}", cluster.errors(id));
    drop(idle);
    eventually("memory comes back", Duration::from_secs(10), || {
        (cluster.resident_size(id) < before + KEPT_MAX).then_some(())
    });
    eventually("nothing is held", Duration::from_secs(5), || {
        (cluster.info(id).number("mem_clients_normal") < MIB as u64).then_some(())
    });
    cluster.assert_all_serve();
}

#[test]
fn who_reads_slowly_is_not_closed_though_others_let_memory_lie() {
    const COUNT: usize = 40;
    let cluster = Cluster::start(settings());
    let id = cluster.leader();
    cmd("SET").arg("k").arg(vec![b'v'; MIB]).query::<()>(&mut cluster.connect(id)).expect("SET");
    let get = encode(&[b"GET", b"k"]);
    let mut slow = connect(&cluster, id);
    slow.write_all(&get.repeat(COUNT)).expect("the requests are small");
    // It has one long send to read for longer than the patience with those who do not read at all.
    let mut value = vec![0; MIB + 12];
    slow.read_exact(&mut value).expect("the first value comes");
    let mut idle: Vec<TcpStream> = (0..60).map(|_| connect(&cluster, id)).collect();
    idle.iter_mut().for_each(|stream| stream.write_all(&get.repeat(50)).expect("the requests are small"));
    for _ in 1..COUNT {
        std::thread::sleep(Duration::from_millis(150));
        slow.read_exact(&mut value).expect("the value comes");
        assert!(value.ends_with(b"v\r\n"));
    }
    assert!(cluster.info(id).number("evicted_clients") > 0, "others are closed meanwhile");
}

#[test]
fn three_hundred_requests_that_are_never_finished_take_no_more_than_they_may() {
    let mut cluster = Cluster::start(settings());
    let id = cluster.leader();
    let before = cluster.resident_size(id);
    let request = encode(&[b"SET", b"k", &vec![b'v'; MIB]]);
    let halves: Vec<_> = (0..300)
        .map(|_| {
            let (mut stream, half) = (connect(&cluster, id), request[..request.len() - 100].to_vec());
            // The node may stop reading, or close.
            std::thread::spawn(move || (stream.write_all(&half).is_ok(), stream))
        })
        .collect();
    let (highest, waits) = write_meanwhile(&cluster, id, Duration::from_secs(5));
    show("unfinished requests", before, highest, &waits);
    assert!(highest < RESIDENT_MAX, "{} MiB", highest >> 20);
    assert!(*waits.last().expect("some were written") < Duration::from_secs(2), "{waits:?}");
    // Somebody who finishes one is served: those who do not give way.
    let mut client = cluster.connect(id);
    cmd("SET").arg("k").arg(vec![b'w'; MIB]).query::<()>(&mut client).expect("a long value is taken");
    drop(halves.into_iter().map(|half| half.join()).collect::<Vec<_>>());
    eventually("memory comes back", Duration::from_secs(10), || {
        (cluster.resident_size(id) < before + KEPT_MAX).then_some(())
    });
    cluster.assert_all_serve();
}

#[test]
fn four_hundred_thousand_requests_are_answered_though_nobody_reads_before_all_are_sent() {
    const COUNT: usize = 400_000;
    let cluster = Cluster::start(settings());
    let id = cluster.leader();
    cmd("SET").arg("k").arg("a value").query::<()>(&mut cluster.connect(id)).expect("SET");
    let mut stream = connect(&cluster, id);
    stream.write_all(&encode(&[b"GET", b"k"]).repeat(COUNT)).expect("all are taken");
    let one = b"$7\r\na value\r\n";
    let mut answers = vec![0; one.len() * COUNT];
    stream.read_exact(&mut answers).expect("all are answered");
    assert!(answers.chunks(one.len()).all(|answer| answer == one));
}

#[test]
fn many_long_values_asked_for_at_once_come_to_who_reads_them() {
    const COUNT: usize = 600;
    // On two cores, so that some values come from another one.
    let cluster = Cluster::start(Settings { groups: 2, cores: 2, ..settings() });
    let id = cluster.follower();
    let keys: Vec<String> = (0..2).map(|group| tag_of_group(group, 2)).collect();
    for key in &keys {
        cmd("SET").arg(key).arg(vec![b'v'; MIB]).query::<()>(&mut cluster.connect(id)).expect("SET");
    }
    let before = cluster.resident_size(id);
    let mut stream = connect(&cluster, id);
    let requests: Vec<u8> =
        (0..COUNT).flat_map(|number| encode(&[b"GET", keys[number % 2].as_bytes()])).collect();
    stream.write_all(&requests).expect("the requests are small");
    let (mut value, mut highest) = (vec![0; MIB + 12], before);
    for _ in 0..COUNT {
        stream.read_exact(&mut value).expect("the value comes");
        assert!(
            value.starts_with(b"$1048576\r\nv") && value.ends_with(b"v\r\n"),
            "{}",
            value[..20].escape_ascii()
        );
        highest = highest.max(cluster.resident_size(id));
    }
    println!("{} MiB before, {} at most", before >> 20, highest >> 20);
    assert!(highest < RESIDENT_MAX + (64 << 20), "{} MiB", highest >> 20);
    // A long value that was there is none for what follows.
    let mut raw = Raw::connect(cluster.ports(id).resp);
    raw.send(&[encode(&[b"STRLEN", keys[0].as_bytes()]), encode(&[b"PING"])].concat());
    assert_eq!([raw.reply_bytes(), raw.reply_bytes()], [&b":1048576\r\n"[..], b"+PONG\r\n"]);
}

/// Keeps the kernel from taking in more than little for a client.
fn receive_little(stream: &TcpStream) {
    let size: libc::c_int = 64 << 10;
    // SAFETY: the descriptor is open, and the option is read from `size`, of its size.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}

#[test]
fn a_request_whose_reply_finds_no_room_is_refused_in_time() {
    const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
    const SLACK: Duration = Duration::from_millis(500);
    let mut settings = settings();
    settings.node.push_str("client_memory_max = \"8MiB\"\n");
    let cluster = Cluster::start(settings);
    let id = cluster.leader();
    cmd("SET").arg("k").arg(vec![b'v'; MIB]).query::<()>(&mut cluster.connect(id)).expect("SET");
    // These hold everything, and read so slowly that nothing comes back for half a minute, but they read.
    let get = encode(&[b"GET", b"k"]);
    let mut slow: Vec<TcpStream> = (0..16).map(|_| connect(&cluster, id)).collect();
    for stream in &mut slow {
        receive_little(stream);
        // The kernel takes some of them.
        stream.write_all(&get.repeat(10)).expect("the requests are small");
        stream.set_nonblocking(true).expect("a socket can");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let reading = std::thread::spawn(move || {
        let mut bytes = [0; 8192];
        while !until.load(Ordering::Relaxed) {
            for stream in &mut slow {
                // Some of them wait for room themselves.
                match stream.read(&mut bytes) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Ok(0) | Err(_) => return false,
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        true
    });
    let mut client = cluster.connect(id);
    let full = || (cluster.info(id).number("mem_clients_normal") > 7 * MIB as u64).then_some(());
    eventually("no room for one more", Duration::from_secs(10), full);
    for _ in 0..2 {
        let asked = Instant::now();
        let answer = cmd("GET").arg("k").query::<Vec<u8>>(&mut client).map(|value| value.len());
        let took = asked.elapsed();
        let Err(error) = answer else {
            let info = cluster.info(id);
            let (held, closed) = (info.number("mem_clients_normal"), info.number("evicted_clients"));
            panic!("{answer:?} after {took:?}, {held} bytes held, {closed} clients closed");
        };
        assert_eq!(error.code(), Some("TRYAGAIN"), "{error}");
        assert!(took > REQUEST_TIMEOUT - SLACK && took < REQUEST_TIMEOUT + SLACK, "{took:?}");
        assert_eq!(cmd("STRLEN").arg("k").query::<usize>(&mut client).expect("short replies have room"), MIB);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reading.join().expect("it reads"), "nobody who reads is closed");
    assert_eq!(cluster.info(id).number("evicted_clients"), 0);
    eventually("there is room again", Duration::from_secs(10), || {
        cmd("GET").arg("k").query::<Vec<u8>>(&mut client).ok()
    });
}
