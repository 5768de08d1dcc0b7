//! Reports for programs: the same numbers as the table's, in nanoseconds and plain units.
//!
//! Invariants:
//! * A report's field `schema` names its layout; fields are added without changing it, never renamed or removed.
//! * What is read back from what was written is equal to it. Fields that are not known here are passed over, and those that are missing,
//!   because an older version wrote the report, are not known.
//! * What is not known is `null`. JSON has neither infinity nor NaN, and both would mean that.

use serde::Serialize;

/// A report as one JSON object, with a line end.
///
/// # Panics
/// Never: every key of a report is a text.
pub fn render(report: &impl Serialize) -> String {
    serde_json::to_string(report).expect("every key of a report is a text") + "\n"
}

/// `number`, unless nothing is known by it.
pub(crate) fn finite(number: Option<f64>) -> Option<f64> {
    number.filter(|number| number.is_finite())
}

/// Pairs of name and value as an object that keeps their order.
pub(crate) mod pairs {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::{MapAccess, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer, V: Serialize>(
        pairs: &[(String, V)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<Vec<(String, V)>, D::Error> {
        struct Pairs<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Pairs<V> {
            type Value = Vec<(String, V)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = members.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }

        deserializer.deserialize_map(Pairs(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(PartialEq, Debug, Serialize, Deserialize)]
    struct Pairs(#[serde(with = "super::pairs")] Vec<(String, Option<f64>)>);

    #[test]
    fn pairs_keep_their_order_and_unknown_numbers_are_null() {
        let pairs = Pairs(vec![("z \"".to_owned(), Some(1.5)), ("a".to_owned(), None)]);
        let text = super::render(&pairs);
        assert_eq!(text, "{\"z \\\"\":1.5,\"a\":null}\n");
        assert_eq!(serde_json::from_str::<Pairs>(&text).unwrap(), pairs);
        assert_eq!(super::render(&[super::finite(Some(f64::NAN)), super::finite(Some(2.0))]), "[null,2.0]\n");
    }
}
