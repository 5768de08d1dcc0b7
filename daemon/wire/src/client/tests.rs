use super::*;
use crate::command::list;
use crate::ids::Position;
use proptest::collection::vec;
use proptest::prelude::*;

const TERMS: Terms = Terms { session: 9, request_size_max: 1 << 20 };

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> RequestView<'a> {
    let session = Some(SessionHeader { session: 9, number: 0x0102, acked_below: 7 });
    RequestView {
        number: 0x0102,
        acked_below: 7,
        level: ReadLevel::Quorum,
        ask_stages: true,
        ask_commit: false,
        operation: Operation::Command(Command {
            kind: CommandKind::Set,
            flags: flags::IF_ABSENT,
            session,
            key,
            value,
        }),
    }
}

#[test]
fn golden_bytes_of_a_request() {
    let mut out = Vec::new();
    write_request(&set(b"key", b"va"), &mut out);
    let expected = [
        37, 0, 0, 0, // length
        2, 1, 0x41, 0, // SET, quorum, IF_ABSENT and ASK_STAGES
        3, 0, 0, 0, 0, 0, 0, 0, // key length
        2, 1, 0, 0, 0, 0, 0, 0, // number
        7, 0, 0, 0, 0, 0, 0, 0, // acked below
        b'k', b'e', b'y', b'v', b'a',
    ];
    assert_eq!(out, expected);
    assert_eq!(parse_request(&out, &TERMS), Ok(Some((set(b"key", b"va"), 37))));

    out.clear();
    let asking = RequestView { ask_stages: false, ask_commit: true, ..set(b"key", b"va") };
    write_request(&asking, &mut out);
    assert_eq!((out[6], &out[7..]), (0x21, &expected[7..]), "IF_ABSENT and ASK_COMMIT, all else the same");
    assert_eq!(parse_request(&out, &TERMS), Ok(Some((asking, 37))));
}

#[test]
fn golden_bytes_of_a_proposal() {
    let request = RequestView {
        number: 0x0102,
        acked_below: 0,
        level: ReadLevel::Log,
        ask_stages: false,
        ask_commit: true,
        operation: Operation::Propose { group: GroupId(0x0304), frame: b"frame" },
    };
    let mut out = Vec::new();
    write_request(&request, &mut out);
    let mut expected = vec![37, 0, 0, 0, 126, 0, 0x20, 0, 0, 0, 4, 3, 0, 0, 0, 0, 2, 1];
    expected.extend([0; 14]);
    expected.extend(b"frame");
    assert_eq!(out, expected);
    assert_eq!(parse_request(&out, &TERMS), Ok(Some((request, 37))));
    // What belongs to a command means nothing here.
    for (at, byte) in [(6, 0x21), (8, 1), (24, 1)] {
        let mut bytes = out.clone();
        bytes[at] = byte;
        let (request, size) = parse_request(&bytes, &TERMS).unwrap().unwrap();
        assert_eq!((request.operation, size), (Operation::Invalid(CommandError::Malformed), 37), "{at}");
    }
}

#[test]
fn golden_bytes_of_a_reply() {
    let stages = Stages { queue_us: 1, apply_us: 6, ..Stages::default() };
    let reply = ReplyView { number: 5, stages: Some(stages), commit: None, answer: Answer::Int(-2) };
    let mut out = Vec::new();
    write_reply(&reply, &mut out);
    let mut expected = vec![48, 0, 0, 0, 2, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    expected.extend([0; 16]);
    expected.extend([6, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(out, expected);
    assert_eq!(parse_reply(&out, 48), Ok(Some((reply, 48))));
}

#[test]
fn golden_bytes_of_a_reply_that_says_where_it_was_committed() {
    let commit = Commit { position: Position { row: 3, number: 0x0102 }, stamp: 7 };
    let reply = ReplyView { number: 5, stages: None, commit: Some(commit), answer: Answer::Bytes(b"v") };
    let mut out = Vec::new();
    write_reply(&reply, &mut out);
    let expected = [
        41, 0, 0, 0, 3, 0, 2, 0, // length, BYTES, HAS_COMMIT
        5, 0, 0, 0, 0, 0, 0, 0, // number
        3, 0, 0, 0, 0, 0, 0, 0, // row
        2, 1, 0, 0, 0, 0, 0, 0, // number of the position
        7, 0, 0, 0, 0, 0, 0, 0, // stamp
        b'v',
    ];
    assert_eq!(out, expected);
    assert_eq!(parse_reply(&out, 41), Ok(Some((reply, 41))));

    let both = ReplyView { stages: Some(Stages::default()), answer: Answer::Ok, ..reply };
    out.clear();
    write_reply(&both, &mut out);
    assert_eq!(parse_reply(&out, 64), Ok(Some((both, 64))));
    out[6] |= 4;
    assert_eq!(parse_reply(&out, 64), Err(ClientFault::Malformed), "a flag that nobody has defined");
    out[0] = 63;
    out[6] = 3;
    assert_eq!(parse_reply(&out[..63], 64), Err(ClientFault::Malformed), "a block that is cut short");
}

#[test]
fn hellos_come_back_and_other_protocols_are_noticed_at_once() {
    let mut out = Vec::new();
    let hello = Hello::new(77);
    hello.write(&mut out);
    assert_eq!(out.len(), HELLO_SIZE);
    assert_eq!(&out[..16], b"PNCH\x02\0\0\0\x4d\0\0\0\0\0\0\0");
    assert_eq!(Hello::parse(&out), Ok(Some(hello)));
    assert_eq!(Hello::parse(&out[..31]), Ok(None));
    assert_eq!(Hello::parse(b"P"), Ok(None));
    assert_eq!(Hello::parse(b"GE"), Err(ClientFault::Magic));

    let long = "é".repeat(TEXT_SIZE_MAX);
    for (refusal, text) in
        [(None, ""), (Some(RefusalCode::Version), "speak 2"), (RefusalCode::from_code(99), &long)]
    {
        let reply = HelloReply {
            version: 1,
            refusal,
            node: ReplicaId(2),
            group_count: 8,
            request_size_max: 1 << 20,
            text,
        };
        out.clear();
        reply.write(&mut out);
        let (read, size) = HelloReply::parse(&out).unwrap().unwrap();
        assert_eq!(size, out.len());
        assert_eq!(read, HelloReply { text: cut(text, TEXT_SIZE_MAX), ..reply });
        assert_eq!(HelloReply::parse(&out[..out.len() - 1]), Ok(None));
    }
}

#[test]
fn a_length_out_of_range_is_refused_from_its_four_bytes() {
    assert_eq!(parse_request(&[31, 0, 0, 0], &TERMS), Err(ClientFault::Length(31)));
    assert_eq!(parse_request(&[1, 0, 16, 0], &TERMS), Err(ClientFault::Length((1 << 20) + 1)));
    assert_eq!(parse_request(&[0, 0, 16, 0], &TERMS), Ok(None));
    assert_eq!(parse_reply(&[15, 0, 0, 0], 100), Err(ClientFault::Length(15)));
    assert_eq!(parse_reply(&[101, 0, 0, 0], 100), Err(ClientFault::Length(101)));
}

#[test]
fn a_key_beyond_the_request_is_malformed() {
    let mut out = Vec::new();
    write_request(&set(b"key", b""), &mut out);
    out[8] = 4;
    assert_eq!(parse_request(&out, &TERMS), Err(ClientFault::Malformed));
}

#[test]
fn nonsense_in_a_sound_frame_is_answered_and_not_fatal() {
    let refused = |out: &[u8]| {
        let (request, size) = parse_request(out, &TERMS).unwrap().unwrap();
        assert_eq!((size, request.number), (out.len(), 0x0102));
        assert_eq!(request.operation, Operation::Invalid(CommandError::Malformed));
    };
    let mut out = Vec::new();
    write_request(&set(b"key", b"12345678"), &mut out);
    for (kind, level) in [
        (99, 1),                                // no such kind
        (CommandKind::MGet as u8, 1),           // the value is not a list
        (CommandKind::ExpireSessions as u8, 1), // not for clients
        (CommandKind::Set as u8, 5),            // no such level
    ] {
        out[4] = kind;
        out[5] = level;
        refused(&out);
    }
}

#[test]
fn only_writes_of_a_connection_with_a_session_carry_it() {
    let mut value = Vec::new();
    list::push(&mut value, b"a");
    for kind in [CommandKind::Del, CommandKind::MGet] {
        let command = Command { kind, flags: 0, session: None, key: b"a", value: &value };
        let mut out = Vec::new();
        write_request(&RequestView { operation: Operation::Command(command), ..set(b"", b"") }, &mut out);
        for session in [0, 9] {
            let (request, _) = parse_request(&out, &Terms { session, ..TERMS }).unwrap().unwrap();
            let Operation::Command(command) = request.operation else { panic!("a command") };
            assert_eq!(command.session.is_some(), session == 9 && kind == CommandKind::Del);
        }
    }
}

fn answers() -> impl Strategy<Value = (Vec<u8>, String, i64, u8, usize)> {
    (vec(any::<u8>(), 0..60), "[a-z]{0,9}", any::<i64>(), 1u8..=12, 0usize..9)
}

proptest! {
    #[test]
    fn replies_come_back_as_they_were(
        replies in vec((any::<u64>(), any::<Option<[u32; 6]>>(), any::<Option<(u8, u64, u64)>>(), answers()), 1..8), junk in vec(any::<u8>(), 0..3)
    ) {
        let mut out = Vec::new();
        let mut views = Vec::new();
        for (number, stages, commit, (bytes, text, value, code, pick)) in &replies {
            let answer = match pick {
                0 => Answer::Ok,
                1 => Answer::Nil,
                2 => Answer::Int(*value),
                3 => Answer::Bytes(bytes),
                4 => Answer::Status(text),
                5 => Answer::Array(bytes),
                6 => Answer::Error(CommandError::from_code(*code).unwrap()),
                7 => Answer::Replies(bytes),
                _ => Answer::Pong,
            };
            let stages = stages.map(|us| Stages {
                queue_us: us[0], batch_wait_us: us[1], log_write_us: us[2],
                replicate_us: us[3], dependency_wait_us: us[4], apply_us: us[5],
            });
            let commit = commit.map(|(row, number, stamp)| Commit { position: Position { row, number }, stamp });
            let view = ReplyView { number: *number, stages, commit, answer };
            write_reply(&view, &mut out);
            views.push(view);
        }
        out.extend(&junk);
        let mut rest = out.as_slice();
        for view in &views {
            let (read, size) = parse_reply(rest, 1 << 16).unwrap().unwrap();
            prop_assert_eq!(&read, view);
            // Every shorter prefix only asks for more.
            for cut in 0..size {
                prop_assert_eq!(parse_reply(&rest[..cut], 1 << 16), Ok(None));
            }
            rest = &rest[size..];
        }
        prop_assert_eq!(rest, junk);
    }

    #[test]
    fn requests_come_back_as_they_were(
        key in vec(any::<u8>(), 0..40), value in vec(any::<u8>(), 0..40), bits in 0u8..8,
        number in 1u64.., acked_below: u64, level in 0u8..5, ask_stages: bool, ask_commit: bool,
        session: u64,
    ) {
        let session_header = (session != 0).then_some(SessionHeader { session, number, acked_below });
        let command = Command { kind: CommandKind::Append, flags: bits, session: session_header, key: &key, value: &value };
        for operation in [Operation::Ping, Operation::Command(command)] {
            let request = RequestView {
                number, acked_below, ask_stages, ask_commit, operation, level: ReadLevel::from_code(level).unwrap(),
            };
            let mut out = Vec::new();
            write_request(&request, &mut out);
            let terms = Terms { session, request_size_max: out.len() as u32 };
            for cut in 0..out.len() {
                prop_assert_eq!(parse_request(&out[..cut], &terms), Ok(None));
            }
            prop_assert_eq!(parse_request(&out, &terms), Ok(Some((request, out.len()))));
        }
    }

    #[test]
    fn no_bytes_panic_the_parsers(mut bytes in vec(any::<u8>(), 0..200), frame: bool, kind in (0u8..42).prop_map(|kind| if kind < 40 { kind } else { 86 + kind })) {
        if frame && bytes.len() >= REQUEST_HEADER_SIZE {
            let length = bytes.len() as u32;
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            bytes[4] = kind;
            bytes[6] &= 0x67;
            bytes[7] = 0;
            bytes[9] = 0;
        }
        let _ = Hello::parse(&bytes);
        let _ = HelloReply::parse(&bytes);
        let _ = parse_reply(&bytes, 1 << 20);
        if let Ok(Some((request, size))) = parse_request(&bytes, &TERMS) {
            prop_assert!(size <= bytes.len());
            if let Operation::Command(command) = request.operation {
                prop_assert!(command.is_valid());
            }
        }
    }
}
