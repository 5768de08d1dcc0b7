//! Replies of one connection in the order of its requests (RESP has no request numbers).
//!
//! Invariants:
//! * `head` is the number of the oldest request without a reply in the output; numbers are consecutive.
//! * A reply to the head goes straight into the output; a reply that overtook it waits in `side`, a long one in a buffer of its own.
//! * Requests keep their effect order too: see [`Class`].
//! * A request that the client does not want to hear of (CLIENT REPLY) has its place as any other, and an empty reply.

use std::collections::VecDeque;

use panch_replica::kv::SMALL_REPLY_SIZE;
use panch_wire::command::Reply;
use panch_wire::resp::{self, Replies};

use super::output::Output;

/// How a request was served, which decides what may follow it before its reply is there.
///
/// A connection's commands must take effect in order. Commands in one log do. A read outside the log has no place in it:
/// behind an unanswered write it goes through the log instead, and a write waits for unanswered reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// Through the log.
    Logged,
    /// A read outside the log.
    Read,
    /// Answered by the node itself.
    Immediate,
}

/// What a client reads out of the reply to a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Form {
    /// The reply itself.
    #[default]
    Plain,
    /// How long the counted key will be there: -1, for ever; -2 if there is none.
    TimeToLive,
    /// Text for people.
    Text,
}

impl Form {
    fn write(self, reply: &Reply<'_>, resp3: bool, out: &mut Vec<u8>) {
        match (self, reply) {
            (Self::TimeToLive, Reply::Int(count)) => resp::integer(if *count > 0 { -1 } else { -2 }, out),
            (Self::Text, Reply::Bytes(text)) => resp::verbatim(&String::from_utf8_lossy(text), resp3, out),
            _ => resp::write_reply(reply, resp3, out),
        }
    }
}

/// Whether the client is to hear of a request. The difference between the last two: it hears of the command that asked for silence as
/// little as of those behind it, whose replies are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Hearing {
    #[default]
    All,
    /// Not of the next one.
    SkipNext,
    /// Not of this one.
    Skip,
    Nothing,
}

enum State {
    Waiting,
    /// The reply's place in `side`.
    Ready {
        start: usize,
        end: usize,
    },
    /// A long reply.
    Long(Vec<u8>),
}

struct Request {
    class: Class,
    form: Form,
    muted: bool,
    /// Bytes that its reply will take, as far as that can be foreseen.
    reserved: usize,
    state: State,
}

/// Memory that was used once is kept up to so many requests, and so many bytes of replies that have overtaken others.
const KEPT_COUNT_MAX: usize = 128;
const KEPT_SIZE_MAX: usize = 8 << 10;
/// A reply that overtakes others and is longer has a buffer of its own, which need not be copied again.
const LONG_SIZE_MIN: usize = 16 << 10;

/// The unanswered requests of one connection.
#[derive(Default)]
pub(crate) struct ReplyOrder {
    head: u64,
    requests: VecDeque<Request>,
    side: Vec<u8>,
    /// Replies in `side` that have not left, and their bytes.
    ready: usize,
    side_used: usize,
    /// Bytes of long replies that overtook the head.
    long_size: usize,
    logged: usize,
    reads: usize,
    /// Of all requests that wait.
    reserved: usize,
    /// For the next request, beside what every reply takes.
    next_reserved: usize,
    /// Of requests that begin from here on.
    form: Form,
    hearing: Hearing,
}

impl ReplyOrder {
    /// Requests that begin from here on are answered in this form.
    pub(crate) fn set_form(&mut self, form: Form) {
        self.form = form;
    }

    /// The client wants to hear these replies from here on.
    pub(crate) fn hear(&mut self, replies: Replies) {
        self.hearing = match (replies, self.hearing) {
            (Replies::On, _) => Hearing::All,
            (Replies::Off, _) | (Replies::Skip, Hearing::Nothing) => Hearing::Nothing,
            (Replies::Skip, _) => Hearing::SkipNext,
        };
    }

    /// As on a new connection; a reply that is to be skipped still is.
    pub(crate) fn reset(&mut self) {
        if self.hearing == Hearing::Nothing {
            self.hearing = Hearing::All;
        }
    }

    /// A command is dealt with: what was said of the next one holds for what follows.
    pub(crate) fn end_command(&mut self) {
        self.hearing = match self.hearing {
            Hearing::SkipNext => Hearing::Skip,
            Hearing::Skip => Hearing::All,
            other => other,
        };
    }

    /// The reply to the next request will take so many bytes more than a small one.
    pub(crate) fn reserve(&mut self, size: usize) {
        self.next_reserved = size;
    }

    /// Gives the next request its number.
    pub(crate) fn begin(&mut self, class: Class) -> u64 {
        let reserved = SMALL_REPLY_SIZE + std::mem::take(&mut self.next_reserved);
        self.reserved += reserved;
        match class {
            Class::Logged => self.logged += 1,
            Class::Read => self.reads += 1,
            Class::Immediate => {}
        }
        let muted = matches!(self.hearing, Hearing::Skip | Hearing::Nothing);
        self.requests.push_back(Request { class, form: self.form, muted, reserved, state: State::Waiting });
        self.head + self.requests.len() as u64 - 1
    }

    /// Takes the latest number back: the request was not accepted.
    pub(crate) fn cancel_last(&mut self) {
        if let Some(request) = self.requests.pop_back() {
            self.settle(request.class, request.reserved);
        }
    }

    fn settle(&mut self, class: Class, reserved: usize) {
        self.reserved -= reserved;
        match class {
            Class::Logged => self.logged -= 1,
            Class::Read => self.reads -= 1,
            Class::Immediate => {}
        }
    }

    /// Unanswered requests that go through the log.
    pub(crate) fn logged(&self) -> usize {
        self.logged
    }

    /// Unanswered reads outside the log.
    pub(crate) fn reads(&self) -> usize {
        self.reads
    }

    /// The number of the latest request.
    pub(crate) fn last(&self) -> u64 {
        (self.head + self.requests.len() as u64).wrapping_sub(1)
    }

    /// Unanswered requests.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Writes what a command answered, see [`ReplyOrder::complete`].
    pub(crate) fn reply(&mut self, number: u64, reply: &Reply<'_>, resp3: bool, out: &mut Output) -> usize {
        let index = number.checked_sub(self.head).and_then(|index| usize::try_from(index).ok());
        let request = index.and_then(|index| self.requests.get(index));
        let form = request.map_or(Form::Plain, |request| request.form);
        let size = panch_wire::reply::size(reply);
        self.complete_with(number, size, out, |out| form.write(reply, resp3, out))
    }

    /// Writes the reply of request `number` with `encode`, into `out` as soon as its turn has come. Returns the reply's size
    /// in bytes; 0 if nobody waits for it.
    pub(crate) fn complete(
        &mut self,
        number: u64,
        out: &mut Output,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        self.complete_with(number, 0, out, encode)
    }

    /// The same with values of `size` bytes in it.
    fn complete_with(
        &mut self,
        number: u64,
        size: usize,
        out: &mut Output,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        let Some(index) = number.checked_sub(self.head) else { return 0 };
        let Some(request) = self.requests.get_mut(index as usize) else { return 0 };
        if !matches!(request.state, State::Waiting) {
            return 0;
        }
        let (class, muted, reserved) = (request.class, request.muted, request.reserved);
        let write = |out: &mut Vec<u8>| {
            let start = out.len();
            if !muted {
                encode(out);
            }
            out.len() - start
        };
        if index > 0 {
            let written = if size > LONG_SIZE_MIN && !muted {
                let mut bytes = Vec::with_capacity(size + SMALL_REPLY_SIZE);
                let written = write(&mut bytes);
                self.long_size += written;
                request.state = State::Long(bytes);
                written
            } else {
                let start = self.side.len();
                let written = write(&mut self.side);
                request.state = State::Ready { start, end: start + written };
                self.ready += 1;
                self.side_used += written;
                written
            };
            self.settle(class, reserved);
            return written;
        }
        let written = write(out.tail(if muted { 0 } else { size }));
        self.settle(class, reserved);
        self.requests.pop_front();
        self.head += 1;
        self.release(out);
        written
    }

    /// Replies that wait for nothing any more leave.
    fn release(&mut self, out: &mut Output) {
        while let Some(request) = self.requests.front_mut() {
            match &mut request.state {
                State::Waiting => break,
                State::Ready { start, end } => {
                    out.tail(*end - *start).extend_from_slice(&self.side[*start..*end]);
                    self.ready -= 1;
                    self.side_used -= *end - *start;
                }
                State::Long(bytes) => {
                    self.long_size -= bytes.len();
                    out.append(std::mem::take(bytes));
                }
            }
            self.requests.pop_front();
            self.head += 1;
        }
        // A place without bytes is one, too.
        if self.ready == 0 {
            self.side.clear();
            self.side.shrink_to(KEPT_SIZE_MAX);
        } else if self.side.len() > KEPT_SIZE_MAX + 2 * self.side_used {
            self.compact();
        }
        if self.requests.is_empty() && self.requests.capacity() > KEPT_COUNT_MAX {
            self.requests = VecDeque::new();
        }
    }

    /// Forgets what has left of the replies that overtook others.
    fn compact(&mut self) {
        let mut side = Vec::with_capacity(self.side_used);
        for request in &mut self.requests {
            if let State::Ready { start, end } = &mut request.state {
                let moved = side.len();
                side.extend_from_slice(&self.side[*start..*end]);
                (*start, *end) = (moved, side.len());
            }
        }
        self.side = side;
    }

    /// Bytes that were reserved for the reply to request `number`, if it waits.
    pub(crate) fn reserved_of(&self, number: u64) -> usize {
        let index = number.checked_sub(self.head).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.requests.get(index)).map_or(0, |request| request.reserved)
    }

    /// Bytes that the replies to all requests that wait will take, as far as that can be foreseen, and that those take which overtook others.
    pub(crate) fn owed(&self) -> usize {
        self.reserved + self.side_size()
    }

    /// Bytes of replies that overtook the head.
    pub(crate) fn side_size(&self) -> usize {
        self.side.len() + self.long_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_leave_in_the_order_of_requests() {
        let mut order = ReplyOrder::default();
        let mut out = Output::default();
        let numbers: Vec<u64> = (0..4).map(|_| order.begin(Class::Logged)).collect();
        for (number, text) in [(2, "c"), (0, "a"), (3, "d"), (1, "b")] {
            order.complete(numbers[number], &mut out, |out| out.extend_from_slice(text.as_bytes()));
        }
        assert_eq!(out.bytes(), b"abcd");
        assert_eq!((order.len(), order.logged(), order.side_size()), (0, 0, 0));
    }

    #[test]
    fn replies_that_have_left_are_not_held_though_more_requests_follow() {
        let mut order = ReplyOrder::default();
        let mut out = Output::default();
        let numbers: Vec<u64> = (0..3).map(|_| order.begin(Class::Logged)).collect();
        assert_eq!(order.complete(numbers[1], &mut out, |out| out.extend_from_slice(b"second")), 6);
        assert_eq!(order.side_size(), 6);
        assert_eq!(order.complete(numbers[0], &mut out, |out| out.extend_from_slice(b"first")), 5);
        assert_eq!((order.len(), order.side_size()), (1, 0));
        assert_eq!(order.complete(numbers[1], &mut out, |out| out.push(b'x')), 0);
    }

    #[test]
    fn a_client_hears_of_what_it_wants_to() {
        let mut order = ReplyOrder::default();
        let mut out = Output::default();
        let mut waiting = Vec::new();
        let mut command = |order: &mut ReplyOrder, text: &'static str| {
            waiting.push((order.begin(Class::Read), text));
            order.end_command();
        };
        let say = |order: &mut ReplyOrder, replies| {
            order.hear(replies);
            order.end_command();
        };
        command(&mut order, "a");
        say(&mut order, Replies::Skip);
        command(&mut order, "B");
        command(&mut order, "c");
        say(&mut order, Replies::Skip);
        say(&mut order, Replies::Skip);
        command(&mut order, "D");
        command(&mut order, "e");
        say(&mut order, Replies::Off);
        command(&mut order, "F");
        say(&mut order, Replies::Skip);
        command(&mut order, "G");
        command(&mut order, "H");
        say(&mut order, Replies::On);
        command(&mut order, "i");
        say(&mut order, Replies::Off);
        order.reset();
        command(&mut order, "j");
        say(&mut order, Replies::Skip);
        order.reset();
        command(&mut order, "K");
        command(&mut order, "l");
        for (number, text) in waiting.iter().rev() {
            order.complete(*number, &mut out, |out| out.extend_from_slice(text.as_bytes()));
        }
        assert_eq!(String::from_utf8(out.bytes()).unwrap(), "aceijl");
        assert_eq!((order.len(), order.reads(), order.side_size()), (0, 0, 0));
    }

    #[test]
    fn the_time_to_live_of_a_key_is_read_out_of_a_count() {
        let mut order = ReplyOrder::default();
        let mut out = Output::default();
        let plain = order.begin(Class::Logged);
        order.set_form(Form::TimeToLive);
        let numbers = [(); 3].map(|()| order.begin(Class::Read));
        order.set_form(Form::Plain);
        let last = order.begin(Class::Read);
        for (number, count) in [(numbers[0], 1), (last, 0), (numbers[1], 0), (plain, 1)] {
            order.reply(number, &Reply::Int(count), false, &mut out);
        }
        let error = panch_wire::command::CommandError::Unavailable;
        order.reply(numbers[2], &Reply::Error(error), false, &mut out);
        let text = format!(":1\r\n:-1\r\n:-2\r\n-{}\r\n:0\r\n", error.text());
        assert_eq!(String::from_utf8(out.bytes()).unwrap(), text);
    }

    #[test]
    fn long_replies_that_overtake_others_leave_in_order() {
        let mut order = ReplyOrder::default();
        let mut out = Output::default();
        let numbers: Vec<u64> = (0..6).map(|_| order.begin(Class::Read)).collect();
        let lengths = [5, 100_000, 20_000, 3, 70_000, 1];
        let (mut expected, mut held) = (Vec::new(), 0);
        for (index, length) in lengths.into_iter().enumerate() {
            resp::bulk(&vec![b'a' + index as u8; length], &mut expected);
        }
        for index in [1, 2, 3, 5, 4, 0] {
            let value = vec![b'a' + index as u8; lengths[index]];
            held += order.reply(numbers[index], &Reply::Bytes(&value), false, &mut out);
            assert_eq!(order.side_size() + out.size(), held);
        }
        assert!(out.bytes() == expected);
        assert_eq!((order.side_size(), order.owed(), order.len()), (0, 0, 0));
    }

    #[test]
    fn replies_that_have_left_are_forgotten_though_others_overtake_all_the_time() {
        let mut order = ReplyOrder::default();
        let (mut expected, mut bytes) = (Vec::new(), Vec::new());
        let value = |number: u64| vec![b'a' + (number % 26) as u8; 1000];
        let mut first = order.begin(Class::Read);
        for _ in 0..1000 {
            // The second answer always comes before the first.
            let second = order.begin(Class::Read);
            let mut out = Output::default();
            order.reply(second, &Reply::Bytes(&value(second)), false, &mut out);
            let third = order.begin(Class::Read);
            order.reply(first, &Reply::Bytes(&value(first)), false, &mut out);
            bytes.extend(out.bytes());
            resp::bulk(&value(first), &mut expected);
            resp::bulk(&value(second), &mut expected);
            first = third;
            assert!(order.side.len() <= KEPT_SIZE_MAX + 4000, "{}", order.side.len());
        }
        assert!(bytes == expected);
    }

    #[test]
    fn replies_that_nobody_hears_of_have_their_place_among_those_that_overtook_others() {
        let mut order = ReplyOrder::default();
        let mut out = Output::default();
        let first = order.begin(Class::Read);
        let second = order.begin(Class::Immediate);
        order.complete(second, &mut out, resp::ok);
        let third = order.begin(Class::Read);
        order.hear(Replies::Skip);
        order.end_command();
        let muted = order.begin(Class::Immediate);
        order.complete(muted, &mut out, resp::ok);
        order.complete(first, &mut out, |out| out.extend_from_slice(b"1"));
        assert_eq!((out.bytes().as_slice(), order.len()), (&b"1+OK\r\n"[..], 2));
        order.complete(third, &mut out, |out| out.extend_from_slice(b"3"));
        assert_eq!((out.bytes().as_slice(), order.len()), (&b"1+OK\r\n3"[..], 0));
    }

    #[test]
    fn a_second_reply_to_the_same_request_is_dropped() {
        let mut order = ReplyOrder::default();
        let mut out = Output::default();
        let (first, second) = (order.begin(Class::Read), order.begin(Class::Read));
        order.complete(second, &mut out, |out| out.push(b'2'));
        order.complete(second, &mut out, |out| out.push(b'x'));
        order.complete(first, &mut out, |out| out.push(b'1'));
        order.complete(first, &mut out, |out| out.push(b'x'));
        assert_eq!(out.bytes(), b"12");
        assert_eq!(order.reads(), 0);
    }
}
