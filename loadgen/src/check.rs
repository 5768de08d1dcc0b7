//! The audit of acknowledged writes: what must still be there when the load has ended.
//!
//! Some keys are sampled. For each, every thread remembers which writes may be the last one; after the run the values are
//! read back from every node.
//!
//! *Values.* A write W cannot be what remains if an acknowledged write was sent after W's own acknowledgement had arrived:
//! it came later in every linearizable order. All other writes may remain, and so may those whose outcome is not known. If
//! anything else is found, an acknowledged write was lost.
//!
//! *Counters.* INCR must have been applied once for each acknowledgement, and at most once for each unknown outcome.
//!
//! Invariants:
//! * `sent` is read from the clock before the request leaves, `acked` after its reply has come. So "acked before sent" is
//!   true of the real events as well, also across threads: there are no false alarms.

use panch_wire::time::Instant;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::workload::{Operation, OperationKind, Workload, write_of};

/// How many keys of each kind are sampled at most.
const SAMPLES_MAX: u64 = 1024;
/// A write with this acknowledgement has none: it may take effect at any time.
const NEVER: Instant = Instant(u64::MAX);
/// After so many failed reads in a row an audit ends.
const FAILURES_MAX: usize = 3;
/// Candidates that are kept without a look at them.
const PRUNE_MIN: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Candidate {
    write: u64,
    acked: Instant,
}

#[derive(Clone, Default, Debug)]
struct ValueHistory {
    /// The latest `sent` of an acknowledged write, if there is one.
    last_sent: Option<Instant>,
    /// Writes that may remain, acknowledged not before `last_sent` or unknown; and some that may not any more.
    candidates: Vec<Candidate>,
    /// At so many candidates those that may not remain are taken out. Each acknowledgement would be too often: thousands of
    /// writes of one hot key may be under way.
    prune_at: usize,
}

impl ValueHistory {
    fn acknowledged(&mut self, write: u64, sent: Instant, acked: Instant) {
        self.last_sent = self.last_sent.max(Some(sent));
        if self.last_sent.is_none_or(|last| acked >= last) {
            self.candidates.push(Candidate { write, acked });
        }
        if self.candidates.len() >= self.prune_at {
            self.prune();
        }
    }

    fn prune(&mut self) {
        if let Some(last) = self.last_sent {
            self.candidates.retain(|candidate| candidate.acked >= last);
        }
        self.prune_at = PRUNE_MIN.max(2 * self.candidates.len());
    }

    fn merge(&mut self, other: &Self) {
        self.last_sent = self.last_sent.max(other.last_sent);
        self.candidates.extend_from_slice(&other.candidates);
        self.prune();
    }

    fn may_remain(&self, write: u64) -> bool {
        let last = self.last_sent.unwrap_or(Instant(0));
        self.candidates.iter().any(|known| known.write == write && known.acked >= last)
    }
}

#[derive(Clone, Copy, Default, Debug)]
struct CounterHistory {
    /// The value before the run.
    base: i64,
    acknowledged: u64,
    unknown: u64,
}

/// What one thread, or all of them, know about the sampled keys.
#[derive(Clone, Debug)]
pub struct Check {
    run: u64,
    stride: u64,
    values: Vec<ValueHistory>,
    counters: Vec<CounterHistory>,
}

impl Check {
    /// An audit of `workload` in the run named `run`.
    pub fn new(workload: &Workload, run: u64) -> Self {
        let stride = workload.key_count.div_ceil(SAMPLES_MAX);
        let samples = workload.key_count.div_ceil(stride) as usize;
        Self {
            run,
            stride,
            values: vec![ValueHistory::default(); if workload.mix.set > 0 { samples } else { 0 }],
            counters: vec![CounterHistory::default(); if workload.mix.incr > 0 { samples } else { 0 }],
        }
    }

    fn sample(&self, operation: &Operation) -> Option<usize> {
        operation.key.is_multiple_of(self.stride).then_some((operation.key / self.stride) as usize)
    }

    /// A command was acknowledged.
    pub fn acknowledged(&mut self, operation: &Operation, sent: Instant, acked: Instant) {
        let Some(sample) = self.sample(operation) else { return };
        match operation.kind {
            OperationKind::Set => self.values[sample].acknowledged(operation.write, sent, acked),
            OperationKind::Incr => self.counters[sample].acknowledged += 1,
            OperationKind::Get => {}
        }
    }

    /// Nobody knows whether a command was, or will be, applied.
    pub fn unknown(&mut self, operation: &Operation) {
        let Some(sample) = self.sample(operation) else { return };
        match operation.kind {
            OperationKind::Set => {
                self.values[sample].candidates.push(Candidate { write: operation.write, acked: NEVER });
            }
            OperationKind::Incr => self.counters[sample].unknown += 1,
            OperationKind::Get => {}
        }
    }

    /// Adds what another thread knows.
    pub fn merge(&mut self, other: &Self) {
        for (mine, other) in self.values.iter_mut().zip(&other.values) {
            mine.merge(other);
        }
        for (mine, other) in self.counters.iter_mut().zip(&other.counters) {
            mine.acknowledged += other.acknowledged;
            mine.unknown += other.unknown;
        }
    }

    /// Notes what the counters hold before the run. `read` returns the value of a key.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn note_counters<E>(
        &mut self,
        mut read: impl FnMut(OperationKind, u64) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        for (sample, counter) in self.counters.iter_mut().enumerate() {
            let value = read(OperationKind::Incr, sample as u64 * self.stride)?;
            counter.base = value.and_then(|value| str::from_utf8(&value).ok()?.parse().ok()).unwrap_or(0);
        }
        Ok(())
    }

    /// Reads every sampled key that was written and compares. `read` returns the value of a key. What it cannot read leaves the audit
    /// incomplete; after some failures in a row, or at a stop, the rest is not read.
    pub fn audit<E: fmt::Display>(
        &self,
        mut read: impl FnMut(OperationKind, u64) -> Result<Option<Vec<u8>>, E>,
        stop: &AtomicBool,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let mut failures = 0;
        for (kind, sample) in self.written() {
            if stop.load(Ordering::Relaxed) {
                verdict.unread.push("it was stopped before all keys were read".to_owned());
                break;
            }
            let key = sample as u64 * self.stride;
            match read(kind, key) {
                Ok(value) => {
                    failures = 0;
                    verdict.checked += 1;
                    verdict.violations.extend(match kind {
                        OperationKind::Incr => self.counter_fault(sample, value.as_deref()),
                        _ => self.value_fault(sample, value.as_deref()),
                    });
                }
                Err(error) => {
                    failures += 1;
                    let is_last = failures == FAILURES_MAX;
                    let end =
                        if is_last { "; it was the last of several, and the rest is not read" } else { "" };
                    verdict.unread.push(format!("key {key}: {error}{end}"));
                    if is_last {
                        break;
                    }
                }
            }
        }
        verdict
    }

    /// The samples with an acknowledged write.
    fn written(&self) -> impl Iterator<Item = (OperationKind, usize)> {
        let values = (0..self.values.len()).filter(|sample| self.values[*sample].last_sent.is_some());
        let counters = (0..self.counters.len()).filter(|sample| self.counters[*sample].acknowledged > 0);
        let values = values.map(|sample| (OperationKind::Set, sample));
        values.chain(counters.map(|sample| (OperationKind::Incr, sample)))
    }

    /// What is wrong with the value that was read of a sample, if anything is.
    fn value_fault(&self, sample: usize, value: Option<&[u8]>) -> Option<String> {
        let key = sample as u64 * self.stride;
        let found = value.and_then(|value| write_of(value, self.run));
        match (value, found) {
            (_, Some(found)) if self.values[sample].may_remain(found) => None,
            (None, _) => Some(format!("key {key}: an acknowledged write is gone, there is no value")),
            (_, None) => Some(format!("key {key}: an acknowledged write is gone, an older value is back")),
            (_, Some(found)) => {
                Some(format!("key {key}: write {found:#x} is there, but a later write was acknowledged"))
            }
        }
    }

    /// The same of a counter.
    fn counter_fault(&self, sample: usize, value: Option<&[u8]>) -> Option<String> {
        let key = sample as u64 * self.stride;
        let CounterHistory { base, acknowledged, unknown } = self.counters[sample];
        let number = value.and_then(|value| str::from_utf8(value).ok()?.parse::<i64>().ok());
        let least = base.wrapping_add_unsigned(acknowledged);
        let most = least.wrapping_add_unsigned(unknown);
        (!number.is_some_and(|number| (least..=most).contains(&number))).then(|| {
            format!(
                "counter {key}: {acknowledged} increments were acknowledged and {unknown} are unknown, so {least} to {most} is \
                 right, but it is {}",
                number.map_or("no number".to_owned(), |number| number.to_string())
            )
        })
    }
}

/// The result of an audit.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// Keys that were read.
    #[serde(rename = "reads")]
    pub checked: usize,
    /// What was wrong, a line each.
    pub violations: Vec<String>,
    /// What could not be read and why, a line each: a server, a key, or the rest of the keys.
    pub unread: Vec<String>,
}

impl Verdict {
    /// Whether something was read, everything that was to be, and nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.checked > 0 && self.violations.is_empty() && self.unread.is_empty()
    }

    /// Whether there was nothing to read: no acknowledged write was to a sampled key.
    fn is_of_nothing(&self) -> bool {
        self.checked == 0 && self.violations.is_empty() && self.unread.is_empty()
    }

    /// Adds the audit of another node.
    pub fn merge(&mut self, other: Self) {
        self.checked += other.checked;
        self.violations.extend(other.violations);
        self.unread.extend(other.unread);
    }

    /// What has to be said of it, at most so many lines of each kind; and how many more there are.
    pub fn remarks(&self, most: usize) -> Vec<String> {
        let mut lines = Vec::new();
        if self.is_of_nothing() {
            lines.push("AUDIT: nothing sampled: no acknowledged write was to a sampled key".to_owned());
        }
        for (name, all) in [("AUDIT", &self.violations), ("AUDIT INCOMPLETE", &self.unread)] {
            lines.extend(all.iter().take(most).map(|text| format!("{name}: {text}")));
            if all.len() > most {
                lines.push(format!("{name}: and {} more", all.len() - most));
            }
        }
        lines
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.violations.len(), self.unread.len()) {
            (0, 0) if self.checked == 0 => f.write_str("nothing sampled"),
            (0, 0) => write!(f, "ok, {} reads", self.checked),
            (0, _) => write!(f, "INCOMPLETE; ok, {} reads", self.checked),
            (1, _) => write!(f, "1 VIOLATION in {} reads", self.checked),
            (count, _) => write!(f, "{count} VIOLATIONS in {} reads", self.checked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyDistribution;
    use panch_wire::client::ReadLevel;
    use std::convert::Infallible;

    const RUN: u64 = 99;

    fn workload(mix: &str, key_count: u64) -> Workload {
        Workload {
            mix: mix.parse().unwrap(),
            keys: KeyDistribution::Uniform,
            key_count,
            key_size: 16,
            value_size: 16,
            read_level: ReadLevel::Quorum,
            seed: 0,
        }
    }

    fn set(write: u64) -> Operation {
        Operation { kind: OperationKind::Set, key: 0, write }
    }

    fn violations(check: &Check, value: Option<Vec<u8>>) -> Vec<String> {
        check.audit(|_, _| Ok::<_, Infallible>(value.clone()), &AtomicBool::new(false)).violations
    }

    fn value(run: u64, write: u64) -> Option<Vec<u8>> {
        Some([run.to_le_bytes(), write.to_le_bytes()].concat())
    }

    #[test]
    fn only_the_last_of_sequential_writes_may_remain() {
        let mut check = Check::new(&workload("set", 1), RUN);
        check.acknowledged(&set(1), Instant(10), Instant(20));
        check.acknowledged(&set(2), Instant(21), Instant(30));
        assert_eq!(violations(&check, value(RUN, 2)), Vec::<String>::new());
        assert!(violations(&check, value(RUN, 1))[0].contains("a later write was acknowledged"));
        assert!(violations(&check, value(RUN - 1, 2))[0].contains("an older value is back"));
        assert!(violations(&check, None)[0].contains("there is no value"));
    }

    #[test]
    fn concurrent_and_unknown_writes_may_remain_too() {
        let mut check = Check::new(&workload("set", 1), RUN);
        check.acknowledged(&set(1), Instant(10), Instant(30));
        check.acknowledged(&set(2), Instant(20), Instant(25));
        check.unknown(&set(3));
        for write in 1..=3 {
            assert!(violations(&check, value(RUN, write)).is_empty());
        }
        check.acknowledged(&set(4), Instant(40), Instant(50));
        for (write, fits) in [(1, false), (2, false), (3, true), (4, true)] {
            assert_eq!(violations(&check, value(RUN, write)).is_empty(), fits, "write {write}");
        }
    }

    #[test]
    fn a_hot_key_keeps_as_many_candidates_as_writes_are_under_way_and_no_more() {
        let mut check = Check::new(&workload("set", 1), RUN);
        for write in 1..=10_000 {
            check.acknowledged(&set(write), Instant(write), Instant(write + 100));
        }
        assert!(check.values[0].candidates.len() <= 2 * 101 + PRUNE_MIN);
        for (write, fits) in [(9_899, false), (9_900, true), (10_000, true)] {
            assert_eq!(violations(&check, value(RUN, write)).is_empty(), fits, "write {write}");
        }
    }

    #[test]
    fn a_write_that_another_thread_overwrote_may_not_remain() {
        let (mut check, mut other) =
            (Check::new(&workload("set", 1), RUN), Check::new(&workload("set", 1), RUN));
        check.acknowledged(&set(1), Instant(10), Instant(20));
        other.acknowledged(&set(2), Instant(21), Instant(30));
        check.merge(&other);
        assert!(violations(&check, value(RUN, 2)).is_empty());
        assert_eq!(violations(&check, value(RUN, 1)).len(), 1);
    }

    #[test]
    fn an_acknowledgement_at_the_moment_of_the_next_send_decides_nothing() {
        let mut check = Check::new(&workload("set", 1), RUN);
        check.acknowledged(&set(1), Instant(10), Instant(20));
        check.acknowledged(&set(2), Instant(20), Instant(30));
        assert!(violations(&check, value(RUN, 1)).is_empty());
    }

    #[test]
    fn counters_are_exact_up_to_unknown_outcomes() {
        let mut check = Check::new(&workload("incr", 1), RUN);
        check.note_counters(|_, _| Ok::<_, Infallible>(Some(b"100".to_vec()))).unwrap();
        let incr = Operation { kind: OperationKind::Incr, key: 0, write: 0 };
        for _ in 0..5 {
            check.acknowledged(&incr, Instant(0), Instant(1));
        }
        let at =
            |check: &Check, number: i64| violations(check, Some(number.to_string().into_bytes())).is_empty();
        assert!(at(&check, 105) && !at(&check, 104) && !at(&check, 106));
        check.unknown(&incr);
        assert!(at(&check, 105) && at(&check, 106) && !at(&check, 107));
        assert_eq!(violations(&check, None).len(), 1);
    }

    /// An audit of one write to each of ten keys, every one of which is gone, where reads of these keys fail.
    fn audit_with_failures(is_failing: impl Fn(u64) -> bool, stop: &AtomicBool) -> Verdict {
        let mut check = Check::new(&workload("set", 10), RUN);
        for key in 0..10 {
            check.acknowledged(&Operation { key, ..set(key + 1) }, Instant(10), Instant(20));
        }
        let read = |_, key| if is_failing(key) { Err("no answer") } else { Ok(None) };
        check.audit(read, stop)
    }

    #[test]
    fn a_failed_read_takes_nothing_along_and_several_in_a_row_end_the_audit() {
        let on = AtomicBool::new(false);
        let some = audit_with_failures(|key| [2, 3, 5, 6].contains(&key), &on);
        assert_eq!((some.checked, some.violations.len(), some.unread.len()), (6, 6, 4));
        assert_eq!(some.unread[0], "key 2: no answer");
        let ended = audit_with_failures(|key| key >= 4, &on);
        assert_eq!((ended.checked, ended.violations.len(), ended.unread.len()), (4, 4, 3));
        assert!(ended.unread[2].starts_with("key 6: no answer; ") && !ended.is_clean(), "{:?}", ended.unread);
        assert_eq!(ended.remarks(2).len(), 6);
        assert_eq!(ended.remarks(2)[2], "AUDIT: and 2 more");
    }

    #[test]
    fn a_stop_ends_an_audit_and_leaves_it_incomplete() {
        let stopped = audit_with_failures(|_| false, &AtomicBool::new(true));
        assert_eq!((stopped.checked, stopped.violations.len(), stopped.is_clean()), (0, 0, false));
        assert!(stopped.to_string().starts_with("INCOMPLETE"), "{stopped}");
    }

    #[test]
    fn an_audit_for_which_no_write_was_sampled_is_not_ok() {
        let mut check = Check::new(&workload("set", 1_000_000), RUN);
        check.acknowledged(&Operation { key: 1, ..set(1) }, Instant(10), Instant(20));
        let audit =
            |check: &Check| check.audit(|_, _| Ok::<_, Infallible>(value(RUN, 2)), &AtomicBool::new(false));
        let nothing = audit(&check);
        assert_eq!((nothing.checked, nothing.is_clean()), (0, false));
        assert_eq!(nothing.to_string(), "nothing sampled");
        assert!(nothing.remarks(5)[0].starts_with("AUDIT: nothing sampled"));
        check.acknowledged(&set(2), Instant(10), Instant(20));
        let something = audit(&check);
        assert_eq!((something.to_string().as_str(), something.is_clean()), ("ok, 1 reads", true));
        assert!(something.remarks(5).is_empty());
    }

    #[test]
    fn many_keys_are_sampled_and_few_are_all_checked() {
        for (count, stride) in [(10, 1), (1024, 1), (1_000_000, 977)] {
            let check = Check::new(&workload("set", count), RUN);
            assert_eq!(check.stride, stride);
            assert!(check.values.len() as u64 <= SAMPLES_MAX && check.values.len() as u64 * stride >= count);
        }
    }
}
