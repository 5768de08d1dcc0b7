//! How many bytes of a snapshot may be on their way to a peer: what its link carries in a round trip, as measured.
//!
//! In rounds of at least one round trip each: the rate at which bytes were acknowledged, times the shortest time that a chunk
//! took, times one and a half, and one small chunk more, is the window of the next. While the rate grows, it is twice that. So a
//! link is used up, and what shares it, votes and heartbeats above all, waits about half a round trip more, at the beginning one and
//! a half, and not seconds.

use panch_wire::time::{Duration, Instant};

/// Bytes on their way to a peer at first, and at least: a link of 100 kB/s carries them before a heartbeat is missed.
pub(crate) const SIZE_MIN: u64 = 16 << 10;
/// What is added to the shortest time, because disks and turns take their time.
const SLACK: Duration = Duration::from_millis(5);
/// The shortest time is measured anew this often, with little on the way: the route may have become a longer one.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// The time of a round trip before the first was measured.
const ROUND_TRIP_FIRST: Duration = Duration::from_millis(250);
/// What was sent counts as lost after this long without a word, or after four round trips; twice as long after each loss in a row.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// So often at most that time doubles.
const DOUBLINGS_MAX: u32 = 2;

/// Bytes from `from` to `end`, since the former were acknowledged.
#[derive(Clone, Copy, Debug)]
struct Round {
    from: u64,
    since: Instant,
    end: u64,
}

/// The window of one transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    size: u64,
    shortest: Option<Duration>,
    /// When the shortest time was last seen.
    measured: Instant,
    /// The end of the chunk whose time is taken, and since when.
    timed: Option<(u64, Instant)>,
    round: Round,
    /// Bytes per second of the last round.
    rate: u64,
    /// Losses in a row.
    losses: u32,
}

impl Window {
    pub(crate) fn new(now: Instant) -> Self {
        let round = Round { from: 0, since: now, end: 0 };
        Self { size: SIZE_MIN, shortest: None, measured: now, timed: None, round, rate: 0, losses: 0 }
    }

    /// Bytes that may be on their way.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// It is not to grow beyond `max` bytes.
    pub(crate) fn limit(&mut self, max: u64) {
        self.size = self.size.min(max.max(SIZE_MIN));
    }

    /// A chunk that ends at `end`, and was not sent before, is on its way.
    pub(crate) fn sent(&mut self, now: Instant, end: u64) {
        self.timed.get_or_insert((end, now));
    }

    /// Everything below `offset` has arrived, and that is news; everything below `sent` was sent.
    pub(crate) fn acked(&mut self, now: Instant, offset: u64, sent: u64) {
        self.losses = 0;
        if let Some((_, since)) = self.timed.take_if(|(end, _)| *end <= offset) {
            let time = now.since(since);
            if self.shortest.is_none_or(|shortest| time <= shortest) {
                (self.shortest, self.measured) = (Some(time), now);
            }
        }
        // Acknowledgements of what was sent at once come in at once: over less than a round trip they say nothing.
        let is_short = self.shortest.is_some_and(|shortest| now.since(self.round.since) < shortest);
        if offset < self.round.end || is_short {
            return;
        }
        let begun = std::mem::replace(&mut self.round, Round { from: offset, since: now, end: sent });
        if now.since(self.measured) >= MEASURE_EVERY {
            (self.shortest, self.timed, self.measured) = (None, None, now);
            self.size = (self.size / 4).max(SIZE_MIN);
            return;
        }
        let Some(shortest) = self.shortest else { return };
        let time = now.since(begun.since).as_nanos().max(1);
        let rate = (u128::from(offset - begun.from) * 1_000_000_000 / time) as u64;
        let quarters = if rate > self.rate + self.rate / 4 { 8 } else { 6 };
        self.rate = rate;
        let carried = u128::from(rate) * (shortest + SLACK).as_nanos() / 1_000_000_000;
        self.size = (carried * quarters / 4) as u64 + SIZE_MIN;
    }

    /// Something on the way was lost, or found no memory.
    pub(crate) fn lost(&mut self) {
        self.size = (self.size / 2).max(SIZE_MIN);
        self.timed = None;
        self.losses += 1;
    }

    /// After this long without a word, what is on its way counts as lost.
    pub(crate) fn lost_after(&self) -> Duration {
        let usual = LOST_AFTER.max(self.shortest.unwrap_or(ROUND_TRIP_FIRST) * 4);
        usual * (1 << self.losses.min(DOUBLINGS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A link on which a snapshot is sent.
    struct Link {
        bandwidth: u64,
        round_trip: Duration,
        now: Instant,
        free: Instant,
        /// The longest time that a byte waited behind others.
        waited: Duration,
    }

    fn link(bandwidth: u64, round_trip: Duration) -> Link {
        let now = Instant(1_000_000_000);
        Link { bandwidth, round_trip, now, free: now, waited: Duration::default() }
    }

    impl Link {
        /// Sends so many bytes more, with at most `max` on the way; how long that took.
        fn send(&mut self, window: &mut Window, from: u64, size: u64, max: u64) -> Duration {
            let (begin, end) = (self.now, from + size);
            let (mut sent, mut acked) = (from, from);
            let mut acks = VecDeque::new();
            self.waited = Duration::default();
            while acked < end {
                window.limit(max);
                while sent < end {
                    let length = (end - sent).min((window.size() / 2).clamp(16 << 10, 64 << 10));
                    if sent + length > acked + window.size() {
                        break;
                    }
                    sent += length;
                    window.sent(self.now, sent);
                    self.waited = self.waited.max(self.free.since(self.now));
                    let time = Duration::from_nanos(length * 1_000_000_000 / self.bandwidth);
                    self.free = self.free.max(self.now) + time;
                    acks.push_back((self.free + self.round_trip, sent));
                }
                (self.now, acked) = acks.pop_front().unwrap();
                window.acked(self.now, acked, sent);
            }
            self.now.since(begin)
        }
    }

    const FAR: Duration = Duration::from_millis(100);

    #[test]
    fn the_window_follows_bandwidth_and_delay() {
        // 64 MiB at 50 MB/s take 1.34 s; four chunks of 64 KiB per round trip would take 26 s.
        let mut wide = link(50_000_000, FAR);
        let time = wide.send(&mut Window::new(wide.now), 0, 64 << 20, 16 << 20);
        assert!(time < Duration::from_millis(2700), "{time:?}");
        // What shares a slower link waits a round trip and a half more at most.
        let mut slow = link(4_000_000, FAR);
        let mut window = Window::new(slow.now);
        let first = slow.send(&mut window, 0, 8 << 20, 16 << 20);
        assert!(slow.waited < FAR * 7 / 4, "{:?}", slow.waited);
        let time = first + slow.send(&mut window, 8 << 20, 56 << 20, 16 << 20);
        assert!(slow.waited < FAR * 7 / 4, "{:?}", slow.waited);
        assert!(time < Duration::from_secs(19), "{time:?} for 17 s of data");
        let mut near = link(1_000_000_000, Duration::from_micros(200));
        let time = near.send(&mut Window::new(near.now), 0, 64 << 20, 16 << 20);
        assert!(time < Duration::from_millis(150) && near.waited < Duration::from_millis(20), "{time:?}");
    }

    #[test]
    fn the_window_has_a_bound() {
        let mut wide = link(1_000_000_000, FAR);
        let time = wide.send(&mut Window::new(wide.now), 0, 64 << 20, 1 << 20);
        assert!(time > Duration::from_millis(6400), "{time:?} with 1 MiB per round trip");
    }

    #[test]
    fn a_narrow_link_is_not_filled_for_seconds() {
        let mut narrow = link(200_000, Duration::from_millis(20));
        let time = narrow.send(&mut Window::new(narrow.now), 0, 8 << 20, 16 << 20);
        assert!(time < Duration::from_secs(50), "{time:?} for 42 s of data");
        assert!(narrow.waited < Duration::from_millis(200), "{:?}", narrow.waited);
    }

    #[test]
    fn the_window_shrinks_when_the_link_becomes_narrow_and_grows_when_it_becomes_wide() {
        let mut link = link(20_000_000, FAR);
        let mut window = Window::new(link.now);
        let _ = link.send(&mut window, 0, 32 << 20, 16 << 20);
        let wide = window.size();
        link.bandwidth = 1_000_000;
        let _ = link.send(&mut window, 32 << 20, 8 << 20, 16 << 20);
        assert!(window.size() < wide / 4, "{wide} {}", window.size());
        link.bandwidth = 20_000_000;
        let _ = link.send(&mut window, 40 << 20, 32 << 20, 16 << 20);
        assert!(window.size() > wide / 2, "{wide} {}", window.size());
    }

    /// Else a route that has become longer would look like a queue for ever.
    #[test]
    fn the_shortest_time_is_measured_anew() {
        let mut link = link(20_000_000, Duration::from_millis(10));
        let mut window = Window::new(link.now);
        let _ = link.send(&mut window, 0, 8 << 20, 16 << 20);
        link.round_trip = FAR;
        let _ = link.send(&mut window, 8 << 20, 64 << 20, 16 << 20);
        let time = link.send(&mut window, 72 << 20, 64 << 20, 16 << 20);
        assert!(time < Duration::from_secs(6), "{time:?} for 3.4 s of data");
    }

    #[test]
    fn a_loss_halves_the_window_and_doubles_the_patience() {
        let mut link = link(20_000_000, FAR);
        let mut window = Window::new(link.now);
        let _ = link.send(&mut window, 0, 8 << 20, 16 << 20);
        let (size, patience) = (window.size(), window.lost_after());
        window.lost();
        assert_eq!((window.size(), window.lost_after()), (size / 2, patience * 2));
        for _ in 0..20 {
            window.lost();
        }
        assert_eq!((window.size(), window.lost_after()), (SIZE_MIN, patience * (1 << DOUBLINGS_MAX)));
        window.acked(link.now, 8 << 20, 8 << 20);
        assert_eq!(window.lost_after(), patience);
    }
}
