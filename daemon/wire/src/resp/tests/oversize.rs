//! Commands that are too large: they are dropped as they come, refused, and disturb nothing else.

use super::*;

const LIMITS: Limits =
    Limits { argument_count_max: 6, bulk_size_max: 30, inline_size_max: 64, request_size_max: 100 };

fn texts(outcome: &Outcome) -> Vec<String> {
    let shown = |command: &Vec<Vec<u8>>| {
        let words: Vec<_> = command.iter().map(|word| String::from_utf8_lossy(word)).collect();
        words.join(" ")
    };
    outcome.0.iter().map(shown).collect()
}

/// The same however the bytes are cut: at every byte, at every single place, and not at all.
#[track_caller]
fn outcome(limits: Limits, bytes: &[u8]) -> Outcome {
    let whole = feed(limits, bytes, &[]);
    for every in 1..=7 {
        let cuts: Vec<usize> = (0..bytes.len()).step_by(every).collect();
        assert_eq!(feed(limits, bytes, &cuts), whole, "cut every {every} bytes");
    }
    for cut in 0..bytes.len() {
        assert_eq!(feed(limits, bytes, &[cut]), whole, "cut at {cut}");
    }
    whole
}

fn long(size: usize) -> Vec<u8> {
    vec![b'v'; size]
}

#[test]
fn a_command_that_is_too_large_is_passed_over_and_those_around_it_are_not() {
    let ping = encode_command(&[b"ping"]);
    let arguments = |parts: &[&[u8]]| encode_command(parts);
    for (large, what) in [
        (arguments(&[b"set", b"k", &long(31)]), "too large: Argument(2) set"),
        (arguments(&[b"set", &long(31), b"v"]), "too large: Argument(1) set"),
        (arguments(&[&long(31), b"k", b"v"]), "too large: Argument(0)"),
        // The second one is not looked at any more, the first says why.
        (arguments(&[b"mset", b"k", &long(3000), &long(40), b"v"]), "too large: Argument(2) mset"),
        (arguments(&[b"mset", b"a", &long(30), b"b", &long(30), b"c"]), "too large: Total mset"),
        // The value has a line end where a command might begin.
        (arguments(&[b"set", b"k", &b"*1\r\n$4\r\nping\r\n".repeat(10)]), "too large: Argument(2) set"),
        (arguments(&[&b"del"[..]; 7]), "too large: Count"),
        (arguments(&[b"set", b"k", &long(31), b"", b"nx", b""]), "too large: Argument(2) set"),
        (
            arguments(&[&b"x".repeat(30), &long(28), &long(20), b""]),
            "too large: Total xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        ),
    ] {
        let bytes = [&ping[..], &large, &ping, &large, b"ping\r\n"].concat();
        let outcome = outcome(LIMITS, &bytes);
        assert_eq!(outcome.1, None);
        assert_eq!(texts(&outcome), ["ping", what, "ping", what, "ping"]);
    }
}

#[test]
fn nothing_of_a_command_that_is_too_large_is_asked_for_again() {
    let mut parser = Parser::new(LIMITS);
    let head = b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$50000000\r\n";
    assert_eq!(parser.parse(head), Ok(Parsed::Empty { consumed: head.len() }));
    let chunk = long(1000);
    for _ in 0..50_000 {
        assert_eq!(parser.parse(&chunk), Ok(Parsed::Empty { consumed: chunk.len() }));
    }
    assert_eq!(parser.parse(b""), Ok(Parsed::Incomplete { needed: 2 }));
    assert_eq!(parser.parse(b"\r"), Ok(Parsed::Incomplete { needed: 2 }));
    let what = Oversize::Argument(2);
    assert_eq!(parser.parse(b"\r\nping\r\n"), Ok(Parsed::Oversize { consumed: 2, what }));
    assert_eq!(parser.parse(b"ping\r\n"), Ok(Parsed::Command { consumed: 6 }));
    // Only headers: a buffer of the largest size would be full before the next one.
    let empties = [b"*6\r\n".to_vec(), b"$12\r\nabcdefghijkl\r\n".repeat(6)].concat();
    assert_eq!(texts(&outcome(LIMITS, &empties)), ["too large: Total abcdefghijkl"]);
}

#[test]
fn protocol_errors_end_a_stream_in_the_middle_of_what_is_passed_over_too() {
    let head = b"*5\r\n$3\r\nset\r\n$1\r\nk\r\n$31\r\n";
    let body = long(31);
    for (rest, fault) in [
        (&b"xx"[..], RespFault::BulkLength),
        (b"\r\n:1\r\n", RespFault::ExpectedBulk(b':')),
        (b"\r\n$-1\r\n", RespFault::BulkLength),
        (b"\r\n$536870913\r\n", RespFault::BulkLength),
        (b"\r\n$1\r\nabc", RespFault::BulkLength),
    ] {
        let bytes = [head, &body[..], rest, b"*1\r\n$4\r\nping\r\n"].concat();
        assert_eq!(outcome(LIMITS, &bytes), (vec![], Some(fault)), "{}", rest.escape_ascii());
    }
}

#[test]
fn an_inline_command_with_a_nul_has_no_end() {
    let bytes = b"ping\r\necho a\0b c\r\nping\r\nping\r\n";
    assert_eq!(outcome(LIMITS, bytes), (vec![vec![b"ping".to_vec()]], None));
    let endless = [&bytes[..], &long(64)].concat();
    assert_eq!(outcome(LIMITS, &endless).1, Some(RespFault::InlineSize));
    // In an array it is a byte like any other.
    let array = encode_command(&[&b"echo"[..], b"a\0b"]);
    assert_eq!(outcome(LIMITS, &array).0, [[b"echo".to_vec(), b"a\0b".to_vec()]]);
}

#[test]
fn refusals_say_which_limit_it_was() {
    let sizes = Sizes { value_max: 1000, command_max: 2000, argument_count_max: 3000 };
    let text = |what, name: &[u8]| {
        let bytes = encode_command(&[name]);
        let mut parser = Parser::new(Limits::default());
        assert!(parser.parse(&bytes).is_ok());
        let name = parser.arguments(&bytes).skip(usize::from(name.is_empty()));
        let mut out = Vec::new();
        Refusal::of_oversize(what, name, &sizes).write(&mut out);
        String::from_utf8(out).unwrap()
    };
    let value = "-ERR a value may have at most 1000 bytes (value_size_max): the command was not executed\r\n";
    let key = "-ERR key is longer than 65535 bytes: the command was not executed\r\n";
    use Oversize::{Argument, Count, Total};
    for (what, name, expected) in [
        (Argument(2), &b"SET"[..], value),
        (Argument(1), b"set", key),
        (Argument(3), b"mset", key),
        (Argument(4), b"mset", value),
        (Argument(7), b"del", key),
        (Argument(1), b"ping", value),
        (Argument(0), b"", value),
        (Argument(2), b"setrange", "-ERR unknown command 'setrange', with args beginning with: \r\n"),
        (Count, b"", "-ERR the command has too many arguments: at most 3000; it was not executed\r\n"),
        (
            Total,
            b"mset",
            "-ERR the command is too large in total: all its keys and values may have at most 2000 bytes together \
             (value_size_max, and room for a key); it was not executed\r\n",
        ),
    ] {
        assert_eq!(text(what, name), expected, "{what:?} {}", name.escape_ascii());
    }
}
