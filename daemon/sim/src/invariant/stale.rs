//! A stale read shows what its node has executed, and a process never goes back: what was replaced at a key does not come back.
//! That it was there at some moment before is for the check of the history.

use std::collections::{BTreeMap, BTreeSet};

use panch_wire::command::{Command, CommandKind, list};

use crate::client::Outcome;
use crate::linear::register::{Answer, Bytes};

/// What was shown of a key.
#[derive(Debug, Default)]
struct Shown {
    last: Option<Bytes>,
    replaced: BTreeSet<Bytes>,
}

/// What every process has shown.
#[derive(Debug, Default)]
pub struct Stale(BTreeMap<(usize, u64, Vec<u8>), Shown>);

impl Stale {
    /// A process, named by its node and its number there, has answered a stale read.
    ///
    /// # Errors
    /// If it shows a value that it has shown before another. No value is written twice, so that it is older.
    pub fn on_read(
        &mut self,
        (node, life): (usize, u64),
        command: &Command<'_>,
        outcome: &Outcome,
    ) -> Result<(), String> {
        let values = match outcome {
            Outcome::Answer(Answer::Value(value)) => std::slice::from_ref(value),
            Outcome::Answer(Answer::Values(values)) => values,
            _ => return Ok(()),
        };
        let one = (command.kind != CommandKind::MGet).then_some(command.key);
        let keys = one.into_iter().chain(list::items(if one.is_none() { command.value } else { &[] }));
        for (key, value) in keys.zip(values) {
            let shown = self.0.entry((node, life, key.to_vec())).or_default();
            if shown.last == *value {
                continue;
            }
            if value.as_ref().is_some_and(|value| shown.replaced.contains(value)) {
                let [value, last] = [value, &shown.last].map(|value| {
                    value.as_deref().map_or("nil".to_string(), |value| value.escape_ascii().to_string())
                });
                return Err(format!("node {node} key {}: {value} again, after {last}", key.escape_ascii()));
            }
            shown.replaced.extend(std::mem::replace(&mut shown.last, value.clone()));
        }
        Ok(())
    }
}
