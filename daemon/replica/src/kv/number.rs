//! Integers as Redis stores them: decimal text in its one canonical form.

/// The longest decimal `i64`: `-9223372036854775808`.
const TEXT_SIZE_MAX: usize = 20;

/// The number that `text` denotes; `None` unless it is canonical (no sign but `-`, no leading zero, no space).
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text),
    };
    match digits {
        b"0" if !negative => return Some(0),
        [b'1'..=b'9', ..] if text.len() <= TEXT_SIZE_MAX => {}
        _ => return None,
    }
    // Summed as a negative number, because the smallest one has no positive counterpart.
    let mut sum = 0i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        sum = sum.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(sum) } else { sum.checked_neg() }
}

/// Decimal text of a number, on the stack.
pub(super) struct Text {
    bytes: [u8; TEXT_SIZE_MAX],
    start: usize,
}

impl Text {
    /// Writes `number`.
    pub(super) fn of(number: i64) -> Self {
        let mut text = Self { bytes: [0; TEXT_SIZE_MAX], start: TEXT_SIZE_MAX };
        let mut rest = number.unsigned_abs();
        loop {
            text.push_front(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            text.push_front(b'-');
        }
        text
    }

    fn push_front(&mut self, byte: u8) {
        self.start -= 1;
        self.bytes[self.start] = byte;
    }

    /// The text.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_number_are_one_to_one(number in any::<i64>()) {
            let text = Text::of(number);
            prop_assert_eq!(text.as_bytes().to_vec(), number.to_string().into_bytes());
            prop_assert_eq!(parse(text.as_bytes()), Some(number));
        }

        #[test]
        fn only_canonical_text_is_a_number(text in "[-+ 0-9]{0,22}") {
            let canonical = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
            prop_assert_eq!(parse(text.as_bytes()), canonical);
        }
    }

    #[test]
    fn edges() {
        for number in [0, 1, -1, 10, i64::MAX, i64::MIN] {
            assert_eq!(parse(Text::of(number).as_bytes()), Some(number));
        }
        let not_numbers =
            ["", "-", "-0", "+1", " 1", "1 ", "01", "1.0", "9223372036854775808", "-9223372036854775809"];
        for text in not_numbers {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
