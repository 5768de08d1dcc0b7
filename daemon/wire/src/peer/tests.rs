use super::*;
use crate::batch::BatchWriter;
use crate::checksum::checksum;
use crate::command::{Command, CommandKind};
use crate::frame::{Frame, FramePool, PAGE_SIZE};
use crate::ids::{BatchId, ReplicaId};
use proptest::collection::vec;
use proptest::prelude::*;

const BOTH: Incarnations = Incarnations { sender: Incarnation(3), receiver: Incarnation(0x0102) };

fn frame(pool: &FramePool, value: &[u8]) -> Frame {
    let mut writer = BatchWriter::new(pool.take(value.len() + 512).unwrap(), Vec::new());
    assert!(writer.push(&Command { kind: CommandKind::Set, flags: 0, session: None, key: b"k", value }));
    writer.seal(BatchId { proposer: ReplicaId(1), incarnation: Incarnation(2), counter: 3 }).0
}

fn bytes_of(writer: &PacketWriter) -> Vec<u8> {
    assert_eq!(writer.parts().count(), writer.part_count());
    writer.parts().flatten().copied().collect()
}

/// Messages as owned values, in order.
type Messages = Vec<(u16, u8, Vec<u8>, Option<Frame>)>;

/// Everything that comes out of `bytes` fed in pieces that end at `cuts`.
fn read(bytes: &[u8], cuts: &[usize], pool: &FramePool) -> Result<Messages, PeerFault> {
    let mut reader = PacketReader::new();
    let mut found = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        let mut input = &bytes[start..end];
        start = end;
        loop {
            match reader.next(&mut input, pool)? {
                Next::Message(message) => {
                    assert_eq!(message.incarnations, BOTH);
                    found.push((message.group.0, message.kind, message.message.to_vec(), message.body));
                }
                Next::NeedBytes => break,
                Next::PoolExhausted => panic!("the pool of these tests is large enough"),
            }
        }
        assert!(input.is_empty());
    }
    Ok(found)
}

fn packet(messages: &Messages) -> Vec<u8> {
    let mut writer = PacketWriter::new();
    writer.start(BOTH);
    for (group, kind, message, body) in messages {
        assert!(writer.push_bytes(GroupId(*group), *kind, message, body.as_ref()));
    }
    let size = writer.finish(0x0b0a);
    let bytes = bytes_of(&writer);
    assert_eq!(bytes.len(), size);
    bytes
}

/// Makes the head's checksum fit again after a change.
fn resign(bytes: &mut [u8], head_length: usize) {
    let sum = checksum(&bytes[8..head_length]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn golden_bytes_of_a_packet() {
    let bytes = packet(&vec![(0x0201, 7, b"abc".to_vec(), None)]);
    let expected = [
        b'P', b'N', b'P', b'K', 51, 0, 0, 0, 51, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 2, 1, 0, 0, // header
        10, 11, 0, 0, 0, 0, 0, 0, // log end
        1, 2, 7, 3, 0, 0, 0, 0, b'a', b'b', b'c',
    ];
    assert_eq!(bytes[8..], expected);
    assert_eq!(bytes[..8], checksum(&expected).to_le_bytes());
    let mut reader = PacketReader::new();
    let next = reader.next(&mut bytes.as_slice(), &FramePool::new(PAGE_SIZE));
    assert!(matches!(next, Ok(Next::Message(_))));
    assert_eq!(reader.log_end(), 0x0b0a);
}

#[test]
fn fixed_messages_are_written_as_their_archives() {
    let pool = FramePool::new(1 << 20);
    let mut writer = PacketWriter::new();
    writer.start(BOTH);
    assert!(writer.push(GroupId(1), 2, &0x0a0b_0c0d_u32, None));
    writer.finish(0x0b0a);
    let messages = read(&bytes_of(&writer), &[], &pool).unwrap();
    assert_eq!(messages, vec![(1, 2, vec![0x0d, 0x0c, 0x0b, 0x0a], None)]);
}

#[test]
fn hellos_come_back_and_strangers_are_refused() {
    let ours = Hello {
        cluster: 11,
        node: ReplicaId(0),
        core_index: 1,
        core_count: 2,
        fingerprint: 13,
        incarnation: Incarnation(4),
        directory: 0xd1,
        life: 0x11fe,
        founding: 0xf0,
        nonce: [9; 16],
        purpose: Purpose::Rejoin,
        ..Hello::new(5)
    };
    let theirs = Hello { node: ReplicaId(2), ..ours };
    let mut out = Vec::new();
    theirs.write(&mut out);
    assert_eq!(out.len(), Hello::SIZE);
    assert_eq!(Hello::parse(&out), Ok(Some(theirs)));
    for cut in 0..out.len() {
        assert_eq!(Hello::parse(&out[..cut]), Ok(None));
    }
    for at in 0..out.len() {
        out[at] ^= 1;
        assert!(Hello::parse(&out).is_err(), "flip at {at}");
        out[at] ^= 1;
    }
    assert_eq!(theirs.refusal(&ours, 3), None);
    let asks = Hello { purpose: Purpose::Inquiry, incarnation: Incarnation(0), ..theirs };
    let has_forgotten = Hello { founding: Hello::ANY_FOUNDING, ..asks };
    assert_eq!((has_forgotten.refusal(&ours, 3), asks.refusal(&ours, 3)), (None, None));
    assert_eq!(
        theirs.refusal(&Hello { node: ReplicaId(0), ..has_forgotten }, 3),
        None,
        "it answers that it waits"
    );
    assert_eq!(Hello { founding: 0, ..asks }.refusal(&ours, 3), Some(RefusalCode::Founding));
    for (stranger, code) in [
        (Hello { version: 9, ..theirs }, RefusalCode::Version),
        (Hello { frame_version: 9, ..theirs }, RefusalCode::FrameVersion),
        (Hello { log_version: 9, ..theirs }, RefusalCode::LogVersion),
        (Hello { cluster: 9, ..theirs }, RefusalCode::Cluster),
        (Hello { fingerprint: 9, ..theirs }, RefusalCode::Fingerprint),
        (Hello { founding: 0, ..theirs }, RefusalCode::Founding),
        (Hello { founding: 0xf1, ..theirs }, RefusalCode::Founding),
        (Hello { founding: Hello::ANY_FOUNDING, ..theirs }, RefusalCode::Founding),
        (Hello { node: ReplicaId(3), ..theirs }, RefusalCode::Node),
        (ours, RefusalCode::Node),
        (Hello { core_index: 2, ..theirs }, RefusalCode::Malformed),
        (Hello { incarnation: Incarnation(0), ..theirs }, RefusalCode::Malformed),
        (Hello { purpose: Purpose::Inquiry, ..theirs }, RefusalCode::Malformed),
    ] {
        assert_eq!(stranger.refusal(&ours, 3), Some(code));
        assert_eq!(RefusalCode::from_code(code.code()), Some(code));
    }
}

#[test]
fn answers_to_a_hello_come_back() {
    for (refusal, text) in [(None, ""), (Some(RefusalCode::Cluster), "cluster 3, not 4")] {
        let (incarnation, known, since) = (Incarnation(9), Incarnation(7), Incarnation(6));
        let (told, told_since) = (Incarnation(5), Incarnation(3));
        let reply = HelloReply {
            version: VERSION,
            refusal,
            incarnation,
            core_count: 4,
            known,
            since,
            told,
            told_since,
            text,
        };
        let secret = Secret::new(b"sixteen and more").unwrap();
        let mut out = Vec::new();
        reply.write(Some(&secret), b"before", &mut out);
        assert!(HelloReply::is_sealed(&out, Some(&secret), b"before"));
        assert!(!HelloReply::is_sealed(&out, Some(&secret), b"after"));
        assert!(!HelloReply::is_sealed(&out, None, b"before"));
        assert_eq!(HelloReply::parse(&out), Ok(Some((reply, out.len()))));
        for at in 0..out.len() {
            assert_eq!(HelloReply::parse(&out[..at]), Ok(None));
            out[at] ^= 1;
            assert!(!matches!(HelloReply::parse(&out), Ok(Some(_))), "flip at {at}");
            out[at] ^= 1;
        }
    }
    assert!(matches!(Hello::parse(b"HTTP"), Err(PeerFault::Incompatible(_))));
    assert!(matches!(Hello::parse(b"PNPH\x02\0"), Err(PeerFault::Incompatible(_))));
}

#[test]
fn an_exhausted_pool_loses_no_bytes() {
    let source = FramePool::new(1 << 20);
    let messages = vec![
        (1, 1, vec![1], Some(frame(&source, b"one"))),
        (2, 2, vec![2], None),
        (3, 3, vec![3], Some(frame(&source, b"two"))),
        (4, 4, vec![4], None),
    ];
    let bytes = packet(&messages);
    let pool = FramePool::new(PAGE_SIZE);
    let mut reader = PacketReader::new();
    let mut input = bytes.as_slice();
    let Ok(Next::Message(first)) = reader.next(&mut input, &pool) else { panic!("a message") };
    let held = first.body;
    assert!(matches!(reader.next(&mut input, &pool), Ok(Next::Message(message)) if message.kind == 2));
    for _ in 0..3 {
        let before = input.len();
        assert!(matches!(reader.next(&mut input, &pool), Ok(Next::PoolExhausted)));
        assert_eq!(input.len(), before);
    }
    drop(held);
    assert!(
        matches!(reader.next(&mut input, &pool), Ok(Next::Message(message)) if message.body == messages[2].3)
    );
    assert!(matches!(reader.next(&mut input, &pool), Ok(Next::Message(message)) if message.kind == 4));
    assert!(reader.is_between_packets());
    assert!(matches!(reader.next(&mut input, &pool), Ok(Next::NeedBytes)));
}

#[test]
fn a_body_that_is_passed_over_takes_its_message_with_it_and_nothing_else() {
    let source = FramePool::new(1 << 20);
    let large = vec![7; 3 * PAGE_SIZE];
    let messages = vec![
        (1, 1, vec![1], None),
        (2, 2, vec![2], Some(frame(&source, &large))),
        (3, 3, vec![3], None),
        (4, 4, vec![4], Some(frame(&source, b"fits"))),
    ];
    let bytes = [packet(&messages), packet(&vec![(5, 5, vec![5], None)])].concat();
    let pool = FramePool::new(4 * PAGE_SIZE);
    for cut in 0..bytes.len() {
        let held = pool.take(PAGE_SIZE).unwrap();
        let mut reader = PacketReader::new();
        let (mut found, mut skipped) = (Vec::new(), 0);
        for mut input in [&bytes[..cut], &bytes[cut..]] {
            loop {
                match reader.next(&mut input, &pool).unwrap() {
                    Next::Message(message) => {
                        found.push((message.group.0, message.kind, message.message.to_vec(), message.body));
                    }
                    Next::NeedBytes => break,
                    Next::PoolExhausted => {
                        skipped += 1;
                        reader.skip_body();
                    }
                }
            }
            assert!(input.is_empty());
        }
        assert!(reader.is_between_packets());
        assert_eq!(skipped, 1, "cut at {cut}");
        let expected: Messages =
            [&messages[0], &messages[2], &messages[3], &(5, 5, vec![5], None)].map(Clone::clone).into();
        assert_eq!(found, expected, "cut at {cut}");
        drop(held);
    }
}

#[test]
fn only_a_body_that_waits_for_memory_is_passed_over() {
    let source = FramePool::new(1 << 20);
    let messages = vec![(1, 1, vec![1], None), (2, 2, vec![2], Some(frame(&source, b"body")))];
    let bytes = packet(&messages);
    let pool = FramePool::new(1 << 20);
    let mut reader = PacketReader::new();
    reader.skip_body();
    let (mut first, mut second) = bytes.split_at(bytes.len() - 1);
    assert!(matches!(reader.next(&mut first, &pool), Ok(Next::Message(message)) if message.kind == 1));
    assert!(matches!(reader.next(&mut first, &pool), Ok(Next::NeedBytes)));
    // Its memory is taken and half full.
    reader.skip_body();
    assert!(matches!(reader.next(&mut second, &pool), Ok(Next::Message(message)) if message.kind == 2));
    reader.skip_body();
    assert!(matches!(reader.next(&mut second, &pool), Ok(Next::NeedBytes)));
}

#[test]
fn a_body_that_can_never_fit_the_pool_is_a_fault_and_not_a_wait() {
    let source = FramePool::new(1 << 20);
    let bytes = packet(&vec![(1, 1, vec![], Some(frame(&source, &[0; 5000])))]);
    let pool = FramePool::new(PAGE_SIZE);
    assert!(matches!(read(&bytes, &[], &pool), Err(PeerFault::Incompatible(_))));
}

#[test]
fn a_fault_stays() {
    let pool = FramePool::new(1 << 20);
    let good = packet(&vec![(1, 1, vec![1], None)]);
    let mut bad = good.clone();
    bad[41] ^= 1;
    let mut reader = PacketReader::new();
    let fault = reader.next(&mut bad.as_slice(), &pool).unwrap_err();
    assert!(matches!(fault, PeerFault::Corrupt(_)));
    assert_eq!(reader.next(&mut good.as_slice(), &pool).unwrap_err(), fault);
}

#[test]
fn heads_that_contradict_themselves_are_misbehaviour() {
    let pool = FramePool::new(1 << 20);
    let good = packet(&vec![(1, 1, vec![1; 8], None), (2, 2, vec![2; 8], None)]);
    let length = good.len();
    for (at, value) in [
        (16, 73u8), // total length, without a body to account for it
        (20, 1),    // fewer messages than there are
        (20, 3),    // more messages than there are
        (23, 1),    // far more messages
        (43, 200),  // a message longer than a message may be
        (43, 7),    // the messages no longer fill the head
        (44, 5),    // a body shorter than a frame
        (47, 255),  // a body longer than a frame
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        resign(&mut bad, length);
        assert!(matches!(read(&bad, &[], &pool), Err(PeerFault::Misbehaved(_))), "{at} = {value}");
    }
}

#[test]
fn a_batch_of_nonsense_is_misbehaviour_although_its_checksum_fits() {
    let pool = FramePool::new(1 << 20);
    let mut bytes = packet(&vec![(1, 1, vec![], Some(frame(&pool, b"value")))]);
    let body = PACKET_HEADER_SIZE + MESSAGE_HEADER_SIZE;
    let end = bytes.len();
    let mut damaged = bytes.clone();
    damaged[end - 1] ^= 0x55;
    assert!(matches!(read(&damaged, &[], &pool), Err(PeerFault::Corrupt(_))));
    bytes[body + HEADER_SIZE..].fill(0xee);
    resign(&mut bytes[body..], end - body);
    assert!(matches!(read(&bytes, &[], &pool), Err(PeerFault::Misbehaved(_))));
}

#[test]
fn an_announced_length_alone_costs_nothing() {
    let pool = FramePool::new(1 << 20);
    let mut head = packet(&vec![]);
    head[12..16].copy_from_slice(&(HEAD_SIZE_MAX as u32).to_le_bytes());
    let mut reader = PacketReader::new();
    assert!(matches!(reader.next(&mut head.as_slice(), &pool), Ok(Next::NeedBytes)));
    assert!(reader.capacity() < 1024);
    head[12..16].copy_from_slice(&(HEAD_SIZE_MAX as u32 + 1).to_le_bytes());
    assert!(matches!(read(&head, &[], &pool), Err(PeerFault::Corrupt(_))));

    let source = FramePool::new(1 << 20);
    let bytes = packet(&vec![(1, 1, vec![], Some(frame(&source, b"value")))]);
    let mut reader = PacketReader::new();
    let mut input = &bytes[..PACKET_HEADER_SIZE + MESSAGE_HEADER_SIZE];
    assert!(matches!(reader.next(&mut input, &pool), Ok(Next::NeedBytes)));
    assert_eq!(pool.used(), 0);
    assert!(!reader.is_between_packets());
}

#[test]
fn a_full_packet_refuses_and_is_still_good() {
    let pool = FramePool::new(1 << 20);
    let mut writer = PacketWriter::new();
    writer.start(BOTH);
    let mut count = 0;
    while writer.push_bytes(GroupId(0), 0, &[1; FIXED_SIZE_MAX], None) {
        count += 1;
    }
    assert_eq!(count, MESSAGE_COUNT_MAX);
    assert_eq!(writer.finish(0x0b0a), HEAD_SIZE_MAX);
    assert_eq!(read(&bytes_of(&writer), &[], &pool).unwrap().len(), count);
    writer.release();
    assert!(writer.is_empty());
}

/// A message and the value in its body.
type Sent = (u16, u8, Vec<u8>, Option<Vec<u8>>);

fn messages() -> impl Strategy<Value = Vec<Sent>> {
    let body = proptest::option::of(vec(any::<u8>(), 0..6000));
    vec((any::<u16>(), any::<u8>(), vec(any::<u8>(), 0..=FIXED_SIZE_MAX), body), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn packets_come_back_however_they_are_cut(
        packets in vec(messages(), 1..4), cuts in vec(any::<prop::sample::Index>(), 0..12), every in 1usize..64,
    ) {
        let pool = FramePool::new(1 << 22);
        let mut bytes = Vec::new();
        let mut expected = Messages::new();
        for sent in packets {
            let sent: Messages = sent
                .into_iter()
                .map(|(group, kind, message, body)| (group, kind, message, body.map(|value| frame(&pool, &value))))
                .collect();
            bytes.extend(packet(&sent));
            expected.extend(sent);
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(&read(&bytes, &cuts, &pool).unwrap(), &expected);
        let regular: Vec<usize> = (0..bytes.len()).step_by(every).collect();
        prop_assert_eq!(&read(&bytes, &regular, &pool).unwrap(), &expected);
    }

    #[test]
    fn a_flipped_bit_is_always_noticed(sent in messages(), at: prop::sample::Index, bit in 0u8..8) {
        let pool = FramePool::new(1 << 22);
        let sent: Messages = sent
            .into_iter()
            .map(|(group, kind, message, body)| (group, kind, message, body.map(|value| frame(&pool, &value))))
            .collect();
        let mut bytes = packet(&sent);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // A head that now claims to be longer waits for bytes that never come; nothing of it is handed out.
        if let Ok(found) = read(&bytes, &[], &pool) {
            prop_assert!(found.is_empty() && (12..16).contains(&at));
        }
    }

    #[test]
    fn no_bytes_panic_the_reader(
        mut bytes in vec(any::<u8>(), 0..400), sign: bool, cuts in vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let _ = Hello::parse(&bytes);
        let _ = HelloReply::parse(&bytes);
        let pool = FramePool::new(1 << 20);
        if sign && bytes.len() > PACKET_HEADER_SIZE {
            let length = bytes.len();
            bytes[8..12].copy_from_slice(&MAGIC);
            bytes[12..16].copy_from_slice(&(length as u32).to_le_bytes());
            bytes[21..24].fill(0);
            resign(&mut bytes, length);
        }
        let mut reader = PacketReader::new();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut start = 0;
        for end in cuts {
            let mut input = &bytes[start..end];
            start = end;
            while let Ok(Next::Message(_)) = reader.next(&mut input, &pool) {}
        }
        prop_assert!(reader.capacity() <= 1024);
    }
}

#[cfg(feature = "mutants")]
#[test]
fn mixed_foundings_are_missed() {
    use crate::rule::{Rule, remove};
    remove(Some(Rule::FoundingsDoNotMix));
    let noticed = std::panic::catch_unwind(hellos_come_back_and_strangers_are_refused).is_err();
    remove(None);
    assert!(noticed);
}
