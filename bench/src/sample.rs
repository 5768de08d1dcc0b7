//! A few measurements of one thing: never a mean, always the median with its range.
//!
//! Invariant: what is not a finite number is not known, and counts neither in a median nor in a range.

use panch_loadgen::quantity::short;

/// Values of one quantity, one per round.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Sample(pub(crate) Vec<f64>);

impl Sample {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// What is known, from the least to the most.
    fn sorted(&self) -> Vec<f64> {
        let mut sorted: Vec<f64> = self.0.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The value in the middle, or between the two in the middle; `None` if none is known.
    pub(crate) fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            count if count % 2 == 1 => Some(sorted[middle]),
            _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        }
    }

    /// This divided by `other`, round by round.
    pub(crate) fn ratio(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(mine, theirs)| mine / theirs).collect())
    }

    /// Median and range, or `-`.
    pub(crate) fn show(&self, format: impl Fn(f64) -> String) -> String {
        match (self.median(), self.sorted().as_slice()) {
            (Some(median), [low, .., high]) => {
                format!("{} ({} .. {})", format(median), format(*low), format(*high))
            }
            (Some(median), _) => format(median),
            (None, _) => "-".to_owned(),
        }
    }

    /// As [`Sample::show`], with four digits.
    pub(crate) fn show_short(&self) -> String {
        self.show(short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_and_an_outlier_only_in_the_range() {
        let sample = Sample(vec![3.0, 100.0, 1.0]);
        assert_eq!(sample.median(), Some(3.0));
        assert_eq!(sample.show(|value| value.to_string()), "3 (1 .. 100)");
        assert_eq!(Sample(vec![1.0, 2.0]).median(), Some(1.5));
        assert_eq!(Sample::default().show_short(), "-");
    }

    #[test]
    fn what_is_not_known_counts_nowhere() {
        let nothing = f64::NAN;
        let sample = Sample(vec![nothing, 4.0, f64::INFINITY, 2.0, 3.0, f64::NEG_INFINITY]);
        assert_eq!(sample.show(|value| value.to_string()), "3 (2 .. 4)");
        assert_eq!(Sample(vec![nothing, 7.0]).show(|value| value.to_string()), "7");
        assert_eq!(
            (Sample(vec![nothing]).median(), Sample(vec![nothing]).show_short()),
            (None, "-".to_owned())
        );
        // Of nothing and by nothing there is no ratio.
        let ratio = Sample(vec![0.0, 5.0, 6.0]).ratio(&Sample(vec![0.0, 0.0, 2.0]));
        assert_eq!(ratio.median(), Some(3.0));
    }

    #[test]
    fn a_ratio_compares_runs_that_were_made_side_by_side() {
        let ratio = Sample(vec![10.0, 200.0]).ratio(&Sample(vec![5.0, 100.0]));
        assert_eq!(ratio, Sample(vec![2.0, 2.0]));
    }
}
