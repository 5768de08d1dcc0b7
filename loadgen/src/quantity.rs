//! Quantities as people write them on the command line: `10s`, `200k`, `64KiB`.
//!
//! Sizes and durations follow the daemon's config: powers of 1024 only, and no unit that could mean two things. Counts and
//! rates are decimal: `k`, `M`, `G`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes: `16`, `64KiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// A span of time: `10s`, `500ms`, `50us`. A unit is required, except for `0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Period(pub Duration);

/// A number of things, or of things per second: `1000`, `200k`, `1.5M`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Count(pub u64);

/// Why a text is not a quantity; the text says what would work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct QuantityFault(String);

const SIZE_UNITS: &[(&str, u64)] = &[("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
const SIZE_HINT: &str = "write a number of bytes, or a number and one of KiB, MiB, GiB, for example 64KiB";
const PERIOD_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];
const PERIOD_HINT: &str = "write a number and one of ns, us, ms, s, min, h, for example 10s";
const COUNT_UNITS: &[(&str, u64)] =
    &[("", 1), ("k", 1_000), ("K", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];
const COUNT_HINT: &str = "write a number, optionally with k, M or G, for example 200k";

/// Reads a decimal number with up to nine digits after the point, times the scale of its unit. Exact: no floating point.
fn parse(text: &str, units: &[(&str, u64)], hint: &str) -> Result<u64, QuantityFault> {
    let fault = |what: &str| QuantityFault(format!("`{text}` {what}; {hint}"));
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(trimmed.len());
    let (number, unit) = (trimmed[..end].replace('_', ""), trimmed[end..].trim());
    if number == "0" && unit.is_empty() {
        return Ok(0);
    }
    let scale = units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    let Some(scale) = scale else {
        return Err(fault(if unit.is_empty() { "has no unit" } else { "has a unit that is not known here" }));
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(fault("is not a number"));
    }
    let too_large = || fault("is more than can be counted");
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let denominator = 10u128.pow(fraction.len() as u32);
    let numerator: u128 = format!("0{fraction}").parse().map_err(|_| too_large())?;
    let total = whole
        .checked_mul(denominator)
        .and_then(|whole| whole.checked_add(numerator))
        .and_then(|value| value.checked_mul(u128::from(scale)))
        .ok_or_else(too_large)?;
    if total % denominator != 0 {
        return Err(fault("has more digits than its unit can hold"));
    }
    u64::try_from(total / denominator).map_err(|_| too_large())
}

impl FromStr for Size {
    type Err = QuantityFault;
    fn from_str(text: &str) -> Result<Self, QuantityFault> {
        parse(text, SIZE_UNITS, SIZE_HINT).map(Size)
    }
}

impl FromStr for Period {
    type Err = QuantityFault;
    fn from_str(text: &str) -> Result<Self, QuantityFault> {
        parse(text, PERIOD_UNITS, PERIOD_HINT).map(|nanos| Period(Duration::from_nanos(nanos)))
    }
}

impl FromStr for Count {
    type Err = QuantityFault;
    fn from_str(text: &str) -> Result<Self, QuantityFault> {
        parse(text, COUNT_UNITS, COUNT_HINT).map(Count)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZE_UNITS[2..].iter().rev().find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale)) {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        match PERIOD_UNITS
            .iter()
            .rev()
            .find(|(_, scale)| nanos != 0 && nanos.is_multiple_of(u128::from(*scale)))
        {
            Some((unit, scale)) => write!(f, "{}{unit}", nanos / u128::from(*scale)),
            None => f.write_str("0s"),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match [("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)]
            .iter()
            .find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale))
        {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

/// `number` in at most four significant digits and a decimal unit, for tables: `183.2 k`, `1.204 M`.
pub fn short(number: f64) -> String {
    let (scaled, unit) = match number {
        n if n >= 1e9 => (n / 1e9, " G"),
        n if n >= 1e6 => (n / 1e6, " M"),
        n if n >= 1e4 => (n / 1e3, " k"),
        n => (n, ""),
    };
    let decimals = match scaled {
        n if n >= 1000.0 => 0,
        n if n >= 100.0 => usize::from(!unit.is_empty()),
        n if n >= 10.0 => 1,
        n if n >= 1.0 => 2,
        0.0 => 0,
        n if n >= 0.1 => 3,
        _ => 4,
    };
    format!("{scaled:.decimals$}{unit}")
}

/// A latency of `nanos` nanoseconds, for tables: `83.2 us`, `1.25 ms`.
pub fn latency(nanos: u64) -> String {
    let (scaled, unit) = match nanos {
        n if n >= 1_000_000_000 => (n as f64 / 1e9, "s"),
        n if n >= 1_000_000 => (n as f64 / 1e6, "ms"),
        n => (n as f64 / 1e3, "us"),
    };
    let decimals = if scaled >= 100.0 {
        0
    } else if scaled >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_people_write_them_and_print_so_that_they_read_back() {
        for (text, nanos, printed) in [
            ("10s", 10_000_000_000, "10s"),
            ("1.5s", 1_500_000_000, "1500ms"),
            ("50us", 50_000, "50us"),
            ("2min", 120_000_000_000, "2min"),
            ("0", 0, "0s"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!((period.0.as_nanos(), period.to_string().as_str()), (nanos, printed));
            assert_eq!(printed.parse(), Ok(period));
        }
        for (text, count, printed) in
            [("200k", 200_000, "200k"), ("1.5M", 1_500_000, "1500k"), ("1_001", 1001, "1001"), ("0", 0, "0")]
        {
            let read: Count = text.parse().unwrap();
            assert_eq!((read, read.to_string().as_str()), (Count(count), printed));
            assert_eq!(printed.parse(), Ok(read));
        }
        for (text, bytes, printed) in
            [("16", 16, "16"), ("64KiB", 65536, "64KiB"), ("1 MiB", 1 << 20, "1MiB")]
        {
            let read: Size = text.parse().unwrap();
            assert_eq!((read, read.to_string().as_str()), (Size(bytes), printed));
            assert_eq!(printed.parse(), Ok(read));
        }
    }

    #[test]
    fn what_could_mean_two_things_or_nothing_is_refused() {
        for text in ["10", "5m", "1.0000000001s", "s", "-1s", "1.2.3s", "99999999999999999999s", "0.5ns"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
        for text in ["64KB", "64k", "", "0.3"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["1.0001k", "k", "200x", "20000000000G"] {
            assert!(text.parse::<Count>().is_err(), "{text}");
        }
    }

    #[test]
    fn tables_show_at_most_four_significant_digits() {
        for (number, text) in [
            (0.0, "0"),
            (0.456, "0.456"),
            (0.0213, "0.0213"),
            (12.34, "12.3"),
            (183_246.0, "183.2 k"),
            (1_204_000.0, "1.20 M"),
            (9_999.4, "9999"),
        ] {
            assert_eq!(short(number), text);
        }
        for (nanos, text) in
            [(83_249, "83.2 us"), (1_250_000, "1.25 ms"), (512, "0.51 us"), (2_000_000_000, "2.00 s")]
        {
            assert_eq!(latency(nanos), text);
        }
    }
}
