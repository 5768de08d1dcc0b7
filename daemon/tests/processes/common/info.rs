//! What a node says of itself with INFO.

use std::collections::BTreeMap;

/// The lines of INFO by their names.
#[derive(Clone, Debug, Default)]
pub struct Info(BTreeMap<String, String>);

/// One group as its node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupInfo {
    /// The node that leads, from 1.
    pub leader: Option<usize>,
    pub committed: u64,
    pub executed: u64,
    pub last: u64,
    pub leading: bool,
    pub digest: String,
    pub keys: u64,
}

impl Info {
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Self(lines.map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    /// The text of a line.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("INFO has no {name}: {:?}", self.0))
    }

    /// A line as a number.
    pub fn number(&self, name: &str) -> u64 {
        let text = self.text(name);
        text.parse().unwrap_or_else(|_| panic!("INFO {name} is no number: {text}"))
    }

    /// A group's line.
    pub fn group(&self, group: usize) -> GroupInfo {
        let line = self.text(&format!("group_{group}"));
        let fields: BTreeMap<&str, &str> =
            line.split(',').filter_map(|field| field.split_once('=')).collect();
        let field = |name: &str| *fields.get(name).unwrap_or_else(|| panic!("no {name} in {line}"));
        let number = |name: &str| field(name).parse().unwrap_or_else(|_| panic!("{name} in {line}"));
        GroupInfo {
            leader: field("leader").parse().ok(),
            committed: number("committed"),
            executed: number("executed"),
            last: number("last"),
            leading: number("leading") == 1,
            digest: field("digest").to_string(),
            keys: number("keys"),
        }
    }
}
