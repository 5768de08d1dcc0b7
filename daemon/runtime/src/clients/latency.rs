//! The lines of INFO on commit and execution latency, over all groups of the node.
//!
//! Commit: from when this node sealed a batch until it knew the batch to be chosen. Execution: until it had executed it.
//! Both of the batches that this node proposed, since it started, counted once for each of their commands:
//! * `commit_us_p50`, `commit_us_p99`, `commit_us_p999`: quantiles in microseconds, at most 1/16 too high. Absent while
//!   there is nothing to tell.
//! * `commit_us_histogram`: `upper=count,upper=count,..`, in rising order; so many commands took at most `upper`
//!   microseconds and more than the next lower bucket ends at. Buckets without commands are left out; their bounds never
//!   change. The difference of two such lines is what happened in between.
//!
//! Likewise `execution_us_..`.

use std::fmt::Write;

use panch_replica::latency::Latencies;

/// Names and values of the lines.
pub(crate) fn lines(latencies: &Latencies) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for (name, histogram) in [("commit", &latencies.commit), ("execution", &latencies.execution)] {
        if !histogram.is_empty() {
            for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
                let value = histogram.value_at_quantile(quantile);
                lines.push((format!("{name}_us_{label}"), value.to_string()));
            }
        }
        let mut buckets = String::new();
        for bucket in histogram.iter_recorded() {
            let comma = if buckets.is_empty() { "" } else { "," };
            let upper = histogram.highest_equivalent(bucket.value_iterated_to());
            let _ = write!(buckets, "{comma}{upper}={}", bucket.count_at_value());
        }
        lines.push((format!("{name}_us_histogram"), buckets));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_quantiles_and_every_bucket_with_commands() {
        let mut latencies = Latencies::default();
        let empty = [("commit_us_histogram", ""), ("execution_us_histogram", "")];
        assert_eq!(lines(&latencies), empty.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for (micros, commands) in [(7, 10), (1000, 900), (1001, 80), (50_000, 10)] {
            latencies.commit.record_n(micros, commands).unwrap();
        }
        let expected = [
            ("commit_us_p50", "1023"),
            ("commit_us_p99", "1023"),
            ("commit_us_p999", "51199"),
            ("commit_us_histogram", "7=10,1023=980,51199=10"),
            ("execution_us_histogram", ""),
        ];
        assert_eq!(lines(&latencies), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
