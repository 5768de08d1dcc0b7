//! Takes values out of the tree, one key at a time, and notes everything that is wrong with them.
//!
//! Invariants:
//! * Reading never stops: a bad value is reported and stands in as its default, marked unsound.
//! * A key is known because some line of code asked for it; there is no second list of keys to keep in step.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::source::{Diagnostic, Item, Place, Severity, Table, Value};
use super::units::{Period, Size};

/// What was noticed so far.
#[derive(Default)]
pub(super) struct Notes {
    diagnostics: RefCell<Vec<Diagnostic>>,
    defaulted: RefCell<BTreeSet<String>>,
}

impl Notes {
    pub(super) fn push(&self, diagnostic: Diagnostic) {
        self.diagnostics.borrow_mut().push(diagnostic);
    }

    /// The diagnostics, and the full names of the keys that took their defaults.
    pub(super) fn into_parts(self) -> (Vec<Diagnostic>, BTreeSet<String>) {
        (self.diagnostics.into_inner(), self.defaulted.into_inner())
    }
}

/// A value and the place it was read from; no place if it is a default.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Option<Place>,
    /// False if the text was wrong and this is only a stand-in: checks against other keys would mislead.
    pub(super) sound: bool,
}

impl<T> Located<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Located<U> {
        Located { value: change(self.value), place: self.place, sound: self.sound }
    }
}

/// One table being read.
pub(super) struct Reader<'a> {
    /// Full name, empty for the root.
    name: String,
    table: &'a Table,
    place: Option<Place>,
    notes: &'a Notes,
    asked: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn root(table: &'a Table, notes: &'a Notes) -> Self {
        Self { name: String::new(), table, place: None, notes, asked: Vec::new() }
    }

    /// A reader for a value that should be a table, as the members are.
    pub(super) fn of(name: String, value: &'a Value, notes: &'a Notes) -> Option<Self> {
        match &value.item {
            Item::Table(table) => {
                Some(Self { name, table, place: Some(value.place.clone()), notes, asked: Vec::new() })
            }
            other => {
                let title = format!("`{name}` must be a table");
                notes.push(
                    Diagnostic::error(title).at(value.place.clone(), format!("this is {}", other.describe())),
                );
                None
            }
        }
    }

    /// The table called `key`; reports it if it is missing.
    pub(super) fn table(&mut self, key: &'static str, purpose: &str) -> Option<Reader<'a>> {
        match self.find(key) {
            Some(value) => Reader::of(self.full_name(key), value, self.notes),
            None => {
                let title = format!("the table `[{key}]` is missing");
                self.notes.push(Diagnostic::error(title).help(format!("add `[{key}]`: {purpose}")));
                None
            }
        }
    }

    pub(super) fn full_name(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    pub(super) fn find(&mut self, key: &'static str) -> Option<&'a Value> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.table.find(key).map(|entry| &entry.value)
    }

    /// Reports a value that cannot be used. `reason` is the label at the caret.
    pub(super) fn refuse(
        &self,
        key: &str,
        value: &Value,
        problem: &str,
        reason: impl Into<String>,
        help: &str,
    ) {
        let title = format!("`{}` {problem}", self.full_name(key));
        self.notes.push(Diagnostic::error(title).at(value.place.clone(), reason).help(help));
    }

    pub(super) fn note(&self, diagnostic: Diagnostic) {
        self.notes.push(diagnostic);
    }

    /// Errors noted so far, in every table.
    pub(super) fn error_count(&self) -> usize {
        let diagnostics = self.notes.diagnostics.borrow();
        diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    fn defaulted<T>(&self, key: &str, value: T) -> Located<T> {
        self.notes.defaulted.borrow_mut().insert(self.full_name(key));
        Located { value, place: None, sound: true }
    }

    fn sound<T>(value: T, place: &Place) -> Located<T> {
        Located { value, place: Some(place.clone()), sound: true }
    }

    fn unsound<T>(value: T, place: &Place) -> Located<T> {
        Located { value, place: Some(place.clone()), sound: false }
    }

    /// A value that has no default: reported if missing.
    fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        stand_in: T,
        read: impl FnOnce(&Self, &'a Value) -> Option<T>,
    ) -> Located<T> {
        let Some(value) = self.find(key) else {
            let title = format!("`{}` is missing", self.full_name(key));
            let diagnostic = Diagnostic::error(title).near(self.place.as_ref(), "in this table");
            self.notes.push(diagnostic.help(format!("add a line such as `{key} = {example}`")));
            return Located { value: stand_in, place: None, sound: false };
        };
        match read(self, value) {
            Some(read) => Self::sound(read, &value.place),
            None => Self::unsound(stand_in, &value.place),
        }
    }

    fn string(&self, key: &str, value: &'a Value, example: &str) -> Option<&'a str> {
        match &value.item {
            Item::String(text) => Some(text),
            other => {
                let reason = format!("this is {}", other.describe());
                self.refuse(
                    key,
                    value,
                    "must be a text in quotes",
                    reason,
                    &format!("for example `{key} = {example}`"),
                );
                None
            }
        }
    }

    /// A text that `FromStr` understands.
    fn parsed<T: FromStr<Err: Display>>(&self, key: &str, value: &'a Value, example: &str) -> Option<T> {
        let text = self.string(key, value, example)?;
        match text.parse() {
            Ok(parsed) => Some(parsed),
            Err(fault) => {
                let text = fault.to_string();
                let (reason, help) = text.split_once("; ").unwrap_or((&text, ""));
                self.refuse(key, value, "cannot be understood", reason, help);
                None
            }
        }
    }

    pub(super) fn required_text(&mut self, key: &'static str, example: &str) -> Located<String> {
        self.required(key, example, String::new(), |this, value| {
            this.string(key, value, example).map(str::to_owned)
        })
    }

    pub(super) fn required_value<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        example: &str,
        stand_in: T,
    ) -> Located<T> {
        self.required(key, example, stand_in, |this, value| this.parsed(key, value, example))
    }

    pub(super) fn required_number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        example: &str,
    ) -> Located<u64> {
        let stand_in = *range.start();
        self.required(key, example, stand_in, |this, value| this.whole(key, value, &range))
    }

    pub(super) fn text(&mut self, key: &'static str, default: &str, example: &str) -> Located<String> {
        match self.find(key) {
            None => self.defaulted(key, default.to_owned()),
            Some(value) => match self.string(key, value, example) {
                Some(text) => Self::sound(text.to_owned(), &value.place),
                None => Self::unsound(default.to_owned(), &value.place),
            },
        }
    }

    /// A text that `FromStr` understands, if the key is present.
    pub(super) fn optional_value<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<Located<Option<T>>> {
        let value = self.find(key)?;
        Some(match self.parsed(key, value, example) {
            Some(parsed) => Self::sound(Some(parsed), &value.place),
            None => Self::unsound(None, &value.place),
        })
    }

    /// Marks `key` as not written in the config: its value is derived.
    pub(super) fn note_default(&self, key: &str) {
        self.notes.defaulted.borrow_mut().insert(self.full_name(key));
    }

    fn whole(&self, key: &str, value: &Value, range: &RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("must be a whole number from {} to {}", range.start(), range.end());
        match &value.item {
            Item::Integer(number) => {
                if let Some(number) = u64::try_from(*number).ok().filter(|number| range.contains(number)) {
                    return Some(number);
                }
                self.refuse(key, value, "is out of range", expected, "");
            }
            other => self.refuse(key, value, &expected, format!("this is {}", other.describe()), ""),
        }
        None
    }

    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Located<u64> {
        match self.find(key) {
            None => self.defaulted(key, default),
            Some(value) => match self.whole(key, value, &range) {
                Some(number) => Self::sound(number, &value.place),
                None => Self::unsound(default, &value.place),
            },
        }
    }

    /// A quantity within `range`; every one of them is written as a text with a unit.
    fn quantity<T: FromStr<Err: Display> + Display + PartialOrd>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
        default: T,
    ) -> Located<T> {
        let Some(value) = self.find(key) else { return self.defaulted(key, default) };
        let example = format!("\"{default}\"");
        match self.parsed::<T>(key, value, &example) {
            None => Self::unsound(default, &value.place),
            Some(parsed) if range.contains(&parsed) => Self::sound(parsed, &value.place),
            Some(_) => {
                let reason = format!("must be from {} to {}", range.start(), range.end());
                self.refuse(key, value, "is out of range", reason, "");
                Self::unsound(default, &value.place)
            }
        }
    }

    pub(super) fn size(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Located<u64> {
        self.quantity(key, Size(*range.start())..=Size(*range.end()), Size(default)).map(|size| size.0)
    }

    pub(super) fn period(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Located<Duration> {
        self.quantity(key, Period(*range.start())..=Period(*range.end()), Period(default))
            .map(|period| period.0)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> Located<bool> {
        let Some(value) = self.find(key) else { return self.defaulted(key, default) };
        match &value.item {
            Item::Boolean(written) => Self::sound(*written, &value.place),
            other => {
                let reason = format!("this is {}", other.describe());
                self.refuse(key, value, "must be true or false", reason, "");
                Self::unsound(default, &value.place)
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: FromStr<Err = String> + Display + Copy>(
        &mut self,
        key: &'static str,
        all: &[T],
        default: T,
    ) -> Located<T> {
        let Some(value) = self.find(key) else { return self.defaulted(key, default) };
        let unsound = Self::unsound(default, &value.place);
        let Some(text) = self.string(key, value, &format!("\"{default}\"")) else { return unsound };
        match text.parse() {
            Ok(choice) => Self::sound(choice, &value.place),
            Err(choices) => {
                let words: Vec<String> = all.iter().map(T::to_string).collect();
                let help = match nearest(text, words.iter().map(String::as_str)) {
                    Some(word) => format!("did you mean \"{word}\"?"),
                    None => String::new(),
                };
                self.refuse(key, value, "is not one of the choices", choices, &help);
                unsound
            }
        }
    }

    /// Reports every entry that nobody asked for. `elsewhere` are other tables and the keys that belong there.
    pub(super) fn finish(self, elsewhere: &[(&str, &[&'static str])]) {
        for entry in self.table.entries() {
            if self.asked.contains(&entry.name.as_str()) {
                continue;
            }
            let other = || {
                elsewhere
                    .iter()
                    .find_map(|(table, keys)| Some((table, nearest(&entry.name, keys.iter().copied())?)))
            };
            let help = match nearest(&entry.name, self.asked.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => match other() {
                    Some((table, known)) => format!("`{known}` belongs in `[{table}]`"),
                    None => format!("known keys here: {}", self.asked.join(", ")),
                },
            };
            let title = format!("`{}` is not a known key", self.full_name(&entry.name));
            self.notes.push(Diagnostic::error(title).at(entry.key.clone(), "unknown").help(help));
        }
    }

    /// The keys asked for so far.
    pub(super) fn asked(&self) -> &[&'static str] {
        &self.asked
    }
}

/// The known word that `word` is most likely a misspelling of.
fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    // No key is this long, and the work grows with the length.
    if word.len() > 64 {
        return None;
    }
    let limit = (word.chars().count() / 3).max(1);
    let normal = word.to_ascii_lowercase().replace('-', "_");
    let distances = known.map(|candidate| (distance(&normal, &candidate.replace('-', "_")), candidate));
    distances.filter(|(distance, _)| *distance <= limit).min().map(|(_, candidate)| candidate)
}

/// Fewest insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut fewest = substituted.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    fewest = fewest.min(rows[i - 2][j - 2] + 1);
                }
                fewest
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_its_neighbour_and_a_foreign_word_finds_none() {
        let known = ["batch_commands", "pipeline_depth", "linger"];
        let nearest = |word| nearest(word, known.iter().copied());
        assert_eq!(nearest("batch_comands"), Some("batch_commands"));
        assert_eq!(nearest("batch-commands"), Some("batch_commands"));
        assert_eq!(nearest("lingre"), Some("linger"));
        assert_eq!(nearest("colour"), None);
        assert_eq!(distance("ab", "ba"), 1);
    }

    /// The distance table is the product of the two lengths, and one of them is foreign text.
    #[test]
    fn a_long_foreign_key_costs_little() {
        assert_eq!(nearest(&"x".repeat(10_000), ["linger"].into_iter()), None);
    }
}
