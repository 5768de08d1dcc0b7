//! How long own batches take inside the replicas: from seal to commit, and from seal to execution.
//!
//! A batch counts once for each of its commands, so that the figures compare with what clients measure; reads that do not
//! go through the log are not in them. A batch that a snapshot covered before this
//! replica learned of its fate may be missing in one of them or in both.
//!
//! Invariants:
//! * Recording takes no memory: a histogram has all its buckets from the start, 3 KiB of them.
//! * A bucket ends at most 1/16 above where it begins; times above a minute count as about a minute.

use hdrhistogram::Histogram;
use panch_wire::time::Duration;

/// The longest time told apart, in microseconds.
const LATENCY_MAX: u64 = 60_000_000;

/// Commands by the time that their batch took, in microseconds.
#[derive(Clone, PartialEq, Debug)]
pub struct Latencies {
    /// From the seal at the replica that proposes the batch until that replica knows it to be chosen.
    pub commit: Histogram<u64>,
    /// From the seal until the replica that proposes the batch has executed it.
    pub execution: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        let empty =
            || Histogram::new_with_bounds(1, LATENCY_MAX, 1).expect("the bounds are constants that fit");
        Self { commit: empty(), execution: empty() }
    }
}

impl Latencies {
    /// An own batch of so many commands is chosen.
    pub(crate) fn committed(&mut self, latency: Duration, commands: u32) {
        self.commit.saturating_record_n(micros(latency), commands.into());
    }

    /// An own batch of so many commands is executed.
    pub(crate) fn executed(&mut self, latency: Duration, commands: u32) {
        self.execution.saturating_record_n(micros(latency), commands.into());
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Latencies) {
        let fits = "all histograms have the same bounds";
        self.commit.add(&other.commit).expect(fits);
        self.execution.add(&other.execution).expect(fits);
    }
}

fn micros(latency: Duration) -> u64 {
    (latency.as_micros() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_told_to_a_sixteenth_and_from_a_minute_on_as_a_minute() {
        let mut time = Duration::from_micros(1);
        while time < Duration::from_secs(60) {
            let mut latencies = Latencies::default();
            latencies.committed(time, 3);
            let (told, exact) = (latencies.commit.value_at_quantile(0.5), time.as_micros() as u64);
            assert!((exact..=exact + exact / 16).contains(&told), "{exact} us told as {told}");
            assert_eq!((latencies.commit.len(), latencies.execution.len()), (3, 0));
            time = time * 11 / 10 + Duration::from_micros(1);
        }
        let mut latencies = Latencies::default();
        latencies.executed(Duration::from_secs(3600), 1);
        latencies.executed(Duration::ZERO, 1);
        assert!((60_000_000..68_000_000).contains(&latencies.execution.max()));
        assert_eq!(latencies.execution.value_at_quantile(0.5), 1);
    }

    #[test]
    fn a_histogram_is_small_and_sums_are_of_both() {
        let (mut sum, mut one) = (Latencies::default(), Latencies::default());
        assert!(one.commit.distinct_values() * size_of::<u64>() <= 3 << 10);
        one.committed(Duration::from_millis(1), 2);
        one.executed(Duration::from_millis(9), 2);
        sum.add(&one);
        sum.add(&one);
        assert_eq!((sum.commit.len(), sum.execution.len()), (4, 4));
        assert!(sum.commit.max() < sum.execution.min());
    }
}
