use super::*;
use panch_ring::doorbell::Doorbell;
use panch_ring::ring::{Ring, RingConfig};
use panch_wire::peer::LifeKey;

fn at(milliseconds: u64) -> Instant {
    Instant(0) + Duration::from_millis(milliseconds)
}

fn streams(count: u64) -> (Ring, InboundStreams) {
    let mut ring = Ring::new(&RingConfig::default(), Doorbell::new().unwrap()).unwrap();
    let mut streams = InboundStreams::default();
    for number in 0..count {
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        streams.add(Inbound::new(at(number), ring.add_socket(socket), None));
    }
    (ring, streams)
}

fn up(node: u8, core_index: u16) -> InboundState {
    let log = LogNews::new(Incarnation(1));
    InboundState::Up { from: ReplicaId(node), core_index, reader: PacketReader::new(), log }
}

#[test]
fn the_oldest_stranger_makes_room_when_there_are_too_many() {
    let (_ring, mut streams) = streams(STRANGERS_MAX as u64 + 1);
    streams.get_mut(0).unwrap().state = up(1, 0);
    assert_eq!(streams.excess_stranger(), Some(1), "a peer is no stranger");
    streams.get_mut(1).unwrap().state = InboundState::Refused;
    assert_eq!(streams.excess_stranger(), Some(1), "a refused one still is");
    streams.take(2);
    assert_eq!(streams.excess_stranger(), None);
}

#[test]
fn strangers_are_given_up_in_time_and_peers_are_not() {
    let (_ring, mut streams) = streams(3);
    streams.get_mut(0).unwrap().state = up(1, 0);
    streams.get_mut(2).unwrap().state = InboundState::Refused;
    assert_eq!(streams.deadline(), Some(at(1) + OPEN_TIMEOUT));
    let late = streams.deadline().unwrap();
    assert_eq!(streams.overdue_stranger(late - Duration::from_nanos(1)), None);
    assert_eq!(streams.overdue_stranger(late), Some(1));
    streams.take(1);
    assert_eq!(streams.overdue_stranger(at(2) + OPEN_TIMEOUT), Some(2));
    streams.take(2);
    assert_eq!((streams.overdue_stranger(Instant(u64::MAX)), streams.deadline()), (None, None));
}

#[test]
fn a_stream_is_found_by_node_and_core() {
    let (_ring, mut streams) = streams(3);
    streams.get_mut(1).unwrap().state = up(2, 0);
    streams.get_mut(2).unwrap().state = up(2, 1);
    assert_eq!(streams.stream_of(ReplicaId(2), 1), Some(2));
    assert_eq!(streams.stream_of(ReplicaId(1), 1), None);
}

#[test]
fn a_stream_that_waits_for_memory_asks_to_be_looked_at() {
    let (_ring, mut streams) = streams(1);
    let inbound = streams.get_mut(0).unwrap();
    inbound.state = up(1, 0);
    inbound.waiting = Some(at(5));
    assert!(!streams.has_held() && streams.deadline().is_none(), "the body before has found memory");
    streams.get_mut(0).unwrap().held.push(1);
    assert!(streams.has_held());
    assert_eq!(streams.deadline(), Some(at(5) + BODY_PATIENCE));
}

const KEY: LifeKey = LifeKey([7; 16]);

fn ours() -> Hello {
    Hello { incarnation: Incarnation(1), directory: 70, life: LifeKey([1; 16]).life(), ..Hello::new(1) }
}

fn theirs(incarnation: u32, key: LifeKey) -> Hello {
    let incarnation = Incarnation(incarnation);
    Hello { node: ReplicaId(2), incarnation, directory: 72, life: key.life(), ..ours() }
}

/// What the answer to a whole handshake says: refusal, what is known, and the text.
fn shake(
    peers: &PeerMemory,
    secrets: [Option<&Secret>; 2],
    hello: Hello,
    proof: Proof,
) -> (Option<RefusalCode>, u32, String) {
    let ours = ours();
    let host = Host {
        hello: &ours,
        node_count: 3,
        secret: secrets[0],
        recollection: Recollection::Of(peers),
        is_late: false,
    };
    let (mut opening, mut before, mut out) = (Opening::default(), Vec::new(), Vec::new());
    hello.write(&mut before);
    opening.push(&before);
    assert!(matches!(host.greet(&mut opening, &mut out), Greeting::Challenged));
    assert_eq!(Challenge::parse(&out).unwrap().unwrap().life, ours.named_life());
    before.append(&mut out);
    let mut bytes = Vec::new();
    proof.write(secrets[1], &before, &mut bytes);
    opening.push(&bytes);
    let mut greeting = host.greet(&mut opening, &mut out);
    if matches!(greeting, Greeting::Waiting) {
        assert!(out.is_empty(), "nobody hears anything before it is written down");
        peers.write_down().unwrap();
        greeting = host.greet(&mut opening, &mut out);
    }
    let (reply, _) = HelloReply::parse(&out).unwrap().unwrap();
    let sealed = HelloReply::is_sealed(&out, secrets[0], &[before, bytes].concat());
    assert_eq!(sealed, secrets[0].is_none() || reply.refusal != Some(RefusalCode::Secret));
    assert_eq!(matches!(greeting, Greeting::Refused(..)), reply.refusal.is_some());
    (reply.refusal, reply.known.0, reply.text.to_owned())
}

#[test]
fn nothing_may_follow_a_hello_or_a_proof_before_its_answer() {
    let (ours, peers) = (ours(), PeerMemory::empty());
    let host = Host {
        hello: &ours,
        node_count: 3,
        secret: None,
        recollection: Recollection::Of(&peers),
        is_late: false,
    };
    let (mut bytes, mut out) = (Vec::new(), Vec::new());
    theirs(1, KEY).write(&mut bytes);
    let mut opening = Opening::default();
    opening.push(&[&bytes[..], &[0]].concat());
    assert!(matches!(host.greet(&mut opening, &mut out), Greeting::Fault));
    assert!(out.is_empty());
    let mut opening = Opening::default();
    opening.push(&bytes);
    assert!(matches!(host.greet(&mut opening, &mut out), Greeting::Challenged));
    bytes.append(&mut out);
    let mut proof = Vec::new();
    Proof { key: KEY, ..Proof::default() }.write(None, &bytes, &mut proof);
    opening.push(&[&proof[..], &[0]].concat());
    assert!(matches!(host.greet(&mut opening, &mut out), Greeting::Fault));
    assert!(out.is_empty());
}

#[test]
fn a_hello_alone_changes_nothing() {
    let peers = PeerMemory::empty();
    peers.set_recognised(ReplicaId(2));
    let hello = theirs(4, KEY);
    let proof = Proof { key: KEY, ..Proof::default() };
    let without = [None; 2];
    assert_eq!(shake(&peers, without, hello, proof).0, Some(RefusalCode::Unconfirmed));
    peers.confirm(ReplicaId(2), hello.named_life());
    assert_eq!(shake(&peers, without, hello, proof).0, None);
    let known = peers.of(ReplicaId(2));
    // Whoever has listened to an inquiry, or to a challenge, has names and no keys.
    let other = LifeKey([8; 16]);
    let forged = theirs(u32::MAX, other);
    let (rejoin, same) = (Hello { purpose: Purpose::Rejoin, ..forged }, hello);
    let made_up = Proof {
        key: other,
        earlier: Incarnation(4),
        earlier_key: other,
        since: Incarnation(4),
        log_end: u64::MAX,
        ..Proof::default()
    };
    let nothing = Proof { earlier: Incarnation(0), earlier_key: LifeKey::default(), ..made_up };
    for (hello, proof, code) in [
        (forged, made_up, RefusalCode::Incarnation),
        (forged, Proof { earlier: Incarnation(3), ..made_up }, RefusalCode::Descent),
        (forged, nothing, RefusalCode::Descent),
        (rejoin, made_up, RefusalCode::Unconfirmed),
        (same, made_up, RefusalCode::Malformed),
        (theirs(3, other), made_up, RefusalCode::Incarnation),
    ] {
        assert_eq!(shake(&peers, without, hello, proof).0, Some(code), "{hello:?}");
    }
    let question = Hello { incarnation: Incarnation(0), purpose: Purpose::Inquiry, ..theirs(4, KEY) };
    let (refusal, last, told) = shake(&peers, without, question, Proof::default());
    assert_eq!((refusal, last), (None, 4));
    // In the state that the cluster began with there may be more of it.
    peers.set_founded_above(Incarnation(6));
    assert_eq!(shake(&peers, without, question, Proof::default()).1, 6);
    peers.set_founded_above(Incarnation(3));
    assert_eq!(shake(&peers, without, question, Proof::default()).1, 4);
    let never_met = Hello { node: ReplicaId(1), ..question };
    assert_eq!(shake(&peers, without, never_met, Proof::default()).1, 3);
    assert!(told.contains(&format!("{:x}", KEY.life())) && !told.contains("07070707"), "{told}");
    assert_eq!(peers.of(ReplicaId(2)), known);
    // The true one goes on.
    let next = Proof { key: other, earlier: Incarnation(4), earlier_key: KEY, ..Proof::default() };
    assert_eq!(shake(&peers, without, theirs(5, other), next).0, None);
}

#[test]
fn a_node_that_nobody_has_recognised_yet_ends_nobody() {
    let peers = PeerMemory::empty();
    let secret = Secret::new(&[1; 16]);
    let earlier = Proof { key: KEY, ..Proof::default() };
    assert_eq!(shake(&peers, [secret.as_ref(); 2], theirs(4, KEY), earlier).0, None);
    let other = LifeKey([8; 16]);
    let (hello, proof) = (theirs(4, other), Proof { key: other, ..earlier });
    let answer = shake(&peers, [secret.as_ref(); 2], hello, proof).0;
    assert_eq!(answer, Some(RefusalCode::Doubtful), "this node may be the copy");
    peers.set_recognised(ReplicaId(2));
    let answer = shake(&peers, [secret.as_ref(); 2], hello, proof).0;
    assert_eq!(answer, Some(RefusalCode::Incarnation));
}

#[test]
fn without_the_secret_of_the_cluster_nothing_is_remembered_and_nothing_answered() {
    let secret = |byte| Secret::new(&[byte; 16]);
    let (right, wrong) = (secret(1), secret(2));
    let peers = PeerMemory::empty();
    let hello = theirs(4, KEY);
    let proof = Proof { key: KEY, ..Proof::default() };
    assert_eq!(shake(&peers, [right.as_ref(); 2], hello, proof).0, None, "it is no stranger");
    let question = Hello { incarnation: Incarnation(0), purpose: Purpose::Inquiry, ..hello };
    for other in [None, wrong.as_ref()] {
        for hello in [hello, question, theirs(5, KEY)] {
            let (refusal, known, text) = shake(&peers, [right.as_ref(), other], hello, proof);
            assert_eq!((refusal, known), (Some(RefusalCode::Secret), 0));
            assert_eq!(text, RefusalCode::Secret.text());
        }
    }
    assert_eq!(shake(&peers, [right.as_ref(); 2], question, Proof::default()).1, 4);
    assert_eq!(peers.of(ReplicaId(2)).life, hello.named_life());
}

#[test]
fn a_recorded_handshake_is_refused() {
    let secret = Secret::new(&[1; 16]);
    let (ours, peers) = (ours(), PeerMemory::empty());
    let host = Host {
        hello: &ours,
        node_count: 3,
        secret: secret.as_ref(),
        recollection: Recollection::Of(&peers),
        is_late: false,
    };
    let mut recorded = [Vec::new(), Vec::new()];
    theirs(4, KEY).write(&mut recorded[0]);
    for expected in [None, Some(RefusalCode::Secret)] {
        let (mut opening, mut out) = (Opening::default(), Vec::new());
        opening.push(&recorded[0]);
        assert!(matches!(host.greet(&mut opening, &mut out), Greeting::Challenged));
        if expected.is_none() {
            let before = [&recorded[0][..], &out].concat();
            Proof { key: KEY, ..Proof::default() }.write(secret.as_ref(), &before, &mut recorded[1]);
        }
        opening.push(&recorded[1]);
        out.clear();
        if matches!(host.greet(&mut opening, &mut out), Greeting::Waiting) {
            peers.write_down().unwrap();
            host.greet(&mut opening, &mut out);
        }
        assert_eq!(HelloReply::parse(&out).unwrap().unwrap().0.refusal, expected);
    }
}

#[test]
fn who_cannot_be_written_down_is_told_so_in_time_and_does_not_count() {
    let (ours, peers) = (ours(), PeerMemory::empty());
    peers.confirm(ReplicaId(2), theirs(4, KEY).named_life());
    let recollection = Recollection::Of(&peers);
    let mut host = Host { hello: &ours, node_count: 3, secret: None, recollection, is_late: false };
    let (mut opening, mut before, mut out) = (Opening::default(), Vec::new(), Vec::new());
    theirs(4, KEY).write(&mut before);
    opening.push(&before);
    host.greet(&mut opening, &mut out);
    before.append(&mut out);
    let mut bytes = Vec::new();
    Proof { key: KEY, ..Proof::default() }.write(None, &before, &mut bytes);
    opening.push(&bytes);
    for _ in 0..3 {
        assert!(matches!(host.greet(&mut opening, &mut out), Greeting::Waiting) && out.is_empty());
        opening.wait(at(7));
        assert!(opening.may_go_on() && !opening.is_late(at(8)));
    }
    let inbound = streams(1).1;
    assert_eq!(inbound.late_greeting(at(2000)), None);
    assert!(opening.is_late(at(7) + NOTE_PATIENCE));
    host.is_late = true;
    let greeting = host.greet(&mut opening, &mut out);
    assert!(matches!(greeting, Greeting::Refused(_, RefusalCode::NotReady)));
    assert!(HelloReply::parse(&out).unwrap().unwrap().0.text.contains("disk"));
    assert_eq!(peers.of(ReplicaId(2)), Known::default());
}
