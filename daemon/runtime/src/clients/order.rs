//! Replies of one connection in the order of its requests (RESP has no request numbers).
//!
//! Invariants:
//! * `head` is the number of the oldest request without a reply in the output; numbers are consecutive.
//! * A reply to the head goes straight into the output; a reply that overtook it waits in `side`.
//! * Requests keep their effect order too: see [`Class`].
//! * A request that the client does not want to hear of (CLIENT REPLY) has its place as any other, and an empty reply.

use std::collections::VecDeque;

use panch_wire::command::Reply;
use panch_wire::resp::{self, Replies};

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
}

impl Form {
    fn write(self, reply: &Reply<'_>, resp3: bool, out: &mut Vec<u8>) {
        match (self, reply) {
            (Self::TimeToLive, Reply::Int(count)) => resp::integer(if *count > 0 { -1 } else { -2 }, out),
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
}

struct Request {
    class: Class,
    form: Form,
    muted: bool,
    state: State,
}

/// The unanswered requests of one connection.
#[derive(Default)]
pub(crate) struct ReplyOrder {
    head: u64,
    requests: VecDeque<Request>,
    side: Vec<u8>,
    /// Replies in `side`.
    ready: usize,
    logged: usize,
    reads: usize,
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

    /// Gives the next request its number.
    pub(crate) fn begin(&mut self, class: Class) -> u64 {
        match class {
            Class::Logged => self.logged += 1,
            Class::Read => self.reads += 1,
            Class::Immediate => {}
        }
        let muted = matches!(self.hearing, Hearing::Skip | Hearing::Nothing);
        self.requests.push_back(Request { class, form: self.form, muted, state: State::Waiting });
        self.head + self.requests.len() as u64 - 1
    }

    /// Takes the latest number back: the request was not accepted.
    pub(crate) fn cancel_last(&mut self) {
        if let Some(request) = self.requests.pop_back() {
            self.settle(request.class);
        }
    }

    fn settle(&mut self, class: Class) {
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
    pub(crate) fn reply(&mut self, number: u64, reply: &Reply<'_>, resp3: bool, out: &mut Vec<u8>) -> usize {
        let index = number.checked_sub(self.head).and_then(|index| usize::try_from(index).ok());
        let request = index.and_then(|index| self.requests.get(index));
        let form = request.map_or(Form::Plain, |request| request.form);
        self.complete(number, out, |out| form.write(reply, resp3, out))
    }

    /// Writes the reply of request `number` with `encode`, into `out` as soon as its turn has come. Returns the reply's size
    /// in bytes; 0 if nobody waits for it.
    pub(crate) fn complete(
        &mut self,
        number: u64,
        out: &mut Vec<u8>,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        let Some(index) = number.checked_sub(self.head) else { return 0 };
        let Some(request) = self.requests.get_mut(index as usize) else { return 0 };
        if !matches!(request.state, State::Waiting) {
            return 0;
        }
        let class = request.class;
        let muted = request.muted;
        let encode = |out: &mut Vec<u8>| {
            if !muted {
                encode(out);
            }
        };
        if index > 0 {
            let start = self.side.len();
            encode(&mut self.side);
            let end = self.side.len();
            request.state = State::Ready { start, end };
            self.ready += 1;
            self.settle(class);
            return end - start;
        }
        let start = out.len();
        encode(out);
        let size = out.len() - start;
        self.settle(class);
        self.requests.pop_front();
        self.head += 1;
        while let Some(Request { state: State::Ready { start, end }, .. }) = self.requests.front() {
            out.extend_from_slice(&self.side[*start..*end]);
            self.requests.pop_front();
            self.head += 1;
            self.ready -= 1;
        }
        if self.ready == 0 {
            self.side.clear();
        }
        size
    }

    /// Bytes of replies that overtook the head.
    pub(crate) fn side_size(&self) -> usize {
        self.side.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_leave_in_the_order_of_requests() {
        let mut order = ReplyOrder::default();
        let mut out = Vec::new();
        let numbers: Vec<u64> = (0..4).map(|_| order.begin(Class::Logged)).collect();
        for (number, text) in [(2, "c"), (0, "a"), (3, "d"), (1, "b")] {
            order.complete(numbers[number], &mut out, |out| out.extend_from_slice(text.as_bytes()));
        }
        assert_eq!(out, b"abcd");
        assert_eq!((order.len(), order.logged(), order.side_size()), (0, 0, 0));
    }

    #[test]
    fn replies_that_have_left_are_not_held_though_more_requests_follow() {
        let mut order = ReplyOrder::default();
        let mut out = Vec::new();
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
        let mut out = Vec::new();
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
        assert_eq!(String::from_utf8(out).unwrap(), "aceijl");
        assert_eq!((order.len(), order.reads(), order.side_size()), (0, 0, 0));
    }

    #[test]
    fn the_time_to_live_of_a_key_is_read_out_of_a_count() {
        let mut order = ReplyOrder::default();
        let mut out = Vec::new();
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
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    #[test]
    fn a_second_reply_to_the_same_request_is_dropped() {
        let mut order = ReplyOrder::default();
        let mut out = Vec::new();
        let (first, second) = (order.begin(Class::Read), order.begin(Class::Read));
        order.complete(second, &mut out, |out| out.push(b'2'));
        order.complete(second, &mut out, |out| out.push(b'x'));
        order.complete(first, &mut out, |out| out.push(b'1'));
        order.complete(first, &mut out, |out| out.push(b'x'));
        assert_eq!(out, b"12");
        assert_eq!(order.reads(), 0);
    }
}
