//! How soon a peer is dialled again.
//!
//! Invariant: one that is dialled again and again without a stream that lasts is dialled once in [`PAUSE_MAX`] in the end, whatever it answers.

use panch_wire::time::{Duration, Instant};

/// The first pause, and the shortest but for [`Pace::hurry`].
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause. A stream that was there for so long was worth its opening.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The pauses of one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    next: Duration,
    /// Not a pause this time.
    at_once: bool,
    /// It was dialled again without a pause, since a stream lasted.
    hurried: bool,
    /// Since when there is a stream.
    up: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { next: PAUSE_MIN, at_once: false, hurried: false, up: None }
    }
}

impl Pace {
    /// There is a stream.
    pub(crate) fn up(&mut self, now: Instant) {
        self.up = Some(now);
    }

    /// Nothing was wrong: the other side had to say first what it wants to be shown. It is dialled again without a pause, but once: one
    /// that asks for something else each time is dialled as any other that refuses.
    pub(crate) fn hurry(&mut self) {
        self.at_once = !std::mem::replace(&mut self.hurried, true);
    }

    /// The stream is gone, or was not opened: how long to wait.
    pub(crate) fn pause(&mut self, now: Instant) -> Duration {
        if self.up.take().is_some_and(|since| now.since(since) >= PAUSE_MAX) {
            *self = Self::default();
        }
        if std::mem::take(&mut self.at_once) {
            return Duration::from_millis(0);
        }
        let pause = self.next;
        self.next = (self.next * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        pause
    }

    /// Whether it has failed for a while.
    pub(crate) fn is_slow(&self) -> bool {
        self.next >= PAUSE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a peer is dialled in ten seconds, if this is what becomes of it each time, at once.
    fn dials(mut become_of: impl FnMut(&mut Pace, &mut Instant)) -> u32 {
        let (mut pace, mut now, mut count) = (Pace::default(), Instant(1), 0);
        while now < Instant(1) + Duration::from_secs(10) && count < 10_000 {
            count += 1;
            become_of(&mut pace, &mut now);
            now = now + pace.pause(now);
        }
        count
    }

    #[test]
    fn pauses_grow_whatever_the_peer_answers() {
        assert_eq!(dials(|_, _| ()), 15);
        assert_eq!(dials(|pace, _| pace.hurry()), 16, "it asks for something else each time");
        assert_eq!(dials(|pace, now| pace.up(*now)), 15, "it takes the stream and ends it");
        let both = |pace: &mut Pace, now: &mut Instant| {
            pace.hurry();
            pace.up(*now);
        };
        assert_eq!(dials(both), 16);
    }

    #[test]
    fn after_a_stream_that_lasted_the_first_pause_is_short() {
        let mut pace = Pace::default();
        let mut now = Instant(1);
        while !pace.is_slow() {
            now = now + pace.pause(now);
        }
        pace.hurry();
        pace.up(now);
        now = now + PAUSE_MAX;
        assert_eq!(pace.pause(now), PAUSE_MIN);
        pace.hurry();
        assert_eq!(pace.pause(now), Duration::from_millis(0), "it may ask once more");
        assert!(!pace.is_slow());
    }
}
