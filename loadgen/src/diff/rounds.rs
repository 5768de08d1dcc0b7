//! Runs of the same work, of which the medians are compared.

use crate::report::{Quantiles, Run};
use crate::spread::{Bounded, Spread};

/// Runs of the same work: at least one.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Rounds(pub(super) Vec<Run>);

impl Rounds {
    /// Median commands per second.
    pub(super) fn throughput(&self) -> f64 {
        let all = self.0.iter().map(|run| Bounded::exact(run.throughput));
        Spread::of(all).map_or(0.0, |spread| spread.median.value)
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.iter().any(|run| run.response.is_some())
    }

    /// Medians of response times or of service times; absent unless all rounds have them.
    pub(super) fn times(&self, response: bool) -> Option<Quantiles> {
        let of = |run: &Run| if response { run.response } else { run.service };
        let all: Option<Vec<Quantiles>> = self.0.iter().map(of).collect();
        median(&all?)
    }

    pub(super) fn is_clean(&self) -> bool {
        self.0.iter().all(|run| run.clean)
    }
}

/// Of each quantile the median of all. From the least that is a lower bound on, all count as such.
fn median(all: &[Quantiles]) -> Option<Quantiles> {
    let mut bounds_from: Option<u64> = None;
    let mut part = |of: fn(&Quantiles) -> u64| {
        let bounded = |it: &Quantiles| Bounded { value: of(it) as f64, is_bound: it.is_bound(of(it)) };
        let middle = Spread::of(all.iter().map(bounded))?.median;
        let value = middle.value.round() as u64;
        if middle.is_bound {
            bounds_from = Some(bounds_from.map_or(value, |from| from.min(value)));
        }
        Some(value)
    };
    let [p50, p90, p99, p999, max] =
        [part(|q| q.p50)?, part(|q| q.p90)?, part(|q| q.p99)?, part(|q| q.p999)?, part(|q| q.max)?];
    Some(Quantiles { p50, p90, p99, p999, max, bounds_from })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bound_may_have_overtaken_is_a_bound_from_there_on() {
        let quantiles = |p50: u64, bounds_from| Quantiles {
            p50,
            p90: p50 * 2,
            p99: p50 * 3,
            p999: p50 * 10,
            max: p50 * 20,
            bounds_from,
        };
        let of = |first, second, third| {
            median(&[quantiles(100, first), quantiles(50, second), quantiles(200, third)])
        };
        assert_eq!(of(None, None, None), Some(quantiles(100, None)));
        assert_eq!(of(None, Some(50), None), Some(quantiles(100, Some(100))));
        assert_eq!(of(None, Some(150), None), Some(quantiles(100, Some(300))));
        assert_eq!(of(None, None, Some(200)), Some(quantiles(100, None)));
        assert_eq!(median(&[]), None);
    }
}
