//! A replica's clock: monotonic, at its own rate, and now and then it jumps ahead.

use panch_wire::time::Instant;

const TRUE_RATE: u64 = 1_000_000;

/// Runs at `rate` millionths of true time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// When the present rate began.
    since: Instant,
    /// What the clock showed then.
    shown: Instant,
    rate: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { since: Instant(0), shown: Instant(0), rate: TRUE_RATE }
    }
}

impl Clock {
    /// What it shows.
    pub(super) fn at(&self, now: Instant) -> Instant {
        Instant(self.shown.0 + scale(now.0 - self.since.0, self.rate, TRUE_RATE))
    }

    /// The first moment at which it shows `instant` or more.
    pub(super) fn when(&self, instant: Instant) -> Instant {
        let ahead = instant.0.saturating_sub(self.shown.0);
        let rounding = u64::from(self.rate != TRUE_RATE);
        Instant(self.since.0.saturating_add(scale(ahead, TRUE_RATE, self.rate)).saturating_add(rounding))
    }

    pub(super) fn set_rate(&mut self, now: Instant, rate: u64) {
        *self = Self { since: now, shown: self.at(now), rate: rate.max(1) };
    }

    pub(super) fn jump(&mut self, by: u64) {
        self.shown.0 += by;
    }
}

fn scale(value: u64, by: u64, over: u64) -> u64 {
    if by == over {
        return value;
    }
    u64::try_from(u128::from(value) * u128::from(by) / u128::from(over)).unwrap_or(u64::MAX)
}
