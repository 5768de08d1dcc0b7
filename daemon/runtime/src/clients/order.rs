//! Replies of one connection in the order of its requests (RESP has no request numbers).
//!
//! Invariants:
//! * `head` is the number of the oldest request without a reply in the output; numbers are consecutive.
//! * A reply to the head goes straight into the output; a reply that overtook it waits in `side`.
//! * Requests keep their effect order too: see [`Class`].

use std::collections::VecDeque;

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
}

impl ReplyOrder {
    /// Gives the next request its number.
    pub(crate) fn begin(&mut self, class: Class) -> u64 {
        match class {
            Class::Logged => self.logged += 1,
            Class::Read => self.reads += 1,
            Class::Immediate => {}
        }
        self.requests.push_back(Request { class, state: State::Waiting });
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

    /// Unanswered requests.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
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
