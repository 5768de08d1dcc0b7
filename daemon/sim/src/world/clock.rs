//! A node's clock: monotonic, but at its own rate, from its own beginning, and now and then it jumps ahead.

use panch_wire::time::Instant;

use crate::queue::Time;

/// Runs at `rate` millionths of true time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// When the present rate began.
    since: Time,
    /// What the clock showed then.
    base: u64,
    rate: u64,
}

const TRUE_RATE: u64 = 1_000_000;

impl Clock {
    pub(crate) fn new(base: u64) -> Self {
        Self { since: 0, base, rate: TRUE_RATE }
    }

    /// What it shows.
    pub(crate) fn at(&self, now: Time) -> Instant {
        Instant(self.base + scale(now - self.since, self.rate, TRUE_RATE))
    }

    /// When it will show `instant`; the present if it does already.
    pub(crate) fn when(&self, now: Time, instant: Instant) -> Time {
        let ahead = instant.0.saturating_sub(self.at(now).0);
        now.saturating_add(scale(ahead, TRUE_RATE, self.rate).saturating_add(1))
    }

    pub(crate) fn set_rate(&mut self, now: Time, rate: u64) {
        *self = Self { since: now, base: self.at(now).0, rate: rate.max(1000) };
    }

    pub(crate) fn jump(&mut self, by: u64) {
        self.base += by;
    }

    pub(crate) fn heal(&mut self, now: Time) {
        self.set_rate(now, TRUE_RATE);
    }
}

fn scale(value: u64, by: u64, over: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(by) / u128::from(over)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_jumps_never_turn_it_back() {
        let mut clock = Clock::new(500);
        assert_eq!(clock.at(100), Instant(600));
        clock.set_rate(100, 2_000_000);
        assert_eq!(clock.at(150), Instant(700));
        assert!(
            clock.when(150, Instant(800)) >= 200 && clock.at(clock.when(150, Instant(800))) >= Instant(800)
        );
        clock.jump(1000);
        assert_eq!(clock.at(150), Instant(1700));
        clock.heal(150);
        assert_eq!(clock.at(151), Instant(1701));
        assert!(clock.when(151, Instant(3)) <= 152);
    }
}
