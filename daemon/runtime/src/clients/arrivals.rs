//! When the bytes of a connection arrived that are not consumed yet.
//!
//! A request has arrived with its last byte. Its time runs from there, however long it waits before it is looked at.

use std::collections::VecDeque;

use panch_wire::time::{Duration, Instant};

/// Bytes that arrive within this time of each other count as one piece, which arrived with the first of them.
const GRAIN: Duration = Duration::from_millis(10);

struct Piece {
    /// Bytes of the connection up to its end.
    end: u64,
    arrived: Instant,
}

/// The pieces in which unconsumed bytes arrived. No more of them than the time that a request may wait has grains, and than there are
/// bytes.
#[derive(Default)]
pub(crate) struct Arrivals {
    received: u64,
    consumed: u64,
    pieces: VecDeque<Piece>,
}

impl Arrivals {
    /// So many bytes have arrived.
    pub(crate) fn received(&mut self, now: Instant, size: usize) {
        self.received += size as u64;
        match self.pieces.back_mut() {
            Some(piece) if now.since(piece.arrived) < GRAIN => piece.end = self.received,
            _ => self.pieces.push_back(Piece { end: self.received, arrived: now }),
        }
    }

    /// So many bytes are consumed.
    pub(crate) fn consumed(&mut self, size: usize) {
        self.consumed += size as u64;
        while self.pieces.front().is_some_and(|piece| piece.end <= self.consumed) {
            self.pieces.pop_front();
        }
    }

    /// When the request arrived that ends `end` bytes behind what is consumed. To be asked for requests in their order.
    pub(crate) fn of(&mut self, end: usize) -> Option<Instant> {
        let end = self.consumed + end as u64;
        while self.pieces.front().is_some_and(|piece| piece.end < end) {
            self.pieces.pop_front();
        }
        self.pieces.front().map(|piece| piece.arrived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant(1) + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_request_has_arrived_with_its_last_byte() {
        let mut arrivals = Arrivals::default();
        arrivals.received(at(0), 100);
        arrivals.received(at(1000), 50);
        assert_eq!((arrivals.of(40), arrivals.of(100)), (Some(at(0)), Some(at(0))));
        assert_eq!(arrivals.of(101), Some(at(1000)), "one that came in two parts");
        assert_eq!(arrivals.of(101), Some(at(1000)), "and was not consumed");
        arrivals.consumed(100);
        arrivals.received(at(2000), 7);
        assert_eq!((arrivals.of(50), arrivals.of(51)), (Some(at(1000)), Some(at(2000))));
        arrivals.consumed(57);
        assert_eq!(arrivals.of(1), None);
    }

    #[test]
    fn one_that_sends_byte_by_byte_takes_little_memory() {
        let mut arrivals = Arrivals::default();
        for number in 0..10_000 {
            arrivals.received(Instant(1) + Duration::from_micros(100) * number, 1);
        }
        assert!(arrivals.pieces.len() <= 101, "{}", arrivals.pieces.len());
        assert_eq!(arrivals.of(5000).map(|arrived| arrived.since(at(490)) < GRAIN), Some(true));
    }
}
