//! Fast Paxos with clients that propose their own batches straight to the acceptors: every command takes effect once, whoever
//! dies, and what is no sound proposal is refused and harms nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::direct::{DirectClient, Link, REQUESTS, propose, seal};
use crate::common::session::{Answered, SessionClient};
use crate::common::{Cluster, Dice, Settings, eventually};
use panch_wire::command::{Command, CommandError, CommandKind, SessionHeader};
use panch_wire::ids::GroupId;

const CLIENTS: u64 = 4;
const COUNTERS: usize = 3;

fn settings(cluster: &str) -> Settings {
    Settings { cluster: format!("protocol = \"fast\"\n{cluster}"), ..Settings::default() }
}

/// Counts until told to stop, some counts to a batch; how often each counter was raised, and how many batches were sent again.
fn count(mut client: DirectClient, mut dice: Dice, stop: &AtomicBool, done: &AtomicU64) -> (Vec<i64>, u64) {
    let mut raised = vec![0; COUNTERS];
    while !stop.load(Ordering::Relaxed) {
        let numbers: Vec<usize> = (0..1 + dice.below(4)).map(|_| dice.below(COUNTERS)).collect();
        let counters: Vec<String> = numbers.iter().map(|number| format!("{{c}}{number}")).collect();
        let by = 1i64.to_le_bytes();
        let mut asked: Vec<_> =
            counters.iter().map(|key| (CommandKind::IncrBy, key.as_str(), by.as_slice())).collect();
        asked.push((CommandKind::Set, "{c}last", b"value"));
        let answers = client.call(&asked);
        assert_eq!(answers.last(), Some(&Answered::Ok));
        for (number, answer) in numbers.iter().zip(&answers) {
            assert!(matches!(answer, Answered::Number(_)), "a counter answered {answer:?}");
            raised[*number] += 1;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    (raised, client.retries)
}

fn counts_are_exact(cluster_lines: &str) {
    let mut cluster = Cluster::start(settings(cluster_lines));
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|session| {
            let client = DirectClient::new(&cluster, session);
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || count(client, Dice::new(100 + session), &stop, &done))
        })
        .collect();
    let wait_for = |more: u64| {
        let goal = done.load(Ordering::Relaxed) + more;
        let reached = || (done.load(Ordering::Relaxed) >= goal).then_some(());
        eventually(&format!("{more} more batches"), Duration::from_secs(60), reached);
    };
    wait_for(300);
    cluster.kill(2);
    wait_for(30);
    cluster.start_node(2);
    wait_for(100);
    stop.store(true, Ordering::Relaxed);
    let (mut expected, mut retries) = (vec![0; COUNTERS], 0);
    for client in clients {
        let (raised, again) = client.join().expect("no client failed");
        expected.iter_mut().zip(raised).for_each(|(sum, count)| *sum += count);
        retries += again;
    }
    let answered: u64 = cluster.ids().map(|id| cluster.info(id).number("direct_batches_total")).sum();
    println!("{expected:?} counts, {retries} batches sent again, {answered} answered by their homes");
    assert!(retries > 0 && answered > 300);
    for id in cluster.ids() {
        let mut connection = cluster.connect(id);
        for (number, expected) in expected.iter().enumerate() {
            let found: i64 =
                redis::cmd("GET").arg(format!("{{c}}{number}")).query(&mut connection).expect("a counter");
            assert_eq!(found, *expected, "counter {number} on node {id}");
        }
    }
    cluster.assert_same_state();
}

#[test]
fn counters_are_exact_in_stripes() {
    counts_are_exact("");
}

#[test]
fn counters_are_exact_when_all_propose_everywhere() {
    counts_are_exact("fast_free_for_all = true\n");
}

#[test]
fn groups_of_another_core_take_batches_too() {
    let cluster = Cluster::start(Settings { groups: 4, cores: 2, ..settings("") });
    let mut client = DirectClient::new(&cluster, 7);
    // The first call opened the session in one group only.
    for number in 0..16 {
        let key = format!("key{number}");
        SessionClient::new(&cluster, 7).open_at(key.as_bytes());
        let answers = client.call(&[(CommandKind::IncrBy, &key, &5i64.to_le_bytes())]);
        assert_eq!(answers, [Answered::Number(5)], "{key}");
    }
}

fn incr(session: Option<SessionHeader>, key: &[u8]) -> Command<'_> {
    Command { kind: CommandKind::IncrBy, flags: 0, session, key, value: &[1, 0, 0, 0, 0, 0, 0, 0] }
}

#[test]
fn what_is_no_sound_proposal_is_refused_and_the_node_lives_on() {
    use CommandError::{CrossSlot, Malformed, NoDirectProposals, TooLarge};
    // Group 0 is of Fast Paxos, group 1 is not.
    let mut cluster = Cluster::start(Settings {
        groups: 2,
        cluster: "protocol = \"multi\"\nvalue_size_max = \"64KiB\"\n[[cluster.placement]]\nprefix = \"fast:\"\ngroups = [0]\nprotocol = \"fast\"\n"
            .into(),
        ..Settings::default()
    });
    let (fast, other) = (GroupId(0), GroupId(1));
    SessionClient::new(&cluster, 9).open_at(b"fast:a");
    let header = |session, number| Some(SessionHeader { session, number, acked_below: 1 });
    let good = incr(header(9, 1), b"fast:a");
    let of = |commands: &[Command<'_>]| seal(0, 1, commands);
    let mut damaged = of(&[good]);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    // The checksum is right, something else is not.
    let change = |frame: Vec<u8>, change: &dyn Fn(&mut [u8])| {
        let mut frame = frame;
        change(&mut frame);
        let sum = panch_wire::checksum::checksum(&frame[8..]);
        frame[..8].copy_from_slice(&sum.to_le_bytes());
        frame
    };
    let archive = change(of(&[good]), &|frame| frame[128..].fill(0xff));
    let node = change(of(&[good]), &|frame| frame[24] = 1);
    let name = change(of(&[good]), &|frame| frame[32] ^= 1);
    let other_half = change(of(&[good]), &|frame| frame[40] ^= 1);
    let get = Command { kind: CommandKind::Get, value: b"", ..good };
    let close = Command { kind: CommandKind::CloseSession, value: b"", ..good };
    let expire = Command { kind: CommandKind::ExpireSessions, ..good };
    let long = vec![b'x'; 60_000];
    let large = Command { kind: CommandKind::Set, value: &long, ..good };
    let bad: Vec<(&str, GroupId, Vec<u8>, CommandError)> = vec![
        ("nothing", fast, Vec::new(), Malformed),
        ("noise", fast, Dice::new(3).bytes(500), Malformed),
        ("a damaged frame", fast, damaged, Malformed),
        ("no archive", fast, archive, Malformed),
        ("a foreign session", fast, of(&[incr(header(8, 1), b"fast:a")]), Malformed),
        ("no session", fast, of(&[good, incr(None, b"fast:a")]), Malformed),
        ("a read", fast, of(&[get]), Malformed),
        ("the end of the session", fast, of(&[close]), Malformed),
        ("the end of all sessions", fast, of(&[expire]), Malformed),
        ("no commands", fast, of(&[]), Malformed),
        ("too many commands", fast, of(&vec![good; 129]), Malformed),
        ("a node's name", fast, node, Malformed),
        ("not its name", fast, name, Malformed),
        ("nor this", fast, other_half, Malformed),
        ("no home", fast, seal(3, 1, &[good]), Malformed),
        ("too large", fast, of(&[large; 3]), TooLarge),
        ("a key of another group", fast, of(&[incr(header(9, 1), b"elsewhere")]), CrossSlot),
        ("another protocol", other, of(&[incr(header(9, 1), b"elsewhere")]), NoDirectProposals),
        ("no such group", GroupId(77), of(&[good]), NoDirectProposals),
    ];
    for node in cluster.ids() {
        let mut link = Link::open(cluster.ports(node).native, 9).expect("a connection");
        for (index, (what, group, frame, error)) in bad.iter().enumerate() {
            let number = REQUESTS | index as u64;
            link.send(&propose(number, *group, frame)).expect("the connection holds");
            let reply = link.reply();
            assert_eq!(reply, Some((number, Answered::Refused(*error), false)), "{what}, node {node}");
        }
    }
    // A length beyond the limit that the hello told ends the connection, and only that.
    let mut link = Link::open(cluster.ports(1).native, 9).expect("a connection");
    link.send(&propose(REQUESTS, fast, &vec![0; 1 << 20]));
    assert_eq!(link.reply(), None);
    // Nothing of it took effect, and a sound batch does.
    let request = propose(REQUESTS, fast, &of(&[good]));
    let mut links: Vec<_> =
        cluster.ids().map(|node| Link::open(cluster.ports(node).native, 9).expect("a connection")).collect();
    links.iter_mut().for_each(|link| link.send(&request).expect("the connection holds"));
    assert_eq!(links[0].reply(), Some((1, Answered::Number(1), true)), "with its position, as asked");
    for node in cluster.ids() {
        assert!(cluster.poll_exit(node).is_none(), "node {node} ended: {}", cluster.errors(node));
    }
    cluster.assert_same_state();
}
