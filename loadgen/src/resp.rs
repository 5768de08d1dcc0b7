//! The client's side of RESP2, the Redis protocol: writing commands, reading replies.
//!
//! Invariants:
//! * No panic and no allocation by a foreign length: a reply is looked at in place, once it is there as a whole.
//! * A reply is refused as soon as its length is known to be above the limit.

/// One reply, borrowed from the receive buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RespReply<'a> {
    /// `+OK`.
    Status(&'a [u8]),
    /// `-ERR ...`, without the dash.
    Error(&'a [u8]),
    /// `:1`.
    Integer(i64),
    /// A value.
    Bulk(&'a [u8]),
    /// No value.
    Nil,
    /// So many replies, as they were received.
    Array {
        /// How many.
        count: usize,
        /// Their bytes.
        items: &'a [u8],
    },
}

/// Why the bytes of a server end the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RespFault {
    /// The first byte is none that starts a reply.
    #[error("0x{0:02x} does not start a RESP2 reply")]
    Kind(u8),
    /// A number or a line end is not one.
    #[error("malformed RESP reply")]
    Malformed,
    /// Longer than the limit.
    #[error("a RESP reply is longer than {0} bytes")]
    TooLong(usize),
}

/// How deep arrays may lie in arrays.
const DEPTH_MAX: usize = 8;
/// A line (everything but a value) is no longer than this.
const LINE_SIZE_MAX: usize = 64 << 10;

/// Appends a command of these words.
pub fn write_command(words: &[&[u8]], out: &mut Vec<u8>) {
    write_number(b'*', words.len(), out);
    for word in words {
        write_number(b'$', word.len(), out);
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn write_number(kind: u8, mut number: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Reads a reply from the front of `bytes`, and how many bytes it takes. `None` if more bytes are needed.
///
/// # Errors
/// If these are not the bytes of a reply of at most `size_max` bytes.
pub fn parse_reply(bytes: &[u8], size_max: usize) -> Result<Option<(RespReply<'_>, usize)>, RespFault> {
    let parsed = parse_at_depth(bytes, size_max, 0)?;
    if parsed.is_none() && bytes.len() > size_max {
        return Err(RespFault::TooLong(size_max));
    }
    Ok(parsed)
}

fn parse_at_depth(
    bytes: &[u8],
    size_max: usize,
    depth: usize,
) -> Result<Option<(RespReply<'_>, usize)>, RespFault> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if !b"+-:$*".contains(&kind) {
        return Err(RespFault::Kind(kind));
    }
    let window = &bytes[1..bytes.len().min(LINE_SIZE_MAX)];
    let Some(end) = window.iter().position(|byte| *byte == b'\r') else {
        return if bytes.len() >= LINE_SIZE_MAX { Err(RespFault::TooLong(LINE_SIZE_MAX)) } else { Ok(None) };
    };
    let line = &window[..end];
    let start = 1 + end + 2;
    match bytes.get(start - 1) {
        Some(b'\n') => {}
        Some(_) => return Err(RespFault::Malformed),
        None => return Ok(None),
    }
    match kind {
        b'+' => Ok(Some((RespReply::Status(line), start))),
        b'-' => Ok(Some((RespReply::Error(line), start))),
        b':' => Ok(Some((RespReply::Integer(number(line)?), start))),
        b'$' => {
            let Some(length) = length(line, size_max)? else { return Ok(Some((RespReply::Nil, start))) };
            let Some(rest) = bytes.get(start..start + length + 2) else { return Ok(None) };
            let (value, line_end) = rest.split_at(length);
            if line_end == b"\r\n" {
                Ok(Some((RespReply::Bulk(value), start + length + 2)))
            } else {
                Err(RespFault::Malformed)
            }
        }
        _ => {
            // Each item takes at least four bytes, so the limit bounds the count as well.
            let Some(count) = length(line, size_max / 4)? else { return Ok(Some((RespReply::Nil, start))) };
            if depth == DEPTH_MAX {
                return Err(RespFault::Malformed);
            }
            let mut at = start;
            for _ in 0..count {
                let Some((_, size)) = parse_at_depth(&bytes[at..], size_max, depth + 1)? else {
                    return Ok(None);
                };
                at += size;
            }
            Ok(Some((RespReply::Array { count, items: &bytes[start..at] }, at)))
        }
    }
}

/// A length, or `None` for the length of nothing, -1.
fn length(line: &[u8], size_max: usize) -> Result<Option<usize>, RespFault> {
    match number(line)? {
        -1 => Ok(None),
        length => {
            let length = usize::try_from(length).map_err(|_| RespFault::Malformed)?;
            if length > size_max { Err(RespFault::TooLong(size_max)) } else { Ok(Some(length)) }
        }
    }
}

fn number(line: &[u8]) -> Result<i64, RespFault> {
    str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or(RespFault::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const LIMIT: usize = 1 << 20;

    #[test]
    fn commands_are_arrays_of_their_words() {
        let mut out = Vec::new();
        write_command(&[b"SET", b"k", b"0123456789"], &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10\r\n0123456789\r\n");
    }

    #[test]
    fn every_kind_of_reply_is_read() {
        for (bytes, reply) in [
            (b"+OK\r\n".as_slice(), RespReply::Status(b"OK")),
            (b"-ERR no\r\n", RespReply::Error(b"ERR no")),
            (b":-12\r\n", RespReply::Integer(-12)),
            (b"$3\r\na\r\n\r\n", RespReply::Bulk(b"a\r\n")),
            (b"$0\r\n\r\n", RespReply::Bulk(b"")),
            (b"$-1\r\n", RespReply::Nil),
            (b"*-1\r\n", RespReply::Nil),
            (b"*2\r\n:1\r\n*1\r\n+x\r\n", RespReply::Array { count: 2, items: b":1\r\n*1\r\n+x\r\n" }),
        ] {
            assert_eq!(parse_reply(bytes, LIMIT), Ok(Some((reply, bytes.len()))));
            for cut in 0..bytes.len() {
                assert_eq!(parse_reply(&bytes[..cut], LIMIT), Ok(None), "{:?}", &bytes[..cut]);
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_refused_early() {
        for (bytes, fault) in [
            (b"HTTP/1.1".as_slice(), RespFault::Kind(b'H')),
            (b":x\r\n", RespFault::Malformed),
            (b"$-2\r\n", RespFault::Malformed),
            (b"+OK\rX", RespFault::Malformed),
            (b"$1\r\nabc", RespFault::Malformed),
            (b"$999999999999\r\n", RespFault::TooLong(LIMIT)),
            (b"*999999999999\r\n", RespFault::TooLong(LIMIT / 4)),
        ] {
            assert_eq!(parse_reply(bytes, LIMIT), Err(fault));
        }
        assert_eq!(parse_reply(&b"*1\r\n".repeat(20), LIMIT), Err(RespFault::Malformed));
        assert_eq!(parse_reply(&vec![b'+'; LINE_SIZE_MAX], LIMIT), Err(RespFault::TooLong(LINE_SIZE_MAX)));
    }

    fn reply() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            "[ -~]{0,20}".prop_map(|text| format!("+{text}\r\n").into_bytes()),
            "[ -~]{0,20}".prop_map(|text| format!("-{text}\r\n").into_bytes()),
            any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes()),
            Just(b"$-1\r\n".to_vec()),
            vec(any::<u8>(), 0..50).prop_map(|value| [
                format!("${}\r\n", value.len()).as_bytes(),
                &value,
                b"\r\n"
            ]
            .concat()),
        ];
        leaf.prop_recursive(3, 20, 4, |item| {
            vec(item, 0..4)
                .prop_map(|items| [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat())
        })
    }

    proptest! {
        #[test]
        fn a_stream_of_replies_is_cut_where_it_was_joined(replies in vec(reply(), 1..6), cut in any::<prop::sample::Index>()) {
            let stream = replies.concat();
            let mut at = 0;
            for reply in &replies {
                let (_, size) = parse_reply(&stream[at..], LIMIT).unwrap().unwrap();
                prop_assert_eq!(&stream[at..at + size], reply.as_slice());
                at += size;
            }
            let first = &replies[0];
            let cut = cut.index(first.len());
            prop_assert_eq!(parse_reply(&first[..cut], LIMIT), Ok(None));
        }

        #[test]
        fn no_bytes_panic(bytes in vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..60)) {
            if let Ok(Some((_, size))) = parse_reply(&bytes, 1000) {
                prop_assert!(size <= bytes.len());
            }
        }
    }
}
