//! The arguments of an inline command, by Redis' rules for spaces, quotes and escapes.

use super::parser::Span;

/// Splits and unquotes a line: the bytes of its arguments go to the end of `unquoted`, where each of them is goes to `spans`. `None` if
/// a quote is not closed, or not followed by a space.
pub(super) fn split(mut line: &[u8], unquoted: &mut Vec<u8>, spans: &mut Vec<Span>) -> Option<()> {
    loop {
        while let [byte, rest @ ..] = line
            && is_space(*byte)
        {
            line = rest;
        }
        if line.is_empty() {
            return Some(());
        }
        let offset = unquoted.len();
        line = unquote(line, unquoted)?;
        let length = (unquoted.len() - offset) as u32;
        spans.push(Span { offset: offset as u32, length });
    }
}

/// Unquotes one argument from the front of `line` and returns what follows it.
fn unquote<'a>(mut line: &'a [u8], unquoted: &mut Vec<u8>) -> Option<&'a [u8]> {
    let closes = |rest: &[u8]| rest.first().is_none_or(|byte| is_space(*byte));
    let mut quote = None;
    loop {
        let (byte, size) = match (quote, line) {
            (None, []) => return Some(line),
            (None, [b' ' | b'\n' | b'\r' | b'\t', ..]) => return Some(line),
            (None, [open @ (b'"' | b'\''), rest @ ..]) => {
                quote = Some(*open);
                line = rest;
                continue;
            }
            (Some(_), []) => return None,
            (Some(open), [byte, rest @ ..]) if *byte == open => {
                return closes(rest).then_some(rest);
            }
            (Some(b'"'), [b'\\', b'x', high, low, ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), 4)
            }
            (Some(b'"'), [b'\\', escaped, ..]) => {
                let byte = match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                };
                (byte, 2)
            }
            (Some(b'\''), [b'\\', b'\'', ..]) => (b'\'', 2),
            (_, [byte, ..]) => (*byte, 1),
        };
        unquoted.push(byte);
        line = &line[size..];
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.to_ascii_lowercase() - b'a' + 10,
    }
}
