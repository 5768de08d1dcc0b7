//! What several measurements of the same thing have in common: their median and their range, never their mean.
//!
//! Invariant: what a lower bound may have overtaken is a lower bound.

/// A number, or a lower bound of one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounded {
    /// The number, or the bound.
    pub value: f64,
    /// Whether it is a bound.
    pub is_bound: bool,
}

impl Bounded {
    /// This number.
    pub fn exact(value: f64) -> Self {
        Self { value, is_bound: false }
    }
}

/// Median, least and most of numbers. Of an even number of them, the median is the mean of the two in the middle.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The one in the middle.
    pub median: Bounded,
    /// The least.
    pub least: Bounded,
    /// The most.
    pub most: Bounded,
}

impl Spread {
    /// Of these numbers; `None` if there is none. Whoever is behind a lower bound may have any place from there on, so that whatever is not
    /// below the least bound is a bound itself, and what is below is exact.
    pub fn of(numbers: impl IntoIterator<Item = Bounded>) -> Option<Self> {
        let mut numbers: Vec<Bounded> = numbers.into_iter().collect();
        numbers.sort_by(|one, other| one.value.total_cmp(&other.value));
        let bounds = numbers.iter().filter(|number| number.is_bound).map(|number| number.value);
        let bounds_from = bounds.fold(f64::INFINITY, f64::min);
        let at = |index: usize| -> Option<Bounded> {
            let value = numbers.get(index)?.value;
            Some(Bounded { value, is_bound: value >= bounds_from })
        };
        let middle = numbers.len() / 2;
        let mut median = at(middle)?;
        if numbers.len().is_multiple_of(2) {
            median.value = f64::midpoint(numbers[middle - 1].value, median.value);
        }
        Some(Self { median, least: at(0)?, most: at(numbers.len() - 1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_that_a_bound_may_have_overtaken_is_a_bound() {
        let spread = |numbers: &[(f64, bool)]| {
            let of = numbers.iter().map(|(value, is_bound)| Bounded { value: *value, is_bound: *is_bound });
            Spread::of(of)
                .map(|spread| [spread.least, spread.median, spread.most].map(|it| (it.value, it.is_bound)))
        };
        let exact = |numbers: [f64; 3]| Some(numbers.map(|number| (number, false)));
        assert_eq!(spread(&[]), None);
        assert_eq!(
            spread(&[(3.0, false), (1.0, false), (2.0, false), (10.0, false)]),
            exact([1.0, 2.5, 10.0])
        );
        // The bound is behind the median wherever it really is.
        assert_eq!(
            spread(&[(1.0, false), (2.0, false), (3.0, true)]),
            Some([(1.0, false), (2.0, false), (3.0, true)])
        );
        // It may really be in the middle, or behind.
        assert_eq!(
            spread(&[(1.0, true), (2.0, false), (3.0, false)]),
            Some([(1.0, true), (2.0, true), (3.0, true)])
        );
        assert_eq!(spread(&[(1.0, false), (3.0, true)]), Some([(1.0, false), (2.0, true), (3.0, true)]));
    }
}
