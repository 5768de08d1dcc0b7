//! Where values come from: the texts of the config file and of `--set` flags, as one tree whose every key and value
//! remembers its place; and the report that shows those places to a person.
//!
//! Invariants:
//! * A [`Place`] always lies inside the text of its source, so a caret can be drawn.
//! * An override replaces exactly the leaf that it names: tables are merged, everything else is replaced.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes `span` of the text of source `source`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    /// Index into the sources; 0 is the file.
    pub(super) source: usize,
    start: usize,
    end: usize,
}

/// A TOML value of the kinds that the config uses.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Item {
    Table(Table),
    Array(Vec<Value>),
    String(String),
    Integer(i128),
    Boolean(bool),
    /// A float or a date: no key takes one.
    Other(&'static str),
}

impl Item {
    /// What this is, in words.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Item::Table(_) => "a table",
            Item::Array(_) => "a list",
            Item::String(_) => "a text",
            Item::Integer(_) => "a number",
            Item::Boolean(_) => "a truth value",
            Item::Other(name) => name,
        }
    }
}

/// A value and where it stands.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Value {
    pub(super) item: Item,
    pub(super) place: Place,
}

/// A key with its value.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) key: Place,
    pub(super) value: Value,
}

/// The entries of a TOML table; names are unique.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Table(Vec<Entry>);

impl Table {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.0
    }

    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.name == name)
    }

    fn merge(&mut self, other: Table) {
        for new in other.0 {
            let Some(old) = self.0.iter_mut().find(|entry| entry.name == new.name) else {
                self.0.push(new);
                continue;
            };
            match (&mut old.value.item, new.value.item) {
                (Item::Table(old), Item::Table(new)) => old.merge(new),
                (_, item) => {
                    old.key = new.key;
                    old.value = Value { item, place: new.value.place };
                }
            }
        }
    }
}

/// One text that values were read from.
#[derive(Clone, Debug)]
struct Source {
    /// How it is called in messages: the file's path, or `--set`.
    name: String,
    text: String,
}

/// The file and the flags, in the order in which later ones win.
#[derive(Clone, Debug)]
pub(super) struct Sources(Vec<Source>);

impl Sources {
    /// `overrides` are the texts of the `--set` flags, each `key=value`.
    pub(super) fn new(path: &Path, text: &str, overrides: &[String]) -> Self {
        let file = Source { name: path.display().to_string(), text: text.to_owned() };
        let flags = overrides.iter().map(|text| Source { name: "--set".to_owned(), text: text.clone() });
        Self(std::iter::once(file).chain(flags).collect())
    }

    /// The merged tree, or every syntax error.
    pub(super) fn parse(&self) -> Result<Table, Vec<Diagnostic>> {
        let mut tree = Table::default();
        let mut faults = Vec::new();
        for (index, source) in self.0.iter().enumerate() {
            let is_flag = index > 0;
            let text = if is_flag { quoted(&source.text) } else { None };
            let (root, errors) = DeTable::parse_recoverable(text.as_deref().unwrap_or(&source.text));
            // Where a flag's bare word was quoted, the two quotes are not in the text that is shown: every place is cut to it.
            let place = |span: Range<usize>| {
                let length = source.text.len();
                Place { source: index, start: span.start.min(length), end: span.end.min(length) }
            };
            let mut reported_line = None;
            for error in &errors {
                // What follows on the same line is the parser finding its feet, not another mistake.
                let at = place(error.span().unwrap_or(0..0));
                let line = source.text.as_bytes()[..at.start].iter().filter(|byte| **byte == b'\n').count();
                if reported_line.replace(line) == Some(line) {
                    continue;
                }
                let help = if is_flag {
                    "write `--set table.key=value`, for example `--set cluster.groups=4`"
                } else {
                    ""
                };
                faults.push(Diagnostic::error("this is not valid TOML").at(at, error.message()).help(help));
            }
            if errors.is_empty() {
                tree.merge(convert(root.into_inner(), &place));
            }
        }
        if faults.is_empty() { Ok(tree) } else { Err(faults) }
    }
}

/// `key=word` as `key="word"`, so that a shell user need not quote twice; `None` if the value is TOML already.
fn quoted(text: &str) -> Option<String> {
    let (key, value) = text.split_once('=')?;
    let is_word =
        !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:".contains(c));
    let is_toml = DeValue::parse(value).is_ok();
    (is_word && !is_toml).then(|| format!("{key}=\"{value}\""))
}

fn convert(table: DeTable<'_>, place: &impl Fn(Range<usize>) -> Place) -> Table {
    let entry = |(key, value): (Spanned<_>, Spanned<DeValue<'_>>)| Entry {
        key: place(key.span()),
        name: <std::borrow::Cow<'_, str>>::into_owned(key.into_inner()),
        value: convert_value(value, place),
    };
    Table(table.into_iter().map(entry).collect())
}

fn convert_value(value: Spanned<DeValue<'_>>, place: &impl Fn(Range<usize>) -> Place) -> Value {
    let at = place(value.span());
    let item = match value.into_inner() {
        DeValue::Table(table) => Item::Table(convert(table, place)),
        DeValue::Array(array) => {
            Item::Array(array.into_iter().map(|item| convert_value(item, place)).collect())
        }
        DeValue::String(text) => Item::String(text.into_owned()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Item::Integer(number),
            Err(_) => Item::Other("a number too large to read"),
        },
        DeValue::Boolean(boolean) => Item::Boolean(boolean),
        DeValue::Float(_) => Item::Other("a number with a fraction"),
        DeValue::Datetime(_) => Item::Other("a date or time"),
    };
    Value { item, place: at }
}

/// Whether a diagnostic stops the node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Severity {
    Error,
    Warning,
}

/// One thing to tell: what is wrong, where, and what would work.
#[derive(Clone, Debug)]
pub(super) struct Diagnostic {
    pub(super) severity: Severity,
    title: String,
    place: Option<Place>,
    label: String,
    context: Option<(Place, String)>,
    help: String,
}

impl Diagnostic {
    pub(super) fn error(title: impl Into<String>) -> Self {
        let severity = Severity::Error;
        Self {
            severity,
            title: title.into(),
            place: None,
            label: String::new(),
            context: None,
            help: String::new(),
        }
    }

    pub(super) fn warning(title: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(title) }
    }

    /// Puts the caret under `place`, with `label` beside it.
    pub(super) fn at(mut self, place: Place, label: impl Into<String>) -> Self {
        (self.place, self.label) = (Some(place), label.into());
        self
    }

    /// Like [`Diagnostic::at`], for a value that may be a default and stand nowhere: then the title has to say it all.
    pub(super) fn near(self, place: Option<&Place>, label: impl Into<String>) -> Self {
        match place {
            Some(place) => self.at(place.clone(), label),
            None => self,
        }
    }

    /// Marks a second place that matters.
    pub(super) fn with(mut self, place: Option<&Place>, label: impl Into<String>) -> Self {
        self.context = place.map(|place| (place.clone(), label.into()));
        self
    }

    /// What would work; nothing if empty.
    pub(super) fn help(mut self, text: impl Into<String>) -> Self {
        self.help = text.into();
        self
    }
}

/// Everything found in one set of sources, in the order of the text.
#[derive(Clone, Debug)]
pub struct Report {
    sources: Sources,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    pub(super) fn new(sources: Sources, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by(|a, b| (a.severity, &a.place).cmp(&(b.severity, &b.place)));
        Self { sources, diagnostics }
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// How many errors there are; the rest are warnings.
    pub fn error_count(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    /// The text for a person, in colour for a terminal. Ends with a newline unless empty.
    pub fn render(&self, is_terminal: bool) -> String {
        let renderer = if is_terminal { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            text.push_str(&renderer.render(&[self.group(diagnostic)]));
            text.push_str("\n\n");
        }
        text
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(diagnostic.title.as_str());
        let mut group = match &diagnostic.place {
            None => title.element(Origin::path(self.sources.0[0].name.as_str())),
            Some(place) => {
                let mut snippet = self.snippet(place).annotation(
                    AnnotationKind::Primary.span(place.start..place.end).label(diagnostic.label.as_str()),
                );
                let mut elsewhere = None;
                if let Some((other, label)) = &diagnostic.context {
                    let annotation =
                        AnnotationKind::Context.span(other.start..other.end).label(label.as_str());
                    if other.source == place.source {
                        snippet = snippet.annotation(annotation);
                    } else {
                        elsewhere = Some(self.snippet(other).annotation(annotation));
                    }
                }
                let group = title.element(snippet);
                if let Some(snippet) = elsewhere { group.element(snippet) } else { group }
            }
        };
        if !diagnostic.help.is_empty() {
            group = group.element(Level::HELP.message(diagnostic.help.as_str()));
        }
        group
    }

    fn snippet<'a>(&'a self, place: &Place) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let source = &self.sources.0[place.source];
        Snippet::source(source.text.as_str()).path(source.name.as_str())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Report {}
