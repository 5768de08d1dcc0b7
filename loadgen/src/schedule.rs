//! When requests are due: the open loop's arrivals, and how the load ends.
//!
//! Invariants:
//! * An arrival's time does not depend on the server: it is fixed before anything is sent. Latency counted from it shows
//!   what users would have waited, stalls included (no coordinated omission).
//! * Every arrival before the end is either taken or dropped. Of those that a stop keeps from being drawn, the number is dropped.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use panch_wire::time::{Duration, Instant};
use rand::SeedableRng;
use rand_distr::{Distribution, Exp1};
use rand_xoshiro::Xoshiro256PlusPlus;

/// After so many arrivals that are dropped in a row it is looked whether there is a stop.
const LOOK_EVERY: u32 = 1 << 14;

/// How the arrivals of an open loop are spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Arrivals {
    /// Independent of each other, as those of many users are: a Poisson process.
    #[default]
    Poisson,
    /// Equally spaced.
    Constant,
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Poisson => "poisson",
            Self::Constant => "constant",
        })
    }
}

/// What decides when the next request is sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Load {
    /// A request is sent when the reply to an earlier one has come: as fast as the server answers.
    Closed,
    /// Requests are sent when they are due, whatever the server does.
    Open {
        /// Arrivals per second, over all threads.
        rate: f64,
        /// How they are spread.
        arrivals: Arrivals,
        /// An arrival that could not be sent for so long is dropped, and counted.
        drop_after: Duration,
    },
}

/// The arrivals of one thread.
pub struct Schedule {
    start: Instant,
    end: Instant,
    /// Nanoseconds between arrivals on average.
    interval: f64,
    arrivals: Arrivals,
    random: Xoshiro256PlusPlus,
    /// The next arrival, nanoseconds after `start`.
    next: f64,
}

impl Schedule {
    /// Arrivals at `rate` per second from `start` until before `end`. `phase`, from 0 up to 1, shifts a constant spread, so
    /// that several threads interleave.
    ///
    /// # Panics
    /// If the rate is not a positive number.
    pub fn new(arrivals: Arrivals, rate: f64, phase: f64, start: Instant, end: Instant, seed: u64) -> Self {
        assert!(rate.is_finite() && rate > 0.0, "a rate is positive");
        let mut schedule = Self {
            start,
            end,
            interval: 1e9 / rate,
            arrivals,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            next: 0.0,
        };
        schedule.next = match arrivals {
            Arrivals::Constant => phase * schedule.interval,
            Arrivals::Poisson => schedule.draw(),
        };
        schedule
    }

    fn draw(&mut self) -> f64 {
        let gap: f64 = Exp1.sample(&mut self.random);
        gap * self.interval
    }

    fn at(&self, offset: f64) -> Instant {
        self.start + Duration::from_nanos(offset as u64)
    }

    /// The next arrival; `None` after the last.
    pub fn next_at(&self) -> Option<Instant> {
        let at = self.at(self.next);
        (at < self.end).then_some(at)
    }

    /// Takes the next arrival if it is due: the time from which its latency counts.
    pub fn take_due(&mut self, now: Instant) -> Option<Instant> {
        let at = self.next_at().filter(|at| *at <= now)?;
        self.advance();
        Some(at)
    }

    /// Drops the arrivals before `limit`, and says of each when it was due. A rate that is out of all proportion makes so many that nobody
    /// waits for them after a stop: then the others are not drawn any more. Returns how many those are; of random arrivals, on average.
    #[must_use]
    pub fn drop_before(
        &mut self,
        limit: Instant,
        stop: &AtomicBool,
        mut dropped: impl FnMut(Instant),
    ) -> u64 {
        let mut count = 0u32;
        while let Some(at) = self.next_at().filter(|at| *at < limit) {
            self.advance();
            dropped(at);
            count = count.wrapping_add(1);
            if count.is_multiple_of(LOOK_EVERY) && stop.load(Ordering::Relaxed) {
                return self.skip_to(limit.min(self.end));
            }
        }
        0
    }

    /// Leaves out the arrivals before `limit`. Returns how many those are.
    fn skip_to(&mut self, limit: Instant) -> u64 {
        let limit = limit.since(self.start).as_nanos() as f64;
        let count = ((limit - self.next) / self.interval).ceil().max(0.0);
        // What is rounded must not leave one of them to come.
        self.next = (self.next + count * self.interval).max(limit);
        count as u64
    }

    fn advance(&mut self) {
        self.next += match self.arrivals {
            Arrivals::Constant => self.interval,
            Arrivals::Poisson => self.draw(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(5_000_000_000);
    const SECOND: u64 = 1_000_000_000;

    fn schedule(arrivals: Arrivals, rate: f64, phase: f64, seconds: u64) -> Schedule {
        Schedule::new(arrivals, rate, phase, START, Instant(START.0 + seconds * SECOND), 7)
    }

    fn all(mut schedule: Schedule) -> Vec<Instant> {
        std::iter::from_fn(|| schedule.take_due(Instant(u64::MAX))).collect()
    }

    #[test]
    fn constant_arrivals_keep_their_distance_and_threads_interleave() {
        let first = all(schedule(Arrivals::Constant, 1000.0, 0.0, 1));
        let second = all(schedule(Arrivals::Constant, 1000.0, 0.5, 1));
        assert_eq!((first.len(), second.len()), (1000, 1000));
        for (index, (a, b)) in first.iter().zip(&second).enumerate() {
            assert_eq!(a.0, START.0 + index as u64 * 1_000_000);
            assert_eq!(b.0, a.0 + 500_000);
        }
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_independent_users() {
        let times = all(schedule(Arrivals::Poisson, 10_000.0, 0.0, 20));
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1].0 - pair[0].0) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 100_000.0 - 1.0).abs() < 0.02, "mean gap {mean} ns");
        // The standard deviation of an exponential distribution is its mean; that of equal gaps is zero.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "deviation {}", variance.sqrt());
    }

    #[test]
    fn a_late_caller_gets_the_times_at_which_requests_were_due() {
        let mut late = schedule(Arrivals::Poisson, 1000.0, 0.0, 2);
        let on_time = all(schedule(Arrivals::Poisson, 1000.0, 0.0, 2));
        assert_eq!(late.take_due(Instant(on_time[0].0 - 1)), None);
        let stalled_until = Instant(START.0 + SECOND);
        let taken: Vec<_> = std::iter::from_fn(|| late.take_due(stalled_until)).collect();
        assert_eq!(taken, on_time.iter().copied().filter(|at| *at <= stalled_until).collect::<Vec<_>>());
        assert!(taken.len() > 800);
    }

    #[test]
    fn every_arrival_is_taken_or_dropped() {
        let mut schedule = schedule(Arrivals::Constant, 1000.0, 0.0, 1);
        let mut taken = 0;
        while schedule.take_due(Instant(START.0 + SECOND / 4)).is_some() {
            taken += 1;
        }
        let (mut dropped, on) = (Vec::new(), AtomicBool::new(false));
        let rest = schedule.drop_before(Instant(START.0 + SECOND / 2), &on, |at| dropped.push(at));
        assert_eq!((dropped.len(), rest), (249, 0));
        assert!(dropped.is_sorted() && dropped[248] == Instant(START.0 + SECOND / 2 - SECOND / 1000));
        assert_eq!(schedule.take_due(Instant(u64::MAX)), Some(Instant(START.0 + SECOND / 2)));
        let rest = schedule.drop_before(Instant(u64::MAX), &on, |at| dropped.push(at));
        assert_eq!((taken + 1 + dropped.len(), rest), (1000, 0));
        assert_eq!(schedule.next_at(), None);
    }

    #[test]
    fn after_a_stop_arrivals_are_counted_and_not_drawn() {
        // Drawn one by one, these would take hours.
        let seconds = 100_000;
        let stop = AtomicBool::new(false);
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let mut schedule = schedule(arrivals, 1e9, 0.0, seconds);
            let mut drawn = 0u64;
            stop.store(false, Ordering::Relaxed);
            let half = Instant(START.0 + seconds * SECOND / 2);
            let rest = schedule.drop_before(half, &stop, |_| {
                drawn += 1;
                // It comes while arrivals are drawn, not before.
                stop.store(drawn > 50_000, Ordering::Relaxed);
            });
            let expected = seconds * SECOND / 2;
            assert!((50_001..50_001 + u64::from(LOOK_EVERY)).contains(&drawn), "{drawn}");
            assert!((drawn + rest).abs_diff(expected) < 10_000, "{arrivals}: {drawn} + {rest}");
            assert!(schedule.next_at().unwrap() >= half);
            let mut more = 0;
            let rest = schedule.drop_before(Instant(u64::MAX), &stop, |_| more += 1);
            assert_eq!(more, LOOK_EVERY);
            assert!((u64::from(more) + rest).abs_diff(expected) < 10_000, "{arrivals}: {more} + {rest}");
            assert_eq!(schedule.next_at(), None);
        }
    }

    #[test]
    fn few_arrivals_are_dropped_one_by_one_though_there_is_a_stop() {
        let mut dropped = 0;
        let mut schedule = schedule(Arrivals::Poisson, 1000.0, 0.0, 2);
        let rest = schedule.drop_before(Instant(u64::MAX), &AtomicBool::new(true), |_| dropped += 1);
        assert_eq!((dropped, rest), (all(self::schedule(Arrivals::Poisson, 1000.0, 0.0, 2)).len(), 0));
    }
}
