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

use crate::workload::{Operation, OperationKind, Workload, write_of};

/// How many keys of each kind are sampled at most.
const SAMPLES_MAX: u64 = 1024;
/// A write with this acknowledgement has none: it may take effect at any time.
const NEVER: Instant = Instant(u64::MAX);
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

    /// Reads every sampled key that was written and compares.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn audit<E>(
        &self,
        mut read: impl FnMut(OperationKind, u64) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Verdict, E> {
        let mut verdict = Verdict::default();
        for (sample, history) in self.values.iter().enumerate() {
            if history.last_sent.is_none() {
                continue;
            }
            let key = sample as u64 * self.stride;
            let value = read(OperationKind::Set, key)?;
            verdict.checked += 1;
            let found = value.as_deref().and_then(|value| write_of(value, self.run));
            let fits = found.is_some_and(|found| history.may_remain(found));
            if !fits {
                verdict.violations.push(match (value, found) {
                    (None, _) => format!("key {key}: an acknowledged write is gone, there is no value"),
                    (_, None) => format!("key {key}: an acknowledged write is gone, an older value is back"),
                    (_, Some(found)) => {
                        format!("key {key}: write {found:#x} is there, but a later write was acknowledged")
                    }
                });
            }
        }
        for (sample, counter) in self.counters.iter().enumerate() {
            if counter.acknowledged == 0 {
                continue;
            }
            let key = sample as u64 * self.stride;
            let value = read(OperationKind::Incr, key)?;
            verdict.checked += 1;
            let number = value.as_deref().and_then(|value| str::from_utf8(value).ok()?.parse::<i64>().ok());
            let least = counter.base.wrapping_add_unsigned(counter.acknowledged);
            let most = least.wrapping_add_unsigned(counter.unknown);
            if !number.is_some_and(|number| (least..=most).contains(&number)) {
                verdict.violations.push(format!(
                    "counter {key}: {} increments were acknowledged and {} are unknown, so {least} to {most} is right, \
                     but it is {}",
                    counter.acknowledged,
                    counter.unknown,
                    number.map_or("no number".to_owned(), |number| number.to_string())
                ));
            }
        }
        Ok(verdict)
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
    /// Servers that could not be asked, a line each.
    pub unread: Vec<String>,
}

impl Verdict {
    /// Whether everything was read and nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.unread.is_empty()
    }

    /// Adds the audit of another node.
    pub fn merge(&mut self, other: Self) {
        self.checked += other.checked;
        self.violations.extend(other.violations);
        self.unread.extend(other.unread);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.violations.len(), self.unread.len()) {
            (0, 0) => write!(f, "ok, {} reads", self.checked),
            (0, count) => write!(f, "INCOMPLETE, {count} not read; ok, {} reads", self.checked),
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
        check.audit(|_, _| Ok::<_, Infallible>(value.clone())).unwrap().violations
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

    #[test]
    fn many_keys_are_sampled_and_few_are_all_checked() {
        for (count, stride) in [(10, 1), (1024, 1), (1_000_000, 977)] {
            let check = Check::new(&workload("set", count), RUN);
            assert_eq!(check.stride, stride);
            assert!(check.values.len() as u64 <= SAMPLES_MAX && check.values.len() as u64 * stride >= count);
        }
    }
}
