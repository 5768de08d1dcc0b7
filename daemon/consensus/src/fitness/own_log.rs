//! How long the own log takes to make a record durable.
//!
//! Asked now and then, in a turn that wrote something: what a replica tells itself through the gate comes back once
//! everything written so far is durable. So a log that hangs shows in a question that is not answered, and an idle one is
//! not asked.

use panch_wire::time::{Duration, Instant};

use crate::protocol::{Persist, Tuning};

/// The part of an answer that counts in the average.
const WEIGHT: u32 = 8;
/// An answer counts as no more than so many times the average, or than [`SLOW_MIN`]: every disk stalls now and then, and one that
/// has become slow shows in a few answers all the same.
const OUTLIER: u32 = 4;
/// Below this no disk is slow: other things take as long.
pub(crate) const SLOW_MIN: Duration = Duration::from_millis(2);

/// What is known of the own log.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct OwnLog {
    /// What was written by the end of the last turn.
    written: Persist,
    /// The question that is not answered yet: what must be durable, and since when it is waited for.
    asked: Option<(Persist, Instant)>,
    /// No other question before this.
    next_at: Instant,
    /// What records lately took, on average.
    average: Duration,
}

impl OwnLog {
    /// At the end of a turn, with everything written up to `last`: whether to ask the log when that is durable.
    pub(crate) fn asks(&mut self, last: Persist, now: Instant, tuning: &Tuning) -> bool {
        let wrote = last != self.written;
        self.written = last;
        if !wrote || self.asked.is_some() || now < self.next_at {
            return false;
        }
        self.asked = Some((last, now));
        self.next_at = now + tuning.heartbeat_interval / 4;
        true
    }

    /// The log is durable up to `point`.
    pub(crate) fn on_durable(&mut self, point: Persist, now: Instant) {
        if let Some((_, since)) = self.asked.take_if(|(asked, _)| *asked <= point) {
            let time = now.since(since).min(SLOW_MIN.max(OUTLIER * self.average));
            self.average = (self.average * (WEIGHT - 1) + time) / WEIGHT;
        }
    }

    /// What was asked is never answered: while a replica is mute, it tells itself nothing.
    pub(crate) fn forget_question(&mut self) {
        self.asked = None;
    }

    /// How long the oldest question has waited.
    fn age(&self, now: Instant) -> Duration {
        self.asked.map_or(Duration::ZERO, |(_, since)| now.since(since))
    }

    /// How long a record takes: on average lately, or the one that waits now if that is longer.
    pub(crate) fn time(&self, now: Instant) -> Duration {
        self.average.max(self.age(now))
    }

    /// Whether the log has stood still for so long that nothing should depend on it.
    pub(crate) fn is_hung(&self, now: Instant, tuning: &Tuning) -> bool {
        self.age(now) >= hung_after(tuning)
    }

    /// Whether the log has stood still for as long as several elections take.
    pub(crate) fn is_dead(&self, now: Instant, tuning: &Tuning) -> bool {
        self.age(now) >= 2 * tuning.election_timeout
    }
}

/// A log that takes this long for one record hangs: half of an election, so that there is time left to hand over.
pub(crate) fn hung_after(tuning: &Tuning) -> Duration {
    tuning.election_timeout / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn only_what_was_written_is_asked_about_and_one_question_at_a_time() {
        let tuning = Tuning::default();
        let mut log = OwnLog::default();
        let start = Instant(1);
        assert!(!log.asks(Persist(0), start, &tuning), "nothing was written");
        assert!(log.asks(Persist(1), start, &tuning));
        assert!(!log.asks(Persist(2), start + ms(200), &tuning), "the first question is not answered");
        log.on_durable(Persist(0), start + ms(200));
        assert_eq!(log.time(start + ms(200)), ms(200), "what was asked about is not durable");
        assert!(!log.is_hung(start + ms(249), &tuning) && log.is_hung(start + ms(250), &tuning));
        log.on_durable(Persist(2), start + ms(400));
        assert_eq!(log.time(start + ms(500)), SLOW_MIN / WEIGHT, "one stall makes no slow disk");
        assert!(!log.asks(Persist(2), start + ms(500), &tuning), "what was written before tells nothing");
        assert!(log.asks(Persist(3), start + ms(500), &tuning));
    }

    #[test]
    fn a_disk_that_has_become_slow_shows_in_a_few_answers() {
        let tuning = Tuning::default();
        let mut log = OwnLog::default();
        let mut now = Instant(1);
        for point in 1..=15 {
            assert!(log.asks(Persist(point), now, &tuning));
            log.on_durable(Persist(point), now + ms(20));
            now = now + ms(25);
        }
        assert!(log.time(now) >= ms(10), "{:?}", log.time(now));
    }
}
