//! Quantities as people write them: `64KiB`, `1MiB`, `50us`, `10ms`, `30s`. The command line and the config share them.
//!
//! Invariant: what [`Display`](fmt::Display) writes, [`FromStr`] reads back to the same quantity.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes. Written with a unit: `B`, `KiB`, `MiB`, `GiB`, `TiB`; a bare `0` needs none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// A span of time, to the nanosecond. Written with a unit: `ns`, `us`, `ms`, `s`, `min`, `h`; a bare `0` needs none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Period(pub Duration);

/// Why a text is not a quantity. The text says what would work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct QuantityFault(String);

const SIZE_UNITS: &[(&str, u64)] =
    &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const PERIOD_UNITS: &[(&str, u64)] = &[
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

const SIZE_HINT: &str = "write a number and one of B, KiB, MiB, GiB, TiB, for example 64KiB";
const PERIOD_HINT: &str = "write a number and one of ns, us, ms, s, min, h, for example 10ms";

impl FromStr for Size {
    type Err = QuantityFault;
    fn from_str(text: &str) -> Result<Self, QuantityFault> {
        let (digits, unit) = split(text, SIZE_HINT)?;
        let scale = match unit {
            "" => None,
            // The decimal units are refused, not guessed at: 64KB has meant both 64 000 and 65 536 bytes.
            "K" | "k" | "KB" | "kB" | "kb" | "Ki" => return Err(meant(digits, unit, "KiB")),
            "M" | "m" | "MB" | "mb" | "Mi" => return Err(meant(digits, unit, "MiB")),
            "G" | "g" | "GB" | "gb" | "Gi" => return Err(meant(digits, unit, "GiB")),
            "T" | "t" | "TB" | "tb" | "Ti" => return Err(meant(digits, unit, "TiB")),
            _ => Some(scale_of(unit, SIZE_UNITS, SIZE_HINT)?),
        };
        Ok(Size(scaled(digits, scale, SIZE_HINT)?))
    }
}

impl FromStr for Period {
    type Err = QuantityFault;
    fn from_str(text: &str) -> Result<Self, QuantityFault> {
        let (digits, unit) = split(text, PERIOD_HINT)?;
        let scale = match unit {
            "" => None,
            "\u{b5}s" | "\u{3bc}s" => Some(1_000),
            "m" => {
                return Err(QuantityFault(format!(
                    "`{text}` could mean minutes or milliseconds; {PERIOD_HINT}"
                )));
            }
            _ => Some(scale_of(unit, PERIOD_UNITS, PERIOD_HINT)?),
        };
        Ok(Period(Duration::from_nanos(scaled(digits, scale, PERIOD_HINT)?)))
    }
}

fn split<'a>(text: &'a str, hint: &str) -> Result<(&'a str, &'a str), QuantityFault> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(text.len());
    let (digits, unit) = (&text[..end], text[end..].trim_start());
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(QuantityFault(format!("`{text}` does not start with a whole number; {hint}")));
    }
    if unit.starts_with('.') {
        return Err(QuantityFault(format!("`{text}` has a fraction; use a smaller unit instead: {hint}")));
    }
    Ok((digits, unit))
}

fn meant(digits: &str, unit: &str, right: &str) -> QuantityFault {
    QuantityFault(format!("`{unit}` is ambiguous; write {digits}{right}, a power of 1024"))
}

fn scale_of(unit: &str, units: &[(&str, u64)], hint: &str) -> Result<u64, QuantityFault> {
    let exact = units.iter().find(|(name, _)| *name == unit);
    let any_case = || units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
    let found = exact.or_else(any_case);
    found.map(|(_, scale)| *scale).ok_or_else(|| QuantityFault(format!("`{unit}` is not a unit; {hint}")))
}

fn scaled(digits: &str, scale: Option<u64>, hint: &str) -> Result<u64, QuantityFault> {
    let too_large = || QuantityFault(format!("{digits} of this unit is more than can be counted"));
    let number = digits.replace('_', "").parse::<u64>().map_err(|_| too_large())?;
    match scale {
        Some(scale) => number.checked_mul(scale).ok_or_else(too_large),
        None if number == 0 => Ok(0),
        None => Err(QuantityFault(format!("`{digits}` has no unit; {hint}"))),
    }
}

fn write(f: &mut fmt::Formatter<'_>, number: u64, units: &[(&str, u64)], zero: &str) -> fmt::Result {
    match units.iter().find(|(_, scale)| number != 0 && number.is_multiple_of(*scale)) {
        Some((unit, scale)) => write!(f, "{}{unit}", number / scale),
        None => f.write_str(zero),
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, SIZE_UNITS, "0B")
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX), PERIOD_UNITS, "0us")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_and_print_as_they_are_read() {
        let cases = [
            ("0", 0, "0B"),
            ("64KiB", 65_536, "64KiB"),
            ("1 MiB", 1 << 20, "1MiB"),
            ("1025B", 1025, "1025B"),
        ];
        for (text, bytes, printed) in cases {
            let size = text.parse::<Size>().unwrap();
            assert_eq!((size, size.to_string().as_str()), (Size(bytes), printed), "{text}");
            assert_eq!(printed.parse::<Size>().unwrap(), size);
        }
        assert_eq!("1_024kib".parse(), Ok(Size(1 << 20)));
    }

    #[test]
    fn ambiguous_or_missing_units_are_refused_with_the_spelling_that_works() {
        for (text, part) in [
            ("64KB", "64KiB"),
            ("1M", "1MiB"),
            ("64", "no unit"),
            ("-1KiB", "whole number"),
            ("1.5MiB", "fraction"),
            ("", "whole number"),
            ("7 parsecs", "not a unit"),
            ("99999999999999999999B", "more than"),
            ("18446744073709551615KiB", "more than"),
        ] {
            let text_of_fault = text.parse::<Size>().unwrap_err().to_string();
            assert!(text_of_fault.contains(part), "{text}: {text_of_fault}");
        }
        assert!("5m".parse::<Period>().unwrap_err().to_string().contains("minutes or milliseconds"));
        assert!("100".parse::<Period>().is_err());
    }

    #[test]
    fn periods_print_in_the_largest_unit_that_is_exact() {
        for (text, nanos, printed) in [
            ("0us", 0, "0us"),
            ("50us", 50_000, "50us"),
            ("50\u{b5}s", 50_000, "50us"),
            ("1500ms", 1_500_000_000, "1500ms"),
            ("120s", 120_000_000_000, "2min"),
            ("36h", 129_600_000_000_000, "36h"),
            ("7ns", 7, "7ns"),
        ] {
            let period = text.parse::<Period>().unwrap();
            assert_eq!((period.0.as_nanos(), period.to_string().as_str()), (nanos, printed), "{text}");
            assert_eq!(printed.parse::<Period>().unwrap(), period);
        }
    }
}
