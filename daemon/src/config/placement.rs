//! `[[cluster.placement]]`: which groups decide by another protocol than the cluster's, and which keys live in groups of
//! their own.
//!
//! Invariants of what is returned:
//! * Every group is named at most once, and exists. Entries are in the order of their first groups.
//! * No prefix is there twice, and some group takes the keys without a prefix.

use std::ops::RangeInclusive;

use panch_wire::routing::{PREFIX_COUNT_MAX, PREFIX_SIZE_MAX};

use super::reader::{Located, Notes, Reader};
use super::schema::{Placement, ProtocolKind};
use super::source::{Diagnostic, Item, Place, Value};

const EXAMPLE: &str = "[{ groups = \"2-3\", protocol = \"epaxos\" }]";
const GROUPS_HELP: &str = "write one group (`groups = 2`), a range with both its ends (`groups = \"0-3\"`), several \
                           (`groups = \"0-3,6\"`) or a list (`groups = [0, 1, 6]`); the first group is 0";

/// The most groups that a cluster has.
pub(super) const GROUP_COUNT_MAX: u64 = 1024;

/// One entry being read.
struct Row {
    groups: Vec<(u16, Place)>,
    protocol: Located<ProtocolKind>,
    prefixes: Vec<(String, Place)>,
    other_keys: bool,
}

/// Reads `placement`. Empty if anything in it is wrong.
pub(super) fn read(
    reader: &mut Reader<'_>,
    protocol: &Located<ProtocolKind>,
    groups: &Located<u64>,
    notes: &Notes,
) -> Vec<Placement> {
    let errors_before = reader.error_count();
    let Some(value) = reader.find("placement") else { return Vec::new() };
    let Item::Array(items) = &value.item else {
        let reason = format!("this is {}", value.item.describe());
        let help = format!("write each entry as a table `[[cluster.placement]]`, or `placement = {EXAMPLE}`");
        reader.refuse("placement", value, "must be a list of tables", reason, &help);
        return Vec::new();
    };
    let mut rows = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let name = format!("{}[{index}]", reader.full_name("placement"));
        let Some(mut row) = Reader::of(name, item, notes) else { continue };
        rows.extend(entry(&mut row, protocol.value, groups));
        row.finish(&[]);
    }
    check_groups(&rows, notes);
    check_prefixes(&rows, &value.place, notes);
    if reader.error_count() == errors_before {
        check_left_over(&rows, groups, notes);
    }
    if reader.error_count() > errors_before {
        return Vec::new();
    }
    let mut placements: Vec<Placement> = rows.into_iter().map(placement).collect();
    placements.sort_unstable_by_key(|placement| placement.groups.first().copied());
    placements
}

fn placement(row: Row) -> Placement {
    let mut groups: Vec<u16> = row.groups.into_iter().map(|(group, _)| group).collect();
    let mut prefixes: Vec<String> = row.prefixes.into_iter().map(|(prefix, _)| prefix).collect();
    groups.sort_unstable();
    prefixes.sort_unstable();
    Placement { groups, protocol: row.protocol.value, prefixes, other_keys: row.other_keys }
}

fn entry(reader: &mut Reader<'_>, default: ProtocolKind, count: &Located<u64>) -> Option<Row> {
    let groups = read_groups(reader, count);
    let has_protocol = reader.find("protocol").is_some();
    let protocol = reader.choice("protocol", ProtocolKind::ALL, default);
    let prefixes = read_prefixes(reader);
    let other_keys = reader.boolean("other_keys", false);
    let has_prefix = reader.find("prefix").is_some();
    if !has_protocol && !has_prefix && other_keys.place.is_none() {
        let title = format!("`{}` says nothing about its groups", reader.name());
        let diagnostic = Diagnostic::error(title).near(reader.place(), "neither a protocol nor a prefix");
        reader.note(diagnostic.help("add `protocol`, `prefix` or both, or remove the entry"));
    }
    if other_keys.place.is_some() && !has_prefix {
        let title = format!("`{}` needs a prefix", reader.full_name("other_keys"));
        let label = "groups without a prefix take all other keys anyway";
        reader.note(Diagnostic::error(title).near(other_keys.place.as_ref(), label).help("remove this line"));
    }
    Some(Row { groups: groups?, protocol, prefixes, other_keys: other_keys.value })
}

/// The groups of an entry, each with its place. `None` if something is wrong with them; it is noted.
fn read_groups(reader: &mut Reader<'_>, count: &Located<u64>) -> Option<Vec<(u16, Place)>> {
    let errors_before = reader.error_count();
    let Some(value) = reader.find("groups") else {
        let title = format!("`{}` is missing", reader.full_name("groups"));
        reader.note(Diagnostic::error(title).near(reader.place(), "in this table").help(GROUPS_HELP));
        return None;
    };
    let mut groups: Vec<(u16, Place)> = Vec::new();
    match &value.item {
        Item::Array(items) if items.is_empty() => {
            reader.refuse("groups", value, "is empty", "no group at all", GROUPS_HELP);
        }
        Item::Array(items) => items.iter().for_each(|item| add(reader, item, count, &mut groups)),
        _ => add(reader, value, count, &mut groups),
    }
    (reader.error_count() == errors_before).then_some(groups)
}

fn add(reader: &Reader<'_>, value: &Value, count: &Located<u64>, groups: &mut Vec<(u16, Place)>) {
    let ranges = match &value.item {
        Item::Integer(group) => u64::try_from(*group).ok().map(|group| vec![group..=group]),
        Item::String(text) => text.split(',').map(|part| range(part.trim())).collect(),
        other => {
            let reason = format!("this is {}", other.describe());
            return reader.refuse("groups", value, "cannot be understood", reason, GROUPS_HELP);
        }
    };
    let Some(ranges) = ranges else {
        return reader.refuse("groups", value, "cannot be understood", "these are no groups", GROUPS_HELP);
    };
    for range in ranges {
        // An unsound count is a stand-in: only what no cluster has is refused then.
        let limit = if count.sound { count.value } else { GROUP_COUNT_MAX };
        if *range.end() >= limit {
            let title = format!("`{}` names a group that does not exist", reader.full_name("groups"));
            let label = format!("there is no group {}", range.end());
            let place = count.place.as_ref().filter(|_| count.sound);
            let diagnostic = Diagnostic::error(title).at(value.place.clone(), label);
            let known = match limit {
                1 => "the only group is 0".to_owned(),
                _ => format!("groups are 0 to {}", limit - 1),
            };
            let help = format!("{known}; `cluster.groups` says how many there are");
            return reader.note(diagnostic.with(place, "how many there are").help(help));
        }
        for group in range {
            if groups.iter().any(|(other, _)| u64::from(*other) == group) {
                return reader.refuse("groups", value, &format!("names group {group} twice"), "again", "");
            }
            groups.push((group as u16, value.place.clone()));
        }
    }
}

/// `2` or `0-3`.
fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let number = |text: &str| {
        let text = text.trim();
        // `parse` would take a sign.
        if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse::<u64>().ok() } else { None }
    };
    match text.split_once('-') {
        None => number(text).map(|group| group..=group),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(first..=last)
        }
    }
}

fn read_prefixes(reader: &mut Reader<'_>) -> Vec<(String, Place)> {
    const HELP: &str = "for example `prefix = \"user:\"`, or several: `prefix = [\"user:\", \"order:\"]`";
    let Some(value) = reader.find("prefix") else { return Vec::new() };
    let items = match &value.item {
        Item::Array(items) if items.is_empty() => {
            reader.refuse("prefix", value, "is empty", "no prefix at all", HELP);
            return Vec::new();
        }
        Item::Array(items) => items.as_slice(),
        _ => std::slice::from_ref(value),
    };
    let mut prefixes = Vec::new();
    for item in items {
        match &item.item {
            Item::String(text) if text.is_empty() => {
                let help = "keys without a prefix live in the groups that no entry with a prefix names, and in those \
                            with `other_keys = true`";
                reader.refuse("prefix", item, "is empty", "every key starts with nothing", help);
            }
            Item::String(text) if text.len() > PREFIX_SIZE_MAX => {
                let reason = format!("{} bytes; at most {PREFIX_SIZE_MAX} are possible", text.len());
                reader.refuse("prefix", item, "is too long", reason, "");
            }
            Item::String(text) => prefixes.push((text.clone(), item.place.clone())),
            other => {
                let reason = format!("this is {}", other.describe());
                reader.refuse("prefix", item, "must be a text in quotes", reason, HELP);
            }
        }
    }
    prefixes
}

fn check_groups(rows: &[Row], notes: &Notes) {
    for (index, row) in rows.iter().enumerate() {
        let first = row.groups.iter().find_map(|(group, place)| {
            let mut earlier = rows[..index].iter().flat_map(|row| &row.groups);
            Some((group, place, earlier.find(|(other, _)| other == group)?))
        });
        if let Some((group, place, (_, earlier))) = first {
            let title = format!("group {group} is in two entries of `cluster.placement`");
            let diagnostic =
                Diagnostic::error(title).at(place.clone(), "again").with(Some(earlier), "first here");
            notes
                .push(diagnostic.help("put everything about a group into one entry; `prefix` may be a list"));
        }
    }
}

fn check_prefixes(rows: &[Row], list: &Place, notes: &Notes) {
    let all: Vec<&(String, Place)> = rows.iter().flat_map(|row| &row.prefixes).collect();
    if all.len() > PREFIX_COUNT_MAX {
        let title = "`cluster.placement` has too many prefixes";
        let label = format!("{} prefixes; at most {PREFIX_COUNT_MAX} are possible", all.len());
        notes.push(Diagnostic::error(title).at(list.clone(), label));
        return;
    }
    for (index, (prefix, place)) in all.iter().enumerate() {
        if let Some((_, earlier)) = all[..index].iter().find(|(other, _)| other == prefix) {
            let title = format!("the prefix {prefix:?} is in `cluster.placement` twice");
            let diagnostic =
                Diagnostic::error(title).at(place.clone(), "again").with(Some(earlier), "first here");
            notes.push(diagnostic.help("name all groups of a prefix in one entry"));
        }
    }
}

/// Keys without a prefix must have a group.
fn check_left_over(rows: &[Row], count: &Located<u64>, notes: &Notes) {
    let mut kept = rows.iter().filter(|row| !row.prefixes.is_empty() && !row.other_keys);
    let kept_count = kept.clone().map(|row| row.groups.len() as u64).sum::<u64>();
    if !count.sound || kept_count < count.value {
        return;
    }
    let place = kept.next_back().and_then(|row| row.groups.first()).map(|(_, place)| place);
    let title = "no group is left for keys without a prefix";
    let label = format!("with this, all {kept_count} groups are kept for prefixes");
    let label =
        if kept_count == 1 { "with this, the only group is kept for prefixes".to_owned() } else { label };
    let diagnostic =
        Diagnostic::error(title).near(place, label).with(count.place.as_ref(), "how many there are");
    notes.push(diagnostic.help("add a group, or let an entry take other keys too with `other_keys = true`"));
}
