//! RESP replies, appended to a reused buffer. Where RESP2 and RESP3 differ, `resp3` says which the client asked for.

use crate::command::{Reply, list};
use crate::reply;

const DIGIT_PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut number = 0;
    while number < 100 {
        pairs[2 * number] = b'0' + (number / 10) as u8;
        pairs[2 * number + 1] = b'0' + (number % 10) as u8;
        number += 1;
    }
    pairs
};

/// Digits of an `i64` and its sign.
const DECIMAL_SIZE_MAX: usize = 20;

/// `value` in decimal, at the end of `buffer`.
fn decimal(value: i64, buffer: &mut [u8; DECIMAL_SIZE_MAX]) -> &[u8] {
    let mut rest = value.unsigned_abs();
    let mut at = DECIMAL_SIZE_MAX;
    while rest >= 10 {
        let pair = 2 * (rest % 100) as usize;
        rest /= 100;
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&DIGIT_PAIRS[pair..pair + 2]);
    }
    if rest > 0 || at == DECIMAL_SIZE_MAX {
        at -= 1;
        buffer[at] = b'0' + rest as u8;
    }
    if value < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

fn header(kind: u8, number: i64, out: &mut Vec<u8>) {
    // One reservation for the three parts: this is on the path of every reply.
    out.reserve(DECIMAL_SIZE_MAX + 3);
    out.push(kind);
    out.extend_from_slice(decimal(number, &mut [0; DECIMAL_SIZE_MAX]));
    out.extend_from_slice(b"\r\n");
}

/// `text` as part of a line: CR and LF become spaces.
pub(super) fn push_line(text: &[u8], out: &mut Vec<u8>) {
    out.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
}

/// `+OK`.
pub fn ok(out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK\r\n");
}

/// A short text.
pub fn simple(text: &str, out: &mut Vec<u8>) {
    out.push(b'+');
    push_line(text.as_bytes(), out);
    out.extend_from_slice(b"\r\n");
}

/// An error; `text` starts with its code, like `ERR` or `MOVED`.
pub fn error(text: &str, out: &mut Vec<u8>) {
    out.push(b'-');
    push_line(text.as_bytes(), out);
    out.extend_from_slice(b"\r\n");
}

/// A number.
pub fn integer(value: i64, out: &mut Vec<u8>) {
    header(b':', value, out);
}

/// A byte string.
pub fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + DECIMAL_SIZE_MAX + 5);
    header(b'$', bytes.len() as i64, out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// A number as a byte string, as in `CONFIG GET`.
pub fn bulk_integer(value: i64, out: &mut Vec<u8>) {
    bulk(decimal(value, &mut [0; DECIMAL_SIZE_MAX]), out);
}

/// A text for people, as in `INFO`: a byte string in RESP2.
pub fn verbatim(text: &str, resp3: bool, out: &mut Vec<u8>) {
    if !resp3 {
        return bulk(text.as_bytes(), out);
    }
    header(b'=', text.len() as i64 + 4, out);
    out.extend_from_slice(b"txt:");
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// No value.
pub fn nil(resp3: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" });
}

/// No array.
pub fn null_array(resp3: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if resp3 { b"_\r\n" } else { b"*-1\r\n" });
}

/// The header of `count` values that follow.
pub fn array(count: usize, out: &mut Vec<u8>) {
    header(b'*', count as i64, out);
}

/// The header of `count` different values that follow: an array in RESP2.
pub fn set(count: usize, resp3: bool, out: &mut Vec<u8>) {
    header(if resp3 { b'~' } else { b'*' }, count as i64, out);
}

/// The header of `count` keys, each followed by its value: an array of twice as many in RESP2.
pub fn map(count: usize, resp3: bool, out: &mut Vec<u8>) {
    if resp3 { header(b'%', count as i64, out) } else { array(2 * count, out) }
}

/// What a command answered.
pub fn write_reply(reply: &Reply<'_>, resp3: bool, out: &mut Vec<u8>) {
    match reply {
        Reply::Ok => ok(out),
        Reply::Nil => nil(resp3, out),
        Reply::Int(value) => integer(*value, out),
        Reply::Bytes(bytes) => bulk(bytes, out),
        Reply::Status(text) => simple(text, out),
        Reply::Array(items) => {
            array(list::items(items).count(), out);
            for item in list::items(items) {
                match item {
                    [1, value @ ..] => bulk(value, out),
                    _ => nil(resp3, out),
                }
            }
        }
        Reply::Error(fault) => error(fault.text(), out),
        Reply::Replies(replies) => {
            array(reply::items(replies).count(), out);
            reply::items(replies).for_each(|reply| write_reply(&reply, resp3, out));
        }
    }
}
