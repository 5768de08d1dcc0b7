//! A/A noise: how much runs of the same protocol differ, though nothing was changed. A ratio of two protocols that does not exceed it may be
//! chance alone.

use std::fmt;

/// Why the noise of a protocol is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unknown {
    /// There are no two runs to compare.
    RanOnce,
    /// A run had no throughput.
    DidNothing,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RanOnce => "ran once",
            Self::DidNothing => "did nothing in one of its runs",
        })
    }
}

/// The highest of these throughputs divided by the lowest: the largest ratio between any two runs of the same work.
pub(super) fn largest_ratio(throughputs: &[f64]) -> Result<f64, Unknown> {
    let least = throughputs.iter().copied().fold(f64::INFINITY, f64::min);
    let most = throughputs.iter().copied().fold(0.0, f64::max);
    match throughputs {
        [] | [_] => Err(Unknown::RanOnce),
        _ if least > 0.0 => Ok(most / least),
        _ => Err(Unknown::DidNothing),
    }
}

/// Whether neither `ratio` nor its inverse exceeds `noise`.
pub(super) fn is_within(ratio: f64, noise: f64) -> bool {
    ratio.max(1.0 / ratio) <= noise
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_is_the_largest_ratio_between_two_runs() {
        assert_eq!(largest_ratio(&[100.0, 80.0, 90.0]), Ok(1.25));
        for (throughputs, reason) in [
            (&[][..], Unknown::RanOnce),
            (&[100.0], Unknown::RanOnce),
            (&[0.0], Unknown::RanOnce),
            (&[100.0, 0.0], Unknown::DidNothing),
        ] {
            assert_eq!(largest_ratio(throughputs), Err(reason));
        }
    }

    #[test]
    fn faster_and_slower_are_alike() {
        for (ratio, noise, within) in [
            (1.0, 1.0, true),
            (1.25, 1.25, true),
            (0.8, 1.25, true),
            (1.26, 1.25, false),
            (0.79, 1.25, false),
        ] {
            assert_eq!(is_within(ratio, noise), within, "{ratio} {noise}");
        }
        assert!(!is_within(0.0, 100.0));
    }
}
