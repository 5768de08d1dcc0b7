//! What happened to the requests: latency histograms and counts of one thread, and their sum.
//!
//! Two latencies are kept for each answered request of the measured window:
//! * *response time*, from when the request was due: what a user would have waited. In a closed loop nothing is due, so
//!   there it is the service time.
//! * *service time*, from when it was sent: what the server and the network took.
//!
//! A request that did not succeed, because it was refused, lost, never answered or never sent, would have taken longer than it waited until
//! that was clear. It is kept as a lower bound, so that a server cannot look faster by leaving out the slow ones: see [`Waits`].
//!
//! Invariants:
//! * Every request that was due in the measured window has a response time or a lower bound of one.
//! * Nothing allocates after [`Recorder::new`], except the first time a new kind of error is seen.
//! * A request belongs to the window in which it was due, however late its answer is; throughput counts the answers that
//!   came within the window. Errors count always, also while warming up; what was dropped then is counted apart.

use hdrhistogram::Histogram;
use panch_wire::time::{Duration, Instant};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::connection::Pending;

/// The longest latency that is told apart from longer ones, in nanoseconds.
const LATENCY_MAX: u64 = 600_000_000_000;
/// How many kinds of errors are counted separately.
const ERROR_KINDS_MAX: usize = 16;

/// Latencies in nanoseconds.
pub type Latencies = Histogram<u64>;

fn latencies(digits: u8) -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_MAX, digits).expect("the bounds are constants that fit")
}

/// How long requests took, and how long others had waited when they were given up.
#[derive(Clone, Debug)]
pub struct Waits {
    /// Of those that succeeded.
    pub known: Latencies,
    /// Of those that did not: each would have taken so long at least.
    pub at_least: Latencies,
}

impl Waits {
    fn new() -> Self {
        Self { known: latencies(3), at_least: latencies(3) }
    }

    fn add(&mut self, other: &Self) {
        self.known.add(&other.known).expect("equal bounds");
        self.at_least.add(&other.at_least).expect("equal bounds");
    }

    /// All of them. From the least of [`Waits::at_least`] on, its quantiles are lower bounds, and below that they are exact: whatever
    /// took longer than its bound would not have come before them.
    pub fn all(&self) -> Latencies {
        let mut all = self.known.clone();
        all.add(&self.at_least).expect("equal bounds");
        all
    }
}

/// Both latencies of one class of requests.
#[derive(Clone, Debug)]
pub struct Timings {
    /// From due to answered.
    pub response: Waits,
    /// From sent to answered.
    pub service: Waits,
}

impl Timings {
    fn new() -> Self {
        Self { response: Waits::new(), service: Waits::new() }
    }

    fn add(&mut self, other: &Self) {
        self.response.add(&other.response);
        self.service.add(&other.service);
    }
}

/// Numbers of requests.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Sent in the measured window.
    pub sent: u64,
    /// Of those, sent late because every connection was full.
    pub queued: u64,
    /// Answered without error within the measured window, whenever they were sent.
    pub completed: u64,
    /// Answered without error in the whole run, warm-up and drain included.
    pub acknowledged: u64,
    /// Reads of keys that had no value.
    pub misses: u64,
    /// Refused by the server.
    pub refused: u64,
    /// Lost with their connection: the outcome is not known.
    pub lost: u64,
    /// Not answered when the run ended: the outcome is not known.
    pub unanswered: u64,
    /// Due in the measured window, but never sent.
    pub dropped: u64,
    /// Due in the warm-up, but never sent.
    pub warm_up_dropped: u64,
    /// Connections that broke.
    pub disconnects: u64,
    /// Requests of sessions that were sent again under their number, each time counted.
    pub repeated: u64,
}

impl Counts {
    /// Requests that did not succeed, whatever the reason. Dropped ones were never requests.
    pub fn errors(&self) -> u64 {
        self.refused + self.lost + self.unanswered
    }

    /// Requests that were due and never sent, in the warm-up or later.
    pub fn all_dropped(&self) -> u64 {
        self.dropped + self.warm_up_dropped
    }

    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.queued += other.queued;
        self.completed += other.completed;
        self.acknowledged += other.acknowledged;
        self.misses += other.misses;
        self.refused += other.refused;
        self.lost += other.lost;
        self.unanswered += other.unanswered;
        self.dropped += other.dropped;
        self.warm_up_dropped += other.warm_up_dropped;
        self.disconnects += other.disconnects;
        self.repeated += other.repeated;
    }
}

/// The records of one thread, or of several added up.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// When requests that are measured were due.
    pub window: Range<Instant>,
    /// Latencies of reads.
    pub reads: Timings,
    /// Latencies of writes.
    pub writes: Timings,
    /// How long requests had waited that were never sent.
    pub unsent: Latencies,
    /// How much of the time from due to sent, or dropped, some connection had room: the generator's own fault.
    pub lag: Latencies,
    /// How many requests had which fate.
    pub counts: Counts,
    /// Distinct error texts and how often each came; the last place collects what does not fit.
    pub errors: Vec<(String, u64)>,
    interval: Interval,
}

impl Recorder {
    /// Nothing has happened yet.
    pub fn new(window: Range<Instant>) -> Self {
        Self {
            window,
            reads: Timings::new(),
            writes: Timings::new(),
            unsent: latencies(3),
            lag: latencies(3),
            counts: Counts::default(),
            errors: Vec::with_capacity(ERROR_KINDS_MAX),
            interval: Interval::new(),
        }
    }

    /// A request that was due at `intended` is sent at `now`. Of that delay, `own` is the generator's fault; for the rest of it no
    /// connection had room.
    pub fn sent(&mut self, intended: Instant, now: Instant, own: Duration) {
        let delay = now.since(intended);
        self.interval.lag_max = self.interval.lag_max.max(own.as_nanos() as u64);
        if !self.window.contains(&intended) {
            return;
        }
        self.counts.sent += 1;
        self.counts.queued += u64::from(own < delay);
        self.lag.saturating_record(own.as_nanos() as u64);
    }

    /// A request succeeded at `now`.
    pub fn answered(&mut self, pending: &Pending, now: Instant) {
        self.counts.acknowledged += 1;
        self.interval.completed += 1;
        if self.window.contains(&now) {
            self.counts.completed += 1;
        }
        let response = now.0.saturating_sub(pending.intended.0);
        self.interval.latency.saturating_record(response);
        if self.window.contains(&pending.intended) {
            let timings = self.timings(pending.operation.kind.is_read());
            timings.response.known.saturating_record(response);
            timings.service.known.saturating_record(now.0.saturating_sub(pending.sent.0));
        }
    }

    fn timings(&mut self, is_read: bool) -> &mut Timings {
        if is_read { &mut self.reads } else { &mut self.writes }
    }

    /// A request had no success until `now`.
    fn gave_up(&mut self, pending: &Pending, now: Instant) {
        if self.window.contains(&pending.intended) {
            let timings = self.timings(pending.operation.kind.is_read());
            timings.response.at_least.saturating_record(now.0.saturating_sub(pending.intended.0));
            timings.service.at_least.saturating_record(now.0.saturating_sub(pending.sent.0));
        }
    }

    /// A read found nothing; it is a success, and recorded as one besides.
    pub fn missed(&mut self) {
        self.counts.misses += 1;
    }

    /// The server refused a request at `now`.
    pub fn refused(&mut self, pending: &Pending, text: &str, now: Instant) {
        self.counts.refused += 1;
        self.interval.errors += 1;
        self.note(text, 1);
        self.gave_up(pending, now);
    }

    /// The connection broke, for this reason.
    pub fn disconnected(&mut self, text: &str) {
        self.counts.disconnects += 1;
        self.note(text, 1);
    }

    /// A request went down with its connection at `now`.
    pub fn lost(&mut self, pending: &Pending, now: Instant) {
        self.counts.lost += 1;
        self.interval.errors += 1;
        self.gave_up(pending, now);
    }

    /// The run ended at `now`, and a request had no answer.
    pub fn unanswered(&mut self, pending: &Pending, now: Instant) {
        self.counts.unanswered += 1;
        self.gave_up(pending, now);
    }

    /// A request that was due at `intended` is not sent any more at `now`. What it would have been, a read or a write, was not drawn. Of
    /// that delay, `own` is the generator's fault.
    pub fn dropped(&mut self, intended: Instant, now: Instant, own: Duration) {
        if self.window.contains(&intended) {
            self.counts.dropped += 1;
            self.lag.saturating_record(own.as_nanos() as u64);
            self.unsent.saturating_record(now.0.saturating_sub(intended.0));
        } else {
            self.counts.warm_up_dropped += 1;
        }
    }

    /// So many requests more that were due before `limit` are not sent at `now`. When they were due was not drawn, so that only this is
    /// known of them.
    pub fn dropped_undrawn(&mut self, count: u64, limit: Instant, now: Instant) {
        if count == 0 {
            return;
        }
        if limit > self.window.start {
            self.counts.dropped += count;
            self.lag.saturating_record_n(0, count);
            self.unsent.saturating_record_n(now.since(limit).as_nanos() as u64, count);
        } else {
            self.counts.warm_up_dropped += count;
        }
    }

    fn note(&mut self, text: &str, count: u64) {
        if let Some((_, seen)) = self.errors.iter_mut().find(|(known, _)| known == text) {
            *seen += count;
        } else if self.errors.len() + 1 < ERROR_KINDS_MAX {
            self.errors.push((text.to_owned(), count));
        } else {
            match self.errors.get_mut(ERROR_KINDS_MAX - 1) {
                Some((_, seen)) => *seen += count,
                None => self.errors.push(("other errors".to_owned(), count)),
            }
        }
    }

    /// Adds another thread's records.
    pub fn add(&mut self, other: &Self) {
        self.reads.add(&other.reads);
        self.writes.add(&other.writes);
        self.unsent.add(&other.unsent).expect("equal bounds");
        self.lag.add(&other.lag).expect("equal bounds");
        self.counts.add(&other.counts);
        for (text, count) in &other.errors {
            self.note(text, *count);
        }
    }

    /// Latencies of reads, writes and what was never sent together. Only a response time has a bound for the last.
    pub fn all(&self) -> Timings {
        let mut all = self.reads.clone();
        all.add(&self.writes);
        all.response.at_least.add(&self.unsent).expect("equal bounds");
        all
    }

    /// Moves what happened since the last call to where the progress display finds it.
    pub fn publish(&mut self, share: &Mutex<Interval>) {
        share.lock().unwrap_or_else(PoisonError::into_inner).absorb(&mut self.interval);
    }
}

/// What happened in a short time, for the progress display.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Response times, to two digits.
    pub latency: Latencies,
    /// Requests that succeeded.
    pub completed: u64,
    /// Requests that did not.
    pub errors: u64,
    /// The latest that a request was sent through the generator's own fault, in nanoseconds.
    pub lag_max: u64,
}

impl Interval {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self { latency: latencies(2), completed: 0, errors: 0, lag_max: 0 }
    }

    /// Takes over what `other` holds, which is empty afterwards.
    pub fn absorb(&mut self, other: &mut Self) {
        self.latency.add(&other.latency).expect("equal bounds");
        self.completed += other.completed;
        self.errors += other.errors;
        self.lag_max = self.lag_max.max(other.lag_max);
        other.latency.reset();
        (other.completed, other.errors, other.lag_max) = (0, 0, 0);
    }
}

impl Default for Interval {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Arrivals, Schedule};
    use crate::workload::{Operation, OperationKind};

    const MS: u64 = 1_000_000;

    fn pending(kind: OperationKind, intended: u64, sent: u64) -> Pending {
        Pending {
            operation: Operation { kind, key: 0, write: 0 },
            intended: Instant(intended),
            sent: Instant(sent),
        }
    }

    fn close(value: u64, expected: u64) -> bool {
        value.abs_diff(expected) <= expected / 500
    }

    /// One request each millisecond for a second to a server that takes 100 us, one request at a time, and is stuck from
    /// 300 ms to 600 ms.
    #[test]
    fn a_stall_shows_in_the_response_time_of_all_it_delayed_but_not_in_the_service_time() {
        let end = Instant(1000 * MS);
        let mut schedule = Schedule::new(Arrivals::Constant, 1000.0, 0.0, Instant(0), end, 1);
        let mut recorder = Recorder::new(Instant(0)..end);
        let mut now = 0;
        while let Some(due) = schedule.next_at() {
            now = now.max(due.0);
            let intended = schedule.take_due(Instant(now)).unwrap();
            let sent = now;
            let stuck = (300 * MS..600 * MS).contains(&(sent + MS / 10));
            now = if stuck { 600 * MS } else { sent + MS / 10 };
            recorder.sent(intended, Instant(sent), Duration::ZERO);
            recorder.answered(&pending(OperationKind::Set, intended.0, sent), Instant(now));
        }
        let Timings { response, service } = recorder.all();
        let (response, service) = (response.all(), service.all());
        assert_eq!((response.len(), service.len()), (1000, 1000));
        // Only the one request that was stuck has a long service time: coordinated omission.
        assert!(close(service.value_at_quantile(0.99), MS / 10));
        assert!(close(service.max(), 300 * MS));
        // About 300 requests were due while it was stuck, and waited 150 ms on average.
        assert!(response.value_at_quantile(0.99) > 250 * MS);
        assert!((250..400).contains(&response.count_between(MS, LATENCY_MAX)));
        assert!(recorder.counts.queued > 250);
        assert_eq!(recorder.lag.max(), 0);
    }

    #[test]
    fn the_window_is_about_when_requests_were_due_and_throughput_about_answers() {
        let mut recorder = Recorder::new(Instant(100)..Instant(200));
        recorder.answered(&pending(OperationKind::Get, 90, 90), Instant(95));
        recorder.answered(&pending(OperationKind::Get, 90, 90), Instant(110));
        recorder.answered(&pending(OperationKind::Set, 190, 195), Instant(260));
        assert_eq!((recorder.counts.acknowledged, recorder.counts.completed), (3, 1));
        let (reads, writes) = (&recorder.reads, &recorder.writes);
        assert_eq!((reads.response.known.len(), writes.response.known.len()), (0, 1));
        assert_eq!((writes.response.known.max(), writes.service.known.max()), (70, 65));
    }

    #[test]
    fn whatever_did_not_succeed_is_a_lower_bound_if_it_was_due_in_the_window() {
        let mut recorder = Recorder::new(Instant(100)..Instant(200));
        for due in [90, 110] {
            let request = pending(OperationKind::Get, due, due + 5);
            recorder.refused(&request, "ERR", Instant(300));
            recorder.lost(&request, Instant(310));
            recorder.unanswered(&request, Instant(320));
            recorder.dropped(Instant(due), Instant(330), Duration::from_nanos(7));
        }
        recorder.answered(&pending(OperationKind::Set, 120, 120), Instant(130));
        let all = recorder.all();
        assert_eq!((all.response.known.len(), all.response.at_least.len()), (1, 4));
        assert_eq!((all.response.at_least.min(), all.response.at_least.max()), (190, 220));
        // What was never sent was in nobody's service.
        assert_eq!((all.service.at_least.len(), all.service.at_least.max()), (3, 205));
        let counts = &recorder.counts;
        assert_eq!((counts.errors(), counts.dropped, recorder.lag.max()), (6, 1, 7));
        assert_eq!((counts.warm_up_dropped, counts.all_dropped()), (1, 2));
    }

    #[test]
    fn what_was_not_drawn_has_waited_since_the_last_of_it_was_due_at_least() {
        let mut recorder = Recorder::new(Instant(100)..Instant(200));
        recorder.dropped_undrawn(0, Instant(150), Instant(170));
        recorder.dropped_undrawn(5, Instant(100), Instant(170));
        recorder.dropped_undrawn(7, Instant(150), Instant(170));
        let (counts, unsent) = (&recorder.counts, recorder.all().response.at_least);
        assert_eq!((counts.warm_up_dropped, counts.dropped), (5, 7));
        assert_eq!((unsent.len(), unsent.min(), unsent.max(), recorder.lag.len()), (7, 20, 20, 7));
    }

    #[test]
    fn records_of_threads_add_up() {
        let mut sum = Recorder::new(Instant(0)..Instant(100));
        let mut other = Recorder::new(Instant(0)..Instant(100));
        for (recorder, text) in [(&mut sum, "ERR a"), (&mut other, "ERR a")] {
            recorder.answered(&pending(OperationKind::Set, 5, 5), Instant(10));
            recorder.refused(&pending(OperationKind::Set, 5, 5), text, Instant(11));
            recorder.lost(&pending(OperationKind::Set, 5, 5), Instant(12));
            recorder.dropped(Instant(5), Instant(13), Duration::from_nanos(8));
            recorder.sent(Instant(1), Instant(5), Duration::from_nanos(3));
        }
        sum.add(&other);
        assert_eq!((sum.counts.errors(), sum.counts.acknowledged, sum.counts.sent), (4, 2, 2));
        assert_eq!(sum.errors, [("ERR a".to_owned(), 2)]);
        let response = sum.all().response;
        assert_eq!((response.known.len(), response.at_least.len()), (2, 6));
        // Sent and dropped, of both.
        assert_eq!((sum.lag.len(), sum.lag.max(), sum.counts.queued), (4, 8, 2));
    }

    #[test]
    fn many_kinds_of_errors_are_all_counted() {
        let mut recorder = Recorder::new(Instant(0)..Instant(1));
        for number in 0..100 {
            let request = pending(OperationKind::Set, 0, 0);
            recorder.refused(&request, &format!("ERR {number}"), Instant(0));
        }
        assert_eq!(recorder.errors.len(), ERROR_KINDS_MAX);
        assert_eq!(recorder.errors.iter().map(|(_, count)| count).sum::<u64>(), 100);
    }

    #[test]
    fn an_interval_is_handed_over_once() {
        let share = Mutex::new(Interval::new());
        let mut recorder = Recorder::new(Instant(0)..Instant(1));
        recorder.sent(Instant(3), Instant(11), Duration::from_nanos(7));
        recorder.answered(&pending(OperationKind::Set, 3, 10), Instant(0) + Duration::from_millis(1));
        recorder.publish(&share);
        recorder.publish(&share);
        let interval = share.into_inner().unwrap();
        assert_eq!((interval.completed, interval.lag_max, interval.latency.len()), (1, 7, 1));
    }
}
