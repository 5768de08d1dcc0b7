//! What is noted of what clients saw.

use super::command::unpad;
use super::{Clients, Intent, OwnedCommand, Part, Task};
use crate::invariant::Invariants;
use crate::invariant::exactly_once::ExactlyOnce;
use crate::linear::register::{Answer, Bytes};
use crate::linear::store::ManyAction;
use crate::queue::Time;

/// A command of a session is always answered alike.
pub(super) fn check_session(command: &OwnedCommand, answer: &Answer, invariants: &mut Invariants) {
    if let Some(header) = command.session
        && !command.is_session_control()
    {
        let result = invariants.exactly_once.on_answer(header.session, header.number, answer);
        invariants.note("exactly_once", result);
    }
}

impl Clients {
    /// What is open of a task may take effect at any time, or have done so, or never.
    pub(super) fn record_unknown(&mut self, task: &Task) {
        for part in task.open_parts() {
            match part.intent.clone().filter(|intent| !intent.is_read()).map(Intent::trimmed) {
                Some(Intent::One(action)) => {
                    self.history.push(&part.command.key, task.invoked, None, action, None);
                }
                Some(Intent::Many(action)) => self.history.push_many(task.invoked, None, action, None),
                None => {}
            }
        }
    }

    /// A command was answered.
    pub(super) fn record(
        &mut self,
        now: Time,
        index: usize,
        invoked: Time,
        part: &Part,
        answer: Answer,
        invariants: &mut Invariants,
    ) {
        let Some(intent) = part.intent.clone() else { return };
        let key = &part.command.key;
        let padding = self.settings.padding;
        let mut text_of = |value: Option<Bytes>| {
            let text = unpad(value.as_ref()?, padding);
            if text.is_none() {
                let value = value.unwrap_or_default();
                let text = format!("{}: nobody wrote {}", key.escape_ascii(), value.escape_ascii());
                invariants.note("value", Err(text));
            }
            text
        };
        let client = &mut self.list[index];
        let answer = match answer {
            Answer::Value(value) => {
                let text = text_of(value);
                if let Some(text) = &text {
                    if key.starts_with(b"l") {
                        invariants.note("exactly_once", ExactlyOnce::check_list(key, text));
                    }
                    client.seen = text.clone();
                }
                Answer::Value(text)
            }
            Answer::Values(values) => {
                let texts: Vec<_> = values.into_iter().map(text_of).collect();
                if let Intent::Many(ManyAction::Read(keys)) = &intent {
                    client.family = keys.iter().cloned().zip(texts.iter().cloned()).collect();
                }
                Answer::Values(texts)
            }
            other => other,
        };
        match intent.trimmed() {
            Intent::One(action) => self.history.push(key, invoked, Some(now), action, Some(answer)),
            Intent::Many(action) => self.history.push_many(invoked, Some(now), action, Some(answer)),
        }
    }
}
