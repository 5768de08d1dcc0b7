//! Which part of a request's delay is the generator's own.
//!
//! A request that is due waits because no lane has room, which is the server's doing, or although one has, which is the generator's: its
//! thread did not run, or did something else. Only the second says that the generator was the limit.
//!
//! Invariants:
//! * The stretches in which some lane had room are apart, and in their order.
//! * A stretch is remembered as long as a request that was due before its end may still be asked for.

use std::collections::VecDeque;
use std::ops::Range;

use panch_wire::time::{Duration, Instant};

/// Shorter stretches are forgotten as soon as no lane has room any more: whoever waits for a slow server has one with each answer.
const STRETCH_MIN: Duration = Duration::from_micros(100);
/// The most stretches that are remembered. Where there are more, the generator has lost so much time that nobody misses the oldest.
const STRETCHES_MAX: usize = 4096;

/// When some lane had room.
pub(super) struct OwnTime {
    /// Whether some lane has room now.
    has_room: bool,
    /// Since when that is so.
    since: Instant,
    /// Earlier stretches in which some lane had room.
    earlier: VecDeque<Range<Instant>>,
    /// The length of all of them together, in nanoseconds.
    earlier_sum: u64,
}

impl OwnTime {
    /// Lanes have room from `start` on.
    pub(super) fn new(start: Instant) -> Self {
        Self { has_room: true, since: start, earlier: VecDeque::with_capacity(STRETCHES_MAX), earlier_sum: 0 }
    }

    /// Some lane has room, since `at` if none had before.
    pub(super) fn open(&mut self, at: Instant) {
        if !self.has_room {
            self.has_room = true;
            self.since = self.since.max(at);
        }
    }

    /// No lane has room, since `at` if one had before.
    pub(super) fn close(&mut self, at: Instant) {
        if !self.has_room {
            return;
        }
        let stretch = self.since..at.max(self.since);
        let length = stretch.end.since(stretch.start);
        self.has_room = false;
        self.since = stretch.end;
        if length >= STRETCH_MIN {
            if self.earlier.len() == STRETCHES_MAX {
                self.forget_first();
            }
            self.earlier_sum += length.as_nanos() as u64;
            self.earlier.push_back(stretch);
        }
    }

    /// How much of the time from `due` to `now` some lane had room. Requests are asked for in the order in which they are due.
    pub(super) fn between(&mut self, due: Instant, now: Instant) -> Duration {
        while self.earlier.front().is_some_and(|stretch| stretch.end <= due) {
            self.forget_first();
        }
        let before_due = self.earlier.front().map_or(0, |first| due.0.saturating_sub(first.start.0));
        let present = if self.has_room { now.0.saturating_sub(self.since.max(due).0) } else { 0 };
        Duration::from_nanos(self.earlier_sum - before_due + present)
    }

    fn forget_first(&mut self) {
        if let Some(first) = self.earlier.pop_front() {
            self.earlier_sum -= first.end.since(first.start).as_nanos() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Instant {
        Instant(ms * MS)
    }

    fn between(own: &mut OwnTime, due: u64, now: u64) -> u64 {
        own.between(at(due), at(now)).as_nanos() as u64 / MS
    }

    #[test]
    fn while_there_is_room_every_delay_is_the_generators() {
        let mut own = OwnTime::new(at(0));
        own.open(at(5));
        assert_eq!((between(&mut own, 10, 10), between(&mut own, 10, 400)), (0, 390));
    }

    #[test]
    fn a_stall_of_the_server_is_not_the_generators_however_long_the_backlog_lasts() {
        let mut own = OwnTime::new(at(0));
        own.close(at(100));
        assert_eq!(between(&mut own, 101, 300), 0);
        // From 500 ms on there is room for a moment, again and again.
        for ms in 500..600 {
            own.open(at(ms));
            assert_eq!(between(&mut own, 101 + ms - 500, ms), 0);
            own.close(at(ms) + Duration::from_micros(20));
        }
        assert!(own.earlier.is_empty());
    }

    #[test]
    fn a_stall_of_the_generator_is_its_own_for_all_that_was_due_meanwhile() {
        let mut own = OwnTime::new(at(0));
        // The thread stood still from 100 to 500 ms, and then gave the lanes what they could take.
        assert_eq!(between(&mut own, 100, 500), 400);
        own.close(at(500));
        // The rest waits for answers besides, and that is the server's.
        own.open(at(510));
        assert_eq!((between(&mut own, 101, 510), between(&mut own, 300, 510)), (399, 200));
        own.close(at(510));
        assert_eq!(between(&mut own, 450, 700), 50);
        // What is due later has nothing to do with it.
        assert_eq!((between(&mut own, 500, 700), own.earlier_sum), (0, 0));
    }

    #[test]
    fn stretches_of_one_backlog_add_up() {
        let mut own = OwnTime::new(at(0));
        for (from, to) in [(20, 30), (50, 55)] {
            own.close(at(from - 10));
            own.open(at(from));
            own.close(at(to));
        }
        own.open(at(90));
        assert_eq!((between(&mut own, 12, 100), between(&mut own, 25, 100)), (25, 20));
        assert_eq!((between(&mut own, 52, 100), between(&mut own, 95, 100)), (13, 5));
    }

    #[test]
    fn a_lane_has_no_room_before_it_lost_it() {
        let mut own = OwnTime::new(at(0));
        own.close(at(100));
        own.open(at(90));
        assert_eq!(between(&mut own, 10, 110), 100);
        assert_eq!(between(&mut own, 80, 110), 30);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut own = OwnTime::new(at(0));
        let count = STRETCHES_MAX as u64 + 10;
        for number in 0..count {
            own.open(at(10 * number));
            own.close(at(10 * number + 1));
        }
        assert_eq!(own.earlier.len(), STRETCHES_MAX);
        assert_eq!(between(&mut own, 0, 10 * count), STRETCHES_MAX as u64);
    }
}
