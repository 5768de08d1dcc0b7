//! Requests as clients send them: arrays of bulk strings, or inline commands typed by people.
//!
//! The parser remembers where it stopped, so a value of many megabytes that arrives in small pieces is not read again from
//! its start with every piece. A command that is larger than the limits allow costs itself and nothing else: its bytes are dropped as
//! they come, and what follows is read as ever.

use super::inline;

/// The longest argument that a request may announce at all, in bytes, and the most arguments: Redis' own limits (`proto-max-bulk-len`
/// is 512 MiB by default). What is larger is a protocol error.
const ANNOUNCED_SIZE_MAX: i64 = 512 << 20;
const ANNOUNCED_COUNT_MAX: i64 = i32::MAX as i64;

/// Bounds on one request. One that exceeds them is read to its end and refused, see [`Parsed::Oversize`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most arguments, the command's name included.
    pub argument_count_max: u32,
    /// The longest argument, in bytes.
    pub bulk_size_max: u32,
    /// The longest inline command, in bytes. A longer one is a protocol error.
    pub inline_size_max: u32,
    /// The most bytes of a whole request: what the receive buffer must be able to hold. At least 40.
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

/// What of a command exceeds the [`Limits`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Oversize {
    /// The argument at this position; the command's name is at 0.
    Argument(u32),
    /// All of it together.
    Total,
    /// The number of its arguments.
    Count,
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
    /// Nothing to execute and nothing to answer (an empty line or array, a piece of a command that is too large): drop this many
    /// bytes and go on.
    Empty {
        /// Bytes from the front of the input.
        consumed: usize,
    },
    /// A request: see [`Parser::arguments`].
    Command {
        /// Bytes from the front of the input.
        consumed: usize,
    },
    /// The last bytes of a command that is too large: it is to be refused, those behind it go on. Of its arguments
    /// [`Parser::arguments`] has the first 128 bytes of its name, or nothing if that had not come yet.
    Oversize {
        /// Bytes from the front of the input.
        consumed: usize,
        /// Why.
        what: Oversize,
    },
}

/// How many bytes of the name of a command that is too large are kept.
pub(super) const NAME_KEPT_MAX: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) offset: u32,
    pub(super) length: u32,
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
const KEPT_CAPACITY: usize = 1024;

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
    /// In a command that is too large, with the `$` of an argument at the front of the input.
    SkipHeader { missing: u32 },
    /// In an argument of one, of which so many bytes come before its line end.
    SkipBulk { left: u32, missing: u32 },
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
    /// The arguments are in `unquoted`.
    inline: bool,
    /// Set while the bytes of a command that is too large are dropped.
    oversize: Option<Oversize>,
}

impl Parser {
    /// A parser at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Start,
            spans: Vec::new(),
            unquoted: Vec::new(),
            inline: false,
            oversize: None,
        }
    }

    /// Bytes of memory that it holds.
    pub fn size(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.unquoted.capacity()
    }

    /// Reads the request at the front of `input`. After [`Parsed::Incomplete`] the next call must offer the same bytes
    /// again (they may have moved) and more behind them.
    ///
    /// # Errors
    /// Answer with the fault and close the connection; every further call returns the same one.
    pub fn parse(&mut self, input: &[u8]) -> Result<Parsed, RespFault> {
        let parsed = self.advance(input);
        match parsed {
            Ok(Parsed::Incomplete { .. }) => {}
            Ok(Parsed::Empty { .. }) if self.oversize.is_some() => {}
            Ok(Parsed::Command { .. } | Parsed::Empty { .. } | Parsed::Oversize { .. }) => {
                self.state = State::Done;
            }
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
        self.oversize = None;
        self.state = State::Start;
    }

    fn advance(&mut self, input: &[u8]) -> Result<Parsed, RespFault> {
        let size_max = self.limits.request_size_max as usize;
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
                    if count > ANNOUNCED_COUNT_MAX {
                        return Err(RespFault::MultibulkLength);
                    }
                    if count <= 0 {
                        return Ok(Parsed::Empty { consumed: at });
                    }
                    let missing = count as u32;
                    if missing > self.limits.argument_count_max {
                        let next = State::SkipHeader { missing };
                        return Ok(self.begin_skip(input, at, Oversize::Count, next));
                    }
                    self.state = State::Header { at, missing };
                }
                Some(_) => self.state = State::Inline { scanned: 0 },
            }
        }
        loop {
            match self.state {
                State::Broken(fault) => return Err(fault),
                State::Inline { scanned } => return self.inline(input, scanned),
                State::Header { at, missing } => {
                    // A receive buffer of that size would be full before the header is there.
                    if at + HEADER_SIZE_MAX > size_max {
                        let next = State::SkipHeader { missing };
                        return Ok(self.begin_skip(input, at, Oversize::Total, next));
                    }
                    let Some((length, start)) = header(input, at)? else {
                        // Arguments behind it are not counted: a buffer must not grow for those that are only announced.
                        let needed = (at + ARGUMENT_SIZE_MIN).max(input.len() + 1);
                        return Ok(Parsed::Incomplete { needed });
                    };
                    let what = if length > self.limits.bulk_size_max {
                        Some(Oversize::Argument(self.spans.len() as u32))
                    } else if start + length as usize + 2 > size_max {
                        Some(Oversize::Total)
                    } else {
                        None
                    };
                    if let Some(what) = what {
                        let next = State::SkipBulk { left: length, missing };
                        return Ok(self.begin_skip(input, start, what, next));
                    }
                    self.state = State::Bulk { at: start, length, missing };
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
                State::SkipHeader { .. } | State::SkipBulk { .. } => return self.skip(input),
                State::Start | State::Done => unreachable!("left before the loop"),
            }
        }
    }

    /// From here on the command is dropped, beginning with `size` bytes; `next` is where it goes on.
    fn begin_skip(&mut self, input: &[u8], size: usize, what: Oversize, next: State) -> Parsed {
        self.unquoted.clear();
        if let Some(name) = self.spans.first() {
            let name = &input[name.offset as usize..][..name.length as usize];
            self.unquoted.extend_from_slice(&name[..name.len().min(NAME_KEPT_MAX)]);
            self.spans.truncate(1);
            self.spans[0] = Span { offset: 0, length: self.unquoted.len() as u32 };
        }
        self.inline = true;
        self.oversize = Some(what);
        self.state = next;
        Parsed::Empty { consumed: size }
    }

    /// Drops what is there of a command that is too large.
    fn skip(&mut self, input: &[u8]) -> Result<Parsed, RespFault> {
        let what = self.oversize.expect("it is set before anything is skipped");
        let mut at = 0;
        loop {
            // What is not all there waits, what is before it goes.
            let part = |at, needed| match at {
                0 => Parsed::Incomplete { needed },
                consumed => Parsed::Empty { consumed },
            };
            match self.state {
                State::SkipBulk { left, missing } => {
                    let skipped = (input.len() - at).min(left as usize);
                    at += skipped;
                    let left = left - skipped as u32;
                    self.state = State::SkipBulk { left, missing };
                    if left > 0 {
                        return Ok(part(at, 1));
                    }
                    let Some(line_end) = input.get(at..at + 2) else { return Ok(part(at, 2)) };
                    if line_end != b"\r\n" {
                        return Err(RespFault::BulkLength);
                    }
                    at += 2;
                    if missing == 1 {
                        return Ok(Parsed::Oversize { consumed: at, what });
                    }
                    self.state = State::SkipHeader { missing: missing - 1 };
                }
                State::SkipHeader { missing } => {
                    let Some((left, start)) = header(input, at)? else {
                        return Ok(part(at, ARGUMENT_SIZE_MIN.max(input.len() + 1)));
                    };
                    at = start;
                    self.state = State::SkipBulk { left, missing };
                }
                _ => unreachable!("the caller looked"),
            }
        }
    }

    fn inline(&mut self, input: &[u8], scanned: usize) -> Result<Parsed, RespFault> {
        let request_size_max = self.limits.request_size_max as usize;
        let size_max = request_size_max.min(self.limits.inline_size_max as usize);
        // Redis looks for the end of the line as in a C string: behind a NUL there is none, whatever comes.
        let stop = input[scanned..].iter().position(|byte| matches!(byte, b'\n' | 0)).map(|at| scanned + at);
        let end = stop.filter(|at| input[*at] == b'\n');
        if end.unwrap_or(input.len()) > size_max || (end.is_none() && input.len() >= request_size_max) {
            return Err(RespFault::InlineSize);
        }
        let Some(length) = end else {
            self.state = State::Inline { scanned: stop.unwrap_or(input.len()) };
            return Ok(Parsed::Incomplete { needed: input.len() + 1 });
        };
        let line = &input[..length];
        self.inline = true;
        inline::split(line, &mut self.unquoted, &mut self.spans).ok_or(RespFault::Quotes)?;
        if self.spans.is_empty() {
            return Ok(Parsed::Empty { consumed: length + 1 });
        }
        let name = self.arguments(input).get(0);
        if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
            return Err(RespFault::Http);
        }
        Ok(Parsed::Command { consumed: length + 1 })
    }
}

/// The longest header of an argument that is not refused on sight: `$`, the digits, the line end.
const HEADER_SIZE_MAX: usize = 1 + NUMBER_SIZE_MAX + 2;
/// The shortest argument: `$0\r\n\r\n`.
const ARGUMENT_SIZE_MIN: usize = 6;

/// The length of the argument whose `$` is at `at`, and where its bytes start; `None` if the header is not all there.
fn header(input: &[u8], at: usize) -> Result<Option<(u32, usize)>, RespFault> {
    match input.get(at) {
        None => return Ok(None),
        Some(b'$') => {}
        Some(byte) => return Err(RespFault::ExpectedBulk(*byte)),
    }
    match Number::parse(input, at + 1) {
        Number::Incomplete => Ok(None),
        Number::Valid { value, end } if (0..=ANNOUNCED_SIZE_MAX).contains(&value) => {
            Ok(Some((value as u32, end)))
        }
        Number::Invalid | Number::Valid { .. } => Err(RespFault::BulkLength),
    }
}

/// Digits of the largest number that is read, and its sign.
const NUMBER_SIZE_MAX: usize = DIGITS_MAX + 1;
/// So many digits always fit, and no limit is as large.
const DIGITS_MAX: usize = 18;

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
                    if leading_zero || count == DIGITS_MAX || (negative && count == 0 && *byte == b'0') {
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
