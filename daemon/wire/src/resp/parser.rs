//! Requests as clients send them: arrays of bulk strings, or inline commands typed by people.
//!
//! The parser remembers where it stopped, so a value of many megabytes that arrives in small pieces is not read again from
//! its start with every piece.

/// Bounds on one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most arguments, the command's name included.
    pub argument_count_max: u32,
    /// The longest argument, in bytes (Redis: `proto-max-bulk-len`).
    pub bulk_size_max: u32,
    /// The longest inline command, in bytes.
    pub inline_size_max: u32,
    /// The most bytes of a whole request: what the receive buffer must be able to hold.
    pub request_size_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            argument_count_max: 1024 * 1024,
            bulk_size_max: 1 << 20,
            inline_size_max: 64 << 10,
            request_size_max: 8 << 20,
        }
    }
}

/// Why the bytes are not a request. Write it to the client, then close the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RespFault {
    /// The number of arguments is not a number or out of range.
    #[error("ERR Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// The length of an argument is not a number, out of range, or not the argument's length.
    #[error("ERR Protocol error: invalid bulk length")]
    BulkLength,
    /// Something else than an argument.
    #[error("ERR Protocol error: expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    /// An inline command without end.
    #[error("ERR Protocol error: too big inline request")]
    InlineSize,
    /// A quote of an inline command that is not closed, or not followed by a space.
    #[error("ERR Protocol error: unbalanced quotes in request")]
    Quotes,
    /// The arguments together are too long.
    #[error("ERR Protocol error: too big request")]
    RequestSize,
    /// A web browser was tricked into talking to us: everything after the first line would be the attacker's commands.
    #[error("ERR Protocol error: HTTP is not spoken here")]
    Http,
}

impl RespFault {
    /// Appends the error reply.
    pub fn write(self, out: &mut Vec<u8>) {
        super::encode::error(&self.to_string(), out);
    }
}

/// What [`Parser::parse`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// Call again with the same bytes and more behind them.
    Incomplete {
        /// Fewer bytes than this, from the front of the input, will not get further. Foreign, but never above
        /// [`Limits::request_size_max`].
        needed: usize,
    },
    /// Nothing to execute and nothing to answer (an empty line or array): drop this many bytes and go on.
    Empty {
        /// Bytes from the front of the input.
        consumed: usize,
    },
    /// A request: see [`Parser::arguments`].
    Command {
        /// Bytes from the front of the input.
        consumed: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    offset: u32,
    length: u32,
}

/// The arguments of one command, the command's name first.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a> {
    spans: &'a [Span],
    bytes: &'a [u8],
}

impl<'a> Arguments<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `index`.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, index: usize) -> &'a [u8] {
        let span = self.spans[index];
        &self.bytes[span.offset as usize..][..span.length as usize]
    }

    /// All in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        (0..self.len()).map(move |index| self.get(index))
    }

    /// All but the first `count`.
    pub fn skip(self, count: usize) -> Self {
        Self { spans: &self.spans[count.min(self.spans.len())..], ..self }
    }
}

/// Capacity that a parser keeps from one request to the next, in arguments and in inline bytes.
const KEPT_CAPACITY: usize = 8192;

#[derive(Clone, Copy, Debug)]
enum State {
    /// At the start of a request.
    Start,
    /// In an inline command whose first `scanned` bytes have no line end.
    Inline { scanned: usize },
    /// Before the `$` of an argument at `at`.
    Header { at: usize, missing: u32 },
    /// In an argument that starts at `at`.
    Bulk { at: usize, length: u32, missing: u32 },
    /// A request was returned.
    Done,
    /// The stream is lost.
    Broken(RespFault),
}

/// Reads the requests of one connection.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    state: State,
    spans: Vec<Span>,
    /// The arguments of an inline command, unquoted.
    unquoted: Vec<u8>,
    inline: bool,
}

impl Parser {
    /// A parser at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Start, spans: Vec::new(), unquoted: Vec::new(), inline: false }
    }

    /// Reads the request at the front of `input`. After [`Parsed::Incomplete`] the next call must offer the same bytes
    /// again (they may have moved) and more behind them.
    ///
    /// # Errors
    /// Answer with the fault and close the connection; every further call returns the same one.
    pub fn parse(&mut self, input: &[u8]) -> Result<Parsed, RespFault> {
        let size_max = self.limits.request_size_max as usize;
        let parsed = match self.advance(input) {
            // A receive buffer of that size is full: waiting would be for ever.
            Ok(Parsed::Incomplete { needed }) if needed > size_max => Err(RespFault::RequestSize),
            parsed => parsed,
        };
        match parsed {
            Ok(Parsed::Incomplete { .. }) => {}
            Ok(Parsed::Command { .. } | Parsed::Empty { .. }) => self.state = State::Done,
            Err(fault) => self.state = State::Broken(fault),
        }
        parsed
    }

    /// The arguments of the request just returned.
    ///
    /// # Panics
    /// If `input` is shorter than the bytes of that request.
    pub fn arguments<'a>(&'a self, input: &'a [u8]) -> Arguments<'a> {
        Arguments { spans: &self.spans, bytes: if self.inline { &self.unquoted } else { input } }
    }

    fn reset(&mut self) {
        self.spans.clear();
        self.unquoted.clear();
        // One huge request must not leave its memory with an idle connection.
        self.spans.shrink_to(KEPT_CAPACITY);
        self.unquoted.shrink_to(KEPT_CAPACITY);
        self.inline = false;
        self.state = State::Start;
    }

    fn advance(&mut self, input: &[u8]) -> Result<Parsed, RespFault> {
        if let State::Done = self.state {
            self.reset();
        }
        if let State::Start = self.state {
            match input.first() {
                None => return Ok(Parsed::Incomplete { needed: 1 }),
                Some(b'*') => {
                    let (count, at) = match Number::parse(input, 1) {
                        Number::Incomplete => return Ok(Parsed::Incomplete { needed: input.len() + 1 }),
                        Number::Invalid => return Err(RespFault::MultibulkLength),
                        Number::Valid { value, end } => (value, end),
                    };
                    if count > i64::from(self.limits.argument_count_max) {
                        return Err(RespFault::MultibulkLength);
                    }
                    if count <= 0 {
                        return Ok(Parsed::Empty { consumed: at });
                    }
                    self.state = State::Header { at, missing: count as u32 };
                }
                Some(_) => self.state = State::Inline { scanned: 0 },
            }
        }
        loop {
            match self.state {
                State::Broken(fault) => return Err(fault),
                State::Inline { scanned } => return self.inline(input, scanned),
                State::Header { at, missing } => {
                    // The shortest argument is "$0\r\n\r\n". Those behind it are not counted: a buffer must not grow for
                    // arguments that are only announced.
                    let needed = at + 6;
                    match input.get(at) {
                        None => return Ok(Parsed::Incomplete { needed }),
                        Some(b'$') => {}
                        Some(byte) => return Err(RespFault::ExpectedBulk(*byte)),
                    }
                    let (length, at) = match Number::parse(input, at + 1) {
                        Number::Incomplete => {
                            return Ok(Parsed::Incomplete { needed: needed.max(input.len() + 1) });
                        }
                        Number::Invalid => return Err(RespFault::BulkLength),
                        Number::Valid { value, end } => (value, end),
                    };
                    if length < 0 || length > i64::from(self.limits.bulk_size_max) {
                        return Err(RespFault::BulkLength);
                    }
                    if at + length as usize + 2 > self.limits.request_size_max as usize {
                        return Err(RespFault::RequestSize);
                    }
                    self.state = State::Bulk { at, length: length as u32, missing };
                }
                State::Bulk { at, length, missing } => {
                    let end = at + length as usize;
                    let Some(line_end) = input.get(end..end + 2) else {
                        return Ok(Parsed::Incomplete { needed: end + 2 });
                    };
                    // Redis skips these two bytes unseen. If they are not a line end the length was wrong, and what
                    // follows would be executed from the middle of a value.
                    if line_end != b"\r\n" {
                        return Err(RespFault::BulkLength);
                    }
                    self.spans.push(Span { offset: at as u32, length });
                    if missing == 1 {
                        return Ok(Parsed::Command { consumed: end + 2 });
                    }
                    self.state = State::Header { at: end + 2, missing: missing - 1 };
                }
                State::Start | State::Done => unreachable!("left before the loop"),
            }
        }
    }

    fn inline(&mut self, input: &[u8], scanned: usize) -> Result<Parsed, RespFault> {
        let size_max = self.limits.inline_size_max.min(self.limits.request_size_max) as usize;
        let found = input[scanned..].iter().position(|byte| *byte == b'\n').map(|at| scanned + at);
        let length = found.unwrap_or(input.len());
        if length > size_max {
            return Err(RespFault::InlineSize);
        }
        if found.is_none() {
            self.state = State::Inline { scanned: input.len() };
            return Ok(Parsed::Incomplete { needed: input.len() + 1 });
        }
        // Redis reads the line as a C string.
        let line = &input[..length];
        let line = &line[..line.iter().position(|byte| *byte == 0).unwrap_or(length)];
        self.inline = true;
        self.split(line).ok_or(RespFault::Quotes)?;
        if self.spans.is_empty() {
            return Ok(Parsed::Empty { consumed: length + 1 });
        }
        let name = self.arguments(input).get(0);
        if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
            return Err(RespFault::Http);
        }
        Ok(Parsed::Command { consumed: length + 1 })
    }

    /// Splits and unquotes an inline command by Redis' rules; `None` if a quote is not closed.
    fn split(&mut self, mut line: &[u8]) -> Option<()> {
        loop {
            while let [byte, rest @ ..] = line
                && is_space(*byte)
            {
                line = rest;
            }
            if line.is_empty() {
                return Some(());
            }
            let offset = self.unquoted.len();
            line = self.unquote(line)?;
            let length = (self.unquoted.len() - offset) as u32;
            self.spans.push(Span { offset: offset as u32, length });
        }
    }

    /// Unquotes one argument from the front of `line` and returns what follows it.
    fn unquote<'a>(&mut self, mut line: &'a [u8]) -> Option<&'a [u8]> {
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
            self.unquoted.push(byte);
            line = &line[size..];
        }
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

enum Number {
    Incomplete,
    Invalid,
    Valid { value: i64, end: usize },
}

impl Number {
    /// A decimal number and a line end, from `at` on. A number that can no longer become valid is invalid at once: so the
    /// bytes that are read again when more arrive are few.
    fn parse(input: &[u8], at: usize) -> Self {
        let Some(rest) = input.get(at..) else { return Self::Incomplete };
        let negative = rest.first() == Some(&b'-');
        let digits = &rest[usize::from(negative)..];
        let mut value: i64 = 0;
        for (count, byte) in digits.iter().enumerate() {
            match byte {
                b'0'..=b'9' => {
                    let leading_zero = count == 1 && value == 0;
                    // 18 digits always fit, and no limit is as large.
                    if leading_zero || count == 18 || (negative && count == 0 && *byte == b'0') {
                        return Self::Invalid;
                    }
                    value = 10 * value + i64::from(byte - b'0');
                }
                b'\r' if count > 0 => {
                    return match digits.get(count + 1) {
                        None => Self::Incomplete,
                        Some(b'\n') => Self::Valid {
                            value: if negative { -value } else { value },
                            end: at + usize::from(negative) + count + 2,
                        },
                        Some(_) => Self::Invalid,
                    };
                }
                _ => return Self::Invalid,
            }
        }
        Self::Incomplete
    }
}

/// A decimal `i64` by Redis' rules: no sign but `-`, no leading zeros, no spaces.
pub(super) fn parse_integer(text: &[u8]) -> Option<i64> {
    match text {
        [b'0'] => return Some(0),
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] => {}
        _ => return None,
    }
    str::from_utf8(text).ok()?.parse().ok()
}
