//! Where a key lives: key -> group, for a whole cluster.
//!
//! Part of the data format, and the only such function: nodes that disagreed about it would lose keys. Rules:
//! * The longest configured prefix that the whole key starts with decides; hash tags play no part in that.
//! * A key with a prefix lives in one of the groups of that prefix, any other key in one of the general groups. Which one
//!   of them, its slot says: the slots are dealt to those groups in contiguous ranges, as [`slots`](crate::slots) does.
//! * So keys with the same hash tag share a group if the same prefix, or none, decides for both.
//!
//! Without prefixes that is slot -> group over all groups. No lookup allocates.

use std::fmt;

use crate::command::Command;
use crate::ids::GroupId;
use crate::slots::{SLOT_COUNT, group_of, key_slot, slot_range};

/// The longest prefix, in bytes.
pub const PREFIX_SIZE_MAX: usize = 128;
/// The most prefixes.
pub const PREFIX_COUNT_MAX: usize = 1024;

/// Which group every key lives in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Routing {
    group_count: u16,
    /// Groups of keys without a prefix, ascending; never empty.
    general: Vec<GroupId>,
    /// In the order of their prefixes; no prefix is there twice.
    prefixes: Vec<Prefix>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Prefix {
    text: Box<[u8]>,
    /// Ascending, never empty.
    groups: Vec<GroupId>,
    /// The longest other prefix that this one starts with.
    parent: Option<usize>,
}

/// Why there is no such routing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RoutingFault {
    /// 1 to [`SLOT_COUNT`] groups are possible.
    #[error("the number of groups is out of range")]
    GroupCount,
    /// A group beyond the number of groups.
    #[error("a group that does not exist")]
    UnknownGroup,
    /// Keys that would have no group.
    #[error("a list of groups is empty")]
    NoGroups,
    /// A prefix that is empty, too long, or there twice; or too many of them.
    #[error("the prefixes cannot be used")]
    Prefixes,
}

impl Routing {
    /// All keys spread over all groups.
    ///
    /// # Panics
    /// If `group_count` is out of range: there are 1 to [`SLOT_COUNT`] groups.
    pub fn even(group_count: u16) -> Self {
        Self::new(group_count, (0..group_count).map(GroupId).collect(), Vec::new())
            .expect("the caller keeps to the number of groups")
    }

    /// Keys that start with a prefix live in its groups, others in `general`. The order of the lists does not matter.
    ///
    /// # Errors
    /// See [`RoutingFault`].
    pub fn new(
        group_count: u16,
        general: Vec<GroupId>,
        prefixes: Vec<(Box<[u8]>, Vec<GroupId>)>,
    ) -> Result<Self, RoutingFault> {
        if !(1..=SLOT_COUNT).contains(&group_count) {
            return Err(RoutingFault::GroupCount);
        }
        let settle = |mut groups: Vec<GroupId>| {
            groups.sort_unstable();
            groups.dedup();
            match groups.last() {
                None => Err(RoutingFault::NoGroups),
                Some(last) if last.0 >= group_count => Err(RoutingFault::UnknownGroup),
                Some(_) => Ok(groups),
            }
        };
        let general = settle(general)?;
        let mut settled: Vec<Prefix> = Vec::with_capacity(prefixes.len());
        for (text, groups) in prefixes {
            if text.is_empty() || text.len() > PREFIX_SIZE_MAX {
                return Err(RoutingFault::Prefixes);
            }
            settled.push(Prefix { text, groups: settle(groups)?, parent: None });
        }
        settled.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        if settled.len() > PREFIX_COUNT_MAX || settled.windows(2).any(|pair| pair[0].text == pair[1].text) {
            return Err(RoutingFault::Prefixes);
        }
        for index in 1..settled.len() {
            // Whatever a prefix starts with stands before it, and is its neighbour or starts that one too.
            let mut parent = Some(index - 1);
            while let Some(candidate) = parent
                && !settled[index].text.starts_with(&settled[candidate].text)
            {
                parent = settled[candidate].parent;
            }
            settled[index].parent = parent;
        }
        Ok(Self { group_count, general, prefixes: settled })
    }

    /// How many groups there are.
    pub fn group_count(&self) -> u16 {
        self.group_count
    }

    /// Whether some keys have groups of their own.
    pub fn has_prefixes(&self) -> bool {
        !self.prefixes.is_empty()
    }

    /// The group that owns `key`.
    pub fn group_of_key(&self, key: &[u8]) -> GroupId {
        match self.groups_of(key) {
            [only] => *only,
            groups => groups[group_of(key_slot(key), groups.len() as u16).index()],
        }
    }

    /// The group that owns every key of `command`; `None` if the keys live in different groups
    /// ([`CommandError::CrossSlot`](crate::command::CommandError::CrossSlot)).
    pub fn group_of_command(&self, command: &Command<'_>) -> Option<GroupId> {
        let group = self.group_of_key(command.key);
        let same = self.group_count == 1
            || !command.kind.has_many_keys()
            || command.keys().all(|(key, _)| self.group_of_key(key) == group);
        same.then_some(group)
    }

    /// What Redis Cluster's slots can say of this: for each general group its first and last slot, ascending and without a
    /// gap. Keys with a prefix are not in it: slots cannot express them.
    pub fn slot_ranges(&self) -> impl Iterator<Item = (GroupId, u16, u16)> {
        let count = self.general.len() as u16;
        self.general.iter().enumerate().map(move |(index, group)| {
            let slots = slot_range(GroupId(index as u16), count);
            (*group, slots.start, slots.end - 1)
        })
    }

    /// The groups among which the slot of `key` decides.
    fn groups_of(&self, key: &[u8]) -> &[GroupId] {
        if self.prefixes.is_empty() {
            return &self.general;
        }
        // Everything between a prefix of the key and the key itself starts with that prefix: so if any prefix fits, the
        // last one that is not behind the key fits, or starts with the one that does.
        let behind = self.prefixes.partition_point(|prefix| *prefix.text <= *key);
        let mut candidate = behind.checked_sub(1);
        while let Some(index) = candidate {
            let prefix = &self.prefixes[index];
            if key.starts_with(&prefix.text) {
                return &prefix.groups;
            }
            candidate = prefix.parent;
        }
        &self.general
    }
}

/// One line that says everything, the same for equal routings: `* 0-3; "user:" 4,6`. Kept in data directories.
impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "* {}", Groups(&self.general))?;
        for prefix in &self.prefixes {
            write!(f, "; \"{}\" {}", prefix.text.escape_ascii(), Groups(&prefix.groups))?;
        }
        Ok(())
    }
}

/// Ascending numbers with commas, ranges shortened: `0-3,8`.
struct Groups<'a>(&'a [GroupId]);

impl fmt::Display for Groups<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.0.chunk_by(|a, b| a.0 + 1 == b.0).enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match run {
                [first, .., last] => write!(f, "{comma}{}-{}", first.0, last.0)?,
                [only] => write!(f, "{comma}{}", only.0)?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
