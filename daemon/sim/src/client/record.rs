//! What is noted of what clients saw.

use super::command::unpad;
use super::{Clients, Intent, OwnedCommand, Part, Task};
use crate::invariant::Invariants;
use crate::invariant::exactly_once::ExactlyOnce;
use crate::linear::register::{Action, Answer, Bytes};
use crate::linear::store::ManyAction;
use crate::queue::Time;

/// When an operation took effect: between these, all of it at one moment or each key at one of its own.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    pub(super) invoked: Time,
    pub(super) returned: Time,
    pub(super) is_one: bool,
}

/// A command of a session is always answered alike.
pub(super) fn check_session(command: &OwnedCommand, answer: &Answer, invariants: &mut Invariants) {
    if let Some(header) = command.session
        && !command.is_session_control()
    {
        let result = invariants.exactly_once.on_answer(header.session, header.number, answer);
        invariants.note("exactly_once", result);
    }
}

/// An answer with the texts of its values.
fn texts(answer: Answer, text_of: &mut impl FnMut(Option<Bytes>) -> Option<Bytes>) -> Answer {
    match answer {
        Answer::Value(value) => Answer::Value(text_of(value)),
        Answer::Values(values) => Answer::Values(values.into_iter().map(text_of).collect()),
        Answer::Replies(answers) => {
            Answer::Replies(answers.into_iter().map(|answer| texts(answer, text_of)).collect())
        }
        other => other,
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
        index: usize,
        moments: Moments,
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
        let answer = texts(answer, &mut text_of);
        let client = &mut self.list[index];
        match &answer {
            Answer::Value(Some(text)) => {
                if key.starts_with(b"l") {
                    invariants.note("exactly_once", ExactlyOnce::check_list(key, text));
                }
                client.seen = text.clone();
            }
            Answer::Values(texts) => {
                if let Intent::Many(ManyAction::Read(keys)) = &intent {
                    client.family = keys.iter().cloned().zip(texts.iter().cloned()).collect();
                }
            }
            _ => {}
        }
        let Moments { invoked, returned, is_one } = moments;
        match (intent.trimmed(), answer) {
            (Intent::One(action), answer) => {
                self.history.push(key, invoked, Some(returned), action, Some(answer));
            }
            (Intent::Many(ManyAction::Read(keys)), Answer::Values(values)) if !is_one => {
                for (key, value) in keys.iter().zip(values) {
                    let answer = Answer::Value(value);
                    self.history.push(key, invoked, Some(returned), Action::Get, Some(answer));
                }
            }
            (Intent::Many(action), answer) => {
                self.history.push_many(invoked, Some(returned), action, Some(answer));
            }
        }
    }
}
